"""A soak: good and hostile requests, mixed, against a real server in a process of its own, whose memory is watched.

As fast as one core sends them; the default number is that of an hour at 20 requests a second. Some clients hang up before their
answer comes, some read a long answer slowly, some read none of it. Prints one JSON line last. It holds requests by status, how
many were 5xx or got no answer, and the server's memory, sampled every second. ``rss_start_mb`` is of the warm server (after a
tenth of the requests), ``rss_end_mb`` of the end. ``slope_mb_per_10k`` is the slope of a least-squares line from warm to end,
by 10,000 requests. ``last_half_slope_mb_per_10k`` begins at the middle. ``failures`` says what must not be: with any of it the
exit status is 1.

python benchmarks/soak.py --release models/release
python benchmarks/soak.py --release models/release --requests 5000
"""

import argparse
import asyncio
import gzip
import json
import random
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from servers import retriever, rss_mb

WORDS = ("pump", "valve", "seal", "brine", "pressure", "fan", "ice", "lodge", "keys", "manual", "torn", "who", "why", "where")
JSON = "application/json"
_SLOW_READERS = 0.003  # their share of all requests
_SEND_S = 2  # UAE_SEND_SECONDS of the server
_GROWTH_MB = 10  # in the second half; the first fills pools and caches
_LARGEST_BODY = 8_000_000  # UAE_MAX_BODY_BYTES; a larger one is refused while it is sent, and the answer may be lost
# What is counted of requests whose client did not wait for the answer, or could not.
_OWN = {"hung up", "not read", "refused while sent"}
_LOST = {"no answer", "connection closed"}


def matching_filters(release: Path) -> list[dict]:
    """Filters that some document of a release passes."""
    found = []
    for document in pq.read_table(release / "documents.parquet", columns=["doc_id", "metadata"]).to_pylist()[:1000]:
        name = document["doc_id"]
        found += [{"doc_id": name}, {"doc_id": [name]}, {"doc_id": {"gte": name}}]
        for field, value in json.loads(document["metadata"]).items():
            if isinstance(value, list):
                value = next(iter(value), None)
            if isinstance(value, str | int | float) and field:
                found.append({field: value})
            if isinstance(value, str | int | float) and field and not isinstance(value, bool):
                found.append({field: {"lte": value}, "doc_id": {"lte": name}})
    return found


def good(rng: random.Random, filters: list[dict]) -> tuple[str, str, dict[str, str], bytes]:
    """A request as users send them: mostly one query; now and then a batch, a filter, embeddings, the release."""
    kind = rng.random()
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 14)))
    if kind < 0.05:
        return "GET", rng.choice(["/v1/release", "/v1/models", "/metrics", "/", "/livez", "/readyz"]), {}, b""
    if kind < 0.15:
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 80))) for _ in range(rng.randint(1, 8))]
        body = {"model": "uae", "input": texts, "encoding_format": rng.choice(["float", "base64"])}
        body["input_type"] = rng.choice(["query", "document"])
        return "POST", "/v1/embeddings", {"Content-Type": JSON}, json.dumps(body).encode()
    body = {"query": [text] * rng.randint(1, 4) if kind < 0.25 else text, "k": rng.randint(1, 20)}
    if kind > 0.75:
        body["filters"] = rng.choice(filters)
    return "POST", "/v1/search", {"Content-Type": JSON}, json.dumps(body).encode()


def hostile(rng: random.Random) -> tuple[str, str, dict[str, str], bytes]:
    """A request that nobody should send; each is another one, so that whatever keeps something of them keeps growing."""
    mark = f"{rng.getrandbits(64):x}"
    bodies = [
        b"[" * rng.randint(1, 50_000),
        b'{"query":"' + mark.encode() + b"\xff\xfe" + b'"}',
        b'{"query":"\\ud800"}',
        b'{"query":"x","min_score":NaN}',
        b'{"query":"x","k":' + b"9" * rng.randint(1, 20_000) + b"}",
        json.dumps({"query": mark * 500}).encode(),
        json.dumps({"query": [mark] * 65}).encode(),
        json.dumps({"query": mark, mark: mark}).encode(),
        json.dumps({"query": mark, "filters": {mark: mark}}).encode(),
        json.dumps({"query": mark, "filters": {"doc_id": mark}}).encode(),
        b" " * rng.choice([100, 2_100_000]),
    ]
    whole = {"Content-Type": JSON}
    return rng.choice(
        [
            *[("POST", "/v1/search", whole, body) for body in bodies],
            ("POST", "/v1/search", whole | {"Content-Encoding": "gzip"}, gzip.compress(b" " * 1_000_000)),
            ("POST", "/v1/search", {"Content-Type": "application/vnd.bentoml+pickle"}, b"cos\nsystem\n(S'true'\ntR."),
            ("POST", "/v1/search", whole | {"X-Request-ID": mark * 40}, b'{"query":"x"}'),
            ("POST", "/v1/embeddings", whole, json.dumps({"model": mark, "input": "x"}).encode()),
            ("POST", "/v1/embeddings", whole, b'{"model":"uae","input":[1,2,3]}'),
            ("POST", "/v1/search%0A", whole, json.dumps({"query": mark}).encode()),
            ("POST", "/v1/search", whole | {"Connection": "Upgrade", "Upgrade": "h2c"}, json.dumps({"query": mark}).encode()),
            ("GET", f"/{mark}", {}, b""),
            ("GET", f"/page/../{mark}", {}, b""),
            ("DELETE", "/v1/search", {}, b""),
            (mark.upper(), "/v1/search", {}, b""),
        ]
    )


