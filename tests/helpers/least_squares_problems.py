"""Problems of Moré, Garbow and Hillstrom (1981), "Testing unconstrained optimization software", with their optima.

Residuals are written for a namespace and a vector x; an optimum is the sum of squares that was published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BARD_Y = (.14, .18, .22, .25, .29, .32, .35, .39, .37, .58, .73, .96, 1.34, 2.10, 4.39)  # fmt: skip
GAUSSIAN_Y = (.0009, .0044, .0175, .0540, .1295, .2420, .3521, .3989, .3521, .2420, .1295, .0540, .0175, .0044, .0009)  # fmt: skip
MEYER_Y = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)  # fmt: skip
KOWALIK_Y = (.1957, .1947, .1735, .1600, .0844, .0627, .0456, .0342, .0323, .0235, .0246)  # fmt: skip
KOWALIK_U = (4.0, 2.0, 1.0, .5, .25, .167, .125, .1, .0833, .0714, .0625)  # fmt: skip
OSBORNE_1_Y = (
    .844, .908, .932, .936, .925, .908, .881, .850, .818, .784, .751, .718, .685, .658, .628, .603, .580, .558, .538,
    .522, .506, .490, .478, .467, .457, .448, .438, .431, .424, .420, .414, .411, .406,
)  # fmt: skip
OSBORNE_2_Y = (
    1.366, 1.191, 1.112, 1.013, .991, .885, .831, .847, .786, .725, .746, .679, .608, .655, .616, .606, .602, .626,
    .651, .724, .649, .649, .694, .644, .624, .661, .612, .558, .533, .495, .500, .423, .395, .375, .372, .391, .396,
    .405, .428, .429, .523, .562, .607, .653, .672, .708, .633, .668, .645, .632, .591, .559, .597, .625, .739, .710,
    .729, .720, .636, .581, .428, .292, .162, .098, .054,
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Residuals ``f(xp, x)``, the standard start, and the sums of squares of known minima."""

    residuals: Callable[[Any, Any], Any]
    start: tuple[float, ...]
    optima: tuple[float, ...]


def rosenbrock(xp: Any, x: Any) -> Any:
    return xp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


def freudenstein_roth(xp: Any, x: Any) -> Any:
    first = -13.0 + x[0] + ((5.0 - x[1]) * x[1] - 2.0) * x[1]
    return xp.stack([first, -29.0 + x[0] + ((x[1] + 1.0) * x[1] - 14.0) * x[1]])


def powell_badly_scaled(xp: Any, x: Any) -> Any:
    return xp.stack([1e4 * x[0] * x[1] - 1.0, xp.exp(-x[0]) + xp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(xp: Any, x: Any) -> Any:
    return xp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0])


def beale(xp: Any, x: Any) -> Any:
    return xp.stack([y - x[0] * (1.0 - x[1] ** (i + 1)) for i, y in enumerate((1.5, 2.25, 2.625))])


def jennrich_sampson(xp: Any, x: Any) -> Any:
    return xp.stack([2.0 + 2.0 * i - (xp.exp(i * x[0]) + xp.exp(i * x[1])) for i in range(1, 11)])


def helical_valley(xp: Any, x: Any) -> Any:
    turn = xp.atan(x[1] / x[0]) / (2.0 * math.pi)
    turn = xp.where(x[0] < 0.0, turn + 0.5, turn)
    return xp.stack(
        [10.0 * (x[2] - 10.0 * turn), 10.0 * (xp.sqrt(x[0] ** 2 + x[1] ** 2) - 1.0), x[2]]
    )


def bard(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            y - (x[0] + i / ((16.0 - i) * x[1] + min(i, 16 - i) * x[2]))
            for i, y in enumerate(BARD_Y, start=1)
        ]
    )


def gaussian(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            x[0] * xp.exp(-x[1] * ((8.0 - i) / 2.0 - x[2]) ** 2 / 2.0) - y
            for i, y in enumerate(GAUSSIAN_Y, start=1)
        ]
    )


def meyer(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            x[0] * xp.exp(x[1] / (45.0 + 5.0 * i + x[2])) - float(y)
            for i, y in enumerate(MEYER_Y, start=1)
        ]
    )


def box_three_dimensional(xp: Any, x: Any) -> Any:
    def residual(t: float) -> Any:
        return xp.exp(-t * x[0]) - xp.exp(-t * x[1]) - x[2] * (math.exp(-t) - math.exp(-10.0 * t))

    return xp.stack([residual(0.1 * i) for i in range(1, 11)])


def powell_singular(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            x[0] + 10.0 * x[1], math.sqrt(5.0) * (x[2] - x[3]), (x[1] - 2.0 * x[2]) ** 2,
            math.sqrt(10.0) * (x[0] - x[3]) ** 2,
        ]
    )  # fmt: skip


def wood(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            10.0 * (x[1] - x[0] ** 2), 1.0 - x[0], math.sqrt(90.0) * (x[3] - x[2] ** 2), 1.0 - x[2],
            math.sqrt(10.0) * (x[1] + x[3] - 2.0), (x[1] - x[3]) / math.sqrt(10.0),
        ]
    )  # fmt: skip


