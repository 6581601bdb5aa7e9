"""Gradient methods without a line search: descent by a rule, accelerated gradient, heavy ball.

Each is a solver that the loop of `agd.run` drives. Where the step is 1/L, L is the objective's own bound on
its curvature, or an estimate (`initial_curvature`) that is corrected on the way.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._tree import (
    dot,
    max_abs,
    ravel,
    safe_divide,
    tree_axpy,
    tree_dot,
    tree_equal,
    tree_scale,
    tree_subtract,
    tree_where,
)
from agd._typing import Array, Progress, Tree
from agd._validation import as_count, as_positive
from agd.gradient.curvature import largest_curvature
from agd.update.rule import Rule, apply_updates, check_rule
from agd.update.solver import Solver

__all__ = [
    "Accelerated",
    "Adapted",
    "Descent",
    "HeavyBall",
    "initial_curvature",
    "probe_evaluations",
]


def initial_curvature(objective: Any, params: Tree, grad: Tree) -> Array:
    """Return L for an objective that can bound it, and a guess to be corrected on the way for others.

    The guess is the curvature along the gradient ::

        L = |g(x + h d) - g(x)| / (h |d|),    d = -g / max|g|,    h = eps^(1/3) max(1, max|x|)

    Where a penalty or bounds are left to a prox, x + h d may lie where the function must not be asked;
    there it is L = max(1, |g|), with which the first step is no longer than 1.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    params, grad : tree of arrays
        The first point, and the gradient there.

    Returns
    -------
    array, shape (...)
        The curvature, above 0.
    """
    if objective.has_bound_product:
        return largest_curvature(objective)
    batch = len(objective.batch_shape)
    x, unravel = ravel(params, batch)
    g, _ = ravel(grad, batch)
    xp = backends.namespace(x)
    if not probe_evaluations(objective):
        return backends.clip(xp.sqrt(dot(g, g)), low=1.0)
    d = -g * safe_divide(xp.ones_like(g[..., 0]), max_abs(g))[..., None]
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * backends.clip(max_abs(x), low=1.0)
    _, moved_grad = objective.value_and_grad(unravel(x + h[..., None] * d))
    gradient_change, _ = ravel(moved_grad, batch)
    gradient_change = gradient_change - g
    L = xp.sqrt(dot(gradient_change, gradient_change)) * safe_divide(
        xp.ones_like(h), h * xp.sqrt(dot(d, d))
    )
    return xp.where(xp.isfinite(L) & (L > 0.0), L, xp.ones_like(L))


def probe_evaluations(objective: Any) -> int:
    """Return how many evaluations `initial_curvature` takes for an objective, 0 or 1."""
    return int(not (objective.has_bound_product or objective.nonsmooth))


class DescentState(NamedTuple):
    """Value and gradient at the params, and the rule's state; `progress` has L unless the rate was given."""

    value: Array
    grad: Tree
    progress: Progress
    inner: Any


@dataclass(frozen=True)
class Descent(Solver):
    """Move by a rule: w := w + update(gradient).

    Parameters
    ----------
    rule : Rule
        Any rule; a learning rate of ``"auto"`` is 1/L, with L the largest curvature of the objective.

    Raises
    ------
    TypeError
        If `rule` is no rule.

    Examples
    --------
    >>> from agd.update import Descent, gradient_descent
    >>> Descent(gradient_descent(0.1)).name
    'gradient_descent(learning_rate=0.1)'
    """

    rule: Rule

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        check_rule("rule", self.rule)

    @property
    def name(self) -> str:
        """The rule, with its hyper-parameters."""
        return repr(self.rule)

    @property
    def update_rule(self) -> Rule:
        """The rule that it moves by."""
        return self.rule

    @property
    def auto(self) -> bool:
        """Whether the learning rate is left to the objective."""
        return self.rule.auto_rate

    @functools.cached_property
    def _unit(self) -> Rule:
        # Updates of the rules that take "auto" are proportional to the rate: 1 / L scales them after.
        return self.rule.with_learning_rate(1.0) if self.auto else self.rule

    def init(self, objective: Any, params: Tree) -> DescentState:
        """Evaluate the objective at the first point; with "auto", measure L."""
        value, grad = objective.value_and_grad(params)
        curvature = largest_curvature(objective) if self.auto else None
        return DescentState(value, grad, Progress(curvature=curvature), self._unit.init(params))

    def step(self, objective: Any, params: Tree, state: DescentState) -> tuple[Tree, DescentState]:
        """Move by the rule's update and evaluate there."""
        updates, inner = self._unit.update(state.grad, state.inner, params)
        if state.progress.curvature is not None:
            updates = tree_scale(1.0 / state.progress.curvature, updates)
        params = apply_updates(params, updates)
        value, grad = objective.value_and_grad(params)
        return params, DescentState(value, grad, state.progress, inner)


