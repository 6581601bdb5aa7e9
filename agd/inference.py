"""Inference: covariances and standard errors of a fit, tests, intervals, and how well the model describes the data.

The results of `agd.fit` call these functions. A covariance is made of sums of products of the columns, weighted
row by row, from one pass over the row blocks, wherever they are; the host factors the small matrices. Each block
is centred by a point among its rows, and sums about two points merge, so that columns far from zero lose no digits.

>>> import numpy as np
>>> import agd
>>> X = np.asarray([[1.0], [2.0], [3.0], [4.0]])
>>> line = agd.fit(X, [2.0, 4.0, 5.0, 8.0])
>>> line.std_error.round(4), float(line.deviance.round(4))
(array([0.2646, 0.7246]), 0.7)
"""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, Loss, Matrix, Params, Penalty
from agd._validation import as_choice
from agd.data.arrays import ArrayData, are_small_problems, map_small_problems
from agd.data.base import ARITY, BaseData, tree_reduce
from agd.data.matrix import map_entries, rough_centre, sum_rows_by_member, weighted_products
from agd.gradient.cross_products import CENTRE_SAMPLE_ROWS, accumulator
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, linear_predictor
from agd.gradient.qr import triangular_factor
from agd.loss._stable import log_gamma, stirling_correction
from agd.loss.base import split_offset

__all__ = [
    "KINDS",
    "Covariance",
    "Interval",
    "LinearModel",
    "Summary",
    "WaldTest",
    "covariance",
    "deviance",
    "score",
    "score_name",
    "summarise",
    "wald_test",
]

KINDS = ("model", "HC0", "HC1", "HC2", "HC3", "cluster")
"""What `covariance` may assume: the model's variance, none (White's sandwich and its corrections), or clusters."""


class LinearModel(NamedTuple):
    """A fitted linear model: what inference needs to know of a result.

    Attributes
    ----------
    params : Params
        coef (..., p) and intercept (...), or None.
    loss : Loss
        The loss that was minimised.
    penalty : Penalty or None
        What was added to it.
    """

    params: Params
    loss: Loss
    penalty: Penalty | None


class Interval(NamedTuple):
    """Predictions with their intervals, arrays of one shape.

    Attributes
    ----------
    prediction : array, shape (..., n)
        The predictions.
    lower, upper : array, shape (..., n)
        The ends of the intervals.
    """

    prediction: Any
    lower: Any
    upper: Any


# ---- Sums over the rows -------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """What a pass adds up, the places of its vector of numbers."""

    rows: Any
    pearson: Any
    deviance: Any
    squared_slopes: Any
    curvatures: Any
    squared_curvatures: Any


class _Pass(NamedTuple):
    """Which sums of weighted products a pass over the rows takes.

    Attributes
    ----------
    loss : Loss
        The loss.
    factors : tuple of str
        A factor of the rows for each sum: "expected" and "observed" second derivatives of the loss, "plain" 1, and
        "scores", the squared first derivatives.
    has_intercept : bool
        Whether X has a column of ones beside it, the last.
    correction : int
        The power of 1 - leverage by which squared scores are divided: 0, 1 or 2.
    """

    loss: Loss
    factors: tuple[str, ...]
    has_intercept: bool
    correction: int = 0


def _block_sums(
    plan: _Pass,
    X: Matrix,
    y: Array,
    weight: Array | None,
    coef: Array,
    intercept: Array,
    roots: Array | None = None,
    root_constants: Array | None = None,
) -> tuple[Array, ...]:
    """Return a centre of the block, the numbers of `_Sums`, and X' diag(v) X about the centre for each factor v.

    `roots` and `root_constants` are the linear models, one for each parameter, whose squared predictions add up
    to the leverage of a row of curvature 1.
    """
    X, y, s, offset = _rows_and_targets(X, y, weight)
    xp, loss, dtype = backends.namespace(y), plan.loss, y.dtype
    coef, intercept = (xp.astype(x, dtype, copy=False) for x in (coef, intercept))
    centre = rough_centre(X, coef, CENTRE_SAMPLE_ROWS, has_intercept=plan.has_intercept)
    z = linear_predictor(Params(coef, intercept), X) + offset
    slope, observed = loss.gradient(z, y), loss.hessian(z, y)
    expected = loss.hessian(z, loss.inverse_link(z)) if loss.has_deviance else observed
    factor = {"plain": xp.ones_like(y), "observed": s * observed, "expected": s * expected}
    scores = (s * slope) ** 2
    if roots is not None:
        columns = linear_predictor(Params(roots, root_constants), X, outputs=True)
        leverage = xp.sum(columns * columns, axis=-1) * factor["expected"]
        scores = scores / (1.0 - leverage) ** plan.correction
    factor["scores"] = scores
    sums = _Sums(
        rows=xp.astype(s > 0.0, dtype),
        pearson=s * slope * slope / xp.where(expected > 0.0, expected, xp.ones_like(y)),
        deviance=2.0 * s * (loss.value(z, y) - loss.least_value(y)),
        squared_slopes=slope * slope,
        curvatures=observed,
        squared_curvatures=observed * observed,
    )
    numbers = xp.stack([xp.sum(term, axis=-1) for term in sums], axis=-1)
    products = (
        weighted_products(X, centre, factor[name], has_intercept=plan.has_intercept)
        for name in plan.factors
    )
    return centre + 0.0 * coef, numbers, *products


def _targets(y: Array, weight: Array | None) -> tuple[Array, Array, Any]:
    """Return targets, weights, and offsets or 0, in double precision where their device has it."""
    y, offset = split_offset(y)
    xp, dtype = backends.namespace(y), accumulator(y)
    y = xp.astype(y, dtype, copy=False)
    s = xp.ones_like(y) if weight is None else xp.astype(weight, dtype, copy=False) + 0.0 * y
    return y, s, 0.0 if offset is None else xp.astype(offset, dtype, copy=False)


def _rows_and_targets(
    X: Matrix, y: Array, weight: Array | None
) -> tuple[Matrix, Array, Array, Any]:
    """Return X beside the same."""
    y, s, offset = _targets(y, weight)
    X = map_entries(X, lambda x: backends.namespace(x).astype(x, y.dtype, copy=False))
    return X, y, s, offset


