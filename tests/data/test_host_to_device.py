"""Host arrays that are fitted on a device: moved once, or read ahead in batches on each pass."""

from __future__ import annotations

import threading
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest

import agd
from agd import backends
from agd.backends.transfer import PinnedTransfer
from agd.data.base import add_trees
from agd.data.stream import read_ahead
from helpers.array_libraries import VARIANTS

ROWS = 500

SPECS = {
    "numpy": pytest.param("numpy", marks=pytest.mark.backend("numpy")),
    "device1": pytest.param("array-api-strict:device1", marks=pytest.mark.backend("strict")),
    "torch": pytest.param("torch", marks=pytest.mark.backend("torch")),
    "jax": pytest.param("jax", marks=pytest.mark.backend("jax")),
    "cupy": pytest.param("cupy", marks=pytest.mark.gpu),
    "torch:cuda": pytest.param("torch:cuda", marks=pytest.mark.gpu),
}
each_device = pytest.mark.parametrize("spec", SPECS.values())
CASES = [
    {},
    {"loss": "huber", "penalty": agd.loss.L2(0.1)},
    {"penalty": agd.loss.L1(0.1)},
    {"method": "adam", "stop": agd.Stop(30, grad_tol=0.0)},
]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 4)) * np.asarray([1.0, 3.0, 0.1, 10.0]) + 1.0
    y = X @ np.asarray([1.0, -0.3, 2.0, 0.05]) + 1.0 + rng.normal(size=ROWS)
    return X, y, rng.uniform(0.1, 1.0, size=ROWS)


@pytest.fixture
def double(request):
    if request.node.callspec.params["spec"] == "jax":
        VARIANTS["jax"].make()  # allows double precision


@pytest.fixture
def full(monkeypatch):
    """Let a device say how much memory is free."""

    def set_free(spec, size):
        chosen = backends.select(spec)
        row = replace(chosen.backend, free_bytes=lambda _: size)
        made = replace(chosen, backend=row)
        monkeypatch.setattr(backends, "select", lambda *_: made)
        return made

    return set_free


@each_device
@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("room", [None, 20_000])
def test_a_device_gives_what_memory_gives(spec, data, options, room, full, double):
    if spec == "jax" and room is None and options:
        pytest.skip("each case is compiled, which takes seconds: that in batches has all of it")
    X, y, weight = data
    made = full(spec, room)
    found = agd.fit(X, y, sample_weight=weight, device=spec, **options)
    known = agd.fit(X, y, sample_weight=weight, **options)
    assert backends.of(found.coef).name == made.backend.name
    if made.device is not None:
        assert backends.device(found.coef) == made.device
    assert np.allclose(backends.to_numpy(found.coef), known.coef, rtol=1e-6, atol=1e-7)
    assert (found.n_passes is None) == (room is None)
    assert _readers() == []


def _readers():
    return [t for t in threading.enumerate() if t.name == "agd-batches"]


@each_device
def test_memory_maps_several_targets_and_integers_are_moved(spec, data, tmp_path, full, double):
    X, y, _ = data
    whole = (10.0 * X).astype(np.int32)
    np.save(tmp_path / "X.npy", whole)
    mapped, Y = np.load(tmp_path / "X.npy", mmap_mode="r"), np.stack([y, -2.0 * y], axis=-1)
    known = agd.fit(whole, Y).coef
    for room in (None, 20_000):
        full(spec, room)
        found = agd.fit(mapped, Y, device=spec)
        assert np.allclose(backends.to_numpy(found.coef), known, rtol=1e-3)
        moved = backends.select(spec).asarray(whole)
        assert found.coef.dtype == agd.fit(moved, Y).coef.dtype


@pytest.mark.backend("strict")
def test_a_device_without_double_precision_says_so_once(data):
    X, y, _ = data
    spec = "array-api-strict:no_float64"
    with pytest.warns(UserWarning, match="has no float64: float32 is used instead") as said:
        found = agd.fit(X, y, device=spec)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="has no float64") as said:
        stream = agd.Stream.from_arrays(X, y, device=spec, batch_rows=100)
    assert len(said) == 1
    again = agd.fit(stream)
    for coef in (found.coef, again.coef):
        assert str(coef.dtype).endswith("float32")
        assert np.allclose(backends.to_numpy(coef), agd.fit(X, y).coef, rtol=1e-3)


