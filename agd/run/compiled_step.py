"""One step of a solver on the device, compiled where the backend compiles.

It is the device's half of the loop in ``run/loop.py``. Three functions run there: one step of every problem,
the refresh that ends a solver's period, and the observation that the host reads. A step does nothing but
step: whether values are finite shows in the observation, and only if they are not are the steps since the
last one taken again, one by one.
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

__all__ = ["Compilation", "CompiledStep", "compile_for", "halve_blocks"]


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


def _advance(task: _Task, arrays: Tree, params: Tree, state: Any, draws: Tree) -> tuple[Tree, Any]:
    """Take one step with every problem, or with the draws of a mini-batch."""
    objective = _with_arrays(task, arrays)
    draw_args = () if draws is None else (draws,)
    point: tuple[Tree, Any] = task.method.step(objective, params, state, *draw_args)
    return point


def _refresh(task: _Task, arrays: Tree, params: Tree, state: Any, draws: Tree) -> tuple[Tree, Any]:
    """Let a solver do what it does once a period, with every problem."""
    objective = _with_arrays(task, arrays)
    draw_args = () if draws is None else (draws,)
    point: tuple[Tree, Any] = task.method.refresh(objective, params, state, *draw_args)
    return point


def _accept_finite(task: _Task, arrays: Tree, new: tuple[Tree, Any], old: StepState) -> StepState:
    """Take the new point of each problem that still runs and is finite there."""
    objective, (params, state) = _with_arrays(task, arrays), new
    xp, count = backends.namespace(old.count), old.count
    accepted = (
        old.active & xp.isfinite(state.value) & xp.isfinite(objective.grad_norm(state.grad, params))
    )
    params = tree_where(accepted, params, old.params)
    state = tree_where(accepted, state, old.state)
    return StepState(params, state, accepted, count + xp.astype(accepted, count.dtype))


def _observe(
    observed: _ObservedTask, arrays: Tree, params: Tree, state: Any, previous: Any
) -> tuple[Array, Tree]:
    """Return the columns of an `Observation`, and the gradient where it is not the state's."""
    task = observed.task
    objective = _with_arrays(task, arrays)
    measured, full_grad = (state.value, state.grad), None
    if task.method.minibatch_state:
        # The state's are of a mini-batch: the whole function's are reported and tested.
        measured = task.method.look(objective, params, state)
        full_grad = measured[1]
    return observe(objective, observed.fields, params, state, measured, previous), full_grad


class _Functions(NamedTuple):
    """What runs on the device, compiled or as it is."""

    advance: Callable[..., tuple[Tree, Any]]
    observe: Callable[..., tuple[Array, Tree]]
    refresh: Callable[..., tuple[Tree, Any]]


UNCOMPILED = _Functions(_advance, _observe, _refresh)


class _Window(NamedTuple):
    """The steps between two observations: where they began, and the draws of a solver that draws."""

    params: Tree
    state: Any
    step_count: int
    steps: int
    draws: Tree


class Compilation(NamedTuple):
    """Functions of (task, arrays, ...), their first two arguments, and what a result says of them."""

    task: _Task
    arrays: Tree
    functions: tuple[Callable[..., Any], ...]
    note: str


@functools.lru_cache(maxsize=32)  # programs: of the functions that were minimised last
def _compile_program(
    compile_unshared: Callable[..., Any], functions: tuple[Callable[..., Any], ...], _: _Task
) -> tuple[Callable[..., Any], ...]:
    return tuple(map(compile_unshared, functions))


def compile_for(
    backend: backends.Backend,
    method: Any,
    objective: Any,
    x0: Tree,
    functions: tuple[Callable[..., Any], ...],
) -> Compilation:
    """Compile functions of a task where the backend compiles and the task can be a constant.

    What is compiled for this library's own constants serves later runs, and so does what is compiled for a
    function whose program is the same then. Anything else may have changed by then: it goes with the run.

    Parameters
    ----------
    backend : Backend
        The library of the arrays.
    method, objective : Solver or None, Objective
        The task.
    x0 : tree of arrays
        The first point.
    functions : tuple of callable
        What to compile; each takes the task and the objective's arrays first.

    Returns
    -------
    Compilation
        The functions as they are, where nothing is compiled.
    """
    # An objective as it is keeps the blocks that it was cut into.
    plain = Compilation(_Task(method, objective), None, functions, "")
    if not (backend.compiles and objective.worth_compiling):
        return plain
    plain = plain._replace(note=", not compiled")  # and so slower than other runs on this backend
    if not objective.compilable:
        return plain
    task = _Task(method, objective.with_arrays(None))
    if not is_value_type(task):
        program = objective.as_program(x0)
        program_task = _Task(method, program.with_arrays(None))
        if is_value_type(program_task):
            compiled_functions = _compile_program(backend.compile_unshared, functions, program_task)
            return Compilation(program_task, program.arrays(), compiled_functions, "")
    if _is_hashable(task):
        compiled_functions = tuple(compiled(backend, f, task) for f in functions)
        return Compilation(task, objective.arrays(), compiled_functions, "")
    return plain


