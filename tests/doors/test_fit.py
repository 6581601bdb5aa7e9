"""`agd.fit`: the right answer on every library, by every method, for every loss."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd import Status, Stop, update
from agd.loss import L2, Huber


def made(seed=0, n=60):
    """Return rows of unequal scale and offset, targets for each loss, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 1.0]
    z = X @ [1.0, 0.2, 3.0] - 4.0
    targets = {
        "squared_error": z + rng.normal(size=n),
        "huber": z + rng.standard_t(1, size=n),
        "log_loss": (z + rng.logistic(size=n) > 0) * 1.0,
        "poisson": rng.poisson(np.exp(0.3 * z)) * 1.0,
    }
    return X, targets, rng.uniform(0.5, 2.0, size=n)


def optimum(X, y, weight, loss, alpha):
    """Solve by Newton's method (for huber by reweighting) on the formulas, in NumPy."""
    loss, Z, theta = agd.loss.get(loss), np.column_stack([X, np.ones(len(y))]), np.zeros(4)
    s, D, h = weight / weight.sum(), np.diag([alpha] * 3 + [0.0]), 1e-6
    mean = np.average(y, weights=weight)
    theta[-1] = loss.link(mean)
    for _ in range(500):
        z = Z @ theta
        curvature = (loss.slope(z + h, y) - loss.slope(z - h, y)) / (2 * h)
        if loss.name == "huber":
            curvature = loss.slope(z, y) / (z - y)
        g = Z.T @ (s * loss.slope(z, y)) + D @ theta
        theta = theta - np.linalg.solve(Z.T @ ((s * curvature)[:, None] * Z) + D, g)
    assert np.abs(g).max() < 1e-9
    return theta


LOSSES = pytest.mark.parametrize("loss", list(made()[1]))


