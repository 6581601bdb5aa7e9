"""One linear fit as its solvers see it: data, loss, penalty and settings, and what is known of the values.

`agd.fit` makes a `LinearProblem`. `agd.run.select_solver` reads its `Traits` and names a solver; the solver
takes the problem and returns a `Solution`, or raises `NotApplicable`, and the next one in the table takes it.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import backends, loss
from agd._typing import Array, Data, Loss, Method, Params, Penalty, Tree
from agd._validation import as_start
from agd.data.base import BaseData
from agd.data.screening import Screened, screen, weigh_classes
from agd.gradient.column_stats import column_scaling, column_spread
from agd.gradient.conditioning import Columns
from agd.gradient.linear import LinearObjective, zero_params
from agd.gradient.moments import Moments, survey
from agd.gradient.preconditioner import Scaling
from agd.loss.base import OffsetLoss
from agd.loss.penalties import ridge_strength
from agd.run.result import Result, Status
from agd.run.stopping import Stop

__all__ = [
    "LinearProblem",
    "Plan",
    "Revealed",
    "Solution",
    "Traits",
    "absorb_offset",
    "acts_on_any_array",
]


# Moments of no more bytes are read and factored by the host: a transfer takes less than the launches that it saves.
MAX_HOST_MOMENT_BYTES = 2**20
# Every dtype holds numbers up to here: those of half precision.
MAX_HALF = 65504.0


class Traits(NamedTuple):
    """What the choice of a solver depends on: sizes, where the data are, the loss and the penalty.

    Attributes
    ----------
    rows : float
        The rows of X; infinite where their number is unknown.
    columns : int
        The columns of X.
    entries : float
        The numbers that X stores: of a sparse X those that are not 0, else rows times columns.
    batch_shape : tuple of int
        The independent problems, or the targets beside one X; () for one problem.
    numpy : bool
        Whether X is a NumPy array in single or double precision.
    host_accessible : bool
        Whether the host reads a number of w's kind at no cost.
    lazy : bool
        Whether a pass over the data is dear, as of Dask's chunks and streams.
    sparse : bool
        Whether X is sparse.
    quadratic : bool
        Whether the loss is the squared one.
    ridge : float
        The curvature of a smooth penalty; 0 without one.
    penalty : str
        ``"quadratic"`` (an `L2`, or none at all), ``"ridge"`` (an `L2` with weights), ``"smooth"``,
        ``"separable"`` or ``"coupled"``. The last two are handled by their prox, entry by entry or all at once.
    default_settings : bool
        Whether `stop`, `init` and `callback` were left out.
    smooth_loss : bool
        Whether the gradient of the loss is continuous.
    several_outputs : bool
        Whether the predictor of one row has several outputs, so that the loss's second derivative in it is a
        matrix.
    convex_loss : bool
        Whether the loss is convex in the predictor.
    starting_loss : bool
        Whether the fit begins at the minimum of another, convex loss.
    convex_penalty : bool
        Whether the penalty is convex.
    estimates_scale : bool
        Whether the spread of the residuals is estimated, of which the loss is made.
    """

    rows: float
    columns: int
    entries: float
    batch_shape: tuple[int, ...] = ()
    numpy: bool = True
    host_accessible: bool = True
    lazy: bool = False
    sparse: bool = False
    quadratic: bool = True
    ridge: float = 0.0
    penalty: str = "quadratic"
    default_settings: bool = False
    smooth_loss: bool = True
    several_outputs: bool = False
    convex_loss: bool = True
    starting_loss: bool = False
    convex_penalty: bool = True
    estimates_scale: bool = False

    @property
    def problems(self) -> int:
        """The number of independent problems, or of targets."""
        return math.prod(self.batch_shape)

    @property
    def moments_on_host(self) -> bool:
        """Whether the host works on the moments: they are in its memory, or small enough to be read at once."""
        bytes_of_moments = 8 * max(1, self.problems) * (self.columns + 1) ** 2
        return self.host_accessible or bytes_of_moments <= MAX_HOST_MOMENT_BYTES

    @property
    def penalty_needs_prox(self) -> bool:
        """Whether the penalty is left to its prox."""
        return self.penalty in {"separable", "coupled"}

    @property
    def least_squares(self) -> bool:
        """Whether the objective is a quadratic: the squared loss, alone or with a ridge."""
        return self.quadratic and self.penalty == "quadratic"


class Revealed(enum.Enum):
    """What the passes of a solver reveal of values that are not finite, so that no check need look.

    A sum is finite only if all its terms are. A solver whose first pass sums over all of X finds out by
    itself, and to check X before it would be a pass too many.
    """

    NOTHING = "nothing"
    X = "the values of X"
    X_AND_Y = "the values of X and of y"


class Plan(NamedTuple):
    """What to run, in which coordinates and from where.

    Attributes
    ----------
    method : Method
        What takes a step.
    objective : Objective
        The objective in its coordinates.
    x0 : Params or array
        The first point in them.
    check_every : int
        How many steps run between two checks of the stopping criteria, where the user does not say.
    columns : Columns or None
        What was learned of the condition of the columns.
    otherwise : Plan or None
        What to run where the objective is not finite at x0.
    """

    method: Any
    objective: Any
    x0: Tree
    check_every: int = 10
    columns: Columns | None = None
    otherwise: Any = None


class Solution(NamedTuple):
    """The end of a solver's run.

    Attributes
    ----------
    result : Result
        How the run ended.
    plan : Plan or None
        What was run; None where the result is complete, with nothing left to explain.
    rank_warning : callable or None
        From the result and the plan to the result, completed, and what to warn of: the rank of X.
    warning : str
        The same warning of a complete result.
    """

    result: Any
    plan: Plan | None = None
    rank_warning: Callable[[Any, Plan], tuple[Any, str]] | None = None
    warning: str = ""


@dataclass
class LinearProblem:
    """The arguments of one call of `agd.fit`, checked but for values, and what is learned of the values.

    Attributes
    ----------
    data : Data
        X, y and the weights, checked but for their values.
    loss, penalty, intercept
        The objective's.
    stop, init, callback
        As of `agd.fit`.
    method : Method or None
        The method that the user chose; None for ``method="auto"``.
    default_settings : bool
        Whether `stop`, `init` and `callback` were left out.
    screened : Screened or None
        What the last check of the values found; None before one.
    moments : Moments or None
        Those of lazy data, which the same pass as the check sums.
    solver : str or None
        The row of ``agd.run.SOLVERS`` that has the problem now; None before a choice.
    class_weight : dict, str or None
        As of `agd.fit`.
    labels : tuple or None
        The labels of the classes, where these are not the numbers in y.
    warm_start : Params or None
        The answer of a similar problem, from which solvers that can do so begin; unlike `init` it changes nothing of
        their choice.
    host_moments : RowMoments or None
        The moments as the host has read them, noted for problems that differ by the penalty alone.
    """

    data: Data
    loss: Loss
    penalty: Penalty | None
    intercept: bool
    stop: Stop
    init: Any = None
    callback: Callable[[Result], object] | None = None
    method: Method | None = None
    default_settings: bool = False
    screened: Screened | None = None
    moments: Moments | None = None
    solver: str | None = None
    class_weight: Any = None
    labels: tuple[Any, ...] | None = None
    warm_start: Params | None = None
    host_moments: Any = None

    def with_penalty(
        self, penalty: Penalty | None, warm_start: Params | None = None
    ) -> LinearProblem:
        """Return the problem with another penalty, and with what is known of the values of the data."""
        return replace(self, penalty=penalty, warm_start=warm_start, solver=None)

    def learn_from(self, other: LinearProblem) -> None:
        """Take over what a problem with the same data has learned of their values."""
        self.screened, self.moments, self.loss = other.screened, other.moments, other.loss

    def standardized(self) -> LinearProblem:
        """Return the problem whose penalty acts on each coefficient times the spread of its column.

        The spread is the weighted standard deviation, or 1 where the column is constant. Two passes over the data.

        Raises
        ------
        TypeError
            If the penalty couples coefficients, so that its prox in other units is not known.
        """
        if self.penalty is None:
            return self
        _, spread = column_spread(self.check_values(Revealed.NOTHING).blocks, intercept=True)
        host = np.asarray(backends.to_numpy(spread), dtype=float)
        return self.with_penalty(self.penalty.of_scaled(np.where(host > 0.0, host, 1.0)))

    @functools.cached_property
    def uncounted(self) -> LinearObjective:
        """The objective before any pass over the data: its rows are not counted yet."""
        return LinearObjective(
            BaseData.uncounted(*self.data), self.loss, self.penalty, self.intercept
        )

    @functools.cached_property
    def traits(self) -> Traits:
        """What the choice of a solver depends on; no pass over the data, and no read."""
        X, data = self.data.X, self.data
        dense = type(X) is np.ndarray
        return Traits(
            rows=data.row_count,
            columns=int(X.shape[-1]),
            entries=data.entries,
            batch_shape=data.batch_shape,
            numpy=dense and X.dtype.char in "fd",
            host_accessible=dense or backends.of(data.resident).host_accessible,
            lazy=data.lazy,
            sparse=data.sparse,
            quadratic=self.loss.quadratic,
            ridge=ridge_strength(self.penalty),
            penalty=_penalty_kind(self.penalty),
            default_settings=self.default_settings,
            smooth_loss=self.loss.smooth,
            several_outputs=self.loss.outputs is not None,
            convex_loss=self.loss.convex,
            starting_loss=self.loss.starting_loss is not None and self.start is None,
            convex_penalty=self.penalty is None or self.penalty.convex,
            estimates_scale=self.loss.estimates_scale,
        )

    def check_penalty(self) -> None:
        """Refuse a number of the penalty's that is finite, but infinite in the dtype of X.

        Raises
        ------
        ValueError
            With its name, and what it may be at most.
        """
        if self.penalty is not None and _largest_number(self.penalty) > MAX_HALF:
            check_penalty_range(self.penalty, backends.dtype_name(self.resident.dtype))

    @property
    def uses_scaled_gradient_norm(self) -> bool:
        """Whether the stopping test measures the gradient in centred and scaled coordinates.

        It does unless the user gives a limit, which is one of the gradient in the data's units.
        """
        return not self.stop.tests_convergence

    def check_values(self, revealed: Revealed) -> LinearObjective:
        """Return the objective over data whose values are checked, as far as the solver does not see them.

        This is the one rule of when data are screened. Data that a check has seen are not looked at
        again. Of lazy data, where each pass is dear, the pass that checks them sums the moments as well
        if the solver asks for these.

        Parameters
        ----------
        revealed : Revealed
            What the solver's own passes tell of values that are not finite.

        Returns
        -------
        LinearObjective
            Loss, data and penalty.

        Raises
        ------
        ValueError
            For values that are not finite, targets outside the loss's domain, and weights that are
            negative or all zero.
        """
        if self.screened is None:
            self.screened = self._first_check(revealed)
        elif revealed is Revealed.NOTHING:
            self.check_skipped_values()
        return LinearObjective(self.screened.blocks, self.loss, self.penalty, self.intercept)

    def _first_check(self, revealed: Revealed) -> Screened:
        """Check the values for the first time, and let the loss know how many classes there are."""
        screened = self._screen(revealed)
        if screened.classes is not None:
            self.loss = self.loss.with_classes(len(screened.classes))
        if self.class_weight is None:
            return screened
        self.moments = None  # those of the rows before they are weighed
        return weigh_classes(screened, self.class_weight, self.labels)

    def _screen(self, revealed: Revealed) -> Screened:
        if self.traits.lazy and revealed is not Revealed.NOTHING:
            screened, self.moments = survey(self.uncounted.blocks, self.loss)
            return screened
        with np.errstate(over="ignore"):  # the check reports weights whose sum overflows
            blocks = BaseData.of(*self.data)
        if revealed is Revealed.X_AND_Y:
            return Screened(blocks, None, 1.0, 0, features_checked=False)
        return screen(blocks, self.loss, check_X=revealed is Revealed.NOTHING)

    @property
    def fitted_rows(self) -> BaseData:
        """The data as they were checked last, or as they were given where a solver checked them by itself."""
        data: Any = self.data if self.screened is None else self.screened.blocks
        return data  # type: ignore[no-any-return]

    @property
    def screened_data(self) -> Screened:
        """The data as they were checked last; all values are checked now if none have been."""
        if self.screened is None:
            self.screened = self._first_check(Revealed.NOTHING)
        return self.screened

    def check_skipped_values(self) -> None:
        """Check the values of X that the first check left to the solver; raise where they are not finite.

        Before a first check, and after one of every value, there is nothing to do.
        """
        before = self.screened
        if before is None or before.features_checked:
            return
        after = screen(before.blocks, self.loss)
        # Labels are 0 and 1 by now: what they stand for is known from the first check alone.
        labelled = after if before.classes is None else before
        self.screened = labelled._replace(
            n_sync=before.n_sync + after.n_sync, features_checked=True
        )

    def mark_checked(self) -> None:
        """Note that a solver's own pass has seen that all values are finite."""
        if self.screened is not None:
            self.screened = self.screened._replace(features_checked=True)

    @functools.cached_property
    def start(self) -> Params | None:
        """The point that the user, or an answer to a similar problem, starts from; None by default."""
        if self.init is None:
            return self.warm_start
        zero = zero_params(self.uncounted.blocks, self.intercept, self.loss.outputs)
        start: Params | None = as_start(self.init, zero, self.intercept)
        return start

    @property
    def resident(self) -> Array:
        """An empty array of the kind that holds w."""
        return self.data.resident

    def with_convergence_norm(
        self, base: LinearObjective, moments: Moments | None = None
    ) -> tuple[LinearObjective, Scaling]:
        """Return the objective with the measure of its stopping test, and the centres and scales of X."""
        scaling = self._column_scaling if moments is None else column_scaling(base, moments)
        return (
            replace(base, convergence_norm=scaling) if self.uses_scaled_gradient_norm else base
        ), scaling

    @functools.cached_property
    def _column_scaling(self) -> Scaling:
        """Centres and scales of the columns by a pass of their own, of which one is enough."""
        return column_scaling(self.check_values(Revealed.X))

    @functools.cached_property
    def spread_ratio(self) -> float:
        """The largest spread of a column over the smallest: one read, after a pass for the spreads."""
        xp, scale = backends.namespace(self._column_scaling.inv_std), self._column_scaling.inv_std
        ratios = xp.max(scale, axis=-1) / xp.min(scale, axis=-1)
        return float(np.max(backends.to_numpy(ratios)))

    def check_after(self, result: Result) -> None:
        """Check the values of X if a run that was left to see them itself met values not finite."""
        if np.any(result.status == Status.NON_FINITE):
            self.check_skipped_values()


