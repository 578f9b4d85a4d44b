"""What a query costs. Each system is asked one question at a time, as in serving."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from uae.measures.fusion import Rankings
from uae.release.manifest import UAE
from uae.release.open import Release
from uae.retrievers.lexical import Bm25

System = Callable[[str], object]  # answers the question of an id; what it gives back is not looked at


def time_queries(systems: Mapping[str, System], question_ids: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """The median time of one query by each system, all of them in one run.

    Systems take turns on every question, each time in another order. A machine that slows down slows all of them. So their
    ratio can be quoted where the times cannot. Before that, each system answers the first question once, which is not counted.

    Args:
        systems: name -> what answers a question. It must return when the answer is there (as numbers of Python, not of a GPU).
        question_ids: asked of every system.

    Returns:
        system -> ``ms_per_query``, the median in milliseconds, and ``queries``, how many it is taken over.

    Raises:
        ValueError: there are no questions.
    """
    if not question_ids:
        raise ValueError("there are no questions to time")
    for answer in systems.values():
        answer(question_ids[0])
    names = list(systems)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn, question_id in enumerate(question_ids):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            systems[name](question_id)
            seconds[name].append(time.perf_counter() - start)
    return {name: {"ms_per_query": 1000 * float(np.median(of)), "queries": len(of)} for name, of in seconds.items()}


def vector_search(release: Release, questions: pd.DataFrame, scope: str, k: int, system: str = UAE) -> System:
    """A query encoded by the release's own encoder and searched in its own index, as it is served. ``questions`` as QUESTIONS."""
    asked = _asked(questions, scope)
    return lambda question_id: release.search([asked[question_id][0]], k, asked[question_id][1], system)


def lexical_search(index: Bm25, questions: pd.DataFrame, scope: str, k: int) -> System:
    asked = _asked(questions, scope)
    return lambda question_id: index.search(*asked[question_id], k)


def reranking(rerank: Callable[[Rankings], object], rankings: Rankings) -> System:
    """The re-ranking of one question's ranking, which is there already; nothing is shared with other questions.

    Args:
        rerank: a function of ``evaluation.rerank`` with all its other arguments bound (``functools.partial``).
    """
    return lambda question_id: rerank({question_id: rankings[question_id]})


def _asked(questions: pd.DataFrame, scope: str) -> dict[str, tuple[str, str | None]]:
    """question_id -> its text, and the document to search (None: all)."""
    return {
        question_id: (text, doc_id if scope == "document" else None)
        for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True)
    }
