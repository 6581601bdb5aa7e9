"""Finite differences over a tree of arrays: pure Array API, within bounds, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import optree

from agd import backends
from agd._typing import Array, Namespace, Tree
from agd._validation import (
    as_choice,
    as_gradient,
    as_point,
    as_value,
    writable_copy,
    write_counts,
)

__all__ = [
    "Analytic",
    "Autodiff",
    "Differences",
    "Gradient",
    "central",
    "choose_gradient",
    "difference",
    "difference_points",
    "difference_quotient",
    "grad",
    "value_and_grad",
]


def difference(
    fun: Callable[[Tree], Any],
    params: Tree,
    kind: str = "2-point",
    bounds: tuple[Tree, Tree] | None = None,
    batch: int = 0,
) -> tuple[Array, Tree]:
    r"""Return a function's value, and its gradient by finite differences.

    ::

        2-point:  g_j = (f(x + h_j e_j) - f(x)) / h_j,          h_j = ± eps^(1/2) max(1, |x_j|)
        3-point:  g_j = (f(x + h_j e_j) - f(x - h_j e_j)) / 2h_j,  h_j =   eps^(1/3) max(1, |x_j|)

    with eps the rounding of x's dtype, or of what f returns where that is coarser, and h_j the sign of
    x_j in the first. In float32 the 2-point formula knows 3 digits of the gradient. Steps are rounded so that
    x + h is exact. Near a bound the step shrinks with the
    distance to it, down to eps^(2/3) max(1, |x_j|). One that would leave the bounds turns round; where neither side has room it is shortened, and the 3-point formula takes both its points on the wider side, with weights that keep
    its order. A variable whose bounds are equal has the derivative 0.

    Parameters
    ----------
    fun : callable
        ``fun(params)``: a number, or for a batch an array of its shape.
    params : tree of arrays
        The point x.
    kind : {"2-point", "3-point"}
        The formula: one further call of `fun` for each coordinate, or two.
    bounds : tuple of two trees, optional
        The lowest and highest values that `fun` may be called with, each in the structure of the
        params, or one number for all; either may be None. The params lie within them.
    batch : int
        How many leading axes number independent problems. These are differentiated all at once.

    Returns
    -------
    value : array, shape of the batch axes
        f(x).
    grad : tree of arrays
        The gradient, in the structure of the params.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 8.1. The lengths of the steps are those
    that ``scipy.optimize.minimize`` takes.

    Examples
    --------
    >>> import numpy as np
    >>> value, grad = difference(lambda p: p["a"] ** 2 + 3 * p["b"], {"a": np.asarray(2.0), "b": np.asarray(1.0)},
    ...                          "3-point")
    >>> float(value), round(float(grad["a"]), 6), round(float(grad["b"]), 6)
    (7.0, 4.0, 3.0)
    """
    leaves, spec = optree.tree_flatten(params)
    returned = fun(params)
    value, coarse = as_value(returned, params, batch), _rounding_error(returned)
    low, high = (_step_limits(side, len(leaves)) for side in bounds or (None, None))
    grads = []
    for i, x in enumerate(leaves):

        def at(changed: Array, i: int = i) -> Array:
            point = optree.tree_unflatten(spec, [*leaves[:i], changed, *leaves[i + 1 :]])
            return as_value(fun(point), params, batch)

        with backends.device_context(x):
            eps = max(coarse, float(backends.namespace(x).finfo(x.dtype).eps))
            points = difference_points(x, eps, kind, low[i], high[i])
            grads.append(_difference_quotients(at, value, x, points, batch))
    return value, optree.tree_unflatten(spec, grads)


def _rounding_error(returned: Any) -> float:
    """Return the rounding of what a function returned, as far as that is an array of floats."""
    if not backends.is_array(returned):
        return 0.0
    xp = backends.namespace(returned)
    return (
        float(xp.finfo(returned.dtype).eps) if xp.isdtype(returned.dtype, "real floating") else 0.0
    )


def _step_limits(side: Tree, n: int) -> list[Any]:
    found = optree.tree_leaves(side)
    return found * n if len(found) == 1 else found or [None] * n


def difference_points(
    x: Array, eps: float, kind: str, low: Any = None, high: Any = None, least: Any = None
) -> tuple[Array, ...]:
    """Return where each coordinate is moved to: one array like x, or two.

    A step is a share of |x_j|, or of the entry of `least` where that is more, which is 1 by default.
    """
    xp = backends.namespace(x)
    one = xp.ones_like(x)
    sign = xp.where(x < 0.0, -one, one)
    # The steps at which the errors of rounding and of truncation are equal, but for a constant.
    power = 1.0 / 2.0 if kind == "2-point" else 1.0 / 3.0
    unit = xp.maximum(xp.abs(x), one if least is None else least)
    if low is None and high is None:
        h = eps**power * unit
        return (x + sign * h,) if kind == "2-point" else (x - h, x + h)
    up = math.inf * one if high is None else high - x
    down = math.inf * one if low is None else x - low
    # A function often changes faster the nearer it comes to a bound, as that of a rate or a variance does. At
    # the bound itself nothing is known of that, and in a step below eps^(2/3) the value's rounding shows.
    near, shortest = xp.minimum(up, down), eps ** (2.0 / 3.0) * unit
    shortened = xp.maximum(eps**power * xp.minimum(unit, near), shortest)
    h = xp.where(near > shortest, shortened, eps**power * unit)
    # Within bounds a step that does not fit on one side goes to the other, or becomes shorter.
    wide, narrow = xp.maximum(up, down), xp.minimum(up, down)
    outward = xp.where(up >= down, one, -one)  # towards the farther bound
    if kind == "2-point":
        room = xp.where(sign > 0.0, up, down)
        offsets = [xp.where(h <= room, sign * h, outward * xp.minimum(h, wide))]
    else:
        # One-sided points lie at h and 2 h, so that h is at most half of the room on that side.
        aside = xp.minimum(h, wide / 2.0)
        central = aside <= narrow
        h = xp.where(central, xp.minimum(h, narrow), aside)
        offsets = [xp.where(central, -h, outward * h), xp.where(central, h, outward * 2.0 * h)]
    return tuple(_within_bounds(xp, x + offset, low, high) for offset in offsets)


def _within_bounds(xp: Namespace, x: Array, low: Any, high: Any) -> Array:
    """Keep x + (high - x), which may round beyond high, within the bounds."""
    if low is not None:
        x = xp.maximum(x, xp.zeros_like(x) + low)
    return x if high is None else xp.minimum(x, xp.zeros_like(x) + high)


def _difference_quotients(
    at: Callable[[Array], Array], value: Array, x: Array, points: tuple[Array, ...], batch: int
) -> Array:
    """Difference one leaf, coordinate by coordinate."""
    xp, shape = backends.namespace(x), tuple(x.shape)
    n = math.prod(shape[batch:])
    if n == 0:
        return xp.zeros_like(x)
    order = xp.reshape(xp.arange(n, device=backends.device(x)), shape[batch:])
    value = xp.expand_dims(value, axis=-1)
    rises, offsets = [], []
    for point in points:
        values = xp.stack([at(xp.where(order == j, point, x)) for j in range(n)], axis=-1)
        rises.append(xp.reshape(xp.astype(values - value, x.dtype), shape))
        # The difference of the rounded points, and not the step that was asked for, is what f was moved by.
        offsets.append(point - x)
    return difference_quotient(rises, offsets)


def difference_quotient(rises: list[Array], offsets: list[Array]) -> Array:
    """Return the derivative from what a function rises by at one or two offsets from a point."""
    xp = backends.namespace(rises[0])
    if len(rises) == 1:
        return _divide_by_step(xp, rises[0], offsets[0])
    # Through (0, 0), (a, f_a) and (b, f_b): central where b = -a, one-sided where b = 2a.
    (a, b), (rise_a, rise_b) = offsets, rises
    # Slopes are weighted: a rise times a step overflows where the slope does not.
    weight_a, weight_b = _divide_by_step(xp, b, b - a), _divide_by_step(xp, a, b - a)
    return weight_a * _divide_by_step(xp, rise_a, a) - weight_b * _divide_by_step(xp, rise_b, b)


def _divide_by_step(xp: Namespace, x: Array, h: Array) -> Array:
    """Divide by a step; a variable that cannot move has the quotient 0."""
    quotient: Array = x / xp.where(h == 0.0, xp.full_like(h, math.inf), h)
    return quotient


ValueAndGrad: TypeAlias = "Analytic | Autodiff | Differences"

KINDS = ("autodiff", "2-point", "3-point")


@dataclass(frozen=True)
class Analytic:
    """The value and gradient as the caller gives them.

    The functions get copies, so that they may write to what they are given, and may return the same buffer
    at every call.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: the value, or value and gradient where `jac` is None.
    jac : callable or None
        ``jac(params, *args)``: the gradient.
    batch : int
        How many leading axes number independent problems.
    """

    fun: Callable[..., Any]
    jac: Callable[..., Any] | None = None
    batch: int = 0

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `bounds` are not needed."""
        del bounds
        if self.jac is not None:
            point = writable_copy(params)
            writes = write_counts(point)
            value = as_value(self.fun(point, *args), params, self.batch)
            if writes is None or write_counts(point) != writes:
                point = writable_copy(params)
            return value, writable_copy(as_gradient(self.jac(point, *args), params))
        pair = self.fun(writable_copy(params), *args)
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(
                f"with jac=True fun must return (value, gradient); got {type(pair).__name__}"
            )
        value = as_value(pair[0], params, self.batch)
        return value, writable_copy(as_gradient(pair[1], params, "fun, with jac=True,"))


