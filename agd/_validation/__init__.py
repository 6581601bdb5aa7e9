"""Checks of arguments, and the text of their errors: shapes, dtypes, one library, one device, scalars.

Every public function calls these first. Each error names the argument, what was passed and what was
needed. No data are copied to the host for a check; values that are not finite are counted on the device by
the screening, which reads one transfer.
"""

from __future__ import annotations

from agd._validation.arrays import as_line, as_line_weights, as_start, check_columns
from agd._validation.functions import (
    as_bool,
    as_bounds,
    as_gradient,
    as_point,
    as_residuals,
    as_value,
    check_point,
    writable_copy,
    write_counts,
)
from agd._validation.scalars import (
    ConvergenceWarning,
    as_choice,
    as_count,
    as_flag,
    as_nonnegative,
    as_positive,
    as_real,
    as_share,
    check_callback,
    invalid_values_text,
    warn_dependent,
    warn_unconverged,
)

__all__ = [
    "ConvergenceWarning",
    "as_bool",
    "as_bounds",
    "as_choice",
    "as_count",
    "as_flag",
    "as_gradient",
    "as_line",
    "as_line_weights",
    "as_nonnegative",
    "as_point",
    "as_positive",
    "as_real",
    "as_residuals",
    "as_share",
    "as_start",
    "as_value",
    "check_callback",
    "check_columns",
    "check_point",
    "invalid_values_text",
    "warn_dependent",
    "warn_unconverged",
    "writable_copy",
    "write_counts",
]
