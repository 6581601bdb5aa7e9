"""L-BFGS: Newton's direction from the last few changes of point and gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from agd import backends
from agd._typing import Array
from agd._validation import count
from agd.update._directed import Directed
from agd.update._direction import Move
from agd.update._vector import dot, over
from agd.update.line_search import Backtracking, LineSearch
from agd.update.wolfe import StrongWolfe, words

__all__ = ["lbfgs", "projected_lbfgs"]


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
        count("memory", self.memory)

    def init(self, g: Array) -> Pairs:
        """Return an empty memory."""
        xp = backends.namespace(g)
        shape = (*g.shape[:-1], self.memory, g.shape[-1])
        nothing = xp.zeros(shape, dtype=g.dtype, device=backends.device(g))
        return Pairs(nothing, nothing)

    def remember(self, memory: Pairs, move: Move) -> Pairs:
        """Keep a pair whose curvature is positive, and forget the oldest."""
        xp = backends.namespace(move.s)
        eps = float(xp.finfo(move.s.dtype).eps)
        usable = (dot(move.s, move.y) > eps * dot(move.y, move.y))[..., None, None]
        kept = []
        for old, new in ((memory.S, move.s), (memory.Y, move.y)):
            rolled = xp.concat([old[..., 1:, :], new[..., None, :]], axis=-2)
            kept.append(xp.where(usable, rolled, old))
        return Pairs(*kept)

    def direction(self, memory: Pairs, move: Move, g: Array, free: Array | None) -> Array:
        """Return -H g by the two loops, over the free entries where a bound holds others."""
        xp = backends.namespace(g)
        S, Y, q = memory.S, memory.Y, g
        if free is not None:
            mask = xp.astype(free, g.dtype)
            S, Y, q = S * mask[..., None, :], Y * mask[..., None, :], g * mask
        bend = dot(S, Y)
        rho = xp.where(bend > 0.0, over(xp.ones_like(bend), bend), xp.zeros_like(bend))
        shares = []
        for i in reversed(range(self.memory)):
            share = rho[..., i] * dot(S[..., i, :], q)
            q = q - share[..., None] * Y[..., i, :]
            shares.append(share)
        newest = rho[..., -1] * dot(Y[..., -1, :], Y[..., -1, :])  # y · y / s · y
        one = xp.ones_like(newest)
        r = xp.where(newest > 0.0, over(one, newest), one)[..., None] * q
        for i, share in enumerate(reversed(shares)):
            back = rho[..., i] * dot(Y[..., i, :], r)
            r = r + (share - back)[..., None] * S[..., i, :]
        return -r

    def first(self, memory: Pairs, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return 1, the step of Newton's method; a unit move while nothing is known."""
        xp = backends.namespace(g)
        if self.whitened:
            return xp.ones_like(value)
        size = xp.sqrt(dot(d, d))
        unit = over(xp.ones_like(size), size)
        known = dot(memory.S[..., -1, :], memory.Y[..., -1, :]) > 0.0
        return xp.where(known, xp.ones_like(size), xp.minimum(unit, xp.ones_like(size)))


def lbfgs(
    memory: int = 20, search: LineSearch | None = None, *, whitened: bool = False
) -> Directed:
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
    chosen = StrongWolfe(c2=0.5) if search is None else search
    name = f"L-BFGS (memory {memory}), {words(chosen)}" + ", whitened" * whitened
    return Directed(LBFGSDirection(memory, whitened), chosen, name)


def projected_lbfgs(memory: int = 20) -> Directed:
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
    return Directed(
        LBFGSDirection(memory), Backtracking(), f"projected L-BFGS (memory {memory}), backtracking"
    )
