"""Penalties with a prox, of the squared loss, by steps on the moments that are held against the data."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status, Stop
from agd._typing import Params
from agd.gradient import LinearObjective, Moments, column_scaling
from agd.gradient.preconditioner import Preconditioned
from agd.gradient.quadratic import MomentObjective
from agd.loss import L1, L2, Box, ElasticNet, GroupL1, L2Ball, NonNegative, Simplex
from agd.run import run
from agd.update import FISTA
from helpers.property_testing import given, st

ON_MOMENTS = "accelerated proximal gradient on the moments"
FACES = "accelerated proximal gradient and faces on the moments"
SEMISMOOTH = "semismooth Newton on the moments"
SEPARABLE = (SEMISMOOTH, FACES)  # the second where the first does not lead to the minimum


def data(n=80, p=6, seed=0, near=0.0):
    """Return rows of unequal scale and offset; with `near`, a column that is almost another."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.logspace(-1, 1, p) + np.linspace(-5, 20, p)
    if near:
        X[:, 1] = X[:, 0] + near * rng.normal(size=n)
    return X, X @ (np.linspace(2, -2, p) / np.logspace(-1, 1, p)) + 0.5 * rng.normal(size=n)


PENALTIES = [
    L1(0.1), ElasticNet(0.2, 0.5), GroupL1(0.1, (0, 0, 1, 1, 1, 2)), NonNegative(), Box(-0.5, 1.0), Simplex(2.0),
]  # fmt: skip


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_the_answer_is_that_of_steps_on_the_data(penalty, intercept):
    X, y = data()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, 80)
    kwargs = {"penalty": penalty, "intercept": intercept, "sample_weight": weight}
    quick = agd.fit(X, y, **kwargs)
    plain = agd.fit(X, y, method=FISTA(), **kwargs)
    assert quick.method == (SEMISMOOTH if penalty.separable else ON_MOMENTS)
    assert plain.method == "accelerated proximal gradient"
    assert quick.status is Status.CONVERGED
    np.testing.assert_allclose(quick.coef, plain.coef, rtol=1e-7, atol=2e-7)
    assert quick.fun == pytest.approx(plain.fun, rel=1e-12)
    if intercept:
        assert quick.intercept == pytest.approx(plain.intercept, rel=1e-8)


def test_on_every_library(xp):
    X, y = data()
    found = agd.fit(xp.asarray(X), xp.asarray(y), penalty=L1(0.1))
    assert found.method == SEMISMOOTH
    assert found.success
    single = "float32" in str(xp.dtype)
    plain = agd.fit(X, y, penalty=L1(0.1), method="fista")
    rtol, atol = (1e-2, 1e-3) if single else (1e-7, 1e-9)
    np.testing.assert_allclose(xp.to_numpy(found.coef), plain.coef, rtol=rtol, atol=atol)
    # The moments, and each evaluation of the data; chunks are looked over first.
    assert found.n_sync == (xp.name == "dask") + found.nfev - found.nit


def test_against_scikit_learn_on_diabetes():
    datasets = pytest.importorskip("sklearn.datasets")
    peers = pytest.importorskip("sklearn.linear_model")
    X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    found = agd.fit(X, y, penalty=L1(1.0), stop=Stop(grad_tol=1e-8))
    peer = peers.Lasso(1.0, tol=1e-14, max_iter=1_000_000).fit(X, y)
    np.testing.assert_allclose(found.coef, peer.coef_, rtol=1e-7, atol=1e-8)
    assert found.method in SEPARABLE


@pytest.mark.parametrize("near", [1e-5, 1e-7])
def test_what_the_moments_lost_is_made_up_for(near):
    X, y = data(near=near)
    penalty = ElasticNet(1e-3, 0.5)
    found = agd.fit(X, y, penalty=penalty)
    assert found.success
    # The data's own gradient, in the scaled coordinates of the stopping test, is small.
    assert found.certificate.grad_norm <= 2.0 * found.certificate.tolerance
    slow = agd.fit(X, y, penalty=penalty, method="fista", stop=Stop(max_iter=100_000))
    assert found.fun <= slow.fun * (1.0 + 1e-12)


