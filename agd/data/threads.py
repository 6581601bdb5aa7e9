"""Threads that share a sum over blocks: what each of them does, and in what order, is fixed beforehand.

They live as long as one sum does: nothing is left behind that a fork would copy half of, or that an
interpreter would have to wait for.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

__all__ = [
    "allowed",
    "alone",
    "in_order",
    "over_problems",
    "single_threaded_products",
]

T = TypeVar("T")
R = TypeVar("R")

# NumPy takes the interpreter's lock back after each of a block's dozen operations: more would queue.
MOST = 8

# Where a user bounds the threads of the libraries that NumPy calls, ours are bounded too.
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Whether this is a helper already: a sum within a sum gets no threads of its own.
_helping: contextvars.ContextVar[bool] = contextvars.ContextVar("helping", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let sums in this context have no threads of their own: those of others are at work already."""
    token = _helping.set(True)
    try:
        with single_threaded_products():
            yield
    finally:
        _helping.reset(token)


def allowed() -> int:
    """Return how many threads may work at once: the processors of this process, or a lower limit.

    ``OMP_NUM_THREADS``, ``OPENBLAS_NUM_THREADS`` and ``MKL_NUM_THREADS`` are limits; they are read
    each time, so that they can be set at any time. Among threads that share a sum it is 1.
    """
    if _helping.get():
        return 1
    count = getattr(os, "process_cpu_count", _processors)() or 1
    for name in LIMITS:
        text = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP gives one for each level
        if text.isdecimal() and int(text) > 0:
            count = min(count, int(text))
    return min(count, MOST)


class _Limit:
    """How many sums hold the threads of BLAS to one, and what gives these back after the last of them."""

    def __init__(self) -> None:
        self.lock, self.holders = threading.Lock(), 0
        self.held: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if self.holders == 0:
                self.held = _libraries().limit(limits=1, user_api="blas")
            self.holders += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                self.held.restore_original_limits()


_limit = _Limit()


def single_threaded_products() -> contextlib.AbstractContextManager[None]:
    """Return a context in which products use the thread that asks for them, and no other.

    Threads that share a sum are as many as there are processors: threads of BLAS beside them would wait
    for one another, on a busy machine for a hundred times what a product takes.

    The limit is the process's, as BLAS has it. Contexts may overlap in several threads: the last to end
    gives back what the first found.
    """
    return _limit


@functools.cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _processors() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def in_order(f: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Return ``[f(item) for item in items]``, computed by several threads, the calling one among them.

    Parameters
    ----------
    f : callable
        A pure function that spends most of its time without the interpreter's lock.
    items : sequence
        What it is called with; whoever is free takes the next.
    workers : int
        How many threads.

    Returns
    -------
    list
        The results in the order of the items, whatever thread they came from.

    Raises
    ------
    Exception
        What f raised for the first of the items for which it raised, as the loop would have; items
        not yet begun are left.

    Examples
    --------
    >>> in_order(abs, [-1, 2, -3], workers=2)
    [1, 2, 3]
    """
    workers = min(workers, len(items))
    if workers < 2:
        return [f(item) for item in items]
    with single_threaded_products():
        return _shared_out(f, items, workers)


def _shared_out(f: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    shared = _Shared(f, items)
    helpers: list[threading.Thread] = []
    try:
        for _ in range(workers - 1):
            # A thread starts with an empty context: NumPy's errstate would not be the caller's.
            run = contextvars.copy_context().run
            helper = threading.Thread(target=run, args=(shared.work,), name="agd-rows")
            helpers.append(helper)  # before it starts: an interrupt may come while it does
            try:
                helper.start()
            except RuntimeError:  # none to be had: a limit of the system, or the interpreter's exit
                break
        contextvars.copy_context().run(shared.work)
    finally:  # also of a KeyboardInterrupt, which only the calling thread gets
        shared.todo.clear()
        for helper in helpers:
            if helper.is_alive():
                helper.join()
    return shared.results()


def over_problems(f: Callable[..., tuple[Any, ...]], *arrays: Any, size: int) -> tuple[Any, ...]:
    """Return f(*arrays) of independent problems along the first axis, some of them at a time.

    Parameters
    ----------
    f : callable
        A pure function of numpy.ndarray that treats problems apart and returns a tuple of arrays.
    *arrays : numpy.ndarray, shape (b, ...)
        Its arguments.
    size : int
        How many problems at a time; threads share them.

    Returns
    -------
    tuple of numpy.ndarray
        What f returns, for all problems.

    Examples
    --------
    >>> import numpy as np
    >>> over_problems(lambda x: (x.sum(axis=1),), np.ones((5, 3)), size=2)
    (array([3., 3., 3., 3., 3.]),)
    """
    starts = range(0, len(arrays[0]), max(1, size))
    pieces = [[array[i : i + size] for array in arrays] for i in starts]
    if len(pieces) == 1:
        return f(*arrays)
    parts = in_order(lambda piece: f(*piece), pieces, min(allowed(), len(pieces)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class _Shared(Generic[T, R]):
    """A list of items, of which each thread takes the next; the first failure ends the taking."""

    def __init__(self, f: Callable[[T], R], items: Sequence[T]) -> None:
        self.f, self.items = f, items
        self.todo = deque(range(len(items)))
        self.found: dict[int, R] = {}
        self.failed: dict[int, BaseException] = {}

    def work(self) -> None:
        """Take items until none is left."""
        _helping.set(True)
        while self.todo:
            try:
                i = self.todo.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                self.found[i] = self.f(self.items[i])
            except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                self.todo.clear()
                self.failed[i] = error

    def results(self) -> list[R]:
        """Return what was found, or raise: an interruption, or else what the loop would have raised."""
        if self.failed:
            # Items are taken in order, so that all before the first failure were done.
            first = min(self.failed, key=lambda i: (isinstance(self.failed[i], Exception), i))
            error = self.failed[first]
            self.failed.clear()  # its traceback holds this object: the two must not hold each other
            try:
                raise error
            finally:
                del error
        return [self.found[i] for i in range(len(self.items))]
