"""Fits with each loss, held against scikit-learn, SciPy's minimisers and linear programming."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import loss
from agd.loss import L1, L2
from helpers import known_values

ROWS, COLUMNS = 300, 4


@pytest.fixture(scope="module")
def data():
    """Rows whose columns have different scales, and a predictor with outliers for each kind of target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS)) * [1.0, 5.0, 0.2, 1.0] + [0.0, 3.0, 1.0, -2.0]
    z = X @ np.asarray([0.5, -0.1, 1.0, 0.2]) + 0.3
    mean = np.exp(0.5 * z)
    targets = {
        "any number": z + rng.standard_t(2, size=ROWS),
        "0 or more": rng.poisson(mean).astype(float),
        "above 0": rng.gamma(2.0, mean / 2.0),
        "0 or 1": (rng.random(ROWS) < 1.0 / (1.0 + np.exp(-z))) * 1.0,
        "from 0 to 1": rng.beta(2.0, 2.0 * np.exp(-z)),
    }
    return X, targets


def objective_at(case_loss, X, y, coef, intercept, penalty=None):
    value = np.mean(case_loss.value(X @ coef + intercept, y))
    return value + (0.0 if penalty is None else float(penalty.value(coef)))


@pytest.mark.parametrize("name", known_values.ONE_OUTPUT)
@pytest.mark.parametrize("penalty", [None, L2(0.05), L1(0.05)], ids=["none", "l2", "l1"])
def test_no_point_nearby_is_lower(name, penalty, data, xp):
    X, targets = data
    case = known_values.ONE_OUTPUT[name].loss
    y = targets[case.domain]
    result = agd.fit(xp.asarray(X), xp.asarray(y), loss=case, penalty=penalty)
    coef, intercept = xp.to_numpy(result.coef).astype(float), float(result.intercept)
    assert result.success
    best = objective_at(case, X, y, coef, intercept, penalty)
    eps = 1e-6 if "32" in str(xp.dtype) else 1e-9
    # A loss that is not smooth is minimised to 1e-6 of the loss of the constant model.
    slack = eps * abs(best) + (0.0 if case.smooth else 2e-6 * np.mean(case.value(0.0 * y, y)))
    rng = np.random.default_rng(1)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(20):
            move = size * rng.normal(size=COLUMNS + 1) / np.append(np.std(X, axis=0), 1.0)
            there = objective_at(case, X, y, coef + move[:-1], intercept + move[-1], penalty)
            assert there >= best - slack


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("power", [0.0, 1.2, 1.9, 2.0])
def test_tweedie_is_that_of_scikit_learn(power, data):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, targets = data
    y = targets["above 0"] if power >= 2.0 else targets["0 or more"]
    peer = linear_model.TweedieRegressor(
        power=power, link="log", alpha=0.01, tol=1e-10, max_iter=10_000
    ).fit(X, y)
    result = agd.fit(X, y, loss=loss.Tweedie(power), penalty=L2(0.01))
    assert result.success
    np.testing.assert_allclose(result.coef, peer.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.predict(X), peer.predict(X), rtol=1e-5)


@pytest.mark.backend("numpy")
def test_gamma_and_inverse_gaussian_are_their_powers(data):
    X, targets = data
    for special, power in ((loss.Gamma(), 2.0), (loss.InverseGaussian(), 3.0)):
        a = agd.fit(X, targets["above 0"], loss=special)
        b = agd.fit(X, targets["above 0"], loss=loss.Tweedie(power))
        np.testing.assert_allclose(a.coef, b.coef, rtol=1e-6)
        assert "not convex" not in agd.fit(X, targets["above 0"], loss="gamma").message


@pytest.mark.backend("numpy")
def test_squared_hinge_is_that_of_liblinear(data):
    svm = pytest.importorskip("sklearn.svm")
    X, targets = data
    y = targets["0 or 1"]
    # The liblinear objective has a penalty on the intercept, which a large scaling makes small.
    peer = svm.LinearSVC(C=0.1, tol=1e-12, max_iter=100_000, intercept_scaling=1e4, dual=False)
    peer.fit(X, y)
    result = agd.fit(X, y, loss="squared_hinge", penalty=L2(1.0 / (0.1 * 2.0 * ROWS) * 2.0))
    np.testing.assert_allclose(result.coef, peer.coef_[0], rtol=1e-4)
    np.testing.assert_array_equal(result.predict(X), peer.predict(X))
    with pytest.raises(AttributeError, match="no probabilities"):
        result.predict_proba(X)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("name", ["hinge", "epsilon_insensitive", "absolute_error"])
