"""What perturbed descent keeps of the method that it perturbs, and passes on."""

from __future__ import annotations

from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Tree

__all__ = ["PerturbedState", "more", "told"]


class PerturbedState(NamedTuple):
    """Where the best point and the moving point are, and what is known of them.

    Attributes
    ----------
    value, grad : array, tree
        Of the params: the best point while a perturbed one is followed, else the moving point.
    point, inner : tree
        The moving point, and the state there of the method that moves it.
    kept : tree
        The method's state at the params, to go back to.
    waiting : array
        For how many periods a perturbed point has been followed; 0 where none is.
    unsettled : array of bool
        Whether a perturbation has yet to show that the params are no saddle.
    top : array
        The largest gradient seen, which says what a small one is.
    iterations, evaluations, failed, moved, curvature, least_curvature, walled
        As other states have them; None where the method's own does not.
    """

    value: Array
    grad: Tree
    point: Tree
    inner: Any
    kept: Any
    waiting: Array
    unsettled: Array
    top: Array
    iterations: Array
    evaluations: Array
    failed: Array
    moved: Array | None
    curvature: Array | None
    least_curvature: Array | None
    walled: Array | None


def more(new: Any, old: Any, name: str, default: Array) -> Array:
    """Return by how much a method's count went up in a step."""
    after = getattr(new, name, None)
    return default if after is None else after - getattr(old, name)


def told(state: PerturbedState) -> PerturbedState:
    """Pass on what the method's state says of the moving point."""
    inner, xp = state.inner, backends.namespace(state.value)
    curvature, least = state.curvature, state.least_curvature
    failed = getattr(inner, "failed", None)
    if curvature is not None:
        curvature = xp.maximum(curvature, inner.curvature)
    if least is not None:
        least = xp.minimum(least, inner.least_curvature)
    return state._replace(
        failed=state.failed if failed is None else failed & ~state.unsettled,
        moved=getattr(inner, "moved", None),
        curvature=curvature,
        least_curvature=least,
        walled=getattr(inner, "walled", None),
    )
