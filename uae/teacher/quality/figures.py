"""Is what the teacher says worth learning? Figures about the labels, taken before anybody trains on them."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from scipy.stats import binomtest, spearmanr

from uae.io.errors import ArtefactError
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import mean_with_interval, paired_gain
from uae.teacher.quality.verdict import weigh

METRICS = ("recall@1", "map", "auc")
SYSTEMS = {"utility": "utility", "base": "score"}  # what ranks the candidates -> the column it ranks by
_PAIR = ["question_id", "passage_id"]
_FEWEST_FOR_SPEARMAN = 3  # of two passages the correlation is 1 or -1, whatever they are
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the temperature in use: what another choice would do to the weights
_EXAMPLES = 4  # of each kind
_SHOWN = 2  # passages of an example: the first by utility, the first by base score, and the first evidence by utility


def judge(
    utilities: pd.DataFrame,
    by_template: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    answer_tokens: pd.Series,
    temperature: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict:
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

    Returns:
        ``questions``, ``settings``; the sections ``ranking``, ``agreement``, ``length``, ``help``, ``grading``, each with the
        number of questions it rests on, or None where ``left_out`` says why; ``examples``; ``warnings``, ``verdict``, ``basis``
        and ``summary`` (see quality_verdict).

    Raises:
        ArtefactError: there are no pairs, or utilities, candidates, questions and answer lengths do not belong together.
    """
    pairs = pair_table(utilities, candidates, questions, temperature)
    each = question_table(pairs, questions, answer_tokens, temperature)
    bootstrap = _Bootstrap(confidence, resamples, seed)
    agreement = _agreement(pairs, by_template, temperature, bootstrap)
    ranking = _ranking(each, bootstrap)
    report = {
        "questions": _counts(each, questions),
        "settings": {"temperature": temperature, "confidence": confidence, "resamples": resamples, "seed": seed},
        "ranking": ranking,
        "agreement": agreement,
        "length": _length(each),
        "help": _help(pairs, each, confidence),
        "grading": _grading(pairs, each, temperature, bootstrap),
        "left_out": _left_out(each, ranking, agreement, by_template),
        "examples": _examples(pairs, each, questions),
    }
    report = _plain(report)
    return report | weigh(report)


