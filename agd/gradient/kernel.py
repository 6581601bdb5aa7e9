"""Least squares with fewer rows than columns, in dual form: the coefficients are a combination of the rows.

For centred and weighted rows Z = diag(s) (X - 1 mu') and targets r = diag(s) (y - mean), the gradient of ::

    |Z w - r|² / (2 m) + a |w|² / 2

at w = Z' u is Z' ((Z Z' + m a I) u - r) / m: it lies in the span of the rows, and so does all of descent
from w = 0. Vectors then have one entry for each row, which is cheaper where there are more columns. Kernel
conjugate gradients minimise this objective for a wide X.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Params, Tree
from agd.data.block_size import item_bytes
from agd.data.matrix import backward, forward
from agd.gradient.linear import LinearObjective
from agd.gradient.objective import ObjectiveInCoordinates
from agd.gradient.preconditioner import Scaling, batched_matvec
from agd.loss.penalties import ridge_strength

__all__ = [
    "KernelGradient",
    "KernelLeastSquares",
]

# With more rows, forming Z Z' takes longer than the products that it saves.
MAX_KERNEL_ROWS = 2000
# A block of columns is copied when it is centred, and should stay in cache.
MAX_CENTRED_BLOCK_BYTES = 8 * 2**20


def _rmatvec_block(X: Array, u: Array, _: Array | None) -> Array:
    return backward(X, u)


def _matvec_block(w: Array, X: Array, _: Array, __: Array | None) -> Array:
    return forward(X, w)


class KernelGradient(NamedTuple):
    """A gradient Z' ρ in the span of the rows: ρ, K ρ, and its size as the stopping test measures it."""

    residual: Array
    product: Array
    size: Array


