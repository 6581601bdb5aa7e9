"""The commands and their options. An error is one line on stderr and exit code 2, without a traceback.

Here the command line begins: a command checks its options, has a table read and fitted by the neighbouring
modules, and prints a report. The docstrings of the commands are the text of ``--help``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import agd
from agd._validation.files import (
    check_distinct_files,
    check_writable,
    name_option_in_errors,
    write_atomically,
)
from agd.cli import fitting, report
from agd.cli.report import in_option_names
from agd.cli.tables import read_table
from agd.data.checks import as_offset
from agd.data.tables import FORMAT_BY_SUFFIX

__all__ = ["app", "run_command_line"]

WELCOME = """\
agd fits by gradient descent on whatever array you hold: NumPy, CuPy, PyTorch, JAX, Dask.

  agd train                            fit the article's line and print its table
  agd fit houses.csv --target price    fit a table; add --save model.json to keep the model
  agd predict model.json new.csv       predict for the rows of another table
  agd backends                         which array libraries are here, on which devices

agd COMMAND --help says more; from Python: import agd; agd.fit(X, y)."""

EXIT_UNCONVERGED = 3
EXIT_BROKEN_PIPE = 141

# Errors whose message is enough for a user; others are named by their type.
EXPECTED_ERRORS = (
    ValueError,
    TypeError,
    ImportError,
    RuntimeError,
    FloatingPointError,
    MemoryError,
    OSError,
)

app = typer.Typer(
    name="agd",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        envvar="AGD_BACKEND",
        help="auto, numpy, cupy, cupy:1, torch, torch:cuda:0, jax, dask, ...",
    ),
]


@app.callback(invoke_without_command=True)
def _print_welcome(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Fit and minimise by gradient descent on whatever array you hold."""
    if version:
        print(f"agd {agd.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(WELCOME)


@app.command()
def train(
    epochs: Annotated[int, typer.Option(help="The number of steps.")] = 5000,
    learning_rate: Annotated[float, typer.Option(help="The learning rate.")] = 8e-3,
    w0: Annotated[float | None, typer.Option(help="The first intercept; drawn if absent.")] = None,
    w1: Annotated[float | None, typer.Option(help="The first slope; drawn if absent.")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the draws.")] = None,
    every: Annotated[int, typer.Option(help="Print a line for every so many epochs.")] = 500,
    backend: BackendOption = "auto",
) -> None:
    """Fit the article's line by gradient descent and print its table."""
    if (w0 is None) != (w1 is None):
        raise ValueError("--w0 and --w1 are given together or not at all")
    selection = agd.backends.select(backend)
    agd.train(
        num_epochs=epochs,
        learning_rate=learning_rate,
        weights=None if w0 is None else {"w0": w0, "w1": w1},  # type: ignore[dict-item]
        seed=seed,
        backend=report.resolved_spec(backend, selection),
        every=every,
    )
    report.print_auto_choice(backend, selection)


@app.command()
def backends() -> None:
    """List the array libraries: installed, version and devices, or why not."""
    report.print_backend_table(agd.backends.available())


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(help="A .csv, .parquet or .feather file.")],
    target: Annotated[str, typer.Option(help="The column to fit.")],
    features: Annotated[
        str, typer.Option(help="Columns to fit it from, A,B,C; all the others by default.")
    ] = "",
    weight: Annotated[str, typer.Option(help="A column of weights for the rows.")] = "",
    offset: Annotated[
        str, typer.Option(help="A column that is added to the predictor of each row.")
    ] = "",
    exposure: Annotated[
        str, typer.Option(help="A column in place of an offset, its logarithm; for a log link.")
    ] = "",
    loss: Annotated[
        str, typer.Option(help=f"One of {', '.join(agd.loss.LOSSES)}.")
    ] = "squared_error",
    delta: Annotated[
        str, typer.Option(help="Where huber turns linear: a number, or auto for 1.35 spreads.")
    ] = "",
    l1: Annotated[float, typer.Option(help="alpha of the penalty alpha Σ|w|.")] = 0.0,
    l2: Annotated[float, typer.Option(help="alpha of the penalty alpha/2 |w|².")] = 0.0,
    standardize: Annotated[
        bool,
        typer.Option("--standardize", help="Penalise coefficients times their columns' spreads."),
    ] = False,
    alpha: Annotated[
        str,
        typer.Option(help="Choose what the penalty is multiplied by: cv, cv_1se, aic, bic or gcv."),
    ] = "",
    intercept: Annotated[bool, typer.Option(help="Whether there is a constant term.")] = True,
    method: Annotated[
        str, typer.Option(help="auto, gd, or a rule of agd.update: momentum, nesterov, adam, ...")
    ] = "auto",
    learning_rate: Annotated[
        str, typer.Option(help="A number, or auto for 1/L; for every method but auto.")
    ] = "",
    max_iter: Annotated[int, typer.Option(help="The most steps.")] = 10_000,
    tol: Annotated[
        float | None,
        typer.Option(help="The largest gradient entry at the end; by default relative, eps^(2/3)."),
    ] = None,
    backend: BackendOption = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the model here, as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the loss curve: .png, .svg, .pdf.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Read the table in batches: for one larger than memory."),
    ] = False,
    allow_unconverged: Annotated[
        bool,
        typer.Option("--allow-unconverged", help="Write a model that did not converge, too."),
    ] = False,
) -> None:
    """Fit a linear model to a table; exit code 3 if it did not converge.

    Coefficients are in the table's own units. A model that did not converge is not saved, unless
    --allow-unconverged says so.
    """
    options = fitting.FitOptions(
        target=target, features=features, weight=weight, offset=offset, exposure=exposure,
        loss=loss, delta=delta, l2=l2,
        intercept=intercept, method=method, learning_rate=learning_rate, max_iter=max_iter, tol=tol,
        save=save, plot=plot, allow_unconverged=allow_unconverged, l1=l1, standardize=standardize,
        alpha=alpha,
    )  # fmt: skip
    options.check(table)
    selection = agd.backends.select(backend)
    if stream:
        fitted = fitting.fit_table_in_batches(options, table, selection)
    else:
        fitted = fitting.fit_table(options, read_table(table), selection)
    report.print_auto_choice(backend, selection)
    report.print_fit(fitted, as_json=json)
    unwritten = fitting.write_outputs(options, fitted)
    if not fitted.result.success:
        message = in_option_names(fitted.result.message)
        report.print_note(f"{message}; {unwritten}" if unwritten else message)
        raise typer.Exit(EXIT_UNCONVERGED)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model that agd fit --save wrote.")],
    table: Annotated[Path, typer.Argument(help="A table with the model's columns, in any order.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Write a .csv, .parquet or .feather file, not to the standard output."),
    ] = None,
    offset: Annotated[
        str, typer.Option(help="A column that is added to the predictor of each row.")
    ] = "",
    exposure: Annotated[
        str, typer.Option(help="A column in place of an offset, its logarithm; for a log link.")
    ] = "",
) -> None:
    """Predict for the rows of a table: a table with a column `prediction`, as CSV on the standard output.

    For classes the prediction is the label, and a column `probability` has that of the second class; of
    more than two classes, that of the predicted one.
    """
    import pyarrow as pa
    import pyarrow.csv

    check_distinct_files({"the model": model, "the table": table}, {"--output": output})
    write = _table_writer(Path("standard output.csv") if output is None else output)
    if output is not None:
        check_writable("--output", output)
    fitted = agd.load(model)
    features = fitted.feature_names
    if features is None or np.ndim(fitted.fun) > 0:
        raise ValueError(
            f"{model}: need a model of one target whose columns have names; load this one by agd.load"
        )
    rows = read_table(table)
    rows.check_columns("feature", features)
    given = {"offset": offset, "exposure": exposure}
    for name, column in given.items():
        if column:
            rows.check_columns(f"--{name}", [column])
    shift = as_offset(fitted.loss, *(rows.numbers(c) if c else None for c in given.values()))
    columns = pa.table(_predicted_columns(fitted, rows.matrix(features), shift))
    if output is None:
        sink = pa.BufferOutputStream()
        write(columns, sink)
        print(sink.getvalue().to_pybytes().decode(), end="")
    else:
        with name_option_in_errors("--output", output):
            write_atomically(output, lambda file: write(columns, file))
    if not fitted.success:
        status = fitted.status.name
        report.print_note(
            f"{model}: the fit of this model did not converge ({status}): its predictions may be far off"
        )


