"""Data in batches, read anew for each pass."""

from __future__ import annotations

import warnings
import weakref

import numpy as np
import pytest

import agd

ROWS, STEP = 700, 150
SPENT = iter([1])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 4)) * np.asarray([1.0, 3.0, 0.1, 10.0]) + 1.0
    y = X @ np.asarray([1.0, -0.3, 2.0, 0.05]) + 1.0 + rng.normal(size=ROWS)
    return X, y, rng.uniform(0.1, 1.0, size=ROWS)


def _targets(loss, y):
    return {"log_loss": np.where(y > 2.0, 3.0, -1.0), "poisson": np.abs(y).round()}.get(loss, y)


def _stream(*arrays, step=STEP):
    cuts = [(i, min(i + step, ROWS)) for i in range(0, ROWS, step)]
    return agd.Stream(lambda: (tuple(a[i:j, ...] for a in arrays) for i, j in cuts))


CASES = [
    {},
    {"intercept": False},
    {"penalty": agd.loss.L2(0.1)},
    {"penalty": agd.loss.L1(0.1)},
    {"penalty": agd.loss.NonNegative()},
    {"loss": "huber"},
    {"loss": "huber", "penalty": agd.loss.L1(0.01)},
    {"loss": "log_loss", "penalty": agd.loss.L2(1e-3)},
    {"loss": "poisson"},
    {"method": "gd", "stop": agd.Stop(50, grad_tol=0.0)},
    {"method": "adam", "stop": agd.Stop(50, grad_tol=0.0)},
]


@pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_stream_gives_what_its_rows_in_memory_give(xp, data, options, weighted):
    if xp.name == "dask":
        pytest.skip("a batch is an array in memory")
    if xp.name.startswith("jax") and options and not weighted:
        pytest.skip("each case is compiled, which takes seconds: that with weights has all of it")
    X, y, weight = data
    y = _targets(options.get("loss"), y)
    arrays = [xp.asarray(a) for a in ((X, y, weight) if weighted else (X, y))]
    found = agd.fit(_stream(*arrays), **options)
    known = agd.fit(X, y, sample_weight=weight if weighted else None, **options)
    single = xp.rtol > 1e-6
    near = {"rtol": 2e-3, "atol": 2e-3} if single else {"rtol": 1e-6, "atol": 1e-7}
    assert np.allclose(xp.to_numpy(found.coef), known.coef, **near)
    assert found.coef.dtype == xp.dtype
    assert found.classes == known.classes
    assert found.n_passes >= 2


def test_squares_need_one_pass_and_one_more_to_refine(data):
    X, y, weight = data
    assert agd.fit(_stream(X, y)).n_passes == agd.fit(_stream(X, y, weight)).n_passes == 2


def test_a_stream_says_what_it_gives(data):
    stream = _stream(*data)
    assert repr(stream) == "Stream(4 columns, numpy, float64, rows not yet counted)"
    agd.fit(stream)
    assert repr(stream) == "Stream(4 columns, numpy, float64, 700 rows)"


def test_passes_are_counted(data):
    X, y, _ = data
    begun = []

    def batches():
        begun.append(1)
        yield X, y

    stream = agd.Stream(batches)
    looked = len(begun)
    found = agd.fit(stream, loss="huber")
    assert found.n_passes == len(begun) - looked


def test_several_targets(data):
    X, y, _ = data
    Y = np.stack([y, -y, y * y], axis=-1)
    assert np.allclose(agd.fit(_stream(X, Y)).coef, agd.fit(X, Y).coef, rtol=1e-9)


def test_the_size_of_batches_changes_rounding_only(data):
    X, y, _ = data
    one, other = (agd.fit(_stream(X, y, step=step), loss="huber").coef for step in (1, ROWS))
    assert np.allclose(one, other, rtol=1e-6)
    again = agd.fit(_stream(X, y, step=1), loss="huber").coef
    assert (one == again).all()


def test_badly_conditioned_columns_are_factored_batch_by_batch(data):
    X, y, _ = data
    X = np.stack([X[:, 0], X[:, 0] + 1e-8 * X[:, 1]], axis=-1)
    y = X @ np.asarray([1.0, 1.0])
    found = agd.fit(_stream(X, y))
    assert np.allclose(found.coef, 1.0, rtol=1e-6)
    assert "condition number" in found.message