@dataclass(frozen=True)
class KernelLeastSquares(ObjectiveInCoordinates):
    """The squared loss, with none or an `L2` penalty, at w = Z' u.

    All is in units of its own: rows of `length`, the root of the largest column's mean square, and
    targets of the scaling's `unit`.

    Attributes
    ----------
    base : LinearObjective
        The objective; `convergence_norm` is its scaling.
    scaling : Scaling
        The columns' centres and scales.
    sqrt_weight : array, shape (..., n), or None
        The roots of the weights.
    length : array, shape (...)
        The unit of the columns.
    kernel : array, shape (..., n, n), or None
        K = Z Z', where rows are few.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import column_scaling
    >>> base = LinearObjective.of(np.asarray([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0]]), np.asarray([1.0, 3.0]))
    >>> rows = KernelLeastSquares.of(base, column_scaling(base))
    >>> value, _ = rows.value_and_grad(rows.zeros())
    >>> float(value)  # at the mean of y
    0.5
    """

    base: LinearObjective
    scaling: Scaling
    sqrt_weight: Array | None
    length: Array
    kernel: Array | None = None

    @classmethod
    def of(cls, base: LinearObjective, scaling: Scaling) -> KernelLeastSquares:
        """Make it of an objective in memory; of few rows that are dense, K is formed."""
        weight, X = base.blocks.weight, base.blocks.X
        xp = backends.namespace(base.blocks.y)
        root = None if weight is None else xp.sqrt(weight)
        length = 1.0 / xp.min(scaling.inv_std, axis=-1)
        found = cls(base, scaling, root, length)
        if base.blocks.sparse or X.ndim > 2 or X.shape[-2] > MAX_KERNEL_ROWS:
            return found
        return replace(found, kernel=found._form_kernel())

    def _form_kernel(self) -> Array:
        """Sum (X - mu) (X - mu)' over blocks of columns: centred first, no digit is lost."""
        X, shift = self.base.blocks.X, self.scaling.mean
        xp, (n, p) = backends.namespace(X), X.shape
        step = max(1, MAX_CENTRED_BLOCK_BYTES // (n * item_bytes(X)))
        K = xp.zeros((n, n), dtype=X.dtype, device=backends.device(X))
        for j in range(0, p, step):
            k = min(j + step, p)
            Z = (X[:, j:k] - shift[None, j:k]) / self.length
            Z = Z if self.sqrt_weight is None else Z * self.sqrt_weight[:, None]
            K = K + xp.matmul(Z, xp.matrix_transpose(Z))
        return K

    @property
    def quadratic(self) -> bool:
        """Whether the objective is a quadratic: it is."""
        return True

    @property
    def ridge(self) -> Array:
        """What is added to K: m a, in these units."""
        return (
            ridge_strength(self.base.penalty) * self.base.blocks.total / (self.length * self.length)
        )

    def zeros(self) -> Array:
        """Return u = 0: the best constant model."""
        return backends.namespace(self.base.blocks.y).zeros_like(self.base.blocks.y)

    def value_and_grad(self, u: Array) -> tuple[Array, KernelGradient]:
        """Return value and gradient at w = Z' u."""
        xp, total, unit = backends.namespace(u), self.base.blocks.total, self.scaling.gradient_scale
        product = self._kernel_product(u)
        loose = product - self._centred_targets()
        grad = self.grad_of(loose + self.ridge[..., None] * u)
        square = xp.sum(loose * loose, axis=-1) + self.ridge * xp.sum(u * product, axis=-1)
        return 0.5 * unit * unit * square / total, grad

    def grad_of(self, residual: Array) -> KernelGradient:
        """Return the gradient Z' ρ for ρ."""
        if self.kernel is None:
            across = self._rmatvec(residual)
            return KernelGradient(residual, self._matvec(across), self._params_size(across))
        product = batched_matvec(self.kernel, residual)
        return KernelGradient(residual, product, self._bound_data(residual, product))

    def gain(self, decrease: Array) -> Array:
        """Return in units of the value by how much a step lowers it."""
        return 0.5 * self.scaling.gradient_scale**2 * decrease / self.base.blocks.total

    def grad_norm(self, grads: KernelGradient, params: Array) -> Array:  # noqa: ARG002
        """Return the gradient's size relative to that of the best constant model, or a bound on it."""
        return grads.size

    def report(self, u: Array, grads: KernelGradient) -> tuple[Params, Params]:
        """Return (w, b), and the gradient with respect to them."""
        xp, base = backends.namespace(u), self.base
        per_row, shift = self.scaling.gradient_scale / self.length, self.scaling.mean
        coef = per_row[..., None] * self._rmatvec(u)
        slope = self.scaling.gradient_scale * self.length / base.blocks.total
        grad = slope[..., None] * self._rmatvec(grads.residual)
        if not base.intercept:
            return Params(coef, None), Params(grad, None)
        constant = self.scaling.null_model - xp.sum(shift * coef, axis=-1)
        return Params(coef, constant), Params(grad, xp.zeros_like(constant))

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes."""
        return self.base.arrays(), self.scaling, self.sqrt_weight, self.length, self.kernel

    def with_arrays(self, arrays: Any) -> KernelLeastSquares:
        """Return the same objective over other arrays."""
        parts: tuple[Any, ...] = (None,) * 5 if arrays is None else arrays
        return KernelLeastSquares(self.base.with_arrays(parts[0]), *parts[1:])

    def _centred_targets(self) -> Array:
        y = self.base.blocks.y - self.scaling.null_model[..., None]
        y = y / self.scaling.gradient_scale[..., None]
        return y if self.sqrt_weight is None else y * self.sqrt_weight

    def _kernel_product(self, u: Array) -> Array:
        return (
            self._matvec(self._rmatvec(u))
            if self.kernel is None
            else batched_matvec(self.kernel, u)
        )

    def _rmatvec(self, u: Array) -> Array:
        """Return Z' u."""
        u = u if self.sqrt_weight is None else u * self.sqrt_weight
        xp = backends.namespace(u)
        sums: Array = self.base.blocks.replace(y=u, weight=None).sum(_rmatvec_block)
        if self.base.intercept:
            sums = sums - self.scaling.mean * xp.sum(u, axis=-1)[..., None]
        return sums / self.length[..., None]

    def _matvec(self, w: Array) -> Array:
        """Return Z w."""
        xp = backends.namespace(w)
        z = xp.concat(self.base.blocks.map(functools.partial(_matvec_block, w)), axis=-1)
        if self.base.intercept:
            z = z - xp.sum(self.scaling.mean * w, axis=-1)[..., None]
        z = z / self.length[..., None]
        return z if self.sqrt_weight is None else z * self.sqrt_weight

    def _params_size(self, across: Array) -> Array:
        """Return the largest entry of the gradient in centred and scaled coordinates."""
        xp = backends.namespace(across)
        slope = self.length / self.base.blocks.total
        return slope * xp.max(xp.abs(self.scaling.inv_std * across), axis=-1)

    def _bound_data(self, residual: Array, product: Array) -> Array:
        """Return no less than that, without the columns: by the gradient's length, or by that of ρ."""
        xp, total = backends.namespace(residual), self.base.blocks.total
        square = backends.clip(xp.sum(residual * product, axis=-1), low=0.0)
        widest = xp.max(self.scaling.inv_std, axis=-1)
        by_length = widest * self.length * xp.sqrt(square) / total
        return xp.minimum(by_length, xp.sqrt(xp.sum(residual * residual, axis=-1) / total))