class AcceleratedState(NamedTuple):
    """Value and gradient at the params y_k, the descent point x_k, and t_k; `progress` has the L in use."""

    value: Array
    grad: Tree
    progress: Progress
    point: Tree
    t: Array


@dataclass(frozen=True)
class Accelerated(Solver):
    r"""Nesterov's accelerated gradient descent with adaptive restart; the step needs no tuning.

    From y_k, the params::

        x_{k+1} = y_k - g(y_k) / L
        t_{k+1} = (1 + sqrt(1 + 4 t_k²)) / 2
        y_{k+1} = x_{k+1} + (t_k - 1) / t_{k+1} (x_{k+1} - x_k)

    and t starts anew at 1 where the momentum points uphill, g(y_k) · (x_{k+1} - x_k) > 0. L is the
    bound on the objective's curvature where the loss has one. Where it has none, L is raised to twice
    itself, and the step not taken, whenever the curvature seen along it, (g(x_{k+1}) - g(y_k)) ·
    (x_{k+1} - y_k) / |x_{k+1} - y_k|², exceeds L (or the value there is not finite), and lowered by a
    tenth otherwise; that test compares gradients, which rounding spoils later than it does values. Where
    the momentum then leads to a value that is not finite, it is left out and t starts anew.
    No branch depends on a value the host would have to read.

    Parameters
    ----------
    momentum : bool
        False leaves the momentum out: gradient descent with the same step.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates (`Preconditioned`).

    Notes
    -----
    Nesterov (1983), "A method of solving a convex programming problem with convergence rate
    O(1/k²)"; Beck and Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm", for the
    backtracking; O'Donoghue and Candès (2015), "Adaptive restart for accelerated gradient schemes".

    Examples
    --------
    >>> from agd.update import Accelerated
    >>> Accelerated().name
    'accelerated gradient descent, centred and scaled'
    """

    momentum: bool = True
    rescaled: bool = True

    backtracking: bool = False

    @property
    def name(self) -> str:
        """What a result calls it."""
        kind = "accelerated gradient descent" if self.momentum else "gradient descent"
        step = ", step by backtracking" if self.backtracking else ""
        return kind + step + (", centred and scaled" if self.rescaled else "")

    @property
    def evaluations(self) -> int:
        """One value and gradient a step; with momentum another to test the step where it backtracks."""
        return 1 + (self.backtracking and self.momentum)

    def init(self, objective: Any, params: Tree) -> AcceleratedState:
        """Evaluate the objective at the first point and measure L."""
        value, grad = objective.value_and_grad(params)
        curvature = initial_curvature(objective, params, grad)
        xp = backends.namespace(value)
        zero, one = xp.zeros_like(value), xp.ones_like(value)
        # Only a step that can be refused can stall.
        no = xp.zeros_like(value, dtype=xp.bool) if self.backtracking else None
        progress = Progress(zero, one + probe_evaluations(objective), no, no, curvature=curvature)
        return AcceleratedState(value, grad, progress, params, one)

    def step(
        self, objective: Any, params: Tree, state: AcceleratedState
    ) -> tuple[Tree, AcceleratedState]:
        """Take one step; where the step is refused, params stay and L grows."""
        xp, progress = backends.namespace(state.value), state.progress
        point = tree_subtract(params, tree_scale(1.0 / progress.curvature, state.grad))
        accept, curvature, trial = self._test_step(objective, params, point, state)
        moved = tree_subtract(point, state.point)
        uphill = tree_dot(state.grad, moved, state.value.ndim) > 0.0
        t = xp.where(uphill, xp.ones_like(state.t), state.t)
        next_t = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * t * t))
        beta = (t - 1.0) / next_t if self.momentum else xp.zeros_like(t)
        extrapolated = tree_axpy(beta, moved, point)
        accepted_steps, stalled, hit_nonfinite = xp.ones_like(state.value), None, None
        if accept is not None:  # after a refused step everything is as it was, but for L
            extrapolated = tree_where(accept, extrapolated, params)
            next_t = xp.where(accept, next_t, state.t)
            point = tree_where(accept, point, state.point)
            accepted_steps = xp.astype(accept, accepted_steps.dtype)
        if accept is None or self.momentum:
            value, grad = objective.value_and_grad(extrapolated)
        else:  # without momentum the next point is the trial point, or the present one
            value = xp.where(accept, trial[0], state.value)
            grad = tree_where(accept, trial[1], state.grad)
        if accept is not None:  # a momentum that leads to where nothing is finite is left out
            finite = xp.isfinite(value) & xp.isfinite(objective.grad_norm(grad, extrapolated))
            overshot = ~finite & accept
            extrapolated = tree_where(overshot, point, extrapolated)
            grad = tree_where(overshot, trial[1], grad)
            value = xp.where(overshot, trial[0], value)
            next_t = xp.where(overshot, xp.ones_like(t), next_t)
            unmoved = tree_equal(point, params, state.value.ndim)
            stalled = progress.stalled | (accept & unmoved)
            hit_nonfinite = progress.hit_nonfinite | overshot | ~xp.isfinite(trial[0])
            hit_nonfinite = hit_nonfinite & (unmoved | ~accept)
        after = progress._replace(
            iterations=progress.iterations + accepted_steps,
            evaluations=progress.evaluations + float(self.evaluations),
            stalled=stalled,
            hit_nonfinite=hit_nonfinite,
            curvature=curvature,
        )
        return extrapolated, AcceleratedState(value, grad, after, point, next_t)

    def _test_step(
        self, objective: Any, params: Tree, point: Tree, state: AcceleratedState
    ) -> tuple[Array | None, Array, tuple[Array, Tree]]:
        """Return whether the step to `point` is accepted, the curvature to use next, and value and gradient.

        Without backtracking there is no test, and nothing is evaluated.
        """
        L = state.progress.curvature
        if not self.backtracking:
            return None, L, (state.value, state.grad)
        xp = backends.namespace(state.value)
        value, grad = objective.value_and_grad(point)
        step = tree_subtract(point, params)
        batch = state.value.ndim
        curvature = tree_dot(tree_subtract(grad, state.grad), step, batch)
        accept = xp.isfinite(value) & (curvature <= L * tree_dot(step, step, batch))
        factor = xp.where(accept, 0.9 * xp.ones_like(value), 2.0 * xp.ones_like(value))
        return accept, L * factor, (value, grad)


