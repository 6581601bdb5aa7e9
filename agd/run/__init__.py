"""The LOOP: which solver, one step after the other, when to stop, and what came of it.

>>> from agd.run import GradTol, MaxIter, Stop
>>> Stop(max_iter=100).grad_tol is None
True
>>> GradTol(1e-8) | MaxIter(500)
GradTol(1e-08) | MaxIter(500)
"""

from __future__ import annotations

import importlib
from typing import Any

from agd.run.certificate import Certificate, predicted_contraction
from agd.run.linear_problem import LinearProblem, Traits
from agd.run.loop import run
from agd.run.result import FitResult, History, Result, Status
from agd.run.solver_table import SOLVERS, select_solver
from agd.run.stopping import (
    GCV,
    Criterion,
    Deadline,
    GradTol,
    MaxEval,
    MaxIter,
    Plateau,
    StepTol,
    Stop,
    ValueTol,
    as_stop,
)

__all__ = [
    "GCV",
    "SOLVERS",
    "Certificate",
    "Criterion",
    "Deadline",
    "FitResult",
    "GradTol",
    "History",
    "LinearProblem",
    "MaxEval",
    "MaxIter",
    "Plateau",
    "Result",
    "Status",
    "StepTol",
    "Stop",
    "Traits",
    "ValueTol",
    "as_stop",
    "predicted_contraction",
    "run",
    "select_solver",
]


def __getattr__(name: str) -> Any:
    if name == "Online":  # a door above this room, where 0.1.0 had it
        return importlib.import_module("agd.online").Online
    raise AttributeError(f"module 'agd.run' has no attribute {name!r}")
