"""How often data in chunks are read."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd._typing import Params
from agd.data.arrays import Blocks
from agd.data.base import add_trees
from agd.gradient import LinearObjective
from agd.loss import Logistic, Poisson

pytestmark = pytest.mark.backend("dask")

ROWS = 600


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 4))
    return X, X @ np.arange(4.0) + 1.0 + rng.normal(size=ROWS), rng.uniform(0.1, 1.0, size=ROWS)


def _chunked(*arrays):
    import dask.array as da

    return [da.from_array(x, chunks=(100, *x.shape[1:])) for x in arrays]


def _graphs(monkeypatch):
    """Count the graphs that Dask computes."""
    import dask.base
    import dask.threaded

    seen, get = [], dask.threaded.get

    def counted(*args, **kwargs):
        seen.append(1)
        return get(*args, **kwargs)

    monkeypatch.setattr(dask.threaded, "get", counted)
    monkeypatch.setattr(
        dask.base, "named_schedulers", {**dask.base.named_schedulers, "threads": counted}
    )
    return seen


@pytest.mark.parametrize("weighted", [False, True])
def test_squares_are_read_once_and_once_more_to_refine(data, weighted, monkeypatch):
    import dask

    X, y, weight = data
    lazy_X, lazy_y, lazy_weight = _chunked(X, y, weight)
    seen = _graphs(monkeypatch)
    with dask.config.set(scheduler="threads"):
        found = agd.fit(lazy_X, lazy_y, sample_weight=lazy_weight if weighted else None)
    assert found.n_passes == len(seen) == 2
    known = agd.fit(X, y, sample_weight=weight if weighted else None)
    assert np.allclose(found.coef, known.coef, rtol=1e-12)
    assert known.n_passes is None


@pytest.mark.parametrize("loss", ["huber", "log_loss", "poisson"])
def test_each_evaluation_is_one_graph(data, loss, monkeypatch):
    import dask

    X, y, _ = data
    y = np.abs(y) if loss == "poisson" else y > 1.0 if loss == "log_loss" else y
    seen = _graphs(monkeypatch)
    with dask.config.set(scheduler="threads"):
        found = agd.fit(*_chunked(X, y), loss=loss)
    few = 1 if loss == "log_loss" else 2  # two classes are known by their moments
    assert found.n_passes == len(seen) == found.nfev + few
    assert np.allclose(found.coef, agd.fit(X, y, loss=loss).coef, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_classes_have_the_null_model_of_the_rows_one_by_one(data, weighted, intercept):
    from agd.gradient.column_stats import column_scaling
    from agd.gradient.moments import survey

    X, y, weight = data
    labels = np.where(y > 1.0, 7.5, -2.0)
    weight = weight if weighted else None
    rows = LinearObjective.of(
        X, (labels > 0.0) * 1.0, loss=Logistic(), sample_weight=weight, intercept=intercept
    )
    lazy = _chunked(X, labels, *([weight] if weighted else []))
    screened, moments = survey(Blocks.uncounted(*lazy), Logistic())
    passes = screened.blocks.passes[0]
    found = column_scaling(LinearObjective(screened.blocks, Logistic(), None, intercept), moments)
    assert screened.blocks.passes[0] == passes == 1  # which also looks for a third class
    for ours, known in zip(found, column_scaling(rows), strict=True):
        assert np.allclose(ours, known, rtol=1e-12)


def test_filtered_rows_are_counted_on_the_way(data):
    X, y, _ = data
    lazy_X, lazy_y = _chunked(X, y)
    keep = lazy_y > 0.0
    found = agd.fit(lazy_X[keep], lazy_y[keep])
    assert found.n_passes == 2
    assert np.allclose(found.coef, agd.fit(X[y > 0.0], y[y > 0.0]).coef, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y: (X.map_blocks(lambda b: b * np.nan), y), "X must be finite|X has .*NaN|NaN"),
        (lambda X, y: (X[X[:, 0] > 1e9], y[X[:, 0] > 1e9]), "X must have at least one row"),
    ],
)
def test_faults_are_found_on_the_way(data, change, words):
    X, y, _ = data
    with pytest.raises(ValueError, match=words):
        agd.fit(*change(*_chunked(X, y)))


def test_workers_keep_the_error_state_of_the_caller(data):
    """NumPy's error state is a thread's own: without the caller's, an overflow warns there."""
    import dask

    X, _, _ = data
    lazy, far = _chunked(X, np.ones(ROWS)), Params(np.full(4, 1e3), np.zeros(()))
    with dask.config.set(scheduler="threads"):
        objective = LinearObjective.of(*lazy, loss=Poisson())
        with np.errstate(all="ignore"):
            assert np.isinf(objective.value_and_grad(far)[0])
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            objective.value_and_grad(far)
        with pytest.warns(agd.ConvergenceWarning, match="finite|overflow"):
            found = agd.fit(*lazy, loss="poisson", method="gd", init=far, stop=agd.Stop(max_iter=3))
    assert found.status.name == "NON_FINITE"


@pytest.mark.parametrize("rows", [600, 60, 7])
def test_a_sum_has_the_same_bits_wherever_its_root_is(data, rows):
    import dask.array as da

    X, y, _ = data
    blocks = Blocks.of(da.from_array(X, chunks=(rows, 4)), da.from_array(y, chunks=rows))
    here, there = (blocks.reduce(_products, add_trees, small=small) for small in (True, False))
    assert np.array_equal(here, there)
    assert np.allclose(here, X.T @ y, rtol=1e-12)


def _products(X, y, weight):
    return X.T @ y
