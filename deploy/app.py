"""The HTTP application: routes, in front of them the layers, behind them the switch with the release that is served."""

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from deploy.auth import ApiKeys, RequireKey
from deploy.config import Config
from deploy.limits import Limits, Load
from deploy.logs import Call, Outermost, open_log
from deploy.metrics import Metrics
from deploy.schemas import (
    ApiError,
    EmbeddingsResponse,
    ErrorResponse,
    ModelsResponse,
    ReleaseResponse,
    SearchResponse,
    parse,
    request_models,
)
from uae import __version__
from uae.errors import InputError
from uae.index.release import Release
from uae.serving.batching import MicroBatcher, QueueFull
from uae.serving.releases import ReleaseStore, read_origin
from uae.serving.switch import NotReady, Served, Switch

PAGE = Path(__file__).resolve().parent / "page"
_TITLE = "Utility-aligned retrieval"
# Tokenising so many characters on the event loop takes less time than handing them to a thread.
_INLINE_CHARACTERS = 4000
_ERRORS = {
    400: "The body is not JSON, or asks for what this model cannot do",
    401: "No valid API key",
    404: "There is no such model",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json, or is compressed",
    422: "A field is missing, unknown or out of its limits",
    429: "The queue is full: try again after Retry-After seconds",
    503: "No release is loaded yet, or the answer took too long",
}
# Swagger UI lies inside BentoML; its initialiser reads /docs.json.
_DOCS = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{_TITLE}: API</title>
<link rel="stylesheet" href="static_content/swagger-ui.css"></head>
<body><p>Machine-readable: <a href="openapi.json">openapi.json</a></p><div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script src="static_content/swagger-ui-standalone-preset.js"></script>
<script src="static_content/swagger-initializer.js"></script></body></html>
"""
T = TypeVar("T")


class Retrieval:
    """What the routes do, apart from HTTP: the switch with the served release, and threads to search it."""

    def __init__(self, config: Config, metrics: Metrics):
        self.config, self.metrics = config, metrics
        self.switch = Switch(self._open, config.drain_seconds)
        self._finding = ThreadPoolExecutor(config.find_threads, "finding")
        self._loaded_at: dict[str, datetime] = {}

    def _open(self, folder: Path) -> Served:
        config = self.config
        release = Release(folder, config.device, config.threads or None)
        batcher = MicroBatcher(
            release.encode,
            max_texts=config.batch_texts,
            max_tokens=config.batch_tokens,
            padding=config.batch_padding,
            max_waiting=config.queue_texts,
            workers=config.model_workers,
            observe=self.metrics.batch,
        )
        self._loaded_at[release.fingerprint] = datetime.now(UTC)
        return Served(release, batcher, read_origin(folder))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the configured release, and what is activated in the configured store, until the context ends.

        Raises:
            UaeError: the release cannot be served, or the store's active one cannot.
        """
        watching = None
        try:
            if self.config.store:
                store = ReleaseStore(self.config.store)
                if active := await asyncio.to_thread(store.active):
                    await self.switch.to(active.folder)
                watching = asyncio.create_task(self.switch.watch(store, self.config.watch_seconds))
            elif self.config.release:
                await self.switch.to(self.config.release)
            yield
        finally:
            if watching:
                watching.cancel()
            await self.switch.close()
            self._finding.shutdown()

    @contextlib.asynccontextmanager
    async def leased(self, call: Call) -> AsyncIterator[Served]:
        """What is served, for one request.

        Raises:
            ApiError: 503 while nothing is, 429 where the queue is full, 422 where the release knows no such thing.
        """
        try:
            async with self.switch.lease() as served:
                call.release = served.fingerprint
                yield served
        except NotReady:
            raise ApiError(503, "not_ready", "no release is loaded yet", headers={"Retry-After": "5"}) from None
        except QueueFull as error:
            raise ApiError(429, "queue_full", str(error), headers={"Retry-After": str(error.retry_after_s)}) from None

    async def encode(self, served: Served, texts: Sequence[str], kind: str, system: str) -> tuple[np.ndarray, int]:
        """Unit vectors, shape (n, dim), and the number of tokens read."""
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            lengths = served.release.token_lengths(texts, kind)
        else:
            lengths = await self.in_thread(served.release.token_lengths, texts, kind)
        return await served.batcher.encode(texts, lengths, kind, system), sum(lengths)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Like ``asyncio.to_thread``; cancelled, it still waits: what runs in the thread uses the lease."""
        work = asyncio.get_running_loop().run_in_executor(self._finding, function, *arguments)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.cancel():  # it has begun
                await asyncio.wait([work])
            raise

    def loaded_at(self, served: Served) -> datetime:
        return self._loaded_at[served.fingerprint]


def create_app(config: Config, log: Any = None) -> FastAPI:
    """The application. Its lifespan loads the release; ``app.state.retrieval`` is what it serves with.

    Args:
        log: a structlog logger; None: JSON lines on standard output.

    Raises:
        ConfigError: the file of keys cannot be read.
    """
    log = log or open_log()
    metrics = Metrics()
    retrieval = Retrieval(config, metrics)
    requests = request_models(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with retrieval.running():
            yield

    app = FastAPI(title=_TITLE, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.retrieval = retrieval
    secured = []
    if config.keys_file:  # for the document; RequireKey does the asking
        secured = [Depends(HTTPBearer(auto_error=False)), Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]

    def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
        statuses = (*statuses, 401) if config.keys_file else statuses
        return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}

    def post(path: str, response: Any, *statuses: int, summary: str) -> Callable:
        described = {"response_model": response, "responses": errors(*statuses), "summary": summary, "tags": ["v1"]}

        def add(endpoint: Callable) -> Callable:
            route = _BodyRoute(path, endpoint, methods=["POST"], dependencies=secured, **described)
            app.router.routes.append(route)
            return endpoint

        return add

    def get(path: str, response: Any, *statuses: int, summary: str) -> Callable:
        return app.get(
            path, response_model=response, responses=errors(*statuses), summary=summary, dependencies=secured, tags=["v1"]
        )

    @post("/v1/search", SearchResponse, 400, 408, 413, 415, 422, 429, 503, summary="The most useful passages for a question")
    async def search(request: Request, body: requests.search) -> Response:
        queries = [body.query] if isinstance(body.query, str) else body.query
        call: Call = request.scope["uae"]
        call.queries, call.k = len(queries), body.k
        if config.log_queries:
            call.texts = queries
        async with retrieval.leased(call) as served:
            release = served.release
            if body.system not in release.systems:
                raise ApiError(422, "invalid_value", "system: this release holds no base encoder", "system")
            rows = None
            if body.filters:
                filters = {name: _plain(condition) for name, condition in body.filters.items()}
                try:
                    rows = await retrieval.in_thread(release.rows, filters)
                except InputError as error:
                    raise ApiError(422, "invalid_filter", str(error), "filters") from None
            vectors, _ = await retrieval.encode(served, queries, "query", body.system)

            def find() -> bytes:
                found = release.find(vectors, body.k, rows, body.min_score, body.system)
                results = [
                    {"query": query, "passages": [hit._asdict() for hit in hits]}
                    for query, hits in zip(queries, found, strict=True)
                ]
                answer = {"release": release.fingerprint, "system": body.system, "results": results}
                return _rendered(answer | {"request_id": call.request_id})

            return _answer(await retrieval.in_thread(find))

    @post(
        "/v1/embeddings", EmbeddingsResponse, 400, 404, 408, 413, 415, 422, 429, 503,
        summary="Vectors of texts, as OpenAI's clients ask for them",
    )  # fmt: skip
    async def embeddings(request: Request, body: requests.embeddings) -> Response:
        texts = [body.input] if isinstance(body.input, str) else body.input
        call: Call = request.scope["uae"]
        call.queries = len(texts)
        if config.log_queries:
            call.texts = texts
        async with retrieval.leased(call) as served:
            system = _model_names(served).get(body.model)
            if system is None:
                raise ApiError(404, "model_not_found", "there is no such model here: GET /v1/models names them", "model")
            manifest = served.release.manifest
            dimension = (manifest if system == "uae" else manifest["base"])["dimension"]
            if body.dimensions not in (None, dimension):
                message = f"this model's vectors have {dimension} dimensions and are not cut"
                raise ApiError(400, "dimensions", message, "dimensions")
            vectors, tokens = await retrieval.encode(served, texts, body.input_type, system)

        def render() -> bytes:
            if body.encoding_format == "base64":
                rendered = [b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
            else:
                rendered = vectors.tolist()
            data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(rendered)]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return to_json({"object": "list", "data": data, "model": body.model, "usage": usage})

        return _answer(render() if len(texts) == 1 else await retrieval.in_thread(render))

    @get("/v1/release", ReleaseResponse, 503, summary="What is served")
    async def release(request: Request) -> Response:
        async with retrieval.leased(request.scope["uae"]) as served:
            return _answer(to_json(_described(served, retrieval)))

    @get("/v1/models", ModelsResponse, 503, summary="The names that /v1/embeddings takes")
    async def models(request: Request) -> Response:
        async with retrieval.leased(request.scope["uae"]) as served:
            created = int(retrieval.loaded_at(served).timestamp())
            data = [{"id": name, "object": "model", "created": created, "owned_by": "uae"} for name in _model_names(served)]
            return _answer(to_json({"object": "list", "data": data}))

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
    app.router.routes.append(_Unknown())
    app.add_exception_handler(HTTPException, _http_error)

    load = Load()
    metrics.watch(retrieval.switch, lambda: load.running)
    # The last one added is the outermost.
    app.add_middleware(Limits, config, frozenset({"/v1/search", "/v1/embeddings"}), load)
    if config.keys_file:
        app.add_middleware(RequireKey, ApiKeys(config.keys_file), metrics, config.metrics_open)
    app.add_middleware(Outermost, log, metrics)
    return app


class _BodyRoute(APIRoute):
    """A route whose endpoint takes (request, body). FastAPI documents it; the body is parsed once, by the model itself."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
        model, endpoint = self.body_field.field_info.annotation, self.endpoint

        async def handle(request: Request) -> Response:
            return await endpoint(request, parse(model, await request.body()))

        return handle


