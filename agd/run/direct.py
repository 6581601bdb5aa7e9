"""The whitened step of a least-squares fit of few rows, on the host, without a loop around it.

A fit that goes well takes one step: from the best constant model to the minimum that the moments know.
For few rows the loop that would look before and after costs more than the arithmetic. Here the same
formulas (`agd.gradient.moments`, `columns`, `whitening`, `squares`) are written out for one problem of
NumPy arrays, in the same order, so that the answer is the same to the last bit; with weights, and in
single precision, to rounding. Whatever does not go well is left to the loop, which says why.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd._typing import Loss, Params, Penalty
from agd._validation import Data
from agd.gradient.columns import relative
from agd.loss import L2, Squared
from agd.run._few import RowMoments, Rows
from agd.run.certificate import Certificate
from agd.run.columns import SMALL, UNEVEN
from agd.run.fitted import FitResult
from agd.run.history import History
from agd.run.plan import EVEN
from agd.run.spectrum import COLUMNS
from agd.run.status import Status
from agd.update.whitened import WhitenedDescent

__all__ = ["direct"]

ROWS = 10_000  # of more the products are shared among threads, in blocks
EPS = float(np.finfo(np.float64).eps)
SINGLE = float(np.finfo(np.float32).eps)
LEAST_SQUARE = float(np.finfo(np.float64).smallest_normal) / EPS  # squares below it lose digits
TOLERANCE = relative(np.zeros(()))
SHARE = (
    2.0 * EPS / TOLERANCE
)  # of a predictor: what rounding makes of it means nothing to the tolerance
NAME = WhitenedDescent().name
ADVICE = f"{Status.CONVERGED.advice} (after 1 step)"
READS = 3  # what the loop reads: the spectrum, and a look before and after the step


def _tolerance(kind: Any) -> float:
    return TOLERANCE if kind == np.float64 else relative(np.zeros((), dtype=kind))


def _share(kind: Any) -> float:
    return SHARE if kind == np.float64 else 2.0 * SINGLE / _tolerance(kind)


class _Coordinates(NamedTuple):
    """What whitens the columns, and what a gradient is measured by: a `Whitening` of one problem."""

    shift: Any
    scale: Any
    root: Any
    unit: float
    out_of: Any
    low: float
    high: float
    kind: Any

    @classmethod
    def of(cls, m: RowMoments, ridge: float, kind: Any) -> "_Coordinates | None":
        eps = EPS if kind == np.float64 else SINGLE
        variance = m.G.diagonal()
        spread = np.sqrt(variance)
        # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
        if not (spread > 64.0 * eps * np.abs(m.mean)).all():
            return None
        squares = float((variance + m.mean * m.mean).min()), m.yy + m.mean_y * m.mean_y
        if not (m.yy > 0.0 and min(squares) >= LEAST_SQUARE):
            return None
        root = np.hypot(spread, ridge**0.5) if ridge else spread
        scale = 1.0 / root
        C = m.G * (scale[:, None] * scale)
        if ridge:
            C = C + np.diag(ridge * (scale * scale))
        if not math.isfinite(float(np.add.reduce(C, axis=None))):
            return None
        e, V = np.linalg.eigh(C)
        low, high = float(e[0]), float(e[-1])
        if not low * UNEVEN**2 > high:
            return None
        unit = max(math.sqrt(m.yy), _share(kind) * abs(m.mean_y))
        return cls(m.mean, scale, root, unit, V * (1.0 / np.sqrt(e)), low, high, kind)

    @property
    def passes(self) -> int:
        """How many passes over the data the step takes."""
        once = self.kind != np.float64 or math.sqrt(self.high / self.low) < EVEN
        return 1 if once else 2

    def step(self, grad: Any) -> Any:
        """Return the step down a gradient, in the user's coordinates."""
        return self.scale * (self.out_of @ (self.out_of.T @ (self.scale * grad)))

    def grad_norm(self, grad: Any, slope: float, w: Any, b: float) -> float:
        """Return the relative size of a gradient, less what rounding of the params makes of it."""
        size = max(float(np.abs(self.scale * grad).max()), abs(slope))
        reach = np.abs(self.shift) + self.root
        rounded = float(np.add.reduce(reach * np.abs(w))) + abs(b)
        return size / (self.unit + _share(self.kind) * rounded)


class _Point(NamedTuple):
    """Params, value, and the gradient: centred, and with respect to b."""

    w: Any
    b: float
    value: float
    grad: Any
    slope: float


def direct(data: Data, loss: Loss, penalty: Penalty | None, intercept: bool) -> FitResult | None:
    """Fit by one whitened step, where the data are few and on the host, and where one is enough.

    Parameters
    ----------
    data : Data
        Checked data; of any kind, size and number of problems.
    loss : Loss
        The loss.
    penalty : Penalty or None
        The penalty.
    intercept : bool
        Whether the model has a constant term.

    Returns
    -------
    FitResult or None
        What the loop would have returned. None for what is not one problem of the
        squared loss, with no penalty or `L2`, of NumPy arrays with at most 64 columns and
        131,072 numbers; for weights that are negative, infinite or all zero; and for values that are not finite, columns that are dependent, constant,
        badly conditioned or of extreme size, and a step that leads not to the minimum.

    Examples
    --------
    >>> import numpy as np
    >>> from agd._validation import as_data
    >>> found = direct(as_data([[1.0], [2.0], [4.0]], [1.0, 2.0, 6.0]), Squared(), None, True)
    >>> found.coef.round(6), found.nit
    (array([1.714286]), 1)
    """
    X, y, weight = data
    if type(X) is not np.ndarray or X.dtype not in (np.float64, np.float32):
        return None
    if X.ndim != 2 or y.ndim != 1 or X.size > SMALL or len(y) > ROWS or X.shape[1] > COLUMNS:
        return None
    if type(loss) is not Squared or type(penalty) not in (L2, type(None)):
        return None
    with np.errstate(all="ignore"):  # what overflows is not finite, and the loop's to explain
        if weight is not None and not _sound(weight):
            return None
        rows = Rows(X, y, weight)
        return _direct(
            rows if X.dtype == np.float64 else rows.wide(), X.dtype, loss, penalty, intercept
        )


