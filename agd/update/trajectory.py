"""A run with constant step on the squared loss in closed form: any epoch for the price of one.

The least-squares problem is decomposed once (`Spectrum`); what k steps leave of the first residual in each
singular direction is a polynomial (``agd.update.powers``), from which follow the points, the losses and the
gradients of the run (`Path`), and its generalised cross-validation. `Trajectory` is the public class;
``agd.path`` and the closed form of ``agd.fit`` are built on it.
"""

# Annotations are not deferred here: pdoc cannot resolve the names of a deferred one in a NamedTuple.

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, HostArray, Params, Penalty
from agd._validation import as_choice, as_count, as_start
from agd.data.matrix import backward, forward
from agd.data.threads import map_problems
from agd.gradient.moments import Moments, hessian_with_intercept, ridge
from agd.gradient.objective import largest_curvature
from agd.update.powers import Steps, as_epochs, as_steps, residual_polynomial
from agd.update.rule import AUTO, Rule, compiled
from agd.update.rules import gradient_descent, momentum, nesterov

__all__ = [
    "BestEpoch",
    "Path",
    "RuleShape",
    "Spectrum",
    "Trajectory",
    "log_grid",
    "split_intervals",
]

CLOSED_FORM_RULES = {
    "gd": gradient_descent,
    "gradient_descent": gradient_descent,
    "momentum": momentum,
    "nesterov": nesterov,
}


def has_closed_form(rule: Any) -> bool:
    """Return whether a rule is one of `CLOSED_FORM_RULES`, with constant step and beta."""
    if not isinstance(rule, Rule) or rule.name not in CLOSED_FORM_RULES:
        return False
    known = dict(rule.hyperparameters)
    return not callable(known["learning_rate"]) and isinstance(known.get("beta", 0.0), Real)


def as_constant_rule(rule: Any) -> Rule:
    """Return the rule by its name or itself; raise ValueError if it has no closed form."""
    if isinstance(rule, str):
        rule = CLOSED_FORM_RULES[as_choice("rule", rule, tuple(CLOSED_FORM_RULES))]()
    if not has_closed_form(rule):
        raise ValueError(
            f"rule must be gradient_descent, momentum or nesterov with a constant learning rate (a "
            f"number, an array or {AUTO!r}) and a number as beta, got {rule!r}"
        )
    result: Rule = rule
    return result


# Rounding makes of an eigenvalue 0 of the correlation of p columns less than 0.7 p eps, measured on
# millions of rows; eigenvalues below ROUNDING_FACTOR p eps are taken for 0.
ROUNDING_FACTOR = 4.0
MATRICES_PER_THREAD = (
    2048  # matrices that a thread factors at a time; with fewer the threads wait for one another
)
MAX_HESSIAN_CONDITION = 1e4  # above it the root is decomposed instead of the Hessian


class RuleShape(NamedTuple):
    """The rule and the model, but for arrays: the static argument of a compiled evaluation.

    Attributes
    ----------
    beta : float
        The share of the velocity that a step keeps; 0 for gradient descent.
    nesterov : bool
        Whether the rule is Nesterov's instead of the heavy ball.
    intercept : bool
        Whether the last direction is the constant term's.
    alpha : float
        The penalty's strength.
    """

    beta: float
    nesterov: bool
    intercept: bool
    alpha: float


class Spectrum(NamedTuple):
    """The least-squares problem |A t - a|² / 2 + rest / 2 in its singular directions.

    Attributes
    ----------
    s : array, shape (..., r)
        A's singular values, 0 where rounding is all there is.
    V : array, shape (..., d, r)
        Its right singular vectors.
    residual : array, shape (..., r)
        U'(A t_0 - a) at the first point.
    rest : array, shape (...)
        Twice the loss that no t can change.
    start : array, shape (..., d)
        The first point t_0.
    step_eigenvalues : array, shape (..., r)
        Learning rate times s²: the eigenvalues of the step, tau in ``agd.update.powers``.
    rows : array, shape () or (...)
        The number of rows of the data.
    """

    s: Array
    V: Array
    residual: Array
    rest: Array
    start: Array
    step_eigenvalues: Array
    rows: Array


def _clear_rounding(x: Array, unit: float) -> Array:
    """Return x, 0 or more, with entries of at most `unit` times the largest one set to 0."""
    xp = backends.namespace(x)
    least = unit * xp.max(x, axis=-1, keepdims=True)
    return xp.where(x > least, x, xp.zeros_like(x))


