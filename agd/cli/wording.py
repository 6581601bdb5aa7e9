"""Messages of the library in terms of the command line: options for arguments, a table for arrays."""

from __future__ import annotations

import re

__all__ = ["in_option_names", "in_table_names"]

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
    r"(X|y|sample_weight) has (\d+) NaN or infinite values?, the first at \1\[(\d+)(?:, (\d+))?\] = (.+)"
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


def in_table_names(message: str, path: object, columns: list[str], target: str, weight: str) -> str:
    """Replace the arrays that a message of the library names by the table's file, columns and row.

    Parameters
    ----------
    message : str
        A message of the library about X, y or sample_weight.
    path : Path
        The table.
    columns : list of str
        The columns of X.
    target, weight : str
        The columns of y and of sample_weight.

    Returns
    -------
    str
        The message about the table; one that is not about data is returned unchanged.

    Examples
    --------
    >>> in_table_names("y has 1 negative value, the first at y[2] = -1.0", "t.csv", ["a"], "price", "")
    "t.csv: column 'price' has 1 negative value, the first at row 3 = -1.0"
    """
    names = {"y": target, "sample_weight": weight}
    if match := _NOT_FINITE_MESSAGE.fullmatch(message):
        return f"{path}: {_describe_cells(match, columns, names)}"
    translated = re.sub(r"column (\d+) of X", lambda m: f"column {columns[int(m[1])]!r}", message)
    translated = re.sub(
        r"\b(?:y|sample_weight)\[(\d+)\]", lambda m: f"row {int(m[1]) + 1}", translated
    )
    translated = re.sub(r"^(y|sample_weight)\b", lambda m: f"column {names[m[1]]!r}", translated)
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
