"""The least-squares step without a loop: it is the loop's, or it is left to the loop."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest

import agd
from agd import linear
from agd._typing import NotApplicable
from agd.loss import L2
from agd.run import SOLVERS, LinearProblem, select_solver
from helpers.property_testing import given, settings, st

pytestmark = pytest.mark.backend("numpy")

RNG = np.random.default_rng


def by_the_loop(monkeypatch, *data, **kwargs):
    with monkeypatch.context() as patch:
        patch.setitem(SOLVERS, "normal_direct", SOLVERS["normal"])
        patch.setitem(SOLVERS, "normal_batched", SOLVERS["normal"])
        return agd.fit(*data, **kwargs)


def is_solved_by(kernel, X, y, penalty=None, intercept=True, weight=None):
    """Whether a kernel is chosen for the data, and then serves them."""
    data, loss = linear.as_data(X, y, weight), agd.loss.Squared()
    problem = LinearProblem(data, loss, penalty, intercept, agd.Stop(), default_settings=True)
    if select_solver(problem.traits) != kernel:
        return False
    try:
        SOLVERS[kernel].solver.fit(problem)
    except NotApplicable:
        return False
    return True


def is_direct(X, y, penalty=None, intercept=True):
    return is_solved_by("normal_direct", X, y, penalty, intercept)


def is_done_at_once(X, y, penalty=None, intercept=True):
    return is_solved_by("normal_batched", X, y, penalty, intercept)


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * scale)


def assert_same(found, known, reach=1.0):
    """Hold every field against the loop's: counts and words exactly, numbers but for rounding."""
    for name in ("nit", "nfev", "njev", "status", "success", "message", "method", "loss"):
        a, b = getattr(found, name), getattr(known, name)
        assert type(a) is type(b), name
        assert np.array_equal(a, b), name
    for name in ("coef", "intercept", "fun"):
        a, b = getattr(found, name), getattr(known, name)
        assert type(a) is type(b), name
        if b is not None:
            assert np.shape(a) == np.shape(b)
            largest = 1.0 if name == "coef" else reach
            close(a, b, scale=largest * np.max(np.abs(known.coef)) + np.max(np.abs(b)))
    assert found.x.coef is found.coef
    assert (found.classes, found.n_passes) == (known.classes, known.n_passes)
    assert found.history.nit.tolist() == known.history.nit.tolist()
    units = reach * (1.0 + float(np.max(np.abs(known.history.value))))
    for a, b in zip(found.jac, known.jac, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.shape == b.shape and np.abs(a - b).max() < 1e-8 * units)
    for name, a, b in zip(known.history._fields, found.history, known.history, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        close(a, b)
    for field in fields(known.certificate):
        a, b = getattr(found.certificate, field.name), getattr(known.certificate, field.name)
        assert type(a) is type(b), field.name
        if field.name in ("grad_norm", "distance"):  # of rounding alone
            assert np.shape(a) == np.shape(b)
        elif isinstance(b, float | np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            assert a == b


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(3, 400),
    p=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    far=st.sampled_from([0.0, 3.0, 1e3]),
    size=st.sampled_from([1e-8, 1.0, 1e8]),
    mixed=st.sampled_from([0.0, 0.9, 0.999]),
    alpha=st.sampled_from([None, 0.0, 1e-3, 2.0]),
    intercept=st.booleans(),
    layout=st.sampled_from(["rows", "columns", "every second", "read-only"]),
)
def test_the_direct_step_is_the_loops(n, p, seed, far, size, mixed, alpha, intercept, layout):
    rng = RNG(seed)
    X = size * (rng.normal(size=(2 * n, p)) + mixed * 10.0 * rng.normal(size=(2 * n, 1)) + far)
    y = (X[::2] @ rng.normal(size=p)) / size + rng.normal(size=n) + far
    X = (
        X[::2]
        if layout == "every second"
        else X[::2].copy(order="F" if layout == "columns" else "C")
    )
    X.flags.writeable = layout != "read-only"
    kwargs = {"penalty": None if alpha is None else L2(alpha), "intercept": intercept}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", np.exceptions.RankWarning)  # fewer rows than columns
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        found, known = agd.fit(X, y, **kwargs), by_the_loop(patch, X, y, **kwargs)
    assert_same(found, known, reach=1.0 + np.abs(X).max())
    if layout in ("rows", "read-only"):  # other layouts are multiplied in another order
        assert np.array_equal(found.coef, known.coef)
        assert np.array_equal(found.history.value, known.history.value)
        assert np.array_equal(found.history.grad_norm, known.history.grad_norm)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(12, 400),
    p=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    far=st.sampled_from([0.0, 3.0]),
    kind=st.sampled_from([np.float32, np.float64]),
    weighted=st.booleans(),
    alpha=st.sampled_from([None, 1e-3, 2.0]),
    intercept=st.booleans(),
)
def test_weights_and_single_precision(n, p, seed, far, kind, weighted, alpha, intercept):
    rng = RNG(seed)
    X = (rng.normal(size=(n, p)) + far).astype(kind)
    y = (X @ rng.normal(size=p) + rng.normal(size=n) + far).astype(kind)
    weight = (rng.uniform(size=n) * (rng.uniform(size=n) < 0.9)).astype(kind) if weighted else None
    penalty = None if alpha is None else L2(alpha)
    kwargs = {"sample_weight": weight, "penalty": penalty, "intercept": intercept}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        found, known = agd.fit(X, y, **kwargs), by_the_loop(patch, X, y, **kwargs)
    for name in ("nit", "nfev", "njev", "status", "success", "message", "method"):
        assert getattr(found, name) == getattr(known, name), name
    assert found.certificate.tolerance == known.certificate.tolerance
    assert found.coef.dtype == known.coef.dtype == found.jac.coef.dtype == kind
    close = 2e4 * np.finfo(kind).eps if kind is np.float64 else 1e-4
    size = np.abs(known.coef).max() + (abs(float(known.intercept)) if intercept else 0.0)
    condition = known.certificate.condition or 1.0
    assert np.abs(found.coef - known.coef).max() <= close * condition * size
    assert found.fun == pytest.approx(known.fun, rel=close, abs=close)
    if intercept:
        assert found.intercept.dtype == kind
        assert abs(found.intercept - known.intercept) <= close * condition * (1.0 + far) * size


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_weights_are_rows_that_are_repeated(kind):
    rng = RNG(0)
    X, y = rng.normal(size=(40, 3)).astype(kind), rng.normal(size=40).astype(kind)
    times = rng.integers(0, 4, size=40)
    assert is_solved_by("normal_direct", X, y, weight=times.astype(kind))
    found = agd.fit(X, y, sample_weight=times.astype(kind))
    wide = np.column_stack([X, np.ones(40)]).astype(float).repeat(times, axis=0)
    want = np.linalg.lstsq(wide, y.repeat(times), rcond=None)[0]
    np.testing.assert_allclose(found.coef, want[:3], rtol=1e-5 if kind is np.float32 else 1e-12)