def as_bytes(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode() + body


async def client(port: int, rng: random.Random, share: float, filters: list[dict], left: list[int], seen: Counter) -> None:
    """One connection after another; on each, requests until the server or a whim ends it."""
    while left[0] > 0:
        writer, body, slow = None, b"", False
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while left[0] > 0:
                left[0] -= 1
                if slow := rng.random() < _SLOW_READERS:  # on a connection of its own: this one would not be kept for so long
                    break
                method, path, headers, body = hostile(rng) if rng.random() < share else good(rng, filters)
                writer.write(as_bytes(method, path, headers, body))
                if rng.random() < 0.02:
                    seen["hung up"] += 1
                    break
                status, closes = await asyncio.wait_for(_answer(reader), 60)
                seen[status] += 1
                if closes:
                    break
        except TimeoutError:
            seen["no answer"] += 1
        except (OSError, asyncio.IncompleteReadError):
            seen["refused while sent" if len(body) > _LARGEST_BODY else "connection closed"] += 1
        finally:
            if writer:
                writer.close()
        if slow:
            await slow_reader(port, rng, seen)


async def slow_reader(port: int, rng: random.Random, seen: Counter) -> None:
    """Ask for the longest answer there is, and read it slowly but in time, or not at all."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.setblocking(False)
    writer = None
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=16_384)
        body = {"query": [" ".join(rng.choices(WORDS, k=5)) for _ in range(64)], "k": 100}
        writer.write(as_bytes("POST", "/v1/search", {"Content-Type": JSON}, json.dumps(body).encode()))
        if rng.random() < 0.5:
            await asyncio.sleep(2 * _SEND_S)
            seen["not read"] += 1
        else:
            status, _ = await asyncio.wait_for(_answer(reader, pause=0.02), 60)
            seen[status] += 1
    except TimeoutError:
        seen["no answer"] += 1
    except (OSError, asyncio.IncompleteReadError):
        seen["connection closed"] += 1
    finally:
        if writer:
            writer.close()
        connection.close()


async def _answer(reader: asyncio.StreamReader, pause: float = 0.0) -> tuple[str, bool]:
    """Status, and whether the connection ends. ``pause``: seconds before each 64 KB of a body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if "chunked" in fields.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        rest = int(fields.get("content-length", 0))
        while rest:
            await asyncio.sleep(pause)
            rest -= len(await reader.readexactly(min(rest, 65_536)))
    return head.split()[1], fields.get("connection") == "close"


def workers(server: psutil.Process) -> set[tuple[int, float]]:
    """BentoML replaces a worker that has crashed; from outside that looks like a little memory given back."""
    return {(child.pid, child.create_time()) for child in server.children(recursive=True)}


async def soak(port: int, server: psutil.Process, filters: list[dict], options: argparse.Namespace) -> dict:
    """Send them all; memory is sampled every second, against the number of requests sent by then."""
    requests, at_first = options.requests, workers(server)
    left, seen, samples = [requests], Counter(), []
    started = time.monotonic()
    tasks = [
        asyncio.create_task(client(port, random.Random(options.seed * 1000 + n), options.hostile, filters, left, seen))
        for n in range(options.clients)
    ]
    while not all(task.done() for task in tasks) and workers(server) == at_first:
        samples.append((requests - left[0], rss_mb(server)))
        await asyncio.wait(tasks, timeout=1)
    replaced = workers(server) != at_first
    if replaced:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=replaced)
    samples.append((requests - left[0], rss_mb(server)))
    return summary(np.array(samples), seen, requests, time.monotonic() - started, replaced)


def summary(samples: np.ndarray, seen: Counter, requests: int, seconds: float, replaced: bool) -> dict:
    warm = samples[samples[:, 0] >= min(requests / 10, samples[-1, 0])]
    faults = sum(count for status, count in seen.items() if status.startswith("5"))
    lost = sum(seen[name] for name in _LOST)
    growth = slope(samples[samples[:, 0] >= requests / 2])
    failures = {
        "the worker was replaced": replaced,
        "5xx": faults,
        "requests without an answer": lost,
        "fewer than a quarter of the requests were served": seen["200"] < sum(seen.values()) / 4,
        f"memory grew by more than {_GROWTH_MB} MB for 10,000 requests": growth is not None and growth > _GROWTH_MB,
    }
    return {
        "requests": sum(seen.values()),
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(seen.items())),
        "5xx": faults,
        "unanswered": lost,
        "given_up_by_client": sum(seen[name] for name in _OWN),
        "rss_start_mb": round(warm[0, 1], 1),
        "rss_end_mb": round(warm[-1, 1], 1),
        "slope_mb_per_10k": slope(warm),
        "last_half_slope_mb_per_10k": growth,
        "samples": len(warm),
        "failures": [name for name, found in failures.items() if found],
    }


def slope(samples: np.ndarray) -> float | None:
    if len(set(samples[:, 0])) < 3:
        return None
    return round(1e4 * float(np.polyfit(samples[:, 0], samples[:, 1], 1)[0]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=72_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--hostile", type=float, default=0.5, help="their share")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    environment = {"UAE_RELEASE": str(options.release.resolve()), "UAE_SEND_SECONDS": str(_SEND_S)}
    filters = matching_filters(options.release)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, retriever(Path(folder), environment) as (port, server):
        result = asyncio.run(soak(port, server, filters, options))
    print(json.dumps(result))
    raise SystemExit(bool(result["failures"]))


if __name__ == "__main__":
    main()
