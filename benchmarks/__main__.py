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

from benchmarks import machine, tables
from benchmarks.children import ask
from benchmarks.growth import SERIES
from benchmarks.rooms import DEVICES, ROOMS, names

RESULTS = Path(__file__).parent / "results"


def _jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the jobs of the cases whose room or name has the text that was asked for."""
    rooms = ROOMS if options.device is None else (DEVICES,)
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


def _cases(options: argparse.Namespace, here: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the cases one after another, with a line for each as it is done."""
    rows = []
    for job in _jobs(options):
        row = {"case": f"{job['room']}: {job['name']}", **ask(job)}
        rows.append(row)
        here["load"].append(machine.load())
        print(f"{row['case']}: {tables.detail(row)}", flush=True)
        if "stderr" in row:
            print(row["stderr"], file=sys.stderr)
    return rows


def _growth(options: argparse.Namespace, here: dict[str, Any]) -> list[dict[str, Any]]:
    if options.device is not None:
        return []
    rows = []
    for name in SERIES:
        if options.only.lower() in f"growth: {name}".lower():
            job = {"do": "growth", "name": name, "rows": options.rows, "rounds": options.rounds}
            rows.append({"series": name, **ask(job)})
            here["load"].append(machine.load())
            print(f"growth: {name}: done", flush=True)
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds at least (default: 5)")
    parser.add_argument(
        "--only", default="", help="cases whose 'room: name' has this; rooms: " + ", ".join(ROOMS)
    )
    parser.add_argument("--json", type=Path, help="write everything here")
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
    here = machine.described(selection)
    cases = _cases(options, here)
    growth = _growth(options, here)
    if not cases and not growth:
        print(f"--only {options.only}: no case has this in its name", file=sys.stderr)
        return 2
    for rows, lay_out in ((cases, tables.case_table), (growth, tables.growth_table)):
        if rows:
            print("", lay_out(rows), sep="\n")
    print("", *tables.missing_lines(cases), sep="\n")
    if options.json is not None:
        whole = {"machine": here, "cases": cases, "growth": growth}
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        kept = RESULTS / machine.file_name(here)
        kept.write_text(tables.page(here, cases, growth), encoding="utf-8")
        print(f"kept in {kept}")
    sound = all(row.get("agree", False) for row in cases)
    return 0 if sound and not any("error" in row for row in growth) else 1


if __name__ == "__main__":
    raise SystemExit(main())
