"""The device's side of the loop: a method on an objective, compiled where the backend compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import tree_where
from agd._typing import Array, Method, State, StepState, Tree, get_progress
from agd.data.arrays import again
from agd.run.observation import Observation, ObservedFields, observe
from agd.update.rule import compiled, ours

__all__ = [
    "CompiledStep",
]


class _Task(NamedTuple):
    """A method on an objective; for a compiled step without its arrays, as a constant that is hashed.

    Equal constants share the compilation, as long as they may; the arrays come in as arguments.
    """

    method: Any
    objective: Any


class _ObserveTask(NamedTuple):
    """What is measured of a task; another constant than the step's, which it does not concern."""

    task: _Task
    observed_fields: ObservedFields


def _objective_with_arrays(task: _Task, arrays: Tree) -> Any:
    """Return the objective with its arrays."""
    return task.objective if arrays is None else task.objective.with_arrays(arrays)


def _advance(task: _Task, arrays: Tree, step_state: StepState, draws: Tree) -> StepState:
    """Take one step with every problem that still runs; one that turns non-finite stays before it."""
    objective = _objective_with_arrays(task, arrays)
    draw_args = () if draws is None else (draws,)
    params, state = task.method.step(objective, step_state.params, step_state.state, *draw_args)
    step_state = _accept_finite(objective, params, state, step_state)
    count = step_state.count + backends.namespace(step_state.count).astype(
        step_state.active, step_state.count.dtype
    )
    return step_state._replace(count=count)


def _refresh(task: Any, arrays: Tree, step_state: StepState, draws: Tree) -> StepState:
    """Let a method do what it does once a period, with every problem that still runs."""
    objective = _objective_with_arrays(task, arrays)
    draw_args = () if draws is None else (draws,)
    params, state = task.method.refresh(objective, step_state.params, step_state.state, *draw_args)
    return _accept_finite(objective, params, state, step_state)


def _accept_finite(objective: Any, params: Tree, state: Any, step_state: StepState) -> StepState:
    """Take the new point of each problem that still runs and is finite there."""
    xp = backends.namespace(step_state.count)
    accepted = (
        step_state.active
        & xp.isfinite(state.value)
        & xp.isfinite(objective.grad_norm(state.grad, params))
    )
    return StepState(
        tree_where(accepted, params, step_state.params),
        tree_where(accepted, state, step_state.state),
        accepted,
        step_state.count,
    )


def _resume_state(method: Any, objective: Any, params: Tree, state: Any) -> Any:
    """Return a method's state with the gradient of another objective, and no failure."""
    if hasattr(method, "resumed"):
        return method.resumed(objective, params, state)
    _, grad = objective.value_and_grad(params)
    changes: dict[str, Any] = {"grad": grad}
    if isinstance(state, State):
        changes["progress"] = state.progress.without_flags()
    return state._replace(**changes)


def _observe(
    look: _ObserveTask, arrays: Tree, step_state: StepState, previous: Any
) -> tuple[Array, Tree]:
    """Return the columns of an `Observation`, and the gradient where it is not the state's."""
    objective = _objective_with_arrays(look.task, arrays)
    if not hasattr(look.task.method, "look"):
        value, grad, own = step_state.state.value, step_state.state.grad, None
    else:  # the state's are of a mini-batch: what is reported and tested is the whole function's
        value, grad = look.task.method.look(objective, step_state.params, step_state.state)
        own = grad
    return observe(objective, look.observed_fields, step_state, value, grad, previous), own


STEPS: tuple[Callable[..., Any], ...] = (_advance, _observe, _refresh)


@functools.lru_cache(maxsize=32)  # of the functions that were minimised last
def _of_program(alone: Callable[..., Any], _: _Task) -> tuple[Callable[..., Any], ...]:
    return tuple(map(alone, STEPS))


