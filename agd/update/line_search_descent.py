"""Line search descent: a direction, as far along it as a line search says, one evaluation a step.

`agd.update.directions` has the directions (L-BFGS, conjugate gradients, steepest descent) and
`agd.update.line_search` the searches. An evaluation asks the array library for a handful of operations: the
trial point, the inner products of the vectors that a direction is made of, and one combination of them. All
decisions are made on scalars. The loop of `agd.run` keeps these on the host (`with_host_scalars`), as Python
floats for one problem and NumPy arrays for a batch, after one read an evaluation; otherwise they are arrays
beside the vectors, and a step can be traced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from agd import backends
from agd._tree import dot, ravel, safe_divide, scale_vector, tree_where
from agd._typing import Array, Progress, Scalar, Tree
from agd.update.line_search import (
    Backtracking,
    LineSearch,
    LineSearchState,
    TrialPoint,
    check_search,
    constant_like,
    is_finite_trial,
    rounding_unit,
)
from agd.update.solver import Solver, known_false, read_columns, read_scalars

__all__ = [
    "Direction",
    "LineSearchDescent",
    "MeasuredPoint",
    "Move",
]


class MeasuredPoint(NamedTuple):
    """What is known of a point that was evaluated: vectors beside the data, and scalars of shape (...).

    Attributes
    ----------
    vectors : array, shape (..., 4, n)
        The move s that led to the point, the change y of the gradient along it, the gradient g and the
        point x.
    value, grad_norm, size, move_size : scalar
        The objective, the size of its gradient as the objective measures it, and the largest entries of
        x and of s.
    ss, sy, sg, yy, yg, gg : scalar
        The inner products of s, y and g.
    products : scalars, shape (..., r)
        Those of the direction's stored vectors with g.
    """

    vectors: Array
    value: Scalar
    grad_norm: Scalar
    size: Scalar
    move_size: Scalar
    ss: Scalar
    sy: Scalar
    sg: Scalar
    yy: Scalar
    yg: Scalar
    gg: Scalar
    products: Scalar

    @property
    def g(self) -> Array:
        """The gradient, shape (..., n)."""
        return self.vectors[..., 2, :]

    @property
    def x(self) -> Array:
        """The point, shape (..., n)."""
        return self.vectors[..., 3, :]


class Move(NamedTuple):
    """The last accepted step; its scalars are 0 where none was taken.

    Attributes
    ----------
    step, slope, decrease, old_gg : scalar, shape (...)
        The step that was taken along the direction, the slope at the start of it, the decrease of the
        value, and g · g before it.
    direction : array, shape (..., n)
        The direction that the step was taken along.
    end : MeasuredPoint
        The point that it led to.
    """

    step: Scalar
    slope: Scalar
    decrease: Scalar
    old_gg: Scalar
    direction: Array
    end: MeasuredPoint


class Direction(Protocol):
    """A direction of descent and the first trial step along it.

    It is a combination of stored vectors, with coefficients that come from their inner products.
    """

    @property
    def convergence(self) -> str | None:
        """By which name a certificate predicts the contraction; None where theory has no factor."""
        ...

    def init(self, g: Array, gg: Scalar) -> Any:
        """Return the memory before the first step; `gg` is g · g, a scalar of the kind that is used."""
        ...

    def stored_vectors(self, memory: Any) -> Array | None:
        """Return the stored vectors (..., r, n) whose inner products the direction needs; None without any."""
        ...

    def update_memory(self, memory: Any, move: Move) -> Any:
        """Return the memory after a step."""
        ...

    def direction(self, memory: Any, move: Move) -> tuple[Array, Scalar]:
        """Return a direction d, and the slope g · d along it."""
        ...

    def bounded_direction(self, memory: Any, move: Move, free: Array) -> Array:
        """Return a direction over the entries that are free to move, where bounds stop the others."""
        ...

    def first_step(self, memory: Any, move: Move, value: Scalar) -> Scalar:
        """Return the first trial step."""
        ...


# Steps in a row that lower neither the value nor the gradient: then rounding is all that is left.
MAX_STEPS_WITHOUT_GAIN = 10
# Line searches in a row that run out of trials.
MAX_EXHAUSTED_SEARCHES = 4
# Trials of a search after which it is asked which steps are too short to change the point.
MIN_TRIALS_BEFORE_LEAST_STEP = 4
# A slope below this share of |d| |g| is rounding: the memory has lost the direction.
MIN_SLOPE_SHARE = 1e-10


class BestPoint(NamedTuple):
    """The point of lowest value so far, and the smallest gradient so far.

    `steps_without_gain` counts the steps since one of the two fell. A step may raise the value: by
    rounding, or where the search is not monotone.
    """

    point: MeasuredPoint
    min_grad_norm: Scalar
    steps_without_gain: Scalar


class LineSearchDescentState(NamedTuple):
    """Value and gradient at the params, the direction, its search, and the direction's memory.

    `current` is the evaluation at the params and `low` the one at the best trial of the search.
    """

    value: Scalar
    grad: Tree
    progress: Progress
    grad_norm: Scalar
    size: Scalar
    current: MeasuredPoint
    low: MeasuredPoint
    direction: Array
    search: LineSearchState
    recent: tuple[Scalar, ...]
    best: BestPoint
    memory: Any
    steepest: Scalar
    exhausted_searches: Scalar


class TrialOutcome(NamedTuple):
    """What became of a trial; `point` is where the run is after it.

    Attributes
    ----------
    search : LineSearchState
        The search after the trial.
    low, point : MeasuredPoint
        The best trial of the search, and the point that the run goes on from.
    taken : scalar
        The step that was taken; 0 where none was.
    accepted, exhausted, is_accepted, search_failed : scalar of bool
        Whether the search accepts the trial, has no trial left, ends with a step all the same, or fails.
    finite : scalar of bool
        Whether value and slope are finite at the trial.
    """

    search: LineSearchState
    low: MeasuredPoint
    point: MeasuredPoint
    taken: Scalar
    accepted: Scalar
    exhausted: Scalar
    is_accepted: Scalar
    search_failed: Scalar
    finite: Scalar


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
    host_scalars : bool
        Whether scalars are read to the host, once an evaluation, and decisions made there.

    Raises
    ------
    TypeError
        If `search` is no line search.
    """

    direction: Direction
    search: LineSearch
    label: str
    host_scalars: bool = False

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
        return self.direction.convergence

    @property
    def handles_bounds(self) -> bool:
        """Whether it keeps to an objective's bounds: a search that only shortens steps does."""
        return isinstance(self.search, Backtracking)

    def with_host_scalars(self) -> LineSearchDescent:
        """Return the same method with its scalars on the host."""
        return replace(self, host_scalars=True)

    def init(self, objective: Any, params: Tree, memory: Any = None) -> LineSearchDescentState:
        """Evaluate the objective at the first point, and begin the first search."""
        value, grad, grad_norm = objective.evaluate(params)
        batch = value.ndim
        x, _ = ravel(params, batch)
        g, _ = ravel(grad, batch)
        zeros = backends.namespace(g).zeros_like(g)
        stored = None if memory is None else self.direction.stored_vectors(memory)
        vectors = _stack_as_rows(zeros, zeros, g, x)
        current, _ = self._measure(vectors, (value, grad_norm), stored)
        xp = backends.namespace(current.value)
        zero = xp.zeros_like(current.value)
        no = xp.zeros_like(current.value, dtype=xp.bool)
        reset = xp.logical_not(no) if memory is None else no
        if memory is None:
            memory = self.direction.init(g, current.gg)
        if stored is None:  # the later evaluations have the products of the memory's vectors
            current = current._replace(products=_no_products(self.direction, memory, current))
        progress = Progress(
            zero, zero + 1.0, no, no, curvature=zero, least_curvature=zero, relative_step=zero
        )
        recent = (current.value,) * self.search.memory
        move = Move(zero, zero, zero, current.gg, zeros, current)
        if stored is not None:  # no pair is new, but the gradient is
            memory = self.direction.update_memory(memory, move)
        direction, search, steepest = self._begin_search(
            objective, params, (current, memory, recent), move, reset
        )
        return LineSearchDescentState(
            value=current.value,
            grad=grad,
            progress=progress,
            grad_norm=current.grad_norm,
            size=current.size,
            current=current,
            low=current,
            direction=direction,
            search=search,
            recent=recent,
            best=BestPoint(current, current.grad_norm, zero),
            memory=memory,
            steepest=steepest,
            exhausted_searches=zero,
        )

    def predicted_decrease(self, state: LineSearchDescentState) -> Scalar:
        """Return the first-order decrease of the first trial; infinity where a search is under way.

        Before the first step it is not known.
        """
        search = state.search
        xp = backends.namespace(search.step)
        decrease = -search.origin.slope * search.step
        decrease = xp.where(search.trials == 0.0, decrease, constant_like(decrease, np.inf))
        return xp.where(state.progress.iterations > 0.0, decrease, 0.0 * search.step)

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
        batch = np.ndim(state.value)
        x, unravel = ravel(params, batch)
        trial, least = self._evaluate_trial(objective, x, unravel, state)
        outcome = self._judge_trial(state, trial, least)
        xp, point = backends.namespace(trial.value), outcome.point
        move = Move(
            step=outcome.taken,
            slope=state.search.origin.slope,
            decrease=state.value - point.value,
            old_gg=state.current.gg,
            direction=state.direction,
            end=point,
        )
        best = _update_best(state.best, outcome.is_accepted, point)
        exhausted_searches, progress = self._update_progress(state, trial, outcome, best)
        point = tree_where(
            progress.stalled, best.point, point
        )  # a stalled run ends at its best point
        _, unravel_grad = ravel(state.grad, batch)
        new_params = unravel(point.x)
        after = LineSearchDescentState(
            value=point.value,
            grad=unravel_grad(point.g),
            progress=progress,
            grad_norm=point.grad_norm,
            size=point.size,
            current=point,
            low=outcome.low,
            direction=state.direction,
            search=outcome.search,
            recent=state.recent,
            best=best,
            memory=state.memory,
            steepest=state.steepest,
            exhausted_searches=exhausted_searches,
        )
        ended: Scalar = outcome.is_accepted | outcome.search_failed
        starts_search = ended & xp.logical_not(progress.stalled)
        if known_false(starts_search):
            return new_params, after
        return new_params, self._next_direction(
            objective, new_params, after, move, outcome, starts_search
        )

    def _judge_trial(
        self, state: LineSearchDescentState, trial: MeasuredPoint, least: Scalar | None
    ) -> TrialOutcome:
        """Let the search judge a trial, unless rounding has made the direction of no use."""
        xp = backends.namespace(trial.value)
        old = state.search if least is None else state.search._replace(least=least)
        slope = safe_divide(trial.sg, old.step)
        search = self.search.step(old, trial.value, slope)
        # The memory has lost the direction where the slope is rounding: no step along it is taken.
        length = safe_divide(xp.sqrt(trial.ss * state.current.gg), old.step)
        downhill = state.steepest | (old.origin.slope < -MIN_SLOPE_SHARE * length)
        lost = (old.trials == 0.0) & xp.isfinite(length) & xp.logical_not(downhill)
        accepted = search.accepted & xp.logical_not(lost)
        exhausted = search.exhausted | lost
        taken = xp.where(lost, xp.zeros_like(search.taken), search.taken)
        low = tree_where(search.improved, trial, state.low)
        is_accepted = accepted | (exhausted & (taken > 0.0))
        return TrialOutcome(
            search=search,
            low=low,
            point=tree_where(is_accepted, tree_where(accepted, trial, low), state.current),
            taken=taken,
            accepted=accepted,
            exhausted=exhausted,
            is_accepted=is_accepted,
            # If the search fails, the memory is reset and the search is tried once more, along -g.
            search_failed=exhausted & xp.logical_not(is_accepted),
            finite=is_finite_trial(TrialPoint(old.step, trial.value, slope)),
        )

    def _update_progress(
        self,
        state: LineSearchDescentState,
        trial: MeasuredPoint,
        outcome: TrialOutcome,
        best: BestPoint,
    ) -> tuple[Scalar, Progress]:
        """Return the searches in a row that ran out of trials, and the progress after a trial."""
        xp = backends.namespace(trial.value)
        # Searches that run out of trials one after the other, with hardly a gain, say that the derivative
        # along the direction is not that of f.
        exhausted_searches = xp.where(
            outcome.accepted,
            xp.zeros_like(state.exhausted_searches),
            xp.where(outcome.exhausted, state.exhausted_searches + 1.0, state.exhausted_searches),
        )
        stagnated = (exhausted_searches >= MAX_EXHAUSTED_SEARCHES) | (
            best.steps_without_gain >= MAX_STEPS_WITHOUT_GAIN * self.search.memory
        )
        failed = outcome.search_failed & state.steepest
        nonfinite = state.progress.hit_nonfinite | xp.logical_not(outcome.finite)
        # A search that ran out of trials where values are not finite has met them, whatever it gained.
        gained = outcome.accepted & (best.steps_without_gain == 0.0)
        before, point = state.progress, outcome.point
        relative_step = safe_divide(point.move_size, point.size)
        progress = before._replace(
            iterations=xp.where(outcome.is_accepted, before.iterations + 1.0, before.iterations),
            evaluations=before.evaluations + 1.0,
            relative_step=xp.where(outcome.is_accepted, relative_step, before.relative_step),
            stalled=before.stalled | failed | stagnated,
            hit_nonfinite=nonfinite & xp.logical_not(gained),
        )
        return exhausted_searches, progress

    def _evaluate_trial(
        self, objective: Any, x: Array, unravel: Any, state: LineSearchDescentState
    ) -> tuple[MeasuredPoint, Scalar | None]:
        """Evaluate the objective at the search's trial; return also the least step that changes the point.

        Few searches ask for that step, which is None where the host knows that none does.
        """
        s = scale_vector(state.search.step, state.direction)
        point = x + s
        params = unravel(point)
        if objective.nonsmooth:  # a step to a bound is rounded, and may end beyond it
            params = objective.prox(params, 1.0)
            point, _ = ravel(params, np.ndim(state.value))
        value, grad, grad_norm = objective.evaluate(params)
        g, _ = ravel(grad, value.ndim)
        vectors = _stack_as_rows(s, g - state.current.g, g, point)
        least = None
        if not known_false(state.search.trials >= MIN_TRIALS_BEFORE_LEAST_STEP):
            least = _least_step(x, state.direction)
        stored = self.direction.stored_vectors(state.memory)
        return self._measure(vectors, (value, grad_norm), stored, least)

    def _measure(
        self,
        vectors: Array,
        measured: tuple[Any, Any],
        stored: Array | None,
        least: Array | None = None,
    ) -> tuple[MeasuredPoint, Scalar | None]:
        """Return the evaluation with its inner products, on the host after one read if scalars are kept there."""
        value, grad_norm = measured
        backend = backends.of(vectors)
        products = backend.compile(_inner_products) if self.host_scalars else _inner_products
        sizes, gram, stored_products = products(None, vectors, stored)
        columns: list[Any] = [value, grad_norm, sizes, gram, stored_products, least]
        if self.host_scalars:
            columns = read_columns(columns)
        if self.host_scalars and value.ndim == 0:
            *numbers, stored_products, step = columns
            value, grad_norm, sizes, gram = (a.tolist() for a in numbers)
            (ss, sy, sg), (_, yy, yg), (_, _, gg) = gram
            move_size, size = sizes
            step = None if step is None else float(step)
        else:
            value, grad_norm, sizes, gram, stored_products, step = columns
            ss, sy, sg = (gram[..., 0, i] for i in range(3))
            yy, yg, gg = gram[..., 1, 1], gram[..., 1, 2], gram[..., 2, 2]
            move_size, size = sizes[..., 0], sizes[..., 1]
        return MeasuredPoint(
            vectors, value, grad_norm, size, move_size, ss, sy, sg, yy, yg, gg, stored_products
        ), step

    def _next_direction(
        self,
        objective: Any,
        params: Tree,
        state: LineSearchDescentState,
        move: Move,
        outcome: TrialOutcome,
        starts_search: Scalar,
    ) -> LineSearchDescentState:
        """Begin a new direction and search for the problems whose last search is over."""
        xp, current = backends.namespace(state.value), state.current
        is_accepted, search_failed = outcome.is_accepted, outcome.search_failed
        if is_accepted is not True:
            # Where no step was taken, the scalars of the last one must not make a direction.
            zero = xp.zeros_like(move.step)
            products = (current.ss, current.sy, current.sg, current.yy, current.yg)
            ss, sy, sg, yy, yg = (xp.where(is_accepted, product, zero) for product in products)
            move = move._replace(end=current._replace(ss=ss, sy=sy, sg=sg, yy=yy, yg=yg))
        memory = state.memory
        if not known_false(is_accepted):
            memory = tree_where(is_accepted, self.direction.update_memory(memory, move), memory)
        if not known_false(search_failed):
            memory = tree_where(search_failed, self.direction.init(current.g, current.gg), memory)
        recent = tree_where(is_accepted, (*state.recent[1:], state.value), state.recent)
        begun = self._begin_search(
            objective, params, (current, memory, recent), move, search_failed
        )
        direction, search, low, steepest = tree_where(
            starts_search,
            (*begun[:2], current, begun[2]),
            (state.direction, state.search, state.low, state.steepest),
        )
        return state._replace(
            progress=_measure_curvature(state.progress, is_accepted, move.end),
            low=low,
            direction=direction,
            search=search,
            recent=recent,
            memory=memory,
            steepest=steepest,
        )

    def _begin_search(
        self,
        objective: Any,
        params: Tree,
        origin: tuple[MeasuredPoint, Any, tuple[Scalar, ...]],
        move: Move,
        reset: Scalar,
    ) -> tuple[Array, LineSearchState, Scalar]:
        """Return the direction at a point, the search along it, and whether the direction is -g.

        `origin` is the point, the direction's memory and the last few values.
        """
        current, memory, recent = origin
        xp = backends.namespace(current.value)
        first_step = self.direction.first_step(memory, move, current.value)
        usable = xp.isfinite(first_step) & (first_step > 0.0)
        one = xp.ones_like(current.value)
        first_step = xp.where(usable, first_step, one)
        if objective.nonsmooth:
            d, slope, steepest = self._bounded_direction(
                objective, params, (current, memory), move, reset, first_step
            )
            first_step = one  # to the far end of what the bounds allow, and no further
        else:
            d, slope = self.direction.direction(memory, move)
            steepest = reset | xp.logical_not(slope < 0.0)
            if not known_false(steepest):
                d = tree_where(steepest, -current.g, d)
            slope = xp.where(steepest, -current.gg, slope)
        highest = recent[0]
        for value in recent[1:]:
            highest = xp.maximum(highest, value)
        search = self.search.start(current.value, slope, first_step, 0.0 * one, highest)
        if self.host_scalars:  # the values have the rounding of the arrays' dtype
            search = search._replace(eps=rounding_unit(current.vectors))
        return d, search, steepest

    def _bounded_direction(
        self,
        objective: Any,
        params: Tree,
        origin: tuple[MeasuredPoint, Any],
        move: Move,
        reset: Scalar,
        first_step: Scalar,
    ) -> tuple[Array, Scalar, Scalar]:
        """Return a direction that ends within the bounds, its slope, and whether it is -g, projected."""
        current, memory = origin
        batch = np.ndim(current.value)
        xp, g = backends.namespace(current.value), current.g
        free = _projected_move(objective, params, -g, batch) != 0.0
        d = self.direction.bounded_direction(memory, move, free)
        d = self._cut_at_bounds(objective, params, d, (memory, move, g, free))
        gradient_step = _projected_move(objective, params, -scale_vector(first_step, g), batch)
        columns = (dot(g, d), dot(d, d), dot(g, gradient_step))
        slope, dd, gradient_slope = read_scalars(*columns, host=self.host_scalars)
        # Not downhill, or hardly: rounding has the better of the memory.
        steepest = reset | xp.logical_not(slope < -MIN_SLOPE_SHARE * xp.sqrt(dd * current.gg))
        d = tree_where(steepest, gradient_step, d)
        return d, xp.where(steepest, gradient_slope, slope), steepest

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
        free_direction = self.direction.bounded_direction(memory, move, free & ~cut_entries)
        requested = xp.where(cut_entries, d, xp.zeros_like(d))
        fraction = safe_divide(dot(projected - x, requested), dot(requested, requested))[..., None]
        combined = xp.where(cut_entries, d, fraction * d + (1.0 - fraction) * free_direction)
        return _projected_move(objective, params, combined, batch)