def test_losses_with_kinks_reach_the_value_of_the_linear_program(name, data):
    optimize = pytest.importorskip("scipy.optimize")
    X, targets = data
    case = loss.get(name)
    y = targets[case.domain]
    A, sign = np.column_stack([X, np.ones(ROWS)]), 2.0 * y - 1.0
    eye = np.eye(ROWS)
    if name == "hinge":  # t >= 1 - s z
        rows, right = np.hstack([-sign[:, None] * A, -eye]), -np.ones(ROWS)
    else:  # t >= z - y - epsilon and t >= y - z - epsilon
        epsilon = getattr(case, "epsilon", 0.0)
        rows = np.vstack([np.hstack([A, -eye]), np.hstack([-A, -eye])])
        right = np.concatenate([y + epsilon, epsilon - y])
    cost = np.append(np.zeros(COLUMNS + 1), np.full(ROWS, 1.0 / ROWS))
    bounds = [(None, None)] * (COLUMNS + 1) + [(0.0, None)] * ROWS
    program = optimize.linprog(cost, rows, right, bounds=bounds)
    result = agd.fit(X, y, loss=name)
    np.testing.assert_allclose(result.fun, program.fun, rtol=1e-8)
    value = objective_at(case, X, y, result.coef, result.intercept)
    np.testing.assert_allclose(value, program.fun, rtol=1e-8)
    assert "simplex" in result.method
    shift = 0.3 * X[:, 0]  # an offset that a coefficient takes back
    moved = agd.fit(X, y, loss=name, offset=shift)
    np.testing.assert_allclose(moved.fun, program.fun, rtol=1e-8)
    with_l1 = agd.fit(X, y, loss=name, penalty=L1(0.01))
    moved = result.coef + 0.01 * np.random.default_rng(0).normal(size=COLUMNS)
    assert with_l1.fun <= objective_at(case, X, y, moved, result.intercept, L1(0.01))


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("kind", [loss.Cauchy, loss.Tukey])
def test_a_loss_that_is_not_convex_starts_from_huber_and_says_so(kind, data):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(400, 2))
    y = X @ np.asarray([2.0, -1.0]) + 1.0 + 0.1 * rng.normal(size=400)
    y[:120] += 30.0  # outliers that the convex losses follow in part
    result = agd.fit(X, y, loss=kind(1.0))
    np.testing.assert_allclose(result.coef, [2.0, -1.0], atol=0.05)
    assert result.solver == "convex_start"
    assert result.method.endswith("from the minimum of huber")
    assert "is not convex" in result.message
    given = agd.fit(X, y, loss=kind(1.0), init=(result.coef, result.intercept))
    assert given.solver != "convex_start"


@pytest.mark.backend("numpy")
def test_hinge_of_separated_classes_has_a_minimum():
    X = np.asarray([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.asarray([0.0, 0.0, 1.0, 1.0])
    for name in ("hinge", "squared_hinge", "modified_huber"):
        result = agd.fit(X, y, loss=name)
        assert result.success
        assert "separated" not in result.message
        assert result.fun < 1e-6


@pytest.mark.backend("numpy")
def test_the_least_value_is_that_of_the_best_predictor():
    z = np.linspace(-40.0, 40.0, 800_001)
    for case in known_values.ONE_OUTPUT.values():
        for target in case.targets:
            y = np.asarray([target])
            lowest = np.min(case.loss.value(z, np.full_like(z, target)))
            np.testing.assert_allclose(case.loss.least_value(y), lowest, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mse", "squared_error"), ("mae", "absolute_error"), ("logistic", "log_loss"),
        ("pinball", "quantile"), ("cross_entropy", "softmax"), ("SVM", "hinge"),
        ("Poisson", "poisson"), ("nb2", "negative_binomial"),
    ],
)  # fmt: skip
def test_names_of_other_libraries_suggest_the_loss_that_is_meant(name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        loss.get(name)
