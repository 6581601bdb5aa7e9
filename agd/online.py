"""Door: a linear model of rows that come in batches and are not kept.

Each batch is fitted together with a second-order summary of the rows before it (`agd.gradient.recursive`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._tree import as_scalar, tree_subtract, tree_where
from agd._typing import Array, Data, Loss, Params, Penalty
from agd._validation import (
    as_flag,
    check_columns,
    warn_dependent,
    warn_unconverged,
)
from agd.data import as_data
from agd.data.base import BaseData
from agd.data.checks import as_offset, as_shares
from agd.data.matrix import max_abs_columns
from agd.data.screening import Screened, screen
from agd.gradient.column_stats import column_scaling, default_gradient_tolerance
from agd.gradient.conditioning import whiten_by_moments
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.gradient.preconditioner import Preconditioned, Scaling
from agd.gradient.recursive import OnlineObjective, QuadraticSummary
from agd.loss import Squared, get
from agd.loss.base import OffsetLoss, pair_offset, split_offset
from agd.loss.penalties import as_target_penalty
from agd.run.diagnosis import (
    check_range,
    explain_failed_search,
    rank_deficiency,
    warns_of_status,
    without_minimum,
)
from agd.run.loop import run
from agd.run.result import FitResult, Status, as_fit_result
from agd.run.stopping import Stop
from agd.update.directions import lbfgs
from agd.update.proximal import FISTA

__all__ = [
    "Online",
    "check_moments_finite",
    "column_units",
    "dependence_warning",
    "failed_at_start",
    "label_values",
    "to_data_units",
]


def failed_at_start(result: Any) -> bool:
    """Return whether a run was not finite at its first point."""
    failed = (np.asarray(result.status) == Status.NON_FINITE) & (np.asarray(result.nit) == 0)
    return bool(failed.any())


def check_moments_finite(columns: Moments) -> None:
    """Refuse rows whose moments overflow: no coordinates are left to descend in."""
    if not bool(backends.to_numpy(columns.finite)):
        kind = backends.dtype_name(columns.G.dtype)
        raise ValueError(
            f"X and y must be of a size whose squares can be summed in {kind}: divide the columns of X, or "
            f"y, by a constant"
        )


def label_values(classes: Any, loss: Loss) -> tuple[float, ...] | None:
    """Check the labels that were given, if any."""
    if classes is None:
        return None
    if loss.classes is None:
        raise ValueError(f"classes must be None for loss {loss.name!r}, which has none")
    try:
        low, high = (float(label) for label in classes)
    except (TypeError, ValueError):
        raise ValueError(f"classes must be two numbers, got {classes!r}") from None
    if not low < high:
        raise ValueError(f"classes must be two numbers, the lower first, got {classes!r}")
    return low, high


def column_units(X: Array) -> Array | None:
    """Return what to divide the columns by, shape (..., p), so that none is lost in its square; None for 1.

    These are powers of two, for columns of the first batch whose squares would lose digits, or all.
    """
    xp = backends.namespace(X)
    kind, peaks = xp.finfo(X.dtype), backends.to_numpy(max_abs_columns(X))
    small = (peaks > 0.0) & (peaks < (float(kind.smallest_normal) / float(kind.eps)) ** 0.5)
    if not small.any():
        return None
    powers = np.exp2(np.floor(np.log2(np.where(small, peaks, 1.0))))
    return backends.to_device_of(powers, X)


def column_shift(X: Array) -> Array:
    """Return what to subtract from the columns, shape (..., p): the mean of those far from 0, and 0 of others.

    Predictors of columns whose mean is far above their spread are small differences of large terms, in which a
    line search finds no lower point.
    """
    xp = backends.namespace(X)
    mean = xp.mean(X, axis=-2)
    deviations = X - mean[..., None, :]
    spread = xp.sqrt(xp.mean(deviations * deviations, axis=-2))
    return xp.where(xp.abs(mean) > MAX_MEAN_OVER_SPREAD * spread, mean, xp.zeros_like(mean))


def to_data_units(result: FitResult, unit: Array | None, shift: Array | None) -> FitResult:
    """Return a result of columns that were divided by their units, and then shifted, as one of the columns."""
    if unit is None and shift is None:
        return result
    ones = backends.namespace(result.coef).ones_like(result.coef)
    unit = ones if unit is None else ones * unit
    mean = 0.0 * ones if shift is None else shift * unit
    scaling = Scaling(mean, 1.0 / unit, ones[..., 0], ones[..., 0], 0.0 * ones[..., 0])
    x = scaling.to_original(result.x)
    jac = scaling.restore_gradient(result.jac)
    return replace(result, coef=x.coef, intercept=x.intercept, x=x, jac=jac)


def dependence_warning(columns: Moments, shift: Array | None, *, intercept: bool) -> str:
    """Return what to warn of where the columns are dependent, as far as their moments tell; else nothing.

    Parameters
    ----------
    columns : Moments
        Those of all rows so far.
    shift : array, shape (..., p), or None
        What was subtracted from the columns.
    intercept : bool
        Whether the model has a constant term.
    """
    second, _ = columns.quadratic(intercept=intercept)
    xp, p = backends.namespace(second), second.shape[-1]
    mean = columns.mean if shift is None else columns.mean + xp.astype(shift, columns.mean.dtype)
    eps, mean = float(xp.finfo(second.dtype).eps), xp.abs(mean)
    spread = xp.sqrt(backends.clip(xp.linalg.diagonal(second), low=0.0))
    still = spread <= (64.0 * eps * mean if intercept else 0.0 * mean)
    D = xp.where(still, xp.zeros_like(spread), 1.0 / xp.where(still, xp.ones_like(spread), spread))
    eye = xp.eye(p, dtype=D.dtype, device=backends.device(D))
    C = second * D[..., :, None] * D[..., None, :]
    e = xp.linalg.eigvalsh(C + eye * xp.astype(still, D.dtype)[..., None, :])
    reach = xp.max(mean * D, axis=-1, keepdims=True) if intercept else 0.0 * e[..., :1]
    noise = (p + 10) * eps * xp.where(reach > 1.0, reach, xp.ones_like(reach))
    small = e <= noise * e[..., -1:]
    counts = [xp.sum(xp.astype(part, e.dtype), axis=-1) for part in (small, still)]
    # What is left of the digits after the sums of squares, whose condition is the square of the columns'.
    digits = -xp.log10(eps * e[..., -1] / xp.where(e[..., 0] > 0.0, e[..., 0], eps * e[..., -1]))
    missing = int(np.max(backends.to_numpy(counts[0] + counts[1])))
    if missing == 0:
        left = float(np.min(backends.to_numpy(digits)))
        if left >= MIN_DIGITS * -math.log10(eps):
            return ""
        return (
            f"the columns of X in the rows so far are nearly dependent: their sums of squares, which Online keeps, "
            f"leave {max(left, 0.0):.0f} digits of the coefficients or so: use agd.fit on all rows, drop columns, "
            f"or add a penalty such as agd.loss.L2(1e-3)"
        )
    n = p + intercept
    return rank_deficiency(f"{n - missing} of {n}", intercept=intercept, rows=" in the rows so far")


MEMORY = 10  # pairs of L-BFGS
# With less than this share of the dtype's digits left in the coefficients a warning says how many.
MIN_DIGITS = 0.5
MAX_MEAN_OVER_SPREAD = 16.0  # of a column; above it the columns are shifted
# The newest rows are kept as they are while they are so few: their loss needs no expansion.
MAX_RECENT_ROWS = 2048
# Rows without a minimum, as of one class, are kept as they are up to so many entries: there is no point to expand at.
MAX_PENDING_ENTRIES = 2**22
SEPARATED_PREDICTOR = 4.0  # predictor beyond which the loss of a class is all but flat


def refine_squares(result: Any, objective: Preconditioned, whitening: Any) -> Any:
    """Return a result of least squares after a further Newton step, if that leaves a smaller gradient.

    In whitened coordinates the Hessian is the identity. A tolerance there leaves few digits in coefficients that
    are small beside others, each in units of its column.
    """
    params = whitening.to_preconditioned(result.x)
    _, grad = objective.value_and_grad(params)
    further = tree_subtract(params, grad)
    value, further_grad = objective.value_and_grad(further)
    norms = [objective.grad_norm(g, at) for g, at in ((grad, params), (further_grad, further))]
    smaller = norms[1] < norms[0]
    x, jac = objective.report(further, further_grad)
    x, jac = tree_where(smaller, (x, jac), (result.x, result.jac))
    fun = np.where(backends.to_numpy(smaller), backends.to_numpy(value), result.fun)
    return replace(result, x=x, jac=jac, fun=as_scalar(fun))


ENDLESS = "no minimum exists"  # what a result says of coefficients that grow without bound


def join_rows(first: BaseData, second: BaseData) -> BaseData:
    """Return the rows of both, in memory; where one has weights the other's are 1, and offsets 0."""
    xp = backends.namespace(first.y)
    weights = None
    if first.weight is not None or second.weight is not None:
        zeros = [xp.zeros_like(split_offset(d.y)[0]) for d in (first, second)]
        parts = zip(zeros, (first, second), strict=True)
        sized = [zero + (1.0 if d.weight is None else d.weight) for zero, d in parts]
        weights = xp.concat(sized, axis=-1)
    if first.has_offset or second.has_offset:
        first, second = with_offset(first), with_offset(second)
    X, y = xp.concat([first.X, second.X], axis=-2), xp.concat([first.y, second.y], axis=-1)
    return BaseData.of(X, y, weights)


