"""What is compiled serves a later call only where it computes the same: on JAX, which compiles."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

import agd
from agd import backends
from agd.gradient import FunctionObjective
from agd.run import run
from agd.update import Descent, gradient_descent
from agd.update.rule import is_value_type

pytestmark = pytest.mark.backend("jax")
jax = pytest.importorskip("jax")
jnp = jax.numpy

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)
TARGET = 1.0
QUICK = {"method": gradient_descent(0.25), "stop": agd.Stop(max_iter=60)}  # to compile


@pytest.fixture(autouse=True)
def _double():
    jax.config.update("jax_enable_x64", True)


class Model:
    """A function with an attribute, a rule's schedule, and the two kinds of arrays that it may read."""

    def __init__(self):
        self.target, self.box = 1.0, [1.0]
        self.array, self.shared = np.ones(2), jnp.ones(2)

    def of_attribute(self, x):
        return ((x - self.target) ** 2).sum()

    def of_list(self, x):
        return ((x - self.box[0]) ** 2).sum()

    def of_array(self, x):
        return ((x - self.array) ** 2).sum()

    def of_jax_array(self, x):
        return ((x - self.shared) ** 2).sum()

    def of_argument(self, x, model):
        return ((x - model.target) ** 2).sum()

    def slope(self, x):
        return 2.0 * (x - self.target)

    def pair(self, x):
        return self.of_attribute(x), self.slope(x)

    def change(self):
        self.target = self.box[0] = 5.0
        self.array[:] = 5.0
        self.shared = jnp.full(2, 5.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: agd.minimize(m.of_attribute, x, **QUICK),
        lambda m, x: agd.minimize(m.of_attribute, x, jac=m.slope, **QUICK),
        lambda m, x: agd.minimize(m.of_attribute, x, jac="2-point", **QUICK),
        lambda m, x: agd.minimize(m.pair, x, jac=True, **QUICK),
        lambda m, x: agd.minimize(m.of_list, x, **QUICK),
        lambda m, x: agd.minimize(m.of_array, x, **QUICK),
        lambda m, x: agd.minimize(m.of_jax_array, x, **QUICK),
        lambda m, x: agd.minimize(jax.jit(m.of_array), x, **QUICK),
        lambda m, x: agd.minimize(m.of_argument, x, (m,), **QUICK),
        lambda m, x: agd.minimize(m.of_array, x, bounds=[(0.0, 9.0)] * 2, method="projected_gradient"),
        lambda m, x: agd.maximize(m.less, x, **QUICK),
    ],
)  # fmt: skip
def test_the_answer_is_that_of_the_function_as_it_is(call):
    model, x0 = Model(), jnp.zeros(2)
    model.less = lambda x: -model.of_attribute(x)
    np.testing.assert_allclose(call(model, x0).x, 1.0, atol=1e-4)
    model.change()
    found = call(model, x0)
    np.testing.assert_allclose(found.x, 5.0, atol=1e-4)
    assert "not compiled" not in found.method


def of_global(x):
    return ((x - TARGET) ** 2).sum()


def test_a_global_may_change(monkeypatch):
    np.testing.assert_allclose(agd.minimize(of_global, jnp.zeros(2), **QUICK).x, 1.0, atol=1e-4)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    np.testing.assert_allclose(agd.minimize(of_global, jnp.zeros(2), **QUICK).x, 5.0, atol=1e-4)


def test_functions_that_use_other_arguments_differ():
    def first(x, a, b):
        return ((x - a) ** 2).sum()

    def second(x, a, b):
        return ((x - b) ** 2).sum()

    args = jnp.ones(2), jnp.full(2, 5.0)
    for fun, want in ((first, 1.0), (second, 5.0)):
        np.testing.assert_allclose(
            agd.minimize(fun, jnp.zeros(2), args, **QUICK).x, want, atol=1e-4
        )


def test_an_equal_objective_that_reads_something_else(monkeypatch):
    def pair(x, bounds=None):
        return of_global(x), 2.0 * (x - TARGET)

    def found():
        return run(Descent(gradient_descent(0.4)), FunctionObjective(pair), jnp.zeros(2)).x

    np.testing.assert_allclose(found(), 1.0, atol=1e-4)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    np.testing.assert_allclose(found(), 5.0, atol=1e-4)


class Ridge:
    """A penalty of the user's that may change."""

    smooth = separable = True

    def __init__(self, alpha):
        self.alpha = alpha

    @property
    def curvature(self):
        return self.alpha

    def value(self, w):
        return 0.5 * self.alpha * (w * w).sum(-1)

    def grad(self, w):
        return self.alpha * w

    def prox(self, w, step):
        return w / (1.0 + self.alpha * step)


class Shifted(agd.loss.Huber):
    """A loss of the user's: equal to others of its kind, and it may change."""

    shift = 0.0

    def value_and_slope(self, z, y):
        return super().value_and_slope(z, y + self.shift)