class AdaptedState(NamedTuple):
    """Value and gradient at the best point, the point that the rule is at, and the scale in use."""

    value: Array
    grad: Tree
    progress: Progress
    point: Tree
    point_grad: Tree
    inner: Any
    scale: Array
    steps_since_best: Array
    improving_steps: Array


@dataclass(frozen=True)
class Adapted(Solver):
    r"""Move by a rule, with its updates scaled by what they achieve; the best point is kept.

    ::

        x := x + c u,    u the rule's update

    c starts at 1. It doubles after `patience` steps in a row that each found a new best value; after as
    many without one, or a value that is not finite, it halves and the rule starts anew from the best
    point. So a rule with a rate of its own converges from whatever rate it was given.

    Parameters
    ----------
    rule : Rule
        The rule.
    patience : int
        How many steps make a verdict, 1 or more.

    Raises
    ------
    TypeError, ValueError
        If `rule` is no rule, or `patience` no whole number above 0.

    Notes
    -----
    Halving the rate at a plateau is common practice in training (``ReduceLROnPlateau`` in PyTorch);
    returning to the best point, and growing again, make it safe for any first rate.

    Examples
    --------
    >>> from agd.update import Adapted, sign_descent
    >>> Adapted(sign_descent(0.1)).name
    'sign_descent(learning_rate=0.1), rate adapted'
    """

    rule: Rule
    patience: int = 10

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        check_rule("rule", self.rule)
        as_count("patience", self.patience)

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"{self.rule!r}, rate adapted"

    @property
    def update_rule(self) -> Rule:
        """The rule that it moves by."""
        return self.rule

    def init(self, objective: Any, params: Tree) -> AdaptedState:
        """Evaluate the objective at the first point."""
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        zero, no = xp.zeros_like(value), xp.zeros_like(value, dtype=xp.bool)
        progress = Progress(zero, zero + 1.0, no, no)
        return AdaptedState(
            value, grad, progress, params, grad, self.rule.init(params), zero + 1.0, zero, zero
        )

    def step(self, objective: Any, params: Tree, state: AdaptedState) -> tuple[Tree, AdaptedState]:
        """Move the rule's point, and keep it where it is the best so far."""
        xp = backends.namespace(state.value)
        updates, inner = self.rule.update(state.point_grad, state.inner, state.point)
        moved = tree_scale(state.scale, updates)
        point = apply_updates(state.point, moved)
        value, grad = objective.value_and_grad(point)
        improved = xp.isfinite(value) & (value < state.value)
        since_best = xp.where(improved, xp.zeros_like(value), state.steps_since_best + 1.0)
        improving = xp.where(improved, state.improving_steps + 1.0, xp.zeros_like(value))
        restart = (since_best >= self.patience) | ~xp.isfinite(value)
        grow = improving >= self.patience
        one = xp.ones_like(value)
        factor = xp.where(restart, 0.5 * one, xp.where(grow, 2.0 * one, one))
        params = tree_where(improved, point, params)
        best_grad = tree_where(improved, grad, state.grad)
        eps = float(xp.finfo(value.dtype).eps)
        old = state.progress
        progress = Progress(
            iterations=old.iterations + xp.astype(improved, value.dtype),
            evaluations=old.evaluations + 1.0,
            stalled=old.stalled | (state.scale < eps * eps),
            hit_nonfinite=~improved & (old.hit_nonfinite | ~xp.isfinite(value)),
        )
        return params, AdaptedState(
            value=xp.where(improved, value, state.value),
            grad=best_grad,
            progress=progress,
            point=tree_where(restart, params, point),
            point_grad=tree_where(restart, best_grad, grad),
            inner=tree_where(~restart, inner, self.rule.init(params)),
            scale=state.scale * factor,
            steps_since_best=xp.where(restart, xp.zeros_like(value), since_best),
            improving_steps=xp.where(grow, xp.zeros_like(value), improving),
        )


