"""The benchmarks still run, compare what they say they compare, and refuse what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agd

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # behind the installed packages: agd stays the one under test

from benchmarks import (
    cases,
    clocks,
    device_cli,
    devices,
    draws,
    growth,
    machine,
    plain,
    rooms,
    tables,
)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks", "--rounds", "1", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "SETTLE", 0.0)


def sleepy(value: Any, seconds: float = 0.0) -> Any:
    return lambda: clocks.time.sleep(seconds) or value


def broken() -> Any:
    raise ValueError("no such\nsolver")


def test_the_command_runs_a_case_in_a_process_of_its_own_and_writes_its_numbers(tmp_path):
    done = command(
        "--rows", "1000", "--only", "many: many squared", "--json", str(tmp_path / "o.json")
    )
    assert done.returncode == 0, done.stderr
    assert "| many: 10 squared of 100 x 5 |" in done.stdout
    found = json.loads((tmp_path / "o.json").read_text())
    (row,) = found["cases"]
    assert row["agree"]
    assert row["numbers"]["agd"] > 0.0
    assert row["numbers"]["numpy"] > 0.0
    assert row["peak_bytes"] > 2**20
    assert found["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "nothing"), "--device nothing: backend must be one of"),
        (("--only", "no such case"), "--only no such case: no case has this in its name"),
    ],
)
def test_the_command_says_what_is_not_there(arguments, said):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


def test_every_room_names_its_cases_once():
    named = [(room, name) for room in (*rooms.ROOMS, *rooms.DEVICES) for name in rooms.names(room)]
    assert len(named) > 60
    assert len(set(named)) == len(named)
    with pytest.raises(ValueError, match="the room 'fits' has no case 'none'"):
        rooms.make("fits", "none", 10)


# The libraries that are peers of every case: each case is held against what is written by hand.
PEERS = ("torch", "jax", "cuML")
ON_DEVICE = [
    (room, name) for room in rooms.DEVICES if room != "device_cli" for name in rooms.names(room)
]


@pytest.mark.parametrize(("room", "name"), ON_DEVICE)
@pytest.mark.filterwarnings(
    "ignore::agd.ConvergenceWarning"
)  # so many epochs are asked for, and no more
def test_the_cases_of_a_device_agree_with_what_is_written_by_hand(room, name, at_once):
    case = rooms.make(room, name, 400, agd.backends.select("numpy"))
    calls = {key: call for key, call in case.calls.items() if not key.startswith(PEERS)}
    row = cases.measure(case._replace(rounds=1, calls=calls), 1)
    assert row["agree"], row
    assert row["apart"] == []
    assert name == "fit: lasso" or "numpy by hand" in row["numbers"]
    assert room == "device_small" or row["bandwidth"] > 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_of_a_device_are_drawn_in_chunks_in_their_own_precision(dtype, monkeypatch):
    X, y, w = draws.draw(5000, 3, "squared_error", dtype)
    assert {part.dtype for part in (X, y, w)} == {np.dtype(dtype)}
    assert np.abs(np.linalg.lstsq(X, y - 0.5, rcond=None)[0] - w).max() < 0.1
    monkeypatch.setattr(draws, "VALUES", 300)
    pieces = draws.draw(5000, 3, "squared_error", dtype)[0]
    assert len(np.unique(pieces)) > 0.99 * pieces.size  # no chunk is another's
    answer = np.append(w, 0.5).astype(np.float64)
    whole = plain.gradient_norm("squared_error", X.astype(np.float64), y, 0.1, answer)
    assert draws.gradient_norm("squared_error", X, y, 0.1)(answer) == pytest.approx(whole)


def test_the_command_times_a_device_beside_the_bandwidth_of_a_copy(tmp_path):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    asked = ("--device", "numpy", "--rows", "1000", "--json")
    one = "pass: squared_error, 1,000,000 x 50 float64"
    done = command(*asked, str(first), "--only", one)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(first.read_text())["cases"]
    assert row["bytes"] == 1000 * 50 * 8
    assert row["reads"]["agd"] == pytest.approx(
        row["numbers"]["agd"] * row["bandwidth"] / row["bytes"]
    )
    (aim,) = (aim for aim in row["targets"] if aim["of"] == "bandwidth")
    assert aim["met"] == (1.0 / row["reads"]["agd"] >= 0.7)
    assert "70% of bandwidth (is " in done.stdout
    assert "by numpy (cpu), " in done.stdout
    again = command(*asked, str(second), "--only", "small: one fit", "--join", str(first))
    assert again.returncode == 0, again.stderr
    kept, fitted = json.loads(second.read_text())["cases"]
    assert kept == row
    assert fitted["numbers"]["numpy by hand"] > 0.0


def test_the_command_line_that_is_timed_fits_the_rows_that_were_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(device_cli.tempfile, "tempdir", str(tmp_path))
    name, here = "cli: log_loss, 10,000 rows", agd.backends.select("numpy")
    case = rooms.make("device_cli", name, 50_000, here)
    X, y, _ = draws.draw(500, 20, "log_loss")
    found = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L2(1e-4))
    answer = case.answer(case.calls["agd"]())
    assert answer == pytest.approx(plain.coefficients(found), abs=1e-4)
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
    assert device_cli.pays_from(found) == [
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
    found = devices.traffic(100, Small, "float64", 1000, reads=5.0)
    assert (found.size, found.reads) == (100, 5.0)
    assert 200_000 * 16 < found.moved <= 400_000 * 16
    found.copy()


def test_a_peer_without_a_device_is_no_failure():
    def elsewhere():
        raise cases.AbsentError("has no GPU here")

    assert cases.offered([("jax", elsewhere)]) == ({}, {"jax": "has no GPU here"})


def test_what_is_known_of_a_card_is_said_above_the_tables():
    card = machine._card("H", 80 * 2**30, (9, 0), 132, 50 * 2**20, machine._version(12040))
    assert card["memory"] == "80.0 GiB"
    assert card["CUDA runtime"] == "12.4"
    here = {**machine.described(), "name": "H by cupy (0)", "device": card, "cores": 16}
    text = "\n".join(tables.heading(here))
    assert "The device: H, memory 80.0 GiB, compute capability 9.0, multiprocessors 132" in text
    assert machine.file_name(here) == "h-by-cupy-0-16-cores.md"


def test_events_time_a_call_between_two_looks_at_an_idle_device():
    log = []

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

    clock = clocks.events(Event, lambda: log.append("idle"), lambda first, last: 250.0)
    assert clock(lambda: log.append("call")) == 0.25
    assert log == ["idle", "record", "call", "record", "wait", "idle"]


def test_a_bar_in_a_name_does_not_end_the_cell():
    assert tables.table(("a",), [["|g| x"]]).splitlines()[-1] == r"| \|g\| x |"


def test_a_row_has_the_ratio_to_the_best_peer_and_holds_each_target(at_once):
    calls = {"agd": sleepy(1.0, 0.02), "slow": sleepy(1.0, 0.08), "slower": sleepy(1.0, 0.16)}
    case = cases.Case("c", calls, np.asarray, 1e-9, {"slower": 0.5, "slow": 0.01, "gone": 1.0})
    row = cases.measure(case._replace(floor=sleepy(None, 0.01)), 1)
    assert row["best_peer"] == "slow"
    assert 0.1 < row["ratio"] < 0.5
    assert [aim["met"] for aim in row["targets"]] == [True, False, None]
    assert row["over_floor"] > 1.0
    assert "0.01; 1 of gone (is -)" in tables.case_table([row])
    assert "yes; no; not known" in tables.case_table([row])


def test_peers_that_fail_or_answer_something_else_do_not_count(at_once):
    calls = {"agd": sleepy(1.0), "broken": broken, "other": sleepy(2.0), "nan": sleepy(np.nan)}
    row = cases.measure(cases.Case("c", calls, np.asarray, 1e-9, 0.5), 1)
    assert row["missing"] == {"broken": "fails: ValueError: no such solver"}
    assert row["apart"] == ["other", "nan"]
    assert row["best_peer"] is None
    assert not row["agree"]


def test_who_misses_the_quality_is_named_and_agd_has_to_reach_it(at_once):
    quality = cases.Quality("gap", float, 1.0)
    calls = {"agd": sleepy(0.9), "rough": sleepy(1.1)}
    case = cases.Case("c", calls, np.asarray, 0.5, quality=quality)
    row = cases.measure(case, 1)
    assert row["agree"]
    assert row["apart"] == ["rough"]
    assert "agd; not rough" in tables.case_table([row])
    assert not cases.measure(case._replace(calls={"agd": sleepy(1.1)}), 1)["agree"]


def test_counts_are_held_against_the_target_itself(at_once):
    case = cases.Case("c", {"agd": sleepy(130.0)}, np.asarray, 0.5, 130.0, count=float)
    assert cases.measure(case, 1)["targets"][0]["met"]
    assert not cases.measure(case._replace(target=129.0), 1)["targets"][0]["met"]


def test_peers_that_are_not_installed_or_cannot_start_are_said():
    def absent():
        import no_such_module_at_all  # noqa: F401

    calls, missing = cases.offered((("here", lambda: len), ("absent", absent), ("broken", broken)))
    assert calls == {"here": len}
    assert missing == {"absent": "not installed", "broken": "fails: ValueError: no such solver"}


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_the_power(power):
    sizes = [10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_of_one_size_is_unknown():
    assert np.isnan(growth.exponent([10], [1.0]))


def test_growth_is_measured_up_to_the_rows_that_were_asked_for(at_once, monkeypatch):
    monkeypatch.setattr(growth, "SETTLE", 0.0)
    row = growth.measured("rows, squared, 20 columns", 1000, 1)
    assert row["sizes"] == [1000, 10_000]
    text = tables.growth_table([row, {"series": "s", "error": "stopped"}])
    assert "1e3, 1e4" in text
    assert "fails: stopped" in text


def test_the_gap_and_the_gradient_vanish_only_at_the_answer():
    X, z, rng = plain.problem(500, 4)
    y = z + rng.normal(size=500)
    best = plain.coefficients(agd.fit(X, y, penalty=agd.loss.L1(0.05)))
    assert -1e-12 < plain.lasso_gap(X, y, 0.05, best) < 1e-9
    assert plain.lasso_gap(X, y, 0.05, best + 0.1) > 1e-3
    labels = (y > 0.0) * 1.0
    for loss, target in (("log_loss", labels), ("poisson", labels), ("huber", y)):
        answer = plain.coefficients(agd.fit(X, target, loss=loss, penalty=agd.loss.L2(0.1)))
        assert plain.gradient_norm(loss, X, target, 0.1, answer) < 1e-8
        assert plain.gradient_norm(loss, X, target, 0.1, answer + 0.1) > 1e-3


def test_the_page_names_the_machine_its_load_and_every_number(at_once):
    row = cases.measure(cases.Case("c", {"agd": sleepy(1.0)}, np.asarray, 1e-9), 1)
    here = {
        **machine.described(),
        "name": "Some CPU @ 3 GHz",
        "cores": 2,
        "load": [3.25, 9.0],
        "threads": {"OMP_NUM_THREADS": "1"},
    }
    text = tables.page(here, [row], [])
    assert text.startswith("# Some CPU @ 3 GHz, 2 cores")
    assert "its load average was 3.2 to 9.0" in text
    assert "limited by OMP_NUM_THREADS=1." in text
    assert f"numpy {np.__version__}" in text
    assert machine.file_name(here) == "some-cpu-3-ghz-2-cores.md"
    assert "load average" not in tables.page({**here, "load": [0.5, None]}, [row], [])
