"""Answers that are not read: what waits is counted, holds up nobody, and is given up in the end."""

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from over_http import service

import deploy.sending
from deploy.config import Config
from deploy.limits import Limits
from deploy.schemas import ApiError
from deploy.sending import Load, PacedSending

SCOPE = {"type": "http", "method": "POST", "path": "/p", "headers": [(b"content-type", b"application/json")]}
PIECE = 65_536
LONG = bytes(range(256)) * 1024 + b"end"  # four pieces and a bit


def answering(body: bytes, load: Load, seen: list | None = None, **settings):
    """The two layers around an application that answers with ``body``.

    ``seen`` gets how many were at work meanwhile, and the errors that were raised.
    """

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if seen is not None:
            seen.append(load.running)
        await send({"type": "http.response.body", "body": body})

    config = Config(**settings)
    limited = Limits(app, config, frozenset({"/p"}), load)

    async def keeping(scope, receive, send):
        try:
            await limited(scope, receive, send)
        except ApiError as error:
            if seen is not None:
                seen.append((error.status, error.code))
            raise

    return PacedSending(keeping, config, load)


async def ask(layers, reads) -> list[bytes]:
    """The messages with its body that a client gets who takes each with ``await reads(message)``."""
    sent, body = [], iter([{"type": "http.request", "body": b"{}"}])

    async def receive():
        message = next(body, None)
        return message or await asyncio.Event().wait()

    async def send(message):
        await reads(message)
        sent.append(message)

    await layers(dict(SCOPE), receive, send)
    return sent[1:]


def whole(messages: list[dict]) -> bytes:
    assert [message.get("more_body", False) for message in messages] == [True] * (len(messages) - 1) + [False]
    return b"".join(message["body"] for message in messages)


async def at_once(_) -> None:
    pass


async def never(_) -> None:
    await asyncio.Event().wait()


def test_a_long_answer_leaves_in_pieces_and_is_counted_down():
    load, left = Load(), []

    async def reads(_):
        left.append(load.unsent)

    pieces = asyncio.run(ask(answering(LONG, load), reads))
    assert whole(pieces) == LONG
    assert max(len(piece["body"]) for piece in pieces) == PIECE
    assert left == [0, len(LONG), *(len(LONG) - n * PIECE for n in range(1, 5)), 0]
    assert load == Load()


def test_a_short_answer_leaves_in_one_piece():
    (piece,) = asyncio.run(ask(answering(b"x" * PIECE, Load()), at_once))
    assert whole([piece]) == b"x" * PIECE


def test_a_slow_reader_holds_no_place_and_is_not_cut_off_while_it_reads():
    load, seen = Load(), []

    async def reads(_):
        await asyncio.sleep(0.05)

    started = time.monotonic()
    pieces = asyncio.run(ask(answering(LONG, load, seen, request_seconds=0.02, send_seconds=0.2), reads))
    assert time.monotonic() - started > 0.2  # longer than each of the times, but for a piece
    assert whole(pieces) == LONG
    assert seen == [0]


@pytest.mark.parametrize("body", [b"short", LONG])
def test_an_answer_that_is_not_read_is_broken_off_and_forgotten(body):
    load, seen = Load(), []
    assert asyncio.run(ask(answering(body, load, seen, send_seconds=0.05), never)) == []
    assert seen == [(499, "slow_reader")]
    assert load == Load()


def test_where_memory_is_short_the_answer_that_stands_still_goes_and_the_next_request_comes_in(monkeypatch):
    monkeypatch.setattr(deploy.sending, "_STALLED_S", 0.2)
    load, seen = Load(), []
    layers = answering(LONG, load, seen, max_body_bytes=1000, max_buffered_bytes=len(LONG) + 1)

    async def stops(message):
        if message.get("body"):
            await never(message)

    async def scenario() -> list[dict]:
        stuck = asyncio.create_task(ask(layers, stops))
        await asyncio.sleep(0.05)
        assert load.unsent == len(LONG)
        assert await ask(layers, at_once) == []  # it may still be read, as far as one can tell
        await asyncio.sleep(0.3)
        pieces = await ask(layers, at_once)
        assert await stuck == []
        return pieces

    assert whole(asyncio.run(scenario())) == LONG
    assert seen == [0, (429, "bodies_full"), 0, (499, "slow_reader")]
    assert load == Load()


# Over real sockets: what uvicorn does with it.


@pytest.fixture
def url(tmp_path):
    """A service whose every answer is 12 MB: far more than all buffers on the way."""
    passages = [{"doc_id": "d", "title": "t", "text": "seal " + "x" * 12_000_000}]
    with service(tmp_path, passages, base=False, send_seconds=1.0) as address:
        yield address


def test_the_answer_of_a_client_that_does_not_read_is_given_up(url):
    at = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((at.hostname, at.port))
        body = json.dumps({"query": "seal"}).encode()
        head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        until(lambda: gauge(url, "uae_unsent_bytes") > 5_000_000)
        assert gauge(url, "uae_in_flight_requests") == 0
        until(lambda: gauge(url, "uae_unsent_bytes") == 0)
        assert 'uae_rejected_total{reason="slow_reader"} 1.0' in httpx.get(f"{url}/metrics").text
        client.settimeout(20)
        assert read_all(client) < 12_000_000  # what lay in the buffers, and then the end


def test_a_long_answer_arrives_whole_at_a_client_that_reads_slowly(url):
    with httpx.stream("POST", f"{url}/v1/search", json={"query": "seal"}, timeout=30) as reply:
        parts = []
        for part in reply.iter_raw(1 << 20):
            parts.append(part)
            time.sleep(0.15)  # 12 of them: longer than UAE_SEND_SECONDS in all
    assert json.loads(b"".join(parts))["results"][0]["passages"][0]["text"].endswith("x" * 1000)
    assert gauge(url, "uae_unsent_bytes") == 0


def read_all(client: socket.socket) -> int:
    """Bytes up to the connection's end."""
    size = 0
    while part := client.recv(1 << 20):
        size += len(part)
    return size


def gauge(url: str, name: str) -> float:
    (line,) = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
