"""What kind of critical point a run reached: minimum, saddle, maximum or degenerate.

It serves ``agd.minimize(..., certify=True)``: second derivatives at the result complete its certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Method, Tree
from agd._validation import as_value
from agd.gradient import CriticalPoint, FunctionObjective, critical_point
from agd.run.certificate import Certificate, convergence_kind, predicted_contraction
from agd.run.result import Result
from agd.run.stopping import default_tolerance

__all__ = ["classify_result"]

NEGATED_KINDS = {"minimum": "maximum", "maximum": "minimum"}


def classify_result(
    result: Result,
    objective: FunctionObjective,
    method: Method,
    derivatives: tuple[Callable[..., Any], Any, tuple[Any, ...]],
    *,
    negative: bool = False,
    forward: bool = False,
) -> Certificate:
    """Return a run's certificate with the critical point's kind, and the curvatures of its Hessian.

    Where the run converged by a gradient's limit that is above what `critical_point` asks for by itself,
    that limit says what is critical: a point that was good enough for the run is here, too. A gradient by
    the 2-point formula is known to its error only, and `critical_point` takes a better one: that error is
    allowed beside the limit.

    Parameters
    ----------
    result : Result
        The run's.
    objective : FunctionObjective
        What it minimised; with a penalty, that is part of the function.
    method : Method
        How it moved.
    derivatives : tuple of callable, jac, args
        The function as the user gave it, for as many derivatives as it has.
    negative : bool
        Whether the objective is the function's negative. The kind is then that of the function, the
        curvatures those of the objective.
    forward : bool
        Whether the run had its gradient by the 2-point formula.

    Returns
    -------
    Certificate
        What is known.
    """
    fun, jac, args, mirrored = _add_penalty(objective, derivatives, negative=negative)
    point = critical_point(fun, result.x, jac, args)
    grad_tol = _gradient_limit(result)
    if forward and result.success:
        grad_tol += _forward_error(point, result)
    if point.grad_tol < point.grad_norm <= grad_tol:
        point = critical_point(fun, result.x, jac, args, grad_tol=grad_tol)
    mu, L = _extreme_eigenvalues(point, mirrored=mirrored)
    convex = mu > 0.0
    kind, rate = convergence_kind(method)
    return replace(
        result.certificate,
        kind=NEGATED_KINDS.get(point.kind, point.kind) if negative and not mirrored else point.kind,
        curvature=L,
        least_curvature=mu,
        largest_step=2.0 / L if L > 0.0 else None,
        condition=L / mu if convex else None,
        contraction=predicted_contraction(mu, L, kind, rate) if convex and kind else None,
        source="Hessian",
    )


def _add_penalty(
    objective: FunctionObjective,
    derivatives: tuple[Callable[..., Any], Any, tuple[Any, ...]],
    *,
    negative: bool,
) -> tuple[Callable[..., Any], Any, tuple[Any, ...], bool]:
    """Make a smooth penalty part of the function; the last says whether it is the negative's mirror image."""
    fun, jac, args = derivatives
    if objective.penalty is None:
        return fun, jac, args, negative
    if callable(jac) or jac is True:
        return objective.value_and_grad, True, (), False

    def penalised(params: Tree, *args: Any) -> Array:  # to be differentiated as a whole, twice
        value, extra = as_value(fun(params, *args), params), objective.added(params)
        return value - extra if negative else value + extra

    return penalised, jac, args, negative


def _gradient_limit(result: Result) -> float:
    """Return the largest limit of a partial derivative at which the run converged; 0 if it did not."""
    if not result.success:
        return 0.0
    limits: list[Any] = optree.tree_leaves(result.certificate.tolerance)
    return float(np.max(limits)) if limits else 0.0


def _forward_error(point: CriticalPoint, result: Result) -> float:
    """Bound the error of (f(x + h) - f(x)) / h with h = eps^(1/2) max(1, |x|): h L / 2 + 2 eps |f| / h."""
    leaves = optree.tree_leaves(result.x)
    size = max(1.0, *(float(np.max(np.abs(backends.to_numpy(x)))) for x in leaves))
    L = max(abs(point.least_curvature), abs(point.largest_curvature))
    root = default_tolerance(result.x) ** 1.5
    return float(root * (0.5 * L * size + 2.0 * abs(result.fun) / size))


def _extreme_eigenvalues(point: CriticalPoint, *, mirrored: bool) -> tuple[float, float]:
    least, largest = point.least_curvature, point.largest_curvature
    return (-largest, -least) if mirrored else (least, largest)
