"""Threads for searching the index and other work that would hold up the event loop. The queue in front of them is bounded."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from deploy.schemas import ApiError

_LONGEST_RETRY_S = 60
T = TypeVar("T")


class Finding:
    """All methods are called on one event loop."""

    def __init__(self, threads: int, max_waiting: int):
        self._threads, self._max_waiting = threads, max_waiting
        self._pool = ThreadPoolExecutor(threads, "finding")
        self._unfinished = 0
        self._seconds = 0.0  # of one piece of work, a moving mean

    @property
    def waiting(self) -> int:
        """Pieces of work that no thread has begun."""
        return max(0, self._unfinished - self._threads)

    async def run(self, function: Callable[..., T], *arguments: Any, begun: bool = False) -> T:
        """Like ``asyncio.to_thread``. When it is cancelled it still waits for the thread, which uses the release that is leased.

        Args:
            begun: it is a later part of something. It waits for its turn behind whatever waits already.

        Raises:
            ApiError: 429, where too much waits already.
        """
        if self.waiting >= self._max_waiting and not begun:
            seconds = self._retry_after()
            message = f"{self.waiting} searches wait already: try again in {seconds} s"
            raise ApiError(429, "queue_full", message, headers={"Retry-After": str(seconds)})
        job = self._pool.submit(self._timed, function, *arguments)
        self._unfinished += 1
        work = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread's own future is asked: the event loop's is cancelled at once, even while the thread runs.
            while not (job.done() or job.cancel()):
                with contextlib.suppress(asyncio.CancelledError):  # a time-out, and then the client hangs up
                    await asyncio.wait([work])
            raise
        finally:
            self._unfinished -= 1

    def close(self) -> None:
        """Wait for what runs. Called when no request is left."""
        self._pool.shutdown()

    def _timed(self, function: Callable[..., T], *arguments: Any) -> T:
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            seconds = time.perf_counter() - started
            self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._seconds else seconds

    def _retry_after(self) -> int:
        return min(max(math.ceil(self.waiting * self._seconds / self._threads), 1), _LONGEST_RETRY_S)
