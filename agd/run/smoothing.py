"""Fits of a loss that is not smooth: smooth it, narrow the smoothing, and end at a vertex.

`Smoothing` is the row of ``agd.run.SOLVERS`` for such losses. It replaces the loss by its Moreau envelope,
lets the table choose a solver for that smooth problem, and narrows the envelope by a factor of ten from one
round to the next, each starting where the last one ended. The envelope lies below the loss, so that the
value of the loss less that of the envelope bounds how far the point is from the minimum.

A piecewise linear loss over NumPy arrays, without a penalty or with `L1`, has its minimum at a vertex, where
as many kinks are met as there are parameters. There the simplex method goes on from the smoothed
minimum to the exact one.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import HostArray, NotApplicable, Params
from agd.gradient.linear import LinearObjective
from agd.gradient.preconditioner import Scaling
from agd.loss import L1
from agd.loss.base import MoreauEnvelope
from agd.run.linear_problem import LinearProblem, Revealed, Solution, null_model
from agd.run.loop import status_message
from agd.run.refinement import sum_rounds
from agd.run.result import Certificate, Result, Status

__all__ = ["PiecewiseLinear", "Smoothing", "simplex"]

# The smoothed minimum is accepted where it is within this share of the loss of the constant model.
MAX_GAP = 1e-6
# The simplex method starts from a point as near as this: it is exact, and needs fewer pivots then.
MAX_GAP_BEFORE_SIMPLEX = 1e-4
NARROWING = 0.1  # the ratio of the widths of two rounds
MAX_ROUNDS = 12
MAX_VALUE_CHANGE = 1e-9  # a round ends where a step changes the value by a smaller share of it
MAX_VALUE_CHANGE_BEFORE_SIMPLEX = 1e-6
MAX_VERTEX_COLUMNS = 256  # a pivot solves a system of this size
MAX_PIVOTS = 20_000
# A row belongs to a basis if this share of it is independent of the rows that are in it already.
MIN_INDEPENDENT_SHARE = 1e-7
MAX_CANDIDATES_PER_COLUMN = 50  # rows tried for the first basis
ROUNDING = 1e-10  # what multipliers may exceed their limits by, as a share of the largest limit


@dataclass(frozen=True)
class Smoothing:
    """Minimise a loss that is not smooth by way of its Moreau envelopes.

    Parameters
    ----------
    solve : callable
        From a smooth `LinearProblem` to its `Solution`: the table of solvers itself.
    """

    solve: Callable[[LinearProblem], Solution]

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit; parameters and errors as of `LinearSolver.fit`."""
        base = problem.check_values(Revealed.NOTHING)
        _, scaling = problem.with_convergence_norm(base)
        first = _read_value(base, base.prox(null_model(base, scaling), 0.0))
        width, init, rounds = float(np.max(first)) or 1.0, problem.init, list[Result]()
        exact = _has_vertex(problem)
        while True:
            smoothed = _smoothed(problem, width, init, rounds, exact)
            solution = self.solve(smoothed)
            problem.moments = smoothed.moments
            rounds.append(solution.result)
            value = _read_value(base, solution.result.x)
            gap = value - np.asarray(solution.result.fun)
            result = _merge(rounds, value, gap)
            usable = np.isin(result.status, (Status.CONVERGED, Status.LINE_SEARCH)).all()
            noise = _rounding(base, value)
            if exact and usable and (gap <= MAX_GAP_BEFORE_SIMPLEX * first + noise).all():
                with contextlib.suppress(NotApplicable, np.linalg.LinAlgError):
                    vertex = _at_vertex(base, scaling, result)
                    return Solution(vertex, solution.plan, solution.rank_warning)
                exact = False  # the rows determine no vertex: narrow the envelope further
            ended = not usable or np.max(result.nit) >= problem.stop.max_iter
            if ended or (gap <= MAX_GAP * first + noise).all() or len(rounds) == MAX_ROUNDS:
                return Solution(result, solution.plan, solution.rank_warning)
            width, init = NARROWING * width, solution.result.x


