"""Transforms that multiply by a rate: the learning rate at the end of a chain, or a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd._typing import Array, Tree
from agd.update._rule import (
    Rate,
    Rule,
    check_rate,
    first_count,
    named_rule,
    next_count,
    rate_at,
    scale_by_rate,
)

__all__ = ["scale_by_learning_rate", "scale_by_schedule"]


class StepState(NamedTuple):
    """Updates made so far; None where nothing depends on it."""

    k: Array | None


@named_rule
def scale_by_schedule(schedule: Callable[[Any], Any]) -> Rule:
    r"""Multiply by a schedule, g := schedule(k) g, with k from 0; the sign stays.

    Parameters
    ----------
    schedule : callable
        Step to factor.

    Returns
    -------
    Rule
        The transform, as in optax.

    Raises
    ------
    TypeError
        If `schedule` cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import exponential
    >>> transform, g = scale_by_schedule(exponential(1.0, 0.5)), np.asarray([1.0])
    >>> _, state = transform.update(g, transform.init(g))
    >>> transform.update(g, state)[0]
    array([0.5])
    """
    if not callable(schedule):
        raise TypeError(f"schedule must be callable, step to factor, got {schedule!r}")

    def init(params: Tree) -> StepState:
        return StepState(first_count(params, needed=True))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, StepState]:
        del params
        scaled = optree.tree_map(lambda g: rate_at(schedule, state.k, g) * g, grads)
        return scaled, StepState(next_count(state.k))

    return Rule(init, update)


@named_rule
def scale_by_learning_rate(learning_rate: Rate) -> Rule:
    r"""Turn a direction into a step downhill, u := -lr g: the end of a chain of transforms.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.

    Returns
    -------
    Rule
        The transform, as in optax.

    Raises
    ------
    ValueError, TypeError
        If the rate is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> transform, g = scale_by_learning_rate(0.1), np.asarray([1.0])
    >>> transform.update(g, transform.init(g))[0]
    array([-0.1])
    """
    check_rate(learning_rate)

    def init(params: Tree) -> StepState:
        return StepState(first_count(params, needed=callable(learning_rate)))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, StepState]:
        del params
        step = scale_by_rate(learning_rate, state.k, grads)
        return step, StepState(next_count(state.k))

    return Rule(init, update)
