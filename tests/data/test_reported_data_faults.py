"""Faults that users of libraries like this one have reported, by their kind: what comes in, and what must come out.

A test is a kind of fault, its cases are the forms in which it comes. Each says the right value, or the error
that names what it got.
"""

from __future__ import annotations

import datetime as dt
import math
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import agd

ROWS = np.random.default_rng(0).normal(size=(20, 2))


# -- predictions have the shape of the targets ------------------------------------------------------


def targets_of(kind: str, k: int) -> np.ndarray:
    """Return k columns of targets, each with a constant of its own."""
    rng = np.random.default_rng(k)
    z = ROWS @ rng.normal(size=(2, k)) + np.arange(float(k))
    if kind == "squared_error":
        return z
    noisy = (z - z.mean(axis=0) + 2.0 * rng.normal(size=z.shape) > 0.0).astype(float)
    return noisy + (noisy * (rng.random(z.shape) < 0.5) if kind == "softmax" else 0.0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["squared_error", "log_loss", "softmax"])
def test_predictions_of_several_targets_have_the_shape_of_y(xp, kind, k):
    if xp.name == "dask":
        pytest.skip("a chunked X has one target")
    Y = targets_of(kind, k)
    X, penalty = xp.asarray(ROWS), agd.loss.L2(0.1)
    found = agd.fit(X, xp.asarray(Y), loss=kind, penalty=penalty)
    predicted = found.predict(X)
    assert tuple(predicted.shape) == Y.shape
    alone = agd.fit(X, xp.asarray(Y[:, -1]), loss=kind, penalty=penalty)
    want = xp.to_numpy(alone.predict(X))
    np.testing.assert_allclose(xp.to_numpy(predicted)[:, -1], want, rtol=1e-2, atol=1e-2)
    if found.classes is not None:
        assert tuple(found.predict_proba(X).shape) == (*Y.shape, len(found.classes))


@pytest.mark.parametrize("k", [1, 2, 20])
def test_predictions_of_several_targets_have_the_shape_of_y_by_every_door(k):
    sparse = pytest.importorskip("scipy.sparse")
    Y = targets_of("squared_error", k)
    stream = agd.Stream([(ROWS[:12], Y[:12]), (ROWS[12:], Y[12:])])
    of_sparse = sparse.csr_array(ROWS)
    models = [
        agd.fit(stream, penalty=agd.loss.L1(1e-8)),
        agd.fit(stream),
        agd.fit(of_sparse, Y),
        agd.fit(ROWS, Y, method="gd"),
        agd.fit(ROWS, Y, device="numpy"),
        agd.Online().partial_fit(ROWS[:12], Y[:12]).partial_fit(ROWS[12:], Y[12:]),
    ]
    for model in models:
        for X in (ROWS, of_sparse, ROWS.tolist()):
            np.testing.assert_allclose(model.predict(X), Y, atol=1e-4)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 2\), since the targets share"):
        models[0].predict(np.stack([ROWS] * k))


def test_labels_that_are_text_come_back_in_the_shape_of_y():
    Y = np.where(targets_of("log_loss", 3) > 0.0, "yes", "no")
    found = agd.fit(ROWS, Y, loss="log_loss", penalty=agd.loss.L2(0.1))
    predicted = found.predict(ROWS)
    assert predicted.shape == Y.shape
    assert np.mean(predicted == Y) > 0.6


@pytest.mark.backend("dask")
def test_lazy_rows_are_predicted_in_the_shape_of_the_targets():
    da = pytest.importorskip("dask.array")
    Y = targets_of("squared_error", 3)
    predicted = agd.fit(ROWS, Y).predict(da.from_array(ROWS, chunks=(6, 2)))
    assert predicted.shape == Y.shape
    np.testing.assert_allclose(predicted.compute(), Y, atol=1e-8)


def test_a_batch_of_problems_keeps_its_axis_first():
    X = np.stack([ROWS, 2.0 * ROWS, ROWS + 1.0])
    y = np.ascontiguousarray(targets_of("squared_error", 3).T)
    found = agd.fit(X, y)
    assert found.targets is None
    assert found.predict(X).shape == found.predict(ROWS).shape == y.shape
    np.testing.assert_allclose(found.predict(X), y, atol=1e-8)


# -- frames: what is a number counts, and what is none is named --------------------------------------

