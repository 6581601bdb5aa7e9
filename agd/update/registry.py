"""Which solver a name, a rule or an object stands for: the tables of names, and one function that reads them.

``agd.fit`` asks with the loss, which tells whether 1/L is known; ``agd.minimize`` asks without one, since
of a function nothing is known but its value and its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

from agd._typing import Loss, Method
from agd._validation import as_choice
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

__all__ = ["METHODS", "MINIMIZERS", "RULES", "SOLVERS", "get_solver", "resolve", "solver"]


def _accelerated() -> Solver:
    return Accelerated(rescaled=False, backtracking=True)


def _sgd() -> Solver:
    return sgd(rescaled=False)


def _svrg() -> Solver:
    return SVRG(rescaled=False)


RULES: dict[str, Callable[..., Rule]] = {
    "gd": rules.gradient_descent,
    **{name: vars(module)[name] for module in (rules, adaptive) for name in module.__all__},
}
"""Rules by the names that ``agd.fit`` and ``agd.minimize`` take; ``"gd"`` is `gradient_descent`."""

METHODS = RULES
"""The earlier name of `RULES`."""

MINIMIZERS: dict[str, Callable[..., Solver]] = {
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
"""Solvers by the names that ``agd.fit`` and ``agd.minimize`` take; each finds its own step."""

SOLVERS = MINIMIZERS
"""The earlier name of `MINIMIZERS`."""

# Names that SciPy gives to solvers that agd has.
ALIASES: dict[str, str] = {"l-bfgs-b": "lbfgs", "l-bfgs": "lbfgs", "bfgs": "lbfgs"}

# SciPy's methods that agd has not: they use no gradient, or second derivatives, or constraints.
SCIPY_ONLY = (
    "nelder-mead", "powell", "newton-cg", "tnc", "cobyla", "cobyqa", "slsqp", "trust-constr", "dogleg",
    "trust-ncg", "trust-exact", "trust-krylov",
)  # fmt: skip


class Problem(NamedTuple):
    """What a solver is wanted for.

    Attributes
    ----------
    loss : Loss or None
        The loss of a linear model; None for a function of any kind.
    prox, bounds : bool
        Whether the objective has a penalty that is left to its prox, and whether it has bounds.
    rows : bool
        Whether it is a mean over rows that mini-batches can take.
    """

    loss: Loss | None = None
    prox: bool = False
    bounds: bool = False
    rows: bool = True


def get_solver(method: str | Rule | Method, problem: Problem) -> Solver:
    """Return the solver that a name, a rule or a user's own object stands for.

    A rule with a rate is taken at its word. A rule that leaves its rate to the solver, such as ``"gd"``,
    takes the step 1/L where the curvature of the objective is bounded by a known L; where it is not, L
    is found by backtracking. So ``"gd"`` is one algorithm, gradient descent with the step 1/L, in
    ``agd.fit`` and ``agd.minimize``:

    =============================  ==================================================================
    objective                      ``"gd"``
    =============================  ==================================================================
    a loss of bounded curvature    `Descent`: w := w - g / L, with L measured once
    any other, without bounds      `Accelerated` without momentum: L follows the curvature along the steps
    any other, with bounds         `steepest_descent`: each trial point is projected onto the bounds
    =============================  ==================================================================

    Parameters
    ----------
    method : str, Rule or Method
        A key of `MINIMIZERS` or `RULES`, a rule, or an object with ``init`` and ``step``; ``"auto"`` for a
        linear model.
    problem : Problem
        What is to be minimised.

    Returns
    -------
    Solver
        The solver.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, what is no solver, a rule that needs a rate, and a solver that cannot apply
        the prox or keep to the bounds.
    """
    if not isinstance(method, (str, Rule)):
        chosen = as_solver(method)
    elif isinstance(method, Rule):
        chosen = _solver_for_rule(method, problem)
    elif problem.loss is None:
        chosen = _function_solver(method, problem)
    else:
        chosen = _model_solver(method, problem.loss, problem)
    named = method if isinstance(method, str) else chosen.name
    if problem.prox and not chosen.handles_prox:
        able = _able_solvers(problem, lambda solver: solver.handles_prox)
        raise ValueError(f"method {named!r} cannot handle a penalty with a prox; these can: {able}")
    if problem.bounds and not chosen.handles_bounds:
        able = _able_solvers(problem, lambda solver: solver.handles_bounds)
        raise ValueError(f"method {named!r} cannot handle bounds; these can: {able}")
    return chosen


def _model_solver(name: str, loss: Loss, problem: Problem) -> Solver:
    """Return the solver that a name stands for in ``agd.fit``."""
    if name == "auto":
        if not problem.prox:
            return Accelerated(backtracking=loss.curvature_bound is None)
        # A step of FISTA evaluates a quadratic once, any other function twice (measured).
        return FISTA() if loss.quadratic else ProximalGradient()
    if name in MINIMIZERS:
        solver = MINIMIZERS[name]()
        if not (loss.smooth or solver.stochastic):
            raise ValueError(
                f"method {name!r} needs a smooth loss, which {loss.name!r} is not: use method='auto', or a "
                f"rule with a learning rate, such as agd.update.adam(0.01), which follows subgradients"
            )
        return _rescaled(solver)
    return _solver_for_rule(
        RULES[as_choice("method", name, ("auto", *RULES, *MINIMIZERS))](), problem
    )


def _function_solver(name: str, problem: Problem) -> Solver:
    """Return the solver that a name stands for in ``agd.minimize``, in whatever case it is written."""
    key = ALIASES.get(name.lower(), name.lower())
    if key == "lbfgs" and (problem.prox or problem.bounds):
        key = "fista" if problem.prox else "projected_lbfgs"
    if key in SCIPY_ONLY:
        raise ValueError(
            f"method {name!r} is SciPy's and not here, where methods follow the gradient: leave method out "
            f"for 'lbfgs', which takes differences of fun where no gradient is known"
        )
    if key not in MINIMIZERS and key not in RULES:
        key = as_choice("method", name, (*MINIMIZERS, *RULES))
    if key in MINIMIZERS:
        return MINIMIZERS[key]()
    rule = RULES[key]()
    return _solver_for_rule(rule, problem) if rule.auto_rate else Adapted(rule)


def _solver_for_rule(rule: Rule, problem: Problem) -> Solver:
    """Return descent by a rule; where its rate is 1/L and L unknown, the solver that finds L."""
    loss = problem.loss
    smooth = loss is None or loss.smooth
    known = loss is not None and smooth and (loss.curvature_bound is not None or problem.prox)
    if not rule.auto_rate or known:
        return Descent(rule)
    if smooth and rule.name == "gradient_descent":
        if problem.bounds:
            return steepest_descent()
        return Accelerated(momentum=False, rescaled=False, backtracking=True)
    if loss is not None:
        raise ValueError(
            f"method {rule.name!r} needs a learning rate with loss {loss.name!r}, whose curvature has no "
            f"bound: pass agd.update.{rule.name}(0.01), or method='auto'"
        )
    if rule.name == "momentum":
        beta = dict(rule.hyperparameters)["beta"]
        return HeavyBall(beta) if beta else HeavyBall()
    if rule.name == "nesterov":
        return _accelerated()
    raise ValueError(f"rule {rule!r} needs a learning rate: pass agd.update.{rule.name}(0.01)")


def _rescaled(solver: Any) -> Solver:
    """Return a solver that works on centred and scaled columns, if it leaves that open."""
    optional = any(field.name == "rescaled" for field in fields(solver))
    chosen: Solver = replace(solver, rescaled=True) if optional else solver
    return chosen


def _able_solvers(problem: Problem, able: Callable[[Solver], bool]) -> str:
    """Return the names of the solvers that are able to, as an error lists them."""
    made = {name: make() for name, make in MINIMIZERS.items()}
    names = [n for n, s in made.items() if able(s) and (problem.rows or not s.stochastic)]
    return ", ".join(map(repr, (["auto"] if problem.loss is not None else []) + names))


def resolve(method: str | Rule | Method, loss: Loss, *, prox: bool = False) -> Solver:
    """Return the solver that a name, a rule or a method stands for in ``agd.fit`` with this loss.

    Parameters
    ----------
    method : str, Rule or Method
        ``"auto"``, a key of `RULES` or of `MINIMIZERS`, a rule, or an object with ``init`` and ``step``.
    loss : Loss
        It says whether 1/L is a step that is safe everywhere.
    prox : bool
        Whether the objective has a penalty that is left to its prox.

    Returns
    -------
    Solver
        The solver.

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
    return get_solver(method, Problem(loss=loss, prox=prox))


def solver(
    method: str | Rule | Method, *, prox: bool = False, bounds: bool = False, rows: bool = True
) -> Solver:
    """Return the solver that a name, a rule or a method stands for in ``agd.minimize``.

    Parameters
    ----------
    method : str, Rule or Method
        A key of `MINIMIZERS`, a rule's name (its rate is then adapted), a rule (taken as it is), or an
        object with ``init`` and ``step``.
    prox, bounds : bool
        Whether the objective has a penalty that is left to its prox, and whether it has bounds.
    rows : bool
        Whether it has rows that mini-batches can take; else errors name no method that draws them.

    Returns
    -------
    Solver
        The solver.

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
    return get_solver(method, Problem(prox=prox, bounds=bounds, rows=rows))
