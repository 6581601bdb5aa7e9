"""Solvers that decide on the host lead to the minima of the solvers that step on the data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, Box, ElasticNet, NonNegative
from agd.run.certificate import Certificate
from agd.run.semismooth_newton import minimise
from agd.update.proximal_newton import PenalisedQuadratic
from helpers.property_testing import given, settings, st

pytestmark = pytest.mark.backend("numpy")

PENALTIES = [L1(0.02), L1(0.3), ElasticNet(0.05, 0.5), NonNegative(), Box(-0.5, 1.0), Box(0.1, 0.6)]


def correlated(shape, seed, like, dtype=float):
    """Return columns that have a share `like` in common, far from zero, and targets of few of them."""
    rng = np.random.default_rng(seed)
    X = like * rng.normal(size=(shape[0], 1)) + (1.0 - like) * rng.normal(size=shape) + 1.0
    w = rng.normal(size=shape[1]) * (rng.random(shape[1]) < 0.4)
    return X.astype(dtype), (X @ w + 0.1 * rng.normal(size=shape[0])).astype(dtype)


def violation(X, y, penalty, found, weight=None):
    """Return how far the coefficients are from staying in place under a proximal gradient step."""
    weight = np.ones(len(y)) if weight is None else weight
    w, b = found.coef.astype(float), 0.0 if found.intercept is None else float(found.intercept)
    residual = (X @ w + b - y) * weight / weight.sum()
    step = 1.0 / (weight @ (X * X).sum(axis=1) / weight.sum())
    moved = penalty.prox(w - step * (X.T @ residual), step)
    return max(
        np.abs(moved - w).max() / step, abs(residual.sum()) if found.intercept is not None else 0.0
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(40, 6), (8, 12), (30, 1), (90, 40), (300, 140)]),
    penalty=st.sampled_from(PENALTIES),
    intercept=st.booleans(),
    weighted=st.booleans(),
    like=st.sampled_from([0.0, 0.9, 0.99]),
)
def test_semismooth_newton_leads_to_the_minimum(seed, shape, penalty, intercept, weighted, like):
    X, y = correlated(shape, seed, like)
    weight = np.random.default_rng(seed).uniform(0.2, 2.0, shape[0]) if weighted else None
    found = agd.fit(X, y, penalty=penalty, intercept=intercept, sample_weight=weight)
    assert found.success
    assert found.solver == "semismooth_newton"
    size = np.abs(X).max() * np.abs(y).max() * shape[1]
    assert violation(X, y, penalty, found, weight) <= 1e-9 * size
    assert found.history.value[-1] == pytest.approx(found.fun, rel=1e-6, abs=1e-9 * size)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(60, 300), (400, 300), (20, 700)]),
    penalty=st.sampled_from([L1(0.05), L1(0.3), ElasticNet(0.1, 0.5), NonNegative()]),
    intercept=st.booleans(),
    weighted=st.booleans(),
    kind=st.sampled_from([np.float64, np.float32]),
)
def test_working_sets_lead_to_the_minimum(seed, shape, penalty, intercept, weighted, kind):
    X, y = correlated(shape, seed, 0.0, kind)
    weight = None
    if weighted:
        weight = np.random.default_rng(seed).uniform(0.2, 2.0, shape[0]).astype(kind)
    found = agd.fit(X, y, penalty=penalty, intercept=intercept, sample_weight=weight)
    assert found.success
    assert found.coef.dtype == kind
    size = np.abs(X).max() * np.abs(y).max() * shape[1]
    close = 1e-9 if kind is np.float64 else 1e-4
    assert violation(X.astype(float), y.astype(float), penalty, found, weight) <= close * size


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.1])
def test_working_sets_of_more_columns_than_rows_are_no_trap(alpha):
    rng = np.random.default_rng(56)
    X = rng.normal(size=(30, 300))
    y = X @ rng.normal(size=300) + 0.1 * rng.normal(size=30)
    found = agd.fit(X, y, penalty=L1(alpha))
    assert found.solver == "working_sets"  # 64 columns of 30 rows are dependent
    assert np.count_nonzero(found.coef) <= 30
    assert violation(X, y, L1(alpha), found) <= 1e-8


def test_working_sets_are_what_many_columns_get():
    X, y = correlated((80, 400), 0, 0.0)
    found = agd.fit(X, y, penalty=L1(0.1))
    assert (found.solver, found.method) == ("working_sets", "proximal Newton on working sets")
    slow = agd.fit(X, y, penalty=L1(0.1), stop=agd.Stop(max_iter=100_000))
    assert slow.solver == "fista"
    np.testing.assert_allclose(found.coef, slow.coef, atol=1e-6)
    assert found.fun <= slow.fun * (1.0 + 1e-12)
    assert found.n_sync == found.nfev == found.nit + 1 == len(found.history.nit)


@pytest.mark.parametrize("penalty", [None, L2(1e-3), L2(2.0)], ids=repr)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
def test_the_dual_form_is_the_shortest_answer_of_the_primal(penalty, intercept, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 300)) * np.exp(rng.normal(size=300)) + 3.0
    y = rng.normal(size=50) + 5.0
    weight = rng.uniform(0.2, 2.0, 50) if weighted else None
    kwargs = {"penalty": penalty, "intercept": intercept, "sample_weight": weight}
    found, primal = agd.fit(X, y, **kwargs), agd.fit(X, y, stop=agd.Stop(), **kwargs)
    assert (found.solver, primal.solver) == ("normal_dual", "normal")
    assert found.success
    np.testing.assert_allclose(
        found.coef, primal.coef, rtol=1e-9, atol=1e-11 * abs(primal.coef).max()
    )
    assert found.fun == pytest.approx(primal.fun, rel=1e-9, abs=1e-20)
    np.testing.assert_allclose(found.jac.coef, primal.jac.coef, atol=1e-10)


def test_the_dual_form_warns_as_the_primal_does():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 300)), rng.normal(size=20)
    words = []
    for stop in (None, agd.Stop()):
        with pytest.warns(np.exceptions.RankWarning) as caught:
            agd.fit(X, y, stop=stop)
        words.append(str(caught[0].message))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "kind", ["equal rows", "nearly equal rows", "a constant column", "NaN", "large"]
)
def test_rows_that_are_not_regular_are_left_to_the_primal_form(kind):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 300)), rng.normal(size=20)
    if "rows" in kind:
        X[3] = X[4] + (1e-6 * rng.normal(size=300) if kind == "nearly equal rows" else 0.0)
    elif kind == "a constant column":
        X[:, 7] = 2.0
    else:
        X[2, 5] = np.nan if kind == "NaN" else 1e200
    outcomes = []
    for stop in (None, agd.Stop()):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                found = agd.fit(X, y, stop=stop)
                outcomes.append((found.solver, found.method, found.message))
            except ValueError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_a_penalty_of_the_users_sees_the_arrays_of_the_data():
    class Halves(agd.loss.BasePenalty):
        separable = True

        def value(self, w):
            return 0.5 * abs(w).sum()

        def prox(self, w, step):
            return np.sign(w) * np.maximum(abs(w) - 0.5 * step, 0.0)

    X, y = correlated((60, 5), 0, 0.0)
    found = agd.fit(X, y, penalty=Halves())
    assert found.solver == "semismooth_newton"
    np.testing.assert_allclose(found.coef, agd.fit(X, y, penalty=L1(0.5)).coef, atol=1e-9)
    wide, t = correlated((40, 300), 0, 0.0)
    assert agd.fit(wide, t, penalty=Halves()).solver == "fista"


def test_a_newton_step_that_does_not_descend_is_taken_back():
    rng = np.random.default_rng(3)
    X = 0.999 * rng.normal(size=(60, 1)) + 0.001 * rng.normal(size=(60, 20))
    y = rng.normal(size=60)
    d = X - X.mean(axis=0)
    scale = 1.0 / d.std(axis=0)
    C, q = scale[:, None] * (d.T @ d / 60) * scale, scale * (d.T @ y / 60)
    model, log = PenalisedQuadratic(C, q, scale, L1(1e-3)), []
    v, size = minimise(model, np.zeros(20), 1.0, 1e-10, log)
    assert size <= 1e-10
    assert log[-1].value <= min(record.value for record in log) + 1e-12
    assert model.value(v, model.gradient(v)) == log[-1].value


def test_certificates_are_complete():
    X, y = correlated((60, 5), 0, 0.0)
    certificate = agd.fit(X, y, penalty=L1(0.1)).certificate
    assert isinstance(certificate, Certificate)
    e = np.linalg.eigvalsh(np.corrcoef(X.T))
    assert certificate.curvature == pytest.approx(e[-1], rel=1e-10)
    assert certificate.condition == pytest.approx(e[-1] / e[0], rel=1e-8)
