"""Cases that run inside ``jit``, ``vmap`` and ``while_loop``: each rule, loss, penalty, search and solver.

Each case is written for one problem, in array operations alone: how it starts and, where it goes on, how
it advances. The tables of ``known_values.py`` and of the library make the rows, so that what is new is among them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends, loss, update
from agd._tree import tree_where
from agd.gradient import Bounds, FunctionObjective, LinearObjective
from agd.gradient.linear import linear_predictor
from helpers import known_values

RNG = np.random.default_rng


class Case(NamedTuple):
    """How it starts on one problem's arrays, how it goes on, when it is over, what must come out."""

    inputs: tuple[Any, ...]  # (problems, ...)
    start: Callable[..., Any]
    advance: Callable[[Any], Any] | None = None
    over: Callable[[Any], Any] | None = None
    solved: Callable[[Any], None] | None = None  # asserts on the carry on the host, at the end
    steps: int = 4


def single_call(inputs: tuple[Any, ...], call: Callable[..., Any]) -> Case:
    return Case(inputs, call)


# -- rules, transforms, schedules ------------------------------------------------------------------

A, C = RNG(0).normal(size=(3, 2)), RNG(1).normal(size=(3, 1))


def rule_case(rule: Any) -> Case:
    """Descend on half the squared norm of a tree by the updates of a rule."""

    def start(a, b):
        params = {"a": a, "b": b}
        return params, rule.init(params)

    def advance(carry):
        params, state = carry
        updates, state = rule.update(params, state, params)
        return update.apply_updates(params, updates), state

    return Case((A, C), start, advance)


RULES = {name: getattr(update, name)(**case.kwargs) for name, case in known_values.RULES.items()}
SCHEDULES = {name: case.schedule for name, case in known_values.SCHEDULES.items()}


def schedule_case(schedule: Any) -> Case:
    return single_call((np.asarray([0.0, 3.0, 17.0]),), schedule)


# -- losses ----------------------------------------------------------------------------------------


def loss_case(case: Any) -> Case:
    rng = RNG(2)
    outputs = () if case.loss.outputs is None else (case.loss.outputs,)
    X, w, b = (rng.normal(size=size) for size in ((3, 6, 2), (3, *outputs, 2), (3, *outputs)))
    y = rng.choice(np.asarray(case.targets), size=(3, 6))

    def call(X, y, weight, w, b):
        objective = LinearObjective.of(
            X, y, loss=case.loss, penalty=loss.L2(0.1), sample_weight=weight
        )
        params = objective.zeros()._replace(coef=w, intercept=b)
        value, grad = objective.value_and_grad(params)
        z, found = linear_predictor(params, X, outputs=bool(outputs)), case.loss
        return (
            (found.value(z, y), found.slope(z, y), found.value_and_slope(z, y)),
            (found.predict(z), found.link(found.predict(z)), found.outside(y)),
            (value, tuple(grad), objective.grad_norm(grad, params)),
        )

    return single_call((X, y, rng.uniform(0.5, 2.0, size=(3, 6)), w, b), call)


# -- penalties -------------------------------------------------------------------------------------


def penalty_points(case: Any) -> Any:
    """Return points inside and outside a set, on a kink and off it, and a step for each."""
    w = np.asarray(case.w)
    return np.stack([w, -0.3 * w, np.zeros_like(w)]), np.asarray([2.0, 0.5, 1.0])


def penalty_case(case: Any) -> Case:
    penalty = case.penalty

    def call(w, step):
        found = [penalty.value(w), penalty.prox(w, step), penalty.prox(w, 0.25)]
        if penalty.smooth:
            found.append(penalty.grad(w))
        if hasattr(penalty, "project"):
            found += [penalty.project(w), penalty.inside(w)]
        return found

    return single_call(penalty_points(case), call)


# -- line searches ---------------------------------------------------------------------------------

SEARCHES = {
    "Backtracking": update.Backtracking(),
    "Backtracking non-monotone": update.Backtracking(memory=3),
    "StrongWolfe": update.StrongWolfe(),
    "StrongWolfe exact": update.StrongWolfe(c2=0.01),
}


def search_case(search: Any) -> Case:
    def value(t, depth):
        return (t - depth) ** 2 + 0.5 * (t - depth) ** 4

    def slope(t, depth):
        return 2.0 * (t - depth) + 2.0 * (t - depth) ** 3

    def start(depth, first):
        zero = 0.0 * depth
        return depth, search.start(value(zero, depth), slope(zero, depth), first)

    def advance(carry):
        depth, state = carry
        return depth, search.step(state, value(state.step, depth), slope(state.step, depth))

    def solved(carry):
        depth, state = carry
        t = state.taken
        assert state.accepted.all()
        assert not state.exhausted.any()
        fall = search.c1 * t * slope(0.0, depth)
        assert (value(t, depth) <= value(0.0, depth) + fall).all()
        if hasattr(search, "c2"):
            assert (np.abs(slope(t, depth)) <= search.c2 * np.abs(slope(0.0, depth))).all()

    def over(carry):
        return carry[1].accepted | carry[1].exhausted

    first = np.asarray([1.0, 0.01, 40.0])
    return Case((np.asarray([1.0, 3.0, 0.2]), first), start, advance, over, solved, steps=3)