def _rows():
    X = np.random.default_rng(0).normal(size=(50, 2))
    return X, X @ np.asarray([1.0, 2.0])


def test_a_penalty_in_fit_may_change():
    X, y = _rows()
    penalty = Ridge(0.0)
    for alpha in (0.0, 5.0):
        penalty.alpha = alpha
        here, there = (
            agd.fit(array(X), array(y), loss="huber", penalty=penalty, method="gd").coef
            for array in (np.asarray, jnp.asarray)
        )
        np.testing.assert_allclose(there, here, rtol=1e-4)


def test_a_loss_in_fit_may_change(monkeypatch):
    X, y = map(jnp.asarray, _rows())
    for shift in (0.0, 3.0):
        monkeypatch.setattr(Shifted, "shift", shift)
        found = agd.fit(X, y, loss=Shifted(), method="gd")
        np.testing.assert_allclose(found.intercept, shift, atol=1e-4)


def test_a_penalty_in_minimize_and_a_schedule_may_change():
    penalty, rate = Ridge(0.0), [0.25]

    def found():
        return agd.minimize(of_global, jnp.zeros(2), penalty=penalty, **QUICK).x

    def after_one():
        rule = agd.update.gradient_descent(schedule)
        return agd.minimize(of_global, jnp.zeros(2), method=rule, stop=agd.Stop(max_iter=1)).x

    def schedule(k):
        return rate[0] + 0.0 * k

    np.testing.assert_allclose(found(), 1.0, atol=1e-4)
    np.testing.assert_allclose(after_one(), 0.5)
    penalty.alpha, rate[0] = 2.0, 0.125
    np.testing.assert_allclose(found(), 0.5, atol=1e-4)
    np.testing.assert_allclose(after_one(), 0.25)


@pytest.mark.parametrize("wrapped", [lambda f: f, jax.jit])
def test_an_unchanged_function_is_compiled_once(wrapped):
    data = jnp.arange(3.0)

    def fun(x, shift):
        return ((x - data) ** 2).sum() + jax.nn.relu(x - shift).sum()

    def count(fun, *args):
        seen = len(COMPILED)
        found = agd.minimize(fun, *args, **QUICK)
        assert "not compiled" not in found.method
        return len(COMPILED) - seen

    fun = wrapped(fun)
    assert count(fun, jnp.zeros(3), (jnp.ones(3),)) > 0
    assert count(fun, jnp.zeros(3), (jnp.ones(3),)) == 0
    assert count(fun, jnp.ones(3), (2.0 * jnp.ones(3),)) == 0


def test_arrays_that_changed_and_functions_that_do_the_same_compile_nothing():
    data = np.ones(3)

    def made():
        return lambda x: ((x - data) ** 2).sum()

    agd.minimize(made(), jnp.zeros(3), **QUICK)
    data[:] = 2.0
    seen = len(COMPILED)
    found = agd.minimize(made(), jnp.zeros(3), **QUICK)
    assert len(COMPILED) == seen
    np.testing.assert_allclose(found.x, 2.0, atol=1e-4)


def test_nothing_of_the_users_is_kept():
    def used(model, penalty):
        agd.minimize(model.of_jax_array, jnp.zeros(2), **QUICK)
        agd.minimize(model.of_argument, jnp.zeros(2), (model,), **QUICK)
        agd.minimize(model.of_array, jnp.zeros(2), penalty=penalty, **QUICK)

    model, penalty = Model(), Ridge(1.0)
    used(model, penalty)
    known = [weakref.ref(x) for x in (model, model.shared, penalty)]
    del model, penalty
    gc.collect()
    assert [ref() for ref in known] == [None, None, None]


def test_what_calls_back_to_python_or_holds_much_is_no_program():
    program = backends.of(jnp.ones(1)).trace_program
    shape = jax.ShapeDtypeStruct((), jnp.float64)
    assert program(lambda x: jax.pure_callback(lambda x: x.sum(), shape, x), jnp.ones(2)) is None
    large = jnp.ones(2**18)
    assert program(lambda x: (x * large[0]).sum(), jnp.ones(2)) is not None  # beside the program
    assert program(jax.jit(lambda x: (x * large[0]).sum()), jnp.ones(2)) is None
    assert program(lambda x: float(x[0]), jnp.ones(2)) is None


def test_what_is_ours():
    @dataclass(frozen=True)
    class Theirs:
        alpha: float = 1.0

    rule = agd.update.adam(agd.update.cosine(0.1, 10))
    assert all(
        map(is_value_type, (rule, agd.loss.Huber(2.0), agd.loss.Box(0.0, 1.0), (1, "a", None)))
    )
    for value in (Theirs(), Shifted(), Ridge(1.0), len, lambda: 0, [1], object()):
        assert not is_value_type(value)
        assert not is_value_type((1.0, value))
    assert not is_value_type(gradient_descent(lambda k: 0.1))