def kowalik_osborne(xp: Any, x: Any) -> Any:
    pairs = zip(KOWALIK_Y, KOWALIK_U, strict=True)
    return xp.stack([y - x[0] * (u * u + u * x[1]) / (u * u + u * x[2] + x[3]) for y, u in pairs])


def brown_dennis(xp: Any, x: Any) -> Any:
    times = [i / 5.0 for i in range(1, 21)]
    return xp.stack(
        [
            (x[0] + t * x[1] - math.exp(t)) ** 2 + (x[2] + x[3] * math.sin(t) - math.cos(t)) ** 2
            for t in times
        ]
    )


def osborne_1(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            y - (x[0] + x[1] * xp.exp(-10.0 * i * x[3]) + x[2] * xp.exp(-10.0 * i * x[4]))
            for i, y in enumerate(OSBORNE_1_Y)
        ]
    )


def osborne_2(xp: Any, x: Any) -> Any:
    def curve(t: float) -> Any:
        peaks = [x[j] * xp.exp(-((t - x[7 + j]) ** 2) * x[4 + j]) for j in range(1, 4)]
        return x[0] * xp.exp(-t * x[4]) + peaks[0] + peaks[1] + peaks[2]

    return xp.stack([y - curve(0.1 * i) for i, y in enumerate(OSBORNE_2_Y)])


def biggs_exp6(xp: Any, x: Any) -> Any:
    def residual(t: float) -> Any:
        y = math.exp(-t) - 5.0 * math.exp(-10.0 * t) + 3.0 * math.exp(-4.0 * t)
        return x[2] * xp.exp(-t * x[0]) - x[3] * xp.exp(-t * x[1]) + x[5] * xp.exp(-t * x[4]) - y

    return xp.stack([residual(0.1 * i) for i in range(1, 14)])


def watson(xp: Any, x: Any) -> Any:
    n, rows = int(x.shape[0]), []
    for i in range(1, 30):
        t = i / 29.0
        slope = sum(j * t ** (j - 1) * x[j] for j in range(1, n))
        value = sum(t**j * x[j] for j in range(n))
        rows.append(slope - value**2 - 1.0)
    return xp.stack([*rows, x[0], x[1] - x[0] ** 2 - 1.0])


def brown_almost_linear(xp: Any, x: Any) -> Any:
    n = int(x.shape[0])
    total, product = xp.sum(x), xp.prod(x)
    return xp.stack([*(x[i] + total - (n + 1.0) for i in range(n - 1)), product - 1.0])


def linear_full_rank(xp: Any, x: Any) -> Any:
    mean = 0.2 * xp.sum(x)
    return xp.stack([*(x[i] - mean - 1.0 for i in range(5)), *(-mean - 1.0 for _ in range(5))])


PROBLEMS = {
    "Rosenbrock": Problem(rosenbrock, (-1.2, 1.0), (0.0,)),
    "Freudenstein and Roth": Problem(freudenstein_roth, (0.5, -2.0), (0.0, 48.9842537)),
    "Powell badly scaled": Problem(powell_badly_scaled, (0.0, 1.0), (0.0,)),
    "Brown badly scaled": Problem(brown_badly_scaled, (1.0, 1.0), (0.0,)),
    "Beale": Problem(beale, (1.0, 1.0), (0.0,)),
    "Jennrich and Sampson": Problem(jennrich_sampson, (0.3, 0.4), (124.362182,)),
    "Helical valley": Problem(helical_valley, (-1.0, 0.0, 0.0), (0.0,)),
    "Bard": Problem(bard, (1.0, 1.0, 1.0), (8.21487730e-3,)),
    "Gaussian": Problem(gaussian, (0.4, 1.0, 0.0), (1.12793277e-8,)),
    "Meyer": Problem(meyer, (0.02, 4000.0, 250.0), (87.9458551,)),
    "Box three-dimensional": Problem(box_three_dimensional, (0.0, 10.0, 20.0), (0.0,)),
    "Powell singular": Problem(powell_singular, (3.0, -1.0, 0.0, 1.0), (0.0,)),
    "Wood": Problem(wood, (-3.0, -1.0, -3.0, -1.0), (0.0,)),
    "Kowalik and Osborne": Problem(kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.07505604e-4,)),
    "Brown and Dennis": Problem(brown_dennis, (25.0, 5.0, -5.0, -1.0), (85822.2016,)),
    "Osborne 1": Problem(osborne_1, (0.5, 1.5, -1.0, 0.01, 0.02), (5.46489470e-5,)),
    "Osborne 2": Problem(
        osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5), (4.01377363e-2,)
    ),
    "Biggs EXP6": Problem(biggs_exp6, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (0.0, 5.65565e-3)),
    "Watson, 6": Problem(watson, (0.0,) * 6, (2.28767005e-3,)),
    "Watson, 9": Problem(watson, (0.0,) * 9, (1.39976014e-6,)),
    "Brown almost linear": Problem(brown_almost_linear, (0.5,) * 10, (0.0, 1.0)),
    "Linear, full rank": Problem(linear_full_rank, (1.0,) * 5, (5.0,)),
}
