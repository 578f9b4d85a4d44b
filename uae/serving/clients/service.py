"""POST /v1/search, asked as a production client should: kept connections, time-outs, and retries that wait as they are told."""

import asyncio
import datetime
import email.utils
import random
import ssl
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from uae.io.errors import UaeError, without_user_info
from uae.serving.clients import missing

try:
    import httpx
    import tenacity
except ModuleNotFoundError as error:
    missing(error)

# A service that asks for more than this many seconds is not waited for: the caller would have given up before.
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


class Found(NamedTuple):
    """What one search found."""

    release: str  # the fingerprint of the release that answered
    passages: list[dict[str, Any]]  # best first, as the service sent them
    useful: bool | None = None  # whether the first one is likely to help; None: the service does not say
    useful_probability: float | None = None
    score_is: str | None = None  # the formula of the scores; None: the service, of an earlier version, does not say

    def about(self) -> dict[str, Any]:
        """What a client says of each passage beside what the service does: ``release``, and the rest where it is known."""
        known = {"score_is": self.score_is, "useful": self.useful, "useful_probability": self.useful_probability}
        return {"release": self.release} | {name: value for name, value in known.items() if value is not None}


class SearchService:
    """A service at ``url``. One object may be shared by threads and by event loops; connections are kept between calls.

    It can be copied and pickled. A copy has the settings, the key among them, and opens connections of its own.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float, attempts: int):
        """
        Args:
            url: where the service is, e.g. ``http://localhost:3000``. With ``/v1`` at its end it is the same.
            api_key: sent as a bearer token; None: none is sent.
            timeout: seconds for connecting, and again for each wait for the answer.
            attempts: how often a request is sent at most. A request is sent again where it was refused with 429 or 503, or
                where its connection broke. It is not sent again where it timed out: a slow service needs no second copy.

        Raises:
            ValueError: ``url`` is no address, or ``attempts`` is less than 1.
        """
        if attempts < 1:
            raise ValueError(f"attempts: {attempts}; a request is sent at least once")
        self.url = service_url(url)
        self._shown = without_user_info(self.url)  # in messages
        self._api_key, self._timeout, self._attempts = api_key, timeout, attempts
        self._verify: ssl.SSLContext = (
            httpx.create_ssl_context()
        )  # reading the certificates takes longer than a search: done once
        self._client = httpx.Client(headers=self._headers(), timeout=timeout, verify=self._verify)
        # A connection belongs to the event loop that opened it, and goes with it.
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["SearchService"], tuple[str, str | None, float, int]]:
        return SearchService, (self.url, self._api_key, self._timeout, self._attempts)

    def search(self, query: str, k: int, filters: Mapping[str, Any] | None, min_score: float | None, system: str) -> Found:
        """The best ``k`` passages of one query.

        Raises:
            ServiceError: the service refused or could not be asked; the message says which, where and why.
        """
        body = _body(query, k, filters, min_score, system)
        retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(self._attempts), wait=_wait, retry=_RETRY, reraise=True)
        return retrying(self._ask, body)

    async def search_async(
        self, query: str, k: int, filters: Mapping[str, Any] | None, min_score: float | None, system: str
    ) -> Found:
        """As ``search``, without holding up the event loop."""
        body = _body(query, k, filters, min_score, system)
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts), wait=_wait, retry=_RETRY, reraise=True
        )
        return await retrying(self._ask_async, body)

    def close(self) -> None:
        """Give back the connections of ``search``."""
        self._client.close()

    async def close_async(self) -> None:
        """Give back the connections of ``search_async`` in this event loop; without it they go when the loop does."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _headers(self) -> dict[str, str]:
        return {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}

    def _ask(self, body: dict[str, Any]) -> Found:
        try:
            response = self._client.post(f"{self.url}/v1/search", json=body)
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        return self._read(response)

    async def _ask_async(self, body: dict[str, Any]) -> Found:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = httpx.AsyncClient(headers=self._headers(), timeout=self._timeout, verify=self._verify)
            self._async_clients[loop] = client
        try:
            response = await client.post(f"{self.url}/v1/search", json=body)
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        return self._read(response)

    def _no_answer(self, error: httpx.RequestError) -> ServiceError:
        if isinstance(error, httpx.TimeoutException):
            seconds = f"{self._timeout:g} s"
            return ServiceError(f"{self._shown} did not answer within {seconds}: is it overloaded, or timeout too short?")
        return ServiceError(f"{self._shown} could not be asked: {error or type(error).__name__}. Is the service running there?")

    def _read(self, response: httpx.Response) -> Found:
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            body = response.json()
            (result,) = body["results"]
            useful, likely = result.get("useful"), result.get("useful_probability")
            return Found(body["release"], result["passages"], useful, likely, body.get("score_is"))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{self._shown}/v1/search answered, but not as this service does: {response.text[:200]!r}"
            raise ServiceError(reason) from error

    def _refusal(self, response: httpx.Response) -> ServiceError:
        try:
            body = response.json()
            message, field = body["error"]["message"], body["error"].get("param")
        except (ValueError, KeyError, TypeError, AttributeError):  # a proxy in between answers in its own way
            body, message, field = {}, response.text[:200] or response.reason_phrase, None
        where = f"{self._shown}/v1/search answered {response.status_code}"
        field = f" ({field})" if field else ""
        request = f" [request {body['request_id']}]" if body.get("request_id") else ""
        return ServiceError(f"{where}: {message}{field}{request}", response.status_code, _retry_after(response))


def service_url(url: str) -> str:
    """The address without ``/v1``, ``/v1/search`` and slashes at its end: people copy it in each of these forms.

    Raises:
        ValueError: it is no address of an HTTP service.
    """
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, AttributeError, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"url: {url!r} is not the address of a service; write it as http://host:port")
    return str(parsed).rstrip("/").removesuffix("/v1/search").removesuffix("/v1").rstrip("/")


def _body(query: str, k: int, filters: Mapping[str, Any] | None, min_score: float | None, system: str) -> dict[str, Any]:
    # Half of a surrogate pair, as a text that was cut may hold, cannot be sent; the library reads U+FFFD in its place, too.
    query = query.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
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


_RETRY = tenacity.retry_if_exception(_worth_another_try)


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: what the service asked for, and a random part on top; else the back-off.

    The random part is up to half of what was asked for, or up to one second if that is more. Without it, all clients that were
    refused at one moment would come back at one moment.
    """
    asked = getattr(state.outcome.exception(), "retry_after", None) if state.outcome else None
    return _BACKOFF(state) if asked is None else asked + random.uniform(0, max(1.0, asked / 2))
