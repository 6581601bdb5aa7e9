"""Elementary functions that the losses and penalties share: numerically stable, fast and differentiable.

Some are written twice. NumPy's ``where`` branches at every entry, which costs five times as much as
``maximum`` when the signs are mixed, and its ``log1p`` takes twice as long as ``exp``. A library with
automatic differentiation, on the other hand, differentiates ``maximum`` at a tie as the mean of both sides,
which is wrong for second derivatives: there ``where`` selects one side.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

from agd import backends
from agd._typing import Array
from agd._validation import as_choice

__all__ = [
    "MEAN_LINKS",
    "PROBABILITY_LINKS",
    "Link",
    "as_link",
    "clip_between",
    "log1p",
    "log_gamma",
    "logistic_terms",
    "negative_log_probabilities",
    "normal_tail",
    "one_if_positive",
    "positive_and_negative_part",
    "safe_sqrt",
    "soft_threshold",
    "stirling_correction",
    "sum_of_log1p",
    "times_log",
]


def positive_and_negative_part(s: Array) -> tuple[Array, Array]:
    """Return max(s, 0) and min(s, 0), differentiated at 0 as from below.

    Examples
    --------
    >>> import numpy as np
    >>> positive_and_negative_part(np.asarray([2.0, -3.0]))
    (array([2., 0.]), array([ 0., -3.]))
    """
    xp = backends.namespace(s)
    # Without differentiation the faster of the two forms serves: see the module's docstring.
    if backends.of(s).autodiff is None:
        return xp.maximum(s, 0.0), xp.minimum(s, 0.0)
    above, zero = s > 0.0, xp.zeros_like(s)
    return xp.where(above, s, zero), xp.where(above, zero, s)


def clip_between(x: Array, low: float, high: float) -> Array:
    """Return x clipped to [low, high].

    Examples
    --------
    >>> import numpy as np
    >>> clip_between(np.asarray([0.5, 3.0]), -1.0, 1.0)
    array([0.5, 1. ])
    """
    xp = backends.namespace(x)
    # The namespace's own clip spends time on looking for NaN in the limits.
    if backends.of(x).autodiff is None:
        return xp.minimum(xp.maximum(x, low), high)
    return backends.clip(x, low, high)


def one_if_positive(s: Array, below: Array) -> Array:
    """Return 1 where s is above 0, and elsewhere `below`, whose entries are at most 1.

    Examples
    --------
    >>> import numpy as np
    >>> one_if_positive(np.asarray([2.0, -3.0]), np.asarray([0.5, 0.5]))
    array([1. , 0.5])
    """
    xp = backends.namespace(s)
    if backends.of(s).autodiff is None:
        return xp.maximum(below, xp.astype(s > 0.0, below.dtype))
    return xp.where(s > 0.0, xp.ones_like(below), below)


# Factors of at most 2 in one product, whose size float32 can hold; more saved no time when measured.
MAX_FACTORS = 32
# Of so few entries the calls of NumPy cost more than its `log1p`.
MAX_PLAIN_LOG1P = 512


def log1p(u: Array) -> Array:
    """Return log(1 + u) for u in [0, 1], to a few units in the last place.

    1 + u is rounded by d, which is known exactly: log(1 + u) = log(w) + d / w with w = 1 + u - d, and
    w is at most 2 where d is at most half a unit of 1, so that d alone is as good as d / w.

    Examples
    --------
    >>> import numpy as np
    >>> log1p(np.asarray([0.0, 1e-20, 1.0]))
    array([0.00000000e+00, 1.00000000e-20, 6.93147181e-01])
    """
    xp = backends.namespace(u)
    if not backends.of(u).threaded or math.prod(u.shape) <= MAX_PLAIN_LOG1P:
        return xp.log1p(u)
    w = 1.0 + u
    return xp.log(w) + (u - (w - 1.0))


# Bernoulli numbers B_2k over 2k (2k - 1): the terms of Stirling's series in 1/x, 1/x³, ...
STIRLING_TERMS = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def stirling_correction(x: Array) -> Array:
    """Return log Γ(x) - (x - 1/2) log(x) + x - log(2π) / 2, for x of 8 or more."""
    inverse = 1.0 / x
    square, series = inverse * inverse, 0.0 * x
    for term in reversed(STIRLING_TERMS):
        series = series * square + term
    return series * inverse


def log_gamma(x: Array) -> Array:
    """Return log Γ(x) for x above 0, which no standard of arrays has.

    Below 8 it is that of x + 8, less the logarithm of the factors between; above, Stirling's series.

    Notes
    -----
    Abramowitz and Stegun (1964), *Handbook of Mathematical Functions*, 6.1.15 and 6.1.40.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(log_gamma(np.asarray([0.5, 1.0, 5.0]))).round(6)
    array([ 1.772454,  1.      , 24.      ])
    """
    xp, small = backends.namespace(x), x < 8.0
    low = xp.where(small, x, xp.ones_like(x))
    factors = functools.reduce(operator.mul, [low + float(i) for i in range(8)])
    x = xp.where(small, x + 8.0, x)
    value = (x - 0.5) * xp.log(x) - x + 0.5 * math.log(2.0 * math.pi) + stirling_correction(x)
    return value - xp.where(small, xp.log(factors), xp.zeros_like(x))


def sum_of_log1p(u: Array) -> Array:
    """Return the sum of log(1 + u) over the last axis, for u in [0, 1].

    (1 + a) (1 + b) = 1 + (a + b + ab), in which nothing cancels: the logarithm is taken of products of a
    few entries each.

    Parameters
    ----------
    u : array, shape (..., n)
        Numbers in [0, 1].

    Returns
    -------
    array, shape (...)
        The sum.

    Examples
    --------
    >>> import numpy as np
    >>> float(sum_of_log1p(np.asarray([1e-20, 1e-20, 0.0])))
    2e-20
    """
    xp = backends.namespace(u)
    if not backends.of(u).threaded:
        return xp.sum(xp.log1p(u), axis=-1)
    n = u.shape[-1]
    parts = min(MAX_FACTORS, 1 << (n.bit_length() // 2))
    width = n // parts
    rest = xp.sum(xp.log1p(u[..., parts * width :]), axis=-1)
    # Each round combines the two halves of the entries. `a * b` is new, so that u += a leaves the caller's array alone.
    while parts > 1:
        parts //= 2
        a, b = u[..., : parts * width], u[..., parts * width : 2 * parts * width]
        u = a * b
        u += a
        u += b
    return rest + xp.sum(xp.log1p(u[..., :width]), axis=-1)


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """Return sign(w) max(|w| - threshold, 0), entry by entry: exactly 0 within the threshold."""
    # Written without sign(w), which torch's namespace cannot map over a batch.
    return backends.clip(w - threshold, low=0.0) + backends.clip(w + threshold, high=0.0)


def safe_sqrt(squares: Array) -> Array:
    """Return the square root of nonnegative numbers, with derivative 0 rather than infinity at 0."""
    xp = backends.namespace(squares)
    positive = squares > 0.0
    # Automatic differentiation would multiply the infinite derivative of the root at 0 by 0, which is NaN.
    return xp.where(positive, xp.sqrt(xp.where(positive, squares, xp.ones_like(squares))), squares)


def logistic_terms(t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return log(1 + exp(t)) and log(1 + exp(-t)), and their slopes in t and -t, without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> (above, below), (up, down) = logistic_terms(np.asarray([0.0, 1000.0]))
    >>> above.round(6), below.round(6), up, down
    (array([6.93147e-01, 1.00000e+03]), array([0.693147, 0.      ]), array([0.5, 1. ]), array([0.5, 0. ]))
    """
    xp = backends.namespace(t)
    above, below = positive_and_negative_part(t)
    e = xp.exp(below - above)  # differentiated at 0, unlike |t|
    near = 1.0 / (1.0 + e)
    far, rest, positive = e * near, log1p(e), t > 0.0
    slopes = xp.where(positive, near, far), xp.where(positive, far, near)
    return (above + rest, rest - below), slopes


