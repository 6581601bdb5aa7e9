"""Mini-batches: which rows a step looks at, and how curved their mean can be."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count
from agd.gradient.rows import batch_curvature, row_count, take_rows
from agd.update._vector import dot, flatten, largest, over

__all__ = [
    "check_sampling",
    "curvature_seen",
    "drawn_rows",
    "finite",
    "mini_batches",
    "nonsmooth",
    "whole",
]

LEAST_BATCH, MOST_BATCHES = 32, 500
PROBES = 4  # mini-batches whose curvature is measured where there is no bound


def check_sampling(batch_size: int | None, seed: int) -> None:
    if batch_size is not None:
        count("batch_size", batch_size)
    count("seed", seed, least=0)


def mini_batches(objective: Any, batch_size: int | None, name: str) -> tuple[int, int]:
    """Return the rows of a mini-batch and how many of them there are in an epoch."""
    rows = row_count(objective)
    if rows is None:
        raise ValueError(
            f"{name} draws mini-batches of rows, but this objective has no rows to take: for a "
            f"function pass args whose arrays share their first axis; a Dask array's rows lie in "
            f"chunks, and a stream's in batches, so bring them into memory (X.compute()) or use "
            f"method='auto'"
        )
    size = max(LEAST_BATCH, -(-rows // MOST_BATCHES)) if batch_size is None else batch_size
    size = min(size, rows)
    return size, rows // size


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, rows: int, size: int) -> Any:
    """Return the mini-batches of an epoch, shape (rows // size, size)."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    kind = np.int32 if rows < 2**31 else np.int64
    return order[: rows // size * size].reshape(-1, size).astype(kind)


def drawn_rows(objective: Any, size: int, batches: int, seed: int, first: int, n: int) -> Array:
    """Return the rows of the steps first, ..., first + n - 1, shape (n, size), beside the data."""
    rows: Any = row_count(objective)
    epochs = range(first // batches, -(-(first + n) // batches))
    drawn = np.concatenate([_epoch(seed, epoch, rows, size) for epoch in epochs])
    start = first - first // batches * batches
    return _beside(drawn[start : start + n], objective)


def _beside(host: Any, objective: Any) -> Array:
    """Move host data to where the objective's arrays are."""
    like = next(a for a in optree.tree_leaves(objective.arrays()) if backends.is_array(a))
    xp = backends.namespace(like)
    kind = getattr(xp, str(host.dtype))
    return backends.of(like).convert(xp, host, kind, backends.device(like))


def whole(objective: Any, params: Tree) -> tuple[Array, Tree]:
    """Return the objective with all of its penalty, and the gradient of its smooth part."""
    value, grad = objective.value_and_grad(params)
    return (value + objective.penalty_value(params) if nonsmooth(objective) else value), grad


def nonsmooth(objective: Any) -> bool:
    return bool(getattr(objective, "nonsmooth", False))


def finite(tree: Tree, batch: int) -> Array:
    xp = backends.namespace(optree.tree_leaves(tree)[0])
    return xp.isfinite(xp.sum(xp.abs(flatten(tree, batch)[0]), axis=-1))


def curvature_seen(objective: Any, params: Tree, size: int, batches: int, seed: int) -> Array:
    """Return the curvature that mini-batches show: its bound, or what a few of them measure here.

    A measured one is the largest |Hv| / |v| that power iteration on differences of gradients finds, over
    a few mini-batches of the first epoch.
    """
    bound = batch_curvature(objective, size)
    if bound is not None:
        return bound
    probes = drawn_rows(objective, size, batches, seed, 0, min(PROBES, batches))
    seen = [_measured(take_rows(objective, probes[i, :]), params) for i in range(probes.shape[0])]
    xp = backends.namespace(seen[0])
    found = functools.reduce(xp.maximum, seen)
    usable = xp.isfinite(found) & (found > 0.0)
    return xp.where(usable, found, xp.ones_like(found))


def _measured(objective: Any, params: Tree, iterations: int = 6) -> Array:
    """Return the largest |g(x + h v) - g(x)| / h that a few power iterations find, |v| = 1."""
    value, grad = objective.value_and_grad(params)
    batch, xp = value.ndim, backends.namespace(value)
    x, restore = flatten(params, batch)
    g, _ = flatten(grad, batch)
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * (1.0 + largest(x))[..., None]
    rng = np.random.default_rng(0)
    host = rng.standard_normal(tuple(x.shape)).astype(str(x.dtype).rpartition(".")[2])
    v = backends.of(x).convert(xp, host, x.dtype, backends.device(x))
    size = xp.zeros_like(value)
    for _ in range(iterations):
        v = over(v, xp.sqrt(dot(v, v))[..., None] + 0.0 * v)
        near, _ = flatten(objective.value_and_grad(_inside(objective, restore, x, h * v))[1], batch)
        v = (near - g) / h
        size = xp.maximum(size, xp.sqrt(dot(v, v)))
    return size


def _inside(objective: Any, restore: Any, x: Array, s: Array) -> Tree:
    """Return x + s; an entry that the bounds would cut goes the other way, as far as they allow."""
    bounds = getattr(objective, "bounds", None)
    if bounds is None:
        return restore(x + s)
    ahead, back = bounds.project(restore(x + s)), bounds.project(restore(x - s))
    return optree.tree_map(_farther, restore(x), ahead, back)


def _farther(x: Array, a: Array, b: Array) -> Array:
    xp = backends.namespace(x)
    return xp.where(xp.abs(a - x) >= xp.abs(b - x), a, b)
