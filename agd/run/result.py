"""What came of a run: `Status`, `History`, `Result`, and `FitResult` for a linear model.

The loop puts a `Result` together from its observations; `as_fit_result` names the parts of a linear fit's
point. Both print as a short table.
"""

# Annotations are not deferred here: pdoc cannot resolve the names of a deferred one in a NamedTuple.

import html
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Loss, Params, Penalty, Tree
from agd._validation import as_choice, as_share, check_columns
from agd.data.base import BaseData
from agd.data.checks import add_offset, as_features, as_offset, as_shares
from agd.data.screening import Screened, as_fitted_rows, refuse_rows_without_class
from agd.gradient.linear import linear_predictor
from agd.inference import (
    Covariance,
    Interval,
    LinearModel,
    Summary,
    WaldTest,
    covariance,
    deviance,
    host_params,
    score,
    summarise,
    wald_test,
)
from agd.model_file import FLOAT_TYPES, Model, as_json, encode_loss, encode_penalty
from agd.run.certificate import Certificate
from agd.run.observation import Observation

__all__ = [
    "Certificate",
    "FitResult",
    "History",
    "HistoryLog",
    "Result",
    "Status",
    "as_fit_result",
    "load",
    "observed_contraction",
    "save",
]


class Status(IntEnum):
    """How a run ended; the values are SciPy's where SciPy has one.

    >>> Status.CONVERGED == 0
    True
    >>> Status.DEADLINE.advice.partition(":")[0]
    'stopped at the deadline before it converged'
    """

    CONVERGED = 0
    MAX_ITER = 1
    DIVERGED = 2
    NON_FINITE = 3
    LINE_SEARCH = 4
    UNBOUNDED = 5
    DEADLINE = 6
    NO_MINIMUM = 7
    PLATEAU = 8
    INTERRUPTED = 9
    CALLBACK = 99

    @property
    def advice(self) -> str:
        """What happened, and what to do next."""
        return _ADVICE[self]

    def message(self, nit: int) -> str:
        """Return the advice, and after how many steps the run ended."""
        return f"{self.advice} (after {'1 step' if nit == 1 else f'{nit} steps'})"


_ADVICE = {
    Status.CONVERGED: "converged",
    Status.MAX_ITER: (
        "stopped at the limit of iterations or calls before it converged: raise max_iter, start from "
        "this result (init=), or ask for less (grad_tol)"
    ),
    Status.DIVERGED: "diverged: the learning rate is too large; returned the last finite point",
    Status.NON_FINITE: (
        "the value or the gradient is not finite: returned the last finite point; check the data and "
        "the function there"
    ),
    Status.LINE_SEARCH: (
        "the line search found no lower point along its direction: either the precision of the "
        "arithmetic is reached or the gradient is wrong: run agd.check_gradient"
    ),
    Status.UNBOUNDED: (
        "the value falls without bound: no minimum exists that way; check the sign of the function, or "
        "give bounds or a penalty"
    ),
    Status.DEADLINE: (
        "stopped at the deadline before it converged: allow more seconds, or start from this result"
    ),
    Status.NO_MINIMUM: (
        "the gradient vanishes at a point that is no minimum: start elsewhere, or leave it along "
        "certificate.direction, which agd.critical_point gives as well"
    ),
    Status.PLATEAU: (
        "the value no longer falls, but the gradient is not small: the noise of the mini-batches, or columns "
        "that are nearly dependent, stand in the way; lower the learning rate or leave it to 'auto', take "
        "larger batches, or use method='svrg' or 'auto'"
    ),
    Status.INTERRUPTED: "interrupted before it converged: to go on, start from this result (init=)",
    Status.CALLBACK: "stopped by the callback, before it converged: to go on, start from this result (init=)",
}


class History(NamedTuple):
    """The course of a run, one entry for each observation; NumPy arrays, off the device.

    Observations at which no problem had taken a step since the previous one are left out, except the last.

    Attributes
    ----------
    nit : numpy.ndarray, shape (observations,)
        Steps taken by then, by the problem that took most.
    value : numpy.ndarray, shape (observations, ...)
        The objective.
    grad_norm : numpy.ndarray, shape (observations, ...)
        The size of its gradient, as the stopping test measured it.
    step : numpy.ndarray, shape (observations, ...)
        How far the last step moved a parameter, at the most, as a share of the largest parameter.
    nfev : numpy.ndarray of int, shape (observations, ...)
        Calls of the function by then.
    """

    nit: Any
    value: Any
    grad_norm: Any
    step: Any
    nfev: Any


