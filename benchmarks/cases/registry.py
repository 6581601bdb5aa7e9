"""Which cases there are, and how one of them is made by its name."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

from benchmarks.timing.measurement import Case

__all__ = ["DEVICES", "ONE_THREAD", "ROOMS", "make", "names"]

ROOMS = {
    "everyday": "everyday_fits",
    "passes": "passes",
    "fits": "squared_and_lasso_fits",
    "smooth": "smooth_fits",
    "many": "small_and_batched_fits",
    "counts": "evaluation_counts",
    "distributed": "dask_fits",
    "sparse": "sparse_fits",
}
"""The rooms of cases, in the order of the table, and the module of each."""

DEVICES = {
    "device_passes": "device_passes",
    "device_fits": "device_fits",
    "device_many": "device_batched_fits",
    "device_small": "device_seven_points",
    "device_cli": "device_command_line",
}
"""The rooms whose cases are timed on the device that ``--device`` names, and the module of each."""

ONE_THREAD = frozenset({"everyday"})
"""The rooms whose cases are small, and run with one thread for BLAS: threads that spin take processor time."""

FEW_ROWS = 100  # enough to ask a generator of cases for their names


def _module(room: str) -> Any:
    """Import the module of a room's cases."""
    return importlib.import_module(f"benchmarks.cases.{(ROOMS | DEVICES)[room]}")


def names(room: str) -> list[str]:
    """Return the names of a room's cases.

    A room has a table ``CASES`` of functions of the number of rows, or a generator ``cases(n)``, which
    is asked for few rows here.
    """
    module = _module(room)
    if hasattr(module, "CASES"):
        return list(module.CASES)
    return [case.name for case in module.cases(FEW_ROWS)]


def make(room: str, name: str, n: int, selection: Any = None) -> Case:
    """Make one case: its data, and the calls of agd and of the peers that are here.

    Parameters
    ----------
    room, name : str
        As `names` gives them.
    n : int
        Rows.
    selection : Selection, optional
        The device that the arrays of the rooms `DEVICES` are on.

    Raises
    ------
    ValueError
        If the room has no case of this name.
    """
    module, known = _module(room), names(room)
    if name not in known:
        raise ValueError(f"the room {room!r} has no case {name!r}")
    if not hasattr(module, "CASES"):
        return next(itertools.islice(module.cases(n), known.index(name), None))
    build = module.CASES[name]
    case: Case = build(n, selection) if room in DEVICES else build(n)
    return case