def _inner_products(
    _: None, vectors: Array, stored: Array | None
) -> tuple[Array, Array, Array | None]:
    """Return the largest entries of s and x, the products of s, y and g, and of stored vectors with g."""
    xp = backends.namespace(vectors)
    sizes = xp.max(xp.abs(vectors[..., 0::3, :]), axis=-1)
    rows = vectors[..., :3, :]
    if backends.of(
        vectors
    ).threaded:  # BLAS takes four times as long for a product of few long rows
        gram = xp.vecdot(rows[..., :, None, :], rows[..., None, :, :])
    else:
        gram = rows @ xp.matrix_transpose(rows)
    return sizes, gram, None if stored is None else (stored @ vectors[..., 2, :, None])[..., 0]


def _stack_as_rows(*vectors: Array) -> Array:
    """Return vectors (..., n) as the rows of a matrix (..., r, n)."""
    return backends.namespace(vectors[0]).concat([x[..., None, :] for x in vectors], axis=-2)


def _no_products(direction: Direction, memory: Any, current: MeasuredPoint) -> Scalar:
    """Return products of 0 with the stored vectors, in the kind of the scalars."""
    stored = direction.stored_vectors(memory)
    if stored is None:
        return None
    gg, shape = current.gg, stored.shape[:-1]
    if isinstance(gg, float | np.ndarray):
        return np.zeros(shape, dtype=np.asarray(gg).dtype)
    return backends.namespace(gg).zeros(shape, dtype=gg.dtype, device=backends.device(gg))


