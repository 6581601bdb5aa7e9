"""One row for each loss, penalty, rule and schedule; a test asserts that none is missing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agd import loss, update


class LossCase(NamedTuple):
    loss: Any
    targets: tuple[float, ...]  # what y may be in this loss
    known: tuple[Any, float, float, Any]  # z, y, value, slope, by hand
    overflow_share: float = (
        1.0  # of the z whose exponential overflows, up to which the loss is finite
    )


LOSSES = {
    "Squared": LossCase(loss.Squared(), (-2.0, 0.0, 3.5), (3.0, 1.0, 2.0, 2.0)),
    "Huber": LossCase(loss.Huber(0.5), (-2.0, 0.0, 3.5), (3.0, 1.0, 0.875, 0.5)),
    "Quantile": LossCase(loss.Quantile(0.75), (-2.0, 0.0, 3.5), (3.0, 1.0, 0.5, 0.25)),
    "Logistic": LossCase(loss.Logistic(), (0.0, 1.0), (0.0, 1.0, np.log(2.0), -0.5)),
    "Binomial": LossCase(loss.Binomial(), (0.0, 0.25, 1.0), (0.0, 0.25, np.log(2.0), 0.25)),
    "Poisson": LossCase(loss.Poisson(), (0.0, 1.0, 7.0), (0.0, 3.0, 1.0, -2.0)),
    "AbsoluteError": LossCase(loss.AbsoluteError(), (-2.0, 0.0, 3.5), (3.0, 1.0, 2.0, 1.0)),
    "EpsilonInsensitive": LossCase(
        loss.EpsilonInsensitive(0.5), (-2.0, 0.0, 3.5), (1.0, 3.0, 1.5, -1.0)
    ),
    "SquaredEpsilonInsensitive": LossCase(
        loss.SquaredEpsilonInsensitive(0.5), (-2.0, 0.0, 3.5), (1.0, 3.0, 2.25, -3.0)
    ),
    "SoftL1": LossCase(loss.SoftL1(3.0), (-2.0, 0.0, 3.5), (5.0, 1.0, 6.0, 2.4)),
    "Cauchy": LossCase(loss.Cauchy(2.0), (-2.0, 0.0, 3.5), (3.0, 1.0, 2.0 * np.log(2.0), 1.0)),
    "Tukey": LossCase(loss.Tukey(2.0), (-2.0, 0.0, 3.5), (2.0, 1.0, 37.0 / 96.0, 0.5625)),
    "Hinge": LossCase(loss.Hinge(), (0.0, 1.0), (0.5, 0.0, 1.5, 1.0)),
    "SquaredHinge": LossCase(loss.SquaredHinge(), (0.0, 1.0), (0.5, 0.0, 2.25, 3.0)),
    "ModifiedHuber": LossCase(loss.ModifiedHuber(), (0.0, 1.0), (2.0, 0.0, 8.0, 4.0)),
    "Gamma": LossCase(loss.Gamma(), (0.25, 1.0, 7.0), (0.0, 3.0, 3.0, -2.0)),
    "Tweedie": LossCase(loss.Tweedie(1.5), (0.0, 1.0, 7.0), (0.0, 3.0, 8.0, -2.0)),
    "InverseGaussian": LossCase(
        loss.InverseGaussian(), (0.25, 1.0, 7.0), (0.0, 3.0, 0.5, -2.0), overflow_share=0.48
    ),
    "NegativeBinomial": LossCase(
        loss.NegativeBinomial(0.5), (0.0, 1.0, 7.0), (0.0, 3.0, 5.0 * np.log(1.5), -4.0 / 3.0)
    ),
    "Softmax": LossCase(
        loss.Softmax(3),
        (0.0, 1.0, 2.0),
        ((0.0, 0.0, 0.0), 1.0, np.log(3.0), (1 / 3, -2 / 3, 1 / 3)),
    ),
}
# What tests of a predictor with the shape of y run over; tests/loss/test_softmax.py has the others.
ONE_OUTPUT = {name: case for name, case in LOSSES.items() if case.loss.outputs is None}


class PenaltyCase(NamedTuple):
    penalty: Any
    w: tuple[Any, ...]
    value: float
    prox: tuple[Any, ...]  # at step 2


_INF = float("inf")
PENALTIES = {
    "L1": PenaltyCase(loss.L1(0.5), (3.0, -0.5), 1.75, (2.0, 0.0)),
    "L2": PenaltyCase(loss.L2(0.5), (1.0, -2.0), 1.25, (0.5, -1.0)),
    "ElasticNet": PenaltyCase(loss.ElasticNet(1.0, 0.25), (2.0, -1.0), 2.625, (0.6, -0.2)),
    "GroupL1": PenaltyCase(  # lengths 5 and sqrt(1/2), each times sqrt(2)
        loss.GroupL1(0.5, (7, 2, 7, 2)),
        (3.0, 0.5, 4.0, 0.5),
        0.5 * 2.0**0.5 * 5.0 + 0.5,
        (3.0 * (1.0 - 2.0**0.5 / 5.0), 0.0, 4.0 * (1.0 - 2.0**0.5 / 5.0), 0.0),
    ),
    "NuclearNorm": PenaltyCase(  # singular values 5 and 1/2, of (0.6, 0.8) with (0.8, 0.6)
        loss.NuclearNorm(0.5),
        ((2.64, 1.48), (3.02, 2.64)),
        2.75,
        ((1.92, 1.44), (2.56, 1.92)),
    ),
    "NonNegative": PenaltyCase(loss.NonNegative(), (1.5, -2.0), _INF, (1.5, 0.0)),
    "Box": PenaltyCase(loss.Box(-1.0, (0.5, 2.0)), (1.0, -3.0), _INF, (0.5, -1.0)),
    "L2Ball": PenaltyCase(loss.L2Ball(2.0), (3.0, 4.0), _INF, (1.2, 1.6)),
    "Simplex": PenaltyCase(loss.Simplex(2.0), (1.5, 0.75, -3.0), _INF, (1.375, 0.625, 0.0)),
    "FusedL1": PenaltyCase(loss.FusedL1(0.5), (0.0, 0.0, 6.0, 6.0), 3.0, (0.5, 0.5, 5.5, 5.5)),
    "Monotone": PenaltyCase(loss.Monotone(), (1.0, 3.0, 2.0, 4.0), _INF, (1.0, 2.5, 2.5, 4.0)),
    "Slope": PenaltyCase(loss.Slope(0.5, (2.0, 1.0)), (-3.0, 2.5), 4.25, (-1.25, 1.25)),
    "MCP": PenaltyCase(  # 2.5 - 2.5² / 6 and 0.5 - 0.5² / 6
        loss.MCP(1.0, 3.0), (2.5, -0.5), 3.0 - 6.5 / 6.0, (1.5, 0.0)
    ),
    "SCAD": PenaltyCase(  # 2.5 - 1.5² / 6 and 0.5
        loss.SCAD(1.0, 4.0), (2.5, -0.5), 3.0 - 2.25 / 6.0, (0.5, 0.0)
    ),
}


class RuleCase(NamedTuple):
    kwargs: dict[str, Any]
    steps: tuple[
        float, float
    ]  # the first two updates of one parameter at 1 with gradients 2 and -1


def _adam(decay: float) -> tuple[float, float]:
    """The definition, spelt for one parameter: b1 = 0.5, b2 = 0.75, eps = 0, lr = 0.1."""
    w, m, s, out = 1.0, 0.0, 0.0, []
    for k, g in enumerate((2.0, -1.0), start=1):
        m, s = 0.5 * m + 0.5 * g, 0.75 * s + 0.25 * g * g
        u = -0.1 * (m / (1 - 0.5**k) / (s / (1 - 0.75**k)) ** 0.5 + decay * w)
        out.append(u)
        w += u
    return out[0], out[1]


def _by_hand(denominator: Any) -> tuple[float, float]:
    """Adam's relatives with b1 = 0, so that the direction is g over a denominator of k, g and s."""
    s, out = 0.0, []
    for k, g in enumerate((2.0, -1.0), start=1):
        s, root = denominator(k, g, s)
        out.append(-0.1 * g / root)
    return out[0], out[1]


