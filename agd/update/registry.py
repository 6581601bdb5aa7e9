"""Methods by their names, for functions of which nothing is known but value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from agd._typing import Loss, Method
from agd._validation import as_choice
from agd.loss import Squared
from agd.update import adaptive, rules
from agd.update.descent import Accelerated, Adapted, Descent, HeavyBall
from agd.update.directions import (
    barzilai_borwein,
    cg,
    hager_zhang,
    lbfgs,
    polyak,
    projected_lbfgs,
    steepest_descent,
)
from agd.update.perturbed import Perturbed
from agd.update.proximal import FISTA, ProjectedGradient, ProximalGradient
from agd.update.rule import Rule
from agd.update.solver import Solver, as_solver
from agd.update.stochastic import SVRG, sgd

__all__ = ["METHODS", "SOLVERS", "resolve", "solver"]


def _accelerated() -> Solver:
    return Accelerated(rescaled=False, backtracking=True)


def _sgd() -> Any:
    return sgd(rescaled=False)


def _svrg() -> Any:
    return SVRG(rescaled=False)


METHODS: dict[str, Callable[..., Rule]] = {
    "gd": rules.gradient_descent,
    **{name: getattr(module, name) for module in (rules, adaptive) for name in module.__all__},
}
"""Rules by the names that ``agd.fit`` takes; ``"gd"`` is `gradient_descent`."""


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


def resolve(method: str | Rule | Method, loss: Loss, *, prox: bool = False) -> Solver:
    """Return the method that a name, a rule or a method stands for, with a loss of this curvature.

    Parameters
    ----------
    method : str, Rule or Method
        ``"auto"``, a key of `METHODS` or of `SOLVERS`, a rule, or an object with ``init`` and ``step``.
    loss : Loss
        It says whether 1/L is a step that is safe everywhere.
    prox : bool
        Whether the objective has a penalty that is left to its prox.

    Returns
    -------
    Method
        The method.

    Raises
    ------
    ValueError
        For an unknown name, a rule whose rate is left to a loss without a curvature bound, and a method
        that cannot apply the prox.
    TypeError
        If `method` is none of these.

    Examples
    --------
    >>> from agd.loss import Squared
    >>> resolve("adam", Squared()).name
    'adam(learning_rate=0.001, b1=0.9, b2=0.999, eps=1e-08)'
    """
    found = _resolved(method, loss, prox)
    if prox and not found.handles_prox:
        able = [n for n, make in SOLVERS.items() if make().handles_prox]
        named = method if isinstance(method, str) else found.name
        raise ValueError(
            f"method {named!r} cannot handle a penalty with a prox; these can: "
            f"{', '.join(map(repr, ('auto', *able)))}"
        )
    return found


def _resolved(method: str | Rule | Method, loss: Loss, prox: bool) -> Solver:
    if not isinstance(method, (str, Rule)):
        return as_solver(method)
    unbounded = loss.curvature_bound is None
    if method == "auto":
        if not prox:
            return Accelerated(backtracking=unbounded)
        # Of no quadratic a step of FISTA asks twice, and as many steps are taken (measured).
        return FISTA() if isinstance(loss, Squared) else ProximalGradient()
    if isinstance(method, str) and method in SOLVERS:
        return _scaled(SOLVERS[method]())
    rule = (
        METHODS[as_choice("method", method, ("auto", *METHODS, *SOLVERS))]()
        if isinstance(method, str)
        else method
    )
    descent = Descent(rule)
    if prox or not (descent.auto and unbounded):
        return descent
    if rule.name == "gradient_descent":
        return Accelerated(momentum=False, rescaled=False, backtracking=True)
    raise ValueError(
        f"method {rule.name!r} needs a learning rate with loss {loss.name!r}, whose curvature has no "
        f"bound: pass agd.update.{rule.name}(0.01), or method='auto'"
    )


def _scaled(method: Any) -> Solver:
    """Let a method of linear parameters work in scaled coordinates where it leaves that open."""
    open_ = any(field.name == "rescaled" for field in fields(method))
    found: Solver = replace(method, rescaled=True) if open_ else method
    return found


def solver(
    method: str | Rule | Method, *, prox: bool = False, bounds: bool = False, rows: bool = True
) -> Solver:
    """Return the method that a name, a rule or a method stands for, for a function of any kind.

    Parameters
    ----------
    method : str, Rule or Method
        A key of `SOLVERS`, a rule's name (its rate is then adapted), a rule (taken as it is), or an
        object with ``init`` and ``step``.
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

    Examples
    --------
    >>> solver("L-BFGS-B", bounds=True).name
    'projected L-BFGS (memory 20), backtracking'
    """
    if isinstance(method, str):
        found = _named(method, prox=prox, bounds=bounds)
    elif isinstance(method, Rule):
        found = _ruled(method)
    else:
        found = as_solver(method)
    if prox and not found.handles_prox:
        able = [name for name, each in _made(rows) if each.handles_prox]
        _refuse(method, found, "a penalty with a prox", able)
    if bounds and not found.handles_bounds:
        able = [name for name, each in _made(rows) if each.handles_bounds]
        _refuse(method, found, "bounds", able)
    return found


def _named(name: str, *, prox: bool, bounds: bool) -> Solver:
    key = ALIASES.get(name.lower(), name.lower())
    if key == "lbfgs" and (prox or bounds):
        key = "fista" if prox else "projected_lbfgs"
    if key in ELSEWHERE:
        raise ValueError(
            f"method {name!r} is SciPy's and not here, where methods follow the gradient: leave method out "
            f"for 'lbfgs', which takes differences of fun where no gradient is known"
        )
    if key not in SOLVERS and key not in METHODS:
        key = as_choice("method", name, (*SOLVERS, *METHODS))
    made: Solver = SOLVERS[key]() if key in SOLVERS else Adapted(METHODS[key]())
    return made


def _ruled(rule: Rule) -> Solver:
    """Return descent by a rule; a rate left to the objective is for the methods that find one."""
    if not rule.auto_rate:
        return Descent(rule)
    key = ALIASES.get(rule.name)
    if key is None:
        raise ValueError(f"rule {rule!r} needs a learning rate: pass agd.update.{rule.name}(0.01)")
    beta = dict(rule.hyperparameters).get("beta")
    return HeavyBall(beta) if key == "heavy_ball" and beta else SOLVERS[key]()


def _made(rows: bool) -> list[tuple[str, Solver]]:
    made = [(name, make()) for name, make in SOLVERS.items()]
    return [(name, each) for name, each in made if rows or not each.stochastic]


def _refuse(method: Any, found: Solver, what: str, able: list[str]) -> None:
    named = method if isinstance(method, str) else found.name
    raise ValueError(
        f"method {named!r} cannot handle {what}; these can: {', '.join(map(repr, able))}"
    )
