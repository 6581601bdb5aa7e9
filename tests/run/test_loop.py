"""The loop: when it stops, what it says, and how often it reads from the device."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd import Status, Stop, update
from agd.gradient import LinearObjective
from agd.run import run
from agd.update import Descent

READS = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__dlpack__")


def data(xp, n=50):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)) * [1.0, 3.0, 0.3]
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=n)
    return xp.asarray(X), xp.asarray(y)


@pytest.mark.parametrize("method", ["auto", "gd", "adam"])
@pytest.mark.parametrize("check_every", [1, 7, 25])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.backend("strict")
def test_strict_arrays_are_read_once_a_look(reads, method, check_every, loss):
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    X, y = (strict.asarray(np.abs(a), device=device) for a in data(np))
    # On device1 the only way out is to_device; anything else there would raise.
    counts = reads(type(X), ("to_device",), READS[:4])
    _hold_to_the_budget(X, y, counts, method, check_every, loss)


@pytest.mark.parametrize("method", ["auto", "gd", "adam"])
@pytest.mark.parametrize("check_every", [1, 7, 25])
@pytest.mark.backend("torch")
def test_torch_tensors_are_read_once_a_look(reads, method, check_every):
    torch = pytest.importorskip("torch")
    X, y = (torch.asarray(np.abs(a)) for a in data(np))
    counts = reads(torch.Tensor, ("cpu",), (*READS, "item", "tolist", "is_nonzero"))
    _hold_to_the_budget(X, y, counts, method, check_every, "squared_error")


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize(
    "method",
    [
        "lbfgs",
        "cg",
        "hager_zhang",
        "barzilai_borwein",
        "polyak",
        "steepest_descent",
        "accelerated",
        "gd",
    ],
)
@pytest.mark.backend("strict")
def test_a_method_that_decides_on_the_host_reads_once_an_evaluation(method, batch):
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    x0 = strict.asarray(np.asarray([[3.0, -1.0], [0.5, 2.0]])[: 2 if batch else 1], device=device)
    x0 = x0 if batch else x0[0, ...]
    scale = strict.asarray([1.0, 30.0], device=device)

    def value(x):
        return strict.sum(scale * x * x + 0.25 * x**4, axis=-1)

    def gradient(x):
        return 2.0 * scale * x + x**3

    stop = Stop(grad_tol=1e-6, max_iter=5000)
    found = agd.minimize(value, x0, jac=gradient, method=method, batch=batch, stop=stop)
    assert np.all(found.success)
    # A problem of a batch counts its own evaluations; where it has none others may.
    evaluations = np.sum(found.nfev) if batch and method == "accelerated" else np.max(found.nfev)
    assert found.n_sync <= evaluations + 3


def _hold_to_the_budget(X, y, counts, method, check_every, loss):
    stop = Stop(max_iter=60, check_every=check_every)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        found = agd.fit(X, y, loss=loss, method=method, stop=stop)
    assert counts["other"] == 0
    assert counts["move"] == found.n_sync
    if "closed form" in found.method:
        # The data, the moments twice, a scan, the end, the curvature; and a scan where the end is put right.
        assert found.n_sync in (6, 7)
        return
    if method == "auto" and loss == "poisson":
        # Newton's method: the data, the condition, and each evaluation; a look costs nothing.
        assert found.n_sync == 2 + found.nfev
        return
    if method == "gd" and loss == "poisson":
        # A step may be refused, and each evaluation is read, so that a look costs nothing: beside them the
        # data and the first curvature.
        assert found.nfev - 1 > found.nit
        assert found.nfev < found.n_sync <= found.nfev + 3
        return
    # One to check the data, one at the start, one for every check_every steps; one for the spreads of the columns,
    # which say what to advise, where the steps do not lead to the end.
    assert found.n_sync == 2 + -(-found.nit // check_every) + (found.status is agd.Status.MAX_ITER)


def test_the_reads_are_counted_on_every_library(xp):
    X, y = data(xp)
    found = agd.fit(X, y, method="accelerated", stop=Stop(check_every=5))
    # The screen, the curvature, each evaluation, and the length of the last gradient.
    assert found.nfev < found.n_sync <= found.nfev + 4
    # The moments of the columns tell whether the data are finite, too; after them each evaluation is read.
    whitened = agd.fit(X, y)
    screened = xp.name == "dask"  # chunks are looked over first
    assert whitened.n_sync == screened + whitened.nfev
    # A call to test a step, and another where it is not refused.
    assert (np.diff(found.history.nfev) <= 10).all()


def test_history_is_what_happened():
    X, y = data(np)
    found = agd.fit(X, y, method="gd", stop=Stop(grad_tol=1e-3, check_every=20))
    assert found.history.value[-1] == found.fun
    assert found.history.grad_norm[-1] == found.grad_norm
    assert (np.diff(found.history.value) <= 0.0).all()
    assert found.history.value[0] == pytest.approx((y**2).mean() / 2)


def test_status_converged_by_each_test():
    X, y = data(np)
    for stop in (
        Stop(grad_tol=1e-3),
        Stop(grad_tol=0.0, step_tol=1e-6),
        Stop(grad_tol=0.0, value_tol=1e-9),
    ):
        found = agd.fit(X, y, method="gd", stop=stop)
        assert found.status is Status.CONVERGED
        assert found.success
        assert found.message.startswith("converged (after")
    absolute = agd.fit(X, y, method="gd", stop=Stop(grad_tol=1e-3))
    assert max(np.abs(absolute.jac.coef).max(), abs(absolute.jac.intercept)) <= 1e-3
    assert absolute.certificate.tolerance == 1e-3


def test_absolute_tolerance_is_in_the_users_units():
    X, y = data(np)
    found = agd.fit(X * 1e3, y, stop=Stop(grad_tol=1e-6, check_every=1))
    assert found.success
    size = max(np.abs(found.jac.coef).max(), abs(found.jac.intercept))
    assert size == pytest.approx(found.grad_norm, rel=1e-6)
    assert size <= 1e-6


def test_status_iteration_limit():
    X, y = data(np)
    with pytest.warns(agd.ConvergenceWarning, match="raise max_iter"):
        found = agd.fit(X, y, method="gd", stop=Stop(max_iter=13))
    assert (found.status, found.success, found.nit) == (Status.MAX_ITER, False, 13)


def test_status_diverged_names_the_largest_stable_step(xp):
    X, y = data(xp)
    host, _ = data(np)
    Z = np.column_stack([host, np.ones(50)])
    largest = 2.0 / np.linalg.eigvalsh(Z.T @ Z / 50)[-1]
    with pytest.warns(agd.ConvergenceWarning, match=r"2/L = .* is the largest stable step"):
        found = agd.fit(X, y, method=update.gradient_descent(1.5 * largest))
    assert found.status is Status.DIVERGED
    assert found.nit < 10_000
    assert found.certificate.largest_step == pytest.approx(largest, rel=1e-5)
    assert np.isfinite(xp.to_numpy(found.coef)).all()
    assert np.isfinite(found.fun)


def test_a_run_that_overflows_between_looks_returns_the_last_finite_point(xp):
    X, y = data(xp)
    stop = Stop(max_iter=400, check_every=400)
    with pytest.warns(agd.ConvergenceWarning):
        found = agd.fit(X, y, method=update.gradient_descent(10.0), stop=stop)
    assert found.status is Status.DIVERGED
    assert 0 < found.nit < 400
    assert np.isfinite(xp.to_numpy(found.coef)).all()
    assert np.isfinite(found.fun)
    one_more = xp.to_numpy(found.coef) - 10.0 * xp.to_numpy(found.jac.coef)
    host = [xp.to_numpy(a) for a in (X, y)]
    with np.errstate(all="ignore"):
        after = np.mean((host[0] @ one_more - host[1]).astype(xp.host_dtype) ** 2)
    assert not np.isfinite(after.astype(xp.host_dtype)) or after > 1e30


def test_a_step_just_above_the_largest_is_seen_to_diverge():
    X, y = data(np)
    Z = np.column_stack([X, np.ones(50)])
    largest = 2.0 / np.linalg.eigvalsh(Z.T @ Z / 50)[-1]
    with pytest.warns(agd.ConvergenceWarning, match="diverged"):
        found = agd.fit(X, y, method=update.gradient_descent(1.01 * largest))
    assert found.status is Status.DIVERGED
    found = agd.fit(X, y, method=update.gradient_descent(0.99 * largest))
    assert found.status is Status.CONVERGED


class Broken:
    """An objective that turns to NaN below 1."""

    batch_shape = ()

    def value_and_grad(self, w):
        value = np.where(w[0] < 1.0, np.nan, w[0] ** 2)
        return value, 2.0 * w

    def grad_norm(self, g, w):
        return np.max(np.abs(g))

    def report(self, w, g):
        return w, g

    def arrays(self):
        return ()

    def with_arrays(self, arrays):
        return self


def test_status_not_finite():
    found = run(Descent(update.gradient_descent(0.1)), Broken(), np.asarray([3.0]))
    assert found.status is Status.NON_FINITE
    assert found.x[0] >= 1.0 > 0.8 * found.x[0]
    assert found.nit == 4  # 3, 2.4, 1.92, 1.536, 1.2288; the next is below 1
    assert "check the data and the function" in found.message
    start = run(Descent(update.gradient_descent(0.1)), Broken(), np.asarray([0.5]))
    assert (start.status, start.nit) == (Status.NON_FINITE, 0)


@pytest.mark.parametrize("how", ["raise", "return"])
def test_status_callback(how):
    X, y = data(np)
    seen = []

    def callback(intermediate):
        seen.append((intermediate.nit, intermediate.fun, intermediate.x.coef.copy()))
        if len(seen) == 3:
            if how == "raise":
                raise StopIteration
            return True
        return None

    found = agd.fit(X, y, method="gd", callback=callback)
    assert found.status is Status.CALLBACK
    assert not found.success
    assert [k for k, _, _ in seen] == [10, 20, 30]
    assert found.nit == 30
    np.testing.assert_array_equal(found.coef, seen[-1][2])


def test_the_callback_sees_the_users_coordinates_and_its_errors_pass():
    X, y = data(np)
    found = []
    agd.fit(X * 1e3, y, callback=found.append)
    value = np.mean((X * 1e3 @ found[-1].x.coef + found[-1].x.intercept - y) ** 2) / 2
    assert value == pytest.approx(found[-1].fun, rel=1e-10)
    with pytest.raises(KeyboardInterrupt):
        agd.fit(X, y, callback=_interrupt)


def _interrupt(_):
    raise KeyboardInterrupt


def test_each_status_has_its_own_message():
    messages = [status.advice for status in Status]
    assert len(set(messages)) == len(messages) == len(Status)
    assert [int(status) for status in Status] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99]


def test_a_result_reads_as_a_table_and_by_key():
    X, y = data(np)
    found = agd.fit(X, y)
    text = repr(found)
    assert "status: 0 (CONVERGED)" in text
    assert "coef: [" in text
    assert found["fun"] == found.fun
    with pytest.raises(KeyError):
        found["nothing"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_iter": 0}, "max_iter must be 1 or more, got 0"),
        ({"max_iter": 1.5}, "max_iter must be a whole number, got 1.5"),
        ({"check_every": 0}, "check_every must be 1 or more"),
        ({"grad_tol": -1.0}, "grad_tol must be a finite number of 0 or more, got -1.0"),
        ({"step_tol": float("nan")}, "step_tol must be a finite number"),
        ({"value_tol": "small"}, "value_tol must be a number of 0 or more, got 'small'"),
    ],
)
def test_limits_are_checked(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Stop(**kwargs)


def test_the_core_runs_without_the_door():
    X, y = data(np)
    objective = LinearObjective.of(X, y)
    found = run(
        Descent(update.gradient_descent()), objective, objective.zeros(), Stop(grad_tol=1e-8)
    )
    assert found.success
    assert found.method == "gradient_descent(learning_rate='auto')"