@LOSSES
def test_the_known_answer_on_every_library(loss, xp):
    X, targets, weight = made()
    y = targets[loss]
    found = agd.fit(
        xp.asarray(X), xp.asarray(y), loss=loss, penalty=L2(0.1), sample_weight=xp.asarray(weight)
    )
    want = optimum(X, y, weight, loss, 0.1)
    rtol = 1e-3 if "float32" in str(xp.dtype) else 1e-8
    np.testing.assert_allclose(xp.to_numpy(found.coef), want[:3], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(xp.to_numpy(found.intercept), want[3], rtol=rtol, atol=rtol)
    assert found.status is Status.CONVERGED
    assert found.success
    assert str(found.coef.dtype) == str(xp.dtype)
    if xp.name != "dask":  # its answer is in memory, where its chunks are
        assert agd.backends.device(found.coef) == agd.backends.device(xp.asarray(X))
        assert agd.backends.of(found.coef) is agd.backends.of(xp.asarray(X))


@LOSSES
@pytest.mark.parametrize("method", ["gd", "auto"])
def test_a_few_steps_are_the_same_on_every_library(loss, method, xp):
    X, targets, _ = made()
    stop = Stop(max_iter=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        want = agd.fit(X, targets[loss], loss=loss, method=method, stop=stop)
        found = agd.fit(
            xp.asarray(X), xp.asarray(targets[loss]), loss=loss, method=method, stop=stop
        )
    rtol = 2e-2 if "float32" in str(xp.dtype) else 1e-8
    np.testing.assert_allclose(xp.to_numpy(found.coef), want.coef, rtol=rtol, atol=rtol)
    assert found.fun == pytest.approx(want.fun, rel=rtol)


@pytest.mark.parametrize(
    ("method", "max_iter"),
    [
        (update.gradient_descent(0.5), 400),
        ("gd", 400),
        ("momentum", 400),
        ("nesterov", 400),
        (update.momentum("auto", 0.5), 400),
        (update.adagrad(0.5), 4000),
        (update.rmsprop(update.exponential(0.05, 0.995)), 4000),
        (update.adam(update.cosine(0.1, 2000)), 2500),
        (update.adamw(update.cosine(0.1, 2000), weight_decay=0.0), 2500),
        (update.Accelerated(), 400),
        (update.Accelerated(momentum=False), 400),
        (update.Accelerated(rescaled=False, backtracking=True), 400),
    ],
    ids=str,
)
def test_every_method_gets_there(method, max_iter):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, -2.0, 0.5] + 3.0 + 0.1 * rng.normal(size=200)
    want = np.linalg.lstsq(np.column_stack([X, np.ones(200)]), y, rcond=None)[0]
    found = agd.fit(X, y, method=method, stop=Stop(max_iter=max_iter, grad_tol=1e-5))
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose([*found.coef, found.intercept], want, atol=1e-4)


def test_gd_is_the_articles_descent():
    X, targets, _ = made()
    y, lr = targets["squared_error"], 1e-3
    w, b = np.zeros(3), 0.0
    for _ in range(50):
        error = X @ w + b - y
        w, b = w - lr * X.T @ error / len(y), b - lr * error.mean()
    with pytest.warns(agd.ConvergenceWarning, match="raise max_iter"):
        found = agd.fit(X, y, method=update.gradient_descent(lr), stop=Stop(max_iter=50))
    np.testing.assert_allclose(found.coef, w, rtol=1e-12)
    assert found.intercept == pytest.approx(b, rel=1e-12)
    assert (found.nit, found.nfev, found.status) == (50, 2, Status.MAX_ITER)  # passes over the data
    assert found.method == "gradient_descent(learning_rate=0.001) (closed form)"


def test_auto_learning_rate_is_one_over_L():
    X, targets, _ = made()
    Z = np.column_stack([X, np.ones(60)])
    L = np.linalg.eigvalsh(Z.T @ Z / 60)[-1]
    with pytest.warns(agd.ConvergenceWarning):
        found = agd.fit(X, targets["log_loss"], loss="log_loss", method="gd", stop=Stop(max_iter=1))
    assert found.certificate.curvature == pytest.approx(0.25 * L, rel=1e-9)
    assert found.certificate.largest_step == pytest.approx(8.0 / L, rel=1e-9)
    slope = agd.loss.Logistic().slope(np.zeros(60), targets["log_loss"])
    np.testing.assert_allclose(found.coef, -4.0 / L * X.T @ slope / 60, rtol=1e-8)


def test_without_intercept(xp):
    X, targets, _ = made()
    y = targets["squared_error"]
    found = agd.fit(xp.asarray(X), xp.asarray(y), intercept=False)
    want = np.linalg.lstsq(X, y, rcond=None)[0]
    assert found.intercept is None
    rtol = 1e-2 if "float32" in str(xp.dtype) else 1e-7
    np.testing.assert_allclose(xp.to_numpy(found.coef), want, rtol=rtol, atol=rtol)


def test_many_problems_at_once_are_as_one_by_one(xp):
    if xp.name == "dask":
        pytest.skip("a chunked X is one problem")
    X, _, _ = made()
    rng = np.random.default_rng(5)
    Y = np.stack([X @ rng.normal(size=3) + s * rng.normal(size=60) for s in (0.0, 1.0, 100.0)])
    rtol = 1e-2 if "float32" in str(xp.dtype) else 1e-8
    shared = agd.fit(xp.asarray(X), xp.asarray(Y.T))
    batch = agd.fit(xp.asarray(np.stack([X, X, X])), xp.asarray(Y))
    assert tuple(shared.coef.shape) == tuple(batch.coef.shape) == (3, 3)
    for i in range(3):
        alone = agd.fit(xp.asarray(X), xp.asarray(Y[i]))
        for found in (shared, batch):
            assert found.status[i] == Status.CONVERGED
            assert found.nit[i] == alone.nit
            got = xp.to_numpy(found.coef)[i]
            np.testing.assert_allclose(got, xp.to_numpy(alone.coef), rtol=rtol, atol=rtol)
    prediction = xp.to_numpy(shared.predict(xp.asarray(X)))
    assert prediction.shape == Y.T.shape


def test_a_problem_that_diverges_leaves_the_others_alone():
    X, targets, _ = made()
    Xs = np.stack([X * 1e-3, X])
    Y = np.stack([targets["squared_error"]] * 2)
    with pytest.warns(agd.ConvergenceWarning, match="1 of 2 diverged"):
        found = agd.fit(Xs, Y, method=update.gradient_descent(1.0), stop=Stop(max_iter=2000))
    assert found.status.tolist() == [Status.MAX_ITER, Status.DIVERGED]
    Z = np.column_stack([X, np.ones(60)])
    largest = 2.0 / np.linalg.eigvalsh(Z.T @ Z / 60)[-1]
    assert f"2/L = {largest:.6g} is the largest stable step" in found.message
    assert found.certificate.largest_step[1] == pytest.approx(largest, rel=1e-6)
    assert np.isfinite(found.coef).all()
    with pytest.warns(agd.ConvergenceWarning):
        alone = agd.fit(Xs[0], Y[0], method=update.gradient_descent(1.0), stop=Stop(max_iter=2000))
    np.testing.assert_allclose(found.coef[0], alone.coef, rtol=1e-10)


def test_labels_of_any_two_numbers(xp):
    X, targets, _ = made()
    y = targets["log_loss"]
    plain = agd.fit(xp.asarray(X), xp.asarray(y), loss="log_loss", penalty=L2(0.1))
    for low, high in ((-1, 1), (1, 2), (False, True)):
        labels = np.where(y > 0, high, low)
        found = agd.fit(xp.asarray(X), xp.asarray(labels), loss="log_loss", penalty=L2(0.1))
        np.testing.assert_array_equal(xp.to_numpy(found.coef), xp.to_numpy(plain.coef))
        assert found.classes == (low, high)
        predicted = xp.to_numpy(found.predict(xp.asarray(X)))
        assert set(predicted.tolist()) == {low, high}
        assert (predicted == labels).mean() > 0.6
        proba = xp.to_numpy(found.predict_proba(xp.asarray(X)))
        np.testing.assert_allclose(proba.sum(axis=-1), 1.0, rtol=1e-6)
        np.testing.assert_array_equal(proba[:, 1] > 0.5, predicted == high)


@pytest.mark.parametrize("kind", [list, np.asarray, lambda y: np.asarray(y, dtype=object)])
def test_labels_may_be_text(kind, xp):
    X, targets, _ = made()
    y = targets["log_loss"]
    labels = kind(["yes" if label else "no" for label in y])
    known = agd.fit(xp.asarray(X), xp.asarray(y), loss="log_loss", penalty=L2(0.1))
    found = agd.fit(xp.asarray(X), labels, loss="log_loss", penalty=L2(0.1))
    np.testing.assert_array_equal(xp.to_numpy(found.coef), xp.to_numpy(known.coef))
    assert found.classes == ("no", "yes")
    predicted = found.predict(xp.asarray(X))
    second = xp.to_numpy(known.predict(xp.asarray(X))) == 1.0
    np.testing.assert_array_equal(predicted, np.where(second, "yes", "no"))


def test_regressions_have_no_probabilities():
    X, targets, _ = made()
    with pytest.raises(AttributeError, match="'squared_error' has no classes"):
        agd.fit(X, targets["squared_error"]).predict_proba(X)


def test_inputs_are_never_modified(xp):
    X, targets, weight = made()
    arrays = [xp.asarray(v) for v in (X, targets["poisson"], weight)]
    copies = [xp.to_numpy(a) for a in arrays]
    agd.fit(arrays[0], arrays[1], sample_weight=arrays[2], loss="poisson")
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(array), copy)


