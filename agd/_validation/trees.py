"""The first point of a minimisation, a tree of arrays, and the bounds on it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation.arrays import as_array, as_floating
from agd._validation.scalars import count, values

__all__ = ["as_bounds", "as_point", "check_point", "own"]


def as_point(x0: Any, batch: int = 0, name: str = "x0") -> Tree:
    """Take a first point as a tree of floating arrays of one library and device.

    Parameters
    ----------
    x0 : array, number, list of numbers, or tree of arrays
        A list or tuple of numbers is an array, as in SciPy; one that holds arrays is a tree.
    batch : int
        How many leading axes number independent problems; all leaves share them.
    name : str
        What errors call it.

    Returns
    -------
    tree of arrays
        The point; integers have become the library's default float.

    Raises
    ------
    TypeError
        For what is no number, and for arrays of two libraries.
    ValueError
        For arrays on two devices, no entries at all, and leading axes that differ.

    Examples
    --------
    >>> as_point([1, 2])
    array([1., 2.])
    """
    count("batch", batch, least=0)
    if x0 is None:
        raise ValueError(f"{name} is missing: got None, need an array or a tree of arrays")
    tree = x0 if _is_tree(x0) else as_array(name, x0)
    paths, leaves, spec = optree.tree_flatten_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} must hold at least one number, got {x0!r}")
    names = [name + "".join(f"[{key!r}]" for key in path) for path in paths]
    arrays = [_leaf(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
    _one_place(names, arrays)
    shape = tuple(arrays[0].shape)[:batch]
    for part, leaf in zip(names, arrays, strict=True):
        if leaf.ndim < batch or tuple(leaf.shape)[:batch] != shape:
            need = f"{batch} leading axes, those of the problems"
            same = f", as {names[0]} has {shape}" if leaf.ndim >= batch else ""
            raise ValueError(f"{part} must have {need}{same}; got shape {tuple(leaf.shape)}")
        if 0 in tuple(leaf.shape):
            raise ValueError(f"{part} must hold at least one number, got shape {tuple(leaf.shape)}")
    return optree.tree_unflatten(spec, arrays)


def own(tree: Tree) -> Tree:
    """Return a copy of a tree of arrays that can be written in place; one that cannot be, itself."""
    leaves = optree.tree_leaves(tree)
    if not backends.of(leaves[0]).in_place:
        return tree
    xp = backends.namespace(leaves[0])
    return optree.tree_map(lambda x: xp.astype(x, x.dtype, copy=True), tree)


def _is_tree(x0: Any) -> bool:
    """Return whether x0 is a container of arrays; nested lists of numbers are an array."""
    if not isinstance(x0, (dict, list, tuple)):
        return False
    if isinstance(x0, dict) or hasattr(x0, "_fields"):
        return True
    tree: Any = x0
    leaves: list[Any] = optree.tree_leaves(tree, none_is_leaf=True)
    return any(isinstance(leaf, dict) or backends.is_array(leaf) for leaf in leaves)


def _leaf(name: str, leaf: Any) -> Array:
    x = as_array(name, leaf)
    if not backends.is_array(x):
        x = np.asarray(x)
    return as_floating(name, x, backends.namespace(x), backends.device(x))


def _one_place(names: list[str], leaves: list[Array]) -> None:
    first = leaves[0]
    for name, leaf in zip(names[1:], leaves[1:], strict=True):
        ours, theirs = backends.of(first).name, backends.of(leaf).name
        if ours != theirs:
            raise TypeError(
                f"{name} is a {theirs} array and {names[0]} a {ours} array: use one library"
            )
        if backends.device(leaf) != backends.device(first):
            raise ValueError(
                f"{name} is on device {backends.device(leaf)} and {names[0]} on "
                f"{backends.device(first)}: put both on one device"
            )


def as_bounds(bounds: Any, x0: Tree, batch: int = 0) -> tuple[Tree, Tree]:
    """Take bounds as two trees in the structure of a point, shaped as its leaves.

    Parameters
    ----------
    bounds : sequence of pairs, object with lb and ub (or low and high), or tree of these
        For an array: a pair (low, high) for each entry (of one problem, where all of a batch share them),
        with None for a side that is open, or an object such as ``scipy.optimize.Bounds`` or
        ``agd.loss.Box``. For a tree: in its structure, one of these for each leaf, a single pair for all its entries, or None.
    x0 : tree of arrays
        The point.
    batch : int
        How many leading axes number independent problems.

    Returns
    -------
    tuple of two trees
        The lowest and the highest values.

    Raises
    ------
    TypeError, ValueError
        If the bounds do not fit the point, are NaN, or cross.

    Examples
    --------
    >>> import numpy as np
    >>> as_bounds([(0, None), (1, 2)], np.zeros(2))
    (array([0., 1.]), array([inf,  2.]))
    """
    paths, leaves, spec = optree.tree_flatten_with_path(x0)
    single = not paths[0]
    try:
        parts = [bounds] if single else spec.flatten_up_to(bounds)
    except (ValueError, TypeError):
        raise ValueError(f"bounds must have the structure of x0, {spec}; got {bounds!r}") from None
    lows: list[Any] = []
    highs: list[Any] = []
    for path, part, leaf in zip(paths, parts, leaves, strict=True):
        name = "bounds" + "".join(f"[{key!r}]" for key in path)
        low, high = _sides(name, part, tuple(leaf.shape), batch, whole=not single)
        _check_sides(name, low, high)
        for found, side in ((lows, low), (highs, high)):
            host = side.astype(str(leaf.dtype).rpartition(".")[2])
            xp, where = backends.namespace(leaf), backends.device(leaf)
            found.append(backends.of(leaf).convert(xp, host, leaf.dtype, where))
    return optree.tree_unflatten(spec, lows), optree.tree_unflatten(spec, highs)


def _sides(
    name: str, part: Any, shape: tuple[int, ...], batch: int, *, whole: bool
) -> tuple[Any, Any]:
    """Read one leaf's bounds as two arrays of its shape."""
    open_ended = (-np.inf, np.inf)
    for names in (("lb", "ub"), ("low", "high")):
        if all(hasattr(part, attribute) for attribute in names):
            part = tuple(getattr(part, attribute) for attribute in names)
            return tuple(_side(name, s, e, shape) for s, e in zip(part, open_ended, strict=True))
    if part is None:
        part, whole = open_ended, True
    if whole and isinstance(part, (tuple, list)) and len(part) == 2 and not _pairs(part):
        return tuple(_side(name, s, e, shape) for s, e in zip(part, open_ended, strict=True))
    if backends.is_array(part):
        part = backends.to_numpy(part)
    elif hasattr(part, "__next__"):  # zip(low, high)
        part = list(part)
    size, one = math.prod(shape), math.prod(shape[batch:])
    if not isinstance(part, (list, tuple, np.ndarray)) or len(part) not in {size, one}:
        got = f"{len(part)} of them" if isinstance(part, (list, tuple, np.ndarray)) else repr(part)
        raise ValueError(
            f"{name} must be a pair (low, high) for each of the {size} entries of x0, or an object with "
            f"lb and ub; got {got}"
        )
    try:
        pairs = [
            (-np.inf if low is None else float(low), np.inf if high is None else float(high))
            for low, high in part
        ]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold pairs of numbers or None, got {part!r}") from None
    inner = shape if len(part) == size else shape[batch:]
    low, high = (
        np.broadcast_to(np.reshape(np.asarray(side), inner), shape)
        for side in zip(*pairs, strict=True)
    )
    return low, high


