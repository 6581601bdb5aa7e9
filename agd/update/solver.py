"""The base class of solvers: what a solver declares of itself, with the defaults of a deterministic one.

A solver takes one step at a time on an objective. The registry turns names, rules and users' own objects
into solvers; the loop in ``agd.run`` steps them and asks only for what is declared here. The scalars of a solver,
numbers for each problem that decisions are made on, are on the host where it has `host_scalars`, and read once an
evaluation, all together (`read_scalars`); a solver that is traced keeps arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agd import backends
from agd._typing import Scalar, State, Stepper, Tree

if TYPE_CHECKING:
    from agd.update.rule import Rule

__all__ = [
    "AdaptedSolver",
    "Solver",
    "as_solver",
    "known_false",
    "read_columns",
    "read_scalars",
]


class Solver:
    """An iterative method for minimising an objective: `init`, `step`, and the traits that it declares.

    A subclass defines `name`, `init` and `step`, and overrides the traits in which it differs from the
    defaults. The properties may be overridden by a property, the attributes also by a dataclass field.

    Attributes
    ----------
    handles_prox : bool
        Whether it applies the prox of a penalty that is not smooth, or the projection onto a set.
    rescaled : bool
        Whether ``agd.fit`` runs it on centred and scaled columns.
    backtracking : bool
        Whether it measures the curvature along its steps, and shortens a step where that is too large.
    stochastic : bool
        Whether it draws mini-batches: ``draw(objective, first, n)`` returns the draws of n steps, `step`
        takes one of them as a fourth argument, and ``period(objective)`` is the length of an epoch.
    refreshes : bool
        Whether ``refresh(objective, params, state)`` is called after every ``period(objective)`` steps.
    minibatch_state : bool
        Whether the state holds the value and the gradient of a mini-batch; those of the whole objective,
        which are reported and tested, are then returned by ``look(objective, params, state)``.
    host_scalars : bool
        Whether the scalars of its state are on the host: Python floats, or NumPy arrays for a batch.
    """

    handles_prox: bool = False
    rescaled: bool = False
    backtracking: bool = False
    stochastic: bool = False
    refreshes: bool = False
    minibatch_state: bool = False
    host_scalars: bool = False

    @property
    def name(self) -> str:
        """What a result calls the solver."""
        return type(self).__name__

    @property
    def evaluations(self) -> int:
        """How many values and gradients one step evaluates."""
        return 1

    @property
    def handles_bounds(self) -> bool:
        """Whether its points stay within the objective's bounds, which are a set with a projection."""
        return self.handles_prox

    @property
    def auto(self) -> bool:
        """Whether its rate is 1/L, with L the largest curvature of the objective."""
        return False

    @property
    def convergence(self) -> str | None:
        """Which rate of convergence a certificate predicts; None where theory gives no factor."""
        return None

    @property
    def update_rule(self) -> Rule | None:
        """The rule that it moves by; None for a solver without one."""
        return None

    @property
    def plateau(self) -> tuple[float, int] | None:
        """The least gain and the steps without one that end a run (`Plateau`); None for the gradient's test alone."""
        return None

    def with_host_scalars(self) -> Solver:
        """Return the solver that keeps its scalars on the host, where it has that form; else itself."""
        return self

    def with_host_counter(self) -> Solver:
        """Return the solver that counts its steps on the host, where it has that form; else itself."""
        return self

    def init(self, objective: Any, params: Tree) -> Any:
        """Return the state at the first point; it has the fields `value` and `grad`."""
        raise NotImplementedError(f"{type(self).__name__} must define init(objective, params)")

    def step(self, *args: Any, **kwargs: Any) -> tuple[Tree, Any]:
        """Return the next point and the state there: ``step(objective, params, state)``.

        A stochastic solver takes its draws as a fourth argument.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define step(objective, params, state)"
        )

    def predicted_decrease(self, state: Any) -> Scalar:
        """Return by how much the value should fall in the next step, as far as the solver knows; else 0."""
        return 0.0

    def resume_state(self, objective: Any, params: Tree, state: Any) -> Any:
        """Return the state at this point for an objective that replaces the former; failures are cleared."""
        _, grad = objective.value_and_grad(params)
        changes: dict[str, Any] = {"grad": grad}
        has_progress = isinstance(state, State)
        if has_progress:
            changes["progress"] = state.progress.without_flags()
        return state._replace(**changes)

    def redraw(self, objective: Any, params: Tree, k: int) -> Any:
        """Return what `refresh` needs at step k, drawn on the host from the seed; None for nothing."""
        return None

    def period(self, objective: Any) -> int | None:
        """Return the steps of an epoch, or between two calls of `refresh`; None for no such period."""
        return None


# Names under which an object may have declared traits before `Solver` named them.
EARLIER_NAMES = {"proximal": "handles_prox", "bounded": "handles_bounds"}

# Methods that only some solvers have; having one of them implies the trait beside it.
OPTIONAL_METHODS = {
    "draw": "stochastic",
    "look": "minibatch_state",
    "period": None,
    "redraw": None,
    "refresh": "refreshes",
    "resume_state": None,
}


@dataclass(frozen=True, repr=False)
class AdaptedSolver(Solver):
    """A user's own object with `init` and `step`: its members, and the defaults of `Solver` for the rest.

    Parameters
    ----------
    wrapped : object
        It has ``init(objective, params) -> state`` and ``step(objective, params, state) -> (params,
        state)``, where a state is a NamedTuple with the fields `value` and `grad`. It may have any other
        member of `Solver`, and the methods that the traits of `Solver` name.
    """

    wrapped: Any

    def __post_init__(self) -> None:
        """Take over what the object has: this is the one place that asks which members there are."""
        members = {n: getattr(self.wrapped, n) for n in dir(self.wrapped) if n[:1] != "_"}
        for earlier, present in EARLIER_NAMES.items():
            if earlier in members:
                members.setdefault(present, members[earlier])
        for method, trait in OPTIONAL_METHODS.items():
            if method in members and trait is not None:
                members.setdefault(trait, True)
        known = (*Solver.__annotations__, *OPTIONAL_METHODS, "init", "step")
        vars(self).update({name: members[name] for name in known if name in members})
        vars(self)["_members"] = members

    def __repr__(self) -> str:
        """Return how the object writes itself."""
        return repr(self.wrapped)

    def _member(self, name: str, default: Any) -> Any:
        return vars(self)["_members"].get(name, default)

    @property
    def name(self) -> str:
        """What a result calls the solver; by default the name of the object's class."""
        return str(self._member("name", type(self.wrapped).__name__))

    @property
    def evaluations(self) -> int:
        """How many values and gradients one step evaluates."""
        return int(self._member("evaluations", super().evaluations))

    @property
    def handles_bounds(self) -> bool:
        """Whether its points stay within the objective's bounds."""
        return bool(self._member("handles_bounds", super().handles_bounds))

    @property
    def auto(self) -> bool:
        """Whether its rate is 1/L."""
        return bool(self._member("auto", super().auto))

    @property
    def convergence(self) -> str | None:
        """Which rate of convergence a certificate predicts."""
        kind: str | None = self._member("convergence", None)
        return kind


