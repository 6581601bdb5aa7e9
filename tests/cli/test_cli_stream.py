"""The command line on tables that are read in batches."""

from __future__ import annotations

import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line's extra is not installed")
pytest.importorskip("typer", reason="the command line's extra is not installed")

import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from agd.model_file import Model
from helpers.command_line_errors import single_error_line

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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "y", "--features", "x"], "row 2: column 'x' has 1 empty or NaN cell here"),
        (
            ["--target", "y", "--features", "z"],
            "row 3: column 'z' has an infinite or too large cell",
        ),
        (["--target", "x", "--features", "y"], "row 2: column 'x' has 1 empty or NaN cell here"),
        (
            ["--target", "z", "--features", "y"],
            "row 3: column 'z' has 2 infinite or too large cells",
        ),
        (
            ["--target", "y", "--features", "y2", "--weight", "x"],
            "row 2: column 'x' has 1 empty or NaN cell here",
        ),
    ],
)
def test_a_cell_that_is_no_finite_number_is_named(cli, tmp_path, options, words):
    path = tmp_path / "t.csv"
    path.write_text("x,z,y,y2\n1,2,1,1\n,3,2,5\n3,inf,3,7\n4,nan,5,9\n")
    err = single_error_line(*cli("fit", path, *options, "--stream"))
    assert f"{path}: {words}" in err


def test_a_column_without_a_name_is_no_feature(cli, tmp_path):
    path = tmp_path / "index.csv"
    path.write_text(",a,t\n0,1,3\n1,2,3\n2,3,1\n")
    err = single_error_line(*cli("fit", path, "--target", "t", "--stream"))
    assert err == single_error_line(*cli("fit", path, "--target", "t"))
    assert "column 1 has no name in the header" in err
    code, out, _ = cli("fit", path, "--target", "t", "--stream", "--features", "a", "--json")
    assert code == 0
    assert [*json.loads(out)["coefficients"]] == ["a"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
def test_text_classes_are_found_on_a_pass_before(cli, tmp_path, kind):
    rng = np.random.default_rng(0)
    n = 200_000  # of CSV, more than one block
    x = rng.normal(size=n)
    sort = np.where(x + rng.logistic(size=n) > 0.0, "up", "down")
    sort = np.where(np.arange(n) < n // 2, "up", sort)  # the other class comes late
    table = pa.table({"x": x, "sort": sort})
    if kind == "parquet":
        table = table.set_column(1, "sort", table.column("sort").dictionary_encode())
    path = tmp_path / f"t.{kind}"
    {
        "csv": pyarrow.csv.write_csv,
        "parquet": pyarrow.parquet.write_table,
        "feather": pyarrow.feather.write_feather,
    }[kind](table, path)
    found = []
    for more in ([], ["--stream"]):
        save = tmp_path / f"model{len(more)}.json"
        options = ["--target", "sort", "--loss", "log_loss", "--json", "--save", save, *more]
        code, out, err = cli("fit", path, *options)
        assert code == 0, err
        found.append((Model.load(save), json.loads(out)))
    (whole, known), (streamed, seen) = found
    assert streamed.classes == whole.classes == ["down", "up"]
    assert np.allclose(streamed.coefficients, whole.coefficients, rtol=1e-6)
    assert seen["accuracy"] == pytest.approx(known["accuracy"], abs=1e-4)
    assert seen["classes"] == known["classes"]


@pytest.mark.parametrize(
    ("cells", "loss", "words"),
    [
        (["a", "a", "a"], "log_loss", "column 't' must have two classes for log_loss, got 1 ('a')"),
        (["a", "b", "c"], "log_loss", "must have two classes for log_loss, got 3 or more ('a', "),
        (["a", "", "b"], "log_loss", "row 2: column 't' is empty here"),
        (["a", "b", "b"], "squared_error", "row 1: column 't' must be numbers, got 'a'"),
    ],
)
def test_text_that_is_not_two_classes_is_refused(cli, tmp_path, cells, loss, words):
    path = tmp_path / "t.csv"
    path.write_text("x,t\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    err = single_error_line(*cli("fit", path, "--target", "t", "--loss", loss, "--stream"))
    assert str(path) in err
    assert words in err


def test_text_that_is_not_utf_8_is_said(cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("x,t\n1,é\n2,a\n".encode("latin-1"))
    err = single_error_line(*cli("fit", path, "--target", "t", "--loss", "log_loss", "--stream"))
    assert f"{path}: is not UTF-8 text" in err
