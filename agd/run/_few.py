"""Data of few rows on the host, and their means and second moments."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from typing import Any, NamedTuple

import numpy as np

from agd.gradient._accumulate import SAMPLE

__all__ = ["RowMoments", "Rows"]


class Rows(NamedTuple):
    """The data: X, y and the weights."""

    X: Any
    y: Any
    weight: Any

    def wide(self) -> "Rows":
        """Return them in double precision."""
        return Rows(*(None if part is None else part.astype(np.float64) for part in self))


class RowMoments(NamedTuple):
    """Means and centred second moments; `square` is that of y about the best constant."""

    mean: Any
    mean_y: float
    G: Any
    c: Any
    yy: float

    @classmethod
    def of(cls, X: Any, y: Any, weight: Any = None) -> "RowMoments":
        if weight is not None:
            return cls._weighted(X, y, weight)
        n = len(y)
        some = max(1, n // SAMPLE)
        near, near_y = _mean(X[::some]), float(_mean(y[::some]))
        d, e = X - near, y - near_y
        rest, rest_y = d.T @ np.ones(n) / n, float(np.add.reduce(e)) / n
        xx, xy = d.T @ d - rest[:, None] * rest * n, d.T @ e - rest * (rest_y * n)
        yy = float(np.add.reduce(e * e)) - rest_y * rest_y * n
        return cls(near + rest, near_y + rest_y, xx / n, xy / n, yy / n)

    @classmethod
    def _weighted(cls, X: Any, y: Any, weight: Any) -> "RowMoments":
        total = float(np.add.reduce(weight))
        mean, mean_y = weight @ X / total, float(weight @ y) / total
        d, e = X - mean, y - mean_y
        heavy = d * weight[:, None]
        yy = float(np.add.reduce(weight * e * e)) / total
        return cls(mean, mean_y, heavy.T @ d / total, heavy.T @ e / total, yy)

    def about_zero(self) -> "RowMoments":
        """Return the moments about 0, those of a model without an intercept."""
        mean, mean_y = self.mean, self.mean_y
        return RowMoments(
            np.zeros_like(mean), 0.0,
            self.G + mean[:, None] * mean, self.c + mean * mean_y, self.yy + mean_y * mean_y,
        )  # fmt: skip


def _mean(x: Any) -> Any:
    return np.add.reduce(x, axis=0) / len(x)
