"""The closed form is the loop: on every library, for every rule, and as far as anyone can count."""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest

import agd
from agd import backends
from agd._typing import Params
from agd.gradient import Blocks, LinearObjective, Moments
from agd.loss import L1, L2
from agd.run import Stop, run
from agd.update import (
    Descent,
    Trajectory,
    adam,
    constant,
    gradient_descent,
    momentum,
    nesterov,
)
from agd.update import trajectory as closed_form
from helpers.array_libraries import VARIANTS
from helpers.operation_counts import call_count, peak_bytes
from helpers.property_testing import given, st

RULES = {
    "gd": lambda lr, _: gradient_descent(lr),
    "momentum": momentum,
    "nesterov": nesterov,
}


def data(n=30, p=3, seed=0, targets=()):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.asarray([1.0, 3.0, 0.3])[:p] + np.asarray([0.5, -2.0, 1.0])[:p]
    y = rng.normal(size=(*targets, n)) + 1.0
    return X, y, rng.uniform(0.5, 2.0, size=n)


def trajectory(X, y, weight, rule, make=np.asarray, **options):
    arrays = [None if a is None else make(a) for a in (X, y, weight)]
    return Trajectory.of(Moments.from_blocks(Blocks.of(*arrays)), rule, **options)


def looped(objective, rule, steps, every=20):
    """Return the points, values and gradients that the loop reports, and when."""
    seen = []
    stop = Stop(max_iter=steps, grad_tol=0.0, check_every=every)
    run(Descent(rule), objective, objective.zeros(), stop, seen.append)
    return seen


def host(x):
    return np.asarray(backends.to_numpy(x), dtype=float)


def assert_same(path, seen, rtol):
    """Compare points on the scale of the point, gradients on that of the first one."""
    point = np.stack(
        [np.concatenate([host(r.x.coef), host(r.x.intercept)[..., None]], -1) for r in seen]
    )
    slope = np.stack(
        [np.concatenate([host(r.jac.coef), host(r.jac.intercept)[..., None]], -1) for r in seen]
    )
    found = np.concatenate([host(path.coef), host(path.intercept)[..., None]], -1)
    found_slope = np.concatenate([host(path.grad.coef), host(path.grad.intercept)[..., None]], -1)
    size = np.abs(point).max(axis=-1, keepdims=True)
    assert (np.abs(found - point) <= rtol * size).all()
    assert (np.abs(found_slope - slope) <= rtol * np.abs(slope).max()).all()
    np.testing.assert_allclose(host(path.value), np.stack([r.fun for r in seen]), rtol=rtol)
    np.testing.assert_allclose(
        host(path.grad_norm), np.abs(found_slope).max(axis=-1), rtol=1e-6, atol=1e-30
    )


def close(xp):
    """1e-9 is the promise; in float32 the loop itself is that much less exact."""
    return 1e-9 if xp.host_dtype == np.float64 else 2e-4


@pytest.mark.parametrize("name", RULES)
def test_it_is_the_loop_on_every_library(xp, name):
    X, y, weight = data()
    make = xp.asarray
    objective = LinearObjective.of(make(X), make(y), penalty=L2(0.1), sample_weight=make(weight))
    rule = RULES[name](0.05, 0.8)
    seen = looped(objective, rule, 60)
    path = trajectory(X, y, weight, rule, make, penalty=L2(0.1)).at([r.nit for r in seen])
    assert_same(path, seen, close(xp))
    like = objective.zeros().coef
    assert backends.of(path.coef).name == backends.of(like).name
    assert backends.device(path.coef) == backends.device(like)


def test_targets_take_the_step_of_the_loop(xp):
    if xp.name == "dask":
        pytest.skip("a chunked X has one target")
    X, y, weight = data(targets=(2,))
    make = xp.asarray
    objective = LinearObjective.of(make(X), make(y), sample_weight=make(weight))
    seen = looped(objective, gradient_descent("auto"), 40)
    run_ = trajectory(X, y, weight, "gd", make)
    path = run_.at([int(np.max(r.nit)) for r in seen])
    assert path.coef.shape == (len(seen), 2, 3)
    assert_same(path, seen, close(xp))


