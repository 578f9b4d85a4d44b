"""How long a query takes by two releases, asked in turns by one process: their ratio can be compared, single times cannot."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from uae.release.open import Release

QUERIES = 50
_FOUND = 10  # passages of a query


class QueryTimes(NamedTuple):
    candidate_ms: float  # medians
    reference_ms: float
    queries: int


def query_times(candidate: Path, reference: Path, texts: Sequence[str], device: str) -> QueryTimes:
    """
    Args:
        candidate, reference: folders of releases. Both search their whole corpus, as a service does. Texts and indexes stay in
            files, so each query is asked once before its time is taken: what it reads is in memory then, as a service has it.
        texts: the first ``QUERIES`` are asked, at least one.
    """
    asked = list(texts[:QUERIES])
    releases = [Release(folder, device, mapped=True) for folder in (candidate, reference)]
    try:
        times: list[list[float]] = [[], []]
        for number, text in enumerate(asked):
            for place in (0, 1) if number % 2 else (1, 0):
                releases[place].search([text], _FOUND)
                begun = time.perf_counter()
                releases[place].search([text], _FOUND)
                times[place].append(1000 * (time.perf_counter() - begun))
                releases[place].drop_pages()
    finally:
        for release in releases:
            release.close()
    return QueryTimes(statistics.median(times[0]), statistics.median(times[1]), len(asked))
