"""A weight for each coefficient: what scikit-learn fits on rescaled columns, by every solver of the table."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, ElasticNet

ROWS, COLUMNS, ALPHA = 80, 5, 0.1


def make_data(rng, columns=COLUMNS):
    X = rng.normal(size=(ROWS, columns)) * np.exp(rng.normal(size=columns))
    y = X[:, :5] @ [1.0, -2.0, 0.0, 0.5, 1.0] + 3.0 + rng.normal(size=ROWS)
    return X, y, np.exp(0.5 * rng.normal(size=columns))


@pytest.fixture(scope="module")
def data():
    return make_data(np.random.default_rng(0))


def rescaled_fit(X, y, name, scale, **options):
    """The coefficients of scikit-learn's model of columns over a scale, in the units of X."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = getattr(linear_model, name)(tol=1e-14, **options).fit(X / scale, y)
    return np.ravel(model.coef_) / scale


def test_a_weighted_lasso_is_a_lasso_of_rescaled_columns(data, xp):
    X, y, weights = data
    result = agd.fit(xp.asarray(X), xp.asarray(y), penalty=L1(ALPHA, weights=weights))
    want = rescaled_fit(X, y, "Lasso", weights, alpha=ALPHA, max_iter=100_000)
    np.testing.assert_allclose(
        xp.to_numpy(result.coef), want, rtol=max(1e-7, 20.0 * xp.rtol), atol=xp.rtol
    )


def test_a_weighted_ridge_is_a_ridge_of_rescaled_columns(data, xp):
    X, y, weights = data
    result = agd.fit(xp.asarray(X), xp.asarray(y), penalty=L2(ALPHA, weights=weights))
    want = rescaled_fit(X, y, "Ridge", np.sqrt(weights), alpha=ALPHA * ROWS)
    np.testing.assert_allclose(
        xp.to_numpy(result.coef), want, rtol=max(1e-7, 20.0 * xp.rtol), atol=xp.rtol
    )


@pytest.mark.parametrize("columns", [5, 100])
def test_a_weighted_ridge_of_sparse_or_wide_data_takes_the_normal_equations(columns):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y, weights = make_data(np.random.default_rng(2), columns=columns)
    data = X if columns == 100 else scipy_sparse.csr_array(X)
    result = agd.fit(data, y, penalty=L2(ALPHA, weights=weights))
    assert (result.solver, result.nit) == ("normal", 1)
    want = rescaled_fit(X, y, "Ridge", np.sqrt(weights), alpha=ALPHA * ROWS)
    np.testing.assert_allclose(result.coef, want, atol=1e-10)


def test_the_least_curvature_of_a_weighted_ridge_is_that_of_its_hessian(data):
    X, y, _ = data
    penalty = L2(ALPHA, weights=[0.0, 1.0, 5.0, 1.0, 1.0])
    result = agd.fit(X, y, penalty=penalty, method="gd", intercept=False)
    hessian = X.T @ X / ROWS + ALPHA * np.diag(penalty.weights)
    assert result.certificate.least_curvature == pytest.approx(np.linalg.eigvalsh(hessian)[0])


def test_weights_act_in_wide_data():
    X, y, weights = make_data(np.random.default_rng(1), columns=300)
    result = agd.fit(X, y, penalty=L1(ALPHA, weights=weights))
    assert result.solver == "working_sets"
    want = rescaled_fit(X, y, "Lasso", weights, alpha=ALPHA, max_iter=100_000)
    np.testing.assert_allclose(result.coef, want, atol=1e-8)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
@pytest.mark.parametrize("penalty", [L1, L2, ElasticNet])
def test_all_solvers_agree_on_weights(data, loss, penalty):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y, weights = data
    y = (y > y.mean()) * 1.0 if loss == "log_loss" else y
    weighted = penalty(0.02, weights=[0.0, *weights[1:]])
    kinds = (
        (X, {}),
        (X, {"stop": agd.GradTol(1e-9)}),
        (X, {"method": "proximal_gradient", "stop": agd.GradTol(1e-9) | agd.MaxIter(100_000)}),
        (scipy_sparse.csr_array(X), {}),
    )
    results = [agd.fit(kind, y, loss=loss, penalty=weighted, **options) for kind, options in kinds]
    for result in results[1:]:
        np.testing.assert_allclose(result.coef, results[0].coef, atol=1e-5)


def test_a_weight_of_zero_spares_a_coefficient(data):
    X, y, _ = data
    result = agd.fit(X, y, penalty=L1(100.0, weights=[0.0, 1.0, 1.0, 1.0, 1.0]))
    alone = agd.fit(X[:, :1], y)
    np.testing.assert_allclose(result.coef, [alone.coef[0], 0.0, 0.0, 0.0, 0.0], atol=1e-12)


def test_each_output_has_the_weights(data):
    X, y, weights = data
    y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    result = agd.fit(X, y, loss="softmax", penalty=L2(ALPHA, weights=weights))
    same = agd.fit(X / np.sqrt(weights), y, loss="softmax", penalty=L2(ALPHA))
    np.testing.assert_allclose(result.coef, same.coef / np.sqrt(weights), atol=1e-8)


def test_weights_that_cannot_be_are_named(data):
    X, y, _ = data
    with pytest.raises(ValueError, match="weights must be finite and 0 or more"):
        L1(1.0, weights=[1.0, -1.0])
    with pytest.raises(ValueError, match="weights must not be NaN"):
        L2(1.0, weights=[1.0, np.nan])
    with pytest.raises(TypeError, match="weights must be a number, or one for each coefficient"):
        L1(1.0, weights="balanced")
    with pytest.raises(
        ValueError, match=r"weights must be a number or broadcast .* got shape \(3,\)"
    ):
        agd.fit(X, y, penalty=L1(1.0, weights=[1.0, 2.0, 3.0]))
    with pytest.raises(
        ValueError, match=r"weights must be a number or broadcast .* got shape \(3,\)"
    ):
        agd.fit(X, y, penalty=L2(1.0, weights=[1.0, 2.0, 3.0]))


def test_weights_show_in_the_text_of_a_penalty():
    assert repr(L1(0.5)) == "L1(alpha=0.5)"
    assert repr(L1(0.5, weights=[1.0, 2.0])) == "L1(alpha=0.5, weights=(1.0, 2.0))"
    assert L1(0.5, weights=(1.0, 2.0)) + L1(0.5, weights=[1.0, 2.0]) == L1(1.0, weights=(1.0, 2.0))