class HistoryLog:
    """Collect the observations of a run; a history of them is a view, which later ones leave as it is.

    Parameters
    ----------
    first : Observation
        The row at the first point.
    calls : numpy.ndarray of int, shape (...)
        Calls of the function by then.
    """

    def __init__(self, first: Observation, calls: Any) -> None:
        self._rows = np.empty((16, 5, *np.shape(first.value)))
        self._count = 0
        self._has_pending = False
        self.add(first, calls, keep=True)

    def add(self, row: Observation, calls: Any, *, keep: bool) -> None:
        """Add a row; one that is not to be kept gives way to the next."""
        if self._count + 1 >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        entry = (row.iterations, row.value, row.grad_norm, row.moved, calls)
        self._rows[self._count] = entry
        self._count += keep
        self._has_pending = not keep

    def correct_calls(self, calls: Any) -> None:
        """Replace the calls of the last row by others, after calls at the same point."""
        self._rows = self._rows.copy()  # an earlier history is a view
        self._rows[self._count + self._has_pending - 1, 4] = calls

    def history(self) -> History:
        """Return what was kept so far, and the last row."""
        rows = self._rows[: self._count + self._has_pending]
        nit, value, grad_norm, step, calls = (rows[:, i] for i in range(5))
        nit = np.max(nit, axis=tuple(range(1, nit.ndim))).astype(int)
        return History(nit, value, grad_norm, step, calls.astype(int))

    def observed_contraction(self) -> Any:
        """Return by what factor the gradient shrank a step, shape (...), as `observed_contraction` has it."""
        rows = self._rows[: self._count + self._has_pending]
        return observed_contraction(rows[:, 0], rows[:, 2])


def observed_contraction(nit: Any, size: Any) -> Any:
    """Return by what factor the gradient shrank a step, shape (...), over the last half of them.

    It is the geometric mean, (|g_n| / |g_m|)^(1 / (n - m)), with m the first step seen from n/2 on;
    NaN where there are not two such observations.

    Parameters
    ----------
    nit, size : numpy.ndarray, shape (observations, ...)
        Steps taken, and the size of the gradient.
    """
    from_half = np.argmax(nit >= 0.5 * nit[-1], axis=0)[None, ...]
    m, before = (np.take_along_axis(x, from_half, axis=0)[0] for x in (nit, size))
    with np.errstate(all="ignore"):
        factor = (size[-1] / before) ** (1.0 / (nit[-1] - m))
    return np.where(nit[-1] > m, factor, np.nan)


MAX_COLUMNS = 88  # characters of the table's right side
MAX_LEAVES = 8  # of a tree in the table; the rest is counted
MAX_NAMES = 30  # coefficients beside their names; the rest is counted
MAX_ENTRIES = 1000  # a larger array is named, not copied to the host


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of a run. For a batch of problems the numbers are NumPy arrays, one entry each.

    It prints as a short table, and as one in HTML in a notebook.

    Attributes
    ----------
    x : tree of arrays
        The point, in the library, dtype and device of the data.
    fun : float
        The objective there.
    jac : tree of arrays
        Its gradient there.
    nit, nfev, njev : int
        Steps; calls of the function and of its gradient.
    status : Status
        How the run ended.
    success : bool
        Whether it converged.
    message : str
        What happened and what to do next.
    history : History
        Value, gradient norm, step and calls at every observation.
    n_sync : int
        How often the host read from the device.
    method : str
        The path taken.
    certificate : Certificate
        What is known of the point.
    """

    x: Tree
    fun: Any
    jac: Tree
    nit: Any
    nfev: Any
    njev: Any
    status: Any
    success: Any
    message: str
    history: History
    n_sync: int
    method: str
    certificate: Certificate

    @property
    def grad_norm(self) -> Any:
        """The size of the gradient, as the stopping test measures it."""
        return self.certificate.grad_norm

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, as SciPy's results do."""
        if name not in self.keys():
            raise KeyError(name)
        return vars(self)[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the fields: ``dict(result)``, ``"x" in result``."""
        return iter(self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by its name, or the default where there is none."""
        return self[name] if name in self.keys() else default

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(self)]

    def __repr__(self) -> str:
        """Give a short table: a name and a value a line."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows)
        indent = "\n" + " " * (width + 2)
        return "\n".join(f"{name:>{width}}: {text}".replace("\n", indent) for name, text in rows)

    def _repr_html_(self) -> str:
        """Give the same table as HTML, for a notebook."""
        left, right = (
            "text-align:right;vertical-align:top",
            "text-align:left;white-space:pre;font-family:monospace",
        )
        rows = "".join(
            f'<tr><th style="{left}">{html.escape(name)}</th><td style="{right}">{html.escape(text)}</td></tr>'
            for name, text in self._rows()
        )
        return f"<table><tbody>{rows}</tbody></table>"

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Give names and values: the model of a fit, how the run ended, where, and the rest."""
        absent = (
            "alpha",
            "classes",
            "feature_names",
            "label_dtype",
            "n_passes",
            "penalty",
            "targets",
        )
        names = [name for name in self.keys() if name not in absent or self[name] is not None]
        yield from self._model_rows()
        yield "message", _wrap_lines(self.message)
        shown = {"history", "success", "message", "coef", "intercept", "feature_names"}
        if "coef" in names:  # a linear fit: its point is its coefficients
            shown.add("x")
        first = ("status", "x", "fun", "nit", "loss", "penalty", "method")
        for name in (*first, *(name for name in names if name not in first)):
            if name in names and name not in shown:
                yield from self._row(name, self[name])
        yield "history", f"{len(self.history.nit)} observations"

    def _model_rows(self) -> Iterator[tuple[str, str]]:
        """Give what stands above all else; nothing of a result that is no model."""
        return iter(())

    def _row(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        if name == "status" and isinstance(value, Status):
            yield name, f"{int(value)} ({value.name})"
        elif name in ("x", "jac", "coef", "intercept"):
            yield from _leaf_rows(name, value)
        elif name == "n_sync":
            yield name, f"{value} (reads by the host)"
        else:
            yield name, _wrap_lines(_text(value))


def _wrap_lines(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, MAX_COLUMNS) or [""])


