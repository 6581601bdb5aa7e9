"""Rules, losses, penalties, line searches and methods inside somebody else's loop.

NumPy runs each case problem by problem; the same numbers must come out of ``jax.jit`` of ``jax.vmap`` of
``jax.lax.while_loop``, of ``torch.func.vmap``, and of array-api-strict at its strictest, and nothing on
the way may ask for a value on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest

from agd import loss, update
from agd._tree import sign
from helpers import known_values
from helpers.array_libraries import VARIANTS
from helpers.traced_cases import (
    ADAPTED,
    CASES,
    OTHERS,
    RULES,
    SCHEDULES,
    SEARCHES,
    TRACED_PENALTIES,
    numpy_result,
    penalty_points,
    problems,
    run_single_problem,
)

READS = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__dlpack__")
each_case = pytest.mark.parametrize("name", CASES)


def hold(name: str, found: Any) -> None:
    """Compare all that came out, every count and flag of the state included."""
    leaves = [np.asarray(leaf) for leaf in optree.tree_leaves(found)]
    assert len(leaves) == len(numpy_result(name))
    for ours, theirs in zip(leaves, numpy_result(name), strict=True):
        # An entry of a matrix that cancels is rounded by the size of the others.
        finite = np.abs(theirs[np.isfinite(theirs)], dtype=float)
        size = max(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * size)


def test_nothing_public_is_left_out():
    assert set(loss.__all__) == {
        *known_values.LOSSES,
        *known_values.PENALTIES,
        "LOSSES",
        "BaseLoss",
        "BasePenalty",
        "PenaltySum",
        "get",
        "sum_and_slope",
        "value_and_slope",
    }
    doors = {"METHODS", "MINIMIZERS", "RULES", "SOLVERS", "Rule", "Solver", "apply_updates"}
    doors |= {"get_solver", "resolve", "solver"}
    doors |= {"BestEpoch", "Trajectory"}  # a whole run at once: no step to embed
    rest = set(update.__all__) - doors - {*RULES, *known_values.TRANSFORMS, *SCHEDULES}
    searches = {name for name in rest if hasattr(getattr(update, name), "start")}
    assert searches == {name.partition(" ")[0] for name in SEARCHES}
    known = [*(make() for make in update.MINIMIZERS.values()), *OTHERS.values(), *ADAPTED.values()]
    for name in rest - searches:
        made = getattr(update, name)
        if isinstance(made, type):
            assert made in {type(method) for method in known}, name
        else:
            title = made().name.removesuffix(", centred and scaled")
            assert title in {method.name for method in known}, name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.solved])
def test_numpy_solves_it_problem_by_problem(name):
    case = CASES[name]
    ends = []
    for arrays in problems(case):
        carry = case.start(*map(np.asarray, arrays))
        for _ in range(3000):
            if case.over(carry):
                break
            carry = case.advance(carry)
        ends.append(carry)
    case.solved(optree.tree_map(lambda *leaves: np.stack(leaves), *ends))


def test_the_sign_is_the_standards(xp):
    x = xp.asarray([-np.inf, -2.0, -0.0, 0.0, 1e-30, np.inf, np.nan])
    want = [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, np.nan]
    for found in (sign(x), xp.ns.sign(x)):
        np.testing.assert_array_equal(xp.to_numpy(found), want)


@pytest.mark.parametrize("name", ["sign_descent", "lion", "rprop", "yogi"])
def test_a_gradient_that_is_no_number_is_not_taken_for_zero(name, xp):
    rule, g = RULES[name], xp.asarray([np.nan, 1.0])
    w = xp.asarray([1.0, 1.0])
    found = xp.to_numpy(rule.update(g, rule.init(w), w)[0])
    assert np.isnan(found).tolist() == [True, False]


# -- JAX -------------------------------------------------------------------------------------------


@each_case
@pytest.mark.backend("jax")
def test_inside_jit_of_vmap_of_while_loop(name):
    if name.startswith("method Adapted") and name.split()[-1] not in {"momentum", "adam", "rprop"}:
        pytest.skip("each method is compiled: these stand for all rules, which are compiled alone")
    jax = pytest.importorskip("jax")
    VARIANTS["jax"].make()
    case = CASES[name]

    def whole(limit, *arrays):
        carry = case.start(*arrays)
        if case.advance is None:
            return carry

        def on(at):
            k, carry = at
            return (k < limit) if case.over is None else (k < limit) & ~case.over(carry)

        return jax.lax.while_loop(on, lambda at: (at[0] + 1, case.advance(at[1])), (0, carry))[1]

    compiled = jax.jit(jax.vmap(whole, in_axes=(None, *(0 for _ in case.inputs))))
    inputs = [jax.numpy.asarray(x) for x in case.inputs]
    hold(name, compiled(case.steps, *inputs))
    if case.solved is not None:
        case.solved(jax.tree.map(np.asarray, compiled(3000, *inputs)))


# -- torch -----------------------------------------------------------------------------------------


@each_case
@pytest.mark.backend("torch")
def test_inside_torch_vmap(name):
    torch = pytest.importorskip("torch")
    case = CASES[name]
    inputs = [torch.asarray(x) for x in case.inputs]
    spec = None

    def flat(*arrays):
        nonlocal spec
        leaves, spec = optree.tree_flatten(run_single_problem(case, *arrays))
        return tuple(leaves)

    hold(name, torch.func.vmap(flat)(*inputs))


@each_case
@pytest.mark.backend("torch")
def test_torch_tensors_without_values_will_do(name):
    # On the meta device there are shapes and dtypes run_single_problem: whatever needs a value raises.
    torch = pytest.importorskip("torch")
    case = CASES[name]
    first = [torch.asarray(x[0], device="meta") for x in map(np.asarray, case.inputs)]
    found = optree.tree_leaves(run_single_problem(case, *first))
    assert {leaf.device.type for leaf in found} == {"meta"}
    assert [tuple(leaf.shape) for leaf in found] == [x.shape[1:] for x in numpy_result(name)]


@each_case
@pytest.mark.backend("torch")
def test_single_precision_stays_and_so_does_every_shape(name):
    # A loop that compiles its body asks that what goes in comes out: shapes, dtypes, structure.
    torch = pytest.importorskip("torch")
    case = CASES[name]
    first = [torch.asarray(x[0], device="meta") for x in map(np.asarray, case.inputs)]
    first = [x.to(torch.float32) if x.dtype == torch.float64 else x for x in first]
    carry = case.start(*first)
    before, structure = optree.tree_flatten(carry)
    assert torch.float64 not in {leaf.dtype for leaf in before}
    if case.advance is not None:
        after, same = optree.tree_flatten(case.advance(carry))
        assert same == structure
        assert [(x.dtype, x.shape) for x in after] == [(x.dtype, x.shape) for x in before]


@pytest.mark.parametrize("name", known_values.ONE_OUTPUT)
@pytest.mark.backend("torch")
def test_torch_grad_of_a_loss_is_its_slope(name):
    torch = pytest.importorskip("torch")
    case = known_values.ONE_OUTPUT[name]
    z = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
    y = torch.asarray(np.resize(np.asarray(case.targets), 9))
    found = torch.func.vmap(torch.func.grad(case.loss.value))(z, y)
    np.testing.assert_allclose(found.numpy(), case.loss.slope(z, y).numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", TRACED_PENALTIES)
@pytest.mark.backend("torch")
def test_torch_grad_of_a_penaltys_envelope_is_the_move_of_its_prox(name):
    """Moreau's envelope min_u h(u) + |u - w|² / (2 a) has the gradient (w - prox(w, a)) / a."""
    torch = pytest.importorskip("torch")
    penalty = known_values.PENALTIES[name].penalty
    w, step = (torch.asarray(x) for x in penalty_points(known_values.PENALTIES[name]))
    if name == "NuclearNorm":  # where singular values are equal, their vectors have no derivative
        w = w + torch.asarray([[0.1, 0.0], [0.2, 0.3]], dtype=w.dtype)

    def envelope(w, step):
        near = penalty.prox(w, step)
        return penalty.value(near) + torch.sum((near - w) ** 2) / (2.0 * step)

    found = torch.func.vmap(torch.func.grad(envelope))(w, step)
    near = torch.func.vmap(penalty.prox)(w, step)
    by_hand = (w - near) / step.reshape((-1, *(1,) * (w.ndim - 1)))
    np.testing.assert_allclose(found.numpy(), by_hand.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.backend("torch")
def test_torch_grad_of_an_update_by_its_rate(name):
    # A first update is proportional to the rate, so its derivative is the update over the rate.
    torch = pytest.importorskip("torch")
    w = torch.asarray([1.0, -0.5, 2.0], dtype=torch.float64)
    kwargs = {**known_values.RULES[name].kwargs, "learning_rate": 0.1}

    def total(rate):
        rule = getattr(update, name)(**{**kwargs, "learning_rate": rate})
        return torch.sum(rule.update(2.0 * w, rule.init(w), w)[0])

    rate = torch.asarray(0.1, dtype=torch.float64)
    assert float(torch.func.grad(total)(rate)) == pytest.approx(10.0 * float(total(rate)), rel=1e-9)


# -- host reads ------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Note whatever brings a value of this type of array to the host."""
    seen = []

    def watch(cls, names):
        for name in names:
            if not hasattr(cls, name):
                continue
            original = getattr(cls, name)

            def noted(self, *args, _original=original, _name=name, **kwargs):
                seen.append(_name)
                return _original(self, *args, **kwargs)

            monkeypatch.setattr(cls, name, noted)
        return seen

    return watch


@each_case
@pytest.mark.backend("strict")
def test_strictest_arrays_are_never_read(name, reads):
    strict = pytest.importorskip("array_api_strict")
    case, xp = CASES[name], VARIANTS["strict:device1"].make()
    # Linear algebra is an extension, which a library may be without.
    extensions = ("linalg",) if name == "penalty NuclearNorm" else ()
    each = [[xp.asarray(x) for x in map(np.asarray, arrays)] for arrays in problems(case)]
    seen = reads(type(each[0][0]), (*READS, "to_device"))
    with strict.ArrayAPIStrictFlags(
        boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=extensions
    ):
        found = [optree.tree_leaves(run_single_problem(case, *arrays)) for arrays in each]
        assert seen == []
        hold(name, [np.stack([xp.to_numpy(x) for x in leaf]) for leaf in zip(*found, strict=True)])


@each_case
@pytest.mark.backend("torch")
def test_torch_tensors_are_never_read(name, reads):
    torch = pytest.importorskip("torch")
    case = CASES[name]
    first = [torch.asarray(x[0]) for x in map(np.asarray, case.inputs)]
    seen = reads(torch.Tensor, (*READS, "cpu", "numpy", "item", "tolist", "is_nonzero"))
    run_single_problem(case, *first)
    assert seen == []
