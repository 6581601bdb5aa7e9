"""The squared loss as a quadratic: which rules have a closed form on it, and its products."""

from __future__ import annotations

from numbers import Real
from typing import Any

from agd import backends
from agd._typing import Params
from agd._validation import choice
from agd.gradient.moments import Moments
from agd.update._rule import AUTO, Rule
from agd.update._spectrum import Form
from agd.update.rules import gradient_descent, momentum, nesterov

__all__ = ["Quadratic", "as_rate", "check_finite", "constant_rule", "is_constant"]

RULES = {
    "gd": gradient_descent,
    "gradient_descent": gradient_descent,
    "momentum": momentum,
    "nesterov": nesterov,
}


def is_constant(rule: Any) -> bool:
    """Return whether a rule is one of `RULES`, with constant step and beta."""
    if not isinstance(rule, Rule) or rule.name not in RULES:
        return False
    known = dict(rule.hyperparameters)
    return not callable(known["learning_rate"]) and isinstance(known.get("beta", 0.0), Real)


class Quadratic:
    """The squared loss as its Hessian's products: what a power iteration asks for."""

    def __init__(self, moments: Moments, form: Form) -> None:
        self.moments, self.form = moments, form

    def zeros(self) -> Params:
        """Return parameters at zero."""
        c = self.moments.c
        xp = backends.namespace(c)
        constant = xp.zeros_like(self.moments.mean_y) if self.form.intercept else None
        return Params(xp.zeros_like(c), constant)

    def bound_product(self, params: Params) -> Params:
        """Multiply by the Hessian."""
        coef, z = self.moments.curvature_product(params)
        return Params(coef + self.form.alpha * params.coef, z)


def constant_rule(rule: Any) -> Rule:
    """Return the rule, or say why it has no closed form."""
    if isinstance(rule, str):
        rule = RULES[choice("rule", rule, tuple(RULES))]()
    if not is_constant(rule):
        raise ValueError(
            f"rule must be gradient_descent, momentum or nesterov with a constant learning rate (a "
            f"number, an array or {AUTO!r}) and a number as beta, got {rule!r}"
        )
    found: Rule = rule
    return found


def check_finite(moments: Moments) -> None:
    if not backends.to_numpy(moments.finite):
        raise ValueError("moments must be finite, got NaN or infinite ones: scale X or y down")


def as_rate(rate: Any, like: Params) -> Any:
    """Return a number, or an array of the moments' dtype with an axis for the directions."""
    if isinstance(rate, Real):
        return float(rate)
    xp = backends.namespace(like.coef)
    rate = xp.astype(rate, like.coef.dtype, copy=False)
    return rate[..., None] if rate.ndim else rate