def times_log(a: Array, b: Array) -> Array:
    """Return a log(b), and 0 where a is 0."""
    xp = backends.namespace(a)
    one = xp.ones_like(a)
    return a * xp.log(xp.where(a == 0.0, one, b))


# -- links: the functions between the mean of y and the linear predictor z ---------------------------


class Link(str):
    """The name of a link, which as a function returns the predictor z for a mean of y.

    As a string it is compared, printed and saved; `inverse` and `derivatives` are of the mean as a function of z.
    """

    __slots__ = ()

    def __call__(self, mean: Array) -> Array:
        """Return z for a mean."""
        return _LINKS[self][0](mean)

    def inverse(self, z: Array) -> Array:
        """Return the mean for z."""
        return _LINKS[self][1](z)

    def derivatives(self, z: Array) -> tuple[Array, Array, Array]:
        """Return the mean for z, and its first and second derivative in z, of a link in `MEAN_LINKS`."""
        return MEAN_LINKS[self](z)


def _identity_link(mean: Array) -> Array:
    return mean


def _identity_terms(z: Array) -> tuple[Array, Array, Array]:
    xp = backends.namespace(z)
    return z, xp.ones_like(z), xp.zeros_like(z)


def _log(mean: Array) -> Array:
    return backends.namespace(mean).log(mean)


