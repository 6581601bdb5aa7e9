"""Time agd beside its peers, and print two tables: of the cases with their targets, and of growth.

Each case runs in a process of its own; there agd and its peers are timed in turn, round after round, so
that a machine whose speed drifts slows all of them alike, and the table has medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cases.growth import SERIES
from benchmarks.cases.registry import DEVICES, ROOMS, names
from benchmarks.report import machine, tables
from benchmarks.timing.child_process import ask

RESULTS = Path(__file__).parent / "results"


def _jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the jobs of the cases whose room or name has the text that was asked for."""
    rooms = ROOMS if options.device is None else DEVICES
    asked = options.only.partition(":")[0]
    for room in rooms:
        if asked in (*rooms, "growth") and asked != room:
            continue  # to ask a room for its names may mean to draw its data
        for name in names(room):
            if options.only.lower() in f"{room}: {name}".lower():
                yield {
                    "do": "case", "room": room, "name": name, "rows": options.rows,
                    "rounds": options.rounds, "device": options.device,
                }  # fmt: skip


def _cases(options: argparse.Namespace, whole: dict[str, Any]) -> None:
    """Run the cases one after another, with a line for each as it is done, and keep what there is."""
    for job in _jobs(options):
        key = f"{job['room']}: {job['name']}"
        row = {"case": key, **ask(job), "key": key}
        whole["cases"] = [old for old in whole["cases"] if old.get("key") != key] + [row]
        whole["machine"]["load"].append(machine.load())
        print(f"{row['case']}: {tables.detail(row)}", flush=True)
        if "stderr" in row:
            print(row["stderr"], file=sys.stderr)
        _keep(options, whole)


def _growth(options: argparse.Namespace, whole: dict[str, Any]) -> None:
    if options.device is not None:
        return
    for name in SERIES:
        if options.only.lower() in f"growth: {name}".lower():
            job = {"do": "growth", "name": name, "rows": options.rows, "rounds": options.rounds}
            whole["growth"].append({"series": name, **ask(job)})
            whole["machine"]["load"].append(machine.load())
            print(f"growth: {name}: done", flush=True)
            _keep(options, whole)


def _keep(options: argparse.Namespace, whole: dict[str, Any]) -> Path | None:
    """Write what there is so far, so that a run that is cut off leaves it; return the page's path."""
    if options.json is not None:
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if not options.save:
        return None
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / machine.file_name(whole["machine"])
    kept.write_text(tables.page(*whole.values()), encoding="utf-8")
    return kept


def _joined(options: argparse.Namespace, here: dict[str, Any]) -> dict[str, Any]:
    """Begin with the cases of an earlier run on this machine, if one is named."""
    whole: dict[str, Any] = {"machine": here, "cases": [], "growth": []}
    if options.join is not None:
        earlier = json.loads(options.join.read_text(encoding="utf-8"))
        if earlier["machine"]["name"] != here["name"]:
            raise ValueError(f"--join {options.join}: is of {earlier['machine']['name']}")
        whole.update({part: earlier[part] for part in ("cases", "growth")})
    return whole


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds at least (default: 5)")
    parser.add_argument(
        "--only", default="", help="cases whose 'room: name' has this; rooms: " + ", ".join(ROOMS)
    )
    parser.add_argument("--json", type=Path, help="write everything here, after each case")
    parser.add_argument(
        "--join", type=Path, help="put the cases of an earlier --json of this machine in the tables"
    )
    parser.add_argument(
        "--save", action="store_true", help="keep the tables in benchmarks/results/"
    )
    parser.add_argument(
        "--device", help="time arrays there: cupy, torch:cuda, or another of agd.backends.select"
    )
    options = parser.parse_args()
    if options.quick:
        options.rows = max(options.rows // 10, 100)
    return options


def main() -> int:
    """Run the cases; exit code 1 if answers differ, 2 if the device does not answer."""
    options, selection = _options(), None
    if options.device is not None:
        from agd import backends

        try:
            selection = backends.select(options.device)
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"--device {options.device}: {error}", file=sys.stderr)
            return 2
    try:
        whole = _joined(options, machine.described(selection))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    _cases(options, whole)
    _growth(options, whole)
    cases, growth = whole["cases"], whole["growth"]
    if not cases and not growth:
        print(f"--only {options.only}: no case has this in its name", file=sys.stderr)
        return 2
    print("", *tables.report(whole["machine"], cases, growth), sep="\n")
    kept = _keep(options, whole)
    if kept is not None:
        print(f"kept in {kept}")
    sound = all(row.get("agree", False) for row in cases)
    return 0 if sound and not any("error" in row for row in growth) else 1


if __name__ == "__main__":
    raise SystemExit(main())
