"""Faults that users reported of libraries that do this work: a section a room, a row a case, the kind in words.

Each row holds the right value, or the status that says what is wrong, and its siblings. New rows go to the end
of a section, new sections to the end of the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import agd
from agd import Status

# -- minimize: a function without a minimum is never a success -----------------------------------

WITHOUT_MINIMUM = {
    "a falling line": (lambda x: -x[0], [0.0]),
    "a rising line": (lambda x: 2.0 * x[0], [0.3]),
    "a parabola upside down": (lambda x: -(x[0] ** 2), [0.1]),
    "a plane": (lambda x: x[0] - 3.0 * x[1], [1.0, 1.0]),
    "a log-likelihood with the wrong sign": (
        lambda x: -np.sum((np.asarray([1.0, 2.0, 4.0]) - x[0]) ** 2),
        [0.5],
    ),
    "a fourth power upside down": (lambda x: -np.sum(x**4), [1.0, -1.0]),
    "a saddle": (lambda x: x[0] ** 2 - x[1] ** 2, [1.0, 0.1]),
    "an offset that hides the slope's rounding": (lambda x: 1e9 - x[0], [0.0]),
}


@pytest.mark.parametrize("jac", [None, "2-point", "3-point"])
@pytest.mark.parametrize("name", WITHOUT_MINIMUM)
def test_functions_that_fall_for_ever_are_unbounded_by_differences(name, jac):
    fun, x0 = WITHOUT_MINIMUM[name]
    result = agd.minimize(fun, np.asarray(x0), jac=jac)
    assert (result.status, result.success) == (Status.UNBOUNDED, False)
    result = agd.maximize(lambda x: -fun(x), np.asarray(x0), jac=jac)
    assert (result.status, result.success) == (Status.UNBOUNDED, False)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e8])
def test_a_function_of_small_values_is_no_nearer_to_its_minimum(scale):
    def fun(x):
        return scale * ((x[0] - 3.0) ** 2 + 2.0 * (x[1] + 1.0) ** 2 + (x[0] - 3.0) ** 4)

    result = agd.minimize(fun, np.zeros(2))
    assert result.success
    np.testing.assert_allclose(result.x, [3.0, -1.0], rtol=0.02)


# -- minimize: bounds ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.5, 1e-3])
@pytest.mark.parametrize("rate", [1e2, 1129.2, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_point_near_its_bound_is_not_stationary_for_being_near(dtype, rate, start):
    """The rate of waiting times: the bound is at 0, and the distance to it is a small number."""
    rate = float(dtype(rate))
    result = agd.minimize(
        lambda x: dtype(-np.log(x[0]) + x[0] * dtype(rate)),
        np.asarray([start], dtype),
        jac=lambda x: (dtype(rate) - 1 / x).astype(dtype),
        bounds=[(1e-12, None)],
    )
    assert result.success
    np.testing.assert_allclose(result.x, 1.0 / rate, rtol=1e-3 if dtype is np.float32 else 1e-6)


IN_A_BOX = {
    "a rate": (lambda x: -np.log(x[0]) + x[0] * 1129.2, [0.5], [(1e-12, None)], [1 / 1129.2], 150),
    "a small rate": (lambda x: -np.log(x[0]) + x[0] * 1e6, [0.5], [(1e-12, None)], [1e-6], 250),
    "a variance": (lambda x: 25 * np.log(x[0]) + 2e-3 / x[0], [1.0], [(1e-10, None)], [8e-5], 500),
    "a share": (
        lambda x: -3 * np.log(x[0]) - 997 * np.log1p(-x[0]), [0.5], [(1e-9, 1 - 1e-9)], [3e-3], 150,
    ),
    "a bound that holds": (
        lambda x: np.sum((x - np.asarray([-1.0, 2.0])) ** 2), [1.0, 1.0], [(0, None)] * 2, [0, 2], 50,
    ),
    "a bend in a box": (
        lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0],
        [(None, 0.5), (None, None)], [0.5, 0.25], 250,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_A_BOX)
def test_runs_by_differences_within_bounds_end_at_the_answer(name):
    fun, x0, bounds, right, most = IN_A_BOX[name]
    low, high = np.asarray(bounds, dtype=float).T
    calls = 0

    def counted(x):
        nonlocal calls
        calls += 1
        assert not np.any(x < low), x
        assert not np.any(x > high), x
        return float(fun(x))

    result = agd.minimize(counted, np.asarray(x0), bounds=bounds)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, right, rtol=1e-6, atol=1e-9)
    assert calls == result.nfev <= most


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_a_kink_that_is_near_is_no_minimum(scale):
    """A penalty's kink at 0, beside values of x of any size: the distance to it is no gradient."""
    weight = 1.0 / scale
    result = agd.minimize(
        lambda x: weight * np.sum((x / scale - 1.0) ** 2) * 0.5,
        np.asarray([0.5 * scale]),
        jac=lambda x: weight * (x / scale - 1.0) / scale,
        penalty=agd.loss.L1(0.25 * weight / scale),
        method="proximal_gradient",
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 0.75 * scale, rtol=1e-5)


