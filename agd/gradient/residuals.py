"""Residuals of a model and their Jacobian, for one problem or a batch; robust losses of the residuals.

It stands between a user's function of residuals and the steps of Levenberg and Marquardt: points are vectors
(b, p), residuals (b, n) and Jacobians (b, n, p), with b = 1 for one problem, whatever tree the user's function
takes. The Jacobian is the user's, or by automatic differentiation, or by the differences of
``gradient/derivatives.py``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._tree import TreeLayout
from agd._typing import Array, Namespace, Tree
from agd._validation import as_choice, as_residuals, writable_copy
from agd.gradient.derivatives import KINDS, difference_points, difference_quotient

__all__ = ["RESIDUAL_LOSSES", "CompiledResiduals", "ResidualFunction", "choose_residuals"]

# A difference step is at least this share of the one that the first point would have, so that an entry
# that is 0 by chance can be differenced; an entry that begins at 0 counts as one that begins at 1.
MIN_STEP_SHARE = 1e-3

# The curvature of a robust loss counts as at least this share of its slope: without any, the residual of the linear
# model would be infinite.
MIN_CURVATURE_SHARE = 0.1


class ResidualArrays(NamedTuple):
    """The arrays of a residual function that have a row for each problem, or that all problems share.

    Attributes
    ----------
    args : list of array
        The arrays among the arguments of the user's functions.
    low, high : array, shape (b, p), or None
        The bounds.
    typical : array, shape (b, p)
        The least size of an entry that difference steps go by.
    root_weight : array, shape (b, n) or (1, n), or None
        The square roots of the weights.
    """

    args: list[Any]
    low: Any
    high: Any
    typical: Any
    root_weight: Any


@dataclass(frozen=True, eq=False)
class ResidualFunction:
    """A user's residuals as a function of vectors, with their Jacobian and a robust loss.

    Attributes
    ----------
    fun : callable
        ``fun(x, *args)``: the residuals.
    jac : callable or None
        ``jac(x, *args)``: their Jacobian.
    source : {"jac", "autodiff", "2-point", "3-point"}
        Where the Jacobian comes from.
    layout : TreeLayout
        How x lies in a vector.
    args : tuple
        Further arguments, without their arrays.
    arrays : ResidualArrays
        The arrays.
    per_problem : tuple of bool
        Which arrays among the arguments have a row for each problem.
    loss, f_scale : str, float
        The name of the robust loss and the size of a residual beyond which it bends.
    """

    fun: Callable[..., Any]
    jac: Callable[..., Any] | None
    source: str
    layout: TreeLayout
    args: tuple[Any, ...]
    arrays: ResidualArrays
    per_problem: tuple[bool, ...]
    loss: str = "linear"
    f_scale: float = 1.0

    @property
    def calls_per_jacobian(self) -> int:
        """How often a Jacobian calls `fun`."""
        return {"2-point": 1, "3-point": 2}.get(self.source, 0) * self.layout.size

    def values(self, x: Array) -> Array:
        """Return the residuals (b, n) as the user's function has them."""
        return self._as_rows(as_residuals(self.fun(*self._arguments(x)), x), x)

    def _arguments(self, x: Array) -> tuple[Any, ...]:
        """Return the point as a tree of its own, and the other arguments."""
        if self.layout.batch:
            count = int(x.shape[0])
            shapes = tuple((count, *shape[1:]) for shape in self.layout.shapes)
            point = self.layout._replace(shapes=shapes).unravel(x)
        else:
            point = self.layout.unravel(x[0, :])
        static: Any = self.args
        leaves, spec = optree.tree_flatten(static, none_is_leaf=True)
        arrays = iter(self.arrays.args)
        filled = [next(arrays) if leaf is ARRAY_PLACE else leaf for leaf in leaves]
        args: Any = optree.tree_unflatten(spec, filled)
        return (writable_copy(point), *args)

    def _as_rows(self, values: Array, x: Array) -> Array:
        xp, count = backends.namespace(values), int(x.shape[0])
        shape = tuple(values.shape)
        if self.layout.batch and shape[:1] != (count,):
            raise ValueError(
                f"residuals must return an array of shape ({count}, n), a row for each problem; got "
                f"shape {shape}"
            )
        if math.prod(shape) == 0:
            raise ValueError(f"residuals must return at least one number, got shape {shape}")
        is_matrix = self.layout.batch and len(shape) == 2
        return values if is_matrix else xp.reshape(values, (count, -1))

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        """Return the residuals (b, n), and the cost (b,): half the sum of the loss of their squares."""
        raw = self.values(x)
        weighted = self._weighted(raw)
        xp = backends.namespace(raw)
        if self.loss == "linear":
            return raw, 0.5 * xp.sum(weighted * weighted, axis=-1)
        z = (weighted / self.f_scale) ** 2
        rho = RESIDUAL_LOSSES[self.loss](xp, z)[0]
        return raw, 0.5 * self.f_scale**2 * xp.sum(rho, axis=-1)

    def _weighted(self, raw: Array) -> Array:
        root = self.arrays.root_weight
        weighted: Array = raw if root is None else raw * root
        return weighted

    def linearise(self, x: Array, raw: Array) -> tuple[Array, Array]:
        """Return residuals f (b, n) and Jacobian J (b, n, p) whose J'f is the gradient of the cost.

        Of a robust loss, J'J is an approximation of the Hessian, which takes the loss's second derivative in as far
        as that leaves it positive (Triggs et al., 2000).
        """
        jacobian, f = self.jacobian(x, raw), self._weighted(raw)
        if self.arrays.root_weight is not None:
            jacobian = jacobian * self.arrays.root_weight[..., None]
        if self.loss == "linear":
            return f, jacobian
        xp = backends.namespace(f)
        z = (f / self.f_scale) ** 2
        _, first, second = RESIDUAL_LOSSES[self.loss](xp, z)
        root = xp.sqrt(xp.maximum(first + 2.0 * second * z, MIN_CURVATURE_SHARE * first))
        return f * (first / root), jacobian * root[..., None]

    def jacobian(self, x: Array, raw: Array) -> Array:
        """Return the Jacobian (b, n, p) of the user's residuals."""
        if self.jac is not None:
            return self._users_jacobian(x, raw)
        if self.source == "autodiff":
            library: Any = backends.of(x).autodiff
            jacobian: Array = library.jacobian(self.values)(x)[1]
            return jacobian
        return self._differences(x, raw)

    def _users_jacobian(self, x: Array, raw: Array) -> Array:
        xp, jac = backends.namespace(x), self.jac
        assert jac is not None  # noqa: S101 - asked for by `jacobian` alone
        returned = jac(*self._arguments(x))
        leaves = [returned]
        if self.layout.spec.num_nodes > 1 and isinstance(returned, dict | list | tuple):
            leaves = self.layout.spec.flatten_up_to(returned)
        parts = []
        for leaf, shape in zip(leaves, self._column_counts(len(leaves)), strict=True):
            part = as_residuals(leaf, x, "jac")
            need = (*tuple(raw.shape), shape)
            if math.prod(part.shape) != math.prod(need):
                need = need if self.layout.batch else need[1:]
                raise ValueError(
                    f"jac must return the derivatives of the residuals by the entries of x, shape "
                    f"{need}; got shape {tuple(part.shape)}"
                )
            parts.append(xp.reshape(part, need))
        whole = parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)
        # The function may return the same buffer at every call.
        return whole if not backends.of(whole).mutable else xp.asarray(whole, copy=True)

    def _column_counts(self, leaves: int) -> list[int]:
        if leaves == 1:
            return [self.layout.size]
        return [math.prod(shape[self.layout.batch :]) for shape in self.layout.shapes]

    def _differences(self, x: Array, raw: Array) -> Array:
        """Difference the residuals along one coordinate of all problems after the other, within the bounds."""
        xp, where = backends.namespace(x), backends.device(x)
        eps = float(xp.finfo(x.dtype).eps)
        points = difference_points(
            x, eps, self.source, self.arrays.low, self.arrays.high, self.arrays.typical
        )
        order = xp.arange(int(x.shape[-1]), device=where)
        rises, offsets = [], []
        for point in points:
            changed = [self.values(xp.where(order == j, point, x)) for j in range(int(x.shape[-1]))]
            rises.append(xp.stack(changed, axis=-2) - raw[:, None, :])
            offsets.append((point - x)[..., None])
        return xp.matrix_transpose(difference_quotient(rises, offsets))

    def select(self, rows: Array) -> ResidualFunction:
        """Return the function of some of the problems, whose numbers are in `rows`."""
        return replace(self, arrays=select_arrays(self.arrays, rows, self.per_problem))

    def by_central_differences(self) -> ResidualFunction:
        """Return the same function with a Jacobian by the 3-point formula."""
        return replace(self, source="3-point")


