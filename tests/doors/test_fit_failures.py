"""`agd.fit` on data and settings that are hard or wrong: what it does, and what it says of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd import Status, Stop
from agd.loss import Huber


def drawn(loss, n=200, p=3, seed=0):
    """Return centred columns and targets for a loss."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, p))
    z = Z @ np.asarray([0.5, -0.3, 0.2, 0.1])[:p]
    y = {
        "huber": z + rng.standard_t(3, size=n),
        "log_loss": (rng.random(n) < 1.0 / (1.0 + np.exp(-z))) * 1.0,
        "poisson": rng.poisson(np.exp(z)) * 1.0,
    }
    return Z, y[loss]


LOSSES = pytest.mark.parametrize("loss", ["huber", "log_loss", "poisson"])


# -- columns far from zero -----------------------------------------------------------------------


@LOSSES
@pytest.mark.parametrize("far", [50.0, 1e4, 1e6])
def test_columns_far_from_zero_are_fitted_as_well_as_centred_ones(loss, far):
    for seed in range(4):
        Z, y = drawn(loss, seed=seed)
        X = Z + far
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found, centred = (agd.fit(A, y, loss=loss) for A in (X, X - far))
        assert found.status is Status.CONVERGED
        np.testing.assert_allclose(found.coef, centred.coef, rtol=1e-9, atol=1e-12)


@LOSSES
def test_columns_far_from_zero_are_fitted_on_every_library(loss, xp):
    Z, y = drawn(loss)
    far = 64.0 if "float32" in str(xp.dtype) else 1e4
    X = xp.asarray(Z + far)
    found = agd.fit(X, xp.asarray(y), loss=loss)
    centred = agd.fit(xp.to_numpy(X).astype(float) - far, y, loss=loss)
    assert found.status is Status.CONVERGED
    rtol = 1e-2 if "float32" in str(xp.dtype) else 1e-8
    np.testing.assert_allclose(xp.to_numpy(found.coef), centred.coef, rtol=rtol, atol=rtol)


def test_problems_with_columns_far_from_zero_all_converge(xp):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 40, 4)) * [1.0, 100.0, 0.01, 1.0] + 5.0
    y = ((X - 5.0) / [1.0, 100.0, 0.01, 1.0]) @ rng.normal(size=4) + rng.normal(size=(6, 40))
    if xp.name == "dask":
        pytest.skip("a chunked X has no problems along leading axes")
    found = agd.fit(xp.asarray(X), xp.asarray(y), loss="huber")
    assert found.success.all()


@pytest.mark.parametrize("loss", ["huber", Huber(1.0)])
def test_a_search_that_ends_early_does_not_blame_a_gradient_that_is_our_own(loss):
    Z, y = drawn("huber")
    with pytest.warns(agd.ConvergenceWarning) as caught:
        found = agd.fit(Z, y, loss=loss, stop=Stop(grad_tol=1e-300))
    assert found.status is Status.LINE_SEARCH
    assert "precision of the arithmetic is reached" in found.message
    assert "check_gradient" not in found.message + str(caught[0].message)


def test_a_loss_of_the_users_own_may_have_a_wrong_slope():
    class Wrong:
        name, classes, curvature, huber = "wrong", None, 1.0, Huber()

        def value(self, z, y):
            return self.huber.value(z, y)

        def slope(self, z, y):
            return -self.huber.slope(z, y)

        def link(self, mean):
            return mean

        def outside(self, y):
            return y != y  # noqa: PLR0124 - NaN

    Z, y = drawn("huber")
    with pytest.warns(agd.ConvergenceWarning, match="slope of loss 'wrong' is wrong"):
        found = agd.fit(Z + 1e4, y, loss=Wrong())
    assert found.status is Status.LINE_SEARCH


# -- numbers that a dtype cannot hold, or holds otherwise -----------------------------------------


@pytest.mark.parametrize("penalty", [agd.loss.L2(1e200), agd.loss.L1(1e200)])
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_penalty_too_large_for_the_dtype_is_named(penalty, loss):
    Z, y = drawn("huber")
    with pytest.raises(ValueError, match=r"penalty L.\(alpha=1e\+200\) is too large for float32"):
        agd.fit(Z.astype("f4"), y.astype("f4"), loss=loss, penalty=penalty)


@pytest.mark.parametrize("rule", [agd.update.adam, agd.update.gradient_descent])
def test_a_learning_rate_out_of_range_is_named(rule):
    Z, y = drawn("huber")
    with pytest.raises(ValueError, match=r"smaller learning_rate than 1e\+300"):
        agd.fit(Z, y, method=rule(1e300))


