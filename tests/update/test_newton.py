"""Newton's method for smooth losses: its Hessian, its answers beside those of L-BFGS and of long doubles."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd.gradient import LinearObjective, column_scaling
from agd.gradient.second_order import NewtonObjective
from agd.loss import L1, L2, Huber, Logistic, Poisson
from agd.run.newton_direct import inverse_cholesky, steps_for_hessian
from agd.update.newton import MAX_TRIALS, Newton, damped_direction

LOSSES = {"log_loss": Logistic(), "poisson": Poisson(), "huber": Huber()}


def drawn_targets(loss, z, rng):
    if loss == "log_loss":
        return (rng.uniform(size=z.shape) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    return (
        rng.poisson(np.exp(z)) * 1.0 if loss == "poisson" else z + rng.standard_t(2, size=z.shape)
    )


def drawn_problem(loss, n=120, p=3, batch=(), seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(*batch, n, p))
    z = np.tanh(X @ np.linspace(-1.0, 1.0, p))
    return X, drawn_targets(loss, z, rng)


def gradient_differences(objective, x):
    """Return the derivative of the gradient, by central differences."""
    h = 1e-6
    moves = h * np.eye(len(x))
    gradients = [[objective.value_and_grad(x + s * d)[1] for s in (1, -1)] for d in moves]
    return np.stack([(up - down) / (2 * h) for up, down in gradients])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("penalty", [None, L2(0.1)])
def test_the_hessian_is_the_derivative_of_the_gradient(loss, intercept, weighted, penalty):
    X, y = drawn_problem(loss)
    weight = np.random.default_rng(1).uniform(0.0, 2.0, size=len(y)) if weighted else None
    base = LinearObjective.of(
        X + np.asarray([0.0, 5.0, -1.0]), y, loss=LOSSES[loss], penalty=penalty, sample_weight=weight,
        intercept=intercept,
    )  # fmt: skip
    objective = NewtonObjective.of(base, column_scaling(base))
    x = np.random.default_rng(2).normal(size=3 + intercept) / 4.0
    value, grad, hessian = objective.second_order(x)
    params, jac = objective.report(x, grad)
    plain_value, plain_grad = base.value_and_grad(params)
    assert value == pytest.approx(plain_value, rel=1e-13)
    np.testing.assert_allclose(jac.coef, plain_grad.coef, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hessian, gradient_differences(objective, x), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(hessian, hessian.T)


def test_a_sparse_matrix_has_the_hessian_of_the_dense_one():
    sparse = pytest.importorskip("scipy.sparse")
    X, y = drawn_problem("log_loss")
    X = np.where(np.random.default_rng(1).uniform(size=X.shape) < 0.3, X, 0.0)
    dense, thin = (
        LinearObjective.of(A, y, loss=Logistic(), penalty=L2(0.1)) for A in (X, sparse.csr_array(X))
    )
    scaling, x = column_scaling(dense), np.asarray([0.3, -0.2, 0.5, 0.1])
    expected = NewtonObjective.of(dense, scaling).second_order(x)
    for part, other in zip(
        NewtonObjective.of(thin, scaling).second_order(x), expected, strict=True
    ):
        np.testing.assert_allclose(part, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "ridge", "float32", "batch"])
def test_the_answer_is_that_of_lbfgs(xp, loss, kind):
    X, y = drawn_problem(loss, batch=(4,) if kind == "batch" else ())
    if kind == "batch" and xp.name == "dask":
        pytest.skip("chunks are those of one problem")
    options = {"loss": loss, "intercept": kind != "no intercept"}
    dtype = xp.ns.float32 if kind == "float32" else xp.dtype
    if kind == "weighted":
        options["sample_weight"] = xp.asarray(
            np.random.default_rng(1).uniform(0, 2, size=len(y)), dtype=dtype
        )
    if kind == "ridge":
        options["penalty"] = L2(0.1)
    data = xp.asarray(X, dtype=dtype), xp.asarray(y, dtype=dtype)
    result = agd.fit(*data, **options)
    assert result.method == "Newton"
    assert np.all(result.success)
    assert np.max(result.nit) <= 12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        plain = agd.fit(*data, method="lbfgs", **options)
    single = kind == "float32" or xp.rtol > 1e-9
    tolerance = 1e-3 if single else 1e-8
    np.testing.assert_allclose(
        xp.to_numpy(result.coef), xp.to_numpy(plain.coef), rtol=tolerance, atol=tolerance
    )


def solve_exactly(A, b):
    """Return A⁻¹ b by elimination with pivots, in long doubles."""
    rows = np.concatenate([A, b[:, None]], axis=1).astype(np.longdouble)
    n = len(b)
    for i in range(n):
        pivot = i + int(np.argmax(np.abs(rows[i:, i])))
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] /= rows[i, i]
        for j in range(n):
            if j != i:
                rows[j] -= rows[j, i] * rows[i]
    return rows[:, -1]


def longdouble_fit(X, y, loss):
    """Return coefficients by Newton's method in long doubles, with columns that are centred and scaled."""
    X = X.astype(np.longdouble)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    Z = np.concatenate([(X - mean) / scale, np.ones((len(y), 1))], axis=1)
    w = np.zeros(Z.shape[1], dtype=np.longdouble)
    for _ in range(30):
        z = Z @ w
        mu = 1 / (1 + np.exp(-z)) if loss == "log_loss" else np.exp(z)
        h = mu * (1 - mu) if loss == "log_loss" else mu
        w = w - solve_exactly((Z.T * h) @ Z, Z.T @ (mu - y))
    return (w[:-1] / scale).astype(float)


