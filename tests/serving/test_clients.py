"""LangChain's and Haystack's retrievers against the running application, in a small RAG chain each; and how they are refused."""

import ast
import asyncio
import datetime
import email.utils
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import httpx
import pytest
from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.utils import Secret
from langchain_core.language_models.llms import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from over_http import on_a_port, scripted, service
from pydantic import ValidationError
from starlette.responses import JSONResponse, PlainTextResponse

from deploy.app import create_app
from deploy.config import Config
from uae.serving.clients.haystack import UaeRetriever as HaystackRetriever
from uae.serving.clients.langchain import UaeRetriever as LangChainRetriever
from uae.serving.clients.llama_index import UaeRetriever as LlamaIndexRetriever
from uae.serving.clients.service import SearchService, ServiceError

ROOT = Path(__file__).resolve().parents[2]
KEY = "lodge-key-number-1"
QUESTION = "How is the pump primed?"
PASSAGES = [
    {"doc_id": "a", "title": "Pump", "section": "Start", "text": "The pump is primed by hand.", "metadata": {"year": 2019}},
    {"doc_id": "a", "title": "Pump", "text": "How it is, is how the log of the lodge is.", "metadata": {"year": 2019}},
    {"doc_id": "b", "title": "Notices", "text": "The pump stands still in winter.", "metadata": {"year": 2023}},
    {"doc_id": "b", "title": "Notices", "text": "Ice forms on the fan.", "metadata": {"year": 2023}},
]
ANSWER = {"release": "f00d", "system": "uae", "results": [{"query": "x", "passages": []}], "request_id": "r1"}


def refusal(status: int, message: str = "no room", param: str | None = None, **headers: str) -> JSONResponse:
    body = {"error": {"message": message, "type": "t", "code": "c", "param": param}, "request_id": "r7"}
    return JSONResponse(body, status, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"{KEY}  # the lodge\n")
    with service(folder, PASSAGES, keys_file=folder / "keys") as address:
        yield address


@pytest.fixture
def waits(monkeypatch):
    """The seconds that tenacity would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waited.append))
    return waited


def asked(url: str, **body: Any) -> dict:
    reply = httpx.post(f"{url}/v1/search", json={"query": QUESTION} | body, headers={"X-API-Key": KEY}, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def expected(url: str, **body: Any) -> list[tuple[str, dict]]:
    """What the documents must hold: (text, metadata)."""
    reply = asked(url, **body)
    about = {name: reply[name] for name in ("release", "score_is")}
    return [
        (passage["text"], {name: value for name, value in passage.items() if name != "text"} | about)
        for passage in reply["results"][0]["passages"]
    ]


# ---- LangChain


class EchoLLM(LLM):
    """Answers with the prompt that it was given."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _call(self, prompt: str, stop=None, run_manager=None, **kwargs: Any) -> str:
        return prompt


def test_langchain_documents_are_what_the_service_found(url):
    retriever = LangChainRetriever(url=url, api_key=KEY, k=3)
    documents = retriever.invoke(QUESTION)
    assert [(each.page_content, each.metadata) for each in documents] == expected(url, k=3)
    assert {"passage_id", "doc_id", "source", "title", "section", "start", "end", "score", "release"} <= documents[
        0
    ].metadata.keys()
    assert documents[0].id == "p0"
    assert KEY not in repr(retriever)


def test_langchain_settings_hold_unless_a_call_gives_its_own(url):
    retriever = LangChainRetriever(url=url, api_key=KEY, k=1, filters={"year": {"gte": 2020}}, system="base")
    (document,) = retriever.invoke(QUESTION)
    assert (document.metadata["doc_id"], document.metadata["source"]) == ("b", "b.md")
    assert [(each.page_content, each.metadata) for each in retriever.invoke(QUESTION, k=4, filters={})] == expected(
        url, k=4, system="base"
    )
    best = asked(url, system="base", k=1)["results"][0]["passages"][0]
    (document,) = retriever.invoke(QUESTION, k=4, filters={"doc_id": ["a", "b"]}, min_score=best["score"] - 1e-4)
    assert document.id == best["passage_id"]


