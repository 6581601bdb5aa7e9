"""Weighted means and centred second moments of X and y: the sufficient statistics of least squares.

One pass over the data gives them; from then on the squared loss and its gradient cost p² operations. They add
up over disjoint rows, and can be written to a JSON file that keeps every bit.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from agd import backends
from agd._tree import dot
from agd._typing import Array, Loss, Params, Penalty
from agd._validation import as_choice
from agd._validation.files import write_atomically
from agd.data.base import BaseData
from agd.data.matrix import forward
from agd.data.screening import Screened, screen, screen_block
from agd.gradient.cross_products import (
    Sums,
    accumulate,
    check_removable,
    merge,
    minus,
    of_chunk,
    renormalised,
)
from agd.loss.penalties import ridge_strength

__all__ = [
    "Moments",
    "SerialisableArrays",
    "hessian_with_intercept",
    "ridge",
    "survey",
]

FORMAT, VERSION, KIND = "agd moments", 1, "G"


@dataclass(frozen=True, eq=False)
class SerialisableArrays:
    """A dataclass of arrays that can be written to a file: the base of `agd.gradient.Moments`."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of strings, numbers and lists, which JSON keeps to the last bit.

        Raises
        ------
        ValueError
            If a moment is not finite.
        """
        entries = {name: backends.to_numpy(vars(self)[name]) for name in self._field_names()}
        for name, entry in entries.items():
            if not np.isfinite(entry).all():
                raise ValueError(f"moments must be finite to be saved: {name} is not")
        kind = backends.dtype_name(vars(self)[KIND].dtype)
        numbers = {name: entry.tolist() for name, entry in entries.items()}
        return {"format": FORMAT, "version": VERSION, "dtype": kind, **numbers}

    @classmethod
    def _field_names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_dict(cls, data: Any, backend: str = "numpy") -> Self:
        """Return the moments that `to_dict` wrote.

        Parameters
        ----------
        data : mapping
            What `to_dict` returned, or JSON made of it.
        backend : str
            The library and device that gets them, as ``agd.backends.select`` takes them.

        Returns
        -------
        Moments
            The same numbers.

        Raises
        ------
        ValueError
            For what is no dict of moments, and for shapes that do not fit each other.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"data must have format {FORMAT!r}, as Moments.to_dict gives it")
        if data.get("version") != VERSION:
            raise ValueError(f"version must be {VERSION}, got {data.get('version')!r}")
        if missing := [name for name in cls._field_names() if name not in data]:
            raise ValueError(
                f"data must have the moments' entries, but {', '.join(missing)} is missing"
            )
        kind = as_choice("dtype", str(data.get("dtype")), ("float32", "float64"))
        host = {name: np.asarray(data[name], dtype=kind) for name in cls._field_names()}
        _check_shapes(host)
        place = backends.select(backend)
        return cls(**{name: place.asarray(entry) for name, entry in host.items()})

    def save(self, path: str | Path) -> None:
        """Write the moments as JSON, whole or not at all; `load` gives the same numbers.

        Parameters
        ----------
        path : str or Path
            The file; one that is there is replaced.
        """
        text = json.dumps(self.to_dict(), allow_nan=False, indent=1)
        write_atomically(Path(path), lambda file: file.write(f"{text}\n".encode()))

    @classmethod
    def load(cls, path: str | Path, backend: str = "numpy") -> Self:
        """Read what `save` wrote; parameters and errors as in `from_dict`.

        Examples
        --------
        >>> import numpy as np, pathlib, tempfile
        >>> from agd.gradient import Blocks, Moments
        >>> found = Moments.from_blocks(Blocks.of(np.asarray([[0.1], [0.7]]), np.asarray([1.0, 2.0])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found.save(pathlib.Path(folder) / "moments.json")
        ...     bool(Moments.load(pathlib.Path(folder) / "moments.json").G == found.G)
        True
        """
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")), backend)


def _check_shapes(host: dict[str, Any]) -> None:
    """Refuse entries that are not the moments of one set of columns and problems."""
    mean, targets, total = (host[name].shape for name in ("mean", "mean_y", "total"))
    known = {
        "G": (*mean, *mean[-1:]), "c": (*targets, *mean[-1:]), "yy": targets, "rows": total,
        "mean_rest": mean, "mean_y_rest": targets,
    }  # fmt: skip
    for name, shape in known.items():
        if host[name].shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} beside a mean of shape {mean} and a mean_y of shape "
                f"{targets}, got {host[name].shape}"
            )
    if not (math.prod(mean) and mean[:-1] in {(), targets} and total in {(), targets}):
        raise ValueError(f"mean, mean_y and total must fit: shapes {mean}, {targets}, {total}")


