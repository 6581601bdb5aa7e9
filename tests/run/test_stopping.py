"""Stopping: steps that count, limits that are met, and the ways a run can end."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agd import Deadline, GradTol, MaxEval, MaxIter, Status, StepTol, Stop, ValueTol
from agd.run import as_stop, run
from helpers.toy_solvers import EveryThirdTrial, NeverAccepted, QuadraticObjective, run_descent


@pytest.mark.parametrize("criterion", [ValueTol(1e-3), StepTol(1e-3), ValueTol(0.0), StepTol(0.0)])
def test_trials_that_took_no_step_are_no_convergence(xp, criterion):
    bowl = QuadraticObjective(xp.asarray([1.0, 1.0]))
    found = run(
        EveryThirdTrial(0.1), bowl, xp.asarray([1.0, 2.0]), criterion | MaxIter(4), check_every=1
    )
    assert (found.status, found.nit) == (Status.MAX_ITER, 4)
    np.testing.assert_allclose(xp.to_numpy(found.x), [0.6561, 1.3122], rtol=xp.rtol)


def test_a_step_is_measured_by_the_loop_only_where_one_was_taken():
    found = run(
        EveryThirdTrial(0.1), QuadraticObjective(np.ones(1)), np.ones(1), MaxIter(4), check_every=5
    )
    assert np.isnan(found.history.step[1])  # five trials: the last of them was refused
    assert found.history.step[-1] == pytest.approx(0.1 / 0.9)  # twelve: the last was taken


def test_counts_are_those_of_steps_taken_and_calls_made(xp):
    bowl = QuadraticObjective(xp.asarray([1.0]), value_calls=3, grad_calls=2)
    found = run(EveryThirdTrial(0.1), bowl, xp.asarray([1.0]), MaxIter(5), check_every=10)
    assert (found.nit, found.nfev, found.njev) == (5, 3 * 16, 2 * 16)
    assert found.message.endswith("(after 5 steps)")
    plain = run_descent(bowl, xp.asarray([1.0]), Stop(max_iter=5))
    assert (plain.nit, plain.nfev, plain.njev) == (5, 18, 12)


@pytest.mark.parametrize("check_every", [1, 4, 10, 100])
def test_limits_of_steps_and_calls_are_met_however_seldom_the_host_looks(check_every):
    bowl, w = QuadraticObjective(np.asarray([1e-3])), np.asarray([1.0])
    found = run_descent(bowl, w, MaxIter(13) | GradTol(1e-9), check_every=check_every)
    assert (found.status, found.nit) == (Status.MAX_ITER, 13)
    found = run_descent(bowl, w, MaxEval(13) | GradTol(1e-9), check_every=check_every)
    assert (found.status, found.nfev) == (Status.MAX_ITER, 13)
    triple = replace(bowl, value_calls=3)
    assert run_descent(triple, w, MaxEval(13), check_every=check_every).nfev == 15
    found = run(EveryThirdTrial(0.1), bowl, w, MaxIter(13), check_every=check_every)
    assert found.nit == 13


class Clock:
    """A clock that every look at it moves on."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def monotonic(self):
        self.now += self.tick
        return self.now


def test_deadline(monkeypatch):
    from agd.run import loop

    clock = Clock(1.0)
    monkeypatch.setattr(loop, "time", clock)
    bowl = QuadraticObjective(np.asarray([1e-3]))
    found = run_descent(bowl, np.asarray([1.0]), Deadline(5.5) | GradTol(1e-9))
    assert found.status is Status.DEADLINE
    assert "deadline" in found.message
    assert clock.now <= 8.0


def test_a_deadline_is_kept_to_a_step_or_so(monkeypatch):
    from agd.run import loop

    clock = Clock(0.0)

    class Slow(QuadraticObjective):
        def value_and_grad(self, w):
            clock.now += 0.02
            return super().value_and_grad(w)

    monkeypatch.setattr(loop, "time", clock)
    found = run_descent(
        Slow(np.asarray([1e-3])), np.asarray([1.0]), Deadline(0.2), check_every=1000
    )
    assert found.status is Status.DEADLINE
    assert 0.2 <= clock.now < 2.0  # a thousand steps take 20
    assert found.nit < 15


def test_a_criterion_without_a_limit_ends_at_the_default():
    bowl = QuadraticObjective(np.asarray([1e-9]))
    found = run_descent(bowl, np.asarray([1.0]), GradTol(1e-12), check_every=1000)
    assert (found.status, found.nit) == (Status.MAX_ITER, 10_000)
    assert as_stop(GradTol(1e-12) & MaxIter(3)).max_iter == 10_000  # it need not hold, ever
    assert as_stop(GradTol(1e-12) & MaxIter(3) | Deadline(3)).max_iter > 1e9
    assert as_stop(MaxIter(3) & Deadline(3)).max_iter > 1e9


