"""Why a linear fit broke at its first point: what of the data or the settings its dtype cannot hold."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from agd import backends
from agd.gradient.columns import column_peaks, column_scaling
from agd.gradient.objective import LinearObjective
from agd.run.fitted import FitResult
from agd.run.status import Status
from agd.update._rule import given_rate

__all__ = ["check_range"]


def check_range(result: FitResult, objective: Any, method: Any = None, *, given: bool) -> None:
    """Refuse what the dtype cannot hold the fit of, where a run broke at its first point.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Rescaled
        What was minimised.
    method : Method, optional
        What took the step.
    given : bool
        Whether the user chose the first point, at which the loss may overflow for that.

    Raises
    ------
    ValueError
        For a penalty that the dtype cannot hold, a column so large that sums over its rows overflow, one
        so small that its coefficient does (it names the column and its size), targets so large that the
        loss does, a first step so long that it does, and units in which the curvature does, for a method
        that works in them.
    """
    broken = (np.asarray(result.status) == Status.NON_FINITE) & (np.asarray(result.nit) == 0)
    if not broken.any():
        return
    base = getattr(objective, "base", objective)
    kind = str(base.blocks.X.dtype).rpartition(".")[2]
    _check_penalty(base.penalty, kind)
    peaks, usable = _column_sizes(base)
    slopes = np.isfinite(backends.to_numpy(result.jac.coef))
    sound = np.isfinite(np.asarray(result.fun))
    # With unusable columns the value is not finite either: only without them is it y's doing.
    bad = np.argwhere(~usable)
    if not len(bad) and not sound.all():
        if given:
            return
        problem = _problem(np.argwhere(~sound)[0])
        raise ValueError(
            f"y{problem} is too large for loss {result.loss.name!r} in {kind}: the loss of the best "
            f"constant model overflows; divide y by a constant"
        )
    bad = bad if len(bad) else np.argwhere(~slopes)
    if not len(bad):
        if objective is base:
            raise ValueError(_too_far(result.method, method, float(np.max(peaks)), kind))
        return
    first = tuple(int(i) for i in bad[0])
    peak = float(np.broadcast_to(peaks, usable.shape)[first])
    problem = _problem(first[:-1]) if base.blocks.X.ndim > 2 else ""
    what = "large: sums over its rows" if peak > 1.0 else "small: its coefficient"
    raise ValueError(
        f"column {first[-1]} of X{problem}, whose largest absolute value is {peak:.3g}, is too {what} "
        f"would overflow {kind}; divide it by a constant near its size"
    )


def _check_penalty(penalty: Any, kind: str) -> None:
    """Refuse a number of a penalty's that is finite, but infinite in the data's dtype."""
    most = float(np.finfo(kind).max)
    for name, value in penalty.parameters.items() if penalty is not None else ():
        if isinstance(value, Real) and math.isfinite(value) and abs(float(value)) > most:
            raise ValueError(
                f"penalty {penalty!r} is too large for {kind}, the dtype of X: {name} must be at most "
                f"{most:.3g}; give a smaller one, or X in float64"
            )


def _too_far(name: str, method: Any, peak: float, kind: str) -> str:
    """Word the error for a first step out of the dtype's range: by a rate that was given, or by L."""
    rule = getattr(method, "rule", None)
    rate = None if rule is None else given_rate(rule)
    if rate is not None:
        return (
            f"the first step of method {name!r} leads out of the range of {kind}: use a smaller "
            f"learning_rate than {rate:.3g}, or method='auto' (the largest absolute value in X "
            f"is {peak:.3g})"
        )
    return (
        f"method {name!r} works in the units of X, in which the curvature overflows {kind}: "
        f"use method='auto', or divide the columns of X, of size {peak:.3g}, by a constant"
    )


def _problem(index: Any) -> str:
    """Name a problem of a batch, or a target beside others; nothing where there is but one."""
    numbers = ", ".join(str(int(i)) for i in index)
    return f" of problem {numbers}" if numbers else ""


def _column_sizes(base: LinearObjective) -> tuple[Any, Any]:
    """Return each column's largest absolute value, and whether it has coordinates to fit it in."""
    scaling = base.measure if base.measure is not None else column_scaling(base)
    xp = backends.namespace(scaling.scale)
    usable = xp.isfinite(scaling.scale) & xp.isfinite(scaling.shift) & (scaling.scale > 0.0)
    return column_peaks(base.blocks), backends.to_numpy(usable)
