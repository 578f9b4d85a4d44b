"""What evaluation asks an LLM beside answers: re-ranking, the teacher's ceiling, and whether an LLM of another family agrees."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from uae.evaluation.cost import lexical_search, reranking, time_queries, vector_search
from uae.evaluation.judge import agreement, ceiling, passage_utilities, ranked_pairs, top_passage_utility
from uae.evaluation.rerank import rerank_by_list, rerank_by_query_likelihood
from uae.evaluation.testset import BASE, UAE
from uae.measures.fusion import Rankings
from uae.measures.statistics import kept_gain, mean_with_interval, paired_gain
from uae.release.open import Release
from uae.retrievers.lexical import Bm25
from uae.teacher.asking import Asked
from uae.teacher.engines.local import CausalTeacher, load_teacher
from uae.teacher.prompts import Template

QUERY_LIKELIHOOD, LIST_WISE, CEILING = "rerank_query_likelihood", "rerank_list", "ceiling"
_FOUND = 10  # passages that a query asks for when its time is taken


@dataclass(frozen=True)
class Judging:
    """Which LLMs, and how much they are asked."""

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
    judging: Judging,
    rankings: Mapping[str, Rankings],
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    release_path: Path,
    scope: str,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[dict[str, Rankings], dict]:
    """Rankings of re-rankers and ceiling, on their questions, and the parts ``cost`` and ``held_out`` of the evaluation."""
    asked = questions[questions["answers"].str.len() > 0][: judging.questions]
    if asked.empty:
        return {}, {}
    chosen = {system: {key: ranked[key] for key in asked["question_id"]} for system, ranked in rankings.items()}
    terms = {"confidence": confidence, "resamples": resamples, "seed": seed}
    judged = _utilities(judging, judging.teacher, chosen, asked, passages)
    found = {CEILING: ceiling(chosen[BASE], judged, judging.top_k)}
    parts = {"held_out": held_out(judging, judged, chosen, asked, passages, **terms)}
    reranker = judging.open_reranker()
    rerankers = {
        QUERY_LIKELIHOOD: partial(
            rerank_by_query_likelihood, questions=asked, passages=passages, teacher=reranker, template=judging.query_template,
            top=judging.top_k,
        ),
        LIST_WISE: partial(
            rerank_by_list, questions=asked, passages=passages, model=reranker.model, tokenizer=reranker.tokenizer,
            top=judging.top_k, window=judging.window,
        ),
    }  # fmt: skip
    for name, rerank in rerankers.items():
        found[name] = rerank(chosen[BASE])
    if judging.timed_queries:
        release = Release(release_path, judging.device)
        systems = {
            "bm25": lexical_search(Bm25(passages), asked, scope, _FOUND),
            UAE: vector_search(release, asked, scope, _FOUND),
            **{name: reranking(rerank, chosen[BASE]) for name, rerank in rerankers.items()},
        }
        parts["cost"] = time_queries(systems, asked["question_id"].tolist()[: judging.timed_queries])
    return found, parts


def held_out(
    judging: Judging,
    judged: pd.DataFrame,
    chosen: Mapping[str, Rankings],
    asked: pd.DataFrame,
    passages: pd.DataFrame,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict:
    """The utility of the first passage under the teacher and, where there is one, under an LLM of another family.

    ``kept`` is the share of the gain that the other LLM sees, each LLM's gain relative to what the base encoder's first
    passages are worth to it: nats of two LLMs do not compare. ``kept_absolute`` compares them all the same.
    """
    utilities = {"teacher": judged}
    if judging.held_out is not None:
        utilities["held out"] = _utilities(judging, judging.held_out, chosen, asked, passages)
    result: dict = {"teachers": []}
    ends = []
    for role, table in utilities.items():
        name = (judging.teacher if role == "teacher" else judging.held_out).name
        first = {system: top_passage_utility(ranked, table) for system, ranked in chosen.items()}
        means = {
            system: mean_with_interval(values.to_numpy(), confidence, resamples, seed)._asdict() | {"questions": len(values)}
            for system, values in first.items()
        }
        ends.append((first[BASE].to_numpy(), first[UAE].to_numpy()))
        gain = paired_gain(*ends[-1], confidence, resamples, seed)
        result["teachers"].append(
            {
                "name": name,
                "role": role,
                "top_passage_utility": means,
                "gain": {
                    "absolute": gain.absolute._asdict(),
                    "relative": gain.relative._asdict() if gain.relative else None,
                    "p_value": gain.p_value,
                    "questions": len(first[BASE]),
                },
            }
        )
    if judging.held_out is not None:
        result["agreement"] = agreement(judged, utilities["held out"], confidence, resamples, seed)
        ours, theirs = (teacher["gain"] for teacher in result["teachers"])
        if kept := kept_gain(*ends, confidence, resamples, seed):
            result["kept"], *result["kept_interval"] = kept
        if ours["absolute"]["mean"] > 0:
            result["kept_absolute"] = theirs["absolute"]["mean"] / ours["absolute"]["mean"]
    return result


def _utilities(
    judging: Judging, llm: Asked, chosen: Mapping[str, Rankings], asked: pd.DataFrame, passages: pd.DataFrame
) -> pd.DataFrame:
    """Of the base encoder's first passages, and of what each system ranks first."""
    pairs = pd.concat([ranked_pairs([chosen[BASE]], judging.top_k), ranked_pairs(chosen.values(), 1)]).drop_duplicates()
    return passage_utilities(
        llm, pairs.reset_index(drop=True), asked, passages, judging.answers_per_question,
        store_path=judging.store_path, readings_per_part=judging.readings_per_part, **judging.aggregation,
    )  # fmt: skip