def _translated(products: Any, shift: Any, *, has_intercept: bool) -> Any:
    """Return sums of products of the rows [x + shift, 1] for those of [x, 1]; as they are without a constant."""
    if not has_intercept:
        return products
    xp = backends.namespace(products)
    gram, side, total = products[..., :-1, :-1], products[..., :-1, -1], products[..., -1:, -1]
    cross = side[..., :, None] * shift[..., None, :]
    squares = shift[..., :, None] * shift[..., None, :] * total[..., None]
    gram = gram + cross + xp.matrix_transpose(cross) + squares
    side = side + shift * total
    upper = xp.concat([gram, side[..., :, None]], axis=-1)
    return xp.concat([upper, xp.concat([side, total], axis=-1)[..., None, :]], axis=-2)


def _add_score_sums(has_intercept: bool, parts: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Merge the sums of `_block_sums` over disjoint rows, about the centre of the first."""
    centre, numbers, *products = parts[0]
    for other_centre, other_numbers, *others in parts[1:]:
        shift = other_centre - centre
        numbers = numbers + other_numbers
        products = [
            a + _translated(b, shift, has_intercept=has_intercept)
            for a, b in zip(products, others, strict=True)
        ]
    return centre, numbers, *products


def _chunk_sums(plan: _Pass, arguments: tuple[Array, ...], chunk: ArrayData) -> tuple[Array, ...]:
    """Sum over a chunk of data in memory; threads share its blocks where the library gains by it."""
    f = functools.partial(_block_sums, plan)
    if are_small_problems(chunk):
        return map_small_problems(f, chunk, more=arguments)
    problems, d = math.prod(chunk.batch_shape), int(chunk.X.shape[-1]) + plan.has_intercept
    merge = functools.partial(_add_score_sums, plan.has_intercept)
    size = 8 * max(1, problems) * d * d * max(1, len(plan.factors))

    def sum_strip(strip: list[Any]) -> tuple[Array, ...]:
        total: tuple[Array, ...] = tree_reduce(
            (f(*block, *arguments) for block in strip), merge, ARITY
        )
        return total

    def sum_cut(cut: list[Any]) -> tuple[Array, ...]:
        threaded = backends.of(chunk.X).threaded
        strips = (
            chunk.map_groups(sum_strip, cut, size, heavy=True) if threaded else [sum_strip(cut)]
        )
        return merge(strips)

    return chunk.retry_in_halves(sum_cut, MAX_COPIED_BLOCK_BYTES // max(1, problems))


class _HostSums(NamedTuple):
    """The sums of a pass, on the host in double precision."""

    centre: HostArray
    numbers: _Sums
    products: list[HostArray]


def _sum_rows(
    model: LinearModel, data: BaseData, plan: _Pass, roots: tuple[Array, ...] = ()
) -> _HostSums:
    """Make one pass over the rows, and read its sums together."""
    coef, intercept = model.params
    constant = 0.0 * coef[..., 0] if intercept is None else intercept
    with backends.device_context(data.X), np.errstate(all="ignore"):
        sums = data.merge_chunks(
            functools.partial(_chunk_sums, plan, (coef, constant, *roots)),
            functools.partial(_add_score_sums, plan.has_intercept),
        )
        centre, numbers, *products = (x.astype(float) for x in backends.read_together(list(sums)))
    symmetric = [0.5 * (x + np.swapaxes(x, -1, -2)) for x in products]
    return _HostSums(centre, _Sums(*np.moveaxis(numbers, -1, 0)), symmetric)


# ---- Covariances --------------------------------------------------------------------------------------------

# Of the largest eigenvalue of the products of columns of length 1: below it the columns are dependent.
RANK_TOLERANCE = 1e-13
# Below it, products have lost too many digits, and the factor of a QR takes their place.
MIN_PRODUCT_EIGENVALUE = 1e-9
# An entry of a null vector of the columns that is larger makes its coefficient one of many.
MIN_NULL_SHARE = 1e-6


@dataclass(frozen=True)
class Covariance:
    """The covariance of the estimates of a fit, in coordinates in which it keeps its digits; on the host.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    centred : numpy.ndarray, shape (..., d, d)
        The covariance of the coefficients, and of the constant at the centre of the columns, which comes last.
    centre : numpy.ndarray, shape (..., p)
        That centre.
    estimable : numpy.ndarray of bool, shape (..., d)
        Which coefficients, and whether the intercept, the data determine: not those of dependent columns.
    rank : numpy.ndarray of int, shape (...)
        How many parameters the data determine.
    dispersion : numpy.ndarray, shape (...)
        The variance of a row of weight 1, as a multiple of what the loss says: 1 for counts and classes.
    df : numpy.ndarray, shape (...)
        Degrees of freedom of Student's t; infinite where the normal distribution serves.
    sums : tuple of numpy.ndarray
        What the pass added up: rows of positive weight, Pearson's statistic and the deviance come first.
    has_intercept : bool
        Whether the last parameter is the intercept.
    """

    kind: str
    centred: HostArray
    centre: HostArray
    estimable: HostArray
    rank: HostArray
    dispersion: HostArray
    df: HostArray
    sums: Any
    has_intercept: bool

    @property
    def matrix(self) -> HostArray:
        """The covariance in the data's units, shape (..., d, d); NaN where the data do not determine a parameter."""
        matrix = self.centred
        if self.has_intercept:
            jacobian = np.zeros_like(matrix) + np.eye(matrix.shape[-1])
            jacobian[..., -1, :-1] = -self.centre
            matrix = jacobian @ matrix @ np.swapaxes(jacobian, -1, -2)
            matrix = 0.5 * (matrix + np.swapaxes(matrix, -1, -2))
        known = self.estimable[..., :, None] & self.estimable[..., None, :]
        return np.where(known, matrix, np.nan)

    @property
    def std_error(self) -> HostArray:
        """The standard errors, shape (..., d): the coefficients', then the intercept's."""
        return np.sqrt(np.diagonal(self.matrix, axis1=-2, axis2=-1))

    def half_width(self, level: float) -> HostArray:
        """Return how many standard errors an interval of this level extends to either side, shape (...)."""
        return t_quantile(level, self.df)

    def roots(self) -> tuple[HostArray, HostArray]:
        """Return d linear models (..., d, p) and (..., d), whose squares sum to the variance of a prediction."""
        values, vectors = np.linalg.eigh(self.centred)
        root = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
        root = np.swapaxes(root, -1, -2)
        if not self.has_intercept:
            return root, 0.0 * root[..., 0]
        coef = root[..., :-1]
        return coef, root[..., -1] - np.sum(coef * self.centre[..., None, :], axis=-1)


class _Precision(NamedTuple):
    """The relative rounding of the data, and of the sums over them where it is above that of float64."""

    data: float
    sums: float

    @classmethod
    def of(cls, data: BaseData) -> _Precision:
        """Return that of some data."""
        like = data.resident
        xp, wide = backends.namespace(like), accumulator(like)
        sums = 0.0 if wide == xp.float64 else float(xp.finfo(wide).eps)
        return cls(float(xp.finfo(like.dtype).eps), sums)


class _InverseInformation(NamedTuple):
    """The inverse of a matrix of products, centred, and what of it exists."""

    matrix: HostArray
    centre: HostArray
    estimable: HostArray
    rank: HostArray

    def shifted(self, products: HostArray, centre: HostArray, *, has_intercept: bool) -> HostArray:
        """Return products about another centre, about this one's."""
        moved: HostArray = _translated(products, centre - self.centre, has_intercept=has_intercept)
        return moved


def _invert(
    products: HostArray,
    centre: HostArray,
    precision: _Precision,
    *,
    has_intercept: bool,
    factor: Callable[[HostArray, HostArray], HostArray] | None = None,
) -> _InverseInformation:
    """Invert sums of products in centred columns of length 1, and say what dependent columns leave open.

    `factor(centre, scale)` gives R of a QR of the rows, where products of badly conditioned columns lose too much.
    """
    eps = precision.data
    gram, constant = products, None
    if has_intercept:
        constant = products[..., -1, -1]
        mean = products[..., -1, :-1] / constant[..., None]
        centre = centre + mean
        gram = (
            products[..., :-1, :-1]
            - constant[..., None, None] * mean[..., :, None] * mean[..., None, :]
        )
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    # What rounding leaves of a constant column's deviations is no spread.
    total = 0.0 if constant is None else np.abs(constant)[..., None]
    length = np.sqrt(np.where(squares > total * (64.0 * eps * centre) ** 2, np.abs(squares), 0.0))
    unit = np.where(length > 0.0, length, 1.0)
    scaled = gram / (unit[..., :, None] * unit[..., None, :])
    scaled = np.where((length > 0.0)[..., :, None] & (length > 0.0)[..., None, :], scaled, 0.0)
    if not np.isfinite(scaled).all():
        scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    values, vectors = np.linalg.eigh(scaled)
    largest = np.max(np.abs(values), axis=-1, keepdims=True)
    tolerance = max(RANK_TOLERANCE, (64.0 * eps) ** 2, 8.0 * precision.sums) * values.shape[-1]
    if factor is not None and (np.abs(values) < MIN_PRODUCT_EIGENVALUE * largest).any():
        triangle = factor(centre, np.where(length > 0.0, 1.0 / unit, 0.0))
        _, singular, rows = np.linalg.svd(triangle)
        values, vectors = np.zeros(rows.shape[:-1]), np.swapaxes(rows, -1, -2)
        values[..., : singular.shape[-1]] = singular**2
        largest, tolerance = values[..., :1], (64.0 * eps) ** 2
    nonzero = np.abs(values) > tolerance * largest
    inverse = (vectors / np.where(nonzero, values, np.inf)[..., None, :]) @ np.swapaxes(
        vectors, -1, -2
    )
    inverse = inverse / (unit[..., :, None] * unit[..., None, :])
    null = np.where(nonzero[..., None, :], 0.0, vectors)
    open_share = np.sqrt(np.sum(null * null, axis=-1))
    rank = np.sum(nonzero, axis=-1)
    if constant is None:
        return _InverseInformation(inverse, centre, open_share <= MIN_NULL_SHARE, rank)
    pull = centre / unit
    across = np.sqrt(np.sum(np.sum(pull[..., :, None] * null, axis=-2) ** 2, axis=-1))
    size = np.sqrt(np.sum(pull * pull, axis=-1))
    fixed = across <= MIN_NULL_SHARE * np.maximum(size, 1e-300)
    estimable = np.concatenate([open_share <= MIN_NULL_SHARE, fixed[..., None]], axis=-1)
    whole = np.zeros_like(products)
    whole[..., :-1, :-1], whole[..., -1, -1] = inverse, 1.0 / constant
    return _InverseInformation(whole, centre, estimable, rank + 1)


def _check_model(model: LinearModel, kind: str, *, weighted: bool) -> None:
    """Refuse what has no standard error, with the reason."""
    loss = model.loss
    as_choice("kind", kind, KINDS)
    if model.penalty is not None:
        raise ValueError(
            f"penalty {model.penalty!r}: a penalised fit is biased, and its coefficients have no standard errors; "
            f"fit without a penalty, or resample the rows"
        )
    if not loss.smooth:
        raise ValueError(
            f"loss {loss.name!r} is not smooth: the covariance of its fit depends on the density of the residuals "
            f"at its kink, which the rows do not give; resample the rows"
        )
    if loss.outputs is not None:
        raise ValueError(
            f"loss {loss.name!r} has several outputs, whose covariance is not available; of two classes fit "
            f"'log_loss'"
        )
    if kind == "model" and not loss.has_deviance and not loss.residual:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS[1:])} for loss {loss.name!r}, which is no likelihood, got "
            f"'model'"
        )
    if kind == "model" and weighted and not loss.has_deviance:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS[1:])} for loss {loss.name!r} with sample_weight, got 'model'"
        )


