"""What libraries make of a function: its derivatives by PyTorch and JAX, and its compilation by JAX.

Trees are flattened by optree, and the libraries see lists of leaves alone, so that a dict, list, tuple,
NamedTuple or None means the same to each of them.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import optree

from agd._typing import Array, NativeArray, Tree
from agd.backends.backend import AutodiffFunctions

__all__ = [
    "JAX_AUTODIFF",
    "TORCH_AUTODIFF",
    "TracedProgram",
    "jax_compile",
    "jax_compile_unshared",
    "jax_is_traceable",
    "jax_trace_program",
]

# A program's text contains the constants of the functions that it calls: one with more is not compared.
MAX_CONSTANT_BYTES = 2**20


def _flatten_function(
    f: Callable[..., Array], tree: Tree, args: tuple[Any, ...]
) -> tuple[Any, Any, Any]:
    """Return f as a function of a list of leaves, the leaves of `tree`, and the structure of `tree`."""
    leaves, spec = optree.tree_flatten(tree)

    def of_leaves(leaves: Any) -> Array:
        return f(optree.tree_unflatten(spec, leaves), *args)

    return of_leaves, leaves, spec


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_leaves(leaves: list[NativeArray]) -> list[NativeArray] | None:
    """Return leaves that autograd records; None inside torch.func, which records by itself."""
    import torch

    if torch.is_inference_mode_enabled():
        return None
    try:
        return [x.detach().requires_grad_() for x in leaves]
    except RuntimeError:  # transforms of torch.func forbid `requires_grad_`
        return None


def _torch_value_and_grad(f: Callable[..., Array]) -> Callable[..., tuple[Array, Tree]]:
    """Differentiate by autograd, which records any eager code; by torch.func inside its transforms."""
    import torch

    def value_and_grad(tree: Tree, *args: Any) -> tuple[Array, Tree]:
        g, leaves, spec = _flatten_function(f, tree, args)
        tracked = _torch_leaves(leaves)
        if tracked is None:

            def total(leaves: Any) -> tuple[Array, Array]:
                value = g(leaves)
                return value.sum(), value

            grads, value = torch.func.grad(total, has_aux=True)(leaves)
        else:
            with torch.enable_grad():
                value = g(tracked)
                grads = _torch_gradient(value.sum(), tracked)
            value = value.detach()
        return value, optree.tree_unflatten(spec, grads)

    return value_and_grad


def _torch_gradient(
    total: NativeArray, leaves: list[NativeArray], graph: bool = False
) -> list[NativeArray]:
    """Return the gradient of a 0-d array, zero for leaves that it does not depend on."""
    import torch

    if not total.requires_grad:  # a constant
        return [torch.zeros_like(x) for x in leaves]
    return list(
        torch.autograd.grad(
            total, leaves, create_graph=graph, allow_unused=True, materialize_grads=True
        )
    )


def _torch_hvp(f: Callable[..., Array]) -> Callable[..., tuple[Tree, Tree]]:
    """Differentiate the inner product of the gradient and the direction (double backward)."""
    import torch

    def hvp(tree: Tree, direction: Tree, *args: Any) -> tuple[Tree, Tree]:
        g, leaves, spec = _flatten_function(f, tree, args)
        direction_leaves = optree.tree_leaves(direction)
        tracked = _torch_leaves(leaves)
        if tracked is None:
            gradient = torch.func.grad(lambda leaves: g(leaves).sum())
            grads, product = torch.func.jvp(gradient, (leaves,), (direction_leaves,))[:2]
        else:
            with torch.enable_grad():
                grads = _torch_gradient(g(tracked).sum(), tracked, graph=True)
                inner = sum((a * b).sum() for a, b in zip(grads, direction_leaves, strict=True))
                product = _torch_gradient(inner, tracked)
            grads = [x.detach() for x in grads]
        return optree.tree_unflatten(spec, grads), optree.tree_unflatten(spec, product)

    return hvp


def _torch_is_differentiable(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Evaluate f once, and return whether autograd recorded how its value depends on the tree."""
    import torch

    g, leaves, _ = _flatten_function(f, tree, args)
    tracked = _torch_leaves(leaves)
    if tracked is None:
        return True  # inside torch.func there is no other derivative
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # float(x) of a recorded tensor warns, but here that is the answer and not a problem.
            warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
            value = g(tracked)
    except (RuntimeError, TypeError):  # NumPy refuses recorded tensors; other errors recur later
        return False
    return bool(getattr(value, "requires_grad", False))


