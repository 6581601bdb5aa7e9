"""Room two: the VALUE AND GRADIENT of what is minimised, over data or of any function.

>>> import numpy as np
>>> from agd.gradient import LinearObjective
>>> objective = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
>>> value, grad = objective.value_and_grad(objective.zeros())
>>> float(value)
2.5
"""

from __future__ import annotations

from agd.gradient.blocks import Blocks
from agd.gradient.calculus import (
    CriticalPoint,
    GradientCheck,
    check_gradient,
    critical_point,
    directional_derivative,
    hessian_vector_product,
    steepest_direction,
)
from agd.gradient.columns import column_scaling
from agd.gradient.differentiate import choose_gradient, difference
from agd.gradient.function import Bounds, FunctionObjective, shared_rows
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective, largest_curvature
from agd.gradient.scaling import Rescaled, Scaling
from agd.gradient.stream import Stream

__all__ = [
    "Blocks",
    "Bounds",
    "CriticalPoint",
    "FunctionObjective",
    "GradientCheck",
    "LinearObjective",
    "Moments",
    "Rescaled",
    "Scaling",
    "Stream",
    "check_gradient",
    "choose_gradient",
    "column_scaling",
    "critical_point",
    "difference",
    "directional_derivative",
    "hessian_vector_product",
    "largest_curvature",
    "shared_rows",
    "steepest_direction",
]
