"""What lies beside X: passes over y and the weights alone, in blocks of their own."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import optree

from agd import backends
from agd._typing import Array, BatchColumn, Batches, Tree
from agd.data.block_size import columns, itemsize, row_sums, rows_of_block
from agd.data.lazy_blocks import DelayedBlocks, StreamedBlocks, add_trees
from agd.data.matrix import backward, forward, sliced
from agd.data.threads import allowed, alone, in_order, over_problems, single_threaded_products

__all__ = [
    "Blocks",
    "again",
    "backward",
    "beside",
    "deal",
    "forward",
    "halve",
    "in_room",
    "slices",
    "small_problems",
    "some_at_a_time",
    "sum_of_strip",
]

ROWS = (
    2**16
)  # of a block: threads take the interpreter's lock in turn, so that few large ones are quick


def beside(blocks: Blocks) -> Blocks:
    """Return y and the weights beside an X without columns, cut as they fit the cache.

    Examples
    --------
    >>> import numpy as np
    >>> beside(Blocks.of(np.ones((5, 2)), np.arange(5.0))).sum(lambda X, y, weight: y.sum())
    np.float64(10.0)
    """
    X = blocks.X
    if backends.is_sparse(X) or backends.of(X).chunked or backends.of(X).block_bytes(X) is None:
        return blocks  # taken as they are
    return blocks.replace(X=X[..., :0], rows=ROWS)


MAX_STACKED_BYTES = 2**20  # bytes of X of a problem: it, and a copy, are in cache
# Of the X of several: in cache yet, and long enough that threads seldom wait for the interpreter's lock (measured).
TOGETHER = 4 * 2**20


def small_problems(blocks: Blocks, dtype: Any = None) -> bool:
    """Return whether there are several problems along one axis, each with rows of its own that fit in cache.

    Parameters
    ----------
    blocks : Blocks
        The data.
    dtype : dtype, optional
        What X is worked on in; its own by default.
    """
    X = blocks.X
    if not backends.of(X).threaded or X.ndim != 3 or X.shape[-2] == 0 or blocks.rows is not None:
        return False
    return bool(0 < _bytes(X, dtype) <= MAX_STACKED_BYTES)


def _bytes(X: Array, dtype: Any) -> int:
    return int(math.prod(X.shape[1:])) * itemsize(X, dtype)


def some_at_a_time(
    f: Callable[..., tuple[Any, ...]], blocks: Blocks, dtype: Any = None, more: Sequence[Array] = ()
) -> tuple[Any, ...]:
    """Return f(X, y, weight, *more) of small problems.

    Parameters
    ----------
    f : callable
        A pure function that treats problems apart and returns a tuple of arrays, theirs first.
    blocks : Blocks
        The data; weights that all problems share are written out for each.
    dtype : dtype, optional
        As for `small_problems`.
    more : sequence of array, shape (b, ...)
        What else f takes of each problem.

    Returns
    -------
    tuple of array, shape (b, ...)
        What f returns, for all problems.
    """
    X, y, weight = blocks.X, blocks.y, blocks.weight
    size = TOGETHER // _bytes(X, dtype)
    if weight is None:
        return over_problems(lambda X, y, *rest: f(X, y, None, *rest), X, y, *more, size=size)
    return over_problems(f, X, y, np.broadcast_to(weight, y.shape), *more, size=size)


T = TypeVar("T")

STRIPS = 32  # parts that threads take in turn
STRIP_BYTES = 8 * 2**20  # the most that one sum of all strips may take


def slices(
    X: Array, y: Array, weight: Array | None, step: int
) -> list[tuple[Array, Array, Array | None]]:
    """Cut X, y and weights into blocks of so many rows; one block is the arrays themselves."""
    n = X.shape[-2]
    if step >= n:
        return [(X, y, weight)]
    ends = ((i, min(i + step, n)) for i in range(0, n, step))
    return [
        (sliced(X, i, j), y[..., i:j], None if weight is None else weight[..., i:j])
        for i, j in ends
    ]


def deal(blocks: list[T], size: int) -> list[list[T]]:
    """Deal out blocks, in order, to strips that are as long as one another.

    Parameters
    ----------
    blocks : list
        The blocks.
    size : int
        Bytes of a strip's result: how many strips there are hangs on it and on the blocks alone.

    Returns
    -------
    list of list
        The strips.

    Examples
    --------
    >>> deal(list(range(70)), size=8)[:2]
    [[0, 1, 2], [3, 4, 5]]
    """
    parts = max(2, min(STRIPS, STRIP_BYTES // size))
    length = -(-len(blocks) // parts)
    return [blocks[i : i + length] for i in range(0, len(blocks), length)]


def sum_of_strip(f: Callable[[T], Tree], strip: list[T]) -> Tree:
    """Add up a function's trees over the blocks of a strip, one after the other."""
    total, spec = optree.tree_flatten(f(strip[0]))
    for block in strip[1:]:
        total = [a + b for a, b in zip(total, optree.tree_leaves(f(block)), strict=True)]
    return optree.tree_unflatten(spec, total)