def ridge(penalty: Penalty | None) -> float:
    """Return alpha of the one penalty that leaves the squared loss a quadratic, `L2`; 0 for None.

    Raises
    ------
    TypeError
        For any other penalty.
    """
    if penalty is not None and not penalty.quadratic:
        raise TypeError(f"penalty must be None or agd.loss.L2(alpha) here, got {penalty!r}")
    return ridge_strength(penalty)


def hessian_with_intercept(second: Array, mean: Array, *, intercept: bool) -> Array:
    """Return the squared loss's Hessian: [[S, mean], [mean', 1]] with an intercept, S without one.

    Parameters
    ----------
    second : array, shape (..., p, p)
        S, the second moments X' diag(s) X / m about 0.
    mean : array, shape (..., p)
        The weighted means of the columns.
    intercept : bool
        Whether the model has a constant term.

    Returns
    -------
    array, shape (..., d, d)
        The Hessian; d counts the intercept, which comes last.

    Examples
    --------
    >>> import numpy as np
    >>> hessian_with_intercept(np.asarray([[5.0]]), np.asarray([2.0]), intercept=True)
    array([[5., 2.],
           [2., 1.]])
    """
    if not intercept:
        return second
    xp = backends.namespace(second)
    side = mean[..., None, :]
    last = xp.concat([side, xp.ones_like(side[..., :1])], axis=-1)
    return xp.concat([xp.concat([second, xp.matrix_transpose(side)], axis=-1), last], axis=-2)


