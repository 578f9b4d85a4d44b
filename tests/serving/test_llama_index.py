"""LlamaIndex's retriever against the running application, in a small RAG chain; and what all three clients have in common."""

import asyncio
import copy
import importlib
import pickle
import sys
from typing import Any

import httpx
import pytest
from haystack.utils import Secret
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode
from over_http import service

from uae.serving.clients.haystack import UaeRetriever as HaystackRetriever
from uae.serving.clients.langchain import UaeRetriever as LangChainRetriever
from uae.serving.clients.llama_index import UaeRetriever as LlamaIndexRetriever
from uae.serving.clients.service import SearchService, ServiceError

KEY = "lodge-key-number-1"
QUESTION = "How is the pump primed?"
PASSAGES = [
    {"doc_id": "a", "title": "Pump", "section": "Start", "text": "The pump is primed by hand.", "metadata": {"year": 2019}},
    {"doc_id": "b", "title": "Notices", "text": "The pump stands still in winter.", "metadata": {"year": 2023}},
    {"doc_id": "b", "title": "Notices", "text": "Ice forms on the fan.", "metadata": {"year": 2023}},
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"{KEY}\n")
    with service(folder, PASSAGES, keys_file=folder / "keys") as address:
        yield address


class EchoLLM(CustomLLM):
    """Answers with the prompt that it was given."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="echo")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_nodes_are_what_the_service_found(url):
    retriever = LlamaIndexRetriever(url, KEY, similarity_top_k=2, filters={"year": {"gte": 2019}})
    nodes = retriever.retrieve(QUESTION)
    body = {"query": QUESTION, "k": 2}
    reply = httpx.post(f"{url}/v1/search", json=body, headers={"X-API-Key": KEY}, timeout=30).json()
    for node, passage in zip(nodes, reply["results"][0]["passages"], strict=True):
        assert (node.text, node.score, node.node_id) == (passage["text"], passage["score"], passage["passage_id"])
        assert node.node.ref_doc_id == passage["doc_id"]
        about = {name: reply[name] for name in ("release", "score_is")}
        assert node.metadata == {name: passage[name] for name in passage if name not in ("text", "score")} | about
    assert asyncio.run(retriever.aretrieve(QUESTION)) == nodes
    (node,) = LlamaIndexRetriever(url, KEY, similarity_top_k=1, filters={"doc_id": "b"}).retrieve(QUESTION)
    assert node.node.ref_doc_id == "b"
    assert LlamaIndexRetriever(url, KEY, min_score=0.9999).retrieve(QUESTION) == []


def test_a_model_is_shown_the_source_and_no_numbers(url):
    (node,) = LlamaIndexRetriever(url, KEY, similarity_top_k=1).retrieve(QUESTION)
    shown = node.node.get_content(MetadataMode.LLM)
    assert set(shown.splitlines()) == {"source: a.md", "title: Pump", "section: Start", "", "The pump is primed by hand."}


@pytest.mark.parametrize("mode", ["query", "aquery"])
def test_rag_chain(url, mode):
    template = PromptTemplate("Use only this:\n{context_str}\nQuestion: {query_str}")
    synthesizer = get_response_synthesizer(llm=EchoLLM(), text_qa_template=template)
    engine = RetrieverQueryEngine(LlamaIndexRetriever(url, KEY, similarity_top_k=2), synthesizer)
    answer = engine.query(QUESTION) if mode == "query" else asyncio.run(engine.aquery(QUESTION))
    told = str(answer)
    assert told.startswith("Use only this:\n")
    assert told.endswith(f"Question: {QUESTION}")
    assert told.index("The pump is primed by hand.") < told.index("The pump stands still in winter.")
    assert [each.metadata["source"] for each in answer.source_nodes] == ["a.md", "b.md"]


def test_what_the_service_refuses_is_said_with_its_reason(url):
    with pytest.raises(ServiceError, match="answered 401: a valid API key is needed"):
        LlamaIndexRetriever(url, "wrong").retrieve(QUESTION)
    with pytest.raises(ValueError, match="similarity_top_k"):
        LlamaIndexRetriever(url, similarity_top_k=0)


# ---- what all three have in common


def ask(retriever: Any) -> list[str]:
    """The ids of what it finds."""
    if isinstance(retriever, LlamaIndexRetriever):
        return [each.node_id for each in retriever.retrieve(QUESTION)]
    if isinstance(retriever, LangChainRetriever):
        return [each.id for each in retriever.invoke(QUESTION)]
    return [each.id for each in retriever.run(QUESTION)["documents"]]


def made(url: str) -> list[Any]:
    return [
        LlamaIndexRetriever(url, KEY, similarity_top_k=2),
        LangChainRetriever(url=url, api_key=KEY, k=2),
        HaystackRetriever(url, Secret.from_env_var("LODGE_KEY"), top_k=2),
    ]


@pytest.mark.parametrize("number", range(3), ids=["llama_index", "langchain", "haystack"])
@pytest.mark.parametrize("copied", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy, copy.copy])
def test_clients_can_be_copied_and_pickled_before_and_after_use(url, monkeypatch, number, copied):
    monkeypatch.setenv("LODGE_KEY", KEY)
    retriever = made(url)[number]
    assert ask(copied(retriever)) == ["p0", "p1"]
    assert ask(retriever) == ["p0", "p1"]
    again = copied(retriever)  # with connections open
    assert ask(again) == ask(retriever) == ["p0", "p1"]


@pytest.mark.parametrize("number", range(3), ids=["llama_index", "langchain", "haystack"])
@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "//", "/v1/search"])
def test_an_address_is_taken_with_and_without_its_version(url, monkeypatch, number, end):
    monkeypatch.setenv("LODGE_KEY", KEY)
    assert ask(made(url + end)[number]) == ["p0", "p1"]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:3000", "http://h:3000"),
        (" https://h/v1 ", "https://h"),
        ("http://h/behind/v1/", "http://h/behind"),
        ("http://h/behind", "http://h/behind"),
        ("http://h/v12", "http://h/v12"),
    ],
)
def test_a_path_before_the_version_stays(given, used):
    assert SearchService(given, None, 30, 1).url == used


@pytest.mark.parametrize("given", ["localhost:3000", "http://", "ftp://h", "http://h/v1?x=1", "http://h#x", "", "http://h:port"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ValueError, match="write it as http://host:port"):
        SearchService(given, None, 30, 1)


def test_a_password_in_the_address_is_in_no_message():
    with pytest.raises(ServiceError) as refused:
        SearchService("http://me:hunter2@127.0.0.1:1", None, 1, 1).search("x", 1, None, None, "uae")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "package"),
    [("langchain", "langchain_core"), ("haystack", "haystack"), ("llama_index", "llama_index"), ("service", "tenacity")],
)
def test_a_missing_package_names_the_extra(monkeypatch, module, package):
    name = f"uae.serving.clients.{module}"
    for each in [each for each in sys.modules if each == name or each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.* is not installed: .*extra 'clients'"):
        importlib.import_module(name)
