"""Compilation by JAX: the cache of compiled functions, and traced functions that compare by what they compute."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import optree

from agd._typing import Array, NativeArray

__all__ = ["TracedProgram", "jax_compile", "jax_compile_unshared", "jax_trace_program"]

# A program's text contains the constants of the functions that it calls: one with more is not compared.
MAX_CONSTANT_BYTES = 2**20


# Cached, so that a second fit traces nothing.
@functools.cache
def jax_compile(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``f(static, *arrays)``, once for all equal static arguments, for the life of the process."""
    import jax

    compiled: Callable[..., Any] = jax.jit(f, static_argnums=0)
    return compiled


def jax_compile_unshared(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``f(static, *arrays)`` so that what was compiled is freed with the function returned."""
    import jax

    compiled_by_static: dict[Any, Callable[..., Any]] = {}

    def call_compiled(static: Any, *arrays: Any) -> Any:
        if static not in compiled_by_static:
            # Captured in a lambda, because JAX's own cache would keep a static argument alive.
            compiled_by_static[static] = jax.jit(lambda *arrays: f(static, *arrays))
        return compiled_by_static[static](*arrays)

    return call_compiled


@dataclass(frozen=True)
class TracedProgram:
    """A function as it was when it was traced, ``program(captured, *args)``; equal if it computes the same.

    Attributes
    ----------
    digest : str
        A hash of the program's text, which contains all its constants but the captured arrays.
    specs : tuple
        The tree structures of its arguments and of its result.
    run : callable
        ``run(captured, leaves)``: the leaves of its result.
    """

    digest: str
    specs: tuple[Any, Any]
    run: Callable[..., Any] = field(compare=False, repr=False)

    def __call__(self, captured: Any, *args: Any) -> Any:
        """Return the function's result for arguments of the shapes that it was traced with."""
        tree: Any = args
        return optree.tree_unflatten(self.specs[1], self.run(captured, optree.tree_leaves(tree)))


def jax_trace_program(
    f: Callable[..., Any], *args: Any
) -> tuple[TracedProgram, list[Array]] | None:
    """Return a function of trees of arrays as its program, and the arrays that it captures.

    None if it cannot be traced, and if its text does not determine what it computes, as that of a function
    which calls back to Python. No reference to `f` or to the arrays is kept.
    """
    import jax

    tree: Any = args
    leaves, spec = optree.tree_flatten(tree)
    result_specs: list[Any] = []

    # A new function on every call: for one that it knows JAX would return the trace that it has cached.
    def flat_function(leaves: Any) -> Any:
        result_leaves, result_spec = optree.tree_flatten(f(*optree.tree_unflatten(spec, leaves)))
        result_specs.append(result_spec)
        return result_leaves

    try:
        closed = jax.make_jaxpr(flat_function)(leaves)
    except Exception:  # noqa: BLE001 - whatever f raises here, it raises again when it is evaluated
        return None
    jaxpr = closed.jaxpr
    if jaxpr.effects or sum(_constant_bytes(jaxpr)) > MAX_CONSTANT_BYTES:
        return None
    captured = [
        _immutable_copy(x, variable.aval.dtype, leaves[0])
        for x, variable in zip(closed.consts, jaxpr.constvars, strict=True)
    ]

    def run(captured: Any, leaves: Any) -> Any:
        return jax.core.eval_jaxpr(jaxpr, captured, *leaves)  # pyright: ignore[reportAttributeAccessIssue]

    # Unused arguments stay in the text, since without them two different programs may read the same.
    text = jax.jit(run, keep_unused=True).lower(captured, leaves).as_text()
    if "callback" in text:  # the text does not say which Python function is called
        return None
    digest = hashlib.sha256(text.encode()).hexdigest()
    return TracedProgram(digest, (spec, result_specs[-1]), run), captured


def _immutable_copy(x: Any, dtype: Any, like: NativeArray) -> NativeArray:
    """Return a constant as an array of JAX, which cannot be written to, on the device of `like`."""
    import jax

    if isinstance(x, jax.Array):
        return x
    devices = like.devices()
    with jax.default_device(next(iter(devices)) if len(devices) == 1 else None):
        return jax.numpy.array(x, dtype=dtype)


def _constant_bytes(jaxpr: Any) -> Iterator[int]:
    """Yield the size of each constant of the functions that a program calls."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "consts"):
                    yield from (getattr(x, "nbytes", 0) for x in part.consts)
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _constant_bytes(inner)
