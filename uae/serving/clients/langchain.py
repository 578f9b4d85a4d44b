"""A LangChain retriever over a running service."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from uae.serving.clients import missing
from uae.serving.clients.service import Found, SearchService

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as error:
    missing(error)


class UaeRetriever(BaseRetriever):
    """Passages of a release, most useful first.

    ``k``, ``filters`` and ``min_score`` hold for every call; a call may give its own: ``retriever.invoke(question, k=3)``.

    Each document's ``page_content`` is the passage. Its ``metadata`` holds:

    - passage_id, doc_id, title and section;
    - source: the document's file, or its id in a file;
    - start and end: characters in the document;
    - score, and score_is: the formula of the scores, such as "cosine + 0.4 * bm25 / highest bm25";
    - release: the fingerprint that answered;
    - useful, and useful_probability: whether the first passage is likely to help; only where the service says so;
    - metadata: the document's own.

    Raises:
        ValidationError: (when made) a setting has no such name or value.
        TypeError: (when asked) a call's own setting has no such name.
        ServiceError: (when asked) the service refused, or could not be asked.
    """

    # A misspelt ``filters`` would search without a filter. LangChain's base class ignores what it does not know.
    model_config = ConfigDict(extra="forbid")

    url: str
    """Where the service is, e.g. ``http://localhost:3000``."""
    api_key: SecretStr | None = None
    k: int = Field(default=5, ge=1)
    filters: dict[str, Any] = Field(default_factory=dict)
    """``{"field": value}``, ``{"field": [values]}`` or ``{"field": {"gte": x, "lte": y}}``; a field is ``doc_id``, ``source``
    or one of the document's metadata."""
    min_score: float | None = None
    """The least score, of the kind that ``score_is`` names."""
    system: str = "uae"
    """A name of ``GET /v1/models``."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds."""
    attempts: int = Field(default=4, ge=1)
    """How often a request is sent at most, where the service is busy (429, 503) or the connection breaks."""

    _service: SearchService = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        key = None if self.api_key is None else self.api_key.get_secret_value()
        self._service = SearchService(self.url, key, self.timeout, self.attempts)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **settings: Any
    ) -> list[Document]:
        return _documents(self._service.search(query, **self._with(**settings)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **settings: Any
    ) -> list[Document]:
        return _documents(await self._service.search_async(query, **self._with(**settings)))

    def _with(
        self, *, k: int | None = None, filters: Mapping[str, Any] | None = None, min_score: float | None = None
    ) -> dict[str, Any]:
        """What this call asks for: its own where it gives it, else what holds for all."""
        return {
            "k": self.k if k is None else k,
            "filters": self.filters if filters is None else filters,
            "min_score": self.min_score if min_score is None else min_score,
            "system": self.system,
        }


def _documents(found: Found) -> list[Document]:
    return [
        Document(
            id=passage["passage_id"],
            page_content=passage["text"],
            metadata={name: value for name, value in passage.items() if name != "text"} | found.about(),
        )
        for passage in found.passages
    ]
