"""Rules for some leaves of a tree: a mask, or a rule for each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Tree
from agd._validation import as_bool
from agd.update._rule import Rule, check_rule
from agd.update.combine import chain

__all__ = ["masked", "multi_transform"]

Choice = Tree | Callable[[Tree], Tree]
"""A tree in the structure of the params, or a function of the params that gives one."""


def _flat(tree: Tree) -> tuple[list[Any], Any]:
    """Flatten a tree with a place for every None, so that trees with leaves left out line up."""
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=True)
    return leaves, spec


def _places(choice: Choice, params: Tree) -> list[Any]:
    """Return the choice for every leaf of the params."""
    picked, spec = _flat(choice(params) if callable(choice) else choice)
    _, wanted = _flat(params)
    if spec != wanted:
        raise ValueError(
            f"the choice of leaves must have the structure of the params, {wanted}, got {spec}"
        )
    return picked


def _picked(mask: Choice, params: Tree) -> list[bool]:
    """Return the bool for every leaf of the params; a None in their place is left out."""
    leaves, spec = _flat(params)
    picked = []
    for at, (place, leaf) in enumerate(zip(_places(mask, params), leaves, strict=True)):
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


def _only(tree: Tree, keep: list[bool]) -> Tree:
    """Leave out the leaves that are not kept: a None stands in their place."""
    if tree is None:
        return None
    leaves, spec = _flat(tree)
    kept = [leaf if yes else None for leaf, yes in zip(leaves, keep, strict=True)]
    return optree.tree_unflatten(spec, kept)


def _merged(base: Tree, parts: list[tuple[Tree, list[bool]]]) -> Tree:
    """Take the leaves that each part keeps from it, and the others from the base."""
    leaves, spec = _flat(base)
    for part, keep in parts:
        changed, _ = _flat(part)
        leaves = [new if yes else old for new, old, yes in zip(changed, leaves, keep, strict=True)]
    return optree.tree_unflatten(spec, leaves)


class PartState(NamedTuple):
    """The states of the rules, by label; what a leaf belongs to is found anew from the params."""

    inner: dict[str, Any]


def _by_label(rules: Mapping[str, Rule], labels: Choice) -> Rule:
    def kept(params: Tree, label: str) -> list[bool]:
        return [found == label for found in _places(labels, params)]

    def init(params: Tree) -> PartState:
        unknown = {p for p in _places(labels, params) if p is not None} - set(rules)
        if unknown:
            raise ValueError(
                f"labels must be among {sorted(rules)}, got {sorted(map(str, unknown))}"
            )
        inner = {}
        for label, rule in rules.items():
            keep = kept(params, label)
            # A rule without a leaf has nothing to remember, and could not say of what kind.
            inner[label] = rule.init(_only(params, keep)) if any(keep) else ()
        return PartState(inner)

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, PartState]:
        parts, inner = [], {}
        for label, rule in rules.items():
            keep = kept(grads if params is None else params, label)
            inner[label] = state.inner[label]
            if any(keep):
                part, inner[label] = rule.update(
                    _only(grads, keep), state.inner[label], _only(params, keep)
                )
                parts.append((part, keep))
        return _merged(grads, parts), PartState(inner)

    return Rule(init, update)


def masked(rule: Rule, mask: Choice) -> Rule:
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
        _, spec = _flat(params)
        names = ["in" if keep else "out" for keep in _picked(mask, params)]
        return optree.tree_unflatten(spec, names)

    inner = _by_label({"in": rule, "out": chain()}, labels)
    return Rule(inner.init, inner.update, "masked", (("rule", rule),))


def multi_transform(rules: Mapping[str, Rule], labels: Choice) -> Rule:
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
    inner = _by_label(dict(rules), labels)
    return Rule(inner.init, inner.update, "multi_transform", (("rules", dict(rules)),))
