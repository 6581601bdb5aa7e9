"""Accelerated proximal gradient descent, which finds its step by backtracking and restarts itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agd import backends
from agd._typing import Array, Tree
from agd.update._composite import (
    Composite,
    Point,
    bounded,
    rise,
    rounding,
    share_moved,
)
from agd.update._curvature import first_curvature, looks
from agd.update._vector import dot, over
from agd.update.descent import choose

__all__ = ["FISTA"]

EASE = 0.98  # by how much L is lowered with each step where the curvature may differ from place to place


class FistaState(NamedTuple):
    """The value and the gradient at x_k, the params; y_k with its own; t_k, and the L in use."""

    value: Array
    grad: Tree
    ahead: Point
    pending: Array
    t: Array
    L: Array
    curvature: Array
    iterations: Array
    evaluations: Array
    failed: Array
    moved: Array
    walled: Array


@dataclass(frozen=True)
class FISTA:
    r"""Accelerated proximal gradient descent: a smooth f plus a penalty h that has a prox.

    ::

        x_{k+1} = prox_{h/L}(y_k - g(y_k) / L)
        t_{k+1} = (1 + sqrt(1 + 4 (L_{k+1} / L_k) t_k²)) / 2
        y_{k+1} = x_{k+1} + (t_k - 1) / t_{k+1} (x_{k+1} - x_k)

    The params are x_k, not y_k: exactly sparse, or within the set. L starts from the objective's bound on
    its curvature where it has one, else from the first move, and is raised, and the step taken again,
    whenever ::

        f(x_{k+1}) > f(y_k) + g(y_k) · d + L/2 |d|²,    d = x_{k+1} - y_k

    or, where rounding hides that, (g(x_{k+1}) - g(y_k)) · d > L |d|². The momentum starts anew, t = 1 and
    y = x, where it points uphill, (y_k - x_{k+1}) · (x_{k+1} - x_k) > 0, and where the value would rise;
    such a step is not taken, so the values fall from step to step. L is halved with a restart, and
    lowered by 2% a step where f is no quadratic: the curvature may be less where the path leads. Each
    step evaluates once: at x_{k+1}, or at y_{k+1}, whose gradient needs no evaluation where f is a
    quadratic.

    Notes
    -----
    Beck and Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems"; Scheinberg, Goldfarb and Bai (2014), "Fast first-order methods for composite convex
    optimization with backtracking", for the sequence t with an L that may fall; O'Donoghue and Candès
    (2015), "Adaptive restart for accelerated gradient schemes"; Becker, Candès and Grant (2011), "Templates for convex cone problems with applications to sparse signal
    recovery", section 5.3, for the test by gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import L1
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(3), np.asarray([3.0, -6.0, 0.5])
    >>> objective = LinearObjective.of(X, y, penalty=L1(1.0), intercept=False)
    >>> run(FISTA(), objective, objective.zeros(), Stop(grad_tol=1e-10)).x.coef.round(6)
    array([ 0., -3.,  0.])
    """

    evaluations: ClassVar[int] = 1
    rescaled: ClassVar[bool] = True
    proximal: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "accelerated proximal gradient"

    def init(self, objective: Any, params: Tree) -> FistaState:
        """Evaluate the objective at the first point, and measure L where it has one."""
        smooth, grad = objective.value_and_grad(params)
        xp = backends.namespace(smooth)
        both = Composite(objective, params, grad)
        value = smooth + both.penalty(both.x)
        no, one = xp.zeros_like(value, dtype=xp.bool), xp.ones_like(value)
        L = first_curvature(objective, params, grad)
        start = Point(both.x, both.g, smooth, value)
        zero = xp.zeros_like(value)
        known = L if bounded(objective) else zero
        return FistaState(
            value, grad, start, no, one, L, known, zero, one + looks(objective), no, zero, no
        )

    def step(self, objective: Any, params: Tree, state: FistaState) -> tuple[Tree, FistaState]:
        """Evaluate at the next x and judge it, or at the y that is pending."""
        xp = backends.namespace(state.value)
        both = Composite(objective, params, state.grad)
        old, y = both.here(state.value), state.ahead
        target = both.forward(y, 1.0 / state.L)
        new = both.at(choose(state.pending, y.x, target))
        trial = ~state.pending
        quadratic = getattr(objective, "quadratic", False)
        enough, raised, seen = self._judge(y, new, state.L, by_slopes=quadratic)
        still = trial & xp.all(y.x == old.x, axis=-1)
        change, noise = new.value - old.value, rounding(new.value, old.value)
        if quadratic:
            change, noise = rise(both, old, new)
        rises = change > noise
        same = xp.all(new.x == old.x, axis=-1)
        # Without momentum a step that is short enough descends, but for rounding.
        taken = trial & enough & (still | ~rises)
        back = (trial & enough & ~taken) | (state.pending & ~xp.isfinite(new.smooth))
        now = choose(taken, new, old)
        uphill = dot(y.x - new.x, new.x - old.x) > 0.0
        L = xp.where(trial & ~enough, raised, state.L)
        L = self._lowered(objective, state, y, new, taken, taken & uphill, L)
        t = xp.where((taken & uphill) | back, xp.ones_like(state.t), state.t)
        following = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * _eased(taken, L, state) * t * t))
        beta = xp.where(taken, (t - 1.0) / following, xp.zeros_like(t))
        ahead, pending = self._extrapolate(both, old, new, beta)
        ahead = choose(taken, ahead, choose(back, old, choose(state.pending, new, y)))
        after = FistaState(
            value=now.value,
            grad=both.as_grad(now.g),
            ahead=ahead,
            pending=taken & pending,
            t=xp.where(taken, following, t),
            L=L,
            curvature=state.curvature if bounded(objective) else xp.maximum(state.curvature, seen),
            iterations=state.iterations + xp.astype(taken, t.dtype),
            evaluations=state.evaluations + 1.0,
            failed=state.failed | (still & same),
            moved=xp.where(taken, share_moved(new.x, old.x), state.moved),
            walled=(state.walled | ~xp.isfinite(new.value)) & (same | ~taken),
        )
        return both.restore(now.x), after

    def _judge(
        self, y: Point, new: Point, L: Array, *, by_slopes: bool
    ) -> tuple[Array, Array, Array]:
        """Say whether L bounds the curvature on the way from y, what L to try if not, and the curvature."""
        xp = backends.namespace(L)
        d, finite = new.x - y.x, xp.isfinite(new.value)
        square = dot(d, d)
        bend = new.smooth - y.smooth - dot(y.g, d)
        turned = dot(new.g - y.g, d)
        noise = rounding(new.smooth, y.smooth)
        hidden = xp.ones_like(finite) if by_slopes else 0.5 * L * square <= noise
        eps = float(xp.finfo(L.dtype).eps)
        by_slope = turned <= L * square + 16.0 * eps * xp.sqrt(dot(new.g, new.g) * square)
        below = xp.where(hidden, by_slope, bend <= 0.5 * L * square + noise)
        seen = over(xp.where(hidden, turned, 2.0 * bend), square)
        known = finite & (square > 0.0) & xp.isfinite(seen)
        raised = backends.clip(xp.where(known, seen, 10.0 * L), low=1.5 * L, high=1e3 * L)
        return finite & below, raised, xp.where(known & ~hidden, seen, xp.zeros_like(seen))

    def _lowered(
        self,
        objective: Any,
        state: FistaState,
        y: Point,
        new: Point,
        taken: Array,
        uphill: Array,
        L: Array,
    ) -> Array:
        """Lower L: to what the first step saw, by half at a restart, and by a little at every step."""
        xp = backends.namespace(L)
        d, turn = new.x - y.x, new.g - y.g
        seen = over(xp.sqrt(dot(turn, turn)), xp.sqrt(dot(d, d)))
        guess = 0.0 if bounded(objective) else 1.0
        first = taken & (state.iterations < guess) & (seen > 0.0) & xp.isfinite(seen)
        # A quadratic is as curved everywhere: what is gained by easing is lost by raising again.
        ease = 1.0 if getattr(objective, "quadratic", False) else EASE
        later = xp.where(uphill, 0.5 * L, xp.where(taken, ease * L, L))
        return xp.where(first, xp.minimum(L, seen), later)

    def _extrapolate(
        self, both: Composite, old: Point, new: Point, beta: Array
    ) -> tuple[Point, Array]:
        """Return the next y, and whether it is still to be evaluated."""
        ahead = new.x + beta[..., None] * (new.x - old.x)
        plain = beta == 0.0
        if getattr(both.objective, "quadratic", False):
            change = ahead - new.x
            g = new.g + beta[..., None] * (new.g - old.g)
            smooth = new.smooth + 0.5 * dot(new.g + g, change)
            return Point(ahead, g, smooth, smooth), plain & ~plain
        # The function is only asked where the penalty is finite, and within bounds.
        ahead = choose(plain, new.x, both.prox(ahead, 0.0))
        return new._replace(x=ahead), ~plain


def _eased(taken: Array, L: Array, state: FistaState) -> Array:
    """Return L_{k+1} / L_k, which the momentum's sequence has to know of."""
    xp = backends.namespace(L)
    return xp.where(taken, L / state.L, xp.ones_like(L))
