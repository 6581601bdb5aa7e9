"""What the commands print and draw: results on stdout, all other messages on stderr, and the loss curve.

Messages of the library are put in terms of the command line: options for arguments, a table for arrays.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agd._validation.files import write_atomically

__all__ = [
    "FORMATS",
    "draw_loss_curve",
    "in_option_names",
    "in_table_names",
    "print_auto_choice",
    "print_backend_table",
    "print_fit",
    "print_note",
    "resolved_spec",
]


SCORE_TITLES = {"r2": "R²", "d2": "D²"}
"""How a table writes the scores whose names in JSON are ASCII."""


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
        **{
            SCORE_TITLES.get(name, name): f"{v:.6g}" if math.isfinite(v) else "-"
            for name, v in fitted.scores.items()
        },
        "status": _status_words(result),
        "method": result.method,
        "backend": f"{fitted.backend}, {fitted.seconds:.2f} s",
    }
    for name, text in lines.items():
        print(f"  {name:<9} {text}")


def _status_words(result: Any) -> str:
    """Say how a fit ended; of one that failed what to do next is said on the standard error alone."""
    message = in_option_names(result.message)
    end, _, advice = message.partition(": ")
    return message if result.success or not advice else f"{end} (after {result.nit} steps)"


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
        "alpha": result.alpha,
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


FORMATS = (".png", ".svg", ".pdf")


def draw_loss_curve(path: Path, history: Any, title: str, ylabel: str) -> None:
    """Draw the loss and the norm of the gradient against the steps.

    Parameters
    ----------
    path : Path
        A ``.png``, ``.svg`` or ``.pdf`` file.
    history : History
        The loss and the norm of the gradient at the recorded steps.
    title : str
        The picture's title.
    ylabel : str
        The axis label of the norm of the gradient.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, gradient_axes = figure.subplots(2, 1, sharex=True)
    loss_axes.plot(history.nit, history.value, color="tab:blue")
    loss_axes.set_ylabel("loss")
    loss_axes.set_title(title, fontsize="medium", wrap=True)
    # A logarithmic axis has no zero.
    positive = history.grad_norm > 0.0
    gradient_axes.semilogy(history.nit[positive], history.grad_norm[positive], color="tab:orange")
    gradient_axes.set_ylabel(ylabel)
    gradient_axes.set_xlabel("step")
    for axes in (loss_axes, gradient_axes):
        axes.grid(visible=True, alpha=0.3)
    file_format = path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda file: figure.savefig(file, format=file_format, dpi=150))


# Advice of the library, and the same advice to a user of the command line.
_ADVICE = {
    "raise max_iter, start from this result (init=), or ask for less (grad_tol)": (
        "raise --max-iter, or ask for less by a larger --tol"
    ),
    "a penalty, such as penalty=agd.loss.L2(1e-3)": "a penalty, such as --l2 1e-3",
    "a penalty such as agd.loss.L2(1e-3)": "a penalty, such as --l2 1e-3",
    "a learning_rate below it, or 'auto'": "a --learning-rate below it, or auto",
    "method='auto'": "--method auto",
    "by features=[...]": "by --features",
}

_NOT_FINITE_MESSAGE = re.compile(
    r"(X|y|sample_weight|offset) has (\d+) NaN or infinite values?, the first at \1\[(\d+)(?:, (\d+))?\] = (.+)"
)


def in_option_names(message: str) -> str:
    """Replace the arguments that a message of the library names by the command's options.

    Parameters
    ----------
    message : str
        A message of the library.

    Returns
    -------
    str
        The message for a user of the command line.

    Examples
    --------
    >>> in_option_names("the method diverged: use method='auto'")
    'the method diverged: use --method auto'
    """
    for library_text, option_text in _ADVICE.items():
        message = message.replace(library_text, option_text)
    return re.sub(r"pass agd\.update\.\w+\(([\d.]+)\)", r"give --learning-rate \1", message)


def in_table_names(message: str, path: object, columns: list[str], parts: dict[str, str]) -> str:
    """Replace the arrays that a message of the library names by the table's file, columns and row.

    Parameters
    ----------
    message : str
        A message of the library about X, y, sample_weight, offset or exposure.
    path : Path
        The table.
    columns : list of str
        The columns of X.
    parts : dict
        The columns of ``"y"``, ``"weight"``, ``"offset"`` and ``"exposure"``, where there are such.

    Returns
    -------
    str
        The message about the table; one that is not about data is returned unchanged.

    Examples
    --------
    >>> in_table_names("y has 1 negative value, the first at y[2] = -1.0", "t.csv", ["a"], {"y": "price"})
    "t.csv: column 'price' has 1 negative value, the first at row 3 = -1.0"
    """
    names = {"sample_weight" if part == "weight" else part: name for part, name in parts.items()}
    arrays = "|".join(names)
    if match := _NOT_FINITE_MESSAGE.fullmatch(message):
        return f"{path}: {_describe_cells(match, columns, names)}"
    translated = re.sub(r"column (\d+) of X", lambda m: f"column {columns[int(m[1])]!r}", message)
    translated = re.sub(rf"\b(?:{arrays})\[(\d+)\]", lambda m: f"row {int(m[1]) + 1}", translated)
    translated = re.sub(
        rf"^({arrays})\b(?= (?:has|must))", lambda m: f"column {names[m[1]]!r}", translated
    )
    return message if translated == message else f"{path}: {translated}"


def _describe_cells(match: re.Match[str], columns: list[str], names: dict[str, str]) -> str:
    """Word a message about values that are not finite as `agd.cli.tables` does: row, column, content."""
    part, count, row, column, value = match.groups()
    name = columns[int(column)] if part == "X" else names[part]
    kind = "empty or NaN" if value == "nan" else "infinite or too large"
    if count == "1":
        cells = f"1 {kind} cell here"
    elif part == "X":  # counted over all columns
        cells = f"an {kind} cell here, the first of {count} cells that are no finite numbers"
    else:
        cells = f"{count} {kind} cells, the first here"
    return f"row {int(row) + 1}: column {name!r} has {cells}"
