"""Slopes, curvatures, checks and critical points, on every library, against known answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import agd
from agd import backends
from agd.gradient.curvature import lanczos
from helpers import known_minima


class Pair(NamedTuple):
    a: object
    b: object


def total(x):
    return backends.namespace(x).sum(x)


def cubic(p):
    """f = 2 sum(a²) b + b³ over a tree of a matrix and a number."""
    return 2.0 * total(p["a"] ** 2) * p["b"][0] + p["b"][0] ** 3


def cubic_grad(p):
    a, b = p["a"], p["b"][0]
    return {"a": 4.0 * a * b, "b": (2.0 * total(a**2) + 3.0 * b**2,)}


def cubic_point(xp):
    return {"a": xp.asarray([[1.0, 2.0], [-1.0, 0.5]]), "b": (xp.asarray(1.5),)}


def on_host(x):
    """Return a Python float, which nothing can look behind."""
    return float(np.sum(backends.to_numpy(x) ** 2))


def close(xp, got, want, digits=6):
    """Hold to `digits` decimals in double precision, less in single."""
    tol = 10.0**-digits if xp.rtol < 1e-6 else 2e-2
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=tol, atol=tol)


# -- directions ----------------------------------------------------------------------------------


def test_directional_derivative_of_a_function_and_of_its_gradient(xp):
    x = cubic_point(xp)
    u = {"a": xp.asarray([[1.0, 0.0], [2.0, -1.0]]), "b": (xp.asarray(-2.0),)}
    want = 4.0 * 1.5 * (1.0 - 2.0 - 0.5) - 2.0 * (2.0 * 6.25 + 3.0 * 2.25)
    for f in (cubic, cubic_grad):
        slope = agd.directional_derivative(f, x, u)
        assert tuple(slope.shape) == ()
        close(xp, slope, want)


def test_a_number_is_a_function_even_of_a_number(xp):
    x = xp.asarray(3.0)
    close(xp, agd.directional_derivative(lambda x: x**2, x, xp.asarray(2.0)), 12.0)
    one, two = xp.asarray([3.0]), xp.asarray([2.0])
    close(xp, agd.directional_derivative(lambda x: x**2, one, two), 18.0)  # (1,): the gradient
    close(xp, agd.directional_derivative(lambda x: total(x**2), one, two), 12.0)


def test_functions_that_go_through_python_floats(xp):
    x = xp.asarray([1.0, 2.0])
    close(xp, agd.directional_derivative(on_host, x, x), 10.0)
    close(xp, agd.hessian_vector_product(on_host, x, x), [2.0, 4.0], 5)
    assert agd.critical_point(on_host, 0.0 * x).kind == "minimum"
    assert agd.check_gradient(on_host, lambda x: 2.0 * x, x).against == "3-point"


def test_what_is_not_like_x_is_refused():
    x = np.zeros(2)
    with pytest.raises(ValueError, match=r"u must be an array of shape \(2,\), that of x; got"):
        agd.directional_derivative(lambda x: x, x, np.zeros(3))
    with pytest.raises(ValueError, match=r"f_or_grad must return an array of shape \(2,\)"):
        agd.directional_derivative(lambda x: np.zeros(3), x, x)
    with pytest.raises(ValueError, match="u must be a tree like x"):
        agd.directional_derivative(lambda x: x, {"a": x}, {"b": x})
    with pytest.raises(ValueError, match=r"v must be an array of shape \(2,\)"):
        agd.hessian_vector_product(total, x, np.zeros(1))
    with pytest.raises(ValueError, match="x is missing"):
        agd.critical_point(total, None)


def test_steepest_direction(xp):
    got = agd.steepest_direction(Pair(xp.asarray([3.0, 0.0]), {"c": xp.asarray([[-4.0]])}))
    assert isinstance(got, Pair)
    close(xp, got.a, [-0.6, 0.0])
    close(xp, got.b["c"], [[0.8]])
    np.testing.assert_allclose(agd.steepest_direction([3.0, -4]), [-0.6, 0.8])  # of a list
    zero = agd.steepest_direction(xp.asarray([0.0, 0.0]))
    np.testing.assert_array_equal(xp.to_numpy(zero), [0.0, 0.0])
    huge = agd.steepest_direction(xp.asarray([3e30, -4e30]))  # whose squares float32 cannot hold
    close(xp, huge, [-0.6, 0.8])


# -- the Hessian ---------------------------------------------------------------------------------


def test_hessian_vector_product_four_ways(xp):
    x = cubic_point(xp)
    a, va = np.asarray([[1.0, 2.0], [-1.0, 0.5]]), np.asarray([[1.0, 0.0], [2.0, -1.0]])
    v = {"a": xp.asarray(va), "b": (xp.asarray(-2.0),)}
    want_a, want_b = 4.0 * (1.5 * va - 2.0 * a), 4.0 * np.sum(a * va) - 2.0 * 6.0 * 1.5
    for product in (
        agd.hessian_vector_product(cubic, x, v),
        agd.hessian_vector_product(cubic_grad, x, v),
        agd.hessian_vector_product(cubic, x, v, jac=cubic_grad),
        agd.hessian_vector_product(lambda p: (cubic(p), cubic_grad(p)), x, v, jac=True),
        agd.hessian_vector_product(cubic, x, v, jac="3-point"),
    ):
        close(xp, product["a"], want_a, 5)
        close(xp, product["b"][0], want_b, 5)
        assert product["a"].dtype == xp.dtype
    zero = {"a": 0.0 * v["a"], "b": (0.0 * v["b"][0],)}
    for jac in (None, cubic_grad):
        still = agd.hessian_vector_product(cubic, x, zero, jac=jac)
        np.testing.assert_array_equal(xp.to_numpy(still["a"]), np.zeros((2, 2)))


def test_lanczos_finds_both_ends_of_the_spectrum(xp):
    n, rng = 250, np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    host = q * rng.normal(size=n) @ q.T
    matrix = xp.asarray((host + host.T) / 2.0)
    found = lanczos(lambda v: matrix @ v, xp.asarray(np.zeros(n)))
    want = np.linalg.eigvalsh((host + host.T) / 2.0)
    rtol = 1e-6 if xp.rtol < 1e-6 else 1e-3
    np.testing.assert_allclose(found.values[[0, -1]], want[[0, -1]], rtol=rtol)
    assert 5 < len(found.values) < n
    for i in (0, -1):
        u = found.vector(i)
        gap = xp.to_numpy(matrix @ u) - found.values[i] * xp.to_numpy(u)
        close(xp, total(u * u), 1.0)
        # The residual is what it is said to be: how far from an eigenvector this is.
        np.testing.assert_allclose(np.linalg.norm(gap), found.residuals[i], atol=100 * xp.rtol)


def test_lanczos_ends_where_the_matrix_maps_its_space_to_itself():
    diagonal = np.repeat([1.0, 2.0, 5.0], 100)
    found = lanczos(lambda v: diagonal * v, np.zeros(300), rtol=0.0)
    np.testing.assert_allclose(found.values, [1.0, 2.0, 5.0])
    none = lanczos(lambda v: 0.0 * v, np.zeros(300))
    np.testing.assert_array_equal(none.values, [0.0])


# -- checking a gradient -------------------------------------------------------------------------


def test_a_right_gradient_passes(xp):
    found = agd.check_gradient(cubic, cubic_grad, cubic_point(xp))
    assert found.ok
    assert found
    assert [leaf.name for leaf in found.leaves] == ["x['a']", "x['b'][0]"]
    assert {leaf.verdict for leaf in found.leaves} == {"right"}
    assert found.error < (1e-7 if xp.rtol < 1e-6 else 1e-2)
    library = backends.of(cubic_point(xp)["a"]).name
    assert found.against == ("autodiff" if library in {"torch", "jax"} else "3-point")
    pair = agd.check_gradient(lambda p: (cubic(p), cubic_grad(p)), True, cubic_point(xp))
    assert pair.ok


WRONG = {
    "sign": (lambda a: -a, "wrong sign: jac is minus the gradient"),
    "scale": (lambda a: 2.0 * a, "wrong scale: jac is 2 times the gradient"),
    "both": (lambda a: -0.5 * a, "wrong scale and sign: jac is -0.5 times the gradient"),
    "shape": (lambda a: a[0, :], "wrong shape: (2,), x['a'] has (2, 2)"),
    "transpose": (lambda a: backends.namespace(a).matrix_transpose(a), "the transpose"),
    "zero": (lambda a: 0.0 * a, "jac is zero, the gradient is not"),
    "nan": (lambda a: a * float("nan"), "jac is not finite in 4 of 4 entries"),
    "rest": (lambda a: a + 1.0, "wrong in 4 of 4 entries"),
    "none": (lambda a: "no number", "jac must return real numbers; got str"),
}


@pytest.mark.parametrize("slip", WRONG)
def test_a_wrong_gradient_is_found_and_named(slip, xp):
    spoil, verdict = WRONG[slip]

    def jac(p):
        grad = cubic_grad(p)
        return {"a": spoil(grad["a"]), "b": grad["b"]}

    found = agd.check_gradient(cubic, jac, cubic_point(xp))
    wrong, right = found.leaves
    assert not found.ok
    assert not wrong.ok
    assert right.ok
    assert ("2 times" if slip == "scale" else verdict)[:20] in wrong.verdict
    if xp.rtol < 1e-6:
        assert verdict in wrong.verdict
    assert "WRONG" in repr(found)
    assert wrong.verdict in repr(found)


def test_the_worst_entry_is_pointed_at(xp):
    bump = xp.asarray([[0.0, 0.0], [3.0, 0.0]])
    found = agd.check_gradient(
        lambda x: total(x**2), lambda x: 2.0 * x + bump, xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    )
    (leaf,) = found.leaves
    assert leaf.index == (1, 0)
    assert leaf.verdict == "wrong in 1 of 4 entries"
    assert leaf.given == 9.0
    np.testing.assert_allclose([leaf.error, leaf.expected], [1.0 / 3.0, 6.0], rtol=1e-2)


def test_a_gradient_of_another_structure_is_named():
    found = agd.check_gradient(cubic, lambda p: [1.0], {"a": np.ones((1, 1)), "b": (np.ones(()),)})
    assert "wrong structure" in found.leaves[0].verdict
    assert np.isnan(found.error)
    with pytest.raises(TypeError, match="jac must be a callable or True, got str"):
        agd.check_gradient(cubic, "autodiff", {"a": np.ones((1, 1)), "b": (np.ones(()),)})


def test_right_gradients_pass_at_hard_points():
    for row in known_minima.PROBLEMS.values():
        x = np.asarray(row.x0)
        if row.name != "brown_badly_scaled":  # whose x0 has f = 1e12: rounding is all there is
            assert agd.check_gradient(row.fun, row.grad, x).ok, row.name
    zero = agd.check_gradient(lambda x: total(x**2), lambda x: 2.0 * x, np.zeros(3))
    assert zero.ok  # where every relative error is one of rounding


# -- critical points -----------------------------------------------------------------------------

KINDS = {
    "minimum": (lambda x, y: 7.0 + x**2 + 0.25 * y**2 + x**3, "minimum", None),
    "maximum": (lambda x, y: 5.0 - x**2 - 2.0 * y**2, "maximum", (0.0, 1.0)),
    "saddle": (lambda x, y: x**2 - y**2, "saddle", (0.0, 1.0)),
    "raised saddle": (lambda x, y: 3.0 + x * y, "saddle", (0.5**0.5, -(0.5**0.5))),
    "monkey saddle": (lambda x, y: x**3 - 3.0 * x * y**2, "saddle", (-1.0, 0.0)),
    "raised monkey saddle": (lambda x, y: 5.0 + x**3 - 3.0 * x * y**2, "saddle", (-1.0, 0.0)),
    "valley with a step": (lambda x, y: x**2 + y**3, "saddle", (0.0, -1.0)),
    "ridge that rises": (lambda x, y: y**4 - x**2, "saddle", (1.0, 0.0)),
    "flat minimum": (lambda x, y: x**4 + y**4, "degenerate", None),
    "flat maximum": (lambda x, y: -(x**4) - y**4, "degenerate", (1.0, 0.0)),
    "valley": (lambda x, y: x**2 + 0.0 * y, "degenerate", None),
    "ridge": (lambda x, y: 0.0 * x - y**2, "degenerate", (0.0, 1.0)),
    "constant": (lambda x, y: 0.0 * x + 3.0, "degenerate", None),
    "slope": (lambda x, y: 3.0 * x - 4.0 * y, "not critical", (-0.6, 0.8)),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_critical_points(name, xp):
    f, kind, way = KINDS[name]
    found = agd.critical_point(lambda p: f(p.a[0], p.b), Pair(xp.asarray([0.0]), xp.asarray(0.0)))
    assert found.kind == kind, found
    assert repr(found).startswith(kind)
    if way is None:
        assert found.direction is None
        return
    assert isinstance(found.direction, Pair)
    got = [float(xp.to_numpy(found.direction.a)[0]), float(xp.to_numpy(found.direction.b))]
    if (
        xp.rtol < 1e-6 or "monkey" not in name
    ):  # in float32 any mixture is as flat as its eigenvectors
        np.testing.assert_allclose(np.abs(got), np.abs(way), atol=1e-2)
    step = 0.05 * np.asarray(got)
    assert f(*step) < f(0.0, 0.0)  # it leads down


@pytest.mark.parametrize("jac", ["jac", "2-point", None])
def test_curvatures_by_every_source(jac, xp):
    matrix = np.asarray([[2.0, 1.0, 0.0], [1.0, -3.0, 0.5], [0.0, 0.5, 4.0]])
    a = xp.asarray(matrix)
    found = agd.critical_point(
        lambda x, a: total(x * (a @ x)) / 2.0,
        xp.asarray([0.0, 0.0, 0.0]),
        (lambda x, a: a @ x) if jac == "jac" else jac,
        (a,),
    )
    values, vectors = np.linalg.eigh(matrix)
    assert found.kind == "saddle"
    tol = 1e-6 if xp.rtol < 1e-6 else 1e-2
    np.testing.assert_allclose(found.least_curvature, values[0], rtol=tol)
    np.testing.assert_allclose(found.largest_curvature, values[-1], rtol=tol)
    np.testing.assert_allclose(
        np.abs(xp.to_numpy(found.direction)), np.abs(vectors[:, 0]), atol=10 * tol
    )


def test_many_variables_by_lanczos(xp):
    n, rng = 220, np.random.default_rng(1)
    q = np.linalg.qr(rng.normal(size=(n, 3)))[0]
    for ends, kind in (
        ((-0.5, 3.0), "saddle"),
        ((0.25, 3.0), "minimum"),
        ((-4.0, -0.5), "maximum"),
    ):
        inside = float(np.mean(ends))
        core = np.diag([ends[0] - inside, 0.0, ends[1] - inside])
        a = xp.asarray(inside * np.eye(n) + q @ core @ q.T)
        found = agd.critical_point(
            lambda x, a: total(x * (a @ x)) / 2.0, xp.asarray(np.zeros(n)), lambda x, a: a @ x, (a,)
        )
        assert found.kind == kind
        assert "Lanczos" in found.source
        rtol = 1e-7 if xp.rtol < 1e-6 else 1e-2
        np.testing.assert_allclose(
            [found.least_curvature, found.largest_curvature], ends, rtol=rtol
        )
        if kind == "saddle":
            overlap = abs(float(xp.to_numpy(found.direction) @ q[:, 0]))
            assert overlap > 0.999


def test_many_variables_with_a_cubic_on_the_flat(xp):
    def f(x):
        return total(x[:250] ** 2) + total(x[250:] ** 3)

    found = agd.critical_point(
        f,
        xp.asarray(np.zeros(251)),
        lambda x: backends.namespace(x).concat([2.0 * x[:250], 3.0 * x[250:] ** 2]),
    )
    assert found.kind == "saddle"
    assert found.source.startswith("Lanczos")
    np.testing.assert_allclose(xp.to_numpy(found.direction)[-1], -1.0, rtol=1e-3)


@pytest.mark.parametrize("name", known_minima.PROBLEMS)
def test_the_minima_of_known_problems(name, xp):
    row = known_minima.PROBLEMS[name]
    if len(row.x0) > 20 and xp.name != "numpy":
        pytest.skip("a hundred variables: once is enough")
    for point in row.minima:
        found = agd.critical_point(row.fun, xp.asarray(point), row.grad)
        # Curvatures 1e12 apart are more than a difference can tell, 1e3 more than one in float32 can.
        flat = name in {"powell_singular", "brown_badly_scaled"} or (
            xp.rtol > 1e-6 and name in {"rosenbrock", "wood", "quadratic_1e8"}
        )
        assert found.kind in ({"degenerate", "minimum"} if flat else {"minimum"}), found
    for point in row.saddles:
        assert agd.critical_point(row.fun, xp.asarray(point), row.grad).kind == "saddle"


@pytest.mark.parametrize("name", known_minima.SADDLES)
def test_the_saddles_of_known_problems(name, xp):
    row = known_minima.SADDLES[name]
    for jac in (row.grad, None):
        for point in row.saddles:
            found = agd.critical_point(row.fun, xp.asarray(point), jac)
            assert found.kind == "saddle"
            down = xp.asarray(np.asarray(point) + 0.05 * xp.to_numpy(found.direction))
            assert xp.to_numpy(row.fun(down)) < xp.to_numpy(row.fun(xp.asarray(point)))


def test_what_has_no_gradient_or_curvature_is_said():
    with pytest.raises(ValueError, match="must be finite at x, got value nan"):
        agd.critical_point(lambda x: total(x) * float("nan"), np.zeros(2))
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="second derivatives"):
        agd.critical_point(
            lambda x: total(x**2), np.zeros(2), lambda x: np.where(x == 0.0, 0.0, np.nan)
        )


def test_a_tolerance_of_the_callers_own():
    x = np.asarray([1e-3, 0.0])
    assert agd.critical_point(lambda x: total(x**2), x).kind == "not critical"
    assert agd.critical_point(lambda x: total(x**2), x, grad_tol=0.01).kind == "minimum"
    assert agd.critical_point(
        lambda x, a: a * total(x**2), x, None, (-1.0,), grad_tol=1.0
    ).kind == ("maximum")


@pytest.mark.backend("torch")
def test_nothing_of_the_tape_is_left_in_torch():
    torch = pytest.importorskip("torch")
    x = torch.asarray([1.0, 2.0], dtype=torch.float64)
    for got in (
        agd.directional_derivative(lambda x: (x**2).sum(), x, x),
        agd.hessian_vector_product(lambda x: (x**3).sum(), x, x),
        agd.hessian_vector_product(lambda x: 3.0 * x**2, x, x),
    ):
        assert not got.requires_grad
    # Exact, where a difference would have seven digits.
    exact = agd.hessian_vector_product(lambda x: (x**3).sum(), x, x)
    assert exact.tolist() == [6.0, 24.0]
    linear = agd.hessian_vector_product(lambda x: (3.0 * x).sum(), x, x)
    assert linear.tolist() == [0.0, 0.0]


@pytest.mark.backend("jax")
def test_products_run_inside_jit():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x = jax.numpy.asarray([1.0, 2.0])
    product = jax.jit(lambda x, v: agd.hessian_vector_product(lambda x: (x**3).sum(), x, v))
    np.testing.assert_allclose(product(x, x), [6.0, 24.0], rtol=1e-12)
    direction = jax.jit(agd.steepest_direction)(x)
    np.testing.assert_allclose(direction, [-(0.2**0.5), -2.0 * 0.2**0.5], rtol=1e-12)
