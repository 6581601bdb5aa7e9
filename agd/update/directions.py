"""Directions of descent: L-BFGS, nonlinear conjugate gradients, steepest descent with several first steps.

Each is a small class that `agd.update.line_search_descent` asks for a direction and a first trial step, and a
public function that joins it with a line search.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import dot, safe_divide, scale_vector, tree_where
from agd._typing import Array, Scalar
from agd._validation import as_count, as_positive, as_real
from agd.update.line_search import (
    Backtracking,
    LineSearch,
    StrongWolfe,
    rounding_unit,
    search_name,
)
from agd.update.line_search_descent import LineSearchDescent, MeasuredPoint, Move

__all__ = [
    "barzilai_borwein",
    "cg",
    "hager_zhang",
    "lbfgs",
    "polyak",
    "projected_lbfgs",
    "steepest_descent",
]


class Pairs(NamedTuple):
    """The last changes of point and gradient, s_i and y_i, oldest first; 0 where none is.

    With R the upper triangle of s_i · y_j, i <= j. A pair that leaves takes the first row and column of
    each matrix with it, and R's inverse is then that of what is left.

    Attributes
    ----------
    basis : array, shape (..., 2k + 1, n)
        s_1, y_1, ..., s_k, y_k and the gradient g.
    products : scalars, shape (..., 2k + 1)
        The inner products of these with g.
    inverse : scalars, shape (..., k, k)
        The inverse of R.
    sy : scalars, shape (..., k)
        s_i · y_i.
    scale : scalar, shape (...)
        s · y / y · y of the newest pair; 1 without one.
    YY : scalars, shape (..., k, k)
        y_i · y_j.
    """

    basis: Array
    products: Scalar
    inverse: Scalar
    sy: Scalar
    scale: Scalar
    YY: Scalar


@dataclass(frozen=True)
class LBFGSDirection:
    """The direction -H g of `lbfgs`, in the compact form: a combination of the pairs and the gradient.

    Parameters
    ----------
    memory : int
        How many pairs are kept.
    whitened : bool
        Whether the Hessian is near the identity, so that -g is Newton's step before anything is known.

    Notes
    -----
    Byrd, Nocedal and Schnabel (1994), "Representations of quasi-Newton matrices and their use in limited
    memory methods".
    """

    memory: int = 20
    whitened: bool = False

    convergence = None

    def __post_init__(self) -> None:
        """Refuse an empty memory."""
        as_count("memory", self.memory)

    def init(self, g: Array, gg: Scalar) -> Pairs:
        """Return an empty memory.

        It grows for one problem on the host, and has its full size where problems differ or a change of
        shape would be compiled anew.
        """
        xp = backends.namespace(g)
        if type(gg) is float:
            where: dict[str, Any] = {}
            scale: Any
            scalars: Any = np
            dtype, scale, gg = np.float64, 1.0, np.asarray(gg)
            k = self.memory if backends.of(g).compiles else 0
        else:
            scalars, k, dtype = backends.namespace(gg), self.memory, gg.dtype
            scale = scalars.ones_like(gg)
            where = {"device": backends.device(gg)}
        batch = tuple(gg.shape)
        zeros = xp.zeros((*batch, 2 * k, g.shape[-1]), dtype=g.dtype, device=backends.device(g))
        none = scalars.zeros((*batch, 2 * k), dtype=dtype, **where)
        matrix = scalars.zeros((*batch, k, k), dtype=dtype, **where)
        return Pairs(
            basis=xp.concat([zeros, g[..., None, :]], axis=-2),
            products=scalars.concat([none, gg[..., None]], axis=-1),
            inverse=matrix,
            sy=none[..., :k],
            scale=scale,
            YY=matrix,
        )

    def stored_vectors(self, memory: Pairs) -> Array:
        """Return the pairs."""
        return memory.basis[..., :-1, :]

    def update_memory(self, memory: Pairs, move: Move) -> Pairs:
        """Keep a pair whose curvature is positive, and forget the oldest."""
        end = move.end
        usable = end.sy > rounding_unit(end.vectors) * end.yy
        if isinstance(usable, bool):  # one problem on the host
            return self._with_pair(memory, end) if usable else _without_pair(memory, end)
        updated: Pairs = tree_where(
            usable, self._with_pair(memory, end), _without_pair(memory, end)
        )
        return updated

    def _with_pair(self, memory: Pairs, end: MeasuredPoint) -> Pairs:
        scalars, xp = backends.namespace(memory.sy), backends.namespace(memory.basis)
        first = int(memory.sy.shape[-1] == self.memory)  # of the pairs that stay
        products, floats = end.products, backends.namespace(end.sy)
        one = floats.ones_like(end.sy)
        sy, sg, yy, yg, gg, per_sy = map(
            _last_axis, (end.sy, end.sg, end.yy, end.yg, end.gg, safe_divide(one, end.sy))
        )
        with_y = products - memory.products[..., :-1]  # y is the change of the gradient since
        # The column of the inverse under the new one of R, by substitution.
        column = (memory.inverse @ with_y[..., 0::2, None])[..., 0] * -per_sy
        with_y = with_y[..., 1::2]
        inverse = _bordered(memory.inverse, column, 0.0 * column, per_sy)
        return Pairs(
            basis=xp.concat(
                [memory.basis[..., 2 * first : -1, :], end.vectors[..., :3, :]], axis=-2
            ),
            products=scalars.concat([products[..., 2 * first :], sg, yg, gg], axis=-1),
            inverse=inverse[..., first:, first:],
            sy=scalars.concat([memory.sy, sy], axis=-1)[..., first:],
            scale=floats.where(end.yy > 0.0, safe_divide(end.sy, end.yy), one),
            YY=_bordered(memory.YY, with_y, with_y, yy)[..., first:, first:],
        )

    def direction(self, memory: Pairs, move: Move) -> tuple[Array, Scalar]:
        """Return -H g, a combination of the pairs and the gradient, and its slope."""
        k, g = memory.sy.shape[-1], move.end.g
        if k == 0:
            return -g, -move.end.gg
        scalars = backends.namespace(memory.sy)
        with_g, scale = memory.products, -_last_axis(memory.scale)
        a = (memory.inverse @ with_g[..., 0:-1:2, None])[..., 0]
        inner = (memory.YY @ a[..., None])[..., 0] - with_g[..., 1:-1:2]
        row = (scale * inner - memory.sy * a)[..., None, :]
        along_s = (row @ memory.inverse)[..., 0, :, None]
        pairs = scalars.concat([along_s, (-scale * a)[..., None]], axis=-1)
        pairs = scalars.reshape(pairs, (*a.shape[:-1], 2 * k))
        coefficients = scalars.concat([pairs, scale], axis=-1)
        slope: Scalar = scalars.sum(coefficients * with_g, axis=-1)
        if type(move.end.gg) is float:
            slope = float(slope)
        if isinstance(coefficients, np.ndarray) and not isinstance(g, np.ndarray):
            coefficients = backends.to_device_of(coefficients, g)
        elif coefficients.dtype != g.dtype:
            coefficients = backends.namespace(g).astype(coefficients, g.dtype)
        return (coefficients[..., None, :] @ memory.basis)[..., 0, :], slope

    def bounded_direction(self, memory: Pairs, move: Move, free: Array) -> Array:
        """Return -H g by the two loops over the free entries, where bounds stop the others."""
        g = move.end.g
        xp = backends.namespace(g)
        mask = xp.astype(free, g.dtype)
        basis = memory.basis * mask[..., None, :]
        S, Y, q = basis[..., 0:-1:2, :], basis[..., 1:-1:2, :], g * mask
        k = S.shape[-2]
        if k == 0:
            return -q
        curvature = dot(S, Y)
        one = xp.ones_like(curvature)
        rho = xp.where(curvature > 0.0, safe_divide(one, curvature), xp.zeros_like(curvature))
        alphas = []
        for i in reversed(range(k)):
            alpha = rho[..., i] * dot(S[..., i, :], q)
            q = q - alpha[..., None] * Y[..., i, :]
            alphas.append(alpha)
        newest = rho[..., -1] * dot(Y[..., -1, :], Y[..., -1, :])  # y · y / s · y
        one = xp.ones_like(newest)
        r = xp.where(newest > 0.0, safe_divide(one, newest), one)[..., None] * q
        for i, alpha in enumerate(reversed(alphas)):
            beta = rho[..., i] * dot(Y[..., i, :], r)
            r = r + (alpha - beta)[..., None] * S[..., i, :]
        return -r

    def first_step(self, memory: Pairs, move: Move, value: Scalar) -> Scalar:
        """Return 1, the step of Newton's method; a unit move while nothing is known."""
        xp = backends.namespace(value)
        if self.whitened:
            return xp.ones_like(value)
        if memory.sy.shape[-1] == 0:
            return _unit_step(move.end.gg)
        return xp.where(memory.sy[..., -1] > 0.0, xp.ones_like(value), _unit_step(move.end.gg))