def covariance(
    model: LinearModel, data: BaseData, kind: str = "model", groups: Any = None
) -> Covariance:
    r"""Return the covariance of the estimates of a fit that is not penalised.

    ::

        model       dispersion (A' diag(s e) A)⁻¹,                    e = E l''
        HC0         H⁻¹ A' diag(s² l'²) A H⁻¹,                        H = A' diag(s l'') A
        HC1         HC0 n / (n - rank)
        HC2, HC3    HC0 with l'² / (1 - h), l'² / (1 - h)²,           h the leverage of the row
        cluster     H⁻¹ Σ_g u_g u_g' H⁻¹ G/(G-1) (n-1)/(n-rank),      u_g = Σ s l' a over the rows of g

    with A = [X, 1], the weights s, and the derivatives l', l'' of the loss at the fit. The dispersion is 1 for
    classes and counts, and else Pearson's Σ s l'² / e over n - rank; n counts the rows of positive weight. For
    Huber's loss and its kin, "model" is k² Σ l'²/(n - rank) / (mean l'')² (A'A)⁻¹ with Huber's correction k.

    Parameters
    ----------
    model : LinearModel
        The fit.
    data : BaseData
        The rows that were fitted.
    kind : str
        One of `KINDS`.
    groups : array_like, shape (n,), optional
        The cluster of each row, for "cluster": numbers or text.

    Returns
    -------
    Covariance
        The covariance, and what came with it.

    Raises
    ------
    ValueError
        For a penalised fit, a loss that is not smooth, a loss that is no likelihood with "model", and groups that
        do not fit the rows or the kind.

    Notes
    -----
    White (1980), Econometrica 48; MacKinnon and White (1985), Journal of Econometrics 29; Liang and Zeger (1986),
    Biometrika 73; Huber (1981), *Robust Statistics*, section 7.6, for the correction k.
    """
    _check_model(model, kind, weighted=data.weight is not None)
    if (groups is None) is (kind == "cluster"):
        need = "are needed for" if groups is None else "go with"
        raise ValueError(f"groups {need} kind='cluster', got kind={kind!r}")
    if kind == "model":
        return _model_covariance(model, data)
    return _sandwich(model, data, kind, groups)


