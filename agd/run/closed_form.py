"""A run of gradient descent on least squares in closed form: its trajectory, and where the criteria end it.

`agd.update.Trajectory` knows the iterate after any number of steps. Here the stopping criteria are applied
at the steps at which the loop would have checked them, the end is evaluated on the data and the moments are
corrected by it, so that the result is the loop's to rounding. `ClosedForm` is the row of the solver table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, HostArray, NotApplicable, Params, Progress
from agd.gradient.conditioning import (
    MAX_NORMAL_COLUMNS,
    MAX_SPECTRUM_COLUMNS,
    moments_are_accurate,
)
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.run.certificate import make_certificate
from agd.run.linear_problem import LinearProblem, Plan, Revealed, Solution
from agd.run.linear_solvers import MomentSolver, loop_settings, plan_iterations
from agd.run.loop import run, status_message
from agd.run.observation import Observation, ObservedFields, observe
from agd.run.result import History, Result, Status, observed_contraction
from agd.run.stopping import (
    GCV,
    MIN_INCREASES,
    RUNNING,
    Criterion,
    Deadline,
    GradTol,
    RunClock,
    Stop,
    StoppingMonitor,
)
from agd.update import Descent, Trajectory
from agd.update.trajectory import log_grid, split_intervals

__all__ = [
    "GRID_POINTS",
    "CheckSchedule",
    "ClosedForm",
    "PathObserver",
    "Scan",
    "TrajectoryState",
    "concatenate_checks",
    "observation_columns",
    "observe_path",
    "run_closed_form",
    "scan_checks",
    "statuses_by_data",
    "stops_by_gcv",
    "take_checks",
]


class TrajectoryState(NamedTuple):
    """The state of a solver that would have taken the steps of the trajectory."""

    value: Array
    grad: Any
    progress: Progress


class CheckContext(NamedTuple):
    """The objective and the fields to observe: the static argument of a compiled function."""

    objective: Any
    observed_fields: ObservedFields


def observe_path(context: CheckContext, arrays: Any, path: Any, moved: Array) -> Array:
    """Return the columns of an `Observation`, as the loop in the data's dtype would have."""
    objective = context.objective if arrays is None else context.objective.with_arrays(arrays)
    total = objective.blocks.total
    xp = backends.namespace(total)
    value, moved, coef, slope = (
        xp.astype(x, total.dtype, copy=False)
        for x in (path.value, moved, path.coef, path.grad.coef)
    )
    constant = constant_slope = None
    if path.intercept is not None:
        constant = xp.astype(path.intercept, total.dtype, copy=False)
        constant_slope = xp.astype(path.grad.intercept, total.dtype, copy=False)
    # The loop sums over the rows before it divides, and that is where it overflows.
    value = xp.where(xp.isfinite(value * total), value, xp.full_like(value, math.inf))
    params, grad = Params(coef, constant), Params(slope, constant_slope)
    return observation_columns(objective, context.observed_fields, params, value, grad, moved)


def observation_columns(
    objective: Any,
    observed_fields: ObservedFields,
    params: Params,
    value: Array,
    grad: Params,
    moved: Array,
) -> Array:
    """Return the columns of an `Observation` at some points, like `observe`; `moved` is a length."""
    xp = backends.namespace(value)
    size = xp.max(xp.abs(params.coef), axis=-1)
    size = size if params.intercept is None else xp.maximum(size, xp.abs(params.intercept))
    share = moved / xp.where(size > 0.0, size, xp.ones_like(size))
    state = TrajectoryState(value, grad, Progress(relative_step=share))
    return observe(objective, observed_fields, params, state, (value, grad), (params, None))


@dataclass(frozen=True)
class PathObserver:
    """How a trajectory is observed: the fields, and the objective's arrays if the function is compiled."""

    constant: CheckContext
    arrays: Any

    @classmethod
    def of(cls, objective: LinearObjective, observed_fields: ObservedFields) -> PathObserver:
        """Return the observer of an objective; its arrays are traced where the backend compiles."""
        if backends.of(objective.blocks.resident).compiles:
            return cls(
                CheckContext(objective.with_arrays(None), observed_fields), objective.arrays()
            )
        return cls(CheckContext(objective, observed_fields), None)


