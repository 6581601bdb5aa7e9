"""`agd.fit` on data at the edge: dependent, constant, separable, and of sizes that overflow."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import agd
from agd import Status, Stop
from agd.loss import L2

RankWarning = np.exceptions.RankWarning


def made(seed=0, n=60):
    """Return rows of unequal scale and offset, and targets for the losses of numbers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 1.0]
    z = X @ [1.0, 0.2, 3.0] - 4.0
    return X, {
        "squared_error": z + rng.normal(size=n),
        "poisson": rng.poisson(np.exp(0.3 * z)) * 1.0,
    }


# -- columns that depend on each other -----------------------------------------------------------


def test_dependent_columns_get_the_least_norm_and_a_warning(xp):
    X, targets = made()
    y = targets["squared_error"]
    with pytest.warns(RankWarning, match="X and the intercept.*their rank is 4 of 7.*shortest"):
        twice = agd.fit(xp.asarray(np.column_stack([X, X])), xp.asarray(y))
    coef, plain = xp.to_numpy(twice.coef), agd.fit(X, y).coef
    assert twice.success
    rtol = 1e-3 if "float32" in str(xp.dtype) else 1e-8
    np.testing.assert_allclose(coef[:3], coef[3:], rtol=rtol)  # the least norm
    np.testing.assert_allclose(2.0 * coef[:3], plain, rtol=rtol)
    # The spectrum by the moments and by a factor, and the looks; the moments of what is no small NumPy array,
    # from which the host learns of the dependence, and chunks are looked over first.
    moments = not xp.name.startswith("numpy")
    assert twice.n_sync == 2 + moments + (xp.name == "dask") + len(twice.history.nit)


def test_constant_columns_get_nothing_and_a_warning():
    X, targets = made()
    y = targets["squared_error"]
    with pytest.warns(RankWarning, match="their rank is 4 of 6"):
        flat = agd.fit(np.column_stack([X, np.full(60, 7.0), np.zeros(60)]), y)
    assert flat.success
    np.testing.assert_allclose(flat.coef[:3], agd.fit(X, y).coef, rtol=1e-8)
    np.testing.assert_allclose(flat.coef[3:], 0.0, atol=1e-12)
    with pytest.warns(RankWarning, match="columns of X are linearly dependent.*rank is 3 of 4"):
        agd.fit(np.column_stack([X, np.zeros(60)]), y, intercept=False)


@pytest.mark.parametrize("method", ["auto", "gd"])
def test_columns_far_from_zero_or_of_unequal_size_are_not_called_dependent(method):
    X, targets = made()
    far = np.random.default_rng(1).normal(size=(60, 2)) + 1e8
    values = np.linalg.eigvalsh(np.corrcoef(far.T))
    near = pytest.approx(values[-1] / values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RankWarning)
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        for A in (far, X * [1.0, 1e-9, 1e9]):
            found = agd.fit(A, targets["squared_error"], method=method, stop=Stop(max_iter=50))
            assert found.success or method == "gd"
            if A is far:  # of these as they are nothing is known; centred ones are even
                assert found.certificate.condition == (math.inf if method == "gd" else near)


def test_a_penalty_leaves_one_answer_and_nothing_to_warn_of():
    X, targets = made()
    found = agd.fit(np.column_stack([X, X]), targets["squared_error"], penalty=L2(0.1))
    assert found.success


def test_wide_data_are_interpolated():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 20)), rng.normal(size=5)
    with pytest.warns(RankWarning, match="their rank is 5 of 21"):
        wide = agd.fit(X, y)
    assert wide.success
    np.testing.assert_allclose(wide.predict(X), y, atol=1e-8)


def test_constant_target_and_single_row():
    X, _ = made()
    flat = agd.fit(X, np.full(60, 0.1))
    assert flat.success
    np.testing.assert_allclose(flat.predict(X), 0.1, rtol=1e-12)
    with pytest.warns(RankWarning, match="their rank is 1 of 4"):
        one = agd.fit(X[:1], [3.0])
    assert one.success
    assert one.predict(X[:1])[0] == pytest.approx(3.0)
    none = agd.fit(X, np.zeros(60), loss="poisson", penalty=L2(0.1), stop=Stop(grad_tol=1e-3))
    assert np.isfinite(none.coef).all()


