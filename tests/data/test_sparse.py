"""Sparse X: the answers of the same data made dense, without ever making them so."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

import agd
from agd import Status, Stop, backends, update
from agd.data import matrix
from agd.gradient import Blocks, LinearObjective, Moments, column_scaling
from agd.loss import L1, L2, Box, ElasticNet, GroupL1, Huber, NonNegative
from agd.update.stochastic import batch_curvature

sparse = pytest.importorskip("scipy.sparse")


def made(n=300, p=8, density=0.3, seed=0):
    """Return a sparse X with a full column far from zero, targets for each loss, and weights."""
    rng = np.random.default_rng(seed)
    X = (
        rng.normal(size=(n, p))
        * (rng.uniform(size=(n, p)) < density)
        * rng.uniform(0.5, 2.0, size=p)
    )
    X[:, -1] = 20.0 + rng.normal(size=n)
    z = X[:, :-1] @ rng.normal(size=p - 1) + 0.5 * (X[:, -1] - 20.0)
    targets = {
        "squared_error": z + rng.normal(size=n),
        "huber": z + rng.standard_t(1, size=n),
        "log_loss": (z + rng.logistic(size=n) > 0) * 1.0,
        "poisson": rng.poisson(np.exp(0.3 * z)) * 1.0,
    }
    return sparse.csr_array(X), targets, rng.uniform(0.5, 2.0, size=n)


def both(X, y, **options):
    """Return the fits of a sparse X and of the same X made dense."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        return agd.fit(X, y, **options), agd.fit(X.toarray(), y, **options)


def close(found, want, rtol=1e-6):
    scale = np.abs(want.coef).max()
    np.testing.assert_allclose(found.coef, want.coef, rtol=rtol, atol=rtol * scale)
    if want.intercept is not None:
        np.testing.assert_allclose(found.intercept, want.intercept, rtol=rtol, atol=rtol * scale)
    assert found.fun == pytest.approx(want.fun, rel=rtol, abs=rtol)


LOSSES = ("squared_error", "huber", "log_loss", "poisson")
PENALTIES = (None, L2(0.1), L1(0.02), ElasticNet(0.02, 0.5), NonNegative(), Box(-0.5, 0.5))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("options", ["plain", "weights", "no intercept"])
def test_auto_gives_the_answer_of_the_dense_data(loss, penalty, options):
    X, targets, weight = made()
    more = {"sample_weight": weight} if options == "weights" else {}
    more["intercept"] = options != "no intercept"
    found, want = both(X, targets[loss], loss=loss, penalty=penalty, **more)
    close(found, want)
    assert found.success
    # Newton's method is for dense columns, which are centred without losing a digit.
    assert want.method in {found.method, "Newton", "proximal Newton"}
    assert type(found.coef) is np.ndarray


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["gd", "lbfgs", "fista", "cg"])
def test_methods_in_the_datas_own_units(loss, method):
    X, targets, weight = made()
    X = X[:, :-1]
    stop = Stop(200, grad_tol=1e-7)
    options = {"loss": loss, "penalty": L2(0.1), "method": method, "stop": stop}
    found, want = both(X, targets[loss], sample_weight=weight, **options)
    close(found, want, 1e-5)
    assert found.method == want.method


@pytest.mark.parametrize(
    "penalty", [L1(0.02), NonNegative(), GroupL1(0.05, (0, 0, 0, 1, 1, 2, 2, 3))], ids=str
)
@pytest.mark.parametrize("method", ["proximal_gradient", "fista"])
def test_methods_with_a_prox(penalty, method):
    X, targets, _ = made()
    options = {"loss": "log_loss", "penalty": penalty, "method": method}
    found, want = both(X, targets["log_loss"], stop=Stop(3000, grad_tol=1e-6), **options)
    close(found, want, 1e-4)
    assert (found.coef == 0.0).sum() == (want.coef == 0.0).sum()


@pytest.mark.parametrize(
    "method",
    ["sgd", "svrg", update.adam(0.05)],
    ids=str,
)
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_rules_and_mini_batches_take_the_same_steps(method, format):
    X, targets, weight = made()
    X = X[:, :-1]
    found, want = both(
        X.asformat(format), targets["log_loss"], loss="log_loss", sample_weight=weight,
        method=method, penalty=L2(0.1), stop=Stop(50, grad_tol=1e-9),
    )  # fmt: skip
    close(found, want, 1e-8)
    assert found.nit == want.nit


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("intercept", [True, False])
def test_several_targets(loss, intercept):
    X, targets, weight = made()
    y = targets[loss]
    Y = np.column_stack([y, y[::-1], np.roll(y, 7)])
    found, want = both(X, Y, loss=loss, penalty=L2(0.1), sample_weight=weight, intercept=intercept)
    close(found, want)
    assert found.coef.shape == (3, 8)
    assert found.predict(X).shape == want.predict(X.toarray()).shape


