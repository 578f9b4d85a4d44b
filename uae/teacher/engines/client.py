"""Requests to an OpenAI-compatible server: addresses, keys, retries, and errors that say what to do. Engines share it."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import openai

from uae.io.errors import ConfigError, ModelError, without_user_info

MAX_RETRIES = 5  # with the client's growing pauses about a quarter of a minute
CLAMPED = -9999.0  # what servers send for minus infinity, which JSON cannot hold
_CONNECT_SECONDS = 10.0  # an address without a server shall not take ``timeout_s``, which is meant for a busy one
_NO_KEY = "EMPTY"  # vLLM's documentation sends this; without any the client would take OPENAI_API_KEY and give it to the server
_NOT_FINITE = "not JSON compliant"  # how vLLM says that it could not write NaN or infinity into its answer

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Words(NamedTuple):
    """How an engine's errors speak of its servers."""

    kind: str  # "a vLLM server"
    key: str  # where a key is to be had
    needed: str  # what an address has to offer


class ServerClient:
    """One model on one server.

    Args:
        url: the server's root, or its /v1.
        model: the name it serves the model under.
        api_key: sent as bearer token; None where the server wants none.
        concurrency: requests in flight at once.
        timeout_s: for one request, once connected.

    Raises:
        ConfigError: ``url`` is no web address, or the key cannot stand in a header.
    """

    def __init__(self, url: str, model: str, api_key: str | None, concurrency: int, timeout_s: float, words: Words):
        self._root, self.address = _root_and_address(url)
        self._key = (api_key or "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError("the teacher's API key has characters that no key can have: look for a line break or a quote in it")
        self.model, self.concurrency, self.timeout_s, self.words = model, concurrency, timeout_s, words
        self._client = openai.OpenAI(
            base_url=f"{self._root}/v1",
            api_key=self._key or _NO_KEY,
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_SECONDS)),
            max_retries=MAX_RETRIES,
        )

    def ask(self, path: str, body: dict[str, Any] | None = None, about: str = "") -> Any:
        """GET, or POST with a body. The answer's JSON, or text where it is none.

        Raises:
            ModelError: the server cannot be reached, refuses the request, or does not answer in JSON.
        """
        # Not client.completions.create: it checks and rebuilds every item of request and answer, 38 ms against 5 for a prompt of
        # 1500 tokens, and threads share one interpreter.
        url = self._root + path
        try:
            if body is None:
                return self._client.get(url, cast_to=object)
            return self._client.post(url, body={"model": self.model, **body}, cast_to=object)
        # From None: the client's own errors hold the request with its key.
        except openai.APITimeoutError:
            limits = f"{min(self.timeout_s, _CONNECT_SECONDS):g} seconds to connect, {self.timeout_s:g} to answer"
            raise ModelError(
                f"{self.address} did not answer in time, {MAX_RETRIES + 1} times in a row ({limits}): look whether the server "
                "is up, lower the concurrency, or allow more time",
                transient=True,
            ) from None
        except openai.APIConnectionError as error:
            reason = self.clean(str(error.__cause__))
            said = f"{self.address} cannot be reached ({reason}): start the server, or correct the address"
            raise ModelError(said, transient=True) from None
        except openai.APIStatusError as error:
            busy = error.status_code in (408, 409, 429) or error.status_code >= 500  # those that the client asks again
            transient = busy and _NOT_FINITE not in str(error.body)
            raise ModelError(self._refusal(error, path, about), transient=transient) from None
        except ValueError:
            said = f"{self.address}{path} does not answer in JSON: the address is not that of {self.words.kind}"
            raise ModelError(said) from None

    def version(self) -> str | None:
        """The server's, for the record; None where it does not say."""
        try:
            said: Any = self._client.get(f"{self._root}/version", cast_to=object)
            version: str | None = said.get("version")
        except (openai.OpenAIError, ValueError, AttributeError):
            return None
        return version

    def concurrently(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(function, items))  # after an exception map cancels what has not begun

    def field(self, reply: Any, path: str, name: str, kind: type) -> Any:
        """A field of a reply that has to be there."""
        value = reply.get(name) if isinstance(reply, dict) else None
        if not isinstance(value, kind):
            raise ModelError(f"{self.address}{path} answers without {name!r}: the address is not that of {self.words.kind}")
        return value

    def not_finite(self, about: str, value: object) -> str:
        shown = "minus infinity" if value in (CLAMPED, -math.inf) else value
        return (
            f"{self.address} gives {shown} for {about}: serve the teacher in another number format "
            "(vllm serve --dtype bfloat16 or float32); if it stays, the model's weights are damaged"
        )

    def clean(self, text: str) -> str:
        """What a server or a library said, on one line, short, and without the key."""
        line = " ".join(text.split())
        return (line.replace(self._key, "***") if self._key else line)[:300]

    def _refusal(self, error: openai.APIStatusError, path: str, about: str) -> str:
        status = error.status_code
        if status in (401, 403):
            fault = "refuses the API key" if self._key else "asks for an API key"
            return f"{self.address} {fault} ({status}): {self.words.key}"
        body = error.body
        said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        said = self.clean(str(said or "no reason given"))
        if _NOT_FINITE in said:
            return self.not_finite(about, "NaN or infinity")
        if status == 404:
            return (
                f"{self.address}{path} answers 404 ({said}): the address must be that of {self.words.needed}, "
                f"and the model {self.model!r} be served there"
            )
        tries = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
        times = f" ({tries} times in a row)" if tries > 1 else ""
        return f"{self.address}{path} answers {status}{times}{f' for {about}' if about else ''}: {said}"


def _root_and_address(url: str) -> tuple[str, str]:
    """The server's root, and what of it may be shown: a password can stand in an address."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and len(url.split()) == 1
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("the teacher's address must look like http://host:8000 or https://host/v1")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}", without_user_info(f"{parts.scheme}://{parts.netloc}")
