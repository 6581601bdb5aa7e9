"""Slopes and curvatures of any function: along a direction, and the extreme eigenvalues of its Hessian.

Hessian-vector products lead to the eigenvalues by Lanczos iteration; of few variables the Hessian is formed instead,
and critical points are classified by it. The public functions answer a user outside any run: each takes one problem,
not a batch, and may read numbers to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._tree import TreeLayout, tree_dot
from agd._typing import Array, Tree
from agd._validation import as_gradient, as_point, as_value
from agd.gradient.derivatives import Autodiff, Differences, choose_gradient

__all__ = [
    "MAX_DENSE_VARIABLES",
    "HessianSpectrum",
    "Ritz",
    "SecondOrder",
    "directional_derivative",
    "hessian_from_gradients",
    "hessian_from_values",
    "hessian_vector_product",
    "lanczos",
    "least_eigenvalue",
    "rounding",
    "second_order",
    "slope_along",
    "spectrum",
    "steepest_direction",
    "tolerance",
]

MIN_LANCZOS_STEPS = 5  # before the first look at the Ritz values, which costs k³ operations
BASIS_BLOCK_ROWS = 16  # Lanczos vectors that are stored in one array


class Ritz(NamedTuple):
    """What the Krylov space knows of a matrix H.

    Attributes
    ----------
    values : numpy.ndarray, shape (k,)
        Ritz values, ascending. The least is no less than H's least eigenvalue, the largest no more than
        its largest.
    residuals : numpy.ndarray, shape (k,)
        |H u - theta u| of each: an eigenvalue lies no farther than that.
    weights : numpy.ndarray, shape (k, k)
        Column i holds the coordinates of the i-th Ritz vector in `basis`.
    basis : array, shape (k, n)
        Orthonormal rows.
    """

    values: Any
    residuals: Any
    weights: Any
    basis: Array

    def vector(self, i: int) -> Array:
        """Return the i-th Ritz vector, shape (n,), of unit length."""
        return backends.to_device_of(self.weights[:, i], self.basis) @ self.basis


def lanczos(
    product: Callable[[Array], Array],
    like: Array,
    *,
    rtol: float = 1e-4,
    atol: float = 0.0,
    max_steps: int = 300,
    seed: int = 0,
) -> Ritz:
    r"""Find both ends of a symmetric matrix's spectrum from its products with vectors.

    ::

        beta_k q_{k+1} = H q_k - alpha_k q_k - beta_{k-1} q_{k-1},    alpha_k = q_k · H q_k

    with every new vector orthogonalised against all before it, twice, so that rounding makes no ghosts.
    The eigenvalues of the tridiagonal matrix of alpha and beta are the Ritz values; the residual of one
    is beta_k times the last entry of its eigenvector. Steps end when both ends are known, or when the
    space is one that H maps to itself.

    Parameters
    ----------
    product : callable
        ``product(v)``: H v, for v (n,).
    like : array, shape (n,)
        A vector where those of the products shall be, and of their dtype.
    rtol, atol : float
        An end is known when its residual is at most `rtol` times its absolute value, or `atol` times
        the largest Ritz value. The error of a Ritz value is of the order of the residual's square.
    max_steps : int
        How many products there may be, and vectors are kept.
    seed : int
        Of the first vector, which is drawn on the host, so that every library starts from the same.

    Returns
    -------
    Ritz
        Ritz values with residuals, and their vectors.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4th ed., sections 10.1 and 10.3.

    Examples
    --------
    >>> import numpy as np
    >>> diagonal = np.linspace(-1.0, 5.0, 400)
    >>> found = lanczos(lambda v: diagonal * v, np.zeros(400))
    >>> found.values[[0, -1]].round(4)
    array([-1.,  5.])
    """
    xp, row, n = backends.namespace(like), backends.of(like), int(like.shape[0])
    eps = float(xp.finfo(like.dtype).eps)
    start = np.random.default_rng(seed).standard_normal(n)
    q = backends.to_device_of(start / np.linalg.norm(start), like)
    blocks: list[Array] = []
    alphas: list[float] = []
    betas: list[float] = []
    size, k, look = 0.0, 0, MIN_LANCZOS_STEPS
    while True:
        blocks, k = _stored_vectors(xp, blocks, q), k + 1
        w = product(q)
        alphas.append(_as_float(xp.sum(q * w)))
        # Without `persist` the graph of a lazy vector would grow with every step.
        w = row.persist(_orthogonalise(w, blocks))
        betas.append(_as_float(xp.sqrt(xp.sum(w * w))))
        size = max(abs(alphas[-1]) + betas[-1], size)
        # A beta of rounding alone means that H maps the space to itself: all that the start can reach is known.
        last = betas[-1] <= 10.0 * eps * size or k >= min(n, max_steps) or not math.isfinite(size)
        if last or k == look:
            look += max(MIN_LANCZOS_STEPS, look // 4)
            values, weights, residuals = _ritz_pairs(alphas, betas)
            limit = np.maximum(rtol * np.abs(values), max(atol, eps) * size)
            if last or (residuals <= limit)[[0, -1]].all():
                return Ritz(values, residuals, weights, xp.concat(blocks))
        q = w / betas[-1]


def _stored_vectors(xp: Any, blocks: list[Array], q: Array) -> list[Array]:
    """Add a vector to the last block, so that a step copies one block and not the whole basis."""
    row = xp.reshape(q, (1, -1))
    if blocks and int(blocks[-1].shape[0]) < BASIS_BLOCK_ROWS:
        return [*blocks[:-1], xp.concat([blocks[-1], row])]
    return [*blocks, row]


def _orthogonalise(w: Array, blocks: list[Array]) -> Array:
    """Take off what lies in the span of the basis; twice is enough (Kahan, Parlett)."""
    for block in blocks * 2:
        w = w - (block @ w) @ block
    return w


def _ritz_pairs(alphas: list[float], betas: list[float]) -> tuple[Any, Any, Any]:
    """Return the eigenvalues and eigenvectors of the tridiagonal matrix, and the residuals."""
    # On the host: the tridiagonal matrix is small, and its entries are read there anyway.
    off = np.diag(betas[:-1], 1)
    tridiagonal = np.diag(alphas) + off + off.T
    if not np.isfinite(tridiagonal).all():
        bad = np.full(len(alphas), np.nan)
        return bad, np.eye(len(alphas)), bad
    values, weights = np.linalg.eigh(tridiagonal)
    return values, weights, np.abs(betas[-1] * weights[-1])


def _as_float(x: Array) -> float:
    return float(backends.to_numpy(x))


MAX_DENSE_VARIABLES = 200  # with more, the Hessian is not formed
MAX_BASIS_ENTRIES = 2**27  # that Lanczos may store: 1 GiB in double precision


class HessianSpectrum(NamedTuple):
    """Eigenvalues of a Hessian, on the host.

    Attributes
    ----------
    values : numpy.ndarray, shape (k,)
        Eigenvalues, ascending; Ritz values for many variables.
    residuals : numpy.ndarray, shape (k,)
        How far an eigenvalue may be from each; 0 for a Hessian that was formed.
    vector : callable
        ``vector(i)``: the i-th unit eigenvector, a numpy.ndarray (n,).
    noise : float
        The relative error of the Hessian.
    source : str
        How it was had.
    """

    values: Any
    residuals: Any
    vector: Callable[[int], Any]
    noise: float
    source: str


def tolerance(noise: float, eps: float) -> float:
    """Return the curvature, against the largest, that cannot be told from zero.

    The first bound is rounding in the function's own sums and in the eigenvalues of up to `MAX_DENSE_VARIABLES` rows.
    """
    return max(2000.0 * eps, 30.0 * noise)


def spectrum(f: SecondOrder, layout: TreeLayout, x: Tree, seed: int = 0) -> HessianSpectrum:
    """Find the extreme curvatures of a function.

    Parameters
    ----------
    f : SecondOrder
        The function at x.
    flat : TreeLayout
        The way between x and a vector.
    x : tree of arrays
        The point.
    seed : int
        Of Lanczos's first vector.

    Returns
    -------
    HessianSpectrum
        Its eigenvalues and vectors.
    """
    like, n, eps = layout.ravel(x), layout.size, rounding(x)
    if n > MAX_DENSE_VARIABLES:
        ritz = lanczos(
            lambda v: layout.ravel(f.product(layout.unravel(v))),
            like,
            atol=tolerance(f.noise, eps),
            max_steps=max(50, min(300, MAX_BASIS_ENTRIES // n)),
            seed=seed,
        )
        source = f"Lanczos, {len(ritz.values)} products by {f.source}"
        return HessianSpectrum(
            ritz.values, ritz.residuals, lambda i: as_float64(ritz.vector(i)), f.noise, source
        )
    if f.source == "differences of fun":
        hessian, noise = _from_values(f, layout, like), eps**0.5
    else:
        hessian, noise = _from_products(f, layout, like), f.noise
    if not np.isfinite(hessian).all():
        bad = np.full((n, n), np.nan)
        return HessianSpectrum(bad[0], bad[0], lambda i: bad[:, i], noise, f.source)
    values, vectors = np.linalg.eigh(hessian)
    return HessianSpectrum(
        values, np.zeros(n), lambda i: vectors[:, i], noise, f"Hessian by {f.source}"
    )


def _from_products(f: SecondOrder, layout: TreeLayout, like: Array) -> Any:
    """Form the Hessian column by column; only its symmetric part is kept."""
    xp, n = backends.namespace(like), layout.size
    order = xp.arange(n, device=backends.device(like))
    # Unit vectors by comparison, since arrays cannot be written to in every library.
    units = (xp.astype(order == j, like.dtype) for j in range(n))
    hessian = as_float64(
        xp.stack([layout.ravel(f.product(layout.unravel(unit))) for unit in units])
    )
    return (hessian + hessian.T) / 2.0


def _from_values(f: SecondOrder, layout: TreeLayout, like: Array) -> Any:
    """Form the Hessian from n² + n values, whose error is least, eps^(1/2), at steps of eps^(1/4)."""
    point = backends.to_numpy(like)
    h = float(np.finfo(point.dtype).eps) ** 0.25 * np.maximum(1.0, np.abs(point))

    def value_at(moved: Any) -> Array:
        return f.value(layout.unravel(backends.to_device_of(moved, like)))

    return hessian_from_values(value_at, point, h.astype(point.dtype))[0]


def hessian_from_gradients(gradient_at: Callable[[Any], Array], point: Any, h: Any) -> Any:
    """Form the Hessian from 2 n gradients, by central differences: row i is (g(+i) - g(-i)) / (2 h_i).

    Parameters
    ----------
    gradient_at : callable
        ``gradient_at(point)``: the gradients, an array (..., n).
    point, h : numpy.ndarray, shape (..., n)
        Where, and how far each entry is moved.

    Returns
    -------
    numpy.ndarray, shape (..., n, n)
        The Hessian, symmetric but for the error of the differences.
    """
    moves = [h * axis for axis in np.eye(point.shape[-1], dtype=point.dtype)]
    gradients = [gradient_at(point + sign * move) for move in moves for sign in (1, -1)]
    # The host reads all gradients at once.
    read = [x.astype(np.float64) for x in backends.read_together(gradients)]
    rows = [above - below for above, below in zip(read[::2], read[1::2], strict=True)]
    hessian: Any = np.stack(rows, axis=-2) / (2.0 * h.astype(np.float64))[..., None]
    return hessian


def hessian_from_values(value_at: Callable[[Any], Array], point: Any, h: Any) -> tuple[Any, Any]:
    """Form the Hessian from n² + n + 1 values, by central second differences.

    H_ij = (f(+i+j) - f(+i) - f(+j) + 2 f - f(-i) - f(-j) + f(-i-j)) / (2 h_i h_j).

    Parameters
    ----------
    value_at : callable
        ``value_at(point)``: the values, an array of the batch axes.
    point, h : numpy.ndarray, shape (..., n)
        Where, and how far each entry is moved.

    Returns
    -------
    tuple of numpy.ndarray, shapes (..., n, n) and (...)
        The Hessian, and the value at the point.
    """
    n = point.shape[-1]
    h = (point + h) - point  # so that x + h is exact

    def at(*moves: tuple[int, int]) -> Array:
        moved = np.array(point)
        for i, sign in moves:
            moved[..., i] = point[..., i] + sign * h[..., i]
        return value_at(moved)

    pairs = [(i, j) for i in range(n) for j in range(i)]
    values = [at()]
    for i in range(n):
        values += at((i, 1)), at((i, -1))
    for i, j in pairs:
        values += at((i, 1), (j, 1)), at((i, -1), (j, -1))
    # The host reads all values at once.
    middle, *read = (x.astype(np.float64) for x in backends.read_together(values))
    sums, h = [a + b for a, b in zip(read[::2], read[1::2], strict=True)], h.astype(np.float64)
    sides, corners = sums[:n], dict(zip(pairs, sums[n:], strict=True))
    hessian = np.zeros((*point.shape, n))
    for i in range(n):
        hessian[..., i, i] = (sides[i] - 2.0 * middle) / h[..., i] ** 2
        for j in range(i):
            rise = corners[i, j] + 2.0 * middle - sides[i] - sides[j]
            rise = rise / (2.0 * h[..., i] * h[..., j])
            hessian[..., i, j] = hessian[..., j, i] = rise
    return hessian, middle


def as_float64(x: Array) -> Any:
    """Read an array to the host in double precision."""
    return np.asarray(backends.to_numpy(x), dtype=np.float64)


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
    eps, layout = rounding(x), TreeLayout.of(x)
    point, along = layout.ravel(x), layout.ravel(v)
    xp = backends.namespace(point)
    one = xp.ones_like(along[0])
    size, longest = xp.maximum(xp.max(xp.abs(point)), one), xp.max(xp.abs(along))
    # A zero direction would divide by zero; any t gives it a derivative of 0.
    still = longest == 0.0
    t = eps**power * size / xp.where(still, one, longest)
    ahead, behind = f(layout.unravel(point + t * along)), f(layout.unravel(point - t * along))

    def quotient(a: Array, b: Array) -> Array:
        # Leaves may have several dtypes, and t has the widest.
        return (a - b) / xp.astype(2.0 * t, a.dtype)

    return optree.tree_map(quotient, ahead, behind)


def least_eigenvalue(moved: Any, hessian: Any, eps: float) -> float:
    """Return the least eigenvalue of J H J', with 0 for one that the rounding of H may have made."""
    values = np.linalg.eigvalsh(moved @ hessian @ moved.T)
    sizes = np.abs(moved) @ np.abs(hessian) @ np.abs(moved).T
    noise = len(values) * eps * sizes.sum(axis=-1).max()
    return float(values[0]) if values[0] > noise else 0.0


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
