"""Rules on leaves of half precision: near the same run in float32, and as compiled as any other."""

from __future__ import annotations

import numpy as np
import pytest

from agd import minimize, update
from agd.update import METHODS, apply_updates

START, CURVATURE = np.asarray([1.0, -2.0, 0.5, 3.0]), np.asarray([1.0, 0.3, 2.0, 0.5])
RATE = 0.05
RULES = {
    **{name: make(RATE) for name, make in METHODS.items() if name != "adadelta"},
    "adadelta": update.adadelta(eps=1e-2),
    "clip_by_global_norm": update.chain(update.clip_by_global_norm(0.5), update.adam(RATE)),
    "clip_by_value": update.chain(update.clip_by_value(0.5), update.adam(RATE)),
    "ema": update.chain(update.ema(0.999), update.scale_by_learning_rate(0.1)),
    "trace": update.chain(
        update.trace(0.9, nesterov=True),
        update.add_decayed_weights(0.1),
        update.scale_by_schedule(update.inverse_scaling(1.0)),
        update.scale_by_learning_rate(0.1),
    ),
    "accumulate": update.accumulate(update.adam(RATE), 4),
    "inject_hyperparams": update.inject_hyperparams(update.adam)(update.cosine(RATE, 200)),
    "masked": update.masked(update.adam(RATE), True),
    "multi_transform": update.multi_transform({"all": update.adam(RATE)}, "all"),
}
EVERY = pytest.mark.parametrize("name", RULES)
# What 100 roundings of a point of this size leave: 2^-11 and 2^-8 are the halves' shares.
ALLOWED = {"float16": 0.05, "bfloat16": 0.3}


def hundred(rule, point, curvature, dtype):
    """Descend on a parabola; return the last point."""
    state = rule.init(point)
    for _ in range(100):
        updates, state = rule.update(curvature * point, state, point)
        assert updates.dtype == dtype
        point = apply_updates(point, updates)
    return point


def numpys(rule, dtype):
    return hundred(rule, START.astype(dtype), CURVATURE.astype(dtype), dtype)


def near_single(rule, got, kind):
    want = numpys(rule, np.float32)
    assert np.all(want != START)
    np.testing.assert_allclose(got, want, atol=ALLOWED[kind])


@EVERY
def test_numpys_half_is_near_single(name):
    near_single(RULES[name], numpys(RULES[name], np.float16), "float16")


@EVERY
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.backend("torch")
def test_torchs_halves_are_near_single(name, kind):
    import torch

    dtype = getattr(torch, kind)
    point, curvature = (torch.asarray(a, dtype=dtype) for a in (START, CURVATURE))
    near_single(RULES[name], hundred(RULES[name], point, curvature, dtype).float().numpy(), kind)


@EVERY
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.backend("jax")
def test_jaxs_halves_are_near_single_in_a_compiled_loop(name, kind):
    import jax
    import jax.numpy as jnp

    if kind == "float16" and name not in {"gradient_descent", "momentum", "adam", "rprop"}:
        pytest.skip("each loop is compiled: these stand for all, which bfloat16, the coarser, runs")
    rule, dtype = RULES[name], getattr(jnp, kind)
    point, curvature = (jnp.asarray(a, dtype) for a in (START, CURVATURE))

    def step(_, carry):
        point, state = carry
        updates, state = rule.update(curvature * point, state, point)
        return apply_updates(point, updates), state

    def run(point):
        return jax.lax.fori_loop(0, 100, step, (point, rule.init(point)))[0]

    got = jax.jit(run)(point)
    assert got.dtype == dtype
    near_single(rule, np.asarray(got, np.float32), kind)


@pytest.mark.backend("torch")
def test_halves_under_torchs_vmap():
    import torch

    w = torch.ones(3, 2, dtype=torch.bfloat16)
    g = torch.arange(6.0).reshape(3, 2).to(torch.bfloat16)
    for rule in RULES.values():
        got = torch.func.vmap(lambda w, g, rule=rule: rule.update(g, rule.init(w), w)[0])(w, g)
        assert got.dtype == torch.bfloat16
        want = [rule.update(row, rule.init(at), at)[0] for row, at in zip(g, w, strict=True)]
        torch.testing.assert_close(got, torch.stack(want))


