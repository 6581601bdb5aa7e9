"""Automatic differentiation by the libraries that offer it: PyTorch and JAX.

Trees are flattened by optree, and the libraries see lists of leaves alone, so that a dict, list, tuple,
NamedTuple or None means the same to each of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import optree

from agd._typing import Array, NativeArray, Tree
from agd.backends.backend import AutodiffFunctions

__all__ = ["JAX", "TORCH", "jax_is_traceable"]


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


TORCH = AutodiffFunctions(_torch_value_and_grad, _torch_hvp, _torch_is_differentiable)
JAX = AutodiffFunctions(_jax_value_and_grad, _jax_hvp, _jax_is_differentiable)
