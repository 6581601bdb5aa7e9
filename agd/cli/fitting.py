"""From a table to a fitted model: columns, options, progress, scores and the files that are written.

The command ``fit`` reads the table whole; ``fit --stream`` reads it in batches, anew for each pass.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agd
from agd._validation import as_choice, as_count, as_nonnegative, as_positive
from agd._validation.files import (
    check_distinct_files,
    check_writable,
    name_option_in_errors,
)
from agd.cli.report import FORMATS, draw_loss_curve, in_table_names
from agd.cli.tables import Table, table_kind
from agd.data.tables import table_batches
from agd.inference import score_name
from agd.model_file import Model

__all__ = [
    "FitOptions",
    "FittedTable",
    "fit_table",
    "fit_table_in_batches",
    "progress_bar",
    "write_outputs",
]


@dataclass(frozen=True)
class FitOptions:
    """The options of the command ``fit``, by their names on the command line."""

    target: str
    features: str
    weight: str
    offset: str
    exposure: str
    loss: str
    delta: str
    l2: float
    intercept: bool
    method: str
    learning_rate: str
    max_iter: int
    tol: float | None
    save: Path | None
    plot: Path | None
    allow_unconverged: bool = False
    l1: float = 0.0
    standardize: bool = False
    alpha: str = ""

    def check(self, table: Path) -> None:
        """Raise for a wrong option before the table is read."""
        self.make_loss()
        self.make_method()
        self.make_stop()
        self.make_penalty()
        self.check_choice()
        check_distinct_files({"the table": table}, {"--save": self.save, "--plot": self.plot})
        if self.save is not None:
            check_writable("--save", self.save)
        if self.plot is not None:
            check_writable("--plot", self.plot)
            if self.plot.suffix.lower() not in FORMATS:
                raise ValueError(
                    f"--plot: need one of {', '.join(FORMATS)}, got {self.plot.name!r}"
                )

    def make_loss(self) -> Any:
        """Return the loss with its parameter."""
        if not self.delta:
            return agd.loss.get(self.loss)
        if self.loss != "huber":
            raise ValueError(f"--delta is huber's, got --loss {self.loss}")
        if self.delta == "auto":
            return agd.loss.Huber("auto")
        try:
            delta = float(self.delta)
        except ValueError:
            raise ValueError(f"--delta must be a number or auto, got {self.delta!r}") from None
        return agd.loss.Huber(delta)

    def make_method(self) -> Any:
        """Return the method with its learning rate."""
        as_choice("--method", self.method, ("auto", *agd.update.RULES))
        if not self.learning_rate:
            return self.method
        if self.method == "auto":
            raise ValueError(
                "--learning-rate is for a --method such as gd; auto finds its own step"
            )
        rate: Any = self.learning_rate
        if rate != "auto":
            try:
                rate = float(rate)
            except ValueError:
                raise ValueError(
                    f"--learning-rate must be a number or auto, got {rate!r}"
                ) from None
            as_positive("--learning-rate", rate)
        return agd.update.RULES[self.method](learning_rate=rate)

    def make_stop(self) -> agd.Stop:
        """Return the stopping criteria."""
        as_count("--max-iter", self.max_iter)
        if self.tol is not None:
            as_nonnegative("--tol", self.tol)
        return agd.Stop(max_iter=self.max_iter, grad_tol=self.tol)

    def make_penalty(self) -> Any:
        """Return the penalty; None if there is none."""
        as_nonnegative("--l1", self.l1)
        as_nonnegative("--l2", self.l2)
        lasso, ridge = agd.loss.L1(self.l1), agd.loss.L2(self.l2)
        if self.l1 and self.l2:
            return lasso + ridge
        return lasso if self.l1 else ridge if self.l2 else None

    def settings(self, callback: Any) -> dict[str, Any]:
        """Return the arguments of ``agd.fit`` that are no data: the penalty, and how to minimise."""
        model = {
            "loss": self.make_loss(), "penalty": self.make_penalty(), "intercept": self.intercept,
            "standardize": self.standardize,
        }  # fmt: skip
        if self.alpha:
            return {**model, "alpha": self.alpha}
        return {
            **model,
            "method": self.make_method(),
            "stop": self.make_stop(),
            "callback": callback,
        }

    def check_choice(self) -> None:
        """Raise for an --alpha of no penalty, or beside options of the way there."""
        if not self.alpha:
            return
        as_choice("--alpha", self.alpha, ("cv", "cv_1se", "aic", "bic", "gcv"))
        if self.make_penalty() is None:
            raise ValueError(
                "--alpha chooses the strength of a penalty: give --l1 1, --l2 1 or both"
            )
        if self.method != "auto" or self.tol is not None:
            raise ValueError("--alpha chooses among fits with --method auto and without --tol")

    def feature_names(self) -> list[str] | None:
        """Return the columns named by --features; None means all that have no other role."""
        return [name.strip() for name in self.features.split(",")] if self.features else None

    def row_columns(self) -> dict[str, str]:
        """Return the columns that say something of the rows, by their options."""
        columns = {"weight": self.weight, "offset": self.offset, "exposure": self.exposure}
        return {name: column for name, column in columns.items() if column}

    def check_column_roles(self, features: list[str] | None) -> None:
        """Raise if a column is given two roles."""
        for name, column in self.row_columns().items():
            if column == self.target:
                raise ValueError(f"--{name}: {column!r} is the target")
        if features is None:
            return
        if self.target in features:
            raise ValueError(f"--features: {self.target!r} is the target")
        if len(set(features)) != len(features):
            raise ValueError(f"--features: a column is named twice in {self.features!r}")

    def select_columns(self, table: Table) -> list[str]:
        """Return the features' names: those of --features, else of every column without another role."""
        table.check_columns("--target", [self.target])
        self.check_column_roles(None)
        for name, column in self.row_columns().items():
            table.check_columns(f"--{name}", [column])
        features = self.feature_names()
        if features is not None:
            table.check_columns("--features", features)
            self.check_column_roles(features)
            return features
        # Without --weight the name "" must not exclude a column that has no name: it is an error below.
        features = table.feature_names([self.target, *self.row_columns().values()])
        if not features:
            raise ValueError(f"{table.path}: no column is left to fit {self.target!r} from")
        if "" in features:
            raise ValueError(
                f"{table.path}: column {table.names.index('') + 1} has no name in the header: give it "
                f"one, or say by --features which columns to use"
            )
        # A column of text stays in and is an error later: to leave it out is the user's decision.
        return features