def safe_inverse(x: Array) -> Array:
    """Return 1 / x, and 0 where x is 0."""
    xp = backends.namespace(x)
    some = x > 0.0
    # The inner `where` keeps the division that is not used from a warning.
    return xp.where(some, 1.0 / xp.where(some, x, xp.ones_like(x)), xp.zeros_like(x))


def _is_host_batch(A: Array) -> bool:
    """Return whether these are matrices on the host, one for each of several problems."""
    return backends.of(A).threaded and A.ndim == 3


def _factor_in_threads(factor: Callable[..., Any], A: Array) -> Any:
    """Factor matrices; a batch of them on the host is divided among threads."""
    if not _is_host_batch(A):
        return factor(A)
    return map_problems(factor, A, size=MATRICES_PER_THREAD)


def _least_squares_root(moments: Moments, rule_shape: RuleShape) -> tuple[Array, Array, Array]:
    """Return A, a and the rest of the least-squares problem that has the same loss.

    G is decomposed as a correlation matrix, so that a column of small spread beside one of large is not
    taken for rounding.
    """
    G, c, mean, mean_y = moments.G, moments.c, moments.mean, moments.mean_y
    xp, p = backends.namespace(G), G.shape[-1]
    like = {"dtype": G.dtype, "device": backends.device(G)}
    spread = xp.sqrt(backends.clip(xp.linalg.diagonal(G), low=0.0))
    unit = safe_inverse(spread)
    e, Q = _factor_in_threads(xp.linalg.eigh, G * unit[..., :, None] * unit[..., None, :])
    root = xp.sqrt(_clear_rounding(e, ROUNDING_FACTOR * p * float(xp.finfo(G.dtype).eps)))
    Qt = xp.matrix_transpose(Q)
    a = safe_inverse(root) * forward(Qt, c * unit)
    rest = backends.clip(moments.yy - xp.sum(a * a, axis=-1), low=0.0)
    rows = [root[..., :, None] * (Qt * spread[..., None, :])]
    goals = [a]
    # Further terms of the loss are further rows of A: the Hessian A'A, of the squared condition, is never formed.
    if rule_shape.alpha:
        eye = math.sqrt(rule_shape.alpha) * xp.eye(p, **like)
        rows.append(eye + xp.zeros_like(G))
        goals.append(xp.zeros_like(c))
    rows.append(mean[..., None, :])
    goals.append(mean_y[..., None])
    A = xp.concat(rows, axis=-2)
    # About the means the intercept cancels: it acts in the row of the mean alone.
    if rule_shape.intercept:
        constant = xp.concat(
            [xp.zeros_like(A[..., :-1, :1]), xp.ones_like(A[..., -1:, :1])], axis=-2
        )
        A = xp.concat([A, constant], axis=-1)
    return A, xp.concat(goals, axis=-1), rest


def decompose(moments: Moments, rule_shape: RuleShape, first: Params, rate: Any) -> Spectrum:
    """Decompose the problem, and express the first residual in its singular directions.

    Parameters
    ----------
    moments : Moments
        Of the data.
    rule_shape : RuleShape
        The rule and the model.
    first : Params
        The first point.
    rate : float or array, shape () or (..., 1)
        The learning rate.

    Returns
    -------
    Spectrum
        The decomposition.
    """
    start = first.coef
    if first.intercept is not None:
        start = backends.namespace(start).concat([start, first.intercept[..., None]], axis=-1)
    s, V, residual, rest = _singular_spectrum(moments, rule_shape, start)
    return Spectrum(
        s=s,
        V=V,
        residual=residual,
        rest=rest,
        start=start,
        step_eigenvalues=rate * (s * s),
        rows=moments.rows,
    )


class IllConditionedError(ArithmeticError):
    """The Hessian of a problem is too ill-conditioned to be decomposed instead of its root."""


def _singular_spectrum(moments: Moments, rule_shape: RuleShape, start: Array) -> tuple[Array, ...]:
    """Return the singular values and vectors, the first residual in them, and twice the constant loss."""
    if _is_host_batch(moments.G):
        with contextlib.suppress(IllConditionedError):
            return _spectrum_from_hessian(moments, rule_shape, start)
    return _spectrum_from_root(moments, rule_shape, start)