@pytest.mark.parametrize(
    ("weight", "words"), [(-1.0, "negative"), (np.nan, "NaN or infinite"), (np.inf, "infinite")]
)
def test_weights_that_are_none_are_left_to_the_loop(weight, words):
    X, y = RNG(0).normal(size=(9, 2)), RNG(1).normal(size=9)
    with pytest.raises(ValueError, match=words):
        agd.fit(X, y, sample_weight=np.where(np.arange(9) == 4, weight, 1.0))
    with pytest.raises(ValueError, match="only zeros"):
        agd.fit(X, y, sample_weight=np.zeros(9))


def test_the_article_takes_the_direct_step():
    X, y = np.asarray(agd.line.X, dtype=float)[:, None], np.asarray(agd.line.Y, dtype=float)
    assert is_direct(X, y)
    found = agd.fit(X, y)
    assert found.coef[0] == pytest.approx(0.5, rel=1e-14)
    assert float(found.intercept) == pytest.approx(5.0, rel=1e-14)


def test_the_distance_is_the_gradient_over_the_least_curvature():
    X, y = RNG(0).normal(size=(30, 4)) + 5.0, RNG(1).normal(size=30)
    found = agd.fit(X, y)
    rows = np.column_stack([X, np.ones(30)])
    mu = np.linalg.eigvalsh(rows.T @ rows / 30)[0]
    length = np.hypot(np.linalg.norm(found.jac.coef), found.jac.intercept)
    largest = max(np.abs(found.coef).max(), abs(found.intercept))
    assert found.certificate.distance == pytest.approx(length / mu + 2.0**-52 * largest, rel=1e-9)
    exact = np.linalg.lstsq(rows, y, rcond=None)[0]
    assert np.linalg.norm(found.coef - exact[:4]) < found.certificate.distance + 1e-14


