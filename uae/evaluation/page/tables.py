"""Tables of the page that need more than what the evaluation holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from uae.evaluation.page.names import ordered
from uae.evaluation.testset import BASE, UAE
from uae.measures.answers import ANSWER_METRICS


def on_fewer(table: Mapping[str, Mapping[str, Any]], most: Mapping[str, int]) -> bool:
    """Whether a system's retrieval was measured on fewer questions than another's (answers are asked of a part in any case)."""
    return any(table[metric]["questions"] < most[metric] for metric in table if metric not in ANSWER_METRICS)


def same_questions(runs: pd.DataFrame, fewer: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Means of base, UAE and the systems measured on fewer questions, on those questions alone: a block a set of questions."""
    asked = {system: frozenset(group["question_id"]) for system, group in runs.groupby("system")}
    blocks: dict[frozenset[str], list[str]] = {}
    for system in fewer:
        if system in asked and system not in (BASE, UAE):
            blocks.setdefault(asked[system], []).append(system)
    tables = []
    for wanted, members in blocks.items():
        compared = [system for system in (BASE, UAE) if wanted <= asked.get(system, frozenset())]
        part = runs[runs["question_id"].isin(wanted)]
        values = {system: pd.DataFrame(map(dict, part.loc[part["system"] == system, "metrics"])) for system in compared + members}
        shown = [m for m in metrics if all(m in table and table[m].notna().all() for table in values.values())]
        means = {system: table[shown].mean().to_dict() for system, table in values.items()}
        tables.append({"questions": len(wanted), "metrics": shown, "means": means})
    return tables


def slower(cost: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Each system's time a query as a multiple of UAE's."""
    uae = cost.get(UAE, {}).get("ms_per_query")
    return {system: cost[system]["ms_per_query"] / uae for system in ordered(cost)} if uae else {}
