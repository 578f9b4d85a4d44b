"""What OpenAI's own client and LangChain send, as they send it: null fields, fields of theirs, long lists."""

import base64
import json
import threading

import httpx
import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from uae.release.open import Release

QUESTION = "Where are the keys?"


@pytest.fixture(scope="module")
def url(live):
    return live()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def opened(release):
    opened = Release(release, "cpu")
    yield opened
    opened.close()


def test_2048_texts_in_one_request(client, opened):
    texts = [f"{n} pump {'seal ' * (n % 7)}" for n in range(2048)]
    reply = client.embeddings.create(model="uae", input=texts)
    assert [each.index for each in reply.data] == list(range(2048))
    for place in (0, 1, 1023, 2047):  # each in its place, whatever the order of encoding
        assert reply.data[place].embedding == pytest.approx(opened.encode([texts[place]], "query")[0], abs=1e-5)
    assert reply.usage.total_tokens == sum(opened.token_lengths(texts, "query"))


def test_2048_texts_of_a_passage_each_are_let_in(client):
    texts = [f"{n} " + "the pump is primed by hand " * 40 for n in range(2048)]  # 2.2 MB
    assert len(client.embeddings.create(model="uae", input=texts, encoding_format="float").data) == 2048


def test_a_longer_list_is_refused_with_the_true_limit(client, url):
    with pytest.raises(openai.UnprocessableEntityError, match="input: 2049 were given, and 2048 are the most in one request"):
        client.embeddings.create(model="uae", input=["x"] * 2049)
    for many in (65, 300, 50_000):
        reply = httpx.post(f"{url}/v1/search", json={"query": ["x"] * many}, timeout=30)
        assert reply.json()["error"]["message"] == f"query: {many} were given, and 64 are the most in one request"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_both_encodings_hold_the_same_vectors(client, opened, encoding):
    reply = client.embeddings.create(model="uae", input=[QUESTION], encoding_format=encoding)
    vector = reply.data[0].embedding
    if isinstance(vector, str):  # the client leaves base64 as it came where it was asked for by name
        vector = np.frombuffer(base64.b64decode(vector), "<f4")
    assert vector == pytest.approx(opened.encode([QUESTION], "query")[0], abs=1e-5)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_arrays_are_refused_with_what_to_do(client, tokens):
    with pytest.raises(openai.BadRequestError, match=r"send text .*check_embedding_ctx_length=False") as refused:
        client.embeddings.create(model="uae", input=tokens)
    assert refused.value.code == "token_array"


def test_fields_of_other_services_are_left_out_and_named(client):
    extra = {"metadata": {"a": [1, {}]}, "truncate_prompt_tokens": 256, "dimensions": None, "input_type": None}
    raw = client.embeddings.with_raw_response.create(model="uae", input="x", user="u1", extra_body=extra)
    assert raw.headers["x-ignored-fields"] == "user, metadata, truncate_prompt_tokens"
    assert len(raw.parse().data) == 1
    plain = client.embeddings.with_raw_response.create(model="uae", input="x")
    assert "x-ignored-fields" not in plain.headers


def ask(url: str, path: str, **body) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, timeout=30)


def test_null_is_the_default_of_every_optional_field(url):
    document = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]
    for path, name, needed in (
        ("/v1/search", "SearchRequest", {"query": QUESTION}),
        ("/v1/embeddings", "EmbeddingsRequest", {"input": QUESTION, "model": "uae"}),
    ):
        optional = set(document[name]["properties"]) - set(document[name]["required"])
        assert len(optional) >= 3
        plain = ask(url, path, **needed).json()
        for nulls in ([each] for each in optional), [optional]:
            for fields in nulls:
                found = ask(url, path, **needed, **dict.fromkeys(fields)).json()
                assert {**found, "request_id": 0} == {**plain, "request_id": 0}
        for field in needed:
            reply = ask(url, path, **needed | {field: None})
            assert (reply.status_code, reply.json()["error"]["param"]) == (422, field)


def test_a_field_that_is_nearly_ours_is_refused(url):
    for field, meant in (("filter", "filters"), ("Query", "query"), ("min-score", "min_score"), ("minScore", "min_score")):
        reply = ask(url, "/v1/search", query=QUESTION, **{field: {"year": 2019}})
        assert reply.status_code == 422
        assert reply.json()["error"]["message"] == f"{field}: there is no such field; did you mean {meant}?"
        assert reply.json()["error"]["param"] == field


def test_names_that_could_do_harm_in_a_header_are_only_counted(url):
    fields = {"a\r\nSet-Cookie: x=1": 1, "é": 1, "x" * 65: 1, "ok": 1, "": 1}
    reply = ask(url, "/v1/search", query=QUESTION, **fields)
    assert reply.headers["x-ignored-fields"] == "ok, and 4 more"
    assert "set-cookie" not in reply.headers
    reply = ask(url, "/v1/search", query=QUESTION, **{f"f{n}": n for n in range(40)})
    assert reply.headers["x-ignored-fields"].endswith("f15, and 24 more")
    reply = ask(url, "/v1/search", query=QUESTION, **{f"f{n}": n for n in range(64)})
    assert reply.json()["error"]["message"] == "the body holds 65 fields, and 64 are the most"


def test_a_long_request_has_time_for_each_of_its_batches_and_others_get_their_turn(live, monkeypatch):
    encode, go = Release.encode, threading.Event()

    def slow(self, texts, *arguments):
        if go.is_set() and len(texts) == 4:
            threading.Event().wait(0.1)  # four of them take longer than the limit for one
        return encode(self, texts, *arguments)

    monkeypatch.setattr(Release, "encode", slow)
    url = live(request_seconds=0.35, batch_texts=4)
    go.set()
    statuses = []
    asking = threading.Thread(
        target=lambda: statuses.append(ask(url, "/v1/embeddings", model="uae", input=[f"{n}" for n in range(32)]).status_code)
    )
    asking.start()
    assert ask(url, "/v1/search", query=QUESTION).status_code == 200
    asking.join(30)
    assert statuses == [200]
    assert ask(url, "/v1/embeddings", model="uae", input=["x"]).status_code == 200


class Served(Embeddings):
    """LangChain's interface over OpenAI's client, as langchain-openai has it with ``check_embedding_ctx_length=False``."""

    def __init__(self, client: openai.OpenAI):
        self.client = client

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        reply = self.client.embeddings.create(model="uae", input=texts, extra_body={"input_type": "document"})
        return [each.embedding for each in reply.data]

    def embed_query(self, text: str) -> list[float]:
        return self.client.embeddings.create(model="uae", input=text).data[0].embedding


def test_langchains_vector_store_over_the_service(client, opened):
    texts = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan."]
    store = InMemoryVectorStore(Served(client))
    store.add_texts(texts)
    found = store.similarity_search_with_score(QUESTION, k=3)
    scores = opened.encode(texts, "document") @ opened.encode([QUESTION], "query")[0]
    assert [score for _, score in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
    assert json.dumps([each.page_content for each, _ in found]) == json.dumps([texts[n] for n in np.argsort(-scores)])
