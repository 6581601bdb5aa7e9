"""First-order rules with one learning rate for all parameters: gradient descent, momentum, and sign-based rules.

Each rule is a direction with its state; `rule_from_direction` multiplies the direction by the learning rate.
`agd.update.Descent` and `agd.update.sgd` apply the rules to an objective.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._tree import sign
from agd._typing import Array, Tree
from agd.update.moving_averages import add_weight_decay, check_decay_rates, filled, moving_average
from agd.update.rule import (
    AUTO,
    Rate,
    Rule,
    check_number,
    gradient_direction,
    named_rule,
    rule_from_direction,
    zeros,
)

__all__ = ["gradient_descent", "lion", "momentum", "nesterov", "rprop", "sign_descent"]


@named_rule
def gradient_descent(learning_rate: Rate = AUTO) -> Rule:
    r"""Gradient descent with a fixed step or a schedule.

    ::

        w := w - lr g

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr. An array has one rate for each problem of a batch, whose axes are the leading axes of every leaf.
        ``"auto"`` stands for 1/L, with L the largest curvature, which a method that knows the objective computes.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If the rate is negative, not finite or no number.

    Notes
    -----
    Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations simultanées". On a
    function of curvature at most L it descends for lr < 2/L. optax.sgd and torch.optim.SGD are this
    rule.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = gradient_descent(0.1), np.asarray([1.0])
    >>> rule.update(np.asarray([10.0]), rule.init(w))[0]
    array([-1.])
    """
    return rule_from_direction(learning_rate, gradient_direction, auto=True)


def _momentum_rule(learning_rate: Rate, beta: float, *, nesterov: bool) -> Rule:
    """Make heavy-ball momentum, or Nesterov's, whose direction is beta v + g with the new velocity v."""
    check_number("beta", beta, 0.0, 1.0, open_end=True)

    def add(velocity: Tree, grads: Tree) -> Tree:
        return optree.tree_map(lambda v, g: beta * v + g, velocity, grads)

    def direction(grads: Tree, velocity: Tree, *_: Any) -> tuple[Tree, Tree]:
        velocity = add(velocity, grads)
        return add(velocity, grads) if nesterov else velocity, velocity

    return rule_from_direction(learning_rate, direction, zeros, auto=True)


@named_rule
def momentum(learning_rate: Rate = AUTO, beta: float = 0.9) -> Rule:
    r"""Heavy-ball momentum: the step is an exponentially weighted sum of past gradients.

    ::

        v := beta v + g
        w := w - lr v

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr, as in `gradient_descent`.
    beta : float
        The momentum coefficient, in [0, 1).

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods". The rate
    multiplies the velocity, as in optax.sgd(momentum=beta) and torch.optim.SGD, so a schedule scales the
    contributions of earlier gradients too.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = momentum(0.1, beta=0.5), np.asarray([10.0])
    >>> step, state = rule.update(g, rule.init(g))
    >>> rule.update(g, state)[0]
    array([-1.5])
    """
    return _momentum_rule(learning_rate, beta, nesterov=False)


@named_rule
def nesterov(learning_rate: Rate = AUTO, beta: float = 0.9) -> Rule:
    r"""Nesterov's accelerated gradient: momentum whose step extrapolates the velocity by one update.

    ::

        v := beta v + g
        w := w - lr (beta v + g)

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr, as in `gradient_descent`.
    beta : float
        The momentum coefficient, in [0, 1).

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Nesterov (1983), "A method of solving a convex programming problem with convergence rate
    O(1/k²)", in the form of Sutskever et al. (2013); the same as optax.sgd(nesterov=True) and
    torch.optim.SGD(nesterov=True).

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = nesterov(0.1, beta=0.5), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0]
    array([-1.5])
    """
    return _momentum_rule(learning_rate, beta, nesterov=True)


def _signs(tree: Tree) -> Tree:
    return optree.tree_map(sign, tree)


