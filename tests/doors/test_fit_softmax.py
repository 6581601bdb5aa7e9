"""`agd.fit` with the softmax loss: the right answer on every library and for all kinds of data."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, Box, ElasticNet, GroupL1, NonNegative, Softmax

K = 3
TIGHT = agd.Stop(grad_tol=1e-10)


def made(seed=0, n=90):
    """Return rows of unequal scale and offset, their classes 0 to 2, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    z = X @ rng.normal(size=(4, K)) + [0.0, 0.5, -0.5]
    y = np.argmax(z + rng.gumbel(size=z.shape), axis=-1) * 1.0
    return X * [1.0, 10.0, 0.1, 2.0] + [0.0, 5.0, 1.0, -1.0], y, rng.uniform(0.5, 2.0, size=n)


def gradient(X, y, weight, coef, intercept):
    """Return the gradient of the mean loss by the formula."""
    z = X @ coef.T + intercept
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    slope = (weight / weight.sum())[:, None] * (p - np.eye(len(coef))[y.astype(int)])
    return slope.T @ X, slope.sum(axis=0)


def assert_optimal(found, X, y, weight, alpha, share=0.0, tol=1e-8):
    """Hold coef and intercept to the conditions of a minimum, with a penalty of L1 and L2."""
    g, g0 = gradient(X, y, weight, found.coef, found.intercept)
    g, size = g + alpha * (1.0 - share) * found.coef, np.abs(X).max(axis=0)
    off = np.where(
        found.coef == 0.0,
        np.maximum(np.abs(g) - alpha * share, 0.0),
        g + alpha * share * np.sign(found.coef),
    )
    assert np.abs(off / size).max() < tol
    assert np.abs(g0).max() < tol


@pytest.mark.parametrize("weighted", [False, True])
def test_the_answer_is_that_of_scikit_learn_on_every_library(xp, weighted):
    peer = pytest.importorskip("sklearn.linear_model")
    X, y, weight = made()
    s = weight if weighted else np.ones_like(y)
    alpha = 0.05
    known = peer.LogisticRegression(C=1.0 / (alpha * s.sum()), tol=1e-12, max_iter=100_000)
    known.fit(X / X.std(axis=0), y, sample_weight=s)
    scaled = xp.asarray(X / X.std(axis=0))
    more = {"sample_weight": xp.asarray(weight)} if weighted else {}
    found = agd.fit(scaled, xp.asarray(y), loss="softmax", penalty=L2(alpha), **more)
    atol = 2e-3 if xp.rtol > 1e-6 else 2e-5  # scikit-learn's own error
    np.testing.assert_allclose(xp.to_numpy(found.coef), known.coef_, atol=atol)
    np.testing.assert_allclose(xp.to_numpy(found.intercept), known.intercept_, atol=atol)
    assert found.success
    assert found.coef.dtype == xp.dtype
    assert found.classes == (0.0, 1.0, 2.0)
    assert found.loss == Softmax(3)
    proba = xp.to_numpy(found.predict_proba(scaled))
    np.testing.assert_allclose(proba, known.predict_proba(X / X.std(axis=0)), atol=atol)
    predicted = xp.to_numpy(found.predict(scaled))
    np.testing.assert_array_equal(predicted, np.argmax(proba, axis=1))
    assert tuple(found.decision_function(scaled).shape)[1:] == (K,)


