"""How host arrays get to a device: as its library copies them, or through pinned memory beside the work there.

A `Feed` serves one reader: it may be a thread that moves the next rows while others are computed with.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from agd._typing import Array

__all__ = ["CupyFeed", "Feed", "PinnedFeed", "TorchFeed", "in_words", "no_room", "torch_feed"]

PIECE = 16 * 2**20  # bytes of one of two staging buffers: large beside the cost of starting a copy


class Feed:
    """Moves host arrays as the library does, in one go.

    Parameters
    ----------
    selection : Selection
        Where to.
    """

    def __init__(self, selection: Any) -> None:
        self.selection = selection
        self.fence()

    def fence(self) -> None:
        """Let later moves wait for what the calling thread has asked of the device so far.

        Memory that was let go may be given to the next array while work with the old one is still queued.
        """

    def move(self, host: Any) -> Array:
        """Return a NumPy array, of a dtype that the device has, as an array there."""
        return self.selection.asarray(host)


class PinnedFeed(Feed):
    """Moves host arrays by pieces through two pinned buffers, on a stream of copies.

    One buffer is filled while the other is copied from. An array is there when `move` returns, so that
    any stream may use it. A library fills in what is CUDA's.
    """

    def __init__(self, selection: Any) -> None:
        self._buffers: list[Any] = [None, None]
        self._copied: list[Any] = [None, None]
        super().__init__(selection)

    def move(self, host: Any) -> Array:
        """Return a NumPy array, of a dtype that the device has, as an array there."""
        with self._beside():
            moved = self._room_for(host)
            rows = max(1, PIECE // max(1, math.prod(host.shape[1:]) * host.itemsize))
            for k, i in enumerate(range(0, len(host), rows)):
                self._piece(k % 2, moved[i : i + rows], host[i : i + rows])
        for event in self._copied:
            if event is not None:
                event.synchronize()
        return moved

    def _room_for(self, host: Any) -> Array:
        try:
            return self._empty(host.shape, host.dtype)
        except Exception as error:
            if not self.selection.backend.out_of_memory(error):
                raise
            raise no_room(self.selection, host) from error

    def _piece(self, k: int, moved: Array, piece: Any) -> None:
        """Copy a piece by the buffer k, once what was in it has left."""
        if self._copied[k] is not None:
            self._copied[k].synchronize()
        if self._buffers[k] is None or _size(self._buffers[k]) < piece.nbytes:
            self._buffers[k] = self._pinned(max(piece.nbytes, PIECE))
        staged = np.frombuffer(self._buffers[k], dtype=piece.dtype, count=piece.size)
        staged = staged.reshape(piece.shape)
        np.copyto(staged, piece)  # reads the file of a memory map
        self._copied[k] = self._copy(staged, moved)

    def _beside(self) -> AbstractContextManager[Any]:
        """Return a context on the stream of copies, which has waited for the fence."""
        raise NotImplementedError

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array on the device, rows contiguous."""
        raise NotImplementedError

    def _pinned(self, size: int) -> Any:
        """Return a writable buffer of this many bytes that the device can read by itself."""
        raise NotImplementedError

    def _copy(self, staged: Any, moved: Array) -> Any:
        """Begin to copy a buffer's array; return the event that ends it."""
        raise NotImplementedError


def _size(buffer: Any) -> int:
    return memoryview(buffer).nbytes


# -- CuPy ----------------------------------------------------------------------------------------


@functools.cache  # one for a device: memory that a stream let go is kept for that stream
def _cupy_side(index: int) -> Any:
    import cupy

    with cupy.cuda.Device(index):
        return cupy.cuda.Stream(non_blocking=True)


class CupyFeed(PinnedFeed):
    """Moves host arrays to CuPy's device."""

    def fence(self) -> None:
        """Let later moves wait for the current stream of the calling thread."""
        import cupy

        with self.selection.device:
            self._done = cupy.cuda.get_current_stream().record()

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        side = _cupy_side(self.selection.device.id)
        with self.selection.device, side:  # both are the thread's own
            side.wait_event(self._done)
            yield

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        import cupy

        return cupy.empty(shape, dtype=dtype)

    def _pinned(self, size: int) -> Any:
        import cupy

        return cupy.cuda.alloc_pinned_memory(size)  # of a pool, which gives it again

    def _copy(self, staged: Any, moved: Array) -> Any:
        side = _cupy_side(self.selection.device.id)
        moved.set(staged, stream=side)
        return side.record()


# -- PyTorch -------------------------------------------------------------------------------------


@functools.cache
def _torch_side(index: int) -> Any:
    import torch

    made: Any = torch.cuda.Stream  # which has no types of its own
    return made(index)


class TorchFeed(PinnedFeed):
    """Moves host arrays to torch's CUDA device."""

    @property
    def _index(self) -> int:
        import torch

        index = self.selection.device.index
        return torch.cuda.current_device() if index is None else int(index)

    def fence(self) -> None:
        """Let later moves wait for the current stream of the calling thread."""
        import torch

        self._done = torch.cuda.current_stream(self._index).record_event()

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        import torch

        side = _torch_side(self._index)
        with torch.cuda.stream(side):
            side.wait_event(self._done)
            yield

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        import torch

        kind = getattr(torch, dtype.name)
        return torch.empty(shape, dtype=kind, device=torch.device("cuda", self._index))

    def _pinned(self, size: int) -> Any:
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

    def _copy(self, staged: Any, moved: Array) -> Any:
        import torch

        moved.copy_(torch.from_numpy(staged), non_blocking=True)
        return _torch_side(self._index).record_event()


def torch_feed(selection: Any) -> Feed:
    """Return what moves to this device of torch's."""
    return TorchFeed(selection) if selection.device.type == "cuda" else Feed(selection)


def no_room(selection: Any, host: Any) -> MemoryError:
    """Return what is raised where a device has no room for a host array."""
    free = selection.backend.free_bytes(selection.device)
    left = "" if free is None else f", where {in_words(free)} are free"
    spec = f"{selection.backend.name}:{selection.device_name}"
    return MemoryError(
        f"an array of shape {tuple(host.shape)} takes {in_words(int(host.nbytes))} on {selection}{left}: "
        f"leave it on the host, and agd.fit(X, y, device={spec!r}) reads it in batches"
    )


def in_words(size: int) -> str:
    """Return a number of bytes as one reads it.

    Examples
    --------
    >>> in_words(3 * 2**29), in_words(2000)
    ('1.5 GiB', '2.0 KiB')
    """
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(3, max(0, (size.bit_length() - 1) // 10))
    return f"{size / 1024**power:.{min(power, 1)}f} {units[power]}"
