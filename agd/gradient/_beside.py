"""What lies beside X: passes over y and the weights alone, in blocks of their own."""

from __future__ import annotations

from agd import backends
from agd.gradient.blocks import Blocks

__all__ = ["beside"]

ROWS = (
    2**16
)  # of a block: threads take the interpreter's lock in turn, so that few large ones are quick


def beside(blocks: Blocks) -> Blocks:
    """Return y and the weights beside an X without columns, cut as they fit the cache.

    Examples
    --------
    >>> import numpy as np
    >>> beside(Blocks.of(np.ones((5, 2)), np.arange(5.0))).sum(lambda X, y, weight: y.sum())
    np.float64(10.0)
    """
    X = blocks.X
    if backends.is_sparse(X) or backends.of(X).chunked or backends.of(X).block_bytes(X) is None:
        return blocks  # taken as they are
    return blocks.replace(X=X[..., :0], rows=ROWS)
