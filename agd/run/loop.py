"""The loop: step, and now and then look. The only place where the host reads from the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Method, Objective, Tree
from agd._validation import as_bool
from agd.run.certificate import make_certificate, spectrum
from agd.run.compiled_step import CompiledStep
from agd.run.observation import Observation, ObservedFields
from agd.run.result import HistoryLog, Result, Status
from agd.run.stopping import Criterion, GradTol, RunProgress, Stop, StoppingMonitor, Test, as_stop

__all__ = [
    "Differenced",
    "Noise",
    "run",
    "status_message",
]


def run(
    method: Method,
    objective: Objective,
    x0: Tree,
    stop: Stop | Criterion | None = None,
    callback: Callable[[Result], object] | None = None,
    *,
    grad_tol: float | None = None,
    check_every: int = 10,
    differenced: Differenced | None = None,
) -> Result:
    """Step until a stopping test holds; look every ``stop.check_every`` steps.

    Parameters
    ----------
    method : Method
        What takes a step.
    objective : Objective
        What is minimised.
    x0 : tree of arrays
        The first point, in the objective's coordinates.
    stop : Stop or Criterion, optional
        When to stop; ``Stop()`` by default.
    callback : callable, optional
        Called with the result so far at every look since whose last a step was taken. The run ends if
        it raises StopIteration or returns True (also NumPy's, or an array's of one entry).
    grad_tol : float, optional
        The gradient's limit where `stop` tests no convergence of its own; 0 by default.
    check_every : int
        How many steps run between two looks where `stop` does not say; a method that draws
        mini-batches is looked at once an epoch.
    differenced : Differenced, optional
        That the objective's gradient is by finite differences, and how.

    Returns
    -------
    Result
        Where the run ended; a batch has one status and count for each problem.

    Raises
    ------
    TypeError, ValueError
        If `stop` is neither of these, or its limits do not fit the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.update import Descent, gradient_descent
    >>> objective = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> found = run(Descent(gradient_descent("auto")), objective, objective.zeros(),
    ...             Stop(grad_tol=1e-9))
    >>> found.status.name, bool(abs(found.x.coef[0] - 2.0) < 1e-7)
    ('CONVERGED', True)
    """
    a_run = _Run(method, objective, x0, as_stop(stop), grad_tol or 0.0, differenced)
    a_run.sharpen()
    every = a_run.stop.check_every or (check_every if a_run.epoch is None else a_run.epoch)
    while not a_run.monitor.done.all():
        a_run.go(every)
        stepped = a_run.monitor.advanced.any()
        a_run.sharpen()
        if callback is not None and stepped and _ends(callback, a_run.report):
            a_run.monitor.end(Status.CALLBACK)
    return a_run.report()


def _ends(callback: Callable[[Result], object], report: Callable[[], Result]) -> bool:
    result = report()
    try:
        with backends.count_host_reads():  # what a callback reads is no read of the run
            return _is_true(callback(result))
    except StopIteration:
        return True


def _is_true(answer: object) -> bool:
    """Return whether an answer is a bool, Python's or in an array, and true; a number says nothing."""
    array: Any = answer
    if backends.is_array(answer) and array.ndim:
        xp = backends.namespace(array)
        if array.dtype != xp.bool:
            return False
        if math.prod(array.shape) != 1:
            raise ValueError(
                f"callback must return one bool or None; got bools of shape {tuple(array.shape)}: take "
                f"their any() or all()"
            )
        array = xp.reshape(array, ())
    return as_bool(array) is True


