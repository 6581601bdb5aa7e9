"""Line search descent: a direction, as far along it as a line search says, one evaluation a step.

`agd.update.directions` has the directions (L-BFGS, conjugate gradients, steepest descent) and
`agd.update.line_search` the searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from agd import backends
from agd._tree import dot, max_abs, ravel, safe_divide, tree_where
from agd._typing import Array, Progress, Tree
from agd.update.line_search import (
    Backtracking,
    LineSearch,
    LineSearchState,
    TrialPoint,
    check_search,
    is_finite_trial,
)
from agd.update.solver import Solver

__all__ = [
    "Direction",
    "LastStep",
    "LineSearchDescent",
]


class LastStep(NamedTuple):
    """The last accepted step, as vectors; all are 0 where none was taken.

    Attributes
    ----------
    s, y : array, shape (..., n)
        The change of the point, and of the gradient.
    step : array, shape (...)
        The step that was taken along the direction.
    slope : array, shape (...)
        The slope at the start of it.
    direction : array, shape (..., n)
        The direction it was taken along.
    before : array, shape (..., n)
        The gradient before it.
    fall : array, shape (...)
        The decrease of the value.
    """

    s: Array
    y: Array
    step: Array
    slope: Array
    direction: Array
    old_grad: Array
    decrease: Array


class Direction(Protocol):
    """A direction of descent and the first trial step along it; all vectors are (..., n)."""

    def init(self, g: Array) -> Any:
        """Return the memory before the first step."""
        ...

    def update_memory(self, memory: Any, move: LastStep) -> Any:
        """Return the memory after a step."""
        ...

    def direction(self, memory: Any, move: LastStep, g: Array, free: Array | None) -> Array:
        """Return a direction, for the entries that are free to move where some are not."""
        ...

    def first_step(self, memory: Any, move: LastStep, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial step along d."""
        ...


# Steps in a row that lower neither the value nor the gradient: then rounding is all that is left.
MAX_STEPS_WITHOUT_GAIN = 10
# Line searches in a row that run out of trials.
MAX_EXHAUSTED_SEARCHES = 4


class BestPoint(NamedTuple):
    """The lowest value so far with its point and gradient, and the smallest gradient so far.

    `steps_without_gain` counts the steps since one of the two fell. A step may raise the value: by
    rounding, or where the search is not monotone.
    """

    value: Array
    grad_size: Array
    steps_without_gain: Array
    x: Array
    g: Array


class LineSearchDescentState(NamedTuple):
    """Value and gradient at the params, the direction, its search, and the direction's memory."""

    value: Array
    grad: Tree
    progress: Progress
    direction: Array
    search: LineSearchState
    low_grad: Array
    recent: Array
    best: BestPoint
    memory: Any
    steepest: Array
    exhausted_searches: Array


