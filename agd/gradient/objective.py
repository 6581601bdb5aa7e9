"""The base class of every objective, which completes a value and a gradient with defaults.

An objective stands between the data and the solvers: a solver asks it for values, gradients and proximal
steps, the loop for arrays to compile over, and neither asks what kind of objective it is. What only some
objectives can do is declared here, as a trait or a method with a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optree

from agd import backends
from agd._tree import tree_dot, tree_max_abs, tree_scale, tree_subtract
from agd._typing import Array, Loss, Objective, Params, Tree

if TYPE_CHECKING:
    from agd.gradient.linear import LinearObjective

__all__ = [
    "AdaptedObjective",
    "BaseObjective",
    "ObjectiveInCoordinates",
    "as_objective",
    "largest_curvature",
]


class BaseObjective:
    """A function of a tree of arrays; a subclass has `batch_shape` and `value_and_grad`.

    The defaults are those of one smooth function that nothing else is known of.

    Attributes
    ----------
    bounds : Bounds or None
        What each entry of the params may be; None where any number is allowed.
    least_curvature : tuple of float, or None
        The Hessian's least eigenvalue, in the objective's coordinates and in the user's; None where it is not
        known beforehand.
    value_calls, grad_calls : int
        How many calls of a user's function and of its gradient one `value_and_grad` makes.

    Examples
    --------
    >>> import numpy as np
    >>> class Parabola(BaseObjective):
    ...     batch_shape = ()
    ...
    ...     def value_and_grad(self, x):
    ...         return x @ x / 2, x
    >>> x = np.asarray([3.0, -4.0])
    >>> float(Parabola().grad_norm(Parabola().value_and_grad(x)[1], x))
    4.0
    """

    bounds: Any = None
    least_curvature: tuple[float, float] | None = None
    value_calls: int = 1
    grad_calls: int = 1

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value: () for one problem, (b, ...) for independent ones."""
        return ()

    @property
    def nonsmooth(self) -> bool:
        """Whether a penalty or bounds are left to `prox`; `value_and_grad` is then the smooth part's."""
        return False

    @property
    def quadratic(self) -> bool:
        """Whether the smooth part is a quadratic, so that its gradient is linear in the params."""
        return False

    @property
    def compilable(self) -> bool:
        """Whether a backend that compiles can compile a step; a result says so where it cannot."""
        return True

    @property
    def worth_compiling(self) -> bool:
        """Whether compiling a step saves time; if not, the result does not mention that it was not compiled."""
        return True

    @property
    def has_bound_product(self) -> bool:
        """Whether `bound_product` is defined."""
        return False

    @property
    def curvature_is_bounded(self) -> bool:
        """Whether that matrix is no less than the Hessian anywhere."""
        return False

    @property
    def linear_objective(self) -> LinearObjective | None:
        """The objective of a linear model over data, in (w, b), that this one stands for."""
        return None

    @property
    def preconditioner(self) -> Any:
        """The change of coordinates from (w, b); None for an objective of (w, b) or of no linear model."""
        return None

    @property
    def row_count(self) -> int | None:
        """The number of rows that mini-batches are drawn from; None where there are none in memory."""
        return None

    def value_and_grad(self, params: Tree, /) -> tuple[Array, Tree]:
        """Return the value, shape `batch_shape`, and the gradient, in the structure of `params`."""
        raise NotImplementedError(f"{type(self).__name__} must define value_and_grad(params)")

    def stationarity_residual(self, grads: Tree, params: Tree, /) -> Tree:
        """Return what is 0 at a stationary point: the gradient g, or x - prox(x - g, 1)."""
        if not self.nonsmooth:
            return grads
        return tree_subtract(params, self.prox(tree_subtract(params, grads), 1.0))

    def grad_norm(self, grads: Tree, params: Tree, /) -> Array:
        """Return the largest entry of `stationarity_residual`, shape `batch_shape`."""
        return tree_max_abs(self.stationarity_residual(grads, params), len(self.batch_shape))

    def evaluate(self, params: Tree, /) -> tuple[Array, Tree, Array]:
        """Return the value, the gradient, and how far the params are from stationary (`grad_norm`)."""
        value, grad = self.value_and_grad(params)
        return value, grad, self.grad_norm(grad, params)

    def penalty_value(self, params: Tree, /) -> Array:
        """Return the part of the objective that is left to `prox`, shape `batch_shape`: here 0."""
        like = optree.tree_leaves(params)[0]
        xp = backends.namespace(like)
        return xp.zeros(self.batch_shape, dtype=like.dtype, device=backends.device(like))

    def prox(self, params: Tree, step: float | Array, /) -> Tree:  # noqa: ARG002
        """Return argmin_u penalty(u) + |u - params|² / (2 step): here the params."""
        return params

    def bound_product(self, params: Tree, /) -> Tree:
        """Multiply by a matrix that bounds the Hessian; of the squared loss, by the Hessian."""
        raise NotImplementedError(
            f"{type(self).__name__} has no bound on its Hessian, to multiply {params!r} by"
        )

    def report(self, params: Tree, grads: Tree, /) -> tuple[Tree, Tree]:
        """Return params and gradient in the user's coordinates: here, as they are."""
        return params, grads

    def take_rows(self, rows: Array, /) -> Any:
        """Return the mean over some rows (k,), an unbiased estimate of the whole."""
        raise NotImplementedError(
            f"{type(self).__name__} has no rows, of which {rows.shape[0]} could be taken"
        )

    def with_smaller_blocks(self) -> Any:
        """Return the same objective in blocks of half the rows, which take less memory; None if it cannot."""
        return None

    def as_program(self, params: Tree, /) -> Any:  # noqa: ARG002
        """Return the objective as a program for params of these shapes, equal to any that computes the same.

        The objective itself where there is no such program.
        """
        return self

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes as arguments: here none."""
        return None

    def with_arrays(self, arrays: Tree, /) -> Any:  # noqa: ARG002
        """Return the same objective over other arrays; with None, what is left can be hashed."""
        return self


class ObjectiveInCoordinates(BaseObjective):
    """The objective of a linear model at points of other coordinates than (w, b); a subclass says which.

    Attributes
    ----------
    base : LinearObjective
        The objective of (w, b).
    """

    base: Any

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        shape: tuple[int, ...] = self.base.batch_shape
        return shape

    @property
    def loss(self) -> Loss:
        """The loss of one row."""
        loss: Loss = self.base.loss
        return loss

    @property
    def linear_objective(self) -> LinearObjective:
        """The objective of (w, b)."""
        base: LinearObjective = self.base
        return base

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: as of the base."""
        return bool(self.base.worth_compiling)


