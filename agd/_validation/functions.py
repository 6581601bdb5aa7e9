"""Checks of what passes between a minimiser and the user's functions: points, bounds, values, gradients.

Points are trees of arrays. `as_point` and `as_bounds` take the arguments of ``agd.minimize``, `as_value` and
`as_gradient` what the user's function returned at each evaluation.
"""

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
from agd._validation.scalars import as_count, invalid_values_text

__all__ = [
    "as_bool",
    "as_bounds",
    "as_gradient",
    "as_point",
    "as_residuals",
    "as_value",
    "check_point",
    "writable_copy",
    "write_counts",
]


def as_point(x0: Any, batch: int = 0, name: str = "x0") -> Tree:
    """Check a starting point and return it as a tree of floating arrays of one library and device.

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
    as_count("batch", batch, least=0)
    if x0 is None:
        raise ValueError(f"{name} is missing: got None, need an array or a tree of arrays")
    tree: Tree = x0 if _is_tree(x0) else as_array(name, x0)
    paths, leaves, spec = optree.tree_flatten_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} must hold at least one number, got {x0!r}")
    names = [name + "".join(f"[{key!r}]" for key in path) for path in paths]
    arrays = [_as_leaf(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
    _check_one_device(names, arrays)
    shape = tuple(arrays[0].shape)[:batch]
    for part, leaf in zip(names, arrays, strict=True):
        if leaf.ndim < batch or tuple(leaf.shape)[:batch] != shape:
            need = f"{batch} leading axes, those of the problems"
            first = f", as {names[0]} has {shape}" if leaf.ndim >= batch else ""
            raise ValueError(f"{part} must have {need}{first}; got shape {tuple(leaf.shape)}")
        if 0 in tuple(leaf.shape):
            raise ValueError(f"{part} must hold at least one number, got shape {tuple(leaf.shape)}")
    return optree.tree_unflatten(spec, arrays)


def writable_copy(tree: Tree) -> Tree:
    """Return a copy of a tree whose arrays can be written in place, and a tree of immutable arrays as it is."""
    if type(tree) is np.ndarray:  # without the way through a tree, which takes longer than the copy
        return tree.copy()
    leaves = optree.tree_leaves(tree)
    if not backends.of(leaves[0]).mutable:
        return tree
    xp = backends.namespace(leaves[0])
    return optree.tree_map(lambda x: xp.astype(x, x.dtype, copy=True), tree)


def write_counts(tree: Tree) -> list[int] | None:
    """Return how often each array of a tree was written to in place; None where a library does not count."""
    if type(tree) is np.ndarray:
        return None
    counts = [backends.of(x).write_count(x) for x in optree.tree_leaves(tree)]
    known = [count for count in counts if count is not None]
    return known if len(known) == len(counts) else None


def _is_tree(x0: Any) -> bool:
    """Return whether x0 is a container of arrays; nested lists of numbers count as one array."""
    if not isinstance(x0, (dict, list, tuple)):
        return False
    if isinstance(x0, dict) or hasattr(x0, "_fields"):
        return True
    tree: Any = x0
    leaves: list[Any] = optree.tree_leaves(tree, none_is_leaf=True)
    return any(isinstance(leaf, dict) or backends.is_array(leaf) for leaf in leaves)


def _as_leaf(name: str, leaf: Any) -> Array:
    x: Any = as_array(name, leaf)
    if not backends.is_array(x):
        x = np.asarray(x)
    return as_floating(name, x, backends.namespace(x), backends.device(x))


def _check_one_device(names: list[str], leaves: list[Array]) -> None:
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
    """Check bounds and return them as two trees with the structure and shapes of a point.

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
        low, high = _leaf_bounds(name, part, tuple(leaf.shape), batch, accepts_pair=not single)
        _check_leaf_bounds(name, low, high)
        lows.append(backends.to_device_of(low, leaf))
        highs.append(backends.to_device_of(high, leaf))
    return optree.tree_unflatten(spec, lows), optree.tree_unflatten(spec, highs)


