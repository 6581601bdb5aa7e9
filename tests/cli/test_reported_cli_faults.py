"""Faults of the command line that users have reported, by their kind: whole tables and streams say the same."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line's extra is not installed")
pytest.importorskip("typer", reason="the command line's extra is not installed")

import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

import agd
from agd.model_file import Model
from helpers.command_line_errors import single_error_line

pytestmark = pytest.mark.backend("numpy")

STREAMED = pytest.mark.parametrize("more", [(), ("--stream",)], ids=["whole", "stream"])


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table_of(path, columns):
    """Write a table in the kind of its suffix."""
    writer = {
        ".csv": pyarrow.csv.write_csv,
        ".parquet": pyarrow.parquet.write_table,
        ".feather": pyarrow.feather.write_feather,
    }
    writer[path.suffix](pa.table(columns), path)
    return path


# -- CSV files that are not what they seem ------------------------------------------------------------


@STREAMED
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('a,k,y\n1,u,2\n3,"v,4\n5,w,6\n7,u,8\n', "line 3: a cell begins with a quote"),
        ('a,y\n1,2\n3,"4\n5,6\n7,8\n', "line 3: a cell begins with a quote"),
        ('a,k,y\n1,u,2\n3,"v,4\n5,w,6\n7,"x,8\n9,y,9\n', "line 3: a cell begins with a quote"),
        ("a;y\n1;2\n3;4\n", "is it separated by ';'? need ','"),
        ("a;b;y\n1,5;2;3\n2,5;2;3\n", "is it separated by ';'? need ','"),
        ("a\ty\n1\t2\n", r"is it separated by '\t'? need ','"),
        ("a|y\n1|2\n", "is it separated by '|'? need ','"),
        ("a,y\n1,2\n".encode("utf-16"), "is not UTF-8 text: save it as UTF-8"),
        ("a,yé,y\n1,2,3\n".encode("latin1"), "is not UTF-8 text"),
        ("a,b,y\n1,é,2\n".encode("latin1"), "is not UTF-8 text: save it as UTF-8"),
        ("a,y\n1,2\nx,4\n", "row 2: column 'a' must be numbers, got 'x'"),
        ("a,y\n1,2\n3,1_000\n", "row 2: column 'y' must be numbers, got '1_000'"),
        ("a,y\n1,2\n3,4,5\n", "line 3: Expected 2 columns, got 3"),
        ("a,y\n", "no rows below the header"),
        ("", "the file is empty"),
        ("a,a,y\n1,2,3\n", "the header has column 'a' more than once"),
    ],
)
def test_a_file_is_refused_in_the_same_words_whole_and_in_batches(cli, tmp_path, data, words, more):
    path = write(tmp_path / "t.csv", data)
    error = single_error_line(*cli("fit", path, "--target", "y", *more))
    assert f"{path}: " in error
    assert words in error


def test_a_quote_without_an_end_is_refused_where_rows_are_predicted(cli, small, tmp_path):
    model = tmp_path / "model.json"
    assert cli("fit", small, "--target", "price", "--save", model)[0] == 0
    rows = write(tmp_path / "new.csv", 'rooms,area,note\n1,30,a\n2,50,"b\n3,80,c\n')
    assert "line 3: a cell begins with a quote" in single_error_line(*cli("predict", model, rows))


@STREAMED
def test_quotes_within_and_lines_within_quotes_are_no_fault(cli, tmp_path, more):
    text = 'a,note,y\n1,"two\nlines",3\n2,5" pipe,5\n3,"say ""x""",7\n4,,9\n'
    path = write(tmp_path / "t.csv", text)
    found = cli("fit", path, "--target", "y", "--features", "a", "--json", *more)
    assert found[0] == 0, found
    assert json.loads(found[1])["rows"] == 4


# -- what a column is for ----------------------------------------------------------------------------


@STREAMED
@pytest.mark.parametrize("index", [None, "when"])
def test_the_index_of_a_saved_frame_is_no_feature(cli, tmp_path, index, more):
    pd = pytest.importorskip("pandas")
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"x": [1.0, 2, 3, 4, 5], "y": [3.0, 5, 7, 9, 12]}).drop(index=1)
    frame.rename_axis(index).to_parquet(path)
    code, out, err = cli("fit", path, "--target", "y", "--json", *more)
    assert code == 0, err
    found = json.loads(out)["coefficients"]
    assert list(found) == ["x"]
    np.testing.assert_allclose(found["x"], np.polyfit(frame.x, frame.y, 1)[0], rtol=1e-8)
    # One that has a name may be meant as a column: it is named.
    assert ("'when' is the index of the frame that was saved" in err) == (index is not None)
    name = index or "__index_level_0__"
    _, out, _ = cli("fit", path, "--target", "y", "--json", "--features", f"x,{name}", *more)
    assert list(json.loads(out)["coefficients"]) == ["x", name]


@STREAMED
@pytest.mark.parametrize("loss", ["log_loss", "softmax"])
@pytest.mark.parametrize("words", [("False", "True"), ("false", "true"), ("FALSE", "TRUE")])
def test_labels_of_true_and_false_come_back_as_they_were(cli, tmp_path, words, loss, more):
    cells = "".join(f"{x},{words[x in (2, 4, 5)]}\n" for x in range(1, 6))
    path, model = write(tmp_path / "t.csv", "x,y\n" + cells), tmp_path / "m.json"
    code, out, err = cli(
        "fit", path, "--target", "y", "--loss", loss, "--l2", 0.01, "--save", model, *more
    )
    assert code == 0, err
    assert "accuracy  0.6" in out
    lines = [line.split(",") for line in cli("predict", model, path)[1].splitlines()[1:]]
    assert [label for label, _ in lines] == [f'"{words[x > 2]}"' for x in range(1, 6)]