def test_a_correction_makes_the_gradient_that_of_the_data():
    X, y = data()
    base = LinearObjective.of(X, y, penalty=L1(0.1))
    moments = Moments.from_blocks(base.blocks)
    quick = MomentObjective.of_data(base, moments)
    rng = np.random.default_rng(0)
    for _ in range(3):
        at = Params(rng.normal(size=6), np.asarray(rng.normal()))
        value, grad = quick.value_and_grad(at)
        there, by_data = base.value_and_grad(at)
        assert value == pytest.approx(there, rel=1e-10)
        np.testing.assert_allclose(grad.coef, by_data.coef, rtol=1e-9, atol=1e-9)
        product, expected = quick.curvature_product(at), base.curvature_product(at)
        np.testing.assert_allclose(product.coef, expected.coef, rtol=1e-10)
        assert product.intercept == pytest.approx(expected.intercept, rel=1e-10)
    lost = MomentObjective.of_data(base, Moments.from_blocks(base.blocks.replace(y=y + 0.01)))
    mended = lost.corrected(at, by_data)
    np.testing.assert_allclose(mended.value_and_grad(at)[1].coef, by_data.coef, rtol=1e-12)
    # The value leans as the gradient does.
    h = 1e-6
    ends = [
        mended.value_and_grad(Params(at.coef + s * h * np.eye(6)[2], at.intercept))[0]
        for s in (1, -1)
    ]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(by_data.coef[2], rel=1e-6)


def test_the_limits_and_the_callback_hold_for_all_rounds():
    X, y = data(near=1e-7)
    seen = []
    found = agd.fit(
        X, y, penalty=ElasticNet(1e-3, 0.5), callback=lambda result: seen.append(result.nit)
    )
    assert seen == sorted(seen)
    assert seen[-1] == found.nit == found.history.nit[-1]
    assert found.nfev > found.nit
    with pytest.warns(agd.ConvergenceWarning, match="limit of iterations"):
        short = agd.fit(X, y, penalty=L2Ball(1.0), stop=Stop(max_iter=3))
    assert (short.nit, short.status) == (3, Status.MAX_ITER)

    def stop(result):
        raise StopIteration

    assert agd.fit(X, y, penalty=L2Ball(1.0), callback=stop).status is Status.CALLBACK


def test_many_targets_are_as_one_by_one():
    X, y = data()
    Y = np.column_stack([y, -y, y**2 / 10.0])
    several = agd.fit(X, Y, penalty=L1(0.1))
    assert several.method == ON_MOMENTS
    for column, coef in zip(Y.T, several.coef, strict=True):
        np.testing.assert_allclose(
            coef, agd.fit(X, column, penalty=L1(0.1)).coef, rtol=1e-7, atol=1e-9
        )


def test_wide_data_and_other_losses_stay_with_the_data():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 40)), rng.normal(size=20)
    assert agd.fit(X, y, penalty=L2Ball(0.1)).method == "accelerated proximal gradient"
    A, t = data()
    assert agd.fit(A, t, loss="huber", penalty=L1(0.1)).method == "proximal Newton"
    assert agd.fit(A, t, loss="huber", penalty=L2Ball(0.1)).method.startswith("proximal gradient")
    assert agd.fit(A, t, penalty=L2(0.1)).method.startswith("descent in whitened")
    tiny = agd.fit(A * 1e-170, t, penalty=NonNegative())
    assert tiny.method == "accelerated proximal gradient"


