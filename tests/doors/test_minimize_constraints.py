"""Bounds against SciPy's L-BFGS-B, and penalties by their prox against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import backends
from agd.loss import L1, L2, Box, ElasticNet, GroupL1, L2Ball, NonNegative, NuclearNorm, Simplex
from helpers import known_minima
from helpers.quadratic_bowl import CountedFunction, assert_close, bowl, bowl_gradient, entry_sum

# -- bounds ---------------------------------------------------------------------------------------

BOUNDED = {
    "rosenbrock": [(-2.0, 0.5), (None, None)],
    "beale": [(0.0, 2.0), (-1.0, None)],
    "booth": [(None, 0.5), (None, 2.0)],
    "himmelblau_1": [(3.2, 5.0), (None, 5.0)],
    "matyas": [(1.0, 10.0), (-10.0, 10.0)],
    "wood": [(0.0, 0.5)] * 4,
    "powell_singular": [(1.0, 4.0), (-2.0, 3.0), (-1.0, 2.0), (0.5, 2.0)],
    "helical_valley": [(0.5, 5.0), (0.5, 5.0), (-1.0, 0.3)],
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("jac", ["callable", "2-point", "3-point"])
def test_the_same_minimum_as_scipys(name, jac):
    optimize = pytest.importorskip("scipy.optimize")
    row, bounds = known_minima.PROBLEMS[name], BOUNDED[name]
    low, high = (np.asarray([np.nan if p[k] is None else p[k] for p in bounds]) for k in (0, 1))
    low, high = np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=np.inf)
    x0 = np.clip(row.x0, low, high)
    settings = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000}
    theirs = optimize.minimize(
        row.fun, x0, jac=row.grad, method="L-BFGS-B", bounds=bounds, options=settings
    )
    outside = []

    def watched(x):
        outside.append(bool((x < low).any() or (x > high).any()))
        return row.fun(x)

    given = row.grad if jac == "callable" else jac
    found = agd.minimize(watched, x0, jac=given, bounds=bounds, stop=agd.Stop(grad_tol=1e-6))
    assert found.status in {agd.Status.CONVERGED, agd.Status.LINE_SEARCH}
    assert not any(outside)
    assert found.fun <= theirs.fun + 1e-6 * max(1.0, abs(theirs.fun))
    np.testing.assert_allclose(found.x, theirs.x, atol=2e-2 if name == "powell_singular" else 1e-3)
    # At a bound the bowl_gradient holds x there, between bounds it is 0.
    left = found.x - np.clip(found.x - row.grad(found.x), low, high)
    assert np.abs(left).max() <= 1e-3


def test_the_nearest_point_of_a_box(xp):
    centres = np.asarray([-1.0, 0.25, 5.0, 5.0])
    found = agd.minimize(
        bowl, xp.asarray([0.1, 0.1, 0.1, 2.5]), (xp.asarray(centres),), jac=bowl_gradient, method="projected_gradient",
        bounds=[(0, 1), (0, 1), (None, 1), (2.5, None)],
    )  # fmt: skip
    assert found.success
    assert_close(xp, found.x, [0.0, 0.25, 1.0, 5.0], digits=4)
    assert found.x.dtype == xp.dtype
    assert backends.device(found.x) == backends.device(xp.asarray([0.0]))


def test_the_default_method_within_bounds(xp):
    if xp.name.partition(":")[0] in {"jax", "dask"}:
        pytest.skip("slow to compile or to build: tests of the methods run it there")
    found = agd.minimize(
        known_minima.booth, xp.asarray([0.0, 0.0]), jac=known_minima.booth_grad, bounds=[(0, 0.5), (None, 2)]
    )  # fmt: skip
    assert found.method.startswith("projected L-BFGS")
    assert_close(xp, found.x, [0.5, 2.0])


def test_bounds_of_a_tree():
    x0 = {"w": np.zeros((2, 2)), "b": np.zeros(())}

    def fun(p):
        return bowl(p["w"]) + bowl(p["b"], -2.0)

    for bounds in (
        {"w": (None, 1.0), "b": (-1.0, None)},  # one pair for all of a leaf
        {"w": [(None, 1.0)] * 4, "b": [(-1.0, None)]},
        {"w": Box(-np.inf, np.ones((2, 2))), "b": (-1, 1)},
    ):
        found = agd.minimize(fun, x0, bounds=bounds)
        np.testing.assert_allclose(found.x["w"], 1.0, atol=1e-6)
        np.testing.assert_allclose(found.x["b"], -1.0, atol=1e-6)
    half = agd.minimize(fun, x0, bounds={"w": None, "b": (-1.0, None)})
    np.testing.assert_allclose(half.x["w"], 3.0, atol=1e-5)
    with pytest.raises(ValueError, match="bounds must have the structure of x0"):
        agd.minimize(fun, x0, bounds=[(0, 1)])
    with pytest.raises(ValueError, match=r"bounds\['w'\] cross in 4 of 4 entries"):
        agd.minimize(fun, x0, bounds={"w": (1.0, 0.0), "b": None})


def test_a_variable_whose_bounds_are_equal_stays():
    for jac in (known_minima.rosenbrock_grad, "2-point", "3-point"):
        found = agd.minimize(
            known_minima.rosenbrock, [0.5, 0.0], jac=jac, bounds=[(0.5, 0.5), (0, 1)]
        )
        np.testing.assert_allclose(found.x, [0.5, 0.25], atol=1e-5)
        assert found.x[0] == 0.5


# -- penalties -------------------------------------------------------------------------------------

CENTRES = np.asarray([3.0, -0.5, 1.5, -2.0])
CURVED = np.asarray([1.0, 2.0, 0.5, 4.0])


def soft(x, by):
    return np.sign(x) * np.maximum(np.abs(x) - by, 0.0)


def length(x):
    return np.sqrt(np.sum(x**2))


# The minimum of ½ Σ a (x - c)² + penalty: by entries where it is separable, with a = 1 elsewhere.
SEPARABLE = {
    "L1": (L1(1.25), soft(CENTRES, 1.25 / CURVED)),
    "ElasticNet": (ElasticNet(2.0, 0.75), CURVED * soft(CENTRES, 1.5 / CURVED) / (CURVED + 0.5)),
    "NonNegative": (NonNegative(), np.maximum(CENTRES, 0.0)),
    "Box": (Box(-1.0, 2.0), np.clip(CENTRES, -1.0, 2.0)),
    "L2": (L2(2.0), CURVED * CENTRES / (CURVED + 2.0)),
}
# Of (0.9, 0.4, -0.5, 0.2) on the simplex: 1/6 is taken off those that stay above 0.
COUPLED = {
    "GroupL1": (
        GroupL1(1.0, (0, 0, 1, 1)),
        CENTRES,
        lambda c: np.concatenate(
            [g * max(0.0, 1.0 - np.sqrt(2.0) / length(g)) for g in (c[:2], c[2:])]
        ),
    ),
    "L2Ball": (L2Ball(2.0), CENTRES, lambda c: 2.0 * c / length(c)),
    "Simplex": (
        Simplex(),
        np.asarray([0.9, 0.4, -0.5, 0.2]),
        lambda c: np.maximum(c - 1.0 / 6.0, 0.0),
    ),
}


def curved(x, a, c):
    return 0.5 * entry_sum(a * (x - c) ** 2)


def curved_slope(x, a, c):
    return a * (x - c)


@pytest.mark.parametrize("name", SEPARABLE)
def test_separable_penalties(name, xp):
    penalty, want = SEPARABLE[name]
    if name not in {"jax": {"L1"}, "dask": {}}.get(xp.name.partition(":")[0], {name}):
        pytest.skip("slow to compile or to build: tests of the penalties have the others there")
    args = (xp.asarray(CURVED), xp.asarray(CENTRES))
    x0 = xp.asarray([0.5, 0.5, 0.5, 0.5])
    found = agd.minimize(curved, x0, args, jac=curved_slope, penalty=penalty)
    assert found.success
    assert_close(xp, found.x, want, digits=4)
    exact = 0.5 * np.sum(CURVED * (want - CENTRES) ** 2) + float(penalty.value(want))
    assert found.fun == pytest.approx(exact, rel=1e-4)
    # Entries that the prox sets to 0 or to a bound are there exactly.
    at = np.isin(want, (-1.0, 2.0) if name == "Box" else (0.0,))
    assert at.any() or name == "L2"
    np.testing.assert_array_equal(xp.to_numpy(found.x)[at], want[at])


@pytest.mark.parametrize("name", COUPLED)
def test_penalties_that_couple(name):
    penalty, centres, answer = COUPLED[name]
    for jac in (curved_slope, None):
        found = agd.minimize(curved, np.zeros(4), (1.0, centres), jac=jac, penalty=penalty)
        assert found.success
        np.testing.assert_allclose(found.x, answer(centres), atol=1e-5)


def test_a_matrix_of_low_rank():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 3))
    found = agd.minimize(
        curved, np.zeros((4, 3)), (1.0, centres), jac=curved_slope, penalty=NuclearNorm(1.0)
    )
    u, s, v = np.linalg.svd(centres, full_matrices=False)
    np.testing.assert_allclose(found.x, u * soft(s, 1.0) @ v, atol=1e-5)


def test_a_penalty_of_every_leaf():
    x0 = {"w": np.zeros((2, 4)), "b": np.asarray(0.0)}

    def fun(p):
        return curved(p["w"], 1.0, CENTRES) + 0.5 * (p["b"] - 3.0) ** 2

    found = agd.minimize(fun, x0, penalty=L1(1.0))
    np.testing.assert_allclose(found.x["w"], soft(CENTRES, 1.0) + np.zeros((2, 1)), atol=1e-5)
    np.testing.assert_allclose(found.x["b"], 2.0, atol=1e-5)


def test_penalties_beside_bounds():
    for penalty, free in ((L1(1.0), soft(CENTRES, 1.0)), (L2(1.0), CENTRES / 2.0)):
        found = agd.minimize(
            curved, np.zeros(4), (1.0, CENTRES), jac=curved_slope, penalty=penalty, bounds=[(-0.25, 0.75)] * 4
        )  # fmt: skip
        np.testing.assert_allclose(found.x, np.clip(free, -0.25, 0.75), atol=1e-5)
    for penalty in (Simplex(), L2Ball(1.0), GroupL1(1.0, (0, 0, 1, 1))):
        with pytest.raises(ValueError, match=r"couples entries.*within bounds no prox is known"):
            agd.minimize(curved, np.zeros(4), (1.0, CENTRES), penalty=penalty, bounds=[(0, 1)] * 4)


def test_a_start_outside_of_a_set_is_moved_to_its_nearest_point():
    fun = CountedFunction(lambda x: np.sum((x - 3.0) ** 2) if (x >= 0.0).all() else np.nan)
    found = agd.minimize(fun, [-5.0, 1.0], jac=bowl_gradient, penalty=NonNegative())
    np.testing.assert_allclose(found.x, 3.0, atol=1e-5)
    assert found.history.value[0] == pytest.approx(13.0)  # at (0, 1)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"method": "cg", "bounds": [(0, 1)] * 2}, "'cg' cannot handle bounds.*'projected_lbfgs'"),
        ({"method": "cg", "penalty": L1(1.0)}, "'cg' cannot handle a penalty with a prox.*'fista'"),
        ({"method": agd.update.adam(0.1), "bounds": [(0, 1)] * 2}, "cannot handle bounds"),
    ],
)
def test_methods_that_cannot_keep_to_a_set_name_those_that_can(kwargs, words):
    with pytest.raises(ValueError, match=words):
        agd.minimize(bowl, [0.5, 0.5], jac=bowl_gradient, **kwargs)
