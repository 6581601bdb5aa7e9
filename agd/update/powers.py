"""The residual polynomial of k steps of a rule with constant step on a quadratic, in closed form.

On a quadratic every eigendirection moves alone. With tau = lr e, e its curvature, the distance to the
minimum after k steps is q_k(tau) times the first one, q_k a polynomial of degree k: (1 - tau)^k for
gradient descent, and for the rules with a velocity the corner of the k-th power of a 2 x 2 matrix, ::

    heavy ball [[1 - tau, -beta], [tau, beta]],   Nesterov [[1 - (1 + beta) tau, -beta²], [tau, beta]]

whose eigenvalues are 1 - mu, mu² - B mu + tau = 0. All is written in tau and mu, which are small where
eigenvalues are near 1, so that no digit is lost after a billion steps; the cost does not depend on k.
``agd.update.trajectory`` applies it to each singular direction of a least-squares problem.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array

__all__ = [
    "Steps",
    "as_epochs",
    "as_steps",
    "residual_polynomial",
]

MAX_EPOCHS = np.iinfo(np.int64).max


class Steps(NamedTuple):
    """Numbers of steps: as floats, and whether each is odd (which large floats cannot tell)."""

    k: Array
    odd: Array


def residual_polynomial(
    beta: float, nesterov: bool, tau: Array, steps: Steps
) -> tuple[Array, Array]:
    """Return q_k(tau) and 1 - q_k(tau), each to its own digits.

    Parameters
    ----------
    beta : float
        The share of the velocity that a step keeps, in [0, 1); 0 for gradient descent.
    nesterov : bool
        Whether the rule is Nesterov's instead of the heavy ball.
    tau : array, shape (..., r)
        Step times curvature, 0 or more.
    steps : Steps
        k, shapes that broadcast against tau.

    Returns
    -------
    residual_factor, progress_factor : array
        q_k and 1 - q_k; infinite where the distance has outgrown the floats, never NaN.

    Notes
    -----
    Polyak (1987), *Introduction to Optimization*, section 3.2; for powers of a matrix by its eigenvalues,
    Higham (2008), *Functions of Matrices*, section 1.2.2.
    """
    xp = backends.namespace(tau)
    if beta == 0.0:
        residual_factor, progress_factor = _gradient_descent_factors(tau, steps)
    else:
        residual_factor, progress_factor = _momentum_powers(beta, nesterov, tau, steps)
    # For k = 0 the formulas may give 0 times infinity, and the answer is known.
    first = steps.k == 0.0
    return xp.where(first, xp.ones_like(residual_factor), residual_factor), xp.where(
        first, xp.zeros_like(progress_factor), progress_factor
    )


def _log_distance(mu: Array) -> Array:
    """Return log |1 - mu|, for mu of 0 or more."""
    xp = backends.namespace(mu)
    return xp.log1p(xp.where(mu < 1.0, -mu, mu - 2.0))


def _signed_power(odd: Array, like: Array) -> Array:
    """Return -1 where odd, else 1."""
    return 1.0 - 2.0 * backends.namespace(like).astype(odd, like.dtype)


def _gradient_descent_factors(tau: Array, steps: Steps) -> tuple[Array, Array]:
    """Return (1 - tau)^k and 1 - (1 - tau)^k."""
    xp = backends.namespace(tau)
    # By logarithms, so that neither a large k nor a small tau costs digits of 1 - (1 - tau)^k.
    exponent = steps.k * _log_distance(tau)
    alternates = steps.odd & (tau > 1.0)
    size = xp.exp(exponent)
    return _signed_power(alternates, size) * size, xp.where(
        alternates, 1.0 + size, -xp.expm1(exponent)
    )


class _StepMatrix(NamedTuple):
    """The 2 x 2 matrix: its corner as 1 - corner, trace, determinant; mu's sum B and discriminant."""

    corner: Array
    trace: Array
    det: Array
    B: Array
    disc: Array


def _step_matrix(beta: float, nesterov: bool, tau: Array) -> _StepMatrix:
    xp, rest = backends.namespace(tau), 1.0 - tau
    if nesterov:
        corner, trace, det = (1.0 + beta) * tau, (1.0 + beta) * rest, beta * rest
        B = (1.0 - beta) + (1.0 + beta) * tau
    else:
        corner, trace, det = tau, beta + rest, beta + 0.0 * tau
        B = (1.0 - beta) + tau
    # Twice the same number: of mu, which is small near 1, and of the eigenvalues, small near 0.
    of_mu, of_both = (B * B, 4.0 * tau), (trace * trace, 4.0 * det)
    near_one = of_mu[0] + of_mu[1] < of_both[0] + xp.abs(of_both[1])
    disc = xp.where(near_one, of_mu[0] - of_mu[1], of_both[0] - of_both[1])
    return _StepMatrix(corner, trace, det, B, disc)