def absorb_offset(data: BaseData, loss: Loss) -> tuple[BaseData, Loss]:
    """Return data and loss of a fit in which the offsets of the rows, if there are any, are nobody's concern.

    A loss of the residual alone is fitted to the targets less their offsets. Any other is wrapped, and adds to the
    predictor of a row the offset that its target is paired with.

    Raises
    ------
    ValueError
        For a loss of several outputs, as beside a stream.
    """
    if not data.has_offset:
        return data, loss
    if loss.outputs is not None:
        raise ValueError(
            f"offset must be None for loss {loss.name!r}: one number for each row would move all outputs alike"
        )
    return (data.subtract_offset(), loss) if loss.residual else (data, OffsetLoss(loss))


def _largest_number(penalty: Penalty) -> float:
    """Return the largest finite number among the parameters of a penalty."""
    numbers = (float(x) for x in penalty.parameters.values() if isinstance(x, float | int | Real))
    return max((abs(x) for x in numbers if math.isfinite(x)), default=0.0)


def check_penalty_range(penalty: Penalty, kind: str) -> None:
    """Refuse a number of a penalty's that is finite, but infinite in a dtype of this name."""
    most = float(np.finfo(kind).max)
    for name, value in penalty.parameters.items():
        if isinstance(value, Real) and math.isfinite(value) and abs(float(value)) > most:
            raise ValueError(
                f"penalty {penalty!r} is too large for {kind}, the dtype of X: {name} must be at most "
                f"{most:.3g}; give a smaller one, or X in float64"
            )


