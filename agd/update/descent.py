"""Methods: descent by any rule, and accelerated descent that finds its own step.

A method is a pure pair ``init(objective, params) -> state`` and ``step(objective, params, state) ->
(params, state)``. The state carries the value and the gradient at the params, so that what a run
returns and what it reports belong to the same point.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.gradient.objective import largest_curvature
from agd.update._curvature import first_curvature, looks
from agd.update._rule import AUTO, Rule, apply_updates, check_rule

__all__ = ["Accelerated", "Descent"]


class DescentState(NamedTuple):
    """Value and gradient at the params, the rule's state, and L (None where the rate was given)."""

    value: Array
    grad: Tree
    inner: Any
    curvature: Array | None


@dataclass(frozen=True)
class Descent:
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

    rescaled: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        check_rule("rule", self.rule)

    @property
    def name(self) -> str:
        """The rule, with its hyper-parameters."""
        return repr(self.rule)

    @property
    def auto(self) -> bool:
        """Whether the learning rate is left to the objective."""
        return dict(self.rule.hyperparameters).get("learning_rate") == AUTO

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
            updates = _scaled(updates, 1.0 / state.curvature)
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
class Accelerated:
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
        Whether ``agd.fit`` runs it in centred and scaled coordinates (`Rescaled`).

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
        point = _minus(params, _scaled(state.grad, 1.0 / state.curvature))
        accept, curvature, there = self._judge(objective, params, point, state)
        moved = _minus(point, state.point)
        uphill = _dot(state.grad, moved, state.value.ndim) > 0.0
        t = xp.where(uphill, xp.ones_like(state.t), state.t)
        following = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * t * t))
        beta = (t - 1.0) / following if self.momentum else xp.zeros_like(t)
        ahead = optree.tree_map(lambda x, d: x + d, point, _scaled(moved, beta))
        gone, failed, walled = xp.ones_like(state.value), state.failed, state.walled
        if accept is not None:  # after a refused step everything is as it was, but for L
            ahead = choose(accept, ahead, params)
            following = xp.where(accept, following, state.t)
            point = choose(accept, point, state.point)
            gone = xp.astype(accept, gone.dtype)
        value, grad = objective.value_and_grad(ahead)
        if accept is not None:  # a momentum that leads to where nothing is finite is left out
            over = ~(xp.isfinite(value) & xp.isfinite(objective.grad_norm(grad, ahead)))
            over = over & accept
            ahead, grad = choose(over, point, ahead), choose(over, there[1], grad)
            value = xp.where(over, there[0], value)
            following = xp.where(over, xp.ones_like(t), following)
            still = _alike(point, params, state.value)
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
        step = _minus(point, params)
        batch = state.value.ndim
        seen = _dot(_minus(grad, state.grad), step, batch)
        accept = xp.isfinite(value) & (seen <= state.curvature * _dot(step, step, batch))
        factor = xp.where(accept, 0.9 * xp.ones_like(value), 2.0 * xp.ones_like(value))
        return accept, state.curvature * factor, (value, grad)


def _minus(a: Tree, b: Tree) -> Tree:
    return optree.tree_map(lambda u, v: u - v, a, b)


def aligned(c: Array, leaf: Array) -> Array:
    """Give c, shape `batch`, the trailing axes of a leaf whose leading axes are the batch."""
    if c.ndim in (0, leaf.ndim):
        return c
    xp = backends.namespace(leaf)
    return xp.reshape(c, (*c.shape, *(1,) * (leaf.ndim - c.ndim)))


def _alike(a: Tree, b: Tree, like: Array) -> Array:
    """Return for each problem whether no entry of two trees differs."""
    xp = backends.namespace(like)
    alike = xp.ones_like(like, dtype=xp.bool)
    for u, v in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        same = u == v
        axes = tuple(range(like.ndim, u.ndim))
        alike = alike & (xp.all(same, axis=axes) if axes else same)
    return alike


def _scaled(tree: Tree, c: Array) -> Tree:
    return optree.tree_map(lambda leaf: aligned(c, leaf) * leaf, tree)


def choose(condition: Array, yes: Tree, no: Tree) -> Tree:
    """Take each problem's leaves from `yes` where its condition holds, from `no` elsewhere."""
    xp = backends.namespace(condition)
    return optree.tree_map(lambda a, b: xp.where(aligned(condition, a), a, b), yes, no)


def _dot(a: Tree, b: Tree, batch: int) -> Array:
    """Return the inner product of two trees, problem by problem: the axes after `batch` are summed."""
    total = None
    for u, v in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        xp = backends.namespace(u)
        part = xp.sum(u * v, axis=tuple(range(batch, u.ndim))) if u.ndim > batch else u * v
        total = part if total is None else total + part
    return total
