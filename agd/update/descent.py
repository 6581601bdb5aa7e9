"""A first estimate of the curvature, for methods whose step is its inverse."""

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
from agd._typing import Array, Tree
from agd._validation import as_count, as_positive
from agd.gradient.curvature import largest_curvature
from agd.update.rule import Rule, apply_updates, check_rule
from agd.update.solver import Solver

__all__ = [
    "Accelerated",
    "Adapted",
    "Descent",
    "HeavyBall",
    "first_curvature",
    "looks",
]


def first_curvature(objective: Any, params: Tree, grad: Tree) -> Array:
    """Return L for an objective that can bound it, and a guess to be corrected on the way for others.

    The guess is the curvature along the gradient ::

        L = |g(x + h d) - g(x)| / (h |d|),    d = -g / max|g|,    h = eps^(1/3) max(1, max|x|)

    Where a penalty or bounds are left to a prox, x + h d may lie where the function must not be asked;
    there it is L = max(1, |g|), with which the first step is no longer than 1.

    Parameters
    ----------
    objective : Objective
        One over linear parameters has ``bound_product``; one that has ``nonsmooth`` says whether a part
        of it is left to its prox.
    params, grad : tree of arrays
        The first point, and the gradient there.

    Returns
    -------
    array, shape (...)
        The curvature, above 0.
    """
    if hasattr(objective, "bound_product"):
        return largest_curvature(objective)
    batch = len(objective.batch_shape)
    x, restore = ravel(params, batch)
    g, _ = ravel(grad, batch)
    xp = backends.namespace(x)
    if not looks(objective):
        return backends.clip(xp.sqrt(dot(g, g)), low=1.0)
    d = -g * safe_divide(xp.ones_like(g[..., 0]), max_abs(g))[..., None]
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * backends.clip(max_abs(x), low=1.0)
    _, there = objective.value_and_grad(restore(x + h[..., None] * d))
    change, _ = ravel(there, batch)
    change = change - g
    L = xp.sqrt(dot(change, change)) * safe_divide(xp.ones_like(h), h * xp.sqrt(dot(d, d)))
    return xp.where(xp.isfinite(L) & (L > 0.0), L, xp.ones_like(L))


def looks(objective: Any) -> int:
    """Return how often `first_curvature` evaluates an objective, 0 or 1."""
    return int(not (hasattr(objective, "bound_product") or getattr(objective, "nonsmooth", False)))


class DescentState(NamedTuple):
    """Value and gradient at the params, the rule's state, and L (None where the rate was given)."""

    value: Array
    grad: Tree
    inner: Any
    curvature: Array | None


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
        return DescentState(value, grad, self._unit.init(params), curvature)

    def step(self, objective: Any, params: Tree, state: DescentState) -> tuple[Tree, DescentState]:
        """Move by the rule's update and evaluate there."""
        updates, inner = self._unit.update(state.grad, state.inner, params)
        if state.curvature is not None:
            updates = tree_scale(1.0 / state.curvature, updates)
        params = apply_updates(params, updates)
        value, grad = objective.value_and_grad(params)
        return params, DescentState(value, grad, inner, state.curvature)


class AcceleratedState(NamedTuple):
    """Value and gradient at the params y_k, the descent point x_k, t_k, and the curvature in use.

    Where it backtracks also whether no step moves the params, and whether a trial since the last step
    that did was not finite; else None.
    """

    value: Array
    grad: Tree
    point: Tree
    t: Array
    curvature: Array
    iterations: Array
    evaluations: Array
    failed: Array | None
    walled: Array | None


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
        """One value and gradient a step; another to test the step where it backtracks."""
        return 1 + self.backtracking

    def init(self, objective: Any, params: Tree) -> AcceleratedState:
        """Evaluate the objective at the first point and measure L."""
        value, grad = objective.value_and_grad(params)
        curvature = first_curvature(objective, params, grad)
        xp = backends.namespace(value)
        zero, one = xp.zeros_like(value), xp.ones_like(value)
        no = xp.zeros_like(value, dtype=xp.bool) if self.backtracking else None
        return AcceleratedState(
            value, grad, params, one, curvature, zero, one + looks(objective), no, no
        )

    def step(
        self, objective: Any, params: Tree, state: AcceleratedState
    ) -> tuple[Tree, AcceleratedState]:
        """Take one step; where the step is refused, params stay and L grows."""
        xp = backends.namespace(state.value)
        point = tree_subtract(params, tree_scale(1.0 / state.curvature, state.grad))
        accept, curvature, there = self._judge(objective, params, point, state)
        moved = tree_subtract(point, state.point)
        uphill = tree_dot(state.grad, moved, state.value.ndim) > 0.0
        t = xp.where(uphill, xp.ones_like(state.t), state.t)
        following = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * t * t))
        beta = (t - 1.0) / following if self.momentum else xp.zeros_like(t)
        ahead = tree_axpy(beta, moved, point)
        gone, failed, walled = xp.ones_like(state.value), state.failed, state.walled
        if accept is not None:  # after a refused step everything is as it was, but for L
            ahead = tree_where(accept, ahead, params)
            following = xp.where(accept, following, state.t)
            point = tree_where(accept, point, state.point)
            gone = xp.astype(accept, gone.dtype)
        value, grad = objective.value_and_grad(ahead)
        if accept is not None:  # a momentum that leads to where nothing is finite is left out
            over = ~(xp.isfinite(value) & xp.isfinite(objective.grad_norm(grad, ahead)))
            over = over & accept
            ahead, grad = tree_where(over, point, ahead), tree_where(over, there[1], grad)
            value = xp.where(over, there[0], value)
            following = xp.where(over, xp.ones_like(t), following)
            still = tree_equal(point, params, state.value.ndim)
            failed = state.failed | (accept & still)
            walled = (state.walled | over | ~xp.isfinite(there[0])) & (still | ~accept)
        return ahead, AcceleratedState(
            value, grad, point, following, curvature,
            state.iterations + gone, state.evaluations + float(self.evaluations), failed, walled,
        )  # fmt: skip

    def _judge(
        self, objective: Any, params: Tree, point: Tree, state: AcceleratedState
    ) -> tuple[Array | None, Array, tuple[Array, Tree]]:
        """Say whether the step to `point` is safe, the curvature to use next, and what is found there."""
        if not self.backtracking:
            return None, state.curvature, (state.value, state.grad)
        xp = backends.namespace(state.value)
        value, grad = objective.value_and_grad(point)
        step = tree_subtract(point, params)
        batch = state.value.ndim
        seen = tree_dot(tree_subtract(grad, state.grad), step, batch)
        accept = xp.isfinite(value) & (seen <= state.curvature * tree_dot(step, step, batch))
        factor = xp.where(accept, 0.9 * xp.ones_like(value), 2.0 * xp.ones_like(value))
        return accept, state.curvature * factor, (value, grad)


