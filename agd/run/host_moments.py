"""Moments in the host's memory, and the data evaluated at points that the host chooses.

The least-squares solvers of the normal equations and of the active set decide everything on the host. What
they ask of the data is here: the moments, read in one transfer, and value and gradient at a point, in another.
`HostRows` answers for a few rows of NumPy arrays without any machinery, `ResidentRows` for all other data.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, NotApplicable, Params
from agd.data.base import BaseData
from agd.gradient.cross_products import CENTRE_SAMPLE_ROWS
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.run.linear_problem import LinearProblem, Revealed

__all__ = ["EPS64", "DataGradient", "HostRows", "ResidentRows", "RowMoments", "Rows", "rows_of"]

EPS64 = float(np.finfo(np.float64).eps)
# Products of so many rows or entries at most are computed at once; those of more are cut into blocks.
MAX_HOST_ROWS, MAX_HOST_ENTRIES = 2**15, 2**18


class RowMoments(NamedTuple):
    """Means and centred second moments on the host, in double precision; a batch has leading axes.

    Attributes
    ----------
    mean, mean_y : numpy.ndarray, shapes (..., p) and (...)
        The weighted means of the columns and of y.
    G, c, yy : numpy.ndarray, shapes (..., p, p), (..., p) and (...)
        The centred second moments of the columns, of these with y, and of y.
    eps : float
        The rounding of the dtype in which they were summed.
    """

    mean: Any
    mean_y: Any
    G: Any
    c: Any
    yy: Any
    eps: float = EPS64

    @classmethod
    def of(cls, X: Any, y: Any, weight: Any = None) -> RowMoments:
        """Return the weighted means and centred second moments of the rows of X and y, at once."""
        if weight is not None:
            return cls._weighted(X, y, weight)
        n = len(y)
        some = max(1, n // CENTRE_SAMPLE_ROWS)
        shift, shift_y = _column_mean(X[::some]), float(_column_mean(y[::some]))
        d, e = X - shift, y - shift_y
        rest, rest_y = d.T @ np.ones(n) / n, float(np.add.reduce(e)) / n
        xx, xy = d.T @ d - rest[:, None] * rest * n, d.T @ e - rest * (rest_y * n)
        yy = float(np.add.reduce(e * e)) - rest_y * rest_y * n
        return cls(shift + rest, shift_y + rest_y, xx / n, xy / n, yy / n)

    @classmethod
    def _weighted(cls, X: Any, y: Any, weight: Any) -> RowMoments:
        total = float(np.add.reduce(weight))
        mean, mean_y = weight @ X / total, float(weight @ y) / total
        d, e = X - mean, y - mean_y
        heavy = d * weight[:, None]
        yy = float(np.add.reduce(weight * e * e)) / total
        return cls(mean, mean_y, heavy.T @ d / total, heavy.T @ e / total, yy)

    @classmethod
    def read(cls, moments: Moments) -> RowMoments:
        """Bring moments to the host, in one transfer."""
        parts = [moments.mean, moments.mean_y, moments.G, moments.c, moments.yy]
        eps = float(np.finfo(backends.dtype_name(moments.G.dtype)).eps)
        host = [part.astype(np.float64, copy=False) for part in read_arrays(parts)]
        mean, mean_y, G, c, yy = host
        if moments.mean_y.ndim == 0:
            mean_y, yy = float(mean_y), float(yy)
        return cls(mean, mean_y, G, c, yy, eps)

    def about_zero(self) -> RowMoments:
        """Return the moments about 0, those of a model without an intercept."""
        mean, mean_y = self.mean, self.mean_y
        square = mean[..., :, None] * mean[..., None, :]
        product = mean * (mean_y[..., None] if np.ndim(mean_y) else mean_y)
        return RowMoments(
            np.zeros_like(mean), np.zeros_like(mean_y) if np.ndim(mean_y) else 0.0,
            self.G + square, self.c + product, self.yy + mean_y * mean_y, self.eps,
        )  # fmt: skip


def _column_mean(x: Any) -> Any:
    return np.add.reduce(x, axis=0) / len(x)


def read_arrays(arrays: list[Array]) -> list[Any]:
    """Read small arrays of one dtype in one transfer."""
    if backends.of(arrays[0]).host_accessible:
        return [np.asarray(backends.to_numpy(arrays[0])), *map(np.asarray, arrays[1:])]
    xp = backends.namespace(arrays[0])
    flat = backends.to_numpy(xp.concat([xp.reshape(x, (-1,)) for x in arrays]))
    ends = np.cumsum([math.prod(tuple(x.shape)) for x in arrays])[:-1]
    parts = zip(np.split(flat, ends), arrays, strict=True)
    return [part.reshape(tuple(x.shape)) for part, x in parts]


class DataGradient(NamedTuple):
    """The mean squared loss of the data and its gradient, as the host has read them."""

    value: Any
    coef: Any
    intercept: Any


class Rows(Protocol):
    """What the solvers on the host ask of the data."""

    kind: Any  # the dtype of the data, as NumPy knows it

    def moments(self) -> RowMoments:
        """Return the moments, from one pass over the data."""
        ...

    def evaluate(self, w: Any, b: Any, intercept: bool) -> DataGradient:
        """Return the mean loss and its gradient at a point, from one pass over the data."""
        ...

    def params(self, w: Any, b: Any, intercept: bool) -> Params:
        """Return numbers of the host as parameters, where the data are and in their dtype."""
        ...

    @property
    def n_passes(self) -> int | None:
        """How often data in chunks were read; None in memory."""
        ...


class HostRows:
    """Few rows of NumPy arrays, in double precision.

    Parameters
    ----------
    X, y, weight : numpy.ndarray
        The data, of any precision, in which the parameters are rounded before they are evaluated.
    """

    n_passes = None

    def __init__(self, X: Any, y: Any, weight: Any) -> None:
        self.kind = X.dtype
        if self.kind != np.float64:
            X, y, weight = (
                None if part is None else part.astype(np.float64) for part in (X, y, weight)
            )
        self.X, self.y, self.weight = X, y, weight

    def moments(self) -> RowMoments:
        """Return the moments."""
        return RowMoments.of(self.X, self.y, self.weight)

    def evaluate(self, w: Any, b: Any, intercept: bool) -> DataGradient:
        """Return the mean loss and its gradient at a point."""
        X, y, weight = self.X, self.y, self.weight
        r = X @ w + b - y
        if weight is None:
            n, value = float(len(y)), 0.5 * float(np.vecdot(r, r))
        else:
            n, value = float(np.add.reduce(weight)), float(np.add.reduce(0.5 * r**2 * weight))
            r = r * weight
        value, grad = value / n, X.T @ r / n
        return DataGradient(value, grad, float(np.add.reduce(r)) / n if intercept else 0.0)

    def params(self, w: Any, b: Any, intercept: bool) -> Params:
        """Return the parameters in the dtype of the data."""
        constant: HostArray = np.asarray(b, dtype=self.kind) if intercept else None
        return Params(w.astype(self.kind, copy=False), constant)


class ResidentRows:
    """The data where they are: blocks of any library's arrays, chunks or a sparse matrix.

    Parameters
    ----------
    problem : LinearProblem
        A problem of the squared loss. Its moments are noted in it, so that a solver that follows has them.
    """

    def __init__(self, problem: LinearProblem) -> None:
        revealed = Revealed.X if problem.data.weight is not None else Revealed.X_AND_Y
        checked = problem.check_values(revealed)
        self.problem = problem
        self.base = LinearObjective(checked.blocks, problem.loss, None, problem.intercept)
        self.kind = np.dtype(backends.dtype_name(problem.resident.dtype))

    @property
    def blocks(self) -> BaseData:
        """The data."""
        return self.base.blocks

    @property
    def n_passes(self) -> int | None:
        """How often data in chunks were read from end to end."""
        return self.blocks.passes[0] if self.blocks.lazy else None

    def moments(self) -> RowMoments:
        """Return the moments, read in one transfer."""
        if self.problem.moments is None:
            self.problem.moments = Moments.from_blocks(self.blocks)
        return RowMoments.read(self.problem.moments)

    def evaluate(self, w: Any, b: Any, intercept: bool) -> DataGradient:
        """Return the mean loss and its gradient at a point: one pass, and one read."""
        value, grad = self.base.value_and_grad(self.params(w, b, intercept))
        xp = backends.namespace(value)
        columns = [value[..., None], grad.coef]
        if grad.intercept is not None:
            columns.append(grad.intercept[..., None])
        read = backends.to_numpy(xp.concat(columns, axis=-1)).astype(np.float64, copy=False)
        p = self.blocks.X.shape[-1]
        slope = read[..., p + 1] if intercept else np.zeros_like(read[..., 0])
        if value.ndim:
            return DataGradient(read[..., 0], read[..., 1 : p + 1], slope)
        return DataGradient(float(read[0]), read[1 : p + 1], float(slope))

    def params(self, w: Any, b: Any, intercept: bool) -> Params:
        """Return the parameters where the data are, moved in one transfer."""
        host = np.concatenate([w, np.asarray(b)[..., None]], axis=-1) if intercept else w
        packed = backends.to_device_of(host, self.problem.resident)
        if not intercept:
            return Params(packed, None)
        return Params(packed[..., :-1], packed[..., -1])


def rows_of(problem: LinearProblem) -> Rows:
    """Return what evaluates the data of a problem on behalf of the host.

    Raises
    ------
    NotApplicable
        For dtypes other than single and double precision, and for weights that the loop has words for.
    """
    t = problem.traits
    X, y, weight = problem.data
    small = t.entries <= MAX_HOST_ENTRIES and t.rows <= MAX_HOST_ROWS and t.batch_shape == ()
    if small and t.numpy:
        if weight is not None and not _is_valid_weight(weight):
            raise NotApplicable("weights that the loop has words for")
        return HostRows(X, y, weight)
    if backends.dtype_name(problem.resident.dtype) not in {"float32", "float64"}:
        raise NotApplicable("single or double precision is needed")
    return ResidentRows(problem)


def _is_valid_weight(weight: Any) -> bool:
    total = float(np.add.reduce(weight))
    return bool(weight.ndim == 1 and weight.min() >= 0.0 and math.isfinite(total) and total > 0.0)
