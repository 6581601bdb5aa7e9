"""Adam with another denominator: AMSGrad, AdaMax, RAdam, Yogi."""

from __future__ import annotations

import math
from typing import Any

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update._adam import AdamState, family, moments
from agd.update._moments import blend, check_share, divided, squared, unbiased
from agd.update._rule import Rate, Rule, check_number, named_rule
from agd.update._vector import sign

__all__ = ["adamax", "amsgrad", "radam", "yogi"]


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
