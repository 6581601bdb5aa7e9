"""What is measured of a run in closed form: the columns that the loop would have read."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Carry, Params
from agd.gradient.objective import LinearObjective
from agd.run.row import Wanted, measured

__all__ = ["State", "View", "columns_of", "measure_path"]


class State(NamedTuple):
    """What `measured` asks of a method's state."""

    moved: Array


class Look(NamedTuple):
    """What is measured, as a compiled function's constant."""

    objective: Any
    wanted: Wanted


def measure_path(look: Look, arrays: Any, path: Any, moved: Array) -> Array:
    """Return the columns of a `Row`, as the loop in the data's dtype would have."""
    objective = look.objective if arrays is None else look.objective.with_arrays(arrays)
    total = objective.blocks.total
    xp = backends.namespace(total)
    value, moved, coef, slope = (
        xp.astype(x, total.dtype, copy=False)
        for x in (path.value, moved, path.coef, path.grad.coef)
    )
    constant = constant_slope = None
    if path.intercept is not None:
        constant = xp.astype(path.intercept, total.dtype, copy=False)
        constant_slope = xp.astype(path.grad.intercept, total.dtype, copy=False)
    # The loop sums over the rows before it divides, and that is where it overflows.
    value = xp.where(xp.isfinite(value * total), value, xp.full_like(value, math.inf))
    params, grad = Params(coef, constant), Params(slope, constant_slope)
    return columns_of(objective, look.wanted, params, value, grad, moved)


def columns_of(
    objective: Any, wanted: Wanted, params: Params, value: Array, grad: Params, moved: Array
) -> Array:
    """Return the columns of a `Row` at some points; parameters as for `measured`, `moved` as a length."""
    xp = backends.namespace(value)
    size = xp.max(xp.abs(params.coef), axis=-1)
    size = size if params.intercept is None else xp.maximum(size, xp.abs(params.intercept))
    share = moved / xp.where(size > 0.0, size, xp.ones_like(size))
    carry = Carry(params, State(share), value == value, xp.zeros_like(value))  # noqa: PLR0124
    return measured(objective, wanted, carry, value, grad, (params, None))


@dataclass(frozen=True)
class View:
    """How a run is looked at: what is measured, with the objective's arrays where that is compiled."""

    constant: Look
    arrays: Any

    @classmethod
    def of(cls, objective: LinearObjective, wanted: Wanted) -> "View":
        """Return how an objective's run is looked at."""
        if backends.of(objective.blocks.resident).compiles:
            return cls(Look(objective.with_arrays(None), wanted), objective.arrays())
        return cls(Look(objective, wanted), None)
