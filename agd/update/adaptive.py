"""Rules with a rate for each parameter, from the sizes of its gradients: AdaGrad, RMSProp, AdaDelta."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._tree import sign
from agd._typing import Array, Tree
from agd.update.moving_averages import (
    AdamState,
    blend,
    check_eps,
    check_share,
    decayed,
    divided,
    family,
    moments,
    squared,
    unbiased,
)
from agd.update.rule import (
    Rate,
    Rule,
    check_number,
    check_rate,
    first_count,
    is_zero,
    named_rule,
    next_count,
    scale_by_rate,
    zeros,
)

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "lamb",
    "nadam",
    "radam",
    "rmsprop",
    "yogi",
]


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


@named_rule
def amsgrad(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""AMSGrad: Adam whose denominator never falls, so that its rates never rise.

    ::

        m, s as in adam
        c := max(c, s / (1 - b2^k))
        w := w - lr m / (1 - b1^k) / (sqrt(c) + eps)

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
    Reddi, Kale and Kumar (2018), "On the convergence of Adam and beyond"; the same as optax.amsgrad.
    torch.optim.Adam(amsgrad=True) takes the maximum before the correction for the start at 0.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = amsgrad(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """

    def direction(grads: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        del params
        (squares, highest), k = state.squares, state.k
        mean, squares = blend(b1, state.mean, grads), blend(b2, squares, squared(grads))
        highest = optree.tree_map(_larger, highest, unbiased(b2, squares, k))
        way = divided(unbiased(b1, mean, k), highest, eps)
        return way, AdamState(k, mean, (squares, highest))

    rule = family(learning_rate, b1, b2, eps, direction)

    def init(params: Tree) -> AdamState:
        state = rule.init(params)
        return AdamState(state.k, state.mean, (state.squares, state.squares))

    return Rule(init, rule.update)


@named_rule
def adamax(
    learning_rate: Rate = 2e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""AdaMax: Adam with the largest recent gradient in the place of the root mean square.

    ::

        m := b1 m + (1 - b1) g
        s := max(b2 s, |g| + eps)
        w := w - lr m / (1 - b1^k) / s

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
    Kingma and Ba (2015), "Adam: a method for stochastic optimization", section 7.1; the same as
    optax.adamax and torch.optim.Adamax.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adamax(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        del params
        mean = blend(b1, state.mean, grads)
        size = optree.tree_map(
            lambda s, g: _larger(b2 * s, backends.namespace(g).abs(g) + eps), state.squares, grads
        )
        way = optree.tree_map(_quotient, unbiased(b1, mean, state.k), size)
        return way, AdamState(state.k, mean, size)

    return family(learning_rate, b1, b2, eps, direction)


@named_rule
def radam(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""RAdam: Adam that waits with the division until the mean of squares can be trusted.

    With rho = 2 / (1 - b2) - 1 and rho_k = rho - 2 k b2^k / (1 - b2^k)::

        u = r_k m' / (sqrt(s') + eps)   if rho_k >= 5, else   m'
        w := w - lr u

    where m' and s' are as in `adam` and r_k² = (rho_k - 4) (rho_k - 2) rho / ((rho - 4) (rho - 2)
    rho_k).

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
    Liu et al. (2020), "On the variance of the adaptive learning rate and beyond"; the same as
    optax.radam, and for eps = 0 as torch.optim.RAdam.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = radam(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-1.])
    """
    check_share(b2=b2)
    limit = 2.0 / (1.0 - b2) - 1.0

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        del params
        new = moments(b1, b2, grads, state)
        mean = unbiased(b1, new.mean, new.k)
        way = divided(mean, unbiased(b2, new.squares, new.k), eps)
        return optree.tree_map(lambda m, u: _rectified(limit, b2, new.k, m, u), mean, way), new

    return family(learning_rate, b1, b2, eps, direction)


@named_rule
def yogi(
    learning_rate: Rate = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-3,
    initial_accumulator: float = 1e-6,
) -> Rule:
    r"""Yogi: Adam whose mean of squares moves by steps of g² whatever its size.

    ::

        s := s - (1 - b2) sign(s - g²) g²

    and the rest as in `adam`.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The shares of m and of s that an update keeps, in [0, 1).
    eps : float
        What keeps the quotient finite, 0 or more.
    initial_accumulator : float
        m and s before the first update, 0 or more.

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
    Zaheer et al. (2018), "Adaptive methods for nonconvex optimization"; the same as optax.yogi.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = yogi(0.1, eps=0.0, initial_accumulator=0.0), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    check_number("initial_accumulator", initial_accumulator, 0.0, math.inf, open_end=True)

    def direction(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        del params
        squares = optree.tree_map(
            lambda s, g: s - (1.0 - b2) * sign(s - g * g) * g * g,
            state.squares,
            grads,
        )
        new = AdamState(state.k, blend(b1, state.mean, grads), squares)
        return divided(unbiased(b1, new.mean, new.k), unbiased(b2, squares, new.k), eps), new

    return family(learning_rate, b1, b2, eps, direction, start=initial_accumulator)


def _larger(a: Array, b: Array) -> Array:
    return backends.namespace(a).maximum(a, b)


def _quotient(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0: with eps = 0, a parameter that never had a gradient."""
    xp = backends.namespace(b)
    return xp.where(b > 0.0, a / xp.where(b > 0.0, b, xp.ones_like(b)), 0.0 * a)


def _rectified(limit: float, b2: float, count: Array, mean: Array, way: Array) -> Array:
    """Return r_k way where enough updates were made, the plain mean before."""
    xp = backends.namespace(mean)
    k = xp.astype(count, mean.dtype)
    rho = limit - 2.0 * k * b2**k / (1.0 - b2**k)
    trusted = rho >= 5.0
    safe = xp.where(trusted, rho, 5.0 + 0.0 * rho)
    square = (safe - 4.0) * (safe - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * safe)
    return xp.where(trusted, xp.sqrt(square) * way, mean)
