"""The gradient of any function: the caller's own, the library's autodiff, or finite differences.

`choose_gradient` settles which; what it returns is called as ``value_and_grad(params, *args)`` on every
library, in the params' structure, dtype and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import as_gradient, as_value, choice, own
from agd.gradient.differences import difference

__all__ = [
    "Analytic",
    "Autodiff",
    "Differences",
    "Gradient",
    "central",
    "choose_gradient",
    "difference",
]

ValueAndGrad: TypeAlias = "Analytic | Autodiff | Differences"

KINDS = ("autodiff", "2-point", "3-point")


@dataclass(frozen=True)
class Analytic:
    """The value and gradient as the caller gives them.

    The functions get copies, so that they may write to what they are given, and may return the same buffer
    at every call.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: the value, or value and gradient where `jac` is None.
    jac : callable or None
        ``jac(params, *args)``: the gradient.
    batch : int
        How many leading axes number independent problems.
    """

    fun: Callable[..., Any]
    jac: Callable[..., Any] | None = None
    batch: int = 0

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `bounds` are not needed."""
        del bounds
        if self.jac is not None:
            value = as_value(self.fun(own(params), *args), params, self.batch)
            return value, own(as_gradient(self.jac(own(params), *args), params))
        pair = self.fun(own(params), *args)
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(
                f"with jac=True fun must return (value, gradient); got {type(pair).__name__}"
            )
        value = as_value(pair[0], params, self.batch)
        return value, own(as_gradient(pair[1], params, "fun, with jac=True,"))