def _least_step(x: Array, d: Array) -> Array:
    """Return the step along d below which no entry of x changes, shape (...)."""
    xp = backends.namespace(d)
    eps = float(xp.finfo(d.dtype).eps)
    lengths = xp.where(d == 0.0, xp.full_like(d, xp.inf), safe_divide(xp.abs(x), xp.abs(d)))
    least = eps * xp.min(lengths, axis=-1)
    return xp.where(xp.isfinite(least), least, xp.zeros_like(least))


def _measure_curvature(progress: Progress, is_accepted: Scalar, end: MeasuredPoint) -> Progress:
    """Return the progress with the curvature along the step that was accepted last, s · y / s · s."""
    xp = backends.namespace(end.value)
    curvature = safe_divide(end.sy, end.ss)
    curvature = xp.where(is_accepted, curvature, xp.zeros_like(curvature))
    least = progress.least_curvature
    least = xp.where((least == 0.0) & is_accepted, curvature, least)
    return progress._replace(
        curvature=xp.maximum(progress.curvature, curvature),
        least_curvature=xp.where(is_accepted, xp.minimum(least, curvature), least),
    )


def _update_best(best: BestPoint, is_accepted: Scalar, point: MeasuredPoint) -> BestPoint:
    """Keep the lowest value and the smallest gradient; count the steps that lowered neither."""
    xp = backends.namespace(point.value)
    lower = is_accepted & (point.value < best.point.value)
    smaller = is_accepted & (point.grad_norm < best.min_grad_norm)
    count = xp.where(is_accepted, best.steps_without_gain + 1.0, best.steps_without_gain)
    return BestPoint(
        point=tree_where(lower, point, best.point),
        min_grad_norm=xp.where(smaller, point.grad_norm, best.min_grad_norm),
        steps_without_gain=xp.where(lower | smaller, xp.zeros_like(count), count),
    )


def _projected_move(objective: Any, params: Tree, d: Array, batch: int) -> Array:
    """Return the projection of a step: P(x + d) - x."""
    x, unravel = ravel(params, batch)
    projected, _ = ravel(objective.prox(unravel(x + d), 1.0), batch)
    return projected - x