def _model_covariance(model: LinearModel, data: BaseData) -> Covariance:
    loss, has_intercept = model.loss, model.params.intercept is not None
    name = "expected" if loss.has_deviance else "plain"
    sums = _sum_rows(model, data, _Pass(loss, (name,), has_intercept))
    inverse = _invert_sums(sums, data, loss, has_intercept=has_intercept)
    n, numbers = sums.numbers.rows, sums.numbers
    left = np.where(n > inverse.rank, n - inverse.rank, np.nan)
    if loss.has_deviance:
        dispersion = np.ones_like(n) if loss.fixed_dispersion else numbers.pearson / left
    else:
        mean = numbers.curvatures / n
        spread = numbers.squared_curvatures / n - mean * mean
        correction = 1.0 + inverse.rank / n * spread / mean**2
        dispersion = correction**2 * numbers.squared_slopes / left / mean**2
    df = left if loss.has_deviance and not loss.fixed_dispersion else np.full_like(n, np.inf)
    centred = dispersion[..., None, None] * inverse.matrix
    return Covariance(
        "model", centred, inverse.centre, inverse.estimable, inverse.rank, dispersion, df, numbers, has_intercept
    )  # fmt: skip


def _invert_sums(
    sums: _HostSums, data: BaseData, loss: Loss, *, has_intercept: bool
) -> _InverseInformation:
    """Invert the first products of a pass; those of the squared loss by QR where their condition asks for it."""

    def factor(centre: HostArray, scale: HostArray) -> HostArray:
        like = data.total
        moved = (backends.to_device_of(x, like) for x in (centre, scale))
        total = backends.to_numpy(like).astype(float)
        triangle = backends.to_numpy(triangular_factor(data, *moved)).astype(float)
        return triangle * np.sqrt(total)[..., None, None]

    exact = loss.quadratic and not data.sparse and data.batch_shape == ()
    return _invert(
        sums.products[0], sums.centre, _Precision.of(data), has_intercept=has_intercept,
        factor=factor if exact else None,
    )  # fmt: skip


def _sandwich(model: LinearModel, data: BaseData, kind: str, groups: Any) -> Covariance:
    loss, has_intercept = model.loss, model.params.intercept is not None
    plan = _Pass(loss, ("observed", "scores"), has_intercept)
    if kind == "cluster":
        plan = plan._replace(factors=("observed",))
    if kind in ("HC2", "HC3"):
        plan = plan._replace(factors=("observed", "expected"))
    sums = _sum_rows(model, data, plan)
    bread = _invert_sums(sums, data, loss, has_intercept=has_intercept)
    n, rank = sums.numbers.rows, bread.rank
    left = np.where(n > rank, n - rank, np.nan)
    df, factor = left, np.ones_like(n)
    if kind == "cluster":
        codes, count = _group_codes(groups, data)
        centre, meat = _cluster_products(model, data, codes, count, has_intercept=has_intercept)
        factor = count / (count - 1.0) * (n - 1.0) / left
        df = np.full_like(n, count - 1.0)
    elif kind in ("HC0", "HC1"):
        centre, meat = sums.centre, sums.products[1]
        factor = n / left if kind == "HC1" else factor
    else:
        centre, meat = _corrected_products(model, data, sums, 1 if kind == "HC2" else 2)
    if loss.fixed_dispersion or not loss.has_deviance:
        df = np.full_like(n, np.inf)
    meat = bread.shifted(meat, centre, has_intercept=has_intercept)
    centred = factor[..., None, None] * (bread.matrix @ meat @ bread.matrix)
    dispersion = np.ones_like(n) if loss.fixed_dispersion else sums.numbers.pearson / left
    return Covariance(
        kind, centred, bread.centre, bread.estimable, rank, dispersion, df, sums.numbers, has_intercept
    )  # fmt: skip


def _corrected_products(
    model: LinearModel, data: BaseData, sums: _HostSums, power: int
) -> tuple[HostArray, HostArray]:
    """Return the products of the scores, each divided by a power of 1 - leverage: a second pass."""
    has_intercept = model.params.intercept is not None
    hat = _invert(sums.products[1], sums.centre, _Precision.of(data), has_intercept=has_intercept)
    unit = np.ones_like(sums.numbers.rows)
    roots = Covariance(
        "model", hat.matrix, hat.centre, hat.estimable, hat.rank, unit, unit, sums.numbers, has_intercept
    ).roots()  # fmt: skip
    like = model.params.coef
    moved = tuple(backends.to_device_of(root, like) for root in roots)
    corrected = _sum_rows(model, data, _Pass(model.loss, ("scores",), has_intercept, power), moved)
    return corrected.centre, corrected.products[0]


# ---- Clusters -----------------------------------------------------------------------------------------------


def _group_codes(groups: Any, data: BaseData) -> tuple[HostArray, int]:
    """Return the number of each row's cluster, and how many clusters there are."""
    host = backends.to_numpy(groups) if backends.is_array(groups) else np.asarray(groups)
    rows = data.row_count
    if host.ndim != 1 or (math.isfinite(rows) and len(host) != rows):
        need = f"{rows:.0f}" if math.isfinite(rows) else "n"
        raise ValueError(
            f"groups must have shape ({need},), a cluster for each row, got {host.shape}"
        )
    labels, codes = np.unique(host, return_inverse=True)
    if len(labels) < 2:
        raise ValueError(f"groups must be of two clusters or more, got {len(labels)}")
    return codes, len(labels)


