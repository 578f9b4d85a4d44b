"""Limits on what one request may cost.

They are on the size of its body, how slowly the body comes, how long the answer takes, and how many requests run at once.
"""

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
    """ASGI: guards the paths that take a body. No other path reads one."""

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
        """Fill ``chunks``. Sizes are counted as they come, because a chunked body does not say its length."""
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
                        reason = "all the memory for requests and answers is in use"
                        raise ApiError(429, "bodies_full", reason, headers=_UNREAD | _SOON)
        except TimeoutError:
            reason = f"the body was not complete after {self.config.body_seconds:g} s"
            raise ApiError(408, "slow_body", reason, headers=_UNREAD) from None

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Pass the request on. It is cancelled when it takes too long or its client has gone, until its answer begins."""
        task = asyncio.current_task()
        assert task is not None  # ASGI servers run each request in one
        gone, unread = asyncio.Event(), [body]
        started = cancelled = False
        allowed = self.config.request_seconds
        self.load.running += 1

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and not started:
                started = True
                self.load.running -= 1  # a slow reader takes no place from others: see deploy/sending.py
                timer.reschedule(None)
            await send(message)

        async def wait_for_disconnect() -> None:
            nonlocal cancelled
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not started:
                cancelled = True
                task.cancel()

        def more_time(times: int) -> None:
            nonlocal allowed
            if not started and times > 1:
                allowed = times * self.config.request_seconds
                timer.reschedule(asyncio.get_running_loop().time() + allowed)

        if call := scope.get("uae"):
            call.more_time = more_time
        watch = asyncio.create_task(wait_for_disconnect())
        try:
            async with asyncio.timeout(allowed) as timer:
                await self.app(scope, replay, watched)
        except TimeoutError:
            if not timer.expired():
                raise
            raise ApiError(503, "timeout", f"no answer after {allowed:g} s", headers=_SOON) from None
        except asyncio.CancelledError:
            if not cancelled:
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
