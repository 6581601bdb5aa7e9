"""Functions with known minima: one row each, with the gradient by hand, on any array library.

`PROBLEMS` needs nothing but the library under test. The functions below it take data that
scikit-learn or SciPy brings, skip where these are missing, and give their reference solutions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from agd import backends


class Problem(NamedTuple):
    """A function of a vector x (n,), its gradient, a start, and what is known of its minima."""

    name: str
    fun: Callable[[Any], Any]
    grad: Callable[[Any], Any]
    x0: tuple[float, ...]
    minima: tuple[
        tuple[float, ...], ...
    ]  # those that a descent from x0 may end in; none if unbounded
    fmin: float
    convex: bool = False
    saddles: tuple[tuple[float, ...], ...] = ()
    source: str = ""

    def gap(self, value: float) -> float:
        """How far a value is above the minimum, against 1 or the minimum's own size."""
        return (value - self.fmin) / max(1.0, abs(self.fmin))

    def distance(self, x: Any) -> float:
        """How far x is from the nearest minimiser, against 1 or its own size, largest entry."""
        x = np.asarray(x)
        return min(
            float(np.max(np.abs(x - m)) / max(1.0, np.max(np.abs(m))))
            for m in np.array(self.minima)
        )


def stack(*entries: Any) -> Any:
    return backends.namespace(entries[0]).stack(list(entries))


def _here(data: Any, like: Any) -> Any:
    """Return host data in the library, on the device and in the dtype of `like`."""
    xp = backends.namespace(like)
    host = np.asarray(data).astype(str(like.dtype).rpartition(".")[2])
    return backends.of(like).convert(xp, host, like.dtype, backends.device(like))


# -- the article ---------------------------------------------------------------------------------


def article(x: Any) -> Any:
    return 0.5 * x[0] * x[0]


def article_grad(x: Any) -> Any:
    return 1.0 * x


# -- Rosenbrock, any number of variables ---------------------------------------------------------


def rosenbrock(x: Any) -> Any:
    xp = backends.namespace(x)
    a, b = x[:-1], x[1:]
    return xp.sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2)


def rosenbrock_grad(x: Any) -> Any:
    xp = backends.namespace(x)
    a, b = x[:-1], x[1:]
    left = -400.0 * a * (b - a * a) - 2.0 * (1.0 - a)
    right = 200.0 * (b - a * a)
    nothing = xp.zeros_like(x[:1])
    return xp.concat([left, nothing]) + xp.concat([nothing, right])


# -- two variables -------------------------------------------------------------------------------


def beale(x: Any) -> Any:
    a, b = x[0], x[1]
    return sum((c - a + a * b**k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), start=1))


def beale_grad(x: Any) -> Any:
    a, b = x[0], x[1]
    by_a, by_b = 0.0 * a, 0.0 * b
    for k, c in enumerate((1.5, 2.25, 2.625), start=1):
        r = c - a + a * b**k
        by_a = by_a + 2.0 * r * (b**k - 1.0)
        by_b = by_b + 2.0 * r * k * a * (b ** (k - 1) if k > 1 else 1.0)
    return stack(by_a, by_b)


def booth(x: Any) -> Any:
    return (x[0] + 2.0 * x[1] - 7.0) ** 2 + (2.0 * x[0] + x[1] - 5.0) ** 2


def booth_grad(x: Any) -> Any:
    p, q = x[0] + 2.0 * x[1] - 7.0, 2.0 * x[0] + x[1] - 5.0
    return stack(2.0 * p + 4.0 * q, 4.0 * p + 2.0 * q)


def himmelblau(x: Any) -> Any:
    return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2


def himmelblau_grad(x: Any) -> Any:
    p, q = x[0] ** 2 + x[1] - 11.0, x[0] + x[1] ** 2 - 7.0
    return stack(4.0 * x[0] * p + 2.0 * q, 2.0 * p + 4.0 * x[1] * q)