def test_fit_takes_the_same_way():
    X, y, weight = data()
    for rule in ("gd", gradient_descent(0.1), momentum(0.05, 0.7), nesterov("auto", 0.9)):
        seen = []

        def look(found, seen=seen):
            seen.append(found)
            return found.nit >= 100

        stop = agd.Stop(max_iter=200, grad_tol=0.0, check_every=10)
        agd.fit(
            X, y, sample_weight=weight, penalty=L2(0.2), method=rule, stop=stop, callback=look,
            init=(np.ones(3), 2.0),
        )  # fmt: skip
        assert seen[-1].nit == 100
        path = trajectory(
            X, y, weight, rule, penalty=L2(0.2), start=Params(np.ones(3), np.asarray(2.0))
        ).at([r.nit for r in seen])
        assert_same(path, seen, 1e-9)


def plain_loop(X, y, s, name, lr, beta, alpha, intercept, start, steps):
    """The rules' equations, written out in NumPy for one problem."""
    w, b = start[:-1].copy(), start[-1]
    v, u, points, values = np.zeros_like(w), 0.0, [], []
    for _ in range(steps + 1):
        r = X @ w + b - y
        points.append(np.append(w, b))
        values.append(0.5 * np.sum(s * r * r) / s.sum() + 0.5 * alpha * (w @ w))
        g = X.T @ (s * r) / s.sum() + alpha * w
        h = np.sum(s * r) / s.sum() if intercept else 0.0
        v, u = beta * v + g, beta * u + h
        ahead = name == "nesterov"
        w = w - lr * (beta * v + g if ahead else v)
        b = b - lr * (beta * u + h if ahead else u)
    return np.stack(points), np.stack(values)


@st.composite
def problems(draw):
    n, p = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.sampled_from([(), (3,)]))
    X = rng.normal(size=(*batch, n, p)) * 10.0 ** rng.integers(-2, 3, size=p)
    X = X + draw(st.sampled_from([0.0, 1.0, -30.0]))
    y, s = rng.normal(size=(*batch, n)) + 3.0, rng.uniform(0.1, 2.0, size=(*batch, n))
    if draw(st.booleans()):
        s[..., : n // 2] = 0.0
    start = rng.normal(size=(*batch, p + 1)) * draw(st.sampled_from([0.0, 1.0]))
    return X, y, s, start


@given(
    problem=problems(),
    name=st.sampled_from(list(RULES)),
    beta=st.sampled_from([0.0, 0.3, 0.9, 0.99]),
    share=st.sampled_from([0.01, 0.5, 1.0, 1.3]),
    alpha=st.sampled_from([0.0, 0.1, 5.0]),
    intercept=st.booleans(),
)
def test_it_is_the_plain_loop(problem, name, beta, share, alpha, intercept):
    X, y, s, start = problem
    p, batch = X.shape[-1], y.shape[:-1]
    start = start if intercept else start * np.append(np.ones(p), 0.0)
    full = np.concatenate([X, np.ones((*X.shape[:-1], int(intercept)))], axis=-1)
    H = np.einsum("...ij,...i,...ik->...jk", full, s, full) / s.sum(axis=-1)[..., None, None]
    H = H + alpha * np.diag(np.append(np.ones(p), np.zeros(int(intercept))))
    lr = share / np.linalg.eigvalsh(H)[..., -1]  # a step for each problem
    beta = 0.0 if name == "gd" else beta
    first = Params(start[..., :-1], start[..., -1] if intercept else None)
    rule = RULES[name](float(lr) if batch == () else lr, beta)
    steps = 200
    path = trajectory(
        X, y, s, rule, penalty=L2(alpha) if alpha else None, intercept=intercept,
        start=first if intercept else first.coef,
    ).at(range(steps + 1))  # fmt: skip
    for i in np.ndindex(batch):
        want, values = plain_loop(
            X[i], y[i], s[i], name, lr[i], beta, alpha, intercept, start[i], steps
        )
        at = (slice(None), *i)
        found = path.coef[at]
        if intercept:
            found = np.concatenate([found, path.intercept[at][:, None]], axis=-1)
        error = np.abs(found - want[:, : found.shape[-1]]).max(axis=-1)
        size = np.abs(want).max(axis=-1)
        assert (error <= 1e-9 * size + 1e-30).all()
        # Where rows are fitted exactly the loss is a difference of moments: its error is on their scale.
        scale = np.sum(s[i] * y[i] ** 2) / s[i].sum()
        assert (np.abs(path.value[at] - values) <= 1e-9 * values + 1e-12 * scale).all()


def product(A, B):
    return [[sum(A[i][m] * B[m][j] for m in range(2)) for j in range(2)] for i in range(2)]


def exact_power(name, tau, beta, k):
    """Return q_k(tau) in rational numbers, by squaring."""
    tau, beta = Fraction(tau), Fraction(beta)
    ahead = name == "nesterov"
    M = [[1 - tau, -beta], [tau, beta]]
    if ahead:
        M = [[1 - (1 + beta) * tau, -beta * beta], [tau, beta]]
    result = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]]
    while k:
        if k % 2:
            result = product(result, M)
        M, k = product(M, M), k // 2
    return result[0][0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.9])
