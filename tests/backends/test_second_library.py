"""A library that follows the Array API and is not in the table: computed with as it is, never copied to NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import backends, update
from helpers.second_library import NAME, import_second_library

pytestmark = pytest.mark.backend("strict")

ROWS = np.random.default_rng(0).normal(size=(40, 3))
TARGET = ROWS @ np.asarray([1.0, -2.0, 0.5]) + 0.3


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    pytest.importorskip("array_api_strict")
    return import_second_library(tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"penalty": agd.loss.L2(0.1)},
        {"penalty": agd.loss.L1(0.1)},
        {"loss": "huber"},
        {"loss": "log_loss", "penalty": agd.loss.L2(0.1)},
        {"method": "gd"},
        {"method": "lbfgs"},
        {"method": update.adam(0.1), "stop": agd.Stop(max_iter=50, grad_tol=0.0)},
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
def test_a_fit_stays_in_the_library(library, options):
    y = (TARGET > 0.0) * 1.0 if options.get("loss") == "log_loss" else TARGET
    X = library.asarray(ROWS)
    found = agd.fit(X, library.asarray(y), **options)
    want = agd.fit(ROWS, y, **options)
    assert type(found.coef) is type(X)
    assert backends.of(X).name == NAME
    np.testing.assert_allclose(backends.to_numpy(found.coef), want.coef, rtol=1e-4, atol=1e-6)
    assert type(found.predict(X)) is type(X)
    # NumPy arrays and lists beside X are moved to it, as for the libraries of the table.
    beside = agd.fit(X, y.tolist(), **options).coef
    np.testing.assert_array_equal(backends.to_numpy(beside), backends.to_numpy(found.coef))


def test_minimise_and_rules_stay_in_the_library(library):
    x0 = library.asarray([1.0, 2.0])
    found = agd.minimize(lambda x: library.sum((x - 3.0) ** 2), x0, jac=lambda x: 2.0 * (x - 3.0))
    assert type(found.x) is type(x0)
    np.testing.assert_allclose(backends.to_numpy(found.x), 3.0, rtol=1e-6)
    rule = update.adam(0.1)
    step, _ = rule.update(x0, rule.init(x0), x0)
    assert type(update.apply_updates(x0, step)) is type(x0)


def test_other_doors_take_it(library):
    X, y = library.asarray(ROWS), library.asarray(TARGET)
    online = agd.Online().partial_fit(X, y)
    stream = agd.fit(agd.Stream([(X[:20, :], y[:20]), (X[20:, :], y[20:])]))
    for coef in (online.coef, stream.coef):
        assert type(coef) is type(X)
        np.testing.assert_allclose(backends.to_numpy(coef), [1.0, -2.0, 0.5], rtol=1e-6)


def test_it_is_not_mixed_with_others(library):
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match=f"y is a array-api-strict array and X a {NAME} array"):
        agd.fit(library.asarray(ROWS), strict.asarray(TARGET))
    with pytest.raises(TypeError, match=f"X is an array of {NAME}: NumPy arrays, .* are moved"):
        agd.fit(library.asarray(ROWS), TARGET, device="numpy")


def test_programs_without_values_are_refused_by_name():
    kind = type("Array", (), {"__module__": "ndonnx._array", "__array_namespace__": None})
    with pytest.raises(
        TypeError, match="X is an array of ndonnx, which holds a graph and no values"
    ):
        agd.fit(kind(), TARGET)
