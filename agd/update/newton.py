"""Newton's method: for the squared loss by its moments, for other smooth losses by their Hessian.

`NewtonStep` is for the squared loss, whose Hessian is the same everywhere: in whitened coordinates it is the
identity, so that a step is a gradient step of length 1. `Newton` forms the Hessian anew at every point, which
for a generalised linear model is iteratively reweighted least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import tree_where
from agd._typing import Array, NotApplicable, Params, Progress
from agd.gradient.cross_products import accumulator
from agd.update.solver import Solver, read_columns, read_scalars

__all__ = [
    "HessianState",
    "Newton",
    "NewtonStep",
    "StepMemory",
    "TrialRecord",
    "damped_direction",
    "first_state",
    "judge_trial",
]

# Steps in a row that do not halve the gradient: then rounding is all that is left of it.
MAX_STEPS_WITHOUT_GAIN = 3.0


class NewtonState(NamedTuple):
    """Value and gradient at the params, the smallest norm of a gradient, and the steps since it halved."""

    value: Array
    grad: Params
    progress: Progress
    min_norm: Array
    steps_without_gain: Array


@dataclass(frozen=True)
class NewtonStep(Solver):
    r"""Gradient descent with step 1 in coordinates that whiten the squared loss.

    With H = G + a I the Hessian, by its factors N N' = D⁻¹ H⁻¹ D⁻¹ (`agd.gradient.preconditioner`)::

        w := w - D N N' D g(w)

    From any point one step leads to the minimum, but for rounding; a second, whose gradient comes from
    the data, corrects what rounding of the moments lost (iterative refinement). The first point is evaluated
    on the moments, so that a fit costs one pass for them and one for each step here.

    Parameters
    ----------
    refinements : int
        How many corrections one step makes, each with a pass over the data.
    compensated : bool
        Whether the objective sums gradients in twice the precision, and factored the columns by QR.

    Notes
    -----
    Björck (1967), "Iterative refinement of linear least squares solutions"; Golub and Van Loan (2013),
    *Matrix Computations*, section 5.3.8.

    Examples
    --------
    >>> from agd.update.newton import NewtonStep
    >>> NewtonStep().name
    'descent in whitened coordinates'
    """

    refinements: int = 1
    compensated: bool = False

    rescaled = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        kind = "descent in whitened coordinates"
        return kind + (" by QR, refined in twice the precision" if self.compensated else "")

    @property
    def evaluations(self) -> int:
        """Passes over the data in one step."""
        return self.refinements

    def init(self, objective: Any, params: Params) -> NewtonState:
        """Evaluate the first point on the moments, without a pass over the data."""
        value, grad = objective.first(params)
        xp = backends.namespace(value)
        progress = Progress(stalled=xp.zeros_like(value, dtype=xp.bool))
        return NewtonState(value, grad, progress, objective.length(grad), xp.zeros_like(value))

    def step(
        self, objective: Any, params: Params, state: NewtonState
    ) -> tuple[Params, NewtonState]:
        """Take the Newton steps; stall where rounding lets the gradient fall no further."""
        value, grad = state.value, state.grad
        for _ in range(self.refinements):
            params = objective.move(params, grad)
            value, grad = objective.value_and_grad(params)
        xp, norm = backends.namespace(value), objective.length(grad)
        halved = norm < 0.5 * state.min_norm
        without_gain = state.steps_without_gain
        without_gain = xp.where(halved, xp.zeros_like(without_gain), without_gain + 1.0)
        progress = Progress(stalled=without_gain >= MAX_STEPS_WITHOUT_GAIN)
        return params, NewtonState(
            value, grad, progress, xp.minimum(norm, state.min_norm), without_gain
        )


class HessianState(NamedTuple):
    """Value, gradient and Hessian at the params, and what decides on the next step.

    Numbers of a problem are on the host: Python floats, or NumPy arrays of the batch's shape.

    Attributes
    ----------
    value, grad_norm, size : float or numpy.ndarray, shapes (...)
        The value, how far the params are from stationary, and their largest entry.
    grad, hessian : array, shapes (..., d), (..., d, d)
        Those at the params.
    progress : Progress
        What the loop reads.
    largest : float or numpy.ndarray, shape (...)
        The largest entry of the Hessian's diagonal.
    memory : StepMemory
        What the last step hands to the next.
    host : object
        What a method that steps on the host has read of the point; None of others.
    """

    value: Any
    grad_norm: Any
    size: Any
    grad: Array
    hessian: Array
    progress: Progress
    largest: Any
    memory: StepMemory
    host: Any = None


class StepMemory(NamedTuple):
    """What a step hands to the next: numbers for each problem, on the host.

    Attributes
    ----------
    damping : numpy.ndarray
        What is added to the Hessian's diagonal: 0 until a step is refused.
    least_decrement : numpy.ndarray
        The least of the squared Newton decrements so far, g' H⁻¹ g.
    steps_without_gain : numpy.ndarray
        Steps in a row whose gain was hidden by rounding and whose decrement was no new least.
    grad_square : numpy.ndarray
        The squared length of the gradient; NaN before the first step.
    iterations, evaluations, stalled, hit_nonfinite, curvature, least_curvature, relative_step : numpy.ndarray
        As of `Progress`.
    """

    damping: Any
    least_decrement: Any
    steps_without_gain: Any
    grad_square: Any
    iterations: Any
    evaluations: Any
    stalled: Any
    hit_nonfinite: Any
    curvature: Any
    least_curvature: Any
    relative_step: Any

    @classmethod
    def at_start(cls, shape: tuple[int, ...]) -> StepMemory:
        """Return the memory before the first step, after one evaluation."""
        zero, no = np.zeros(shape), np.zeros(shape, dtype=bool)
        start = {
            "least_decrement": zero + np.inf,
            "grad_square": zero + np.nan,
            "evaluations": zero + 1.0,
            "stalled": no,
            "hit_nonfinite": no,
        }
        return cls(**{name: start.get(name, zero) for name in cls._fields})

    @property
    def progress(self) -> Progress:
        """What the loop reads of the numbers."""
        fields = self._asdict()
        return Progress(**{name: fields[name] for name in Progress._fields if name in fields})


class NewtonTrial(NamedTuple):
    """A trial point and what was evaluated there.

    Attributes
    ----------
    params, grad, hessian : array
        The point, gradient and Hessian.
    value, grad_norm, size, largest : numpy.ndarray, shape (...)
        As of `HessianState`.
    numbers : numpy.ndarray, shape (7, ...)
        The values before and after the step, the slopes along it, its squared length, the largest curvature
        after it and the squared length of the gradient there.
    relative_step : numpy.ndarray, shape (...)
        The largest change of a parameter, as a share of the largest one.
    """

    params: Array
    grad: Array
    hessian: Array
    value: Any
    grad_norm: Any
    size: Any
    largest: Any
    numbers: Any
    relative_step: Any


# A refused step multiplies the damping by the first and adds the second, in coordinates where the curvature is
# about 1; an accepted one divides it by the third.
DAMPING_GROWTH, MIN_DAMPING, DAMPING_DECAY = 10.0, 1e-3, 100.0
# The share of the decrease that the gradient promises which a step has to bring.
MIN_DECREASE_SHARE = 1e-4
# A decrement that has not fallen to this share of the least is no gain.
MIN_DECREMENT_RATIO = 0.25
# A step whose decrease rounding hides is taken if it leaves at most this share of the gradient's length.
MAX_GRADIENT_RATIO = 0.5
# Evaluations of one step, after which its damping is above 1e12.
MAX_TRIALS = 16
# Units of rounding of a value, and of an entry of the Hessian's diagonal.
VALUE_NOISE_EPS, DIAGONAL_NOISE_EPS = 16.0, 16.0
# Below this share of the largest, a curvature of the columns is not known well enough from their squares.
MIN_CURVATURE_RATIO = 1e-10


@dataclass(frozen=True)
class Newton(Solver):
    r"""Newton's method for a smooth convex function, damped where a whole step does not descend.

    ::

        x := x - (H + lambda I)^(-1) g

    with g and H the gradient and the Hessian at x. lambda is 0 as long as whole steps are accepted, which
    takes a decrease of the value by a share of what the gradient promises (Armijo's condition); where
    rounding hides the decrease, the slope along the step has to fall. A step that is refused is tried again
    with a larger lambda (Levenberg), which shortens it and turns it towards the gradient, so that a singular
    Hessian needs no case of its own. Near a minimum the number of correct digits doubles with each step.

    One evaluation gives value, gradient and Hessian: an accepted step costs one pass over the data, and one
    read by the host, which takes all decisions.

    Parameters
    ----------
    min_curvature_ratio : float
        The least to the largest eigenvalue of the first Hessian, below which `init` raises `NotApplicable`; 0
        takes any.

    Notes
    -----
    Nelder and Wedderburn (1972), "Generalized linear models", JRSS A 135; Levenberg (1944), "A method for the
    solution of certain non-linear problems in least squares"; Boyd and Vandenberghe (2004), *Convex
    Optimization*, section 9.5. For losses with a kink in their gradient, such as Huber's, Madsen and Nielsen
    (1990), "Finite algorithms for robust linear regression", BIT 30.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> x = np.linspace(-2.0, 2.0, 60)
    >>> result = agd.fit(x[:, None], np.exp(1.0 + 0.5 * x), loss="poisson")
    >>> result.method, result.nit < 10, result.coef.round(6)
    ('Newton', True, array([0.5]))
    """

    min_curvature_ratio: float = 0.0

    rescaled = True
    host_scalars = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "Newton"

    def init(self, objective: Any, params: Array) -> HessianState:
        """Evaluate the first point.

        Raises
        ------
        NotApplicable
            Where value, gradient or Hessian are not finite, or the Hessian is worse conditioned than the solver
            is to take.
        """
        state = first_state(objective, params, *objective.second_order(params))
        if self.min_curvature_ratio > 0.0:
            self._check_condition(state)
        return state

    def _check_condition(self, state: HessianState) -> None:
        """Raise `NotApplicable` for what is not finite, and for columns that are nearly dependent: one read.

        The Hessian is a sum of squares: no entry is larger than the largest of its diagonal.
        """
        finite = (
            np.isfinite(state.value) & np.isfinite(state.grad_norm) & np.isfinite(state.largest)
        )
        if not finite.all():
            raise NotApplicable("the Hessian is not finite")
        hessian = state.hessian
        xp = backends.namespace(hessian)
        curvatures = xp.linalg.eigvalsh(xp.astype(hessian, accumulator(hessian), copy=False))
        ends = xp.stack([curvatures[..., 0], curvatures[..., -1]])
        low, high = backends.to_numpy(ends).astype(float)
        if not (low > self.min_curvature_ratio * high).all():
            raise NotApplicable("the Hessian is nearly singular")

    def step(
        self, objective: Any, params: Array, state: HessianState
    ) -> tuple[Array, HessianState]:
        """Go to an acceptable point, with as much damping as that takes; stall where there is none."""
        noise = VALUE_NOISE_EPS * float(backends.namespace(params).finfo(params.dtype).eps)
        search: TrialRecord | None = None
        damping, best = state.memory.damping, state
        start = params
        for _ in range(MAX_TRIALS):
            trial = _evaluate_trial(objective, start, state, damping)
            search = judge_trial(search, trial.numbers, state.memory, noise, trial.relative_step)
            if search.newly_accepted.any():
                after = state._replace(
                    value=trial.value, grad_norm=trial.grad_norm, size=trial.size, grad=trial.grad,
                    hessian=trial.hessian, largest=trial.largest,
                )  # fmt: skip
                params, best = tree_where(
                    search.newly_accepted, (trial.params, after), (params, best)
                )
            if search.ended.all():
                break
            damping = search.damping
        assert search is not None  # noqa: S101 - at least one trial was made
        memory = search.outcome(noise)
        return params, best._replace(progress=memory.progress, memory=memory)


def first_state(
    objective: Any, params: Array, value: Array, grad: Array, hessian: Array
) -> HessianState:
    """Return the state at the first point, whose numbers are read together.

    Parameters
    ----------
    objective : Objective
        It measures the gradient.
    params, value, grad, hessian : array
        The point, and what was evaluated there.
    """
    xp = backends.namespace(grad)
    columns = value, objective.grad_norm(grad, params), xp.max(xp.abs(params), axis=-1)
    diagonal = xp.max(xp.linalg.diagonal(hessian), axis=-1)
    value, grad_norm, size, largest = read_scalars(*columns, diagonal, host=True)
    memory = StepMemory.at_start(np.shape(value))
    return HessianState(value, grad_norm, size, grad, hessian, memory.progress, largest, memory)


class TrialRecord(NamedTuple):
    """The trials of one step so far, on the host; every field has the shape of the batch.

    Attributes
    ----------
    numbers : numpy.ndarray, shape (7, ...)
        Those of each problem's last trial that counts, as of `NewtonTrial`.
    memory : StepMemory
        What the step began with.
    damping : numpy.ndarray
        That of the next trial; of a problem whose search has ended, that of its last.
    trials : numpy.ndarray
        How many trials each problem took.
    accepted, newly_accepted, ended, nonfinite : numpy.ndarray of bool
        Whether a trial was accepted, and by the last; whether no other is to be made; whether one was not finite.
    relative_step : numpy.ndarray
        The largest change of a parameter by each problem's last trial that counts, relative to the largest one.
    """

    numbers: Any
    memory: StepMemory
    damping: Any
    trials: Any
    accepted: Any
    newly_accepted: Any
    ended: Any
    nonfinite: Any
    relative_step: Any

    def outcome(self, noise: float) -> StepMemory:
        """Return what the step hands to the next."""
        value, slope, new_value, _, square, _, grad_square = self.numbers
        memory, decrement = self.memory, -slope
        hidden = np.abs(new_value - value) <= noise * np.abs(value)
        gain = decrement < MIN_DECREMENT_RATIO * memory.least_decrement
        without_gain = np.where(hidden & ~gain, memory.steps_without_gain + 1.0, 0.0)
        curvature = np.maximum(decrement / square - self.damping, 0.0)
        curvature = np.where(self.accepted & np.isfinite(curvature), curvature, 0.0)
        least = memory.least_curvature
        lower = (curvature > 0.0) & ((curvature < least) | (least == 0.0))
        damping = np.where(self.accepted, self.damping / DAMPING_DECAY, self.damping)
        return StepMemory(
            damping=np.where(damping < MIN_DAMPING / DAMPING_DECAY**2, 0.0, damping),
            least_decrement=np.fmin(memory.least_decrement, decrement),
            steps_without_gain=without_gain,
            grad_square=np.where(self.accepted, grad_square, memory.grad_square),
            iterations=memory.iterations + self.accepted,
            evaluations=memory.evaluations + self.trials,
            stalled=~self.accepted | (without_gain >= MAX_STEPS_WITHOUT_GAIN),
            hit_nonfinite=self.nonfinite,
            curvature=np.maximum(memory.curvature, curvature),
            least_curvature=np.where(lower, curvature, least),
            relative_step=np.where(self.accepted, self.relative_step, memory.relative_step),
        )


def damped_direction(hessian: Array, grad: Array, largest: Any, damping: Any) -> Array:
    """Return -(H + lambda I)⁻¹ g for each problem, with at least as much damping as rounding asks for.

    What rounding makes of a singular Hessian is not definite. As much as its entries are uncertain is added to the
    diagonal, which changes the step by no more than rounding does, and makes the system one that can be solved.

    Parameters
    ----------
    hessian : array, shape (..., d, d)
        H, which has no negative eigenvalues but for rounding.
    grad : array, shape (..., d)
        g.
    largest : float or numpy.ndarray, shape (...)
        The largest entry of the diagonal of H.
    damping : float or numpy.ndarray, shape (...)
        lambda.

    Returns
    -------
    array, shape (..., d)
        The direction.

    Examples
    --------
    >>> import numpy as np
    >>> damped_direction(np.ones((2, 2)), np.ones(2), np.asarray(1.0), np.asarray(0.0)).round(6)
    array([-0.5, -0.5])
    """
    xp, d = backends.namespace(hessian), int(grad.shape[-1])
    eps = float(xp.finfo(hessian.dtype).eps)
    shift: Any = np.asarray(damping + DIAGONAL_NOISE_EPS * d * eps * np.maximum(largest, eps))
    # LAPACK knows nothing wider than double, and single precision loses digits that the Hessian has.
    wide = accumulator(hessian)
    eye = xp.eye(d, dtype=wide, device=backends.device(hessian))
    shift = backends.to_device_of(shift, eye)[..., None, None] if shift.ndim else shift.item()
    damped = xp.astype(hessian, wide, copy=False) + shift * eye
    solution = xp.linalg.solve(damped, xp.astype(grad, wide, copy=False)[..., None])
    return -xp.astype(solution[..., 0], grad.dtype, copy=False)


def _evaluate_trial(
    objective: Any, params: Array, state: HessianState, damping: Any
) -> NewtonTrial:
    """Evaluate the point one damped step ahead, and read its numbers together."""
    xp = backends.namespace(params)
    direction = damped_direction(state.hessian, state.grad, state.largest, damping)
    point = params + direction
    value, grad, hessian = objective.second_order(point)
    vectors = xp.stack([direction, state.grad, grad, point], axis=-2)
    gram = vectors[..., :3, :] @ xp.matrix_transpose(vectors[..., :3, :])
    columns = [
        value, objective.grad_norm(grad, point), xp.max(xp.abs(vectors), axis=-1), gram,
        xp.max(xp.linalg.diagonal(hessian), axis=-1),
    ]  # fmt: skip
    value, grad_norm, sizes, gram, largest = read_columns(columns)
    slopes, squares = (gram[..., 0, 1], gram[..., 0, 2]), (gram[..., 0, 0], gram[..., 2, 2])
    numbers = np.stack(
        [state.value + 0.0 * value, slopes[0], value, slopes[1], squares[0], largest, squares[1]]
    )
    moved = sizes[..., 0] / np.where(sizes[..., 3] > 0.0, sizes[..., 3], 1.0)
    if not value.ndim:
        value, grad_norm, largest = value.item(), grad_norm.item(), largest.item()
    return NewtonTrial(
        point, grad, hessian, value, grad_norm, sizes[..., 3], largest, numbers, moved
    )


def judge_trial(
    search: TrialRecord | None,
    numbers: Any,
    memory: StepMemory,
    noise: float,
    relative_step: Any = 0.0,
) -> TrialRecord:
    """Return the record of a search after a trial with these numbers."""
    value, slope, new_value, new_slope, _, largest, grad_square = numbers
    finite = np.isfinite(new_value) & np.isfinite(new_slope) & np.isfinite(largest)
    enough = new_value <= value + MIN_DECREASE_SHARE * slope
    # Near a minimum rounding hides the decrease; for a quadratic the slopes say the same, and do not cancel. A
    # direction of little curvature hides the slope as well; then the gradient has to become shorter.
    negligible = np.abs(slope) <= noise * np.abs(value)
    hidden = negligible | (np.abs(new_value - value) <= noise * np.abs(value))
    slope_falls = new_slope <= (2.0 * MIN_DECREASE_SHARE - 1.0) * slope
    shorter = grad_square <= MAX_GRADIENT_RATIO**2 * memory.grad_square
    decreases = np.where(hidden, slope_falls | shorter | (enough & (new_value < value)), enough)
    good = finite & (slope < 0.0) & decreases
    # Where the gradient promises no more than rounding, no shorter step will show a decrease.
    hopeless = ~good & finite & negligible
    if search is None:
        damping = np.where(good, memory.damping, DAMPING_GROWTH * memory.damping + MIN_DAMPING)
        one = np.ones_like(memory.damping)
        return TrialRecord(
            numbers, memory, damping, one, good, good, good | hopeless, ~finite, relative_step
        )
    running = ~search.ended
    newly = good & running
    return TrialRecord(
        numbers=np.where(running, numbers, search.numbers),
        memory=search.memory,
        damping=np.where(running & ~good, DAMPING_GROWTH * search.damping + MIN_DAMPING, search.damping),
        trials=search.trials + running,
        accepted=search.accepted | newly,
        newly_accepted=newly,
        ended=search.ended | newly | (running & hopeless),
        nonfinite=np.where(running, ~finite, search.nonfinite),
        relative_step=np.where(running, relative_step, search.relative_step),
    )  # fmt: skip
