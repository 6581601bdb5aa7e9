"""Faults that only the run shows, on every library: what is not finite, of another library or device."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import agd
from agd import Status, backends
from helpers import known_minima
from helpers.quadratic_bowl import (
    assert_close,
    bowl,
    bowl_gradient,
    entry_sum,
    frequent_checks,
    tree_bowl,
    tree_bowl_gradient,
)

QUICK = "accelerated"
METHODS = sorted(set(agd.update.MINIMIZERS) - {"sgd", "svrg"})


# -- what is not finite ---------------------------------------------------------------------------


def test_entries_of_x0_that_are_not_finite_are_counted_and_placed(xp):
    point = xp.asarray([[1.0, math.nan], [math.inf, 2.0]])
    with pytest.raises(
        ValueError, match=r"x0 has 2 NaN or infinite values, the first at x0\[0, 1\]"
    ):
        agd.minimize(bowl, point)
    with pytest.raises(ValueError, match=r"x0\['a'\] has 1 NaN or infinite value.*x0\['a'\]\[2\]"):
        agd.minimize(tree_bowl, {"b": xp.asarray(1.0), "a": xp.asarray([0.0, 1.0, -math.inf])})


@pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning"
)  # Dask's threads: f's own inf - inf
@pytest.mark.parametrize("door", [agd.minimize, agd.maximize])
def test_a_function_that_is_not_finite_at_x0(door, xp):
    x0 = xp.asarray([0.0, 5.0])
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"fun must be finite at x0, got {bad!r}"):
            door(lambda x, bad=bad: bowl(x) + bad, x0, jac=bowl_gradient, method=QUICK)
        with pytest.raises(ValueError, match="the gradient must be finite at x0"):
            door(bowl, x0, jac=lambda x, bad=bad: bowl_gradient(x) + bad, method=QUICK)


def walled(x):
    """x - log x, whose minimum is 1 and which is NaN below 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(x - np.log(x))


def barrier_slope(x):
    return 1.0 - 1.0 / x


def steep_beyond(x):
    """A bowl whose gradient is known up to 8 only."""
    return np.where(np.abs(x) < 8.0, bowl_gradient(x), np.nan)


@pytest.mark.parametrize("method", METHODS)
def test_steps_too_far_are_cut_back(method):
    stop = agd.Stop(max_iter=3000)
    for x0 in ([1e-4, 30.0], [5.0], [1e-8]):
        found = agd.minimize(walled, x0, jac=barrier_slope, method=method, stop=stop)
        assert found.success
        np.testing.assert_allclose(found.x, 1.0, atol=1e-4)
    found = agd.minimize(bowl, [-7.9, 7.9], jac=steep_beyond, method=method, stop=stop)
    assert found.success
    np.testing.assert_allclose(found.x, 3.0, atol=1e-4)


def test_a_step_too_far_is_cut_back_on_every_library(xp):
    met = []

    def inside(x, of):
        ns = backends.namespace(x)
        if not backends.of(x).compiles:
            met.append(bool((xp.to_numpy(x) <= 0.0).any()))
        safe = ns.where(x > 0.0, x, ns.ones_like(x))
        return ns.where(x > 0.0, of(ns, safe), ns.full_like(x, math.nan))

    found = agd.minimize(
        lambda x: entry_sum(inside(x, lambda ns, x: x - ns.log(x))),
        xp.asarray([20.0]),
        jac=lambda x: inside(x, lambda ns, x: 1.0 - 1.0 / x),
        method="steepest_descent",
        stop=frequent_checks(xp),
    )
    assert found.success
    assert_close(xp, found.x, [1.0], digits=4)
    assert any(met) or xp.name.startswith("jax")


PROXIMAL = ("fista", "proximal_gradient", "projected_gradient")


@pytest.mark.parametrize("penalty", [agd.loss.NonNegative(), agd.loss.L1(0.1)])
@pytest.mark.parametrize("method", PROXIMAL)
def test_a_penalised_function_that_falls_to_a_wall(method, penalty):
    found = agd.minimize(
        lambda x: x[0] if x[0] > 0.5 else math.nan, [1.0], jac=np.ones_like, method=method,
        penalty=penalty,
    )  # fmt: skip
    assert found.status is Status.NON_FINITE
    assert 0.5 < found.x[0] < 0.51


