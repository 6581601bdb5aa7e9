"""What ``method="auto"`` means for a linear fit: which coordinates, which method, from which point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Loss, Method, Params, Penalty
from agd._validation import Data
from agd.data.arrays import Blocks
from agd.data.screening import Screened, screen
from agd.gradient.column_stats import column_scaling
from agd.gradient.conditioning import (
    MAX_NORMAL_COLUMNS,
    Columns,
    known_row_count,
    moments_are_accurate,
    subsample_rows,
    whiten_columns,
)
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments, survey
from agd.gradient.preconditioner import Preconditioned, Scaling
from agd.gradient.quadratic import MomentObjective, WhitenedLeastSquares
from agd.loss import L2, Squared
from agd.loss.penalties import ridge_strength
from agd.run.warm_start import gathered, head_start, serves
from agd.update.active_set import Faces
from agd.update.directions import lbfgs
from agd.update.newton import WhitenedDescent
from agd.update.proximal import FISTA

__all__ = [
    "Plan",
    "every",
    "looked_at",
    "null",
    "plan",
    "scaled",
    "sound_data",
    "takes_moments",
]

TALL = 4  # rows to a column: with fewer, a step on the moments costs no less than a pass
EVEN = 30.0  # condition: below it the moments' answer has lost three digits at most
NARROW, PASSES = (
    256,
    400,
)  # columns, passes over entries: p³ of the factors takes less than a few steps
MEMORY = 10  # pairs of L-BFGS: in whitened coordinates few are needed


class Plan(NamedTuple):
    """What to run.

    Attributes
    ----------
    method : Method
        What takes a step.
    objective : Objective
        The objective in its coordinates.
    x0 : Params
        The first point in them.
    check_every : int
        How many steps run between two looks, where the user does not say.
    columns : Columns or None
        What was learned of the columns.
    otherwise : Plan or None
        What to run where the objective is not finite at x0.
    """

    method: Method
    objective: Any
    x0: Params
    check_every: int = 10
    columns: Columns | None = None
    otherwise: Any = None


def takes_moments(base: LinearObjective) -> bool:
    """Return whether `plan` goes by moments: not above 2,000 columns, nor for a prox on few rows.

    Nor for a sparse X with so few entries that more steps take less than the (p, p) factors; but without
    a ridge these tell which columns are dependent.
    """
    p = base.blocks.X.shape[-1]
    on_moments = type(base.loss) is Squared and (
        known_row_count(base) >= TALL * p or _faces_pay(base)
    )
    if base.blocks.sparse and not base.nonsmooth and ridge_strength(base.penalty) > 0.0:
        return bool(
            p <= MAX_NORMAL_COLUMNS and (p <= NARROW or p**3 <= PASSES * base.blocks.entries)
        )
    return p <= MAX_NORMAL_COLUMNS and (on_moments or not base.nonsmooth)


def scaled(base: LinearObjective, start: Params | None, *, measured: bool) -> Plan | None:
    """Choose for a sparse X, a smooth objective and no moments: L-BFGS in scaled coordinates.

    Parameters and returns are those of `plan`.
    """
    if base.nonsmooth or not base.blocks.sparse:
        return None
    scaling = column_scaling(base)
    if measured:
        base = replace(base, convergence_norm=scaling)
    x0 = scaling.to_preconditioned(null(base, scaling) if start is None else start)
    return Plan(lbfgs(MEMORY), Preconditioned(base, scaling), x0, every(base))


def null(base: LinearObjective, scaling: Scaling) -> Params:
    """Return the best constant model."""
    zero = base.zeros()
    constant = None if zero.intercept is None else zero.intercept + scaling.null_model
    return Params(zero.coef, constant)


def plan(
    base: LinearObjective, start: Params | None, moments: Moments | None = None, *, measured: bool
) -> Plan | None:
    """Choose what fits best.

    For the squared loss, alone or with `L2`, that is whitened descent, with a penalty that has a prox
    FISTA on the moments, and `Faces` where these serve; for any other smooth loss L-BFGS in whitened coordinates.

    Parameters
    ----------
    base : LinearObjective
        Loss, data and penalty.
    start : Params, optional
        The first point, in the user's coordinates; the best constant model by default.
    moments : Moments, optional
        Those of the data, where they are known already.
    measured : bool
        Whether the stopping test measures the gradient in centred and scaled coordinates.

    Returns
    -------
    Plan or None
        None where none of these serves: more than 2,000 columns, a penalty with a prox and another loss
        or few rows, and columns whose moments the dtype cannot hold.
    """
    if not takes_moments(base):
        return None
    some = (
        subsample_rows(base.blocks) if moments is None and type(base.loss) is not Squared else None
    )
    if some is not None:
        found = _by(Moments.from_blocks(some), base, start, measured)
        if found is not None and found.columns is not None and found.columns.well_conditioned:
            return _begun(found, some) if start is None and serves(base, some) else found
    whole = Moments.from_blocks(base.blocks) if moments is None else moments
    found = _by(whole, base, start, measured)
    if start is not None or found is None or not _many_passes(found):
        return found
    some = gathered(base.blocks, whole)
    return found if some is None else _begun(found, some)


def _many_passes(found: Plan) -> bool:
    """Return whether chunks will be gone through time and again, in coordinates that hold."""
    plain = found.columns is not None and found.columns.well_conditioned
    return (
        plain and isinstance(found.objective, Preconditioned) and found.objective.compilable is None
    )


def _begun(found: Plan, some: Blocks) -> Plan:
    """Begin with a fit of the sample, where that converges."""
    method: Any = found.method
    there, x0 = head_start(found.objective, method, found.x0, some)
    if there is None:
        return found
    label = f"{method.name}, begun on {some.X.shape[-2]:,} rows"
    return found._replace(
        method=replace(method, label=label), objective=there, x0=x0, check_every=1, otherwise=found
    )


def _by(
    moments: Moments, base: LinearObjective, start: Params | None, measured: bool
) -> Plan | None:
    """Plan by the moments of the data, or of a sample of their rows."""
    scaling = column_scaling(base, moments)
    if measured:
        base = replace(base, convergence_norm=scaling)
    if start is None:
        start = null(base, scaling)
    with np.errstate(all="ignore"):
        if base.nonsmooth:
            return _proximal(base, start, moments, scaling)
        return _whitened(base, start, moments, scaling)


def _whitened(
    base: LinearObjective, start: Params, moments: Moments, scaling: Scaling
) -> Plan | None:
    quadratic = type(base.loss) is Squared and type(base.penalty) in (L2, type(None))
    found = whiten_columns(base, moments, scaling, quadratic=quadratic)
    if found is None:
        return None
    whitening, columns = found
    if quadratic:
        same = moments.G.dtype == start.coef.dtype
        # Moments of well conditioned columns leave nothing to refine, nor do those that are wider.
        once = not same or np.max(columns.condition) < EVEN
        accurate = columns.ill_conditioned and not base.blocks.sparse
        method = WhitenedDescent(
            3 if columns.ill_conditioned else 1 if once else 2, accurate=accurate
        )
        least = None if columns.least is None else (columns.low, columns.least)
        squares = WhitenedLeastSquares(base, whitening, moments, accurate, least)
        return Plan(method, squares, start, 1, columns)
    there = Preconditioned(base, whitening, centre_blocks=columns.far_from_zero)
    x0 = whitening.to_preconditioned(start)
    return Plan(lbfgs(MEMORY, whitened=True), there, x0, every(base), columns)


def _proximal(
    base: LinearObjective, start: Params, moments: Moments, scaling: Scaling
) -> Plan | None:
    if not moments_are_accurate(base, moments, scaling.inv_std):
        return None
    there = Preconditioned(MomentObjective.of_data(base, moments), scaling)
    x0 = scaling.to_preconditioned(base.prox(start, 0.0))  # the nearest point that is allowed
    method: Any = Faces() if _faces_pay(base) else FISTA()
    return Plan(method, there, x0, every(base))


def _faces_pay(base: LinearObjective) -> bool:
    """Return whether it is one problem on the host, whose columns are solved for as soon as a step is taken."""
    separable = base.penalty is not None and base.penalty.separable
    host = backends.of(base.blocks.resident).host_accessible
    return separable and host and base.batch_shape == () and base.blocks.X.shape[-1] <= NARROW


def every(base: LinearObjective) -> int:
    """Return how many steps run between two looks: 1 where these cost nothing."""
    return 1 if backends.of(base.blocks.resident).host_accessible else 10


def sound_data(
    data: Data,
    chosen: Loss,
    penalty: Penalty | None,
    intercept: bool,
    *,
    auto: bool,
    tells: Callable[[LinearObjective], bool],
) -> tuple[Screened, Moments | None]:
    """Check the values, as far as no later pass does.

    Parameters
    ----------
    data : Data
        Checked but for its values.
    chosen, penalty, intercept
        The objective's.
    auto : bool
        Whether the method is chosen here.
    tells : callable
        Whether the values of X are looked at where a given method's run is looked for in closed form.

    Returns
    -------
    screened : Screened
        What is known of the data.
    moments : Moments or None
        Those of chunks, which cost to read: of the same pass.
    """
    uncounted = LinearObjective(Blocks.uncounted(*data), chosen, penalty, intercept)
    chunked = uncounted.blocks.lazy
    if auto and chunked and takes_moments(uncounted):
        return survey(uncounted.blocks, chosen)
    with np.errstate(over="ignore"):  # weights whose sum overflows are said by the screen
        blocks = Blocks.of(*data)
    # The moments of the squared loss are finite only if the data are: a pass for them tells both.
    if auto and type(chosen) is Squared and data.weight is None and not chunked:
        return Screened(blocks, None, 1.0, 0), None
    # So is a gradient over all rows only if X is: a run that ends well has looked at it, and so has one in
    # closed form.
    told = not chunked and (takes_moments(uncounted) if auto else tells(uncounted))
    return screen(blocks, chosen, whole=not told), None


def looked_at(sound: Screened, chosen: Loss) -> Screened:
    """Look at the values of X too, which raises if they are not finite; parameters as found so far."""
    seen = screen(sound.blocks, chosen)
    known = seen if sound.classes is None else sound
    return known._replace(n_sync=sound.n_sync + seen.n_sync, whole=True)
