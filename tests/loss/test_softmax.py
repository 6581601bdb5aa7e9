"""The softmax loss: derivatives, digits, and its objective against the formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from agd._typing import Params
from agd.data import BaseData
from agd.gradient import LinearObjective, Preconditioned, column_scaling, largest_curvature
from agd.loss import L1, L2, Logistic, Softmax, get

K = 4


def rows(seed=0, n=30, k=K):
    """Return predictors and classes of some rows."""
    rng = np.random.default_rng(seed)
    return 3.0 * rng.normal(size=(n, k)), rng.integers(0, k, size=n) * 1.0


def probabilities(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_value_and_gradient_are_the_formulas(xp):
    z, y = rows()
    p, chosen = probabilities(z), np.eye(K)[y.astype(int)]
    value, gradient = Softmax(K).value_and_gradient(xp.asarray(z), xp.asarray(y))
    assert (value.dtype, gradient.dtype) == (xp.dtype, xp.dtype)
    np.testing.assert_allclose(xp.to_numpy(value), -np.log(p[chosen > 0]), rtol=xp.rtol, atol=1e-6)
    np.testing.assert_allclose(xp.to_numpy(gradient), p - chosen, rtol=xp.rtol, atol=1e-6)
    np.testing.assert_allclose(
        xp.to_numpy(Softmax(K).inverse_link(xp.asarray(z))), p, rtol=xp.rtol, atol=1e-6
    )


def test_gradient_and_hessian_are_derivatives():
    (z, y), loss, h = rows(), Softmax(K), 1e-6
    hessian = loss.hessian(z, y)
    for j, step in enumerate(h * np.eye(K)):
        by_value = (loss.value(z + step, y) - loss.value(z - step, y)) / (2.0 * h)
        np.testing.assert_allclose(loss.gradient(z, y)[:, j], by_value, rtol=1e-6, atol=1e-8)
        by_gradient = (loss.gradient(z + step, y) - loss.gradient(z - step, y)) / (2.0 * h)
        np.testing.assert_allclose(hessian[:, j], by_gradient, rtol=1e-6, atol=1e-8)
    assert np.linalg.eigvalsh(hessian).min() > -1e-12
    assert np.linalg.eigvalsh(hessian).max() <= loss.curvature_bound
    tie = loss.hessian(np.asarray([[50.0, 50.0, 0.0, 0.0]]), np.zeros(1))
    assert np.linalg.eigvalsh(tie).max() == pytest.approx(loss.curvature_bound)


def test_two_classes_are_the_logistic_loss_to_the_last_digits():
    z = np.concatenate([np.linspace(-40.0, 40.0, 101), [-700.0, 700.0]])
    for target in (0.0, 1.0):
        y = np.full_like(z, target)
        value, gradient = Softmax(2).value_and_gradient(np.stack([0.0 * z, z], axis=-1), y)
        known, slope = Logistic().value_and_gradient(z, y)
        np.testing.assert_allclose(value, known, rtol=1e-14)
        np.testing.assert_allclose(gradient, np.stack([-slope, slope], axis=-1), rtol=1e-14)


def test_a_constant_added_to_all_outputs_changes_nothing():
    z, y = rows()
    np.testing.assert_allclose(Softmax(K).value(z + 100.0, y), Softmax(K).value(z, y), rtol=1e-10)
    np.testing.assert_allclose(Softmax(K).gradient(z, y).sum(axis=-1), 0.0, atol=1e-15)


def test_the_link_has_sum_0_and_inverts_the_probabilities():
    mean = np.asarray([0.1, 0.2, 0.7])
    z = Softmax(3).link(mean)
    assert z.sum() == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(Softmax(3).inverse_link(z), mean, rtol=1e-14)
    with np.errstate(divide="ignore", invalid="ignore"):
        null = Softmax(2).null_model(np.asarray([1.0, 0.0]))
    np.testing.assert_array_equal(null, [0.0, 0.0])


def test_targets_and_numbers_of_classes_are_checked():
    assert Softmax(3).outside(np.asarray([-1.0, 0.5, 3.0, np.nan])).all()
    assert not Softmax(3).outside(np.asarray([0.0, 1.0, 2.0])).any()
    assert get("softmax").with_classes(3) == Softmax(3)
    assert dataclasses.replace(Softmax(3), classes=5).outputs == 5
    for bad in (1, -1):
        with pytest.raises(ValueError, match="classes must be 2 or more"):
            Softmax(bad)
    with pytest.raises(TypeError, match="classes must be"):
        Softmax(2.5)
    with pytest.raises(ValueError, match="the number of classes must be known"):
        LinearObjective.of(np.ones((3, 1)), np.arange(3.0), loss=Softmax()).zeros()


@pytest.mark.backend("jax")
def test_automatic_derivatives_are_the_gradient():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    z, y = rows()
    z[0], y[0] = 0.0, 2.0  # a tie of all classes
    found = jax.vmap(jax.grad(Softmax(K).value))(jax.numpy.asarray(z), jax.numpy.asarray(y))
    np.testing.assert_allclose(found, Softmax(K).gradient(z, y), rtol=1e-12, atol=1e-15)
    value, gradient = jax.jit(Softmax(K).value_and_gradient)(z, y)
    np.testing.assert_allclose(value, Softmax(K).value(z, y), rtol=1e-13)
    np.testing.assert_allclose(gradient, Softmax(K).gradient(z, y), rtol=1e-12, atol=1e-15)


@pytest.mark.backend("torch")
def test_torch_grad_is_the_gradient():
    torch = pytest.importorskip("torch")
    z, y = (torch.asarray(x) for x in rows())
    found = torch.func.vmap(torch.func.grad(Softmax(K).value))(z, y)
    np.testing.assert_allclose(found, Softmax(K).gradient(z, y), rtol=1e-12, atol=1e-15)


def problem(shape=(), shared=False, seed=0):
    """Return X, y, weights and params of some problems, some rows to each."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 3) if shared else (*shape, 30, 3)) * [1.0, 5.0, 0.1] + 1.0
    y = rng.integers(0, K, size=(*shape, 30)) * 1.0
    params = Params(rng.normal(size=(*shape, K, 3)), rng.normal(size=(*shape, K)))
    return X, y, rng.uniform(0.5, 2.0, size=(*shape, 30)), params


