"""Arrays in memory as row blocks: slices of rows that stay in cache, or the whole array on an accelerator.

`ArrayData` is the kind of data that most fits have. Threads share the blocks where the library gains by it; sums
run over contiguous groups of blocks, so that their order, and with it every bit, depends on the shapes alone.
Chunks of lazy data are cut into the same blocks, one chunk at a time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Matrix, Tree
from agd.data.base import ARITY, BaseData, add_trees, tree_reduce
from agd.data.block_size import entries_per_row, item_bytes, rows_per_block
from agd.data.matrix import gather_rows, slice_rows
from agd.data.threads import map_problems, parallel_map, thread_count

__all__ = [
    "ArrayData",
    "Blocks",
    "are_small_problems",
    "group_blocks",
    "map_small_problems",
    "retry_out_of_memory",
    "slice_blocks",
    "sum_group",
]

Block = tuple[Matrix, Array, Array | None]
T = TypeVar("T")
R = TypeVar("R")

# Rows of a block without columns. Threads take the interpreter's lock in turn, so that few large blocks are quick.
TARGET_BLOCK_ROWS = 2**16

# A sum over fewer blocks is done before another thread wakes up, where the processors are busy.
MIN_SHARED_BLOCKS = 16

# Groups of blocks that threads take in turn, and the bytes that the sums of all groups may take.
MAX_GROUPS = 32
MAX_GROUP_SUMS_BYTES = 8 * 2**20

# Blocks are not halved below so many rows: their temporaries are then not what exhausts the memory.
MIN_HALVED_ROWS = 64

# The X of a small problem: it and a copy of it stay in cache.
MAX_PROBLEM_BYTES = 2**20

# The X of the problems that are computed together: still in cache, and long enough that threads seldom wait for
# the interpreter's lock (measured).
MAX_STACK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ArrayData(BaseData):
    """Arrays in memory, dense or sparse, as row blocks; the attributes are those of `BaseData`."""

    @classmethod
    def accepts(cls, X: Any) -> bool:  # noqa: ARG003 - the last of the kinds to be asked takes the rest
        """Return true: every X that no other kind of data holds is an array."""
        return True

    def targets_only(self) -> BaseData:
        """Return y and the weights beside an X without columns, in blocks that fit the cache."""
        if self.sparse or backends.of(self.X).block_bytes(self.X) is None:
            return self  # their blocks cost nothing to take as they are
        return self.replace(X=self.X[..., :0], rows=TARGET_BLOCK_ROWS)

    def take(self, rows: Array) -> Self:
        """Return the data of these rows; `total` is scaled by their share of all rows, whatever their weights."""
        xp, weight = backends.namespace(self.X), self.weight
        return self.replace(
            X=gather_rows(self.X, rows),
            y=xp.take(self.y, rows, axis=-1),
            weight=None if weight is None else xp.take(weight, rows, axis=-1),
            total=self.total * (rows.shape[0] / self.X.shape[-2]),
        )

    def cut(self, limit: int | None = None) -> list[Block]:
        """Return the blocks.

        Parameters
        ----------
        limit : int, optional
            The most bytes of X in a block, where the backend would take the whole array.

        Returns
        -------
        list of tuple
            Tuples (X, y, weight), in the order of their rows.
        """
        in_cache = backends.of(self.X).block_bytes(self.X) is not None
        if limit is not None and not in_cache:
            return self._slice_blocks(limit)
        key = self.max_block_rows[0] if self.max_block_rows else 0
        if key not in self._default_blocks:
            self._default_blocks[key] = self._slice_blocks(None)
        return self._default_blocks[key]

    @functools.cached_property
    def _default_blocks(self) -> dict[int, list[Block]]:
        """The blocks without a limit, by the rows to which a lack of memory has cut them; 0 for none."""
        return {}

    def _slice_blocks(self, limit: int | None) -> list[Block]:
        share = int(self.X.shape[-2]) // MIN_SHARED_BLOCKS if self._shareable else 0
        rows = self.rows or rows_per_block(self.X, math.prod(self.batch_shape), limit, share=share)
        return slice_blocks(self.X, self.y, self.weight, min([rows, *self.max_block_rows]))

    def map(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight) of every block, in the order of the rows; parameters as of `sum`."""
        return self.retry_in_halves(functools.partial(self._map_blocks, f), limit)

    def _map_blocks(self, f: Callable[..., Tree], blocks: list[Block]) -> list[Tree]:
        workers = self._worker_count(len(blocks), MIN_SHARED_BLOCKS)
        return parallel_map(functools.partial(self._apply, f), blocks, workers)

    def map_with(self, f: Callable[..., Tree], values: Any, limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight, part) of every block: see `BaseData.map_with`."""
        blocks = self.cut(limit)
        ends = itertools.accumulate(int(y.shape[-1]) for _, y, _ in blocks)
        return [
            f(*block, values[end - int(block[1].shape[-1]) : end])
            for block, end in zip(blocks, ends, strict=True)
        ]

    def reduce(
        self,
        f: Callable[..., Tree],
        merge: Callable[[list[Tree]], Tree],
        *,
        small: bool = False,  # noqa: ARG002 - all results are in this process
    ) -> Tree:
        """Merge f(X, y, weight) over the blocks in a tree: see `BaseData.reduce`."""
        return tree_reduce(self.map(f), merge, ARITY)

    def merge_chunks(self, f: Callable[[ArrayData], R], merge: Callable[[list[R]], R]) -> R:  # noqa: ARG002
        """Return f of these data, which are one chunk."""
        return f(self)

    def sum(self, f: Callable[..., Tree], limit: int | None = None) -> Tree:
        """Add up f(X, y, weight) over the blocks: see `BaseData.sum`."""
        return self.retry_in_halves(functools.partial(self._sum_blocks, f), limit)

    def _sum_blocks(self, f: Callable[..., Tree], blocks: list[Block]) -> Tree:
        if len(blocks) == 1:
            return self._apply(f, blocks[0])
        sum_one_group = functools.partial(sum_group, functools.partial(self._apply, f))
        size = entries_per_row(self.X) * item_bytes(self.X)
        return add_trees(self.map_groups(sum_one_group, blocks, size))

    def map_groups(
        self,
        f: Callable[[list[Block]], Tree],
        blocks: list[Block],
        size: int,
        *,
        heavy: bool = False,
    ) -> list[Tree]:
        """Return f of groups of neighbouring blocks, which threads may share.

        Parameters
        ----------
        f : callable
            A pure function of a list of blocks.
        blocks : list of tuple
            All of them, as `cut` gives them.
        size : int
            Bytes of a result. The groups depend on it and on the blocks alone, never on the threads.
        heavy : bool
            Whether a block takes longer than a thread takes to wake up.

        Returns
        -------
        list of tree
            The results, in the order of the groups.
        """
        workers = self._worker_count(len(blocks), 2 if heavy else MIN_SHARED_BLOCKS)
        return parallel_map(f, group_blocks(blocks, size), workers)

    def retry_in_halves(self, use: Callable[[list[Block]], R], limit: int | None = None) -> R:
        """Use the blocks; where a device's memory runs out, retry with half the rows per block, from then on.

        Parameters
        ----------
        use : callable
            A pure function of the list of blocks.
        limit : int, optional
            As of `cut`.

        Returns
        -------
        object
            What `use` returned.

        Raises
        ------
        MemoryError
            Where blocks of a few rows do not fit either.
        """
        ran_out = backends.of(self.X).is_out_of_memory
        return retry_out_of_memory(
            lambda: use(self.cut(limit)), ran_out, lambda: self.halve_blocks(limit)
        )

    def halve_blocks(self, limit: int | None = None) -> bool:
        """Let blocks have half the rows that they have now; return whether they had more than a few."""
        # Measured on the blocks rather than kept, since `limit` and the backend may have made them smaller.
        n = int(self.cut(limit)[0][0].shape[-2])
        if n <= MIN_HALVED_ROWS:
            return False
        self.max_block_rows[:] = [max(MIN_HALVED_ROWS, n // 2)]
        return True

    @property
    def _has_parallel_blocks(self) -> bool:
        return self._worker_count(len(self.cut()), MIN_SHARED_BLOCKS) > 1

    @property
    def _shareable(self) -> bool:
        """Whether threads may share blocks: the products of many problems have threads of their own."""
        return backends.of(self.X).threaded and self.y.ndim == 1

    def _worker_count(self, blocks: int, min_blocks: int) -> int:
        return min(thread_count(), blocks) if self._shareable and blocks >= min_blocks else 1

    def _apply(self, f: Callable[..., Tree], block: Block) -> Tree:
        """Return f of a block, whose X is packed as BLAS takes it where blocks are cut for the cache."""
        backend = backends.of(self.X)
        if backend.block_bytes(self.X) is None:
            return f(*block)
        return f(backend.pack(block[0]), *block[1:])


Blocks = BaseData
"""The earlier name of `BaseData`."""


def slice_blocks(X: Matrix, y: Array, weight: Array | None, rows: int) -> list[Block]:
    """Cut X, y and weights into blocks of so many rows; a single block is the arrays themselves."""
    n = X.shape[-2]
    if rows >= n:
        return [(X, y, weight)]
    ends = ((i, min(i + rows, n)) for i in range(0, n, rows))
    return [
        (slice_rows(X, i, j), y[..., i:j], None if weight is None else weight[..., i:j])
        for i, j in ends
    ]


def group_blocks(blocks: list[T], size: int) -> list[list[T]]:
    """Divide blocks, in order, into contiguous groups of the same length.

    Parameters
    ----------
    blocks : list
        The blocks.
    size : int
        Bytes of a group's result: the number of groups depends on it and on the number of blocks alone.

    Returns
    -------
    list of list
        The groups.

    Examples
    --------
    >>> group_blocks(list(range(70)), size=8)[:2]
    [[0, 1, 2], [3, 4, 5]]
    """
    # The number of threads must not matter: it would change the order of the sum, and so its last digits.
    groups = max(2, min(MAX_GROUPS, MAX_GROUP_SUMS_BYTES // size))
    length = -(-len(blocks) // groups)
    return [blocks[i : i + length] for i in range(0, len(blocks), length)]


def sum_group(f: Callable[[T], Tree], group: list[T]) -> Tree:
    """Add up a function's trees over the blocks of a group, one after the other."""
    total, spec = optree.tree_flatten(f(group[0]))
    for block in group[1:]:
        total = [a + b for a, b in zip(total, optree.tree_leaves(f(block)), strict=True)]
    return optree.tree_unflatten(spec, total)


