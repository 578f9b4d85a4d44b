"""The HTTP application: the API's routes, the MCP tool, the page, and in front of them the layers."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from deploy.auth import ApiKeys, RequireKey
from deploy.config import Config
from deploy.limits import Limits
from deploy.logs import Call, Outermost, open_log
from deploy.mcp_tool import PATH as MCP
from deploy.mcp_tool import McpTool
from deploy.metrics import Metrics
from deploy.requests import request_models
from deploy.retrieval import Retrieval
from deploy.routes import V1
from deploy.schemas import ApiError
from deploy.sending import Load, PacedSending
from deploy.unambiguous import Unambiguous
from uae import __version__

PAGE = Path(__file__).resolve().parent / "page"
_TITLE = "Utility-aligned retrieval"
# Swagger UI lies inside BentoML; its initialiser reads /docs.json.
_DOCS = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{_TITLE}: API</title>
<link rel="stylesheet" href="static_content/swagger-ui.css"></head>
<body><p>Machine-readable: <a href="openapi.json">openapi.json</a></p><div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script src="static_content/swagger-ui-standalone-preset.js"></script>
<script src="static_content/swagger-initializer.js"></script></body></html>
"""


def create_app(config: Config, log: Any = None) -> FastAPI:
    """The application. Its lifespan loads the release; ``app.state.retrieval`` is what it serves with.

    Args:
        log: a structlog logger; None: JSON lines on standard output.

    Raises:
        ConfigError: the file of keys cannot be read, or holds one that is too short.
    """
    log = log or open_log()
    metrics, load = Metrics(), Load()
    retrieval = Retrieval(config, metrics)
    metrics.watch(retrieval.switch, lambda: load.running, lambda: retrieval.finding.waiting, lambda: load.unsent)

    requests = request_models(config)
    tool = McpTool(config, retrieval, requests.tool)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with retrieval.running(), tool.running():
            yield

    app = FastAPI(title=_TITLE, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.retrieval = retrieval
    app.include_router(V1(config, retrieval, requests).router)
    app.router.routes.append(Route(MCP, tool, methods=["POST"], include_in_schema=False))
    _add_pages(app, metrics)
    app.router.routes.append(_Unknown())
    app.add_exception_handler(HTTPException, _http_error)
    # The last one added is the outermost.
    app.add_middleware(Limits, config, frozenset({"/v1/search", "/v1/embeddings", MCP}), load)
    if config.keys_file:
        app.add_middleware(RequireKey, ApiKeys(config.keys_file), metrics, config.metrics_open)
    else:
        log.warning("there are no API keys: everybody who reaches this service may ask; UAE_KEYS_FILE names a file of keys")
    app.add_middleware(Unambiguous)
    app.add_middleware(Outermost, log, metrics)
    app.add_middleware(PacedSending, config, load)
    return app


def _add_pages(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_DOCS)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")


class _Unknown(BaseRoute):
    """Stands last. It answers what no other route matches with 404, in the shape of our errors.

    It matches in part only. So a known path with another method comes first, and so do BentoML's own routes.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.PARTIAL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(404)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "this path takes another method")}
    code, message = known.get(error.status_code, ("http_error", "the request cannot be answered"))
    call: Call = request.scope["uae"]
    call.code = code
    body = ApiError(error.status_code, code, message).body(call.request_id)
    return Response(body, error.status_code, error.headers, "application/json")
