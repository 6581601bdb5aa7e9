"""Gradient transforms: rules that change gradients and leave the step to another rule; `chain` joins them.

A transform keeps optax's sign: it maps gradients to gradients, and `scale_by_learning_rate`, or a rule
such as `adam` at the end of the chain, turns them downhill.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import as_bool, as_count
from agd.update.moving_averages import check_decay_rates, moving_average
from agd.update.moving_averages import debias as debias_mean
from agd.update.rule import (
    Rate,
    Rule,
    RuleState,
    check_number,
    check_rule,
    first_count,
    first_leaf,
    gradient_direction,
    in_single_precision,
    named_rule,
    next_count,
    rate_at,
    rule_from_direction,
    zero_count,
    zeros,
)

__all__ = [
    "accumulate",
    "add_decayed_weights",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "ema",
    "inject_hyperparams",
    "masked",
    "multi_transform",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "trace",
]


class EmptyState(NamedTuple):
    """The state of a transform without memory."""


class TraceState(NamedTuple):
    """The running sum, or mean, of gradients, and the updates made so far (None if not needed)."""

    k: Array | None
    trace: Tree


def _stateless_rule(change: Callable[[Tree, Tree], Tree]) -> Rule:
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

    return _stateless_rule(lambda grads, _: optree.tree_map(clip, grads))


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
        leaves = [g for g in optree.tree_leaves(grads) if 0 not in g.shape]
        if not leaves:
            return grads
        # Squares of finite entries may overflow: they are taken in units of the largest entry.
        peak = functools.reduce(_larger, (_max_abs(g) for g in leaves))
        xp = backends.namespace(peak)
        unit = xp.where((peak > 0.0) & xp.isfinite(peak), peak, xp.ones_like(peak))
        squares = [
            backends.namespace(g).sum((abs(g) / xp.astype(unit, abs(g).dtype)) ** 2) for g in leaves
        ]
        norm, limit = functools.reduce(operator.add, squares) ** 0.5, largest / unit
        long = norm > limit
        factor = xp.where(long, limit / xp.where(long, norm, xp.ones_like(norm)), 1.0 + 0.0 * norm)
        return optree.tree_map(lambda g: g * xp.astype(factor, g.dtype), grads)

    return _stateless_rule(clip)


def _max_abs(g: Array) -> Array:
    return backends.namespace(g).max(abs(g))


def _larger(a: Array, b: Array) -> Array:
    return backends.namespace(a).maximum(a, b)


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

    return _stateless_rule(decay)


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
    check_decay_rates(decay=decay)

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
    check_decay_rates(decay=decay)

    def init(params: Tree) -> TraceState:
        return TraceState(first_count(params, needed=debias), zeros(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, TraceState]:
        del params
        new = TraceState(next_count(state.k), moving_average(decay, state.trace, grads))
        mean = new.trace if new.k is None else debias_mean(decay, new.trace, new.k)
        return mean, new

    return Rule(init, update)


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

    def init(params: Tree) -> RuleState:
        return RuleState(zero_count(params), ())

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, RuleState]:
        del params
        scaled = optree.tree_map(lambda g: rate_at(schedule, state.k, g) * g, grads)
        return scaled, RuleState(next_count(state.k), ())

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
    return rule_from_direction(learning_rate, gradient_direction)


@named_rule
def chain(*rules: Rule) -> Rule:
    """Apply rules one after another: each sees what the one before it gives.

    Parameters
    ----------
    *rules : Rule
        Transforms, and at the end a rule that steps downhill.

    Returns
    -------
    Rule
        The chain; its state is a tuple of theirs.

    Raises
    ------
    TypeError
        If one of them is no rule.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import clip_by_value, gradient_descent
    >>> rule, g = chain(clip_by_value(1.0), gradient_descent(0.1)), np.asarray([5.0])
    >>> rule.update(g, rule.init(g))[0]
    array([-0.1])
    """
    for rule in rules:
        check_rule("rules", rule)

    def init(params: Tree) -> tuple[Any, ...]:
        return tuple(rule.init(params) for rule in rules)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, tuple[Any, ...]]:
        new = []
        for rule, old in zip(rules, state, strict=True):
            grads, inner = rule.update(grads, old, params)
            new.append(inner)
        return grads, tuple(new)

    return Rule(init, update)


class AccumulateState(NamedTuple):
    """Gradients since the last step: how many, and their sum; and the rule's state."""

    k: Array
    total: Tree
    inner: Any


