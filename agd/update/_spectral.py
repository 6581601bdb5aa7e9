"""What the methods with steps of Barzilai and Borwein on a composite function share."""

from __future__ import annotations

from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array
from agd.update._composite import Point, share_moved
from agd.update._vector import dot, over

__all__ = ["DECREASE", "GROWTH", "filled", "latest", "nothing", "seen", "spectral"]

DECREASE = 1e-4  # the share of the decrease to first order that is enough
GROWTH = 4.0  # a step grows so much where the curvature seen is not positive


class Seen(NamedTuple):
    """The counts and curvatures that both states carry, shape (...)."""

    iterations: Array
    evaluations: Array
    failed: Array
    moved: Array
    curvature: Array
    least_curvature: Array
    walled: Array


def nothing(value: Array, evaluations: int) -> Seen:
    """Return the fields of `Seen` before the first trial."""
    xp = backends.namespace(value)
    zero = xp.zeros_like(value)
    no = xp.zeros_like(value, dtype=xp.bool)
    return Seen(zero, zero + evaluations, no, zero, zero, zero, no)


def seen(state: Any, old: Point, new: Point, taken: Array, stuck: Array) -> dict[str, Array]:
    """Return the fields of `Seen` after a trial."""
    xp = backends.namespace(old.value)
    s = new.x - old.x
    along = over(dot(s, new.g - old.g), dot(s, s))
    along = xp.where(taken & (along > 0.0), along, xp.zeros_like(along))
    known = xp.where(state.least_curvature > 0.0, state.least_curvature, along)
    return {
        "iterations": state.iterations + xp.astype(taken, old.value.dtype),
        "evaluations": state.evaluations + 1.0,
        "failed": state.failed | stuck,
        "moved": xp.where(taken, share_moved(new.x, old.x), state.moved),
        "curvature": xp.maximum(state.curvature, along),
        "least_curvature": xp.where(along > 0.0, xp.minimum(known, along), known),
        "walled": (state.walled | ~xp.isfinite(new.value)) & (stuck | ~taken),
    }


def filled(value: Array, memory: int) -> Array:
    """Return the first value, as often as values are remembered, shape (..., memory)."""
    xp = backends.namespace(value)
    more = xp.zeros((*value.shape, memory), dtype=value.dtype, device=backends.device(value))
    return value[..., None] + more


def latest(recent: Array, value: Array) -> Array:
    """Drop the oldest of the last few values, and add one."""
    xp = backends.namespace(value)
    return xp.concat([recent[..., 1:], value[..., None]], axis=-1)


def spectral(s: Array, y: Array, otherwise: Array) -> Array:
    """Return the step of Barzilai and Borwein, s · s / s · y; `otherwise` where s · y is not above 0."""
    xp = backends.namespace(s)
    bend = dot(s, y)
    step = over(dot(s, s), bend)
    return xp.where(bend > 0.0, backends.clip(step, 1e-20, 1e20), otherwise)