def _cluster_products(
    model: LinearModel, data: BaseData, codes: HostArray, count: int, *, has_intercept: bool
) -> tuple[HostArray, HostArray]:
    """Return a centre, and the sum of the outer products of the clusters' scores about it."""
    coef, intercept = model.params
    constant = 0.0 * coef[..., 0] if intercept is None else intercept
    block = functools.partial(_block_scores, model.loss, coef, constant, has_intercept)
    with backends.device_context(data.X), np.errstate(all="ignore"):
        parts = data.map_with(
            block, codes, MAX_COPIED_BLOCK_BYTES // max(1, math.prod(data.batch_shape))
        )
    centre, _, first, _ = parts[0]
    scores = np.zeros((*first.shape[:-2], count, first.shape[-1]))
    if sum(int(part[3]) for part in parts) != len(codes):
        raise ValueError(f"groups must have a cluster for each row of the data, got {len(codes)}")
    for other, clusters, sums, _ in parts:
        if has_intercept:
            sums[..., :-1] += sums[..., -1:] * (other - centre)[..., None, :]
        scores[..., clusters, :] += sums
    return centre, np.swapaxes(scores, -1, -2) @ scores


def _block_scores(
    loss: Loss,
    coef: Array,
    intercept: Array,
    has_intercept: bool,
    X: Matrix,
    y: Array,
    weight: Array | None,
    codes: HostArray,
) -> tuple[HostArray, HostArray, HostArray, int]:
    """Return a block's centre, its clusters, the sums of their scores [x - centre, 1] l', and its rows; on the host."""
    X, y, s, offset = _rows_and_targets(X, y, weight)
    xp = backends.namespace(y)
    coef, intercept = (xp.astype(x, y.dtype, copy=False) for x in (coef, intercept))
    centre = rough_centre(X, coef, CENTRE_SAMPLE_ROWS, has_intercept=has_intercept)
    slope = loss.gradient(linear_predictor(Params(coef, intercept), X) + offset, y)
    slope = slope * s
    clusters, members = np.unique(codes, return_inverse=True)
    sums = sum_rows_by_member(X, centre, slope, members, has_intercept=has_intercept)
    host_centre, host_sums = (x.astype(float) for x in backends.read_together([centre, sums]))
    return host_centre, clusters, host_sums, len(codes)


# ---- How well the model describes the data ------------------------------------------------------------------


class _FitSums(NamedTuple):
    """What a pass over the predictions and the targets adds up; each an array (...)."""

    total: Any
    rows: Any
    deviance: Any
    squares: Any
    target_squares: Any
    hits: Any


