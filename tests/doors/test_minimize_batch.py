"""Independent problems in one run of `agd.minimize`: each as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status, Stop, backends
from helpers.quadratic_bowl import CountedFunction, assert_close, frequent_checks

STARTS = np.asarray([[-1.2, 1.0], [1.0, 1.0], [3.0, -4.0], [0.0, 0.5]])
METHODS = ("lbfgs", "cg", "hager_zhang", "steepest_descent", "barzilai_borwein", "heavy_ball", "accelerated", "fista")  # fmt: skip


def inner(x):
    """The sum over the last axis: one number for each problem."""
    return backends.namespace(x).sum(x, axis=-1)


def valley(x):
    """Rosenbrock's function of the last axis."""
    a, b = x[..., 0], x[..., 1]
    return 100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2


def valley_grad(x):
    a, b = x[..., 0], x[..., 1]
    bend = b - a * a
    parts = [-2.0 * (1.0 - a) - 400.0 * a * bend, 200.0 * bend]
    return backends.namespace(x).stack(parts, axis=-1)


def scaled(x, a, c):
    """½ Σ a (x - c)², whose curvatures differ from problem to problem."""
    return 0.5 * inner(a * (x - c) ** 2)


def scaled_grad(x, a, c):
    return a * (x - c)


def same(many, k, one, rtol=1e-9):
    """Hold problem k of a batch to the run of it alone."""
    assert (many.status[k], many.nit[k], many.success[k]) == (one.status, one.nit, one.success)
    assert (many.nfev[k], many.njev[k]) == (one.nfev, one.njev)
    np.testing.assert_allclose(many.fun[k], one.fun, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_each_problem_is_as_alone(method):
    stop = Stop(max_iter=60)
    many = agd.minimize(valley, STARTS, jac=valley_grad, method=method, batch=1, stop=stop)
    assert len(set(many.nit)) > 1
    for k, x0 in enumerate(STARTS):
        one = agd.minimize(valley, x0, jac=valley_grad, method=method, stop=stop)
        same(many, k, one)
        np.testing.assert_allclose(many.x[k], one.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(many.jac[k], one.jac, rtol=1e-6, atol=1e-9)
    assert (many.nit[1], many.nfev[1]) == (
        0,
        1 + (method in {"heavy_ball", "accelerated", "fista"}),
    )


def test_each_problem_is_as_alone_on_every_library(xp):
    a = np.asarray([[1.0, 2.0], [1.0, 4.0], [3.0, 3.0]])
    c = np.asarray([[1.0, 2.0], [0.0, -1.0], [5.0, 5.0]])
    args = (xp.asarray(a), xp.asarray(c))
    x0 = xp.asarray(np.asarray([[0.0, 0.0], [2.0, 0.5], [5.0, 5.0]]))
    method = "accelerated" if xp.name == "dask" else "steepest_descent"  # whose graphs are smaller
    settings = {"jac": scaled_grad, "method": method, "stop": agd.GradTol(1e-3)}
    many = agd.minimize(scaled, x0, args, batch=1, **settings)
    assert many.success.all()
    assert (tuple(many.x.shape), many.x.dtype) == ((3, 2), x0.dtype)
    assert backends.device(many.x) == backends.device(x0)
    assert_close(xp, many.x, c, digits=2)
    for k in range(3):
        one = agd.minimize(scaled, x0[k, ...], (args[0][k, ...], args[1][k, ...]), **settings)
        if xp.rtol < 1e-6:  # in single precision a sum's rounding turns a search
            same(many, k, one)
        assert_close(xp, many.x[k, ...], xp.to_numpy(one.x), digits=9)


def test_two_batch_axes_are_one_reshaped():
    many = agd.minimize(valley, STARTS, jac=valley_grad, batch=1)
    grid = agd.minimize(valley, STARTS.reshape(2, 2, 2), jac=valley_grad, batch=2)
    for name in ("x", "jac", "fun", "nit", "nfev", "njev", "status", "success"):
        flat = np.asarray(getattr(many, name))
        np.testing.assert_array_equal(np.asarray(getattr(grid, name)).reshape(flat.shape), flat)
    assert grid.history.value.shape[1:] == (2, 2)


def test_a_problem_may_be_a_number_or_a_tree():
    goals = np.asarray([1.0, -2.0, 3.0])
    found = agd.minimize(lambda x: (x - goals) ** 2, np.zeros(3), batch=1)
    np.testing.assert_allclose(found.x, goals, atol=1e-5)
    x0 = {"w": np.zeros((3, 2)), "b": np.zeros(3)}

    def fun(p):
        return inner((p["w"] - goals[:, None]) ** 2) + (p["b"] - p["w"][:, 0]) ** 2

    found = agd.minimize(fun, x0, batch=1)
    assert found.success.all()
    np.testing.assert_allclose(found.x["w"], np.stack([goals, goals], axis=-1), atol=1e-4)
    np.testing.assert_allclose(found.x["b"], goals, atol=1e-4)
    assert found.fun.shape == (3,)


def test_finished_problems_stand_still():
    points, looks = [], []

    def look(intermediate_result):
        points.append(intermediate_result.x.copy())
        looks.append((intermediate_result.status.copy(), intermediate_result.nit.copy(), intermediate_result.nfev.copy()))  # fmt: skip

    found = agd.minimize(valley, STARTS, jac=valley_grad, batch=1, callback=look)
    ended = 0
    for k in range(len(STARTS)):
        last = next((i for i, (status, _, _) in enumerate(looks) if status[k] >= 0), None)
        for i in range(len(looks) if last is None else last, len(looks)):
            np.testing.assert_array_equal(points[i][k], found.x[k])
            assert looks[i][1][k] == found.nit[k]
            assert looks[i][2][k] <= found.nfev[k] <= looks[i][2][k] + 4  # its Hessian, at the end
            ended += 1
    assert ended > len(looks)
    np.testing.assert_array_equal(found.x[1], STARTS[1])  # it began at the minimum


def test_each_problem_ends_in_its_own_way():
    """Converged, without a floor, a gradient of the wrong sign, a wall, out of steps."""
    wall = 0.5
    x0 = np.asarray([[2.0], [1.0], [1.0], [1.0], [-1.2]])

    def fun(x):
        t = x[:, 0]
        return np.stack(
            [t[0] ** 2, t[1], t[2] ** 2, np.where(t[3] > wall, t[3], np.nan), t[4] ** 4]
        )

    def jac(x):
        t = x[:, 0]
        return np.stack([2.0 * t[0], 1.0, -2.0 * t[2], 1.0, 4.0 * t[4] ** 3])[:, None]

    stop = agd.GradTol(1e-20) | agd.MaxIter(20)
    found = agd.minimize(fun, x0, jac=jac, batch=1, stop=stop)
    want = [Status.CONVERGED, Status.UNBOUNDED, Status.LINE_SEARCH, Status.NON_FINITE, Status.MAX_ITER]  # fmt: skip
    assert found.status.tolist() == want
    assert found.success.tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(found.x[0], 0.0, atol=1e-9)
    np.testing.assert_array_equal(found.x[2], x0[2])
    assert found.x[3] == pytest.approx(wall, abs=1e-3)
    assert np.isfinite(found.fun).all()
    for part in ("1 of 5 converged", "falls without bound", "check_gradient", "not finite", "max_iter"):  # fmt: skip
        assert part in found.message


def test_one_call_serves_all_problems():
    fun = CountedFunction(valley)
    found = agd.minimize(fun, STARTS, batch=1)
    assert found.gradient == "2-point"
    # A Hessian at the end, of the problems that ask for it, takes 7 or 8 values, and a central gradient.
    assert found.nfev.max() <= fun.calls <= found.nfev.max() + 8 + 5
    # Three calls a gradient, and five for each by central differences.
    left = found.nfev - 3 * found.njev
    assert not np.any(left % 2 * (left - 7) % 2)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-4)


def test_bounds_of_all_problems_and_of_each():
    goals = np.asarray([[1.0, 5.0], [-4.0, 0.5], [2.0, 2.0]])

    def fun(x):
        return inner((x - goals) ** 2)

    shared = agd.minimize(fun, np.zeros((3, 2)), bounds=[(-1.0, 1.5), (0.0, None)], batch=1)
    np.testing.assert_allclose(shared.x, np.clip(goals, [-1.0, 0.0], [1.5, np.inf]), atol=1e-5)
    low, high = np.asarray([[0.0], [-2.0], [1.0]]), np.asarray([[3.0], [0.0], [1.0]])
    low, high = low + np.zeros((3, 2)), high + np.zeros((3, 2))
    pairs = list(zip(low.ravel(), high.ravel(), strict=True))
    for bounds in (pairs, agd.loss.Box(low, high)):
        own = agd.minimize(fun, np.clip(0.0, low, high), bounds=bounds, batch=1)
        np.testing.assert_allclose(own.x, np.clip(goals, low, high), atol=1e-5)
        assert own.success.all()


def test_a_penalty_of_each_problem(xp):
    centres = np.asarray([[3.0, 0.5], [-2.0, 0.0]])
    c = xp.asarray(centres)
    found = agd.minimize(
        scaled,
        0.0 * c,
        (1.0 + 0.0 * c, c),
        jac=scaled_grad,
        penalty=agd.loss.L1(1.0),
        batch=1,
        stop=frequent_checks(xp),
    )
    want = np.sign(centres) * np.maximum(np.abs(centres) - 1.0, 0.0)  # soft thresholds
    assert_close(xp, found.x, want, digits=4)
    np.testing.assert_allclose(
        found.fun, np.sum(0.5 * (want - centres) ** 2 + np.abs(want), axis=-1), rtol=1e-3
    )


def test_it_prints_a_number_for_each_problem():
    found = agd.minimize(valley, STARTS, jac=valley_grad, batch=1)
    text = repr(found)
    assert "4 of 4 converged" in text
    assert f"status: {found.status}" in text
    assert str(found.nit) in text
    history = found.history
    assert history.value.shape == history.grad_norm.shape == history.nfev.shape
    np.testing.assert_array_equal(history.nfev[-1], found.nfev)
    np.testing.assert_array_equal(history.value[-1], found.fun)


@pytest.mark.parametrize(
    ("x0", "batch", "words"),
    [
        (np.zeros(2), 2, r"x0 must have 2 leading axes.*got shape \(2,\)"),
        ({"a": np.zeros((3, 2)), "b": np.zeros(2)}, 1, r"x0\['b'\] must have 1 leading axes"),
        ({"a": np.zeros((3, 2)), "b": np.float64(0.0)}, 1, r"x0\['b'\] must have 1 leading axes"),
        (np.zeros((0, 2)), 1, "at least one number"),
        (np.zeros((2, 2)), -1, "batch must be 0 or more"),
    ],
)
def test_leading_axes_that_are_none(x0, batch, words):
    with pytest.raises(ValueError, match=words):
        agd.minimize(valley, x0, batch=batch)


def test_what_is_not_one_number_for_each_problem_is_refused():
    for batch in (1.0, True, "1"):
        with pytest.raises(TypeError, match="batch must be a whole number"):
            agd.minimize(valley, STARTS, batch=batch)
    with pytest.raises(ValueError, match=r"array of shape \(4,\), one number for each problem"):
        agd.minimize(lambda x: np.sum(valley(x)), STARTS, batch=1)
    with pytest.raises(ValueError, match="pass batch=1"):
        agd.minimize(valley, STARTS)
