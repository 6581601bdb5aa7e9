"""The objective of `agd.minimize`: any function of a tree of arrays, with bounds or a penalty.

It joins a user's function and its gradient, exact or by differences, to the proximal step of a penalty, so
that the solvers see one interface.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Penalty, Tree
from agd.gradient.objective import BaseObjective

__all__ = ["Bounds", "FunctionObjective", "shared_rows"]


class Bounds(NamedTuple):
    """What each entry may be, as trees in the structure of the params, shaped to broadcast to them."""

    low: Tree
    high: Tree

    def project(self, params: Tree) -> Tree:
        """Return the nearest point within the bounds."""
        return optree.tree_map(_between_bounds, params, self.low, self.high)


def _between_bounds(x: Array, low: Array, high: Array) -> Array:
    xp = backends.namespace(x)
    return xp.minimum(xp.maximum(x, low), high)


# An entry is at its bound if no more than so many units of rounding apart: a step to the bound is rounded.
MAX_BOUND_EPS = 4.0


def _without_outward(g: Array, x: Array, low: Array, high: Array) -> Array:
    """Return the gradient, with 0 for the entries at a bound beyond which the function falls."""
    xp = backends.namespace(x)
    rounding = MAX_BOUND_EPS * float(xp.finfo(x.dtype).eps) * xp.abs(x)
    outward = ((x - rounding <= low) & (g > 0.0)) | ((x + rounding >= high) & (g < 0.0))
    return xp.where(outward, xp.zeros_like(g), g)


class _FunctionArrays(NamedTuple):
    args: Any
    bounds: Any


@dataclass(frozen=True)
class FunctionObjective(BaseObjective):
    r"""A function of a tree of arrays, plus a penalty on its leaves, within bounds.

    ::

        value(x) = f(x, *args) + penalty(x),    low <= x <= high

    A pure function of its parameters as far as `pair` is one: `value_and_grad` then runs inside
    ``jax.jit`` and ``jax.vmap``.

    Attributes
    ----------
    pair : callable
        ``pair(x, *args, bounds=(low, high) or None)``: the value, shape `batch_shape`, and the gradient,
        in the structure of x, as `choose_gradient` gives it. It calls the function within the bounds.
    args : tuple
        What else `pair` takes: arrays, trees of them, or anything.
    batch_shape : tuple of int
        The leading axes of every leaf that are independent problems; () for one problem.
    penalty : Penalty or None
        It sees each leaf's last axis (the last two, for a norm of matrices), and is summed over the rest.
    bounds : Bounds or None
        What the entries may be.
    value_calls, grad_calls : int
        How many calls of the function and of its gradient one `value_and_grad` makes.
    compilable : bool
        Whether a backend that compiles can compile `pair`.
    rows : int or None
        The rows that the first axis of every array in `args` stands for (`shared_rows`), where `pair` is
        a mean over them; what mini-batch methods draw from.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import FunctionObjective, choose_gradient
    >>> how = choose_gradient(lambda x: np.sum(x**2), lambda x: 2.0 * x, np.ones(2))
    >>> FunctionObjective(how.value_and_grad).value_and_grad(np.asarray([1.0, 2.0]))
    (array(5.), array([2., 4.]))
    """

    pair: Callable[..., tuple[Any, Tree]]
    args: tuple[Any, ...] = ()
    # Fields stand for two properties of the base class.
    batch_shape: tuple[int, ...] = ()  # pyright: ignore[reportIncompatibleMethodOverride]
    penalty: Penalty | None = None
    bounds: Bounds | None = None
    value_calls: int = 1
    grad_calls: int = 1
    compilable: bool = True  # pyright: ignore[reportIncompatibleMethodOverride]
    rows: int | None = None

    @property
    def nonsmooth(self) -> bool:
        """Whether a penalty or bounds are left to `prox`."""
        return self.bounds is not None or not (self.penalty is None or self.penalty.smooth)

    def value_and_grad(self, params: Tree) -> tuple[Array, Tree]:
        """Return the value and the gradient, less what is left to `prox`.

        Parameters
        ----------
        params : tree of arrays
            The point.

        Returns
        -------
        value : array, shape `batch_shape`
            The function, and the penalty if that is smooth.
        grad : tree of arrays
            In the structure of the params.

        Raises
        ------
        ValueError, TypeError
            If the function returns no number, or its gradient has another shape or structure.
        """
        value, grad = self.pair(params, *self.args, bounds=self.bounds)
        if self.penalty is None or not self.penalty.smooth:
            return value, grad
        extra = optree.tree_map(self.penalty.grad, params)
        grad = optree.tree_map(lambda g, e: g + e, grad, extra)
        return value + self.added(params), grad

    def added(self, params: Tree) -> Array:
        """Return the penalty, summed over the leaves, shape `batch_shape`; for one that is given."""
        batch, penalty = len(self.batch_shape), cast("Penalty", self.penalty)

        def leaf_penalty(leaf: Array) -> Array:
            part: Array = penalty.value(leaf if leaf.ndim > batch else leaf[..., None])
            if part.ndim == batch:
                return part
            return backends.namespace(leaf).sum(part, axis=tuple(range(batch, part.ndim)))

        return functools.reduce(operator.add, map(leaf_penalty, optree.tree_leaves(params)))

    def penalty_value(self, params: Tree) -> Array:
        """Return the part of the objective that is left to `prox`, shape `batch_shape`."""
        if self.penalty is not None and not self.penalty.smooth:
            return self.added(params)
        return super().penalty_value(params)

    def prox(self, params: Tree, step: float | Array) -> Tree:
        """Return argmin_u penalty(u) + |u - params|² / (2 step) within the bounds.

        Parameters
        ----------
        params : tree of arrays
            The point.
        step : float or array, shape `batch_shape`
            The step.

        Returns
        -------
        tree of arrays
            The point itself, where there is neither.
        """
        if self.penalty is not None and not self.penalty.smooth:
            params = optree.tree_map(lambda leaf: self._apply_prox(leaf, step), params)
        return params if self.bounds is None else self.bounds.project(params)

    def _apply_prox(self, leaf: Array, step: float | Array) -> Array:
        scalar = leaf.ndim == len(self.batch_shape)
        x = leaf[..., None] if scalar else leaf
        if not isinstance(step, int | float) and step.ndim:
            step = backends.namespace(leaf).reshape(
                step, (*self.batch_shape, *(1,) * (x.ndim - len(self.batch_shape)))
            )
        near: Array = cast("Penalty", self.penalty).prox(x, step)
        return near[..., 0] if scalar else near

    def stationarity_residual(self, grads: Tree, params: Tree, /) -> Tree:
        """Return the gradient without the parts that bounds or the penalty's kinks take up.

        It is (x - prox(x - t g)) / t with a step t so short that t g is at most half of x: a full step
        would end at a bound or a kink that is near, and its length would say how near that is, not how steep
        the function. Of an entry at its bound, a gradient that points outwards counts for nothing.
        """
        if self.penalty is not None and not self.penalty.smooth:
            grads = self._penalty_residual(grads, params)
        if self.bounds is not None:
            grads = optree.tree_map(_without_outward, grads, params, *self.bounds)
        return grads

    def _penalty_residual(self, grads: Tree, params: Tree) -> Tree:
        """Return (x - prox(x - t g)) / t of the penalty alone, with a step t for each entry or leaf."""
        batch, penalty = len(self.batch_shape), cast("Penalty", self.penalty)

        def residual(leaf: Array, grad: Array) -> Array:
            xp = backends.namespace(leaf)
            scalar = leaf.ndim == batch
            x, g = (leaf[..., None], grad[..., None]) if scalar else (leaf, grad)
            size, slope = xp.abs(x), xp.abs(g)
            if not penalty.separable:  # one step for all entries that the penalty couples
                axes = tuple(range(batch, x.ndim))
                size, slope = (xp.max(a, axis=axes, keepdims=True) for a in (size, slope))
            one = xp.ones_like(size)
            too_long = (size > 0.0) & (size < 2.0 * slope)
            step = xp.where(too_long, size / xp.where(too_long, 2.0 * slope, one), one)
            r: Array = (x - penalty.prox(x - step * g, step)) / step
            return r[..., 0] if scalar else r

        return optree.tree_map(residual, params, grads)

    @property
    def row_count(self) -> int | None:
        """The number of rows that mini-batches are drawn from."""
        return self.rows

    def take_rows(self, rows: Array) -> "FunctionObjective":
        """Return the objective over some rows of `args`: the mean over a mini-batch.

        Parameters
        ----------
        rows : array of int, shape (k,)
            Which.

        Returns
        -------
        FunctionObjective
            The same function of these rows.
        """

        def taken(leaf: Any) -> Any:
            if not backends.is_array(leaf) or leaf.ndim == 0:
                return leaf
            return backends.namespace(leaf).take(leaf, rows, axis=0)

        args: Any = self.args
        args = optree.tree_map(taken, args, none_is_leaf=True)
        return replace(self, args=args, rows=int(rows.shape[0]))

    def as_program(self, params: Tree) -> "FunctionObjective":
        """Return the same function as it is now, as a program: equal to another that computes the same.

        What the function reads besides its arguments is then among `args`.

        Parameters
        ----------
        params : tree of arrays
            A point.

        Returns
        -------
        FunctionObjective
            For points of these shapes; this one, where the library of `params` makes no program of it.
        """
        program = backends.of(optree.tree_leaves(params)[0]).trace_program
        if program is None or self.rows is not None:  # a mini-batch has other shapes
            return self
        bare, given = self.with_arrays(None), self.arrays()

        def pair(params: Tree, given: Any) -> Any:
            whole = bare.with_arrays(given)
            return whole.pair(params, *whole.args, bounds=whole.bounds)

        found = program(pair, params, given)
        if found is None:
            return self
        return replace(self, pair=_Program(found[0]), args=(found[1], given.args))

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes: those among `args`, and the bounds."""
        args: Any = self.args
        leaves: list[Any] = optree.tree_leaves(args, none_is_leaf=True)
        return _FunctionArrays([leaf for leaf in leaves if backends.is_array(leaf)], self.bounds)

    def with_arrays(self, arrays: Any) -> "FunctionObjective":
        """Return the same objective over other arrays; with None, what is left is hashable."""
        args: Any = self.args
        if not isinstance(args, _StaticArgument):
            leaves, spec = optree.tree_flatten(args, none_is_leaf=True)
            args = _StaticArgument(
                tuple(_HOLE if backends.is_array(x) else x for x in leaves), spec
            )
        if arrays is None:
            return replace(self, args=args, bounds=None if self.bounds is None else _ANY)
        new, bounds = arrays
        rest = iter(new)
        filled = [next(rest) if leaf is _HOLE else leaf for leaf in args.leaves]
        known: Any = optree.tree_unflatten(args.spec, filled)
        return replace(self, args=known, bounds=bounds)


