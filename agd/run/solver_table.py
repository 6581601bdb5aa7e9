"""Which solver a linear fit uses: one table, and what follows if a solver cannot serve.

`agd.fit` makes a `LinearProblem` and calls `solve`, which goes through the `candidates`. `select_solver`
is the whole of what ``method="auto"`` means.

>>> from agd.run import Traits, select_solver
>>> select_solver(Traits(rows=1_000_000, columns=50, entries=5e7))
'normal'
>>> select_solver(Traits(rows=1_000_000, columns=50, entries=5e7, penalty="separable"))
'active_set'
>>> select_solver(Traits(rows=1_000_000, columns=50, entries=5e7, quadratic=False))
'lbfgs_whitened'
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from agd._typing import NotApplicable
from agd.gradient.conditioning import MAX_NORMAL_COLUMNS, MAX_SMALL_ENTRIES
from agd.run.closed_form import ClosedForm
from agd.run.host_moments import MAX_HOST_ENTRIES
from agd.run.linear_problem import LinearProblem, Solution, Traits
from agd.run.linear_solvers import (
    ACCELERATED,
    FISTA_ON_DATA,
    PROXIMAL_GRADIENT,
    ActiveSetOnMoments,
    ConjugateGradients,
    ConvexStart,
    FistaOnMoments,
    Iterations,
    KernelConjugateGradients,
    NewtonOnData,
    NormalEquations,
    ProximalNewtonOnData,
    ReweightedLasso,
    ScaledLBFGS,
    ScaleEstimate,
    WhitenedLBFGS,
)
from agd.run.newton_direct import DirectNewton, evaluation_cost, hessian_cost, newton_cost
from agd.run.normal_equations import (
    MAX_BATCHED_COLUMNS,
    BatchedNormalEquations,
    DirectNormalEquations,
    DualNormalEquations,
)
from agd.run.semismooth_newton import SemismoothNewton, WorkingSets
from agd.run.smoothing import Smoothing

__all__ = ["SOLVERS", "SolverRow", "candidates", "select_solver", "solve"]

# The active set and the factors of a sparse X take p³ operations, which up to here are less than a few steps.
MAX_ACTIVE_SET_COLUMNS = 256
# With fewer rows to a column, a step on the moments costs no less than a pass over the data.
MIN_ROWS_PER_COLUMN = 4
# Factors of p³ operations take less than a few steps on a sparse X with at least a 400th of these entries.
MAX_FACTOR_OPERATIONS_PER_ENTRY = 400
# Operations of a Hessian up to which Newton's method is sooner than L-BFGS, on NumPy and one processor (measured):
# at 4e6 it takes 0.8 to 1.1 times as long, at 2.5e6 0.4 to 0.6 times, at 2.5e7 1.1 to 1.6 times.
MAX_HESSIAN_OPERATIONS = 4e6
# Over chunks and streams Newton's method saves four to eight passes of some sixteen, which at a gigabyte a second take
# longer than its Hessians of up to so many columns.
MAX_LAZY_NEWTON_COLUMNS = 128
# Newton's method without the loop is for so many rows and columns, where `newton_cost` is below `lbfgs_cost`: vectors
# of more rows are new memory in every operation, which costs more than the arithmetic.
MAX_DIRECT_ROWS, MAX_DIRECT_COLUMNS = 2**15, 400
# What L-BFGS in whitened coordinates takes beside evaluations, in microseconds (measured): the loop, and p³ of an
# eigenvalue problem. Evaluations are some, and more the fewer rows there are to a column.
LBFGS_COST = {
    "call": 3500.0,
    "whitening": 4e-4,
    "evaluations": 16.0,
    "evaluations times p / n": 80.0,
}


# Rows and entries of a wide X for Newton's method in the span of the rows.
MAX_KERNEL_ROWS, MAX_KERNEL_ENTRIES = 512, 2**20


class FitSolver(Protocol):
    """What every row of `SOLVERS` has."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit, or raise `NotApplicable`."""
        ...


class SolverRow(NamedTuple):
    """A solver, and the name of the one that follows where it is not applicable; None for the last."""

    solver: FitSolver
    fallback: str | None = None


def _solve_by_table(problem: LinearProblem) -> Solution:
    """Solve by the rows below; a function with a name, so that the table can be pickled."""
    return solve(problem)


