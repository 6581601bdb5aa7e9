"""The whole number at which a smooth score is the smallest, from few of its values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Params, Penalty
from agd._validation import as_choice, as_count, as_start
from agd.data.matrix import backward, forward
from agd.data.threads import map_problems
from agd.gradient.curvature import largest_curvature
from agd.gradient.moments import Moments, ridge
from agd.update.powers import Steps, as_epochs, as_steps, what_is_left
from agd.update.rule import AUTO, Rule, compiled
from agd.update.rules import gradient_descent, momentum, nesterov

__all__ = [
    "BestEpoch",
    "Form",
    "Path",
    "Quadratic",
    "Spectrum",
    "Through",
    "Trajectory",
    "along",
    "as_rate",
    "check_finite",
    "constant_rule",
    "corrected",
    "evaluated",
    "inverse",
    "is_constant",
    "score",
    "seen",
    "smallest",
    "spectrum",
    "times",
]

GRID = 256  # epochs, evenly apart in their logarithms, that a search for the best one begins with
FAN = 64  # parts that it then cuts what lies about the best one into


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


def smallest(
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
    grid = np.minimum(np.geomspace(1.0, limit, GRID).round().astype(np.int64), limit)
    points = np.multiply.outer(np.unique([0, *grid, limit]), np.ones(batch_shape, dtype=np.int64))
    n_sync = 0
    while True:
        n_sync += 1
        scores = score(points)
        best = _first_best(scores, eps)
        low, at, high = (_taken(points, best + step) for step in (-1, 0, 1))
        if (high - low <= 2).all():
            return BestEpoch(_plain(at), _plain(_taken(scores, best)), n_sync)
        parts = np.arange(FAN + 1)[(..., *(None,) * low.ndim)]
        whole, rest = np.divmod(high - low, FAN)  # their product with a part must not overflow
        points = low + whole * parts + rest * parts // FAN


def _first_best(scores: Any, eps: float) -> Any:
    """Return the index of the first score that is the smallest but for rounding."""
    return np.argmax(scores <= scores.min(axis=0) * (1.0 + 64.0 * eps), axis=0)


def _taken(points: Any, index: Any) -> Any:
    index = np.clip(index, 0, len(points) - 1)
    return np.take_along_axis(points, index[None, ...], axis=0)[0]


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value


# What rounding leaves of an eigenvalue 0 of p columns' correlation is below 0.7 p eps in rows by the million.
ROUNDING = 4.0
FACTORED = 2048  # matrices that a thread factors at a time: of fewer, threads wait for one another
EVEN = 1e4  # condition of a Hessian up to which it is taken for its root


class Form(NamedTuple):
    """What is no array: a compiled evaluation's constant.

    Attributes
    ----------
    beta : float
        The share of the velocity that a step keeps; 0 for gradient descent.
    ahead : bool
        Whether the step looks ahead along the velocity.
    intercept : bool
        Whether the last direction is the constant term's.
    alpha : float
        The penalty's strength.
    """

    beta: float
    ahead: bool
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
    tau : array, shape (..., r)
        Learning rate times s².
    rows : array, shape () or (...)
        The number of rows of the data.
    """

    s: Array
    V: Array
    residual: Array
    rest: Array
    start: Array
    tau: Array
    rows: Array


def _known(x: Array, unit: float) -> Array:
    """Return x, 0 or more, and 0 where it is below rounding at the size of its largest entry."""
    xp = backends.namespace(x)
    least = unit * xp.max(x, axis=-1, keepdims=True)
    return xp.where(x > least, x, xp.zeros_like(x))


def inverse(x: Array) -> Array:
    """Return 1 / x, and 0 where x is 0."""
    xp = backends.namespace(x)
    some = x > 0.0
    return xp.where(some, 1.0 / xp.where(some, x, xp.ones_like(x)), xp.zeros_like(x))


def _many(A: Array) -> bool:
    """Return whether these are matrices on the host, one for each of many problems."""
    return backends.of(A).threaded and A.ndim == 3