_PLAIN = {"learning_rate": 0.1, "b1": 0.0, "b2": 0.75, "eps": 0.0}


def _amsgrad(k: int, g: float, s: Any) -> Any:
    mean, high = s or (0.0, 0.0)
    mean = 0.75 * mean + 0.25 * g * g
    high = max(high, mean / (1 - 0.75**k))
    return (mean, high), high**0.5


def _adamax(k: int, g: float, s: float) -> Any:
    s = max(0.75 * s, abs(g))
    return s, s


def _yogi(k: int, g: float, s: float) -> Any:
    s = s - 0.25 * np.sign(s - g * g) * g * g
    return s, (s / (1 - 0.75**k)) ** 0.5


def _squares(k: int, g: float, s: float) -> Any:
    s = 0.75 * s + 0.25 * g * g
    return s, (s / (1 - 0.75**k)) ** 0.5


def _lamb() -> tuple[float, float]:
    """One parameter at 1, then where the first step left it: the step is 0.1 |w| times its sign."""
    return -0.1, 0.1 * 0.9


_ADAM = {"learning_rate": 0.1, "b1": 0.5, "b2": 0.75, "eps": 0.0}

RULES = {
    "gradient_descent": RuleCase({"learning_rate": 0.1}, (-0.2, 0.1)),
    "momentum": RuleCase({"learning_rate": 0.1, "beta": 0.5}, (-0.2, 0.0)),
    "nesterov": RuleCase({"learning_rate": 0.1, "beta": 0.5}, (-0.3, 0.1)),
    "adagrad": RuleCase({"learning_rate": 0.1, "eps": 0.0}, (-0.1, 0.1 / 5.0**0.5)),
    "rmsprop": RuleCase(
        {"learning_rate": 0.1, "decay": 0.75, "eps": 0.0}, (-0.2, 0.1 / (0.75 + 0.25) ** 0.5)
    ),
    "adam": RuleCase(_ADAM, _adam(0.0)),
    "adamw": RuleCase({**_ADAM, "weight_decay": 0.5}, _adam(0.5)),
    "nadam": RuleCase(_PLAIN, _by_hand(_squares)),  # with b1 = 0 there is nothing ahead
    "amsgrad": RuleCase(_PLAIN, _by_hand(_amsgrad)),
    "adamax": RuleCase(_PLAIN, _by_hand(_adamax)),
    "yogi": RuleCase({**_PLAIN, "initial_accumulator": 0.0}, _by_hand(_yogi)),
    "radam": RuleCase(_PLAIN, (-0.2, 0.1)),  # too early to trust the squares: the plain mean
    "lamb": RuleCase(_PLAIN, _lamb()),
    "adadelta": RuleCase(
        {"learning_rate": 0.1, "rho": 0.75, "eps": 1.0},
        (-0.1 * 2.0 / 2.0**0.5, 0.1 * (1.5 / 2.0) ** 0.5),
    ),
    "sign_descent": RuleCase({"learning_rate": 0.1}, (-0.1, 0.1)),
    "lion": RuleCase(
        {"learning_rate": 0.1, "b1": 0.9, "b2": 0.5, "weight_decay": 0.0}, (-0.1, -0.1)
    ),
    "rprop": RuleCase({"learning_rate": 0.1}, (-0.1, 0.0)),
}