def retry_out_of_memory(
    call: Callable[[], R], ran_out: Callable[[BaseException], bool], shrink: Callable[[], bool]
) -> R:
    """Call until the memory suffices: `shrink` lets the next call take less, and returns whether it could."""
    while True:
        try:
            return call()
        except Exception as error:
            if not ran_out(error):
                raise
            if not shrink():
                raise MemoryError(
                    "the memory is exhausted, in blocks of few rows too: fit fewer columns or problems at a time, or "
                    f"let the host do it ({str(error).partition(chr(10))[0]})"
                ) from error
        # The error is gone here, and with its frames the arrays that the call had made.


def are_small_problems(data: BaseData, dtype: Any = None) -> bool:
    """Return whether there are several problems along one axis, each with rows of its own that fit in cache.

    Parameters
    ----------
    data : BaseData
        The data.
    dtype : dtype, optional
        The dtype in which X is worked on; its own by default.
    """
    X = data.X
    if not backends.of(X).threaded or X.ndim != 3 or X.shape[-2] == 0 or data.rows is not None:
        return False
    return bool(0 < _problem_bytes(X, dtype) <= MAX_PROBLEM_BYTES)


def _problem_bytes(X: Matrix, dtype: Any) -> int:
    return int(math.prod(X.shape[1:])) * item_bytes(X, dtype)


def map_small_problems(
    f: Callable[..., tuple[Any, ...]],
    data: BaseData,
    dtype: Any = None,
    more: Sequence[Array] = (),
) -> tuple[Any, ...]:
    """Return f(X, y, weight, *more) of small problems, a few of them at a time.

    Parameters
    ----------
    f : callable
        A pure function that treats problems separately and returns a tuple of arrays, problems first.
    data : BaseData
        The data; weights that all problems share are broadcast to each.
    dtype : dtype, optional
        As of `are_small_problems`.
    more : sequence of array, shape (b, ...)
        Further arguments of f, with an entry for each problem.

    Returns
    -------
    tuple of array, shape (b, ...)
        What f returns, for all problems.
    """
    X, y, weight = data.X, data.y, data.weight
    size = MAX_STACK_BYTES // _problem_bytes(X, dtype)
    if weight is None:
        return map_problems(lambda X, y, *rest: f(X, y, None, *rest), X, y, *more, size=size)
    weights = np.broadcast_to(np.asarray(weight), y.shape)
    return map_problems(f, X, y, weights, *more, size=size)
