"""Line searches: what they accept, how they fail, and that each problem of a batch goes its own way."""

from __future__ import annotations

import numpy as np
import pytest

from agd.update import (
    Backtracking,
    StrongWolfe,
    cg,
    hager_zhang,
    lbfgs,
    steepest_descent,
)
from helpers.property_testing import given, st

SEARCHES = pytest.mark.parametrize(
    "search",
    [Backtracking(), Backtracking(memory=3), StrongWolfe(), StrongWolfe(c2=0.1)],
    ids=["armijo", "nonmonotone", "wolfe", "exact"],
)


def scalar(number):
    return np.asarray(number, dtype=float)


def run(search, f, df, first, **kwargs):
    """Search along f; return the last state and the trials."""
    state = search.start(scalar(f(0.0)), scalar(df(0.0)), scalar(first), **kwargs)
    trials = []
    while not (state.accepted or state.exhausted):
        t = float(state.step)
        trials.append(t)
        with np.errstate(all="ignore"):
            state = search.step(state, scalar(f(t)), scalar(df(t)))
        assert len(trials) <= 60
    return state, trials


FUNCTIONS = {
    "parabola": (lambda t: (t - 3.0) ** 2, lambda t: 2.0 * (t - 3.0)),
    "quartic": (lambda t: (t - 3.0) ** 4 - t, lambda t: 4.0 * (t - 3.0) ** 3 - 1.0),
    "wavy": (lambda t: -t + 0.4 * np.sin(5.0 * t) + 0.01 * t * t, lambda t: -1.0 + 2.0 * np.cos(5.0 * t) + 0.02 * t),
    "more_thuente_1": (lambda t: -t / (t * t + 2.0), lambda t: (t * t - 2.0) / (t * t + 2.0) ** 2),
    "log": (
        lambda t: -np.log(1.0 - t) - 5.0 * t if t < 1.0 else np.nan,
        lambda t: 1.0 / (1.0 - t) - 5.0 if t < 1.0 else np.nan,
    ),
}  # fmt: skip
# Slopes at 0 must point down: the wavy one's does not, so it begins a little way on.
FUNCTIONS["wavy"] = tuple((lambda t, f=f: f(t + 0.5)) for f in FUNCTIONS["wavy"])


@SEARCHES
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("first", [1e-6, 1e-2, 1.0, 1e3, 1e10])
def test_what_is_accepted_meets_the_conditions(search, name, first):
    f, df = FUNCTIONS[name]
    state, trials = run(search, f, df, first)
    assert state.accepted
    t = float(state.taken)
    assert t == trials[-1] > 0.0
    assert f(t) <= f(0.0) + search.c1 * t * df(0.0)
    if isinstance(search, StrongWolfe):
        assert abs(df(t)) <= search.c2 * abs(df(0.0))


@given(
    st.floats(-3.0, 3.0), st.floats(0.1, 5.0), st.floats(-8.0, 4.0),
    st.sampled_from([StrongWolfe(), StrongWolfe(c2=0.1), Backtracking()]),
)  # fmt: skip
def test_any_parabola_from_any_first_step(log_curvature, depth, log_first, search):
    a = 10.0**log_curvature
    f, df = (lambda t: 0.5 * a * (t - depth) ** 2), (lambda t: a * (t - depth))
    state, trials = run(search, f, df, 10.0**log_first * depth)
    assert state.accepted
    assert f(float(state.taken)) < f(0.0)
    if isinstance(search, StrongWolfe):
        # The growth is fourfold at most; once beyond, secant and cubic hit a parabola's minimum.
        assert (
            len(trials) <= 4 - min(0.0, log_first) * np.log2(10.0) / 2.0 + max(0.0, log_first) * 2
        )


@SEARCHES
def test_a_wrong_gradient_is_exhausted_and_takes_no_step(search):
    state, trials = run(search, lambda t: t, lambda _: -1.0, 1.0)  # it says down and goes up
    assert state.exhausted
    assert not state.accepted
    assert float(state.taken) == 0.0
    assert len(trials) <= search.max_trials


