"""Requests that the layers, the routes and the parser would understand differently are refused before any of them acts."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.schemas import ApiError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLOSE = {"Connection": "close"}  # with what is left of it unread


class Unambiguous:
    """ASGI: stands before all layers that look at a request's path or body."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check(scope)
        await self.app(scope, receive, send)


def _check(scope: Scope) -> None:
    # Starlette's routes match a path with a line feed at its end, too; limits and keys compare paths as they stand.
    if _CONTROL.search(scope["path"]):
        raise ApiError(404, "not_found", "there is nothing here", headers=_CLOSE)
    # httptools takes all that follows the head of an upgrade for another protocol: the body is lost, or read as the next request.
    asked = {token.strip().lower() for name, value in scope["headers"] if name == b"connection" for token in value.split(b",")}
    names = {name for name, _ in scope["headers"]}
    if b"upgrade" in names and b"upgrade" in asked and names & {b"content-length", b"transfer-encoding"}:
        message = "this service speaks HTTP/1.1 and changes to nothing else: have your client send no Upgrade with a body"
        raise ApiError(400, "upgrade", message, headers=_CLOSE)