NUMBERS = [1.0, 2.0, 4.0, 3.0, 5.0, 9.0]
TARGET = np.arange(6.0) ** 2
DAYS = [dt.date(2020, 1, day) for day in range(1, 7)]
TIMES = [dt.datetime(2020, 1, day) for day in range(1, 7)]
MAKERS = {
    "pandas": ("pandas", "DataFrame"),
    "polars": ("polars", "DataFrame"),
    "arrow": ("pyarrow", "table"),
    "xarray": ("xarray", "Dataset"),
}


def frame_of(library: str, columns: dict[str, list[object]]) -> object:
    """Return a frame of a library with these columns."""
    module, maker = MAKERS[library]
    make = getattr(pytest.importorskip(module), maker)
    return make({k: ("row", v) for k, v in columns.items()} if library == "xarray" else columns)


def fit_whole(X, y):
    return agd.fit(X, y)


def fit_rows_later(X, y):
    return agd.Online().partial_fit(X, y).result


def fit_stream(X, y):
    return agd.fit(agd.Stream([(X, y)]))


def fit_on_device(X, y):
    return agd.fit(X, y, device="numpy")


DOORS = [fit_whole, fit_rows_later, fit_stream, fit_on_device]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize(
    "column",
    [[True, False, True, True, False, False], [1, 2, 3, 4, 5, 7], [2**53 + 2, 1, 0, 4, 5, 7]],
    ids=["bool", "int", "large"],
)
def test_columns_of_booleans_and_integers_count_as_numbers(library, column, door):
    frame = frame_of(library, {"n": NUMBERS, "c": column})
    found = door(frame, TARGET)
    want = agd.fit(np.c_[NUMBERS, np.asarray(column, dtype=float)], TARGET)
    np.testing.assert_allclose(found.coef, want.coef, rtol=1e-6)
    assert found.feature_names == ["n", "c"]
    np.testing.assert_allclose(found.predict(frame), found.predict(np.c_[NUMBERS, column]))
    with pytest.raises(ValueError, match="column 0 must be 'n', got 'c'"):
        found.predict(frame_of(library, {"c": column, "n": NUMBERS}))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
@pytest.mark.parametrize(
    "column", [DAYS, TIMES, [t - TIMES[0] for t in TIMES], list("abcabc")], ids=repr
)
def test_columns_that_are_no_numbers_are_all_named(library, column, door):
    frame = frame_of(library, {"when": column, "n": NUMBERS, "what": list("abcabc"), "m": NUMBERS})
    with pytest.raises(
        TypeError, match=r"got columns 'when' of dtype .*, 'what' of dtype .*: drop"
    ):
        door(frame, TARGET)
    with pytest.raises(TypeError, match="column 'when' of dtype"):
        agd.fit(np.c_[NUMBERS, TARGET], TARGET).predict(
            frame_of(library, {"n": NUMBERS, "when": column})
        )


def test_dummies_beside_numbers_are_fitted():
    pd = pytest.importorskip("pandas")
    table = pd.get_dummies(pd.DataFrame({"area": NUMBERS, "kind": list("abbacc")}))
    want = agd.fit(table.astype(float).to_numpy(), TARGET, penalty=agd.loss.L2(0.1))
    found = agd.fit(table, TARGET, penalty=agd.loss.L2(0.1))
    np.testing.assert_allclose(found.coef, want.coef, rtol=1e-10)
    assert found.feature_names == ["area", "kind_a", "kind_b", "kind_c"]


OBJECTS = [1, 2.5, True, np.float32(2.0), Decimal("0.5"), Fraction(1, 4)]