def _merge(rounds: list[Result], value: Any, gap: Any) -> Result:
    """Return the result of all rounds, with the value of the loss itself and how near it is."""
    result = sum_rounds(rounds, len(rounds))
    note = f"; the loss is smoothed, and its value within {float(np.max(gap)):.1e} of the minimum"
    message = status_message(np.asarray(result.status), np.asarray(result.nit))
    converged = np.all(result.status == Status.CONVERGED)
    return replace(
        result,
        fun=as_scalar(value),
        message=message + note if converged else message,
        method=f"{result.method} on Moreau envelopes",
    )


def _smoothed(
    problem: LinearProblem,
    width: float,
    init: Any,
    rounds: list[Result],
    exact: bool,
) -> LinearProblem:
    """Return the problem of one round: its loss is the envelope of this width."""
    stop, callback = problem.stop, problem.callback
    change = MAX_VALUE_CHANGE_BEFORE_SIMPLEX if exact else MAX_VALUE_CHANGE
    if stop.value_tol is None:
        stop = replace(stop, value_tol=change)
    earlier = list(rounds)
    steps_left = stop.max_iter - sum(int(np.max(one.nit)) for one in rounds)
    report = None if callback is None else functools.partial(_report_smoothing, callback, earlier)
    envelope = MoreauEnvelope(problem.loss, width)
    return replace(
        problem, loss=envelope, init=init, stop=replace(stop, max_iter=steps_left),
        callback=report, default_settings=False,
    )  # fmt: skip


def _report_smoothing(
    callback: Callable[[Result], object], earlier: list[Result], result: Result
) -> object:
    """Call the user's callback with the counts of this round and of those before it."""
    return callback(sum_rounds([*earlier, result], 0))


def _read_value(base: LinearObjective, params: Params) -> Any:
    """Return the value of the objective, read by the host, shape (...)."""
    value = base.value_and_grad(params)[0] + base.penalty_value(params)
    return np.asarray(backends.to_numpy(value), dtype=float)


def _rounding(base: LinearObjective, value: Any) -> Any:
    """Return what rounding may add to the difference of two values."""
    resident = base.blocks.resident
    return 8.0 * float(backends.namespace(resident).finfo(resident.dtype).eps) * np.abs(value)


# -- the exact minimum of a piecewise linear loss --------------------------------------------------


def _has_vertex(problem: LinearProblem) -> bool:
    """Return whether the minimum is at a vertex that the simplex method can find."""
    linear = problem.penalty is None or type(problem.penalty) is L1
    t = problem.traits
    return problem.loss.piecewise_linear and linear and t.numpy and t.columns <= MAX_VERTEX_COLUMNS


def _at_vertex(base: LinearObjective, scaling: Scaling, result: Result) -> Result:
    """Return the result at the exact minimum of every problem; raise `NotApplicable` if one has none."""
    points, pivots = [], np.zeros(base.batch_shape, dtype=int)
    for index in np.ndindex(*base.batch_shape):
        rows = PiecewiseLinear.of(base, scaling, index)
        v, pivots[index] = simplex(rows, rows.coordinates(result.x, index))
        points.append(rows.params(v))
    like = base.zeros()

    def gather(parts: list[HostArray], zero: HostArray) -> HostArray:
        return np.reshape(np.stack(parts), zero.shape).astype(zero.dtype)

    coef = gather([point.coef for point in points], like.coef)
    intercept = None
    if like.intercept is not None:
        intercept = gather([point.intercept for point in points], like.intercept)
    x = Params(coef, intercept)
    status = np.full(base.batch_shape, int(Status.CONVERGED))
    single = status.ndim == 0
    return replace(
        result,
        x=x,
        fun=as_scalar(_read_value(base, x)),
        jac=like,  # zero is a subgradient there
        nit=as_scalar(np.asarray(result.nit) + pivots),
        status=Status.CONVERGED if single else status,
        success=as_scalar(status == Status.CONVERGED),
        message=f"converged: zero is a subgradient at the vertex (after {np.max(pivots)} pivots)",
        method=f"{result.method}, then the simplex method",
        certificate=Certificate(
            as_scalar(np.zeros(base.batch_shape)), result.certificate.tolerance
        ),
    )


