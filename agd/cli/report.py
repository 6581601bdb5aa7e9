"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from agd.cli.wording import for_options

__all__ = ["note", "print_backends", "print_fit", "say_choice", "spec_of"]


def note(message: str) -> None:
    """Print one line on stderr."""
    print(f"agd: {message}", file=sys.stderr)


def say_choice(spec: str, chosen: Any) -> None:
    """Say in one line what "auto" took."""
    if spec == "auto":
        why = "a CUDA device answers" if chosen.backend.name == "cupy" else "no CUDA device answers"
        note(f"backend {chosen}, since {why}")


def spec_of(spec: str, chosen: Any) -> str:
    """Return what selects the same backend again, without asking the device twice."""
    return str(chosen.backend.name) if spec == "auto" else spec


def print_backends(rows: list[Any]) -> None:
    """Print the table of backends: a rich one on a terminal, plain text in a pipe."""
    header = ("backend", "installed", "version", "devices, or why not")
    cells = [
        (r.name, "yes" if r.installed else "no", r.version or "-", r.reason or ", ".join(r.devices))
        for r in rows
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*header)
        for row in cells:
            table.add_row(*(_escaped(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(3)]
    for row in (header, *cells):
        print(*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_fit(done: Any, *, as_json: bool) -> None:
    """Print a fit: coefficients by name, the loss, the score, the status, method and backend."""
    if as_json:
        print(json.dumps(_as_dict(done), ensure_ascii=False, allow_nan=False))
        return
    model, result = done.model, done.result
    print(f"{model.target} from {_counted(len(model.features), 'column')} of ", end="")
    print(f"{done.path.name}, {_counted(done.rows, 'row')}, loss {model.loss['name']}")
    if model.classes is not None:
        print(f"log odds of {_label(model.classes[1])} against {_label(model.classes[0])}")
    print()
    names = [*model.features, *([] if model.intercept is None else ["(intercept)"])]
    values = [*model.coefficients, *([] if model.intercept is None else [model.intercept])]
    width = max(map(len, names))
    for name, value in zip(names, values, strict=True):
        print(f"  {name:<{width}}  {value: .10g}")
    print()
    lines = {
        "loss": f"{result.fun:.10g}",
        **{name: f"{v:.6g}" if math.isfinite(v) else "-" for name, v in done.scores.items()},
        "status": for_options(result.message),
        "method": result.method,
        "backend": f"{done.backend}, {done.seconds:.2f} s",
    }
    for name, text in lines.items():
        print(f"  {name:<9} {text}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _label(label: Any) -> str:
    """Write a class as the table does: text in quotes, a whole number without a point."""
    return repr(label) if isinstance(label, str) else f"{label:.17g}"


def _as_dict(done: Any) -> dict[str, Any]:
    model, result = done.model, done.result
    return {
        "target": model.target,
        "coefficients": dict(zip(model.features, model.coefficients, strict=True)),
        "intercept": model.intercept,
        "classes": model.classes,
        "loss": {**model.loss, "value": result.fun},
        "penalty": model.penalty,
        **{name: value if math.isfinite(value) else None for name, value in done.scores.items()},
        "status": result.status.name,
        "success": result.success,
        "message": for_options(result.message),
        "method": result.method,
        "steps": result.nit,
        "evaluations": result.nfev,
        "host_reads": result.n_sync,
        "gradient": result.grad_norm,
        "rows": done.rows,
        "backend": done.backend,
        "seconds": done.seconds,
    }
