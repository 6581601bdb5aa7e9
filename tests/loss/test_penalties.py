"""Penalties and their proxes: by hand, against brute force, firmly non-expansive, on every library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import agd
from agd.loss import (
    L1,
    L2,
    BasePenalty,
    Box,
    ElasticNet,
    FusedL1,
    GroupL1,
    L2Ball,
    Monotone,
    NonNegative,
    NuclearNorm,
    Simplex,
    Slope,
)
from agd.loss.base import RescaledPenalty, as_penalty
from agd.loss.penalties import ridge_strength
from helpers import known_values
from helpers.property_testing import given, st

PENALTIES = pytest.mark.parametrize(
    "case", known_values.PENALTIES.values(), ids=known_values.PENALTIES
)
TRACED_PENALTIES = pytest.mark.parametrize(
    "case", [case for case in known_values.PENALTIES.values() if not case.penalty.prox_on_host],
    ids=[name for name, case in known_values.PENALTIES.items() if not case.penalty.prox_on_host],
)  # fmt: skip
SETS = [name for name, case in known_values.PENALTIES.items() if case.value == math.inf]


def of_vectors(w):
    """Penalties of a vector of this many coefficients, and of the square matrix of them."""
    p = len(w)
    return {
        "L1": L1(0.7),
        "L2": L2(0.7),
        "ElasticNet": ElasticNet(0.7, 0.3),
        "GroupL1": GroupL1(0.7, tuple(i % 2 for i in range(p))),
        "NonNegative": NonNegative(),
        "Box": Box(-0.5, [0.25 * (i + 1) for i in range(p)]),
        "L2Ball": L2Ball(0.8),
        "Simplex": Simplex(1.5),
        "L1, weights": L1(0.7, weights=[0.5 * i for i in range(p)]),
        "L2, weights": L2(0.7, weights=[0.5 * i for i in range(p)]),
        "ElasticNet, weights": ElasticNet(0.7, 0.3, weights=[0.5 * i for i in range(p)]),
        "L1 + L2 with weights": ElasticNet(0.7, 0.3).of_scaled([0.5 + i for i in range(p)]),
        "L1 + NonNegative": (L1(0.7) + NonNegative()).of_scaled([0.5 + i for i in range(p)]),
        "RescaledPenalty": RescaledPenalty(L1(0.7), 0.5, [0.5 + i for i in range(p)]),
        "L1 + L2": L1(0.7) + L2(0.4),
        "ElasticNet + L1": ElasticNet(0.7, 0.3) + L1(0.2),
        "L1 + NonNegative + L2": L1(0.3) + NonNegative() + L2(0.4),
        "Box + NonNegative": Box(-0.5, 0.6) + NonNegative(),
        "GroupL1 + L1 + L2": GroupL1(0.7, tuple(i % 2 for i in range(p))) + L1(0.2) + L2(0.4),
        "Simplex + L2": Simplex(1.5) + L2(0.4),
        "FusedL1": FusedL1(0.7),
        "FusedL1 + L1 + L2": FusedL1(0.7) + L1(0.2) + L2(0.4),
        "Monotone": Monotone(),
        "Monotone, falling": Monotone(increasing=False),
        "Slope": Slope(0.7, np.linspace(1.0, 0.2, p)),
        "Slope + L2": Slope(0.7, np.linspace(1.0, 0.2, p)) + L2(0.4),
    }


def skip_chunks(case, xp):
    if isinstance(case.penalty, NuclearNorm) and xp.name == "dask":
        pytest.skip("an array in chunks has no singular values here")


# -- known answers -------------------------------------------------------------------------------


@PENALTIES
def test_value_grad_and_prox_by_hand(case, xp):
    skip_chunks(case, xp)
    w = xp.asarray(case.w)
    near = case.penalty.prox(w, 2.0)
    np.testing.assert_allclose(xp.to_numpy(case.penalty.value(w)), case.value, rtol=1e-6)
    np.testing.assert_allclose(xp.to_numpy(near), case.prox, rtol=1e-6, atol=1e-6)
    assert near.dtype == xp.dtype
    assert case.penalty.value(near).dtype == xp.dtype
    zero = np.asarray(case.prox) == 0.0
    assert (xp.to_numpy(near)[zero] == 0.0).all()  # exactly
    if case.penalty.smooth:
        h, host = 1e-6, np.asarray(case.w)
        numeric = [
            (case.penalty.value(host + h * e) - case.penalty.value(host - h * e)) / (2 * h)
            for e in np.eye(host.size)
        ]
        np.testing.assert_allclose(xp.to_numpy(case.penalty.grad(w)), numeric, rtol=1e-6)
    else:
        assert case.penalty.curvature is None
        with pytest.raises(NotImplementedError, match="use its prox"):
            case.penalty.grad(w)


@pytest.mark.parametrize("name", SETS)
def test_a_projection_is_inside(name, xp):
    penalty = known_values.PENALTIES[name].penalty
    rng = np.random.default_rng(0)
    p = 2 if name == "Box" else 30
    for scale in (1e-3, 1.0, 1e3):
        near = penalty.prox(xp.asarray(scale * rng.normal(size=(4, p))), 1.0)
        assert (xp.to_numpy(penalty.value(near)) == 0.0).all()
    value = xp.to_numpy(penalty.value(xp.asarray(np.linspace(-5.0, -9.0, p) * np.ones((2, 1)))))
    assert (value == math.inf).all()


@PENALTIES
def test_a_batch_is_its_problems(case, xp):
    skip_chunks(case, xp)
    one = np.asarray(case.w)
    w = np.stack([one, -0.5 * one, 2.0 * one])
    steps = np.asarray([0.5, 1.0, 2.0]).reshape(3, *(1,) * one.ndim)
    near = xp.to_numpy(case.penalty.prox(xp.asarray(w), xp.asarray(steps)))
    values = xp.to_numpy(case.penalty.value(xp.asarray(w)))
    assert values.shape == (3,)
    for k in range(3):
        want = case.penalty.prox(w[k], float(steps[k].item()))
        np.testing.assert_allclose(near[k], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(values[k], case.penalty.value(w[k]), rtol=1e-6)


@PENALTIES
def test_a_separable_penalty_takes_a_step_for_each_coefficient(case, xp):
    if not case.penalty.separable:
        return
    w, steps = np.asarray(case.w), np.asarray([0.5, 2.0])
    near = xp.to_numpy(case.penalty.prox(xp.asarray(w), xp.asarray(steps)))
    for j in range(2):
        want = case.penalty.prox(w, float(steps[j]))[j]
        np.testing.assert_allclose(near[j], want, rtol=1e-6)


# -- what a prox is ------------------------------------------------------------------------------


class HuberisedL1(BasePenalty):
    """A smooth penalty whose curvature is bounded, and 0 of all but the smallest coefficients."""

    smooth = separable = True
    width = 1e-5

    @property
    def curvature_bound(self):
        return 0.1 / self.width

    def value(self, w):
        size = np.abs(w)
        near = 0.5 * size**2 / self.width
        return 0.1 * np.sum(np.where(size < self.width, near, size - 0.5 * self.width), axis=-1)

    def gradient(self, w):
        return 0.1 * np.clip(w / self.width, -1.0, 1.0)


def test_a_bound_on_the_curvature_is_no_ridge():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)) * [1.0, 30.0, 1.0, 1.0]
    y = X @ [1.0, -0.1, 0.5, 2.0] + 0.1 * rng.normal(size=200)
    result = agd.fit(X, y, penalty=HuberisedL1())
    assert result.success
    assert result.nit <= 30
    np.testing.assert_allclose(result.jac.coef, 0.0, atol=1e-9)
    assert ridge_strength(HuberisedL1()) == 0.0
    assert ridge_strength(RescaledPenalty(L2(0.5), 2.0, 3.0)) == 9.0
    with pytest.warns(np.exceptions.RankWarning, match="linearly dependent"):
        agd.fit(X[:, [0, 1, 1]], y, penalty=HuberisedL1())


@pytest.mark.parametrize("name", of_vectors([0, 0]))
@pytest.mark.parametrize("w", [(0.3, -1.7), (1.4, 0.9), (0.05, 0.02), (-2.0, 2.0)])
def test_prox_is_where_a_dense_grid_is_least(name, w):
    penalty, step = of_vectors(w)[name], 0.6
    w = np.asarray(w)
    side = np.linspace(-3.0, 3.0, 601)

    def objective(u):
        return penalty.value(u) + np.sum((u - w) ** 2, axis=-1) / (2 * step)

    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
    if name.startswith("Simplex"):  # a grid does not meet it: walk along it
        share = np.linspace(0.0, 1.5, 601)
        grid = np.stack([share, 1.5 - share], axis=-1)
    values = objective(grid)
    near = penalty.prox(w, step)
    assert objective(near) <= values.min() + 1e-12
    best = grid[np.unravel_index(np.argmin(values), values.shape)]
    assert np.abs(best - near).max() <= 0.02


@PENALTIES
def test_prox_minimises(case):
    rng = np.random.default_rng(0)
    w, step = np.asarray(case.w), 2.0
    axes = tuple(range(-w.ndim, 0))

    def objective(u):
        return case.penalty.value(u) + np.sum((u - w) ** 2, axis=axes) / (2 * step)

    near = case.penalty.prox(w, step)
    best = objective(near)
    for size in (1e-3, 0.1, 1.0):
        assert np.all(objective(near + size * rng.normal(size=(500, *w.shape))) >= best)


def test_prox_is_the_minimum_that_scipy_finds():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    for _ in range(5):
        w = rng.normal(size=6)
        found = optimize.minimize(
            lambda x, w=w: np.sum((x - w) ** 2),
            np.full(6, 1 / 6),
            method="SLSQP",
            constraints=[{"type": "eq", "fun": lambda x: x.sum() - 1.0}],
            bounds=[(0, None)] * 6,
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(Simplex().prox(w, 1.0), found.x, atol=1e-6)


def test_a_matrix_of_low_rank():
    rng = np.random.default_rng(2)
    w = rng.normal(size=(5, 4))
    s = np.linalg.svd(w, compute_uv=False)
    near = NuclearNorm(1.0).prox(w, float(s[2]))
    assert np.linalg.matrix_rank(near, tol=1e-10) == 2
    # The residual is a subgradient: no singular value above the step, and those of `near` are it.
    left = np.linalg.svd(w - near, compute_uv=False)
    np.testing.assert_allclose(left, [s[2], s[2], s[2], s[3]], rtol=1e-10)


# -- properties ----------------------------------------------------------------------------------

numbers = st.floats(-50.0, 50.0, allow_subnormal=False)


@pytest.mark.parametrize("name", [*of_vectors([0, 0]), "NuclearNorm"])
@given(a=st.lists(numbers, min_size=4, max_size=4), b=st.lists(numbers, min_size=4, max_size=4),
       step=st.floats(1e-3, 10.0))  # fmt: skip
def test_prox_is_firmly_non_expansive(name, a, b, step):
    a, b = np.asarray(a), np.asarray(b)
    if name == "NuclearNorm":
        penalty, a, b = NuclearNorm(0.7), a.reshape(2, 2), b.reshape(2, 2)
    else:
        penalty = of_vectors(a)[name]
    moved = penalty.prox(a, step) - penalty.prox(b, step)
    assert np.sum(moved * moved) <= np.sum(moved * (a - b)) + 1e-10


@pytest.mark.parametrize("name", [*of_vectors([0, 0]), "NuclearNorm"])
@given(w=st.lists(numbers, min_size=4, max_size=4), u=st.lists(numbers, min_size=4, max_size=4),
       step=st.floats(1e-3, 10.0))  # fmt: skip
def test_what_prox_leaves_is_a_subgradient(name, w, u, step):
    w, u = np.asarray(w), np.asarray(u)
    if name == "NuclearNorm":
        penalty, w, u = NuclearNorm(0.7), w.reshape(2, 2), u.reshape(2, 2)
    else:
        penalty = of_vectors(w)[name]
    near = penalty.prox(w, step)
    u = penalty.prox(u, 0.1)  # somewhere in the domain
    subgradient = (w - near) / step
    below = penalty.value(near) + np.sum(subgradient * (u - near))
    assert penalty.value(u) >= below - 1e-8 * (1.0 + np.abs(subgradient).max())


@given(w=st.lists(numbers, min_size=1, max_size=8), c=st.floats(-1e6, 1e6))
def test_the_simplex_does_not_see_a_common_summand(w, c):
    w = np.asarray(w)
    shifted = Simplex().prox(w + c, 1.0)
    np.testing.assert_allclose(shifted, Simplex().prox(w, 1.0), atol=1e-9)
    assert shifted.min() >= 0.0
    assert shifted.sum() == pytest.approx(1.0, abs=1e-13)


def test_step_0_is_the_nearest_point_of_the_domain():
    rng = np.random.default_rng(3)
    w = rng.normal(size=4)
    for name, penalty in of_vectors(w).items():
        near = penalty.prox(w, 0.0)
        if name.partition(",")[0] in SETS:
            assert penalty.value(near) == 0.0
            np.testing.assert_allclose(near, penalty.prox(w, 3.0))
        elif any(term in SETS for term in name.split(" + ")):
            assert np.isfinite(penalty.value(near))
            np.testing.assert_allclose(near, penalty.prox(near, 0.0))
        else:
            np.testing.assert_allclose(near, w, rtol=1e-15)


def test_sizes_at_both_ends_of_the_range():
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(L2Ball(1e-250).project(scale * np.asarray([3.0, 4.0])),
                                   1e-250 * np.asarray([0.6, 0.8]))  # fmt: skip
        np.testing.assert_array_equal(Simplex().project(scale * np.asarray([1.0, 1.0])), [0.5, 0.5])
    np.testing.assert_array_equal(GroupL1(1.0, (0, 0)).prox(np.zeros(2), 1.0), [0.0, 0.0])
    np.testing.assert_array_equal(L2Ball().project(np.zeros(2)), [0.0, 0.0])


# -- inside other people's loops -----------------------------------------------------------------


@TRACED_PENALTIES
@pytest.mark.backend("jax")
def test_under_jit_vmap_and_while_loop(case):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    w, penalty = jnp.asarray(case.w), case.penalty
    near = jax.jit(penalty.prox)(w, 2.0)
    np.testing.assert_allclose(near, case.prox, atol=1e-12)
    np.testing.assert_allclose(jax.jit(penalty.value)(w), case.value, rtol=1e-12)
    many = jax.vmap(penalty.prox)(jnp.stack([w, 2.0 * w]), jnp.asarray([2.0, 2.0]))
    np.testing.assert_allclose(many[0], near, atol=1e-12)

    def descend(carry):  # the prox of (|u - w|² / 2 + penalty) by proximal gradient
        k, u = carry
        return k + 1, penalty.prox(u - 0.5 * (u - w) / 2.0, 0.5)

    _, u = jax.lax.while_loop(lambda carry: carry[0] < 200, descend, (0, jnp.zeros_like(w)))
    np.testing.assert_allclose(u, case.prox, atol=1e-12)


@TRACED_PENALTIES
@pytest.mark.backend("torch")
def test_under_torch_vmap(case):
    import torch

    one = torch.asarray(np.asarray(case.w))
    w, steps = torch.stack([one, 2.0 * one]), torch.asarray([2.0, 1.0], dtype=torch.float64)
    near = torch.func.vmap(case.penalty.prox)(w, steps)
    values = torch.func.vmap(case.penalty.value)(w)
    for k in range(2):
        want = case.penalty.prox(w[k], float(steps[k]))
        np.testing.assert_allclose(near[k].numpy(), want.numpy(), atol=1e-12)
        np.testing.assert_allclose(values[k].numpy(), case.penalty.value(w[k]).numpy())


@PENALTIES
def test_single_precision_stays(case):
    w = np.asarray(case.w, dtype=np.float32)
    near = case.penalty.prox(w, np.float32(2.0))
    assert near.dtype == np.float32
    assert case.penalty.value(near).dtype == np.float32
    assert math.isfinite(case.penalty.value(near))
    np.testing.assert_allclose(near, case.prox, rtol=1e-5, atol=1e-6)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make", [L1, L2, ElasticNet, NuclearNorm, lambda a: GroupL1(a, (0,))],
    ids=["L1", "L2", "ElasticNet", "NuclearNorm", "GroupL1"],
)  # fmt: skip
def test_strengths_are_checked(make, bad):
    with pytest.raises(ValueError, match="alpha must be a finite number of 0 or more"):
        make(bad)
    with pytest.raises(TypeError, match="alpha must be a number of 0 or more, got '1'"):
        make("1")


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="l1_ratio must be a number from 0 to 1, got"):
        ElasticNet(1.0, 1.5)
    with pytest.raises(ValueError, match="radius must be a finite number above 0, got 0"):
        L2Ball(0)
    with pytest.raises(ValueError, match="total must be a finite number above 0"):
        Simplex(-1.0)
    with pytest.raises(ValueError, match=r"low must be at most high.* low 1.0, high 0.0"):
        Box(1.0, 0.0)
    with pytest.raises(ValueError, match=r"low 2.0, high 1.0 at \[1\]"):
        Box([0.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="neither may exclude every number"):
        Box(math.inf, math.inf)
    with pytest.raises(ValueError, match="low must not be NaN"):
        Box(math.nan)
    with pytest.raises(ValueError, match="high must not be NaN"):
        Box(0.0, [1.0, math.nan])
    with pytest.raises(TypeError, match="low must be a number"):
        Box("0")
    with pytest.raises(TypeError, match="high must be a number"):
        Box(0.0, [1.0, "b"])
    with pytest.raises(ValueError, match="groups must name a group for each coefficient, got none"):
        GroupL1(1.0, ())
    with pytest.raises(TypeError, match=r"groups\[1\] must be a whole number, got 0.5"):
        GroupL1(1.0, (0, 0.5))


def test_shapes_are_checked(xp):
    with pytest.raises(ValueError, match="for each of the 3 coefficients, got 2"):
        GroupL1(1.0, (0, 1)).prox(xp.asarray(np.ones(3)), 1.0)
    with pytest.raises(ValueError, match=r"low must be a number or broadcast .* got shape \(2,\)"):
        Box([0.0, 1.0], 3.0).prox(xp.asarray(np.ones(3)), 1.0)
    with pytest.raises(ValueError, match="w must have 2 axes or more"):
        NuclearNorm().value(xp.asarray(np.ones(3)))
    if xp.name == "dask":
        with pytest.raises(NotImplementedError, match="an array in chunks cannot give"):
            NuclearNorm().prox(xp.asarray(np.ones((3, 2))), 1.0)


def test_bounds_of_the_library_itself(xp):
    low = xp.asarray([0.0, 1.0])
    near = Box(low, 2.0).prox(xp.asarray([-1.0, 3.0]), 1.0)
    np.testing.assert_array_equal(xp.to_numpy(near), [0.0, 2.0])


def test_penalties_hash():
    rows = [case.penalty for case in known_values.PENALTIES.values()]
    assert len({*rows, *rows}) == len(rows)
    assert Box(np.asarray([0.0, 1.0]), 2) == Box([0, 1], 2.0)
    for a, b in itertools.combinations(rows, 2):
        assert a != b


@pytest.mark.backend("numpy")
def test_a_penalty_of_the_users_need_not_have_the_base_class():
    class Ridge:
        smooth = separable = True
        curvature = 0.5

        def value(self, w):
            return 0.25 * (w * w).sum(axis=-1)

        def grad(self, w):
            return 0.5 * w

    class Lasso:
        def value(self, w):
            return 0.5 * abs(w).sum(axis=-1)

        def prox(self, w, step):
            return np.sign(w) * np.maximum(abs(w) - 0.5 * step, 0.0)

    X = np.random.default_rng(0).normal(size=(50, 3))
    y = X @ np.asarray([1.0, -2.0, 0.1])
    for penalty, same in ((Ridge(), L2(0.5)), (Lasso(), L1(0.5))):
        for loss in ("squared_error", "huber"):
            found = agd.fit(X, y, loss=loss, penalty=penalty)
            np.testing.assert_allclose(
                found.coef, agd.fit(X, y, loss=loss, penalty=same).coef, atol=1e-6
            )
    with pytest.raises(NotImplementedError, match="no prox"):
        as_penalty(Ridge()).prox(np.ones(3), 1.0)
    with pytest.raises(TypeError, match="penalty must be an object"):
        as_penalty(0.1)


# -- sums ------------------------------------------------------------------------------------------


def test_a_sum_of_ridges_or_of_lassos_is_one():
    assert L2(0.1) + L2(0.2) == L2(0.1 + 0.2)
    assert L1(0.1) + L1(0.2) == L1(0.1 + 0.2)
    assert (
        repr(L1(0.1) + NonNegative() + L2(0.2)) == "L1(alpha=0.1) + NonNegative() + L2(alpha=0.2)"
    )


def test_a_lasso_with_a_ridge_is_the_elastic_net(xp):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) * [1.0, 3.0, 0.5, 1.0]
    y = X @ np.asarray([1.0, 0.0, -2.0, 0.1]) + rng.normal(size=60)
    X, y = xp.asarray(X), xp.asarray(y)
    total = agd.fit(X, y, penalty=L1(0.06) + L2(0.04))
    net = agd.fit(X, y, penalty=ElasticNet(0.1, 0.6))
    rtol = 1e-4 if "32" in str(xp.dtype) else 1e-9
    np.testing.assert_allclose(xp.to_numpy(total.coef), xp.to_numpy(net.coef), rtol=rtol, atol=rtol)
    assert total.success


def test_a_fit_with_a_sum_has_no_lower_point_nearby():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    y = X @ np.asarray([1.0, -1.0, 0.5, 0.0]) + 0.1 * rng.normal(size=80)
    for name, penalty in of_vectors(np.zeros(4)).items():
        if "+" not in name:
            continue
        for loss, target in (("squared_error", y), ("log_loss", (y > 0.0) * 1.0)):
            result = agd.fit(X, target, loss=loss, penalty=penalty)
            assert result.success, (name, loss)

            def value(w, b, penalty=penalty, loss=loss, target=target, name=name):
                mean = np.mean(agd.loss.get(loss).value(X @ w + b, target))
                return mean + penalty.value(penalty.prox(w, 0.0) if "Simplex" in name else w)

            least = value(result.coef, result.intercept)
            np.testing.assert_allclose(least, result.fun, rtol=1e-9)
            for size in (0.1, 1e-2, 1e-3):
                w = result.coef + size * rng.normal(size=4)
                if not np.isfinite(penalty.value(w)):
                    w = penalty.prox(w, 1e-9)
                assert value(w, result.intercept + size * rng.normal()) >= least - 1e-9


def test_terms_whose_prox_is_not_known_together_are_refused():
    groups = GroupL1(0.1, (0, 0, 1))
    for terms in ((groups, NonNegative()), (L2Ball(1.0), L1(0.1)), (Simplex(), groups)):
        with pytest.raises(TypeError, match=r"prox of .* does not follow from those of its terms"):
            terms[0] + terms[1]
    with pytest.raises(TypeError, match="penalty must be an object"):
        L1(0.1) + 3
