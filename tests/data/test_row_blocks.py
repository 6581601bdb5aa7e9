"""Row blocks and the threads that share them: the plain formula's numbers, without a copy of X."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from agd._typing import Params
from agd.data import threads as data_threads
from agd.data.arrays import ArrayData
from agd.data.threads import _blas_libraries, parallel_map, single_threaded_blas, thread_count
from agd.gradient import Blocks, LinearObjective
from agd.loss import Logistic, Squared
from helpers import known_values
from helpers.property_testing import assume, given, st

LOSSES = pytest.mark.parametrize(
    "loss", [c.loss for c in known_values.ONE_OUTPUT.values()], ids=known_values.ONE_OUTPUT
)
PATIENCE = 600.0  # seconds after which a wait for another thread is a failure, never a result
MOST = 300_000  # entries of X: some blocks of it, whatever its columns


def threads(count):
    """Use so many threads, whatever the machine has, and for two blocks."""
    changes = {"thread_count": mock.Mock(return_value=count), "MIN_SHARED_BLOCKS": 2}
    return mock.patch.multiple("agd.data.arrays", **changes)


def _unaligned(X):
    raw = np.empty(X.nbytes + 1, dtype=np.uint8)[1:].view(X.dtype).reshape(X.shape)
    raw[...] = X
    return raw


def _spread(X, rows, columns):
    """Lay X out among the entries of something larger."""
    shape = (*X.shape[:-2], abs(rows) * X.shape[-2], abs(columns) * X.shape[-1])
    view = np.full(shape, np.nan, dtype=X.dtype)[..., ::rows, ::columns]
    view[...] = X
    return view


LAYOUTS = {
    "by rows": lambda X: X,
    "by columns": lambda X: np.swapaxes(np.ascontiguousarray(np.swapaxes(X, -1, -2)), -1, -2),
    "every other row": lambda X: _spread(X, 2, 1),
    "every third column": lambda X: _spread(X, 1, 3),
    "rows reversed": lambda X: _spread(X, -1, 1),
    "columns reversed": lambda X: _spread(X, 1, -1),
    "both, spread": lambda X: _spread(X, -2, -2),
    "unaligned": _unaligned,
}


@st.composite
def data(draw):
    """Draw X, y, weights and params: from one row to many blocks, as one problem or as several."""
    p = draw(st.sampled_from([1, 2, 3, 17, 50, 333, 1000, 5000]))
    n = draw(st.one_of(st.integers(1, 70), st.integers(1, MOST))) // draw(st.sampled_from([1, p]))
    n = max(1, min(n, MOST // p))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["one", "one", "targets", "problems"]))
    batch = () if kind == "one" else (3,)
    n = n if kind == "one" else max(1, n // 3)
    X = rng.normal(size=(*(batch if kind == "problems" else ()), n, p)) + 0.5
    y = rng.choice([0.0, 1.0], size=(*batch, n))
    weight = draw(st.sampled_from([None, (n,), (*batch, n)]))
    weight = None if weight is None else rng.uniform(0.1, 2.0, size=weight)
    coef = rng.normal(size=(*batch, p)) / p
    intercept = rng.normal(size=batch) if draw(st.booleans()) else None
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    layout = draw(st.sampled_from(sorted(LAYOUTS)))

    def cast(x):
        return None if x is None else np.asarray(x, dtype=dtype)

    X = LAYOUTS[layout](cast(X))
    return X, cast(y), cast(weight), Params(cast(coef), cast(intercept))


def objective(problem, loss, rows=None):
    X, y, weight, params = problem
    blocks = Blocks.of(X, y, weight, rows=rows)
    return LinearObjective(blocks, loss, intercept=params.intercept is not None)


def plainly(problem, loss):
    """Return value and gradient by two products with the whole of X, in float64, and their errors' size.

    An error of a rounding in each entry of z, of the slopes and of the sums is of the size of
    eps times the same sums without signs.
    """
    X, y, weight, (coef, b) = (
        tuple(None if a is None else np.asarray(a, dtype=np.float64) for a in x)
        if isinstance(x, Params)
        else (None if x is None else np.array(x, dtype=np.float64))
        for x in problem
    )
    s = np.ones_like(y) if weight is None else np.broadcast_to(weight, y.shape)
    s = s / s.sum(axis=-1, keepdims=True)
    z = np.matmul(X, coef[..., None])[..., 0] + (0.0 if b is None else b[..., None])
    size = np.matmul(abs(X), abs(coef)[..., None])[..., 0] + (
        0.0 if b is None else abs(b)[..., None]
    )
    value, slope = loss.value(z, y), loss.slope(z, y)
    bend = np.maximum(np.exp(z), 1.0)  # no loss here is more curved

    def back(X, r):
        return np.matmul(np.swapaxes(X, -1, -2), (s * r)[..., None])[..., 0], (s * r).sum(axis=-1)

    rounding = abs(slope) + bend * size
    errors = ((s * (abs(value) + rounding)).sum(axis=-1), *back(abs(X), rounding))
    return ((s * value).sum(axis=-1), *back(X, slope)), errors


def assert_close(found, want, errors, dtype, n):
    value, (coef, b) = found
    factor = 4.0 + 0.25 * n**0.5  # BLAS adds up a block's rows one after another
    for got, right, size in zip((value, coef, b), want, errors, strict=True):
        if got is None:
            continue
        assert got.dtype == dtype
        assert got.shape == right.shape
        assert (abs(got - right) <= factor * np.finfo(dtype).eps * size).all()


@LOSSES
@given(problem=data(), count=st.sampled_from([1, 3]))
def test_blocks_are_the_two_products(loss, problem, count):
    with threads(count):
        found = objective(problem, loss).value_and_grad(problem[3])
    assert_close(found, *plainly(problem, loss), problem[0].dtype, problem[0].shape[-2])


@given(problem=data(), rows=st.integers(1, 500), seed=st.integers(0, 1000))
def test_blocks_of_another_size_or_in_another_order_change_rounding_only(problem, rows, seed):
    X, y, weight, params = problem
    assume(X.shape[-2] <= 200 * rows)  # no thousands of tiny blocks
    order = np.random.default_rng(seed).permutation(y.shape[-1])
    moved = None if weight is None else weight[..., order]
    want, errors = plainly(problem, Logistic())
    for other in (problem, (X[..., order, :], y[..., order], moved, params)):
        found = objective(other, Logistic(), rows).value_and_grad(params)
        assert_close(found, want, errors, X.dtype, X.shape[-2])


def bits(tree):
    value, (coef, b) = tree
    return value.tobytes(), coef.tobytes(), b.tobytes()


def large(n, p, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal(size=(n, p), dtype=np.float32).astype(dtype)
    params = Params((rng.normal(size=p) / p**0.5).astype(dtype), np.asarray(0.25, dtype=dtype))
    y = (X @ params.coef + rng.normal(size=n) > 0.0).astype(dtype)
    return X, y, None, params


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_hang_on_neither_threads_nor_timing(dtype, monkeypatch):
    problem = large(120_000, 40, dtype)
    found = objective(problem, Logistic())
    assert len(found.blocks.cut()) > 8
    whole = found.blocks._apply
    lock, others_done = threading.Lock(), threading.Event()
    began: list[int] = []

    def first_is_last(self, f, block):
        """Hold the thread that comes first until another one has ended a block."""
        with lock:
            began.append(threading.get_ident())
        if len(set(began)) < 2 and threads_at_work > 1:
            assert others_done.wait(PATIENCE)
        result = whole(f, block)
        if threading.get_ident() != began[0]:
            others_done.set()
        return result

    seen = set()
    for threads_at_work in (1, 2, 3, 8):
        with threads(threads_at_work):
            seen |= {bits(found.value_and_grad(problem[3])) for _ in range(3)}
            with mock.patch.object(ArrayData, "_apply", first_is_last):
                began.clear()
                others_done.clear()
                seen.add(bits(found.value_and_grad(problem[3])))
    assert len(seen) == 1


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_no_layout_of_x_is_copied(layout):
    problem = large(250_000, 20)
    problem = (LAYOUTS[layout](problem[0]), *problem[1:])  # 40 MB
    found = objective(problem, Logistic())
    with threads(2):
        found.value_and_grad(problem[3])
        tracemalloc.start()
        try:
            found.value_and_grad(problem[3])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 14 * 2**20  # two blocks, and what the loss makes of them


@pytest.mark.parametrize("loss", [Squared(), Logistic()], ids=["Squared", "Logistic"])
def test_float32_loses_no_more_than_it_must_over_ten_million_rows(loss):
    n, rng = 10_000_000, np.random.default_rng(0)
    X = rng.standard_normal(size=(n, 2), dtype=np.float32)
    X += np.float32(1.0)  # so that the sums grow, and rounding with them
    y = (X[:, 0] + rng.standard_normal(size=n, dtype=np.float32) > 0.0).astype(np.float32)
    params = Params(np.asarray([0.75, -0.25], dtype=np.float32), np.asarray(0.5, dtype=np.float32))
    value, grad = objective((X, y, None, params), loss).value_and_grad(params)
    want, total = np.zeros(4), np.zeros(4)
    for i in range(0, n, 500_000):
        A, b = X[i : i + 500_000].astype(np.float64), y[i : i + 500_000]
        z = A @ params.coef.astype(np.float64) + 0.5
        r = loss.slope(z, b)
        want += [loss.value(z, b).sum(), *(A.T @ r), r.sum()]
        total += [loss.value(z, b).sum(), *(abs(A).T @ abs(r)), abs(r).sum()]
    got = np.asarray([value, *grad.coef, grad.intercept])
    assert got.dtype == np.float32
    # A rounding or two of each term, which is random, and as many of the sums.
    assert (abs(got - want / n) <= 2.0 * np.finfo(np.float32).eps * total / n).all()


# -- threads ---------------------------------------------------------------------------------------


def test_results_are_in_the_order_of_the_items_whoever_found_them():
    seen, meeting, last_done = set(), threading.Barrier(3, timeout=PATIENCE), threading.Event()

    def first_ends_last(i):
        seen.add(threading.get_ident())
        if i < 3:
            meeting.wait()  # each thread has one of the first three items
        if i == 0:
            assert last_done.wait(PATIENCE)
        if i == 11:
            last_done.set()
        return i * i

    assert parallel_map(first_ends_last, range(12), workers=3) == [i * i for i in range(12)]
    assert len(seen) == 3
    assert parallel_map(first_ends_last, [], workers=3) == []


def test_the_error_is_the_one_that_a_loop_would_have_raised():
    began, meeting = [], threading.Barrier(4, timeout=PATIENCE)
    later_failed = threading.Event()

    class Remaining(data_threads.deque):
        """The items that are left: cleared by a failure, once it was caught."""

        def clear(self):
            super().clear()
            later_failed.set()

    def fails(i):
        began.append(i)
        meeting.wait()  # the four threads have one of the first four items each
        if i == 3:
            raise ValueError("row 3")
        assert later_failed.wait(PATIENCE)
        if i == 2:
            raise ValueError("row 2")
        return i

    with (
        mock.patch.object(data_threads, "deque", Remaining),
        pytest.raises(ValueError, match="row 2"),
    ):
        parallel_map(fails, range(1000), workers=4)
    assert sorted(began) == [0, 1, 2, 3]  # what had not begun was left
    assert not any(t.name == "agd-rows" for t in threading.enumerate())


def test_an_interrupt_ends_all_threads():
    helper_at_work = threading.Event()

    def interrupts(i):
        if threading.current_thread() is not threading.main_thread():
            helper_at_work.set()
            return i
        assert helper_at_work.wait(PATIENCE)
        raise KeyboardInterrupt  # as Python does in the main thread, where it handles the signal

    with pytest.raises(KeyboardInterrupt):
        parallel_map(interrupts, range(1_000_000), workers=2)
    assert not any(t.name == "agd-rows" for t in threading.enumerate())


def test_an_interrupt_while_a_thread_starts_leaves_none_behind():
    start, helper_at_work = threading.Thread.start, threading.Event()

    def interrupted(self):
        start(self)
        assert helper_at_work.wait(PATIENCE)
        raise KeyboardInterrupt

    with (
        mock.patch("threading.Thread.start", interrupted),
        pytest.raises(KeyboardInterrupt),
    ):
        parallel_map(lambda _: helper_at_work.set(), range(1_000_000), workers=2)
    assert not any(t.name == "agd-rows" for t in threading.enumerate())


def test_an_exit_in_a_helper_comes_through():
    helper_at_work = threading.Event()

    def leaves(i):
        if threading.current_thread() is not threading.main_thread():
            helper_at_work.set()
            raise SystemExit(3)
        assert helper_at_work.wait(PATIENCE)
        return i

    with pytest.raises(SystemExit):
        parallel_map(leaves, range(1000), workers=2)


def test_helpers_see_the_callers_errstate_and_get_no_helpers():
    meeting = threading.Barrier(3, timeout=PATIENCE)

    def ask(i):
        if i < 3:
            meeting.wait()  # each thread has one of the first three items
        return np.geterr()["over"], thread_count()

    with np.errstate(over="raise"):
        assert set(parallel_map(ask, range(20), workers=3)) == {("raise", 1)}
    outer = thread_count()
    assert parallel_map(lambda i: parallel_map(abs, [i, -i], 2), range(4), 2) == [
        [i, i] for i in range(4)
    ]
    assert thread_count() == outer


def _blas_threads():
    # Those that were loaded when they were first asked for: NumPy's.
    return [library.read_count() for library in _blas_libraries()]


def test_threads_that_share_a_sum_have_products_in_one_thread_and_leave_things_as_they_were():
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def ask(i):
        if i < 2:
            meeting.wait()  # each thread has one of the first two items
        return _blas_threads()

    with threadpool_limits(3, user_api="blas"):
        before = _blas_threads()
        if 3 not in before:
            pytest.skip("the threads of this BLAS cannot be set")
        assert {tuple(found) for found in parallel_map(ask, range(20), workers=2)} == {
            (1,) * len(before)
        }
        assert _blas_threads() == before
        with pytest.raises(ZeroDivisionError):
            parallel_map(lambda i: 1 // i, range(20), workers=2)
        assert _blas_threads() == before
        first, second = single_threaded_blas(), single_threaded_blas()
        first.__enter__()
        with second:  # overlapping contexts end in any order
            first.__exit__(None, None, None)
            assert set(_blas_threads()) == {1}
        assert _blas_threads() == before


def test_limits_that_overlap_in_threads_are_lifted_by_the_last_and_leave_others_theirs():
    before = _blas_threads()
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def hold():
        with single_threaded_blas():
            entered.set()
            leave.wait()

    def use_limits_of_its_own():
        with threadpool_limits(3, user_api="blas"):
            seen.append(_blas_threads())

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    with single_threaded_blas():
        leave.set()
        holder.join()  # the first to enter leaves while the other is at work
        assert set(_blas_threads()) <= {1}
    assert _blas_threads() == before
    user = threading.Thread(target=use_limits_of_its_own)
    user.start()
    user.join()
    assert 3 in seen[0] or not before
    assert _blas_threads() == before


@pytest.mark.parametrize(
    ("n", "p", "targets", "held"),
    [
        (250_000, 20, (), True),
        (250_000, 20, (2,), False),
        (2_000, 20, (), False),
        (20_000, 300, (), False),
    ],
    ids=["shared by threads", "many targets", "one block", "many columns"],
)
def test_a_fit_whose_blocks_are_shared_holds_the_threads_of_blas(n, p, targets, held):
    X, y = np.zeros((n, p)), np.zeros((*targets, n))
    with threads(2):
        context = Blocks.of(X, y).single_threaded_blas()
    assert (context is single_threaded_blas()) is held


def test_overflow_in_a_thread_is_an_error_where_the_caller_asks_for_one():
    X, y, _, params = large(200_000, 20)
    huge = Params(np.full_like(params.coef, 1e200), params.intercept)
    with threads(2):
        found = objective((X, y, None, params), Squared())
        with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
            found.value_and_grad(huge)
        with np.errstate(over="ignore"):
            assert np.isinf(found.value_and_grad(huge)[0])


def test_where_no_thread_can_be_started_the_caller_does_the_work():
    with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
        assert parallel_map(abs, [-1, -2, -3], workers=3) == [1, 2, 3]


def test_few_blocks_and_many_problems_start_no_threads():
    X, y, _, params = large(100_000, 20)
    targets = (X, np.stack([y] * 3), None, Params(np.stack([params.coef] * 3), None))
    with (
        mock.patch("agd.data.arrays.thread_count", return_value=4),
        mock.patch("threading.Thread.start", side_effect=AssertionError),
    ):
        objective((X, y, None, params), Squared()).value_and_grad(params)
        with threads(4):
            objective(targets, Squared()).value_and_grad(targets[3])
            with pytest.raises(AssertionError):
                objective((X, y, None, params), Squared()).value_and_grad(params)


@pytest.mark.parametrize(
    ("limits", "most"), [({"OMP_NUM_THREADS": "1"}, 1), ({"MKL_NUM_THREADS": "1,4"}, 1)]
)
def test_limits_of_the_environment_are_limits_here(limits, most, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    assert thread_count() == most


def test_what_is_no_limit_is_passed_over(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    free = thread_count()
    for text in ("", "0", "many", "4096"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert thread_count() == free
    assert 1 <= free <= 8


FORK = """
import os
import numpy as np
from unittest import mock
from agd.gradient import LinearObjective
rng = np.random.default_rng(0)
objective = LinearObjective.of(rng.normal(size=(200_000, 20)), rng.normal(size=200_000))
with mock.patch("agd.data.arrays.thread_count", return_value=3):
    before = objective.value_and_grad(objective.zeros())[0].tobytes()
    child = os.fork()
    after = objective.value_and_grad(objective.zeros())[0].tobytes()
    if not child:
        os._exit(0 if after == before else 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], timeout=PATIENCE, check=False
    )
    assert done.returncode == 0


def test_blocks_say_what_they_are_replaced_by():
    blocks = Blocks.of(np.ones((6, 2)), np.ones(6), rows=4)
    assert [len(b[1]) for b in dataclasses.replace(blocks, rows=5).cut()] == [5, 1]
