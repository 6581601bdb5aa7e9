r"""Mini-batch methods: descent on a mean over rows that looks at a few rows a step.

For f(x) = 1/n Σ_i f_i(x) a mini-batch B of b rows gives the gradient 1/b Σ_{i in B} ∇f_i(x), which is
right on average. The rows of every step are drawn on the host: each epoch is a permutation of the rows
by ``numpy.random.default_rng([seed, epoch])``, cut into n // b mini-batches, so that every library sees
the same ones. The n % b rows that are left over are dropped, so that all steps have one shape; which
they are changes from epoch to epoch.

A run counts epochs: ``nit`` and ``Stop.max_iter`` are passes over the rows, and unless it is told
otherwise it looks once an epoch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import positive
from agd.gradient.rows import take_rows
from agd.update._minibatch import (
    check_sampling,
    curvature_seen,
    drawn_rows,
    finite,
    mini_batches,
    nonsmooth,
    whole,
)
from agd.update._rule import AUTO, Rule, apply_updates
from agd.update.descent import aligned
from agd.update.rules import gradient_descent

__all__ = ["Stochastic", "sgd"]


class StochasticState(NamedTuple):
    """Value and gradient of the last mini-batch, the rule's state, the rate's scale and the counts."""

    value: Array
    grad: Tree
    inner: Any
    scale: Array | None
    count: Array
    iterations: Array
    evaluations: Array


@dataclass(frozen=True)
class Stochastic:
    r"""Mini-batch descent by any rule: x_{k+1} = x_k + update(1/b Σ_{i in B_k} ∇f_i(x_k)).

    A rate of ``"auto"`` is ::

        lr_k = 1 / (2 L_b) (1 + k / N)^(-decay),    N = n // b steps an epoch

    with L_b the expected smoothness of mini-batches, bounded where the loss's curvature is and measured
    on a few mini-batches at the start elsewhere. For a decay in (1/2, 1] the rates meet Robbins and
    Monro's conditions, and the noise dies out; by a rule whose rate does not fall x ends in a ball about
    the minimum whose size is the rate's.

    Parameters
    ----------
    rule : Rule
        Any rule.
    batch_size : int, optional
        b; by default 32, or n / 500 where that is more. More than there are rows means all of them.
    seed : int
        What the permutations are drawn from, 0 or more.
    decay : float
        How fast the rate ``"auto"`` falls, above 0; a rule with a rate of its own does without.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range; in `init` for an objective without rows, and for a penalty that
        is not smooth, or bounds.

    Notes
    -----
    Robbins and Monro (1951), "A stochastic approximation method"; Moulines and Bach (2011),
    "Non-asymptotic analysis of stochastic approximation algorithms for machine learning", for the decay;
    Gower et al. (2019), "SGD: general analysis and improved rates", for 1 / (2 L_b).

    Examples
    --------
    >>> from agd.update import Stochastic, adam
    >>> Stochastic(adam(1e-2), batch_size=64).name
    'mini-batches by adam(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08)'
    """

    rule: Rule
    batch_size: int | None = None
    seed: int = 0
    decay: float = 2.0 / 3.0
    rescaled: bool = False

    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse a batch or a seed that cannot be drawn."""
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule must be a rule such as agd.update.adam(0.1), got {self.rule!r}")
        check_sampling(self.batch_size, self.seed)
        positive("decay", self.decay)

    @property
    def name(self) -> str:
        """The rule, with its hyper-parameters."""
        return f"mini-batches by {self.rule!r}{', centred and scaled' if self.rescaled else ''}"

    @property
    def _auto(self) -> bool:
        return dict(self.rule.hyperparameters).get("learning_rate") == AUTO

    @functools.cached_property
    def _unit(self) -> Rule:
        return self.rule.with_learning_rate(1.0) if self._auto else self.rule

    def period(self, objective: Any) -> int:
        """Return the steps of an epoch: how often a run looks."""
        return mini_batches(objective, self.batch_size, self.name)[1]

    def draw(self, objective: Any, first: int, n: int) -> Array:
        """Return the rows of the steps from `first` on, shape (n, b), beside the objective's arrays."""
        size, batches = mini_batches(objective, self.batch_size, self.name)
        return drawn_rows(objective, size, batches, self.seed, first, n)

    def init(self, objective: Any, params: Tree) -> StochasticState:
        """Evaluate the whole objective at the first point; with "auto", find the rate."""
        size, batches = mini_batches(objective, self.batch_size, self.name)
        if nonsmooth(objective):
            raise ValueError(
                f"{self.name} takes no bounds and no penalty that is not smooth: use method='svrg'"
            )
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        scale = None
        if self._auto:
            scale = 0.5 / curvature_seen(objective, params, size, batches, self.seed)
        return StochasticState(
            value, grad, self._unit.init(params), scale, zero, zero, zero + 1.0
        )  # fmt: skip

    def step(
        self, objective: Any, params: Tree, state: StochasticState, drawn: Array
    ) -> tuple[Tree, StochasticState]:
        """Move by the rule's update for the gradient over the rows `drawn`."""
        xp = backends.namespace(state.value)
        batches = mini_batches(objective, self.batch_size, self.name)[1]
        value, grad = take_rows(objective, drawn).value_and_grad(params)
        updates, inner = self._unit.update(grad, state.inner, params)
        if state.scale is not None:
            rate = state.scale * (1.0 + state.count / batches) ** -self.decay
            updates = optree.tree_map(lambda u: aligned(rate, u) * u, updates)
        moved = apply_updates(params, updates)
        # The value is the point's before the step: a step to nowhere has to show in it.
        value = xp.where(finite(moved, value.ndim), value, value + xp.nan)
        count = state.count + 1.0
        return moved, StochasticState(
            value,
            grad,
            inner,
            state.scale,
            count,
            xp.floor(count / batches),
            state.evaluations + 1.0 / batches,
        )

    def look(
        self,
        objective: Any,
        params: Tree,
        state: StochasticState,
    ) -> tuple[Array, Tree]:
        """Return the whole objective and its gradient: what is reported and tested."""
        return whole(objective, params)


def sgd(
    learning_rate: Any = AUTO,
    batch_size: int | None = None,
    seed: int = 0,
    decay: float = 2.0 / 3.0,
    *,
    rescaled: bool = True,
) -> Stochastic:
    """Mini-batch gradient descent, with a rate that falls: `Stochastic` by gradient descent.

    Parameters
    ----------
    learning_rate : float, schedule or "auto"
        A schedule counts mini-batches, as ``agd.update.inverse_scaling(0.1, 2/3)``.
    batch_size, seed, decay : int, int, float
        As in `Stochastic`.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.

    Returns
    -------
    Stochastic
        The method.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> X = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> found = agd.fit(X, X[:, 0] + 1.0, method=agd.update.sgd(), stop=agd.Stop(100, grad_tol=1e-2))
    >>> found.success
    True
    """
    return Stochastic(gradient_descent(learning_rate), batch_size, seed, decay, rescaled)