@pytest.mark.parametrize("penalty", [None, L2(0.05), L1(0.02), ElasticNet(0.05, 0.5)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_zero_by_the_formula(penalty, weighted):
    X, y, weight = made()
    X = (X - [0.0, 5.0, 0.0, 0.0]) / [1.0, 10.0, 0.1, 2.0]
    more = {"sample_weight": weight} if weighted else {}
    found = agd.fit(X, y, loss="softmax", penalty=penalty, stop=TIGHT, **more)
    alpha = 0.0 if penalty is None else penalty.alpha
    share = {L1: 1.0, ElasticNet: 0.5}.get(type(penalty), 0.0)
    assert_optimal(found, X, y, weight if weighted else np.ones_like(y), alpha, share)
    assert found.success
    if share:
        assert 0 < (found.coef == 0.0).sum() < found.coef.size


def test_without_a_penalty_the_answer_is_the_shortest():
    X, y, _ = made()
    found = agd.fit(X, y, loss="softmax")
    assert_optimal(found, X, y, np.ones_like(y), 0.0, tol=1e-5)
    np.testing.assert_allclose(found.coef.sum(axis=0), 0.0, atol=1e-10)
    assert found.intercept.sum() == pytest.approx(0.0, abs=1e-8)
    moved = agd.fit(X, y, loss="softmax", init=(found.coef + 1.0, found.intercept + 2.0))
    np.testing.assert_allclose(moved.coef, found.coef, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(moved.intercept, found.intercept, rtol=1e-5, atol=1e-8)
    sparse = agd.fit(X, y, loss="softmax", penalty=L1(0.01))
    assert sparse.intercept.sum() == pytest.approx(0.0, abs=1e-8)
    bare = agd.fit(X, y, loss="softmax", intercept=False, penalty=L2(0.01))
    assert bare.intercept is None
    np.testing.assert_allclose(bare.coef.sum(axis=0), 0.0, atol=1e-8)


def test_two_classes_are_twice_the_logistic_model():
    X, y, _ = made()
    y = (y > 0.0) * 1.0
    found = agd.fit(X, y, loss="softmax", penalty=L2(0.1), stop=TIGHT)
    known = agd.fit(X, y, loss="log_loss", penalty=L2(0.05), stop=TIGHT)
    np.testing.assert_allclose(found.coef[1] - found.coef[0], known.coef, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.predict_proba(X), known.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("labels", [(-1, 0, 2), (0.1, 0.3, 7.7), (1, 2, 3), (10, 20, 1e6)])
def test_labels_of_any_numbers(labels, xp):
    X, y, _ = made()
    plain = agd.fit(xp.asarray(X), xp.asarray(y), loss="softmax", penalty=L2(0.1))
    target = xp.asarray(np.asarray(labels)[y.astype(int)])
    found = agd.fit(xp.asarray(X), target, loss="softmax", penalty=L2(0.1))
    np.testing.assert_array_equal(xp.to_numpy(found.coef), xp.to_numpy(plain.coef))
    np.testing.assert_allclose(found.classes, labels, rtol=1e-6)
    kind = type(np.asarray(labels)[0].item())
    assert all(type(label) is kind for label in found.classes)
    known = np.asarray(found.classes)[xp.to_numpy(plain.predict(xp.asarray(X))).astype(int)]
    np.testing.assert_array_equal(xp.to_numpy(found.predict(xp.asarray(X))), known)


def test_labels_of_text(xp):
    X, y, _ = made()
    names = np.asarray(["ash", "beech", "oak"])
    plain = agd.fit(xp.asarray(X), xp.asarray(y), loss="softmax", penalty=L2(0.1))
    found = agd.fit(xp.asarray(X), names[y.astype(int)].tolist(), loss="softmax", penalty=L2(0.1))
    np.testing.assert_array_equal(xp.to_numpy(found.coef), xp.to_numpy(plain.coef))
    assert found.classes == ("ash", "beech", "oak")
    number = xp.to_numpy(plain.predict(xp.asarray(X))).astype(int)
    np.testing.assert_array_equal(found.predict(xp.asarray(X)), names[number])


@pytest.mark.parametrize("penalty", [L2(0.05), L1(0.02)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_is_each_problem_alone(penalty, shared, xp):
    if xp.name == "dask":
        pytest.skip("a chunked X is one problem")
    X, y, _ = made()
    Y = np.stack([y, np.roll(y, 7), 2.0 - y])
    # A target beside a shared X is a column of y; a problem with rows of its own has them last.
    rows = X if shared else np.stack([X, 2.0 * X + 1.0, X[::-1]])
    target = Y.T if shared else Y
    found = agd.fit(xp.asarray(rows), xp.asarray(target), loss="softmax", penalty=penalty)
    assert tuple(found.coef.shape) == (3, K, 4)
    assert tuple(found.intercept.shape) == (3, K)
    assert found.success.all()
    proba = xp.to_numpy(found.predict_proba(xp.asarray(rows)))
    assert proba.shape == ((90, 3, K) if shared else (3, 90, K))  # the targets are columns of y
    proba = np.moveaxis(proba, 1, 0) if shared else proba
    rtol = 5e-3 if xp.rtol > 1e-6 else 1e-6
    for i in range(3):
        alone = agd.fit(rows if shared else rows[i], Y[i], loss="softmax", penalty=penalty)
        np.testing.assert_allclose(xp.to_numpy(found.coef)[i], alone.coef, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(
            proba[i], alone.predict_proba(rows if shared else rows[i]), atol=rtol
        )


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("penalty", [None, L2(0.05), L1(0.02), Box(-0.5, 0.5)], ids=str)
@pytest.mark.parametrize("kind", ["sparse", "stream", "memory map"])
def test_other_kinds_of_data_give_the_same(kind, penalty, tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, weight = made()
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    y = 3.0 - y  # labels 1 to 3, in another order
    known = agd.fit(X, y, loss="softmax", penalty=penalty, sample_weight=weight)
    if kind == "sparse":
        arguments = {"X": sparse.csr_array(X), "y": y, "sample_weight": weight}
    elif kind == "stream":
        cuts = [slice(0, 20), slice(20, 21), slice(21, 90)]
        arguments = {"X": agd.Stream([(X[c], y[c], weight[c]) for c in cuts])}
    else:
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        arguments = {"X": mapped, "y": y, "sample_weight": weight}
    found = agd.fit(**arguments, loss="softmax", penalty=penalty)
    np.testing.assert_allclose(found.coef, known.coef, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.intercept, known.intercept, rtol=1e-5, atol=1e-6)
    assert found.classes == known.classes == (1.0, 2.0, 3.0)
    assert found.fun == pytest.approx(known.fun, rel=1e-9)
    if kind != "stream":
        np.testing.assert_array_equal(found.predict(arguments["X"]), known.predict(X))


@pytest.mark.backend("dask")
@pytest.mark.parametrize("penalty", [L2(0.05), L1(0.02)], ids=str)
def test_dask_chunks_of_unknown_size(penalty):
    da = pytest.importorskip("dask.array")
    X, y, _ = made()
    lazy_X, lazy_y = da.from_array(X, chunks=(25, 4)), da.from_array(2.0 * y - 1.0, chunks=25)
    keep = lazy_X[:, 1] > 0.0
    found = agd.fit(lazy_X[keep], lazy_y[keep], loss="softmax", penalty=penalty)
    rows = X[:, 1] > 0.0
    known = agd.fit(X[rows], y[rows], loss="softmax", penalty=penalty)
    np.testing.assert_allclose(found.coef, known.coef, rtol=1e-5, atol=1e-6)
    assert found.classes == (-1.0, 1.0, 3.0)
    predicted = found.predict(lazy_X[keep]).compute()
    np.testing.assert_array_equal(predicted, 2.0 * known.predict(X[rows]) - 1.0)
    proba = found.predict_proba(lazy_X[keep]).compute()
    np.testing.assert_allclose(proba, known.predict_proba(X[rows]), atol=1e-5)


@pytest.mark.parametrize("method", ["gd", "lbfgs", "accelerated", "adam"])
def test_a_method_that_the_user_names(method):
    X, y, _ = made()
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    known = agd.fit(X, y, loss="softmax", penalty=L2(0.1))
    rule = agd.update.adam(0.05) if method == "adam" else method
    stop = agd.Stop(grad_tol=1e-6, max_iter=20_000)
    found = agd.fit(X, y, loss="softmax", penalty=L2(0.1), method=rule, stop=stop)
    assert found.success
    np.testing.assert_allclose(found.coef, known.coef, atol=1e-4)


@pytest.mark.parametrize(
    ("penalty", "solver"),
    [
        (L2(0.1), "newton_direct"),
        (L1(0.05), "proximal_gradient"),
        (GroupL1(0.05, (0, 0, 1, 1)), "proximal_gradient"),
        (NonNegative(), "proximal_gradient"),
    ],
    ids=str,
)
def test_the_solver_is_that_of_losses_with_several_outputs(penalty, solver):
    X, y, _ = made()
    found = agd.fit(X, y, loss="softmax", penalty=penalty)
    assert found.solver == solver
    assert found.success
    total = sum(float(penalty.value(row)) for row in found.coef)
    mean = -np.log(found.predict_proba(X)[np.arange(len(y)), y.astype(int)]).mean()
    assert found.fun == pytest.approx(mean + total, rel=1e-10)


def test_a_warm_start_begins_at_the_earlier_result():
    X, y, _ = made()
    first = agd.fit(X, y, loss="softmax", penalty=L2(0.1))
    again = agd.fit(X, y, loss="softmax", penalty=L2(0.1), init=first)
    assert again.nit <= 1
    with pytest.raises(ValueError, match=r"init's coef must have shape \(3, 4\), got \(4,\)"):
        agd.fit(X, y, loss="softmax", init=np.zeros(4))


def test_classes_that_planes_separate_are_said_to_be():
    X = np.asarray([[0.0], [1.0], [5.0], [6.0], [10.0], [11.0]])
    with pytest.warns(agd.ConvergenceWarning, match="the classes are perfectly separated"):
        agd.fit(X, [0, 0, 1, 1, 2, 2], loss="softmax")


def is_separated(X, y):
    """Return whether some direction lowers no row's margin over any class and raises one, by a linear program."""
    optimize = pytest.importorskip("scipy.optimize")
    margins = []
    for row, label in zip(np.column_stack([X, np.ones(len(y))]), y.astype(int), strict=True):
        for other in set(range(K)) - {label}:
            margin = np.zeros((K, len(row)))
            margin[label], margin[other] = row, -row
            margins.append(margin.ravel())
    A = np.asarray(margins)
    limits = np.concatenate([np.zeros(len(A)), np.ones(len(A))])
    best = optimize.linprog(-A.sum(axis=0), np.vstack([-A, A]), limits, bounds=(None, None))
    return -best.fun > 1e-7


@pytest.mark.backend("numpy")
@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(16))
def test_a_fit_without_a_minimum_is_said_to_have_none(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 120))
    X = rng.normal(size=(n, 2))
    y = np.argmax(X @ rng.normal(size=(2, K)) + rng.gumbel(size=(n, K)), axis=1) * 1.0
    y[:K] = np.arange(K)
    if (
        seed % 2
    ):  # a column that is 1 in rows of one class alone, but for one row where seed % 4 is 3
        X = np.column_stack([X, (y == seed % K) * (rng.random(n) < 0.4)])
        X[seed % K, 2] = 1.0
        X[(seed + 1) % K, 2] = 1.0 if seed % 4 == 3 else 0.0
    weight = np.append(rng.uniform(0.5, 2.0, size=n), [0.0] * n)
    doubled = np.vstack([X, X[::-1]]), np.append(y, y)  # rows of weight 0 say nothing
    for found in (
        agd.fit(X, y, loss="softmax"),
        agd.fit(*doubled, loss="softmax", sample_weight=weight),
    ):
        endless = "the coefficients grow without bound" in found.message
        assert endless == is_separated(X, y)


@pytest.mark.parametrize(
    ("y", "loss", "words"),
    [
        (
            np.ones(90),
            "softmax",
            "y must have two classes or more for loss 'softmax', got one: 1.0",
        ),
        (np.arange(90.0) % 3, Softmax(4), r"y must have 4 classes for loss Softmax\(classes=4\)"),
        (np.where(np.arange(90) == 5, math.nan, 1.0), "softmax", r"y has 1 NaN .*y\[5\] = nan"),
    ],
)
def test_targets_that_are_no_classes_are_refused(y, loss, words):
    with pytest.raises(ValueError, match=words):
        agd.fit(made()[0], y, loss=loss)


def test_a_number_that_is_no_label_is_refused():
    X = np.random.default_rng(0).normal(size=(2000, 2))
    with pytest.raises(ValueError, match="y must have at most 1,000 classes for loss 'softmax'"):
        agd.fit(X, X[:, 0], loss="softmax")
    with pytest.raises(ValueError, match="loss must have one output for Online"):
        agd.Online("softmax")


def test_an_evaluation_is_one_read(xp):
    X, y, _ = made()
    found = agd.fit(xp.asarray(X), xp.asarray(y), loss="softmax", penalty=L2(0.1))
    # Beside them the labels, the condition of the columns, and the length of the last gradient.
    assert found.n_sync <= found.nfev + 4