def shared_rows(args: tuple[Any, ...]) -> tuple[int | None, str]:
    """Return how many rows the first axis of all arrays in `args` stands for.

    Parameters
    ----------
    args : tuple
        Further arguments of a function: arrays, trees of them, or anything. Arrays of shape () and what
        is no array belong to all rows.

    Returns
    -------
    rows : int or None
        None where no rows can be taken.
    why : str
        What stands in the way then.

    Examples
    --------
    >>> import numpy as np
    >>> shared_rows((np.zeros((5, 2)), {"y": np.zeros(5), "alpha": 0.1}))
    (5, '')
    >>> shared_rows((np.zeros((5, 2)), np.zeros(4)))
    (None, 'args with arrays of shapes (5, 2), (4,)')
    """
    tree: Any = args
    leaves = [x for x in optree.tree_leaves(tree, none_is_leaf=True) if np.shape(x)]
    for x in leaves:
        if not backends.is_array(x):
            return None, f"args with a {type(x).__name__}, whose rows it does not take"
        if backends.of(x).chunked:
            return None, f"args with a {backends.of(x).name} array, whose rows lie in chunks"
    if not leaves:
        return None, "args without arrays"
    if len({backends.of(x).name for x in leaves}) > 1:
        return None, "args with arrays of several libraries"
    if len({x.shape[0] for x in leaves}) > 1:
        return None, f"args with arrays of shapes {', '.join(str(tuple(x.shape)) for x in leaves)}"
    rows = int(leaves[0].shape[0])
    return (rows, "") if rows else (None, "args with arrays that have no rows")


class _StaticArgument(NamedTuple):
    """Arguments without their arrays, as a constant that can be hashed."""

    leaves: tuple[Any, ...]
    spec: Any


@dataclass(frozen=True)
class _Program:
    """A pair as a program of params, its own arrays, those among the arguments, and the bounds."""

    program: Callable[..., Any]

    def __call__(self, params: Tree, held: Any, args: Any, *, bounds: Any = None) -> Any:
        return self.program(held, params, _FunctionArrays(args, bounds))


@dataclass(frozen=True)
class _ArrayPlaceholder:
    """What stands in the place of an array."""


_HOLE: Any = _ArrayPlaceholder()
_ANY: Any = Bounds(None, None)
