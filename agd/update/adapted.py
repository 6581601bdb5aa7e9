"""Any rule, with its rate adapted to what it achieves: the step that needs no choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count
from agd.update._rule import Rule, apply_updates, check_rule
from agd.update.descent import aligned, choose

__all__ = ["Adapted"]


class AdaptedState(NamedTuple):
    """Value and gradient at the best point, the point that the rule is at, and the scale in use."""

    value: Array
    grad: Tree
    point: Tree
    point_grad: Tree
    inner: Any
    scale: Array
    stalled: Array
    streak: Array
    iterations: Array
    evaluations: Array
    failed: Array
    walled: Array


@dataclass(frozen=True)
class Adapted:
    r"""Move by a rule, with its updates scaled by what they achieve; the best point is kept.

    ::

        x := x + c u,    u the rule's update

    c starts at 1. It doubles after `patience` steps in a row that each found a new best value; after as
    many without one, or a value that is not finite, it halves and the rule starts anew from the best
    point. So a rule with a rate of its own converges from whatever rate it was given.

    Parameters
    ----------
    rule : Rule
        The rule.
    patience : int
        How many steps make a verdict, 1 or more.

    Raises
    ------
    TypeError, ValueError
        If `rule` is no rule, or `patience` no whole number above 0.

    Notes
    -----
    Halving the rate at a plateau is common practice in training (``ReduceLROnPlateau`` in PyTorch);
    returning to the best point, and growing again, make it safe for any first rate.

    Examples
    --------
    >>> from agd.update import Adapted, sign_descent
    >>> Adapted(sign_descent(0.1)).name
    'sign_descent(learning_rate=0.1), rate adapted'
    """

    rule: Rule
    patience: int = 10

    rescaled: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        check_rule("rule", self.rule)
        count("patience", self.patience)

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"{self.rule!r}, rate adapted"

    def init(self, objective: Any, params: Tree) -> AdaptedState:
        """Evaluate the objective at the first point."""
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        zero, no = xp.zeros_like(value), xp.zeros_like(value, dtype=xp.bool)
        return AdaptedState(
            value, grad, params, grad, self.rule.init(params), zero + 1.0, zero, zero, zero, zero + 1.0, no, no
        )  # fmt: skip

    def step(self, objective: Any, params: Tree, state: AdaptedState) -> tuple[Tree, AdaptedState]:
        """Move the rule's point, and keep it where it is the best so far."""
        xp = backends.namespace(state.value)
        updates, inner = self.rule.update(state.point_grad, state.inner, state.point)
        moved = optree.tree_map(lambda u: aligned(state.scale, u) * u, updates)
        point = apply_updates(state.point, moved)
        value, grad = objective.value_and_grad(point)
        better = xp.isfinite(value) & (value < state.value)
        stalled = xp.where(better, xp.zeros_like(value), state.stalled + 1.0)
        streak = xp.where(better, state.streak + 1.0, xp.zeros_like(value))
        back = (stalled >= self.patience) | ~xp.isfinite(value)
        up = streak >= self.patience
        one = xp.ones_like(value)
        factor = xp.where(back, 0.5 * one, xp.where(up, 2.0 * one, one))
        params = choose(better, point, params)
        best_grad = choose(better, grad, state.grad)
        eps = float(xp.finfo(value.dtype).eps)
        return params, AdaptedState(
            value=xp.where(better, value, state.value),
            grad=best_grad,
            point=choose(back, params, point),
            point_grad=choose(back, best_grad, grad),
            inner=self._restarted(back, params, inner),
            scale=state.scale * factor,
            stalled=xp.where(back, xp.zeros_like(value), stalled),
            streak=xp.where(up, xp.zeros_like(value), streak),
            iterations=state.iterations + xp.astype(better, value.dtype),
            evaluations=state.evaluations + 1.0,
            failed=state.failed | (state.scale < eps * eps),
            walled=~better & (state.walled | ~xp.isfinite(value)),
        )

    def _restarted(self, back: Array, params: Tree, inner: Any) -> Any:
        """Return the rule's state, started anew where a problem went back; shared leaves are kept."""
        xp, batch = backends.namespace(back), tuple(back.shape)

        def pick(new: Array, old: Array) -> Array:
            if tuple(old.shape)[: len(batch)] != batch:
                return old
            return xp.where(aligned(back, old), new, old)

        return optree.tree_map(pick, self.rule.init(params), inner)
