"""How a run ended, and what to do next."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """How a run ended; the values are SciPy's where SciPy has one.

    >>> Status.CONVERGED == 0
    True
    >>> Status.DEADLINE.advice.partition(":")[0]
    'stopped at the deadline before it converged'
    """

    CONVERGED = 0
    MAX_ITER = 1
    DIVERGED = 2
    NON_FINITE = 3
    LINE_SEARCH = 4
    UNBOUNDED = 5
    DEADLINE = 6
    CALLBACK = 99

    @property
    def advice(self) -> str:
        """What happened, and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "converged",
    Status.MAX_ITER: (
        "stopped at the limit of iterations or calls before it converged: raise max_iter, start from "
        "this result (init=), or ask for less (grad_tol)"
    ),
    Status.DIVERGED: "diverged: the learning rate is too large; returned the last finite point",
    Status.NON_FINITE: (
        "the value or the gradient is not finite: returned the last finite point; check the data and "
        "the function there"
    ),
    Status.LINE_SEARCH: (
        "the line search found no lower point along its direction: either the precision of the "
        "arithmetic is reached or the gradient is wrong: run agd.check_gradient"
    ),
    Status.UNBOUNDED: (
        "the value falls without bound: no minimum exists that way; check the sign of the function, or "
        "give bounds or a penalty"
    ),
    Status.DEADLINE: (
        "stopped at the deadline before it converged: allow more seconds, or start from this result"
    ),
    Status.CALLBACK: "stopped by the callback, before it converged: to go on, start from this result (init=)",
}