def test_what_is_finite_but_too_large_for_the_dtype_of_X_is_said_to_be(xp):
    if "float32" in str(xp.dtype) or xp.name == "dask":
        pytest.skip("X is in single precision here, in memory")
    Z, y = drawn("huber")
    X, big = xp.asarray(Z, dtype=xp.ns.float32), np.where(np.arange(200) == 3, 1e200, 1.0)
    too = "1 value too large for float32, the dtype of X, the first at"
    with pytest.raises(ValueError, match=rf"^y has {too} y\[3\] = 1e\+200"):
        agd.fit(X, big)
    with pytest.raises(ValueError, match=rf"^sample_weight has {too} sample_weight\[3\]"):
        agd.fit(X, y, sample_weight=big)
    with pytest.raises(ValueError, match=rf"^init's coef has {too} init's coef\[1\]"):
        agd.fit(X, y, loss="huber", init=np.asarray([0.0, 1e200, 0.0]))
    with pytest.raises(ValueError, match="y has 1 NaN or infinite value"):
        agd.fit(X, np.where(big > 1.0, np.inf, 1.0))


def test_units_too_large_for_descent_are_said_without_another_warning():
    Z, y = drawn("huber")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="works in the units of X"):
            agd.fit(Z * 1e150, y, method="gd")


@pytest.mark.parametrize("kind", [">f8", ">f4", ">i4"])
def test_numbers_in_the_other_byte_order_are_taken(kind):
    rng = np.random.default_rng(0)
    X = np.round(8.0 * rng.normal(size=(50, 3)))
    y = np.round(X @ [1.0, 2.0, -3.0] + rng.normal(size=50))
    other, targets = X.astype(kind), y.astype(kind)
    for penalty in (agd.loss.NonNegative(), agd.loss.L1(0.1), None):
        known = agd.fit(X.astype(other.dtype.newbyteorder("=")), y, penalty=penalty)
        found = agd.fit(other, targets, penalty=penalty, sample_weight=np.ones(50, kind))
        np.testing.assert_allclose(found.coef, known.coef, rtol=1e-3, atol=1e-4)
        assert found.coef.dtype.isnative
        np.testing.assert_allclose(found.predict(other), known.predict(X), rtol=1e-3, atol=1e-3)
    stream = agd.Stream.from_arrays(other, targets)
    assert agd.fit(stream, penalty=agd.loss.NonNegative()).success


def test_points_in_the_other_byte_order_are_taken():
    def fun(x):
        return np.sum((x - 3.0) ** 2)

    for more in ({}, {"penalty": agd.loss.NonNegative()}, {"bounds": [(0, 1), (0, 5)]}):
        found = agd.minimize(fun, np.asarray([1.0, 2.0], dtype=">f8"), **more)
        assert found.success
        assert found.x.dtype.isnative


@pytest.mark.backend("torch")
def test_a_tensor_that_holds_no_values_is_refused():
    torch = pytest.importorskip("torch")
    X, y = torch.zeros(5, 2, device="meta"), torch.zeros(5, device="meta")
    with pytest.raises(ValueError, match="X is on the device 'meta'"):
        agd.fit(X, y)
    with pytest.raises(ValueError, match="y is on the device 'meta'"):
        agd.fit(torch.zeros(5, 2), y)
    with pytest.raises(ValueError, match="x0 is on the device 'meta'"):
        agd.minimize(lambda x: (x**2).sum(), y)


# -- rates that are too large --------------------------------------------------------------------


def test_a_rate_too_large_for_a_loss_of_bounded_slope_is_called_so():
    Z, y = drawn("huber")
    with pytest.warns(agd.ConvergenceWarning, match=r"diverged.*2/L = .*learning_rate below it"):
        found = agd.fit(
            Z, y, loss="huber", method=agd.update.gradient_descent(1e3), stop=Stop(max_iter=200)
        )
    assert found.status is Status.DIVERGED
    assert "max_iter" not in found.message
    assert found.fun > 10.0 * found.history.value[0]
    with pytest.warns(agd.ConvergenceWarning, match="learning rate is too large"):
        found = agd.fit(Z, y, loss="huber", method=agd.update.adam(1e3), stop=Stop(max_iter=200))
    assert found.status is Status.DIVERGED


def test_a_rate_above_the_largest_stable_one_is_said_to_be():
    Z, y = drawn("huber")
    step = agd.fit(Z, y, loss="huber", method="gd").certificate.largest_step
    go = {"loss": "huber", "stop": Stop(max_iter=100)}
    with pytest.warns(agd.ConvergenceWarning, match=r"is above 2/L = .*use a learning_rate below"):
        found = agd.fit(Z, y, method=agd.update.gradient_descent(3.0 * step), **go)
    assert found.status is Status.MAX_ITER
    assert "raise max_iter" not in found.message
    with pytest.warns(agd.ConvergenceWarning, match="raise max_iter"):
        agd.fit(Z, y, method=agd.update.gradient_descent(0.001 * step), **go)


