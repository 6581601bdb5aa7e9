"""Transforms and rules made of rules: by hand on every library, against optax, inside jit."""

from __future__ import annotations

import numpy as np
import pytest

from agd import update
from agd.update import transforms
from helpers.known_values import GRADIENT, HALF_AFTER_ONE_STEP, TRANSFORMS


def tree(xp):
    return {"a": xp.asarray(GRADIENT[0]), "b": xp.asarray(GRADIENT[1])}


def check(xp, got, a, b):
    for leaf, want in (("a", a), ("b", b)):
        np.testing.assert_allclose(xp.to_numpy(got[leaf]), want, rtol=max(xp.rtol, 1e-7) / 10)
    assert got["a"].dtype == got["b"].dtype == xp.dtype


def test_every_public_name_has_a_row():
    files = (transforms,)
    assert set(TRANSFORMS) == {name for file in files for name in file.__all__}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_once_by_hand(name, xp):
    rule, a, b = TRANSFORMS[name]
    g = tree(xp)
    got, _ = rule.update(g, rule.init(g), g)
    check(xp, got, a, b)
    check(xp, g, *GRADIENT)  # nothing is written


def test_short_and_zero_gradients_are_left_alone(xp):
    rule, g = update.clip_by_global_norm(100.0), tree(xp)
    check(xp, rule.update(g, rule.init(g))[0], *GRADIENT)
    zero = xp.asarray([0.0])
    assert xp.to_numpy(rule.update(zero, rule.init(zero))[0])[0] == 0.0


def test_memory_over_two_updates(xp):
    g = tree(xp)
    for rule, factor in (
        (update.trace(0.5), 1.5),
        (update.ema(0.75), 1.0),
        (update.ema(0.75, debias=False), 0.4375),
        (update.scale_by_schedule(HALF_AFTER_ONE_STEP), 0.5),
        (update.accumulate(update.gradient_descent(0.1), 2), -0.1),
    ):
        _, state = rule.update(g, rule.init(g))
        got, _ = rule.update(g, state)
        check(xp, got, factor * np.asarray(GRADIENT[0]), factor * np.asarray(GRADIENT[1]))


def test_accumulate_steps_by_the_mean_and_forgets(xp):
    rule = update.accumulate(update.momentum(0.1, 0.5), 3)
    plain = update.momentum(0.1, 0.5)
    state, want = rule.init(xp.asarray([0.0])), plain.init(xp.asarray([0.0]))
    for k, g in enumerate((1.0, 2.0, 6.0, 0.0, 3.0, 0.0), start=1):
        got, state = rule.update(xp.asarray([g]), state)
        if k % 3:
            assert xp.to_numpy(got)[0] == 0.0
            continue
        step, want = plain.update(xp.asarray([3.0 if k == 3 else 1.0]), want)
        np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(step), rtol=1e-6)


def test_injected_rates_can_be_changed_and_follow_schedules(xp):
    g = xp.asarray([2.0])
    rule = update.inject_hyperparams(update.gradient_descent)(0.1)
    state = rule.init(g)
    state.hyperparameters["learning_rate"] = xp.asarray(0.5)
    for _ in range(2):
        got, state = rule.update(g, state)
        assert xp.to_numpy(got)[0] == -1.0
    rule = update.inject_hyperparams(update.gradient_descent)(HALF_AFTER_ONE_STEP)
    state = rule.init(g)
    steps = []
    for _ in range(3):
        got, state = rule.update(g, state)
        steps.append(float(xp.to_numpy(got)[0]))
    assert steps == [-2.0, -1.0, -1.0]


def test_a_chain_drives_a_fit():
    import agd

    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    y = X @ [1.0, 2.0] + 3.0
    rule = update.chain(update.clip_by_global_norm(1.0), update.nesterov(0.2))
    found = agd.fit(X, y, method=rule)
    assert found.success
    assert "clip_by_global_norm(largest=1.0)" in found.method
    np.testing.assert_allclose(found.coef, [1.0, 2.0], rtol=1e-8)


def test_masks_of_bools_of_any_kind(xp):
    w = {"a": xp.asarray([1.0]), "b": xp.asarray([1.0]), "c": [xp.asarray([1.0]), None]}
    decay = update.add_decayed_weights(0.5)
    masks = (
        {"a": np.bool_(True), "b": np.bool_(False), "c": [True, None]},
        {"a": xp.asarray(True), "b": xp.asarray(False), "c": [np.asarray(True), False]},
        lambda params: {"a": np.all([True]), "b": np.all([False]), "c": [True, None]},
    )
    for mask in masks:
        rule = update.masked(decay, mask)
        got = rule.update(w, rule.init(w), w)[0]
        kept = [float(xp.to_numpy(leaf)[0]) for leaf in (got["a"], got["b"], got["c"][0])]
        assert kept == [1.5, 1.0, 1.5]