@dataclass(frozen=True)
class PiecewiseLinear:
    r"""The function Σ_i max(low_i s_i, high_i s_i) of s = A v - y, with A = [(X - mean) D, 1].

    D scales the columns to a common size. An `L1` penalty adds a row α D_j v_j for each column.

    Attributes
    ----------
    X : array, shape (n, p)
        The rows of the data, once for each kink that the loss has.
    y, low, high : array, shape (n,) or (n + p,)
        Kinks, and the slopes below and above them.
    mean, scale : array, shape (p,)
        The centres of the columns, and the diagonal of D.
    intercept : bool
        Whether A has the column of ones.
    """

    X: Any
    y: Any
    low: Any
    high: Any
    mean: Any
    scale: Any
    intercept: bool

    @classmethod
    def of(cls, base: LinearObjective, scaling: Scaling, index: tuple[int, ...]) -> PiecewiseLinear:
        """Take one problem of an objective over NumPy arrays, in double precision."""
        blocks, penalty = base.blocks, base.penalty
        X = blocks.X if blocks.X.ndim == 2 else blocks.X[index]
        X = np.asarray(X, dtype=float)
        targets: HostArray = np.asarray(blocks.y[index])
        weight: HostArray = np.ones(len(targets))
        if blocks.weight is not None:
            weight = np.broadcast_to(np.asarray(blocks.weight), blocks.y.shape)[index].astype(float)
        weight = weight / weight.sum()
        kinks = base.loss.kinks(targets.astype(complex if blocks.has_offset else float))
        y = np.concatenate([kink for kink, _, _ in kinks])
        low = np.concatenate([weight * slope for _, slope, _ in kinks])
        high = np.concatenate([weight * slope for _, _, slope in kinks])
        X = np.tile(X, (len(kinks), 1))
        p = X.shape[-1]
        mean, scale = (
            np.broadcast_to(np.asarray(a), (*base.batch_shape, p))[index]
            for a in (scaling.mean, scaling.inv_std)
        )
        mean = mean.astype(float) if base.intercept else np.zeros(p)
        scale = scale.astype(float)
        if penalty is not None:
            alpha = penalty.elastic_parts[0] * scale  # type: ignore[index] # an `L1`
            y = np.concatenate([y, np.zeros(p)])
            low, high = np.concatenate([low, -alpha]), np.concatenate([high, alpha])
        return cls(X, y, low, high, mean, scale, base.intercept)

    @property
    def size(self) -> int:
        """The number of parameters."""
        return int(self.X.shape[-1]) + self.intercept

    def coordinates(self, params: Params, index: tuple[int, ...]) -> Any:
        """Return v of one problem's parameters."""
        w = np.asarray(params.coef[index], dtype=float)
        v = w / self.scale
        if params.intercept is None:
            return v
        return np.append(v, float(params.intercept[index]) + self.mean @ w)

    def params(self, v: Any) -> Params:
        """Return the parameters of v."""
        p = self.X.shape[-1]
        w = self.scale * v[:p]
        return Params(w, v[p] - self.mean @ w if self.intercept else None)

    def product(self, v: Any) -> Any:
        """Return A v."""
        p = self.X.shape[-1]
        w = self.scale * v[:p]
        z = self.X @ w
        if self.intercept:
            z += v[p] - self.mean @ w
        return z if len(self.y) == len(z) else np.concatenate([z, v[:p]])

    def adjoint(self, g: Any) -> Any:
        """Return A' g."""
        n = self.X.shape[0]
        total = g[:n].sum()
        v = self.scale * (g[:n] @ self.X - total * self.mean)
        if len(g) > n:
            v += g[n:]
        return np.append(v, total) if self.intercept else v

    def rows(self, which: Any) -> Any:
        """Return some rows of A."""
        n, p = self.X.shape
        which = np.asarray(which)
        rows = np.zeros((len(which), self.size))
        data = which < n
        rows[data, :p] = (self.X[which[data]] - self.mean) * self.scale
        if self.intercept:
            rows[data, p] = 1.0
        rows[~data, which[~data] - n] = 1.0
        return rows


