"""The benchmarks of a device: their cases on NumPy, and what CuPy alone is asked, on a stand-in."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import agd
from benchmarks.cases import device_command_line, registry
from benchmarks.peers import handwritten
from benchmarks.problems import device_data, random_data, reference_values
from benchmarks.report import machine, tables
from benchmarks.timing import clocks, measurement
from helpers.benchmark_command import no_pauses, run_benchmarks

__all__ = ["no_pauses"]

# The libraries that are peers of every case: each case is held against what is written by hand.
PEERS = ("torch", "jax", "cuML")
ON_DEVICE = [
    (room, name)
    for room in registry.DEVICES
    if room != "device_cli"
    for name in registry.names(room)
]


@pytest.mark.parametrize(("room", "name"), ON_DEVICE)
@pytest.mark.filterwarnings(
    "ignore::agd.ConvergenceWarning"
)  # so many epochs are asked for, and no more
def test_the_cases_of_a_device_agree_with_what_is_written_by_hand(room, name, no_pauses):
    case = registry.make(room, name, 400, agd.backends.select("numpy"))
    calls = {key: call for key, call in case.calls.items() if not key.startswith(PEERS)}
    row = measurement.measure(case._replace(rounds=1, calls=calls), 1)
    assert row["agree"], row
    assert row["apart"] == []
    assert name == "fit: lasso" or "numpy by hand" in row["numbers"]
    assert room == "device_small" or row["bandwidth"] > 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_of_a_device_are_drawn_in_chunks_in_their_own_precision(dtype, monkeypatch):
    X, y, w = random_data.draw(5000, 3, "squared_error", dtype)
    assert {part.dtype for part in (X, y, w)} == {np.dtype(dtype)}
    assert np.abs(np.linalg.lstsq(X, y - 0.5, rcond=None)[0] - w).max() < 0.1
    monkeypatch.setattr(random_data, "VALUES", 300)
    pieces = random_data.draw(5000, 3, "squared_error", dtype)[0]
    assert len(np.unique(pieces)) > 0.99 * pieces.size  # no chunk is another's
    answer = np.append(w, 0.5).astype(np.float64)
    whole = reference_values.gradient_norm("squared_error", X.astype(np.float64), y, 0.1, answer)
    assert random_data.gradient_norm("squared_error", X, y, 0.1)(answer) == pytest.approx(whole)


def test_the_command_times_a_device_beside_the_bandwidth_of_a_copy(tmp_path):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    asked = ("--device", "numpy", "--rows", "1000", "--json")
    done = run_benchmarks(*asked, str(first), "--only", "fit: Huber")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(first.read_text())["cases"]
    assert row["bytes"] == 1000 * 50 * 8
    assert row["reads"]["agd"] == pytest.approx(
        row["numbers"]["agd"] * row["bandwidth"] / row["bytes"]
    )
    assert "## Memory bandwidth" in done.stdout
    assert "by numpy (cpu), " in done.stdout
    again = run_benchmarks(*asked, str(second), "--only", "small: one fit", "--join", str(first))
    assert again.returncode == 0, again.stderr
    kept, fitted = json.loads(second.read_text())["cases"]
    assert kept == row
    assert fitted["numbers"]["numpy by hand"] > 0.0


def test_targets_of_bandwidth_and_of_reads_are_held(no_pauses):
    seconds = {"agd": 0.002, "peer": 0.001, "copy": 0.004}
    case = measurement.Case(
        "c", {name: lambda name=name: np.ones(1) for name in ("agd", "peer")}, np.asarray, 1e-9, 0.6,
        traffic=measurement.Traffic(10**6, lambda: None, 4 * 10**6, share=0.5, reads=1.5), rounds=2,
    )  # fmt: skip
    order = iter(["agd", "peer", "copy"] * 2)
    row = measurement.measure(case, 1, lambda call: seconds[next(order)])
    assert row["bandwidth"] == pytest.approx(1e9)  # of which X is read in 1 ms
    assert row["reads"] == pytest.approx({"agd": 2.0, "peer": 1.0})
    assert [aim["met"] for aim in row["targets"]] == [False, True, False]
    text = tables.case_table([row])
    assert "0.6; 50% of bandwidth (is 50%); 1.5 reads (is 2.00)" in text
    assert "| 1 GB/s    | 1 ms        | 2.00       | 50%   | peer 1.00" in tables.traffic_table(
        [row]
    )


def test_the_command_line_that_is_timed_fits_the_rows_that_were_drawn(tmp_path, monkeypatch):
    for module in ("pyarrow", "typer"):
        pytest.importorskip(module, reason="the run_benchmarks line's extra is not installed")
    monkeypatch.setattr(device_command_line.tempfile, "tempdir", str(tmp_path))
    name, here = "cli: log_loss, 10,000 rows", agd.backends.select("numpy")
    case = registry.make("device_cli", name, 50_000, here)
    X, y, _ = random_data.draw(500, 20, "log_loss")
    found = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L2(1e-4))
    answer = case.answer(case.calls["agd"]())
    assert answer == pytest.approx(reference_values.coefficients(found), abs=1e-4)
    assert (case.size, list(case.calls)) == (500, ["agd", "--backend numpy"])


def test_the_size_from_which_a_device_pays_is_that_above_which_it_always_does():
    def rows(loss, *pairs):
        for size, ours in pairs:
            numbers = {"agd": ours, "--backend numpy": 1.0}
            yield {"case": f"cli: {loss}, {size:,} x 20", "size": size, "numbers": numbers}

    found = [
        *rows("log_loss", (100, 0.9), (1000, 1.1), (10_000, 0.8), (100_000, 0.2)),
        *rows("squared_error", (100, 2.0), (1000, 1.5)),
        {"case": "cli: poisson, 100 x 20", "error": "stopped"},
    ]
    assert device_command_line.pays_from(found) == [
        "agd fit, log_loss: pays from 10,000 rows on",
        "agd fit, squared_error: does not pay up to 1,000 rows",
    ]


def test_a_copy_shrinks_until_it_fits():
    class Small:
        """NumPy on a device with room for 400,000 numbers."""

        backend, device = agd.backends.select("numpy").backend, None
        asarray = staticmethod(np.asarray)
        xp = staticmethod(np)

    def zeros(count, **settings):
        if count > 400_000:
            raise RuntimeError("out of memory")
        return np.zeros(count, **settings)

    Small.xp = type("xp", (), {"zeros": staticmethod(zeros), "empty_like": np.empty_like})
    found = device_data.traffic(100, Small, "float64", 1000, reads=5.0)
    assert (found.size, found.reads) == (100, 5.0)
    assert 200_000 * 16 < found.moved <= 400_000 * 16
    found.copy()


def test_a_peer_without_a_device_is_no_failure():
    def elsewhere():
        raise measurement.AbsentError("has no GPU here")

    assert measurement.offered([("jax", elsewhere)]) == ({}, {"jax": "has no GPU here"})


def test_what_is_known_of_a_card_is_said_above_the_tables():
    card = machine._card("H", 80 * 2**30, (9, 0), 132, 50 * 2**20, machine._version(12040))
    assert card["memory"] == "80.0 GiB"
    assert card["CUDA runtime"] == "12.4"
    here = {**machine.described(), "name": "H by cupy (0)", "device": card, "cores": 16}
    text = "\n".join(tables.heading(here))
    assert "The device: H, memory 80.0 GiB, compute capability 9.0, multiprocessors 132" in text
    assert machine.file_name(here) == "h-by-cupy-0-16-cores.md"


@pytest.fixture
def like_cupy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let NumPy stand in for CuPy, and a log for its device."""
    log: list[str] = []

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

    class Device:
        id = 0

        def use(self):
            log.append("use")

        def synchronize(self):
            log.append("idle")

    card = {
        "name": b"H",
        "totalGlobalMem": 2**36,
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
    }
    runtime = SimpleNamespace(
        getDeviceProperties=[card].__getitem__, runtimeGetVersion=lambda: 12090
    )
    cuda = SimpleNamespace(
        Event=Event, Device=Device, runtime=runtime, get_elapsed_time=lambda first, last: 250.0
    )
    functions = {name: getattr(np, name) for name in np.__all__}
    fake = SimpleNamespace(**functions, fuse=lambda: lambda f: f, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    return log


def test_cupy_is_timed_by_events_of_the_device_that_was_asked_for(like_cupy):
    clock = clocks.clock_of("cupy", sys.modules["cupy"].cuda.Device())
    assert clock(lambda: None) == 0.25
    assert like_cupy == ["use", "idle", "record", "record", "wait", "idle"]


def test_a_card_is_described_by_what_cupy_says_of_it(like_cupy):
    found = machine._of_cupy(sys.modules["cupy"].cuda.Device())
    assert found["name"] == "H"
    assert found["memory"] == "64.0 GiB"
    assert found["CUDA runtime"] == "12.9"
    assert "L2 cache" not in found


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_the_fused_kernel_by_hand_computes_what_the_plain_one_does(loss, like_cupy):
    X, y, w = random_data.draw(200, 3, loss)
    X[0] *= 1e3  # where an exponential would overflow
    fused = handwritten.fused_pass(loss, X, y, w, 0.1)()
    for theirs, ours in zip(
        fused, handwritten.value_and_grad(np, loss, X, y, w, 0.1)(), strict=True
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)