class HeavyBallState(NamedTuple):
    """Value and gradient at the params, and the velocity; `progress` has the L in use."""

    value: Array
    grad: Tree
    progress: Progress
    velocity: Array


@dataclass(frozen=True)
class HeavyBall(Solver):
    r"""Heavy-ball momentum with the step 1/L, where L is learned on the way.

    ::

        v := beta v - g / L
        x := x + v

    L is raised to twice itself, and the step not taken, where the curvature seen along it, (g(x + v) -
    g(x)) · v / v · v, exceeds L or the value is not finite; it falls by a fiftieth otherwise. The
    velocity starts anew at 0 after a step that is not taken and where it points uphill, g · v > 0.

    Parameters
    ----------
    beta : float
        The share of the velocity that a step keeps, in (0, 1).

    Raises
    ------
    ValueError, TypeError
        If `beta` is out of range.

    Notes
    -----
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods"; O'Donoghue and
    Candès (2015), "Adaptive restart for accelerated gradient schemes".

    Examples
    --------
    >>> from agd.update import HeavyBall
    >>> HeavyBall().name
    'heavy ball (beta=0.9), step 1/L by backtracking'
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        """Refuse a share that is not below 1."""
        if as_positive("beta", self.beta) >= 1.0:
            raise ValueError(f"beta must be below 1, got {self.beta!r}")

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"heavy ball (beta={self.beta!r}), step 1/L by backtracking"

    def init(self, objective: Any, params: Tree) -> HeavyBallState:
        """Evaluate the objective at the first point, and guess L."""
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        g, _ = ravel(grad, value.ndim)
        zero, no = xp.zeros_like(value), xp.zeros_like(value, dtype=xp.bool)
        curvature = initial_curvature(objective, params, grad)
        progress = Progress(
            zero,
            zero + 1.0 + probe_evaluations(objective),
            no,
            no,
            curvature=curvature,
            relative_step=zero,
        )
        return HeavyBallState(value, grad, progress, xp.zeros_like(g))

    def step(
        self, objective: Any, params: Tree, state: HeavyBallState
    ) -> tuple[Tree, HeavyBallState]:
        """Move with the velocity; where the step is refused, the params stay and L grows."""
        xp, old, L = backends.namespace(state.value), state.progress, state.progress.curvature
        x, unravel = ravel(params, state.value.ndim)
        g, unravel_grad = ravel(state.grad, state.value.ndim)
        uphill = (dot(g, state.velocity) > 0.0)[..., None]
        damped = xp.where(uphill, xp.zeros_like(g), self.beta * state.velocity)
        v = damped - g / L[..., None]
        value, grad = objective.value_and_grad(unravel(x + v))
        trial_grad, _ = ravel(grad, state.value.ndim)
        curvature = dot(trial_grad - g, v)
        accept = xp.isfinite(value) & (curvature <= L * dot(v, v))
        below_rounding = max_abs(v) <= float(xp.finfo(x.dtype).eps) * max_abs(x)
        factor = xp.where(accept, xp.full_like(value, 0.98), xp.full_like(value, 2.0))
        new_x = tree_where(accept, x + v, x)
        nonfinite = ~xp.isfinite(value) | ~xp.isfinite(curvature)
        progress = old._replace(
            iterations=old.iterations + xp.astype(accept, value.dtype),
            evaluations=old.evaluations + 1.0,
            stalled=old.stalled | (~accept & below_rounding),
            hit_nonfinite=~accept & (old.hit_nonfinite | nonfinite),
            curvature=L * factor,
            relative_step=xp.where(
                accept, safe_divide(max_abs(v), max_abs(new_x)), old.relative_step
            ),
        )
        return unravel(new_x), HeavyBallState(
            value=xp.where(accept, value, state.value),
            grad=unravel_grad(tree_where(accept, trial_grad, g)),
            progress=progress,
            velocity=tree_where(accept, v, xp.zeros_like(v)),
        )