@dataclass(frozen=True)
class Autodiff:
    """The value, and the gradient by the automatic differentiation of the params' library.

    PyTorch's autograd takes any eager function, also one that branches on values; inside a transform of
    ``torch.func``, where autograd is refused, ``torch.func.grad`` takes its place. JAX differentiates by
    ``jax.value_and_grad``. Nothing of the tape is left on what is returned.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    batch : int
        How many leading axes number independent problems. The gradient is that of the sum of their
        values, so that one problem's value must not depend on another's params.
    """

    fun: Callable[..., Any]
    batch: int = 0

    def value(self, params: Tree, *args: Any) -> Array:
        """Return the value, shape of the batch axes."""
        return as_value(self.fun(params, *args), params, self.batch)

    def __call__(self, params: Tree, *args: Any, bounds: Any = None) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `bounds` are not needed."""
        del bounds
        library = backends.of(optree.tree_leaves(params)[0]).autodiff
        if library is None:
            raise TypeError(_no_autodiff(params))
        return library.value_and_grad(self.value)(params, *args)


@dataclass(frozen=True)
class Differences:
    """The value, and the gradient by finite differences; see `difference`.

    Attributes
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    kind : {"2-point", "3-point"}
        The formula.
    batch : int
        How many leading axes number independent problems.
    """

    fun: Callable[..., Any]
    kind: str = "2-point"
    batch: int = 0

    def __call__(
        self, params: Tree, *args: Any, bounds: tuple[Tree, Tree] | None = None
    ) -> tuple[Array, Tree]:
        """Return the value, shape of the batch axes, and the gradient; `fun` is kept within `bounds`."""
        return difference(lambda p: self.fun(own(p), *args), params, self.kind, bounds, self.batch)


class Gradient(NamedTuple):
    """How a function is differentiated; what `choose_gradient` returns.

    Attributes
    ----------
    value_and_grad : Analytic, Autodiff or Differences
        ``value_and_grad(params, *args, bounds=None)``: value and gradient. Equal functions make equal
        ones, so that a compiled step is found again.
    name : str
        "jac", "fun returns it", "autodiff", "2-point" or "3-point".
    calls : int
        How often one evaluation calls `fun`.
    probes : int
        How often `fun` was called to find out whether autodiff can follow it.
    """

    value_and_grad: ValueAndGrad
    name: str
    calls: int
    probes: int = 0


def choose_gradient(
    fun: Callable[..., Any],
    jac: Any,
    x0: Tree,
    args: tuple[Any, ...] = (),
    *,
    batch: int = 0,
) -> Gradient:
    """Settle how `fun` is differentiated.

    Parameters
    ----------
    fun : callable
        ``fun(params, *args)``: a number, or for a batch an array of its shape.
    jac : callable, True, "autodiff", "2-point", "3-point" or None
        The gradient, ``jac(params, *args)``; True if `fun` returns the pair of value and gradient;
        the name of a way to compute it; None (or False) for autodiff where the library of `x0` has one
        that can follow `fun`, and for "2-point" elsewhere. On PyTorch that is found out by one call.
    x0 : tree of arrays
        A point.
    args : tuple
        Further arguments of `fun` and `jac`.
    batch : int
        How many leading axes number independent problems.

    Returns
    -------
    Gradient
        The function for value and gradient, its name and cost.

    Raises
    ------
    TypeError
        If `jac` is none of these.
    ValueError
        If its name is unknown, or it is "autodiff" and the library of `x0` has none, or none that can
        follow `fun`. What `fun` raises by itself passes.

    Examples
    --------
    >>> import numpy as np
    >>> how = choose_gradient(lambda x: (x * x).sum(), None, np.ones(3))
    >>> how.name, how.calls
    ('2-point', 4)
    >>> choose_gradient(lambda x: (x * x).sum(), "2point", np.ones(3))
    Traceback (most recent call last):
    ...
    ValueError: jac must be one of 'autodiff', '2-point', '3-point'; got '2point'; did you mean '2-point'?
    """
    if callable(jac):
        return Gradient(Analytic(fun, jac, batch), "jac", 1)
    if jac is True:
        return Gradient(Analytic(fun, None, batch), "fun returns it", 1)
    if jac is not None and jac is not False:
        if not isinstance(jac, str):
            known = f"a callable, True, None or one of {', '.join(map(repr, KINDS))}"
            raise TypeError(f"jac must be {known}; got {type(jac).__name__}")
        choice("jac", jac, KINDS)
    if jac in {"2-point", "3-point"}:
        return _by_differences(fun, jac, x0, batch)
    row = backends.of(optree.tree_leaves(x0)[0])
    if row.autodiff is None:
        if jac == "autodiff":
            raise ValueError(_no_autodiff(x0))
        return _by_differences(fun, "2-point", x0, batch)
    probes = 0 if row.compiles else 1
    if row.autodiff.is_differentiable(fun, x0, *args):
        return Gradient(Autodiff(fun, batch), "autodiff", 1, probes)
    if jac == "autodiff":
        # An error of fun's own is raised again here, of plain arrays, and passes.
        as_value(fun(own(x0), *args), x0, batch)
        raise ValueError(
            "jac='autodiff' cannot follow fun: what it returns no longer hangs on x (a Python float, "
            "NumPy or detach() on the way). Compute with x's library, or pass jac='2-point'"
        )
    return _by_differences(fun, "2-point", x0, batch, probes)


def central(how: Gradient, x0: Tree) -> Gradient:
    """Return the 3-point formula in the place of the 2-point one.

    Parameters
    ----------
    how : Gradient
        By differences.
    x0 : tree of arrays
        A point.

    Returns
    -------
    Gradient
        The same function, differenced at two calls for each coordinate.
    """
    known = how.value_and_grad
    if not isinstance(known, Differences):
        raise TypeError(f"how must be by differences, got {how.name!r}")
    return _by_differences(known.fun, "3-point", x0, known.batch)


def _by_differences(
    fun: Callable[..., Any], kind: str, x0: Tree, batch: int, probes: int = 0
) -> Gradient:
    n = sum(math.prod(x.shape[batch:]) for x in optree.tree_leaves(x0))
    calls = 1 + n * (1 if kind == "2-point" else 2)
    return Gradient(Differences(fun, kind, batch), kind, calls, probes)


def _no_autodiff(params: Tree) -> str:
    name = backends.of(optree.tree_leaves(params)[0]).name
    able = " and ".join(row.name for row in backends.TABLE if row.autodiff is not None)
    return (
        f"jac='autodiff' needs a library that differentiates ({able}), and x is a {name} array: pass "
        "the gradient as jac, or jac='2-point' or '3-point'"
    )