class AdaptedState(NamedTuple):
    """Value and gradient at the best point, the point that the rule is at, and the scale in use."""

    value: Array
    grad: Tree
    point: Tree
    point_grad: Tree
    inner: Any
    scale: Array
    stalled: Array
    streak: Array
    iterations: Array
    evaluations: Array
    failed: Array
    walled: Array


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
        return AdaptedState(
            value, grad, params, grad, self.rule.init(params), zero + 1.0, zero, zero, zero, zero + 1.0, no, no
        )  # fmt: skip

    def step(self, objective: Any, params: Tree, state: AdaptedState) -> tuple[Tree, AdaptedState]:
        """Move the rule's point, and keep it where it is the best so far."""
        xp = backends.namespace(state.value)
        updates, inner = self.rule.update(state.point_grad, state.inner, state.point)
        moved = tree_scale(state.scale, updates)
        point = apply_updates(state.point, moved)
        value, grad = objective.value_and_grad(point)
        better = xp.isfinite(value) & (value < state.value)
        stalled = xp.where(better, xp.zeros_like(value), state.stalled + 1.0)
        streak = xp.where(better, state.streak + 1.0, xp.zeros_like(value))
        back = (stalled >= self.patience) | ~xp.isfinite(value)
        up = streak >= self.patience
        one = xp.ones_like(value)
        factor = xp.where(back, 0.5 * one, xp.where(up, 2.0 * one, one))
        params = tree_where(better, point, params)
        best_grad = tree_where(better, grad, state.grad)
        eps = float(xp.finfo(value.dtype).eps)
        return params, AdaptedState(
            value=xp.where(better, value, state.value),
            grad=best_grad,
            point=tree_where(back, params, point),
            point_grad=tree_where(back, best_grad, grad),
            inner=tree_where(~back, inner, self.rule.init(params)),
            scale=state.scale * factor,
            stalled=xp.where(back, xp.zeros_like(value), stalled),
            streak=xp.where(up, xp.zeros_like(value), streak),
            iterations=state.iterations + xp.astype(better, value.dtype),
            evaluations=state.evaluations + 1.0,
            failed=state.failed | (state.scale < eps * eps),
            walled=~better & (state.walled | ~xp.isfinite(value)),
        )


class HeavyBallState(NamedTuple):
    """Value and gradient at the params, the velocity, and the curvature in use."""

    value: Array
    grad: Tree
    velocity: Array
    curvature: Array
    iterations: Array
    evaluations: Array
    failed: Array
    walled: Array
    moved: Array


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
        curvature = first_curvature(objective, params, grad)
        calls = zero + 1.0 + looks(objective)
        return HeavyBallState(value, grad, xp.zeros_like(g), curvature, zero, calls, no, no, zero)

    def step(
        self, objective: Any, params: Tree, state: HeavyBallState
    ) -> tuple[Tree, HeavyBallState]:
        """Move with the velocity; where the step is refused, the params stay and L grows."""
        xp = backends.namespace(state.value)
        x, restore = ravel(params, state.value.ndim)
        g, as_grad = ravel(state.grad, state.value.ndim)
        uphill = (dot(g, state.velocity) > 0.0)[..., None]
        kept = xp.where(uphill, xp.zeros_like(g), self.beta * state.velocity)
        v = kept - g / state.curvature[..., None]
        value, grad = objective.value_and_grad(restore(x + v))
        there, _ = ravel(grad, state.value.ndim)
        bend = dot(there - g, v)
        accept = xp.isfinite(value) & (bend <= state.curvature * dot(v, v))
        tiny = max_abs(v) <= float(xp.finfo(x.dtype).eps) * max_abs(x)
        raised = xp.where(accept, xp.full_like(value, 0.98), xp.full_like(value, 2.0))
        new_x = tree_where(accept, x + v, x)
        return restore(new_x), HeavyBallState(
            value=xp.where(accept, value, state.value),
            grad=as_grad(tree_where(accept, there, g)),
            velocity=tree_where(accept, v, xp.zeros_like(v)),
            curvature=state.curvature * raised,
            iterations=state.iterations + xp.astype(accept, value.dtype),
            evaluations=state.evaluations + 1.0,
            failed=state.failed | (~accept & tiny),
            walled=~accept & (state.walled | ~xp.isfinite(value) | ~xp.isfinite(bend)),
            moved=xp.where(accept, safe_divide(max_abs(v), max_abs(new_x)), state.moved),
        )
