"""The certificate of a result: curvatures, condition number, rate of convergence, distance to the minimum.

The loop builds one from its last observation. Where the least curvature mu > 0 is known, |g| / mu bounds how
far the minimum can be, and with the largest curvature L theory predicts how fast the gradient shrinks.
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
from agd.data.matrix import column_sums, gram_matrix, scale_rows
from agd.gradient.conditioning import MAX_SPECTRUM_COLUMNS
from agd.gradient.curvature import least_eigenvalue
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective
from agd.gradient.moments import hessian_with_intercept
from agd.loss.penalties import ridge_curvatures
from agd.run.observation import Observation
from agd.update import Accelerated, Descent

__all__ = [
    "Certificate",
    "Deferred",
    "LeastCurvature",
    "convergence_kind",
    "find_least_curvature",
    "make_certificate",
    "predicted_contraction",
    "stack_params",
    "unit_params",
]


class LeastCurvature(NamedTuple):
    """The least curvature mu of an objective: its value, or the arrays on the device that give it.

    Attributes
    ----------
    source : str
        Where mu comes from, such as "Hessian"; empty where it is not known.
    pair : tuple of float, or None
        mu in the solver's coordinates and in the user's, where the objective brings it.
    arrays : tuple of array
        What is to be read: the change of coordinates where there is one, (n, n), and the data's part of
        the Hessian, (n, n), where it is constant.
    preconditioned, quadratic : bool
        Which of the two arrays there are.
    ridge : numpy.ndarray, shape (n,)
        The penalty's part of the Hessian, its diagonal.
    """

    source: str = ""
    pair: tuple[float, float] | None = None
    arrays: tuple[Array, ...] = ()
    preconditioned: bool = False
    quadratic: bool = False
    ridge: Any = ()

    @property
    def is_known(self) -> bool:
        """Whether mu is known, or will be once the arrays are read."""
        return bool(self.source)

    def resolve(self, host_arrays: list[Any]) -> tuple[float, float] | None:
        """Return mu in the solver's coordinates and in the user's, from the arrays as read.

        An eigenvalue that rounding may have made is 0. None where mu is not known, and where an array is
        not finite.
        """
        if self.pair is not None or not self.is_known:
            return self.pair
        if not all(np.isfinite(x).all() for x in host_arrays):
            return None
        eps = max((float(np.finfo(x.dtype).eps) for x in host_arrays), default=0.0)
        hessian = np.diag(self.ridge)
        if self.quadratic:
            hessian = hessian + np.asarray(host_arrays[-1], dtype=float)
        original = least_eigenvalue(np.eye(len(hessian)), hessian, eps)
        if not self.preconditioned:
            return original, original
        coordinates = np.asarray(host_arrays[0], dtype=float)
        return least_eigenvalue(coordinates, hessian, eps), original


def find_least_curvature(objective: Any, state: Any) -> LeastCurvature:
    """Return the least curvature of a linear fit, where it is cheap and holds everywhere.

    That is for one problem whose solver has measured L: of the squared loss, or of any loss with an `L2`
    penalty on all of its parameters (mu >= alpha). The squared loss is a quadratic: its Hessian
    [X 1]' diag(s) [X 1] / m is one matrix, which a pass over the data gives, a few times as long as one for
    a gradient. It is read together with the first observation, so that it costs no read of its own.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    state : NamedTuple
        The solver's state at the first point.

    Returns
    -------
    LeastCurvature
        Its arrays are still on the device.
    """
    if objective.least_curvature is not None:
        return LeastCurvature("Hessian", objective.least_curvature)
    base, coordinates = objective.linear_objective, objective.preconditioner
    if base is None or base.nonsmooth or base.outputs is not None:
        return LeastCurvature()
    p = base.blocks.X.shape[-1]
    measured = get_progress(state).curvature is not None
    if not measured or base.batch_shape != () or p > MAX_SPECTRUM_COLUMNS:
        return LeastCurvature()
    alpha = np.broadcast_to(ridge_curvatures(base.penalty), p)
    quadratic = base.loss.quadratic
    if not quadratic and (alpha.min() == 0.0 or base.intercept):
        return LeastCurvature()
    arrays: list[Array] = []
    with np.errstate(all="ignore"):
        if coordinates is not None:
            arrays.append(stack_params(coordinates.to_original(unit_params(base, p))))
        if quadratic:
            arrays.append(_squared_loss_hessian(base))
    return LeastCurvature(
        source="Hessian" if quadratic else "penalty",
        arrays=tuple(arrays),
        preconditioned=coordinates is not None,
        quadratic=quadratic,
        ridge=np.append(alpha, [0.0] * base.intercept),
    )


def unit_params(base: LinearObjective, p: int) -> Params:
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


def _cross_products_of_block(X: Array, _: Array, weight: Array | None) -> tuple[Array, Array]:
    """Sum x x' and x over the rows of one block, with their weights."""
    xp = backends.namespace(X)
    rooted = X if weight is None else scale_rows(X, xp.sqrt(weight))
    return gram_matrix(rooted), column_sums(X if weight is None else scale_rows(X, weight))