def _leaf_rows(name: str, tree: Tree) -> Iterator[tuple[str, str]]:
    """Give a line for each of the first leaves, by the expression that takes it from the result."""
    leaves = optree.tree_leaves(tree)
    if not leaves:
        yield name, "None"
        return
    for accessor, leaf in list(zip(optree.tree_accessors(tree), leaves, strict=True))[:MAX_LEAVES]:
        yield accessor.codify(name), _text(leaf)
    if len(leaves) > MAX_LEAVES:
        yield name, f"and {len(leaves) - MAX_LEAVES} more leaves"


def _text(value: Any) -> str:
    """Return the value in a line or a few; a large array's values stay where they are."""
    if backends.is_array(value):
        if math.prod(value.shape) > MAX_ENTRIES and not isinstance(value, np.ndarray):
            return f"{backends.of(value).name} array of shape {tuple(value.shape)}, {value.dtype}"
        value = backends.to_numpy(value)
    with np.printoptions(threshold=8, precision=6, edgeitems=3, linewidth=MAX_COLUMNS):
        return str(value)


@dataclass(frozen=True, repr=False)
class FitResult(Result):
    """What `fit` returns: a `Result` with the model's coefficients and predictions.

    Attributes
    ----------
    coef : array, shape (p,) or (..., p)
        The coefficients, in the units of X's columns; of a loss with k outputs (..., k, p).
    intercept : array, shape () or (...), or None
        The constant term; None if the model has none. Of a loss with k outputs (..., k).
    loss : Loss
        The loss that was minimised.
    classes : tuple of float, int, str or bool, or None
        For a loss of classes, their labels, ascending.
    label_dtype : str or None
        The dtype of labels that are integers, which predictions have too.
    n_passes : int, or None
        Of data in chunks, how often they were read from end to end; for Dask, each time by one graph.
        None for arrays in memory.
    feature_names : list of str, or None
        The names of X's columns, where it was a frame with such names. Rows to predict for that have
        names as well must have these, in this order.
    targets : int, or None
        The number k of targets of a y of shape (n, k), whose coefficients are (k, p) and whose predictions have
        the shape of y. None where y has one value for each row of X, in one problem or in a batch.
    penalty : Penalty or None
        What was added to the loss.
    solver : str, or None
        The row of ``agd.run.SOLVERS`` that served: the one that `agd.run.select_solver` names, or one that
        follows it. None where no table chooses, as for `agd.Online`.
    alpha : float, or None
        What the strength of the penalty was multiplied by, where the data chose it.

    Notes
    -----
    A result keeps a reference to the data that were fitted, without a copy, so that `summary`, `cov`, `std_error`,
    `conf_int`, `wald_test`, `score` and `deviance` need no arguments; `without_data` lets go of it, and so does
    pickling. Standard errors take the weights of the rows as inversely proportional to their variances, as ``WLS``
    and ``var_weights`` of statsmodels do; a row of weight 0 does not count. Parameters are in the order of `coef`,
    with the intercept last.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> result = agd.fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1], loss="log_loss")
    >>> result.predict(np.asarray([[0.0], [3.0]]))
    array([0, 1])
    >>> result.solver
    'newton_direct'
    """

    # Arrays of the library that was fitted, and not `Array`, since users call the methods of their own.
    coef: Any
    intercept: Any  # None without one; said in the docstring, so that users need not narrow it
    loss: Loss
    classes: tuple[Any, ...] | None
    n_passes: int | None = None
    feature_names: list[str] | None = None
    solver: str | None = None
    targets: int | None = None
    alpha: float | None = None
    label_dtype: str | None = None
    penalty: Penalty | None = None

    def _model_rows(self) -> Iterator[tuple[str, str]]:
        """Give the coefficients of one problem beside their names; the array of them where they have none."""
        names, coef = self.feature_names, self.coef
        if names is None or coef.ndim > 1:
            yield from self._row("coef", coef)
        else:
            width = max(map(len, names[:MAX_NAMES]))
            numbers = backends.to_numpy(coef[:MAX_NAMES])
            lines = [f"{name:<{width}}  {x:.6g}" for name, x in zip(names, numbers, strict=False)]
            more = len(names) - len(lines)
            yield "coef", "\n".join([*lines, *([f"and {more} more"] if more else [])])
        yield from self._row("intercept", self.intercept)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the data behind, and what was computed from them."""
        kept = self.keys()
        return {name: value for name, value in vars(self).items() if name in kept}

    def attach(self, penalty: Penalty | None, data: BaseData) -> None:
        """Take over the penalty and the data of the fit; done once, by the door."""
        vars(self).update(penalty=penalty, _data=data)

    def with_data(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        exposure: Any = None,
    ) -> "FitResult":
        """Return the same result beside data, such as those that were fitted, for `summary` and its kin.

        Parameters
        ----------
        X, y, sample_weight, offset, exposure
            As of ``agd.fit``.
        """
        check_columns(X, self.feature_names)
        offset = as_offset(self.loss, offset, exposure)
        y, sample_weight = as_shares(self.loss, X, y, sample_weight)
        rows = as_fitted_rows(X, y, sample_weight, offset, self.loss, self.classes)
        result = replace(self)
        result.attach(self.penalty, rows)
        return result

    def without_data(self) -> "FitResult":
        """Return the same result without a reference to the data that were fitted."""
        return replace(self)

    @property
    def _model(self) -> LinearModel:
        return LinearModel(Params(self.coef, self.intercept), self.loss, self.penalty)

    def _fitted(self, X: Any = None, y: Any = None, sample_weight: Any = None) -> "FitResult":
        """Return the result beside the data that are given, or those that it keeps."""
        if X is not None:
            return self.with_data(X, y, sample_weight)
        if y is not None or sample_weight is not None:
            raise ValueError("X is missing: y and sample_weight go with it")
        if "_data" not in vars(self):
            raise ValueError(
                "X and y are missing: this result has no data of its own, since it was loaded, copied or pickled, or "
                "fitted in parts; pass them, or use result.with_data(X, y)"
            )
        return self

    @property
    def _fitted_rows(self) -> BaseData:
        """The data that were fitted."""
        rows: BaseData = vars(self._fitted())["_data"]
        return rows

    def _covariance(self, kind: str, groups: Any) -> Covariance:
        """Return the covariance of the estimates; that of the model is kept."""
        if kind != "model" or groups is not None:
            return covariance(self._model, self._fitted_rows, kind, groups)
        known = vars(self)
        if "_model_covariance" not in known:
            known["_model_covariance"] = covariance(self._model, self._fitted_rows)
        estimate: Covariance = known["_model_covariance"]
        return estimate

    def cov(
        self,
        X: Any = None,
        y: Any = None,
        *,
        kind: str = "model",
        groups: Any = None,
        sample_weight: Any = None,
    ) -> Any:
        """Return the covariance of the estimates; the intercept is the last of them.

        Parameters
        ----------
        X, y, sample_weight : array, optional
            The data that were fitted; by default those that the result keeps.
        kind : str
            ``"model"``, the default, takes the variance that the loss says: as of statsmodels' OLS, GLM and RLM.
            ``"HC0"`` to ``"HC3"`` are White's sandwich and its corrections, which do without it, and ``"cluster"``
            is that of rows that depend on each other within `groups`. See `agd.inference.covariance`.
        groups : array_like, shape (n,), optional
            The cluster of each row, for ``"cluster"``: numbers or text.

        Returns
        -------
        array, shape (..., d, d)
            d counts the intercept. NaN for parameters that dependent columns leave open.

        Raises
        ------
        ValueError
            For a penalised fit, a loss that is not smooth or has several outputs, and one that is no likelihood
            with ``"model"``; and where the data are neither kept nor given.
        """
        estimate = self._fitted(X, y, sample_weight)._covariance(kind, groups)
        return self._on_device(estimate.matrix)

    @property
    def std_error(self) -> Any:
        """The standard errors of the coefficients, and of the intercept last, shape (..., d): see `cov`."""
        return self._on_device(self._covariance("model", None).std_error)

    def _on_device(self, host: Any) -> Any:
        return backends.to_device_of(host, self.coef)

    def conf_int(self, level: float = 0.95, *, kind: str = "model", groups: Any = None) -> Any:
        """Return confidence intervals of the coefficients, and of the intercept last.

        Parameters
        ----------
        level : float
            Their level, between 0 and 1. Student's t gives their width where the dispersion is estimated, as of
            the squared loss, and the normal distribution otherwise.
        kind, groups
            As of `cov`.

        Returns
        -------
        array, shape (..., d, 2)
            Their lower and upper ends.
        """
        level = as_share("level", level)
        estimate, params = self._covariance(kind, groups), host_params(self._model.params)
        half = estimate.half_width(level)[..., None] * estimate.std_error
        return self._on_device(np.stack([params - half, params + half], axis=-1))

    def summary(
        self,
        X: Any = None,
        y: Any = None,
        *,
        kind: str = "model",
        groups: Any = None,
        sample_weight: Any = None,
        level: float = 0.95,
    ) -> Summary:
        """Return the table of the fit: coefficients with standard errors, tests and intervals, and its statistics.

        Parameters
        ----------
        X, y, kind, groups, sample_weight
            As of `cov`.
        level : float
            The level of the intervals, between 0 and 1.

        Returns
        -------
        Summary
            It prints, is HTML in a notebook, and has the numbers as arrays and by `to_frame`.

        Raises
        ------
        ValueError
            As `cov`, and for a batch of problems.

        Examples
        --------
        >>> import agd
        >>> print(agd.fit([[1.0], [2.0], [3.0], [5.0]], [2.0, 4.0, 5.0, 8.0]).summary())
        squared_error: converged ...
        """
        level, fitted = as_share("level", level), self._fitted(X, y, sample_weight)
        estimate = fitted._covariance(kind, groups)
        names, title = self.feature_names, f"{self.loss.name}: {self.message}"
        return summarise(fitted._model, fitted._fitted_rows, estimate, names, title, level)

    def wald_test(
        self, R: Any, r: Any = 0.0, *, kind: str = "model", groups: Any = None
    ) -> WaldTest:
        """Test whether R @ parameters = r, for the coefficients and, in the last column of R, the intercept.

        Parameters
        ----------
        R : array_like, shape (d,) or (q, d)
            The combinations that are tested together.
        r : array_like, shape () or (q,)
            Their values.
        kind, groups
            As of `cov`.

        Returns
        -------
        WaldTest
            The statistic, its p-value, and the distribution: F where the dispersion was estimated, else chi squared.
        """
        return wald_test(host_params(self._model.params), self._covariance(kind, groups), R, r)

    def score(
        self,
        X: Any = None,
        y: Any = None,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        exposure: Any = None,
    ) -> Any:
        """Return how well the model predicts: 1 at best, as scikit-learn's `score`.

        Parameters
        ----------
        X, y, sample_weight, offset, exposure : array, optional
            Rows, targets or labels, and as of ``agd.fit``; by default those that were fitted.

        Returns
        -------
        float, or numpy.ndarray of shape (...)
            The accuracy of classes; D², the share of the deviance that is explained, of counts and other
            distributions; R² otherwise, of the squared loss with offsets that of y less these. One for each problem
            of a batch, or target.
        """
        if offset is not None or exposure is not None:
            fitted = self.with_data(X, y, sample_weight, offset=offset, exposure=exposure)
        else:
            fitted = self._fitted(X, y, sample_weight)
        return score(fitted._model, fitted._fitted_rows)[()]

    @property
    def deviance(self) -> Any:
        """The deviance of the rows that were fitted, of the squared loss their sum of squared residuals, shape (...)."""
        return deviance(self._model, self._fitted_rows)[()]

    def as_model(self, **names: Any) -> Model:
        """Return what a file has of the result: plain numbers, text and lists.

        Parameters
        ----------
        **names
            Fields of `agd.model_file.Model` that the result does not know: the `target`, the `features`, the
            `classes` as a table writes them; and what `fit` has to say more, such as the ``rows``.

        Raises
        ------
        TypeError
            For a loss or a penalty that is not one of agd's, since a file holds no code.
        ValueError
            For coefficients that are not finite.
        """
        more = names.pop("fit", {})
        status = [Status(code).name for code in np.ravel(self.status)]
        fit = {
            "method": self.method,
            "status": status if np.ndim(self.status) else status[0],
            "converged": self.success,
            "steps": self.nit,
            "loss": self.fun,
            "message": self.message,
            "evaluations": self.nfev,
            "gradient_evaluations": self.njev,
            "host_reads": self.n_sync,
            "passes": self.n_passes,
            "solver": self.solver,
            "gradient": {"coefficients": self.jac.coef, "intercept": self.jac.intercept},
            "gradient_norm": self.grad_norm,
            "tolerance": self.certificate.tolerance
            if np.isscalar(self.certificate.tolerance)
            else math.nan,
            **more,
        }
        content: dict[str, Any] = {
            "target": None,
            "features": self.feature_names,
            "classes": None if self.classes is None else list(self.classes),
            **names,
        }
        model = Model(
            **content,
            coefficients=as_json(self.coef),
            intercept=as_json(self.intercept),
            loss=encode_loss(self.loss),
            penalty=encode_penalty(self.penalty),
            fit={name: as_json(value) for name, value in fit.items()},
            dtype=_float_type_of_file(self.coef),
            label_dtype=self.label_dtype,
            targets=self.targets,
            alpha=as_json(self.alpha),
        )
        model.check()
        return model

    def save(self, path: str | Path) -> None:
        """Write the model to a file that `agd.load` and the command line read: see `agd.save`."""
        self.as_model().save(Path(path))

    def decision_function(self, X: Any, *, offset: Any = None, exposure: Any = None) -> Any:
        """Return the linear predictor z = X @ coef + intercept + offset.

        Parameters
        ----------
        X : array, sparse matrix or frame, shape (..., n, p)
            Rows, of the columns that were fitted.
        offset, exposure : array, shape (n,) or (..., n), optional
            As of ``agd.fit``, for these rows; by default an offset of 0, which is an exposure of 1.

        Returns
        -------
        array, shape (..., n), or (n, k) for a y of k targets
            z; of a loss with several outputs it has one more axis for these, the last.

        Raises
        ------
        ValueError, TypeError
            If X has another number of columns, another library or another device, or is a frame whose
            columns are not named, and ordered, as those that were fitted.
        """
        check_columns(X, self.feature_names)
        outputs = self.loss.outputs is not None
        X = as_features(X, self.coef, outputs=outputs, several=self.targets is not None)
        with np.errstate(all="ignore"):  # what overflows is infinite, and tiny products are 0
            z = linear_predictor(Params(self.coef, self.intercept), X, outputs=outputs)
        if self.targets is not None:
            # The targets are problems to the solvers, and come first there; in y they are columns.
            z = backends.namespace(z).permute_dims(z, (1, 0, *range(2, z.ndim)))
        offset = as_offset(self.loss, offset, exposure)
        return z if offset is None else add_offset(z, offset, several=self.targets is not None)

    def predict(
        self,
        X: Any,
        *,
        interval: float | None = None,
        of: str = "observation",
        offset: Any = None,
        exposure: Any = None,
    ) -> Any:
        """Return what the model expects of y: its mean, or the label of the likeliest class.

        Parameters
        ----------
        X : array or sparse matrix, shape (..., n, p)
            Rows, of the columns that were fitted.
        interval : float, optional
            The level of an interval for each prediction, such as 0.95; for the squared loss.
        of : str
            What the interval holds: ``"observation"``, a new y of weight 1 (a prediction interval), or ``"mean"``,
            the mean of y at such a row (a confidence interval).
        offset, exposure : array, shape (n,) or (..., n), optional
            As of `decision_function`.

        Returns
        -------
        array, shape (..., n), or (n, k) for a y of k targets
            Predictions, in the units (or labels) of y; labels that are text in a NumPy array. Of a row with NaN
            the prediction is NaN, as its probabilities are. With `interval` a tuple of three such arrays,
            ``prediction``, ``lower`` and ``upper``.

        Raises
        ------
        ValueError
            Of a row with NaN, where the labels are text, booleans or integers; for an interval of another loss than
            the squared one, and as `cov`; and as `decision_function`.

        Examples
        --------
        >>> import numpy as np
        >>> import agd
        >>> line = agd.fit([[1.0], [2.0], [3.0], [4.0]], [2.0, 4.0, 5.0, 8.0])
        >>> line.predict([[2.0]], interval=0.95, of="mean").lower.round(3)
        array([2.406])
        """
        z = self.decision_function(X, offset=offset, exposure=exposure)
        if interval is not None:
            return self._prediction_interval(X, z, as_share("interval", interval), of)
        if self.classes is None:
            with np.errstate(all="ignore"):
                return self.loss.predict(z)
        unknown = backends.namespace(z).isnan(z)
        if self.loss.outputs is not None:
            unknown = backends.namespace(z).any(unknown, axis=-1)
        return _labels_at(self.loss.likeliest_class(z), self.classes, unknown, self.label_dtype)

    def _prediction_interval(self, X: Any, prediction: Any, level: float, of: str) -> Interval:
        """Return predictions of the squared loss, with intervals of this level."""
        as_choice("of", of, ("observation", "mean"))
        if not self.loss.quadratic:
            raise ValueError(
                f"interval goes with loss 'squared_error', whose errors are normal, got loss {self.loss.name!r}"
            )
        estimate = self._covariance("model", None)
        coef, constant = map(self._on_device, estimate.roots())
        X = as_features(X, self.coef, several=self.targets is not None)
        roots = linear_predictor(Params(coef, constant), X, outputs=True)
        xp = backends.namespace(roots)
        variance = xp.sum(roots * roots, axis=-1)
        if of == "observation":
            variance = variance + self._on_device(estimate.dispersion)[..., None]
        half = self._on_device(estimate.half_width(level))[..., None] * xp.sqrt(variance)
        if self.targets is not None:
            half = xp.permute_dims(half, (1, 0))
        return Interval(prediction, prediction - half, prediction + half)

    def predict_proba(self, X: Any, *, offset: Any = None) -> Any:
        """Return the probabilities of the classes, on the last axis.

        Parameters
        ----------
        X : array or sparse matrix, shape (..., n, p)
            Rows, of the columns that were fitted.
        offset : array, shape (n,) or (..., n), optional
            As of `decision_function`.

        Returns
        -------
        array, shape (..., n, classes), or (n, k, classes) for a y of k targets
            The probability of each class, in the order of `classes`.

        Raises
        ------
        AttributeError
            If the loss has no classes.
        """
        if self.classes is None:
            raise AttributeError(f"loss {self.loss.name!r} has no classes: use predict")
        with np.errstate(all="ignore"):  # a probability below the smallest number is 0
            return self.loss.class_probabilities(self.decision_function(X, offset=offset))


def with_labels(result: FitResult, labels: tuple[Any, ...] | None, dtype: str | None) -> FitResult:
    """Return a result with the labels that a user gave, as `agd.data.checks.encode_labels` tells them."""
    if labels is not None:
        return replace(result, classes=labels)
    if dtype is None or result.classes is None:
        return result
    return replace(result, classes=tuple(map(int, result.classes)), label_dtype=dtype)


def _float_type_of_file(coef: Any) -> str:
    """Return the type of the coefficients, or the next wider one of NumPy's."""
    name = backends.dtype_name(coef.dtype)
    return name if name in FLOAT_TYPES else "float32"


