"""Penalties of order, neighbours and large coefficients: against brute force, optimality conditions and skglm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, MCP, SCAD, FusedL1, Monotone, Slope
from agd.loss.structured_penalties import nondecreasing, total_variation_prox
from helpers.property_testing import given, st

numbers = st.floats(-50.0, 50.0, allow_subnormal=False)
vectors = st.lists(numbers, min_size=1, max_size=12)


@given(x=vectors, strength=st.floats(0.0, 20.0, allow_subnormal=False))
def test_the_prox_of_total_variation_has_its_dual_certificate(x, strength):
    """u = x - D'z with |z| <= strength, and z = ± strength where u falls or rises."""
    x = np.asarray(x)
    u = total_variation_prox(x, strength)
    z, jump = np.cumsum(u - x)[:-1], np.diff(u)
    slack = 1e-10 * (1.0 + strength + np.abs(x).max())
    assert abs(np.sum(u - x)) <= 10.0 * slack
    assert (np.abs(z) <= strength + 10.0 * slack).all()
    moving = np.abs(jump) > slack
    np.testing.assert_allclose(z[moving], strength * np.sign(jump[moving]), atol=20.0 * slack)


@given(x=vectors)
def test_pooling_gives_the_nearest_vector_in_order(x):
    x = np.asarray(x)
    u = nondecreasing(x)
    assert (np.diff(u) >= 0.0).all()
    # By blocks: what is pooled is its mean, and no beginning of a block has a smaller mean than the block.
    edges = np.flatnonzero(np.diff(u) > 0.0) + 1
    for block, level in zip(np.split(x, edges), np.split(u, edges), strict=True):
        assert level[0] == pytest.approx(block.mean(), abs=1e-9)
        means = np.cumsum(block) / np.arange(1, len(block) + 1)
        assert (means >= block.mean() - 1e-9).all()


def test_the_prox_of_slope_is_the_least_over_all_orders():
    rng = np.random.default_rng(0)
    for _ in range(20):
        w, weights = rng.normal(size=4) * 3.0, np.sort(rng.random(4))[::-1]
        penalty = Slope(1.0, weights)
        near = penalty.prox(w, 1.5)
        value = penalty.value(near) + np.sum((near - w) ** 2) / 3.0
        for order in itertools.permutations(range(4)):
            lasso = L1(1.0, weights=weights[np.argsort(order)]).prox(w, 1.5)
            assert value <= penalty.value(lasso) + np.sum((lasso - w) ** 2) / 3.0 + 1e-12
    same = Slope(0.7, np.ones(4))
    np.testing.assert_allclose(same.prox(w, 1.0), L1(0.7).prox(w, 1.0))


@pytest.mark.parametrize("penalty", [MCP(1.0, 3.0), MCP(0.7, 1.5), SCAD(1.0, 3.7), SCAD(0.5, 2.2)],
                         ids=repr)  # fmt: skip
@pytest.mark.parametrize("step", [0.0, 0.2, 1.0, 1.6, 2.9, 5.0])
def test_the_prox_of_a_penalty_that_is_not_convex_is_the_least_on_a_grid(penalty, step):
    grid = np.linspace(-6.0, 6.0, 24_001)
    for x in np.random.default_rng(1).normal(size=20) * 2.5:
        near = penalty.prox(np.asarray([x]), step)
        if step == 0.0:
            assert near[0] == pytest.approx(x, rel=1e-15)
            continue
        values = penalty.value(grid[:, None]) + (grid - x) ** 2 / (2.0 * step)
        assert penalty.value(near) + (near[0] - x) ** 2 / (2.0 * step) <= values.min() + 1e-6