@pytest.mark.parametrize(
    "misspelt", [{"filter": {"doc_id": "a"}}, {"min_scores": 0.5}, {"similarity_topk": 3}], ids=lambda given: next(iter(given))
)
def test_a_misspelt_setting_is_refused(url, misspelt):
    """Left aside in silence, it would make a search without its filter."""
    (name,) = misspelt
    with pytest.raises(ValidationError, match=f"{name}\n *Extra inputs are not permitted"):
        LangChainRetriever(url=url, **misspelt)
    unknown = f"unexpected keyword argument '{name}'"
    with pytest.raises(TypeError, match=unknown):
        LangChainRetriever(url=url, api_key=KEY).invoke(QUESTION, **misspelt)
    for made in (HaystackRetriever, LlamaIndexRetriever):
        with pytest.raises(TypeError, match=unknown):
            made(url=url, **misspelt)
    with pytest.raises(TypeError, match=unknown):
        HaystackRetriever(url=url, api_key=Secret.from_token(KEY)).run(QUESTION, **misspelt)


def test_langchains_own_settings_are_kept(url):
    named = LangChainRetriever(url=url, api_key=KEY, k=1, name="lodge", tags=["a"], metadata={"team": "b"})
    assert len(named.with_config(tags=["c"]).invoke(QUESTION)) == 1
    assert (named.model_copy(update={"k": 2}).k, named.get_name(), named.tags) == (2, "lodge", ["a"])


def test_half_of_an_emoji_in_a_question_is_asked_as_the_library_reads_it(url):
    found = SearchService(url, KEY, 30, 1).search(f"{QUESTION} \ud83d", 1, None, None, "uae")
    assert found.passages == asked(url, query=f"{QUESTION} \ufffd", k=1)["results"][0]["passages"]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_langchain_rag_chain(url, mode):
    retriever = LangChainRetriever(url=url, api_key=KEY, k=2)
    context = retriever | (lambda documents: "\n".join(each.page_content for each in documents))
    prompt = PromptTemplate.from_template("Use only this:\n{context}\nQuestion: {question}")
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | EchoLLM() | StrOutputParser()
    answer = chain.invoke(QUESTION) if mode == "invoke" else asyncio.run(chain.ainvoke(QUESTION))
    first, second = (text for text, _ in expected(url, k=2))
    assert answer == f"Use only this:\n{first}\n{second}\nQuestion: {QUESTION}"


def test_langchain_many_questions_at_once_and_in_several_loops(url):
    retriever = LangChainRetriever(url=url, api_key=KEY, k=1)
    questions = [QUESTION, "What forms on the fan?"] * 8
    together = [[each.id for each in found] for found in retriever.batch(questions)]
    assert together == [["p0"], ["p3"]] * 8
    for _ in range(2):
        found = asyncio.run(retriever.abatch(questions))
        assert [[each.id for each in documents] for documents in found] == together


# ---- Haystack


@component
class Echo:
    """Answers with the prompt that it was given."""

    @component.output_types(reply=str)
    def run(self, prompt: str) -> dict[str, str]:
        return {"reply": prompt}


