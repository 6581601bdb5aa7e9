"""What is measured of a run in closed form: the columns that the loop would have read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, NotApplicable, Params, StepState
from agd.gradient.conditioning import (
    MAX_NORMAL_COLUMNS,
    MAX_SPECTRUM_COLUMNS,
    known_row_count,
    moments_are_accurate,
)
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.loss import L2, Squared
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
    MaxEval,
    MaxIter,
    Stop,
    StoppingMonitor,
)
from agd.update import Descent, Trajectory

__all__ = [
    "GRID",
    "ClosedForm",
    "Looks",
    "Scan",
    "State",
    "View",
    "asks_gcv",
    "at",
    "beside",
    "closed",
    "columns_of",
    "joined",
    "measure_path",
    "scanned",
    "spread",
]


class State(NamedTuple):
    """What `observe` asks of a method's state."""

    moved: Array


class CheckContext(NamedTuple):
    """What is measured, as a compiled function's constant."""

    objective: Any
    observed_fields: ObservedFields


def measure_path(look: CheckContext, arrays: Any, path: Any, moved: Array) -> Array:
    """Return the columns of an `Observation`, as the loop in the data's dtype would have."""
    objective = look.objective if arrays is None else look.objective.with_arrays(arrays)
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
    return columns_of(objective, look.observed_fields, params, value, grad, moved)


def columns_of(
    objective: Any,
    observed_fields: ObservedFields,
    params: Params,
    value: Array,
    grad: Params,
    moved: Array,
) -> Array:
    """Return the columns of an `Observation` at some points; parameters as for `observe`, `moved` as a length."""
    xp = backends.namespace(value)
    size = xp.max(xp.abs(params.coef), axis=-1)
    size = size if params.intercept is None else xp.maximum(size, xp.abs(params.intercept))
    share = moved / xp.where(size > 0.0, size, xp.ones_like(size))
    step_state = StepState(params, State(share), value == value, xp.zeros_like(value))  # noqa: PLR0124
    return observe(objective, observed_fields, step_state, value, grad, (params, None))


@dataclass(frozen=True)
class View:
    """How a run is looked at: what is measured, with the objective's arrays where that is compiled."""

    constant: CheckContext
    arrays: Any

    @classmethod
    def of(cls, objective: LinearObjective, observed_fields: ObservedFields) -> View:
        """Return how an objective's run is looked at."""
        if backends.of(objective.blocks.resident).compiles:
            return cls(
                CheckContext(objective.with_arrays(None), observed_fields), objective.arrays()
            )
        return cls(CheckContext(objective, observed_fields), None)


FAR = 2**61  # steps: as far as they are counted
GRID = 256  # looks that stand for a longer stretch of them


