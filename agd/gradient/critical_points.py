"""The kind of a critical point: minimum, maximum, saddle or degenerate.

The extreme eigenvalues of the Hessian decide it. Where one of them is zero to rounding, the function itself
is evaluated along lines through the point. `agd.minimize(..., certify=True)` asks at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import TreeLayout
from agd._typing import Array, Tree
from agd._validation import as_point
from agd.gradient.curvature import (
    HessianSpectrum,
    SecondOrder,
    as_float64,
    hessian_from_gradients,
    hessian_from_values,
    rounding,
    second_order,
    spectrum,
    tolerance,
)

__all__ = [
    "CriticalPoint",
    "Probe",
    "critical_point",
    "newton_decrement",
    "probe",
]

DIRECTIONS = 16  # eigenvectors that are probed, and as many mixtures of them


class Probe(NamedTuple):
    """What probing goes by.

    Attributes
    ----------
    value : float
        f at the point.
    size : float
        max(1, |x|), in proportion to which the point is moved.
    eps : float
        The rounding of x's dtype.
    seed : int
        Of the mixtures.
    """

    value: float
    size: float
    eps: float
    seed: int


def probe(
    at: Callable[[Any, float], float],
    g: Any,
    known: HessianSpectrum,
    zero: float,
    settings: Probe,
    *,
    falls: bool,
    rises: bool,
) -> tuple[Any, bool]:
    """Look along directions of zero curvature, on both sides.

    Parameters
    ----------
    at : callable
        ``at(direction, t)``: f at x + t direction.
    g : numpy.ndarray, shape (n,)
        The gradient.
    known : HessianSpectrum
        The curvatures.
    zero : float
        What counts as zero among them.
    settings : Probe
        The value, and the scales.
    falls, rises : bool
        What is known already; looking ends when both are.

    Returns
    -------
    down : numpy.ndarray or None
        A unit direction in which f falls.
    up : bool
        Whether f rises in some.
    """
    down, up = None, False
    near = [i for i, v in enumerate(known.values) if abs(v) - known.residuals[i] <= zero]
    # Where there are more than can be probed, keep those whose curvature is nearest to zero.
    near.sort(key=lambda i: abs(known.values[i]))
    near = near[:DIRECTIONS]
    for line in _profile_lines([known.vector(i) for i in near], settings.seed):
        for direction in (line, -line):
            sign = _fit_trend(at, direction, float(direction @ g), settings)
            down = direction if sign < 0 and down is None else down
            up = up or sign > 0
            if (falls or down is not None) and (rises or up):
                return down, up
    return down, up


def _profile_lines(vectors: list[Any], seed: int) -> Iterator[Any]:
    """Yield the vectors, and random mixtures: a cubic form may vanish on every axis, as xyz does."""
    yield from vectors
    if len(vectors) < 2:
        return
    for weights in np.random.default_rng(seed).standard_normal((DIRECTIONS, len(vectors))):
        mixture = np.sum(weights[:, None] * np.stack(vectors), axis=0)
        yield mixture / np.linalg.norm(mixture)


def _fit_trend(
    at: Callable[[Any, float], float], direction: Any, slope: float, settings: Probe
) -> int:
    """Return -1 where f falls at all of three distances, 1 where it rises, else 0.

    A change counts if it is larger than rounding, and than twice what the remaining slope makes.
    """
    signs = set()
    for shrink in (1.0, 0.5, 0.25):
        # Of a quartic, t⁴ is then the root of eps: far above rounding, and yet a local change.
        t = shrink * settings.eps**0.125 * settings.size
        there = at(direction, t)
        change = there - settings.value
        rounding = 8.0 * settings.eps * (abs(there) + abs(settings.value))
        explained = rounding + 2.0 * abs(slope) * t
        signs.add(0 if not abs(change) > explained else int(np.sign(change)))
    # A change of sign between the distances comes from farther terms, and says nothing about this point.
    return signs.pop() if len(signs) == 1 else 0


@dataclass(frozen=True, repr=False)
class CriticalPoint:
    """What `critical_point` found.

    Attributes
    ----------
    kind : str
        "minimum", "maximum", "saddle", "degenerate" or "not critical".
    grad_norm : float
        The largest absolute partial derivative.
    grad_tol : float
        What it may be at a critical point.
    least_curvature, largest_curvature : float
        The extreme eigenvalues of the Hessian.
    curvature_tol : float
        What counts as zero among them.
    direction : tree of arrays or None
        Where to go to leave it downhill, of Euclidean length 1: the eigenvector of the least curvature
        for a saddle or maximum, or where that is zero the direction in which f was seen to fall; the
        steepest descent where the point is not critical; None where no way down was found.
    source : str
        How the curvatures were had.
    """

    kind: str
    grad_norm: float
    grad_tol: float
    least_curvature: float
    largest_curvature: float
    curvature_tol: float
    direction: Tree
    source: str

    def __repr__(self) -> str:
        """Say what it is, and why."""
        way = "no way down" if self.direction is None else "a direction down"
        return (
            f"{self.kind}: |g| {self.grad_norm:.3g} against {self.grad_tol:.3g}, curvature "
            f"{self.least_curvature:.6g} to {self.largest_curvature:.6g} (zero is "
            f"{self.curvature_tol:.1e}; {self.source}), {way}"
        )


def critical_point(
    fun: Callable[..., Any],
    x: Tree,
    jac: Any = None,
    args: tuple[Any, ...] = (),
    *,
    grad_tol: float | None = None,
    seed: int = 0,
) -> CriticalPoint:
    r"""Say what kind of point x is, from the gradient and the extreme curvatures there.

    The eigenvalues of the Hessian decide, as far as they are not zero: all positive, a minimum; all
    negative, a maximum; some of each, a saddle. Where some are zero the point is degenerate, and f itself
    is asked: at distances t, t/2 and t/4 along eigenvectors of zero curvature, and mixtures of them, on
    both sides. If it falls somewhere, beyond what rounding and the slope left over explain, and rises
    somewhere else, the point is a saddle: so is the monkey saddle x³ - 3xy², whose Hessian is zero, and
    so is x³. What only rises, as x⁴ does, stays degenerate: no probing along lines can tell that it
    rises everywhere.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number.
    x : tree of arrays
        The point.
    jac : callable, True, str or None
        The gradient, as for ``agd.minimize``.
    args : tuple
        Further arguments of both.
    grad_tol : float, optional
        The largest partial derivative that a critical point may have. By default what ``agd.minimize``
        asks for, eps^(1/3), or where rounding alone makes more, ten times that: the gradient's relative
        error (eps, or eps^(2/3) by differences) times the larger of L max(1, \|x\|) and
        \|f\| / max(1, \|x\|).
    seed : int
        Of what is drawn: Lanczos's first vector, and the mixtures.

    Returns
    -------
    CriticalPoint
        The kind, the evidence, and the direction to leave by.

    Raises
    ------
    TypeError, ValueError
        For what ``agd.minimize`` refuses, and a value, gradient or curvature that is not finite at x.

    Notes
    -----
    Up to 200 variables the Hessian is formed: by that many products with it, or from the values of a
    function without gradient or autodiff, which are called n² + n times. Above that Lanczos finds both
    ends of its spectrum. A curvature counts as zero below ::

        max(max(2000 eps, 30 noise) L, 30 noise scale / max(1, |x|)²)

    with L the largest absolute curvature and noise the relative error of the Hessian: eps by autodiff,
    eps^(2/3) by differences of a gradient, eps^(4/9) or, formed from values, eps^(1/2) by differences of
    the function; scale is \|f\|, and by differences at least 1. So a function of tiny values and known by
    differences only should be scaled. Where Lanczos ends before its residual is below that (ill-conditioned
    minima of many variables), the residual takes its place, and the answer is "degenerate" rather than a
    guess.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 2.1, theorems 2.3 and 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> found = critical_point(lambda x: x[0] ** 2 - x[1] ** 2, np.zeros(2))
    >>> found.kind, round(found.least_curvature, 4), abs(found.direction)
    ('saddle', -2.0, array([0., 1.]))
    >>> critical_point(lambda x: x[0] ** 3 - 3.0 * x[0] * x[1] ** 2, np.zeros(2)).kind
    'saddle'
    """
    x = as_point(x, name="x")
    with backends.device_context(optree.tree_leaves(x)[0]), np.errstate(all="ignore"):
        return _classify_by_probes(second_order(fun, x, jac, args), x, grad_tol, seed)


def _classify_by_probes(
    f: SecondOrder, x: Tree, grad_tol: float | None, seed: int
) -> CriticalPoint:
    layout, eps = TreeLayout.of(x), rounding(x)
    value, grad = f.pair(x)
    value, g, point = as_float64(value), as_float64(layout.ravel(grad)), as_float64(layout.ravel(x))
    if not (np.isfinite(value).all() and np.isfinite(g).all()):
        raise ValueError(f"fun and its gradient must be finite at x, got value {float(value)!r}")
    known = spectrum(f, layout, x, seed)
    if not np.isfinite(known.values).all():
        raise ValueError("the second derivatives of fun must be finite at x, got NaN or infinity")
    size = max(1.0, float(np.max(np.abs(point))))
    steep, level = float(np.max(np.abs(known.values))), abs(float(value))
    scale = level if known.noise == eps else max(1.0, level)
    zero = max(tolerance(known.noise, eps) * steep, 30.0 * known.noise * scale / size**2)
    if grad_tol is None:
        noise = 10.0 * f.grad_noise * max(steep * size, level / size)
        grad_tol = float(max(eps ** (1.0 / 3.0), noise))
    grad_norm = float(np.max(np.abs(g)))
    if grad_norm > grad_tol:
        kind, way = "not critical", -g / np.linalg.norm(g)
    else:
        kind, way = _kind_of_point(
            f, layout, x, g, known, zero, Probe(float(value), size, eps, seed)
        )
    direction = None if way is None else layout.unravel(backends.to_device_of(way, layout.ravel(x)))
    return CriticalPoint(
        kind, grad_norm, float(grad_tol), float(known.values[0]), float(known.values[-1]), zero, direction,
        known.source,
    )  # fmt: skip


def _kind_of_point(
    f: SecondOrder,
    layout: TreeLayout,
    x: Tree,
    g: Any,
    known: HessianSpectrum,
    zero: float,
    settings: Probe,
) -> tuple[str, Any]:
    """Name a critical point, and return a direction down or None."""
    # A Ritz value lies within the spectrum, so what it shows is there; its residual limits what is not.
    least, largest = known.values[0], known.values[-1]
    falls, rises = least < -zero, largest > zero
    way = _downhill_direction(known.vector(0), g) if falls else None
    if falls and rises:
        return "saddle", way
    if least - known.residuals[0] > zero:
        return "minimum", None
    if largest + known.residuals[-1] < -zero:
        return "maximum", way

    def at(direction: Any, t: float) -> float:
        moved = layout.ravel(x) + t * backends.to_device_of(direction, layout.ravel(x))
        return float(as_float64(f.value(layout.unravel(moved))))

    down, up = probe(at, g, known, zero, settings, falls=falls, rises=rises)
    way = down if way is None else way
    return ("saddle" if way is not None and (rises or up) else "degenerate"), way


def _downhill_direction(direction: Any, g: Any) -> Any:
    """Turn an eigenvector downhill; one that is level both ways, so that its largest entry is positive."""
    slope = float(direction @ g)
    if slope == 0.0:
        slope = -float(direction[np.argmax(np.abs(direction))])
    return -direction if slope > 0.0 else direction


def newton_decrement(
    gradient_at: Callable[[Tree], Tree],
    x: Tree,
    grad: Tree,
    batch: int = 0,
    *,
    first: tuple[Tree, Tree] | None = None,
    value_at: Callable[[Tree], Array] | None = None,
) -> tuple[Any, Any]:
    r"""Return g' \|H\|^-1 g / 2: how far f still falls by its quadratic model, with \|H\| the absolute Hessian.

    The Hessian is formed by central differences in units of the entries of x, so that the answer does not hang on
    these: of the gradient, at 2 n gradients, or of values. Eigenvalues below the error of the differences count as
    that error: the answer is then too small.

    Parameters
    ----------
    gradient_at : callable
        ``gradient_at(x)``: the gradient, in the structure of x.
    x, grad : tree of arrays
        The point, and the gradient there.
    batch : int
        How many leading axes number independent problems.
    first : tuple of two trees, optional
        The point where the run began, which has units too, and the gradient there. A variable whose derivative is 0
        at both ends is no part of f.
    value_at : callable, optional
        ``value_at(x)``: f. Where the gradient is of differences itself, n² + n + 1 values know more of the Hessian.

    Returns
    -------
    tuple of numpy.ndarray, shape of the batch axes
        The decrement, float64; 0 where a gradient near x is not finite, and infinity on a plateau, where f no longer
        hangs on one of the variables. And whether f curves downwards somewhere, as at a saddle.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([0.0, 3.0])
    >>> decrement, _ = newton_decrement(lambda x: np.asarray([2.0, 2e-6]) * x, x, np.asarray([0.0, 6e-6]))
    >>> round(float(decrement), 8)
    9e-06
    """
    layout, eps = TreeLayout.of(x, batch), rounding(x)
    like = layout.ravel(x)
    trees = (x, grad) if first is None else (x, grad, *first)
    parts = backends.read_together([layout.ravel(tree) for tree in trees])
    point, slope, start, first_slope = (parts * 2)[:4]
    unit = _units_of_variables(point, start)
    slope = unit * slope.astype(np.float64)

    def at(moved: Any) -> Tree:
        return layout.unravel(backends.to_device_of(moved, like))

    if value_at is None:
        scaled = _hessian_of_gradients(lambda v: layout.ravel(gradient_at(at(v))), point, unit, eps)
    else:
        value_function = value_at
        scaled = _hessian_of_values(lambda v: value_function(at(v)), point, unit, eps)
    finite = np.isfinite(scaled.hessian).all(axis=(-1, -2)) & np.isfinite(slope).all(axis=-1)
    hessian = np.where(finite[..., None, None], scaled.hessian, 0.0)
    noise, largest = scaled.noise, np.max(np.abs(hessian), axis=-1)
    on_plateau = np.any((largest <= scaled.hidden[..., None]) & (slope != 0.0), axis=-1)
    # A level bottom is a minimum. A plateau is far from where the run began.
    level = (largest <= noise[..., None]) & ((slope != 0.0) | (first_slope != 0.0))
    grown = np.abs(point) > MAX_GROWTH * np.maximum(1.0, np.abs(start))
    on_plateau = on_plateau | np.any(level & grown, axis=-1)
    if value_at is not None and np.any(level):
        # Or it lies above the value where those variables are as they were.
        earlier = as_float64(value_at(at(np.where(level, start, point))))
        on_plateau = on_plateau | (np.any(level, axis=-1) & (earlier < scaled.value - noise))
    values, vectors = np.linalg.eigh((hessian + np.swapaxes(hessian, -1, -2)) / 2.0)
    curvature = np.maximum(np.abs(values), noise[..., None])
    squares = np.sum(vectors * slope[..., None], axis=-2) ** 2
    decrement = 0.5 * np.sum(np.where(squares > 0.0, squares / curvature, 0.0), axis=-1)
    # What the error of the differences may turn negative is a hundredth of this.
    uncertain = noise + scaled.share * np.max(np.abs(values), axis=-1)
    return (
        np.where(finite, np.where(on_plateau, np.inf, decrement), 0.0),
        finite & (values[..., 0] < -100.0 * uncertain),
    )


class _ScaledHessian(NamedTuple):
    """A Hessian by differences in units of the variables, and how far it can be relied upon.

    Attributes
    ----------
    hessian : numpy.ndarray, shape (..., n, n)
        U H U, with the units on the diagonal of U.
    value : numpy.ndarray, shape (...)
        f, where the differences are of values; else 0.
    noise, hidden : numpy.ndarray, shape (...)
        Its error; and the entry below which f does not hang on a variable.
    share : float
        The error relative to the largest curvature.
    """

    hessian: Any
    value: Any
    noise: Any
    hidden: Any
    share: float


def _hessian_of_gradients(
    gradient_at: Callable[[Any], Array], point: Any, unit: Any, eps: float
) -> _ScaledHessian:
    """Difference gradients, whose error is least at steps of eps^(1/3)."""
    share = eps ** (2.0 / 3.0)
    hessian = hessian_from_gradients(gradient_at, point, eps ** (1.0 / 3.0) * unit)
    hessian = hessian * unit[..., None] * unit[..., None, :]
    most = np.max(np.abs(hessian), axis=(-1, -2))
    return _ScaledHessian(hessian, 0.0 * most, share * most, eps * most, share)


def _hessian_of_values(
    value_at: Callable[[Any], Array], point: Any, unit: Any, eps: float
) -> _ScaledHessian:
    """Difference values twice, whose error is least at steps of eps^(1/4)."""
    hessian, value = hessian_from_values(value_at, point, eps**0.25 * unit)
    hessian = hessian * unit[..., None] * unit[..., None, :]
    noise = VALUE_NOISE * eps**0.5 * np.abs(value)
    return _ScaledHessian(hessian, value, noise, noise, eps**0.5)


# A second difference of values is uncertain by so many units of rounding of the value.
VALUE_NOISE = 4.0
# A variable that has grown by more than this factor, and on which f no longer hangs, has run away.
MAX_GROWTH = 10.0
# An entry below such a share of the largest, where it began and where it ended, says nothing of its unit.
MIN_UNIT_SHARE = 1e-8


def _units_of_variables(point: Any, start: Any) -> Any:
    """Return a size for each variable, in proportion to which it is moved: 1 for one that has none."""
    unit = np.maximum(np.abs(point), np.abs(start))
    known = unit > MIN_UNIT_SHARE * np.max(unit, axis=-1, keepdims=True)
    return np.where(known, unit, np.ones_like(unit))
