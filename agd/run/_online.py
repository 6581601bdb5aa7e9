"""What an online model asks of its batches: labels, sums that are finite, the units and the rank of columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss, Params
from agd.gradient.matrix import column_peaks
from agd.gradient.moments import Moments
from agd.run.fitted import FitResult
from agd.run.status import Status

__all__ = ["broken", "check_finite", "dependent", "in_units", "labels", "units"]


def broken(found: Any) -> bool:
    """Return whether a run was not finite at its first point."""
    failed = (np.asarray(found.status) == Status.NON_FINITE) & (np.asarray(found.nit) == 0)
    return bool(failed.any())


def check_finite(columns: Moments) -> None:
    """Refuse rows whose moments overflow: no coordinates are left to descend in."""
    if not bool(backends.to_numpy(columns.finite)):
        kind = str(columns.G.dtype).rpartition(".")[2]
        raise ValueError(
            f"X and y must be of a size whose squares can be summed in {kind}: divide the columns of X, or "
            f"y, by a constant"
        )


def labels(classes: Any, loss: Loss) -> tuple[float, float] | None:
    """Check the labels that were given, if any."""
    if classes is None:
        return None
    if loss.classes is None:
        raise ValueError(f"classes must be None for loss {loss.name!r}, which has none")
    try:
        low, high = (float(label) for label in classes)
    except (TypeError, ValueError):
        raise ValueError(f"classes must be two numbers, got {classes!r}") from None
    if not low < high:
        raise ValueError(f"classes must be two numbers, the lower first, got {classes!r}")
    return low, high


def units(X: Array) -> Array | None:
    """Return what to divide the columns by, shape (..., p), so that none is lost in its square; None for 1.

    These are powers of two, for columns of the first batch whose squares would lose digits, or all.
    """
    if backends.is_sparse(X):
        return None
    xp = backends.namespace(X)
    kind, peaks = xp.finfo(X.dtype), backends.to_numpy(column_peaks(X))
    small = (peaks > 0.0) & (peaks < (float(kind.smallest_normal) / float(kind.eps)) ** 0.5)
    if not small.any():
        return None
    powers = np.exp2(np.floor(np.log2(np.where(small, peaks, 1.0))))
    host = powers.astype(peaks.dtype)
    return backends.of(X).convert(xp, host, X.dtype, backends.device(X))


def in_units(result: FitResult, unit: Array | None) -> FitResult:
    """Return a result of columns that were divided by their units, as one of the columns."""
    if unit is None:
        return result
    coef = result.coef / unit
    x, jac = Params(coef, result.intercept), Params(result.jac.coef * unit, result.jac.intercept)
    return replace(result, coef=coef, x=x, jac=jac)


def dependent(columns: Moments, *, intercept: bool) -> str:
    """Return what to warn of where the columns are dependent, as far as their moments tell; else nothing.

    Parameters
    ----------
    columns : Moments
        Those of all rows so far.
    intercept : bool
        Whether the model has a constant term.
    """
    second, _ = columns.quadratic(intercept=intercept)
    xp, p = backends.namespace(second), second.shape[-1]
    eps, mean = float(xp.finfo(second.dtype).eps), xp.abs(columns.mean)
    spread = xp.sqrt(backends.clip(xp.linalg.diagonal(second), low=0.0))
    still = spread <= (64.0 * eps * mean if intercept else 0.0 * mean)
    D = xp.where(still, xp.zeros_like(spread), 1.0 / xp.where(still, xp.ones_like(spread), spread))
    eye = xp.eye(p, dtype=D.dtype, device=backends.device(D))
    C = second * D[..., :, None] * D[..., None, :]
    e = xp.linalg.eigvalsh(C + eye * xp.astype(still, D.dtype)[..., None, :])
    reach = xp.max(mean * D, axis=-1, keepdims=True) if intercept else 0.0 * e[..., :1]
    noise = (p + 10) * eps * xp.where(reach > 1.0, reach, xp.ones_like(reach))
    small = e <= noise * e[..., -1:]
    counts = [xp.sum(xp.astype(part, e.dtype), axis=-1) for part in (small, still)]
    missing = int(np.max(backends.to_numpy(counts[0] + counts[1])))
    if missing == 0:
        return ""
    n, constant = p + intercept, " and the intercept" * intercept
    return (
        f"the columns of X{constant} are linearly dependent in the rows so far: their rank is {n - missing} of "
        f"{n}. Many coefficients fit equally well, and these are one choice: drop columns, or add a "
        f"penalty such as agd.loss.L2(1e-3)"
    )