def _shared(factor: Callable[[Array], Any], A: Array) -> Any:
    """Return factors of matrices; of many on the host, threads share them."""
    if not _many(A):
        return factor(A)
    return map_problems(factor, A, size=FACTORED)


def _root(moments: Moments, form: Form) -> tuple[Array, Array, Array]:
    """Return A, a and the rest of the least-squares problem that has the same loss.

    G is decomposed as a correlation matrix, so that a column of small spread beside one of large is not
    taken for rounding.
    """
    G, c, mean, mean_y = moments.G, moments.c, moments.mean, moments.mean_y
    xp, p = backends.namespace(G), G.shape[-1]
    like = {"dtype": G.dtype, "device": backends.device(G)}
    spread = xp.sqrt(backends.clip(xp.linalg.diagonal(G), low=0.0))
    unit = inverse(spread)
    e, Q = _shared(xp.linalg.eigh, G * unit[..., :, None] * unit[..., None, :])
    root = xp.sqrt(_known(e, ROUNDING * p * float(xp.finfo(G.dtype).eps)))
    Qt = xp.matrix_transpose(Q)
    a = inverse(root) * forward(Qt, c * unit)
    rest = backends.clip(moments.yy - xp.sum(a * a, axis=-1), low=0.0)
    rows = [root[..., :, None] * (Qt * spread[..., None, :])]
    goals = [a]
    if form.alpha:
        eye = math.sqrt(form.alpha) * xp.eye(p, **like)
        rows.append(eye + xp.zeros_like(G))
        goals.append(xp.zeros_like(c))
    rows.append(mean[..., None, :])
    goals.append(mean_y[..., None])
    A = xp.concat(rows, axis=-2)
    if form.intercept:
        constant = xp.concat(
            [xp.zeros_like(A[..., :-1, :1]), xp.ones_like(A[..., -1:, :1])], axis=-2
        )
        A = xp.concat([A, constant], axis=-1)
    return A, xp.concat(goals, axis=-1), rest


def spectrum(moments: Moments, form: Form, first: Params, rate: Any) -> Spectrum:
    """Decompose the problem, and place the first point in it.

    Parameters
    ----------
    moments : Moments
        Of the data.
    form : Form
        The rule and the model.
    first : Params
        The first point.
    rate : float or array, shape () or (..., 1)
        The learning rate.

    Returns
    -------
    Spectrum
        What an evaluation needs.
    """
    start = first.coef
    if first.intercept is not None:
        start = backends.namespace(start).concat([start, first.intercept[..., None]], axis=-1)
    found = _of_hessian(moments, form, start) if _many(moments.G) else None
    s, V, along, rest = found or _of_root(moments, form, start)
    return Spectrum(
        s=s, V=V, residual=along, rest=rest, start=start, tau=rate * (s * s), rows=moments.rows
    )


def _of_root(moments: Moments, form: Form, start: Array) -> tuple[Array, ...]:
    A, a, rest = _root(moments, form)
    xp = backends.namespace(A)
    U, s, Vt = _shared(functools.partial(xp.linalg.svd, full_matrices=False), A)
    s = _known(s, A.shape[-1] * float(xp.finfo(A.dtype).eps))
    residual = forward(A, start) - a
    along = backward(U, residual)
    across = residual - forward(U, along)
    return s, xp.matrix_transpose(Vt), along, rest + xp.sum(across * across, axis=-1)


def _of_hessian(moments: Moments, form: Form, start: Array) -> tuple[Array, ...] | None:
    """Return the same from the Hessian A'A, in a third of the time; None where a digit would be missed.

    An eigenvalue has the error of the largest one: of those within `EVEN` of one another, as the columns of
    thousands of problems often are, none loses more than four digits of the sixteen.
    """
    mean, mean_y, p = moments.mean, moments.mean_y, moments.G.shape[-1]
    second, cross = moments.quadratic(intercept=False)  # about 0, as the run has it
    H = np.empty((len(second), p + form.intercept, p + form.intercept), dtype=second.dtype)
    H[:, :p, :p] = second + form.alpha * np.eye(p)
    goal = np.empty_like(H[:, :, 0])
    goal[:, :p] = cross
    if form.intercept:
        H[:, p, :p] = H[:, :p, p] = mean
        H[:, p, p], goal[:, p] = 1.0, mean_y
    e, V = _shared(np.linalg.eigh, H)
    if not (e[:, 0] * EVEN > e[:, -1]).all():
        return None
    s = np.sqrt(e)
    slope = forward(H, start) - goal
    along = backward(V, slope) / s
    twice = moments.yy + mean_y * mean_y + np.vecdot(start, slope - goal)  # the loss at the start
    return s, V, along, np.clip(twice - np.vecdot(along, along), 0.0, None)


