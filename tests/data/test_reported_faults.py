"""Faults that users of libraries like this one have reported, by their kind: what comes in, and what must come out.

A test is a kind of fault, its cases are the forms in which it comes. Each says the right value, or the error
that names what it got.
"""

from __future__ import annotations

import numpy as np
import pytest

import agd

ROWS = np.random.default_rng(0).normal(size=(20, 2))


# -- predictions have the shape of the targets ------------------------------------------------------


def targets_of(kind: str, k: int) -> np.ndarray:
    """Return k columns of targets, each with a constant of its own."""
    rng = np.random.default_rng(k)
    z = ROWS @ rng.normal(size=(2, k)) + np.arange(float(k))
    if kind == "squared_error":
        return z
    noisy = (z - z.mean(axis=0) + 2.0 * rng.normal(size=z.shape) > 0.0).astype(float)
    return noisy + (noisy * (rng.random(z.shape) < 0.5) if kind == "softmax" else 0.0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["squared_error", "log_loss", "softmax"])
def test_predictions_of_several_targets_have_the_shape_of_y(xp, kind, k):
    if xp.name == "dask":
        pytest.skip("a chunked X has one target")
    Y = targets_of(kind, k)
    X, penalty = xp.asarray(ROWS), agd.loss.L2(0.1)
    found = agd.fit(X, xp.asarray(Y), loss=kind, penalty=penalty)
    predicted = found.predict(X)
    assert tuple(predicted.shape) == Y.shape
    alone = agd.fit(X, xp.asarray(Y[:, -1]), loss=kind, penalty=penalty)
    want = xp.to_numpy(alone.predict(X))
    np.testing.assert_allclose(xp.to_numpy(predicted)[:, -1], want, rtol=1e-2, atol=1e-2)
    if found.classes is not None:
        assert tuple(found.predict_proba(X).shape) == (*Y.shape, len(found.classes))


@pytest.mark.parametrize("k", [1, 2, 20])
def test_predictions_of_several_targets_have_the_shape_of_y_by_every_door(k):
    sparse = pytest.importorskip("scipy.sparse")
    Y = targets_of("squared_error", k)
    stream = agd.Stream([(ROWS[:12], Y[:12]), (ROWS[12:], Y[12:])])
    of_sparse = sparse.csr_array(ROWS)
    models = [
        agd.fit(stream, penalty=agd.loss.L1(1e-8)),
        agd.fit(stream),
        agd.fit(of_sparse, Y),
        agd.fit(ROWS, Y, method="gd"),
        agd.fit(ROWS, Y, device="numpy"),
        agd.Online().partial_fit(ROWS[:12], Y[:12]).partial_fit(ROWS[12:], Y[12:]),
    ]
    for model in models:
        for X in (ROWS, of_sparse, ROWS.tolist()):
            np.testing.assert_allclose(model.predict(X), Y, atol=1e-4)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 2\), since the targets share"):
        models[0].predict(np.stack([ROWS] * k))


def test_labels_that_are_text_come_back_in_the_shape_of_y():
    Y = np.where(targets_of("log_loss", 3) > 0.0, "yes", "no")
    found = agd.fit(ROWS, Y, loss="log_loss", penalty=agd.loss.L2(0.1))
    predicted = found.predict(ROWS)
    assert predicted.shape == Y.shape
    assert np.mean(predicted == Y) > 0.6


@pytest.mark.backend("dask")
def test_lazy_rows_are_predicted_in_the_shape_of_the_targets():
    da = pytest.importorskip("dask.array")
    Y = targets_of("squared_error", 3)
    predicted = agd.fit(ROWS, Y).predict(da.from_array(ROWS, chunks=(6, 2)))
    assert predicted.shape == Y.shape
    np.testing.assert_allclose(predicted.compute(), Y, atol=1e-8)


def test_a_batch_of_problems_keeps_its_axis_first():
    X = np.stack([ROWS, 2.0 * ROWS, ROWS + 1.0])
    y = np.ascontiguousarray(targets_of("squared_error", 3).T)
    found = agd.fit(X, y)
    assert found.targets is None
    assert found.predict(X).shape == found.predict(ROWS).shape == y.shape
    np.testing.assert_allclose(found.predict(X), y, atol=1e-8)
