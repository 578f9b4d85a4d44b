"""Releases swapped by the real command under the real service, while clients run: none of them notices."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from ports import free_port
from tiny_releases import tiny_release

from uae.release.store import ReleaseStore

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = {
    "harbour": ["The crane stands still.", "Ropes lie on the quay.", "A tug waits for the tide."],
    "kitchen": ["The oven is hot.", "Salt is low.", "Call the baker before six."],
    "garden": ["The gate is shut.", "Rain fills the barrel.", "Prune the pear in winter."],
}
CLIENTS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_encoder) -> ReleaseStore:
    """Three releases in a store, the first of them active; passages, document and origin say which is which."""
    root = tmp_path_factory.mktemp("swap")
    store = ReleaseStore(root / "store")
    for version, (name, texts) in enumerate(TEXTS.items(), 1):
        origin = {"model": name, "version": version, "promoted_at": "2026-11-21T00:00:00+00:00", "metrics": {}}
        store.install(tiny_release(root / name, tiny_encoder, texts, name, "onnx"), origin)
    store.activate(named(store)["harbour"])
    return store


def named(store: ReleaseStore) -> dict[str, str]:
    """Name -> fingerprint."""
    return {each.origin["model"]: each.fingerprint for each in store.installed()}


@pytest.fixture(scope="module")
def service(store, tmp_path_factory):
    port = free_port()
    home = tmp_path_factory.mktemp("bentoml")
    environment = os.environ | {
        "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(home), "UAE_STORE": str(store.folder), "UAE_WATCH_SECONDS": "0.05",
        "UAE_DEVICE": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-m", "bentoml", "serve", "deploy.service:Retriever", "--port", str(port), "--host", "127.0.0.1"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        try:
            until(lambda: server.poll() is not None or serves(client))
            assert server.poll() is None, (home / "log").read_text()
            yield client
        finally:
            server.terminate()
            server.wait(60)


def serves(client: httpx.Client) -> str | None:
    """The fingerprint that is served, None while nothing is."""
    try:
        reply = client.get("/v1/release")
    except httpx.TransportError:
        return None
    return reply.json()["fingerprint"] if reply.status_code == 200 else None


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within three minutes"
        time.sleep(0.05)


def metric(client: httpx.Client, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)[1])


def command(*words: str, store: ReleaseStore) -> subprocess.CompletedProcess:
    """``uae release`` in a process of its own."""
    line = [sys.executable, "-m", "uae.cli.main", "release", *words, "--store", str(store.folder)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


class Clients:
    """Threads that ask without a pause and keep count of what each answer said."""

    def __init__(self, url: httpx.URL):
        self.url, self.stop, self.wrong = url, threading.Event(), []
        self.answers = Counter()  # by release and the documents that its passages came from
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        # Some ask one question, some several, for a batch must not be cut by a swap either.
        query = "Is it hot?" if number % 2 else ["Is it hot?", "Where is the rope?", "What does the baker say about salt?"]
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stop.is_set():
                try:
                    reply = client.post("/v1/search", json={"query": query, "k": 3})
                    answer = reply.json()
                    found = {passage["doc_id"] for result in answer["results"] for passage in result["passages"]}
                    self.answers[answer["release"], tuple(sorted(found))] += 1
                except Exception as error:
                    self.wrong.append(repr(error) if isinstance(error, httpx.HTTPError) else f"{reply.status_code} {reply.text}")


def test_swaps_under_load_fail_no_request_and_mix_no_releases(service, store):
    names = named(store)
    with Clients(service.base_url) as clients:

        def answered_by(name: str) -> None:
            """The service says so, a client has seen it, and the one before is closed."""
            until(lambda: serves(service) == names[name])
            until(lambda: clients.answers[names[name], (name,)])
            until(lambda: metric(service, "uae_releases_draining") == 0)

        answered_by("harbour")
        for words, name in (
            (("activate", names["kitchen"][:8]), "kitchen"),
            (("rollback",), "harbour"),
            (("activate", names["garden"]), "garden"),
            (("rollback",), "harbour"),
        ):
            done = command(*words, store=store)
            assert done.returncode == 0, done.stderr
            assert f"active: {names[name][:12]} ({name} version " in done.stdout
            answered_by(name)
        assert metric(service, "uae_swaps_total") == 5
        assert metric(service, "uae_swap_failures_total") == 0

        # A release that is damaged behind the command's back, after it was activated.
        damaged = store.path(names["garden"]) / "legs" / "dense" / "index.faiss"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        refused = command("activate", names["garden"], store=store)
        assert refused.returncode == 1
        assert "index.faiss" in refused.stderr
        store._write(names["garden"], [names["harbour"]], [], "activate")
        until(lambda: metric(service, "uae_swap_failures_total"))
        assert serves(service) == names["harbour"]
        assert command("activate", names["kitchen"], store=store).returncode == 0
        answered_by("kitchen")
    assert clients.wrong == []
    assert set(clients.answers) == {(names[name], (name,)) for name in TEXTS}
    assert sum(clients.answers.values()) > 5 * CLIENTS
    assert metric(service, "uae_swaps_total") == 6
