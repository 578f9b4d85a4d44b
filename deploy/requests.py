"""Requests as they come over the wire. The models make the OpenAPI document, and they validate.

OpenAI's clients send fields of their own and ``null`` for what they leave open. So ``null`` means the default, and an unknown
field is left out and named in the answer's header ``X-Ignored-Fields``. A name that is nearly one of ours is refused: a search
whose ``filter`` was left out would find the wrong passages, and nobody would hear of it.
"""

import difflib
import json
import re
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from deploy.config import Config
from deploy.schemas import ApiError, System
from uae.retrievers.protocol import Side

IGNORED_HEADER = "X-Ignored-Fields"
_INT64 = 2**63 - 1
_MOST_FIELDS = 64  # of a request, the unknown ones included
_MOST_NAMED = 16  # ignored fields in the header
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAME = "is empty, or too long, for the name of a field"
_CONDITION = "takes a value, a list of values, or a range of gte and lte; values: strings, finite numbers, true, false"


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    limits: ClassVar[dict[str, int]] = {}  # field: most items of its list or object
    most_filter_values: ClassVar[int] = 0

    @model_validator(mode="before")
    @classmethod
    def _null_means_the_default(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cls.model_fields
        return {
            name: each for name, each in value.items() if each is not None or name not in fields or fields[name].is_required()
        }


class SearchRequest(_Request):
    """What ``/v1/search`` is asked. ``request_models`` adds the limits."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "How is the pump primed?", "k": 3}, {"query": ["pump", "valve"]}]}
    )
    query: str | list[str]
    k: int
    filters: dict[str, Any]
    min_score: float | None
    system: System


class EmbeddingsRequest(_Request):
    """What ``/v1/embeddings`` is asked. ``request_models`` adds the limits."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "uae", "input": "How is the pump primed?"}]})
    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"]
    dimensions: int | None
    input_type: Side


class Requests(NamedTuple):
    """The models of what is asked, with this service's limits in them."""

    search: type[SearchRequest]
    embeddings: type[EmbeddingsRequest]
    tool: type[SearchRequest]  # of the MCP tool: one question, and no unknown fields


_Model = TypeVar("_Model", bound=_Request)


def _no_token_arrays(value: Any) -> Any:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)) and not isinstance(first, bool):
        message = "token ids mean nothing to another model's tokenizer: send text (LangChain: check_embedding_ctx_length=False)"
        raise PydanticCustomError("token_array", message)
    return value


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"minProperties": 1})
    gte: Any
    lte: Any

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.gte is None and self.lte is None:
            raise PydanticCustomError("empty_range", "a range needs gte, lte or both")
        return self


def _range(name: str, bound: Any) -> Any:
    return create_model(
        name, __base__=_Range, __doc__="Both bounds belong to the range.", gte=(bound | None, None), lte=(bound | None, None)
    )


def request_models(config: Config) -> Requests:
    """The request models under the limits of ``config``."""
    query = Annotated[str, Field(min_length=1, max_length=config.max_query_characters)]
    several = query | Annotated[list[query], Field(min_length=1, max_length=config.max_queries)]
    search = create_model("SearchRequest", __base__=SearchRequest, query=(several, ...), **_search_fields(config))
    one: Any = (Annotated[query, Field(description="the question, in whole words")], ...)
    tool = create_model("SearchTool", __base__=SearchRequest, query=one, **_search_fields(config))
    tool.model_config = ConfigDict(extra="forbid", strict=True)
    tool.model_rebuild(force=True)
    for model in (search, tool):
        model.limits = {"query": config.max_queries, "filters": config.max_filters}
        model.most_filter_values = config.max_filter_values
    embeddings = create_model("EmbeddingsRequest", __base__=EmbeddingsRequest, **_embeddings_fields(config))
    embeddings.limits = {"input": config.max_inputs}
    return Requests(search, embeddings, tool)


def _search_fields(config: Config) -> dict[str, Any]:
    """The fields beside ``query``: (type, default)."""
    name = Annotated[str, Field(min_length=1, max_length=config.max_filter_characters)]
    text = Annotated[str, Field(max_length=config.max_filter_characters)]
    whole = Annotated[int, Field(ge=-_INT64, le=_INT64)]
    number = Annotated[float, Field(allow_inf_nan=False)]
    value: Any = bool | whole | number | text
    ranges = _range("NumberRange", whole | number) | _range("TextRange", text)
    condition = value | Annotated[list[value], Field(min_length=1, max_length=config.max_filter_values)] | ranges
    about = (
        "on doc_id, source and the documents' metadata: a value, any of several, or a range of gte and lte (ends included); "
        "all must hold"
    )
    filters = Annotated[
        dict[name, condition],  # type: ignore[valid-type]
        Field(
            max_length=config.max_filters,
            description=about,
            examples=[{"source": ["manual.md", "faq.md"], "year": {"gte": 2020}}],
        ),
    ]
    about = (
        "a name of /v1/models: uae is the promoted whole, dense and bm25 its parts, uae_reranked the whole with a second stage, "
        "base the encoder before training"
    )
    least = "the least score of a passage, in what the system's scores are: see score_is of /v1/models"
    return {
        "k": (Annotated[int, Field(ge=1, le=config.max_k, description="passages a query")] | None, 5),
        "filters": (filters | None, {}),
        "min_score": (Annotated[float, Field(allow_inf_nan=False, description=least)] | None, None),
        "system": (Annotated[System, Field(description=about)] | None, "uae"),
    }


