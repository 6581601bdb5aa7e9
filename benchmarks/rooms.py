"""Which cases there are, and how one of them is made by its name."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from typing import Any

from benchmarks.cases import Case

__all__ = ["DEVICES", "ROOMS", "make", "names"]

ROOMS = ("passes", "fits", "smooth", "many", "counts", "distributed", "sparse")
"""The modules of cases, in the table's order."""

DEVICES = ("device_passes", "device_fits", "device_many", "device_small", "device_cli")
"""The modules of cases that are timed on a device that is asked for."""

FEW = 100


def _module(room: str) -> Any:
    """Import a room; None if it is not here."""
    if importlib.util.find_spec(f"benchmarks.{room}") is None:
        return None
    return importlib.import_module(f"benchmarks.{room}")


def names(room: str) -> list[str]:
    """Return the names of a room's cases.

    A room has a table ``CASES`` of functions of the number of rows, or a generator ``cases(n)``, which
    is asked for few rows here.
    """
    module = _module(room)
    if module is None:
        return []
    if hasattr(module, "CASES"):
        return list(module.CASES)
    return [case.name for case in module.cases(FEW)]


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
