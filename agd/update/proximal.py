"""Proximal methods: FISTA, proximal gradient and projected gradient with Barzilai-Borwein steps.

They minimise F = f + h with f smooth and h a penalty or a set that has a prox. Trees are ravelled to
vectors (..., n) at every step, and unravelled to evaluate. The loop of `agd.run` drives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._tree import dot, max_abs, ravel, safe_divide, tree_where
from agd._typing import Array, Progress, Tree
from agd._validation import as_count
from agd.update.descent import initial_curvature, probe_evaluations
from agd.update.solver import Solver

__all__ = [
    "FISTA",
    "STEP_GROWTH",
    "SUFFICIENT_DECREASE",
    "CompositeFunction",
    "CompositePoint",
    "ProjectedGradient",
    "ProximalGradient",
    "append_value",
    "initial_progress",
    "next_progress",
    "relative_step",
    "repeat_value",
    "rounding_error",
    "spectral_step",
    "value_increase",
]


class CompositePoint(NamedTuple):
    """A point, with f, its gradient, and F = f + penalty there.

    Attributes
    ----------
    x, g : array, shape (..., n)
        The point and the gradient of the smooth part.
    smooth, value : array, shape (...)
        The smooth part, and the whole.
    """

    x: Array
    g: Array
    smooth: Array
    value: Array


class CompositeFunction:
    """An objective over vectors in place of trees.

    Parameters
    ----------
    objective : Objective
        A smooth part, and a penalty or bounds that are left to its prox.
    params, grad : tree of arrays
        A point, and the gradient there: what their structure is.
    """

    def __init__(self, objective: Any, params: Tree, grad: Tree) -> None:
        self.objective = objective
        self.batch = len(objective.batch_shape)
        self.x, self.unravel = ravel(params, self.batch)
        self.g, self.unravel_grad = ravel(grad, self.batch)

    def at(self, x: Array) -> CompositePoint:
        """Evaluate at a point."""
        params = self.unravel(x)
        smooth, grad = self.objective.value_and_grad(params)
        return CompositePoint(x, ravel(grad, self.batch)[0], smooth, smooth + self.penalty(x))

    def current_point(self, value: Array) -> CompositePoint:
        """Return the point that it was made with, where the whole is `value`."""
        return CompositePoint(self.x, self.g, value - self.penalty(self.x), value)

    def penalty(self, x: Array) -> Array:
        """Return the part that is left to the prox."""
        penalty: Array = self.objective.penalty_value(self.unravel(x))
        return penalty

    def prox(self, x: Array, step: float | Array) -> Array:
        """Return argmin_u penalty(u) + |u - x|² / (2 step)."""
        if not self.objective.nonsmooth:
            return x
        return ravel(self.objective.prox(self.unravel(x), step), self.batch)[0]

    def proximal_step(self, at: CompositePoint, step: Array) -> Array:
        """Return where a proximal gradient step leads: prox(x - step g, step)."""
        return self.prox(at.x - step[..., None] * at.g, step)


def rounding_error(*values: Array) -> Array:
    """Return how much of the difference between values may be rounding."""
    xp = backends.namespace(values[0])
    eps = float(xp.finfo(values[0].dtype).eps)
    size = xp.abs(values[0])
    for value in values[1:]:
        size = xp.maximum(size, xp.abs(value))
    return 16.0 * eps * size


def value_increase(
    composite: CompositeFunction, old: CompositePoint, new: CompositePoint
) -> tuple[Array, Array]:
    """Return how far the value of a quadratic plus the penalty rises, and how much of it may be rounding.

    Of a quadratic the gradients tell, (g + g_old) · d / 2: its values may be small differences of large terms.
    """
    d, slope = new.x - old.x, new.g + old.g
    before, after = composite.penalty(old.x), composite.penalty(new.x)
    xp = backends.namespace(before)
    eps = float(xp.finfo(before.dtype).eps)
    noise = rounding_error(before, after) + 16.0 * eps * xp.sqrt(dot(slope, slope) * dot(d, d))
    return 0.5 * dot(slope, d) + (after - before), noise


def relative_step(new: Array, old: Array) -> Array:
    """Return the largest change of an entry, as a share of the largest entry."""
    share: Array = safe_divide(max_abs(new - old), max_abs(new))
    return share


# The constant of Armijo's condition: the share of the first-order decrease that a step must bring.
SUFFICIENT_DECREASE = 1e-4
# The factor by which a step grows where the measured curvature is not positive, so that 1 / L says nothing.
STEP_GROWTH = 4.0


def initial_progress(value: Array, evaluations: int) -> Progress:
    """Return the progress before the first trial."""
    xp = backends.namespace(value)
    zero = xp.zeros_like(value)
    no = xp.zeros_like(value, dtype=xp.bool)
    return Progress(
        zero, zero + evaluations, no, no, curvature=zero, least_curvature=zero, relative_step=zero
    )


def next_progress(
    progress: Progress, old: CompositePoint, new: CompositePoint, is_accepted: Array, unmoved: Array
) -> Progress:
    """Return the progress after a trial, which was taken or changed no entry of the point."""
    xp = backends.namespace(old.value)
    s = new.x - old.x
    curvature = safe_divide(dot(s, new.g - old.g), dot(s, s))
    curvature = xp.where(is_accepted & (curvature > 0.0), curvature, xp.zeros_like(curvature))
    least = progress.least_curvature
    least = xp.where(least > 0.0, least, curvature)
    nonfinite = progress.hit_nonfinite | ~xp.isfinite(new.value)
    return Progress(
        iterations=progress.iterations + xp.astype(is_accepted, old.value.dtype),
        evaluations=progress.evaluations + 1.0,
        stalled=progress.stalled | unmoved,
        hit_nonfinite=nonfinite & (unmoved | ~is_accepted),
        curvature=xp.maximum(progress.curvature, curvature),
        least_curvature=xp.where(curvature > 0.0, xp.minimum(least, curvature), least),
        relative_step=xp.where(is_accepted, relative_step(new.x, old.x), progress.relative_step),
    )


def repeat_value(value: Array, memory: int) -> Array:
    """Return the first value, as often as values are remembered, shape (..., memory)."""
    xp = backends.namespace(value)
    zeros = xp.zeros((*value.shape, memory), dtype=value.dtype, device=backends.device(value))
    return value[..., None] + zeros


def append_value(recent: Array, value: Array) -> Array:
    """Drop the oldest of the last few values, and add one."""
    xp = backends.namespace(value)
    return xp.concat([recent[..., 1:], value[..., None]], axis=-1)


def spectral_step(s: Array, y: Array, otherwise: Array) -> Array:
    """Return the step of Barzilai and Borwein, s · s / s · y; `otherwise` where s · y is not above 0."""
    xp = backends.namespace(s)
    curvature = dot(s, y)
    step = safe_divide(dot(s, s), curvature)
    return xp.where(curvature > 0.0, backends.clip(step, 1e-20, 1e20), otherwise)


# The factor of L at each step of a function that is no quadratic: its curvature may fall along the path.
CURVATURE_DECAY = 0.98


class FistaState(NamedTuple):
    """The value and the gradient at x_k, the params; y_k with its own; t_k, and the L in use."""

    value: Array
    grad: Tree
    progress: Progress
    extrapolated: CompositePoint
    pending: Array
    t: Array
    L: Array


@dataclass(frozen=True)
class FISTA(Solver):
    r"""Accelerated proximal gradient descent: a smooth f plus a penalty h that has a prox.

    ::

        x_{k+1} = prox_{h/L}(y_k - g(y_k) / L)
        t_{k+1} = (1 + sqrt(1 + 4 (L_{k+1} / L_k) t_k²)) / 2
        y_{k+1} = x_{k+1} + (t_k - 1) / t_{k+1} (x_{k+1} - x_k)

    The params are x_k, not y_k: exactly sparse, or within the set. L starts from the objective's bound on
    its curvature where it has one, else from the first move, and is raised, and the step taken again,
    whenever ::

        f(x_{k+1}) > f(y_k) + g(y_k) · d + L/2 |d|²,    d = x_{k+1} - y_k

    or, where rounding hides that, (g(x_{k+1}) - g(y_k)) · d > L |d|². The momentum starts anew, t = 1 and
    y = x, where it points uphill, (y_k - x_{k+1}) · (x_{k+1} - x_k) > 0, and where the value would rise;
    such a step is not taken, so the values fall from step to step. L is halved with a restart, and
    lowered by 2% a step where f is no quadratic: the curvature may be less where the path leads. Each
    step evaluates once: at x_{k+1}, or at y_{k+1}, whose gradient needs no evaluation where f is a
    quadratic.

    Notes
    -----
    Beck and Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems"; Scheinberg, Goldfarb and Bai (2014), "Fast first-order methods for composite convex
    optimization with backtracking", for the sequence t with an L that may fall; O'Donoghue and Candès
    (2015), "Adaptive restart for accelerated gradient schemes"; Becker, Candès and Grant (2011), "Templates for convex cone problems with applications to sparse signal
    recovery", section 5.3, for the test by gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import L1
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(3), np.asarray([3.0, -6.0, 0.5])
    >>> objective = LinearObjective.of(X, y, penalty=L1(1.0), intercept=False)
    >>> run(FISTA(), objective, objective.zeros(), Stop(grad_tol=1e-10)).x.coef.round(6)
    array([ 0., -3.,  0.])
    """

    handles_prox = True
    rescaled = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "accelerated proximal gradient"

    def init(self, objective: Any, params: Tree) -> FistaState:
        """Evaluate the objective at the first point, and measure L where it has one."""
        smooth, grad = objective.value_and_grad(params)
        xp = backends.namespace(smooth)
        composite = CompositeFunction(objective, params, grad)
        value = smooth + composite.penalty(composite.x)
        no, one = xp.zeros_like(value, dtype=xp.bool), xp.ones_like(value)
        L = initial_curvature(objective, params, grad)
        start = CompositePoint(composite.x, composite.g, smooth, value)
        zero = xp.zeros_like(value)
        measurable = L if objective.curvature_is_bounded else zero
        progress = Progress(
            zero,
            one + probe_evaluations(objective),
            no,
            no,
            curvature=measurable,
            relative_step=zero,
        )
        return FistaState(value, grad, progress, start, no, one, L)

    def step(self, objective: Any, params: Tree, state: FistaState) -> tuple[Tree, FistaState]:
        """Evaluate at the next x and judge it, or at the y that is pending."""
        xp = backends.namespace(state.value)
        composite = CompositeFunction(objective, params, state.grad)
        old, y, progress = composite.current_point(state.value), state.extrapolated, state.progress
        target = composite.proximal_step(y, 1.0 / state.L)
        new = composite.at(tree_where(state.pending, y.x, target))
        trial = ~state.pending
        quadratic = objective.quadratic
        bounded_above, raised, curvature = self._test_curvature(
            y, new, state.L, by_slopes=quadratic
        )
        without_momentum = trial & xp.all(y.x == old.x, axis=-1)
        change, noise = new.value - old.value, rounding_error(new.value, old.value)
        if quadratic:
            change, noise = value_increase(composite, old, new)
        rises = change > noise
        unmoved = xp.all(new.x == old.x, axis=-1)
        # Without momentum a step that is short enough descends, but for rounding.
        is_accepted = trial & bounded_above & (without_momentum | ~rises)
        restart = (trial & bounded_above & ~is_accepted) | (
            state.pending & ~xp.isfinite(new.smooth)
        )
        accepted = tree_where(is_accepted, new, old)
        uphill = dot(y.x - new.x, new.x - old.x) > 0.0
        L = xp.where(trial & ~bounded_above, raised, state.L)
        L = self._decreased_enough(objective, state, y, new, is_accepted, is_accepted & uphill, L)
        t = xp.where((is_accepted & uphill) | restart, xp.ones_like(state.t), state.t)
        next_t = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * _curvature_ratio(is_accepted, L, state) * t * t))
        beta = xp.where(is_accepted, (t - 1.0) / next_t, xp.zeros_like(t))
        extrapolated, pending = self._extrapolate(composite, old, new, beta)
        extrapolated = tree_where(
            is_accepted, extrapolated, tree_where(restart, old, tree_where(state.pending, new, y))
        )
        nonfinite = progress.hit_nonfinite | ~xp.isfinite(new.value)
        largest = xp.maximum(progress.curvature, curvature)
        after = progress._replace(
            iterations=progress.iterations + xp.astype(is_accepted, t.dtype),
            evaluations=progress.evaluations + 1.0,
            stalled=progress.stalled | (without_momentum & unmoved),
            hit_nonfinite=nonfinite & (unmoved | ~is_accepted),
            curvature=progress.curvature if objective.curvature_is_bounded else largest,
            relative_step=xp.where(
                is_accepted, relative_step(new.x, old.x), progress.relative_step
            ),
        )
        return composite.unravel(accepted.x), FistaState(
            value=accepted.value,
            grad=composite.unravel_grad(accepted.g),
            progress=after,
            extrapolated=extrapolated,
            pending=is_accepted & pending,
            t=xp.where(is_accepted, next_t, t),
            L=L,
        )

    def _test_curvature(
        self, y: CompositePoint, new: CompositePoint, L: Array, *, by_slopes: bool
    ) -> tuple[Array, Array, Array]:
        """Return whether L bounds the curvature from y to the new point, an L to try if not, and the curvature."""
        xp = backends.namespace(L)
        d, finite = new.x - y.x, xp.isfinite(new.value)
        square = dot(d, d)
        excess = new.smooth - y.smooth - dot(y.g, d)
        gradient_change = dot(new.g - y.g, d)
        noise = rounding_error(new.smooth, y.smooth)
        hidden = xp.ones_like(finite) if by_slopes else 0.5 * L * square <= noise
        eps = float(xp.finfo(L.dtype).eps)
        by_slope = gradient_change <= L * square + 16.0 * eps * xp.sqrt(dot(new.g, new.g) * square)
        below = xp.where(hidden, by_slope, excess <= 0.5 * L * square + noise)
        curvature = safe_divide(xp.where(hidden, gradient_change, 2.0 * excess), square)
        measurable = finite & (square > 0.0) & xp.isfinite(curvature)
        raised = backends.clip(xp.where(measurable, curvature, 10.0 * L), low=1.5 * L, high=1e3 * L)
        return (
            finite & below,
            raised,
            xp.where(measurable & ~hidden, curvature, xp.zeros_like(curvature)),
        )

    def _decreased_enough(
        self,
        objective: Any,
        state: FistaState,
        y: CompositePoint,
        new: CompositePoint,
        is_accepted: Array,
        uphill: Array,
        L: Array,
    ) -> Array:
        """Lower L: to what the first step saw, by half at a restart, and by a little at every step."""
        xp = backends.namespace(L)
        d, gradient_change = new.x - y.x, new.g - y.g
        curvature = safe_divide(xp.sqrt(dot(gradient_change, gradient_change)), xp.sqrt(dot(d, d)))
        guess = 0.0 if objective.curvature_is_bounded else 1.0
        first = (
            is_accepted
            & (state.progress.iterations < guess)
            & (curvature > 0.0)
            & xp.isfinite(curvature)
        )
        # A quadratic is as curved everywhere: what is gained by easing is lost by raising again.
        ease = 1.0 if objective.quadratic else CURVATURE_DECAY
        later = xp.where(uphill, 0.5 * L, xp.where(is_accepted, ease * L, L))
        return xp.where(first, xp.minimum(L, curvature), later)

    def _extrapolate(
        self, composite: CompositeFunction, old: CompositePoint, new: CompositePoint, beta: Array
    ) -> tuple[CompositePoint, Array]:
        """Return the next y, and whether it is still to be evaluated."""
        extrapolated = new.x + beta[..., None] * (new.x - old.x)
        no_momentum = beta == 0.0
        if composite.objective.quadratic:
            change = extrapolated - new.x
            g = new.g + beta[..., None] * (new.g - old.g)
            smooth = new.smooth + 0.5 * dot(new.g + g, change)
            return CompositePoint(extrapolated, g, smooth, smooth), no_momentum & ~no_momentum
        # The function is only asked where the penalty is finite, and within bounds.
        extrapolated = tree_where(no_momentum, new.x, composite.prox(extrapolated, 0.0))
        return new._replace(x=extrapolated), ~no_momentum


def _curvature_ratio(is_accepted: Array, L: Array, state: FistaState) -> Array:
    """Return L_{k+1} / L_k, which the momentum's sequence has to know of."""
    xp = backends.namespace(L)
    return xp.where(is_accepted, L / state.L, xp.ones_like(L))


