"""Where a run of any function starts: within the bounds, and where the function is finite."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Method, Penalty, Tree
from agd._validation import (
    as_bounds,
    as_count,
    as_nonnegative,
    as_point,
    check_callback,
    check_point,
    writable_copy,
)
from agd.gradient import Bounds, FunctionObjective, choose_gradient, shared_rows
from agd.gradient.derivatives import Gradient, central
from agd.loss.base import as_penalty
from agd.run.critical import classify_result
from agd.run.loop import Differenced, run
from agd.run.result import Result, Status
from agd.run.stopping import Criterion, MaxEval, Stop, default_tolerance
from agd.update import Rule, solver

__all__ = [
    "MinimizeResult",
    "check_start",
    "descend",
    "from_scipy",
    "maximize",
    "minimize",
    "reporting",
    "within",
]


def within(point: Tree, bounds: Any, batch: int) -> tuple[Tree, Bounds | None]:
    """Check the first point's values, and bring it within the bounds.

    Parameters
    ----------
    point : tree of arrays
        The first point.
    bounds : sequence, object, tree or None
        As `agd.minimize` takes them.
    batch : int
        How many leading axes number independent problems.

    Returns
    -------
    tuple of tree and Bounds or None
        The point and the bounds.

    Warns
    -----
    UserWarning
        If the point had to be moved.
    """
    limits = None if bounds is None else Bounds(*as_bounds(bounds, point, batch))
    outside = check_point(point, limits)
    if limits is None or not outside:
        return point, limits
    entries = "1 entry" if outside == 1 else f"{outside} entries"
    warnings.warn(
        f"x0 lies outside the bounds in {entries}: moved to the nearest point within them",
        UserWarning,
        stacklevel=4,
    )
    return limits.project(point), limits


def check_start(found: Result, *, negative: bool = False) -> None:
    """Refuse a function that is not finite at x0: no descent starts from there.

    Parameters
    ----------
    found : Result
        The run's.
    negative : bool
        Whether the run minimised the function's negative.

    Raises
    ------
    ValueError
        If it ended at once, since the value or the gradient is NaN or infinite.
    """
    value = np.asarray(found.history.value[0])
    finite = np.isfinite(value) & np.isfinite(found.history.grad_norm[0])
    broken = ~finite & (np.asarray(found.status) == Status.NON_FINITE)
    if not broken.any():
        return
    where = "" if value.ndim == 0 else f" of problem {int(np.flatnonzero(broken)[0])}"
    bad = float(value[broken][0]) if value.ndim else float(value)
    if not np.isfinite(bad):
        raise ValueError(f"fun must be finite at x0{where}, got {-bad if negative else bad!r}")
    raise ValueError(f"the gradient must be finite at x0{where}: it is NaN or infinite there")


NAMES = {"gtol": "grad_tol", "ftol": "value_tol", "maxiter": "max_iter"}


def reporting(callback: Any) -> Callable[[Result], object] | None:
    """Return what calls a callback as SciPy does, by the name of its parameter.

    Parameters
    ----------
    callback : callable or None
        One whose only parameter is ``intermediate_result`` gets the result so far, any other the point.

    Returns
    -------
    callable or None
        A function of the result so far.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    check_callback(callback)
    if callback is None:
        return None
    try:
        names = list(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # some that are written in C do not say
        names = []
    if names == ["intermediate_result"]:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(writable_copy(result.x))


def from_scipy(stop: Any, tol: float | None, options: dict[str, Any] | None) -> Any:
    """Return `stop`, or what SciPy's `tol` and `options` mean where they are given.

    Parameters
    ----------
    stop : Stop, Criterion or None
        Passed through where there is neither of the others.
    tol : float or None
        The gradient's limit.
    options : dict or None
        Of these ``gtol``, ``ftol``, ``maxiter`` and ``maxfun`` (or ``maxfev``) count, where they are not
        None; ``disp`` is not needed, since a result prints itself.

    Returns
    -------
    Stop, Criterion or None
        The rule.

    Raises
    ------
    TypeError, ValueError
        If `stop` is given as well, and for limits that are none.

    Warns
    -----
    UserWarning
        For options that mean nothing here.

    Examples
    --------
    >>> from_scipy(None, None, {"maxiter": 20}).max_iter
    20
    """
    if tol is None and options is None:
        return stop
    if stop is not None:
        raise ValueError("stop and SciPy's tol or options say the same thing: give one of them")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"options must be a dict such as {{'maxiter': 100}}, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given.pop("disp", None)
    known = {name: given.pop(name) for name in (*NAMES, "maxfev", "maxfun") if name in given}
    for name, value in known.items():
        check = as_nonnegative if name.endswith("tol") else as_count
        check(f"options[{name!r}]", value)
    limits = {NAMES[name]: value for name, value in known.items() if name in NAMES}
    if tol is not None:
        limits.setdefault("grad_tol", as_nonnegative("tol", tol))
    calls = known.get("maxfun", known.get("maxfev"))
    if given:
        unknown = ", ".join(map(repr, given))
        warnings.warn(
            f"options that agd.minimize does not know and ignores: {unknown}; it knows gtol, ftol, "
            f"maxiter and maxfun",
            UserWarning,
            stacklevel=4,
        )
    return Stop(**limits, when=None if calls is None else MaxEval(calls))


@dataclass(frozen=True, repr=False)
class MinimizeResult(Result):
    """What `minimize` returns: a `Result`, and how the gradient was had.

    Attributes
    ----------
    gradient : str
        "jac" (the one given), "fun returns it", "autodiff", "2-point" (by "3-point" at the end, where that
        knows more) or "3-point".
    """

    gradient: str


def descend(
    fun: Any,
    x0: Tree,
    args: Any,
    *,
    jac: Any,
    method: Any,
    bounds: Any,
    penalty: Any,
    stop: Any,
    callback: Any,
    batch: int,
    certify: bool,
    tol: Any,
    options: Any,
    negative: bool,
) -> MinimizeResult:
    """Minimise a function, or its negative: see `agd.minimize`, whose arguments these are.

    Parameters
    ----------
    fun, x0, args, jac, method, bounds, penalty, stop, callback, batch, certify, tol, options
        As there.
    negative : bool
        Whether it is the negative of `fun` that is minimised; the result is one of `fun`.

    Returns
    -------
    MinimizeResult
        What was found.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function of x, got {fun!r} ({type(fun).__name__})")
    args = args if isinstance(args, tuple) else (args,)
    stop = from_scipy(stop, tol, options)
    told = reporting(callback)
    if told is not None and negative:
        told = _Upright(told)
    point = writable_copy(as_point(x0, batch))
    like = optree.tree_leaves(point)[0]
    with backends.device_context(like):
        point, limits = within(point, bounds, batch)
        penalty = as_penalty(penalty, "L1(0.1)")
        prox = _needs_prox(penalty, limits)
        if certify and (batch or limits is not None or prox):
            raise ValueError(
                "certify=True looks at second derivatives, which say nothing at a bound or a kink, of one "
                "problem: got bounds, a penalty with a prox, or batch"
            )
        mover, rows = _mover(method, args, batch, prox=prox, bounds=limits is not None)
        how = choose_gradient(fun, jac, point, args, batch=batch)
        objective = FunctionObjective(
            _signed(how, negative),
            args,
            tuple(like.shape)[:batch],
            penalty,
            limits,
            value_calls=how.calls,
            compilable=_compilable(fun, jac, point, args),
            rows=rows,
        )
        if objective.nonsmooth:  # a set's nearest point: outside of it the objective is infinite
            point = objective.prox(point, 0.0)
        every = 1 if backends.of(like).host_accessible else 10
        tolerance = default_tolerance(point)
        found = run(
            mover, objective, point, stop, told, grad_tol=tolerance, check_every=every,
            differenced=_differenced(how, objective, point, tolerance**3, negative=negative),
        )  # fmt: skip
        check_start(found, negative=negative)
        if certify:
            seen = classify_result(
                found,
                objective,
                mover,
                (fun, jac, args),
                negative=negative,
                forward=how.name == "2-point",
            )
            found = replace(found, certificate=seen)
    return _told(_upright(found) if negative else found, how)


def _mover(
    method: Any, args: tuple[Any, ...], batch: int, *, prox: bool, bounds: bool
) -> tuple[Any, int | None]:
    """Return the method, and how many rows it draws from; None where it draws none."""
    rows, why = (None, f"batch={batch}") if batch else shared_rows(args)
    named = "lbfgs" if method is None else method
    mover = solver(named, prox=prox, bounds=bounds, rows=rows is not None)
    if rows is None and mover.stochastic:
        raise ValueError(
            f"{mover.name} draws mini-batches of rows, for one problem whose fun is a mean over them: all "
            f"arrays in args must lie in memory and share their first axis, as X (n, p) and y (n,) do; got "
            f"{why}. Other methods, such as 'lbfgs', need no rows"
        )
    return mover, rows if mover.stochastic else None


def _signed(how: Gradient, negative: bool) -> Callable[..., tuple[Array, Tree]]:
    return _Negative(how.value_and_grad) if negative else how.value_and_grad


def _differenced(
    how: Gradient, objective: FunctionObjective, point: Tree, eps: float, *, negative: bool
) -> Differenced | None:
    """Return what a run is to know of finite differences; None where the gradient is exact."""
    if how.name == "3-point":
        return Differenced(eps)
    if how.name != "2-point":
        return None
    finer = central(how, point)
    pair = _signed(finer, negative)
    return Differenced(eps, replace(objective, pair=pair, value_calls=finer.calls))


def _told(found: Result, how: Gradient) -> MinimizeResult:
    """Return a run's result in the words of `agd.minimize`, with what it spent before the run."""
    known = {field.name: getattr(found, field.name) for field in fields(Result)}
    known["n_sync"] += 1
    known["nfev"] += how.probes
    known["message"] = found.message.replace("(init=)", "(x0=)")
    return MinimizeResult(**known, gradient=how.name)


@dataclass(frozen=True)
class _Negative:
    """The negative of a value and gradient; equal for equal ones, so that a compiled step is found."""

    pair: Callable[..., tuple[Array, Tree]]

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        value, grad = self.pair(params, *args, bounds=bounds)
        return -value, optree.tree_map(operator.neg, grad)


@dataclass(frozen=True)
class _Upright:
    """A callback that is told of the function to maximise."""

    told: Callable[[Result], object]

    def __call__(self, result: Result) -> object:
        return self.told(_upright(result))


def _upright(found: Result) -> Result:
    """Return a result of the negative as one of the function."""
    history = found.history._replace(value=-found.history.value)
    jac = optree.tree_map(operator.neg, found.jac)
    return replace(found, fun=-found.fun, jac=jac, history=history)


def _needs_prox(penalty: Penalty | None, limits: Any) -> bool:
    """Return whether a penalty is left to its prox; refuse one that has none beside bounds."""
    if penalty is None:
        return False
    if limits is not None and not (penalty.smooth or penalty.separable):
        raise ValueError(
            f"penalty {penalty!r} couples entries, and of such a one within bounds no prox is known: give "
            f"one of the two, or a penalty of single entries such as agd.loss.L1 or agd.loss.Box"
        )
    return not penalty.smooth


def _compilable(fun: Any, jac: Any, point: Tree, args: tuple[Any, ...]) -> bool:
    """Return whether a library that compiles can trace the functions."""
    traces = backends.of(optree.tree_leaves(point)[0]).is_traceable
    if traces is None:
        return True
    return traces(fun, point, *args) and (not callable(jac) or traces(jac, point, *args))


def minimize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    method: str | Rule | Method | None = "lbfgs",
    bounds: Any = None,
    penalty: Penalty | None = None,
    stop: Stop | Criterion | None = None,
    callback: Callable[..., object] | None = None,
    batch: int = 0,
    certify: bool = False,
    tol: float | None = None,
    options: dict[str, Any] | None = None,
) -> MinimizeResult:
    r"""Minimise a function of an array or of a tree of arrays by descent.

    ::

        min over x of  fun(x, *args) + penalty(x),    low <= x <= high

    The result comes back in the structure, library, dtype and device of `x0`; nothing is written to what
    you pass. A script written for ``scipy.optimize.minimize`` needs only another import, as long as its
    method is one that follows the gradient and it has neither `hess` nor `constraints`.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number; with `batch`, an array with one number for each problem. It is called
        with arrays of the library of `x0`.
    x0 : array, list of numbers, or tree of arrays
        The first point: an array of any shape, or a dict, list, tuple or NamedTuple of arrays. Integers
        and half precision become the library's default float, in which `fun` is called and the result
        comes back. A single number is an array of shape () (in SciPy, of (1,)).
    args : tuple
        Further arguments of `fun` and `jac`; what is no tuple is the only one. The methods "sgd" and
        "svrg" call these with mini-batches: with some of the rows of all arrays in it, which must share
        their first axis, such as X (n, p) and y (n,). `fun` must then be a mean over the rows.
    jac : callable, True, "autodiff", "2-point", "3-point" or None
        The gradient: ``jac(x, *args)`` in the structure of x; True if `fun` returns the pair of value
        and gradient; the library's automatic differentiation (PyTorch, JAX); finite differences, at one
        or two calls of `fun` for each entry. Where 2-point differences know no more of the gradient, as
        at the end, they make way for 3-point ones. None is autodiff where the library has it and can follow
        `fun`, and 2-point elsewhere; ``result.gradient`` says which.
    method : str, Rule, Method or None
        ``"lbfgs"`` (and None, "BFGS", "L-BFGS-B"), which within bounds is projected L-BFGS and with a
        penalty that has a prox accelerated proximal gradient; another name in ``agd.update.SOLVERS`` or ``agd.update.METHODS``;
        a rule such as ``agd.update.adam(0.1)``; or an object such as ``agd.update.cg()``. None of the
        names needs a step. ``result.method`` says what was done.
    bounds : sequence of pairs, object with lb and ub, or tree of these, optional
        For an array (low, high) for each entry (with `batch`, of each problem or of all), with None for a
        side that is open, or an object such as ``scipy.optimize.Bounds``; for a tree, in its structure,
        one of these for each leaf, or one pair for all its entries. All points at which `fun` is called lie within them.
    penalty : Penalty, optional
        What is added to `fun`, such as ``agd.loss.L1(0.1)``, for each leaf along its last axis. Beside
        bounds, one that is smooth or treats every entry by itself.
    stop : Stop or criterion, optional
        When to stop, such as ``agd.Stop(max_iter=100)`` or ``agd.GradTol(1e-8) | agd.Deadline(10)``; by
        default a gradient with no entry above eps^(1/3) (6e-6 in float64, 5e-3 in float32), or by
        differences above their error 4 eps^(2/3) |f|, if that is more (``result.certificate.tolerance``
        says what it was), or 10,000 iterations.
    callback : callable, optional
        Called after every iteration (where looking costs a transfer, every ``stop.check_every``
        evaluations). As in SciPy, one whose only parameter is ``intermediate_result`` gets the result so
        far, any other the point. It ends the run by raising StopIteration or returning True: Python's or
        NumPy's, or an array of one bool. What else it returns is ignored, a number or list too.
    batch : int
        How many leading axes of every leaf number independent problems: with 1, x0 (b, ...) are b
        problems in one run, each with its own step, line search, status and count.
    certify : bool
        Whether to find out what kind of point was found, from second derivatives (see
        ``agd.critical_point``): ``result.certificate.kind`` is then "minimum", "saddle", ..., with the
        extreme curvatures there. Where the run stopped at a gradient larger than that asks for, such as
        with ``agd.GradTol(1e-2)``, its limit says what is critical. Calls of `fun` for this are not
        counted. For one problem without bounds.
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
    answer from the host between two looks. ``nit`` counts accepted steps, ``nfev`` calls of `fun`. For
    `fun` differentiated by PyTorch that includes the one which finds out whether autograd can follow it.

    On JAX the steps are compiled where `fun` can be traced. One that branches on a value
    (``if x[0] < 0``) is differentiated as it runs, and one that leaves JAX (``float(x[0])``, NumPy) by
    differences; ``result.method`` then ends in "not compiled". What is called for tracing is not counted.
    Every call traces `fun` anew, so that the answer is that of the function as it is then, whatever it reads:
    attributes, globals, arrays that were written to. What was compiled is used again only where the
    trace is the same but for the values of its arrays, and the method and the penalty are of this
    library; what is compiled for a penalty or a rule of your own serves one call. What changes while a
    call runs (in its `callback`) is not seen. Data are best passed as `args`.

    A value or gradient that is not finite is a step too far: it is cut back. If nothing else is found to
    the last, the status is NON_FINITE, and x the last point where both are finite.

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
    return descend(
        fun, x0, args, jac=jac, method=method, bounds=bounds, penalty=penalty, stop=stop,
        callback=callback, batch=batch, certify=certify, tol=tol, options=options, negative=False,
    )  # fmt: skip


def maximize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    method: str | Rule | Method | None = "lbfgs",
    bounds: Any = None,
    penalty: Penalty | None = None,
    stop: Stop | Criterion | None = None,
    callback: Callable[..., object] | None = None,
    batch: int = 0,
    certify: bool = False,
    tol: float | None = None,
    options: dict[str, Any] | None = None,
) -> MinimizeResult:
    """Maximise a function: minimise its negative, and report the function.

    Parameters
    ----------
    fun, x0, args, jac
        As for `minimize`; `fun` and `jac` are the function to maximise and its gradient.
    method, bounds, stop, callback, batch, certify, tol, options
        As for `minimize`.
    penalty : Penalty, optional
        What is taken off `fun`.

    Returns
    -------
    MinimizeResult
        With `fun`, `jac` and the history's values those of the function to maximise, less the penalty, and
        the certificate's kind that of its point. The message and the certificate's curvatures are those of
        the negative, which falls.

    Raises
    ------
    TypeError, ValueError
        As `minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> found = agd.maximize(lambda x: 3.0 - (x - 1.0) ** 2, np.asarray(0.0))
    >>> round(float(found.x), 4), round(found.fun, 4)
    (1.0, 3.0)
    """
    return descend(
        fun, x0, args, jac=jac, method=method, bounds=bounds, penalty=penalty, stop=stop,
        callback=callback, batch=batch, certify=certify, tol=tol, options=options, negative=True,
    )  # fmt: skip