SOLVERS: dict[str, SolverRow] = {
    "normal_direct": SolverRow(DirectNormalEquations(), "normal"),
    "normal_dual": SolverRow(DualNormalEquations(), "normal"),
    "normal_batched": SolverRow(BatchedNormalEquations(), "normal"),
    "normal": SolverRow(NormalEquations(), "lbfgs_scaled"),
    "cg_kernel": SolverRow(KernelConjugateGradients(), "cg"),
    "cg": SolverRow(ConjugateGradients()),
    "semismooth_newton": SolverRow(SemismoothNewton(), "active_set"),
    "working_sets": SolverRow(WorkingSets(), "fista"),
    "active_set": SolverRow(ActiveSetOnMoments(), "fista_moments"),
    "fista_moments": SolverRow(FistaOnMoments(), "fista"),
    "fista": SolverRow(FISTA_ON_DATA),
    "newton_direct": SolverRow(DirectNewton(), "newton"),
    "newton_kernel": SolverRow(DirectNewton(), "lbfgs_whitened"),
    "proximal_newton_direct": SolverRow(DirectNewton(), "proximal_newton"),
    "proximal_newton": SolverRow(ProximalNewtonOnData(), "proximal_gradient"),
    "proximal_gradient": SolverRow(PROXIMAL_GRADIENT),
    "newton": SolverRow(NewtonOnData(), "lbfgs_whitened"),
    "lbfgs_whitened": SolverRow(WhitenedLBFGS(), "lbfgs_scaled"),
    "lbfgs_scaled": SolverRow(ScaledLBFGS(), "accelerated"),
    "accelerated": SolverRow(ACCELERATED),
    "convex_start": SolverRow(ConvexStart(_solve_by_table)),
    "scale_estimate": SolverRow(ScaleEstimate(_solve_by_table)),
    "smoothing": SolverRow(Smoothing(_solve_by_table)),
    "reweighted_lasso": SolverRow(ReweightedLasso(_solve_by_table)),
    "closed_form": SolverRow(ClosedForm(), "iterations"),
    "iterations": SolverRow(Iterations()),
}
"""Solvers of linear fits by name. The last two serve a method that the user names."""


def select_solver(traits: Traits) -> str:
    """Return the name of the solver that ``agd.fit(..., method="auto")`` uses, a key of `SOLVERS`.

    Parameters
    ----------
    traits : Traits
        Sizes, where the data are, the loss and the penalty.

    Returns
    -------
    str
        The name. `SOLVERS` says what follows where the data turn out not to suit the solver.

    Examples
    --------
    >>> select_solver(Traits(rows=7, columns=1, entries=7, default_settings=True))
    'normal_direct'
    >>> select_solver(Traits(rows=100, columns=5000, entries=5e5))
    'cg_kernel'
    """
    t, n, p = traits, traits.rows, traits.columns
    # These solve other problems one after another, each by a row that this function names for it.
    outer = {
        "scale_estimate": t.estimates_scale,
        "reweighted_lasso": not t.convex_penalty,
        "convex_start": t.starting_loss,
        "smoothing": not t.smooth_loss,
    }
    for name, applies in outer.items():
        if applies:
            return name
    moderate = (
        p <= MAX_NORMAL_COLUMNS
    )  # (p, p) matrices cost less than the iterations that they save
    if t.sparse and t.ridge and not t.penalty_needs_prox:
        few = p**3 <= MAX_FACTOR_OPERATIONS_PER_ENTRY * t.entries
        moderate = moderate and (p <= MAX_ACTIVE_SET_COLUMNS or few)
    if t.least_squares:
        if moderate:
            return _normal_equations(t)
        return "cg_kernel" if n < p and not t.lazy else "cg"
    if t.penalty_needs_prox and t.quadratic:
        return _proximal_least_squares(t, moderate=moderate)
    if t.penalty_needs_prox:
        if proximal_newton_pays(t):
            return "proximal_newton_direct" if is_small_on_host(t) else "proximal_newton"
        return "proximal_gradient"
    return _smooth_losses(t, moderate=moderate)


def _smooth_losses(t: Traits, *, moderate: bool) -> str:
    """Return the solver of another loss than the squared one, with no penalty or a smooth one."""
    if newton_kernel_pays(t):
        return "newton_kernel"
    if moderate and newton_pays(t):
        return "newton_direct" if direct_newton_pays(t) else "newton"
    if moderate:
        return "normal" if t.quadratic and t.penalty == "ridge" else "lbfgs_whitened"
    return "lbfgs_scaled" if t.sparse else "accelerated"


def is_small_on_host(t: Traits) -> bool:
    """Return whether one problem of NumPy arrays is so small that operations cost more than arithmetic."""
    small = t.entries <= MAX_HOST_ENTRIES and t.batch_shape == ()
    return t.numpy and t.default_settings and small


def newton_kernel_pays(t: Traits) -> bool:
    """Return whether a wide NumPy problem with a ridge has so few rows that their (n, n) Hessians cost little."""
    wide = t.rows < t.columns and t.rows <= MAX_KERNEL_ROWS and t.entries <= MAX_KERNEL_ENTRIES
    one = (
        t.convex_loss
        and t.numpy
        and t.default_settings
        and t.batch_shape == ()
        and not t.several_outputs
    )
    return wide and one and t.penalty == "quadratic" and t.ridge > 0.0