FORMATS = (
    "csr_array",
    "csc_array",
    "csr_matrix",
    "csc_matrix",
    "coo_array",
    "coo_matrix",
    "lil_array",
    "bsr_matrix",
)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_and_what_is_said_of_a_copy(kind):
    X, targets, _ = made()
    y, given = targets["squared_error"], getattr(sparse, kind)(X)
    want = agd.fit(X, y)
    if kind.startswith(("csr", "csc")):
        found = agd.fit(given, y)
    else:
        name = kind.partition("_")[0].upper()
        with pytest.warns(UserWarning, match=f"X is sparse in {name} format.* copied to CSR"):
            found = agd.fit(given, y)
    np.testing.assert_array_equal(found.coef, want.coef)
    assert type(given) is getattr(sparse, kind)
    np.testing.assert_allclose(found.predict(given), want.predict(X.toarray()), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_single_precision_stays(loss):
    X, targets, _ = made(n=2000)
    found, want = both(X.astype(np.float32), targets[loss], loss=loss, penalty=L2(0.01))
    assert found.coef.dtype == np.float32
    close(found, want, 2e-3)


def test_single_precision_loses_no_more_than_it_must():
    n = 1_000_000
    X = sparse.csr_array(
        (np.ones(2 * n, dtype=np.float32), np.tile([0, 1], n), np.arange(0, 2 * n + 1, 2)),
        shape=(n, 3),
    )
    r = np.full(n, 0.1, dtype=np.float32)
    found = matrix.backward(X, r)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [n * float(r[0])] * 2 + [0.0], rtol=2e-7)
    moments = Moments.from_blocks(Blocks.of(X, r))
    assert moments.G.dtype == np.float64
    np.testing.assert_allclose(moments.mean, [1.0, 1.0, 0.0], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool])
def test_integers_and_booleans_become_floats(dtype):
    X, targets, _ = made()
    whole = sparse.csr_array(np.round(X.toarray()).astype(dtype))
    found, want = both(whole, targets["squared_error"], penalty=L2(0.1))
    assert found.coef.dtype == np.float64
    close(found, want)


def test_wide_indices():
    X, targets, _ = made()
    wide = sparse.csr_array(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    for loss in ("squared_error", "log_loss"):
        close(agd.fit(wide, targets[loss], loss=loss), agd.fit(X, targets[loss], loss=loss), 1e-9)


def test_duplicates_add_up_and_the_users_matrix_stays_as_it_was():
    X, targets, _ = made()
    y = targets["squared_error"]
    order = np.random.default_rng(3).permutation(2 * X.nnz)
    coo = X.tocoo()
    row, col = np.tile(coo.row, 2)[order], np.tile(coo.col, 2)[order]
    data = np.concatenate([2.0 * coo.data, -coo.data])[order]
    by_row = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=300))])
    messy = sparse.csr_array(
        (data[by_row], col[by_row].astype(np.int32), indptr.astype(np.int32)), shape=X.shape
    )
    before = messy.data.copy(), messy.indices.copy(), messy.indptr.copy()
    for loss in LOSSES:
        close(agd.fit(messy, targets[loss], loss=loss), agd.fit(X, targets[loss], loss=loss))
    for old, new in zip(before, (messy.data, messy.indices, messy.indptr), strict=True):
        np.testing.assert_array_equal(old, new)
    assert agd.fit(messy, y).predict(messy) == pytest.approx(agd.fit(X, y).predict(X))


def test_empty_rows_empty_columns_and_zeros_that_are_stored():
    X, targets, _ = made()
    dense = X.toarray()
    dense[40:200], dense[:, 2] = 0.0, 0.0
    holed = sparse.csr_array(dense)
    stored = sparse.csr_array((holed.data.copy(), holed.indices, holed.indptr), shape=holed.shape)
    stored.data[::7] = 0.0
    for A in (holed, stored):
        for loss in LOSSES:
            found, want = both(A, targets[loss], loss=loss, penalty=L2(0.1))
            close(found, want)
            assert abs(found.coef[2]) < 1e-12


