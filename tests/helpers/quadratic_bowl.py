"""A bowl of known minimum on any library, and functions that count their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from agd import Stop, backends


def total(x: Any) -> Any:
    return backends.namespace(x).sum(x)


def bowl(x: Any, centre: Any = 3.0) -> Any:
    """|x - centre|², of an array of any shape."""
    return total((x - centre) ** 2)


def slope(x: Any, centre: Any = 3.0) -> Any:
    return 2.0 * (x - centre)


def bowls(tree: Any) -> Any:
    """The sum of the bowls of a tree's leaves: the minimum has 3 everywhere."""
    return sum(bowl(leaf) for leaf in optree.tree_leaves(tree))


def slopes(tree: Any) -> Any:
    return optree.tree_map(slope, tree)


def on_host(x: Any) -> float:
    """The bowl as a Python float, by NumPy: nothing can look behind it."""
    return float(np.sum((backends.to_numpy(x) - 3.0) ** 2))


def slope_on_host(x: Any) -> Any:
    return 2.0 * (backends.to_numpy(x) - 3.0)


class Counted:
    """A function that counts the calls that it has answered: a trace that failed is none."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, *args: Any) -> Any:
        answer = self.f(*args)
        self.calls += 1
        return answer


def often(xp: Any) -> Stop:
    """Look at every other step on Dask, whose graph of ten steps takes seconds to build."""
    return Stop(check_every=2 if xp.name == "dask" else None)


def near(xp: Any, got: Any, want: Any, digits: int = 5) -> None:
    """Hold an array to some digits in double precision; in single, to two."""
    tol = 10.0**-digits if xp.rtol < 1e-6 else 2e-2
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=tol, atol=tol)