def test_batches_are_as_many_rows_as_a_quarter_of_the_free_memory(data, full):
    X, y, weight = data
    full("numpy", 6000)
    rows = [len(batch[1]) for batch in agd.Stream.from_arrays(X, y, weight, device="numpy")]
    assert rows == [31] * 16 + [4]  # 6 numbers of 8 bytes a row
    assert sum(rows) == ROWS


def test_batches_keep_the_order_of_the_rows(data):
    X, y, weight = data
    stream = agd.Stream.from_arrays(X, y, weight, device="numpy", batch_rows=64)
    for whole, parts in zip(data, zip(*stream, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert stream.rows == ROWS
    assert len(list(agd.Stream.from_arrays(X, y))) == 1


@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"method": "gd", "stop": agd.Stop(5)}])
def test_no_more_than_two_batches_are_held(data, options):
    X, y, _ = data
    made, most = [], []

    def batches():
        for i in range(0, ROWS, 50):
            now = X[i : i + 50].copy()
            made.append(weakref.ref(now))
            most.append(sum(ref() is not None for ref in made))
            yield now, y[i : i + 50]
            del now

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        agd.fit(agd.Stream(batches, device="numpy"), **options)
    assert len(most) >= ROWS // 50
    # 1 where the thread was slow: that the next is made in time is the test below.
    assert max(most) <= 2


def test_the_next_batch_is_made_while_the_present_one_is_used():
    begun = [threading.Event() for _ in range(4)]
    requested, used = [], []

    def source():
        for k, event in enumerate(begun):
            assert len(requested) >= k  # no item is begun before the one ahead of it is asked for
            event.set()
            yield event

    items = read_ahead(source(), lambda: used.append(1))
    for k, event in enumerate(begun):
        requested.append(k)
        assert next(items) is event
        if k + 1 < len(begun):
            assert begun[k + 1].wait(600.0)  # while this one is in use
    assert list(items) == []
    assert len(used) == 4
    assert _readers() == []


def test_what_the_reader_raises_reaches_the_caller_and_no_thread_is_left(data):
    X, y, _ = data
    passes = []

    def batches():
        passes.append(1)
        yield X, y
        if len(passes) > 3:  # two are looks at the batches
            raise OSError("the disk is gone")
        yield X, y

    stream = agd.Stream(batches, device="numpy")
    with pytest.raises(OSError, match="the disk is gone"):
        agd.fit(stream, loss="huber")
    assert _readers() == []


def test_a_pass_that_fails_or_is_left_ends_its_reader(data):
    X, y, _ = data
    closed = []

    def batches():
        try:
            for i in range(0, ROWS, 50):
                yield X[i : i + 50], y[i : i + 50]
        finally:
            closed.append(threading.current_thread().name)

    stream = agd.Stream(batches, device="numpy")
    closed.clear()
    for _ in stream:
        break
    assert closed == ["agd-batches"]

    def fail(*_):
        raise MemoryError("merge")

    blocks = agd.gradient.Blocks.uncounted(stream, stream.y)
    with pytest.raises(MemoryError) as kept:
        blocks.reduce(lambda X, *_: X, fail)
    assert _readers() == []  # though the error, and so its frames, are held
    with pytest.raises(MemoryError) as also:
        blocks.reduce(fail, add_trees)
    assert _readers() == []
    del kept, also


def test_batches_that_differ_are_named_as_without_a_device(data):
    X, y, _ = data
    parts = [(X, y), (X[:, :2], y)]
    with pytest.raises(ValueError, match="batch 1: X must have the number of columns"):
        agd.fit(agd.Stream(parts, device="numpy"))
    with pytest.raises(ValueError, match="batch 1: y must have shape"):
        agd.fit(agd.Stream([(X, y), (X, y[:3])], device="numpy"))
    assert _readers() == []


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ({"device": "nothing"}, ValueError, "device must be one of"),
        ({"device": 3}, TypeError, "device must be a string"),
        ({"y": None}, ValueError, "y is missing"),
        ({"y": np.ones(3)}, ValueError, r"y must have shape \(500,\)"),
        ({"X": np.ones(ROWS)}, ValueError, "X must have rows and columns"),
        ({"X": np.ones((ROWS, 2)) * 1j}, TypeError, "X must be real"),
        ({"X": np.full((ROWS, 2), "a")}, TypeError, "X must be numbers"),
        ({"sample_weight": np.ones(2)}, ValueError, "sample_weight must have shape"),
        ({"X": np.full((ROWS, 2), np.nan)}, ValueError, "X has 1000 NaN"),
    ],
)
def test_what_cannot_be_moved_is_named(data, args, error, words):
    X, y, _ = data
    with pytest.raises(error, match=words):
        agd.fit(**{"X": X, "y": y, "device": "numpy", **args})