def _sound(weight: Any) -> bool:
    total = float(np.add.reduce(weight))
    return bool(weight.ndim == 1 and weight.min() >= 0.0 and math.isfinite(total) and total > 0.0)


def _direct(rows: Rows, kind: Any, loss: Loss, penalty: Any, intercept: bool) -> FitResult | None:
    ridge = 0.0 if penalty is None else float(penalty.alpha)
    centred = RowMoments.of(*rows)
    m = centred if intercept else centred.about_zero()
    there = _Coordinates.of(m, ridge, kind)
    if there is None:
        return None
    # The best constant model, as the moments have it.
    start = _Point(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, 0.0)
    before = there.grad_norm(*_slopes(start))
    point = start
    for _ in range(there.passes):
        point = _moved(point, there, rows, ridge, intercept)
    after = there.grad_norm(*_slopes(point))
    if not (before > _tolerance(kind) >= after and math.isfinite(point.value)):
        return None
    found = _result(
        start, point, (before, after), there, _least(centred, ridge, intercept), loss, intercept
    )
    return found if rows.weight is None else replace(found, n_sync=READS + 1)  # they are screened


def _slopes(point: _Point) -> tuple[Any, float, Any, float]:
    return point.grad, point.slope, point.w, point.b


def _moved(point: _Point, there: _Coordinates, rows: Rows, ridge: float, intercept: bool) -> _Point:
    """Step, and look at the data."""
    (X, y, weight), step = rows, there.step(point.grad)
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + float(np.add.reduce(there.shift * step))
    if there.kind != np.float64:  # what is looked at is what is returned
        w, b = w.astype(there.kind).astype(float), float(there.kind.type(b))
    r = X @ w + b - y
    if weight is None:
        n, value = float(len(y)), 0.5 * float(np.vecdot(r, r))
    else:
        n, value = float(np.add.reduce(weight)), float(np.add.reduce(0.5 * r**2 * weight))
        r = r * weight
    value, grad = value / n, X.T @ r / n
    slope = float(np.add.reduce(r)) / n if intercept else 0.0
    if ridge:
        value, grad = value + 0.5 * ridge * float(np.add.reduce(w * w)), grad + ridge * w
    return _Point(w, b, value, grad - there.shift * slope if intercept else grad, slope)


def _least(m: RowMoments, ridge: float, intercept: bool) -> float:
    """Return the least curvature in the user's coordinates, 0 for one that rounding may have made."""
    p = len(m.mean)
    hessian = np.empty((p + intercept, p + intercept))
    np.add(m.G, m.mean[:, None] * m.mean, out=hessian[:p, :p])
    if ridge:
        hessian[:p, :p] += ridge * np.eye(p)
    if intercept:
        hessian[p, :p] = hessian[:p, p] = m.mean
        hessian[p, p] = 1.0
    least = float(np.linalg.eigvalsh(hessian)[0])
    noise = len(hessian) * EPS * float(np.add.reduce(np.abs(hessian), axis=1).max())
    return least if least > noise else 0.0


def _result(
    start: _Point,
    end: _Point,
    sizes: tuple[float, float],
    there: _Coordinates,
    least: float,
    loss: Loss,
    intercept: bool,
) -> FitResult:
    calls, largest = 1 + there.passes, float(np.abs(end.w).max())
    size = max(largest, abs(end.b))
    moved = max(largest, abs(end.b - start.b)) / (size or 1.0)
    jac, kind = end.grad + there.shift * end.slope if intercept else end.grad, there.kind
    x = Params(end.w.astype(kind, copy=False), np.asarray(end.b, dtype=kind) if intercept else None)
    distance = None
    if least > 0.0:  # even where the gradient is 0 the point is a rounded one
        eps = EPS if kind == np.float64 else SINGLE
        distance = math.hypot(*jac.tolist(), end.slope) / least + eps * size
    history = History(
        np.asarray([0, 1]), np.asarray([start.value, end.value]), np.asarray(sizes),
        np.asarray([0.0, moved]), np.asarray([1, calls]),
    )  # fmt: skip
    certificate = Certificate(
        sizes[1], _tolerance(kind), curvature=there.high, largest_step=2.0 / there.high,
        least_curvature=there.low, condition=there.high / there.low,
        distance=distance, source="Hessian",
    )  # fmt: skip
    return FitResult(
        x=x, fun=end.value,
        jac=Params(
            jac.astype(kind, copy=False), np.asarray(end.slope, dtype=kind) if intercept else None
        ),
        nit=1, nfev=calls, njev=calls, status=Status.CONVERGED, success=True, message=ADVICE,
        history=history, n_sync=READS, method=NAME, certificate=certificate,
        coef=x.coef, intercept=x.intercept, loss=loss, classes=None,
    )  # fmt: skip