def as_solver(method: Any) -> Solver:
    """Return an object as a complete solver; one without the base class is adapted.

    Parameters
    ----------
    method : Solver or object with ``init`` and ``step``
        What takes the steps.

    Returns
    -------
    Solver
        The same solver, or an `AdaptedSolver`.

    Raises
    ------
    TypeError
        If it has no `init` or no `step`, or is a class.

    Examples
    --------
    >>> class Fixed:
    ...     def init(self, objective, params): ...
    ...     def step(self, objective, params, state): ...
    >>> as_solver(Fixed()).name, as_solver(Fixed()).evaluations
    ('Fixed', 1)
    """
    if isinstance(method, Solver):
        return method
    if isinstance(method, type) or not isinstance(method, Stepper):
        raise TypeError(
            f"method must be a name, a rule such as agd.update.adam(0.1) or an object with init and "
            f"step, got {method!r}"
        )
    return AdaptedSolver(method)


def known_false(flags: Scalar) -> bool:
    """Return whether the host knows that no flag is true, at no cost."""
    if isinstance(flags, bool):
        return not flags
    return isinstance(flags, np.bool_ | np.ndarray) and not np.any(flags)


def read_scalars(*arrays: Any, host: bool) -> list[Scalar]:
    """Return a number for each problem as Python floats, or as NumPy arrays for a batch, after one read.

    Parameters
    ----------
    *arrays : array, shape (...)
        What to read.
    host : bool
        Whether to read; False returns the arrays as they are.
    """
    if not host:
        return list(arrays)
    columns = read_columns(list(arrays))
    return [column.item() if column.ndim == 0 else column for column in columns]


def read_columns(columns: list[Any]) -> list[Any]:
    """Read scalars of several shapes (..., *) to the host in one transfer, in double precision.

    Parameters
    ----------
    columns : list of array or None
        What to read.

    Returns
    -------
    list of numpy.ndarray or None
        The same on the host.
    """
    arrays = [a for a in columns if a is not None]
    row = backends.of(arrays[0])
    if row.packs_reads:
        dtype = backends.namespace(arrays[0]).result_type(*(a.dtype for a in arrays))
        host = iter(backends.read_together(arrays, dtype))
    else:
        first, *rest = row.persist(arrays)  # one read is counted
        host = iter([backends.to_numpy(first), *map(row.to_numpy, rest)])
    return [None if a is None else np.asarray(next(host), dtype=np.float64) for a in columns]
