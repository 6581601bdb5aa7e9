"""What the penalties that have a prox in place of a gradient share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from agd import backends
from agd._typing import Array

__all__ = ["NonSmooth", "beside", "root", "soft_threshold"]


class NonSmooth:
    """A penalty without a gradient somewhere: `smooth` and `curvature` say so, and `grad` raises."""

    smooth: ClassVar[bool] = False

    @property
    def curvature(self) -> float | None:
        """The largest second derivative: there is none."""
        return None

    def grad(self, w: Array) -> Array:
        """Raise: the penalty is left to `prox`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no gradient at some w of shape {tuple(w.shape)}: use its prox"
        )


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """Return sign(w) max(|w| - threshold, 0), entry by entry: exactly 0 within the threshold."""
    # Not by sign(w), which the torch namespace cannot map over a batch.
    return backends.clip(w - threshold, low=0.0) + backends.clip(w + threshold, high=0.0)


def root(squares: Array) -> Array:
    """Return the square root of numbers of 0 or more; by autodiff 0 where they are 0, not infinite."""
    xp = backends.namespace(squares)
    some = squares > 0.0
    return xp.where(some, xp.sqrt(xp.where(some, squares, xp.ones_like(squares))), squares)


def beside(data: Any, w: Array) -> Array:
    """Return numbers of the host in the library, on the device and in the dtype of w."""
    host = np.asarray(data).astype(str(w.dtype).rpartition(".")[2])
    return backends.of(w).convert(backends.namespace(w), host, w.dtype, backends.device(w))
