"""Limits on what a request may cost, whatever it says: the size and pace of its body, its time, its company."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.config import Config
from deploy.logs import CLIENT_GONE
from deploy.schemas import ApiError
from deploy.sending import Load

# The rest of a refused body is not read: the connection ends with the answer.
_UNREAD = {"Connection": "close"}
_SOON = {"Retry-After": "1"}


class Limits:
    """ASGI: guards the paths that take a body. No other path ever reads one."""

    def __init__(self, app: ASGIApp, config: Config, paths: frozenset[str], load: Load):
        self.app, self.config, self.paths, self.load = app, config, paths, load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        _check_head(scope, self.config.max_body_bytes)
        chunks: list[bytes] = []
        try:
            await self._read(receive, chunks)
            if self.load.running >= self.config.max_concurrency:
                raise ApiError(429, "too_many_requests", f"{self.load.running} requests are at work already", headers=_SOON)
            await self._answer(scope, receive, send, b"".join(chunks))
        finally:
            self.load.buffered -= sum(map(len, chunks))

    async def _read(self, receive: Receive, chunks: list[bytes]) -> None:
        """Fill ``chunks``. Sizes are counted as they come, for a chunked body does not say how much there will be."""
        limit, size, more = self.config.max_body_bytes, 0, True
        try:
            async with asyncio.timeout(self.config.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(CLIENT_GONE, "client_gone", "")
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(chunk)
                    if size > limit:
                        raise _too_large(limit)
                    chunks.append(chunk)
                    self.load.buffered += len(chunk)
                    if self.load.full(self.config.max_buffered_bytes):
                        message = "requests and answers that are under way hold all the memory that is set apart for them"
                        raise ApiError(429, "bodies_full", message, headers=_UNREAD | _SOON)
        except TimeoutError:
            message = f"the body was not complete after {self.config.body_seconds:g} s"
            raise ApiError(408, "slow_body", message, headers=_UNREAD) from None

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Pass the request on. What takes too long, or lost its client, is cancelled, until its answer begins."""
        task = asyncio.current_task()
        gone = started = False
        self.load.running += 1

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and not started:
                started = True
                self.load.running -= 1  # a slow reader takes no place from others: see deploy/sending.py
                timer.reschedule(None)
            await send(message)

        async def wait_for_disconnect() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if not started:
                gone = True
                task.cancel()

        watch = asyncio.create_task(wait_for_disconnect())
        try:
            async with asyncio.timeout(self.config.request_seconds) as timer:
                await self.app(scope, replay, watched)
        except TimeoutError:
            if not timer.expired():
                raise
            message = f"no answer after {self.config.request_seconds:g} s"
            raise ApiError(503, "timeout", message, headers=_SOON) from None
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise ApiError(CLIENT_GONE, "client_gone", "") from None
        finally:
            watch.cancel()
            if not started:
                self.load.running -= 1


def _check_head(scope: Scope, limit: int) -> None:
    headers = {
        name: value for name, value in scope["headers"] if name in (b"content-type", b"content-encoding", b"content-length")
    }
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "content_type", "send Content-Type: application/json", headers=_UNREAD)
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        # What is small on the wire may be huge unpacked.
        raise ApiError(415, "content_encoding", "compressed bodies are not accepted", headers=_UNREAD)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "body_too_large", f"the body is larger than {limit} bytes", headers=_UNREAD)
