"""Objectives: the value and gradient of what is minimised, over data or of any function.

This room stands on the data and the losses; the solvers of `agd.update` step by what it returns.

>>> import numpy as np
>>> from agd.gradient import LinearObjective
>>> objective = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
>>> value, grad = objective.value_and_grad(objective.zeros())
>>> float(value)
2.5
"""

from __future__ import annotations

from agd.data.arrays import Blocks
from agd.data.stream import Stream
from agd.gradient.column_stats import column_scaling
from agd.gradient.critical_points import CriticalPoint, critical_point
from agd.gradient.curvature import (
    directional_derivative,
    hessian_vector_product,
    steepest_direction,
)
from agd.gradient.derivatives import choose_gradient, difference, grad, value_and_grad
from agd.gradient.function import Bounds, FunctionObjective, shared_rows
from agd.gradient.gradient_check import GradientCheck, check_gradient
from agd.gradient.linear import LinearObjective, largest_curvature
from agd.gradient.moments import Moments
from agd.gradient.objective import BaseObjective
from agd.gradient.preconditioner import Preconditioned, Rescaled, Scaling

__all__ = [
    "BaseObjective",
    "Blocks",
    "Bounds",
    "CriticalPoint",
    "FunctionObjective",
    "GradientCheck",
    "LinearObjective",
    "Moments",
    "Preconditioned",
    "Rescaled",
    "Scaling",
    "Stream",
    "check_gradient",
    "choose_gradient",
    "column_scaling",
    "critical_point",
    "difference",
    "directional_derivative",
    "grad",
    "hessian_vector_product",
    "largest_curvature",
    "shared_rows",
    "steepest_direction",
    "value_and_grad",
]
