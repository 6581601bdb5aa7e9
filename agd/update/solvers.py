"""Methods by their names, for functions of which nothing is known but value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd._typing import Method
from agd._validation import choice
from agd.update._rule import AUTO, Rule
from agd.update.adapted import Adapted
from agd.update.conjugate import cg, hager_zhang
from agd.update.descent import Accelerated, Descent
from agd.update.fista import FISTA
from agd.update.heavy_ball import HeavyBall
from agd.update.lbfgs import lbfgs, projected_lbfgs
from agd.update.perturbed import Perturbed
from agd.update.projected import ProjectedGradient
from agd.update.proximal import ProximalGradient
from agd.update.steepest import barzilai_borwein, polyak, steepest_descent
from agd.update.stochastic import sgd
from agd.update.svrg import SVRG

__all__ = ["SOLVERS"]


def _accelerated() -> Method:
    return Accelerated(rescaled=False, backtracking=True)


def _sgd() -> Any:
    return sgd(rescaled=False)


def _svrg() -> Any:
    return SVRG(rescaled=False)


SOLVERS: dict[str, Callable[..., Any]] = {
    "lbfgs": lbfgs,
    "projected_lbfgs": projected_lbfgs,
    "cg": cg,
    "hager_zhang": hager_zhang,
    "steepest_descent": steepest_descent,
    "barzilai_borwein": barzilai_borwein,
    "polyak": polyak,
    "heavy_ball": HeavyBall,
    "accelerated": _accelerated,
    "proximal_gradient": ProximalGradient,
    "fista": FISTA,
    "projected_gradient": ProjectedGradient,
    "perturbed": Perturbed,
    "sgd": _sgd,
    "svrg": _svrg,
}
"""Methods by the names that ``agd.minimize`` takes; each finds its own step."""

# What SciPy calls them, and the names of rules that mean a method where the step is to be found.
ALIASES: dict[str, str] = {
    "l-bfgs-b": "lbfgs",
    "l-bfgs": "lbfgs",
    "bfgs": "lbfgs",
    "gd": "steepest_descent",
    "gradient_descent": "steepest_descent",
    "momentum": "heavy_ball",
    "nesterov": "accelerated",
}

# What SciPy has and agd has not: methods without a gradient, with second derivatives or constraints.
ELSEWHERE = (
    "nelder-mead", "powell", "newton-cg", "tnc", "cobyla", "cobyqa", "slsqp", "trust-constr", "dogleg",
    "trust-ncg", "trust-exact", "trust-krylov",
)  # fmt: skip


def solver(
    method: str | Rule | Method,
    rules: dict[str, Callable[..., Rule]],
    *,
    prox: bool,
    bounds: bool,
    rows: bool = True,
) -> Method:
    """Return the method that a name, a rule or a method stands for, for a function of any kind.

    Parameters
    ----------
    method : str, Rule or Method
        A key of `SOLVERS`, a rule's name (its rate is then adapted), a rule (taken as it is), or an
        object with ``init`` and ``step``.
    rules : dict of str to callable
        Rules by their names.
    prox, bounds : bool
        Whether the objective has a penalty that is left to its prox, and whether it has bounds.
    rows : bool
        Whether it has rows that mini-batches can take; else errors name no method that draws them.

    Returns
    -------
    Method
        The method.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, what is no method, and a method that cannot keep to the bounds or apply the
        prox.
    """
    if isinstance(method, str):
        found = _named(method, rules, prox=prox, bounds=bounds)
    elif isinstance(method, Rule):
        found = _ruled(method)
    elif isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
        raise TypeError(
            f"method must be a name, a rule such as agd.update.adam(0.1) or an object with init and "
            f"step, got {method!r}"
        )
    else:
        found = method
    proximal = getattr(found, "proximal", False)
    if prox and not proximal:
        _refuse(method, "a penalty with a prox", ("proximal",), rows)
    if bounds and not (proximal or getattr(found, "bounded", False)):
        _refuse(method, "bounds", ("proximal", "bounded"), rows)
    return found


def _named(name: str, rules: dict[str, Callable[..., Rule]], *, prox: bool, bounds: bool) -> Method:
    key = ALIASES.get(name.lower(), name.lower())
    if key == "lbfgs" and (prox or bounds):
        key = "fista" if prox else "projected_lbfgs"
    if key in ELSEWHERE:
        raise ValueError(
            f"method {name!r} is SciPy's and not here, where methods follow the gradient: leave method out "
            f"for 'lbfgs', which takes differences of fun where no gradient is known"
        )
    if key not in SOLVERS and key not in rules:
        key = choice("method", name, (*SOLVERS, *rules))
    made: Method = SOLVERS[key]() if key in SOLVERS else Adapted(rules[key]())
    return made


def _ruled(rule: Rule) -> Method:
    """Return descent by a rule; a rate left to the objective is for the methods that find one."""
    if dict(rule.hyperparameters).get("learning_rate") != AUTO:
        return Descent(rule)
    key = ALIASES.get(rule.name)
    if key is None:
        raise ValueError(f"rule {rule!r} needs a learning rate: pass agd.update.{rule.name}(0.01)")
    beta = dict(rule.hyperparameters).get("beta")
    return HeavyBall(beta) if key == "heavy_ball" and beta else SOLVERS[key]()


def _refuse(method: Any, what: str, traits: tuple[str, ...], rows: bool) -> None:
    made = {name: make() for name, make in SOLVERS.items()}
    able = [n for n, m in made.items() if any(getattr(m, t, False) for t in traits)]
    able = [n for n in able if rows or not hasattr(made[n], "draw")]
    named = method if isinstance(method, str) else getattr(method, "name", method)
    raise ValueError(
        f"method {named!r} cannot handle {what}; these can: {', '.join(map(repr, able))}"
    )