R = TypeVar("R")

LEAST_ROWS = 64  # of a block: with fewer, what does not fit is not what is made of its rows


def in_room(blocks: Any, use: Callable[[list[Any]], R], limit: int | None) -> R:
    """Use row blocks; where a device's memory runs out, blocks of half the rows, from then on.

    Parameters
    ----------
    blocks : Blocks
        The data.
    use : callable
        A pure function of the blocks as they are cut.
    limit : int or None
        As in `Blocks.cut`.

    Returns
    -------
    object
        What `use` returned.

    Raises
    ------
    Exception
        The library's own, where blocks of a few rows do not fit either.
    """
    ran_out = backends.of(blocks.X).is_out_of_memory
    return again(lambda: use(blocks.cut(limit)), ran_out, lambda: halve(blocks, blocks.cut(limit)))


def again(
    call: Callable[[], R], ran_out: Callable[[BaseException], bool], shrink: Callable[[], bool]
) -> R:
    """Call until memory lasts: `shrink` lets the next call take less, and returns whether it could."""
    while True:
        try:
            return call()
        except Exception as error:
            if not (ran_out(error) and shrink()):
                raise
        # Here the error is gone, and with its frames what the call had made.


def halve(blocks: Any, cut: list[Any]) -> bool:
    """Let blocks have half the rows that these have; return whether that was more than a few."""
    n = int(cut[0][0].shape[-2])
    if n <= LEAST_ROWS:
        return False
    blocks.most[:] = [max(LEAST_ROWS, n // 2)]
    return True


Block = tuple[Array, Array, Array | None]

MAX_THREADED_COLUMNS = 256  # columns: their products with one another take a thread of BLAS no longer than it then waits
ENOUGH_BLOCKS = 16  # fewer are summed before a thread wakes up, where the processors are busy


@dataclass(frozen=True)
class Blocks:
    """X, y and weights as a sum over row blocks.

    Attributes
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows.
    y : array, shape (n,) or (..., n)
        The targets; rows are the last axis.
    weight : array, shape (n,) or (..., n), or None
        The weights of the rows.
    total : array, shape () or (...,)
        The number of rows, or the sum of their weights: what a mean over rows divides by.
    rows : int or None
        How many rows a block has; None leaves it to the backend's table.
    passes : list of int
        How often data in chunks were read so far, as its one entry; these blocks and those made of them
        by `replace` count together.
    most : list of int
        The rows that a block has at most since a device's memory ran out, as its one entry; it is empty
        where none did. These blocks and those made of them share it.

    Examples
    --------
    >>> import numpy as np
    >>> blocks = Blocks.of(np.ones((5, 2)), np.ones(5), rows=2)
    >>> len(blocks.cut()), float(blocks.total)
    (3, 5.0)
    >>> blocks.sum(lambda X, y, weight: X.sum(axis=0))
    array([5., 5.])
    """

    X: Array
    y: Array
    weight: Array | None
    total: Array
    rows: int | None = None
    passes: list[int] = field(default_factory=lambda: [0], compare=False, repr=False)
    most: list[int] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def uncounted(cls, X: Array, y: Array, weight: Array | None = None) -> Blocks:
        """Take checked data in chunks whose rows are counted on the first pass over them.

        Until then `total` is none: see `agd.gradient.moments`.
        """
        return cls(X, y, weight, X)

    @classmethod
    def of(
        cls, X: Array, y: Array, weight: Array | None = None, *, rows: int | None = None
    ) -> Blocks:
        """Take checked data as blocks, and count its rows.

        Parameters
        ----------
        X, y, weight : array
            As the attributes.
        rows : int, optional
            Rows per block.

        Returns
        -------
        Blocks
            The data, cut up when first summed over.
        """
        uncounted = cls(X, y, weight, X, rows)
        with np.errstate(over="ignore"):  # weights whose sum is infinite are said to be by `screen`
            if backends.of(X).chunked:  # rows may be of unknown number: the chunks know
                return uncounted.replace(total=uncounted.sum(row_sums))
            return uncounted.replace(total=row_sums(X, y, weight))

    def replace(self, **changes: Any) -> Blocks:
        """Return these blocks with other arrays in the same roles."""
        old = {"X": self.X, "y": self.y, "weight": self.weight, "total": self.total}
        kept = {"rows": self.rows, "passes": self.passes, "most": self.most}
        return Blocks(**{**old, **kept, **changes})

    def encoded(self, high: float) -> Blocks:
        """Return these blocks with y 1 where it is the label `high`, else 0."""
        if isinstance(self.y, BatchColumn):
            return self.replace(y=self.y.encoded(high))
        xp = backends.namespace(self.y)
        return self.replace(y=xp.astype(self.y == high, self.y.dtype))

    @property
    def lazy(self) -> bool:
        """Whether each pass reads or computes the rows anew, chunk by chunk, which makes a pass dear."""
        return backends.of(self.X).chunked

    @property
    def sparse(self) -> bool:
        """Whether X is a sparse matrix, which is never made dense."""
        return backends.is_sparse(self.X)

    @property
    def row_count(self) -> float:
        """The number of rows; infinite where only a pass over lazy data can tell."""
        rows = float(self.X.shape[-2])
        return math.inf if math.isnan(rows) else rows

    @property
    def entries(self) -> float:
        """The number of stored entries of X: of a sparse matrix its nonzeros; infinite where unknown."""
        if self.sparse:
            return float(self.X.nnz)
        return math.prod(map(float, self.X.shape[:-2]), start=self.row_count * self.X.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes: () for one problem."""
        return tuple(self.y.shape)[:-1]

    @property
    def resident(self) -> Array:
        """An array of the kind that holds w: the data's own, or what its chunks are made of."""
        return backends.of(self.X).resident(self.X)

    def cut(self, limit: int | None = None) -> list[Any]:
        """Return the blocks of an array in memory: tuples (X, y, weight).

        Parameters
        ----------
        limit : int, optional
            The most bytes of X in a block, where the backend would take the whole array.

        Returns
        -------
        list of tuple
            The blocks in the order of their rows.
        """
        in_cache = backends.of(self.X).block_bytes(self.X) is not None
        if limit is None or in_cache:  # small as they are
            return self._default_cut
        return self._sliced(limit)

    @property
    def _chunked(self) -> bool:
        return backends.of(self.X).chunked

    @functools.cached_property
    def _lazy_blocks(self) -> StreamedBlocks | DelayedBlocks:
        if isinstance(self.X, Batches):
            return StreamedBlocks(self.X, self.y.positive_label)
        graph = backends.of(self.X).task_graph
        if graph is None:
            raise TypeError(f"the rows of {backends.of(self.X).name} are not lazy")
        return DelayedBlocks(graph, self.X, self.y, self.weight)

    @property
    def _default_cut(self) -> list[Block]:
        key = self.most[0] if self.most else 0
        if key not in self._cuts:
            self._cuts[key] = self._sliced(None)
        return self._cuts[key]

    @functools.cached_property
    def _cuts(self) -> dict[int, list[Block]]:
        return {}

    def _sliced(self, limit: int | None) -> list[Block]:
        share = int(self.X.shape[-2]) // ENOUGH_BLOCKS if self._shareable else 0
        rows = self.rows or rows_of_block(self.X, math.prod(self.batch_shape), limit, share=share)
        return slices(self.X, self.y, self.weight, min([rows, *self.most]))

    def sum(self, f: Callable[..., Tree], limit: int | None = None) -> Tree:
        """Add up f(X, y, weight) over the blocks, leaf by leaf.

        Threads may share the blocks of an array in memory. The order of the sum hangs on the shapes and
        the dtype alone, so that the same call gives the same bits, however many threads there are.

        Parameters
        ----------
        f : callable
            A pure function of one block that returns a tree of small arrays. It may run in another
            thread or process, so it must not hold on to the data.
        limit : int, optional
            As in `cut`: for a function that makes a temporary of its block's size.

        Returns
        -------
        tree of arrays
            The sum, in memory.
        """
        if self._chunked:
            shared = backends.of(self.X).parallel_chunks
            within = functools.partial(_within, f, limit, shared, self.most)
            return self.merged(within, add_trees, small=True)
        return in_room(self, functools.partial(self._sum, f), limit)

    def _sum(self, f: Callable[..., Tree], blocks: list[Block]) -> Tree:
        if len(blocks) == 1:
            return self._of_block(f, blocks[0])
        one_strip = functools.partial(sum_of_strip, functools.partial(self._of_block, f))
        size = columns(self.X) * itemsize(self.X)
        return add_trees(self.by_strips(one_strip, blocks, size))

    def by_strips(
        self,
        f: Callable[[list[Block]], Tree],
        blocks: list[Block],
        size: int,
        *,
        heavy: bool = False,
    ) -> list[Tree]:
        """Return f of strips, each a few neighbours among the blocks; threads may share them.

        Parameters
        ----------
        f : callable
            A pure function of a list of blocks.
        blocks : list of tuple
            All of them, as `cut` gives them.
        size : int
            Bytes of a result: how many strips there are hangs on it and on the blocks alone.
        heavy : bool
            Whether a block takes longer than a thread takes to wake up.

        Returns
        -------
        list of tree
            The results, in the order of the strips.
        """
        workers = self._workers(len(blocks), 2 if heavy else ENOUGH_BLOCKS)
        return in_order(f, deal(blocks, size), workers)

    def each(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight) of every block, in the order of the rows; parameters as in `sum`."""
        if self._chunked:
            self.passes[0] += 1
            return self._lazy_blocks.map(f)
        return in_room(self, functools.partial(self._each, f), limit)

    def _each(self, f: Callable[..., Tree], blocks: list[Block]) -> list[Tree]:
        workers = self._workers(len(blocks), ENOUGH_BLOCKS)
        return in_order(functools.partial(self._of_block, f), blocks, workers)

    def merged(
        self, f: Callable[..., Tree], merge: Callable[[list[Tree]], Tree], *, small: bool = False
    ) -> Tree:
        """Merge f(X, y, weight) over chunks, where they live and in a tree: one pass.

        Parameters
        ----------
        f : callable
            As in `sum`.
        merge : callable
            ``merge(parts)`` of some neighbours' results; it must be associative.
        small : bool
            Whether results are so small that a few of them may travel, which saves workers a wait for
            one another.

        Returns
        -------
        tree of arrays
            In memory.
        """
        self.passes[0] += 1
        return self._lazy_blocks.reduce(f, merge, small=small)

    def undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which BLAS has no threads of its own, where others share these blocks.

        A thread of BLAS, given a share of a small matrix, then waits busily for the next: for some 20 ms
        it takes a processor from the sum over the blocks that follows. Of more than `MAX_THREADED_COLUMNS` columns the
        matrices are worth its help.
        """
        shared = self._chunked or self._workers(len(self.cut()), ENOUGH_BLOCKS) > 1
        small = shared and self.X.shape[-1] <= MAX_THREADED_COLUMNS
        return single_threaded_products() if small else contextlib.nullcontext()

    @property
    def _shareable(self) -> bool:
        """Whether threads may share blocks: of many problems the products have threads of their own."""
        return backends.of(self.X).threaded and self.y.ndim == 1

    def _workers(self, blocks: int, enough: int) -> int:
        return min(allowed(), blocks) if self._shareable and blocks >= enough else 1

    def _of_block(self, f: Callable[..., Tree], block: Block) -> Tree:
        row = backends.of(self.X)
        if row.block_bytes(self.X) is None:
            return f(*block)
        return f(row.pack(block[0]), *block[1:])


def _within(
    f: Callable[..., Tree],
    limit: int | None,
    shared: bool,
    most: list[int],
    X: Array,
    y: Array,
    weight: Array | None,
) -> Tree:
    """Sum f over the blocks of one chunk; where chunks are shared out already, in one thread."""
    with alone() if shared else contextlib.nullcontext():
        return Blocks(X, y, weight, X, most=most).sum(f, limit)
