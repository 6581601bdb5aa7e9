"""Losses that are not smooth: the exact minimum at a vertex, and the smoothed one on all other data."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, Quantile
from agd.loss.base import MoreauEnvelope


def data(n=120, p=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * [1.0, 100.0, 0.01] + 5.0
    return X, X @ [1.0, -0.02, 30.0] + rng.standard_t(2, size=n)


def linear_program(X, y, q, alpha=0.0, weight=None, intercept=True):
    """Return the least pinball loss, as the linear program that it is."""
    optimize = pytest.importorskip("scipy.optimize")
    n, p = X.shape
    weight = np.ones(n) if weight is None else weight
    weight = weight / weight.sum()
    A = np.column_stack([X, np.ones(n)]) if intercept else X
    free = np.concatenate([np.full(p, alpha), np.zeros(A.shape[1] - p)])
    cost = np.concatenate([free, free, q * weight, (1.0 - q) * weight])
    rows = np.hstack([A, -A, np.eye(n), -np.eye(n)])
    return optimize.linprog(cost, A_eq=rows, b_eq=y, bounds=(0, None), method="highs").fun


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_the_minimum_is_that_of_the_linear_program(q, alpha):
    X, y = data()
    result = agd.fit(X, y, loss=Quantile(q), penalty=L1(alpha) if alpha else None)
    assert result.success
    assert "simplex" in result.method
    np.testing.assert_allclose(result.fun, linear_program(X, y, q, alpha), rtol=1e-9)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("intercept", [True, False])
def test_ties_and_weights_of_zero_end_at_the_minimum(intercept):
    rng = np.random.default_rng(1)
    X = rng.integers(0, 3, size=(150, 4)).astype(float)
    y, weight = rng.integers(0, 5, size=150).astype(float), rng.integers(0, 3, size=150) * 1.0
    result = agd.fit(X, y, loss=Quantile(0.25), sample_weight=weight, intercept=intercept)
    want = linear_program(X, y, 0.25, weight=weight, intercept=intercept)
    np.testing.assert_allclose(result.fun, want, rtol=1e-9)


@pytest.mark.backend("numpy")
def test_problems_of_a_batch_have_minima_of_their_own():
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(60, 2)), rng.normal(size=(60, 3)) * [1.0, 100.0, 0.01]
    result = agd.fit(X, Y, loss=Quantile(0.3))
    want = [linear_program(X, y, 0.3) for y in Y.T]
    np.testing.assert_allclose(result.fun, want, rtol=1e-9)
    assert result.success.all()


@pytest.mark.backend("numpy")
def test_dependent_columns_leave_the_smoothed_minimum():
    X, y = data()
    with pytest.warns(np.exceptions.RankWarning):
        result = agd.fit(np.column_stack([X, X[:, 0]]), y, loss="quantile")
    assert result.fun <= linear_program(X, y, 0.5) + 1e-6 * np.abs(y - np.median(y)).mean()


def test_other_arrays_end_within_the_gap(xp):
    X, y = data()
    result = agd.fit(xp.asarray(X), xp.asarray(y), loss=Quantile(0.7))
    limit = 1e-6 if "64" in str(xp.dtype) else 1e-4
    assert float(result.fun) <= linear_program(X, y, 0.7) + limit * np.abs(y - y.mean()).mean()


@pytest.mark.backend("numpy")
def test_sparse_rows_and_streams_end_within_the_gap():
    sparse = pytest.importorskip("scipy.sparse")
    X, y = data()
    want, gap = linear_program(X, y, 0.7), 1e-6 * np.abs(y - y.mean()).mean()
    stream = agd.Stream.from_arrays(X, y)
    for result in (
        agd.fit(sparse.csr_array(X), y, loss=Quantile(0.7)),
        agd.fit(stream, loss=Quantile(0.7)),
    ):
        assert want * (1.0 - 1e-12) <= result.fun <= want + gap


@pytest.mark.backend("numpy")
def test_a_smooth_penalty_ends_within_the_gap():
    X, y = data()
    result = agd.fit(X, y, loss=Quantile(0.7), penalty=L2(0.1))
    nearby = (
        result.coef
        + 1e-3 * np.random.default_rng(0).normal(size=(50, 3)) * np.std(X, axis=0) ** -1.0
    )
    z = X @ nearby.T + result.intercept
    values = Quantile(0.7).value(z, y[:, None]).mean(axis=0) + 0.05 * (nearby**2).sum(axis=1)
    assert result.success
    assert result.fun <= values.min() + 1e-6 * np.abs(y - y.mean()).mean()


@pytest.mark.backend("numpy")
def test_a_limit_of_steps_and_a_callback_end_the_rounds():
    X, y = data()
    with pytest.warns(agd.ConvergenceWarning):
        result = agd.fit(X, y, loss="quantile", stop=agd.Stop(max_iter=3))
    assert (result.nit, result.status.name) == (3, "MAX_ITER")
    seen = []
    agd.fit(X, y, loss="quantile", callback=lambda part: seen.append(part.nit))
    assert seen == sorted(seen)


@pytest.mark.parametrize("method", ["lbfgs", "gd"])
def test_methods_for_smooth_losses_are_refused(method):
    with pytest.raises(ValueError, match=r"'quantile'.*method='auto'"):
        agd.fit(*data(), loss="quantile", method=method)


def test_online_refuses_it():
    with pytest.raises(ValueError, match="loss must be smooth for Online"):
        agd.Online(loss="quantile")


@pytest.mark.parametrize("bad", [0.0, 1.0, float("nan")])
def test_a_quantile_is_between_0_and_1(bad):
    with pytest.raises(ValueError, match="quantile must be"):
        Quantile(bad)


def test_an_envelope_is_below_its_loss_by_at_most_half_its_width():
    z, y = np.linspace(-3.0, 3.0, 601), np.zeros(601)
    loss = Quantile(0.9)
    smoothed = MoreauEnvelope(loss, 0.5)
    below = loss.value(z, y) - smoothed.value(z, y)
    assert below.min() >= -1e-15
    assert below.max() <= 0.25 * 0.9**2 + 1e-15
    numeric = (smoothed.value(z + 1e-6, y) - smoothed.value(z - 1e-6, y)) / 2e-6
    np.testing.assert_allclose(smoothed.gradient(z, y), numeric, atol=1e-5)
