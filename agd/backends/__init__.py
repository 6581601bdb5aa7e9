"""Array libraries: a table of them, and the questions that the rest of agd asks of it.

A backend is one row of `TABLE`: how to import it, make an array on a device, read one to NumPy, compile
a step, and cut data into row blocks. Library functions follow the arrays that they are given;
`select` only makes arrays, and nothing here is global state.

>>> from agd import backends
>>> here = backends.select("numpy")
>>> here.asarray([1.0, 2.0])
array([1., 2.])
>>> str(here)
'numpy (cpu)'
"""

from __future__ import annotations

from agd.backends._batches import Batches, Column
from agd.backends._chunks import of_frame
from agd.backends._tree import in_tree
from agd.backends.array import (
    add,
    add_up,
    clip,
    counted,
    current,
    default_float,
    device,
    is_array,
    namespace,
    of,
    to_numpy,
)
from agd.backends.backend import Autodiff, Backend
from agd.backends.selection import BackendInfo, Selection, available, select
from agd.backends.sparse import as_rows, is_sparse, of_parts, transposed
from agd.backends.table import PROCESS_DEFAULTS, TABLE
from agd.backends.transfer import Feed, in_words

__all__ = [
    "PROCESS_DEFAULTS",
    "TABLE",
    "Autodiff",
    "Backend",
    "BackendInfo",
    "Batches",
    "Column",
    "Feed",
    "Selection",
    "add",
    "add_up",
    "as_rows",
    "available",
    "clip",
    "counted",
    "current",
    "default_float",
    "device",
    "in_tree",
    "in_words",
    "is_array",
    "is_sparse",
    "namespace",
    "of",
    "of_frame",
    "of_parts",
    "select",
    "to_numpy",
    "transposed",
]
