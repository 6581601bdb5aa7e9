"""Print one table: case, agd, the best peer, their ratio, and whether the answers agree.

Each case times agd and its peers in turn, round after round, so that a machine whose speed drifts
slows all of them alike; the table has medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import agd
from agd._typing import Params
from agd.gradient import LinearObjective

Timed = dict[str, Callable[[], Any]]


class Case(NamedTuple):
    """What is timed: agd's call first, then its peers'; `answer` makes their results comparable."""

    name: str
    calls: Timed
    answer: Callable[[Any], Any]
    rtol: float


def _logistic_data(n: int, p: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, p)), rng.normal(size=p) / p**0.5
    return X, (X @ w + rng.logistic(size=n) > 0) * 1.0, w


def value_and_gradient(n: int) -> Case:
    """One logistic value and gradient: agd by row blocks, NumPy in two products, scikit-learn."""
    X, y, w = _logistic_data(n, 50)
    objective = LinearObjective.of(X, y, loss=agd.loss.Logistic())
    params = Params(w, np.asarray(0.1))

    def by_hand() -> tuple[float, Any]:
        z = X @ w + 0.1
        r = (1.0 / (1.0 + np.exp(-z)) - y) / n
        return float(np.mean(np.logaddexp(0.0, z) - y * z)), np.append(X.T @ r, r.sum())

    def ours() -> tuple[float, Any]:
        value, grad = objective.value_and_grad(params)
        return float(value), np.append(grad.coef, grad.intercept)

    calls: Timed = {"agd": ours, "numpy": by_hand, **_scikit_learn_loss(X, y, np.append(w, 0.1))}
    return Case(
        f"log_loss value and gradient, {n:,} x 50", calls, lambda r: np.append(*r[::-1]), 1e-9
    )


def _scikit_learn_loss(X: Any, y: Any, coef: Any) -> Timed:
    try:
        from sklearn._loss.loss import HalfBinomialLoss
        from sklearn.linear_model._linear_loss import LinearModelLoss
    except ImportError:
        return {}
    theirs = LinearModelLoss(base_loss=HalfBinomialLoss(), fit_intercept=True)
    return {"scikit-learn": lambda: theirs.loss_gradient(coef, X, y)}


def logistic_fit(n: int) -> Case:
    """Time a whole logistic fit, on well-scaled data, to the same coefficients."""
    X, y, _ = _logistic_data(n, 50)
    alpha = 1e-3
    penalty, stop = agd.loss.L2(alpha), agd.Stop(grad_tol=1e-6)
    calls: Timed = {"agd": lambda: agd.fit(X, y, loss="log_loss", penalty=penalty, stop=stop).coef}
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        pass
    else:
        peer = LogisticRegression(C=1.0 / (alpha * n), tol=1e-6, max_iter=1000)
        calls["scikit-learn"] = lambda: peer.fit(X, y).coef_[0]
    return Case(f"log_loss fit, {n:,} x 50", calls, np.asarray, 1e-3)


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


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Time every call of a case in turn, `rounds` times over after a warm-up."""
    answers = {name: case.answer(call()) for name, call in case.calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in case.calls}
    for _ in range(rounds):
        for name, call in case.calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    peers = {name: value for name, value in medians.items() if name != "agd"}
    best = min(peers, key=peers.__getitem__) if peers else None
    agree = all(np.allclose(a, answers["agd"], rtol=case.rtol, atol=1e-6) for a in answers.values())
    ratio = medians["agd"] / peers[best] if best else None
    return {
        "case": case.name,
        "seconds": medians,
        "best_peer": best,
        "ratio": ratio,
        "agree": agree,
    }


def _rows(cases: list[Case], rounds: int) -> Iterator[dict[str, Any]]:
    print(f"{'case':<44} {'agd':>9}  {'best peer':<24} {'ratio':>6}  same answer")
    for case in cases:
        row = measure(case, rounds)
        best, ratio = row["best_peer"] or "none installed", row["ratio"]
        peer = f"{best} {row['seconds'][best]:.4f} s" if row["best_peer"] else best
        shown = "-" if ratio is None else f"{ratio:.2f}"
        print(
            f"{case.name:<44} {row['seconds']['agd']:>7.4f} s  {peer:<24} {shown:>6}  {row['agree']}"
        )
        yield row


def main() -> int:
    """Run the cases; exit code 1 if answers differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    n, rounds = (100_000, 3) if options.quick else (1_000_000, 5)
    makers = (lambda: value_and_gradient(n), lambda: logistic_fit(n), article)
    cases = [case for make in makers if options.only in (case := make()).name]
    rows = list(_rows(cases, rounds))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["agree"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
