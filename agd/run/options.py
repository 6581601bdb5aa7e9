"""Stopping rules as SciPy spells them."""

from __future__ import annotations

import warnings
from typing import Any

from agd.run.limits import MaxEval
from agd.run.stopping import Stop

__all__ = ["from_scipy"]

NAMES = {"gtol": "grad_tol", "ftol": "value_tol", "maxiter": "max_iter"}


def from_scipy(stop: Any, tol: float | None, options: dict[str, Any] | None) -> Any:
    """Return `stop`, or what SciPy's `tol` and `options` mean where they are given.

    Parameters
    ----------
    stop : Stop, Criterion or None
        Passed through where there is neither of the others.
    tol : float or None
        The gradient's limit.
    options : dict or None
        Of these ``gtol``, ``ftol``, ``maxiter`` and ``maxfun`` (or ``maxfev``) count; ``disp`` is not
        needed, since a result prints itself.

    Returns
    -------
    Stop, Criterion or None
        The rule.

    Raises
    ------
    ValueError
        If `stop` is given as well.

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
    given = dict(options or {})
    limits = {ours: given.pop(theirs) for theirs, ours in NAMES.items() if theirs in given}
    if tol is not None:
        limits.setdefault("grad_tol", tol)
    calls = given.pop("maxfev", None)
    calls = given.pop("maxfun", calls)
    given.pop("disp", None)
    if given:
        unknown = ", ".join(map(repr, given))
        warnings.warn(
            f"options that agd.minimize does not know and ignores: {unknown}; it knows gtol, ftol, "
            f"maxiter and maxfun",
            UserWarning,
            stacklevel=3,
        )
    return Stop(**limits, when=None if calls is None else MaxEval(calls))
