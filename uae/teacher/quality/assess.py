"""Is what the teacher says worth learning? Figures about the labels, taken before anybody trains on them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, spearmanr

from uae.teacher.noise import Noise
from uae.teacher.quality.agreement import FEWEST_FOR_SPEARMAN, agreement
from uae.teacher.quality.bootstrap import Bootstrap, Figure
from uae.teacher.quality.examples import examples
from uae.teacher.quality.tables import (
    METRICS,
    SYSTEMS,
    pair_table,
    question_table,
    spearman_by_question,
    weights_table,
)
from uae.teacher.quality.verdict import weigh

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the temperature in use: what another choice would do to the weights


def assess(
    utilities: pd.DataFrame,
    by_template: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    answer_tokens: pd.Series,
    temperature: float,
    confidence: float,
    resamples: int,
    seed: int,
    noise: Noise | None = None,
) -> Figure:
    """The label-quality report: can be written as JSON, undefined figures are None.

    Utility and base encoder are compared on the same candidate lists. The evidence only judges; no label was made from it.
    A question is *judged* where its candidates hold both evidence and other passages: else there is nothing to rank.

    Args:
        utilities: question_id, passage_id, utility (nats per answer token): a row a candidate pair, as training will see it.
        by_template: question_id, passage_id, teacher, template, utility: the same pairs under each prompt alone. A template may
            cover a sample of the questions only; pairs that are no candidates are left out.
        candidates: of the schema CANDIDATES.
        questions: of the schema QUESTIONS. Questions without candidates are left out.
        answer_tokens: question_id -> mean number of the teacher's tokens in the answers it was asked about.
        temperature: nats per token; the weights are ``softmax(utility / temperature)`` over a question's candidates.
        confidence: of the intervals, in (0, 1); a p-value counts as significant below ``1 - confidence``.
        resamples: of the bootstrap and the randomisation test.
        seed: of both.
        noise: the error of the utilities by the number format that they were read in; None where they are no nats any more
            (teachers that were standardised), or are exact.

    Returns:
        ``questions``, ``settings``; the sections ``ranking``, ``agreement``, ``length``, ``help``, ``grading``, ``noise``, each
        with the number of questions it rests on, or None where ``left_out`` says why (``noise``: where there is none);
        ``examples``; ``warnings``, ``verdict``, ``basis`` and ``summary`` (see verdict.py).

    Raises:
        ArtefactError: there are no pairs, or utilities, candidates, questions and answer lengths do not belong together.
    """
    pairs = pair_table(utilities, candidates, questions, temperature)
    each = question_table(pairs, questions, answer_tokens, temperature)
    bootstrap = Bootstrap(confidence, resamples, seed)
    compared = agreement(pairs, by_template, temperature, bootstrap)
    ranking = _ranking(each, bootstrap)
    report = {
        "questions": _counts(each, questions),
        "settings": {"temperature": temperature, "confidence": confidence, "resamples": resamples, "seed": seed},
        "ranking": ranking,
        "agreement": compared,
        "length": _length(each),
        "help": _help(pairs, each, noise.largest if noise else 0.0, confidence),
        "noise": _noise(each, noise, temperature) if noise else None,
        "grading": _grading(pairs, each, temperature, bootstrap),
        "left_out": _left_out(each, ranking, compared, by_template),
        "examples": examples(pairs, each, questions),
    }
    plain: Figure = _plain(report)
    return plain | weigh(plain)


def _counts(each: pd.DataFrame, questions: pd.DataFrame) -> Figure:
    splits = questions.set_index("question_id")["split"].reindex(each.index)
    return {
        "labelled": len(each),
        "by_split": splits.value_counts().sort_index().to_dict(),
        "pairs": each["candidates"].sum(),
        "candidates_per_question": each["candidates"].mean(),
        "with_evidence": (each["evidence"] > 0).sum(),
        "judged": each["judged"].sum(),
    }


def _ranking(each: pd.DataFrame, bootstrap: Bootstrap) -> Figure | None:
    """How well utility and base score place the evidence among the candidates."""
    judged = each[each["judged"]]
    if judged.empty:
        return None
    chance, ceiling = _by_chance(judged["candidates"], judged["gold"]), {"recall@1": (1 / judged["gold"]).mean()}
    has_evidence, found = each["evidence"] > 0, each["gold"] > 0
    return {
        "questions": len(judged),
        "left_out": {
            "without_evidence": (~has_evidence).sum(),
            "evidence_not_a_candidate": (has_evidence & ~found).sum(),
            "nothing_but_evidence": (found & ~each["judged"]).sum(),
        },
        "evidence_passages": judged["gold"].sum(),
        "evidence_passages_not_candidates": (judged["evidence"] - judged["gold"]).sum(),
        "metrics": {
            metric: {system: bootstrap.mean(judged[f"{system}_{metric}"]) for system in SYSTEMS}
            | {
                "chance": chance[metric].mean(),
                "ceiling": ceiling.get(metric, 1.0),
                "gain": bootstrap.gain(judged[f"base_{metric}"], judged[f"utility_{metric}"]),
            }
            for metric in METRICS
        },
    }


def _length(each: pd.DataFrame) -> Figure:
    """Do long answers get other labels than short ones?"""
    judged = each[each["judged"]]
    # Right-closed between the quartiles. Lengths are whole numbers, so quartiles can coincide: then there are fewer groups.
    inner = np.unique(np.quantile(each["tokens"], [0, 0.25, 0.5, 0.75, 1]))[1:-1]
    groups = [
        {
            "low": rows["tokens"].min(),
            "high": rows["tokens"].max(),
            "questions": len(rows),
            "mean_best": rows["best"].mean(),
            "mean_spread": rows["spread"].mean(),
            "judged": rows["judged"].sum(),
            "recall@1": rows["utility_recall@1"].mean(),
            "map": rows["utility_map"].mean(),
        }
        for _, rows in each.groupby(np.digitize(each["tokens"], inner, right=True))
    ]
    return {
        "questions": len(each),
        "median_tokens": each["tokens"].median(),
        "best": _correlation(each["tokens"], each["best"]),
        "spread": _correlation(each["tokens"], each["spread"]),
        "recall@1": _correlation(judged["tokens"], judged["utility_recall@1"]),
        "groups": groups,
    }


def _help(pairs: pd.DataFrame, each: pd.DataFrame, error: float, confidence: float) -> Figure:
    """Do the passages help the teacher at all? A passage that helps by no more than the utilities' ``error`` does not."""
    without = int((each["best"] <= error).sum())
    interval = binomtest(without, len(each)).proportion_ci(confidence, method="wilson")
    kind_of = pairs["source"].where(~pairs["gold"], "evidence")
    names = dict.fromkeys(["evidence", "dense", "random", *sorted(set(kind_of))])
    kinds = {kind: pairs["utility"][kind_of == kind] for kind in names}
    return {
        "questions": len(each),
        "pairs": len(pairs),
        "no_passage_helps": {
            "questions": without,
            "share": without / len(each),
            "low": interval.low,
            "high": interval.high,
        },
        "negative_pairs": {"pairs": (pairs["utility"] < 0).sum(), "share": (pairs["utility"] < 0).mean()},
        "quantiles": [
            {"quantile": q, "utility": pairs["utility"].quantile(q), "best": each["best"].quantile(q)} for q in _QUANTILES
        ],
        "by_kind": [  # random passages show what any text in the prompt does
            {"kind": kind, "pairs": len(u), "median_utility": u.median(), "share_positive": (u > 0).mean()}
            for kind, u in kinds.items()
            if len(u)
        ],
    }