MAX_STEPS = 2**61  # beyond it the arithmetic of step counts would overflow int64
GRID_POINTS = 256  # checks that represent a longer range of them


class CheckSchedule(NamedTuple):
    """The steps at which a loop checks its criteria: every so many, and at each limit on the way.

    Attributes
    ----------
    starts, ends, before : numpy.ndarray of int, shape (limits,)
        The limits between which a check lies, and the number of checks before them.
    every : int
        The steps between two checks.
    total : int
        The number of checks, without the one at the first point.
    """

    starts: Any
    ends: Any
    before: Any
    every: int
    total: int

    @classmethod
    def of(cls, criterion: Criterion, last: int, every: int) -> CheckSchedule:
        """Return the checks of a run with these criteria, up to the step `last`."""
        last = min(last, MAX_STEPS)
        # One evaluation at the first point, and one a step; all steps together take no time.
        start = RunClock(
            iterations=0, calls=1, seconds=0.0, epoch=1, steps_into_epoch=0, calls_per_step=1,
            seconds_per_step=math.inf,
        )  # fmt: skip
        limits = {part.steps_left(start) for part in criterion.parts()}
        ends = np.asarray(sorted({int(n) for n in limits if 0 < n < last} | {last}), dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        every = min(every, MAX_STEPS)
        counts = -(-(ends - starts) // every)
        before = np.cumsum(counts) - counts
        return cls(starts, ends, before, every, int(counts.sum()))

    def steps(self, check: Any) -> Any:
        """Return the number of steps before a check; check 0 is at the first point."""
        check = np.clip(check, 0, self.total)
        part = np.clip(np.searchsorted(self.before, check, side="left") - 1, 0, None)
        steps = self.starts[part] + (check - self.before[part]) * self.every
        return np.where(check > 0, np.minimum(steps, self.ends[part]), 0)


def take_checks(row: Observation, index: Any) -> Observation:
    """Return the observations at an index of the checks, the first axis."""
    fields = {
        name: None if column is None else column[index]
        for name, column in row._asdict().items()
        if name != "leaves"
    }
    return Observation(**fields, leaves=None if row.leaves is None else row.leaves[:, index])


def concatenate_checks(rows: list[Observation]) -> Observation:
    """Put observations of several checks one after the other."""
    fields = {}
    for name, *parts in zip(Observation._fields, *rows, strict=True):
        axis = 1 if name == "leaves" else 0
        fields[name] = None if parts[0] is None else np.concatenate(parts, axis=axis)
    return Observation(**fields)


# Checks that are observed together: at first, and the factor by which later batches grow.
FIRST_CHECKS, BATCH_GROWTH = 64, 16
# A run of at most so many checks has all of them tested in order; of a longer one only the first 4,096 are.
MAX_CHECKS_IN_ORDER, CHECKS_BEFORE_SEARCH = 10_000, 4096

CheckFunction: TypeAlias = Callable[[Any], Observation]


def _statuses_in_order(monitor: StoppingMonitor, rows: Observation) -> Any:
    """Return the status at each of consecutive checks, as if no problem had ended before.

    The monitor is advanced to the last of them, except for its status.

    Parameters
    ----------
    monitor : StoppingMonitor
        Its state after the check before these.
    rows : Observation
        The observations; columns of shape (K, ...).

    Returns
    -------
    numpy.ndarray of int, shape (K, ...)
        The statuses; -1 where the run goes on.
    """
    last = monitor.previous
    before = last._replace(
        value=np.concatenate([last.value[None], rows.value[:-1]]),
        iterations=np.concatenate([last.iterations[None], rows.iterations[:-1]]),
        leaves=None,
    )
    index = np.arange(1, len(rows.value) + 1).reshape(-1, *(1,) * last.value.ndim)
    with np.errstate(invalid="ignore"):
        rising = rows.value > before.value
    calm = np.maximum.accumulate(np.where(rising, 0, index), axis=0)
    since = np.take_along_axis(rows.iterations, np.clip(calm - 1, 0, None), axis=0)
    each = copy.copy(monitor)
    each.previous = before
    each.consecutive_increases = np.where(
        calm > 0, index - calm, monitor.consecutive_increases + index
    )
    first: HostArray = monitor.increasing_since
    each.increasing_since = np.where(calm > 0, since, first)
    status = _apply_criteria(each, rows)
    monitor.previous = take_checks(rows, -1)
    monitor.consecutive_increases, monitor.increasing_since = (
        each.consecutive_increases[-1],
        each.increasing_since[-1],
    )
    return status


def _apply_criteria(each: StoppingMonitor, rows: Observation) -> Any:
    each.advanced = np.ones(rows.value.shape, dtype=bool)
    each.last_step, each.calls = rows.steps, rows.evaluations
    each.status = np.full(rows.value.shape, RUNNING)
    each.check(rows)
    return each.status


def _statuses_in_isolation(monitor: StoppingMonitor, row: Observation, before: Observation) -> Any:
    """Return the status at some checks from each one and the check before it alone.

    An increase between the two is taken to be the last of many, since those before are not known.
    """
    each = copy.copy(monitor)
    each.previous = before
    with np.errstate(invalid="ignore"):
        each.consecutive_increases = np.where(row.value > before.value, MIN_INCREASES, 0)
    each.increasing_since = np.zeros_like(row.iterations)
    return _apply_criteria(each, row)


class Scan(NamedTuple):
    """Where the criteria end a run.

    Attributes
    ----------
    steps, status : numpy.ndarray of int, shape (...)
        After how many steps each problem ends, and how.
    rows : Observation
        The checks up to the last end; columns of shape (K, ...).
    first, row, before : Observation
        The first point, the ends, and the checks before the ends.
    monitor : StoppingMonitor or None
        What applied the criteria; None where the end was known.
    """

    steps: Any
    status: Any
    rows: Observation
    first: Observation
    row: Observation
    before: Observation
    monitor: StoppingMonitor | None

    @classmethod
    def of_known_ends(
        cls,
        observe_steps: CheckFunction,
        schedule: CheckSchedule,
        batch_size: int,
        steps: Any,
        status: int,
    ) -> Scan:
        """Return the scan of a run whose problems end after known steps."""
        rows = _observe_in_batches(
            observe_steps, schedule.steps(log_grid(0, schedule.total, GRID_POINTS)), batch_size
        )
        end = take_checks(observe_steps(steps[None]), 0)
        return cls(steps, np.full(steps.shape, status), rows, take_checks(rows, 0), end, end, None)


def scan_checks(
    observe_steps: CheckFunction, make_monitor: Any, schedule: CheckSchedule, batch_size: int
) -> Scan:
    """Find the first check of each problem at which a criterion holds.

    Up to 10,000 checks are all tested in order; of more, the first 4,096 are. Beyond these the first one is
    searched for on a logarithmic grid that is refined around it: a criterion that holds between two points
    of the grid, but not at the second, is missed.

    Parameters
    ----------
    observe_steps : callable
        From numbers of steps, (K,) or (K, ...), to their `Observation`.
    make_monitor : callable
        From the first observation to the monitor.
    schedule : CheckSchedule
        The steps at which a loop would have checked.
    batch_size : int
        The most checks that may be observed together.

    Returns
    -------
    Scan
        The ends.
    """
    exact = schedule.total if schedule.total <= MAX_CHECKS_IN_ORDER else CHECKS_BEFORE_SEARCH
    size = max(2, min(FIRST_CHECKS, batch_size))
    rows = observe_steps(schedule.steps(np.arange(min(size, exact + 1))))
    first = take_checks(rows, 0)
    monitor = make_monitor(first)
    status, parts, tested = monitor.status, [rows], 0
    end = np.where(monitor.done, 0, RUNNING)
    rows = take_checks(rows, slice(1, None))
    while (end == RUNNING).any():
        index = tested + 1 + np.arange(len(rows.value)).reshape(-1, *(1,) * end.ndim)
        each = _with_iteration_limit(_statuses_in_order(monitor, rows), index, schedule)
        at_end, has_status = _first_status(each)
        new = has_status & (end == RUNNING)
        status = np.where(new, np.take_along_axis(each, at_end[None], axis=0)[0], status)
        end = np.where(new, tested + 1 + at_end, end)
        tested += len(index)
        if tested >= exact or (end != RUNNING).all():
            break
        size = min(BATCH_GROWTH * size, batch_size)
        rows = observe_steps(schedule.steps(np.arange(tested + 1, min(tested + size, exact) + 1)))
        parts.append(rows)
    if (end != RUNNING).all():
        rows = concatenate_checks(parts)
        row, before = _take_each_check(rows, end), _take_each_check(rows, np.maximum(end - 1, 0))
        rows = take_checks(rows, slice(0, int(end.max()) + 1))
        return Scan(schedule.steps(end), status, rows, first, row, before, monitor)
    end, status = _search_log_grid(
        observe_steps, monitor, schedule, batch_size, (tested, end, status)
    )
    ends = observe_steps(np.stack([schedule.steps(end), schedule.steps(end - 1)]))
    rows = concatenate_checks(
        [
            *parts,
            _observe_in_batches(
                observe_steps,
                schedule.steps(log_grid(tested, int(end.max()), GRID_POINTS)[1:]),
                batch_size,
            ),
        ]
    )
    return Scan(
        schedule.steps(end),
        status,
        rows,
        first,
        take_checks(ends, 0),
        take_checks(ends, 1),
        monitor,
    )


def _take_each_check(rows: Observation, index: Any) -> Observation:
    """Return each problem's entry at its own index of the checks."""

    def take_entry(x: Any) -> Any:
        return np.take_along_axis(x, index[None], axis=0)[0]

    fields = {
        name: take_entry(x)
        for name, x in rows._asdict().items()
        if name != "leaves" and x is not None
    }
    if rows.leaves is not None:
        fields["leaves"] = np.stack([take_entry(leaf) for leaf in rows.leaves])
    return rows._replace(**fields)


def statuses_by_data(scan: Scan, row: Observation) -> Any:
    """Return the statuses at the ends by the gradient of the data.

    Parameters
    ----------
    scan : Scan
        The ends.
    row : Observation
        The ends as evaluated on the data.

    Returns
    -------
    numpy.ndarray of int, shape (...)
        The statuses, -1 where no criterion ends the run; those of the scan where no monitor applied them, and
        at a first point.
    """
    if scan.monitor is None:
        return scan.status
    mixed = scan.row._replace(grad_norm=row.grad_norm, leaves=row.leaves)
    status = _statuses_in_isolation(scan.monitor, mixed, scan.before)
    return np.where((scan.steps == 0) | (scan.status == Status.DIVERGED), scan.status, status)


def _search_log_grid(
    observe_steps: CheckFunction,
    monitor: StoppingMonitor,
    schedule: CheckSchedule,
    batch_size: int,
    progress: Any,
) -> tuple[Any, Any]:
    """Find the ends that lie beyond the checks that were tested in order."""
    tested, end, status = progress
    open_ = end == RUNNING
    low, high = np.where(open_, tested, end), np.where(open_, schedule.total, end)
    grid = log_grid(tested, schedule.total, GRID_POINTS)
    points = np.multiply.outer(grid, np.ones(end.shape, dtype=np.int64))
    while True:
        pairs = [
            (points[i : i + batch_size], points[i : i + batch_size] - 1)
            for i in range(0, len(points), batch_size)
        ]
        each = [
            _statuses_in_isolation(
                monitor,
                observe_steps(schedule.steps(check)),
                observe_steps(schedule.steps(previous)),
            )
            for check, previous in pairs
        ]
        statuses = _with_iteration_limit(np.concatenate(each), points, schedule)
        index, has_status = _first_status(statuses)
        index = np.where(has_status, index, len(points) - 1)
        upper, lower = (
            np.take_along_axis(points, np.clip(index - back, 0, None)[None], axis=0)[0]
            for back in (0, 1)
        )
        high, low = np.where(open_, upper, high), np.where(open_, lower, low)
        grid_status = np.take_along_axis(statuses, index[None], axis=0)[0]
        status = np.where(open_, grid_status, status)
        if (high - low <= 1).all():
            return high, status
        points = split_intervals(low, high, GRID_POINTS)


def _with_iteration_limit(status: Any, index: Any, schedule: CheckSchedule) -> Any:
    """Return the statuses, with MAX_ITER at the last check where nothing else ends the run."""
    out = (status == RUNNING) & (index >= schedule.total)
    return np.where(out, int(Status.MAX_ITER), status)


def _observe_in_batches(observe_steps: CheckFunction, steps: Any, batch_size: int) -> Observation:
    return concatenate_checks(
        [observe_steps(steps[i : i + batch_size]) for i in range(0, len(steps), batch_size)]
    )


def _first_status(status: Any) -> tuple[Any, Any]:
    """Return the index of the first status of each problem along the first axis, and whether it has one."""
    has_status = status != RUNNING
    return np.argmax(has_status, axis=0), has_status.any(axis=0)


MAX_ROUNDS = 6  # of evaluating the end on the data: more change nothing
# The relative difference between moments and data, in loss and gradient, that needs no correction.
MAX_DISAGREEMENT = 1e-9
MAX_PATH_ENTRIES = 2**22  # entries of the points that are observed together
CHECK_BATCH_SIZES = (64, 1024)  # the shapes that are compiled; the last is the most together


def run_closed_form(
    method: Any,
    objective: LinearObjective,
    x0: Params,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
    *,
    moments: Moments,
    grad_tol: float | None = None,
    check_every: int = 10,
) -> Result:
    """Return what `agd.run.run` returns, to rounding, from the moments and a pass over the data or two.

    Parameters
    ----------
    method, objective, x0, stop, callback, grad_tol, check_every
        As for `agd.run.run`.
    moments : Moments
        Those of the data.

    Returns
    -------
    Result
        Value and gradient are those of the data. The calls that are counted are passes over the data.
        Beyond 4,096 of more than 10,000 checks, the first one at which a criterion holds is searched for,
        and the history has some of the checks only. Where the run overflows, or the data never agree with
        the moments, it is the result of the loop.
    """
    criterion = stop.criterion(grad_tol or 0.0)
    gradients = [part for part in criterion.parts() if isinstance(part, GradTol)]
    leaves = any(part.per_leaf for part in gradients)
    trajectory = Trajectory.of(
        moments, method.rule, penalty=objective.penalty, intercept=objective.intercept, start=x0
    )
    view = PathObserver.of(objective, ObservedFields(leaves))
    closed_run = _ClosedFormRun(
        trajectory, view, objective, stop,
        criterion.resolved(x0) if leaves else criterion,
        stop.check_every or check_every,
    )  # fmt: skip
    try:
        scan, end = closed_run.find_end()
    except NotApplicable:
        stepped = run(
            method, objective, x0, stop, callback, grad_tol=grad_tol, check_every=check_every
        )
        return replace(stepped, n_sync=stepped.n_sync + closed_run.n_sync)
    return closed_run.report(scan, end, method, gradients[0] if gradients else None)


class _EndOnData(NamedTuple):
    """The end of a run, evaluated on the data: the steps, the observation, and the result's arrays."""

    steps: Any
    row: Observation
    x: Params
    value: Array
    grad: Params


class _ClosedFormRun:
    """A trajectory, how it is observed, and where the criteria end it."""

    def __init__(
        self,
        trajectory: Trajectory,
        view: PathObserver,
        objective: Any,
        stop: Stop,
        criterion: Any,
        every: int,
    ) -> None:
        self.trajectory, self.view, self.objective = trajectory, view, objective
        self.stop, self.criterion, self.every = stop, criterion, every
        # The moments took one pass, and the tests whether they are finite and accurate a read each.
        self.n_sync, self.passes = 1 if stops_by_gcv(stop) else 2, 1
        self.min_grad_norm: Any = 0.0  # rounding: the gradient of the data falls no further
        self.compiled = backends.of(trajectory.parts.s).compiles
        d = math.prod(trajectory.parts.start.shape)
        self.batch_size = max(1, min(CHECK_BATCH_SIZES[-1], MAX_PATH_ENTRIES // d))

    def observe_steps(self, steps: Any) -> Observation:
        """Observe the run after some steps, (K, ...) or (K,) for all problems; K is at most `batch_size`."""
        steps = np.reshape(steps, (*np.shape(steps), *(1,) * (self._ndim + 1 - np.ndim(steps))))
        n, self.n_sync = len(steps), self.n_sync + 1
        if self.compiled:  # pad to few shapes, since each is compiled
            size = next((size for size in CHECK_BATCH_SIZES if n <= size <= self.batch_size), n)
            steps = np.concatenate([steps, np.repeat(steps[-1:], size - n, axis=0)])
        columns = self.trajectory.seen(observe_path, self.view.constant, self.view.arrays, steps)
        row = self._as_observation(
            backends.to_numpy(columns), steps, self.view.constant.observed_fields
        )
        return take_checks(row, slice(0, n))

    @property
    def _ndim(self) -> int:
        return len(self.trajectory.batch_shape)

    def _as_observation(
        self, columns: Any, steps: Any, observed_fields: ObservedFields
    ) -> Observation:
        self.eps = float(np.finfo(columns.dtype).eps)
        state = TrajectoryState(columns, None, Progress(relative_step=columns))
        row = Observation.read(columns, state, observed_fields, 1)
        steps = np.broadcast_to(steps, row.value.shape)
        return row._replace(
            steps=steps, iterations=steps, evaluations=steps + 1,
            grad_norm=np.maximum(row.grad_norm, self.min_grad_norm),
        )  # fmt: skip

    def find_end(self) -> tuple[Scan, _EndOnData]:
        """Return the end of the trajectory, once the moments are corrected so that the data agree with it.

        It raises `NotApplicable` where the run overflows, or the data never agree.
        """
        end: _EndOnData | None = None
        corrected = self.trajectory.moments.G.dtype != self.objective.blocks.total.dtype
        for _ in range(MAX_ROUNDS):
            scan = self._scan()
            if (scan.row.finite == 0).any():
                raise NotApplicable("a run that overflows")
            same_end = end is not None and (scan.steps == end.steps).all()
            if end is None or not same_end:
                end = self._evaluate_end(scan)
            status = statuses_by_data(scan, end.row)
            denied = (scan.status == Status.CONVERGED) & (status == RUNNING)
            corrected = corrected or same_end
            if (corrected or self._data_agree(scan.row, end.row)) and not denied.any():
                return scan._replace(status=np.where(status == RUNNING, scan.status, status)), end
            if corrected:  # only rounding is left, and the loop would go on with it too
                self.min_grad_norm = np.where(denied, end.row.grad_norm, self.min_grad_norm)
            else:
                corrected = not self._correct_moments(scan, end)
        raise NotApplicable("the data deny what the moments say")

    def _scan(self) -> Scan:
        """Apply the criteria at the checks of a loop, or find the smallest generalised cross-validation."""
        if not stops_by_gcv(self.stop):
            schedule = CheckSchedule.of(self.criterion, self.stop.max_iter, self.every)
            return scan_checks(self.observe_steps, self._make_monitor, schedule, self.batch_size)
        best = self.trajectory.best_epoch(self.stop.max_iter)
        self.n_sync += best.n_sync
        steps = np.asarray(best.epoch)
        schedule = CheckSchedule.of(self.criterion, max(1, int(steps.max())), self.every)
        return Scan.of_known_ends(
            self.observe_steps, schedule, self.batch_size, steps, int(Status.CONVERGED)
        )

    def _make_monitor(self, first: Observation) -> StoppingMonitor:
        return StoppingMonitor(self.criterion, first, first.evaluations, self.eps)

    def _evaluate_end(self, scan: Scan) -> _EndOnData:
        """Evaluate the data where the run ends; raise `NotApplicable` where they overflow."""
        self.passes, self.n_sync = self.passes + 1, self.n_sync + 1
        path = self.trajectory.at_each(scan.steps)
        dtype = self.objective.blocks.total.dtype
        xp = backends.namespace(path.coef)
        intercept = path.intercept
        if intercept is not None:
            intercept = xp.astype(intercept, dtype, copy=False)
        x = Params(xp.astype(path.coef, dtype, copy=False), intercept)
        observed_fields = self.view.constant.observed_fields._replace(length=True)
        with np.errstate(all="ignore"):
            value, grad = self.objective.value_and_grad(x)
            columns = observation_columns(
                self.objective, observed_fields, x, value, grad, xp.zeros_like(value)
            )
        row = self._as_observation(backends.to_numpy(columns), scan.steps, observed_fields)
        finite = np.isfinite(row.value).all() and np.isfinite(row.grad_norm).all()
        if not finite:
            raise NotApplicable("data that overflow where the run ends")
        return _EndOnData(scan.steps, row._replace(moved=scan.row.moved), x, value, grad)

    def _data_agree(self, row: Observation, data: Observation) -> bool:
        """Return whether loss and gradient at the end are those of the data, up to rounding."""
        most = max(MAX_DISAGREEMENT, 4.0 * self.eps)
        value = abs(row.value - data.value) <= most * data.value
        slope = abs(row.grad_norm - data.grad_norm) <= most * data.grad_norm
        return bool((value & slope).all())

    def _correct_moments(self, scan: Scan, end: _EndOnData) -> bool:
        """Correct the moments by the data, unless a run that diverged makes these less accurate; say if so."""
        accurate = bool((end.row.grad_norm <= scan.first.grad_norm).all())
        if accurate:
            self.trajectory = self.trajectory.corrected(end.steps, end.value, end.grad)
        return accurate

    def report(self, scan: Scan, end: _EndOnData, method: Any, grad_test: GradTol | None) -> Result:
        """Return the result of the run."""
        steps, row, single = end.steps, end.row, self._ndim == 0
        x, jac = self.objective.report(end.x, end.grad)
        curvature, least = self._curvatures(method)
        history, nit = _history(scan, row, self.passes), np.minimum(scan.rows.steps, steps)
        limit = 0.0 if grad_test is None else grad_test.limit(scan.first)
        return Result(
            x=x,
            fun=as_scalar(row.value),
            jac=jac,
            nit=as_scalar(steps),
            nfev=as_scalar(np.full(steps.shape, self.passes)),
            njev=as_scalar(np.full(steps.shape, self.passes)),
            status=Status(int(scan.status)) if single else scan.status,
            success=as_scalar(scan.status == Status.CONVERGED),
            message=status_message(scan.status, steps),
            history=history,
            n_sync=self.n_sync,
            method=f"{method.name} (closed form)",
            certificate=make_certificate(
                row._replace(curvature=curvature), limit, method,
                observed_contraction(nit, history.grad_norm), least, "Hessian",
            ),
        )  # fmt: skip

    def _curvatures(self, method: Any) -> tuple[Any, tuple[float, float] | None]:
        """Return L, and for one problem of few columns the least curvature, as the certificate takes it."""
        s = self.trajectory.parts.s
        xp = backends.namespace(s)
        L = 1.0 / self.trajectory.rate if method.auto else xp.max(s, axis=-1) ** 2
        least = xp.min(s, axis=-1) ** 2
        self.n_sync += 1
        read = backends.to_numpy(xp.stack([L + 0.0 * least, least + 0.0 * L])).astype(float)
        curvature = np.broadcast_to(read[0], self.trajectory.batch_shape)
        single_small = self._ndim == 0 and self.objective.blocks.X.shape[-1] <= MAX_SPECTRUM_COLUMNS
        return curvature, (float(read[1]), float(read[1])) if single_small else None


def _history(scan: Scan, end: Observation, passes: int) -> History:
    """Return the history of the checks; each problem stands still from its end on."""
    rows, going = scan.rows, scan.rows.steps < end.steps
    last = rows.steps == end.steps
    calls = np.where(going, 1, passes)
    return History(
        nit=rows.steps.reshape(len(rows.steps), -1).max(axis=1),
        value=np.where(going, rows.value, end.value),
        grad_norm=np.where(going, rows.grad_norm, end.grad_norm),
        step=np.where(going, rows.moved, np.where(last, end.moved, 0.0)),
        nfev=calls,
    )


EXPECTED_STEPS = 400  # of a run that may take more; only well-conditioned columns take fewer


class ClosedForm(MomentSolver):
    """Gradient descent, momentum and Nesterov's method on least squares, without taking their steps.

    Their run is known in closed form from the moments of the data. That serves where it is sooner than the
    steps, and always where generalised cross-validation ends the run.
    """

    def fit(self, problem: LinearProblem) -> Solution:
        """Return what the loop would; raise `NotApplicable` where the loop has to run, or is sooner.

        It has to for another loss, penalty or rule, and with a callback or a deadline, which are of steps
        that are taken. It is sooner where so few steps may be taken, or columns are so many, that the
        moments take longer; and data whose moments the dtype cannot hold need it as well.
        """
        if not _is_sooner(problem.uncounted, problem.method, problem.stop, problem.callback):
            raise NotApplicable("the loop has to run, or is sooner")
        return super().fit(problem)

    def revealed(self, problem: LinearProblem) -> Revealed:
        """Return X, whose moments are tested for values that are not finite; not so with ``"gcv"``."""
        if problem.traits.lazy or stops_by_gcv(problem.stop):
            return Revealed.NOTHING
        return Revealed.X

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Sum the moments, and take the coordinates that the loop would."""
        moments = self.moments(problem, base)
        if not (stops_by_gcv(problem.stop) or moments_are_accurate(base, moments)):
            raise NotApplicable("the dtype cannot hold the moments of X")
        return plan_iterations(problem, base, problem.method, moments)

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Apply the stopping criteria to the trajectory."""
        settings = loop_settings(problem, plan)
        moments = self.moments(problem, plan.objective)
        return run_closed_form(
            plan.method, plan.objective, plan.x0, moments=moments, **settings
        ), plan


def _is_sooner(base: LinearObjective, method: Any, stop: Stop, callback: Any) -> bool:
    """Return whether the run has a closed form that takes less time than its steps."""
    least_squares = base.loss.quadratic and (base.penalty is None or base.penalty.quadratic)
    closed = isinstance(method, Descent) and Trajectory.knows(method.rule) and least_squares
    timed = any(isinstance(part, Deadline) for part in stop.criterion().parts())
    if not closed or timed or callback is not None:
        return False
    return stops_by_gcv(stop) or _takes_less_time(base, stop)


def _takes_less_time(base: LinearObjective, stop: Stop) -> bool:
    """Return whether the closed form takes less time than the steps; measured, in nanoseconds."""
    rows, p = base.blocks.row_count, base.blocks.X.shape[-1]
    n = float(rows) if math.isfinite(rows) else 1e9
    problems = math.prod(base.batch_shape)
    if base.blocks.sparse:  # 2 to 8 nanoseconds for each pair of entries in a row, measured
        entries = base.blocks.entries
        step, moments = 2.0 * entries * problems + 5e4, entries * (20.0 + 8.0 * entries / n)
        return bool(
            p <= MAX_NORMAL_COLUMNS
            and moments + (3.0 * p**3 + 1e5) * problems + 5e5
            < min(stop.max_iter, EXPECTED_STEPS) * step
        )
    # Of many problems a product takes 1 microsecond, however small; factors and evaluations 30.
    grid, each = (2e3, 3e4) if problems > 1 else (0.0, 1e5)
    step = (n * p + grid) * problems + 5e4
    closed_form = (n * p * (10.0 + p / 25.0) + 3.0 * p**3 + each) * problems + 5e5
    return bool(p <= MAX_NORMAL_COLUMNS and closed_form < min(stop.max_iter, EXPECTED_STEPS) * step)


def stops_by_gcv(stop: Stop) -> bool:
    """Return whether generalised cross-validation alone ends the run."""
    return (
        isinstance(stop.when, GCV) and (stop.grad_tol, stop.step_tol, stop.value_tol) == (None,) * 3
    )