def lbfgs_cost(n: float, p: float) -> float:
    """Return what a fit by L-BFGS in whitened coordinates takes, in microseconds, on one processor."""
    cost = LBFGS_COST
    evaluations = cost["evaluations"] + cost["evaluations times p / n"] * p / n
    whitening = hessian_cost(n, p) + cost["whitening"] * p**3
    return cost["call"] + whitening + evaluations * evaluation_cost(n, p)


def direct_newton_pays(t: Traits) -> bool:
    """Return whether Newton's method without the loop is for a problem, and sooner than L-BFGS."""
    n, p = t.rows, t.columns
    one = t.numpy and t.default_settings and t.batch_shape == () and not t.sparse
    return (
        one
        and p <= n <= MAX_DIRECT_ROWS
        and p <= MAX_DIRECT_COLUMNS
        and newton_cost(n, p) < lbfgs_cost(n, p)
    )


def newton_pays(t: Traits) -> bool:
    """Return whether a few Hessians cost less than the passes of L-BFGS that they save.

    A Hessian takes as many operations as X has entries, times its columns. Fewer rows than columns leave it singular,
    and a loss that is not convex may leave it indefinite.
    """
    few = direct_newton_pays(t)
    return (
        t.penalty in {"quadratic", "ridge"}
        and t.convex_loss
        and not (t.sparse or (t.several_outputs and not few))
        and t.rows >= t.columns
        and (
            few
            or t.entries * t.columns <= MAX_HESSIAN_OPERATIONS
            or (t.lazy and t.columns <= MAX_LAZY_NEWTON_COLUMNS)
        )
    )


def proximal_newton_pays(t: Traits) -> bool:
    """Return whether a few Hessians, each with a model to minimise on the host, cost less than many steps.

    Of few columns they do for every number of rows and every kind of data (measured: 0.2 to 0.8 of the time of
    proximal gradient steps on arrays, and a tenth of the passes over chunks and streams).
    """
    one = t.batch_shape == () and not t.several_outputs
    return (
        one
        and t.convex_loss
        and t.penalty == "separable"
        and t.columns <= MAX_ACTIVE_SET_COLUMNS
        and t.moments_on_host
    )


def _proximal_least_squares(t: Traits, *, moderate: bool) -> str:
    """Return the solver of the squared loss with a penalty that has a prox."""
    one = t.penalty == "separable" and t.batch_shape == ()
    if one and t.columns > MAX_ACTIVE_SET_COLUMNS and t.default_settings and t.numpy:
        return "working_sets"
    if one and t.columns <= MAX_ACTIVE_SET_COLUMNS:
        if t.default_settings and t.moments_on_host:
            return "semismooth_newton"
        if t.host_accessible:
            return "active_set"
    return "fista_moments" if moderate and t.rows >= MIN_ROWS_PER_COLUMN * t.columns else "fista"


def _normal_equations(t: Traits) -> str:
    """Return the solver on the host where the moments are few numbers, which it reads in one transfer."""
    if not t.default_settings:
        return "normal"
    wide = t.rows < t.columns and t.columns > MAX_ACTIVE_SET_COLUMNS
    if t.batch_shape == () and t.numpy and wide:
        return "normal_dual"
    if t.batch_shape == ():
        return "normal_direct" if t.moments_on_host else "normal"
    small = t.entries <= MAX_SMALL_ENTRIES * max(1, t.problems) and t.columns <= MAX_BATCHED_COLUMNS
    return "normal_batched" if small and t.moments_on_host else "normal"


def candidates(problem: LinearProblem) -> Iterator[tuple[str, FitSolver]]:
    """Yield the names and the solvers that may serve a problem, each after the one that it falls back for.

    Parameters
    ----------
    problem : LinearProblem
        The problem; its `method` is None where the choice is left to `select_solver`.
    """
    chosen = problem.method is None or problem.loss.estimates_scale
    name: str | None = select_solver(problem.traits) if chosen else "closed_form"
    while name is not None:
        row = SOLVERS[name]
        yield name, row.solver
        name = row.fallback


def solve(problem: LinearProblem) -> Solution:
    """Return the solution of the first candidate that serves the problem.

    Parameters
    ----------
    problem : LinearProblem
        The problem.

    Raises
    ------
    ValueError
        For values that are not finite, targets outside the loss's domain, and a penalty that the dtype of X cannot
        hold.
    """
    problem.check_penalty()
    for name, solver in candidates(problem):
        problem.solver = name
        with contextlib.suppress(NotApplicable):
            return solver.fit(problem)
    raise RuntimeError("the last row of a chain of solvers serves every problem")
