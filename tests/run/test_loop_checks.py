"""What the loop asks of a method and reads of its arrays: draws, traces, graphs, and one look at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agd
from agd import Deadline, GradTol, MaxEval, MaxIter, Status, StepTol, ValueTol, backends
from agd._typing import Params
from agd.gradient import LinearObjective
from agd.run import run
from helpers.toy_solvers import NoisyDescent, QuadraticObjective, run_descent


@pytest.mark.parametrize("check_every", [1, 3, 100])
def test_what_is_drawn_reaches_its_step_and_a_look_sees_the_whole(xp, check_every):
    bowl = QuadraticObjective(xp.asarray([1.0]))
    found = run(NoisyDescent(), bowl, xp.asarray([1.0]), MaxIter(7), check_every=check_every)
    w = 1.0
    for k in range(7):
        w = 0.5 * w - 0.5 * k
    np.testing.assert_allclose(xp.to_numpy(found.x), [w], rtol=xp.rtol)
    np.testing.assert_allclose(xp.to_numpy(found.jac), [w], rtol=xp.rtol)
    assert found.fun == pytest.approx(0.5 * w * w, rel=1e-6)
    assert found.nfev == 8 + found.n_sync  # each look evaluates the function too


@pytest.mark.backend("jax")
def test_an_objective_that_cannot_be_compiled_is_run_as_it_is():
    import jax

    jax.config.update("jax_enable_x64", True)
    one = jax.numpy.ones(1)

    class Reads(QuadraticObjective):
        def value_and_grad(self, w):
            float(w[0])  # under a trace this raises
            return super().value_and_grad(w)

    found = run_descent(Reads(one, compilable=False), one, GradTol(1e-3))
    assert found.status is Status.CONVERGED
    assert found.method.endswith(", not compiled")
    assert not run_descent(QuadraticObjective(one), one, GradTol(1e-3)).method.endswith("compiled")


@pytest.mark.backend("jax")
def test_leaves_that_are_measured_do_not_compile_the_step_anew():
    import jax

    from agd.run.compiled_step import _advance

    jax.config.update("jax_enable_x64", True)
    compiled = backends.of(jax.numpy.ones(1)).compile(_advance)
    objective = LinearObjective.of(jax.numpy.ones((3, 1)), jax.numpy.ones(3))
    first = Params(jax.numpy.ones(1), jax.numpy.ones(()))
    run_descent(objective, first, MaxIter(3))
    size = compiled._cache_size()
    assert size > 0
    run_descent(objective, first, GradTol(Params(1e-3, 1e-4)))
    run_descent(objective, first, ValueTol(1e-3) & MaxIter(30))
    assert compiled._cache_size() == size


@pytest.mark.backend("dask")
def test_a_lazy_point_does_not_grow_a_graph():
    da = pytest.importorskip("dask.array")
    d = da.from_array(np.asarray([1.0, 2.0, 3.0, 4.0]), chunks=2)
    found = run_descent(QuadraticObjective(d), da.ones(4, chunks=2), MaxIter(40), check_every=40)
    assert len(found.x.__dask_graph__()) <= 4
    np.testing.assert_allclose(found.x.compute(), (1 - 0.1 * np.arange(1, 5)) ** 40)


@pytest.mark.parametrize("check_every", [1, 7])
@pytest.mark.backend("strict")
def test_a_look_is_one_read_whatever_is_asked(monkeypatch, check_every):
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    one = strict.ones(2, device=device)
    counts, original = [], type(one).to_device

    def counted(self, *args, **kwargs):
        counts.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(one), "to_device", counted)
    criterion = (
        GradTol([1e-6, 1e-3]) & (ValueTol(1e-9) | StepTol(1e-9)) | MaxEval(60) | Deadline(1e9)
    )
    found = run_descent(
        QuadraticObjective([one, one]), [one, one], criterion, check_every=check_every
    )
    assert found.n_sync == len(counts) > 1


def test_fit_reads_limits_by_leaf_in_the_users_coordinates():
    rng = np.random.default_rng(0)
    X = 1e3 * rng.normal(size=(50, 3)) + 5e3
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=50)
    tight = Params(1e-2, 1e-6)
    objective = agd.gradient.LinearObjective.of(X, y)
    scaled = agd.gradient.Preconditioned(objective, agd.gradient.column_scaling(objective))
    method = agd.update.resolve("auto", agd.loss.Squared())
    found = run(method, scaled, scaled.zeros(), GradTol(tight), check_every=1)
    assert found.success
    assert np.abs(found.jac.coef).max() <= 1e-2
    assert abs(found.jac.intercept) <= 1e-6


def test_fit_takes_criteria_whose_limits_are_absolute():
    rng = np.random.default_rng(0)
    X = 1e3 * rng.normal(size=(50, 3)) + 5e3
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=50)
    found = agd.fit(X, y, stop=GradTol(1e-3) | MaxIter(500))
    assert found.success
    assert max(np.abs(found.jac.coef).max(), abs(found.jac.intercept)) <= 1e-3
    assert found.certificate.tolerance == 1e-3
    by_leaf = agd.fit(X, y, stop=GradTol(Params(math.inf, 1e-6)))
    assert by_leaf.success
    assert abs(by_leaf.jac.intercept) <= 1e-6
    # Limits alone leave the default test, which is relative, as it is.
    plain, limited = agd.fit(X, y), agd.fit(X, y, stop=MaxIter(500) | MaxEval(500))
    assert (plain.nit, plain.grad_norm) == (limited.nit, limited.grad_norm)
    with pytest.raises(TypeError, match="stop must be"):
        agd.fit(X, y, stop=1e-3)