def _spectrum_from_root(moments: Moments, rule_shape: RuleShape, start: Array) -> tuple[Array, ...]:
    A, a, rest = _least_squares_root(moments, rule_shape)
    xp = backends.namespace(A)
    U, s, Vt = _factor_in_threads(functools.partial(xp.linalg.svd, full_matrices=False), A)
    s = _clear_rounding(s, A.shape[-1] * float(xp.finfo(A.dtype).eps))
    residual = forward(A, start) - a
    projected = backward(U, residual)
    # Computed as a vector: the difference of two squared lengths would cancel near the minimum.
    orthogonal = residual - forward(U, projected)
    return s, xp.matrix_transpose(Vt), projected, rest + xp.sum(orthogonal * orthogonal, axis=-1)


def _spectrum_from_hessian(
    moments: Moments, rule_shape: RuleShape, start: HostArray
) -> tuple[Array, ...]:
    """Return the same from the Hessian A'A, in a third of the time; raise IllConditionedError if that loses digits.

    The error of every eigenvalue is that of the largest one. In a Hessian of condition below
    `MAX_HESSIAN_CONDITION`, as those of thousands of problems often are, none loses more than four of
    sixteen digits.
    """
    mean, p = moments.mean, moments.G.shape[-1]
    mean_y: HostArray = moments.mean_y
    cross: HostArray
    second, cross = moments.quadratic(intercept=False)  # moments about 0, as the run has them
    ridged = second + rule_shape.alpha * np.eye(p)
    H = hessian_with_intercept(ridged, mean, intercept=rule_shape.intercept)
    goal = np.concatenate([cross, mean_y[:, None]], axis=-1) if rule_shape.intercept else cross
    e, V = _factor_in_threads(np.linalg.eigh, H)
    if not np.all(e[:, 0] * MAX_HESSIAN_CONDITION > e[:, -1]):
        raise IllConditionedError
    s = np.sqrt(e)
    slope: HostArray = forward(H, start) - goal
    projected = backward(V, slope) / s
    twice_loss = moments.yy + mean_y * mean_y + np.vecdot(start, slope - goal)  # at the start
    return (
        s,
        V,
        projected,
        np.clip(twice_loss - np.vecdot(projected, projected), 0.0, None),
    )


class MomentCurvature:
    """The squared loss by its Hessian-vector products, for a power iteration."""

    def __init__(self, moments: Moments, rule_shape: RuleShape) -> None:
        self.moments, self.rule_shape = moments, rule_shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the batch of problems."""
        return tuple(self.moments.c.shape)[:-1]

    def zeros(self) -> Params:
        """Return parameters at zero."""
        c = self.moments.c
        xp = backends.namespace(c)
        constant = xp.zeros_like(self.moments.mean_y) if self.rule_shape.intercept else None
        return Params(xp.zeros_like(c), constant)

    def bound_product(self, params: Params) -> Params:
        """Multiply by the Hessian."""
        coef, z = self.moments.curvature_product(params)
        return Params(coef + self.rule_shape.alpha * params.coef, z)


def check_finite(moments: Moments) -> None:
    """Raise ValueError unless the moments are finite; this reads one number from the device."""
    if not backends.to_numpy(moments.finite):
        raise ValueError("moments must be finite, got NaN or infinite ones: scale X or y down")


def as_rate(rate: Any, like: Params) -> Any:
    """Return a number, or an array of the moments' dtype with an axis for the directions."""
    if isinstance(rate, Real):
        return float(rate)
    xp = backends.namespace(like.coef)
    rate = xp.astype(rate, like.coef.dtype, copy=False)
    return rate[..., None] if rate.ndim else rate


class Path(NamedTuple):
    """A run at K epochs; without the first axis where one was asked for.

    Attributes
    ----------
    coef : array, shape (K, ..., p)
        The coefficients.
    intercept : array, shape (K, ...), or None
        The constant terms.
    value : array, shape (K, ...)
        The loss, with the penalty.
    grad : Params
        Its gradient with respect to both.
    grad_norm : array, shape (K, ...)
        The gradient's largest absolute entry.
    """

    coef: Array
    intercept: Array | None
    value: Array
    grad: Params
    grad_norm: Array


