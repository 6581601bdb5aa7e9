"""What a case of a benchmark is, and how its calls are timed side by side."""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing.clocks import Clock, processor, wall

Timed = dict[str, Callable[[], Any]]

# Seconds between calls: the threads of BLAS and of OpenMP spin for a while after a product, which the
# next call, of another library, would pay for.
SETTLE = 0.1


class Quality(NamedTuple):
    """What all calls are to reach, such as a gradient norm, worked out by plain NumPy from an answer."""

    name: str
    of: Callable[[Any], float]
    limit: float


class Traffic(NamedTuple):
    """What a call has to read, and a copy on the same device that says how fast that can be.

    Attributes
    ----------
    size : int
        Bytes of the data.
    copy : callable
        Copies something else from the device to the device; it is timed among the calls.
    moved : int
        Bytes that the copy reads and writes, both counted.
    share : float, optional
        The share of the copy's bandwidth that agd is to reach, if the data are read once.
    reads : float, optional
        How many reads of the data, at that bandwidth, agd may take at most.
    """

    size: int
    copy: Callable[[], Any]
    moved: int
    share: float | None = None
    reads: float | None = None


class Case(NamedTuple):
    """What is timed: agd's call first, then its peers'; `answer` makes their results comparable.

    Attributes
    ----------
    name : str
        What the table calls it.
    calls : dict
        A callable for ``"agd"`` and for each peer.
    answer : callable
        Makes an array of what a call returns.
    rtol : float
        How far answers may be apart, relative.
    target : float or dict, optional
        What agd's time is to be, in times of the best peer's, or of the named peers'. Of a count: the
        most that agd may need.
    floor : callable, optional
        What no call can be quicker than, such as one read of the data; it is timed among them.
    rounds : int
        The least number of rounds: more for calls of a few milliseconds.
    missing : dict, optional
        Peers that are not timed, and why.
    quality : Quality, optional
        What is to be reached. A peer that misses it is timed, and is not the best peer.
    count : callable, optional
        Takes a count from what a call returns: then that is compared, not the time.
    atol : float
        How far answers may be apart, absolute.
    traffic : Traffic, optional
        What times are given as a share of the memory's bandwidth by.
    most : int, optional
        The largest number of rounds: fewer for calls of many seconds.
    size : int
        Rows, where cases of one kind differ by these.
    per : callable, optional
        Takes from what a call returns what its time is divided by, such as its evaluations.
    processor_time : bool
        Whether processor time is compared: of calls so short that other work on the machine would tell.
    """

    name: str
    calls: Timed
    answer: Callable[[Any], Any]
    rtol: float
    target: float | Mapping[str, float] | None = None
    floor: Callable[[], Any] | None = None
    rounds: int = 0
    missing: Mapping[str, str] | None = None
    quality: Quality | None = None
    count: Callable[[Any], float] | None = None
    atol: float = 1e-6
    traffic: Traffic | None = None
    most: int | None = None
    size: int = 0
    per: Callable[[Any], float] | None = None
    processor_time: bool = False


class AbsentError(RuntimeError):
    """A peer that is installed and cannot be timed here; the message says why."""


