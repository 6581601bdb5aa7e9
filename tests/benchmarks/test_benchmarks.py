"""The benchmarks still run, compare what they say they compare, and refuse what is not there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import agd
from benchmarks.cases import growth, registry
from benchmarks.problems import reference_values
from benchmarks.report import machine, tables
from benchmarks.timing import clocks, measurement
from helpers.benchmark_command import no_pauses, run_benchmarks

__all__ = ["no_pauses"]


@dataclass(frozen=True)
class ScriptedCall:
    """A call that returns a value, and the seconds that `scripted_clock` says it takes."""

    value: Any
    seconds: float = 1.0

    def __call__(self) -> Any:
        return self.value


def scripted_clock(call: ScriptedCall) -> float:
    call()
    return call.seconds


def broken() -> Any:
    raise ValueError("no such\nsolver")


def test_the_command_runs_a_case_in_a_process_of_its_own_and_writes_its_numbers(tmp_path):
    done = run_benchmarks(
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
    done = run_benchmarks(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


def test_times_are_per_evaluation_where_a_case_says_so():
    calls = {"agd": ScriptedCall(4.0, 8.0), "peer": ScriptedCall(2.0, 2.0)}
    case = measurement.Case("c", calls, np.asarray, 1.0, per=float, atol=10.0)
    row = measurement.measure(case, 1, scripted_clock)
    assert row["numbers"] == {"agd": 2.0, "peer": 1.0}
    assert row["ratio"] == 2.0


def test_everyday_fits_are_timed_by_the_processor_on_one_thread():
    from benchmarks.timing.child_process import ask

    case = registry.make("everyday", "ridge, 150 x 4", 10)
    assert case.processor_time
    row = ask({"do": "case", "room": "everyday", "name": "ridge, 150 x 4", "rows": 10, "rounds": 1})
    assert row["agree"]
    assert row["reached"]["Ridge"] <= row["limit"]
    assert len(registry.names("everyday")) == 53


def test_every_room_names_its_cases_once():
    named = [
        (room, name)
        for room in (*registry.ROOMS, *registry.DEVICES)
        for name in registry.names(room)
    ]
    assert len(named) > 60
    assert len(set(named)) == len(named)
    with pytest.raises(ValueError, match="the room 'fits' has no case 'none'"):
        registry.make("fits", "none", 10)


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


def test_a_row_has_the_ratio_to_the_best_peer_and_holds_each_target(no_pauses):
    seconds = {"agd": 0.02, "slow": 0.08, "slower": 0.16}
    calls = {name: ScriptedCall(1.0, time) for name, time in seconds.items()}
    case = measurement.Case(
        "c", calls, np.asarray, 1e-9, {"slower": 0.5, "slow": 0.01, "gone": 1.0}
    )
    case = case._replace(floor=ScriptedCall(None, 0.01))
    row = measurement.measure(case, 1, scripted_clock)
    assert row["best_peer"] == "slow"
    assert row["ratio"] == pytest.approx(0.25)
    assert [aim["met"] for aim in row["targets"]] == [True, False, None]
    assert row["over_floor"] == pytest.approx(2.0)
    assert "0.01; 1 of gone (is -)" in tables.case_table([row])
    assert "yes; no; not known" in tables.case_table([row])


def test_peers_that_fail_or_answer_something_else_do_not_count(no_pauses):
    calls = {
        "agd": ScriptedCall(1.0),
        "broken": broken,
        "other": ScriptedCall(2.0),
        "nan": ScriptedCall(np.nan),
    }
    row = measurement.measure(measurement.Case("c", calls, np.asarray, 1e-9, 0.5), 1)
    assert row["missing"] == {"broken": "fails: ValueError: no such solver"}
    assert row["apart"] == ["other", "nan"]
    assert row["best_peer"] is None
    assert not row["agree"]


def test_who_misses_the_quality_is_named_and_agd_has_to_reach_it(no_pauses):
    quality = measurement.Quality("gap", float, 1.0)
    calls = {"agd": ScriptedCall(0.9), "rough": ScriptedCall(1.1)}
    case = measurement.Case("c", calls, np.asarray, 0.5, quality=quality)
    row = measurement.measure(case, 1)
    assert row["agree"]
    assert row["apart"] == ["rough"]
    assert "agd; not rough" in tables.case_table([row])
    assert not measurement.measure(case._replace(calls={"agd": ScriptedCall(1.1)}), 1)["agree"]


def test_counts_are_held_against_the_target_itself(no_pauses):
    case = measurement.Case("c", {"agd": ScriptedCall(130.0)}, np.asarray, 0.5, 130.0, count=float)
    assert measurement.measure(case, 1)["targets"][0]["met"]
    assert not measurement.measure(case._replace(target=129.0), 1)["targets"][0]["met"]


def test_peers_that_are_not_installed_or_cannot_start_are_said():
    def absent():
        import no_such_module_at_all  # noqa: F401

    calls, missing = measurement.offered(
        (("here", lambda: len), ("absent", absent), ("broken", broken))
    )
    assert calls == {"here": len}
    assert missing == {"absent": "not installed", "broken": "fails: ValueError: no such solver"}


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_the_power(power):
    sizes = [10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_of_one_size_is_unknown():
    assert np.isnan(growth.exponent([10], [1.0]))


def test_growth_is_measured_up_to_the_rows_that_were_asked_for(no_pauses, monkeypatch):
    monkeypatch.setattr(growth, "SETTLE", 0.0)
    row = growth.measured("rows, squared, 20 columns", 1000, 1)
    assert row["sizes"] == [1000, 10_000]
    text = tables.growth_table([row, {"series": "s", "error": "stopped"}])
    assert "1e3, 1e4" in text
    assert "fails: stopped" in text


def test_the_gap_and_the_gradient_vanish_only_at_the_answer():
    X, z, rng = reference_values.problem(500, 4)
    y = z + rng.normal(size=500)
    best = reference_values.coefficients(agd.fit(X, y, penalty=agd.loss.L1(0.05)))
    assert -1e-12 < reference_values.lasso_gap(X, y, 0.05, best) < 1e-9
    assert reference_values.lasso_gap(X, y, 0.05, best + 0.1) > 1e-3
    labels = (y > 0.0) * 1.0
    for loss, target in (("log_loss", labels), ("poisson", labels), ("huber", y)):
        answer = reference_values.coefficients(
            agd.fit(X, target, loss=loss, penalty=agd.loss.L2(0.1))
        )
        assert reference_values.gradient_norm(loss, X, target, 0.1, answer) < 1e-8
        assert reference_values.gradient_norm(loss, X, target, 0.1, answer + 0.1) > 1e-3


def test_the_page_names_the_machine_its_load_and_every_number(no_pauses):
    row = measurement.measure(
        measurement.Case("c", {"agd": ScriptedCall(1.0)}, np.asarray, 1e-9), 1
    )
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
