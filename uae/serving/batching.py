"""Batching in front of an encoder: whatever waits when the model is free goes into it, in batches of similar lengths.

No request is held back to fill a batch, so a lone client loses no time. Under load, batches grow by themselves. Every batch holds
the text that has waited longest, so none waits for ever. The rest of the batch are the texts nearest to it in length, so that
long texts do not pad short ones.

A long request enters the queue in pieces of a batch each. Other requests get their turn between two pieces.

Every request ends: with its vectors or with an error. That holds where the encoder raises, returns the wrong number of vectors,
or the batcher is closed.
"""

import asyncio
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uae.io.errors import ArtefactError, UaeError
from uae.retrievers.protocol import Side

Vectors = npt.NDArray[np.float32]
# A call of the model costs about as much as this many tokens more in another call. A text that would add more padding than that
# waits for another batch.
_CALL_TOKENS = 64
_LONGEST_RETRY_S = 60


class QueueFull(UaeError):
    """There is no room for the texts of a request; ``retry_after_s`` (whole seconds, at least 1) is when there should be."""

    def __init__(self, waiting: int, retry_after_s: int):
        super().__init__(f"{waiting} texts wait already: try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(UaeError):
    """The batcher was closed, because its release is no longer served. The request may be sent again."""


class Batch(NamedTuple):
    """What a batch was like, for the metrics."""

    texts: int
    padded_tokens: int
    waits_s: list[float]  # of each text, from its request's arrival
    seconds: float  # in the model


class _Request:
    __slots__ = ("arrived", "missing", "result", "route", "texts", "vectors")

    def __init__(self, texts: Sequence[str], route: tuple[Side, str], result: asyncio.Future[Vectors], arrived: float):
        self.texts, self.route, self.result, self.arrived = texts, route, result, arrived
        self.missing = len(texts)
        self.vectors: Vectors | None = None


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
        encode: Callable[[list[str], Side, str], npt.NDArray[np.floating]],
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
            observe: is called with each batch.
        """
        self._encode, self._observe = encode, observe
        self._max_texts, self._max_tokens, self._padding, self._max_waiting = max_texts, max_tokens, padding, max_waiting
        self._workers, self._running = workers, 0
        self._pool = ThreadPoolExecutor(workers, "encoding")
        self._queues: dict[tuple[Side, str], list[_Text]] = {}  # by kind and system, for these never share a batch; sorted
        self._by_age: deque[_Text] = deque()  # of all queues; those that are gone are dropped when they come to the front
        self._numbers = 0
        self._waiting = self._waiting_tokens = 0
        self._tokens_per_s = 0.0  # a moving mean over batches
        self._planned = self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Texts that wait for the model."""
        return self._waiting

    async def encode(self, texts: Sequence[str], lengths: Sequence[int], kind: Side, system: str) -> Vectors:
        """Vectors of one request's texts, shape (n, dim), in their order. When it is cancelled, what still waits is dropped.

        A request of more texts than a batch holds goes in pieces, the shortest texts first. Only its first piece must find room:
        the others wait, one at a time, above ``max_waiting``.

        Args:
            lengths: of the texts in tokens.

        Raises:
            QueueFull: at once, if the first piece finds no room.
            Closed: the batcher is closed.
            ArtefactError: the encoder returned something else than one finite vector for each text.
            ValueError: there is no text, or not one length for each.
            Exception: what the encoder raised on one of the texts.
        """
        if not texts or len(texts) != len(lengths):
            raise ValueError(
                f"{len(texts)} texts with {len(lengths)} lengths: each text needs one, and there is at least one text"
            )
        piece = self._max_texts * self._workers
        if len(texts) <= piece:
            return await self._encode_piece(texts, lengths, (kind, system), first=True)
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        found = []
        for start in range(0, len(order), piece):
            places = order[start : start + piece]
            some, some_lengths = [texts[place] for place in places], [lengths[place] for place in places]
            found.append(await self._encode_piece(some, some_lengths, (kind, system), first=start == 0))
        vectors = np.empty((len(texts), found[0].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(found)
        return vectors

    async def _encode_piece(self, texts: Sequence[str], lengths: Sequence[int], route: tuple[Side, str], first: bool) -> Vectors:
        if self._closed:
            raise _closed()
        if first and self._waiting + len(texts) > self._max_waiting:
            raise QueueFull(self._waiting, self._retry_after())
        loop = asyncio.get_running_loop()
        request = _Request(texts, route, loop.create_future(), loop.time())
        queue = self._queues.setdefault(route, [])
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
        """Wait for the batches that are in the model, then end its threads. Requests that still wait end with ``Closed``."""
        self._closed = True
        for request in {text.request for queue in self._queues.values() for text in queue}:
            self._fail(request, _closed())
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
            try:
                work = loop.run_in_executor(self._pool, self._run, batch)
            except RuntimeError as error:  # no thread can be started: the machine has none left
                self._finish(loop, batch, started, [error] * len(batch))
                continue
            work.add_done_callback(partial(self._finished, loop, batch, started))

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

    def _run(self, batch: list[_Text]) -> list[Vectors | Exception]:
        """In a thread: one vector a text. A text that the encoder fails on fails its own request only. It never raises."""
        kind, system = batch[0].request.route
        texts = [text.request.texts[text.place] for text in batch]
        try:
            return list(_checked(self._encode(texts, kind, system), len(texts)))
        except BaseException as error:  # also SystemExit and its like: the requests that wait must end
            if len(texts) == 1:
                return [_raisable(error)]
        return [one for text in batch for one in self._run([text])]

    def _finished(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Text],
        started: float,
        done: asyncio.Future[list[Vectors | Exception]],
    ) -> None:
        self._finish(loop, batch, started, done.result())

    def _finish(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Text], started: float, results: list[Vectors | Exception]
    ) -> None:
        self._running -= 1
        seconds = loop.time() - started
        padded = len(batch) * max(text.length for text in batch)
        speed = padded / max(seconds, 1e-6)
        self._tokens_per_s = speed if not self._tokens_per_s else 0.9 * self._tokens_per_s + 0.1 * speed
        if not self._running:
            self._idle.set()
        for text, vector in zip(batch, results, strict=True):
            self._deliver(text.request, text.place, vector)
        self._plan(loop)  # before anything of others is called, which may fail
        self._observe(Batch(len(batch), padded, [started - text.request.arrived for text in batch], seconds))

    def _deliver(self, request: _Request, place: int, vector: Vectors | Exception) -> None:
        if request.result.done():  # cancelled, or another of its texts has failed
            return
        if isinstance(vector, Exception):
            self._fail(request, vector)
            return
        if request.vectors is None:
            request.vectors = np.empty((len(request.texts), len(vector)), dtype=np.float32)
        if len(vector) != request.vectors.shape[1]:
            self._fail(request, ArtefactError("the encoder returned vectors of different lengths"))
            return
        request.vectors[place] = vector
        request.missing -= 1
        if not request.missing:
            request.result.set_result(request.vectors)

    def _fail(self, request: _Request, error: Exception) -> None:
        if not request.result.done():
            request.result.set_exception(error)
        self._drop(request)

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


def _checked(vectors: npt.NDArray[np.floating], texts: int) -> npt.NDArray[np.floating]:
    """The encoder's answer, if it is one finite vector for each text."""
    shape: tuple[int, ...] = getattr(vectors, "shape", ())
    if len(shape) != 2 or shape[0] != texts:
        raise ArtefactError(f"the encoder was given {texts} texts and returned {_described(vectors)}, not a vector for each")
    if not np.isfinite(vectors).all():
        raise ArtefactError(
            "the encoder returned a vector that is not finite: the release is damaged, or made by another version"
        )
    return vectors


def _described(answer: object) -> str:
    shape = getattr(answer, "shape", None)
    return type(answer).__name__ if shape is None else f"an array of shape {tuple(shape)}"


def _raisable(error: BaseException) -> Exception:
    """An error that a future takes: it refuses StopIteration, and the others would end the event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = UaeError(f"the encoder ended with {error!r}")
    wrapped.__cause__ = error
    return wrapped


def _closed() -> Closed:
    return Closed("the release is no longer served: send the request again")