def with_offset(data: BaseData) -> BaseData:
    """Return rows with offsets: their own, or 0."""
    if data.has_offset:
        return data
    return data.replace(y=pair_offset(data.y, backends.namespace(data.y).zeros_like(data.y)))


def split_rows(rows: BaseData, count: int) -> tuple[BaseData, BaseData | None]:
    """Return the first `count` rows, and the rest, if there are any."""
    if count == int(rows.X.shape[-2]):
        return rows, None

    def part(where: slice) -> BaseData:
        weight = None if rows.weight is None else rows.weight[..., where]
        return BaseData.of(rows.X[..., where, :], rows.y[..., where], weight)

    return part(slice(None, count)), part(slice(count, None))


class Online:
    r"""A linear model for rows that come in batches and go: mean loss plus penalty over all of them so far.

    After each batch it minimises ::

        ( Σ_{rows here} s_i l(x_i · w + b, y_i) + Q(w, b) ) / m + penalty(w)

    where Q is the loss of the rows before, to second order about the model that they left, and m the
    weight of all. For the squared loss Q is exact: the model is that of `agd.fit` on all rows at once,
    in whatever order they came (recursive least squares). For other losses the newest 2,048 rows are kept as
    they are, so that a model of no more is that of `agd.fit`; beyond them it is a fit's but for the third
    derivatives of the loss, which matter little where batches are of many rows, the classes mixed among them.
    While the rows so far have no minimum, as of one class or of counts that are all 0, up to 4,194,304 entries
    are kept as they are until others come, and the result says so. Of more, rows whose classes a plane
    separates are remembered as if their predictors were within ±4.

    Parameters
    ----------
    loss : str or Loss
        As for `agd.fit`.
    penalty : Penalty, optional
        As for `agd.fit`.
    intercept : bool
        Whether the model has a constant term.
    classes : tuple of two numbers, optional
        For a loss of two classes, their labels: the first and the second. By default those of the first
        batch, which then has to have both.

    Attributes
    ----------
    result : FitResult or None
        What came of the last batch: coefficients, status, certificate; None before the first.

    Notes
    -----
    It keeps a few p x p arrays and a bounded number of rows; of the squared loss, and of sparse rows, none. From these columns are told to be
    dependent where rounding leaves nothing of their difference: of a condition number above about 1e7. Spall (2003), *Introduction to
    Stochastic Search and Optimization*, section 3.2, has the recursion for squares.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> model = agd.Online(loss="log_loss", penalty=agd.loss.L2(0.1), classes=(0, 1))
    >>> model.partial_fit([[0.0], [1.0], [2.0]], [0, 0, 1]).predict(np.asarray([[-3.0], [9.0]]))
    array([0., 1.])
    """

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        *,
        penalty: Penalty | None = None,
        intercept: bool = True,
        classes: tuple[float, float] | None = None,
    ) -> None:
        self.loss, self.penalty = get(loss), as_target_penalty(penalty, "Online")
        self.has_intercept = as_flag("intercept", intercept)
        if not self.loss.smooth:
            raise ValueError(
                f"loss must be smooth for Online, which keeps second derivatives of the rows before, got "
                f"{self.loss.name!r}: use agd.fit"
            )
        if self.loss.estimates_scale:
            raise ValueError(f"delta must be a number for Online, got {self.loss!r}: use agd.fit")
        if self.loss.outputs is not None:
            raise ValueError(
                f"loss must have one output for Online, got {self.loss.name!r}: use agd.fit"
            )
        self.classes = label_values(classes, self.loss)
        self.result: FitResult | None = None
        self._past: QuadraticSummary | None = None
        self._recent: BaseData | None = None
        self._min_weight = math.inf
        self._columns: Moments | None = None
        self._slopes: Array | None = None
        self._units: Array | None = None
        self._shift: Array | None = None
        self._at: Params | None = None
        self._rows = 0

    def __repr__(self) -> str:
        """Give the loss, the penalty, and how much was seen."""
        totals = [part.total for part in (self._past, self._recent) if part is not None]
        weight_sum = sum(float(np.max(backends.to_numpy(total))) for total in totals)
        return f"Online(loss={self.loss!r}, penalty={self.penalty!r}, rows of weight {weight_sum:g} seen)"

    @property
    def coef(self) -> Any:
        """The coefficients, shape (p,) or (..., p)."""
        return self._current_result().coef

    @property
    def intercept(self) -> Any:
        """The constant term, shape () or (...); None if the model has none."""
        return self._current_result().intercept

    def predict(self, X: Any, *, offset: Any = None, exposure: Any = None) -> Any:
        """Return predictions for rows X (..., n, p), as `FitResult.predict`."""
        return self._current_result().predict(X, offset=offset, exposure=exposure)

    def predict_proba(self, X: Any, *, offset: Any = None) -> Any:
        """Return the two classes' probabilities, as `FitResult.predict_proba`."""
        return self._current_result().predict_proba(X, offset=offset)

    def _current_result(self) -> FitResult:
        if self.result is None:
            raise AttributeError("the model has seen no rows yet: call partial_fit(X, y) first")
        return self.result

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None, exposure: Any = None
    ) -> Online:
        """Bring the model up to date with a batch of rows.

        Parameters
        ----------
        X : array, shape (n, p) or (..., n, p)
            Rows, in memory, with the columns, the library and the dtype of those before.
        y : array, shape (n,), (..., n) or (n, k)
            Their targets.
        sample_weight : array, shape (n,), optional
            A weight of 0 or more for each row.
        offset, exposure : array, shape (n,), optional
            As of `agd.fit`; a batch without has offsets of 0.

        Returns
        -------
        Online
            The model itself.

        Raises
        ------
        ValueError, TypeError
            As `agd.fit`, for columns that are not those of the rows before, and where sums of squares
            overflow. The model stays as it was.

        Warns
        -----
        ConvergenceWarning
            If descent on this batch ended before it converged.
        numpy.exceptions.RankWarning
            If the columns of all rows so far, once these are more than the columns, are linearly dependent,
            and no penalty decides between the answers.
        """
        feature_names = None if self.result is None else self.result.feature_names
        check_columns(X, feature_names)
        y, sample_weight = as_shares(self.loss, X, y, sample_weight)
        data = as_data(X, y, sample_weight, offset=as_offset(self.loss, offset, exposure))
        if data.has_offset and self.loss.residual:
            data = data.subtract_offset()
        if data.lazy:
            raise TypeError(
                "X must be in memory: agd.fit takes data in chunks or batches as a whole"
            )
        self._check_same_columns(data)
        with backends.device_context(data.X), np.errstate(all="ignore"):
            # With a penalty, which is of the coefficients as they are, all units stay.
            first = self.result is None and self.penalty is None
            unit = column_units(data.X) if first and not data.sparse else self._units
            if unit is not None:
                data = data.replace(X=data.X / unit[..., None, :])
            shift = self._shift
            if self.result is None and self.has_intercept and not data.sparse:
                shift = column_shift(data.X)
            if shift is not None:
                data = data.replace(X=data.X - shift[..., None, :])
            result, recent, moments, slopes = self._update_model(self._screen_batch(data))
            past, kept = self._remember(recent, result)
            names = feature_names or backends.column_names(X)
            result = replace(result, feature_names=names, targets=data.targets)
            self._at, self.result, self._units = result.x, to_data_units(result, unit, shift), unit
            self._shift = shift
            self._past, self._recent = past, kept
            self._columns, self._slopes = moments, slopes
            self.classes = result.classes
            self._rows += int(data.X.shape[-2])
            open_ = self.penalty is None and self._rows > data.X.shape[-1]
            intercept = self.has_intercept
            message = dependence_warning(moments, shift, intercept=intercept) if open_ else ""
        if warns_of_status(result):
            warn_unconverged(result.message)
        if message:
            warn_dependent(message)
        return self

    def _check_same_columns(self, data: Data) -> None:
        if self.result is None:
            return
        coef = self.result.coef
        mine = (backends.of(coef).name, str(coef.dtype), tuple(coef.shape))
        shape = (*tuple(data.y.shape)[:-1], int(data.X.shape[-1]))
        kinds = (backends.of(data.X).name, str(data.X.dtype), shape)
        for name, got, need in zip(
            ("library", "dtype", "targets and columns"), kinds, mine, strict=True
        ):
            if got != need:
                raise ValueError(f"X must have the {name} of the rows before, {need}, got {got}")

    def _screen_batch(self, data: Data) -> Screened:
        """Check the values, and write the labels of two classes as 0 and 1."""
        blocks = BaseData.of(*data)
        if self.classes is None:
            return screen(blocks, self.loss)
        screened = screen(blocks, Squared())
        low, high = self.classes
        y = split_offset(data.y)[0]
        third = backends.to_numpy(y)[backends.to_numpy((y != low) & (y != high))]
        if third.size:
            raise ValueError(
                f"y must have the classes {low!r} and {high!r}, got {float(third.flat[0])!r} among "
                f"{third.size} others"
            )
        return Screened(
            screened.blocks.encode_labels(self.classes),
            self.classes,
            screened.min_weight_share,
            screened.n_sync + 1,
        )

    def _update_model(self, screened: Screened) -> tuple[FitResult, BaseData, Moments, Array]:
        """Descend on the batch and the past; return the model, the rows that are here, and their statistics."""
        batch_objective = self._objective_of(screened.blocks)
        columns = Moments.from_blocks(screened.blocks)
        columns = columns if self._columns is None else self._columns + columns
        check_moments_finite(columns)
        screened = screened._replace(n_sync=screened.n_sync + 1)
        rows = screened.blocks if self._recent is None else join_rows(self._recent, screened.blocks)
        objective = self._objective_of(rows)
        scaling, slopes = self._online_scaling(batch_objective, objective, columns)
        objective = replace(objective, convergence_norm=scaling)
        if self.result is not None:
            objective = OnlineObjective.of(objective, self._past)
        zero = objective.zeros()
        null = Params(
            zero.coef, None if zero.intercept is None else zero.intercept + scaling.null_model
        )
        start = null if self._at is None else self._at
        result, preconditioned = self._minimise_batch(objective, columns, scaling, start)
        if self._at is not None and failed_at_start(result):
            # The model before may be such that the loss of these rows overflows.
            result, preconditioned = self._minimise_batch(objective, columns, scaling, null)
        result = as_fit_result(result, screened, self.loss)
        if failed_at_start(result):
            check_range(result, preconditioned, given=False)
            raise ValueError(
                "the loss is not finite at the best constant model: divide y by a constant"
            )
        return self._explain(result, screened, columns), rows, columns, slopes

    def _objective_of(self, blocks: BaseData) -> LinearObjective:
        """Return the objective of these rows; where they have offsets, these are the loss's."""
        loss = OffsetLoss(self.loss) if blocks.has_offset else self.loss
        return LinearObjective(blocks, loss, self.penalty, self.has_intercept)

    def _explain(self, result: FitResult, screened: Screened, columns: Moments) -> FitResult:
        """Say of a model that has no minimum why, and of a failed search that the gradient is not to blame."""
        result = explain_failed_search(result)
        total = float(np.max(backends.to_numpy(screened.blocks.total)))
        self._min_weight = min(self._min_weight, screened.min_weight_share * total)
        if not self.loss.has_recession_direction:
            return result
        mean = backends.to_numpy(self.loss.link(columns.mean_y))
        if not np.isfinite(mean).all():
            reason = "the best constant model of the rows so far is infinite, as of one class or of counts 0"
        elif self.loss.classes is not None and self._is_separated(result, columns):
            reason = "the classes are perfectly separated"
        else:
            return result
        if self.penalty is not None:
            return result
        words = (
            f"{reason}, so the coefficients grow without bound and no minimum exists: add a penalty, such as "
            f"penalty=agd.loss.L2(1e-3), or more rows"
        )
        return without_minimum(
            result, where=np.ones(np.shape(result.status), dtype=bool), words=words
        )

    def _is_separated(self, result: FitResult, columns: Moments) -> bool:
        """Return whether no row is on the wrong side: one would cost at least log 2."""
        total = float(np.max(backends.to_numpy(columns.total)))
        return bool(np.any(result.fun < math.log(2.0) * self._min_weight / total))

    def _remember(
        self, rows: BaseData, result: FitResult
    ) -> tuple[QuadraticSummary | None, BaseData | None]:
        """Return the summary of the past with the rows that are too many to keep, and those that are kept."""
        n = int(rows.X.shape[-2])
        keep = 0 if self.loss.quadratic or rows.sparse else MAX_RECENT_ROWS
        endless = ENDLESS in result.message
        if keep and endless and math.prod(rows.X.shape) <= MAX_PENDING_ENTRIES:
            keep = n
        if n <= keep:
            return self._past, rows
        old, kept = split_rows(rows, n - keep)
        objective = self._objective_of(old)
        flat = endless and self.loss.classes is not None
        # Where nothing holds the model, all losses have gone flat.
        summary = QuadraticSummary.of(objective, result.x, SEPARATED_PREDICTOR if flat else None)
        return (summary if self._past is None else self._past + summary), kept

    def _online_scaling(
        self, batch_objective: LinearObjective, objective: LinearObjective, columns: Moments
    ) -> tuple[Scaling, Array]:
        """Return the coordinates, and the sum of squared slopes that give the size of a gradient.

        They are those at the best constant of all rows, or with offsets of those that are kept: at their own, the
        slopes of few rows may be 0.
        """
        loss, blocks = batch_objective.loss, batch_objective.blocks
        offsets = objective.loss.has_offset
        scaling = column_scaling(objective if offsets else batch_objective, columns)
        xp = backends.namespace(scaling.null_model)
        if self.has_intercept and not offsets:
            z = loss.link(xp.astype(columns.mean_y, scaling.null_model.dtype))
            scaling = scaling._replace(null_model=xp.where(xp.isfinite(z), z, scaling.null_model))
        zero = xp.zeros_like(split_offset(blocks.y)[0])
        slope = loss.gradient(zero + scaling.null_model[..., None], blocks.y)
        square = slope * slope if blocks.weight is None else slope * slope * blocks.weight
        slopes = xp.sum(square, axis=-1)
        slopes = slopes if self._slopes is None else self._slopes + slopes
        rms = xp.sqrt(slopes / xp.astype(columns.total, slopes.dtype))
        unit = xp.maximum(scaling.gradient_scale, rms * scaling.intercept_scale)
        return scaling._replace(gradient_scale=unit), slopes

    def _minimise_batch(
        self, objective: LinearObjective, columns: Moments, scaling: Scaling, start: Params
    ) -> tuple[Any, Preconditioned]:
        """Choose the method and its coordinates, and run."""
        method: Any = FISTA() if objective.nonsmooth else lbfgs(MEMORY, whitened=True)
        coordinates: Any = scaling
        if not objective.nonsmooth:
            coordinates = whiten_by_moments(objective, columns, scaling).cast(scaling.mean)
        start = objective.prox(start, 0.0)
        preconditioned, x0 = (
            Preconditioned(objective, coordinates),
            coordinates.to_preconditioned(start),
        )
        tol = default_gradient_tolerance(x0.coef)
        result = run(method, preconditioned, x0, Stop(), grad_tol=tol, check_every=1)
        if not objective.nonsmooth and self.loss.quadratic:
            result = refine_squares(result, preconditioned, coordinates)
        return result, preconditioned
