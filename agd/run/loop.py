"""The loop: take steps, and observe the problems now and then until a stopping test holds.

It is the only loop there is. The doors, refinement and the warm start all call `run` with a solver and an
objective. The device takes the steps (``run/compiled_step.py``); the host reads one small array for each
observation (``run/observation.py``), and the stopping monitor (``run/stopping.py``) decides.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import TreeLayout, as_scalar, tree_axpy, tree_max_abs
from agd._typing import Method, Objective, Tree
from agd._validation import as_bool, check_callback, writable_copy
from agd.gradient.critical_points import newton_decrement
from agd.gradient.objective import as_objective
from agd.run.certificate import find_least_curvature, make_certificate
from agd.run.compiled_step import CompiledStep
from agd.run.host_step import HostStep
from agd.run.observation import Observation, ObservedFields
from agd.run.result import HistoryLog, Result, Status
from agd.run.stopping import (
    Criterion,
    GradTol,
    Plateau,
    RunProgress,
    Stop,
    StoppingMonitor,
    Test,
    as_stop,
    capped_limit,
)
from agd.update.solver import as_solver

__all__ = [
    "FiniteDifferences",
    "RoundingTol",
    "asks_to_end",
    "attach_result",
    "attached_result",
    "callback_of_results",
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
    differences: FiniteDifferences | None = None,
    value_eps: float | None = None,
) -> Result:
    """Take steps until a stopping test holds; observe the problems every ``stop.check_every`` steps.

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
        Called with the result so far after every observation since whose last a step was taken. The run
        ends if it raises StopIteration or returns True (also NumPy's, or an array's of one entry).
    grad_tol : float, optional
        The gradient's limit where `stop` tests no convergence of its own; 0 by default.
    check_every : int
        How many steps run between two observations where `stop` does not say; a method that draws
        mini-batches is observed once an epoch.
    differences : FiniteDifferences, optional
        How the objective's gradient is approximated by finite differences, if it is.
    value_eps : float, optional
        The rounding of the values, where `grad_tol` was chosen without knowing the objective's scale. It is
        then at most a share of the first gradient, what the value should fall by in the next step has to be a
        small share of what it fell by, and a run has also converged where its line search ends in rounding.

    Returns
    -------
    Result
        Where the run ended; a batch has one status and count for each problem.

    Raises
    ------
    TypeError, ValueError
        If `stop` is neither of these, or its limits do not fit the parameters.
    KeyboardInterrupt
        As it was raised during a step or by the callback, with the result so far as its attribute ``result``.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.update import Descent, gradient_descent
    >>> objective = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> result = run(Descent(gradient_descent("auto")), objective, objective.zeros(),
    ...              Stop(grad_tol=1e-9))
    >>> result.status.name, bool(abs(result.x.coef[0] - 2.0) < 1e-7)
    ('CONVERGED', True)
    """
    # What overflows shows in the status, and what underflows is 0, whatever NumPy is set to do.
    with np.errstate(all="ignore"):
        a_run = _Run(
            method, as_objective(objective), x0, as_stop(stop), grad_tol or 0.0, differences, value_eps
        )  # fmt: skip
        a_run.switch_to_central()
        if a_run.method.host_scalars:  # an observation costs nothing
            check_every = 1
        every = a_run.stop.check_every or (check_every if a_run.epoch is None else a_run.epoch)
        try:
            while not a_run.monitor.all_done:
                a_run.advance(every)
                stepped = a_run.monitor.any_advanced
                a_run.switch_to_central()
                a_run.check_curvatures()
                report = a_run.intermediate_result
                if callback is not None and stepped and asks_to_end(callback, report):
                    a_run.monitor.end(Status.CALLBACK)
        except KeyboardInterrupt as interrupt:
            a_run.monitor.end(Status.INTERRUPTED)
            attach_result(interrupt, a_run.report())
            raise
        return a_run.report()


def attach_result(interrupt: KeyboardInterrupt, result: Result) -> None:
    """Let an interrupt carry the result so far, so that a long run is not lost with it."""
    if attached_result(interrupt) is None:
        interrupt.add_note(
            f"agd: interrupted after {np.max(result.nit)} steps. The result so far is an attribute of this "
            f"exception: `except KeyboardInterrupt as interrupt: interrupt.result`"
        )
    interrupt.__dict__["result"] = result


def attached_result(interrupt: KeyboardInterrupt) -> Any:
    """Return the result that an interrupt carries; None where no run had begun."""
    return interrupt.__dict__.get("result")


def callback_of_results(callback: Any) -> Callable[[Result], object] | None:
    """Return a callback of results that calls the user's as SciPy does, by the name of its parameter.

    One whose only parameter is ``intermediate_result`` gets the result so far, any other the point.
    """
    check_callback(callback)
    if callback is None:
        return None
    try:
        names = list(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # some that are written in C do not say
        names = []
    if names == ["intermediate_result"]:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)


def asks_to_end(callback: Callable[[Result], object], report: Callable[[], Result]) -> bool:
    """Call the user's callback with the result so far, and return whether it asks the run to end."""
    result = report()
    try:
        with backends.count_host_reads():  # the callback's own reads are not counted as the run's
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
    """One run: the compiled step, the monitor that ends it, and the history of what was observed."""

    def __init__(
        self,
        method: Method,
        objective: Any,
        x0: Tree,
        stop: Stop,
        grad_tol: float,
        differences: FiniteDifferences | None = None,
        value_eps: float | None = None,
    ) -> None:
        self.start_time = time.monotonic()
        self.method: Any = as_solver(method).with_host_scalars()
        self.objective, self.stop = objective, stop
        # With mini-batches an epoch counts as an iteration, since an observation costs a pass over the data.
        self.epoch: int | None = self.method.period(objective) if self.method.stochastic else None
        self.differences = differences
        self.value_at = None if differences is None else differences.value_at
        self.rounding_limit: RoundingTol | None = None
        criterion = self._criterion(x0, grad_tol, value_eps)
        kind = HostStep if self.method.host_scalars else CompiledStep
        self.compiled_step: Any = kind(self.method, objective, x0)
        self.least_curvature = find_least_curvature(objective, self.compiled_step.state)
        self.compiled_step.observed_fields = ObservedFields(
            leaves=self.per_leaf, length=self.least_curvature.is_known
        )
        # The arrays of the least curvature travel with the first observation: they cost no read of their own.
        self.observation, eps, arrays = self.compiled_step.observe(self.least_curvature.arrays)
        self.curvature_pair = self.least_curvature.resolve(arrays)
        # Calls of the function before the objective was replaced, and the evaluations that they were.
        self.earlier_calls = {"value_calls": 0, "grad_calls": 0}
        self.check_calls: Any = 0  # that the checks of the curvatures took
        self.on_plateau = False
        self.earlier_evaluations = 0.0 * self.observation.evaluations
        calls = self.count_calls("value_calls")
        seconds = time.monotonic() - self.start_time
        self.default_limit, self.eps = grad_tol, eps
        self.tests_rounding = value_eps is not None and not self.stop.tests_convergence
        self.monitor = StoppingMonitor(
            criterion, self.observation, calls, eps, seconds, self.epoch or 1,
            is_rounding=self.is_rounding if self.tests_rounding else None,
        )  # fmt: skip
        self.history_log = HistoryLog(self.observation, calls)
        self.first_point = (x0, self.compiled_step.state.grad) if self.tests_rounding else None
        self._freeze_ended(None)

    def _criterion(self, x0: Tree, grad_tol: float, value_eps: float | None) -> Criterion:
        """Return all stopping tests as one, and keep the test of the gradient, which the result quotes."""
        criterion = self.stop.criterion(grad_tol, value_eps=value_eps)
        plateau = self.method.plateau
        if plateau is not None and not self.stop.tests_convergence:
            criterion = criterion | Plateau(*plateau)
        if self.differences is not None and not self.stop.tests_convergence:
            self.rounding_limit = RoundingTol(self.differences.relative_error)
            criterion = criterion | self.rounding_limit
        gradients = [part for part in criterion.parts() if isinstance(part, GradTol)]
        self.grad_test = gradients[0] if gradients else None
        self.per_leaf = any(part.per_leaf for part in gradients)
        return criterion.resolved(self.objective.report(x0, x0)[0]) if self.per_leaf else criterion

    def count_calls(self, name: str) -> Any:
        """Return how often the user's function or its gradient was called, for each problem.

        Parameters
        ----------
        name : str
            "value_calls" or "grad_calls": the objective's attribute with the calls of one evaluation.
        """
        # An observation of a mini-batch method evaluates the whole objective once more.
        observations = self.compiled_step.n_sync if self.method.minibatch_state else 0
        repeated = self.compiled_step.repeated_steps * self.method.evaluations
        extra = observations + repeated
        evaluations = self.observation.evaluations - self.earlier_evaluations + extra
        by_values = name == "value_calls"
        calls = evaluations * (
            self.objective.value_calls if by_values else self.objective.grad_calls
        )
        if type(calls) is float:
            return self.earlier_calls[name] + math.ceil(round(calls, 6))
        # Mini-batches count as shares of a call; their sum is rounded up.
        return self.earlier_calls[name] + np.ceil(np.round(calls, 6)).astype(int)

    def gradient_limit(self) -> Any:
        """Return the limit of the gradient at which the run has converged; 0 where none is tested."""
        first = self.monitor.first
        limit = 0.0 if self.grad_test is None else self.grad_test.limit(first)
        if self.rounding_limit is None:
            return limit
        return np.fmax(limit, capped_limit(self.rounding_limit.limit(self.observation), first))

    def is_rounding(self, observation: Observation) -> Any:
        """Return where the gradient is rounding, or what is left to fall is no more than that of the value.

        The function can fall by |g|² / (2 mu) or so, with mu the smallest curvature that the run has met. Of a
        run that took no step none is known: there the gradient must be within the default limit, and too
        small for a change of x by a share of eps^(1/2) to show in the value.
        """
        if self.rounding_limit is not None:
            limit = self.rounding_limit.limit(observation)
            return observation.grad_norm <= capped_limit(limit, self.monitor.first)
        size, mu, value = observation.grad_norm, observation.least_curvature, abs(observation.value)
        no_fall = (mu > 0.0) & (size * size <= MAX_ROUNDING_EPS * self.eps * value * mu)
        unmoved = (observation.curvature <= 0.0) & (size <= self.default_limit)
        return no_fall | (unmoved & (size * observation.size <= self.eps**0.5 * value))

    def switch_to_central(self) -> None:
        """Replace forward differences by central ones where their error hides the gradient.

        That holds also of what looks converged: by the finer gradient it may not be.
        """
        differences = self.differences
        if differences is None or differences.central is None or self.epoch is not None:
            return
        limit = self.gradient_limit()
        # A tree has a limit for each leaf: none of them is one for the size of the gradient.
        limit = limit if isinstance(limit, float | np.ndarray | np.generic) else 0.0
        trials = self.observation.steps - self.monitor.last_step
        undecided = differences.undecided(self.observation, self.monitor.status, limit, trials)
        if not undecided.any() or not (undecided | self.monitor.done).all():
            return
        self.earlier_calls = {name: self.count_calls(name) for name in self.earlier_calls}
        self.earlier_evaluations = self.observation.evaluations - undecided
        self.objective, self.differences = differences.central, None
        self.compiled_step.replace_objective(differences.central, undecided)
        self.observation, _, _ = self.compiled_step.observe()
        first = self.monitor.first  # of which one-sided differences may have seen nothing
        larger = np.fmax(first.grad_norm, self.observation.grad_norm)
        self.monitor.first = first._replace(grad_norm=larger)
        self.monitor.reopen(undecided, self.observation)
        self.history_log.add(self.observation, self.count_calls("value_calls"), keep=False)

    def check_curvatures(self) -> None:
        """Let a run go on that looks converged, but whose quadratic model still falls by a share that counts.

        A run whose line search failed has converged where the model falls by no more than rounding.
        Of curvatures that differ much, the flat directions hardly show in the gradient, nor in what a
        quasi-Newton method knows of them. The Hessian costs two gradients a variable, or n² values: it is formed
        only where `_suspects_flat_directions` says so, and where the run has taken as many calls.
        """
        if not self.tests_rounding or self.epoch is not None or self.objective.nonsmooth:
            return
        if not self.monitor.done.all():
            return
        seen, objective = self.observation, self.objective
        n = TreeLayout.of(self.compiled_step.params, np.ndim(seen.value)).size
        # Of a gradient by differences the Hessian is formed from values.
        new_calls = 2 * n * objective.value_calls if self.value_at is None else n * n + n + 2
        if self.differences is not None and self.differences.central is not None:
            new_calls += self.differences.central.value_calls
        # All checks together take no more calls than the run beside them.
        calls = self.count_calls("value_calls") - self.check_calls
        allowed = np.maximum(calls, MIN_CHECK_CALLS) - self.check_calls
        status = self.monitor.status
        stalled = (status == Status.LINE_SEARCH) & (seen.curvature != 0.0)
        checked = stalled | ((status == Status.CONVERGED) & self._suspects_flat_directions())
        moved = (seen.grad_norm > 0.0) | (seen.iterations > 0)
        checked = checked & moved & (new_calls <= allowed)
        if not np.any(checked):
            return
        left, saddle = self._newton_decrement(checked)
        limit = np.maximum(self.eps**0.5 * np.abs(seen.value), self.eps * self._fall())
        # Of a plateau no gradient is small enough, not even 0.
        max_grad_norm = np.where(left == np.inf, -1.0, np.sqrt(limit / left) * seen.grad_norm)
        self.on_plateau = bool(np.any(checked & (left == np.inf)))
        rounding = self.eps ** (2.0 / 3.0) * np.abs(seen.value)
        hidden_minimum = checked & stalled & (left <= rounding) & ~saddle
        status = np.where(hidden_minimum, Status.CONVERGED, status)
        at_saddle = checked & ~stalled & saddle & (left <= limit)
        self.monitor.status = np.where(at_saddle, Status.NO_MINIMUM, status)
        refused = checked & (left > limit) & ~stalled
        if np.any(refused):
            self.compiled_step.resume(refused)
            self.monitor.refuse_convergence(refused, seen._replace(finite=1.0), max_grad_norm)

    def _newton_decrement(self, checked: Any) -> tuple[Any, Any]:
        """Return how far the quadratic model falls, and where it is a saddle's; count the calls for the problems."""
        objective, point = self.objective, self.compiled_step.params
        finer = None if self.differences is None else self.differences.central
        gradients, values = 0, 0

        def gradient_at(x: Tree) -> Tree:
            nonlocal gradients
            gradients += 1
            return objective.value_and_grad(x)[1]

        def value_at(x: Tree) -> Any:
            nonlocal values
            values += 1
            return self.value_at(x) if self.value_at is not None else None

        with backends.count_host_reads(shared=True) as reads:
            grad = (
                self.compiled_step.state.grad if finer is None else finer.value_and_grad(point)[1]
            )
            left, saddle = newton_decrement(
                gradient_at, point, grad, np.ndim(self.observation.value),
                first=self.first_point, value_at=None if self.value_at is None else value_at,
            )  # fmt: skip
        self.compiled_step.n_sync += reads[0]
        values += gradients * objective.value_calls + (0 if finer is None else finer.value_calls)
        gradients = gradients * objective.grad_calls + (0 if finer is None else finer.grad_calls)
        self.earlier_calls["value_calls"] += checked * values
        self.earlier_calls["grad_calls"] += checked * gradients
        self.check_calls = self.check_calls + checked * values
        self.history_log.correct_calls(self.count_calls("value_calls"))
        return left, saddle

    def _fall(self) -> Any:
        return np.abs(self.monitor.first.value - self.observation.value)

    def _suspects_flat_directions(self) -> Any:
        """Return where the run met curvatures that differ much, or negative ones, or hardly fell."""
        seen, fall = self.observation, self._fall()
        at_zero = np.abs(seen.value) <= self.eps**0.5 * fall
        condition = np.where(at_zero, MAX_CONDITION_AT_0, MAX_PLAIN_CONDITION)
        plain = (seen.curvature > 0.0) & (seen.curvature < condition * seen.least_curvature)
        fell = fall > MIN_PLAIN_FALL * np.abs(self.monitor.first.value)
        return (seen.curvature != 0.0) & np.logical_not(plain & fell)

    def advance(self, every: int) -> None:
        """Take some steps, observe the problems, and freeze those that have ended."""
        calls_per_step = self.method.evaluations * self.objective.value_calls
        device = self.compiled_step
        point = device.params, device.state
        try:
            device.take_steps(self.monitor.steps_until_check(every, calls_per_step))
            self.observation, _, _ = device.observe()
        except KeyboardInterrupt:  # the last observation is of the point before these steps
            device.params, device.state = point
            raise
        calls = self.count_calls("value_calls")
        status_before = self.monitor.status
        self.monitor.update(self.observation, calls, time.monotonic() - self.start_time)
        self._freeze_ended(status_before)
        self.history_log.add(self.observation, calls, keep=self.monitor.any_advanced)

    def _freeze_ended(self, status_before: Any) -> None:
        """Let the problems stand still that have ended; a status that is the same array has not changed."""
        if self.monitor.status is not status_before and not self.monitor.all_done:
            self.compiled_step.freeze(self.monitor.done)

    def intermediate_result(self) -> Result:
        """Put together the result so far for a callback; a read that only the last one needs is left out.

        The callback may write to its point and gradient, which are copies.
        """
        result = self._result(self.compiled_step.as_arrays(self.observation))
        return replace(result, x=writable_copy(result.x), jac=writable_copy(result.jac))

    def report(self) -> Result:
        """Put together the result of the run."""
        return self._result(self.compiled_step.complete(self.observation))

    def _result(self, observation: Observation) -> Result:
        status = self.monitor.status
        single = status.ndim == 0
        nit = np.asarray(observation.iterations).astype(int)
        # Words come before the counts, which they may add to.
        message = self._message(status, nit)
        if single and status == Status.NON_FINITE:
            message = message.replace(Status.NON_FINITE.advice, self._nonfinite_words())
        if self.method.update_rule is None:
            message = message.replace(Status.DIVERGED.advice, DIVERGED_WITHOUT_RATE)
        x, jac = optree.tree_map(_as_array, self.compiled_step.report())
        return Result(
            x=x,
            fun=as_scalar(observation.value),
            jac=jac,
            nit=as_scalar(nit),
            nfev=as_scalar(self.count_calls("value_calls")),
            njev=as_scalar(self.count_calls("grad_calls")),
            status=(Status(int(status)) if status >= 0 else None) if single else status,
            success=as_scalar(status == Status.CONVERGED),
            message=message,
            history=self.history_log.history(),
            n_sync=self.compiled_step.n_sync,
            method=self.method.name + self.compiled_step.note,
            certificate=make_certificate(
                observation,
                self.gradient_limit(),
                self.method,
                self.history_log.observed_contraction(),
                self.curvature_pair,
                self.least_curvature.source,
            ),
        )

    def _nonfinite_words(self) -> str:
        """Say what is not finite: at the point itself, or next to it, down its gradient.

        Of a linear model the data are finite: what can overflow is the point itself. Of a function some values are
        asked for, which are counted.
        """
        seen, objective = self.observation, self.objective
        if not (np.isfinite(seen.value) and np.isfinite(seen.grad_norm)):
            place = "where the run ended" if seen.iterations else "at the first point (init=)"
            return _words_of_nonfinite(float(seen.value), float(seen.grad_norm), place)
        if objective.linear_objective is not None:
            return Status.NON_FINITE.advice
        point, grad = self.compiled_step.params, self.compiled_step.state.grad
        for share in NEIGHBOUR_DISTANCES:
            t = float(share * max(1.0, seen.size) / seen.grad_norm) if seen.grad_norm else 0.0
            trial = tree_axpy(-t, grad, point)
            trial = objective.prox(trial, t) if objective.nonsmooth else trial
            value, slopes = objective.value_and_grad(trial)
            for name in self.earlier_calls:
                per_evaluation = (
                    objective.value_calls if name == "value_calls" else objective.grad_calls
                )
                self.earlier_calls[name] += int(per_evaluation)
            numbers = backends.read_together([value, tree_max_abs(slopes, 0)])
            if not np.isfinite(numbers).all():
                place = "next to the last finite point, which is returned"
                return _words_of_nonfinite(float(numbers[0]), float(numbers[1]), place)
        if self.method.update_rule is not None:
            return "the next step leads out of the range of the dtype: use a smaller learning_rate"
        return (
            "the arithmetic of the method overflows, at a point where value and gradient are finite: start nearer "
            "to a minimum, or scale the function"
        )

    def _message(self, status: Any, nit: Any) -> str:
        """Say how the run ended; of one that converged by its value, what stood still and what the gradient is."""
        message, plateau = status_message(status, nit), self.monitor.plateau
        if self.on_plateau and not status.ndim:
            message = message.replace(Status.LINE_SEARCH.advice, PLATEAU_WORDS)
        waited = plateau is not None and self.monitor.without_gain >= plateau.patience
        if plateau is None or status.ndim or status != Status.CONVERGED or not waited:
            return message
        share = float(self.observation.grad_norm / self.monitor.first.grad_norm)
        return (
            f"{message}: by the value, which gained less than {plateau.rtol:g} of its fall in {plateau.patience} "
            f"epochs; the gradient is {share:.1g} of the first"
        )


