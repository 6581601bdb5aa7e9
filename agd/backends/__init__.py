"""Array libraries: a table of them, and what the rest of agd asks of an array.

This is the ground floor of agd, and the only room that names a library. A backend is one row of `TABLE`: how
to import the library, make an array on a device, copy one to NumPy, compile a function and cut data into row
blocks. All other functions of agd compute in the library of the arrays that they are given; `select` is for
users who want to make arrays, and sets no global state.

>>> from agd import backends
>>> selection = backends.select("numpy")
>>> selection.asarray([1.0, 2.0])
array([1., 2.])
>>> str(selection)
'numpy (cpu)'
"""

from __future__ import annotations

from agd.backends.array import (
    clip,
    count_host_reads,
    default_float,
    device,
    device_context,
    dtype_name,
    has_known_type,
    is_array,
    namespace,
    of,
    read_together,
    register_row,
    to_device_of,
    to_numpy,
)
from agd.backends.backend import AutodiffFunctions, Backend, TaskGraph
from agd.backends.frames import column_names, has_no_values, numbers_of_objects, unwrap
from agd.backends.selection import BackendInfo, Selection, available, select
from agd.backends.sparse import (
    as_csr,
    as_scipy,
    check_structure,
    csr_from_parts,
    is_sparse,
    transpose,
)
from agd.backends.table import PROCESS_DEFAULTS, TABLE
from agd.backends.transfer import Transfer, format_bytes

__all__ = [
    "PROCESS_DEFAULTS",
    "TABLE",
    "AutodiffFunctions",
    "Backend",
    "BackendInfo",
    "Selection",
    "TaskGraph",
    "Transfer",
    "as_csr",
    "as_scipy",
    "available",
    "check_structure",
    "clip",
    "column_names",
    "count_host_reads",
    "csr_from_parts",
    "default_float",
    "device",
    "device_context",
    "dtype_name",
    "format_bytes",
    "has_known_type",
    "has_no_values",
    "is_array",
    "is_sparse",
    "namespace",
    "numbers_of_objects",
    "of",
    "read_together",
    "register_row",
    "select",
    "to_device_of",
    "to_numpy",
    "transpose",
    "unwrap",
]

# Names of earlier versions, which stay importable.
Autodiff = AutodiffFunctions
Feed = Transfer
as_rows = as_csr
counted = count_host_reads
current = device_context
in_words = format_bytes
of_frame = unwrap
of_parts = csr_from_parts
transposed = transpose