def test_powers_are_exact_where_eigenvalues_meet_and_where_they_vanish(name, beta):
    # One column of length 1, no intercept, y = 0: w_k is q_k(lr) w_0. With beta a square the heavy ball's
    # matrix is defective at (1 ± sqrt(beta))²; at lr = 1 Nesterov's is nilpotent, and gd's is 0.
    X, y = np.ones((1, 1)), np.zeros(1)
    root = beta**0.5
    rates = {
        0.0,
        1e-12,
        0.3,
        0.5,
        1.0,
        1.0 - 1e-9,
        1.75,
        2.0,
        3.0,
        (1.0 - root) ** 2,
        (1.0 + root) ** 2,
    }
    rates |= {(1.0 - root) ** 2 * (1.0 + h) for h in (1e-15, -1e-12, 1e-8)}
    rates |= {((1.0 - beta) / (1.0 + beta)) * (1.0 + h) for h in (0.0, 1e-13)}
    if name == "gd":
        beta = 0.0
    epochs = [0, 1, 2, 3, 10, 101]
    for lr in rates:
        run_ = trajectory(X, y, None, RULES[name](lr, beta), intercept=False, start=np.ones(1))
        found = run_.at(epochs).coef[:, 0]
        want = [float(exact_power(name, lr, beta, k)) for k in epochs]
        np.testing.assert_allclose(found, want, rtol=1e-11, atol=1e-13, err_msg=f"{lr=}")


@pytest.mark.parametrize("name", RULES)
def test_a_billion_epochs_are_the_limit_and_cost_what_one_does(name):
    X, y, weight = data(200, 3)
    run_ = trajectory(X, y, weight, RULES[name](0.05, 0.8))
    far, design = run_.at(10**9), np.column_stack([X, np.ones(len(y))])
    root = np.sqrt(weight)
    want = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    np.testing.assert_allclose(np.append(far.coef, far.intercept), want, rtol=1e-11)
    assert far.grad_norm < 1e-12

    assert call_count(lambda: run_.at(10**9)) < 5 * call_count(lambda: run_.at(1))
    assert peak_bytes(lambda: run_.at(10**9)) < 5 * peak_bytes(lambda: run_.at(1))


def test_slow_directions_keep_their_digits_for_a_billion_epochs():
    # Along e = 1e-9 the way to the minimum takes a billion steps: (1 - lr e)^k = exp(-1) to 9 digits.
    X, y = np.diag([1.0, 1e-9**0.5]), np.asarray([1.0, 1e-9**0.5])
    run_ = trajectory(X, y, None, gradient_descent(1.0), intercept=False)
    k = 2 * 10**9  # the mean over two rows halves the curvature
    np.testing.assert_allclose(run_.at(k).coef, [1.0, 1.0 - np.exp(-1.0)], rtol=1e-8)
    np.testing.assert_allclose(run_.at(1).coef, [0.5, 0.5e-9], rtol=1e-11)


