"""Door: minimise or maximise any function of a tree of arrays.

`minimize` and `maximize` check their arguments, choose the gradient and the solver, and hand the function
to the loop in ``agd.run`` as a `FunctionObjective`. SciPy's spellings of stopping rules and callbacks are
translated here, so that nothing behind the door knows of them.
"""

from __future__ import annotations

import contextlib
import math
import operator
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Method, Penalty, Tree
from agd._validation import (
    as_bounds,
    as_count,
    as_flag,
    as_nonnegative,
    as_point,
    check_point,
    writable_copy,
)
from agd.gradient import Bounds, FunctionObjective, choose_gradient, shared_rows
from agd.gradient.derivatives import Differences, Gradient, central
from agd.loss.base import as_penalty
from agd.run.diagnosis import classify_result
from agd.run.loop import (
    FiniteDifferences,
    attach_result,
    attached_result,
    callback_of_results,
    run,
)
from agd.run.result import Result, Status
from agd.run.stopping import Criterion, Deadline, MaxEval, Stop, as_stop, default_tolerance
from agd.update import Rule, solver

__all__ = ["MinimizeResult", "maximize", "minimize"]


@dataclass(frozen=True, repr=False)
class MinimizeResult(Result):
    """What `minimize` returns: a `Result`, and where the gradient came from.

    Attributes
    ----------
    gradient : str
        "jac" (the one given), "fun returns it", "autodiff", "2-point" (by "3-point" at the end, where that
        is more accurate) or "3-point".
    """

    gradient: str


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
        penalty that has a prox accelerated proximal gradient; another name in ``agd.update.MINIMIZERS`` or ``agd.update.RULES``;
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
        differences above their error 4 eps^(2/3) |f|, if that is more, and above a hundredth of the first
        gradient (``result.certificate.tolerance`` says what it was); or 10,000 iterations.
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
    KeyboardInterrupt
        As it was raised, with the result so far as its attribute ``result``.

    Notes
    -----
    Each step evaluates `fun` and its gradient together, once, at the trial point of a line search, and the
    host then reads a handful of numbers, once, and decides (``agd.update.StrongWolfe``). ``nit`` counts accepted steps, ``nfev`` calls of `fun`. For
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
    >>> result = agd.minimize(lambda p: np.sum((p["w"] - p["b"]) ** 2) + p["b"] ** 2, tree)
    >>> sorted(result.x), result.x["w"].shape
    (['b', 'w'], (2,))
    """
    return _minimize(
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
    >>> result = agd.maximize(lambda x: 3.0 - (x - 1.0) ** 2, np.asarray(0.0))
    >>> round(float(result.x), 4), round(result.fun, 4)
    (1.0, 3.0)
    """
    return _minimize(
        fun, x0, args, jac=jac, method=method, bounds=bounds, penalty=penalty, stop=stop,
        callback=callback, batch=batch, certify=certify, tol=tol, options=options, negative=True,
    )  # fmt: skip


