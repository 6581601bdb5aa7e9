"""Adam, and what keeps its denominator: AdamW, NAdam, LAMB."""

from __future__ import annotations

import math

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update._adam import AdamState, decayed, family, moments
from agd.update._moments import blend, divided, unbiased
from agd.update._rule import Rate, Rule, check_number, is_zero, named_rule

__all__ = ["adam", "adamw", "lamb", "nadam"]


def _adam(learning_rate: Rate, b1: float, b2: float, eps: float, weight_decay: float = 0.0) -> Rule:
    """Make Adam, or AdamW where the weights decay beside the gradient step."""
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        new = moments(b1, b2, grads, state)
        way = divided(unbiased(b1, new.mean, new.k), unbiased(b2, new.squares, new.k), eps)
        return (decayed(way, params, weight_decay) if not is_zero(weight_decay) else way), new

    return family(learning_rate, b1, b2, eps, direction)


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
    return _adam(learning_rate, b1, b2, eps)


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


@named_rule
def nadam(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""NAdam: Adam with Nesterov's look ahead.

    ::

        m, s as in adam
        m' = b1 m / (1 - b1^(k+1)) + (1 - b1) g / (1 - b1^k)
        w := w - lr m' / (sqrt(s / (1 - b2^k)) + eps)

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
    Dozat (2016), "Incorporating Nesterov momentum into Adam"; the same as optax.nadam.
    torch.optim.NAdam also lets b1 grow with the steps.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = nadam(0.1, b1=0.0), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        del params
        new = moments(b1, b2, grads, state)
        ahead = blend(b1, unbiased(b1, new.mean, new.k + 1), unbiased(b1, grads, new.k))
        return divided(ahead, unbiased(b2, new.squares, new.k), eps), new

    return family(learning_rate, b1, b2, eps, direction)


@named_rule
def lamb(
    learning_rate: Rate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> Rule:
    r"""LAMB: AdamW whose step in every leaf is in proportion to the leaf's size.

    ::

        u = m' / (sqrt(s') + eps) + weight_decay w
        w := w - lr |w| / |u| u

    leaf by leaf, with m' and s' as in `adam`, and u itself where a norm is 0.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The shares of m and of s that an update keeps, in [0, 1).
    eps : float
        What keeps the quotient finite, 0 or more.
    weight_decay : float
        The decay, 0 or more.

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
    You et al. (2020), "Large batch optimization for deep learning"; the same as optax.lamb.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = lamb(0.1), np.asarray([3.0, 4.0])
    >>> rule.update(np.asarray([10.0, 0.0]), rule.init(w), w)[0].round(6)
    array([-0.5, -0. ])
    """
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        new = moments(b1, b2, grads, state)
        way = divided(unbiased(b1, new.mean, new.k), unbiased(b2, new.squares, new.k), eps)
        return optree.tree_map(_trusted, decayed(way, params, weight_decay), params), new

    return family(learning_rate, b1, b2, eps, direction)


def _trusted(way: Array, param: Array) -> Array:
    """Scale a direction to the size of its leaf; leave it as it is where either is 0."""
    xp = backends.namespace(way)
    size, length = xp.sum(param * param) ** 0.5, xp.sum(way * way) ** 0.5
    usable = (size > 0.0) & (length > 0.0)
    one = xp.ones_like(size)
    return xp.where(usable, size / xp.where(usable, length, one), one) * way