def _without_pair(memory: Pairs, end: MeasuredPoint) -> Pairs:
    """Return the memory with the new gradient, and no new pair."""
    xp, scalars = backends.namespace(memory.basis), backends.namespace(memory.sy)
    gg = _last_axis(end.gg)
    return memory._replace(
        basis=xp.concat([memory.basis[..., :-1, :], end.vectors[..., 2:3, :]], axis=-2),
        products=scalars.concat([end.products, gg], axis=-1),
    )


def _last_axis(x: Scalar) -> Scalar:
    """Give a scalar for each problem a last axis of length 1; a Python float becomes a NumPy array."""
    return np.asarray([x]) if type(x) is float else x[..., None]


def _bordered(matrix: Scalar, column: Scalar, row: Scalar, corner: Scalar) -> Scalar:
    """Return a matrix with one more column and row."""
    xp = backends.namespace(matrix)
    upper = xp.concat([matrix, column[..., None]], axis=-1)
    lower = xp.concat([row, corner], axis=-1)[..., None, :]
    return xp.concat([upper, lower], axis=-2)


def lbfgs(
    memory: int = 20, search: LineSearch | None = None, *, whitened: bool = False
) -> LineSearchDescent:
    r"""L-BFGS: quasi-Newton steps from the last few changes of point and gradient.

    ::

        s_k = x_{k+1} - x_k,    y_k = g_{k+1} - g_k,    rho_k = 1 / (s_k · y_k)
        H_{k+1} = (I - rho_k s_k y_k') H_k (I - rho_k y_k s_k') + rho_k s_k s_k'
        x_{k+1} = x_k - t_k H_k g_k

    H starts `memory` pairs ago from (s · y / y · y) I with the newest pair, and H g is had by two loops
    over the pairs without a matrix. The search keeps s · y positive; a pair for which it is not is left
    out. If a search finds no lower point, the memory is cleared and the gradient's direction is tried.

    Parameters
    ----------
    memory : int
        How many pairs are kept, 1 or more; each costs two arrays of the size of x.
    search : LineSearch, optional
        By default strong Wolfe with c1 = 1e-4 and c2 = 0.5: a better step costs few trials more and makes
        better pairs, which tells on badly conditioned functions.
    whitened : bool
        Whether x is in coordinates in which the Hessian is near the identity: the first step then is -g,
        however long; else it is at most of length 1, since nothing is known.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    ValueError, TypeError
        If `memory` is no whole number above 0, or `search` no line search.

    Notes
    -----
    Nocedal (1980), "Updating quasi-Newton matrices with limited storage"; Liu and Nocedal (1989), "On
    the limited memory BFGS method for large scale optimization".

    Examples
    --------
    >>> from agd.update import lbfgs
    >>> lbfgs(memory=5).name
    'L-BFGS (memory 5), strong Wolfe'
    """
    line_search = StrongWolfe(c2=0.5) if search is None else search
    name = f"L-BFGS (memory {memory}), {search_name(line_search)}" + ", whitened" * whitened
    return LineSearchDescent(LBFGSDirection(memory, whitened), line_search, name)


