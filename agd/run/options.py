"""Stopping rules and callbacks as SciPy spells them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from agd._validation import check_callback, count, not_negative, own
from agd.run.limits import MaxEval
from agd.run.result import Result
from agd.run.stopping import Stop

__all__ = ["from_scipy", "reporting"]

NAMES = {"gtol": "grad_tol", "ftol": "value_tol", "maxiter": "max_iter"}


def reporting(callback: Any) -> Callable[[Result], object] | None:
    """Return what calls a callback as SciPy does, by the name of its parameter.

    Parameters
    ----------
    callback : callable or None
        One whose only parameter is ``intermediate_result`` gets the result so far, any other the point.

    Returns
    -------
    callable or None
        A function of the result so far.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    check_callback(callback)
    if callback is None:
        return None
    try:
        names = list(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # some that are written in C do not say
        names = []
    if names == ["intermediate_result"]:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(own(result.x))


def from_scipy(stop: Any, tol: float | None, options: dict[str, Any] | None) -> Any:
    """Return `stop`, or what SciPy's `tol` and `options` mean where they are given.

    Parameters
    ----------
    stop : Stop, Criterion or None
        Passed through where there is neither of the others.
    tol : float or None
        The gradient's limit.
    options : dict or None
        Of these ``gtol``, ``ftol``, ``maxiter`` and ``maxfun`` (or ``maxfev``) count, where they are not
        None; ``disp`` is not needed, since a result prints itself.

    Returns
    -------
    Stop, Criterion or None
        The rule.

    Raises
    ------
    TypeError, ValueError
        If `stop` is given as well, and for limits that are none.

    Warns
    -----
    UserWarning
        For options that mean nothing here.

    Examples
    --------
    >>> from_scipy(None, None, {"maxiter": 20}).max_iter
    20
    """
    if tol is None and options is None:
        return stop
    if stop is not None:
        raise ValueError("stop and SciPy's tol or options say the same thing: give one of them")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"options must be a dict such as {{'maxiter': 100}}, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given.pop("disp", None)
    known = {name: given.pop(name) for name in (*NAMES, "maxfev", "maxfun") if name in given}
    for name, value in known.items():
        check = not_negative if name.endswith("tol") else count
        check(f"options[{name!r}]", value)
    limits = {NAMES[name]: value for name, value in known.items() if name in NAMES}
    if tol is not None:
        limits.setdefault("grad_tol", not_negative("tol", tol))
    calls = known.get("maxfun", known.get("maxfev"))
    if given:
        unknown = ", ".join(map(repr, given))
        warnings.warn(
            f"options that agd.minimize does not know and ignores: {unknown}; it knows gtol, ftol, "
            f"maxiter and maxfun",
            UserWarning,
            stacklevel=4,
        )
    return Stop(**limits, when=None if calls is None else MaxEval(calls))
