"""Scripts written for `scipy.optimize.minimize` run with one import changed, and mean the same."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

import agd
from agd import Status
from agd.loss import Box
from helpers.known_minima import booth, booth_grad, rosenbrock, rosenbrock_grad
from helpers.quadratic_bowl import CountedFunction, bowl, bowl_gradient

optimize = pytest.importorskip("scipy.optimize")

START = [-1.2, 1.0]
FIELDS = ("x", "fun", "jac", "nit", "nfev", "njev", "status", "success", "message")

both = pytest.mark.parametrize("minimize", [optimize.minimize, agd.minimize])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"jac": rosenbrock_grad},
        {},
        {"jac": "2-point"},
        {"jac": "3-point"},
        {"method": "L-BFGS-B", "jac": rosenbrock_grad},
        {"method": "BFGS", "tol": 1e-8, "jac": rosenbrock_grad},
        {"method": "CG", "jac": rosenbrock_grad},
        {"method": "l-bfgs-b", "bounds": [(-2, 0.5), (None, None)], "jac": rosenbrock_grad},
        {"options": {"maxiter": 200, "gtol": 1e-7, "disp": False}, "jac": rosenbrock_grad},
    ],
)
def test_the_same_arguments_give_the_same_answer(kwargs):
    theirs = optimize.minimize(rosenbrock, START, **kwargs)
    ours = agd.minimize(rosenbrock, START, **kwargs)
    assert (ours.success, theirs.success) == (True, True)
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-4)
    assert ours["fun"] == pytest.approx(theirs["fun"], abs=1e-8)
    assert ours.jac.shape == theirs.jac.shape


@both
def test_the_fields_of_a_result_by_name_and_by_key(minimize):
    found = minimize(booth, [0.0, 0.0], jac=booth_grad)
    for name in FIELDS:
        assert name in found
        assert name in found.keys()  # noqa: SIM118 - as a script asks a dict
        assert found[name] is getattr(found, name)
        assert found.get(name) is getattr(found, name)
    assert found.get("nothing") is None
    with pytest.raises(KeyError):
        found["nothing"]
    assert dict(found)["status"] == 0
    assert (found.success, found.status == 0) == (True, True)
    assert isinstance(found.message, str)
    assert all(isinstance(found[name], int) for name in ("nit", "nfev", "njev"))
    np.testing.assert_allclose(found.x, [1.0, 3.0], atol=1e-5)
    assert isinstance(found.x, np.ndarray)
    assert isinstance(found.jac, np.ndarray)
    assert float(found.fun) < 1e-8


@both
def test_arguments_of_the_function_and_of_its_gradient(minimize):
    def fun(x, a, b):
        return float(np.sum((x - a) ** 2) + b)

    def jac(x, a, b):
        return 2.0 * (x - a)

    a = np.asarray([3.0, -1.0])
    for given in (jac, None):
        found = minimize(fun, [0.5, 0.5], (a, 2.0), jac=given)
        np.testing.assert_allclose(found.x, a, atol=1e-5)
        assert found.fun == pytest.approx(2.0)
    alone = minimize(lambda x, a: np.sum((x - a) ** 2), [0.0], args=3.0)
    np.testing.assert_allclose(alone.x, 3.0, atol=1e-5)
    partly = minimize(functools.partial(fun, a=a, b=1.0), [0.5, 0.5])
    np.testing.assert_allclose(partly.x, a, atol=1e-5)


@both
def test_a_function_that_returns_both(minimize):
    calls = CountedFunction(lambda x: (rosenbrock(x), rosenbrock_grad(x)))
    found = minimize(calls, START, jac=True)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-4)
    assert found.nfev == found.njev == calls.calls


@both
def test_calls_are_counted(minimize):
    fun, jac = CountedFunction(rosenbrock), CountedFunction(rosenbrock_grad)
    found = minimize(fun, START, method="L-BFGS-B", jac=jac)
    assert (found.nfev, found.njev) == (fun.calls, jac.calls)
    fun = CountedFunction(rosenbrock)
    found = minimize(fun, START, method="L-BFGS-B")
    assert found.nfev == fun.calls


@both
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG"])
def test_callbacks_of_both_kinds(minimize, method):
    points, results = [], []

    def keep(intermediate_result):
        results.append((intermediate_result.x.copy(), intermediate_result.fun))

    for callback in (lambda xk: points.append(xk.copy()), keep):
        found = minimize(rosenbrock, START, jac=rosenbrock_grad, method=method, callback=callback)
    assert len(points) == len(results) == found.nit > 5
    for point, (x, value) in zip(points, results, strict=True):
        np.testing.assert_array_equal(point, x)
        assert value == pytest.approx(rosenbrock(point), rel=1e-12)
    np.testing.assert_array_equal(points[-1], found.x)


@both
def test_a_callback_ends_the_run(minimize):
    points = []

    def at_third(xk):
        points.append(xk.copy())
        if len(points) == 3:
            raise StopIteration

    found = minimize(rosenbrock, START, jac=rosenbrock_grad, callback=at_third)
    assert (found.status, bool(found.success), found.nit) == (99, False, 3)
    np.testing.assert_array_equal(found.x, points[-1])
    assert "callback" in found.message

    def at_second(intermediate_result):
        if intermediate_result.fun < 4.12:
            raise StopIteration

    found = minimize(rosenbrock, START, jac=rosenbrock_grad, callback=at_second)
    assert found.status == 99
    assert found.fun < 4.12


def test_a_callback_may_return_true_or_be_any_callable():
    class Look:
        seen = 0

        def __call__(self, x):
            self.seen += 1
            return self.seen == 2

        def method(self, *, intermediate_result):
            self.seen += 1
            return intermediate_result.nit == 4

    look = Look()
    found = agd.minimize(rosenbrock, START, jac=rosenbrock_grad, callback=look)
    assert (found.status, found.nit, look.seen) == (Status.CALLBACK, 2, 2)
    found = agd.minimize(rosenbrock, START, jac=rosenbrock_grad, callback=look.method)
    assert (found.status, found.nit) == (Status.CALLBACK, 4)


def test_a_callback_may_return_any_librarys_true(xp):
    """Comparisons of NumPy numbers, and of arrays, are no Python bools."""
    x0, stop = xp.asarray([0.0, 5.0]), agd.Stop(2, grad_tol=0.0, check_every=1)
    settings = {"jac": bowl_gradient, "method": agd.update.gradient_descent(0.1), "stop": stop}
    for answer, ends in (
        (True, True),
        (np.True_, True),
        (xp.asarray(1.0) > 0.0, True),
        (xp.asarray([1.0]) > 0.0, True),
        (False, False),
        (np.False_, False),
        (xp.asarray(1.0) < 0.0, False),
        (None, False),
        (1, False),  # a count, say
        (np.float64(1.0), False),
        (xp.asarray([1.0, 2.0]), False),
        ([True], False),
        ("yes", False),
    ):
        found = agd.minimize(bowl, x0, callback=lambda x, answer=answer: answer, **settings)
        assert (found.status is Status.CALLBACK) is ends, answer
    with pytest.raises(ValueError, match=r"one bool or None; got bools of shape \(2,\)"):
        agd.minimize(bowl, x0, callback=lambda x: x > 0.0, **settings)


@both
def test_errors_of_the_users_functions_pass_unchanged(minimize):
    class MyError(Exception):
        pass

    def raises(*args):
        raise MyError("mine")

    def interrupted(x):
        raise KeyboardInterrupt

    x0 = np.asarray(START)
    for kwargs in ({"fun": raises}, {"fun": rosenbrock, "jac": raises}, {"fun": rosenbrock, "callback": raises}):  # fmt: skip
        with pytest.raises(MyError, match="mine"):
            minimize(x0=x0, **kwargs)
    with pytest.raises(KeyboardInterrupt):
        minimize(interrupted, x0)
    np.testing.assert_array_equal(x0, START)


@both
def test_limits_by_tol_and_options(minimize):
    short = minimize(rosenbrock, START, jac=rosenbrock_grad, options={"maxiter": 3})
    assert (short.status, short.nit, bool(short.success)) == (1, 3, False)
    few = minimize(
        rosenbrock, START, jac=rosenbrock_grad, method="L-BFGS-B", options={"maxfun": 10}
    )
    assert (few.status, bool(few.success)) == (1, False)
    assert 10 <= few.nfev <= 12  # a step that has begun is ended
    for kwargs in ({"tol": 1e-2}, {"options": {"gtol": 1e-2}}, {"tol": 1.0, "options": {"gtol": 1e-2}}):  # fmt: skip
        loose = minimize(rosenbrock, START, jac=rosenbrock_grad, method="BFGS", **kwargs)
        assert loose.success
        assert 1e-6 < np.abs(rosenbrock_grad(loose.x)).max() <= 1e-2


def test_options_that_scipy_has_and_agd_has_not_are_said():
    with pytest.warns(UserWarning, match="'maxcor', 'foo'.*it knows gtol, ftol, maxiter"):
        found = agd.minimize(booth, [0.0, 0.0], options={"maxcor": 5, "foo": 1, "maxiter": 50})
    assert found.success
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agd.minimize(booth, [0.0, 0.0], options={"disp": True, "gtol": None, "maxfev": 100})


@both
def test_bounds_as_scipy_takes_them(minimize):
    for bounds in (
        [(0, 0.5), (None, 2.0)],
        ((0, 0.5), (-np.inf, 2.0)),
        optimize.Bounds([0.0, -np.inf], [0.5, 2.0]),
        np.asarray([[0.0, 0.5], [-np.inf, 2.0]]),
        list(zip([0, None], [0.5, 2.0], strict=True)),
    ):
        found = minimize(booth, [0.25, 0.0], jac=booth_grad, bounds=bounds)
        # At x = 1/2 the bowl_gradient in y, 8 x + 10 y - 38, is 0 at 3.4: both bounds hold.
        np.testing.assert_allclose(found.x, [0.5, 2.0], atol=1e-6)
        assert found.success
    # One pair for all entries, by an object; what follows is agd's own.
    found = agd.minimize(booth, [0.25, 0.0], jac=booth_grad, bounds=Box(0.0, 1.0))
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-6)