@pytest.mark.parametrize("door", DOORS)
def test_objects_that_are_numbers_are_fitted(door):
    pd = pytest.importorskip("pandas")
    values = [float(x) for x in OBJECTS]
    want = agd.fit(np.c_[NUMBERS, values], TARGET).coef
    X = np.c_[NUMBERS, np.asarray(OBJECTS, dtype=object)]
    frame = pd.DataFrame({"n": NUMBERS, "c": pd.Series(OBJECTS, dtype=object)})
    y = pd.Series(TARGET.tolist(), dtype=object)
    np.testing.assert_allclose(door(frame, y).coef, want, rtol=1e-8)
    np.testing.assert_allclose(door(X, y.to_numpy()).coef, want, rtol=1e-8)
    with pytest.raises(TypeError, match=r"column 'c' of dtype object \(such as 'six'\)"):
        door(frame.assign(c=pd.Series([*OBJECTS[:5], "six"], dtype=object)), y)
    with pytest.raises(TypeError, match="must be numbers, got dtype object"):
        door(np.asarray([[1, "six"]] * 6, dtype=object), TARGET)
    with pytest.raises(ValueError, match=r"X has 1 NaN or infinite value, the first at X\[0, 0\]"):
        door(np.asarray([[10**400]] + [[i] for i in range(5)], dtype=object), TARGET)


def test_missing_numbers_are_counted_as_nan():
    pd = pytest.importorskip("pandas")
    for column in ([1, None, 3, 4, 5, 6], [True, None, False, True, True, False]):
        kind = "Int64" if column[0] == 1 and column[0] is not True else "boolean"
        for frame in (
            pd.DataFrame({"n": NUMBERS, "c": pd.Series(column, dtype=kind)}),
            frame_of("polars", {"n": NUMBERS, "c": column}),
            frame_of("arrow", {"n": NUMBERS, "c": column}),
        ):
            with pytest.raises(ValueError, match=r"X has 1 NaN .*, the first at X\[1, 1\] = nan"):
                agd.fit(frame, TARGET)


def test_labelled_arrays_keep_their_names_and_their_array():
    xr = pytest.importorskip("xarray")
    X = xr.DataArray(
        np.c_[NUMBERS, NUMBERS[::-1]], dims=("row", "column"), coords={"column": ["a", "b"]}
    )
    found = agd.fit(X, xr.DataArray(TARGET, dims="row"))
    assert found.feature_names == ["a", "b"]
    np.testing.assert_array_equal(found.coef, agd.fit(X.data, TARGET).coef)
    assert agd.fit(X.drop_vars("column"), TARGET).feature_names is None


def test_lazy_frames_are_refused_by_name():
    pl = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X is a LazyFrame of polars.*pass X\.collect\(\)"):
        agd.fit(pl.DataFrame({"n": NUMBERS}).lazy(), TARGET)
    with pytest.raises(TypeError, match=r"y is a LazyFrame of polars"):
        agd.fit(np.c_[NUMBERS], pl.DataFrame({"n": NUMBERS}).lazy())


def test_what_is_no_array_is_named():
    for value in (object(), lambda: 1.0, iter([1.0])):
        with pytest.raises(TypeError, match="X must be an array of numbers, got "):
            agd.fit(value, TARGET)


# -- arrays that other libraries wrap or exchange ----------------------------------------------------


class Exchanged:
    """An array that has DLPack's methods alone, as those of a library that is not in the table."""

    def __init__(self, values, kind=1):
        self.values, self.kind = np.asarray(values), kind

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.kind, 0


@pytest.mark.parametrize("door", DOORS)
def test_arrays_that_only_exchange_their_memory_are_taken_where_they_are(door):
    X = np.c_[NUMBERS, NUMBERS[::-1]]
    found = door(Exchanged(X), Exchanged(TARGET))
    np.testing.assert_allclose(found.coef, agd.fit(X, TARGET).coef, rtol=1e-8)
    np.testing.assert_array_equal(found.predict(Exchanged(X)), found.predict(X))
    with pytest.raises(
        TypeError, match=r"X is a Exchanged of test_reported_data_faults on a device"
    ):
        door(Exchanged(X, kind=2), TARGET)


def test_sparse_arrays_of_other_libraries_are_taken_by_their_entries():
    sparse = pytest.importorskip("sparse")
    X = np.where(ROWS > 0.0, ROWS, 0.0)
    want = agd.fit(X, ROWS[:, 0])
    for other in (sparse.COO.from_numpy(X), sparse.GCXS.from_numpy(X)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="X is sparse in COO format")
            found = agd.fit(other, ROWS[:, 0])
        np.testing.assert_allclose(found.coef, want.coef, rtol=1e-6)
        np.testing.assert_allclose(found.predict(other), found.predict(X))
    with pytest.raises(TypeError, match=r"y is sparse \(COO\)"):
        agd.fit(X, sparse.COO.from_numpy(X[:, 0]))