@dataclass(frozen=True)
class SpectralProximal(Solver):
    """What the two methods with steps of Barzilai and Borwein share; they differ in how a step is shortened.

    `ProximalGradient` shortens the step in the gradient, and applies the prox to each trial, so that every
    point is exactly sparse; `ProjectedGradient` shortens the way to one point that the prox gave.
    """

    memory: int = 10

    handles_prox = True
    rescaled = True

    def __post_init__(self) -> None:
        """Refuse a memory of nothing."""
        as_count("memory", self.memory)

    def evaluate_start(
        self, objective: Any, params: Tree
    ) -> tuple[CompositeFunction, CompositePoint, Array, Progress]:
        """Evaluate the objective at the first point; return it with the first step and the progress."""
        smooth, grad = objective.value_and_grad(params)
        composite = CompositeFunction(objective, params, grad)
        value = smooth + composite.penalty(composite.x)
        step = 1.0 / initial_curvature(objective, params, grad)
        start = CompositePoint(composite.x, composite.g, smooth, value)
        return composite, start, step, initial_progress(value, 1 + probe_evaluations(objective))


def descends_enough(
    recent: Array, decrease: Array, old: CompositePoint, new: CompositePoint
) -> tuple[Array, Array]:
    """Return whether a trial is finite and below the largest recent value by a decrease, and whether it is finite."""
    xp = backends.namespace(recent)
    finite = xp.isfinite(new.value)
    limit = xp.max(recent, axis=-1) - SUFFICIENT_DECREASE * decrease
    return finite & (new.value <= limit + rounding_error(new.value, old.value)), finite


