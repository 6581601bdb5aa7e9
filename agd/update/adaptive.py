"""Rules with a rate for each parameter, from the sizes of its gradients: AdaGrad, RMSProp, AdaDelta."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optree

from agd._typing import Array, Tree
from agd.update._moments import blend, check_eps, check_share, divided, squared
from agd.update._rule import (
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

__all__ = ["adadelta", "adagrad", "rmsprop"]


class SquaresState(NamedTuple):
    """Updates made so far (None where the rate is no schedule), and the squared gradients."""

    k: Array | None
    squares: Tree


@named_rule
def adagrad(
    learning_rate: Rate = 0.01,
    initial_accumulator: float = 0.0,
    eps: float = 1e-10,
    *,
    eps_in_sqrt: bool = False,
) -> Rule:
    r"""AdaGrad: each parameter's rate falls with the squares that its gradients have added up to.

    ::

        s := s + g²
        w := w - lr g / (sqrt(s) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    initial_accumulator : float
        s before the first update, 0 or more.
    eps : float
        What keeps the quotient finite, 0 or more.
    eps_in_sqrt : bool
        Whether the denominator is sqrt(s + eps) instead.

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
    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods", JMLR 12. The defaults are
    torch.optim.Adagrad's; optax.adagrad is ``initial_accumulator=0.1, eps=1e-7, eps_in_sqrt=True``.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adagrad(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    check_rate(learning_rate)
    check_number("initial_accumulator", initial_accumulator, 0.0, math.inf, open_end=True)
    check_eps(eps)

    def init(params: Tree) -> SquaresState:
        first = optree.tree_map(lambda p: 0.0 * p + initial_accumulator, params)
        return SquaresState(first_count(params, needed=callable(learning_rate)), first)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, SquaresState]:
        del params
        squares = optree.tree_map(lambda s, g: s + g * g, state.squares, grads)
        way = divided(grads, squares, eps, eps_in_sqrt=eps_in_sqrt)
        step = scale_by_rate(learning_rate, state.k, way)
        return step, SquaresState(next_count(state.k), squares)

    return Rule(init, update)


@named_rule
def rmsprop(
    learning_rate: Rate = 0.01,
    decay: float = 0.99,
    eps: float = 1e-8,
    *,
    eps_in_sqrt: bool = False,
) -> Rule:
    r"""RMSProp: AdaGrad with a running mean of squares, which forgets.

    ::

        s := decay s + (1 - decay) g²
        w := w - lr g / (sqrt(s) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    decay : float
        The share of s that an update keeps, in [0, 1).
    eps : float
        What keeps the quotient finite, 0 or more.
    eps_in_sqrt : bool
        Whether the denominator is sqrt(s + eps) instead.

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
    Tieleman and Hinton (2012), lecture 6.5 of *Neural Networks for Machine Learning*. The defaults
    are torch.optim.RMSprop's; optax.rmsprop is ``decay=0.9, eps_in_sqrt=True``.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = rmsprop(0.1, decay=0.75), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.2])
    """
    check_rate(learning_rate)
    check_share(decay=decay)
    check_eps(eps)

    def init(params: Tree) -> SquaresState:
        zero = zeros(params)
        return SquaresState(first_count(params, needed=callable(learning_rate)), zero)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, SquaresState]:
        del params
        squares = blend(decay, state.squares, squared(grads))
        way = divided(grads, squares, eps, eps_in_sqrt=eps_in_sqrt)
        step = scale_by_rate(learning_rate, state.k, way)
        return step, SquaresState(next_count(state.k), squares)

    return Rule(init, update)


class AdaDeltaState(NamedTuple):
    """Updates made so far (None where the rate is no schedule); mean squares of gradients and steps."""

    k: Array | None
    squares: Tree
    steps: Tree


@named_rule
def adadelta(learning_rate: Rate = 1.0, rho: float = 0.9, eps: float = 1e-6) -> Rule:
    r"""AdaDelta: RMSProp with the size of recent steps as its rate, so that units agree.

    ::

        s := rho s + (1 - rho) g²
        u := sqrt(d + eps) / sqrt(s + eps) g
        d := rho d + (1 - rho) u²
        w := w - lr u

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr; 1 is the paper's.
    rho : float
        The share of s and d that an update keeps, in [0, 1).
    eps : float
        What gets the first step going, 0 or more.

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
    Zeiler (2012), "ADADELTA: an adaptive learning rate method"; the same as torch.optim.Adadelta and
    optax.adadelta.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adadelta(rho=0.75, eps=1.0), np.asarray([2.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-1.414214])
    """
    check_rate(learning_rate)
    check_share(rho=rho)
    check_eps(eps)

    def init(params: Tree) -> AdaDeltaState:
        zero = zeros(params)
        return AdaDeltaState(first_count(params, needed=callable(learning_rate)), zero, zero)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, AdaDeltaState]:
        del params
        squares = blend(rho, state.squares, squared(grads))
        way = optree.tree_map(
            lambda g, s, d: ((d + eps) / (s + eps)) ** 0.5 * g, grads, squares, state.steps
        )
        steps = blend(rho, state.steps, squared(way))
        step = scale_by_rate(learning_rate, state.k, way)
        return step, AdaDeltaState(next_count(state.k), squares, steps)

    return Rule(init, update)
