"""The built Bento, served by the real server in a process of its own and asked over HTTP."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from deploy.build import build
from uae.index.release import Release, build_release
from uae.tables import DOCUMENTS, PASSAGES, write_table

TEXTS = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "Call Lunde first."]


@pytest.fixture(scope="module")
def release(tmp_path_factory, tiny_encoder) -> Path:
    root = tmp_path_factory.mktemp("served")
    document = {"doc_id": "d", "source": "d", "title": "Title", "version": "", "text": "", "sections": [], "metadata": "{}"}
    write_table(root / "documents.parquet", DOCUMENTS, [document])
    write_table(root / "passages.parquet", PASSAGES, [
        {"passage_id": f"p{n}", "doc_id": "d", "position": n, "section": "", "start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ])  # fmt: skip
    build_release(root / "documents.parquet", root / "passages.parquet", tiny_encoder, root / "release", "Flat", "cpu")
    return root / "release"


@pytest.fixture(scope="module")
def service(release, tmp_path_factory):
    bento = tmp_path_factory.mktemp("bento") / "bento"
    build(release, bento, "uae-retriever", "v1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # From another folder and without the checkout on the path: what is served must be inside the Bento.
    environment = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(bento.parent / "home")}
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--port", str(port), "--host", "127.0.0.1"]
    log = open(bento.parent / "log", "w")  # noqa: SIM115
    server = subprocess.Popen(command, cwd=bento.parent, env=environment, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield client
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def test_search_answers_as_the_release_does(service, release):
    opened = Release(release, "cpu")
    reply = service.post("/search", json={"query": "Where are the keys?", "k": 3}).json()
    (expected,) = opened.search(["Where are the keys?"], 3)
    assert reply["release"] == opened.fingerprint
    assert [p["passage_id"] for p in reply["results"][0]] == [hit.passage_id for hit in expected]
    assert [p["score"] for p in reply["results"][0]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert reply["results"][0][0]["text"] == expected[0].text


def test_several_queries_at_once(service):
    reply = service.post("/search", json={"query": ["keys", "ice"], "k": 1, "doc_id": "d"}).json()
    assert [len(found) for found in reply["results"]] == [1, 1]


@pytest.mark.parametrize(
    "body", [{}, {"query": ""}, {"query": "x", "k": 0}, {"query": "x", "k": 10**6}, {"query": []}, {"query": "x", "doc_id": "no"}]
)
def test_bad_request_is_a_400(service, body):
    reply = service.post("/search", json=body)
    assert reply.status_code == 400
    assert "error" in reply.text
