"""Perturbed descent: any deterministic method, perturbed where its gradient is small to leave saddles.

The loop of `agd.run` steps it as any solver, and calls `refresh` once a period, where it may perturb.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import max_abs, ravel, tree_where
from agd._typing import Array, Method, Progress, Stepper, Tree, get_progress
from agd._validation import as_count, as_positive
from agd.update.directions import steepest_descent
from agd.update.rule import Rule
from agd.update.solver import Solver, as_solver

__all__ = [
    "Perturbed",
    "PerturbedState",
]


class PerturbedState(NamedTuple):
    """Value and gradient at the best point, and the moving point with its own state.

    Attributes
    ----------
    value, grad : array, tree
        Of the params: the best point while a perturbed one is followed, else the moving point.
    point, inner : tree
        The moving point, and the state there of the method that moves it.
    kept : tree
        The method's state at the params, to go back to.
    waiting : array
        For how many periods a perturbed point has been followed; 0 where none is.
    top : array
        The largest gradient so far, which says what a small one is.

    In `progress`, `may_be_saddle` says whether a perturbation has yet to show that the params are no saddle.
    """

    value: Array
    grad: Tree
    progress: Progress
    point: Tree
    inner: Any
    saved_state: Any
    periods_waited: Array
    max_norm: Array


def _count_increase(new: Array | None, old: Array | None, default: Array) -> Array:
    """Return by how much a count of the inner method went up; the default where it does not count."""
    return default if new is None else new - old


def _pass_on(state: PerturbedState) -> PerturbedState:
    """Take over what the inner method's state says of the moving point."""
    xp = backends.namespace(state.value)
    inner, old = get_progress(state.inner), state.progress
    curvature, least, stalled = old.curvature, old.least_curvature, old.stalled
    if curvature is not None:
        curvature = xp.maximum(curvature, inner.curvature)
    if least is not None:
        least = xp.minimum(least, inner.least_curvature)
    if inner.stalled is not None:
        stalled = inner.stalled & ~old.may_be_saddle
    return state._replace(
        progress=old._replace(
            stalled=stalled,
            hit_nonfinite=inner.hit_nonfinite,
            curvature=curvature,
            least_curvature=least,
            relative_step=inner.relative_step,
        )
    )


