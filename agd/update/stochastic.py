"""Mini-batch methods: stochastic descent by any rule, SGD, and SVRG.

A solver here draws the rows of its steps (`draw`), and the loop of `agd.run` looks at it once an epoch. The
permutations are drawn on the host from a seed, so that every library sees the same mini-batches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import dot, max_abs, ravel, safe_divide, tree_axpy, tree_scale, tree_where
from agd._typing import Array, Progress, Tree
from agd._validation import as_count, as_nonnegative, as_positive
from agd.data.matrix import squared_row_norms
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective, largest_curvature
from agd.gradient.preconditioner import Scaling
from agd.update.rule import AUTO, Rule, apply_updates
from agd.update.rules import gradient_descent
from agd.update.solver import Solver

__all__ = [
    "SVRG",
    "Stochastic",
    "all_finite",
    "check_sampling",
    "drawn_rows",
    "estimate_batch_curvature",
    "full_value_and_grad",
    "mini_batches",
    "sgd",
]

# The default mini-batch has so many rows, or as many more as keep an epoch below so many mini-batches.
MIN_BATCH_ROWS, MAX_EPOCH_BATCHES = 32, 500
# Mini-batches whose curvature is measured where the loss has no bound on it.
MAX_PROBE_BATCHES = 4


# Epochs without a gain after which a rate that is adapted is lowered, once, and its factor from then on. A rate
# that shrank again and again would end a long run short of the minimum.
RATE_PATIENCE, MIN_RATE_FACTOR = 2.0, 0.25


def check_plateau(tol: float, n_iter_no_change: int) -> None:
    """Raise unless the least gain is a number of 0 or more, and the epochs without one are 1 or more."""
    as_nonnegative("tol", tol)
    as_count("n_iter_no_change", n_iter_no_change)


def check_sampling(batch_size: int | None, seed: int) -> None:
    """Raise unless the mini-batch size is a positive integer or None, and the seed an integer."""
    if batch_size is not None:
        as_count("batch_size", batch_size)
    as_count("seed", seed, least=0)


def mini_batches(objective: Any, batch_size: int | None, name: str) -> tuple[int, int]:
    """Return the rows of a mini-batch and how many of them there are in an epoch."""
    rows = objective.row_count
    if rows is None:
        raise ValueError(
            f"{name} draws mini-batches of rows, but this objective has no rows to take: for a "
            f"function pass args whose arrays share their first axis; a Dask array's rows lie in "
            f"chunks, and a stream's in batches, so bring them into memory (X.compute()) or use "
            f"method='auto'"
        )
    size = max(MIN_BATCH_ROWS, -(-rows // MAX_EPOCH_BATCHES)) if batch_size is None else batch_size
    size = min(size, rows)
    return size, rows // size


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, rows: int, size: int) -> Any:
    """Return the mini-batches of an epoch, shape (rows // size, size)."""
    permutation = np.random.default_rng([seed, epoch]).permutation(rows)
    kind = np.int32 if rows < 2**31 else np.int64
    return permutation[: rows // size * size].reshape(-1, size).astype(kind)


def drawn_rows(objective: Any, size: int, batches: int, seed: int, first: int, n: int) -> Array:
    """Return the rows of the steps first, ..., first + n - 1, shape (n, size), beside the data."""
    rows: Any = objective.row_count
    epochs = range(first // batches, -(-(first + n) // batches))
    drawn = np.concatenate([_epoch(seed, epoch, rows, size) for epoch in epochs])
    start = first - first // batches * batches
    return _on_device_of(drawn[start : start + n], objective)


def _on_device_of(host: Any, objective: Any) -> Array:
    """Move host data to where the objective's arrays are."""
    like = next(a for a in optree.tree_leaves(objective.arrays()) if backends.is_array(a))
    xp = backends.namespace(like)
    return backends.to_device_of(host, like, xp.int32 if host.dtype == np.int32 else xp.int64)


def full_value_and_grad(objective: Any, params: Tree) -> tuple[Array, Tree]:
    """Return the objective with all of its penalty, and the gradient of its smooth part."""
    value, grad = objective.value_and_grad(params)
    return (value + objective.penalty_value(params) if objective.nonsmooth else value), grad


def all_finite(tree: Tree, batch: int) -> Array:
    """Return for each problem whether all entries of a tree are finite, shape (...)."""
    xp = backends.namespace(optree.tree_leaves(tree)[0])
    return xp.isfinite(xp.sum(xp.abs(ravel(tree, batch)[0]), axis=-1))


def estimate_batch_curvature(
    objective: Any, params: Tree, size: int, batches: int, seed: int
) -> Array:
    """Return the curvature that mini-batches show: its bound, or what a few of them measure here.

    A measured one is the largest |Hv| / |v| that power iteration on differences of gradients finds, over
    a few mini-batches of the first epoch.
    """
    bound = batch_curvature(objective, size)
    if bound is not None:
        return bound
    probes = drawn_rows(objective, size, batches, seed, 0, min(MAX_PROBE_BATCHES, batches))
    estimates = [
        _power_iteration(objective.take_rows(probes[i, :]), params) for i in range(probes.shape[0])
    ]
    xp = backends.namespace(estimates[0])
    estimate = functools.reduce(xp.maximum, estimates)
    usable = xp.isfinite(estimate) & (estimate > 0.0)
    return xp.where(usable, estimate, xp.ones_like(estimate))


def _power_iteration(objective: Any, params: Tree, iterations: int = 6) -> Array:
    """Return the largest |g(x + h v) - g(x)| / h that a few power iterations find, |v| = 1."""
    value, grad = objective.value_and_grad(params)
    batch, xp = value.ndim, backends.namespace(value)
    x, unravel = ravel(params, batch)
    g, _ = ravel(grad, batch)
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * (1.0 + max_abs(x))[..., None]
    rng = np.random.default_rng(0)
    v = backends.to_device_of(rng.standard_normal(tuple(x.shape)), x)
    size = xp.zeros_like(value)
    for _ in range(iterations):
        v = safe_divide(v, xp.sqrt(dot(v, v))[..., None] + 0.0 * v)
        moved_grad, _ = ravel(
            objective.value_and_grad(_move_within_bounds(objective, unravel, x, h * v))[1], batch
        )
        v = (moved_grad - g) / h
        size = xp.maximum(size, xp.sqrt(dot(v, v)))
    return size


def _move_within_bounds(objective: Any, unravel: Any, x: Array, s: Array) -> Tree:
    """Return x + s within the bounds: an entry that they would cut goes the other way if that is farther."""
    bounds = objective.bounds
    if bounds is None:
        return unravel(x + s)
    forward, backward = bounds.project(unravel(x + s)), bounds.project(unravel(x - s))
    return optree.tree_map(_longer_move, unravel(x), forward, backward)


def _longer_move(x: Array, a: Array, b: Array) -> Array:
    xp = backends.namespace(x)
    return xp.where(xp.abs(a - x) >= xp.abs(b - x), a, b)


class StochasticState(NamedTuple):
    """Value and gradient of the last mini-batch, the rule's state, the rate's scale and the counts.

    Of a rate that is adapted also its factor, the sum of the values in this epoch, the first value, the mean of
    an epoch at the last gain, and the epochs since.
    """

    value: Array
    grad: Tree
    progress: Progress
    inner: Any
    scale: Array | None
    count: Any  # an array; its name is that of a method of tuples
    factor: Any = None
    value_sum: Any = None
    first: Any = None
    last_gain: Any = None
    without_gain: Any = None


@dataclass(frozen=True)
class Stochastic(Solver):
    r"""Mini-batch descent by any rule: x_{k+1} = x_k + update(1/b Σ_{i in B_k} ∇f_i(x_k)).

    A rate of ``"auto"`` is ::

        lr_k = c / (2 L_b) (1 + k / N)^(-decay),    N = n // b steps an epoch

    with L_b the expected smoothness of mini-batches, bounded where the loss's curvature is and measured
    on a few mini-batches at the start elsewhere. c is 1, and 1/4 after the mean
    of the values over an epoch has not gained `tol` for two epochs: noise then hides what there is to gain. For a
    decay in (1/2, 1] the rates meet Robbins and Monro's conditions, and the noise dies out; by a rule
    whose rate does not fall x ends in a ball about the minimum whose size is the rate's.

    Where `Stop` tests no convergence of its own, a run ends once the value of the whole objective has not gained
    `tol` for `n_iter_no_change` epochs (`agd.run.Plateau`).

    Parameters
    ----------
    rule : Rule
        Any rule.
    batch_size : int, optional
        b; by default 32, or n / 500 where that is more. More than there are rows means all of them.
    seed : int
        What the permutations are drawn from, 0 or more.
    decay : float
        How fast the rate ``"auto"`` falls, above 0; a rule with a rate of its own does without.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.
    tol : float
        The least gain in the value, as a share of its whole fall since the first point.
    n_iter_no_change : int
        How many epochs without such a gain end a run, 1 or more.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range; in `init` for an objective without rows, and for a penalty that
        is not smooth, or bounds.

    Notes
    -----
    Robbins and Monro (1951), "A stochastic approximation method"; Moulines and Bach (2011),
    "Non-asymptotic analysis of stochastic approximation algorithms for machine learning", for the decay;
    Gower et al. (2019), "SGD: general analysis and improved rates", for 1 / (2 L_b).

    Examples
    --------
    >>> from agd.update import Stochastic, adam
    >>> Stochastic(adam(1e-2), batch_size=64).name
    'mini-batches by adam(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08)'
    """

    rule: Rule
    batch_size: int | None = None
    seed: int = 0
    decay: float = 2.0 / 3.0
    rescaled: bool = False
    tol: float = 1e-4
    n_iter_no_change: int = 5

    stochastic = True
    refreshes = True
    minibatch_state = True

    def __post_init__(self) -> None:
        """Refuse a batch or a seed that cannot be drawn."""
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule must be a rule such as agd.update.adam(0.1), got {self.rule!r}")
        check_sampling(self.batch_size, self.seed)
        as_positive("decay", self.decay)
        check_plateau(self.tol, self.n_iter_no_change)

    @property
    def name(self) -> str:
        """The rule, with its hyper-parameters."""
        return f"mini-batches by {self.rule!r}{', centred and scaled' if self.rescaled else ''}"

    @property
    def update_rule(self) -> Rule:
        """The rule that it moves by."""
        return self.rule

    @property
    def auto(self) -> bool:
        """Whether the learning rate is left to the objective."""
        return self.rule.auto_rate

    @property
    def plateau(self) -> tuple[float, int]:
        """The least gain, and the epochs without one that end a run."""
        return self.tol, self.n_iter_no_change

    @functools.cached_property
    def _unit(self) -> Rule:
        return self.rule.with_learning_rate(1.0) if self.auto else self.rule

    def period(self, objective: Any) -> int:
        """Return the steps of an epoch: how often a run looks, and the rate is adapted."""
        return mini_batches(objective, self.batch_size, self.name)[1]

    def draw(self, objective: Any, first: int, n: int) -> Array:
        """Return the rows of the steps from `first` on, shape (n, b), beside the objective's arrays."""
        size, batches = mini_batches(objective, self.batch_size, self.name)
        return drawn_rows(objective, size, batches, self.seed, first, n)

    def init(self, objective: Any, params: Tree) -> StochasticState:
        """Evaluate the whole objective at the first point; with "auto", find the rate."""
        size, batches = mini_batches(objective, self.batch_size, self.name)
        if objective.nonsmooth:
            raise ValueError(
                f"{self.name} takes no bounds and no penalty that is not smooth: use method='svrg'"
            )
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        inner, progress = self._unit.init(params), Progress(zero, zero + 1.0)
        if not self.auto:
            return StochasticState(value, grad, progress, inner, None, zero)
        scale = 0.5 / estimate_batch_curvature(objective, params, size, batches, self.seed)
        return StochasticState(
            value, grad, progress, inner, scale, zero,
            factor=zero + 1.0, value_sum=zero, first=value, last_gain=value, without_gain=zero,
        )  # fmt: skip

    def step(
        self, objective: Any, params: Tree, state: StochasticState, drawn: Array
    ) -> tuple[Tree, StochasticState]:
        """Move by the rule's update for the gradient over the rows `drawn`."""
        xp = backends.namespace(state.value)
        batches = mini_batches(objective, self.batch_size, self.name)[1]
        value, grad = objective.take_rows(drawn).value_and_grad(params)
        updates, inner = self._unit.update(grad, state.inner, params)
        if state.scale is not None:
            rate = state.factor * state.scale * (1.0 + state.count / batches) ** -self.decay
            updates = tree_scale(rate, updates)
        next_params = apply_updates(params, updates)
        # The value is the point's before the step: a step to nowhere has to show in it.
        value = xp.where(all_finite(next_params, value.ndim), value, value + xp.nan)
        count = state.count + 1.0
        progress = Progress(xp.floor(count / batches), state.progress.evaluations + 1.0 / batches)
        new = state._replace(value=value, grad=grad, progress=progress, inner=inner, count=count)
        if state.value_sum is not None:
            new = new._replace(value_sum=state.value_sum + value)
        return next_params, new

    def refresh(
        self,
        objective: Any,
        params: Tree,
        state: StochasticState,
    ) -> tuple[Tree, StochasticState]:
        """Lower the rate where the mean value of the last epochs has not gained."""
        if state.value_sum is None:
            return params, state
        xp = backends.namespace(state.value_sum)
        zero = xp.zeros_like(state.value_sum)
        mean = state.value_sum / mini_batches(objective, self.batch_size, self.name)[1]
        gained = state.last_gain - mean > self.tol * (state.first - mean)
        without_gain = xp.where(gained, zero, state.without_gain + 1.0)
        lower = without_gain >= RATE_PATIENCE
        return params, state._replace(
            factor=xp.where(lower, MIN_RATE_FACTOR, state.factor),
            value_sum=zero,
            last_gain=xp.where(gained, mean, state.last_gain),
            without_gain=without_gain,
        )

    def look(
        self,
        objective: Any,
        params: Tree,
        state: StochasticState,
    ) -> tuple[Array, Tree]:
        """Return the whole objective and its gradient: what is reported and tested."""
        return full_value_and_grad(objective, params)


def sgd(
    learning_rate: Any = AUTO,
    batch_size: int | None = None,
    seed: int = 0,
    decay: float = 2.0 / 3.0,
    *,
    rescaled: bool = True,
    tol: float = 1e-4,
    n_iter_no_change: int = 5,
) -> Stochastic:
    """Mini-batch gradient descent, with a rate that falls: `Stochastic` by gradient descent.

    Parameters
    ----------
    learning_rate : float, schedule or "auto"
        A schedule counts mini-batches, as ``agd.update.inverse_scaling(0.1, 2/3)``.
    batch_size, seed, decay : int, int, float
        As in `Stochastic`.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.
    tol, n_iter_no_change : float, int
        When a run ends, as in `Stochastic`.

    Returns
    -------
    Stochastic
        The method.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> X = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> agd.fit(X, X[:, 0] + 1.0, method=agd.update.sgd(seed=1)).success
    True
    """
    rule = gradient_descent(learning_rate)
    return Stochastic(rule, batch_size, seed, decay, rescaled, tol, n_iter_no_change)


# The factor of the step after a round that lowered the value, and the longest step: at the minimum itself
# every round lowers it.
RATE_GROWTH, MAX_STEP_SIZE = 1.25, 1e15


class SVRGState(NamedTuple):
    """Value and gradient at the params, the moving point, its step, and the counts."""

    value: Array
    grad: Tree
    progress: Progress
    point: Tree
    rate: Array


@dataclass(frozen=True)
class SVRG(Solver):
    r"""Stochastic variance-reduced gradient: mini-batch steps that converge with a constant step.

    From x, the params, whose full gradient is known, y_0 = x and ::

        v_k = g_B(y_k) - g_B(x) + g(x),    y_{k+1} = prox(y_k - eta v_k, eta)

    over the mini-batches B of `passes` epochs; the last y is the next x. v has the full gradient's mean,
    and its noise dies out as y and x approach the minimum. Every x is reported with its full value and
    gradient, which the next round needs anyway, and a run that ends within a round returns the last x.
    A run counts rounds: ``nit`` and ``Stop.max_iter`` are those that were not undone.

    A rate of ``"auto"`` begins with eta = 1 / (4 L_b), with L_b the expected smoothness of mini-batches:
    bounded where the loss's curvature is, measured on a few of them at the start elsewhere. That is safe
    for all mini-batches, and mostly far too short; so eta grows by a quarter after every round, and a
    round after which the value is higher is undone and eta halved.

    Parameters
    ----------
    batch_size : int, optional
        b; by default 32, or n / 500 where that is more. More than there are rows means all of them.
    learning_rate : float or "auto"
        eta; a number is kept to, whatever becomes of the value.
    passes : int
        Epochs between two full gradients, 1 or more.
    seed : int
        What the permutations are drawn from, 0 or more.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.
    tol : float
        The least gain in the value, as a share of its whole fall since the first point.
    n_iter_no_change : int
        How many rounds without such a gain end a run, 1 or more, where `Stop` tests no convergence of its own.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range; in `init` for an objective without rows.

    Notes
    -----
    Johnson and Zhang (2013), "Accelerating stochastic gradient descent using predictive variance
    reduction", with their option I; Xiao and Zhang (2014), "A proximal stochastic gradient method with
    progressive variance reduction", for the prox; Gower et al. (2019) for L_b.

    Examples
    --------
    >>> from agd.update import SVRG
    >>> SVRG(batch_size=10).name
    'SVRG (2 passes a round), centred and scaled'
    """

    batch_size: int | None = None
    learning_rate: float | str = AUTO
    passes: int = 2
    seed: int = 0
    rescaled: bool = True
    tol: float = 1e-6
    n_iter_no_change: int = 5

    handles_prox = True
    stochastic = True
    refreshes = True

    def __post_init__(self) -> None:
        """Refuse a batch, a seed or a rate that makes no sense."""
        check_sampling(self.batch_size, self.seed)
        as_count("passes", self.passes)
        check_plateau(self.tol, self.n_iter_no_change)
        if self.learning_rate != AUTO:
            if isinstance(self.learning_rate, str):
                raise ValueError(
                    f"learning_rate must be a number or 'auto', got {self.learning_rate!r}"
                )
            as_positive("learning_rate", self.learning_rate)

    @property
    def name(self) -> str:
        """What a result calls it."""
        passes = f"{self.passes} pass{'es' if self.passes > 1 else ''}"
        return f"SVRG ({passes} a round){', centred and scaled' if self.rescaled else ''}"

    @property
    def plateau(self) -> tuple[float, int]:
        """The least gain, and the rounds without one that end a run."""
        return self.tol, self.n_iter_no_change

    @property
    def evaluations(self) -> int:
        """The gradient over a mini-batch at the moving point, and at the params."""
        return 2

    def period(self, objective: Any) -> int:
        """Return the steps of a round: how often a run calls `refresh`, and looks."""
        return self.passes * mini_batches(objective, self.batch_size, "SVRG")[1]

    def draw(self, objective: Any, first: int, n: int) -> Array:
        """Return the rows of the steps from `first` on, shape (n, b), beside the objective's arrays."""
        size, batches = mini_batches(objective, self.batch_size, "SVRG")
        return drawn_rows(objective, size, batches, self.seed, first, n)

    def init(self, objective: Any, params: Tree) -> SVRGState:
        """Evaluate the whole objective at the first point, and find the step."""
        size, batches = mini_batches(objective, self.batch_size, "SVRG")
        value, grad = full_value_and_grad(objective, params)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        if self.learning_rate == AUTO:
            rate = 0.25 / estimate_batch_curvature(objective, params, size, batches, self.seed)
        else:
            rate = zero + float(self.learning_rate)
        progress = Progress(zero, zero + 1.0, relative_step=zero)
        return SVRGState(value, grad, progress, params, rate)

    def step(
        self, objective: Any, params: Tree, state: SVRGState, drawn: Array
    ) -> tuple[Tree, SVRGState]:
        """Move the point by one mini-batch; the params stay until the round is over."""
        batches = mini_batches(objective, self.batch_size, "SVRG")[1]
        batch_objective = objective.take_rows(drawn)
        _, point_grad = batch_objective.value_and_grad(state.point)
        _, params_grad = batch_objective.value_and_grad(params)
        v = optree.tree_map(lambda a, b, g: a - b + g, point_grad, params_grad, state.grad)
        point = tree_axpy(-state.rate, v, state.point)
        if objective.nonsmooth:
            point = objective.prox(point, state.rate)
        evaluations = state.progress.evaluations + 2.0 / batches
        progress = state.progress._replace(evaluations=evaluations)
        return params, state._replace(point=point, progress=progress)

    def refresh(self, objective: Any, params: Tree, state: SVRGState) -> tuple[Tree, SVRGState]:
        """End a round: take the point with its full value and gradient, or go back with half the step."""
        value, grad = full_value_and_grad(objective, state.point)
        xp = backends.namespace(value)
        batch, rate, old_progress = value.ndim, state.rate, state.progress
        new, old = ravel(state.point, batch)[0], ravel(params, batch)[0]
        progress = Progress(
            iterations=old_progress.iterations + 1.0,
            evaluations=old_progress.evaluations + 1.0,
            relative_step=safe_divide(max_abs(new - old), max_abs(new)),
        )
        if self.learning_rate != AUTO:
            return state.point, state._replace(value=value, grad=grad, progress=progress)
        noise = 16.0 * float(xp.finfo(value.dtype).eps) * xp.abs(state.value)
        # Near the minimum rounding hides the fall of the value; that of the gradient still shows.
        smaller = objective.grad_norm(grad, state.point) <= objective.grad_norm(state.grad, params)
        improved = (value < state.value - noise) | ((value <= state.value + noise) & smaller)
        improved = improved & all_finite(grad, batch)
        next_params = tree_where(improved, state.point, params)
        rate = backends.clip(xp.where(improved, RATE_GROWTH * rate, 0.5 * rate), high=MAX_STEP_SIZE)
        return next_params, state._replace(
            value=xp.where(improved, value, state.value),
            grad=tree_where(improved, grad, state.grad),
            progress=progress._replace(
                iterations=old_progress.iterations + xp.astype(improved, value.dtype),
                relative_step=xp.where(
                    improved, progress.relative_step, old_progress.relative_step
                ),
            ),
            point=next_params,
            rate=rate,
        )


def batch_curvature(objective: Any, batch_size: int) -> Array | None:
    r"""Return a bound on the curvature that a method sees which draws `batch_size` of n rows at random.

    ::

        L_b = (n (b - 1) L + (n - b) L_max) / (b (n - 1))

    the expected smoothness: between L_max, the largest curvature of a single row, at b = 1 and L, that
    of the mean over all rows, at b = n. L is a power iteration's, L_max is
    curvature · max_i s_i |x_i|² (with |x_i|² one more for an intercept) plus the penalty's curvature.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    batch_size : int
        b, from 1 to the number of rows.

    Returns
    -------
    array, shape (...), or None
        None where the loss's curvature has no bound, or the objective is no linear model's.

    Notes
    -----
    Gower, Loizou, Qian, Sailanbayev, Shulgin and Richtárik (2019), "SGD: general analysis and improved
    rates", proposition 3.8.
    """
    base, scaling = objective.linear_objective, objective.preconditioner
    if base is None or not base.curvature_is_bounded:
        return None
    n, b = int(base.blocks.X.shape[-2]), batch_size
    whole = largest_curvature(objective)
    if n == b:
        return whole
    single = _row_curvature(base, scaling)
    return (n * (b - 1) * whole + (n - b) * single) / (b * (n - 1))


def _row_curvature(base: LinearObjective, scaling: Scaling | None) -> Array:
    """Return the largest curvature of one row's loss, and the penalty's, in these coordinates."""
    blocks, penalty = base.blocks, base.penalty
    bound: Any = base.loss.curvature_bound  # a number, as `batch_curvature` asked
    constant: Any = 0.0
    if base.intercept:
        constant = 1.0 if scaling is None else (scaling.intercept_scale**2)[..., None]
    each = blocks.map(
        functools.partial(_max_row_curvature, scaling, constant), limit=MAX_COPIED_BLOCK_BYTES
    )
    xp = backends.namespace(each[0])
    scale: float = blocks.X.shape[-2] * bound
    largest: Array = functools.reduce(xp.maximum, each) * scale / blocks.total
    if penalty is None or penalty.curvature_bound is None:
        return largest
    extra = penalty.curvature_bound
    if scaling is None:
        return largest + extra
    return largest + extra * xp.max(scaling.inv_std**2, axis=-1)


def _max_row_curvature(
    scaling: Scaling | None, constant: Any, X: Array, _: Array, weight: Array | None
) -> Array:
    """Return the largest squared length of a block's rows, times their weights."""
    xp, shift, scale = backends.namespace(X), None, None
    if scaling is not None:
        # Without an intercept the columns are not centred: their shift is no part of z.
        shift = scaling.mean if not isinstance(constant, float) else None
        scale = scaling.inv_std
    squares = squared_row_norms(X, shift, scale) + constant
    return xp.max(squares if weight is None else squares * weight, axis=-1)
