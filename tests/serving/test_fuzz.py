"""What nobody should send: made up by schemathesis from our own OpenAPI document, and by hand, against real servers."""

import contextlib
import gzip
import json
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

JSON = {"Content-Type": "application/json"}
_PICKLE = {"Content-Type": "application/vnd.bentoml+pickle"}
load_all_checks()
# Not positive_data_acceptance: a valid filter may name a field that this release has not, which is a documented 422.
_CHECKS = [CHECKS.get_one(name) for name in (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "negative_data_rejection", "unsupported_method",
)]  # fmt: skip


@pytest.fixture(scope="session")
def schema(live):
    # Smaller limits, in the document as well: they are found sooner.
    return schemathesis.openapi.from_url(f"{live(max_inputs=8, max_input_characters=500, max_query_characters=300)}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("path", "method"), [("/v1/search", "POST"), ("/v1/embeddings", "POST"), ("/v1/release", "GET"), ("/v1/models", "GET")]
)
def test_every_answer_is_a_documented_one(schema, path, method, mode):
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("it takes nothing that could be wrong")

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        reply = case.call()
        seen.add(reply.status_code)
        case.validate_response(reply, checks=_CHECKS)

    seen = set()
    ask()
    # Not all were refused at the door: some of what fits the document got its answer, some of what does not was told so.
    assert seen & ({200, 404} if mode is GenerationMode.POSITIVE else {400, 422})


# Stands in what the attacks ask, and may stand nowhere in the log.
_MARK = "zanzibar"
_QUESTION = "Where are the keys?"


@pytest.fixture
def attacked(bento_server):
    """The server's address. After the test the same worker has to answer, and to have logged neither a fault nor a question."""
    workers, before = bento_server.workers(), bento_server.log.stat().st_size
    assert workers
    yield bento_server.url
    last = _still_answers(bento_server.url)
    assert bento_server.workers() == workers  # else it crashed, and BentoML has started another
    logged = _logged(bento_server.log, before, last)
    for word in ("Traceback", "Exception", _MARK, _QUESTION):
        assert word not in logged


def _logged(log: Path, since: int, request_id: str) -> str:
    """What stands in the log, up to the line of this request, which is written after its answer."""
    deadline = time.monotonic() + 10
    while True:
        text = log.read_bytes()[since:].decode(errors="replace")
        if request_id in text:
            return text
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.02)


def _search(body: bytes, headers: dict[str, str] = JSON) -> tuple[str, str, bytes, dict[str, str]]:
    return "POST", "/v1/search", body, headers


def _mcp(body: bytes, headers: dict[str, str] | None = None) -> tuple[str, str, bytes, dict[str, str]]:
    return "POST", "/mcp", body, JSON | {"Accept": "application/json, text/event-stream"} | (headers or {})


def _calling(arguments: bytes) -> bytes:
    head = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":'
    return head + arguments + b"}}"


