"""Tables: what is read, and one clear error for what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line's extra is not installed")
pytest.importorskip("typer", reason="the command line's extra is not installed")

import pyarrow.feather
import pyarrow.parquet

from agd.cli.tables import read_table
from agd.loss import Logistic


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "pq", "feather", "arrow"])
def test_every_format_gives_the_same_numbers(tmp_path, kind):
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=50), "b": rng.integers(0, 9, 50), "c": rng.normal(size=50) > 0}
    path = tmp_path / f"t.{kind}"
    table = pa.table(columns)
    if kind == "csv":
        rows = zip(*(v.tolist() for v in columns.values()), strict=True)
        write(
            tmp_path,
            "t.csv",
            "a,b,c\n" + "".join(f"{a!r},{b},{str(c).lower()}\n" for a, b, c in rows),
        )
    elif kind in ("parquet", "pq"):
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path)
    found = read_table(path)
    assert found.names == ["a", "b", "c"]
    assert found.rows == 50
    np.testing.assert_array_equal(
        found.matrix(["c", "a"]), np.column_stack([columns["c"], columns["a"]])
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("long.csv", "a,y\n1,2\n3,4,5\n6,7\n", "long.csv: line 3: Expected 2 columns, got 3"),
        ("short.csv", "a,y\n1,2\n3\n", "short.csv: line 3: Expected 2 columns, got 1"),
        ("quote.csv", 'a,y\n1,2\n"3,4\n5,6\n', "line 3: a cell begins with a quote"),
        ("text.csv", "a,y\n1,2\nx,4\n", "text.csv: row 2: column 'a' must be numbers, got 'x'"),
        ("head.csv", "a,y\n", "no rows below the header"),
        ("bare.csv", "a,y", "no rows below the header"),
        ("empty.csv", "", "the file is empty"),
        ("wide.csv", "a,y\n1,2\n".encode("utf-16"), "is not UTF-8 text"),
        ("latin.csv", "a,yé\n1,2\n".encode("latin1"), "is not UTF-8 text"),
        ("latin2.csv", "a,y\n1,é\n".encode("latin1"), "is not UTF-8 text"),
        ("huge.csv", "a,y\n1,2\n1e400,3\n", "row 2: column 'a' has 1 infinite or too large cell"),
        ("hole.csv", "a,y\n1,2\n,3\n4,5\n,6\n", "row 2: column 'a' has 2 empty or NaN cells"),
        ("nan.csv", "a,y\n1,2\n3,NaN\n", "row 2: column 'y' has 1 empty or NaN cell"),
        ("twice.csv", "a,a,y\n1,2,3\n", "the header has column 'a' more than once"),
        ("semi.csv", "a;y\n1;2\n", "is it separated by ';'"),
        ("comma.csv", "a;y\n1,5;2\n", "is it separated by ';'"),
        ("tabs.csv", "a\ty\n1\t2\n", r"is it separated by '\\t'"),
        ("line.csv", 'a,y\n1,2\n"3\n",4\n', r"row 2: column 'a' must be numbers, got '3\\n'"),
        ("date.csv", "a,y\n2020-01-01,2\n", "column 'a' must be numbers, got date32"),
        ("bad.parquet", b"nope", "cannot be read as parquet"),
        ("bad.feather", b"no", "cannot be read as feather"),
        ("t.xyz", "a,y\n1,2\n", "unknown kind of table, need one of .csv"),
    ],
)
def test_faults(tmp_path, name, data, message):
    path = write(tmp_path, name, data)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path).matrix(["a", "y"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder, need a file"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match=r"no\.csv: no such file"):
        read_table(tmp_path / "no.csv")


def test_columnar_files_with_odd_columns(tmp_path):
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table({"a": [1.0, 2.0], "raw": [b"x", b"y"]}), path)
    table = read_table(path)
    assert table.numbers("a").tolist() == [1.0, 2.0]  # the other column is nobody's business
    with pytest.raises(ValueError, match="column 'raw' must be numbers, got binary"):
        table.numbers("raw")
    twice = pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(ValueError, match="has two columns of one name"):
        read_table(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path, "bom.csv", b"\xef\xbb\xbfa,y\n1,2\n")
    assert read_table(path).names == ["a", "y"]


def test_types_are_found_beyond_the_first_block(tmp_path):
    rows = 3_000_000  # integers for longer than a block, then a fraction, or text
    path = write(tmp_path, "late.csv", "a,y\n" + "1,2.5\n" * rows + "1.5,3\n")
    assert read_table(path).numbers("a")[-1] == 1.5
    path = write(tmp_path, "text.csv", "a,y\n" + "1,2.5\n" * rows + "x,3\n")
    with pytest.raises(ValueError, match=f"row {rows + 1}: column 'a' must be numbers, got 'x'"):
        read_table(path).numbers("a")


def test_two_classes_as_text(tmp_path):
    path = write(tmp_path, "t.csv", "a,y,z,v\n1,no,a,p\n2,yes,b,\n3,no,c,q\n")
    with pytest.raises(ValueError, match="row 2: column 'v' is empty here"):
        read_table(path).labels("v", Logistic())
    codes, classes = read_table(path).labels("y", Logistic())
    assert codes.tolist() == [0.0, 1.0, 0.0]
    assert classes == ["no", "yes"]
    with pytest.raises(
        ValueError, match=r"column 'z' must have two classes.*got 3 \('a', 'b', 'c'\)"
    ):
        read_table(path).labels("z", Logistic())


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    table = read_table(write(tmp_path, "t.csv", "price,rooms\n1,2\n"))
    with pytest.raises(ValueError, match=r"--target 'prize' is no column; did you mean 'price'\?"):
        table.check_columns("--target", ["prize"])
