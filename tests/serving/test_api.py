"""The API over a real release, and as OpenAI's own client sees it."""

import base64
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import openai
import pytest

from uae.io.files import write_json
from uae.release.open import Release
from uae.release.store import ReleaseStore

sys.path.append(str(Path(__file__).resolve().parents[1] / "release"))

from old_formats import write_format_2

QUESTION = "Where are the keys?"


@pytest.fixture(scope="module")
def opened(release):
    opened = Release(release, "cpu")
    yield opened
    opened.close()


def test_search_answers_as_the_release_does(serve, opened):
    reply = serve().post("/v1/search", json={"query": [QUESTION, "ice"], "k": 3})
    assert reply.status_code == 200
    found = reply.json()
    assert (found["release"], found["system"]) == (opened.fingerprint, "uae")
    assert found["request_id"] == reply.headers["x-request-id"]
    assert [result["query"] for result in found["results"]] == [QUESTION, "ice"]
    for result, hits in zip(found["results"], opened.search([QUESTION, "ice"], 3), strict=True):
        assert [passage["score"] for passage in result["passages"]] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        assert [{**passage, "score": 0} for passage in result["passages"]] == [hit._replace(score=0)._asdict() for hit in hits]


def test_k_beyond_the_corpus_filters_and_min_score(serve, opened):
    client = serve()

    def ids(**body) -> list[str]:
        reply = client.post("/v1/search", json={"query": QUESTION, "k": 100} | body)
        assert reply.status_code == 200, reply.text
        return sorted(passage["passage_id"] for passage in reply.json()["results"][0]["passages"])

    assert ids() == [f"p{n}" for n in range(6)]
    assert ids(filters={"doc_id": "d1"}) == ["p1", "p3", "p5"]
    assert ids(filters={"source": "manual-1.md"}) == ids(filters={"source": ["manual-1.md"], "year": 2023}) == ["p1", "p3", "p5"]
    assert ids(filters={"year": {"gte": 2020}}) == ids(filters={"kind": ["notice", "letter"]}) == ["p1", "p3", "p5"]
    assert ids(filters={"year": {"gte": 2020}, "doc_id": "d0"}) == []
    (hits,) = opened.search([QUESTION], 6)
    middle = (hits[1].score + hits[2].score) / 2
    assert ids(min_score=middle) == sorted(hit.passage_id for hit in hits[:2])


def test_base_and_uae_are_asked_by_name(serve, opened):
    client = serve()
    reply = client.post("/v1/search", json={"query": QUESTION, "system": "base"})
    if "base" in opened.systems:
        assert reply.json()["system"] == "base"
    else:
        assert reply.status_code == 422
        assert reply.json()["error"]["param"] == "system"


@pytest.mark.parametrize("filters", [{"doc_id": "d9"}, {"source": "manual-9.md"}, {"colour": "red"}])
def test_a_filter_on_what_is_not_there_says_so(serve, filters):
    reply = serve().post("/v1/search", json={"query": "x", "filters": filters})
    assert reply.status_code == 422
    assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == ("invalid_filter", "filters")


def test_openais_client_works_unchanged(live, opened):
    with openai.OpenAI(base_url=f"{live()}/v1", api_key="none", max_retries=0) as client:
        texts = ["The seal is torn.", QUESTION]
        expected = opened.encode(texts, "query")
        plain = client.embeddings.create(model="uae", input=texts)  # base64 on the wire: the client's own choice
        floats = client.embeddings.create(model="uae", input=texts, encoding_format="float", dimensions=opened.dimension())
        for reply in (plain, floats):
            assert np.array([each.embedding for each in reply.data]) == pytest.approx(expected, abs=1e-5)
            assert [each.index for each in reply.data] == [0, 1]
            assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(opened.token_lengths(texts, "query"))
        one = client.embeddings.create(model=opened.fingerprint, input=texts[0], extra_body={"input_type": "document"})
        assert one.data[0].embedding == pytest.approx(opened.encode(texts[:1], "document")[0], abs=1e-5)
        names = [model.id for model in client.models.list()]
        assert names == [*opened.systems, opened.fingerprint]
        with pytest.raises(openai.BadRequestError, match="token ids mean nothing"):
            client.embeddings.create(model="uae", input=[[1, 2, 3]])
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="uae", input="x", dimensions=7)
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="text-embedding-3-small", input="x")
        assert missing.value.code == "model_not_found"


def test_base64_is_little_endian_float32(serve, opened):
    reply = serve().post("/v1/embeddings", json={"model": "uae", "input": "keys", "encoding_format": "base64"}).json()
    found = np.frombuffer(base64.b64decode(reply["data"][0]["embedding"]), "<f4")
    assert found == pytest.approx(opened.encode(["keys"], "query")[0], abs=1e-5)


