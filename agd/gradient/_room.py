"""Passes that take more than a device's memory: again in smaller blocks, which later passes keep to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from agd import backends

__all__ = ["again", "halve", "in_room"]

T = TypeVar("T")

LEAST_ROWS = 64  # of a block: with fewer, what does not fit is not what is made of its rows


def in_room(blocks: Any, use: Callable[[list[Any]], T], limit: int | None) -> T:
    """Use row blocks; where a device's memory runs out, blocks of half the rows, from then on.

    Parameters
    ----------
    blocks : Blocks
        The data.
    use : callable
        A pure function of the blocks as they are cut.
    limit : int or None
        As in `Blocks.cut`.

    Returns
    -------
    object
        What `use` returned.

    Raises
    ------
    Exception
        The library's own, where blocks of a few rows do not fit either.
    """
    ran_out = backends.of(blocks.X).is_out_of_memory
    return again(lambda: use(blocks.cut(limit)), ran_out, lambda: halve(blocks, blocks.cut(limit)))


def again(
    call: Callable[[], T], ran_out: Callable[[BaseException], bool], shrink: Callable[[], bool]
) -> T:
    """Call until memory lasts: `shrink` lets the next call take less, and returns whether it could."""
    while True:
        try:
            return call()
        except Exception as error:
            if not (ran_out(error) and shrink()):
                raise
        # Here the error is gone, and with its frames what the call had made.


def halve(blocks: Any, cut: list[Any]) -> bool:
    """Let blocks have half the rows that these have; return whether that was more than a few."""
    n = int(cut[0][0].shape[-2])
    if n <= LEAST_ROWS:
        return False
    blocks.most[:] = [max(LEAST_ROWS, n // 2)]
    return True
