"""A load generator: so many clients, each asking again as soon as it is answered, over connections that are kept alive.

It is a process of its own and does as little as it can, for what it takes of the machine is lost to the service that it measures.
SIGTERM ends it early. Prints one JSON line last.

python benchmarks/load.py PORT PATH BODIES.json --clients 8 --seconds 10 [--owners OWNERS.json --timeline OUT.json]
"""

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path


class Load:
    """
    Args:
        bodies: JSON bodies; every client goes through them from another place.
        owners: fingerprint -> its passages' ids; where given, each answer's passages are looked up in the release that it names.
    """

    def __init__(self, port: int, path: str, bodies: list[str], owners: dict[str, set[str]] | None):
        self.port, self.owners = port, owners
        self.requests = [
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
            for body in bodies
        ]
        # One row a request: when it was sent (s, CLOCK_MONOTONIC), seconds until it was answered, which release answered.
        self.answered: list[tuple[float, float, str]] = []
        self.failed: list[tuple[float, str]] = []
        self.mixed = 0

    async def run(self, clients: int, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        await asyncio.gather(*(self._client(n * len(self.requests) // clients) for n in range(clients)))

    def _stop(self) -> None:
        """No new requests; those under way are waited for."""
        self.end = 0.0

    async def _client(self, turn: int) -> None:
        reader = writer = None
        while (sent := time.monotonic()) < self.end:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
                    sent = time.monotonic()
                writer.write(self.requests[turn % len(self.requests)])
                turn += 1
                status, closes, body = await asyncio.wait_for(_answer(reader), 60)
                taken = time.monotonic() - sent
                if status != 200:
                    raise ValueError(f"{status} {body[:200]!r}")
                self.answered.append((sent, taken, self._check(body) if self.owners else ""))
                if closes:
                    writer.close()
                    writer = None
            except (OSError, ValueError, TimeoutError, EOFError) as error:
                self.failed.append((sent, repr(error)))
                if writer is not None:
                    writer.close()
                    writer = None
                await asyncio.sleep(0.05)  # a service that refuses at once must not be asked in a hot loop

    def _check(self, body: bytes) -> str:
        answer = json.loads(body)
        release = answer["release"]
        found = [passage["passage_id"] for result in answer["results"] for passage in result["passages"]]
        if not found or not self.owners[release].issuperset(found):
            self.mixed += 1
        return release


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether the server closes the connection, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.index(b"content-length:") + 15
    body = await reader.readexactly(int(head[length : head.index(b"\r\n", length)]))
    return int(head[9:12]), b"connection: close" in head, body


def percentile(values: list[float], share: float) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--owners", type=Path)
    parser.add_argument("--timeline", type=Path)
    given = parser.parse_args()
    owners = given.owners and {release: set(ids) for release, ids in json.loads(given.owners.read_text()).items()}
    load = Load(given.port, given.path, json.loads(given.bodies.read_text()), owners)
    begin, used = time.monotonic(), time.process_time()
    asyncio.run(load.run(given.clients, given.seconds))
    wall = time.monotonic() - begin
    if given.timeline:
        given.timeline.write_text(json.dumps({"answered": load.answered, "failed": load.failed}))
    times = [taken for _, taken, _ in load.answered] or [float("inf")]
    print(
        json.dumps(
            {
                "requests": len(load.answered),
                "per_s": len(load.answered) / wall,
                "p50_ms": 1000 * percentile(times, 0.5),
                "p99_ms": 1000 * percentile(times, 0.99),
                "failed": len(load.failed),
                "first_failure": load.failed[0][1] if load.failed else None,
                "mixed": load.mixed,
                "generator_cpu": (time.process_time() - used) / wall,
            }
        )
    )


if __name__ == "__main__":
    main()
