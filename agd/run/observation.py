"""What one look at the device brings: a few numbers for each problem, in one transfer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import tree_max_abs, tree_subtract
from agd._typing import Array, Progress, Tree, get_progress

__all__ = ["Observation", "ObservedFields", "observe"]

# Fields of `Progress` that are read, each only where the solver has it.
OPTIONAL = (
    "iterations", "evaluations", "stalled", "hit_nonfinite", "may_be_saddle", "curvature", "least_curvature"
)  # fmt: skip
ALWAYS = ("value", "grad_norm", "size", "moved", "finite", "steps")


class Observation(NamedTuple):
    """What the host knows after a look; NumPy arrays in double precision, an entry for each problem.

    Attributes
    ----------
    value, grad_norm : numpy.ndarray, shape (...)
        The objective, and the size of its gradient as the objective measures it.
    size : numpy.ndarray, shape (...)
        The largest absolute parameter.
    moved : numpy.ndarray, shape (...)
        The largest change of a parameter in the last step, as a share of `size`; NaN where the last
        step moved none.
    finite : numpy.ndarray, shape (...)
        1 where value and gradient were finite so far, else 0.
    steps, iterations, evaluations : numpy.ndarray, shape (...)
        Steps of the loop, steps that were taken, values and gradients that were computed.
    stalled, hit_nonfinite, may_be_saddle : numpy.ndarray, shape (...)
        1 where it holds, as in `agd._typing.Progress`.
    curvature, least_curvature : numpy.ndarray, shape (...)
        The largest and the smallest curvature that the method knows of; 0 for unknown.
    length : numpy.ndarray, shape (...), or None
        The Euclidean length of the gradient in the user's coordinates, where somebody asks.
    leaves : numpy.ndarray, shape (leaves, ...), or None
        The largest absolute partial derivative of each leaf, where somebody asks.
    """

    value: Any
    grad_norm: Any
    size: Any
    moved: Any
    finite: Any
    steps: Any
    iterations: Any
    evaluations: Any
    stalled: Any
    hit_nonfinite: Any
    may_be_saddle: Any
    curvature: Any
    least_curvature: Any
    length: Any = None
    leaves: Any = None

    @classmethod
    def read(
        cls, columns: Any, state: Any, observed_fields: ObservedFields, per_step: int
    ) -> Observation:
        """Name the columns that `observe` stacked for such a state.

        Parameters
        ----------
        columns : numpy.ndarray, shape (k, ...)
            What came over.
        state : NamedTuple
            The solver's state; only which fields of its progress are known is asked.
        observed_fields : Wanted
            What was asked for.
        per_step : int
            Evaluations a step, for a state that does not count them.

        Returns
        -------
        Row
            The row.
        """
        columns = np.asarray(columns, dtype=np.float64)
        names = (
            *ALWAYS,
            *_known_fields(get_progress(state)),
            *(("length",) if observed_fields.length else ()),
        )
        known = dict(zip(names, columns, strict=False))
        zero = np.zeros_like(known["value"])
        known.setdefault("iterations", known["steps"])
        known.setdefault("evaluations", 1.0 + per_step * known["steps"])
        for name in ("stalled", "hit_nonfinite", "may_be_saddle", "curvature", "least_curvature"):
            known.setdefault(name, zero)
        return cls(**known, leaves=columns[len(names) :] if observed_fields.leaves else None)


class ObservedFields(NamedTuple):
    """Which columns are measured beside those that always are."""

    leaves: bool = False
    length: bool = False


def _known_fields(progress: Progress) -> dict[str, Array]:
    fields = progress._asdict()
    return {name: fields[name] for name in OPTIONAL if fields[name] is not None}


def observe(
    objective: Any,
    observed_fields: ObservedFields,
    step_state: Any,
    value: Array,
    grad: Tree,
    previous: Any,
) -> Array:
    """Stack what the host looks at into one small array, shape (k, ...); `Row.read` names it.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    observed_fields : Wanted
        The columns that somebody asked for.
    step_state : Carry
        Where the run stands.
    value, grad : array, tree
        The objective and its gradient there.
    previous : tuple of tree, array or None
        The params and the accepted steps before the last step.

    Returns
    -------
    array, shape (k, ...)
        The columns.
    """
    state = step_state.state
    size, moved = _movement(value, step_state.params, get_progress(state), previous)
    grad_norm = objective.grad_norm(grad, step_state.params)
    xp = backends.namespace(value)
    finite = step_state.active & xp.isfinite(value) & xp.isfinite(grad_norm)
    columns = [value, grad_norm, size, moved, finite, step_state.count]
    columns += _known_fields(get_progress(state)).values()
    if observed_fields.length or observed_fields.leaves:
        residual = _residual(objective, step_state.params, grad)
        if observed_fields.length:
            columns.append(_length(residual, value))
        if observed_fields.leaves:
            columns += [tree_max_abs(leaf, value.ndim) for leaf in optree.tree_leaves(residual)]
    return xp.stack([xp.astype(column, value.dtype, copy=False) for column in columns])


def _movement(value: Array, params: Tree, progress: Progress, previous: Any) -> tuple[Array, Array]:
    """Return the largest parameter, and how far the last step moved any, as a share of it."""
    xp = backends.namespace(value)
    size, known = xp.zeros_like(value), progress.relative_step
    moved = xp.zeros_like(value) if known is None else known
    old_params, old_iterations = previous
    for new, old in zip(optree.tree_leaves(params), optree.tree_leaves(old_params), strict=True):
        size = xp.maximum(size, tree_max_abs(new, value.ndim))
        if known is None:
            moved = xp.maximum(moved, tree_max_abs(new - old, value.ndim))
    if known is not None:
        return size, moved
    moved = moved / xp.where(size > 0.0, size, xp.ones_like(size))
    if old_iterations is None:
        return size, moved
    # A trial that a line search refused is no step: how far it moved says nothing.
    return size, xp.where(progress.iterations > old_iterations, moved, moved + xp.nan)


def _residual(objective: Any, params: Tree, grad: Tree) -> Tree:
    """Return the gradient as a user reads it; with a penalty that has a prox, what that leaves."""
    if not getattr(objective, "nonsmooth", False):
        return objective.report(params, grad)[1]
    xp = backends.namespace(optree.tree_leaves(grad)[0])
    one = xp.ones_like(objective.penalty_value(params))
    stepped = objective.prox(tree_subtract(params, grad), one)
    return tree_subtract(params, stepped)


def _length(tree: Tree, like: Array) -> Array:
    """Return each problem's Euclidean length, scaled so that no square overflows."""
    xp = backends.namespace(like)
    leaves = optree.tree_leaves(tree)
    largest = xp.maximum(xp.zeros_like(like), tree_max_abs(tree, like.ndim))
    unit = xp.where((largest > 0.0) & xp.isfinite(largest), largest, xp.ones_like(largest))
    total = xp.zeros_like(like)
    for leaf in leaves:
        axes = tuple(range(like.ndim, leaf.ndim))
        scaled = leaf / xp.reshape(unit, (*unit.shape, *(1,) * len(axes)))
        total = total + (xp.sum(scaled * scaled, axis=axes) if axes else scaled * scaled)
    return unit * total**0.5