def rag(retriever: HaystackRetriever) -> Pipeline:
    template = "Use only this:\n{% for each in documents %}{{ each.content }}\n{% endfor %}Question: {{ question }}"
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    pipeline.add_component("prompt", PromptBuilder(template, required_variables="*"))
    pipeline.add_component("llm", Echo())
    pipeline.connect("retriever.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "llm.prompt")
    return pipeline


def test_haystack_documents_are_what_the_service_found(url):
    retriever = HaystackRetriever(url, Secret.from_token(KEY), top_k=3)
    documents = retriever.run(QUESTION)["documents"]
    assert all(isinstance(each, Document) for each in documents)
    assert [(each.content, each.meta) for each in documents] == expected(url, k=3)
    assert [each.score for each in documents] == [meta["score"] for _, meta in expected(url, k=3)]
    assert asyncio.run(retriever.run_async(QUESTION))["documents"] == documents
    (document,) = retriever.run(QUESTION, top_k=1, filters={"source": "b.md"})["documents"]
    assert (document.meta["doc_id"], document.meta["source"]) == ("b", "b.md")
    assert retriever.run(QUESTION, min_score=0.9999)["documents"] == []


@pytest.mark.parametrize("mode", ["run", "run_async"])
def test_haystack_rag_pipeline_saved_and_loaded(url, mode, monkeypatch):
    saved = rag(HaystackRetriever(url, Secret.from_env_var("LODGE_KEY"), top_k=2, filters={"year": 2019})).dumps()
    assert KEY not in saved
    pipeline = Pipeline.loads(saved, allowed_modules=["uae", __name__])  # where the key is not known yet
    monkeypatch.setenv("LODGE_KEY", KEY)
    inputs = {"retriever": {"query": QUESTION}, "prompt": {"question": QUESTION}}
    result = pipeline.run(inputs) if mode == "run" else asyncio.run(pipeline.run_async(inputs))
    first, second = (text for text, _ in expected(url, k=2, filters={"year": 2019}))
    assert result["llm"]["reply"] == f"Use only this:\n{first}\n{second}\nQuestion: {QUESTION}"
    pipeline.close()


def test_haystack_settings_survive_saving(url):
    settings = {
        "url": url, "api_key": Secret.from_env_var("LODGE_KEY"), "top_k": 7, "filters": {"type": "some.module.Name"},
        "min_score": 0.25, "system": "base", "timeout": 3.5, "attempts": 2,
    }  # fmt: skip
    retriever = HaystackRetriever(**settings)
    loaded = HaystackRetriever.from_dict(retriever.to_dict())
    assert {name: getattr(loaded, name) for name in settings} == settings
    with pytest.raises(ValueError, match=r"[Cc]annot serialize token"):
        HaystackRetriever(url, Secret.from_token(KEY)).to_dict()


def test_haystack_retriever_goes_on_after_it_was_closed(url):
    retriever = HaystackRetriever(url, Secret.from_token(KEY), top_k=1)

    async def ask_twice() -> list[str]:
        found = []
        for _ in range(2):
            found += (await retriever.run_async(QUESTION))["documents"]
            await retriever.close_async()
        return [each.id for each in found]

    assert asyncio.run(ask_twice()) == ["p0", "p0"]


# ---- refusals


def test_what_the_service_refuses_is_said_with_its_reason(url):
    with pytest.raises(ServiceError, match="answered 401: a valid API key is needed") as refused:
        LangChainRetriever(url=url, api_key="wrong").invoke(QUESTION)
    assert refused.value.status == 401
    with pytest.raises(ServiceError, match=r"answered 422: k: .*\(k\) \[request "):
        LangChainRetriever(url=url, api_key=KEY, k=10**6).invoke(QUESTION)
    with pytest.raises(ServiceError, match="answered 422"):
        HaystackRetriever(url, Secret.from_token(KEY), filters={"year": {"gte": "x", "than": 1}}).run(QUESTION)


def test_busy_service_is_asked_again_when_it_says(waits):
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20)
    app, seen = scripted(
        refusal(429, Retry_After="7"),
        refusal(503, Retry_After=email.utils.format_datetime(then, usegmt=True)),
        refusal(503),
        JSONResponse(ANSWER),
    )
    with on_a_port(app) as url:
        assert SearchService(url, KEY, 30, 4).search("x", 5, None, None, "uae")[:2] == ("f00d", [])
    assert 7 <= waits[0] <= 10.5
    assert 0 < waits[1] <= 30
    assert 0 <= waits[2] <= 10
    assert [headers["authorization"] for headers in seen] == [f"Bearer {KEY}"] * 4


def test_busy_service_is_asked_again_without_holding_up_the_loop():
    app, seen = scripted(refusal(429, Retry_After="0"), refusal(503, Retry_After="0"), JSONResponse(ANSWER))
    with on_a_port(app) as url:
        assert asyncio.run(SearchService(url, None, 30, 3).search_async("x", 5, None, None, "uae"))[:2] == ("f00d", [])
    assert len(seen) == 3
    assert "authorization" not in seen[0]


def test_attempts_are_numbered(waits):
    app, seen = scripted(*[refusal(503, "no release is loaded yet", Retry_After="5")] * 3)
    reason = r"answered 503: no release is loaded yet \[request r7\]"
    with on_a_port(app) as url, pytest.raises(ServiceError, match=reason) as refused:
        SearchService(url, None, 30, 3).search("x", 5, None, None, "uae")
    assert (len(seen), len(waits), refused.value.retry_after) == (3, 2, 5)