def projected_lbfgs(memory: int = 20) -> LineSearchDescent:
    r"""L-BFGS within bounds: the direction over the free entries, cut off at the bounds.

    ::

        free = { j : P(x - g)_j is not x_j }
        p = -H_free g_free,    cut = { j : P(x + p)_j is not (x + p)_j, g_j p_j < 0 },    rest = free - cut
        p_rest := s p_rest - (1 - s) H_rest g_rest,    s = (P(x + p) - x)_cut · p_cut / p_cut · p_cut
        d = P(x + p) - x,    x := x + t d,    0 < t <= 1

    with P the projection onto the bounds, H from the pairs with the entries that are left out set to 0,
    and t by backtracking. The second line turns the entries that no bound cuts off to what the others can
    still do: for one entry that is cut, it is the minimum of the quadratic model where that is held at its
    bound. Where d is not downhill, d = P(x - g / |g|) - x. Every point is within the bounds.

    Parameters
    ----------
    memory : int
        How many pairs are kept, 1 or more.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Notes
    -----
    Ni and Yuan (1997), "A subspace limited memory quasi-Newton algorithm for large-scale nonlinear
    bound constrained optimization"; Bertsekas (1982), "Projected Newton methods for optimization
    problems with simple constraints".

    Examples
    --------
    >>> from agd.update import projected_lbfgs
    >>> projected_lbfgs().name
    'projected L-BFGS (memory 20), backtracking'
    """
    return LineSearchDescent(
        LBFGSDirection(memory), Backtracking(), f"projected L-BFGS (memory {memory}), backtracking"
    )


