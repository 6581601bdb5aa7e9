"""What Adam's relatives share: their state, and a rule made of the direction that each takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd._typing import Array, Tree
from agd.update._moments import blend, check_eps, check_share, squared
from agd.update._rule import Rate, Rule, check_rate, first_count, is_zero, scale_by_rate, zeros

__all__ = ["AdamState", "decayed", "family", "moments"]


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
