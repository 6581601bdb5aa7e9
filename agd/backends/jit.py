"""JAX's compilation: what is kept of it between calls, and functions as programs that can be compared."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import optree

from agd._typing import Array

__all__ = ["Program", "jax_compile", "jax_compile_alone", "jax_program"]

HELD = 2**20  # bytes of constants inside a program, as text; one with more is not kept


@functools.cache  # one compiled function for each of ours, so that a second fit traces nothing
def jax_compile(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``f(static, *arrays)``, once for all equal constants, for as long as the process lives."""
    import jax

    compiled: Callable[..., Any] = jax.jit(f, static_argnums=0)
    return compiled


def jax_compile_alone(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``f(static, *arrays)`` for whoever holds the result: with it goes what was compiled."""
    import jax

    known: dict[Any, Callable[..., Any]] = {}

    def alone(static: Any, *arrays: Any) -> Any:
        if static not in known:  # by a function of its own: JAX would hold on to a static argument
            known[static] = jax.jit(lambda *arrays: f(static, *arrays))
        return known[static](*arrays)

    return alone


@dataclass(frozen=True)
class Program:
    """A function as it was when it was traced, ``program(held, *args)``; equal if it computes the same.

    Attributes
    ----------
    digest : str
        Of the program's text, which has all its constants but those in `held`.
    specs : tuple
        The structures of its arguments and of what it returns.
    run : callable
        ``run(held, leaves)``: the leaves of what it returns.
    """

    digest: str
    specs: tuple[Any, Any]
    run: Callable[..., Any] = field(compare=False, repr=False)

    def __call__(self, held: Any, *args: Any) -> Any:
        """Return what the function would have, for arguments of the shapes that it was traced with."""
        given: Any = args
        return optree.tree_unflatten(self.specs[1], self.run(held, optree.tree_leaves(given)))


def jax_program(f: Callable[..., Any], *args: Any) -> tuple[Program, list[Array]] | None:
    """Return a function of trees of arrays as its program, and the arrays that it reads besides.

    None where it cannot be traced, and where the program does not say all: not of a function that calls
    back to Python. Nothing of `f` is kept, nor are the arrays.
    """
    import jax

    given: Any = args
    leaves, spec = optree.tree_flatten(given)
    returned: list[Any] = []

    def flat(
        leaves: Any,
    ) -> Any:  # another function each time: JAX would return the trace of a known one
        found, back = optree.tree_flatten(f(*optree.tree_unflatten(spec, leaves)))
        returned.append(back)
        return found

    try:
        closed = jax.make_jaxpr(flat)(leaves)
    except Exception:  # noqa: BLE001 - whatever f raises under a trace, it raises again when it is run
        return None
    jaxpr = closed.jaxpr
    if jaxpr.effects or sum(_sizes(jaxpr)) > HELD:
        return None
    held = [
        _own(x, known.aval.dtype, leaves[0])
        for x, known in zip(closed.consts, jaxpr.constvars, strict=True)
    ]

    def run(held: Any, leaves: Any) -> Any:
        return jax.core.eval_jaxpr(jaxpr, held, *leaves)

    # Arguments that go unused stay in the text: without them two programs may look alike.
    text = jax.jit(run, keep_unused=True).lower(held, leaves).as_text()
    if "callback" in text:  # of which the text does not say what it calls
        return None
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Program(digest, (spec, returned[-1]), run), held


def _own(x: Any, dtype: Any, like: Array) -> Array:
    """Return a constant as an array that nobody writes to, beside the parameters."""
    import jax

    if isinstance(x, jax.Array):
        return x
    where = like.devices()
    with jax.default_device(next(iter(where)) if len(where) == 1 else None):
        return jax.numpy.array(x, dtype=dtype)


def _sizes(jaxpr: Any) -> Iterator[int]:
    """Give the bytes of each constant of the functions that a program calls."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "consts"):
                    yield from (getattr(x, "nbytes", 0) for x in part.consts)
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)