# -- minimize: converged where digits are right --------------------------------------------------

LANCZOS_X = np.arange(24) * 0.05
LANCZOS = np.asarray([0.0951, 1.0, 0.8607, 3.0, 1.5576, 5.0])


def lanczos(b, x=LANCZOS_X):
    return b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-b[3] * x) + b[4] * np.exp(-b[5] * x)


def rational(b, x):
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


# The model, its parameters, where the run begins, and the points.
CURVES = {
    "exponentials, from afar": (
        lanczos, LANCZOS, [1.2, 0.3, 5.6, 5.5, 6.5, 7.6], LANCZOS_X),
    "exponentials, from near": (
        lanczos, LANCZOS, [0.5, 0.7, 3.6, 4.2, 4.0, 6.3], LANCZOS_X),
    "a rational function, from afar": (
        rational, [0.1928, 0.1913, 0.1231, 0.1361], [25.0, 39.0, 41.5, 39.0],
        np.asarray([4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])),
    "two decays, from afar": (
        lambda b, x: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]),
        [0.3754, 1.9358, -1.4647, 0.01287, 0.02212], [50.0, 150.0, -100.0, 1.0, 2.0],
        np.arange(33) * 10.0),
    "a saturation, from beyond it": (
        lambda b, x: b[0] * (1.0 - np.exp(-b[1] * x)), [213.8, 0.547], [100.0, 0.75],
        np.asarray([1.0, 2.0, 3.0, 5.0, 7.0, 10.0])),
    "a peak, from beside it": (
        lambda b, x: b[0] / b[1] * np.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
        [1.554, 4.089, 451.5], [1.0, 10.0, 500.0], 400.0 + 3.0 * np.arange(35)),
    "a growth, from beyond it": (
        lambda b, x: b[0] / (1.0 + np.exp(b[1] - b[2] * x)) ** (1.0 / b[3]),
        [699.6, 5.277, 0.76, 1.279], [100.0, 10.0, 1.0, 1.0], np.arange(1.0, 16.0)),
    "an angle, whose flat direction hides": (
        lambda b, x: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / np.pi,
        [0.202, -6.2e-6, 1204.0, -181.3], [0.1, -1e-5, 1000.0, -100.0], 10.0 + 240.0 * np.arange(25)),
}  # fmt: skip


@pytest.mark.parametrize("by_differences", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("name", CURVES)
def test_a_sum_of_squares_that_converged_is_as_small_as_it_gets(name, noise, by_differences):
    """Flat directions hardly show in the gradient, and sums of small squares have small ones everywhere."""
    model, right, x0, x = CURVES[name]
    right = np.asarray(right)
    y = model(right, x) * (1.0 + noise * np.cos(7.0 * np.arange(x.size)))

    def fun(b):
        return float(np.sum((model(b, x) - y) ** 2))

    def grad(b):
        columns = [np.imag(model(b + 1e-200j * axis, x)) / 1e-200 for axis in np.eye(b.size)]
        return 2.0 * np.stack(columns) @ (model(b, x) - y)

    with np.errstate(all="ignore"):
        jac = None if by_differences else grad
        result = agd.minimize(fun, np.asarray(x0), jac=jac, stop=agd.Stop(max_iter=3000))
        if result.success:
            # What the best point has, and a little beside it: a digit of each parameter, at the least.
            assert result.fun <= 2.0 * fun(right) + 1e-13 * fun(np.asarray(x0))


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_level_bottom_and_an_unused_variable_are_no_plateau(offset):
    def bottom(x):
        return np.maximum(0.0, 1.0 - x[0]) ** 2 + 1e4 * np.maximum(0.0, x[1] - 2.0) ** 2 + offset

    def bend(x):
        return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2 + offset

    assert agd.minimize(bottom, np.asarray([0.0, 5.0])).success
    assert agd.minimize(bend, np.asarray([-1.2, 1.0, 5.0])).success
    away = agd.minimize(
        lambda x: (x[1] - 200.0) ** 2 + 1e6 * (1.0 - np.exp(-x[0])) + 50.0, np.asarray([-5.0, 0.0])
    )
    assert not away.success


def test_a_gradient_that_vanishes_on_the_way_down_is_no_minimum():
    """The slope of a logarithm vanishes far out, and its fall has no end."""
    result = agd.minimize(
        lambda x: -np.log1p(x[0] ** 2), [0.7], jac=lambda x: -2.0 * x / (1.0 + x**2)
    )
    assert not result.success


def test_a_minimum_where_rounding_stops_the_search_is_one():
    """Parameters of 500 and 1e-4: the gradient by the second is rounded at a size of 1e-3."""
    x = np.linspace(70.0, 760.0, 14)
    y = 238.94 * (1.0 - np.exp(-5.5e-4 * x)) + 0.05 * np.cos(np.arange(14.0))

    def residual(b):
        return b[0] * (1.0 - np.exp(-b[1] * x)) - y

    def grad(b):
        decay = np.exp(-b[1] * x)
        return 2.0 * np.stack([1.0 - decay, b[0] * x * decay]) @ residual(b)

    result = agd.minimize(lambda b: float(residual(b) @ residual(b)), [250.0, 5e-4], jac=grad)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, [238.94, 5.5e-4], rtol=1e-2)