def halve_blocks(objective: Any, compilation: Compilation) -> tuple[Any, Compilation]:
    """Return an objective in blocks of half the rows, and the same functions of it, for less memory.

    Both come back as they are where nothing is compiled, since what runs uncompiled has cut its blocks by
    itself, and where the objective has no blocks to cut.
    """
    smaller = None if compilation.arrays is None else objective.with_smaller_blocks()
    if smaller is None:
        return objective, compilation
    task = compilation.task._replace(objective=smaller.with_arrays(None))
    return smaller, compilation._replace(task=task)


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

    compilation: Compilation
    functions: _Functions

    def __init__(self, method: Any, objective: Any, x0: Tree) -> None:
        like = optree.tree_leaves(x0)[0]
        backend = backends.of(like)
        self._is_out_of_memory = backend.is_out_of_memory
        method = method if backend.compiles else method.with_host_counter()
        self.method, self.objective, self.observed_fields = method, objective, ObservedFields()
        self._compile(backend, objective, x0)
        self.n_sync = self.step_count = 0
        self.repeated_steps = 0  # that were taken twice, to find the one which is not finite
        self.period = method.period(objective) if method.refreshes else 0
        # A lazy backend would grow a graph with every step: its states are computed as they come.
        self.persist = backend.persist if backend.chunked else _keep_state
        # Power iteration unrolls into a graph that costs more to compile than to run: not compiled.
        self.params, self.state = self.persist((x0, method.init(objective, x0)))
        self.active: Any = np.ones(objective.batch_shape, dtype=bool)
        self.count: Any = np.zeros(objective.batch_shape)
        self.previous = self._point()
        self.full_grad: Tree = None
        self.window: _Window | None = None

    def _compile(self, backend: backends.Backend, objective: Any, x0: Tree) -> None:
        self.compilation = compile_for(backend, self.method, objective, x0, UNCOMPILED)
        self.functions = _Functions(*self.compilation.functions)
        self.note = self.compilation.note

    def _point(self) -> Any:
        return self.params, get_progress(self.state).iterations

    def replace_objective(self, objective: Any, where: Any) -> None:
        """Go on with another objective of the same values, such as one with a finer gradient.

        Parameters
        ----------
        objective : Objective
            What is minimised from here on.
        where : numpy.ndarray of bool, shape (...)
            The problems that go on, also where they had ended; the others stand still.
        """
        backend = backends.of(optree.tree_leaves(self.params)[0])
        state = self.method.resume_state(objective, self.params, self.state)
        self._compile(backend, objective, self.params)
        self.objective, self.active, self.window = objective, np.asarray(where), None
        self.state = self.persist(tree_where(self.active, state, self.state))

    def take_steps(self, n: int) -> None:
        """Take n steps with the problems that still run.

        What is not finite shows in the next observation, which then finds the step that led there.
        """
        draws = (
            self.method.draw(self.objective, self.step_count, n) if self.method.stochastic else None
        )
        self.window = window = _Window(self.params, self.state, self.step_count, n, draws)
        for i in range(n):
            if i == n - 1:
                self.previous = self._point()
            self.params, self.state = self._step(i, window)
            self.step_count += 1
            if self._ends_period():
                self.params, self.state = self._refreshed()
        if not self.active.all():
            start = (window.params, window.state)
            self.params, self.state = tree_where(self.active, (self.params, self.state), start)
            point = (window.params, get_progress(window.state).iterations)
            self.previous = tree_where(self.active, self.previous, point)
        self.count = self.count + n * self.active

    def _step(self, i: int, window: _Window) -> tuple[Tree, Any]:
        draw = None if window.draws is None else _select_draw(window.draws, i)
        params, state = self.params, self.state
        point: tuple[Tree, Any] = self.persist(
            self._retry_out_of_memory(
                lambda: self.functions.advance(*self.compilation[:2], params, state, draw)
            )
        )
        return point

    def _ends_period(self) -> bool:
        return bool(self.period) and self.step_count % (self.period or 1) == 0

    def _refreshed(self) -> tuple[Tree, Any]:
        """End a period of the solver; what it draws for that depends on the step alone."""
        params, state = self.params, self.state
        draws = self.method.redraw(self.objective, params, self.step_count)
        point: tuple[Tree, Any] = self.persist(
            self._retry_out_of_memory(
                lambda: self.functions.refresh(*self.compilation[:2], params, state, draws)
            )
        )
        return point

    def _retake_steps(self, window: _Window) -> StepState:
        """Take the window's steps again, and leave each problem before its first step that is not finite."""
        like = self.state.value
        xp, where = backends.namespace(like), backends.device(like)
        active = backends.to_device_of(self.active, like, xp.bool)
        count = xp.zeros(tuple(like.shape), dtype=like.dtype, device=where)
        retaken = StepState(window.params, window.state, active, count)
        self.step_count = window.step_count
        for i in range(window.steps):
            self.params, self.state = retaken.params, retaken.state
            if i == window.steps - 1:
                self.previous = self._point()
            point = self._step(i, window)
            retaken = self.persist(_accept_finite(*self.compilation[:2], point, retaken))
            self.params, self.state = retaken.params, retaken.state
            self.step_count += 1
            if self._ends_period():
                refreshed = self._refreshed()
                after = _accept_finite(*self.compilation[:2], refreshed, retaken)
                retaken = self.persist(after._replace(count=retaken.count))
        self.params, self.state = retaken.params, retaken.state
        return retaken

    def _retry_out_of_memory(self, call: Callable[[], Any]) -> Any:
        """Call a compiled function; where the device's memory runs out, compile it for smaller blocks."""
        return retry_out_of_memory(call, self._is_out_of_memory, self._halve_blocks)

    def _halve_blocks(self) -> bool:
        before = self.objective
        self.objective, self.compilation = halve_blocks(before, self.compilation)
        return self.objective is not before

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
        observation, eps, host = self._read_observation(extra)
        failed = self.active & (observation.finite == 0)
        if self.window is None or not failed.any():
            return observation, eps, host
        window, self.window = self.window, None
        if window.steps == 1:  # the step itself is the one that failed
            self.active = self.active & ~failed
            self.count = self.count - failed
            self.params, self.state = tree_where(
                ~failed, (self.params, self.state), (window.params, window.state)
            )
        else:
            retaken = self._retake_steps(window)
            self.repeated_steps += window.steps
            self.n_sync += 1
            active = backends.namespace(retaken.count).astype(retaken.active, retaken.count.dtype)
            taken, active = backends.read_together([retaken.count, active])
            self.count = self.count - window.steps * self.active + taken
            self.active = self.active & (active > 0.0)
        observation, eps, host = self._read_observation(extra)
        finite = np.where(self.active, observation.finite, 0.0)
        return observation._replace(finite=finite), eps, host

    def _read_observation(self, extra: Sequence[Array]) -> tuple[Observation, Any, list[Any]]:
        self.n_sync += 1
        columns, self.full_grad = self._retry_out_of_memory(
            lambda: self.functions.observe(
                _ObservedTask(self.compilation.task, self.observed_fields),
                self.compilation.arrays,
                self.params,
                self.state,
                self.previous,
            )
        )
        host = backends.read_together([columns, *extra])
        eps = float(np.finfo(host[0].dtype).eps)
        observation = Observation.read(
            host[0], self.state, self.observed_fields, self.method.evaluations, self.count
        )
        return observation, eps, host[1:]

    def as_arrays(self, observation: Observation) -> Observation:
        """Return an observation whose numbers are arrays: as it is."""
        return observation

    def complete(self, observation: Observation) -> Observation:
        """Return an observation with all that a result needs: here it has been read with the rest."""
        return observation

    def report(self) -> tuple[Tree, Tree]:
        """Return the point and the gradient, in the user's coordinates."""
        grad = self.state.grad if self.full_grad is None else self.full_grad
        x, jac = self.objective.report(self.params, grad)
        return x, jac

    def resume(self, where: Any) -> None:
        """Let some problems go on, also where they had ended; the others stand still."""
        self.active = np.asarray(where)

    def freeze(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        self.active = self.active & ~done


def _keep_state(tree: Tree) -> Tree:
    return tree


def _select_draw(draws: Tree, i: int) -> Tree:
    return optree.tree_map(lambda a: a[i, ...], draws)


def _is_hashable(task: _Task) -> bool:
    """Return whether a task may be a constant; a penalty or a rule that holds an array may not."""
    try:
        hash(task)
    except TypeError:
        return False
    return True
