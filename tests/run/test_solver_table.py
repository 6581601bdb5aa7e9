"""The solver that ``agd.fit`` chooses when no method is named, pinned as a table.

Each kind of data is fitted with each loss and each penalty for three steps, and the name that the
result reports is compared with the table. Sizes are the smallest on either side of a threshold, so
that the whole table is cheap. JAX has no rows, because it would compile for minutes; array-api-strict
stands for every library whose arrays the host cannot read without waiting for a device.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import agd
from agd.gradient.conditioning import MAX_NORMAL_COLUMNS, MAX_SMALL_ENTRIES
from agd.loss import L1, L2, GroupL1, NonNegative
from agd.run import Traits, select_solver
from agd.run.host_moments import MAX_HOST_ENTRIES
from agd.run.linear_problem import MAX_HOST_MOMENT_BYTES
from agd.run.newton_direct import MAX_STEPS
from agd.run.normal_equations import MAX_BATCHED_COLUMNS
from agd.run.solver_table import (
    MAX_ACTIVE_SET_COLUMNS,
    MAX_HESSIAN_OPERATIONS,
    MAX_KERNEL_ENTRIES,
    MAX_KERNEL_ROWS,
    MIN_ROWS_PER_COLUMN,
)

# What the tables call a solver, and the name by which a result reports it.
METHOD_NAMES = {
    "normal": "descent in whitened coordinates",
    "normal_qr": "descent in whitened coordinates by QR, refined in twice the precision",
    "cg": "conjugate gradients, centred and scaled",
    "cg_rows": "conjugate gradients on the rows",
    "active_set": "accelerated proximal gradient and faces on the moments",
    "fista_moments": "accelerated proximal gradient on the moments",
    "fista": "accelerated proximal gradient",
    "newton": "Newton",
    "lbfgs_whitened": "L-BFGS (memory 10), strong Wolfe, whitened",
    "lbfgs_scaled": "L-BFGS (memory 10), strong Wolfe",
    "accelerated": "accelerated gradient descent, centred and scaled",
    "backtracking": "accelerated gradient descent, step by backtracking, centred and scaled",
    "proximal_newton": "proximal Newton",
    "proximal": "proximal gradient (Barzilai-Borwein, memory 10)",
}

SQUARED_LOSS_TABLE = """
kind of data                  | none      | L2      | L1            | GroupL1       | NonNegative
numpy, 60 x 5                 | normal    | normal  | active_set    | fista_moments | active_set
numpy, 15 x 5                 | normal    | normal  | active_set    | fista         | active_set
numpy, 20 x 40                | normal_qr | normal  | active_set    | fista         | active_set
numpy, 20 x 256               | normal_qr | normal  | active_set    | fista         | active_set
numpy, 20 x 257               | normal_qr | normal  | fista         | fista         | fista
numpy, 1100 x 257             | normal    | normal  | fista_moments | fista_moments | fista_moments
numpy, 1600 x 50              | normal    | normal  | active_set    | fista_moments | active_set
numpy, 1601 x 50              | normal    | normal  | active_set    | fista_moments | active_set
numpy, 12 x 2001              | cg_rows   | cg_rows | fista         | fista         | fista
numpy, 12 x 2001 uneven       | cg        | cg_rows | fista         | fista         | fista
numpy, 2010 x 2001            | cg        | cg      | fista         | fista         | fista
float32, 60 x 5               | normal    | normal  | active_set    | fista_moments | active_set
float32, 12 x 2001            | cg_rows   | cg_rows | fista         | fista         | fista
batch, 3 x 60 x 5             | normal    | normal  | fista_moments | fista_moments | fista_moments
targets, 60 x 5 -> 3          | normal    | normal  | fista_moments | fista_moments | fista_moments
sparse, 1100 x 256, 10 %      | normal    | normal  | active_set    | fista_moments | active_set
sparse, 1100 x 257, 10 %      | normal    | cg      | fista_moments | fista_moments | fista_moments
sparse, 1100 x 257, 30 %      | normal    | normal  | fista_moments | fista_moments | fista_moments
sparse, 60 x 257, 10 %        | normal    | cg_rows | fista         | fista         | fista
sparse, 2010 x 2001, 1 %      | cg        | cg      | fista         | fista         | fista
stream, 60 x 5                | normal    | normal  | active_set    | fista_moments | active_set
stream, 15 x 5                | normal    | normal  | active_set    | fista_moments | active_set
stream, 12 x 2001             | cg        | cg      | fista         | fista         | fista
stream, 42100 x 50            | normal    | normal  | active_set    | fista_moments | active_set
dask, 60 x 5                  | normal    | normal  | active_set    | fista_moments | active_set
dask, 15 x 5                  | normal    | normal  | active_set    | fista         | active_set
dask, 20 x 40                 | normal_qr | normal  | active_set    | fista         | active_set
dask, 12 x 2001               | cg        | cg      | fista         | fista         | fista
strict, 60 x 5                | normal    | normal  | fista_moments | fista_moments | fista_moments
strict, 15 x 5                | normal    | normal  | fista         | fista         | fista
strict, 20 x 40               | normal_qr | normal  | fista         | fista         | fista
strict, 12 x 2001             | cg_rows   | cg_rows | fista         | fista         | fista
torch, 60 x 5                 | normal    | normal  | fista_moments | fista_moments | fista_moments
torch, 15 x 5                 | normal    | normal  | fista         | fista         | fista
torch, 12 x 2001              | cg_rows   | cg_rows | fista         | fista         | fista
"""

# With any other loss the penalties that act entry by entry are alike, and so are most kinds of data.
OTHER_LOSSES_TABLE = """
kind of data                  | losses                  | none           | L2             | L1, NonNegative | GroupL1
numpy, 60 x 5                 | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
numpy, 15 x 5                 | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
numpy, 20 x 40                | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
numpy, 20 x 256               | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
numpy, 20 x 257               | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal        | proximal
numpy, 1100 x 257             | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal        | proximal
numpy, 1600 x 50              | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
numpy, 1601 x 50              | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
numpy, 12 x 2001              | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
numpy, 12 x 2001              | poisson                  | backtracking   | backtracking   | proximal        | proximal
numpy, 12 x 2001 uneven       | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
numpy, 12 x 2001 uneven       | poisson                  | backtracking   | backtracking   | proximal        | proximal
numpy, 2010 x 2001            | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
numpy, 2010 x 2001            | poisson                  | backtracking   | backtracking   | proximal        | proximal
float32, 60 x 5               | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
float32, 12 x 2001            | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
float32, 12 x 2001            | poisson                  | backtracking   | backtracking   | proximal        | proximal
batch, 3 x 60 x 5             | huber, log_loss, poisson | newton         | newton         | proximal        | proximal
targets, 60 x 5 -> 3          | huber, log_loss, poisson | newton         | newton         | proximal        | proximal
sparse, 1100 x 256, 10 %      | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
sparse, 1100 x 257, 10 %      | huber, log_loss, poisson | lbfgs_whitened | lbfgs_scaled   | proximal        | proximal
sparse, 1100 x 257, 30 %      | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal        | proximal
sparse, 60 x 257, 10 %        | huber, log_loss, poisson | lbfgs_whitened | lbfgs_scaled   | proximal        | proximal
sparse, 2010 x 2001, 1 %      | huber, log_loss, poisson | lbfgs_scaled   | lbfgs_scaled   | proximal        | proximal
stream, 60 x 5                | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
stream, 15 x 5                | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
stream, 12 x 2001             | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
stream, 12 x 2001             | poisson                  | backtracking   | backtracking   | proximal        | proximal
stream, 42100 x 50            | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
dask, 60 x 5                  | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
dask, 15 x 5                  | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
dask, 20 x 40                 | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
dask, 12 x 2001               | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
dask, 12 x 2001               | poisson                  | backtracking   | backtracking   | proximal        | proximal
strict, 60 x 5                | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
strict, 15 x 5                | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
strict, 20 x 40               | huber, log_loss, poisson | lbfgs_whitened | lbfgs_whitened | proximal_newton | proximal
strict, 12 x 2001             | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
strict, 12 x 2001             | poisson                  | backtracking   | backtracking   | proximal        | proximal
torch, 60 x 5                 | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
torch, 15 x 5                 | huber, log_loss, poisson | newton         | newton         | proximal_newton | proximal
torch, 12 x 2001              | huber, log_loss          | accelerated    | accelerated    | proximal        | proximal
torch, 12 x 2001              | poisson                  | backtracking   | backtracking   | proximal        | proximal"""

LOSSES = ("squared_error", "huber", "log_loss", "poisson")
PROXIMAL_PENALTIES = ("L1", "GroupL1", "NonNegative")
PENALTIES = ("none", "L2", *PROXIMAL_PENALTIES)
UNFINISHED = pytest.mark.filterwarnings(
    "ignore::agd.ConvergenceWarning", "ignore::numpy.exceptions.RankWarning"
)


def numpy_data(*shape: int, targets: tuple[int, ...] = (), dtype: Any = float) -> tuple[Any, Any]:
    """Return independent normal columns, and targets of 0 and 1, which every loss accepts."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape).astype(dtype)
    return X, rng.integers(0, 2, size=(*shape[:-1], *targets)).astype(dtype)


