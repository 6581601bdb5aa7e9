"""Products with the Hessian of any function: autodiff where it can follow, else differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import as_value
from agd.gradient.differentiate import Autodiff, Differences, choose_gradient
from agd.gradient.flat import Flat

__all__ = ["SecondOrder", "rounding", "second_order", "slope_along"]


class SecondOrder(NamedTuple):
    """A function's value, gradient and products with its Hessian at one point.

    Attributes
    ----------
    value : callable
        ``value(tree)``: f there, a 0-d array.
    pair : callable
        ``pair(tree)``: value and gradient there.
    product : callable
        ``product(v)``: H v, with H the Hessian at the point.
    noise, grad_noise : float
        The relative errors of a product, and of the gradient.
    source : str
        "autodiff", "differences of the gradient" or "differences of fun".
    """

    value: Callable[[Tree], Array]
    pair: Callable[[Tree], tuple[Array, Tree]]
    product: Callable[[Tree], Tree]
    noise: float
    grad_noise: float
    source: str


def rounding(tree: Tree) -> float:
    """Return the largest eps among the leaves' dtypes."""
    leaves = optree.tree_leaves(tree)
    return max(float(backends.namespace(x).finfo(x.dtype).eps) for x in leaves)


def second_order(
    fun: Callable[..., Any], x: Tree, jac: Any = None, args: tuple[Any, ...] = ()
) -> SecondOrder:
    """Settle how products with a Hessian are computed.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number.
    x : tree of arrays
        The point.
    jac : callable, True, str or None
        As for `choose_gradient`.
    args : tuple
        Further arguments of both.

    Returns
    -------
    SecondOrder
        The functions, and how exact they are.
    """
    how = choose_gradient(fun, jac, x, args)
    row, eps = backends.of(optree.tree_leaves(x)[0]), rounding(x)
    gradient: Any = how.value_and_grad

    def value(tree: Tree) -> Array:
        found = fun(tree, *args)
        return as_value(found[0] if jac is True else found, tree)

    def pair(tree: Tree) -> tuple[Array, Tree]:
        found: tuple[Array, Tree] = row.persist(gradient(tree, *args))
        return found

    auto = row.autodiff
    if auto is not None and (
        how.name == "autodiff" or (how.name == "jac" and auto.is_differentiable(fun, x, *args))
    ):
        hvp = auto.hvp(Autodiff(fun).value)
        return SecondOrder(value, pair, lambda v: hvp(x, v, *args)[1], eps, eps, "autodiff")
    if isinstance(gradient, Differences):
        gradient = Differences(fun, "3-point")  # the 2-point formula's error would swamp the second
        power, grad_noise, source = 2.0 / 9.0, eps ** (2.0 / 3.0), "differences of fun"
    else:
        power, grad_noise, source = 1.0 / 3.0, eps, "differences of the gradient"

    def product(v: Tree) -> Tree:
        return row.persist(slope_along(lambda tree: pair(tree)[1], x, v, power))

    return SecondOrder(value, pair, product, eps ** (2.0 * power), grad_noise, source)


def slope_along(f: Callable[[Tree], Tree], x: Tree, v: Tree, power: float) -> Tree:
    """Return the derivative of f along v by the central difference (f(x + t v) - f(x - t v)) / 2t.

    The largest entry moves by eps^power max(1, |x|), with the largest entry of x: power 1/3 where f is
    exact to rounding, 2/9 where f has itself been differenced by the 3-point formula. A zero v gives 0.
    """
    eps, flat = rounding(x), Flat.of(x)
    point, along = flat.vector(x), flat.vector(v)
    xp = backends.namespace(point)
    one = xp.ones_like(along[0])
    size, longest = xp.maximum(xp.max(xp.abs(point)), one), xp.max(xp.abs(along))
    still = longest == 0.0
    t = eps**power * size / xp.where(still, one, longest)
    ahead, behind = f(flat.tree(point + t * along)), f(flat.tree(point - t * along))

    def quotient(a: Array, b: Array) -> Array:
        return (a - b) / xp.astype(2.0 * t, a.dtype)

    return optree.tree_map(quotient, ahead, behind)
