"""Rules: by hand on every library, against optax and torch.optim, inside jit, vmap and scan."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from agd import update
from agd.update import METHODS, apply_updates
from helpers import known_values

RULES = pytest.mark.parametrize("name", known_values.RULES)
Pair = collections.namedtuple("Pair", "a b")


def make(name):
    return METHODS[name](**known_values.RULES[name].kwargs)


def trajectory(rule, params, grads):
    """Run a rule over a list of gradients; return the params after each."""
    state, points = rule.init(params), []
    for g in grads:
        updates, state = rule.update(g, state, params)
        params = apply_updates(params, updates)
        points.append(params)
    return points


@RULES
def test_two_steps_by_hand(name, xp):
    rule, case = make(name), known_values.RULES[name]
    w = xp.asarray([1.0])
    state = rule.init(w)
    for g, step in zip((2.0, -1.0), case.steps, strict=True):
        updates, state = rule.update(xp.asarray([g]), state, w)
        np.testing.assert_allclose(xp.to_numpy(updates), [step], rtol=1e-6, atol=1e-7)
        w = apply_updates(w, updates)
        assert w.dtype == xp.dtype


@RULES
def test_any_tree_and_nothing_is_written(name, xp):
    data = ([1.0, 2.0], [[3.0]], [4.0])
    a, b, c = (xp.asarray(d) for d in data)
    params = {"a": a, "rest": [Pair(b, None), (c,)]}
    rule = make(name)
    updates, _ = rule.update(params, rule.init(params), params)
    new = apply_updates(params, updates)
    assert isinstance(new["rest"][0], Pair)
    assert new["rest"][0].b is None
    for leaf, want in zip((a, b, c), data, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(leaf), want)
    single, _ = rule.update(c, rule.init(c), c)  # a leaf alone moves as it does in a tree
    np.testing.assert_array_equal(xp.to_numpy(single), xp.to_numpy(updates["rest"][1][0]))


def test_params_keep_their_dtype(xp):
    p = xp.asarray([1.0, 2.0], xp.ns.float32)
    moved = apply_updates(p, xp.asarray([0.5, -0.5]))
    assert moved.dtype == xp.ns.float32
    np.testing.assert_array_equal(xp.to_numpy(moved), [1.5, 1.5])


def test_integers_take_integers_alone():
    moved = apply_updates(np.asarray([1, 2], np.int32), np.asarray([1, 1], np.int64))
    assert moved.dtype == np.int32
    for p in (np.asarray([1, 2]), np.asarray([True, False])):
        with pytest.raises(TypeError, match=f"params must be of a dtype .*float64, got {p.dtype}"):
            apply_updates(p, np.asarray([0.5, 0.5]))


SCHEDULED = pytest.mark.parametrize(
    "name", [name for name in known_values.RULES if name != "rprop"]
)


@SCHEDULED
def test_a_schedule_is_followed(name, xp):
    kwargs = known_values.RULES[name].kwargs
    rates = update.piecewise(0.1, {1: 0.5})
    params, g = xp.asarray([1.0]), xp.asarray([2.0])
    scheduled = METHODS[name](**{**kwargs, "learning_rate": rates})
    state = scheduled.init(params)
    for k in range(3):
        plain = METHODS[name](**{**kwargs, "learning_rate": rates(k)})
        want, _ = plain.update(g, state, params)
        got, state = scheduled.update(g, state, params)
        np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(want), rtol=1e-6)


def test_an_array_of_rates_is_one_for_each_problem(xp):
    rule = update.gradient_descent(xp.asarray([0.1, 0.2]))
    g = {"coef": xp.asarray([[1.0, 1.0], [1.0, 1.0]]), "intercept": xp.asarray([1.0, 1.0])}
    updates, _ = rule.update(g, rule.init(g))
    np.testing.assert_allclose(xp.to_numpy(updates["coef"]), [[-0.1] * 2, [-0.2] * 2], rtol=1e-6)
    np.testing.assert_allclose(xp.to_numpy(updates["intercept"]), [-0.1, -0.2], rtol=1e-6)


@RULES
def test_minimises_a_quadratic(name):
    curvature = np.asarray([1.0, 4.0])
    rule = METHODS[name](learning_rate=1.0 if name == "adadelta" else 0.05)
    w, state = np.asarray([1.0, -1.0]), None
    state = rule.init(w)
    for _ in range(1000):
        updates, state = rule.update(curvature * w, state, w)
        w = w + updates
    assert np.abs(w).max() < 0.06


def test_equal_calls_are_equal_rules():
    assert update.adam(0.1) == update.adam(learning_rate=0.1)
    assert hash(update.adam(0.1)) == hash(update.adam(0.1))
    assert update.adam(0.1) != update.adam(0.2)
    assert update.adam(0.1) != update.adamw(0.1)
    rate = np.asarray([0.1])
    assert update.momentum(rate) != update.momentum(rate)
    assert repr(update.adam(0.1)) == "adam(learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-08)"
    assert update.momentum(0.1, 0.5).with_learning_rate(1.0) == update.momentum(1.0, 0.5)


def test_auto_needs_a_method_that_knows_the_objective():
    rule = update.gradient_descent()
    with pytest.raises(ValueError, match="stands for 1/L"):
        rule.update(np.ones(2), rule.init(np.ones(2)))


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        ("gd", {"learning_rate": -1.0}, r"learning_rate must be a number in \[0, inf\), got -1.0"),
        ("gd", {"learning_rate": float("nan")}, "learning_rate"),
        ("gd", {"learning_rate": True}, "learning_rate"),
        ("gd", {"learning_rate": "fast"}, "'auto', got 'fast'"),
        ("adam", {"learning_rate": "auto"}, "a number or a schedule, got 'auto'"),
        ("momentum", {"beta": 1.0}, r"beta must be a number in \[0, 1\), got 1.0"),
        ("adam", {"b2": "0.9"}, "b2"),
        ("rmsprop", {"decay": -0.1}, "decay"),
        ("adagrad", {"eps": float("inf")}, "eps"),
        ("adamw", {"weight_decay": -1}, "weight_decay"),
        ("adagrad", {"initial_accumulator": -1}, "initial_accumulator"),
    ],
)
def test_hyper_parameters_are_checked(factory, kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        METHODS[factory](**kwargs)


def test_weight_decay_needs_the_params():
    rule = update.adamw(0.1)
    with pytest.raises(ValueError, match="params must be given"):
        rule.update(np.ones(2), rule.init(np.ones(2)))


def _gradients():
    return np.random.default_rng(0).normal(size=(200, 7)) * np.logspace(-3, 3, 7)


@pytest.mark.backend("jax")
def test_two_hundred_steps_agree_with_optax():
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rate = update.cosine(0.01, 150)
    pairs = [
        (update.gradient_descent(0.01), optax.sgd(0.01)),
        (update.momentum(rate, 0.8), optax.sgd(rate, momentum=0.8)),
        (update.nesterov(0.01, 0.8), optax.sgd(0.01, momentum=0.8, nesterov=True)),
        (update.adagrad(0.1, 0.1, 1e-7, eps_in_sqrt=True), optax.adagrad(0.1)),
        (update.rmsprop(0.01, 0.9, eps_in_sqrt=True), optax.rmsprop(0.01)),
        (update.adam(rate), optax.adam(rate)),
        (update.adamw(0.01, weight_decay=1e-4), optax.adamw(0.01)),
        (update.nadam(rate), optax.nadam(rate)),
        (update.amsgrad(0.01), optax.amsgrad(0.01)),
        (update.adamax(rate), optax.adamax(rate)),
        (update.radam(0.01, b2=0.9), optax.radam(0.01, b2=0.9)),  # within 200 steps it is trusted
        (update.radam(0.01), optax.radam(0.01)),
        (update.yogi(0.01), optax.yogi(0.01)),
        (update.lamb(rate, weight_decay=1e-3), optax.lamb(rate, weight_decay=1e-3)),
        (update.adadelta(0.5), optax.adadelta(0.5)),
        (update.sign_descent(rate), optax.sign_sgd(rate)),
        (update.lion(rate), optax.lion(rate)),
    ]
    grads = [jnp.asarray(g) for g in _gradients()]
    for ours, theirs in pairs:
        got, want = (trajectory(r, jnp.ones(7), grads) for r in (ours, theirs))
        np.testing.assert_allclose(np.stack(got), np.stack(want), rtol=1e-12, atol=1e-12)


@pytest.mark.backend("torch")
def test_two_hundred_steps_agree_with_torch():
    import torch

    pairs = [
        (update.gradient_descent(0.01), torch.optim.SGD, {"lr": 0.01}),
        (update.momentum(0.01, 0.8), torch.optim.SGD, {"lr": 0.01, "momentum": 0.8}),
        (
            update.nesterov(0.01, 0.8),
            torch.optim.SGD,
            {"lr": 0.01, "momentum": 0.8, "nesterov": True},
        ),
        (update.adagrad(0.1), torch.optim.Adagrad, {"lr": 0.1}),
        (update.rmsprop(0.01), torch.optim.RMSprop, {"lr": 0.01}),
        (update.adam(0.01), torch.optim.Adam, {"lr": 0.01}),
        (update.adamw(0.01), torch.optim.AdamW, {"lr": 0.01}),
        (update.adamax(0.01), torch.optim.Adamax, {"lr": 0.01}),
        (update.radam(0.01, eps=0.0), torch.optim.RAdam, {"lr": 0.01, "eps": 0.0}),
        (update.adadelta(0.5), torch.optim.Adadelta, {"lr": 0.5, "rho": 0.9}),
        (update.rprop(0.01), torch.optim.Rprop, {"lr": 0.01}),
    ]
    grads = [torch.asarray(g) for g in _gradients()]
    for ours, theirs, kwargs in pairs:
        w = torch.ones(7, dtype=torch.float64, requires_grad=True)
        peer, want = theirs([w], **kwargs), []
        for g in grads:
            w.grad = g.clone()
            peer.step()
            want.append(w.detach().clone())
        got = trajectory(ours, torch.ones(7, dtype=torch.float64), grads)
        torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=1e-12, atol=1e-12)


@SCHEDULED
@pytest.mark.backend("jax")
def test_inside_jit_vmap_and_scan(name):
    import jax
    import jax.numpy as jnp

    if name not in {"gradient_descent", "momentum", "adam", "radam", "rprop"}:
        pytest.skip("each loop is compiled: a while_loop under jit of vmap has all rules")
    jax.config.update("jax_enable_x64", True)
    rule = METHODS[name](learning_rate=update.exponential(0.1, 0.9))
    grads = jnp.asarray(_gradients()[:20])
    want = trajectory(rule, jnp.ones(7), list(grads))[-1]

    def step(carry, g):
        params, state = carry
        updates, state = rule.update(g, state, params)
        return (apply_updates(params, updates), state), None

    def run(start, grads):
        return jax.lax.scan(step, (start, rule.init(start)), grads)[0][0]

    np.testing.assert_allclose(jax.jit(run)(jnp.ones(7), grads), want, rtol=1e-12)
    many = jax.vmap(run, in_axes=(0, None))(jnp.ones((3, 7)), grads)
    np.testing.assert_allclose(many, jnp.stack([want] * 3), rtol=1e-12)


@RULES
@pytest.mark.backend("torch")
def test_inside_torch_vmap(name):
    import torch

    rule = make(name)
    w, g = (
        torch.ones(3, 2, dtype=torch.float64),
        torch.arange(6.0, dtype=torch.float64).reshape(3, 2),
    )
    got = torch.func.vmap(lambda w, g: rule.update(g, rule.init(w), w)[0])(w, g)
    want = [rule.update(row, rule.init(at), at)[0] for row, at in zip(g, w, strict=True)]
    torch.testing.assert_close(got, torch.stack(want))
