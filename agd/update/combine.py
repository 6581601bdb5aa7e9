"""Rules made of rules: in a row, over several gradients, with their rates in the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count
from agd.update._half import in_single
from agd.update._rule import Rule, check_rule, first_count, named_rule, zeros

__all__ = ["accumulate", "chain", "inject_hyperparams"]


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
    count("every", every)

    def init(params: Tree) -> AccumulateState:
        return AccumulateState(first_count(params, needed=True), zeros(params), rule.init(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, AccumulateState]:
        total = optree.tree_map(lambda t, g: t + g, state.total, grads)
        xp, k = backends.namespace(state.k), state.k + 1
        full = k == every
        mean = optree.tree_map(lambda t: t / every, total)
        step, inner = rule.update(mean, state.inner, params)
        # No branch on a value that the host would have to read: both outcomes, and a choice.
        step = _chosen(full, step, zeros(step))
        total = _chosen(full, zeros(total), total)
        inner = _chosen(full, inner, state.inner)
        return step, AccumulateState(xp.where(full, 0 * k, k), total, inner)

    return Rule(init, update)


def _chosen(condition: Array, yes: Tree, no: Tree) -> Tree:
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
    kept = names or ("learning_rate",)

    def make(*args: Any, **kwargs: Any) -> Rule:
        plain = factory(*args, **kwargs)
        known = dict(plain.hyperparameters)
        missing = [name for name in kept if name not in known]
        if missing:
            raise ValueError(
                f"{plain.name} has no hyper-parameter {missing[0]!r}, only {list(known)}"
            )

        def value(name: str, k: Array, like: Array) -> Array:
            xp = backends.namespace(like)
            if callable(known[name]):
                return known[name](xp.astype(k, like.dtype))
            where = backends.device(like)
            return backends.of(like).convert(xp, known[name], like.dtype, where)

        def init(params: Tree) -> InjectState:
            k = first_count(params, needed=True)
            like = optree.tree_leaves(params)[0]
            return InjectState(k, {name: value(name, k, like) for name in kept}, plain.init(params))

        def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, InjectState]:
            like = optree.tree_leaves(grads)[0]
            now = {
                name: value(name, state.k, like) if callable(known[name]) else old
                for name, old in state.hyperparameters.items()
            }
            rule = factory(**{**known, **now})
            step, inner = rule.update(grads, state.inner, params)
            return step, InjectState(state.k + 1, now, inner)

        return Rule(
            *in_single(init, update), f"inject_hyperparams({plain.name})", plain.hyperparameters
        )

    return make
