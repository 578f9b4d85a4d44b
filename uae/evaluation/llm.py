"""What evaluation asks LLMs besides answers: re-ranking, the teacher's ceiling, and whether an LLM of another family agrees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.comparison import gain_of, independent_units, mean_of
from uae.evaluation.cost import lexical_search, reranking, time_queries, vector_search
from uae.evaluation.passage_utility import agreement, ceiling, passage_utilities, ranked_pairs, top_passage_utility
from uae.evaluation.rerank import rerank_by_list, rerank_by_query_likelihood
from uae.evaluation.testset import BASE, SECOND_STAGE, UAE
from uae.measures.fusion import Rankings
from uae.measures.statistics import Resampling, kept_gain, sums_by_group
from uae.release.manifest import RERANKED
from uae.release.open import Release
from uae.retrievers.lexical import Bm25
from uae.teacher.asking import Asked
from uae.teacher.engines.local import CausalTeacher, load_teacher
from uae.teacher.prompts import Template
from uae.text.passage_template import PassageTemplate

QUERY_LIKELIHOOD, LIST_WISE, CEILING = "rerank_query_likelihood", "rerank_list", "ceiling"
UAE_LLM = "uae_llm_rerank"  # UAE's first passages, ordered by query likelihood
_FOUND = 10  # passages that a query asks for when its time is taken


@dataclass(frozen=True)
class LlmTerms:
    """Which LLMs are asked about passages, and how much."""

    questions: int  # the first so many test questions with gold answers
    top_k: int  # of the base encoder's ranking: what is re-ranked and judged
    window: int  # passages in one list-wise prompt
    timed_queries: int
    reranker_path: Path
    reranker_fingerprint: str
    query_template: Template  # of query likelihood
    device: str
    dtype: str
    teacher: Asked
    held_out: Asked | None  # of another family
    answers_per_question: int
    aggregation: Mapping[str, str]  # answers and templates, as ``teacher.utility.utilities`` has them
    store_path: Path
    readings_per_part: int

    def open_reranker(self) -> CausalTeacher:
        return load_teacher(self.reranker_path, self.reranker_fingerprint, self.device, self.dtype, None, None, compile=False)


def with_llm(
    llm: LlmTerms,
    rankings: Mapping[str, Rankings],
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    read_as: PassageTemplate,
    release_path: Path,
    scope: str,
    resampling: Resampling,
    words: Callable[[], Bm25],
) -> tuple[dict[str, Rankings], dict[str, Any]]:
    """Rankings of re-rankers and ceiling, on their questions, and the parts ``cost`` and ``held_out`` of the evaluation.

    Args:
        passages: of the schema PASSAGES, the first of each ranking at least.
        words: opens BM25 over all passages, for its time.
    """
    asked = questions[questions["answers"].str.len() > 0][: llm.questions]
    if asked.empty:
        return {}, {}
    chosen = {system: {key: ranked[key] for key in asked["question_id"]} for system, ranked in rankings.items()}
    judged = _utilities(llm, llm.teacher, chosen, asked, passages)
    found: dict[str, Rankings] = {CEILING: ceiling(chosen[BASE], judged, llm.top_k)}
    parts: dict[str, Any] = {"held_out": held_out(llm, judged, chosen, asked, passages, resampling)}
    reranker, read = llm.open_reranker(), read_as.applied(passages)
    rerankers = {
        QUERY_LIKELIHOOD: partial(
            rerank_by_query_likelihood, questions=asked, passages=passages, teacher=reranker, template=llm.query_template,
            top=llm.top_k,
        ),
        LIST_WISE: partial(
            rerank_by_list, questions=asked, passages=read, model=reranker.model, tokenizer=reranker.tokenizer,
            top=llm.top_k, window=llm.window,
        ),
    }  # fmt: skip
    for name, rerank in rerankers.items():
        found[name] = rerank(chosen[BASE])
    found[UAE_LLM] = rerankers[QUERY_LIKELIHOOD](chosen[UAE])
    if llm.timed_queries:
        release = Release(release_path, llm.device, mapped=True)
        systems = {
            "bm25": lexical_search(words(), asked, scope, _FOUND),
            UAE: vector_search(release, asked, scope, _FOUND),
            **({SECOND_STAGE: vector_search(release, asked, scope, _FOUND, RERANKED)} if RERANKED in release.systems else {}),
            **{name: reranking(rerank, chosen[BASE]) for name, rerank in rerankers.items()},
            UAE_LLM: reranking(rerankers[QUERY_LIKELIHOOD], chosen[UAE]),
        }
        parts["cost"] = time_queries(systems, asked["question_id"].tolist()[: llm.timed_queries])
    return found, parts


def held_out(
    llm: LlmTerms,
    judged: pd.DataFrame,
    chosen: Mapping[str, Rankings],
    asked: pd.DataFrame,
    passages: pd.DataFrame,
    resampling: Resampling,
) -> dict[str, Any]:
    """The utility of the first passage under the teacher and, where there is one, under an LLM of another family.

    ``kept`` is the share of the gain that the other LLM sees. Each LLM's gain is relative to what the base encoder's first
    passages are worth to it, because nats of two LLMs do not compare. ``kept_absolute`` compares them all the same.
    """
    utilities = {"teacher": judged}
    if llm.held_out is not None:
        utilities["held out"] = _utilities(llm, llm.held_out, chosen, asked, passages)
    documents = asked.set_index("question_id")["doc_id"]
    names = {"teacher": llm.teacher.name, "held out": llm.held_out.name if llm.held_out else ""}
    first = {
        role: {system: top_passage_utility(ranked, table) for system, ranked in chosen.items()}
        for role, table in utilities.items()
    }
    result: dict[str, Any] = {
        "teachers": [
            {
                "name": names[role],
                "role": role,
                "top_passage_utility": {system: mean_of(values, documents, resampling) for system, values in of_systems.items()},
                "gain": gain_of(of_systems[BASE], of_systems[UAE], documents, resampling),
            }
            for role, of_systems in first.items()
        ]
    }
    if llm.held_out is not None:
        result["agreement"] = agreement(judged, utilities["held out"], *resampling)
        result |= _kept(first, documents, resampling)
    return result


def _kept(first: Mapping[str, Mapping[str, pd.Series]], documents: pd.Series, resampling: Resampling) -> dict[str, Any]:
    """How much of the teacher's gain the held-out LLM sees, where that can be said."""
    ours, theirs = ((of_systems[BASE], of_systems[UAE]) for of_systems in first.values())
    pairs = [(base.to_numpy(), uae.to_numpy()) for base, uae in (ours, theirs)]
    asked = documents[ours[0].index]
    if independent_units(asked).over == "documents":
        groups = asked.to_numpy()
        pairs = [(sums_by_group(base, groups), sums_by_group(uae, groups)) for base, uae in pairs]
    result: dict[str, Any] = {}
    if kept := kept_gain(pairs[0], pairs[1], *resampling):
        result["kept"], *result["kept_interval"] = kept
    if (gain := float((ours[1] - ours[0]).mean())) > 0:
        result["kept_absolute"] = float((theirs[1] - theirs[0]).mean()) / gain
    return result


def _utilities(
    llm: LlmTerms, teacher: Asked, chosen: Mapping[str, Rankings], asked: pd.DataFrame, passages: pd.DataFrame
) -> pd.DataFrame:
    """Of the base encoder's first passages, and of what each system ranks first."""
    pairs = pd.concat([ranked_pairs([chosen[BASE]], llm.top_k), ranked_pairs(chosen.values(), 1)]).drop_duplicates()
    return passage_utilities(
        teacher, pairs.reset_index(drop=True), asked, passages, llm.answers_per_question,
        store_path=llm.store_path, readings_per_part=llm.readings_per_part, **llm.aggregation,
    )  # fmt: skip
