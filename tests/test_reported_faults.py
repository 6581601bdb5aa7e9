"""Faults that users reported of libraries that do this work: a section a room, a row a case, the kind in words.

Each row holds the right value, or the status that says what is wrong, and its siblings. New rows go to the end
of a section, new sections to the end of the file.
"""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status

# -- minimize: a function without a minimum is never a success -----------------------------------

WITHOUT_MINIMUM = {
    "a falling line": (lambda x: -x[0], [0.0]),
    "a rising line": (lambda x: 2.0 * x[0], [0.3]),
    "a parabola upside down": (lambda x: -(x[0] ** 2), [0.1]),
    "a plane": (lambda x: x[0] - 3.0 * x[1], [1.0, 1.0]),
    "a log-likelihood with the wrong sign": (
        lambda x: -np.sum((np.asarray([1.0, 2.0, 4.0]) - x[0]) ** 2),
        [0.5],
    ),
    "a fourth power upside down": (lambda x: -np.sum(x**4), [1.0, -1.0]),
    "a saddle": (lambda x: x[0] ** 2 - x[1] ** 2, [1.0, 0.1]),
    "an offset that hides the slope's rounding": (lambda x: 1e9 - x[0], [0.0]),
}


@pytest.mark.parametrize("jac", [None, "2-point", "3-point"])
@pytest.mark.parametrize("name", WITHOUT_MINIMUM)
def test_functions_that_fall_for_ever_are_unbounded_by_differences(name, jac):
    fun, x0 = WITHOUT_MINIMUM[name]
    result = agd.minimize(fun, np.asarray(x0), jac=jac)
    assert (result.status, result.success) == (Status.UNBOUNDED, False)
    result = agd.maximize(lambda x: -fun(x), np.asarray(x0), jac=jac)
    assert (result.status, result.success) == (Status.UNBOUNDED, False)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e8])
def test_a_function_of_small_values_is_no_nearer_to_its_minimum(scale):
    def fun(x):
        return scale * ((x[0] - 3.0) ** 2 + 2.0 * (x[1] + 1.0) ** 2 + (x[0] - 3.0) ** 4)

    result = agd.minimize(fun, np.zeros(2))
    assert result.success
    np.testing.assert_allclose(result.x, [3.0, -1.0], rtol=0.02)


# -- minimize: bounds ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.5, 1e-3])
@pytest.mark.parametrize("rate", [1e2, 1129.2, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_point_near_its_bound_is_not_stationary_for_being_near(dtype, rate, start):
    """The rate of waiting times: the bound is at 0, and the distance to it is a small number."""
    rate = float(dtype(rate))
    result = agd.minimize(
        lambda x: dtype(-np.log(x[0]) + x[0] * dtype(rate)),
        np.asarray([start], dtype),
        jac=lambda x: (dtype(rate) - 1 / x).astype(dtype),
        bounds=[(1e-12, None)],
    )
    assert result.success
    np.testing.assert_allclose(result.x, 1.0 / rate, rtol=1e-3 if dtype is np.float32 else 1e-6)


IN_A_BOX = {
    "a rate": (lambda x: -np.log(x[0]) + x[0] * 1129.2, [0.5], [(1e-12, None)], [1 / 1129.2], 150),
    "a small rate": (lambda x: -np.log(x[0]) + x[0] * 1e6, [0.5], [(1e-12, None)], [1e-6], 250),
    "a variance": (lambda x: 25 * np.log(x[0]) + 2e-3 / x[0], [1.0], [(1e-10, None)], [8e-5], 500),
    "a share": (
        lambda x: -3 * np.log(x[0]) - 997 * np.log1p(-x[0]), [0.5], [(1e-9, 1 - 1e-9)], [3e-3], 150,
    ),
    "a bound that holds": (
        lambda x: np.sum((x - np.asarray([-1.0, 2.0])) ** 2), [1.0, 1.0], [(0, None)] * 2, [0, 2], 50,
    ),
    "a bend in a box": (
        lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0],
        [(None, 0.5), (None, None)], [0.5, 0.25], 250,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_A_BOX)
def test_runs_by_differences_within_bounds_end_at_the_answer(name):
    fun, x0, bounds, right, most = IN_A_BOX[name]
    low, high = np.asarray(bounds, dtype=float).T
    calls = 0

    def counted(x):
        nonlocal calls
        calls += 1
        assert not np.any(x < low), x
        assert not np.any(x > high), x
        return float(fun(x))

    result = agd.minimize(counted, np.asarray(x0), bounds=bounds)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, right, rtol=1e-6, atol=1e-9)
    assert calls == result.nfev <= most


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_a_kink_that_is_near_is_no_minimum(scale):
    """A penalty's kink at 0, beside values of x of any size: the distance to it is no gradient."""
    weight = 1.0 / scale
    result = agd.minimize(
        lambda x: weight * np.sum((x / scale - 1.0) ** 2) * 0.5,
        np.asarray([0.5 * scale]),
        jac=lambda x: weight * (x / scale - 1.0) / scale,
        penalty=agd.loss.L1(0.25 * weight / scale),
        method="proximal_gradient",
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 0.75 * scale, rtol=1e-5)
