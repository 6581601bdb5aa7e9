"""What came of a run: SciPy's fields, the history, and what is known of the point found."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from agd._typing import Tree
from agd.run.stopping import Status

__all__ = ["Certificate", "History", "Result"]


class History(NamedTuple):
    """What the host saw of a run, one entry for each look; NumPy arrays, off the device.

    Attributes
    ----------
    nit : numpy.ndarray, shape (looks,)
        Steps taken by then.
    value : numpy.ndarray, shape (looks, ...)
        The objective.
    grad_norm : numpy.ndarray, shape (looks, ...)
        The size of its gradient, as the stopping test measured it.
    """

    nit: Any
    value: Any
    grad_norm: Any


@dataclass(frozen=True)
class Certificate:
    """What is known of the point that was found.

    Attributes
    ----------
    grad_norm : float or numpy.ndarray
        The largest absolute partial derivative at the point, or its relative size, as the stopping
        test measured it.
    tolerance : float
        What it was held against.
    curvature : float, numpy.ndarray or None
        L, the largest curvature, where the method measured it (in the method's coordinates).
    largest_step : float, numpy.ndarray or None
        2/L, above which gradient descent with a fixed step diverges; None where L is unknown.
    """

    grad_norm: Any
    tolerance: float
    curvature: Any = None
    largest_step: Any = None


@dataclass(frozen=True)
class Result:
    """The outcome of a run. For a batch of problems the numbers are NumPy arrays, one entry each.

    Attributes
    ----------
    x : tree of arrays
        The point, in the library, dtype and device of the data.
    fun : float
        The objective there.
    jac : tree of arrays
        Its gradient there.
    nit, nfev, njev : int
        Steps; evaluations of the value and of the gradient (they come together).
    status : Status
        How the run ended.
    success : bool
        Whether it converged.
    message : str
        What happened and what to do next.
    history : History
        Value and gradient norm at every look.
    n_sync : int
        How often the host read from the device.
    method : str
        The path taken.
    certificate : Certificate
        What is known of the point.
    """

    x: Tree
    fun: Any
    jac: Tree
    nit: Any
    nfev: Any
    njev: Any
    status: Any
    success: Any
    message: str
    history: History
    n_sync: int
    method: str
    certificate: Certificate

    @property
    def grad_norm(self) -> Any:
        """The size of the gradient, as the stopping test measures it."""
        return self.certificate.grad_norm

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, as SciPy's results do."""
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(self)]

    def __repr__(self) -> str:
        """Give a short table: a name and a value a line."""
        rows = [(name, self._shown(name)) for name in self.keys() if name not in ("history",)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:>{width}}: {value}" for name, value in rows)

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if name == "status" and isinstance(value, Status):
            return f"{int(value)} ({value.name})"
        indent = " " * (max(map(len, self.keys())) + 2)
        with np.printoptions(threshold=8, precision=6):
            return str(value).replace("\n", "\n" + indent)
