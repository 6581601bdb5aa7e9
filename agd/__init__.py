"""Fit and minimise by gradient descent on whatever array you hold.

The loss, its gradient and the update step are written once, against the Python Array API; NumPy runs
them on the CPU, CuPy on the GPU, and PyTorch, JAX and Dask arrays run them too.

>>> import numpy as np
>>> import agd
>>> X = np.asarray([[1.0], [2.0], [3.0], [4.0]])
>>> y = np.asarray([5.5, 6.0, 6.5, 7.0])
>>> line = agd.fit(X, y)
>>> line.coef.round(6), round(float(line.intercept), 6)
(array([0.5]), 5.0)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agd import backends, gradient, line, linear, loss, run, update
    from agd._validation import ConvergenceWarning
    from agd.gradient import (
        Stream,
        check_gradient,
        critical_point,
        directional_derivative,
        grad,
        hessian_vector_product,
        steepest_direction,
        value_and_grad,
    )
    from agd.least_squares import CurveFit, LeastSquaresResult, curve_fit, least_squares
    from agd.line import gradient_descent, loss_fn, train
    from agd.linear import FitResult, fit, path
    from agd.minimize import MinimizeResult, maximize, minimize
    from agd.model_selection import CrossValidation, PenaltyPath, cross_validate, penalty_path
    from agd.online import Online
    from agd.run import (
        Deadline,
        GradTol,
        MaxEval,
        MaxIter,
        Result,
        Status,
        StepTol,
        Stop,
        ValueTol,
    )
    from agd.run.result import load, save
    from agd.update import apply_updates

__all__ = [
    "ConvergenceWarning",
    "CrossValidation",
    "CurveFit",
    "Deadline",
    "FitResult",
    "GradTol",
    "LeastSquaresResult",
    "MaxEval",
    "MaxIter",
    "MinimizeResult",
    "Online",
    "PenaltyPath",
    "Result",
    "Status",
    "StepTol",
    "Stop",
    "Stream",
    "ValueTol",
    "apply_updates",
    "backends",
    "check_gradient",
    "critical_point",
    "cross_validate",
    "curve_fit",
    "directional_derivative",
    "fit",
    "grad",
    "gradient",
    "gradient_descent",
    "hessian_vector_product",
    "least_squares",
    "line",
    "linear",
    "load",
    "loss",
    "loss_fn",
    "maximize",
    "minimize",
    "path",
    "penalty_path",
    "run",
    "save",
    "steepest_direction",
    "train",
    "update",
    "value_and_grad",
]

__version__ = "0.2.0.dev0"

# A name is loaded when it is first asked for (PEP 562), so that a program that imports agd, and may not
# need it, waits for none of it.
_ROOMS = ("backends", "gradient", "line", "linear", "loss", "run", "update")
_NAMES = {
    "_validation": ("ConvergenceWarning",),
    "gradient": (
        "Stream",
        "check_gradient",
        "critical_point",
        "directional_derivative",
        "grad",
        "hessian_vector_product",
        "steepest_direction",
        "value_and_grad",
    ),
    "least_squares": ("CurveFit", "LeastSquaresResult", "curve_fit", "least_squares"),
    "line": ("gradient_descent", "loss_fn", "train"),
    "linear": ("FitResult", "fit", "path"),
    "minimize": ("MinimizeResult", "maximize", "minimize"),
    "model_selection": ("CrossValidation", "PenaltyPath", "cross_validate", "penalty_path"),
    "online": ("Online",),
    "run": (
        "Deadline",
        "GradTol",
        "MaxEval",
        "MaxIter",
        "Result",
        "Status",
        "StepTol",
        "Stop",
        "ValueTol",
    ),
    "run.result": ("load", "save"),
    "update": ("apply_updates",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}


class _Package(ModuleType):
    """The package, in which `minimize` and `least_squares` are the functions and never the modules of these names."""

    def __setattr__(self, name: str, value: Any) -> None:
        # What imports a submodule binds it here: it would hide the function.
        if name in {"minimize", "least_squares"} and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"agd.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'agd' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"agd.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