def test_the_release_tells_where_it_came_from(serve, release, opened, tmp_path):
    bare = serve().get("/v1/release").json()
    assert (bare["fingerprint"], bare["model"], bare["version"], bare["metrics"]) == (opened.fingerprint, None, None, None)
    assert (bare["passages"], bare["dimension"], bare["systems"]) == (6, 32, list(opened.systems))
    assert bare["backend"] == opened.backend()
    assert bare["loading"] is False
    shutil.copytree(release, tmp_path / "release")
    origin = {"model": "retriever", "version": "7", "promoted_at": "2026-11-01T00:00:00+00:00", "metrics": {"recall@1": 0.5}}
    write_json(tmp_path / "release.origin.json", origin)
    client = serve(release=tmp_path / "release")
    known = client.get("/v1/release").json()
    assert {name: known[name] for name in origin} == origin
    told = client.get("/openapi.json").json()["components"]["schemas"]["ReleaseResponse"]["properties"]
    assert all("registered" in told[name]["description"] for name in ("promoted_at", "metrics"))
    assert "retriever" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert 'model="retriever",release="' in client.get("/metrics").text


def test_an_empty_store_is_not_ready_and_what_is_activated_is_served(serve, release, tmp_path):
    store = ReleaseStore(tmp_path / "store")
    client = serve(release=None, store=store.folder, watch_seconds=0.02)
    asked = [("GET", "/v1/release", None), ("GET", "/v1/models", None), ("POST", "/v1/search", {"query": "x"})]
    asked.append(("POST", "/v1/embeddings", {"model": "uae", "input": "x"}))
    for method, path, body in asked:
        reply = client.request(method, path, json=body)
        assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "not_ready", "5")
    store.activate(store.install(release, {"model": "retriever", "version": "1"}))
    deadline = time.monotonic() + 60
    while client.get("/v1/release").status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.get("/v1/release").json()["version"] == "1"
    assert [client.request(method, path, json=body).status_code for method, path, body in asked] == [200] * 4


def test_request_ids_are_taken_over_if_they_are_sane(serve):
    client = serve()
    for given, kept in (("job-7:a_b.c", True), ("x" * 65, False), ("a b", False), ('"}', False), ("é".encode(), False)):
        reply = client.get("/v1/models", headers={"X-Request-ID": given})
        assert (reply.headers["x-request-id"] == given) is kept
        assert client.lines.requests()[-1]["request_id"] == reply.headers["x-request-id"]


def test_the_log_has_a_line_a_request_and_no_query_unless_told(serve, opened):
    client = serve()
    client.post("/v1/search", json={"query": ["secret one", "secret two"], "k": 2})
    client.post("/v1/search", content=b'{"query": "secret', headers={"Content-Type": "application/json"})
    client.post("/v1/embeddings", json={"model": "secret model", "input": "secret"})
    client.get("/secret/path")
    lines = client.lines.requests()
    assert [(line["route"], line["status"], line.get("error")) for line in lines] == [
        ("/v1/search", 200, None), ("/v1/search", 400, "invalid_json"), ("/v1/embeddings", 404, "model_not_found"),
        ("other", 404, "not_found"),
    ]  # fmt: skip
    assert (lines[0]["queries"], lines[0]["k"], lines[0]["release"]) == (2, 2, opened.fingerprint[:12])
    assert lines[0]["ms"] > 0
    assert "secret" not in client.lines.text
    told = serve(log_queries=True)
    told.post("/v1/search", json={"query": "secret"})
    assert told.lines.requests()[0]["texts"] == ["secret"]


def test_metrics_tell_what_happened_and_no_caller_can_grow_them(serve, opened):
    client = serve()
    client.post("/v1/search", json={"query": ["a", "b", "c"]})
    client.post("/v1/search", json={"query": ""})
    before = client.get("/metrics").text
    for line in (
        'uae_request_seconds_count{route="/v1/search",status="200"} 1.0', "uae_batch_texts_sum 3.0",
        "uae_queue_wait_seconds_count 3.0", "uae_queue_texts 0.0", "uae_in_flight_requests 0.0", "uae_swaps_total 1.0",
        'uae_rejected_total{reason="invalid_value"} 1.0', "uae_auth_failures_total 0.0", "uae_swap_failures_total 0.0",
    ):  # fmt: skip
        assert f"\n{line}\n" in before, line
    assert f'release="{opened.fingerprint}"' in before
    client.get("/nothing")
    client.request("OPTIONS", "/v1/search")
    series = client.get("/metrics").text.count("\n")
    for n in range(20):
        client.get(f"/nothing/{n}")
        client.request(f"M{n}", "/v1/search")
    assert client.get("/metrics").text.count("\n") == series


