"""Answers leave in pieces, no faster than they are read, and what is still to be read is counted.

uvicorn takes whatever it is given into its buffer, and only the next ``send`` waits until that has gone. An answer handed over in
one piece would stay in memory for as long as its reader likes. Here only a piece can: the rest of the answer is given up when the
reader takes too long for it. A proxy that buffers answers (deploy/nginx) reads them at once. This layer is for those who ask
without a proxy.

The connection of a reader that stopped stays open with that last piece, until the reader or its kernel ends it. ASGI has no way
to break it off; nginx has (``reset_timedout_connection``).
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.config import Config
from deploy.logs import CLIENT_GONE
from deploy.schemas import ApiError

_PIECE = 65_536  # bytes; as much as uvicorn buffers before it makes the next one wait
# An answer must have stood still for so long before it is given up to make room. A short fault of the network is shorter.
_STALLED_S = 1.0


class _Answer:
    """What one client has still to read."""

    def __init__(self) -> None:
        self.left = 0  # bytes
        self.since = 0.0  # when the piece that waits was handed over, on the event loop's clock
        self.timer: asyncio.Timeout | None = None  # of that piece


@dataclass
class Load:
    """What all requests together hold at this moment."""

    running: int = 0  # requests between the end of their body and the start of their answer
    buffered: int = 0  # bytes of bodies in memory
    answers: list[_Answer] = field(default_factory=list)  # the long ones that are being sent

    @property
    def unsent(self) -> int:
        """Bytes of answers that are still to be read."""
        return sum(answer.left for answer in self.answers)

    def full(self, limit: int) -> bool:
        """Whether more bytes are held than may be. First those answers are given up that have stood still for longest."""
        now = asyncio.get_running_loop().time()
        while self.buffered + self.unsent > limit:
            stalled = [each for each in self.answers if each.left and each.timer and now - each.since >= _STALLED_S]
            if not stalled:
                return True
            slowest = min(stalled, key=lambda each: each.since)
            slowest.left = 0
            if slowest.timer:
                slowest.timer.reschedule(now)
        return False


class PacedSending:
    """ASGI, around all other layers: sends bodies in pieces, and gives up an answer that nobody reads."""

    def __init__(self, app: ASGIApp, config: Config, load: Load):
        self.app, self.config, self.load = app, config, load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer()

        async def pace(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= _PIECE:
                await self._send(answer, send, message)
                return
            answer.left = len(body)
            if answer not in self.load.answers:
                self.load.answers.append(answer)
            self.load.full(self.config.max_buffered_bytes)
            for start in range(0, len(body), _PIECE):
                await self._send(answer, send, {**message, "body": body[start : start + _PIECE], "more_body": True})
                answer.left = max(0, answer.left - _PIECE)
            # An empty end: it waits, as each piece did, until the one before has gone.
            await self._send(answer, send, {**message, "body": b"", "more_body": message.get("more_body", False)})

        try:
            with contextlib.suppress(ApiError):  # of an error's own answer, when nobody reads that
                await self.app(scope, receive, pace)
        finally:
            if answer in self.load.answers:
                self.load.answers.remove(answer)

    async def _send(self, answer: _Answer, send: Send, message: Message) -> None:
        answer.since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.config.send_seconds) as timer:
                answer.timer = timer
                await send(message)
        except TimeoutError:
            if not timer.expired():
                raise
            raise ApiError(CLIENT_GONE, "slow_reader", "") from None
