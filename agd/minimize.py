"""Door: minimise any function of any tree of arrays, on whatever array you hold.

>>> import numpy as np
>>> import agd
>>> def rosenbrock(x):
...     return (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2
>>> found = agd.minimize(rosenbrock, [-1.2, 1.0])
>>> found.x.round(4), found.success, found.gradient
(array([1., 1.]), True, '2-point')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd._typing import Method, Penalty, Tree
from agd.run import Criterion, Stop
from agd.run.function import MinimizeResult, descend
from agd.update import Rule

__all__ = ["MinimizeResult", "maximize", "minimize"]


def minimize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    method: str | Rule | Method | None = "lbfgs",
    bounds: Any = None,
    penalty: Penalty | None = None,
    stop: Stop | Criterion | None = None,
    callback: Callable[..., object] | None = None,
    batch: int = 0,
    certify: bool = False,
    tol: float | None = None,
    options: dict[str, Any] | None = None,
) -> MinimizeResult:
    r"""Minimise a function of an array or of a tree of arrays by descent.

    ::

        min over x of  fun(x, *args) + penalty(x),    low <= x <= high

    The result comes back in the structure, library, dtype and device of `x0`; nothing is written to what
    you pass. A script written for ``scipy.optimize.minimize`` needs only another import, as long as its
    method is one that follows the gradient and it has neither `hess` nor `constraints`.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``: a number; with `batch`, an array with one number for each problem. It is called
        with arrays of the library of `x0`.
    x0 : array, list of numbers, or tree of arrays
        The first point: an array of any shape, or a dict, list, tuple or NamedTuple of arrays. Integers
        and half precision become the library's default float, in which `fun` is called and the result
        comes back. A single number is an array of shape () (in SciPy, of (1,)).
    args : tuple
        Further arguments of `fun` and `jac`; what is no tuple is the only one. The methods "sgd" and
        "svrg" call these with mini-batches: with some of the rows of all arrays in it, which must share
        their first axis, such as X (n, p) and y (n,). `fun` must then be a mean over the rows.
    jac : callable, True, "autodiff", "2-point", "3-point" or None
        The gradient: ``jac(x, *args)`` in the structure of x; True if `fun` returns the pair of value
        and gradient; the library's automatic differentiation (PyTorch, JAX); finite differences, at one
        or two calls of `fun` for each entry. Where 2-point differences know no more of the gradient, as
        at the end, they make way for 3-point ones. None is autodiff where the library has it and can follow
        `fun`, and 2-point elsewhere; ``result.gradient`` says which.
    method : str, Rule, Method or None
        ``"lbfgs"`` (and None, "BFGS", "L-BFGS-B"), which within bounds is projected L-BFGS and with a
        penalty that has a prox accelerated proximal gradient; another name in ``agd.update.SOLVERS`` or ``agd.update.METHODS``;
        a rule such as ``agd.update.adam(0.1)``; or an object such as ``agd.update.cg()``. None of the
        names needs a step. ``result.method`` says what was done.
    bounds : sequence of pairs, object with lb and ub, or tree of these, optional
        For an array (low, high) for each entry (with `batch`, of each problem or of all), with None for a
        side that is open, or an object such as ``scipy.optimize.Bounds``; for a tree, in its structure,
        one of these for each leaf, or one pair for all its entries. All points at which `fun` is called lie within them.
    penalty : Penalty, optional
        What is added to `fun`, such as ``agd.loss.L1(0.1)``, for each leaf along its last axis. Beside
        bounds, one that is smooth or treats every entry by itself.
    stop : Stop or criterion, optional
        When to stop, such as ``agd.Stop(max_iter=100)`` or ``agd.GradTol(1e-8) | agd.Deadline(10)``; by
        default a gradient with no entry above eps^(1/3) (6e-6 in float64, 5e-3 in float32), or by
        differences above their error 4 eps^(2/3) |f|, if that is more (``result.certificate.tolerance``
        says what it was), or 10,000 iterations.
    callback : callable, optional
        Called after every iteration (where looking costs a transfer, every ``stop.check_every``
        evaluations). As in SciPy, one whose only parameter is ``intermediate_result`` gets the result so
        far, any other the point. It ends the run by raising StopIteration or returning True: Python's or
        NumPy's, or an array of one bool. What else it returns is ignored, a number or list too.
    batch : int
        How many leading axes of every leaf number independent problems: with 1, x0 (b, ...) are b
        problems in one run, each with its own step, line search, status and count.
    certify : bool
        Whether to find out what kind of point was found, from second derivatives (see
        ``agd.critical_point``): ``result.certificate.kind`` is then "minimum", "saddle", ..., with the
        extreme curvatures there. Where the run stopped at a gradient larger than that asks for, such as
        with ``agd.GradTol(1e-2)``, its limit says what is critical. Calls of `fun` for this are not
        counted. For one problem without bounds.
    tol, options : float, dict, optional
        As SciPy spells stopping rules: `tol` is the gradient's limit, and of the options ``gtol``,
        ``ftol``, ``maxiter`` and ``maxfun`` count. Not together with `stop`.

    Returns
    -------
    MinimizeResult
        The point, the value, the gradient there, the status and how it came about. For a batch the
        numbers are arrays with one entry a problem.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, x0 that is not finite, and a function or gradient that is not
        finite at x0 or returns another shape.

    Notes
    -----
    Each step evaluates `fun` and its gradient together, once, at the trial point of a line search that is
    itself a state machine (``agd.update.StrongWolfe``): so batches, compiled steps and devices need no
    answer from the host between two looks. ``nit`` counts accepted steps, ``nfev`` calls of `fun`. For
    `fun` differentiated by PyTorch that includes the one which finds out whether autograd can follow it.

    On JAX the steps are compiled where `fun` can be traced. One that branches on a value
    (``if x[0] < 0``) is differentiated as it runs, and one that leaves JAX (``float(x[0])``, NumPy) by
    differences; ``result.method`` then ends in "not compiled". What is called for tracing is not counted.
    Every call traces `fun` anew, so that the answer is that of the function as it is then, whatever it reads:
    attributes, globals, arrays that were written to. What was compiled is used again only where the
    trace is the same but for the values of its arrays, and the method and the penalty are of this
    library; what is compiled for a penalty or a rule of your own serves one call. What changes while a
    call runs (in its `callback`) is not seen. Data are best passed as `args`.

    A value or gradient that is not finite is a step too far: it is cut back. If nothing else is found to
    the last, the status is NON_FINITE, and x the last point where both are finite.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> def fun(x, a):
    ...     return np.sum((x - a) ** 2)
    >>> agd.minimize(fun, np.zeros(2), (3.0,), jac=lambda x, a: 2.0 * (x - a)).x
    array([3., 3.])
    >>> agd.minimize(fun, np.zeros(2), (3.0,), bounds=[(0, 1), (None, None)]).x.round(4)
    array([1., 3.])
    >>> tree = {"w": np.zeros(2), "b": np.asarray(1.0)}
    >>> found = agd.minimize(lambda p: np.sum((p["w"] - p["b"]) ** 2) + p["b"] ** 2, tree)
    >>> sorted(found.x), found.x["w"].shape
    (['b', 'w'], (2,))
    """
    return descend(
        fun, x0, args, jac=jac, method=method, bounds=bounds, penalty=penalty, stop=stop,
        callback=callback, batch=batch, certify=certify, tol=tol, options=options, negative=False,
    )  # fmt: skip


def maximize(
    fun: Callable[..., Any],
    x0: Tree,
    args: Any = (),
    *,
    jac: Any = None,
    method: str | Rule | Method | None = "lbfgs",
    bounds: Any = None,
    penalty: Penalty | None = None,
    stop: Stop | Criterion | None = None,
    callback: Callable[..., object] | None = None,
    batch: int = 0,
    certify: bool = False,
    tol: float | None = None,
    options: dict[str, Any] | None = None,
) -> MinimizeResult:
    """Maximise a function: minimise its negative, and report the function.

    Parameters
    ----------
    fun, x0, args, jac
        As for `minimize`; `fun` and `jac` are the function to maximise and its gradient.
    method, bounds, stop, callback, batch, certify, tol, options
        As for `minimize`.
    penalty : Penalty, optional
        What is taken off `fun`.

    Returns
    -------
    MinimizeResult
        With `fun`, `jac` and the history's values those of the function to maximise, less the penalty, and
        the certificate's kind that of its point. The message and the certificate's curvatures are those of
        the negative, which falls.

    Raises
    ------
    TypeError, ValueError
        As `minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> found = agd.maximize(lambda x: 3.0 - (x - 1.0) ** 2, np.asarray(0.0))
    >>> round(float(found.x), 4), round(found.fun, 4)
    (1.0, 3.0)
    """
    return descend(
        fun, x0, args, jac=jac, method=method, bounds=bounds, penalty=penalty, stop=stop,
        callback=callback, batch=batch, certify=certify, tol=tol, options=options, negative=True,
    )  # fmt: skip