@dataclass(frozen=True)
class Perturbed(Solver):
    r"""Any method, perturbed where its gradient is small, so that it leaves saddles.

    Every `patience` steps, where the gradient is at most `small` times the largest seen (or the method's
    line search is at its end) ::

        y = x + r xi,    xi uniform in the unit ball,    r = radius max(1, max |x|)

    and the method goes on from y. If within `wait` periods the value falls below f(x) by more than the
    small gradient explains, small max |g| r, x was a saddle: descent goes on, and a small gradient will
    be perturbed again. If not, x is a minimum as far as can be seen: the method takes up where it was,
    at x (or at the point reached, if that is lower), and is not perturbed any more. Until then a run
    does not call a small gradient convergence, and what it reports is the best point, never a perturbed
    one.

    Parameters
    ----------
    method : Method, optional
        What descends, one that draws no mini-batches; by default gradient descent with Armijo's
        backtracking.
    radius : float
        The perturbation, as a share of the point's size, or absolute for a point below 1; above 0.
    small : float
        What a small gradient is, as a share of the largest seen; in (0, 1).
    patience, wait : int
        The steps of a period, and the periods that a perturbed point gets; 1 or more.
    seed : int
        What the perturbations are drawn from, 0 or more: on the host, the same on every library.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range, or the method draws mini-batches.

    Notes
    -----
    Jin, Ge, Netrapalli, Kakade and Jordan (2017), "How to escape saddle points efficiently", algorithm
    2, with the constants of the problem (its smoothness and the precision wanted) replaced by what
    is seen on the way, and a line search in place of the step 1/L.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> def fun(x):  # a saddle at 0, minima at (0, 1) and (0, -1)
    ...     return 0.5 * x[0] ** 2 - 0.5 * x[1] ** 2 + 0.25 * x[1] ** 4
    >>> def jac(x):
    ...     return np.asarray([x[0], x[1] ** 3 - x[1]])
    >>> agd.minimize(fun, np.asarray([1.0, 0.0]), jac=jac, method="gd").x.round(3)
    array([0., 0.])
    >>> abs(agd.minimize(fun, np.asarray([1.0, 0.0]), jac=jac, method=agd.update.Perturbed()).x.round(3))
    array([0., 1.])
    """

    method: Method | None = None
    radius: float = 1e-2
    small: float = 1e-4
    patience: int = 10
    wait: int = 10
    seed: int = 0

    refreshes = True

    def __post_init__(self) -> None:
        """Refuse what cannot be perturbed."""
        self._check_method()
        as_positive("radius", self.radius)
        as_positive("small", self.small)
        if self.small >= 1.0:
            raise ValueError(f"small must be below 1, got {self.small!r}")
        as_count("patience", self.patience)
        as_count("wait", self.wait)
        as_count("seed", self.seed, least=0)
        object.__setattr__(self, "rescaled", self.base.rescaled)

    def _check_method(self) -> None:
        if self.method is None:
            return
        if isinstance(self.method, (str, type, Rule)) or not isinstance(self.method, Stepper):
            raise TypeError(
                f"method must be a method such as agd.update.directions() or "
                f"agd.update.Descent(agd.update.adam(0.1)), got {self.method!r}"
            )
        if self.base.stochastic or self.base.refreshes:
            raise ValueError(
                f"method must be one that every step of is determined: {self.base.name} draws"
            )

    @functools.cached_property
    def base(self) -> Solver:
        """The method that descends."""
        return steepest_descent() if self.method is None else as_solver(self.method)

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"perturbed {self.base.name}"

    @property
    def evaluations(self) -> int:
        """How many values and gradients a step evaluates; a perturbation is one more."""
        return int(self.base.evaluations)

    @property
    def handles_bounds(self) -> bool:
        """Whether the method keeps to bounds."""
        return self.base.handles_bounds and not self.base.handles_prox

    def period(self, objective: Any) -> int:
        """Return how often a run calls `refresh`, in steps."""
        return self.patience

    def redraw(self, objective: Any, params: Tree, k: int) -> Array:
        """Draw the perturbation for step k, uniform in each problem's unit ball, shape (..., n)."""
        x, _ = ravel(params, len(objective.batch_shape))
        shape = tuple(x.shape)
        rng = np.random.default_rng([self.seed, k])
        ball = rng.standard_normal(shape)
        ball /= np.linalg.norm(ball, axis=-1, keepdims=True)
        ball *= rng.uniform(size=(*shape[:-1], 1)) ** (1.0 / shape[-1])
        return backends.to_device_of(ball, x)

    def init(self, objective: Any, params: Tree) -> PerturbedState:
        """Begin with the method's own first state; nothing is settled."""
        inner = self.base.init(objective, params)
        xp = backends.namespace(inner.value)
        zero = xp.zeros_like(inner.value)
        no = xp.zeros_like(inner.value, dtype=xp.bool)
        inner_progress = get_progress(inner)
        progress = inner_progress._replace(
            iterations=zero,
            evaluations=zero + 1.0
            if inner_progress.evaluations is None
            else inner_progress.evaluations,
            stalled=no,
            may_be_saddle=~no,
        )
        norm = objective.grad_norm(inner.grad, params)
        return PerturbedState(inner.value, inner.grad, progress, params, inner, inner, zero, norm)

    def step(
        self, objective: Any, params: Tree, state: PerturbedState
    ) -> tuple[Tree, PerturbedState]:
        """Let the method move its point; the params follow unless it is a perturbed one."""
        xp = backends.namespace(state.value)
        point, inner = self.base.step(objective, state.point, state.inner)
        perturbed = state.periods_waited > 0.0
        one = xp.ones_like(state.value)
        new, old, progress = get_progress(inner), get_progress(state.inner), state.progress
        steps = _count_increase(new.iterations, old.iterations, one)
        calls = _count_increase(new.evaluations, old.evaluations, self.evaluations * one)
        state = state._replace(
            value=xp.where(perturbed, state.value, inner.value),
            grad=tree_where(perturbed, state.grad, inner.grad),
            point=point,
            inner=inner,
            progress=progress._replace(
                iterations=progress.iterations + steps, evaluations=progress.evaluations + calls
            ),
        )
        return tree_where(perturbed, params, point), _pass_on(state)

    def refresh(
        self, objective: Any, params: Tree, state: PerturbedState, drawn: Array
    ) -> tuple[Tree, PerturbedState]:
        """End a wait that is decided, and perturb a point that is at rest and not settled."""
        xp = backends.namespace(state.value)
        inner, periods_waited = state.inner, state.periods_waited
        norm = objective.grad_norm(inner.grad, state.point)
        max_norm = xp.where(xp.isfinite(norm), xp.maximum(state.max_norm, norm), state.max_norm)
        stalled = get_progress(inner).stalled
        at_rest = norm <= self.small * max_norm
        at_rest = at_rest if stalled is None else at_rest | stalled
        perturbation_radius = self.radius * xp.maximum(
            max_abs(ravel(params, norm.ndim)[0]), xp.ones_like(norm)
        )
        noise = 16.0 * float(xp.finfo(norm.dtype).eps) * xp.abs(state.value)
        perturbed = periods_waited > 0.0
        decrease = xp.where(xp.isfinite(inner.value), state.value - inner.value, -noise)
        escaped = perturbed & (decrease > self.small * max_norm * perturbation_radius + noise)
        # Beside a minimum descent soon finds a point as flat as x; beside a saddle none for long.
        no_descent = (norm <= objective.grad_norm(state.grad, params)) | (decrease <= noise)
        wait_over = (periods_waited >= self.wait) | (at_rest & no_descent)
        decided = perturbed & ~escaped & wait_over
        returns = decided & ~(decrease > 0.0)
        perturbs = ~perturbed & state.progress.may_be_saddle & at_rest
        moves_on = escaped | (decided & ~returns)
        params = tree_where(moves_on, state.point, params)
        state = state._replace(
            value=xp.where(moves_on, inner.value, state.value),
            grad=tree_where(moves_on, inner.grad, state.grad),
            point=tree_where(returns, params, state.point),
            inner=tree_where(returns, state.saved_state, inner),
            periods_waited=xp.where(
                perturbed & ~escaped & ~decided, periods_waited + 1.0, 0.0 * periods_waited
            ),
            progress=state.progress._replace(may_be_saddle=state.progress.may_be_saddle & ~decided),
            max_norm=max_norm,
        )
        return params, _pass_on(
            self._perturb(objective, params, state, perturbs, perturbation_radius, drawn)
        )

    def _perturb(
        self,
        objective: Any,
        params: Tree,
        state: PerturbedState,
        perturbs: Array,
        perturbation_radius: Array,
        drawn: Array,
    ) -> PerturbedState:
        """Perturb the moving point where `perturbs` says so, and begin the method anew there."""
        if backends.of(perturbs).known_true(~perturbs):
            return state
        x, unravel = ravel(params, perturbs.ndim)
        xp = backends.namespace(x)
        y = unravel(x + perturbation_radius[..., None] * drawn)
        if objective.nonsmooth:
            # Of a prox with a step of next to nothing only the projection onto a set is left.
            y = objective.prox(y, float(xp.finfo(x.dtype).smallest_normal))
        restarted = self.base.init(objective, y)
        evaluations = state.progress.evaluations
        evaluations = evaluations + xp.astype(perturbs, evaluations.dtype)
        return state._replace(
            point=tree_where(perturbs, y, state.point),
            inner=tree_where(perturbs, restarted, state.inner),
            saved_state=tree_where(perturbs, state.inner, state.saved_state),
            periods_waited=xp.where(
                perturbs, xp.ones_like(state.periods_waited), state.periods_waited
            ),
            progress=state.progress._replace(evaluations=evaluations),
        )