def _predicted_columns(fitted: Any, X: Any, offset: Any) -> dict[str, Any]:
    """Return the columns of a prediction; of classes also the probability of the second, or of the likeliest."""
    columns = {"prediction": fitted.predict(X, offset=offset)}
    if fitted.classes is not None:
        probability = fitted.loss.predict(fitted.decision_function(X, offset=offset))
        columns["probability"] = (
            probability if fitted.loss.outputs is None else probability.max(axis=-1)
        )
    return columns


def _table_writer(output: Path) -> Callable[[Any, Any], None]:
    """Return ``write(table, file)`` for the kind of file that the suffix of --output names."""
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.parquet

    kind = FORMAT_BY_SUFFIX.get(output.suffix.lower())
    if kind is None:
        raise ValueError(
            f"--output: the suffix must be one of {', '.join(FORMAT_BY_SUFFIX)}, got {output.name!r}"
        )
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    writers: dict[str, Callable[[Any, Any], None]] = {
        "csv": lambda table, file: pyarrow.csv.write_csv(table, file, options),
        "parquet": pyarrow.parquet.write_table,
        "feather": pyarrow.feather.write_feather,
    }
    return writers[kind]


def _print_warning(message: Any, *_: Any, **__: Any) -> None:
    """Print a Python warning as one line; a fit's status already says that it did not converge."""
    if not isinstance(message, agd.ConvergenceWarning):
        report.print_note(in_option_names(str(message)))


