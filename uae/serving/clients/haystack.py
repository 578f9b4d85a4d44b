"""A Haystack retriever component over a running service."""

from typing import Any

from uae.serving.clients import missing
from uae.serving.clients.service import Found, SearchService

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret
except ModuleNotFoundError as error:
    missing(error)


@component
class UaeRetriever:
    """Passages of a release, most useful first.

    Each document's ``content`` is the passage. Its ``score`` is what ``score_is`` says. Its ``meta`` holds:

    - passage_id, doc_id, title and section;
    - source: the document's file, or its id in a file;
    - start and end: characters in the document;
    - score, and score_is: the formula of the scores, such as "cosine + 0.4 * bm25 / highest bm25";
    - release: the fingerprint that answered;
    - useful, and useful_probability: whether the first passage is likely to help; only where the service says so;
    - metadata: the document's own.
    """

    def __init__(
        self,
        url: str,
        api_key: Secret | None = None,
        top_k: int = 5,
        filters: dict[str, Any] | None = None,
        min_score: float | None = None,
        system: str = "uae",
        timeout: float = 30.0,
        attempts: int = 4,
    ):
        """
        Args:
            url: where the service is, e.g. ``http://localhost:3000``.
            api_key: e.g. ``Secret.from_env_var("UAE_API_KEY")``; a pipeline with one given as text cannot be saved.
            filters: ``{"field": value}``, ``{"field": [values]}`` or ``{"field": {"gte": x, "lte": y}}``; a field is ``doc_id``,
                ``source`` or one of the document's metadata. They are the service's own, not Haystack's language of filters.
            min_score: the least score, of the kind that ``score_is`` names.
            system: a name of ``GET /v1/models``.
            timeout: seconds.
            attempts: how often a request is sent at most, where the service is busy (429, 503) or the connection breaks.

        Raises:
            ValueError: ``top_k`` is less than 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k: {top_k}; a retriever returns at least one document")
        self.url = url
        self.api_key = api_key
        self.top_k = top_k
        self.filters = filters
        self.min_score = min_score
        self.system = system
        self.timeout = timeout
        self.attempts = attempts
        self._service: SearchService | None = None

    def warm_up(self) -> None:
        """Read the key and set up connections, once. Not before: a pipeline can be loaded where its key is not known.

        Raises:
            ValueError: ``url`` is no address, ``attempts`` is less than 1, or the key is not where it should be.
        """
        self._ready()

    def close(self) -> None:
        """Give back the connections of ``run``."""
        if self._service is not None:
            self._service.close()
            self._service = None

    async def close_async(self) -> None:
        """Give back all connections."""
        if self._service is not None:
            await self._service.close_async()
        self.close()

    def to_dict(self) -> dict[str, Any]:
        """For ``Pipeline.dump``: the settings; of the key, only where it is found."""
        return default_to_dict(
            self,
            url=self.url,
            api_key=self.api_key,
            top_k=self.top_k,
            filters=self.filters,
            min_score=self.min_score,
            system=self.system,
            timeout=self.timeout,
            attempts=self.attempts,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "UaeRetriever":
        """For ``Pipeline.load``."""
        # Haystack takes a dictionary with a key "type" for an object to restore, and metadata may have such a field.
        parameters = dict(data["init_parameters"])
        filters = parameters.pop("filters", None)
        loaded = default_from_dict(cls, data | {"init_parameters": parameters})
        loaded.filters = filters
        return loaded

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None, min_score: float | None = None
    ) -> dict[str, list[Document]]:
        """The best passages of ``query``, best first; what is given here stands before what the component was made with.

        Raises:
            ServiceError: the service refused, or could not be asked.
        """
        return _documents(self._ready().search(query, **self._with(top_k, filters, min_score)))

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None, min_score: float | None = None
    ) -> dict[str, list[Document]]:
        """As ``run``, for ``Pipeline.run_async``."""
        return _documents(await self._ready().search_async(query, **self._with(top_k, filters, min_score)))

    def _ready(self) -> SearchService:
        if self._service is None:
            key = None if self.api_key is None else self.api_key.resolve_value()
            self._service = SearchService(self.url, key, self.timeout, self.attempts)
        return self._service

    def _with(self, top_k: int | None, filters: dict[str, Any] | None, min_score: float | None) -> dict[str, Any]:
        return {
            "k": self.top_k if top_k is None else top_k,
            "filters": self.filters if filters is None else filters,
            "min_score": self.min_score if min_score is None else min_score,
            "system": self.system,
        }


def _documents(found: Found) -> dict[str, list[Document]]:
    return {
        "documents": [
            Document(
                id=passage["passage_id"],
                content=passage["text"],
                score=passage["score"],
                meta={name: value for name, value in passage.items() if name != "text"} | found.about(),
            )
            for passage in found.passages
        ]
    }
