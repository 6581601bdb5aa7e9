"""What X, y and the weights ARE: arrays in row blocks, Dask chunks, streams of batches, sparse matrices.

`as_data` is the only place that asks what a user's X is. Everything above this room computes with the result: it
maps functions over blocks and sums them, and reads traits such as `lazy` and `sparse`.

>>> import numpy as np
>>> from agd.data import as_data
>>> data = as_data(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
>>> type(data).__name__, data.lazy, data.row_count, float(data.total)
('ArrayData', False, 2.0, 2.0)
"""

from __future__ import annotations

from typing import Any

from agd.data.arrays import ArrayData
from agd.data.base import BaseData
from agd.data.checks import check_arrays
from agd.data.dask import DaskData
from agd.data.stream import Stream, StreamData, place_arrays

__all__ = ["ArrayData", "BaseData", "DaskData", "Stream", "StreamData", "as_data"]


def as_data(
    X: Any, y: Any, sample_weight: Any = None, device: str | None = None, offset: Any = None
) -> BaseData:
    """Check what a user gives for X, y, the weights and the offsets, and return it as data.

    Parameters
    ----------
    X : array, shape (n, p) or (..., n, p), sparse matrix, Dask array or `Stream`
        The rows.
    y : array, shape (n,), (n, k) or (..., n)
        The targets; None beside a stream, whose batches have theirs.
    sample_weight : array, shape (n,) or (..., n), optional
        The weights of the rows.
    device : str, optional
        Where to move host arrays, as `agd.backends.select` takes it; in batches where they do not fit in its
        memory.
    offset : array, shape (n,), (n, k) or (..., n), optional
        What is added to the predictor of each row.

    Returns
    -------
    BaseData
        `ArrayData`, `DaskData` or `StreamData`: one library, device and float dtype, y and weights with rows last.
        With offsets y is the pairs of `agd.loss.base.pair_offset`.

    Raises
    ------
    TypeError
        For strings, complex or object data, masked arrays, a sparse y, and arrays of two libraries.
    ValueError
        For shapes that do not fit, and for two devices.
    MemoryError
        For independent problems that do not fit on the device: they cannot be streamed.
    """
    if device is None:
        return BaseData.uncounted(*check_arrays(X, y, sample_weight, offset))
    return BaseData.uncounted(*place_arrays(X, y, sample_weight, device, offset))