@dataclass(frozen=True)
class FittedTable:
    """The outcome of the command: the model to save, the fit's result, the scores, and what was fitted."""

    model: Model
    result: Any
    scores: dict[str, float]
    path: Path
    rows: int
    backend: str
    seconds: float


def fit_table(options: FitOptions, table: Table, selection: Any) -> FittedTable:
    """Fit a table on a backend.

    Parameters
    ----------
    options : FitOptions
        The options of the command.
    table : Table
        The rows.
    selection : agd.backends.Selection
        The backend and device to fit on.

    Returns
    -------
    FittedTable
        The model, its scores and the result.
    """
    names = options.select_columns(table)
    loss = options.make_loss()
    y, labels = _target_values(options, table, loss)
    X = table.matrix(names, "" if options.features else " (--features names the columns to use)")
    parts = {
        name: selection.asarray(table.numbers(column))
        for name, column in options.row_columns().items()
    }
    start = time.perf_counter()
    with progress_bar(options.max_iter) as callback, _errors_in_table_names(options, table, names):
        result = agd.fit(
            selection.asarray(X),
            selection.asarray(y),
            sample_weight=parts.get("weight"),
            offset=parts.get("offset"),
            exposure=parts.get("exposure"),
            **options.settings(callback),
        )
    seconds = time.perf_counter() - start
    return _fitted_table(
        options, names, labels, result,
        path=table.path, rows=table.rows, backend=str(selection), seconds=seconds,
    )  # fmt: skip


