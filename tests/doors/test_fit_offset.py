"""Offsets of the predictor, and exposures, in every kind of data."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.backends import to_numpy
from agd.run import solver_table, warm_start
from tests.helpers.known_values import ONE_OUTPUT

ROWS, COLUMNS = 240, 3
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, COLUMNS))
OFFSET = RNG.normal(size=ROWS)
EXPOSURE = np.exp(RNG.normal(size=ROWS)) * 20.0
WEIGHT = RNG.uniform(0.5, 2.0, size=ROWS)
MEAN = np.exp(X @ np.asarray([0.3, 0.2, -0.1]) + 0.5)
COUNTS = RNG.poisson(MEAN * EXPOSURE).astype(float)
AMOUNTS = RNG.gamma(2.0, MEAN * EXPOSURE / 2.0)
LABELS = (RNG.random(ROWS) < 1.0 / (1.0 + np.exp(-X[:, 0] - OFFSET))).astype(float)
NUMBERS = X @ np.asarray([1.0, 2.0, 3.0]) + OFFSET + RNG.normal(size=ROWS)


def newton_reference(loss, y, offset, weight=None, ridge=0.0):
    """The minimum of the mean loss by plain Newton steps, with the offset added to the predictor."""
    A = np.column_stack([X, np.ones(ROWS)])
    s = np.ones(ROWS) if weight is None else weight
    R = ridge * np.diag([1.0] * COLUMNS + [0.0])
    w = np.zeros(COLUMNS + 1)
    if loss.link is not None:
        w[-1] = float(loss.link(np.average(y, weights=s))) - np.average(offset)
    for _ in range(100):
        z = A @ w + offset
        g = A.T @ (s * loss.gradient(z, y)) / s.sum() + R @ w
        H = (A.T * (s * loss.hessian(z, y))) @ A / s.sum() + R
        w = w - np.linalg.solve(H, g)
    return w


SMOOTH = {
    "poisson": (COUNTS, np.log(EXPOSURE)),
    "gamma": (AMOUNTS, np.log(EXPOSURE)),
    "tweedie": (AMOUNTS, np.log(EXPOSURE)),
    "negative_binomial": (COUNTS, np.log(EXPOSURE)),
    "log_loss": (LABELS, OFFSET),
    "squared_error": (NUMBERS, OFFSET),
    "squared_epsilon_insensitive": (NUMBERS, OFFSET),
}


def close(result, reference, tolerance=1e-8):
    got = np.append(to_numpy(result.coef), to_numpy(result.intercept))
    np.testing.assert_allclose(got, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SMOOTH)
def test_an_offset_is_added_to_the_predictor(name):
    y, offset = SMOOTH[name]
    loss = agd.loss.get(name)
    for weight in (None, WEIGHT):
        result = agd.fit(X, y, loss=name, offset=offset, sample_weight=weight)
        assert result.success
        assert result.loss == loss
        close(result, newton_reference(loss, y, offset, weight), 1e-7)
    ridge = agd.fit(X, y, loss=name, offset=offset, penalty=agd.loss.L2(0.1))
    close(ridge, newton_reference(loss, y, offset, ridge=0.1), 1e-7)


@pytest.mark.parametrize("name", ["poisson", "log_loss", "squared_error"])
def test_an_offset_in_every_library(xp, name):
    y, offset = SMOOTH[name]
    reference = newton_reference(agd.loss.get(name), y, offset)
    parts = [xp.asarray(part) for part in (X, y, offset)]
    result = agd.fit(*parts[:2], loss=name, offset=parts[2])
    tolerance = 1e-6 if "64" in str(parts[0].dtype) else 2e-3
    close(result, reference, tolerance)
    z = to_numpy(result.decision_function(parts[0], offset=parts[2]))
    np.testing.assert_allclose(
        z, X @ reference[:-1] + reference[-1] + offset, rtol=tolerance, atol=10.0 * tolerance
    )


@pytest.mark.parametrize("name", SMOOTH)
def test_an_offset_in_streams_sparse_rows_and_batches(name):
    sparse = pytest.importorskip("scipy.sparse")
    y, offset = SMOOTH[name]
    whole = agd.fit(X, y, loss=name, offset=offset)
    reference = np.append(whole.coef, whole.intercept)
    cut = [slice(0, 100), slice(100, 101), slice(101, None)]
    batches = [(X[i], y[i], None, offset[i]) for i in cut]
    close(agd.fit(agd.Stream(batches), loss=name), reference, 1e-6)
    stream = agd.Stream.from_arrays(X, y, offset=offset, device="numpy", batch_rows=50)
    close(agd.fit(stream, loss=name), reference, 1e-6)
    close(agd.fit(X, y, loss=name, offset=offset, device="numpy"), reference, 1e-6)
    close(agd.fit(sparse.csr_array(X), y, loss=name, offset=offset), reference, 1e-6)
    many = agd.fit(np.stack([X, X]), np.stack([y, y]), loss=name, offset=offset)
    for i in range(2):
        close(many_part(many, i), reference, 1e-6)
    several = agd.fit(X, np.stack([y, y], axis=1), loss=name, offset=np.stack([offset, 0 * y], 1))
    close(many_part(several, 0), reference, 1e-6)
    plain = agd.fit(X, y, loss=name)
    close(many_part(several, 1), np.append(plain.coef, plain.intercept), 1e-6)
    predicted = several.decision_function(X, offset=np.stack([offset, 0 * y], axis=1))
    np.testing.assert_allclose(predicted[:, 1], plain.decision_function(X), atol=1e-4)


def many_part(result, i):
    from types import SimpleNamespace

    return SimpleNamespace(coef=result.coef[i], intercept=result.intercept[i])


@pytest.mark.parametrize("method", ["lbfgs", "gd", "adam", "fista", "sgd"])
def test_an_offset_by_every_method(method):
    y, offset = SMOOTH["log_loss"]
    loss = agd.loss.get("log_loss")
    result = agd.fit(X, y, loss=loss, offset=offset, method=method)
    close(result, newton_reference(loss, y, offset), 2e-2 if method == "sgd" else 1e-4)


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_a_loss_with_a_constant_offset_moves_its_intercept(name):
    loss = ONE_OUTPUT[name].loss
    y = {"0 or 1": LABELS, "from 0 to 1": LABELS, "any number": NUMBERS}.get(
        loss.domain, AMOUNTS / EXPOSURE
    )
    penalty = agd.loss.L2(0.05)
    plain = agd.fit(X, y, loss=loss, penalty=penalty)
    moved = agd.fit(X, y, loss=loss, penalty=penalty, offset=np.full(ROWS, 0.25))
    np.testing.assert_allclose(moved.coef, plain.coef, atol=2e-3)
    np.testing.assert_allclose(moved.intercept + 0.25, plain.intercept, atol=2e-3)
    np.testing.assert_allclose(moved.fun, plain.fun, rtol=1e-5)


def test_an_exposure_is_the_logarithm_of_an_offset():
    by_exposure = agd.fit(X, COUNTS, loss="poisson", exposure=EXPOSURE)
    by_offset = agd.fit(X, COUNTS, loss="poisson", offset=np.log(EXPOSURE))
    np.testing.assert_array_equal(by_exposure.coef, by_offset.coef)
    rates = by_exposure.predict(X)
    np.testing.assert_allclose(by_exposure.predict(X, exposure=EXPOSURE), rates * EXPOSURE)


def test_the_constant_model_takes_the_exposure_into_account():
    far = agd.fit(X, COUNTS, loss="poisson", exposure=EXPOSURE * 1e6)
    near = agd.fit(X, COUNTS, loss="poisson", exposure=EXPOSURE)
    assert far.nit == near.nit
    np.testing.assert_allclose(far.intercept + np.log(1e6), near.intercept)


def test_online_rows_with_offsets_are_those_of_a_fit():
    for name in ("poisson", "log_loss", "squared_error"):
        y, offset = SMOOTH[name]
        model = agd.Online(loss=name)
        model.partial_fit(X[:90], y[:90])
        model.partial_fit(X[90:], y[90:], offset=offset[90:])
        late = np.where(np.arange(ROWS) < 90, 0.0, offset)
        whole = agd.fit(X, y, loss=name, offset=late)
        close(model, np.append(whole.coef, whole.intercept), 1e-5)
        np.testing.assert_allclose(
            model.predict(X, offset=late), whole.predict(X, offset=late), rtol=1e-4
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"offset": [0.0, np.nan, np.inf]}, r"offset has 2 NaN or infinite values, the first at"),
        (
            {"offset": [0.0, 1.0]},
            r"offset must have shape \(3,\), one for each row of X, got \(2,\)",
        ),
        (
            {"exposure": [1.0, 0.0, 2.0]},
            r"exposure has 1 value.* not above 0 and finite.*exposure\[1\]",
        ),
        ({"exposure": [1, 2, 3], "offset": [0, 0, 0]}, "add log"),
        (
            {"exposure": [1, 2, 3], "loss": "squared_error"},
            "exposure must be None .* give an offset",
        ),
        ({"offset": [1, 2, 3], "loss": "softmax"}, "would move all outputs alike"),
    ],
)
def test_offsets_that_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        agd.fit([[1.0], [2.0], [4.0]], [1, 2, 0], **{"loss": "poisson", **arguments})


def test_offsets_of_batches_are_all_or_none():
    y, offset = SMOOTH["poisson"]
    batches = [(X[:9], y[:9]), (X[9:], y[9:], None, offset[9:])]
    with pytest.raises(ValueError, match="batch 1 has an offset, and those before it none"):
        agd.fit(agd.Stream(batches), loss="poisson")
    with pytest.raises(ValueError, match="would move all outputs alike"):
        agd.fit(agd.Stream([(X, LABELS, None, offset)]), loss="softmax")


def test_statsmodels_agrees():
    sm = pytest.importorskip("statsmodels.api")
    A = sm.add_constant(X)
    families = sm.families
    cases = {
        "poisson": families.Poisson(),
        "gamma": families.Gamma(families.links.Log()),
        "log_loss": families.Binomial(),
        "negative_binomial": families.NegativeBinomial(alpha=1.0),
    }
    for name, family in cases.items():
        y, offset = SMOOTH[name]
        reference = sm.GLM(y, A, family=family, offset=offset).fit(tol=1e-12).params
        close(agd.fit(X, y, loss=name, offset=offset), np.roll(reference, -1), 1e-7)


def test_many_rows_begin_on_a_subsample_with_their_offsets(monkeypatch):
    monkeypatch.setattr(warm_start, "MIN_CHUNKED_ENTRIES", 2**12)
    monkeypatch.setattr(solver_table, "MAX_LAZY_NEWTON_COLUMNS", 0)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(40_000, 3))
    offset = rng.normal(size=40_000)
    y = rng.poisson(np.exp(0.2 * rows[:, 0] + offset)).astype(float)
    stream = agd.Stream.from_arrays(rows, y, offset=offset, batch_rows=10_000)
    result = agd.fit(stream, loss="poisson")
    assert "begun on" in result.method
    z = rows @ result.coef + result.intercept + offset
    gradient = rows.T @ (np.exp(z) - y) / len(y)
    assert np.max(np.abs(gradient)) < 1e-6
