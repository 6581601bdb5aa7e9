"""Print one table: case, agd, the best peer, their ratio and its target, the floor, and whether all agree.

Each case times agd and its peers in turn, round after round, so that a machine whose speed drifts
slows all of them alike; the table has medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import agd
from benchmarks import fits, passes
from benchmarks.cases import Case, measure


def article() -> Case:
    """Time the article on seven points: the general core beside the three formulas."""
    x, y = np.asarray(agd.line.X), np.asarray(agd.line.Y)
    method, stop = agd.update.gradient_descent(8e-3), agd.Stop(5000, grad_tol=0.0, check_every=5000)

    def formulas() -> Any:
        weights = {"w0": 0.0, "w1": 0.0}
        for _ in range(5000):
            _, weights = agd.gradient_descent(x, y, weights, 8e-3)
        return [weights["w1"], weights["w0"]]

    def core() -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", agd.ConvergenceWarning)
            found = agd.fit(x[:, None], y, method=method, stop=stop)
        return [found.coef[0], found.intercept]

    return Case("the article, 5,000 epochs", {"agd": core, "agd.line": formulas}, np.asarray, 1e-9)


def _rows(cases: Iterable[Case], rounds: int) -> Iterator[dict[str, Any]]:
    print(
        f"{'case':<46} {'agd':>9}  {'best peer':<22} {'ratio':>6} {'target':>6}  "
        f"{'floor':>8} {'ratio':>5}  same answer"
    )
    for case in cases:
        row = measure(case, rounds)
        best = row["best_peer"]
        peer = f"{best} {row['seconds'][best]:.4f} s" if best else "none installed"
        ratio, target, times = (_two(row[key]) for key in ("ratio", "target", "over_floor"))
        floor = "-" if row["floor"] is None else f"{row['floor']:.4f} s"
        print(
            f"{case.name:<46} {row['seconds']['agd']:>7.4f} s  {peer:<22} {ratio:>6} {target:>6}  "
            f"{floor:>8} {times:>5}  {row['agree']}",
            flush=True,
        )
        others = ", ".join(f"{name} {row['seconds'][name]:.4f} s" for name in row["seconds"])
        print(f"{'':<4}{others}")
        yield row


def _two(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def main() -> int:
    """Run the cases; exit code 1 if answers differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    n, rounds = (100_000, 3) if options.quick else (1_000_000, 5)
    cases = itertools.chain(passes.cases(n), fits.cases(n), (make() for make in (article,)))
    rows = list(_rows((case for case in cases if options.only in case.name), rounds))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["agree"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
