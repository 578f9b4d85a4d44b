"""Answers and errors as they go over the wire. The models make the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import to_json

# A name of GET /v1/models. Which there are depends on the release.
System = Annotated[str, Field(min_length=1, max_length=256)]


class ApiError(Exception):
    """What a caller is told instead of an answer.

    ``code`` is for programs, and a label of the metrics: one of a fixed few, never a caller's own text.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.headers = status, code, message, param, headers or {}

    def body(self, request_id: str) -> bytes:
        kind = "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return to_json({"error": error, "request_id": request_id})


class ErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    code: str
    param: str | None = Field(description="the field at fault, such as query[3]")


class ErrorResponse(BaseModel):
    """The shape of OpenAI's errors, and the request's id."""

    error: ErrorDetail
    request_id: str


class Passage(BaseModel):
    passage_id: str
    doc_id: str
    source: str = Field(description="of the document: the file it came from, or its id in a file")
    title: str
    section: str
    start: int = Field(description="offset into the document's text, in characters")
    end: int
    text: str
    score: float = Field(description="what it is, the answer's score_is says")
    metadata: dict[str, Any] = Field(description="the document's")


class QueryResult(BaseModel):
    query: str
    passages: list[Passage] = Field(description="best first")
    useful: bool | None = Field(
        description="whether the first passage is likely to help an LLM to answer; null where release or system does not say"
    )
    useful_probability: float | None = Field(description="of that; 0 where nothing was found")


class SearchResponse(BaseModel):
    release: str = Field(description="fingerprint of the one release that all passages come from")
    system: System = Field(
        description="that answered: uae is the promoted whole, dense and bm25 its parts, uae_reranked the whole with a second "
        "stage, base what it replaced"
    )
    score_is: str = Field(description="the formula of the scores, such as cosine + 0.4 * bm25 / highest bm25")
    results: list[QueryResult] = Field(description="one a query, in the order of the queries")
    request_id: str


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="a unit vector; as base64: float32, little-endian")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="when it was loaded, in seconds since 1970")
    owned_by: str
    score_is: str = Field(description="the formula of its scores in /v1/search; min_score is of this kind")
    embeds: bool = Field(description="whether /v1/embeddings takes it")


class ModelsResponse(BaseModel):
    object: Literal["list"]
    data: list[Model]


class ReleaseResponse(BaseModel):
    fingerprint: str
    model: str | None = Field(description="the registered model's name; null where the release came from no registry")
    version: str | None
    promoted_at: str | None = Field(description="when the version was registered; a rollback to it does not change this")
    metrics: dict[str, Any] | None = Field(description="means over the test questions, as they were when it was registered")
    data_hash: str | None = Field(description="of the passages' texts, in their order")
    passages: int
    dimension: int
    max_tokens: int | None
    backend: str
    systems: list[System]
    loaded_at: str
    loading: bool = Field(description="whether another release is being loaded beside this one")
    database: Literal["answers", "away"] | None = Field(
        description="that vectors are searched in; null: in the release's indexes"
    )
