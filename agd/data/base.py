"""What every kind of data is: X, y and the weights of the rows, as blocks that functions are mapped over.

`agd.data.as_data` makes one of the subclasses from what a user passes: `ArrayData`, `DaskData` or `StreamData`.
Losses, gradients, moments and screening are sums over its blocks, and nothing above this room asks what X is:
the solver is chosen by the traits that `agd._typing.Data` declares.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import optree

from agd import backends
from agd._typing import Array, BatchColumn, Matrix, Tree
from agd.data.block_size import sum_row_weights
from agd.data.threads import no_nested_threads, single_threaded_blas
from agd.loss.base import pair_offset, split_offset

if TYPE_CHECKING:
    from agd.data.arrays import ArrayData

__all__ = [
    "ARITY",
    "BaseData",
    "LazyData",
    "add_trees",
    "class_weights",
    "label_positions",
    "subtract_offset",
    "tree_reduce",
]

R = TypeVar("R")

# How many neighbours are merged at once where memory does not ask for another number.
ARITY = 8

# OpenBLAS helps with larger products than those of so many columns for longer than its threads then spin.
MAX_SINGLE_THREADED_COLUMNS = 256


@dataclass(frozen=True)
class BaseData:
    """X, y and weights as a sum over row blocks: the defaults of `agd._typing.Data`.

    A subclass says by `accepts` which X it holds, and implements `map`, `reduce`, `sum` and `lazy`.

    Attributes
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows.
    y : array, shape (n,) or (..., n)
        The targets; rows are the last axis. With offsets, the pairs of `agd.loss.base.pair_offset`.
    weight : array, shape (n,) or (..., n), or None
        The weights of the rows.
    known_total : array, shape () or (...,), or None
        The number of rows, or the sum of their weights, where it is known; otherwise `total` computes it.
    rows : int or None
        How many rows a block has; None leaves it to the backend's table.
    passes : list of int
        How often lazy data were read so far, as its one entry. These data and those made of them by `replace`
        share the counter.
    max_block_rows : list of int
        The number of rows to which blocks were cut after a device's memory ran out, as its one entry; empty
        where none did. Shared like `passes`.

    Examples
    --------
    >>> import numpy as np
    >>> data = BaseData.of(np.ones((5, 2)), np.ones(5), rows=2)
    >>> type(data).__name__, len(data.cut()), float(data.total)
    ('ArrayData', 3, 5.0)
    >>> data.sum(lambda X, y, weight: X.sum(axis=0))
    array([5., 5.])
    """

    X: Matrix
    y: Array
    weight: Array | None = None
    known_total: Array | None = None
    rows: int | None = None
    passes: list[int] = field(default_factory=lambda: [0], compare=False, repr=False)
    max_block_rows: list[int] = field(default_factory=list, compare=False, repr=False)

    kinds: ClassVar[list[type[BaseData]]] = []
    _kind_by_type: ClassVar[dict[type, type[BaseData]]] = {}

    def __init_subclass__(cls) -> None:
        """Offer the subclass to `of`, before the kinds that were declared earlier."""
        super().__init_subclass__()
        BaseData.kinds.insert(0, cls)
        BaseData._kind_by_type.clear()

    @classmethod
    def accepts(cls, X: Any) -> bool:  # noqa: ARG003 - the default of a protocol
        """Return whether X is what this class holds, which depends on its type alone."""
        return False

    @classmethod
    def uncounted(
        cls, X: Matrix, y: Array, weight: Array | None = None, **options: Any
    ) -> BaseData:
        """Take checked data, and leave their rows to be counted when `total` is first asked for."""
        kind = BaseData._kind_by_type.get(type(X))
        if kind is None:
            kind = next(kind for kind in BaseData.kinds if kind.accepts(X))
            BaseData._kind_by_type[type(X)] = kind
        return kind(X, y, weight, **options)

    @classmethod
    def of(
        cls, X: Matrix, y: Array, weight: Array | None = None, *, rows: int | None = None
    ) -> BaseData:
        """Take checked data, and count their rows.

        Parameters
        ----------
        X, y, weight : array
            As the attributes.
        rows : int, optional
            Rows per block.

        Returns
        -------
        BaseData
            Of the subclass for this X.
        """
        data = BaseData.uncounted(X, y, weight, rows=rows)
        data.total  # noqa: B018 - computed here, where no compiler is tracing yet
        return data

    def __iter__(self) -> Iterator[Any]:
        """Unpack into X, y and the weights."""
        return iter((self.X, self.y, self.weight))

    def replace(self, **changes: Any) -> Self:
        """Return the same kind of data with other arrays in the same roles; `total` stays unless it is given."""
        if "total" in changes:
            changes["known_total"] = changes.pop("total")
        old = {"X": self.X, "y": self.y, "weight": self.weight, "rows": self.rows}
        shared = {"passes": self.passes, "max_block_rows": self.max_block_rows}
        known = self.__dict__.get("_total", self.known_total)
        return type(self)(**{**old, **shared, "known_total": known, **changes})

    @property
    def total(self) -> Array:
        """The number of rows, or the sum of their weights: what a mean over rows divides by."""
        total: Array = self._total
        return total

    @functools.cached_property
    def _total(self) -> Any:
        if self.known_total is not None or self.y is None:
            return self.known_total
        with np.errstate(over="ignore"):  # the screening reports weights whose sum overflows
            return self._count_total()

    def _count_total(self) -> Array:
        return sum_row_weights(self.X, self.y, self.weight)

    def encode_labels(self, labels: tuple[float, ...]) -> Self:
        """Return these data with each label in y replaced by its position among the ascending `labels`."""
        if isinstance(self.y, BatchColumn):
            return self.replace(y=self.y.encoded(labels))
        return self.replace(y=label_positions(self.y, labels))

    def weigh_classes(self, factors: tuple[float, ...], total: Array) -> Self:
        """Return these data, whose y numbers classes, with weights times the factor of the class of each row.

        Parameters
        ----------
        factors : tuple of float
            One for each class.
        total : array, shape () or (...,)
            The sum of the new weights.
        """
        if isinstance(self.y, BatchColumn):
            column: Any = self.weight or BatchColumn(self.y.shape[-1:], self.resident.dtype)
            return self.replace(weight=column.by_class(factors), total=total)
        return self.replace(weight=class_weights(self.y, self.weight, factors), total=total)

    @property
    def has_offset(self) -> bool:
        """Whether the targets are pairs with the offsets of their rows."""
        return "complex" in str(self.y.dtype)

    def subtract_offset(self) -> Self:
        """Return these data with targets less their offsets, for a loss of the residual alone."""
        if isinstance(self.y, BatchColumn):
            return self.replace(y=self.y.less_offset(self.resident.dtype))
        return self.replace(y=subtract_offset(self.y))

    @property
    def lazy(self) -> bool:
        """Whether each pass reads or computes the rows anew, which makes a pass dear."""
        return False

    @property
    def sparse(self) -> bool:
        """Whether X is a sparse matrix, which is never made dense."""
        return backends.is_sparse(self.X)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of X; NaN stands for an unknown number of rows."""
        return tuple(self.X.shape)

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
    def targets(self) -> int | None:
        """The number k of targets beside a shared X, given as y (n, k); None for a y of one value for each row."""
        return int(self.y.shape[0]) if len(self.X.shape) == len(self.y.shape) == 2 else None

    @property
    def resident(self) -> Array:
        """An array of the kind that holds w: X itself, or an empty one like those that its chunks hold."""
        resident: Array = backends.of(self.X).resident(self.X)
        return resident

    def targets_only(self) -> BaseData:
        """Return y and the weights beside an X without columns, where a pass over them alone is cheaper.

        Examples
        --------
        >>> import numpy as np
        >>> data = BaseData.of(np.ones((5, 2)), np.arange(5.0)).targets_only()
        >>> data.shape, float(data.sum(lambda X, y, weight: y.sum()))
        ((5, 0), 10.0)
        """
        return self

    def halve_blocks(self) -> bool:
        """Let blocks have half the rows that they have now; return whether they had more than a few."""
        return False

    def cut(self, limit: int | None = None) -> list[Any]:
        """Return the row blocks of data in memory: tuples (X, y, weight)."""
        raise NotImplementedError

    def map(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight) of every block, in the order of the rows; parameters as of `sum`."""
        raise NotImplementedError

    def map_with(self, f: Callable[..., Tree], values: Any, limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight, part) of every block, in order, with its rows' part of host values (n,).

        Raises
        ------
        ValueError
            If the number of rows of a chunk is not known.
        """
        raise NotImplementedError

    def reduce(
        self, f: Callable[..., Tree], merge: Callable[[list[Tree]], Tree], *, small: bool = False
    ) -> Tree:
        """Merge f(X, y, weight) over the blocks, where these are and in a tree: one pass.

        Parameters
        ----------
        f : callable
            As of `sum`.
        merge : callable
            ``merge(parts)`` of the results of some neighbours; it must be associative.
        small : bool
            Whether results are so small that a few of them may travel between processes, which saves workers
            a wait for one another.

        Returns
        -------
        tree of arrays
            In memory.
        """
        raise NotImplementedError

    def merge_chunks(self, f: Callable[[ArrayData], R], merge: Callable[[list[R]], R]) -> R:
        """Merge f(chunk) over the chunks of the data, each as `ArrayData`: one pass; data in memory are one chunk."""
        raise NotImplementedError

    def take(self, rows: Array) -> Self:  # noqa: ARG002
        """Return the data of these rows, which have to be in memory."""
        raise TypeError("rows can only be taken from data in memory, and these are lazy")

    def sum(self, f: Callable[..., Tree], limit: int | None = None) -> Tree:
        """Add up f(X, y, weight) over the blocks, leaf by leaf.

        The order of the sum depends on the shapes and the dtype alone, so that the same call gives the same
        bits, however many threads share the blocks.

        Parameters
        ----------
        f : callable
            A pure function of one block that returns a tree of small arrays. It may run in another
            thread or process, so it must not hold on to the data.
        limit : int, optional
            The most bytes of X in a block where the backend would take the whole array: for a function that
            makes temporaries of its block's size.

        Returns
        -------
        tree of arrays
            The sum, in memory.
        """
        raise NotImplementedError

    def single_threaded_blas(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which BLAS has no threads of its own, where other threads share these blocks.

        A thread of BLAS, given a share of a small matrix, then waits busily for the next: for some 20 ms it takes a
        processor from the sum over the blocks that follows. Matrices of more than
        `MAX_SINGLE_THREADED_COLUMNS` columns are worth its help.
        """
        small = self.X.shape[-1] <= MAX_SINGLE_THREADED_COLUMNS and self._has_parallel_blocks
        return single_threaded_blas() if small else contextlib.nullcontext()

    @property
    def _has_parallel_blocks(self) -> bool:
        return False


class LazyData(BaseData):
    """Data in chunks that each pass computes or reads anew, and that are cut into blocks in their turn."""

    @property
    def lazy(self) -> bool:
        """Always true: see `BaseData.lazy`."""
        return True

    @property
    def _has_parallel_blocks(self) -> bool:
        return True

    def _count_total(self) -> Array:
        # The number of rows may be unknown: the chunks know theirs.
        total: Array = self.sum(sum_row_weights)
        return total

    def sum(self, f: Callable[..., Tree], limit: int | None = None) -> Tree:
        """Add up f(X, y, weight) over the blocks of all chunks: see `BaseData.sum`."""
        parallel = backends.of(self.X).parallel_chunks
        sum_chunk = functools.partial(_sum_chunk, f, limit, parallel, self.max_block_rows)
        return self.reduce(sum_chunk, add_trees, small=True)

    def merge_chunks(self, f: Callable[[ArrayData], R], merge: Callable[[list[R]], R]) -> R:
        """Merge f(chunk) over the chunks: see `BaseData.merge_chunks`."""
        merged: R = self.reduce(functools.partial(_apply_to_chunk, f, self.rows), merge)
        return merged


def _apply_to_chunk(
    f: Callable[[Any], R], rows: int | None, X: Matrix, y: Array, weight: Array | None
) -> R:
    return f(BaseData.uncounted(X, y, weight, rows=rows))


def _sum_chunk(
    f: Callable[..., Tree],
    limit: int | None,
    parallel: bool,
    max_block_rows: list[int],
    X: Matrix,
    y: Array,
    weight: Array | None,
) -> Tree:
    """Sum f over the blocks of one chunk; in one thread where several chunks are summed in parallel."""
    chunk = BaseData.uncounted(X, y, weight, max_block_rows=max_block_rows)
    with no_nested_threads() if parallel else contextlib.nullcontext():
        return chunk.sum(f, limit)


def label_positions(y: Array, labels: tuple[float, ...]) -> Array:
    """Return the position of each entry of y among the labels, in the dtype of y.

    Examples
    --------
    >>> import numpy as np
    >>> label_positions(np.asarray([5.0, -1.0, 7.0]), (-1.0, 5.0, 7.0))
    array([1., 0., 2.])
    """
    # A count of the labels that are no larger asks of a lazy array no more than comparisons.
    xp, (target, offset) = backends.namespace(y), split_offset(y)
    above = (xp.astype(target >= label, target.dtype) for label in labels[1:])
    positions: Array = functools.reduce(operator.add, above)
    return positions if offset is None else pair_offset(positions, offset)


def class_weights(y: Array, weight: Array | None, factors: tuple[float, ...]) -> Array:
    """Return the weights of rows times the factor of the class that y numbers.

    Examples
    --------
    >>> import numpy as np
    >>> class_weights(np.asarray([0.0, 1.0, 1.0]), None, (2.0, 0.5))
    array([2. , 0.5, 0.5])
    """
    target = split_offset(y)[0]
    xp, weights = backends.namespace(target), 0.0 * target + factors[0]
    for number, factor in enumerate(factors[1:], start=1):
        weights = xp.where(target == number, 0.0 * target + factor, weights)
    result: Array = weights if weight is None else weights * weight
    return result


def subtract_offset(y: Array) -> Array:
    """Return targets less the offsets that they are paired with.

    Examples
    --------
    >>> import numpy as np
    >>> subtract_offset(np.asarray([5.0 + 2.0j, 1.0 - 1.0j]))
    array([3., 2.])
    """
    target, offset = split_offset(y)
    less: Array = target if offset is None else target - offset
    return less


def add_trees(trees: Sequence[Tree]) -> Tree:
    """Return the sum of trees of arrays, leaf by leaf."""
    return functools.reduce(lambda a, b: optree.tree_map(operator.add, a, b), trees)


def tree_reduce(parts: Iterable[Any], merge: Callable[[list[Any]], Any], arity: int) -> Any:
    """Merge neighbours in a tree as they come, so that rounding grows with the logarithm of their number.

    Parameters
    ----------
    parts : iterable
        What is merged, in its order; it is iterated over once.
    merge : callable
        ``merge(parts)`` of some neighbours; it must be associative.
    arity : int
        How many are merged at once; each of the tree's levels holds no more than that.

    Returns
    -------
    object
        The merged whole.

    Raises
    ------
    ValueError
        If there are no parts.
    """
    levels: list[list[Any]] = [[]]
    for part in parts:
        levels[0].append(part)
        depth = 0
        while len(levels[depth]) == arity:
            if depth + 1 == len(levels):
                levels.append([])
            levels[depth + 1].append(merge(levels[depth]))
            levels[depth] = []
            depth += 1
    rest: list[Any] = []
    for level in levels:
        rest = [merge([*level, *rest])] if level or rest else []
    if not rest:
        raise ValueError("there is nothing to merge")
    return rest[0]