class ProximalState(NamedTuple):
    """Value and gradient at the params, the step to try next, the last values, and what was seen."""

    value: Array
    grad: Tree
    progress: Progress
    step: Array
    recent: Array


@dataclass(frozen=True)
class ProximalGradient(SpectralProximal):
    r"""Proximal gradient descent: a smooth f plus a penalty h that has a prox.

    ::

        x_{k+1} = prox_{a h}(x_k - a g_k),    F = f + h

    The first trial of a is the step of Barzilai and Borwein, s · s / s · y with s and y the last changes
    of the point and of the gradient. It is taken if ::

        F(x_{k+1}) <= max(F(x_k), ..., F(x_{k-memory+1})) - 1e-4 / (2 a) |x_{k+1} - x_k|²

    and shortened otherwise, to where the curvature just seen says, within [a/10, a/2]. Each step
    evaluates once, at a trial; the points are exactly sparse, or within the set.

    Parameters
    ----------
    memory : int
        How many of the last values the safeguard looks back on, 1 or more; 1 makes every step descend.

    Raises
    ------
    ValueError, TypeError
        If `memory` is no whole number above 0.

    Notes
    -----
    Wright, Nowak and Figueiredo (2009), "Sparse reconstruction by separable approximation"; Barzilai and
    Borwein (1988), "Two-point step size gradient methods".

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import NonNegative
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(2), np.asarray([3.0, -6.0])
    >>> objective = LinearObjective.of(X, y, penalty=NonNegative(), intercept=False)
    >>> run(ProximalGradient(), objective, objective.zeros(), Stop(grad_tol=1e-10)).x.coef.round(6)
    array([3., 0.])
    """

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"proximal gradient (Barzilai-Borwein, memory {self.memory})"

    def init(self, objective: Any, params: Tree) -> ProximalState:
        """Evaluate the objective at the first point."""
        composite, start, step, progress = self.evaluate_start(objective, params)
        grad, recent = composite.unravel_grad(start.g), repeat_value(start.value, self.memory)
        return ProximalState(start.value, grad, progress, step, recent)

    def step(
        self, objective: Any, params: Tree, state: ProximalState
    ) -> tuple[Tree, ProximalState]:
        """Evaluate where the step leads; take it, or shorten the step."""
        xp = backends.namespace(state.value)
        composite = CompositeFunction(objective, params, state.grad)
        old, a = composite.current_point(state.value), state.step
        new = composite.at(composite.proximal_step(old, a))
        s = new.x - old.x
        square = dot(s, s)
        is_accepted, finite = descends_enough(state.recent, 0.5 * square / a, old, new)
        twice_excess = 2.0 * (new.smooth - old.smooth - dot(old.g, s))
        shortened = xp.where(
            finite & (twice_excess > 0.0), safe_divide(square, twice_excess), 0.1 * a
        )
        shortened = backends.clip(shortened, low=0.1 * a, high=0.5 * a)
        next_step = spectral_step(s, new.g - old.g, STEP_GROWTH * a)
        accepted = tree_where(is_accepted, new, old)
        unmoved = xp.all(s == 0.0, axis=-1)
        after = ProximalState(
            value=accepted.value,
            grad=composite.unravel_grad(accepted.g),
            progress=next_progress(state.progress, old, new, is_accepted, unmoved),
            step=xp.where(is_accepted, next_step, shortened),
            recent=tree_where(is_accepted, append_value(state.recent, new.value), state.recent),
        )
        return composite.unravel(accepted.x), after


