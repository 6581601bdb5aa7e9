"""Newton's method for the squared loss, whose Hessian is known from its moments.

In whitened coordinates the Hessian is the identity, so that a Newton step is a gradient step of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Params, Progress
from agd.update.solver import Solver

__all__ = [
    "NewtonStep",
]

# Steps in a row that do not halve the gradient: then rounding is all that is left of it.
MAX_STEPS_WITHOUT_GAIN = 3.0


class NewtonState(NamedTuple):
    """Value and gradient at the params, the smallest norm of a gradient, and the steps since it halved."""

    value: Array
    grad: Params
    progress: Progress
    min_norm: Array
    steps_without_gain: Array


@dataclass(frozen=True)
class NewtonStep(Solver):
    r"""Gradient descent with step 1 in coordinates that whiten the squared loss.

    With H = G + a I the Hessian, by its factors N N' = D⁻¹ H⁻¹ D⁻¹ (`agd.gradient.preconditioner`)::

        w := w - D N N' D g(w)

    From any point one step leads to the minimum, but for rounding; a second, whose gradient comes from
    the data, corrects what rounding of the moments lost (iterative refinement). The first point is evaluated
    on the moments, so that a fit costs one pass for them and one for each step here.

    Parameters
    ----------
    refinements : int
        How many corrections one step makes, each with a pass over the data.
    compensated : bool
        Whether the objective sums gradients in twice the precision, and factored the columns by QR.

    Notes
    -----
    Björck (1967), "Iterative refinement of linear least squares solutions"; Golub and Van Loan (2013),
    *Matrix Computations*, section 5.3.8.

    Examples
    --------
    >>> from agd.update.newton import NewtonStep
    >>> NewtonStep().name
    'descent in whitened coordinates'
    """

    refinements: int = 1
    compensated: bool = False

    rescaled = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        kind = "descent in whitened coordinates"
        return kind + (" by QR, refined in twice the precision" if self.compensated else "")

    @property
    def evaluations(self) -> int:
        """Passes over the data in one step."""
        return self.refinements

    def init(self, objective: Any, params: Params) -> NewtonState:
        """Evaluate the first point on the moments, without a pass over the data."""
        value, grad = objective.first(params)
        xp = backends.namespace(value)
        progress = Progress(stalled=xp.zeros_like(value, dtype=xp.bool))
        return NewtonState(value, grad, progress, objective.length(grad), xp.zeros_like(value))

    def step(
        self, objective: Any, params: Params, state: NewtonState
    ) -> tuple[Params, NewtonState]:
        """Take the Newton steps; stall where rounding lets the gradient fall no further."""
        value, grad = state.value, state.grad
        for _ in range(self.refinements):
            params = objective.move(params, grad)
            value, grad = objective.value_and_grad(params)
        xp, norm = backends.namespace(value), objective.length(grad)
        halved = norm < 0.5 * state.min_norm
        without_gain = state.steps_without_gain
        without_gain = xp.where(halved, xp.zeros_like(without_gain), without_gain + 1.0)
        progress = Progress(stalled=without_gain >= MAX_STEPS_WITHOUT_GAIN)
        return params, NewtonState(
            value, grad, progress, xp.minimum(norm, state.min_norm), without_gain
        )