@pytest.mark.parametrize(
    "method",
    [
        "lbfgs", "cg", "steepest_descent", "barzilai_borwein", "heavy_ball", "accelerated",
        *PROXIMAL,
    ],
)  # fmt: skip
def test_a_function_that_falls_to_a_wall(method):
    found = agd.minimize(
        lambda x: x[0] if x[0] > 0.5 else math.nan, [1.0], jac=np.ones_like, method=method
    )
    assert found.status is Status.NON_FINITE
    assert "not finite" in found.message
    assert 0.5 < found.x[0] < 0.51
    assert found.fun == found.x[0]


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [-1.0, -0.01, 0.1, 10.0, 1e4, 1e8])
def test_a_gradient_of_the_wrong_scale_is_found_by_the_check(factor):
    """A search may find the minimum all the same, since the direction is right; if not, it says so."""

    def wrong(x):
        return factor * known_minima.beale_grad(x)

    x0 = np.asarray([1.0, 1.0])
    check = agd.check_gradient(known_minima.beale, wrong, x0)
    assert not check.ok
    assert ("sign" in repr(check)) == (factor < 0.0)
    found = agd.minimize(known_minima.beale, x0, jac=wrong)
    assert found.nfev < 1000
    if factor > 0.0 and found.success:
        np.testing.assert_allclose(found.x, [3.0, 0.5], atol=1e-2)
    else:
        assert found.status is Status.LINE_SEARCH
        assert "agd.check_gradient" in found.message
        assert found.fun <= known_minima.beale(x0)