@dataclass(frozen=True)
class ConjugateDirection:
    """The direction -g + beta d of `cg` and `hager_zhang`.

    Parameters
    ----------
    eta : float or None
        How far below 0 the beta of Hager and Zhang may fall; None for that of Polak and Ribière.
    """

    eta: float | None

    convergence = None

    def init(self, g: Array, gg: Scalar) -> Any:
        """Return the memory: none, the last move holds all."""
        return ()

    def stored_vectors(self, memory: Any) -> Array | None:
        """Return None: no vectors are stored."""
        return None

    def update_memory(self, memory: Any, move: Move) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: Move) -> tuple[Array, Scalar]:
        """Return -g + beta d, and its slope."""
        beta, slope = self._coefficients(move)
        return scale_vector(beta, move.direction) - move.end.g, slope

    def _coefficients(self, move: Move) -> tuple[Scalar, Scalar]:
        """Return beta, and the slope along -g + beta d."""
        beta = _polak_ribiere(move) if self.eta is None else _hager_zhang(move, self.eta)
        return beta, beta * safe_divide(move.end.sg, move.step) - move.end.gg

    def bounded_direction(self, memory: Any, move: Move, free: Array) -> Array:
        """Return the same direction: where it leaves the bounds, it is cut there."""
        return self.direction(memory, move)[0]

    def first_step(self, memory: Any, move: Move, value: Scalar) -> Scalar:
        """Return a step of the same first-order decrease as the last; a unit move at first."""
        xp = backends.namespace(value)
        _, slope = self._coefficients(move)
        scaled_step = move.step * safe_divide(move.slope, slope)
        return xp.where(move.step > 0.0, scaled_step, _unit_step(move.end.gg))


def _polak_ribiere(move: Move) -> Scalar:
    return backends.clip(safe_divide(move.end.yg, move.old_gg), low=0.0)


def _hager_zhang(move: Move, eta: float) -> Scalar:
    xp, end = backends.namespace(move.step), move.end
    # Of the direction d = s / t.
    dy, dg = safe_divide(end.sy, move.step), safe_divide(end.sg, move.step)
    length = safe_divide(xp.sqrt(end.ss), move.step)
    beta = safe_divide(end.yg - 2.0 * safe_divide(end.yy, dy) * dg, dy)
    bounded_norm = backends.clip(xp.sqrt(move.old_gg), high=eta)
    return xp.maximum(beta, -safe_divide(xp.ones_like(beta), length * bounded_norm))


def cg(search: LineSearch | None = None) -> LineSearchDescent:
    r"""Nonlinear conjugate gradients of Polak and Ribière, restarted where beta would be negative (PR+).

    ::

        beta_k = max(0, g_{k+1} · (g_{k+1} - g_k) / (g_k · g_k))
        d_{k+1} = -g_{k+1} + beta_k d_k
        x_{k+1} = x_k + t_k d_k

    The first trial has the first-order decrease of the last step: t_{k-1} (g_{k-1} · d_{k-1}) / (g_k ·
    d_k). Where d is not downhill it is -g.

    Parameters
    ----------
    search : LineSearch, optional
        By default strong Wolfe with c1 = 1e-4 and c2 = 0.2.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    TypeError
        If `search` is no line search.

    Notes
    -----
    Polak and Ribière (1969), "Note sur la convergence de méthodes de directions conjuguées"; Gilbert and
    Nocedal (1992), "Global convergence properties of conjugate gradient methods for optimization".

    Examples
    --------
    >>> from agd.update import cg
    >>> cg().name
    'conjugate gradients (Polak-Ribiere+), strong Wolfe'
    """
    line_search = StrongWolfe(c2=0.2) if search is None else search
    name = f"conjugate gradients (Polak-Ribiere+), {search_name(line_search)}"
    return LineSearchDescent(ConjugateDirection(None), line_search, name)


