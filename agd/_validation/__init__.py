"""Shapes, dtypes, one library, one device, finite values: the checks, and the text of every error.

Each error names the argument, what came, and what was needed. Nothing here copies data to the host;
what only the values can tell is counted on the device and read in one transfer
(``agd.gradient.screening``).
"""

from __future__ import annotations

from agd._validation.arrays import Data, as_data, as_features, as_start
from agd._validation.frames import check_columns, column_names
from agd._validation.functions import (
    as_bool,
    as_bounds,
    as_gradient,
    as_point,
    as_value,
    check_point,
    own,
)
from agd._validation.points import as_line, as_line_weights
from agd._validation.scalars import (
    ConvergenceWarning,
    check_callback,
    choice,
    count,
    flag,
    not_negative,
    positive,
    real,
    values,
    warn_dependent,
    warn_unconverged,
)

__all__ = [
    "ConvergenceWarning",
    "Data",
    "as_bool",
    "as_bounds",
    "as_data",
    "as_features",
    "as_gradient",
    "as_line",
    "as_line_weights",
    "as_point",
    "as_start",
    "as_value",
    "check_callback",
    "check_columns",
    "check_point",
    "choice",
    "column_names",
    "count",
    "flag",
    "not_negative",
    "own",
    "positive",
    "real",
    "values",
    "warn_dependent",
    "warn_unconverged",
]