def _cases():
    rng = RNG(0)
    X = rng.normal(size=(40, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=40)
    constant = np.column_stack([X, np.full(40, 7.0)])
    return {
        "dependent": (np.column_stack([X, X[:, 0] + X[:, 1]]), y),
        "badly conditioned": (np.column_stack([X, X[:, 0] + 1e-5 * y]), y),
        "a constant column": (constant, y),
        "a constant column far away": (np.column_stack([X, 1e9 + 1e-8 * X[:, 0]]), y),
        "constant targets": (X, np.full(40, 3.0)),
        "targets of 0": (X, np.zeros(40)),
        "fewer rows than columns": (X[:2], y[:2]),
        "one row": (X[:1], y[:1]),
        "a small column": (X * [1.0, 1e-160, 1.0], y),
        "small targets": (X, 1e-170 * y),
        "targets that say nothing of the columns": (X[:6] * 0.0 + np.eye(6)[:, :3], np.eye(6)[5]),
    }


@pytest.mark.parametrize("name", _cases())
@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.parametrize("intercept", [True, False])
def test_what_is_not_plain_is_fitted_as_by_the_loop(name, intercept, monkeypatch):
    X, y = _cases()[name]
    known = by_the_loop(monkeypatch, X, y, intercept=intercept)
    assert_same(agd.fit(X, y, intercept=intercept), known, reach=1.0 + np.abs(X).max())


@pytest.mark.parametrize(
    "name",
    [
        "dependent",
        "badly conditioned",
        "a constant column",
        "constant targets",
        "one row",
        "small targets",
    ],
)
def test_what_needs_words_is_left_to_the_loop(name):
    assert not is_direct(*_cases()[name])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200, 1e308])
@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_or_too_large_are_named_as_by_the_loop(bad, which, monkeypatch):
    data = RNG(0).normal(size=(20, 2)), RNG(1).normal(size=20)
    data[which][3, ...] = bad
    assert not is_direct(*data)
    outcomes = []
    for fit in (agd.fit, lambda *data: by_the_loop(monkeypatch, *data)):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                outcomes.append(fit(*data).message)
            except ValueError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_a_stop_a_start_and_a_callback_have_their_loop():
    X, y = RNG(0).normal(size=(20, 2)), RNG(1).normal(size=20)
    seen = []
    agd.fit(X, y, callback=lambda result: seen.append(result.nit))
    assert seen == [1]
    assert agd.fit(X, y, stop=agd.Stop(grad_tol=1e-8)).certificate.tolerance == 1e-8
    assert agd.fit(X, y, init=agd.fit(X, y)).nit == 0


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 40),
    n=st.integers(8, 120),
    p=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    far=st.sampled_from([0.0, 3.0, 1e3]),
    size=st.sampled_from([1e-8, 1.0, 1e8]),
    mixed=st.sampled_from([0.0, 0.5, 10.0]),
    alpha=st.sampled_from([None, 0.0, 1e-3, 2.0]),
    intercept=st.booleans(),
    layout=st.sampled_from(["rows", "columns", "every second", "read-only"]),
)
def test_many_steps_at_once_are_the_loops(
    b, n, p, seed, far, size, mixed, alpha, intercept, layout
):
    rng = RNG(seed)
    X = size * (rng.normal(size=(b, 2 * n, p)) + mixed * rng.normal(size=(b, 2 * n, 1)) + far)
    y = (X[:, ::2] @ rng.normal(size=p)) / size + rng.normal(size=(b, n)) + far
    X = (
        X[:, ::2]
        if layout == "every second"
        else X[:, ::2].copy("F" if layout == "columns" else "C")
    )
    X.flags.writeable = layout != "read-only"
    kwargs = {"penalty": None if alpha is None else L2(alpha), "intercept": intercept}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        found = agd.fit(X, y, **kwargs)
        assert_same(found, by_the_loop(patch, X, y, **kwargs), reach=1.0 + np.abs(X).max())


