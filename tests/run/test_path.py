"""Runs in closed form: the same end, history and words as the loop's, whatever the number of steps."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from numpy.exceptions import RankWarning

import agd
from agd import backends
from agd._typing import Params
from agd.gradient import LinearObjective, Moments
from agd.linear import path
from agd.loss import L1, L2
from agd.run import GCV, MaxEval, MaxIter, Status, Stop
from agd.run import closed_form as hindsight
from agd.run.closed_form import run_closed_form
from agd.update import Descent, constant, gradient_descent, momentum, nesterov
from helpers.operation_counts import call_count, peak_bytes

quiet = pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")

RULES = {
    "gd": gradient_descent(),
    "gd, given step": gradient_descent(0.1),
    "momentum": momentum(0.05, 0.8),
    "nesterov": nesterov("auto", 0.9),
}
STOPS = {
    "default": Stop(),
    "grad_tol": Stop(grad_tol=1e-7),
    "relative": agd.GradTol(0.0, rtol=1e-5),
    "each leaf": agd.GradTol(Params(1e-6, 1e-2)),
    "step_tol": Stop(step_tol=1e-7, grad_tol=0.0),
    "value_tol": Stop(value_tol=1e-9),
    "both": agd.GradTol(1e-4) & agd.ValueTol(1e-8),
    "max_iter": Stop(max_iter=137, grad_tol=0.0),
    "check_every": Stop(max_iter=137, grad_tol=1e-3, check_every=7),
    "every step": Stop(max_iter=400, grad_tol=1e-9, check_every=1),
    "calls": MaxEval(55),
    "a limit that ends nothing": (MaxIter(33) & agd.GradTol(1e-6)) | MaxIter(101),
}


def data(n=60, p=4, batch=(), seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(*batch, n, p)) * [1.0, 2.0, 0.5, 3.0][:p] + [0.0, 1.0, -1.0, 2.0][:p]
    return X, rng.normal(size=(*batch, n)) + X[..., 0], rng.uniform(0.5, 2.0, size=(*batch, n))


def both(X, y, **options):
    """Fit in closed form, and in the loop: a callback is of steps that are taken."""
    fast = agd.fit(X, y, **options)
    slow = agd.fit(X, y, **options, callback=lambda _: None)
    assert "closed form" not in slow.method
    return fast, slow


def host(x):
    return np.asarray(backends.to_numpy(x), dtype=float)


def assert_same(fast, slow, rtol=1e-9, closed_form=True):
    assert fast.method == slow.method + " (closed form)" * closed_form
    assert np.array_equal(fast.nit, slow.nit)
    assert np.array_equal(fast.status, slow.status)
    assert fast.message == slow.message
    assert np.array_equal(fast.history.nit, slow.history.nit)
    size = np.abs(host(slow.coef)).max()
    np.testing.assert_allclose(host(fast.coef), host(slow.coef), rtol=0.0, atol=rtol * size)
    np.testing.assert_allclose(fast.fun, slow.fun, rtol=rtol)
    np.testing.assert_allclose(fast.history.value, slow.history.value, rtol=rtol)
    first = np.maximum(
        slow.history.grad_norm[0], slow.history.grad_norm
    )  # it grows where a run diverges
    assert (np.abs(fast.history.grad_norm - slow.history.grad_norm) <= rtol * first).all()
    np.testing.assert_allclose(fast.history.step, slow.history.step, rtol=1e-6, atol=rtol)
    assert fast.history.value[-1] == pytest.approx(fast.fun)
    assert fast.history.grad_norm[-1] == pytest.approx(fast.grad_norm)


@quiet
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_fit_ends_where_the_loop_does_and_has_its_history(rule, stop):
    X, y, weight = data()
    for penalty in (None, L2(0.1)):
        options = {"penalty": penalty, "sample_weight": weight, "method": rule, "stop": stop}
        assert_same(*both(X, y, **options))


@quiet
@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_every_problem_of_a_batch_ends_where_the_loop_ends_it(name):
    X, y, weight = data(batch=(3,))
    y[1] *= 1e-6
    for stop in (Stop(), Stop(grad_tol=1e-5, max_iter=600), Stop(value_tol=1e-7)):
        options = {
            "sample_weight": weight,
            "method": RULES[name],
            "stop": stop,
            "penalty": L2(0.01),
        }
        fast, slow = both(X, y, **options)
        assert len(set(fast.nit.tolist())) == 3 or stop.max_iter == 600
        assert_same(fast, slow)
    Y = np.stack([data(seed=i)[1] for i in range(3)], axis=-1)
    assert_same(*both(X[0], Y, method=RULES[name], intercept=False, init=np.ones((3, 4))))


@quiet
def test_it_is_the_loop_on_every_library(xp):
    X, y, weight = data()
    rtol = 1e-9 if xp.host_dtype == np.float64 else 1e-4
    arrays = {"sample_weight": xp.asarray(weight), "penalty": L2(0.1)}
    for stop in (Stop(max_iter=120), Stop(grad_tol=1e-2)):
        fast, slow = both(xp.asarray(X), xp.asarray(y), method="gd", stop=stop, **arrays)
        assert_same(fast, slow, rtol)
        assert backends.of(fast.coef).name == backends.of(slow.coef).name
        assert fast.coef.dtype == slow.coef.dtype
        assert backends.device(fast.coef) == backends.device(slow.coef)
    chosen = agd.fit(xp.asarray(X), xp.asarray(y), method="momentum", stop="gcv")
    assert chosen.success


@quiet
@pytest.mark.parametrize("rate", [0.17, 0.3, 5.0, 1e6])
def test_a_run_that_diverges_says_so_as_the_loop_does(rate):
    X, y, _ = data()
    for rule in (gradient_descent(rate), momentum(rate, 0.5)):
        for stop in (Stop(), Stop(max_iter=400, check_every=7)):
            fast, slow = both(X, y, method=rule, stop=stop)
            assert slow.status is Status.DIVERGED
            assert "2/L = 0.1" in fast.message
            # A run that outgrows the floats is the loop's: it gets there in a few steps.
            assert_same(fast, slow, closed_form=rate < 5.0 or "closed form" in fast.method)


@quiet
@pytest.mark.parametrize("name", ["far from zero", "dependent", "wide", "uneven"])
def test_columns_that_moments_know_little_of_take_the_same_way(name):
    rng = np.random.default_rng(1)
    X = {
        "far from zero": rng.normal(size=(200, 3)) + np.asarray([1970.0, 30.0, 0.0]),
        "dependent": np.repeat(rng.normal(size=(200, 3)), 2, axis=1),
        "wide": rng.normal(size=(10, 30)),
        "uneven": rng.normal(size=(200, 4)) * [1e-3, 1.0, 1e2, 1e4],
    }[name]
    y = rng.normal(size=len(X)) + X[:, 0]
    for y_ in (y, X @ np.ones(X.shape[1])):  # with noise, and fitted exactly
        found = []
        for callback in (None, lambda _: None):
            with pytest.warns(RankWarning) if name in {"dependent", "wide"} else nullcontext():
                found.append(
                    agd.fit(X, y_, method="gd", stop=Stop(max_iter=2000), callback=callback)
                )
        fast, slow = found
        assert (fast.nit, fast.status, fast.message) == (slow.nit, slow.status, slow.message)
        size = np.abs(slow.coef).max()
        np.testing.assert_allclose(fast.coef, slow.coef, rtol=0.0, atol=1e-9 * size)
        scale = slow.history.value[0]  # an exact fit's last values are rounding
        np.testing.assert_allclose(
            fast.history.value, slow.history.value, rtol=1e-9, atol=1e-18 * scale
        )


@quiet
def test_a_gradient_that_the_data_do_not_have_is_not_promised():
    X, y, _ = data()
    stop = Stop(grad_tol=1e-19, max_iter=3000)
    fast, slow = both(X, y, method="gd", stop=stop)
    assert fast.status is slow.status is Status.MAX_ITER
    assert fast.grad_norm > 1e-19
    assert "closed form" in fast.method


@quiet
def test_single_precision_is_the_loop_in_single_precision():
    X, y, _ = (a.astype(np.float32) for a in data())
    for stop in (Stop(), Stop(max_iter=300, grad_tol=0.0)):
        fast, slow = both(X, y, method=momentum(0.05, 0.9), stop=stop)
        assert fast.coef.dtype == np.float32
        assert_same(fast, slow, 1e-5)


def test_a_long_run_ends_where_the_loop_does():
    X, y, _ = data()
    X = X * [1.0, 1.0, 1.0, 3.0]
    stop = Stop(max_iter=10**6, grad_tol=1e-3, check_every=1)  # looks are searched beyond 4,096
    fast = agd.fit(X, y, method="gd", stop=stop)
    timed = replace(stop, when=agd.Deadline(seconds=1e9))  # a loop's
    slow = agd.fit(X, y, method="gd", stop=timed)
    assert fast.method == slow.method + " (closed form)"
    assert 4_500 < slow.nit < 10_000
    assert fast.nit == slow.nit
    assert fast.message == slow.message
    np.testing.assert_allclose(fast.coef, slow.coef, rtol=1e-9)
    at = np.searchsorted(slow.history.nit, fast.history.nit)
    np.testing.assert_allclose(fast.history.value, slow.history.value[at], rtol=1e-12)
    assert 4096 < len(fast.history.nit) < 4500


@quiet
def test_a_billion_epochs_cost_what_ten_thousand_do():
    X, y, _ = data(2000)
    X = X * [1e-3, 1.0, 1.0, 30.0]  # no convergence in a billion

    def run_to(steps):
        found = agd.fit(X, y, method="gd", stop=Stop(max_iter=steps, grad_tol=0.0))
        assert found.nit == steps

    run_to(10)  # imports and caches
    assert call_count(lambda: run_to(10**9)) < 20 * call_count(lambda: run_to(10**4))
    assert peak_bytes(lambda: run_to(10**9)) < 20 * peak_bytes(lambda: run_to(10**4))


def test_gcv_stops_at_the_best_epoch():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 25)) * 0.8 ** np.arange(25)
    Y = rng.normal(size=(40, 2)) * 0.5 + (X[:, 0] - X[:, 5] + 3.0 * X[:, 10])[:, None]
    rule = gradient_descent(0.3)
    found = agd.fit(X, Y[:, 0], method=rule, stop="gcv")
    assert found.status is Status.CONVERGED
    scores = []
    for k in (found.nit - 1, found.nit, found.nit + 1):
        hat = _hat(X, 0.3, k)
        error = np.mean((Y[:, 0] - hat @ Y[:, 0]) ** 2)
        scores.append(error / (1.0 - np.trace(hat) / 40) ** 2)
    assert np.argmin(scores) == 1
    np.testing.assert_allclose(found.predict(X), _hat(X, 0.3, found.nit) @ Y[:, 0], rtol=1e-9)
    assert found.history.nit[-1] == found.nit
    many = agd.fit(X, Y, method=rule, stop="gcv")
    assert many.nit[0] == found.nit
    assert many.nit[1] != found.nit
    np.testing.assert_allclose(many.coef[0], found.coef, rtol=1e-9)
    limited = agd.fit(X, Y[:, 0], method=rule, stop=Stop(max_iter=12, when=GCV()))
    assert limited.nit == 12 < found.nit


def _hat(X, lr, k):
    """Return the matrix that takes y to its fit after k steps from zero."""
    Z = np.column_stack([X, np.ones(len(X))])
    e, V = np.linalg.eigh(Z.T @ Z / len(X))
    return Z @ (V * ((1.0 - (1.0 - lr * e) ** k) / e)) @ V.T @ Z.T / len(X)


def test_gcv_is_refused_where_the_whole_run_is_not_known():
    X, y, _ = data()
    labels = (y > 0).astype(float)
    for options in (
        {},
        {"method": "lbfgs"},
        {"method": gradient_descent(constant(0.1))},
        {"method": "gd", "callback": lambda _: None},
        {"method": "gd", "loss": "huber"},
    ):
        with pytest.raises(ValueError, match="stop='gcv' needs the whole run in closed form"):
            agd.fit(X, y, stop="gcv", **options)
    with pytest.raises(ValueError, match="no other test beside it"):
        agd.fit(X, labels, stop=GCV() | agd.GradTol(1e-3), method="gd")
    with pytest.raises(TypeError, match="or 'gcv', got 'gvc'"):
        agd.fit(X, y, stop="gvc", method="gd")


@quiet
def test_what_the_moments_have_right_is_looked_at_once():
    X, y, _ = data(batch=(3,))
    exact = X @ np.ones(X.shape[-1])  # what is left in the end of its loss, the moments have lost
    for targets, epochs, times in ((y, 100, 1), (exact, 600, 2)):
        stop = Stop(epochs, grad_tol=0.0, check_every=epochs)
        looks = mock.Mock(wraps=hindsight.scan_checks)
        with mock.patch("agd.run.closed_form.scan_checks", looks):
            fast, slow = both(X, targets, method=gradient_descent(0.1), stop=stop)
        assert looks.call_count == times
        assert fast.nit.tolist() == slow.nit.tolist() == [epochs] * 3
        np.testing.assert_allclose(fast.fun, slow.fun, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("stop", [None, "gcv"])
def test_the_moments_find_what_is_not_finite(wrong, stop):
    X, y, weight = data()
    X[7, 2] = wrong
    weight[7] = 0.0
    for given in ({}, {"sample_weight": weight}):
        with pytest.raises(ValueError, match=r"X has 1 NaN or infinite value.* X\[7, 2\]"):
            agd.fit(X, y, method="gd", stop=stop, **given)


@quiet
def test_the_loop_runs_where_it_must_or_is_sooner():
    X, y, _ = data()
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(3, 300))
    cases = {
        "callback": agd.fit(X, y, method="gd", callback=lambda _: None),
        "deadline": agd.fit(X, y, method="gd", stop=agd.Deadline(seconds=1e9)),
        "few steps": agd.fit(X, y, method="gd", stop=Stop(max_iter=2)),
        "wide": agd.fit(wide, y[:3], method="gd"),
        "schedule": agd.fit(X, y, method=gradient_descent(constant(0.1)), stop=Stop(max_iter=99)),
        "loss": agd.fit(X, y, method="gd", loss="huber", stop=Stop(max_iter=99)),
    }
    assert [name for name, found in cases.items() if "closed form" in found.method] == []
    assert "closed form" in agd.fit(X, y, method="momentum").method


def test_the_moments_are_read_once_and_the_end_once():
    X, y, _ = data()
    seen = []
    objective = LinearObjective.of(X, y)
    moments = Moments.from_blocks(objective.blocks)

    class Watched(LinearObjective):
        def value_and_grad(self, params):
            seen.append(params)
            return super().value_and_grad(params)

    watched = Watched(objective.blocks, objective.loss)
    found = run_closed_form(
        Descent(gradient_descent()), watched, watched.zeros(), Stop(grad_tol=1e-6), moments=moments
    )
    assert len(seen) == 1
    assert found.nfev == 2


# -- path ------------------------------------------------------------------------------------------


def test_a_path_is_the_fits_at_its_epochs(xp):
    X, y, weight = (xp.asarray(a) for a in data())
    epochs = [40, 0, 10, 200]
    options = {"sample_weight": weight, "penalty": L2(0.1), "method": "nesterov"}
    found = path(X, y, epochs=epochs, **options)
    assert found.coef.shape == (4, 4)
    assert (found.intercept.shape, found.value.shape, found.grad_norm.shape) == ((4,), (4,), (4,))
    assert found.coef.dtype == found.value.dtype == X.dtype
    seen = {}

    def look(result):
        seen[result.nit] = result
        return result.nit >= 200

    stop = Stop(max_iter=10**4, grad_tol=0.0)
    agd.fit(X, y, stop=stop, callback=look, **options)
    rtol = 1e-9 if xp.host_dtype == np.float64 else 1e-4
    for i, k in enumerate(epochs):
        if k:
            np.testing.assert_allclose(
                host(found.coef)[i], host(seen[k].x.coef), rtol=rtol, atol=rtol
            )
            assert host(found.value)[i] == pytest.approx(seen[k].fun, rel=rtol)
            slope = max(
                np.abs(host(seen[k].jac.coef)).max(), abs(float(host(seen[k].jac.intercept)))
            )
            assert host(found.grad_norm)[i] == pytest.approx(slope, rel=1e-6, abs=rtol)


def test_a_path_of_data_that_are_fitted_exactly_has_the_datas_loss():
    X, _, _ = data()
    y = X @ [1.0, -1.0, 2.0, 0.5] + 3.0
    found = path(X, y, epochs=[5000, 20_000], method=momentum(0.1, 0.9))
    for coef, intercept, value in zip(*found[:3], strict=True):
        want = 0.5 * np.mean((X @ coef + intercept - y) ** 2)
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-29)


def test_a_path_of_many_problems_and_of_one_epoch():
    X, y, _ = data(batch=(3,))
    options = {"intercept": False, "method": momentum(0.05)}
    found = path(X, y, epochs=7, init=np.ones((3, 4)), **options)
    assert found.coef.shape == (3, 4)
    assert found.intercept is None
    alone = path(X[1], y[1], epochs=[7], init=np.ones(4), **options)
    np.testing.assert_allclose(found.coef[1], alone.coef[0], rtol=1e-12)
    assert path(X, y, epochs=[]).coef.shape == (0, 3, 4)


def test_a_path_that_diverges_is_infinite_beyond_its_dtype():
    X, y, _ = (a.astype(np.float32) for a in data())
    found = path(X, y, epochs=[0, 10, 10**9], method=gradient_descent(0.5))
    assert np.isfinite(found.coef[:2]).all()
    assert np.isinf(found.value[2])
    assert found.coef.dtype == np.float32


def test_what_has_no_path_in_closed_form_is_refused():
    X, y, _ = data()
    with pytest.raises(ValueError, match="loss must be 'squared_error'"):
        path(X, y, epochs=[1], loss="huber")
    for method in ("lbfgs", "auto"):
        with pytest.raises(ValueError, match="method must be 'gd', 'momentum', 'nesterov'"):
            path(X, y, epochs=[1], method=method)
    with pytest.raises(ValueError, match="rule must be gradient_descent, momentum or nesterov"):
        path(X, y, epochs=[1], method="adam")
    with pytest.raises(TypeError, match=r"penalty must be None or agd\.loss\.L2"):
        path(X, y, epochs=[1], penalty=L1(0.1))
    with pytest.raises(TypeError, match="epochs must be whole numbers"):
        path(X, y, epochs=[1.5])
    with pytest.raises(ValueError, match="epochs must be 0 or more"):
        path(X, y, epochs=[-1])
    with pytest.raises(ValueError, match="NaN"):
        path(np.where(X[0, 0] == X, math.nan, X), y, epochs=[1])
    assert agd.linear.path is agd.path is path