def _penalty_kind(penalty: Penalty | None) -> str:
    if penalty is None or penalty.quadratic:
        return "quadratic"
    if penalty.smooth:
        return "smooth" if penalty.elastic_parts is None else "ridge"
    return "separable" if penalty.separable else "coupled"


def null_model(base: LinearObjective, scaling: Scaling) -> Params:
    """Return the null model: coefficients of 0, and the intercept ``loss.link(mean of y)``.

    It is the best constant model where the mean of y alone decides that (squared, log_loss, poisson). For
    other losses, such as Huber, it is a first point.
    """
    zero = base.zeros()
    constant = None if zero.intercept is None else zero.intercept + scaling.null_model
    return Params(zero.coef, constant)


def steps_between_checks(like: Array) -> int:
    """Return how many steps run between two checks: 1 where the host reads numbers at no cost."""
    return 1 if backends.of(like).host_accessible else 10


# Penalties of which it is known that they act on arrays of every library.
OWN_PENALTIES = (loss.L1, loss.L2, loss.ElasticNet, loss.NonNegative, loss.Box)


def acts_on_any_array(penalty: Any) -> bool:
    """Return whether a penalty of the data's library acts on NumPy arrays too, and on some columns alone."""
    terms = penalty.terms if type(penalty) is loss.PenaltySum else (penalty,)
    return all(
        type(term) in OWN_PENALTIES
        and all(v is None or isinstance(v, Real | tuple) for v in term.parameters.values())
        for term in terms
    )
