"""What is refused, and with what; and that a request which nobody waits for costs nothing."""

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deploy.config import Config, read_config
from deploy.limits import Limits
from deploy.schemas import ApiError
from deploy.sending import Load
from uae.io.errors import ConfigError
from uae.release.open import Release

NESTED = {"query": "x", "filters": {"a": 1}}
BAD = [
    (b"", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b"[" * 100_000, 400, "invalid_json"),
    (b'{"a":' * 100_000, 400, "invalid_json"),
    (b'{"query": "x", "filters": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", 400, "invalid_json"),
    (b'{"query": "\xff\xfe"}', 400, "invalid_json"),
    (b'{"query": "\xed\xa0\x80"}', 400, "invalid_json"),
    (b'{"query": "a\x00b"}', 400, "invalid_json"),
    (b'{"query": "x", "k": ' + b"9" * 10_000 + b"}", 400, "invalid_json"),
    (b'{"query": "\\ud800"}', 422, "invalid_text"),
    (b'{"query": "\\udc00 x"}', 422, "invalid_text"),
    (b'{"query": "x", "min_score": NaN}', 400, "invalid_json"),
    (b'{"query": "x", "min_score": -Infinity}', 400, "invalid_json"),
    (b'{"query": "x", "filters": {"a": NaN}}', 400, "invalid_json"),
    (b'{"query": "x", "filters": {"a": {"gte": Infinity}}}', 400, "invalid_json"),
    (b'{"query": "x", "k": 1e3}', 422, "invalid_value"),
    (b'"x"', 422, "invalid_value"),
    (b"{}", 422, "invalid_value"),
    (b'{"query": ""}', 422, "invalid_value"),
    (b'{"query": []}', 422, "invalid_value"),
    (b'{"query": ["x", 5]}', 422, "invalid_value"),
    (b'{"query": "x", "k": 0}', 422, "invalid_value"),
    (b'{"query": "x", "k": 101}', 422, "invalid_value"),
    (b'{"query": "x", "k": true}', 422, "invalid_value"),
    (b'{"query": "x", "filter": {"a": 1}}', 422, "invalid_value"),
    (b'{"query": null}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": {}}}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": {"gte": 1, "lte": "b"}}}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": {"b": {"c": 1}}}}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": []}}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": null}}', 422, "invalid_value"),
    (b'{"query": "x", "min_score": 1e999}', 422, "invalid_value"),
    (b'{"query": "x", "filters": {"a": -1e999}}', 422, "invalid_value"),
    # What would be refused item by item is refused at once.
    (json.dumps({str(n): n for n in range(100_000)}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {str(n): [] for n in range(50_000)}}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {"a": {str(n): n for n in range(50_000)}}}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {"a": [[]] * 250}}).encode(), 422, "invalid_value"),
    (json.dumps({"query": ["x"] * 300_000}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x" * 4001}).encode(), 422, "invalid_value"),
    (json.dumps({"query": ["x"] * 65}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {str(n): 1 for n in range(9)}}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {"a": list(range(257))}}).encode(), 422, "invalid_value"),
    (json.dumps({"query": "x", "filters": {"a": "b" * 513}}).encode(), 422, "invalid_value"),
    (b" " * 8_000_001, 413, "body_too_large"),
]


def test_bad_bodies_get_their_4xx_and_the_reason(serve):
    client = serve()
    for body, status, code in BAD:
        reply = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == status, body[:80]
        error = reply.json()["error"]
        assert error["code"] == code, body[:80]
        assert len(error["message"]) < 300
        assert set(error) == {"message", "type", "code", "param"}
    assert client.post("/v1/search", json={"query": "x"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/vnd.bentoml+pickle"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "br, identity"},
    ],
)
def test_other_contents_and_compressed_ones_are_refused_unread(serve, headers):
    reply = serve().post("/v1/search", content=b'{"query": "x"}', headers=headers)
    assert reply.status_code == 415


