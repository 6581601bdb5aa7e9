"""What agd needs to know of an array library: one `Backend` is one row of the table."""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from agd._typing import Array, Namespace, Tree
from agd.backends.transfer import Feed

__all__ = ["Autodiff", "Backend"]


def _itself(x: Any) -> Any:
    return x


def _anywhere(_: Array) -> AbstractContextManager[Any]:
    return contextlib.nullcontext()


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _unknown(_: Any) -> int | None:
    return None


def _never(_: BaseException) -> bool:
    return False


def _no_chunks(*_: Any) -> Any:
    raise NotImplementedError  # only a backend that is chunked already has chunks to give


@dataclass(frozen=True)
class Autodiff:
    """A library's automatic differentiation of functions f(tree, *args) that return an array.

    An array that is not 0-d holds independent problems, and is summed before it is differentiated.

    Attributes
    ----------
    value_and_grad : callable
        ``value_and_grad(f)(tree, *args)``: the value, and its gradient in the structure of the tree.
    hvp : callable
        ``hvp(f)(tree, direction, *args)``: the gradient, and the Hessian times the direction.
    sees : callable
        ``sees(f, tree, *args)``: whether what f returns at this point can be followed back to it;
        false for a function that goes through Python floats or NumPy.
    """

    value_and_grad: Callable[[Callable[..., Array]], Callable[..., tuple[Array, Tree]]]
    hvp: Callable[[Callable[..., Array]], Callable[..., tuple[Tree, Tree]]]
    sees: Callable[..., bool]


@dataclass(frozen=True)
class Backend:
    """One row of the table: what agd needs to know of an array library.

    Attributes
    ----------
    name, module, namespace, install : str
        What users call it, what Python imports, the module that follows the standard for it, and
        what pip installs.
    owns : callable
        Whether an array is this library's.
    devices : callable
        ``devices(module)``: the names of the devices that answer; raises where none does.
    place : callable
        ``place(module, device_name)``: the library's own device object.
    to_numpy : callable
        The one door out: an array copied to the host.
    convert : callable
        ``convert(xp, data, dtype, device)``: an array there.
    compile, compiles : callable, bool
        ``compile(f)`` for ``f(static, *arrays)``: the same function, compiled where the library does,
        once for all equal constants, which have to compute the same.
    compile_alone : callable
        The same for constants that may have changed since: what is compiled is its holder's alone.
    program : callable or None
        ``program(f, *args)``, where functions can be compiled: f as it is now, as ``g(held, *args)``
        that is equal to another which computes the same, and the arrays `held`; None where there is none.
    block_bytes : callable
        How much of this array, in bytes, stays in cache between two products with it: the size of the
        row blocks to cut it into; None for the whole array.
    pack : callable
        A row block as the library's products take it: itself, or a copy where its strides are such that
        BLAS cannot.
    product : callable
        The product of a matrix with a matrix or a vector; where the library is `threaded`, one that
        leaves the interpreter to other threads meanwhile.
    clip : callable or None
        ``clip(x, low, high)``, where the namespace's own looks at values.
    threaded : bool
        Whether the library's functions run side by side in threads, on one processor each.
    in_place : bool
        Whether arrays can be written to.
    resident : callable
        An array of the kind that holds small results beside this one, in memory.
    current : callable
        ``current(x)``: a context in which new arrays land on the device of x.
    narrowed : callable
        ``narrowed(message)``: say that float64 became float32.
    chunked : bool
        Whether arrays are cut into chunks already, and lazy; then
        ``chunks(*arrays)`` are their blocks, ``each(f, blocks)`` a function's result for every block,
        and ``reduce(f, blocks, add, small=False)`` the sum of these; of `small` results a few may travel.
    shared_chunks : bool
        Whether several chunks are worked on at once, by the library's own threads or processes.
    settle : callable
        ``settle(tree)``: the same arrays, computed; for lazy ones, whose graphs would grow with every
        step.
    sparse : bool
        Whether it is a library of sparse matrices, row by row (CSR): what is computed from one is an
        array of the library that its entries are.
    looks_are_free : bool
        Whether a value is on the host already, so that reading it costs nothing.
    autodiff : Autodiff or None
        The library's automatic differentiation, where it has one.
    traces : callable or None
        ``traces(f, tree, *args)``, where functions can be compiled: whether f needs no value on its
        way, so that it runs under a trace.
    needs_device : bool
        Whether the library is of no use without an accelerator.
    free_bytes : callable
        ``free_bytes(device)``: how much memory new arrays can take there; None where that is not known.
    out_of_memory : callable
        ``out_of_memory(error)``: whether the library says by this error that a device's memory ran out.
    feed : callable
        ``feed(selection)``: what moves host arrays there, block after block.
    """

    name: str
    module: str
    namespace: str
    install: str
    owns: Callable[[Any], bool]
    devices: Callable[[Any], list[str]]
    place: Callable[[Any, str], Any]
    to_numpy: Callable[[Array], Any]
    convert: Callable[[Namespace, Any, Any, Any], Array]
    block_bytes: Callable[[Array], int | None]
    in_place: bool
    pack: Callable[[Array], Array] = _itself
    product: Callable[[Array, Array], Array] = operator.matmul
    clip: Callable[[Array, Any, Any], Array] | None = None
    threaded: bool = False
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] = _itself
    compile_alone: Callable[[Callable[..., Any]], Callable[..., Any]] = _itself
    program: Callable[..., tuple[Callable[..., Any], list[Array]] | None] | None = None
    resident: Callable[[Array], Array] = _itself
    current: Callable[[Array], AbstractContextManager[Any]] = _anywhere
    narrowed: Callable[[str], None] = _warn
    compiles: bool = False
    chunked: bool = False
    chunks: Callable[..., list[Any]] = _no_chunks
    each: Callable[..., list[Any]] = _no_chunks
    reduce: Callable[..., Any] = _no_chunks
    shared_chunks: bool = False
    settle: Callable[[Tree], Tree] = _itself
    sparse: bool = False
    looks_are_free: bool = False
    autodiff: Autodiff | None = None
    traces: Callable[..., bool] | None = None
    needs_device: bool = False
    free_bytes: Callable[[Any], int | None] = _unknown
    out_of_memory: Callable[[BaseException], bool] = _never
    feed: Callable[[Any], Feed] = Feed

    def certain(self, flags: Array) -> bool:
        """Return whether all flags hold, as far as that can be told without waiting.

        What hangs on the answer may be work saved, never a result.
        """
        return self.looks_are_free and bool(flags.all())
