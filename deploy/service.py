"""The Bento: one release, searched by its own encoder."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from pydantic import BaseModel, Field

_BUNDLED = Path(__file__).resolve().parent.parent / "release"


class Passage(BaseModel):
    passage_id: str
    doc_id: str
    title: str
    section: str
    start: int
    end: int
    text: str
    score: float


class SearchResponse(BaseModel):
    release: str
    results: list[list[Passage]]


@bentoml.service(name="uae-retriever", traffic={"timeout": 30})
class Retriever:
    """Vector search over the promoted corpus, ranked by usefulness."""

    def __init__(self) -> None:
        from uae.index.release import Release

        self.release = Release(Path(os.environ.get("UAE_RELEASE", _BUNDLED)), device="auto")

    @bentoml.api(route="/search")
    def search(
        self,
        query: Annotated[str, Field(min_length=1, max_length=4000)] | Annotated[list[str], Field(min_length=1, max_length=64)],
        k: Annotated[int, Field(ge=1, le=100)] = 5,
        doc_id: str | None = None,
    ) -> SearchResponse:
        """The best ``k`` passages of each query, best first; ``doc_id`` limits the search to one document."""
        from uae.errors import InputError

        queries = [query] if isinstance(query, str) else query
        try:
            found = self.release.search(queries, k, doc_id)
        except InputError as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from error
        results = [[Passage(**hit._asdict()) for hit in hits] for hits in found]
        return SearchResponse(release=self.release.fingerprint, results=results)