def _momentum_powers(beta: float, nesterov: bool, tau: Array, steps: Steps) -> tuple[Array, Array]:
    xp = backends.namespace(tau)
    matrix = _step_matrix(beta, nesterov, tau)
    # A matrix whose eigenvalues lie left of 0 is turned round: (-M)^k is M^k but for the sign.
    negated = matrix.trace < 0.0
    sign = _signed_power(negated & steps.odd, tau)
    oscillating = sign * _complex_eigenvalues(matrix, negated, steps)
    real_factor, real_progress = _positive_eigenvalues(matrix, tau, steps)
    real = xp.where(negated, sign * _negative_eigenvalues(matrix, tau, steps), real_factor)
    complex_ = matrix.disc < 0.0
    residual_factor = xp.where(complex_, oscillating, real)
    return residual_factor, xp.where(complex_ | negated, 1.0 - residual_factor, real_progress)


def _complex_eigenvalues(matrix: _StepMatrix, negated: Array, steps: Steps) -> Array:
    """Return r^k (cos k psi + a sin k psi), for eigenvalues r exp(±i psi)."""
    trace = matrix.trace
    xp = backends.namespace(trace)
    is_complex = matrix.disc < 0.0
    # Where the eigenvalues are real, a discriminant of 1 stands in, so that no branch makes NaN.
    half = 0.5 * xp.sqrt(xp.where(is_complex, -matrix.disc, xp.ones_like(trace)))
    middle = 0.5 * xp.abs(trace)
    psi = xp.atan2(half, middle)
    det = xp.where(is_complex, matrix.det, xp.ones_like(trace))
    corner = xp.where(negated, matrix.corner - 1.0, 1.0 - matrix.corner)
    shrunk = xp.exp(steps.k * (0.5 * xp.log(det)))
    angle = steps.k * psi
    return shrunk * (xp.cos(angle) + (corner - middle) / half * xp.sin(angle))


def _characteristic_roots(matrix: _StepMatrix, tau: Array) -> tuple[Array, Array, Array]:
    """Return mu of both eigenvalues, the smaller first, and their difference."""
    xp = backends.namespace(tau)
    gap = xp.sqrt(backends.clip(matrix.disc, low=0.0))
    large = 0.5 * (matrix.B + gap)
    # The smaller root by the product of both, which is tau: B - gap would cancel.
    return tau / large, large, gap


def _positive_eigenvalues(matrix: _StepMatrix, tau: Array, steps: Steps) -> tuple[Array, Array]:
    """Return q_k and 1 - q_k for real eigenvalues, the larger of which is positive."""
    xp = backends.namespace(tau)
    small, _, gap = _characteristic_roots(matrix, tau)
    small = xp.where(small < 1.0, small, xp.ones_like(small))  # at 1 only where both are 0
    residual_factor, progress_factor = _gradient_descent_factors(small, steps)
    before = xp.where(
        steps.k == 1.0, xp.ones_like(residual_factor), xp.exp((steps.k - 1.0) * xp.log1p(-small))
    )
    offset = small - matrix.corner  # the corner less the eigenvalue
    sums = offset * before * _geometric_sum(1.0 - small, gap, steps)
    return residual_factor + sums, progress_factor - sums


def _negative_eigenvalues(matrix: _StepMatrix, tau: Array, steps: Steps) -> Array:
    """Return q_k of minus the matrix, for real eigenvalues left of 0: here it may grow."""
    xp = backends.namespace(tau)
    _, large, gap = _characteristic_roots(matrix, tau)
    large = xp.where(large > 1.0, large, 2.0 * xp.ones_like(large))
    size = large - 1.0
    share = size + (matrix.corner - large) * _geometric_sum(size, gap, steps)
    # In logarithms, so that it is infinite no sooner than it must be.
    exponent = (steps.k - 1.0) * xp.log1p(large - 2.0) + xp.log(xp.abs(share))
    return xp.sign(share) * xp.exp(exponent)


def _geometric_sum(size: Array, gap: Array, steps: Steps) -> Array:
    """Return (1 - ratio^k) / (1 - ratio), ratio that of the smaller eigenvalue, size - gap, to size."""
    xp = backends.namespace(size)
    one = xp.ones_like(size)
    gap_ratio = gap / xp.where(size > 0.0, size, one)  # 1 - ratio, from 0 to 2
    distinct = gap_ratio > 0.0
    # Of a double eigenvalue the sum has k terms of 1.
    return xp.where(
        distinct,
        _gradient_descent_factors(gap_ratio, steps)[1] / xp.where(distinct, gap_ratio, one),
        steps.k * one,
    )


def as_steps(epochs: Any, like: Array) -> Steps:
    """Return whole numbers of steps, counted on the host, beside an array."""
    # On the host, where the counts are integers: a float above 2^53 does not tell odd from even.
    odd = backends.to_device_of(epochs % 2 == 1, like, backends.namespace(like).bool)
    return Steps(backends.to_device_of(epochs, like), odd)


def as_epochs(epochs: Any) -> Any:
    """Return epochs as an array of integers on the host."""
    counts = np.asarray(epochs)
    if not counts.size:  # nothing tells the type of no entries
        return np.zeros(counts.shape, dtype=np.int64)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"epochs must be whole numbers, got {epochs!r}")
    if (counts < 0).any():
        raise ValueError(f"epochs must be 0 or more, got {counts.min()}")
    if (counts > MAX_EPOCHS).any():
        raise ValueError(f"epochs must be at most {MAX_EPOCHS:.3g}, got {counts.max()}")
    return counts.astype(np.int64)
