"""Door: least squares of any residuals, and curves through data, one problem or many at once.

`least_squares` and `curve_fit` check their arguments and choose where the Jacobian comes from
(``gradient/residuals.py``); the steps are those of ``update/levenberg_marquardt.py``, and limits, callbacks and
results those of ``agd.run``.
"""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import TreeLayout, as_scalar
from agd._typing import Array, HostArray, Tree
from agd._validation import (
    as_bounds,
    as_choice,
    as_count,
    as_flag,
    as_point,
    as_positive,
    check_point,
    warn_dependent,
    warn_unconverged,
    writable_copy,
)
from agd.gradient.residuals import RESIDUAL_LOSSES, choose_residuals
from agd.run.certificate import Certificate
from agd.run.loop import asks_to_end, callback_of_results, status_message
from agd.run.observation import Observation
from agd.run.result import History, HistoryLog, Result, Status
from agd.run.stopping import Criterion, GradTol, RunProgress, Stop, as_stop
from agd.update.levenberg_marquardt import (
    FitState,
    LevenbergMarquardt,
)

__all__ = ["CurveFit", "LeastSquaresResult", "curve_fit", "least_squares"]

METHODS = ("lm", "lm-geodesic", "gauss-newton")
# SciPy's other names, whose problems "lm" solves: it takes bounds, too.
SCIPY_METHODS = ("trf", "dogbox")

# From so many problems on, the normal equations are formed on the device.
MAX_TRIANGULAR_PROBLEMS = 32
# A block of problems in the host's memory whose residuals and Jacobian stay in cache.
BLOCK_BYTES = 2**23
# Problems that have ended are taken out where they are this share: a new shape costs a library that compiles more.
MIN_ENDED_SHARE, MIN_ENDED_SHARE_COMPILED = 0.1, 0.75
# What is left of a block is solved together with what is left of others from this share on.
MAX_POOLED_SHARE = 0.2
# The relative error of a Jacobian, as a power of the rounding.
NOISE_POWER = {"jac": 1.0, "autodiff": 1.0, "2-point": 0.7, "3-point": 0.7}

ADVICE = {
    Status.LINE_SEARCH: (
        "no step lowers the sum of squares, though the linear model of the residuals promises one: either the "
        "precision of the arithmetic is reached or the Jacobian is wrong"
    ),
    Status.UNBOUNDED: (
        "the sum of squares falls only while a parameter grows without bound: start elsewhere, or give bounds"
    ),
    Status.NO_MINIMUM: (
        "the sum of squares has no single minimum: the columns of the Jacobian are linearly dependent"
    ),
    Status.NON_FINITE: (
        "the residuals or their Jacobian are not finite: returned the last finite point; check the data and the "
        "function there"
    ),
}


@dataclass(frozen=True, repr=False)
class LeastSquaresResult(Result):
    """What `least_squares` returns; for a batch the numbers are NumPy arrays, one entry a problem.

    Attributes
    ----------
    x : tree of arrays
        The point, in the structure, library, dtype and device of x0.
    cost : float
        Half the sum of squares there; of a robust loss half the sum of ``f_scale² rho((f / f_scale)²)``.
    fun : array, shape (n,) or (b, n)
        The residuals there, as the function gives them.
    jac : array, shape (n, p) or (b, n, p)
        A Jacobian J such that J'J is the Gauss-Newton approximation of the cost's Hessian: that of `fun` but for
        weights and a robust loss. Its columns are the entries of x, leaf by leaf.
    grad : tree of arrays
        The gradient of the cost, like x.
    optimality : float
        The largest absolute entry of the gradient that does not point out of the bounds.
    active_mask : tree of arrays of int
        -1 or 1 for an entry at its lower or upper bound, else 0.
    jacobian : str
        Where the Jacobian came from: "jac", "autodiff", "2-point" (by "3-point" at the end) or "3-point".
    """

    cost: Any = None
    grad: Any = None
    optimality: Any = None
    active_mask: Any = None
    jacobian: str = ""


