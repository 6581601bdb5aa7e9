"""Methods for penalties with a prox: against scikit-learn and SciPy, on every library, inside their sets."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import agd
from agd._typing import Params
from agd.gradient import Bounds, FunctionObjective, LinearObjective, Preconditioned, column_scaling
from agd.loss import L1, L2, Box, ElasticNet, GroupL1, L2Ball, NonNegative, NuclearNorm, Simplex
from agd.run import Stop, run
from agd.update import FISTA, ProjectedGradient, ProximalGradient, resolve

NAMES = ("auto", "fista", "proximal_gradient", "projected_gradient")
BY_NAME = pytest.mark.parametrize("method", NAMES[1:])
METHODS = pytest.mark.parametrize(
    "method", [FISTA(), ProximalGradient(), ProjectedGradient()], ids=NAMES[1:]
)
TIGHT = Stop(grad_tol=1e-12)
SETS = [NonNegative(), Box(-0.1, 0.3), L2Ball(0.5), Simplex(0.7)]


@pytest.fixture(scope="module")
def diabetes():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_diabetes(return_X_y=True)


def made(n=60, p=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * [1.0, 3.0, 0.2, 1.0, 1.0][:p] + 0.5
    w = np.asarray([0.5, 0.0, -2.0, 0.0, 0.3])[:p]
    return X, X @ w + 1.0 + 0.3 * rng.normal(size=n)


def kkt(X, y, weight, alpha, found):
    """How far a lasso is from its optimality conditions, the largest of all."""
    coef, intercept = np.asarray(found.coef), float(found.intercept)
    r = weight * (X @ coef + intercept - y) / weight.sum()
    g = X.T @ r
    off = np.where(
        coef == 0.0, np.maximum(np.abs(g) - alpha, 0.0), np.abs(g + alpha * np.sign(coef))
    )
    return max(off.max(), abs(r.sum()))


# -- against the peers ---------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("method", NAMES)
def test_lasso_is_coordinate_descents(diabetes, method, alpha):
    peers = pytest.importorskip("sklearn.linear_model")
    X, y = diabetes
    want = peers.Lasso(alpha=alpha, tol=1e-15, max_iter=1_000_000).fit(X, y)
    found = agd.fit(X, y, penalty=L1(alpha), method=method, stop=TIGHT)
    size = np.abs(want.coef_).max()
    np.testing.assert_allclose(found.coef, want.coef_, rtol=0, atol=1e-8 * size)
    assert found.intercept == pytest.approx(want.intercept_, rel=1e-10)
    np.testing.assert_array_equal(found.coef == 0.0, want.coef_ == 0.0)
    # The default stop is as good as 1e-7.
    found = agd.fit(X, y, penalty=L1(alpha), method=method)
    np.testing.assert_allclose(found.coef, want.coef_, rtol=0, atol=1e-7 * size)
    assert found.nfev <= 600  # 241 to 521 for X that differ by rounding


@pytest.mark.parametrize("method", NAMES)
def test_elastic_net_is_coordinate_descents(diabetes, method):
    peers = pytest.importorskip("sklearn.linear_model")
    X, y = diabetes
    want = peers.ElasticNet(alpha=0.01, l1_ratio=0.7, tol=1e-15, max_iter=1_000_000).fit(X, y)
    found = agd.fit(X, y, penalty=ElasticNet(0.01, 0.7), method=method, stop=TIGHT)
    np.testing.assert_allclose(found.coef, want.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", NAMES)
def test_non_negative_least_squares_is_scipys(diabetes, method):
    optimize = pytest.importorskip("scipy.optimize")
    X, y = diabetes
    want, _ = optimize.nnls(X, y)
    found = agd.fit(X, y, penalty=NonNegative(), intercept=False, method=method, stop=TIGHT)
    np.testing.assert_allclose(found.coef, want, rtol=0, atol=1e-8 * want.max())
    np.testing.assert_array_equal(found.coef == 0.0, want == 0.0)
    assert (found.coef >= 0.0).all()


@pytest.mark.parametrize("method", NAMES)
def test_bounded_least_squares_is_scipys(method):
    optimize = pytest.importorskip("scipy.optimize")
    X, y = made()
    low, high = np.asarray([-1.0, 0.1, -1.0, -0.2, 0.0]), np.asarray([0.4, 1.0, 0.0, 0.2, 0.1])
    want = optimize.lsq_linear(X, y, (low, high), tol=1e-14).x
    penalty = Box(low, high)
    found = agd.fit(X, y, penalty=penalty, intercept=False, method=method, stop=TIGHT)
    np.testing.assert_allclose(found.coef, want, atol=1e-7)
    assert ((found.coef >= low) & (found.coef <= high)).all()


@pytest.mark.parametrize("method", NAMES)
def test_sparse_logistic_regression_is_sagas(method):
    peers = pytest.importorskip("sklearn.linear_model")
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    alpha = 0.01
    peer = peers.LogisticRegression(
        l1_ratio=1.0, C=1.0 / (alpha * len(y)), solver="saga", tol=1e-12, max_iter=100_000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn 1.8 has new words for the same penalty
        peer.set_params(penalty="l1")
        peer.fit(X, y)
    found = agd.fit(X, y, loss="log_loss", penalty=L1(alpha), method=method)
    np.testing.assert_allclose(found.coef, peer.coef_[0], atol=1e-7)
    assert found.intercept == pytest.approx(peer.intercept_[0], abs=1e-7)
    np.testing.assert_array_equal(found.coef == 0.0, peer.coef_[0] == 0.0)
    assert found.nfev <= 700


@BY_NAME
def test_a_smooth_penalty_is_the_ridge(method):
    X, y = made()
    found = agd.fit(X, y, penalty=L2(0.1), method=method)
    np.testing.assert_allclose(found.coef, agd.fit(X, y, penalty=L2(0.1)).coef, rtol=1e-8)


def test_groups_of_one_are_the_lasso_and_half_of_the_elastic_net_is_the_ridge():
    X, y = made()
    lasso = agd.fit(X, y, penalty=L1(0.2), stop=TIGHT)
    groups = agd.fit(X, y, penalty=GroupL1(0.2, range(5)), stop=TIGHT)
    np.testing.assert_allclose(groups.coef, lasso.coef, atol=1e-9)
    ridge = agd.fit(X, y, penalty=L2(0.2), stop=TIGHT)
    net = agd.fit(X, y, penalty=ElasticNet(0.2, 0.0), stop=TIGHT)
    np.testing.assert_allclose(net.coef, ridge.coef, atol=1e-9)


# -- on every library ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_lasso_meets_its_conditions(xp, method):
    X, y = made()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, size=60)
    found = agd.fit(
        xp.asarray(X),
        xp.asarray(y),
        sample_weight=xp.asarray(weight),
        penalty=L1(0.1),
        method=method,
    )
    assert found.success
    assert xp.name == "dask" or found.coef.dtype == xp.dtype
    host = Params(xp.to_numpy(found.coef), xp.to_numpy(found.intercept))
    assert (host.coef == 0.0).sum() >= 1
    assert kkt(X, y, weight, 0.1, host) <= (1e-4 if "float32" in str(xp.dtype) else 1e-9)


@pytest.mark.parametrize("penalty", SETS, ids=[type(s).__name__ for s in SETS])
@pytest.mark.parametrize("method", NAMES[1:])
def test_the_coefficients_are_in_the_set(xp, method, penalty):
    X, y = made()
    want = agd.fit(X, y, penalty=penalty, stop=Stop(grad_tol=1e-11))
    found = agd.fit(xp.asarray(X), xp.asarray(y), penalty=penalty, method=method)
    coef = xp.to_numpy(found.coef)
    single = "float32" in str(xp.dtype)
    np.testing.assert_allclose(coef, want.coef, atol=2e-3 if single else 1e-7)
    if isinstance(penalty, NonNegative | Box):  # to the last bit
        np.testing.assert_array_equal(coef, xp.to_numpy(penalty.project(found.coef)))
    elif isinstance(penalty, L2Ball):
        assert np.linalg.norm(coef.astype(float)) == pytest.approx(0.5, rel=1e-6)
    else:
        assert coef.min() >= 0.0
        assert coef.sum() == pytest.approx(0.7, rel=1e-6)


@BY_NAME
def test_targets_side_by_side_are_fitted_as_one_by_one(xp, method):
    X, y = made()
    Y = np.column_stack([y, -y, 100.0 * y])
    if xp.name == "dask":
        pytest.skip("a chunked X is one problem")
    for penalty in (L1(0.1), GroupL1(0.1, (0, 0, 1, 1, 1))):
        found = agd.fit(xp.asarray(X), xp.asarray(Y), penalty=penalty, method=method)
        coef = xp.to_numpy(found.coef)
        assert coef.shape == (3, 5)
        for k in range(3):
            want = agd.fit(X, Y[:, k], penalty=penalty, stop=Stop(grad_tol=1e-11)).coef
            size = np.abs(want).max()
            atol = (1e-3 if "float32" in str(xp.dtype) else 1e-7) * size
            np.testing.assert_allclose(coef[k], want, atol=atol)


@BY_NAME
def test_a_batch_of_data_is_its_problems(method):
    pairs = [made(seed=k) for k in range(3)]
    X, y = np.stack([X for X, _ in pairs]), np.stack([y for _, y in pairs])
    found = agd.fit(X, y, loss=agd.loss.Huber(0.5), penalty=L1(0.1), method=method)
    assert found.success.all()
    for k, (Xk, yk) in enumerate(pairs):
        want = agd.fit(Xk, yk, loss=agd.loss.Huber(0.5), penalty=L1(0.1), method=method)
        np.testing.assert_allclose(found.coef[k], want.coef, atol=1e-8)


@BY_NAME
def test_other_units_change_nothing(method):
    X, y = made()
    found = agd.fit(X, y, penalty=NonNegative(), method=method)
    scale = np.asarray([1e-3, 1.0, 1e4, 10.0, 1e8])
    other = agd.fit(X * scale + 3.0, 1e3 * y, penalty=NonNegative(), method=method)
    np.testing.assert_allclose(other.coef * scale / 1e3, found.coef, atol=1e-7)


# -- coordinates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [L1(0.3), ElasticNet(0.3, 0.4), Box(-0.1, 0.2), NonNegative()],
                         ids=lambda p: type(p).__name__)  # fmt: skip
def test_prox_in_scaled_coordinates_minimises_there(penalty):
    X, y = made()
    base = LinearObjective.of(X, y, penalty=penalty)
    there = Preconditioned(base, column_scaling(base))
    assert there.scaling.inv_std.max() > 2.0 * there.scaling.inv_std.min()
    rng = np.random.default_rng(0)
    v, step = Params(rng.normal(size=5), np.asarray(0.7)), 0.6

    def objective(u):
        return there.penalty_value(Params(u, v.intercept)) + np.sum((u - v.coef) ** 2) / (2 * step)

    near = there.prox(v, step)
    assert near.intercept == v.intercept
    best = objective(near.coef)
    for size in (1e-3, 0.1):
        for _ in range(300):
            assert objective(near.coef + size * rng.normal(size=5)) >= best


def test_a_penalty_that_couples_gets_one_scale():
    X, y = made()
    for penalty in (GroupL1(0.3, (0, 0, 1, 1, 1)), L2Ball(), Simplex()):
        scale = column_scaling(LinearObjective.of(X, y, penalty=penalty)).inv_std
        np.testing.assert_array_equal(scale, np.full(5, scale[0]))
    separate = column_scaling(LinearObjective.of(X, y, penalty=L1(0.3))).inv_std
    np.testing.assert_array_equal(scale, np.full(5, separate.min()))


def test_grad_norm_is_what_the_prox_leaves():
    X, y = made()
    base = LinearObjective.of(X, y, penalty=L1(0.3))
    there = Preconditioned(base, column_scaling(base))
    v = there.scaling.to_preconditioned(
        Params(np.asarray([0.1, 0.0, -1.0, 0.2, 0.0]), np.asarray(1.0))
    )
    user, _ = there.report(v, v)
    _, g = base.value_and_grad(user)
    moved = user.coef - np.sign(user.coef - g.coef) * np.maximum(
        np.abs(user.coef - g.coef) - 0.3, 0.0
    )
    want = max(np.abs(moved).max(), abs(g.intercept))
    assert base.grad_norm(g, user) == pytest.approx(want)
    _, pulled = there.value_and_grad(v)
    assert there.grad_norm(pulled, v) == pytest.approx(want, rel=1e-9)
    assert base.grad_norm(g, user) < np.abs(g.coef).max()


# -- the methods themselves ----------------------------------------------------------------------


def steps(method, objective, x, n):
    state = method.init(objective, x)
    for _ in range(n):
        x, state = method.step(objective, x, state)
        yield x, state


@METHODS
def test_the_state_is_of_the_params(method):
    X, y = made()
    for loss in (agd.loss.Squared(), agd.loss.Huber(0.2)):
        base = LinearObjective.of(X, y, loss=loss, penalty=L1(0.1))
        calls = 1
        for x, state in steps(method, base, base.zeros(), 15):
            calls += 1
            value, grad = base.value_and_grad(x)
            assert state.value == pytest.approx(value + base.penalty_value(x), rel=1e-12)
            np.testing.assert_allclose(state.grad.coef, grad.coef, atol=1e-12)
            assert state.progress.evaluations == calls
            assert not state.progress.stalled
        assert 0 < state.progress.iterations < calls
        assert state.progress.curvature > 0.0


@METHODS
def test_the_value_hardly_ever_rises(method):
    X, y = made()
    for penalty in (L1(0.1), Simplex()):
        base = LinearObjective.of(X, y, loss=agd.loss.Huber(0.2), penalty=penalty)
        x = base.prox(base.zeros(), 0.0)
        values = [float(state.value) for _, state in steps(method, base, x, 200)]
        memory = getattr(method, "memory", 1)
        for k in range(1, len(values)):
            assert values[k] <= max(values[max(0, k - memory) : k]) + 1e-12
        assert values[-1] <= min(values) + 1e-12


@METHODS
@pytest.mark.parametrize("penalty", SETS, ids=[type(s).__name__ for s in SETS])
def test_the_function_is_asked_within_the_set_only(method, penalty):
    asked = []

    def pair(x, bounds=None):
        asked.append(penalty.value(x))
        return np.sum(np.exp(x) - 3.0 * x) + 0.5 * np.sum(x[1:] * x[:-1]), np.exp(
            x
        ) - 3.0 + 0.5 * np.concatenate([x[1:], [0.0]]) + 0.5 * np.concatenate([[0.0], x[:-1]])

    objective = FunctionObjective(pair, penalty=penalty)
    x0 = penalty.project(np.asarray([-1.0, 0.5, 2.0]))
    found = run(method, objective, x0, Stop(grad_tol=1e-9, max_iter=300))
    assert found.success
    assert (np.asarray(asked) == 0.0).all()
    assert found.nfev == len(asked)


@METHODS
def test_bounds_of_a_function(method):
    scale = np.asarray([1.0, 1e3, 1e-2])

    def pair(x, bounds=None):
        assert ((x >= 0.0) & (x <= 2.0)).all()
        return 0.5 * np.sum(scale * (x - 1.0) ** 2) - 0.1 * x[2], scale * (x - 1.0) - np.asarray(
            [0.0, 0.0, 0.1]
        )

    bounds = Bounds(np.zeros(3), np.full(3, 2.0))
    objective = FunctionObjective(pair, bounds=bounds)
    found = run(method, objective, np.asarray([2.0, 2.0, 0.0]), Stop(grad_tol=1e-8))
    np.testing.assert_allclose(found.x, [1.0, 1.0, 2.0], atol=1e-6)
    assert found.success


@METHODS
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_no_step_has_to_be_given(method, scale):
    def pair(x, bounds=None):
        return scale * np.sum(np.cosh(x - 2.0)), scale * np.sinh(x - 2.0)

    objective = FunctionObjective(pair, penalty=NonNegative())
    found = run(method, objective, np.asarray([9.0, 0.0]), Stop(grad_tol=scale * 1e-8))
    np.testing.assert_allclose(found.x, [2.0, 2.0], atol=1e-6)
    assert found.nfev <= (300 if isinstance(method, FISTA) else 60)


@METHODS
def test_a_trial_that_is_not_finite_is_cut_back(method):
    def pair(x, bounds=None):  # -log x + x: infinite at 0, where a long step lands
        with np.errstate(all="ignore"):
            value = np.sum(np.where(x > 0.0, x - np.log(np.abs(x)), np.inf))
            return value, 1.0 - 1.0 / x

    objective = FunctionObjective(pair, penalty=NonNegative())
    found = run(method, objective, np.asarray([50.0, 0.1]), Stop(grad_tol=1e-8))
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-6)


@METHODS
def test_trees_of_any_shape(method):
    target = {"a": np.asarray([[1.0, -0.05], [0.0, 2.0]]), "b": np.asarray(3.0)}

    def pair(x, bounds=None):
        gaps = {k: x[k] - target[k] for k in x}
        return sum(0.5 * np.sum(g * g) for g in gaps.values()), gaps

    objective = FunctionObjective(pair, penalty=L1(0.1))
    x0 = {"a": np.zeros((2, 2)), "b": np.asarray(0.0)}
    found = run(method, objective, x0, Stop(grad_tol=1e-10))
    np.testing.assert_allclose(found.x["a"], [[0.9, 0.0], [0.0, 1.9]], atol=1e-9)
    np.testing.assert_allclose(found.x["b"], 2.9, atol=1e-9)


@METHODS
def test_a_matrix_of_low_rank(method):
    rng = np.random.default_rng(0)
    full = rng.normal(size=(6, 5))

    def pair(x, bounds=None):
        return 0.5 * np.sum((x - full) ** 2), x - full

    objective = FunctionObjective(pair, penalty=NuclearNorm(1.5))
    found = run(method, objective, np.zeros((6, 5)), Stop(grad_tol=1e-10))
    np.testing.assert_allclose(found.x, NuclearNorm(1.5).prox(full, 1.0), atol=1e-8)
    assert np.linalg.matrix_rank(found.x, tol=1e-8) < 5


@METHODS
def test_independent_problems_are_each_at_their_own_stage(method):
    at = np.asarray([[1.0, 0.02], [5.0, -7.0], [0.0, 0.0]])
    bend = np.asarray([1.0, 1e4, 1e-3])[:, None]

    def pair(x, bounds=None):
        return 0.5 * np.sum(bend * (x - at) ** 2, axis=-1), bend * (x - at)

    objective = FunctionObjective(pair, batch_shape=(3,), penalty=L1(0.1))
    found = run(method, objective, np.ones((3, 2)), Stop(grad_tol=1e-9))
    want = np.sign(at) * np.maximum(np.abs(at) - 0.1 / bend, 0.0)
    np.testing.assert_allclose(found.x, want, atol=1e-5)
    assert found.success.all()
    for k in range(3):
        one = FunctionObjective(
            lambda x, bounds=None, k=k: (
                0.5 * np.sum(bend[k] * (x - at[k]) ** 2),
                bend[k] * (x - at[k]),
            ),
            penalty=L1(0.1),
        )
        alone = run(method, one, np.ones(2), Stop(grad_tol=1e-9))
        np.testing.assert_allclose(found.x[k], alone.x, atol=1e-9)


@METHODS
def test_nothing_left_to_do_ends_the_run(method):
    X, y = made()
    found = agd.fit(X, y, penalty=L1(1e6), method=method)
    np.testing.assert_array_equal(found.coef, np.zeros(5))
    assert found.intercept == pytest.approx(y.mean())
    assert found.status.name == "CONVERGED"

    def corner(x, bounds=None):
        return np.sum(x), np.ones_like(x)

    objective = FunctionObjective(corner, penalty=NonNegative())
    found = run(method, objective, np.zeros(2), Stop(grad_tol=0.0))
    assert found.nit == 0  # no descent from the corner


@METHODS
@pytest.mark.backend("jax")
def test_a_step_under_jit_vmap_and_while_loop(method):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    X, y = made()
    for loss in (agd.loss.Squared(), agd.loss.Huber(0.5)):
        plain = LinearObjective.of(X, y, loss=loss, penalty=L1(0.1))
        want = run(method, plain, plain.zeros(), Stop(grad_tol=1e-10)).x
        base = LinearObjective.of(jnp.asarray(X), jnp.asarray(y), loss=loss, penalty=L1(0.1))

        @jax.jit
        def solve(x0, base=base):
            def cond(carry):
                x, state = carry
                return base.grad_norm(state.grad, x) > 1e-10

            return jax.lax.while_loop(
                cond, lambda carry: method.step(base, *carry), (x0, method.init(base, x0))
            )[0]

        found = solve(base.zeros())
        np.testing.assert_allclose(found.coef, want.coef, atol=1e-8)
        starts = Params(jnp.stack([jnp.zeros(5), jnp.ones(5)]), jnp.zeros(2))
        many = jax.vmap(solve)(starts)
        np.testing.assert_allclose(many.coef, np.stack([want.coef] * 2), atol=1e-8)


@pytest.mark.backend("torch")
def test_bounds_on_the_device_of_the_data():
    import torch

    X, y = made()
    low = torch.zeros(5, dtype=torch.float64)
    found = agd.fit(torch.asarray(X), torch.asarray(y), penalty=Box(low, 1.0))
    want = agd.fit(X, y, penalty=Box(0.0, 1.0))
    np.testing.assert_allclose(found.coef.numpy(), want.coef, atol=1e-9)


@METHODS
def test_single_precision_converges(method):
    X, y = made()
    X, y = X.astype(np.float32), y.astype(np.float32)
    found = agd.fit(X, y, penalty=L1(0.1), method=method)
    assert found.success
    assert found.coef.dtype == np.float32
    assert kkt(X.astype(float), y.astype(float), np.ones(60), 0.1, found) <= 1e-4


# -- doors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gd", "adam", "lbfgs", agd.update.gradient_descent(0.1)])
def test_a_method_without_a_prox_names_those_with_one(method):
    X, y = made()
    with pytest.raises(
        ValueError, match=r"cannot handle a penalty with a prox; these can: 'auto', .*'fista'"
    ):
        agd.fit(X, y, penalty=L1(0.1), method=method)


def test_errors_of_fit():
    X, y = made()
    with pytest.raises(
        ValueError, match=r"couples the coefficients of several targets.*agd\.minimize"
    ):
        agd.fit(X, y, penalty=NuclearNorm())
    with pytest.raises(TypeError, match=r"an object such as agd\.loss\.L2"):
        agd.fit(X, y, penalty=L1)
    with pytest.raises(TypeError, match=r"an object such as agd\.loss\.L2"):
        agd.fit(X, y, penalty=0.1)
    with pytest.raises(ValueError, match="for each of the 5 coefficients, got 2"):
        agd.fit(X, y, penalty=GroupL1(0.1, (0, 1)))
    with pytest.raises(ValueError, match=r"low must be a number or broadcast"):
        agd.fit(X, y, penalty=Box([0.0, 0.0], 1.0))
    with pytest.raises(ValueError, match="memory must be 1 or more"):
        ProximalGradient(memory=0)
    with pytest.raises(ValueError, match="memory must be 1 or more"):
        ProjectedGradient(memory=0)


def test_a_start_outside_of_the_set_is_moved_into_it():
    X, y = made()
    found = agd.fit(X, y, penalty=Simplex(), init=np.full(5, 7.0))
    np.testing.assert_allclose(found.coef, agd.fit(X, y, penalty=Simplex()).coef, atol=1e-8)


def test_names():
    squared = agd.loss.Squared()
    assert isinstance(resolve("auto", squared, prox=True), FISTA)
    assert isinstance(resolve("auto", agd.loss.Huber(), prox=True), ProximalGradient)
    for name in NAMES[1:]:
        assert resolve(name, squared, prox=True).name
    assert resolve("auto", squared).name.startswith("accelerated gradient descent")
    with pytest.raises(ValueError, match="did you mean 'fista'"):
        resolve("fitsa", squared)
