"""The whole number at which a smooth score is the smallest, from few of its values."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BestEpoch", "smallest"]

GRID = 256  # epochs, evenly apart in their logarithms, that a search for the best one begins with
FAN = 64  # parts that it then cuts what lies about the best one into


class BestEpoch(NamedTuple):
    """The epoch of the smallest generalised cross-validation.

    Attributes
    ----------
    epoch : int, or numpy.ndarray of int, shape (...)
        The first epoch whose score is the smallest, for each problem.
    score : float, or numpy.ndarray, shape (...)
        Its score.
    n_sync : int
        Reads by the host.
    """

    epoch: Any
    score: Any
    n_sync: int


def smallest(
    score: Callable[[Any], Any], limit: int, batch_shape: tuple[int, ...], eps: float
) -> BestEpoch:
    """Return the epoch of the smallest score from 0 to `limit`, for each problem.

    Parameters
    ----------
    score : callable
        It takes epochs (K, ...) and returns the score of each, on the host.
    limit : int
        The last epoch.
    batch_shape : tuple of int
        The problems.
    eps : float
        The rounding of the scores.

    Returns
    -------
    BestEpoch
        The epoch, its score and how often `score` was called.
    """
    grid = np.minimum(np.geomspace(1.0, limit, GRID).round().astype(np.int64), limit)
    points = np.multiply.outer(np.unique([0, *grid, limit]), np.ones(batch_shape, dtype=np.int64))
    n_sync = 0
    while True:
        n_sync += 1
        scores = score(points)
        best = _first_best(scores, eps)
        low, at, high = (_taken(points, best + step) for step in (-1, 0, 1))
        if (high - low <= 2).all():
            return BestEpoch(_plain(at), _plain(_taken(scores, best)), n_sync)
        parts = np.arange(FAN + 1)[(..., *(None,) * low.ndim)]
        whole, rest = np.divmod(high - low, FAN)  # their product with a part must not overflow
        points = low + whole * parts + rest * parts // FAN


def _first_best(scores: Any, eps: float) -> Any:
    """Return the index of the first score that is the smallest but for rounding."""
    return np.argmax(scores <= scores.min(axis=0) * (1.0 + 64.0 * eps), axis=0)


def _taken(points: Any, index: Any) -> Any:
    index = np.clip(index, 0, len(points) - 1)
    return np.take_along_axis(points, index[None, ...], axis=0)[0]


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value
