"""Gradient descent that finds its step: by a line search, or by the formulas of Barzilai-Borwein and Polyak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agd import backends
from agd._typing import Array
from agd._validation import real
from agd.update._directed import Directed
from agd.update._direction import Move
from agd.update._vector import dot, over
from agd.update.line_search import Backtracking, LineSearch
from agd.update.wolfe import words

__all__ = ["barzilai_borwein", "polyak", "steepest_descent"]

LONGEST, SHORTEST = 1e20, 1e-20  # a trial step outside of this is of no use


def _unit(d: Array) -> Array:
    """Return the step of length 1 along d, or 1 where d is shorter: where nothing is known."""
    xp = backends.namespace(d)
    size = xp.sqrt(dot(d, d))
    return xp.minimum(over(xp.ones_like(size), size), xp.ones_like(size))


@dataclass(frozen=True)
class _Downhill:
    """The direction -g, without a memory."""

    def init(self, g: Array) -> Any:
        """Return the memory: none."""
        return ()

    def remember(self, memory: Any, move: Move) -> Any:
        """Return the memory: none."""
        return ()

    def direction(self, memory: Any, move: Move, g: Array, free: Array | None) -> Array:
        """Return -g."""
        return -g


@dataclass(frozen=True)
class SteepestDirection(_Downhill):
    """-g, and at first twice the step that was taken last, so that steps can grow again."""

    convergence: ClassVar[str] = "line search"

    def first(self, memory: Any, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial."""
        xp = backends.namespace(g)
        return xp.where(move.step > 0.0, 2.0 * move.step, _unit(d))


@dataclass(frozen=True)
class SpectralDirection(_Downhill):
    """-g, and at first a step of Barzilai and Borwein.

    Parameters
    ----------
    kind : {1, 2}
        Which of the two.
    """

    kind: int = 1

    def first(self, memory: Any, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial; where the curvature seen is not positive, a unit move."""
        xp = backends.namespace(g)
        bend = dot(move.s, move.y)
        if self.kind == 1:
            step = over(dot(move.s, move.s), bend)
        else:
            # Where s and y are all but perpendicular this vanishes: not below a tenth of |s| / |y|.
            yy = dot(move.y, move.y)
            step = xp.maximum(over(bend, yy), 0.1 * xp.sqrt(over(dot(move.s, move.s), yy)))
        return xp.where(bend > 0.0, backends.clip(step, SHORTEST, LONGEST), _unit(d))


class Level(NamedTuple):
    """How far below the present value the least one is thought to be, shape (...)."""

    delta: Array


@dataclass(frozen=True)
class PolyakDirection(_Downhill):
    """-g, and at first the step at which the tangent reaches the least value.

    Parameters
    ----------
    least : float or None
        The least value; None for an estimate that adapts.
    """

    least: float | None = None

    def init(self, g: Array) -> Level:
        """Return the estimate with which the first step is a unit move."""
        return Level(dot(g, g) * _unit(g))

    def remember(self, memory: Level, move: Move) -> Level:
        """Double the estimate where the value fell by half of it, and halve it elsewhere."""
        xp = backends.namespace(move.fall)
        reached = move.fall >= 0.5 * memory.delta
        return Level(xp.where(reached, 2.0 * memory.delta, 0.5 * memory.delta))

    def first(self, memory: Level, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial."""
        xp = backends.namespace(g)
        gap = memory.delta if self.least is None else value - self.least
        step = over(gap, dot(g, g))
        return xp.where(step > 0.0, backends.clip(step, SHORTEST, LONGEST), _unit(d))


def steepest_descent(search: LineSearch | None = None) -> Directed:
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
    chosen = Backtracking() if search is None else search
    return Directed(SteepestDirection(), chosen, f"gradient descent, {words(chosen)}")


def barzilai_borwein(kind: int = 1, memory: int = 10) -> Directed:
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
    name = f"gradient descent (Barzilai-Borwein {kind}), {words(search)}"
    return Directed(SpectralDirection(kind), search, name)


def polyak(least: float | None = None) -> Directed:
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
    known = None if least is None else real("least", least, "a number")
    search = Backtracking()
    aim = "least value estimated" if known is None else f"least value {known}"
    return Directed(
        PolyakDirection(known), search, f"gradient descent (Polyak, {aim}), {words(search)}"
    )