CONDITIONS = [1e0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]


@pytest.mark.parametrize("loss", ["log_loss", "poisson"])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_coefficients_are_right_or_there_is_a_warning(loss, condition, offset, scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    X[:, 2] = X[:, 1] + X[:, 2] / condition
    y = drawn_targets(loss, np.tanh(X[:, 0] - X[:, 1]), rng)
    X = (X + offset) * [scale, 1.0, 1.0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = agd.fit(X, y, loss=loss)
    if caught:  # of dependent columns, or of digits that are lost
        assert offset > 1.0 or condition >= 1e6
        return
    exact = longdouble_fit(X, y, loss)
    assert result.success
    # An offset costs digits of X itself; what is left of them is multiplied by the condition.
    digits = 1e-9 * condition + 1e-9
    np.testing.assert_allclose(result.coef, exact, rtol=min(digits, 1e-3), atol=0.0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_separated_classes_are_said_to_be_within_50_steps(dtype, scale):
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype) * dtype(scale)
    with pytest.warns(agd.ConvergenceWarning, match="perfectly separated"):
        result = agd.fit(X, (X[:, 0] > 0.0).astype(dtype), loss="log_loss")
    assert result.nit <= 50
    assert np.isfinite(result.coef).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_counts_that_are_all_zero_are_said_to_have_no_minimum(dtype):
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype)
    with pytest.warns(agd.ConvergenceWarning, match="grow without bound"):
        result = agd.fit(X, np.zeros(60, dtype), loss="poisson")
    assert result.nit <= 50


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_huber_is_fitted_whatever_the_units_of_y(scale):
    X, y = drawn_problem("huber")
    result = agd.fit(X, y * scale, loss="huber")
    assert result.success
    assert np.abs(result.jac.coef).max() <= 1e-9 * max(1.0, scale)


def test_a_whole_step_that_overshoots_is_damped():
    X, y = drawn_problem("poisson")
    result = agd.fit(X, y, loss="poisson", init=(np.asarray([0.0, 1.0, 0.0]), -10.0))
    assert result.success
    assert result.nfev > result.nit + 1
    np.testing.assert_allclose(result.coef, agd.fit(X, y, loss="poisson").coef, rtol=1e-8)
    assert (np.diff(result.history.value) <= 1e-12).all()


def test_each_problem_of_a_batch_takes_the_steps_that_it_takes_alone():
    X, y = drawn_problem("poisson", batch=(3,))
    start, constant = np.zeros((3, 3)), np.asarray([-10.0, 0.0, -3.0])
    together = agd.fit(X, y, loss="poisson", init=(start, constant))
    for i in range(3):
        alone = agd.fit(X[i], y[i], loss="poisson", init=(start[i], constant[i]))
        assert (together.nit[i], together.nfev[i]) == (alone.nit, alone.nfev)
        np.testing.assert_allclose(together.coef[i], alone.coef, rtol=1e-9)


class Upward:
    """A function whose gradient is that of its negative: no step descends."""

    batch_shape = ()
    value_calls = grad_calls = 1

    def second_order(self, x):
        return -np.asarray(x @ x), x, np.eye(len(x))

    def value_and_grad(self, x):
        return self.second_order(x)[:2]

    def grad_norm(self, grads, params):
        return np.max(np.abs(grads))


def test_a_search_without_a_lower_point_stalls():
    solver, objective = Newton(), Upward()
    state = solver.init(objective, np.ones(2))
    x, state = solver.step(objective, np.ones(2), state)
    np.testing.assert_array_equal(x, np.ones(2))
    assert state.progress.stalled
    assert state.progress.evaluations == 1 + MAX_TRIALS
    assert state.progress.iterations == 0


def test_a_singular_hessian_has_a_direction_of_least_length():
    hessian, grad = np.asarray([[1.0, 1.0], [1.0, 1.0]]), np.asarray([2.0, 2.0])
    direction = damped_direction(hessian, grad, np.asarray(1.0), np.asarray(0.0))
    np.testing.assert_allclose(direction, [-1.0, -1.0], rtol=1e-12)


def test_dependent_columns_are_left_to_the_solver_that_names_their_rank():
    X, y = drawn_problem("log_loss")
    X = np.concatenate([X, X[:, :1] + X[:, 1:2]], axis=1)
    with pytest.warns(np.exceptions.RankWarning, match="rank is 4 of 5"):
        result = agd.fit(X, y, loss="log_loss")
    assert "whitened" in result.method
    assert agd.fit(X, y, loss="log_loss", penalty=L2(0.1)).method == "Newton"


def test_values_that_are_not_finite_are_named():
    X, y = drawn_problem("poisson")
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X\[3, 1\] = nan"):
        agd.fit(X, y, loss="poisson")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "float32"])
