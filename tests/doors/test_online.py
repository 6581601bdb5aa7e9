"""A model that is brought up to date with batches of rows, and keeps none of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd

ROWS, STEP = 1200, 200


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 3)) * np.asarray([1.0, 10.0, 0.1]) + np.asarray([0.0, 50.0, 1.0])
    z = (X - X.mean(axis=0)) / X.std(axis=0) @ np.asarray([0.5, -0.3, 0.8])
    return X, z, rng.uniform(0.1, 1.0, size=ROWS), rng


def _targets(loss, z, rng):
    if loss == "log_loss":
        return np.where(rng.uniform(size=ROWS) < 1.0 / (1.0 + np.exp(-z)), 2.0, -1.0)
    return rng.poisson(np.exp(z)) * 1.0 if loss == "poisson" else z + rng.normal(size=ROWS)


def _updated(model, *arrays, step=STEP):
    for i in range(0, ROWS, step):
        model = model.partial_fit(*(a[i : min(i + step, ROWS), ...] for a in arrays))
    return model


@pytest.mark.parametrize("penalty", [None, agd.loss.L2(0.1), agd.loss.L1(0.05)], ids=str)
@pytest.mark.parametrize("options", [{}, {"intercept": False}], ids=str)
def test_squares_lose_nothing(xp, data, penalty, options):
    if xp.name == "dask":
        pytest.skip("a batch is an array in memory")
    slow = options and penalty is not None and not penalty.smooth
    if xp.name != "numpy" and (slow or (xp.name.startswith("jax") and penalty != agd.loss.L2(0.1))):
        pytest.skip("operation by operation it takes many steps here: once is enough")
    X, z, weight, rng = data
    y = _targets("squared_error", z, rng)
    model = _updated(agd.Online(penalty=penalty, **options), *map(xp.asarray, (X, y, weight)))
    known = agd.fit(X, y, sample_weight=weight, penalty=penalty, **options)
    near = 3e-3 if xp.rtol > 1e-6 else 1e-8
    assert np.allclose(xp.to_numpy(model.coef), known.coef, rtol=near, atol=near)
    assert model.coef.dtype == xp.dtype
    if options:
        assert model.intercept is None
    else:
        assert np.allclose(xp.to_numpy(model.intercept), known.intercept, rtol=10 * near)


def test_the_order_of_batches_changes_rounding_only(data):
    X, z, _, rng = data
    y = _targets("squared_error", z, rng)
    back = slice(None, None, -1)
    one, other = _updated(agd.Online(), X, y), _updated(agd.Online(), X[back], y[back])
    assert np.allclose(one.coef, other.coef, rtol=1e-10)


@pytest.mark.parametrize("penalty", [None, agd.loss.L2(0.01), agd.loss.L1(0.01)], ids=str)
@pytest.mark.parametrize("loss", ["huber", "log_loss", "poisson"])
def test_other_losses_are_a_tenth_of_a_standard_error_from_a_fit(data, loss, penalty):
    X, z, _, rng = data
    y = _targets(loss, z, rng)
    model = _updated(agd.Online(loss, penalty=penalty), X, y)
    known = agd.fit(X, y, loss=loss, penalty=penalty)
    # A coefficient of a column of spread 1 has a standard error of at least 1/sqrt(n) here.
    error = np.abs(model.coef - known.coef) * X.std(axis=0) * ROWS**0.5
    assert error.max() < 0.3
    once = agd.Online(loss, penalty=penalty).partial_fit(X, y)
    assert np.allclose(once.coef, known.coef, rtol=1e-5, atol=1e-8)


def test_it_is_nearer_than_stochastic_descent(data):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, z, _, rng = data
    X, y = (X - X.mean(axis=0)) / X.std(axis=0), _targets("log_loss", z, rng)
    known = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L2(0.01))
    peer = linear_model.SGDClassifier(loss="log_loss", alpha=0.01, random_state=0)
    for i in range(0, ROWS, STEP):
        peer.partial_fit(X[i : i + STEP], y[i : i + STEP], classes=[-1.0, 2.0])
    model = _updated(agd.Online("log_loss", penalty=agd.loss.L2(0.01)), X, y)
    mine, theirs = (np.abs(coef - known.coef).max() for coef in (model.coef, peer.coef_[0]))
    assert mine < 0.2 * theirs


def test_several_targets_are_as_alone(data):
    X, z, _, rng = data
    Y = np.stack([_targets("huber", z, rng) for _ in range(2)], axis=-1)
    together = _updated(agd.Online("huber"), X, Y)
    for k in range(2):
        alone = _updated(agd.Online("huber"), X, Y[:, k])
        assert np.allclose(together.coef[k], alone.coef, rtol=1e-6)


def test_classes_may_come_one_at_a_time():
    model = agd.Online("log_loss", penalty=agd.loss.L2(0.1), classes=(3, 5))
    model.partial_fit([[0.0], [1.0]], [3, 3]).partial_fit([[4.0], [5.0]], [5, 5])
    assert model.predict(np.asarray([[-1.0], [6.0]])).tolist() == [3.0, 5.0]
    assert np.allclose(model.predict_proba(np.asarray([[2.0]])).sum(), 1.0)


def test_small_batches_reach_the_neighbourhood(data):
    X, z, _, rng = data
    y = _targets("log_loss", z, rng)
    with warnings.catch_warnings():  # a few rows may be separated
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        model = _updated(
            agd.Online("log_loss", penalty=agd.loss.L2(0.01), classes=(-1.0, 2.0)), X, y, step=10
        )
    known = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L2(0.01))
    assert (np.abs(model.coef - known.coef) * X.std(axis=0)).max() < 0.2


def test_single_rows_converge(data):
    X, z, _, rng = data
    y = _targets("huber", z, rng)
    model = agd.Online("huber").partial_fit(X[:20], y[:20])
    for i in range(20, 80):
        model.partial_fit(X[i : i + 1], y[i : i + 1])
        assert model.result.success
    known = agd.fit(X[:80], y[:80], loss="huber")
    assert np.abs((model.coef - known.coef) * X.std(axis=0)).max() < 0.05


def test_rows_at_which_the_model_so_far_overflows():
    X = np.asarray([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    model = agd.Online("poisson").partial_fit(X, np.asarray([1.0, 2.0, 2.0, 5.0, 6.0, 11.0]))
    model.partial_fit(np.asarray([[0.0], [9000.0]]), np.asarray([1.0, 2.0]))
    assert model.result.success
    assert np.isfinite(model.partial_fit(X, np.ones(6)).coef).all()


@pytest.mark.parametrize("factor", [1e170, 1e300])
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_columns_that_overflow_leave_the_model_as_it_was(factor, loss):
    model = agd.Online(loss, penalty=agd.loss.L2(0.1)).partial_fit(X2, Y2)
    before = model.coef
    with pytest.raises(ValueError, match=r"whose squares can be summed in float64"):
        model.partial_fit(X2 * factor, Y2)
    assert (model.coef == before).all()
    assert model.partial_fit(X2, Y2).result.success


X2, Y2 = np.asarray([[1.0, 2.0], [2.0, 0.0], [3.0, 1.0]]), np.asarray([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (X2[:, :1], Y2, "targets and columns of the rows before"),
        (X2.astype("f4"), Y2, "dtype of the rows before, float64, got float32"),
        (X2 * np.nan, Y2, "X has 6 NaN"),
        (X2, np.stack([Y2, Y2], -1), "targets and columns of the rows before"),
    ],
)
def test_a_batch_that_does_not_fit_leaves_the_model_as_it_was(X, y, words):
    model = agd.Online(penalty=agd.loss.L2(0.1)).partial_fit(X2, Y2)
    before = model.coef
    with pytest.raises(ValueError, match=words):
        model.partial_fit(X, y)
    assert (model.coef == before).all()
    assert "rows of weight 3 seen" in repr(model)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: agd.Online("hubr"), ValueError, "huber"),
        (lambda: agd.Online(classes=(0, 1)), ValueError, "classes must be None for loss"),
        (lambda: agd.Online("log_loss", classes=(1, 0)), ValueError, "the lower first"),
        (lambda: agd.Online("log_loss", classes=3), ValueError, "classes must be two numbers"),
        (lambda: agd.Online(intercept=None), TypeError, "intercept"),
        (lambda: agd.Online(penalty=0.1), TypeError, "penalty must be an object"),
        (lambda: agd.Online(penalty=agd.loss.L2), TypeError, "penalty must be an object"),
        (lambda: agd.Online(penalty=agd.loss.NuclearNorm(1.0)), ValueError, "couples the coef"),
        (lambda: agd.Online().coef, AttributeError, "has seen no rows yet"),
        (
            lambda: agd.Online("log_loss", classes=(0, 1)).partial_fit(X2, [0, 1, 2]),
            ValueError,
            r"y must have the classes 0.0 and 1.0, got 2.0",
        ),
        (lambda: agd.Online().partial_fit(agd.Stream([(X2, Y2)]), None), TypeError, "in memory"),
    ],
)
def test_faults_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("intercept", [True, False])
def test_columns_that_are_dependent_are_said(xp, intercept):
    if xp.name == "dask":
        pytest.skip("a batch is an array in memory")
    X = np.random.default_rng(3).normal(size=(60, 4)) + 1.0
    y = X[:, 0] + np.random.default_rng(4).normal(size=60)
    X[:, 3] = X[:, 0] - 2.0 * X[:, 1]
    model = agd.Online(intercept=intercept)
    rank = rf"rank is {3 + intercept} of {4 + intercept}"
    for part in (slice(0, 20), slice(20, 60)):
        with pytest.warns(np.exceptions.RankWarning, match=rank):
            model.partial_fit(xp.asarray(X[part]), xp.asarray(y[part]))
    agd.Online(penalty=agd.loss.L2(0.1), intercept=intercept).partial_fit(X, y)
    agd.Online(intercept=intercept).partial_fit(X[:, :3], y)
    agd.Online(intercept=intercept).partial_fit(X[:4], y[:4])  # more rows may tell


def test_columns_that_are_constant_are_dependent_on_the_intercept():
    X = np.random.default_rng(3).normal(size=(30, 2)) + np.asarray([5.0, 0.0])
    X[:, 1] = 7.0
    with pytest.warns(np.exceptions.RankWarning, match="rank is 2 of 3"):
        agd.Online().partial_fit(X, X[:, 0])
    agd.Online(intercept=False).partial_fit(X, X[:, 0])


def test_columns_so_small_that_their_squares_are_lost():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3)) + 1.0
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=90)
    size = np.asarray([1.0, 1e-170, 1e-300])
    model = agd.Online()
    for i in range(0, 90, 30):
        model.partial_fit(X[i : i + 30] * size, y[i : i + 30])
    want = agd.fit(X, y)
    np.testing.assert_allclose(model.coef * size, want.coef, rtol=1e-7)
    np.testing.assert_allclose(model.predict(X * size), want.predict(X), rtol=1e-7)
    np.testing.assert_allclose(agd.fit(X * size, y).coef * size, model.coef * size, rtol=1e-6)


# -- rows in an order that hides the minimum --------------------------------------------------------


def _in_order(y, descending=False):
    order = np.argsort(-y if descending else y, kind="stable")
    return np.array_split(order, 5)


@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("loss", ["log_loss", "poisson"])
def test_sorted_targets_give_the_fit_of_all_rows(data, loss, descending):
    X, z, _, rng = data
    y = _targets(loss, z, rng)
    classes = (-1.0, 2.0) if loss == "log_loss" else None
    model = agd.Online(loss, classes=classes)
    for rows in _in_order(y, descending):
        model.partial_fit(X[rows], y[rows])
    known = agd.fit(X, y, loss=loss)
    assert model.result.success
    np.testing.assert_allclose(model.coef, known.coef, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.intercept, known.intercept, rtol=1e-6)


def test_rows_beyond_the_newest_are_within_a_standard_error():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(9000, 2))
    y = np.append(np.zeros(3000), rng.poisson(np.exp(0.5 + X[3000:] @ [0.4, -0.2])))
    model = agd.Online("poisson")
    with pytest.warns(
        agd.ConvergenceWarning, match="best constant model of the rows so far is inf"
    ):
        model.partial_fit(X[:3000], y[:3000])
    for start in range(3000, 9000, 1000):
        model.partial_fit(X[start : start + 1000], y[start : start + 1000])
    known = agd.fit(X, y, loss="poisson")
    # The information of a column of spread 1 is about the sum of the means.
    assert (np.abs(model.coef - known.coef) * y.sum() ** 0.5 < 1.0).all()


def test_separated_classes_are_named():
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = (X[:, 0] > 0.0) * 1.0
    model = agd.Online("log_loss")
    for rows in np.array_split(np.arange(200), 4):
        with pytest.warns(agd.ConvergenceWarning, match="the classes are perfectly separated"):
            model.partial_fit(X[rows], y[rows])
    far = np.asarray([[-4.0, 0.0], [4.0, 0.0]])
    assert "no minimum exists" in model.result.message
    model.partial_fit(far, np.asarray([1.0, 0.0]))  # each is of the other class
    assert "no minimum exists" not in model.result.message


@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "log_loss", "poisson"])
def test_columns_far_from_zero_are_fitted_without_a_word(loss, offset):
    rng = np.random.default_rng(1)
    X = rng.integers(-200, 200, size=(400, 2)) / 64.0
    z = X @ [0.5, -0.3]
    targets = {
        "log_loss": (z + rng.logistic(size=400) > 0.0) * 1.0,
        "poisson": rng.poisson(np.exp(z)),
    }
    y = targets.get(loss, z + rng.normal(size=400)) * 1.0
    model = agd.Online(loss)
    for rows in np.array_split(np.arange(400), 4):
        model.partial_fit(X[rows] + offset, y[rows])
        assert model.result.success
    known = agd.fit(X, y, loss=loss)
    np.testing.assert_allclose(model.coef, known.coef, rtol=1e-7, atol=1e-9)
    far = X[:5] + offset
    np.testing.assert_allclose(model.predict(far), known.predict(X[:5]), atol=1e-6)


def test_small_coefficients_beside_large_ones_have_their_digits():
    x = np.arange(21.0)
    X = np.stack([x**k for k in range(1, 6)], axis=-1)  # as of Wampler's first problem
    y = 1.0 + X.sum(axis=-1)
    once = agd.Online().partial_fit(X, y)
    np.testing.assert_allclose(once.coef, 1.0, rtol=1e-7)


def test_digits_that_the_sums_of_squares_lose_are_said():
    x = np.linspace(1.0, 20.0, 40)
    X = np.stack([x**k for k in range(1, 9)], axis=-1)
    with pytest.warns(np.exceptions.RankWarning, match="leave 4 digits of the coefficients or so"):
        agd.Online().partial_fit(X, X.sum(axis=-1))
