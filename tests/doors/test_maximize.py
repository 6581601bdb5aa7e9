"""`agd.maximize`, and the kind of point that ``certify=True`` names."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Stop
from helpers import known_minima
from helpers.quadratic_bowl import (
    CountedFunction,
    assert_close,
    bowl,
    bowl_gradient,
    entry_sum,
    frequent_checks,
)

# -- maximising -----------------------------------------------------------------------------------


def hill(x):
    return 5.0 - bowl(x)


def hill_slope(x):
    return -bowl_gradient(x)


def test_the_result_is_of_the_function_that_was_given(xp):
    seen = []

    def look(intermediate_result):
        seen.append(intermediate_result.fun)

    x0 = xp.asarray([0.0, 5.0])
    found = agd.maximize(
        hill, x0, jac=hill_slope, method="steepest_descent", callback=look, stop=Stop(check_every=1)
    )
    assert found.success
    assert_close(xp, found.x, [3.0, 3.0], digits=4)
    assert found.fun == pytest.approx(5.0, abs=1e-5)
    assert_close(xp, found.jac, -2.0 * (xp.to_numpy(found.x) - 3.0))
    assert found.history.value[0] == pytest.approx(-8.0)
    assert (np.diff(found.history.value) >= -1e-6).all()  # it rises, as the function does
    assert seen == found.history.value[1:].tolist()


def test_without_a_gradient_and_with_one_by_the_function():
    for fun, jac in ((hill, None), (hill, "3-point"), (lambda x: (hill(x), hill_slope(x)), True)):
        found = agd.maximize(fun, [0.0, 5.0], jac=jac)
        np.testing.assert_allclose(found.x, 3.0, atol=1e-5)
        assert found.fun == pytest.approx(5.0)


def test_bounds_are_those_of_the_minimum_of_the_negative():
    bounds = [(0, 2), (0, 2)]
    down = agd.minimize(known_minima.booth, [0.0, 0.0], bounds=bounds)
    up = agd.maximize(lambda x: -known_minima.booth(x), [0.0, 0.0], bounds=bounds)
    np.testing.assert_array_equal(up.x, down.x)
    assert (up.fun, up.nfev, up.nit) == (-down.fun, down.nfev, down.nit)
    np.testing.assert_array_equal(up.history.value, -down.history.value)
    np.testing.assert_array_equal(up.jac, -down.jac)


def test_a_penalty_is_taken_off():
    # -½|x - 3|² - |x| has its maximum where the bowl_gradient of the first, 3 - x, is 1.
    found = agd.maximize(lambda x: -0.5 * bowl(x), [0.0, 9.0], penalty=agd.loss.L1(1.0))
    np.testing.assert_allclose(found.x, 2.0, atol=1e-5)
    assert found.fun == pytest.approx(-0.5 * 2 - 4.0)
    # -½|x - 3|² - ½|x|²: half way.
    smooth = agd.maximize(lambda x: -0.5 * bowl(x), [0.0, 9.0], penalty=agd.loss.L2(1.0))
    np.testing.assert_allclose(smooth.x, 1.5, atol=1e-5)
    assert smooth.fun == pytest.approx(-(1.5**2) - 1.5**2)


def test_a_batch():
    found = agd.maximize(lambda x: -np.sum((x - 3.0) ** 2, axis=-1), np.zeros((3, 2)), batch=1)
    np.testing.assert_allclose(found.x, 3.0, atol=1e-5)
    np.testing.assert_allclose(found.fun, 0.0, atol=1e-9)
    assert (found.history.value[0] == -18.0).all()


def test_a_function_without_a_ceiling_is_said():
    found = agd.maximize(entry_sum, [1.0, 2.0], jac=np.ones_like)
    assert found.status is agd.Status.UNBOUNDED
    assert found.fun > 1e15


# -- the kind of point ----------------------------------------------------------------------------


ridge, ridge_grad = known_minima.saddle, known_minima.saddle_grad


@pytest.mark.parametrize("jac", [ridge_grad, "3-point"])
def test_a_saddle_is_named_on_every_library(jac, xp):
    """On the ridge the gradient points along it, so that plain descent ends in the saddle."""
    found = agd.minimize(
        ridge,
        xp.asarray([1.0, 0.0]),
        jac=jac,
        method="steepest_descent",
        certify=True,
        stop=frequent_checks(xp),
    )
    assert found.certificate.kind == "saddle"
    rtol = 1e-5 if xp.rtol < 1e-6 else 0.02
    np.testing.assert_allclose(found.certificate.curvature, 2.0, rtol=rtol)
    np.testing.assert_allclose(found.certificate.least_curvature, -2.0, rtol=rtol)
    assert found.certificate.condition is None


def test_minima_and_maxima_of_both_doors():
    certificate = agd.minimize(known_minima.booth, [0.0, 0.0], certify=True).certificate
    assert (certificate.kind, certificate.source) == ("minimum", "Hessian")
    # Booth's Hessian is ((10, 8), (8, 10)).
    np.testing.assert_allclose(certificate.curvature, 18.0, rtol=1e-4)
    np.testing.assert_allclose(certificate.least_curvature, 2.0, rtol=1e-3)
    np.testing.assert_allclose(certificate.condition, 9.0, rtol=1e-3)
    np.testing.assert_allclose(certificate.largest_step, 2.0 / 18.0, rtol=1e-4)
    upside_down = agd.maximize(
        lambda x: -known_minima.booth(x), [0.0, 0.0], certify=True
    ).certificate
    assert upside_down.kind == "maximum"
    np.testing.assert_allclose(upside_down.curvature, 18.0, rtol=1e-4)  # those of the negative
    flat = agd.minimize(lambda x: entry_sum(x**4), [0.0, 0.0], certify=True).certificate
    assert flat.kind == "degenerate"


@pytest.mark.parametrize("jac", [known_minima.rosenbrock_grad, "2-point", "3-point", None])
@pytest.mark.parametrize("x0", [(0.0, 0.0), (-1.2, 1.0), (2.0, 2.0), (-3.0, -4.0)])
def test_what_converged_is_critical(jac, x0):
    """The 2-point gradient that was small enough may be of a point where a better one is not."""
    found = agd.minimize(known_minima.rosenbrock, x0, jac=jac, certify=True)
    assert found.success
    assert found.certificate.kind == "minimum"


def test_a_looser_limit_says_what_is_critical():
    for stop in (agd.GradTol(1e-2), agd.GradTol(0.0, rtol=1e-3), agd.GradTol([1e-2])):
        x0 = [np.zeros(2)] if isinstance(stop.atol, list) else np.zeros(2)

        def fun(x):
            return known_minima.rosenbrock(x[0] if isinstance(x, list) else x)

        found = agd.minimize(fun, x0, stop=stop, certify=True)
        assert found.success
        assert found.grad_norm > 1e-4  # more than `critical_point` asks for by itself
        assert agd.critical_point(fun, found.x).kind == "not critical"
        assert found.certificate.kind == "minimum"
    early = agd.minimize(known_minima.rosenbrock, x0[0], stop=Stop(max_iter=3), certify=True)
    assert early.certificate.kind == "not critical"


def test_a_smooth_penalty_is_part_of_the_function():
    # x² - y² + 3/2 |(x, y)|² has a minimum where x² - y² has a saddle.
    held, level = agd.loss.L2(3.0), agd.loss.L2(2.0)
    for jac in (ridge_grad, "3-point", None):
        found = agd.minimize(ridge, [1.0, 0.0], jac=jac, penalty=held, certify=True).certificate
        assert found.kind == "minimum"
        ends = (found.least_curvature, found.curvature)
        np.testing.assert_allclose(ends, (1.0, 5.0), rtol=1e-4)
        flat = agd.minimize(ridge, [1.0, 0.0], jac=jac, penalty=level, certify=True)
        assert flat.certificate.kind == "degenerate"
    for jac in (lambda x: -ridge_grad(x), None):
        found = agd.maximize(
            lambda x: -ridge(x), [1.0, 0.0], jac=jac, penalty=held, certify=True
        ).certificate
        assert found.kind == "maximum"
        ends = (found.least_curvature, found.curvature)
        np.testing.assert_allclose(ends, (1.0, 5.0), rtol=1e-4)


def test_its_calls_are_not_counted():
    fun = CountedFunction(known_minima.booth)
    found = agd.minimize(fun, [0.0, 0.0], certify=True)
    assert found.nfev == agd.minimize(known_minima.booth, [0.0, 0.0]).nfev < fun.calls


def test_where_second_derivatives_say_nothing():
    for kwargs in (
        {"bounds": [(0, 1)] * 2},
        {"penalty": agd.loss.L1(1.0)},
        {"batch": 1},
    ):
        with pytest.raises(
            ValueError, match=r"certify=True.*bounds, a penalty with a prox, or batch"
        ):
            agd.minimize(known_minima.booth, [0.0, 0.0], certify=True, **kwargs)
