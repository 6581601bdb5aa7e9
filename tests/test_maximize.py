"""`agd.maximize`, and what `agd.minimize` knows of the point that it found."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_minimize import rosenbrock, rosenbrock_grad, total

import agd
from agd import Stop, backends
from agd.loss import L1, L2


def test_maximize_reports_the_function():
    def fun(x):
        return 5.0 - np.sum((x - 2.0) ** 2)

    found = agd.maximize(fun, np.zeros(2), certify=True)
    np.testing.assert_allclose(found.x, 2.0, atol=1e-4)
    assert found.fun == pytest.approx(5.0)
    assert (np.diff(found.history.value) >= 0.0).all()
    assert found.history.value[0] == pytest.approx(fun(np.zeros(2)))
    assert found.certificate.kind == "maximum"
    bound = agd.maximize(fun, np.zeros(2), bounds=[(0.0, 1.0)] * 2)
    np.testing.assert_allclose(bound.x, 1.0, atol=1e-8)
    less = agd.maximize(fun, np.zeros(2), jac=lambda x: -2.0 * (x - 2.0), penalty=L2(2.0))
    np.testing.assert_allclose(less.x, 1.0, atol=1e-4)  # of 5 - |x - 2|² - |x|²
    assert less.fun == pytest.approx(1.0)
    seen = []
    agd.maximize(
        fun, np.zeros(2), callback=lambda intermediate_result: seen.append(intermediate_result.fun)
    )
    assert seen[-1] == pytest.approx(5.0)


def test_penalties_with_a_prox():
    goal = np.asarray([3.0, 0.5, -2.0])
    found = agd.minimize(
        lambda x: 0.5 * np.sum((x - goal) ** 2), np.ones(3), jac=lambda x: x - goal, penalty=L1(1.0)
    )
    np.testing.assert_allclose(found.x, [2.0, 0.0, -1.0], atol=1e-6)  # the soft threshold
    assert found.x[1] == 0.0
    assert found.fun == pytest.approx(0.5 * (1.0 + 0.25 + 1.0) + 3.0)


def test_what_kind_of_point_was_found():
    bowl = agd.minimize(lambda x: np.sum(x**2), np.ones(3), certify=True).certificate
    assert bowl.kind == "minimum"
    assert bowl.curvature == pytest.approx(2.0, rel=1e-3)
    saddle = agd.minimize(
        lambda x: x[0] ** 2 - x[1] ** 2,
        [1.0, 0.0],
        jac=lambda x: np.asarray([2 * x[0], -2 * x[1]]),
        certify=True,
    )
    assert saddle.certificate.kind == "saddle"
    # What was good enough for the run is, for its certificate.
    rough = agd.minimize(
        rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad, stop=Stop(grad_tol=0.5), certify=True
    )
    assert rough.success
    assert rough.certificate.kind == "minimum"


# -- what is read, and shown -------------------------------------------------------------------------


@pytest.mark.backend("strict")
def test_a_device_is_read_once_a_look():
    xp = backends.select("array-api-strict:device1")
    goal = xp.asarray(np.asarray([1.0, -2.0]))
    found = agd.minimize(
        lambda x: total((x - goal) ** 2 + (x - goal) ** 4),
        xp.asarray(np.zeros(2)),
        jac=lambda x: 2.0 * (x - goal) + 4.0 * (x - goal) ** 3,
    )
    assert found.success
    # One to check x0, one at the start, one for every ten evaluations.
    assert found.n_sync == 2 + -(-(found.nfev - 1) // 10)


def test_a_result_prints_and_remembers():
    found = agd.minimize(rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad)
    text, page = repr(found), found._repr_html_()
    for word in ("converged", "nit", "nfev", "gradient"):
        assert word in text
        assert word in page
    assert len(text.splitlines()) < 25
    assert page.lstrip().startswith("<table")
    history = found.history
    assert history.nit[0] == 0
    assert history.nit[-1] == found.nit
    assert history.nfev[-1] == found.nfev
    assert history.value[-1] == pytest.approx(found.fun, abs=1e-15)
    assert {len(column) for column in history} == {len(history.nit)}
    assert all(isinstance(column, np.ndarray) for column in history)


def test_none_stands_for_the_default_method():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert agd.minimize(
            rosenbrock, [-1.2, 1.0], jac=rosenbrock_grad, method=None
        ).method.startswith("L-BFGS")
        assert agd.minimize(rosenbrock, [-1.2, 1.0], method=agd.update.cg()).success