def least_squares(
    residuals: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    bounds: Any = None,
    method: str = "lm",
    loss: str = "linear",
    f_scale: float = 1.0,
    x_scale: Any = "jac",
    weights: Any = None,
    stop: Stop | Criterion | None = None,
    batch: int = 0,
    callback: Callable[..., object] | None = None,
) -> LeastSquaresResult:
    r"""Minimise a sum of squares of residuals, or of a robust loss of them.

    ::

        min over x of  1/2 sum_i w_i f_i(x, *args)²,    low <= x <= high

    Parameters
    ----------
    residuals : callable
        ``residuals(x, *args)``: the residuals f, an array of any shape; with `batch` of shape (b, n). It is called
        with arrays of the library of `x0`.
    x0 : array, list of numbers, or tree of arrays
        The first point, as for `agd.minimize`.
    args : tuple
        Further arguments of `residuals` and `jac`; what is no tuple is the only one. Of a batch, arrays of two axes
        or more whose first has the length b have a row for each problem; all others are shared.
    jac : callable, "autodiff", "2-point", "3-point" or None
        The Jacobian: ``jac(x, *args)``, an array (n, p), of a batch (b, n, p), of a tree x one for each leaf; the
        library's automatic differentiation (PyTorch, JAX), in forward mode; or differences, at one or two calls of
        `residuals` for each entry. A single problem that ends by 2-point differences goes on by 3-point ones. None is
        autodiff where the library has it and can follow `residuals`, and 2-point elsewhere.
    bounds : pair of arrays, object with lb and ub, or tree of these, optional
        (low, high), each a number for all entries or one for each, as SciPy has it; for a tree as for
        `agd.minimize`. `residuals` is never called outside of them.
    method : {"lm", "lm-geodesic", "gauss-newton"}
        Levenberg-Marquardt; with geodesic acceleration, which follows curved valleys at one more evaluation a step;
        or without damping until a step fails. "trf" and "dogbox" are taken for "lm".
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"}
        The loss rho of the squared residuals, as SciPy's.
    f_scale : float
        The size of a residual from which on a robust loss takes it for an outlier.
    x_scale : "jac", number or array
        The unit of each parameter; "jac" is what changes the residuals by 1 at the most so far.
    weights : array, shape (n,) or (b, n), optional
        w: 0 or more for each residual.
    stop : Stop or criterion, optional
        Limits beside the tests below, such as ``agd.Stop(max_iter=100)`` or ``agd.Deadline(10)``; 10,000 steps by
        default. A test of convergence in it is added to these.
    batch : {0, 1}
        1 for x0 (b, ...): b problems in one run, each with its own damping, status and count.
    callback : callable, optional
        Called after every step, as for `agd.minimize`.

    Returns
    -------
    LeastSquaresResult
        The point, the cost, residuals, Jacobian, gradient, and how the run ended.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for one problem whose residuals or Jacobian are not finite at x0.

    Warns
    -----
    RankWarning
        Where the columns of the Jacobian are dependent at a point with residuals; it is not called converged.

    Notes
    -----
    A run has converged where no linear model of full rank can remove more than 1e-8 of the length of the
    residuals, where the Gauss-Newton step moves no parameter by more than 1e-10 of itself, or where rounding
    hides what is left. No unit of x or of the residuals changes that (``agd.update.levenberg_marquardt``).
    A residual that is not finite is a step too far: it is cut back.

    ``nfev`` counts calls of `residuals`, those for differences too; ``njev`` counts Jacobians.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> def rosenbrock(x):
    ...     return np.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])
    >>> result = agd.least_squares(rosenbrock, [-1.2, 1.0])
    >>> result.x.round(6), result.status.name
    (array([1., 1.]), 'CONVERGED')
    >>> agd.least_squares(rosenbrock, [-1.2, 1.0], bounds=(-2.0, [0.5, 2.0])).x.round(6)
    array([0.5 , 0.25])
    """
    if not callable(residuals):
        raise TypeError(
            f"residuals must be a function of x, got {residuals!r} ({type(residuals).__name__})"
        )
    args = args if isinstance(args, tuple) else (args,)
    fit = _minimise_residuals(
        residuals, x0, args, jac=jac, bounds=bounds, method=method, loss=loss, f_scale=f_scale,
        x_scale=x_scale, weights=weights, stop=stop, batch=batch, callback=callback,
    )  # fmt: skip
    result = fit.result()
    if fit.dependent_names():
        warn_dependent(result.message)
    return result


def _minimise_residuals(
    residuals: Callable[..., Any],
    x0: Tree,
    args: tuple[Any, ...],
    *,
    jac: Any,
    bounds: Any,
    method: str,
    loss: str,
    f_scale: float,
    x_scale: Any,
    weights: Any,
    stop: Any,
    batch: int,
    callback: Any,
) -> _Fit:
    """Check the arguments of `least_squares`, and run the fit."""
    if as_count("batch", batch, least=0) > 1:
        raise ValueError(f"batch must be 0 or 1, got {batch}: reshape x0 to one axis of problems")
    name = as_choice("method", method, (*METHODS, *SCIPY_METHODS))
    as_choice("loss", loss, tuple(RESIDUAL_LOSSES))
    as_positive("f_scale", f_scale)
    on_iteration = callback_of_results(callback)
    if name == "lm-geodesic" and loss != "linear":
        raise ValueError(f"method='lm-geodesic' needs loss='linear', got loss={loss!r}")
    point = writable_copy(as_point(x0, batch))
    with backends.device_context(optree.tree_leaves(point)[0]):
        point, limits = _start_within_bounds(point, bounds, batch)
        like = optree.tree_leaves(point)[0]
        problem = choose_residuals(
            residuals, jac, point, args, batch=batch, bounds=limits, loss=loss, f_scale=f_scale,
            root_weight=_root_weights(weights, like, batch),
        )  # fmt: skip
        fit = _Fit(problem, point, batch, name, as_stop(stop), on_iteration)
        with backends.count_host_reads() as reads:
            fit.run(_parameter_scale(x_scale, fit))
        fit.n_sync = reads[0]
    return fit


class _BoundPair:
    """SciPy's pair of bounds as an object that `as_bounds` takes."""

    def __init__(self, low: Any, high: Any) -> None:
        self.lb, self.ub = low, high


