"""Blocks, value and gradient, coordinates: properties that hold for all data."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest

from agd._typing import Params
from agd.gradient import Blocks, LinearObjective, Preconditioned, column_scaling, largest_curvature
from agd.gradient.objective import BaseObjective, as_objective
from agd.loss import L2, Squared
from agd.run import Stop, run
from agd.update import Descent, gradient_descent
from helpers import known_values
from helpers.property_testing import given, st

LOSSES = pytest.mark.parametrize(
    "loss", [c.loss for c in known_values.ONE_OUTPUT.values()], ids=known_values.ONE_OUTPUT
)


@st.composite
def problems(draw, targets=(0.0, 1.0)):
    """Draw X, y, weights and params of some shape; moderate sizes, so that rounding stays small."""
    n, p = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** rng.integers(-2, 3, size=p)
    X = rng.normal(size=(n, p)) * scale + draw(st.sampled_from([0.0, 1.0, -3.0]))
    y = rng.choice(targets, size=n)
    weight = rng.uniform(0.1, 2.0, size=n) if draw(st.booleans()) else None
    coef = rng.normal(size=p) / np.abs(X).max(axis=0)  # so that exp(z) stays of moderate size
    params = Params(coef, rng.normal() if draw(st.booleans()) else None)
    return X, y, weight, params


def two_threads():
    return mock.patch("agd.data.threads.thread_count", return_value=2)


def of(problem, loss, penalty=None, **changes):
    X, y, weight, params = problem
    objective = LinearObjective.of(
        X,
        y,
        loss=loss,
        penalty=penalty,
        sample_weight=weight,
        intercept=params.intercept is not None,
    )
    if changes:
        blocks = Blocks.of(X, y, weight, **changes)
        objective = dataclasses.replace(objective, blocks=blocks)
    return objective


def as_params(params):
    return Params(params.coef, None if params.intercept is None else np.asarray(params.intercept))


def close(a, b, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(a[0], b[0], rtol=rtol, atol=atol)
    size = max(1.0, np.abs(b[1].coef).max())
    np.testing.assert_allclose(a[1].coef, b[1].coef, rtol=rtol, atol=atol * size)
    if b[1].intercept is not None:
        np.testing.assert_allclose(a[1].intercept, b[1].intercept, rtol=rtol, atol=atol * size)


@pytest.mark.parametrize("case", known_values.ONE_OUTPUT.values(), ids=known_values.ONE_OUTPUT)
@given(data=st.data(), dtype=st.sampled_from(["float64", "float32"]))
def test_value_and_slope_together_are_the_two_apart(case, data, dtype):
    most = 80.0 if dtype == "float32" else 700.0  # beyond, exp(z) is infinite
    most *= case.overflow_share
    numbers = st.one_of(st.floats(-most, most), st.floats(-2.0, 2.0), st.just(0.0))
    z = np.asarray(data.draw(st.lists(numbers, min_size=1, max_size=20)), dtype=dtype)
    targets = st.lists(st.sampled_from(case.targets), min_size=len(z), max_size=len(z))
    y = np.asarray(data.draw(targets), dtype=dtype)
    value, slope = case.loss.value_and_slope(z, y)
    assert value.dtype == slope.dtype == z.dtype
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    rtol = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(case.loss.value(z, y), value, rtol=rtol)
    np.testing.assert_allclose(case.loss.slope(z, y), slope, rtol=rtol)


@LOSSES
@given(problem=problems())
def test_value_and_gradient_are_the_formulas(loss, problem):
    X, y, weight, params = problem
    s = np.ones_like(y) if weight is None else weight
    z = X @ params.coef + (params.intercept or 0.0)
    slope = s * loss.slope(z, y) / s.sum()
    value = np.sum(s * loss.value(z, y)) / s.sum() + 0.25 * np.sum(params.coef**2)
    want = (value, Params(X.T @ slope + 0.5 * params.coef, slope.sum()))
    if params.intercept is None:
        want = (value, Params(want[1].coef, None))
    close(of(problem, loss, L2(0.5)).value_and_grad(as_params(params)), want)


@LOSSES
@given(problem=problems(), rows=st.integers(1, 12))
def test_splitting_blocks_changes_rounding_only(loss, problem, rows):
    params = as_params(problem[3])
    split = of(problem, loss, rows=rows)
    assert len(split.blocks.cut()) == -(-problem[0].shape[0] // rows)
    close(split.value_and_grad(params), of(problem, loss).value_and_grad(params))


@LOSSES
@given(problem=problems(), seed=st.integers(0, 1000))
def test_permuting_rows_changes_rounding_only(loss, problem, seed):
    X, y, weight, params = problem
    order = np.random.default_rng(seed).permutation(len(y))
    permuted = (X[order], y[order], None if weight is None else weight[order], params)
    params = as_params(params)
    close(of(permuted, loss).value_and_grad(params), of(problem, loss).value_and_grad(params))


@LOSSES
@given(problem=problems(), factor=st.floats(1e-3, 1e3))
def test_scaling_weights_changes_rounding_only(loss, problem, factor):
    X, y, weight, params = problem
    s = np.ones_like(y) if weight is None else weight
    params = as_params(params)
    scaled = of((X, y, factor * s, problem[3]), loss)
    close(scaled.value_and_grad(params), of(problem, loss).value_and_grad(params))


@given(problem=problems())
def test_a_whole_weight_is_a_repeated_row(problem):
    X, y, _, params = problem
    times = 1 + np.arange(len(y)) % 3
    repeated = (np.repeat(X, times, axis=0), np.repeat(y, times), None, params)
    weighted = (X, y, times.astype(float), params)
    params = as_params(params)
    close(
        of(weighted, Squared()).value_and_grad(params),
        of(repeated, Squared()).value_and_grad(params),
    )


@LOSSES
@given(problem=problems())
def test_coordinates_leave_the_function_as_it_was(loss, problem):
    base = of(problem, loss, L2(0.1))
    there = Preconditioned(base, column_scaling(base))
    params = as_params(problem[3])
    v = there.scaling.to_preconditioned(params)
    back = there.scaling.to_original(v)
    np.testing.assert_allclose(back.coef, params.coef, rtol=1e-9)
    value, grad = there.value_and_grad(v)
    want_value, want = base.value_and_grad(params)
    np.testing.assert_allclose(value, want_value, rtol=1e-9)
    got = there.scaling.restore_gradient(grad)
    size = np.abs(want.coef).max() + 1e-3
    np.testing.assert_allclose(got.coef, want.coef, rtol=1e-6, atol=1e-8 * size)


@LOSSES
@given(problem=problems())
def test_a_step_of_one_over_L_never_raises_the_loss(loss, problem):
    if loss.curvature is None:
        return  # no step is safe everywhere
    objective = of(problem, loss, L2(0.1))
    L = float(largest_curvature(objective))
    w = as_params(problem[3])
    value, g = objective.value_and_grad(w)
    for _ in range(5):
        new = Params(
            w.coef - g.coef / L, None if w.intercept is None else w.intercept - g.intercept / L
        )
        after, g = objective.value_and_grad(new)
        assert after <= value + 1e-12 * abs(value)
        value, w = after, new


def test_the_largest_curvature_is_an_eigenvalue(xp):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 3)) * [1.0, 5.0, 0.1] + 1.0
    weight = rng.uniform(0.5, 2.0, size=40)
    Xb = np.column_stack([X, np.ones(40)])
    H = Xb.T @ (weight[:, None] * Xb) / weight.sum() + np.diag([0.1] * 3 + [0.0])
    objective = LinearObjective.of(
        xp.asarray(X), xp.asarray(np.zeros(40)), sample_weight=xp.asarray(weight), penalty=L2(0.1)
    )
    got = float(xp.to_numpy(largest_curvature(objective)))
    assert got == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=max(1e-9, xp.rtol))


def test_blocks_of_a_batch_and_of_shared_rows(xp):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(9, 2)), rng.normal(size=(3, 9))
    if xp.name == "dask":
        pytest.skip("a chunked X is one problem")
    W, b = rng.normal(size=(3, 2)), rng.normal(size=3)
    shared = LinearObjective.of(xp.asarray(X), xp.asarray(Y))
    many = LinearObjective.of(xp.asarray(np.stack([X] * 3)), xp.asarray(Y))
    params = Params(xp.asarray(W), xp.asarray(b))
    r = W @ X.T + b[:, None] - Y
    for objective in (shared, many):
        value, grad = objective.value_and_grad(params)
        assert tuple(value.shape) == (3,)
        np.testing.assert_allclose(xp.to_numpy(value), (r**2).mean(axis=1) / 2, rtol=1e-5)
        np.testing.assert_allclose(xp.to_numpy(grad.coef), r @ X / 9, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            xp.to_numpy(grad.intercept), r.mean(axis=1), rtol=1e-4, atol=1e-6
        )


@pytest.mark.backend("numpy")
@LOSSES
@pytest.mark.parametrize("weights", [None, (), (5,)], ids=["none", "shared", "each"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("intercept", [True, False])
def test_small_problems_some_at_a_time_are_each_alone(loss, weights, dtype, intercept):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5, 40, 3)).astype(dtype)
    y = rng.integers(0, 2, size=(5, 40)).astype(dtype)
    weight = None if weights is None else rng.uniform(0.0, 2.0, (*weights, 40)).astype(dtype)
    W, b = rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=5).astype(dtype)
    given = {"loss": loss, "intercept": intercept}
    objective = LinearObjective.of(X, y, sample_weight=weight, **given)
    with mock.patch("agd.data.arrays.MAX_STACK_BYTES", 2 * X[0].nbytes), two_threads():
        value, grad = objective.value_and_grad(Params(W, b if intercept else None))
    assert (value.dtype, grad.coef.dtype) == (dtype, dtype)
    for i in range(5):
        own = None if weight is None else np.broadcast_to(weight, y.shape)[i]
        alone = LinearObjective.of(X[i], y[i], sample_weight=own, **given)
        want = alone.value_and_grad(Params(W[i], b[i] if intercept else None))
        rtol = 50.0 * np.finfo(dtype).eps
        np.testing.assert_allclose(value[i], want[0], rtol=rtol)
        np.testing.assert_allclose(grad.coef[i], want[1].coef, rtol=rtol, atol=rtol)
        if intercept:
            np.testing.assert_allclose(grad.intercept[i], want[1].intercept, rtol=rtol, atol=rtol)
        else:
            assert grad.intercept is None


def test_large_data_is_cut_into_blocks_that_fit_the_cache():
    X = np.ones((20_000, 50))
    blocks = Blocks.of(X, np.ones(20_000))
    cut = blocks.cut()
    assert len(cut) > 1
    assert max(x.nbytes for x, _, _ in cut) <= 4 * 2**20
    assert sum(x.shape[0] for x, _, _ in cut) == 20_000
    assert all(np.shares_memory(x, X) for x, _, _ in cut)


@pytest.mark.backend("dask")
def test_dask_runs_one_graph_a_pass_and_its_weights_are_in_memory():
    import dask
    import dask.array as da

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 3)), rng.normal(size=100)
    objective = LinearObjective.of(da.from_array(X, chunks=(7, 2)), da.from_array(y, chunks=7))
    start = objective.zeros()
    assert isinstance(start.coef, np.ndarray)
    calls = []

    class Count(dask.callbacks.Callback):
        def _start(self, dsk):
            calls.append(len(dsk))

    with Count():
        value, grad = objective.value_and_grad(start)
        for _ in range(3):  # the graph does not grow with the steps
            _, grad = objective.value_and_grad(grad)
    assert len(calls) == 4
    assert len(set(calls)) == 1
    assert isinstance(grad.coef, np.ndarray)
    assert value == pytest.approx((y**2).mean() / 2)


@pytest.mark.backend("jax")
def test_under_jit_vmap_grad_and_scan():
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(30, 3)))
    for case in known_values.ONE_OUTPUT.values():
        y = jnp.asarray(rng.choice(case.targets, size=30))
        objective = LinearObjective.of(X, y, loss=case.loss, penalty=L2(0.1))
        params = Params(jnp.asarray(rng.normal(size=3)), jnp.asarray(0.3))
        value, grad = objective.value_and_grad(params)
        by_jit = jax.jit(objective.value_and_grad)(params)
        by_autodiff = jax.value_and_grad(lambda p, f=objective: f.value_and_grad(p)[0])(params)
        for got in (by_jit, by_autodiff):
            np.testing.assert_allclose(got[0], value, rtol=1e-12)
            np.testing.assert_allclose(got[1].coef, grad.coef, rtol=1e-10, atol=1e-15)
            np.testing.assert_allclose(got[1].intercept, grad.intercept, rtol=1e-10, atol=1e-15)
        many = jax.vmap(objective.value_and_grad)(Params(jnp.stack([params.coef] * 2), jnp.ones(2)))
        assert many[1].coef.shape == (2, 3)

        rate = 0.1 / max(1.0, float(jnp.linalg.norm(grad.coef)))

        def step(w, _, f=objective, rate=rate):
            value, g = f.value_and_grad(w)
            return jax.tree.map(lambda a, b: a - rate * b, w, g), value

        _, values = jax.lax.scan(step, params, None, length=20)
        assert values[-1] < values[0]
    # Data may be traced too: the objective is made inside.
    inside = jax.jit(lambda X, y: LinearObjective.of(X, y).value_and_grad(params)[0])
    outside = LinearObjective.of(X, y).value_and_grad(params)[0]
    np.testing.assert_allclose(inside(X, y), outside, rtol=1e-12)


class Parabola:
    """An objective with the members of the protocol, and no others."""

    batch_shape = ()

    def value_and_grad(self, x):
        return 0.5 * (x @ x), x

    def grad_norm(self, g, x):
        return 2.0 * abs(g).max()

    def arrays(self):
        return ()

    def with_arrays(self, arrays):
        return self


def test_an_objective_without_the_base_class_gets_its_defaults():
    x = np.asarray([3.0, -4.0])
    plain = Parabola()
    adapted = as_objective(plain)
    assert isinstance(adapted, BaseObjective)
    assert as_objective(adapted) is adapted
    assert adapted.grad_norm(x, x) == 8.0  # its own
    assert BaseObjective.grad_norm(adapted, x, x) == 4.0
    assert not adapted.nonsmooth
    assert adapted.row_count is None
    assert adapted.prox(x, 1.0) is x
    assert float(adapted.penalty_value(x)) == 0.0
    assert adapted.report(x, x) == (x, x)
    assert adapted == as_objective(plain).with_arrays(None)
    assert len({adapted, as_objective(plain), as_objective(Parabola())}) == 2
    found = run(Descent(gradient_descent(0.5)), plain, x, Stop(grad_tol=1e-6))
    assert found.success


def test_an_objective_without_the_base_class_keeps_what_it_has():
    class Rows(Parabola):
        rows, compilable, nonsmooth, value_calls = 5, False, True, 3

        def take(self, rows):
            return Parabola()

    adapted = as_objective(Rows())
    assert (adapted.row_count, adapted.compilable, adapted.nonsmooth) == (5, False, True)
    assert adapted.value_calls == 3
    assert adapted.grad_calls == 1
    assert isinstance(adapted.take_rows(np.arange(2)), BaseObjective)
