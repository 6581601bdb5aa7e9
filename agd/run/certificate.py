"""What is known of the point that a run found, and how fast it had to get there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from agd._validation import choice
from agd.run.row import Row, plain
from agd.update import Accelerated, Descent
from agd.update._rule import given_rate

__all__ = ["Certificate", "certified", "predicted_contraction"]

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
    choice("kind", kind, KINDS)
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


def convergence_of(method: Any) -> tuple[str | None, float | None]:
    """Return the kind that `predicted_contraction` knows the method by, and its fixed step.

    A method may name its own, by an attribute ``convergence``.
    """
    named: str | None = getattr(method, "convergence", None)
    if named is not None:
        return named, None
    if isinstance(method, Accelerated):
        return ("accelerated" if method.momentum else "gradient"), None
    if isinstance(method, Descent) and method.rule.name == "gradient_descent":
        rate = given_rate(method.rule)
        if method.auto or rate is not None:
            return "gradient", rate
    return None, None


def certified(
    row: Row,
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
        condition = None if L is None or mu is None else plain(np.asarray(L) / mu)
        largest_step = None if L is None else plain(2.0 / np.asarray(L))
    kind, rate = convergence_of(method)
    predict = kind is not None and L is not None and mu is not None
    return Certificate(
        grad_norm=plain(row.grad_norm),
        tolerance=plain(tolerance) if isinstance(tolerance, np.ndarray | np.generic) else tolerance,
        curvature=L,
        largest_step=largest_step,
        least_curvature=mu,
        condition=condition,
        contraction=predicted_contraction(mu, L, kind, rate) if predict and kind else None,
        observed=None if np.isnan(observed).all() else plain(observed),
        distance=_distance(row, known),
        source=source if L is not None or mu is not None else None,
    )


def _distance(row: Row, known: tuple[float, float] | None) -> Any:
    if known is None or row.length is None or not known[1] > 0.0:
        return None
    # Even where the gradient is 0 the point is a rounded one.
    rounding = float(np.finfo(row.size.dtype).eps) * row.size
    return plain(row.length / known[1] + rounding)


def _known(curvature: Any) -> Any:
    """Return a curvature where it is known; NaN for the problems of a batch where it is not."""
    if not (curvature > 0.0).any():
        return None
    return plain(np.where(curvature > 0.0, curvature, math.nan))
