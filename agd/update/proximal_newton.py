"""Proximal Newton: a smooth loss plus a penalty that acts entry by entry, such as the L1 norm.

At each point the loss is replaced by its quadratic model, whose Hessian is a (d, d) matrix, and the model plus
the penalty is minimised on the host, without a pass over the data. `agd.run.select_solver` takes it for losses
other than the squared one, whose model is exact and needs but one minimisation (`agd.run.semismooth_newton`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, NotApplicable
from agd.update.active_set import MIN_PROX_DERIVATIVE, partition_entries, solve_free
from agd.update.newton import (
    DIAGONAL_NOISE_EPS,
    MAX_TRIALS,
    VALUE_NOISE_EPS,
    HessianState,
    first_state,
    judge_trial,
)
from agd.update.proximal import CompositePoint
from agd.update.solver import Solver

__all__ = ["PenalisedQuadratic", "ProximalNewton"]

EPS64 = float(np.finfo(np.float64).eps)
# Steps for one model, of which few are needed.
MAX_MODEL_STEPS = 60
# The residual of the model's minimum, as a share of the residual of the point that it is the model at.
MAX_MODEL_RESIDUAL_RATIO = 1e-3


class PenalisedQuadratic(NamedTuple):
    """The function v'Cv/2 - q'v + penalty(D v), minimised on the host.

    Attributes
    ----------
    C, q : numpy.ndarray, shapes (p, p), (p,)
        The quadratic; C is positive definite.
    scale : numpy.ndarray, shape (p,)
        D.
    penalty : Penalty
        It acts entry by entry.
    """

    C: HostArray
    q: HostArray
    scale: HostArray
    penalty: Any

    def prox(self, v: HostArray, step: Any = 1.0) -> HostArray:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step)."""
        point: HostArray = self.penalty.prox(self.scale * v, step * self.scale**2)
        return point / self.scale

    def gradient(self, v: HostArray) -> HostArray:
        """Return the gradient of the quadratic."""
        return self.C @ v - self.q

    def value_and_rounding(self, v: HostArray, g: HostArray) -> tuple[float, float]:
        """Return the function, where g is the gradient of the quadratic, and how much of it may be rounding."""
        quadratic, penalty = (
            0.5 * float(v @ (g - self.q)),
            float(self.penalty.value(self.scale * v)),
        )
        return quadratic + penalty, VALUE_NOISE_EPS * EPS64 * (abs(quadratic) + abs(penalty))

    def minimise(self, v: HostArray, tolerance: float) -> HostArray:
        """Return the minimum, or the lowest point that was met, which is no higher than the first.

        Parameters
        ----------
        v : numpy.ndarray, shape (p,)
            The first point, at which the penalty is finite.
        tolerance : float
            The largest entry of v - prox(v - g, 1) at which v is taken for the minimum.

        Notes
        -----
        Semismooth Newton steps, of which each solves for the entries that the prox leaves free, lead to the minimum
        in a few steps or cycle. From the first step that does not descend on, each goes to the minimum of a face
        instead, which is no higher. Qi and Sun (1993), "A nonsmooth version of Newton's method".
        """
        least, best, lowest, descend = np.inf, np.inf, v, False
        for _ in range(MAX_MODEL_STEPS):
            g = self.gradient(v)
            forward = v - g
            z = self.prox(forward)
            size = float(np.abs(v - z).max())
            value, noise = self.value_and_rounding(v, g)
            # Where rounding hides a decrease, a residual that is half as large tells of it.
            if value < least - noise or (value <= least + noise and size <= 0.5 * best):
                least, best, lowest = min(value, least), size, v
            elif descend:
                break
            else:
                descend, v = True, lowest
                g = self.gradient(v)
            if not size > tolerance:
                break
            v = self._face_minimum(v, g) if descend else self._newton_point(v, g, forward, z)
        return lowest

    def _newton_point(
        self, v: HostArray, g: HostArray, forward: HostArray, z: HostArray
    ) -> HostArray:
        """Return the solution of the system over the entries that are at no kink at z = prox(forward)."""
        offset = EPS64**0.5 * (np.abs(forward).max() or 1.0)
        offset = np.where(forward < 0.0, -offset, offset)
        derivative = (self.prox(forward + offset) - z) / offset
        free = derivative > MIN_PROX_DERIVATIVE
        residual = (g + self.C @ (z - v) + forward - z)[free]
        # The derivative of the prox is 1 / (1 + h'').
        matrix = self.C[np.ix_(free, free)] + np.diag(1.0 / derivative[free] - 1.0)
        point = z.copy()
        try:
            point[free] -= np.linalg.solve(matrix, residual)
        except np.linalg.LinAlgError:
            return self._face_minimum(v, g)
        return point

    def _face_minimum(self, v: HostArray, g: HostArray) -> HostArray:
        """Return the minimum over the entries that a proximal gradient step leaves free, which is no higher."""
        step: HostArray = np.asarray(1.0 / float(np.abs(self.C).sum(axis=1).max()))
        at = CompositePoint(v, g, step, step)
        return solve_free(self, self.C, at, partition_entries(self, at, step))


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
    """

    x: HostArray
    grad: HostArray
    hessian: HostArray
    value: float
    penalty: float
    residual: HostArray

    @classmethod
    def read(cls, objective: Any, params: Array, state: HessianState) -> HostPoint:
        """Read a point and the state there."""
        x, g, H = map(_on_host, (params, state.grad, state.hessian))
        scale = _on_host(objective.preconditioner.inv_std)
        penalty = objective.linear_objective.penalty
        p = len(scale)
        near: HostArray = penalty.prox(scale * (x - g)[:p], scale**2)
        residual = np.append(x[:p] - near / scale, g[p:])
        added = float(penalty.value(penalty.prox(scale * x[:p], 0.0 * scale)))
        return cls(x, g, H, float(state.value), added, residual)

    def model_minimum(self, scale: HostArray, penalty: Any, damping: float) -> HostArray:
        """Return the minimum of the model here, with damping / 2 |u - x|² added, and of the penalty.

        Parameters
        ----------
        scale : numpy.ndarray, shape (p,)
            The factors between the coefficients in these coordinates and those of the penalty.
        penalty : Penalty
            It acts on the first p entries; where d is p + 1 the last is the intercept, which it spares.
        damping : float
            lambda.
        """
        x, g, p = self.x, self.grad, len(scale)
        H = self.hessian + damping * np.eye(len(x))
        v, C, slope = x[:p], H[:p, :p], g[:p]
        if len(x) > p:  # the best intercept is a linear function of the coefficients
            across, constant = H[:p, p], H[p, p]
            C = C - np.outer(across, across) / constant
            slope = slope - across * (g[p] / constant)
        tolerance = MAX_MODEL_RESIDUAL_RATIO * float(np.abs(self.residual).max())
        new = PenalisedQuadratic(C, C @ v - slope, scale, penalty).minimise(v, tolerance)
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
        state = first_state(objective, params, *_evaluate_composite(objective, params))
        if not np.isfinite(state.value + state.grad_norm + state.largest):
            raise NotApplicable("the value, the gradient or the Hessian is not finite")
        return state

    def step(
        self, objective: Any, params: Array, state: HessianState
    ) -> tuple[Array, HessianState]:
        """Go to an acceptable minimum of a damped model; stall where there is none."""
        penalty = objective.linear_objective.penalty
        eps = float(np.finfo(backends.dtype_name(params.dtype)).eps)
        scale = _on_host(objective.preconditioner.inv_std)
        old, memory = HostPoint.read(objective, params, state), state.memory
        least_damping = DIAGONAL_NOISE_EPS * len(old.x) * eps * max(state.largest, eps)
        damping, search = float(memory.damping), None
        for _ in range(MAX_TRIALS):
            minimum = old.model_minimum(scale, penalty, damping + least_damping)
            trial = backends.to_device_of(minimum, params)
            after = first_state(objective, trial, *_evaluate_composite(objective, trial))
            numbers = old.numbers(HostPoint.read(objective, trial, after))
            moved = float(np.abs(minimum - old.x).max()) / (after.size or 1.0)
            search = judge_trial(search, numbers, memory, VALUE_NOISE_EPS * eps, moved)
            if search.accepted:
                params, state = trial, after
            if search.ended:
                break
            damping = float(search.damping)
        assert search is not None  # noqa: S101 - at least one trial was made
        memory = search.outcome(VALUE_NOISE_EPS * eps)
        return params, state._replace(progress=memory.progress, memory=memory)


def _evaluate_composite(objective: Any, params: Array) -> tuple[Array, Array, Array]:
    """Return the value with the penalty, and gradient and Hessian of the smooth part."""
    smooth, grad, hessian = objective.second_order(params)
    return smooth + objective.penalty_value(params), grad, hessian


def _on_host(x: Array) -> HostArray:
    return np.asarray(backends.to_numpy(x)).astype(np.float64, copy=False)