def _fit_block(
    loss: Loss, coef: Array, intercept: Array, X: Matrix, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Return the sums of `_FitSums` over a block, stacked on the last axis, and the sum of the loss's statistic."""
    X, y, s, offset = _rows_and_targets(X, y, weight)
    xp, outputs = backends.namespace(y), loss.outputs is not None
    coef, intercept = (xp.astype(x, y.dtype, copy=False) for x in (coef, intercept))
    z, zero = linear_predictor(Params(coef, intercept), X, outputs=outputs) + offset, 0.0 * y
    excess = loss.value(z, y) - loss.least_value(y) if loss.has_deviance else zero
    correct = zero if loss.classes is None else xp.astype(loss.likeliest_class(z) == y, y.dtype)
    terms = _FitSums(
        total=s,
        rows=xp.astype(s > 0.0, y.dtype),
        deviance=2.0 * s * excess,
        squares=zero if outputs else s * (y - loss.inverse_link(z)) ** 2,
        target_squares=s * y * y,
        hits=s * correct,
    )
    statistic = loss.statistic(y)
    share = xp.sum(s[..., None] * statistic, axis=-2) if outputs else xp.sum(s * statistic, axis=-1)
    return xp.stack([xp.sum(term, axis=-1) for term in terms], axis=-1), share


def _null_block(
    loss: Loss, constant: Array, X: Matrix, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Return the sum of squared errors and the deviance of a model without columns, whose predictor is a constant."""
    y, s, offset = _targets(y, weight)
    xp, zero = backends.namespace(y), 0.0 * y
    constant = xp.astype(constant, y.dtype, copy=False)
    if loss.outputs is not None:
        z = constant[..., None, :] + zero[..., None]
        deviations = zero
    else:
        z = constant[..., None] + zero + offset
        deviations = y - loss.inverse_link(z)
    excess = loss.value(z, y) - loss.least_value(y) if loss.has_deviance else zero
    return xp.sum(s * deviations * deviations, axis=-1), xp.sum(2.0 * s * excess, axis=-1)


def _saturated_block(
    loss: Loss, dispersion: Array, X: Matrix, y: Array, weight: Array | None
) -> Array:
    """Return the sum of the log densities of the saturated model over the rows whose weight is above 0."""
    y, s, _ = _targets(y, weight)
    xp, zero = backends.namespace(y), 0.0 * y
    present = s > 0.0
    precision = (
        xp.where(present, s, zero + 1.0) / xp.astype(dispersion, y.dtype, copy=False)[..., None]
    )
    return xp.sum(xp.where(present, loss.saturated_log_likelihood(y, precision), zero), axis=-1)


def _add_up(data: BaseData, block: Callable[..., Any], *, targets: bool = False) -> list[HostArray]:
    """Return the sums of a function over the row blocks, on the host; of y and the weights alone with `targets`."""
    rows = data.targets_only() if targets else data
    with backends.device_context(data.X), np.errstate(all="ignore"):
        sums = rows.sum(block, MAX_COPIED_BLOCK_BYTES // max(1, math.prod(data.batch_shape)))
        sums = list(sums) if isinstance(sums, tuple) else [sums]
        return [x.astype(float) for x in backends.read_together(sums)]


class _FittedRows(NamedTuple):
    """Sums over the predictions, and those of the best constant model."""

    sums: _FitSums
    null_squares: HostArray
    null_deviance: HostArray


def _describe(model: LinearModel, data: BaseData) -> _FittedRows:
    """Make one pass over the rows, and one over the targets."""
    coef, intercept = model.params
    like = coef[..., 0] if intercept is None else intercept
    constant = 0.0 * like if intercept is None else intercept
    numbers, statistic = _add_up(data, functools.partial(_fit_block, model.loss, coef, constant))
    sums = _FitSums(*np.moveaxis(numbers, -1, 0))
    total = sums.total if model.loss.outputs is None else sums.total[..., None]
    with backends.device_context(data.X), np.errstate(all="ignore"):
        constant = model.loss.link(backends.to_device_of(statistic / total, data.resident))
    if data.has_offset:
        constant = _constant_beside_offsets(model.loss, data, constant)
    block = functools.partial(_null_block, model.loss, constant)
    squares, null = _add_up(data, block, targets=True)
    return _FittedRows(sums, squares, null)


MAX_SCORING_STEPS = 100


def _constant_beside_offsets(loss: Loss, data: BaseData, constant: Array) -> Array:
    """Return the constant of the best model without columns, by Fisher's scoring: a pass over the targets a step."""
    for _ in range(MAX_SCORING_STEPS):
        block = functools.partial(_scoring_block, loss, constant)
        slope, curvature = _add_up(data, block, targets=True)
        with np.errstate(all="ignore"):
            step = np.where(curvature > 0.0, slope / curvature, 0.0)
        constant = constant - backends.to_device_of(step, constant)
        if not (np.abs(step) > 1e-9).any():  # the next one, which is not taken, would be its square
            break
    return constant


def _scoring_block(
    loss: Loss, constant: Array, X: Matrix, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Return the sums of the slopes and of the expected curvatures of a model without columns."""
    y, s, offset = _targets(y, weight)
    xp = backends.namespace(y)
    z = xp.astype(constant, y.dtype, copy=False)[..., None] + 0.0 * y + offset
    curvature = loss.hessian(z, loss.inverse_link(z) if loss.has_deviance else y)
    return xp.sum(s * loss.gradient(z, y), axis=-1), xp.sum(s * curvature, axis=-1)


def score_name(loss: Loss) -> str:
    """Return what `score` measures a fit of this loss by: ``"accuracy"``, ``"d2"`` or ``"r2"``."""
    if loss.classes is not None:
        return "accuracy"
    return "d2" if loss.has_deviance and not loss.quadratic else "r2"


def score(model: LinearModel, data: BaseData) -> HostArray:
    """Return the accuracy of classes, D² of another distribution than the normal, and R² otherwise, shape (...).

    D² is the share of the deviance of the best constant model that the fit explains, R² that of the squares; with
    the weights of the rows. NaN where there is nothing to explain.
    """
    name, fit = score_name(model.loss), _describe(model, data)
    with np.errstate(all="ignore"):
        if name == "accuracy":
            return fit.sums.hits / fit.sums.total
        left, null = fit.sums.squares, fit.null_squares
        if name == "d2":
            left, null = fit.sums.deviance, fit.null_deviance
        return np.where(null > 0.0, 1.0 - left / null, np.nan)


def deviance(model: LinearModel, data: BaseData) -> HostArray:
    """Return twice the log likelihood that a model with a parameter for each row would have more, shape (...).

    Of the squared loss that is the weighted sum of squared residuals.

    Raises
    ------
    AttributeError
        If the loss is no likelihood.
    """
    loss = model.loss
    if not loss.has_deviance:
        raise AttributeError(f"loss {loss.name!r} is no likelihood, and has no deviance")
    return _describe(model, data).sums.deviance


def _log_likelihood(
    model: LinearModel, data: BaseData, fit: _FittedRows, dispersion: HostArray
) -> Any:
    """Return the log likelihood; the normal distribution has the variance at which it is largest, as by least squares."""
    if model.loss.quadratic:
        dispersion = fit.sums.deviance / fit.sums.rows
    moved = backends.to_device_of(dispersion, data.resident)
    block = functools.partial(_saturated_block, model.loss, moved)
    (saturated,) = _add_up(data, block, targets=True)
    return saturated - 0.5 * fit.sums.deviance / dispersion


# ---- Tests and tables ---------------------------------------------------------------------------------------


class WaldTest(NamedTuple):
    """A test that linear combinations of the parameters have given values.

    Attributes
    ----------
    statistic, p_value : float, or numpy.ndarray of shape (...)
        The statistic, and the probability of one as large where the combinations have these values.
    df : int
        How many combinations.
    df_residual : float, or numpy.ndarray of shape (...)
        The second degrees of freedom of F; infinite where the statistic is chi squared.
    distribution : str
        ``"F"`` or ``"chi2"``.
    """

    statistic: Any
    p_value: Any
    df: int
    df_residual: Any
    distribution: str


def wald_test(params: HostArray, estimate: Covariance, R: Any, r: Any = 0.0) -> WaldTest:
    """Test R parameters = r.

    Parameters
    ----------
    params : numpy.ndarray, shape (..., d)
        The coefficients, and the intercept last where there is one.
    estimate : Covariance
        Their covariance.
    R : array_like, shape (d,) or (q, d)
        The combinations.
    r : array_like, shape () or (q,)
        Their values.

    Returns
    -------
    WaldTest
        F with the residual degrees of freedom where the dispersion was estimated, else chi squared.
    """
    R = np.atleast_2d(np.asarray(R, dtype=float))
    d = params.shape[-1]
    if R.ndim != 2 or R.shape[-1] != d:
        raise ValueError(
            f"R must have shape (q, {d}), a column for each coefficient"
            f"{' and the last for the intercept' * estimate.has_intercept}, got {R.shape}"
        )
    q = len(R)
    if np.linalg.matrix_rank(R) < q:
        raise ValueError(
            f"R must have independent rows, got {q} of rank {np.linalg.matrix_rank(R)}"
        )
    gap = params @ R.T - np.broadcast_to(np.asarray(r, dtype=float), (q,))
    matrix, used = estimate.matrix, (R != 0.0).any(axis=0)
    spread = R[:, used] @ matrix[..., used, :][..., used] @ R[:, used].T
    known = np.isfinite(spread).all(axis=(-1, -2))
    spread = np.where(known[..., None, None], spread, np.eye(q))
    statistic = np.sum(gap * np.linalg.solve(spread, gap[..., None])[..., 0], axis=-1)
    statistic = np.where(known, statistic, np.nan)
    if np.isinf(estimate.df).all():
        return WaldTest(statistic[()], chi2_tail(statistic, q)[()], q, estimate.df[()], "chi2")
    statistic = statistic / q
    p_value = f_tail(statistic, q, estimate.df)
    return WaldTest(statistic[()], p_value[()], q, estimate.df[()], "F")


def _cells(values: Sequence[Any], pattern: str) -> list[str]:
    return ["-" if not math.isfinite(x) else format(x, pattern) for x in values]


@dataclass(frozen=True)
class Summary:
    """The table of a fit: its coefficients with their standard errors, and how well it describes the data.

    It prints as text, is HTML in a notebook, and `to_frame` gives the coefficients to pandas.

    Attributes
    ----------
    names : list of str
        The parameters: columns of X, and ``(intercept)`` last.
    coef, std_error, statistic, p_value, lower, upper : numpy.ndarray, shape (d,)
        Estimates, standard errors, t or z (their ratio), two-sided p, and the ends of the confidence intervals.
        NaN for parameters that dependent columns leave open.
    level : float
        The level of the intervals.
    kind : str
        How the covariance was estimated: one of ``agd.inference.KINDS``.
    df : float
        Degrees of freedom of t; infinite for z.
    fit : dict
        ``rows``, ``df_residual``, ``rank``, ``dispersion``, ``r2`` or ``d2``, ``deviance``, ``null_deviance``,
        ``log_likelihood``, ``aic``, ``bic``: what the loss has of these.
    title : str
        The loss, and how the fit ended.
    """

    names: list[str]
    coef: HostArray
    std_error: HostArray
    statistic: HostArray
    p_value: HostArray
    lower: HostArray
    upper: HostArray
    level: float
    kind: str
    df: float
    fit: dict[str, float]
    title: str

    @property
    def distribution(self) -> str:
        """``"t"`` or ``"z"``."""
        return "z" if math.isinf(self.df) else "t"

    def _columns(self) -> dict[str, list[str]]:
        percent = f"{100.0 * self.level:g} %"
        return {
            "": self.names,
            "coef": _cells(self.coef, ".6g"),
            "std error": _cells(self.std_error, ".4g"),
            self.distribution: _cells(self.statistic, ".3f"),
            "p": [
                "<0.001" if p < 0.001 else cell
                for p, cell in zip(self.p_value, _cells(self.p_value, ".3f"), strict=True)
            ],
            f"lower {percent}": _cells(self.lower, ".6g"),
            f"upper {percent}": _cells(self.upper, ".6g"),
        }

    def _lines(self) -> list[tuple[str, str]]:
        label = {"r2": "R²", "d2": "D²", "aic": "AIC", "bic": "BIC"}
        lines = [
            (
                label.get(name, name.replace("_", " ")),
                f"{value:.6g}" if math.isfinite(value) else "-",
            )
            for name, value in self.fit.items()
        ]
        return [*lines, ("covariance", self.kind)]

    def __str__(self) -> str:
        """Give the table as text."""
        columns = self._columns()
        widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths.values(), strict=True))
            )
            for row in rows
        ]
        width = max(len(name) for name, _ in self._lines())
        lines = [f"{name:>{width}}: {text}" for name, text in self._lines()]
        return "\n".join([self.title, "", *table, "", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Give the table as HTML, for a notebook."""
        columns = self._columns()

        def row(cells: Sequence[str], tag: str = "td") -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row(cells) for cells in zip(*columns.values(), strict=True))
        lines = "".join(row(line) for line in self._lines())
        return (
            f"<p>{html.escape(self.title)}</p><table><thead>{row(list(columns), 'th')}</thead><tbody>{body}</tbody>"
            f"</table><table><tbody>{lines}</tbody></table>"
        )

    def to_frame(self) -> Any:
        """Return the coefficients as a pandas DataFrame, indexed by the names of the parameters."""
        import pandas as pd

        columns = ("coef", "std_error", "statistic", "p_value", "lower", "upper")
        return pd.DataFrame({name: getattr(self, name) for name in columns}, index=self.names)


def summarise(
    model: LinearModel,
    data: BaseData,
    estimate: Covariance,
    names: list[str] | None,
    title: str,
    level: float,
) -> Summary:
    """Return the table of one fit.

    Raises
    ------
    ValueError
        For a batch of problems, which has no one table.
    """
    params = host_params(model.params)
    if params.ndim != 1:
        raise ValueError(
            f"a summary is of one problem, and this result has the shape {params.shape[:-1]} of them: use std_error, "
            f"conf_int and cov, which take them together"
        )
    error = estimate.std_error
    names = names or [f"x{i}" for i in range(model.params.coef.shape[-1])]
    with np.errstate(all="ignore"):
        statistic = params / error
        half = estimate.half_width(level) * error
    return Summary(
        names=[*names, *(["(intercept)"] * estimate.has_intercept)],
        coef=params, std_error=error, statistic=statistic, p_value=t_tail(statistic, estimate.df),
        lower=params - half, upper=params + half, level=level, kind=estimate.kind, df=float(estimate.df),
        fit=_fit_numbers(model, data, estimate), title=title,
    )  # fmt: skip


def _fit_numbers(model: LinearModel, data: BaseData, estimate: Covariance) -> dict[str, float]:
    """Return what is said of the fit below the table of its coefficients."""
    loss, fit = model.loss, _describe(model, data)
    sums, rank = fit.sums, float(estimate.rank)
    numbers: dict[str, Any] = {"rows": sums.rows, "rank": rank, "df_residual": sums.rows - rank}
    with np.errstate(all="ignore"):
        if loss.quadratic:
            null = fit.null_squares if estimate.has_intercept else sums.target_squares
            numbers["r2"] = 1.0 - sums.squares / null
        elif loss.has_deviance:
            numbers["d2"] = 1.0 - sums.deviance / fit.null_deviance
        if loss.has_deviance:
            likelihood = _log_likelihood(model, data, fit, estimate.dispersion)
            numbers |= {
                "dispersion": estimate.dispersion,
                "deviance": sums.deviance,
                "null_deviance": fit.null_deviance,
                "pearson": estimate.sums.pearson,
                "log_likelihood": likelihood,
                "aic": 2.0 * rank - 2.0 * likelihood,
                "bic": math.log(float(sums.rows)) * rank - 2.0 * likelihood,
            }
    return {name: float(value) for name, value in numbers.items()}


def host_params(params: Params) -> HostArray:
    """Return the coefficients and the intercept, where there is one, as one array (..., d) on the host."""
    coef = backends.to_numpy(params.coef).astype(float)
    if params.intercept is None:
        return coef
    constant = backends.to_numpy(params.intercept).astype(float)
    return np.concatenate([coef, constant[..., None]], axis=-1)


# ---- Distributions ------------------------------------------------------------------------------------------

MAX_FRACTION_TERMS = 100_000
TINY = 1e-300


def _continued_fraction(term: Callable[[int], tuple[Any, Any]], first: Any) -> Any:
    """Return first + a_1 / (b_1 + a_2 / (b_2 + ...)) by Lentz's method, for term(j) = (a_j, b_j)."""
    value = np.where(first == 0.0, TINY, first)
    c, d = value, np.zeros_like(value)
    for j in range(1, MAX_FRACTION_TERMS):
        a, b = term(j)
        d = b + a * d
        c = b + a / c
        d, c = 1.0 / np.where(d == 0.0, TINY, d), np.where(c == 0.0, TINY, c)
        factor = c * d
        value = value * factor
        if not (np.abs(factor - 1.0) > 1e-16 * 2).any():
            break
    return value


def _log_beta(a: HostArray, b: HostArray) -> HostArray:
    """Return log B(a, b), by Stirling's series where the larger is so large that logarithms of Γ would cancel."""
    small, large = np.minimum(a, b), np.maximum(a, b)
    ratio = np.where(large < 8.0, 0.0, small / large)
    safe = np.maximum(large, 8.0)
    difference = (  # log Γ(large + small) - log Γ(large)
        (safe + small - 0.5) * np.log1p(ratio) + small * (np.log(safe) - 1.0)
        + stirling_correction(safe + small) - stirling_correction(safe)
    )  # fmt: skip
    direct: Any = log_gamma(large + small) - log_gamma(large)
    result: HostArray = log_gamma(small) - np.where(large < 8.0, direct, difference)
    return result


def beta_share(x: Any, complement: Any, a: Any, b: Any) -> HostArray:
    """Return the regularised incomplete beta function I_x(a, b), with 1 - x given beside x so that neither cancels.

    Notes
    -----
    Press et al. (2007), *Numerical Recipes*, section 6.4: a continued fraction, of x or of 1 - x.

    Examples
    --------
    >>> float(beta_share(0.25, 0.75, 1.0, 1.0).round(12))
    0.25
    """
    x, complement, a, b = (
        np.asarray(v, dtype=float) for v in np.broadcast_arrays(x, complement, a, b)
    )
    with np.errstate(all="ignore"):
        flip = x > (a + 1.0) / (a + b + 2.0)
        x, complement = np.where(flip, complement, x), np.where(flip, x, complement)
        a, b = np.where(flip, b, a), np.where(flip, a, b)

        def term(j: int) -> tuple[Any, Any]:
            if j == 1:
                return np.ones_like(x), np.ones_like(x)
            m, odd = divmod(j - 1, 2)
            if odd:
                return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)), np.ones_like(
                    x
                )
            return m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)), np.ones_like(x)

        log_x = np.where(x > 0.5, np.log1p(-complement), np.log(x))
        log_rest = np.where(complement > 0.5, np.log1p(-x), np.log(complement))
        front = np.exp(a * log_x + b * log_rest - _log_beta(a, b)) / a
        value = np.where(x > 0.0, front * _continued_fraction(term, np.zeros_like(x)), 0.0)
    result: HostArray = np.where(np.isnan(x), np.nan, np.where(flip, 1.0 - value, value))
    return result