@dataclass(frozen=True)
class Autodiff:
    """The value, and the gradient by the automatic differentiation of the params' library.

    PyTorch's autograd takes any eager function, also one that branches on values; inside a transform of
    ``torch.func``, where autograd is refused, ``torch.func.grad`` takes its place. JAX differentiates by
    ``jax.value_and_grad``. Nothing of the tape is left on what is returned.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    batch : int
        How many leading axes number independent problems. The gradient is that of the sum of their
        values, so that one problem's value must not depend on another's params.
    """

    fun: Callable[..., Any]
    batch: int = 0

    def value(self, params: Tree, *args: Any) -> Array:
        """Return the value, shape of the batch axes."""
        return as_value(self.fun(params, *args), params, self.batch)

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `bounds` are not needed."""
        del bounds
        library = backends.of(optree.tree_leaves(params)[0]).autodiff
        if library is None:
            raise TypeError(_no_autodiff(params))
        return library.value_and_grad(self.value)(params, *args)


@dataclass(frozen=True)
class Differences:
    """The value, and the gradient by finite differences; see `difference`.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    kind : {"2-point", "3-point"}
        The formula.
    batch : int
        How many leading axes number independent problems.
    """

    fun: Callable[..., Any]
    kind: str = "2-point"
    batch: int = 0

    def value(self, params: Tree, *args: Any) -> Array:
        """Return the value, shape of the batch axes."""
        return as_value(self.fun(writable_copy(params), *args), params, self.batch)

    def __call__(
        self, params: Tree, *args: Any, bounds: tuple[Tree, Tree] | None = None
    ) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `fun` is kept within `bounds`."""
        return difference(
            lambda p: self.fun(writable_copy(p), *args), params, self.kind, bounds, self.batch
        )


