"""`agd.minimize` and `agd.maximize`: any tree on any library, and scripts written for SciPy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import agd
from agd import Status, backends
from agd.loss import Box


def total(x):
    return backends.namespace(x).sum(x)


def rosenbrock(x):
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


def rosenbrock_grad(x):
    bend = x[1] - x[0] ** 2
    return np.stack([-400.0 * x[0] * bend - 2.0 * (1.0 - x[0]), 200.0 * bend])


class Pair(NamedTuple):
    a: Any
    b: Any


def close(xp):
    return 1e-2 if str(xp.dtype).endswith("float32") else 1e-4


# -- trees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 1, 2)])
def test_an_array_of_any_shape(xp, shape):
    if xp.name == "dask" and len(shape) > 1:
        pytest.skip("a graph for each step: two shapes are enough")
    goal = xp.asarray(np.arange(math.prod(shape), dtype=float).reshape(shape) - 1.0)
    x0 = xp.asarray(np.full(shape, 4.0))
    found = agd.minimize(lambda x: total((x - goal) ** 2), x0)
    assert found.success
    assert tuple(found.x.shape) == shape
    assert (found.x.dtype, backends.device(found.x)) == (x0.dtype, backends.device(x0))
    assert backends.of(found.x) is backends.of(x0)
    np.testing.assert_allclose(xp.to_numpy(found.x), xp.to_numpy(goal), atol=close(xp))
    assert tuple(found.jac.shape) == shape
    assert isinstance(found.fun, float)


def test_a_tree_comes_back_in_its_structure(xp):
    def fun(p):
        return (
            total((p["w"].a - 1.0) ** 2)
            + (p["w"].b[0] - 2.0) ** 2
            + (p["c"][0] + p["c"][1] - 3.0) ** 2
        )

    x0 = {
        "w": Pair(xp.asarray(np.zeros(2)), [xp.asarray(np.asarray(0.0))]),
        "c": (xp.asarray(np.asarray(1.0)), xp.asarray(np.asarray(1.0))),
    }
    found = agd.minimize(fun, x0)
    assert found.success
    assert isinstance(found.x["w"], Pair)
    assert isinstance(found.x["w"].b, list)
    assert isinstance(found.x["c"], tuple)
    np.testing.assert_allclose(xp.to_numpy(found.x["w"].a), 1.0, atol=close(xp))
    assert float(xp.to_numpy(found.x["w"].b[0])) == pytest.approx(2.0, abs=close(xp))
    np.testing.assert_allclose([float(xp.to_numpy(c)) for c in found.x["c"]], 1.5, atol=close(xp))
    np.testing.assert_array_equal(xp.to_numpy(x0["w"].a), 0.0)


def test_leaves_keep_their_dtypes():
    x0 = {"a": np.zeros(2, dtype=np.float32), "b": np.zeros(2)}
    found = agd.minimize(lambda p: np.sum((p["a"] - 1.0) ** 2) + np.sum((p["b"] - 2.0) ** 2), x0)
    assert (found.x["a"].dtype, found.x["b"].dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(found.x["b"], 2.0, atol=1e-2)


# -- a script for SciPy ----------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [
    {"jac": rosenbrock_grad}, {}, {"jac": "2-point"}, {"jac": "3-point"}, {"method": "L-BFGS-B", "jac": rosenbrock_grad},
    {"method": "BFGS", "tol": 1e-8, "jac": rosenbrock_grad}, {"method": "CG", "jac": rosenbrock_grad},
    {"method": "l-bfgs-b", "bounds": [(-2, 0.5), (None, None)], "jac": rosenbrock_grad},
    {"options": {"maxiter": 200, "gtol": 1e-7, "disp": False}, "jac": rosenbrock_grad},
])  # fmt: skip
def test_a_script_for_scipy_needs_another_import(kwargs):
    optimize = pytest.importorskip("scipy.optimize")
    x0 = [-1.2, 1.0]
    theirs, ours = (
        optimize.minimize(rosenbrock, x0, **kwargs),
        agd.minimize(rosenbrock, x0, **kwargs),
    )
    assert (ours.success, theirs.success) == (True, True)
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-4)
    assert ours["fun"] == pytest.approx(theirs["fun"], abs=1e-8)
    assert ours.jac.shape == theirs.jac.shape
    for name in ("x", "fun", "jac", "nit", "nfev", "njev", "status", "success", "message"):
        assert name in ours.keys()  # noqa: SIM118 - as a script asks a dict
        assert name in ours
    assert dict(ours)["status"] == 0


def test_bounds_object_and_arguments():
    optimize = pytest.importorskip("scipy.optimize")

    def fun(x, a, b):
        return float(np.sum((x - a) ** 2) + b)

    for bounds in (optimize.Bounds([0.0, 0.0], [1.0, np.inf]), [(0, 1), (0, None)], Box(0.0, 1.0)):
        ours = agd.minimize(fun, [0.5, 0.5], (np.asarray([3.0, -1.0]), 2.0), bounds=bounds)
        np.testing.assert_allclose(ours.x, [1.0, 0.0], atol=1e-6)
        assert ours.fun == pytest.approx(7.0)
    np.testing.assert_allclose(agd.minimize(lambda x, a: (x - a) ** 2, 0.0, 3.0).x, 3.0, atol=1e-5)


def test_callbacks_of_both_kinds():
    points, results = [], []
    agd.minimize(rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad, callback=points.append)

    def keep(intermediate_result):
        results.append(intermediate_result)

    agd.minimize(rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad, callback=keep)
    assert len(points) == len(results) > 5
    for point, result in zip(points, results, strict=True):
        np.testing.assert_array_equal(point, result.x)
        assert result.fun == pytest.approx(rosenbrock(point), rel=1e-12)

    def stop(intermediate_result):
        if intermediate_result.nit >= 3:
            raise StopIteration

    found = agd.minimize(rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad, callback=stop)
    assert (found.status, found.nit, found.success) == (Status.CALLBACK, 3, False)


# -- where the gradient comes from -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("jac", "name", "per_gradient"),
    [
        (rosenbrock_grad, "jac", 0),
        (None, "2-point", 2),
        ("2-point", "2-point", 2),
        ("3-point", "3-point", 4),
    ],
)
def test_calls_are_counted(jac, name, per_gradient):
    calls = []

    def fun(x):
        calls.append(x)
        return rosenbrock(x)

    found = agd.minimize(fun, [-1.2, 1.0], jac=jac)
    assert found.success
    assert found.gradient == name
    assert found.nfev == len(calls)
    if per_gradient:
        assert found.nfev == found.njev * (1 + per_gradient)


def test_a_function_that_returns_both():
    found = agd.minimize(lambda x: (rosenbrock(x), rosenbrock_grad(x)), [-1.2, 1.0], jac=True)
    assert (found.success, found.gradient) == (True, "fun returns it")
    plain = agd.minimize(rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad)
    np.testing.assert_array_equal(found.x, plain.x)


def test_the_library_gives_the_gradient_where_it_has_one(xp):
    found = agd.minimize(lambda x: total((x - 1.0) ** 2), xp.asarray(np.asarray([-1.2, 2.0])))
    base = xp.name.partition(":")[0]
    assert found.gradient == ("autodiff" if base in {"torch", "jax"} else "2-point")
    np.testing.assert_allclose(xp.to_numpy(found.x), 1.0, atol=close(xp))


@pytest.mark.backend("jax")
def test_python_control_flow_runs_uncompiled_and_says_so():
    import jax.numpy as jnp

    def fun(x):
        return jnp.sum((x - 1.0) ** 2) if float(jnp.sum(x)) > -100.0 else jnp.sum(x**2)

    found = agd.minimize(fun, jnp.asarray([3.0, -2.0]))
    assert found.success
    assert found.method.endswith("not compiled")
    np.testing.assert_allclose(np.asarray(found.x), 1.0, atol=1e-3)


# -- batches ---------------------------------------------------------------------------------------


def test_problems_of_a_batch_are_as_alone():
    starts = np.asarray([[-1.2, 1.0], [1.0, 1.0], [3.0, -4.0], [0.0, 0.5]])

    def fun(x):
        return 100.0 * (x[..., 1] - x[..., 0] ** 2) ** 2 + (1.0 - x[..., 0]) ** 2

    def jac(x):
        return np.moveaxis(rosenbrock_grad(np.moveaxis(x, -1, 0)), 0, -1)

    several = agd.minimize(fun, starts, jac=jac, batch=1)
    for i, start in enumerate(starts):
        alone = agd.minimize(fun, start, jac=jac)
        assert (several.status[i], several.nit[i]) == (alone.status, alone.nit)
        assert several.nfev[i] == alone.nfev
        np.testing.assert_allclose(several.x[i], alone.x, rtol=1e-10)
    assert several.nit[1] == 0  # it began at the minimum, and stood still
    grid = agd.minimize(fun, starts.reshape(2, 2, 2), jac=jac, batch=2)
    np.testing.assert_array_equal(grid.x.reshape(4, 2), several.x)
    assert grid.fun.shape == grid.status.shape == (2, 2)


def test_problems_of_a_batch_end_each_in_its_own_way(xp):
    goal = xp.asarray(np.asarray([[1.0], [2.0], [3.0]]))
    found = agd.minimize(
        lambda x: backends.namespace(x).sum((x - goal) ** 2, axis=-1),
        xp.asarray(np.zeros((3, 2))), jac=lambda x: 2.0 * (x - goal), batch=1, bounds=[(0.0, 2.5)] * 2,
    )  # fmt: skip
    assert np.asarray(found.success).all()
    expected = np.minimum(xp.to_numpy(goal), 2.5) * np.ones((3, 2))
    np.testing.assert_allclose(xp.to_numpy(found.x), expected, atol=close(xp))