_ATTACKS = {
    "huge": (*_search(json.dumps({"query": _MARK * 1_100_000}).encode()), {413}),
    "nested": (*_search(b'{"filters":' + b'{"a":' * 300_000), {400}),
    "nested arrays": (*_search(b"[" * 1_900_000), {400}),
    "many keys": (*_search(json.dumps({str(n): n for n in range(100_000)}).encode()), {422}),
    "not a number": (*_search(b'{"query":"x","min_score":NaN}'), {400}),
    "huge number": (*_search(b'{"query":"x","k":' + b"1" * 1_000_000 + b"}"), {400}),
    "invalid utf-8": (*_search(b'{"query":"zanzibar \xc3\x28"}'), {400}),
    "lone surrogate": (*_search(b'{"query":"\\ud83d"}'), {422}),
    "control characters": (*_search(b'{"query":"zanzibar\\u0000\\u0007\\u001b[2J\\u202e\\uffff"}'), {200}),
    "zero-width and combining": (*_search(json.dumps({"query": "\u200b" * 1000 + "a" + "\u0301" * 2000}).encode()), {200}),
    "one long word": (*_search(json.dumps({"query": _MARK * 500}).encode()), {200}),
    "gzip bomb": (*_search(gzip.compress(b" " * 50_000_000), JSON | {"Content-Encoding": "gzip"}), {415}),
    "pickle": (*_search(b"cos\nsystem\n(S'true'\ntR.", _PICKLE), {415}),
    "pickle to the old path": ("POST", "/search", b"cos\nsystem\n(S'true'\ntR.", _PICKLE, {404}),
    "a strange field": (*_search(json.dumps({"query": "x", _MARK: _MARK}).encode()), {200}),
    "a field that splits a header": (*_search(json.dumps({"query": "x", "a\r\nSet-Cookie: " + _MARK: 1}).encode()), {200}),
    "a field of a megabyte": (*_search(json.dumps({"query": "x", "quer" * 250_000: 1}).encode()), {200}),
    "deep in a strange field": (*_search(b'{"query":"x","a":' + b"[" * 150 + b"]" * 150 + b"}"), {200}),
    "multipart": (*_search(b"--x\r\n\r\n--x--", {"Content-Type": "multipart/form-data; boundary=x"}), {415}),
    "utf-16": (*_search('{"query":"x"}'.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}), {400}),
    "line feed after the path": ("POST", "/v1/search%0A", json.dumps({"query": _QUESTION}).encode(), JSON, {404}),
    "line feed, and a body without end": ("POST", "/v1/embeddings%0a", b"x" * 5_000_000, {}, {404}),
    "upgrade": (*_search(b'{"query":"x"}', JSON | {"Connection": "keep-alive, Upgrade", "Upgrade": "h2c"}), {400}),
    "upgrade that is not asked for": (*_search(b'{"query":"x"}', JSON | {"Upgrade": "h2c"}), {200}),
    "traversal": ("GET", "/page/../service.py", b"", {}, {404}),
    "traversal, encoded": ("GET", "/page/%2e%2e%2fservice.py", b"", {}, {404}),
    "traversal, twice": ("GET", "/page/%252e%252e/service.py", b"", {}, {404}),
    "traversal, absolute": ("GET", "/page//etc/passwd", b"", {}, {404}),
    "traversal, null": ("GET", "/page/%00", b"", {}, {404}),
    "traversal, backslash": ("GET", "/page/..%5c..%5cservice.py", b"", {}, {404}),
    "a body where none is read": ("POST", "/v1/release", b"x" * 3_000_000, JSON, {405}),
    "mcp: huge": (*_mcp(json.dumps({"query": _MARK * 1_100_000}).encode()), {413}),
    "mcp: nested": (*_mcp(b'{"jsonrpc":' + b'{"a":' * 300_000), {400}),
    "mcp: nested arguments": (*_mcp(_calling(b'{"query":"x","filters":' + b'{"a":' * 100 + b"1" + b"}" * 101)), {200}),
    "mcp: many keys": (*_mcp(_calling(json.dumps({str(n): n for n in range(100_000)}).encode())), {200}),
    "mcp: not a number": (*_mcp(_calling(b'{"query":"x","min_score":NaN}')), {200}),
    "mcp: huge number": (*_mcp(_calling(b'{"query":"x","k":' + b"1" * 100_000 + b"}")), {400}),
    "mcp: two questions": (*_mcp(_calling(b'{"query":"zanzibar","query":5}')), {200}),
    "mcp: invalid utf-8": (*_mcp(_calling(b'{"query":"zanzibar \xc3\x28"}')), {400}),
    "mcp: lone surrogate": (*_mcp(_calling(b'{"query":"\\ud83d"}')), {400}),
    "mcp: another protocol": (*_mcp(_calling(b'{"query":"x"}'), {"Mcp-Protocol-Version": _MARK}), {400}),
    "mcp: a session that is none": (*_mcp(_calling(b'{"query":"x"}'), {"Mcp-Session-Id": _MARK * 100}), {200}),
    "mcp: a page of another site": (*_mcp(_calling(b'{"query":"x"}'), {"Origin": "https://zanzibar.example"}), {403}),
    "mcp: no type": ("POST", "/mcp", b"{}", {}, {415}),
    "mcp: pickle": ("POST", "/mcp", b"cos\nsystem\n(S'true'\ntR.", _PICKLE, {415}),
    "mcp: a stream that never ends": ("GET", "/mcp", b"", {"Accept": "text/event-stream"}, {405}),
    "mcp: line feed after the path": ("POST", "/mcp%0A", b"{}", JSON, {404}),
    "an absurd id": (*_search(b'{"query":"x"}', JSON | {"X-Request-ID": "x" * 5000}), {200}),
}  # fmt: skip


