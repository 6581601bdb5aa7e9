"""What passes between a user's function and a minimiser: points, bounds, values and gradients."""

from __future__ import annotations

import functools
import math
from numbers import Real
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation.arrays import as_array, as_floating
from agd._validation.scalars import count, values

__all__ = ["as_bool", "as_bounds", "as_gradient", "as_point", "as_value", "check_point", "own"]


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


def as_value(value: Any, params: Tree, batch: int = 0) -> Array:
    """Bring what `fun` returned to the params' library, device and dtype, one number for each problem.

    Python floats and NumPy numbers are moved beside the params; axes of length 1 too many are dropped.

    Parameters
    ----------
    value : array or float
        What came back.
    params : tree of arrays
        What `fun` was called with.
    batch : int
        How many leading axes of the params number independent problems.

    Returns
    -------
    array, shape of the batch axes
        The value.

    Raises
    ------
    TypeError, ValueError
        If it is no real number, or not one for each problem.

    Examples
    --------
    >>> import numpy as np
    >>> as_value(2, np.zeros(3))
    array(2.)
    """
    leaves = optree.tree_leaves(params)
    like = leaves[0]
    xp, want = backends.namespace(like), tuple(like.shape)[:batch]
    value = _beside("fun must return a real number", value, like, _dtype(leaves))
    got = tuple(value.shape)
    if got == want:
        return value
    if got[: len(want)] == want and all(length == 1 for length in got[len(want) :]):
        return xp.reshape(value, want)
    need = f"an array of shape {want}, one number for each problem" if batch else "one number"
    hint = "" if batch else " (for independent problems along leading axes pass batch=1)"
    raise ValueError(f"fun must return {need}; got shape {got}{hint}")


def as_gradient(grad: Any, params: Tree, name: str = "jac", verb: str = "return") -> Tree:
    """Bring what `jac` returned to the params' library, device and dtypes; check its shapes.

    Parameters
    ----------
    grad : tree of arrays
        What came back. For params that are one array, also a list of numbers.
    params : tree of arrays
        What `jac` was called with.
    name, verb : str
        What errors call it, and whether it has to "return" the tree or to "be" it.

    Returns
    -------
    tree of arrays
        The gradient, in the structure and shapes of the params.

    Raises
    ------
    TypeError, ValueError
        If it has another structure, another shape, or is not real.

    Examples
    --------
    >>> import numpy as np
    >>> as_gradient([1, 2], np.zeros(2))
    array([1., 2.])
    >>> as_gradient(np.zeros(3), np.zeros(2))
    Traceback (most recent call last):
    ...
    ValueError: jac must return an array of shape (2,), that of x; got shape (3,)
    """
    paths, leaves, spec = optree.tree_flatten_with_path(params)
    if len(leaves) == 1 and not paths[0]:  # params are a single array: any list is its numbers
        found = [grad]
    else:
        found, given = optree.tree_flatten(grad)
        if given != spec:
            raise ValueError(f"{name} must {verb} a tree like x, {spec}; got {given}")
    return optree.tree_unflatten(
        spec,
        [
            _like(f"{name} must {verb}", p, g, x)
            for p, g, x in zip(paths, found, leaves, strict=True)
        ],
    )


def _like(must: str, path: tuple[Any, ...], grad: Any, x: Array) -> Array:
    where = "".join(f"[{key!r}]" for key in path)
    found = _beside(f"{must} real numbers{where and f' in {where}'}", grad, x, x.dtype)
    if tuple(found.shape) == tuple(x.shape):
        return found
    need = f"{must} an array of shape {tuple(x.shape)}, that of x{where}"
    raise ValueError(f"{need}; got shape {tuple(found.shape)}")


def _dtype(leaves: list[Array]) -> Any:
    """Return the widest of the leaves' dtypes."""
    kinds = list(dict.fromkeys(x.dtype for x in leaves))
    xp = backends.namespace(leaves[0])
    return functools.reduce(xp.result_type, kinds) if len(kinds) > 1 else kinds[0]


def _beside(need: str, value: Any, like: Array, dtype: Any) -> Array:
    """Return `value` as a real array of `like`'s library; host data are moved to its device."""
    row, xp = backends.of(like), backends.namespace(like)
    if not backends.is_array(value):
        value = _host(need, value)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{need}; got dtype {value.dtype}")
        if not isinstance(like, (np.ndarray, np.generic)):
            value = value.astype(np.float64 if value.dtype.kind != "f" else value.dtype)
            return row.convert(xp, value, dtype, backends.device(like))
        value = np.asarray(value)  # NumPy's sums are scalars
    elif (theirs := backends.of(value).name) != row.name:
        raise TypeError(f"{need} in x's library, {row.name}; got an array of {theirs}")
    elif not row.compiles and (there := backends.device(value)) != (here := backends.device(like)):
        # Where a library compiles, a device may be how an array is spread, which may differ.
        raise ValueError(f"{need} on x's device, {here}; got an array on {there}")
    if xp.isdtype(value.dtype, "complex floating"):
        raise TypeError(f"{need}; got dtype {value.dtype}")
    return xp.astype(value, dtype) if value.dtype != dtype else value


def _host(need: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{need}; got {'None' if value is None else type(value).__name__}")
    if isinstance(value, Real):  # also fractions and long integers, which NumPy has no dtype for
        return np.asarray(float(value))
    if isinstance(value, (list, tuple)):
        try:
            return np.asarray(value)
        except (ValueError, TypeError):  # ragged, or arrays of another library: named below
            pass
    raise TypeError(f"{need}; got {type(value).__name__}")


def as_bool(answer: Any) -> bool | None:
    """Return a bool of Python, of NumPy, or of shape () of any library, as Python's; None for what is none."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    if not backends.is_array(answer) or answer.ndim:
        return None
    is_bool = backends.namespace(answer).isdtype(answer.dtype, "bool")
    return bool(backends.to_numpy(answer)) if is_bool else None
