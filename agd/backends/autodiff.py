"""Automatic differentiation, for the libraries that have one: PyTorch and JAX.

Trees are taken apart by optree and the libraries see flat lists of leaves, so that a dict, list, tuple,
NamedTuple or None means the same to every one of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import optree

from agd._typing import Array, Tree
from agd.backends.backend import Autodiff

__all__ = ["JAX", "TORCH", "jax_traces"]


def _flat(f: Callable[..., Array], tree: Tree, args: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """Return f as a function of a list of leaves, the leaves of `tree`, and the way back."""
    leaves, spec = optree.tree_flatten(tree)

    def of_leaves(leaves: Any) -> Array:
        return f(optree.tree_unflatten(spec, leaves), *args)

    return of_leaves, leaves, spec


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_tracked(leaves: list[Array]) -> list[Array] | None:
    """Return leaves for autograd to follow; None inside torch.func, which has a tape of its own."""
    import torch

    if torch.is_inference_mode_enabled():
        return None
    try:
        return [x.detach().requires_grad_() for x in leaves]
    except RuntimeError:  # a transform of torch.func refuses it before anything was computed
        return None


def _torch_value_and_grad(f: Callable[..., Array]) -> Callable[..., tuple[Array, Tree]]:
    """Differentiate by autograd, which takes any eager code; by torch.func inside its transforms."""
    import torch

    def value_and_grad(tree: Tree, *args: Any) -> tuple[Array, Tree]:
        g, leaves, spec = _flat(f, tree, args)
        tracked = _torch_tracked(leaves)
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


def _torch_gradient(total: Array, leaves: list[Array], graph: bool = False) -> list[Array]:
    """Return the gradient of a number, zero for what it doesn't depend on."""
    import torch

    if not total.requires_grad:  # a constant
        return [torch.zeros_like(x) for x in leaves]
    return list(
        torch.autograd.grad(
            total, leaves, create_graph=graph, allow_unused=True, materialize_grads=True
        )
    )


def _torch_hvp(f: Callable[..., Array]) -> Callable[..., tuple[Tree, Tree]]:
    """Differentiate the inner product of the gradient and the direction."""
    import torch

    def hvp(tree: Tree, direction: Tree, *args: Any) -> tuple[Tree, Tree]:
        g, leaves, spec = _flat(f, tree, args)
        along = optree.tree_leaves(direction)
        tracked = _torch_tracked(leaves)
        if tracked is None:
            slope = torch.func.grad(lambda leaves: g(leaves).sum())
            grads, product = torch.func.jvp(slope, (leaves,), (along,))[:2]
        else:
            with torch.enable_grad():
                grads = _torch_gradient(g(tracked).sum(), tracked, graph=True)
                inner = sum((a * b).sum() for a, b in zip(grads, along, strict=True))
                product = _torch_gradient(inner, tracked)
            grads = [x.detach() for x in grads]
        return optree.tree_unflatten(spec, grads), optree.tree_unflatten(spec, product)

    return hvp


def _torch_sees(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Evaluate f once: whether what it returns still hangs on the tree."""
    import torch

    g, leaves, _ = _flat(f, tree, args)
    tracked = _torch_tracked(leaves)
    if tracked is None:
        return True  # inside torch.func nothing else is possible
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # float(x) of a tensor that autograd follows warns; here that is the question, not news.
            warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
            value = g(tracked)
    except (RuntimeError, TypeError):  # NumPy is refused; any other error comes again, by itself
        return False
    return bool(getattr(value, "requires_grad", False))


# -- JAX -----------------------------------------------------------------------------------------


def _jax_value_and_grad(f: Callable[..., Array]) -> Callable[..., tuple[Array, Tree]]:
    import jax

    def value_and_grad(tree: Tree, *args: Any) -> tuple[Array, Tree]:
        g, leaves, spec = _flat(f, tree, args)

        def total(leaves: Any) -> tuple[Array, Array]:
            value = g(leaves)
            return value.sum(), value

        (_, value), grads = jax.value_and_grad(total, has_aux=True)(leaves)
        return value, optree.tree_unflatten(spec, grads)

    return value_and_grad


def _jax_hvp(f: Callable[..., Array]) -> Callable[..., tuple[Tree, Tree]]:
    import jax

    def hvp(tree: Tree, direction: Tree, *args: Any) -> tuple[Tree, Tree]:
        g, leaves, spec = _flat(f, tree, args)
        slope = jax.grad(lambda leaves: g(leaves).sum())
        grads, product = jax.jvp(slope, (leaves,), (optree.tree_leaves(direction),))
        return optree.tree_unflatten(spec, grads), optree.tree_unflatten(spec, product)

    return hvp


def jax_traces(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Run f on shapes alone: what needs a value on the way (an if, a float()) cannot be compiled."""
    import jax

    g, leaves, _ = _flat(f, tree, args)
    try:
        jax.eval_shape(g, leaves)
    except Exception:  # noqa: BLE001 - whatever f raises under a trace, it raises again when it is run
        return False
    return True


def _jax_sees(f: Callable[..., Any], tree: Tree, *args: Any) -> bool:
    """Whether f can be followed: by shapes alone, or with values where it branches on them."""
    import jax

    if jax_traces(f, tree, *args):
        return True
    g, leaves, _ = _flat(f, tree, args)
    try:
        jax.linearize(g, leaves)
    except Exception:  # noqa: BLE001 - no float() or NumPy array of a tracer; else it comes again
        return False
    return True


TORCH = Autodiff(_torch_value_and_grad, _torch_hvp, _torch_sees)
JAX = Autodiff(_jax_value_and_grad, _jax_hvp, _jax_sees)
