"""Proximal Newton: its answers beside those of the proximal gradient method, and the models that it minimises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd.loss import L1, Box, ElasticNet, NonNegative
from agd.update.proximal_newton import PenalisedQuadratic

PENALTIES = [L1(0.02), ElasticNet(0.05, 0.5), NonNegative(), Box(-0.1, 0.2)]
LOSSES = ("log_loss", "poisson", "huber")


def drawn_problem(loss, n=150, p=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.exp(rng.normal(size=p)) + rng.normal(size=p)
    z = np.tanh((X - X.mean(axis=0)) / X.std(axis=0) @ np.linspace(-1.0, 1.0, p))
    if loss == "log_loss":
        return X, (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    return X, rng.poisson(np.exp(z)) * 1.0 if loss == "poisson" else z + rng.standard_t(2, size=n)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "float32", "given start"])
def test_the_answer_is_that_of_the_proximal_gradient_method(loss, penalty, kind):
    X, y = drawn_problem(loss)
    options = {"loss": loss, "penalty": penalty, "intercept": kind != "no intercept"}
    if kind == "weighted":
        options["sample_weight"] = np.random.default_rng(1).uniform(0.0, 2.0, size=len(y))
    if kind == "float32":
        X, y = X.astype(np.float32), y.astype(np.float32)
    if kind == "given start":
        options["init"] = (np.full(X.shape[1], 0.5), 0.1)
    result = agd.fit(X, y, **options)
    assert result.method == "proximal Newton"
    assert result.success
    assert result.nit <= 15
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        plain = agd.fit(X, y, method="proximal_gradient", **options)
    spread = X.std(axis=0)
    tolerance = 1e-3 if kind == "float32" else 1e-7
    np.testing.assert_allclose(result.coef * spread, plain.coef * spread, rtol=0, atol=tolerance)
    assert result.fun <= plain.fun + (1e-6 if kind == "float32" else 1e-13) * (1.0 + abs(plain.fun))
    np.testing.assert_array_equal(result.coef == 0.0, plain.coef == 0.0)
    assert result.coef.dtype == X.dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_the_conditions_of_the_lasso_hold_at_the_answer(loss):
    X, y = drawn_problem(loss)
    result = agd.fit(X, y, loss=loss, penalty=L1(0.02))
    held = result.coef == 0.0
    np.testing.assert_allclose(
        result.jac.coef[~held], -0.02 * np.sign(result.coef[~held]), rtol=1e-7
    )
    assert (np.abs(result.jac.coef[held]) <= 0.02 * (1.0 + 1e-9)).all()
    assert abs(result.jac.intercept) < 1e-10


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6, 1e8])
def test_columns_that_are_nearly_dependent_are_fitted_to_a_small_residual(penalty, condition):
    X, y = drawn_problem("log_loss")
    X[:, 1] = X[:, 0] + (X[:, 1] - X[:, 0]) / condition
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = agd.fit(X, y, loss="log_loss", penalty=penalty)
    assert caught or result.success
    assert result.certificate.grad_norm < 1e-8


def test_more_columns_than_rows_are_fitted():
    X, y = drawn_problem("huber", n=30, p=40)
    result = agd.fit(X, y, loss="huber", penalty=L1(0.02))
    assert result.success
    assert result.method == "proximal Newton"


def test_a_penalty_without_a_row_of_ones_own_works():
    class Lasso:
        smooth, separable = False, True

        def value(self, w):
            return 0.02 * np.sum(np.abs(w), axis=-1)

        def prox(self, w, step):
            return np.sign(w) * np.maximum(np.abs(w) - 0.02 * step, 0.0)

    X, y = drawn_problem("poisson")
    result = agd.fit(X, y, loss="poisson", penalty=Lasso())
    assert result.method == "proximal Newton"
    np.testing.assert_allclose(
        result.coef, agd.fit(X, y, loss="poisson", penalty=L1(0.02)).coef, rtol=1e-9
    )


def test_values_that_are_not_finite_are_named():
    X, y = drawn_problem("poisson")
    X[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"X\[3, 1\] = inf"):
        agd.fit(X, y, loss="poisson", penalty=L1(0.02))


def test_a_callback_may_end_the_run():
    X, y = drawn_problem("poisson")
    result = agd.fit(X, y, loss="poisson", penalty=L1(0.02), callback=lambda r: r.nit == 2)
    assert result.nit == 2
    assert result.status == agd.run.Status.CALLBACK


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_minimum_of_a_model_stays_in_place_under_the_prox(penalty, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(12, 8))
    C, q, scale = A.T @ A / 12 + 1e-6 * np.eye(8), rng.normal(size=8), np.exp(rng.normal(size=8))
    model = PenalisedQuadratic(C, q, scale, penalty)
    v = model.prox(np.zeros(8))
    minimum, _ = model.minimise(v, 1e-12)
    residual = minimum - model.prox(minimum - model.gradient(minimum))
    assert np.abs(residual).max() < 1e-9
    first, last = (model.value_and_rounding(u, model.gradient(u))[0] for u in (v, minimum))
    assert last <= first


def as_sparse(X, y):
    return (pytest.importorskip("scipy.sparse").csr_array(X), y)


def as_stream(X, y):
    return (agd.Stream([(X[:70], y[:70]), (X[70:], y[70:])]),)


def as_chunks(X, y):
    da = pytest.importorskip("dask.array")
    return da.from_array(X, chunks=(50, X.shape[1])), da.from_array(y, chunks=50)


def as_device_arrays(X, y):
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    return strict.asarray(X, device=device), strict.asarray(y, device=device)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", [as_sparse, as_stream, as_chunks, as_device_arrays])
def test_every_kind_of_data_has_the_answer_of_arrays(make, loss, penalty):
    X, y = drawn_problem(loss)
    data = make(X, y)
    result = agd.fit(*data, loss=loss, penalty=penalty)
    assert result.solver == "proximal_newton"
    coef = np.asarray(agd.backends.to_numpy(result.coef))
    want = agd.fit(X, y, loss=loss, penalty=penalty).coef
    np.testing.assert_allclose(coef, want, rtol=0, atol=1e-8 / X.std(axis=0).min())
    np.testing.assert_array_equal(coef == 0.0, want == 0.0)
    # One read an evaluation, and those of the moments, of the screen and of the report.
    assert result.n_sync <= result.nfev + 3


def test_a_penalty_of_the_users_beside_device_arrays_is_left_to_proximal_gradient():
    class Lasso(agd.loss.BasePenalty):
        separable = True

        def value(self, w):
            return 0.02 * agd.backends.namespace(w).sum(abs(w), axis=-1)

        def prox(self, w, step):
            return L1(0.02).prox(w, step)

    data = as_device_arrays(*drawn_problem("poisson"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        assert agd.fit(*data, loss="poisson", penalty=Lasso()).solver == "proximal_gradient"
