"""Rows of a stream that may pause, such as a pipe or a terminal, as soon as they are there.

In: an iterator that blocks while nothing comes. Out: its items, singly or as chunks that do not wait for more. Knows
nothing of what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")

PAUSE, LONGEST = 0.05, 1.0
"""Seconds without another item that end a chunk, and seconds after its first item that do, in a stream without one."""


class Arriving(Generic[T]):
    """The items of an iterator, which a thread reads from the first use on; an exception of it comes in its place.

    >>> items = Arriving(iter("abc"))
    >>> next(items), items.chunk(5), items.chunk(5)
    ('a', ['b', 'c'], [])
    """

    def __init__(self, items: Iterator[T]) -> None:
        self.stopped = False
        self._items = items
        self._queue: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._wanted = Semaphore(0)
        self._reader = Thread(target=self._read, daemon=True)  # which may wait for a writer that never comes
        self._end: BaseException | None = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._take(None)

    def chunk(self, size: int) -> list[T]:
        """Up to `size` items: the next one, and what follows without a pause within a second. Empty at the end."""
        found: list[T] = []
        end = math.inf
        try:
            while len(found) < size and monotonic() < end:
                found.append(self._take(PAUSE if found else None))
                end = min(end, monotonic() + LONGEST)
        except (Empty, StopIteration):
            pass
        except Exception:  # of the items: it comes again. KeyboardInterrupt may be this thread's, and would not
            if not found:
                raise
        return found

    def stop(self) -> None:
        """End behind what has been read. For signal handlers."""
        self.stopped = True
        self._queue.put((None, StopIteration()))

    def _take(self, timeout: float | None) -> T:
        if self._end is not None:
            raise self._end
        if self._reader.ident is None:
            self._reader.start()
            self._wanted.release()
        item, self._end = self._queue.get(timeout=timeout)
        if self._end is not None:
            raise self._end
        self._wanted.release()
        return item  # type: ignore[return-value]

    def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            while self._wanted.acquire():
                self._queue.put((next(self._items), None))
        except BaseException as error:
            end = error
        self._queue.put((None, end))
