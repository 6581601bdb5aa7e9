"""Fits of many rows that begin on a sample of them: the same answer, from fewer passes."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

import agd
from agd._typing import NotApplicable
from agd.data.block_size import stratified_rows
from agd.gradient import Blocks
from agd.loss import L2
from agd.run.warm_start import gather_subsample

LOSSES = {
    "log_loss": lambda z, rng: (rng.uniform(size=z.shape) < 1.0 / (1.0 + np.exp(-z))) * 1.0,
    "huber": lambda z, rng: z + rng.standard_t(2, size=z.shape),
    "poisson": lambda z, rng: rng.poisson(np.exp(0.5 * z)) * 1.0,
}
ROWS = 20_000


@pytest.fixture(autouse=True)
def small_samples():
    with (
        mock.patch("agd.gradient.conditioning.MIN_SAMPLE_ENTRIES", 2**12),
        mock.patch("agd.run.warm_start.MIN_ENTRIES", 2**12),
        mock.patch("agd.run.warm_start.MIN_CHUNKED_ENTRIES", 2**12),
        mock.patch("agd.run.solver_table.MAX_HESSIAN_OPERATIONS", 0),
        mock.patch("agd.run.solver_table.MAX_DIRECT_COLUMNS", 0),
        mock.patch("agd.run.solver_table.MAX_LAZY_NEWTON_COLUMNS", 0),
    ):
        yield


def drawn(loss, seed=0, n=ROWS):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)) @ (np.eye(5) + 0.3) * [1.0, 10.0, 0.1, 1.0, 3.0] + [0, 5, 1, 0, 2]
    z = (X - X.mean(axis=0)) @ [0.5, 0.05, 2.0, -0.5, 0.2]
    return X, LOSSES[loss](z, rng)


def plainly(*args, **options):
    with (
        mock.patch("agd.run.linear_solvers.is_worthwhile", return_value=False),
        mock.patch("agd.run.linear_solvers.gather_subsample", side_effect=NotApplicable),
    ):
        return agd.fit(*args, **options)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "ridge"])
def test_the_answer_is_that_of_all_rows(xp, loss, kind):
    if xp.name not in {"numpy", "torch", "dask"}:
        pytest.skip("a pass costs little beside a launch")
    X, y = drawn(loss)
    options = {"loss": loss, "stop": agd.Stop(grad_tol=1e-9 if xp.rtol < 1e-9 else 1e-4)}
    if kind == "weighted":
        options["sample_weight"] = xp.asarray(np.random.default_rng(1).uniform(0, 2, size=ROWS))
    if kind == "ridge":
        options["penalty"] = L2(0.1)
    options["intercept"] = kind != "no intercept"
    data = xp.asarray(X), xp.asarray(y)
    found, plain = agd.fit(*data, **options), plainly(*data, **options)
    assert "begun on" in found.method
    assert "begun on" not in plain.method
    assert found.success
    assert found.nfev < plain.nfev
    scale = np.maximum(np.abs(np.asarray(plain.coef)), 1e-2)
    assert (np.abs(np.asarray(found.coef) - np.asarray(plain.coef)) / scale).max() < 1e5 * xp.rtol
    assert found.fun == pytest.approx(plain.fun, rel=10 * xp.rtol)
    if (
        xp.name == "dask"
    ):  # one for the sample, and a survey, and the null model where that knows it not
        assert found.nfev + 2 <= found.n_passes <= found.nfev + 3


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("loss", LOSSES)
def test_few_passes_are_needed_whatever_the_tolerance_measures(loss):
    X, y = drawn(loss, n=100_000)
    found = agd.fit(X, y, loss=loss)  # relative, to eps^(2/3)
    assert found.success
    assert found.nfev <= 11  # 3 more digits with each two passes
    rough = agd.fit(X, y, loss=loss, stop=agd.Stop(grad_tol=1e-3))
    assert rough.nfev <= 5
    assert np.abs(rough.jac.coef).max() < 1e-3


@pytest.mark.backend("numpy")
def test_where_the_samples_answer_overflows_the_run_begins_at_the_best_constant():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 3))
    y = rng.poisson(np.exp(X[:, 0])) * 1.0
    X[7] = [1000.0, 0.0, 0.0]  # which the sample does not see, and exp of it is infinite
    y[7] = 1.0
    found = agd.fit(X, y, loss="poisson", penalty=L2(1e-3))
    assert found.success
    assert "begun on" not in found.method
    assert np.isfinite(found.coef).all()
    plain = plainly(X, y, loss="poisson", penalty=L2(1e-3))
    np.testing.assert_allclose(found.coef, plain.coef, rtol=1e-6)


@pytest.mark.backend("numpy")
def test_rows_are_drawn_one_of_each_stretch_and_in_no_period():
    rows = stratified_rows(1000, 24, np.zeros(1))
    np.testing.assert_array_equal(rows // 24, np.arange(41))
    assert len(set((rows % 24).tolist())) > 12
    np.testing.assert_array_equal(rows, stratified_rows(1000, 24, np.zeros(1)))


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("loss", LOSSES)
def test_batches_of_a_stream_are_gone_through_less_often(loss):
    X, y = drawn(loss)
    stream = agd.Stream(lambda: ((X[i : i + 3001], y[i : i + 3001]) for i in range(0, ROWS, 3001)))
    found, plain = agd.fit(stream, loss=loss), plainly(stream, loss=loss)
    assert found.success
    assert "begun on" in found.method
    assert found.n_passes < plain.n_passes
    np.testing.assert_allclose(found.coef, plain.coef, rtol=1e-6)


@pytest.mark.backend("numpy")
def test_no_more_rows_are_gathered_than_are_small():
    blocks = Blocks.of(np.zeros((10, 200)), np.zeros(10))
    with pytest.raises(NotApplicable):  # 20,000 rows of 200 columns
        gather_subsample(blocks, mock.Mock(rows=np.asarray(1e9)))
    few = Blocks.of(np.zeros((4000, 2)), np.zeros(4000))
    with pytest.raises(NotApplicable):  # more than an eighth
        gather_subsample(few, mock.Mock(rows=np.asarray(4000.0)))


@pytest.mark.backend("numpy")
def test_a_sample_that_is_not_fitted_is_left():
    X, y = drawn("log_loss")
    with mock.patch("agd.run.warm_start.MAX_SAMPLE_STEPS", 1):
        found = agd.fit(X, y, loss="log_loss")
    assert found.success
    assert "begun on" not in found.method
    plain = plainly(X, y, loss="log_loss")
    np.testing.assert_array_equal(found.coef, plain.coef)
    assert found.n_sync > plain.n_sync


@pytest.mark.backend("numpy")
def test_classes_that_a_plane_separates_are_said_to_be():
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    with pytest.warns(agd.ConvergenceWarning, match="perfectly separated"):
        agd.fit(X, (X[:, 0] > 0.0) * 1.0, loss="log_loss", stop=agd.Stop(max_iter=200))


@pytest.mark.backend("numpy")
def test_a_given_start_is_where_the_run_begins():
    X, y = drawn("huber")
    first = agd.fit(X, y, loss="huber")
    again = agd.fit(X, y, loss="huber", init=first)
    assert "begun on" not in again.method
    assert again.nit == 0
    assert again.history.value[0] == pytest.approx(first.fun, rel=1e-14)
