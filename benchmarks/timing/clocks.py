"""How long a call takes: by the wall, by the processor, or on a device by its own events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Clock", "clock_of", "events", "processor", "wall"]

Clock = Callable[[Callable[[], Any]], float]


def wall(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def processor(call: Callable[[], Any]) -> float:
    """Return the seconds of processor time that a call takes, which a busy machine hardly changes."""
    began = time.process_time()
    call()
    return time.process_time() - began


def events(
    event: Callable[[], Any],
    synchronise: Callable[[], Any],
    milliseconds: Callable[[Any, Any], float],
) -> Clock:
    """Make a clock of a device's events.

    The first event is recorded on an idle device, and the second after what the call has put on the
    stream: the time between them has the host's share too, as a user waits for it.

    Parameters
    ----------
    event : callable
        Makes an event, which has ``record`` and ``synchronize``.
    synchronise : callable
        Waits until the device is idle.
    milliseconds : callable
        The time between two events.
    """

    def clock(call: Callable[[], Any]) -> float:
        first, last = event(), event()
        synchronise()
        first.record()
        call()
        last.record()
        last.synchronize()
        synchronise()  # a peer may work on a stream of its own
        return milliseconds(first, last) / 1e3

    return clock


def clock_of(name: str, device: Any) -> Clock:
    """Choose the clock for arrays of a library on a device.

    Parameters
    ----------
    name : str
        The backend's name.
    device : object
        The library's device; only torch's CUDA devices and CuPy's have events. It becomes the current
        one, on which events are recorded.
    """
    if name == "jax":
        import jax

        return lambda call: wall(lambda: jax.block_until_ready(call()))
    if name == "cupy":
        import cupy

        device.use()
        return events(cupy.cuda.Event, cupy.cuda.Device().synchronize, cupy.cuda.get_elapsed_time)
    if name == "torch" and getattr(device, "type", "cpu") == "cuda":
        import torch

        if device.index is not None:
            torch.cuda.set_device(device)
        return events(
            lambda: torch.cuda.Event(enable_timing=True),
            torch.cuda.synchronize,
            lambda first, last: float(first.elapsed_time(last)),
        )
    return wall