def test_the_field_at_fault_is_named(serve):
    client = serve(max_queries=3, max_query_characters=10, max_k=2)
    for body, param, said in (
        ({"query": ["ok", "x" * 11]}, "query[1]", "query[1]: "),
        ({"query": ["a"] * 4}, "query", "query: "),
        ({"query": "x", "k": 3}, "k", "k: "),
        ({"query": "x", "filters": {"year": 1, "a\n": {"from": 1}}}, "filters", r"filters: 'a\n' takes a value, a list"),
        ({"query": "x", "filters": {"year": 1, "kind": []}}, "filters", "filters: 'kind' takes a value, a list"),
        ({"query": "x", "filters": {"": 1}}, "filters", "filters: '' is empty, or too long, for the name of a field"),
        ({"query": "x", "filters": {"a" * 9000: 1}}, "filters", f"filters: '{'a' * 76}... is empty, or too long"),
    ):
        reply = client.post("/v1/search", json=body)
        assert reply.status_code == 422
        assert reply.json()["error"]["param"] == param
        assert reply.json()["error"]["message"].startswith(said)


# The layer by itself: what arrives and when is up to the test.

SCOPE = {"type": "http", "method": "POST", "path": "/p", "headers": [(b"content-type", b"application/json")]}
WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
GONE = {"type": "http.disconnect"}


async def forever(*_):
    await asyncio.Event().wait()


async def fine(scope, receive, send):
    assert (await receive())["body"] == b"{}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def pass_through(app, messages: list, scope: dict = SCOPE, load: Load | None = None, **settings) -> list:
    """Send ``messages`` through the layer, then silence. Returns what was answered; raises what it refuses with."""
    waiting, sent = iter(messages), []

    async def receive():
        message = next(waiting, None)
        if message is None:
            await forever()
        return message

    async def send(message):
        sent.append(message)

    load = load or Load()
    before = Load(load.running, load.buffered)
    try:
        await Limits(app, Config(**settings), frozenset({"/p"}), load)(scope, receive, send)
    finally:
        assert load == before  # whatever happened, nothing is held any more
    return sent


def refused(*arguments, **settings) -> ApiError:
    with pytest.raises(ApiError) as error:
        asyncio.run(pass_through(*arguments, **settings))
    return error.value


def test_a_body_in_pieces_arrives_whole():
    pieces = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.request", "body": b"}"}]
    assert [message["type"] for message in asyncio.run(pass_through(fine, pieces))] == [
        "http.response.start",
        "http.response.body",
    ]


def test_a_chunked_body_is_counted_while_it_streams():
    endless = [{"type": "http.request", "body": b"x" * 400, "more_body": True}] * 10
    error = refused(fine, endless, max_body_bytes=1000)
    assert (error.status, error.code, error.headers["Connection"]) == (413, "body_too_large", "close")


@pytest.mark.parametrize("length", [b"1001", b"9" * 5000])
def test_a_declared_length_is_refused_before_anything_is_read(length):
    scope = SCOPE | {"headers": [*SCOPE["headers"], (b"content-length", length)]}
    assert refused(fine, [], scope, max_body_bytes=1000).status == 413


def test_a_body_that_does_not_come_is_given_up():
    error = refused(fine, [{"type": "http.request", "body": b"{", "more_body": True}], body_seconds=0.05)
    assert (error.status, error.code) == (408, "slow_body")


def test_an_answer_that_does_not_come_is_given_up():
    error = refused(forever, [WHOLE], request_seconds=0.05)
    assert (error.status, error.code, error.headers["Retry-After"]) == (503, "timeout", "1")


def test_a_client_that_hangs_up_cancels_its_request():
    cancelled = []

    async def slow(*_):
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    assert refused(slow, [WHOLE, GONE]).code == "client_gone"
    assert cancelled == [True]
    assert refused(slow, [GONE]).code == "client_gone"
    assert cancelled == [True]  # the second never came so far


def test_too_many_at_work_and_too_much_memory_are_429():
    error = refused(fine, [WHOLE], SCOPE, Load(running=2), max_concurrency=2)
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "too_many_requests", "1")
    error = refused(fine, [WHOLE], SCOPE, Load(buffered=999), max_body_bytes=1000, max_buffered_bytes=1000)
    assert (error.status, error.code) == (429, "bodies_full")


