"""Labels in their own dtype, weights of classes, and shares and counts of successes."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.backends import to_numpy

RNG = np.random.default_rng(8)
ROWS = 150
X = RNG.normal(size=(ROWS, 2))
LABELS = (X[:, 0] + RNG.normal(size=ROWS) > 0.8).astype(int)
THREE = LABELS + (X[:, 1] + RNG.normal(size=ROWS) > 0.5)
CLASSIFIERS = ["log_loss", "hinge", "squared_hinge", "modified_huber", "softmax"]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("name", ["log_loss", "softmax"])
def test_integer_labels_are_predicted_as_integers(name, dtype, xp):
    y = xp.asarray((3 + 2 * LABELS).astype(dtype))
    result = agd.fit(xp.asarray(X), y, loss=name)
    assert result.classes == (3, 5)
    assert all(type(label) is int for label in result.classes)
    predicted = result.predict(xp.asarray(X))
    assert predicted.dtype == y.dtype
    floats = agd.fit(xp.asarray(X), xp.asarray(3.0 + 2.0 * LABELS), loss=name)
    np.testing.assert_array_equal(to_numpy(predicted), to_numpy(floats.predict(xp.asarray(X))))


def test_lists_of_integers_and_rows_without_a_class():
    result = agd.fit(X.tolist(), LABELS.tolist(), loss="log_loss")
    assert result.predict(X).dtype == np.int64
    with pytest.raises(ValueError, match="1 of 1 rows have no class"):
        result.predict([[np.nan, 1.0]])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_class_weights_are_weights_of_the_rows(name):
    y = THREE if name == "softmax" else LABELS
    penalty = agd.loss.L2(0.1)
    for labels, weights in ((y, {1: 4.0}), (np.asarray(["a", "b", "c"])[y], {"b": 4.0})):
        weighted = agd.fit(X, labels, loss=name, class_weight=weights, penalty=penalty)
        rows = agd.fit(X, y, loss=name, sample_weight=1.0 + 3.0 * (y == 1), penalty=penalty)
        np.testing.assert_allclose(weighted.coef, rows.coef, rtol=1e-4, atol=1e-5)
    given = agd.fit(
        X, y, loss=name, class_weight={1: 4.0}, sample_weight=1.0 + X[:, 0] ** 2, penalty=penalty
    )
    both = (1.0 + 3.0 * (y == 1)) * (1.0 + X[:, 0] ** 2)
    rows = agd.fit(X, y, loss=name, sample_weight=both, penalty=penalty)
    np.testing.assert_allclose(given.coef, rows.coef, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["array", "stream", "sparse", "batch", "targets"])
def test_balanced_classes_weigh_the_same_in_every_kind_of_data(kind):
    sparse = pytest.importorskip("scipy.sparse")
    factors = ROWS / (2.0 * np.bincount(LABELS))
    rows = agd.fit(X, LABELS, loss="log_loss", sample_weight=factors[LABELS])
    y = LABELS.astype(float)
    arguments = {
        "array": (X, LABELS),
        "stream": (agd.Stream.from_arrays(X, 3.0 - y, batch_rows=40),),
        "sparse": (sparse.csr_array(X), LABELS),
        "batch": (np.stack([X, X]), np.stack([LABELS, LABELS])),
        "targets": (X, np.stack([LABELS, LABELS], axis=1)),
    }[kind]
    result = agd.fit(*arguments, loss="log_loss", class_weight="balanced")
    coef = result.coef[0] if kind in ("batch", "targets") else result.coef
    sign = -1.0 if kind == "stream" else 1.0
    np.testing.assert_allclose(sign * coef, rows.coef, rtol=1e-5)
    np.testing.assert_allclose(np.max(result.fun), rows.fun, rtol=1e-6)


def test_balanced_classes_in_every_library(xp):
    factors = ROWS / (2.0 * np.bincount(LABELS))
    rows = agd.fit(X, LABELS, loss="log_loss", sample_weight=factors[LABELS])
    y = xp.asarray(LABELS.astype(float))
    result = agd.fit(xp.asarray(X), y, loss="log_loss", class_weight="balanced")
    np.testing.assert_allclose(to_numpy(result.coef), rows.coef, rtol=1e-3)


@pytest.mark.backend("numpy")
def test_balanced_classes_are_those_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    theirs = linear.LogisticRegression(class_weight="balanced", C=2.0, tol=1e-10).fit(X, THREE)
    penalty = agd.loss.L2(1.0 / (2.0 * ROWS))
    ours = agd.fit(X, THREE, loss="softmax", class_weight="balanced", penalty=penalty)
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"class_weight": {7: 1.0}},
            ValueError,
            r"label 7, which y has not: its labels are \(0.0, 1.0\)",
        ),
        ({"class_weight": {1: -1.0}}, ValueError, r"class_weight\[1.0\] must be"),
        ({"class_weight": {0: 0.0, 1: 0.0}}, ValueError, "must leave some rows a weight"),
        ({"class_weight": "even"}, TypeError, "must be a dict or 'balanced', got 'even'"),
        (
            {"class_weight": {1: 2.0}, "alpha": "cv"},
            ValueError,
            "give weights of classes as sample_weight",
        ),
        ({"class_weight": {}, "loss": "huber"}, ValueError, "'huber', which has no classes"),
    ],
)
def test_class_weights_that_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        agd.fit(X, LABELS.astype(float), **{"loss": "log_loss", **arguments})


def test_shares_are_labels_with_weights_of_both_classes():
    shares = RNG.beta(2.0, 3.0, size=ROWS)
    result = agd.fit(X, shares, loss="binomial")
    rows, y = np.concatenate([X, X]), np.repeat([1.0, 0.0], ROWS)
    weight = np.concatenate([shares, 1.0 - shares])
    both = agd.fit(rows, y, loss="log_loss", sample_weight=weight)
    np.testing.assert_allclose(result.coef, both.coef, rtol=1e-6)
    np.testing.assert_allclose(result.predict(X), both.predict_proba(X)[:, 1], rtol=1e-6)
    stream = agd.fit(agd.Stream.from_arrays(X, shares, batch_rows=40), loss="binomial")
    np.testing.assert_allclose(stream.coef, result.coef, rtol=1e-5)


def test_counts_are_shares_with_trials_as_weights(xp):
    trials = RNG.integers(0, 6, size=ROWS)
    successes = RNG.binomial(trials, 0.4)
    pairs = np.stack([successes, trials - successes], axis=1)
    shares = successes / np.maximum(trials, 1)
    weight = np.linspace(0.5, 2.0, ROWS)
    expected = agd.fit(X, shares, loss="binomial", sample_weight=trials * weight)
    counts = agd.loss.Binomial(counts=True)
    result = agd.fit(
        xp.asarray(X), xp.asarray(pairs), loss=counts, sample_weight=xp.asarray(weight)
    )
    np.testing.assert_allclose(to_numpy(result.coef), expected.coef, rtol=2e-3)
    model = agd.Online(loss=counts)
    model.partial_fit(X[:70], pairs[:70]).partial_fit(X[70:], pairs[70:])
    plain = agd.fit(X, pairs, loss=counts)
    np.testing.assert_allclose(model.coef, plain.coef, rtol=1e-4)


def test_shares_and_counts_that_are_refused():
    with pytest.raises(
        ValueError, match=r"1 value out of range \(loss 'binomial' needs from 0 to 1\)"
    ):
        agd.fit(X[:3], [0.2, 1.5, 0.1], loss="binomial")
    counts = agd.loss.Binomial(counts=True)
    with pytest.raises(ValueError, match=r"y must have shape \(n, 2\), successes and failures"):
        agd.fit(X[:3], [1, 2, 3], loss=counts)
    with pytest.raises(ValueError, match=r"1 value that are no counts, the first at y\[1, 0\]"):
        agd.fit(X[:3], [[1, 1], [-1, 2], [0, 3]], loss=counts)
    with pytest.raises(ValueError, match="counts=False beside a stream"):
        agd.fit(agd.Stream([(X, LABELS)]), loss=counts)
    with pytest.raises(TypeError, match="counts must be True or False"):
        agd.loss.Binomial(counts=2)


def test_bool_and_text_labels_with_an_offset_and_class_weights():
    offset = np.linspace(-1.0, 1.0, ROWS)
    by_number = agd.fit(X, LABELS, loss="log_loss", offset=offset, class_weight={1: 2.0})
    by_text = agd.fit(
        X, np.where(LABELS, "yes", "no"), loss="log_loss", offset=offset, class_weight={"yes": 2.0}
    )
    by_bool = agd.fit(X, LABELS > 0, loss="log_loss", offset=offset, class_weight={True: 2.0})
    for other in (by_text, by_bool):
        np.testing.assert_allclose(other.coef, by_number.coef)
    assert by_bool.predict(X, offset=offset).dtype == np.bool_
    assert set(by_text.predict(X, offset=offset)) == {"yes", "no"}
