"""From a table to a fit: columns, options, progress, and the model that is kept."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import agd
from agd._validation import as_choice, as_count, as_nonnegative, as_positive
from agd.cli.files import check_apart, check_target
from agd.cli.models import Model
from agd.cli.plots import KINDS, loss_curve
from agd.cli.tables import Table
from agd.cli.wording import for_table

__all__ = ["Done", "Job", "deviance", "fit_table", "keep", "model_of", "progress"]


@dataclass(frozen=True)
class Job:
    """What the command line asks of a fit; the options by their names."""

    target: str
    features: str
    weight: str
    loss: str
    delta: float | None
    l2: float
    intercept: bool
    method: str
    learning_rate: str
    max_iter: int
    tol: float | None
    save: Path | None
    plot: Path | None

    def check(self, table: Path) -> None:
        """Say what is wrong with the options before the table is read."""
        self.chosen_loss()
        self.chosen_method()
        self.stop()
        self.penalty()
        check_apart({"the table": table}, {"--save": self.save, "--plot": self.plot})
        if self.save is not None:
            check_target("--save", self.save)
        if self.plot is not None:
            check_target("--plot", self.plot)
            if self.plot.suffix.lower() not in KINDS:
                raise ValueError(f"--plot: need one of {', '.join(KINDS)}, got {self.plot.name!r}")

    def chosen_loss(self) -> Any:
        """Return the loss, with its parameter."""
        if self.delta is None:
            return agd.loss.get(self.loss)
        if self.loss != "huber":
            raise ValueError(f"--delta is huber's, got --loss {self.loss}")
        return agd.loss.Huber(self.delta)

    def chosen_method(self) -> Any:
        """Return the method, with its learning rate."""
        as_choice("--method", self.method, ("auto", *agd.update.METHODS))
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
        return agd.update.METHODS[self.method](learning_rate=rate)

    def stop(self) -> agd.Stop:
        """Return the limits."""
        as_count("--max-iter", self.max_iter)
        if self.tol is not None:
            as_nonnegative("--tol", self.tol)
        return agd.Stop(max_iter=self.max_iter, grad_tol=self.tol)

    def penalty(self) -> Any:
        """Return the penalty, if one is asked for."""
        as_nonnegative("--l2", self.l2)
        return agd.loss.L2(self.l2) if self.l2 != 0.0 else None

    def named(self) -> list[str] | None:
        """Return the features that were named; None for all others."""
        return [name.strip() for name in self.features.split(",")] if self.features else None

    def check_apart_columns(self, named: list[str] | None) -> None:
        """Say which column was asked to be two things."""
        if self.weight == self.target:
            raise ValueError(f"--weight: {self.weight!r} is the target")
        if named is None:
            return
        if self.target in named:
            raise ValueError(f"--features: {self.target!r} is the target")
        if len(set(named)) != len(named):
            raise ValueError(f"--features: a column is named twice in {self.features!r}")

    def columns(self, table: Table) -> list[str]:
        """Return the features; every other column unless they are named."""
        table.require("--target", [self.target])
        self.check_apart_columns(None)
        if self.weight:
            table.require("--weight", [self.weight])
        named = self.named()
        if named is not None:
            table.require("--features", named)
            self.check_apart_columns(named)
            return named
        taken = {self.target, *([self.weight] if self.weight else [])}
        rest = [name for name in table.names if name not in taken]
        if not rest:
            raise ValueError(f"{table.path}: no column is left to fit {self.target!r} from")
        if "" in rest:
            raise ValueError(
                f"{table.path}: column {table.names.index('') + 1} has no name in the header: give it "
                f"one, or say by --features which columns to use"
            )
        # Text is reported cell by cell in a column that was meant to be numbers; a column that is
        # text throughout is left out only by the user's word.
        return rest


@dataclass(frozen=True)
class Done:
    """A fit of a table: the model that is kept, the run's result, and the scores."""

    model: Model
    result: Any
    scores: dict[str, float]
    path: Path
    rows: int
    backend: str
    seconds: float