@LOSSES
def test_the_same_call_gives_the_same_bits(loss, xp):
    X, targets, _ = made()
    runs = [agd.fit(xp.asarray(X), xp.asarray(targets[loss]), loss=loss) for _ in range(2)]
    np.testing.assert_array_equal(*(xp.to_numpy(r.coef) for r in runs))
    assert runs[0].fun == runs[1].fun


def test_host_data_beside_a_device_array_is_moved(xp):
    X, targets, weight = made()
    y = targets["squared_error"]
    found = agd.fit(xp.asarray(X), y, sample_weight=weight.tolist())
    both = agd.fit(xp.asarray(X), xp.asarray(y), sample_weight=xp.asarray(weight))
    np.testing.assert_array_equal(xp.to_numpy(found.coef), xp.to_numpy(both.coef))


def test_a_warm_start_begins_where_it_is_told():
    X, targets, _ = made()
    y = targets["squared_error"]
    first, cold = agd.fit(X, y), agd.fit(X, y, method="accelerated")
    for init in (first, (first.coef, first.intercept), first.x):
        again = agd.fit(X, y, method="accelerated", init=init)
        assert again.nit <= 10 < cold.nit
        np.testing.assert_allclose(again.coef, first.coef, rtol=1e-9)
    assert agd.fit(X, y, init=first.coef, method="gd", stop=Stop(1, grad_tol=1e9)).nit == 0


