"""A deterministic thread pool: the functions of row blocks run in parallel, and results keep their order.

`ArrayData` maps over its blocks with it. The threads live as long as one call does, so that no idle thread is left
for a fork to copy or for the interpreter's exit to wait for. While they run, BLAS has one thread per call.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

__all__ = [
    "map_problems",
    "no_nested_threads",
    "parallel_map",
    "single_threaded_blas",
    "thread_count",
]

T = TypeVar("T")
R = TypeVar("R")

# NumPy takes the interpreter's lock back after each of a block's dozen operations: more threads would queue.
MAX_THREADS = 8

# Environment variables by which users limit the threads of the libraries that NumPy calls; they limit ours, too.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Whether this thread works for a parallel map already: a sum within a sum gets no threads of its own.
_in_worker: contextvars.ContextVar[bool] = contextvars.ContextVar("in_worker", default=False)


@contextlib.contextmanager
def no_nested_threads() -> Iterator[None]:
    """Return a context whose sums have no threads of their own, since other threads are at work already."""
    token = _in_worker.set(True)
    try:
        with single_threaded_blas():
            yield
    finally:
        _in_worker.reset(token)


def thread_count() -> int:
    """Return how many threads may work at once: the processors of this process, or a lower limit.

    ``OMP_NUM_THREADS``, ``OPENBLAS_NUM_THREADS`` and ``MKL_NUM_THREADS`` are limits; they are read
    each time, so that they can be set at any time. Among threads that share a sum it is 1.
    """
    if _in_worker.get():
        return 1
    # A user who limits BLAS or OpenMP shares the machine, and means these threads too.
    count = _processor_count() or 1
    for name in THREAD_VARIABLES:
        text = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP gives one for each level
        if text.isdecimal() and int(text) > 0:
            count = min(count, int(text))
    return min(count, MAX_THREADS)


class _BlasLimit:
    """A limit of BLAS to one thread that nested and concurrent sums share: the last one to end lifts it."""

    def __init__(self) -> None:
        self.lock, self.holders = threading.Lock(), 0
        self.previous_counts: list[int | None] = []

    def __enter__(self) -> None:
        with self.lock:
            # Only the first holder sees the user's limits; a nested one would save and restore a limit of 1.
            if self.holders == 0:
                self.previous_counts = [library.read_count() for library in _blas_libraries()]
                for library in _blas_libraries():
                    library.limit(1)
            self.holders += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders > 0:
                return
            for library, count in zip(_blas_libraries(), self.previous_counts, strict=True):
                # Another number than ours was set by someone else in the meantime, and stays.
                if count is not None and library.read_count() == 1:
                    library.limit(count)


class _BlasLibrary(NamedTuple):
    """How many threads a library of BLAS has in this process, and the function that sets it."""

    read_count: Callable[[], int | None]
    limit: Callable[[int], object]


_blas_limit = _BlasLimit()


def _lift_limit_in_child() -> None:
    """Lift the limit in a forked process, which has none of the threads that would do so."""
    holders, _blas_limit.lock = _blas_limit.holders, threading.Lock()
    if holders:
        _blas_limit.holders = 1
        _blas_limit.__exit__()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_lift_limit_in_child)


def single_threaded_blas() -> contextlib.AbstractContextManager[None]:
    """Return a context in which products use the thread that asks for them, and no other.

    Threads that share a sum are as many as there are processors: threads of BLAS beside them would wait
    for one another, on a busy machine for a hundred times what a product takes.

    The limit is the process's, as BLAS has it. Contexts may overlap in several threads: the last to end
    gives back what the first found.
    """
    return _blas_limit


# Names by which builds of OpenBLAS export one function.
OPENBLAS_PREFIXES, OPENBLAS_SUFFIXES = ("", "scipy_"), ("", "64_", "_64")


# Finding the loaded libraries takes milliseconds, more than many sums.
@functools.cache
def _blas_libraries() -> tuple[_BlasLibrary, ...]:
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return tuple(_BlasLibrary(x.get_num_threads, _limit_function(x)) for x in libraries)


def _limit_function(library: Any) -> Callable[[int], object]:
    """Return the library's own function, past threadpoolctl's book of which thread may call it.

    By that book the first thread to limit OpenBLAS owns it until its context ends: limits of all others, ours that
    overlap in several threads and the user's, would be ignored without a word.
    """
    if library.internal_api == "openblas":
        for prefix, suffix in itertools.product(OPENBLAS_PREFIXES, OPENBLAS_SUFFIXES):
            name = f"{prefix}openblas_set_num_threads{suffix}"
            function: Callable[[int], object] | None = getattr(library.dynlib, name, None)
            if function is not None:
                return function
    return cast("Callable[[int], object]", library.set_num_threads)


def _processor_count() -> int | None:
    """Return how many processors this process may use; None where the system does not say."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count()
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have none
        return os.cpu_count()