@dataclass(frozen=True, eq=False)
class Moments(SerialisableArrays):
    r"""Weighted means and centred second moments of X and y.

    ::

        mean = Σ_i s_i x_i / m,    mean_y = Σ_i s_i y_i / m,    m = Σ_i s_i
        G  = Σ_i s_i (x_i - mean)(x_i - mean)' / m
        c  = Σ_i s_i (x_i - mean)(y_i - mean_y) / m
        yy = Σ_i s_i (y_i - mean_y)² / m

    The squared loss of any (w, b) is a function of these: see `value_and_grad`. Moments over disjoint
    rows add up, ``a + b``, and rows are taken away by ``a - b``, so that a fit is brought up to date
    with tomorrow's rows, or computed on many machines. Adding rows in another order or in other blocks
    changes rounding only.

    Attributes
    ----------
    total : array, shape () or (...)
        m, the sum of the weights; the number of rows if there are none.
    rows : array, shape () or (...)
        The number of rows whose weight is positive, as a float.
    mean : array, shape (p,) or (..., p)
        The columns' means.
    mean_y : array, shape () or (...)
        The mean of y; (k,) for k targets beside a shared X.
    G : array, shape (p, p) or (..., p, p)
        Centred second moments of the columns; shared, as the means are, by targets that share X and
        the weights.
    c : array, shape (p,) or (..., p)
        Those of the columns with y.
    yy : array, shape () or (...)
        That of y.
    mean_rest, mean_y_rest : array
        What rounding took from the means: with it the difference of two means keeps its digits.

    Notes
    -----
    The dtype is float64 where the data's device has it, whatever the data's, since float32 cannot hold a
    sum over many rows. G's condition number is the square of the (centred) data's.

    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", The American
    Statistician 37.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import Blocks, Moments
    >>> X, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([1.0, 3.0, 5.0])
    >>> found = Moments.from_blocks(Blocks.of(X, y))
    >>> found.c / found.G[0]  # the slope
    array([2.])
    """

    total: Array
    rows: Array
    mean: Array
    mean_y: Array
    G: Array
    c: Array
    yy: Array
    mean_rest: Array
    mean_y_rest: Array

    @classmethod
    def from_blocks(cls, blocks: BaseData) -> Moments:
        """Read the data once.

        Parameters
        ----------
        blocks : BaseData
            X, y and weights; leading axes, and several targets beside a shared X, as there.

        Returns
        -------
        Moments
            In memory, on the device of the data; no copy of X was made beyond a block's.
        """
        with np.errstate(all="ignore"):  # what overflows is infinite, and is seen in what it makes
            return cls.of_sums(accumulate(blocks))

    @classmethod
    def of_sums(cls, sums: Sums) -> Moments:
        """Divide sums over rows by their weight."""
        mean, mean_rest = renormalised(sums.near, sums.rest)
        mean_y, mean_y_rest = renormalised(sums.near_y, sums.rest_y)
        xp = backends.namespace(sums.xx)
        m = xp.where(sums.total > 0.0, sums.total, xp.ones_like(sums.total))
        return cls(
            total=sums.total, rows=sums.rows, mean=mean, mean_y=mean_y,
            G=sums.xx / m[..., None, None], c=sums.xy / m[..., None], yy=sums.yy / m,
            mean_rest=mean_rest, mean_y_rest=mean_y_rest,
        )  # fmt: skip

    @property
    def _sums(self) -> Sums:
        m = self.total
        return Sums(
            m, self.rows, self.mean, self.mean_rest, self.mean_y, self.mean_y_rest,
            xx=self.G * m[..., None, None], xy=self.c * m[..., None], yy=self.yy * m,
        )  # fmt: skip

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The problems: () for one, (k,) for k targets."""
        return tuple(self.mean_y.shape)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments over the rows of both.

        Raises
        ------
        ValueError
            If they differ in columns or problems.
        """
        if not isinstance(other, Moments):
            return NotImplemented
        self._check_alike(other)
        return self.of_sums(merge([self._sums, other._sums]))

    def __sub__(self, other: Moments) -> Moments:
        """Return the moments over the rows that are left when those of `other` are taken away.

        Digits that the two have in common are lost, as in any difference. The host reads once.

        Raises
        ------
        ValueError
            If they differ in columns or problems, or more rows or weight would be taken than there are.
        """
        if not isinstance(other, Moments):
            return NotImplemented
        self._check_alike(other)
        mine, theirs = self._sums, other._sums
        check_removable(mine, theirs)
        return self.of_sums(minus(mine, theirs))

    def _check_alike(self, other: Moments) -> None:
        for name in ("G", "c", "total"):
            ours, theirs = (tuple(vars(moments)[name].shape) for moments in (self, other))
            if ours != theirs:
                raise ValueError(
                    f"moments must be of the same columns, targets and problems: {name} has shape "
                    f"{ours} here and {theirs} there"
                )

    @property
    def finite(self) -> Array:
        """Whether all of them are, as they are only where all rows are; bool, shape ()."""
        xp = backends.namespace(self.G)
        parts = [self.G, self.c, self.yy, self.mean, self.mean_y, self.total]
        found: Array = xp.all(xp.stack([xp.isfinite(xp.sum(xp.abs(part))) for part in parts]))
        return found

    def quadratic(
        self, penalty: Penalty | None = None, *, intercept: bool = True
    ) -> tuple[Array, Array]:
        """Return G and c of the quadratic w'Gw/2 - c'w, which the best intercept leaves of the loss.

        Parameters
        ----------
        penalty : L2, optional
            Its alpha is added to the diagonal.
        intercept : bool
            Without one the moments are taken about 0: G + mean mean', c + mean mean_y.

        Returns
        -------
        G : array, shape (p, p) or (..., p, p)
        c : array, shape (p,) or (..., p)
            The gradient is G w - c, and the minimum where it is 0.

        Raises
        ------
        TypeError
            For another penalty than `L2`.
        """
        xp = backends.namespace(self.G)
        G, c, alpha = self.G, self.c, ridge(penalty)
        if not intercept:
            G = G + self.mean[..., :, None] * self.mean[..., None, :]
            c = c + self.mean * self.mean_y[..., None]
        if alpha:
            like = {"dtype": G.dtype, "device": backends.device(G)}
            G = G + alpha * xp.eye(G.shape[-1], **like)
        return G, c

    def value_and_grad(
        self, params: Params, penalty: Penalty | None = None
    ) -> tuple[Array, Params]:
        r"""Return the squared loss, with the penalty, and its gradient, without a look at the data.

        ::

            value = (w'Gw - 2 c'w + yy + r²) / 2 + penalty(w),    r = mean · w + b - mean_y

        Parameters
        ----------
        params : Params
            coef (..., p) and intercept (...), or None for a model without one.
        penalty : L2, optional
            What is added.

        Returns
        -------
        value : array, shape (...)
            As the gradient, in the dtype of the params. Its error is about eps yy: a value far below yy
            is better taken from the data.
        grad : Params
            With respect to w and b.
        """
        dtype, (w, b) = params.coef.dtype, _cast_arrays(self.G.dtype, *params)
        if penalty is not None and not penalty.smooth:
            raise TypeError(f"penalty must be None or agd.loss.L2(alpha) here, got {penalty!r}")
        r = dot(self.mean, w) - self.mean_y
        r = r if b is None else r + b
        product = forward(self.G, w)
        value = 0.5 * (dot(product - 2.0 * self.c, w) + self.yy + r * r)
        grad = product - self.c + self.mean * r[..., None]
        if penalty is not None:
            value, grad = value + penalty.value(w), grad + penalty.gradient(w)
        value, grad, slope = _cast_arrays(dtype, value, grad, None if b is None else r)
        return value, Params(grad, slope)

    def curvature_product(self, params: Params) -> Params:
        """Multiply by the Hessian of the squared loss, [[G + mean mean', mean], [mean', 1]]."""
        dtype, (w, b) = params.coef.dtype, _cast_arrays(self.G.dtype, *params)
        z = dot(self.mean, w)
        z = z if b is None else z + b
        coef = forward(self.G, w) + self.mean * z[..., None]
        return Params(*_cast_arrays(dtype, coef, None if b is None else z))

    def value(self, w: Array, b: Array | None = None) -> Array:
        """Return the squared loss of w (..., p) and b (...), shape (...); see `value_and_grad`."""
        return self.value_and_grad(Params(w, b))[0]

    def grad(self, w: Array, b: Array | None = None) -> Params:
        """Return the squared loss's gradient with respect to w and b; see `value_and_grad`."""
        return self.value_and_grad(Params(w, b))[1]


