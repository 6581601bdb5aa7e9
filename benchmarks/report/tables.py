"""The tables: of the cases, of growth, and the page that keeps both for a machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.cases.device_command_line import pays_from

__all__ = [
    "case_table", "growth_table", "heading", "missing_lines", "page", "table", "traffic_table",
]  # fmt: skip

CASE_HEAD = (
    "case",
    "agd",
    "best peer",
    "ratio",
    "target",
    "met",
    "floor",
    "over floor",
    "same answer",
)
TRAFFIC_HEAD = (
    "case",
    "bandwidth",
    "a read of X",
    "agd, reads",
    "share",
    "best peer, reads",
    "floor, reads",
)
GROWTH_HEAD = ("time against", "sizes", "seconds", "exponent", "of the larger half")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown, its columns aligned for a terminal."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit != "s":
        return f"{value:,.0f}"
    return f"{value:.2f} s" if value >= 1.0 else f"{value * 1e3:.3g} ms"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _aim(aim: dict[str, Any], best: str | None) -> str:
    """Word one target, and what is reached where no other column says so."""
    if aim["of"] == "bandwidth":
        return f"{aim['target']:.0%} of bandwidth (is {aim['is']:.0%})"
    if aim["of"] == "reads":
        return f"{aim['target']:g} reads (is {_ratio(aim['is'])})"
    if aim["of"] == "count" or aim["peer"] == best:
        return f"{aim['target']:g}"
    return f"{aim['target']:g} of {aim['peer']} (is {_ratio(aim['is'])})"


def _targets(row: dict[str, Any]) -> tuple[str, str]:
    """Say what was aimed at, beside whom, and whether it was met."""
    texts = [_aim(aim, row["best_peer"]) for aim in row["targets"]]
    met = [aim["met"] for aim in row["targets"]]
    if not met:
        return "-", "-"
    said = {True: "yes", False: "no", None: "not known"}
    return "; ".join(texts), "; ".join(said[one] for one in met)


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["case"], f"fails: {row['error']}"[:120], *["-"] * (len(CASE_HEAD) - 3), "no"]
    unit, best = row["unit"], row["best_peer"]
    peer = f"{best} {_number(row['numbers'][best], unit)}" if best else "none"
    target, met = _targets(row)
    same = "yes" if row["agree"] else "no"
    if row["agree"] and row["apart"]:
        same = "agd; not " + ", ".join(row["apart"])
    return [
        row["case"], _number(row["numbers"]["agd"], unit), peer, _ratio(row["ratio"]), target, met,
        _number(row["floor"], unit), _ratio(row["over_floor"]), same,
    ]  # fmt: skip


def case_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out the table of the cases."""
    return table(CASE_HEAD, [_cells(row) for row in rows])


def _traffic_cells(row: dict[str, Any]) -> list[str]:
    read, best, floor = row["bytes"] / row["bandwidth"], row["best_peer"], row["floor"]
    reads = row["reads"]
    return [
        row["case"], f"{row['bandwidth'] / 1e9:,.0f} GB/s", _number(read, "s"), _ratio(reads["agd"]),
        f"{1.0 / reads['agd']:.0%}", f"{best} {_ratio(reads[best])}" if best else "none",
        _ratio(floor / read if floor else None),
    ]  # fmt: skip


def traffic_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out times in reads of the data, at the bandwidth of a copy; empty if none was measured."""
    cells = [_traffic_cells(row) for row in rows if "bandwidth" in row]
    return table(TRAFFIC_HEAD, cells) if cells else ""


def detail(row: dict[str, Any]) -> str:
    """Give every peer's number and what it reached, for the lines below a case in the terminal."""
    if "error" in row:
        return f"fails: {row['error']}"
    parts = []
    for name, value in row["numbers"].items():
        reached = row["reached"].get(name)
        said = "" if reached is None else f" ({row['quality']} {reached:.3g})"
        parts.append(f"{name} {_number(value, row['unit'])}{said}")
    parts += [f"{name} {why}" for name, why in row["missing"].items()]
    if row.get("peak_bytes"):
        parts.append(f"peak memory {row['peak_bytes'] / 2**30:.1f} GiB")
    return ", ".join(parts)


