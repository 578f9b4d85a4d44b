"""The MCP tool, asked by the official SDK's client over HTTP."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from over_http import service

import deploy.auth

KEY = "lodge-key-number-1"
QUESTION = "How is the pump primed?"
PASSAGES = [
    {"doc_id": "a", "title": "Pump", "section": "Start", "text": "The pump is primed by hand.", "metadata": {"year": 2019}},
    {"doc_id": "b", "title": "Notices", "text": "The pump stands still in winter.", "metadata": {"year": 2023}},
    {"doc_id": "b", "title": "Notices", "text": "Ice forms on the fan.", "metadata": {"year": 2023}},
]
# What a client of each era of the protocol sends: with a handshake, and without.
ERAS = ["legacy", "2026-07-28"]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"{KEY}\n")
    with service(folder, PASSAGES, keys_file=folder / "keys") as address:
        yield address


@contextlib.asynccontextmanager
async def connected(url: str, key: str | None = KEY, mode: str = "auto"):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def call(url: str, mode: str = "auto", tool: str = "search", **arguments: Any) -> Any:
    async def run():
        async with connected(url, mode=mode) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(run())


def found(url: str, **body: Any) -> dict:
    reply = httpx.post(f"{url}/v1/search", json={"query": QUESTION} | body, headers={"X-API-Key": KEY}, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("mode", ERAS)
def test_the_tool_finds_what_the_api_finds(url, mode):
    result = call(url, mode, query=QUESTION, k=2, filters={"year": {"lte": 2023}})
    assert not result.is_error
    reply = found(url, k=2, filters={"year": {"lte": 2023}})
    names = ("source", "title", "section", "text", "score")
    expected = [{name: each[name] for name in names} for each in reply["results"][0]["passages"]]
    assert result.structured_content["release"] == reply["release"]
    assert result.structured_content["passages"] == expected
    (text,) = result.content
    assert json.loads(text.text) == result.structured_content


def test_an_agent_is_told_what_the_tool_takes_and_gives(url):
    async def run():
        async with connected(url) as client:
            return await client.list_tools()

    (tool,) = asyncio.run(run()).tools
    assert (tool.name, tool.annotations.read_only_hint) == ("search", True)
    assert tool.input_schema["required"] == ["query"]
    assert set(tool.input_schema["properties"]) == {"query", "k", "filters", "min_score", "system"}
    assert tool.input_schema["additionalProperties"] is False
    (passage,) = [each for each in tool.output_schema["$defs"].values() if "source" in each["properties"]]
    assert set(passage["properties"]) == {"source", "title", "section", "text", "score"}
    assert "score_is" in passage["properties"]["score"]["description"]  # what a score is depends on the system
    assert "uae_reranked the whole with a second stage" in json.dumps(tool.input_schema["properties"]["system"])


def test_a_small_agent_answers_with_what_the_tool_found(url):
    """A usual agent loop: list the tools, choose one, call it with what its schema asks for, answer with its text."""

    async def agent(question: str) -> str:
        async with connected(url) as client:
            (tool,) = (await client.list_tools()).tools
            (argument,) = tool.input_schema["required"]
            result = await client.call_tool(tool.name, {argument: question, "k": 1})
            (passage,) = json.loads(result.content[0].text)["passages"]
            return f"{passage['text']} [{passage['source']}]"

    assert asyncio.run(agent(QUESTION)) == "The pump is primed by hand. [a.md]"


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"query": QUESTION, "k": 1000}, "k: Input should be less than or equal to 100"),
        ({"query": ""}, "query: String should have at least 1 character"),
        ({"query": "x" * 5000}, "query: String should have at most 4000 characters"),
        ({"query": [QUESTION]}, "query: Input should be a valid string"),
        ({}, "query: Field required"),
        ({"query": QUESTION, "filter": {"year": 2019}}, "filter: Extra inputs are not permitted"),
        ({"query": QUESTION, "filters": {"year": [[1]]}}, "filters: a list holds strings"),
        (
            {"query": QUESTION, "filters": {str(n): 1 for n in range(9)}},
            "filters: 9 were given, and 8 are the most in one request",
        ),
    ],
)
def test_what_is_wrong_with_a_call_is_told_to_the_model(url, mode, arguments, reason):
    result = call(url, mode, **arguments)
    assert result.is_error
    assert result.content[0].text.startswith(reason)
    assert not call(url, mode, query=QUESTION).is_error


def test_a_tool_that_is_not_there(url):
    result = call(url, tool="delete")
    assert result.is_error
    assert "search is the only one" in result.content[0].text


def test_it_is_behind_the_same_keys(url, monkeypatch):
    monkeypatch.setattr(deploy.auth, "_CHECK_EVERY_S", -1.0)
    for path, status in (("/mcp", 401), ("/mcp/", 401), ("/mcp/x", 401), ("/mcp%0a", 404)):
        assert httpx.post(f"{url}{path}", json={}, timeout=30).status_code == status
    assert httpx.post(f"{url}/mcp", json={}, timeout=30).json()["error"]["code"] == "invalid_api_key"

    async def wrong_key():
        async with connected(url, "another-key-for-tests"):
            pass

    with pytest.raises(Exception, match=r"401|Unauthorized|unhandled errors") as refused:
        asyncio.run(wrong_key())
    assert "primed" not in str(refused.value)