@pytest.mark.parametrize("penalty", [None, L2(0.1), L1(0.02)])
def test_small_fits_without_the_loop_give_the_answer_of_the_loop(loss, kind, penalty):
    X, y = drawn_problem(loss)
    options = {"loss": loss, "penalty": penalty, "intercept": kind != "no intercept"}
    if kind == "weighted":
        options["sample_weight"] = np.random.default_rng(1).uniform(0, 2, size=len(y))
    if kind == "float32":
        X, y = X.astype(np.float32), y.astype(np.float32)
    direct, loop = agd.fit(X, y, **options), agd.fit(X, y, stop=agd.Stop(), **options)
    assert direct.solver == loop.solver + "_direct"
    assert direct.method == loop.method
    assert direct.success
    tolerance = 1e-4 if kind == "float32" else 1e-9
    np.testing.assert_allclose(direct.coef, loop.coef, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(direct.jac.coef, loop.jac.coef, atol=tolerance)
    assert direct.fun == pytest.approx(loop.fun, rel=tolerance)
    assert direct.coef.dtype == loop.coef.dtype
    assert direct.nit <= loop.nit + 1
    assert direct.history.value[0] == pytest.approx(loop.history.value[0], rel=1e-5)
    assert direct.certificate.tolerance == loop.certificate.tolerance


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "float32"])
def test_wide_fits_with_a_ridge_are_those_of_lbfgs(loss, kind):
    X, y = drawn_problem(loss, n=25, p=40)
    X = X * np.exp(np.random.default_rng(1).normal(size=40)) + 1.0
    options = {"loss": loss, "penalty": L2(0.1), "intercept": kind != "no intercept"}
    if kind == "weighted":
        options["sample_weight"] = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    if kind == "float32":
        X, y = X.astype(np.float32), y.astype(np.float32)
    result = agd.fit(X, y, **options)
    assert result.solver == "newton_kernel"
    assert result.success
    plain = agd.fit(X, y, stop=agd.Stop(grad_tol=1e-5 if kind == "float32" else 1e-11), **options)
    assert "L-BFGS" in plain.method
    tolerance = 1e-3 if kind == "float32" else 1e-8
    np.testing.assert_allclose(result.coef, plain.coef, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.jac.coef, 0.0, atol=1e-4 if kind == "float32" else 1e-9)
    if result.intercept is not None:
        assert float(result.intercept) == pytest.approx(float(plain.intercept), abs=10 * tolerance)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "ridge", "float32"])
