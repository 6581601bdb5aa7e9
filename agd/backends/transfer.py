"""Host to device transfers: as the library copies by itself, or through pinned memory on a stream of its own.

A `Transfer` serves one reader of data, which may be a thread that moves the next batch of rows to the
device while the current one is computed with.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from agd._typing import HostArray, NativeArray

__all__ = [
    "CupyTransfer",
    "PinnedTransfer",
    "TorchTransfer",
    "Transfer",
    "format_bytes",
    "out_of_memory_error",
    "torch_transfer",
]

# Of each of the two staging buffers: large beside the cost of starting a copy.
STAGING_BYTES = 16 * 2**20


class Transfer:
    """Moves host arrays to a device in one piece, as the library does by itself.

    Parameters
    ----------
    selection : Selection
        The backend and the device to move to.
    """

    def __init__(self, selection: Any) -> None:
        self.selection = selection
        self.record_event()

    def record_event(self) -> None:
        """Let later moves wait for the work that the calling thread has queued on the device so far.

        Freed memory may be given to the next array while work on the old one is still queued.
        """

    def move(self, host: HostArray) -> NativeArray:
        """Return a NumPy array, whose dtype the device supports, as an array on the device."""
        return self.selection.asarray(host)


class PinnedTransfer(Transfer):
    """Moves host arrays piece by piece through two pinned buffers, on a stream for copies alone.

    One buffer is filled while the other is copied from. The array is complete when `move` returns, so
    that any stream may use it. Subclasses add what is a library's own.
    """

    def __init__(self, selection: Any) -> None:
        self._buffers: list[Any] = [None, None]
        self._events: list[Any] = [None, None]
        super().__init__(selection)

    def move(self, host: HostArray) -> NativeArray:
        """Return a NumPy array, whose dtype the device supports, as an array on the device."""
        with self._copy_stream():
            array = self._allocate(host)
            row_bytes = math.prod(host.shape[1:]) * host.itemsize
            rows = max(1, STAGING_BYTES // max(1, row_bytes))
            for k, i in enumerate(range(0, len(host), rows)):
                self._copy_piece(k % 2, array[i : i + rows], host[i : i + rows])
        for event in self._events:
            if event is not None:
                event.synchronize()
        return array

    def _allocate(self, host: HostArray) -> NativeArray:
        try:
            return self._empty_array(host.shape, host.dtype)
        except Exception as error:
            if not self.selection.backend.is_out_of_memory(error):
                raise
            raise out_of_memory_error(self.selection, host) from error

    def _copy_piece(self, k: int, target: NativeArray, piece: HostArray) -> None:
        """Copy a piece through buffer k, once the last copy from that buffer has ended."""
        if self._events[k] is not None:
            self._events[k].synchronize()
        if self._buffers[k] is None or _byte_count(self._buffers[k]) < piece.nbytes:
            self._buffers[k] = self._pinned_buffer(max(piece.nbytes, STAGING_BYTES))
        staged = np.frombuffer(self._buffers[k], dtype=piece.dtype, count=piece.size)
        staged = staged.reshape(piece.shape)
        np.copyto(staged, piece)  # a memory map is read from its file here
        self._events[k] = self._start_copy(staged, target)

    def _copy_stream(self) -> AbstractContextManager[Any]:
        """Return a context on the stream for copies, which has waited for the recorded event."""
        raise NotImplementedError

    def _empty_array(self, shape: tuple[int, ...], dtype: Any) -> NativeArray:
        """Return an uninitialised array on the device, in C order."""
        raise NotImplementedError

    def _pinned_buffer(self, size: int) -> Any:
        """Return a writable buffer of `size` bytes in page-locked memory."""
        raise NotImplementedError

    def _start_copy(self, staged: Any, target: NativeArray) -> Any:
        """Start to copy a staged array to the device; return the event that marks the end."""
        raise NotImplementedError


def _byte_count(buffer: Any) -> int:
    return memoryview(buffer).nbytes


# -- CuPy ----------------------------------------------------------------------------------------


# One stream for each device: CuPy's memory pool keeps freed memory for the stream that freed it.
@functools.cache
def _cupy_copy_stream(index: int) -> Any:
    import cupy

    with cupy.cuda.Device(index):
        return cupy.cuda.Stream(non_blocking=True)


class CupyTransfer(PinnedTransfer):
    """Moves host arrays to a device of CuPy's."""

    def record_event(self) -> None:
        """Let later moves wait for the current stream of the calling thread."""
        import cupy

        with self.selection.device:
            self._event = cupy.cuda.get_current_stream().record()

    @contextlib.contextmanager
    def _copy_stream(self) -> Iterator[None]:
        stream = _cupy_copy_stream(self.selection.device.id)
        with self.selection.device, stream:  # both contexts belong to the thread
            stream.wait_event(self._event)
            yield

    def _empty_array(self, shape: tuple[int, ...], dtype: Any) -> NativeArray:
        import cupy

        return cupy.empty(shape, dtype=dtype)

    def _pinned_buffer(self, size: int) -> Any:
        import cupy

        return cupy.cuda.alloc_pinned_memory(size)  # from a pool, which reuses it

    def _start_copy(self, staged: Any, target: NativeArray) -> Any:
        stream = _cupy_copy_stream(self.selection.device.id)
        target.set(staged, stream=stream)
        return stream.record()


