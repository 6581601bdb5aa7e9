"""The command line, as a user meets it: what it prints, its exit codes, its one line for an error."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line_errors import single_error_line

pytest.importorskip("typer", reason="the command line's extra is not installed")
pytest.importorskip("pyarrow", reason="the command line's extra is not installed")

import agd
from agd.__main__ import main

DATA = Path(__file__).parents[1] / "reference_data"
STARTS = {
    "a": ("0.34099454173956956", "-0.5196184029053978"),
    "b": ("-0.63444883580393", "-0.5934978392833998"),
}


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
    for option in ("--target", "--features", "--loss", "--l1", "--l2", "--alpha", "--method", "--learning-rate",
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
    assert "did you mean 'numpy'" in single_error_line(*cli("train"))
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
        (("fit", "{small}", "--target", "price", "--alpha", "cv"), "give --l1 1, --l2 1 or both"),
        (
            ("fit", "{small}", "--target", "price", "--l1", "1", "--alpha", "cvv"),
            "did you mean 'cv'",
        ),
        (
            ("fit", "{small}", "--target", "price", "--l1", "1", "--alpha", "cv", "--tol", "1"),
            "with --method auto and without --tol",
        ),
        (("fit", "{small}", "--target", "price", "--l1", "-1"), "--l1 must be a finite number"),
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
    assert message in single_error_line(*cli(*filled))
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
    assert message in single_error_line(*cli("fit", table, "--target", "y", *options))


def test_a_column_without_a_name_is_not_left_out_in_silence(cli, small):
    small.write_text(",a,y\n0,1,2\n1,2,3\n2,4,4\n")
    error = single_error_line(*cli("fit", small, "--target", "y"))
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
    assert process.returncode == 3
    assert b"step 300" in shown
    assert b"loss " in shown
    assert b"nan" not in shown
    assert "\x1b" not in out  # the bar is stderr's alone
    last = shown.decode().rpartition("\x1b[2K")[2]
    assert last.strip().startswith("agd: stopped at the")


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m agd train --backend numpy --every 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[Initial Weights]")
    assert done.stdout.endswith("\n141\n")
    assert done.stderr == ""


def test_an_interrupt_exits_with_130(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(agd, "train", interrupted)
    assert cli("train", "--backend", "numpy") == (130, "", "agd: interrupted\n")


def test_an_interrupt_during_the_imports_exits_with_130(capfd, monkeypatch):
    class Slow(types.ModuleType):
        @property
        def run_command_line(self):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "agd.cli.app", Slow("agd.cli.app"))
    assert main(["train"]) == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("args", "closed", "code"),
    [
        ("fit {} --target price --backend numpy --method gd --max-iter 3", ">&-", 3),
        ("fit {} --target price", "2>&-", 0),
        ("fit {} --target price", ">&- 2>&-", 0),
        ("fit {} --target nothing", ">&-", 2),
        ("backends", ">&-", 0),
        ("train --backend numpy", ">&-", 0),
    ],
)
def test_closed_streams_change_nothing_but_what_is_printed(small, args, closed, code):
    command = f"{sys.executable} -m agd {args.replace('{}', str(small))} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "unexpected" not in done.stderr
    if "2>&-" not in closed:
        assert done.stderr.count("\n") == (code != 0)
    elif closed == "2>&-":
        assert done.stdout.startswith("price from ")  # and no note that went astray


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
    assert "unexpected ZeroDivisionError: sum of nothing" in single_error_line(
        *cli("train", "--backend", "numpy")
    )
    monkeypatch.setitem(os.environ, "AGD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["train", "--backend", "numpy"])
