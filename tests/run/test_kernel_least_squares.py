"""Least squares of many columns: conjugate gradients, held against the exact answer."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status, Stop
from agd.gradient import LinearObjective, Preconditioned, column_scaling
from agd.gradient.kernel import KernelLeastSquares
from agd.loss import L2, Huber
from agd.run import solver_table
from agd.update.conjugate_gradient import KernelCG, LinearCG

P = 80  # more than a fit that is done at once has
ROWS, COLUMNS = "conjugate gradients on the rows", "conjugate gradients, centred and scaled"


@pytest.fixture
def narrow(monkeypatch):
    """Let few columns count as many."""
    monkeypatch.setattr(solver_table, "MAX_NORMAL_COLUMNS", 8)


def made(n, p=P, targets=(), seed=0):
    """Return columns of several sizes and means, targets, and weights with a 0 among them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * rng.uniform(0.5, 2.0, size=p) + rng.normal(size=p)
    weight = rng.uniform(0.5, 2.0, size=n)
    weight[3] = 0.0
    return X, rng.normal(size=(n, *targets)) + X[:, :1].reshape(n, *(1,) * len(targets)), weight


def exact(X, y, weight=None, alpha=0.0, intercept=True):
    """Solve by the singular values of the centred rows; without a penalty that is the shortest answer."""
    s = np.ones(len(X)) if weight is None else weight
    m = s.sum()
    mu, mean = (s @ X / m, s @ y / m) if intercept else (np.zeros(X.shape[1]), 0.0 * (s @ y))
    U, d, Vh = np.linalg.svd(np.sqrt(s)[:, None] * (X - mu), full_matrices=False)
    kept = d > 1e-10 * d[0]
    inverse = np.where(kept, d / np.where(kept, d * d + m * alpha, 1.0), 0.0)
    coef = ((np.sqrt(s) * (y - mean).T) @ U * inverse) @ Vh
    return coef, mean - coef @ mu


def near(xp, found, coef, constant=None):
    rtol = 2e-3 if "float32" in str(xp.dtype) else 1e-8
    np.testing.assert_allclose(xp.to_numpy(found.coef), coef, rtol=rtol, atol=rtol)
    if constant is None:
        assert found.intercept is None
    else:
        np.testing.assert_allclose(xp.to_numpy(found.intercept), constant, rtol=rtol, atol=rtol)


def gradient(X, y, w, b, alpha):
    r = X @ w + b - y
    return X.T @ r / len(X) + alpha * w, r.mean()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [20, 150])
def test_a_ridge_has_the_exact_answer(xp, narrow, n, intercept):
    X, y, weight = made(n)
    found = agd.fit(
        *map(xp.asarray, (X, y)),
        penalty=L2(0.1),
        sample_weight=xp.asarray(weight),
        intercept=intercept,
    )
    coef, constant = exact(X, y, weight, 0.1, intercept)
    near(xp, found, coef, constant if intercept else None)
    assert found.success
    assert found.method == (ROWS if n < P and found.n_passes is None else COLUMNS)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_without_a_penalty_few_rows_have_the_shortest_answer(
    xp, narrow, monkeypatch, intercept, kernel
):
    if not kernel:
        monkeypatch.setattr("agd.gradient.kernel.MAX_KERNEL_ROWS", 0)
    X, y, _ = made(15)
    X[7] = X[2]  # two rows of the same x and another y: no w fits both
    with pytest.warns(np.exceptions.RankWarning, match=r"rank is at most 15 of .* the shortest"):
        found = agd.fit(xp.asarray(X), xp.asarray(y), intercept=intercept)
    coef, constant = exact(X, y, intercept=intercept)
    near(xp, found, coef, constant if intercept else None)


def test_several_targets(xp, narrow):
    if xp.name == "dask":
        pytest.skip("data in chunks have one target")
    X, Y, _ = made(20, targets=(3,))
    coef, constant = exact(X, Y, alpha=0.1)
    found = agd.fit(xp.asarray(X), xp.asarray(Y), penalty=L2(0.1))
    near(xp, found, coef, constant)


def test_batches(narrow):
    X, Y, _ = made(20, targets=(2,))
    both = np.stack([X, 2.0 * X + 1.0])
    found = agd.fit(both, Y.T, penalty=L2(0.1))
    for i, one in enumerate(both):
        coef, _ = exact(one, Y[:, i], alpha=0.1)
        np.testing.assert_allclose(found.coef[i], coef, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [20, 150])
def test_sparse_columns_as_dense_ones(narrow, n):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, weight = made(n)
    X[np.random.default_rng(1).uniform(size=X.shape) < 0.8] = 0.0
    found = agd.fit(sparse.csr_array(X), y, penalty=L2(0.1), sample_weight=weight)
    np.testing.assert_allclose(found.coef, exact(X, y, weight, 0.1)[0], rtol=1e-8, atol=1e-9)
    assert found.method == (ROWS if n < P else COLUMNS)