@pytest.mark.backend("dask")
def test_lazy_arrays_of_masked_or_sparse_chunks_are_refused():
    da, sp = pytest.importorskip("dask.array"), pytest.importorskip("scipy.sparse")
    X, y = da.from_array(ROWS, chunks=(5, 2)), da.from_array(ROWS[:, 0], chunks=5)
    for name, args in (
        ("X", (da.ma.masked_greater(X, 1.0), y)),
        ("y", (X, da.ma.masked_greater(y, 1.0))),
    ):
        with pytest.raises(TypeError, match=f"{name} has masked chunks: fill or drop"):
            agd.fit(*args)
    with pytest.raises(TypeError, match=r"X has sparse chunks \(csr_matrix\), which are not taken"):
        agd.fit(X.map_blocks(sp.csr_matrix), y)


# -- values that a dtype or a label cannot hold ------------------------------------------------------


def test_values_that_a_narrower_dtype_loses_are_refused(xp):
    if xp.name == "dask" or xp.host_dtype == np.float32:
        pytest.skip("lazy arrays are not looked at; there is no wider dtype")
    X = xp.asarray(ROWS, dtype=xp.ns.float32)
    y, weight = ROWS[:, 0] * 1e-60, np.full(20, 1e-50)
    for given in (y, xp.asarray(y)):
        with pytest.raises(ValueError, match="y has values too small for float32, the dtype of X"):
            agd.fit(X, given)
    with pytest.raises(ValueError, match="sample_weight has values too small for float32"):
        agd.fit(X, ROWS[:, 0], sample_weight=weight)
    assert not xp.to_numpy(agd.fit(X, np.zeros(20)).coef).any()
    np.testing.assert_allclose(
        xp.to_numpy(agd.fit(X, ROWS[:, 0] * 1e-30).coef), [1e-30, 0.0], atol=1e-34
    )


@pytest.mark.parametrize("loss", ["log_loss", "softmax"])
def test_a_row_of_nan_has_no_class(xp, loss):
    rows = ROWS.copy()
    rows[3, 1] = math.nan
    y = (ROWS[:, 0] + 0.3 * ROWS[:, 1] > 0.1) * 2.0 + 1.0
    found = agd.fit(xp.asarray(ROWS), xp.asarray(y), loss=loss, penalty=agd.loss.L2(0.1))
    labels = xp.to_numpy(found.predict(xp.asarray(rows)))
    assert math.isnan(labels[3])
    assert set(np.delete(labels, 3)) <= {1.0, 3.0}
    if xp.name == "dask":
        return
    for given in (np.where(y > 1.0, "yes", "no"), xp.asarray(y > 1.0)):
        found = agd.fit(xp.asarray(ROWS), given, loss=loss, penalty=agd.loss.L2(0.1))
        with pytest.raises(ValueError, match="1 of 20 rows have no class, the first is row 3"):
            found.predict(xp.asarray(rows))


def test_labels_that_are_booleans_come_back_as_booleans(xp):
    y = ROWS[:, 0] + 0.3 * ROWS[:, 1] > 0.1
    found = agd.fit(xp.asarray(ROWS), xp.asarray(y), loss="log_loss", penalty=agd.loss.L2(0.01))
    predicted = found.predict(xp.asarray(ROWS))
    assert found.classes == (False, True)
    assert predicted.dtype == xp.asarray(y).dtype
    assert np.mean(xp.to_numpy(predicted) == y) > 0.9


# -- arguments of another kind are named ------------------------------------------------------------


@pytest.mark.parametrize("epochs", ["a", [1, "a"], None, 1.5, True, math.inf], ids=repr)
def test_epochs_that_are_no_whole_numbers_are_named(epochs):
    with pytest.raises(TypeError, match="epochs must be whole numbers, got "):
        agd.path(ROWS, ROWS[:, 0], epochs=epochs)


@pytest.mark.parametrize("paths", [3, None, [3], {"a": 1}, b"t.csv", [None]], ids=repr)
def test_paths_that_are_none_are_named(paths):
    pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match="paths must be a path or a list of paths, got "):
        agd.Stream.from_files(paths, "y")


