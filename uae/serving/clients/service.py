"""POST /v1/search, asked as a production client should: kept connections, time-outs, and retries that wait as they are told."""

import asyncio
import datetime
import email.utils
import random
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import httpx
import tenacity

from uae.io.errors import UaeError

# A service that asks for more than this many seconds is not waited for: whoever asked would have given up before.
_LONGEST_WAIT = 30.0
# Spread out, so that clients refused together do not come back together.
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=10)


class ServiceError(UaeError):
    """The service refused the request, or could not be asked.

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds that the service asked to wait, if it did.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class SearchService:
    """A service at ``url``. One object may be shared by threads and by event loops; connections are kept between calls."""

    def __init__(self, url: str, api_key: str | None, timeout: float, attempts: int):
        """
        Args:
            url: where the service is, e.g. ``http://localhost:3000``.
            api_key: sent as a bearer token; None: none is sent.
            timeout: seconds for connecting, and again for each wait for the answer.
            attempts: how often a request is sent at most. Sent again are those that were refused with 429 or 503 and those whose
                connection broke. A request that timed out is not: a service that is slow needs no second copy of it.

        Raises:
            ValueError: ``url`` is no address, or ``attempts`` is less than 1.
        """
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"url: {url!r} is not the address of a service; write it as http://host:port")
        if attempts < 1:
            raise ValueError(f"attempts: {attempts}; a request is sent at least once")
        self.url = url.rstrip("/")
        self._options = {
            "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            "timeout": timeout,
            "verify": httpx.create_ssl_context(),  # reading the certificates takes longer than a search: done once
        }
        self._retrying = {
            "stop": tenacity.stop_after_attempt(attempts),
            "wait": _wait,
            "retry": tenacity.retry_if_exception(_worth_another_try),
            "reraise": True,
        }
        self._client = httpx.Client(**self._options)
        # A connection belongs to the event loop that opened it, and goes with it.
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = weakref.WeakKeyDictionary()

    def search(
        self, query: str, k: int, filters: Mapping[str, Any] | None, min_score: float | None, system: Literal["uae", "base"]
    ) -> tuple[str, list[dict[str, Any]]]:
        """The best ``k`` passages of one query, best first.

        Returns:
            The fingerprint of the release that answered, and the passages as the service sent them.

        Raises:
            ServiceError: the service refused or could not be asked; the message says which, where and why.
        """
        body = _body(query, k, filters, min_score, system)
        return tenacity.Retrying(**self._retrying)(self._ask, body)

    async def search_async(
        self, query: str, k: int, filters: Mapping[str, Any] | None, min_score: float | None, system: Literal["uae", "base"]
    ) -> tuple[str, list[dict[str, Any]]]:
        """As ``search``, without holding up the event loop."""
        body = _body(query, k, filters, min_score, system)
        return await tenacity.AsyncRetrying(**self._retrying)(self._ask_async, body)

    def close(self) -> None:
        """Give back the connections of ``search``."""
        self._client.close()

    async def close_async(self) -> None:
        """Give back the connections of ``search_async`` in this event loop; without it they go when the loop does."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _ask(self, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        try:
            response = self._client.post(f"{self.url}/v1/search", json=body)
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        return self._read(response)

    async def _ask_async(self, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = httpx.AsyncClient(**self._options)
        try:
            response = await client.post(f"{self.url}/v1/search", json=body)
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        return self._read(response)

    def _no_answer(self, error: httpx.RequestError) -> ServiceError:
        if isinstance(error, httpx.TimeoutException):
            seconds = self._options["timeout"]
            return ServiceError(f"{self.url} did not answer within {seconds:g} s: is it overloaded, or timeout too short?")
        return ServiceError(f"{self.url} could not be asked: {error or type(error).__name__}. Is the service running there?")

    def _read(self, response: httpx.Response) -> tuple[str, list[dict[str, Any]]]:
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            body = response.json()
            (result,) = body["results"]
            return body["release"], result["passages"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{self.url}/v1/search answered, but not as this service does: {response.text[:200]!r}") from error

    def _refusal(self, response: httpx.Response) -> ServiceError:
        try:
            body = response.json()
            message, field = body["error"]["message"], body["error"].get("param")
        except (ValueError, KeyError, TypeError, AttributeError):  # a proxy in between answers in its own way
            body, message, field = {}, response.text[:200] or response.reason_phrase, None
        where = f"{self.url}/v1/search answered {response.status_code}"
        field = f" ({field})" if field else ""
        request = f" [request {body['request_id']}]" if body.get("request_id") else ""
        return ServiceError(f"{where}: {message}{field}{request}", response.status_code, _retry_after(response))


def _body(query, k, filters, min_score, system) -> dict[str, Any]:
    return {"query": query, "k": k, "filters": dict(filters or {}), "min_score": min_score, "system": system}


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds from now, of either form that RFC 9110 (section 10.2.3) allows; None where the header is absent or neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (then.astimezone(datetime.UTC) - datetime.datetime.now(datetime.UTC)).total_seconds())


def _worth_another_try(error: BaseException) -> bool:
    if not isinstance(error, ServiceError):
        return False
    if error.status is None:
        return isinstance(error.__cause__, (httpx.NetworkError, httpx.RemoteProtocolError))
    return error.status in (429, 503) and (error.retry_after or 0.0) <= _LONGEST_WAIT


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds: what the service asked for and up to half as much again, at least up to one more; or else the back-off.

    Never less than it asked for; more, because it asks all whom it refuses at one moment for the same.
    """
    asked = getattr(state.outcome.exception(), "retry_after", None)
    return _BACKOFF(state) if asked is None else asked + random.uniform(0, max(1.0, asked / 2))
