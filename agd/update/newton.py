"""Descent in whitened coordinates: where the Hessian is the identity, one step is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Params
from agd.update.solver import Solver

__all__ = [
    "WhitenedDescent",
]

PATIENCE = 3.0  # steps in a row without a gradient of half the size


class WhitenedState(NamedTuple):
    """Value and gradient at the params, the least gradient seen, and for how many steps it has not fallen."""

    value: Array
    grad: Params
    least: Array
    idle: Array
    failed: Array


@dataclass(frozen=True)
class WhitenedDescent(Solver):
    r"""Gradient descent with step 1 in coordinates that whiten the squared loss.

    With H = G + a I the Hessian, by its factors N N' = D⁻¹ H⁻¹ D⁻¹ (`agd.gradient.preconditioner`)::

        w := w - D N N' D g(w)

    From any point one step leads to the minimum, but for rounding; a second, whose gradient comes from
    the data, leaves what rounding the data allow (iterative refinement). The first point is looked at
    through the moments, so that a fit costs one pass for them and one for each step here.

    Parameters
    ----------
    passes : int
        How many steps count as one, each with a pass over the data.
    accurate : bool
        Whether the objective sums gradients in twice the precision, and factored the columns by QR.

    Notes
    -----
    Björck (1967), "Iterative refinement of linear least squares solutions"; Golub and Van Loan (2013),
    *Matrix Computations*, section 5.3.8.

    Examples
    --------
    >>> from agd.update.newton import WhitenedDescent
    >>> WhitenedDescent().name
    'descent in whitened coordinates'
    """

    passes: int = 1
    accurate: bool = False

    rescaled = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        kind = "descent in whitened coordinates"
        return kind + (" by QR, refined in twice the precision" if self.accurate else "")

    @property
    def evaluations(self) -> int:
        """Passes over the data in one step."""
        return self.passes

    def init(self, objective: Any, params: Params) -> WhitenedState:
        """Look at the first point through the moments."""
        value, grad = objective.first(params)
        xp = backends.namespace(value)
        size, zero = objective.length(grad), xp.zeros_like(value)
        return WhitenedState(value, grad, size, zero, xp.zeros_like(value, dtype=xp.bool))

    def step(
        self, objective: Any, params: Params, state: WhitenedState
    ) -> tuple[Params, WhitenedState]:
        """Take the steps; fail where the gradient has fallen as far as rounding lets it."""
        value, grad = state.value, state.grad
        for _ in range(self.passes):
            params = objective.move(params, grad)
            value, grad = objective.value_and_grad(params)
        xp, size = backends.namespace(value), objective.length(grad)
        falls = size < 0.5 * state.least
        idle = xp.where(falls, xp.zeros_like(state.idle), state.idle + 1.0)
        least = xp.minimum(size, state.least)
        return params, WhitenedState(value, grad, least, idle, idle >= PATIENCE)
