"""`agd.minimize` and `agd.maximize`: points of every kind, gradients of every kind, calls counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optree
import pytest

import agd
from agd import Stop, backends
from helpers import known_minima
from helpers.quadratic_bowl import (
    CountedFunction,
    assert_close,
    bowl,
    bowl_gradient,
    bowl_gradient_on_host,
    bowl_on_host,
    entry_sum,
    frequent_checks,
    tree_bowl,
    tree_bowl_gradient,
)

# Quick to compile, where a library compiles; what is tested here is the same for every method.
QUICK = "accelerated"


class Pair(NamedTuple):
    a: object
    b: object


POINTS = {
    "number": lambda make: make(0.0),
    "matrix": lambda make: make(np.zeros((2, 3))),
    "four axes": lambda make: make(np.zeros((1, 2, 1, 2))),
    "dict": lambda make: {"w": make(np.zeros(2)), "b": make(1.0)},
    "list": lambda make: [make(np.zeros(2)), make([[5.0]])],
    "tuple": lambda make: (make(np.zeros(2)), make([1.0])),
    "NamedTuple": lambda make: Pair(make(np.zeros(2)), make(1.0)),
    "nested": lambda make: {"p": Pair([make(0.0)], (make([1.0, 2.0]), None)), "q": make([4.0])},
}


def differentiates(xp):
    return backends.of(xp.asarray([1.0])).autodiff is not None


def compiles(xp):
    return backends.of(xp.asarray([1.0])).compiles


# -- the point -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POINTS)
def test_the_point_keeps_its_structure_library_dtype_and_device(kind, xp):
    x0 = POINTS[kind](xp.asarray)
    before = [xp.to_numpy(leaf) for leaf in optree.tree_leaves(x0)]
    found = agd.minimize(
        tree_bowl, x0, jac=tree_bowl_gradient, method=QUICK, stop=frequent_checks(xp)
    )
    assert found.success
    assert isinstance(found.fun, float)
    leaves = optree.tree_leaves(x0)
    for tree in (found.x, found.jac):
        assert type(tree) is type(x0) or backends.is_array(x0)
        assert optree.tree_structure(tree) == optree.tree_structure(x0)
        for leaf, first in zip(optree.tree_leaves(tree), leaves, strict=True):
            assert backends.of(leaf).name == backends.of(first).name
            assert (tuple(leaf.shape), leaf.dtype) == (tuple(first.shape), first.dtype)
            assert backends.device(leaf) == backends.device(first)
    for leaf, first, old in zip(optree.tree_leaves(found.x), leaves, before, strict=True):
        assert_close(xp, leaf, np.full(old.shape, 3.0), digits=4)
        np.testing.assert_array_equal(xp.to_numpy(first), old)


def test_the_default_method_finds_the_minimum(xp):
    if xp.name == "dask":
        pytest.skip("graphs of many steps: tests of the input run it on Dask")
    found = agd.minimize(known_minima.booth, xp.asarray([0.0, 0.0]), jac=known_minima.booth_grad)
    assert found.success
    assert found.method.startswith("L-BFGS")
    assert_close(xp, found.x, [1.0, 3.0])
    assert found.fun == pytest.approx(0.0, abs=1e-5)
    assert found.grad_norm <= (6.1e-6 if xp.rtol < 1e-6 else 5e-3)  # eps^(1/3)


def test_leaves_of_two_dtypes_keep_theirs():
    x0 = {"a": np.zeros(2, dtype=np.float32), "b": np.zeros(3)}
    found = agd.minimize(tree_bowl, x0, jac=tree_bowl_gradient)
    assert (found.x["a"].dtype, found.x["b"].dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(found.x["a"], 3.0, rtol=1e-3)


def test_numbers_and_lists_of_them_are_arrays():
    for x0, shape in (
        (0, ()),
        (1.5, ()),
        ([0, 1], (2,)),
        ([[0.0], [1.0]], (2, 1)),
        (range(3), (3,)),
    ):
        found = agd.minimize(bowl, x0)
        assert isinstance(found.x, np.ndarray)
        assert (found.x.shape, found.x.dtype) == (shape, np.float64)
        np.testing.assert_allclose(found.x, 3.0, atol=1e-5)


def test_functions_that_write_to_their_argument_spoil_nothing(xp):
    """Where arrays can be written to, they get copies; elsewhere `*=` makes a new array."""

    def greedy(x):
        x *= 2.0
        return entry_sum((x - 4.0) ** 2)

    def greedy_slope(x):
        x *= 2.0
        return 4.0 * (x - 4.0)

    def greedy_look(x):
        x *= 0.0

    x0 = xp.asarray([0.0, 1.0])
    rest = {"method": QUICK, "callback": greedy_look, "stop": frequent_checks(xp)}
    for jac in (greedy_slope, "3-point"):
        found = agd.minimize(greedy, x0, jac=jac, **rest)
        assert_close(xp, found.x, [2.0, 2.0], digits=4)
        np.testing.assert_array_equal(xp.to_numpy(x0), [0.0, 1.0])


def test_a_gradient_in_one_buffer_may_be_written_over():
    buffer = np.zeros(2)

    def jac(x):
        buffer[...] = known_minima.rosenbrock_grad(x)
        return buffer

    found = agd.minimize(known_minima.rosenbrock, [-1.2, 1.0], jac=jac)
    again = agd.minimize(known_minima.rosenbrock, [-1.2, 1.0], jac=known_minima.rosenbrock_grad)
    np.testing.assert_array_equal(found.x, again.x)
    assert found.nfev == again.nfev


# -- the gradient ---------------------------------------------------------------------------------

KINDS = {
    "callable": (bowl, bowl_gradient, "jac"),
    "True": (lambda x: (bowl(x), bowl_gradient(x)), True, "fun returns it"),
    "autodiff": (bowl, "autodiff", "autodiff"),
    "2-point": (bowl, "2-point", "2-point"),
    "3-point": (bowl, "3-point", "3-point"),
    "None": (bowl, None, None),
}


def confirmed(calls, gradients):
    """The calls that may be counted: a 2-point gradient may be confirmed by 3-point ones, of two calls more.

    A check of the curvatures takes 7 or 8 values of a function of two variables.
    """
    once = range(2, 2 * gradients, 2) if calls == 3 else []
    checks = (0, 7, 8, 14, 15, 16) if calls > 1 else (0,)
    return [calls * gradients + more + check for more in (0, *once) for check in checks]


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_is_named_and_its_calls_are_counted(kind, xp):
    fun, jac, name = KINDS[kind]
    if kind == "autodiff" and not differentiates(xp):
        with pytest.raises(ValueError, match="jac='autodiff' needs a library that differentiates"):
            agd.minimize(fun, xp.asarray([0.0, 5.0]), jac=jac)
        return
    name = name or ("autodiff" if differentiates(xp) else "2-point")
    fun = CountedFunction(fun)
    jac = CountedFunction(jac) if callable(jac) else jac
    found = agd.minimize(
        fun, xp.asarray([0.0, 5.0]), jac=jac, method=QUICK, stop=frequent_checks(xp)
    )
    assert found.gradient == name
    assert_close(xp, found.x, [3.0, 3.0], digits=4)
    calls = {"2-point": 3, "3-point": 5}.get(name, 1)  # of fun, for a gradient of two entries
    probes = int(name == "autodiff" and not compiles(xp))
    assert found.nfev - probes in confirmed(calls, found.njev)
    if not compiles(xp):
        assert found.nfev == fun.calls
        assert not callable(jac) or found.njev == jac.calls


def test_counts_where_the_function_leaves_its_library(xp):
    fun, jac = CountedFunction(bowl_on_host), CountedFunction(bowl_gradient_on_host)
    found = agd.minimize(
        fun, xp.asarray([0.0, 5.0]), jac=jac, method=QUICK, stop=frequent_checks(xp)
    )
    assert (found.gradient, found.success) == ("jac", True)
    assert (found.nfev, found.njev) == (fun.calls, jac.calls)
    assert ("not compiled" in found.method) == compiles(xp)
    fun = CountedFunction(bowl_on_host)
    found = agd.minimize(fun, xp.asarray([0.0, 5.0]), method=QUICK, stop=frequent_checks(xp))
    assert (found.gradient, found.success) == ("2-point", True)
    # One call more finds out whether autograd can follow.
    assert found.nfev - xp.name.startswith("torch") in confirmed(3, found.njev)
    assert found.nfev == fun.calls


@pytest.mark.parametrize("method", sorted(set(agd.update.MINIMIZERS) - {"sgd", "svrg"}))
@pytest.mark.parametrize("jac", ["callable", "2-point"])
def test_every_method_counts_its_calls(method, jac):
    fun, grad = CountedFunction(known_minima.beale), CountedFunction(known_minima.beale_grad)
    stop = Stop(max_iter=30)
    given = grad if jac == "callable" else jac
    found = agd.minimize(fun, [1.0, 1.0], jac=given, method=method, stop=stop)
    assert found.nfev == fun.calls
    if jac == "callable":
        assert found.njev == grad.calls
    else:  # three calls a gradient, and five where it is by central differences
        assert (fun.calls - 3 * found.njev) in range(0, 2 * found.njev + 1, 2)


@pytest.mark.parametrize("method", sorted(set(agd.update.MINIMIZERS) - {"sgd", "svrg"}))
@pytest.mark.parametrize("stop", [agd.StepTol(1e-7), agd.ValueTol(1e-14)])
def test_a_refused_trial_is_no_step_and_no_convergence(method, stop):
    stop = stop | agd.MaxIter(2000)
    found = agd.minimize(bowl, [0.0, 5.0], jac=bowl_gradient, method=method, stop=stop)
    assert found.success
    np.testing.assert_allclose(found.x, 3.0, atol=1e-3)


def test_further_arguments(xp):
    centre = xp.asarray([1.0, -2.0])
    x0 = xp.asarray([0.0, 0.0])
    for args in ((centre,), centre):
        found = agd.minimize(
            bowl, x0, args, jac=bowl_gradient, method=QUICK, stop=frequent_checks(xp)
        )
        assert_close(xp, found.x, [1.0, -2.0])
    found = agd.minimize(
        lambda x, c, k: k["k"] * bowl(x, c),
        x0,
        (centre, {"k": 0.5}),
        method=QUICK,
        stop=frequent_checks(xp),
    )
    assert_close(xp, found.x, [1.0, -2.0], digits=4)


@pytest.mark.backend("jax")
def test_python_control_flow_on_jax_is_run_as_it_is():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x0 = jax.numpy.asarray([5.0, 0.5])

    def branching(x):
        return bowl(x) if x[0] > 4.0 else 2.0 * bowl(x)

    found = agd.minimize(branching, x0, method=QUICK)
    assert (found.gradient, found.success) == ("autodiff", True)
    assert found.method.endswith("not compiled")
    np.testing.assert_allclose(np.asarray(found.x), 3.0, atol=1e-4)
    found = agd.minimize(
        bowl, x0, jac=lambda x: bowl_gradient(x) if x[0] > 4.0 else 2.0 * x - 6.0, method=QUICK
    )
    assert (found.gradient, found.success) == ("jac", True)
    assert found.method.endswith("not compiled")
    compiled = agd.minimize(bowl, x0, method=QUICK)
    assert "compiled" not in compiled.method
