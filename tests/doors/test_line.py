"""The article, to the last digit, and the same on every library."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

import agd
from agd.gradient import LinearObjective
from agd.line import X, Y
from agd.run import Stop, run
from agd.update import Descent, gradient_descent

DATA = Path(__file__).parents[1] / "reference_data"
STARTS = {
    "a": {"w0": 0.34099454173956956, "w1": -0.5196184029053978},
    "b": {"w0": -0.63444883580393, "w1": -0.5934978392833998},
}
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def table(name):
    return (DATA / f"article_run_{name}.txt").read_text()


def numbers(text):
    """Return epochs' losses and weights as rows."""
    return np.asarray([[float(v) for v in NUMBER.findall(line)] for line in text.splitlines()[2:]])


@pytest.mark.parametrize("name", STARTS)
def test_numpy_prints_the_articles_table_byte_for_byte(name):
    out = io.StringIO()
    final = agd.train(weights=STARTS[name], backend="numpy", file=out)
    assert out.getvalue() == table(name)
    assert list(final.values()) == numbers(table(name))[-1, 1:].tolist()


def test_every_library_prints_the_same_numbers(xp):
    settings, want = {"weights": STARTS["a"], "file": io.StringIO()}, numbers(table("a"))
    if xp.name == "dask":  # a graph an epoch: a tenth of them, against NumPy's
        settings |= {"num_epochs": 500, "every": 50}
        agd.train(X, Y, **settings)
        want = numbers(settings["file"].getvalue())
    out = io.StringIO()
    agd.train(xp.asarray(X), xp.asarray(Y), **{**settings, "file": out})
    got = numbers(out.getvalue())
    single = "float32" in str(xp.dtype)
    assert got.shape == want.shape == (11, 3)
    np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=1e-4 if single else 1e-12)
    # Near the end the loss is a square of differences that single precision hardly resolves.
    np.testing.assert_allclose(
        got[:, 0], want[:, 0], rtol=1e-4 if single else 1e-9, atol=1e-5 * single
    )


@pytest.mark.parametrize(
    "backend",
    [
        "numpy",
        pytest.param("torch", marks=pytest.mark.backend("torch")),
        pytest.param("dask", marks=pytest.mark.backend("dask")),
        pytest.param("array-api-strict:device1", marks=pytest.mark.backend("strict")),
    ],
)
def test_the_points_are_made_where_asked(backend):
    out = io.StringIO()
    final = agd.train(num_epochs=3, weights=STARTS["a"], backend=backend, file=out)
    np.testing.assert_allclose(numbers(out.getvalue())[0], numbers(table("a"))[0], rtol=1e-12)
    assert all(type(v) is float for v in final.values())


def test_a_step_is_a_step_of_the_general_core(xp):
    x, y, lr = xp.asarray(X), xp.asarray(Y), 8e-3
    objective = LinearObjective.of(x[:, None], y)
    start = objective.zeros()
    found = run(Descent(gradient_descent(lr)), objective, start, Stop(max_iter=20))
    weights = {"w0": 0.0, "w1": 0.0}
    for _ in range(20):
        _, weights = agd.gradient_descent(x, y, weights, lr)
    last = agd.loss_fn(weights["w1"] * x + weights["w0"], y)
    assert found.fun == pytest.approx(float(xp.to_numpy(last)), rel=xp.rtol)
    assert float(xp.to_numpy(found.x.intercept)) == pytest.approx(float(weights["w0"]), rel=xp.rtol)
    np.testing.assert_allclose(xp.to_numpy(found.x.coef), [float(weights["w1"])], rtol=xp.rtol)


def test_loss_and_step_are_the_formulas_and_leave_the_arguments():
    x, y = np.asarray(X), np.asarray(Y)
    weights = {"w0": 1.0, "w1": 2.0}
    loss, new = agd.gradient_descent(x, y, weights)
    error = 2.0 * x + 1.0 - y
    assert loss == pytest.approx(np.mean(error**2) / 2, rel=1e-15)
    assert loss == agd.loss_fn(2.0 * x + 1.0, y)
    assert new["w0"] == pytest.approx(1.0 - 0.01 * error.mean(), rel=1e-15)
    assert new["w1"] == pytest.approx(2.0 - 0.01 * (error * x).mean(), rel=1e-15)
    assert weights == {"w0": 1.0, "w1": 2.0}
    np.testing.assert_array_equal(x, X)


@pytest.mark.backend("dask")
def test_dask_rows_of_unknown_number():
    import dask.array as da

    x, y = (da.from_array(np.asarray(v), chunks=3) for v in (X, Y))
    x, y = x[y > 0.0], y[y > 0.0]
    assert np.isnan(x.shape[0])
    loss, new = agd.gradient_descent(x, y, {"w0": 0.0, "w1": 0.0})
    want_loss, want = agd.gradient_descent(np.asarray(X), np.asarray(Y), {"w0": 0.0, "w1": 0.0})
    assert loss == pytest.approx(want_loss, rel=1e-14)
    assert new["w1"] == pytest.approx(want["w1"], rel=1e-14)
    assert agd.loss_fn(0.0 * x, y).compute() == pytest.approx(want_loss, rel=1e-14)


def test_the_seed_draws_the_start():
    runs = [io.StringIO() for _ in range(3)]
    for out, seed in zip(runs, (7, 7, 8), strict=True):
        agd.train(num_epochs=1, seed=seed, backend="numpy", file=out)
    assert runs[0].getvalue() == runs[1].getvalue() != runs[2].getvalue()


def test_divergence_names_the_largest_stable_step():
    x = np.asarray(X)
    matrix = [[1.0, x.mean()], [x.mean(), (x**2).mean()]]
    largest = 2.0 / np.linalg.eigvalsh(matrix)[-1]
    out = io.StringIO()
    with pytest.raises(FloatingPointError, match=f"2/L = {largest:.6g}"):
        agd.train(learning_rate=1.1 * largest, backend="numpy", file=out, num_epochs=50_000)
    assert "nan" not in out.getvalue()
    agd.train(learning_rate=0.99 * largest, backend="numpy", file=out)  # below it all is well


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be 1 or more, got 0"),
        ({"num_epochs": 2.5}, "num_epochs must be a whole number, got 2.5"),
        ({"every": 0}, "every must be 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0, got -1.0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, got 'fast'"),
        ({"weights": {"w0": 1.0}}, "weights must be a dict with keys 'w0' and 'w1'"),
        ({"weights": {"w0": 1.0, "w1": float("nan")}}, r"weights\['w1'\] must be finite"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"x": [1.0, 2.0]}, "y is missing"),
        ({"x": [1.0, 2.0], "y": [1.0]}, r"y must have the shape of x, \(2,\), got \(1,\)"),
        ({"x": [[1.0]], "y": [[1.0]]}, r"x must have shape \(m,\), got \(1, 1\)"),
        ({"x": [], "y": []}, "x must have at least one point"),
        (
            {"x": [1.0, float("nan")], "y": [1.0, 2.0]},
            r"x has 1 NaN or infinite value.*x\[1\] = nan",
        ),
        ({"x": ["a"], "y": [1.0]}, "x must be numbers"),
        ({"backend": "nunpy"}, "did you mean 'numpy'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        agd.train(**{"file": io.StringIO(), **kwargs})


def test_integers_become_floats():
    out = io.StringIO()
    final = agd.train([1, 2, 3], [2, 4, 6], num_epochs=2000, weights={"w0": 0, "w1": 0}, file=out)
    assert final["w1"] == pytest.approx(2.0, abs=0.1)