def test_of_many_problems_those_that_rose_are_called_diverged(xp):
    if xp.name == "dask":
        pytest.skip("a chunked X has no problems along leading axes")
    Z, y = drawn("huber")
    X = xp.asarray(np.stack([Z, 1e3 * Z]))
    with pytest.warns(agd.ConvergenceWarning, match="1 of 2 diverged"):
        found = agd.fit(
            X, xp.asarray(np.stack([y, y])), loss="huber", method=agd.update.gradient_descent(0.1),
            stop=Stop(max_iter=100),
        )  # fmt: skip
    assert found.status[1] == Status.DIVERGED != found.status[0]


# -- fits that have no minimum -------------------------------------------------------------------


def with_dummy(loss, rows=5, n=60):
    """Return columns of which the last is 1 in rows of one class, or of count 0, and 0 elsewhere."""
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.normal(size=(n, 2)), np.arange(n) < rows])
    y = (rng.random(n) < 0.5) * 1.0 if loss == "log_loss" else rng.poisson(3.0, n) * 1.0
    y[:rows] = 1.0 if loss == "log_loss" else 0.0
    return X, y


ENDLESS = "grow without bound and no minimum exists: add a penalty"


@pytest.mark.parametrize("loss", ["log_loss", "poisson"])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_column_that_tells_rows_of_one_kind_apart_is_named(loss, rows, xp):
    X, y = with_dummy(loss, rows)
    kind = "of one class" if loss == "log_loss" else "of count 0"
    said = rf"column 2 of X tells {rows} rows {kind} from all others.*{ENDLESS}"
    with pytest.warns(agd.ConvergenceWarning, match=said):
        agd.fit(xp.asarray(X), xp.asarray(y), loss=loss)
    agd.fit(xp.asarray(X), xp.asarray(y), loss=loss, penalty=agd.loss.L2(0.1))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_units_do_not_hide_a_column_that_tells_rows_apart(scale, far):
    X, y = with_dummy("log_loss")
    weight = np.ones(60)
    with pytest.warns(agd.ConvergenceWarning, match="column 2 of X tells 5 rows"):
        agd.fit(
            (X + np.asarray([0.0, far, far])) * [1.0, 1.0, scale],
            y,
            loss="log_loss",
            sample_weight=weight,
        )
    with pytest.warns(agd.ConvergenceWarning, match="column 2 of X tells 5 rows"):
        agd.fit(X, y, loss="log_loss", method="lbfgs")


def test_a_combination_of_columns_and_counts_that_are_all_zero_are_found():
    X, y = with_dummy("log_loss")
    mixed = X @ [[1.0, 0.5, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, -1.0]]
    with pytest.warns(agd.ConvergenceWarning, match="a direction in X tells 5 rows of one class"):
        agd.fit(mixed, y, loss="log_loss")
    with pytest.warns(agd.ConvergenceWarning, match=f"60 rows of count 0.*{ENDLESS}"):
        agd.fit(X, np.zeros(60), loss="poisson")
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.warns(agd.ConvergenceWarning, match="column 2 of X tells 5 rows"):
        agd.fit(sparse.csr_array(X), y, loss="log_loss")


def test_rows_at_the_end_of_a_loss_are_no_separation():
    X, y = with_dummy("log_loss")
    mixed, counts = y.copy(), with_dummy("poisson")[1]
    mixed[0], counts[0] = 0.0, 3.0  # one row of the other kind: a minimum exists
    rng = np.random.default_rng(3)
    steep = rng.normal(size=(300, 3)) * 10.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agd.fit(X, mixed, loss="log_loss")
        agd.fit(X, counts, loss="poisson")
        for far in (1e3, 1e6):  # a row beyond all doubt beside rows that leave some
            agd.fit(np.vstack([X[5:, :2], [far, 0.0]]), np.append(y[5:], 1.0), loss="log_loss")
        agd.fit(steep, (rng.random(300) < 1 / (1 + np.exp(-steep[:, 0]))) * 1.0, loss="log_loss")
        agd.fit(steep / 2.0, rng.poisson(np.exp(steep[:, 0] / 2.0)) * 1.0, loss="poisson")
        agd.fit(X[:3, :2], [3.0, 1.0, 4.0], loss="poisson")  # as many rows as parameters


# -- columns that are nearly dependent -----------------------------------------------------------


def test_columns_that_leave_few_digits_are_warned_of():
    Z, y = drawn("huber")
    nearly = np.random.default_rng(5).normal(size=200)
    with pytest.warns(
        np.exceptions.RankWarning, match=r"condition number 2.*leaves \d of their digits"
    ):
        found = agd.fit(np.column_stack([Z, Z[:, 0] + 1e-14 * nearly]), y)
    assert "condition number" in found.message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agd.fit(np.column_stack([Z, Z[:, 0] + 1e-9 * nearly]), y)
