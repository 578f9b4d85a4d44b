"""The MCP tool ``search``, for agents: the official SDK's server over streamable HTTP, at ``/mcp``.

It keeps no sessions: each POST is one message and gets one JSON answer. So there is nothing to limit but the request itself, and
the layers in front of ``/v1`` (keys, sizes, times) do that here too.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.config import Config
from deploy.logs import Call
from deploy.requests import SearchRequest, validated
from deploy.retrieval import Found, Retrieval
from deploy.schemas import ApiError
from uae import __version__

log = logging.getLogger("uae.mcp")
PATH = "/mcp"
_NAME = "search"
_DESCRIPTION = (
    "Search this service's documents. Returns the passages that help most to answer the question, best first, each with its "
    "source, title, section, text and score. Ask a whole question rather than keywords. Cite `source` for what you use."
)


class ToolPassage(BaseModel):
    source: str = Field(description="the document's file or id, as its owner knows it")
    title: str
    section: str
    text: str
    score: float = Field(description="what it is, score_is says")


class ToolResult(BaseModel):
    release: str = Field(description="fingerprint of the one release that all passages come from")
    score_is: str = Field(description="the formula of the scores, such as cosine + 0.4 * bm25 / highest bm25")
    useful: bool | None = Field(description="false: probably none of these passages helps to answer; null: not known")
    useful_probability: float | None = Field(description="that the first passage helps to answer")
    passages: list[ToolPassage] = Field(description="best first")


class McpTool:
    """ASGI: the application at ``/mcp``. ``running`` is its life."""

    def __init__(self, config: Config, retrieval: Retrieval, request: type[SearchRequest]):
        self._config, self._retrieval, self._request = config, retrieval, request
        self._tool = Tool(
            name=_NAME,
            title="Search the documents",
            description=_DESCRIPTION,
            input_schema=request.model_json_schema(),
            output_schema=ToolResult.model_json_schema(),
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        )
        self._server = Server("uae-retriever", version=__version__, on_list_tools=self._list_tools, on_call_tool=self._call_tool)
        self._app: ASGIApp | None = None
        # The SDK's log quotes what it was sent. The service's own has a line for each request, without texts.
        logging.getLogger("mcp").setLevel(logging.CRITICAL)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer until the context ends."""
        manager = StreamableHTTPSessionManager(
            self._server, json_response=True, stateless=True, max_request_body_size=self._config.max_body_bytes
        )
        async with manager.run():
            self._app = StreamableHTTPASGIApp(manager)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_origin(scope)
        assert self._app is not None  # requests come while it runs
        await self._app(scope, receive, send)

    async def _list_tools(self, _: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[self._tool])

    async def _call_tool(self, context: ServerRequestContext[Any, Request], params: CallToolRequestParams) -> CallToolResult:
        assert context.request is not None  # over HTTP there is one
        call: Call = context.request.scope["uae"]
        try:
            if params.name != _NAME:
                raise ApiError(404, "unknown_tool", f"there is no such tool here: {_NAME} is the only one")
            return await self._search(call, params.arguments or {})
        except ApiError as error:  # a result, so that the model reads it and may do better
            call.code = error.code
            return _refused(error.message)
        except Exception:
            call.code = "internal_error"
            log.exception("request %s failed", call.request_id)
            return _refused("the request failed inside the service")

    async def _search(self, call: Call, arguments: dict[str, Any]) -> CallToolResult:
        body = validated(self._request, arguments)
        assert isinstance(body.query, str)
        queries = [body.query]
        call.queries = 1
        if self._config.log_queries:
            call.texts = queries
        return await self._retrieval.search(call, queries, body, _result)


def _refused(reason: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=reason)], is_error=True)


def _result(found: Found) -> CallToolResult:
    (answer,) = found.answers
    passages = [
        ToolPassage(source=hit.source, title=hit.title, section=hit.section, text=hit.text, score=hit.score)
        for hit in answer.hits
    ]
    result = ToolResult(
        release=found.release,
        score_is=found.score_is,
        useful=answer.useful,
        useful_probability=answer.useful_probability,
        passages=passages,
    )
    # The text says the same as the structure: older clients show only text to their model.
    return CallToolResult(
        content=[TextContent(type="text", text=result.model_dump_json())], structured_content=result.model_dump()
    )


def _check_origin(scope: Scope) -> None:
    """MCP asks servers to look at Origin: a browser sends it, and a page of another site has no business here.

    Raises:
        ApiError: 403, where the request comes from a page of another host.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower():
        raise ApiError(403, "origin", "pages of another site may not ask here", headers={"Connection": "close"})