def test_columns_of_zeros_do_not_send_it_to_the_data():
    X, y = data()
    found = agd.fit(np.column_stack([X, np.zeros(80)]), y, penalty=L1(0.1))
    assert found.method in SEPARABLE
    np.testing.assert_allclose(
        found.coef, [*agd.fit(X, y, penalty=L1(0.1)).coef, 0.0], rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(
    "penalty", [L1(1e-3), NonNegative(), Box(-1.0, 4.0), L2Ball(10.0), L2Ball(1.0)], ids=repr
)
def test_a_small_residual_does_not_stop_the_steps(penalty):
    rng = np.random.default_rng(0)  # the moments' value is rounding then
    X = rng.normal(size=(100, 4))
    y = X @ [1.0, 2.0, 3.0, 0.5] + 1.0
    found = agd.fit(X, y, penalty=penalty)
    base = LinearObjective.of(X, y, penalty=penalty)
    moments = Moments.from_blocks(base.blocks)
    there = Preconditioned(MomentObjective.of_data(base, moments), column_scaling(base, moments))
    steps = run(FISTA(), there, there.zeros(), Stop(grad_tol=1e-10, max_iter=100))
    assert found.success
    assert steps.success
    np.testing.assert_allclose(found.coef, steps.x.coef, rtol=1e-8)


@pytest.mark.backend("numpy")
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(40, 6), (8, 12), (30, 1)]),
    penalty=st.sampled_from([L1(0.02), ElasticNet(0.05, 0.5), NonNegative(), Box(-0.5, 1.0)]),
    intercept=st.booleans(),
    like=st.sampled_from([0.0, 0.9, 0.999]),
)
def test_the_minimum_of_faces_is_the_minimum(seed, shape, penalty, intercept, like):
    rng = np.random.default_rng(seed)
    X = like * rng.normal(size=(shape[0], 1)) + (1.0 - like) * rng.normal(size=shape) + rng.normal()
    y = X @ rng.normal(size=shape[1]) + 0.1 * rng.normal(size=shape[0])
    found = agd.fit(X, y, penalty=penalty, intercept=intercept)
    assert found.method in SEPARABLE
    assert found.success
    assert found.nit <= 60
    objective = LinearObjective.of(X, y, penalty=penalty, intercept=intercept)
    at = Params(found.coef, found.intercept)
    _, grad = objective.value_and_grad(at)
    moved = objective.prox(Params(at.coef - grad.coef, at.intercept), 1.0)
    np.testing.assert_allclose(moved.coef, at.coef, atol=1e-8 * np.abs(X).max() * np.abs(y).max())


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("kind", ["float16", "float32", "longdouble", ">f8"])
def test_faces_of_any_kind_of_number(kind):
    X, y = data()
    found = agd.fit(X.astype(kind), y.astype(kind), penalty=L1(0.5))
    assert found.success
    assert found.method in SEPARABLE
    np.testing.assert_allclose(
        found.coef.astype(float), agd.fit(X, y, penalty=L1(0.5)).coef, rtol=0.1, atol=0.02
    )


def test_powers_of_one_column_take_a_few_steps():
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 1.0, 100)
    y = np.sin(3.0 * x) + 0.1 * rng.normal(size=100)
    found = agd.fit(x[:, None] ** np.arange(1, 11), y, penalty=L1(1e-4))
    assert found.success
    assert found.nit <= 20
    assert 2 <= np.count_nonzero(found.coef) <= 5  # to the last bit


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_faces_know_no_unit_of_the_targets(unit):
    x = np.linspace(0.0, 1.0, 100)
    y = unit * (np.sin(3.0 * x) + 0.1 * np.random.default_rng(0).normal(size=100))
    found = agd.fit(x[:, None] ** np.arange(1, 11), y, penalty=L1(1e-4 * unit))
    assert found.success
    assert found.nit <= 20


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("offset", [1e4, 1e6, 1e7])
@pytest.mark.parametrize("penalty", [agd.loss.L1(0.05), agd.loss.NonNegative()], ids=str)
@pytest.mark.parametrize("stop", [None, agd.Stop()], ids=["direct", "loop"])
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_columns_far_from_zero_take_no_more_steps(offset, penalty, stop, loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 8))
    y = X[:, 0] + rng.normal(size=500)
    near = agd.fit(X, y, penalty=penalty, stop=stop, loss=loss)
    far = agd.fit(X + offset, y, penalty=penalty, stop=stop, loss=loss)
    assert far.success
    assert far.solver == near.solver
    assert far.nfev <= near.nfev + 2
    np.testing.assert_allclose(far.coef, near.coef, rtol=0, atol=1e-14 * offset)