@named_rule
def sign_descent(learning_rate: Rate = 1e-3) -> Rule:
    r"""Sign descent: every parameter changes by the learning rate, against the sign of its gradient.

    ::

        w := w - lr sign(g)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Bernstein et al. (2018), "signSGD: compressed optimisation for non-convex problems"; the same as
    optax.sign_sgd.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = sign_descent(0.1), np.asarray([10.0, -2.0, 0.0])
    >>> rule.update(g, rule.init(g))[0]
    array([-0.1,  0.1, -0. ])
    """
    return rule_from_direction(learning_rate, lambda grads, *_: (_signs(grads), ()))


@named_rule
def lion(
    learning_rate: Rate = 1e-4, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 1e-3
) -> Rule:
    r"""Lion: the sign of an interpolation between the gradient and its moving average.

    ::

        u := sign(b1 m + (1 - b1) g) + weight_decay w
        m := b2 m + (1 - b2) g
        w := w - lr u

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The weights of m in the step and in the update of m, in [0, 1).
    weight_decay : float
        The coefficient of the decay, 0 or more.

    Returns
    -------
    Rule
        The rule; with a positive decay its ``update`` needs the params.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Chen et al. (2023), "Symbolic discovery of optimization algorithms"; the same as optax.lion.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = lion(0.1, weight_decay=0.0), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0]
    array([-0.1])
    """
    check_decay_rates(b1=b1, b2=b2)
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def direction(grads: Tree, mean: Tree, params: Tree, _: Any) -> tuple[Tree, Tree]:
        signs = _signs(moving_average(b1, mean, grads))
        return add_weight_decay(signs, params, weight_decay), moving_average(b2, mean, grads)

    return rule_from_direction(learning_rate, direction, zeros)


class RpropState(NamedTuple):
    """The step size of each parameter, and its last step, which is 0 after a change of the gradient's sign."""

    sizes: Tree
    last: Tree


@named_rule
def rprop(
    learning_rate: float = 1e-2,
    shrink: float = 0.5,
    grow: float = 1.2,
    least: float = 1e-6,
    most: float = 50.0,
) -> Rule:
    r"""Rprop: resilient backpropagation, with a step size for each parameter from the signs of its gradients.

    ::

        d := clip(grow d, least, most)     if g has the sign of the last step's gradient
             clip(shrink d, least, most)   if its sign has changed; then this step is 0
        w := w - d sign(g)

    Parameters
    ----------
    learning_rate : float
        The initial value of d.
    shrink, grow : float
        The factors of d, below 1 and at least 1.
    least, most : float
        The bounds of d.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Riedmiller and Braun (1993), "A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm"; for full gradients, not for mini-batches. The same as torch.optim.Rprop; the
    steps of optax.rprop (0.2.8) lag by one update.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = rprop(0.1), np.asarray([10.0])
    >>> step, state = rule.update(g, rule.init(g))
    >>> step, rule.update(g, state)[0]
    (array([-0.1]), array([-0.12]))
    """
    check_number("learning_rate", learning_rate, 0.0, math.inf, open_end=True)
    check_number("shrink", shrink, 0.0, 1.0, open_end=True)
    check_number("grow", grow, 1.0, math.inf, open_end=True)
    check_number("least", least, 0.0, math.inf, open_end=True)
    check_number("most", most, least, math.inf, open_end=True)

    def init(params: Tree) -> RpropState:
        return RpropState(filled(params, learning_rate), zeros(params))

    def resized(size: Array, last: Array, g: Array) -> Array:
        xp, agreement = backends.namespace(g), last * g
        factor = xp.where(agreement > 0.0, grow + 0.0 * size, shrink + 0.0 * size)
        # At the first update, and after a change of sign, the last step is 0 and the size stays as it is.
        return xp.where(agreement == 0.0, size, backends.clip(factor * size, low=least, high=most))

    def move(size: Array, last: Array, g: Array) -> Array:
        xp = backends.namespace(g)
        # The last step went past a minimum along this coordinate: wait for the gradient at a smaller size.
        return xp.where(last * g < 0.0, 0.0 * g, size * sign(g))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, RpropState]:
        del params
        sizes = optree.tree_map(resized, state.sizes, state.last, grads)
        moves = optree.tree_map(move, sizes, state.last, grads)
        return optree.tree_map(lambda m: -m, moves), RpropState(sizes, moves)

    return Rule(init, update)