@dataclass(frozen=True)
class LineSearchDescent(Solver):
    """Descent along a direction, as far as a line search says.

    Parameters
    ----------
    direction : Direction
        Where to go.
    search : LineSearch
        How far.
    label : str
        What a result calls it.

    Raises
    ------
    TypeError
        If `search` is no line search.
    """

    direction: Direction
    search: LineSearch
    label: str

    def __post_init__(self) -> None:
        """Refuse what is no line search."""
        check_search(self.search)

    @property
    def name(self) -> str:
        """What a result calls it."""
        return self.label

    @property
    def convergence(self) -> str | None:
        """By which name a certificate predicts the contraction; None where theory has no factor."""
        return getattr(self.direction, "convergence", None)

    @property
    def handles_bounds(self) -> bool:
        """Whether it keeps to an objective's bounds: a search that only shortens steps does."""
        return isinstance(self.search, Backtracking)

    def init(self, objective: Any, params: Tree, memory: Any = None) -> LineSearchDescentState:
        """Evaluate the objective at the first point, and begin the first search."""
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        x, _ = ravel(params, value.ndim)
        g, _ = ravel(grad, value.ndim)
        zeros, zero = xp.zeros_like(g), xp.zeros_like(value)
        no = xp.zeros_like(value, dtype=xp.bool)
        reset = no if memory is not None else ~no
        memory = self.direction.init(g) if memory is None else memory
        recent = value[..., None] + xp.zeros(
            (*value.shape, self.search.memory), dtype=value.dtype, device=backends.device(value)
        )
        no_step = LastStep(zeros, zeros, zero, zero, zeros, zeros, zero)
        d, search, steepest = self._begin_search(
            objective, params, (x, value, g), memory, no_step, recent, reset=reset
        )
        best = BestPoint(value, max_abs(g), zero, x, g)
        progress = Progress(
            zero, zero + 1.0, no, no, curvature=zero, least_curvature=zero, relative_step=zero
        )
        return LineSearchDescentState(
            value, grad, progress, d, search, g, recent, best, memory, steepest, zero
        )

    def resume_state(
        self, objective: Any, params: Tree, state: LineSearchDescentState
    ) -> LineSearchDescentState:
        """Begin a new search on another objective of the same values, with what was learned so far."""
        restarted = self.init(objective, params, state.memory)
        return restarted._replace(progress=state.progress.without_flags())

    def step(
        self, objective: Any, params: Tree, state: LineSearchDescentState
    ) -> tuple[Tree, LineSearchDescentState]:
        """Evaluate the trial; take it, or go on searching."""
        xp = backends.namespace(state.value)
        batch = state.value.ndim
        x, unravel = ravel(params, batch)
        g, unravel_grad = ravel(state.grad, batch)
        d, old = state.direction, state.search
        value, grad = objective.value_and_grad(unravel(x + old.step[..., None] * d))
        trial_grad, _ = ravel(grad, batch)
        trial = TrialPoint(old.step, value, dot(trial_grad, d))
        search = self.search.step(old, trial.value, trial.slope)
        low_grad = tree_where(search.improved, trial_grad, state.low_grad)
        is_accepted = search.accepted | (search.exhausted & (search.taken > 0.0))
        new_x = tree_where(is_accepted, x + search.taken[..., None] * d, x)
        new_g = tree_where(is_accepted, tree_where(search.accepted, trial_grad, low_grad), g)
        new_value = xp.where(
            is_accepted, xp.where(search.accepted, value, search.low.value), state.value
        )
        decrease = state.value - new_value
        move = LastStep(new_x - x, new_g - g, search.taken, old.origin.slope, d, g, decrease)
        # If the search fails, the memory is reset and the search is tried once more, along -g.
        search_failed = search.exhausted & ~is_accepted
        best = _update_best(state.best, is_accepted, new_value, new_x, new_g)
        # Searches that run out of trials one after the other, with hardly a gain, say that the derivative
        # along the direction is not that of f.
        exhausted_searches = xp.where(
            search.accepted,
            xp.zeros_like(value),
            state.exhausted_searches + xp.astype(search.exhausted, value.dtype),
        )
        stagnated = (exhausted_searches >= MAX_EXHAUSTED_SEARCHES) | (
            best.steps_without_gain >= MAX_STEPS_WITHOUT_GAIN * self.search.memory
        )
        old_progress = state.progress
        stalled = old_progress.stalled | (search_failed & state.steepest) | stagnated
        # A stalled run ends at its best point.
        new_x, new_g = tree_where(stalled, best.x, new_x), tree_where(stalled, best.g, new_g)
        new_value = xp.where(stalled, best.value, new_value)
        starts_search = (is_accepted | search_failed) & ~stalled
        nonfinite = old_progress.hit_nonfinite | ~is_finite_trial(trial)
        progress = old_progress._replace(
            iterations=old_progress.iterations + xp.astype(is_accepted, value.dtype),
            evaluations=old_progress.evaluations + 1.0,
            stalled=stalled,
            # A search that ran out of trials where values are not finite has met them, whatever it gained.
            hit_nonfinite=nonfinite & ~(search.accepted & (best.steps_without_gain == 0.0)),
            relative_step=xp.where(
                is_accepted,
                safe_divide(max_abs(move.s), max_abs(new_x)),
                old_progress.relative_step,
            ),
        )
        after = state._replace(
            value=new_value,
            grad=unravel_grad(new_g),
            progress=progress,
            search=search,
            low_grad=low_grad,
            best=best,
            exhausted_searches=exhausted_searches,
        )
        new_params = unravel(new_x)
        return new_params, self._next_direction(
            objective,
            new_params,
            (new_x, new_value, new_g),
            after,
            move,
            is_accepted,
            search_failed,
            starts_search,
        )

    def _next_direction(
        self,
        objective: Any,
        params: Tree,
        current: tuple[Array, Array, Array],
        state: LineSearchDescentState,
        move: LastStep,
        is_accepted: Array,
        search_failed: Array,
        starts_search: Array,
    ) -> LineSearchDescentState:
        """Begin a new direction and search for the problems whose last search is over."""
        if backends.of(state.value).known_true(~starts_search):
            return state
        xp = backends.namespace(state.value)
        _, value, g = current
        reset = self.direction.init(g)
        updated = self.direction.update_memory(state.memory, move)
        memory = tree_where(search_failed, reset, tree_where(is_accepted, updated, state.memory))
        recent = xp.concat([state.recent[..., 1:], value[..., None]], axis=-1)
        recent = tree_where(is_accepted, recent, state.recent)
        d, search, steepest = self._begin_search(
            objective, params, current, memory, move, recent, reset=search_failed
        )
        curvature = safe_divide(dot(move.s, move.y), dot(move.s, move.s))
        curvature = xp.where(is_accepted, curvature, xp.zeros_like(curvature))
        progress = state.progress
        least = progress.least_curvature
        least = xp.where((least == 0.0) & is_accepted, curvature, least)
        progress = progress._replace(
            curvature=xp.maximum(progress.curvature, curvature),
            least_curvature=xp.where(is_accepted, xp.minimum(least, curvature), least),
        )
        return state._replace(
            progress=progress,
            direction=tree_where(starts_search, d, state.direction),
            search=tree_where(starts_search, search, state.search),
            low_grad=tree_where(starts_search, g, state.low_grad),
            recent=recent,
            memory=memory,
            steepest=xp.where(starts_search, steepest, state.steepest),
        )

    def _cut_at_bounds(
        self, objective: Any, params: Tree, d: Array, context: tuple[Any, ...]
    ) -> Array:
        """Cut a direction at the bounds, and adapt the entries that no bound cuts off.

        With the entries that are cut held at a share of their move, a quadratic's minimum over the others
        lies at that share of the way from their own direction to the one in d.
        """
        memory, move, g, free = context
        xp, batch = backends.namespace(g), g.ndim - 1
        x, unravel = ravel(params, batch)
        projected, _ = ravel(objective.prox(unravel(x + d), 1.0), batch)
        cut_entries = (projected != x + d) & (g * d < 0.0)
        if backends.of(g).known_true(~xp.any(cut_entries, axis=-1)):
            return projected - x
        free_direction = self.direction.direction(memory, move, g, free & ~cut_entries)
        requested = xp.where(cut_entries, d, xp.zeros_like(d))
        fraction = safe_divide(dot(projected - x, requested), dot(requested, requested))[..., None]
        combined = xp.where(cut_entries, d, fraction * d + (1.0 - fraction) * free_direction)
        return _projected_move(objective, params, combined, batch)

    def _begin_search(
        self,
        objective: Any,
        params: Tree,
        current: tuple[Array, Array, Array],
        memory: Any,
        move: LastStep,
        recent: Array,
        reset: Array,
    ) -> tuple[Array, LineSearchState, Array]:
        """Return the direction at the current point, its line search, and whether it is the negative gradient."""
        x, value, g = current
        xp = backends.namespace(value)
        free = None
        if objective.nonsmooth:
            free = _projected_move(objective, params, -g, value.ndim) != 0.0
        d = self.direction.direction(memory, move, g, free)
        negative_gradient = -g
        if objective.nonsmooth:
            d = self._cut_at_bounds(objective, params, d, (memory, move, g, free))
            size = self.direction.first_step(memory, move, value, g, -g)
            negative_gradient = _projected_move(objective, params, -size[..., None] * g, value.ndim)
        slope, gradient_derivative = dot(g, d), dot(g, negative_gradient)
        # Not downhill, or hardly: rounding has the better of the memory.
        rounding_level = 1e-10 * xp.sqrt(dot(d, d) * dot(g, g))
        steepest = reset | ~(slope < -rounding_level)
        d = tree_where(steepest, negative_gradient, d)
        slope = xp.where(steepest, gradient_derivative, slope)
        first_step = self.direction.first_step(memory, move, value, g, d)
        first_step = xp.where(
            xp.isfinite(first_step) & (first_step > 0.0), first_step, xp.ones_like(first_step)
        )
        if objective.nonsmooth:
            first_step = xp.ones_like(
                first_step
            )  # to the far end of what the bounds allow, and no further
        # Steps below this change no entry of x.
        eps = float(xp.finfo(value.dtype).eps)
        lengths = xp.where(d == 0.0, xp.full_like(d, xp.inf), safe_divide(xp.abs(x), xp.abs(d)))
        least = eps * xp.min(lengths, axis=-1)
        least = xp.where(xp.isfinite(least), least, xp.zeros_like(least))
        search = self.search.start(value, slope, first_step, least, xp.max(recent, axis=-1))
        return d, search, steepest


def _update_best(
    best: BestPoint, is_accepted: Array, value: Array, x: Array, g: Array
) -> BestPoint:
    """Keep the lowest value and the smallest gradient; count the steps that lowered neither."""
    xp = backends.namespace(value)
    lower, grad_size = is_accepted & (value < best.value), max_abs(g)
    smaller = is_accepted & (grad_size < best.grad_size)
    count = xp.where(is_accepted, best.steps_without_gain + 1.0, best.steps_without_gain)
    return BestPoint(
        value=xp.where(lower, value, best.value),
        grad_size=xp.where(smaller, grad_size, best.grad_size),
        steps_without_gain=xp.where(lower | smaller, xp.zeros_like(count), count),
        x=tree_where(lower, x, best.x),
        g=tree_where(lower, g, best.g),
    )


def _projected_move(objective: Any, params: Tree, d: Array, batch: int) -> Array:
    """Return the projection of a step: P(x + d) - x."""
    x, unravel = ravel(params, batch)
    projected, _ = ravel(objective.prox(unravel(x + d), 1.0), batch)
    return projected - x
