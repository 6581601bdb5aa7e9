"""Penalties in standard units: what scikit-learn fits on standardised columns, in the units of the data."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, MCP, Box, ElasticNet, GroupL1, NonNegative

ALPHA, ROWS = 0.1, 90


def make_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 5)) * [1.0, 100.0, 0.01, 5.0, 1.0] + [0.0, 1.0, 3.0, -2.0, 0.0]
    y = X @ [1.0, 0.01, 50.0, 0.0, 0.3] + rng.normal(size=ROWS)
    return X, y, rng.integers(0, 3, ROWS) * 1.0


def of_standardised(name, X, y, weight, **options):
    """scikit-learn's coefficients for columns over their weighted spreads, in the units of X."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    weight = np.ones(len(y)) if weight is None else weight
    mean = np.average(X, axis=0, weights=weight)
    spread = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    model = getattr(linear_model, name)(tol=1e-13, max_iter=100_000, **options)
    return np.ravel(model.fit((X - mean) / spread, y, sample_weight=weight).coef_) / spread


MODELS = {
    "Lasso": (L1(ALPHA), {"alpha": ALPHA}),
    "ElasticNet": (ElasticNet(ALPHA, 0.3), {"alpha": ALPHA, "l1_ratio": 0.3}),
    "Ridge": (L2(ALPHA), {}),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_scikit_learns_of_standardised_columns(name, weighted):
    X, y, weight = make_data()
    weight = weight if weighted else None
    penalty, options = MODELS[name]
    if name == "Ridge":
        options = {"alpha": ALPHA * (ROWS if weight is None else weight.sum())}
    result = agd.fit(X, y, penalty=penalty, sample_weight=weight, standardize=True)
    want = of_standardised(name, X, y, weight, **options)
    np.testing.assert_allclose(result.coef, want, rtol=1e-8, atol=1e-12)


def test_a_logistic_model_is_scikit_learns():
    X, y, _ = make_data()
    y = (y > np.median(y)) * 1.0
    result = agd.fit(X, y, loss="log_loss", penalty=L2(ALPHA), standardize=True)
    want = of_standardised(
        "LogisticRegression", X, y, None, C=1.0 / (ALPHA * ROWS), solver="newton-cholesky"
    )
    np.testing.assert_allclose(result.coef, want, rtol=1e-8)


@pytest.mark.parametrize("penalty", [L1(ALPHA), L2(ALPHA)])
def test_every_library_has_standard_units(penalty, xp):
    X, y, weight = make_data()
    host = agd.fit(X, y, penalty=penalty, sample_weight=weight, standardize=True)
    arrays = xp.asarray(X), xp.asarray(y)
    result = agd.fit(*arrays, penalty=penalty, sample_weight=xp.asarray(weight), standardize=True)
    tolerance = 1e-3 if xp.rtol > 1e-8 else 1e-7
    np.testing.assert_allclose(xp.to_numpy(result.coef), host.coef, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("penalty", [L1(ALPHA), L2(ALPHA), ElasticNet(ALPHA, 0.3)])
def test_sparse_rows_streams_and_batches_have_standard_units(loss, penalty):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y, _ = make_data()
    options = {"loss": loss, "penalty": penalty, "standardize": True}
    host = agd.fit(X, y, **options)
    stream = agd.Stream([(X[:50], y[:50]), (X[50:], y[50:])])
    for data in ((scipy_sparse.csr_array(X), y), (stream,)):
        np.testing.assert_allclose(agd.fit(*data, **options).coef, host.coef, rtol=1e-6, atol=1e-8)
    batch = agd.fit(np.stack([X, 2.0 * X]), np.stack([y, y]), **options)
    np.testing.assert_allclose(batch.coef, [host.coef, host.coef / 2.0], rtol=1e-6, atol=1e-8)
    path = agd.penalty_path(X, y, penalty, alphas=[1.0], loss=loss, standardize=True)
    np.testing.assert_allclose(path.coef[0], host.coef, rtol=1e-6, atol=1e-9)


def test_a_result_has_the_penalty_in_its_units_and_is_saved_with_it(tmp_path):
    X, y, _ = make_data()
    result = agd.fit(X, y, penalty=L1(ALPHA), standardize=True)
    np.testing.assert_allclose(result.penalty.weights, X.std(axis=0), rtol=1e-12)
    for penalty in (MCP(ALPHA), L1(ALPHA) + L2(0.5)):
        result = agd.fit(X, y, penalty=penalty, standardize=True)
        agd.save(result, tmp_path / "model.json")
        loaded = agd.load(tmp_path / "model.json")
        assert loaded.penalty == result.penalty
        np.testing.assert_array_equal(loaded.coef, result.coef)


def test_units_do_not_change_the_model():
    X, y, _ = make_data()
    units = np.asarray([1e3, 1e-3, 1.0, 50.0, 0.2])
    one = agd.fit(X, y, penalty=L1(ALPHA), standardize=True)
    other = agd.fit(X * units, y, penalty=L1(ALPHA), standardize=True)
    np.testing.assert_allclose(other.coef * units, one.coef, rtol=1e-9, atol=1e-12)


def test_sets_stay_in_the_units_of_the_data():
    X, y, _ = make_data()
    bounded = agd.fit(X, y, penalty=Box(-0.005, 0.005), standardize=True)
    np.testing.assert_array_equal(bounded.coef, agd.fit(X, y, penalty=Box(-0.005, 0.005)).coef)
    assert agd.fit(X, y, penalty=L1(ALPHA) + NonNegative(), standardize=True).coef.min() >= 0.0


def test_constant_columns_and_no_penalty_are_as_they_were():
    X, y, _ = make_data()
    X = np.column_stack([X, np.ones(ROWS)])
    result = agd.fit(X, y, penalty=L2(ALPHA), standardize=True)
    assert abs(result.coef[-1]) < 1e-12
    plain = agd.fit(X[:, :5], y, standardize=True)
    np.testing.assert_array_equal(plain.coef, agd.fit(X[:, :5], y).coef)


def test_a_penalty_that_couples_coefficients_is_refused():
    X, y, _ = make_data()
    with pytest.raises(TypeError, match="couples coefficients, and its prox in standard units"):
        agd.fit(X, y, penalty=GroupL1(0.1, (0, 0, 1, 1, 2)), standardize=True)
    with pytest.raises(TypeError, match="standardize must be True or False"):
        agd.fit(X, y, penalty=L1(), standardize="yes")
