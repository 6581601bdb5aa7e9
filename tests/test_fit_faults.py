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