@pytest.mark.parametrize("wrong", ["yes", 1, None, 1.0, np.asarray([True, False]), np.asarray(1)])
def test_masks_of_anything_else_name_the_leaf(wrong):
    w = {"a": np.ones(1), "b": [np.ones(1)]}
    rule = update.masked(update.add_decayed_weights(0.5), {"a": True, "b": [wrong]})
    with pytest.raises(TypeError, match=r"mask must hold one bool .* for params\['b'\]\[0\]"):
        rule.init(w)


def test_clipping_at_nothing_leaves_nothing(xp):
    for clip in (update.clip_by_value(0.0), update.clip_by_global_norm(0.0)):
        got = clip.update(tree(xp), clip.init(tree(xp)))[0]
        check(xp, got, [0.0, 0.0], [0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: update.clip_by_value(-1.0), "largest must be a number in"),
        (lambda: update.clip_by_value(np.float64(-1.0)), "largest must be a number in"),
        (lambda: update.clip_by_global_norm("1"), "largest must be a number in"),
        (lambda: update.add_decayed_weights(-1.0), "weight_decay must be a number in"),
        (lambda: update.trace(1.0), r"decay must be a number in \[0, 1\)"),
        (lambda: update.ema(-0.1), "decay must be a number in"),
        (lambda: update.scale_by_schedule(0.1), "schedule must be callable"),
        (lambda: update.scale_by_learning_rate(np.float32(-1.0)), "learning_rate must be a number"),
        (lambda: update.chain(update.adam), "rules must be rules such as agd.update.adam"),
        (lambda: update.accumulate(update.adam(0.1), 0), "every must be 1 or more, got 0"),
        (lambda: update.accumulate(0.1, 2), "rule must be rules such as"),
        (lambda: update.inject_hyperparams(update.adam, "beta")(0.1), "adam has no hyper-parameter 'beta'"),
        (lambda: update.masked(update.adam(0.1), {"a": True}).init(GRADIENT), "must have the structure"),
        (
            lambda: update.multi_transform({"x": update.adam(0.1)}, "y").init(np.ones(2)),
            r"labels must be among \['x'\], got \['y'\]",
        ),
        (lambda: update.multi_transform([update.adam(0.1)], "y"), r"rules must map labels to rules, got \[adam"),
        (lambda: update.Descent(3), "rule must be rules such as"),
        (
            lambda: update.add_decayed_weights(0.1).update(np.ones(1), ()),
            "params must be given to add_decayed_weights",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.backend("jax")
def test_two_hundred_steps_agree_with_optax():
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rate, mask = update.cosine(0.01, 150), {"a": True, "b": False}
    labels = {"a": "x", "b": "y"}
    pairs = [
        (update.chain(update.clip_by_value(0.5), update.adam(0.01)), optax.chain(optax.clip(0.5), optax.adam(0.01))),
        (
            update.chain(update.clip_by_global_norm(1.0), update.trace(0.9, nesterov=True), update.scale_by_learning_rate(rate)),
            optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9, nesterov=True), optax.scale_by_learning_rate(rate)),
        ),
        (
            update.chain(update.ema(0.9), update.add_decayed_weights(0.1), update.scale_by_schedule(lambda k: -rate(k))),
            optax.chain(optax.ema(0.9), optax.add_decayed_weights(0.1), optax.scale_by_schedule(lambda k: -rate(k))),
        ),
        (
            update.chain(update.masked(update.add_decayed_weights(0.1), mask), update.gradient_descent(0.01)),
            optax.chain(optax.masked(optax.add_decayed_weights(0.1), mask), optax.sgd(0.01)),
        ),
        (
            update.multi_transform({"x": update.adam(0.01), "y": update.momentum(0.01)}, labels),
            optax.multi_transform({"x": optax.adam(0.01), "y": optax.sgd(0.01, momentum=0.9)}, labels),
        ),
        # Two: optax weighs gradients by a float32 1 / k, which is exact for no more than that.
        (update.accumulate(update.adam(0.01), 2), optax.MultiSteps(optax.adam(0.01), 2, accumulator_dtype=jnp.float64)),
        (update.inject_hyperparams(update.adam)(rate), optax.inject_hyperparams(optax.adam)(rate)),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    grads = {
        "a": jnp.asarray(rng.normal(size=(200, 3))),
        "b": jnp.asarray(rng.normal(size=(200, 2))),
    }
    start = {"a": jnp.ones(3), "b": jnp.ones(2)}

    def run(rule):
        def step(carry, g):
            params, state = carry
            updates, state = rule.update(g, state, params)
            params = jax.tree.map(lambda p, u: p + u, params, updates)
            return (params, state), params

        return jax.jit(lambda: jax.lax.scan(step, (start, rule.init(start)), grads)[1])()

    for ours, theirs in pairs:
        got, want = run(ours), run(theirs)
        for leaf in start:
            np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-12, atol=1e-12)