# -- methods ---------------------------------------------------------------------------------------

TOL = 1e-5
CENTRE = np.asarray([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.1]])
START = np.asarray([[3.0, 1.0], [-1.0, 1.5], [2.0, 2.0]])


def bowl(x, centre, *, bounds=None):
    """A function that is no quadratic, with its minimum at the centre."""
    d = x - centre
    xp = backends.namespace(d)
    return xp.sum(d * d + 0.25 * d**4, axis=-1), 2.0 * d + d**3


def ridge(x, *, bounds=None):
    """A saddle at 0, and minima at (0, 1) and (0, -1)."""
    xp = backends.namespace(x)
    a, b = x[..., 0], x[..., 1]
    value = 0.5 * a * a - 0.5 * b * b + 0.25 * b**4
    return value, xp.stack([a, b**3 - b], axis=-1)


def smooth_objective(centre):
    return FunctionObjective(bowl, args=(centre,))


def bounded_objective(centre):
    xp = backends.namespace(centre)
    return FunctionObjective(
        bowl, args=(centre,), bounds=Bounds(0.0 * centre, xp.inf + 0.0 * centre)
    )


def l1_objective(centre):
    return FunctionObjective(bowl, args=(centre,), penalty=loss.L1(0.5))


def l1_minimum(centre):
    """The minimum of bowl + |x| / 2 of each coordinate, by bisection on the slope."""
    low, high = np.zeros_like(centre), np.abs(centre)
    for _ in range(80):
        x = 0.5 * (low + high)
        d = x - np.abs(centre)
        up = 2.0 * d + d**3 + 0.5 > 0.0
        low, high = np.where(up, low, x), np.where(up, x, high)
    return np.sign(centre) * high


class Carry(NamedTuple):
    """The parameters and the state of a solver, the step number, the data and the random draws."""

    params: Any
    state: Any
    k: Any
    data: Any
    drawn: Any


