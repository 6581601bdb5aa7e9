"""Accelerated proximal gradient with the minimum of a face after each step, for a quadratic on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd._tree import dot, tree_where
from agd._typing import Array
from agd.update.proximal import FISTA, Composite, FistaState, Point, relative_step, rise
from agd.update.solver import Solver

__all__ = [
    "Faces",
]

# Slopes of the prox are differences with half the digits: what is less is taken for 0, or for 1.
FLAT, ROUNDED = 1e-3, 1e-6
SINGULAR = 1e-12  # of the largest curvature: what a direction with less is given
SMALL = 48  # entries: of fewer a face costs no more than a step
EVERY = 20  # evaluations: so often faces of more are tried where they change
BELOW = 0.5  # of the residual: where rounding hides the value, a point that is taken leaves no more


@dataclass(frozen=True)
class Faces(Solver):
    r"""A quadratic f plus a separable penalty h: `FISTA`, and after each of its steps the minimum of a face.

    A step of the proximal gradient, z = prox_{a h}(x - a g), says which entries lie at a kink of h, 0 or
    a bound. On the face where these stay, f + h is a quadratic, and its minimum is where ::

        (H + h'')_FF d_F = -(g + h')_F,    F the entries that are free

    Where z + d lies beyond a kink of an entry, the way ends there, the entry is held, and the rest is
    solved for again. All this descends, and no face comes twice, so that the minimum is found in a few
    steps however badly the columns are conditioned; which entries are free again is for the next step of
    `FISTA` to say.

    One problem on NumPy; the objective gives its Hessian, by ``hessian()``.

    Notes
    -----
    Lawson and Hanson (1974), *Solving Least Squares Problems*, chapter 23; Lee, Battle, Raina and Ng (2006),
    "Efficient sparse coding algorithms" (feature-sign search); Hager and Zhang (2006), "A new active set
    algorithm for box constrained optimization", SIAM Journal on Optimization 17.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective, Moments, column_scaling
    >>> from agd.gradient.quadratic import MomentObjective
    >>> from agd.gradient.preconditioner import Preconditioned
    >>> from agd.loss import L1
    >>> from agd.run import Stop, run
    >>> x = np.linspace(0.0, 1.0, 50)
    >>> base = LinearObjective.of(x[:, None] ** np.arange(1, 7), np.sin(3.0 * x), penalty=L1(1e-4))
    >>> moments = Moments.from_blocks(base.blocks)
    >>> there = Preconditioned(MomentObjective.of_data(base, moments), column_scaling(base, moments))
    >>> run(Faces(), there, there.zeros(), Stop(grad_tol=1e-10)).nit < 20
    True
    """

    handles_prox = True
    rescaled = True

    @property
    def evaluations(self) -> int:
        """The point of `FISTA` and the minimum of a face."""
        return 2

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "accelerated proximal gradient and faces"

    def init(self, objective: Any, params: Any) -> FistaState:
        """Begin as `FISTA` does."""
        return FISTA().init(objective, params)

    def step(self, objective: Any, params: Any, state: FistaState) -> tuple[Any, FistaState]:
        """Take a step of `FISTA`, and go on to the minimum of the face where that is lower."""
        before = Composite(objective, params, state.grad)
        first, known = before.here(state.value), state.L
        params, state = FISTA().step(objective, params, state)
        both = Composite(objective, params, state.grad)
        old, step = both.here(state.value), 1.0 / state.L
        start = _face(both, old, step)
        # Of many entries most are held one by one on the way to the right face, unless it is known by now.
        waits = len(old.x) > SMALL and int(state.progress.evaluations) % EVERY > 0
        if waits and (start.free != _face(before, first, 1.0 / known).free).any():
            return params, state
        with np.errstate(all="ignore"):
            x = _minimum(both, objective.hessian(), old, start)
        new = both.at(x.astype(old.x.dtype, copy=False))
        left, residual = both.forward(new, step) - new.x, start.x - old.x
        (gain, _), (change, noise) = rise(both, first, old), rise(both, old, new)
        nearer = (change <= noise) & (dot(left, left) <= BELOW**2 * dot(residual, residual))
        better = np.isfinite(new.value) & (((change < -noise) & (change <= gain)) | nearer)
        return self._moved(both, old, new, better, state)

    @staticmethod
    def _moved(
        both: Composite, old: Point, new: Point, better: Array, state: FistaState
    ) -> tuple[Any, FistaState]:
        """Go to the new point where it is better, with momentum anew."""
        now, progress = tree_where(better, new, old), state.progress
        after = state._replace(
            value=now.value,
            grad=both.as_grad(now.g),
            progress=progress._replace(
                evaluations=progress.evaluations + 1.0,
                stalled=progress.stalled & ~better,
                relative_step=np.where(better, relative_step(new.x, old.x), progress.relative_step),
            ),
            extrapolated=tree_where(better, new, state.extrapolated),
            pending=state.pending & ~better,
            t=np.where(better, 1.0, state.t).astype(state.t.dtype),
        )
        return both.restore(now.x), after


class _Face(NamedTuple):
    """A point, and of each entry whether it is free there, and the penalty's slope and curvature."""

    x: Array
    free: Array
    slope: Array
    curvature: Array
    kinked: Array  # whether the penalty has a kink at 0


def _face(both: Composite, at: Point, step: Array) -> _Face:
    """Return where a step of the proximal gradient leads, and the face that it lies on."""
    forward = at.x - step * at.g
    x = both.prox(forward, step)
    little = np.finfo(x.dtype).eps ** 0.5 * max(
        float(np.abs(forward).max()), np.finfo(x.dtype).tiny
    )
    aside = np.where(forward < 0.0, -little, little)
    share = (both.prox(forward + aside, step) - x) / aside  # the slope of the prox, 1 / (1 + a h'')
    free = share > FLAT
    bend = np.where(free, 1.0 / np.where(free, share, 1.0) - 1.0, 0.0)
    bend = np.where(np.abs(bend) < ROUNDED, 0.0, bend) / step
    kinked = both.prox(np.zeros_like(x) + little, step) == 0.0
    return _Face(x, free, (forward - x) / step, bend, kinked)


def _minimum(both: Composite, H: Array, at: Point, face: _Face) -> Array:
    """Return the minimum of the face, or of that to which the way there leads."""
    x, free = face.x.astype(np.float64), face.free.copy()
    slope = at.g + H @ (x - at.x) + face.slope
    for _ in range(len(x)):
        some = np.flatnonzero(free)
        move = np.zeros_like(x)
        matrix = H[np.ix_(some, some)] + np.diag(face.curvature[some])
        move[some] = -_solved(matrix, slope[some])
        # An entry's way ends at 0, where its slope is another, or where the penalty's set does.
        end = both.prox(x + move, 0.0 * at.value)
        end = np.where(face.kinked & (x * end < 0.0), 0.0, end)
        rounding = 8.0 * np.finfo(at.x.dtype).eps * (np.abs(x) + np.abs(move))
        ends = np.abs(end - (x + move)) > rounding
        share = np.where(ends, (end - x) / np.where(ends, move, 1.0), 1.0)
        t = min(1.0, float(share.min()))
        x = x + t * move
        slope = slope + t * (H @ move + face.curvature * move)
        if t >= 1.0:
            break
        held = ends & (share <= t)
        x, free = np.where(held, end, x), free & ~held
    return x


def _solved(matrix: Array, right: Array) -> Array:
    """Return the solution of a symmetric system; of a singular one far along what it leaves open, to a kink."""
    # LAPACK has nothing wider; of wider numbers the next step tells the rest.
    matrix, right = (part.astype(np.float64, copy=False) for part in (matrix, right))
    unit = np.max(np.diag(matrix), initial=0.0)
    try:
        pivots = np.diag(np.linalg.cholesky(matrix)) ** 2
        if (pivots > SINGULAR * unit).all():
            return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        pass
    # Apart, so that what is far along one direction is no error along the others.
    e, V = np.linalg.eigh(matrix)
    return V @ ((V.T @ right) / np.maximum(e, SINGULAR * unit + np.finfo(float).tiny))