def simplex(problem: PiecewiseLinear, v: Any) -> tuple[Any, int]:
    """Minimise a piecewise linear function by the simplex method of Barrodale and Roberts.

    A vertex interpolates as many rows, its basis, as there are parameters. Their multipliers u solve
    A_B' u = -A_N' g with the slopes g of all other rows; the vertex is the minimum where each is between
    the row's slopes. Otherwise the row whose multiplier is furthest outside leaves the basis, and the point
    moves along the edge past all kinks up to the one where the function would rise, whose row enters.

    Parameters
    ----------
    problem : PiecewiseLinear
        The function.
    v : numpy.ndarray, shape (size,)
        A point near the minimum.

    Returns
    -------
    v : numpy.ndarray, shape (size,)
        The minimum.
    pivots : int
        How many edges led there.

    Raises
    ------
    NotApplicable
        If the rows do not determine a vertex, or pivots go on without end.

    Notes
    -----
    Barrodale and Roberts (1973), "An improved algorithm for discrete l1 linear approximation", SIAM Journal
    on Numerical Analysis 10; Koenker and d'Orey (1987), "Computing regression quantiles", Applied Statistics
    36.
    """
    basis = _first_basis(problem, v)
    matrix = problem.rows(basis)
    v = np.linalg.solve(matrix, problem.y[basis])
    s = problem.product(v) - problem.y
    above = s > 0.0
    tolerance = ROUNDING * float(np.max(problem.high - problem.low))
    for pivots in range(MAX_PIVOTS):
        g = np.where(above, problem.high, problem.low)
        g[basis] = 0.0
        u = np.linalg.solve(matrix.T, -problem.adjoint(g))
        excess = np.maximum(u - problem.high[basis], problem.low[basis] - u)
        # After many pivots the first row, rather than the worst, leaves: that rule cannot cycle (Bland).
        outside = np.flatnonzero(excess > tolerance)
        if not len(outside):
            return np.linalg.solve(matrix, problem.y[basis]), pivots
        worst = int(np.argmax(excess))
        j = worst if pivots < MAX_PIVOTS // 2 else int(outside[np.argmin(basis[outside])])
        sign = 1.0 if u[j] > problem.high[basis[j]] else -1.0
        edge = np.linalg.solve(matrix, sign * (np.arange(len(basis)) == j))
        change = problem.product(edge)
        change[basis] = 0.0
        step, k, crossed = _line_search(problem, s, change, above, excess[j])
        above[crossed] = ~above[crossed]
        above[basis[j]] = sign > 0.0
        s += step * change
        s[basis[j]] = sign * step
        basis[j] = k
        matrix[j] = problem.rows([k])[0]
        s[basis] = 0.0
    raise NotApplicable


def _line_search(
    problem: PiecewiseLinear, s: Any, change: Any, above: Any, decrease: float
) -> tuple[float, int, Any]:
    """Return the step along an edge, the row whose kink ends it, and the rows that it passes."""
    noise = 1e-11 * float(np.max(np.abs(change)))
    towards = np.flatnonzero(np.where(above, -change, change) > noise)
    if not len(towards):
        raise NotApplicable
    steps = np.maximum(-s[towards] / change[towards], 0.0)
    order = np.argsort(steps, kind="stable")
    rise = np.abs(change[towards]) * (problem.high - problem.low)[towards]
    total = np.cumsum(rise[order])
    last = int(np.searchsorted(total, decrease))
    if last == len(order):
        raise NotApplicable
    return float(steps[order[last]]), int(towards[order[last]]), towards[order[:last]]


def _first_basis(problem: PiecewiseLinear, v: Any) -> Any:
    """Choose independent rows, nearest first: by Gram-Schmidt in the order of their residuals."""
    size = problem.size
    s = np.abs(problem.product(v) - problem.y)
    count = min(len(s), MAX_CANDIDATES_PER_COLUMN * size)
    nearest = np.argpartition(s, count - 1)[:count]
    nearest = nearest[np.argsort(s[nearest])]
    basis: list[int] = []
    directions = np.zeros((size, size))
    for i in nearest:
        row = problem.rows([i])[0]
        length = math.sqrt(row @ row)
        used = directions[: len(basis)]
        for _ in range(2):  # twice: once leaves what rounding does
            row = row - (used @ row) @ used
        rest = math.sqrt(row @ row)
        if rest > MIN_INDEPENDENT_SHARE * length:
            directions[len(basis)] = row / rest
            basis.append(int(i))
            if len(basis) == size:
                return np.asarray(basis)
    raise NotApplicable