def _compile_steps(
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


class CompiledStep:
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
    advance: Callable[..., StepState]
    measure: Callable[..., tuple[Array, Tree]]
    again: Callable[..., StepState]

    def __init__(self, method: Method, objective: Any, x0: Tree) -> None:
        like = optree.tree_leaves(x0)[0]
        backend = backends.of(like)
        self._out_of_memory = backend.is_out_of_memory
        self.method, self.objective, self.observed_fields = method, objective, ObservedFields()
        self._compile(backend, objective, x0)
        self.n_sync = self.step_count = 0
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
        self.step_state = StepState(x0, state, active, count)
        if self.persist is not None:
            self.step_state = self.persist(self.step_state)
        self.previous = self._point()
        self.grad: Tree = None

    def _compile(self, backend: backends.Backend, objective: Any, x0: Tree) -> None:
        compilable = getattr(objective, "compilable", True) if backend.compiles else None
        compiled_steps = _compile_steps(backend, self.method, objective, x0) if compilable else None
        # A step that is run as it is where others are compiled is slower: the result says so.
        unable = backend.compiles and compiled_steps is None and compilable is not None
        self.note = ", not compiled" if unable else ""
        if compiled_steps is not None:
            self.task, self.arrays, steps = compiled_steps
        else:  # the objective as it is keeps the blocks that it was cut into
            self.task, self.arrays, steps = _Task(self.method, objective), None, STEPS
        self.advance, self.observe, self.refresh = steps

    def _point(self) -> Any:
        return self.step_state.params, get_progress(self.step_state.state).iterations

    def replace_objective(self, objective: Any, where: Any) -> None:
        """Go on with another objective of the same values, such as one with a finer gradient.

        Parameters
        ----------
        objective : Objective
            What is minimised from here on.
        where : numpy.ndarray of bool, shape (...)
            The problems that go on, also where they had ended; the others stand still.
        """
        step_state, like = self.step_state, self.step_state.active
        backend, going = backends.of(like), backends.to_device_of(where, like)
        with np.errstate(all="ignore"):
            state = _resume_state(self.method, objective, step_state.params, step_state.state)
        self._compile(backend, objective, step_state.params)
        self.objective = objective
        self.step_state = step_state._replace(
            state=tree_where(going, state, step_state.state), active=going
        )
        if self.persist is not None:
            self.step_state = self.persist(self.step_state)

    def steps(self, n: int) -> None:
        """Take n steps; an overflow on the way is seen by the finite flag, and said by the status."""
        draw = getattr(self.method, "draw", None)
        draws = draw(self.objective, self.step_count, n) if draw is not None else None
        with np.errstate(all="ignore"):
            for i in range(n):
                if i == n - 1:
                    self.previous = self._point()
                self._advance(None if draws is None else _draw_of_step(draws, i))
                self.step_count += 1
                if self.period and self.step_count % self.period == 0:
                    self._refresh()
                if self.persist is not None:
                    self.step_state = self.persist(self.step_state)

    def _advance(self, draw: Tree) -> None:
        self.step_state = self._retry_out_of_memory(
            lambda: self.advance(self.task, self.arrays, self.step_state, draw)
        )

    def _refresh(self) -> None:
        """End a period of the method; what it draws for that hangs on the step alone."""
        redraw = getattr(self.method, "redraw", None)
        params = self.step_state.params
        draws = None if redraw is None else redraw(self.objective, params, self.step_count)
        self.step_state = self._retry_out_of_memory(
            lambda: self.refresh(self.task, self.arrays, self.step_state, draws)
        )

    def _retry_out_of_memory(self, call: Callable[[], Any]) -> Any:
        """Call what is compiled; where a device's memory runs out, compiled anew for smaller blocks."""
        return again(call, self._out_of_memory, self._halve_blocks)

    def _halve_blocks(self) -> bool:
        halved = getattr(self.objective, "halved", None)
        smaller = None if self.arrays is None or halved is None else halved()
        if smaller is None:  # what is not compiled has cut its blocks by itself
            return False
        self.objective, self.task = smaller, _Task(self.method, smaller.with_arrays(None))
        return True

    def look(self, beside: list[Array] | None = None) -> tuple[Observation, Any, list[Any]]:
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
            rows, self.grad = self._retry_out_of_memory(
                lambda: self.observe(
                    _ObserveTask(self.task, self.observed_fields),
                    self.arrays,
                    self.step_state,
                    self.previous,
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
        row = Observation.read(
            split[0], self.step_state.state, self.observed_fields, self.method.evaluations
        )
        return row, eps, split[1:]

    def report(self) -> tuple[Tree, Tree]:
        """Return the point and the gradient there, as a user reads them."""
        grad = self.step_state.state.grad if self.grad is None else self.grad
        with np.errstate(all="ignore"):  # what overflows there is said by the status
            x, jac = self.objective.report(self.step_state.params, grad)
        return x, jac

    def freeze(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        like = self.step_state.active
        self.step_state = self.step_state._replace(active=like & backends.to_device_of(~done, like))


def _draw_of_step(draws: Tree, i: int) -> Tree:
    return optree.tree_map(lambda a: a[i, ...], draws)


def _hashable(task: _Task) -> bool:
    try:
        hash(task)
    except TypeError:  # a penalty or a rule that holds an array: run it as it is
        return False
    return True