CLOSED_FORM_RULES = {
    "gd": gradient_descent,
    "gradient_descent": gradient_descent,
    "momentum": momentum,
    "nesterov": nesterov,
}


def is_constant(rule: Any) -> bool:
    """Return whether a rule is one of `CLOSED_FORM_RULES`, with constant step and beta."""
    if not isinstance(rule, Rule) or rule.name not in CLOSED_FORM_RULES:
        return False
    known = dict(rule.hyperparameters)
    return not callable(known["learning_rate"]) and isinstance(known.get("beta", 0.0), Real)


class Quadratic:
    """The squared loss as its Hessian's products: what a power iteration asks for."""

    def __init__(self, moments: Moments, form: Form) -> None:
        self.moments, self.form = moments, form

    def zeros(self) -> Params:
        """Return parameters at zero."""
        c = self.moments.c
        xp = backends.namespace(c)
        constant = xp.zeros_like(self.moments.mean_y) if self.form.intercept else None
        return Params(xp.zeros_like(c), constant)

    def bound_product(self, params: Params) -> Params:
        """Multiply by the Hessian."""
        coef, z = self.moments.curvature_product(params)
        return Params(coef + self.form.alpha * params.coef, z)


def constant_rule(rule: Any) -> Rule:
    """Return the rule, or say why it has no closed form."""
    if isinstance(rule, str):
        rule = CLOSED_FORM_RULES[as_choice("rule", rule, tuple(CLOSED_FORM_RULES))]()
    if not is_constant(rule):
        raise ValueError(
            f"rule must be gradient_descent, momentum or nesterov with a constant learning rate (a "
            f"number, an array or {AUTO!r}) and a number as beta, got {rule!r}"
        )
    found: Rule = rule
    return found


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


class Through(NamedTuple):
    """What a run is seen through; a compiled function's constant."""

    form: Form
    function: Any
    constant: Any


def seen(through: Through, arrays: Any, parts: Spectrum, steps: Steps) -> Any:
    """Return the function of the path and of the last step."""
    form = through.form
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    share = _last_step(form, parts, steps, left, gone)
    path, (moved,) = along(form, parts, left, gone, share)
    xp = backends.namespace(moved)
    return through.function(through.constant, arrays, path, xp.max(xp.abs(moved), axis=-1))


def _last_step(form: Form, parts: Spectrum, steps: Steps, left: Array, gone: Array) -> Array:
    """Return how much of the first distance the k-th step went, 0 for k = 0; parameters as in `along`.

    It is not the difference of two points, in which a small step drowns.
    """
    xp = backends.namespace(steps.k)
    none = steps.k == 0.0
    before = Steps(xp.where(none, steps.k, steps.k - 1.0), ~steps.odd & ~none)
    more, less = what_is_left(form.beta, form.ahead, parts.tau, before)
    if form.beta == 0.0:
        share = parts.tau * more
    else:
        share = xp.where(xp.abs(left) < 0.5, more - left, gone - less)
    return xp.where(none, xp.zeros_like(share), share)