def _embeddings_fields(config: Config) -> dict[str, Any]:
    text = Annotated[str, Field(min_length=1, max_length=config.max_input_characters)]
    several = Annotated[list[text], Field(min_length=1, max_length=config.max_inputs)]
    side = Annotated[Side, Field(description="which side of the encoder")]
    return {
        "input": (Annotated[text | several, BeforeValidator(_no_token_arrays)], ...),
        "model": (Annotated[str, Field(min_length=1, max_length=256, description="one of /v1/models")], ...),
        "encoding_format": (Literal["float", "base64"] | None, "float"),
        "dimensions": (Annotated[int, Field(ge=1, le=_INT64, description="only the model's own")] | None, None),
        "input_type": (side | None, "query"),
    }


def parse(model: type[_Model], body: bytes) -> tuple[_Model, list[str]]:
    """A request from its bytes, and the names of its fields that are left out. The parser bounds depth and length of numbers.

    Raises:
        ApiError: 400 where it is no JSON, 422 where it is not what the model allows.
    """
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        if _is_json(body, str(error)):
            raise ApiError(422, "invalid_text", f"a string holds half a surrogate pair: {error}") from None
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(422, "invalid_value", "the body is a JSON object, {...}")
    ignored = _unknown(value, model)
    return validated(model, {name: each for name, each in value.items() if name in model.model_fields}), ignored


def validated(model: type[_Model], value: dict[str, Any]) -> _Model:
    """A request from its fields.

    Raises:
        ApiError: 400 where it holds token ids, 422 where it is not what the model allows. The message names the field.
    """
    _check_width(value, model)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Of a union's branches, the one that was followed furthest is the one that was meant.
        found = max(error.errors(include_url=False, include_input=False), key=_meant)
    kind, where, message = found["type"], found["loc"], found["msg"]
    if kind == "token_array":
        raise ApiError(400, "token_array", message, "input")
    param = str(where[0])[:64] if where else None
    if param == "filters" and len(where) > 2:
        # The branches of a value's union say what each of them expects, not what all of them do.
        name = ascii(where[1])
        message = f"{name if len(name) <= 80 else name[:77] + '...'} {_NAME if where[2] == '[key]' else _CONDITION}"
    elif param:
        param += "".join(f"[{place}]" for place in where[1:] if isinstance(place, int))
    raise ApiError(422, "invalid_value", f"{param or 'the body'}: {message}", param)


def ignored_header(names: list[str]) -> dict[str, str]:
    """The header that names fields which were left out. A name that could do harm in a header is only counted."""
    plain = [name for name in names if _PLAIN_NAME.fullmatch(name)][:_MOST_NAMED]
    if len(plain) < len(names):
        plain.append(f"and {len(names) - len(plain)} more")
    return {IGNORED_HEADER: ", ".join(plain)} if plain else {}


def _unknown(value: dict[str, Any], model: type[_Request]) -> list[str]:
    if len(value) > _MOST_FIELDS:
        raise ApiError(422, "invalid_value", f"the body holds {len(value)} fields, and {_MOST_FIELDS} are the most")
    fields = model.model_fields
    unknown = [name for name in value if name not in fields]
    for name in unknown:
        if _PLAIN_NAME.fullmatch(name) and (near := difflib.get_close_matches(name.lower(), fields, n=1, cutoff=0.8)):
            raise ApiError(422, "invalid_value", f"{name}: there is no such field; did you mean {near[0]}?", name)
    return unknown


def _check_width(value: dict[str, Any], model: type[_Request]) -> None:
    """Refuse at once what the model would refuse item by item: a small body can hold very many errors, each costly to report."""
    for name, most in model.limits.items():
        if isinstance(value.get(name), (list, dict)) and len(value[name]) > most:
            raise _too_many(name, len(value[name]), f"{most} are the most in one request")
    filters = value.get("filters")
    for condition in filters.values() if isinstance(filters, dict) else ():
        if isinstance(condition, dict) and len(condition) > 2:
            raise _too_many("filters", len(condition), "a range takes gte and lte only")
        if isinstance(condition, list):
            if len(condition) > model.most_filter_values:
                raise _too_many("filters", len(condition), f"{model.most_filter_values} values are the most of one field")
            if not all(isinstance(each, (str, int, float)) for each in condition):
                raise ApiError(422, "invalid_value", "filters: a list holds strings, finite numbers, true, false", "filters")


def _too_many(name: str, given: int, limit: str) -> ApiError:
    return ApiError(422, "invalid_value", f"{name}: {given} were given, and {limit}", name)


def _meant(error: ErrorDetails) -> tuple[int, bool]:
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