@pytest.mark.parametrize("device", ["cuda:7", "nope", "cpu", 3], ids=repr)
def test_a_device_that_does_not_exist_is_called_a_device(device):
    for door in (
        lambda: agd.fit(ROWS, ROWS[:, 0], device=device),
        lambda: agd.Stream([(ROWS, ROWS[:, 0])], device=device),
        lambda: agd.Stream.from_arrays(ROWS, ROWS[:, 0], device=device),
    ):
        with pytest.raises((ValueError, TypeError), match="device must be "):
            door()


@pytest.mark.parametrize("certify", ["no", 1, None], ids=repr)
def test_a_flag_is_true_or_false(certify):
    with pytest.raises(TypeError, match="certify must be True or False, got "):
        agd.minimize(lambda x: (x**2).sum(), np.ones(2), certify=certify)


@pytest.mark.parametrize("value", [10**400, -(10**400), Fraction(10**400, 3)], ids=["+", "-", "/"])
def test_a_value_beyond_floats_is_named(value):
    with pytest.raises(ValueError, match="fun must return a real number within the range of float"):
        agd.minimize(lambda x: value, [1.0])


# -- sparse matrices whose arrays do not belong together ----------------------------------------------


def damaged(kind: str, part: str, values: object) -> object:
    """Return a matrix of 20 rows and 2 columns of which one array was overwritten."""
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.csr_array(np.where(ROWS > 0.0, ROWS, 0.0)).asformat(kind)
    if kind == "coo":
        index = getattr(X, part)
        index[3] = values
    else:
        array = np.array(getattr(X, part))
        array[3] = values
        setattr(X, part, array)
    return X


@pytest.mark.parametrize(
    ("kind", "part", "value", "words"),
    [
        ("csr", "indices", 2, "entry 3 has column 2, and there are 2"),
        ("csr", "indices", 10**9, "entry 3 has column 1000000000, and there are 2"),
        ("csr", "indices", -1, "entry 3 has column -1"),
        ("csr", "indptr", 10**6, "indptr must be 21 counts that rise from 0"),
        ("csr", "indptr", -1, "indptr must be 21 counts that rise from 0"),
        ("csc", "indices", 20, "entry 3 has row 20, and there are 20"),
        ("coo", "col", 2, "entry 3 has column 2, and there are 2"),
        ("coo", "row", -1, "entry 3 has row -1, and there are 20"),
    ],
)
def test_a_damaged_sparse_matrix_is_refused(kind, part, value, words):
    X, y = damaged(kind, part, value), ROWS[:, 0]
    for door in (
        lambda: agd.fit(X, y),
        lambda: agd.fit(X, y, loss="huber"),
        lambda: agd.fit(X, y, method="gd"),
        lambda: agd.Online().partial_fit(X, y),
        lambda: agd.fit(ROWS, y).predict(X),
    ):
        with pytest.raises(ValueError, match=f"X is a damaged sparse matrix: {words}"):
            door()
    short = damaged("csr", "indices", 0)
    short.data = short.data[:5]
    with pytest.raises(ValueError, match="X is a damaged sparse matrix: indptr counts"):
        agd.fit(short, y)


# -- NumPy's own warnings stay inside ------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "softmax", "poisson"])
def test_predictions_take_no_notice_of_numpys_error_state(loss):
    y = (ROWS[:, 0] > 0.2) * 1.0 if loss in ("log_loss", "softmax") else np.abs(ROWS[:, 0])
    found = agd.fit(ROWS, y, loss=loss, penalty=agd.loss.L2(0.1))
    far = np.asarray([[1e4, 1e3], [-1e5, 1e3], [1e-320, 0.0], [-1e300, 1e300], [0.0, 1.0]])
    with np.errstate(all="ignore"):
        want = found.predict(far)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(found.predict(far), want)
        if found.classes is not None:
            np.testing.assert_allclose(found.predict_proba(far).sum(axis=-1), 1.0)


@pytest.mark.parametrize("penalty", [None, agd.loss.L2(0.1), agd.loss.L1(0.1)], ids=repr)
def test_a_batch_with_a_problem_of_zeros_warns_in_agds_words_alone(penalty):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6, 40, 3)), rng.normal(size=(6, 40))
    X[2, :, 1], X[3] = X[2, :, 0], 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", np.exceptions.RankWarning)  # a RuntimeWarning, too
        agd.fit(X, y, penalty=penalty)
        agd.fit(X[3], y[3], penalty=penalty)
