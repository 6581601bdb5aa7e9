"""How w MOVES. Pure rules, schedules of their rates, and methods that drive them.

A rule is a pure pair ``init(params) -> state`` and ``update(grads, state, params) -> (updates,
state)``, in optax's convention, on any tree of arrays of any library.

>>> import numpy as np
>>> from agd import update
>>> rule = update.gradient_descent(0.1)
>>> w = {"a": np.asarray([1.0, 2.0])}
>>> updates, state = rule.update({"a": np.asarray([10.0, 0.0])}, rule.init(w), w)
>>> update.apply_updates(w, updates)
{'a': array([0., 2.])}
"""

from __future__ import annotations

from agd.update import adaptive, rules, schedules, transforms
from agd.update.adaptive import *
from agd.update.descent import Accelerated, Adapted, Descent, HeavyBall
from agd.update.directions import (
    barzilai_borwein,
    cg,
    hager_zhang,
    lbfgs,
    polyak,
    projected_lbfgs,
    steepest_descent,
)
from agd.update.line_search import Backtracking, StrongWolfe
from agd.update.perturbed import Perturbed
from agd.update.proximal import FISTA, ProjectedGradient, ProximalGradient
from agd.update.registry import METHODS, MINIMIZERS, RULES, SOLVERS, get_solver, resolve, solver
from agd.update.rule import Rule, apply_updates
from agd.update.rules import *
from agd.update.schedules import *
from agd.update.solver import Solver
from agd.update.stochastic import SVRG, Stochastic, sgd
from agd.update.trajectory import BestEpoch, Trajectory
from agd.update.transforms import *

__all__ = [
    "FISTA",
    "METHODS",
    "MINIMIZERS",
    "RULES",
    "SOLVERS",
    "SVRG",
    "Accelerated",
    "Adapted",
    "Backtracking",
    "BestEpoch",
    "Descent",
    "HeavyBall",
    "Perturbed",
    "ProjectedGradient",
    "ProximalGradient",
    "Rule",
    "Solver",
    "Stochastic",
    "StrongWolfe",
    "Trajectory",
    "apply_updates",
    "barzilai_borwein",
    "cg",
    "get_solver",
    "hager_zhang",
    "lbfgs",
    "polyak",
    "projected_lbfgs",
    "resolve",
    "sgd",
    "solver",
    "steepest_descent",
]
__all__ += adaptive.__all__
__all__ += rules.__all__
__all__ += schedules.__all__
__all__ += transforms.__all__
