"""Room three: how w MOVES. Pure rules, schedules of their rates, and methods that drive them.

A rule is a pure pair ``init(params) -> state`` and ``update(grads, state, params) -> (updates,
state)``, in optax's convention, on any tree of arrays of any library.

>>> import numpy as np
>>> from agd import update
>>> rule = update.gradient_descent(0.1)
>>> w = {"a": np.asarray([1.0, 2.0])}
>>> updates, state = rule.update({"a": np.asarray([10.0, 0.0])}, rule.init(w), w)
>>> update.apply_updates(w, updates)
{'a': array([0., 2.])}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from agd._typing import Loss, Method
from agd._validation import choice
from agd.loss import Squared
from agd.update import (
    adam_family,
    adam_variants,
    adaptive,
    combine,
    partition,
    rules,
    scale,
    schedules,
    signs,
    solvers,
    transforms,
)
from agd.update._rule import Rule, apply_updates
from agd.update.adam_family import *
from agd.update.adam_variants import *
from agd.update.adapted import Adapted
from agd.update.adaptive import *
from agd.update.combine import *
from agd.update.conjugate import cg, hager_zhang
from agd.update.descent import Accelerated, Descent
from agd.update.fista import FISTA
from agd.update.heavy_ball import HeavyBall
from agd.update.lbfgs import lbfgs, projected_lbfgs
from agd.update.line_search import Backtracking
from agd.update.partition import *
from agd.update.perturbed import Perturbed
from agd.update.projected import ProjectedGradient
from agd.update.proximal import ProximalGradient
from agd.update.rules import *
from agd.update.scale import *
from agd.update.schedules import *
from agd.update.signs import *
from agd.update.solvers import SOLVERS
from agd.update.steepest import barzilai_borwein, polyak, steepest_descent
from agd.update.stochastic import Stochastic, sgd
from agd.update.svrg import SVRG
from agd.update.trajectory import BestEpoch, Trajectory
from agd.update.transforms import *
from agd.update.wolfe import StrongWolfe

__all__ = [
    "FISTA",
    "METHODS",
    "SOLVERS",
    "SVRG",
    "Accelerated",
    "Adapted",
    "Backtracking",
    "BestEpoch",
    "Descent",
    "HeavyBall",
    "Perturbed",
    "ProjectedGradient",
    "ProximalGradient",
    "Rule",
    "Stochastic",
    "StrongWolfe",
    "Trajectory",
    "apply_updates",
    "barzilai_borwein",
    "cg",
    "hager_zhang",
    "lbfgs",
    "polyak",
    "projected_lbfgs",
    "resolve",
    "sgd",
    "solver",
    "steepest_descent",
]
__all__ += adam_family.__all__
__all__ += adam_variants.__all__
__all__ += adaptive.__all__
__all__ += combine.__all__
__all__ += partition.__all__
__all__ += rules.__all__
__all__ += scale.__all__
__all__ += schedules.__all__
__all__ += signs.__all__
__all__ += transforms.__all__

_FILES = (rules, adaptive, adam_family, adam_variants, signs)

METHODS: dict[str, Callable[..., Rule]] = {
    "gd": rules.gradient_descent,
    **{name: getattr(module, name) for module in _FILES for name in module.__all__},
}
"""Rules by the names that ``agd.fit`` takes; ``"gd"`` is `gradient_descent`."""


def resolve(method: str | Rule | Method, loss: Loss, *, prox: bool = False) -> Method:
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
    if prox and not getattr(found, "proximal", False):
        able = [n for n, make in SOLVERS.items() if getattr(make(), "proximal", False)]
        named = method if isinstance(method, str) else found.name
        raise ValueError(
            f"method {named!r} cannot handle a penalty with a prox; these can: "
            f"{', '.join(map(repr, ('auto', *able)))}"
        )
    return found


def _resolved(method: str | Rule | Method, loss: Loss, prox: bool) -> Method:
    if not isinstance(method, (str, Rule)):
        return _method(method)
    unbounded = loss.curvature is None
    if method == "auto":
        if not prox:
            return Accelerated(backtracking=unbounded)
        # Of no quadratic a step of FISTA asks twice, and as many steps are taken (measured).
        return FISTA() if isinstance(loss, Squared) else ProximalGradient()
    if isinstance(method, str) and method in SOLVERS:
        return _scaled(SOLVERS[method]())
    rule = (
        METHODS[choice("method", method, ("auto", *METHODS, *SOLVERS))]()
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


def _scaled(method: Any) -> Method:
    """Let a method of linear parameters work in scaled coordinates where it leaves that open."""
    open_ = any(field.name == "rescaled" for field in fields(method))
    found: Method = replace(method, rescaled=True) if open_ else method
    return found


def solver(
    method: str | Rule | Method, *, prox: bool = False, bounds: bool = False, rows: bool = True
) -> Method:
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
    return solvers.solver(method, METHODS, prox=prox, bounds=bounds, rows=rows)


def _method(method: Any) -> Method:
    if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
        raise TypeError(
            f"method must be a name, a rule such as agd.update.adam(0.1) or an object with init and "
            f"step, got {method!r}"
        )
    found: Method = method
    return found
