"""Door: minimise any function of any tree of arrays, on whatever array you hold.

>>> import numpy as np
>>> import agd
>>> def rosenbrock(x):
...     return (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2
>>> found = agd.minimize(rosenbrock, [-1.2, 1.0])
>>> found.x.round(4), found.success, found.gradient
(array([1., 1.]), True, '2-point')
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Method, Penalty, Tree
from agd._validation import as_bounds, as_point, check_point
from agd.gradient import Bounds, FunctionObjective, choose_gradient, critical_point
from agd.run import Certificate, Criterion, Result, Status, Stop, run
from agd.run.certificate import convergence_of, predicted_contraction
from agd.run.options import from_scipy
from agd.update import Rule, solver

__all__ = ["MinimizeResult", "maximize", "minimize"]


@dataclass(frozen=True, repr=False)
class MinimizeResult(Result):
    """What `minimize` returns: a `Result`, and how the gradient was had.

    Attributes
    ----------
    gradient : str
        "jac" (the one given), "fun returns it", "autodiff", "2-point" or "3-point".
    """

    gradient: str


def minimize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    method: str | Rule | Method = "lbfgs",
    bounds: Any = None,
    penalty: Penalty | None = None,
    stop: Stop | Criterion | None = None,
    callback: Callable[[Result], object] | None = None,
    batch: int = 0,
    certify: bool = False,
    tol: float | None = None,
    options: dict[str, Any] | None = None,
) -> MinimizeResult:
    r"""Minimise a function of an array or of a tree of arrays by descent.

    ::

        min over x of  fun(x, *args) + penalty(x),    low <= x <= high

    The result comes back in the structure, library, dtype and device of `x0`; nothing is written to what
    you pass. A script written for ``scipy.optimize.minimize`` needs only another import.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number; with `batch`, an array with one number for each problem. It is called
        with arrays of the library of `x0`.
    x0 : array, list of numbers, or tree of arrays
        The first point: an array of any shape, or a dict, list, tuple or NamedTuple of arrays. Integers
        become the library's default float.
    args : tuple
        Further arguments of `fun` and `jac`; what is no tuple is the only one.
    jac : callable, True, "autodiff", "2-point", "3-point" or None
        The gradient: ``jac(x, *args)`` in the structure of x; True if `fun` returns the pair of value
        and gradient; the library's automatic differentiation (PyTorch, JAX); finite differences, at one
        or two calls of `fun` for each entry. None is autodiff where the library has it and can follow
        `fun`, and 2-point elsewhere; ``result.gradient`` says which.
    method : str, Rule or Method
        ``"lbfgs"``, which within bounds is projected L-BFGS and with a penalty that has a prox
        accelerated proximal gradient; another name in ``agd.update.SOLVERS`` or ``agd.update.METHODS``;
        a rule such as ``agd.update.adam(0.1)``; or an object such as ``agd.update.cg()``. None of the
        names needs a step. ``result.method`` says what was done.
    bounds : sequence of pairs, object with lb and ub, or tree of these, optional
        For an array (low, high) for each entry, with None for a side that is open, or an object such as
        ``scipy.optimize.Bounds``; for a tree, in its structure, one of these for each leaf, or one pair
        for all its entries. All points at which `fun` is called lie within them.
    penalty : Penalty, optional
        What is added to `fun`, such as ``agd.loss.L1(0.1)``, for each leaf along its last axis.
    stop : Stop or criterion, optional
        When to stop, such as ``agd.Stop(max_iter=100)`` or ``agd.GradTol(1e-8) | agd.Deadline(10)``; by
        default a gradient with no entry above eps^(1/3) (6e-6 in float64, 5e-3 in float32) or 10,000
        iterations.
    callback : callable, optional
        Called with the result so far after every iteration (where looking costs a transfer, every
        ``stop.check_every`` evaluations); it ends the run by raising StopIteration or returning True.
    batch : int
        How many leading axes of every leaf number independent problems: with 1, x0 (b, ...) are b
        problems in one run, each with its own step, line search, status and count.
    certify : bool
        Whether to find out what kind of point was found, from second derivatives (see
        ``agd.critical_point``): ``result.certificate.kind`` is then "minimum", "saddle", ..., with the
        extreme curvatures there. Its calls of `fun` are not counted. For one problem without bounds.
    tol, options : float, dict, optional
        As SciPy spells stopping rules: `tol` is the gradient's limit, and of the options ``gtol``,
        ``ftol``, ``maxiter`` and ``maxfun`` count. Not together with `stop`.

    Returns
    -------
    MinimizeResult
        The point, the value, the gradient there, the status and how it came about. For a batch the
        numbers are arrays with one entry a problem.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, x0 that is not finite, and a function or gradient that is not
        finite at x0 or returns another shape.

    Notes
    -----
    Each step evaluates `fun` and its gradient together, once, at the trial point of a line search that is
    itself a state machine (``agd.update.StrongWolfe``): so batches, compiled steps and devices need no
    answer from the host between two looks. ``nit`` counts accepted steps, ``nfev`` calls of `fun`.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> def fun(x, a):
    ...     return np.sum((x - a) ** 2)
    >>> agd.minimize(fun, np.zeros(2), (3.0,), jac=lambda x, a: 2.0 * (x - a)).x
    array([3., 3.])
    >>> agd.minimize(fun, np.zeros(2), (3.0,), bounds=[(0, 1), (None, None)]).x.round(4)
    array([1., 3.])
    >>> tree = {"w": np.zeros(2), "b": np.asarray(1.0)}
    >>> found = agd.minimize(lambda p: np.sum((p["w"] - p["b"]) ** 2) + p["b"] ** 2, tree)
    >>> sorted(found.x), found.x["w"].shape
    (['b', 'w'], (2,))
    """
    args = args if isinstance(args, tuple) else (args,)
    stop = from_scipy(stop, tol, options)
    point = as_point(x0, batch)
    like = optree.tree_leaves(point)[0]
    with backends.current(like):
        point, limits = _within(point, bounds)
        if certify and (batch or limits is not None or _has_prox(penalty)):
            raise ValueError(
                "certify=True looks at second derivatives, which say nothing at a bound or a kink, of one "
                "problem: got bounds, a penalty with a prox, or batch"
            )
        how = choose_gradient(fun, jac, point, args, batch=batch)
        mover = solver(method, prox=_has_prox(penalty), bounds=limits is not None)
        objective = FunctionObjective(
            how.value_and_grad,
            args,
            tuple(like.shape)[:batch],
            penalty,
            limits,
            value_calls=how.calls,
            grad_calls=1,
            compilable=_compilable(fun, jac, point, args),
        )
        if objective.nonsmooth:  # a set's nearest point: outside of it the objective is infinite
            point = objective.prox(point, 0.0)
        host = backends.of(like).looks_are_free
        found = run(
            mover, objective, point, stop, callback,
            grad_tol=_tolerance(like), check_every=1 if host else 10,
        )  # fmt: skip
        _check_start(found)
        if certify:
            found = replace(
                found, certificate=_certified(found, objective, mover, (fun, jac, args))
            )
    known = {field.name: getattr(found, field.name) for field in fields(Result)}
    known["n_sync"] += 1
    known["nfev"] += how.probes
    return MinimizeResult(**known, gradient=how.name)


def maximize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[[Result], object] | None = None,
    **kwargs: Any,
) -> MinimizeResult:
    """Maximise a function: minimise its negative, and report the function.

    Parameters
    ----------
    fun, x0, args, jac, callback
        As for `minimize`; `fun` and `jac` are the function to maximise and its gradient.
    **kwargs
        Whatever else `minimize` takes. A penalty is taken off the function.

    Returns
    -------
    MinimizeResult
        With `fun`, `jac` and the history's values those of the function to maximise, less the penalty;
        the certificate is that of its negative.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> found = agd.maximize(lambda x: 3.0 - (x - 1.0) ** 2, np.asarray(0.0))
    >>> round(float(found.x), 4), round(found.fun, 4)
    (1.0, 3.0)
    """
    if callable(jac):
        jac = _Negated(jac)
    told = None if callback is None else lambda result: callback(_negated(result))
    found = minimize(_Negated(fun), x0, args, jac=jac, callback=told, **kwargs)
    result: MinimizeResult = _negated(found)
    return result


@dataclass(frozen=True)
class _Negated:
    """A function's negative; equal for equal functions, so that a compiled step is found again."""

    fun: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return _minus(self.fun(*args))


