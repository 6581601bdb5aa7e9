"""One pass over data on a device: the value and the gradient of a loss at one point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from agd._typing import Params
from agd.gradient import LinearObjective
from benchmarks.peers import device_libraries, handwritten
from benchmarks.problems.device_data import Problem, crossed, floor, plain, problem
from benchmarks.timing.measurement import Case, offered

__all__ = ["CASES"]

B = 0.1  # the intercept
TARGET, SHARE = 0.6, 0.7
# Of numbers of about 1: single precision is held to what sums of millions of them keep.
APART = {"float32": (1e-3, 1e-4), "float64": (1e-9, 1e-12)}


def _ours(data: Problem) -> Callable[[], Any]:
    objective = LinearObjective.of(data.X, data.y, loss=agd.loss.get(data.loss))
    params = Params(data.coef, data.selection.asarray(np.asarray(B, dtype=data.A.dtype)))

    def call() -> tuple[Any, ...]:
        value, grad = objective.value_and_grad(params)
        return value, grad.coef, grad.intercept

    return call


def _pass(n: int, selection: Any, loss: str, shape: tuple[int, int], dtype: str) -> Case:
    data = problem(n, selection, loss, shape, dtype)
    on_host = (loss, data.A, data.t, data.w)
    peers = [
        (
            data.by_hand,
            lambda: handwritten.value_and_grad(data.xp, loss, data.X, data.y, data.coef, B),
        ),
        ("torch", lambda: device_libraries.torch_pass(selection, *on_host, B)),
        ("jax", lambda: device_libraries.jax_pass(selection, *on_host)),
    ]
    if selection.backend.name == "cupy":
        fused = lambda: handwritten.fused_pass(loss, data.X, data.y, data.coef, B)
        peers.append(("cupy by hand, fused", fused))
    calls, missing = offered(peers)
    rtol, atol = APART[dtype]
    return Case(
        f"pass: {loss}, {data.size}", {"agd": _ours(data), **calls}, plain, rtol, TARGET, floor(data.X),
        rounds=15, missing=missing, atol=atol, traffic=data.traffic(share=SHARE),
    )  # fmt: skip


CASES = crossed("pass", _pass)
