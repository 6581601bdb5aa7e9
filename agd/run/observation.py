"""What the host reads of a run: a few numbers for each problem, in one transfer.

`observe` stacks them on the device, inside the compiled step; `Observation.read` names them on the host,
for the stopping monitor, the history and the certificate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import tree_max_abs, tree_subtract
from agd._typing import Array, Progress, Tree, get_progress

__all__ = ["Observation", "ObservedFields", "observe", "observed_gradient"]

# Fields of a solver's `Progress`; only those that the solver keeps are read.
OPTIONAL_FIELDS = (
    "iterations", "evaluations", "stalled", "hit_nonfinite", "may_be_saddle", "curvature", "least_curvature"
)  # fmt: skip
COMMON_FIELDS = ("value", "grad_norm", "size", "moved")


class Observation(NamedTuple):
    """The state of a run as the host knows it: NumPy arrays in double precision, an entry for each problem.

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
        Steps of the loop, steps that the solver accepted, values and gradients that were computed.
    stalled : numpy.ndarray, shape (...)
        1 where a line search can go no further.
    hit_nonfinite : numpy.ndarray, shape (...)
        1 where its last trials all met values that are not finite.
    may_be_saddle : numpy.ndarray, shape (...)
        1 where the solver has yet to find out whether the point is a minimum or a saddle; until then a
        small gradient is no sign of convergence.
    curvature, least_curvature : numpy.ndarray, shape (...)
        The largest and the smallest curvature that the solver has met; 0 for unknown.
    predicted_decrease : numpy.ndarray, shape (...)
        By how much the value should fall in the next step; 0 for unknown.
    length : numpy.ndarray, shape (...), or None
        The Euclidean length of the gradient in the user's coordinates, if it is observed.
    leaves : numpy.ndarray, shape (leaves, ...), or None
        The largest absolute partial derivative of each leaf, if it is observed.
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
    predicted_decrease: Any
    length: Any = None
    leaves: Any = None

    @classmethod
    def read(
        cls,
        columns: Any,
        state: Any,
        observed_fields: ObservedFields,
        per_step: int,
        steps: Any = None,
    ) -> Observation:
        """Name the columns that `observe` stacked for such a state.

        Parameters
        ----------
        columns : numpy.ndarray, shape (k, ...)
            The array that was read.
        state : NamedTuple
            The solver's state; it says which optional columns there are.
        observed_fields : ObservedFields
            The further columns.
        per_step : int
            Evaluations a step, for a state that does not count them.
        steps : numpy.ndarray, shape (...), optional
            Steps of the loop; 0 by default.

        Returns
        -------
        Observation
            The columns by name.
        """
        columns = np.asarray(columns, dtype=np.float64)
        names = (
            *COMMON_FIELDS,
            *_known_fields(get_progress(state)),
            *(("length",) if observed_fields.length else ()),
        )
        columns_by_name = dict(zip(names, columns, strict=False))
        zero = np.zeros_like(columns_by_name["value"])
        if get_progress(state).relative_step is None:
            size = columns_by_name["size"]
            columns_by_name["moved"] = columns_by_name["moved"] / np.where(size > 0.0, size, 1.0)
        columns_by_name["steps"] = zero if steps is None else steps
        finite = np.isfinite(columns_by_name["value"]) & np.isfinite(columns_by_name["grad_norm"])
        columns_by_name["finite"] = np.asarray(finite, dtype=np.float64)
        columns_by_name.setdefault("iterations", columns_by_name["steps"])
        columns_by_name.setdefault("evaluations", 1.0 + per_step * columns_by_name["steps"])
        unknown = ("stalled", "hit_nonfinite", "may_be_saddle", "curvature", "least_curvature")
        for name in (*unknown, "predicted_decrease"):
            columns_by_name.setdefault(name, zero)
        return cls(
            **columns_by_name, leaves=columns[len(names) :] if observed_fields.leaves else None
        )


class ObservedFields(NamedTuple):
    """Which columns are observed beside those that always are."""

    leaves: bool = False
    length: bool = False


