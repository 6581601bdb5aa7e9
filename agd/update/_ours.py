"""Which constants of a compiled function may stand for one another."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import numpy as np
import optree

from agd import backends
from agd.update._rule import Rule

__all__ = ["compiled", "ours"]

PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype, np.generic, optree.PyTreeSpec)


def ours(value: Any) -> bool:
    """Return whether what a value does hangs on nothing but what `==` compares.

    So it is with this library's losses, penalties, rules and methods, as long as all that they hold is of
    that kind. A function or an object of the user's may read anything else, which may have changed since.

    Examples
    --------
    >>> from agd.loss import L1
    >>> from agd.update import gradient_descent
    >>> ours(L1(0.1)), ours(gradient_descent(0.1)), ours(gradient_descent(abs))
    (True, True, False)
    """
    if isinstance(value, PLAIN):
        return True
    if isinstance(value, functools.partial):
        return ours((value.func, value.args, tuple(value.keywords.values())))
    if isinstance(value, types.FunctionType):
        return _here(value) and value.__closure__ is None
    if not _here(type(value)) and type(value) is not tuple:
        return isinstance(value, type) and _here(value)
    if isinstance(value, tuple):
        return all(ours(part) for part in value)
    if isinstance(value, Rule):
        return value.factory is not None and ours((value.name, value.hyperparameters))
    made: Any = getattr(type(value), "__dataclass_params__", None)
    if made is None or not made.frozen:
        return False
    fields = (field for field in dataclasses.fields(value) if field.compare)
    return all(ours(getattr(value, field.name)) for field in fields)


def _here(named: Any) -> bool:
    return str(named.__module__).partition(".")[0] == __name__.partition(".")[0]


def compiled(backend: backends.Backend, f: Any, constant: Any) -> Any:
    """Return ``f(static, *arrays)`` compiled, where the backend does: for good if its constant is `ours`."""
    return backend.compile(f) if ours(constant) else backend.compile_unshared(f)
