"""How alike the order of the same passages is under two prompts, or two teachers."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from uae.io.errors import ArtefactError
from uae.teacher.quality.bootstrap import Bootstrap, Figure
from uae.teacher.quality.tables import PAIR, first_pair, log_weights, places, spearman_by_question

FEWEST_FOR_SPEARMAN = 3  # of two passages the correlation is 1 or -1, whatever they are


def agreement(pairs: pd.DataFrame, by_template: pd.DataFrame, temperature: float, bootstrap: Bootstrap) -> Figure | None:
    """How alike the order of the same passages is under two prompts, or two teachers."""
    readings = by_template.merge(pairs[PAIR], on=PAIR)
    if (twice := readings.duplicated(["teacher", "template", *PAIR])).any():
        raise ArtefactError(f"a template's utilities hold a pair twice: {first_pair(readings[twice])}")
    if (broken := ~np.isfinite(readings["utility"].astype(np.float64))).any():
        raise ArtefactError(f"a template's utility of {first_pair(readings[broken])} is not a finite number")
    columns = {
        (str(teacher), str(template)): rows.set_index(PAIR)["utility"]
        for (teacher, template), rows in readings.groupby(["teacher", "template"])
    }
    compared = [_compare(one, other, columns, temperature, bootstrap) for one, other in combinations(sorted(columns), 2)]
    found = [comparison for comparison in compared if comparison]
    if not found:
        return None
    return {
        "pairs": found,
        "templates": _overall([c for c in found if c["kind"] == "templates"]),
        "teachers": _overall([c for c in found if c["kind"] != "templates"]),
    }


def _compare(
    one: tuple[str, str],
    other: tuple[str, str],
    columns: Mapping[tuple[str, str], pd.Series],
    temperature: float,
    bootstrap: Bootstrap,
) -> Figure | None:
    both = pd.concat({"a": columns[one], "b": columns[other]}, axis=1, join="inner").sort_index().reset_index()
    both = both[both.groupby("question_id")["passage_id"].transform("size") >= FEWEST_FOR_SPEARMAN]
    if both.empty:
        return None
    groups = both.groupby("question_id")
    first = {column: both[places(both, column) == 1].set_index("question_id")["passage_id"] for column in ("a", "b")}
    spearman = spearman_by_question(both, "a", "b")
    weights = np.exp(pd.DataFrame({column: log_weights(both, column, temperature) for column in ("a", "b")}))
    kind = "templates" if one[0] == other[0] else "teachers" if one[1] == other[1] else "teachers and templates"
    return {
        "kind": kind,
        "a": {"teacher": one[0], "template": one[1]},
        "b": {"teacher": other[0], "template": other[1]},
        "questions": groups.ngroups,
        "pairs": len(both),
        "undefined": spearman.isna().sum(),  # all passages alike under one of the two: no order to compare
        "spearman": bootstrap.mean(spearman),
        "same_top": bootstrap.mean((first["a"] == first["b"].reindex(first["a"].index)).astype(np.float64)),
        "same_top_chance": (1 / groups.size()).mean(),
        # what training sees: noise between two useless passages costs correlation, but moves no weight
        "shared_weight": bootstrap.mean(weights.min(axis=1).groupby(both["question_id"]).sum()),
        "median_absolute_difference": (both["a"] - both["b"]).abs().median(),
        "median_spread": (groups[["a", "b"]].max() - groups[["a", "b"]].min()).mean(axis=1).median(),
    }


def _overall(comparisons: list[Figure]) -> Figure | None:
    """Mean over the comparisons, weighted by the questions each rests on."""
    found = [comparison for comparison in comparisons if comparison["spearman"]]
    if not found:
        return None
    weights = [comparison["spearman"]["questions"] for comparison in found]
    means = {
        name: np.average([comparison[name]["mean"] for comparison in found], weights=weights)
        for name in ("spearman", "shared_weight")
    }
    return means | {"questions": max(weights)}
