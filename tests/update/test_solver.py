"""What a solver declares, and users' own objects with only `init` and `step`."""

from typing import NamedTuple

import numpy as np
import pytest

import agd
from agd.update.solver import AdaptedSolver, Solver, as_solver


class FixedState(NamedTuple):
    value: float
    grad: np.ndarray


class FixedStep:
    """Gradient descent with the step 0.1, and no other member."""

    def init(self, objective, params):
        return FixedState(*objective.value_and_grad(params))

    def step(self, objective, params, state):
        moved = params - 0.1 * state.grad
        return moved, FixedState(*objective.value_and_grad(moved))


class BoundedStep(FixedStep):
    name = "clipped"
    evaluations = 3
    bounded = True

    def draw(self, objective, first, n):
        return None


def test_an_object_with_only_init_and_step_minimises_a_function():
    found = agd.minimize(lambda x: ((x - 1.0) ** 2).sum(), np.zeros(2), method=FixedStep())
    assert found.success
    np.testing.assert_allclose(found.x, 1.0, atol=1e-4)


def test_an_object_keeps_what_it_declares():
    solver = as_solver(BoundedStep())
    assert (solver.name, solver.evaluations) == ("clipped", 3)
    assert solver.handles_bounds
    assert solver.stochastic
    assert not solver.handles_prox
    assert not solver.refreshes


def test_a_solver_is_not_adapted_again():
    for make in agd.update.MINIMIZERS.values():
        assert isinstance(make(), Solver)
        assert as_solver(make()) == make()
    adapted = as_solver(FixedStep())
    assert isinstance(adapted, AdaptedSolver)
    assert as_solver(adapted) is adapted
    assert adapted.name == "FixedStep"


@pytest.mark.parametrize("method", [FixedStep, object(), None])
def test_what_is_no_solver_is_refused(method):
    with pytest.raises(TypeError, match="method must be a name, a rule"):
        as_solver(method)


def test_a_solver_without_steps_says_so():
    with pytest.raises(NotImplementedError, match=r"Solver must define init\(objective, params\)"):
        Solver().init(None, None)
    with pytest.raises(NotImplementedError, match="Solver must define step"):
        Solver().step(None, None, None)


def exponential_bowl(x):
    return (np.exp(x) - x).sum()


def test_gd_is_the_same_solver_for_functions_and_losses_of_unknown_curvature():
    by_door = [
        agd.update.resolve("gd", agd.loss.Poisson()),
        agd.update.solver("gd"),
        agd.update.solver("GD"),
        agd.update.solver(agd.update.gradient_descent()),
    ]
    assert len(set(by_door)) == 1
    assert by_door[0].name == "gradient descent, step by backtracking"
    known = agd.update.resolve("gd", agd.loss.Squared())
    assert known == agd.update.Descent(agd.update.gradient_descent())
    assert agd.update.solver("gd", bounds=True) == agd.update.steepest_descent()


def test_gd_evaluates_once_a_step_and_descends():
    found = agd.minimize(
        exponential_bowl, np.asarray([3.0, -2.0]), jac=lambda x: np.exp(x) - 1, method="gd"
    )
    assert found.success
    np.testing.assert_allclose(found.x, 0.0, atol=1e-4)
    assert (np.diff(found.history.value) <= 0.0).all()
