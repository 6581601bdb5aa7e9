"""Faults of rules that users have reported, by their kind: what comes in, and what must come out."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from agd import update
from helpers.known_values import RULES

ON_TREES = {
    **{name: (lambda case=case, name=name: getattr(update, name)(**case.kwargs))
       for name, case in RULES.items()},
    "clip_by_global_norm": lambda: update.clip_by_global_norm(1.0),
    "clip_by_value": lambda: update.clip_by_value(1.0),
    "trace": lambda: update.trace(0.9),
    "ema": lambda: update.ema(0.9),
    "add_decayed_weights": lambda: update.add_decayed_weights(0.1),
    "scale_by_schedule": lambda: update.scale_by_schedule(update.exponential(1.0, 0.5, 4)),
    "scheduled": lambda: update.adam(update.exponential(1.0, 0.5, 4)),
    "accumulate": lambda: update.accumulate(update.adam(0.1), 2),
    "injected": lambda: update.inject_hyperparams(update.adam)(0.1),
    "chain": lambda: update.chain(update.clip_by_global_norm(1.0), update.adam(0.1)),
    "masked": lambda: update.masked(update.adam(0.1), {}),
}  # fmt: skip


@pytest.mark.parametrize("make", ON_TREES.values(), ids=ON_TREES)
@pytest.mark.parametrize("tree", [{}, [], ()], ids=str)
def test_a_tree_without_arrays_has_updates_without_arrays(make, tree):
    if tree != {} and make is ON_TREES["masked"]:
        pytest.skip("its mask is a dict")
    rule, now = make(), tree
    state = rule.init(now)
    for _ in range(3):
        now, state = rule.update(now, state, tree)
        assert now == tree
        assert update.apply_updates(tree, now) == tree


@pytest.mark.parametrize(
    "rate",
    [
        np.asarray(0.125),
        np.float32(0.125),
        lambda k: np.asarray(0.125),
        lambda k: np.float64(0.125),
        lambda k: 0.125,
        lambda k: 0.125 + 0.0 * k,
    ],
    ids=lambda rate: inspect.getsource(rate).strip() if callable(rate) else repr(rate),
)
@pytest.mark.parametrize("name", ["gradient_descent", "adam", "lion"])
def test_a_rate_counts_by_its_value_and_not_by_its_library(xp, name, rate):
    params = xp.asarray([1.0, 2.0])
    rule, plain = getattr(update, name)(rate), getattr(update, name)(0.125)
    state, known = rule.init(params), plain.init(params)
    for _ in range(2):
        step, state = rule.update(params, state, params)
        want, known = plain.update(params, known, params)
        assert type(step) is type(params)
        assert step.dtype == params.dtype
        np.testing.assert_allclose(xp.to_numpy(step), xp.to_numpy(want), rtol=1e-6)


def test_a_schedule_that_gives_no_number_is_named():
    rule, params = update.gradient_descent(lambda k: "fast"), np.ones(2)
    with pytest.raises(TypeError, match=r"learning_rate must be a number, or a schedule.*got str"):
        rule.update(params, rule.init(params), params)


@pytest.mark.parametrize("size", [1e25, 6e37, 1e-25, 1.0, 0.0])
def test_a_norm_is_clipped_whose_square_has_no_number(size):
    rule = update.clip_by_global_norm(1.0)
    g = {
        "a": np.asarray([3.0 * size], dtype=np.float32),
        "b": np.asarray([[4.0 * size]], dtype=np.float32),
    }
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        step, _ = rule.update(g, rule.init(g), g)
    want = g if 5.0 * size <= 1.0 else {"a": [0.6], "b": [[0.8]]}
    for name in g:
        np.testing.assert_allclose(step[name], want[name], rtol=1e-6)
    assert step["a"].dtype == np.float32


def test_updates_of_another_shape_are_refused(xp):
    params = {"w": xp.asarray([1.0, 2.0, 3.0])}
    for step in (xp.asarray([1.0]), xp.asarray([[1.0, 2.0, 3.0]]), 1.0):
        with pytest.raises(ValueError, match="updates must have the shapes of params"):
            update.apply_updates(params, {"w": step})
    with pytest.raises(ValueError, match="updates must have the shapes of params"):
        update.apply_updates({"w": xp.asarray(1.0)}, params)


@pytest.mark.parametrize("name", ["adam", "gradient_descent", "momentum", "clip_by_global_norm"])
@pytest.mark.parametrize("params", [3.0, [1.0], {"w": 2}, "w", object()], ids=lambda p: repr(p)[:8])
def test_params_that_are_no_arrays_are_named(name, params):
    with pytest.raises(TypeError, match="params must be a tree of arrays, got "):
        getattr(update, name)(0.1).init(params)