def path_at(rule_shape: RuleShape, parts: Spectrum, steps: Steps) -> Path:
    """Return the run after k steps.

    Parameters
    ----------
    rule_shape : RuleShape
        The rule and the model.
    parts : Spectrum
        The problem.
    steps : Steps
        k, shape (K, ..., 1).

    Returns
    -------
    Path
        The points, the loss and its gradient there.
    """
    residual_factor, progress_factor = residual_polynomial(
        rule_shape.beta, rule_shape.nesterov, parts.step_eigenvalues, steps
    )
    return path_from_factors(rule_shape, parts, residual_factor, progress_factor)[0]


def path_from_factors(
    rule_shape: RuleShape,
    parts: Spectrum,
    residual_factor: Array,
    progress_factor: Array,
    *factors: Array,
) -> tuple[Path, list[Array]]:
    """Return the run at given residual factors, and the moves that are multiples of the first distance.

    Parameters
    ----------
    rule_shape, parts
        As in `path_at`.
    residual_factor, progress_factor, *factors : array, shape (K, ..., r)
        q_k, 1 - q_k, and other multiples of the first distance for which a move is wanted.

    Returns
    -------
    path : Path
        The points, the loss and its gradient there.
    moves : list of array, shape (K, ..., d)
        The move of the parameters for each of the factors.
    """
    xp = backends.namespace(residual_factor)
    residual, first = (
        finite_product(residual_factor, parts.residual),
        parts.residual * safe_inverse(parts.s),
    )
    coefficients = [
        residual * parts.s,
        *(finite_product(factor, first) for factor in (progress_factor, *factors)),
    ]
    slope, moved, *moves = combine_vectors(parts.V, *coefficients)
    point = parts.start - moved
    value = 0.5 * (xp.sum(residual * residual, axis=-1) + parts.rest)
    norm = xp.max(xp.abs(slope), axis=-1)
    grad, where = _split_intercept(rule_shape, slope), _split_intercept(rule_shape, point)
    return Path(where.coef, where.intercept, value, grad, norm), moves


def _split_intercept(rule_shape: RuleShape, t: Array) -> Params:
    return Params(t[..., :-1], t[..., -1]) if rule_shape.intercept else Params(t, None)


def finite_product(factor: Array, x: Array) -> Array:
    """Return factor x, and 0 where x is 0, also for an infinite factor: a converged direction stays so."""
    xp = backends.namespace(x)
    product = factor * x
    return xp.where(x == 0.0, xp.zeros_like(product), product)


def combine_vectors(V: Array, *parts: Array) -> list[Array]:
    """Return V x for each x, infinite where it overflows, but never NaN from a difference of infinities."""
    xp = backends.namespace(V)
    x = xp.stack(parts)
    largest = float(xp.finfo(x.dtype).max)
    # No entry of V exceeds 1, so that a sum of products with entries below this bound cannot overflow.
    bound = largest / (4.0 * V.shape[-1])
    if backends.of(x).host_accessible and not xp.any(xp.abs(x) > bound):
        product = _basis_product(V, x)
        return [product[k] for k in range(len(parts))]
    total = _basis_product(V, backends.clip(x, low=-bound, high=bound))
    # A sum with a clipped entry is too small: a large one stands for infinity.
    beyond = xp.any(xp.abs(x) > bound, axis=-1, keepdims=True) & (
        xp.abs(total) > math.sqrt(largest)
    )
    total = xp.where(beyond, xp.sign(total) * math.inf, total)
    return [total[i, ...] for i in range(len(parts))]


def _basis_product(V: Array, x: Array) -> Array:
    """Return V x for x with leading axes before those of the problems, by one product for each problem."""
    xp, more = backends.namespace(x), x.ndim - V.ndim + 1
    if V.ndim == 2 or more == 0:
        return forward(V, x)
    shape, axes = tuple(x.shape), tuple(range(x.ndim))
    # All vectors of a problem side by side make one product of matrices, which reads V once.
    behind = xp.permute_dims(x, axes[more:] + axes[:more])
    flat = xp.reshape(behind, (*shape[more:], math.prod(shape[:more])))
    result = xp.reshape(xp.matmul(V, flat), (*shape[more:-1], V.shape[-2], *shape[:more]))
    return xp.permute_dims(result, axes[x.ndim - more :] + axes[: x.ndim - more])