def hager_zhang(eta: float = 0.4, search: LineSearch | None = None) -> LineSearchDescent:
    r"""Nonlinear conjugate gradients of Hager and Zhang (CG_DESCENT).

    ::

        beta_k = (y_k - 2 d_k (y_k · y_k) / (d_k · y_k)) · g_{k+1} / (d_k · y_k)
        d_{k+1} = -g_{k+1} + max(beta_k, -1 / (|d_k| min(eta, |g_k|))) d_k

    with y_k = g_{k+1} - g_k. These directions are downhill whatever the search: g · d <= -7/8 |g|².

    Parameters
    ----------
    eta : float
        How far below 0 beta may fall, above 0.
    search : LineSearch, optional
        By default strong Wolfe with c1 = 1e-4 and c2 = 0.4.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    ValueError, TypeError
        If `eta` is not above 0, or `search` no line search.

    Notes
    -----
    Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and an efficient line
    search"; (2013) for the value of eta.

    Examples
    --------
    >>> from agd.update import hager_zhang
    >>> hager_zhang().name
    'conjugate gradients (Hager-Zhang), strong Wolfe'
    """
    line_search = StrongWolfe(c2=0.4) if search is None else search
    name = f"conjugate gradients (Hager-Zhang), {search_name(line_search)}"
    return LineSearchDescent(ConjugateDirection(as_positive("eta", eta)), line_search, name)


# A trial step outside of these is of no use.
MAX_STEP, MIN_STEP = 1e20, 1e-20


def _unit_step(gg: Scalar) -> Scalar:
    """Return the step of length 1 along -g, or 1 where g is shorter: where nothing is known."""
    xp = backends.namespace(gg)
    size = xp.sqrt(gg)
    return xp.minimum(safe_divide(xp.ones_like(size), size), xp.ones_like(size))


@dataclass(frozen=True)
class _NegativeGradient:
    """The direction -g, without a memory."""

    convergence: str | None = field(default=None, init=False, repr=False)

    def init(self, g: Array, gg: Scalar) -> Any:
        """Return the memory: none."""
        return ()

    def stored_vectors(self, memory: Any) -> Array | None:
        """Return None: no vectors are stored."""
        return None

    def update_memory(self, memory: Any, move: Move) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: Move) -> tuple[Array, Scalar]:
        """Return -g, and its slope."""
        return -move.end.g, -move.end.gg

    def bounded_direction(self, memory: Any, move: Move, free: Array) -> Array:
        """Return -g: where it leaves the bounds, it is cut there."""
        return -move.end.g


@dataclass(frozen=True)
class SteepestDirection(_NegativeGradient):
    """-g, and at first twice the step that was taken last, so that steps can grow again."""

    convergence: str | None = field(default="line search", init=False, repr=False)

    def first_step(self, memory: Any, move: Move, value: Scalar) -> Scalar:
        """Return the first trial."""
        xp = backends.namespace(value)
        return xp.where(move.step > 0.0, 2.0 * move.step, _unit_step(move.end.gg))


@dataclass(frozen=True)
class SpectralDirection(_NegativeGradient):
    """-g, and at first a step of Barzilai and Borwein.

    Parameters
    ----------
    kind : {1, 2}
        Which of the two.
    """

    kind: int = 1

    def first_step(self, memory: Any, move: Move, value: Scalar) -> Scalar:
        """Return the first trial; where the curvature seen is not positive, a unit move."""
        xp, end = backends.namespace(value), move.end
        if self.kind == 1:
            step = safe_divide(end.ss, end.sy)
        else:
            # Where s and y are all but perpendicular this vanishes: not below a tenth of |s| / |y|.
            step = xp.maximum(
                safe_divide(end.sy, end.yy), 0.1 * xp.sqrt(safe_divide(end.ss, end.yy))
            )
        step = backends.clip(step, MIN_STEP, MAX_STEP)
        return xp.where(end.sy > 0.0, step, _unit_step(end.gg))


class ValueGap(NamedTuple):
    """How far below the present value the least one is thought to be, shape (...)."""

    delta: Scalar