def _pairs(part: Any) -> bool:
    return all(isinstance(side, (tuple, list)) for side in part)


def _side(name: str, side: Any, end: float, shape: tuple[int, ...]) -> Any:
    side = end if side is None else side
    host = backends.to_numpy(side) if backends.is_array(side) else np.asarray(side)
    if host.dtype.kind not in "fiu" and not isinstance(side, Real):
        raise TypeError(f"{name} must hold numbers, got {side!r}")
    try:
        return np.broadcast_to(host.astype(float), shape)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape}, that of x0; got {host.shape}") from None


def _word(end: float) -> str:
    return "low" if end > 0.0 else "high"


def _check_sides(name: str, low: Any, high: Any) -> None:
    for side in (low, high):
        bad = np.argwhere(np.isnan(side))
        if bad.size:
            raise ValueError(f"{name} must be numbers, got NaN at {tuple(map(int, bad[0]))}")
    for side, end in ((low, np.inf), (high, -np.inf)):
        bad = np.argwhere(side == end)
        if bad.size:
            at = tuple(map(int, bad[0]))
            raise ValueError(
                f"{name} must leave finite values, got {end!r} for {_word(end)} at {at}"
            )
    crossed = np.argwhere(low > high)
    if len(crossed):
        at = tuple(map(int, crossed[0]))
        raise ValueError(
            f"{name} cross in {len(crossed)} of {low.size} entries, the first at {at}: low "
            f"{float(low[at])!r} is above high {float(high[at])!r}"
        )


def check_point(x0: Tree, bounds: tuple[Tree, Tree] | None) -> int:
    """Refuse a point that is not finite, and count the entries outside the bounds, in one read.

    Parameters
    ----------
    x0 : tree of arrays
        The point.
    bounds : tuple of two trees, or None
        As `as_bounds` gives them.

    Returns
    -------
    int
        How many entries lie outside.

    Raises
    ------
    ValueError
        For entries that are NaN or infinite, with their number and the first position.
    """
    paths, leaves, _ = optree.tree_flatten_with_path(x0)
    sides = [optree.tree_leaves(side) for side in bounds] if bounds is not None else []
    flags = []
    for i, leaf in enumerate(leaves):
        xp = backends.namespace(leaf)
        flags.append(_number(~xp.isfinite(leaf)))
        if sides:
            flags.append(_number((leaf < sides[0][i]) | (leaf > sides[1][i])))
    xp = backends.namespace(leaves[0])
    read = backends.to_numpy(xp.stack(flags))
    broken, outside = (read[::2], read[1::2]) if sides else (read, read[:0])
    for path, leaf, bad in zip(paths, leaves, broken, strict=True):
        if bad:
            host = backends.to_numpy(leaf)
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(host))[0])
            name = "x0" + "".join(f"[{key!r}]" for key in path)
            raise ValueError(values(name, int(bad), "NaN or infinite", at, float(host[at])))
    return int(outside.sum())


def _number(mask: Array) -> Array:
    xp = backends.namespace(mask)
    return xp.sum(xp.astype(mask, xp.int32))