def test_columns_far_from_zero_reach_the_least_squares_solution():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) * np.asarray([30.0, 800.0, 1.0]) + np.asarray([1970.0, 2e3, 3.0])
    y = X @ np.asarray([10.0, 1.0, -3.0]) + rng.normal(size=500)
    far = trajectory(X, y, None, "gd").at(10**18)
    d = X - X.mean(axis=0)
    want = np.linalg.lstsq(d, y - y.mean(), rcond=None)[0]
    np.testing.assert_allclose(far.coef, want, rtol=1e-9)
    np.testing.assert_allclose(far.intercept, y.mean() - X.mean(axis=0) @ want, rtol=1e-7)


def test_dependent_columns_go_to_the_solution_of_least_norm():
    X, y, _ = data(40, 3)
    X = np.column_stack([X, X[:, 0] + X[:, 1], np.zeros(40), np.full(40, 4.0)])
    far = trajectory(X, y, None, "gd").at(10**15)
    want = np.linalg.pinv(np.column_stack([X, np.ones(40)])) @ y
    np.testing.assert_allclose(np.append(far.coef, far.intercept), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_divergence_is_infinite_and_never_nan(xp, name):
    if xp.name not in {"numpy", "strict:no_float64", "torch"}:
        pytest.skip("the sums are the same in the other libraries: these three are enough")
    X, y, _ = data(20, 2)
    run_ = trajectory(X, y, None, RULES[name](1.5, 0.5), xp.asarray)
    path = run_.at([0, 1, 5, 10**3, 10**6 + 1, 10**9])
    for x in (path.coef, path.intercept, path.value, path.grad.coef, path.grad_norm):
        host = xp.to_numpy(x)
        assert np.isfinite(host[:3]).all()
        assert np.isinf(host[-2:]).all()
        assert not np.isnan(host).any()
    assert np.isinf(xp.to_numpy(run_.gcv([10**9]))).all()
    # What stands at the minimum stays there, however fast the others leave it.
    still = trajectory(np.diag([1.0, 9.0]), np.asarray([1.0, 9.0]), None, RULES[name](1.5, 0.5),
                       xp.asarray, intercept=False, start=xp.asarray(np.asarray([1.0, 5.0])))  # fmt: skip
    np.testing.assert_allclose(xp.to_numpy(still.at(10**9).coef)[0], 1.0, rtol=0.01 * xp.rtol)


def hat_matrix(X, s, lr, k, alpha, intercept):
    """Return the matrix that takes y to its fit after k steps from zero, column by column."""
    n, p = X.shape
    columns = []
    for e in np.eye(n):
        start = np.zeros(p + 1)
        points, _ = plain_loop(X, e, s, "gd", lr, 0.0, alpha, intercept, start, k)
        columns.append(X @ points[-1, :-1] + points[-1, -1])
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("intercept", [True, False])
def test_gcv_is_its_definition(alpha, intercept):
    X, y, s = data(12, 3)
    run_ = trajectory(
        X, y, s, gradient_descent(0.05), penalty=L2(alpha) if alpha else None, intercept=intercept
    )
    for k in (0, 1, 7, 50):
        hat = hat_matrix(X, s, 0.05, k, alpha, intercept)
        error = np.sum(s * (y - hat @ y) ** 2) / s.sum()
        want = error / (1.0 - np.trace(hat) / 12) ** 2
        np.testing.assert_allclose(run_.gcv(k), want, rtol=1e-10)


def test_gcv_counts_no_rows_without_weight():
    X, y, s = data(20, 3)
    s[::3] = 0.0
    kept = s > 0.0
    some = trajectory(X[kept], y[kept], s[kept], "gd").gcv([1, 10, 100])
    np.testing.assert_allclose(trajectory(X, y, s, "gd").gcv([1, 10, 100]), some, rtol=1e-9)


def test_the_best_epoch_is_the_smallest_score_of_all(xp):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 25)) * 0.8 ** np.arange(25)
    y = rng.normal(size=(40,)) * 0.5 + X[:, 0] - X[:, 5] + 3.0 * X[:, 10]
    run_ = trajectory(X, y, None, "gd", xp.asarray)
    best = run_.best_epoch(10**6)
    scores = xp.to_numpy(run_.gcv(range(2000)))
    assert isinstance(best.epoch, int)
    assert 100 < best.epoch < 1900
    assert best.score <= scores.min() * (1.0 + 1e3 * np.finfo(xp.host_dtype).eps)
    if xp.host_dtype == np.float64:
        assert best.epoch == scores.argmin()
    assert 1 < best.n_sync < 6