def test_read_only_data_are_not_written_to():
    X, targets, _ = made()
    for part in (X.data, X.indices, X.indptr):
        part.setflags(write=False)
    for loss in LOSSES:
        agd.fit(X, targets[loss], loss=loss, penalty=L1(0.01))


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
@pytest.mark.parametrize("penalty", [L2(0.1), L1(0.02)], ids=str)
def test_more_columns_than_moments_are_taken_of(loss, penalty):
    X, targets, _ = made(n=300, p=2300, density=0.01, seed=4)
    # Of 300 rows some of the coefficients are all but free: only a small gradient settles them.
    found, want = both(X, targets[loss], loss=loss, penalty=penalty, stop=Stop(9000, grad_tol=1e-9))
    assert found.success
    smooth = "conjugate gradients" if loss == "squared_error" else "L-BFGS"
    assert penalty.smooth == (smooth in found.method)
    assert np.isclose(found.fun, want.fun, rtol=1e-10)
    close(found, want, 1e-4)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_few_entries_in_many_columns_are_scaled_and_not_whitened(loss):
    X, targets, weight = made(n=400, p=500, density=0.002)
    more = {"sample_weight": weight, "penalty": L2(0.1), "stop": Stop(500, grad_tol=1e-8)}
    found, want = both(X, targets[loss], loss=loss, **more)
    assert "whitened" not in found.method
    close(found, want, 1e-5)
    bad = X.copy()
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match="X has 1 NaN or infinite value"):
        agd.fit(bad, targets[loss], loss=loss, penalty=L2(0.1))


@pytest.mark.parametrize("start", ["result", "pair", "coef"])
def test_first_points(start):
    X, targets, _ = made()
    first = agd.fit(X, targets["log_loss"], loss="log_loss", penalty=L2(0.1))
    init = {"result": first, "pair": (first.coef, first.intercept), "coef": first.coef}[start]
    found = agd.fit(X, targets["log_loss"], loss="log_loss", penalty=L2(0.1), init=init)
    close(found, first)
    assert found.nit <= first.nit + 2 * (start == "coef")


def test_callbacks():
    X, targets, _ = made()
    seen = []
    agd.fit(X, targets["log_loss"], loss="log_loss", callback=lambda r: seen.append(r.fun))
    assert seen[0] > seen[-1]


@pytest.mark.parametrize("method", ["gd", "nesterov"])
def test_closed_form_and_path(method):
    X, targets, weight = made()
    X, y = X[:, :-1], targets["squared_error"]
    found, want = both(X, y, method=method, sample_weight=weight)
    assert "closed form" in want.method
    close(found, want, 1e-9)
    one = agd.path(X, y, epochs=[1, 10, 1000], method=method)
    other = agd.path(X.toarray(), y, epochs=[1, 10, 1000], method=method)
    np.testing.assert_allclose(one.coef, other.coef, rtol=1e-9)
    np.testing.assert_allclose(one.value, other.value, rtol=1e-9)


def test_predictions_take_sparse_rows():
    X, targets, _ = made()
    found = agd.fit(X, targets["log_loss"], loss="log_loss", penalty=L2(0.1))
    for rows in (X, X.tocsc(), X.tocoo(), sparse.csr_matrix(X), X.astype(np.float32)):
        for name in ("predict", "decision_function", "predict_proba"):
            ask = getattr(found, name)
            np.testing.assert_allclose(ask(rows), ask(rows.toarray()), rtol=1e-5)
    with pytest.raises(ValueError, match="X must have 8 columns"):
        found.predict(X[:, :3])


def test_values_that_are_not_finite_are_found_where_they_are():
    X, targets, _ = made(n=40_000)
    for loss in LOSSES:
        bad = X.copy()
        bad[39_000, 7] = np.nan
        bad[30_123, 7] = np.inf
        with pytest.raises(ValueError, match=r"2 NaN or infinite .*30123, 7"):
            agd.fit(bad.tocsc(), targets[loss], loss=loss)


