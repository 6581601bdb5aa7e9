"""Bad input: one clear error that names the argument, what came, and what was needed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd.loss import L2

X = np.arange(12.0).reshape(6, 2) ** 1.5
Y = np.asarray([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])


def changed(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (X[:, 0], Y, r"X must have rows and columns, shape \(n, p\), got shape \(6,\)"),
        (np.float64(3.0), Y, r"X must have rows and columns.*got shape \(\)"),
        (X, Y[:5], r"y must have shape \(6,\).*got shape \(5,\)"),
        (X[None], Y, r"y must have shape \(1, 6\)"),
        (X[None][:0], Y[None][:0], r"at least one problem.*got shape \(0, 6, 2\)"),
        (X[:0], Y[:0], r"X must have at least one row, got shape \(0, 2\)"),
        (X[:, :0], Y, r"X must have at least one column, got shape \(6, 0\)"),
        (X, Y.reshape(3, 2), r"y must have shape \(6,\) or \(n, k\)"),
        (None, Y, "X is missing: got None"),
        (X, None, "y is missing: got None"),
        (X.astype(complex), Y, "X must be real, got dtype complex128"),
        (X, Y.astype(complex), "y must be real, got dtype complex128"),
        (X.astype(str), Y, "X must be numbers, got dtype <U"),
        (np.asarray([[1.0, "a"]] * 6, dtype=object), Y, "X must be numbers, got dtype object"),
        ("X", Y, "X must be an array of numbers, got str"),
        ({"a": [1.0]}, Y, "X must be an array of numbers, got dict"),
        ([[10**400, 1]], [1.0], r"X has 1 NaN or infinite value, the first at X\[0, 0\] = inf"),
        ([[1.0, 2.0], [3.0]], [1.0, 2.0], "X must be rectangular"),
        (np.ma.masked_array(X), Y, "X is a masked array"),
        (
            changed(X, (4, 1), np.nan),
            Y,
            r"X has 1 NaN or infinite value, the first at X\[4, 1\] = nan",
        ),
        (
            changed(X, (slice(2, 5), 0), np.inf),
            Y,
            r"X has 3 NaN or infinite values.*X\[2, 0\] = inf",
        ),
        (X, changed(Y, 3, -np.inf), r"y has 1 NaN or infinite value, the first at y\[3\] = -inf"),
        (X, [np.datetime64("2020-01-01")] * 6, "y must be numbers, got dtype datetime64"),
    ],
    ids=str,
)
def test_data(X, y, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        agd.fit(X, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"sample_weight must have shape \(6,\).*got \(3,\)"),
        (np.ones((6, 2)), r"sample_weight must have shape \(6,\)"),
        (np.zeros(6), "sample_weight must have a positive sum, got only zeros"),
        (changed(np.ones(6), 2, -1.0), r"1 negative value, the first at sample_weight\[2\] = -1.0"),
        (changed(np.ones(6), 5, np.nan), r"sample_weight has 1 NaN.*sample_weight\[5\] = nan"),
        (["a"] * 6, "sample_weight must be numbers"),
    ],
)
def test_weights(weight, message):
    with pytest.raises((ValueError, TypeError), match=message):
        agd.fit(X, Y, sample_weight=weight)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("log_loss", np.ones(6), "y must have two classes for loss 'log_loss', got one: 1.0"),
        (
            "log_loss",
            [0, 1, 2, 0, 1, 2],
            r"y has 2 values of a third class beside 0.0 and 2.0 .*the first at y\[1\] = 1.0",
        ),
        ("log_loss", np.linspace(0, 1, 6), "a third class"),
        ("huber", ["a", "b"] * 3, "y must be numbers"),
        ("log_loss", [b"a", b"b"] * 3, "y must be numbers"),
        (
            "poisson",
            changed(Y, 4, -2.0),
            r"y has 1 value out of range \(loss 'poisson' needs 0 or more\), .* y\[4\] = -2.0",
        ),
    ],
)
def test_targets_outside_the_losss_domain(loss, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        agd.fit(X, y, loss=loss)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss": "squared"}, "loss must be one of .*got 'squared'; did you mean 'squared_error'"),
        ({"method": "adma"}, "method must be one of .*did you mean 'adam'"),
        ({"method": 3}, "method must be a name, a rule such as"),
        ({"method": "momentum", "loss": "poisson"}, "needs a learning rate with loss 'poisson'"),
        ({"penalty": 0.1}, "penalty must be an object such as agd.loss.L2"),
        ({"penalty": L2}, "penalty must be an object such as agd.loss.L2"),
        (
            {"stop": 100},
            r"stop must be an agd.Stop, such as agd.Stop\(max_iter=100\), or a criterion.*got 100",
        ),
        ({"init": np.ones(3)}, r"init's coef must have shape \(2,\), got \(3,\)"),
        ({"init": (np.ones(2), np.ones(2))}, r"init's intercept must have shape \(\), got \(2,\)"),
        ({"init": (1.0, 2.0, 3.0)}, r"init must be coef or \(coef, intercept\), got a tuple of 3"),
        ({"init": [1.0, np.nan]}, r"init's coef has 1 NaN or infinite value.*coef\[1\] = nan"),
        (
            {"init": (np.ones(2), np.inf)},
            "init's intercept has 1 NaN.*first at init's intercept = inf",
        ),
        ({"init": "zeros"}, "init's coef must be an array of numbers, got str"),
        ({"intercept": "no"}, r"intercept must be True or False, got 'no' \(str\)"),
        ({"intercept": 1}, r"intercept must be True or False, got 1 \(int\)"),
        ({"intercept": None}, "intercept must be True or False, got None"),
        (
            {"callback": 3},
            r"callback must be a function of the result so far, or None, got 3 \(int\)",
        ),
    ],
    ids=str,
)
def test_options(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        agd.fit(X, Y, **kwargs)


def test_prediction_checks_its_rows(xp):
    found = agd.fit(xp.asarray(X), xp.asarray(Y))
    with pytest.raises(ValueError, match=r"X must have 2 columns.*got shape \(6, 1\)"):
        found.predict(xp.asarray(X[:, :1]))
    with pytest.raises(ValueError, match="X must have 2 columns"):
        found.predict(xp.asarray(X[0]))
    with pytest.raises(ValueError, match="X is missing: got None"):
        found.predict(None)


def test_prediction_for_a_batch_takes_rows_for_all_or_for_each():
    found = agd.fit(np.stack([X, X + X**2]), np.stack([Y, Y]))
    assert found.predict(X).shape == found.predict(np.stack([X, X])).shape == (2, 6)
    with pytest.raises(
        ValueError, match=r"shape \(n, 2\), or \(2, n, 2\) with rows .*got shape \(3, 6"
    ):
        found.predict(np.stack([X, X, X]))


def test_values_are_found_on_every_library(xp):
    bad = changed(X, (4, 1), np.nan)
    with pytest.raises(ValueError, match=r"X has 1 NaN or infinite value, the first at X\[4, 1\]"):
        agd.fit(xp.asarray(bad), xp.asarray(Y))
    with pytest.raises(ValueError, match=r"the first at y\[5\] = -1.0"):
        agd.fit(xp.asarray(X), xp.asarray(changed(Y, 5, -1.0)), loss="poisson")
    with pytest.raises(ValueError, match=r"sample_weight\[3\] = -1.0"):
        agd.fit(xp.asarray(X), xp.asarray(Y), sample_weight=xp.asarray(changed(Y, 3, -1.0)))


def test_a_batch_names_the_problem_and_the_row():
    bad = np.stack([X, changed(X, (4, 1), np.inf)])
    with pytest.raises(ValueError, match=r"the first at X\[1, 4, 1\] = inf"):
        agd.fit(bad, np.stack([Y, Y]))


def test_what_overflows_the_dtype_is_no_silent_infinity():
    with pytest.raises(ValueError, match=r"y has 1 value too large for float32.*at y\[0\]"):
        agd.fit(X.astype(np.float32), changed(Y, 0, 1e200))


def test_half_precision_is_widened_and_integers_become_floats():
    for dtype in (np.float16, np.int8, np.uint64, bool):
        found = agd.fit((X > 3).astype(dtype), Y, penalty=L2(0.1))
        assert found.coef.dtype == np.float64
    assert agd.fit(X.astype(np.float32), Y).coef.dtype == np.float32


def test_lists_tables_views_and_negative_strides():
    want = agd.fit(X, Y).coef
    table = type("Table", (), {"__array__": lambda self, dtype=None, copy=None: X})()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(X)
    for same in (X.tolist(), table, matrix, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(agd.fit(same, Y.tolist()).coef, want, rtol=1e-10)
    np.testing.assert_allclose(agd.fit(X[::-1], Y[::-1]).coef, want, rtol=1e-9)


def test_sparse_is_refused_where_it_is_not_x():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"y is sparse \(csr_array\): pass y.toarray\(\)"):
        agd.fit(X, sparse.csr_array([Y]))


@pytest.mark.backend("torch")
def test_arrays_of_two_libraries():
    import torch

    with pytest.raises(TypeError, match="y is a torch array and X a numpy array"):
        agd.fit(X, torch.asarray(Y))
    found = agd.fit(torch.asarray(X), torch.asarray(Y))
    assert agd.backends.of(found.predict(X)).name == "torch"  # host rows are moved, once
    with pytest.raises(TypeError, match="X is a torch array and coef a numpy array"):
        agd.fit(X, Y).predict(torch.asarray(X))
    with pytest.raises(TypeError, match=r"X is sparse \(torch.sparse_coo\): pass X.to_dense\(\)"):
        agd.fit(torch.asarray(X).to_sparse(), torch.asarray(Y))
    with pytest.raises(ValueError, match="init's coef has 1 value too large for float32"):
        agd.fit(torch.asarray(X, dtype=torch.float32), Y, init=[1e200, 0.0])
    tracked = torch.asarray(X).requires_grad_()
    with pytest.raises(TypeError, match=r"X requires grad.*X.detach\(\)"):
        agd.fit(tracked, torch.asarray(Y))


@pytest.mark.backend("strict")
def test_arrays_on_two_devices():
    import array_api_strict as strict

    devices = [strict.Device(name) for name in ("CPU_DEVICE", "device1")]
    with pytest.raises(ValueError, match=r"y is on device .*device1.* and X on .*CPU_DEVICE"):
        agd.fit(strict.asarray(X, device=devices[0]), strict.asarray(Y, device=devices[1]))


@pytest.mark.backend("dask")
def test_chunks_of_which_a_filter_leaves_nothing():
    import dask.array as da

    keep = np.asarray([0, 0, 1, 1, 1, 1]) > 0
    lazy, target, weight = (da.from_array(a, chunks=2) for a in (X, Y, np.arange(6.0)))
    mask = da.from_array(keep, chunks=2)
    some = {"loss": "log_loss", "penalty": L2(1.0)}
    found = agd.fit(lazy[mask], target[mask], sample_weight=weight[mask], **some)
    want = agd.fit(X[keep], Y[keep], sample_weight=np.arange(6.0)[keep], **some)
    np.testing.assert_allclose(found.coef, want.coef, rtol=1e-8)
    none = da.zeros(6, chunks=2) > 0.0
    with pytest.raises(ValueError, match="X must have at least one row, got chunks without any"):
        agd.fit(lazy[none], target[none])
    other = da.from_array(np.roll(keep, 1), chunks=2)
    with pytest.raises(ValueError, match="y must be cut as X is, got a chunk of 1 beside one of"):
        agd.fit(lazy[mask], target[other])


@pytest.mark.backend("dask")
def test_chunks_that_do_not_fit():
    import dask.array as da

    lazy, target = da.from_array(X, chunks=3), da.from_array(Y, chunks=3)
    with pytest.raises(ValueError, match=r"y must have shape \(6,\).*got \(3,\)"):
        agd.fit(lazy, target[:3])
    with pytest.raises(ValueError, match=r"y must have shape \(6,\).*got \(3,\)"):
        agd.fit(lazy, Y[:3])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(6,\).*got \(3,\)"):
        agd.fit(lazy, target, sample_weight=target[:3])
    cut = agd.fit(lazy, target.rechunk(2), sample_weight=da.ones(6, chunks=5), penalty=L2(0.1))
    np.testing.assert_allclose(cut.coef, agd.fit(X, Y, penalty=L2(0.1)).coef, rtol=1e-9)
    with pytest.raises(ValueError, match="beside a chunked X"):
        agd.fit(lazy, target[:, None])
    some = lazy[target > -1.0]
    with pytest.raises(ValueError, match="they must be cut alike"):
        agd.fit(some, target.rechunk(6)[da.ones(6, chunks=6) > 0.0])