@STREAMED
@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_booleans_of_columnar_files_come_back_as_booleans(cli, tmp_path, suffix, more):
    path = table_of(
        tmp_path / f"t.{suffix}", {"x": [1, 2, 3, 4, 5], "y": [False, True] * 2 + [True]}
    )
    model, output = tmp_path / "m.json", tmp_path / "p.parquet"
    options = ("--target", "y", "--loss", "log_loss", "--l2", 0.01, "--save", model)
    assert cli("fit", path, *options, *more)[0] == 0
    assert json.loads(model.read_text())["classes"] == [False, True]
    assert cli("predict", model, path, "--output", output) == (0, "", "")
    found = pyarrow.parquet.read_table(output)["prediction"]
    assert pa.types.is_boolean(found.type)
    assert found.to_pylist()[-1] is True


# -- files that are written ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pq", ".feather", ".arrow", ".PARQUET"])
def test_predictions_are_written_as_the_suffix_says(cli, small, tmp_path, suffix):
    model, output = tmp_path / "m.json", tmp_path / f"p{suffix}"
    cli("fit", small, "--target", "price", "--save", model)
    printed = cli("predict", model, small)[1]
    assert cli("predict", model, small, "--output", output) == (0, "", "")
    read = {
        ".csv": pyarrow.csv.read_csv,
        ".parquet": pyarrow.parquet.read_table,
        ".pq": pyarrow.parquet.read_table,
    }.get(suffix.lower(), pyarrow.feather.read_table)
    want = [float(line) for line in printed.splitlines()[1:]]
    assert read(output)["prediction"].to_pylist() == want


@pytest.mark.parametrize("name", ["p.txt", "p", "p.json", "p.csv.gz"])
def test_another_suffix_is_an_error(cli, small, tmp_path, name):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    error = single_error_line(*cli("predict", model, small, "--output", tmp_path / name))
    assert "--output: the suffix must be one of .csv, .parquet" in error
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_a_disk_that_fills_up_loses_no_fit_and_names_the_file(
    cli, small, tmp_path, option, monkeypatch
):
    if option == "--plot":
        pytest.importorskip("matplotlib")
    path = tmp_path / ("m.json" if option == "--save" else "m.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = cli("fit", small, "--target", "price", option, path)
    assert code == 2
    assert "rooms" in out
    assert f"{option}: {path} cannot be written to (No space left on device)" in err


# -- models that were written by others ----------------------------------------------------------------


@pytest.mark.parametrize(
    "classes",
    [
        [0, 0],
        [1, 0],
        [None, None],
        [[1], [2]],
        [0, float("nan")],
        [0, float("inf")],
        [0, 2**70],
        ["a", "a"],
        ["b", "a"],
        ["a", 1],
        [False, 1],
        [True, True],
        [{}, {}],
    ],
    ids=str,
)
def test_classes_that_no_fit_writes_are_refused(cli, small, tmp_path, classes):
    model = tmp_path / "m.json"
    table = write(tmp_path / "t.csv", "a,y\n1,0\n2,1\n3,0\n4,1\n")
    cli("fit", table, "--target", "y", "--loss", "log_loss", "--l2", 0.1, "--save", model)
    content = json.loads(model.read_text())
    model.write_text(json.dumps({**content, "classes": classes}))
    error = single_error_line(*cli("predict", model, table))
    assert f"{model}: classes must be all text, all booleans or all numbers" in error


@pytest.mark.parametrize("change", [{"fit": []}, {"fit": None}, {"target": 3}], ids=str)
def test_other_fields_that_no_fit_writes_are_refused(cli, small, tmp_path, change):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    model.write_text(json.dumps({**json.loads(model.read_text()), **change}))
    assert "target must be a name" in single_error_line(*cli("predict", model, small))


def test_a_model_of_an_earlier_version_is_read(cli, small, tmp_path):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    content = json.loads(model.read_text())
    del content["fit"]["converged"]
    model.write_text(json.dumps(content))
    assert Model.load(model).converged
    assert cli("predict", model, small)[2] == ""
    content["fit"]["status"] = "MAX_ITER"
    model.write_text(json.dumps(content))
    code, _, err = cli("predict", model, small)
    assert (code, err.count("\n")) == (0, 1)
    assert "did not converge (MAX_ITER)" in err


def test_tables_of_integers_are_float64_on_every_backend(cli, tmp_path):
    path = table_of(tmp_path / "t.parquet", {"a": [1, 2, 3, 4], "y": [2**25 + 1, 2, 3, 7]})
    stream = agd.Stream.from_files(path, "y")
    assert str(stream.dtype) == "float64"
    whole, batches = (
        json.loads(cli("fit", path, "--target", "y", "--json", *more)[1])["coefficients"]["a"]
        for more in ((), ("--stream",))
    )
    np.testing.assert_allclose(
        [whole, batches], np.polyfit([1, 2, 3, 4], [2**25 + 1, 2, 3, 7], 1)[0]
    )
