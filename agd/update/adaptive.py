"""Rules with a rate for each parameter, from the sizes of its gradients: AdaGrad, RMSProp, Adam, AdamW."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update._rule import (
    Rate,
    Rule,
    check_number,
    check_rate,
    first_count,
    named_rule,
    next_count,
    scale_by_rate,
)

__all__ = ["adagrad", "adam", "adamw", "rmsprop"]


class SquaresState(NamedTuple):
    """Updates made so far (None where the rate is no schedule), and the squared gradients."""

    k: Array | None
    squares: Tree


class AdamState(NamedTuple):
    """Updates made so far, and the running means of gradients and squared gradients."""

    k: Array
    mean: Tree
    squares: Tree


def _divided(tree: Tree, squares: Tree, eps: float, *, eps_in_sqrt: bool = False) -> Tree:
    """Divide by the root of the squares; 0 / 0 is 0, as for a parameter that never had a gradient."""

    def divide(u: Array, s: Array) -> Array:
        xp = backends.namespace(s)
        root = xp.sqrt(s + eps) if eps_in_sqrt else xp.sqrt(s) + eps
        return xp.where(root > 0.0, u / xp.where(root > 0.0, root, 1.0 + 0.0 * root), 0.0 * u)

    return optree.tree_map(divide, tree, squares)


def _check_eps(eps: float) -> None:
    check_number("eps", eps, 0.0, math.inf, open_end=True)


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
    _check_eps(eps)

    def init(params: Tree) -> SquaresState:
        first = optree.tree_map(lambda p: 0.0 * p + initial_accumulator, params)
        return SquaresState(first_count(params, needed=callable(learning_rate)), first)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, SquaresState]:
        del params
        squares = optree.tree_map(lambda s, g: s + g * g, state.squares, grads)
        way = _divided(grads, squares, eps, eps_in_sqrt=eps_in_sqrt)
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
    check_number("decay", decay, 0.0, 1.0, open_end=True)
    _check_eps(eps)

    def init(params: Tree) -> SquaresState:
        zero = optree.tree_map(lambda p: 0.0 * p, params)
        return SquaresState(first_count(params, needed=callable(learning_rate)), zero)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, SquaresState]:
        del params
        squares = _blend(decay, state.squares, optree.tree_map(lambda g: g * g, grads))
        way = _divided(grads, squares, eps, eps_in_sqrt=eps_in_sqrt)
        step = scale_by_rate(learning_rate, state.k, way)
        return step, SquaresState(next_count(state.k), squares)

    return Rule(init, update)


def _blend(share: float, old: Tree, new: Tree) -> Tree:
    return optree.tree_map(lambda a, b: share * a + (1.0 - share) * b, old, new)


def _adam(learning_rate: Rate, b1: float, b2: float, eps: float, weight_decay: float) -> Rule:
    """Make Adam, or AdamW where the weights decay beside the gradient step."""
    check_rate(learning_rate)
    check_number("b1", b1, 0.0, 1.0, open_end=True)
    check_number("b2", b2, 0.0, 1.0, open_end=True)
    _check_eps(eps)
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def init(params: Tree) -> AdamState:
        zero = optree.tree_map(lambda p: 0.0 * p, params)
        return AdamState(first_count(params, needed=True), zero, zero)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, AdamState]:
        if weight_decay and params is None:
            raise ValueError("params must be given to a rule with weight_decay, got None")
        k = state.k + 1
        mean = _blend(b1, state.mean, grads)
        squares = _blend(b2, state.squares, optree.tree_map(lambda g: g * g, grads))
        way = _divided(_unbiased(b1, mean, k), _unbiased(b2, squares, k), eps)
        if weight_decay:
            way = optree.tree_map(lambda u, p: u + weight_decay * p, way, params)
        # A schedule counts from 0, the first update; the bias correction from 1.
        step = scale_by_rate(learning_rate, state.k, way)
        return step, AdamState(k, mean, squares)

    return Rule(init, update)


def _unbiased(share: float, mean: Tree, count: Array) -> Tree:
    """Divide a running mean that began at 0 by the weight that it holds, 1 - share^count."""

    def correct(leaf: Array) -> Array:
        k = backends.namespace(leaf).astype(count, leaf.dtype)
        return leaf / (1.0 - share**k)

    return optree.tree_map(correct, mean)


@named_rule
def adam(learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    r"""Adam: momentum over the root of a running mean of squares, both freed from their start at 0.

    With k the number of this update, from 1::

        m := b1 m + (1 - b1) g          m' = m / (1 - b1^k)
        s := b2 s + (1 - b2) g²         s' = s / (1 - b2^k)
        w := w - lr m' / (sqrt(s') + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The shares of m and of s that an update keeps, in [0, 1).
    eps : float
        What keeps the quotient finite, 0 or more.

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
    Kingma and Ba (2015), "Adam: a method for stochastic optimization"; the same as optax.adam and
    torch.optim.Adam.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adam(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    return _adam(learning_rate, b1, b2, eps, 0.0)


@named_rule
def adamw(
    learning_rate: Rate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Rule:
    r"""AdamW: Adam, with the weights' decay beside the adaptive step rather than inside it.

    ::

        w := w - lr (m' / (sqrt(s') + eps) + weight_decay w)

    with m' and s' as in `adam`. Every parameter decays, an intercept too.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The shares of m and of s that an update keeps, in [0, 1).
    eps : float
        What keeps the quotient finite, 0 or more.
    weight_decay : float
        The decay, 0 or more; it is multiplied by lr.

    Returns
    -------
    Rule
        The rule; its ``update`` needs the params.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization". The default decay is
    torch.optim.AdamW's; optax.adamw's is 1e-4.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = adamw(0.1, weight_decay=0.5), np.asarray([2.0])
    >>> rule.update(np.asarray([10.0]), rule.init(w), w)[0].round(6)
    array([-0.2])
    """
    return _adam(learning_rate, b1, b2, eps, weight_decay)