class CompiledResiduals:
    """A residual function whose evaluations are compiled, of a library that compiles.

    Parameters
    ----------
    function : ResidualFunction
        What is compiled.
    arrays : ResidualArrays
        The arrays of the problems that it is evaluated for.
    programs : tuple of callable
        The compiled evaluation and linearisation, which live as long as this object and those selected from it.
    """

    def __init__(
        self, function: ResidualFunction, arrays: ResidualArrays, programs: tuple[Any, Any]
    ) -> None:
        self.function, self.arrays, self.programs = function, arrays, programs

    @classmethod
    def of(cls, function: ResidualFunction) -> CompiledResiduals:
        """Compile a function."""
        compile_unshared = backends.of(function.arrays.typical).compile_unshared
        programs = compile_unshared(_evaluate), compile_unshared(_linearise)
        return cls(function, function.arrays, programs)

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        """Return the residuals and the cost."""
        pair: tuple[Array, Array] = self.programs[0](self.function, self.arrays, x)
        return pair

    def linearise(self, x: Array, raw: Array) -> tuple[Array, Array]:
        """Return the residuals and the Jacobian of the linear model."""
        pair: tuple[Array, Array] = self.programs[1](self.function, self.arrays, x, raw)
        return pair

    def select(self, rows: Array) -> CompiledResiduals:
        """Return the function of some of the problems."""
        arrays = select_arrays(self.arrays, rows, self.function.per_problem)
        return CompiledResiduals(self.function, arrays, self.programs)

    @property
    def source(self) -> str:
        """Where the Jacobian comes from."""
        return self.function.source

    @property
    def calls_per_jacobian(self) -> int:
        """How often a Jacobian calls the user's function."""
        return self.function.calls_per_jacobian

    def by_central_differences(self) -> CompiledResiduals:
        """Return the same function with a Jacobian by the 3-point formula."""
        finer = replace(self.function.by_central_differences(), arrays=self.arrays)
        return CompiledResiduals.of(finer)


