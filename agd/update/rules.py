"""Rules with one rate for all: gradient descent, heavy-ball momentum, Nesterov."""

from __future__ import annotations

from typing import Any, NamedTuple

import optree

from agd._typing import Array, Tree
from agd.update._rule import (
    AUTO,
    Rate,
    Rule,
    check_number,
    check_rate,
    first_count,
    named_rule,
    next_count,
    scale_by_rate,
    zeros,
)

__all__ = ["gradient_descent", "momentum", "nesterov"]


class DescentState(NamedTuple):
    """Updates made so far; None where the rate is no schedule."""

    k: Array | None


class MomentumState(NamedTuple):
    """Updates made so far (None where the rate is no schedule), and the velocity."""

    k: Array | None
    velocity: Tree


@named_rule
def gradient_descent(learning_rate: Rate = AUTO) -> Rule:
    r"""Gradient descent, the article's rule.

    ::

        w := w - lr g

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr. An array holds a rate for each problem of the batch, which are the leading axes of every
        leaf. ``"auto"`` is 1/L, for a method that knows the objective.

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
    check_rate(learning_rate, auto=True)

    def init(params: Tree) -> DescentState:
        return DescentState(first_count(params, needed=callable(learning_rate)))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, DescentState]:
        del params
        step = scale_by_rate(learning_rate, state.k, grads)
        return step, DescentState(next_count(state.k))

    return Rule(init, update)


def _velocity_rule(learning_rate: Rate, beta: float, *, ahead: bool) -> Rule:
    """Make heavy ball, or Nesterov where the step looks ahead along the velocity."""
    check_rate(learning_rate, auto=True)
    check_number("beta", beta, 0.0, 1.0, open_end=True)

    def init(params: Tree) -> MomentumState:
        return MomentumState(first_count(params, needed=callable(learning_rate)), zeros(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, MomentumState]:
        del params
        velocity = optree.tree_map(lambda v, g: beta * v + g, state.velocity, grads)
        way = optree.tree_map(lambda v, g: beta * v + g, velocity, grads) if ahead else velocity
        step = scale_by_rate(learning_rate, state.k, way)
        return step, MomentumState(next_count(state.k), velocity)

    return Rule(init, update)


@named_rule
def momentum(learning_rate: Rate = AUTO, beta: float = 0.9) -> Rule:
    r"""Heavy-ball momentum: steps add up to a velocity that friction wears down.

    ::

        v := beta v + g
        w := w - lr v

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr, as in `gradient_descent`.
    beta : float
        The share of the velocity that a step keeps, in [0, 1).

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
    multiplies the velocity, as in optax.sgd(momentum=beta) and torch.optim.SGD, so a schedule acts on
    earlier gradients too.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = momentum(0.1, beta=0.5), np.asarray([10.0])
    >>> step, state = rule.update(g, rule.init(g))
    >>> rule.update(g, state)[0]
    array([-1.5])
    """
    return _velocity_rule(learning_rate, beta, ahead=False)


@named_rule
def nesterov(learning_rate: Rate = AUTO, beta: float = 0.9) -> Rule:
    r"""Nesterov's momentum: the step is taken with the velocity that the next one would have.

    ::

        v := beta v + g
        w := w - lr (beta v + g)

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        lr, as in `gradient_descent`.
    beta : float
        The share of the velocity that a step keeps, in [0, 1).

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
    return _velocity_rule(learning_rate, beta, ahead=True)
