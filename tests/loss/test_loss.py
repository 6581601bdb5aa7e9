"""Losses: known values, slope as derivative, convexity, both ends, every library."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import loss
from agd.loss import Huber, Logistic, Poisson
from agd.loss._stable import log1p, sum_of_log1p
from helpers import known_values

LOSSES = pytest.mark.parametrize("case", known_values.LOSSES.values(), ids=known_values.LOSSES)
ONE_OUTPUT = pytest.mark.parametrize(
    "case", known_values.ONE_OUTPUT.values(), ids=known_values.ONE_OUTPUT
)


@LOSSES
def test_known_value_and_slope(case, xp):
    z, y, value, slope = case.known
    z, y = xp.asarray([z]), xp.asarray([y])
    got_value, got_slope = case.loss.value_and_slope(z, y)
    for got, want in ((got_value, value), (got_slope, slope)):
        np.testing.assert_allclose(xp.to_numpy(got), [want], rtol=1e-6)
        assert got.dtype == xp.dtype
    np.testing.assert_array_equal(xp.to_numpy(case.loss.value(z, y)), xp.to_numpy(got_value))
    np.testing.assert_array_equal(xp.to_numpy(case.loss.slope(z, y)), xp.to_numpy(got_slope))


@ONE_OUTPUT
@pytest.mark.parametrize("shape", [(1,), (37,), (3, 100), (0,)])
def test_the_sum_is_that_of_the_values(case, shape, xp):
    rng = np.random.default_rng(0)
    z, y = xp.asarray(3.0 * rng.normal(size=shape)), xp.asarray(rng.choice(case.targets, shape))
    total, slope = loss.sum_and_slope(case.loss, z, y)
    values, slopes = (xp.to_numpy(part) for part in loss.value_and_slope(case.loss, z, y))
    np.testing.assert_allclose(
        xp.to_numpy(total), values.sum(axis=-1), rtol=8.0 * np.finfo(values.dtype).eps
    )
    np.testing.assert_array_equal(xp.to_numpy(slope), slopes)
    assert (total.dtype, tuple(total.shape)) == (xp.dtype, shape[:-1])


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 3, 31, 1000, 10_007])
def test_logarithms_and_their_sum_keep_the_digits_of_small_numbers(n, dtype):
    rng, eps = np.random.default_rng(n), np.finfo(dtype).eps
    for u in (
        np.exp(-rng.uniform(0.0, 60.0, size=n)),  # of every size
        np.exp(-rng.uniform(30.0, 80.0, size=n)),  # all lost beside 1
        np.ones(n),  # the largest, whose product must not overflow
        np.zeros(n),
    ):
        few = u.astype(dtype)
        want = np.log1p(few.astype(np.longdouble))
        np.testing.assert_allclose(log1p(few), want, rtol=4.0 * eps, atol=0.0)
        got = sum_of_log1p(few)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want.sum(), rtol=8.0 * eps, atol=0.0)
    assert np.isnan(sum_of_log1p(np.asarray([1.0, np.nan, 0.5])))


@pytest.mark.backend("jax")
@ONE_OUTPUT
def test_together_and_apart_agree_when_compiled(case):
    jax = pytest.importorskip("jax")
    z = np.asarray([-700.0, -30.0, -1.0, 0.0, 1e-9, 2.0, 40.0, 700.0])
    z = z * case.overflow_share
    for target in case.targets:
        y = np.full_like(z, target)
        with np.errstate(over="raise", invalid="raise", divide="raise"):  # underflow to 0 is right
            want = case.loss.value_and_slope(z, y)
        got = jax.jit(case.loss.value_and_slope)(jax.numpy.asarray(z), jax.numpy.asarray(y))
        apart = jax.jit(case.loss.value)(z, y), jax.jit(case.loss.slope)(z, y)
        for a, b, c in zip(want, got, apart, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-13)
            np.testing.assert_allclose(c, a, rtol=1e-13)


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("far", [1e4, 1e30])
@ONE_OUTPUT
def test_a_loss_of_bounded_curvature_is_finite_far_out(case, far):
    if case.loss.curvature_bound is None:
        pytest.skip("its curvature has no bound: it may overflow")
    z = np.asarray([-far, far])
    for target in case.targets:
        y = np.full_like(z, target)
        value, slope = case.loss.value_and_gradient(z, y)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()
        assert (case.loss.hessian(z, y) >= 0.0).all() or not case.loss.convex


class LogCosh:
    """A loss as somebody else would write one: value and slope, and nothing that joins them."""

    name, curvature, classes, domain = "log_cosh", 1.0, None, "any number"

    def value(self, z, y):
        r = abs(z - y)
        return r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0)

    def slope(self, z, y):
        return np.tanh(z - y)

    def link(self, mean):
        return mean

    def predict(self, z):
        return z

    def outside(self, y):
        return np.zeros_like(y, dtype=bool)


@pytest.mark.backend("numpy")
def test_a_loss_may_leave_out_value_and_slope():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ np.asarray([1.0, -2.0, 0.5]) + 0.1 * rng.standard_t(1, size=60)
    assert loss.get(LogCosh()).name == "log_cosh"
    found = agd.fit(X, y, loss=LogCosh(), stop=agd.Stop(grad_tol=1e-10))
    r = X @ found.coef + found.intercept - y
    assert found.success
    assert abs(X.T @ np.tanh(r) / 60).max() < 1e-9
    assert abs(found.fun - np.mean(LogCosh().value(r, 0.0))) < 1e-14


@ONE_OUTPUT
def test_slope_is_the_derivative_of_value(case):
    z = np.linspace(-6.0, 6.0, 241) + 0.0123  # off the corners
    h = 1e-6
    for target in case.targets:
        y = np.full_like(z, target)
        numeric = (case.loss.value(z + h, y) - case.loss.value(z - h, y)) / (2 * h)
        np.testing.assert_allclose(case.loss.slope(z, y), numeric, rtol=1e-6, atol=1e-8)


@ONE_OUTPUT
def test_hessian_is_the_derivative_of_gradient(case, xp):
    z = np.linspace(-6.0, 6.0, 241) + 0.0123  # off the corners
    h = 1e-6
    for target in case.targets:
        y = np.full_like(z, target)
        numeric = (case.loss.gradient(z + h, y) - case.loss.gradient(z - h, y)) / (2 * h)
        hessian = case.loss.hessian(xp.asarray(z), xp.asarray(y))
        assert hessian.dtype == xp.dtype
        rtol = 1e-4 if "32" in str(xp.dtype) else 1e-6
        np.testing.assert_allclose(xp.to_numpy(hessian), numeric, rtol=rtol, atol=1e-8)
        by_default = loss.BaseLoss.hessian(case.loss, z, y)
        np.testing.assert_allclose(by_default, numeric, rtol=1e-6, atol=1e-8)


def test_a_loss_is_complete_with_value_and_gradient():
    class Derived(loss.BaseLoss):
        def value(self, z, y):
            return LogCosh().value(z, y)

        def gradient(self, z, y):
            return np.tanh(z - y)

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ np.asarray([1.0, -2.0, 0.5]) + 0.1 * rng.standard_t(1, size=60)
    stop = agd.Stop(grad_tol=1e-10)
    found, partial = (agd.fit(X, y, loss=kind(), stop=stop) for kind in (Derived, LogCosh))
    np.testing.assert_allclose(found.coef, partial.coef, atol=1e-8)
    with pytest.raises(TypeError, match="gradient"):
        type("Without", (loss.BaseLoss,), {"value": Derived.value})()


def test_earlier_names_of_members_are_kept_in_step():
    class Shifted(Huber):
        def slope(self, z, y):
            return super().slope(z, y + 1.0)

    z, y = np.asarray([0.5, 3.0]), np.zeros(2)
    for name in ("slope", "gradient"):
        np.testing.assert_array_equal(getattr(Shifted(1.0), name)(z, y), [-0.5, 1.0])
    np.testing.assert_array_equal(Huber(1.0).slope(z, y), Huber(1.0).gradient(z, y))
    assert Huber().curvature == Huber().curvature_bound == 1.0
    assert loss.L2(0.5).curvature == loss.L2(0.5).curvature_bound == 0.5


def test_a_subclass_is_not_quadratic_unless_it_says_so():
    class Weighted(loss.Squared):
        pass

    assert loss.Squared().quadratic
    assert not Weighted().quadratic
    assert loss.L2(0.1).quadratic
    assert not loss.ElasticNet(0.1).quadratic


@ONE_OUTPUT
def test_convex_with_the_curvature_it_says(case):
    z = np.linspace(-6.0, 6.0, 1001)
    for target in case.targets:
        change = np.diff(case.loss.slope(z, np.full_like(z, target))) / np.diff(z)
        if case.loss.convex:
            assert change.min() >= -1e-12
        if case.loss.curvature is not None:
            assert change.max() <= case.loss.curvature + 1e-9
            assert change.max() >= 0.9 * case.loss.curvature  # a bound that is reached


@ONE_OUTPUT
def test_predict_inverts_link(case):
    mean = np.asarray([0.1, 0.5, 0.9])
    np.testing.assert_allclose(case.loss.predict(case.loss.link(mean)), mean, rtol=1e-14)


@LOSSES
def test_outside_accepts_its_targets(case, xp):
    assert not xp.to_numpy(case.loss.outside(xp.asarray(case.targets))).any()


def test_outside_refuses_others():
    assert Logistic().outside(np.asarray([0.5, -1.0, 2.0])).all()
    assert Poisson().outside(np.asarray([-1e-300]))[0]


def test_logistic_is_exact_at_both_ends(xp):
    big = 80.0 if "float32" in str(xp.dtype) else 700.0
    z = xp.asarray([big, big, -big, -big])
    value, slope = Logistic().value_and_slope(z, xp.asarray([1.0, 0.0, 0.0, 1.0]))
    tail = np.exp(-big)
    np.testing.assert_allclose(xp.to_numpy(value), [tail, big, tail, big], rtol=1e-5)
    np.testing.assert_allclose(xp.to_numpy(slope), [-tail, 1.0, tail, -1.0], rtol=1e-5)


@pytest.mark.backend("numpy")
def test_values_agree_with_scikit_learn():
    peers = pytest.importorskip("sklearn._loss.loss")
    rng = np.random.default_rng(0)
    z, u = rng.normal(size=200) * 3, rng.normal(size=200)
    pairs = [
        (loss.Squared(), peers.HalfSquaredError(), u),
        (Logistic(), peers.HalfBinomialLoss(), (u > 0) * 1.0),
        (Poisson(), peers.HalfPoissonLoss(), np.floor(np.exp(u))),
        (Huber(0.7), peers.HuberLoss(quantile=0.5, delta=0.7), u),
        (loss.AbsoluteError(), peers.AbsoluteError(), u),
        (loss.Gamma(), peers.HalfGammaLoss(), np.exp(u)),
        (loss.Tweedie(1.3), peers.HalfTweedieLoss(power=1.3), np.floor(np.exp(u))),
    ]
    for ours, theirs, y in pairs:
        want_value, want_slope = theirs.loss_gradient(y_true=y, raw_prediction=z)
        value, slope = ours.value_and_slope(z, y)
        np.testing.assert_allclose(value, want_value, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(slope, want_slope, rtol=1e-12, atol=1e-14)


def test_losses_by_name():
    assert loss.get("huber") == Huber(delta=1.35)
    assert loss.get(Huber(2.0)) == Huber(2.0)
    with pytest.raises(ValueError, match=r"got 'log_los'; did you mean 'log_loss'\?"):
        loss.get("log_los")
    with pytest.raises(TypeError, match=r"agd.loss.Huber\(delta=1.35\)"):
        loss.get(Huber)  # the class, not an object
    with pytest.raises(TypeError, match="loss must be a name"):
        loss.get(None)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_parameters_are_checked(bad):
    with pytest.raises(ValueError, match="delta must be a finite number above 0"):
        Huber(bad)
