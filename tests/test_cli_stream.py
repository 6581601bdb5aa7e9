"""The command line on tables that are read in batches."""

from __future__ import annotations

import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line's extra is not installed")
pytest.importorskip("typer", reason="the command line's extra is not installed")

import pyarrow.csv
import pyarrow.parquet

from agd.cli.models import Model

pytestmark = pytest.mark.backend("numpy")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 3000
    X = rng.normal(size=(n, 3))
    z = X @ np.asarray([1.0, -0.5, 0.2])
    columns = {
        **{name: X[:, i] for i, name in enumerate(("a", "b", "c"))},
        "weight": rng.uniform(0.1, 1.0, size=n),
        "size": z + rng.normal(size=n),
        "sort": (z + rng.logistic(size=n) > 0.0) * 2 + 1,
        "count": rng.poisson(np.exp(0.3 * z)),
        "name": pa.array(["x", "y"] * (n // 2)),
    }
    folder = tmp_path_factory.mktemp("tables")
    pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")
    pyarrow.csv.write_csv(pa.table(columns), folder / "t.csv")
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "options",
    [
        ["--target", "size"],
        ["--target", "size", "--weight", "weight", "--l2", "0.1"],
        ["--target", "sort", "--loss", "log_loss"],
        ["--target", "count", "--loss", "poisson", "--method", "gd"],
    ],
    ids=lambda o: o[1],
)
def test_batches_give_the_fit_of_the_whole_table(cli, table, tmp_path, options, kind):
    path, features = table / f"t.{kind}", ["--features", "a,b,c"]
    save = tmp_path / "model.json"
    code, out, err = cli("fit", path, *options, *features, "--json", "--stream", "--save", save)
    assert code == 0, err
    found = json.loads(out)
    known = json.loads(cli("fit", path, *options, *features, "--json")[1])
    assert found.pop("backend") == "numpy (cpu), in batches"
    assert found["rows"] == 3000
    assert found["status"] == known["status"]
    assert Model.load(save).features == ["a", "b", "c"]
    numbers = [{k: v for k, v in one.items() if isinstance(v, float)} for one in (found, known)]
    for one in numbers:
        one.pop("seconds")
        one.pop("gradient", None)
    assert numbers[0].keys() == numbers[1].keys()
    assert np.allclose([*numbers[0].values()], [*numbers[1].values()], rtol=1e-6)
    mine, theirs = (np.asarray([*one["coefficients"].values()]) for one in (found, known))
    assert np.allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "size"], "column 'name' must be numbers, got string"),
        (["--target", "siz"], "'siz' is no column; did you mean 'size'"),
        (["--target", "size", "--features", "a,size"], "'size' is the target"),
        (["--target", "size", "--features", "a,a"], "a column is named twice"),
        (["--target", "size", "--weight", "size"], "'size' is the target"),
        (
            ["--target", "sort", "--features", "a", "--loss", "poisson", "--weight", "a"],
            "column 'a' has",
        ),
    ],
)
def test_faults_are_one_line(cli, table, options, words):
    code, out, err = cli("fit", table / "t.parquet", *options, "--stream")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_a_value_that_is_missing_is_named(cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,2\n2,\n4,5\n")
    code, _, err = cli("fit", path, "--target", "y", "--stream")
    assert code == 2
    assert "t.csv" in err
    assert "'y'" in err
