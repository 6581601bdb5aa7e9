"""Door: fit linear models by descent, on whatever array you hold.

>>> import numpy as np
>>> import agd
>>> X = np.asarray([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [8.0]])
>>> y = np.asarray([5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 9.0])
>>> line = agd.fit(X, y)
>>> line.coef.round(6), round(float(line.intercept), 6), line.status.name
(array([0.5]), 5.0, 'CONVERGED')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Loss, Method, Params, Penalty
from agd._validation import (
    as_flag,
    as_start,
    check_callback,
    warn_dependent,
    warn_unconverged,
)
from agd.data import as_data
from agd.data.base import BaseData
from agd.data.checks import as_offset, as_shares, encode_labels
from agd.data.screening import screen
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments
from agd.loss import get
from agd.loss.penalties import as_target_penalty
from agd.model_selection import choose_model
from agd.run import Criterion, FitResult, Result, Stop, as_stop
from agd.run.diagnosis import explain, name_interrupted_fit, warns_of_status
from agd.run.linear_problem import LinearProblem, absorb_offset
from agd.run.result import with_labels
from agd.run.solver_table import solve
from agd.update import Descent, Rule, Trajectory, resolve
from agd.update.powers import as_epochs
from agd.update.trajectory import Path

__all__ = [
    "FitResult",
    "fit",
    "path",
]


def fit(
    X: Any,
    y: Any = None,
    *,
    loss: str | Loss = "squared_error",
    penalty: Penalty | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    intercept: bool = True,
    standardize: bool = False,
    alpha: str | None = None,
    method: str | Rule | Method = "auto",
    stop: Stop | Criterion | str | None = None,
    init: Any = None,
    callback: Callable[[Result], object] | None = None,
    device: str | None = None,
    offset: Any = None,
    exposure: Any = None,
) -> FitResult:
    r"""Fit a linear model: minimise mean loss(X w + b, y) + penalty(w) over w and b.

    ::

        min over w, b of  Σ_i s_i l(x_i · w + b, y_i) / Σ_i s_i + penalty(w)

    Library, device and dtype come from X and stay; nothing is written to what you pass.

    Parameters
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows: an array of any library in ``agd.backends.TABLE``, a Dask DataFrame, or what NumPy makes
        an array of. Leading axes are independent problems, each with its own status and count. Integers
        become the library's default float. A `Stream` of batches gives X, y and the weights anew for
        each pass. The names of a frame's columns are kept. A sparse array or matrix of SciPy or CuPy is
        read row by row and never made dense: CSR as it is, CSC from a copy to CSR, other formats too,
        with a warning.
    y : array, shape (n,), (..., n), or (n, k)
        The targets. Beside a shared X of two axes, (n, k) are k targets, fitted side by side: `coef` is then
        (k, p), and predictions are (n, k), also for k = 1. Labels of classes may be any numbers, text, or booleans.
    loss : str or Loss
        ``"squared_error"``, ``"huber"``, ``"log_loss"`` (two classes), ``"softmax"`` (any number of
        classes), ``"binomial"`` (shares in [0, 1], or counts), ``"poisson"``, ``"gamma"``, another key of
        ``agd.loss.LOSSES``, or an object such as ``agd.loss.Huber(delta=1.35)`` or
        ``agd.loss.Poisson(link="identity")``.
    penalty : Penalty, optional
        What is added to the mean loss, such as ``agd.loss.L2(0.1)`` or ``agd.loss.L1(0.1)``, with a weight for
        each coefficient ``agd.loss.L1(0.1, weights=[1.0, 0.0])``, or a set
        that the coefficients must lie in, such as ``agd.loss.NonNegative()``, or a sum of these; it spares
        the intercept.
    sample_weight : array, shape (n,), optional
        A weight of 0 or more for each row; beside k targets also (n, k). There, and in (..., n) of a batch, a target
        of weight 0 is missing, and may be NaN.
    class_weight : dict or str, optional
        For a loss of classes, a weight for each label, such as ``{"yes": 10.0}`` (1 for those that are left out), or
        ``"balanced"``: all classes weigh the same. The weights of the rows are multiplied by it.
    intercept : bool
        Whether the model has a constant term.
    standardize : bool
        Whether the penalty acts in standard units: on each coefficient times the weighted standard deviation of
        its column. The coefficients are reported in the units of X all the same, and sets such as
        ``agd.loss.Box`` stay in these. It takes two passes over the data.
    alpha : str, optional
        What chooses the strength, by which the penalty is multiplied; `result.alpha` is the one chosen. ``"cv"`` is
        the one whose models predict rows that were left out best, in 5 folds, and ``"cv_1se"`` the largest within a
        standard error of it (``agd.cross_validate``); ``"aic"``, ``"bic"`` and ``"gcv"`` are criteria of
        ``agd.penalty_path``. With default settings only: no `method`, `stop`, `init`, `callback` or `device`.
    method : str, Rule or Method
        What takes the steps. ``"auto"``, the default, needs no tuning: ``agd.run.select_solver`` names a
        row of ``agd.run.SOLVERS`` for the sizes (n rows, p columns), the kind of data, the loss and the
        penalty. If the values of the data do not suit it, the row that it falls back to follows. In quotes
        after the name of each row: what ``result.method`` begins with.

        Squared loss with no penalty or `L2`:

        - ``"normal_direct"``, "descent in whitened coordinates": one problem, with `stop`, `init` and
          `callback` left out, of p <= 361, or p <= 2,000 where the data are in NumPy arrays. The host reads the
          moments at once and solves the normal equations; the data evaluate the answer. Columns that are
          constant, dependent or badly conditioned fall back to ``"normal"``.
        - ``"normal_batched"``, the same: several problems of at most 131,072 entries and p <= 16 each, with
          1 MiB of moments at most where they are not NumPy arrays. Falls back to ``"normal"`` likewise, and with
          weights or in single precision.
        - ``"normal_dual"``, "normal equations of the rows": one problem in dense NumPy arrays of n < p and
          256 < p <= 2,000, with `stop`, `init` and `callback` left out. An equation for each row in place of one
          for each column; without a penalty the shortest answer. Rows that are dependent or badly conditioned
          fall back to ``"normal"``.
        - ``"normal"``, the same: p <= 2,000; an `L2` with weights too, where ``"newton"`` is not sooner; of a sparse X with a ridge, p <= 256 or p³ <= 400 times its stored
          entries. One pass for the moments, then Newton steps in coordinates that whiten the columns, refined on the
          data; with a condition number above 1e7 "by QR, refined in twice the precision". Moments that the
          dtype cannot hold fall back to ``"lbfgs_scaled"``.
        - ``"cg_kernel"``, "conjugate gradients on the rows": wider X with n < p, in memory. Without a
          penalty it gives the shortest answer. Falls back to ``"cg"`` with an `init` or a convergence test
          of your own, and where the spreads of the columns differ by a factor above 100.
        - ``"cg"``, "conjugate gradients, centred and scaled": wider X otherwise; refined on the data.

        Squared loss with a penalty that is handled by its prox, or a set:

        - ``"semismooth_newton"``, "semismooth Newton on the moments": one problem, p <= 256, a penalty that
          acts entry by entry, and `stop`, `init` and `callback` left out. The host reads the moments at once,
          and solves for the entries that are at no kink of the penalty until these stay the same; refined on
          the data. Where that does not lead to the minimum it falls back to ``"active_set"``.
        - ``"working_sets"``, "proximal Newton on working sets": one problem in dense NumPy arrays of p > 256,
          likewise, and one of agd's penalties without arrays. Minimises over few columns at a time by their
          moments, and looks at all of them between. Falls back to ``"fista"``.
        - ``"active_set"``, "accelerated proximal gradient and faces on the moments": likewise, where the host
          can read numbers at no cost. Steps on the moments, each followed by the minimum over the entries
          that are free; refined on the data. Falls back to ``"fista_moments"``.
        - ``"fista_moments"``, "accelerated proximal gradient on the moments": p <= 2,000 and n >= 4 p.
          Falls back to ``"fista"`` likewise.
        - ``"fista"``, "accelerated proximal gradient": otherwise; FISTA on the data.

        Other losses, and the squared loss with a smooth penalty of your own:

        - ``"proximal_newton"``, "proximal Newton": one problem of any kind of data with p <= 256, and a penalty
          that acts entry by entry. Each step takes one pass, and minimises the quadratic model of the loss
          together with the penalty on the host. Values that are not finite, and penalties of your own beside
          arrays that are not NumPy's, fall back to ``"proximal_gradient"``.
        - ``"proximal_gradient"``, "proximal gradient": with a penalty that is handled by its prox, or a
          set; steps of Barzilai and Borwein.
        - ``"newton_kernel"``, "Newton on the rows": one wide problem of NumPy arrays with an `L2`, n < p, n <= 512 and
          at most 1,048,576 entries, `stop`, `init` and `callback` left out. The steps are taken in the span of the
          rows. Falls back to ``"lbfgs_whitened"``.
        - ``"newton_direct"`` and ``"proximal_newton_direct"``, the names of the two rows that they fall back to,
          ``"newton"`` and ``"proximal_newton"``: the same steps without a loop, for one problem of NumPy arrays of
          at most 262,144 entries with a prox, else n <= 32,768 and p <= 400, where a model of their costs has them
          sooner than L-BFGS, with `stop`, `init` and `callback` left out; also softmax, of at most 400 parameters,
          and 2,097,152 entries times squared classes.
          A Hessian that is dear serves several steps. They are left where a fit has no minimum,
          or takes more than 14 steps without a ridge.
        - ``"newton"``, "Newton": a convex loss of one output, as all but softmax are, with no penalty or `L2`,
          also the squared loss with an `L2` of weights; X not sparse, n >= p and n p² <= 4,000,000, or p <= 128
          in chunks and streams. Each step takes one pass, for value, gradient and Hessian together. Columns that
          are nearly dependent, and values that are not finite, fall back to ``"lbfgs_whitened"``.
        - ``"lbfgs_whitened"``, "L-BFGS ... whitened": p as for ``"normal"``. With many rows on the host or
          in chunks it begins where a fit of a subsample ends ("begun on ... rows"). Moments that the dtype
          cannot hold fall back to ``"lbfgs_scaled"``.
        - ``"lbfgs_scaled"``, "L-BFGS": a sparse X of more columns, centred and scaled. A dense X falls back
          to ``"accelerated"``.
        - ``"accelerated"``, "accelerated gradient descent": otherwise, in centred and scaled coordinates;
          "step by backtracking" where the loss has no curvature bound, such as ``"poisson"``.

        Losses that are not convex, ``"cauchy"`` and ``"tukey"``, without an `init`:

        - ``"convex_start"``, the name of a row above and "from the minimum of huber": the fit of a convex loss,
          and then of this one from there.

        Penalties that are not convex, `MCP` and `SCAD`:

        - ``"reweighted_lasso"``, the name of a row above and "by ... lassos that touch the penalty": the lasso, and then
          lassos with the weights that touch the penalty at the answer before, until these stay the same.

        Huber's loss with ``delta="auto"``:

        - ``"scale_estimate"``, the name of a row above and "delta by the spread of the residuals": fits with one
          delta after another, until it is 1.35 spreads of the residuals.

        Losses that are not smooth:

        - ``"smoothing"``, the name of a row above and "on Moreau envelopes": smooth losses below the loss,
          ever nearer to it, until the value is within 1e-6 of the loss of the best constant model. For a
          piecewise linear loss of NumPy arrays with p <= 256 and independent columns, without a penalty or
          with `L1`, the simplex method goes on to the exact minimum.

        Or choose the method: ``"gd"`` is full-batch gradient descent in the data's own units, with
        learning rate 1/L. Of the squared loss with no penalty or `L2` the whole run of ``"gd"``, and of
        ``"momentum"`` and ``"nesterov"`` with a constant rate, is known in closed form, and no step is
        taken where that is sooner (row ``"closed_form"``, else ``"iterations"``). Any other key of
        ``agd.update.RULES`` or ``agd.update.MINIMIZERS`` serves as well (``"fista"`` and
        ``"proximal_gradient"`` handle penalties with a prox, ``"projected_gradient"`` sets; ``"sgd"`` and
        ``"svrg"`` step by mini-batches in centred and scaled coordinates, and end where epochs no longer gain),
        a rule such as ``agd.update.adam(0.1)``, or an object that follows the protocol `Method`.
    stop : Stop or Criterion, optional
        When to stop; by default a relative gradient of eps^(2/3) or 10,000 steps. Criteria compose:
        ``agd.GradTol(1e-8) & agd.ValueTol(1e-12) | agd.Deadline(seconds=10)``. ``"gcv"`` stops a
        run that is known in closed form at the epoch of the smallest generalised cross-validation.
    init : FitResult, Params, tuple or array, optional
        Where to start: an earlier result, (coef, intercept), or coef. By default 0, and for
        ``"auto"`` the best constant model. Of a set, the nearest point in it.
    callback : callable, optional
        Called with the result so far every ``stop.check_every`` steps; it ends the run by raising
        StopIteration or returning True.
    device : str, optional
        Where to fit NumPy arrays and memory maps, as `agd.backends.select` takes it: ``"cupy"``,
        ``"torch:cuda"``. They are moved once where they fit into its free memory, and otherwise batch
        by batch on each pass, as ``Stream.from_arrays`` does. The result is on the device.
    offset : array, shape (n,), optional
        What is added to the predictor of each row, X w + b; also (n, k) beside k targets, and (..., n) of a batch.
        A stream brings its own along. Predictions take an offset of their own, by default 0.
    exposure : array, shape (n,), optional
        In place of an offset, for losses with the log link: the time, area or number of units that a row was
        counted over, above 0. The offset is its logarithm, and predictions are per unit of exposure.

    Returns
    -------
    FitResult
        Coefficients, predictions, the status and how it came about.

    Raises
    ------
    ValueError
        For shapes that do not fit, values that are not finite, targets outside the loss's domain,
        weights that are negative or all zero, columns or targets of a size at which the fit overflows,
        unknown names, arrays on two devices, a stream beside a `device`, and a method that cannot
        handle the penalty.
    TypeError
        For data that are no real numbers, arrays of two libraries, an `intercept` that is neither True
        nor False and a `callback` that cannot be called; beside a `device`, for arrays that are not
        NumPy's.
    MemoryError
        For independent problems that do not fit in the memory of a `device`.
    KeyboardInterrupt
        As it was raised; of a run in steps with the fit so far as its attribute ``result``.

    Warns
    -----
    UserWarning
        If a sparse X had to be copied from another format than CSR or CSC.
    ConvergenceWarning
        If the run ended before it converged, or no minimum exists; the message says what to do.
    numpy.exceptions.RankWarning
        If the columns of X are linearly dependent and no penalty decides between the answers, or so
        nearly that fewer than four digits of the coefficients are left. By other methods than ``"auto"``
        only the first is known, for one problem of the squared loss with at most 64 columns and a method
        that measures curvature: descent with any rate, momentum and line searches, but not ``"adam"``
        and its like.

    Notes
    -----
    The host reads from the device once to check the data, with ``method="auto"`` once for the moments or
    once or twice for the columns' spectrum (and then after each of the few whitened steps), and once every
    ``stop.check_every`` steps, or once an evaluation by a method with a line search; ``n_sync`` counts these reads. (On CUDA, torch's own ``eigh`` and ``svd`` wait for their status
    as well.)

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> X = np.asarray([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 5.0]])
    >>> y = X @ np.asarray([2.0, -1.0]) + 3.0
    >>> agd.fit(X, y).coef.round(6)
    array([ 2., -1.])
    """
    if alpha is not None:
        if not (isinstance(method, str) and method == "auto") or any(
            given is not None for given in (stop, init, callback, device, class_weight)
        ):
            raise ValueError(
                f"alpha={alpha!r} chooses among fits with default settings: leave out method, stop, init, callback "
                f"and device, and give weights of classes as sample_weight"
            )
        return choose_model(
            alpha, X, y, penalty, loss=loss, sample_weight=sample_weight, offset=offset, exposure=exposure,
            intercept=intercept, standardize=standardize,
        )  # fmt: skip
    chosen, intercept = get(loss), as_flag("intercept", intercept)
    penalty = as_target_penalty(penalty)
    check_callback(callback)
    solver = resolve(method, chosen, prox=penalty is not None and not penalty.smooth)
    y, sample_weight = as_shares(chosen, X, y, sample_weight)
    y, labels, label_dtype = (y, None, None) if chosen.classes is None else encode_labels(y)
    if class_weight is not None and chosen.classes is None:
        raise ValueError(
            f"class_weight must be None for loss {chosen.name!r}, which has no classes"
        )
    data = as_data(X, y, sample_weight, device, as_offset(chosen, offset, exposure))
    data, fitted = absorb_offset(data, chosen)
    problem = LinearProblem(
        data, fitted, penalty, intercept, as_stop(stop), init, callback,
        method=None if isinstance(method, str) and method == "auto" else solver,
        default_settings=stop is None and init is None and callback is None,
        class_weight=class_weight, labels=labels,
    )  # fmt: skip
    reads: list[int]
    # NumPy may be set to raise: what overflows is said by status and message, and what underflows is 0.
    quiet = np.errstate(all="ignore")
    with backends.device_context(data.X), backends.count_host_reads() as reads, quiet:
        try:
            if as_flag("standardize", standardize):
                problem = problem.standardized()
            result, rank_warning = explain(solve(problem), problem)
        except KeyboardInterrupt as interrupt:
            name_interrupted_fit(interrupt, problem, labels)
            raise
    names, targets = backends.column_names(X), data.targets
    # A kernel that reads nothing by this door has counted for itself.
    if reads[0] or names is not None or targets is not None:
        n_sync = reads[0] or result.n_sync
        result = replace(result, n_sync=n_sync, feature_names=names, targets=targets)
    result = with_labels(result, labels, label_dtype)
    if fitted is not chosen:
        result = replace(result, loss=chosen)
    result.attach(problem.penalty, problem.fitted_rows)
    if warns_of_status(result):
        warn_unconverged(result.message)
    if rank_warning:
        warn_dependent(rank_warning)
    return result


def path(
    X: Any,
    y: Any = None,
    *,
    epochs: int | Sequence[int],
    method: str | Rule | Method = "gd",
    loss: str | Loss = "squared_error",
    penalty: Penalty | None = None,
    sample_weight: Any = None,
    intercept: bool = True,
    init: Any = None,
) -> Path:
    r"""Return a linear model at any epochs of a descent: its whole path, for the price of one pass.

    The path is that of ``agd.fit`` with the same method. Read it as regularisation: an early epoch is a
    shrunken model, and ``agd.fit(..., stop="gcv")`` chooses one.

    Parameters
    ----------
    X, y, penalty, sample_weight, intercept, init
        As for ``agd.fit``; the penalty is None or an `L2`.
    epochs : int or sequence of int, shape (K,)
        Steps taken, 0 or more, in any order. A billion cost what one does.
    method : str or Rule
        ``"gd"``, ``"momentum"``, ``"nesterov"`` or such a rule with a constant learning rate.
    loss : str or Loss
        The squared loss: no other has a path in closed form.

    Returns
    -------
    Path
        coef (K, ..., p), intercept (K, ...), value (K, ...) and grad_norm (K, ...), the largest absolute
        partial derivative; without the first axis for a single epoch. In the library, dtype and device of
        X; infinite where the descent has outgrown the dtype.

    Raises
    ------
    ValueError
        For data that ``agd.fit`` refuses, another loss, and a method without a closed form.
    TypeError
        For another penalty, and epochs that are no whole numbers.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 3)); y = X @ np.asarray([1.0, 2.0, 3.0])
    >>> found = path(X, y, epochs=[1, 10, 100], method="nesterov")
    >>> found.coef.shape, bool(found.value[2] < found.value[1] < found.value[0])
    ((3, 3), True)
    """
    chosen, intercept = get(loss), as_flag("intercept", intercept)
    if not chosen.quadratic:
        raise ValueError(f"loss must be 'squared_error' for a path in closed form, got {loss!r}")
    mover = resolve(method, chosen)
    if not isinstance(mover, Descent):
        raise ValueError(  # noqa: TRY004 - most are names, which say nothing of types
            f"method must be 'gd', 'momentum', 'nesterov' or such a rule for a path in closed form, got "
            f"{method!r}"
        )
    data = as_data(X, y, sample_weight)
    with backends.device_context(data.X):
        with np.errstate(over="ignore"):  # weights whose sum overflows are said by the screen
            blocks = BaseData.of(*data)
        base = LinearObjective(screen(blocks, chosen).blocks, chosen, penalty, intercept)
        start = as_start(init, base.zeros(), intercept)
        whole = Trajectory.of(
            Moments.from_blocks(base.blocks),
            mover.rule,
            penalty=penalty,
            intercept=intercept,
            start=start,
        )
        return _cast_path(
            base.blocks.total.dtype, _on_data(whole, base, as_epochs(epochs)).at(epochs)
        )


def _on_data(whole: Trajectory, base: LinearObjective, epochs: Any) -> Trajectory:
    """Hold the last epoch against the data, where their dtype and the descent leave it sound."""
    if whole.parts.s.dtype != base.blocks.total.dtype or not epochs.size:
        return whole
    steps = np.full(whole.batch_shape, epochs.max())
    first, end = whole.at(0), whole.at_each(steps)
    with np.errstate(all="ignore"):
        value, grad = base.value_and_grad(Params(end.coef, end.intercept))
        xp = backends.namespace(value)
        sound = xp.isfinite(value) & (
            base.grad_norm(grad, Params(end.coef, end.intercept)) <= first.grad_norm
        )
        return whole.corrected(steps, value, grad) if backends.to_numpy(xp.all(sound)) else whole


def _cast_path(dtype: Any, found: Path) -> Path:
    """Return the path in the data's dtype."""

    def cast(x: Any) -> Any:
        return x if x is None else backends.namespace(x).astype(x, dtype, copy=False)

    grad = Params(cast(found.grad.coef), cast(found.grad.intercept))
    return Path(
        cast(found.coef), cast(found.intercept), cast(found.value), grad, cast(found.grad_norm)
    )