def solver_case(
    method: Any,
    inputs: tuple[Any, ...],
    make: Callable[..., Any],
    answer: Callable[[Any], None],
    drawn: Any = None,
    tol: float = TOL,
) -> Case:
    """Run a solver from the first input on the objective that `make` builds from the others."""

    def start(x0, *arrays):
        data, mine = (arrays, None) if drawn is None else (arrays[:-1], arrays[-1])
        xp = backends.namespace(x0)
        objective = make(*data)
        params = objective.zeros()._replace(coef=x0) if hasattr(objective, "zeros") else x0
        k = xp.zeros((), dtype=xp.int32, device=backends.device(x0))
        return Carry(params, method.init(objective, params), k, data, mine)

    def entry(carry, period=1):
        xp = backends.namespace(carry.k)
        at = xp.reshape(carry.k // period % carry.drawn.shape[0], (1,))
        return xp.take(carry.drawn, at, axis=0)[0, ...]

    def advance(carry):
        objective = make(*carry.data)
        more = (entry(carry),) if method.stochastic else ()
        moved = method.step(objective, carry.params, carry.state, *more)
        carry = carry._replace(k=carry.k + 1)
        if method.refreshes:
            period = method.period(objective)
            more = (entry(carry, period),) if isinstance(method, update.Perturbed) else ()
            ended = method.refresh(objective, *moved, *more)
            moved = tree_where(carry.k % period == 0, ended, moved)
        return carry._replace(params=moved[0], state=moved[1])

    def over(carry):
        objective = make(*carry.data)
        value_and_grad = getattr(method, "look", lambda *_: (carry.state.value, carry.state.grad))
        grad = value_and_grad(objective, carry.params, carry.state)[1]
        small = objective.grad_norm(grad, carry.params) <= tol
        may_be_saddle = carry.state.progress.may_be_saddle
        return small if may_be_saddle is None else small & ~may_be_saddle

    def solved(carry):
        answer(getattr(carry.params, "coef", carry.params))

    inputs = inputs if drawn is None else (*inputs, drawn)
    return Case(inputs, start, advance, over, solved, steps=6)


def assert_solution(expected: Any, atol: float = 1e-4) -> Callable[[Any], None]:
    return lambda found: np.testing.assert_allclose(found, expected, atol=atol)


def least_squares() -> tuple[Any, Any]:
    """Return data that a w fits exactly, and that w."""
    X, w = RNG(3).normal(size=(3, 12, 2)), RNG(4).normal(size=(3, 2))
    X = 12.0**0.5 * np.linalg.qr(X)[0] + 0.1 * X  # well conditioned, so that few steps are needed
    return (X, np.einsum("bij,bj->bi", X, w)), w


def minibatch_case(method: Any) -> Case:
    """Solve by mini-batches of rows whose minima agree."""
    (X, y), w = least_squares()

    def make(X, y):
        return LinearObjective.of(X, y, intercept=False)

    drawn = np.stack([method.draw(make(X[0], y[0]), 0, 30)] * 3)
    return solver_case(method, (np.zeros((3, 2)), X, y), make, assert_solution(w), drawn)


def saddle_case(method: Any) -> Case:
    x0 = np.asarray([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
    objective = FunctionObjective(ridge)
    kicks = np.stack([method.redraw(objective, x0[0], k) for k in range(20)])

    def answer(found):
        np.testing.assert_allclose(np.abs(found), np.tile([0.0, 1.0], (3, 1)), atol=1e-4)

    return solver_case(method, (x0,), lambda: objective, answer, np.stack([kicks] * 3))


def suitable_case(method: Any) -> Case:
    """Return a problem that a solver is made for, by the traits that it declares."""
    if method.stochastic:
        return minibatch_case(method)
    if method.refreshes:
        return saddle_case(method)
    if method.handles_prox:
        return solver_case(
            method, (START, CENTRE), l1_objective, assert_solution(l1_minimum(CENTRE))
        )
    if method.handles_bounds:
        x0 = np.abs(START)
        return solver_case(
            method, (x0, CENTRE), bounded_objective, assert_solution(np.maximum(CENTRE, 0.0))
        )
    return solver_case(method, (START, CENTRE), smooth_objective, assert_solution(CENTRE))


def measured_rate_case() -> Case:
    """Descend at the rate 1/L, which is measured while the function is traced."""
    data, w = least_squares()
    inputs = (np.zeros((3, 2)), *data)
    method = update.Descent(update.gradient_descent("auto"))
    return solver_case(
        method, inputs, lambda X, y: LinearObjective.of(X, y, intercept=False), assert_solution(w)
    )


# The loop over the memory is unrolled: a short memory compiles in a quarter of the time.
# By default sgd lowers its rate where epochs gain little, which these rows, whose minima agree, do not ask for.
SETTINGS = {
    "lbfgs": update.lbfgs(3),
    "projected_lbfgs": update.projected_lbfgs(3),
    "sgd": update.sgd(tol=0.0),
}
DEFAULT_SOLVERS = {name: SETTINGS.get(name) or make() for name, make in update.MINIMIZERS.items()}
OTHERS = {
    "Descent": update.Descent(update.momentum(0.02)),
    "Stochastic": update.Stochastic(update.momentum(0.02), batch_size=4),
}


def adaptive_rule(name: str) -> Any:
    rule = update.METHODS[name]()
    auto = dict(rule.hyperparameters)["learning_rate"] == "auto"
    return update.Adapted(rule.with_learning_rate(0.1) if auto else rule)


ADAPTED = {name: adaptive_rule(name) for name in known_values.RULES}


# The proxes of some penalties go through the coefficients on the host, which no trace can follow.
TRACED_PENALTIES = {
    name: case for name, case in known_values.PENALTIES.items() if not case.penalty.prox_on_host
}
CASES = {
    **{f"rule {name}": rule_case(rule) for name, rule in RULES.items()},
    **{f"transform {name}": rule_case(row[0]) for name, row in known_values.TRANSFORMS.items()},
    **{f"schedule {name}": schedule_case(schedule) for name, schedule in SCHEDULES.items()},
    **{f"loss {name}": loss_case(case) for name, case in known_values.LOSSES.items()},
    **{f"penalty {name}": penalty_case(case) for name, case in TRACED_PENALTIES.items()},
    **{f"search {name}": search_case(search) for name, search in SEARCHES.items()},
    **{
        f"method {name}": suitable_case(method)
        for name, method in (DEFAULT_SOLVERS | OTHERS).items()
    },
    "method Descent auto": measured_rate_case(),
    **{
        f"method Adapted {name}": solver_case(
            m, (START, CENTRE), smooth_objective, assert_solution(CENTRE, 1e-2), tol=1e-3
        )
        for name, m in ADAPTED.items()
    },
}


# -- running them ----------------------------------------------------------------------------------


def advance_unless_over(case: Case, carry: Any) -> Any:
    """Advance the problems that are not over, as a while_loop under vmap does."""
    moved = case.advance(carry)
    return moved if case.over is None else tree_where(case.over(carry), carry, moved)


def run_single_problem(case: Case, *arrays: Any) -> Any:
    """Run one problem for a few steps."""
    carry = case.start(*arrays)
    for _ in range(case.steps if case.advance else 0):
        carry = advance_unless_over(case, carry)
    return carry


def problems(case: Case) -> list[tuple[Any, ...]]:
    return list(zip(*case.inputs, strict=True))


@functools.cache
def numpy_result(name: str) -> list[Any]:
    """Return the result of NumPy, problem by problem."""
    case = CASES[name]
    each = [
        optree.tree_leaves(run_single_problem(case, *map(np.asarray, arrays)))
        for arrays in problems(case)
    ]
    return [np.stack(leaves) for leaves in zip(*each, strict=True)]
