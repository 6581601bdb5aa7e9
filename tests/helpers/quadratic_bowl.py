"""A quadratic bowl of known minimum on any array library, and functions that count their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from agd import Stop, backends


def entry_sum(x: Any) -> Any:
    return backends.namespace(x).sum(x)


def bowl(x: Any, centre: Any = 3.0) -> Any:
    """|x - centre|², of an array of any shape."""
    return entry_sum((x - centre) ** 2)


def bowl_gradient(x: Any, centre: Any = 3.0) -> Any:
    return 2.0 * (x - centre)


def tree_bowl(tree: Any) -> Any:
    """The sum of the bowls of a tree's leaves: every entry of the minimum is 3."""
    return sum(bowl(leaf) for leaf in optree.tree_leaves(tree))


def tree_bowl_gradient(tree: Any) -> Any:
    return optree.tree_map(bowl_gradient, tree)


def bowl_on_host(x: Any) -> float:
    """The bowl as a Python float, computed by NumPy, so that it can be neither traced nor differentiated."""
    return float(np.sum((backends.to_numpy(x) - 3.0) ** 2))


def bowl_gradient_on_host(x: Any) -> Any:
    return 2.0 * (backends.to_numpy(x) - 3.0)


class CountedFunction:
    """A function that counts the calls that returned: a trace that failed does not count."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.function, self.calls = f, 0

    def __call__(self, *args: Any) -> Any:
        result = self.function(*args)
        self.calls += 1
        return result


def frequent_checks(xp: Any) -> Stop:
    """Check every other step on Dask: the graph of ten steps takes seconds to build."""
    return Stop(check_every=2 if xp.name == "dask" else None)


def assert_close(xp: Any, got: Any, want: Any, digits: int = 5) -> None:
    """Assert that an array agrees to some digits in double precision, or to two in single precision."""
    tol = 10.0**-digits if xp.rtol < 1e-6 else 2e-2
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=tol, atol=tol)