def _noise(each: pd.DataFrame, noise: Noise, temperature: float) -> Figure:
    """How much of the labels is the rounding of the number format that the teacher computed in?"""
    several = each[each["candidates"] > 1]
    within = int((several["spread"] <= noise.spread).sum())
    return {
        "questions": len(several),
        "sd": noise.sd,
        "spread": noise.spread,
        "weight_ratio": math.exp(min(noise.spread / temperature, 700.0)),  # two passages of equal worth, at worst
        "within": within,
        "share": within / len(several) if len(several) else None,
    }


def _grading(pairs: pd.DataFrame, each: pd.DataFrame, temperature: float, bootstrap: Bootstrap) -> Figure:
    """Do the weights say more than a yes and a no for each passage? Of questions with two candidates or more."""
    several, judged = each[each["candidates"] > 1], each[each["judged"]]
    best_is_gold = pairs[(pairs["utility_place"] == 1) & pairs["gold"]]["question_id"]
    agreeing = judged[judged.index.isin(best_is_gold)]
    others = pairs[pairs["question_id"].map(each["judged"]) & ~pairs["gold"]] if len(judged) else pairs
    others = others[others.groupby("question_id")["passage_id"].transform("size") >= FEWEST_FOR_SPEARMAN]
    return {
        "questions": len(several),
        "single_candidate": len(each) - len(several),
        "candidates": several["candidates"].mean(),
        "entropy": bootstrap.mean(several["entropy"]),
        "normalised_entropy": bootstrap.mean(several["normalised_entropy"]),
        "effective_passages": bootstrap.mean(several["effective"]),
        "outside_top": bootstrap.mean(several["outside_top"]),
        "outside_gold": bootstrap.mean(judged["outside_gold"]),
        "best_is_gold": {"questions": len(agreeing), "share": len(agreeing) / len(judged)} if len(judged) else None,
        # Where the best passage is no evidence, weight outside it is the teacher's error, or evidence that nobody marked:
        # it says nothing about how graded the labels are.
        "outside_gold_where_best_is_gold": bootstrap.mean(agreeing["outside_gold"]),
        "nearly_all_on_gold": bootstrap.mean((judged["outside_gold"] < 0.1).astype(np.float64)),
        "base_score": {
            "among": "passages that are no evidence" if len(judged) else "all passages",
            "spearman": bootstrap.mean(spearman_by_question(others, "utility", "score")),
        },
        # training computes the weights in float32, where these are exactly 0
        "vanishing_pairs": (pairs["log_weight"] < np.log(float(np.finfo(np.float32).smallest_subnormal))).sum(),
        "temperatures": [_at(temperature * factor, pairs, each, factor == 1) for factor in _SHARPNESS],
    }