def corrected(form: Form, parts: Spectrum, steps: Steps, value: Array, grad: Params) -> Spectrum:
    """Return the problem whose loss and gradient are these where the run is after k steps.

    What the moments lost is a gradient that is off by a constant near there, and it is put right.

    Parameters
    ----------
    form, parts, steps
        As in `evaluated`; k of shape (..., 1).
    value : array, shape (...)
        The loss there, with the penalty.
    grad : Params
        Its gradient.

    Returns
    -------
    Spectrum
        The same problem, but for `residual` and `rest`.
    """
    left, _ = what_is_left(form.beta, form.ahead, parts.tau, steps)
    xp, path = backends.namespace(left), evaluated(form, parts, steps)
    off = grad.coef - path.grad.coef
    if grad.intercept is not None:
        off = xp.concat([off, (grad.intercept - path.grad[1])[..., None]], axis=-1)
    lean = backward(parts.V, off) * inverse(parts.s)
    there = times(left, parts.residual) + lean
    rest = 2.0 * value - xp.sum(there * there, axis=-1)
    return parts._replace(residual=parts.residual + lean, rest=backends.clip(rest, low=0.0))


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


def evaluated(form: Form, parts: Spectrum, steps: Steps) -> Path:
    """Return the run after k steps.

    Parameters
    ----------
    form : Form
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
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    return along(form, parts, left, gone)[0]


def along(
    form: Form, parts: Spectrum, left: Array, gone: Array, *shares: Array
) -> tuple[Path, list[Array]]:
    """Return the run where so much is left of the first distance, and gone; and moves by shares of it.

    Parameters
    ----------
    form, parts
        As in `evaluated`.
    left, gone, *shares : array, shape (K, ..., r)
        q_k, 1 - q_k, and what else is made into a move of the parameters.

    Returns
    -------
    path : Path
        The points, the loss and its gradient there.
    moves : list of array, shape (K, ..., d)
        What each of the shares moves.
    """
    xp = backends.namespace(left)
    residual, first = times(left, parts.residual), parts.residual * inverse(parts.s)
    lengths = [residual * parts.s, *(times(share, first) for share in (gone, *shares))]
    slope, moved, *moves = combined(parts.V, *lengths)
    point = parts.start - moved
    value = 0.5 * (xp.sum(residual * residual, axis=-1) + parts.rest)
    norm = xp.max(xp.abs(slope), axis=-1)
    grad, where = _split(form, slope), _split(form, point)
    return Path(where.coef, where.intercept, value, grad, norm), moves


def _split(form: Form, t: Array) -> Params:
    return Params(t[..., :-1], t[..., -1]) if form.intercept else Params(t, None)


def times(factor: Array, x: Array) -> Array:
    """Return their product, and 0 where x is 0: what stands at the minimum stays, however others grow."""
    xp = backends.namespace(x)
    product = factor * x
    return xp.where(x == 0.0, xp.zeros_like(product), product)


def combined(V: Array, *parts: Array) -> list[Array]:
    """Return V x for each part x, infinite where it is beyond the floats, never the NaN of two infinities."""
    xp = backends.namespace(V)
    x = xp.stack(parts)
    largest = float(xp.finfo(x.dtype).max)
    bound = largest / (4.0 * V.shape[-1])
    if backends.of(x).host_accessible and not (xp.abs(x) > bound).any():
        return list(_product(V, x))
    total = _product(V, backends.clip(x, low=-bound, high=bound))
    beyond = xp.any(xp.abs(x) > bound, axis=-1, keepdims=True) & (
        xp.abs(total) > math.sqrt(largest)
    )
    total = xp.where(beyond, xp.sign(total) * math.inf, total)
    return [total[i, ...] for i in range(len(parts))]


def _product(V: Array, x: Array) -> Array:
    """Return V x for x of more axes than the problems have: one product for all of a problem's vectors."""
    xp, more = backends.namespace(x), x.ndim - V.ndim + 1
    if V.ndim == 2 or more == 0:
        return forward(V, x)
    shape, axes = tuple(x.shape), tuple(range(x.ndim))
    behind = xp.permute_dims(x, axes[more:] + axes[:more])
    flat = xp.reshape(behind, (*shape[more:], math.prod(shape[:more])))
    found = xp.reshape(xp.matmul(V, flat), (*shape[more:-1], V.shape[-2], *shape[:more]))
    return xp.permute_dims(found, axes[x.ndim - more :] + axes[: x.ndim - more])