def test_lists_are_batches_too():
    stream = agd.Stream([([[1.0], [2.0]], [5.5, 6.0]), ([], []), ([[3], [4]], [6.5, 7.0])])
    assert np.allclose(agd.fit(stream).coef, 0.5)


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        (iter([]), TypeError, "more than once, got an iterator"),
        (3, TypeError, "batches must be an iterable or a function, got int"),
        (lambda: None, TypeError, r"batches\(\) must return an iterable of \(X, y\), got NoneType"),
        (
            lambda: SPENT,
            TypeError,
            "a new iterator each time, got the same list_iterator",
        ),
        ([(None, np.ones(3))], ValueError, "batch 0: X is missing"),
        ([(1.0, np.ones(3))], ValueError, "batch 0: X must have rows and columns"),
        ([(np.ones((0, 2)), np.ones(3))], ValueError, "batch 0: X must have at least one row"),
        ([], ValueError, "at least one row, got none"),
        ([(np.ones((0, 2)), np.ones(0))], ValueError, "at least one row, got none"),
        ([np.ones((3, 2))], TypeError, r"batch 0 must be \(X, y\)"),
        ([(np.ones((3, 2)), np.ones(4))], ValueError, "batch 0: y must have shape"),
        ([(np.ones((1, 3, 2)), np.ones((1, 3)))], ValueError, r"batch 0: X must .* shape \(n, p\)"),
    ],
)
def test_what_is_no_stream_is_refused_at_once(batches, error, words):
    with pytest.raises(error, match=words):
        agd.Stream(batches)


X2, Y2, ONES = (
    np.asarray([[1.0, 2.0], [2.0, 0.0], [3.0, 1.0]]),
    np.asarray([1.0, 2.0, 4.0]),
    np.ones(3),
)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            (X2[:, :1], Y2),
            "batch 1: X must have the number of columns of the first batch, 2, got 1",
        ),
        (
            (X2.astype("f4"), Y2),
            "batch 1: X must have the dtype of the first batch, float64, got fl",
        ),
        ((X2, Y2, ONES), "batch 1 has weights"),
        ((X2, np.stack([Y2, Y2], -1)), "batch 1: y must have the targets of the first batch"),
        ((X2 * [1.0, np.nan], Y2), r"X .*NaN.*X\[3, 1\]"),
        ((X2, Y2 * np.inf), r"y .*infinite.*y\[3\]"),
    ],
)
def test_batches_that_do_not_fit_are_named(second, words):
    with pytest.raises(ValueError, match=words):
        agd.fit(agd.Stream([(X2, Y2), second]))


def test_batches_that_change_between_passes_are_refused():
    seen = []

    def batches():
        seen.append(1)
        for _ in range(len(seen)):
            yield X2, Y2

    with pytest.raises(ValueError, match="the same on every pass, got 6 rows on one and 9"):
        agd.fit(agd.Stream(batches))


def test_batches_that_are_spent_are_said_to_be():
    left = [[(X2, Y2)], [(X2, Y2)]]
    stream = agd.Stream(lambda: left.pop() if left else [])
    with pytest.raises(ValueError, match="the same on every pass, got none on this one"):
        agd.fit(stream)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_batch_is_let_go_before_the_next_is_made(data, options):
    X, y, weight = data
    y = _targets(options.get("loss"), y)
    held = []

    def batches():
        last = ()
        for i in range(0, ROWS, STEP):
            held.extend(part for part in last if part() is not None)
            now = tuple(a[i : i + STEP].copy() for a in (X, y, weight))
            last = tuple(map(weakref.ref, now))
            yield now
            del now

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        agd.fit(agd.Stream(batches), **options)
    assert held == []


def test_a_stream_is_no_place_for_arrays():
    stream = agd.Stream([(X2, Y2)])
    with pytest.raises(ValueError, match="y comes with the batches"):
        agd.fit(stream, Y2)
    with pytest.raises(ValueError, match="sample_weight comes with the batches"):
        agd.fit(stream, sample_weight=ONES)
    with pytest.raises(TypeError, match="X must be an array here, got a stream"):
        agd.fit(X2, Y2).predict(stream)
    with pytest.raises(ValueError, match=r"a stream's in batches"):
        agd.fit(stream, method="sgd")
    with pytest.raises(ValueError, match="y is missing"):
        agd.fit(X2)


def test_the_path_of_a_stream(data):
    X, y, _ = data
    found, known = agd.path(_stream(X, y), epochs=[1, 100]), agd.path(X, y, epochs=[1, 100])
    assert np.allclose(found.coef, known.coef, rtol=1e-9)
    with pytest.raises(ValueError, match="y is missing"):
        agd.path(X, epochs=[1])


def test_an_objective_of_a_stream(data):
    X, y, weight = data
    params = agd.gradient.LinearObjective.of(X, y).zeros()
    for arrays in ((X, y), (X, y, weight)):
        whole = agd.gradient.LinearObjective.of(
            *arrays[:2], sample_weight=weight if len(arrays) > 2 else None
        )
        parts = agd.gradient.LinearObjective.of(_stream(*arrays), None)
        want, found = whole.value_and_grad(params), parts.value_and_grad(params)
        np.testing.assert_allclose(found[0], want[0], rtol=1e-12)
        np.testing.assert_allclose(found[1].coef, want[1].coef, rtol=1e-12)
    with pytest.raises(ValueError, match="y comes with the batches of a stream"):
        agd.gradient.LinearObjective.of(_stream(X, y), y)
    with pytest.raises(ValueError, match="y is missing"):
        agd.gradient.LinearObjective.of(X, None)
