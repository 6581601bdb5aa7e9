"""One step of a solver on the device, compiled where the backend compiles.

It is the device's half of the loop in ``run/loop.py``. Three functions run there: one step of every problem
that still runs, the refresh that ends a solver's period, and the observation that the host reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import tree_where
from agd._typing import Array, StepState, Tree, get_progress
from agd.data.arrays import retry_out_of_memory
from agd.run.observation import Observation, ObservedFields, observe
from agd.update.rule import compiled, is_value_type

__all__ = [
    "CompiledStep",
]


class _Task(NamedTuple):
    """A solver and an objective: the constants of a compiled step.

    For a compiled step the objective comes without its arrays, which are arguments. Equal tasks share what
    was compiled, as far as `is_value_type` says that they may.
    """

    method: Any
    objective: Any


class _ObservedTask(NamedTuple):
    """A task and what is observed of it: the constants of a compiled observation."""

    task: _Task
    fields: ObservedFields


def _with_arrays(task: _Task, arrays: Tree) -> Any:
    """Return the task's objective with its arrays."""
    return task.objective if arrays is None else task.objective.with_arrays(arrays)


def _advance(task: _Task, arrays: Tree, step_state: StepState, draws: Tree) -> StepState:
    """Take one step with every problem that still runs; one that turns non-finite stays before it."""
    objective = _with_arrays(task, arrays)
    draw_args = () if draws is None else (draws,)
    params, state = task.method.step(objective, step_state.params, step_state.state, *draw_args)
    step_state = _accept_finite(objective, params, state, step_state)
    xp, count = backends.namespace(step_state.count), step_state.count
    return step_state._replace(count=count + xp.astype(step_state.active, count.dtype))


def _refresh(task: Any, arrays: Tree, step_state: StepState, draws: Tree) -> StepState:
    """Let a solver do what it does once a period, with every problem that still runs."""
    objective = _with_arrays(task, arrays)
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
    params = tree_where(accepted, params, step_state.params)
    state = tree_where(accepted, state, step_state.state)
    return StepState(params, state, accepted, step_state.count)


def _observe(
    observed: _ObservedTask, arrays: Tree, step_state: StepState, previous: Any
) -> tuple[Array, Tree]:
    """Return the columns of an `Observation`, and the gradient where it is not the state's."""
    task = observed.task
    objective = _with_arrays(task, arrays)
    value, grad, full_grad = step_state.state.value, step_state.state.grad, None
    if task.method.minibatch_state:
        # The state's are of a mini-batch: the whole function's are reported and tested.
        value, grad = task.method.look(objective, step_state.params, step_state.state)
        full_grad = grad
    return observe(objective, observed.fields, step_state, value, grad, previous), full_grad


class _Functions(NamedTuple):
    """What runs on the device, compiled or as it is."""

    advance: Callable[..., StepState]
    observe: Callable[..., tuple[Array, Tree]]
    refresh: Callable[..., StepState]


UNCOMPILED = _Functions(_advance, _observe, _refresh)


@functools.lru_cache(maxsize=32)  # programs: of the functions that were minimised last
def _compile_program(compile_unshared: Callable[..., Any], _: _Task) -> _Functions:
    return _Functions(*map(compile_unshared, UNCOMPILED))