def write_outputs(options: FitOptions, fitted: FittedTable) -> str:
    """Save the model for --save, and draw the loss curve for --plot; return what was left unwritten, and why.

    A model that did not converge is written with --allow-unconverged alone, since its predictions look like those
    of any other.
    """
    model, result, unwritten = fitted.model, fitted.result, ""
    if options.save is not None and not (result.success or options.allow_unconverged):
        unwritten = f"--save: {options.save} is not written, since the fit did not converge; "
        unwritten += "--allow-unconverged writes it all the same"
    elif options.save is not None:
        with name_option_in_errors("--save", options.save):
            model.save(options.save)
    if options.plot is not None:
        title = f"{result.loss.name} of {fitted.path.name}\n{result.method}"
        ylabel = "relative gradient" if options.tol is None else "largest gradient entry"
        with name_option_in_errors("--plot", options.plot):
            draw_loss_curve(options.plot, result.history, title, ylabel)
    return unwritten


def _target_values(options: FitOptions, table: Table, loss: Any) -> tuple[Any, list[str] | None]:
    """Return the target as numbers, and the labels of a target that is text."""
    if loss.classes is not None and table.has_labels(options.target):
        return table.labels(options.target, loss)
    return table.numbers(options.target), None


@contextlib.contextmanager
def _errors_in_table_names(options: FitOptions, table: Table, names: list[str]) -> Iterator[None]:
    """Translate errors about X, y and weights into errors about the table's columns and rows."""
    try:
        yield
    except ValueError as error:
        parts = {"y": options.target, **options.row_columns()}
        raise ValueError(in_table_names(str(error), table.path, names, parts)) from error


@contextlib.contextmanager
def progress_bar(limit: int) -> Iterator[Callable[[Any], None] | None]:
    """Return a context whose callback shows a progress bar on a terminal; None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("step {task.completed}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=limit, status="")

        def update_bar(iterate: Any) -> None:
            status = f"loss {iterate.fun:.6g}  gradient {iterate.grad_norm:.1e}"
            bar.update(task, completed=iterate.nit, status=status)

        yield update_bar


def _fitted_table(
    options: FitOptions, names: list[str], labels: list[str] | None, result: Any, **rest: Any
) -> FittedTable:
    """Return the outcome: the model as it is saved, and its score on the rows that were fitted."""
    classes = labels or (None if result.classes is None else list(result.classes))
    model = result.as_model(
        target=options.target, features=names, classes=classes, fit={"rows": rest["rows"]}
    )
    scores = {score_name(result.loss): float(result.score())}
    return FittedTable(model, result, scores, **rest)


def fit_table_in_batches(options: FitOptions, path: Path, selection: Any) -> FittedTable:
    """Fit a table in batches on a backend; as `fit_table`, but of a file that is read while it is fitted."""
    if not path.is_dir():  # a folder of files is one table
        table_kind(path)
    features = options.feature_names()
    options.check_column_roles(features)
    loss = options.make_loss()
    if options.exposure and not loss.log_link:
        raise ValueError(f"--exposure is for a loss with a log link, got --loss {options.loss}")
    table = table_batches(
        path,
        options.target,
        features=features,
        weight=options.weight or None,
        offset=options.offset or None,
        exposure=options.exposure or None,
        text_loss=loss if loss.classes is not None else None,
    )

    def batches() -> Iterator[tuple[Any, ...]]:
        for batch in table():
            yield tuple(None if part is None else selection.asarray(part) for part in batch)

    start = time.perf_counter()
    try:
        with progress_bar(options.max_iter) as callback:
            stream = agd.Stream(batches)
            result = agd.fit(stream, **options.settings(callback))
    except ValueError as error:
        parts = {"y": options.target, **options.row_columns()}
        raise ValueError(in_table_names(str(error), path, table.features, parts)) from error
    seconds, backend = time.perf_counter() - start, f"{selection}, in batches"
    return _fitted_table(
        options, table.features, table.labels, result,
        path=path, rows=stream.rows or 0, backend=backend, seconds=seconds,
    )  # fmt: skip
