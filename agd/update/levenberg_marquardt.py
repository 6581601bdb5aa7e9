"""The steps of Levenberg and Marquardt on sums of squares, for a batch of problems at once.

A step solves a linear least squares problem that is damped in the units of each parameter, evaluates the residuals
there, and decides on the host, problem by problem, whether to go there and how much to damp the next. One or a few
problems are solved from a QR factorisation of the Jacobian, whose triangle the host reads; many are solved on the
device from the normal equations. Neither knows of limits, callbacks or results: the door does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import optree

from agd import backends
from agd._tree import tree_where
from agd._typing import Array, HostArray
from agd.update.solver import read_columns

__all__ = [
    "CONVERGED",
    "NON_FINITE",
    "NO_MINIMUM",
    "RUNNING",
    "STALLED",
    "UNBOUNDED",
    "FitNumbers",
    "FitState",
    "LevenbergMarquardt",
    "NormalModel",
    "Proposal",
    "TriangularModel",
]

# How a problem ended, by the numbers of `agd.run.Status`, a room above this one.
RUNNING, CONVERGED, NON_FINITE, STALLED, UNBOUNDED, NO_MINIMUM = -1, 0, 3, 4, 5, 7

# Powers of the rounding eps. The part of the residuals that a linear model could remove, as a share of their length,
# at which a problem has converged: the parameters are then off by as small a share of their standard errors.
# 1e-8 in double precision.
OFFSET_POWER = 0.51
# The same where rounding hides whether the cost falls: 1e-6.
HIDDEN_OFFSET_POWER = 0.384
# The same of many problems, which take the last step without another evaluation: 1e-5 before it.
BATCH_OFFSET_POWER = 0.32
# A Gauss-Newton step that moves no parameter by more than this share of itself has converged, too: 1e-10.
RELATIVE_STEP_POWER = 0.64
# Units of rounding of a sum of squares, and of the residuals as sums of the parameters' effects.
COST_NOISE_EPS, RESIDUAL_NOISE_EPS = 16.0, 4.0
# A step has to bring this share of what the model predicts.
MIN_GAIN_RATIO = 1e-4
# A gain of less than the first share of the prediction shrinks the radius of the trust region to the second of the
# step; one of more than the third lets it grow by the fourth.
MIN_RADIUS_RATIO, RADIUS_DECAY, MIN_GROWTH_RATIO, RADIUS_GROWTH = 0.25, 0.25, 0.75, 2.0
# How near the length of a step comes to the radius, and after how many iterations at the latest.
RADIUS_TOLERANCE, MAX_RADIUS_ITERATIONS = 0.01, 20
# A gain this near to the prediction lets the damping fall by the second rather than to a third at the most.
MAX_PLAIN_ERROR, FAST_DECAY = 0.1, 1e-6
# Refused steps grow the damping from at least the first; above the second there is no step that descends.
MIN_GROWN_DAMPING, MAX_DAMPING = 1e-6, 1e16
# Steps in a row whose gain rounding hides and that leave more than half of the best offset.
MAX_HIDDEN_STEPS = 3
# A parameter whose effect fell to this share of its largest, and which grew by that factor, runs away.
MAX_VANISHED_SHARE, MIN_RUNAWAY_GROWTH = 1e-7, 3.0
# The acceleration's length over the step's, and the share of the step over which it is measured.
MAX_ACCELERATION, ACCELERATION_PROBE = 0.375, 0.1


class Proposal(NamedTuple):
    """The next step of each problem, and what the linear model says of the point.

    Attributes
    ----------
    step : array, shape (b, p)
        Where the model goes.
    damping : array, shape (b,)
        lambda of the step.
    predicted : numpy.ndarray, shape (b,)
        By how much the model's cost falls in the step.
    offset : numpy.ndarray, shape (b,)
        The length of the residuals' part that the model can remove, over their length.
    relative_step : numpy.ndarray, shape (b,)
        The largest share by which the undamped step moves a parameter; a movement that rounding of the residuals
        hides counts for less.
    cosine : numpy.ndarray, shape (b,)
        The largest cosine of the angles between the residuals and a column of the Jacobian.
    rounding : numpy.ndarray, shape (b,)
        The length of the residuals' rounding, as sums of the parameters' effects.
    exact : numpy.ndarray of bool, shape (b,)
        Whether offset and relative step are those of an undamped step.
    deficient : numpy.ndarray of bool, shape (b,)
        Whether the columns of the Jacobian are known to be dependent.
    vanished : numpy.ndarray of bool, shape (b,)
        Whether a parameter that grew has lost its effect.
    finite : numpy.ndarray of bool, shape (b,)
        Whether the model is finite.
    grad_norm : numpy.ndarray, shape (b,)
        The largest partial derivative of the cost that does not point out of the bounds.
    size : numpy.ndarray, shape (b,)
        The largest parameter.
    """

    step: Any
    damping: Any
    predicted: Any
    offset: Any
    relative_step: Any
    cosine: Any
    rounding: Any
    exact: Any
    deficient: Any
    vanished: Any
    finite: Any
    grad_norm: Any
    size: Any


class FitNumbers(NamedTuple):
    """Numbers of each problem, shape (b,), on the host.

    Attributes
    ----------
    cost, first_cost : numpy.ndarray
        Half the sum of squares (of a robust loss, of what stands for them) now and at the first point.
    restraint, growth : numpy.ndarray
        Of a `TriangularModel` the radius of the trust region; of a `NormalModel` lambda, and by what the next refusal
        multiplies it.
    best_offset, hidden_steps : numpy.ndarray
        The least offset of steps whose gain rounding hides, and how many in a row have not halved it.
    moved : numpy.ndarray
        The largest change of a parameter in the last step, over the largest parameter.
    nit, nfev, njev : numpy.ndarray of int
        Accepted steps, calls of the user's residuals, and Jacobians.
    outcome : numpy.ndarray of int
        How the problem ended; -1 while it runs.
    met_nonfinite : numpy.ndarray of bool
        Whether the last trial was not finite.
    """

    cost: Any
    first_cost: Any
    restraint: Any
    growth: Any
    best_offset: Any
    hidden_steps: Any
    moved: Any
    nit: Any
    nfev: Any
    njev: Any
    outcome: Any
    met_nonfinite: Any

    @classmethod
    def at_start(cls, cost: HostArray, calls: int) -> FitNumbers:
        """Return the numbers after the first evaluation."""
        zero, count = np.zeros(cost.shape), np.zeros(cost.shape, dtype=int)
        outcome = np.where(np.isfinite(cost), RUNNING, NON_FINITE)
        return cls(
            cost, cost, zero + np.inf, zero + 2.0, zero + np.inf, count, zero + np.nan, count, count + calls,
            count + 1, outcome, np.zeros(cost.shape, dtype=bool),
        )  # fmt: skip


class TriangularModel(NamedTuple):
    """The linear model f + J s of a few problems, by the triangle of the QR factorisation of [J f].

    Attributes
    ----------
    triangle : numpy.ndarray, shape (b, k, p)
        R, with J = Q R.
    target : numpy.ndarray, shape (b, k)
        Q'f, as long as f.
    noise : float
        The relative error of the Jacobian.
    """

    triangle: Any
    target: Any
    noise: Any

    @classmethod
    def of(cls, f: Array, jacobian: Array, noise: float) -> TriangularModel:
        """Factorise on the device; the host reads the triangle."""
        xp, p = backends.namespace(f), int(jacobian.shape[-1])
        whole = xp.concat([jacobian, f[..., None]], axis=-1)
        if not backends.of(whole).packs_reads:
            factor: Any = np.linalg.qr(backends.to_numpy(whole), mode="r")
        else:
            factor = backends.to_numpy(xp.linalg.qr(whole, mode="reduced").R)
        factor = np.asarray(factor, dtype=np.float64)
        return cls(factor[..., :p], factor[..., p], np.full(len(factor), noise))

    def column_norms(self) -> HostArray:
        """Return the lengths of the Jacobian's columns, shape (b, p)."""
        return np.sqrt(np.sum(self.triangle**2, axis=-2))

    def gradient(self) -> HostArray:
        """Return J'f, shape (b, p)."""
        return np.einsum("bkp,bk->bp", self.triangle, self.target)

    def singular_parts(self, scale: HostArray, free: HostArray) -> tuple[Any, Any, Any]:
        """Return u = U'f, S and V' of the scaled columns that are free, J / scale = U S V'."""
        columns = np.where(free[:, None, :], self.triangle / scale[:, None, :], 0.0)
        left, values, right = np.linalg.svd(columns, full_matrices=False)
        return np.einsum("bkr,bk->br", left, self.target), values, right

    def restrained_step(
        self, radius: HostArray, scale: HostArray, free: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Return the step over the free parameters that minimises |f + J s|², |scale s| <= radius, and its damping."""
        u, values, right = self.singular_parts(scale, free)
        damping = radius_damping(u, values, radius)
        shares = safe_ratio(values * u, values**2 + damping[:, None])
        # What rounding makes of a direction without effect is no part of the step.
        kept = values > np.finfo(float).eps * values.shape[-1] * values.max(axis=-1, keepdims=True)
        shares = np.where(kept, shares, 0.0)
        return -np.einsum("br,brp->bp", shares, right) / scale, damping

    def moved_by(self, step: HostArray) -> TriangularModel:
        """Return the model at a step away."""
        change = np.einsum("bkp,bp->bk", self.triangle, step)
        return self._replace(target=self.target + change)

    def predicted_fall(self, step: HostArray) -> HostArray:
        """Return by how much half the sum of squares falls in a step."""
        change = np.einsum("bkp,bp->bk", self.triangle, step)
        return -np.sum(change * (self.target + 0.5 * change), axis=-1)

    def curved_step(
        self, right_side: HostArray, damping: HostArray, scale: HostArray, free: HostArray
    ) -> HostArray:
        """Return -(J'J + damping scale²)⁻¹ r over the free parameters."""
        _, values, right = self.singular_parts(scale, free)
        coefficients = np.einsum("brp,bp->br", right, right_side / scale)
        shares = safe_ratio(coefficients, values**2 + damping[:, None])
        return -np.einsum("br,brp->bp", shares, right) / scale

    def measure(
        self, state: FitState, free: HostArray, largest: HostArray, eps: float
    ) -> dict[str, Any]:
        """Return what the model says of the point: the fields of a `Proposal` but the step's."""
        x, norms, size = state.x, self.column_norms(), np.sqrt(2.0 * state.numbers.cost)
        scale = np.where(norms > 0.0, norms, 1.0)
        u, values, right = self.singular_parts(scale, free)
        limit = np.maximum(self.noise, eps * x.shape[-1]) * values.max(axis=-1)
        kept = values > limit[:, None]
        removable = np.sqrt(np.sum(np.where(kept, u, 0.0) ** 2, axis=-1))
        shares = np.where(kept, safe_ratio(u, values), 0.0)
        step = np.abs(np.einsum("br,brp->bp", shares, right)) / scale
        effects = np.sum(norms * np.abs(x), axis=-1)
        visible = (
            np.abs(x)
            + RESIDUAL_NOISE_EPS * eps / eps**RELATIVE_STEP_POWER * effects[:, None] / scale
        )
        gradient = np.where(free, self.gradient(), 0.0)
        return {
            "offset": safe_ratio(removable, size),
            "relative_step": np.max(safe_ratio(step, visible), axis=-1),
            "cosine": np.max(safe_ratio(np.abs(gradient), scale * size[:, None]), axis=-1),
            "rounding": eps * effects,
            "exact": np.ones(len(x), dtype=bool),
            "deficient": kept.sum(axis=-1) < free.sum(axis=-1),
            "vanished": np.any(has_vanished(np, norms, largest, x, state.start), axis=-1),
            "grad_norm": np.max(np.abs(gradient), axis=-1),
            "size": np.max(np.abs(x), axis=-1),
        }

    def covariance(self, eps: float) -> tuple[HostArray, HostArray]:
        """Return (J'J)⁻¹, and where the columns are dependent, so that it is not known."""
        norms = self.column_norms()
        scale = np.where(norms > 0.0, norms, 1.0)
        _, values, right = self.singular_parts(scale, np.ones(norms.shape, dtype=bool))
        limit = np.maximum(self.noise, eps * norms.shape[-1]) * values.max(axis=-1)
        deficient = (values > limit[:, None]).sum(axis=-1) < norms.shape[-1]
        rows = right * safe_ratio(1.0, values)[..., None] / scale[:, None, :]
        return np.einsum("brp,brq->bpq", rows, rows), deficient

    def null_directions(self, eps: float) -> tuple[HostArray, HostArray]:
        """Return the directions of one problem along which the linear model says nothing, and the scale of x.

        These are of the singular vectors those without effect, and those along which the model could remove a
        part of the residuals that is not small.
        """
        norms = self.column_norms()
        scale = np.where(norms > 0.0, norms, 1.0)
        u, values, right = self.singular_parts(scale, np.ones(norms.shape, dtype=bool))
        limit = max(float(self.noise[0]), eps * norms.shape[-1]) * values[0].max()
        size = float(np.sqrt(np.sum(self.target[0] ** 2)))
        chosen = (values[0] <= limit) | (np.abs(u[0]) > eps**HIDDEN_OFFSET_POWER * size)
        return right[0][chosen] / scale[0], scale[0]

    def is_finite(self) -> HostArray:
        """Return where the model is finite, shape (b,)."""
        return np.isfinite(np.sum(self.triangle, axis=(-2, -1)) + np.sum(self.target, axis=-1))


class NormalModel(NamedTuple):
    """The linear model of many problems, by their normal equations on the device.

    Attributes
    ----------
    products : array, shape (b, p, p)
        J'J.
    slopes : array, shape (b, p)
        J'f.
    square : array, shape (b,)
        f'f.
    """

    products: Array
    slopes: Array
    square: Array

    @classmethod
    def of(cls, f: Array, jacobian: Array, noise: float) -> NormalModel:  # noqa: ARG003
        """Form the normal equations."""
        xp = backends.namespace(f)
        rows = xp.matrix_transpose(jacobian)
        slopes = (rows @ f[..., None])[..., 0]
        return cls(rows @ jacobian, slopes, xp.sum(f * f, axis=-1))

    def column_norms(self) -> Array:
        """Return the lengths of the Jacobian's columns, shape (b, p)."""
        xp = backends.namespace(self.products)
        return xp.sqrt(xp.linalg.diagonal(self.products))

    def gradient(self) -> Array:
        """Return J'f."""
        return self.slopes

    def restrained_step(self, damping: Array, scale: Array, free: Any) -> tuple[Array, Array]:
        """Return the step over the free parameters that minimises |f + J s|² + damping |scale s|², and damping."""
        return self.curved_step(self.slopes, damping, scale, free), damping

    def curved_step(self, right_side: Array, damping: Array, scale: Array, free: Any) -> Array:
        """Return -(J'J + damping scale²)⁻¹ r over the free parameters."""
        xp, p = backends.namespace(scale), int(scale.shape[-1])
        eye = xp.eye(p, dtype=scale.dtype, device=backends.device(scale))
        inverse = 1.0 / scale
        if free is not None:
            inverse = xp.where(free, inverse, xp.zeros_like(inverse))
        right = right_side * inverse
        left = self.products * inverse[..., None] * inverse[..., None, :]
        left = left + damping[..., None, None] * eye
        if free is not None:  # a parameter at its bound has an equation of its own
            left = left + xp.where(free, xp.zeros_like(scale), xp.ones_like(scale))[..., None] * eye
        return -xp.linalg.solve(left, right[..., None])[..., 0] * inverse

    def moved_by(self, step: Array) -> NormalModel:
        """Return the model at a step away."""
        change = (self.products @ step[..., None])[..., 0]
        return self._replace(slopes=self.slopes + change)

    def covariance(self, eps: float) -> tuple[Array, HostArray]:
        """Return (J'J)⁻¹, and where the columns are dependent, so that it is not known."""
        xp, p = backends.namespace(self.products), int(self.slopes.shape[-1])
        norms = self.column_norms()
        inverse = 1.0 / xp.where(norms > 0.0, norms, xp.ones_like(norms))
        eye = xp.eye(p, dtype=norms.dtype, device=backends.device(norms))
        scaled = self.products * inverse[..., None] * inverse[..., None, :]
        # So small a ridge keeps dependent columns from a division by 0, and shows in the inverse.
        inflated = xp.linalg.inv(scaled + p * eps * eye)
        inflation = read_columns([xp.max(xp.linalg.diagonal(inflated), axis=-1)])[0]
        with np.errstate(invalid="ignore"):
            deficient = ~(inflation <= MAX_INFLATION_SHARE / (p * eps))
        return inflated * inverse[..., None] * inverse[..., None, :], deficient

    def predicted_fall(self, step: Array) -> Array:
        """Return by how much half the sum of squares falls in a step."""
        xp = backends.namespace(step)
        change = (self.products @ step[..., None])[..., 0]
        return -xp.sum(step * (self.slopes + 0.5 * change), axis=-1)


Model: TypeAlias = TriangularModel | NormalModel


class FitState(NamedTuple):
    """The state of the problems that still run.

    Attributes
    ----------
    x : array, shape (b, p)
        The points: of NumPy where the model is a `TriangularModel`, else of the user's library.
    start : array, shape (b, p)
        The first points.
    low, high : array, shape (b, p), or None
        The bounds.
    raw : array, shape (b, n)
        The user's residuals.
    f, jacobian : array, shapes (b, n), (b, n, p), or None
        Residuals and Jacobian of the linear model; None where it has taken their products.
    model : TriangularModel or NormalModel
        The linear model.
    scale : array, shape (b, p)
        The unit of each parameter, as its inverse: the largest effect that it had.
    free : array of bool, shape (b, p), or None
        Which parameters are not held by a bound.
    proposal : Proposal
        The next step.
    numbers : FitNumbers
        Numbers on the host.
    """

    x: Any
    start: Any
    low: Any
    high: Any
    raw: Any
    f: Any
    jacobian: Any
    model: Any
    scale: Any
    free: Any
    proposal: Any
    numbers: FitNumbers

    @property
    def running(self) -> HostArray:
        """Which problems have not ended."""
        running: HostArray = self.numbers.outcome == RUNNING
        return running

    def take(self, rows: HostArray) -> FitState:
        """Return the state of some of the problems."""
        like = self.x if self.raw is None else self.raw
        xp = backends.namespace(like)
        device_rows = backends.to_device_of(rows, like, xp.int64)

        def selected(array: Any) -> Any:
            return (
                array[rows]
                if isinstance(array, np.ndarray)
                else xp.take(array, device_rows, axis=0)
            )

        whole: Any = self
        state: Any = optree.tree_map(selected, whole)
        return FitState(*state)

    @classmethod
    def join(cls, parts: list[FitState]) -> FitState:
        """Return the states of several sets of problems as one."""
        if len(parts) == 1:
            return parts[0]

        def joined(*arrays: Any) -> Any:
            return backends.namespace(arrays[0]).concat(arrays, axis=0)

        trees: Any = parts
        state: Any = optree.tree_map(joined, *trees)
        return FitState(*state)

    def without_residuals(self) -> FitState:
        """Return the state without the arrays that have an entry for each residual."""
        return self._replace(raw=None, f=None, jacobian=None)


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Damped Gauss-Newton steps for sums of squares.

    ::

        s = argmin |f + J s|² + lambda |D s|²,    low <= x + s <= high

    with D the largest lengths that the columns of J have had (Moré), so that the steps do not depend on the units of
    the parameters, and lambda for each problem by how well the model predicted the last step (Nielsen). A parameter
    at its bound whose derivative points outwards is fixed; the rest of the step is clipped to the bounds, and solved
    for again with what was clipped.

    A problem has converged where a linear model of full rank can remove no more than 1e-8 of the length of the
    residuals (the relative offset of Bates and Watts), where the Gauss-Newton step moves no parameter by more
    than 1e-10 of itself, or where either is hidden by rounding. Many problems end at 1e-5, with the step that is
    known then. The shares are those of double precision. None of these depends on any unit.

    Parameters
    ----------
    acceleration : bool
        Whether to add the geodesic acceleration (Transtrum and Sethna), for one more evaluation a step.
    undamped : bool
        Whether lambda is 0 but after a step that was refused: Gauss-Newton.
    first_damping : float
        The first lambda.
    normal : bool
        Whether to solve by the normal equations on the device: for many problems.
    column_scale : bool
        Whether D is the columns' lengths; else it stays what it is at the start.

    Notes
    -----
    Marquardt (1963), "An algorithm for least-squares estimation of nonlinear parameters"; Moré (1978), "The
    Levenberg-Marquardt algorithm: implementation and theory"; Nielsen (1999), "Damping parameter in Marquardt's
    method"; Transtrum and Sethna (2012), "Improvements to the Levenberg-Marquardt algorithm for nonlinear
    least-squares minimization"; Bates and Watts (1981), "A relative offset orthogonality convergence criterion for
    nonlinear least squares".
    """

    acceleration: bool = False
    undamped: bool = False
    first_damping: float = 1e-3
    normal: bool = False
    column_scale: bool = True

    def init(
        self, problem: Any, x: Array, bounds: tuple[Any, Any], scale: Any, noise: float
    ) -> FitState:
        """Evaluate the first points.

        Parameters
        ----------
        problem : ResidualFunction or CompiledResiduals
            What is minimised.
        x : array, shape (b, p)
            The first points, within the bounds.
        bounds : tuple of two arrays, or of None
            The bounds, shape (b, p).
        scale : array, shape (b, p), or None
            D where it is not that of the columns.
        noise : float
            The relative error of the Jacobian.
        """
        raw, cost = problem.evaluate(x)
        low, high = bounds
        if not self.normal:
            x, low, high, scale = (_as_host(a) for a in (x, low, high, scale))
        numbers = FitNumbers.at_start(read_columns([cost])[0], 1 + problem.calls_per_jacobian)
        if self.normal:
            first = self._least_damping(x) if self.undamped else self.first_damping
            numbers = numbers._replace(restraint=np.full(numbers.cost.shape, first))
        state = FitState(x, x, low, high, raw, None, None, None, scale, None, None, numbers)
        with np.errstate(all="ignore"):
            state = self._linearise(problem, state, noise)
            if not (self.normal or self.undamped):
                state = _with_first_radius(state)
                state = state._replace(proposal=self._propose(state))
            nonfinite = ~state.proposal.finite & state.running
            numbers = state.numbers
            outcome = np.where(nonfinite, NON_FINITE, numbers.outcome)
            return self._settle(state._replace(numbers=numbers._replace(outcome=outcome)))

    def step(self, problem: Any, state: FitState, noise: float) -> FitState:
        """Try the proposed steps; take those that descend, and propose the next."""
        with np.errstate(all="ignore"):
            trial = state.x + state.proposal.step
            evaluations, per_jacobian = 1, problem.calls_per_jacobian
            if self.acceleration:
                trial = trial + self._acceleration(problem, state)
                evaluations = 2
            trial = _within(trial, state.low, state.high)
            raw, cost = problem.evaluate(self._on_device(trial, state))
            numbers, accepted = self._judge(state, read_columns([cost])[0], evaluations)
            numbers = numbers._replace(nfev=numbers.nfev + per_jacobian * accepted)
            x, raw = tree_where(accepted, (trial, raw), (state.x, state.raw))
            after = state._replace(x=x, raw=raw, numbers=numbers)
            if accepted.any():
                after = self._linearise(problem, after, noise)
                broken = accepted & ~after.proposal.finite
                if broken.any():
                    after = self._step_back(state, after, broken)
                after = _note_hidden_steps(state, after, accepted)
            else:
                after = after._replace(proposal=self._propose(after))
            return self._settle(after)

    def _on_device(self, x: Any, state: FitState) -> Array:
        same: Array = x
        return same if self.normal else backends.to_device_of(x, state.raw)

    def _least_damping(self, x: Any) -> float:
        """Return the damping that counts as none: products of columns know no smaller one."""
        if not self.normal:
            return 0.0
        return float(max(1e-12, 16.0 * x.shape[-1] * _value_rounding(x)))

    def _linearise(self, problem: Any, state: FitState, noise: float) -> FitState:
        """Form the linear model at the points, and propose the next steps."""
        f, jacobian = problem.linearise(self._on_device(state.x, state), state.raw)
        kind: Any = NormalModel if self.normal else TriangularModel
        model = kind.of(f, jacobian, noise)
        xp = backends.namespace(state.x)
        norms, scale = model.column_norms(), state.scale
        if self.column_scale:
            norms = xp.where(norms > 0.0, norms, xp.zeros_like(norms))  # NaN counts for nothing
            scale = norms if scale is None else xp.maximum(scale, norms)
        free = _free_parameters(state.x, model.gradient(), state.low, state.high)
        keep = not self.normal or self.acceleration
        state = state._replace(
            f=f if keep else None, jacobian=jacobian if keep else None, model=model, scale=scale, free=free
        )  # fmt: skip
        return state._replace(proposal=self._propose(state))

    def _propose(self, state: FitState) -> Proposal:
        """Solve for the next steps; one read where the model is on the device."""
        xp, model = backends.namespace(state.x), state.model
        scale = xp.where(state.scale > 0.0, state.scale, xp.ones_like(state.scale))
        restraint = state.numbers.restraint
        if self.normal:
            restraint = backends.to_device_of(restraint, state.x)
            return self._measure_normal(
                state, *self._bounded_step(state, restraint, scale, state.free)
            )
        finite = model.is_finite()
        if not finite.all():
            blank = (np.zeros_like(model.triangle), np.zeros_like(model.target))
            filled = tree_where(finite, (model.triangle, model.target), blank)
            model = model._replace(triangle=filled[0], target=filled[1])
        free = np.ones(state.x.shape, dtype=bool) if state.free is None else state.free
        step, damping = self._bounded_step(state._replace(model=model), restraint, scale, free)
        eps = float(np.finfo(state.x.dtype).eps)
        measures = model.measure(state, free, scale, eps)
        predicted = model.predicted_fall(step)
        return Proposal(step=step, damping=damping, predicted=predicted, finite=finite, **measures)

    def _bounded_step(
        self, state: FitState, restraint: Any, scale: Any, free: Any
    ) -> tuple[Any, Any]:
        """Return the step within the bounds, and its damping: what leaves them is clipped, and the rest solved for again."""
        step, damping = state.model.restrained_step(restraint, scale, free)
        if state.low is None:
            return step, damping
        xp = backends.namespace(state.x)
        low, high = state.low - state.x, state.high - state.x
        for _ in range(min(int(state.x.shape[-1]), MAX_CLIPPINGS)):
            clipped = xp.minimum(xp.maximum(step, low), high)
            free = free & (clipped == step)
            fixed = xp.where(free, xp.zeros_like(step), clipped)
            rest, damping = state.model.moved_by(fixed).restrained_step(restraint, scale, free)
            step = fixed + xp.where(free, rest, xp.zeros_like(rest))
        return xp.minimum(xp.maximum(step, low), high), damping

    def _measure_normal(self, state: FitState, step: Array, damping: Array) -> Proposal:
        """Measure the points of many problems by their damped steps, in one read."""
        xp, model, x = backends.namespace(step), state.model, state.x
        eps = float(xp.finfo(x.dtype).eps)
        norms = model.column_norms()
        scale = xp.where(norms > 0.0, norms, xp.ones_like(norms))
        size = xp.abs(x)
        effects = xp.sum(norms * size, axis=-1)
        visible = (
            size
            + (RESIDUAL_NOISE_EPS * eps / eps**RELATIVE_STEP_POWER) * effects[..., None] / scale
        )
        gradient = xp.abs(model.slopes)
        if state.free is not None:
            gradient = xp.where(state.free, gradient, xp.zeros_like(gradient))
        vanished = has_vanished(xp, norms, state.scale, x, state.start)
        tiny = float(xp.finfo(x.dtype).smallest_normal)
        columns = [
            model.predicted_fall(step), model.square, xp.max(xp.abs(step) / (visible + tiny), axis=-1),
            xp.max(gradient / scale, axis=-1), effects, xp.max(gradient, axis=-1), xp.max(size, axis=-1),
            xp.max(xp.astype(vanished, x.dtype), axis=-1),
        ]  # fmt: skip
        predicted, square, relative, slope, effects, grad_norm, size, vanished = read_columns(
            [xp.stack(columns)]
        )[0]
        removable = np.sqrt(2.0 * np.maximum(predicted, 0.0))
        length = np.sqrt(2.0 * state.numbers.cost)
        exact = state.numbers.restraint <= self._least_damping(x)
        return Proposal(
            step, damping, predicted, safe_ratio(removable, length), relative, safe_ratio(slope, length),
            eps * effects, exact, np.zeros(exact.shape, dtype=bool),
            vanished > 0.0, np.isfinite(predicted + square), grad_norm, size,
        )  # fmt: skip

    def _acceleration(self, problem: Any, state: FitState) -> Any:
        """Return half the second-order correction of the steps along the curve that they begin, 0 where it is long."""
        h, xp = ACCELERATION_PROBE, backends.namespace(state.x)
        step = state.proposal.step
        probe = _within(state.x + h * step, state.low, state.high)
        ahead = problem.evaluate(self._on_device(probe, state))[0]
        device_step = self._on_device(step, state)
        change = (state.jacobian @ device_step[..., None])[..., 0]
        curvature = (2.0 / h) * ((ahead - state.raw) / h - change)
        device = backends.namespace(curvature)
        right = (device.matrix_transpose(state.jacobian) @ curvature[..., None])[..., 0]
        scale = xp.where(state.scale > 0.0, state.scale, xp.ones_like(state.scale))
        damping = state.proposal.damping
        if not self.normal:
            right = np.asarray(backends.to_numpy(right), dtype=np.float64)
            right = np.where(np.isfinite(right), right, 0.0)
        free = state.free
        if free is None and not self.normal:
            free = np.ones(state.x.shape, dtype=bool)
        bend = 0.5 * state.model.curved_step(right, damping, scale, free)
        lengths = [xp.sum((scale * v) ** 2, axis=-1) for v in (bend, step)]
        useful = lengths[0] <= MAX_ACCELERATION**2 * lengths[1]  # false for what is not finite
        return xp.where(useful[..., None], bend, xp.zeros_like(bend))

    def _judge(
        self, state: FitState, cost: HostArray, evaluations: int
    ) -> tuple[FitNumbers, HostArray]:
        """Decide which steps to take, and how much to damp the next."""
        numbers, running, predicted = state.numbers, state.running, state.proposal.predicted
        noise = _cost_noise(state)
        finite, hidden = np.isfinite(cost), predicted <= noise
        ratio = safe_ratio(numbers.cost - cost, predicted)
        descends = np.where(hidden, cost <= numbers.cost + noise, ratio > MIN_GAIN_RATIO)
        accepted = running & finite & (predicted > 0.0) & descends
        no_fall = state.proposal.offset**2 * numbers.cost <= noise
        update = self._next_damping if self.normal else self._next_radius
        restraint, growth = update(state, ratio, accepted, hidden & accepted)
        moved = state.proposal.step
        moved = safe_ratio(_largest_entry(moved), state.proposal.size) if accepted.any() else 0.0
        return numbers._replace(
            cost=np.where(accepted, cost, numbers.cost),
            restraint=np.where(running, restraint, numbers.restraint),
            growth=np.where(running, growth, numbers.growth),
            moved=np.where(accepted, moved, numbers.moved),
            nit=numbers.nit + accepted,
            nfev=numbers.nfev + evaluations * running,
            njev=numbers.njev + accepted,
            met_nonfinite=np.where(running, ~finite, numbers.met_nonfinite),
            hidden_steps=numbers.hidden_steps + (running & ~accepted & no_fall),
        ), accepted  # fmt: skip

    def _next_damping(
        self, state: FitState, ratio: HostArray, accepted: HostArray, hidden: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Return lambda and what the next refusal multiplies it by, after Nielsen."""
        numbers = state.numbers
        shrink = np.maximum(1.0 / 3.0, 1.0 - (2.0 * np.minimum(ratio, 1.0) - 1.0) ** 3)
        shrink = np.where((np.abs(ratio - 1.0) <= MAX_PLAIN_ERROR) | hidden, FAST_DECAY, shrink)
        least = self._least_damping(state.x)
        eased = np.maximum(least, 0.0 if self.undamped else shrink * numbers.restraint)
        grown = np.maximum(numbers.restraint, MIN_GROWN_DAMPING) * numbers.growth
        return np.where(accepted, eased, grown), np.where(accepted, 2.0, 2.0 * numbers.growth)

    def _next_radius(
        self, state: FitState, ratio: HostArray, accepted: HostArray, hidden: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Return the radius of the trust region; an undamped step has none until it is refused."""
        numbers = state.numbers
        length = np.sqrt(np.sum((state.scale * state.proposal.step) ** 2, axis=-1))
        poor = ~accepted | ((ratio < MIN_RADIUS_RATIO) & ~hidden)
        full = (ratio > MIN_GROWTH_RATIO) & (state.proposal.damping > 0.0)
        radius = np.where(full, RADIUS_GROWTH * numbers.restraint, numbers.restraint)
        if self.undamped:
            radius, poor = np.full(radius.shape, np.inf), ~accepted
        return np.where(poor, RADIUS_DECAY * length, radius), numbers.growth

    def _step_back(self, before: FitState, after: FitState, broken: HostArray) -> FitState:
        """Undo the steps to points whose Jacobian is not finite, and damp more."""
        numbers, none = before.numbers, np.zeros(broken.shape, dtype=bool)
        update = self._next_damping if self.normal else self._next_radius
        restraint, growth = update(before, np.zeros(broken.shape), none, none)
        kept = numbers._replace(
            restraint=restraint, growth=growth, nfev=after.numbers.nfev, njev=after.numbers.njev,
            met_nonfinite=np.ones_like(broken),
        )  # fmt: skip
        # Each of the two has the arrays that the other has.
        merged: FitState = tree_where(broken, before._replace(numbers=kept), after)
        return merged._replace(proposal=self._propose(merged))

    def refuse_dependent(self, state: FitState) -> FitState:
        """Take back that problems of dependent columns have converged, of a model that does not know by itself."""
        if not self.normal:
            return state
        numbers = state.numbers
        _, deficient = state.model.covariance(_value_rounding(state.x))
        refused = deficient & (numbers.outcome == CONVERGED) & (numbers.cost > 0.0)
        outcome = np.where(refused, NO_MINIMUM, numbers.outcome)
        return state._replace(numbers=numbers._replace(outcome=outcome))

    def reopen(self, problem: Any, state: FitState, noise: float) -> FitState:
        """Let problems that have ended go on with a more accurate Jacobian; one that runs away stays ended."""
        numbers, zero = state.numbers, np.zeros(state.numbers.cost.shape, dtype=int)
        again = np.isin(numbers.outcome, (CONVERGED, STALLED, NO_MINIMUM)) & (numbers.cost > 0.0)
        numbers = numbers._replace(
            outcome=np.where(again, RUNNING, numbers.outcome), hidden_steps=zero,
            best_offset=np.full(zero.shape, np.inf), njev=numbers.njev + again,
            nfev=numbers.nfev + problem.calls_per_jacobian * again,
        )  # fmt: skip
        with np.errstate(all="ignore"):
            state = self._linearise(problem, state._replace(numbers=numbers), noise)
            if not (self.normal or self.undamped):
                state = _with_first_radius(state)
                state = state._replace(proposal=self._propose(state))
            return self._settle(state)

    def confirm_minimum(self, problem: Any, state: FitState) -> FitState:
        """Let one problem have converged where the residuals curve upwards along what the linear model leaves open.

        Of residuals that do not vanish, as of p of them in p parameters, J loses its rank at a minimum. What counts
        there is the second derivative of the cost along each such direction, which two evaluations give.
        """
        numbers, eps = state.numbers, _value_rounding(state.raw)
        stopped = numbers.outcome[0] in {STALLED, NO_MINIMUM} and not numbers.met_nonfinite[0]
        if self.normal or len(numbers.cost) != 1 or not stopped:
            return state
        directions, scale = state.model.null_directions(eps)
        length = np.sqrt(np.sum((scale * state.x[0]) ** 2))
        gradient, cost = state.model.gradient()[0], float(numbers.cost[0])
        evaluations, minimum = 0, bool(length > 0.0)
        for direction in directions if minimum else ():
            probe = eps**0.25 * length * direction
            points = [
                _within(state.x + sign * probe, state.low, state.high) for sign in (1.0, -1.0)
            ]
            costs = [
                read_columns([problem.evaluate(self._on_device(x, state))[1]])[0] for x in points
            ]
            evaluations += 2
            curvature = float(costs[0][0] + costs[1][0] - 2.0 * cost)
            slope = float(gradient @ probe)
            # The cost can fall by slope² / (2 curvature).
            curved = curvature > MIN_CURVATURE_NOISE * COST_NOISE_EPS * eps * cost
            if not (curved and slope**2 <= eps ** (2.0 * HIDDEN_OFFSET_POWER) * cost * curvature):
                minimum = False
                break
        outcome = np.full(1, CONVERGED) if minimum else numbers.outcome
        counted = numbers._replace(outcome=outcome, nfev=numbers.nfev + evaluations)
        return state._replace(numbers=counted)

    def _settle(self, state: FitState) -> FitState:
        """End the problems that have converged, or that can go no further."""
        numbers, proposal, eps = state.numbers, state.proposal, _value_rounding(state.raw)
        still = (proposal.offset <= self.max_offset(eps)) | (
            proposal.relative_step <= eps**RELATIVE_STEP_POWER
        )
        removable = proposal.offset * np.sqrt(2.0 * numbers.cost)
        still = still | (removable <= RESIDUAL_NOISE_EPS * proposal.rounding)
        # What is small for the damping may not be small without it; of a refused step that has been tried.
        pending = state.running & still & ~proposal.exact & (numbers.growth <= 2.0)
        if pending.any():
            damping = np.where(pending, self._least_damping(state.x), numbers.restraint)
            state = state._replace(numbers=numbers._replace(restraint=damping))
            return self._settle(state._replace(proposal=self._propose(state)))
        still = still & proposal.exact
        if self.normal:
            stalled = numbers.restraint > MAX_DAMPING
        else:
            stalled = numbers.restraint <= MIN_RADIUS_EPS * eps * _scaled_length(state)
        stalled = stalled | (numbers.hidden_steps >= MAX_HIDDEN_STEPS)
        still = still | (stalled & (proposal.offset <= eps**HIDDEN_OFFSET_POWER))
        vanishing = (np.sqrt(numbers.cost) <= eps * np.sqrt(numbers.first_cost)) & (
            proposal.relative_step <= eps**0.75
        )
        zero = numbers.cost == 0.0
        outcome = np.where(stalled, STALLED, RUNNING)
        outcome = np.where(stalled & numbers.met_nonfinite, NON_FINITE, outcome)
        outcome = np.where(still & proposal.deficient & ~zero, NO_MINIMUM, outcome)
        runaway = (stalled | still | zero) & proposal.vanished
        outcome = np.where(runaway, UNBOUNDED, outcome)
        converged = ((still & ~proposal.deficient) | zero | vanishing) & ~runaway
        outcome = np.where(converged, CONVERGED, outcome)
        newly = state.running & (outcome == CONVERGED)
        outcome = np.where(state.running, outcome, numbers.outcome)
        state = state._replace(numbers=numbers._replace(outcome=outcome))
        return self._take_last_step(state, newly) if self.normal and newly.any() else state

    def max_offset(self, eps: float) -> float:
        """Return the offset at which a problem has converged."""
        return float(eps ** (BATCH_OFFSET_POWER if self.normal else OFFSET_POWER))

    def _take_last_step(self, state: FitState, newly: HostArray) -> FitState:
        """Take the steps that are known at convergence, which change the cost by what the model says."""
        numbers, proposal = state.numbers, state.proposal
        x = _within(state.x + proposal.step, state.low, state.high)
        cost = np.where(newly, np.maximum(numbers.cost - proposal.predicted, 0.0), numbers.cost)
        return state._replace(x=tree_where(newly, x, state.x), numbers=numbers._replace(cost=cost))


# A variance is known where it is inflated by less than this share of what rounding inflates it by.
MAX_INFLATION_SHARE = 0.1
MIN_CURVATURE_NOISE = 4.0  # times the rounding of the cost: a second difference that is no rounding
MIN_RADIUS_EPS = 1e-2  # eps of the point: a trust region of this radius has no other point
MAX_CLIPPINGS = 4  # solutions of a step for the parameters that no bound holds


def radius_damping(u: HostArray, values: HostArray, radius: HostArray) -> HostArray:
    """Return the damping lambda >= 0 with which the step S u / (S² + lambda) has the length of the radius.

    It is 0 where the step without damping is no longer than that. Newton's method on 1/length, which is nearly
    linear in lambda (Hebden; Moré), from below.
    """
    limit = np.finfo(float).eps * values.shape[-1] * values.max(axis=-1, keepdims=True)
    kept = np.where(values > limit, values, 0.0)

    def length(damping: HostArray) -> HostArray:
        return np.sqrt(np.sum(safe_ratio(kept * u, kept**2 + damping[:, None]) ** 2, axis=-1))

    damping = np.zeros(radius.shape)
    long = length(damping) > radius
    for _ in range(MAX_RADIUS_ITERATIONS if long.any() else 0):
        size = length(damping)
        far = long & (np.abs(size - radius) > RADIUS_TOLERANCE * radius)
        if not far.any():
            break
        cubes = safe_ratio((kept * u) ** 2, (kept**2 + damping[:, None]) ** 3)
        change = (size / radius - 1.0) * size**2 / np.sum(cubes, axis=-1)
        damping = np.where(far, np.maximum(damping + change, 0.0), damping)
    return damping


def safe_ratio(a: Any, b: Any) -> HostArray:
    """Return a / b, 0 where a is 0 and infinity where b alone is."""
    return np.where(a == 0.0, 0.0, a / np.where(b == 0.0, np.where(a == 0.0, 1.0, 0.0), b))


def has_vanished(xp: Any, norms: Any, largest: Any, x: Any, start: Any) -> Any:
    """Return which parameters have grown until nothing hangs on them any more."""
    grown = xp.abs(x) > MIN_RUNAWAY_GROWTH * xp.abs(start)
    return grown & (norms <= MAX_VANISHED_SHARE * largest) & (largest > 0.0)


def _scaled_length(state: FitState) -> HostArray:
    """Return the length of the points in the units of the trust region, or of the residuals where that is 0."""
    length = np.sqrt(np.sum((state.scale * state.x) ** 2, axis=-1))
    target = np.sqrt(np.sum(state.model.target**2, axis=-1))
    return np.where(length > 0.0, length, target)


def _with_first_radius(state: FitState) -> FitState:
    """Return a state whose first steps are as long as the first points, at the most."""
    return state._replace(numbers=state.numbers._replace(restraint=_scaled_length(state)))


def _free_parameters(x: Any, gradient: Any, low: Any, high: Any) -> Any:
    """Return which parameters are not at a bound that their derivative points out of; None without bounds."""
    if low is None:
        return None
    xp = backends.namespace(x)
    return xp.logical_not(((x <= low) & (gradient > 0.0)) | ((x >= high) & (gradient < 0.0)))


def _within(x: Any, low: Any, high: Any) -> Any:
    if low is None:
        return x
    xp = backends.namespace(x)
    return xp.minimum(xp.maximum(x, low), high)


def _as_host(x: Any) -> Any:
    return None if x is None else np.asarray(backends.to_numpy(x))


def _value_rounding(x: Array) -> float:
    return float(backends.namespace(x).finfo(x.dtype).eps)


def _cost_noise(state: FitState) -> HostArray:
    """Return the rounding of the costs: that of the sum, and that of the residuals."""
    cost, eps = state.numbers.cost, _value_rounding(state.raw)
    noise: HostArray = COST_NOISE_EPS * eps * cost + state.proposal.rounding * np.sqrt(2.0 * cost)
    return noise


def _largest_entry(x: Any) -> HostArray:
    if isinstance(x, np.ndarray):
        return np.max(np.abs(x), axis=-1)
    return read_columns([backends.namespace(x).max(abs(x), axis=-1)])[0]


def _note_hidden_steps(before: FitState, after: FitState, accepted: HostArray) -> FitState:
    """Count the steps whose gain rounding hides, and which have not halved the offset."""
    numbers = after.numbers
    fall = before.numbers.cost - numbers.cost
    hidden = accepted & (fall <= _cost_noise(before))
    improved = after.proposal.offset <= 0.5 * numbers.best_offset
    steps = np.where(hidden & ~improved, numbers.hidden_steps + 1, 0)
    best = np.where(hidden, np.minimum(numbers.best_offset, after.proposal.offset), np.inf)
    return after._replace(
        numbers=numbers._replace(
            hidden_steps=np.where(accepted, steps, numbers.hidden_steps),
            best_offset=np.where(accepted, best, numbers.best_offset),
        )
    )
