"""The loop: step, and now and then look. The only place where the host reads from the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Carry, Method, Objective, Tree
from agd.run.result import Certificate, History, Result
from agd.run.stopping import Judge, Row, Status, Stop

__all__ = ["run"]


class _Task(NamedTuple):
    """A method on an objective; for a compiled step without its arrays, as a constant that is hashed.

    Equal constants share the compilation, and the arrays come in as arguments.
    """

    method: Any
    objective: Any


def _whole(task: _Task, arrays: Tree) -> Any:
    """Return the objective with its arrays."""
    return task.objective if arrays is None else task.objective.with_arrays(arrays)


def _advance(task: _Task, arrays: Tree, carry: Carry) -> Carry:
    """Take one step with every problem that still runs; one that turns non-finite stays before it."""
    objective = _whole(task, arrays)
    params, state = task.method.step(objective, carry.params, carry.state)
    xp = backends.namespace(carry.count)
    ok = (
        carry.active
        & xp.isfinite(state.value)
        & xp.isfinite(objective.grad_norm(state.grad, params))
    )
    return Carry(
        _keep(ok, params, carry.params),
        _keep(ok, state, carry.state),
        ok,
        carry.count + xp.astype(ok, carry.count.dtype),
    )


def _keep(ok: Array, new: Tree, old: Tree) -> Tree:
    """Take the new leaves of each problem that is ok; leaves without batch axes are shared."""
    xp = backends.namespace(ok)
    batch = tuple(ok.shape)
    if not batch:
        return optree.tree_map(lambda a, b: xp.where(ok, a, b), new, old)

    def pick(a: Array, b: Array) -> Array:
        if tuple(a.shape)[: len(batch)] != batch:
            return a
        return xp.where(xp.reshape(ok, (*batch, *(1,) * (a.ndim - len(batch)))), a, b)

    return optree.tree_map(pick, new, old)


def _measure(task: _Task, arrays: Tree, carry: Carry, before: Tree) -> Array:
    """Stack what the host looks at into one small array (6, ...): a `Row`."""
    objective = _whole(task, arrays)
    value = carry.state.value
    xp = backends.namespace(value)
    size, moved = xp.zeros_like(value), xp.zeros_like(value)
    for new, old in zip(optree.tree_leaves(carry.params), optree.tree_leaves(before), strict=True):
        axes = tuple(range(value.ndim, new.ndim))
        size = xp.maximum(size, xp.max(xp.abs(new), axis=axes) if axes else xp.abs(new))
        change = xp.abs(new - old)
        moved = xp.maximum(moved, xp.max(change, axis=axes) if axes else change)
    moved = moved / xp.where(size > 0.0, size, xp.ones_like(size))
    grad_norm = objective.grad_norm(carry.state.grad, carry.params)
    finite = carry.active & xp.isfinite(value) & xp.isfinite(grad_norm)
    curvature = getattr(carry.state, "curvature", None)
    if curvature is None:
        curvature = xp.zeros_like(value)  # unknown: no objective worth descending is flat
    columns = Row(value, grad_norm, moved, finite, carry.count, curvature)
    return xp.stack([xp.astype(column, value.dtype) for column in columns])


class _Machine:
    """A method on an objective, its step compiled where the backend compiles; it counts the reads."""

    task: Any
    advance: Callable[..., Carry]
    measure: Callable[..., Array]

    def __init__(self, method: Method, objective: Any, x0: Tree) -> None:
        like = optree.tree_leaves(x0)[0]
        backend = backends.of(like)
        constant = _Task(method, objective.with_arrays(None)) if backend.compiles else None
        compiled = constant is not None and _hashable(constant)
        # A step that is run as it is where others are compiled is slower: the result says so.
        self.note = ", not compiled" if constant is not None and not compiled else ""
        if compiled:
            self.task, self.arrays = constant, objective.arrays()
            self.advance, self.measure = backend.compile(_advance), backend.compile(_measure)
        else:  # the objective as it is keeps the blocks that it was cut into
            self.task, self.arrays = _Task(method, objective), None
            self.advance, self.measure = _advance, _measure
        self.n_sync = 0
        # Power iteration unrolls into a graph that costs more to compile than to run: not compiled.
        with np.errstate(all="ignore"):
            state = method.init(objective, x0)
        xp, where = backends.namespace(like), backends.device(like)
        active = xp.ones(objective.batch_shape, dtype=xp.bool, device=where)
        count = xp.zeros(objective.batch_shape, dtype=like.dtype, device=where)
        self.carry = Carry(x0, state, active, count)
        self.before = x0

    def steps(self, n: int) -> None:
        """Take n steps; an overflow on the way is seen by the finite flag, and said by the status."""
        with np.errstate(all="ignore"):
            for i in range(n):
                if i == n - 1:
                    self.before = self.carry.params
                self.carry = self.advance(self.task, self.arrays, self.carry)

    def look(self) -> Row:
        """Read the row: one transfer."""
        self.n_sync += 1
        rows = backends.to_numpy(self.measure(self.task, self.arrays, self.carry, self.before))
        return Row(*np.asarray(rows, dtype=np.float64))

    def hold(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        like = self.carry.active
        xp, where = backends.namespace(like), backends.device(like)
        still = backends.of(like).convert(xp, ~done, xp.bool, where)
        self.carry = self.carry._replace(active=like & still)


def _hashable(task: _Task) -> bool:
    try:
        hash(task)
    except TypeError:  # a penalty or a rule that holds an array: run it as it is
        return False
    return True


def run(
    method: Method,
    objective: Objective,
    x0: Tree,
    stop: Stop | None = None,
    callback: Callable[[Result], object] | None = None,
    *,
    grad_tol: float | None = None,
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
    stop : Stop, optional
        When to stop; ``Stop()`` by default.
    callback : callable, optional
        Called with the result so far at every look. The run ends if it raises StopIteration or
        returns True.
    grad_tol : float, optional
        The gradient's limit where ``stop.grad_tol`` is None; 0 by default.

    Returns
    -------
    Result
        Where the run ended; a batch has one status and count for each problem.

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
    stop = Stop() if stop is None else stop
    tolerance = stop.grad_tol if stop.grad_tol is not None else (grad_tol or 0.0)
    machine = _Machine(method, objective, x0)
    row = machine.look()
    judge = Judge(stop, tolerance, row)
    looks = [(0, row)]
    report = functools.partial(_report, method, objective, machine, judge, looks)
    done = 0
    while not judge.done.all() and done < stop.max_iter:
        n = min(stop.check_every, stop.max_iter - done)
        machine.steps(n)
        done += n
        row = machine.look()
        looks.append((done, row))
        judge.look(row)
        if judge.done.any():
            machine.hold(judge.done)
        if callback is not None and not judge.done.all() and _ends(callback, report):
            judge.end(Status.CALLBACK)
    judge.end(Status.MAX_ITER)
    return report()


def _ends(callback: Callable[[Result], object], report: Callable[[], Result]) -> bool:
    try:
        return callback(report()) is True
    except StopIteration:
        return True


def _report(
    method: Method, objective: Any, machine: _Machine, judge: Judge, looks: list[tuple[int, Row]]
) -> Result:
    """Put together the result so far."""
    row, single = looks[-1][1], judge.status.ndim == 0
    nit = row.steps.astype(int)
    status = judge.status
    x, jac = objective.report(machine.carry.params, machine.carry.state.grad)
    evaluations = 1 + nit * method.evaluations
    history = History(
        np.asarray([k for k, _ in looks]),
        np.asarray([r.value for _, r in looks]),
        np.asarray([r.grad_norm for _, r in looks]),
    )
    single_status = Status(int(status)) if single and status >= 0 else None
    return Result(
        x=x,
        fun=_plain(row.value),
        jac=jac,
        nit=_plain(nit),
        nfev=_plain(evaluations),
        njev=_plain(evaluations),
        status=single_status if single else status,
        success=_plain(status == Status.CONVERGED),
        message=_message(status, nit),
        history=history,
        n_sync=machine.n_sync,
        method=method.name + machine.note,
        certificate=_certificate(row, judge.grad_tol),
    )


def _certificate(row: Row, grad_tol: float) -> Certificate:
    known = bool((row.curvature > 0.0).all())
    curvature = _plain(row.curvature) if known else None
    largest_step = 2.0 / curvature if curvature is not None else None
    return Certificate(_plain(row.grad_norm), grad_tol, curvature, largest_step)


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _message(status: Any, nit: Any) -> str:
    if status.ndim == 0:
        return (
            f"{Status(int(status)).advice} (after {int(nit)} steps)" if status >= 0 else "running"
        )
    counts = [(s, int((status == s).sum())) for s in Status]
    return "; ".join(f"{n} of {status.size} {s.advice}" for s, n in counts if n) or "running"
