"""Answers leave in pieces, no faster than they are read, and what is still to be read is counted.

uvicorn takes whatever it is given into its buffer; only the next ``send`` waits until that has gone. An answer handed over in one
piece would lie there for as long as its reader likes.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import h11_impl

from deploy.config import Config
from deploy.logs import CLIENT_GONE
from deploy.schemas import ApiError

try:  # uvicorn takes it where it is installed
    from uvicorn.protocols.http import httptools_impl
except ImportError:
    httptools_impl = None

_PIECE = 65_536  # bytes; as much as uvicorn buffers before it makes the next one wait
# No answer is given up for others before it has stood still for so long: a network's hiccup is shorter.
_STALLED_S = 1.0
_TRANSPORT = "uae.transport"


class _Answer:
    """What one client has still to read."""

    def __init__(self) -> None:
        self.left = 0  # bytes
        self.since = 0.0  # when the piece that waits was handed over, on the event loop's clock
        self.timer: asyncio.Timeout | None = None  # of that piece


@dataclass
class Load:
    """What all requests together hold at the moment."""

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
            slowest.timer.reschedule(now)
        return False


class PacedSending:
    """ASGI, around all others: sends bodies in pieces, and breaks off an answer that nobody reads."""

    def __init__(self, app: ASGIApp, config: Config, load: Load):
        _tell_transports()
        self.app, self.config, self.load = app, config, load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer()

        async def pace(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= _PIECE:
                await self._send(answer, scope, send, message)
                return
            answer.left = len(body)
            if answer not in self.load.answers:
                self.load.answers.append(answer)
            self.load.full(self.config.max_buffered_bytes)
            for start in range(0, len(body), _PIECE):
                await self._send(answer, scope, send, {**message, "body": body[start : start + _PIECE], "more_body": True})
                answer.left = max(0, answer.left - _PIECE)
            # An empty end: it waits, as each piece did, until the one before has gone.
            await self._send(answer, scope, send, {**message, "body": b"", "more_body": message.get("more_body", False)})

        try:
            with contextlib.suppress(ApiError):  # of an error's own answer, when nobody reads that
                await self.app(scope, receive, pace)
        finally:
            if answer in self.load.answers:
                self.load.answers.remove(answer)

    async def _send(self, answer: _Answer, scope: Scope, send: Send, message: Message) -> None:
        answer.since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.config.send_seconds) as answer.timer:
                await send(message)
        except TimeoutError:
            if not answer.timer.expired():
                raise
            await _break_off(scope)
            raise ApiError(CLIENT_GONE, "slow_reader", "") from None


async def _break_off(scope: Scope) -> None:
    """End the connection without waiting for what lies in its buffers, ours and the kernel's; to close it would wait for both."""
    transport = scope.get(_TRANSPORT)
    if transport is None:  # no uvicorn: raising, here, is all that can be done
        return
    if (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0)  # uvicorn hears of it in the event loop's next turn, and has nothing more to say then


def _tell_transports() -> None:
    """Have uvicorn put each request's transport into its scope. ASGI has no other way to end a connection than to close it."""
    for module in (h11_impl, httptools_impl):
        if module is not None and _TRANSPORT not in vars(module.RequestResponseCycle):
            module.RequestResponseCycle = _telling(module.RequestResponseCycle)


def _telling(cycle: type) -> type:
    async def run_asgi(self, app: ASGIApp) -> None:
        self.scope[_TRANSPORT] = self.transport
        await cycle.run_asgi(self, app)

    return type(cycle.__name__, (cycle,), {"run_asgi": run_asgi, _TRANSPORT: True})