def _leaf_bounds(
    name: str, part: Any, shape: tuple[int, ...], batch: int, *, accepts_pair: bool
) -> tuple[Any, Any]:
    """Read one leaf's bounds as two arrays of its shape; `accepts_pair` allows one pair for all entries."""
    open_ended = (-np.inf, np.inf)
    for names in (("lb", "ub"), ("low", "high")):
        if all(hasattr(part, attribute) for attribute in names):
            part = tuple(getattr(part, attribute) for attribute in names)
            return tuple(
                _as_bound(name, s, e, shape) for s, e in zip(part, open_ended, strict=True)
            )
    if part is None:
        part, accepts_pair = open_ended, True
    if (
        accepts_pair
        and isinstance(part, (tuple, list))
        and len(part) == 2
        and not _is_pair_sequence(part)
    ):
        return tuple(_as_bound(name, s, e, shape) for s, e in zip(part, open_ended, strict=True))
    if backends.is_array(part):
        part = backends.to_numpy(part)
    elif hasattr(part, "__next__"):  # an iterator such as zip(low, high)
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


def _is_pair_sequence(part: Any) -> bool:
    return all(isinstance(side, (tuple, list)) for side in part)


def _as_bound(name: str, side: Any, end: float, shape: tuple[int, ...]) -> Any:
    side = end if side is None else side
    host = backends.to_numpy(side) if backends.is_array(side) else np.asarray(side)
    if host.dtype.kind not in "fiu" and not isinstance(side, Real):
        raise TypeError(f"{name} must hold numbers, got {side!r}")
    try:
        return np.broadcast_to(host.astype(float), shape)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape}, that of x0; got {host.shape}") from None


def _bound_name(end: float) -> str:
    return "low" if end > 0.0 else "high"


def _check_leaf_bounds(name: str, low: Any, high: Any) -> None:
    for side in (low, high):
        bad = np.argwhere(np.isnan(side))
        if bad.size:
            raise ValueError(f"{name} must be numbers, got NaN at {tuple(map(int, bad[0]))}")
    for side, end in ((low, np.inf), (high, -np.inf)):
        bad = np.argwhere(side == end)
        if bad.size:
            at = tuple(map(int, bad[0]))
            raise ValueError(
                f"{name} must leave finite values, got {end!r} for {_bound_name(end)} at {at}"
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
        As returned by `as_bounds`.

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
        flags.append(_count_true(~xp.isfinite(leaf)))
        if sides:
            flags.append(_count_true((leaf < sides[0][i]) | (leaf > sides[1][i])))
    xp = backends.namespace(leaves[0])
    read = backends.to_numpy(xp.stack(flags))
    broken, outside = (read[::2], read[1::2]) if sides else (read, read[:0])
    for path, leaf, bad in zip(paths, leaves, broken, strict=True):
        if bad:
            host = backends.to_numpy(leaf)
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(host))[0])
            name = "x0" + "".join(f"[{key!r}]" for key in path)
            raise ValueError(
                invalid_values_text(name, int(bad), "NaN or infinite", at, float(host[at]))
            )
    return int(outside.sum())


def _count_true(mask: Array) -> Array:
    xp = backends.namespace(mask)
    return xp.sum(xp.astype(mask, xp.int32))


def as_value(value: Any, params: Tree, batch: int = 0) -> Array:
    """Bring what `fun` returned to the params' library, device and dtype, one number for each problem.

    Python and NumPy numbers are moved to the params' device; surplus axes of length 1 are dropped.

    Parameters
    ----------
    value : array or float
        The return value of `fun`.
    params : tree of arrays
        The argument that `fun` was called with.
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
    # What most functions return, at every evaluation, takes no look at a tree.
    is_double = type(value) is np.float64 or type(value) is float
    point: Any = params
    if is_double and type(point) is np.ndarray and not batch and point.dtype == np.float64:
        number: Any = np.asarray(value)
        array: Array = number
        return array
    leaves = optree.tree_leaves(params)
    like = leaves[0]
    xp, want = backends.namespace(like), tuple(like.shape)[:batch]
    result = _to_library_of("fun must return a real number", value, like, _widest_dtype(leaves))
    got = tuple(result.shape)
    if got == want:
        return result
    if got[: len(want)] == want and all(length == 1 for length in got[len(want) :]):
        return xp.reshape(result, want)
    need = f"an array of shape {want}, one number for each problem" if batch else "one number"
    hint = "" if batch else " (for independent problems along leading axes pass batch=1)"
    raise ValueError(f"fun must return {need}; got shape {got}{hint}")


def as_residuals(value: Any, point: Array, name: str = "residuals") -> Array:
    """Bring what a function of residuals returned to the library, device and dtype of the points, (b, ...).

    Parameters
    ----------
    value : array or list of numbers
        The return value, of a batch with its leading axis.
    point : array, shape (b, p)
        The points that it was called with.
    name : str
        What errors call the function.

    Returns
    -------
    array, any shape
        The residuals.

    Raises
    ------
    TypeError
        If they are not real, or of another library.

    Examples
    --------
    >>> as_residuals([1, 2], np.zeros((1, 3)))
    array([1., 2.])
    """
    return _to_library_of(f"{name} must return real numbers", value, point, point.dtype)


def as_gradient(grad: Any, params: Tree, name: str = "jac", verb: str = "return") -> Tree:
    """Bring what `jac` returned to the params' library, device and dtypes; check its shapes.

    Parameters
    ----------
    grad : tree of arrays
        The return value of `jac`; where the params are one array, it may be a list of numbers.
    params : tree of arrays
        The argument that `jac` was called with.
    name, verb : str
        How errors name it, and whether it must "return" the tree or "be" it.

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
    if (
        type(params) is type(grad) is np.ndarray
        and grad.shape == params.shape
        and grad.dtype == params.dtype
    ):
        return grad
    paths, leaves, spec = optree.tree_flatten_with_path(params)
    # Where the params are a single array, a list is not a tree but the numbers of its gradient.
    if len(leaves) == 1 and not paths[0]:
        parts = [grad]
    else:
        parts, structure = optree.tree_flatten(grad)
        if structure != spec:
            raise ValueError(f"{name} must {verb} a tree like x, {spec}; got {structure}")
    return optree.tree_unflatten(
        spec,
        [
            _as_leaf_gradient(f"{name} must {verb}", p, g, x)
            for p, g, x in zip(paths, parts, leaves, strict=True)
        ],
    )