def _start_within_bounds(
    point: Tree, bounds: Any, batch: int
) -> tuple[Tree, tuple[Tree, Tree] | None]:
    """Check the first point's values and bring it within the bounds, with a warning if that moves it."""
    limits = None
    if bounds is not None:
        is_pair = backends.is_array(point) and isinstance(bounds, tuple | list) and len(bounds) == 2
        limits = as_bounds(_BoundPair(*bounds) if is_pair else bounds, point, batch)
        if all(_is_open(side) for side in limits):
            limits = None
    outside = check_point(point, limits)
    if limits is None or not outside:
        return point, limits
    entries = "1 entry" if outside == 1 else f"{outside} entries"
    warnings.warn(
        f"x0 lies outside the bounds in {entries}: moved to the nearest point within them",
        UserWarning,
        stacklevel=4,
    )

    def within(x: Array, low: Array, high: Array) -> Array:
        xp = backends.namespace(x)
        return xp.minimum(xp.maximum(x, low), high)

    tree: Any = point
    return optree.tree_map(within, tree, *limits), limits


def _is_open(side: Tree) -> bool:
    return all(bool(np.isinf(backends.to_numpy(leaf)).all()) for leaf in optree.tree_leaves(side))


def _root_weights(weights: Any, like: Array, batch: int) -> Any:
    """Return the square roots of the weights as rows, in the library of x."""
    if weights is None:
        return None
    if not backends.is_array(weights):
        weights = backends.to_device_of(np.asarray(weights, dtype=float), like)
    elif isinstance(weights, np.ndarray):
        weights = backends.to_device_of(weights, like)
    xp = backends.namespace(weights)
    weights = xp.astype(weights, like.dtype, copy=False)
    least = float(backends.to_numpy(xp.min(weights)))
    if not least >= 0.0:
        raise ValueError(f"weights must be 0 or more, got {least!r} among them")
    rows = xp.reshape(weights, (1, -1)) if weights.ndim < 2 or not batch else weights
    return xp.sqrt(rows)


def _parameter_scale(x_scale: Any, fit: _Fit) -> Any:
    """Return 1 over the units of the parameters, shape (b, p); None for those of the Jacobian."""
    if isinstance(x_scale, str):
        as_choice("x_scale", x_scale, ("jac",))
        return None
    host = np.asarray(backends.to_numpy(x_scale) if backends.is_array(x_scale) else x_scale)
    if host.dtype.kind not in "fiu" or not (np.isfinite(host).all() and (host > 0).all()):
        raise ValueError(f"x_scale must be 'jac' or finite numbers above 0, got {x_scale!r}")
    shape = tuple(fit.x.shape)
    try:
        rows = np.broadcast_to(
            host.astype(float).reshape((-1,) if host.ndim < 2 else host.shape), shape
        )
    except ValueError:
        raise ValueError(
            f"x_scale must be a number or one for each of the {shape[1]} parameters, got shape {host.shape}"
        ) from None
    return backends.to_device_of(1.0 / rows, fit.x)