def _minus(value: Any) -> Any:
    if isinstance(value, list):  # the numbers of a gradient, or a tree of arrays
        return [_minus(part) for part in value]
    return optree.tree_map(lambda leaf: -leaf, value)


def _negated(found: Any) -> Any:
    history = found.history._replace(value=-found.history.value)
    return replace(found, fun=-found.fun, jac=_minus(found.jac), history=history)


def _within(point: Tree, bounds: Any) -> tuple[Tree, Bounds | None]:
    """Check the first point's values, and bring it within the bounds."""
    limits = None if bounds is None else Bounds(*as_bounds(bounds, point))
    outside = check_point(point, limits)
    if limits is None or not outside:
        return point, limits
    entries = "1 entry" if outside == 1 else f"{outside} entries"
    warnings.warn(
        f"x0 lies outside the bounds in {entries}: moved to the nearest point within them",
        UserWarning,
        stacklevel=3,
    )
    return limits.project(point), limits


def _has_prox(penalty: Any) -> bool:
    """Return whether a penalty is left to its prox, or say why it is none."""
    if penalty is None:
        return False
    if isinstance(penalty, type) or not hasattr(penalty, "prox"):
        raise TypeError(f"penalty must be an object such as agd.loss.L1(0.1), got {penalty!r}")
    return not penalty.smooth


