"""Print one table: problem, method, evaluations, error, status, for agd and its peers.

Each minimises the known functions of ``tests/helpers/known_minima.py`` from the same start, with the gradient by
hand, until the largest entry of the gradient is at most the same tolerance. An evaluation is a value
and a gradient together. The error is that of the value, against 1 or the least value's own size; a
problem is solved if the gradient is within the tolerance and the error within 1e-6.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import agd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import known_minima

Solve = Callable[[Any, "Counted"], tuple[Any, str]]

MOST = 50_000  # evaluations, and steps
ERROR = 1e-6


class Counted:
    """A problem's value and gradient, counted; a value and a gradient at one point count once."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.calls = problem, 0

    def pair(self, x: Any) -> tuple[Any, Any]:
        """Return both."""
        self.calls += 1
        return self.problem.fun(x), self.problem.grad(x)


def _ours(method: str) -> Solve:
    def solve(problem: Any, counted: Counted, tol: float) -> tuple[Any, str]:
        stop = agd.Stop(MOST, grad_tol=tol)
        x0 = np.asarray(problem.x0)
        found = agd.minimize(counted.pair, x0, jac=True, method=method, stop=stop)
        return found.x, found.status.name

    return solve


def _scipy(method: str) -> Solve:
    from scipy import optimize

    # L-BFGS-B stops at small changes of the value, too, unless it is told not to.
    options: dict[str, Any] = {"maxiter": MOST}
    if method == "L-BFGS-B":
        options.update(maxfun=MOST, ftol=0.0)

    def solve(problem: Any, counted: Counted, tol: float) -> tuple[Any, str]:
        x0 = np.asarray(problem.x0)
        found = optimize.minimize(
            counted.pair, x0, jac=True, method=method, options={**options, "gtol": tol}
        )
        return found.x, "CONVERGED" if found.success else str(found.message)[:20]

    return solve


def _optax() -> Solve:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 - JAX's own signature

    def solve(problem: Any, counted: Counted, tol: float) -> tuple[Any, str]:
        solver, x = optax.lbfgs(), jax.numpy.asarray(problem.x0)

        @jax.jit
        def step(x: Any, state: Any) -> Any:
            value, grad = problem.fun(x), problem.grad(x)
            updates, state = solver.update(
                grad, state, x, value=value, grad=grad, value_fn=_with_gradient(jax, problem)
            )
            x = optax.apply_updates(x, updates)
            return x, state, problem.grad(x)

        state, grad = solver.init(x), problem.grad(x)
        for _ in range(MOST // 10):
            if not bool(jax.numpy.max(jax.numpy.abs(grad)) > tol):
                break
            x, state, grad = step(x, state)
            # Each trial of its line search is a value and a gradient; so is the start.
            counted.calls += int(state[-1].info.num_linesearch_steps)
        counted.calls += 1
        done = bool(jax.numpy.max(jax.numpy.abs(grad)) <= tol)
        return np.asarray(x), "CONVERGED" if done else "MAX_ITER"

    return solve


def _with_gradient(jax: Any, problem: Any) -> Any:
    """Return the function with its gradient by hand, for a search that differentiates."""
    fun = jax.custom_vjp(problem.fun)
    fun.defvjp(lambda x: (problem.fun(x), x), lambda x, ct: (ct * problem.grad(x),))
    return fun


def peers() -> dict[str, Solve]:
    """Return the methods of agd, and those of its peers that are installed."""
    names = ("lbfgs", "cg", "hager_zhang", "steepest_descent", "barzilai_borwein")
    found = {f"agd {name}": _ours(name) for name in names}
    for label, make in (
        *((f"scipy {name}", lambda name=name: _scipy(name)) for name in ("L-BFGS-B", "BFGS", "CG")),
        ("optax lbfgs", _optax),
    ):
        try:
            found[label] = make()
        except ImportError:
            print(f"{label}: not installed", file=sys.stderr)
    return found


class Row(NamedTuple):
    """What came of one method on one problem."""

    problem: str
    method: str
    evaluations: int
    error: float
    status: str
    solved: bool
    seconds: float


def measure(problem: Any, method: str, solve: Solve, tol: float) -> Row:
    """Run one method on one problem."""
    counted = Counted(problem)
    began = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        x, status = solve(problem, counted, tol)
    seconds = time.perf_counter() - began
    error = float(problem.gap(float(problem.fun(x))))
    solved = bool(np.max(np.abs(problem.grad(x))) <= tol) and error <= ERROR
    return Row(problem.name, method, counted.calls, error, status, solved, seconds)


def _functions() -> Iterator[Any]:
    yield from known_minima.PROBLEMS.values()
    try:
        yield known_minima.breast_cancer(standardised=True)
        yield known_minima.breast_cancer(standardised=False)
    except BaseException as missing:  # pytest's skip is no Exception
        if "could not import" not in str(missing):
            raise
        print(missing, file=sys.stderr)


def _summary(rows: list[Row], methods: dict[str, Solve]) -> None:
    """Print what each method solved, and its evaluations where the reference solved too."""
    reference = {r.problem: r for r in rows if r.method == "scipy L-BFGS-B"}
    print(
        f"\n{'method':<24} {'solved':>8} {'evaluations':>12}  against scipy L-BFGS-B where both solve"
    )
    for method in methods:
        mine = [r for r in rows if r.method == method]
        both = [
            r for r in mine if r.solved and r.problem in reference and reference[r.problem].solved
        ]
        theirs = sum(reference[r.problem].evaluations for r in both)
        ratio = f"{sum(r.evaluations for r in both) / theirs:.2f}" if theirs else "-"
        solved = f"{sum(r.solved for r in mine)}/{len(mine)}"
        print(f"{method:<24} {solved:>8} {sum(r.evaluations for r in mine):>12,}  {ratio}")


def main() -> int:
    """Run every method on every problem; exit code 1 if agd's default solves fewer than scipy's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minimize", description=__doc__)
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--tol", type=float, default=1e-6, help="the gradient's limit")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    methods, rows = peers(), []
    print(f"{'problem':<27} {'method':<21} {'evaluations':>11} {'error':>9}  {'status':<20} solved")
    for problem in _functions():
        if options.only not in problem.name:
            continue
        for method, solve in methods.items():
            row = measure(problem, method, solve, options.tol)
            rows.append(row)
            print(
                f"{row.problem:<27} {row.method:<21} {row.evaluations:>11,} {row.error:>9.1e}  "
                f"{row.status:<20} {'yes' if row.solved else 'no'}",
                flush=True,
            )
    _summary(rows, methods)
    if options.json is not None:
        text = json.dumps([row._asdict() for row in rows], indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    counts = {m: sum(r.solved for r in rows if r.method == m) for m in methods}
    return 0 if counts["agd lbfgs"] >= counts.get("scipy L-BFGS-B", 0) else 1


if __name__ == "__main__":
    raise SystemExit(main())