@pytest.mark.backend("strict")
def test_only_host_arrays_are_moved(data):
    strict = pytest.importorskip("array_api_strict")
    X, y, _ = data
    there = strict.asarray(X)
    with pytest.raises(TypeError, match="X is an array of array-api-strict: NumPy arrays"):
        agd.fit(there, y, device="numpy")
    with pytest.raises(TypeError, match="batch 0: X is an array of array-api-strict"):
        agd.Stream([(there, y)], device="numpy")


def test_sparse_rows_streams_and_problems_side_by_side(data, full):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, _ = data
    with pytest.raises(TypeError, match=r"X is sparse .*only dense rows are moved to numpy"):
        agd.fit(sparse.csr_array(X), y, device="numpy")
    with pytest.raises(ValueError, match=r"beside a stream: .*agd.Stream\(batches, device='numpy'"):
        agd.fit(agd.Stream([(X, y)]), device="numpy")
    many = np.stack([X, 2.0 * X]), np.stack([y, y])
    assert np.allclose(agd.fit(*many, device="numpy").coef, agd.fit(*many).coef)
    full("numpy", 10_000)
    with pytest.raises(MemoryError, match=r"take 39.1 KiB on numpy .*, where 9.8 KiB are free"):
        agd.fit(*many, device="numpy")


@pytest.mark.parametrize("bad", [0, -1])
def test_the_rows_of_a_batch_are_checked(data, bad):
    with pytest.raises(ValueError, match="batch_rows must be 1 or more"):
        agd.Stream.from_arrays(*data, batch_rows=bad)
    with pytest.raises(ValueError, match="y must have one value for each row of X"):
        agd.Stream.from_arrays(data[0], data[1][:3])
    with pytest.raises(ValueError, match="y is missing"):
        agd.Stream.from_arrays(data[0], None)


class _Fake(PinnedTransfer):
    """A device of NumPy, which notes what is asked of it in which order."""

    def __init__(self, selection):
        self.log = []
        super().__init__(selection)

    def record_event(self):
        self.log.append("event")

    def _copy_stream(self):
        self.log.append("stream")
        return backends.backend._no_device_context(None)

    def _empty_array(self, shape, dtype):
        return np.empty(shape, dtype=dtype)

    def _pinned_buffer(self, size):
        self.log.append("pinned")
        return bytearray(size)

    def _start_copy(self, staged, moved):
        number, log = sum(word.startswith("copy") for word in self.log), self.log
        log.append(f"copy {number}")
        waiting = [(staged, moved)]

        class Event:
            def synchronize(self):
                if waiting:  # as late as may be: a buffer that is filled too soon is found out
                    log.append(f"done {number}")
                    a, b = waiting.pop()
                    b[...] = a

        return Event()


@pytest.mark.parametrize("shape", [(10, 3), (10,), (4, 5, 2), (0, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_take_turns_in_two_pinned_buffers(monkeypatch, shape, order):
    monkeypatch.setattr("agd.backends.transfer.STAGING_BYTES", 50)
    feed = _Fake(backends.select("numpy"))
    host = np.asarray(np.random.default_rng(0).normal(size=shape), order=order)
    for _ in range(2):
        np.testing.assert_array_equal(feed.move(host), host)
    assert feed.log[:2] == ["event", "stream"]
    if shape == (10, 3):  # two rows a piece
        first = ["copy 0", "pinned", "copy 1", "done 0", "copy 2", "done 1", "copy 3", "done 2"]
        assert feed.log[2:][:9] == ["pinned", *first]
        assert feed.log.count("pinned") == 2
