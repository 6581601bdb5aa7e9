"""How many rows a block has."""

from __future__ import annotations

__all__ = ["rows_in_cache"]

# Measured for 1 to 5,000 columns, float32 and float64, rows and columns contiguous (benchmarks/passes.py):
# all within a tenth of the best, save a single column.
MOST_ROWS = 16_384  # beyond, a loss's temporaries leave the cache
LEAST_ROWS = 64  # below, a call costs more than its work
# OpenBLAS splits a product of more than 460,800 entries over threads of its own, which wait for each
# other, and where the processors are shared wait long.
MOST_ENTRIES = 400_000


def rows_in_cache(columns: int, targets: int, itemsize: int, size: int) -> int:
    """Return how many rows a block has that stays in the cache from its first product to its second.

    Parameters
    ----------
    columns : int
        Entries of X in a row; of a batch, in the rows of all problems.
    targets : int
        Entries of y for each row.
    itemsize : int
        Bytes of an entry.
    size : int
        Bytes that the cache keeps.

    Returns
    -------
    int
        At least 1. As many rows as fit beside z and the slopes, within `LEAST_ROWS` (unless these take
        more than four times `size`) and `MOST_ROWS`.

    Examples
    --------
    >>> [rows_in_cache(p, 1, 8, 2 * 2**20) for p in (1, 50, 200, 1000, 5000, 10**7)]
    [16384, 5041, 1297, 261, 64, 1]
    """
    row_bytes = max(1, columns + 2 * targets) * itemsize
    fit = min(size // row_bytes, MOST_ENTRIES // max(1, columns))
    least = min(LEAST_ROWS, 4 * size // row_bytes)
    return max(1, min(max(fit, least), MOST_ROWS))
