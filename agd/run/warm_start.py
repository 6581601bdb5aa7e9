"""A head start: a smooth fit of a sample of the rows tells where that of all of them begins, and its curvature.

At the minimum of a sample of n rows the gradient of all is what chance leaves, about n^(-1/2) of a row's,
and the Hessian is that of all but for a share of about (p / n)^(1/2). So a step in coordinates that whiten
it leaves that share of the error, and of passes over all the rows, which are what costs, few are needed.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, NotApplicable, Params
from agd.data.base import BaseData
from agd.data.block_size import stratified_rows
from agd.gradient.linear import LinearObjective, row_curvatures
from agd.gradient.moments import Moments
from agd.gradient.preconditioner import Scaling, Whitening, whitening_from_moments
from agd.loss.penalties import ridge_like
from agd.run.linear_problem import Plan
from agd.run.loop import run
from agd.run.stopping import Stop

__all__ = [
    "gather_subsample",
    "is_worthwhile",
    "start_from_subsample",
]

# The data must have at least this many times the rows of the sample, whose fit takes as many passes as theirs.
MIN_ROWS_RATIO = 8
# A sample from chunks has this many rows for each column, and between so many entries.
MIN_ROWS_PER_COLUMN, MIN_CHUNKED_ENTRIES, MAX_CHUNKED_ENTRIES = 100, 2**18, 2**20
# For an X of fewer entries in memory a pass is cheaper than the fit of a sample.
MIN_ENTRIES = 2**24
# A sample whose fit takes more steps is hard, and left to the data.
MAX_SAMPLE_STEPS = 50
# Share of the gradient that chance leaves at the sample's minimum: a closer fit of the sample says no more of the data.
GRADIENT_SHARE = 0.1
# Largest condition number of the curvature, in centred and scaled columns, that is relied upon.
MAX_CONDITION = 1e4


def is_worthwhile(base: LinearObjective, some: BaseData) -> bool:
    """Return whether passes over all rows are what costs: one large problem, in the memory of the host."""
    X = base.blocks.X
    if X.ndim != 2 or base.batch_shape != () or backends.of(X).block_bytes(X) is None:
        return False
    large = base.blocks.entries >= MIN_ENTRIES
    return bool(large and some.X.shape[0] * MIN_ROWS_RATIO <= X.shape[0])


def gather_subsample(blocks: BaseData, moments: Moments) -> BaseData:
    """Return some rows of data in chunks, evenly apart in each, in memory; one pass.

    Parameters
    ----------
    blocks : BaseData
        The data.
    moments : Moments
        Theirs, which know how many rows there are.

    Returns
    -------
    BaseData
        At most 8 MiB, whatever the data's size.

    Raises
    ------
    NotApplicable
        For several targets, where these rows would not be few, or where the chunks do not lie in the memory of a
        host.
    """
    if blocks.batch_shape != ():
        raise NotApplicable("a subsample is of one problem")
    like, p = blocks.resident, int(blocks.X.shape[-1])
    rows = max(MIN_ROWS_PER_COLUMN * p, MIN_CHUNKED_ENTRIES // p)
    if backends.of(like).block_bytes(like) is None or rows * p > MAX_CHUNKED_ENTRIES:
        raise NotApplicable("a subsample would be large, or its chunks are not in host memory")
    step = int(float(backends.to_numpy(moments.rows)) // rows)
    if step < MIN_ROWS_RATIO:
        raise NotApplicable("a subsample would be a large share of the rows")
    X, y, *weight = blocks.reduce(functools.partial(_rows_apart, step), _below_each_other)
    return BaseData.of(X, y, *weight)


def _rows_apart(step: int, X: Array, y: Array, weight: Array | None) -> list[Array]:
    xp, rows = backends.namespace(X), stratified_rows(int(y.shape[0]), step, y)
    return [xp.take(part, rows, axis=0) for part in (X, y, weight) if part is not None]


def _below_each_other(parts: list[list[Array]]) -> list[Array]:
    concat = backends.namespace(parts[0][0]).concat
    return [concat(list(column), axis=0) for column in zip(*parts, strict=True)]


def start_from_subsample(plan: Plan, subsample: BaseData) -> Plan:
    """Fit a subsample, and go on with all rows from its minimum, in coordinates that whiten its Hessian.

    Parameters
    ----------
    plan : Plan
        What would be run on all rows from the best constant model, in whitened coordinates.
    subsample : BaseData
        Some of the rows.

    Returns
    -------
    Plan
        The plan that begins at the subsample's minimum, with the given one to follow it where that is not
        finite; the given one alone where the fit of the subsample does not converge.
    """
    objective, method = plan.objective, plan.method
    rough: Any = objective.scaling
    sampled = replace(objective.base, blocks=subsample, convergence_norm=rough.scaling)
    tolerance = GRADIENT_SHARE / float(subsample.X.shape[-2]) ** 0.5
    result = run(
        method,
        replace(objective, base=sampled),
        plan.x0,
        Stop(max_iter=MAX_SAMPLE_STEPS),
        grad_tol=tolerance,
        check_every=1,
    )
    if not result.success:
        return plan
    whitening = rough
    if (
        sampled.outputs is None
    ):  # of several outputs the Hessian is no sum over rows of one weight each
        whitening = _newton_whitening(sampled, rough.scaling, result.x)
        if not float(backends.to_numpy(_whitening_condition(whitening))) < MAX_CONDITION:
            whitening = rough
    label = f"{method.name}, begun on {subsample.X.shape[-2]:,} rows"
    return plan._replace(
        method=replace(method, label=label),
        objective=replace(objective, scaling=whitening),
        x0=whitening.to_preconditioned(result.x),
        check_every=1,
        otherwise=plan,
    )


def _newton_whitening(base: LinearObjective, scaling: Scaling, at: Params) -> Whitening:
    """Return coordinates in which the Hessian at a point is the identity."""
    blocks, like = base.blocks, scaling.inv_std
    xp = backends.namespace(like)
    hessians = blocks.map(functools.partial(row_curvatures, base.loss, at))
    weighted = BaseData.of(blocks.X, blocks.y, xp.concat(hessians, axis=-1))
    moments = Moments.from_blocks(weighted)
    ridge = ridge_like(base.penalty, moments.mean)
    with np.errstate(all="ignore"):
        kappa = moments.total / xp.astype(blocks.total, moments.total.dtype, copy=False)
        second, _ = moments.quadratic(intercept=base.intercept)
        root = xp.sqrt(kappa * xp.linalg.diagonal(second) + ridge)
        width = 1.0 / xp.sqrt(kappa)
        wide = scaling._replace(inv_std=1.0 / xp.where(root > 0.0, root, xp.ones_like(root)))
        found = whitening_from_moments(second, wide, kappa, ridge)
        width = xp.astype(width, like.dtype, copy=False)
        mean = moments.mean if base.intercept else xp.zeros_like(moments.mean)
        own = Scaling(
            mean=xp.astype(mean, like.dtype, copy=False),
            inv_std=xp.astype(wide.inv_std, like.dtype, copy=False),
            intercept_scale=width,
            gradient_scale=scaling.gradient_scale * (width / scaling.intercept_scale),
            null_model=scaling.null_model,
        )
    return found._replace(scaling=own).cast(like)


def _whitening_condition(whitening: Whitening) -> Array:
    """Return the largest curvature as a multiple of the least; infinite or NaN where there is none."""
    xp, e = backends.namespace(whitening.spectrum), whitening.spectrum
    low, high = xp.min(e), xp.max(e)
    return high / xp.where(low > 0.0, low, xp.zeros_like(low))
