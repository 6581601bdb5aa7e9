"""The device's side of the loop: a method on an objective, compiled where the backend compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Carry, Method, Tree
from agd.data.arrays import again
from agd.run.observation import Row, Wanted, measured
from agd.update.rule import compiled, ours

__all__ = [
    "Machine",
]


class _Task(NamedTuple):
    """A method on an objective; for a compiled step without its arrays, as a constant that is hashed.

    Equal constants share the compilation, as long as they may; the arrays come in as arguments.
    """

    method: Any
    objective: Any


class _Look(NamedTuple):
    """What is measured of a task; another constant than the step's, which it does not concern."""

    task: _Task
    wanted: Wanted


def _whole(task: _Task, arrays: Tree) -> Any:
    """Return the objective with its arrays."""
    return task.objective if arrays is None else task.objective.with_arrays(arrays)


def _advance(task: _Task, arrays: Tree, carry: Carry, drawn: Tree) -> Carry:
    """Take one step with every problem that still runs; one that turns non-finite stays before it."""
    objective = _whole(task, arrays)
    more = () if drawn is None else (drawn,)
    params, state = task.method.step(objective, carry.params, carry.state, *more)
    carry = _sound(objective, params, state, carry)
    count = carry.count + backends.namespace(carry.count).astype(carry.active, carry.count.dtype)
    return carry._replace(count=count)


def _refresh(task: Any, arrays: Tree, carry: Carry, drawn: Tree) -> Carry:
    """Let a method do what it does once a period, with every problem that still runs."""
    objective = _whole(task, arrays)
    more = () if drawn is None else (drawn,)
    params, state = task.method.refresh(objective, carry.params, carry.state, *more)
    return _sound(objective, params, state, carry)


def _sound(objective: Any, params: Tree, state: Any, carry: Carry) -> Carry:
    """Take the new point of each problem that still runs and is finite there."""
    xp = backends.namespace(carry.count)
    ok = (
        carry.active
        & xp.isfinite(state.value)
        & xp.isfinite(objective.grad_norm(state.grad, params))
    )
    return Carry(_keep(ok, params, carry.params), _keep(ok, state, carry.state), ok, carry.count)


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


def _resumed(method: Any, objective: Any, params: Tree, state: Any) -> Any:
    """Return a method's state with the gradient of another objective, and no failure."""
    if hasattr(method, "resumed"):
        return method.resumed(objective, params, state)
    _, grad = objective.value_and_grad(params)
    xp = backends.namespace(state.value)
    flags = [name for name in ("failed", "walled") if getattr(state, name, None) is not None]
    return state._replace(grad=grad, **{f: xp.zeros_like(getattr(state, f)) for f in flags})


def _measure(look: _Look, arrays: Tree, carry: Carry, before: Any) -> tuple[Array, Tree]:
    """Return the columns of a `Row`, and the gradient where it is not the state's."""
    objective = _whole(look.task, arrays)
    if not hasattr(look.task.method, "look"):
        value, grad, own = carry.state.value, carry.state.grad, None
    else:  # the state's are of a mini-batch: what is reported and tested is the whole function's
        value, grad = look.task.method.look(objective, carry.params, carry.state)
        own = grad
    return measured(objective, look.wanted, carry, value, grad, before), own


STEPS: tuple[Callable[..., Any], ...] = (_advance, _measure, _refresh)


@functools.lru_cache(maxsize=32)  # of the functions that were minimised last
def _of_program(alone: Callable[..., Any], _: _Task) -> tuple[Callable[..., Any], ...]:
    return tuple(map(alone, STEPS))


def _compiled(
    backend: backends.Backend, method: Method, objective: Any, x0: Tree
) -> tuple[_Task, Tree, tuple[Callable[..., Any], ...]] | None:
    """Return the constant, the arrays and the compiled steps; None where the constant has no hash.

    What is compiled for this library's own constants serves later runs, and so does what is compiled for
    a function whose program is the same then. Anything else may have changed by then: it goes with the run.
    """
    task = _Task(method, objective.with_arrays(None))
    if not ours(task) and hasattr(objective, "as_program"):
        program = objective.as_program(x0)
        known = _Task(method, program.with_arrays(None))
        if ours(known):
            return known, program.arrays(), _of_program(backend.compile_unshared, known)
    if not _hashable(task):
        return None
    return task, objective.arrays(), tuple(compiled(backend, f, task) for f in STEPS)


