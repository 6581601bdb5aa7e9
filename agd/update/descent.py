"""Gradient methods without a line search: descent by a rule, accelerated gradient, heavy ball.

Each is a solver that the loop of `agd.run` drives. Where the step is 1/L, L is the objective's own bound on
its curvature, or an estimate (`initial_curvature`) that is corrected on the way.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from agd import backends
from agd._tree import (
    dot,
    max_abs,
    ravel,
    safe_divide,
    tree_axpy,
    tree_dot,
    tree_max_abs,
    tree_scale,
    tree_subtract,
    tree_where,
)
from agd._typing import Array, Progress, Scalar, Tree
from agd._validation import as_count, as_positive
from agd.gradient.objective import largest_curvature
from agd.update.rule import Rule, apply_updates, check_rule, count_on_host
from agd.update.solver import Solver, known_false, read_scalars

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
    host_counter : bool
        Whether the rule counts its updates on the host; a step is then not to be traced.

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
    host_counter: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        check_rule("rule", self.rule)

    def with_host_counter(self) -> Descent:
        """Return the same method with the rule's counter on the host."""
        return replace(self, host_counter=True)

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
        inner = self._unit.init(params)
        inner = count_on_host(inner) if self.host_counter else inner
        return DescentState(value, grad, Progress(curvature=curvature), inner)

    def step(self, objective: Any, params: Tree, state: DescentState) -> tuple[Tree, DescentState]:
        """Move by the rule's update and evaluate there."""
        updates, inner = self._unit.update(state.grad, state.inner, params)
        if state.progress.curvature is not None:
            updates = tree_scale(1.0 / state.progress.curvature, updates)
        params = apply_updates(params, updates)
        value, grad = objective.value_and_grad(params)
        return params, DescentState(value, grad, state.progress, inner)


class AcceleratedState(NamedTuple):
    """Value and gradient at the params y_k, and the descent point x_k; `progress` has the L in use.

    `trial` is the next descent point, y_k - g / L, and `slope` is g · (trial - x_k): where that is above 0,
    the momentum points uphill.
    """

    value: Scalar
    grad: Tree
    progress: Progress
    grad_norm: Scalar
    size: Scalar
    point: Tree
    trial: Tree
    slope: Scalar
    t: Scalar


