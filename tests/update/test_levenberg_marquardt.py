"""Levenberg and Marquardt's steps on the problems of the literature, with their published optima."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.update.levenberg_marquardt import NormalModel, TriangularModel, radius_damping
from helpers.array_libraries import Xp
from helpers.least_squares_problems import PROBLEMS


def is_optimum(cost: float, optima: tuple[float, ...], rtol: float = 1e-6) -> bool:
    return any(abs(2.0 * cost - optimum) <= rtol * optimum + 1e-15 for optimum in optima)


@pytest.mark.parametrize("jac", ["2-point", "3-point"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_published_optima_are_reached(name: str, jac: str) -> None:
    problem = PROBLEMS[name]
    xp = agd.backends.namespace(np.zeros(1))
    result = agd.least_squares(lambda x: problem.residuals(xp, x), list(problem.start), jac=jac)
    assert result.status is agd.Status.CONVERGED
    assert is_optimum(result.cost, problem.optima)


@pytest.mark.parametrize("name", ["Bard", "Meyer", "Osborne 1", "Kowalik and Osborne", "Watson, 6"])
def test_published_optima_are_reached_on_every_library(name: str, xp: Xp) -> None:
    if xp.name == "dask" and name != "Bard":
        pytest.skip("many graphs of Dask take long")
    if xp.rtol > 1e-10:
        pytest.skip("in single precision these are not solvable to six digits")
    problem = PROBLEMS[name]
    start = xp.asarray(problem.start)
    result = agd.least_squares(lambda x: problem.residuals(xp.ns, x), start)
    assert result.success
    assert is_optimum(result.cost, problem.optima)
    assert type(result.x) is type(start)


@pytest.mark.parametrize("factor", [10.0, 100.0])
@pytest.mark.parametrize("name", ["Rosenbrock", "Brown badly scaled", "Wood", "Meyer", "Watson, 9"])
def test_distant_starts_lead_to_the_same_optima(name: str, factor: float) -> None:
    problem = PROBLEMS[name]
    start = factor * (np.asarray(problem.start) + (not any(problem.start)))
    result = agd.least_squares(lambda x: problem.residuals(np, x), start, jac="3-point")
    assert result.success
    assert is_optimum(result.cost, problem.optima)


@pytest.mark.parametrize("method", ["lm-geodesic", "gauss-newton"])
@pytest.mark.parametrize(
    "name", ["Rosenbrock", "Bard", "Gaussian", "Osborne 1", "Linear, full rank"]
)
def test_other_methods_reach_them_too(name: str, method: str) -> None:
    problem = PROBLEMS[name]
    result = agd.least_squares(
        lambda x: problem.residuals(np, x), list(problem.start), jac="3-point", method=method
    )
    assert result.success
    assert is_optimum(result.cost, problem.optima)
    assert result.method == method


def test_steps_do_not_depend_on_units() -> None:
    problem = PROBLEMS["Osborne 1"]
    units = np.asarray([1e6, 1e-8, 1e3, 1e-4, 1e5])
    plain, scaled = (
        agd.least_squares(
            lambda x, u=u, c=c: c * problem.residuals(np, x / u), np.asarray(problem.start) * u, jac="3-point"
        )
        for u, c in ((np.ones(5), 1.0), (units, 1e9))
    )  # fmt: skip
    assert plain.status is scaled.status is agd.Status.CONVERGED
    np.testing.assert_allclose(scaled.x / units, plain.x, rtol=1e-6)
    assert abs(plain.nit - scaled.nit) <= 3


def test_damping_gives_the_step_the_length_of_the_radius() -> None:
    rng = np.random.default_rng(0)
    u, values = rng.normal(size=(5, 3)), np.sort(rng.uniform(1e-6, 1.0, (5, 3)))[:, ::-1]
    radius = np.asarray([1e-3, 0.1, 1.0, 10.0, np.inf])
    damping = radius_damping(u, values, radius)
    length = np.sqrt(np.sum((values * u / (values**2 + damping[:, None])) ** 2, axis=-1))
    np.testing.assert_allclose(length[:4], np.minimum(radius[:4], length[:4]), rtol=0.02)
    assert damping[4] == 0.0


def test_both_models_agree() -> None:
    rng = np.random.default_rng(1)
    f, jacobian = rng.normal(size=(3, 8)), rng.normal(size=(3, 8, 2))
    triangular, normal = (kind.of(f, jacobian, 1e-15) for kind in (TriangularModel, NormalModel))
    scale, free = np.ones((3, 2)), np.ones((3, 2), dtype=bool)
    step, damping = triangular.restrained_step(np.full(3, 0.1), scale, free)
    np.testing.assert_allclose(normal.restrained_step(damping, scale, None)[0], step, rtol=1e-10)
    np.testing.assert_allclose(normal.predicted_fall(step), triangular.predicted_fall(step))
    np.testing.assert_allclose(triangular.gradient(), normal.gradient())
    np.testing.assert_allclose(triangular.covariance(1e-16)[0], normal.covariance(1e-16)[0])
