"""Perturbed descent: it leaves saddles, ends in ordinary minima, and never returns a worse point."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Status, Stop, update
from agd.gradient import FunctionObjective, LinearObjective
from agd.run import run
from agd.update import Descent, Perturbed, lbfgs, steepest_descent
from helpers import known_minima

METHODS = {
    "gd": Perturbed,
    "lbfgs": lambda: Perturbed(lbfgs()),
    "fixed step": lambda: Perturbed(Descent(update.gradient_descent(0.1))),
}
QUICK = [
    name
    for name in known_minima.PROBLEMS
    if name not in ("rosenbrock_100", "quadratic_1e8", "brown_badly_scaled")
]


def objective(problem):
    return FunctionObjective(lambda x, **_: (problem.fun(x), problem.grad(x)))


def solve(problem, method, x0=None, stop=None):
    x0 = np.array(problem.x0) if x0 is None else x0
    return run(method, objective(problem), x0, stop or Stop(2000, grad_tol=1e-6))


# -- saddles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_minima.SADDLES)
@pytest.mark.parametrize("start", ["ridge", "saddle"])
def test_plain_descent_ends_in_the_saddle(name, start):
    problem = known_minima.SADDLES[name]
    x0 = np.array(problem.x0 if start == "ridge" else problem.saddles[0])
    for method in (steepest_descent(), lbfgs()):
        found = solve(problem, method, x0)
        assert found.status is Status.CONVERGED
        assert np.abs(found.x).max() < 1e-2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", ["ridge", "saddle"])
@pytest.mark.parametrize("name", known_minima.SADDLES)
def test_perturbed_descent_leaves_it(xp, name, start, method):
    if (name, method) == ("monkey_saddle", "fixed step"):
        pytest.skip("beside a flat saddle fixed steps take longer than a perturbed point is given")
    if xp.name == "dask":
        pytest.skip("a graph for every number is slow: the batch below has these starts")
    problem = known_minima.SADDLES[name]
    x0 = xp.asarray(np.array(problem.x0 if start == "ridge" else problem.saddles[0]))
    found = solve(problem, METHODS[method](), x0, Stop(600, grad_tol=1e-3))
    if problem.minima:
        assert found.status is Status.CONVERGED
        assert problem.distance(xp.to_numpy(found.x)) < 1e-2
    else:
        assert found.status in (Status.UNBOUNDED, Status.MAX_ITER, Status.NON_FINITE)
        assert found.fun < -1.0


@pytest.mark.parametrize("seed", range(10))
def test_any_seed_will_do(seed):
    for name, problem in known_minima.SADDLES.items():
        found = solve(problem, Perturbed(seed=seed))
        assert found.fun < (-0.24 if name == "two_wells" else -1.0)


def test_a_string_of_saddles_is_left_one_by_one():
    # f = Σ (x_i² - 1)² / 4 from the top: 0 is a maximum, points with some entries at 0 are saddles.
    class Wells:
        fun = staticmethod(lambda x: np.sum((x * x - 1.0) ** 2) / 4.0)
        grad = staticmethod(lambda x: x * (x * x - 1.0))
        x0 = (2.0, 0.0, 0.0, 0.0, 0.0)

    for method in METHODS.values():
        found = solve(Wells, method())
        np.testing.assert_allclose(np.abs(found.x), 1.0, atol=1e-4)


# -- ordinary minima -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_minima_are_found_and_called_so(name):
    problem = known_minima.PROBLEMS[name]
    found = solve(problem, Perturbed(lbfgs()))
    plain = solve(problem, lbfgs())
    assert found.status is Status.CONVERGED
    assert problem.gap(found.fun) <= 1e-8
    # A perturbation that leads nowhere costs a few periods of ten steps.
    assert found.nfev <= plain.nfev + 120
    assert found.grad_norm <= 1e-6


def test_the_point_before_the_perturbation_is_returned_where_nothing_lower_is_found():
    problem = known_minima.PROBLEMS["article"]
    method = Perturbed(Descent(update.gradient_descent(1e-3)), small=0.5, radius=1.0, wait=2)
    whole, x = objective(problem), np.array([0.1])
    state = method.init(whole, x)._replace(max_norm=np.asarray(10.0))
    params = x
    for period in range(3):
        for _ in range(10):
            params, state = method.step(whole, params, state)
        before = params
        drawn = method.redraw(whole, params, 10 * (period + 1))
        params, state = method.refresh(whole, params, state, np.sign(drawn) * 1.0 + 0.0 * drawn)
        if period == 0:  # off it goes, but what is reported stays
            assert state.periods_waited == 1.0
            assert abs(state.point[0] - before[0]) == 1.0
        np.testing.assert_array_equal(params, before)
        assert state.value == problem.fun(params)
        np.testing.assert_array_equal(state.grad, problem.grad(params))
    assert not state.progress.may_be_saddle
    np.testing.assert_array_equal(state.point, params)
    np.testing.assert_array_equal(state.inner.grad, state.grad)


def test_what_is_reported_never_rises():
    for problem in (*known_minima.SADDLES.values(), known_minima.PROBLEMS["himmelblau_1"]):
        found = solve(problem, Perturbed(), stop=Stop(200, grad_tol=1e-8, check_every=1))
        assert (np.diff(found.history.value) <= 1e-14).all()
        assert found.fun == found.history.value.min()


def test_a_small_gradient_is_not_convergence_until_it_is_settled():
    problem = known_minima.PROBLEMS["booth"]
    for stop in (
        Stop(grad_tol=1e-4, check_every=1),
        Stop(grad_tol=1e-4, step_tol=1e-1, value_tol=1e-1, check_every=1),
        agd.GradTol(1e-4) | agd.MaxIter(1000),
    ):
        found = solve(problem, Perturbed(lbfgs()), stop=stop)
        plain = solve(problem, lbfgs(), stop=stop)
        assert found.status is plain.status is Status.CONVERGED
        assert found.nfev >= plain.nfev + 10
    limited = solve(problem, Perturbed(), stop=Stop(3, grad_tol=1e10, check_every=1))
    assert (limited.status, limited.nit) == (Status.MAX_ITER, 3)


def test_a_search_at_its_end_is_a_small_gradient_too():
    found = solve(known_minima.PROBLEMS["booth"], Perturbed(lbfgs()), stop=Stop(2000, grad_tol=0.0))
    assert found.status in (Status.LINE_SEARCH, Status.CONVERGED)
    np.testing.assert_allclose(found.x, [1.0, 3.0], atol=1e-7)


# -- the random move -------------------------------------------------------------------------------


def test_every_library_draws_the_same_ball(xp):
    whole = FunctionObjective(lambda x, **_: (x, x))
    x = xp.asarray(np.zeros((3, 4)))
    drawn = Perturbed(seed=5).redraw(whole, x, 30)
    assert drawn.dtype == x.dtype
    want = Perturbed(seed=5).redraw(whole, np.zeros((3, 4)), 30)
    np.testing.assert_allclose(xp.to_numpy(drawn), want, rtol=1e-6)


def test_the_ball_is_uniform():
    whole = FunctionObjective(lambda x, **_: (x, x), batch_shape=(20_000,))
    ball = Perturbed().redraw(whole, np.zeros((20_000, 3)), 10)
    radius = np.linalg.norm(ball, axis=-1)
    assert radius.max() <= 1.0
    # In three dimensions the radius has the distribution function r³, and no direction is preferred.
    for r in (0.3, 0.6, 0.9):
        assert (radius < r).mean() == pytest.approx(r**3, abs=0.015)
    np.testing.assert_allclose(ball.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(ball.T @ ball / 20_000, np.eye(3) / 5.0, atol=0.01)


def test_runs_are_reproducible_bit_for_bit():
    problem = known_minima.SADDLES["two_wells"]
    one, two, other = (solve(problem, Perturbed(seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.history.value, two.history.value)
    assert (one.history.value != other.history.value[: len(one.history.value)]).any()


def quick(xp):
    """A search is a graph of hundreds of nodes on Dask: there the step is fixed."""
    return Perturbed(Descent(update.gradient_descent(0.4))) if xp.name == "dask" else Perturbed()


# -- batches, trees, bounds, models ----------------------------------------------------------------


def test_every_problem_of_a_batch_has_its_own_perturbation(xp):
    ns = xp.ns

    def pair(x, **_):
        a, b = x[..., 0], x[..., 1]
        value = 0.5 * a**2 - 0.5 * b**2 + 0.25 * b**4
        return value, ns.stack([1.0 * a, b**3 - b], axis=-1)

    start = np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 0.9], [2.0, -1.0]])
    whole = FunctionObjective(pair, batch_shape=(4,))
    found = run(quick(xp), whole, xp.asarray(start), Stop(600, grad_tol=1e-3))
    assert found.success.all()
    np.testing.assert_allclose(np.abs(xp.to_numpy(found.x)), [[0.0, 1.0]] * 4, atol=5e-3)
    np.testing.assert_allclose(found.fun, -0.25, atol=1e-4)


def test_trees_and_points_of_no_dimension(xp):
    def pair(p, **_):
        a, b = p["a"], p["b"]
        return 0.5 * a**2 - 0.5 * b**2 + 0.25 * b**4, {"a": 1.0 * a, "b": b**3 - b}

    x0 = {"a": xp.asarray(np.array(1.0)), "b": xp.asarray(np.array(0.0))}
    found = run(quick(xp), FunctionObjective(pair), x0, Stop(600, grad_tol=1e-3))
    assert found.success
    assert abs(float(xp.to_numpy(found.x["b"]))) == pytest.approx(1.0, abs=5e-3)


def test_linear_models_are_fitted_as_without_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ [1.0, -2.0, 3.0] + rng.normal(size=60)
    whole = LinearObjective.of(X, y)
    found = run(Perturbed(lbfgs()), whole, whole.zeros(), Stop(500, grad_tol=1e-8))
    best = np.linalg.lstsq(np.column_stack([X, np.ones(60)]), y, rcond=None)[0]
    assert found.success
    np.testing.assert_allclose(np.append(found.x.coef, found.x.intercept), best, atol=1e-7)


@pytest.mark.backend("jax")
def test_step_and_refresh_run_inside_jit():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    problem, method = known_minima.SADDLES["two_wells"], Perturbed(lbfgs())
    whole = objective(problem)

    @jax.jit
    def period(params, state, drawn):
        def step(_, carry):
            return method.step(whole, *carry)

        return method.refresh(whole, *jax.lax.fori_loop(0, 10, step, (params, state)), drawn)

    params = jax.numpy.asarray(problem.x0)
    state = method.init(whole, params)
    for k in range(6):
        params, state = period(params, state, method.redraw(whole, params, k))
    assert problem.distance(params) < 1e-5
    host = solve(problem, method)
    assert abs(float(params[1])) == pytest.approx(abs(host.x[1]), abs=1e-5)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "lbfgs"}, "method must be a method such as"),
        ({"method": update.adam(0.1)}, "method must be a method such as"),
        ({"method": lbfgs}, "method must be a method such as"),
        ({"method": update.SVRG()}, "draws"),
        ({"method": update.sgd()}, "draws"),
        ({"method": Perturbed()}, "draws"),
        ({"radius": 0.0}, "radius must be"),
        ({"small": 0.0}, "small must be"),
        ({"small": 1.0}, "small must be below 1, got 1.0"),
        ({"patience": 0}, "patience must be 1 or more"),
        ({"wait": 0}, "wait must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_parameters_are_checked(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Perturbed(**kwargs)


def test_names():
    assert Perturbed().name == "perturbed gradient descent, backtracking"
    assert Perturbed(lbfgs(5)).name == "perturbed L-BFGS (memory 5), strong Wolfe"
