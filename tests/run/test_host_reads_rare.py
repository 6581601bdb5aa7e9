"""Host reads on the ways that few fits go: badly conditioned columns, callbacks, rules that hold numbers."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Stop, backends
from helpers.host_reads import WATCHED_DEVICES, ignore_convergence_warnings, watch

__all__ = ["ignore_convergence_warnings", "watch"]

pytestmark = pytest.mark.usefixtures("ignore_convergence_warnings")

SOON = Stop(max_iter=20)
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(60, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.3 * _RNG.normal(size=60)
LABELS = (Y > 0.0) * 1.0
NEARLY = np.hstack([X, X[:, :1] + 1e-7 * X[:, 1:2]])
MANY = _RNG.normal(size=(3, 20, 2))

FITS = {
    "nearly dependent": (NEARLY, Y, {}),
    "nearly dependent, logistic": (NEARLY, LABELS, {"loss": "log_loss", "stop": SOON}),
    "dependent, by steps": (np.hstack([X, X[:, :1]]), Y, {"method": "accelerated", "stop": SOON}),
    "too small to square": (1e-200 * X, Y, {}),
    "far from zero": (X + 1e6, Y, {}),
    "far from zero, logistic": (X + 1e6, LABELS, {"loss": "log_loss", "stop": SOON}),
    "of uneven size": (X * [1.0, 1e-6, 1e6], Y, {"stop": SOON}),
    "more columns than rows": (_RNG.normal(size=(8, 30)), _RNG.normal(size=8), {}),
    "separable": (X, (X[:, 0] > 0.0) * 1.0, {"loss": "log_loss", "stop": SOON}),
    "labels of signs": (X, 2.0 * LABELS - 1.0, {"loss": "log_loss"}),
    "lasso, logistic": (
        X, LABELS, {"loss": "log_loss", "penalty": agd.loss.L1(0.01), "stop": SOON}
    ),
    "problems, of which one is separable": (
        MANY, np.where(np.arange(3)[:, None] == 1, MANY[..., 0], MANY[..., 1] + 1.0) > 0.0,
        {"loss": "log_loss", "stop": SOON},
    ),
    "a rule with a number that changes": (
        X, Y, {"method": agd.update.inject_hyperparams(agd.update.adam)(0.1), "stop": SOON}
    ),
    "mini-batches, weighted by a schedule": (
        X, Y, {"method": agd.update.sgd(agd.update.constant(0.01)), "stop": Stop(max_iter=3)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("spec", [spec for name, spec in WATCHED_DEVICES.items() if name != "jax"])
@pytest.mark.parametrize("name", FITS)
def test_a_rare_fit_reads_as_often_as_it_says(spec, name, watch):
    X, y, options = FITS[name]
    where = backends.select(spec)
    X, y = where.asarray(X), where.asarray(y.astype(float))
    seen = watch(X)
    found = agd.fit(X, y, **options)
    assert seen.past == []
    assert seen.door == found.n_sync > 0


def test_what_a_callback_reads_is_no_read_of_the_fit(xp):
    if xp.name == "dask":
        pytest.skip("slow to build: the loop is the same")
    X_, y = xp.asarray(X), xp.asarray(Y)
    settings = {"method": "accelerated", "stop": Stop(max_iter=12)}
    plain = agd.fit(X_, y, **settings)
    told = agd.fit(X_, y, callback=lambda found: xp.to_numpy(found.x.coef) is None, **settings)
    assert told.n_sync == plain.n_sync


@pytest.mark.backend("numpy")
def test_sharpened_coordinates_are_read_through_the_door():
    sparse = pytest.importorskip("scipy.sparse")
    from agd.gradient import conditioning

    rng = np.random.default_rng(0)
    A = sparse.random(400, 5, density=0.3, format="csr", random_state=0)
    A = sparse.hstack([A, A[:, :1] + 1e-6 * A[:, 1:2]]).tocsr()
    y = A @ rng.normal(size=6)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        refine = conditioning.rayleigh_ritz_whitening

        def counting(*args, **kwargs):
            with backends.count_host_reads() as reads:
                found = refine(*args, **kwargs)
            calls.append(reads[0])
            return found

        patch.setattr("agd.gradient.conditioning.rayleigh_ritz_whitening", counting)
        agd.fit(A, y)
    assert calls == [3]  # how many directions are short, how far from zero, how many are left
