"""Many models at once: targets of which each misses other rows, and batches, with every loss."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.backends import to_numpy
from tests.helpers.known_values import LOSSES

ROWS, TARGETS = 90, 3
RNG = np.random.default_rng(4)
X = RNG.normal(size=(ROWS, 2))
Z = X @ np.asarray([0.5, -0.3])
WEIGHTS = (RNG.random((ROWS, TARGETS)) < 0.8) * RNG.uniform(0.5, 2.0, size=(ROWS, TARGETS))


def targets_of(loss):
    """Return targets (ROWS, TARGETS) that the loss can have."""
    rng, size, mean = np.random.default_rng(6), (ROWS, TARGETS), np.exp(Z)[:, None]
    if loss.outputs is not None:
        return np.floor(3.0 * rng.random(size))
    return {
        "any number": Z[:, None] + rng.standard_t(3, size=size),
        "0 or more": rng.poisson(mean, size=size).astype(float),
        "above 0": rng.gamma(2.0, mean / 2.0, size=size),
        "0 or 1": (rng.random(size) < mean / (1.0 + mean)).astype(float),
        "from 0 to 1": rng.beta(2.0, 2.0 / mean, size=size),
    }[loss.domain]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("penalty", [None, agd.loss.L2(0.05)], ids=["none", "l2"])
def test_targets_with_weights_of_their_own_are_separate_fits(name, penalty):
    loss = agd.loss.get(LOSSES[name].loss.name)
    y = targets_of(loss)
    missing = np.where(WEIGHTS == 0.0, np.nan, y)
    settings = {"loss": loss, "penalty": penalty}
    together = agd.fit(X, missing, sample_weight=WEIGHTS, **settings)
    batch = agd.fit(np.stack([X] * TARGETS), missing.T, sample_weight=WEIGHTS.T, **settings)
    for j in range(TARGETS):
        one = agd.fit(X, y[:, j], sample_weight=WEIGHTS[:, j], **settings)
        for many in (together, batch):
            np.testing.assert_allclose(np.asarray(many.fun)[j], one.fun, rtol=1e-6)
            np.testing.assert_allclose(many.coef[j], one.coef, atol=1e-4 if loss.smooth else 2e-3)
    assert together.predict(X).shape == y.shape


@pytest.mark.parametrize("name", ["squared_error", "poisson", "log_loss"])
def test_targets_with_weights_of_their_own_in_every_library(name, xp):
    if xp.name == "dask":
        pytest.skip("a chunked X has one target")
    loss = agd.loss.get(name)
    y = targets_of(loss)
    reference = agd.fit(X, y, loss=loss, sample_weight=WEIGHTS)
    missing = np.where(WEIGHTS == 0.0, np.nan, y)
    result = agd.fit(
        xp.asarray(X), xp.asarray(missing), loss=loss, sample_weight=xp.asarray(WEIGHTS)
    )
    np.testing.assert_allclose(to_numpy(result.coef), reference.coef, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", [None, agd.loss.L1(0.01)], ids=["none", "l1"])
@pytest.mark.parametrize("kind", ["stream", "sparse"])
def test_targets_with_weights_of_their_own_in_streams_and_sparse_rows(kind, penalty):
    sparse = pytest.importorskip("scipy.sparse")
    for name in ("squared_error", "poisson"):
        loss = agd.loss.get(name)
        y = targets_of(loss)
        settings = {"loss": loss, "penalty": penalty}
        reference = agd.fit(X, y, sample_weight=WEIGHTS, **settings)
        if kind == "sparse":
            result = agd.fit(sparse.csr_array(X), y, sample_weight=WEIGHTS, **settings)
        else:
            batches = [(X[i], y[i], WEIGHTS[i]) for i in (slice(0, 40), slice(40, None))]
            result = agd.fit(agd.Stream(batches), **settings)
        np.testing.assert_allclose(result.coef, reference.coef, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_many_rows_of_a_stream_have_several_targets(weighted):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(12_000, 2))
    y = rng.poisson(np.exp(rows @ [[0.3, -0.2], [0.1, 0.4]])).astype(float)
    weight = rng.uniform(0.5, 2.0, size=y.shape) if weighted else None
    stream = agd.Stream.from_arrays(rows, y, weight, batch_rows=5000)
    result = agd.fit(stream, loss="poisson")
    reference = agd.fit(rows, y, loss="poisson", sample_weight=weight)
    np.testing.assert_allclose(result.coef, reference.coef, rtol=1e-4)


def test_a_target_that_counts_must_be_finite():
    y = targets_of(agd.loss.Squared())
    y[3, 1] = np.nan
    weight = np.ones_like(y)
    with pytest.raises(ValueError, match="y has 1 NaN or infinite value"):
        agd.fit(X, y, sample_weight=weight)
    with pytest.raises(
        ValueError, match=r"sample_weight must have shape \(90,\), or \(90, 3\), one"
    ):
        agd.fit(X, y, sample_weight=weight[:, :2])
