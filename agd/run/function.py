"""A run on any function: from what `agd.minimize` is given to its result."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import optree

from agd import backends
from agd._typing import Array, Penalty, Tree
from agd._validation import as_point, own
from agd.gradient import FunctionObjective, choose_gradient, shared_rows
from agd.gradient.differentiate import Gradient, central
from agd.loss.base import as_penalty
from agd.run.critical import with_kind
from agd.run.differenced import Differenced
from agd.run.loop import run
from agd.run.options import from_scipy, reporting
from agd.run.result import Result
from agd.run.start import check_start, default_tolerance, within
from agd.update import solver

__all__ = ["MinimizeResult", "descend"]


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
    point = own(as_point(x0, batch))
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
            seen = with_kind(
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
    if rows is None and hasattr(mover, "draw"):
        raise ValueError(
            f"{mover.name} draws mini-batches of rows, for one problem whose fun is a mean over them: all "
            f"arrays in args must lie in memory and share their first axis, as X (n, p) and y (n,) do; got "
            f"{why}. Other methods, such as 'lbfgs', need no rows"
        )
    return mover, rows if hasattr(mover, "draw") else None


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
