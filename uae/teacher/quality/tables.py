"""The tables that the label-quality figures are taken from: a row a candidate pair, and a row a question."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from uae.io.errors import ArtefactError
from uae.measures.metrics import retrieval_metrics

METRICS = ("recall@1", "map", "auc")
SYSTEMS = {"utility": "utility", "base": "score"}  # what ranks the candidates -> the column it ranks by
PAIR = ["question_id", "passage_id"]


def pair_table(utilities: pd.DataFrame, candidates: pd.DataFrame, questions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """One row a candidate pair, by question, best utility first.

    Columns: ``question_id``, ``passage_id``, ``utility``, ``score``, ``source``, ``gold`` (is evidence), ``log_weight`` (of the
    teacher's distribution), ``utility_place`` and ``base_place`` (1, 2, ... within the candidates; ties by passage_id).

    Raises:
        ArtefactError: a pair stands twice or in one of the two only, its question is unknown, or a value is not finite.
    """
    for name, table in (("utilities", utilities), ("candidates", candidates)):
        if (twice := table.duplicated(PAIR)).any():
            raise ArtefactError(f"the {name} hold a pair twice: {first_pair(table[twice])}; run their stage again")
    pairs = candidates[[*PAIR, "source", "score"]].merge(utilities[[*PAIR, "utility"]], on=PAIR, how="outer", indicator="found")
    if pairs.empty:
        raise ArtefactError("there are no labelled pairs to judge: run the candidates and the label stage first")
    if (lone := pairs["found"] != "both").any():
        raise ArtefactError(
            f"utilities and candidates differ in {lone.sum()} pairs, first {first_pair(pairs[lone])}: run the label stage again"
        )
    if unknown := set(pairs["question_id"]) - set(questions["question_id"]):
        raise ArtefactError(f"candidates of unknown questions, first {min(unknown)}: run the candidates stage again")
    pairs = pairs.drop(columns="found").astype({"utility": np.float64, "score": np.float64})
    broken = ~pd.Series(np.isfinite(pairs[["utility", "score"]].to_numpy()).all(axis=1), index=pairs.index)
    if broken.any():
        raise ArtefactError(
            f"utility or base score of {first_pair(pairs[broken])} is not a finite number, which no sound model gives: "
            "check the weights of models.student and of the teachers, then run the candidates and the label stage again. "
            "The stored labels of other pairs stay as they are"
        )
    evidence = {
        (question_id, passage_id)
        for question_id, passage_ids in zip(questions["question_id"], questions["evidence"], strict=True)
        for passage_id in passage_ids
    }
    pairs["gold"] = [pair in evidence for pair in pairs[PAIR].itertuples(index=False, name=None)]
    pairs["log_weight"] = log_weights(pairs, "utility", temperature)
    pairs["utility_place"] = places(pairs, "utility")
    pairs["base_place"] = places(pairs, "score")
    return pairs.sort_values(["question_id", "utility_place"], ignore_index=True)


def question_table(pairs: pd.DataFrame, questions: pd.DataFrame, answer_tokens: pd.Series, temperature: float) -> pd.DataFrame:
    """One row a labelled question, by question_id, from ``pair_table``'s rows.

    Columns:

    - numbers of passages: ``candidates``, ``evidence`` (listed), ``gold`` (evidence among the candidates);
    - ``judged``; ``best`` and ``spread`` of the utilities; ``tokens``;
    - of the teacher's distribution ``entropy`` (nats), ``normalised_entropy`` (by log n; NaN for one candidate),
      ``effective`` (e to the entropy: the number of passages it amounts to), ``outside_top``, ``outside_gold``;
    - ``utility_recall@1``, ``base_auc`` and so on.

    What needs judging is NaN where a question is not judged.

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
    each = each.join(weights_table(pairs, each["judged"], temperature))
    return each.join(_rank_metrics(pairs[pairs["question_id"].map(each["judged"])]))


def log_weights(rows: pd.DataFrame, column: str, temperature: float) -> pd.Series:
    """Logarithm of each question's softmax of ``column`` / temperature.

    In log space and float64: a float32 softmax gives exact zeros once spread / temperature exceeds about 100.
    """
    groups = rows.groupby("question_id")
    place = groups.ngroup().to_numpy(), groups.cumcount().to_numpy()
    table = np.full((groups.ngroups, place[1].max() + 1), -np.inf)  # a question a row: thousands of small calls are slow
    table[place] = rows[column] / temperature
    return pd.Series(log_softmax(table, axis=1)[place], index=rows.index)


def weights_table(pairs: pd.DataFrame, judged: pd.Series, temperature: float) -> pd.DataFrame:
    """Of each question's weights: entropy, effective number of passages, mass outside the best passage and the evidence."""
    log_weight = log_weights(pairs, "utility", temperature)
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
    gold: dict[Any, list[str]] = judged[judged["gold"]].groupby("question_id")["passage_id"].agg(list).to_dict()
    if not gold:
        return pd.DataFrame(columns=[f"{system}_{metric}" for system in SYSTEMS for metric in METRICS], dtype=np.float64)
    parts = []
    for system, column in SYSTEMS.items():
        rankings: dict[Any, list[str]] = (
            judged.sort_values(f"{system}_place").groupby("question_id")["passage_id"].agg(list).to_dict()
        )
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


def spearman_by_question(rows: pd.DataFrame, one: str, other: str) -> pd.Series:
    """Rank correlation of two columns within each question; NaN where one of them is constant."""
    if rows.empty:
        return pd.Series(dtype=np.float64)
    return rows.groupby("question_id")[[one, other]].corr(method="spearman").xs(one, level=1)[other]


def places(rows: pd.DataFrame, column: str) -> pd.Series:
    """1, 2, ... by falling ``column`` within each question, ties by passage_id."""
    ordered = rows.sort_values(["question_id", column, "passage_id"], ascending=[True, False, True])
    return (ordered.groupby("question_id").cumcount() + 1).loc[rows.index]


def first_pair(rows: pd.DataFrame) -> str:
    return f"question {rows['question_id'].iloc[0]}, passage {rows['passage_id'].iloc[0]}"