def uneven_data(rows: int, columns: int) -> tuple[Any, Any]:
    X, y = numpy_data(rows, columns)
    return X * np.logspace(0, 3, columns), y


def sparse_data(rows: int, columns: int, density: float) -> tuple[Any, Any]:
    sparse = pytest.importorskip("scipy.sparse")
    X, y = numpy_data(rows, columns)
    chosen = np.random.default_rng(1).uniform(size=X.shape) < density
    return sparse.csr_array(np.where(chosen, X, 0.0)), y


def stream_data(rows: int, columns: int) -> tuple[Any, None]:
    X, y = numpy_data(rows, columns)
    half = rows // 2
    return agd.Stream([(X[:half], y[:half]), (X[half:], y[half:])]), None


def dask_data(rows: int, columns: int) -> tuple[Any, Any]:
    import dask.array as da

    X, y = numpy_data(rows, columns)
    return da.from_array(X, chunks=(rows // 2, columns)), da.from_array(y, chunks=rows // 2)


def strict_data(rows: int, columns: int) -> tuple[Any, Any]:
    """Return arrays on a device that the host cannot read from but by a copy, as on a GPU."""
    import array_api_strict as strict

    device = strict.Device("device1")
    X, y = numpy_data(rows, columns)
    return strict.asarray(X, device=device), strict.asarray(y, device=device)


def torch_data(rows: int, columns: int) -> tuple[Any, Any]:
    import torch

    X, y = numpy_data(rows, columns)
    return torch.asarray(X), torch.asarray(y)


class DataKind(NamedTuple):
    """How data of a kind are made, and the session of tests that has the library for it."""

    make: Callable[..., tuple[Any, Any]]
    sizes: tuple[Any, ...]
    session: str = "numpy"


single_data = functools.partial(numpy_data, dtype=np.float32)
target_data = functools.partial(numpy_data, targets=(3,))

DATA_KINDS = {
    "numpy, 60 x 5": DataKind(numpy_data, (60, 5)),
    "numpy, 15 x 5": DataKind(numpy_data, (15, 5)),
    "numpy, 20 x 40": DataKind(numpy_data, (20, 40)),
    "numpy, 20 x 256": DataKind(numpy_data, (20, 256)),
    "numpy, 20 x 257": DataKind(numpy_data, (20, 257)),
    "numpy, 1100 x 257": DataKind(numpy_data, (1100, 257)),
    "numpy, 1600 x 50": DataKind(numpy_data, (1600, 50)),
    "numpy, 1601 x 50": DataKind(numpy_data, (1601, 50)),
    "numpy, 12 x 2001": DataKind(numpy_data, (12, 2001)),
    "numpy, 12 x 2001 uneven": DataKind(uneven_data, (12, 2001)),
    "numpy, 2010 x 2001": DataKind(numpy_data, (2010, 2001)),
    "float32, 60 x 5": DataKind(single_data, (60, 5)),
    "float32, 12 x 2001": DataKind(single_data, (12, 2001)),
    "batch, 3 x 60 x 5": DataKind(numpy_data, (3, 60, 5)),
    "targets, 60 x 5 -> 3": DataKind(target_data, (60, 5)),
    "sparse, 1100 x 256, 10 %": DataKind(sparse_data, (1100, 256, 0.1)),
    "sparse, 1100 x 257, 10 %": DataKind(sparse_data, (1100, 257, 0.1)),
    "sparse, 1100 x 257, 30 %": DataKind(sparse_data, (1100, 257, 0.3)),
    "sparse, 60 x 257, 10 %": DataKind(sparse_data, (60, 257, 0.1)),
    "sparse, 2010 x 2001, 1 %": DataKind(sparse_data, (2010, 2001, 0.01)),
    "stream, 60 x 5": DataKind(stream_data, (60, 5)),
    "stream, 15 x 5": DataKind(stream_data, (15, 5)),
    "stream, 12 x 2001": DataKind(stream_data, (12, 2001)),
    "stream, 42100 x 50": DataKind(stream_data, (42_100, 50)),
    "dask, 60 x 5": DataKind(dask_data, (60, 5), "dask"),
    "dask, 15 x 5": DataKind(dask_data, (15, 5), "dask"),
    "dask, 20 x 40": DataKind(dask_data, (20, 40), "dask"),
    "dask, 12 x 2001": DataKind(dask_data, (12, 2001), "dask"),
    "strict, 60 x 5": DataKind(strict_data, (60, 5), "strict"),
    "strict, 15 x 5": DataKind(strict_data, (15, 5), "strict"),
    "strict, 20 x 40": DataKind(strict_data, (20, 40), "strict"),
    "strict, 12 x 2001": DataKind(strict_data, (12, 2001), "strict"),
    "torch, 60 x 5": DataKind(torch_data, (60, 5), "torch"),
    "torch, 15 x 5": DataKind(torch_data, (15, 5), "torch"),
    "torch, 12 x 2001": DataKind(torch_data, (12, 2001), "torch"),
}


def table_rows(table: str) -> list[list[str]]:
    """Return the cells of a table below its heading."""
    _, *lines = table.strip().splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def expected_solvers() -> dict[tuple[str, str], dict[str, str]]:
    """Return both tables as one: the solver for each penalty, by kind of data and loss."""
    expected = {}
    for kind, *solvers in table_rows(SQUARED_LOSS_TABLE):
        expected[kind, "squared_error"] = dict(zip(PENALTIES, solvers, strict=True))
    for kind, losses, none, ridge, separable, coupled in table_rows(OTHER_LOSSES_TABLE):
        solvers = (none, ridge, separable, coupled, separable)
        row = dict(zip(PENALTIES, solvers, strict=True))
        for loss in losses.split(", "):
            assert (kind, loss) not in expected, f"{kind} | {loss} stands twice in the tables"
            expected[kind, loss] = row
    return expected


EXPECTED = expected_solvers()


@functools.lru_cache(maxsize=1)  # The losses of a kind follow one another, so one entry is enough.
def data_of_kind(kind: str) -> tuple[Any, Any]:
    make, sizes, _ = DATA_KINDS[kind]
    return make(*sizes)


def make_penalties(columns: int) -> dict[str, Any]:
    return {
        "none": None,
        "L2": L2(0.1),
        "L1": L1(0.05),
        "GroupL1": GroupL1(0.05, tuple(j // 2 for j in range(columns))),
        "NonNegative": NonNegative(),
    }


def in_session(kind: str, *values: str) -> Any:
    """Return a parameter of a test that runs in the session of its kind of data."""
    marks = pytest.mark.backend(DATA_KINDS[kind].session)
    return pytest.param(kind, *values, marks=marks, id="; ".join((kind, *values)))


def test_the_tables_have_every_case_and_no_other():
    assert set(EXPECTED) == set(itertools.product(DATA_KINDS, LOSSES))
    assert set(make_penalties(5)) == set(PENALTIES)
    assert {solver for row in EXPECTED.values() for solver in row.values()} == set(METHOD_NAMES)


def test_the_help_of_fit_explains_every_solver():
    text = " ".join(agd.fit.__doc__.split())
    for name in agd.run.SOLVERS:
        assert f'``"{name}"``' in text, name
    reported = re.findall(r'``"\w+"``, "([^"]+)":', text)
    assert reported
    for method in METHOD_NAMES.values():
        beginnings = [name.partition(" ...")[0] for name in reported]
        assert method.startswith(tuple(beginnings)), method


def test_the_page_on_the_architecture_has_every_row_and_the_one_that_follows():
    page = (Path(__file__).parents[2] / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:] for line in page.splitlines() if line.startswith("| `")]
    follows = {name: cells[-2] for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}
    for name, row in agd.run.SOLVERS.items():
        assert f"`{row.fallback}`" in follows[name] if row.fallback else name in follows, name


def items_of_the_help() -> dict[str, str]:
    """Return the text of each item of the list in the help of `method`, by the first name in it."""
    text = agd.fit.__doc__.partition("method : ")[2].partition("Or choose the method")[0]
    items = [" ".join(item.split()) for item in re.split(r"\n\s+- ", text)[1:]]
    return {name: item for item in items for name in [item.split('"')[1]]}


def test_the_help_of_fit_names_the_row_that_follows_each():
    items = items_of_the_help()
    items["proximal_newton_direct"] = items["newton_direct"]  # they share an item
    for name, row in agd.run.SOLVERS.items():
        if name in items and row.fallback is not None:
            assert f'``"{row.fallback}"``' in items[name], (name, row.fallback)
    assert set(agd.run.SOLVERS) - set(items) == {"closed_form", "iterations"}


def test_the_help_of_fit_quotes_the_limits_of_the_table():
    items = items_of_the_help()
    hessian = f"{MAX_HESSIAN_OPERATIONS:,.0f}"
    quoted = {
        "normal_direct": (
            f"p <= {math.isqrt(MAX_HOST_MOMENT_BYTES // 8) - 1},",
            f"p <= {MAX_NORMAL_COLUMNS:,}",
        ),
        "normal_batched": (f"{MAX_SMALL_ENTRIES:,} entries", f"p <= {MAX_BATCHED_COLUMNS}"),
        "normal_dual": (f"{MAX_ACTIVE_SET_COLUMNS} < p <= {MAX_NORMAL_COLUMNS:,}",),
        "normal": (f"p <= {MAX_NORMAL_COLUMNS:,}", f"p <= {MAX_ACTIVE_SET_COLUMNS}"),
        "semismooth_newton": (f"p <= {MAX_ACTIVE_SET_COLUMNS}",),
        "working_sets": (f"p > {MAX_ACTIVE_SET_COLUMNS}",),
        "fista_moments": (f"p <= {MAX_NORMAL_COLUMNS:,}", f"n >= {MIN_ROWS_PER_COLUMN} p"),
        "proximal_newton": (f"p <= {MAX_ACTIVE_SET_COLUMNS}",),
        "newton_kernel": (f"n <= {MAX_KERNEL_ROWS}", f"{MAX_KERNEL_ENTRIES:,} entries"),
        "newton_direct": (f"{MAX_HOST_ENTRIES:,} entries", f"than {MAX_STEPS} steps"),
        "newton": (f"n p² <= {hessian}",),
    }
    for name, limits in quoted.items():
        for limit in limits:
            assert limit in items[name], (name, limit)


def test_the_help_of_fit_quotes_only_methods_that_there_are():
    text = agd.fit.__doc__.partition("Or choose the method")[2].partition("stop : ")[0]
    names = set(re.findall(r'``"(\w+)"``', text))
    assert names <= {"auto", *agd.run.SOLVERS, *agd.update.RULES, *agd.update.MINIMIZERS}
    stochastic = {name for name, make in agd.update.MINIMIZERS.items() if make().stochastic}
    assert stochastic <= names


@UNFINISHED
def test_a_result_names_the_row_that_served():
    X, y = data_of_kind("numpy, 60 x 5")
    assert agd.fit(X, y).solver == "normal_direct"
    assert agd.fit(X, y, stop=agd.Stop(max_iter=3)).solver == "normal"
    assert "solver: normal_direct" in repr(agd.fit(X, y))
    collinear = np.stack([X[:, 0], X[:, 0]], axis=-1)
    with pytest.warns(np.exceptions.RankWarning):
        assert agd.fit(collinear, y).solver == "normal"  # the row that follows "normal_direct"
    assert agd.fit(X, y, method="adam", stop=agd.Stop(max_iter=3)).solver == "iterations"


@UNFINISHED
@pytest.mark.parametrize(
    ("kind", "loss"), [in_session(*case) for case in itertools.product(DATA_KINDS, LOSSES)]
)
def test_the_solver_is_that_of_the_table(kind, loss):
    X, y = data_of_kind(kind)
    stop = agd.Stop(max_iter=3)
    methods = {
        name: agd.fit(X, y, loss=loss, penalty=penalty, stop=stop).method
        for name, penalty in make_penalties(int(X.shape[-1])).items()
    }
    assert methods == {name: METHOD_NAMES[solver] for name, solver in EXPECTED[kind, loss].items()}


# Only the normal equations whose moments the host holds have a solver that is left out when a stopping
# test is given. It reports the same name, so that only the work shows whether it ran.
# Wide NumPy arrays of many columns, of which the default is the dual form, are held to it elsewhere.
NORMAL_EQUATIONS = [
    kind
    for kind in DATA_KINDS
    if EXPECTED[kind, "squared_error"]["none"].startswith("normal") and kind != "numpy, 20 x 257"
]


@UNFINISHED
@pytest.mark.parametrize("kind", [in_session(kind) for kind in NORMAL_EQUATIONS])
def test_the_default_stop_changes_no_solver_of_the_squared_loss(kind):
    X, y = data_of_kind(kind)
    for name, penalty in (("none", None), ("L2", L2(0.1))):
        solver = EXPECTED[kind, "squared_error"][name]
        assert agd.fit(X, y, penalty=penalty).method == METHOD_NAMES[solver], name


SMALL_PROBLEMS_TABLE = """
sizes and dtype               | weights | solved without a loop
60 x 5, float64               | none    | yes
60 x 5, float32               | none    | yes
60 x 5, float64               | by row  | yes
200 x 64, float64             | none    | yes
200 x 65, float64             | none    | yes
10000 x 5, float64            | none    | yes
10001 x 5, float64            | none    | yes
4096 x 32, float64            | none    | yes
4097 x 32, float64            | none    | yes
3 x 60 x 5, float64           | none    | yes
3 x 60 x 5, float32           | none    | no
3 x 60 x 5, float64           | by row  | no
3 x 80 x 16, float64          | none    | yes
3 x 80 x 17, float64          | none    | no
"""


def count_calls(*args: Any, **kwargs: Any) -> int:
    """Return how many functions of the package a fit calls."""
    package, calls = str(Path(agd.__file__).parent), 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(package)

    sys.setprofile(count)
    try:
        result = agd.fit(*args, **kwargs)
    finally:
        sys.setprofile(None)
    assert result.method == METHOD_NAMES["normal"]
    return calls


@pytest.mark.parametrize("penalty", [None, L2(0.1)], ids=["none", "L2"])
@pytest.mark.parametrize(("problem", "weights", "loopless"), table_rows(SMALL_PROBLEMS_TABLE))
def test_small_problems_are_solved_without_a_loop(problem, weights, loopless, penalty):
    sizes, dtype = problem.split(", ")
    X, y = numpy_data(*map(int, sizes.split(" x ")), dtype=np.dtype(dtype))
    data = {"X": X, "y": y, "sample_weight": None if weights == "none" else np.ones_like(y)}
    by_default = count_calls(**data, penalty=penalty)
    by_loop = count_calls(**data, penalty=penalty, stop=agd.Stop())
    # Calls are 32 to 82 without the loop, and more than 600 with it.
    assert (by_default < by_loop / 2) == (loopless == "yes"), (by_default, by_loop)


MEASURED = {  # the quickest solver of a logistic fit with a ridge, as docs/solver_costs.md shows
    (300, 5): "newton_direct", (10_000, 20): "newton_direct", (30_000, 20): "newton_direct",
    (10_000, 40): "newton_direct", (3000, 160): "newton_direct", (3000, 320): "newton_direct",
    (30_000, 80): "lbfgs_whitened", (10_000, 320): "lbfgs_whitened",
}  # fmt: skip


@pytest.mark.parametrize(("n", "p"), MEASURED)
def test_the_model_of_costs_chooses_what_was_measured(n, p):
    traits = Traits(n, p, n * p, quadratic=False, ridge=1.0 / n, default_settings=True)
    assert select_solver(traits) == MEASURED[n, p]
