"""`agd.minimize` given what it cannot use: one clear error, or a clear end of the run."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agd
from agd import Status, Stop, backends
from helpers.quadratic_bowl import frequent_checks


def total(x):
    return backends.namespace(x).sum(x)


def bowl(x):
    """The squared distance to 1: the minimum is 0 there."""
    return total((x - 1.0) ** 2)


def slope(x):
    return 2.0 * (x - 1.0)


# -- x0 --------------------------------------------------------------------------------------------


def test_whole_numbers_become_floats(xp):
    found = agd.minimize(bowl, xp.asarray(np.asarray([4, -2])), jac=slope, stop=frequent_checks(xp))
    assert str(found.x.dtype).rpartition(".")[2] in {"float32", "float64"}
    np.testing.assert_allclose(xp.to_numpy(found.x), 1.0, rtol=1e-5)


def test_a_number_is_a_point_of_no_axes(xp):
    found = agd.minimize(bowl, xp.asarray(np.asarray(5.0)), jac=slope, method="accelerated")
    assert found.x.shape == ()
    assert float(xp.to_numpy(found.x)) == pytest.approx(
        1.0, abs=1e-3 if xp.host_dtype == np.float32 else 1e-5
    )
    plain = agd.minimize(lambda x: (x - 1.0) ** 2, 5)
    assert float(plain.x) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("x0", "error", "words"),
    [
        (np.zeros(0), ValueError, "x0.*at least one"),
        (np.zeros(2, dtype=complex), TypeError, "x0.*complex"),
        (np.asarray(["a", "b"]), TypeError, "x0"),
        (np.asarray([{}, {}], dtype=object), TypeError, "x0.*object"),
        ([np.nan, 0.0], ValueError, "x0.*finite|x0.*NaN"),
        ([np.inf, 0.0], ValueError, "x0.*finite|x0.*infinite"),
        ("1.0", TypeError, "x0"),
        (None, ValueError, "x0 is missing"),
        ({}, ValueError, "x0"),
        ([[1.0, 2.0], [3.0]], (TypeError, ValueError), "x0"),
    ],
)
def test_points_that_are_none(x0, error, words):
    with pytest.raises(error, match=words):
        agd.minimize(bowl, x0)


def test_leaves_of_two_libraries_are_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="torch"):
        agd.minimize(lambda p: total(p["a"]), {"a": np.zeros(2), "b": torch.zeros(2)})


def test_the_point_is_never_written_to(xp):
    host = np.asarray([4.0, -2.0])
    x0 = xp.asarray(host)
    agd.minimize(bowl, x0, jac=slope, method="accelerated")
    np.testing.assert_array_equal(xp.to_numpy(x0), host)

    def greedy(x):  # one that writes to what it is given
        value = float(np.sum((x - 1.0) ** 2))
        x[:] = 7.0
        return value

    found = agd.minimize(greedy, host)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-5)
    np.testing.assert_array_equal(host, [4.0, -2.0])


def test_jac_is_given_the_point_also_where_fun_wrote_to_it():
    torch = pytest.importorskip("torch")

    def greedy(x):
        value = torch.sum((x - 1.0) ** 2)
        x.fill_(7.0)
        return value

    given = torch.asarray([4.0, -2.0], dtype=torch.float64)
    result = agd.minimize(greedy, given, jac=lambda x: 2.0 * (x - 1.0))
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-5)
    np.testing.assert_array_equal(given, [4.0, -2.0])


# -- what fun returns ------------------------------------------------------------------------------


def test_numbers_and_arrays_of_one_entry_are_values():
    x0 = np.asarray([4.0, -2.0])
    for fun in (
        lambda x: float(np.sum((x - 1.0) ** 2)),
        lambda x: np.reshape(np.sum((x - 1.0) ** 2), (1,)),
        lambda x: np.float32(np.sum((x - 1.0) ** 2)),
    ):
        found = agd.minimize(fun, x0, jac=slope)
        assert found.success
        assert isinstance(found.fun, float)
        np.testing.assert_allclose(found.x, 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (lambda x: x**2, ValueError),
        (lambda x: None, TypeError),
        (lambda x: "0.0", TypeError),
        (lambda x: 1j * np.sum(x), TypeError),
        (lambda x: np.zeros(0), ValueError),
    ],
)
def test_values_that_are_none(returned, error):
    with pytest.raises(error, match="fun must return"):
        agd.minimize(returned, np.ones(3), jac=slope)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_at_the_start(bad):
    with pytest.raises(ValueError, match="fun must be finite at x0"):
        agd.minimize(lambda x: bad, np.ones(3), jac=slope)
    with pytest.raises(ValueError, match="gradient must be finite at x0"):
        agd.minimize(bowl, np.zeros(3), jac=lambda x: np.full(3, bad))


def test_a_problem_of_a_batch_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="finite at x0 of problem 1"):
        agd.minimize(
            lambda x: np.sum(np.log(x), axis=-1),
            [[1.0], [-1.0], [2.0]],
            jac=lambda x: 1.0 / x,
            batch=1,
        )


def test_a_wall_of_values_that_are_not_finite_is_stepped_back_from():
    def fun(x):  # the logarithm's barrier: steps too far are NaN
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sum(x - np.log(x))

    found = agd.minimize(fun, [1e-4, 30.0], jac=lambda x: 1.0 - 1.0 / x)
    assert found.success
    np.testing.assert_allclose(found.x, 1.0, atol=1e-4)


def test_nothing_but_walls_is_said():
    x0 = np.asarray([1.0])
    with np.errstate(all="ignore"):
        found = agd.minimize(
            lambda x: np.sum(x) if (x == x0).all() else math.nan, x0, jac=lambda x: np.ones(1)
        )
    assert found.status is Status.NON_FINITE
    assert "not finite" in found.message
    np.testing.assert_array_equal(found.x, x0)


def test_a_function_without_a_floor_is_said():
    found = agd.minimize(np.sum, np.zeros(2), jac=lambda x: np.ones(2))
    assert found.status is Status.UNBOUNDED


# -- jac -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jac", "words"),
    [
        (lambda x: np.ones(4), r"jac must return.*\(3,\).*\(4,\)"),
        (lambda x: np.ones((1, 3)), "jac must return"),
        (lambda x: 2.0, "jac must return"),
        (lambda x: {"a": x}, "jac"),
    ],
)
def test_gradients_of_another_shape(jac, words):
    with pytest.raises((TypeError, ValueError), match=words):
        agd.minimize(bowl, np.zeros(3), jac=jac)


def test_a_pair_that_is_none():
    with pytest.raises(TypeError, match=r"jac=True fun must return \(value, gradient\)"):
        agd.minimize(bowl, np.zeros(3), jac=True)


@pytest.mark.parametrize("factor", [-1.0, 1e6])
def test_a_gradient_of_the_wrong_sign_or_scale_leads_to_the_check(factor):
    x0 = np.asarray([3.0, -2.0])

    def wrong(x):
        return factor * slope(x)

    found = agd.minimize(bowl, x0, jac=wrong)
    assert found.status is Status.LINE_SEARCH
    assert "agd.check_gradient" in found.message
    assert bowl(found.x) <= bowl(x0)
    assert not agd.check_gradient(bowl, wrong, x0).ok
    assert agd.check_gradient(bowl, slope, x0).ok


def test_unknown_kinds_of_gradient():
    with pytest.raises(ValueError, match=r"jac.*2-point"):
        agd.minimize(bowl, np.zeros(3), jac="4-point")
    with pytest.raises((TypeError, ValueError), match="autodiff"):
        agd.minimize(bowl, np.zeros(3), jac="autodiff")  # NumPy has none


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([(1.0, 0.0), (0.0, 1.0)], "bounds.*low.*high|bounds.*cross|above"),
        ([(0.0, 1.0)] * 3, "bounds must be a pair.*2 entries"),
        ([(math.nan, 1.0), (0.0, 1.0)], "bounds must be numbers, got NaN"),
        ([(math.inf, None), (0.0, 1.0)], "bounds must leave finite values"),
        ([("a", 1.0), (0.0, 1.0)], "bounds must hold pairs"),
        (5.0, "bounds must be"),
    ],
)
def test_bounds_that_are_none(bounds, words):
    with pytest.raises((TypeError, ValueError), match=words):
        agd.minimize(bowl, np.zeros(2), jac=slope, bounds=bounds)


def test_a_point_outside_the_bounds_is_moved_with_a_word():
    with pytest.warns(UserWarning, match="x0 lies outside the bounds in 1 entry"):
        found = agd.minimize(bowl, [5.0, 0.0], jac=slope, bounds=[(2.0, 3.0), (None, None)])
    np.testing.assert_allclose(found.x, [2.0, 1.0], atol=1e-5)


# -- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"method": "lbgfs"}, ValueError, "lbfgs"),
        ({"method": "Nelder-Mead"}, ValueError, "follow the gradient"),
        ({"method": "trust-constr"}, ValueError, "follow the gradient"),
        ({"callback": 3}, TypeError, "callback"),
        ({"penalty": 0.1}, TypeError, "penalty must be an object"),
        ({"penalty": agd.loss.L1}, TypeError, "penalty must be an object"),
        ({"options": 3}, TypeError, "options must be a dict"),
        ({"options": {"maxiter": -1}}, ValueError, "maxiter"),
        ({"options": {"gtol": -1.0}}, ValueError, "gtol"),
        ({"tol": -1.0}, ValueError, "tol"),
        ({"tol": 1e-3, "stop": Stop(10)}, ValueError, "stop and SciPy's tol"),
        ({"stop": 1e-3}, TypeError, "stop"),
        ({"batch": 2}, ValueError, "2 leading axes"),
        ({"batch": -1}, ValueError, "batch"),
        ({"certify": True, "bounds": [(0, 1)] * 3}, ValueError, "certify=True"),
    ],
)
def test_arguments_that_do_not_fit(kwargs, error, words):
    with pytest.raises(error, match=words):
        agd.minimize(bowl, np.zeros(3), **{"jac": slope, **kwargs})


def test_a_function_that_is_none():
    with pytest.raises(TypeError, match="fun must be a function"):
        agd.minimize(3.0, np.zeros(3))


def test_options_that_are_not_known_are_said():
    with pytest.warns(UserWarning, match="'maxcor'"):
        found = agd.minimize(bowl, np.zeros(3), jac=slope, options={"maxcor": 10, "disp": False})
    assert found.success


@pytest.mark.parametrize("options", [{}, {"jac": lambda x: 2.0 * (x - 2.0)}, {"method": "gd"}])
def test_a_function_that_takes_an_entry_of_a_number_is_told_its_shape(options):
    for minimise in (agd.minimize, agd.maximize):
        with pytest.raises(IndexError, match=r"which has shape \(\) where x0 is a number"):
            minimise(lambda x: (x[0] - 2.0) ** 2, 0.5, **options)
    assert abs(agd.minimize(lambda x: (x[0] - 2.0) ** 2, [0.5]).x[0] - 2.0) < 1e-6
