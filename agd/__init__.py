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

from agd import backends, gradient, linear, loss, run, update
from agd._validation import ConvergenceWarning
from agd.gradient import (
    check_gradient,
    critical_point,
    directional_derivative,
    hessian_vector_product,
    steepest_direction,
)
from agd.line import gradient_descent, loss_fn, train
from agd.linear import FitResult, fit, path
from agd.minimize import MinimizeResult, maximize, minimize
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
from agd.update import apply_updates

__all__ = [
    "ConvergenceWarning",
    "Deadline",
    "FitResult",
    "GradTol",
    "MaxEval",
    "MaxIter",
    "MinimizeResult",
    "Result",
    "Status",
    "StepTol",
    "Stop",
    "ValueTol",
    "apply_updates",
    "backends",
    "check_gradient",
    "critical_point",
    "directional_derivative",
    "fit",
    "gradient",
    "gradient_descent",
    "hessian_vector_product",
    "linear",
    "loss",
    "loss_fn",
    "maximize",
    "minimize",
    "path",
    "run",
    "steepest_direction",
    "train",
    "update",
]

__version__ = "0.1.0"
