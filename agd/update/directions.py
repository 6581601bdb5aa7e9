"""Directions of descent: L-BFGS, nonlinear conjugate gradients, steepest descent with several first steps.

Each is a small class that `agd.update.line_search_descent` asks for a direction and a first trial step, and a
public function that joins it with a line search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._tree import dot, safe_divide
from agd._typing import Array
from agd._validation import as_count, as_positive, as_real
from agd.update.line_search import Backtracking, LineSearch, StrongWolfe, search_name
from agd.update.line_search_descent import LastStep, LineSearchDescent

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
    """The last changes of point and gradient, oldest first, shape (..., memory, n); 0 where none is."""

    S: Array
    Y: Array


@dataclass(frozen=True)
class LBFGSDirection:
    """The direction -H g of `lbfgs`.

    Parameters
    ----------
    memory : int
        How many pairs are kept.
    whitened : bool
        Whether the Hessian is near the identity, so that -g is Newton's step before anything is known.
    """

    memory: int = 20
    whitened: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty memory."""
        as_count("memory", self.memory)

    def init(self, g: Array) -> Pairs:
        """Return an empty memory."""
        xp = backends.namespace(g)
        shape = (*g.shape[:-1], self.memory, g.shape[-1])
        zeros = xp.zeros(shape, dtype=g.dtype, device=backends.device(g))
        return Pairs(zeros, zeros)

    def update_memory(self, memory: Pairs, move: LastStep) -> Pairs:
        """Keep a pair whose curvature is positive, and forget the oldest."""
        xp = backends.namespace(move.s)
        eps = float(xp.finfo(move.s.dtype).eps)
        usable = (dot(move.s, move.y) > eps * dot(move.y, move.y))[..., None, None]
        updated = []
        for old, new in ((memory.S, move.s), (memory.Y, move.y)):
            rolled = xp.concat([old[..., 1:, :], new[..., None, :]], axis=-2)
            updated.append(xp.where(usable, rolled, old))
        return Pairs(*updated)

    def direction(self, memory: Pairs, move: LastStep, g: Array, free: Array | None) -> Array:
        """Return -H g by the two loops, over the free entries where a bound holds others."""
        xp = backends.namespace(g)
        S, Y, q = memory.S, memory.Y, g
        if free is not None:
            mask = xp.astype(free, g.dtype)
            S, Y, q = S * mask[..., None, :], Y * mask[..., None, :], g * mask
        curvature = dot(S, Y)
        rho = xp.where(
            curvature > 0.0,
            safe_divide(xp.ones_like(curvature), curvature),
            xp.zeros_like(curvature),
        )
        alphas = []
        for i in reversed(range(self.memory)):
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

    def first_step(self, memory: Pairs, move: LastStep, value: Array, g: Array, d: Array) -> Array:
        """Return 1, the step of Newton's method; a unit move while nothing is known."""
        xp = backends.namespace(g)
        if self.whitened:
            return xp.ones_like(value)
        size = xp.sqrt(dot(d, d))
        unit = safe_divide(xp.ones_like(size), size)
        has_pairs = dot(memory.S[..., -1, :], memory.Y[..., -1, :]) > 0.0
        return xp.where(has_pairs, xp.ones_like(size), xp.minimum(unit, xp.ones_like(size)))


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

    def init(self, g: Array) -> Any:
        """Return the memory: none, the last move holds all."""
        return ()

    def update_memory(self, memory: Any, move: LastStep) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: LastStep, g: Array, free: Array | None) -> Array:
        """Return -g + beta d."""
        beta = _polak_ribiere(move, g) if self.eta is None else _hager_zhang(move, g, self.eta)
        return beta[..., None] * move.direction - g

    def first_step(self, memory: Any, move: LastStep, value: Array, g: Array, d: Array) -> Array:
        """Return a step of the same first-order decrease as the last; a unit move at first."""
        xp = backends.namespace(g)
        size = xp.sqrt(dot(d, d))
        unit = safe_divide(xp.ones_like(size), size)
        scaled_step = move.step * safe_divide(move.slope, dot(g, d))
        return xp.where(move.step > 0.0, scaled_step, xp.minimum(unit, xp.ones_like(size)))


