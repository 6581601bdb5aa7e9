"""Where the second order says nothing: whether f itself falls or rises along lines through a point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from agd.gradient.spectrum import Spectrum

__all__ = ["Probe", "probe"]

DIRECTIONS = 16  # eigenvectors that are probed, and as many mixtures of them


class Probe(NamedTuple):
    """What probing goes by.

    Attributes
    ----------
    value : float
        f at the point.
    size : float
        max(1, |x|), in proportion to which the point is moved.
    eps : float
        The rounding of x's dtype.
    seed : int
        Of the mixtures.
    """

    value: float
    size: float
    eps: float
    seed: int


def probe(
    at: Callable[[Any, float], float],
    g: Any,
    known: Spectrum,
    zero: float,
    settings: Probe,
    *,
    falls: bool,
    rises: bool,
) -> tuple[Any, bool]:
    """Look along directions of zero curvature, on both sides.

    Parameters
    ----------
    at : callable
        ``at(direction, t)``: f at x + t direction.
    g : numpy.ndarray, shape (n,)
        The gradient.
    known : Spectrum
        The curvatures.
    zero : float
        What counts as zero among them.
    settings : Probe
        The value, and the scales.
    falls, rises : bool
        What is known already; looking ends when both are.

    Returns
    -------
    down : numpy.ndarray or None
        A unit direction in which f falls.
    up : bool
        Whether f rises in some.
    """
    down, up = None, False
    near = [i for i, v in enumerate(known.values) if abs(v) - known.residuals[i] <= zero]
    near.sort(key=lambda i: abs(known.values[i]))
    near = near[:DIRECTIONS]
    for line in _lines([known.vector(i) for i in near], settings.seed):
        for direction in (line, -line):
            sign = _trend(at, direction, float(direction @ g), settings)
            down = direction if sign < 0 and down is None else down
            up = up or sign > 0
            if (falls or down is not None) and (rises or up):
                return down, up
    return down, up


def _lines(vectors: list[Any], seed: int) -> Iterator[Any]:
    """Yield the vectors, and random mixtures: a cubic form may vanish on every axis, as xyz does."""
    yield from vectors
    if len(vectors) < 2:
        return
    for weights in np.random.default_rng(seed).standard_normal((DIRECTIONS, len(vectors))):
        mixture = np.sum(weights[:, None] * np.stack(vectors), axis=0)
        yield mixture / np.linalg.norm(mixture)


def _trend(at: Callable[[Any, float], float], direction: Any, slope: float, settings: Probe) -> int:
    """Return -1 where f falls at all of three distances, 1 where it rises, else 0.

    A change counts if it is larger than rounding, and than twice what the remaining slope makes.
    """
    signs = set()
    for shrink in (1.0, 0.5, 0.25):
        t = shrink * settings.eps**0.125 * settings.size
        there = at(direction, t)
        change = there - settings.value
        rounding = 8.0 * settings.eps * (abs(there) + abs(settings.value))
        explained = rounding + 2.0 * abs(slope) * t
        signs.add(0 if not abs(change) > explained else int(np.sign(change)))
    return signs.pop() if len(signs) == 1 else 0
