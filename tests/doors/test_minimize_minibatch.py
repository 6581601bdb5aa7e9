"""Mini-batch methods on any function that is a mean over the rows of its arguments."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Stop, backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
Y = X @ np.asarray([1.0, -2.0, 3.0]) + 0.1 * RNG.normal(size=200)
BEST = np.linalg.lstsq(X, Y, rcond=None)[0]
METHODS = ["sgd", "svrg"]


def mean_square(w, X, y):
    xp = backends.namespace(w)
    return xp.mean((X @ w - y) ** 2)


def mean_square_grad(w, X, y):
    return 2.0 * (backends.namespace(X).matrix_transpose(X) @ (X @ w - y)) / X.shape[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jac", [None, mean_square_grad])
def test_rows_are_drawn_from_args(method, jac, xp):
    if xp.name == "dask":
        pytest.skip("rows in chunks are refused: see below")
    args = (xp.asarray(X), xp.asarray(Y))
    found = agd.minimize(
        mean_square, xp.asarray(np.zeros(3)), args, jac=jac, method=method,
        stop=Stop(60, grad_tol=3e-2),
    )  # fmt: skip
    assert found.success, found.message
    np.testing.assert_allclose(xp.to_numpy(found.x), BEST, atol=0.03)
    assert args[0].shape == (200, 3)


def test_only_rows_of_the_arrays_are_taken():
    sizes, alphas = set(), set()

    def ridge(w, data, alpha, beta):
        sizes.add(len(data["y"]))
        alphas.add((float(alpha), beta))
        return mean_square(w, data["X"], data["y"]) + alpha * beta * np.sum(w * w)

    args = ({"X": X, "y": Y}, np.float64(0.5), 0.2)
    found = agd.minimize(ridge, np.zeros(3), args, method="svrg", stop=Stop(100, grad_tol=1e-3))
    assert found.success
    assert sizes == {32, 200}
    assert alphas == {(0.5, 0.2)}
    want = np.linalg.solve(X.T @ X / 200 + 0.1 * np.eye(3), X.T @ Y / 200)
    np.testing.assert_allclose(found.x, want, atol=1e-2)


@pytest.mark.parametrize("top", [1.5, 0.0])
def test_mini_batches_keep_to_the_bounds_and_to_a_penalty(top):
    lowest, highest = [], []

    def watched(w, X, y):
        lowest.append(w.min())
        highest.append(w.max())
        return mean_square(w, X, y)

    def solved(method, **kwargs):
        return agd.minimize(
            watched, np.zeros(3), (X, Y), method=method, stop=Stop(400, grad_tol=1e-6), **kwargs
        )

    bounds = {"bounds": [(-1.0, top)] * 3}
    np.testing.assert_allclose(solved("svrg", **bounds).x, solved("lbfgs", **bounds).x, atol=1e-5)
    assert (min(lowest), max(highest)) == (-1.0, top)
    lasso = {"penalty": agd.loss.L1(0.3)}
    np.testing.assert_allclose(solved("svrg", **lasso).x, solved("lbfgs", **lasso).x, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_rows_is_told_why(method):
    def refused(words, args=(), **kwargs):
        with pytest.raises(ValueError, match=rf"one problem.*share their first axis.*got {words}"):
            agd.minimize(lambda x, *_: x @ x, np.zeros(3), args, method=method, **kwargs)

    refused(r"args with arrays of shapes \(200, 3\), \(199,\)\. Other", (X, Y[1:]))
    refused("args without arrays", (1.0, None))
    refused("args with arrays that have no rows", (X[:0],))
    refused("batch=1", (X, Y), batch=1)
    sparse = pytest.importorskip("scipy.sparse")
    refused("args with a csr_array, whose rows", (sparse.csr_array(X), Y))


@pytest.mark.backend("dask")
def test_rows_in_chunks_are_refused():
    da = pytest.importorskip("dask.array")
    args = (da.from_array(X), da.from_array(Y))
    with pytest.raises(ValueError, match="got args with a dask array, whose rows lie in chunks"):
        agd.minimize(mean_square, da.zeros(3), args, method="sgd")


@pytest.mark.parametrize("kwargs", [{"bounds": [(0, 1)] * 3}, {"penalty": agd.loss.L1(0.1)}])
def test_a_method_is_recommended_only_where_it_works(kwargs):
    def message(args):
        with pytest.raises(ValueError, match="cannot handle") as told:
            agd.minimize(lambda x, *_: x @ x, np.zeros(3), args, method="cg", **kwargs)
        return str(told.value)

    assert "'svrg'" not in message(())
    assert "'svrg'" in message((X, Y))
