"""The least curvature of a linear fit, where it is cheap and holds everywhere.

The squared loss is a quadratic: its Hessian [X 1]' diag(s) [X 1] / m is one matrix, and the smallest
eigenvalue mu bounds how far the minimum can be. One pass over the data gives it, a few times as long as
one for a gradient, and it travels to the host with the first look, so that it costs no read of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, Params, get_progress
from agd._validation import as_choice
from agd.data.matrix import column_sums, gram, times_rows
from agd.gradient.conditioning import MAX_SPECTRUM_COLUMNS
from agd.gradient.hessian import least_eigenvalue
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective
from agd.gradient.preconditioner import Preconditioned
from agd.gradient.quadratic import WhitenedLeastSquares
from agd.loss import L2, Squared
from agd.run.observation import Observation
from agd.update import Accelerated, Descent

__all__ = [
    "Certificate",
    "Spectrum",
    "make_certificate",
    "matrix",
    "predicted_contraction",
    "spectrum",
    "units",
]


class Spectrum(NamedTuple):
    """What it takes to know mu: arrays to be read, and what is to be done with them.

    Attributes
    ----------
    arrays : list of array
        The change of coordinates where there is one, (n, n), and the data's part of the Hessian,
        (n, n), where it is constant.
    rescaled, quadratic : bool
        Which of the two there are.
    ridge : numpy.ndarray, shape (n,)
        The penalty's part of the Hessian, its diagonal.
    why : str
        How mu is had.
    """

    arrays: list[Array]
    rescaled: bool
    quadratic: bool
    ridge: Any
    why: str

    def least(self, host: list[Any]) -> tuple[float, float] | None:
        """Return mu in the method's coordinates and in the user's, from the arrays as read.

        An eigenvalue that rounding may have made is 0.
        """
        if not all(np.isfinite(x).all() for x in host):
            return None
        eps = max((float(np.finfo(x.dtype).eps) for x in host), default=0.0)
        moved = np.asarray(host[0], dtype=float) if self.rescaled else None
        hessian = np.diag(self.ridge)
        if self.quadratic:
            hessian = hessian + np.asarray(host[-1], dtype=float)
        bare = np.eye(len(hessian))
        user = least_eigenvalue(bare, hessian, eps)
        return (user if moved is None else least_eigenvalue(moved, hessian, eps)), user


class Known(NamedTuple):
    """A least curvature that the objective brings: nothing is left to read or to find out.

    Attributes
    ----------
    pair : tuple of float
        It in the method's coordinates and in the user's.
    arrays : tuple
        None.
    why : str
        How it is known.
    """

    pair: tuple[float, float]
    arrays: tuple[Array, ...] = ()
    why: str = "Hessian"

    def least(self, _: Any) -> tuple[float, float]:
        """Return both."""
        return self.pair


def spectrum(objective: Any, state: Any) -> Spectrum | Known | None:
    """Return what it takes to know the least curvature, or None where that is not cheap.

    It is for one problem whose method has measured L; then, of the squared loss, or of any loss with an
    `L2` penalty on all of its parameters (mu >= alpha).

    Parameters
    ----------
    objective : Objective
        What is minimised.
    state : NamedTuple
        The method's state at the first point.

    Returns
    -------
    Spectrum, Known or None
        The arrays, still on the device.
    """
    if isinstance(objective, WhitenedLeastSquares):
        return None if objective.least is None else Known(objective.least)
    base = objective.base if isinstance(objective, Preconditioned) else objective
    if not isinstance(base, LinearObjective) or getattr(base, "nonsmooth", False):
        return None
    p = base.blocks.X.shape[-1]
    known = get_progress(state).curvature is not None
    if not known or base.batch_shape != () or p > MAX_SPECTRUM_COLUMNS:
        return None
    alpha = base.penalty.alpha if isinstance(base.penalty, L2) else 0.0
    quadratic = isinstance(base.loss, Squared)
    if not quadratic and (alpha == 0.0 or base.intercept):
        return None
    arrays: list[Array] = []
    with np.errstate(all="ignore"):
        if isinstance(objective, Preconditioned):
            arrays.append(matrix(objective.scaling.to_original(units(base, p))))
        if quadratic:
            arrays.append(_hessian(base))
    ridge = np.asarray([alpha] * p + [0.0] * base.intercept)
    why = "Hessian" if quadratic else "penalty"
    return Spectrum(arrays, isinstance(objective, Preconditioned), quadratic, ridge, why)


def units(base: LinearObjective, p: int) -> Params:
    """Return the unit vectors of the parameters, as a batch.

    Parameters
    ----------
    base : LinearObjective
        Whose parameters.
    p : int
        How many coefficients.

    Returns
    -------
    Params
        coef (n, p) and intercept (n,), or None.
    """
    like = base.blocks.resident
    xp, where = backends.namespace(like), backends.device(like)
    n = p + base.intercept
    eye = xp.eye(n, dtype=like.dtype, device=where)
    return Params(eye[:, :p], eye[:, p] if base.intercept else None)


def _squares(X: Array, _: Array, weight: Array | None) -> tuple[Array, Array]:
    """Sum x x' and x over the rows of one block, with their weights."""
    xp = backends.namespace(X)
    rooted = X if weight is None else times_rows(X, xp.sqrt(weight))
    return gram(rooted), column_sums(X if weight is None else times_rows(X, weight))


