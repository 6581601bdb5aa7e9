"""Stopping rules: how they compose, what each tests, and what the loop asks of a method."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

import agd
from agd import Deadline, GradTol, MaxEval, MaxIter, Status, StepTol, Stop, ValueTol, backends
from agd._typing import Params
from agd.run import as_stop, run
from agd.run.criteria import RUNNING, Seen
from agd.run.row import Row
from agd.update import Descent, gradient_descent


@dataclass(frozen=True)
class Bowl:
    """f(w) = sign / 2 Σ d w², leaf by leaf; leading axes of the leaves are problems."""

    d: Any
    batch_shape: tuple[int, ...] = ()
    sign: float = 1.0
    value_calls: int = 1
    grad_calls: int = 1
    compilable: bool = True

    def value_and_grad(self, w):
        grad = optree.tree_map(lambda x, d: self.sign * d * x, w, self.d)
        axes = tuple(range(len(self.batch_shape), optree.tree_leaves(w)[0].ndim))
        parts = [
            backends.namespace(x).sum(0.5 * x * g, axis=axes)
            for x, g in zip(optree.tree_leaves(w), optree.tree_leaves(grad), strict=True)
        ]
        return sum(parts[1:], parts[0]), grad

    def grad_norm(self, g, w):
        xp = backends.namespace(optree.tree_leaves(g)[0])
        axes = tuple(range(len(self.batch_shape), optree.tree_leaves(w)[0].ndim))
        sizes = [xp.max(xp.abs(leaf), axis=axes) for leaf in optree.tree_leaves(g)]
        for size in sizes[1:]:
            sizes[0] = xp.maximum(sizes[0], size)
        return sizes[0]

    def report(self, w, g):
        return w, g

    def arrays(self):
        return self.d

    def with_arrays(self, arrays):
        return replace(self, d=arrays)


class SearchState(NamedTuple):
    value: Any
    grad: Any
    iterations: Any
    evaluations: Any
    failed: Any
    trial: Any


@dataclass(frozen=True)
class EveryThird:
    """Gradient descent that takes a step at every third trial, as a line search might."""

    lr: float
    fails_after: float = math.inf
    name: str = "every third"
    evaluations: int = 1

    def init(self, objective, w):
        value, grad = objective.value_and_grad(w)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        return SearchState(value, grad, zero, zero + 1.0, zero > 1.0, zero)

    def step(self, objective, w, state):
        xp = backends.namespace(state.value)
        failed = state.iterations >= self.fails_after
        trial = state.trial + 1.0
        moves = (trial >= 3.0) & ~failed
        scale = self.lr * xp.astype(moves, state.value.dtype)
        w = w - xp.reshape(scale, (*scale.shape, *(1,) * (w.ndim - scale.ndim))) * state.grad
        value, grad = objective.value_and_grad(w)
        return w, SearchState(
            value,
            grad,
            state.iterations + xp.astype(moves, value.dtype),
            state.evaluations + 1.0,
            failed,
            xp.where(moves, xp.zeros_like(trial), trial),
        )


def row(**known):
    zero = np.asarray(0.0)
    columns = {name: zero for name in Row._fields if name not in ("length", "leaves")}
    known = {name: np.asarray(value, dtype=float) for name, value in known.items()}
    return Row(**{**columns, "finite": np.asarray(1.0), **known})


def seen(now, **known):
    defaults = {"last": row(), "first": row(), "advanced": np.asarray(True), "calls": np.asarray(0)}
    return Seen(now, **{**defaults, "seconds": 0.0, **known})


# A criterion for each of these; the row below makes those hold whose name is listed.
OPERANDS = {"g": GradTol(1e-8), "v": ValueTol(1e-12), "i": MaxIter(500), "d": Deadline(10)}


def judged(criterion, holding):
    now = row(
        grad_norm=0.0 if "g" in holding else 1.0,
        value=0.0 if "v" in holding else 1.0,
        iterations=500 if "i" in holding else 1,
    )
    return int(criterion.judge(seen(now, seconds=11.0 if "d" in holding else 0.0)))


@pytest.mark.parametrize(
    ("build", "cases"),
    [
        (
            lambda g, v, i, d: g & v | i | d,
            {"": -1, "g": -1, "v": -1, "gv": 0, "i": 1, "d": 6, "id": 1, "gi": 1, "gvid": 0},
        ),
        (lambda g, v, i, d: d | i, {"id": 6, "i": 1, "d": 6}),
        (lambda g, v, i, d: (g | v) & i, {"g": -1, "i": -1, "gi": 0, "vi": 0, "gv": -1}),
        (lambda g, v, i, d: i & d, {"i": -1, "d": -1, "id": 1}),
        (lambda g, v, i, d: d & i, {"id": 6}),
        (lambda g, v, i, d: (g | i) & d, {"gd": 0, "id": 1, "gid": 0, "d": -1}),
        (lambda g, v, i, d: (i | g) & (v | d), {"iv": 0, "id": 1, "gd": 0, "g": -1}),
        (lambda g, v, i, d: ((g & v) | (i & d)) & (g | d), {"gv": 0, "id": 1, "g": -1, "gd": -1}),
    ],
)
def test_operators_compose(build, cases):
    criterion = build(*(OPERANDS[name] for name in "gvid"))
    for holding, status in cases.items():
        assert judged(criterion, holding) == status, holding


def test_each_problem_is_judged_by_itself():
    now = row(grad_norm=[0.0, 1.0, 0.0, 1.0], iterations=[500, 500, 1, 1], value=[0.0] * 4)
    criterion = GradTol(1e-8) | MaxIter(500)
    first = row(grad_norm=[1.0] * 4)
    assert criterion.judge(seen(now, first=first)).tolist() == [0, 1, 0, RUNNING]


@pytest.mark.parametrize(
    "criterion",
    [
        GradTol(1e-8) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10),
        (GradTol(1e-8, rtol=1e-6) | StepTol(1e-9)) & (ValueTol(0.0, atol=1e-300) | MaxEval(7)),
        GradTol({"w": [1e-8, math.inf], "b": 1e-3}) | MaxIter(2),
    ],
)
def test_a_criterion_is_a_value_that_reads_as_it_is_written(criterion):
    again = eval(repr(criterion), {**vars(agd), "inf": math.inf})  # noqa: S307 - our own text
    assert again == criterion
    assert hash(again) == hash(criterion)
    assert len({criterion, again, criterion | MaxIter(9)}) == 2


def test_trees_of_limits_differ_by_value_and_by_structure():
    tests = [
        GradTol(1.0),
        GradTol([1.0]),
        GradTol({"a": 1.0}),
        GradTol({"a": 2.0}),
        GradTol((1.0,)),
    ]
    assert len(set(tests)) == len(tests)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradTol(-1.0), "atol must be a finite number of 0 or more, got -1.0"),
        (lambda: GradTol(math.inf), "atol must be a finite number"),
        (lambda: GradTol({"w": "small"}), "atol must be a number of 0 or more, got 'small'"),
        (lambda: GradTol([1.0, -2.0]), "atol must be a finite number of 0 or more, got -2.0"),
        (lambda: GradTol(None), "atol must be a number"),
        (lambda: GradTol(0.0, rtol=-1), "rtol must be a finite number"),
        (lambda: ValueTol(math.nan), "rtol must be a finite number"),
        (lambda: StepTol(1e-3, atol=-1), "atol must be a finite number"),
        (lambda: MaxIter(0), "MaxIter must be 1 or more, got 0"),
        (lambda: MaxEval(1.5), "MaxEval must be a whole number, got 1.5"),
        (lambda: Deadline(0), "seconds must be a finite number above 0, got 0"),
        (lambda: Deadline("soon"), "seconds must be a number above 0, got 'soon'"),
        (lambda: Stop(when=3), "when must be a criterion such as agd.GradTol"),
        (lambda: as_stop(1e-8), "stop must be an agd.Stop, .* or a criterion, .* got 1e-08"),
        (lambda: GradTol(1e-8) & 3, "unsupported operand"),
        (lambda: GradTol(1e-8) | 1e-3, "unsupported operand"),
    ],
)
def test_what_is_no_criterion_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def descend(objective, w, stop=None, lr=0.1, **kwargs):
    return run(Descent(gradient_descent(lr)), objective, w, stop, **kwargs)


def test_gradient_relative_to_the_first():
    found = descend(
        Bowl(np.asarray([1.0])), np.asarray([1e6]), GradTol(0.0, rtol=1e-3), check_every=1
    )
    assert found.status is Status.CONVERGED
    assert found.nit == math.ceil(math.log(1e-3) / math.log(0.9))
    assert found.certificate.tolerance == pytest.approx(1e3)
    # The larger of the two limits counts.
    loose = descend(
        Bowl(np.asarray([1.0])), np.asarray([1e6]), GradTol(5e5, rtol=1e-3), check_every=1
    )
    assert loose.nit == math.ceil(math.log(0.5) / math.log(0.9))


def test_value_and_step_relative_and_absolute():
    bowl, w = Bowl(np.asarray([1.0])), np.asarray([1.0])
    for criterion, test in (
        (StepTol(0.0, atol=1e-3), lambda old, new: abs(new - old) <= 1e-3),
        (ValueTol(0.0, atol=1e-3), lambda old, new: abs(new**2 - old**2) / 2 <= 1e-3),
        (ValueTol(0.3), lambda old, new: abs(new**2 - old**2) <= 0.3 * new**2),
    ):
        found = descend(bowl, w, criterion, check_every=1)
        x, k = 1.0, 0
        while True:
            k, old, x = k + 1, x, 0.9 * x
            if test(old, x):
                break
        assert (found.status, found.nit) == (Status.CONVERGED, k), criterion
    # It moves by a ninth of the point each step: that is not within a hundredth, ever.
    assert descend(bowl, w, StepTol(1e-2) | MaxIter(50)).status is Status.MAX_ITER
    assert descend(bowl, w, StepTol(0.12) | MaxIter(50), check_every=1).nit == 1


def test_each_leaf_has_its_limit(xp):
    d = {"w": xp.asarray([1.0, 1.0]), "b": xp.asarray([0.5])}
    w = {"w": xp.asarray([1.0, 2.0]), "b": xp.asarray([1.0])}
    bowl = Bowl(d)  # a step halves w, and leaves three quarters of b
    both = descend(bowl, w, GradTol({"w": 1e-2, "b": 1e-1}), lr=0.5, check_every=1)
    size = {name: float(np.abs(xp.to_numpy(g)).max()) for name, g in both.jac.items()}
    assert both.status is Status.CONVERGED
    assert both.nit == max(_steps(1e-2 / 2.0, 0.5), _steps(1e-1 / 0.5, 0.75)) == 8
    assert size["w"] <= 1e-2
    assert size["b"] <= 1e-1
    assert both.n_sync == both.nit + 1  # the leaves travel in the same transfer
    free = descend(bowl, w, GradTol({"w": math.inf, "b": 1e-1}), lr=0.5, check_every=1)
    assert free.nit == _steps(1e-1 / 0.5, 0.75) == 6
    shares = descend(bowl, w, GradTol({"w": 0.0, "b": 0.0}, rtol=0.5), lr=0.5, check_every=1)
    assert shares.nit == _steps(0.5, 0.75) == 3


def _steps(share, factor):
    return math.ceil(math.log(share) / math.log(factor))


def test_leaves_of_a_batch(xp):
    d = [xp.asarray([[1.0], [1.0]]), xp.asarray([[0.5], [0.5]])]
    w = [xp.asarray([[1.0], [100.0]]), xp.asarray([[1.0], [0.001]])]
    found = descend(Bowl(d, (2,)), w, GradTol([0.6, 0.3]), lr=0.5, check_every=1)
    assert found.status.tolist() == [0, 0]
    assert found.nit.tolist() == [_steps(0.6, 0.75), _steps(0.006, 0.5)]


def test_limits_may_be_given_for_the_top_of_the_tree_and_must_fit():
    w = {"a": [np.ones(2), np.ones(1)], "b": np.ones(3)}
    found = descend(Bowl(w), w, GradTol({"a": 1e-3, "b": 1e-1}), check_every=1)
    assert found.nit == math.ceil(math.log(1e-3) / math.log(0.9))
    for wrong in ({"a": 1e-3}, [1e-3, 1e-3], {"a": [1e-3], "b": 1e-3}):
        with pytest.raises(
            ValueError, match="GradTol's atol must be a number or a tree in the structure"
        ):
            descend(Bowl(w), w, GradTol(wrong) & ValueTol(1e-3))


class Lasso(Bowl):
    """The bowl plus |w|, which is left to its prox."""

    nonsmooth = True

    def penalty_value(self, w):
        return np.abs(w[0]).sum() + np.abs(w[1]).sum()

    def prox(self, w, step):
        return [np.sign(x) * np.maximum(np.abs(x) - step, 0.0) for x in w]


def test_leaves_with_a_penalty_are_measured_by_what_its_prox_leaves():
    # At w the gradient is w / 2, and w - prox(w - w / 2) is w / 2 + 1 as long as w / 2 > 1.
    start, half = [np.asarray([0.0]), np.asarray([3.0])], np.asarray([0.5])
    found = descend(Lasso([half, half]), start, GradTol([1e-12, 2.1]), check_every=1)
    assert (found.status, found.nit) == (Status.CONVERGED, _steps(2.2 / 3.0, 0.95))


@pytest.mark.parametrize("criterion", [ValueTol(1e-3), StepTol(1e-3), ValueTol(0.0), StepTol(0.0)])
def test_trials_that_took_no_step_are_no_convergence(xp, criterion):
    bowl = Bowl(xp.asarray([1.0, 1.0]))
    found = run(
        EveryThird(0.1), bowl, xp.asarray([1.0, 2.0]), criterion | MaxIter(4), check_every=1
    )
    assert (found.status, found.nit) == (Status.MAX_ITER, 4)
    np.testing.assert_allclose(xp.to_numpy(found.x), [0.6561, 1.3122], rtol=xp.rtol)


def test_a_step_is_measured_by_the_loop_only_where_one_was_taken():
    found = run(EveryThird(0.1), Bowl(np.ones(1)), np.ones(1), MaxIter(4), check_every=5)
    assert np.isnan(found.history.step[1])  # five trials: the last of them was refused
    assert found.history.step[-1] == pytest.approx(0.1 / 0.9)  # twelve: the last was taken


def test_counts_are_those_of_steps_taken_and_calls_made(xp):
    bowl = Bowl(xp.asarray([1.0]), value_calls=3, grad_calls=2)
    found = run(EveryThird(0.1), bowl, xp.asarray([1.0]), MaxIter(5), check_every=10)
    assert (found.nit, found.nfev, found.njev) == (5, 3 * 16, 2 * 16)
    assert found.message.endswith("(after 5 steps)")
    plain = descend(bowl, xp.asarray([1.0]), Stop(max_iter=5))
    assert (plain.nit, plain.nfev, plain.njev) == (5, 18, 12)


@pytest.mark.parametrize("check_every", [1, 4, 10, 100])
def test_limits_of_steps_and_calls_are_met_however_seldom_the_host_looks(check_every):
    bowl, w = Bowl(np.asarray([1e-3])), np.asarray([1.0])
    found = descend(bowl, w, MaxIter(13) | GradTol(1e-9), check_every=check_every)
    assert (found.status, found.nit) == (Status.MAX_ITER, 13)
    found = descend(bowl, w, MaxEval(13) | GradTol(1e-9), check_every=check_every)
    assert (found.status, found.nfev) == (Status.MAX_ITER, 13)
    triple = replace(bowl, value_calls=3)
    assert descend(triple, w, MaxEval(13), check_every=check_every).nfev == 15
    found = run(EveryThird(0.1), bowl, w, MaxIter(13), check_every=check_every)
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
    bowl = Bowl(np.asarray([1e-3]))
    found = descend(bowl, np.asarray([1.0]), Deadline(5.5) | GradTol(1e-9))
    assert found.status is Status.DEADLINE
    assert "deadline" in found.message
    assert clock.now <= 8.0


def test_a_deadline_is_kept_to_a_step_or_so():
    class Slow(Bowl):
        def value_and_grad(self, w):
            time.sleep(0.02)
            return super().value_and_grad(w)

    began = time.monotonic()
    found = descend(Slow(np.asarray([1e-3])), np.asarray([1.0]), Deadline(0.2), check_every=1000)
    assert found.status is Status.DEADLINE
    assert 0.2 <= time.monotonic() - began < 2.0  # a thousand steps take 20
    assert found.nit < 15


def test_a_criterion_without_a_limit_ends_at_the_default():
    bowl = Bowl(np.asarray([1e-9]))
    found = descend(bowl, np.asarray([1.0]), GradTol(1e-12), check_every=1000)
    assert (found.status, found.nit) == (Status.MAX_ITER, 10_000)
    assert as_stop(GradTol(1e-12) & MaxIter(3)).max_iter == 10_000  # it need not hold, ever
    assert as_stop(GradTol(1e-12) & MaxIter(3) | Deadline(3)).max_iter > 1e9
    assert as_stop(MaxIter(3) & Deadline(3)).max_iter > 1e9


def test_a_limit_keeps_the_default_test_and_a_test_replaces_it():
    bowl, w = Bowl(np.asarray([1.0])), np.asarray([1.0])
    assert descend(bowl, w, MaxIter(500), grad_tol=1e-3).status is Status.CONVERGED
    assert descend(bowl, w, Stop(step_tol=0.0), grad_tol=1e-3).nit == 70
    found = descend(bowl, w, ValueTol(0.0) | MaxIter(500), grad_tol=1e-3)
    assert (found.status, found.nit) == (Status.MAX_ITER, 500)
    both = descend(bowl, w, Stop(when=GradTol(1e-6), grad_tol=1e-3))
    assert both.nit == 70


def test_check_every_is_the_stops_or_else_the_callers():
    bowl, w = Bowl(np.asarray([1.0])), np.asarray([1.0])
    assert descend(bowl, w, Stop(max_iter=12), check_every=4).n_sync == 4
    assert descend(bowl, w, Stop(max_iter=12, check_every=3), check_every=4).n_sync == 5
    assert descend(bowl, w, Stop(max_iter=12)).n_sync == 3


def test_a_line_search_that_fails_says_so(xp):
    bowl = Bowl(xp.asarray([1.0]))
    found = run(EveryThird(0.1, fails_after=2), bowl, xp.asarray([1.0]), GradTol(1e-9))
    assert (found.status, found.success, found.nit) == (Status.LINE_SEARCH, False, 2)
    assert "run agd.check_gradient" in found.message
    # Where the gradient is small enough it has converged, whatever the search says.
    found = run(EveryThird(0.1, fails_after=2), bowl, xp.asarray([1.0]), GradTol(0.82))
    assert found.status is Status.CONVERGED
    both = Bowl(xp.asarray([[1.0], [1.0]]), (2,))
    found = run(EveryThird(0.1, fails_after=2), both, xp.asarray([[1.0], [0.9]]), GradTol(0.75))
    assert found.status.tolist() == [Status.LINE_SEARCH, Status.CONVERGED]


def test_a_search_that_never_ends_is_ended():
    found = run(Never(), Bowl(np.ones(1)), np.ones(1), GradTol(1e-9))
    assert (found.status, found.nit) == (Status.LINE_SEARCH, 0)
    assert 100 < found.nfev <= 1000


class Never(EveryThird):
    """A search that is never content."""

    def __init__(self):
        super().__init__(0.0)

    def step(self, objective, w, state):
        return w, state._replace(evaluations=state.evaluations + 1.0)


@pytest.mark.parametrize("check_every", [1, 10, 80])
def test_a_fall_without_end_is_seen(xp, check_every):
    hill = Bowl(xp.asarray([1.0]), sign=-1.0)
    found = descend(hill, xp.asarray([1.0]), GradTol(1e-9), lr=1e3, check_every=check_every)
    assert found.status is Status.UNBOUNDED  # in eighty steps it overflows
    eps = np.finfo(xp.host_dtype).eps
    assert -math.inf < found.fun < -1.0 / eps**2
    assert np.isfinite(xp.to_numpy(found.x)).all()
    assert "falls without bound" in found.message


def test_history_has_a_row_for_each_look_that_brought_something(xp):
    bowl = Bowl(xp.asarray([1.0]), value_calls=2)
    found = run(EveryThird(0.1), bowl, xp.asarray([1.0]), MaxIter(3), check_every=1)
    history = found.history
    assert all(isinstance(column, np.ndarray) for column in history)
    assert history.nit.tolist() == [0, 1, 2, 3]
    assert history.nfev.tolist() == [2, 8, 14, 20]
    np.testing.assert_allclose(history.value, 0.5 * 0.81 ** np.arange(4), rtol=xp.rtol)
    np.testing.assert_allclose(history.step[1:], 1 / 9, rtol=10 * xp.rtol)
    # The last look is there although it found no step.
    failed = run(EveryThird(0.1, fails_after=2), bowl, xp.asarray([1.0]), check_every=1)
    assert failed.history.nit.tolist() == [0, 1, 2, 2]
    assert failed.history.nfev[-1] == failed.nfev


def test_the_callback_is_called_where_a_step_was_taken_and_what_it_saw_stays():
    seen, histories = [], []

    def callback(intermediate):
        seen.append((intermediate.nit, intermediate.status))
        histories.append(intermediate.history)

    run(EveryThird(0.1), Bowl(np.ones(1)), np.ones(1), MaxIter(40), callback, check_every=1)
    assert [k for k, _ in seen] == list(range(1, 41))
    assert [status for _, status in seen] == [None] * 39 + [Status.MAX_ITER]
    for k, history in enumerate(histories, start=1):
        assert history.nit.tolist() == list(range(k + 1))
        np.testing.assert_allclose(history.value, 0.5 * 0.81 ** np.arange(k + 1))


class Noisy(NamedTuple):
    value: Any
    grad: Any


@dataclass(frozen=True)
class Drawn:
    """Descent by a gradient with drawn noise; its looks see the function itself."""

    name: str = "drawn"
    evaluations: int = 1

    def init(self, objective, w):
        return Noisy(*objective.value_and_grad(w))

    def draw(self, objective, first, n):
        rows = np.asarray([[k] for k in range(first, first + n)], dtype=float)
        like = objective.d
        xp, where = backends.namespace(like), backends.device(like)
        return {"noise": backends.of(like).convert(xp, rows, like.dtype, where)}

    def step(self, objective, w, state, drawn):
        _, grad = objective.value_and_grad(w)
        w = w - 0.5 * (grad + drawn["noise"])
        value, grad = objective.value_and_grad(w)
        return w, Noisy(value + 100.0, grad + 100.0)

    def look(self, objective, w, state):
        return objective.value_and_grad(w)


@pytest.mark.parametrize("check_every", [1, 3, 100])
def test_what_is_drawn_reaches_its_step_and_a_look_sees_the_whole(xp, check_every):
    bowl = Bowl(xp.asarray([1.0]))
    found = run(Drawn(), bowl, xp.asarray([1.0]), MaxIter(7), check_every=check_every)
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

    class Reads(Bowl):
        def value_and_grad(self, w):
            float(w[0])  # under a trace this raises
            return super().value_and_grad(w)

    found = descend(Reads(one, compilable=False), one, GradTol(1e-3))
    assert found.status is Status.CONVERGED
    assert found.method.endswith(", not compiled")
    assert not descend(Bowl(one), one, GradTol(1e-3)).method.endswith("compiled")


@pytest.mark.backend("jax")
def test_leaves_that_are_measured_do_not_compile_the_step_anew():
    import jax

    from agd.run.machine import _advance

    jax.config.update("jax_enable_x64", True)
    compiled = backends.of(jax.numpy.ones(1)).compile(_advance)
    w = [jax.numpy.ones(1), jax.numpy.ones(2)]
    descend(Bowl(w), w, MaxIter(3))
    size = compiled._cache_size()
    descend(Bowl(w), w, GradTol([1e-3, 1e-4]))
    descend(Bowl(w), w, ValueTol(1e-3) & MaxIter(30))
    assert compiled._cache_size() == size


@pytest.mark.backend("dask")
def test_a_lazy_point_does_not_grow_a_graph():
    da = pytest.importorskip("dask.array")
    d = da.from_array(np.asarray([1.0, 2.0, 3.0, 4.0]), chunks=2)
    found = descend(Bowl(d), da.ones(4, chunks=2), MaxIter(40), check_every=40)
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
        GradTol([1e-6, 1e-3]) & (ValueTol(1e-9) | StepTol(1e-9)) | MaxEval(60) | Deadline(60)
    )
    found = descend(Bowl([one, one]), [one, one], criterion, check_every=check_every)
    assert found.n_sync == len(counts) > 1


def test_fit_reads_limits_by_leaf_in_the_users_coordinates():
    rng = np.random.default_rng(0)
    X = 1e3 * rng.normal(size=(50, 3)) + 5e3
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=50)
    tight = Params(1e-2, 1e-6)
    objective = agd.gradient.LinearObjective.of(X, y)
    scaled = agd.gradient.Rescaled(objective, agd.gradient.column_scaling(objective))
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
