"""The next of some items is made by a thread while the present one is used."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

__all__ = ["ahead"]

_END = object()


def ahead(source: Generator[Any], handed: Callable[[], None]) -> Iterator[Any]:
    """Give what `source` gives, in its order; a thread makes each next item meanwhile.

    At most two items are held at a time: the one that was given last, and the next.

    Parameters
    ----------
    source : generator
        Run and closed in the thread, under the caller's context.
    handed : callable
        Called by the caller's thread before the next item is begun: all earlier ones were used by then.

    Yields
    ------
    object
        The items. What `source` raises is raised here. The thread has ended when this has, also where
        the caller leaves before the last item.
    """
    reader = _Reader(source)
    reader.thread.start()
    try:
        while (item := reader.ready.get()) is not _END:
            handed()
            reader.wanted.release()
            yield item
            del item  # before the next one is waited for
        reader.check()
    finally:
        reader.stop()


class _Reader:
    """A thread that makes one item each time that one is wanted."""

    def __init__(self, source: Generator[Any]) -> None:
        self.source = source
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.wanted = threading.Semaphore(1)
        self.stopped = False
        self.error: BaseException | None = None
        run = contextvars.copy_context().run  # NumPy's errstate is the context's
        self.thread = threading.Thread(target=run, args=(self._work,), name="agd-batches")

    def _work(self) -> None:
        try:
            while self.wanted.acquire() and not self.stopped:
                self.ready.put(next(self.source))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            self.error = error
        finally:
            try:
                self.source.close()
            finally:
                self.ready.put(_END)

    def check(self) -> None:
        """Raise what the source raised."""
        error, self.error = self.error, None
        if error is None:
            return
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def stop(self) -> None:
        """End the thread, once the item that it is at is made."""
        self.stopped = True
        self.wanted.release()
        self.thread.join()
