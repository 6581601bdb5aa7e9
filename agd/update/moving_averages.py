"""Exponential moving averages of gradients and of their squares, from which Adam and its variants are composed.

The rules in ``agd.update.rules`` and ``agd.update.adaptive`` compose their directions of these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update.rule import (
    Count,
    Rate,
    Rule,
    check_number,
    count_like,
    is_zero,
    rule_from_direction,
    zeros,
)

__all__ = [
    "MomentEstimates",
    "adam_rule",
    "add_weight_decay",
    "check_decay_rates",
    "check_eps",
    "debias",
    "debiased_ratio",
    "divide_by_rms",
    "filled",
    "moving_average",
    "quotient",
    "squared",
    "update_estimates",
    "weight_of_terms",
]


def filled(params: Tree, value: float) -> Tree:
    """Return a tree in the structure of the params whose every entry is `value`."""
    return zeros(params) if is_zero(value) else optree.tree_map(lambda p: 0.0 * p + value, params)


def squared(tree: Tree) -> Tree:
    """Square every entry; of a complex one, its absolute value."""
    return optree.tree_map(_squared_leaf, tree)


def _squared_leaf(g: Array) -> Array:
    xp = backends.namespace(g)
    return g * xp.conj(g) if xp.isdtype(g.dtype, "complex floating") else g * g


def divide_by_rms(tree: Tree, squares: Tree, eps: float, *, eps_in_sqrt: bool = False) -> Tree:
    """Divide by sqrt(squares) + eps; 0 / 0 is 0, as for a parameter whose gradient has always been 0."""

    def divide(u: Array, s: Array) -> Array:
        xp = backends.namespace(s)
        root = xp.sqrt(s + eps) if eps_in_sqrt else xp.sqrt(s) + eps
        return quotient(u, root, eps)

    return optree.tree_map(divide, tree, squares)


def quotient(u: Array, divisor: Array, least: Any) -> Array:
    """Return u / divisor, and 0 where the divisor is 0, which it is not if it is known to be `least` or more."""
    xp = backends.namespace(divisor)
    # An array in the place of a number, as `inject_hyperparams` has them, cannot be read here.
    if isinstance(least, Real) and float(least) > float(xp.finfo(divisor.dtype).smallest_normal):
        return u / divisor
    positive = divisor > 0.0
    return xp.where(positive, u / xp.where(positive, divisor, 1.0 + 0.0 * divisor), 0.0 * u)


def check_eps(eps: float) -> None:
    """Raise unless eps is a number of 0 or more."""
    check_number("eps", eps, 0.0, math.inf, open_end=True)


def check_decay_rates(**rates: float) -> None:
    """Raise unless the decay rates of moving averages, given by name, are in [0, 1)."""
    for name, rate in rates.items():
        check_number(name, rate, 0.0, 1.0, open_end=True)


def moving_average(decay: float, mean: Tree, new: Tree) -> Tree:
    """Return decay mean + (1 - decay) new: one step of an exponential moving average."""
    return optree.tree_map(lambda m, g: decay * m + (1.0 - decay) * g, mean, new)


def weight_of_terms(decay: float, k: Count, like: Array) -> Any:
    """Return 1 - decay^k, the weight of the k terms of a moving average that began at 0."""
    return 1.0 - decay ** (k if isinstance(k, int) else count_like(k, like))


def debias(decay: float, mean: Tree, k: Count) -> Tree:
    """Divide a moving average that began at 0 by the weight of its k terms."""
    return optree.tree_map(lambda leaf: leaf / weight_of_terms(decay, k, leaf), mean)


def debiased_ratio(b1: float, b2: float, mean: Tree, squares: Tree, k: Count, eps: float) -> Tree:
    """Return m' / (sqrt(s') + eps), where m' and s' are the moving averages m and s after `debias`.

    With the weights u and v of their terms that is m / (u / sqrt(v) sqrt(s) + u eps): for a count on the host
    two operations less, since u and v are numbers.
    """

    def divide(m: Array, s: Array) -> Array:
        u, v = weight_of_terms(b1, k, m), weight_of_terms(b2, k, s)
        root = (u / v**0.5) * backends.namespace(s).sqrt(s) + u * eps
        return quotient(m, root, (1.0 - b1) * eps)

    return optree.tree_map(divide, mean, squares)


class MomentEstimates(NamedTuple):
    """Moving averages of the gradients and of their squares, or for AdaMax of their absolute values."""

    mean: Tree
    squares: Tree


def update_estimates(b1: float, b2: float, grads: Tree, memory: MomentEstimates) -> MomentEstimates:
    """Return both moving averages after one more gradient."""
    return MomentEstimates(
        moving_average(b1, memory.mean, grads), moving_average(b2, memory.squares, squared(grads))
    )


AdamDirection: TypeAlias = Callable[[Tree, Any, Tree, Any], tuple[Tree, Any]]
"""As `agd.update.rule.Direction`, with a counter."""


def adam_rule(
    learning_rate: Rate,
    b1: float,
    b2: float,
    eps: float,
    direction: AdamDirection,
    start: float = 0.0,
) -> Rule:
    """Make a variant of Adam from its direction, whose state starts as `MomentEstimates`.

    Parameters
    ----------
    learning_rate : float, array or schedule
        The rate.
    b1, b2 : float
        The decay rates of the two moving averages, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    direction : callable
        As for `agd.update.rule.rule_from_direction`; the number of the update corrects the bias.
    start : float
        The initial value of all entries of both averages.
    """
    check_decay_rates(b1=b1, b2=b2)
    check_eps(eps)

    def memory(params: Tree) -> MomentEstimates:
        initial = filled(params, start)
        return MomentEstimates(initial, initial)

    return rule_from_direction(learning_rate, direction, memory, counted=True)


def add_weight_decay(direction: Tree, params: Tree, weight_decay: float) -> Tree:
    """Return direction + weight_decay params, the direction of decoupled weight decay; itself for 0."""
    if is_zero(weight_decay):
        return direction
    if params is None:
        raise ValueError("params must be given to a rule with weight_decay, got None")
    return optree.tree_map(lambda u, p: u + weight_decay * p, direction, params)