def save(result: FitResult, path: str | Path) -> None:
    """Write a fitted model to a file: readable JSON, which holds no code and keeps every bit of the coefficients.

    What a prediction needs is in it, and how the fit went, but for its history; not the data. The file is written
    whole or not at all.

    Parameters
    ----------
    result : FitResult
        Of ``agd.fit`` or `Online`, with any loss and penalty of ``agd.loss``, also of batches and several targets.
    path : str or Path
        The file, such as ``model.json``. ``agd predict`` reads it as well, if X had names of columns.

    Raises
    ------
    TypeError
        For a loss or a penalty of your own, since a file holds no code.
    ValueError
        For coefficients that are not finite.
    OSError
        If the file cannot be written.
    """
    result.save(path)


def load(path: str | Path, backend: str = "numpy") -> FitResult:
    """Read a fitted model that `save` or ``agd fit --save`` wrote, of this version of agd or an earlier one.

    Parameters
    ----------
    path : str or Path
        The file.
    backend : str
        The library and device of the coefficients, and so of rows to predict for, as of `agd.backends.select`:
        ``"numpy"``, ``"torch:cuda"``, ``"jax"``.

    Returns
    -------
    FitResult
        The result that was saved, but for its data and the history of its run.

    Raises
    ------
    ValueError
        For a file that is missing, of another kind, truncated or inconsistent, in one line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import agd
    >>> line = agd.fit([[1.0], [2.0], [4.0]], [1.5, 2.5, 4.5])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     agd.save(line, pathlib.Path(folder, "line.json"))
    ...     agd.load(pathlib.Path(folder, "line.json")).predict([[3.0]]).round(6)
    array([3.5])
    """
    path = Path(path)
    model, chosen = Model.load(path), backends.select(backend)
    # Chunked rows are predicted for by coefficients in memory, as of a fit.
    make = np.asarray if chosen.backend.chunked else chosen.asarray
    try:
        return _as_result(model, make)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _as_result(model: Model, make: Any) -> FitResult:
    """Return the result that a file is of; `make` turns arrays of NumPy into those of another library."""

    def array(numbers: Any, like: Any = None) -> Any:
        if like is not None and (numbers is None or numbers.shape != like.shape):
            numbers = np.full(like.shape, math.nan)
        return None if numbers is None else make(numbers.astype(model.dtype))

    coef, constant = model.coef, model.constant
    slopes: Any = model.fit.get("gradient")
    slopes = slopes if isinstance(slopes, dict) else {}
    gradient = Params(
        array(_host_numbers(slopes.get("coefficients")), coef),
        None if constant is None else array(_host_numbers(slopes.get("intercept")), constant),
    )
    number = model.number_of_fit
    loss, status = model.make_loss(), _statuses(model)
    nit, fun = _whole(number("steps", 0)), number("loss")
    norm, calls = number("gradient_norm"), _whole(number("evaluations", 0))
    certificate = Certificate(norm, number("tolerance"))
    seen = (
        np.asarray([np.max(nit)]),
        *(np.asarray(x)[None] for x in (fun, norm, norm * 0.0, calls)),
    )
    point = Params(array(coef), array(constant))
    return FitResult(
        x=point, fun=fun, jac=gradient, nit=nit, nfev=calls,
        njev=_whole(number("gradient_evaluations", 0)), status=status,
        success=np.equal(status, Status.CONVERGED) if np.ndim(status) else model.converged,
        message=_messages(model, status), history=History(*seen),
        n_sync=_whole(number("host_reads", 0)), method=str(model.fit.get("method")),
        certificate=certificate, coef=point.coef, intercept=point.intercept, loss=loss,
        classes=None if model.classes is None else tuple(model.classes),
        n_passes=None if model.fit.get("passes") is None else _whole(number("passes")),
        feature_names=model.features, solver=model.fit.get("solver"), targets=model.targets,
        alpha=model.alpha, label_dtype=model.label_dtype, penalty=model.make_penalty(),
    )  # fmt: skip


