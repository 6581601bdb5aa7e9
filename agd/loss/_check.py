"""What can stand as the penalty of a linear model."""

from __future__ import annotations

from typing import Any

from agd.loss.norms import NuclearNorm

__all__ = ["check_penalty"]


def check_penalty(penalty: Any, where: str = "fit") -> None:
    """Refuse what is no penalty, and one that couples targets, which are fitted apart."""
    if penalty is None:
        return
    if isinstance(penalty, type) or not hasattr(penalty, "smooth"):
        raise TypeError(f"penalty must be an object such as agd.loss.L2(0.1), got {penalty!r}")
    if isinstance(penalty, NuclearNorm):
        raise ValueError(  # noqa: TRY004 - a penalty is what it is: it has no place here
            f"penalty {penalty!r} couples the coefficients of several targets, which {where} keeps "
            f"apart: minimise a function of the matrix of coefficients by agd.minimize(fun, x0, "
            f"penalty=...)"
        )