def offered(peers: Iterable[tuple[str, Callable[[], Any]]]) -> tuple[Timed, dict[str, str]]:
    """Make the calls of the peers that are here.

    Parameters
    ----------
    peers : iterable of (str, callable)
        Each peer's name, and what imports it and returns its call.

    Returns
    -------
    calls, missing : dict
        The calls, and why the others cannot be made.
    """
    calls: Timed = {}
    missing: dict[str, str] = {}
    for name, make in peers:
        try:
            calls[name] = make()
        except ImportError as error:
            here = isinstance(error, ModuleNotFoundError)
            missing[name] = "not installed" if here else _reason(error)
        except AbsentError as error:
            missing[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a broken peer is a line in the table
            missing[name] = _reason(error)
    return calls, missing


def present(module: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """Return the call of a peer whose module can be imported."""
    importlib.import_module(module)
    return call


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"fails: {type(error).__name__}: {text[:120]}"


def measure(
    case: Case, rounds: int, clock: Clock = wall, settle: float | None = None
) -> dict[str, Any]:
    """Time every call of a case in turn, several times over after a warm-up; the row has medians.

    Parameters
    ----------
    case : Case
        What is timed.
    rounds : int
        How often, at least.
    clock : callable
        Takes the time of a call.
    settle : float, optional
        Seconds between calls, if not `SETTLE`.
    """
    calls, missing = dict(case.calls), dict(case.missing or {})
    found = {}
    for name, call in case.calls.items():
        try:
            found[name] = call()
        except Exception as error:
            if name == "agd":
                raise
            missing[name] = _reason(error)
            del calls[name]
    answers = {name: case.answer(value) for name, value in found.items()}
    if case.count is not None:
        numbers = {name: float(case.count(value)) for name, value in found.items()}
        return _row(case, numbers, None, answers, missing)
    shares = {name: case.per(value) if case.per else 1.0 for name, value in found.items()}
    del found
    if case.processor_time:
        clock, settle = processor, 0.0
    others = {"floor": case.floor, "copy": case.traffic and case.traffic.copy}
    timed = calls | {name: call for name, call in others.items() if call is not None}
    if case.traffic is not None:
        case.traffic.copy()  # its warm-up
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(min(max(rounds, case.rounds), case.most or sys.maxsize)):
        for name, call in timed.items():
            time.sleep(SETTLE if settle is None else settle)
            seconds[name].append(clock(call))
    medians = {
        name: statistics.median(runs) / shares.get(name, 1.0) for name, runs in seconds.items()
    }
    floor, copy = medians.pop("floor", None), medians.pop("copy", None)
    row = _row(case, medians, floor, answers, missing)
    return row if case.traffic is None else _with_traffic(row, case.traffic, copy)


def _row(
    case: Case,
    numbers: dict[str, float],
    floor: float | None,
    answers: dict[str, Any],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Compare the numbers and the answers."""
    reached, apart = _reached(case, answers)
    peers = {name: x for name, x in numbers.items() if name != "agd" and name not in apart}
    best = min(peers, key=peers.__getitem__) if peers else None
    target = case.target
    if target is None:
        targets: dict[str, float] = {}
    elif isinstance(target, Mapping):
        targets = dict(target)
    else:
        targets = {best: target} if best or case.count else {}
    return {
        "case": case.name,
        "size": case.size,
        "unit": "s" if case.count is None else "evaluations",
        "numbers": numbers,
        "best_peer": best,
        "ratio": numbers["agd"] / peers[best] if best else None,
        "targets": [_against(case, numbers, *pair) for pair in targets.items()],
        "floor": floor,
        "over_floor": numbers["agd"] / floor if floor else None,
        "quality": case.quality and case.quality.name,
        "limit": case.quality and case.quality.limit,
        "reached": reached,
        "apart": apart,
        "agree": "agd" not in apart and (case.quality is not None or not apart),
        "missing": missing,
    }


def _with_traffic(row: dict[str, Any], traffic: Traffic, seconds: float) -> dict[str, Any]:
    """Add the bandwidth, times in reads of the data at that bandwidth, and the targets of these."""
    bandwidth = traffic.moved / seconds
    reads = {name: x * bandwidth / traffic.size for name, x in row["numbers"].items()}
    aims = []
    if traffic.share is not None:
        share = 1.0 / reads["agd"]
        aims.append(
            {"of": "bandwidth", "target": traffic.share, "is": share, "met": share >= traffic.share}
        )
    if traffic.reads is not None:
        met = reads["agd"] <= traffic.reads
        aims.append({"of": "reads", "target": traffic.reads, "is": reads["agd"], "met": met})
    return {
        **row,
        "targets": row["targets"] + aims,
        "bytes": traffic.size,
        "bandwidth": bandwidth,
        "reads": reads,
    }


def _against(
    case: Case, numbers: dict[str, float], peer: str | None, target: float
) -> dict[str, Any]:
    """Hold agd against one target; without the peer nothing is known."""
    if case.count is not None:
        met = numbers["agd"] <= target
        return {"of": "count", "target": target, "is": numbers["agd"], "met": met}
    ratio = numbers["agd"] / numbers[peer] if peer in numbers else None
    met = None if ratio is None else ratio <= target
    return {"of": "peer", "peer": peer, "target": target, "is": ratio, "met": met}


def _reached(case: Case, answers: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Work out what each reached, and who is apart from the others."""
    mine = answers["agd"]
    apart = [
        name
        for name, theirs in answers.items()
        if not (
            np.all(np.isfinite(theirs))
            and np.allclose(theirs, mine, rtol=case.rtol, atol=case.atol)
        )
    ]
    if case.quality is None:
        return {}, apart
    reached = {name: float(case.quality.of(theirs)) for name, theirs in answers.items()}
    short = [name for name, value in reached.items() if not value <= case.quality.limit]
    return reached, [name for name in answers if name in apart or name in short]