def test_separable_classes_are_named():
    X = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    with pytest.warns(agd.ConvergenceWarning, match="perfectly separated.*add a penalty"):
        found = agd.fit(X, [0, 0, 1, 1], loss="log_loss", stop=Stop(max_iter=500))
    assert np.isfinite(found.coef).all()
    assert agd.fit(X, [0, 0, 1, 1], loss="log_loss", penalty=L2(0.01)).success


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_units_do_not_matter(scale):
    X, targets = made()
    y = targets["squared_error"]
    base = agd.fit(X, y)
    for found, factor in ((agd.fit(X, y * scale), scale), (agd.fit(X * scale, y), 1.0 / scale)):
        assert found.status is Status.CONVERGED
        assert found.nit == base.nit
        np.testing.assert_allclose(found.coef, base.coef * factor, rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("scale", [1e-305, 1e-160, 1e160, 1e300])
def test_columns_of_extreme_size_are_fitted(loss, scale):
    X, targets = made()
    base, found = (agd.fit(A, targets[loss], loss=loss) for A in (X, X * scale))
    assert found.success
    np.testing.assert_allclose(found.coef * scale, base.coef, rtol=1e-8)


def test_far_from_zero_and_of_extreme_size():
    x = np.random.default_rng(0).normal(size=200)
    for X in (x + 1e6, x * 1e150, x * 1e-150):
        found = agd.fit(X[:, None], 2.0 * x + 1.0)
        assert found.success
        np.testing.assert_allclose(found.predict(X[:, None]), 2.0 * x + 1.0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e150])
def test_targets_of_extreme_size_are_fitted(scale):
    X, targets = made()
    y = targets["squared_error"]
    found = agd.fit(X, y * scale)  # below 1e-160 its squares are nothing at all
    assert found.success
    np.testing.assert_allclose(found.coef / scale, agd.fit(X, y).coef, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-6, 1e200, 1e300])
def test_counts_of_extreme_size_move_the_intercept_alone(scale):
    X, targets = made()
    base, found = (
        agd.fit(X, y, loss="poisson") for y in (targets["poisson"], targets["poisson"] * scale)
    )
    assert found.success
    np.testing.assert_allclose(found.coef, base.coef, rtol=1e-7)
    assert found.intercept == pytest.approx(base.intercept + math.log(scale), rel=1e-9)


def test_a_slope_that_is_lost_in_rounding_has_not_converged():
    X, targets = made()
    with pytest.warns(agd.ConvergenceWarning, match="the precision of the arithmetic is reached"):
        found = agd.fit(X, targets["squared_error"] * 1e100, loss="huber", stop=Stop(max_iter=100))
    assert found.status is Status.LINE_SEARCH


def test_targets_too_large_for_the_loss_are_said(xp):
    X, targets = made()
    y = targets["squared_error"] * (1e20 if "float32" in str(xp.dtype) else 1e160)
    kind = str(xp.host_dtype)
    with pytest.raises(ValueError, match=f"y is too large for loss 'squared_error' in {kind}"):
        agd.fit(xp.asarray(X), xp.asarray(y))


@pytest.mark.parametrize("method", ["auto", "gd"])
@pytest.mark.parametrize("intercept", [True, np.False_])
def test_columns_out_of_range_are_named(method, intercept, xp):
    X, targets = made()
    small = 1e-40 if "float32" in str(xp.dtype) else 1e-310
    large = 1e37 if "float32" in str(xp.dtype) else 1e307
    for scale, what in ((small, "small: its coefficient"), (large, "large: sums over its rows")):
        if xp.name.startswith("jax") and scale == small:
            continue  # XLA takes numbers below the normal ones for 0
        A = xp.asarray(X * [1.0, 1.0, scale])
        with pytest.raises(
            ValueError, match=f"column 2 of X, whose largest .* is too {what} would"
        ):
            agd.fit(A, xp.asarray(targets["squared_error"]), method=method, intercept=intercept)


def test_a_problem_out_of_range_is_named_with_its_number():
    X, targets = made()
    y = targets["squared_error"]
    with pytest.raises(ValueError, match="column 0 of X of problem 1, whose"):
        agd.fit(np.stack([X, X * 1e-310]), np.stack([y, y]))
    with pytest.raises(ValueError, match="y of problem 1 is too large"):
        agd.fit(X, np.column_stack([y, y * 1e160]))


def test_units_in_which_the_curvature_overflows_are_said():
    X, targets = made()
    with pytest.raises(
        ValueError, match=r"works in the units of X.*overflows float64: use method='auto'"
    ):
        agd.fit(X * 1e160, targets["squared_error"], method="gd")


def test_a_first_point_at_which_the_loss_overflows_is_the_users():
    X, targets = made()
    with pytest.warns(agd.ConvergenceWarning, match="not finite"):
        found = agd.fit(X, targets["squared_error"], init=np.full(3, 1e200))
    assert found.status is Status.NON_FINITE


def test_weights_whose_sum_overflows_are_said(xp):
    X, targets = made()
    large = 1e38 if "float32" in str(xp.dtype) else 1e308
    with pytest.raises(ValueError, match="sample_weight must have a finite sum"):
        agd.fit(
            xp.asarray(X),
            xp.asarray(targets["poisson"]),
            sample_weight=xp.asarray(np.full(60, large)),
        )