@named_rule
def accumulate(rule: Rule, every: int) -> Rule:
    """Step once for every so many gradients, by their mean; the updates between are 0.

    Parameters
    ----------
    rule : Rule
        The rule that steps.
    every : int
        How many gradients make a step.

    Returns
    -------
    Rule
        The rule; optax's ``MultiSteps``.

    Raises
    ------
    TypeError, ValueError
        If `rule` is no rule, or `every` no whole number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import gradient_descent
    >>> rule, g = accumulate(gradient_descent(0.5), every=2), np.asarray([1.0])
    >>> first, state = rule.update(g, rule.init(g))
    >>> first, rule.update(3.0 * g, state)[0]
    (array([0.]), array([-1.]))
    """
    check_rule("rule", rule)
    as_count("every", every)

    def init(params: Tree) -> AccumulateState:
        return AccumulateState(zero_count(params), zeros(params), rule.init(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, AccumulateState]:
        total = optree.tree_map(lambda t, g: t + g, state.total, grads)
        xp, k = backends.namespace(state.k), state.k + 1
        full = k == every
        mean = optree.tree_map(lambda t: t / every, total)
        step, inner = rule.update(mean, state.inner, params)
        # Both outcomes are computed and one is selected, since a branch would need a read by the host.
        step = _select_tree(full, step, zeros(step))
        total = _select_tree(full, zeros(total), total)
        inner = _select_tree(full, inner, state.inner)
        return step, AccumulateState(xp.where(full, 0 * k, k), total, inner)

    return Rule(init, update)


def _select_tree(condition: Array, yes: Tree, no: Tree) -> Tree:
    xp = backends.namespace(condition)
    return optree.tree_map(lambda a, b: xp.where(condition, a, b), yes, no)


class InjectState(NamedTuple):
    """Updates made so far, the hyper-parameters as arrays, and the rule's state."""

    k: Array
    hyperparameters: dict[str, Array]
    inner: Any


def inject_hyperparams(factory: Callable[..., Rule], *names: str) -> Callable[..., Rule]:
    """Let a rule keep its learning rate, or other numbers, in its state, where they can be changed.

    Parameters
    ----------
    factory : callable
        What makes the rule, such as ``agd.update.adam``.
    *names : str
        The hyper-parameters to keep; ``"learning_rate"`` by default.

    Returns
    -------
    callable
        A factory with the same arguments. Its rule's state has ``hyperparameters``, a dict of 0-d
        arrays of the params' dtype (float32 for half precision); a changed one counts from the next
        update on, inside a compiled step too. One that was given as a schedule follows it.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import gradient_descent
    >>> rule, g = inject_hyperparams(gradient_descent)(0.1), np.asarray([1.0])
    >>> state = rule.init(g)
    >>> state.hyperparameters["learning_rate"] = np.asarray(0.5)
    >>> rule.update(g, state)[0]
    array([-0.5])
    """
    return functools.partial(_rule_with_injected, factory, names or ("learning_rate",))


def _rule_with_injected(
    factory: Callable[..., Rule], injected: tuple[str, ...], *args: Any, **kwargs: Any
) -> Rule:
    """Return the rule of `inject_hyperparams`, for the arguments of the factory."""
    base_rule = factory(*args, **kwargs)
    known = dict(base_rule.hyperparameters)
    missing = [name for name in injected if name not in known]
    if missing:
        raise ValueError(
            f"{base_rule.name} has no hyper-parameter {missing[0]!r}, only {list(known)}"
        )

    def value(name: str, k: Array, like: Array) -> Array:
        xp = backends.namespace(like)
        if callable(known[name]):
            scheduled: Array = known[name](xp.astype(k, like.dtype))
            return scheduled
        return backends.to_device_of(known[name], like, like.dtype)

    def init(params: Tree) -> InjectState:
        k = zero_count(params)
        like = first_leaf(params)
        return InjectState(
            k, {name: value(name, k, like) for name in injected}, base_rule.init(params)
        )

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, InjectState]:
        like = first_leaf(grads)
        now = {
            name: value(name, state.k, like) if callable(known[name]) else old
            for name, old in state.hyperparameters.items()
        }
        rule = factory(**{**known, **now})
        step, inner = rule.update(grads, state.inner, params)
        return step, InjectState(state.k + 1, now, inner)

    return Rule(
        *in_single_precision(init, update),
        f"inject_hyperparams({base_rule.name})",
        base_rule.hyperparameters,
        recipe=functools.partial(_rule_with_injected, factory, injected, *args, **kwargs),
    )