def _exp(z: Array) -> Array:
    return backends.namespace(z).exp(z)


def _log_terms(z: Array) -> tuple[Array, Array, Array]:
    mean = backends.namespace(z).exp(z)
    return mean, mean, mean


def _sqrt(mean: Array) -> Array:
    return backends.namespace(mean).sqrt(mean)


def _square(z: Array) -> Array:
    return z * z


def _sqrt_terms(z: Array) -> tuple[Array, Array, Array]:
    return z * z, 2.0 * z, 2.0 * backends.namespace(z).ones_like(z)


def _inverse(mean: Array) -> Array:
    return 1.0 / mean


def _inverse_terms(z: Array) -> tuple[Array, Array, Array]:
    mean = 1.0 / z
    square = mean * mean
    return mean, -square, 2.0 * mean * square


MEAN_LINKS: dict[str, Callable[[Array], tuple[Array, Array, Array]]] = {
    "identity": _identity_terms,
    "log": _log_terms,
    "sqrt": _sqrt_terms,
    "inverse": _inverse_terms,
}
"""Links of a mean: from z to the mean and its derivatives."""

LOG_ROOT_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# The polynomial is of y = (x - c) / (x + c), which takes [0, infinity) to [-1, 1).
MILLS_CENTRE, MILLS_DEGREE = 3.0, 26
PROBIT_STEPS = 9  # of Newton's method, from a bound that it approaches from one side


@functools.cache
def _mills_coefficients() -> tuple[float, ...]:
    """Return the Chebyshev coefficients of (x + c) times Mills' ratio, as a function of (x - c) / (x + c)."""
    count = 2 * MILLS_DEGREE
    angles = [math.pi * (k + 0.5) / count for k in range(count)]
    values = []
    for angle in angles:
        y = math.cos(angle)
        x = MILLS_CENTRE * (1.0 + y) / (1.0 - y)
        values.append((x + MILLS_CENTRE) * _mills_ratio(x))
    sums = (
        math.fsum(v * math.cos(j * a) for v, a in zip(values, angles, strict=True))
        for j in range(MILLS_DEGREE + 1)
    )
    return tuple((1.0 if j == 0 else 2.0) * total / count for j, total in enumerate(sums))


def _mills_ratio(x: float) -> float:
    """Return (1 - Phi(x)) / phi(x) for x >= 0: by the error function, or far out by a continued fraction."""
    if x < 2.5:
        return math.sqrt(0.5 * math.pi) * math.exp(0.5 * x * x) * math.erfc(x / math.sqrt(2.0))
    ratio = x
    for k in range(150, 0, -1):
        ratio = x + k / ratio
    return 1.0 / ratio


def normal_tail(z: Array) -> tuple[Array, Array, Array]:
    """Return x = |z|, Mills' ratio (1 - Phi(x)) / phi(x), and 1 - Phi(x), of the normal distribution.

    Notes
    -----
    Shepherd and Laframboise (1981), "Chebyshev approximation of (1 + 2x) exp(x²) erfc x in 0 <= x < infinity",
    Mathematics of Computation 36, has the change of variable; the coefficients are computed here.

    Examples
    --------
    >>> import numpy as np
    >>> x, ratio, tail = normal_tail(np.asarray([0.0, -1.0]))
    >>> tail.round(6)
    array([0.5     , 0.158655])
    """
    xp = backends.namespace(z)
    x = xp.abs(z)
    y = (x - MILLS_CENTRE) / (x + MILLS_CENTRE)
    first, second = xp.zeros_like(x), xp.zeros_like(x)
    for coefficient in reversed(_mills_coefficients()[1:]):
        first, second = 2.0 * y * first - second + coefficient, first
    ratio = (y * first - second + _mills_coefficients()[0]) / (x + MILLS_CENTRE)
    return x, ratio, ratio * xp.exp(-0.5 * x * x - LOG_ROOT_TWO_PI)


def _logit(p: Array) -> Array:
    xp = backends.namespace(p)
    return xp.log(p) - xp.log1p(-p)


def _cloglog(p: Array) -> Array:
    xp = backends.namespace(p)
    return xp.log(-xp.log1p(-p))


def _probit(p: Array) -> Array:
    xp = backends.namespace(p)
    upper = p > 0.5
    small = xp.where(upper, 1.0 - p, p)
    target = xp.log(small)
    x = xp.sqrt(-2.0 * backends.clip(target + math.log(2.0), high=0.0))
    for _ in range(PROBIT_STEPS):
        _, ratio, _ = normal_tail(x)
        step = ratio * (xp.log(ratio) - 0.5 * x * x - LOG_ROOT_TWO_PI - target)
        x = backends.clip(x + step, low=0.0)
    return xp.where(upper, x, -x)