def test_a_slow_client_is_cut_off_by_a_real_server(live):
    url = live(body_seconds=0.3)
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        answer = b""
        while part := connection.recv(65536):  # the server closes
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.fixture
def slow_model(monkeypatch):
    """Servers started from now on take a tenth of a second for each batch."""
    encode = Release.encode

    def slow(self, *arguments):
        time.sleep(0.1)
        return encode(self, *arguments)

    monkeypatch.setattr(Release, "encode", slow)


def test_a_crowd_before_a_small_queue_gets_429_with_retry_after_or_its_answer(live, slow_model):
    url = live(queue_texts=8, max_queries=4, max_inputs=4, batch_texts=4)
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(24) as crowd:
        replies = list(crowd.map(lambda n: client.post("/v1/search", json={"query": [f"keys {n}"] * 4}), range(48)))
        assert {reply.status_code for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status_code == 429:
                assert reply.json()["error"]["code"] == "queue_full"
                assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert client.post("/v1/search", json={"query": "keys"}).status_code == 200
        told = client.get("/metrics").text
    for gauge in ("uae_in_flight_requests", "uae_queue_texts", "uae_queue_finds", "uae_unsent_bytes"):
        assert f"\n{gauge} 0.0\n" in told


def test_what_takes_too_long_gets_503_with_retry_after(live, slow_model):
    reply = httpx.post(f"{live(request_seconds=0.03)}/v1/search", json={"query": "keys"}, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "timeout", "1")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"UAE_MAXK": "3"}, "did you mean UAE_MAX_K"),
        ({"UAE_KEY_FILE": "x"}, "did you mean UAE_KEYS_FILE"),
        ({"UAE_KEYS_FILE": ""}, "UAE_KEYS_FILE is set, but empty"),
        ({"UAE_KEYS_FILE": " "}, "UAE_KEYS_FILE is set, but empty"),
        ({"UAE_API_KEYS": "x"}, "UAE_API_KEYS is no setting .* UAE_KEYS_FILE"),
        ({"UAE_KEYS": "x"}, "UAE_KEYS is no setting"),
        ({"UAE_API_KEY": "x"}, "UAE_API_KEY is no setting"),
        ({"UAE_APIKEY": "x"}, "UAE_APIKEY is no setting"),
        ({"UAE_SECRET_FILE": "x"}, "UAE_SECRET_FILE is no setting"),
        ({"UAE_AUTH_TOKEN": "x"}, "UAE_AUTH_TOKEN is no setting"),
        ({"UAE_MAX_K": "0"}, "UAE_MAX_K: Input should be greater"),
        ({"UAE_BODY_SECONDS": "nan"}, "UAE_BODY_SECONDS"),
        ({"UAE_STORE": "a", "UAE_RELEASE": "b"}, "both set"),
        ({"UAE_QUEUE_TEXTS": "10"}, "UAE_QUEUE_TEXTS is smaller"),
    ],
)
def test_impossible_settings_are_refused_by_name(environment, message):
    with pytest.raises(ConfigError, match=message):
        read_config(environment)


def test_settings_are_read_and_strangers_reported():
    environment = {
        "UAE_MAX_K": "7", "UAE_LOG_QUERIES": "1", "UAE_STORE": "", "UAE_TEACHER_API_KEY": "x", "OTHER": "x",
        "UAE_RETRIEVER_SERVICE_HOST": "10.0.0.1", "UAE_PORT": "tcp://10.0.0.1:3000", "UAE_PORT_3000_TCP_ADDR": "10.0.0.1",
        "UAE_KEYSTONE": "x", "UAE_KEYS_SERVICE_HOST": "10.0.0.2",
    }  # fmt: skip
    config, others = read_config(environment)
    assert (config.max_k, config.log_queries, config.store, config.keys_file) == (7, True, None, None)
    assert others == ["UAE_TEACHER_API_KEY", "UAE_KEYSTONE"]