def _compilable(fun: Any, jac: Any, point: Tree, args: tuple[Any, ...]) -> bool:
    """Return whether a library that compiles can trace the functions."""
    traces = backends.of(optree.tree_leaves(point)[0]).traces
    if traces is None:
        return True
    return traces(fun, point, *args) and (not callable(jac) or traces(jac, point, *args))


def _tolerance(like: Array) -> float:
    eps = float(backends.namespace(like).finfo(like.dtype).eps)
    return math.exp(math.log(eps) / 3.0)


def _certified(
    found: Result, objective: FunctionObjective, mover: Method, given: Any
) -> Certificate:
    """Return the certificate with the critical point's kind and the curvatures there."""
    fun, jac, args = given
    if objective.penalty is not None:  # a smooth one is part of the function
        fun, jac, args = objective.value_and_grad, True, ()
    at = critical_point(fun, found.x, jac, args)
    mu, L = at.least_curvature, at.largest_curvature
    convex = mu > 0.0
    kind, rate = convergence_of(mover)
    return replace(
        found.certificate,
        kind=at.kind,
        curvature=L,
        least_curvature=mu,
        largest_step=2.0 / L if L > 0.0 else None,
        condition=L / mu if convex else None,
        contraction=predicted_contraction(mu, L, kind, rate) if convex and kind else None,
        source="Hessian",
    )


def _check_start(found: Result) -> None:
    """Refuse a function that is not finite at x0: no descent starts from there."""
    broken = (np.asarray(found.status) == Status.NON_FINITE) & (np.asarray(found.nit) == 0)
    if not broken.any():
        return
    value = np.asarray(found.fun)
    where = "" if value.ndim == 0 else f" of problem {int(np.flatnonzero(broken)[0])}"
    bad = float(value[broken][0]) if value.ndim else float(value)
    if not np.isfinite(bad):
        raise ValueError(f"fun must be finite at x0{where}, got {bad!r}")
    raise ValueError(f"the gradient must be finite at x0{where}: it is NaN or infinite there")
