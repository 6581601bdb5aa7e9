"""What the cases of a device share: their shapes, data on host and device, the floor and the copy.

The data are drawn on the host, so that every library has the same, and moved before anything is timed.
Answers are checked on the host by plain NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from benchmarks.problems.random_data import draw, gradient_norm
from benchmarks.timing.measurement import Traffic

__all__ = ["DTYPES", "SHAPES", "Problem", "crossed", "floor", "host", "plain", "problem", "traffic"]

SHAPES = ((1_000_000, 50), (10_000_000, 20), (200_000, 1_000))
DTYPES = ("float32", "float64")
MILLION = 1_000_000
COPIED = 2**30
"""Bytes that are copied to measure a bandwidth, if so much is free."""


class Problem(NamedTuple):
    """Data of a loss, on the host and on the device.

    Attributes
    ----------
    loss : str
        What the targets are of.
    A, t, w : ndarray
        Rows, targets and a point, on the host.
    X, y, coef : array
        The same on the device.
    selection : Selection
        The library and the device.
    n : int
        As the cases are asked for: 1,000,000 for the full shapes.
    """

    loss: str
    A: Any
    t: Any
    w: Any
    X: Any
    y: Any
    coef: Any
    selection: Any
    n: int

    @property
    def xp(self) -> Any:
        """The library's namespace."""
        return backends.namespace(self.X)

    @property
    def by_hand(self) -> str:
        """What the table calls code that is written by hand in the library."""
        return f"{self.selection.backend.name} by hand"

    @property
    def size(self) -> str:
        """The shape and the dtype, for the table."""
        return "{:,} x {:,} {}".format(*self.A.shape, self.A.dtype)

    def norm(self, alpha: float) -> Callable[[Any], float]:
        """Return the gradient norm of an answer, in double precision."""
        return gradient_norm(self.loss, self.A, self.t, alpha)

    def traffic(self, **targets: float) -> Traffic:
        """Return what is to be read, and the copy that it is held against."""
        return traffic(self.A.nbytes, self.selection, self.A.dtype, self.n, **targets)


def crossed(kind: str, build: Callable[..., Any]) -> dict[str, Callable[[int, Any], Any]]:
    """Return cases of a kind for each shape, squared and logistic, in both precisions.

    Parameters
    ----------
    kind : str
        What their names begin with.
    build : callable
        Takes n, the selection, and by name the loss, the shape and the dtype.
    """
    return {
        f"{kind}: {loss}, {shape[0]:,} x {shape[1]:,} {dtype}": functools.partial(
            build, loss=loss, shape=shape, dtype=dtype
        )
        for shape in SHAPES
        for loss in ("squared_error", "log_loss")
        for dtype in DTYPES
    }


def problem(
    n: int, selection: Any, loss: str, shape: tuple[int, int], dtype: str = "float64"
) -> Problem:
    """Draw a problem and move it.

    Parameters
    ----------
    n : int
        The shape has its full number of rows at a million, and of fewer rows columns are fewer too.
    selection : Selection
        Where to.
    loss, dtype : str
        Of the targets, and of all numbers.
    shape : tuple of int
        Rows and columns of the whole.
    """
    rows = max(shape[0] * n // MILLION, 40)
    p = min(shape[1], max(rows // 20, 3))
    parts = draw(rows, p, loss, dtype)
    return Problem(loss, *parts, *(selection.asarray(part) for part in parts), selection, n)


def host(part: Any) -> Any:
    """Return an array of any library as NumPy's, in double precision."""
    if hasattr(part, "detach"):
        part = part.detach().cpu().numpy()
    elif backends.is_array(part):
        part = backends.to_numpy(part)
    return np.asarray(part, dtype=np.float64)


def plain(found: Any) -> Any:
    """Return coefficients and intercept, or the parts of a tuple, as one vector on the host."""
    if hasattr(found, "coef_"):
        found = (found.coef_, found.intercept_)
    elif hasattr(found, "coef"):
        found = (found.coef, found.intercept)
    return np.concatenate([host(part).reshape(-1) for part in found])


def floor(X: Any) -> Callable[[], Any]:
    """Return a read of X, by a product with a vector."""
    ones = backends.namespace(X).ones_like(X[0, :])
    return lambda: X @ ones


def traffic(size: int, selection: Any, dtype: Any, n: int, **targets: float) -> Traffic:
    """Return the traffic of data of a size, held against a copy of 1 GiB, or of what fits.

    Parameters
    ----------
    size : int
        Bytes of the data.
    selection : Selection
        The device.
    dtype : dtype
        NumPy's dtype of what is copied.
    n : int
        Below 100,000 the copy is as much smaller.
    **targets : float
        ``share`` and ``reads`` of `Traffic`.
    """
    count = min(COPIED, COPIED // 100_000 * n) // np.dtype(dtype).itemsize
    xp, error = selection.xp, None
    while count > 2**16:
        try:
            like = selection.asarray(np.ones(1, dtype=dtype))
            source = xp.zeros(count, dtype=like.dtype, device=selection.device)
            copy = _copy(selection, source)
            copy()  # its result is another array of this size
        except (MemoryError, RuntimeError) as caught:  # torch's is a RuntimeError
            error, count = caught, count // 2
        else:
            return Traffic(size, copy, 2 * count * np.dtype(dtype).itemsize, **targets)
    raise RuntimeError(f"no room for a copy of {count} numbers on {selection}") from error


def _copy(selection: Any, source: Any) -> Callable[[], Any]:
    """Return a copy into an array that is there already, where the library can write to one."""
    if selection.backend.mutable:
        return functools.partial(_write, selection.xp.empty_like(source), source)
    if selection.backend.compiles:
        return lambda: source.copy().block_until_ready()
    return lambda: selection.xp.asarray(source, copy=True)


def _write(target: Any, source: Any) -> None:
    target[...] = source