PLATEAU_WORDS = (
    "the function no longer hangs on one of its variables where the run ended, as on a plateau, which need have no "
    "minimum: start elsewhere, or give bounds"
)
# How far from the last finite point others are asked for, as a share of its size.
NEIGHBOUR_DISTANCES = (1e-15, 1e-8, 1e-4, 1e-2, 1.0, 100.0)


def _words_of_nonfinite(value: float, grad_norm: float, place: str) -> str:
    """Say which of value and gradient is NaN or infinite at a place, and what to do."""
    if math.isfinite(value):
        kind = "NaN" if math.isnan(grad_norm) else "infinite"
        return f"the gradient is not finite: {kind} {place}, where the value is finite; check the derivative there"
    if math.isnan(value):
        advice = "check the data and the function there, such as the root of a negative number, or keep away by bounds"
    elif value > 0.0:
        advice = "it overflows or has a pole there; start elsewhere, keep away by bounds, or scale the function"
    else:
        advice = "the function has no minimum there"
    kind = "NaN" if math.isnan(value) else "infinite" if value > 0.0 else "-infinity"
    return f"the value is not finite: {kind} {place}; {advice}"


def _as_array(x: Any) -> Any:
    """Return NumPy's numbers as arrays without axes, and any array as it is."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def status_message(status: Any, nit: Any) -> str:
    """Say how a run ended, or how its problems did."""
    if status.ndim == 0:
        if status < 0:
            return "running"
        return Status(int(status)).message(int(nit))
    counts = [(s, int((status == s).sum())) for s in Status]
    return "; ".join(f"{n} of {status.size} {s.advice}" for s, n in counts if n) or "running"


# The gradient is undecided where it is below this multiple of the error of forward differences; the larger
# multiple holds after so many trials in a row without a step, which a line search makes where its slopes
# are wrong.
MIN_ERROR_RATIO, MIN_ERROR_RATIO_STALLED, MIN_STALLED_TRIALS = 4.0, 100.0, 4
# Up to such a ratio of the curvatures that were met, a small gradient is taken to say all; where the value is all
# but 0, up to the second.
MAX_PLAIN_CONDITION, MAX_CONDITION_AT_0 = 1e3, 1e4
MIN_PLAIN_FALL = 0.2  # of the first value: after less, the run may have begun on a plateau
MIN_CHECK_CALLS = 10  # that a check of the curvatures may cost however short the run is
MAX_ROUNDING_EPS = 16.0  # eps: a share of the value that is taken to be its rounding
VALUE_ERROR_EPS = 4.0  # eps: the relative error that a value of the function is taken to have


DIVERGED_WITHOUT_RATE = (
    "diverged: value and gradient grew out of the range of the dtype; returned the last finite point: start "
    "nearer to a minimum, or scale the function"
)


class FiniteDifferences(NamedTuple):
    """How a run's gradient is approximated by finite differences.

    Attributes
    ----------
    eps : float
        The rounding of the values.
    value_at : callable
        ``value_at(x)``: the value alone, one call of the function.
    central : Objective or None
        The same objective by central differences, for the last steps; None where they are central.
    """

    eps: float
    value_at: Callable[[Tree], Any]
    central: Any = None

    @property
    def relative_error(self) -> float:
        """The error of a central difference by rounding, as a share of the value."""
        return float(VALUE_ERROR_EPS * self.eps ** (2.0 / 3.0))

    def undecided(self, observation: Observation, status: Any, limit: Any, trials: Any) -> Any:
        r"""Return the problems whose gradient is hidden by the error of forward differences.

        That error is about ::

            eps^(1/2) (L max(1, |x|) / 2 + 2 |f|)

        with L the largest curvature that the run has met. A problem is undecided where the gradient
        does not stand out of it; where the line search has failed; and where the gradient is within its
        limit but L, and so the error, is not known.

        Parameters
        ----------
        observation : Observation
            The last one.
        status : numpy.ndarray of int, shape (...)
            The problems' statuses.
        limit : float or numpy.ndarray
            The gradient's limit.
        trials : numpy.ndarray, shape (...)
            How many steps of the loop in a row brought no iteration of the problem's.
        """
        size = np.fmax(1.0, observation.size)
        error = self.eps**0.5 * (
            0.5 * observation.curvature * size + 2.0 * np.abs(observation.value)
        )
        within_limit = observation.grad_norm <= limit
        stalled = trials >= MIN_STALLED_TRIALS
        ratio = np.where(stalled, MIN_ERROR_RATIO_STALLED, MIN_ERROR_RATIO)
        hidden = ratio * error >= np.where(within_limit, limit, observation.grad_norm)
        unknown_error = observation.curvature <= 0.0
        converged = (status == Status.CONVERGED) & within_limit & (hidden | unknown_error)
        return (status < 0) & hidden | converged | (status == Status.LINE_SEARCH)


@dataclass(frozen=True)
class RoundingTol(Test):
    """Converged when the gradient is within the rounding error of central differences.

    Parameters
    ----------
    share : float
        That error as a share of the value.
    """

    share: float

    def limit(self, observation: Observation) -> Any:
        """Return the error of the gradient's size by rounding."""
        return self.share * np.abs(observation.value)

    def holds(self, progress: RunProgress) -> Any:
        """Return where the gradient is within its limit: that of a function without a minimum never is."""
        limit = capped_limit(self.limit(progress.observation), progress.first)
        return progress.observation.grad_norm <= limit
