"""What a case of a benchmark is, and how its calls are timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Timed = dict[str, Callable[[], Any]]

# Seconds between calls: the threads of BLAS and of OpenMP spin for a while after a product, which the
# next call, of another library, would pay for.
SETTLE = 0.1


class Case(NamedTuple):
    """What is timed: agd's call first, then its peers'; `answer` makes their results comparable.

    Attributes
    ----------
    target : float or None
        What agd's time is to be, in times of the best peer's.
    floor : callable or None
        What no call can be quicker than, such as one read of the data; it is timed among them.
    rounds : int
        The least number of rounds: more for calls of a few milliseconds.
    """

    name: str
    calls: Timed
    answer: Callable[[Any], Any]
    rtol: float
    target: float | None = None
    floor: Callable[[], Any] | None = None
    rounds: int = 0


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Time every call of a case in turn, several times over after a warm-up; the row has medians."""
    answers = {name: case.answer(call()) for name, call in case.calls.items()}
    calls = dict(case.calls) if case.floor is None else {**case.calls, "floor": case.floor}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(rounds, case.rounds)):
        for name, call in calls.items():
            time.sleep(SETTLE)
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    floor = medians.pop("floor", None)
    peers = {name: value for name, value in medians.items() if name != "agd"}
    best = min(peers, key=peers.__getitem__) if peers else None
    agree = all(np.allclose(a, answers["agd"], rtol=case.rtol, atol=1e-6) for a in answers.values())
    return {
        "case": case.name,
        "seconds": medians,
        "best_peer": best,
        "ratio": medians["agd"] / peers[best] if best else None,
        "target": case.target,
        "floor": floor,
        "over_floor": medians["agd"] / floor if floor else None,
        "agree": agree,
    }