class TestedStep(NamedTuple):
    """A descent step that was tried.

    Attributes
    ----------
    measured : tuple of array, tree
        Value and gradient at its end, as they were evaluated.
    value, grad_norm, size : scalar, shape (...)
        The value, the size of the gradient and the largest parameter; the value in place of the other two
        where momentum is added to the step, since they are then measured at the point that this leads to.
    square : scalar, shape (...)
        The squared length of the step.
    accept, unmoved : scalar of bool
        Whether the step is taken, and whether it changes no parameter.
    progress : Progress
        With this evaluation, and the L to go on with.
    """

    measured: tuple[Any, Tree]
    value: Scalar
    grad_norm: Scalar
    size: Scalar
    square: Scalar
    accept: Scalar
    unmoved: Scalar
    progress: Progress


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
    host_scalars: bool = False

    def with_host_scalars(self) -> Accelerated:
        """Return the same method with its scalars on the host."""
        return replace(self, host_scalars=True)

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
        value, grad, grad_norm = objective.evaluate(params)
        (curvature,) = read_scalars(
            initial_curvature(objective, params, grad), host=self.host_scalars
        )
        xp = backends.namespace(curvature)
        zero, one = xp.zeros_like(curvature), xp.ones_like(curvature)
        # Only a step that can be refused can stall.
        no = xp.zeros_like(curvature, dtype=xp.bool) if self.backtracking else None
        progress = Progress(zero, one + probe_evaluations(objective), no, no, curvature=curvature)
        measured = (value, grad, grad_norm)
        return self._measure(objective, params, measured, params, one, params, progress)

    def resume_state(
        self, objective: Any, params: Tree, state: AcceleratedState
    ) -> AcceleratedState:
        """Return the state at this point for an objective that replaces the former; failures are cleared."""
        progress = state.progress.without_flags()
        measured = objective.evaluate(params)
        return self._measure(objective, params, measured, state.point, state.t, params, progress)

    def _measure(
        self,
        objective: Any,
        params: Tree,
        measured: tuple[Any, Tree, Any],
        point: Tree,
        t: Scalar,
        old_params: Tree,
        progress: Progress,
    ) -> AcceleratedState:
        """Return the state at the params, with the next descent point: one read where scalars are on the host."""
        value, grad, grad_norm = measured
        batch = len(objective.batch_shape)
        trial = tree_axpy(-1.0 / progress.curvature, grad, params)
        slope = tree_dot(grad, tree_subtract(trial, point), batch)
        size = tree_max_abs(params, batch)
        moved = tree_max_abs(tree_subtract(params, old_params), batch)
        value, grad_norm, size, moved, slope = read_scalars(
            value, grad_norm, size, moved, slope, host=self.host_scalars
        )
        progress = progress._replace(relative_step=safe_divide(moved, size))
        return AcceleratedState(value, grad, progress, grad_norm, size, point, trial, slope, t)

    def step(
        self, objective: Any, params: Tree, state: AcceleratedState
    ) -> tuple[Tree, AcceleratedState]:
        """Take one step; where the step is refused, params stay and L grows."""
        xp, progress = backends.namespace(state.t), state.progress
        t = xp.where(state.slope > 0.0, xp.ones_like(state.t), state.t)
        next_t = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * t * t))
        following = state.trial
        if self.momentum:
            moved = tree_subtract(state.trial, state.point)
            following = tree_axpy((t - 1.0) / next_t, moved, state.trial)
        if not self.backtracking:
            progress = _count_evaluations(progress, xp.ones_like(t), 1.0)
            measured = objective.evaluate(following)
            return following, self._measure(
                objective, following, measured, state.trial, next_t, params, progress
            )
        tested = self._test_step(objective, params, state)
        accept, progress = tested.accept, tested.progress
        # After a refused step everything is as it was, but for L.
        following = tree_where(accept, following, params)
        point = tree_where(accept, state.trial, state.point)
        if not self.momentum:
            new = self._without_momentum(following, point, tested, state)
        elif known_false(accept):
            trial = tree_axpy(-1.0 / progress.curvature, state.grad, params)
            # The shorter step changes the slope g · (trial - point) by g · g (1 / L - 1 / L').
            L = state.progress.curvature
            slope = state.slope + tested.square * L * (1.0 - L / progress.curvature)
            new = state._replace(progress=progress, trial=trial, slope=slope)
        else:
            measured = objective.evaluate(following)
            # A refused step needs no second evaluation; in a batch it is one of other problems.
            one = xp.ones_like(progress.evaluations)
            more = xp.where(accept, one, xp.zeros_like(one))
            progress = progress._replace(evaluations=progress.evaluations + more)
            t = xp.where(accept, next_t, state.t)
            new = self._measure(objective, following, measured, point, t, params, progress)
            following, new = self._leave_out_momentum(objective, following, new, tested, params)
        progress = new.progress
        relative_step = xp.where(accept, progress.relative_step, state.progress.relative_step)
        stalled = progress.stalled | (accept & tested.unmoved)
        refused = xp.logical_not(accept)
        progress = progress._replace(
            relative_step=relative_step,
            stalled=stalled,
            hit_nonfinite=progress.hit_nonfinite & (tested.unmoved | refused),
        )
        return following, new._replace(progress=progress)

    def _test_step(self, objective: Any, params: Tree, state: AcceleratedState) -> TestedStep:
        """Evaluate the trial point, and say whether the step to it is accepted."""
        batch = len(objective.batch_shape)
        if self.momentum:  # what is measured of the trial point is its value and its gradient
            value, grad = objective.value_and_grad(state.trial)
            columns = [value, value, value]
        else:
            value, grad, grad_norm = objective.evaluate(state.trial)
            columns = [value, grad_norm, tree_max_abs(state.trial, batch)]
        step, measured = tree_subtract(state.trial, params), (value, grad)
        change = tree_dot(tree_subtract(grad, state.grad), step, batch)
        square, moved = tree_dot(step, step, batch), tree_max_abs(step, batch)
        value, grad_norm, size, change, square, moved = read_scalars(
            *columns, change, square, moved, host=self.host_scalars
        )
        xp, L = backends.namespace(value), state.progress.curvature
        finite = xp.isfinite(value) & xp.isfinite(change)
        accept = finite & (change <= L * square)
        one = xp.ones_like(value)
        progress = _count_evaluations(
            state.progress, xp.where(accept, one, xp.zeros_like(one)), 1.0
        )
        progress = progress._replace(
            curvature=L * xp.where(accept, 0.9 * one, 2.0 * one),
            hit_nonfinite=progress.hit_nonfinite | xp.logical_not(finite),
            relative_step=safe_divide(moved, size),
        )
        unmoved = moved == 0.0
        return TestedStep(measured, value, grad_norm, size, square, accept, unmoved, progress)

    def _without_momentum(
        self, following: Tree, point: Tree, tested: TestedStep, state: AcceleratedState
    ) -> AcceleratedState:
        """Return the state at the trial point, or at the present one where that is refused: nothing is evaluated."""
        value, grad, grad_norm, size = tree_where(
            tested.accept,
            (tested.value, tested.measured[1], tested.grad_norm, tested.size),
            (state.value, state.grad, state.grad_norm, state.size),
        )
        trial = tree_axpy(-1.0 / tested.progress.curvature, grad, following)
        return AcceleratedState(
            value, grad, tested.progress, grad_norm, size, point, trial, state.slope, state.t
        )

    def _leave_out_momentum(
        self,
        objective: Any,
        following: Tree,
        new: AcceleratedState,
        tested: TestedStep,
        params: Tree,
    ) -> tuple[Tree, AcceleratedState]:
        """Go back to the descent point where the momentum led to a value that is not finite."""
        xp = backends.namespace(new.value)
        finite = xp.isfinite(new.value) & xp.isfinite(new.grad_norm)
        overshot = tested.accept & xp.logical_not(finite)
        if known_false(overshot):
            return following, new
        progress = new.progress._replace(hit_nonfinite=new.progress.hit_nonfinite | overshot)
        one, point = xp.ones_like(new.t), new.point
        value, grad = tested.measured
        measured = (value, grad, objective.grad_norm(grad, point))
        back = self._measure(objective, point, measured, point, one, params, progress)
        new = new._replace(progress=progress)
        return tree_where(overshot, point, following), tree_where(overshot, back, new)


def _count_evaluations(progress: Progress, steps: Scalar, evaluations: float) -> Progress:
    """Return the progress after so many steps and evaluations more."""
    return progress._replace(
        iterations=progress.iterations + steps, evaluations=progress.evaluations + evaluations
    )


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
