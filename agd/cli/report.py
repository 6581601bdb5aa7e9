"""What the commands print: results on stdout, all other messages on stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np

from agd.cli.wording import in_option_names

__all__ = [
    "print_auto_choice",
    "print_backend_table",
    "print_fit",
    "print_note",
    "resolved_spec",
]


def print_note(message: str) -> None:
    """Print one line on stderr."""
    print(f"agd: {message}", file=sys.stderr)


def print_auto_choice(spec: str, selection: Any) -> None:
    """Print one line about the backend that "auto" selected."""
    if spec == "auto":
        is_cuda = selection.backend.name == "cupy"
        reason = "a CUDA device answers" if is_cuda else "no CUDA device answers"
        print_note(f"backend {selection}, since {reason}")


def resolved_spec(spec: str, selection: Any) -> str:
    """Return the spec with "auto" replaced by its choice, so that devices are searched once."""
    return str(selection.backend.name) if spec == "auto" else spec


def print_backend_table(infos: list[Any]) -> None:
    """Print the table of backends: drawn by rich on a terminal, plain text in a pipe."""
    header = ("backend", "installed", "version", "devices, or why not")
    cells = [
        (x.name, "yes" if x.installed else "no", x.version or "-", x.reason or ", ".join(x.devices))
        for x in infos
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*header)
        for row in cells:
            table.add_row(*(escape(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(3)]
    for row in (header, *cells):
        print(*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])


def print_fit(fitted: Any, *, as_json: bool) -> None:
    """Print a fit: coefficients by name, the loss, the score, the status, method and backend."""
    if as_json:
        print(json.dumps(_fit_as_dict(fitted), ensure_ascii=False, allow_nan=False))
        return
    model, result = fitted.model, fitted.result
    print(f"{model.target} from {_count_phrase(len(model.features), 'column')} of ", end="")
    print(f"{fitted.path.name}, {_count_phrase(fitted.rows, 'row')}, loss {model.loss['name']}")
    names = [*model.features, *([] if model.intercept is None else ["(intercept)"])]
    width = max(map(len, names))
    coefficients = np.asarray(model.coefficients)
    constants = [] if model.intercept is None else [np.asarray(model.intercept)]
    numbers = [np.atleast_1d(value).tolist() for value in (*coefficients.T, *constants)]
    if coefficients.ndim == 2:
        print("log odds of the classes, up to a constant that all share\n")
        labels = "".join(f"  {_class_label(label):<17}" for label in model.classes)
        print(f"  {'':<{width}} {labels}".rstrip())
    elif model.classes is not None:
        print(
            f"log odds of {_class_label(model.classes[1])} against {_class_label(model.classes[0])}\n"
        )
    else:
        print()
    for name, values in zip(names, numbers, strict=True):
        print(f"  {name:<{width}}" + "".join(f"  {value: <17.10g}" for value in values).rstrip())
    print()
    lines = {
        "loss": f"{result.fun:.10g}",
        **{name: f"{v:.6g}" if math.isfinite(v) else "-" for name, v in fitted.scores.items()},
        "status": in_option_names(result.message),
        "method": result.method,
        "backend": f"{fitted.backend}, {fitted.seconds:.2f} s",
    }
    for name, text in lines.items():
        print(f"  {name:<9} {text}")


def _count_phrase(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _class_label(label: Any) -> str:
    """Return a class as it stands in the table: text in quotes, a whole number without a point."""
    return repr(label) if isinstance(label, str) else f"{label:.17g}"


def _fit_as_dict(fitted: Any) -> dict[str, Any]:
    model, result = fitted.model, fitted.result
    return {
        "target": model.target,
        "coefficients": dict(
            zip(model.features, np.asarray(model.coefficients).T.tolist(), strict=True)
        ),
        "intercept": model.intercept,
        "classes": model.classes,
        "loss": {**model.loss, "value": result.fun},
        "penalty": model.penalty,
        **{name: value if math.isfinite(value) else None for name, value in fitted.scores.items()},
        "status": result.status.name,
        "success": result.success,
        "message": in_option_names(result.message),
        "method": result.method,
        "steps": result.nit,
        "evaluations": result.nfev,
        "host_reads": result.n_sync,
        "gradient": result.grad_norm,
        "rows": fitted.rows,
        "backend": fitted.backend,
        "seconds": fitted.seconds,
    }
