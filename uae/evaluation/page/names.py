"""What systems and metrics are called on the page, what they mean, in which order they stand, and how they look."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from uae.evaluation.testset import BASE, UAE


class System(NamedTuple):
    name: str
    colour: str
    marker: str  # systems are told apart without their colours, too


SYSTEMS = {
    "bm25": System("BM25", "#8b929a", "v"),
    BASE: System("base encoder", "#4b5563", "s"),
    "hybrid": System("hybrid (BM25 + base)", "#7a5195", "D"),
    "convex_base": System("BM25 + base, best form", "#a05195", "<"),
    "infonce": System("InfoNCE on evidence", "#b7791f", "^"),
    UAE: System("UAE", "#17607a", "o"),
    "dense": System("UAE, dense leg alone", "#0f9fb5", ">"),
    "second_stage": System("UAE, then its second stage", "#1d3557", "H"),
    "rerank_query_likelihood": System("LLM re-ranking, query likelihood", "#b23b2e", "P"),
    "rerank_list": System("LLM re-ranking, list-wise", "#c2577a", "X"),
    "uae_llm_rerank": System("UAE, then LLM re-ranking", "#8a3ffc", "p"),
    "ceiling": System("teacher’s ceiling (sees the gold answer)", "#2b7a43", "*"),
}
METRICS = {
    "map": ("MAP", "how far up all of a question’s evidence stands (mean average precision)."),
    "mrr": ("MRR", "1 divided by the place of the first evidence passage."),
    "ndcg@10": ("nDCG@10", "evidence among the first ten passages, counting less the further down it stands."),
    "token_f1": ("token F1", "words that the reader LLM’s answer shares with a gold answer, compared as SQuAD does."),
    "exact_match": ("exact match", "share of the reader LLM’s answers that equal a gold answer, compared as SQuAD does."),
    "answer_recall": ("answer recall", "share of a gold answer’s words that the reader LLM’s answer holds."),
    "k_precision": (
        "K-precision",
        "share of the words of the reader LLM’s answer that stand in the passages it was given: whether it keeps to them, not "
        "whether it is right.",
    ),
}
ORDERS = {"best_first": "best first", "best_at_both_ends": "best at both ends"}  # of the passages that a reader is given
_UNKNOWN = ("#5f7f95", "h")  # colour and marker of a system that is not listed


def label(system: str) -> str:
    return SYSTEMS[system].name if system in SYSTEMS else system


def look(system: str) -> dict[str, Any]:
    """How matplotlib draws a system."""
    found = SYSTEMS.get(system, System(system, *_UNKNOWN))
    return {"color": found.colour, "marker": found.marker, "label": plain(found.name)}


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def metric_name(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric.capitalize()


def meaning(metric: str) -> str | None:
    if metric == "recall@1":
        return "share of a question’s evidence passages that stands first."
    if metric.startswith("recall@"):
        return f"share of a question’s evidence passages that stands among the first {metric.removeprefix('recall@')}."
    return METRICS[metric][1] if metric in METRICS else None


def ordered(systems: Iterable[str]) -> list[str]:
    """In the order of ``SYSTEMS``; others come last, in their own order."""
    found = list(systems)
    return [system for system in SYSTEMS if system in found] + [system for system in found if system not in SYSTEMS]


def metrics_of(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every metric that some system has: recalls by their depth, then the others."""
    found = list(dict.fromkeys(metric for table in systems.values() for metric in table))
    known = [metric for metric in METRICS if metric in found]
    recalls = sorted((m for m in found if m.startswith("recall@")), key=lambda metric: int(metric.removeprefix("recall@")))
    return [*recalls, *known, *(metric for metric in found if metric not in recalls and metric not in known)]