LeafChoice = Tree | Callable[[Tree], Tree]
"""A tree in the structure of the params, or a function of the params that gives one."""


def _flatten_with_none(tree: Tree) -> tuple[list[Any], Any]:
    """Flatten a tree with None as a leaf, so that trees in which leaves are left out have one structure."""
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=True)
    return leaves, spec


def _choice_for_leaves(choice: LeafChoice, params: Tree) -> list[Any]:
    """Return the choice for every leaf of the params."""
    picked, spec = _flatten_with_none(choice(params) if callable(choice) else choice)
    _, wanted = _flatten_with_none(params)
    if spec != wanted:
        raise ValueError(
            f"the choice of leaves must have the structure of the params, {wanted}, got {spec}"
        )
    return picked


def _mask_for_leaves(mask: LeafChoice, params: Tree) -> list[bool]:
    """Return the bool for every leaf of the params; a None in their place is left out."""
    leaves, spec = _flatten_with_none(params)
    picked = []
    for at, (place, leaf) in enumerate(zip(_choice_for_leaves(mask, params), leaves, strict=True)):
        keep = False if leaf is None and place is None else as_bool(place)
        if keep is None:
            got = f"{place!r} ({type(place).__name__})"
            if backends.is_array(place):
                got = f"an array of shape {tuple(place.shape)} and dtype {place.dtype}"
            raise TypeError(
                f"mask must hold one bool for each leaf of the params, got {got} for "
                f"{optree.treespec_accessors(spec)[at].codify('params')}"
            )
        picked.append(keep)
    return picked


def _keep_leaves(tree: Tree, keep: list[bool]) -> Tree:
    """Replace the leaves that are not kept by None."""
    if tree is None:
        return None
    leaves, spec = _flatten_with_none(tree)
    kept_leaves = [leaf if yes else None for leaf, yes in zip(leaves, keep, strict=True)]
    return optree.tree_unflatten(spec, kept_leaves)


def _merge_parts(base: Tree, parts: list[tuple[Tree, list[bool]]]) -> Tree:
    """Replace the leaves of `base` that a part keeps by those of that part."""
    leaves, spec = _flatten_with_none(base)
    for part, keep in parts:
        changed, _ = _flatten_with_none(part)
        leaves = [new if yes else old for new, old, yes in zip(changed, leaves, keep, strict=True)]
    return optree.tree_unflatten(spec, leaves)


class PartState(NamedTuple):
    """The states of the rules, by label; the label of a leaf is computed from the params at each update."""

    inner: dict[str, Any]