@dataclass(frozen=True)
class PolyakDirection(_NegativeGradient):
    """-g, and at first the step at which the tangent reaches the least value.

    Parameters
    ----------
    least : float or None
        The least value; None for an estimate that adapts.
    """

    least: float | None = None

    def init(self, g: Array, gg: Scalar) -> ValueGap:
        """Return the estimate with which the first step is a unit move."""
        return ValueGap(gg * _unit_step(gg))

    def update_memory(self, memory: ValueGap, move: Move) -> ValueGap:
        """Double the estimate where the value fell by half of it, and halve it elsewhere."""
        xp = backends.namespace(move.decrease)
        reached = move.decrease >= 0.5 * memory.delta
        return ValueGap(xp.where(reached, 2.0 * memory.delta, 0.5 * memory.delta))

    def first_step(self, memory: ValueGap, move: Move, value: Scalar) -> Scalar:
        """Return the first trial."""
        xp, gg = backends.namespace(value), move.end.gg
        gap = memory.delta if self.least is None else value - self.least
        step = safe_divide(gap, gg)
        return xp.where(step > 0.0, backends.clip(step, MIN_STEP, MAX_STEP), _unit_step(gg))


def steepest_descent(search: LineSearch | None = None) -> LineSearchDescent:
    r"""Gradient descent whose step a line search finds.

    ::

        x_{k+1} = x_k - t_k g_k

    The first trial is twice the last step.

    Parameters
    ----------
    search : LineSearch, optional
        By default Armijo backtracking; ``agd.update.StrongWolfe()`` is the other one.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    TypeError
        If `search` is no line search.

    Notes
    -----
    Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations simultanées"; Armijo
    (1966) for the search.

    Examples
    --------
    >>> from agd.update import steepest_descent
    >>> steepest_descent().name
    'gradient descent, backtracking'
    """
    line_search = Backtracking() if search is None else search
    return LineSearchDescent(
        SteepestDirection(), line_search, f"gradient descent, {search_name(line_search)}"
    )


def barzilai_borwein(kind: int = 1, memory: int = 10) -> LineSearchDescent:
    r"""Gradient descent with the steps of Barzilai and Borwein, safeguarded.

    With s and y the last changes of the point and of the gradient::

        t = s · s / s · y    (kind 1)    or    t = s · y / y · y    (kind 2)
        x_{k+1} = x_k - t g_k

    1/t is a curvature between the least and the largest, so the steps are as long as some direction
    allows, and the value rises now and then. A step is taken if the value is low enough beside the
    largest of the last `memory` values, and is backtracked otherwise.

    Parameters
    ----------
    kind : {1, 2}
        The longer step, or the shorter one.
    memory : int
        How many values the safeguard looks back on, 1 or more; 1 makes every step descend.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    ValueError
        If `kind` is neither 1 nor 2.

    Notes
    -----
    Barzilai and Borwein (1988), "Two-point step size gradient methods"; Raydan (1997), "The Barzilai and
    Borwein gradient method for the large scale unconstrained minimization problem", for the safeguard.

    Examples
    --------
    >>> from agd.update import barzilai_borwein
    >>> barzilai_borwein().name
    'gradient descent (Barzilai-Borwein 1), non-monotone backtracking'
    """
    if kind not in (1, 2):
        raise ValueError(f"kind must be 1 or 2, got {kind!r}")
    search = Backtracking(memory=memory)
    name = f"gradient descent (Barzilai-Borwein {kind}), {search_name(search)}"
    return LineSearchDescent(SpectralDirection(kind), search, name)


def polyak(least: float | None = None) -> LineSearchDescent:
    r"""Gradient descent with Polyak's step, which aims at the least value.

    ::

        t_k = (f(x_k) - f*) / |g_k|²,    x_{k+1} = x_k - t_k g_k

    With f* unknown it is put delta below the present value; delta doubles where a step brought half of
    it, and halves elsewhere. A step that does not descend is backtracked.

    Parameters
    ----------
    least : float, optional
        f*, where it is known: 0 for a function that interpolates.

    Returns
    -------
    Directed
        The method, one evaluation a step.

    Raises
    ------
    TypeError
        If `least` is no number.

    Notes
    -----
    Polyak (1969), "Minimization of unsmooth functionals"; Nedić and Bertsekas (2001), "Incremental
    subgradient methods for nondifferentiable optimization", for the estimate.

    Examples
    --------
    >>> from agd.update import polyak
    >>> polyak(0.0).name
    'gradient descent (Polyak, least value 0.0), backtracking'
    """
    least_value = None if least is None else as_real("least", least, "a number")
    search = Backtracking()
    target_name = "least value estimated" if least_value is None else f"least value {least_value}"
    return LineSearchDescent(
        PolyakDirection(least_value),
        search,
        f"gradient descent (Polyak, {target_name}), {search_name(search)}",
    )
