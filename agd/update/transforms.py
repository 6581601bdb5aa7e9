"""Transforms: rules that change gradients and leave the step to another; `chain` puts them in a row.

A transform keeps optax's sign: it maps gradients to gradients, and `scale_by_learning_rate`, or a rule
such as `adam` at the end of the chain, turns them downhill.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update._moments import blend, check_share, unbiased
from agd.update._rule import (
    Rule,
    check_number,
    first_count,
    named_rule,
    next_count,
    zeros,
)

__all__ = [
    "add_decayed_weights",
    "clip_by_global_norm",
    "clip_by_value",
    "ema",
    "trace",
]


class EmptyState(NamedTuple):
    """The state of a transform that remembers nothing."""


class TraceState(NamedTuple):
    """The running sum, or mean, of gradients, and the updates made so far (None if not needed)."""

    k: Array | None
    trace: Tree


def _stateless(change: Callable[[Tree, Tree], Tree]) -> Rule:
    def init(params: Tree) -> EmptyState:
        del params
        return EmptyState()

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, EmptyState]:
        return change(grads, params), state

    return Rule(init, update)


@named_rule
def clip_by_value(largest: float) -> Rule:
    r"""Clip every entry, g := clip(g, -largest, largest).

    Parameters
    ----------
    largest : float
        The largest absolute entry that is left, 0 or more.

    Returns
    -------
    Rule
        The transform; optax calls it ``clip``.

    Raises
    ------
    ValueError, TypeError
        If `largest` is no number of 0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> transform, g = clip_by_value(1.0), np.asarray([0.5, -3.0])
    >>> transform.update(g, transform.init(g))[0]
    array([ 0.5, -1. ])
    """
    check_number("largest", largest, 0.0, math.inf, open_end=True)

    def clip(g: Array) -> Array:
        return backends.clip(g, low=-largest, high=largest)

    return _stateless(lambda grads, _: optree.tree_map(clip, grads))


@named_rule
def clip_by_global_norm(largest: float) -> Rule:
    r"""Shorten a gradient that is too long, g := g min(1, largest / |g|).

    |g| is the Euclidean norm of all leaves together.

    Parameters
    ----------
    largest : float
        The largest norm that is left, 0 or more.

    Returns
    -------
    Rule
        The transform, as in optax.

    Raises
    ------
    ValueError, TypeError
        If `largest` is no number of 0 or more.

    Notes
    -----
    Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks".

    Examples
    --------
    >>> import numpy as np
    >>> transform, g = clip_by_global_norm(1.0), [np.asarray([3.0]), np.asarray([4.0])]
    >>> transform.update(g, transform.init(g))[0]
    [array([0.6]), array([0.8])]
    """
    check_number("largest", largest, 0.0, math.inf, open_end=True)

    def clip(grads: Tree, _: Tree) -> Tree:
        squares = [backends.namespace(g).sum(g * g) for g in optree.tree_leaves(grads)]
        norm = sum(squares[1:], start=squares[0]) ** 0.5
        xp = backends.namespace(norm)
        long = norm > largest
        factor = xp.where(
            long, largest / xp.where(long, norm, xp.ones_like(norm)), 1.0 + 0.0 * norm
        )
        return optree.tree_map(lambda g: g * xp.astype(factor, g.dtype), grads)

    return _stateless(clip)


@named_rule
def add_decayed_weights(weight_decay: float) -> Rule:
    r"""Add the weights' decay, g := g + weight_decay w.

    Parameters
    ----------
    weight_decay : float
        The decay, 0 or more.

    Returns
    -------
    Rule
        The transform, as in optax; its ``update`` needs the params.

    Raises
    ------
    ValueError, TypeError
        If `weight_decay` is no number of 0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> transform, g, w = add_decayed_weights(0.5), np.asarray([1.0]), np.asarray([4.0])
    >>> transform.update(g, transform.init(w), w)[0]
    array([3.])
    """
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def decay(grads: Tree, params: Tree) -> Tree:
        if params is None:
            raise ValueError("params must be given to add_decayed_weights, got None")
        return optree.tree_map(lambda g, p: g + weight_decay * p, grads, params)

    return _stateless(decay)


@named_rule
def trace(decay: float, *, nesterov: bool = False) -> Rule:
    r"""Add gradients up, with what came before worn down: t := g + decay t.

    Parameters
    ----------
    decay : float
        The share of t that an update keeps, in [0, 1).
    nesterov : bool
        Whether g + decay t is given instead of t.

    Returns
    -------
    Rule
        The transform, as in optax.

    Raises
    ------
    ValueError, TypeError
        If `decay` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> transform, g = trace(0.5), np.asarray([1.0])
    >>> t, state = transform.update(g, transform.init(g))
    >>> transform.update(g, state)[0]
    array([1.5])
    """
    check_share(decay=decay)

    def init(params: Tree) -> TraceState:
        return TraceState(None, zeros(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, TraceState]:
        del params
        new = optree.tree_map(lambda g, t: g + decay * t, grads, state.trace)
        ahead = optree.tree_map(lambda g, t: g + decay * t, grads, new) if nesterov else new
        return ahead, TraceState(None, new)

    return Rule(init, update)


@named_rule
def ema(decay: float, *, debias: bool = True) -> Rule:
    r"""Average gradients exponentially, m := decay m + (1 - decay) g.

    Parameters
    ----------
    decay : float
        The share of m that an update keeps, in [0, 1).
    debias : bool
        Whether m / (1 - decay^k) is given, which makes up for the start at 0.

    Returns
    -------
    Rule
        The transform, as in optax.

    Raises
    ------
    ValueError, TypeError
        If `decay` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> transform, g = ema(0.75), np.asarray([2.0])
    >>> transform.update(g, transform.init(g))[0]
    array([2.])
    """
    check_share(decay=decay)

    def init(params: Tree) -> TraceState:
        return TraceState(first_count(params, needed=debias), zeros(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, TraceState]:
        del params
        new = TraceState(next_count(state.k), blend(decay, state.trace, grads))
        mean = new.trace if new.k is None else unbiased(decay, new.trace, new.k)
        return mean, new

    return Rule(init, update)