# -- success is what a user would say ------------------------------------------------------------


@pytest.mark.parametrize("door", [agd.minimize, agd.maximize])
@pytest.mark.parametrize(
    ("curvatures", "kind"),
    [
        ([1.0, -1.0], "saddle"),
        ([-1.0, -1.0], "maximum"),
        ([1.0, 1.0], "minimum"),
    ],
)
def test_a_point_that_is_no_minimum_is_no_success(door, curvatures, kind):
    a = np.asarray(curvatures)
    result = door(lambda x: 0.5 * a @ x**2, np.zeros(2), jac=lambda x: a * x, certify=True)
    wanted = "minimum" if door is agd.minimize else "maximum"
    assert result.certificate.kind == kind
    assert result.success == (kind == wanted)
    assert (result.status is Status.NO_MINIMUM) == (kind != wanted)
    assert kind == wanted or kind in result.message


RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 3))
MIXED, SEPARATED = RNG.integers(0, 2, size=40) * 1.0, (ROWS[:, 0] > 0.0) * 1.0
WITHOUT_A_FIT = {
    "one problem": (ROWS, SEPARATED, "log_loss"),
    "one of a batch": (np.stack([ROWS, ROWS]), np.stack([MIXED, SEPARATED]), "log_loss"),
    "one class, in a batch": (np.stack([ROWS, ROWS]), np.stack([MIXED, np.ones(40)]), "log_loss"),
    "one of several targets": (ROWS, np.stack([MIXED, SEPARATED], axis=-1), "log_loss"),
    "more columns than rows": (RNG.normal(size=(20, 50)), MIXED[:20], "log_loss"),
    "three classes": (ROWS, (ROWS[:, 0] > 0.0) + (ROWS[:, 0] > 1.0) * 1.0, "softmax"),
}