def parallel_map(f: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
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
    >>> parallel_map(abs, [-1, 2, -3], workers=2)
    [1, 2, 3]
    """
    workers = min(workers, len(items))
    if workers < 2:
        return [f(item) for item in items]
    with single_threaded_blas():
        return _map_with_threads(f, items, workers)


def _map_with_threads(f: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    work_queue = _WorkQueue(f, items)
    helpers: list[threading.Thread] = []
    try:
        for _ in range(workers - 1):
            # A thread starts with an empty context: NumPy's errstate would not be the caller's.
            run = contextvars.copy_context().run
            helper = threading.Thread(target=run, args=(work_queue.run_items,), name="agd-rows")
            helpers.append(helper)  # before it starts: an interrupt may come while it does
            try:
                helper.start()
            except RuntimeError:  # none to be had: a limit of the system, or the interpreter's exit
                break
        contextvars.copy_context().run(work_queue.run_items)
    finally:  # also of a KeyboardInterrupt, which only the calling thread gets
        work_queue.todo.clear()
        for helper in helpers:
            if helper.is_alive():
                helper.join()
    return work_queue.ordered_results()


def map_problems(f: Callable[..., tuple[Any, ...]], *arrays: Any, size: int) -> tuple[Any, ...]:
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
    >>> map_problems(lambda x: (x.sum(axis=1),), np.ones((5, 3)), size=2)
    (array([3., 3., 3., 3., 3.]),)
    """
    # The pieces depend on the size alone, never on the number of threads: the same bits for any number.
    starts = range(0, len(arrays[0]), max(1, size))
    pieces = [[array[i : i + size] for array in arrays] for i in starts]
    if len(pieces) == 1:
        return f(*arrays)
    parts = parallel_map(lambda piece: f(*piece), pieces, min(thread_count(), len(pieces)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class _WorkQueue(Generic[T, R]):
    """A queue of items, of which each thread takes the next; the first failure empties it."""

    def __init__(self, f: Callable[[T], R], items: Sequence[T]) -> None:
        self.f, self.items = f, items
        # A deque's popleft is atomic, so that no lock is needed to take the next item.
        self.todo = deque(range(len(items)))
        self.completed: dict[int, R] = {}
        self.failures: dict[int, BaseException] = {}

    def run_items(self) -> None:
        """Take items until none is left."""
        _in_worker.set(True)
        while self.todo:
            try:
                i = self.todo.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                self.completed[i] = self.f(self.items[i])
            except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                self.todo.clear()
                self.failures[i] = error

    def ordered_results(self) -> list[R]:
        """Return the results, or raise: an interruption, or else what the loop would have raised."""
        if self.failures:
            # Items are taken in order, so that all before the first failure were done.
            first = min(self.failures, key=lambda i: (isinstance(self.failures[i], Exception), i))
            error = self.failures[first]
            self.failures.clear()  # its traceback holds this object: the two must not hold each other
            try:
                raise error
            finally:
                del error
        return [self.completed[i] for i in range(len(self.items))]