@pytest.mark.backend("jax")
def test_as_near_to_optax_as_rounding_allows():
    import jax.numpy as jnp
    import optax

    p = jnp.ones(2, jnp.bfloat16)
    for name in ("adam", "adamw", "nadam", "amsgrad", "yogi", "lamb", "radam", "adamax"):
        peer, want = getattr(optax, name)(0.01), p
        state = peer.init(want)
        for _ in range(100):
            updates, state = peer.update(want, state, want)
            want = optax.apply_updates(want, updates)
        got = hundred(METHODS[name](0.01), p, jnp.ones_like(p), jnp.bfloat16)
        np.testing.assert_allclose(
            np.asarray(got, np.float32), np.asarray(want, np.float32), atol=0.06, err_msg=name
        )


@pytest.mark.backend("torch")
@pytest.mark.parametrize("kind", ALLOWED)
def test_as_near_to_torch_as_rounding_allows(kind):
    import torch

    p = torch.ones(2, dtype=getattr(torch, kind))
    for name in ("Adam", "Adamax", "Adagrad"):
        want = torch.nn.Parameter(p.clone())
        peer = getattr(torch.optim, name)([want], lr=0.01)
        for _ in range(100):
            want.grad = want.detach().clone()
            peer.step()
        got = hundred(METHODS[name.lower()](0.01), p, torch.ones_like(p), p.dtype)
        torch.testing.assert_close(got, want.detach(), rtol=0.0, atol=0.03)


def at_step(k, schedule, dtype):
    """Return what a transform makes of 1 at step k, and at the one before it."""
    transform, one = update.scale_by_schedule(schedule), np.ones(1, dtype)
    state = transform.init(one)
    return [
        float(transform.update(one, state._replace(k=np.asarray(j, np.int32)))[0][0])
        for j in (k - 1, k)
    ]


def test_schedules_count_beyond_the_halves():
    assert at_step(4097, update.piecewise(1.0, {4097: 0.5}), np.float16) == [1.0, 0.5]
    assert at_step(70000, update.exponential(1.0, 0.5, 70000), np.float16)[1] == 0.5


@pytest.mark.backend("jax")
def test_schedules_count_beyond_bfloat16():
    import jax.numpy as jnp

    assert at_step(301, update.piecewise(1.0, {301: 0.5}), jnp.bfloat16) == [1.0, 0.5]


def test_squares_that_float16_cannot_hold():
    g = np.asarray([1e3, 1e-5], np.float16)
    for rule in (update.adam(0.1), update.rmsprop(0.1, decay=0.0), update.adagrad(0.1)):
        np.testing.assert_allclose(rule.update(g, rule.init(g), g)[0], [-0.1, -0.1], rtol=2e-3)


def test_single_leaves_beside_halves_and_half_gradients_of_single_params():
    rule = update.adam(0.1)
    params = {"half": np.ones(2, np.float16), "single": np.ones(2, np.float32)}
    grads = {"half": np.ones(2, np.float32), "single": np.ones(2, np.float16)}
    state = rule.init(params)
    assert state.memory.mean["half"].dtype == state.memory.mean["single"].dtype == np.float32
    assert rule.update(params, state, params)[0]["half"].dtype == np.float16
    updates, _ = rule.update(grads, state, params)
    assert updates["half"].dtype == updates["single"].dtype == np.float32
    moved = apply_updates(params, updates)
    assert moved["half"].dtype == np.float16
    assert moved["single"].dtype == np.float32


def test_minimize_widens_half_as_it_does_integers():
    for kind in (np.float16, np.int32):
        seen = set()

        def fun(x, seen=seen):
            seen.add(x.dtype)
            return ((x - 2.0) ** 2).sum()

        found = minimize(fun, np.ones(3, kind))
        assert seen == {np.dtype(np.float64)}
        assert found.x.dtype == np.float64
