"""API keys: a file of keys, which is read again when it changes, and the layer that asks for one."""

import hashlib
import hmac
import logging
import os
import re
import time
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.metrics import Metrics
from deploy.schemas import ApiError
from uae.io.errors import ConfigError

_CHECK_EVERY_S = 1.0
_SHORTEST = 16  # characters: of 64 kinds, 96 bits
# A key may contain "#". Only after white space, or at the line's start, it begins a comment.
_COMMENT = re.compile(r"(^|\s)#.*")
log = logging.getLogger("uae.auth")


class ApiKeys:
    """The keys of a file: one a line; # at a line's start or after white space begins a comment."""

    def __init__(self, path: Path):
        """
        Raises:
            ConfigError: it cannot be read, or holds a key that is too short.
        """
        self.path = Path(path)
        self._digests: list[bytes] = []
        self._stamp: object = None
        self._checked = 0.0
        try:
            refused = self._read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"UAE_KEYS_FILE: {self.path} cannot be read: {error}") from None
        if refused:
            raise ConfigError(f"UAE_KEYS_FILE: {refused[0]}")

    def allows(self, given: bytes) -> bool:
        """Whether it is one of the keys. The time this takes does not tell which, or how much of it was right."""
        self._refresh()
        digest = hashlib.sha256(given).digest()
        found = False
        for each in self._digests:  # all of them, always
            found |= hmac.compare_digest(each, digest)
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_EVERY_S:
            return
        self._checked = now
        try:
            if self._stat() != self._stamp:
                for reason in self._read():  # the other keys of the file are valid all the same
                    log.error("%s; it lets nobody in", reason)
        except (OSError, UnicodeDecodeError) as error:
            # While the file is being replaced it may be missing. Then the keys that were valid stay valid.
            log.error("%s cannot be read, the keys stay as they were: %s", self.path, error)

    def _read(self) -> list[str]:
        """Take over the file's keys.

        Returns:
            What is wrong with some of the lines, each with its number, and never with the key.
        """
        stamp = self._stat()  # before reading, so that a change meanwhile is seen the next time
        keys, refused = [], []
        for number, line in enumerate(self.path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            key = _COMMENT.sub("", line).strip()
            if len(key) >= _SHORTEST:
                keys.append(key)
            elif key:
                refused.append(f"{self.path}, line {number}: the key is shorter than {_SHORTEST} characters")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._stamp = stamp
        log.info("%d API keys are valid", len(self._digests))
        return refused

    def _stat(self) -> tuple[int, int, int]:
        found = os.stat(self.path)
        return found.st_mtime_ns, found.st_size, found.st_ino


class RequireKey:
    """ASGI: asks for a key in front of /v1/ and /mcp, and of /metrics where the settings say so."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, metrics: Metrics, metrics_open: bool):
        self.app, self.keys, self.metrics, self.metrics_open = app, keys, metrics, metrics_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._guards(scope["path"]) and not self.keys.allows(_given(scope)):
            self.metrics.auth_failed()
            message = "a valid API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer", "Connection": "close"})
        await self.app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return path.startswith(("/v1/", "/mcp")) or (path == "/metrics" and not self.metrics_open)


def _given(scope: Scope) -> bytes:
    other = b""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            other = value
    return other