def run_command_line(argv: list[str]) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    argv : list of str
        The arguments, without the program's name.

    Returns
    -------
    int
        As ``agd.__main__.main`` returns it.
    """
    with _open_standard_streams():
        return _exit_code(argv)


def _exit_code(argv: list[str]) -> int:
    try:
        with _process_environment(), warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _print_warning
            code = app(argv, prog_name="agd", standalone_mode=False)
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        return _leave_broken_pipe()
    except (
        SystemExit
    ) as error:  # Click turns a broken pipe into one, with the code of other failures
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _leave_broken_pipe()
    except Exception as error:
        if os.environ.get("AGD_DEBUG"):
            raise
        report.print_note(_one_line_message(error))
        return 1 if isinstance(error, FloatingPointError) else 2
    if code == 130:
        report.print_note("interrupted")
    return code if isinstance(code, int) else 0


def _leave_broken_pipe() -> int:
    """Return the exit code where the reader of the pipe has ended, as in ``agd train | head -1``.

    Python flushes its buffer at exit, which would raise again without a file to write to.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_BROKEN_PIPE


@contextlib.contextmanager
def _open_standard_streams() -> Iterator[None]:
    """Replace standard streams that are closed (agd fit ... >&-), which Python sets to None."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout),
            ("stderr", contextlib.redirect_stderr),
        ):
            if getattr(sys, name) is None:
                null_device = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect(null_device))
        yield


@contextlib.contextmanager
def _process_environment() -> Iterator[None]:
    """Set the environment variables that array libraries read on import, for this command alone."""
    missing = {k: v for k, v in agd.backends.PROCESS_DEFAULTS.items() if k not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _one_line_message(error: Exception) -> str:
    """Return an error's message in one line; an unexpected error is named by its type."""
    if hasattr(error, "format_message"):  # of Click, which parses the arguments
        text = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        expected = True
    else:
        text = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
        expected = isinstance(error, EXPECTED_ERRORS)
    line = in_option_names(" ".join(text.split()))
    if expected:
        return line or type(error).__name__
    return f"unexpected {type(error).__name__}: {line} (AGD_DEBUG=1 shows where)"
