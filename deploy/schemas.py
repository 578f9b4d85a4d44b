"""What goes over the wire: requests, answers and errors. The models are the OpenAPI document, and the validation."""

import json
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError, from_json, to_json

from deploy.config import Config

_STRICT = ConfigDict(extra="forbid", strict=True)
_INT64 = 2**63 - 1
System = Literal["uae", "base"]


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
    score: float = Field(description="cosine similarity")
    metadata: dict[str, Any] = Field(description="the document's")


class QueryResult(BaseModel):
    query: str
    passages: list[Passage] = Field(description="best first")


class SearchResponse(BaseModel):
    release: str = Field(description="fingerprint of the one release that all passages come from")
    system: System
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


class ModelsResponse(BaseModel):
    object: Literal["list"]
    data: list[Model]


class ReleaseResponse(BaseModel):
    fingerprint: str
    model: str | None = Field(description="the registered model's name; null where the release came from no registry")
    version: str | None
    promoted_at: str | None
    metrics: dict[str, Any] | None = Field(description="at promotion")
    data_hash: str | None = Field(description="of the passages' texts, in their order")
    passages: int
    dimension: int
    max_tokens: int | None
    backend: str
    systems: list[System]
    loaded_at: str
    loading: bool = Field(description="whether another release is being loaded beside this one")


class _Request(BaseModel):
    model_config = _STRICT
    widest_object: ClassVar[int]  # most fields of any object in it
    widest_list: ClassVar[int]  # most items of any list in it, and one


class _Search(_Request):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "How is the pump primed?", "k": 3}, {"query": ["pump", "valve"]}]}
    )


class _Embeddings(_Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "uae", "input": "How is the pump primed?"}]})


class Requests(NamedTuple):
    """The models of what is asked, with this service's limits in them."""

    search: type[_Request]
    embeddings: type[_Request]


def _no_token_arrays(value: Any) -> Any:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)) and not isinstance(first, bool):
        raise PydanticCustomError("token_array", "token ids mean nothing to another tokenizer: send text")
    return value


class _Range(BaseModel):
    model_config = _STRICT | {"json_schema_extra": {"minProperties": 1}}

    @model_validator(mode="after")
    def _has_a_bound(self):
        if self.gte is None and self.lte is None:
            raise PydanticCustomError("empty_range", "a range needs gte, lte or both")
        return self


def _range(name: str, bound: Any) -> type[BaseModel]:
    return create_model(name, __base__=_Range, __doc__="Both bounds belong to the range.", gte=(bound, None), lte=(bound, None))


def request_models(config: Config) -> Requests:
    """The request models under the limits of ``config``."""
    name = Annotated[str, Field(min_length=1, max_length=config.max_filter_characters)]
    text = Annotated[str, Field(max_length=config.max_filter_characters)]
    whole = Annotated[int, Field(ge=-_INT64, le=_INT64)]
    number = Annotated[float, Field(allow_inf_nan=False)]
    value = bool | whole | number | text
    ranges = _range("NumberRange", whole | number) | _range("TextRange", text)
    condition = value | Annotated[list[value], Field(min_length=1, max_length=config.max_filter_values)] | ranges
    query = Annotated[str, Field(min_length=1, max_length=config.max_query_characters)]
    text_input = Annotated[str, Field(min_length=1, max_length=config.max_input_characters)]
    search = create_model(
        "SearchRequest",
        __base__=_Search,
        query=(query | Annotated[list[query], Field(min_length=1, max_length=config.max_queries)], ...),
        k=(Annotated[int, Field(ge=1, le=config.max_k, description="passages a query")], 5),
        filters=(
            Annotated[
                dict[name, condition],
                Field(
                    max_length=config.max_filters,
                    description="on doc_id, source and the documents' metadata: a value, any of several, a range; all must hold",
                    examples=[{"source": ["manual.md", "faq.md"], "year": {"gte": 2020}}],
                ),
            ],
            {},
        ),
        min_score=(Annotated[float, Field(ge=-1, le=1)] | None, None),
        system=(Annotated[System, Field(description="base: the encoder before training, where the release holds it")], "uae"),
    )
    embeddings = create_model(
        "EmbeddingsRequest",
        __base__=_Embeddings,
        input=(
            Annotated[
                text_input | Annotated[list[text_input], Field(min_length=1, max_length=config.max_inputs)],
                BeforeValidator(_no_token_arrays),
            ],
            ...,
        ),
        model=(Annotated[str, Field(min_length=1, max_length=256, description="one of /v1/models")], ...),
        encoding_format=(Literal["float", "base64"], "float"),
        dimensions=(Annotated[int, Field(ge=1, le=_INT64, description="only the model's own")] | None, None),
        user=(Annotated[str, Field(max_length=256, description="not used")] | None, None),
        input_type=(Annotated[Literal["query", "document"], Field(description="which side of the encoder")], "query"),
    )
    for model in (search, embeddings):
        model.widest_object = max(len(model.model_fields), config.max_filters)
        # One more than the longest: the message of the model, which names the field, is the better one.
        model.widest_list = max(config.max_queries, config.max_inputs, config.max_filter_values) + 1
    return Requests(search, embeddings)


def parse(model: type[_Request], body: bytes) -> _Request:
    """A request from its bytes. Depth and the length of numbers are bounded by the parser.

    Raises:
        ApiError: 400 where it is no JSON, 422 where it is not what the model allows.
    """
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        if _is_json(body, str(error)):
            raise ApiError(422, "invalid_text", f"a string holds half a surrogate pair: {error}") from None
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    _check_width(value, model.widest_object, model.widest_list)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Of a union's branches, the one that was followed furthest is the one that was meant.
        found = max(error.errors(include_url=False, include_input=False), key=_meant)
    kind, where, message = found["type"], found["loc"], found["msg"]
    if kind == "token_array":
        raise ApiError(400, "token_array", message, "input")
    param = str(where[0])[:64] if where else None
    if param == "filters":
        if len(where) > 2:  # the branches of a value's union say what each of them expects, not what all of them do
            message = "each is a value, a list of values, or a range of gte and lte; values: strings, finite numbers, true, false"
    elif param:
        param += "".join(f"[{place}]" for place in where[1:] if isinstance(place, int))
    raise ApiError(422, "invalid_value", f"{param or 'the body'}: {message}", param)


def _check_width(value: Any, fields: int, items: int, level: int = 0) -> None:
    """Refuse at once what the model would refuse item by item: a small body can hold a great many errors, each dear to report."""
    if isinstance(value, dict):
        if len(value) > fields:
            raise ApiError(422, "invalid_value", f"no object here has more than {fields} fields")
        if level < 2:
            for each in value.values():
                _check_width(each, fields, items, level + 1)
    elif isinstance(value, list):
        if len(value) > items:
            raise ApiError(422, "invalid_value", f"no list here has more than {items} items")
        if level == 2 and not all(isinstance(each, (str, int, float)) for each in value):
            raise ApiError(422, "invalid_value", "filters: a list holds strings, finite numbers, true, false", "filters")


def _meant(error: Any) -> tuple[int, bool]:
    return len(error["loc"]), not error["type"].endswith("_type")


def _is_json(body: bytes, reason: str) -> bool:
    """Whether only half of a surrogate pair keeps the body from being read: JSON's grammar allows that, but it is no text."""
    if "surrogate" not in reason and "hex escape" not in reason:
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
