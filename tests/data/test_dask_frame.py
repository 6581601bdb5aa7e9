"""Fits of Dask DataFrames, whose partitions are of unknown length."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from helpers.array_libraries import SESSION

pytestmark = pytest.mark.backend("dask")

ROWS = 700


@pytest.fixture
def table():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=ROWS), "b": 100.0 * rng.normal(size=ROWS) + 7.0})
    table["t"] = 2.0 * table.a - 0.1 * table.b + 3.0 + rng.normal(size=ROWS)
    table["late"] = (table.t > table.t.median()) * 1
    table["s"] = rng.uniform(0.5, 2.0, size=ROWS)
    table["count"] = rng.integers(0, 9, size=ROWS)
    table["kind"] = "x"
    return table


@pytest.fixture
def lazy(table):
    if SESSION != "dask":  # there it has to be
        pytest.importorskip("dask.dataframe")
    import dask.dataframe as frames

    return frames.from_pandas(table, npartitions=4)


def _same(found, known):
    return np.allclose(found.coef, known.coef, rtol=1e-6, atol=1e-9) and np.allclose(
        found.intercept, known.intercept, rtol=1e-6
    )


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_frame_is_fitted_as_its_rows(table, lazy, loss, weighted):
    target = "late" if loss == "log_loss" else "t"
    found, known = (
        agd.fit(
            rows[["a", "b"]], rows[target], loss=loss, sample_weight=rows.s if weighted else None
        )
        for rows in (lazy, table)
    )
    assert _same(found, known)
    assert found.n_passes == (2 if loss == "squared_error" else found.nfev + 1 + (loss == "huber"))
    assert type(found.coef) is np.ndarray


def test_filtered_rows_are_fitted_alike(table, lazy):
    found, known = (
        agd.fit(rows[["a", "b"]], rows.t) for rows in (lazy[lazy.a > 1.5], table[table.a > 1.5])
    )
    assert _same(found, known)


def test_a_method_by_name_takes_a_frame(table, lazy):
    found, known = (agd.fit(rows[["a", "s"]], rows.t, method="lbfgs") for rows in (lazy, table))
    assert _same(found, known)


def test_predictions_of_a_frame_stay_lazy(table, lazy):
    found = agd.fit(lazy[["a", "b"]], lazy.late, loss="log_loss")
    labels = found.predict(lazy[["a", "b"]])
    assert labels.dask
    known = found.predict(table[["a", "b"]].to_numpy())
    assert np.array_equal(labels.compute(), known)
    shares = found.predict_proba(lazy[["a", "b"]])
    assert np.allclose(shares.compute(), found.predict_proba(table[["a", "b"]].to_numpy()))


@pytest.mark.parametrize("kind", ["int64", "bool", "Int32", "Float64", "boolean"])
def test_columns_of_any_numbers_are_taken(table, lazy, kind):
    cast = "bool" if "bool" in kind else "int64"
    narrow = {"count": kind}
    found = agd.fit(lazy.astype({"count": cast}).astype(narrow)[["a", "count"]], lazy.t)
    known = agd.fit(
        table.astype({"count": cast}).astype({"count": "float64"})[["a", "count"]], table.t
    )
    assert _same(found, known)


def test_float32_stays(table, lazy):
    narrow = lazy[["a", "b", "t"]].astype("float32")
    found = agd.fit(narrow[["a", "b"]], narrow.t)
    assert found.coef.dtype == np.float32


def test_text_is_refused_by_its_column(lazy):
    with pytest.raises(TypeError, match=r"X must be numbers, got column 'kind' of dtype"):
        agd.fit(lazy[["a", "kind"]], lazy.t)
    with pytest.raises(TypeError, match=r"y must be numbers, got column 'kind' of dtype"):
        agd.fit(lazy[["a"]], lazy.kind)
    when = lazy.assign(when=lazy.a.astype("datetime64[ns]")).when
    with pytest.raises(TypeError, match=r"sample_weight must be numbers, got column 'when'"):
        agd.fit(lazy[["a"]], lazy.t, sample_weight=when)


def test_partitions_that_differ_are_refused(lazy):
    with pytest.raises(ValueError, match=r"X has 4 row chunks of unknown size and y has 2"):
        agd.fit(lazy[["a"]], lazy.repartition(npartitions=2).t)
    for method in ("auto", "lbfgs"):
        with pytest.raises(ValueError, match=r"y must be cut as X is, got a chunk of"):
            agd.fit(lazy[["a"]], lazy.t[lazy.a > 0.0], method=method)


def test_missing_numbers_are_named_by_their_place(lazy):
    holes = lazy.assign(a=lazy.a.where(lazy.b < 100.0))
    with pytest.raises(ValueError, match=r"X must be finite|X has .*NaN"):
        agd.fit(holes[["a", "b"]], lazy.t)


def test_targets_in_memory_beside_a_frame_are_refused(table, lazy):
    with pytest.raises(ValueError, match="X has row chunks of unknown size"):
        agd.fit(lazy[["a"]], table.t.to_numpy())


def test_names_are_held_against_rows_to_predict_for(table, lazy):
    for rows in (table, lazy):
        found = agd.fit(rows[["a", "b"]], rows.t)
        assert found.feature_names == ["a", "b"]
        for other in (table, lazy):
            with pytest.raises(ValueError, match="column 0 must be 'a', got 'b'"):
                found.predict(other[["b", "a"]])
            with pytest.raises(ValueError, match="got 'b' missing and 's' not among them"):
                found.predict(other[["a", "s"]])
        assert np.allclose(
            found.predict(lazy[found.feature_names]).compute(),
            found.predict(table[["a", "b"]].to_numpy()),
        )


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean"])
def test_columns_that_may_have_missing_values_are_taken_where_none_is_missing(table, kind):
    table["whole"] = table["count"] % 2
    table["may"] = table.whole.astype(kind)
    known = agd.fit(table[["a", "whole"]], table.t)
    assert _same(agd.fit(table[["a", "may"]], table.t), known)
    assert _same(agd.fit(table[["a", "whole"]], table.t.astype("Float64")), known)
    table.loc[3, "may"] = None
    with pytest.raises(ValueError, match=r"X .*NaN.*X\[3, 1\]"):
        agd.fit(table[["a", "may"]], table.t)
    with pytest.raises(ValueError, match=r"y .*NaN.*y\[3\]"):
        agd.fit(table[["a", "b"]], table.may)
    with pytest.raises(TypeError, match=r"X must be numbers, got column .* of dtype"):
        agd.fit(table[["may", "kind"]], table.t)