def negative_log_probabilities(name: str, z: Array) -> tuple[Any, Any]:
    """Return -log p(z) and -log(1 - p(z)), each with its first and second derivative in z.

    Nothing overflows before its value does, and no digit cancels where p is near 0 or 1.

    Examples
    --------
    >>> import numpy as np
    >>> (a, _, _), (b, _, _) = negative_log_probabilities("probit", np.asarray([0.0, -9.0]))
    >>> a.round(6), b.round(6)
    (array([ 0.693147, 43.628149]), array([0.693147, 0.      ]))
    """
    if name == "logit":
        (above, below), (up, down) = logistic_terms(z)
        curvature = up * down
        return (below, -down, curvature), (above, up, curvature)
    if name == "cloglog":
        return _cloglog_terms(z)
    xp = backends.namespace(z)
    x, ratio, tail = normal_tail(z)
    density = tail / ratio
    far_value, far_slope = 0.5 * x * x + LOG_ROOT_TWO_PI - xp.log(ratio), 1.0 / ratio
    near_value, near_slope = -xp.log1p(-tail), density / (1.0 - tail)
    # Between 0 and 1 whatever the rounding of the difference of two large numbers.
    far = (far_value, far_slope, backends.clip(far_slope * (far_slope - x), 0.0, 1.0))
    near = (near_value, near_slope, near_slope * (near_slope + x))
    positive = z > 0.0
    a, da, dda = (xp.where(positive, n, f) for n, f in zip(near, far, strict=True))
    b, db, ddb = (xp.where(positive, f, n) for n, f in zip(near, far, strict=True))
    return (a, -da, dda), (b, db, ddb)


def _cloglog_terms(z: Array) -> tuple[Any, Any]:
    """Return the terms of p = 1 - exp(-u) with u = exp(z)."""
    xp = backends.namespace(z)
    limits = xp.finfo(z.dtype)
    u = xp.exp(backends.clip(z, high=0.95 * math.log(float(limits.max))))
    small, e = u < 1.0, xp.exp(-u)
    one = xp.ones_like(u)
    r = xp.where(u > 0.0, u * e / xp.where(u > 0.0, -xp.expm1(-u), one), one)
    # -log(1 - exp(-u)), which is -z + u + log r; each form where its terms do not cancel.
    tiny = float(limits.smallest_normal)
    r_or_one = backends.clip(r, low=tiny)
    value = xp.where(
        small, u - z + xp.log(r_or_one), -xp.log1p(-xp.exp(-backends.clip(u, low=0.5)))
    )
    tiny_u = backends.clip(u, high=1e-3)
    excess = xp.where(u < 1e-3, tiny_u * (0.5 + tiny_u * (1.0 / 12.0)), u + r - 1.0)
    return (value, -r, r * excess), (u, u, u)


def _expit(z: Array) -> Array:
    return logistic_terms(z)[1][0]


def _normal_distribution(z: Array) -> Array:
    xp, (_, _, tail) = backends.namespace(z), normal_tail(z)
    return xp.where(z > 0.0, 1.0 - tail, tail)


def _inverse_cloglog(z: Array) -> Array:
    xp = backends.namespace(z)
    return -xp.expm1(-xp.exp(z))


PROBABILITY_LINKS = ("logit", "probit", "cloglog")
"""Links of a probability, whose terms are those of `negative_log_probabilities`."""

_LINKS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (_identity_link, _identity_link),
    "log": (_log, _exp),
    "sqrt": (_sqrt, _square),
    "inverse": (_inverse, _inverse),
    "logit": (_logit, _expit),
    "probit": (_probit, _normal_distribution),
    "cloglog": (_cloglog, _inverse_cloglog),
}
"""Links by name: z for a mean, and the mean for z."""


def as_link(name: object, links: Iterable[str] = MEAN_LINKS) -> Link:
    """Return the link of this name, which is one of those that a loss has.

    Examples
    --------
    >>> import numpy as np
    >>> link = as_link("probit", PROBABILITY_LINKS)
    >>> link, link(np.asarray([0.025, 0.975])).round(2), link.inverse(np.asarray([0.0]))
    ('probit', array([-1.96,  1.96]), array([0.5]))
    """
    if not isinstance(name, str):
        raise TypeError(f"link must be a name, got {name!r}")
    return Link(as_choice("link", name, tuple(links)))