@SEARCHES
def test_never_finite_is_exhausted(search):
    with np.errstate(all="ignore"):
        state, trials = run(
            search, lambda t: np.inf if t else 0.0, lambda t: np.nan if t else -1.0, 1.0
        )
    assert state.exhausted
    assert float(state.taken) == 0.0
    assert trials[:3] == pytest.approx([1.0, 0.1, 0.01])


def test_a_search_that_runs_out_takes_the_best_that_it_has_seen():
    # The slope jumps from -1 to 1: no point is flat enough, but points near the kink are lower.
    f, df = (lambda t: abs(t - 1.0)), (lambda t: -1.0 if t < 1.0 else 1.0)
    state, trials = run(StrongWolfe(max_trials=12), f, df, 0.3)
    assert state.exhausted
    assert 0.0 < float(state.taken) <= 2.0
    assert f(float(state.taken)) == min(f(t) for t in trials)


def test_the_decrease_may_be_counted_from_an_earlier_value():
    f, df = (lambda t: 5.0 * t * t - t), (lambda t: 10.0 * t - 1.0)
    plain, _ = run(Backtracking(), f, df, 1.0)
    loose, trials = run(Backtracking(memory=5), f, df, 1.0, reference=scalar(10.0))
    assert float(plain.taken) < 1.0
    assert trials == [1.0]
    assert float(loose.taken) == 1.0


def test_rounding_hides_the_decrease_and_the_slopes_still_tell():
    f, df = (lambda t: 1e8 + 1e-9 * (t - 1.0) ** 2), (lambda t: 2e-9 * (t - 1.0))
    for search in (StrongWolfe(c2=0.1), Backtracking()):
        state, _ = run(search, f, df, 0.97)
        assert state.accepted
    too_far, _ = run(Backtracking(max_trials=1), f, df, 3.0)
    assert too_far.exhausted


def test_steps_that_change_nothing_end_the_search():
    state, trials = run(Backtracking(), lambda t: t, lambda _: -1.0, 1.0, least=scalar(0.2))
    assert state.exhausted
    assert len(trials) < 4


@SEARCHES
def test_each_problem_of_a_batch_goes_its_own_way(search, xp):
    depth = np.asarray([0.01, 1.0, 3.0, 50.0])
    f, df = (lambda t, d: (t - d) ** 2), (lambda t, d: 2.0 * (t - d))
    d, one = xp.asarray(depth), xp.asarray(np.ones(4))
    state = search.start(f(0.0 * d, d), df(0.0 * d, d), one)
    steps, over = np.zeros(4), np.zeros(4, dtype=bool)
    for _ in range(30):
        new = search.step(state, f(state.step, d), df(state.step, d))
        now = xp.to_numpy(new.accepted).astype(bool)
        steps = np.where(now & ~over, xp.to_numpy(new.taken), steps)
        over |= now
        state = new
        if over.all():
            break
    assert over.all()
    for k, each in enumerate(depth):
        alone, _ = run(search, lambda t, e=each: (t - e) ** 2, lambda t, e=each: 2.0 * (t - e), 1.0)
        assert steps[k] == pytest.approx(float(alone.taken), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Backtracking(c1=0.5), "c1 must be below 1/2"),
        (lambda: Backtracking(c1=-1.0), "c1 must be a finite number above 0"),
        (lambda: Backtracking(memory=0), "memory must be 1 or more"),
        (lambda: StrongWolfe(c1=0.2, c2=0.1), "c1 must be below 1/2 and below c2"),
        (lambda: StrongWolfe(c2=1.5), "below c2 <= 1"),
        (lambda: StrongWolfe(max_trials=0), "max_trials must be 1 or more"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [cg, hager_zhang, lbfgs, steepest_descent])
def test_methods_refuse_what_is_no_search(make):
    for wrong in (3, "wolfe", StrongWolfe):
        with pytest.raises(TypeError, match="search must be a line search such as"):
            make(search=wrong)