def fit_table(job: Job, table: Table, chosen: Any) -> Done:
    """Fit a table on the chosen backend, keep the model and draw the curve if asked.

    Parameters
    ----------
    job : Job
        The options.
    table : Table
        The rows.
    chosen : agd.backends.Selection
        Where to fit.

    Returns
    -------
    Done
        What came of it.
    """
    names = job.columns(table)
    loss = job.chosen_loss()
    y, labels = _target(job, table, loss)
    X = table.matrix(names, "" if job.features else " (--features names the columns to use)")
    weight = table.numbers(job.weight) if job.weight else None
    began = time.perf_counter()
    with progress(job.max_iter) as callback, _worded(job, table, names):
        result = agd.fit(
            chosen.asarray(X),
            chosen.asarray(y),
            loss=loss,
            penalty=job.penalty(),
            sample_weight=None if weight is None else chosen.asarray(weight),
            intercept=job.intercept,
            method=job.chosen_method(),
            stop=job.stop(),
            callback=callback,
        )
    seconds = time.perf_counter() - began
    model = model_of(job, names, labels, result, table.rows)
    scores = _scores(model, loss, X, y, weight)
    keep(job, table.path.name, model, result)
    return Done(model, result, scores, table.path, table.rows, str(chosen), seconds)


def keep(job: Job, name: str, model: Model, result: Any) -> None:
    """Write the model, and draw the curve, where that is asked for."""
    if job.save is not None:
        model.save(job.save)
    if job.plot is not None:
        title = f"{result.loss.name} of {name}\n{result.method}"
        size = "relative gradient" if job.tol is None else "largest gradient entry"
        loss_curve(job.plot, result.history, title, size)


def _target(job: Job, table: Table, loss: Any) -> tuple[Any, list[str] | None]:
    if loss.classes is not None and table.is_text(job.target):
        return table.labels(job.target)
    return table.numbers(job.target), None


@contextlib.contextmanager
def _worded(job: Job, table: Table, names: list[str]) -> Iterator[None]:
    """Let what the library says of its arrays name the table's columns and rows."""
    try:
        yield
    except ValueError as error:
        said = for_table(str(error), table.path, names, job.target, job.weight)
        raise ValueError(said) from error


@contextlib.contextmanager
def progress(limit: int) -> Iterator[Callable[[Any], None] | None]:
    """Show a live bar on a terminal, and nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("step {task.completed}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=limit, shown="")

        def show(found: Any) -> None:
            shown = f"loss {found.fun:.6g}  gradient {found.grad_norm:.1e}"
            bar.update(task, completed=found.nit, shown=shown)

        yield show


def model_of(job: Job, names: list[str], labels: list[str] | None, result: Any, rows: int) -> Model:
    """Return the model that is kept: what was fitted, and how."""
    penalty = job.penalty()
    constant = result.intercept
    return Model(
        target=job.target,
        features=names,
        coefficients=agd.backends.to_numpy(result.coef).astype(float).tolist(),
        intercept=None if constant is None else float(agd.backends.to_numpy(constant)),
        loss={"name": result.loss.name, **asdict(result.loss)},
        penalty=None if penalty is None else {"name": "l2", **asdict(penalty)},
        classes=labels if result.classes is None or labels else list(result.classes),
        fit={
            "method": result.method,
            "status": result.status.name,
            "steps": result.nit,
            "loss": result.fun,
            "rows": rows,
        },
    )


def _scores(model: Model, loss: Any, X: Any, y: Any, weight: Any) -> dict[str, float]:
    """Return R² for a numeric target, accuracy for classes, and D² (explained deviance) for counts."""
    found = model.predict(X)["prediction"]
    s = np.ones_like(y) if weight is None else weight
    if model.classes is not None:
        truth = np.where(y == y.max(), *reversed(model.classes))
        return {"accuracy": float(np.average(found == truth, weights=s))}
    if loss.name == "poisson":
        constant = np.full_like(y, np.average(y, weights=s))
        null, left = deviance(y, constant, s), deviance(y, found, s)
        return {"D²": 1.0 - left / null if null > 0.0 else float("nan")}
    null = float(np.average((y - np.average(y, weights=s)) ** 2, weights=s))
    left = float(np.average((y - found) ** 2, weights=s))
    return {"R²": 1.0 - left / null if null > 0.0 else float("nan")}


def deviance(y: Any, mean: Any, s: Any) -> float:
    """Return the Poisson deviance, 2 (y log(y / mean) - y + mean), summed with weights s."""
    term = y * np.log(np.where(y > 0.0, y, 1.0) / mean)
    return float(s @ (2.0 * (term - y + mean)))
