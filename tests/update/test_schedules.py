"""Schedules: known rates, on numbers and on arrays, and the same as their peers."""

from __future__ import annotations

import numpy as np
import pytest

from agd import update
from helpers import known_values

SCHEDULES = pytest.mark.parametrize(
    "case", known_values.SCHEDULES.values(), ids=known_values.SCHEDULES
)


@SCHEDULES
def test_known_rates_of_numbers(case):
    for k, rate in case.rates.items():
        assert case.schedule(k) == pytest.approx(rate, rel=1e-14, abs=1e-300)


@SCHEDULES
def test_known_rates_of_arrays(case, xp):
    for k, rate in case.rates.items():
        got = case.schedule(xp.asarray(float(k)))
        assert got.dtype == xp.dtype
        assert got.shape == ()
        np.testing.assert_allclose(xp.to_numpy(got), rate, rtol=1e-6, atol=1e-30)


@SCHEDULES
def test_hashable_with_a_readable_name(case):
    assert hash(case.schedule) == hash(case.schedule)
    assert type(case.schedule).__name__ in repr(case.schedule)


def test_inverse_scaling_is_scikit_learns():
    eta0, power = 0.7, 0.25
    schedule = update.inverse_scaling(eta0, power)
    assert [schedule(k) for k in range(5)] == [eta0 / pow(t, power) for t in range(1, 6)]


@pytest.mark.backend("jax")
def test_agree_with_optax():
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    join = optax.join_schedules([optax.linear_schedule(0.1, 2.0, 20),
                                 optax.cosine_decay_schedule(2.0, 100)], [20])  # fmt: skip
    pairs = [
        (update.exponential(2.0, 0.9, steps=7), optax.exponential_decay(2.0, 7, 0.9)),
        (
            update.exponential(2.0, 0.9, steps=7, staircase=True),
            optax.exponential_decay(2.0, 7, 0.9, staircase=True),
        ),
        (update.cosine(2.0, 100, 0.1), optax.cosine_decay_schedule(2.0, 100, alpha=0.1)),
        (update.warm_up(2.0, 50, init=0.1), optax.linear_schedule(0.1, 2.0, 50)),
        (update.warm_up(update.cosine(2.0, 100), 20, init=0.1), join),
        (
            update.piecewise(2.0, {30: 0.5, 60: 0.1}),
            optax.piecewise_constant_schedule(2.0, {30: 0.5, 60: 0.1}),
        ),
    ]
    for ours, theirs in pairs:
        compiled = jax.jit(ours)
        for k in range(150):
            at = jnp.asarray(float(k))
            np.testing.assert_allclose(
                float(compiled(at)), float(theirs(at)), rtol=1e-12, atol=1e-15
            )
            assert float(ours(k)) == pytest.approx(float(theirs(at)), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: update.constant(-1.0), "value must be a finite number of 0 or more"),
        (lambda: update.exponential(1.0, 0.0), "rate must be a finite number above 0"),
        (lambda: update.exponential(1.0, 0.5, steps=0), "steps must be 1 or more"),
        (lambda: update.inverse_scaling(1.0, float("nan")), "power must be a finite number"),
        (lambda: update.cosine(1.0, 2.5), "steps must be a whole number"),
        (lambda: update.warm_up("fast", 10), "then must be a number"),
        (lambda: update.piecewise(1.0, [3]), "factors must map"),
        (lambda: update.piecewise(1.0, {-1: 0.5}), "a boundary in factors must be 0 or more"),
    ],
)
def test_parameters_are_checked(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
