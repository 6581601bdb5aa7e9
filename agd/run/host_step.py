"""One step of a solver whose scalars are on the host: Python floats, or NumPy arrays for a batch.

It stands in the place of ``run/compiled_step.py`` for such solvers. The solver reads a few numbers for each
evaluation, and nothing else leaves the device: an observation is made of what the host has. Where the backend
compiles, the evaluation of the objective is compiled, and the step around it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._tree import tree_where
from agd._typing import Array, Tree
from agd.data.arrays import retry_out_of_memory
from agd.gradient.objective import BaseObjective
from agd.run.compiled_step import Compilation, compile_for, halve_blocks
from agd.run.observation import Observation, ObservedFields, observed_gradient
from agd.update.solver import Solver

__all__ = ["CompiledObjective", "HostStep"]


def _evaluate_objective(task: Any, arrays: Tree, params: Tree) -> tuple[Array, Tree, Array]:
    """Evaluate the task's objective, with its arrays as arguments."""
    objective = task.objective if arrays is None else task.objective.with_arrays(arrays)
    evaluation: tuple[Array, Tree, Array] = objective.evaluate(params)
    return evaluation


@dataclass
class CompiledObjective(BaseObjective):
    """An objective whose evaluation is compiled, where the backend compiles.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    compilation : Compilation
        Its evaluation.
    is_out_of_memory : callable
        Whether an error says that a device's memory is exhausted: then the data are cut smaller.
    persist : callable
        Computes a lazy tree where its chunks are, so that a later step does not compute it again.
    """

    objective: Any
    compilation: Compilation
    is_out_of_memory: Callable[[BaseException], bool]
    persist: Callable[[Tree], Tree]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        shape: tuple[int, ...] = self.objective.batch_shape
        return shape

    @property
    def nonsmooth(self) -> bool:
        """Whether a penalty or bounds are left to `prox`."""
        return bool(self.objective.nonsmooth)

    @property
    def has_bound_product(self) -> bool:
        """Whether `bound_product` multiplies by a matrix like the Hessian."""
        return bool(self.objective.has_bound_product)

    def bound_product(self, params: Tree, /) -> Tree:
        """Multiply by the objective's bound on its Hessian."""
        return self.objective.bound_product(params)

    def zeros(self) -> Tree:
        """Return the parameters at zero, of an objective that has them."""
        return self.objective.zeros()

    def value_and_grad(self, params: Tree, /) -> tuple[Array, Tree]:
        """Return value and gradient."""
        if self.compilation.arrays is not None:  # one compiled function is enough
            return self.evaluate(params)[:2]
        pair: tuple[Array, Tree] = self.persist(self.objective.value_and_grad(params))
        return pair

    def grad_norm(self, grads: Tree, params: Tree, /) -> Array:
        """Return how far the params are from stationary."""
        norm: Array = self.objective.grad_norm(grads, params)
        return norm

    def prox(self, params: Tree, step: float | Array, /) -> Tree:
        """Apply the objective's prox."""
        return self.objective.prox(params, step)

    def second_order(self, params: Tree, /) -> tuple[Array, Tree, Array]:
        """Return value, gradient and Hessian, of an objective that has one."""
        parts: tuple[Array, Tree, Array] = self.persist(self.objective.second_order(params))
        return parts

    def penalty_value(self, params: Tree, /) -> Array:
        """Return the part of the objective that is left to `prox`."""
        value: Array = self.objective.penalty_value(params)
        return value

    @property
    def linear_objective(self) -> Any:
        """The objective of a linear model, of one that is."""
        return self.objective.linear_objective

    @property
    def preconditioner(self) -> Any:
        """The change of coordinates of an objective that has one."""
        return self.objective.preconditioner

    def evaluate(self, params: Tree, /) -> tuple[Array, Tree, Array]:
        """Return value, gradient and the size of the gradient."""
        if self.compilation.arrays is None:  # what is not compiled has cut its blocks by itself
            unshared: tuple[Array, Tree, Array] = self._call(params)
            return unshared
        evaluation: tuple[Array, Tree, Array] = retry_out_of_memory(
            lambda: self._call(params), self.is_out_of_memory, self._halve_blocks
        )
        return evaluation

    def _call(self, params: Tree) -> Any:
        (function,) = self.compilation.functions
        return self.persist(function(self.compilation.task, self.compilation.arrays, params))

    def _halve_blocks(self) -> bool:
        before = self.objective
        self.objective, self.compilation = halve_blocks(before, self.compilation)
        return self.objective is not before