def _evaluate(function: ResidualFunction, arrays: Any, x: Array) -> tuple[Array, Array]:
    return replace(function, arrays=ResidualArrays(*arrays)).evaluate(x)


def _linearise(
    function: ResidualFunction, arrays: Any, x: Array, raw: Array
) -> tuple[Array, Array]:
    return replace(function, arrays=ResidualArrays(*arrays)).linearise(x, raw)


def select_arrays(
    arrays: ResidualArrays, rows: Array, per_problem: tuple[bool, ...]
) -> ResidualArrays:
    """Return the arrays of some of the problems; what the problems share stays."""
    xp = backends.namespace(rows)

    def selected(array: Any, has_rows: bool) -> Any:
        return xp.take(array, rows, axis=0) if has_rows else array

    args = [selected(a, has_rows) for a, has_rows in zip(arrays.args, per_problem, strict=True)]
    root = arrays.root_weight
    return ResidualArrays(
        args,
        None if arrays.low is None else selected(arrays.low, True),  # noqa: FBT003
        None if arrays.high is None else selected(arrays.high, True),  # noqa: FBT003
        selected(arrays.typical, True),  # noqa: FBT003
        None if root is None else selected(root, int(root.shape[0]) > 1),
    )


@dataclass(frozen=True)
class _ArrayPlace:
    """What stands in the place of an array among the arguments."""


ARRAY_PLACE: Any = _ArrayPlace()