def matyas(x: Any) -> Any:
    return 0.26 * (x[0] ** 2 + x[1] ** 2) - 0.48 * x[0] * x[1]


def matyas_grad(x: Any) -> Any:
    return stack(0.52 * x[0] - 0.48 * x[1], 0.52 * x[1] - 0.48 * x[0])


def brown(x: Any) -> Any:
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2.0) ** 2


def brown_grad(x: Any) -> Any:
    r = x[0] * x[1] - 2.0
    return stack(2.0 * (x[0] - 1e6) + 2.0 * r * x[1], 2.0 * (x[1] - 2e-6) + 2.0 * r * x[0])


# -- three and four variables --------------------------------------------------------------------


def _angle(x: Any) -> Any:
    """Turns about the third axis, in (-1/4, 3/4): the cut is away from the start and the minimum."""
    xp = backends.namespace(x)
    turns = xp.atan2(x[1], x[0]) / (2.0 * math.pi)
    return xp.where(turns < -0.25, turns + 1.0, turns)


def helical(x: Any) -> Any:
    radius = (x[0] ** 2 + x[1] ** 2) ** 0.5
    return 100.0 * ((x[2] - 10.0 * _angle(x)) ** 2 + (radius - 1.0) ** 2) + x[2] ** 2


def helical_grad(x: Any) -> Any:
    square = x[0] ** 2 + x[1] ** 2
    radius = square**0.5
    climb = x[2] - 10.0 * _angle(x)
    turn = (
        1000.0 / math.pi * climb / square
    )  # -2000 climb dθ = turn (x1, -x0), since dθ = (-x1, x0)/2π
    out = 200.0 * (radius - 1.0) / radius
    return stack(turn * x[1] + out * x[0], -turn * x[0] + out * x[1], 200.0 * climb + 2.0 * x[2])


def powell(x: Any) -> Any:
    a, b, c, d = (x[i] for i in range(4))
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def powell_grad(x: Any) -> Any:
    a, b, c, d = (x[i] for i in range(4))
    p, q, r, s = a + 10 * b, c - d, (b - 2 * c) ** 3, (a - d) ** 3
    return stack(2 * p + 40 * s, 20 * p + 4 * r, 10 * q - 8 * r, -10 * q - 40 * s)


def wood(x: Any) -> Any:
    a, b, c, d = (x[i] for i in range(4))
    valleys = 100 * (b - a * a) ** 2 + (1 - a) ** 2 + 90 * (d - c * c) ** 2 + (1 - c) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2


def wood_grad(x: Any) -> Any:
    a, b, c, d = (x[i] for i in range(4))
    p, q, both, apart = b - a * a, d - c * c, 20 * (b + d - 2), 0.2 * (b - d)
    return stack(
        -400 * a * p - 2 * (1 - a),
        200 * p + both + apart,
        -360 * c * q - 2 * (1 - c),
        180 * q + both - apart,
    )


# -- a quadratic whose axes are not the coordinates', with curvatures from 1 to 1e8 ----------------


def _reflected(x: Any) -> Any:
    """Reflect in the plane across (1, ..., 1): an orthogonal change of coordinates."""
    return x - 2.0 * backends.namespace(x).mean(x)


def _curvatures(x: Any) -> Any:
    return _here(np.logspace(0.0, 8.0, x.shape[0]), x)


def quadratic(x: Any) -> Any:
    u = _reflected(x)
    return 0.5 * backends.namespace(x).sum(_curvatures(x) * u * u)


def quadratic_grad(x: Any) -> Any:
    return _reflected(_curvatures(x) * _reflected(x))


# -- saddles; each start is on the ridge, from which plain descent ends in the saddle ---------------


def saddle(x: Any) -> Any:
    return x[0] ** 2 - x[1] ** 2


def saddle_grad(x: Any) -> Any:
    return stack(2.0 * x[0], -2.0 * x[1])


