"""Running means of gradients and of their squares, and the quotients made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update.rule import (
    Rate,
    Rule,
    check_number,
    check_rate,
    first_count,
    is_zero,
    scale_by_rate,
    zeros,
)

__all__ = [
    "AdamState",
    "blend",
    "check_eps",
    "check_share",
    "decayed",
    "divided",
    "family",
    "moments",
    "squared",
    "unbiased",
]


def squared(tree: Tree) -> Tree:
    """Square every leaf."""
    return optree.tree_map(lambda g: g * g, tree)


def divided(tree: Tree, squares: Tree, eps: float, *, eps_in_sqrt: bool = False) -> Tree:
    """Divide by the root of the squares; 0 / 0 is 0, as for a parameter that never had a gradient."""

    def divide(u: Array, s: Array) -> Array:
        xp = backends.namespace(s)
        root = xp.sqrt(s + eps) if eps_in_sqrt else xp.sqrt(s) + eps
        return xp.where(root > 0.0, u / xp.where(root > 0.0, root, 1.0 + 0.0 * root), 0.0 * u)

    return optree.tree_map(divide, tree, squares)


def check_eps(eps: float) -> None:
    """Refuse an eps that is no number of 0 or more."""
    check_number("eps", eps, 0.0, math.inf, open_end=True)


def check_share(**shares: float) -> None:
    """Refuse shares, by their names, that are not in [0, 1)."""
    for name, share in shares.items():
        check_number(name, share, 0.0, 1.0, open_end=True)


def blend(share: float, old: Tree, new: Tree) -> Tree:
    """Return share old + (1 - share) new, leaf by leaf: one step of a running mean."""
    return optree.tree_map(lambda a, b: share * a + (1.0 - share) * b, old, new)


def unbiased(share: float, mean: Tree, k: Array) -> Tree:
    """Divide a running mean that began at 0 by the weight that it holds, 1 - share^count."""

    def correct(leaf: Array) -> Array:
        return leaf / (1.0 - share ** backends.namespace(leaf).astype(k, leaf.dtype))

    return optree.tree_map(correct, mean)


class AdamState(NamedTuple):
    """Updates made so far, and the running means of gradients and of their squares (or sizes)."""

    k: Array
    mean: Tree
    squares: Tree


Direction = Callable[[Tree, AdamState, Tree], tuple[Tree, AdamState]]
"""(gradients, state with k of this update, params) -> (direction, state)."""


def family(
    learning_rate: Rate, b1: float, b2: float, eps: float, direction: Direction, start: float = 0.0
) -> Rule:
    """Make a rule of Adam's state from the direction that it takes."""
    check_rate(learning_rate)
    check_share(b1=b1, b2=b2)
    check_eps(eps)

    def init(params: Tree) -> AdamState:
        first = (
            zeros(params) if is_zero(start) else optree.tree_map(lambda p: 0.0 * p + start, params)
        )
        return AdamState(first_count(params, needed=True), first, first)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, AdamState]:
        way, new = direction(grads, state._replace(k=state.k + 1), params)
        # A schedule counts from 0, the first update; the bias correction from 1.
        return scale_by_rate(learning_rate, state.k, way), new

    return Rule(init, update)


def moments(b1: float, b2: float, grads: Tree, state: AdamState) -> AdamState:
    """Return the state with Adam's two running means brought up to date."""
    mean, squares = blend(b1, state.mean, grads), blend(b2, state.squares, squared(grads))
    return state._replace(mean=mean, squares=squares)


def decayed(way: Tree, params: Tree, weight_decay: float) -> Tree:
    """Add the weights' own decay to a direction."""
    if params is None:
        raise ValueError("params must be given to a rule with weight_decay, got None")
    return optree.tree_map(lambda u, p: u + weight_decay * p, way, params)