def test_what_a_broken_encoder_raises_is_told_to_the_log_only(serve, monkeypatch):
    client = serve()
    monkeypatch.setattr(Release, "token_lengths", lambda *_: 1 / 0)
    reply = client.post("/v1/search", json={"query": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in reply.text
    assert "ZeroDivisionError" in client.lines.text


def test_other_paths_and_methods_answer_in_the_same_shape(serve):
    client = serve()
    for method, path, status in (
        ("GET", "/nothing", 404), ("GET", "/v1/search/", 404), ("GET", "//v1/search", 404), ("GET", "/v1/search", 405),
        ("DELETE", "/v1/release", 405), ("POST", "/", 405), ("OPTIONS", "/v1/search", 405), ("GET", "/page/nothing", 404),
        ("GET", "/page/%2e%2e/app.py", 404), ("GET", "/page/..%2f..%2fapp.py", 404), ("GET", "/search", 404),
    ):  # fmt: skip
        reply = client.request(method, path)
        assert reply.status_code == status, path
        assert set(reply.json()) == {"error", "request_id"}
        assert "access-control-allow-origin" not in reply.headers
    assert client.get("/v1/search").headers["allow"] == "POST"


def test_the_page_brings_nothing_from_outside(serve):
    client = serve()
    for path in ("/", "/docs"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-security-policy"].startswith("default-src 'self';")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "//" not in reply.text.replace("<!--", "").replace("http://www.w3.org/2000/svg", "")


def test_the_document_names_every_error_and_its_examples_work(serve):
    client = serve()
    document = client.get("/openapi.json").json()
    search, embed = (document["paths"][path]["post"] for path in ("/v1/search", "/v1/embeddings"))
    assert set(search["responses"]) == {"200", "400", "408", "413", "415", "422", "429", "503"}
    assert set(embed["responses"]) == set(search["responses"]) | {"404"}
    for path, name in (("/v1/search", "SearchRequest"), ("/v1/embeddings", "EmbeddingsRequest")):
        schema = document["components"]["schemas"][name]
        assert "additionalProperties" not in schema  # unknown fields are left out
        for example in schema["examples"]:
            assert client.post(path, json=example).status_code == 200
    assert json.dumps(document).count("max_k") == 0
    k = document["components"]["schemas"]["SearchRequest"]["properties"]["k"]
    assert {"maximum": 100, "minimum": 1, "type": "integer"}.items() <= k["anyOf"][0].items()
    assert k["anyOf"][1] == {"type": "null"}


def test_a_release_of_format_2_is_served(serve, release, tmp_path):
    old = write_format_2(release, tmp_path / "old")
    client, today = serve(release=old), serve()
    fingerprint = json.loads((old / "manifest.json").read_text())["fingerprint"]
    described = client.get("/v1/release").json()
    assert described["fingerprint"] == fingerprint
    others = {"fingerprint": "", "loaded_at": "", "systems": ["uae", "base"]}  # it has no lexical leg
    assert described["systems"] == ["uae", "base"]
    assert described | others == today.get("/v1/release").json() | others
    for system in described["systems"]:
        body = {"query": QUESTION, "k": 3, "system": system, "filters": {"source": ["manual-0.md", "manual-1.md"]}}
        found, expected = (each.post("/v1/search", json=body).json() for each in (client, today))
        assert found["release"] == fingerprint
        assert found["results"] == expected["results"]


def test_each_system_of_a_release_answers_by_its_name_and_says_what_its_scores_are(serve):
    client = serve()
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert {"uae", "dense", "bm25", "base"} < set(models)
    for name in ("uae", "dense", "bm25", "base"):
        answer = client.post("/v1/search", json={"query": QUESTION, "k": 3, "system": name}).json()
        assert (answer["system"], answer["score_is"]) == (name, models[name]["score_is"])
        assert answer["score_is"] == ("bm25" if name == "bm25" else "cosine")
        assert answer["results"][0]["passages"]
        reply = client.post("/v1/embeddings", json={"model": name, "input": "x"})
        assert (reply.status_code == 200) is models[name]["embeds"] is (name != "bm25")
    reply = client.post("/v1/embeddings", json={"model": "bm25", "input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_vectors")
    (fingerprint,) = set(models) - {"uae", "dense", "bm25", "base"}
    answer = client.post("/v1/search", json={"query": QUESTION, "k": 3, "system": fingerprint}).json()
    assert (answer["system"], answer["release"]) == ("uae", fingerprint)


def test_an_unknown_system_is_told_which_there_are(serve):
    reply = serve().post("/v1/search", json={"query": QUESTION, "system": "hybrid"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "system")
    assert "this release has uae, dense, bm25, base" in reply.json()["error"]["message"]


def test_bm25s_scores_may_be_the_least_score(serve):
    """They are no cosines: a limit above 1 means something."""
    client = serve()
    ask = {"query": QUESTION, "k": 5, "system": "bm25"}
    everything = client.post("/v1/search", json=ask).json()["results"][0]["passages"]
    least = everything[0]["score"]
    some = client.post("/v1/search", json=ask | {"min_score": least}).json()["results"][0]["passages"]
    assert some == [passage for passage in everything if passage["score"] >= least] != []