def _at(temperature: float, pairs: pd.DataFrame, each: pd.DataFrame, in_use: bool) -> Figure:
    weights = weights_table(pairs, each["judged"], temperature)[each["candidates"] > 1]
    means = {name: weights[name].mean() for name in ("normalised_entropy", "effective", "outside_gold")}
    return {"temperature": temperature, "in_use": in_use} | means


def _left_out(each: pd.DataFrame, ranking: Figure | None, agreement: Figure | None, by_template: pd.DataFrame) -> dict[str, str]:
    """Section -> why it is missing."""
    reasons = {}
    if ranking is None and not each["evidence"].any():
        reasons["ranking"] = (
            "No labelled question has evidence passages. Utility labels need none, but then nothing here can say "
            "whether the labels find the right passage."
        )
    elif ranking is None:
        reasons["ranking"] = (
            f"{(each['evidence'] > 0).sum()} labelled questions have evidence passages, but in none of them do the candidates "
            "hold both evidence and other passages. Set candidates.gold to true in params.yaml and label again."
        )
    if agreement is None and len(by_template[["teacher", "template"]].drop_duplicates()) < 2:
        reasons["agreement"] = (
            "Only one prompt template was read, so nothing says how much of a label is the wording of the prompt. A check "
            "template, read for a sample of the questions, would."
        )
    elif agreement is None:
        reasons["agreement"] = f"No two templates share a question with {FEWEST_FOR_SPEARMAN} candidates or more."
    return reasons


def _by_chance(candidates: pd.Series, gold: pd.Series) -> pd.DataFrame:
    """What a random order of each list is expected to reach (two candidates or more).

    Of average precision: place k holds evidence with probability g/n. Then each of the k - 1 places before it holds evidence
    with probability (g-1)/(n-1). So the mean is the sum over k of 1/n (1 + (k-1) (g-1)/(n-1)) / k. With H_n, the sum of 1/k
    over k, that is the second line of the code.
    """
    harmonic = candidates.map(lambda n: math.fsum(1 / k for k in range(1, n + 1)))
    precision = (harmonic + (gold - 1) / (candidates - 1) * (candidates - harmonic)) / candidates
    return pd.DataFrame({"recall@1": 1 / candidates, "map": precision, "auc": 0.5})


def _correlation(one: pd.Series, other: pd.Series) -> Figure | None:
    """Spearman's over questions with its two-sided p-value; None where there is no order to compare."""
    if len(one) < FEWEST_FOR_SPEARMAN or one.nunique() < 2 or other.nunique() < 2:
        return None
    result = spearmanr(one, other)
    return {"spearman": result.statistic, "p_value": result.pvalue, "questions": len(one)}


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, and None for what is not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