def make_data(loss="squared_error", rows=150, columns=20):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(rows, columns))
    z = X[:, :4] @ [3.0, -2.0, 1.5, 1.0]
    if loss == "log_loss":
        return X, (rng.random(rows) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    return X, z + rng.normal(size=rows)


def violation(penalty, result, step=0.05):
    """How far a proximal gradient step moves the coefficients."""
    return np.abs(result.coef - penalty.prox(result.coef - step * result.jac.coef, step)).max()


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
@pytest.mark.parametrize("penalty", [MCP(0.08), SCAD(0.08), MCP(0.08) + L2(0.01),
                                     MCP(0.08, weights=[0.0] + 19 * [1.0])], ids=str)  # fmt: skip
def test_a_fit_starts_from_the_lasso_and_says_that_another_minimum_may_be_lower(penalty, loss):
    X, y = make_data(loss)
    result = agd.fit(X, y, loss=loss, penalty=penalty)
    assert result.success
    assert "the penalty is not convex: another minimum may be lower" in result.message
    assert violation(penalty, result) <= 1e-8
    z = result.decision_function(X)
    value = np.mean(result.loss.value(z, y)) + penalty.value(result.coef)
    assert float(result.fun) == pytest.approx(value, rel=1e-10)
    lasso = agd.fit(X, y, loss=loss, penalty=penalty.starting_penalty())
    z = lasso.decision_function(X)
    assert value <= np.mean(lasso.loss.value(z, y)) + penalty.value(lasso.coef)


def test_every_library_and_kind_of_data_fits_them(xp):
    X, y = make_data(columns=6)
    for penalty in (MCP(0.2), SCAD(0.2), FusedL1(0.1), Monotone(increasing=False),
                    Slope(0.1, np.linspace(1.0, 0.5, 6))):  # fmt: skip
        host = agd.fit(X, y, penalty=penalty)
        result = agd.fit(xp.asarray(X), xp.asarray(y), penalty=penalty)
        tolerance = 1e-3 if xp.rtol > 1e-8 else 1e-6
        np.testing.assert_allclose(xp.to_numpy(result.coef), host.coef, atol=tolerance)


@pytest.mark.parametrize("penalty", [FusedL1(0.1), FusedL1(0.1) + L1(0.05), Monotone(),
                                     Slope(0.1, np.linspace(1.0, 0.1, 20))], ids=str)  # fmt: skip
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_fits_with_them_are_stationary(penalty, loss):
    X, y = make_data(loss)
    result = agd.fit(X, y, loss=loss, penalty=penalty)
    assert result.success
    assert violation(penalty, result) <= 1e-7


def test_skglm_has_the_same_mcp_and_slope():
    skglm = pytest.importorskip("skglm")
    X, y = make_data()
    X, y = np.asfortranarray(X - X.mean(axis=0)), y - y.mean()
    result = agd.fit(X, y, penalty=MCP(0.3, 3.0), intercept=False)
    other = skglm.MCPRegression(alpha=0.3, gamma=3.0, fit_intercept=False, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(result.coef, other.coef_, atol=1e-6)
    weights = np.linspace(1.0, 0.1, 20)
    slope = skglm.GeneralizedLinearEstimator(
        skglm.datafits.Quadratic(), skglm.penalties.SLOPE(0.2 * weights),
        skglm.solvers.FISTA(max_iter=20_000, tol=1e-12, opt_strategy="fixpoint"),
    ).fit(X, y)  # fmt: skip
    result = agd.fit(X, y, penalty=Slope(0.2, weights), intercept=False)
    np.testing.assert_allclose(result.coef, slope.coef_, atol=1e-6)


def test_paths_and_standard_units_take_penalties_that_are_not_convex():
    X, y = make_data()
    path = agd.penalty_path(X, y, MCP(), alphas=8)
    assert path.nonzeros[0] == 0 < path.nonzeros[-1]
    assert path.select("bic").coef[:4] == pytest.approx([3.0, -2.0, 1.5, 1.0], abs=0.3)
    units = np.linspace(0.1, 10.0, 20)
    one = agd.fit(X, y, penalty=SCAD(0.2), standardize=True)
    other = agd.fit(X * units, y, penalty=SCAD(0.2), standardize=True)
    np.testing.assert_allclose(other.coef * units, one.coef, atol=1e-8)
    start = agd.fit(X, y, penalty=MCP(0.1), init=one)
    assert start.success
    fused = agd.penalty_path(X, y, FusedL1() + L1(), alphas=4)
    assert fused.nonzeros[0] == 0


def test_arguments_that_cannot_be_are_named():
    cases = (
        (lambda: MCP(1.0, gamma=1.0), ValueError, "gamma must be above 1, got 1.0"),
        (lambda: SCAD(1.0, gamma=2.0), ValueError, "gamma must be above 2, got 2.0"),
        (lambda: MCP(1.0, gamma=math.inf), ValueError, "gamma must be finite"),
        (lambda: SCAD(-1.0), ValueError, "alpha must be a finite number of 0 or more"),
        (lambda: FusedL1(-1.0), ValueError, "alpha must be a finite number of 0 or more"),
        (lambda: Monotone(increasing=1), TypeError, "increasing must be True or False"),
        (lambda: Slope(1.0, [1.0, 2.0]), ValueError, "none larger than the one before"),
        (lambda: Slope(1.0, [1.0]).prox(np.ones(2), 1.0), ValueError, "each of the 2 coefficients"),
        (lambda: Slope(1.0, [1.0]) + L1(1.0), TypeError, "does not follow from those of its terms"),
    )
    for make, error, message in cases:
        with pytest.raises(error, match=message):
            make()