def _raw(url: str, request: bytes) -> bytes:
    """The beginning of the answer to what no HTTP library would send; b"" where the connection is closed without one."""
    at = urlsplit(url)
    answer = b""
    with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request)
        # An answer that came before the rest was refused can still be read.
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
                answer += part
    return answer


@pytest.mark.parametrize("name", _ATTACKS)
def test_an_attack_gets_its_4xx_and_the_server_goes_on(attacked, name):
    method, path, body, headers, statuses = _ATTACKS[name]
    # A path as it stands: libraries would tidy it up.
    head = f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(attacked).netloc}\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{field}: {value}\r\n" for field, value in headers.items()) + "\r\n"
    answer = _raw(attacked, head.encode() + body)
    assert answer, "closed without an answer"
    assert int(answer.split()[1]) in statuses, answer[:300]
    assert b"Traceback" not in answer
    assert b".py" not in answer


_CHUNKED = b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (_CHUNKED + b"10000\r\n" + (b" " * 65536 + b"\r\n10000\r\n") * 130, b"413"),
        (_CHUNKED + b"1\r\n{\r\n", b"408"),  # and never another chunk
        (_CHUNKED + b"zz\r\n", b"400"),
        (b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", b"200"),  # a proxy's to refuse
    ],
    ids=["endless chunks", "slow", "broken chunk", "negative length", "tls", "large head"],
)
def test_broken_http_is_refused_and_the_server_goes_on(attacked, request_bytes, expected):
    answer = _raw(attacked, request_bytes)
    assert answer, "closed without an answer"
    assert answer.split()[1] == expected


def test_what_follows_an_upgrade_is_never_a_request(attacked):
    at = urlsplit(attacked)
    inner = b'{"query":"smuggled"}'
    head = b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    inside = head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    outside = head + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(inside)
    answer = b""
    with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
        connection.sendall(outside)
        time.sleep(0.2)  # a segment of its own
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(inside)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    assert answer.count(b"\r\n\r\n") == 1  # the end of a head
    assert answer.split()[1] == b"400"
    assert b"smuggled" not in answer


def test_clients_that_hang_up_leave_nothing_behind(attacked):
    gone = _told(attacked).get('uae_rejected_total{reason="client_gone"}', 0)
    body = json.dumps({"query": [_MARK] * 64}).encode()
    at = urlsplit(attacked)
    for _ in range(30):
        with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
    held = ("uae_in_flight_requests", "uae_queue_texts", "uae_queue_finds", "uae_unsent_bytes")
    deadline = time.monotonic() + 20
    while any((told := _told(attacked))[name] for name in held):
        assert time.monotonic() < deadline, {name: told[name] for name in held}
        time.sleep(0.05)
    assert told['uae_rejected_total{reason="client_gone"}'] > gone  # some were at work when their client went
    assert not [name for name in told if name.startswith("uae_request_seconds_count") and 'status="5' in name]


def _told(url: str) -> dict[str, float]:
    """What /metrics says: series with their labels, and values."""
    lines = httpx.get(f"{url}/metrics", timeout=20).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def _still_answers(url: str) -> str:
    """Its request's id."""
    reply = httpx.post(f"{url}/v1/search", json={"query": _QUESTION, "k": 1}, timeout=20)
    assert reply.status_code == 200
    assert len(reply.json()["results"][0]["passages"]) == 1
    return reply.headers["x-request-id"]
