"""A LlamaIndex retriever over a running service."""

from typing import Any

from uae.serving.clients import missing
from uae.serving.clients.service import Found, SearchService

try:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ModuleNotFoundError as error:
    missing(error)

# What a model reads in front of the text. The rest is for programs, and would fill the prompt with numbers.
_SHOWN = frozenset(["source", "title", "section"])


class UaeRetriever(BaseRetriever):
    """Passages of a release, most useful first.

    Each node's ``text`` is the passage, and ``score`` what ``score_is`` says. The node's ``metadata`` holds passage_id, doc_id,
    source, title, section, start and end (characters in the document), release (the fingerprint that answered) and metadata (the
    document's own). ``score_is`` in it is the formula of the scores. ``useful`` and ``useful_probability`` say whether the first
    passage is likely to help, where the service says so. A model is shown source, title and section of it.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        similarity_top_k: int = 5,
        filters: dict[str, Any] | None = None,
        min_score: float | None = None,
        system: str = "uae",
        timeout: float = 30.0,
        attempts: int = 4,
        callback_manager: CallbackManager | None = None,
    ):
        """
        Args:
            url: where the service is, e.g. ``http://localhost:3000``.
            filters: ``{"field": value}``, ``{"field": [values]}`` or ``{"field": {"gte": x, "lte": y}}``. A field is ``doc_id``,
                ``source`` or one of the document's metadata. They are the service's own, not LlamaIndex's ``MetadataFilters``.
            min_score: the least score, of the kind that ``score_is`` names.
            system: a name of ``GET /v1/models``.
            timeout: seconds.
            attempts: how often a request is sent at most, where the service is busy (429, 503) or the connection breaks.

        Raises:
            ValueError: ``url`` is no address, or ``similarity_top_k`` or ``attempts`` is less than 1.
        """
        if similarity_top_k < 1:
            raise ValueError(f"similarity_top_k: {similarity_top_k}; a retriever returns at least one node")
        super().__init__(callback_manager=callback_manager)
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.min_score = min_score
        self.system: str = system
        self._service = SearchService(url, api_key, timeout, attempts)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """
        Raises:
            ServiceError: the service refused, or could not be asked.
        """
        return _nodes(
            self._service.search(query_bundle.query_str, self.similarity_top_k, self.filters, self.min_score, self.system)
        )

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(
            await self._service.search_async(
                query_bundle.query_str, self.similarity_top_k, self.filters, self.min_score, self.system
            )
        )


def _nodes(found: Found) -> list[NodeWithScore]:
    return [_node(found, passage) for passage in found.passages]


def _node(found: Found, passage: dict[str, Any]) -> NodeWithScore:
    metadata = {name: value for name, value in passage.items() if name not in ("text", "score")} | found.about()
    hidden = [name for name in metadata if name not in _SHOWN]
    node = TextNode(
        id_=passage["passage_id"],
        text=passage["text"],
        metadata=metadata,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=hidden,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=passage["doc_id"])},
    )
    return NodeWithScore(node=node, score=passage["score"])