class ScheduleCase(NamedTuple):
    schedule: Any
    rates: dict[int, float]  # k -> rate, by hand


SCHEDULES = {
    "constant": ScheduleCase(update.constant(0.3), {0: 0.3, 99: 0.3}),
    "exponential": ScheduleCase(update.exponential(2.0, 0.5, steps=4), {0: 2.0, 4: 1.0, 8: 0.5}),
    "inverse_scaling": ScheduleCase(update.inverse_scaling(2.0, 0.5), {0: 2.0, 3: 1.0, 15: 0.5}),
    "cosine": ScheduleCase(update.cosine(2.0, 8, 0.5), {0: 2.0, 4: 1.5, 8: 1.0, 20: 1.0}),
    "warm_up": ScheduleCase(
        update.warm_up(update.exponential(2.0, 0.5, steps=4), 4), {0: 0.0, 2: 1.0, 4: 2.0, 8: 1.0}
    ),
    "piecewise": ScheduleCase(update.piecewise(2.0, {5: 0.5, 3: 0.1}), {2: 2.0, 3: 0.2, 5: 0.1}),
}


HALF_AFTER_ONE_STEP = update.piecewise(1.0, {1: 0.5})

GRADIENT = ([3.0, -4.0], [12.0])
"""The gradient of the leaves ``a`` and ``b`` that each transform below is given."""

TRANSFORMS = {
    "clip_by_value": (update.clip_by_value(3.5), [3.0, -3.5], [3.5]),
    "clip_by_global_norm": (update.clip_by_global_norm(1.3), [0.3, -0.4], [1.2]),
    "add_decayed_weights": (update.add_decayed_weights(0.5), [4.5, -6.0], [18.0]),
    "trace": (update.trace(0.5, nesterov=True), [4.5, -6.0], [18.0]),
    "ema": (update.ema(0.75, debias=False), [0.75, -1.0], [3.0]),
    "scale_by_schedule": (update.scale_by_schedule(HALF_AFTER_ONE_STEP), [3.0, -4.0], [12.0]),
    "scale_by_learning_rate": (update.scale_by_learning_rate(0.1), [-0.3, 0.4], [-1.2]),
    "chain": (update.chain(update.clip_by_value(3.5), update.gradient_descent(0.1)), [-0.3, 0.35], [-0.35]),
    "masked": (update.masked(update.gradient_descent(0.1), {"a": True, "b": False}), [-0.3, 0.4], [12.0]),
    "multi_transform": (
        update.multi_transform(
            {"x": update.gradient_descent(0.1), "y": update.adam(0.5), "z": update.adam(1.0)},
            lambda params: {"a": "x", "b": "y"},
        ),
        [-0.3, 0.4],
        [-0.5],
    ),
    "accumulate": (update.accumulate(update.gradient_descent(0.1), 2), [0.0, 0.0], [0.0]),
    "inject_hyperparams": (
        update.inject_hyperparams(update.adamw, "learning_rate", "weight_decay")(0.5, weight_decay=0.5),
        [-1.25, 1.5],
        [-3.5],
    ),
}  # fmt: skip
"""Each transform, and what one update makes of the leaves of `GRADIENT`."""