class Gradient(NamedTuple):
    """How a function is differentiated; what `choose_gradient` returns.

    Attributes
    ----------
    value_and_grad : Analytic, Autodiff or Differences
        ``value_and_grad(params, *args, bounds=None)``: value and gradient. Equal functions make equal
        ones, so that a compiled step is found again.
    name : str
        "jac", "fun returns it", "autodiff", "2-point" or "3-point".
    calls : int
        How often one evaluation calls `fun`.
    probes : int
        How often `fun` was called to find out whether autodiff can follow it.
    """

    value_and_grad: ValueAndGrad
    name: str
    calls: int
    probes: int = 0


def choose_gradient(
    fun: Callable[..., Any],
    jac: Any,
    x0: Tree,
    args: tuple[Any, ...] = (),
    *,
    batch: int = 0,
) -> Gradient:
    """Settle how `fun` is differentiated.

    Parameters
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    jac : callable, True, "autodiff", "2-point", "3-point" or None
        The gradient, ``jac(params, *args)``; True if `fun` returns the pair of value and gradient;
        the name of a way to compute it; None (or False) for autodiff where the library of `x0` has one
        that can follow `fun`, and for "2-point" elsewhere. On PyTorch that is found out by one call.
    x0 : tree of arrays
        A point.
    args : tuple
        Further arguments of `fun` and `jac`.
    batch : int
        How many leading axes number independent problems.

    Returns
    -------
    Gradient
        The function for value and gradient, its name and cost.

    Raises
    ------
    TypeError
        If `jac` is none of these.
    ValueError
        If its name is unknown, or it is "autodiff" and the library of `x0` has none, or none that can
        follow `fun`. What `fun` raises by itself passes.

    Examples
    --------
    >>> import numpy as np
    >>> how = choose_gradient(lambda x: (x * x).sum(), None, np.ones(3))
    >>> how.name, how.calls
    ('2-point', 4)
    >>> choose_gradient(lambda x: (x * x).sum(), "2point", np.ones(3))
    Traceback (most recent call last):
    ...
    ValueError: jac must be one of 'autodiff', '2-point', '3-point'; got '2point'; did you mean '2-point'?
    """
    if callable(jac):
        return Gradient(Analytic(fun, jac, batch), "jac", 1)
    if jac is True:
        return Gradient(Analytic(fun, None, batch), "fun returns it", 1)
    if jac is not None and jac is not False:
        if not isinstance(jac, str):
            known = f"a callable, True, None or one of {', '.join(map(repr, KINDS))}"
            raise TypeError(f"jac must be {known}; got {type(jac).__name__}")
        as_choice("jac", jac, KINDS)
    if jac in {"2-point", "3-point"}:
        return _by_differences(fun, jac, x0, batch)
    row = backends.of(optree.tree_leaves(x0)[0])
    if row.autodiff is None:
        if jac == "autodiff":
            raise ValueError(_no_autodiff(x0))
        return _by_differences(fun, "2-point", x0, batch)
    # A library that compiles follows f by shapes alone, without a call on values.
    probes = 0 if row.compiles else 1
    if row.autodiff.is_differentiable(fun, x0, *args):
        return Gradient(Autodiff(fun, batch), "autodiff", 1, probes)
    if jac == "autodiff":
        # An error of fun's own is raised again here, of plain arrays, and passes.
        as_value(fun(writable_copy(x0), *args), x0, batch)
        raise ValueError(
            "jac='autodiff' cannot follow fun: what it returns no longer hangs on x (a Python float, "
            "NumPy or detach() on the way). Compute with x's library, or pass jac='2-point'"
        )
    return _by_differences(fun, "2-point", x0, batch, probes)


