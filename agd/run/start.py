"""Where a run of any function starts: within the bounds, and where the function is finite."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Tree
from agd._validation import as_bounds, check_point
from agd.gradient import Bounds
from agd.run.result import Result
from agd.run.status import Status

__all__ = ["check_start", "default_tolerance", "within"]


def within(point: Tree, bounds: Any, batch: int) -> tuple[Tree, Bounds | None]:
    """Check the first point's values, and bring it within the bounds.

    Parameters
    ----------
    point : tree of arrays
        The first point.
    bounds : sequence, object, tree or None
        As `agd.minimize` takes them.
    batch : int
        How many leading axes number independent problems.

    Returns
    -------
    tuple of tree and Bounds or None
        The point and the bounds.

    Warns
    -----
    UserWarning
        If the point had to be moved.
    """
    limits = None if bounds is None else Bounds(*as_bounds(bounds, point, batch))
    outside = check_point(point, limits)
    if limits is None or not outside:
        return point, limits
    entries = "1 entry" if outside == 1 else f"{outside} entries"
    warnings.warn(
        f"x0 lies outside the bounds in {entries}: moved to the nearest point within them",
        UserWarning,
        stacklevel=4,
    )
    return limits.project(point), limits


def default_tolerance(point: Tree) -> float:
    """Return eps^(1/3), with eps the rounding of the coarsest of the point's dtypes."""
    leaves = optree.tree_leaves(point)
    eps = max(float(backends.namespace(x).finfo(x.dtype).eps) for x in leaves)
    return math.exp(math.log(eps) / 3.0)


def check_start(found: Result, *, negative: bool = False) -> None:
    """Refuse a function that is not finite at x0: no descent starts from there.

    Parameters
    ----------
    found : Result
        The run's.
    negative : bool
        Whether the run minimised the function's negative.

    Raises
    ------
    ValueError
        If it ended at once, since the value or the gradient is NaN or infinite.
    """
    value = np.asarray(found.history.value[0])
    finite = np.isfinite(value) & np.isfinite(found.history.grad_norm[0])
    broken = ~finite & (np.asarray(found.status) == Status.NON_FINITE)
    if not broken.any():
        return
    where = "" if value.ndim == 0 else f" of problem {int(np.flatnonzero(broken)[0])}"
    bad = float(value[broken][0]) if value.ndim else float(value)
    if not np.isfinite(bad):
        raise ValueError(f"fun must be finite at x0{where}, got {-bad if negative else bad!r}")
    raise ValueError(f"the gradient must be finite at x0{where}: it is NaN or infinite there")
