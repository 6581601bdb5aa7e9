"""Fits on a cluster of processes: Dask's own, on this machine."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import agd
from agd.gradient import LinearObjective
from helpers.array_libraries import SESSION

# One cluster, and so one process of tests where these are shared out.
pytestmark = [pytest.mark.backend("dask"), pytest.mark.xdist_group("cluster")]

ROWS, COLUMNS, CHUNKS = 4000, 5, 4


@pytest.fixture(scope="module")
def client():
    if SESSION != "dask":  # there it has to be
        pytest.importorskip("distributed")
    import dask
    import distributed

    quick = {
        "distributed.worker.memory.terminate": False,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.scheduler.allowed-failures": 10,
    }
    with (
        dask.config.set(quick),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _rows(i):
    """Make the rows of a chunk, on whichever worker."""
    rng = np.random.default_rng(i)
    n = ROWS // CHUNKS
    X = rng.normal(size=(n, COLUMNS)) * np.asarray([1.0, 10.0, 0.1, 1.0, 3.0])
    z = X @ np.asarray([0.5, -0.05, 3.0, 1.0, 0.1]) - 0.4
    return X, z, (rng.random(n) < 1.0 / (1.0 + np.exp(-z))) * 1.0


def _data(squares):
    """Return lazy X and y, which workers make and can make again."""
    import dask.array as da
    from dask.delayed import delayed

    n, which = ROWS // CHUNKS, 1 if squares else 2
    parts = [delayed(_rows, pure=True)(i) for i in range(CHUNKS)]
    X = da.concatenate([da.from_delayed(part[0], (n, COLUMNS), float) for part in parts])
    return X, da.concatenate([da.from_delayed(part[which], (n,), float) for part in parts])


def _dies_once(block, armed):
    """Kill the worker that computes this block, if the file ``armed`` is there; it is there once."""
    try:
        armed.rename(armed.with_suffix(f".{os.getpid()}"))
    except FileNotFoundError:
        return block
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process that was killed goes on")


def _known(loss):
    """Return the same fit in memory, by NumPy."""
    parts = [_rows(i) for i in range(CHUNKS)]
    X = np.concatenate([part[0] for part in parts])
    y = np.concatenate([part[1 if loss == "squared_error" else 2] for part in parts])
    return agd.fit(X, y, loss=loss)


def _watch(client, monkeypatch):
    """Note the bytes of each result that comes to the client."""
    from distributed.protocol import serialize
    from distributed.utils import nbytes

    sizes, gather = [], client.gather

    def gathered(*args, **kwargs):
        found = gather(*args, **kwargs)
        sizes.append(sum(map(nbytes, serialize(found)[1])))
        return found

    monkeypatch.setattr(client, "gather", gathered)
    return sizes


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_a_fit_is_numpys_and_gathers_nothing(client, loss, persisted, monkeypatch):
    X, y = _data(loss == "squared_error")
    if persisted:
        X, y = client.persist([X, y])
    sizes = _watch(client, monkeypatch)
    found, known = agd.fit(X, y, loss=loss), _known(loss)
    assert len(sizes) == found.n_passes
    assert max(sizes) < 8192  # a chunk of X has 40,000 bytes
    again = agd.fit(X, y, loss=loss)
    assert np.allclose(found.coef, known.coef, rtol=1e-7, atol=1e-9)
    assert np.allclose(found.intercept, known.intercept, rtol=1e-7)
    assert type(found.coef) is np.ndarray
    assert np.array_equal(found.coef, again.coef)  # to the last bit
    assert found.n_passes == (2 if loss == "squared_error" else found.nfev + 1)


def test_a_pass_sends_the_point_once(client):
    import dask
    import dask.array as da

    X = da.ones((400, 2000), chunks=(50, 2000))
    X, y = client.persist([X, X[:, 0]])
    objective = LinearObjective.of(X, y)
    # A point has 16,000 bytes, and there are 8 chunks: above the threshold Dask warns, an error here.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "32kB"}):
        value, grad = objective.value_and_grad(objective.zeros())
    assert value == 0.5
    assert np.all(grad.coef == -1.0)
    assert grad.coef.shape == (2000,)


@pytest.mark.parametrize("persisted", [False, True])
def test_a_fit_survives_a_worker_that_is_killed(client, persisted, tmp_path):
    from distributed import wait

    X, y = _data(squares=False)
    if persisted:
        X, y = client.persist([X, y])
        wait([X, y])
    armed = tmp_path / "armed"
    X = X.map_blocks(_dies_once, armed, dtype=X.dtype, meta=X._meta)

    def arm(result):
        if result.nit == 3:  # the worker dies in the midst of the next pass
            armed.touch()

    found = agd.fit(X, y, loss="log_loss", callback=arm)
    (victim,) = (int(path.suffix[1:]) for path in tmp_path.glob("armed.*"))
    client.wait_for_workers(2, timeout=600)
    assert victim not in client.run(os.getpid).values()
    assert found.status.name == "CONVERGED"
    assert found.n_passes == found.nfev + 1
    assert np.array_equal(found.coef, agd.fit(X, y, loss="log_loss").coef)
    assert np.allclose(found.coef, _known("log_loss").coef, rtol=1e-7, atol=1e-9)


def test_workers_keep_the_error_state_of_the_caller(client):
    """What overflows in another process is seen by the value, and raises where the caller wants it."""
    X, y = _data(squares=True)
    objective = LinearObjective.of(X, abs(y), loss=agd.loss.get("poisson"))
    far = objective.zeros()._replace(coef=np.full(COLUMNS, 1e4))
    with np.errstate(all="ignore"):
        assert np.isinf(objective.value_and_grad(far)[0])
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        objective.value_and_grad(far)


def test_predictions_stay_lazy_on_the_workers(client):
    X, y = _data(squares=False)
    found = agd.fit(X, y, loss="log_loss")
    labels, shares = found.predict(X), found.predict_proba(X)
    assert labels.dask
    assert shares.shape == (ROWS, 2)
    host = np.concatenate([_rows(i)[0] for i in range(CHUNKS)])
    assert np.array_equal(labels.compute(), found.predict(host))
    assert np.allclose(shares[:, 1].mean().compute(), float(y.mean().compute()), rtol=1e-6)


def test_faults_are_found_on_the_workers(client):
    X, y = _data(squares=True)
    with pytest.raises(ValueError, match=r"X has 4000 values that are NaN or infinite|X .*NaN"):
        agd.fit(X.map_blocks(_spoilt), y)


def _spoilt(X):
    return np.concatenate([np.full_like(X[:, :1], np.nan), X[:, 1:]], axis=1)