class AdaptedObjective(BaseObjective):
    """An objective without the base class: its own members, and the defaults for all others.

    Two are equal where those that they adapt are, so that a compiled step may serve both.
    """

    def __init__(self, adapted: Any) -> None:
        self._adapted = adapted

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name.startswith("_") or name in ("row_count", "take_rows", "with_arrays"):
            return own(self, name)
        try:
            return getattr(self._adapted, name)
        except AttributeError:
            return own(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdaptedObjective) and bool(self._adapted == other._adapted)

    def __hash__(self) -> int:
        return hash(self._adapted)

    @property
    def row_count(self) -> int | None:
        """The number of rows, which such an objective calls `rows`."""
        rows: int | None = getattr(self._adapted, "rows", None)
        return rows

    def take_rows(self, rows: Array, /) -> Any:
        """Return the mean over some rows, by the method that such an objective calls `take`."""
        return as_objective(self._adapted.take(rows))

    def with_arrays(self, arrays: Tree, /) -> AdaptedObjective:
        """Return the same objective over other arrays."""
        return AdaptedObjective(self._adapted.with_arrays(arrays))


def as_objective(objective: Objective) -> Any:
    """Return an objective with every member of the base class; one without the base class is wrapped.

    Examples
    --------
    >>> class Parabola:
    ...     batch_shape = ()
    >>> as_objective(Parabola()).nonsmooth
    False
    """
    return objective if isinstance(objective, BaseObjective) else AdaptedObjective(objective)


def largest_curvature(objective: Any, iterations: int = 20) -> Array:
    """Estimate L, the largest eigenvalue of the bound on the Hessian, by power iteration.

    The Rayleigh quotient of v_k = A v_{k-1} / |A v_{k-1}| is below L; the residual |A v - rho v| is
    added to it, so that the estimate errs to the safe side. Nothing is read by the host.

    Parameters
    ----------
    objective : objective over linear parameters
        It gives ``zeros``, ``bound_product`` and ``batch_shape``.
    iterations : int
        Passes over the data.

    Returns
    -------
    array, shape (...)
        L for every problem.

    Notes
    -----
    Parlett (1998), *The Symmetric Eigenvalue Problem*, chapter 4.
    """
    with np.errstate(all="ignore"):  # what overflows is not finite, and said by those who read it
        return _power_step(objective, iterations)


def _power_step(objective: Any, iterations: int) -> Array:
    zeros = objective.zeros()
    batch = len(objective.batch_shape)
    v = _start_vector(zeros, batch)
    for _ in range(iterations):
        product = objective.bound_product(v)
        norm = tree_dot(product, product, batch) ** 0.5
        xp = backends.namespace(norm)
        rho = tree_dot(v, product, batch)
        # X may be all zeros; then the product is too, and v stays what it was.
        safe = xp.where(norm > 0.0, norm, xp.ones_like(norm))
        residual = tree_subtract(product, tree_scale(rho, v))
        v = tree_scale(1.0 / safe, product)
    bound = rho + tree_dot(residual, residual, batch) ** 0.5
    return xp.where(bound > 0.0, bound, xp.ones_like(bound))


def _start_vector(like: Params, batch: int) -> Any:
    """Draw a unit start on the host from a fixed seed: the same on every backend."""
    rng = np.random.default_rng(0)
    tree: Any = like
    leaves, spec = optree.tree_flatten(tree)
    drawn = [backends.to_device_of(rng.standard_normal(tuple(leaf.shape)), leaf) for leaf in leaves]
    v: Any = optree.tree_unflatten(spec, drawn)
    return tree_scale(tree_dot(v, v, batch) ** -0.5, v)