def value_and_grad(fun: Callable[..., Any], jac: Any = None) -> Callable[..., tuple[Any, Any]]:
    """Return the function that gives the value of another one, and its gradient.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number, for a tree of arrays x of any library.
    jac : callable, True, "autodiff", "2-point", "3-point", optional
        Where the gradient comes from, as of ``agd.minimize``: by default the library's automatic differentiation,
        or finite differences.

    Returns
    -------
    callable
        ``f(x, *args)``: the value and the gradient, in the structure of x.

    Examples
    --------
    >>> value, slope = value_and_grad(lambda x: (x**2).sum(), jac="3-point")([1.0, 2.0])
    >>> float(value), slope.round(6)
    (5.0, array([2., 4.]))
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function, got {fun!r} ({type(fun).__name__})")

    def pair(x: Any, *args: Any) -> tuple[Any, Any]:
        point = as_point(x, name="x")
        return choose_gradient(fun, jac, point, args).value_and_grad(point, *args)

    return pair


def grad(fun: Callable[..., Any], jac: Any = None) -> Callable[..., Any]:
    """Return the gradient of a function, as a function: see `value_and_grad`, whose second result it returns.

    Examples
    --------
    >>> import numpy as np
    >>> grad(lambda p: p["a"] ** 2 + 3.0 * p["b"], "3-point")({"a": np.asarray(2.0), "b": np.asarray(1.0)})["a"].round(6)
    np.float64(4.0)
    """
    pair = value_and_grad(fun, jac)
    return lambda x, *args: pair(x, *args)[1]


def central(how: Gradient, x0: Tree) -> Gradient:
    """Return the 3-point formula in the place of the 2-point one.

    Parameters
    ----------
    how : Gradient
        By differences.
    x0 : tree of arrays
        A point.

    Returns
    -------
    Gradient
        The same function, differenced at two calls for each coordinate.
    """
    known = how.value_and_grad
    if not isinstance(known, Differences):
        raise TypeError(f"how must be by differences, got {how.name!r}")
    return _by_differences(known.fun, "3-point", x0, known.batch)


def _by_differences(
    fun: Callable[..., Any], kind: str, x0: Tree, batch: int, probes: int = 0
) -> Gradient:
    n = sum(math.prod(x.shape[batch:]) for x in optree.tree_leaves(x0))
    calls = 1 + n * (1 if kind == "2-point" else 2)
    return Gradient(Differences(fun, kind, batch), kind, calls, probes)


def _no_autodiff(params: Tree) -> str:
    name = backends.of(optree.tree_leaves(params)[0]).name
    able = " and ".join(row.name for row in backends.TABLE if row.autodiff is not None)
    return (
        f"jac='autodiff' needs a library that differentiates ({able}), and x is a {name} array: pass "
        "the gradient as jac, or jac='2-point' or '3-point'"
    )
