"""Criteria: how they compose, what they refuse, and what each of them tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agd
from agd import Deadline, GradTol, MaxEval, MaxIter, Status, StepTol, Stop, ValueTol
from agd.run import as_stop
from agd.run.observation import Observation
from agd.run.stopping import RUNNING, RunProgress
from helpers.toy_solvers import QuadraticObjective, run_descent, steps_until


def row(**known):
    zero = np.asarray(0.0)
    columns = {name: zero for name in Observation._fields if name not in ("length", "leaves")}
    known = {name: np.asarray(value, dtype=float) for name, value in known.items()}
    return Observation(**{**columns, "finite": np.asarray(1.0), **known})


def seen(now, **known):
    defaults = {
        "previous": row(),
        "first": row(),
        "advanced": np.asarray(True),
        "calls": np.asarray(0),
    }
    return RunProgress(now, **{**defaults, "seconds": 0.0, **known})


# A criterion for each of these; the row below makes those hold whose name is listed.
OPERANDS = {"g": GradTol(1e-8), "v": ValueTol(1e-12), "i": MaxIter(500), "d": Deadline(10)}


def judged(criterion, holding):
    now = row(
        grad_norm=0.0 if "g" in holding else 1.0,
        value=0.0 if "v" in holding else 1.0,
        iterations=500 if "i" in holding else 1,
    )
    return int(criterion.evaluate(seen(now, seconds=11.0 if "d" in holding else 0.0)))


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
    assert criterion.evaluate(seen(now, first=first)).tolist() == [0, 1, 0, RUNNING]


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


def test_gradient_relative_to_the_first():
    found = run_descent(
        QuadraticObjective(np.asarray([1.0])),
        np.asarray([1e6]),
        GradTol(0.0, rtol=1e-3),
        check_every=1,
    )
    assert found.status is Status.CONVERGED
    assert found.nit == math.ceil(math.log(1e-3) / math.log(0.9))
    assert found.certificate.tolerance == pytest.approx(1e3)
    # The larger of the two limits counts.
    loose = run_descent(
        QuadraticObjective(np.asarray([1.0])),
        np.asarray([1e6]),
        GradTol(5e5, rtol=1e-3),
        check_every=1,
    )
    assert loose.nit == math.ceil(math.log(0.5) / math.log(0.9))


def test_value_and_step_relative_and_absolute():
    bowl, w = QuadraticObjective(np.asarray([1.0])), np.asarray([1.0])
    for criterion, test in (
        (StepTol(0.0, atol=1e-3), lambda old, new: abs(new - old) <= 1e-3),
        (ValueTol(0.0, atol=1e-3), lambda old, new: abs(new**2 - old**2) / 2 <= 1e-3),
        (ValueTol(0.3), lambda old, new: abs(new**2 - old**2) <= 0.3 * new**2),
    ):
        found = run_descent(bowl, w, criterion, check_every=1)
        x, k = 1.0, 0
        while True:
            k, old, x = k + 1, x, 0.9 * x
            if test(old, x):
                break
        assert (found.status, found.nit) == (Status.CONVERGED, k), criterion
    # It moves by a ninth of the point each step: that is not within a hundredth, ever.
    assert run_descent(bowl, w, StepTol(1e-2) | MaxIter(50)).status is Status.MAX_ITER
    assert run_descent(bowl, w, StepTol(0.12) | MaxIter(50), check_every=1).nit == 1


def test_each_leaf_has_its_limit(xp):
    d = {"w": xp.asarray([1.0, 1.0]), "b": xp.asarray([0.5])}
    w = {"w": xp.asarray([1.0, 2.0]), "b": xp.asarray([1.0])}
    bowl = QuadraticObjective(d)  # a step halves w, and leaves three quarters of b
    both = run_descent(bowl, w, GradTol({"w": 1e-2, "b": 1e-1}), lr=0.5, check_every=1)
    size = {name: float(np.abs(xp.to_numpy(g)).max()) for name, g in both.jac.items()}
    assert both.status is Status.CONVERGED
    assert both.nit == max(steps_until(1e-2 / 2.0, 0.5), steps_until(1e-1 / 0.5, 0.75)) == 8
    assert size["w"] <= 1e-2
    assert size["b"] <= 1e-1
    assert both.n_sync == both.nit + 1  # the leaves travel in the same transfer
    free = run_descent(bowl, w, GradTol({"w": math.inf, "b": 1e-1}), lr=0.5, check_every=1)
    assert free.nit == steps_until(1e-1 / 0.5, 0.75) == 6
    shares = run_descent(bowl, w, GradTol({"w": 0.0, "b": 0.0}, rtol=0.5), lr=0.5, check_every=1)
    assert shares.nit == steps_until(0.5, 0.75) == 3


def test_leaves_of_a_batch(xp):
    d = [xp.asarray([[1.0], [1.0]]), xp.asarray([[0.5], [0.5]])]
    w = [xp.asarray([[1.0], [100.0]]), xp.asarray([[1.0], [0.001]])]
    found = run_descent(QuadraticObjective(d, (2,)), w, GradTol([0.6, 0.3]), lr=0.5, check_every=1)
    assert found.status.tolist() == [0, 0]
    assert found.nit.tolist() == [steps_until(0.6, 0.75), steps_until(0.006, 0.5)]


def test_limits_may_be_given_for_the_top_of_the_tree_and_must_fit():
    w = {"a": [np.ones(2), np.ones(1)], "b": np.ones(3)}
    found = run_descent(QuadraticObjective(w), w, GradTol({"a": 1e-3, "b": 1e-1}), check_every=1)
    assert found.nit == math.ceil(math.log(1e-3) / math.log(0.9))
    for wrong in ({"a": 1e-3}, [1e-3, 1e-3], {"a": [1e-3], "b": 1e-3}):
        with pytest.raises(
            ValueError, match="GradTol's atol must be a number or a tree in the structure"
        ):
            run_descent(QuadraticObjective(w), w, GradTol(wrong) & ValueTol(1e-3))


class Lasso(QuadraticObjective):
    """The bowl plus |w|, which is left to its prox."""

    nonsmooth = True

    def penalty_value(self, w):
        return np.abs(w[0]).sum() + np.abs(w[1]).sum()

    def prox(self, w, step):
        return [np.sign(x) * np.maximum(np.abs(x) - step, 0.0) for x in w]


def test_leaves_with_a_penalty_are_measured_by_what_its_prox_leaves():
    # At w the gradient is w / 2, and w - prox(w - w / 2) is w / 2 + 1 as long as w / 2 > 1.
    start, half = [np.asarray([0.0]), np.asarray([3.0])], np.asarray([0.5])
    found = run_descent(Lasso([half, half]), start, GradTol([1e-12, 2.1]), check_every=1)
    assert (found.status, found.nit) == (Status.CONVERGED, steps_until(2.2 / 3.0, 0.95))
