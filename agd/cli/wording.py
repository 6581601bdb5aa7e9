"""The library's words in those of the command line: options for arguments, a table for arrays."""

from __future__ import annotations

import re

__all__ = ["for_options", "for_table"]

OPTIONS = {
    "raise max_iter, start from this result (init=), or ask for less (grad_tol)": (
        "raise --max-iter, or ask for less by a larger --tol"
    ),
    "a penalty, such as penalty=agd.loss.L2(1e-3)": "a penalty, such as --l2 1e-3",
    "a penalty such as agd.loss.L2(1e-3)": "a penalty, such as --l2 1e-3",
    "a learning_rate below it, or 'auto'": "a --learning-rate below it, or auto",
    "method='auto'": "--method auto",
    "by features=[...]": "by --features",
}

NOT_FINITE = re.compile(
    r"(X|y|sample_weight) has (\d+) NaN or infinite values?, the first at \1\[(\d+)(?:, (\d+))?\] = (.+)"
)


def for_options(message: str) -> str:
    """Name the options that an advice of the library means.

    Parameters
    ----------
    message : str
        What the library said.

    Returns
    -------
    str
        The same, for a user of the command line.

    Examples
    --------
    >>> for_options("the method diverged: use method='auto'")
    'the method diverged: use --method auto'
    """
    for ours, theirs in OPTIONS.items():
        message = message.replace(ours, theirs)
    return re.sub(r"pass agd\.update\.\w+\(([\d.]+)\)", r"give --learning-rate \1", message)


def for_table(message: str, path: object, columns: list[str], target: str, weight: str) -> str:
    """Name the file, the columns and the row that an error of the library means.

    Parameters
    ----------
    message : str
        What the library said of X, y or sample_weight.
    path : Path
        The table.
    columns : list of str
        The columns of X.
    target, weight : str
        Those of y and of sample_weight.

    Returns
    -------
    str
        The same, of the table; a message that is of no data stays as it is.

    Examples
    --------
    >>> for_table("y has 1 negative value, the first at y[2] = -1.0", "t.csv", ["a"], "price", "")
    "t.csv: column 'price' has 1 negative value, the first at row 3 = -1.0"
    """
    names = {"y": target, "sample_weight": weight}
    if found := NOT_FINITE.fullmatch(message):
        return f"{path}: {_not_finite(found, columns, names)}"
    worded = re.sub(r"column (\d+) of X", lambda m: f"column {columns[int(m[1])]!r}", message)
    worded = re.sub(r"\b(?:y|sample_weight)\[(\d+)\]", lambda m: f"row {int(m[1]) + 1}", worded)
    worded = re.sub(r"^(y|sample_weight)\b", lambda m: f"column {names[m[1]]!r}", worded)
    return message if worded == message else f"{path}: {worded}"


def _not_finite(found: re.Match[str], columns: list[str], names: dict[str, str]) -> str:
    """Say it as where a table is read whole: the row, the column and what is in the cell."""
    part, count, row, at, value = found.groups()
    name = columns[int(at)] if part == "X" else names[part]
    kind = "empty or NaN" if value == "nan" else "infinite or too large"
    if count == "1":
        cells = f"1 {kind} cell here"
    elif part == "X":  # counted over all columns
        cells = f"an {kind} cell here, the first of {count} cells that are no finite numbers"
    else:
        cells = f"{count} {kind} cells, the first here"
    return f"row {int(row) + 1}: column {name!r} has {cells}"
