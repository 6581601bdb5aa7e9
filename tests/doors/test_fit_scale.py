"""Huber's loss with a delta of 1.35 spreads of the residuals, which a fit estimates."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.backends import to_numpy

ROWS = 300
RNG = np.random.default_rng(2)
X = RNG.normal(size=(ROWS, 3))
Y = X @ np.asarray([3.0, 1.0, -2.0]) + 5.0 + 0.5 * RNG.standard_t(2, size=ROWS)
WEIGHT = RNG.uniform(0.5, 2.0, size=ROWS)
AUTO = agd.loss.Huber(delta="auto")


def owen(coef, intercept, scale, weight, alpha=0.0):
    """The function that HuberRegressor minimises over coefficients and spread."""
    r = np.abs(X @ coef + intercept - Y) / scale
    terms = np.where(r <= 1.35, r**2, 2.0 * 1.35 * r - 1.35**2)
    return np.sum(weight * (scale + terms * scale)) + alpha * coef @ coef


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_the_fit_is_that_of_huber_regressor(weighted, alpha):
    linear = pytest.importorskip("sklearn.linear_model")
    weight = WEIGHT if weighted else np.ones(ROWS)
    theirs = linear.HuberRegressor(alpha=alpha, tol=1e-12, max_iter=10_000)
    theirs.fit(X, Y, sample_weight=weight)
    ridge = agd.loss.L2(alpha * theirs.scale_ / weight.sum()) if alpha else None
    ours = agd.fit(X, Y, loss=AUTO, sample_weight=weight, penalty=ridge)
    assert ours.solver == "newton_direct"
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-5)
    scale = ours.loss.delta / 1.35
    np.testing.assert_allclose(scale, theirs.scale_, rtol=1e-5)
    value = owen(ours.coef, ours.intercept, scale, weight, alpha)
    reached = owen(theirs.coef_, theirs.intercept_, theirs.scale_, weight, alpha)
    assert value <= reached * (1.0 + 1e-9)


def test_the_spread_is_that_of_the_clipped_residuals(xp):
    result = agd.fit(xp.asarray(X), xp.asarray(Y), loss=AUTO)
    residuals = X @ to_numpy(result.coef).astype(float) + float(result.intercept) - Y
    scale = result.loss.delta / 1.35
    tolerance = 1e-8 if "64" in str(result.coef.dtype) else 1e-4
    clipped = np.clip(residuals, -1.35 * scale, 1.35 * scale)
    np.testing.assert_allclose(np.sqrt(np.mean(clipped**2)), scale, rtol=tolerance)
    assert "delta by the spread" in result.method
    assert result.success


@pytest.mark.parametrize("kind", ["stream", "sparse", "lbfgs", "offset", "l1"])
def test_the_spread_in_other_data_and_by_other_methods(kind):
    sparse = pytest.importorskip("scipy.sparse")
    whole = agd.fit(X, Y, loss=AUTO)
    offset = np.linspace(-3.0, 3.0, ROWS)
    result = {
        "stream": lambda: agd.fit(agd.Stream.from_arrays(X, Y, batch_rows=100), loss=AUTO),
        "sparse": lambda: agd.fit(sparse.csr_array(X), Y, loss=AUTO),
        "lbfgs": lambda: agd.fit(X, Y, loss=AUTO, method="lbfgs", init=[1.0, 1.0, 1.0]),
        "offset": lambda: agd.fit(X, Y + offset, loss=AUTO, offset=offset),
        "l1": lambda: agd.fit(X, Y, loss=AUTO, penalty=agd.loss.L1(1e-9)),
    }[kind]()
    np.testing.assert_allclose(result.coef, whole.coef, rtol=1e-5)
    np.testing.assert_allclose(result.loss.delta, whole.loss.delta, rtol=1e-5)


def test_the_units_of_the_target_do_not_matter():
    for unit in (1e-6, 1e6):
        scaled = agd.fit(X, unit * Y, loss=AUTO)
        np.testing.assert_allclose(scaled.coef, unit * agd.fit(X, Y, loss=AUTO).coef, rtol=1e-7)


def test_an_exact_fit_has_no_spread():
    result = agd.fit(X, X @ np.asarray([1.0, 2.0, 3.0]), loss=AUTO)
    np.testing.assert_allclose(result.coef, [1.0, 2.0, 3.0], atol=1e-8)


def test_where_a_spread_is_refused():
    with pytest.raises(ValueError, match="estimates one spread, and there are 2 problems"):
        agd.fit(X, np.stack([Y, Y], axis=1), loss=AUTO)
    with pytest.raises(ValueError, match="delta must be one of 'auto'; got 'outo'"):
        agd.loss.Huber(delta="outo")
    with pytest.raises(ValueError, match="delta must be a number for Online"):
        agd.Online(loss=AUTO)
    with pytest.raises(ValueError, match="delta must be a number for a path"):
        agd.penalty_path(X, Y, agd.loss.L1(), loss=AUTO)