def t_tail(t: Any, df: Any) -> HostArray:
    """Return the probability that Student's t is farther from 0 than this, to either side; df may be infinite.

    Examples
    --------
    >>> t_tail([0.0, 2.0], 10.0).round(6)
    array([1.      , 0.073388])
    """
    t, df = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(df, dtype=float))
    normal = np.vectorize(math.erfc, otypes=[float])(np.abs(t) / math.sqrt(2.0))
    finite = np.isfinite(df)
    nu = np.where(finite, df, 1.0)
    with np.errstate(all="ignore"):
        ratio = t * t / nu
        share = beta_share(1.0 / (1.0 + ratio), ratio / (1.0 + ratio), 0.5 * nu, 0.5)
    share = np.where(np.isinf(t), 0.0, share)
    result: HostArray = np.where(np.isnan(df), np.nan, np.where(finite, share, normal))
    return result


def t_quantile(level: float, df: Any) -> HostArray:
    """Return the t that `t_tail` leaves 1 - level of, by Newton's method from the normal distribution's.

    Examples
    --------
    >>> t_quantile(0.95, [10.0, np.inf]).round(6)
    array([2.228139, 1.959964])
    """
    df = np.asarray(df, dtype=float)
    known, places = np.unique(np.where(np.isnan(df), np.inf, df), return_inverse=True)
    outside = 1.0 - level
    normal = -NormalDist().inv_cdf(0.5 * outside)
    finite = np.isfinite(known)
    nu = np.where(finite, known, 1.0)
    t = np.full(known.shape, normal)
    for _ in range(200):
        # The tail is convex in log t: steps in the logarithms of both come from below, and are few.
        tail = t_tail(t, nu)
        density = np.exp(
            -0.5 * (nu + 1.0) * np.log1p(t * t / nu) - _log_beta(0.5 * nu, np.full_like(nu, 0.5))
        )
        slope = -2.0 * density / np.sqrt(nu) * t / tail
        step = np.where(finite, (math.log(outside) - np.log(tail)) / slope, 0.0)
        t = t * np.exp(step)
        if not (np.abs(step) > 1e-14).any():
            break
    result: HostArray = np.where(np.isnan(df), np.nan, t[places].reshape(df.shape))
    return result