class Looks(NamedTuple):
    """At which steps a loop looks: every so many, and at each limit on the way.

    Attributes
    ----------
    starts, ends, before : numpy.ndarray of int, shape (limits,)
        Between which limits a look lies, and how many looks come before.
    every : int
        The steps between two looks.
    total : int
        How many there are, without that at the first point.
    """

    starts: Any
    ends: Any
    before: Any
    every: int
    total: int

    @classmethod
    def of(cls, criterion: Criterion, last: int, every: int) -> Looks:
        """Return the looks of a run with these tests, up to the step `last`."""
        last, limits = min(last, FAR), set()
        for part in criterion.parts():
            if isinstance(part, MaxIter):
                limits.add(part.limit)
            elif isinstance(part, MaxEval):  # one evaluation at the first point, and one a step
                limits.add(part.limit - 1)
        ends = np.asarray(sorted({n for n in limits if 0 < n < last} | {last}), dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        every = min(every, FAR)
        counts = -(-(ends - starts) // every)
        before = np.cumsum(counts) - counts
        return cls(starts, ends, before, every, int(counts.sum()))

    def steps(self, look: Any) -> Any:
        """Return the steps that were taken by a look; look 0 is that at the first point."""
        look = np.clip(look, 0, self.total)
        part = np.clip(np.searchsorted(self.before, look, side="left") - 1, 0, None)
        steps = self.starts[part] + (look - self.before[part]) * self.every
        return np.where(look > 0, np.minimum(steps, self.ends[part]), 0)


def at(row: Observation, index: Any) -> Observation:
    """Return the entries of a row's looks at an index."""
    found = {
        name: None if column is None else column[index]
        for name, column in row._asdict().items()
        if name != "leaves"
    }
    return Observation(**found, leaves=None if row.leaves is None else row.leaves[:, index])


def joined(rows: list[Observation]) -> Observation:
    """Return the looks of several rows, one after the other."""
    found = {}
    for name in Observation._fields:
        parts = [getattr(row, name) for row in rows]
        axis = 1 if name == "leaves" else 0
        found[name] = None if parts[0] is None else np.concatenate(parts, axis=axis)
    return Observation(**found)


def spread(low: int, high: int) -> Any:
    """Return looks from low to high: all, or some that are even in the logarithm."""
    if high - low <= GRID:
        return np.arange(low, high + 1)
    apart = np.geomspace(max(low, 1), high, GRID).round().astype(np.int64)
    return np.concatenate([[low], np.clip(apart, low, high)])


FEW, MORE = 64, 16  # looks taken together at first, and how many times as many after that
ALL, EXACT = 10_000, 4096  # looks of a run all of which are judged, and of a longer one

CheckFunction: TypeAlias = Callable[[Any], Observation]


def _statuses(monitor: StoppingMonitor, rows: Observation) -> Any:
    """Return the status at each of some looks in a row, as if no problem had ended before.

    The monitor goes on to the last of them, but for its status.

    Parameters
    ----------
    monitor : StoppingMonitor
        As the last look before these left it.
    rows : Row
        The looks; columns of shape (K, ...).

    Returns
    -------
    numpy.ndarray of int, shape (K, ...)
        The statuses, -1 for none.
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
    each.increasing_since = np.where(calm > 0, since, monitor.increasing_since)
    status = _settled(each, rows)
    monitor.previous = at(rows, -1)
    monitor.consecutive_increases, monitor.increasing_since = (
        each.consecutive_increases[-1],
        each.increasing_since[-1],
    )
    return status


def _settled(each: StoppingMonitor, rows: Observation) -> Any:
    each.advanced = np.ones(rows.value.shape, dtype=bool)
    each.last_step, each.calls = rows.steps, rows.evaluations
    each.status = np.full(rows.value.shape, RUNNING)
    each.check(rows)
    return each.status


def _alone(monitor: StoppingMonitor, row: Observation, before: Observation) -> Any:
    """Return the status at some looks, each beside the look before it; a rise is taken to last."""
    each = copy.copy(monitor)
    each.previous = before
    with np.errstate(invalid="ignore"):
        each.consecutive_increases = np.where(row.value > before.value, MIN_INCREASES, 0)
    each.increasing_since = np.zeros_like(row.iterations)
    return _settled(each, row)


class Scan(NamedTuple):
    """How the looks of a run were judged.

    Attributes
    ----------
    steps, status : numpy.ndarray of int, shape (...)
        After how many steps each problem ends, and how.
    rows : Row
        Looks up to the last end; columns of shape (K, ...).
    first, row, before : Row
        The first point, the ends, and the looks before the ends.
    monitor : StoppingMonitor or None
        What applied the tests; None where the end was known.
    """

    steps: Any
    status: Any
    rows: Observation
    first: Observation
    row: Observation
    before: Observation
    monitor: StoppingMonitor | None

    @classmethod
    def at_steps(
        cls, look: CheckFunction, looks: Looks, most: int, steps: Any, status: int
    ) -> Scan:
        """Return the scan of a run whose problems end after known steps."""
        rows = _looked(look, looks.steps(spread(0, looks.total)), most)
        end = at(look(steps[None]), 0)
        return cls(steps, np.full(steps.shape, status), rows, at(rows, 0), end, end, None)


def scanned(look: CheckFunction, make_monitor: Any, looks: Looks, most: int) -> Scan:
    """Find the first look of each problem at which a test holds.

    Up to 10,000 looks all are judged, in their order; of more the first 4,096. Beyond, the first one is
    searched for on a grid that is even in the logarithm, and within it ever more finely: what holds
    between two points of the grid, and not at the second, is not seen.

    Parameters
    ----------
    look : callable
        It takes steps, (K,) or (K, ...), and returns their `Observation`.
    make_monitor : callable
        It takes the first row and returns the monitor.
    looks : Looks
        At which steps a loop would have looked.
    most : int
        How many looks may be taken together.

    Returns
    -------
    Scan
        The ends.
    """
    exact = looks.total if looks.total <= ALL else EXACT
    size = max(2, min(FEW, most))
    rows = look(looks.steps(np.arange(min(size, exact + 1))))
    first = at(rows, 0)
    monitor = make_monitor(first)
    status, parts, seen = monitor.status, [rows], 0
    end = np.where(monitor.done, 0, RUNNING)
    rows = at(rows, slice(1, None))
    while (end == RUNNING).any():
        index = seen + 1 + np.arange(len(rows.value)).reshape(-1, *(1,) * end.ndim)
        each = _with_last(_statuses(monitor, rows), index, looks)
        at_end, held = _first_held(each)
        new = held & (end == RUNNING)
        status = np.where(new, np.take_along_axis(each, at_end[None], axis=0)[0], status)
        end = np.where(new, seen + 1 + at_end, end)
        seen += len(index)
        if seen >= exact or (end != RUNNING).all():
            break
        size = min(MORE * size, most)
        rows = look(looks.steps(np.arange(seen + 1, min(seen + size, exact) + 1)))
        parts.append(rows)
    if (end != RUNNING).all():
        rows = joined(parts)
        row, before = _taken(rows, end), _taken(rows, np.maximum(end - 1, 0))
        rows = at(rows, slice(0, int(end.max()) + 1))
        return Scan(looks.steps(end), status, rows, first, row, before, monitor)
    end, status = _searched(look, monitor, looks, most, (seen, end, status))
    ends = look(np.stack([looks.steps(end), looks.steps(end - 1)]))
    rows = joined([*parts, _looked(look, looks.steps(spread(seen, int(end.max()))[1:]), most)])
    return Scan(looks.steps(end), status, rows, first, at(ends, 0), at(ends, 1), monitor)


def _taken(rows: Observation, index: Any) -> Observation:
    """Return each problem's entry at an index of its own."""

    def taken(x: Any) -> Any:
        return np.take_along_axis(x, index[None], axis=0)[0]

    found = {
        name: taken(x) for name, x in rows._asdict().items() if name != "leaves" and x is not None
    }
    if rows.leaves is not None:
        found["leaves"] = np.stack([taken(leaf) for leaf in rows.leaves])
    return rows._replace(**found)


def beside(scan: Scan, row: Observation) -> Any:
    """Return the statuses at the ends where the gradient there is another: what the data say.

    Parameters
    ----------
    scan : Scan
        The ends.
    row : Row
        The same from the data.

    Returns
    -------
    numpy.ndarray of int, shape (...)
        The statuses, -1 where nothing would have ended the run; the scan's own where nobody judged, and at
        a first point.
    """
    if scan.monitor is None:
        return scan.status
    mixed = scan.row._replace(grad_norm=row.grad_norm, leaves=row.leaves)
    found = _alone(scan.monitor, mixed, scan.before)
    return np.where((scan.steps == 0) | (scan.status == Status.DIVERGED), scan.status, found)


def _searched(
    look: CheckFunction, monitor: StoppingMonitor, looks: Looks, most: int, known: Any
) -> tuple[Any, Any]:
    """Find the ends that lie beyond the looks that were judged one by one."""
    seen, end, status = known
    open_ = end == RUNNING
    low, high = np.where(open_, seen, end), np.where(open_, looks.total, end)
    points = np.broadcast_to(
        spread(seen, looks.total)[:, *(None,) * end.ndim], (GRID + 1, *end.shape)
    )
    while True:
        pairs = [
            (points[i : i + most], points[i : i + most] - 1) for i in range(0, len(points), most)
        ]
        each = [
            _alone(monitor, look(looks.steps(now)), look(looks.steps(before)))
            for now, before in pairs
        ]
        found = _with_last(np.concatenate(each), points, looks)
        index, held = _first_held(found)
        index = np.where(held, index, len(points) - 1)
        here, prior = (
            np.take_along_axis(points, np.clip(index - back, 0, None)[None], axis=0)[0]
            for back in (0, 1)
        )
        high, low = np.where(open_, here, high), np.where(open_, prior, low)
        said = np.take_along_axis(found, index[None], axis=0)[0]
        status = np.where(open_, said, status)
        if (high - low <= 1).all():
            return high, status
        parts = np.arange(GRID + 1).reshape(-1, *(1,) * end.ndim)
        whole, rest = np.divmod(high - low, GRID)  # their product with a part must not overflow
        points = low + whole * parts + rest * parts // GRID


def _with_last(status: Any, index: Any, looks: Looks) -> Any:
    """Return the statuses, with one at the last look of all, which ends every run."""
    out = (status == RUNNING) & (index >= looks.total)
    return np.where(out, int(Status.MAX_ITER), status)


def _looked(look: CheckFunction, steps: Any, most: int) -> Observation:
    return joined([look(steps[i : i + most]) for i in range(0, len(steps), most)])


def _first_held(status: Any) -> tuple[Any, Any]:
    """Return the index of the first status of each problem along the first axis, and whether it has one."""
    held = status != RUNNING
    return np.argmax(held, axis=0), held.any(axis=0)


ROUNDS = 6  # of holding the end against the data: more change nothing
# Of loss and gradient: what a run may differ from its loop by, and less so before its end.
AGREED = 1e-9
BUDGET = 2**22  # entries of the points that are looked at together
SIZES = (64, 1024)  # looks together: few, and at the most


def closed(
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
        Those of the data, which serve.

    Returns
    -------
    Result
        Value and gradient are those of the data. The calls that are counted are passes over the data.
        Where there are more than 10,000 looks, the first one at which a test holds is searched for beyond
        4,096, and the history holds some looks of those. The loop's own result where a run overflows, or
        where the data deny what the moments say.
    """
    criterion = stop.criterion(grad_tol or 0.0)
    gradients = [part for part in criterion.parts() if isinstance(part, GradTol)]
    leaves = any(part.per_leaf for part in gradients)
    whole = Trajectory.of(
        moments, method.rule, penalty=objective.penalty, intercept=objective.intercept, start=x0
    )
    view = View.of(objective, ObservedFields(leaves))
    a_run = _Closed(
        whole, view, objective, stop,
        criterion.resolved(x0) if leaves else criterion,
        stop.check_every or check_every,
    )  # fmt: skip
    try:
        scan, end = a_run.ended()
    except NotApplicable:
        stepped = run(
            method, objective, x0, stop, callback, grad_tol=grad_tol, check_every=check_every
        )
        return replace(stepped, n_sync=stepped.n_sync + a_run.n_sync)
    return a_run.report(scan, end, method, gradients[0] if gradients else None)


class _Held(NamedTuple):
    """The end of a run as the data have it: where, the row, and the arrays of the result."""

    steps: Any
    row: Observation
    x: Params
    value: Array
    grad: Params


class _Closed:
    """The parts of a run: the trajectory, how it is looked at, and what its tests say of it."""

    def __init__(
        self, whole: Trajectory, view: View, objective: Any, stop: Stop, criterion: Any, every: int
    ) -> None:
        self.whole, self.view, self.objective = whole, view, objective
        self.stop, self.criterion, self.every = stop, criterion, every
        self.n_sync, self.passes = 1 if asks_gcv(stop) else 2, 1  # so far: are the moments finite?
        self.floor: Any = 0.0  # of the gradient, where the data's falls no further
        self.compiled = backends.of(whole.parts.s).compiles
        d = math.prod(whole.parts.start.shape)
        self.most = max(1, min(SIZES[-1], BUDGET // d))

    def rows(self, steps: Any) -> Observation:
        """Look at the run after some steps, (K, ...) or (K,) for all problems; K is at most `most`."""
        steps = np.reshape(steps, (*np.shape(steps), *(1,) * (self._ndim + 1 - np.ndim(steps))))
        n, self.n_sync = len(steps), self.n_sync + 1
        if self.compiled:  # other shapes would be compiled anew
            size = next((size for size in SIZES if n <= size <= self.most), n)
            steps = np.concatenate([steps, np.repeat(steps[-1:], size - n, axis=0)])
        columns = self.whole.seen(measure_path, self.view.constant, self.view.arrays, steps)
        row = self._named(backends.to_numpy(columns), steps, self.view.constant.observed_fields)
        return at(row, slice(0, n))

    @property
    def _ndim(self) -> int:
        return len(self.whole.batch_shape)

    def _named(self, columns: Any, steps: Any, observed_fields: ObservedFields) -> Observation:
        self.eps = float(np.finfo(columns.dtype).eps)
        row = Observation.read(columns, State(columns), observed_fields, 1)
        steps = np.broadcast_to(steps, row.value.shape)
        return row._replace(
            steps=steps, iterations=steps, evaluations=steps + 1,
            grad_norm=np.maximum(row.grad_norm, self.floor),
        )  # fmt: skip

    def ended(self) -> tuple[Scan, _Held]:
        """Return the end of the trajectory, once the moments are corrected so that the data agree with it.

        It raises `NotApplicable` where the run overflows, or the data never agree.
        """
        held: _Held | None = None
        right = self.whole.moments.G.dtype != self.objective.blocks.total.dtype
        for _ in range(ROUNDS):
            scan = self._scan()
            if (scan.row.finite == 0).any():
                raise NotApplicable("a run that overflows")
            again = held is not None and (scan.steps == held.steps).all()
            if held is None or not again:
                held = self._on_data(scan)
            status = beside(scan, held.row)
            denied = (scan.status == Status.CONVERGED) & (status == RUNNING)
            right = right or again
            if (right or self._agree(scan.row, held.row)) and not denied.any():
                return scan._replace(status=np.where(status == RUNNING, scan.status, status)), held
            if right:  # what is left is rounding: the loop goes on with it, and so do its looks
                self.floor = np.where(denied, held.row.grad_norm, self.floor)
            else:
                right = not self._correct(scan, held)
        raise NotApplicable("the data deny what the moments say")

    def _scan(self) -> Scan:
        """Ask the tests at the looks of a loop; or find the smallest generalised cross-validation."""
        if not asks_gcv(self.stop):
            looks = Looks.of(self.criterion, self.stop.max_iter, self.every)
            return scanned(self.rows, self._make_monitor, looks, self.most)
        best = self.whole.best_epoch(self.stop.max_iter)
        self.n_sync += best.n_sync
        steps = np.asarray(best.epoch)
        looks = Looks.of(self.criterion, max(1, int(steps.max())), self.every)
        return Scan.at_steps(self.rows, looks, self.most, steps, int(Status.CONVERGED))

    def _make_monitor(self, first: Observation) -> StoppingMonitor:
        return StoppingMonitor(self.criterion, first, first.evaluations, self.eps)

    def _on_data(self, scan: Scan) -> _Held:
        """Evaluate the data where the run ends; raise `NotApplicable` where they overflow."""
        self.passes, self.n_sync = self.passes + 1, self.n_sync + 1
        path = self.whole.at_each(scan.steps)
        dtype = self.objective.blocks.total.dtype
        xp = backends.namespace(path.coef)
        x = Params(*(v if v is None else xp.astype(v, dtype, copy=False) for v in path[:2]))
        observed_fields = self.view.constant.observed_fields._replace(length=True)
        with np.errstate(all="ignore"):
            value, grad = self.objective.value_and_grad(x)
            columns = columns_of(
                self.objective, observed_fields, x, value, grad, xp.zeros_like(value)
            )
        row = self._named(backends.to_numpy(columns), scan.steps, observed_fields)
        sound = np.isfinite(row.value).all() and np.isfinite(row.grad_norm).all()
        if not sound:
            raise NotApplicable("data that overflow where the run ends")
        return _Held(scan.steps, row._replace(moved=scan.row.moved), x, value, grad)

    def _agree(self, row: Observation, data: Observation) -> bool:
        """Return whether loss and gradient at the end are the data's, so that nothing is to be put right."""
        most = max(AGREED, 4.0 * self.eps)
        value = abs(row.value - data.value) <= most * data.value
        slope = abs(row.grad_norm - data.grad_norm) <= most * data.grad_norm
        return bool((value & slope).all())

    def _correct(self, scan: Scan, held: _Held) -> bool:
        """Put the moments right, where the data are no less exact there: a run that went far up is."""
        nearer = bool((held.row.grad_norm <= scan.first.grad_norm).all())
        if nearer:
            self.whole = self.whole.corrected(held.steps, held.value, held.grad)
        return nearer

    def report(self, scan: Scan, held: _Held, method: Any, grad_test: GradTol | None) -> Result:
        """Put the result together."""
        steps, row, single = held.steps, held.row, self._ndim == 0
        x, jac = self.objective.report(held.x, held.grad)
        curvature, known = self._curvatures(method)
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
                observed_contraction(nit, history.grad_norm), known, "Hessian",
            ),
        )  # fmt: skip

    def _curvatures(self, method: Any) -> tuple[Any, tuple[float, float] | None]:
        """Return L, and for one problem of few columns the least curvature, as the certificate takes it."""
        s = self.whole.parts.s
        xp = backends.namespace(s)
        L = 1.0 / self.whole.rate if method.auto else xp.max(s, axis=-1) ** 2
        least = xp.min(s, axis=-1) ** 2
        self.n_sync += 1
        read = backends.to_numpy(xp.stack([L + 0.0 * least, least + 0.0 * L])).astype(float)
        curvature = np.broadcast_to(read[0], self.whole.batch_shape)
        few = self._ndim == 0 and self.objective.blocks.X.shape[-1] <= MAX_SPECTRUM_COLUMNS
        return curvature, (float(read[1]), float(read[1])) if few else None


def _history(scan: Scan, end: Observation, passes: int) -> History:
    """Return the looks, in which each problem stands still from its end on."""
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


STEPS = 400  # that a run takes where it may take more: fewer only where columns are even


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
        if problem.traits.lazy or asks_gcv(problem.stop):
            return Revealed.NOTHING
        return Revealed.X

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Sum the moments, and take the coordinates that the loop would."""
        moments = self.moments(problem, base)
        if not (asks_gcv(problem.stop) or moments_are_accurate(base, moments)):
            raise NotApplicable("the dtype cannot hold the moments of X")
        return plan_iterations(problem, base, problem.method, moments)

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Apply the stopping criteria to the trajectory."""
        settings = loop_settings(problem, plan)
        moments = self.moments(problem, plan.objective)
        return closed(plan.method, plan.objective, plan.x0, moments=moments, **settings), plan


def _is_sooner(base: LinearObjective, method: Any, stop: Stop, callback: Any) -> bool:
    """Return whether the moments give the run, and sooner than its steps do."""
    known = isinstance(method, Descent) and Trajectory.knows(method.rule)
    known = known and type(base.loss) is Squared and type(base.penalty) in (L2, type(None))
    timed = any(isinstance(part, Deadline) for part in stop.criterion().parts())
    if not known or timed or callback is not None:
        return False
    return asks_gcv(stop) or _pays(base, stop)


def _pays(base: LinearObjective, stop: Stop) -> bool:
    """Return whether the closed form takes fewer seconds than the steps; in units of a nanosecond."""
    rows, p = known_row_count(base), base.blocks.X.shape[-1]
    n = float(rows) if math.isfinite(rows) else 1e9
    problems = math.prod(base.batch_shape)
    if base.blocks.sparse:  # 2 to 8 nanoseconds for each pair of entries in a row, measured
        entries = base.blocks.entries
        step, moments = 2.0 * entries * problems + 5e4, entries * (20.0 + 8.0 * entries / n)
        return bool(
            p <= MAX_NORMAL_COLUMNS
            and moments + (3.0 * p**3 + 1e5) * problems + 5e5 < min(stop.max_iter, STEPS) * step
        )
    # Of many problems a product takes 1 microsecond, however small; factors and evaluations 30.
    apart, each = (2e3, 3e4) if problems > 1 else (0.0, 1e5)
    step = (n * p + apart) * problems + 5e4
    whole = (n * p * (10.0 + p / 25.0) + 3.0 * p**3 + each) * problems + 5e5
    return bool(p <= MAX_NORMAL_COLUMNS and whole < min(stop.max_iter, STEPS) * step)


def asks_gcv(stop: Stop) -> bool:
    """Return whether it is the smallest generalised cross-validation that ends the run, and no more."""
    return (
        isinstance(stop.when, GCV) and (stop.grad_tol, stop.step_tol, stop.value_tol) == (None,) * 3
    )
