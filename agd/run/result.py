"""What came of a run: SciPy's fields, the history, and what is known of the point found."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import html
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Tree
from agd.run.certificate import Certificate
from agd.run.history import History
from agd.run.status import Status

__all__ = ["Certificate", "History", "Result"]

WIDTH = 88  # columns of the table's right side
LEAVES = 8  # of a tree in the table; the rest is counted
ENTRIES = 1000  # a larger array is named, not copied to the host


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of a run. For a batch of problems the numbers are NumPy arrays, one entry each.

    It prints as a short table, and as one in HTML in a notebook.

    Attributes
    ----------
    x : tree of arrays
        The point, in the library, dtype and device of the data.
    fun : float
        The objective there.
    jac : tree of arrays
        Its gradient there.
    nit, nfev, njev : int
        Steps; calls of the function and of its gradient.
    status : Status
        How the run ended.
    success : bool
        Whether it converged.
    message : str
        What happened and what to do next.
    history : History
        Value, gradient norm, step and calls at every look.
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

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the fields: ``dict(result)``, ``"x" in result``."""
        return iter(self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by its name, or the default where there is none."""
        return getattr(self, name) if name in self.keys() else default

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(self)]

    def __repr__(self) -> str:
        """Give a short table: a name and a value a line."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows)
        indent = "\n" + " " * (width + 2)
        return "\n".join(f"{name:>{width}}: {text}".replace("\n", indent) for name, text in rows)

    def _repr_html_(self) -> str:
        """Give the same table as HTML, for a notebook."""
        rows = "".join(
            f'<tr><th style="text-align:right">{html.escape(name)}</th>'
            f'<td style="text-align:left"><pre style="margin:0">{html.escape(text)}</pre></td></tr>'
            for name, text in self._rows()
        )
        return f"<table><tbody>{rows}</tbody></table>"

    def _rows(self) -> Iterator[tuple[str, str]]:
        names = [name for name in self.keys() if name not in ("history", "success", "message")]
        if "coef" in names:  # a linear fit: its point is its coefficients
            names.remove("x")
        if self.get("feature_names") is None and "feature_names" in names:
            names.remove("feature_names")
        yield "message", _wrapped(self.message)
        for name in ("status", *(n for n in names if n != "status")):
            value = getattr(self, name)
            if name == "status" and isinstance(value, Status):
                yield name, f"{int(value)} ({value.name})"
            elif name in ("x", "jac", "coef", "intercept"):
                yield from _leaves(name, value)
            else:
                yield name, _wrapped(_text(value))
        yield "history", f"{len(self.history.nit)} looks"


def _wrapped(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH) or [""])


def _leaves(name: str, tree: Tree) -> Iterator[tuple[str, str]]:
    """Give a line for each of the first leaves, by the expression that takes it from the result."""
    leaves = optree.tree_leaves(tree)
    if not leaves:
        yield name, "None"
        return
    for accessor, leaf in list(zip(optree.tree_accessors(tree), leaves, strict=True))[:LEAVES]:
        yield accessor.codify(name), _text(leaf)
    if len(leaves) > LEAVES:
        yield name, f"and {len(leaves) - LEAVES} more leaves"


def _text(value: Any) -> str:
    """Return the value in a line or a few; a large array's values stay where they are."""
    if backends.is_array(value):
        if math.prod(value.shape) > ENTRIES and not isinstance(value, np.ndarray):
            return f"{backends.of(value).name} array of shape {tuple(value.shape)}, {value.dtype}"
        value = backends.to_numpy(value)
    with np.printoptions(threshold=8, precision=6, edgeitems=3, linewidth=WIDTH):
        return str(value)