class _Fit:
    """A run of `LevenbergMarquardt` on a problem or on blocks of problems, with limits, callback and history.

    Parameters
    ----------
    problem : ResidualFunction or CompiledResiduals
        What is minimised.
    point : tree of arrays
        The first point.
    batch : {0, 1}
        How many leading axes number problems.
    name : str
        The method's name.
    stop : Stop
        The limits.
    on_iteration : callable or None
        What is called with the result after each step.
    """

    state: FitState
    names: tuple[str, ...] = ()

    def __init__(
        self, problem: Any, point: Tree, batch: int, name: str, stop: Stop, on_iteration: Any
    ) -> None:
        self.problem, self.batch, self.on_iteration = problem, batch, on_iteration
        self.layout, self.source = TreeLayout.of(point, batch), problem.source
        vector = self.layout.ravel(point)
        self.x = vector if batch else backends.namespace(vector).reshape(vector, (1, -1))
        self.row, count = backends.of(self.x), int(self.x.shape[0])
        self.name = "lm" if name in SCIPY_METHODS else name
        self.method = LevenbergMarquardt(
            acceleration=name == "lm-geodesic", undamped=name == "gauss-newton",
            normal=count > MAX_TRIANGULAR_PROBLEMS and self.row.factors_batches,
        )  # fmt: skip
        self.criterion, self.start_time = stop.criterion(), time.monotonic()
        if any(isinstance(part, GradTol) and part.per_leaf for part in self.criterion.parts()):
            raise ValueError("stop must have one limit of the gradient here, not one for each leaf")
        self.n_sync = self.extra_calls = 0
        self.history: HistoryLog | None = None

    @property
    def eps(self) -> float:
        """The rounding of the dtype."""
        return float(backends.namespace(self.x).finfo(self.x.dtype).eps)

    def run(self, scale: Any) -> None:
        """Solve all problems, in blocks where they are many and in the host's memory."""
        if scale is not None:
            self.method = replace(self.method, column_scale=False)
        count = int(self.x.shape[0])
        self.selectable = self.method.normal and self._rows_are_independent()
        size = self._block_size() if self.selectable else count
        ended: list[tuple[HostArray, FitState]] = []
        blocks = [np.arange(i, min(i + size, count)) for i in range(0, count, size)]
        groups: Iterable[_Group] = (self._begin(rows, scale, len(blocks) == 1) for rows in blocks)
        # The last problems of a block take most of its steps: those of all blocks are solved together.
        share = MAX_POOLED_SHARE if len(blocks) > 1 else 0.0
        while True:
            advanced = [self._advance(group, share, ended) for group in groups]
            left = [group for group in advanced if group is not None]
            if not left:
                break
            groups = self._pool(left, size)
            share = share if len(groups) > 1 else 0.0
        self.state = self.method.refuse_dependent(_join_in_order(ended))

    def _rows_are_independent(self) -> bool:
        """Return whether some problems can be evaluated without the others: of two that is tried.

        A function that reads the data of all problems by itself returns another shape then, or other values.
        """
        raw, _ = self.problem.evaluate(self.x)
        pair = self._as_rows(np.asarray([int(self.x.shape[0]) - 1, 0]))
        xp = backends.namespace(raw)
        self.residual_count, self.extra_calls = int(raw.shape[1]), 2
        try:
            some, _ = self.problem.select(pair).evaluate(xp.take(self.x, pair, axis=0))
        except Exception:  # noqa: BLE001 - whatever it raises, it serves all problems together
            return False
        if tuple(some.shape) != (2, self.residual_count):
            return False
        both = backends.to_numpy(xp.stack([some, xp.take(raw, pair, axis=0)]))
        return bool(np.allclose(both[0], both[1], rtol=1e-3, equal_nan=True))

    def _as_rows(self, rows: HostArray) -> Array:
        return backends.to_device_of(rows, self.x, backends.namespace(self.x).int64)

    def _block_size(self) -> int:
        count, p = (int(n) for n in self.x.shape)
        if not self.row.host_accessible:
            return count
        itemsize = np.dtype(backends.dtype_name(self.x.dtype)).itemsize
        per_problem = itemsize * self.residual_count * (2 * p + 2)
        return max(MAX_TRIANGULAR_PROBLEMS, BLOCK_BYTES // per_problem)

    def _evaluate_blocks(self, x: Array) -> tuple[Array, Array, Array]:
        """Return residuals and Jacobian of all problems, block by block."""
        xp, count = backends.namespace(x), int(x.shape[0])
        size = self._block_size() if self.selectable else count
        parts = []
        for first in range(0, count, size):
            problem, point = self.problem, x
            if size < count:
                rows = self._as_rows(np.arange(first, min(first + size, count)))
                problem, point = problem.select(rows), xp.take(x, rows, axis=0)
            raw, _ = problem.evaluate(point)
            parts.append((raw, *problem.linearise(point, raw)))
        raw, f, jacobian = (
            parts_of[0] if len(parts) == 1 else xp.concat(parts_of, axis=0)
            for parts_of in zip(*parts, strict=True)
        )
        return raw, f, jacobian

    def _begin(self, rows: HostArray, scale: Any, whole: bool) -> _Group:
        """Evaluate the first points of some of the problems, or of all."""
        problem, x = self.problem, self.x
        if not whole:
            chosen, xp = self._as_rows(rows), backends.namespace(x)
            problem, x = problem.select(chosen), xp.take(x, chosen, axis=0)
            scale = None if scale is None else xp.take(scale, chosen, axis=0)
        bounds = problem.arrays.low, problem.arrays.high
        state = self.method.init(problem, x, bounds, scale, self._noise(problem))
        self._check_start(state)
        monitor = _Monitor(self.criterion, state, self.start_time)
        if not self.method.normal:
            self.history = HistoryLog(monitor.first, state.numbers.nfev)
        return _Group(rows, problem, state, monitor)

    def _advance(
        self, group: _Group, share: float, ended: list[tuple[HostArray, FitState]]
    ) -> _Group | None:
        """Step until no more than a share of a group runs; return it, or None where all have ended."""
        order, problem, state, monitor = group
        first_count = len(order)
        while True:
            state = monitor.check(state)
            if not state.running.any():
                problem, state = self._refine(problem, state)
            running = int(state.running.sum())
            if not running:
                ended.append((order, state.without_residuals() if self.method.normal else state))
                return None
            pooled = running <= share * first_count
            if pooled or self._takes_out(state):
                left, gone = np.flatnonzero(state.running), np.flatnonzero(~state.running)
                ended.append((order[gone], state.take(gone).without_residuals()))
                monitor.take(left)
                state, problem = state.take(left), problem.select(self._as_rows(left))
                order = order[left]
            if pooled:
                return _Group(order, problem, state, monitor)
            state = self.method.step(problem, state, self._noise(problem))
            state = self._after_step(state, monitor)

    def _pool(self, groups: list[_Group], size: int) -> list[_Group]:
        """Join what is left of several groups to as few of a size as will do."""
        pooled, count = [], 0
        members: list[_Group] = []
        for group in groups:
            members.append(group)
            count += len(group.order)
            if count >= size or group is groups[-1]:
                order = np.concatenate([member.order for member in members])
                state = FitState.join([member.state for member in members])
                monitor = _Monitor.join([member.monitor for member in members])
                pooled.append(
                    _Group(order, self.problem.select(self._as_rows(order)), state, monitor)
                )
                members, count = [], 0
        return pooled

    def _noise(self, problem: Any) -> float:
        """Return the relative error of the Jacobian."""
        return float(self.eps ** NOISE_POWER[problem.source])

    def _check_start(self, state: FitState) -> None:
        """Refuse one problem whose residuals or Jacobian are not finite at the first point."""
        if self.batch or state.numbers.outcome[0] != Status.NON_FINITE:
            return
        what = "jac" if np.isfinite(state.numbers.cost[0]) else "residuals"
        raise ValueError(f"{what} must be finite at x0: a value is NaN or infinite there")

    def _takes_out(self, state: FitState) -> bool:
        """Return whether those that have ended are enough to be taken out."""
        share = MIN_ENDED_SHARE_COMPILED if self.row.compiles else MIN_ENDED_SHARE
        return self.selectable and 1.0 - float(state.running.mean()) >= share

    def _after_step(self, state: FitState, monitor: _Monitor) -> FitState:
        """Note the step in the history, and call the user's callback."""
        advanced = bool((state.numbers.nit > monitor.previous.iterations).any())
        if self.history is not None:
            self.history.add(observe_state(state), state.numbers.nfev, keep=advanced)
        if self.on_iteration is None or not advanced or self.selectable:
            return state
        self.state = state
        return (
            end_all(state, Status.CALLBACK)
            if asks_to_end(self.on_iteration, self.result)
            else state
        )

    def _refine(self, problem: Any, state: FitState) -> tuple[Any, FitState]:
        """Go on by central differences where 2-point ones have ended, or look at what a linear model leaves open."""
        if problem.source == "2-point" and not self.method.normal:
            self.problem = problem.by_central_differences()
            state = self.method.reopen(self.problem, state, self._noise(self.problem))
            if state.running.any():
                return self.problem, state
        return problem, self.method.confirm_minimum(problem, state)

    def result(self) -> LeastSquaresResult:
        """Put together the result, so far or of the whole run."""
        state, numbers = self.state, self.state.numbers
        x, xp = self._on_device(state.x), backends.namespace(self.x)
        if state.raw is None:
            raw, f, jacobian = self._evaluate_blocks(x)
        else:
            raw, f, jacobian = state.raw, state.f, state.jacobian
        gradient = (xp.matrix_transpose(jacobian) @ f[..., None])[..., 0]
        mask = np.zeros(tuple(x.shape), dtype=int)
        if state.low is not None:
            host = [np.asarray(backends.to_numpy(a)) for a in (state.x, state.low, state.high)]
            mask = (host[0] >= host[2]).astype(int) - (host[0] <= host[1])
        status, nit = self._squeezed(numbers.outcome), self._squeezed(numbers.nit)
        status = np.asarray(status)
        calls = self._squeezed(numbers.nfev) + self.extra_calls
        history = self.history or HistoryLog(observe_state(state), numbers.nfev)
        optimality, offset = (
            self._squeezed(column) for column in (state.proposal.grad_norm, state.proposal.offset)
        )
        return LeastSquaresResult(
            x=self._as_tree(x), cost=as_scalar(self._squeezed(numbers.cost)),
            fun=raw if self.batch else raw[0, ...], jac=jacobian if self.batch else jacobian[0, ...],
            grad=self._as_tree(gradient), optimality=as_scalar(optimality),
            active_mask=self._as_tree(backends.to_device_of(mask, x, xp.int64), integers=True),
            nit=as_scalar(nit), nfev=as_scalar(calls), njev=as_scalar(self._squeezed(numbers.njev)),
            status=status if self.batch else (Status(int(status)) if status >= 0 else None),
            success=as_scalar(status == Status.CONVERGED), message=self._message(status, nit),
            history=self._squeezed_history(history.history()), n_sync=self.n_sync, method=self.name,
            certificate=Certificate(as_scalar(offset), self.method.max_offset(self.eps)), jacobian=self.source,
        )  # fmt: skip

    def covariance(self) -> tuple[Array, HostArray]:
        """Return (J'J)⁻¹ of each problem, shape (b, p, p), and where it is not known."""
        inverse, unknown = self.state.model.covariance(self.eps)
        return self._on_device(inverse), unknown | (self.state.numbers.outcome == Status.NON_FINITE)

    def _on_device(self, x: Any) -> Array:
        return x if self.method.normal else backends.to_device_of(x, self.x)

    def _squeezed(self, column: Any) -> Any:
        return column if self.batch else column[0]

    def _squeezed_history(self, history: History) -> History:
        if self.batch:
            return history
        return History(history.nit, *(column[:, 0] for column in history[1:]))

    def _as_tree(self, rows: Array, *, integers: bool = False) -> Tree:
        """Return vectors in the structure of x0."""
        layout = self.layout
        if integers:
            layout = layout._replace(dtype=rows.dtype, dtypes=(rows.dtype,) * len(layout.dtypes))
        return layout.unravel(rows if self.batch else rows[0, ...])

    def _message(self, status: Any, nit: Any) -> str:
        """Say how the run ended, in words for sums of squares."""
        message = status_message(status, nit)
        for ended, advice in ADVICE.items():
            message = message.replace(ended.advice, advice)
        names = self.dependent_names()
        return f"{message}: {', '.join(names)}" if names else message

    def dependent_names(self) -> list[str]:
        """Return the parameters of one problem whose columns of the Jacobian are dependent, by name."""
        if self.batch or self.state.numbers.outcome[0] != Status.NO_MINIMUM:
            return []
        directions, scale = self.state.model.null_directions(self.eps)
        largest = np.max(np.abs(directions * scale), axis=0, initial=0.0)
        names = list(self.names)
        for accessor, shape in (
            ()
            if names
            else zip(
                optree.tree_accessors(self.layout.unravel(self.x[0, ...])),
                self.layout.shapes,
                strict=True,
            )
        ):
            leaf = accessor.codify("x")
            names += [
                leaf + (f"[{', '.join(map(str, index))}]" if index else "")
                for index in np.ndindex(shape)
            ]
        return [name for name, share in zip(names, largest, strict=True) if share > MIN_NAMED_SHARE]


MIN_NAMED_SHARE = 0.1  # of a dependent direction: a parameter with less is not named


class _Group(NamedTuple):
    """Problems that are stepped together.

    Attributes
    ----------
    order : numpy.ndarray of int
        Their numbers among all problems.
    problem : ResidualFunction or CompiledResiduals
        Their residuals.
    state : FitState
        Their state.
    monitor : _Monitor
        Their criteria.
    """

    order: Any
    problem: Any
    state: FitState
    monitor: _Monitor


def _join_in_order(ended: list[tuple[HostArray, FitState]]) -> FitState:
    """Return the final states of all problems in the order of their numbers."""
    if len(ended) == 1:
        return ended[0][1]
    order = np.argsort(np.concatenate([numbers for numbers, _ in ended]))
    return FitState.join([state for _, state in ended]).take(order)


class _Monitor:
    """Apply stopping criteria to the problems that run, by observations of their numbers."""

    def __init__(self, criterion: Criterion, state: FitState, start_time: float) -> None:
        self.criterion, self.start_time = criterion, start_time
        self.first = self.previous = observe_state(state)

    @classmethod
    def join(cls, monitors: list[_Monitor]) -> _Monitor:
        """Return the monitor of several groups together."""
        joined = copy.copy(monitors[0])
        for name in ("first", "previous"):
            columns = zip(*(vars(monitor)[name] for monitor in monitors), strict=True)
            fields = [None if c[0] is None else np.concatenate(c) for c in columns]
            setattr(joined, name, Observation(*fields))
        return joined

    def check(self, state: FitState) -> FitState:
        """Return the state with the problems ended of which a criterion holds."""
        observation, numbers = observe_state(state), state.numbers
        advanced = observation.iterations > self.previous.iterations
        seconds = time.monotonic() - self.start_time
        status = self.criterion.evaluate(
            RunProgress(observation, self.previous, self.first, advanced, numbers.nfev, seconds)
        )
        self.previous = observation
        outcome = np.where(state.running & (status >= 0), status, numbers.outcome)
        return state._replace(numbers=numbers._replace(outcome=outcome))

    def take(self, rows: HostArray) -> None:
        """Keep some of the problems."""
        self.first, self.previous = (
            Observation(*(column if column is None else column[rows] for column in observation))
            for observation in (self.first, self.previous)
        )


def observe_state(state: FitState) -> Observation:
    """Return what the stopping criteria and the history know of a state."""
    numbers, proposal = state.numbers, state.proposal
    zero = np.zeros(numbers.cost.shape)
    return Observation(
        numbers.cost, proposal.grad_norm, proposal.size, numbers.moved, zero + 1.0, numbers.nit,
        numbers.nit, numbers.nfev, zero, zero, zero, zero, zero, proposal.offset**2 * numbers.cost,
    )  # fmt: skip


def end_all(state: FitState, status: Status) -> FitState:
    """Return a state in which all problems have ended."""
    numbers = state.numbers
    outcome = np.where(state.running, int(status), numbers.outcome)
    return state._replace(numbers=numbers._replace(outcome=outcome))


@dataclass(frozen=True, repr=False)
class CurveFit:
    """What `curve_fit` returns; ``popt, pcov = agd.curve_fit(...)`` unpacks it as SciPy's.

    Attributes
    ----------
    popt : array, shape (p,) or (b, p)
        The parameters, in the library of y.
    pcov : array, shape (p, p) or (b, p, p)
        Their covariance; infinite where it cannot be estimated.
    result : LeastSquaresResult
        How the run ended, with the residuals over sigma and their Jacobian.
    names : tuple of str
        The parameters' names.
    """

    popt: Any
    pcov: Any
    result: LeastSquaresResult
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]:
        """Give the parameters and their covariance."""
        yield from (self.popt, self.pcov)

    @property
    def stderr(self) -> Any:
        """The standard errors of the parameters, shape (p,) or (b, p)."""
        xp = backends.namespace(self.pcov)
        return xp.sqrt(xp.linalg.diagonal(self.pcov))

    def summary(self, problem: int = 0) -> str:
        """Return a table of the parameters with their standard errors.

        Parameters
        ----------
        problem : int
            Of a batch, which problem.

        Returns
        -------
        str
            A line for each parameter, and how the run ended.
        """
        result, batched = self.result, self.popt.ndim == 2
        values, errors, fun = (
            np.asarray(backends.to_numpy(a[problem, ...] if batched else a), dtype=float)
            for a in (self.popt, self.stderr, result.fun)
        )
        width = max(9, *map(len, self.names))
        lines = [f"{'parameter':<{width}} {'estimate':>14} {'std. error':>14} {'ratio':>10}"]
        with np.errstate(all="ignore"):
            ratios = values / errors
        for name, value, error, ratio in zip(self.names, values, errors, ratios, strict=True):
            lines.append(f"{name:<{width}} {value:>14.7g} {error:>14.7g} {ratio:>10.4g}")
        freedom = fun.size - values.size
        spread = float(np.sqrt(np.sum(fun**2) / freedom)) if freedom > 0 else float("nan")
        status = Status(int(result.status[problem] if batched else result.status))
        steps = int(result.nit[problem] if batched else result.nit)
        lines += [
            f"residual standard error {spread:.7g} on {freedom} degrees of freedom",
            f"{status.name}: {status.message(steps)}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Give the table of one problem; of a batch, how its problems ended."""
        if self.popt.ndim == 1:
            return self.summary()
        return f"{self.popt.shape[0]} curves of {', '.join(self.names)}: {self.result.message}"


def curve_fit(
    f: Callable[..., Any],
    x: Any,
    y: Any,
    p0: Any,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: Any = None,
    batch: int = 0,
    *,
    jac: Any = None,
    method: str = "lm",
    stop: Stop | Criterion | None = None,
) -> CurveFit:
    r"""Fit the parameters of a curve to data by least squares, with their covariance; many curves at once.

    ::

        min over p of  1/2 sum_i ((f(x_i, *p) - y_i) / sigma_i)²

    Parameters
    ----------
    f : callable
        ``f(x, *p)``: the curve's values, shape (n,), of arrays of the library of y. Of a batch each parameter has the
        shape (b, 1) and the values (b, n), so that an f that is computed entry by entry serves both.
    x : array or tree of arrays
        What f takes. Of a batch, arrays of two axes or more whose first has the length b have a row for each
        problem; all others, such as x (n,), are shared.
    y : array, shape (n,) or (b, n)
        The data. Their library, device and dtype are those of the fit.
    p0 : array, shape (p,) or (b, p)
        The first parameters; with a batch (p,) is the start of all its problems.
    sigma : number, or array, shape (n,), (n, n) or (b, n), optional
        The standard deviations of y; (n, n) is its covariance, of one problem.
    absolute_sigma : bool
        Whether `sigma` is in the units of y. Else only its proportions count, and the residuals give the scale.
    bounds : pair of arrays or object with lb and ub, optional
        (low, high), as for `least_squares`.
    batch : {0, 1}
        1 for y (b, n): b curves in one run, each with its own damping, status and count.
    jac : callable, "autodiff", "2-point", "3-point" or None
        ``jac(x, *p)``, shape (n, p) or (b, n, p), or a way to compute it, as for `least_squares`.
    method, stop
        As for `least_squares`.

    Returns
    -------
    CurveFit
        ``popt`` and ``pcov``, into which it unpacks, ``stderr``, ``result`` and ``summary()``.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and where f is not finite at p0.

    Warns
    -----
    ConvergenceWarning
        Where a fit has not converged (SciPy raises RuntimeError).
    RankWarning
        Where the covariance cannot be estimated and is infinite.

    Notes
    -----
    pcov is ``s² (J'J)⁻¹``, with J the Jacobian of the residuals over sigma and ``s² = 2 cost / (n - p)``, or 1 with
    `absolute_sigma`: as ``scipy.optimize.curve_fit`` has it.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> def decay(t, height, rate):
    ...     return height * np.exp(-rate * t)
    >>> t = np.linspace(0.0, 4.0, 9)
    >>> y = decay(t, 2.5, 1.3) + 0.01 * np.cos(9.0 * t)
    >>> popt, pcov = agd.curve_fit(decay, t, y, [1.0, 1.0])
    >>> popt.round(2)
    array([2.51, 1.31])
    >>> fits = agd.curve_fit(decay, t, np.stack([y, 2.0 * y]), [1.0, 1.0], batch=1)
    >>> fits.popt.round(2)
    array([[2.51, 1.31],
           [5.02, 1.31]])
    >>> print(agd.curve_fit(decay, t, y, [1.0, 1.0]).summary())  # doctest: +ELLIPSIS
    parameter       estimate     std. error      ratio
    height          2.50...
    """
    if not callable(f):
        raise TypeError(f"f must be a function of x and parameters, got {f!r} ({type(f).__name__})")
    batch = as_count("batch", batch, least=0)
    absolute_sigma = as_flag("absolute_sigma", absolute_sigma)
    y = as_point(y, batch, name="y")
    if not backends.is_array(y) or y.ndim != 1 + batch:
        shape = "(b, n)" if batch else "(n,)"
        raise ValueError(f"y must be one array of shape {shape}, got {_shape_text(y)}")
    xp = backends.namespace(y)
    start, x = _first_parameters(p0, y, batch), optree.tree_map(lambda leaf: _beside(leaf, y), x)
    args = (x, y) if sigma is None else (x, y, _inverse_sigma(sigma, y, batch))
    user_jac = _CurveJacobian(jac, batch) if callable(jac) else jac
    fit = _minimise_residuals(
        _CurveResiduals(f, batch), start, args, jac=user_jac, bounds=bounds, method=method, loss="linear",
        f_scale=1.0, x_scale="jac", weights=None, stop=stop, batch=batch, callback=None,
    )  # fmt: skip
    fit.names = _parameter_names(f, int(start.shape[-1]))
    result = fit.result()
    freedom = int(y.shape[-1]) - int(start.shape[-1])
    covariance, unknown = fit.covariance()
    if not absolute_sigma:
        variance = np.asarray(2.0 * fit.state.numbers.cost / max(freedom, 1))
        covariance = covariance * backends.to_device_of(variance, y)[:, None, None]
        unknown = unknown | (freedom <= 0)
    if unknown.any():
        mask = backends.to_device_of(unknown, y, xp.bool)[:, None, None]
        covariance = xp.where(mask, xp.full_like(covariance, np.inf), covariance)
        which = f" of {int(unknown.sum())} of {len(unknown)} problems" if batch else ""
        warn_dependent(
            f"the covariance of the parameters{which} cannot be estimated: {result.message}"
        )
    if not np.all(result.success):
        warn_unconverged(result.message)
    pcov = covariance if batch else covariance[0, ...]
    return CurveFit(result.x, pcov, result, fit.names)


@dataclass(frozen=True)
class _CurveResiduals:
    """The residuals of a curve as a function of the vector of its parameters."""

    f: Callable[..., Any]
    batch: int

    def __call__(self, p: Any, x: Any, y: Any, weight: Any = None) -> Any:
        residuals = self.f(x, *_columns(p, self.batch)) - y
        if weight is None:
            return residuals
        is_matrix = weight.ndim == 2 and not self.batch
        return weight @ residuals if is_matrix else residuals * weight


@dataclass(frozen=True)
class _CurveJacobian:
    """The Jacobian of these residuals by the user's function."""

    jac: Callable[..., Any]
    batch: int

    def __call__(self, p: Any, x: Any, _: Any, weight: Any = None) -> Any:
        jacobian = self.jac(x, *_columns(p, self.batch))
        if weight is None:
            return jacobian
        is_matrix = weight.ndim == 2 and not self.batch
        return weight @ jacobian if is_matrix else jacobian * weight[..., None]


def _columns(p: Any, batch: int) -> list[Any]:
    """Return the parameters one by one, of a batch as columns (b, 1)."""
    count = int(p.shape[-1])
    return [p[:, j : j + 1] if batch else p[j, ...] for j in range(count)]


def _beside(leaf: Any, y: Array) -> Any:
    """Return host data as an array like y; arrays of its library, and what is no array, as they are."""
    if backends.is_array(leaf) and not isinstance(leaf, np.ndarray):
        return leaf
    if isinstance(leaf, np.ndarray) and (
        isinstance(y, np.ndarray) or leaf.dtype.kind not in "fiub"
    ):
        return leaf
    return (
        backends.to_device_of(leaf, y)
        if isinstance(leaf, np.ndarray | list | float | int)
        else leaf
    )


def _first_parameters(p0: Any, y: Array, batch: int) -> Array:
    """Return the first parameters, shape (p,) or (b, p), in the library and dtype of y."""
    if p0 is None:
        raise ValueError("p0 is missing: got None, need the first parameters")
    if not backends.is_array(p0) or isinstance(p0, np.ndarray):
        p0 = backends.to_device_of(np.atleast_1d(np.asarray(p0, dtype=float)), y)
    xp = backends.namespace(p0)
    if batch and p0.ndim == 1:
        p0 = xp.broadcast_to(p0, (int(y.shape[0]), int(p0.shape[0])))
        p0 = xp.asarray(p0, copy=True)
    if p0.ndim != 1 + batch or (batch and p0.shape[0] != y.shape[0]):
        shape = f"(p,) or ({int(y.shape[0])}, p)" if batch else "(p,)"
        raise ValueError(f"p0 must have shape {shape}, got {tuple(p0.shape)}")
    first: Array = xp.astype(p0, y.dtype, copy=False)
    return first


def _inverse_factor(covariance: Array) -> Array:
    """Return the inverse of the factor L of a covariance L L', by the host where its rows lie in chunks."""
    xp = backends.namespace(covariance)
    if backends.of(covariance).factors_batches:
        inverse: Array = xp.linalg.inv(xp.linalg.cholesky(covariance))
        return inverse
    factor = np.linalg.cholesky(backends.to_numpy(covariance))
    return backends.to_device_of(np.linalg.inv(factor), covariance)


def _inverse_sigma(sigma: Any, y: Array, batch: int) -> Array:
    """Return 1 / sigma, or the inverse of the factor L of a covariance L L'."""
    if not backends.is_array(sigma) or isinstance(sigma, np.ndarray):
        sigma = backends.to_device_of(np.asarray(sigma, dtype=float), y)
    xp, n, shape = backends.namespace(sigma), int(y.shape[-1]), tuple(sigma.shape)
    sigma = xp.astype(sigma, y.dtype, copy=False)
    if shape == (n, n) and not batch:
        try:
            return _inverse_factor(sigma)
        except (np.linalg.LinAlgError, RuntimeError) as error:  # PyTorch raises an error of its own
            raise ValueError(
                f"sigma must be a positive definite matrix where it has shape {shape}: it has no Cholesky factor"
            ) from error
    if shape not in {(), (1,), (n,), tuple(y.shape)}:
        also = f", ({n}, {n})" if not batch else f", {tuple(y.shape)}"
        raise ValueError(f"sigma must be a number or have shape ({n},){also}; got {shape}")
    least = float(backends.to_numpy(xp.min(sigma)))
    if not least > 0.0:
        raise ValueError(f"sigma must be above 0, got {least!r} among its values")
    inverse: Array = 1.0 / sigma + xp.zeros((n,), dtype=y.dtype, device=backends.device(y))
    return inverse


def _parameter_names(f: Callable[..., Any], count: int) -> tuple[str, ...]:
    """Return the names that f gives its parameters, or numbers where it takes them all together."""
    try:
        names = list(inspect.signature(f).parameters)[1 : count + 1]
    except (TypeError, ValueError):  # some functions written in C do not say
        names = []
    return tuple(names) if len(names) == count else tuple(f"p[{j}]" for j in range(count))


def _shape_text(y: Any) -> str:
    return str(tuple(y.shape)) if backends.is_array(y) else type(y).__name__