def _known_fields(progress: Progress) -> dict[str, Array]:
    """Return the optional fields that the solver keeps, in the order of their columns."""
    values = progress._asdict()
    return {name: values[name] for name in OPTIONAL_FIELDS if values[name] is not None}


def observe(
    objective: Any,
    observed_fields: ObservedFields,
    params: Tree,
    state: Any,
    measured: tuple[Array, Tree],
    previous: Any,
) -> Array:
    """Stack what the host reads into one small array, shape (k, ...); `Observation.read` names it.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    observed_fields : ObservedFields
        The columns beside those that are always observed.
    params : tree of arrays
        The point.
    state : NamedTuple
        The solver's state there.
    measured : tuple of array, tree
        The objective and its gradient there.
    previous : tuple of tree, array or None
        The params and the number of iterations before the last step.

    Returns
    -------
    array, shape (k, ...)
        The columns.
    """
    value, grad = measured
    progress = get_progress(state)
    size, moved = _step_size(value, params, progress, previous)
    columns = [value, objective.grad_norm(grad, params), size, moved]
    columns += _known_fields(progress).values()
    if observed_fields.length or observed_fields.leaves:
        columns += _gradient_columns(objective, observed_fields, params, grad, value.ndim)
    xp = backends.namespace(value)
    return xp.stack([xp.astype(column, value.dtype, copy=False) for column in columns])


def observed_gradient(
    objective: Any, observed_fields: ObservedFields, params: Tree, grad: Tree
) -> Array:
    """Stack the optional columns of the gradient alone, shape (k, ...): its length, and each leaf's size."""
    batch = len(objective.batch_shape)
    columns = _gradient_columns(objective, observed_fields, params, grad, batch)
    return backends.namespace(columns[0]).stack(columns)


def _gradient_columns(
    objective: Any, observed_fields: ObservedFields, params: Tree, grad: Tree, batch: int
) -> list[Array]:
    residual = _leaf_residuals(objective, params, grad)
    columns = []
    if observed_fields.length:
        columns.append(_euclidean_length(residual, tree_max_abs(residual, batch)))
    if observed_fields.leaves:
        columns += [tree_max_abs(leaf, batch) for leaf in optree.tree_leaves(residual)]
    return columns


def _step_size(
    value: Array, params: Tree, progress: Progress, previous: Any
) -> tuple[Array, Array]:
    """Return the largest parameter, and how far the last step moved any.

    That is a share of the largest parameter where the solver keeps it, and a length elsewhere, which the
    host divides.
    """
    old_params, old_iterations = previous
    size = tree_max_abs(params, value.ndim)
    moved = progress.relative_step
    if moved is not None:
        return size, moved
    moved = tree_max_abs(tree_subtract(params, old_params), value.ndim)
    if old_iterations is None:
        return size, moved
    # A trial that a line search refused is no step: how far it moved says nothing.
    xp = backends.namespace(value)
    return size, xp.where(progress.iterations > old_iterations, moved, moved + xp.nan)


def _leaf_residuals(objective: Any, params: Tree, grad: Tree) -> Tree:
    """Return the gradient in the user's coordinates; with a prox, its residual."""
    if not objective.nonsmooth:
        return objective.report(params, grad)[1]
    return objective.stationarity_residual(grad, params)


def _euclidean_length(tree: Tree, like: Array) -> Array:
    """Return the Euclidean length of each problem's part of a tree, scaled so that no square overflows."""
    xp = backends.namespace(like)
    leaves = optree.tree_leaves(tree)
    max_abs = xp.maximum(xp.zeros_like(like), tree_max_abs(tree, like.ndim))
    unit = xp.where((max_abs > 0.0) & xp.isfinite(max_abs), max_abs, xp.ones_like(max_abs))
    total = xp.zeros_like(like)
    for leaf in leaves:
        axes = tuple(range(like.ndim, leaf.ndim))
        scaled = leaf / xp.reshape(unit, (*unit.shape, *(1,) * len(axes)))
        total = total + (xp.sum(scaled * scaled, axis=axes) if axes else scaled * scaled)
    return unit * total**0.5
