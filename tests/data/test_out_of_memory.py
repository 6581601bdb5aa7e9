"""Out of a device's memory: passes go on in smaller blocks, and what cannot be moved says why."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import agd
from agd import backends
from agd.data.arrays import MIN_HALVED_ROWS
from agd.gradient import Blocks, LinearObjective

ROWS = 1000


class FullError(RuntimeError):
    """What this library raises where its memory runs out."""


class Device:
    """A device whose products take no more than so many rows."""

    def __init__(self, most, product):
        self.most, self.product, self.seen = most, product, []

    def __call__(self, a, b):
        rows = max(a.shape[-2], b.shape[0])
        self.seen.append(rows)
        if rows > self.most:
            raise FullError
        return self.product(a, b)


@pytest.fixture
def device(monkeypatch):
    """Let arrays like this one be on a device, which takes the whole of them where it can."""

    def put(like, most):
        row = backends.of(like)
        here = Device(most, row.matmul)
        changed = replace(
            row,
            matmul=here,
            threaded=False,
            block_bytes=lambda _: None,
            is_out_of_memory=lambda error: isinstance(error, FullError),
        )
        monkeypatch.setitem(backends.array._ROW_BY_TYPE, type(like), changed)
        return here

    return put


def _data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 3)) + 1.0
    return X, X @ np.asarray([1.0, -0.3, 2.0]) + rng.normal(size=ROWS)


CASES = [
    {"loss": "huber", "method": "accelerated"},
    {"penalty": agd.loss.L1(0.1)},
    {"method": "adam", "stop": agd.Stop(20, grad_tol=0.0)},
    {"loss": "huber", "method": "gd", "stop": agd.Stop(20, grad_tol=0.0)},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("most", [700, 150])
def test_a_fit_goes_on_in_smaller_blocks(xp, device, options, most):
    if xp.name == "dask":
        pytest.skip("its chunks are cut by the user")
    if xp.name.startswith("jax") and most > 150 and options != CASES[0]:
        pytest.skip("each case is compiled, which takes seconds: the smaller blocks have all of it")
    X, y = _data()
    known = agd.fit(X, y, **options) if options.get("method") is None else None
    A, t = xp.asarray(X), xp.asarray(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        whole = agd.fit(A, t, **options)
        here = device(A, most)
        found = agd.fit(A, t, **options)
    near = {"rtol": 2e-3, "atol": 2e-3} if xp.rtol > 1e-6 else {"rtol": 1e-8, "atol": 1e-9}
    assert np.allclose(xp.to_numpy(found.coef), xp.to_numpy(whole.coef), **near)
    if known is not None:
        assert np.allclose(xp.to_numpy(found.coef), known.coef, **near)
    if options.get("loss") == "huber" and not xp.name.startswith(
        "jax"
    ):  # whose steps are compiled already
        assert max(here.seen) == ROWS
        assert here.seen.count(ROWS) == 1


def test_the_size_is_remembered_by_all_passes_of_a_fit(xp, device):
    if xp.name == "dask":
        pytest.skip("its chunks are cut by the user")
    X, y = map(xp.asarray, _data())
    objective = LinearObjective.of(X, y, loss=agd.loss.get("huber"))
    want = objective.value_and_grad(objective.zeros())
    here = device(X, 300)
    for _ in range(3):
        value, grad = objective.value_and_grad(objective.zeros())
        assert float(value) == pytest.approx(float(want[0]), rel=1e-5)
        assert np.allclose(xp.to_numpy(grad.coef), xp.to_numpy(want[1].coef), rtol=1e-4)
    assert [rows for rows in here.seen if rows > 300] == [1000, 500]
    other = replace(objective, blocks=objective.blocks.replace(y=y * 2.0))
    other.value_and_grad(other.zeros())
    assert [rows for rows in here.seen if rows > 300] == [1000, 500]
    assert len(objective.blocks.cut()) == 4


def test_what_a_few_rows_do_not_fit_is_raised(device):
    X, y = _data()
    here = device(X, MIN_HALVED_ROWS - 1)
    with pytest.raises(
        MemoryError, match="memory is exhausted, in blocks of few rows too"
    ) as caught:
        agd.fit(X, y, loss="huber", method="accelerated")
    assert isinstance(caught.value.__cause__, FullError)
    assert min(here.seen) == MIN_HALVED_ROWS
    here.seen.clear()
    with pytest.raises(ZeroDivisionError):  # another error is no reason to try again
        Blocks.of(X, y).sum(lambda X, y, weight: 1 // 0)
    assert here.seen == []


def test_what_failed_is_let_go_before_it_is_tried_again(device):
    import weakref

    X, y = _data()
    device(X, 300)
    held = []

    def f(X, y, weight):
        made = X * 2.0
        assert all(ref() is None for ref in held)
        held.append(weakref.ref(made))
        if len(X) > 300:
            raise FullError
        return X.sum(axis=0)

    np.testing.assert_allclose(Blocks.of(X, y).sum(f), X.sum(axis=0))
    assert len(held) == 2 + 4


def test_batches_of_a_stream_share_the_size(device):
    X, y = _data()
    known = agd.fit(X, y, loss="huber").coef
    stream = agd.Stream.from_arrays(X, y, batch_rows=400)
    here = device(X, 150)
    found = agd.fit(stream, loss="huber")
    assert np.allclose(found.coef, known, rtol=1e-6)
    assert sum(rows > 150 for rows in here.seen) < 2 * found.n_passes


@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.backend("jax")
def test_a_compiled_step_is_compiled_anew_for_smaller_blocks(monkeypatch):
    import jax

    jax.config.update("jax_enable_x64", True)
    X, y = (jax.numpy.asarray(a) for a in _data())
    known = agd.fit(X, y, loss="huber", method="gd", stop=agd.Stop(20, grad_tol=0.0))
    row, steps = backends.of(X), []

    def compiled(f):
        run = row.compile(f)

        def limited(task, *arrays):  # memory runs out when it runs, not when it is traced
            objective = getattr(getattr(task, "task", task), "objective", None)
            if objective is not None:
                rows = getattr(objective, "base", objective).blocks.rows
                steps.append(rows)
                if rows is None or rows > 300:
                    raise FullError
            return run(task, *arrays)

        return limited

    changed = replace(
        row, compile=compiled, is_out_of_memory=lambda error: isinstance(error, FullError)
    )
    monkeypatch.setitem(backends.array._ROW_BY_TYPE, type(X), changed)
    found = agd.fit(X, y, loss="huber", method="gd", stop=agd.Stop(20, grad_tol=0.0))
    assert np.allclose(found.coef, known.coef, rtol=1e-10)
    assert steps[:3] == [None, 500, 250]
    assert set(steps[3:]) == {250}


@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
def test_an_array_that_does_not_fit_says_so_with_sizes_and_is_streamed(monkeypatch):
    chosen = backends.select("numpy")

    def convert(xp, data, dtype, where):
        if np.asarray(data).nbytes > 20_000:
            raise FullError
        return xp.asarray(data, dtype=dtype)

    row = replace(
        chosen.backend, convert=convert, free_bytes=lambda _: 2 * 2**30,
        is_out_of_memory=lambda error: isinstance(error, FullError),
    )  # fmt: skip
    full = replace(chosen, backend=row)
    X, y = _data()
    words = (
        r"an array of shape \(1000, 3\) takes 23.4 KiB on numpy \(cpu\), where 2.0 GiB are free: leave "
        r"it on the host, and agd.fit\(X, y, device='numpy:cpu'\) reads it in batches"
    )
    with pytest.raises(MemoryError, match=words) as caught:
        full.asarray(X)
    assert isinstance(caught.value.__cause__, FullError)
    monkeypatch.setattr(backends, "select", lambda *_: full)
    monkeypatch.setattr("agd.data.placement.MAX_BATCH_BYTES", 16_000)
    found = agd.fit(X, y, device="numpy")
    assert found.n_passes == 2
    assert np.allclose(found.coef, agd.fit(X, y).coef)
    many = np.stack([X, X]), np.stack([y, y])
    with pytest.raises(MemoryError, match=r"where 2.0 GiB are free: problems side by side"):
        agd.fit(*many, device="numpy")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("torch", marks=pytest.mark.backend("torch")),
        pytest.param("jax", marks=pytest.mark.backend("jax")),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
)
def test_the_table_knows_each_librarys_error(name):
    row = next(row for row in backends.TABLE if row.name == name)
    assert not row.is_out_of_memory(MemoryError())
    if name == "torch":
        import torch

        assert row.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
        assert not row.is_out_of_memory(RuntimeError("CUDA error"))
        assert row.free_bytes(torch.device("cpu")) is None
    elif name == "jax":
        import jax

        raised = jax.errors.JaxRuntimeError
        assert row.is_out_of_memory(raised("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"))
        assert not row.is_out_of_memory(raised("INTERNAL: failed"))
        assert row.free_bytes(jax.devices("cpu")[0]) is None
    else:
        import cupy

        assert row.is_out_of_memory(cupy.cuda.memory.OutOfMemoryError(8, 8))
        assert row.is_out_of_memory(cupy.cuda.runtime.CUDARuntimeError(2))
        assert not row.is_out_of_memory(cupy.cuda.runtime.CUDARuntimeError(1))
        assert 0 < row.free_bytes(cupy.cuda.Device(0)) <= cupy.cuda.Device(0).mem_info[1]
