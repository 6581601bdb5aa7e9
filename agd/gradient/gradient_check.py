"""Check a gradient against differences of its function, and explain a mismatch: the entry, sign or factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import as_gradient, as_point, as_value
from agd.gradient.curvature import as_float64, rounding
from agd.gradient.derivatives import Autodiff, difference

__all__ = [
    "GradientCheck",
    "LeafCheck",
    "check_gradient",
]


@dataclass(frozen=True)
class LeafCheck:
    """One leaf of a gradient.

    Attributes
    ----------
    name : str
        Where the leaf is: "x", "x['w']", ...
    ok : bool
        Whether it is right.
    error : float
        The worst relative error; NaN where the shapes differ.
    index : tuple of int or None
        The entry with the worst error.
    given, expected : float
        What `jac` has there, and what was measured.
    verdict : str
        What is wrong, in words; "right" if nothing.
    """

    name: str
    ok: bool
    error: float
    index: tuple[int, ...] | None
    given: float
    expected: float
    verdict: str


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """What `check_gradient` found; prints as a table.

    Attributes
    ----------
    leaves : tuple of LeafCheck
        One for each leaf of x.
    against : str
        What the gradient was held against: "autodiff" or "3-point".
    tol : float
        The relative error that is let pass.
    """

    leaves: tuple[LeafCheck, ...]
    against: str
    tol: float

    @property
    def ok(self) -> bool:
        """Whether every leaf is right."""
        return all(leaf.ok for leaf in self.leaves)

    @property
    def error(self) -> float:
        """The worst relative error over all leaves; NaN if one could not be compared."""
        return float(np.max([leaf.error for leaf in self.leaves]))

    def __bool__(self) -> bool:
        """Whether every leaf is right."""
        return self.ok

    def __repr__(self) -> str:
        """Return the table."""
        head = "right" if self.ok else "WRONG"
        title = f"gradient: {head} (against {self.against}, relative tolerance {self.tol:.1e})"
        rows: list[tuple[str, ...]] = [("leaf", "error", "at", "given", "expected", "verdict")]
        for leaf in self.leaves:
            at = "" if leaf.index is None else str(list(leaf.index))
            numbers = [
                "" if np.isnan(number) and leaf.index is None else f"{number:.{digits}g}"
                for number, digits in ((leaf.error, 2), (leaf.given, 6), (leaf.expected, 6))
            ]
            rows.append((leaf.name, numbers[0], at, *numbers[1:], leaf.verdict))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        return "\n".join([title, *(line.rstrip() for line in lines)])


def check_gradient(
    fun: Callable[..., Any],
    jac: Any,
    x: Tree,
    args: tuple[Any, ...] = (),
    *,
    tol: float | None = None,
) -> GradientCheck:
    r"""Hold a gradient against the function that it should be of.

    ::

        error_j = |given_j - measured_j| / (max(|given_j|, |measured_j|) + noise_j / tol)

    The measured gradient is autodiff's where x's library has one that can follow `fun`, with noise 0;
    elsewhere it is by central differences, with noise eps^(2/3) max(1, |f|) / max(1, |x_j|).

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number; with ``jac=True`` the pair of value and gradient.
    jac : callable or True
        ``jac(x, *args)``: the gradient to check.
    x : tree of arrays
        Where to check it. A point without symmetries tells most: at zero, or where all entries are
        equal, many wrong gradients are right.
    args : tuple
        Further arguments of both.
    tol : float, optional
        The relative error to let pass; eps^(1/4) by default: 1e-4 in double precision, 2e-2 in single.

    Returns
    -------
    GradientCheck
        The worst error of every leaf and where it is, and a verdict, which knows a wrong sign, a
        constant factor, a wrong shape and a transpose. ``check.ok`` says whether all is well.

    Raises
    ------
    TypeError
        If `jac` is neither callable nor True.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 8.1, on the error of differences.

    Examples
    --------
    >>> import numpy as np
    >>> check_gradient(lambda x: np.sum(x * x), lambda x: -2.0 * x, np.asarray([1.0, 2.0]))
    gradient: WRONG (against 3-point, relative tolerance 1.2e-04)
    leaf  error  at   given  expected  verdict
    x     2      [1]  -4     4         wrong sign: jac is minus the gradient
    """
    if not (callable(jac) or jac is True):
        raise TypeError(f"jac must be a callable or True, got {type(jac).__name__}")
    x = as_point(x, name="x")
    tol = float(rounding(x) ** 0.25) if tol is None else tol
    given: Any = fun(x, *args)[1] if jac is True else jac(x, *args)
    value, measured, against = _measure_errors(fun, jac, x, args)
    paths, leaves, spec = optree.tree_flatten_with_path(x)
    single = len(leaves) == 1 and not paths[0]
    found, structure = ([given], spec) if single else optree.tree_flatten(given)
    if structure != spec:
        verdict = f"wrong structure: {structure}, x has {spec}"
        return GradientCheck((_failed_entries("x", verdict),), against, tol)
    size = 0.0 if against == "autodiff" else max(1.0, abs(float(backends.to_numpy(value))))
    checks = []
    for path, g, leaf, expected in zip(
        paths, found, leaves, optree.tree_leaves(measured), strict=True
    ):
        name = "x" + "".join(f"[{key!r}]" for key in path)
        checks.append(_check_leaf(name, g, leaf, expected, tol, size))
    return GradientCheck(tuple(checks), against, tol)


def _measure_errors(
    fun: Callable[..., Any], jac: Any, x: Tree, args: tuple[Any, ...]
) -> tuple[Array, Tree, str]:
    def f(tree: Tree) -> Any:
        found = fun(tree, *args)
        return found[0] if jac is True else found

    auto = backends.of(optree.tree_leaves(x)[0]).autodiff
    if auto is not None and auto.is_differentiable(f, x):
        return *Autodiff(f)(x), "autodiff"
    with backends.device_context(optree.tree_leaves(x)[0]), np.errstate(all="ignore"):
        value, grad = difference(f, x, "3-point")
    return as_value(value, x), grad, "3-point"


def _failed_entries(name: str, verdict: str) -> LeafCheck:
    nan = float("nan")
    return LeafCheck(
        name, ok=False, error=nan, index=None, given=nan, expected=nan, verdict=verdict
    )


def _check_leaf(
    name: str, given: Any, leaf: Array, expected: Array, tol: float, size: float
) -> LeafCheck:
    shape = tuple(leaf.shape)
    if backends.is_array(given) and tuple(given.shape) != shape:
        return _failed_entries(name, f"wrong shape: {tuple(given.shape)}, {name} has {shape}")
    try:
        a = as_float64(as_gradient(given, leaf))
    except (TypeError, ValueError) as error:  # no array, or none of this library
        return _failed_entries(name, str(error))
    b, point = as_float64(expected), as_float64(leaf)
    eps = float(backends.namespace(leaf).finfo(leaf.dtype).eps)
    noise = eps ** (2.0 / 3.0) * size / np.maximum(1.0, np.abs(point))
    test = _GradientTest(tol, noise)
    errors = test.errors(a, b)
    # NaN counts as the worst: argmax stops at the first.
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(errors)), shape))
    return LeafCheck(
        name,
        ok=bool((errors <= tol).all()),
        error=float(errors[index]),
        index=index,
        given=float(a[index]),
        expected=float(b[index]),
        verdict=_word_verdict(a, b, errors, test),
    )


class _GradientTest(NamedTuple):
    tol: float
    noise: Any

    def errors(self, a: Any, b: Any) -> Any:
        # Where both are zero, and exact, there is no error.
        scale = np.maximum(np.abs(a), np.abs(b)) + self.noise / self.tol
        return np.abs(a - b) / np.where(scale == 0.0, 1.0, scale)

    def passes(self, a: Any, b: Any, slack: float = 1.0) -> bool:
        return bool((self.errors(a, b) <= slack * self.tol).all())


def _word_verdict(a: Any, b: Any, errors: Any, test: _GradientTest) -> str:
    """Say what is wrong with a leaf, where it is one of the usual slips."""
    for what, side in (("jac", a), ("the measured gradient", b)):
        if not np.isfinite(side).all():
            return f"{what} is not finite in {int((~np.isfinite(side)).sum())} of {a.size} entries"
    if (errors <= test.tol).all():
        return "right"
    if not a.any():
        return "jac is zero, the gradient is not"
    if test.passes(-a, b):
        return "wrong sign: jac is minus the gradient"
    square = float(np.sum(b * b))
    factor = float(np.sum(a * b)) / square if square > 0.0 else 0.0
    # The factor is measured too, and carries an error of its own: hence the slack.
    if factor != 0.0 and test.passes(a / factor, b, slack=3.0):
        sign = " and sign" if factor < 0.0 else ""
        return f"wrong scale{sign}: jac is {factor:.6g} times the gradient"
    if a.ndim == 2 and a.shape[0] == a.shape[1] and test.passes(a.T, b):
        return "jac is the transpose of the gradient"
    return f"wrong in {int((errors > test.tol).sum())} of {a.size} entries"