class ProjectedState(NamedTuple):
    """Value and gradient at the params, the search that goes on from there, and what was seen."""

    value: Array
    grad: Tree
    progress: Progress
    target: Array
    decrease: Array
    fraction: Array
    step: Array
    recent: Array


@dataclass(frozen=True)
class ProjectedGradient(SpectralProximal):
    r"""Spectral projected gradient descent: a smooth f over a set, or plus any penalty h with a prox.

    ::

        d = prox_{a h}(x_k - a g_k) - x_k,    x_{k+1} = x_k + t d,    0 < t <= 1

    The prox of a set is the projection onto it, and does not depend on a, which is the step of Barzilai
    and Borwein, s · s / s · y. One projection serves all trials of t, which starts from 1 and is
    shortened until ::

        F(x_{k+1}) <= max(F(x_k), ..., F(x_{k-memory+1})) + 1e-4 t (g_k · d + h(x_k + d) - h(x_k))

    by the parabola through the values, within [t/10, t/2]. All points are within the set. Each step
    evaluates once, at a trial.

    Parameters
    ----------
    memory : int
        How many of the last values the safeguard looks back on, 1 or more; 1 makes every step descend.

    Raises
    ------
    ValueError, TypeError
        If `memory` is no whole number above 0.

    Notes
    -----
    Birgin, Martínez and Raydan (2000), "Nonmonotone spectral projected gradient methods on convex sets",
    their SPG2; Tseng and Yun (2009), "A coordinate gradient descent method for nonsmooth separable
    minimization", for the decrease with a penalty.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import Simplex
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(2), np.asarray([3.0, 2.5])
    >>> objective = LinearObjective.of(X, y, penalty=Simplex(), intercept=False)
    >>> x0 = objective.prox(objective.zeros(), 0.0)
    >>> run(ProjectedGradient(), objective, x0, Stop(grad_tol=1e-10)).x.coef.round(6)
    array([0.75, 0.25])
    """

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"spectral projected gradient (memory {self.memory})"

    def init(self, objective: Any, params: Tree) -> ProjectedState:
        """Evaluate the objective at the first point, and project the first step."""
        composite, start, step, progress = self.evaluate_start(objective, params)
        target, decrease = _target_and_decrease(composite, start, step)
        grad, recent = composite.unravel_grad(start.g), repeat_value(start.value, self.memory)
        one = backends.namespace(start.value).ones_like(start.value)
        return ProjectedState(start.value, grad, progress, target, decrease, one, step, recent)

    def step(
        self, objective: Any, params: Tree, state: ProjectedState
    ) -> tuple[Tree, ProjectedState]:
        """Evaluate a trial; take it and project the next step, or go less far."""
        xp = backends.namespace(state.value)
        composite = CompositeFunction(objective, params, state.grad)
        old, t = composite.current_point(state.value), state.fraction
        interpolated = old.x + t[..., None] * (state.target - old.x)
        new = composite.at(tree_where(t == 1.0, state.target, interpolated))
        is_accepted, finite = descends_enough(state.recent, -t * state.decrease, old, new)
        twice_excess = new.value - old.value - t * state.decrease
        shortened = xp.where(
            finite & (twice_excess > 0.0),
            safe_divide(-0.5 * t * t * state.decrease, twice_excess),
            0.1 * t,
        )
        shortened = backends.clip(shortened, low=0.1 * t, high=0.5 * t)
        a = spectral_step(new.x - old.x, new.g - old.g, STEP_GROWTH * state.step)
        a = xp.where(is_accepted, a, state.step)
        accepted = tree_where(is_accepted, new, old)
        target, decrease = _target_and_decrease(composite, accepted, a)
        unmoved = xp.all(new.x == old.x, axis=-1)
        after = ProjectedState(
            value=accepted.value,
            grad=composite.unravel_grad(accepted.g),
            progress=next_progress(state.progress, old, new, is_accepted, unmoved),
            target=tree_where(is_accepted, target, state.target),
            decrease=xp.where(is_accepted, decrease, state.decrease),
            fraction=xp.where(is_accepted, xp.ones_like(t), shortened),
            step=a,
            recent=tree_where(is_accepted, append_value(state.recent, new.value), state.recent),
        )
        return composite.unravel(accepted.x), after


def _target_and_decrease(
    composite: CompositeFunction, at: CompositePoint, step: Array
) -> tuple[Array, Array]:
    """Return where a step leads, and by how much the value falls on the way there, to first order."""
    target = composite.proximal_step(at, step)
    change = dot(at.g, target - at.x)
    return target, change + composite.penalty(target) - (at.value - at.smooth)