def _batch(problems=300, n=60, p=5):
    rng = RNG(0)
    X = rng.normal(size=(problems, n, p))
    return X, X @ np.arange(1.0, p + 1.0) + 0.5 + rng.normal(size=(problems, n))


def test_many_problems_are_each_the_least_squares_answer(monkeypatch):
    X, y = _batch(problems=2000)  # more than a piece
    assert is_done_at_once(X, y)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = agd.fit(X, y)
    for i in (0, 437, 1999):
        rows = np.column_stack([X[i], np.ones(60)])
        exact = np.linalg.lstsq(rows, y[i], rcond=None)[0]
        np.testing.assert_allclose(found.coef[i], exact[:5], rtol=1e-11)
        assert found.intercept[i] == pytest.approx(exact[5], rel=1e-11)
        residual = rows @ exact - y[i]
        assert found.fun[i] == pytest.approx(residual @ residual / 120, rel=1e-12)
    again = agd.fit(X, y)
    assert np.array_equal(found.coef, again.coef)
    assert np.array_equal(found.intercept, again.intercept)


def _spoilt(kind):
    X, y = _batch()
    if kind == "dependent columns":
        X[17, :, 4] = X[17, :, 0] - X[17, :, 1]
    elif kind == "badly conditioned":
        X[17, :, 4] = X[17, :, 0] + 1e-6 * X[17, :, 4]
    elif kind == "condition of 50":
        X[17, :, 4] = X[17, :, 0] + 0.03 * X[17, :, 4]
    elif kind == "a constant column":
        X[17, :, 4] = 3.0
    elif kind == "constant targets":
        y[17] = 2.0
    elif kind == "small targets":
        y[17] *= 1e-200
    else:
        X[17, 3, 4] = {"NaN": math.nan, "infinite": math.inf, "large": 1e200}[kind]
    return X, y


KINDS = ("dependent columns", "badly conditioned", "condition of 50", "a constant column")
FAULTS = ("constant targets", "small targets", "NaN", "infinite", "large")


@pytest.mark.parametrize("kind", [*KINDS, *FAULTS])
def test_one_problem_that_is_not_plain_leaves_all_to_the_loop(kind, monkeypatch):
    X, y = _spoilt(kind)
    assert not is_done_at_once(X, y)
    outcomes = []
    for fit in (agd.fit, lambda *data: by_the_loop(monkeypatch, *data)):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                found = fit(X, y)
                outcomes.append((found.message, found.method, found.coef.tolist()))
            except ValueError as error:
                outcomes.append(str(error))
            outcomes[-1] = (outcomes[-1], [str(one.message) for one in warned])
    assert outcomes[0] == outcomes[1]


def test_curvatures_of_many_are_found_when_asked_for():
    X, y = _batch()
    certificate = agd.fit(X, y).certificate
    assert "curvature" not in vars(certificate)
    Z = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
    e = np.linalg.eigvalsh(Z.transpose(0, 2, 1) @ Z / X.shape[1])
    np.testing.assert_allclose(certificate.condition, e[:, -1] / e[:, 0], rtol=1e-10)
    np.testing.assert_allclose(certificate.curvature, e[:, -1], rtol=1e-12)
    np.testing.assert_allclose(certificate.least_curvature, e[:, 0], rtol=1e-12)
    np.testing.assert_allclose(certificate.largest_step, 2.0 / e[:, -1], rtol=1e-12)
    assert "L/mu" in repr(certificate)
    assert replace(certificate, kind="minimum").condition is certificate.condition