def _last_step_factor(
    rule_shape: RuleShape,
    parts: Spectrum,
    steps: Steps,
    residual_factor: Array,
    progress_factor: Array,
) -> Array:
    """Return the k-th step as a multiple of the first distance, 0 for k = 0.

    A difference of two points would lose a small step to cancellation. Parameters as in `path_from_factors`.
    """
    xp = backends.namespace(steps.k)
    none = steps.k == 0.0
    before = Steps(xp.where(none, steps.k, steps.k - 1.0), ~steps.odd & ~none)
    more, less = residual_polynomial(
        rule_shape.beta, rule_shape.nesterov, parts.step_eigenvalues, before
    )
    if rule_shape.beta == 0.0:
        factor = parts.step_eigenvalues * more
    else:
        # Of the two equal differences take that of the smaller numbers, which loses fewer digits.
        factor = xp.where(
            xp.abs(residual_factor) < 0.5, more - residual_factor, progress_factor - less
        )
    return xp.where(none, xp.zeros_like(factor), factor)


class PathFunction(NamedTuple):
    """A function of a path, with what it holds that is no array: the static argument of `map_path`."""

    rule_shape: RuleShape
    function: Any
    constant: Any


def map_path(path_function: PathFunction, arrays: Any, parts: Spectrum, steps: Steps) -> Any:
    """Return the function of the path and of the largest change in the last step."""
    rule_shape = path_function.rule_shape
    residual_factor, progress_factor = residual_polynomial(
        rule_shape.beta, rule_shape.nesterov, parts.step_eigenvalues, steps
    )
    factor = _last_step_factor(rule_shape, parts, steps, residual_factor, progress_factor)
    path, (moved,) = path_from_factors(rule_shape, parts, residual_factor, progress_factor, factor)
    xp = backends.namespace(moved)
    return path_function.function(
        path_function.constant, arrays, path, xp.max(xp.abs(moved), axis=-1)
    )


def correct_spectrum(
    rule_shape: RuleShape, parts: Spectrum, steps: Steps, value: Array, grad: Params
) -> Spectrum:
    """Return the problem with this loss and gradient at the point after k steps.

    What the moments lost to rounding is, near that point, a constant error of the gradient; it is removed.

    Parameters
    ----------
    rule_shape, parts, steps
        As in `path_at`; k of shape (..., 1).
    value : array, shape (...)
        The loss there, with the penalty.
    grad : Params
        Its gradient.

    Returns
    -------
    Spectrum
        The same problem, but for `residual` and `rest`.
    """
    residual_factor, _ = residual_polynomial(
        rule_shape.beta, rule_shape.nesterov, parts.step_eigenvalues, steps
    )
    xp, path = backends.namespace(residual_factor), path_at(rule_shape, parts, steps)
    off = grad.coef - path.grad.coef
    if grad.intercept is not None:
        off = xp.concat([off, (grad.intercept - path.grad[1])[..., None]], axis=-1)
    correction = backward(parts.V, off) * safe_inverse(parts.s)
    there = finite_product(residual_factor, parts.residual) + correction
    rest = 2.0 * value - xp.sum(there * there, axis=-1)
    return parts._replace(residual=parts.residual + correction, rest=backends.clip(rest, low=0.0))


GRID_SIZE = (
    256  # epochs, evenly apart in their logarithms, that a search for the best one begins with
)
INTERVAL_PARTS = 64  # into which the interval about the best epoch is divided, again and again


class BestEpoch(NamedTuple):
    """The epoch of the smallest generalised cross-validation.

    Attributes
    ----------
    epoch : int, or numpy.ndarray of int, shape (...)
        The first epoch whose score is the smallest, for each problem.
    score : float, or numpy.ndarray, shape (...)
        Its score.
    n_sync : int
        Reads by the host.
    """

    epoch: Any
    score: Any
    n_sync: int


def log_grid(low: int, high: int, size: int) -> Any:
    """Return whole numbers from low to high, ascending: all if few, else evenly spaced in their logarithms.

    Parameters
    ----------
    low, high : int
        The first and the last number, 0 or more.
    size : int
        The most that are returned, without the first.

    Returns
    -------
    numpy.ndarray of int, shape (K,)
        Distinct numbers, among them both ends.

    Examples
    --------
    >>> log_grid(0, 1000, 4)
    array([   0,    1,   10,  100, 1000])
    >>> log_grid(2, 5, 4)
    array([2, 3, 4, 5])
    """
    if high - low <= size:
        return np.arange(low, high + 1)
    points = np.geomspace(max(low, 1), high, size).round().astype(np.int64)
    return np.unique([low, *np.clip(points, low, high), high])