def _squared_loss_hessian(base: LinearObjective) -> Array:
    """Return the Hessian of the squared loss, shape (p, p), or (p + 1, p + 1) with the intercept."""
    squares, sums = base.blocks.sum(_cross_products_of_block, limit=MAX_COPIED_BLOCK_BYTES)
    total = base.blocks.total
    return hessian_with_intercept(squares / total, sums / total, intercept=base.intercept)


def stack_params(rows: Params) -> Array:
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


CONVERGENCE_KINDS = ("gradient", "line search", "accelerated", "conjugate", "heavy ball")


@dataclass(frozen=True, repr=False)
class Certificate:
    """What is known of the point that a run reached; None where it is not known.

    For a batch of problems the numbers are NumPy arrays, with NaN for what is not known of one.

    Attributes
    ----------
    grad_norm : float or numpy.ndarray
        The largest absolute partial derivative at the point, or its relative size, as the stopping
        test measured it.
    tolerance : float, numpy.ndarray or tree of float
        The limit of `grad_norm` at which the run has converged.
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
        How mu and L were had: "power iteration", "the path of the run", "Hessian", "penalty".
    direction : tree of arrays, or None
        A unit direction, like the point, in which the objective falls from a critical point that is no minimum:
        what leads out of a saddle.

    Examples
    --------
    >>> Certificate(1e-9, 1e-8, curvature=4.0, largest_step=0.5)
    |g| 1e-09 against 1e-08, largest curvature L 4, steps below 2/L 0.5
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
    direction: Any = None

    def __repr__(self) -> str:
        """Say what is known, in one line."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = [f"|g| {_format_number(self.grad_norm)} against {_format_number(self.tolerance)}"]
        labels = {
            "curvature": "largest curvature L",
            "largest_step": "steps below 2/L",
            "least_curvature": "least curvature mu",
            "condition": "condition number L/mu",
            "contraction": "contraction predicted",
            "observed": "contraction observed",
            "distance": "distance at most",
            "kind": "kind",
            "source": "curvature from",
        }
        parts += [
            f"{label} {_format_number(known[name])}"
            for name, label in labels.items()
            if known[name] is not None
        ]
        if self.direction is not None:
            parts.append("a way down along direction")
        return ", ".join(parts)


class Deferred(Certificate):
    """A certificate whose curvatures, and bound on the distance, are computed when they are first read.

    Parameters
    ----------
    *args, **known
        As of `Certificate`.
    ends : callable, optional
        Returns the least and the largest eigenvalue of the Hessian.
    distance_bound : callable, optional
        Returns `distance`.
    """

    _DEFERRED = ("curvature", "largest_step", "least_curvature", "condition")

    def __init__(
        self,
        *args: Any,
        ends: Callable[[], tuple[Any, Any]] | None = None,
        distance_bound: Callable[[], float | None] | None = None,
        **known: Any,
    ) -> None:
        super().__init__(*args, **known)
        if distance_bound is not None:
            self.__dict__["_distance_bound"] = distance_bound
            del self.__dict__["distance"]
        if ends is not None:
            self.__dict__.update(_ends=ends, source="Hessian")
            for name in self._DEFERRED:
                del self.__dict__[name]

    def __getattribute__(self, name: str) -> Any:
        """Compute what is deferred before it is first read; the class has a default for each."""
        if name == "distance" and name not in (known := super().__getattribute__("__dict__")):
            known["distance"] = known["_distance_bound"]()
        if name in Deferred._DEFERRED and name not in (
            known := super().__getattribute__("__dict__")
        ):
            low, high = known["_ends"]()
            with np.errstate(all="ignore"):
                known.update(
                    curvature=high,
                    largest_step=2.0 / high,
                    least_curvature=low,
                    condition=high / low,
                )
        return super().__getattribute__(name)


