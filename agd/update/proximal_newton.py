"""Proximal Newton: a smooth loss plus a penalty that acts entry by entry, such as the L1 norm.

At each point the loss is replaced by its quadratic model, whose Hessian is a (d, d) matrix, and the model plus
the penalty is minimised on the host, without a pass over the data. `agd.run.select_solver` takes it for losses
other than the squared one, whose model is exact and needs but one minimisation (`agd.run.semismooth_newton`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, NotApplicable
from agd.update.active_set import PenalisedQuadratic
from agd.update.newton import (
    DIAGONAL_NOISE_EPS,
    MAX_TRIALS,
    VALUE_NOISE_EPS,
    HessianState,
    StepMemory,
    judge_trial,
)
from agd.update.solver import Solver, read_columns

__all__ = ["ProximalNewton"]

EPS64 = float(np.finfo(np.float64).eps)
# The residual of the model's minimum, as a share of the residual of the point that it is the model at.
MAX_MODEL_RESIDUAL_RATIO = 1e-3


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
        state = _evaluate(objective, params)
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
            after = _evaluate(objective, trial, old.scale)
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


def _evaluate(objective: Any, params: Array, scale: HostArray | None = None) -> HessianState:
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