def monkey(x: Any) -> Any:
    return x[0] ** 3 - 3.0 * x[0] * x[1] ** 2


def monkey_grad(x: Any) -> Any:
    return stack(3.0 * x[0] ** 2 - 3.0 * x[1] ** 2, -6.0 * x[0] * x[1])


def two_wells(x: Any) -> Any:
    return 0.5 * x[0] ** 2 - 0.5 * x[1] ** 2 + 0.25 * x[1] ** 4


def two_wells_grad(x: Any) -> Any:
    return stack(1.0 * x[0], x[1] ** 3 - x[1])


_MGH = "Moré, Garbow and Hillstrom (1981), Testing unconstrained optimization software"
_HIMMELBLAU = (
    (3.0, 2.0),
    (-2.8051180869527448, 3.1313125182505730),
    (-3.7793102533777469, -3.2831859912861694),
    (3.5844283403304917, -1.8481265269644036),
)
# Between each pair of neighbouring minima lies a saddle, and a maximum among the four.
_AROUND = ((4.0, 3.0), (-3.5, 4.0), (-5.0, -4.0), (4.5, -2.5))

_ROWS = [
    Problem("article", article, article_grad, (10.0,), ((0.0,),), 0.0, convex=True),
    Problem("rosenbrock", rosenbrock, rosenbrock_grad, (-1.2, 1.0), ((1.0, 1.0),), 0.0, source=_MGH),
    Problem(
        "rosenbrock_100", rosenbrock, rosenbrock_grad, (-1.2, 1.0) * 50, ((1.0,) * 100,), 0.0
    ),
    Problem("beale", beale, beale_grad, (1.0, 1.0), ((3.0, 0.5),), 0.0, source=_MGH),
    Problem("booth", booth, booth_grad, (0.0, 0.0), ((1.0, 3.0),), 0.0, convex=True),
    *(
        Problem(f"himmelblau_{i}", himmelblau, himmelblau_grad, x0, (minimum,), 0.0)
        for i, (x0, minimum) in enumerate(zip(_AROUND, _HIMMELBLAU, strict=True), start=1)
    ),
    Problem(
        "powell_singular", powell, powell_grad, (3.0, -1.0, 0.0, 1.0), ((0.0,) * 4,), 0.0,
        convex=True, source=_MGH,
    ),
    Problem("wood", wood, wood_grad, (-3.0, -1.0, -3.0, -1.0), ((1.0,) * 4,), 0.0, source=_MGH),
    Problem("brown_badly_scaled", brown, brown_grad, (1.0, 1.0), ((1e6, 2e-6),), 0.0, source=_MGH),
    Problem(
        "helical_valley", helical, helical_grad, (-1.0, 0.0, 0.0), ((1.0, 0.0, 0.0),), 0.0,
        source=_MGH,
    ),
    Problem("matyas", matyas, matyas_grad, (5.0, -7.0), ((0.0, 0.0),), 0.0, convex=True),
    Problem("quadratic_1e8", quadratic, quadratic_grad, (1.0,) * 9 + (2.0,), ((0.0,) * 10,), 0.0,
            convex=True),
]  # fmt: skip

PROBLEMS = {row.name: row for row in _ROWS}
"""Functions that have a minimum which descent from x0 reaches."""

_FLAT = (0.0, 0.0)

SADDLES = {
    row.name: row
    for row in (
        Problem("saddle", saddle, saddle_grad, (1.0, 0.0), (), -math.inf, saddles=(_FLAT,)),
        Problem("monkey_saddle", monkey, monkey_grad, (1.0, 0.0), (), -math.inf, saddles=(_FLAT,)),
        Problem(
            "two_wells", two_wells, two_wells_grad, (1.0, 0.0), ((0.0, 1.0), (0.0, -1.0)), -0.25,
            saddles=(_FLAT,),
        ),
    )
}  # fmt: skip
"""Functions with a saddle that descent from x0 runs into, unless it is perturbed."""


