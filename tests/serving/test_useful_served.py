"""Whether the first passage helps, as the service tells it: in its answers, to clients, to agents and on the page."""

import json

import httpx
import pytest
from over_http import service
from playwright.sync_api import expect
from the_page import ask

from uae.serving.clients.haystack import UaeRetriever as HaystackRetriever
from uae.serving.clients.langchain import UaeRetriever as LangChainRetriever
from uae.serving.clients.llama_index import UaeRetriever as LlamaIndexRetriever

QUESTION = "How is the pump primed?"
PASSAGES = [
    {"doc_id": "a", "title": "Pump", "text": "The pump is primed by hand."},
    {"doc_id": "b", "title": "Notices", "text": "Ice forms on the fan."},
]


def asked(url: str, **body) -> list[dict]:
    return httpx.post(f"{url}/v1/search", json={"query": QUESTION} | body, timeout=30).json()["results"]


@pytest.mark.parametrize(("likely", "useful"), [(0.1234, False), (0.9, True), (None, None)])
def test_each_query_is_told_and_clients_hand_it_on_where_it_is_known(tmp_path, likely, useful):
    with service(tmp_path, PASSAGES, likely=likely) as url:
        results = asked(url, query=[QUESTION, "ice"])
        assert [(each["useful"], each["useful_probability"]) for each in results] == [(useful, likely)] * 2
        assert [each["useful"] for each in asked(url, system="base")] == [None]
        known = {} if likely is None else {"useful": useful, "useful_probability": likely}
        chain = LangChainRetriever(url=url).invoke(QUESTION)[0].metadata
        hay = HaystackRetriever(url=url).run(QUESTION)["documents"][0].meta
        llama = LlamaIndexRetriever(url=url).retrieve(QUESTION)[0].node.metadata
        for metadata in (chain, hay, llama):
            assert {name: metadata[name] for name in metadata if name.startswith("useful")} == known
            assert "release" in metadata


def test_an_agent_is_told(tmp_path):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {"query": QUESTION}}}
    headers = {"Accept": "application/json, text/event-stream"}
    with service(tmp_path, PASSAGES, likely=0.25) as url:
        result = httpx.post(f"{url}/mcp", json=body, headers=headers, timeout=30).json()["result"]
    assert result["structuredContent"] | {"useful": False, "useful_probability": 0.25} == result["structuredContent"]
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


def test_the_document_has_both(tmp_path):
    with service(tmp_path, PASSAGES) as url:
        schema = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]["QueryResult"]
    assert {"useful", "useful_probability"} <= set(schema["properties"])


@pytest.mark.parametrize(("likely", "doubted"), [(0.1234, True), (0.9, False), (None, False)])
def test_the_page_says_where_probably_nothing_helps(page, tmp_path, likely, doubted):
    with service(tmp_path, PASSAGES, likely=likely) as url:
        page.goto(url)
        ask(page, QUESTION)
        status = page.locator("#status")
        expect(status).to_contain_text("2 passages")
        text = "Probably nothing here helps to answer (12 % that the first passage does)."
        (expect(status).to_contain_text if doubted else expect(status).not_to_contain_text)(text if doubted else "Probably")
