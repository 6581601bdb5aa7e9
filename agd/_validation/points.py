"""Checks of the points and the initial weights of ``agd.line``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array
from agd._validation.arrays import as_array, as_floating, has_unknown_length, match_array
from agd._validation.scalars import as_count, as_real, invalid_values_text

__all__ = ["as_line", "as_line_weights"]


def as_line(x: Any, y: Any) -> tuple[Array, Array]:
    """Check the points of a line: two arrays of shape (m,), brought to one library and dtype."""
    for name, value in (("x", x), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: x and y are given together or not at all")
    x = as_array("x", x)
    xp, where = backends.namespace(x), backends.device(x)
    if x.ndim != 1:
        raise ValueError(f"x must have shape (m,), got {tuple(x.shape)}")
    x = as_floating("x", x, xp, where)
    y = match_array("y", y, x[:, None] if backends.of(x).chunked else x, reference="x")
    if y.ndim != 1 or (x.shape != y.shape and not (has_unknown_length(x) or has_unknown_length(y))):
        raise ValueError(f"y must have the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    if x.shape[0] == 0:
        raise ValueError("x must have at least one point, got none")
    for name, points in (("x", x), ("y", y)):
        host = backends.to_numpy(points)
        bad = np.flatnonzero(~np.isfinite(host))
        if bad.size:
            first = int(bad[0])
            raise ValueError(
                invalid_values_text(name, bad.size, "NaN or infinite", (first,), float(host[first]))
            )
    return x, y


def as_line_weights(weights: object, seed: object) -> dict[str, float]:
    """Check the initial weights of a line, or draw them from a standard normal on the host."""
    if weights is None:
        if seed is not None:
            as_count("seed", seed, least=0)
        w0, w1 = np.random.default_rng(seed).standard_normal(2).tolist()  # type: ignore[arg-type]
        return {"w0": w0, "w1": w1}
    if not isinstance(weights, Mapping) or set(weights) != {"w0", "w1"}:
        raise ValueError(f"weights must be a dict with keys 'w0' and 'w1', got {weights!r}")
    numbers = {
        name: as_real(f"weights[{name!r}]", weights[name], "a number") for name in ("w0", "w1")
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"weights[{name!r}] must be finite, got {value!r}")
    return numbers