# -- over data -------------------------------------------------------------------------------------


def mean_log_loss(X: Any, y: Any, alpha: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Mean log loss + alpha/2 |w|² of x = (w, b), and its gradient; X (n, p) and y in {0, 1}."""

    def parts(x: Any) -> tuple[Any, Any, Any]:
        w = x[:-1]
        return w, _here(X, x) @ w + x[-1], _here(y, x)

    def fun(x: Any) -> Any:
        w, z, t = parts(x)
        xp = backends.namespace(x)
        softplus = xp.log1p(xp.exp(-xp.abs(z))) + 0.5 * (z + xp.abs(z))
        return xp.mean(softplus - t * z) + 0.5 * alpha * xp.sum(w * w)

    def grad(x: Any) -> Any:
        w, z, t = parts(x)
        xp = backends.namespace(x)
        slope = (0.5 * (1.0 + xp.tanh(0.5 * z)) - t) / float(len(y))
        by_w = xp.matrix_transpose(_here(X, x)) @ slope + alpha * w
        return xp.concat([by_w, xp.reshape(xp.sum(slope), (1,))])

    return fun, grad


def _newton(X: Any, y: Any, alpha: float, x: Any) -> tuple[Any, float]:
    """Minimise the mean log loss by damped Newton steps, in scaled coordinates."""
    fun, grad = mean_log_loss(X, y, alpha)
    Z = np.column_stack([X, np.ones(len(y))])
    ridge = alpha * np.append(np.ones(X.shape[1]), 0.0)
    for _ in range(100):
        p = 0.5 * (1.0 + np.tanh(0.5 * (Z @ x)))
        H = Z.T @ (Z * (p * (1.0 - p))[:, None]) / len(y) + np.diag(ridge)
        d = 1.0 / np.sqrt(np.diag(H))
        step = d * np.linalg.solve(H * np.outer(d, d), d * grad(x))
        t = 1.0
        # At the minimum values differ by rounding alone: the last steps are taken whole.
        while fun(x - t * step) > fun(x) * (1.0 + 1e-14) and t > 1e-10:
            t *= 0.5
        x = x - t * step
    return x, float(fun(x))


@functools.cache
def breast_cancer(*, standardised: bool = True, alpha: float = 1e-3) -> Problem:
    """Logistic regression on breast_cancer: 569 rows, 30 columns and a constant term.

    Columns as they are range from 1e-3 to 4e3; standardised have mean 0 and deviation 1.
    """
    X, y = pytest.importorskip("sklearn.datasets").load_breast_cancer(return_X_y=True)
    if standardised:
        X = (X - X.mean(axis=0)) / X.std(axis=0)
    fun, grad = mean_log_loss(X, y.astype(float), alpha)
    x0 = np.zeros(X.shape[1] + 1)
    best, fmin = _newton(X, y.astype(float), alpha, x0)
    kind = "standardised" if standardised else "raw"
    return Problem(f"breast_cancer_{kind}", fun, grad, tuple(x0), (tuple(best),), fmin, convex=True)


class Fit(NamedTuple):
    """1/(2n) |X w - y|² + penalty, with the minimiser that a peer found."""

    X: Any
    y: Any
    alpha: float
    solution: Any


def lasso_diabetes(alpha: float = 0.1) -> Fit:
    """Lasso without constant term on centred diabetes, by scikit-learn's coordinate descent."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = pytest.importorskip("sklearn.datasets").load_diabetes(return_X_y=True)
    y = y - y.mean()
    peer = linear_model.Lasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return Fit(X, y, alpha, peer.fit(X, y).coef_)


def nnls_random(n: int = 60, p: int = 12, seed: int = 0) -> Fit:
    """Non-negative least squares on random data, by scipy.optimize.nnls; some entries are at 0."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    y = X @ rng.normal(size=p) + 0.1 * rng.normal(size=n)
    return Fit(X, y, 0.0, optimize.nnls(X, y)[0])