# -- PyTorch -------------------------------------------------------------------------------------


@functools.cache
def _torch_copy_stream(index: int) -> Any:
    import torch

    stream_class: Any = torch.cuda.Stream  # torch does not annotate it
    return stream_class(index)


class TorchTransfer(PinnedTransfer):
    """Moves host arrays to a CUDA device of PyTorch's."""

    @property
    def _device_index(self) -> int:
        import torch

        index = self.selection.device.index
        return torch.cuda.current_device() if index is None else int(index)

    def record_event(self) -> None:
        """Let later moves wait for the current stream of the calling thread."""
        import torch

        self._event = torch.cuda.current_stream(self._device_index).record_event()

    @contextlib.contextmanager
    def _copy_stream(self) -> Iterator[None]:
        import torch

        stream = _torch_copy_stream(self._device_index)
        with torch.cuda.stream(stream):
            stream.wait_event(self._event)
            yield

    def _empty_array(self, shape: tuple[int, ...], dtype: Any) -> NativeArray:
        import torch

        torch_dtype = getattr(torch, dtype.name)
        return torch.empty(
            shape, dtype=torch_dtype, device=torch.device("cuda", self._device_index)
        )

    def _pinned_buffer(self, size: int) -> Any:
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

    def _start_copy(self, staged: Any, target: NativeArray) -> Any:
        import torch

        target.copy_(torch.from_numpy(staged), non_blocking=True)
        return _torch_copy_stream(self._device_index).record_event()


def torch_transfer(selection: Any) -> Transfer:
    """Return the transfer to a device of PyTorch's: pinned for CUDA, plain for all others."""
    return TorchTransfer(selection) if selection.device.type == "cuda" else Transfer(selection)


def out_of_memory_error(selection: Any, host: Any) -> MemoryError:
    """Return the error for a host array that does not fit in the memory of a device."""
    free = selection.backend.free_bytes(selection.device)
    room = "" if free is None else f", where {format_bytes(free)} are free"
    spec = f"{selection.backend.name}:{selection.device_name}"
    return MemoryError(
        f"an array of shape {tuple(host.shape)} takes {format_bytes(int(host.nbytes))} on {selection}{room}: "
        f"leave it on the host, and agd.fit(X, y, device={spec!r}) reads it in batches"
    )


def format_bytes(size: int) -> str:
    """Return a number of bytes in the largest binary unit that it fills.

    Examples
    --------
    >>> format_bytes(3 * 2**29), format_bytes(2000)
    ('1.5 GiB', '2.0 KiB')
    """
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(3, max(0, (size.bit_length() - 1) // 10))
    return f"{size / 1024**power:.{min(power, 1)}f} {units[power]}"