def pair_table(utilities: pd.DataFrame, candidates: pd.DataFrame, questions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """One row a candidate pair, by question, best utility first.

    Columns: ``question_id``, ``passage_id``, ``utility``, ``score``, ``source``, ``gold`` (is evidence), ``log_weight`` (of the
    teacher's distribution), ``utility_place`` and ``base_place`` (1, 2, ... within the candidates; ties by passage_id).

    Raises:
        ArtefactError: as ``judge``.
    """
    for name, table in (("utilities", utilities), ("candidates", candidates)):
        if table.duplicated(_PAIR).any():
            raise ArtefactError(f"the {name} hold a pair twice: {_first(table[table.duplicated(_PAIR)])}; run their stage again")
    pairs = candidates[[*_PAIR, "source", "score"]].merge(
        utilities[[*_PAIR, "utility"]], on=_PAIR, how="outer", indicator="found"
    )
    if pairs.empty:
        raise ArtefactError("there are no labelled pairs to judge: run the candidates and the label stage first")
    if (lone := pairs["found"] != "both").any():
        raise ArtefactError(
            f"utilities and candidates differ in {lone.sum()} pairs, first {_first(pairs[lone])}: run the label stage again"
        )
    if unknown := set(pairs["question_id"]) - set(questions["question_id"]):
        raise ArtefactError(f"candidates of unknown questions, first {min(unknown)}: run the candidates stage again")
    pairs = pairs.drop(columns="found").astype({"utility": np.float64, "score": np.float64})
    if (broken := ~np.isfinite(pairs[["utility", "score"]]).all(axis=1)).any():
        raise ArtefactError(
            f"utility or base score of {_first(pairs[broken])} is not a finite number, which no sound model gives: "
            "check the weights of models.student and of the teachers, then run the candidates and the label stage again. "
            "The stored labels of other pairs stay as they are"
        )
    evidence = {
        (question_id, passage_id)
        for question_id, passage_ids in zip(questions["question_id"], questions["evidence"], strict=True)
        for passage_id in passage_ids
    }
    pairs["gold"] = [pair in evidence for pair in pairs[_PAIR].itertuples(index=False, name=None)]
    pairs["log_weight"] = _log_weights(pairs, "utility", temperature)
    pairs["utility_place"] = _places(pairs, "utility")
    pairs["base_place"] = _places(pairs, "score")
    return pairs.sort_values(["question_id", "utility_place"], ignore_index=True)


def question_table(pairs: pd.DataFrame, questions: pd.DataFrame, answer_tokens: pd.Series, temperature: float) -> pd.DataFrame:
    """One row a labelled question, by question_id, from ``pair_table``'s rows.

    Columns: ``candidates``, ``evidence`` (passages listed), ``gold`` (of them among the candidates), ``judged``, ``best`` and
    ``spread`` (of the utilities), ``tokens``; of the teacher's distribution ``entropy`` (nats), ``normalised_entropy`` (of
    log n; NaN for one candidate), ``effective`` (e to the entropy: the number of passages it amounts to), ``outside_top``,
    ``outside_gold``; and ``utility_recall@1``, ``base_auc`` and so on. What needs judging is NaN where a question is not judged.

    Raises:
        ArtefactError: an answer's length is missing.
    """
    groups = pairs.groupby("question_id")
    each = pd.DataFrame({"candidates": groups.size(), "gold": groups["gold"].sum(), "best": groups["utility"].max()})
    each["spread"] = each["best"] - groups["utility"].min()
    each["evidence"] = questions.set_index("question_id")["evidence"].map(lambda ids: len(set(ids)))
    each["judged"] = (each["gold"] > 0) & (each["gold"] < each["candidates"])
    each["tokens"] = answer_tokens.astype(np.float64)
    if (unknown := each["tokens"].isna()).any():
        raise ArtefactError(
            f"{unknown.sum()} labelled questions have no answer length, first {each.index[unknown][0]}: run the label stage again"
        )
    each = each.join(_weights(pairs, each["judged"], temperature))
    return each.join(_rank_metrics(pairs[pairs["question_id"].map(each["judged"])]))


class _Bootstrap(NamedTuple):
    confidence: float
    resamples: int
    seed: int

    def mean(self, values: pd.Series) -> dict | None:
        """Of per-question values; undefined ones (NaN) are left out and do not count as questions."""
        values = values.dropna().to_numpy(dtype=np.float64)
        if not len(values):
            return None
        return mean_with_interval(values, *self)._asdict() | {"questions": len(values)}

    def gain(self, base: pd.Series, system: pd.Series) -> dict | None:
        if len(base) < 2:  # no test of one question
            return None
        gain = paired_gain(base.to_numpy(dtype=np.float64), system.to_numpy(dtype=np.float64), *self)
        relative = gain.relative._asdict() if gain.relative else None
        return {"absolute": gain.absolute._asdict(), "relative": relative, "p_value": gain.p_value, "questions": len(base)}


def _counts(each: pd.DataFrame, questions: pd.DataFrame) -> dict:
    splits = questions.set_index("question_id")["split"].reindex(each.index)
    return {
        "labelled": len(each),
        "by_split": splits.value_counts().sort_index().to_dict(),
        "pairs": each["candidates"].sum(),
        "candidates_per_question": each["candidates"].mean(),
        "with_evidence": (each["evidence"] > 0).sum(),
        "judged": each["judged"].sum(),
    }


def _ranking(each: pd.DataFrame, bootstrap: _Bootstrap) -> dict | None:
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


def _agreement(pairs: pd.DataFrame, by_template: pd.DataFrame, temperature: float, bootstrap: _Bootstrap) -> dict | None:
    """How alike the order of the same passages is under two prompts, or two teachers."""
    readings = by_template.merge(pairs[_PAIR], on=_PAIR)
    if (twice := readings.duplicated(["teacher", "template", *_PAIR])).any():
        raise ArtefactError(f"a template's utilities hold a pair twice: {_first(readings[twice])}")
    if (broken := ~np.isfinite(readings["utility"].astype(np.float64))).any():
        raise ArtefactError(f"a template's utility of {_first(readings[broken])} is not a finite number")
    columns = {key: rows.set_index(_PAIR)["utility"] for key, rows in readings.groupby(["teacher", "template"])}
    found = [_compare(one, other, columns, temperature, bootstrap) for one, other in combinations(sorted(columns), 2)]
    found = [comparison for comparison in found if comparison]
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
    bootstrap: _Bootstrap,
) -> dict | None:
    both = pd.concat({"a": columns[one], "b": columns[other]}, axis=1, join="inner").sort_index().reset_index()
    both = both[both.groupby("question_id")["passage_id"].transform("size") >= _FEWEST_FOR_SPEARMAN]
    if both.empty:
        return None
    groups = both.groupby("question_id")
    first = {column: both[_places(both, column) == 1].set_index("question_id")["passage_id"] for column in ("a", "b")}
    spearman = _spearman(both, "a", "b")
    weights = np.exp(pd.DataFrame({column: _log_weights(both, column, temperature) for column in ("a", "b")}))
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


def _overall(comparisons: list[dict]) -> dict | None:
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


def _length(each: pd.DataFrame) -> dict:
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


