"""Fits and predictions by the command line: tables in, numbers and models out."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from helpers.command_line_errors import single_error_line

pytest.importorskip("typer", reason="the command line's extra is not installed")
pytest.importorskip("pyarrow", reason="the command line's extra is not installed")

import agd
from agd.model_file import Model


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
        ("diabetes", ("--l1", "0.1"), "Lasso", {"alpha": 0.1, "tol": 1e-12, "max_iter": 100_000}),
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
    score = {"LogisticRegression": "accuracy", "PoissonRegressor": "d2"}.get(
        type(peer).__name__, "r2"
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
    error = single_error_line(*cli("fit", small, "--target", "price"))
    assert "row 1: column 'note' must be numbers, got 'x' (--features names" in error


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


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["memory", "stream"])
@pytest.mark.parametrize("text", [True, False])
def test_several_classes_by_softmax(cli, tmp_path, stream, text):
    table, model = tmp_path / "t.csv", tmp_path / "m.json"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2))
    number = np.argmax(x @ rng.normal(size=(2, 3)) + rng.gumbel(size=(90, 3)), axis=1)
    labels = np.asarray(["ash", "beech", "oak"] if text else [3, 5, 10])[number]
    lines = [f"{a!r},{b!r},{label}\n" for (a, b), label in zip(x.tolist(), labels, strict=True)]
    table.write_text("a,b,tree\n" + "".join(lines))
    fit = ["fit", table, "--target", "tree", "--loss", "softmax", "--l2", 0.01]
    code, out, _ = cli(*fit, "--save", model, *stream)
    assert code == 0
    found = agd.fit(x, labels, loss="softmax", penalty=agd.loss.L2(0.01))
    loaded = Model.load(model)
    np.testing.assert_allclose(loaded.coefficients, found.coef, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(loaded.intercept, found.intercept, rtol=1e-6, atol=1e-9)
    assert loaded.classes == list(found.classes)
    accuracy = np.mean(found.predict(x) == labels)
    assert f"  accuracy  {accuracy:.6g}\n" in out
    assert all(word in out for word in (("'ash'", "'oak'") if text else ("3  ", "10\n")))
    rows = list(csv.DictReader(cli("predict", model, table)[1].splitlines()))
    predicted = [row["prediction"] if text else float(row["prediction"]) for row in rows]
    np.testing.assert_array_equal(predicted, found.predict(x))
    probability = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(probability, found.predict_proba(x).max(axis=1), rtol=1e-6)
    shown = json.loads(cli(*fit, "--json", *stream)[1])
    np.testing.assert_allclose(shown["coefficients"]["b"], found.coef[:, 1], rtol=1e-6)


def test_columns_of_a_table_to_predict_may_stand_in_any_order(cli, small, tmp_path):
    model = tmp_path / "m.json"
    cli("fit", small, "--target", "price", "--save", model)
    other = tmp_path / "other.csv"
    other.write_text("note,area,rooms\nx,30.5,1\ny,50,2\n")
    _, out, _ = cli("predict", model, other)
    assert out.splitlines() == cli("predict", model, small)[1].splitlines()[:3]
    other.write_text("area,room\n1,2\n")
    assert "'rooms' is no column; did you mean 'room'" in single_error_line(
        *cli("predict", model, other)
    )


def test_advice_names_options(cli, small, tmp_path):
    code, out, err = cli("fit", small, "--target", "price", "--max-iter", 1, "--method", "gd")
    assert code == 3
    assert "raise --max-iter, or ask for less by a larger --tol" in err  # and not twice
    assert "raise --max-iter" not in out
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


@pytest.mark.parametrize("more", [(), ("--stream",)])
def test_a_fit_that_did_not_converge_exits_with_3(cli, small, tmp_path, more):
    model = tmp_path / "m.json"
    model.write_text("old")
    fit = ("fit", small, "--target", "price", "--method", "gd", "--learning-rate", 10,
           "--save", model, "--backend", "numpy", *more)  # fmt: skip
    code, out, err = cli(*fit)
    assert code == 3
    assert "2/L" in err
    assert err.count("\n") == 1
    assert "m.json is not written, since the fit did not converge; --allow-unconverged" in err
    assert model.read_text() == "old"
    code, out, err = cli(*fit, "--allow-unconverged")
    assert (code, "not written" in err) == (3, False)
    code, _, said = cli("predict", model, small)
    assert code == 0
    assert "m.json: the fit of this model did not converge (DIVERGED)" in said
    assert json.loads(model.read_text())["fit"]["status"] == "DIVERGED"
    assert "diverged" in out


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


@pytest.mark.parametrize("more", [[], ["--stream"]], ids=["whole", "stream"])
def test_a_single_row_has_no_score(cli, tmp_path, more):
    path = tmp_path / "one.csv"
    path.write_text("x,y\n2,3\n")
    code, out, _ = cli("fit", path, "--target", "y", *more)
    assert code == 0
    assert out.startswith("y from 1 column of one.csv, 1 row, loss squared_error\n")
    assert numbers(out)["R²"].strip() == "-"
    assert "nan" not in out
    assert json.loads(cli("fit", path, "--target", "y", "--json", *more)[1])["r2"] is None


@pytest.mark.parametrize("first", ["1", "1.5"])
def test_hexadecimal_numbers_are_text(cli, tmp_path, first):
    path = tmp_path / "hex.csv"
    path.write_text(f"x,y\n{first},3\n0x10,4\n3,7\n")
    err = single_error_line(*cli("fit", path, "--target", "y"))
    assert f"{path}: row 2: column 'x' must be numbers, got '0x10'" in err
    assert str(path) in single_error_line(*cli("fit", path, "--target", "y", "--stream"))


@pytest.mark.parametrize("stream", [False, True])
def test_the_strength_of_a_penalty_is_chosen_by_the_librarys_words(cli, tables, stream):
    from sklearn import datasets

    more = ("--stream", "--alpha", "bic") if stream else ("--alpha", "cv_1se")
    options = ("--l1", 1, "--l2", 0.1, "--standardize", "--backend", "numpy", "--json", *more)
    code, out, err = cli("fit", tables / "diabetes.csv", "--target", "target", *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    X, y = datasets.load_diabetes(return_X_y=True)
    penalty = agd.loss.L1(1.0) + agd.loss.L2(0.1)
    same = agd.fit(X, y, penalty=penalty, standardize=True, alpha=more[-1])
    assert found["alpha"] == pytest.approx(same.alpha, rel=1e-8)
    np.testing.assert_allclose(
        list(found["coefficients"].values()), same.coef, rtol=1e-6, atol=1e-6
    )


@pytest.fixture
def counts(tmp_path):
    rng = np.random.default_rng(0)
    x, years = rng.normal(size=60), rng.uniform(1.0, 9.0, size=60)
    y = rng.poisson(years * np.exp(0.4 * x - 0.2))
    path = tmp_path / "counts.csv"
    rows = zip(x.tolist(), years.tolist(), np.log(years).tolist(), y.tolist(), strict=True)
    lines = ["x,years,logs,events", *(f"{a!r},{b!r},{c!r},{d}" for a, b, c, d in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path, x, years, y


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_an_exposure_and_an_offset_are_columns(cli, counts, stream, tmp_path):
    path, x, years, y = counts
    reference = agd.fit(x[:, None], y, loss="poisson", exposure=years)
    common = ("fit", path, "--target", "events", "--features", "x", "--loss", "poisson", *stream)
    for option in (("--exposure", "years"), ("--offset", "logs")):
        model = tmp_path / "model.json"
        code, _, err = cli(*common, *option, "--save", model)
        assert code == 0, err
        np.testing.assert_allclose(agd.load(model).coef, reference.coef, rtol=1e-6)
        code, out, _ = cli("predict", model, path, *option)
        assert code == 0
        predicted = np.loadtxt(out.splitlines()[1:])
        np.testing.assert_allclose(
            predicted, reference.predict(x[:, None], exposure=years), rtol=1e-5
        )


def test_an_exposure_that_is_refused(cli, counts):
    path, *_ = counts
    common = ("fit", path, "--target", "events", "--features", "x")
    code, _, err = cli(*common, "--loss", "poisson", "--exposure", "x")
    assert code == 2
    assert "column 'x' has" in err
    assert "not above 0 and finite, the first at row" in err
    code, _, err = cli(*common, "--exposure", "years")
    assert code == 2
    assert "exposure" in err
    code, _, err = cli(*common, "--offset", "hours")
    assert code == 2
    assert "--offset" in err


def test_delta_auto_is_that_of_the_library(cli, counts, tmp_path):
    path, x, _, y = counts
    model = tmp_path / "model.json"
    common = ("fit", path, "--target", "events", "--features", "x", "--loss", "huber")
    code, *_ = cli(*common, "--delta", "auto", "--save", model)
    assert code == 0
    reference = agd.fit(x[:, None], y, loss=agd.loss.Huber("auto"))
    np.testing.assert_allclose(agd.load(model).loss.delta, reference.loss.delta)
    code, _, err = cli(*common, "--delta", "wide")
    assert (code, "--delta must be a number or auto, got 'wide'" in err) == (2, True)