def _rule_by_label(rules: Mapping[str, Rule], labels: LeafChoice) -> Rule:
    def has_label(params: Tree, label: str) -> list[bool]:
        return [found == label for found in _choice_for_leaves(labels, params)]

    def init(params: Tree) -> PartState:
        unknown = {p for p in _choice_for_leaves(labels, params) if p is not None} - set(rules)
        if unknown:
            raise ValueError(
                f"labels must be among {sorted(rules)}, got {sorted(map(str, unknown))}"
            )
        inner = {}
        for label, rule in rules.items():
            keep = has_label(params, label)
            # A rule without leaves has no state: nothing tells the dtype and the device of its counter.
            inner[label] = rule.init(_keep_leaves(params, keep)) if any(keep) else ()
        return PartState(inner)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, PartState]:
        parts, inner = [], {}
        for label, rule in rules.items():
            keep = has_label(grads if params is None else params, label)
            inner[label] = state.inner[label]
            if any(keep):
                part, inner[label] = rule.update(
                    _keep_leaves(grads, keep), state.inner[label], _keep_leaves(params, keep)
                )
                parts.append((part, keep))
        return _merge_parts(grads, parts), PartState(inner)

    return Rule(init, update)


def masked(rule: Rule, mask: LeafChoice) -> Rule:
    """Apply a rule to some leaves only; the gradients of the others pass through as they are.

    Parameters
    ----------
    rule : Rule
        A rule or a transform.
    mask : tree of bool, or callable
        In the structure of the params, or a function of the params that gives such a tree; a bool of
        NumPy, or of shape () of any library, is one too.

    Returns
    -------
    Rule
        The rule, as in optax.

    Raises
    ------
    TypeError, ValueError
        If `rule` is no rule; when the rule meets params, if the mask has another structure than they
        have, or holds what is no bool.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import add_decayed_weights
    >>> w = {"coef": np.asarray([2.0]), "intercept": np.asarray([2.0])}
    >>> rule = masked(add_decayed_weights(0.5), {"coef": True, "intercept": False})
    >>> rule.update(w, rule.init(w), w)[0]
    {'coef': array([3.]), 'intercept': array([2.])}
    """
    check_rule("rule", rule)

    def labels(params: Tree) -> Tree:
        _, spec = _flatten_with_none(params)
        names = ["in" if keep else "out" for keep in _mask_for_leaves(mask, params)]
        return optree.tree_unflatten(spec, names)

    inner = _rule_by_label({"in": rule, "out": chain()}, labels)
    recipe = functools.partial(masked, rule, mask)
    return Rule(inner.init, inner.update, "masked", (("rule", rule),), recipe=recipe)


def multi_transform(rules: Mapping[str, Rule], labels: LeafChoice) -> Rule:
    """Apply to every leaf the rule of its label.

    Parameters
    ----------
    rules : mapping of str to Rule
        A rule for each label.
    labels : tree of str, or callable
        In the structure of the params, or a function of the params that gives such a tree.

    Returns
    -------
    Rule
        The rule, as in optax.

    Raises
    ------
    TypeError, ValueError
        If `rules` is no mapping, a value is no rule, a label has none, or the labels have another
        structure.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.update import gradient_descent
    >>> w = {"a": np.asarray([1.0]), "b": np.asarray([1.0])}
    >>> rules = {"slow": gradient_descent(0.1), "fast": gradient_descent(1.0)}
    >>> rule = multi_transform(rules, {"a": "slow", "b": "fast"})
    >>> rule.update(w, rule.init(w))[0]
    {'a': array([-0.1]), 'b': array([-1.])}
    """
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules must map labels to rules, got {rules!r} ({type(rules).__name__})")
    for rule in rules.values():
        check_rule("rules", rule)
    inner = _rule_by_label(dict(rules), labels)
    recipe = functools.partial(multi_transform, rules, labels)
    arguments = (("rules", dict(rules)),)
    return Rule(inner.init, inner.update, "multi_transform", arguments, recipe=recipe)
