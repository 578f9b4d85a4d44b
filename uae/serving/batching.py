"""Batching in front of an encoder: whatever waits when the model is free goes into it, in batches of similar lengths.

No request is held back to wait for company, so a lone client pays nothing; under load, batches grow by themselves. Every batch
holds the text that has waited longest, so none starves. Beside it stand those nearest to it in length, so that long texts do not
pad short ones.
"""

import asyncio
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from uae.io.errors import UaeError

# A call of the model costs about as much as so many tokens more in another: a text that would add more padding than that waits
# for a call of its own, or for company.
_CALL_TOKENS = 64
_LONGEST_RETRY_S = 60


class QueueFull(UaeError):
    """There is no room for the texts of a request; ``retry_after_s`` (whole seconds, at least 1) is when there should be."""

    def __init__(self, waiting: int, retry_after_s: int):
        super().__init__(f"{waiting} texts wait already: try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Batch(NamedTuple):
    """What a batch was like, for those who watch."""

    texts: int
    padded_tokens: int
    waits_s: list[float]  # of each text, from its request's arrival
    seconds: float  # in the model


class _Request:
    __slots__ = ("arrived", "missing", "result", "route", "texts", "vectors")

    def __init__(self, texts: Sequence[str], route: tuple[str, str], result: asyncio.Future, arrived: float):
        self.texts, self.route, self.result, self.arrived = texts, route, result, arrived
        self.missing = len(texts)
        self.vectors: np.ndarray | None = None


class _Text:
    """One text of a request. Sorted by length, then by age."""

    __slots__ = ("gone", "length", "number", "place", "request")

    def __init__(self, length: int, number: int, request: _Request, place: int):
        self.length, self.number, self.request, self.place = length, number, request, place
        self.gone = False  # no longer in its queue: it is in a batch, or was dropped

    def __lt__(self, other: "_Text") -> bool:
        return (self.length, self.number) < (other.length, other.number)


class MicroBatcher:
    """Encodes the texts of many requests together. All methods are called on one event loop; the model runs in threads."""

    def __init__(
        self,
        encode: Callable[[list[str], str, str], np.ndarray],
        max_texts: int,
        max_tokens: int,
        padding: float,
        max_waiting: int,
        workers: int,
        observe: Callable[[Batch], None],
    ):
        """
        Args:
            encode: (texts, kind, system) to vectors, shape (n, dim), in the order of the texts. Called in a thread.
            max_texts: most texts in a batch.
            max_tokens: most tokens in a batch, padding included; a longer text goes alone.
            padding: padded tokens that a batch may hold for each real one.
            max_waiting: most texts that wait.
            workers: batches in the model at once.
            observe: is told of each batch.
        """
        self._encode, self._observe = encode, observe
        self._max_texts, self._max_tokens, self._padding, self._max_waiting = max_texts, max_tokens, padding, max_waiting
        self._workers, self._running = workers, 0
        self._pool = ThreadPoolExecutor(workers, "encoding")
        self._queues: dict[tuple[str, str], list[_Text]] = {}  # by kind and system, for these never share a batch; sorted
        self._by_age: deque[_Text] = deque()  # of all queues; those that are gone are dropped when they come to the front
        self._numbers = 0
        self._waiting = self._waiting_tokens = 0
        self._tokens_per_s = 0.0  # a moving mean over batches
        self._planned = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Texts that wait for the model."""
        return self._waiting

    async def encode(self, texts: Sequence[str], lengths: Sequence[int], kind: str, system: str) -> np.ndarray:
        """Vectors of one request's texts, shape (n, dim), float32. When it is cancelled, those that still wait are dropped.

        Args:
            lengths: of the texts in tokens.

        Raises:
            QueueFull: at once, if not all of them find room.
        """
        if self._waiting + len(texts) > self._max_waiting:
            raise QueueFull(self._waiting, self._retry_after())
        loop = asyncio.get_running_loop()
        request = _Request(texts, (kind, system), loop.create_future(), loop.time())
        queue = self._queues.setdefault(request.route, [])
        for place, length in enumerate(lengths):
            self._numbers += 1
            text = _Text(length, self._numbers, request, place)
            insort(queue, text)
            self._by_age.append(text)
        self._waiting += len(texts)
        self._waiting_tokens += sum(lengths)
        self._plan(loop)
        try:
            return await request.result
        except asyncio.CancelledError:
            self._drop(request)
            raise

    async def close(self) -> None:
        """Wait for the batches that are in the model, then end its threads. Called when no request is left."""
        await self._idle.wait()
        self._pool.shutdown(wait=True)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start batches once everything that has arrived in this turn of the event loop is in the queue."""
        if not self._planned and self._running < self._workers and self._waiting:
            self._planned = True
            loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned = False
        while self._running < self._workers and self._waiting:
            batch = self._next_batch()
            self._running += 1
            self._idle.clear()
            started = loop.time()
            work = loop.run_in_executor(self._pool, self._run, batch)
            work.add_done_callback(lambda done, batch=batch, started=started: self._finish(loop, batch, started, done))

    def _next_batch(self) -> list[_Text]:
        oldest = self._by_age[0]  # never one that is gone: see _forget
        queue = self._queues[oldest.request.route]
        first = bisect_left(queue, oldest)
        after = first + 1
        longest, tokens = oldest.length, oldest.length
        while after - first < self._max_texts:
            count = after - first + 1
            # The neighbour on either side, by what it would add in padding.
            choices = []
            if first > 0:
                choices.append((longest - queue[first - 1].length, queue[first - 1].length, True))
            if after < len(queue):
                choices.append(((count - 1) * (queue[after].length - longest), queue[after].length, False))
            if not choices:
                break
            added, length, below = min(choices)
            padded, real = count * max(longest, length), tokens + length
            if padded > self._max_tokens or added > _CALL_TOKENS or padded - real > _CALL_TOKENS + self._padding * real:
                break
            longest, tokens = max(longest, length), real
            first, after = (first - 1, after) if below else (first, after + 1)
        batch = queue[first:after]
        del queue[first:after]
        self._forget(batch)
        return batch

    def _run(self, batch: list[_Text]) -> list[np.ndarray | Exception]:
        """In a thread: one vector a text. A text that the encoder fails on fails its own request only."""
        kind, system = batch[0].request.route
        texts = [text.request.texts[text.place] for text in batch]
        try:
            return list(self._encode(texts, kind, system))
        except Exception as error:
            if len(texts) == 1:
                return [error]
        return [one for text in batch for one in self._run([text])]

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[_Text], started: float, done: asyncio.Future) -> None:
        self._running -= 1
        seconds = loop.time() - started
        padded = len(batch) * max(text.length for text in batch)
        speed = padded / max(seconds, 1e-6)
        self._tokens_per_s = speed if not self._tokens_per_s else 0.9 * self._tokens_per_s + 0.1 * speed
        for text, vector in zip(batch, done.result(), strict=True):
            self._deliver(text.request, text.place, vector)
        self._observe(Batch(len(batch), padded, [started - text.request.arrived for text in batch], seconds))
        if not self._running:
            self._idle.set()
        self._start(loop)

    def _deliver(self, request: _Request, place: int, vector: np.ndarray | Exception) -> None:
        if request.result.done():  # cancelled, or another of its texts has failed
            return
        if isinstance(vector, Exception):
            request.result.set_exception(vector)
            self._drop(request)
            return
        if request.vectors is None:
            request.vectors = np.empty((len(request.texts), len(vector)), dtype=np.float32)
        request.vectors[place] = vector
        request.missing -= 1
        if not request.missing:
            request.result.set_result(request.vectors)

    def _drop(self, request: _Request) -> None:
        """Take a request's texts out of its queue."""
        queue = self._queues[request.route]
        if dropped := [text for text in queue if text.request is request]:
            queue[:] = [text for text in queue if text.request is not request]
            self._forget(dropped)

    def _forget(self, texts: list[_Text]) -> None:
        self._waiting -= len(texts)
        self._waiting_tokens -= sum(text.length for text in texts)
        for text in texts:
            text.gone = True
        while self._by_age and self._by_age[0].gone:
            self._by_age.popleft()

    def _retry_after(self) -> int:
        seconds = self._waiting_tokens / self._tokens_per_s if self._tokens_per_s else 1.0
        return min(max(math.ceil(seconds), 1), _LONGEST_RETRY_S)