def test_clients_that_are_refused_together_do_not_come_back_together(waits):
    app, _ = scripted(*[refusal(503, Retry_After="8")] * 20)
    with on_a_port(app) as url, pytest.raises(ServiceError):
        SearchService(url, None, 30, 20).search("x", 5, None, None, "uae")
    assert all(8 <= wait <= 12 for wait in waits)
    assert max(waits) - min(waits) > 1
    assert len(set(waits)) == len(waits) == 19


@pytest.mark.parametrize("response", [refusal(422, param="k"), refusal(500), refusal(503, Retry_After="3600")])
def test_what_waiting_does_not_mend_is_not_asked_again(waits, response):
    app, seen = scripted(response)
    with on_a_port(app) as url, pytest.raises(ServiceError, match="no room") as refused:
        SearchService(url, None, 30, 4).search("x", 5, None, None, "uae")
    assert (len(seen), waits, refused.value.status) == (1, [], response.status_code)


@pytest.mark.parametrize("answer", [PlainTextResponse("<h1>Welcome</h1>"), JSONResponse({"results": []}), JSONResponse([1])])
def test_another_service_at_that_address(answer):
    app, seen = scripted(answer)
    with on_a_port(app) as url, pytest.raises(ServiceError, match="not as this service does"):
        SearchService(url, None, 30, 4).search("x", 5, None, None, "uae")
    assert len(seen) == 1


def test_proxy_that_answers_in_its_own_way():
    app, _ = scripted(PlainTextResponse("upstream gone", 502))
    with on_a_port(app) as url, pytest.raises(ServiceError, match="answered 502: upstream gone"):
        SearchService(url, None, 30, 4).search("x", 5, None, None, "uae")


def test_slow_service_gets_no_second_copy(waits):
    released = asyncio.Event()

    async def never(scope, receive, send):
        await asyncio.wait_for(released.wait(), 1)

    app, seen = scripted(never, never)
    with on_a_port(app) as url:
        with pytest.raises(ServiceError, match=r"did not answer within 0\.2 s"):
            SearchService(url, None, 0.2, 4).search("x", 5, None, None, "uae")
        with pytest.raises(ServiceError, match=r"did not answer within 0\.2 s"):
            asyncio.run(SearchService(url, None, 0.2, 1).search_async("x", 5, None, None, "uae"))
    assert (len(seen), waits) == (2, [])


def test_nobody_there(waits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"could not be asked: .*Is the service running there\?") as refused:
            LangChainRetriever(url=url, attempts=3).invoke(QUESTION)
    assert refused.value.status is None
    assert len(waits) == 2


def test_an_address_that_is_none():
    with pytest.raises(ValueError, match="write it as http://host:port"):
        SearchService("localhost:3000", None, 30, 4)
    with pytest.raises(ValueError, match="top_k"):
        HaystackRetriever("http://localhost:3000", top_k=0)


def test_nothing_else_of_the_project_needs_the_extra():
    clients = ROOT / "uae" / "serving" / "clients"
    for file in [*(ROOT / "uae").rglob("*.py"), *(ROOT / "deploy").rglob("*.py")]:
        if file.parent == clients:
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & {"langchain_core", "haystack", "llama_index"}, file
        assert not [name for name in names if name.startswith("uae.serving.clients")], file


def test_all_over_a_real_release(release):
    with on_a_port(create_app(Config(release=release, device="cpu"))) as url:
        reply = httpx.post(f"{url}/v1/search", json={"query": QUESTION, "k": 3}, timeout=30).json()
        found = [(passage["text"], passage["score"], reply["release"]) for passage in reply["results"][0]["passages"]]
        documents = LangChainRetriever(url=url, k=3).invoke(QUESTION)
        assert [(each.page_content, each.metadata["score"], each.metadata["release"]) for each in documents] == found
        documents = HaystackRetriever(url, top_k=3).run(QUESTION)["documents"]
        assert [(each.content, each.score, each.meta["release"]) for each in documents] == found
        nodes = LlamaIndexRetriever(url, similarity_top_k=3).retrieve(QUESTION)
        assert [(each.text, each.score, each.metadata["release"]) for each in nodes] == found
        assert len(found) == 3