def _help(pairs: pd.DataFrame, each: pd.DataFrame, confidence: float) -> dict:
    """Do the passages help the teacher at all?"""
    without = int((each["best"] <= 0).sum())
    interval = binomtest(without, len(each)).proportion_ci(confidence, method="wilson")
    kinds = pairs["source"].where(~pairs["gold"], "evidence")
    names = dict.fromkeys(["evidence", "dense", "random", *sorted(set(kinds))])
    kinds = {kind: pairs["utility"][kinds == kind] for kind in names}
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


def _grading(pairs: pd.DataFrame, each: pd.DataFrame, temperature: float, bootstrap: _Bootstrap) -> dict:
    """Do the weights say more than a yes and a no for each passage? Of questions with two candidates or more."""
    several, judged = each[each["candidates"] > 1], each[each["judged"]]
    best_is_gold = pairs[(pairs["utility_place"] == 1) & pairs["gold"]]["question_id"]
    agreeing = judged[judged.index.isin(best_is_gold)]
    others = pairs[pairs["question_id"].map(each["judged"]) & ~pairs["gold"]] if len(judged) else pairs
    others = others[others.groupby("question_id")["passage_id"].transform("size") >= _FEWEST_FOR_SPEARMAN]
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
            "spearman": bootstrap.mean(_spearman(others, "utility", "score")),
        },
        # training computes the weights in float32, where these are exactly 0
        "vanishing_pairs": (pairs["log_weight"] < np.log(float(np.finfo(np.float32).smallest_subnormal))).sum(),
        "temperatures": [_at(temperature * factor, pairs, each, factor == 1) for factor in _SHARPNESS],
    }


def _at(temperature: float, pairs: pd.DataFrame, each: pd.DataFrame, in_use: bool) -> dict:
    weights = _weights(pairs, each["judged"], temperature)[each["candidates"] > 1]
    means = {name: weights[name].mean() for name in ("normalised_entropy", "effective", "outside_gold")}
    return {"temperature": temperature, "in_use": in_use} | means


def _examples(pairs: pd.DataFrame, each: pd.DataFrame, questions: pd.DataFrame) -> dict:
    """Questions to read: where the teacher contradicts the evidence most, and where it corrects the base encoder most.

    Without any evidence ``corrections`` are the questions where teacher and base encoder differ most in their best passage.
    """
    weights = pairs.assign(weight=np.exp(pairs["log_weight"]))
    best = weights[weights["utility_place"] == 1].set_index("question_id").loc[each.index]
    base = weights[weights["base_place"] == 1].set_index("question_id").loc[each.index]
    judged = each["judged"]
    gap = best["weight"] - base["weight"]
    corrected = judged & best["gold"] & ~base["gold"] if judged.any() else best["passage_id"] != base["passage_id"]
    by_id = questions.set_index("question_id")
    chosen = {"disagreements": _largest(best["weight"][judged & ~best["gold"]]), "corrections": _largest(gap[corrected])}
    return {
        kind: [_example(q, by_id.loc[q], weights[weights["question_id"] == q]) for q in question_ids]
        for kind, question_ids in chosen.items()
    }


def _example(question_id: str, question: pd.Series, rows: pd.DataFrame) -> dict:
    by_base = rows.sort_values("base_place")
    first_evidence = rows["gold"] & (rows["gold"].cumsum() == 1)
    shown = rows[(rows["utility_place"] <= _SHOWN) | (rows["base_place"] <= _SHOWN) | first_evidence]
    columns = ["passage_id", "gold", "utility", "weight", "utility_place", "score", "base_place"]
    return {
        "question_id": question_id,
        "question": question["text"],
        "answer": question["answers"][0] if len(question["answers"]) else "",
        "candidates": len(rows),
        "by_utility": rows["passage_id"][:_SHOWN].tolist(),
        "by_base": by_base["passage_id"][:_SHOWN].tolist(),
        "passages": shown[columns].to_dict("records"),
    }


def _left_out(each: pd.DataFrame, ranking: dict | None, agreement: dict | None, by_template: pd.DataFrame) -> dict[str, str]:
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
        reasons["agreement"] = f"No two templates share a question with {_FEWEST_FOR_SPEARMAN} candidates or more."
    return reasons


def _log_weights(rows: pd.DataFrame, column: str, temperature: float) -> pd.Series:
    """Logarithm of each question's softmax of ``column`` / temperature.

    In log space and float64: a float32 softmax gives exact zeros once spread / temperature exceeds about 100.
    """
    groups = rows.groupby("question_id")
    place = groups.ngroup().to_numpy(), groups.cumcount().to_numpy()
    table = np.full((groups.ngroups, place[1].max() + 1), -np.inf)  # a question a row: thousands of small calls are slow
    table[place] = rows[column] / temperature
    return pd.Series(log_softmax(table, axis=1)[place], index=rows.index)