def _polak_ribiere(move: LastStep, g: Array) -> Array:
    return backends.clip(safe_divide(dot(g, move.y), dot(move.old_grad, move.old_grad)), low=0.0)


def _hager_zhang(move: LastStep, g: Array, eta: float) -> Array:
    xp = backends.namespace(g)
    d, y = move.direction, move.y
    curvature = dot(d, y)
    beta = safe_divide(dot(y, g) - 2.0 * safe_divide(dot(y, y), curvature) * dot(d, g), curvature)
    bounded_norm = backends.clip(xp.sqrt(dot(move.old_grad, move.old_grad)), high=eta)
    return xp.maximum(beta, -safe_divide(xp.ones_like(beta), xp.sqrt(dot(d, d)) * bounded_norm))


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


def _unit_step(d: Array) -> Array:
    """Return the step of length 1 along d, or 1 where d is shorter: where nothing is known."""
    xp = backends.namespace(d)
    size = xp.sqrt(dot(d, d))
    return xp.minimum(safe_divide(xp.ones_like(size), size), xp.ones_like(size))


@dataclass(frozen=True)
class _NegativeGradient:
    """The direction -g, without a memory."""

    def init(self, g: Array) -> Any:
        """Return the memory: none."""
        return ()

    def update_memory(self, memory: Any, move: LastStep) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: LastStep, g: Array, free: Array | None) -> Array:
        """Return -g."""
        return -g


@dataclass(frozen=True)
class SteepestDirection(_NegativeGradient):
    """-g, and at first twice the step that was taken last, so that steps can grow again."""

    convergence = "line search"

    def first_step(self, memory: Any, move: LastStep, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial."""
        xp = backends.namespace(g)
        return xp.where(move.step > 0.0, 2.0 * move.step, _unit_step(d))


@dataclass(frozen=True)
class SpectralDirection(_NegativeGradient):
    """-g, and at first a step of Barzilai and Borwein.

    Parameters
    ----------
    kind : {1, 2}
        Which of the two.
    """

    kind: int = 1

    def first_step(self, memory: Any, move: LastStep, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial; where the curvature seen is not positive, a unit move."""
        xp = backends.namespace(g)
        curvature = dot(move.s, move.y)
        if self.kind == 1:
            step = safe_divide(dot(move.s, move.s), curvature)
        else:
            # Where s and y are all but perpendicular this vanishes: not below a tenth of |s| / |y|.
            yy = dot(move.y, move.y)
            step = xp.maximum(
                safe_divide(curvature, yy), 0.1 * xp.sqrt(safe_divide(dot(move.s, move.s), yy))
            )
        return xp.where(curvature > 0.0, backends.clip(step, MIN_STEP, MAX_STEP), _unit_step(d))


class ValueGap(NamedTuple):
    """How far below the present value the least one is thought to be, shape (...)."""

    delta: Array


@dataclass(frozen=True)
class PolyakDirection(_NegativeGradient):
    """-g, and at first the step at which the tangent reaches the least value.

    Parameters
    ----------
    least : float or None
        The least value; None for an estimate that adapts.
    """

    least: float | None = None

    def init(self, g: Array) -> ValueGap:
        """Return the estimate with which the first step is a unit move."""
        return ValueGap(dot(g, g) * _unit_step(g))

    def update_memory(self, memory: ValueGap, move: LastStep) -> ValueGap:
        """Double the estimate where the value fell by half of it, and halve it elsewhere."""
        xp = backends.namespace(move.decrease)
        reached = move.decrease >= 0.5 * memory.delta
        return ValueGap(xp.where(reached, 2.0 * memory.delta, 0.5 * memory.delta))

    def first_step(
        self, memory: ValueGap, move: LastStep, value: Array, g: Array, d: Array
    ) -> Array:
        """Return the first trial."""
        xp = backends.namespace(g)
        gap = memory.delta if self.least is None else value - self.least
        step = safe_divide(gap, dot(g, g))
        return xp.where(step > 0.0, backends.clip(step, MIN_STEP, MAX_STEP), _unit_step(d))


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