class _Run:
    """The parts of a run: the machine that steps, the judge that ends it, the log that is kept."""

    def __init__(
        self,
        method: Method,
        objective: Any,
        x0: Tree,
        stop: Stop,
        grad_tol: float,
        differenced: Differenced | None = None,
    ) -> None:
        self.began = time.monotonic()
        self.method, self.objective, self.stop = method, objective, stop
        # Mini-batches: an epoch is an iteration, and what is tested costs a pass over the data.
        period = getattr(method, "period", None) if hasattr(method, "draw") else None
        self.epoch: int | None = None if period is None else period(objective)
        criterion = stop.criterion(grad_tol)
        self.differenced, self.noise = differenced, None
        if differenced is not None and not stop.tests_convergence:
            self.noise = Noise(differenced.noise)
            criterion = criterion | self.noise
        gradients = [part for part in criterion.parts() if isinstance(part, GradTol)]
        leaves = any(part.per_leaf for part in gradients)
        if leaves:
            criterion = criterion.resolved(objective.report(x0, x0)[0])
        self.grad_test = gradients[0] if gradients else None
        self.machine = CompiledStep(method, objective, x0)
        self.spectrum = spectrum(objective, self.machine.step_state.state)
        self.machine.observed_fields = ObservedFields(leaves, self.spectrum is not None)
        beside = list(self.spectrum.arrays) if self.spectrum is not None else None
        row, eps, read = self.machine.look(beside)
        self.known = self.spectrum.least(read) if self.spectrum is not None else None
        self.row = row
        # What was counted before the objective changed, and how many evaluations that was.
        self.spent, self.since = {"value_calls": 0, "grad_calls": 0}, np.zeros_like(row.evaluations)
        calls = self.calls("value_calls")
        seconds = time.monotonic() - self.began
        self.monitor = StoppingMonitor(criterion, row, calls, eps, seconds, self.epoch or 1)
        self.log = HistoryLog(row, calls)
        if self.monitor.done.any() and not self.monitor.done.all():
            self.machine.freeze(self.monitor.done)  # what is done before it began

    def calls(self, of: str) -> Any:
        """Return how often the user's function (or gradient) was called; a look may add to it."""
        looks = self.machine.n_sync if hasattr(self.method, "look") else 0
        exact = (self.row.evaluations - self.since + looks) * getattr(self.objective, of, 1)
        # Mini-batches count as shares of a call; their sum is rounded up.
        return self.spent[of] + np.ceil(np.round(exact, 6)).astype(int)

    def limit(self) -> Any:
        """Return what the gradient is held against; 0 where it is not."""
        limit = 0.0 if self.grad_test is None else self.grad_test.limit(self.monitor.first)
        return limit if self.noise is None else np.fmax(limit, self.noise.limit(self.row))

    def sharpen(self) -> None:
        """Go on by central differences where one-sided ones say no more: also from what looks converged."""
        known = self.differenced
        if known is None or known.central is None or self.epoch is not None:
            return
        limit = self.limit()
        limit = limit if isinstance(limit, float | np.ndarray | np.generic) else 0.0  # by leaf
        trials = self.row.steps - self.monitor.last_step
        again = known.undecided(self.row, self.monitor.status, limit, trials)
        if not again.any() or not (again | self.monitor.done).all():
            return
        self.spent = {of: self.calls(of) for of in self.spent}
        self.since = self.row.evaluations - again
        self.objective, self.differenced = known.central, None
        self.machine.replace_objective(known.central, again)
        self.row, _, _ = self.machine.look()
        self.monitor.reopen(again, self.row)
        self.log.add(self.row, self.calls("value_calls"), keep=False)

    def go(self, every: int) -> None:
        """Take some steps, look, and let the problems that have ended stand still."""
        a_step = self.method.evaluations * getattr(self.objective, "value_calls", 1)
        self.machine.steps(self.monitor.steps_until_check(every, a_step))
        self.row, _, _ = self.machine.look()
        calls = self.calls("value_calls")
        ended = self.monitor.done
        self.monitor.look(self.row, calls, time.monotonic() - self.began)
        if (self.monitor.done != ended).any() and not self.monitor.done.all():
            self.machine.freeze(self.monitor.done)
        self.log.add(self.row, calls, keep=bool(self.monitor.advanced.any()))

    def report(self) -> Result:
        """Put together the result so far."""
        row, status = self.row, self.monitor.status
        single = status.ndim == 0
        nit = row.iterations.astype(int)
        x, jac = self.machine.report()
        return Result(
            x=x,
            fun=as_scalar(row.value),
            jac=jac,
            nit=as_scalar(nit),
            nfev=as_scalar(self.calls("value_calls")),
            njev=as_scalar(self.calls("grad_calls")),
            status=(Status(int(status)) if status >= 0 else None) if single else status,
            success=as_scalar(status == Status.CONVERGED),
            message=status_message(status, nit),
            history=self.log.history(),
            n_sync=self.machine.n_sync,
            method=self.method.name + self.machine.note,
            certificate=make_certificate(
                row,
                self.limit(),
                self.method,
                self.log.observed_contraction(),
                self.known,
                self.spectrum.why if self.spectrum is not None else "",
            ),
        )


