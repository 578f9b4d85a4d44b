"""The MCP tool over plain HTTP: what no client should send, what is logged, and what goes wrong inside."""

import json
import threading
from typing import Any

import httpx

from uae.release.open import Release


def initialize() -> dict:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}


def calling(**arguments: Any) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": arguments}}


ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


def post(client, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/mcp", content=content, headers=ACCEPT | {name.replace("_", "-"): each for name, each in headers.items()})


def test_no_session_is_kept_and_only_post_is_answered(serve):
    client = serve()
    reply = post(client, initialize())
    assert reply.status_code == 200
    assert "mcp-session-id" not in reply.headers
    assert reply.headers["x-request-id"]
    assert reply.json()["result"]["capabilities"] == {"tools": {"listChanged": False}}
    for method in ("GET", "DELETE", "PUT", "OPTIONS"):
        reply = client.request(method, "/mcp", headers={"Accept": "text/event-stream"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")


def test_what_no_client_should_send_gets_its_4xx(serve):
    client = serve(max_body_bytes=10_000)
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"[" * 5000, 400),
        (b'{"a":' * 2000, 400),
        (b'"\xff\xfe"', 400),
        (b"[]", 400),
        ([calling(query="keys")] * 3, 400),
        ({"jsonrpc": "2.0"}, 400),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, 400),
        (b" " * 10_001, 413),
    ):
        reply = post(client, body)
        assert reply.status_code == status, body
        assert "Traceback" not in reply.text
        assert len(reply.text) < 3000
    assert post(client, calling(query="keys"), Content_Type="text/plain").status_code == 415
    assert post(client, calling(query="keys"), Content_Encoding="gzip").status_code == 415
    assert post(client, calling(query="keys"), Origin="https://elsewhere.example").status_code == 403
    assert post(client, calling(query="keys"), Origin="http://testserver").status_code == 200
    nan = json.dumps(calling(query="keys", min_score=float("nan"))).encode()
    assert post(client, nan).json()["result"]["isError"] is True
    assert post(client, calling(query="keys")).status_code == 200


def test_no_question_is_logged_and_each_request_has_its_line(serve):
    client = serve()
    post(client, calling(query="secret question", k=3))
    post(client, calling(query="secret question", secret=1))
    post(client, {"jsonrpc": "2.0", "id": 1, "method": "secret"})
    post(client, b'{"secret"')
    lines = client.lines.requests()
    assert [(line["route"], line["status"], line.get("error")) for line in lines][:2] == [
        ("/mcp", 200, None), ("/mcp", 200, "invalid_value"),
    ]  # fmt: skip
    assert (lines[0]["queries"], lines[0]["k"]) == (1, 3)
    assert len(lines) == 4
    assert "secret" not in client.lines.text
    assert 'uae_request_seconds_count{route="/mcp",status="200"}' in client.get("/metrics").text


def test_a_fault_inside_is_told_to_the_log_only(serve, monkeypatch):
    client = serve()
    monkeypatch.setattr(Release, "token_lengths", lambda *_: 1 / 0)
    result = post(client, calling(query="keys")).json()["result"]
    assert (result["isError"], result["content"][0]["text"]) == (True, "the request failed inside the service")
    assert "ZeroDivisionError" in client.lines.text


def test_nothing_is_served_yet(serve, tmp_path):
    result = post(serve(release=None, store=tmp_path), calling(query="keys")).json()["result"]
    assert (result["isError"], result["content"][0]["text"]) == (True, "no release is loaded yet")


def test_a_call_that_takes_too_long_is_given_up_and_leaves_nothing_behind(serve, monkeypatch):
    go, hold = threading.Event(), threading.Event()
    encode = Release.encode

    def slow(self, *arguments):
        assert not hold.is_set() or go.wait(30)
        return encode(self, *arguments)

    monkeypatch.setattr(Release, "encode", slow)
    client = serve(request_seconds=0.2)
    hold.set()
    try:
        reply = post(client, calling(query="keys"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "timeout")
    finally:
        go.set()
    assert post(client, calling(query="keys")).json()["result"]["isError"] is False
    told = client.get("/metrics").text
    for gauge in ("uae_in_flight_requests", "uae_queue_texts", "uae_queue_finds"):
        assert f"\n{gauge} 0.0\n" in told
