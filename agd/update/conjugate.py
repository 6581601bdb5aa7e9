"""Nonlinear conjugate gradients: directions that do not undo one another, and no matrix kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agd import backends
from agd._typing import Array
from agd._validation import positive
from agd.update._directed import Directed
from agd.update._direction import Move
from agd.update._vector import dot, over
from agd.update.line_search import LineSearch
from agd.update.wolfe import StrongWolfe, words

__all__ = ["cg", "hager_zhang"]


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

    def remember(self, memory: Any, move: Move) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: Move, g: Array, free: Array | None) -> Array:
        """Return -g + beta d."""
        beta = _polak_ribiere(move, g) if self.eta is None else _hager_zhang(move, g, self.eta)
        return beta[..., None] * move.direction - g

    def first(self, memory: Any, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return a step of the same first-order decrease as the last; a unit move at first."""
        xp = backends.namespace(g)
        size = xp.sqrt(dot(d, d))
        unit = over(xp.ones_like(size), size)
        again = move.step * over(move.slope, dot(g, d))
        return xp.where(move.step > 0.0, again, xp.minimum(unit, xp.ones_like(size)))


def _polak_ribiere(move: Move, g: Array) -> Array:
    return backends.clip(over(dot(g, move.y), dot(move.before, move.before)), low=0.0)


def _hager_zhang(move: Move, g: Array, eta: float) -> Array:
    xp = backends.namespace(g)
    d, y = move.direction, move.y
    bend = dot(d, y)
    beta = over(dot(y, g) - 2.0 * over(dot(y, y), bend) * dot(d, g), bend)
    short = backends.clip(xp.sqrt(dot(move.before, move.before)), high=eta)
    return xp.maximum(beta, -over(xp.ones_like(beta), xp.sqrt(dot(d, d)) * short))


def cg(search: LineSearch | None = None) -> Directed:
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
    chosen = StrongWolfe(c2=0.2) if search is None else search
    name = f"conjugate gradients (Polak-Ribiere+), {words(chosen)}"
    return Directed(ConjugateDirection(None), chosen, name)


def hager_zhang(eta: float = 0.4, search: LineSearch | None = None) -> Directed:
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
    chosen = StrongWolfe(c2=0.4) if search is None else search
    name = f"conjugate gradients (Hager-Zhang), {words(chosen)}"
    return Directed(ConjugateDirection(positive("eta", eta)), chosen, name)