@pytest.mark.parametrize("limit", [1, 2, 1000, 10**18])
def test_the_best_epoch_is_found_up_to_any_limit(limit):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 25)) * 0.8 ** np.arange(25)
    run_ = trajectory(X, rng.normal(size=40) + 3.0 * X[:, 10], None, "gd")
    best, scores = run_.best_epoch(limit), run_.gcv(range(min(limit, 3000) + 1))
    assert best.epoch == scores.argmin()
    assert best.score == pytest.approx(scores.min(), rel=1e-12)


def test_data_in_single_precision_lose_no_more_than_their_own_digits():
    X, y, weight = data(1000)
    single = [a.astype(np.float32) for a in (X, y, weight)]
    same = [a.astype(np.float64) for a in single]
    for name, make in RULES.items():
        paths = [trajectory(*a, make(0.05, 0.8)).at([1, 30, 10**9]) for a in (single, same)]
        assert paths[0].coef.dtype == np.float64  # that of the moments
        np.testing.assert_allclose(paths[0].coef, paths[1].coef, rtol=1e-11, err_msg=name)


def test_every_problem_has_a_best_epoch_and_can_stop_there():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(3, 40, 25)), rng.normal(size=(3, 40))
    y[1] += 5.0 * X[1, :, 0]
    y[2] = X[2] @ rng.normal(size=25)  # without noise there is no epoch too many
    run_ = trajectory(X, y, None, "gd")
    best = run_.best_epoch(10**5)
    scores = run_.gcv(range(3000))
    assert (best.epoch[:2] == scores[:, :2].argmin(axis=0)).all()
    assert best.score[2] < 1e-12
    path = run_.at_each(best.epoch)
    for i in range(3):
        alone = run_.at(int(best.epoch[i]))
        np.testing.assert_allclose(path.coef[i], alone.coef[i], rtol=1e-13)
        np.testing.assert_allclose(path.value[i], alone.value[i], rtol=1e-13)
    with pytest.raises(ValueError, match=r"epochs must have shape \(3,\), got \(2,\)"):
        run_.at_each([1, 2])
    # Early stopping pays: on new rows of pure noise and little signal it errs less than the end does.
    new = rng.normal(size=(4000, 25))
    truth = np.zeros(25)
    error = [
        np.mean((new @ (path.coef[0] - truth)) ** 2),
        np.mean((new @ (run_.at(10**9).coef[0])) ** 2),
    ]
    assert error[0] < 0.5 * error[1]


def test_one_epoch_has_no_axis_of_its_own():
    X, y, weight = data()
    run_ = trajectory(X, y, weight, "gd")
    one, many = run_.at(7), run_.at([7, 3])
    assert one.coef.shape == (3,)
    assert one.value.shape == ()
    assert many.coef.shape == (2, 3)
    np.testing.assert_allclose(many.coef[0], one.coef, rtol=1e-14)
    assert run_.at([]).coef.shape == (0, 3)
    assert trajectory(X, y, weight, "gd", intercept=False).at([1]).intercept is None


def test_what_has_no_closed_form_is_refused():
    X, y, _ = data()
    moments = Moments.from_blocks(Blocks.of(X, y))
    for rule in (adam(0.1), gradient_descent(constant(0.1)), momentum(0.1, np.asarray(0.5)), 3):
        assert not Trajectory.knows(rule)
        with pytest.raises(ValueError, match="rule must be gradient_descent, momentum or nesterov"):
            Trajectory.of(moments, rule)
    with pytest.raises(ValueError, match="did you mean 'nesterov'"):
        Trajectory.of(moments, "nestorov")
    with pytest.raises(TypeError, match=r"penalty must be None or agd\.loss\.L2"):
        Trajectory.of(moments, penalty=L1(0.1))
    with pytest.raises(ValueError, match="init's coef must have shape"):
        Trajectory.of(moments, start=np.ones(2))
    with pytest.raises(ValueError, match="moments must be finite"):
        Trajectory.of(Moments.from_blocks(Blocks.of(X * 1e200, y)))
    run_ = Trajectory.of(moments)
    with pytest.raises(ValueError, match="epochs must be 0 or more, got -1"):
        run_.at([1, -1])
    with pytest.raises(TypeError, match="epochs must be whole numbers"):
        run_.at(1.5)
    with pytest.raises(ValueError, match=r"epochs must be at most 9\.22e\+18"):
        run_.at([2**63])
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        run_.best_epoch(0)


