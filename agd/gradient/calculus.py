"""Directional derivatives, Hessian products and the steepest direction of a function of a tree of arrays.

These public functions answer questions of a user, outside any run: each takes one problem, not a batch,
and may read numbers to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._tree import TreeLayout, tree_dot
from agd._typing import Array, Tree
from agd._validation import as_gradient, as_point, as_value
from agd.gradient.critical_points import CriticalPoint, critical_point
from agd.gradient.gradient_check import GradientCheck, LeafCheck, check_gradient
from agd.gradient.hessian import second_order, slope_along

__all__ = [
    "CriticalPoint",
    "GradientCheck",
    "LeafCheck",
    "check_gradient",
    "critical_point",
    "directional_derivative",
    "hessian_vector_product",
    "steepest_direction",
]


def directional_derivative(
    f_or_grad: Callable[..., Any], x: Tree, u: Tree, args: tuple[Any, ...] = ()
) -> Array:
    r"""Return the rate at which a function changes along u.

    ::

        D_u f(x) = lim_{t -> 0} (f(x + t u) - f(x)) / t = <grad f(x), u>

    u is taken at its own length; divide by it for the rate per unit of distance.

    Parameters
    ----------
    f_or_grad : callable
        The function, ``f(x, *args)``, or its gradient: what it returns says which. A tree like x is the
        gradient, and is multiplied by u; a number is f, which is differentiated by autodiff where x's
        library has one that can follow it, and by a central difference of two calls elsewhere. A 0-d
        array, or float, is a number also where x is 0-d.
    x : tree of arrays
        The point.
    u : tree of arrays
        The direction, in the structure and shapes of x.
    args : tuple
        Further arguments.

    Returns
    -------
    array, shape ()
        The derivative.

    Raises
    ------
    TypeError, ValueError
        If u is not like x, or what comes back is neither a number nor like x.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 2.1 and appendix A.2.

    Examples
    --------
    >>> import numpy as np
    >>> x, u = np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0])
    >>> float(directional_derivative(lambda x: 2.0 * x, x, u))
    22.0
    >>> round(float(directional_derivative(lambda x: np.sum(x * x), x, u)), 6)
    22.0
    """
    x = as_point(x, name="x")
    u = as_gradient(u, x, "u", "be")
    row = backends.of(optree.tree_leaves(x)[0])
    found = f_or_grad(x, *args)
    if not _is_value(found, x):
        return tree_dot(as_gradient(found, x, "f_or_grad"), u)
    if row.autodiff is not None and row.autodiff.is_differentiable(f_or_grad, x, *args):
        grad = row.autodiff.value_and_grad(lambda p: as_value(f_or_grad(p, *args), p))(x)[1]
        return tree_dot(grad, u)
    slope: Array = slope_along(lambda p: as_value(f_or_grad(p, *args), p), x, u, 1.0 / 3.0)
    return slope


def _is_value(found: Any, x: Tree) -> bool:
    """Return whether what came back is a number rather than a tree like x."""
    if isinstance(found, (dict, list, tuple)) or found is None:
        return False
    shape = tuple(np.shape(found))
    same = not isinstance(x, (dict, list, tuple)) and shape == tuple(x.shape) != ()
    return not same and all(length == 1 for length in shape)


def steepest_direction(grad: Tree) -> Tree:
    r"""Return the direction in which a function falls fastest, -g / |g|.

    Parameters
    ----------
    grad : list of numbers, or tree of arrays
        The gradient g.

    Returns
    -------
    tree of arrays
        A tree like g, or an array for a list, of Euclidean length 1 over all its leaves; zeros where g is zero.

    Notes
    -----
    Of all u with \|u\| = 1 it has the least <g, u>, by Cauchy and Schwarz: -\|g\|. The gradient is scaled
    by its largest entry first, so that no square overflows.

    References
    ----------
    Cauchy, Méthode générale pour la résolution des systèmes d'équations simultanées, 1847.

    Examples
    --------
    >>> import numpy as np
    >>> steepest_direction(np.asarray([3.0, -4.0]))
    array([-0.6,  0.8])
    >>> steepest_direction({"a": np.asarray([0.0])})["a"]
    array([0.])
    """
    grad = as_point(grad, name="grad")
    layout = TreeLayout.of(grad)
    g = layout.ravel(grad)
    xp = backends.namespace(g)
    largest = xp.max(xp.abs(g))
    g = g / xp.where(largest == 0.0, xp.ones_like(largest), largest)
    length = xp.sqrt(xp.sum(g * g))
    return layout.unravel(0.0 - g / xp.where(length == 0.0, xp.ones_like(length), length))


def hessian_vector_product(
    fun_or_grad: Callable[..., Any],
    x: Tree,
    v: Tree,
    jac: Any = None,
    args: tuple[Any, ...] = (),
) -> Tree:
    r"""Multiply the matrix of second derivatives with a vector, without forming the matrix.

    ::

        H v = lim_{t -> 0} (grad f(x + t v) - grad f(x)) / t

    Parameters
    ----------
    fun_or_grad : callable
        The function, ``fun(x, *args)``, or its gradient: what it returns says which, as for
        `directional_derivative`. With `jac` it is the function.
    x : tree of arrays
        The point.
    v : tree of arrays
        The vector, in the structure and shapes of x.
    jac : callable, True, str or None
        The function's gradient, as for ``agd.minimize``.
    args : tuple
        Further arguments.

    Returns
    -------
    tree of arrays
        H v, in the structure of x.

    Notes
    -----
    Where x's library differentiates and can follow the function, the product is exact to rounding: the
    gradient's derivative along v (Pearlmutter, 1994), or for a gradient that of <grad, v>, which is H'v
    and so H v. Elsewhere the gradient is differenced centrally: two calls, and a relative error of about
    eps^(2/3). Without a gradient that is itself differenced, by two calls of `fun` for each coordinate,
    and the error is about eps^(4/9): seven digits in double precision, three in single.

    References
    ----------
    Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).

    Examples
    --------
    >>> import numpy as np
    >>> x, v = np.asarray([1.0, 2.0]), np.asarray([1.0, 0.0])
    >>> hessian_vector_product(lambda x: x[0] ** 3 * x[1], x, v).round(4)
    array([12.,  3.])
    >>> hessian_vector_product(lambda x: 3.0 * x, x, v).round(6)
    array([3., 0.])
    """
    x = as_point(x, name="x")
    v = as_gradient(v, x, "v", "be")
    if jac is None:
        found = fun_or_grad(x, *args)
        if not _is_value(found, x):
            as_gradient(found, x, "fun_or_grad")
            return _of_gradient(fun_or_grad, x, v, args)
    return second_order(fun_or_grad, x, jac, args).product(v)


def _of_gradient(grad: Callable[..., Any], x: Tree, v: Tree, args: tuple[Any, ...]) -> Tree:
    row = backends.of(optree.tree_leaves(x)[0])

    def along(p: Tree) -> Array:
        return tree_dot(as_gradient(grad(p, *args), p, "fun_or_grad"), v)

    if row.autodiff is not None and row.autodiff.is_differentiable(along, x):
        return row.autodiff.value_and_grad(along)(x)[1]
    return slope_along(lambda p: as_gradient(grad(p, *args), p, "fun_or_grad"), x, v, 1.0 / 3.0)