def test_a_limit_keeps_the_default_test_and_a_test_replaces_it():
    bowl, w = QuadraticObjective(np.asarray([1.0])), np.asarray([1.0])
    assert run_descent(bowl, w, MaxIter(500), grad_tol=1e-3).status is Status.CONVERGED
    assert run_descent(bowl, w, Stop(step_tol=0.0), grad_tol=1e-3).nit == 70
    found = run_descent(bowl, w, ValueTol(0.0) | MaxIter(500), grad_tol=1e-3)
    assert (found.status, found.nit) == (Status.MAX_ITER, 500)
    both = run_descent(bowl, w, Stop(when=GradTol(1e-6), grad_tol=1e-3))
    assert both.nit == 70


def test_check_every_is_the_stops_or_else_the_callers():
    bowl, w = QuadraticObjective(np.asarray([1.0])), np.asarray([1.0])
    assert run_descent(bowl, w, Stop(max_iter=12), check_every=4).n_sync == 4
    assert run_descent(bowl, w, Stop(max_iter=12, check_every=3), check_every=4).n_sync == 5
    assert run_descent(bowl, w, Stop(max_iter=12)).n_sync == 3


def test_a_line_search_that_fails_says_so(xp):
    bowl = QuadraticObjective(xp.asarray([1.0]))
    found = run(EveryThirdTrial(0.1, fails_after=2), bowl, xp.asarray([1.0]), GradTol(1e-9))
    assert (found.status, found.success, found.nit) == (Status.LINE_SEARCH, False, 2)
    assert "run agd.check_gradient" in found.message
    # Where the gradient is small enough it has converged, whatever the search says.
    found = run(EveryThirdTrial(0.1, fails_after=2), bowl, xp.asarray([1.0]), GradTol(0.82))
    assert found.status is Status.CONVERGED
    both = QuadraticObjective(xp.asarray([[1.0], [1.0]]), (2,))
    found = run(
        EveryThirdTrial(0.1, fails_after=2), both, xp.asarray([[1.0], [0.9]]), GradTol(0.75)
    )
    assert found.status.tolist() == [Status.LINE_SEARCH, Status.CONVERGED]


def test_a_search_that_never_ends_is_ended():
    found = run(NeverAccepted(), QuadraticObjective(np.ones(1)), np.ones(1), GradTol(1e-9))
    assert (found.status, found.nit) == (Status.LINE_SEARCH, 0)
    assert 100 < found.nfev <= 1000


@pytest.mark.parametrize("check_every", [1, 10, 80])
def test_a_fall_without_end_is_seen(xp, check_every):
    hill = QuadraticObjective(xp.asarray([1.0]), sign=-1.0)
    found = run_descent(hill, xp.asarray([1.0]), GradTol(1e-9), lr=1e3, check_every=check_every)
    assert found.status is Status.UNBOUNDED  # in eighty steps it overflows
    eps = np.finfo(xp.host_dtype).eps
    assert -math.inf < found.fun < -1.0 / eps**2
    assert np.isfinite(xp.to_numpy(found.x)).all()
    assert "falls without bound" in found.message


def test_history_has_a_row_for_each_look_that_brought_something(xp):
    bowl = QuadraticObjective(xp.asarray([1.0]), value_calls=2)
    found = run(EveryThirdTrial(0.1), bowl, xp.asarray([1.0]), MaxIter(3), check_every=1)
    history = found.history
    assert all(isinstance(column, np.ndarray) for column in history)
    assert history.nit.tolist() == [0, 1, 2, 3]
    assert history.nfev.tolist() == [2, 8, 14, 20]
    np.testing.assert_allclose(history.value, 0.5 * 0.81 ** np.arange(4), rtol=xp.rtol)
    np.testing.assert_allclose(history.step[1:], 1 / 9, rtol=10 * xp.rtol)
    # The last look is there although it found no step.
    failed = run(EveryThirdTrial(0.1, fails_after=2), bowl, xp.asarray([1.0]), check_every=1)
    assert failed.history.nit.tolist() == [0, 1, 2, 2]
    assert failed.history.nfev[-1] == failed.nfev


def test_the_callback_is_called_where_a_step_was_taken_and_what_it_saw_stays():
    seen, histories = [], []

    def callback(intermediate):
        seen.append((intermediate.nit, intermediate.status))
        histories.append(intermediate.history)

    run(
        EveryThirdTrial(0.1),
        QuadraticObjective(np.ones(1)),
        np.ones(1),
        MaxIter(40),
        callback,
        check_every=1,
    )
    assert [k for k, _ in seen] == list(range(1, 41))
    assert [status for _, status in seen] == [None] * 39 + [Status.MAX_ITER]
    for k, history in enumerate(histories, start=1):
        assert history.nit.tolist() == list(range(k + 1))
        np.testing.assert_allclose(history.value, 0.5 * 0.81 ** np.arange(k + 1))