def choose_residuals(
    fun: Callable[..., Any],
    jac: Any,
    point: Tree,
    args: tuple[Any, ...],
    *,
    batch: int = 0,
    bounds: tuple[Tree, Tree] | None = None,
    loss: str = "linear",
    f_scale: float = 1.0,
    root_weight: Any = None,
) -> ResidualFunction | CompiledResiduals:
    """Settle how residuals are evaluated and differentiated.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: the residuals, of a batch (b, n).
    jac : callable, "autodiff", "2-point", "3-point" or None
        ``jac(x, *args)``: their derivatives, of shape (n, p), of a batch (b, n, p), or for a tree x one such
        array for each leaf; or a way to compute them. None is autodiff where the library of x has one that
        can follow `fun`, and 2-point elsewhere.
    point : tree of arrays
        The first point.
    args : tuple
        Further arguments.
    batch : {0, 1}
        How many leading axes number independent problems.
    bounds : tuple of two trees, optional
        The lowest and highest values, like the point.
    loss, f_scale : str, float
        A robust loss, by a name of `RESIDUAL_LOSSES`, and the size of a residual beyond which it bends.
    root_weight : array, optional
        The square roots of the weights, as rows.

    Returns
    -------
    ResidualFunction or CompiledResiduals
        The function of vectors (b, p).

    Raises
    ------
    TypeError, ValueError
        If `jac` is none of these, or the library cannot follow `fun`.

    Examples
    --------
    >>> import numpy as np
    >>> function = choose_residuals(lambda x: x**2 - 4.0, None, np.asarray([3.0]), ())
    >>> function.source, function.evaluate(np.asarray([[3.0]]))[1]
    ('2-point', array([12.5]))
    """
    layout = TreeLayout.of(point, batch)
    x = _as_vectors(layout, point)
    xp, row = backends.namespace(x), backends.of(x)
    size = xp.abs(x)
    typical = MIN_STEP_SHARE * xp.where(size == 0.0, xp.ones_like(size), size)
    low, high = (None, None) if bounds is None else (_as_vectors(layout, b) for b in bounds)
    given_args: Any = args
    leaves, spec = optree.tree_flatten(given_args, none_is_leaf=True)
    is_array = [backends.is_array(leaf) for leaf in leaves]
    given = [leaf for leaf, flag in zip(leaves, is_array, strict=True) if flag]
    static: Any = optree.tree_unflatten(
        spec, [ARRAY_PLACE if flag else a for a, flag in zip(leaves, is_array, strict=True)]
    )
    count = tuple(x.shape)[:1]
    per_problem = tuple(bool(batch) and tuple(a.shape)[:1] == count and a.ndim > 1 for a in given)
    arrays = ResidualArrays(given, low, high, typical, root_weight)
    function = ResidualFunction(
        fun, jac if callable(jac) else None, "jac", layout, static, arrays, per_problem, loss, f_scale
    )  # fmt: skip
    function = replace(function, source=_jacobian_source(function, jac, x))
    if row.is_traceable is None or not row.compiles:
        return function
    traceable = row.is_traceable(function.evaluate, x) and (
        function.jac is None or row.is_traceable(function.jacobian, x, function.values(x))
    )
    return CompiledResiduals.of(function) if traceable else function


def _as_vectors(layout: TreeLayout, tree: Tree) -> Array:
    vector = layout.ravel(tree)
    return vector if layout.batch else backends.namespace(vector).reshape(vector, (1, -1))


def _jacobian_source(function: ResidualFunction, jac: Any, x: Array) -> str:
    """Return where the Jacobian comes from."""
    if callable(jac):
        return "jac"
    if jac is not None:
        if not isinstance(jac, str):
            known = f"a callable, None or one of {', '.join(map(repr, KINDS))}"
            raise TypeError(f"jac must be {known}; got {type(jac).__name__}")
        as_choice("jac", jac, KINDS)
    if jac in {"2-point", "3-point"}:
        return str(jac)
    row = backends.of(x)
    if row.autodiff is not None and row.autodiff.is_differentiable(function.values, x):
        with contextlib.suppress(Exception):  # what the transform refuses, differences can do
            row.autodiff.jacobian(function.values)(x)
            return "autodiff"
    if jac == "autodiff":
        raise ValueError(
            f"jac='autodiff' cannot follow residuals of {row.name} arrays here: it needs PyTorch or JAX, and "
            f"a function that computes with x's library and branches on no value; pass jac='2-point'"
        )
    return "2-point"


def _huber(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
    inside, safe = z <= 1.0, xp.where(z <= 1.0, xp.ones_like(z), z)
    root = xp.sqrt(safe)
    zero = xp.zeros_like(z)
    return (
        xp.where(inside, z, 2.0 * root - 1.0),
        1.0 / root,
        xp.where(inside, zero, -0.5 / (safe * root)),
    )


def _soft_l1(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
    root = xp.sqrt(1.0 + z)
    return 2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3


def _cauchy(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
    inverse = 1.0 / (1.0 + z)
    return xp.log1p(z), inverse, -(inverse**2)


def _arctan(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
    inverse = 1.0 / (1.0 + z**2)
    return xp.atan(z), inverse, -2.0 * z * inverse**2


def _linear(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
    return z, xp.ones_like(z), xp.zeros_like(z)


RESIDUAL_LOSSES: dict[str, Callable[[Namespace, Array], tuple[Array, Array, Array]]] = {
    "linear": _linear,
    "soft_l1": _soft_l1,
    "huber": _huber,
    "cauchy": _cauchy,
    "arctan": _arctan,
}
"""rho(z) of a squared residual z, with its first and second derivative: the losses of SciPy's least_squares."""
