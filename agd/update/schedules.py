"""Learning rate schedules: functions from the number k of the update, counted from 0, to the learning rate.

A schedule is a hashable callable of k, a Python number or an array of any library. It can be traced by ``jax.jit``
and never reads a value on the host. The rules of ``agd.update`` take one in place of a constant rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from agd import backends
from agd._validation import as_count, as_nonnegative, as_positive

__all__ = ["constant", "cosine", "exponential", "inverse_scaling", "piecewise", "warm_up"]

Step: TypeAlias = Any
"""A step count: a Python number, or an array of the params' float dtype."""

Schedule: TypeAlias = Callable[[Step], Any]


def _is_array(k: Step) -> bool:
    return backends.is_array(k)


def _select_value(condition: Any, yes: Any, no: Any, k: Step) -> Any:
    if not _is_array(k):
        return yes if condition else no
    # Adding an array of zeros makes arrays of both values, since some namespaces' `where` takes no numbers.
    zero = backends.namespace(k).zeros_like(k)
    return backends.namespace(k).where(condition, yes + zero, no + zero)


@dataclass(frozen=True)
class constant:  # noqa: N801 - called like the functions of optax and PyTorch
    """A constant rate, lr(k) = value.

    Parameters
    ----------
    value : float
        The rate, 0 or more.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        """Check the rate."""
        as_nonnegative("value", self.value)

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        # The sum gives the rate the dtype and the device of k.
        return self.value if not _is_array(k) else self.value + 0.0 * k


@dataclass(frozen=True)
class exponential:  # noqa: N801 - as above
    """Exponential decay, lr(k) = init rate^(k / steps).

    Parameters
    ----------
    init : float
        The first rate.
    rate : float
        The factor by which the rate is multiplied every `steps` steps; above 0.
    steps : int
        The number of steps over which the rate changes by one factor.
    staircase : bool
        Whether k / steps is rounded down, so that the rate is piecewise constant.

    Notes
    -----
    optax.exponential_decay, and with ``steps=1`` torch.optim.lr_scheduler.ExponentialLR.

    Examples
    --------
    >>> exponential(1.0, 0.5, steps=10)(20)
    0.25
    """

    init: float
    rate: float
    steps: int = 1
    staircase: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        as_nonnegative("init", self.init)
        as_positive("rate", self.rate)
        as_count("steps", self.steps)

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        turns = k / self.steps
        if self.staircase:
            turns = backends.namespace(k).floor(turns) if _is_array(k) else math.floor(turns)
        return self.init * self.rate**turns


@dataclass(frozen=True)
class inverse_scaling:  # noqa: N801 - as above
    """Inverse scaling, lr(k) = init / (k + 1)^power.

    Parameters
    ----------
    init : float
        The first rate.
    power : float
        The exponent, 0 or more. Robbins and Monro's conditions hold for 0.5 < power <= 1.

    Notes
    -----
    scikit-learn's ``learning_rate="invscaling"``, eta0 / t^power_t, with t = k + 1. Robbins and Monro
    (1951), "A stochastic approximation method", Annals of Mathematical Statistics 22.

    Examples
    --------
    >>> inverse_scaling(1.0, power=0.5)(3)
    0.5
    """

    init: float
    power: float = 0.5

    def __post_init__(self) -> None:
        """Check the parameters."""
        as_nonnegative("init", self.init)
        as_nonnegative("power", self.power)

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        return self.init / (k + 1.0) ** self.power


@dataclass(frozen=True)
class cosine:  # noqa: N801 - as above
    """Cosine annealing from `init` to `floor` init, then a constant rate.

    ::

        lr(k) = init (floor + (1 - floor) (1 + cos(pi min(k, steps) / steps)) / 2)

    Parameters
    ----------
    init : float
        The first rate.
    steps : int
        The number of steps of the annealing.
    floor : float
        The final rate as a share of `init`, 0 or more.

    Notes
    -----
    Loshchilov and Hutter (2017), "SGDR: stochastic gradient descent with warm restarts"; the same as
    optax.cosine_decay_schedule with alpha = floor.

    Examples
    --------
    >>> cosine(1.0, steps=10)(5), cosine(1.0, steps=10, floor=0.1)(10)
    (0.5, 0.1)
    """

    init: float
    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        as_nonnegative("init", self.init)
        as_count("steps", self.steps)
        as_nonnegative("floor", self.floor)

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        if _is_array(k):
            xp = backends.namespace(k)
            fall: Any = 0.5 * (
                1.0 + xp.cos(math.pi * (backends.clip(k, high=float(self.steps)) / self.steps))
            )
        else:
            fall = 0.5 * (1.0 + math.cos(math.pi * (min(k, self.steps) / self.steps)))
        return self.init * ((1.0 - self.floor) * fall + self.floor)


@dataclass(frozen=True)
class warm_up:  # noqa: N801 - as above
    """Linear warm-up to a rate or a schedule, lr(k) = init + (then(0) - init) k / steps for k < steps.

    From step `steps` on the rate is then(k - steps).

    Parameters
    ----------
    then : float or schedule
        The rate after the warm-up, or the schedule that follows it.
    steps : int
        The number of steps of the warm-up.
    init : float
        The first rate.

    Notes
    -----
    Goyal et al. (2017), "Accurate, large minibatch SGD"; with a number the same as
    optax.linear_schedule.

    Examples
    --------
    >>> schedule = warm_up(cosine(1.0, steps=10), steps=4)
    >>> schedule(0), schedule(2), schedule(4), schedule(9)
    (0.0, 0.5, 1.0, 0.5)
    """

    then: float | Schedule
    steps: int
    init: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not callable(self.then):
            as_nonnegative("then", self.then)
        as_count("steps", self.steps)
        as_nonnegative("init", self.init)

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        peak = self.then(0 * k) if callable(self.then) else self.then
        rise = self.init + (peak - self.init) * (k / self.steps)
        late = self.then(_clip_to_zero(k - self.steps)) if callable(self.then) else self.then
        return _select_value(k < self.steps, rise, late, k)


def _clip_to_zero(k: Step) -> Any:
    """Return max(k, 0): where k is an array, both branches are evaluated, and a schedule is defined for k >= 0."""
    return backends.clip(k, low=0.0) if _is_array(k) else max(k, 0)


@dataclass(frozen=True, init=False)
class piecewise:  # noqa: N801 - as above
    """A piecewise constant rate, which is multiplied by a factor at each boundary.

    ::

        lr(k) = init Π factor_b over the boundaries b <= k

    Parameters
    ----------
    init : float
        The first rate.
    factors : mapping of int to float
        The factor, 0 or more, of each boundary, a number of steps.

    Notes
    -----
    optax.piecewise_constant_schedule; with one factor for all boundaries
    torch.optim.lr_scheduler.MultiStepLR.

    Examples
    --------
    >>> schedule = piecewise(1.0, {10: 0.1})
    >>> schedule(9), schedule(10)
    (1.0, 0.1)
    """

    init: float
    factors: tuple[tuple[int, float], ...]

    def __init__(self, init: float, factors: Mapping[int, float]) -> None:
        as_nonnegative("init", init)
        if not isinstance(factors, Mapping):
            raise TypeError(f"factors must map steps to factors, got {factors!r}")
        for boundary, factor in factors.items():
            as_count("a boundary in factors", boundary, least=0)
            as_nonnegative(f"the factor at {boundary}", factor)
        object.__setattr__(self, "init", init)
        object.__setattr__(self, "factors", tuple(sorted(factors.items())))

    def __call__(self, k: Step) -> Any:
        """Return the rate at step k."""
        rate: Any = self.init
        for boundary, factor in self.factors:
            rate = rate * _select_value(k >= boundary, factor, 1.0, k)
        return rate
