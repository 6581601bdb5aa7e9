"""Gradients of any function, on every library: by differences, by autodiff, as the caller gives them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import agd
from agd import backends
from agd._validation import as_gradient, as_value
from agd.gradient import choose_gradient, difference


class Weights(NamedTuple):
    w: object
    b: object


def total(x):
    return backends.namespace(x).sum(x)


def wavy(x):
    return total(backends.namespace(x).sin(x)) + total(x**3)


def wavy_grad(x):
    return backends.namespace(x).cos(x) + 3.0 * x**2


def tolerance(xp, kind):
    eps = np.finfo(xp.host_dtype).eps
    return {"2-point": 300.0 * eps**0.5, "3-point": 300.0 * eps ** (2 / 3)}.get(kind, 20.0 * eps)


def differentiates(xp):
    return xp.name.partition(":")[0] in {"torch", "jax"}


# -- differences ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_differences_over_a_tree(kind, xp):
    host = np.asarray([[0.5, -1.5], [2.0, 0.0]])
    tree = {"a": xp.asarray(host), "b": Weights(xp.asarray(0.25), None)}
    value, grad = difference(lambda p: wavy(p["a"]) * p["b"].w, tree, kind)
    f = np.sum(np.sin(host)) + np.sum(host**3)
    assert tuple(value.shape) == ()
    tol = tolerance(xp, kind)
    np.testing.assert_allclose(xp.to_numpy(value), f / 4, rtol=max(xp.rtol, 1e-7))
    np.testing.assert_allclose(
        xp.to_numpy(grad["a"]), (np.cos(host) + 3 * host**2) / 4, rtol=tol, atol=tol
    )
    np.testing.assert_allclose(xp.to_numpy(grad["b"].w), f, rtol=tol)
    assert grad["b"].b is None
    assert grad["a"].dtype == xp.dtype
    assert backends.device(grad["a"]) == backends.device(tree["a"])
    np.testing.assert_array_equal(xp.to_numpy(tree["a"]), host.astype(xp.host_dtype))


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_a_batch_is_differentiated_at_once(kind, xp):
    host = np.asarray([[0.5, -1.5, 1.0], [2.0, 0.0, -0.5]])
    calls = []

    def fun(p):
        calls.append(1)
        ns = backends.namespace(p["x"])
        return ns.sum(ns.sin(p["x"]), axis=-1) * p["s"]

    tree = {"x": xp.asarray(host), "s": xp.asarray([2.0, -3.0])}
    value, grad = difference(fun, tree, kind, batch=1)
    tol = tolerance(xp, kind)
    assert len(calls) == 1 + 4 * (1 if kind == "2-point" else 2)  # three of x, one of s; not eight
    assert choose_gradient(fun, kind, tree, batch=1).calls == len(calls)
    scale = np.asarray([[2.0], [-3.0]])
    np.testing.assert_allclose(xp.to_numpy(value), np.sum(np.sin(host), axis=1) * scale[:, 0], 1e-6)
    np.testing.assert_allclose(xp.to_numpy(grad["x"]), np.cos(host) * scale, rtol=tol, atol=tol)
    np.testing.assert_allclose(xp.to_numpy(grad["s"]), np.sum(np.sin(host), axis=1), rtol=tol)


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_steps_are_scipys(kind):
    numdiff = pytest.importorskip("scipy.optimize._numdiff")
    rng = np.random.default_rng(0)
    for bounded in (False, True):
        for _ in range(50):
            x = rng.normal(size=4) * 10.0 ** rng.uniform(-3, 3, size=4)
            room = np.maximum(1.0, np.abs(x)) * rng.uniform(1.0, 9.0, size=(2, 4))
            bounds = (x - room[0], x + room[1]) if bounded else (-np.inf, np.inf)
            asked = [[], []]

            def fun(p, log):
                log.append(np.array(p))
                return np.sum(np.sin(p) * np.arange(1.0, 5.0))

            _, grad = difference(lambda p: fun(p, asked[0]), x, kind, bounds if bounded else None)  # noqa: B023
            want = numdiff.approx_derivative(
                lambda p: fun(p, asked[1]),  # noqa: B023
                x,
                method=kind,
                bounds=bounds,
            )
            np.testing.assert_allclose(grad, want, atol=1e-4)
            ours, theirs = (np.unique(np.round(np.stack(log), 14), axis=0) for log in asked)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
@pytest.mark.parametrize("rate", [1e-3, 1e-6])
def test_steps_shrink_with_the_distance_to_a_bound(kind, rate):
    """A step of eps^(1/3) is longer than such a rate."""
    x = np.asarray([rate])
    _, grad = difference(lambda p: float(-np.log(p[0])), x, kind, (1e-12, None))
    np.testing.assert_allclose(grad, -1.0 / rate, rtol=1e-4)


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_fun_is_never_called_outside_the_bounds(kind, xp):
    # In the corner, close to a side, between two close sides, and held fast.
    x = xp.asarray([1.0, 2.0, 3.0, 4.0, 5.0])
    low = xp.asarray([1.0, 0.0, 3.0 - 1e-7, 4.0, -np.inf])
    high = xp.asarray([9.0, 2.0, 3.0 + 1e-6, 4.0, np.inf])

    def fun(p):
        assert bool(np.all(xp.to_numpy(p) >= xp.to_numpy(low)))
        assert bool(np.all(xp.to_numpy(p) <= xp.to_numpy(high)))
        return total(p**3) / 3.0

    _, grad = difference(fun, x, kind, (low, high))
    want = np.asarray([1.0, 4.0, 9.0, 0.0, 25.0])
    got = xp.to_numpy(grad)
    if xp.rtol < 1e-6:
        np.testing.assert_allclose(got, want, rtol=1e-5)
    else:  # a step of 1e-6 tells float32 nothing
        np.testing.assert_allclose(got[[0, 1, 3, 4]], want[[0, 1, 3, 4]], rtol=0.02)
    _, grad = difference(lambda p: total(p**3), x, kind, (0.0, None))
    np.testing.assert_allclose(xp.to_numpy(grad), 3.0 * xp.to_numpy(x) ** 2, rtol=0.02)


def test_three_points_keep_their_order_at_a_bound():
    x = np.asarray([1.0])
    one_sided = difference(lambda p: total(np.exp(p)), x, "3-point", (x, None))[1]
    first_order = difference(lambda p: total(np.exp(p)), x, "2-point", (x, None))[1]
    assert abs(one_sided[0] - np.e) < 1e-9
    assert abs(first_order[0] - np.e) > 1e-8


# -- choosing ------------------------------------------------------------------------------------

NAMES = {
    "callable": (wavy, wavy_grad, "jac"),
    "True": (lambda x: (wavy(x), wavy_grad(x)), True, "fun returns it"),
    "None": (wavy, None, None),
    "False": (wavy, False, None),
    "2-point": (wavy, "2-point", "2-point"),
    "3-point": (wavy, "3-point", "3-point"),
}


@pytest.mark.parametrize("case", NAMES)
def test_every_way_to_a_gradient(case, xp):
    fun, jac, name = NAMES[case]
    host = np.asarray([0.5, -1.5, 2.0])
    x = xp.asarray(host)
    how = choose_gradient(fun, jac, x)
    name = name or ("autodiff" if differentiates(xp) else "2-point")
    assert how.name == name
    assert how.calls == {"2-point": 4, "3-point": 7}.get(name, 1)
    assert how.value_and_grad == choose_gradient(fun, jac, x).value_and_grad
    assert hash(how.value_and_grad) == hash(choose_gradient(fun, jac, x).value_and_grad)
    value, grad = how.value_and_grad(x)
    tol = tolerance(xp, name)
    np.testing.assert_allclose(
        xp.to_numpy(value), np.sum(np.sin(host)) + np.sum(host**3), rtol=max(xp.rtol, 1e-6)
    )
    np.testing.assert_allclose(xp.to_numpy(grad), np.cos(host) + 3 * host**2, rtol=tol)
    again = how.value_and_grad(x, bounds=(x, None))[1]  # what is not needed does no harm
    np.testing.assert_allclose(xp.to_numpy(again), np.cos(host) + 3 * host**2, rtol=0.02)


def test_further_arguments_are_passed_on(xp):
    x = xp.asarray([1.0, 2.0])
    for jac in (lambda x, a, k: 2.0 * a * k["k"] * x, None, "2-point"):
        how = choose_gradient(lambda x, a, k: k["k"] * total(a * x**2), jac, x, (x, {"k": 3.0}))
        value, grad = how.value_and_grad(x, x, {"k": 3.0})
        np.testing.assert_allclose(xp.to_numpy(value), 27.0, rtol=1e-3)
        np.testing.assert_allclose(xp.to_numpy(grad), [6.0, 24.0], rtol=0.01)


def test_branches_on_values_are_followed(xp):
    def branching(x):
        return total(x**2) if x[0] > 0.0 else -total(x)

    for first, want in ((1.0, [2.0, 4.0]), (-1.0, [-1.0, -1.0])):
        x = xp.asarray([first, 2.0])
        how = choose_gradient(branching, None, x)
        assert how.name == ("autodiff" if differentiates(xp) else "2-point")
        np.testing.assert_allclose(xp.to_numpy(how.value_and_grad(x)[1]), want, rtol=1e-2)


def test_python_floats_and_numpy_are_differenced(xp):
    x = xp.asarray([1.0, 2.0])
    for fun in (
        lambda x: float(np.sum(backends.to_numpy(x) ** 2)),
        lambda x: np.sum(backends.to_numpy(x) ** 2),
    ):
        how = choose_gradient(fun, None, x)
        assert how.name == "2-point"
        value, grad = how.value_and_grad(x)
        assert backends.of(value).name == backends.of(x).name
        assert value.dtype == x.dtype
        np.testing.assert_allclose(xp.to_numpy(grad), [2.0, 4.0], rtol=1e-2)
        if differentiates(xp):
            with pytest.raises(ValueError, match="jac='autodiff' cannot follow fun"):
                choose_gradient(fun, "autodiff", x)


def test_an_error_of_the_function_itself_passes_autodiff(xp):
    """Only what is wrong with the trace is said to be."""
    if not differentiates(xp):
        pytest.skip("has no automatic differentiation")
    x = xp.asarray([1.0, 2.0])
    for fun, error, words in (
        (lambda x: total(x) + "a", TypeError, "unsupported operand"),
        (lambda x, a: total(x), TypeError, "missing 1 required positional argument: 'a'"),
        (lambda x: (_ for _ in ()).throw(RuntimeError("mine")), RuntimeError, "mine"),
    ):
        with pytest.raises(error, match=words):
            choose_gradient(fun, "autodiff", x)


def test_a_function_that_writes_entries_to_numpy_is_differenced(xp):
    def filled(x):
        out = np.zeros(2)
        for i in range(2):
            out[i] = x[i] * x[i]
        return out.sum()

    x = xp.asarray([1.0, 2.0])
    if xp.name.partition(":")[0] in {"strict", "array-api-strict", "dask", "cupy"}:
        pytest.skip("its numbers are no floats to NumPy")
    how = choose_gradient(filled, None, x)
    assert how.name == "2-point"
    np.testing.assert_allclose(xp.to_numpy(how.value_and_grad(x)[1]), [2.0, 4.0], rtol=1e-2)


def test_arrays_of_one_number_are_numbers(xp):
    x = xp.asarray([1.0, 2.0])
    ns = backends.namespace(x)
    for jac in (lambda x: 2.0 * x, None, "3-point"):
        how = choose_gradient(lambda x: ns.reshape(total(x**2), (1,)), jac, x)
        value, grad = how.value_and_grad(x)
        assert tuple(value.shape) == ()
        np.testing.assert_allclose(xp.to_numpy(grad), [2.0, 4.0], rtol=1e-2)


def test_what_jac_may_not_be(xp):
    x = xp.asarray([1.0])
    with pytest.raises(ValueError, match=r"jac must be one of 'autodiff'.*did you mean '3-point'"):
        choose_gradient(wavy, "3point", x)
    with pytest.raises(TypeError, match="jac must be a callable, True, None or one of"):
        choose_gradient(wavy, 3, x)
    if not differentiates(xp):
        with pytest.raises(
            ValueError, match=r"needs a library that differentiates \(torch and jax\)"
        ):
            choose_gradient(wavy, "autodiff", x)


# -- what functions return -----------------------------------------------------------------------


def test_values_are_checked(xp):
    x = xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert as_value(3, x).dtype == xp.dtype
    for batch, bad, message in (
        (0, x, r"fun must return one number; got shape \(2, 2\) \(for independent problems"),
        (1, x, r"fun must return an array of shape \(2,\), one number for each problem; got"),
        (1, 1.0, r"shape \(2,\), one number for each problem; got shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            as_value(bad, x, batch)
    assert tuple(as_value(x[:, :1], x, 1).shape) == (2,)
    for bad, message in (
        (None, "fun must return a real number; got None"),
        ("1", "fun must return a real number; got str"),
        (1j, "fun must return a real number; got complex"),
        (np.asarray(1j), "got dtype complex128"),
    ):
        with pytest.raises(TypeError, match=message):
            as_value(bad, x)


def test_gradients_are_checked(xp):
    x = {"a": xp.asarray([1.0, 2.0]), "b": xp.asarray([[3.0]])}
    with pytest.raises(ValueError, match="jac must return a tree like x"):
        as_gradient([x["a"], x["b"]], x)
    with pytest.raises(ValueError, match=r"shape \(1, 1\), that of x\['b'\]; got shape \(1,\)"):
        as_gradient({"a": x["a"], "b": x["b"][0, :]}, x)
    with pytest.raises(TypeError, match="jac must return real numbers in \\['a'\\]; got str"):
        as_gradient({"a": "no", "b": x["b"]}, x)
    found = as_gradient([3, 4.0], x["a"])  # numbers, for one array
    assert found.dtype == xp.dtype
    np.testing.assert_array_equal(xp.to_numpy(found), [3.0, 4.0])
    how = choose_gradient(total, True, x["a"])
    with pytest.raises(TypeError, match=r"fun must return \(value, gradient\)"):
        how.value_and_grad(x["a"])


def test_a_gradient_of_another_library_is_named(xp):
    strict = pytest.importorskip("array_api_strict")
    if backends.of(xp.asarray([1.0])).name == "array-api-strict":
        pytest.skip("it is this library")
    with pytest.raises(TypeError, match=r"in x's library, .*; got an array of array-api-strict"):
        as_gradient(strict.asarray([1.0]), xp.asarray([1.0]))


# -- the libraries' own --------------------------------------------------------------------------


@pytest.mark.backend("torch")
def test_torch_follows_what_torch_func_would_refuse():
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return 2.0 * ctx.saved_tensors[0] * grad

    x = torch.asarray([1.0, 2.0], dtype=torch.float64)
    how = choose_gradient(lambda x: Square.apply(x).sum(), None, x)
    assert (how.name, how.probes) == ("autodiff", 1)
    value, grad = how.value_and_grad(x)
    assert grad.tolist() == [2.0, 4.0]
    assert [t.requires_grad for t in (value, grad, x)] == [False, False, False]
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            plain = choose_gradient(lambda x: (x * x).sum(), "autodiff", x)
            assert plain.value_and_grad(x)[1].tolist() == [2.0, 4.0]


@pytest.mark.backend("torch")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch itself
def test_torch_inside_its_own_transforms():
    torch = pytest.importorskip("torch")
    how = choose_gradient(lambda p: (p["x"] ** 3).sum(), "autodiff", {"x": torch.ones(2)})
    x = torch.asarray([[1.0, 2.0], [3.0, 4.0]])
    value, grad = torch.func.vmap(how.value_and_grad)({"x": x})
    torch.testing.assert_close(value, (x**3).sum(dim=1))
    torch.testing.assert_close(grad["x"], 3.0 * x**2)
    hvp = backends.of(x).autodiff.hvp(lambda p: (p["x"] ** 3).sum())
    grads, product = torch.func.vmap(hvp)({"x": x}, {"x": torch.ones(2, 2)})
    torch.testing.assert_close(grads["x"], 3.0 * x**2)
    torch.testing.assert_close(product["x"], 6.0 * x)


@pytest.mark.backend("torch")
def test_torch_says_zero_for_what_a_function_does_not_depend_on():
    torch = pytest.importorskip("torch")
    tree = {"used": torch.ones(2), "unused": torch.ones(3)}
    how = choose_gradient(lambda p: p["used"].sum(), "autodiff", tree)
    assert how.value_and_grad(tree)[1]["unused"].tolist() == [0.0, 0.0, 0.0]
    # A branch that is constant, at a point later than the first.
    step = choose_gradient(lambda x: x.sum() if x[0] > 0 else torch.tensor(0.0), None, tree["used"])
    assert step.value_and_grad(-tree["used"])[1].tolist() == [0.0, 0.0]


@pytest.mark.backend("jax")
def test_jax_compiles_what_it_traces_and_says_what_it_does_not():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x = jax.numpy.asarray([1.0, 2.0])
    traces = backends.of(x).is_traceable
    assert traces(lambda p, a: (p["x"] ** 2).sum() * a, {"x": x}, 2.0)
    assert not traces(lambda x: x.sum() if x[0] > 0 else x[0], x)
    assert not traces(lambda x: float(x.sum()), x)
    assert not traces(lambda x: np.sum(np.asarray(x)), x)
    how = choose_gradient(lambda p: (p["x"] ** 3).sum(), None, {"x": x})
    assert (how.name, how.probes) == ("autodiff", 0)
    value, grad = jax.jit(how.value_and_grad)({"x": x})
    np.testing.assert_allclose([value, *grad["x"]], [9.0, 3.0, 12.0], rtol=1e-12)
    values, grads = jax.vmap(how.value_and_grad)({"x": jax.numpy.stack([x, x])})
    np.testing.assert_allclose(values, [9.0, 9.0], rtol=1e-12)
    np.testing.assert_allclose(grads["x"], [[3.0, 12.0]] * 2, rtol=1e-12)
    by_steps = jax.jit(choose_gradient(lambda x: (x**3).sum(), "3-point", x).value_and_grad)
    np.testing.assert_allclose(by_steps(x)[1], [3.0, 12.0], rtol=1e-8)


def test_gradients_are_functions_of_the_point(xp):
    def f(x, scale=1.0):
        return scale * xp.ns.sum(x * x)

    point = xp.asarray([1.0, -2.0])
    value, slope = agd.value_and_grad(f)(point, 2.0)
    rtol = 2e-3 if xp.rtol > 1e-6 else 1e-6
    assert float(value) == pytest.approx(10.0)
    np.testing.assert_allclose(xp.to_numpy(slope), [4.0, -8.0], rtol=rtol)
    np.testing.assert_array_equal(xp.to_numpy(agd.grad(f)(point, 2.0)), xp.to_numpy(slope))
    assert type(slope) is type(point)
    by_hand = agd.grad(f, jac=lambda x, scale: 2.0 * scale * x)(point, 2.0)
    np.testing.assert_allclose(xp.to_numpy(by_hand), [4.0, -8.0])
    with pytest.raises(TypeError, match="fun must be a function, got 3"):
        agd.grad(3)