def _torch_jacobian(f: Callable[[Array], Array]) -> Callable[[Array], tuple[Array, Array]]:
    """Differentiate along all coordinates at once, by forward mode."""
    import torch

    # The types of both do not know of a pair, nor of an output that is the same for all directions.
    jvp: Any = torch.func.jvp
    vmap: Any = torch.func.vmap

    def value_and_jacobian(x: NativeArray) -> tuple[Array, Array]:
        p = x.shape[-1]
        basis = torch.eye(p, dtype=x.dtype, device=x.device)[:, None, :].expand(p, *x.shape)

        def along(direction: NativeArray) -> tuple[NativeArray, NativeArray]:
            pair: tuple[NativeArray, NativeArray] = jvp(f, (x,), (direction,))
            return pair

        value, columns = vmap(along, out_dims=(None, 0))(basis)
        return value.detach(), columns.detach().movedim(0, -1)

    return value_and_jacobian


# -- JAX -----------------------------------------------------------------------------------------


def _jax_value_and_grad(f: Callable[..., Array]) -> Callable[..., tuple[Array, Tree]]:
    import jax

    def value_and_grad(tree: Tree, *args: Any) -> tuple[Array, Tree]:
        g, leaves, spec = _flatten_function(f, tree, args)

        def total(leaves: Any) -> tuple[Array, Array]:
            value = g(leaves)
            return value.sum(), value

        (_, value), grads = jax.value_and_grad(total, has_aux=True)(leaves)
        return value, optree.tree_unflatten(spec, grads)

    return value_and_grad


def _jax_hvp(f: Callable[..., Array]) -> Callable[..., tuple[Tree, Tree]]:
    import jax

    def hvp(tree: Tree, direction: Tree, *args: Any) -> tuple[Tree, Tree]:
        g, leaves, spec = _flatten_function(f, tree, args)
        gradient = jax.grad(lambda leaves: g(leaves).sum())
        grads, product = jax.jvp(gradient, (leaves,), (optree.tree_leaves(direction),))
        return optree.tree_unflatten(spec, grads), optree.tree_unflatten(spec, product)

    return hvp


def _jax_jacobian(f: Callable[[Array], Array]) -> Callable[[Array], tuple[Array, Array]]:
    import jax

    def value_and_jacobian(x: NativeArray) -> tuple[Array, Array]:
        p = x.shape[-1]
        basis = jax.numpy.broadcast_to(jax.numpy.eye(p, dtype=x.dtype)[:, None, :], (p, *x.shape))
        pair: tuple[Array, Array] = jax.vmap(
            lambda direction: jax.jvp(f, (x,), (direction,)), out_axes=(None, -1)
        )(basis)
        return pair

    return value_and_jacobian


def jax_is_traceable(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Return whether f runs on shapes alone; it cannot be compiled if it needs a value (if, float())."""
    import jax

    g, leaves, _ = _flatten_function(f, tree, args)
    try:
        jax.eval_shape(g, leaves)
    except Exception:  # noqa: BLE001 - whatever f raises here, it raises again when it is evaluated
        return False
    return True


def _jax_is_differentiable(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Return whether JAX can trace f, by shapes alone or with the values on which it branches."""
    import jax

    if jax_is_traceable(f, tree, *args):
        return True
    g, leaves, _ = _flatten_function(f, tree, args)
    try:
        jax.linearize(g, leaves)
    except Exception:  # noqa: BLE001 - float() or NumPy of a tracer; other errors recur later
        return False
    return True


TORCH_AUTODIFF = AutodiffFunctions(
    _torch_value_and_grad, _torch_hvp, _torch_is_differentiable, _torch_jacobian
)
JAX_AUTODIFF = AutodiffFunctions(
    _jax_value_and_grad, _jax_hvp, _jax_is_differentiable, _jax_jacobian
)


# -- Compilation by JAX: compiled functions, and traced ones that compare by what they compute ------------


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