class Machine:
    """A method on an objective, its step compiled where the backend compiles; it counts the reads.

    Parameters
    ----------
    method : Method
        What takes a step.
    objective : Objective
        What is minimised; one whose `compilable` is False is run as it is, and so is one where it is
        None, which has no use for it.
    x0 : tree of arrays
        The first point.
    """

    task: _Task
    advance: Callable[..., Carry]
    measure: Callable[..., tuple[Array, Tree]]
    again: Callable[..., Carry]

    def __init__(self, method: Method, objective: Any, x0: Tree) -> None:
        like = optree.tree_leaves(x0)[0]
        backend = backends.of(like)
        self._out_of_memory = backend.is_out_of_memory
        self.method, self.objective, self.wanted = method, objective, Wanted()
        self._compile(backend, objective, x0)
        self.n_sync = self.taken = 0
        refreshes = hasattr(method, "refresh")
        self.period = method.period(objective) if refreshes else 0  # type: ignore[attr-defined]
        # A lazy backend would grow a graph with every step.
        self.persist = backend.persist if backend.chunked else None
        # Power iteration unrolls into a graph that costs more to compile than to run: not compiled.
        with np.errstate(all="ignore"):
            state = method.init(objective, x0)
        xp, where = backends.namespace(like), backends.device(like)
        active = xp.ones(objective.batch_shape, dtype=xp.bool, device=where)
        count = xp.zeros(objective.batch_shape, dtype=like.dtype, device=where)
        self.carry = Carry(x0, state, active, count)
        if self.persist is not None:
            self.carry = self.persist(self.carry)
        self.before = self._point()
        self.grad: Tree = None

    def _compile(self, backend: backends.Backend, objective: Any, x0: Tree) -> None:
        wanted = getattr(objective, "compilable", True) if backend.compiles else None
        found = _compiled(backend, self.method, objective, x0) if wanted else None
        # A step that is run as it is where others are compiled is slower: the result says so.
        unable = backend.compiles and found is None and wanted is not None
        self.note = ", not compiled" if unable else ""
        if found is not None:
            self.task, self.arrays, steps = found
        else:  # the objective as it is keeps the blocks that it was cut into
            self.task, self.arrays, steps = _Task(self.method, objective), None, STEPS
        self.advance, self.measure, self.again = steps

    def _point(self) -> Any:
        return self.carry.params, getattr(self.carry.state, "iterations", None)

    def change(self, objective: Any, where: Any) -> None:
        """Go on with another objective of the same values, such as one with a finer gradient.

        Parameters
        ----------
        objective : Objective
            What is minimised from here on.
        where : numpy.ndarray of bool, shape (...)
            The problems that go on, also where they had ended; the others stand still.
        """
        carry, like = self.carry, self.carry.active
        xp, backend = backends.namespace(like), backends.of(like)
        going = backend.convert(xp, where, xp.bool, backends.device(like))
        with np.errstate(all="ignore"):
            state = _resumed(self.method, objective, carry.params, carry.state)
        self._compile(backend, objective, carry.params)
        self.objective = objective
        self.carry = carry._replace(state=_keep(going, state, carry.state), active=going)
        if self.persist is not None:
            self.carry = self.persist(self.carry)

    def steps(self, n: int) -> None:
        """Take n steps; an overflow on the way is seen by the finite flag, and said by the status."""
        draw = getattr(self.method, "draw", None)
        drawn = draw(self.objective, self.taken, n) if draw is not None else None
        with np.errstate(all="ignore"):
            for i in range(n):
                if i == n - 1:
                    self.before = self._point()
                self._advance(None if drawn is None else _entry(drawn, i))
                self.taken += 1
                if self.period and self.taken % self.period == 0:
                    self._refresh()
                if self.persist is not None:
                    self.carry = self.persist(self.carry)

    def _advance(self, mine: Tree) -> None:
        self.carry = self._in_room(lambda: self.advance(self.task, self.arrays, self.carry, mine))

    def _refresh(self) -> None:
        """End a period of the method; what it draws for that hangs on the step alone."""
        redraw = getattr(self.method, "redraw", None)
        params = self.carry.params
        drawn = None if redraw is None else redraw(self.objective, params, self.taken)
        self.carry = self._in_room(lambda: self.again(self.task, self.arrays, self.carry, drawn))

    def _in_room(self, call: Callable[[], Any]) -> Any:
        """Call what is compiled; where a device's memory runs out, compiled anew for smaller blocks."""
        return again(call, self._out_of_memory, self._halve)

    def _halve(self) -> bool:
        halved = getattr(self.objective, "halved", None)
        smaller = None if self.arrays is None or halved is None else halved()
        if smaller is None:  # what is not compiled has cut its blocks by itself
            return False
        self.objective, self.task = smaller, _Task(self.method, smaller.with_arrays(None))
        return True

    def look(self, beside: list[Array] | None = None) -> tuple[Row, Any, list[Any]]:
        """Read the row, and other arrays beside it, in one transfer.

        Parameters
        ----------
        beside : list of array, optional
            What else to read; small arrays of the row's dtype.

        Returns
        -------
        row : Row
            What the host looks at.
        eps : float
            The rounding of the dtype that it came in.
        beside : list of numpy.ndarray
            The other arrays.
        """
        self.n_sync += 1
        with np.errstate(all="ignore"):
            rows, self.grad = self._in_room(
                lambda: self.measure(
                    _Look(self.task, self.wanted), self.arrays, self.carry, self.before
                )
            )
        parts = [rows, *(beside or ())]
        if len(parts) > 1:
            xp = backends.namespace(rows)
            flat = [xp.reshape(xp.astype(x, rows.dtype, copy=False), (-1,)) for x in parts]
            host = np.asarray(backends.to_numpy(xp.concat(flat)))
            ends = np.cumsum([int(np.prod(x.shape)) for x in parts])[:-1]
            split = [
                part.reshape(tuple(x.shape))
                for part, x in zip(np.split(host, ends), parts, strict=True)
            ]
        else:
            split = [np.asarray(backends.to_numpy(rows))]
        eps = float(np.finfo(split[0].dtype).eps)
        row = Row.read(split[0], self.carry.state, self.wanted, self.method.evaluations)
        return row, eps, split[1:]

    def report(self) -> tuple[Tree, Tree]:
        """Return the point and the gradient there, as a user reads them."""
        grad = self.carry.state.grad if self.grad is None else self.grad
        with np.errstate(all="ignore"):  # what overflows there is said by the status
            x, jac = self.objective.report(self.carry.params, grad)
        return x, jac

    def hold(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        like = self.carry.active
        xp, where = backends.namespace(like), backends.device(like)
        still = backends.of(like).convert(xp, ~done, xp.bool, where)
        self.carry = self.carry._replace(active=like & still)


def _entry(drawn: Tree, i: int) -> Tree:
    return optree.tree_map(lambda a: a[i, ...], drawn)


def _hashable(task: _Task) -> bool:
    try:
        hash(task)
    except TypeError:  # a penalty or a rule that holds an array: run it as it is
        return False
    return True
