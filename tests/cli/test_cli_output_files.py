"""The files that the command line leaves: whole or not at all, and never over what they come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from helpers.command_line_errors import single_error_line

pytest.importorskip("typer", reason="the command line's extra is not installed")
pytest.importorskip("pyarrow", reason="the command line's extra is not installed")

from agd.model_file import Model


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
    assert message in single_error_line(*cli("predict", path, small))
    path.write_text(path.read_text()[:40])
    assert "is not an agd model" in single_error_line(*cli("predict", path, small))


def test_a_model_of_nested_brackets_is_one_line_too(cli, small, tmp_path):
    path = tmp_path / "m.json"
    path.write_text("[" * 100_000)
    assert "is not an agd model" in single_error_line(*cli("predict", path, small))


def test_predictions_are_not_written_over_what_they_come_from(cli, small, tmp_path):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    before = [path.read_bytes() for path in (model, small)]
    for path, what in ((model, "the model"), (small, "the table")):
        error = single_error_line(*cli("predict", model, small, "--output", path))
        assert f"is {what} already" in error
    assert [path.read_bytes() for path in (model, small)] == before


def test_a_pipe_or_a_device_is_not_replaced(cli, small, tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    error = single_error_line(*cli("fit", small, "--target", "price", "--save", pipe))
    assert "is a device or a pipe, need a file" in error
    assert pipe.is_fifo()


def test_a_link_stays_a_link(cli, small, tmp_path):
    link, model = tmp_path / "link.json", tmp_path / "m.json"
    model.write_text("old")
    link.symlink_to(model)
    assert cli("fit", small, "--target", "price", "--save", link)[0] == 0
    assert link.is_symlink()
    assert Model.load(model).target == "price"


KILLED = """
import os, signal, sys
from pathlib import Path
from agd._validation import files
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
    from agd._validation.files import write_atomically

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
