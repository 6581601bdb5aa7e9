"""Tables in files, larger than memory or not, read in batches."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

import agd

pa = pytest.importorskip("pyarrow")
csv, feather, parquet = (
    importlib.import_module(f"pyarrow.{name}") for name in ("csv", "feather", "parquet")
)

pytestmark = pytest.mark.backend("numpy")

WRITE = {
    "csv": csv.write_csv,
    "parquet": parquet.write_table,
    "feather": feather.write_feather,
}


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    n = 1000
    columns = {
        "count": rng.integers(0, 9, size=n),
        "flag": rng.uniform(size=n) < 0.5,
        "size": rng.normal(size=n),
        "share": rng.uniform(0.1, 1.0, size=n),
    }
    columns["price"] = (
        columns["count"] - 2.0 * columns["flag"] + columns["size"] + rng.normal(size=n)
    )
    return pa.table(columns)


def _arrays(table, names):
    return np.stack([table.column(n).to_numpy().astype(float) for n in names], axis=-1)


@pytest.mark.parametrize("kind", WRITE)
def test_each_kind_of_file(tmp_path, table, kind):
    WRITE[kind](table, tmp_path / f"t.{kind}")
    stream = agd.Stream.from_files(
        tmp_path / f"t.{kind}",
        "price",
        features=["size", "count", "flag"],
        weight="share",
        batch_rows=64,
    )
    found = agd.fit(stream)
    X, y = _arrays(table, ["size", "count", "flag"]), table.column("price").to_numpy()
    known = agd.fit(X, y, sample_weight=table.column("share").to_numpy())
    assert np.allclose(found.coef, known.coef, rtol=1e-9)
    assert found.n_passes == 2
    assert found.feature_names == stream.columns == ["size", "count", "flag"]


def test_a_folder_of_files_and_the_other_columns(tmp_path, table):
    table = table.drop_columns(["share"])
    for part in range(3):
        WRITE["parquet"](table.slice(part * 400, 400), tmp_path / f"{part}.parquet")
    (tmp_path / "README").write_text("not a table")
    found = agd.fit(agd.Stream.from_files(tmp_path, "price"))
    names = [name for name in table.column_names if name != "price"]
    known = agd.fit(_arrays(table, names), table.column("price").to_numpy())
    assert np.allclose(found.coef, known.coef, rtol=1e-9)
    several = agd.Stream.from_files([tmp_path / f"{part}.parquet" for part in range(3)], "price")
    assert (agd.fit(several).coef == found.coef).all()


def test_whole_numbers_first_and_fractions_later(tmp_path):
    path = tmp_path / "t.csv"
    x = np.arange(200_000)
    rows = [f"{i},{2 * i}" for i in x] + ["0.5,1.0"]
    path.write_text("\n".join(["x,y", *rows]))
    assert np.allclose(agd.fit(agd.Stream.from_files(path, "y")).coef, 2.0)


ALONE = """
import sys
import agd
print(*agd.fit(agd.Stream.from_files(sys.argv[1], "y")).coef)
"""


def test_a_csv_file_is_read_where_nothing_else_has_loaded_its_reader(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,2\n2,4\n3,6\n")
    command = [sys.executable, "-c", ALONE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.allclose(float(done.stdout), 2.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "prize"}, "target 'prize' is no column; did you mean 'price'"),
        (
            {"target": "price", "features": ["siz"]},
            "features 'siz' is no column; did you mean 'size'",
        ),
        ({"target": "price", "weight": "w"}, "weight 'w' is no column"),
        ({"target": "price"}, "column 'name' must be numbers, got string"),
        ({"target": "price", "features": []}, "no column is left"),
        (
            {"target": "price", "features": ["size"], "batch_rows": 0},
            "batch_rows must be 1 or more",
        ),
        (
            {"target": "price", "features": ["size", "price"]},
            "features must not name column 'price', which is the target",
        ),
        (
            {"target": "price", "features": ["size", "size"]},
            "features must name each column once, got 'size' twice",
        ),
        (
            {"target": "price", "weight": "price"},
            "weight must not name column 'price', which is the target",
        ),
    ],
)
def test_columns_that_do_not_serve_are_named(tmp_path, table, options, words):
    WRITE["parquet"](table.append_column("name", pa.array(["a"] * 1000)), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=words):
        agd.Stream.from_files(tmp_path / "t.parquet", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 0}, "target must be a column's name, got 0"),
        (
            {"target": "price", "features": "size"},
            "features must be a list of columns, got 'size'",
        ),
    ],
)
def test_columns_go_by_name(tmp_path, table, options, words):
    WRITE["parquet"](table, tmp_path / "t.parquet")
    with pytest.raises(TypeError, match=words):
        agd.Stream.from_files(tmp_path / "t.parquet", **options)


@pytest.mark.parametrize("kind", WRITE)
def test_whole_numbers_in_one_file_and_fractions_in_another(tmp_path, kind):
    paths = [tmp_path / f"{part}.{kind}" for part in range(2)]
    for path, x in zip(paths, ([1, 2], [3.5, 4.0]), strict=True):
        WRITE[kind](pa.table({"x": x, "y": [2 * each for each in x]}), path)
    assert np.allclose(agd.fit(agd.Stream.from_files(paths, "y")).coef, 2.0)


def test_files_that_do_not_go_together(tmp_path):
    for name, columns in (
        ("a", {"x": [1.0], "y": [2.0]}),
        ("b", {"x": [1.0]}),
        ("c", {"x": ["one"]}),
    ):
        WRITE["parquet"](pa.table(columns), tmp_path / f"{name}.parquet")
    WRITE["csv"](pa.table({"x": [1.0], "y": [2.0]}), tmp_path / "a.csv")
    whole = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"b.parquet: target 'y' is no column \(there are 'x'\)"):
        agd.Stream.from_files([whole, tmp_path / "b.parquet"], "y")
    with pytest.raises(ValueError, match=r"c.parquet: column 'x' must be numbers, got string"):
        agd.Stream.from_files([whole, tmp_path / "c.parquet"], "x", features=["y"])
    with pytest.raises(ValueError, match=r"files of one kind, got .*a.parquet and .*a.csv"):
        agd.Stream.from_files([whole, tmp_path / "a.csv"], "y")


def test_missing_values_are_found(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,2\n,3\n4,5\n")
    with pytest.raises(ValueError, match=r"X .*NaN.*X\[1, 0\]"):
        agd.fit(agd.Stream.from_files(path, "y"))


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        agd.Stream.from_files(tmp_path / "none.csv", "y")
    (tmp_path / "t.txt").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"suffix of t.txt"):
        agd.Stream.from_files(tmp_path / "t.txt", "y")
    with pytest.raises(ValueError, match="at least one file"):
        agd.Stream.from_files([], "y")
    (tmp_path / "empty.csv").write_text("x,y\n")
    with pytest.raises(ValueError, match="no rows below the header"):
        agd.Stream.from_files(tmp_path / "empty.csv", "y")


def test_a_header_that_is_not_utf_8_is_said_with_the_file_and_the_byte(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("a,bé,t\n1,2,3\n2,1,4\n".encode("latin-1"))
    words = r"latin.csv: is not UTF-8 text \(byte 0xe9 in the header\): save it as UTF-8"
    with pytest.raises(ValueError, match=words):
        agd.Stream.from_files(path, "t")
    (tmp_path / "first.csv").write_text("a,b,t\n1,2,3\n2,1,4\n")
    with pytest.raises(ValueError, match=words):
        agd.Stream.from_files([tmp_path / "first.csv", path], "t")


def test_a_column_without_a_name_is_taken_by_name_only(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text(",a,t\n0,1,3\n1,2,3\n2,3,1\n")
    with pytest.raises(ValueError, match=r"index.csv: column 1 has no name in the header"):
        agd.Stream.from_files(path, "t")
    assert agd.Stream.from_files(path, "t", features=["a"]).columns == ["a"]
    assert agd.Stream.from_files(path, "t", features=["", "a"]).shape[1] == 2


LIMITED = """
import resource, sys
import numpy as np
import agd
X = np.load(sys.argv[1], mmap_mode="r")
y = np.load(sys.argv[2], mmap_mode="r")
limit = X.nbytes + y.nbytes + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = agd.fit(X, y, loss=sys.argv[3])
print(*found.coef.tolist(), found.intercept, found.status.name)
"""

ROWS, COLUMNS, COPIES = 250_000, 20, 50


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Write 2 GB: the same rows over and over, so that a fit of them once is the answer."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS))
    y = X @ np.linspace(-1.0, 1.0, COLUMNS) + 0.5 + rng.normal(size=ROWS)
    for name, part in (("X", X), ("y", y)):
        shape = (ROWS * COPIES, *part.shape[1:])
        whole = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", part.dtype, shape)
        for i in range(COPIES):
            whole[i * ROWS : (i + 1) * ROWS] = part
        whole.flush()
    yield folder, X, y
    for name in ("X", "y"):
        (folder / f"{name}.npy").unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_memory_map_larger_than_memory(large, loss):
    folder, X, y = large
    assert (folder / "X.npy").stat().st_size >= 2e9
    command = [sys.executable, "-c", LIMITED, str(folder / "X.npy"), str(folder / "y.npy"), loss]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *numbers, status = done.stdout.split()
    known = agd.fit(X, y, loss=loss)
    assert status == "CONVERGED"
    assert np.allclose(np.asarray(numbers, dtype=float), [*known.coef, known.intercept], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "ragged.csv",
            "a,b,y\n1,2,3\n1,2\n",
            r"ragged.csv: line 3: Expected 3 columns, got 2",
        ),
        ("none.csv", "", r"none.csv: the file is empty"),
        (
            "broken.parquet",
            "no table at all",
            r"broken.parquet: cannot be read as parquet: Parquet magic bytes",
        ),
        ("broken.feather", "no table at all", r"broken.feather: cannot be read as feather: "),
    ],
)
def test_a_file_that_is_broken_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        agd.Stream.from_files(tmp_path / name, "y")
    assert isinstance(caught.value.__cause__, pa.ArrowException)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("1,2", "Expected 3 columns, got 2"),
        ("1,x,3", "row 300001: column 'b' must be numbers, got 'x'"),
    ],
)
def test_a_file_that_breaks_further_down_is_named(tmp_path, last, words):
    path = tmp_path / "late.csv"
    path.write_text("a,b,y\n" + "1,2,3\n" * 300_000 + last + "\n")
    with pytest.raises(ValueError, match=f"late.csv: .*{words}"):
        agd.fit(agd.Stream.from_files(path, "y"))


def test_a_broken_page_of_parquet_is_named(tmp_path):
    path = tmp_path / "page.parquet"
    values = np.random.default_rng(0).normal(size=50_000)
    importlib.import_module("pyarrow.parquet").write_table(
        pa.table({"a": values, "y": values}), path
    )
    content = bytearray(path.read_bytes())
    content[1000:300_000] = b"\xff" * 299_000
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"page.parquet: cannot be read as parquet: ") as caught:
        agd.fit(agd.Stream.from_files(path, "y"))
    assert caught.value.__cause__ is not None