class CompiledStep:
    """A solver on an objective, its step compiled where the backend compiles; it counts the reads.

    Parameters
    ----------
    method : Solver
        What takes a step.
    objective : Objective
        What is minimised. Where it is not `compilable` the step runs uncompiled, and the result says so;
        where it is not `worth_compiling`, the result says nothing.
    x0 : tree of arrays
        The first point.
    """

    task: _Task
    functions: _Functions

    def __init__(self, method: Any, objective: Any, x0: Tree) -> None:
        like = optree.tree_leaves(x0)[0]
        backend = backends.of(like)
        self._is_out_of_memory = backend.is_out_of_memory
        self.method, self.objective, self.observed_fields = method, objective, ObservedFields()
        self._compile(backend, objective, x0)
        self.n_sync = self.step_count = 0
        self.period = method.period(objective) if method.refreshes else 0
        # A lazy backend would grow a graph with every step: its states are computed as they come.
        self.persist = backend.persist if backend.chunked else _keep_state
        # Power iteration unrolls into a graph that costs more to compile than to run: not compiled.
        with np.errstate(all="ignore"):
            state = method.init(objective, x0)
        xp, where = backends.namespace(like), backends.device(like)
        active = xp.ones(objective.batch_shape, dtype=xp.bool, device=where)
        count = xp.zeros(objective.batch_shape, dtype=like.dtype, device=where)
        self.step_state = self.persist(StepState(x0, state, active, count))
        self.previous = self._point()
        self.full_grad: Tree = None

    def _compile(self, backend: backends.Backend, objective: Any, x0: Tree) -> None:
        """Compile the step where the backend compiles and the task can be a constant.

        What is compiled for this library's own constants serves later runs, and so does what is compiled
        for a function whose program is the same then. Anything else may have changed by then: it goes
        with the run.
        """
        # An objective as it is keeps the blocks that it was cut into.
        self.task, self.arrays, self.functions = _Task(self.method, objective), None, UNCOMPILED
        self.note = ""
        if not (backend.compiles and objective.worth_compiling):
            return
        self.note = ", not compiled"  # and so slower than other runs on this backend
        if not objective.compilable:
            return
        task = _Task(self.method, objective.with_arrays(None))
        if not is_value_type(task):
            program = objective.as_program(x0)
            program_task = _Task(self.method, program.with_arrays(None))
            if is_value_type(program_task):
                self.task, self.arrays, self.note = program_task, program.arrays(), ""
                self.functions = _compile_program(backend.compile_unshared, program_task)
                return
        if _is_hashable(task):
            self.task, self.arrays, self.note = task, objective.arrays(), ""
            self.functions = _Functions(*(compiled(backend, f, task) for f in UNCOMPILED))

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
        backend, active = backends.of(like), backends.to_device_of(where, like)
        with np.errstate(all="ignore"):
            state = self.method.resume_state(objective, step_state.params, step_state.state)
        self._compile(backend, objective, step_state.params)
        self.objective = objective
        state = tree_where(active, state, step_state.state)
        self.step_state = self.persist(step_state._replace(state=state, active=active))

    def take_steps(self, n: int) -> None:
        """Take n steps; an overflow among them shows in the next observation, and in the status."""
        draws = None
        if self.method.stochastic:
            draws = self.method.draw(self.objective, self.step_count, n)
        with np.errstate(all="ignore"):
            for i in range(n):
                if i == n - 1:
                    self.previous = self._point()
                self._take_step(None if draws is None else _select_draw(draws, i))
                self.step_count += 1
                if self.period and self.step_count % self.period == 0:
                    self._refresh()
                self.step_state = self.persist(self.step_state)

    def _take_step(self, draw: Tree) -> None:
        self.step_state = self._retry_out_of_memory(
            lambda: self.functions.advance(self.task, self.arrays, self.step_state, draw)
        )

    def _refresh(self) -> None:
        """End a period of the solver; what it draws for that depends on the step alone."""
        draws = self.method.redraw(self.objective, self.step_state.params, self.step_count)
        self.step_state = self._retry_out_of_memory(
            lambda: self.functions.refresh(self.task, self.arrays, self.step_state, draws)
        )

    def _retry_out_of_memory(self, call: Callable[[], Any]) -> Any:
        """Call a compiled function; where the device's memory runs out, compile it for smaller blocks."""
        return retry_out_of_memory(call, self._is_out_of_memory, self._halve_blocks)

    def _halve_blocks(self) -> bool:
        smaller = None if self.arrays is None else self.objective.with_smaller_blocks()
        if smaller is None:  # what is not compiled has cut its blocks by itself
            return False
        self.objective, self.task = smaller, _Task(self.method, smaller.with_arrays(None))
        return True

    def observe(self, extra: Sequence[Array] = ()) -> tuple[Observation, Any, list[Any]]:
        """Read an observation, and other arrays with it, in one transfer.

        Parameters
        ----------
        extra : sequence of array
            What else to read: small arrays of the observation's dtype.

        Returns
        -------
        observation : Observation
            What the host knows from here on.
        eps : float
            The rounding of the dtype that it came in.
        extra : list of numpy.ndarray
            The other arrays.
        """
        self.n_sync += 1
        constants = self.observed_fields
        with np.errstate(all="ignore"):
            columns, self.full_grad = self._retry_out_of_memory(
                lambda: self.functions.observe(
                    _ObservedTask(self.task, constants), self.arrays, self.step_state, self.previous
                )
            )
        host = _read_together([columns, *extra])
        eps = float(np.finfo(host[0].dtype).eps)
        observation = Observation.read(
            host[0], self.step_state.state, self.observed_fields, self.method.evaluations
        )
        return observation, eps, host[1:]

    def report(self) -> tuple[Tree, Tree]:
        """Return the point and the gradient, in the user's coordinates."""
        grad = self.step_state.state.grad if self.full_grad is None else self.full_grad
        with np.errstate(all="ignore"):  # an overflow shows in the status
            x, jac = self.objective.report(self.step_state.params, grad)
        return x, jac

    def freeze(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        like = self.step_state.active
        self.step_state = self.step_state._replace(active=like & backends.to_device_of(~done, like))


def _keep_state(step_state: StepState) -> StepState:
    return step_state


def _read_together(arrays: list[Array]) -> list[Any]:
    """Read arrays in one transfer, in the dtype of the first."""
    first = arrays[0]
    if len(arrays) == 1:
        return [np.asarray(backends.to_numpy(first))]
    xp = backends.namespace(first)
    flat = [xp.reshape(xp.astype(x, first.dtype, copy=False), (-1,)) for x in arrays]
    host = np.asarray(backends.to_numpy(xp.concat(flat)))
    ends = np.cumsum([int(np.prod(x.shape)) for x in arrays])[:-1]
    parts = zip(np.split(host, ends), arrays, strict=True)
    return [part.reshape(tuple(x.shape)) for part, x in parts]


def _select_draw(draws: Tree, i: int) -> Tree:
    return optree.tree_map(lambda a: a[i, ...], draws)


def _is_hashable(task: _Task) -> bool:
    """Return whether a task may be a constant; a penalty or a rule that holds an array may not."""
    try:
        hash(task)
    except TypeError:
        return False
    return True
