"""What kind of point it is: minimum, maximum, saddle, degenerate, or not critical at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import as_point
from agd.gradient.flat import Flat
from agd.gradient.probing import Probe, probe
from agd.gradient.second_order import SecondOrder, rounding, second_order
from agd.gradient.spectrum import Spectrum, spectrum, tolerance

__all__ = ["CriticalPoint", "critical_point"]


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
    with backends.device_context(optree.tree_leaves(x)[0]):
        return _classified(second_order(fun, x, jac, args), x, grad_tol, seed)


def _classified(f: SecondOrder, x: Tree, grad_tol: float | None, seed: int) -> CriticalPoint:
    flat, eps = Flat.of(x), rounding(x)
    value, grad = f.pair(x)
    value, g, point = _host(value), _host(flat.vector(grad)), _host(flat.vector(x))
    if not (np.isfinite(value).all() and np.isfinite(g).all()):
        raise ValueError(f"fun and its gradient must be finite at x, got value {float(value)!r}")
    known = spectrum(f, flat, x, seed)
    if not np.isfinite(known.values).all():
        raise ValueError("the second derivatives of fun must be finite at x, got NaN or infinity")
    size = max(1.0, float(np.max(np.abs(point))))
    steep, level = float(np.max(np.abs(known.values))), abs(float(value))
    scale = level if known.noise == eps else max(1.0, level)
    zero = max(tolerance(known.noise, eps) * steep, 30.0 * known.noise * scale / size**2)
    if grad_tol is None:
        grad_tol = max(eps ** (1.0 / 3.0), 10.0 * f.grad_noise * max(steep * size, level / size))
    grad_norm = float(np.max(np.abs(g)))
    if grad_norm > grad_tol:
        kind, way = "not critical", -g / np.linalg.norm(g)
    else:
        kind, way = _kind(f, flat, x, g, known, zero, Probe(float(value), size, eps, seed))
    direction = None if way is None else flat.tree(_device(way, flat.vector(x)))
    return CriticalPoint(
        kind, grad_norm, float(grad_tol), float(known.values[0]), float(known.values[-1]), zero, direction,
        known.source,
    )  # fmt: skip


def _kind(
    f: SecondOrder, flat: Flat, x: Tree, g: Any, known: Spectrum, zero: float, settings: Probe
) -> tuple[str, Any]:
    """Name a critical point, and return a direction down or None."""
    # A Ritz value lies within the spectrum, so what it shows is there; its residual limits what is not.
    least, largest = known.values[0], known.values[-1]
    falls, rises = least < -zero, largest > zero
    way = _downhill(known.vector(0), g) if falls else None
    if falls and rises:
        return "saddle", way
    if least - known.residuals[0] > zero:
        return "minimum", None
    if largest + known.residuals[-1] < -zero:
        return "maximum", way

    def at(direction: Any, t: float) -> float:
        moved = flat.vector(x) + t * _device(direction, flat.vector(x))
        return float(_host(f.value(flat.tree(moved))))

    down, up = probe(at, g, known, zero, settings, falls=falls, rises=rises)
    way = down if way is None else way
    return ("saddle" if way is not None and (rises or up) else "degenerate"), way


def _downhill(direction: Any, g: Any) -> Any:
    """Turn an eigenvector downhill; one that is level both ways, so that its largest entry is positive."""
    slope = float(direction @ g)
    if slope == 0.0:
        slope = -float(direction[np.argmax(np.abs(direction))])
    return -direction if slope > 0.0 else direction


def _host(x: Array) -> Any:
    return np.asarray(backends.to_numpy(x), dtype=np.float64)


def _device(host: Any, like: Array) -> Array:
    xp = backends.namespace(like)
    host = host.astype(str(like.dtype).rpartition(".")[2])
    return backends.of(like).convert(xp, host, like.dtype, backends.device(like))
