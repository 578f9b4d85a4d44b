"""The built Bento, served by the real server in a process of its own and asked over HTTP."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from mcp import Client
from the_page import ask, shown

from uae.release.open import Release


@pytest.fixture(scope="module")
def service(bento_url):
    with httpx.Client(base_url=bento_url, timeout=30) as client:
        yield client


def test_search_answers_as_the_release_does(service, release):
    opened = Release(release, "cpu")
    reply = service.post("/v1/search", json={"query": "Where are the keys?", "k": 3}).json()
    (expected,) = opened.search(["Where are the keys?"], 3)
    (found,) = reply["results"]
    assert reply["release"] == opened.fingerprint
    assert [p["passage_id"] for p in found["passages"]] == [hit.passage_id for hit in expected]
    assert [p["score"] for p in found["passages"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert found["passages"][0]["text"] == expected[0].text


def test_health_release_and_metrics(service, release):
    assert service.get("/livez").status_code == service.get("/readyz").status_code == 200
    described = service.get("/v1/release").json()
    fingerprint = described["fingerprint"]
    assert (described["model"], described["version"], described["metrics"]) == ("uae-retriever", "3", {"recall@1": 0.5})
    assert described["promoted_at"] == "2026-11-21T00:00:00+00:00"
    service.get("/invented/path")
    metrics = service.get("/metrics").text
    assert f'release="{fingerprint}"' in metrics
    assert "invented" not in metrics  # BentoML's own would hold it for good


def test_both_documents_show_the_api(service):
    ours, bentos = service.get("/openapi.json").json(), service.get("/docs.json").json()
    assert set(ours["paths"]) == {"/v1/search", "/v1/embeddings", "/v1/release", "/v1/models"}
    assert set(ours["paths"]) < set(bentos["paths"])
    assert set(ours["components"]["schemas"]) < set(bentos["components"]["schemas"])


def test_the_page_and_the_swagger_of_bentoml_are_served_from_here(service):
    assert service.get("/").headers["content-type"].startswith("text/html")
    page = service.get("/docs").text
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-initializer.js"):
        assert f'"static_content/{asset}"' in page
        assert service.get(f"/static_content/{asset}").status_code == 200


def test_errors_have_our_shape_behind_bentoml_too(service):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/search", 405), ("POST", "/search", 404)):
        reply = service.request(method, path)
        assert reply.status_code == status
        assert set(reply.json()) == {"error", "request_id"}


def test_the_page_shows_what_the_release_ranks(page, bento_url, release):
    page.goto(bento_url)
    ask(page, "Where are the keys?")
    opened = Release(release, "cpu")
    for system in ("base", "uae"):
        (expected,) = opened.search(["Where are the keys?"], 5, system=system)
        assert shown(page, system) == [hit.passage_id for hit in expected]
        assert page.locator(f".{system} .passage").all_text_contents() == [hit.text for hit in expected]
        assert page.locator(f".{system} mark").all_text_contents() == [hit.text for hit in expected]  # of one sentence each
    assert opened.fingerprint[:12] in page.locator("#release").inner_text()


def test_bentomls_timeout_is_still_the_one_that_is_taken_out():
    """Its name is private. Another version of BentoML may have renamed or moved it, or may have a setting for it by now."""
    code = (
        "import deploy.service as service\n"
        "application = service.Retriever.to_asgi()\n"
        "layer, names = application.build_middleware_stack(), []\n"
        "while layer is not None:\n"
        "    names.append(type(layer).__module__ + '.' + type(layer).__name__)\n"
        "    layer = getattr(layer, 'app', None) or getattr(layer, '_app', None)\n"
        "print('LAYERS', *names)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UAE_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (layers,) = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LAYERS")]
    advice = "BentoML has changed: see deploy/service.py, where its TimeoutMiddleware is replaced, and deploy/limits.py"
    assert "deploy.service._NoTimeout" in layers, advice
    assert not [name for name in layers if name.startswith(("bentoml.", "_bentoml")) and "timeout" in name.lower()], advice


def test_the_bento_answers_agents(bento_url):
    async def run():
        async with Client(f"{bento_url}/mcp") as client:
            return await client.call_tool("search", {"query": "Where are the keys?", "k": 2})

    with ThreadPoolExecutor(1) as thread:  # Playwright's event loop runs in this one
        result = thread.submit(asyncio.run, run()).result(60)
    assert not result.is_error
    reply = httpx.post(f"{bento_url}/v1/search", json={"query": "Where are the keys?", "k": 2}, timeout=30).json()
    assert result.structured_content["release"] == reply["release"]
    expected = [passage["text"] for passage in reply["results"][0]["passages"]]
    assert [passage["text"] for passage in result.structured_content["passages"]] == expected
