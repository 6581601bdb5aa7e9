"""What a linear fit's end means: the words for what went wrong, and what to do about it.

Nothing here runs after a fit that went well, but for one look at columns that may be dependent.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd.gradient.columns import column_scaling
from agd.gradient.curvature import largest_curvature
from agd.gradient.scaling import Rescaled
from agd.loss import LOSSES
from agd.run.certificate import Certificate
from agd.run.columns import Columns
from agd.run.fitted import FitResult
from agd.run.spectrum import matrix, units
from agd.run.status import Status

__all__ = ["dependence", "explained", "planned", "unconverged"]


def explained(result: FitResult, objective: Any, least_share: float) -> FitResult:
    """Name the largest stable step after a divergence, and classes that a plane separates.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Rescaled
        What was minimised.
    least_share : float
        The smallest positive weight over the sum of the weights.

    Returns
    -------
    FitResult
        The same, with more to read in its message.
    """
    if np.any(result.status == Status.DIVERGED):
        return _diverged(result, objective)
    result = _searched(result)
    # A row on the wrong side costs at least log 2, so a smaller sum means that there is none.
    separable = (
        result.classes is not None
        and getattr(objective, "base", objective).penalty is None
        and isinstance(result.status, Status)
        and result.fun < math.log(2.0) * least_share
    )
    if separable:
        note = (
            "; the classes are perfectly separated, so the coefficients grow without bound and no "
            "minimum exists: add a penalty, such as penalty=agd.loss.L2(1e-3)"
        )
        return replace(result, message=result.message + note)
    return result


def _searched(result: FitResult) -> FitResult:
    """Say of a search that found nothing what that can be: the gradient is none of the user's."""
    wrong = (
        ""
        if type(result.loss) in LOSSES.values()
        else (f", or the slope of loss {result.loss.name!r} is wrong")
    )
    words = (
        f"the line search found no lower point along its direction: the precision of the arithmetic is "
        f"reached{wrong}: ask for less (grad_tol)"
    )
    return replace(result, message=result.message.replace(Status.LINE_SEARCH.advice, words))


def _diverged(result: FitResult, objective: Any) -> FitResult:
    if result.loss.curvature is None:
        note = f"; loss {result.loss.name!r} has no largest stable step: use method='auto'"
        return replace(result, message=result.message + note)
    certificate, n_sync = result.certificate, result.n_sync
    if certificate.curvature is None:
        L = backends.to_numpy(largest_curvature(objective)).astype(float)
        L = L.item() if L.ndim == 0 else L
        certificate = replace(certificate, curvature=L, largest_step=2.0 / L)
        n_sync += 1
    diverged = np.asarray(result.status) == Status.DIVERGED
    least = float(np.min(np.asarray(certificate.largest_step)[diverged]))
    note = (
        f"; 2/L = {least:.6g} is the largest stable step of gradient descent here: use a "
        f"learning_rate below it, or 'auto'"
    )
    message = result.message + note
    return replace(result, message=message, certificate=certificate, n_sync=n_sync)


def unconverged(result: FitResult) -> bool:
    """Return whether the caller has to be warned: an end that neither the tests nor he asked for."""
    if isinstance(result.status, Status):
        separated = "perfectly separated" in result.message
        return separated or result.status not in (Status.CONVERGED, Status.CALLBACK)
    return bool((~result.success & (result.status != Status.CALLBACK)).any())


def dependence(result: FitResult, objective: Any) -> tuple[FitResult, str]:
    """Say whether the columns are linearly dependent, where the certificate leaves that open.

    The Hessian that the certificate rests on is that of the columns as they are, and of columns far from
    zero it knows little. Here it is formed from columns that are centred and scaled, whose rank can be
    told from rounding; this takes one pass over the data and one read.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Rescaled
        What was minimised.

    Returns
    -------
    result : FitResult
        The same, with the read counted.
    message : str
        What to warn of; empty where the columns are independent, or nothing is known of them.
    """
    known = result.certificate
    if known.source != "Hessian" or known.condition != math.inf:
        return result, ""
    there = objective
    if not isinstance(there, Rescaled):
        there = Rescaled(objective, objective.measure or column_scaling(objective))
    hessian, reach = _scaled_hessian(there)
    result = replace(result, n_sync=result.n_sync + 1)
    if not np.isfinite(hessian).all():
        return result, ""
    n = len(hessian)
    values = np.linalg.eigvalsh((hessian + hessian.T) / 2.0)
    noise = n * float(np.finfo(hessian.dtype).eps) * max(1.0, reach)
    rank = int((values > noise * values[-1]).sum())
    if rank == n:
        return result, ""
    constant = " and the intercept" if there.base.intercept else ""
    return result, (
        f"the columns of X{constant} are linearly dependent: their rank is {rank} of {n} (the scaled "
        f"Hessian's condition number is above {1.0 / noise:.0e}). Many coefficients fit equally well, and "
        f"these are one choice: drop columns, or add a penalty such as agd.loss.L2(1e-3)"
    )


def _scaled_hessian(there: Rescaled) -> tuple[Any, float]:
    """Form the Hessian in scaled coordinates; return it, and how far from zero a column's mean is."""
    with np.errstate(all="ignore"):
        eye = units(there.base, there.base.blocks.X.shape[-1])
        product = matrix(there.bound_product(eye))
        xp = backends.namespace(product)
        reach = xp.max(xp.abs(there.scaling.shift * there.scaling.scale), axis=-1, keepdims=True)
        read = backends.to_numpy(xp.concat([xp.reshape(product, (-1,)), reach]))
    n = product.shape[0]
    return np.asarray(read[:-1]).reshape(n, n), float(read[-1])


def planned(result: FitResult, columns: Columns, *, quadratic: bool) -> tuple[FitResult, str]:
    """Say what a plan learned of the columns: how they are conditioned, and whether they are dependent.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    columns : Columns
        What was learned.
    quadratic : bool
        Whether the curvatures are those of the objective everywhere.

    Returns
    -------
    result : FitResult
        The same, with the certificate filled in and a bad condition named in the message.
    message : str
        What to warn of; empty where the columns are independent.
    """
    if quadratic:
        result = replace(result, certificate=_certificate(result, columns))
    several = "" if np.ndim(columns.missing) == 0 else " of a problem"
    missing, intercept = int(np.max(columns.missing)), result.intercept is not None
    if missing > 0:
        constant, n = " and the intercept" * intercept, int(result.coef.shape[-1]) + intercept
        return result, (
            f"the columns of X{several}{constant} are linearly dependent: their rank is {n - missing} of "
            f"{n}. Many coefficients fit equally well, and these are the shortest: drop columns, or add a "
            f"penalty such as agd.loss.L2(1e-3)"
        )
    if not columns.hard:
        return result, ""
    worst = float(np.max(columns.condition))
    note = (
        f"; the columns of X{several}, centred and scaled, have condition number {worst:.2g}: a change "
        f"in a last digit of X or y may change the coefficients by that factor"
    )
    return replace(result, message=result.message + note), ""


def _certificate(result: FitResult, columns: Columns) -> Certificate:
    """Fill in the curvatures in centred and scaled coordinates."""
    low, high = columns.low, columns.high
    with np.errstate(all="ignore"):
        condition = np.divide(high, low)
    return replace(
        result.certificate,
        curvature=high,
        least_curvature=low,
        largest_step=2.0 / high,
        condition=float(condition) if np.ndim(condition) == 0 else condition,
        source="Hessian",
    )