def _minimize(
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
    """Minimise a function, or with `negative` its negative; the other arguments are those of `minimize`."""
    if not callable(fun):
        raise TypeError(f"fun must be a function of x, got {fun!r} ({type(fun).__name__})")
    certify = as_flag("certify", certify)
    args = args if isinstance(args, tuple) else (args,)
    stop = _stop_from_scipy(stop, tol, options)
    on_iteration = callback_of_results(callback)
    if on_iteration is not None and negative:
        on_iteration = _NegatedCallback(on_iteration)
    point = writable_copy(as_point(x0, batch))
    with backends.device_context(optree.tree_leaves(point)[0]), _explain_indexing(point):
        point, limits = _project_start(point, bounds, batch)
        penalty = as_penalty(penalty, "L1(0.1)")
        prox = _needs_prox(penalty, limits)
        if certify and (batch or limits is not None or prox):
            raise ValueError(
                "certify=True looks at second derivatives, which say nothing at a bound or a kink, of one "
                "problem: got bounds, a penalty with a prox, or batch"
            )
        chosen, rows = _choose_solver(method, args, batch, prox=prox, bounds=limits is not None)
        gradient = _within_deadline(
            choose_gradient(fun, jac, point, args, batch=batch), point, stop
        )
        objective = FunctionObjective(
            _value_and_grad(gradient, negative),
            args,
            tuple(optree.tree_leaves(point)[0].shape)[:batch],
            penalty,
            limits,
            value_calls=gradient.calls,
            compilable=_can_trace(fun, jac, point, args),
            rows=rows,
        )
        result = _run(chosen, objective, gradient, point, stop, on_iteration, negative=negative)
        if certify:
            certificate = classify_result(
                result,
                objective,
                chosen,
                (fun, jac, args),
                negative=negative,
                forward=gradient.name == "2-point",
            )
            result = _with_certificate(
                result, certificate, wanted="maximum" if negative else "minimum"
            )
    return _as_minimize_result(_negate_result(result) if negative else result, gradient)


@contextlib.contextmanager
def _explain_indexing(point: Tree) -> Iterator[None]:
    """Say what shape x has where a function, as those for SciPy do, takes an entry of one that is a number."""
    try:
        yield
    except IndexError as error:
        if backends.is_array(point) and point.ndim == 0:
            raise IndexError(
                "fun takes an entry of x, which has shape () where x0 is a number (in SciPy it has (1,)): give x0 "
                f"as a list, or let fun compute with x itself ({error})"
            ) from error
        raise


def _run(
    chosen: Any,
    objective: FunctionObjective,
    gradient: Gradient,
    point: Tree,
    stop: Any,
    on_iteration: Callable[[Result], object] | None,
    *,
    negative: bool,
) -> Result:
    """Run the loop with the tolerances of the point's dtype, and refuse a start that is not finite."""
    if (
        objective.nonsmooth
    ):  # outside of a set the objective is infinite: begin at its nearest point
        point = objective.prox(point, 0.0)
    # Where the host reads the arrays for free, it looks at every step.
    every = 1 if backends.of(optree.tree_leaves(point)[0]).host_accessible else 10
    tolerance = default_tolerance(point)
    differences = _finite_differences(
        gradient, objective, point, eps=tolerance**3, negative=negative
    )
    try:
        result = run(
            chosen, objective, point, stop, on_iteration, grad_tol=tolerance, check_every=every,
            differences=differences, value_eps=tolerance**3 if differences is None else tolerance**2,
        )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        result = attached_result(interrupt)
        if result is not None:
            result = _negate_result(result) if negative else result
            attach_result(interrupt, _as_minimize_result(result, gradient))
        raise
    _check_start(result, negative=negative)
    return result


def _with_certificate(result: Result, certificate: Any, *, wanted: str) -> Result:
    """Return the result with its certificate; a run that ended where no such extremum is has not succeeded."""
    result = replace(result, certificate=certificate)
    kind = certificate.kind
    if not result.success or kind == wanted or kind not in {"minimum", "maximum", "saddle"}:
        return result
    words = Status.NO_MINIMUM.message(int(result.nit)).replace(
        "a point that is no minimum", f"a {kind}"
    )
    return replace(result, status=Status.NO_MINIMUM, success=False, message=words)


def _project_start(point: Tree, bounds: Any, batch: int) -> tuple[Tree, Bounds | None]:
    """Check the first point's values and project it onto the bounds, with a warning if that moves it."""
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


def _check_start(result: Result, *, negative: bool = False) -> None:
    """Refuse a function whose value or gradient is not finite at x0: no descent starts from there."""
    value = np.asarray(result.history.value[0])
    finite = np.isfinite(value) & np.isfinite(result.history.grad_norm[0])
    broken = ~finite & (np.asarray(result.status) == Status.NON_FINITE) | ~np.isfinite(value)
    if not broken.any():
        return
    problem = "" if value.ndim == 0 else f" of problem {int(np.flatnonzero(broken)[0])}"
    start_value = float(value[broken][0]) if value.ndim else float(value)
    if not np.isfinite(start_value):
        shown = -start_value if negative else start_value
        raise ValueError(f"fun must be finite at x0{problem}, got {shown!r}")
    kind = "NaN" if np.isnan(result.history.grad_norm[0][broken]).any() else "infinite"
    raise ValueError(f"the gradient must be finite at x0{problem}: it is {kind} there")


def _choose_solver(
    method: Any, args: tuple[Any, ...], batch: int, *, prox: bool, bounds: bool
) -> tuple[Any, int | None]:
    """Return the solver, and how many rows it draws mini-batches from; None where it draws none."""
    rows, reason = (None, f"batch={batch}") if batch else shared_rows(args)
    name = "lbfgs" if method is None else method
    chosen = solver(name, prox=prox, bounds=bounds, rows=rows is not None)
    if rows is None and chosen.stochastic:
        raise ValueError(
            f"{chosen.name} draws mini-batches of rows, for one problem whose fun is a mean over them: all "
            f"arrays in args must lie in memory and share their first axis, as X (n, p) and y (n,) do; got "
            f"{reason}. Other methods, such as 'lbfgs', need no rows"
        )
    return chosen, rows if chosen.stochastic else None


def _value_and_grad(gradient: Gradient, negative: bool) -> Callable[..., tuple[Array, Tree]]:
    pair = gradient.value_and_grad
    return _NegatedFunction(pair) if negative else pair


def _finite_differences(
    gradient: Gradient, objective: FunctionObjective, point: Tree, *, eps: float, negative: bool
) -> FiniteDifferences | None:
    """Return what the loop has to know of finite differences; None where the gradient is exact."""
    how = gradient.value_and_grad
    if not isinstance(how, Differences):
        return None

    def value_at(params: Tree) -> Array:
        value = how.value(params, *objective.args)
        value = -value if negative else value
        return value if objective.penalty is None else value + objective.added(params)

    if gradient.name == "3-point":
        return FiniteDifferences(eps, value_at)
    finer = central(gradient, point)
    pair = _value_and_grad(finer, negative)
    return FiniteDifferences(eps, value_at, replace(objective, pair=pair, value_calls=finer.calls))


def _as_minimize_result(result: Result, gradient: Gradient) -> MinimizeResult:
    """Add the gradient's source, and what was spent to choose it: one read, and its calls of `fun`."""
    fields = dict(result)
    fields["n_sync"] += 1
    fields["nfev"] += gradient.probes
    fields["message"] = result.message.replace("(init=)", "(x0=)")
    return MinimizeResult(**fields, gradient=gradient.name)


@dataclass(frozen=True)
class _NegatedFunction:
    """The negative of a value and gradient.

    It is a class and no closure, so that negatives of equal functions are equal, and a step that was
    compiled for one serves the other.
    """

    pair: Callable[..., tuple[Array, Tree]]

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        value, grad = self.pair(params, *args, bounds=bounds)
        return -value, optree.tree_map(operator.neg, grad)


@dataclass(frozen=True)
class _NegatedCallback:
    """A callback that is given results of the function to maximise."""

    on_iteration: Callable[[Result], object]

    def __call__(self, result: Result) -> object:
        return self.on_iteration(_negate_result(result))


def _negate_result(result: Result) -> Result:
    """Return a result of the negative as one of the function."""
    history = result.history._replace(value=-result.history.value)
    jac = optree.tree_map(operator.neg, result.jac)
    return replace(result, fun=-result.fun, jac=jac, history=history)


@dataclass
class _TimedFunction:
    """A function that is called no more once its time is up, so that a gradient by differences ends then.

    From there on it is NaN, a point that no step is taken to; the first call is made in any case.
    """

    fun: Callable[..., Any]
    end: float
    unknown: Any = None

    def __call__(self, *args: Any) -> Any:
        if self.unknown is not None and time.monotonic() > self.end:
            return self.unknown
        value = self.fun(*args)
        if self.unknown is None:
            self.unknown = value * math.nan
        return value


def _within_deadline(gradient: Gradient, point: Tree, stop: Stop | Criterion | None) -> Gradient:
    """Let differences end at the deadline, of which each takes many calls; what is compiled is not stopped."""
    when = as_stop(stop).when
    seconds = [x.seconds for x in (when.parts() if when else ()) if isinstance(x, Deadline)]
    how = gradient.value_and_grad
    compiles = backends.of(optree.tree_leaves(point)[0]).compiles
    if not seconds or not isinstance(how, Differences) or compiles:
        return gradient
    timed = _TimedFunction(how.fun, time.monotonic() + min(seconds))
    return gradient._replace(value_and_grad=replace(how, fun=timed))


def _needs_prox(penalty: Penalty | None, limits: Any) -> bool:
    """Return whether the solver has to apply the penalty's prox; refuse coupled entries beside bounds."""
    if penalty is None:
        return False
    if limits is not None and not (penalty.smooth or penalty.separable):
        raise ValueError(
            f"penalty {penalty!r} couples entries, and of such a one within bounds no prox is known: give "
            f"one of the two, or a penalty of single entries such as agd.loss.L1 or agd.loss.Box"
        )
    return not penalty.smooth


def _can_trace(fun: Any, jac: Any, point: Tree, args: tuple[Any, ...]) -> bool:
    """Return whether a library that compiles can trace the functions."""
    traces = backends.of(optree.tree_leaves(point)[0]).is_traceable
    if traces is None:
        return True
    return traces(fun, point, *args) and (not callable(jac) or traces(jac, point, *args))


# SciPy's options that limit a run, and the fields of `Stop` that they stand for.
STOP_FIELDS = {"gtol": "grad_tol", "ftol": "value_tol", "maxiter": "max_iter"}


def _stop_from_scipy(stop: Any, tol: float | None, options: dict[str, Any] | None) -> Any:
    """Return `stop`, or what SciPy's `tol` and `options` mean where they are given.

    ``disp`` is accepted and ignored, since a result prints itself; other options that mean nothing here
    are warned of.

    >>> _stop_from_scipy(None, None, {"maxiter": 20}).max_iter
    20
    """
    if tol is None and options is None:
        return stop
    if stop is not None:
        raise ValueError("stop and SciPy's tol or options say the same thing: give one of them")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"options must be a dict such as {{'maxiter': 100}}, got {options!r}")
    remaining = {name: value for name, value in (options or {}).items() if value is not None}
    remaining.pop("disp", None)
    known = {
        name: remaining.pop(name)
        for name in (*STOP_FIELDS, "maxfev", "maxfun")
        if name in remaining
    }
    for name, value in known.items():
        check = as_nonnegative if name.endswith("tol") else as_count
        check(f"options[{name!r}]", value)
    limits = {STOP_FIELDS[name]: value for name, value in known.items() if name in STOP_FIELDS}
    if tol is not None:
        limits.setdefault("grad_tol", as_nonnegative("tol", tol))
    calls = known.get("maxfun", known.get("maxfev"))
    if remaining:
        unknown = ", ".join(map(repr, remaining))
        warnings.warn(
            f"options that agd.minimize does not know and ignores: {unknown}; it knows gtol, ftol, "
            f"maxiter and maxfun",
            UserWarning,
            stacklevel=4,
        )
    return Stop(**limits, when=None if calls is None else MaxEval(calls))