def test_what_is_refused():
    X, targets, weight = made()
    y = targets["squared_error"]
    with pytest.raises(TypeError, match=r"y is sparse \(csr_array\): pass y.toarray\(\)"):
        agd.fit(X, sparse.csr_array(y[:, None]))
    with pytest.raises(TypeError, match=r"sample_weight is sparse \(coo_array\)"):
        agd.fit(X, y, sample_weight=sparse.coo_array(weight))
    with pytest.raises(TypeError, match="X must be real, got dtype complex128"):
        agd.fit(X.astype(complex), y)
    with pytest.raises(ValueError, match=r"y must have shape \(300,\)"):
        agd.fit(X, y[:-1])
    with pytest.raises(
        ValueError, match=r"a sparse X must have rows and columns, .* got shape \(300,\)"
    ):
        agd.fit(sparse.coo_array(y), y)
    with pytest.raises(ValueError, match="at least one row"):
        agd.fit(X[:0], y[:0])

    class Sparse:  # of a library that has no way to SciPy's
        todense = None

    with pytest.raises(TypeError, match=r"X is sparse \(Sparse\): pass X.toarray\(\)"):
        agd.fit(Sparse(), y)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("weights", [False, True])
def test_dependent_columns_are_said_and_get_the_shortest_answer(loss, weights):
    X, targets, weight = made()
    twice = sparse.csr_array(sparse.hstack([X, X[:, :1]]))
    more = {"sample_weight": weight} if weights else {}
    with pytest.warns(np.exceptions.RankWarning, match="their rank is 9 of 10"):
        found = agd.fit(twice, targets[loss], loss=Huber(1.0) if loss == "huber" else loss, **more)
    want = agd.fit(X, targets[loss], loss=Huber(1.0) if loss == "huber" else loss, **more)
    np.testing.assert_allclose(found.coef[[0, 8]], want.coef[0] / 2.0, rtol=1e-7)
    np.testing.assert_allclose(found.coef[1:8], want.coef[1:], rtol=1e-7)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-7, 1e-9])
def test_badly_conditioned_columns_are_right_to_what_their_condition_lets(delta):
    X, _, _ = made(n=3000, seed=5)
    close_by = X[:, :1] + delta * X[:, 1:2]  # so that u = b (x_0 + delta x_1)
    X = sparse.csr_array(sparse.hstack([X[:, :1], close_by, X[:, 2:]]))
    w = np.random.default_rng(6).normal(size=8)
    found = agd.fit(X, X @ w + 3.0)
    np.testing.assert_allclose(found.coef, w, atol=1e-14 / delta + 1e-12)
    assert found.success
    assert found.certificate.condition > 0.1 / delta**2
    assert delta > 1e-5 or "condition number" in found.message