def score(form: Form, parts: Spectrum, steps: Steps) -> Array:
    """Return the generalised cross-validation score after k steps; parameters as in `evaluated`."""
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    path, _ = along(form, parts, left, gone)
    xp = backends.namespace(left)
    # The trace of the hat matrix Σ (1 - q_k) v'Hv / s², H the Hessian without the penalty's part.
    width = parts.V.shape[-2] - form.intercept
    ridge = form.alpha * xp.sum(parts.V[..., :width, :] ** 2, axis=-2)
    share = 1.0 - ridge * inverse(parts.s) ** 2
    dof = xp.sum(gone * share, axis=-1)
    error = 2.0 * path.value - form.alpha * xp.sum(path.coef * path.coef, axis=-1)
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
        What the data left.
    form : Form
        The rule's beta, whether it looks ahead, whether there is an intercept, the penalty's alpha.
    parts : Spectrum
        The singular values and vectors, and where the run starts in them.
    rate : float or array, shape (...)
        The learning rate; where ``"auto"`` was asked for, the 1/L of ``agd.fit``.

    Notes
    -----
    A, and not its square, is decomposed: columns far from zero or of unlike size, which couple with the
    intercept, lose half the digits then that they lose in the Hessian. What G has lost of nearly
    dependent columns stays lost; reported losses carry an error of about eps yy.

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
    form: Form
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
    ) -> Trajectory:
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
        rule = constant_rule(rule)
        known, alpha = dict(rule.hyperparameters), ridge(penalty)
        check_finite(moments)
        form = Form(float(known.get("beta", 0.0)), rule.name == "nesterov", intercept, alpha)
        quadratic = Quadratic(moments, form)
        zero = quadratic.zeros()
        first = as_start(start, zero, intercept) or zero
        rate = known["learning_rate"]
        if isinstance(rate, str):
            rate = 1.0 / largest_curvature(quadratic)
        with np.errstate(all="ignore"):
            parts = spectrum(moments, form, first, as_rate(rate, zero))
        return cls(moments, form, parts, rate)

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
        return is_constant(rule)

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
        path: Path = self._evaluate(evaluated, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return path

    def at_each(self, epochs: Any) -> Path:
        """Return every problem at an epoch of its own, as in `at`; epochs are of shape (...)."""
        k = as_epochs(epochs)
        if k.shape != self.batch_shape:
            raise ValueError(f"epochs must have shape {self.batch_shape}, got {k.shape}")
        path: Path = self._evaluate(evaluated, k[..., None])
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
            steps, through = as_steps(k, self.parts.s), Through(self.form, function, constant)
            return compiled(backend, seen, through)(through, arrays, self.parts, steps)

    def corrected(self, epochs: Any, value: Array, grad: Params) -> Trajectory:
        """Return the run without what the moments lost: with the loss and the gradient that the data have.

        Parameters
        ----------
        epochs : numpy.ndarray of int, shape (...)
            After how many steps of each problem they were evaluated.
        value, grad
            The loss there, shape (...), and its gradient.
        """
        steps = as_steps(as_epochs(epochs)[..., None], self.parts.s)
        with np.errstate(all="ignore"):
            return replace(self, parts=corrected(self.form, self.parts, steps, value, grad))

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
        found: Array = self._evaluate(score, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return found

    def best_epoch(self, limit: int = 10**9) -> BestEpoch:
        """Return the epoch with the smallest `gcv` from 0 to `limit`, for each problem.

        A grid of epochs evenly apart in their logarithms is scored, and then what lies about its best
        one, ever more finely, down to whole numbers.

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
            return backends.to_numpy(self._evaluate(score, epochs[..., None])).astype(float)

        return smallest(scored, as_count("limit", limit), self.batch_shape, float(kind.eps))

    def _evaluate(self, function: Any, k: Any) -> Any:
        """Run a function of the spectrum and of k, compiled where the backend compiles."""
        row = backends.of(self.parts.s)
        with np.errstate(all="ignore"):  # what has diverged is infinite
            steps = as_steps(k, self.parts.s)
            return row.compile(function)(self.form, self.parts, steps)
