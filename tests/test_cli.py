"""The command line, as a user meets it: what it prints, its exit codes, the files that it leaves."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line's extra is not installed")
pytest.importorskip("pyarrow", reason="the command line's extra is not installed")

import agd
from agd.__main__ import main
from agd.cli.models import Model

DATA = Path(__file__).parent / "data"
STARTS = {
    "a": ("0.34099454173956956", "-0.5196184029053978"),
    "b": ("-0.63444883580393", "-0.5934978392833998"),
}


@pytest.fixture
def cli(capsys):
    def run(*args):
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    return run


def one_line(code, out, err):
    """Assert what every error is: exit code 2, nothing on stdout, one line on stderr."""
    assert code == 2
    assert out == ""
    assert err.startswith("agd: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    datasets = pytest.importorskip("sklearn.datasets")
    folder = tmp_path_factory.mktemp("tables")
    for name in ("diabetes", "breast_cancer"):
        data = getattr(datasets, f"load_{name}")()
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*data.feature_names, "target"])
            for x, y in zip(data.data.tolist(), data.target.tolist(), strict=True):
                writer.writerow([*map(repr, x), repr(y)])
    return folder


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("rooms,area,price\n1,30.5,3\n2,50,5.5\n3,80,7\n4,81,9.5\n5,120,11\n")
    return path


def test_no_arguments_say_how_to_start(cli):
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert len(out.splitlines()) < 12
    for word in ("agd train", "agd fit", "--target", "agd predict", "agd backends"):
        assert word in out


def test_version_and_help(cli):
    assert cli("--version") == (0, f"agd {agd.__version__}\n", "")
    code, out, _ = cli("fit", "--help")
    assert code == 0
    for option in ("--target", "--features", "--loss", "--l2", "--method", "--learning-rate",
                   "--max-iter", "--tol", "--backend", "--save", "--json"):  # fmt: skip
        assert option in out


@pytest.mark.parametrize("name", STARTS)
def test_train_prints_the_articles_table_byte_for_byte(name):
    w0, w1 = STARTS[name]
    command = [sys.executable, "-m", "agd", "train", "--w0", w0, "--w1", w1, "--backend", "numpy"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == (DATA / f"article_run_{name}.txt").read_bytes()
    assert done.stderr == b""


def test_auto_says_what_it_took(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    code, _, err = cli("train", "--epochs", 1)
    assert (code, err) == (0, "agd: backend numpy (cpu), since no CUDA device answers\n")


def test_the_environment_names_the_backend(cli, monkeypatch):
    monkeypatch.setenv("AGD_BACKEND", "nunpy")
    assert "did you mean 'numpy'" in one_line(*cli("train"))
    assert agd.fit(
        np.eye(2), np.ones(2), intercept=False
    ).success  # the library does not look at it
    monkeypatch.setenv("AGD_BACKEND", "numpy")
    assert cli("train", "--epochs", 1)[2] == ""


def test_train_that_diverges(cli):
    code, out, err = cli("train", "--learning-rate", 0.1, "--backend", "numpy")
    assert code == 1
    assert "nan" not in out
    assert "2/L = 0.0872385" in err
    assert err.count("\n") == 1


def test_backends_prints_the_table(cli):
    code, out, _ = cli("backends")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in agd.backends.TABLE]
    assert lines[1].split()[:4] == ["numpy", "yes", np.__version__, "cpu"]


def numbers(out):
    """Return what a fit printed as name -> text."""
    return {
        p[0].strip(): p[1]
        for line in out.splitlines()
        if len(p := line.strip().rsplit("  ", 1)) == 2
    }


@pytest.mark.parametrize(
    ("name", "options", "peer", "kwargs"),
    [
        ("diabetes", (), "LinearRegression", {}),
        ("diabetes", ("--l2", "0.001"), "Ridge", {"alpha": 0.442, "solver": "cholesky"}),
        (
            "diabetes",
            ("--loss", "poisson", "--l2", "0.001"),
            "PoissonRegressor",
            {"alpha": 1e-3, "solver": "newton-cholesky", "tol": 1e-12},
        ),
        (
            "breast_cancer",
            ("--loss", "log_loss", "--l2", "0.01"),
            "LogisticRegression",
            {"C": 1 / 5.69, "solver": "newton-cholesky", "tol": 1e-12},
        ),
    ],
)
def test_real_tables_against_scikit_learns_exact_solvers(cli, tables, name, options, peer, kwargs):
    from sklearn import datasets, linear_model

    code, out, err = cli("fit", tables / f"{name}.csv", "--target", "target", "--json",
                         "--backend", "numpy", *options)  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    peer = getattr(linear_model, peer)(**kwargs).fit(X, y)
    np.testing.assert_allclose(
        list(found["coefficients"].values()), np.ravel(peer.coef_), rtol=1e-6
    )
    np.testing.assert_allclose(found["intercept"], np.ravel(peer.intercept_)[0], rtol=1e-6)
    score = {"LogisticRegression": "accuracy", "PoissonRegressor": "D²"}.get(
        type(peer).__name__, "R²"
    )
    assert found[score] == pytest.approx(peer.score(X, y), rel=1e-6)


def test_fit_prints_coefficients_loss_score_status_and_backend(cli, tables):
    code, out, err = cli("fit", tables / "diabetes.csv", "--target", "target")
    assert code == 0
    assert err.startswith("agd: backend ")
    shown = numbers(out)
    assert float(shown["bmi"]) == pytest.approx(519.84592, rel=1e-6)
    assert float(shown["(intercept)"]) == pytest.approx(152.13348, rel=1e-6)
    assert float(shown["loss"]) == pytest.approx(2859.69634759 / 2, rel=1e-6)
    assert float(shown["R²"]) == pytest.approx(0.517748, abs=1e-6)
    assert shown["status"].startswith("converged (after")
    assert shown["backend"].startswith("numpy (cpu)")
    assert "\x1b" not in out + err  # no colours and no bar in a pipe


def test_chosen_features_weights_and_no_intercept(cli, small):
    small.write_text("rooms,area,price,times,note\n" + "1,2,3.5,2,x\n2,1,4.5,1,y\n3,3,9,3,z\n")
    code, out, _ = cli("fit", small, "--target", "price", "--features", "rooms, area",
                       "--weight", "times", "--no-intercept", "--json")  # fmt: skip
    found = json.loads(out)
    X, y, w = (
        np.asarray([[1, 2], [2, 1], [3, 3.0]]),
        np.asarray([3.5, 4.5, 9]),
        np.asarray([2, 1, 3.0]),
    )
    want = np.linalg.solve(X.T @ (w[:, None] * X), X.T @ (w * y))
    assert code == 0
    np.testing.assert_allclose(list(found["coefficients"].values()), want, rtol=1e-8)
    assert found["intercept"] is None
    error = one_line(*cli("fit", small, "--target", "price"))
    assert "row 1: column 'note' must be numbers, got 'x' (--features names" in error


def test_the_model_survives_the_round_trip(cli, tables, tmp_path):
    model, table = tmp_path / "model.json", tables / "diabetes.csv"
    cli("fit", table, "--target", "target", "--save", model, "--backend", "numpy")
    loaded = Model.load(model)
    again = tmp_path / "again.json"
    loaded.save(again)
    assert again.read_bytes() == model.read_bytes()
    text = json.loads(model.read_text())
    assert {"features", "coefficients", "intercept", "loss", "version"} <= set(text)
    assert text["features"] == ["age", "sex", "bmi", "bp", *(f"s{i}" for i in range(1, 7))]
    code, out, err = cli("predict", model, table)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == '"prediction"'
    X = np.loadtxt(table, delimiter=",", skiprows=1)[:, :-1]
    want = X @ np.asarray(loaded.coefficients) + loaded.intercept
    np.testing.assert_allclose([float(v) for v in lines[1:]], want, rtol=1e-14)
    output = tmp_path / "out.csv"
    assert cli("predict", model, table, "--output", output) == (0, "", "")
    assert output.read_text() == out


def test_text_classes_come_back_as_text(cli, tmp_path):
    table, model = tmp_path / "t.csv", tmp_path / "m.json"
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = np.where(x + rng.normal(size=80) > 0, "spam", "ham")
    table.write_text(
        "x,kind\n" + "".join(f"{a!r},{b}\n" for a, b in zip(x.tolist(), y, strict=True))
    )
    code, out, _ = cli("fit", table, "--target", "kind", "--loss", "log_loss", "--save", model)
    assert code == 0
    assert "log odds of 'spam' against 'ham'" in out
    code, out, _ = cli("predict", model, table)
    rows = list(csv.DictReader(out.splitlines()))
    assert {row["prediction"] for row in rows} == {"ham", "spam"}
    for row in rows:
        assert (float(row["probability"]) > 0.5) == (row["prediction"] == "spam")
    shown = np.mean([row["prediction"] == truth for row, truth in zip(rows, y, strict=True)])
    assert shown > 0.7


def test_columns_of_a_table_to_predict_may_stand_in_any_order(cli, small, tmp_path):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    other = tmp_path / "other.csv"
    other.write_text("note,area,rooms\nx,30.5,1\ny,50,2\n")
    _, out, _ = cli("predict", model, other)
    assert out.splitlines() == cli("predict", model, small)[1].splitlines()[:3]
    other.write_text("area,room\n1,2\n")
    assert "'rooms' is no column; did you mean 'room'" in one_line(*cli("predict", model, other))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fti",), "No such command 'fti'"),
        (("fit",), "Missing argument"),
        (("fit", "{small}"), "Missing option '--target'"),
        (
            ("fit", "{small}", "--target", "prise"),
            "--target 'prise' is no column; did you mean 'price'",
        ),
        (
            ("fit", "{small}", "--target", "price", "--features", "rooms,aera"),
            "did you mean 'area'",
        ),
        (("fit", "{small}", "--target", "price", "--features", "price"), "'price' is the target"),
        (("fit", "{small}", "--target", "price", "--features", "area,area"), "named twice"),
        (("fit", "{small}", "--target", "price", "--loss", "hubber"), "did you mean 'huber'"),
        (("fit", "{small}", "--target", "price", "--loss", "log_loss"), "a third class"),
        (("fit", "{small}", "--target", "price", "--delta", "2"), "--delta is huber's"),
        (
            ("fit", "{small}", "--target", "price", "--l2", "-1"),
            "--l2 must be a finite number of 0",
        ),
        (("fit", "{small}", "--target", "price", "--method", "adm"), "did you mean 'adam'"),
        (
            ("fit", "{small}", "--target", "price", "--learning-rate", "1"),
            "auto finds its own step",
        ),
        (
            ("fit", "{small}", "--target", "price", "--method", "gd", "--learning-rate", "x"),
            "--learning-rate must be a number or auto, got 'x'",
        ),
        (
            ("fit", "{small}", "--target", "price", "--max-iter", "0"),
            "--max-iter must be 1 or more",
        ),
        (("fit", "{small}", "--target", "price", "--max-iter", "x"), "--max-iter"),
        (("fit", "{small}", "--target", "price", "--tol", "-1"), "--tol must be"),
        (("fit", "{small}", "--target", "price", "--backend", "nunpy"), "did you mean 'numpy'"),
        (
            ("fit", "{small}", "--target", "price", "--save", "no/where.json"),
            "folder no does not exist",
        ),
        (("fit", "{small}", "--target", "price", "--save", "{folder}"), "is a folder, need a file"),
        (("fit", "{small}", "--target", "price", "--save", "{small}"), "is the table already"),
        (
            ("fit", "{small}", "--target", "price", "--save", "a.png", "--plot", "./a.png"),
            "--plot: a.png is --save already",
        ),
        (("fit", "{small}", "--target", "price", "--save", "/proc/m"), "/proc/m cannot be written"),
        (
            ("fit", "{small}", "--target", "price", "--weight", "price"),
            "--weight: 'price' is the t",
        ),
        (
            ("fit", "{small}", "--target", "price", "--method", "gd", "--learning-rate", "0"),
            "--learning-rate must be a finite number above 0",
        ),
        (("fit", "{small}", "--target", "price", "--method", "ADAM"), "did you mean 'adam'"),
        (("fit", "{small}", "--target", "price", "--plot", "a.txt"), "need one of .png"),
        (("fit", "{small}.no", "--target", "price"), "no such file"),
        (("predict", "no.json", "{small}"), "no.json: No such file"),
        (("predict", "{small}", "{small}"), "is not an agd model"),
        (("train", "--w0", "1"), "--w0 and --w1 are given together"),
        (("train", "--epochs", "0"), "num_epochs must be 1 or more"),
        (("train", "--learning-rate", "-1"), "learning_rate must be a finite number above 0"),
    ],
    ids=" ".join,
)
def test_wrong_calls_are_one_line(cli, small, args, message):
    filled = [a.format(small=small, folder=small.parent) for a in args]
    before = sorted(small.parent.iterdir())
    assert message in one_line(*cli(*filled))
    assert sorted(small.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ("a,y\n1,-2\n2,3\n", ("--loss", "poisson"), "t.csv: column 'y' has 1 value out of range"),
        ("a,y\n1,2\n2,-3\n", ("--loss", "poisson"), "the first at row 2 = -3.0"),
        ("a,w,y\n1,1,2\n2,-1,3\n", ("--weight", "w"), "t.csv: column 'w' has 1 negative value"),
        ("b,a,y\n1,1e-310,2\n2,3e-310,3\n5,4e-310,3\n", (), "t.csv: column 'a', whose largest"),
        (
            "a,y\n1,2\n2,3\n",
            ("--loss", "poisson", "--method", "momentum"),
            "give --learning-rate 0.01",
        ),
    ],
)
def test_what_the_library_says_of_arrays_is_said_of_the_table(
    cli, tmp_path, cells, options, message
):
    table = tmp_path / "t.csv"
    table.write_text(cells)
    assert message in one_line(*cli("fit", table, "--target", "y", *options))


def test_advice_names_options(cli, small, tmp_path):
    code, out, err = cli("fit", small, "--target", "price", "--max-iter", 1, "--method", "gd")
    assert code == 1
    assert "raise --max-iter, or ask for less by a larger --tol" in out
    assert "init=" not in out + err
    twin = tmp_path / "twin.csv"
    twin.write_text("a,b,y\n1,1,1\n2,2,3\n3,3,2\n")
    code, out, err = cli("fit", twin, "--target", "y")
    assert (code, "their rank is 2 of 3" in err, "--l2 1e-3" in err) == (0, True, True)


def test_classes_are_written_as_the_table_writes_them(cli, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,y\n1,0\n2,1\n3,0\n4,1\n")
    _, out, _ = cli("fit", table, "--target", "y", "--loss", "log_loss", "--l2", 0.1)
    assert "log odds of 1 against 0\n" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "is not an agd model"),
        (lambda m: m.update(version=99), "is a model of version 99"),
        (lambda m: m.pop("coefficients"), "'coefficients' is missing"),
        (lambda m: m.update(coefficients=[1.0]), "has 2 features (2 names) and 1 coefficients"),
        (lambda m: m.update(coefficients=[1.0, "x"]), "must be finite numbers"),
        (lambda m: m.update(coefficients=None), "must be finite numbers"),
        (lambda m: m.update(coefficients=[True, 1.0]), "must be finite numbers"),
        (lambda m: m.update(coefficients=[10**400, 1.0]), "must be finite numbers"),
        (lambda m: m.update(features="ab"), "features must be a list of names"),
        (lambda m: m.update(features=["rooms", "rooms"]), "has 2 features (1 names)"),
        (lambda m: m.update(loss=None), "is unknown to agd"),
        (lambda m: m.update(loss={"name": ["huber"]}), "is unknown to agd"),
        (lambda m: m.update(loss={"name": "squared_error", "delta": 3}), "is unknown to agd"),
        (lambda m: m.update(classes=[0, 1]), "has 0 classes, got [0, 1]"),
        (lambda m: m.update(loss={"name": "log_loss"}, classes=[1]), "has 2 classes, got [1]"),
        (lambda m: m.update(intercept=float("nan")), "must be finite numbers"),
        (lambda m: m.update(loss={"name": "nope"}), "is unknown to agd"),
    ],
)
def test_models_that_are_wrong(cli, small, tmp_path, change, message):
    path = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", path)
    model = json.loads(path.read_text())
    change(model)
    path.write_text(json.dumps(model))
    assert message in one_line(*cli("predict", path, small))
    path.write_text(path.read_text()[:40])
    assert "is not an agd model" in one_line(*cli("predict", path, small))


def test_a_model_of_nested_brackets_is_one_line_too(cli, small, tmp_path):
    path = tmp_path / "m.json"
    path.write_text("[" * 100_000)
    assert "is not an agd model" in one_line(*cli("predict", path, small))


def test_predictions_are_not_written_over_what_they_come_from(cli, small, tmp_path):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    before = [path.read_bytes() for path in (model, small)]
    for path, what in ((model, "the model"), (small, "the table")):
        error = one_line(*cli("predict", model, small, "--output", path))
        assert f"is {what} already" in error
    assert [path.read_bytes() for path in (model, small)] == before


def test_a_pipe_or_a_device_is_not_replaced(cli, small, tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    error = one_line(*cli("fit", small, "--target", "price", "--save", pipe))
    assert "is a device or a pipe, need a file" in error
    assert pipe.is_fifo()


def test_a_link_stays_a_link(cli, small, tmp_path):
    link, model = tmp_path / "link.json", tmp_path / "m.json"
    model.write_text("old")
    link.symlink_to(model)
    assert cli("fit", small, "--target", "price", "--save", link)[0] == 0
    assert link.is_symlink()
    assert Model.load(model).target == "price"


def test_a_column_without_a_name_is_not_left_out_in_silence(cli, small):
    small.write_text(",a,y\n0,1,2\n1,2,3\n2,4,4\n")
    error = one_line(*cli("fit", small, "--target", "y"))
    assert "column 1 has no name in the header" in error
    assert cli("fit", small, "--target", "y", "--features", "a")[0] == 0


def test_a_terminal_has_a_bar_that_leaves_nothing_behind(small):
    pty = pytest.importorskip("pty", reason="a terminal needs a POSIX system")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agd", "fit", str(small), "--target", "price", "--method",
               "gd", "--max-iter", "300", "--backend", "numpy"]  # fmt: skip
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out = process.communicate()[0].decode()
    assert process.returncode == 1
    assert b"step 300" in shown
    assert b"loss " in shown
    assert b"nan" not in shown
    assert "\x1b" not in out  # the bar is stderr's alone
    last = shown.decode().rpartition("\x1b[2K")[2]
    assert last.strip().startswith("agd: stopped at the")


def test_a_fit_that_did_not_converge_exits_with_1(cli, small, tmp_path):
    model = tmp_path / "m.json"
    code, out, err = cli("fit", small, "--target", "price", "--method", "gd", "--learning-rate", 10,
                         "--save", model, "--backend", "numpy")  # fmt: skip
    assert code == 1
    assert "2/L" in err
    assert err.count("\n") == 1
    assert json.loads(model.read_text())["fit"]["status"] == "DIVERGED"
    assert "diverged" in out


KILLED = """
import os, signal, sys
from pathlib import Path
from agd.cli import files
{hook}
files.write_atomically(Path(sys.argv[1]), lambda f: (f.write(b"new" * 100000), f.flush(), {inside}))
"""


@pytest.mark.parametrize(
    ("hook", "inside"),
    [
        ("", "os.kill(os.getpid(), signal.SIGKILL)"),
        ("files.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)", "None"),
    ],
    ids=["while writing", "before the renaming"],
)
def test_a_killed_run_leaves_the_old_file(tmp_path, hook, inside):
    path = tmp_path / "model.json"
    path.write_text("old")
    code = KILLED.format(hook=hook, inside=inside)
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    from agd.cli.files import write_atomically

    path = tmp_path / "model.json"
    path.write_text("old")
    path.chmod(0o640)

    def fails(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    assert path.read_text() == "old"
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_loss_curve_is_drawn(cli, small, tmp_path):
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"loss.{kind}"
        assert cli("fit", small, "--target", "price", "--plot", path)[0] == 0
        assert path.read_bytes().startswith(magic)


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m agd train --backend numpy --every 1 | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[Initial Weights]")
    assert done.stderr == ""


def test_an_interrupt_exits_with_130(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(agd, "train", interrupted)
    assert cli("train", "--backend", "numpy") == (130, "", "agd: interrupted\n")


def test_without_the_extra_one_line_names_it():
    code = (
        "import sys; sys.modules['typer'] = None; from agd.__main__ import main; sys.exit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'python -m pip install "array-gd[cli]"' in done.stderr


def test_what_was_not_expected_is_one_line_too(cli, monkeypatch):
    def breaks(*_, **__):
        raise ZeroDivisionError("sum of\nnothing")

    monkeypatch.setattr(agd, "train", breaks)
    assert "unexpected ZeroDivisionError: sum of nothing" in one_line(
        *cli("train", "--backend", "numpy")
    )
    monkeypatch.setitem(os.environ, "AGD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["train", "--backend", "numpy"])


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("torch", marks=pytest.mark.backend("torch")),
        pytest.param("jax", marks=pytest.mark.backend("jax")),
        pytest.param("dask", marks=pytest.mark.backend("dask")),
        pytest.param("array-api-strict:device1", marks=pytest.mark.backend("strict")),
        pytest.param("cupy", marks=pytest.mark.backend("cupy")),
    ],
)
def test_a_table_is_fitted_on_any_backend(cli, small, backend):
    want = json.loads(cli("fit", small, "--target", "price", "--json", "--backend", "numpy")[1])
    code, out, _ = cli("fit", small, "--target", "price", "--json", "--backend", backend)
    found = json.loads(out)
    assert code == 0
    assert found["backend"].startswith(backend.partition(":")[0])
    for name, value in want["coefficients"].items():
        assert found["coefficients"][name] == pytest.approx(value, rel=1e-7)