def test_the_answer_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, targets, weight = made()
    y, labels, n = targets["squared_error"], targets["log_loss"], 300
    ridge = linear_model.Ridge(alpha=0.1 * n, solver="sparse_cg", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(agd.fit(X, y, penalty=L2(0.1)).coef, ridge.coef_, rtol=1e-5)
    peer = linear_model.LogisticRegression(C=1.0 / (0.1 * weight.sum()), tol=1e-10, max_iter=5000)
    want = peer.fit(X, labels, sample_weight=weight)
    found = agd.fit(X, labels, loss="log_loss", penalty=L2(0.1), sample_weight=weight)
    np.testing.assert_allclose(found.coef, want.coef_[0], rtol=1e-4)
    lasso = linear_model.Lasso(0.05, tol=1e-12, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(agd.fit(X, y, penalty=L1(0.05)).coef, lasso.coef_, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_a_fit_takes_no_memory_to_speak_of(loss, format):
    n, p = 1_000_000, 1_000
    rng = np.random.default_rng(0)
    cols = np.sort(rng.integers(0, p, size=n).astype(np.int32))
    X = sparse.csr_array(
        (np.ones(n), rng.permutation(cols), np.arange(n + 1, dtype=np.int32)), shape=(n, p)
    )
    X = X.asformat(format)
    y = (rng.uniform(size=n) < 0.4) * 1.0
    tracemalloc.start()
    try:
        found = agd.fit(X, y, loss=loss, penalty=L2(1e-3), stop=Stop(100, grad_tol=1e-6))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.success
    assert peak < 250 * 2**20  # dense X takes 8,000 MB, and the (p, p) moments 8 each


def test_threads_change_no_bit(monkeypatch):
    X, targets, _ = made(n=100_000)
    found = []
    for threads in ("1", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        blocks = Blocks.of(X, targets["log_loss"], rows=5_000)
        objective = LinearObjective(blocks, agd.loss.Logistic())
        found.append(objective.value_and_grad(objective.zeros()))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1].coef, found[1][1].coef)


def test_import_does_not_load_scipy():
    code = "import sys, numpy, agd; agd.fit(numpy.eye(3), [1., 2., 4.]); sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


# -- each operation, against the dense one --------------------------------------------------------


def operations(X, w, r, weight):
    """Return what every operation on X makes."""
    n = X.shape[0]
    objective = LinearObjective.of(X, r, sample_weight=weight)
    scaling = column_scaling(objective)
    bare = column_scaling(LinearObjective.of(X, r, sample_weight=weight, intercept=False))
    moments = Moments.from_blocks(objective.blocks)
    few = np.arange(0, n, 2)
    return {
        "forward": matrix.forward(X, w),
        "several": matrix.forward(X, np.stack([w, 2.0 * w, w - 1.0])),
        "batches": matrix.forward(X, np.ones((2, 2, 1)) * w),
        "backward": matrix.backward(X, r),
        "backwards": matrix.backward(X, np.stack([r, r + 1.0])),
        "sums": matrix.column_sums(X),
        "peaks": matrix.max_abs_columns(X),
        "gram": matrix.gram_matrix(X),
        "lengths": matrix.squared_row_norms(X, w, w * w + 0.5),
        "plain lengths": matrix.squared_row_norms(X, None, None),
        "rows": matrix.forward(matrix.slice_rows(X, 1, n), w),
        "every third": matrix.forward(matrix.slice_rows(X, None, None, 3), w),
        "taken": matrix.forward(matrix.gather_rows(X, few), w),
        "weighted": matrix.forward(matrix.scale_rows(X, r), w),
        "squares": matrix.column_sums(matrix.map_entries(X, lambda x: x * x)),
        "shift": scaling.mean, "scale": scaling.inv_std, "bare": bare.inv_std,
        "mean": moments.mean, "G": moments.G, "c": moments.c, "yy": moments.yy,
        "curvature": batch_curvature(objective, 1),
        "part": objective.take_rows(few).value_and_grad(objective.zeros())[0],
    }  # fmt: skip


def test_every_operation_is_the_dense_one():
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies

    @hypothesis.given(
        n=strategies.integers(2, 40),
        p=strategies.integers(1, 9),
        density=strategies.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0]),
        weights=strategies.booleans(),
        seed=strategies.integers(0, 10_000),
    )
    def check(n, p, density, weights, seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, p)) * (rng.uniform(size=(n, p)) < density)
        X[:, 0] += 5.0 * (seed % 2)  # a full column
        w, r = rng.normal(size=p), rng.normal(size=n)
        weight = rng.integers(0, 3, size=n) + 0.0 if weights else None
        if weight is not None:
            weight[0] = 1.0
        wanted = operations(X, w, r, weight)
        for name, value in operations(sparse.csr_array(X), w, r, weight).items():
            assert not sparse.issparse(value), name
            np.testing.assert_allclose(value, wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)

    check()


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_blocks_of_any_size_give_one_answer(rows):
    X, targets, weight = made()
    y = targets["squared_error"]
    whole = Moments.from_blocks(Blocks.of(X.toarray(), y, weight))
    blocks = Blocks.of(X, y, weight, rows=rows)
    assert len(blocks.cut()) == -(-300 // rows)
    found = Moments.from_blocks(blocks)
    np.testing.assert_allclose(found.G, whole.G, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12, atol=1e-12)
    assert np.shares_memory(blocks.cut()[0][0].data, X.data)
    joined = Moments.from_blocks(Blocks.of(X[:100], y[:100])) + Moments.from_blocks(
        Blocks.of(X.toarray()[100:], y[100:])
    )
    np.testing.assert_allclose(
        joined.G, Moments.from_blocks(Blocks.of(X, y)).G, rtol=1e-10, atol=1e-10
    )


def test_the_row_of_a_sparse_library():
    X, _, _ = made()
    row = backends.of(X)
    assert row.name == "scipy.sparse"
    assert row.sparse
    assert backends.is_sparse(X)
    assert not backends.is_array(X)
    assert backends.namespace(X) is backends.namespace(X.data)
    assert backends.device(X) == backends.device(X.data)
    assert row.resident(X).shape == (0,)
    assert not backends.is_sparse(X.data)
    with pytest.raises(TypeError, match="never made dense"):
        backends.to_numpy(X)
    assert agd.fit(X, np.ones(300)).status is Status.CONVERGED
