"""The API, version 1: what is asked, and how the answers look."""

import json
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

from deploy.config import Config
from deploy.logs import Call
from deploy.requests import EmbeddingsRequest, Requests, SearchRequest, ignored_header, parse
from deploy.retrieval import Found, Retrieval, model_names
from deploy.schemas import (
    ApiError,
    EmbeddingsResponse,
    ErrorResponse,
    ModelsResponse,
    ReleaseResponse,
    SearchResponse,
)
from uae.serving.batching import Vectors
from uae.serving.switch import Served

Endpoint = Callable[..., Coroutine[Any, Any, Response]]
_ERRORS = {
    400: "The body is not JSON, or asks for what this model cannot do",
    401: "No valid API key",
    404: "There is no such model",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json, or is compressed",
    422: "A field is missing, out of its limits, or nearly one of the known ones",
    429: "The queue is full: try again after Retry-After seconds",
    503: "No release is loaded yet, the database of vectors does not answer, or the answer took too long",
}


class V1:
    """``router`` has the API's routes, documented with their errors and, where the service asks for keys, with those."""

    def __init__(self, config: Config, retrieval: Retrieval, requests: Requests):
        self._config, self._retrieval = config, retrieval
        self.router = APIRouter(tags=["v1"], route_class=_BodyRoute)
        self._add_search(requests.search)
        self._add_embeddings(requests.embeddings)
        self._add_release()
        self._add_models()

    def _route(self, method: str, path: str, response: Any, *statuses: int, summary: str) -> Callable[[Endpoint], Endpoint]:
        """Decorates the endpoint of a route."""
        secured = []
        if self._config.keys_file:  # for the document; RequireKey does the asking
            secured = [Depends(HTTPBearer(auto_error=False)), Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
            statuses = (*statuses, 401)
        responses: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses
        }
        return self.router.api_route(
            path, methods=[method], response_model=response, responses=responses, summary=summary, dependencies=secured
        )

    def _add_search(self, model: type[SearchRequest]) -> None:
        summary = "The most useful passages for a question"

        async def search(request: Request, body: SearchRequest) -> Response:
            queries = [body.query] if isinstance(body.query, str) else body.query
            call = self._called(request, queries)

            def answer(found: Found) -> bytes:
                return _found(found, queries, call.request_id)

            return _json(await self._retrieval.search(call, queries, body, answer))

        search.__annotations__["body"] = model  # with this service's limits, for FastAPI
        self._route("POST", "/v1/search", SearchResponse, 400, 408, 413, 415, 422, 429, 503, summary=summary)(search)

    def _add_embeddings(self, model: type[EmbeddingsRequest]) -> None:
        summary = "Vectors of texts, as OpenAI's clients ask for them"

        async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
            texts = [body.input] if isinstance(body.input, str) else body.input
            call = self._called(request, texts)
            retrieval = self._retrieval
            async with retrieval.leased(call) as served:
                system = model_names(served).get(body.model)
                if system is None:
                    raise ApiError(404, "model_not_found", "there is no such model here: GET /v1/models names them", "model")
                if not served.release.has_vectors(system):
                    raise ApiError(400, "no_vectors", f"{system} finds words: it has no vectors", "model")
                dimension = served.release.dimension(system)
                if body.dimensions not in (None, dimension):
                    message = f"this model's vectors have {dimension} dimensions and are not cut"
                    raise ApiError(400, "dimensions", message, "dimensions")
                vectors, tokens = await retrieval.encode(call, served, texts, body.input_type, system)

            def answer() -> bytes:
                return _embedded(body.model, vectors, tokens, body.encoding_format)

            return _json(answer() if len(texts) == 1 else await retrieval.finding.run(answer))

        embeddings.__annotations__["body"] = model
        statuses = (400, 404, 408, 413, 415, 422, 429, 503)
        self._route("POST", "/v1/embeddings", EmbeddingsResponse, *statuses, summary=summary)(embeddings)

    def _add_release(self) -> None:
        @self._route("GET", "/v1/release", ReleaseResponse, 503, summary="What is served")
        async def release(request: Request) -> Response:
            async with self._retrieval.leased(request.scope["uae"]) as served:
                return _json(to_json(_described(served, self._retrieval)))

    def _add_models(self) -> None:
        @self._route("GET", "/v1/models", ModelsResponse, 503, summary="The names that /v1/search and /v1/embeddings take")
        async def models(request: Request) -> Response:
            async with self._retrieval.leased(request.scope["uae"]) as served:
                created = int(self._retrieval.loaded_at(served).timestamp())
                release = served.release
                data = [
                    {"id": name, "object": "model", "created": created, "owned_by": "uae"}
                    | {"score_is": release.score(system), "embeds": release.has_vectors(system)}
                    for name, system in model_names(served).items()
                ]
                return _json(to_json({"object": "list", "data": data}))

    def _called(self, request: Request, texts: list[str]) -> Call:
        """The request's record, with what it asked; its texts only where the configuration has them logged."""
        call: Call = request.scope["uae"]
        call.queries = len(texts)
        if self._config.log_queries:
            call.texts = texts
        return call


class _BodyRoute(APIRoute):
    """A route whose endpoint may take (request, body). FastAPI documents it; the model itself parses the body, once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if self.body_field is None:
            return super().get_route_handler()
        model: Any = self.body_field.field_info.annotation
        endpoint = cast(Endpoint, self.endpoint)

        async def handle(request: Request) -> Response:
            body, ignored = parse(model, await request.body())
            response = await endpoint(request, body)
            response.headers.update(ignored_header(ignored))
            return response

        return handle


def _found(found: Found, queries: Sequence[str], request_id: str) -> bytes:
    results = [
        {"query": query, "passages": [hit._asdict() for hit in answer.hits]}
        | {"useful": answer.useful, "useful_probability": answer.useful_probability}
        for query, answer in zip(queries, found.answers, strict=True)
    ]
    answer = {
        "release": found.release,
        "system": found.system,
        "score_is": found.score_is,
        "results": results,
        "request_id": request_id,
    }
    try:
        return to_json(answer)
    except PydanticSerializationError:  # metadata may hold half a surrogate pair, written as an escape; so may the answer
        return json.dumps(answer).encode()


def _embedded(model: str, vectors: Vectors, tokens: int, encoding: str) -> bytes:
    if encoding == "base64":
        rendered = [b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        rendered = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(rendered)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _described(served: Served, retrieval: Retrieval) -> dict[str, Any]:
    release, origin = served.release, served.origin or {}
    return {
        "fingerprint": served.fingerprint,
        "model": origin.get("model"),
        "version": None if origin.get("version") is None else str(origin["version"]),
        "promoted_at": origin.get("promoted_at"),
        "metrics": origin.get("metrics"),
        "data_hash": release.data_hash,
        "passages": release.passage_count,
        "dimension": release.dimension(),
        "max_tokens": release.max_tokens(),
        "backend": release.backend(),
        "systems": release.systems,
        "loaded_at": retrieval.loaded_at(served).isoformat(timespec="seconds"),
        "loading": retrieval.switch.loading is not None,
        "database": retrieval.vectors.state,
    }