class HostStep:
    """A solver on an objective, with its scalars on the host; it counts the reads.

    Parameters
    ----------
    method : Solver
        What takes a step; its `host_scalars` is true.
    objective : Objective
        What is minimised.
    x0 : tree of arrays
        The first point.
    """

    def __init__(self, method: Solver, objective: Any, x0: Tree) -> None:
        self.method, self.observed_fields = method, ObservedFields()
        self.n_sync = self.repeated_steps = 0
        self._set_objective(objective, x0)
        self.params, self.state = x0, self._counting_reads(self.method.init, x0)
        gradient_dtype = optree.tree_leaves(self.state.grad)[0].dtype
        self.eps = float(np.finfo(backends.dtype_name(gradient_dtype)).eps)
        shape = np.shape(self.state.value)
        self.active: Any = np.ones(shape, dtype=bool) if shape else True
        self.count: Any = np.zeros(shape) if shape else 0.0

    def _set_objective(self, objective: Any, x0: Tree) -> None:
        backend = backends.of(optree.tree_leaves(x0)[0])
        compilation = compile_for(backend, None, objective, x0, (_evaluate_objective,))
        self.note = compilation.note
        self.objective = objective
        self.evaluated = CompiledObjective(
            objective, compilation, backend.is_out_of_memory, backend.persist
        )

    def _counting_reads(self, call: Callable[..., Any], *args: Any) -> Any:
        with backends.count_host_reads(shared=True) as reads:
            result = call(self.evaluated, *args)
        self.n_sync += reads[0]
        return result

    def replace_objective(self, objective: Any, where: Any) -> None:
        """Go on with another objective of the same values, such as one with a finer gradient.

        Parameters
        ----------
        objective : Objective
            What is minimised from here on.
        where : numpy.ndarray of bool, shape (...)
            The problems that go on, also where they had ended; the others stand still.
        """
        self._set_objective(objective, self.params)
        state = self._counting_reads(self.method.resume_state, self.params, self.state)
        self.active = where if np.ndim(where) else bool(where)
        self.state = tree_where(self.active, state, self.state)

    def take_steps(self, n: int) -> None:
        """Take n steps; a problem whose value or gradient turns non-finite stays before that step."""
        for _ in range(n):
            params, state = self._counting_reads(self.method.step, self.params, self.state)
            self.active = self.active & _is_finite(state)
            self.params = tree_where(self.active, params, self.params)
            self.state = tree_where(self.active, state, self.state)
            self.count = self.count + self.active

    def observe(self, extra: Sequence[Array] = ()) -> tuple[Observation, Any, list[Any]]:
        """Return an observation, and read other arrays; what a step has read is not read again.

        Parameters
        ----------
        extra : sequence of array
            What else to read: small arrays of the observation's dtype.

        Returns
        -------
        observation : Observation
            What the host knows from here on.
        eps : float
            The rounding of the dtype in which the objective is computed.
        extra : list of numpy.ndarray
            The other arrays.
        """
        arrays = list(extra)
        leaves = None
        if self.observed_fields.leaves:
            arrays.append(self._observed_gradient(ObservedFields(leaves=True)))
        if arrays:
            self.n_sync += 1
            host = backends.read_together(arrays)
            if self.observed_fields.leaves:
                leaves = np.asarray(host.pop(), dtype=np.float64)
            arrays = host
        return self._observation(leaves), self.eps, arrays

    def _observation(self, leaves: Any) -> Observation:
        state, progress = self.state, self.state.progress
        finite = _is_finite(state) & self.active
        fields = (
            state.value, state.grad_norm, state.size, progress.relative_step, finite, self.count,
            progress.iterations, progress.evaluations, progress.stalled, progress.hit_nonfinite, 0.0,
            progress.curvature, progress.least_curvature, self.method.predicted_decrease(state),
        )  # fmt: skip
        if type(state.value) is float:
            numbers = [0.0 if f is None else float(f) for f in fields]
            return Observation._make([*numbers, None, leaves])
        zero = np.zeros(np.shape(state.value))
        columns = (zero if f is None else f + zero for f in fields)
        return Observation(*columns)._replace(leaves=leaves)

    def _observed_gradient(self, fields: ObservedFields) -> Array:
        return observed_gradient(self.objective, fields, self.params, self.state.grad)

    def as_arrays(self, observation: Observation) -> Observation:
        """Return an observation whose numbers are NumPy arrays."""
        leaves = observation.leaves
        columns = [None if c is None else np.asarray(c, dtype=np.float64) for c in observation]
        return Observation(*columns)._replace(leaves=leaves)

    def complete(self, observation: Observation) -> Observation:
        """Return an observation in arrays, with the length of the gradient where a result needs it: one read."""
        observation = self.as_arrays(observation)
        if not self.observed_fields.length:
            return observation
        self.n_sync += 1
        length = backends.to_numpy(self._observed_gradient(ObservedFields(length=True)))
        return observation._replace(length=np.asarray(length, dtype=np.float64)[0])

    def report(self) -> tuple[Tree, Tree]:
        """Return the point and the gradient, in the user's coordinates."""
        x, jac = self.objective.report(self.params, self.state.grad)
        return x, jac

    def resume(self, where: Any) -> None:
        """Let some problems go on, also where they had ended; the others stand still."""
        self.active = where if np.ndim(where) else bool(where)

    def freeze(self, done: Any) -> None:
        """Let the problems that have ended stand still from here on."""
        self.active = self.active & ~done if np.ndim(done) else self.active and not done


def _is_finite(state: Any) -> Any:
    """Return for each problem whether value and gradient are finite: a bool for numbers of Python."""
    xp = backends.namespace(state.value)
    return xp.isfinite(state.value) & xp.isfinite(state.grad_norm)