def split_intervals(low: Any, high: Any, parts: int) -> Any:
    """Return the ends of equal parts of intervals of whole numbers, rounded down, shape (parts + 1, ...).

    Examples
    --------
    >>> split_intervals(np.asarray([0, 10]), np.asarray([8, 14]), 4).T
    array([[ 0,  2,  4,  6,  8],
           [10, 11, 12, 13, 14]])
    """
    part = np.arange(parts + 1)[(..., *(None,) * np.ndim(low))]
    # In two terms, since (high - low) part may overflow.
    quotient, remainder = np.divmod(high - low, parts)
    return low + quotient * part + remainder * part // parts


def minimize_over_epochs(
    score: Callable[[Any], Any], limit: int, batch_shape: tuple[int, ...], eps: float
) -> BestEpoch:
    """Return the epoch of the smallest score from 0 to `limit`, for each problem.

    Parameters
    ----------
    score : callable
        It takes epochs (K, ...) and returns the score of each, on the host.
    limit : int
        The last epoch.
    batch_shape : tuple of int
        The problems.
    eps : float
        The rounding of the scores.

    Returns
    -------
    BestEpoch
        The epoch, its score and how often `score` was called.
    """
    grid = log_grid(0, limit, GRID_SIZE)
    points = np.multiply.outer(grid, np.ones(batch_shape, dtype=np.int64))
    n_sync = 0
    while True:
        n_sync += 1
        scores = score(points)
        best = _first_minimum(scores, eps)
        low, at, high = (_take_points(points, best + step) for step in (-1, 0, 1))
        if (high - low <= 2).all():
            return BestEpoch(as_scalar(at), as_scalar(_take_points(scores, best)), n_sync)
        points = split_intervals(low, high, INTERVAL_PARTS)


def _first_minimum(scores: Any, eps: float) -> Any:
    """Return the index of the first score that is the smallest up to rounding."""
    return np.argmax(scores <= scores.min(axis=0) * (1.0 + 64.0 * eps), axis=0)


def _take_points(points: Any, index: Any) -> Any:
    index = np.clip(index, 0, len(points) - 1)
    return np.take_along_axis(points, index[None, ...], axis=0)[0]


def gcv_score(rule_shape: RuleShape, parts: Spectrum, steps: Steps) -> Array:
    """Return the generalised cross-validation score after k steps; parameters as in `path_at`."""
    residual_factor, progress_factor = residual_polynomial(
        rule_shape.beta, rule_shape.nesterov, parts.step_eigenvalues, steps
    )
    path, _ = path_from_factors(rule_shape, parts, residual_factor, progress_factor)
    xp = backends.namespace(residual_factor)
    # The trace of the hat matrix Σ (1 - q_k) v'Hv / s², H the Hessian without the penalty's part.
    width = parts.V.shape[-2] - rule_shape.intercept
    ridge = rule_shape.alpha * xp.sum(parts.V[..., :width, :] ** 2, axis=-2)
    factor = 1.0 - ridge * safe_inverse(parts.s) ** 2
    dof = xp.sum(progress_factor * factor, axis=-1)
    error = 2.0 * path.value - rule_shape.alpha * xp.sum(path.coef * path.coef, axis=-1)
    free = 1.0 - dof / parts.rows
    sound = (free > 64.0 * float(xp.finfo(free.dtype).eps)) & xp.isfinite(error)
    result = error / xp.where(sound, free * free, xp.ones_like(free))
    return xp.where(sound, result, xp.full_like(result, math.inf))