def _hessian(base: LinearObjective) -> Array:
    """Return the Hessian of the squared loss, shape (p, p), or (p + 1, p + 1) with the intercept."""
    squares, sums = base.blocks.sum(_squares, limit=MAX_COPIED_BLOCK_BYTES)
    squares, sums = squares / base.blocks.total, sums / base.blocks.total
    if not base.intercept:
        return squares
    xp = backends.namespace(squares)
    last = xp.concat([sums, xp.ones_like(sums[:1])])
    return xp.concat([xp.concat([squares, sums[:, None]], axis=1), last[None, :]], axis=0)


def matrix(rows: Params) -> Array:
    """Return a batch of parameters as the rows of a matrix, the intercept last.

    Parameters
    ----------
    rows : Params
        coef (n, p) and intercept (n,), or None.

    Returns
    -------
    array, shape (n, p) or (n, p + 1)
        The matrix.
    """
    if rows.intercept is None:
        return rows.coef
    xp = backends.namespace(rows.coef)
    return xp.concat([rows.coef, xp.expand_dims(rows.intercept, axis=-1)], axis=-1)


KINDS = ("gradient", "line search", "accelerated", "conjugate", "heavy ball")


@dataclass(frozen=True, repr=False)
class Certificate:
    """What is known of the point that was found; None where it is not known.

    For a batch of problems the numbers are NumPy arrays, with NaN for what is not known of one.

    Attributes
    ----------
    grad_norm : float or numpy.ndarray
        The largest absolute partial derivative at the point, or its relative size, as the stopping
        test measured it.
    tolerance : float, numpy.ndarray or tree of float
        What it was held against.
    curvature : float, numpy.ndarray or None
        L, the largest curvature, where the method measured it (in the method's coordinates).
    largest_step : float, numpy.ndarray or None
        2/L, above which gradient descent with a fixed step diverges; None where L is unknown.
    least_curvature : float, numpy.ndarray or None
        mu, the smallest curvature, in the same coordinates.
    condition : float, numpy.ndarray or None
        L/mu; infinite where mu is 0.
    contraction : float, numpy.ndarray or None
        The factor by which theory has the gradient shrink a step (`predicted_contraction`).
    observed : float, numpy.ndarray or None
        The factor by which it did, over the last half of the steps: a geometric mean.
    distance : float or None
        |g|/mu, with Euclidean length and mu in the user's coordinates: no point is closer to the
        minimum than the minimum is to this point by more. Known for a function that is strongly convex
        with a known mu, such as the squared loss of columns that are independent.
    kind : str or None
        The critical point's kind, such as "minimum" or "saddle", where it was asked for:
        ``agd.minimize(..., certify=True)``.
    source : str or None
        How mu and L were had: "power iteration", "seen along the path", "Hessian", "penalty".

    Examples
    --------
    >>> Certificate(1e-9, 1e-8, curvature=4.0, largest_step=0.5)
    |g| 1e-09 against 1e-08, L 4, 2/L 0.5
    """

    grad_norm: Any
    tolerance: Any
    curvature: Any = None
    largest_step: Any = None
    least_curvature: Any = None
    condition: Any = None
    contraction: Any = None
    observed: Any = None
    distance: Any = None
    kind: str | None = None
    source: str | None = None

    def __repr__(self) -> str:
        """Say what is known, in one line."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        said = [f"|g| {_short(self.grad_norm)} against {_short(self.tolerance)}"]
        words = {
            "curvature": "L",
            "largest_step": "2/L",
            "least_curvature": "mu",
            "condition": "L/mu",
            "contraction": "contraction predicted",
            "observed": "contraction observed",
            "distance": "distance at most",
            "kind": "kind",
            "source": "curvature from",
        }
        said += [f"{word} {_short(known[k])}" for k, word in words.items() if known[k] is not None]
        return ", ".join(said)


class Deferred(Certificate):
    """A certificate whose curvatures are found when one of them is first asked for.

    Parameters
    ----------
    *args, **known
        As of `Certificate`.
    ends : callable, optional
        Returns the least and the largest curvature: those of the Hessian.
    """

    _LATER = ("curvature", "largest_step", "least_curvature", "condition")

    def __init__(
        self, *args: Any, ends: Callable[[], tuple[Any, Any]] | None = None, **known: Any
    ) -> None:
        super().__init__(*args, **known)
        if ends is not None:
            self.__dict__.update(_ends=ends, source="Hessian")
            for name in self._LATER:
                del self.__dict__[name]

    def __getattribute__(self, name: str) -> Any:
        """Find the curvatures before the first of them is read; the class has a default for each."""
        if name in Deferred._LATER and name not in (known := super().__getattribute__("__dict__")):
            low, high = known["_ends"]()
            with np.errstate(all="ignore"):
                known.update(
                    curvature=high,
                    largest_step=2.0 / high,
                    least_curvature=low,
                    condition=high / low,
                )
        return super().__getattribute__(name)


def _short(value: Any) -> str:
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if isinstance(value, np.ndarray) and value.size:
        low, high = np.nanmin(value), np.nanmax(value)
        return f"{low:.4g} to {high:.4g}" if low < high else f"{low:.4g}"
    return str(value)


def predicted_contraction(
    mu: Any, L: Any, kind: str = "gradient", learning_rate: float | None = None
) -> Any:
    r"""Return the factor by which theory bounds the gradient's shrinking in a step.

    For a function whose curvature lies between mu and L everywhere, with k = L/mu::

        gradient       max(|1 - lr mu|, |1 - lr L|);   1 - mu/L for the step lr = 1/L
        line search    (L - mu) / (L + mu)
        accelerated    sqrt(1 - sqrt(mu/L))
        conjugate      (sqrt(k) - 1) / (sqrt(k) + 1)
        heavy ball     the same

    Parameters
    ----------
    mu, L : float or numpy.ndarray
        The smallest and the largest curvature; 0 <= mu <= L, L > 0.
    kind : str
        How the method moves: with a fixed step, with the best step along the gradient, with Nesterov's
        momentum, by conjugate gradients, or by a heavy ball of the best step and momentum.
    learning_rate : float, optional
        The fixed step of kind "gradient"; 1/L by default.

    Returns
    -------
    float or numpy.ndarray
        The factor; 1 or more promises nothing.

    Raises
    ------
    ValueError
        For an unknown kind.

    Notes
    -----
    Nesterov (2018), *Lectures on Convex Optimization*, theorems 2.1.15 and 2.2.1; for the line search,
    which bounds the error in the Hessian's norm, Luenberger and Ye (2008), *Linear and Nonlinear
    Programming*, section 8.2, and for conjugate gradients section 9.3; Polyak (1964), "Some methods of
    speeding up the convergence of iteration methods".

    Examples
    --------
    >>> predicted_contraction(1.0, 4.0), predicted_contraction(1.0, 4.0, "line search")
    (0.75, 0.6)
    """
    as_choice("kind", kind, KINDS)
    share = mu / L
    if kind == "gradient":
        lr = 1.0 / L if learning_rate is None else learning_rate
        largest = np.maximum(abs(1.0 - lr * mu), abs(1.0 - lr * L))
        return largest if np.ndim(largest) else float(largest)
    if kind == "line search":
        return (1.0 - share) / (1.0 + share)
    if kind == "accelerated":
        return (1.0 - share**0.5) ** 0.5
    return (1.0 - share**0.5) / (1.0 + share**0.5)


def convergence_kind(method: Any) -> tuple[str | None, float | None]:
    """Return the kind that `predicted_contraction` knows the method by, and its fixed step.

    A method may name its own, by an attribute ``convergence``.
    """
    named: str | None = getattr(method, "convergence", None)
    if named is not None:
        return named, None
    if isinstance(method, Accelerated):
        return ("accelerated" if method.momentum else "gradient"), None
    if isinstance(method, Descent) and method.rule.name == "gradient_descent":
        rate = method.rule.constant_rate
        if method.auto or rate is not None:
            return "gradient", rate
    return None, None


def make_certificate(
    row: Observation,
    tolerance: Any,
    method: Any,
    observed: Any,
    known: tuple[float, float] | None,
    why: str,
) -> Certificate:
    """Put together what a run knows of the point that it reached.

    Parameters
    ----------
    row : Row
        The last look.
    tolerance : float, numpy.ndarray or tree
        What the gradient was held against.
    method : Method
        How the run moved.
    observed : numpy.ndarray, shape (...)
        The contraction that was seen; NaN where none was.
    known : tuple of float, or None
        mu in the method's coordinates and in the user's, where it holds everywhere.
    why : str
        How `known` was had.

    Returns
    -------
    Certificate
        What is known.
    """
    L = _known(row.curvature)
    mu = known[0] if known is not None else _known(row.least_curvature)
    seen = bool((row.least_curvature > 0.0).any()) or getattr(method, "backtracking", False)
    source = why if known is not None else ("seen along the path" if seen else "power iteration")
    with np.errstate(all="ignore"):
        condition = None if L is None or mu is None else as_scalar(np.asarray(L) / mu)
        largest_step = None if L is None else as_scalar(2.0 / np.asarray(L))
    kind, rate = convergence_kind(method)
    predict = kind is not None and L is not None and mu is not None
    return Certificate(
        grad_norm=as_scalar(row.grad_norm),
        tolerance=as_scalar(tolerance)
        if isinstance(tolerance, np.ndarray | np.generic)
        else tolerance,
        curvature=L,
        largest_step=largest_step,
        least_curvature=mu,
        condition=condition,
        contraction=predicted_contraction(mu, L, kind, rate) if predict and kind else None,
        observed=None if np.isnan(observed).all() else as_scalar(observed),
        distance=_distance(row, known),
        source=source if L is not None or mu is not None else None,
    )


def _distance(row: Observation, known: tuple[float, float] | None) -> Any:
    if known is None or row.length is None or not known[1] > 0.0:
        return None
    # Even where the gradient is 0 the point is a rounded one.
    rounding = float(np.finfo(row.size.dtype).eps) * row.size
    return as_scalar(row.length / known[1] + rounding)


def _known(curvature: Any) -> Any:
    """Return a curvature where it is known; NaN for the problems of a batch where it is not."""
    if not (curvature > 0.0).any():
        return None
    return as_scalar(np.where(curvature > 0.0, curvature, math.nan))