def by_formula(X, y, weight, params, ridge):
    p = probabilities(X @ params.coef.T + params.intercept)
    chosen = np.eye(K)[y.astype(int)]
    s = (weight / weight.sum())[:, None]
    value = -np.sum(s * chosen * np.log(p)) + 0.5 * ridge * np.sum(params.coef**2)
    slope = s * (p - chosen)
    return value, slope.T @ X + ridge * params.coef, slope.sum(axis=0)


@pytest.mark.parametrize("row_count", [None, 7])
def test_an_objective_is_the_formula(row_count):
    X, y, weight, params = problem()
    objective = LinearObjective.of(X, y, loss=Softmax(K), penalty=L2(0.5), sample_weight=weight)
    blocks = BaseData.of(X, y, weight, rows=row_count)
    value, grad = dataclasses.replace(objective, blocks=blocks).value_and_grad(params)
    want = by_formula(X, y, weight, params, 0.5)
    for got, known in zip((value, *grad), want, strict=True):
        np.testing.assert_allclose(got, known, rtol=1e-12, atol=1e-14)
    zero = objective.zeros()
    assert (zero.coef.shape, zero.intercept.shape) == ((K, 3), (K,))
    bare = dataclasses.replace(objective, intercept=False)
    assert bare.value_and_grad(bare.zeros())[1].intercept is None


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_each_problem_of_a_batch_is_alone(shape, shared):
    X, y, weight, params = problem(shape, shared)
    given = {"loss": Softmax(K), "penalty": L2(0.1)}
    objective = LinearObjective.of(X, y, sample_weight=weight, **given)
    there = Preconditioned(objective, column_scaling(objective))
    v = there.scaling.to_preconditioned(params)
    value, grad = objective.value_and_grad(params)
    moved_value, moved = there.value_and_grad(v)
    size, moved_size = objective.grad_norm(grad, params), there.grad_norm(moved, v)
    assert value.shape == moved_value.shape == size.shape == moved_size.shape == shape
    for i in np.ndindex(*shape):
        own = X if shared else X[i]
        alone = LinearObjective.of(own, y[i], sample_weight=weight[i], **given)
        at = Params(params.coef[i], params.intercept[i])
        one_value, one_grad = alone.value_and_grad(at)
        np.testing.assert_allclose(value[i], one_value, rtol=1e-12)
        np.testing.assert_allclose(moved_value[i], one_value, rtol=1e-10)
        np.testing.assert_allclose(grad.coef[i], one_grad.coef, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(grad.intercept[i], one_grad.intercept, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(size[i], alone.grad_norm(one_grad, at), rtol=1e-10)
        scaled = Preconditioned(alone, column_scaling(alone))
        at_v = scaled.scaling.to_preconditioned(at)
        one_moved = scaled.value_and_grad(at_v)[1]
        np.testing.assert_allclose(moved.coef[i], one_moved.coef, rtol=1e-8, atol=1e-12)


def test_the_bound_on_the_hessian_is_one():
    X, y, weight, params = problem()
    objective = LinearObjective.of(X, y, loss=Softmax(K), penalty=L2(0.1), sample_weight=weight)
    L, h = float(largest_curvature(objective)), 1e-5
    rng = np.random.default_rng(5)
    for _ in range(5):
        d = Params(rng.normal(size=(K, 3)), rng.normal(size=K))
        up, down = (
            objective.value_and_grad(Params(params.coef + s * d.coef, params.intercept + s * d[1]))
            for s in (h, -h)
        )
        bend = sum(np.sum(a * (u - v)) for a, u, v in zip(d, up[1], down[1], strict=True)) / 2 / h
        product = sum(np.sum(a * b) for a, b in zip(d, objective.bound_product(d), strict=True))
        length = sum(np.sum(a * a) for a in d)
        assert 0.0 <= bend <= product * (1 + 1e-6) <= L * length * (1 + 1e-5)


def test_a_prox_acts_on_the_coefficients_of_every_class():
    X, y, weight, params = problem((2,))
    objective = LinearObjective.of(X, y, loss=Softmax(K), penalty=L1(0.5), sample_weight=weight)
    step = np.asarray([0.5, 2.0])
    found = objective.prox(params, step)
    shrunk = np.maximum(np.abs(params.coef) - 0.5 * step[:, None, None], 0.0)
    np.testing.assert_allclose(found.coef, np.sign(params.coef) * shrunk, atol=1e-15)
    np.testing.assert_allclose(
        objective.penalty_value(params), 0.5 * np.abs(params.coef).sum(axis=(1, 2)), rtol=1e-14
    )