def _cast_arrays(dtype: Any, *parts: Any) -> list[Any]:
    """Return arrays in another dtype; None for None."""
    return [
        part if part is None else backends.namespace(part).astype(part, dtype, copy=False)
        for part in parts
    ]


def survey(blocks: BaseData, loss: Loss) -> tuple[Screened, Moments]:
    """Check the values of data in chunks, count their rows and sum their moments, in one pass.

    Parameters
    ----------
    blocks : BaseData
        Those of `BaseData.uncounted`.
    loss : Loss
        It says which targets it can have.

    Returns
    -------
    screened : Screened
        Sound data, with their rows counted.
    moments : Moments
        Theirs; of two classes, with the targets 0 and 1.

    Raises
    ------
    ValueError
        As `agd.data.screening.screen`.
    """
    look = functools.partial(_screen_and_sum, loss, blocks.rows)
    with np.errstate(all="ignore"):  # as of `screen` and of `Moments`; it goes with the functions
        reports, sums = blocks.reduce(look, _join_reports)
        moments = Moments.of_sums(sums)
    xp = backends.namespace(sums.total)
    counted = blocks.replace(total=xp.astype(sums.total, blocks.resident.dtype))
    screened = screen(counted, loss, reports)
    return screened, _encode_label_moments(moments, screened.classes)


def _encode_label_moments(moments: Moments, classes: tuple[float, ...] | None) -> Moments:
    """Write two classes as 0 and 1 in the moments too; those of y beside more classes are not used."""
    if classes is None or len(classes) != 2 or classes == (0.0, 1.0):
        return moments
    low, high = classes
    xp, width = backends.namespace(moments.yy), high - low
    return replace(
        moments,
        mean_y=((moments.mean_y - low) + moments.mean_y_rest) / width,
        mean_y_rest=xp.zeros_like(moments.mean_y_rest),
        c=moments.c / width,
        yy=moments.yy / width / width,
    )


def _screen_and_sum(
    loss: Loss, rows: int | None, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Sums]:
    return screen_block(loss, X, y, weight)[None, :], of_chunk(rows, X, y, weight)


def _join_reports(parts: list[Any]) -> tuple[Array, Sums]:
    xp = backends.namespace(parts[0][0])
    return xp.concat([seen for seen, _ in parts]), merge([sums for _, sums in parts])
