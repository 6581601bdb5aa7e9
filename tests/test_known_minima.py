"""The known functions are what they say: gradients against differences, minima against fmin."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import known_minima

ROWS = {**known_minima.PROBLEMS, **known_minima.SADDLES}
DATA = {
    "breast_cancer_standardised": lambda: known_minima.breast_cancer(standardised=True),
    "breast_cancer_raw": lambda: known_minima.breast_cancer(standardised=False),
}


def host(name):
    return ROWS[name] if name in ROWS else DATA[name]()


def differences(fun, x, h):
    """Central differences of fourth order, with a step of h or h times the entry's size."""
    columns = []
    for i in range(x.size):
        e = np.zeros_like(x)
        e[i] = h * max(1.0, abs(x[i]))
        near, far = fun(x + e) - fun(x - e), fun(x + 2.0 * e) - fun(x - 2.0 * e)
        columns.append((8.0 * near - far) / (12.0 * e[i]))
    return np.array(columns)


@pytest.mark.parametrize("name", [*ROWS, *DATA])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_gradients_agree_with_central_differences(name, shift):
    problem = host(name)
    x = np.array(problem.x0) + shift * np.cos(np.arange(len(problem.x0)))
    raw = name.endswith("raw")  # columns up to 4e3: small x, that exp(z) is of moderate size
    x, h = (x / 1e3, 1e-7) if raw else (x, 1e-4)
    got = problem.grad(x)
    rounding = 1e-15 * abs(problem.fun(x)) / h
    atol = 1e-8 * np.abs(got).max() + rounding
    np.testing.assert_allclose(got, differences(problem.fun, x, h), atol=atol, rtol=1e-7)


@pytest.mark.parametrize("name", [*ROWS, *DATA])
def test_minima_are_minima(name):
    problem = host(name)
    rng = np.random.default_rng(0)
    for minimum in map(np.array, problem.minima):
        value = problem.fun(minimum)
        assert value == pytest.approx(problem.fmin, abs=1e-20, rel=1e-13)
        scale = np.abs(problem.grad(np.array(problem.x0))).max()
        assert np.abs(problem.grad(minimum)).max() <= 1e-13 * scale
        assert problem.gap(float(value)) <= 1e-13
        assert problem.distance(minimum) == 0.0
        for _ in range(50):
            near = minimum + 1e-3 * rng.normal(size=minimum.size) * np.maximum(1.0, np.abs(minimum))
            assert problem.fun(near) > value


@pytest.mark.parametrize("name", known_minima.SADDLES)
def test_saddles_are_flat_and_have_lower_ground_beside_them(name):
    problem = ROWS[name]
    (point,) = map(np.array, problem.saddles)
    assert np.abs(problem.grad(point)).max() == 0.0
    angles = np.linspace(0.0, 2.0 * np.pi, 100)
    around = [problem.fun(point + 1e-2 * np.array([np.cos(a), np.sin(a)])) for a in angles]
    assert min(around) < problem.fun(point) < max(around)
    # On the ridge the gradient points along it: descent never leaves it by itself.
    assert problem.grad(np.array(problem.x0))[1] == 0.0


@pytest.mark.parametrize("name", [*ROWS, *DATA])
def test_every_library_computes_the_same(xp, name):
    problem = host(name)
    x = np.array(problem.x0) + 0.1 * np.cos(np.arange(len(problem.x0)))
    if name.endswith("raw"):
        x = x / 1e3
    x = x.astype(xp.host_dtype)
    here = xp.asarray(x)
    value, grad = problem.fun(here), problem.grad(here)
    assert (value.shape, grad.shape, grad.dtype) == ((), here.shape, here.dtype)
    rtol = 1e-12 if xp.host_dtype == np.float64 else 2e-5
    exact = problem.grad(x.astype(np.float64))
    want = problem.fun(x.astype(np.float64))
    assert float(xp.to_numpy(value)) == pytest.approx(want, rel=10 * rtol)
    np.testing.assert_allclose(xp.to_numpy(grad), exact, atol=rtol * np.abs(exact).max() * 10)


def test_the_quadratic_has_the_condition_that_its_name_says():
    H = np.array([known_minima.quadratic_grad(e) for e in np.eye(10)])
    np.testing.assert_allclose(H, H.T, atol=1e-6)
    curvatures = np.linalg.eigvalsh(H)
    assert curvatures[-1] == pytest.approx(1e8, rel=1e-10)
    assert curvatures[0] == pytest.approx(1.0, rel=1e-6)


def test_the_lasso_is_optimal():
    X, y, alpha, w = known_minima.lasso_diabetes()
    slope = X.T @ (X @ w - y) / len(y)
    at = w != 0.0
    assert 0 < at.sum() < w.size
    np.testing.assert_allclose(slope[at], -alpha * np.sign(w[at]), rtol=0, atol=1e-9)
    assert (np.abs(slope[~at]) < alpha).all()


def test_non_negative_least_squares_is_optimal():
    X, y, _, w = known_minima.nnls_random()
    slope = X.T @ (X @ w - y) / len(y)
    at = w > 0.0
    assert 0 < at.sum() < w.size
    assert (w >= 0.0).all()
    np.testing.assert_allclose(slope[at], 0.0, atol=1e-12)
    assert (slope[~at] > 0.0).all()
