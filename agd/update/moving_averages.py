"""Exponential moving averages of gradients and of their squares, from which Adam and its variants are composed.

The rules in ``agd.update.rules`` and ``agd.update.adaptive`` compose their directions of these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update.rule import (
    Rate,
    Rule,
    check_number,
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
    "divide_by_rms",
    "filled",
    "moving_average",
    "squared",
    "update_estimates",
]


def filled(params: Tree, value: float) -> Tree:
    """Return a tree in the structure of the params whose every entry is `value`."""
    return zeros(params) if is_zero(value) else optree.tree_map(lambda p: 0.0 * p + value, params)


def squared(tree: Tree) -> Tree:
    """Square every leaf."""
    return optree.tree_map(lambda g: g * g, tree)


def divide_by_rms(tree: Tree, squares: Tree, eps: float, *, eps_in_sqrt: bool = False) -> Tree:
    """Divide by sqrt(squares) + eps; 0 / 0 is 0, as for a parameter whose gradient has always been 0."""

    def divide(u: Array, s: Array) -> Array:
        xp = backends.namespace(s)
        root = xp.sqrt(s + eps) if eps_in_sqrt else xp.sqrt(s) + eps
        if eps > float(xp.finfo(s.dtype).smallest_normal):  # no root is 0
            return u / root
        return xp.where(root > 0.0, u / xp.where(root > 0.0, root, 1.0 + 0.0 * root), 0.0 * u)

    return optree.tree_map(divide, tree, squares)


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


def debias(decay: float, mean: Tree, k: Array) -> Tree:
    """Divide a moving average that began at 0 by the weight of its k terms, 1 - decay^k."""

    def correct(leaf: Array) -> Array:
        return leaf / (1.0 - decay ** backends.namespace(leaf).astype(k, leaf.dtype))

    return optree.tree_map(correct, mean)


class MomentEstimates(NamedTuple):
    """Moving averages of the gradients and of their squares, or for AdaMax of their absolute values."""

    mean: Tree
    squares: Tree


def update_estimates(b1: float, b2: float, grads: Tree, memory: MomentEstimates) -> MomentEstimates:
    """Return both moving averages after one more gradient."""
    return MomentEstimates(
        moving_average(b1, memory.mean, grads), moving_average(b2, memory.squares, squared(grads))
    )


AdamDirection: TypeAlias = Callable[[Tree, Any, Tree, Array], tuple[Tree, Any]]
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
