"""What the caller's functions return: a value for each problem, a gradient in the shape of x."""

from __future__ import annotations

import functools
from numbers import Real
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree

__all__ = ["as_bool", "as_gradient", "as_value"]


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
