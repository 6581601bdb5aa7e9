"""Newton's method for a smooth function plus a separable penalty, such as the lasso, with the model on the host.

`PenalisedQuadratic` goes to its minimum by semismooth Newton steps on a matrix in memory: the squared loss by its
moments (`agd.run.semismooth_newton`). `ProximalNewton` replaces another loss by its quadratic model at each point, and
goes to the minimum of that, without a pass over the data. `ActiveSet` is a solver of the loop for the squared loss with
few columns, whose moments give the Hessian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from agd import backends
from agd._tree import dot, tree_where
from agd._typing import Array, HostArray, NotApplicable
from agd.update.newton import (
    DIAGONAL_NOISE_EPS,
    MAX_TRIALS,
    VALUE_NOISE_EPS,
    HessianState,
    StepMemory,
    judge_trial,
)
from agd.update.proximal import (
    FISTA,
    CompositeFunction,
    CompositePoint,
    FistaState,
    relative_step,
    value_increase,
)
from agd.update.solver import Solver, read_columns

__all__ = ["ActiveSet", "PenalisedQuadratic", "ProximalNewton", "StepRecord"]

EPS64 = float(np.finfo(np.float64).eps)
# The prox is differenced with half the digits: a derivative below the first is taken for 0, and a curvature
# of the penalty (times the step) below the second.
MIN_PROX_DERIVATIVE, MIN_SCALED_CURVATURE = 1e-3, 1e-6
# Directions with less curvature, as a share of the largest, are treated as if they had this much.
MIN_PIVOT_RATIO = 1e-12
# Up to so many entries a face costs no more than a step, and is solved after each; of more only once in so
# many evaluations while the free entries still change.
MAX_SMALL_ENTRIES, EVALUATIONS_BETWEEN_TRIALS = 48, 20
# Where rounding hides the change of the value, a point is taken if it lowers the residual to this share.
MAX_RESIDUAL_RATIO = 0.5
# How many steps `PenalisedQuadratic` takes, and to what share it halves one of them.
MAX_STEPS, MIN_STEP_LENGTH = 100, 2.0**-12
# The minimum of a face takes a linear system for each entry that meets a kink on the way: it is not sought of more
# columns, unless so many steps of halved length have not led to the end.
MAX_EXACT_COLUMNS, MAX_HALVED_STEPS = 128, 30
# A point that is larger than the gradient at 0 by more lies along columns that are dependent: its value is rounding.
MAX_GROWTH = 1e6
# A short and a long difference by which the prox is differentiated.
ROOT_EPS, SHARE = math.sqrt(float(np.finfo(np.float64).eps)), 2.0**-8
# The residual of the model's minimum, as a share of the residual of the point that it is the model at.
MAX_MODEL_RESIDUAL_RATIO = 1e-3


@dataclass(frozen=True)
class ActiveSet(Solver):
    r"""A quadratic f plus a separable penalty h: `FISTA`, and after each of its steps the minimum of a face.

    A step of the proximal gradient, z = prox_{a h}(x - a g), says which entries lie at a kink of h, 0 or
    a bound. On the face where these stay, f + h is a quadratic, and its minimum is where ::

        (H + h'')_FF d_F = -(g + h')_F,    F the entries that are free

    Where z + d lies beyond a kink of an entry, the way ends there, the entry is held, and the rest is
    solved for again. All this descends, and no face comes twice, so that the minimum is found in a few
    steps however badly the columns are conditioned; which entries are free again is for the next step of
    `FISTA` to say.

    One problem on NumPy; the objective gives its Hessian, by ``hessian()``.

    Notes
    -----
    Lawson and Hanson (1974), *Solving Least Squares Problems*, chapter 23; Lee, Battle, Raina and Ng (2006),
    "Efficient sparse coding algorithms" (feature-sign search); Hager and Zhang (2006), "A new active set
    algorithm for box constrained optimization", SIAM Journal on Optimization 17.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective, Moments, column_scaling
    >>> from agd.gradient.quadratic import MomentObjective
    >>> from agd.gradient.preconditioner import Preconditioned
    >>> from agd.loss import L1
    >>> from agd.run import Stop, run
    >>> x = np.linspace(0.0, 1.0, 50)
    >>> base = LinearObjective.of(x[:, None] ** np.arange(1, 7), np.sin(3.0 * x), penalty=L1(1e-4))
    >>> moments = Moments.from_blocks(base.blocks)
    >>> there = Preconditioned(MomentObjective.of_data(base, moments), column_scaling(base, moments))
    >>> run(ActiveSet(), there, there.zeros(), Stop(grad_tol=1e-10)).nit < 20
    True
    """

    handles_prox = True
    rescaled = True

    @property
    def evaluations(self) -> int:
        """The point of `FISTA` and the minimum of a face."""
        return 2

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "accelerated proximal gradient and faces"

    def init(self, objective: Any, params: Any) -> FistaState:
        """Begin as `FISTA` does."""
        return FISTA().init(objective, params)

    def step(self, objective: Any, params: Any, state: FistaState) -> tuple[Any, FistaState]:
        """Take a step of `FISTA`, then go to the minimum of its face if that is lower."""
        old_composite = CompositeFunction(objective, params, state.grad)
        old_point, old_L = old_composite.current_point(state.value), state.L
        params, state = FISTA().step(objective, params, state)
        composite = CompositeFunction(objective, params, state.grad)
        old, step = composite.current_point(state.value), 1.0 / state.L
        partition = partition_entries(composite, old, step)
        # Of many entries most are fixed one by one before the face is right: wait until it settles.
        postponed = (
            old.x.shape[0] > MAX_SMALL_ENTRIES
            and int(state.progress.evaluations) % EVALUATIONS_BETWEEN_TRIALS > 0
        )
        if (
            postponed
            and (
                partition.free != partition_entries(old_composite, old_point, 1.0 / old_L).free
            ).any()
        ):
            return params, state
        with np.errstate(all="ignore"):
            x = solve_free(composite, objective.hessian(), old, partition)
        new = composite.at(x.astype(old.x.dtype, copy=False))
        new_value: HostArray = new.value
        new_residual, residual = composite.proximal_step(new, step) - new.x, partition.x - old.x
        (fista_change, _), (change, noise) = (
            value_increase(composite, old_point, old),
            value_increase(composite, old, new),
        )
        residual_falls = (change <= noise) & (
            dot(new_residual, new_residual) <= MAX_RESIDUAL_RATIO**2 * dot(residual, residual)
        )
        improved = np.isfinite(new_value) & (
            ((change < -noise) & (change <= fista_change)) | residual_falls
        )
        return self._accept_minimum(composite, old, new, improved, state)

    @staticmethod
    def _accept_minimum(
        composite: CompositeFunction,
        old: CompositePoint,
        new: CompositePoint,
        improved: HostArray,
        state: FistaState,
    ) -> tuple[Any, FistaState]:
        """Go to the minimum of the face where it is better, and restart the momentum there."""
        accepted, progress = tree_where(improved, new, old), state.progress
        change: HostArray = relative_step(new.x, old.x)
        t: HostArray = state.t
        after = state._replace(
            value=accepted.value,
            grad=composite.unravel_grad(accepted.g),
            progress=progress._replace(
                evaluations=progress.evaluations + 1.0,
                stalled=progress.stalled & ~improved,
                relative_step=np.where(improved, change, progress.relative_step),
            ),
            extrapolated=tree_where(improved, new, state.extrapolated),
            pending=state.pending & ~improved,
            t=np.where(improved, 1.0, t).astype(t.dtype),
        )
        return composite.unravel(accepted.x), after


class SeparableProx(Protocol):
    """A penalty as its prox, in the coordinates of the vectors that it is given."""

    def prox(self, x: HostArray, step: Any, /) -> HostArray:
        """Return argmin_u penalty(u) + |u - x|² / (2 step)."""
        ...


class Partition(NamedTuple):
    """A point, which of its entries are free, and the penalty's derivative and curvature there."""

    x: HostArray
    free: HostArray
    slope: HostArray
    curvature: HostArray
    kinked: HostArray  # whether the penalty has a kink at 0


def partition_entries(composite: SeparableProx, at: CompositePoint, step: HostArray) -> Partition:
    """Return the point after a proximal gradient step, and the face on which it lies."""
    forward_step = at.x - step * at.g
    x = composite.prox(forward_step, step)
    offset = np.finfo(x.dtype).eps ** 0.5 * max(
        float(np.abs(forward_step).max()), np.finfo(x.dtype).tiny
    )
    signed_offset = np.where(forward_step < 0.0, -offset, offset)
    # The derivative of the prox is 1 / (1 + a h'').
    prox_derivative = (composite.prox(forward_step + signed_offset, step) - x) / signed_offset
    free = prox_derivative > MIN_PROX_DERIVATIVE
    penalty_curvature = np.where(free, 1.0 / np.where(free, prox_derivative, 1.0) - 1.0, 0.0)
    penalty_curvature = (
        np.where(np.abs(penalty_curvature) < MIN_SCALED_CURVATURE, 0.0, penalty_curvature) / step
    )
    kinked = composite.prox(np.zeros_like(x) + offset, step) == 0.0
    return Partition(x, free, (forward_step - x) / step, penalty_curvature, kinked)


def solve_free(
    composite: SeparableProx, H: HostArray, at: CompositePoint, partition: Partition
) -> HostArray:
    """Minimise over the free entries; fix those that reach a kink on the way, and go on with the rest."""
    x, free = partition.x.astype(np.float64), partition.free.copy()
    slope = at.g + H @ (x - at.x) + partition.slope
    for _ in range(len(x)):
        free_indices = np.flatnonzero(free)
        direction = np.zeros_like(x)
        matrix = H[np.ix_(free_indices, free_indices)] + np.diag(partition.curvature[free_indices])
        direction[free_indices] = -solve_symmetric(matrix, slope[free_indices])
        # An entry stops at 0, where the penalty has a kink, or at the border of the penalty's set.
        end: HostArray = composite.prox(x + direction, 0.0 * at.value)
        end = np.where(partition.kinked & (x * end < 0.0), 0.0, end)
        rounding = 8.0 * np.finfo(at.x.dtype).eps * (np.abs(x) + np.abs(direction))
        leaves_face = np.abs(end - (x + direction)) > rounding
        fraction = np.where(leaves_face, (end - x) / np.where(leaves_face, direction, 1.0), 1.0)
        t = min(1.0, float(fraction.min()))
        x = x + t * direction
        slope = slope + t * (H @ direction + partition.curvature * direction)
        if t >= 1.0:
            break
        reached_kink = leaves_face & (fraction <= t)
        x, free = np.where(reached_kink, end, x), free & ~reached_kink
    return x


def solve_symmetric(matrix: HostArray, rhs: HostArray) -> HostArray:
    """Solve a symmetric system; of a singular one go far along its null space, until a kink stops it."""
    # LAPACK knows nothing wider than double; what that loses of wider numbers the next step corrects.
    matrix, rhs = (part.astype(np.float64, copy=False) for part in (matrix, rhs))
    max_curvature = np.max(np.diag(matrix), initial=0.0)
    try:
        pivots = np.diag(np.linalg.cholesky(matrix)) ** 2
        if (pivots > MIN_PIVOT_RATIO * max_curvature).all():
            return np.linalg.solve(matrix, rhs)
    except np.linalg.LinAlgError:
        pass
    # By eigenvectors, so that a long step along one of them is no error along the others.
    eigenvalues, eigenvectors = np.linalg.eigh(matrix)
    return eigenvectors @ (
        (eigenvectors.T @ rhs)
        / np.maximum(eigenvalues, MIN_PIVOT_RATIO * max_curvature + np.finfo(float).tiny)
    )


class StepRecord(NamedTuple):
    """What the history says of a step: the value, the relative residual, and how far the params moved."""

    value: float
    size: float
    moved: float


class PenalisedQuadratic:
    """The function v'Cv/2 - q'v + constant + penalty(D v), minimised on the host.

    Parameters
    ----------
    C, q : numpy.ndarray, shapes (p, p), (p,)
        The quadratic; C is positive semidefinite.
    scale : numpy.ndarray, shape (p,)
        The diagonal of D.
    penalty : Penalty
        It acts entry by entry.
    constant : float
        What the value adds.
    """

    def __init__(self, C: Any, q: Any, scale: Any, penalty: Any, constant: float = 0.0) -> None:
        self.C, self.q, self.constant = C, q, constant
        self.scale, self.square = scale, scale**2
        self.penalty = penalty

    def prox(self, v: Any, step: Any = 1.0) -> Any:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step)."""
        point: Any = self.penalty.prox(self.scale * v, step * self.square)
        return point / self.scale

    def gradient(self, v: Any) -> Any:
        """Return the gradient of the quadratic."""
        return self.C @ v - self.q

    def value(self, v: Any, g: Any) -> float:
        """Return the function, where g is the gradient of the quadratic."""
        return self.value_and_rounding(v, g)[0]

    def value_and_rounding(self, v: Any, g: Any) -> tuple[float, float]:
        """Return the function, where g is the gradient of the quadratic, and how much of it may be rounding."""
        quadratic, penalty = (
            0.5 * float(v @ (g - self.q)),
            float(self.penalty.value(self.scale * v)),
        )
        size = abs(quadratic) + abs(penalty) + abs(self.constant)
        return quadratic + penalty + self.constant, VALUE_NOISE_EPS * EPS64 * size

    def minimise(
        self, v: Any, tolerance: float, unit: float = 1.0, log: list[StepRecord] | None = None
    ) -> tuple[Any, float]:
        """Return the minimum, or the lowest point that was met, which is no higher than the first.

        Parameters
        ----------
        v : numpy.ndarray, shape (p,)
            The first point.
        tolerance : float
            The largest entry of v - prox(v - g, 1), in the unit, at which v is taken for the minimum.
        unit : float
            What the residual is a share of.
        log : list of StepRecord, optional
            A record of each point is added to it.

        Returns
        -------
        v : numpy.ndarray, shape (p,)
            The point.
        size : float
            The residual there, in the unit.

        Notes
        -----
        Semismooth Newton steps, of which each solves for the entries that the prox leaves free, lead to the minimum
        in a few steps or cycle. One that does not descend is taken back, and a step along a face, which is no
        higher, takes its place. Qi and Sun (1993), "A nonsmooth version of Newton's method".
        """
        log = [] if log is None else log
        least, lowest, best, best_size, moved = math.inf, v, math.inf, math.inf, 0.0
        exact = False  # whether the last step went to the minimum of a face
        for _ in range(MAX_STEPS):
            g = self.gradient(v)
            forward = v - g
            z = self.prox(forward)
            (value, noise), size = self.value_and_rounding(v, g), float(np.abs(v - z).max()) / unit
            log.append(StepRecord(value, size, moved))
            if size <= tolerance or not math.isfinite(size):
                return (v, size) if size <= tolerance else (lowest, best_size)
            # Where rounding hides a decrease, a residual that is half as large tells of it. A set may be left for
            # a while, where the value is infinite.
            descends = value < least - noise if math.isfinite(value) else size < best
            descends |= value <= least + noise and size <= MAX_RESIDUAL_RATIO * best
            if not descends and exact:
                break
            if descends and math.isfinite(value):
                least, lowest, best_size = min(value, least), v, size
            elif not descends:
                v, g = lowest, self.gradient(lowest)
            best = min(best, size)
            few = len(v) <= MAX_EXACT_COLUMNS or len(log) > MAX_HALVED_STEPS
            exact = few and not descends
            if descends:
                new = self._newton_point(v, g, forward, z, exact_face=few)
            else:
                new = self._face_point(v, g, exact=few)
            moved = float(np.abs(self.scale * (new - v)).max())
            moved /= float(np.abs(self.scale * new).max()) or 1.0
            v = new
        return lowest, best_size

    def _face_point(self, v: Any, g: Any, *, exact: bool) -> Any:
        """Return a point of the face that a proximal gradient step reaches: its minimum, or one that is lower."""
        return self._face_minimum(v, g) if exact else self._face_step(v, g)

    def _face_minimum(self, v: Any, g: Any) -> Any:
        """Return the minimum over the entries that a proximal gradient step leaves free, which is no higher."""
        step = self._gradient_step()
        at = CompositePoint(v, g, step, step)
        return solve_free(self, self.C, at, partition_entries(self, at, step))

    def _gradient_step(self) -> Any:
        return np.asarray(1.0 / float(np.add.reduce(np.abs(self.C), axis=1).max()))

    def _face_step(self, v: Any, g: Any) -> Any:
        """Return a point where the function is lower: along the face that a proximal gradient step reaches.

        On the face the function is a quadratic, and Newton's direction leads to its minimum. Entries that would
        cross a kink on the way there stay at it; the step is halved until the function falls.
        """
        step = self._gradient_step()
        at = partition_entries(self, CompositePoint(v, g, step, step), step)
        z, free = at.x, np.flatnonzero(at.free)
        slope = (g + self.C @ (z - v) + at.slope)[free]
        matrix = self.C[free[:, None], free]
        matrix.flat[:: len(free) + 1] += at.curvature[free]
        direction = np.zeros_like(z)
        direction[free] = -solve_symmetric(matrix, slope)
        value, length = self.value(z, self.gradient(z)), 1.0
        while length > MIN_STEP_LENGTH:
            end = self.prox(z + length * direction, 0.0)
            end[at.kinked & (z * end < 0.0)] = 0.0
            if self.value(end, self.gradient(end)) < value:
                return end
            length *= 0.5
        return z

    def _newton_point(self, v: Any, g: Any, forward: Any, z: Any, *, exact_face: bool) -> Any:
        """Return the solution of the system over the entries that are at no kink at z = prox(forward).

        Where the free columns are dependent, a point of the face is returned instead.
        """
        offset = np.copysign(ROOT_EPS * (float(np.abs(forward).max()) or 1.0), forward)
        derivative = (self.prox(forward + offset) - z) / offset
        free = np.flatnonzero(derivative > MIN_PROX_DERIVATIVE)
        residual = (g + self.C @ (z - v) + forward - z)[free]
        matrix = self.C[free[:, None], free]
        derivative = derivative[free]
        if (np.abs(1.0 - derivative) > MIN_SCALED_CURVATURE).any():
            # A long difference is exact where the prox is linear, and the penalty a quadratic.
            exact = ((self.prox(forward * (1.0 + SHARE)) - z) / (SHARE * forward))[free]
            linear = np.abs(exact - derivative) < MIN_SCALED_CURVATURE
            # The derivative of the prox is 1 / (1 + h'').
            matrix.flat[:: len(free) + 1] += 1.0 / np.where(linear, exact, derivative) - 1.0
        point = z.copy()
        try:
            point[free] -= np.linalg.solve(matrix, residual)
        except np.linalg.LinAlgError:
            return self._face_point(v, g, exact=exact_face)
        scale = max(float(np.abs(z).max()), float(np.abs(self.q).max()))
        dependent = not float(np.abs(point).max()) <= MAX_GROWTH * scale
        if dependent:
            return self._face_point(v, g, exact=exact_face)
        return point


class HostPoint(NamedTuple):
    """A point, and what was evaluated there, on the host and in double precision.

    Attributes
    ----------
    x, grad, hessian : numpy.ndarray, shapes (d,), (d,), (d, d)
        The point, and gradient and Hessian of the smooth part.
    value, penalty : float
        The whole objective, and the penalty's part of it.
    residual : numpy.ndarray, shape (d,)
        x - prox(x - g, 1).
    scale : numpy.ndarray, shape (p,)
        The factors between the coefficients in these coordinates and those of the penalty.
    """

    x: HostArray
    grad: HostArray
    hessian: HostArray
    value: float
    penalty: float
    residual: HostArray
    scale: HostArray

    @classmethod
    def of(cls, penalty: Any, scale: HostArray, smooth: Any, *arrays: HostArray) -> HostPoint:
        """Return the point of a smooth value and of its params, gradient and Hessian."""
        x, g, H = arrays
        p = len(scale)
        near: HostArray = penalty.prox(scale * (x - g)[:p], scale**2)
        residual = np.append(x[:p] - near / scale, g[p:])
        added = float(penalty.value(scale * x[:p]))
        if (
            added == math.inf
        ):  # a point at the edge of a set may lie outside by rounding: the nearest within counts
            added = float(penalty.value(penalty.prox(scale * x[:p], 0.0 * scale)))
        return cls(x, g, H, float(smooth) + added, added, residual, scale)

    def model_minimum(self, penalty: Any, damping: float) -> HostArray:
        """Return the minimum of the model here, with damping / 2 |u - x|² added, and of the penalty.

        Parameters
        ----------
        penalty : Penalty
            It acts on the first p entries; where d is p + 1 the last is the intercept, which it spares.
        damping : float
            lambda.
        """
        scale = self.scale
        x, g, p = self.x, self.grad, len(scale)
        H = self.hessian + damping * np.eye(len(x))
        v, C, slope = x[:p], H[:p, :p], g[:p]
        if len(x) > p:  # the best intercept is a linear function of the coefficients
            across, constant = H[:p, p], H[p, p]
            C = C - np.outer(across, across) / constant
            slope = slope - across * (g[p] / constant)
        tolerance = MAX_MODEL_RESIDUAL_RATIO * float(np.abs(self.residual).max())
        new, _ = PenalisedQuadratic(C, C @ v - slope, scale, penalty).minimise(v, tolerance)
        if len(x) == p:
            return new
        return np.append(new, x[p] - (g[p] + across @ (new - v)) / constant)

    def numbers(self, new: HostPoint) -> HostArray:
        """Return what `judge_trial` asks of a step from here to a new point."""
        change, added = new.x - self.x, new.penalty - self.penalty
        size = abs(new.penalty) + abs(self.penalty)
        promised = _resolved_sum(self.grad * change, added, size)
        if promised == 0.0:  # the minimum of the model promises at least this
            promised = -float(change @ self.hessian @ change)
        left = _resolved_sum(new.grad * change, added, size)
        squares = change @ change, new.hessian.diagonal().max(), new.residual @ new.residual
        return np.asarray([self.value, promised, new.value, left, *squares])


def _resolved_sum(products: HostArray, added: float, size: float) -> float:
    """Return the sum of some products and a difference of numbers of a size; 0 where it may be rounding."""
    total = float(products.sum()) + added
    noise = VALUE_NOISE_EPS * EPS64 * (float(np.abs(products).sum()) + size)
    return 0.0 if abs(total) <= noise else total


@dataclass(frozen=True)
class ProximalNewton(Solver):
    r"""Newton's method for a smooth convex f plus a penalty h that acts entry by entry.

    ::

        x := argmin_u g · (u - x) + (u - x)'(H + lambda I)(u - x) / 2 + h(u)

    with g and H the gradient and the Hessian of f at x. As in `agd.update.newton.Newton`, lambda is 0 as long as
    the minimum of the model lowers f + h enough, and one evaluation gives value, gradient and Hessian. The points
    are exactly sparse, or within the set.

    One problem, whose numbers the host reads at no cost.

    Notes
    -----
    Lee, Sun and Saunders (2014), "Proximal Newton-type methods for minimizing composite functions", SIAM Journal
    on Optimization 24.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> y = (X[:, 0] + 0.5 * rng.normal(size=200) > 0.0) * 1.0
    >>> result = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L1(0.05))
    >>> result.method, result.nit < 10, int((result.coef == 0.0).sum())
    ('proximal Newton', True, 3)
    """

    handles_prox = True
    rescaled = True
    host_scalars = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "proximal Newton"

    def init(self, objective: Any, params: Array) -> HessianState:
        """Evaluate the first point.

        Raises
        ------
        NotApplicable
            Where value, gradient or Hessian are not finite.
        """
        state = _evaluate_composite(objective, params)
        if not np.isfinite(state.value + state.grad_norm + state.largest):
            raise NotApplicable("the value, the gradient or the Hessian is not finite")
        return state

    def step(
        self, objective: Any, params: Array, state: HessianState
    ) -> tuple[Array, HessianState]:
        """Go to an acceptable minimum of a damped model; stall where there is none."""
        penalty = objective.linear_objective.penalty
        eps = float(np.finfo(backends.dtype_name(params.dtype)).eps)
        old, memory = state.host, state.memory
        least_damping = DIAGONAL_NOISE_EPS * len(old.x) * eps * max(state.largest, eps)
        damping, search = float(memory.damping), None
        for _ in range(MAX_TRIALS):
            minimum = old.model_minimum(penalty, damping + least_damping)
            trial = backends.to_device_of(minimum, params)
            after = _evaluate_composite(objective, trial, old.scale)
            moved = float(np.abs(minimum - old.x).max()) / (after.size or 1.0)
            numbers = old.numbers(after.host)
            search = judge_trial(search, numbers, memory, VALUE_NOISE_EPS * eps, moved)
            if search.accepted:
                params, state = trial, after
            if search.ended:
                break
            damping = float(search.damping)
        assert search is not None  # noqa: S101 - at least one trial was made
        memory = search.outcome(VALUE_NOISE_EPS * eps)
        return params, state._replace(progress=memory.progress, memory=memory)


def _evaluate_composite(
    objective: Any, params: Array, scale: HostArray | None = None
) -> HessianState:
    """Return the state at a point, whose numbers are read together; the first of a run reads the scale too."""
    smooth, grad, hessian = objective.second_order(params)
    given = objective.preconditioner.inv_std if scale is None else None
    norm, read, *point = read_columns(
        [objective.grad_norm(grad, params), given, smooth, params, grad, hessian]
    )
    scale = read if scale is None else scale
    host = HostPoint.of(objective.linear_objective.penalty, scale, *point)
    memory = StepMemory.at_start(())
    size, largest = float(np.abs(host.x).max()), float(host.hessian.diagonal().max())
    return HessianState(
        host.value, float(norm), size, grad, hessian, memory.progress, largest, memory, host
    )
