"""A quadratic objective whose steps are known, and solvers that behave as the loop must expect of one.

The tests of the loop and of its stopping criteria count the iterations and evaluations of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Progress
from agd.run import run
from agd.update import Descent, gradient_descent


@dataclass(frozen=True)
class QuadraticObjective:
    """f(w) = sign / 2 Σ d w², summed over the leaves; leading axes of the leaves are independent problems."""

    d: Any
    batch_shape: tuple[int, ...] = ()
    sign: float = 1.0
    value_calls: int = 1
    grad_calls: int = 1
    compilable: bool = True

    def value_and_grad(self, w):
        grad = optree.tree_map(lambda x, d: self.sign * d * x, w, self.d)
        axes = tuple(range(len(self.batch_shape), optree.tree_leaves(w)[0].ndim))
        parts = [
            backends.namespace(x).sum(0.5 * x * g, axis=axes)
            for x, g in zip(optree.tree_leaves(w), optree.tree_leaves(grad), strict=True)
        ]
        return sum(parts[1:], parts[0]), grad

    def grad_norm(self, g, w):
        xp = backends.namespace(optree.tree_leaves(g)[0])
        axes = tuple(range(len(self.batch_shape), optree.tree_leaves(w)[0].ndim))
        sizes = [xp.max(xp.abs(leaf), axis=axes) for leaf in optree.tree_leaves(g)]
        for size in sizes[1:]:
            sizes[0] = xp.maximum(sizes[0], size)
        return sizes[0]

    def report(self, w, g):
        return w, g

    def arrays(self):
        return self.d

    def with_arrays(self, arrays):
        return replace(self, d=arrays)


class SearchState(NamedTuple):
    value: Any
    grad: Any
    progress: Progress
    trial: Any


@dataclass(frozen=True)
class EveryThirdTrial:
    """Gradient descent that accepts every third trial step, as a line search might."""

    lr: float
    fails_after: float = math.inf
    name: str = "every third"
    evaluations: int = 1

    def init(self, objective, w):
        value, grad = objective.value_and_grad(w)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        return SearchState(value, grad, Progress(zero, zero + 1.0, zero > 1.0), zero)

    def step(self, objective, w, state):
        xp = backends.namespace(state.value)
        stalled = state.progress.iterations >= self.fails_after
        trial = state.trial + 1.0
        moves = (trial >= 3.0) & ~stalled
        scale = self.lr * xp.astype(moves, state.value.dtype)
        w = w - xp.reshape(scale, (*scale.shape, *(1,) * (w.ndim - scale.ndim))) * state.grad
        value, grad = objective.value_and_grad(w)
        return w, SearchState(
            value,
            grad,
            Progress(
                state.progress.iterations + xp.astype(moves, value.dtype),
                state.progress.evaluations + 1.0,
                stalled,
            ),
            xp.where(moves, xp.zeros_like(trial), trial),
        )


class NeverAccepted(EveryThirdTrial):
    """A line search that accepts no step."""

    def __init__(self):
        super().__init__(0.0)

    def step(self, objective, w, state):
        progress = state.progress._replace(evaluations=state.progress.evaluations + 1.0)
        return w, state._replace(progress=progress)


class NoisyState(NamedTuple):
    value: Any
    grad: Any


@dataclass(frozen=True)
class NoisyDescent:
    """Descent along a gradient with random noise; the loop's checks see the function without noise."""

    name: str = "drawn"
    evaluations: int = 1

    def init(self, objective, w):
        return NoisyState(*objective.value_and_grad(w))

    def draw(self, objective, first, n):
        rows = np.asarray([[k] for k in range(first, first + n)], dtype=float)
        like = objective.d
        xp, where = backends.namespace(like), backends.device(like)
        return {"noise": backends.of(like).convert(xp, rows, like.dtype, where)}

    def step(self, objective, w, state, drawn):
        _, grad = objective.value_and_grad(w)
        w = w - 0.5 * (grad + drawn["noise"])
        value, grad = objective.value_and_grad(w)
        return w, NoisyState(value + 100.0, grad + 100.0)

    def look(self, objective, w, state):
        return objective.value_and_grad(w)


def run_descent(objective, w, stop=None, lr=0.1, **kwargs):
    return run(Descent(gradient_descent(lr)), objective, w, stop, **kwargs)


def steps_until(share, factor):
    return math.ceil(math.log(share) / math.log(factor))
