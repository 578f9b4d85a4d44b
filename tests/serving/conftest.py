"""A small release with two documents and their metadata, and the application over it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import httpx
import psutil
import pytest
import uvicorn
from playwright.sync_api import Browser, sync_playwright
from ports import free_port
from starlette.testclient import TestClient

import uae.release.choose_form
from deploy.app import create_app
from deploy.build import build
from deploy.config import Config
from deploy.logs import open_log
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXTS = (
    "The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "Call Lunde first.", "The pump is primed by hand.",
    "A torn seal lets the brine out, and then the pressure falls within the hour.",
)  # fmt: skip
METADATA = ({"year": 2019, "kind": "manual"}, {"year": 2023, "kind": "notice"})
ORIGIN = {"model": "uae-retriever", "version": 3, "promoted_at": "2026-11-21T00:00:00+00:00", "metrics": {"recall@1": 0.5}}


@pytest.fixture(scope="session")
def release(tmp_path_factory, tiny_encoder) -> Path:
    root = tmp_path_factory.mktemp("served")
    documents = [
        {"doc_id": f"d{n}", "source": f"manual-{n}.md", "title": f"Title {n}", "version": "", "text": "", "sections": []}
        | {"metadata": json.dumps(METADATA[n])}
        for n in range(2)
    ]
    passages = [
        {"passage_id": f"p{n}", "position": n // 2, "section": "S", "start": 0, "end": len(text), "text": text}
        | {name: documents[n % 2][name] for name in ("doc_id", "title", "source")}
        for n, text in enumerate(TEXTS)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    recipe = IndexRecipe(factory="Flat", recall_target=0.95, serving="onnx", max_recall_loss=0.5, min_cosine=0.5)
    export, exported = uae.release.choose_form.export_encoder, []

    def export_once(model, folder: Path) -> None:
        """Trained and base encoder are the same one here, and exporting takes many seconds."""
        if exported:
            shutil.copytree(exported[0], folder)
        else:
            export(model, folder)
            exported.append(folder)

    with mock.patch.object(uae.release.choose_form, "export_encoder", export_once):
        build_release(
            documents_path=root / "documents.parquet", passages_path=root / "passages.parquet", questions_path=None,
            encoder_path=tiny_encoder, base_path=tiny_encoder, release_path=root / "release", recipe=recipe, scope="corpus",
            passage_words=140, device="cpu",
        )  # fmt: skip
    return root / "release"


class Lines:
    """A stream that keeps what is written to it."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def requests(self) -> list[dict]:
        return [line for line in map(json.loads, self.text.splitlines()) if line["event"] == "request"]


@pytest.fixture
def serve(release):
    """``serve(max_k=3, ...)`` is a client of the application under these settings; ``client.lines`` is its log."""
    clients = []

    def start(**settings) -> TestClient:
        lines = Lines()
        app = create_app(Config(**{"release": release, "device": "cpu"} | settings), open_log(lines))
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        client.lines = lines
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def live(release):
    """``live(max_k=3, ...)`` is the address of a real HTTP server in a thread, with these settings."""
    running = []

    def start(**settings) -> str:
        app = create_app(Config(**{"release": release, "device": "cpu"} | settings), open_log(Lines()))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@dataclass(frozen=True)
class BentoServer:
    url: str
    process: psutil.Process
    log: Path

    def workers(self) -> set[tuple[int, float]]:
        """Who they are. BentoML replaces one that has crashed, so that the next request may be answered all the same."""
        return {(child.pid, child.create_time()) for child in self.process.children(recursive=True)}


@pytest.fixture(scope="session")
def bento_server(release, tmp_path_factory):
    """The built Bento, served by BentoML in a process of its own."""
    bento = tmp_path_factory.mktemp("bento") / "bento"
    build(release, bento, "uae-retriever", "v1", ORIGIN)
    url = f"http://127.0.0.1:{(port := free_port())}"
    # From another folder and without the checkout on the path: what is served must be inside the Bento.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UAE_")}
    environment |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(bento.parent / "home"), "UAE_BODY_SECONDS": "1"}
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--port", str(port), "--host", "127.0.0.1"]
    with open(bento.parent / "log", "w") as log:
        server = subprocess.Popen(command, cwd=bento.parent, env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(url, 180)
            yield BentoServer(url, psutil.Process(server.pid), bento.parent / "log")
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="session")
def bento_url(bento_server) -> str:
    return bento_server.url


@pytest.fixture(scope="module")  # Playwright's event loop runs as long as it does, and no other can run beside it
def browser():
    """Headless Chromium; where the machine has none, its tests are skipped."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to test the page in: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI runs as root
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser):
    """A fresh tab; fails the test where a script failed, or the page asked for something from elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    failures: list[str] = []
    tab.on("pageerror", lambda error: failures.append(str(error)))
    tab.on("console", lambda message: "Content Security" in message.text and failures.append(message.text))
    tab.on("request", lambda request: request.url.startswith("http://127.0.0.1:") or failures.append(request.url))
    yield tab
    title = tab.title()
    context.close()
    assert failures == []
    assert title != "owned"


def wait_until_ready(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(f"{url} is not ready after {seconds} s")
