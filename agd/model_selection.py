"""Paths of penalties, and the choice of their strength: information criteria and cross-validation.

`penalty_path` fits a linear model for many strengths of a penalty, from the one that leaves every coefficient at 0 to
little, each from the answer before. `cross_validate` does so for folds of the rows as well, and chooses the strength
by how well rows that were left out are predicted. Both go by the table of solvers (`agd.run.solver_table`); the
squared loss whose moments the host holds, and Newton's method on NumPy arrays, go along a path without a new start.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, Loss, NotApplicable, Params
from agd._validation import as_choice, as_count, as_flag, as_positive, warn_unconverged
from agd.data import as_data
from agd.data.base import BaseData
from agd.data.checks import as_offset, as_shares, check_arrays, encode_labels
from agd.gradient.linear import linear_predictor
from agd.gradient.second_order import second_order
from agd.loss import Box, get
from agd.loss.penalties import as_target_penalty
from agd.run.diagnosis import explain, warns_of_status
from agd.run.host_moments import RowMoments, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Revealed, absorb_offset
from agd.run.newton_direct import newton_path
from agd.run.normal_equations import HostScaling, column_moments, relative_tolerance
from agd.run.result import FitResult, with_labels
from agd.run.solver_table import MAX_ACTIVE_SET_COLUMNS, select_solver, solve
from agd.run.stopping import Stop

__all__ = ["CrossValidation", "PenaltyPath", "choose_model", "cross_validate", "penalty_path"]

# The least strength as a share of the largest: of penalties that set coefficients to 0, and of smooth ones.
MIN_ALPHA_SHARE, MIN_SMOOTH_ALPHA_SHARE = 1e-3, 1e-6
# The largest strength of a smooth penalty, as a multiple of the largest curvature of the loss along a coefficient.
MAX_CURVATURE_RATIO = 100.0
# Halvings of the interval in which the strength lies that leaves every coefficient at 0.
BISECTIONS = 60
# Sets of free coefficients that are tried for one strength; more come back in a cycle.
MAX_SETS = 50
# The inverse of all columns serves where more of them than this are free, if its condition is known to be less.
MIN_FREE_SHARE, MAX_INVERTED_CONDITION = 0.5, 1e6
# The residual, in units of the tolerance, up to which the data agree with their moments.
MAX_DATA_RESIDUAL = 2.0
# By what share a gradient of a fit may be too small: with so much more no coefficient leaves 0.
MAX_GRADIENT_ROUNDING = 1e-6
# The relative gradient at which models of a fold end: more digits move the deviance of other rows by none that count.
CROSS_VALIDATION_TOLERANCE = 1e-7
RULES = ("aic", "bic", "gcv")


class _Points(NamedTuple):
    """The models of a path: coefficients where the data are, and what the host knows of each.

    Attributes
    ----------
    coef, intercept : array, shapes (k, ..., p) and (k, ...), or None
        The models.
    mean_loss : numpy.ndarray, shape (k, ...)
        The mean loss, without the penalty.
    converged : numpy.ndarray of bool, shape (k, ...)
        Whether each fit converged.
    """

    coef: Any
    intercept: Any
    mean_loss: HostArray
    converged: HostArray


@dataclass(frozen=True, repr=False)
class PenaltyPath:
    """Linear models for many strengths of a penalty, as `penalty_path` returns them.

    Attributes
    ----------
    alphas : numpy.ndarray, shape (k,)
        The strengths, the largest first: each model has alpha times the penalty that was given.
    coef : array, shape (k, p) or (k, ..., p)
        The coefficients, in the library of X; of a loss with several outputs (k, ..., outputs, p).
    intercept : array, shape (k,) or (k, ...), or None
        The constant terms; None without any.
    deviance : numpy.ndarray, shape (k,) or (k, ...)
        Twice the weighted sum of the losses over the rows, less the least that they can be.
    nonzeros : numpy.ndarray of int, shape (k,) or (k, ...)
        The number of coefficients that are not 0.
    converged : numpy.ndarray of bool, shape (k,) or (k, ...)
        Whether the fit converged.
    loss : Loss
        The loss that was minimised.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 4)); y = 2.0 * X[:, 0] + rng.normal(size=100)
    >>> path = agd.penalty_path(X, y, agd.loss.L1(), alphas=50)
    >>> path.coef.shape, path.nonzeros[[0, -1]]
    ((50, 4), array([0, 4]))
    >>> path.select("bic").coef.round(1)
    array([1.8, 0. , 0. , 0. ])
    """

    alphas: HostArray
    coef: Any
    intercept: Any
    deviance: HostArray
    nonzeros: HostArray
    converged: HostArray
    loss: Loss
    total: float | HostArray = field(repr=False)
    fit_at: Callable[[float], FitResult] = field(repr=False)
    trace: Callable[[Any], HostArray] = field(repr=False)

    def __repr__(self) -> str:
        """Say from where to where the path goes."""
        return (
            f"PenaltyPath of {len(self.alphas)} models: alpha from {self.alphas[0]:.3g} to {self.alphas[-1]:.3g}, "
            f"{np.max(self.nonzeros[0])} to {np.max(self.nonzeros[-1])} coefficients that are not 0"
        )

    @functools.cached_property
    def degrees_of_freedom(self) -> HostArray:
        """How many parameters each model has in effect, shape (k,).

        Of a penalty without squares that is the number of coefficients that are not 0; with a ridge it is the trace
        of (H + R)⁻¹ H over these, where H is the Hessian of the loss and R the ridge's. The intercept is one more.

        Notes
        -----
        Zou, Hastie and Tibshirani (2007), "On the degrees of freedom of the lasso", Annals of Statistics 35.
        """
        return self.trace(self)

    def criterion(self, rule: str) -> HostArray:
        r"""Return the values of an information criterion, shape (k,); the smallest is the best.

        ::

            aic = fit + 2 df,    bic = fit + log(n) df,    gcv = deviance / n / (1 - df / n)²

        where fit is n log(deviance / n) for the squared loss and the deviance over the dispersion for other
        distributions: 1, or of `gamma`, `inverse_gaussian` and `tweedie` the deviance of the last model over its
        residual degrees of freedom. n is the sum of the weights.

        Parameters
        ----------
        rule : str
            ``"aic"``, ``"bic"`` or ``"gcv"``.

        Raises
        ------
        ValueError
            For another rule, for a path of several problems, and for a loss of no distribution.

        Notes
        -----
        Akaike (1974), IEEE Transactions on Automatic Control 19; Schwarz (1978), Annals of Statistics 6; Craven and
        Wahba (1979), Numerische Mathematik 31.
        """
        as_choice("rule", rule, RULES)
        self._check_one_problem()
        if not self.loss.has_deviance:
            raise ValueError(
                f"rule {rule!r} needs the likelihood of a distribution, which loss {self.loss.name!r} is not of: "
                f"use agd.cross_validate"
            )
        n, df, deviance = float(self.total), self.degrees_of_freedom, self.deviance
        with np.errstate(all="ignore"):
            if rule == "gcv":
                return np.where(df < n, deviance / n / (1.0 - df / n) ** 2, math.inf)
            if self.loss.quadratic:
                measure = n * np.log(deviance / n)
            else:
                free = self.loss.name in FREE_DISPERSION
                measure = deviance / (deviance[-1] / (n - df[-1]) if free else 1.0)
        return measure + (2.0 if rule == "aic" else math.log(n)) * df

    def select(self, rule: str = "bic") -> FitResult:
        """Return the model that a criterion chooses, as `agd.fit` returns it; parameters as of `criterion`."""
        return self.fit_at(float(self.alphas[int(np.nanargmin(self.criterion(rule)))]))

    def plot(self, ax: Any = None) -> Any:
        """Draw the coefficients over the strengths, which fall from left to right, and return the axes.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Raises
        ------
        ValueError
            For a path of several problems or outputs.
        ModuleNotFoundError
            Where matplotlib is not installed.
        """
        self._check_one_problem()
        coef = backends.to_numpy(self.coef)
        if coef.ndim != 2:
            raise ValueError(f"a picture is of one output, and these are {coef.shape[1]}")
        if ax is None:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            figure = Figure(layout="constrained")
            FigureCanvasAgg(figure)
            ax = figure.add_subplot()
        ax.plot(self.alphas, coef)
        ax.set(xscale="log", xlabel="alpha", ylabel="coefficient")
        ax.axhline(0.0, color="0.7", linewidth=0.8)
        ax.xaxis.set_inverted(True)
        return ax

    def _check_one_problem(self) -> None:
        if self.deviance.ndim != 1:
            raise ValueError(
                f"a criterion or a picture is of one problem, and these are {self.deviance.shape[1:]}: make a path of each"
            )


FREE_DISPERSION = ("gamma", "inverse_gaussian", "tweedie")


def penalty_path(
    X: Any,
    y: Any = None,
    penalty: Any = None,
    *,
    alphas: int | Sequence[float] = 100,
    min_share: float | None = None,
    loss: str | Loss = "squared_error",
    sample_weight: Any = None,
    offset: Any = None,
    exposure: Any = None,
    intercept: bool = True,
    standardize: bool = False,
) -> PenaltyPath:
    r"""Fit a linear model for many strengths of a penalty, each from the answer for the one before.

    ::

        min over w, b of  Σ_i s_i l(x_i · w + b, y_i) / Σ_i s_i + alpha penalty(w)    for each alpha

    Parameters
    ----------
    X, y, loss, sample_weight, offset, exposure, intercept, standardize
        As for ``agd.fit``.
    penalty : Penalty
        The penalty whose strength varies: ``agd.loss.L1()``, which has strength 1, ``agd.loss.ElasticNet(1.0, 0.5)``,
        ``agd.loss.L1() + agd.loss.L2(0.1)``. Its own strength is multiplied by each alpha.
    alphas : int or sequence of float
        The strengths, or how many there are, evenly apart in their logarithms.
    min_share : float, optional
        The least strength as a share of the largest, where `alphas` is a number. The largest is the least one that
        leaves all coefficients at 0, and the share 1e-3; of a smooth penalty it is 100 times the curvature of the
        loss, and the share 1e-6.

    Returns
    -------
    PenaltyPath
        Coefficients, deviances and numbers of nonzeros, the largest strength first; `select` chooses one.

    Raises
    ------
    ValueError, TypeError
        For data and penalties that ``agd.fit`` refuses, no penalty, and strengths that are no numbers of 0 or more.

    Warns
    -----
    ConvergenceWarning
        If the fits for some strengths ended before they converged.

    Notes
    -----
    Friedman, Hastie and Tibshirani (2010), "Regularization paths for generalized linear models via coordinate
    descent", Journal of Statistical Software 33, for the grid and the warm starts. With `L1` on the squared loss the
    coefficients between two changes of the set of nonzeros are linear in alpha: Osborne, Presnell and Turlach (2000),
    "A new approach to variable selection in least squares problems", IMA Journal of Numerical Analysis 20. Many columns
    are screened by the sequential strong rule of Tibshirani et al. (2012), "Strong rules for discarding predictors in
    lasso-type problems", Journal of the Royal Statistical Society B 74.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> X = np.eye(3); y = np.asarray([3.0, 2.0, -1.0])
    >>> agd.penalty_path(X, y, agd.loss.L1(), alphas=[1.0, 0.5], intercept=False).coef.round(6) + 0.0
    array([[0. , 0. , 0. ],
           [1.5, 0.5, 0. ]])
    """
    options = _Options(loss, sample_weight, offset, exposure, intercept)
    problem, finish = _make_problem(X, y, penalty, options)
    standardize = as_flag("standardize", standardize)
    with backends.device_context(problem.data.X), np.errstate(all="ignore"):
        problem = problem.standardized() if standardize else problem
        strengths = _as_alphas(problem, alphas, min_share)
        path = _path(problem, strengths, finish)
    if not path.converged.all():
        worst = int(np.count_nonzero(~path.converged.reshape(len(strengths), -1).all(axis=1)))
        warn_unconverged(
            f"the fits for {worst} of {len(strengths)} strengths ended before they converged: leave out the least"
        )
    return path


class _Options(NamedTuple):
    """Arguments of ``agd.fit``, as they were given."""

    loss: Any
    sample_weight: Any
    offset: Any
    exposure: Any
    intercept: Any


class _Finish(NamedTuple):
    """What the door adds to a result: the loss, the labels of classes, the names of columns, the targets."""

    loss: Loss
    classes: tuple[Any, ...] | None
    label_dtype: str | None
    names: list[str] | None
    targets: int | None

    def __call__(self, result: FitResult) -> FitResult:
        """Return the result with them."""
        loss = self.loss if result.loss.has_offset else result.loss
        result = with_labels(result, self.classes, self.label_dtype)
        return replace(result, loss=loss, feature_names=self.names, targets=self.targets)


def _make_problem(X: Any, y: Any, penalty: Any, options: _Options) -> tuple[LinearProblem, _Finish]:
    """Check the arguments, and return the problem with the penalty that was given."""
    if penalty is None:
        raise ValueError("penalty is missing: got None, need an object such as agd.loss.L1()")
    chosen, checked = get(options.loss), as_target_penalty(penalty, "a path")
    intercept = as_flag("intercept", options.intercept)
    if chosen.estimates_scale:
        raise ValueError(f"delta must be a number for a path, got {chosen!r}: use agd.fit")
    y, sample_weight = as_shares(chosen, X, y, options.sample_weight)
    y, labels, label_dtype = (y, None, None) if chosen.classes is None else encode_labels(y)
    offset = as_offset(chosen, options.offset, options.exposure)
    data = as_data(X, y, sample_weight, offset=offset)
    data, fitted = absorb_offset(data, chosen)
    problem = LinearProblem(data, fitted, checked, intercept, Stop(), default_settings=True)
    return problem, _Finish(chosen, labels, label_dtype, backends.column_names(X), data.targets)


def _path(problem: LinearProblem, alphas: HostArray, finish: _Finish) -> PenaltyPath:
    """Return the path of a problem for these strengths, the largest first."""
    points = _solve_path(problem, alphas)
    total = _read(problem.screened_data.blocks.total)
    least = _sum_over_rows(problem, _LeastLoss(problem.loss)) / total
    deviance = np.maximum(2.0 * total * (points.mean_loss - least), 0.0)
    axes = -1 if problem.loss.outputs is None else (-2, -1)
    nonzeros = np.count_nonzero(backends.to_numpy(points.coef), axis=axes)
    return PenaltyPath(
        alphas, points.coef, points.intercept, deviance, nonzeros, points.converged, problem.loss, total,
        functools.partial(_fit_at, problem, finish), functools.partial(_degrees_of_freedom, problem),
    )  # fmt: skip


def _fit_at(problem: LinearProblem, finish: _Finish, alpha: float) -> FitResult:
    """Fit for one strength by the table of solvers, without a start."""
    with backends.device_context(problem.data.X), backends.count_host_reads() as reads:
        one = problem.with_penalty(_strengthened(problem, alpha))
        result, _ = explain(solve(one), one)
    model = finish(replace(result, n_sync=reads[0] or result.n_sync, alpha=alpha))
    model.attach(one.penalty, one.fitted_rows)
    return model


# -- the strengths -----------------------------------------------------------------------------------------------------


def _as_alphas(problem: LinearProblem, alphas: Any, min_share: Any) -> HostArray:
    """Return the strengths, the largest first: those that were given, or a grid from the data."""
    if isinstance(alphas, int):
        count, penalty = as_count("alphas", alphas), _strengthened(problem, 1.0)
        share = MIN_SMOOTH_ALPHA_SHARE if penalty.smooth else MIN_ALPHA_SHARE
        share = share if min_share is None else as_positive("min_share", min_share)
        largest = _largest_alpha(problem, penalty)
        return largest * np.logspace(0.0, math.log10(share), count)
    given = np.asarray(
        backends.to_numpy(alphas) if backends.is_array(alphas) else alphas, dtype=float
    ).reshape(-1)
    if not (given.size and np.isfinite(given).all() and (given >= 0.0).all()):
        raise ValueError(
            f"alphas must be a number of strengths, or strengths of 0 or more, got {alphas!r}"
        )
    return np.sort(given)[::-1].copy()


def _strengthened(problem: LinearProblem, alpha: float) -> Any:
    penalty: Any = problem.penalty
    return penalty.strengthened(alpha)


def _largest_alpha(problem: LinearProblem, penalty: Any) -> float:
    """Return the least strength that leaves all penalised coefficients at 0; of a smooth penalty a large one."""
    if penalty.smooth:
        kappa = problem.loss.curvature_bound or 1.0
        _, scaling = problem.with_convergence_norm(problem.check_values(Revealed.NOTHING))
        spread = 1.0 / _read(scaling.inv_std)
        return float(
            MAX_CURVATURE_RATIO * kappa * np.max(spread) ** 2 / (penalty.curvature_bound or 1.0)
        )
    gradient = _gradient_at_zero(problem, penalty)
    strength = None if penalty.elastic_parts is None else penalty.elastic_parts[0]
    if strength is not None:
        sizes = np.abs(gradient) / np.where(np.asarray(strength) > 0.0, strength, math.inf)
        largest = float(sizes.max())
    else:
        largest = _zeroing_strength(penalty, gradient)
    return largest if largest > 0.0 else 1.0


def _gradient_at_zero(problem: LinearProblem, penalty: Any) -> HostArray:
    """Return the gradient of the loss where the penalised coefficients are 0 and all others fitted."""
    strength = 1.0 if penalty.elastic_parts is None else penalty.elastic_parts[0]
    spared = np.asarray(strength) == 0.0
    t = problem.traits
    if t.quadratic and t.batch_shape == () and t.moments_on_host and not spared.any():
        c = _cross_moments(problem)
        if np.isfinite(c).all():
            return -c
    bound: Any = np.where(spared, math.inf, 0.0)
    one = problem.with_penalty(Box(-bound, bound))
    result, _ = explain(solve(one), one)
    problem.learn_from(one)
    return (1.0 + MAX_GRADIENT_ROUNDING) * _read(result.jac.coef)


def _cross_moments(problem: LinearProblem) -> HostArray:
    """Return the second moments of the columns with y; of many columns without their products with each other."""
    if problem.traits.columns > MAX_ACTIVE_SET_COLUMNS and problem.traits.numpy:
        m, _ = column_moments(problem)
        X, y, weight = problem.data
        e = y - m.mean_y if weight is None else (y - m.mean_y) * weight
        products: HostArray = e @ (X - m.mean)
        return products / (len(y) if weight is None else float(np.add.reduce(weight)))
    _, moments = _moments_on_host(problem)
    c: HostArray = (moments if problem.intercept else moments.about_zero()).c
    return c


def _moments_on_host(problem: LinearProblem) -> tuple[Rows, RowMoments]:
    """Return what evaluates the data for the host, and their moments, which are read once."""
    rows = rows_of(problem)
    if problem.host_moments is None:
        problem.host_moments = rows.moments()
    return rows, problem.host_moments


def _zeroing_strength(penalty: Any, gradient: HostArray) -> float:
    """Return the least strength at which a proximal step from 0 stays there, by bisection."""

    def stays(alpha: float) -> bool:
        return not np.any(penalty.strengthened(alpha).prox(-gradient, 1.0))

    high = float(np.abs(gradient).max()) or 1.0
    while not stays(high):
        high *= 2.0
        if not math.isfinite(high):
            raise ValueError(
                f"no strength of {penalty!r} leaves all coefficients at 0: give alphas"
            )
    low = 0.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if stays(middle) else (middle, high)
    return high


# -- the models along a path -------------------------------------------------------------------------------------------


def _solve_path(
    problem: LinearProblem, alphas: HostArray, tolerance: float | None = None
) -> _Points:
    """Return the models for these strengths, the largest first, by the quickest way that serves."""
    first = problem.with_penalty(_strengthened(problem, float(alphas[0]) or 1.0))
    along = PATHS.get(select_solver(first.traits))
    if along is not None:
        try:
            with np.errstate(all="ignore"):
                points = along(problem, alphas, tolerance)
            if np.isfinite(points.mean_loss).all():
                return points
        except (NotApplicable, np.linalg.LinAlgError):
            pass  # one after the other, which has the words for what does not go well
    return _one_by_one(problem, alphas)


def _one_by_one(problem: LinearProblem, alphas: HostArray) -> _Points:
    """Fit for each strength by the table of solvers, from the answer before."""
    results, losses, warm_start = list[FitResult](), list[HostArray](), None
    for alpha in alphas:
        one = problem.with_penalty(_strengthened(problem, float(alpha)), warm_start)
        result, _ = explain(solve(one), one)
        problem.learn_from(one)
        base = one.check_values(Revealed.X)
        penalty: Any = one.penalty
        added = base._sum_outputs(penalty.value(result.coef))
        losses.append(np.asarray(result.fun) - _read(added))
        results.append(result)
        usable = np.isfinite(np.asarray(result.fun)).all()
        warm_start = result.x if usable else None
    xp = backends.namespace(results[0].coef)
    intercept = xp.stack([r.intercept for r in results]) if problem.intercept else None
    converged = np.stack([np.asarray(r.success) for r in results])
    return _Points(xp.stack([r.coef for r in results]), intercept, np.stack(losses), converged)


def _on_moments(problem: LinearProblem, alphas: HostArray, _: float | None) -> _Points:
    """Squared loss and one problem: every strength is solved for on the moments, which are summed once."""
    penalty: Any = problem.penalty
    if penalty.elastic_parts is None:
        raise NotApplicable("a penalty of other terms than absolute values and squares")
    rows, m = _moments_on_host(problem)
    m = m if problem.intercept else m.about_zero()
    scaling, tolerance = HostScaling.of(m, 0.0, rows.kind), relative_tolerance(rows.kind)
    C, q = scaling.hessian(m, 0.0), scaling.scale * m.c
    lasso, ridge = penalty.elastic_parts
    lasso, ridge = lasso * scaling.scale, ridge * scaling.scale**2
    ones = np.ones_like(q)
    V = _elastic_path(C, q, lasso * ones, ridge * ones, alphas, scaling.unit * tolerance)
    w = V * scaling.scale
    b = m.mean_y - w @ scaling.shift if problem.intercept else np.zeros(len(w))
    _check_on_data(problem, rows, scaling, w[-1], float(b[-1]), float(alphas[-1]))
    mean_loss = 0.5 * m.yy + np.vecdot(0.5 * (V @ C) - q, V)
    coef = rows.params(w, b, problem.intercept)
    converged = np.ones(len(alphas), dtype=bool)
    return _Points(coef.coef, coef.intercept, np.maximum(mean_loss, 0.0), converged)


def _check_on_data(
    problem: LinearProblem, rows: Any, scaling: HostScaling, w: HostArray, b: float, alpha: float
) -> None:
    """Raise `NotApplicable` where the data do not agree that the model of the least strength is the minimum."""
    w, b = scaling.round_params(w, b)
    data = rows.evaluate(w, b, problem.intercept)
    v = w / scaling.scale
    g = scaling.scale * (data.coef - scaling.shift * data.intercept)
    penalty = _strengthened(problem, alpha)
    near = penalty.prox(scaling.scale * (v - g), scaling.scale**2) / scaling.scale
    size = max(float(np.abs(v - near).max()), abs(data.intercept)) / scaling.resolvable_unit(w, b)
    if not size <= MAX_DATA_RESIDUAL * relative_tolerance(rows.kind):
        raise NotApplicable("data that do not agree with their moments")


def _elastic_path(
    C: HostArray,
    q: HostArray,
    lasso: HostArray,
    ridge: HostArray,
    alphas: HostArray,
    tolerance: float,
) -> HostArray:
    r"""Return the minima of v'Cv/2 - q'v + alpha Σ (lasso |v| + ridge v² / 2), shape (k, p).

    Over free entries F of signs s the minimum solves (C + alpha ridge) v = q - alpha lasso s. Without a ridge it is a
    line in alpha, along which the next strength is looked for: where F stays the same nothing is left to solve.

    Parameters
    ----------
    C, q : numpy.ndarray, shapes (p, p), (p,)
        The quadratic; the diagonal of C is 1.
    lasso, ridge : numpy.ndarray, shape (p,)
        The strengths of the penalty for alpha 1.
    alphas : numpy.ndarray, shape (k,)
        The strengths, the largest first.
    tolerance : float
        The largest entry of v - prox(v - g) at a minimum.

    Raises
    ------
    NotApplicable
        Where the sets of free entries cycle.
    numpy.linalg.LinAlgError
        Where free columns are dependent.
    """
    faces, points = _Faces(C, q, lasso, ridge), np.empty((len(alphas), len(q)))
    line = _Line(np.zeros_like(q), np.zeros_like(q), -q, np.zeros_like(q))
    for i, alpha in enumerate(alphas):
        points[i], line = _elastic_minimum(faces, line, alpha, tolerance)
    return points


def _elastic_minimum(
    faces: _Faces, line: _Line, alpha: float, tolerance: float
) -> tuple[HostArray, _Line]:
    """Return the minimum for one strength, and the line that it lies on, from the line of another strength."""
    threshold, shrink = alpha * faces.lasso, 1.0 + alpha * faces.ridge
    for _ in range(MAX_SETS):
        v = line.v - alpha * line.v_slope
        forward = v - line.g + alpha * line.g_slope
        z = np.maximum(forward - threshold, 0.0) + np.minimum(forward + threshold, 0.0)
        if np.abs(v - z / shrink).max(initial=0.0) <= tolerance:
            return np.where(z != 0.0, v, 0.0), line
        line = faces.minimum(z, alpha)
    raise NotApplicable("sets of free coefficients that come back")


class _Line(NamedTuple):
    """The minimum over a face for strengths alpha, v - alpha v_slope, and the gradient there."""

    v: HostArray
    v_slope: HostArray
    g: HostArray
    g_slope: HostArray


class _Faces:
    """The minima of an elastic net on moments over the entries that are free, the others being 0."""

    def __init__(self, C: HostArray, q: HostArray, lasso: HostArray, ridge: HostArray) -> None:
        self.C, self.q, self.lasso, self.ridge = C, q, lasso, ridge
        self.squares = bool(ridge.any())

    @functools.cached_property
    def inverse(self) -> tuple[HostArray, HostArray] | None:
        """The inverse of C and its product with q; None where C is badly conditioned, or singular."""
        try:
            inverse = np.linalg.inv(self.C)
        except np.linalg.LinAlgError:
            return None
        norms = (np.abs(A).sum(axis=1).max() for A in (self.C, inverse))
        condition = math.prod(norms)
        return (inverse, inverse @ self.q) if condition < MAX_INVERTED_CONDITION else None

    def minimum(self, z: HostArray, alpha: float) -> _Line:
        """Return the minimum where z is not 0, with the signs of z."""
        free = z != 0.0
        index, bound = np.flatnonzero(free), np.flatnonzero(~free)
        if self.squares or len(index) <= MIN_FREE_SHARE * len(z) or self.inverse is None:
            return self._solve(index, z, alpha)
        # What holds the other entries at 0 are few multipliers m: C v = rhs - m, with v = 0 there.
        inverse, first = self.inverse
        signs = np.copysign(self.lasso, z)
        signs[bound] = 0.0
        ends = np.array([first, inverse @ signs])
        rows = inverse[bound]
        multipliers = np.linalg.solve(rows[:, bound], ends[:, bound].T).T
        ends -= multipliers @ rows
        ends[:, bound] = 0.0
        g, g_slope = np.zeros_like(z), signs
        g[bound], g_slope[bound] = -multipliers
        return _Line(ends[0], ends[1], g, g_slope)

    def _solve(self, index: HostArray, z: HostArray, alpha: float) -> _Line:
        """Return the same by the equations of the free entries; with a ridge it holds for this alpha alone."""
        rows = self.C[index]
        matrix = rows[:, index]
        if self.squares:
            matrix.flat[:: len(index) + 1] += alpha * self.ridge[index]
        rhs = np.array([self.q[index], np.copysign(self.lasso[index], z[index])])
        ends = np.zeros((2, len(z)))
        ends[:, index] = solved = np.linalg.solve(matrix, rhs.T).T
        g = solved @ rows
        return _Line(ends[0], ends[1], g[0] - self.q, g[1])


def _on_working_columns(problem: LinearProblem, alphas: HostArray, _: float | None) -> _Points:
    """Squared loss and many columns of NumPy arrays: by the moments of those that may leave 0, and a look at all others.

    Columns that the sequential strong rule lets pass are discarded for a strength, and taken up where they violate
    optimality at its end.
    """
    penalty: Any = problem.penalty
    if penalty.elastic_parts is None:
        raise NotApplicable("a penalty of other terms than absolute values and squares")
    one = problem.with_penalty(penalty)
    one.check_values(Revealed.NOTHING)
    problem.learn_from(one)
    m, variance = column_moments(problem)
    rows = rows_of(problem)
    scaling = HostScaling.of_columns(m, variance, 0.0, rows.kind)
    X, y, weight = problem.data
    share = np.ones(len(y)) if weight is None else weight.astype(float)
    root = np.sqrt(share / np.add.reduce(share))
    ones = np.ones_like(m.mean)
    lasso, ridge = (part * ones for part in penalty.elastic_parts)
    columns = _WorkingColumns(
        (X - m.mean) * scaling.scale * root[:, None], (y - m.mean_y) * root,
        lasso * scaling.scale, ridge * scaling.scale**2,
    )  # fmt: skip
    tolerance = relative_tolerance(rows.kind) * scaling.unit
    V, losses = zip(*(columns.minimum(float(alpha), tolerance) for alpha in alphas), strict=True)
    w = np.stack(V) * scaling.scale
    b = m.mean_y - w @ m.mean if problem.intercept else np.zeros(len(w))
    params = rows.params(w, b, problem.intercept)
    converged = np.ones(len(alphas), dtype=bool)
    return _Points(params.coef, params.intercept, np.asarray(losses), converged)


class _WorkingColumns:
    """An elastic net on rows, minimised over some of the columns, which become more along a path.

    Parameters
    ----------
    Z, e : numpy.ndarray, shapes (n, p), (n,)
        The rows and the targets, centred, scaled and times the roots of the weights' shares.
    lasso, ridge : numpy.ndarray, shape (p,)
        The strengths of the penalty for alpha 1.
    """

    def __init__(self, Z: HostArray, e: HostArray, lasso: HostArray, ridge: HostArray) -> None:
        self.Z, self.e, self.lasso, self.ridge = Z, e, lasso, ridge
        self.gradient, self.alpha = -(e @ Z), math.inf
        self.index, self.columns = np.zeros(0, dtype=int), Z[:, :0]
        self.faces = _Faces(np.zeros((0, 0)), np.zeros(0), lasso[:0], ridge[:0])
        self.line = _Line(*np.zeros((4, 0)))

    def add(self, new: HostArray) -> None:
        """Take up columns, at 0."""
        index, more = np.append(self.index, new), self.Z[:, new]
        cross, q = more.T @ self.columns, self.e @ more
        C = np.block([[self.faces.C, cross.T], [cross, more.T @ more]])
        zeros, line = np.zeros(len(new)), self.line
        self.line = _Line(
            np.append(line.v, zeros), np.append(line.v_slope, zeros),
            np.append(line.g, cross @ line.v - q), np.append(line.g_slope, cross @ line.v_slope),
        )  # fmt: skip
        self.index, self.columns = index, np.concatenate([self.columns, more], axis=1)
        self.faces = _Faces(C, np.append(self.faces.q, q), self.lasso[index], self.ridge[index])

    def minimum(self, alpha: float, tolerance: float) -> tuple[HostArray, float]:
        """Return the minimum over all columns for a strength, and the mean loss there."""
        likely = 2.0 * alpha - self.alpha if math.isfinite(self.alpha) else alpha
        new = np.abs(self.gradient) > max(likely, 0.0) * self.lasso
        while True:
            new[self.index] = False
            if new.any():
                self.add(np.flatnonzero(new))
            v, self.line = _elastic_minimum(self.faces, self.line, alpha, tolerance)
            residual = self.columns @ v - self.e
            self.gradient, self.alpha = residual @ self.Z, alpha
            new = np.abs(self.gradient) > alpha * self.lasso + tolerance
            new[self.index] = False
            if not new.any():
                result = np.zeros(len(self.lasso))
                result[self.index] = v
                return result, 0.5 * float(residual @ residual)


def _ridges(problem: LinearProblem, alphas: HostArray, _: float | None) -> _Points:
    """Squared loss and ridges: all strengths from the eigenvalues of the moments in units where the ridge is round."""
    penalty: Any = problem.penalty
    ridge = np.asarray(penalty.elastic_parts[1] if penalty.elastic_parts is not None else 0.0)
    if not (ridge > 0.0).all():
        raise NotApplicable("a penalty that is no ridge on all coefficients")
    rows, m = _moments_on_host(problem)
    m = m if problem.intercept else m.about_zero()
    scaling = HostScaling.of(m, 0.0, rows.kind)
    root = 1.0 / np.sqrt(ridge * np.ones_like(m.c))
    e, V = np.linalg.eigh(m.G * (root[:, None] * root))
    e = np.maximum(e, 0.0)
    w = ((V.T @ (root * m.c)) / (e + alphas[:, None])) @ V.T * root
    b = m.mean_y - w @ scaling.shift if problem.intercept else np.zeros(len(w))
    for i in (0, -1):
        _check_on_data(problem, rows, scaling, w[i], float(b[i]), float(alphas[i]))
    mean_loss = 0.5 * m.yy + np.vecdot(0.5 * (w @ m.G) - m.c, w)
    params = rows.params(w, b, problem.intercept)
    converged = np.ones(len(alphas), dtype=bool)
    return _Points(params.coef, params.intercept, np.maximum(mean_loss, 0.0), converged)


def _by_newton(problem: LinearProblem, alphas: HostArray, tolerance: float | None) -> _Points:
    """Another loss on NumPy arrays: Newton steps from the answer before, on rows that are centred once."""
    penalties = [_strengthened(problem, float(alpha)) for alpha in alphas]
    coef, intercept, losses = zip(*newton_path(problem, penalties, tolerance), strict=True)
    kind = problem.resident.dtype
    constants = np.stack(intercept).astype(kind) if problem.intercept else None
    converged = np.ones(len(alphas), dtype=bool)
    return _Points(np.stack(coef).astype(kind), constants, np.asarray(losses), converged)


PATHS = {
    "semismooth_newton": _on_moments,
    "working_sets": _on_working_columns,
    "normal_direct": _ridges,
    "newton_direct": _by_newton,
    "proximal_newton_direct": _by_newton,
}
"""What goes along a path of problems that these rows of ``agd.run.SOLVERS`` would solve one by one."""


# -- degrees of freedom ------------------------------------------------------------------------------------------------


def _degrees_of_freedom(problem: LinearProblem, path: PenaltyPath) -> HostArray:
    """Return the effective number of parameters of each model."""
    penalty: Any = problem.penalty
    parts = penalty.elastic_parts
    free = path.nonzeros.astype(float)
    if parts is not None and np.any(parts[1]) and problem.loss.outputs is None:
        free = np.asarray(
            [
                _trace(problem, path, i, float(alpha) * parts[1])
                for i, alpha in enumerate(path.alphas)
            ]
        )
    return free + (problem.intercept * int(problem.loss.outputs or 1))


def _trace(problem: LinearProblem, path: PenaltyPath, i: int, ridge: Any) -> float:
    """Return the trace of (H + R)⁻¹ H over the coefficients of a model that are not 0."""
    base = problem.check_values(Revealed.NOTHING)
    constant = None if path.intercept is None else path.intercept[i, ...]
    params = Params(path.coef[i, ...], constant)
    hessian = _centred_hessian(base, params)
    free = np.flatnonzero(backends.to_numpy(path.coef[i, ...]))
    H = hessian[free[:, None], free]
    R = np.diag((ridge * np.ones(len(hessian)))[free])
    return float(np.trace(np.linalg.solve(H + R, H)))


def _centred_hessian(base: Any, params: Params) -> HostArray:
    """Return the Hessian of the mean loss in the coefficients, less what the intercept takes up: one pass."""
    shift = 0.0 * params.coef
    _, _, total = second_order(base, shift, params)
    hessian = _read(total) / _read(base.blocks.total)
    if params.intercept is None:
        return hessian
    side = hessian[:-1, -1]
    centred: HostArray = hessian[:-1, :-1] - np.outer(side, side) / hessian[-1, -1]
    return centred


# -- sums over rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LeastLoss:
    """The sum over the rows of a block of the least that their losses can be."""

    loss: Loss

    def __call__(self, X: Array, y: Array, weight: Array | None) -> Any:  # noqa: ARG002 - as of `BaseData.sum`
        """Return the sum, shape (...)."""
        least: Any = self.loss.least_value(y)
        return backends.namespace(least).sum(least if weight is None else least * weight, axis=-1)


@dataclass(frozen=True)
class _ExcessLoss:
    """The sum over the rows of a block of what the losses of several models exceed their least values by."""

    loss: Loss
    coef: Any
    intercept: Any

    def __call__(self, X: Array, y: Array, weight: Array | None) -> Any:
        """Return the sums, shape (k,)."""
        params = Params(self.coef, self.intercept)
        z = linear_predictor(params, X, outputs=self.loss.outputs is not None)
        excess: Any = self.loss.value(z, y) - self.loss.least_value(y)
        return backends.namespace(excess).sum(
            excess if weight is None else excess * weight, axis=-1
        )


def _sum_over_rows(problem: LinearProblem, f: Any) -> HostArray:
    return _read(problem.screened_data.blocks.sum(f))


def _read(x: Any) -> HostArray:
    return np.asarray(backends.to_numpy(x), dtype=float)


# -- cross-validation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """How well rows that were left out are predicted, for each strength of a penalty, and the model chosen by it.

    Attributes
    ----------
    alphas : numpy.ndarray, shape (k,)
        The strengths, the largest first.
    deviances : numpy.ndarray, shape (folds, k)
        The mean deviance of the rows of each fold, under the models of all other rows.
    mean, standard_error : numpy.ndarray, shape (k,)
        The mean over the folds, and its standard error: the standard deviation over them by the root of their number.
    alpha : float
        The strength that the rule chooses.
    model : FitResult
        The model of all rows for it.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 4)); y = 2.0 * X[:, 0] + rng.normal(size=100)
    >>> chosen = agd.cross_validate(X, y, agd.loss.L1(), rule="1se")
    >>> chosen.deviances.shape, chosen.model.coef.round(1)
    ((5, 100), array([1.3, 0. , 0. , 0. ]))
    """

    alphas: HostArray
    deviances: HostArray
    alpha: float
    model: FitResult

    def __repr__(self) -> str:
        """Say what was chosen, and how good it is."""
        i = int(np.argmin(np.abs(self.alphas - self.alpha)))
        return (
            f"CrossValidation of {len(self.alphas)} strengths in {len(self.deviances)} folds: alpha {self.alpha:.3g}, "
            f"mean deviance {self.mean[i]:.4g} ± {self.standard_error[i]:.2g}"
        )

    @property
    def mean(self) -> HostArray:
        """The mean deviance over the folds, shape (k,)."""
        return np.asarray(self.deviances.mean(axis=0))

    @property
    def standard_error(self) -> HostArray:
        """The standard error of that mean, shape (k,)."""
        return np.asarray(self.deviances.std(axis=0, ddof=1) / len(self.deviances) ** 0.5)


def cross_validate(
    X: Any,
    y: Any = None,
    penalty: Any = None,
    *,
    alphas: int | Sequence[float] = 100,
    min_share: float | None = None,
    folds: Any = 5,
    rule: str = "min",
    seed: int = 0,
    loss: str | Loss = "squared_error",
    sample_weight: Any = None,
    offset: Any = None,
    exposure: Any = None,
    intercept: bool = True,
    standardize: bool = False,
) -> CrossValidation:
    r"""Choose the strength of a penalty by how well rows that were left out are predicted, and fit all rows with it.

    For each fold of the rows the path of all others is fitted, and the deviance of the fold is, for each strength, ::

        2 Σ_i s_i (l(x_i · w + b, y_i) - least l(., y_i)) / Σ_i s_i    over the rows i of the fold

    Parameters
    ----------
    X, y, loss, sample_weight, offset, exposure, intercept, standardize
        As for ``agd.fit``. With `standardize` each path is that of the spreads of its own rows.
    penalty, alphas, min_share
        As for ``agd.penalty_path``; a grid of strengths is that of all rows.
    folds : int, or iterable of (train, test)
        How many folds are drawn, in which the classes of labels have their shares; or pairs of arrays of row numbers,
        such as the splits of scikit-learn.
    rule : str
        ``"min"`` for the strength of the smallest mean deviance, ``"1se"`` for the largest strength whose mean is
        within one standard error of that.
    seed : int
        The seed of the folds, which are drawn on the host: all libraries see the same.

    Returns
    -------
    CrossValidation
        The deviances, the strength that was chosen and its model.

    Raises
    ------
    ValueError, TypeError
        As ``agd.penalty_path``; for a stream, for several problems at once, for folds without rows, and for classes
        with fewer rows than two.

    Warns
    -----
    ConvergenceWarning
        If the fit of all rows ended before it converged.

    Notes
    -----
    Stone (1974), "Cross-validatory choice and assessment of statistical predictions", Journal of the Royal Statistical
    Society B 36; Breiman, Friedman, Olshen and Stone (1984), *Classification and Regression Trees*, section 3.4.3, for
    the rule of one standard error.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3)); y = rng.random(200) < 1.0 / (1.0 + np.exp(-X[:, 0]))
    >>> chosen = agd.cross_validate(X, y, agd.loss.L2(), loss="log_loss", alphas=[0.01, 0.1, 1.0])
    >>> chosen.alpha, len(chosen.mean)
    (0.01, 3)
    """
    as_choice("rule", rule, ("min", "1se"))
    options = _Options(loss, sample_weight, offset, exposure, intercept)
    problem, finish = _make_problem(X, y, penalty, options)
    standardize = as_flag("standardize", standardize)
    with backends.device_context(problem.data.X), np.errstate(all="ignore"):
        splits = _draw_splits(problem, folds, seed)
        every = problem.standardized() if standardize else problem
        strengths = _as_alphas(every, alphas, min_share)
        scores = [_score(problem, split, strengths, standardize=standardize) for split in splits]
        deviances = np.stack(scores)
        mean, error = deviances.mean(axis=0), deviances.std(axis=0, ddof=1) / len(scores) ** 0.5
        best = int(np.nanargmin(mean))
        if rule == "1se":
            best = int(np.argmax(mean <= mean[best] + error[best]))
        alpha = float(strengths[best])
        model = _fit_at(every, finish, alpha)
    if warns_of_status(model):
        warn_unconverged(model.message)
    return CrossValidation(strengths, deviances, alpha, model)


def _score(
    problem: LinearProblem, split: _Split, alphas: HostArray, *, standardize: bool
) -> HostArray:
    """Return the mean deviance of the rows that are left out, shape (k,)."""
    train, test = split.parts(problem.screened_data.blocks)
    screened = problem.screened_data._replace(blocks=train)
    fold = replace(problem, data=train, screened=screened, moments=None, host_moments=None)
    fold = fold.standardized() if standardize else fold
    points = _solve_path(fold, alphas, CROSS_VALIDATION_TOLERANCE)
    excess = test.sum(_ExcessLoss(problem.loss, points.coef, points.intercept))
    return 2.0 * _read(excess) / _read(test.total)


class _Split(NamedTuple):
    """The numbers of the rows that are fitted, and of those that are left out."""

    train: HostArray
    test: HostArray

    def parts(self, blocks: Any) -> tuple[Any, Any]:
        """Return the data of both; of chunks, all rows with weights of 0 for the others."""
        if not blocks.lazy:
            return _rows_of(blocks, self.train), _rows_of(blocks, self.test)
        parts = []
        for rows in self:
            counts = np.bincount(rows, minlength=int(blocks.row_count)).astype(float)
            weight = check_arrays(blocks.X, blocks.y, counts).weight
            weight = weight if blocks.weight is None else weight * blocks.weight
            parts.append(BaseData.of(blocks.X, blocks.y, weight))
        return parts[0], parts[1]


def _rows_of(blocks: Any, rows: HostArray) -> Any:
    """Return some rows of data in memory, and count them."""
    like = blocks.resident
    xp = backends.namespace(like)
    index = xp.asarray(rows, device=backends.device(like))
    X, y, weight = blocks.take(index)
    return BaseData.of(X, y, weight)


def _draw_splits(problem: LinearProblem, folds: Any, seed: int) -> list[_Split]:
    """Return the splits that are given, or draw folds of about equal size, with the classes' shares in each."""
    data = problem.data
    if not math.isfinite(data.row_count):
        raise ValueError(
            "cross-validation needs X to say how many rows it has, which a stream and chunks of unknown size do not: "
            "give arrays, or fit a path and use select"
        )
    if data.batch_shape != ():
        raise ValueError(
            f"cross-validation is of one problem, and these are {data.batch_shape}: validate each"
        )
    n = int(data.row_count)
    labels = None
    if problem.loss.classes is not None:
        blocks = problem.screened_data.blocks
        labels = np.real(backends.to_numpy(blocks.y)).astype(int)
    if not isinstance(folds, int):
        return [_as_split(i, n, split) for i, split in enumerate(folds)]
    count = as_count("folds", folds, 2)
    if count > n:
        raise ValueError(f"folds must be at most the number of rows, {n}, got {count}")
    rng, order = np.random.default_rng(seed), []
    for label in range(1 if labels is None else int(labels.max()) + 1):
        members = np.arange(n) if labels is None else np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(
                f"y must have 2 rows or more of each class, so that one is left to fit: class number {label} has one"
            )
        order.append(rng.permutation(members))
    number = np.empty(n, dtype=int)
    number[np.concatenate(order)] = np.arange(n) % count
    rows = np.arange(n)
    return [_Split(rows[number != fold], rows[number == fold]) for fold in range(count)]


def _as_split(i: int, n: int, split: Any) -> _Split:
    """Check one pair of row numbers that was given."""
    try:
        train, test = (np.arange(n)[np.asarray(rows)] for rows in split)
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"folds must be a number, or pairs (train, test) of row numbers below {n}; pair {i} is none"
        ) from None
    if not (train.size and test.size):
        raise ValueError(
            f"folds must have rows to fit and rows to leave out, pair {i} has none of one"
        )
    return _Split(train, test)


def choose_model(rule: str, X: Any, y: Any, penalty: Any, **options: Any) -> FitResult:
    """Return the model whose strength a rule chooses: ``agd.fit(..., alpha=rule)``."""
    as_choice("alpha", rule, ("cv", "cv_1se", *RULES))
    if rule in RULES:
        return penalty_path(X, y, penalty, **options).select(rule)
    return cross_validate(X, y, penalty, rule="min" if rule == "cv" else "1se", **options).model