def test_huber_takes_its_parameter():
    X, targets, _ = made()
    near, far = (agd.fit(X, targets["huber"], loss=Huber(d)) for d in (0.1, 1e6))
    np.testing.assert_allclose(far.coef, agd.fit(X, targets["huber"]).coef, rtol=1e-8)
    assert np.abs(near.coef - far.coef).max() > 1e-2


@pytest.mark.parametrize("name", ["diabetes", "breast_cancer"])
def test_real_data_against_scikit_learn(name):
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn import linear_model as peers

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":
        pairs = [
            (agd.fit(X, y), peers.LinearRegression()),
            (agd.fit(X, y, penalty=L2(1e-3)), peers.Ridge(1e-3 * len(y), solver="cholesky")),
            (
                agd.fit(X, y, loss="poisson", penalty=L2(1e-3)),
                peers.PoissonRegressor(alpha=1e-3, solver="newton-cholesky", tol=1e-12),
            ),
        ]
    else:
        pairs = [
            (
                agd.fit(X, y, loss="log_loss", penalty=L2(a)),
                peers.LogisticRegression(
                    C=1 / (a * len(y)), solver="newton-cholesky", tol=1e-12, max_iter=1000
                ),
            )
            for a in (1e-3, 1e-1)
        ]
    for found, peer in pairs:
        assert found.success
        peer.fit(X, y)
        np.testing.assert_allclose(found.coef, np.ravel(peer.coef_), rtol=1e-6)
        np.testing.assert_allclose(found.intercept, np.ravel(peer.intercept_)[0], rtol=1e-6)


@pytest.mark.backend("jax")
def test_a_jax_fit_compiles_once():
    jax = pytest.importorskip("jax")
    from agd.run.compiled_step import _advance

    jax.config.update("jax_enable_x64", True)
    X, targets, _ = made()
    compiled = agd.backends.of(jax.numpy.ones(1)).compile(_advance)
    agd.fit(jax.numpy.asarray(X), targets["squared_error"])
    size = compiled._cache_size()
    agd.fit(jax.numpy.asarray(X + 1.0), targets["huber"])  # other data, the same step
    assert compiled._cache_size() == size


@pytest.mark.backend("jax")
def test_a_step_that_cannot_be_compiled_says_so():
    import jax

    jax.config.update("jax_enable_x64", True)
    X, targets, _ = made()
    own = type("Own", (agd.loss.Squared,), {"__hash__": None})()  # a constant has to be hashed
    found, plain = (
        agd.fit(jax.numpy.asarray(X), targets["squared_error"], loss=loss, method="accelerated")
        for loss in (own, "squared_error")
    )
    assert found.method == f"{plain.method}, not compiled"
    np.testing.assert_allclose(found.coef, plain.coef, rtol=1e-10)


@pytest.mark.backend("dask")
def test_dask_rows_of_unknown_number():
    import dask.array as da

    X, targets, weight = made()
    lazy = [da.from_array(a, chunks=(20, *a.shape[1:])) for a in (X, targets["log_loss"], weight)]
    keep = lazy[0][:, 1] > 3.0
    Xk, yk, wk = (a[keep] for a in lazy)
    assert np.isnan(Xk.shape[0])
    found = agd.fit(Xk, yk, loss="log_loss", sample_weight=wk, penalty=L2(0.1))
    rows = X[:, 1] > 3.0
    want = agd.fit(
        X[rows],
        targets["log_loss"][rows],
        loss="log_loss",
        sample_weight=weight[rows],
        penalty=L2(0.1),
    )
    # By L-BFGS here and by Newton's method there, each to its tolerance beside the largest coefficient.
    np.testing.assert_allclose(found.coef, want.coef, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="row chunks of unknown size"):
        agd.fit(Xk, targets["log_loss"][rows], loss="log_loss")


@pytest.mark.backend("dask")
def test_dask_columns_in_chunks_and_rows_cut_unlike():
    import dask.array as da

    X, targets, _ = made()
    y = targets["squared_error"]
    found = agd.fit(da.from_array(X, chunks=(25, 2)), da.from_array(y, chunks=17))
    np.testing.assert_allclose(found.coef, agd.fit(X, y).coef, rtol=1e-9)