@pytest.mark.backend("strict")
def test_rates_of_each_problem_come_from_their_device():
    xp = VARIANTS["strict:device1"].make()
    X, y, _ = data(targets=(2,))
    rates = np.asarray([0.01, 0.1])
    found = trajectory(X, y, None, gradient_descent(xp.asarray(rates)), xp.asarray).at([5, 50])
    for i in range(2):
        alone = trajectory(X, y[i], None, gradient_descent(float(rates[i]))).at([5, 50])
        np.testing.assert_allclose(xp.to_numpy(found.coef)[:, i], alone.coef, rtol=1e-12)


@pytest.mark.backend("numpy")
def test_factors_of_many_problems_are_those_of_each():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(7, 20, 3)), rng.normal(size=(7, 20))
    moments = Moments.from_blocks(Blocks.of(X, y))
    whole = Trajectory.of(moments).at([3, 50])
    with mock.patch("agd.update.trajectory.MATRICES_PER_THREAD", 2):
        parts = Trajectory.of(moments).at([3, 50])
    np.testing.assert_array_equal(parts.coef, whole.coef)
    np.testing.assert_array_equal(parts.value, whole.value)


@pytest.mark.backend("numpy")
@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([0.0, 0.1]),
    intercept=st.booleans(),
    begun=st.booleans(),
    far=st.sampled_from([0.0, 1.0, 1e5]),
)
def test_many_problems_by_their_hessians_are_those_by_the_root(seed, alpha, intercept, begun, far):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(4, 20, 3)) * [1.0, 3.0, 0.5] + far * (np.arange(4) == 2)[:, None, None]
    y = X @ [1.0, -2.0, 0.5] + rng.normal(size=(4, 20))
    moments = Moments.from_blocks(Blocks.of(X, y, rng.uniform(0.5, 2.0, size=(4, 20))))
    given = {"penalty": L2(alpha) if alpha else None, "intercept": intercept}
    if begun:
        given["start"] = Params(rng.normal(size=(4, 3)), rng.normal(size=4) if intercept else None)
    rate = 0.5 / (10.0 + 3.0 * far**2)
    quick = mock.Mock(wraps=closed_form._spectrum_from_hessian)
    with mock.patch.object(closed_form, "_spectrum_from_hessian", quick):
        found = Trajectory.of(moments, gradient_descent(rate), **given).at([0, 1, 30, 1000])
    with mock.patch.object(
        closed_form, "_spectrum_from_hessian", side_effect=closed_form.IllConditionedError
    ):
        want = Trajectory.of(moments, gradient_descent(rate), **given).at([0, 1, 30, 1000])
    assert quick.call_count == 1
    for got, known in zip(found, want, strict=True):
        if isinstance(got, Params):
            continue
        if got is not None:
            np.testing.assert_allclose(got, known, rtol=1e-9, atol=1e-10 * np.abs(known).max())


@pytest.mark.backend("numpy")
def test_a_hessian_that_is_not_even_is_not_taken_for_its_root():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2, 30, 2)) + np.asarray([0.0, 1e3])[:, None, None]
    moments = Moments.from_blocks(Blocks.of(X, rng.normal(size=(2, 30))))
    first = Params(np.zeros((2, 2)), np.zeros(2))
    form = closed_form.RuleShape(0.0, nesterov=False, intercept=True, alpha=0.0)
    start = np.zeros((2, 3))
    with pytest.raises(closed_form.IllConditionedError):
        closed_form._spectrum_from_hessian(moments, form, start)
    alone = Moments.from_blocks(Blocks.of(X[:1], rng.normal(size=(1, 30))))
    assert len(closed_form._spectrum_from_hessian(alone, form, start[:1])) == 4
    assert closed_form.decompose(moments, form, first, 0.1).s.shape == (2, 3)
