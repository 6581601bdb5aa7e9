"""A run of a rule with constant step on the squared loss, without the steps: its end in closed form.

The moments of the data give every epoch (`agd.update.Trajectory`); the tests that a loop would have asked at
its looks are asked of those, and the end is held against the data.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Params
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.run.certificate import certified
from agd.run.criteria import RUNNING
from agd.run.hindsight import Scan, beside, scanned
from agd.run.history import History, contraction
from agd.run.looks import Looks, at
from agd.run.loop import message, run
from agd.run.result import Result
from agd.run.row import Row, Wanted, plain
from agd.run.spectrum import COLUMNS
from agd.run.status import Status
from agd.run.stopping import Judge, Stop
from agd.run.tolerances import GradTol
from agd.run.view import State, View, columns_of, measure_path
from agd.run.worthwhile import asks_gcv
from agd.update import Trajectory

__all__ = ["closed"]

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
        What `worthwhile` returned.

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
    view = View.of(objective, Wanted(leaves))
    a_run = _Closed(
        whole, view, objective, stop,
        criterion.resolved(x0) if leaves else criterion,
        stop.check_every or check_every,
    )  # fmt: skip
    found = a_run.ended()
    if found is None:
        stepped = run(
            method, objective, x0, stop, callback, grad_tol=grad_tol, check_every=check_every
        )
        return replace(stepped, n_sync=stepped.n_sync + a_run.n_sync)
    return a_run.report(*found, method, gradients[0] if gradients else None)


class _Held(NamedTuple):
    """The end of a run as the data have it: where, the row, and the arrays of the result."""

    steps: Any
    row: Row
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

    def rows(self, steps: Any) -> Row:
        """Look at the run after some steps, (K, ...) or (K,) for all problems; K is at most `most`."""
        steps = np.reshape(steps, (*np.shape(steps), *(1,) * (self._ndim + 1 - np.ndim(steps))))
        n, self.n_sync = len(steps), self.n_sync + 1
        if self.compiled:  # other shapes would be compiled anew
            size = next((size for size in SIZES if n <= size <= self.most), n)
            steps = np.concatenate([steps, np.repeat(steps[-1:], size - n, axis=0)])
        columns = self.whole.seen(measure_path, self.view.constant, self.view.arrays, steps)
        row = self._named(backends.to_numpy(columns), steps, self.view.constant.wanted)
        return at(row, slice(0, n))

    @property
    def _ndim(self) -> int:
        return len(self.whole.batch_shape)

    def _named(self, columns: Any, steps: Any, wanted: Wanted) -> Row:
        self.eps = float(np.finfo(columns.dtype).eps)
        row = Row.read(columns, State(columns), wanted, 1)
        steps = np.broadcast_to(steps, row.value.shape)
        return row._replace(
            steps=steps, iterations=steps, evaluations=steps + 1,
            grad_norm=np.maximum(row.grad_norm, self.floor),
        )  # fmt: skip

    def ended(self) -> tuple[Scan, _Held] | None:
        """Find the end, hold it against the data, put the moments right and look again; None to loop."""
        held, right = None, self.whole.moments.G.dtype != self.objective.blocks.total.dtype
        for _ in range(ROUNDS):
            scan = self._scan()
            if (scan.row.finite == 0).any():
                return None
            again = held is not None and (scan.steps == held.steps).all()
            held = held if again else self._on_data(scan)
            if held is None:
                return None
            status = beside(scan, held.row)
            denied = (scan.status == Status.CONVERGED) & (status == RUNNING)
            right = right or again
            if (right or self._agree(scan.row, held.row)) and not denied.any():
                return scan._replace(status=np.where(status == RUNNING, scan.status, status)), held
            if right:  # what is left is rounding: the loop goes on with it, and so do its looks
                self.floor = np.where(denied, held.row.grad_norm, self.floor)
            else:
                right = not self._correct(scan, held)
        return None

    def _scan(self) -> Scan:
        """Ask the tests at the looks of a loop; or find the smallest generalised cross-validation."""
        if not asks_gcv(self.stop):
            looks = Looks.of(self.criterion, self.stop.max_iter, self.every)
            return scanned(self.rows, self._judge, looks, self.most)
        best = self.whole.best_epoch(self.stop.max_iter)
        self.n_sync += best.n_sync
        steps = np.asarray(best.epoch)
        looks = Looks.of(self.criterion, max(1, int(steps.max())), self.every)
        return Scan.at_steps(self.rows, looks, self.most, steps, int(Status.CONVERGED))

    def _judge(self, first: Row) -> Judge:
        return Judge(self.criterion, first, first.evaluations, self.eps)

    def _on_data(self, scan: Scan) -> _Held | None:
        """Evaluate the data where the run ends; None where they overflow."""
        self.passes, self.n_sync = self.passes + 1, self.n_sync + 1
        path = self.whole.at_each(scan.steps)
        dtype = self.objective.blocks.total.dtype
        xp = backends.namespace(path.coef)
        x = Params(*(v if v is None else xp.astype(v, dtype, copy=False) for v in path[:2]))
        wanted = self.view.constant.wanted._replace(length=True)
        with np.errstate(all="ignore"):
            value, grad = self.objective.value_and_grad(x)
            columns = columns_of(self.objective, wanted, x, value, grad, xp.zeros_like(value))
        row = self._named(backends.to_numpy(columns), scan.steps, wanted)
        sound = np.isfinite(row.value).all() and np.isfinite(row.grad_norm).all()
        row = row._replace(moved=scan.row.moved)
        return _Held(scan.steps, row, x, value, grad) if sound else None

    def _agree(self, row: Row, data: Row) -> bool:
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
            fun=plain(row.value),
            jac=jac,
            nit=plain(steps),
            nfev=plain(np.full(steps.shape, self.passes)),
            njev=plain(np.full(steps.shape, self.passes)),
            status=Status(int(scan.status)) if single else scan.status,
            success=plain(scan.status == Status.CONVERGED),
            message=message(scan.status, steps),
            history=history,
            n_sync=self.n_sync,
            method=f"{method.name} (closed form)",
            certificate=certified(
                row._replace(curvature=curvature), limit, method,
                contraction(nit, history.grad_norm), known, "Hessian",
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
        few = self._ndim == 0 and self.objective.blocks.X.shape[-1] <= COLUMNS
        return curvature, (float(read[1]),) * 2 if few else None


def _history(scan: Scan, end: Row, passes: int) -> History:
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
