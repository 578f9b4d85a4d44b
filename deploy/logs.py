"""One JSON line a request; and the outermost layer, which gives requests their ids, errors their shape, answers their headers."""

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import Processor

from deploy.metrics import Metrics
from deploy.schemas import ApiError

CLIENT_GONE = 499  # nginx's status for a client that hung up; nobody receives it
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_UNLOGGED = {"/metrics"}  # Prometheus asks every few seconds
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Swagger's style sheet draws its icons from data: URLs.
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
]


@dataclass(slots=True)
class Call:
    """What is known of one request. The layers fill it in. It is in the ASGI scope under ``uae``."""

    request_id: str
    code: str | None = None  # of the error
    queries: int | None = None
    k: int | None = None
    release: str | None = None
    texts: list[str] | None = None  # only where UAE_LOG_QUERIES allows it
    more_time: Callable[[int], None] | None = None  # gives the request so many times UAE_REQUEST_SECONDS, from now


def _json(event: dict[str, Any], **_: Any) -> str:
    return to_json(event, fallback=str).decode()


_PROCESSORS: list[Processor] = [
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.JSONRenderer(serializer=_json),
]


def open_log(stream: Any = None) -> Any:
    """A structlog logger that writes JSON lines to ``stream``; None: to standard output.

    What ``uae`` logs through the standard library (swaps, failed loads) is written there too, in the same shape.
    """
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    shape: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.format_exc_info,
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shape, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_PROCESSORS]
        )
    )
    library = logging.getLogger("uae")
    library.handlers[:] = [handler]
    library.setLevel(logging.INFO)
    library.propagate = False
    shape = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    return structlog.wrap_logger(structlog.WriteLogger(stream), processors=[*shape, *_PROCESSORS])


class Outermost:
    """ASGI: gives each request its id, times it, logs it, and turns whatever is raised into an error a caller can read."""

    def __init__(self, app: ASGIApp, log: Any, metrics: Metrics):
        self.app, self.log, self.metrics = app, log, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        call = scope["uae"] = Call(_request_id(scope))
        status = 0

        async def headed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = (b"x-request-id", call.request_id.encode())
                message = {**message, "headers": [*message["headers"], given, *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, receive, headed)
        except ApiError as error:
            call.code = error.code
            if status:  # half an answer is out, and the connection is broken
                status = error.status
            else:
                await send_error(headed, error, call.request_id)
        except Exception:
            call.code = "internal_error"
            self.log.exception("request failed", request_id=call.request_id, path=scope["path"][:200])
            if status:
                raise  # half an answer is out: the connection has to break, or it would look whole
            await send_error(headed, ApiError(500, call.code, "the request failed inside the service"), call.request_id)
        finally:
            self._account(scope, call, status, time.perf_counter() - started)

    def _account(self, scope: Scope, call: Call, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or _route(scope["path"])
        self.metrics.answered(route, status, seconds)
        if status >= 400:
            self.metrics.rejected(call.code or str(status))
        if route in _UNLOGGED:
            return
        line = {
            "request_id": call.request_id, "route": route, "method": scope["method"][:16], "status": status,
            "ms": round(1000 * seconds, 3), "error": call.code, "queries": call.queries, "k": call.k,
            "release": call.release and call.release[:12], "texts": call.texts,
        }  # fmt: skip
        self.log.info("request", **{name: value for name, value in line.items() if value is not None})


def _route(path: str) -> str:
    """Of a path that no route of FastAPI's answers: one of a fixed few names."""
    return "/page" if path.startswith("/page/") else path if path == "/mcp" else "other"


async def send_error(send: Send, error: ApiError, request_id: str) -> None:
    body = error.body(request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The caller's own id, if it cannot do harm in a log or a header."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode()
    return uuid.uuid4().hex