def f_tail(f: Any, df: Any, df_residual: Any) -> HostArray:
    """Return the probability that an F statistic is larger.

    Examples
    --------
    >>> float(f_tail(4.0, 1.0, 10.0).round(6))  # that of t = 2
    0.073388
    """
    f, df, nu = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (f, df, df_residual)))
    with np.errstate(all="ignore"):
        ratio = df * f / nu
        return beta_share(1.0 / (1.0 + ratio), ratio / (1.0 + ratio), 0.5 * nu, 0.5 * df)


def chi2_tail(x: Any, df: Any) -> HostArray:
    """Return the probability that a chi squared statistic is larger: by its series, or by a continued fraction.

    Examples
    --------
    >>> chi2_tail([0.0, 2.0], 2.0).round(6)  # exp(-x / 2)
    array([1.      , 0.367879])
    """
    x, df = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(df, dtype=float))
    a, u = 0.5 * df, 0.5 * x
    with np.errstate(all="ignore"):
        front = np.exp(a * np.log(u) - u - log_gamma(a))

        def term(j: int) -> tuple[Any, Any]:
            if j == 1:
                return np.ones_like(u), u + 1.0 - a
            return -(j - 1.0) * (j - 1.0 - a), u + 2.0 * j - 1.0 - a

        upper = front * _continued_fraction(term, np.zeros_like(u))
        total = power = 1.0 / a
        for j in range(1, MAX_FRACTION_TERMS):
            power = power * u / (a + j)
            total = total + power
            if not (power > 1e-17 * total).any() or (u > 1e8).any():
                break
        lower = 1.0 - front * total
    result: HostArray = np.where(
        np.isnan(x), np.nan, np.where(u < a + 1.0, np.where(u > 0.0, lower, 1.0), upper)
    )
    return result