def _format_number(value: Any) -> str:
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
    as_choice("kind", kind, CONVERGENCE_KINDS)
    inverse_condition = mu / L
    if kind == "gradient":
        lr = 1.0 / L if learning_rate is None else learning_rate
        largest = np.maximum(abs(1.0 - lr * mu), abs(1.0 - lr * L))
        return largest if np.ndim(largest) else float(largest)
    if kind == "line search":
        return (1.0 - inverse_condition) / (1.0 + inverse_condition)
    if kind == "accelerated":
        return (1.0 - inverse_condition**0.5) ** 0.5
    return (1.0 - inverse_condition**0.5) / (1.0 + inverse_condition**0.5)


def convergence_kind(method: Any) -> tuple[str | None, float | None]:
    """Return the kind that `predicted_contraction` knows the method by, and its fixed step.

    A method may name its own, by an attribute ``convergence``.
    """
    if method.convergence is not None:
        return method.convergence, None
    if isinstance(method, Accelerated):
        return ("accelerated" if method.momentum else "gradient"), None
    if isinstance(method, Descent) and method.rule.name == "gradient_descent":
        rate = method.rule.constant_rate
        if method.auto or rate is not None:
            return "gradient", rate
    return None, None


def make_certificate(
    observation: Observation,
    tolerance: Any,
    method: Any,
    observed: Any,
    least_curvature: tuple[float, float] | None,
    source: str,
) -> Certificate:
    """Put together what a run knows of the point that it reached.

    Parameters
    ----------
    observation : Observation
        The last one.
    tolerance : float, numpy.ndarray or tree
        The limit of the gradient at which the run has converged.
    method : Method
        The solver.
    observed : numpy.ndarray, shape (...)
        The contraction that was observed; NaN where none was.
    least_curvature : tuple of float, or None
        mu in the solver's coordinates and in the user's, where it holds everywhere.
    source : str
        Where `least_curvature` comes from.

    Returns
    -------
    Certificate
        What is known.
    """
    L = _positive_or_none(observation.curvature)
    if least_curvature is not None:
        mu: Any = least_curvature[0]
    else:
        mu = _positive_or_none(observation.least_curvature)
        along_path = bool((observation.least_curvature > 0.0).any()) or method.backtracking
        source = "the path of the run" if along_path else "power iteration"
    with np.errstate(all="ignore"):
        condition = None if L is None or mu is None else as_scalar(np.asarray(L) / mu)
        largest_step = None if L is None else as_scalar(2.0 / np.asarray(L))
    kind, rate = convergence_kind(method)
    contraction = None
    if kind is not None and L is not None and mu is not None:
        contraction = predicted_contraction(mu, L, kind, rate)
    is_array = isinstance(tolerance, np.ndarray | np.generic)  # else a float, or a tree of floats
    return Certificate(
        grad_norm=as_scalar(observation.grad_norm),
        tolerance=as_scalar(tolerance) if is_array else tolerance,
        curvature=L,
        largest_step=largest_step,
        least_curvature=mu,
        condition=condition,
        contraction=contraction,
        observed=None if np.isnan(observed).all() else as_scalar(observed),
        distance=_distance_bound(observation, least_curvature),
        source=source if L is not None or mu is not None else None,
    )


def _distance_bound(observation: Observation, mu: tuple[float, float] | None) -> Any:
    """Bound the distance to the minimum by |g|/mu; None where mu is not known to be positive."""
    if mu is None or observation.length is None or not mu[1] > 0.0:
        return None
    # Even where the gradient is 0 the point is a rounded one.
    rounding = float(np.finfo(observation.size.dtype).eps) * observation.size
    return as_scalar(observation.length / mu[1] + rounding)


def _positive_or_none(curvature: Any) -> Any:
    """Return a curvature where it is known, above 0; NaN for the problems of a batch where it is not."""
    if not (curvature > 0.0).any():
        return None
    return as_scalar(np.where(curvature > 0.0, curvature, math.nan))
