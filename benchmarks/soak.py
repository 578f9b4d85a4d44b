"""A soak: good and hostile requests, mixed, against a real server in a process of its own, whose memory is watched.

As fast as one core sends them; the default number is that of an hour at 20 requests a second. Some clients hang up before their
answer comes. Prints one JSON line last: requests by status, how many were 5xx, and the server's memory, sampled every second:
``rss_start_mb`` when it is warm (after a tenth of the requests), ``rss_end_mb``, and ``slope_mb_per_10k`` requests, of a
least-squares line from there to the end.

python benchmarks/soak.py --release models/release
python benchmarks/soak.py --release models/release --requests 5000
"""

import argparse
import asyncio
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from servers import retriever, rss_mb

WORDS = ("pump", "valve", "seal", "brine", "pressure", "fan", "ice", "lodge", "keys", "manual", "torn", "who", "why", "where")
JSON = "application/json"


def good(rng: random.Random) -> tuple[str, str, dict[str, str], bytes]:
    """A request as users send them: mostly one query; now and then a batch, a filter, embeddings, the release."""
    kind = rng.random()
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 14)))
    if kind < 0.05:
        return "GET", rng.choice(["/v1/release", "/v1/models", "/metrics", "/", "/livez", "/readyz"]), {}, b""
    if kind < 0.15:
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 80))) for _ in range(rng.randint(1, 8))]
        body = {"model": "uae", "input": texts, "encoding_format": rng.choice(["float", "base64"])}
        return "POST", "/v1/embeddings", {"Content-Type": JSON}, json.dumps(body).encode()
    body = {"query": [text] * rng.randint(1, 4) if kind < 0.25 else text, "k": rng.randint(1, 20)}
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
            ("GET", f"/{mark}", {}, b""),
            ("GET", f"/page/../{mark}", {}, b""),
            ("DELETE", "/v1/search", {}, b""),
            (mark.upper(), "/v1/search", {}, b""),
        ]
    )


async def client(port: int, rng: random.Random, share: float, left: list[int], seen: Counter) -> None:
    """One connection after another; on each, requests until the server or a whim ends it."""
    while left[0] > 0:
        reader = writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while left[0] > 0:
                left[0] -= 1
                method, path, headers, body = (hostile if rng.random() < share else good)(rng)
                head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
                writer.write((head + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode() + body)
                if rng.random() < 0.02:
                    seen["hung up"] += 1
                    break
                status, closes = await asyncio.wait_for(_answer(reader), 60)
                seen[status] += 1
                if closes:
                    break
        except TimeoutError:
            seen["no answer"] += 1
        except (OSError, asyncio.IncompleteReadError):  # refused before all of it was sent
            seen["connection closed"] += 1
        finally:
            if writer:
                writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if "chunked" in fields.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        await reader.readexactly(int(fields.get("content-length", 0)))
    return head.split()[1], fields.get("connection") == "close"


async def soak(port: int, server: psutil.Process, requests: int, clients: int, share: float, seed: int) -> dict:
    """Send them all; memory is sampled every second, against the number of requests sent by then."""
    left, seen, samples = [requests], Counter(), []
    started = time.monotonic()
    tasks = [asyncio.create_task(client(port, random.Random(seed * 1000 + n), share, left, seen)) for n in range(clients)]
    while not all(task.done() for task in tasks):
        samples.append((requests - left[0], rss_mb(server)))
        await asyncio.wait(tasks, timeout=1)
    await asyncio.gather(*tasks)
    samples.append((requests, rss_mb(server)))
    warm = np.array([sample for sample in samples if sample[0] >= requests / 10])
    return {
        "requests": sum(seen.values()),
        "seconds": round(time.monotonic() - started, 1),
        "statuses": dict(sorted(seen.items())),
        "5xx": sum(count for status, count in seen.items() if status.startswith("5")),
        "rss_start_mb": round(warm[0, 1], 1),
        "rss_end_mb": round(warm[-1, 1], 1),
        "slope_mb_per_10k": round(1e4 * float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0]), 3) if len(warm) > 2 else None,
        "samples": len(warm),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=72_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--hostile", type=float, default=0.5, help="their share")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    environment = {"UAE_RELEASE": str(options.release.resolve())}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, retriever(Path(folder), environment) as (port, server):
        result = asyncio.run(soak(port, server, options.requests, options.clients, options.hostile, options.seed))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