class _Unknown(BaseRoute):
    """Stands last, and answers what nothing else matches with 404, in our shape.

    It matches in part only: a known path with another method comes first, and so do BentoML's own routes, where it is asked
    before them.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.PARTIAL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(404)


async def _http_error(request: Request, error: HTTPException) -> Response:
    known = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "this path takes another method")}
    code, message = known.get(error.status_code, ("http_error", "the request cannot be answered"))
    call: Call = request.scope["uae"]
    call.code = code
    body = ApiError(error.status_code, code, message).body(call.request_id)
    return Response(body, error.status_code, error.headers, "application/json")


def _answer(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _rendered(value: Any) -> bytes:
    try:
        return to_json(value)
    except PydanticSerializationError:  # metadata may hold half a surrogate pair, written as an escape; so may the answer
        return json.dumps(value).encode()


def _plain(condition: Any) -> Any:
    return condition.model_dump(exclude_none=True) if isinstance(condition, BaseModel) else condition


def _model_names(served: Served) -> dict[str, str]:
    """What ``model`` may be in /v1/embeddings, and the system each name stands for."""
    names = {system: system for system in served.release.systems}
    names[served.fingerprint] = "uae"
    if name := (served.origin or {}).get("model"):
        names.setdefault(name, "uae")
    return names


def _described(served: Served, retrieval: Retrieval) -> dict[str, Any]:
    manifest, origin = served.release.manifest, served.origin or {}
    return {
        "fingerprint": served.fingerprint,
        "model": origin.get("model"),
        "version": None if origin.get("version") is None else str(origin["version"]),
        "promoted_at": origin.get("promoted_at"),
        "metrics": origin.get("metrics"),
        "data_hash": manifest.get("passage_texts"),
        "passages": manifest["passages"],
        "dimension": served.release.dimension,
        "max_tokens": manifest["max_tokens"],
        "backend": manifest["serving"]["backend"],
        "systems": served.release.systems,
        "loaded_at": retrieval.loaded_at(served).isoformat(timespec="seconds"),
        "loading": retrieval.switch.loading is not None,
    }