def test_a_gradient_like_another_tree(xp):
    x0 = {"a": xp.asarray([0.0, 1.0]), "b": xp.asarray(1.0)}
    one = xp.asarray([1.0])
    for jac, words in (
        (lambda p: tree_bowl_gradient(p)["a"], "jac must return a tree like x"),
        (lambda p: {"a": p["a"]}, "jac must return a tree like x"),
        (lambda p: {"a": p["b"], "b": p["b"]}, r"jac must return an array of shape \(2,\).*\['a'\]"),
        (lambda p: {"a": p["a"], "b": one}, r"jac must return an array of shape \(\).*got shape \(1,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            agd.minimize(tree_bowl, x0, jac=jac, method=QUICK)
    with pytest.raises(ValueError, match="fun, with jac=True, must return a tree like x"):
        agd.minimize(lambda p: (tree_bowl(p), one), x0, jac=True, method=QUICK)
    with pytest.raises(TypeError, match="jac must return real numbers; got None"):
        agd.minimize(bowl, one, jac=lambda x: None, method=QUICK)


# -- another library, another device ------------------------------------------------------------------


def test_values_of_the_host_are_brought_to_the_points_library(xp):
    x0 = xp.asarray([0.0, 5.0])
    for number in (float, np.float64, lambda v: np.asarray([v]), Fraction):
        found = agd.minimize(
            lambda x, number=number: number(float(np.sum((backends.to_numpy(x) - 3.0) ** 2))),
            x0,
            jac=lambda x: (2.0 * (backends.to_numpy(x) - 3.0)).tolist(),
            method=agd.update.gradient_descent(0.25),
            stop=agd.Stop(max_iter=20),
        )
        assert_close(xp, found.x, [3.0, 3.0], digits=4)
        assert isinstance(found.fun, float)


@pytest.mark.backend("torch")
def test_values_of_another_library_are_refused():
    torch = pytest.importorskip("torch")
    x0 = np.asarray([0.0, 5.0])
    with pytest.raises(TypeError, match="fun must return a real number in x's library, numpy; got an array of torch"):  # fmt: skip
        agd.minimize(lambda x: torch.tensor(1.0), x0)
    with pytest.raises(TypeError, match=r"jac must return real numbers in x's library, numpy; got .* torch"):  # fmt: skip
        agd.minimize(bowl, x0, jac=lambda x: torch.asarray(bowl_gradient(x)))
    with pytest.raises(TypeError, match=r"x0\['b'\] is a torch array and x0\['a'\] a numpy array"):
        agd.minimize(tree_bowl, {"a": x0, "b": torch.zeros(2)})
    tracked = torch.zeros(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"x0 requires grad.*x0\.detach\(\)"):
        agd.minimize(bowl, tracked)


@pytest.mark.backend("strict")
def test_values_on_another_device_are_refused():
    strict = pytest.importorskip("array_api_strict")
    here, there = strict.Device("device1"), strict.Device("CPU_DEVICE")
    x0 = strict.asarray([0.0, 5.0], device=here)
    with pytest.raises(ValueError, match="fun must return a real number on x's device"):
        agd.minimize(lambda x: strict.asarray(1.0, device=there), x0)
    with pytest.raises(ValueError, match="jac must return real numbers on x's device"):
        agd.minimize(bowl, x0, jac=lambda x: strict.asarray([0.0, 1.0], device=there))
    with pytest.raises(ValueError, match=r"x0\[1\] is on device.*put both on one device"):
        agd.minimize(tree_bowl, [x0, strict.asarray(1.0, device=there)])


# -- bounds and options ---------------------------------------------------------------------------


def test_bounds_on_every_library(xp):
    x0 = xp.asarray([0.0, 5.0])
    with pytest.raises(ValueError, match=r"bounds cross in 1 of 2 entries, the first at \(1,\)"):
        agd.minimize(bowl, x0, bounds=[(0, 1), (2, 1)])
    with pytest.raises(ValueError, match=r"bounds must be numbers, got NaN at \(0,\)"):
        agd.minimize(bowl, x0, bounds=[(math.nan, 1), (0, 1)])
    with (
        pytest.warns(UserWarning, match="x0 lies outside the bounds in 1 entry: moved to the nearest"),
    ):  # fmt: skip
        found = agd.minimize(
            bowl, x0, jac=bowl_gradient, bounds=[(0, 1), (0, 4)], method="projected_gradient"
        )
    assert_close(xp, found.x, [1.0, 3.0])
    np.testing.assert_array_equal(xp.to_numpy(x0), [0.0, 5.0])


@pytest.mark.parametrize(
    "bounds",
    [[(0, 1, 2), (0, 1)], [(0, 1), None], [(0, 1), 3.0], [(0,), (0, 1)], [(0, "a"), (0, 1)]],
)
def test_pairs_that_are_none(bounds):
    with pytest.raises(TypeError, match="bounds must hold pairs of numbers or None"):
        agd.minimize(bowl, [0.0, 0.5], bounds=bounds)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"tol": "1e-3"}, TypeError, "tol must be a number"),
        ({"tol": math.nan}, ValueError, "tol must be a finite number"),
        ({"options": [("maxiter", 3)]}, TypeError, "options must be a dict"),
        ({"options": {"maxiter": 1.5}}, TypeError, r"options\['maxiter'\] must be a whole number"),
        ({"options": {"maxfun": True}}, TypeError, r"options\['maxfun'\] must be a whole number"),
        ({"options": {"ftol": "x"}}, TypeError, r"options\['ftol'\] must be a number"),
        ({"options": {}, "stop": agd.Stop()}, ValueError, "give one of them"),
        ({"callback": "print"}, TypeError, "callback must be a function"),
        ({"jac": 3}, TypeError, "jac must be a callable, True, None or one of 'autodiff'"),
        ({"jac": "2point"}, ValueError, "did you mean '2-point'"),
        ({"method": "lbgfs"}, ValueError, "method must be one of .*did you mean 'lbfgs'"),
        ({"method": "SLSQP"}, ValueError, "'SLSQP' is SciPy's and not here.*'lbfgs'"),
        ({"method": agd.update.Accelerated}, TypeError, "method must be a name, a rule"),
        ({"hess": bowl_gradient}, TypeError, "hess"),
    ],
)
def test_arguments_of_another_kind(kwargs, error, words):
    with pytest.raises(error, match=words):
        agd.minimize(bowl, [0.0, 5.0], **kwargs)


def test_a_function_of_nothing_but_rounding():
    """No gradient at all: a constant is at its minimum everywhere."""
    for jac in (None, "3-point", np.zeros_like):
        found = agd.minimize(lambda x: 0.0 * entry_sum(x) + 2.0, [1.0, 2.0], jac=jac)
        assert (found.success, found.nit, found.fun) == (True, 0, 2.0)
