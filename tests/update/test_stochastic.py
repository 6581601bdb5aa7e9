"""Mini-batch methods: the same batches everywhere, and the same answers as by hand and by Newton."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import agd
from agd import Status, Stop, update
from agd._typing import Params
from agd.gradient import FunctionObjective, LinearObjective, Preconditioned, column_scaling
from agd.loss import L2, Logistic, Poisson, Squared
from agd.run import run
from agd.update import SVRG, Stochastic, sgd
from agd.update.stochastic import batch_curvature
from helpers import known_minima

pytestmark = pytest.mark.filterwarnings("ignore::agd.ConvergenceWarning")


def data(n=53, p=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * [1.0, 2.0, 0.5][:p] + 0.3
    return X, X @ [1.0, -2.0, 3.0][:p] + 0.5 + 0.3 * rng.normal(size=n)


def objective(xp, loss=None, penalty=None, weight=None, n=53, classes=False):
    X, y = data(n)
    y = (y > 0.0) * 1.0 if classes else y
    weight = None if weight is None else xp.asarray(weight)
    return LinearObjective.of(
        xp.asarray(X), xp.asarray(y), loss=loss, penalty=penalty, sample_weight=weight
    )


def chunked(xp):
    return xp.name == "dask"


def host(xp, params):
    return np.append(xp.to_numpy(params.coef), xp.to_numpy(params.intercept))


def rows(method, n_steps, n=53):
    """Return the rows that a method draws, on the host."""
    X, y = data(n)
    return method.draw(LinearObjective.of(X, y), 0, n_steps)


# -- which rows ------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation_cut_into_mini_batches():
    method = sgd(batch_size=8, seed=3)
    drawn = rows(method, 18)
    assert drawn.shape == (18, 8)
    for epoch in range(3):
        order = np.random.default_rng([3, epoch]).permutation(53)
        np.testing.assert_array_equal(drawn[6 * epoch : 6 * epoch + 6].ravel(), order[:48])
    # Five rows are left over; they are others in the next epoch.
    left = [set(range(53)) - set(drawn[6 * e : 6 * e + 6].ravel().tolist()) for e in range(3)]
    assert [len(rest) for rest in left] == [5, 5, 5]
    assert left[0] != left[1]


@pytest.mark.parametrize("first", [0, 1, 5, 6, 7, 11, 12])
@pytest.mark.parametrize("n", [1, 5, 6, 7, 13])
def test_what_a_step_draws_depends_on_the_step_alone(first, n):
    method = sgd(batch_size=8)
    X, y = data()
    drawn = method.draw(LinearObjective.of(X, y), first, n)
    np.testing.assert_array_equal(drawn, rows(method, 30)[first : first + n])


def test_every_library_draws_the_same_rows(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    drawn = SVRG(batch_size=7, seed=11).draw(objective(xp), 5, 20)
    np.testing.assert_array_equal(xp.to_numpy(drawn), rows(SVRG(batch_size=7, seed=11), 25)[5:])


@pytest.mark.parametrize(
    ("n", "size", "batches"), [(20, 20, 1), (33, 32, 1), (1600, 32, 50), (50_000, 100, 500)]
)
def test_the_default_batch(n, size, batches):
    X = np.ones((n, 1))
    problem = LinearObjective.of(X, X[:, 0])
    assert sgd().period(problem) == batches
    assert sgd().draw(problem, 0, 1).shape == (1, size)
    assert SVRG(passes=3).period(problem) == 3 * batches


# -- the objective over some rows ------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_mean_over_all_mini_batches_is_the_whole(xp, weighted, scaled):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    weight = np.random.default_rng(1).uniform(0.1, 2.0, size=48) if weighted else None
    whole = objective(xp, penalty=L2(0.1), weight=weight, n=48)
    if scaled:
        whole = Preconditioned(whole, column_scaling(whole))
    drawn = sgd(batch_size=8).draw(whole, 0, 6)
    at = Params(xp.asarray(np.array([0.3, -1.0, 2.0])), xp.asarray(np.array(0.7)))
    want_value, want = whole.value_and_grad(at)
    parts = [whole.take_rows(drawn[i, ...]).value_and_grad(at) for i in range(6)]
    value = sum(float(xp.to_numpy(v)) for v, _ in parts) / 6.0
    grad = sum(host(xp, g) for _, g in parts) / 6.0
    assert value == pytest.approx(float(xp.to_numpy(want_value)), rel=10 * xp.rtol)
    np.testing.assert_allclose(grad, host(xp, want), rtol=0, atol=100 * xp.rtol)


def test_rows_of_a_function_are_those_of_its_arguments(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    X, y = (xp.asarray(a) for a in data())

    def pair(w, X, y, **_):
        r = X @ w - y
        return xp.ns.mean(r * r) / 2.0, xp.ns.matrix_transpose(X) @ r / float(r.shape[0])

    whole = FunctionObjective(pair, (X, y), rows=53)
    linear = dataclasses.replace(objective(xp), intercept=False)
    drawn = sgd(batch_size=8).draw(whole, 0, 1)[0, ...]
    w = xp.asarray(np.array([0.3, -1.0, 2.0]))
    ours, theirs = whole.take_rows(drawn), linear.take_rows(drawn)
    assert whole.row_count == linear.row_count == 53
    np.testing.assert_allclose(
        xp.to_numpy(ours.value_and_grad(w)[1]),
        xp.to_numpy(theirs.value_and_grad(Params(w, None))[1].coef),
        atol=100 * xp.rtol,
    )


@pytest.mark.parametrize("loss", [Squared(), Logistic()])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_curvature_of_mini_batches(loss, scaled, intercept):
    X, y = data(30)
    weight = np.random.default_rng(1).uniform(0.1, 2.0, size=30)
    base = LinearObjective.of(
        X, (y > 0) * 1.0, loss=loss, penalty=L2(0.1), sample_weight=weight, intercept=intercept
    )
    where = column_scaling(base)
    whole = Preconditioned(base, where) if scaled else base
    Z = np.column_stack([X, np.ones(30)]) if intercept else X
    D = np.eye(Z.shape[1])
    if scaled:
        D[:3, :3] = np.diag(where.inv_std)
        if intercept:
            D[3] = np.append(-where.mean * where.inv_std, where.intercept_scale)
    ridge = D.T @ np.diag(np.append(np.full(3, 0.1), np.zeros(Z.shape[1] - 3))) @ D
    Z = Z @ D
    s = weight * 30 / weight.sum()
    single = [
        np.linalg.eigvalsh(loss.curvature * w * np.outer(z, z) + ridge)[-1]
        for w, z in zip(s, Z, strict=True)
    ]
    mean = np.linalg.eigvalsh(loss.curvature * (Z * s[:, None]).T @ Z / 30 + ridge)[-1]
    ridge_top = np.linalg.eigvalsh(ridge)[-1]
    at_one, at_all = batch_curvature(whole, 1), batch_curvature(whole, 30)
    assert max(single) <= at_one * (1.0 + 1e-12)
    assert at_one <= max(single) + ridge_top
    assert mean <= at_all * (1.0 + 1e-9)
    assert at_all == pytest.approx(mean, rel=1e-2)
    between = batch_curvature(whole, 5)
    assert between == pytest.approx((30 * 4 * at_all + 25 * at_one) / (5 * 29), rel=1e-12)


def test_the_expected_smoothness_bounds_the_noise():
    # E|g_B(x) - g_B(x*)|² <= 2 L_b (f(x) - f*), which is what a step of 1 / (2 L_b) rests on.
    X, y = data(40)
    whole = LinearObjective.of(X, y, intercept=False)
    best = Params(np.linalg.lstsq(X, y, rcond=None)[0], None)
    rng = np.random.default_rng(0)
    x = Params(best.coef + rng.normal(size=3), None)
    gap = whole.value_and_grad(x)[0] - whole.value_and_grad(best)[0]
    for size in (1, 4, 20):
        squares = []
        for _ in range(3000):
            part = whole.take_rows(rng.permutation(40)[:size])
            change = part.value_and_grad(x)[1].coef - part.value_and_grad(best)[1].coef
            squares.append(change @ change)
        assert np.mean(squares) <= 2.0 * batch_curvature(whole, size) * gap


def test_no_bound_without_one():
    assert batch_curvature(objective(np_like(), loss=Poisson()), 4) is None
    assert batch_curvature(FunctionObjective(lambda x: (x, x)), 4) is None


def np_like():
    class Plain:
        asarray = staticmethod(np.asarray)

    return Plain


# -- descent by mini-batches -----------------------------------------------------------------------


def by_hand(X, y, drawn, rate):
    """Mini-batch gradient descent on the squared loss, spelt out."""
    w, b = np.zeros(X.shape[1]), 0.0
    for k, batch in enumerate(drawn):
        r = X[batch] @ w + b - y[batch]
        w, b = w - rate(k) * X[batch].T @ r / len(batch), b - rate(k) * r.mean()
    return np.append(w, b)


def test_descent_is_the_equation(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    method = Stochastic(update.gradient_descent(0.05), batch_size=8, seed=5)
    found = run(method, objective(xp), objective(xp).zeros(), Stop(4, grad_tol=0.0))
    drawn = rows(method, 24)
    want = by_hand(*data(), drawn, lambda k: 0.05)
    np.testing.assert_allclose(host(xp, found.x), want, atol=100 * xp.rtol)
    assert (found.nit, found.status) == (4, Status.MAX_ITER)
    # What is reported is the whole function's: at the point, over all rows.
    X, y = data()
    r = X @ want[:3] + want[3] - y
    assert found.fun == pytest.approx((r @ r) / 106, rel=1000 * xp.rtol)
    grad = np.append(X.T @ r, r.sum()) / 53
    np.testing.assert_allclose(host(xp, found.jac), grad, atol=1000 * xp.rtol)


def test_the_automatic_rate_is_the_documented_one():
    X, y = data()
    method = sgd(batch_size=8)
    whole = LinearObjective.of(X, y)
    found = run(method, whole, whole.zeros(), Stop(3, grad_tol=0.0))
    top = batch_curvature(whole, 8)
    want = by_hand(X, y, rows(method, 18), lambda k: 0.5 / top * (1.0 + k / 6) ** (-2 / 3))
    np.testing.assert_allclose(host(_Np, found.x), want, rtol=1e-11)


class _Np:
    to_numpy = staticmethod(np.asarray)


def test_any_rule_and_schedule_drives_it():
    X, y = data(500)
    whole = LinearObjective.of(X, y)
    best = np.linalg.lstsq(np.column_stack([X, np.ones(500)]), y, rcond=None)[0]
    for rule in (
        update.adam(update.inverse_scaling(0.5, 2 / 3)),
        update.momentum(update.inverse_scaling(0.2, 2 / 3)),
        update.gradient_descent(update.inverse_scaling(0.5, 2 / 3)),
    ):
        found = run(Stochastic(rule, 20), whole, whole.zeros(), Stop(40, grad_tol=0.0))
        np.testing.assert_allclose(host(_Np, found.x), best, atol=0.1)


def test_the_noise_dies_out_with_the_rate():
    X, y = data(500)
    whole = LinearObjective.of(X, y)
    fixed = Stochastic(update.gradient_descent(0.15), 10)
    far, near = (
        run(method, whole, whole.zeros(), Stop(200, grad_tol=0.0)).grad_norm
        for method in (fixed, sgd(batch_size=10))
    )
    assert near < 0.2 * far


def test_runs_are_reproducible_bit_for_bit(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    whole = objective(xp)
    for make in (sgd, SVRG):
        one, two, other = (
            host(xp, run(make(batch_size=8, seed=s), whole, whole.zeros(), Stop(3, grad_tol=0.0)).x)
            for s in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, two)
        assert (one != other).any()


def test_steps_do_not_hang_on_how_often_one_looks():
    X, y = data()
    whole = LinearObjective.of(X, y)
    for make in (sgd, SVRG):
        answers = [
            run(make(batch_size=8), whole, whole.zeros(), Stop(5, grad_tol=0.0, check_every=every))
            for every in (None, 1, 4, 1000)
        ]
        for other in answers[1:]:
            np.testing.assert_array_equal(host(_Np, other.x), host(_Np, answers[0].x))
            assert other.nit == answers[0].nit == 5


def test_an_epoch_is_looked_at_once_and_counts_as_an_iteration():
    X, y = data(640)
    found = agd.fit(X, y, method=sgd(batch_size=16), stop=Stop(7, grad_tol=0.0))
    assert found.history.nit.tolist() == list(range(8))
    # A pass for each epoch, one for each look, and one at the start.
    assert found.nfev == 1 + 7 + 8


def test_a_rate_that_is_too_large_is_seen_to_diverge(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    whole = objective(xp)
    for method in (Stochastic(update.gradient_descent(1e3), 8), SVRG(8, learning_rate=1e3)):
        found = run(method, whole, whole.zeros(), Stop(200, grad_tol=0.0))
        assert found.status in (Status.DIVERGED, Status.NON_FINITE)
        assert np.isfinite(host(xp, found.x)).all()


# -- variance reduction ----------------------------------------------------------------------------


def test_a_round_is_the_equation(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    whole = objective(xp)
    method = SVRG(batch_size=8, learning_rate=0.05, passes=2, seed=4)
    found = run(method, whole, whole.zeros(), Stop(3, grad_tol=0.0))
    X, y = data()
    Z, x = np.column_stack([X, np.ones(53)]), np.zeros(4)
    drawn = rows(method, 36)
    for k in range(3):
        full, moving = Z.T @ (Z @ x - y) / 53, x
        for batch in drawn[12 * k : 12 * k + 12]:
            B = Z[batch]
            moving = moving - 0.05 * (B.T @ (B @ (moving - x)) / 8 + full)
        x = moving
    np.testing.assert_allclose(host(xp, found.x), x, atol=300 * xp.rtol)
    assert (found.nit, found.nfev) == (3, 1 + 3 * (1 + 4))


def test_variance_reduction_finds_the_least_squares_solution(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    whole = objective(xp)
    single = xp.host_dtype == np.float32
    tol = 2e-5 if single else 1e-9
    found = run(SVRG(batch_size=8), whole, whole.zeros(), Stop(1000, grad_tol=tol))
    X, y = data()
    best = np.linalg.lstsq(np.column_stack([X, np.ones(53)]), y, rcond=None)[0]
    assert found.success, found.message
    np.testing.assert_allclose(host(xp, found.x), best, atol=1e-3 if single else 1e-7)
    assert (np.diff(found.history.value) <= (1e-6 if single else 1e-14)).all()


def test_variance_reduction_finds_the_logistic_solution(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    whole = objective(xp, loss=Logistic(), penalty=L2(0.05), classes=True)
    single = xp.host_dtype == np.float32
    found = run(SVRG(8), whole, whole.zeros(), Stop(1000, grad_tol=1e-5 if single else 1e-8))
    X, y = data()
    best, fmin = known_minima._newton(X, (y > 0) * 1.0, 0.05, np.zeros(4))
    assert found.success, found.message
    np.testing.assert_allclose(host(xp, found.x), best, atol=1e-3 if single else 1e-6)
    assert found.fun == pytest.approx(fmin, rel=1e-5 if single else 1e-12)


def test_it_beats_descent_of_the_same_number_of_passes_on_many_rows():
    X, y = data(20_000)
    y = (y > 0.0) * 1.0
    kwargs = {"loss": "log_loss", "penalty": L2(1e-3)}
    stop = Stop(10_000, grad_tol=1e-8)
    fast = agd.fit(X, y, method=SVRG(), stop=stop, **kwargs)
    slow = agd.fit(X, y, method="gd", stop=stop, **kwargs)
    assert fast.success
    assert slow.success
    assert fast.nfev < 0.5 * slow.nfev
    np.testing.assert_allclose(fast.coef, slow.coef, rtol=1e-4)


def test_a_loss_without_a_bound_needs_no_rate_either(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = rng.poisson(np.exp(X @ [0.5, -0.3, 0.2] + 0.3)).astype(float)
    whole = LinearObjective.of(xp.asarray(X), xp.asarray(y), loss=Poisson())
    single = xp.host_dtype == np.float32
    found = run(SVRG(8), whole, whole.zeros(), Stop(1000, grad_tol=1e-5 if single else 1e-8))
    assert found.success, found.message
    z = X @ host(xp, found.x)[:3] + host(xp, found.x)[3]
    slope = np.column_stack([X, np.ones(200)]).T @ (np.exp(z) - y) / 200
    assert np.abs(slope).max() < (1e-4 if single else 2e-8)


def test_a_step_far_too_long_is_undone_and_halved():
    X, y = data()
    whole = LinearObjective.of(X, y)
    method = SVRG(8)
    params, state = whole.zeros(), None
    state = method.init(whole, params)
    state = state._replace(rate=state.rate * 1e4)
    drawn = method.draw(whole, 0, 12)
    with np.errstate(all="ignore"):
        for k in range(12):
            params, state = method.step(whole, params, state, drawn[k])
    after, ended = method.refresh(whole, params, state)
    np.testing.assert_array_equal(host(_Np, after), np.zeros(4))
    np.testing.assert_array_equal(host(_Np, ended.point), np.zeros(4))
    assert ended.rate == 0.5 * state.rate
    assert ended.value == state.value
    assert ended.progress.iterations == 0.0


def test_a_batch_of_problems_shares_the_rows_and_nothing_else(xp):
    if chunked(xp):
        pytest.skip("rows in chunks are refused: see below")
    X, y = data()
    Y = np.stack([y, -2.0 * y + 1.0, np.sin(y)])
    together = LinearObjective.of(xp.asarray(X), xp.asarray(Y))
    stop = Stop(6, grad_tol=0.0)
    for method in (SVRG(8, 0.02), sgd(0.02, batch_size=8)):
        found = run(method, together, together.zeros(), stop)
        for k in range(3):
            alone = LinearObjective.of(xp.asarray(X), xp.asarray(Y[k]))
            one = run(method, alone, alone.zeros(), stop)
            np.testing.assert_allclose(
                xp.to_numpy(found.x.coef)[k], xp.to_numpy(one.x.coef), atol=30 * xp.rtol
            )


@pytest.mark.backend("jax")
def test_steps_run_inside_jit_and_scan():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    X, y = (jnp.asarray(a) for a in data())
    whole = LinearObjective.of(X, y)
    for method in (SVRG(8), sgd(batch_size=8)):

        @jax.jit
        def epoch(params, state, drawn, method=method):
            def body(carry, rows):
                return method.step(whole, *carry, rows), None

            return jax.lax.scan(body, (params, state), drawn)[0]

        params = whole.zeros()
        drawn = method.draw(whole, 0, 12)
        compiled = epoch(params, method.init(whole, params), drawn)
        plain = (params, method.init(whole, params))
        for k in range(12):
            plain = method.step(whole, *plain, drawn[k])
        for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.backend("dask")
@pytest.mark.parametrize("method", [sgd(), SVRG(), Stochastic(update.adam(0.1))])
def test_rows_in_chunks_are_refused(method):
    da = pytest.importorskip("dask.array")
    X, y = data()
    with pytest.raises(ValueError, match=r"no rows to take.*Dask.*X\.compute\(\)"):
        agd.fit(da.from_array(X, chunks=(20, 3)), da.from_array(y, chunks=20), method=method)


def test_a_function_without_rows_is_refused():
    whole = FunctionObjective(lambda x: (x @ x, 2.0 * x))
    for method in (sgd(), SVRG()):
        with pytest.raises(ValueError, match="pass args whose arrays share their first axis"):
            run(method, whole, np.zeros(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SVRG(batch_size=0), "batch_size must be 1 or more, got 0"),
        (lambda: sgd(batch_size=2.5), "batch_size must be a whole number, got 2.5"),
        (lambda: SVRG(seed=-1), "seed must be 0 or more, got -1"),
        (lambda: SVRG(passes=0), "passes must be 1 or more"),
        (
            lambda: SVRG(learning_rate="fast"),
            "learning_rate must be a number or 'auto', got 'fast'",
        ),
        (lambda: SVRG(learning_rate=-1.0), "learning_rate must be"),
        (lambda: sgd(decay=0.0), "decay must be"),
        (lambda: Stochastic("adam"), "rule must be a rule such as"),
    ],
)
def test_parameters_are_checked(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_more_rows_in_a_batch_than_there_are_means_all():
    X, y = data()
    whole = LinearObjective.of(X, y)
    found = run(SVRG(10_000), whole, whole.zeros(), Stop(1000, grad_tol=1e-8))
    assert found.success
    assert SVRG(10_000).period(whole) == 2


def test_a_penalty_with_a_prox_gives_the_lasso():
    X, y, alpha, want = known_minima.lasso_diabetes()
    whole = LinearObjective.of(X, y, penalty=agd.loss.L1(alpha), intercept=False)
    found = run(SVRG(), whole, whole.zeros(), Stop(3000, grad_tol=1e-9))
    assert found.success, found.message
    np.testing.assert_allclose(found.x.coef, want, rtol=0, atol=1e-6 * np.abs(want).max())
    assert ((found.x.coef == 0.0) == (want == 0.0)).all()


def test_a_penalty_with_a_prox_is_refused_by_rules():
    X, y, alpha, _ = known_minima.lasso_diabetes()
    whole = LinearObjective.of(X, y, penalty=agd.loss.L1(alpha))
    with pytest.raises(ValueError, match="use method='svrg'"):
        run(sgd(), whole, whole.zeros())


# -- the end of a run by default -------------------------------------------------------------------


def houses(loss):
    """Columns of the scales of living area, year and quality, and a target in the hundred thousands."""
    rng = np.random.default_rng(0)
    area = np.exp(rng.normal(7.3, 0.35, 1460)).round()
    year = 1970.0 + rng.normal(0.0, 30.0, 1460).clip(-98.0, 40.0).round()
    quality = rng.integers(1, 11, 1460) * 1.0
    rate = 3e-4 * (area - 1500.0) + 4e-3 * (year - 1970.0) + 0.1 * (quality - 6.0)
    price = np.exp(12.0 + rate + rng.normal(0.0, 0.2, 1460)).round()
    targets = {
        "log_loss": (price > 160_000.0) * 1.0,
        "poisson": rng.poisson(np.exp(1.0 + rate)) * 1.0,
    }
    return np.column_stack([area, year, quality]), targets.get(loss, price)


@pytest.mark.parametrize("method", ["sgd", "svrg"])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "poisson", "huber"])
def test_a_run_ends_by_itself_within_a_share_of_the_best_loss(method, loss):
    X, y = houses(loss)
    loss = agd.loss.Huber(delta=2e4) if loss == "huber" else loss
    best, found = agd.fit(X, y, loss=loss), agd.fit(X, y, loss=loss, method=method)
    assert found.success
    assert found.nit <= 30
    assert found.fun - best.fun <= 1e-3 * abs(best.fun)
    if method == "sgd":
        assert (
            "by the value, which gained less than 0.0001 of its fall in 5 epochs" in found.message
        )


def test_a_rate_that_is_too_large_to_end_small_is_said():
    X, y = data(500)
    method = Stochastic(update.gradient_descent(0.3), 1, rescaled=True)
    with pytest.warns(agd.ConvergenceWarning, match="the gradient is not small"):
        found = agd.fit(X, y, method=method)
    assert (found.status, found.success) == (Status.PLATEAU, False)
    assert found.nit < 100


def test_a_run_that_tests_its_gradient_waits_for_no_plateau():
    X, y = data(500)
    found = agd.fit(X, y, method="sgd", stop=Stop(40, grad_tol=0.0))
    assert (found.status, found.nit) == (Status.MAX_ITER, 40)
    early = agd.fit(X, y, method=sgd(tol=0.5, n_iter_no_change=1))
    assert early.nit < agd.fit(X, y, method="sgd").nit


def test_a_function_over_rows_ends_by_itself():
    X, y = data(640)
    found = agd.minimize(
        lambda w, X, y: ((X @ w - y) ** 2).mean() / 2.0,
        np.zeros(3),
        jac=lambda w, X, y: X.T @ (X @ w - y) / len(y),
        args=(X, y),
        method="sgd",
    )
    best = np.linalg.lstsq(X, y, rcond=None)
    assert found.success
    assert found.nit < 60
    assert found.fun <= 1.01 * float(best[1][0]) / 1280.0


def test_what_ends_a_run_is_checked():
    for make in (sgd, SVRG):
        with pytest.raises(ValueError, match="tol must be"):
            make(tol=-1.0)
        with pytest.raises(ValueError, match="n_iter_no_change must be"):
            make(n_iter_no_change=0)
