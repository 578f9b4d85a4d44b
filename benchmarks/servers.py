"""Servers in processes of their own, for the benchmarks that ask them."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parent.parent
_READY_S = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    """A request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@contextlib.contextmanager
def running(command: list[str], ready: Callable[[], bool], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """A server process, when it is ready. Besides ``environment`` it has this process's, without the service's own variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UAE_")}
    with open(log, "w", encoding="utf-8") as stream:
        server = subprocess.Popen(command, cwd=_ROOT, env=inherited | environment, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + _READY_S
            while True:
                with contextlib.suppress(OSError):
                    if ready():
                        break
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start: {log.read_text(encoding='utf-8')[-3000:]}")
                time.sleep(0.2)
            yield psutil.Process(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


@contextlib.contextmanager
def retriever(scratch: Path, environment: dict[str, str]) -> Iterator[tuple[int, psutil.Process]]:
    """The service as BentoML serves it, once a release is loaded: its port and process. ``environment`` says which release."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "deploy.service:Retriever", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(scratch / "bentoml")} | environment
    with running(command, lambda: ask(port, "GET", "/v1/release")[0] == 200, environment, scratch / "retriever.log") as process:
        yield port, process


def rss_mb(server: psutil.Process) -> float:
    """Resident memory of a server and of what it has started."""
    return sum(process.memory_info().rss for process in [server, *server.children(recursive=True)]) / 2**20
