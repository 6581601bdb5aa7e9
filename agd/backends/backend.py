"""What agd needs to know of an array library: one `Backend` is one row of `agd.backends.TABLE`.

A row is data and functions, and its defaults fit a library without special features. The rest of agd asks
`agd.backends.of(x)` for the row of an array, and reads from it what differs between libraries.
"""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from agd._typing import Array, Namespace, NativeArray, Tree
from agd.backends.transfer import Transfer

__all__ = ["AutodiffFunctions", "Backend", "TaskGraph"]


def _identity(x: Any) -> Any:
    return x


def _no_device_context(_: Array) -> AbstractContextManager[Any]:
    return contextlib.nullcontext()


def _warn_narrowing(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _unknown_size(_: Any) -> int | None:
    return None


def _no_count(_: Any) -> int | None:
    return None


def _without_chunks(x: Any, _: Any) -> Any:
    return x


def _is_no_memory_error(_: BaseException) -> bool:
    return False


def _row_by_name(name: str) -> Backend:
    from agd.backends.array import registered_row

    return registered_row(name)


@dataclass(frozen=True)
class AutodiffFunctions:
    """A library's automatic differentiation of functions f(tree, *args) that return an array.

    An array that is not 0-d holds the values of independent problems, and is summed before it is
    differentiated.

    Attributes
    ----------
    value_and_grad : callable
        ``value_and_grad(f)(tree, *args)``: the value, and its gradient in the structure of the tree.
    hvp : callable
        ``hvp(f)(tree, direction, *args)``: the gradient, and the Hessian times the direction.
    is_differentiable : callable
        ``is_differentiable(f, tree, *args)``: whether the library can follow f at this point; false
        for a function that goes through Python floats or NumPy.
    jacobian : callable
        ``jacobian(f)(x)`` for f from x (b, p) to (b, n), row by row: the value, and the Jacobian (b, n, p) by
        one derivative along each coordinate. It takes functions that do without the values of arrays.
    """

    value_and_grad: Callable[[Callable[..., Array]], Callable[..., tuple[Array, Tree]]]
    hvp: Callable[[Callable[..., Array]], Callable[..., tuple[Tree, Tree]]]
    is_differentiable: Callable[..., bool]
    jacobian: Callable[[Callable[[Array], Array]], Callable[[Array], tuple[Array, Array]]]


@dataclass(frozen=True)
class TaskGraph:
    """The task graphs of a library whose arrays are lazy and cut into chunks.

    Attributes
    ----------
    row_blocks : callable
        ``row_blocks(*arrays)``: arrays that share their rows as a list of tuples of delayed blocks.
    delay : callable
        ``delay(f)``: f as a task, which takes and returns delayed values. It runs under the NumPy
        error state of the thread that delays it, which workers do not inherit.
    compute : callable
        ``compute(tasks)``: a list of the tasks' results, from one graph.
    """

    row_blocks: Callable[..., list[Any]]
    delay: Callable[[Callable[..., Any]], Callable[..., Any]]
    compute: Callable[[Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Backend:
    """One row of the table: what agd needs to know of an array library.

    Attributes
    ----------
    name, module, namespace, install : str
        What users call it, the module that Python imports, the module that follows the Array API
        standard for it, and what pip installs.
    owns : callable
        ``owns(x)``: whether x is an array of this library.
    devices : callable
        ``devices(module)``: the names of the devices that respond; raises where none does.
    get_device : callable
        ``get_device(module, name)``: the library's own device object.
    to_numpy : callable
        ``to_numpy(x)``: the array, copied to the host.
    convert : callable
        ``convert(xp, data, dtype, device)``: host data as an array of this library on the device.
    block_bytes : callable
        ``block_bytes(x)``: the size of the row blocks to cut x into, such that a block stays in cache
        between two products with it; None where x is best taken whole.
    mutable : bool
        Whether arrays can be written to.
    write_count : callable
        ``write_count(x)``: how often x was written to in place; None where the library does not count.
    pack : callable
        ``pack(block)``: a row block as BLAS takes it; the block itself, or a copy where its strides
        are such that BLAS cannot.
    matmul : callable
        ``matmul(a, b)``: the product of a matrix with a matrix or a vector. Where the library is
        `threaded`, it releases the interpreter's lock.
    clip : callable or None
        ``clip(x, low, high)``; None where the namespace's own does not read values on the host.
    threaded : bool
        Whether several Python threads gain by calling the library at once, because each call runs on
        one processor.
    compile, compiles : callable, bool
        ``compile(f)`` for ``f(static, *arrays)``: the same function, compiled once for all static
        arguments that compare equal; and whether the library compiles at all.
    compile_unshared : callable
        The same for static arguments that are mutable: the holder of the result alone uses, and keeps
        alive, what was compiled.
    trace_program : callable or None
        ``trace_program(f, *args)``: f as it is now, as a program ``g(captured, *args)`` that equals
        every other one which computes the same, and the arrays `captured`; None where f cannot be
        traced.
    resident : callable
        ``resident(x)``: an array of the kind that holds small results beside x, in memory.
    device_context : callable
        ``device_context(x)``: a context in which new arrays are placed on the device of x.
    warn_narrowing : callable
        ``warn_narrowing(message)``: warn that float64 became float32.
    chunked : bool
        Whether arrays are lazy and already cut into chunks.
    align_chunks : callable
        ``align_chunks(x, like)``: x, with its rows in the same chunks as those of another array that has
        as many rows; x itself where arrays have no chunks.
    parallel_chunks : bool
        Whether the library's own threads or processes work on several chunks at once.
    task_graph : TaskGraph or None
        The library's task graphs, where its arrays are lazy.
    persist : callable
        ``persist(tree)``: the same arrays, computed where their chunks are if they are lazy. Without it
        the graph of an iterate would grow with every step.
    sparse : bool
        Whether it is a library of sparse matrices in CSR format, whose products with dense arrays are
        arrays of the library of their entries.
    host_accessible : bool
        Whether values are in the host's memory, so that reading them costs nothing.
    autodiff : AutodiffFunctions or None
        The library's automatic differentiation, where it has one.
    is_traceable : callable or None
        ``is_traceable(f, tree, *args)``: whether f can be traced by the compiler, which is so if it
        needs no value of an array; None where the library does not compile.
    needs_accelerator : bool
        Whether the library is of no use without an accelerator.
    free_bytes : callable
        ``free_bytes(device)``: how much memory new arrays can take there; None where unknown.
    is_out_of_memory : callable
        ``is_out_of_memory(error)``: whether the error says that a device's memory is exhausted.
    transfer : callable
        ``transfer(selection)``: a `Transfer`, which moves host arrays to the selected device.
    """

    name: str
    module: str
    namespace: str
    install: str
    owns: Callable[[Any], bool]
    devices: Callable[[Any], list[str]]
    get_device: Callable[[Any, str], Any]
    to_numpy: Callable[[NativeArray], Any]
    convert: Callable[[Namespace, Any, Any, Any], Array]
    block_bytes: Callable[[NativeArray], int | None]
    mutable: bool
    write_count: Callable[[NativeArray], int | None] = _no_count
    pack: Callable[[NativeArray], NativeArray] = _identity
    matmul: Callable[[Array, Array], Array] = operator.matmul
    clip: Callable[[Array, Any, Any], Array] | None = None
    threaded: bool = False
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] = _identity
    compile_unshared: Callable[[Callable[..., Any]], Callable[..., Any]] = _identity
    trace_program: Callable[..., tuple[Callable[..., Any], list[Array]] | None] | None = None
    resident: Callable[[NativeArray], NativeArray] = _identity
    device_context: Callable[[NativeArray], AbstractContextManager[Any]] = _no_device_context
    warn_narrowing: Callable[[str], None] = _warn_narrowing
    compiles: bool = False
    chunked: bool = False
    align_chunks: Callable[[Array, Array], Array] = _without_chunks
    parallel_chunks: bool = False
    task_graph: TaskGraph | None = None
    persist: Callable[[Tree], Tree] = _identity
    sparse: bool = False
    host_accessible: bool = False
    autodiff: AutodiffFunctions | None = None
    is_traceable: Callable[..., bool] | None = None
    needs_accelerator: bool = False
    free_bytes: Callable[[Any], int | None] = _unknown_size
    is_out_of_memory: Callable[[BaseException], bool] = _is_no_memory_error
    transfer: Callable[[Any], Transfer] = Transfer

    def __reduce__(self) -> Any:
        """Pickle and copy the name: a row is the table's, and compared by identity."""
        return _row_by_name, (self.name,)

    @property
    def factors_batches(self) -> bool:
        """Whether factorisations take a stack of matrices: not where these lie in chunks."""
        return not self.chunked

    @property
    def packs_reads(self) -> bool:
        """Whether several arrays are read sooner as one: not where the host has them, nor where chunks hold them."""
        return not (self.host_accessible or self.chunked)

    def known_true(self, flags: NativeArray) -> bool:
        """Return whether all flags are true, where that is known without waiting for a device.

        False on an accelerator whatever the flags: use it to save work, never to decide a result.
        """
        return self.host_accessible and bool(flags.all())