@pytest.mark.parametrize("method", ["auto", "lbfgs", "gd", "nesterov"])
@pytest.mark.parametrize("name", WITHOUT_A_FIT)
def test_separated_classes_are_no_success_by_any_method(name, method):
    X, y, loss = WITHOUT_A_FIT[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = agd.fit(X, y, loss=loss, method=method, stop=agd.Stop(max_iter=2000))
    status, success = np.asarray(result.status), np.asarray(result.success)
    assert (status.reshape(-1)[-1], success.reshape(-1)[-1]) == (Status.UNBOUNDED, False)
    assert "the classes are perfectly separated" in result.message
    assert status.ndim == 0 or success[0] or status[0] == Status.MAX_ITER


def test_separated_classes_with_a_penalty_have_a_minimum():
    assert agd.fit(ROWS, SEPARATED, loss="log_loss", penalty=agd.loss.L2(1e-3)).success


# -- callbacks, complex parameters, causes -------------------------------------------------------


@pytest.mark.parametrize("method", ["lbfgs", "gd", "adam"])
def test_a_callback_that_writes_to_its_result_writes_to_a_copy(method):
    def spoil(intermediate_result):
        intermediate_result.x[:] = np.nan
        intermediate_result.jac[:] = np.nan

    def solve(callback):
        return agd.minimize(
            lambda x: np.sum((x - 3.0) ** 4), np.zeros(2), jac=lambda x: 4.0 * (x - 3.0) ** 3,
            method=method if method != "adam" else agd.update.adam(0.1), callback=callback,
            stop=agd.Stop(max_iter=300),
        )  # fmt: skip

    spoiled, plain = solve(spoil), solve(None)
    np.testing.assert_array_equal(spoiled.x, plain.x)
    assert spoiled.status == plain.status


def test_a_callback_of_a_fit_writes_to_a_copy():
    def spoil(result):
        result.x.coef[:] = np.nan

    spoiled = agd.fit(ROWS, MIXED, loss="log_loss", callback=spoil)
    np.testing.assert_allclose(spoiled.coef, agd.fit(ROWS, MIXED, loss="log_loss").coef, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop", "nadam", "radam"])
def test_squares_of_complex_gradients_are_those_of_their_absolute_values(name):
    """Turning a complex plane turns the steps, and changes nothing else."""
    rule = getattr(agd.update, name)(0.1)

    def steps(turn):
        params = np.asarray([0.0 + 0.0j])
        state = rule.init(params)
        for g in (1.0 + 0.0j, 0.5 + 0.25j, -0.3 + 1.0j):
            updates, state = rule.update(np.asarray([turn * g]), state, params)
        return updates / turn

    np.testing.assert_allclose(steps(1.0j), steps(1.0), rtol=1e-12)


def test_a_divergence_is_told_its_cause():
    X = 1e3 * ROWS
    with pytest.warns(agd.ConvergenceWarning) as caught:
        agd.fit(X, ROWS[:, 0], method=agd.update.gradient_descent(1.0), stop=agd.Stop(max_iter=500))
    assert "largest stable step" in str(caught[0].message)
    with pytest.raises(FloatingPointError, match="begin with smaller ones"):
        agd.train(weights={"w0": 1e308, "w1": 1e308}, backend="numpy")
    with pytest.raises(FloatingPointError, match="above 2/L"):
        agd.train(learning_rate=10.0, backend="numpy")


# -- the process: interrupts, deadlines, NumPy set to raise, forks --------------------------------


@pytest.mark.parametrize("call", [30, 43, 44, 45])
def test_an_interrupt_carries_the_result_so_far(call):
    calls = 0

    def fun(x):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2

    with pytest.raises(KeyboardInterrupt) as caught:
        agd.minimize(fun, np.asarray([-1.2, 1.0]))
    result = caught.value.result
    assert (result.status, result.success) == (Status.INTERRUPTED, False)
    assert result.nit > 2
    assert result.fun == fun(result.x) < 24.0
    assert "interrupt.result" in caught.value.__notes__[0]


@pytest.mark.parametrize("method", ["auto", "gd", "adam", "sgd", "lbfgs"])
def test_an_interrupted_fit_carries_a_model(method):
    calls = []

    def interrupt(result):
        calls.append(result)
        if len(calls) == 2:
            raise KeyboardInterrupt

    labels = np.where(MIXED > 0.0, "yes", "no")
    with pytest.raises(KeyboardInterrupt) as caught:
        agd.fit(ROWS, labels, loss="log_loss", method=method, callback=interrupt)
    result = caught.value.result
    assert result.status == Status.INTERRUPTED
    np.testing.assert_array_equal(result.coef, calls[-1].x.coef)
    assert set(result.predict(ROWS)) <= {"yes", "no"}


@pytest.mark.parametrize("dimension", [20, 500])
@pytest.mark.parametrize("jac", ["2-point", "3-point"])
def test_a_deadline_ends_within_a_gradient_by_differences(jac, dimension, monkeypatch):
    calls = 0

    def slow(x):
        nonlocal calls
        calls += 1
        return np.sum((x - 1.0) ** 4)

    monkeypatch.setattr("time.monotonic", lambda: 0.01 * calls)
    result = agd.minimize(slow, np.zeros(dimension), jac=jac, stop=agd.Deadline(1.0))
    assert result.status == Status.DEADLINE
    assert calls <= 102
    assert result.fun == slow(result.x) <= dimension
    with pytest.raises(ValueError, match="must be finite at x0"):
        agd.minimize(lambda x: float("nan"), np.zeros(2), stop=agd.Deadline(1e-9))


def test_numpy_that_is_set_to_raise_breaks_no_fit():
    tiny = 1e-200 * ROWS
    with np.errstate(all="raise"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", agd.ConvergenceWarning)  # of units that suit no rate
            for method in ("auto", "gd", "nesterov", "lbfgs"):
                assert agd.fit(tiny, ROWS[:, 0], method=method).predict(tiny).shape == (40,)
        model = agd.fit(ROWS, MIXED, loss="log_loss", penalty=agd.loss.L2(1e-9))
        assert model.predict_proba(1e4 * ROWS).shape == (40, 2)
        quadratic = agd.minimize(lambda x: 1e-300 * float(x[0] * x[0]), np.asarray([1e-9]))
        assert abs(quadratic.x[0]) <= 1e-9
        assert agd.critical_point(lambda x: 1.0 + x[0] * x[0] * 1e-160, np.asarray([1e-160])).kind


IN_A_FORK = """
import os
from agd.data.threads import _blas_libraries, single_threaded_blas

def counts():
    return [library.read_count() for library in _blas_libraries()]

before = counts()
with single_threaded_blas():
    child = os.fork()
    if not child:
        with single_threaded_blas():
            inside = counts()
        os._exit(0 if counts() == before and set(inside) <= {1} else 1)
assert os.waitpid(child, 0)[1] == 0 and counts() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_limit_of_blas_is_not_left_over_in_a_forked_process():
    limits = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_FORK], check=True, env=os.environ | limits
    )


# -- what is not finite, and what is unscaled, is said as it is -----------------------------------

METHODS = {
    "lbfgs": "lbfgs", "cg": "cg", "gd": "gd", "adam": "adam",
    "a fixed rate": agd.update.gradient_descent(0.1), "adam, a fixed rate": agd.update.adam(0.5),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("value", "slope", "words"),
    [
        (np.nan, 1.0, "the value is not finite: NaN"),
        (np.inf, 1.0, "the value is not finite: infinite"),
        (-np.inf, 1.0, "the value is not finite: -infinity"),
        (1.0, np.nan, "the gradient is not finite: NaN"),
        (1.0, np.inf, "the gradient is not finite: infinite"),
    ],
)
def test_what_is_not_finite_on_the_way_is_named(method, value, slope, words):
    def fun(x):
        return np.sum((x - 3.0) ** 2) * (value if x[0] > 1.0 else 1.0)

    def jac(x):
        return 2.0 * (x - 3.0) * (slope if x[0] > 1.0 else 1.0)

    result = agd.minimize(fun, np.zeros(2), jac=jac, method=METHODS[method])
    assert (result.status, result.success) == (Status.NON_FINITE, False)
    assert result.message.startswith(words)
    assert np.all(result.x <= 1.0)


@pytest.mark.parametrize(
    ("value", "slope", "words"),
    [
        (np.nan, 1.0, "fun must be finite at x0, got nan"),
        (np.inf, 1.0, "fun must be finite at x0, got inf"),
        (1.0, np.nan, "the gradient must be finite at x0: it is NaN"),
        (1.0, np.inf, "the gradient must be finite at x0: it is infinite"),
    ],
)
def test_what_is_not_finite_at_the_start_is_named(value, slope, words):
    with pytest.raises(ValueError, match=words):
        agd.minimize(lambda x: value * 1.0, np.ones(2), jac=lambda x: slope * x)


def test_steps_out_of_range_are_told_their_cause():
    far = agd.minimize(lambda x: np.sum(x**2), np.asarray([1e150, 1.0]))
    assert not far.success
    assert "derivative" not in far.message
    long = agd.minimize(
        lambda x: np.sum(x**4), np.ones(2), jac=lambda x: 4.0 * x**3, method=agd.update.adam(1e80)
    )
    assert "use a smaller learning_rate" in long.message
    with pytest.warns(agd.ConvergenceWarning, match=r"infinite at the first point"):
        agd.fit(ROWS, ROWS[:, 0], init=np.full(3, 1e200))


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("method", ["gd", "adam", "nesterov"])
def test_unscaled_columns_are_told_their_condition(method, loss):
    X = ROWS * np.asarray([1.0, 1e3, 1e5])
    stop = agd.Stop(max_iter=200)
    with pytest.warns(agd.ConvergenceWarning, match=r"L/mu is \d\S*e\+\d+.*: use method='auto'"):
        result = agd.fit(X, MIXED, method=method, loss=loss, stop=stop)
    assert "raise max_iter" not in result.message


@pytest.mark.parametrize("method", ["auto", "gd", "lbfgs", "svrg"])
def test_counts_that_are_all_0_have_no_fit(method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        result = agd.fit(ROWS, np.zeros(40), loss="poisson", method=method)
        assert (result.status, result.success) == (Status.UNBOUNDED, False)
        if method == "svrg":
            return
        X, y = np.stack([ROWS, ROWS]), np.stack([MIXED, np.zeros(40)])
        many = agd.fit(X, y, loss="poisson", method=method)
    assert many.success.tolist() == [True, False]
    assert many.status[1] == Status.UNBOUNDED
    assert "all counts are 0" in many.message