@dataclass(frozen=True, eq=False)
class Trajectory:
    r"""Gradient descent, heavy ball or Nesterov's momentum on the squared loss, with or without `L2`.

    With t = (w, b), the loss is |A t - a|²/2 plus a constant, A of at most 2 p + 1 rows made from the
    moments. In the singular directions of A = U diag(s) V', ::

        t_k = t_0 - V diag((1 - q_k) / s) U'(A t_0 - a),    q_k = (1 - lr s²)^k

    for gradient descent; heavy ball and Nesterov have another polynomial q_k. These are the iterates of
    ``agd.fit`` with that rule, to rounding. One epoch costs what a billion do: O(p²), after O(p³) once.

    Directions in which A, so X, is singular to rounding stand still, as they do in the loop. From zero
    the limit is therefore the solution of least norm.

    Attributes
    ----------
    moments : Moments
        The sufficient statistics of the data.
    rule_shape : RuleShape
        The rule's beta, whether it is Nesterov's, whether there is an intercept, the penalty's alpha.
    parts : Spectrum
        The singular values and vectors, and the first residual in them.
    rate : float or array, shape (...)
        The learning rate; where ``"auto"`` was asked for, the 1/L of ``agd.fit``.

    Notes
    -----
    A is decomposed rather than A'A: columns far from zero or of unlike scale, which couple with the
    intercept, lose half as many digits as they would in the Hessian. The digits that G lost of nearly
    dependent columns are not recovered; reported losses carry an error of about eps yy.

    Goh (2017), "Why momentum really works", Distill; Ali, Kolter and Tibshirani (2019), "A
    continuous-time view of early stopping for least squares".

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import Blocks, Moments
    >>> from agd.update import Trajectory, momentum
    >>> X, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([1.0, 3.0, 5.0])
    >>> run = Trajectory.of(Moments.from_blocks(Blocks.of(X, y)), momentum(0.1, beta=0.5))
    >>> path = run.at([1, 1000])
    >>> path.coef[:, 0].round(6), path.intercept.round(6)
    (array([0.433333, 2.      ]), array([0.3, 1. ]))
    """

    moments: Moments
    rule_shape: RuleShape
    parts: Spectrum
    rate: Any

    @classmethod
    def of(
        cls,
        moments: Moments,
        rule: str | Rule = "gd",
        *,
        penalty: Penalty | None = None,
        intercept: bool = True,
        start: Any = None,
    ) -> "Trajectory":
        """Decompose the quadratic once.

        Parameters
        ----------
        moments : Moments
            Of the data. The host reads once, to see that they are finite.
        rule : str or Rule
            ``"gd"``, ``"momentum"``, ``"nesterov"`` or what these factories return, with a constant
            learning rate: a number, an array of one for each problem, or ``"auto"``.
        penalty : L2, optional
            What is added to the loss; it spares the intercept.
        intercept : bool
            Whether the model has a constant term.
        start : Params, tuple or array, optional
            The first point, (coef, intercept) or coef; 0 by default.

        Returns
        -------
        Trajectory
            The run.

        Raises
        ------
        ValueError
            For a rule that has no closed form here, a learning rate that is a schedule, moments that are
            not finite, and a start of another shape.
        TypeError
            For another penalty than `L2`.
        """
        rule = as_constant_rule(rule)
        beta, alpha = dict(rule.hyperparameters).get("beta", 0.0), ridge(penalty)
        check_finite(moments)
        rule_shape = RuleShape(float(beta), rule.name == "nesterov", intercept, alpha)
        quadratic = MomentCurvature(moments, rule_shape)
        zero = quadratic.zeros()
        first = as_start(start, zero, intercept) or zero
        rate = rule.learning_rate
        if isinstance(rate, str):
            rate = 1.0 / largest_curvature(quadratic)
        with np.errstate(all="ignore"):
            parts = decompose(moments, rule_shape, first, as_rate(rate, zero))
        return cls(moments, rule_shape, parts, rate)

    @staticmethod
    def knows(rule: Any) -> bool:
        """Return whether a rule has a closed form: one of three, with constant step and beta.

        Examples
        --------
        >>> from agd.update import Trajectory, adam, constant, gradient_descent
        >>> Trajectory.knows(gradient_descent()), Trajectory.knows(adam(0.1))
        (True, False)
        >>> Trajectory.knows(gradient_descent(constant(0.1)))  # a schedule may change
        False
        """
        return has_closed_form(rule)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The problems: () for one."""
        return self.moments.batch_shape

    def at(self, epochs: int | Sequence[int]) -> Path:
        """Return the run at some epochs, the same for every problem.

        Parameters
        ----------
        epochs : int or sequence of int, shape (K,)
            Steps taken, 0 or more, in any order.

        Returns
        -------
        Path
            coef (K, ..., p), intercept (K, ...), value (K, ...), grad and grad_norm (K, ...); without the
            first axis for a single epoch. What has diverged beyond the floats is infinite.

        Raises
        ------
        ValueError, TypeError
            For epochs that are negative or no whole numbers.
        """
        k = as_epochs(epochs)
        path: Path = self._evaluate(path_at, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return path

    def at_each(self, epochs: Any) -> Path:
        """Return every problem at an epoch of its own, as in `at`; epochs are of shape (...)."""
        k = as_epochs(epochs)
        if k.shape != self.batch_shape:
            raise ValueError(f"epochs must have shape {self.batch_shape}, got {k.shape}")
        path: Path = self._evaluate(path_at, k[..., None])
        return path

    def seen(self, function: Any, constant: Any, arrays: Any, epochs: Any) -> Any:
        """Return a pure function of the run at some epochs, compiled where the library compiles.

        Parameters
        ----------
        function, constant, arrays
            ``function(constant, arrays, path, moved)``, with a constant that can be hashed; `moved` is
            the largest change of a parameter in the last step, (K, ...).
        epochs : numpy.ndarray of int, shape (K, ...)
            Epochs for each problem, or (K, 1, ...).

        Returns
        -------
        tree of arrays
            What it returned.
        """
        k, backend = as_epochs(epochs)[..., None], backends.of(self.parts.s)
        with np.errstate(all="ignore"):
            steps, path_function = (
                as_steps(k, self.parts.s),
                PathFunction(self.rule_shape, function, constant),
            )
            return compiled(backend, map_path, path_function)(
                path_function, arrays, self.parts, steps
            )

    def corrected(self, epochs: Any, value: Array, grad: Params) -> "Trajectory":
        """Return the run with the loss and the gradient that were evaluated on the data, not on the moments.

        Parameters
        ----------
        epochs : numpy.ndarray of int, shape (...)
            After how many steps of each problem they were evaluated.
        value, grad
            The loss there, shape (...), and its gradient.
        """
        steps = as_steps(as_epochs(epochs)[..., None], self.parts.s)
        with np.errstate(all="ignore"):
            return replace(
                self, parts=correct_spectrum(self.rule_shape, self.parts, steps, value, grad)
            )

    def gcv(self, epochs: int | Sequence[int]) -> Array:
        r"""Return the generalised cross-validation score of stopping at some epochs.

        ::

            gcv_k = RSS_k / m / (1 - dof_k / m)²

        RSS/m is the mean squared residual, m the number of rows, and dof_k the trace of the matrix that
        takes y to its fit at epoch k: Σ (1 - q_k) over the directions, where there is no penalty. It
        estimates the mean squared error on new rows from those that were fitted.

        Parameters
        ----------
        epochs : int or sequence of int, shape (K,)
            As in `at`.

        Returns
        -------
        array, shape (K, ...)
            The score, in squared units of y; infinite where no degree of freedom is left, or the run has
            diverged.

        Notes
        -----
        Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for choosing a good
        ridge parameter", Technometrics 21; Yao, Rosasco and Caponnetto (2007), "On early stopping in
        gradient descent learning", Constructive Approximation 26.
        """
        k = as_epochs(epochs)
        result: Array = self._evaluate(gcv_score, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return result

    def best_epoch(self, limit: int = 10**9) -> BestEpoch:
        """Return the epoch with the smallest `gcv` from 0 to `limit`, for each problem.

        A logarithmic grid of epochs is scored, and then the interval about its best one, ever more finely,
        down to single epochs.

        Parameters
        ----------
        limit : int
            The last epoch that is allowed.

        Returns
        -------
        BestEpoch
            The epoch, its score and the number of reads.

        Examples
        --------
        >>> import numpy as np
        >>> from agd.gradient import Blocks, Moments
        >>> from agd.update import Trajectory
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(30, 20)); y = X[:, 0] + rng.normal(size=30)
        >>> run = Trajectory.of(Moments.from_blocks(Blocks.of(X, y)))
        >>> best = run.best_epoch()
        >>> best.epoch == np.argmin(run.gcv(range(1000)))
        np.True_
        """
        kind = backends.namespace(self.parts.s).finfo(self.parts.s.dtype)

        def scored(epochs: Any) -> Any:
            return backends.to_numpy(self._evaluate(gcv_score, epochs[..., None])).astype(float)

        return minimize_over_epochs(
            scored, as_count("limit", limit), self.batch_shape, float(kind.eps)
        )

    def _evaluate(self, function: Any, k: Any) -> Any:
        """Run a function of the spectrum and of k, compiled where the backend compiles."""
        row = backends.of(self.parts.s)
        with np.errstate(all="ignore"):  # what has diverged is infinite
            steps = as_steps(k, self.parts.s)
            return row.compile(function)(self.rule_shape, self.parts, steps)