def _host_numbers(value: Any) -> Any:
    """Return nested lists of numbers as an array; None where they are none."""
    try:
        return None if value is None else np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def _whole(number: Any) -> Any:
    return number.astype(int) if isinstance(number, np.ndarray) else int(number)


def _statuses(model: Model) -> Any:
    """Return the status of each problem, by its name in the file."""
    names = model.fit.get("status", "CONVERGED" if model.converged else "MAX_ITER")
    several = isinstance(names, list)
    try:
        codes = [Status[name] for name in (names if several else [names])]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"fit: status must be one of {', '.join(Status.__members__)}, got {names!r}"
        ) from error
    steps = np.asarray(model.number_of_fit("steps", 0))
    return np.asarray(codes).reshape(steps.shape) if several else codes[0]


def _messages(model: Model, status: Any) -> str:
    message = model.fit.get("message")
    if isinstance(message, str):
        return message
    return (
        f"{model.fit.get('status')}: read from a file of agd 0.1"
        if np.ndim(status)
        else Status(status).advice
    )


def _labels_at(
    number: Array, labels: tuple[Any, ...], unknown: Array, dtype: str | None = None
) -> Array:
    """Return the label at each position, text as an array of NumPy's; NaN where it is unknown."""
    result: Array
    if isinstance(labels[0], bool | str | int):
        refuse_rows_without_class(unknown)
    if isinstance(labels[0], bool):
        result = number > 0.0
        return result
    if isinstance(labels[0], str):
        text: Any = np.asarray(labels)[backends.to_numpy(number).astype(int)]
        result = text
        return result
    # By comparisons: a lazy array takes no entries of another by its values.
    xp, zero = backends.namespace(number), 0.0 * number
    result = zero + labels[0]
    for position, label in enumerate(labels[1:], start=1):
        result = xp.where(number == position, zero + label, result)
    if isinstance(labels[0], int):
        return xp.astype(result, getattr(xp, dtype or "int64"))
    return xp.where(unknown, zero + math.nan, result)


def as_fit_result(
    result: Result, screened: Screened, loss: Loss, solver: str | None = None
) -> FitResult:
    """Return the result of a run over screened data as that of a linear model.

    Parameters
    ----------
    result : Result
        The run's; its point is a `Params`.
    screened : Screened
        The data, as they were screened.
    loss : Loss
        The loss that was minimised.
    solver : str, optional
        The row of ``agd.run.SOLVERS`` that served.

    Returns
    -------
    FitResult
        The same result, with the model's names.
    """
    values = dict(result)
    values["n_sync"] += screened.n_sync
    params, blocks = result.x, screened.blocks
    return FitResult(
        **values, coef=params.coef, intercept=params.intercept, loss=loss, classes=screened.classes,
        n_passes=blocks.passes[0] if blocks.lazy else None, solver=solver,
    )  # fmt: skip