def _weights(pairs: pd.DataFrame, judged: pd.Series, temperature: float) -> pd.DataFrame:
    """Of each question's weights: entropy, effective number of passages, mass outside the best passage and the evidence."""
    log_weight = _log_weights(pairs, "utility", temperature)
    weight = np.exp(log_weight)
    by_question = pairs["question_id"]
    entropy = (-weight * log_weight).groupby(by_question).sum().clip(lower=0.0)
    sizes = weight.groupby(by_question).size()
    return pd.DataFrame(
        {
            "entropy": entropy,
            "normalised_entropy": (entropy / np.log(sizes.where(sizes > 1))).clip(upper=1.0),
            "effective": np.exp(entropy),
            # sums of what lies outside, not 1 minus what lies inside: a tiny mass keeps its digits
            "outside_top": weight.where(pairs["utility_place"] > 1, 0.0).groupby(by_question).sum(),
            "outside_gold": weight.where(~pairs["gold"], 0.0).groupby(by_question).sum().where(judged),
        }
    )


def _rank_metrics(judged: pd.DataFrame) -> pd.DataFrame:
    """Recall@1, average precision and AUC of each question by each system. Evidence that is no candidate does not count."""
    gold = judged[judged["gold"]].groupby("question_id")["passage_id"].agg(list).to_dict()
    if not gold:
        return pd.DataFrame(columns=[f"{system}_{metric}" for system in SYSTEMS for metric in METRICS], dtype=np.float64)
    parts = []
    for system, column in SYSTEMS.items():
        rankings = judged.sort_values(f"{system}_place").groupby("question_id")["passage_id"].agg(list).to_dict()
        metrics = retrieval_metrics(rankings, gold, [1])[["recall@1", "map"]]
        parts.append(metrics.assign(auc=_auc(judged, column)).add_prefix(f"{system}_"))
    return pd.concat(parts, axis=1)


def _auc(judged: pd.DataFrame, column: str) -> pd.Series:
    """Area under the ROC curve of each question by the rank-sum formula; ties count half.

    As scikit-learn's roc_auc_score (tested against it), which takes milliseconds a question.
    """
    ranks = judged.groupby("question_id")[column].rank()
    of_gold = ranks[judged["gold"]].groupby(judged["question_id"]).agg(["mean", "size"])
    others = (~judged["gold"]).groupby(judged["question_id"]).sum()
    return (of_gold["mean"] - (of_gold["size"] + 1) / 2) / others


def _by_chance(candidates: pd.Series, gold: pd.Series) -> pd.DataFrame:
    """What a random order of each list is expected to reach (two candidates or more).

    Average precision: place k holds evidence with probability g/n, and then each of the k - 1 before it with (g-1)/(n-1);
    the sum of 1/n (1 + (k-1) (g-1)/(n-1)) / k over k, H_n being the sum of 1/k, is the second line.
    """
    harmonic = candidates.map(lambda n: math.fsum(1 / k for k in range(1, n + 1)))
    precision = (harmonic + (gold - 1) / (candidates - 1) * (candidates - harmonic)) / candidates
    return pd.DataFrame({"recall@1": 1 / candidates, "map": precision, "auc": 0.5})


def _spearman(rows: pd.DataFrame, one: str, other: str) -> pd.Series:
    """Rank correlation of two columns within each question; NaN where one of them is constant."""
    if rows.empty:
        return pd.Series(dtype=np.float64)
    return rows.groupby("question_id")[[one, other]].corr(method="spearman").xs(one, level=1)[other]


def _correlation(one: pd.Series, other: pd.Series) -> dict | None:
    """Spearman's over questions with its two-sided p-value; None where there is no order to compare."""
    if len(one) < _FEWEST_FOR_SPEARMAN or one.nunique() < 2 or other.nunique() < 2:
        return None
    result = spearmanr(one, other)
    return {"spearman": result.statistic, "p_value": result.pvalue, "questions": len(one)}


def _places(rows: pd.DataFrame, column: str) -> pd.Series:
    """1, 2, ... by falling ``column`` within each question, ties by passage_id."""
    ordered = rows.sort_values(["question_id", column, "passage_id"], ascending=[True, False, True])
    return (ordered.groupby("question_id").cumcount() + 1).loc[rows.index]


def _largest(values: pd.Series) -> list[str]:
    """The questions of the largest values; ties by question_id, which is the order of ``values``."""
    return values.sort_values(ascending=False, kind="stable").index[:_EXAMPLES].tolist()


def _first(rows: pd.DataFrame) -> str:
    return f"question {rows['question_id'].iloc[0]}, passage {rows['passage_id'].iloc[0]}"


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, and None for what is not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