@pytest.mark.parametrize("n", [20, 150])
def test_value_gradient_and_certificate_are_of_the_data(narrow, n):
    X, y, _ = made(n)
    found = agd.fit(X, y, penalty=L2(0.1))
    g, slope = gradient(X, y, found.coef, found.intercept, 0.1)
    r = X @ found.coef + found.intercept - y
    assert found.fun == pytest.approx(r @ r / n / 2.0 + 0.05 * found.coef @ found.coef, rel=1e-12)
    np.testing.assert_allclose(found.jac.coef, g, atol=1e-14)
    assert found.certificate.grad_norm <= found.certificate.tolerance
    scale = 1.0 / np.sqrt(X.var(axis=0) + 0.1)
    size = np.abs(scale * (g - X.mean(axis=0) * slope)).max() / y.std()
    assert found.certificate.grad_norm == pytest.approx(size, rel=0.1, abs=1e-13)
    assert (np.diff(found.history.value) <= 1e-12).all()


def test_more_than_two_thousand_columns_take_it_and_other_losses_do_not():
    X, y, _ = made(12, 2100)
    assert agd.fit(X, y, penalty=L2(0.1)).method == ROWS
    assert agd.fit(X[:, :2000], y, penalty=L2(0.1)).method == "normal equations of the rows"
    assert "conjugate" not in agd.fit(X, y, loss=Huber(), penalty=L2(0.1)).method


def test_a_start_and_a_gradient_that_are_asked_for(narrow):
    X, y, _ = made(20)
    coef, constant = exact(X, y, alpha=0.1)
    found = agd.fit(X, y, penalty=L2(0.1), stop=Stop(grad_tol=1e-9))
    g, slope = gradient(X, y, found.coef, found.intercept, 0.1)
    assert found.success
    assert max(np.abs(g).max(), abs(slope)) <= 1e-9
    again = agd.fit(X, y, penalty=L2(0.1), init=(coef, constant))
    assert again.nit <= 1
    assert again.method == COLUMNS
    short = agd.fit(X, y, penalty=L2(0.1), stop=Stop(max_iter=7, grad_tol=1e-9), init=(coef + 1.0, 0.0),
                    callback=lambda found: found.nit >= 3)  # fmt: skip
    assert (short.nit, short.status) == (3, Status.CALLBACK)


def test_steps_that_run_out_are_said(narrow):
    X, y, _ = made(20)
    with pytest.warns(agd.ConvergenceWarning):
        found = agd.fit(X, y, penalty=L2(1e-3), stop=agd.MaxIter(3))
    assert (found.nit, found.status) == (3, Status.MAX_ITER)


def test_columns_of_very_different_sizes_get_one_answer_of_many(narrow):
    X, y, _ = made(15)
    X = X * np.logspace(-4, 4, P)
    with pytest.warns(np.exceptions.RankWarning, match="these are one choice"):
        found = agd.fit(X, y)
    assert found.success
    assert found.method == COLUMNS
    np.testing.assert_allclose(found.predict(X), y, atol=1e-6)


@pytest.mark.parametrize("size", [1e-150, 1e140])
@pytest.mark.parametrize("n", [20, 150])
def test_units_change_nothing(narrow, n, size):
    X, y, _ = made(n)
    want = agd.fit(X, y, penalty=L2(0.1))
    found = agd.fit(X, y * size, penalty=L2(0.1))
    assert found.nit == want.nit
    np.testing.assert_allclose(found.coef / size, want.coef, rtol=1e-7, atol=1e-9)


def test_the_rows_take_the_steps_of_the_columns(xp):
    """In coordinates of one scale the two methods have the same iterates."""
    if xp.name == "dask":
        pytest.skip("of data in chunks the rows are not combined")
    X, y, weight = (xp.asarray(part) for part in made(20))
    base = LinearObjective.of(X, y, penalty=L2(0.1), sample_weight=weight)
    scaling = column_scaling(base)
    one = scaling._replace(inv_std=0.0 * scaling.inv_std + scaling.inv_std[3])
    rows, there = KernelLeastSquares.of(base, scaling), Preconditioned(base, one)
    start = base.zeros()
    v = one.to_preconditioned(start._replace(intercept=start.intercept + one.null_model))
    u, first, second = rows.zeros(), KernelCG(), LinearCG()
    state, other = first.init(rows, u), second.init(there, v)
    rtol = 1e-3 if "float32" in str(xp.dtype) else 1e-9
    for _ in range(4):
        u, state = first.step(rows, u, state)
        v, other = second.step(there, v, other)
        (w, b), (want, constant) = rows.report(u, state.grad)[0], one.to_original(v)
        np.testing.assert_allclose(xp.to_numpy(w), xp.to_numpy(want), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(xp.to_numpy(b), xp.to_numpy(constant), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(float(state.value), float(other.value), rtol=rtol)