def growth_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out the table of growth."""
    return table(
        GROWTH_HEAD,
        [
            [row["series"], f"fails: {row['error']}"[:120], "-", "-", "-"]
            if "error" in row
            else [
                row["series"],
                ", ".join(_size(size) for size in row["sizes"]),
                ", ".join(f"{value:.3g}" for value in row["seconds"]),
                _exponent(row["exponent"]),
                _exponent(row["upper"]),
            ]
            for row in rows
        ],
    )


def _size(size: int) -> str:
    power = round(math.log10(size))
    return f"1e{power}" if power >= 3 and size == 10**power else f"{size}"


def _exponent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def missing_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say which peers were not timed, where, and why: once for each reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.get("missing", {}).items():
            found.setdefault((name, why), []).append(row["case"])
    return [
        f"{name}: {why} ({'; '.join(cases) if len(cases) < 5 else f'{len(cases)} cases'})"
        for (name, why), cases in found.items()
    ]


def heading(machine: dict[str, Any]) -> list[str]:
    """Say what was measured on, when and with what, and how busy it was."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    loads = [load for load in machine["load"] if load is not None]
    lines = [
        f"# {machine['name']}, {machine['cores']} cores",
        "",
        f"Measured on {machine['date']}, {machine['system']}. {versions}.",
        "",
    ]
    known = {key: value for key, value in machine.get("device", {}).items() if key != "name"}
    if known:
        said = ", ".join(f"{key} {value}" for key, value in known.items())
        lines += [f"The device: {machine['device']['name']}, {said}.", ""]
    if machine["threads"]:
        limits = ", ".join(f"{name}={value}" for name, value in machine["threads"].items())
        lines += [f"Threads were limited by {limits}.", ""]
    if any(load > 1.0 for load in loads):
        seen = f"{min(loads):.1f} to {max(loads):.1f}"
        lines += [
            f"The machine was shared or busy: its load average was {seen} between the cases.",
            "Calls of one case are interleaved, so that ratios hold better than seconds do.",
            "",
        ]
    return lines


def report(
    machine: dict[str, Any], cases: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]
) -> list[str]:
    """Return the lines of the tables, under a heading that says what was measured on.

    Parameters
    ----------
    machine : dict
        As `benchmarks.report.machine.described` gives it.
    cases, growth : sequence of dict
        The rows.
    """
    lines = heading(machine)
    if cases:
        lines += [
            "A ratio is agd's time by the peer's. The floor is one read of the data.",
            "A target beside a name is held against that peer; without one, against the best.",
            "", "## Cases", "", case_table(cases), "",
        ]  # fmt: skip
    lines += [text for line in pays_from(cases) for text in (line, "")]
    traffic = traffic_table(cases)
    if traffic:
        lines += [
            "## Memory bandwidth", "",
            "The bandwidth is that of a copy on the device, its reads and writes counted, timed among the",
            "calls of the same case. At this bandwidth X is read so many times in the time of a call; the",
            "share is that of the bandwidth if X is read once.", "", traffic, "",
        ]  # fmt: skip
    if growth:
        lines += [
            "## Growth", "", "The exponent is the slope of log time against log size.", "",
            growth_table(growth), "",
        ]  # fmt: skip
    missing = missing_lines(cases)
    if missing:
        lines += ["## Not timed", "", *(f"- {line}" for line in missing), ""]
    return lines


def page(
    machine: dict[str, Any], cases: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]
) -> str:
    """Write the page of a machine: what it is, the tables, and every number."""
    lines = report(machine, cases, growth)
    numbers = [f"- {row['case']}: {detail(row)}" for row in cases]
    return "\n".join([*lines, "## Every number", "", *numbers, ""])