def test_a_hessian_that_serves_several_steps_leads_to_the_same_answer(loss, kind):
    X, y = drawn_problem(loss, n=600, p=60)
    options = {"loss": loss, "intercept": kind != "no intercept"}
    if kind == "weighted":
        options["sample_weight"] = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    if kind == "ridge":
        options["penalty"] = L2(0.01)
    if kind == "float32":
        X, y = X.astype(np.float32), y.astype(np.float32)
    result = agd.fit(X, y, **options)
    assert steps_for_hessian(*X.shape) > 1
    assert result.solver == "newton_direct"
    assert result.success
    wide, stop = (X.astype(float), y.astype(float)), agd.Stop(grad_tol=1e-9, max_iter=500)
    plain = agd.fit(*wide, method="lbfgs", stop=stop, **options)
    tolerance = 2e-3 if kind == "float32" else 1e-7
    np.testing.assert_allclose(result.coef, plain.coef, rtol=0, atol=tolerance)


@pytest.mark.parametrize("penalty", [None, L2(0.01)])
@pytest.mark.parametrize("kind", ["", "weighted", "no intercept", "float32"])
@pytest.mark.parametrize("p", [3, 20])
def test_softmax_of_small_data_is_fitted_by_newtons_method(penalty, kind, p):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, p)) * np.exp(rng.normal(size=p)) + 3.0
    z = (X - 3.0) / X.std(axis=0) @ rng.normal(size=(p, 4)) / np.sqrt(p)
    y = 1.0 * (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    options = {"loss": "softmax", "penalty": penalty, "intercept": kind != "no intercept"}
    if kind == "weighted":
        options["sample_weight"] = rng.uniform(0.5, 2.0, size=len(y))
    if kind == "float32":
        X, y = X.astype(np.float32), y.astype(np.float32)
    result = agd.fit(X, y, **options)
    assert result.solver == "newton_direct"
    assert result.success
    plain = agd.fit(X.astype(float), y.astype(float), stop=agd.Stop(grad_tol=1e-10), **options)
    assert "L-BFGS" in plain.method
    spread, tolerance = X.std(axis=0), 2e-3 if kind == "float32" else 1e-7
    np.testing.assert_allclose(result.coef * spread, plain.coef * spread, atol=tolerance)
    if result.intercept is not None:
        np.testing.assert_allclose(result.intercept, plain.intercept, atol=20 * tolerance)
    assert result.fun == pytest.approx(plain.fun, rel=tolerance)
    assert result.coef.dtype == X.dtype


def test_classes_that_are_separated_have_no_softmax_minimum():
    X = np.random.default_rng(0).normal(size=(90, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    with pytest.warns(agd.ConvergenceWarning, match="grow without bound"):
        agd.fit(X, y, loss="softmax")


@pytest.mark.parametrize("d", [1, 2, 31, 32, 33, 70, 201])
def test_the_inverse_of_the_factor_is_that_of_the_matrix(d):
    A = np.random.default_rng(d).normal(size=(d + 20, d))
    H = A.T @ A
    root = inverse_cholesky(H)
    np.testing.assert_allclose(root.T @ root @ H, np.eye(d), atol=1e-9)
    with pytest.raises(np.linalg.LinAlgError):
        inverse_cholesky(-H)


@pytest.mark.parametrize("loss", ["log_loss", "poisson", "huber"])
@pytest.mark.parametrize("kind", ["even", "nearly dependent", "tiny", "far from zero"])
@pytest.mark.parametrize("penalty", [L2(1e-4), L1(1e-3)])
def test_hessians_in_single_precision_cost_no_digit(loss, kind, penalty):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 40)) * np.exp(rng.normal(size=40))
    z = X / X.std(axis=0) @ rng.normal(size=40) / 6.0
    y = {"log_loss": 1.0 * (z > rng.normal(size=2000)), "poisson": rng.poisson(np.exp(z)) * 1.0}
    if kind == "nearly dependent":
        X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    elif kind == "tiny":
        X = X * 1e-14
    elif kind == "far from zero":
        X = X + 1e4
    target = y.get(loss, z + rng.normal(size=2000))
    direct = agd.fit(X, target, loss=loss, penalty=penalty)
    loop = agd.fit(X, target, loss=loss, penalty=penalty, stop=agd.Stop(grad_tol=1e-12))
    assert direct.success
    assert direct.solver.endswith("_direct")
    scale = X.std(axis=0)
    np.testing.assert_allclose(direct.coef * scale, loop.coef * scale, atol=1e-8)
    np.testing.assert_allclose(direct.fun, loop.fun, rtol=1e-12)
