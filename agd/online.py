"""What an online model asks of its batches: labels, sums that are finite, the units and the rank of columns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Data, Loss, Params, Penalty
from agd._validation import (
    as_flag,
    check_columns,
    warn_dependent,
    warn_unconverged,
)
from agd.data import as_data
from agd.data.base import BaseData
from agd.data.matrix import max_abs_columns
from agd.data.screening import Screened, screen
from agd.gradient.column_stats import column_scaling, default_gradient_tolerance
from agd.gradient.conditioning import whiten_by_moments
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.gradient.preconditioner import Preconditioned, Scaling
from agd.gradient.recursive import OnlineObjective, QuadraticSummary
from agd.loss import Squared, get
from agd.loss.penalties import as_target_penalty
from agd.run.diagnosis import check_range, rank_deficiency, warns_of_status
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


def to_data_units(result: FitResult, unit: Array | None) -> FitResult:
    """Return a result of columns that were divided by their units, as one of the columns."""
    if unit is None:
        return result
    coef = result.coef / unit
    x, jac = Params(coef, result.intercept), Params(result.jac.coef * unit, result.jac.intercept)
    return replace(result, coef=coef, x=x, jac=jac)


def dependence_warning(columns: Moments, *, intercept: bool) -> str:
    """Return what to warn of where the columns are dependent, as far as their moments tell; else nothing.

    Parameters
    ----------
    columns : Moments
        Those of all rows so far.
    intercept : bool
        Whether the model has a constant term.
    """
    second, _ = columns.quadratic(intercept=intercept)
    xp, p = backends.namespace(second), second.shape[-1]
    eps, mean = float(xp.finfo(second.dtype).eps), xp.abs(columns.mean)
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
    missing = int(np.max(backends.to_numpy(counts[0] + counts[1])))
    if missing == 0:
        return ""
    n = p + intercept
    return rank_deficiency(f"{n - missing} of {n}", intercept=intercept, rows=" in the rows so far")


MEMORY = 10  # pairs of L-BFGS
SEPARATED_PREDICTOR = 4.0  # predictor beyond which the loss of a class is all but flat


class Online:
    r"""A linear model for rows that come in batches and go: mean loss plus penalty over all of them so far.

    After each batch it minimises ::

        ( Σ_{rows here} s_i l(x_i · w + b, y_i) + Q(w, b) ) / m + penalty(w)

    where Q is the loss of the rows before, to second order about the model that they left, and m the
    weight of all. For the squared loss Q is exact: the model is that of `agd.fit` on all rows at once,
    in whatever order they came (recursive least squares). For other losses it is a fit's but for the
    third derivatives of the loss, which matter little where batches are of many rows, the classes mixed
    among them. Rows whose classes a plane separates, as of a batch of one class, are remembered as if
    their predictors were within ±4.

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
    It keeps a few p x p arrays, and nothing that grows with the rows. From these columns are told to be
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
        if self.loss.outputs is not None:
            raise ValueError(
                f"loss must have one output for Online, got {self.loss.name!r}: use agd.fit"
            )
        self.classes = label_values(classes, self.loss)
        self.result: FitResult | None = None
        self._past: QuadraticSummary | None = None
        self._columns: Moments | None = None
        self._slopes: Array | None = None
        self._units: Array | None = None
        self._at: Params | None = None
        self._rows = 0

    def __repr__(self) -> str:
        """Give the loss, the penalty, and how much was seen."""
        weight_sum = (
            0.0 if self._past is None else float(np.max(backends.to_numpy(self._past.total)))
        )
        return f"Online(loss={self.loss!r}, penalty={self.penalty!r}, rows of weight {weight_sum:g} seen)"

    @property
    def coef(self) -> Any:
        """The coefficients, shape (p,) or (..., p)."""
        return self._current_result().coef

    @property
    def intercept(self) -> Any:
        """The constant term, shape () or (...); None if the model has none."""
        return self._current_result().intercept

    def predict(self, X: Any) -> Any:
        """Return predictions for rows X (..., n, p), as `FitResult.predict`."""
        return self._current_result().predict(X)

    def predict_proba(self, X: Any) -> Any:
        """Return the two classes' probabilities, as `FitResult.predict_proba`."""
        return self._current_result().predict_proba(X)

    def _current_result(self) -> FitResult:
        if self.result is None:
            raise AttributeError("the model has seen no rows yet: call partial_fit(X, y) first")
        return self.result

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Online:
        """Bring the model up to date with a batch of rows.

        Parameters
        ----------
        X : array, shape (n, p) or (..., n, p)
            Rows, in memory, with the columns, the library and the dtype of those before.
        y : array, shape (n,), (..., n) or (n, k)
            Their targets.
        sample_weight : array, shape (n,), optional
            A weight of 0 or more for each row.

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
        data = as_data(X, y, sample_weight)
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
            result, summary_of_past, moments, slopes = self._update_model(self._screen_batch(data))
            names = feature_names or backends.column_names(X)
            result = replace(result, feature_names=names, targets=data.targets)
            self._at, self.result, self._units = result.x, to_data_units(result, unit), unit
            self._past, self._columns, self._slopes = summary_of_past, moments, slopes
            self.classes = result.classes
            self._rows += int(data.X.shape[-2])
            open_ = self.penalty is None and self._rows > data.X.shape[-1]
            message = dependence_warning(moments, intercept=self.has_intercept) if open_ else ""
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
        y = data.y
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

    def _update_model(
        self, screened: Screened
    ) -> tuple[FitResult, QuadraticSummary, Moments, Array]:
        """Descend on the batch and the past; return the model, and what to remember."""
        batch_objective = LinearObjective(
            screened.blocks, self.loss, self.penalty, self.has_intercept
        )
        columns = Moments.from_blocks(screened.blocks)
        columns = columns if self._columns is None else self._columns + columns
        check_moments_finite(columns)
        screened = screened._replace(n_sync=screened.n_sync + 1)
        scaling, slopes = self._online_scaling(batch_objective, columns)
        batch_objective = replace(batch_objective, convergence_norm=scaling)
        objective = (
            batch_objective
            if self._past is None
            else OnlineObjective.of(batch_objective, self._past)
        )
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
        # A row on the wrong side costs at least log 2, so a smaller sum means that there is none: then
        # nothing holds the model, and all losses have gone flat.
        separated = self.loss.classes is not None and np.any(
            result.fun < math.log(2.0) * screened.min_weight_share
        )
        summary = QuadraticSummary.of(
            batch_objective, result.x, SEPARATED_PREDICTOR if separated else None
        )
        summary_of_past = summary if self._past is None else self._past + summary
        return result, summary_of_past, columns, slopes

    def _online_scaling(
        self, batch_objective: LinearObjective, columns: Moments
    ) -> tuple[Scaling, Array]:
        """Return the coordinates, and the sum of squared slopes that give the size of a gradient.

        They are those at the best constant of all rows: at their own, the slopes of few rows may be 0.
        """
        scaling = column_scaling(batch_objective, columns)
        xp, loss, blocks = backends.namespace(scaling.null_model), self.loss, batch_objective.blocks
        if self.has_intercept:
            z = loss.link(xp.astype(columns.mean_y, scaling.null_model.dtype))
            scaling = scaling._replace(null_model=xp.where(xp.isfinite(z), z, scaling.null_model))
        slope = loss.gradient(xp.zeros_like(blocks.y) + scaling.null_model[..., None], blocks.y)
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
        return run(method, preconditioned, x0, Stop(), grad_tol=tol, check_every=1), preconditioned
