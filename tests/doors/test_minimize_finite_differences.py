"""Runs on finite differences: they end converged, near where an exact gradient would have ended."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status
from helpers import known_minima
from helpers.quadratic_bowl import CountedFunction

TOLERANCE = np.finfo(np.float64).eps ** (1 / 3)


def powell(x):
    return (
        (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4
        + 10 * (x[0] - x[3]) ** 4
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fun", "n", "most"),
    [(known_minima.rosenbrock, 2, 200), (known_minima.rosenbrock, 8, 950), (powell, 4, 450)],
)
def test_every_start_ends_converged_without_calls_in_the_noise(fun, n, most):
    calls = []
    for seed in range(20):
        counted = CountedFunction(fun)
        found = agd.minimize(counted, np.random.default_rng(seed).normal(size=n))
        assert found.status is Status.CONVERGED, found.message
        assert found.nfev == counted.calls
        calls.append(found.nfev)
    assert np.mean(calls) < most


@pytest.mark.parametrize("door", [agd.minimize, agd.maximize])
def test_a_far_minimum_is_confirmed_by_central_differences(door):
    """The one-sided step grows with x, and so does its error: 0.015 here."""
    sign = 1.0 if door is agd.minimize else -1.0
    found = door(lambda x: sign * np.sum((x - 1e6) ** 2), np.zeros(2), certify=True)
    assert (found.status, found.certificate.kind == "minimum") == (
        Status.CONVERGED,
        door is agd.minimize,
    )
    assert np.abs(2.0 * (found.x - 1e6)).max() <= 2.0 * TOLERANCE


def test_a_batch_goes_on_where_one_sided_differences_say_no_more():
    def fun(x):
        return np.sum((x - np.asarray([[1.0], [1e6], [3.0]])) ** 2, axis=-1)

    counted = CountedFunction(fun)
    found = agd.minimize(counted, np.zeros((3, 2)), batch=1)
    assert found.success.all()
    np.testing.assert_allclose(found.x[:, 0], [1.0, 1e6, 3.0], atol=1e-5)
    assert found.nfev.max() <= counted.calls


def test_a_large_value_loosens_the_default_and_says_so():
    found = agd.minimize(lambda x: 1e9 + np.sum((x - 1.0) ** 2), np.zeros(3))
    assert found.success
    assert 0.01 < found.certificate.tolerance < 1.0
    assert found.grad_norm <= found.certificate.tolerance
    asked = agd.minimize(
        lambda x: 1e9 + np.sum((x - 1.0) ** 2), np.zeros(3), stop=agd.GradTol(1e-12)
    )
    assert asked.certificate.tolerance == 1e-12


def test_a_wrong_gradient_is_still_a_failure():
    found = agd.minimize(
        known_minima.rosenbrock, [-1.2, 1.0], jac=lambda x: -known_minima.rosenbrock_grad(x)
    )
    assert found.status is Status.LINE_SEARCH
    assert "check_gradient" in found.message
