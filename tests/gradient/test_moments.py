"""Moments are the textbook's, on every library, from any blocks, and enough for the squared loss."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from unittest import mock

import numpy as np
import pytest

from agd import backends
from agd._typing import Params
from agd.gradient import Blocks, LinearObjective, Moments
from agd.loss import L1, L2
from helpers.array_libraries import VARIANTS
from helpers.property_testing import given, st

# The leading axes of X, of y and of the weights: everything that shares and everything that does not.
SHAPES = {
    "one": ((), (), None),
    "one, weighted": ((), (), ()),
    "targets": ((), (3,), None),
    "targets, weighted": ((), (3,), ()),
    "targets, weighted each": ((), (3,), (3,)),
    "batch": ((3,), (3,), None),
    "batch, weighted": ((3,), (3,), ()),
    "batch, weighted each": ((3,), (3,), (3,)),
    "batch of two axes": ((2, 3), (2, 3), None),
}
FIELDS = [field.name for field in dataclasses.fields(Moments)]
NAMES = ["total", "rows", "mean", "mean_y", "G", "c", "yy"]


def drawn(kind, n=40, p=3, seed=0, offset=5.0):
    rng = np.random.default_rng(seed)
    of_X, of_y, of_weight = SHAPES[kind]
    X = rng.normal(size=(*of_X, n, p)) * 10.0 ** np.arange(p) + offset
    y = rng.normal(size=(*of_y, n)) - offset
    weight = None if of_weight is None else rng.uniform(0.1, 2.0, size=(*of_weight, n))
    if weight is not None:
        weight[..., ::7] = 0.0
    return X, y, weight


def textbook(X, y, weight):
    """The same moments in two passes of long doubles, problem by problem."""
    X, y = X.astype(np.longdouble), y.astype(np.longdouble)
    s = np.ones(y.shape[-1], np.longdouble) if weight is None else weight.astype(np.longdouble)
    m = s.sum(axis=-1)
    if s.ndim > 1 and X.ndim == 2:
        X = np.broadcast_to(X, (*s.shape[:-1], *X.shape))
    mean = (X * s[..., None]).sum(axis=-2) / m[..., None]
    mean_y = (y * s).sum(axis=-1) / m
    d, e = X - mean[..., None, :], y - mean_y[..., None]
    sd = d * s[..., None]
    found = {
        "total": m,
        "rows": (s > 0).sum(axis=-1),
        "mean": mean,
        "mean_y": mean_y,
        "G": np.einsum("...ij,...ik->...jk", sd, d) / m[..., None, None],
        "c": np.einsum("...ij,...i->...j", sd, e) / m[..., None],
        "yy": (s * e * e).sum(axis=-1) / m,
    }
    return {name: value.astype(float) for name, value in found.items()}


def of(X, y, weight, make=np.asarray, **options):
    arrays = [None if a is None else make(a) for a in (X, y, weight)]
    return Moments.from_blocks(Blocks.of(*arrays, **options))


def numbers(moments):
    return {name: np.asarray(backends.to_numpy(getattr(moments, name))) for name in NAMES}


def assert_close(found, want, rtol=1e-12):
    """Compare second moments on the scale of the variances that they belong to."""
    found = found if isinstance(found, dict) else numbers(found)
    want = want if isinstance(want, dict) else numbers(want)
    spread = np.sqrt(np.einsum("...ii->...i", want["G"]))
    spread_y = np.sqrt(want["yy"])
    scale = {
        "total": want["total"],
        "rows": want["rows"],
        "mean": np.abs(want["mean"]) + spread,
        "mean_y": np.abs(want["mean_y"]) + spread_y,
        "G": spread[..., :, None] * spread[..., None, :],
        "c": spread * spread_y[..., None],
        "yy": want["yy"],
    }
    for name in NAMES:
        assert found[name].shape == want[name].shape, name
        error = np.abs(found[name] - want[name])
        assert (error <= rtol * scale[name]).all(), (name, (error / scale[name]).max())


@pytest.mark.parametrize("kind", SHAPES)
def test_moments_are_the_textbooks_on_every_library(xp, kind):
    if xp.name == "dask" and not kind.startswith("one"):
        pytest.skip("a chunked X has one target and no leading axes")
    if xp.name.startswith("jax") and kind not in {
        "one",
        "targets, weighted",
        "batch, weighted each",
    }:
        pytest.skip("every shape is compiled: these three stand for all")
    data = drawn(kind)
    host = [None if a is None else a.astype(xp.host_dtype) for a in data]
    whole = of(*data, xp.asarray)
    assert_close(whole, textbook(*host), xp.rtol)
    # There each size of block is compiled, and each chunk has its own.
    if xp.name.partition(":")[0] not in {"jax", "dask"}:
        assert_close(of(*data, xp.asarray, rows=9), textbook(*host), xp.rtol)
    like = Blocks.of(*[None if a is None else xp.asarray(a) for a in data]).resident
    assert backends.of(whole.G).name == backends.of(like).name
    assert backends.device(whole.G) == backends.device(like)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("kind", ["batch", "batch, weighted", "batch, weighted each"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_small_problems_are_summed_some_at_a_time(kind, offset):
    X, y, weight = drawn(kind, offset=offset)
    size = X[0].nbytes
    with mock.patch("agd.data.arrays.MAX_STACK_BYTES", 2 * size):  # two, and then one
        assert_close(of(X, y, weight), textbook(X, y, weight))
    with mock.patch("agd.data.arrays.MAX_PROBLEM_BYTES", size - 1):  # too large: rows are cut
        assert_close(of(X, y, weight), textbook(X, y, weight))


@pytest.mark.backend("numpy")
def test_one_problem_far_from_zero_among_small_ones():
    X, y, _ = drawn("batch", offset=0.0)
    X = X + np.asarray([0.0, 1e6, 0.0])[:, None, None]  # the first tells nothing of the second
    assert_close(of(X, y, None), textbook(X, y, None))


@pytest.mark.parametrize("kind", SHAPES)
@given(rows=st.integers(1, 50), seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 1e6]))
def test_blocks_and_order_change_rounding_only(kind, rows, seed, offset):
    X, y, weight = data = drawn(kind, seed=seed, offset=offset)
    order = np.random.default_rng(seed).permutation(y.shape[-1])
    mixed = (X[..., order, :], y[..., order], None if weight is None else weight[..., order])
    # The data are rounded to eps |offset| before anything is summed; no more than that is lost.
    want = textbook(*data)
    assert_close(of(*data, rows=rows), want)
    assert_close(of(*mixed, rows=rows), want)


@pytest.mark.parametrize("kind", SHAPES)
@given(cut=st.integers(1, 39), seed=st.integers(0, 2**32 - 1))
def test_rows_are_added_and_taken_away(kind, cut, seed):
    X, y, weight = data = drawn(kind, seed=seed)
    first = (X[..., :cut, :], y[..., :cut], None if weight is None else weight[..., :cut])
    last = (X[..., cut:, :], y[..., cut:], None if weight is None else weight[..., cut:])
    whole, a, b = of(*data), of(*first), of(*last)
    assert_close(a + b, whole)
    assert_close(b + a, whole)
    if a.rows.min() == 0:  # only rows without weight so far: then b is all there is
        assert_close(b, whole)
        return
    # A difference loses digits in proportion to what is taken away.
    lost = (
        1e-12
        * np.max(whole.total / a.total)
        * np.max(
            np.einsum("...ii->...i", whole.G).max()
            / np.maximum(np.einsum("...ii->...i", a.G), 1e-300)
        )
    )
    if a.rows.min() > 3 and lost < 1e-3:
        assert_close((a + b) - b, a, lost)


def test_taking_all_rows_leaves_none_and_taking_more_is_refused():
    X, y, weight = drawn("batch, weighted each")
    whole = of(X, y, weight)
    none = whole - whole
    assert not none.rows.any()
    assert not none.total.any()
    assert not none.G.any()
    assert_close(none + whole, whole)
    with pytest.raises(ValueError, match="cannot remove 34 rows from moments of 17"):
        of(X[..., :20, :], y[..., :20], weight[..., :20]) - whole
    with pytest.raises(ValueError, match="cannot remove rows of weight"):
        whole - of(X[..., 1:, :], y[..., 1:], 3.0 * weight[..., 1:])
    with pytest.raises(ValueError, match=r"G has shape \(3, 3, 3\) here and \(3, 2, 2\) there"):
        whole + of(X[..., :2], y, weight)
    with pytest.raises(TypeError):
        whole + 1.0


def test_columns_far_from_zero_keep_their_digits():
    rng = np.random.default_rng(0)
    X = rng.integers(-512, 513, size=(5000, 3)) / 256.0
    y = rng.integers(-512, 513, size=5000) / 256.0
    near = of(X, y, None)
    far = of(X + 2.0**40, y + 2.0**42, None, rows=97)  # exact in float64: so are the deviations
    for name in ("G", "c", "yy"):
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), rtol=1e-12, atol=1e-13)
    halves = of(X[:99] + 2.0**40, y[:99] + 2.0**42, None) + of(
        X[99:] + 2.0**40, y[99:] + 2.0**42, None
    )
    np.testing.assert_allclose(halves.G, near.G, rtol=1e-12, atol=1e-13)


def test_blocks_that_are_unlike_each_other_keep_their_digits():
    # Sorted rows, first rows that lie far off, and first rows that weigh nothing.
    rng = np.random.default_rng(0)
    X, y = np.sort(rng.normal(size=(4000, 2)), axis=0), rng.normal(size=4000)
    assert_close(of(X, y, None, rows=50), textbook(X, y, None))
    X[:50] += 1e6
    assert_close(of(X, y, None, rows=50), textbook(X, y, None))
    weight = np.ones(4000)
    weight[:75] = 0.0
    assert_close(of(X, y, weight, rows=50), textbook(X, y, weight))


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.session == "numpy"])
def test_float32_loses_nothing_that_it_need_not(name):
    # A float32 sum over these rows would keep three digits; the same data in float64 are the judge.
    rng = np.random.default_rng(0)
    n = 1_000_000
    X = (rng.normal(size=(n, 3)) + np.asarray([0.0, 10.0, 1000.0])).astype(np.float32)
    y = (X @ np.ones(3, np.float32) + rng.normal(size=n)).astype(np.float32)
    found = of(X, y, None, VARIANTS[name].make().make)
    assert found.G.dtype == np.float64
    X, y = X.astype(float), y.astype(float)
    mean, d = X.mean(axis=0), X - X.mean(axis=0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.G, d.T @ d / n, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.c, d.T @ (y - y.mean()) / n, rtol=1e-12, atol=1e-12)


@pytest.mark.backend("strict")
def test_without_float64_the_sums_are_short():
    # One float32 sum over all rows would be wrong in the fourth digit.
    xp = VARIANTS["strict:no_float64"].make()
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200_000, 2)) + 100.0).astype(np.float32)
    y = X[:, 0] - X[:, 1]
    found = of(X, y, None, xp.asarray)
    assert_close(found, textbook(X, y, None), 1e-6)


def test_a_pass_takes_little_memory():
    X, y = np.zeros((400_000, 20)), np.zeros(400_000)
    blocks = Blocks.of(X, y)
    Moments.from_blocks(blocks)
    tracemalloc.start()
    Moments.from_blocks(blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 4
    assert peak < 16 * 2**20


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    "kind", [kind for kind in SHAPES if not kind.endswith("targets, weighted each")]
)
def test_value_and_gradient_are_the_datas(kind, intercept):
    X, y, weight = drawn(kind)
    objective = LinearObjective.of(X, y, penalty=L2(0.3), sample_weight=weight, intercept=intercept)
    rng = np.random.default_rng(1)
    zero = objective.zeros()
    b = rng.normal(size=y.shape[:-1]) if intercept else None
    params = Params(rng.normal(size=zero.coef.shape), b)
    want, want_grad = objective.value_and_grad(params)
    moments = of(X, y, weight)
    value, grad = moments.value_and_grad(params, L2(0.3))
    np.testing.assert_allclose(value, want, rtol=1e-11)
    np.testing.assert_allclose(grad.coef, want_grad.coef, rtol=1e-10, atol=1e-9)
    plain = LinearObjective.of(X, y, sample_weight=weight, intercept=intercept)
    np.testing.assert_allclose(moments.value(*params), plain.value_and_grad(params)[0], rtol=1e-11)
    again = moments.grad(*params)
    np.testing.assert_allclose(again.coef + 0.3 * params.coef, grad.coef, rtol=1e-10, atol=1e-9)
    if intercept:
        np.testing.assert_allclose(grad.intercept, want_grad.intercept, rtol=1e-10)
        np.testing.assert_allclose(again.intercept, want_grad.intercept, rtol=1e-10)
    else:
        assert grad.intercept is None


def test_the_quadratic_is_what_the_best_intercept_leaves():
    X, y, weight = drawn("one, weighted")
    moments, s = of(X, y, weight), weight / weight.sum()
    G, c = moments.quadratic(L2(0.5), intercept=False)
    np.testing.assert_allclose(G, (X.T * s) @ X + 0.5 * np.eye(3), rtol=1e-12)
    np.testing.assert_allclose(c, (X.T * s) @ y, rtol=1e-12)
    G, c = moments.quadratic(L2(0.5))
    w = np.linalg.solve(G, c)
    grad = moments.value_and_grad(Params(w, moments.mean_y - moments.mean @ w), L2(0.5))[1]
    np.testing.assert_allclose(grad.coef, 0.0, atol=1e-10)
    np.testing.assert_allclose(grad.intercept, 0.0, atol=1e-10)
    with pytest.raises(TypeError, match=r"penalty must be None or agd\.loss\.L2"):
        moments.quadratic(L1(0.5))


def test_saved_moments_are_the_same_to_the_last_bit(xp, tmp_path):
    moments = of(*drawn("one, weighted"), xp.asarray)
    moments.save(tmp_path / "moments.json")
    spec = {"dask": "numpy", "numpy:readonly": "numpy"}.get(xp.name, xp.name)
    back = Moments.load(tmp_path / "moments.json", spec)
    for name in FIELDS:
        ours, theirs = getattr(moments, name), getattr(back, name)
        assert ours.dtype == theirs.dtype
        assert (backends.to_numpy(ours) == backends.to_numpy(theirs)).all(), name
    assert [p.name for p in tmp_path.iterdir()] == ["moments.json"]
    assert_close(back + moments, moments + moments, xp.rtol)


def test_what_is_no_file_of_moments_is_refused():
    good = json.loads(json.dumps(of(*drawn("targets"), rows=5).to_dict()))
    assert Moments.from_dict(good).c.shape == (3, 3)
    for change, message in [
        ({"format": "agd model"}, "data must have format 'agd moments'"),
        ({"version": 2}, "version must be 1, got 2"),
        ({"dtype": "object"}, "dtype must be one of 'float32', 'float64'; got 'object'"),
        ({"G": [[1.0]]}, r"G must have shape \(3, 3\)"),
        ({"mean": [[1.0, 2.0, 3.0]] * 2}, r"G must have shape \(2, 3, 3\)"),
        ({"total": [1.0], "rows": [1.0]}, "mean, mean_y and total must fit"),
    ]:
        with pytest.raises(ValueError, match=message):
            Moments.from_dict({**good, **change})
    with pytest.raises(ValueError, match="data must have format 'agd moments'"):
        Moments.from_dict([good])
    with pytest.raises(ValueError, match="but yy is missing"):
        Moments.from_dict({name: value for name, value in good.items() if name != "yy"})
    with pytest.raises(ValueError, match="moments must be finite to be saved: mean is not"):
        of(np.asarray([[1e308], [1e308]]), np.zeros(2), np.asarray([1e10, 1e10])).to_dict()


@pytest.mark.backend("dask")
def test_a_chunk_without_rows_adds_nothing():
    import dask.array as da

    X, y, weight = drawn("one, weighted")
    keep = da.from_array(X[:, 0] > np.sort(X[:, 0])[30], chunks=5)
    parts = [da.from_array(a, chunks=(5, *a.shape[1:]))[keep] for a in (X, y, weight)]
    kept = X[:, 0] > np.sort(X[:, 0])[30]
    found = Moments.from_blocks(Blocks.of(*parts))
    assert isinstance(found.G, np.ndarray)
    assert_close(found, textbook(X[kept], y[kept], weight[kept]))


@pytest.mark.backend("jax")
def test_moments_are_taken_inside_a_compiled_function():
    import jax

    X, y, _ = drawn("one")

    @jax.jit
    def slope(X, y):
        moments = Moments.from_blocks(Blocks.of(X, y))
        return jax.numpy.linalg.solve(moments.G, moments.c)

    want = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=None)[0]
    jax.config.update("jax_enable_x64", True)
    np.testing.assert_allclose(slope(X, y), want, rtol=1e-9)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize(
    "kind", ["near 0", "far from 0", "in part", "spikes", "sorted", "reversed", "by columns"]
)
@pytest.mark.parametrize("p", [20, 40], ids=["narrow", "wide"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_moments_of_many_blocks_are_those_about_the_mean(kind, p, weighted):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30_000, p)) + 0.3, rng.normal(size=30_000)
    weight = rng.uniform(0.0, 2.0, size=30_000) if weighted else None
    if kind == "far from 0":
        X += 1e6
    elif kind == "in part":
        X[:, 3] += 1e6
    elif kind == "spikes":  # which few rows do not show
        X[:, 3] = 0.0
        X[7::5000, 3] = 1e6
    elif kind == "sorted":
        X.sort(axis=0)
    X = X[::-1] if kind == "reversed" else np.asarray(X, order="F" if kind == "by columns" else "C")
    if weighted:  # what counts for nothing does not matter
        weight[::7] = 0.0
        X[::7] = 1e30
    found = Moments.from_blocks(Blocks.of(X, y, weight, rows=9_000))
    if weighted:
        X, y, weight = (np.delete(a, np.s_[::7], axis=0) for a in (X, y, weight))
    share = (np.ones(len(y)) if weight is None else weight).astype(np.longdouble)
    share /= share.sum()
    wide = X.astype(np.longdouble)
    mean, mean_y = share @ wide, share @ y.astype(np.longdouble)
    d, e = np.asarray(wide - mean, dtype=float), np.asarray(y - mean_y, dtype=float)
    share = share.astype(float)
    sizes = np.sqrt(share @ (d * d))
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-13, atol=1e-15)
    assert np.abs((found.G - d.T @ (d * share[:, None])) / np.outer(sizes, sizes)).max() < 1e-13
    assert np.abs((found.c - d.T @ (e * share)) / sizes).max() < 1e-13
    assert found.yy == pytest.approx(share @ (e * e), rel=1e-13)
    assert found.rows == len(y)
