"""The first pass over data in chunks: what the values are, how many rows there are, and their moments.

Data in memory are asked one question after the other. To read chunks is what costs, so that the first
pass over them answers all.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss
from agd.gradient._accumulate import of_chunk
from agd.gradient._sums import Sums, merge
from agd.gradient.blocks import Blocks
from agd.gradient.moments import Moments
from agd.gradient.screening import Screened, report, screen

__all__ = ["survey"]


def survey(blocks: Blocks, loss: Loss) -> tuple[Screened, Moments]:
    """Check the values of data in chunks, count their rows and sum their moments, in one pass.

    Parameters
    ----------
    blocks : Blocks
        Those of `Blocks.uncounted`.
    loss : Loss
        It says which targets it can have.

    Returns
    -------
    screened : Screened
        Sound data, with their rows counted.
    moments : Moments
        Theirs; of two classes, with the targets 0 and 1.

    Raises
    ------
    ValueError
        As `agd.gradient.screening.screen`.
    """
    look = functools.partial(_look, loss, blocks.rows)
    with np.errstate(all="ignore"):  # as of `screen` and of `Moments`; it goes with the functions
        reports, sums = blocks.merged(look, _joined)
        moments = Moments.of_sums(sums)
    xp = backends.namespace(sums.total)
    counted = blocks.replace(total=xp.astype(sums.total, blocks.resident.dtype))
    screened = screen(counted, loss, reports)
    return screened, _encoded(moments, screened.classes)


def _encoded(moments: Moments, classes: tuple[float, float] | None) -> Moments:
    """Write two classes as 0 and 1 in the moments too."""
    if classes is None or classes == (0.0, 1.0):
        return moments
    low, high = classes
    xp, width = backends.namespace(moments.yy), high - low
    return replace(
        moments,
        mean_y=((moments.mean_y - low) + moments.mean_y_rest) / width,
        mean_y_rest=xp.zeros_like(moments.mean_y_rest),
        c=moments.c / width,
        yy=moments.yy / width / width,
    )


def _look(
    loss: Loss, rows: int | None, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Sums]:
    return report(loss, X, y, weight)[None, :], of_chunk(rows, X, y, weight)


def _joined(parts: list[Any]) -> tuple[Array, Sums]:
    xp = backends.namespace(parts[0][0])
    return xp.concat([seen for seen, _ in parts]), merge([sums for _, sums in parts])