def _as_leaf_gradient(must: str, path: tuple[Any, ...], grad: Any, x: Array) -> Array:
    where = "".join(f"[{key!r}]" for key in path)
    array = _to_library_of(f"{must} real numbers{where and f' in {where}'}", grad, x, x.dtype)
    if tuple(array.shape) == tuple(x.shape):
        return array
    need = f"{must} an array of shape {tuple(x.shape)}, that of x{where}"
    raise ValueError(f"{need}; got shape {tuple(array.shape)}")


def _widest_dtype(leaves: list[Array]) -> Any:
    """Return the widest of the leaves' dtypes."""
    kinds = list(dict.fromkeys(x.dtype for x in leaves))
    xp = backends.namespace(leaves[0])
    return functools.reduce(xp.result_type, kinds) if len(kinds) > 1 else kinds[0]


def _to_library_of(need: str, value: Any, like: Array, dtype: Any) -> Array:
    """Return `value` as a real array of `like`'s library; host data are moved to its device."""
    if type(value) is type(like) is np.ndarray and value.dtype == dtype:
        return value
    row, xp = backends.of(like), backends.namespace(like)
    if not backends.is_array(value):
        value = _as_host_array(need, value)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{need}; got dtype {value.dtype}")
        if not isinstance(like, (np.ndarray, np.generic)):
            value = value.astype(np.float64 if value.dtype.kind != "f" else value.dtype)
            return backends.to_device_of(value, like, dtype)
        value = np.asarray(value)  # a sum of a NumPy array is a scalar, not an array
    elif (theirs := backends.of(value).name) != row.name:
        raise TypeError(f"{need} in x's library, {row.name}; got an array of {theirs}")
    elif not row.compiles and backends.device(value) != backends.device(like):
        # In a library that compiles, "device" may describe a sharding, which may differ between arrays.
        raise ValueError(
            f"{need} on x's device, {backends.device(like)}; got an array on {backends.device(value)}"
        )
    if xp.isdtype(value.dtype, "complex floating"):
        raise TypeError(f"{need}; got dtype {value.dtype}")
    return xp.astype(value, dtype) if value.dtype != dtype else value


def _as_host_array(need: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{need}; got {'None' if value is None else type(value).__name__}")
    if isinstance(
        value, Real
    ):  # includes fractions and large integers, for which NumPy has no dtype
        try:
            return np.asarray(float(value))
        except OverflowError:
            raise ValueError(
                f"{need} within the range of float64; got {type(value).__name__} beyond it"
            ) from None
    if isinstance(value, (list, tuple)):
        try:
            return np.asarray(value)
        except (ValueError, TypeError):  # a ragged list, or arrays of another library
            pass
    raise TypeError(f"{need}; got {type(value).__name__}")


def as_bool(answer: Any) -> bool | None:
    """Return a bool of Python or NumPy, or a boolean array of shape (), as a Python bool; else None."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    if not backends.is_array(answer) or answer.ndim:
        return None
    is_bool = backends.namespace(answer).isdtype(answer.dtype, "bool")
    return bool(backends.to_numpy(answer)) if is_bool else None