def status_message(status: Any, nit: Any) -> str:
    """Say how a run ended, or how its problems did."""
    if status.ndim == 0:
        return (
            f"{Status(int(status)).advice} (after {_steps(int(nit))})" if status >= 0 else "running"
        )
    counts = [(s, int((status == s).sum())) for s in Status]
    return "; ".join(f"{n} of {status.size} {s.advice}" for s, n in counts if n) or "running"


def _steps(nit: int) -> str:
    return "1 step" if nit == 1 else f"{nit} steps"


# By how much a gradient has to stand out of the error of one-sided differences; and by how much after
# so many trials without a step, which a line search makes where its slopes are wrong.
MARGIN, STALLED, TRIALS = 4.0, 100.0, 4
ROUNDINGS = 4.0  # how many a value is taken to be wrong by


class Differenced(NamedTuple):
    """How a run's gradient is differenced.

    Attributes
    ----------
    eps : float
        The rounding of the values.
    central : Objective or None
        The same objective by central differences, for the last steps; None where they are central.
    """

    eps: float
    central: Any = None

    @property
    def noise(self) -> float:
        """Return what rounding leaves unknown of a central difference, as a share of the value."""
        return float(ROUNDINGS * self.eps ** (2.0 / 3.0))

    def undecided(self, row: Observation, status: Any, limit: Any, trials: Any) -> Any:
        r"""Return the problems of which one-sided differences say no more.

        Their error is about ::

            eps^(1/2) (L max(1, |x|) / 2 + 2 |f|)

        with L the largest curvature that the run has seen. A problem is undecided where the gradient
        does not stand out of that; and where the line search can go no further, or the gradient is
        within its limit and the error is not known to be, whatever the estimate says.

        Parameters
        ----------
        row : Row
            The last look.
        status : numpy.ndarray of int, shape (...)
            What the problems' statuses are.
        limit : float or numpy.ndarray
            The gradient's limit.
        trials : numpy.ndarray, shape (...)
            How many steps of the loop brought no step of the problem's, last.
        """
        size = np.fmax(1.0, row.size)
        error = self.eps**0.5 * (0.5 * row.curvature * size + 2.0 * np.abs(row.value))
        small = row.grad_norm <= limit
        margin = np.where(trials >= TRIALS, STALLED, MARGIN)
        hidden = margin * error >= np.where(small, limit, row.grad_norm)
        converged = (status == Status.CONVERGED) & small & (hidden | (row.curvature <= 0.0))
        return (status < 0) & hidden | converged | (status == Status.LINE_SEARCH)


@dataclass(frozen=True)
class Noise(Test):
    """Converged when the gradient is within a share of the value: what differences leave unknown of it."""

    share: float

    def limit(self, row: Observation) -> Any:
        """Return what the size of the gradient is held against."""
        return self.share * np.abs(row.value)

    def holds(self, seen: RunProgress) -> Any:
        """Return where the gradient is within its limit."""
        return seen.row.grad_norm <= self.limit(seen.row)
