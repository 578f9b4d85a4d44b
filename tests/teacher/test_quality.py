"""Every figure is worked out by hand in a comment, or against another implementation."""

import copy
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from uae.io.errors import ArtefactError
from uae.teacher.quality.assess import assess
from uae.teacher.quality.tables import pair_table, question_table
from uae.teacher.quality.verdict import (
    FEWEST_QUESTIONS,
    FEWEST_READ_TWICE,
    LENGTH_DEPENDENCE,
    LOW_AGREEMENT,
    NO_AGREEMENT,
    NO_PASSAGE_HELPS,
    REPEATS_EVIDENCE,
    SAYS_NOTHING,
    SMALL_GAIN,
    weigh,
)

TAU = 0.5


def tables(rows: dict[str, list[tuple]], evidence: dict[str, list[str]], tokens: dict[str, float] | None = None) -> dict:
    """Arguments of ``assess``. ``rows``: question_id -> (passage_id, utility, base score) each."""
    pairs = pd.DataFrame(
        [(q, p, u, s) for q, passages in rows.items() for p, u, s in passages],
        columns=["question_id", "passage_id", "utility", "score"],
    )
    questions = pd.DataFrame({"question_id": list(rows), "text": [f"What about {q}?" for q in rows]}).assign(
        answers=[[f"answer {q}"] for q in rows], evidence=[evidence.get(q, []) for q in rows], split="train"
    )
    utilities = pairs[["question_id", "passage_id", "utility"]]
    return {
        "utilities": utilities,
        "by_template": utilities.assign(teacher="T", template="t"),
        "candidates": pairs[["question_id", "passage_id", "score"]].assign(source="dense", rank=1),
        "questions": questions,
        "answer_tokens": pd.Series(tokens or dict.fromkeys(rows, 3.0)),
    }


def judged(arguments: dict, temperature: float = TAU, resamples: int = 99) -> dict:
    report = assess(**arguments, temperature=temperature, confidence=0.95, resamples=resamples, seed=1)
    json.dumps(report, allow_nan=False)
    return report


def world(
    teacher: float, base: float, questions: int = 80, evidence: bool = True, templates: float | None = 0.1, seed: int = 5
) -> dict:
    """``questions`` with five candidates, one of them evidence.

    ``teacher`` and ``base`` say how many standard deviations of noise (0.4 nats) the evidence stands above the others.
    ``templates`` is the noise between two prompts, in nats; None: there is one prompt.
    """
    random = np.random.default_rng(seed)
    rows, gold = {}, {}
    for number in range(questions):
        q, place = f"q{number:03}", random.integers(5)
        gold[q] = [f"p{place}"]
        utility, score = random.normal(0.3, 0.4, 5), random.normal(0, 0.4, 5)
        utility[place] += 0.4 * teacher
        score[place] += 0.4 * base
        rows[q] = [(f"p{n}", utility[n], score[n]) for n in range(5)]
    arguments = tables(rows, gold if evidence else {}, {q: float(random.integers(2, 9)) for q in rows})
    if templates is not None:
        first = arguments["by_template"]
        second = first.assign(template="u", utility=first["utility"] + random.normal(0, templates, len(first)))
        arguments["by_template"] = pd.concat([first, second], ignore_index=True)
    return arguments


# q1: utility a b c, base b c a, evidence a. q2: utility a d c b, base a b c d, evidence a b (and z, no candidate).
RANKED = {
    "q1": [("a", 2.0, 0.1), ("b", 1.0, 0.9), ("c", 0.0, 0.5)],
    "q2": [("a", 1.0, 0.4), ("b", -1.0, 0.3), ("c", 0.0, 0.2), ("d", 0.5, 0.1)],
    "q3": [("a", 1.0, 0.4), ("b", 0.0, 0.3)],  # no evidence
    "q4": [("a", 1.0, 0.4), ("b", 0.0, 0.3)],  # its evidence is no candidate
    "q5": [("a", 1.0, 0.4)],  # nothing but evidence
}
EVIDENCE = {"q1": ["a"], "q2": ["a", "b", "z"], "q4": ["y"], "q5": ["a"]}


def expected_by_permutations(n: int, gold: int) -> float:
    def precision(order) -> float:
        hits = [place for place, item in enumerate(order, 1) if item < gold]
        return sum(number / place for number, place in enumerate(hits, 1)) / gold

    orders = list(itertools.permutations(range(n)))
    return sum(map(precision, orders)) / len(orders)


def test_ranking_of_the_evidence():
    ranking = judged(tables(RANKED, EVIDENCE))["ranking"]
    assert ranking["questions"] == 2
    assert ranking["left_out"] == {"without_evidence": 1, "evidence_not_a_candidate": 1, "nothing_but_evidence": 1}
    assert (ranking["evidence_passages"], ranking["evidence_passages_not_candidates"]) == (3, 1)
    metrics = ranking["metrics"]
    means = {m: (metrics[m]["utility"]["mean"], metrics[m]["base"]["mean"]) for m in metrics}
    # q1: utility places a first, base third of three. q2: utility places a first and b last of four, base both in front.
    assert means["recall@1"] == (pytest.approx((1 + 1 / 2) / 2), pytest.approx((0 + 1 / 2) / 2))
    assert means["map"] == (pytest.approx((1 + (1 + 2 / 4) / 2) / 2), pytest.approx((1 / 3 + 1) / 2))
    # of q2's four pairs of evidence and other, utility orders a > c and a > d rightly, b < c and b < d wrongly
    assert means["auc"] == (pytest.approx((1 + 2 / 4) / 2), pytest.approx((0 + 1) / 2))
    assert metrics["recall@1"]["chance"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert metrics["map"]["chance"] == pytest.approx((expected_by_permutations(3, 1) + expected_by_permutations(4, 2)) / 2)
    assert [metrics[m]["ceiling"] for m in metrics] == [pytest.approx((1 + 1 / 2) / 2), 1, 1]
    assert metrics["map"]["gain"]["absolute"]["mean"] == pytest.approx(((1 - 1 / 3) + (3 / 4 - 1)) / 2)
    assert metrics["map"]["gain"]["questions"] == 2


def test_the_gain_is_tested_on_pairs_of_the_same_question():
    # six questions, all of them won: of the 2^6 ways to swap, 2 are as extreme
    rows = {f"q{n}": [("a", 1.0, 0.0), ("b", 0.0, 1.0)] for n in range(6)}
    gain = judged(tables(rows, {q: ["a"] for q in rows}))["ranking"]["metrics"]["map"]["gain"]
    assert gain["absolute"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert gain["relative"]["mean"] == pytest.approx(1.0)
    assert gain["p_value"] == pytest.approx(2 / 64)


def test_one_judged_question_has_no_gain():
    metrics = judged(tables({"q1": RANKED["q1"]}, EVIDENCE))["ranking"]["metrics"]
    assert metrics["map"]["gain"] is None
    assert metrics["map"]["utility"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "questions": 1}


@pytest.mark.parametrize(("gold", "recall"), [("a", 1.0), ("b", 0.0)])
def test_ties_are_broken_by_passage_and_count_half_in_auc(gold, recall):
    rows = {"q": [("b", 1.0, 0.2), ("c", 1.0, 0.1), ("a", 1.0, 0.3)]}
    metrics = judged(tables(rows, {"q": [gold]}))["ranking"]["metrics"]
    assert metrics["recall@1"]["utility"]["mean"] == recall
    assert metrics["auc"]["utility"]["mean"] == 0.5


def test_auc_is_that_of_scikit_learn():
    random = np.random.default_rng(3)
    rows = {f"q{n}": [(f"p{i}", float(random.integers(4)), float(random.normal())) for i in range(3 + n)] for n in range(20)}
    gold = {q: [p for p, _, _ in passages if random.random() < 0.4][:-1] or ["p0"] for q, passages in rows.items()}
    arguments = tables(rows, gold)
    pairs = pair_table(*(arguments[k] for k in ("utilities", "candidates", "questions")), TAU)
    each = question_table(pairs, arguments["questions"], arguments["answer_tokens"], TAU)
    assert each["judged"].all()
    for question_id, group in pairs.groupby("question_id"):
        assert each.loc[question_id, "utility_auc"] == pytest.approx(roc_auc_score(group["gold"], group["utility"]))
        assert each.loc[question_id, "base_auc"] == pytest.approx(roc_auc_score(group["gold"], group["score"]))


def readings(teacher: str, template: str, values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(q, p, u) for q, utilities in values.items() for p, u in zip("abcd", utilities, strict=False)]
    return pd.DataFrame(rows, columns=["question_id", "passage_id", "utility"]).assign(teacher=teacher, template=template)


FIRST = {"q1": [3.0, 2.0, 1.0], "q2": [1.0, 2.0, 3.0], "q3": [1.0, 2.0], "q4": [1.0, 2.0, 3.0], "q5": [1.0, 2.0, 3.0]}
SECOND = {"q1": [3.0, 1.0, 2.0], "q2": [3.0, 2.0, 1.0], "q3": [1.0, 2.0], "q4": [5.0, 5.0, 5.0]}


def agreement_of(*by_template: pd.DataFrame) -> dict | None:
    rows = {q: [(p, u, 0.0) for p, u in zip("abcd", utilities, strict=False)] for q, utilities in FIRST.items()}
    return judged(tables(rows, {}) | {"by_template": pd.concat(by_template)})["agreement"]


def test_agreement_of_two_templates():
    found = agreement_of(readings("T", "t", FIRST), readings("T", "u", SECOND))
    (pair,) = found["pairs"]
    assert pair["kind"] == "templates"
    assert (pair["a"], pair["b"]) == ({"teacher": "T", "template": "t"}, {"teacher": "T", "template": "u"})
    # q3 has two candidates only, q5 was read under one template only
    assert (pair["questions"], pair["pairs"]) == (3, 9)
    # q1: ranks 1 2 3 against 1 3 2, 1 - 6 (0 + 1 + 1) / (3 * 8) = 0.5; q2: reversed, -1; q4: constant, undefined
    assert pair["spearman"]["mean"] == pytest.approx((0.5 - 1) / 2)
    assert (pair["spearman"]["questions"], pair["undefined"]) == (2, 1)
    # first passages: q1 a and a; q2 c and a; q4 c and (a tie) a
    assert pair["same_top"]["mean"] == pytest.approx(1 / 3)
    assert pair["same_top_chance"] == pytest.approx(1 / 3)
    # differences: q1 0 1 1, q2 2 0 2, q4 4 3 2
    assert pair["median_absolute_difference"] == 2
    # spreads, mean of both: q1 2, q2 2, q4 (2 + 0) / 2 = 1
    assert pair["median_spread"] == 2
    # weights are softmax(utility / 0.5): with x = e^2 they are 1, x, x^2 over their sum s. The smaller ones of q1: (x^2, 1, 1)
    # / s, of q2: (1, x, 1) / s. Of q4 they are 1/s, and x/s where it is below 1/3, and 1/3
    x = math.exp(2)
    s = 1 + x + x * x
    shared = [(x * x + 2) / s, (x + 2) / s, 1 / s + x / s + 1 / 3]
    assert pair["shared_weight"]["mean"] == pytest.approx(sum(shared) / 3)
    assert found["templates"] == {
        "spearman": pytest.approx(-0.25), "shared_weight": pytest.approx(sum(shared) / 3), "questions": 2
    }  # fmt: skip
    assert found["teachers"] is None


def test_agreement_says_what_is_compared():
    found = agreement_of(*(readings(teacher, template, FIRST) for teacher in "TU" for template in "tu"))
    kinds = {(c["a"]["teacher"] + c["a"]["template"], c["b"]["teacher"] + c["b"]["template"]): c["kind"] for c in found["pairs"]}
    assert kinds == {
        ("Tt", "Tu"): "templates", ("Ut", "Uu"): "templates", ("Tt", "Ut"): "teachers", ("Tu", "Uu"): "teachers",
        ("Tt", "Uu"): "teachers and templates", ("Tu", "Ut"): "teachers and templates",
    }  # fmt: skip
    assert found["templates"]["spearman"] == found["teachers"]["spearman"] == pytest.approx(1)


def test_overall_agreement_is_weighted_by_questions():
    reversed_ = {"q1": FIRST["q1"][::-1]}
    found = agreement_of(readings("T", "t", FIRST), readings("T", "u", FIRST), readings("T", "v", reversed_))
    # t and u agree on q1 q2 q4 q5; v contradicts each of them on q1
    assert found["templates"]["spearman"] == pytest.approx((4 * 1 + 1 * -1 + 1 * -1) / 6)
    assert found["templates"]["questions"] == 4


@pytest.mark.parametrize(
    ("second", "reason"),
    [(None, "Only one prompt template"), (readings("T", "u", {"q3": [1.0, 2.0]}), "No two templates share a question")],
)
def test_agreement_needs_two_templates_on_the_same_questions(second, reason):
    rows = {q: [(p, u, 0.0) for p, u in zip("abcd", utilities, strict=False)] for q, utilities in FIRST.items()}
    read = [readings("T", "t", FIRST)] + ([] if second is None else [second])
    report = judged(tables(rows, {}) | {"by_template": pd.concat(read)})
    assert report["agreement"] is None
    assert reason in report["left_out"]["agreement"]


def test_readings_of_pairs_that_are_no_candidates_do_not_count():
    more = {q: [*utilities, 9.0] for q, utilities in FIRST.items()}
    found = agreement_of(readings("T", "t", more), readings("T", "u", more))
    assert found["pairs"][0]["pairs"] == 12  # three of each of q1 q2 q4 q5


def test_dependence_on_length():
    # tokens 1 to 8; best utility rises with them; the spread falls from 8 to 1; odd ones are ranked rightly
    rows = {f"q{n}": [("a", n - (9 - n) * (n % 2 == 0), 0.0), ("b", n - (9 - n) * (n % 2), 0.0)] for n in range(1, 9)}
    length = judged(tables(rows, {q: ["a"] for q in rows}, {f"q{n}": float(n) for n in range(1, 9)}))["length"]
    assert (length["best"]["spearman"], length["spread"]["spearman"]) == (pytest.approx(1), pytest.approx(-1))
    assert length["best"]["p_value"] == pytest.approx(0)
    # Recall@1 is 1 0 1 0 ...: the ones' ranks 6.5, the zeros' 2.5 against 1 ... 8: covariance sum -8, variances 42 and 32
    assert length["recall@1"]["spearman"] == pytest.approx(-8 / math.sqrt(42 * 32))
    assert (length["questions"], length["median_tokens"]) == (8, 4.5)
    # quartiles 2.75, 4.5, 6.25
    assert [(g["low"], g["high"], g["questions"]) for g in length["groups"]] == [(1, 2, 2), (3, 4, 2), (5, 6, 2), (7, 8, 2)]
    assert [g["mean_best"] for g in length["groups"]] == [1.5, 3.5, 5.5, 7.5]
    assert [g["mean_spread"] for g in length["groups"]] == [7.5, 5.5, 3.5, 1.5]
    assert {(g["judged"], g["recall@1"], g["map"]) for g in length["groups"]} == {(2, 0.5, 0.75)}


def test_lengths_that_coincide_stay_in_one_group():
    # the quartiles of 1 2 2 2 3 are 2, 2 and 2
    rows = {f"q{n}": [("a", 1.0, 0.0)] for n in range(5)}
    groups = judged(tables(rows, {}, {f"q{n}": float(tokens) for n, tokens in enumerate((1, 2, 2, 2, 3))}))["length"]["groups"]
    assert [(g["low"], g["high"], g["questions"]) for g in groups] == [(1, 2, 4), (3, 3, 1)]


def test_answers_of_one_length_show_no_dependence():
    length = judged(tables(RANKED, {}))["length"]
    assert (length["best"], length["spread"], length["recall@1"]) == (None, None, None)
    (group,) = length["groups"]
    assert (group["low"], group["high"], group["questions"], group["recall@1"]) == (3, 3, 5, None)


def test_do_passages_help():
    # zero does not help; q4's best is below it
    rows = {
        "q1": [("a", 2.0, 0.0), ("b", -1.0, 0.0)],
        "q2": [("a", 0.0, 0.0), ("b", -2.0, 0.0)],
        "q3": [("a", 1.0, 0.0)],
        "q4": [("a", -3.0, 0.0)],
    }
    arguments = tables(rows, {"q1": ["a"]})
    arguments["candidates"]["source"] = ["dense", "random", "dense", "random", "refreshed", "dense"]
    found = judged(arguments)["help"]
    assert (found["questions"], found["pairs"]) == (4, 6)
    # Wilson for 2 of 4 with z = 1.96: (1/2 + z^2/8 -+ z sqrt(1/16 + z^2/64)) / (1 + z^2/4)
    z = 1.959964
    reach = z * math.sqrt(1 / 16 + z * z / 64) / (1 + z * z / 4)
    assert found["no_passage_helps"] == {
        "questions": 2, "share": 0.5, "low": pytest.approx(0.5 - reach, abs=1e-6), "high": pytest.approx(0.5 + reach, abs=1e-6)
    }  # fmt: skip
    assert found["negative_pairs"] == {"pairs": 3, "share": 0.5}
    quantiles = {row["quantile"]: (row["utility"], row["best"]) for row in found["quantiles"]}
    # utilities -3 -2 -1 0 1 2, bests -3 0 1 2
    assert (quantiles[0.0], quantiles[0.5], quantiles[1.0]) == ((-3, -3), (-0.5, 0.5), (2, 2))
    assert found["by_kind"] == [
        {"kind": "evidence", "pairs": 1, "median_utility": 2, "share_positive": 1},
        {"kind": "dense", "pairs": 2, "median_utility": -1.5, "share_positive": 0},
        {"kind": "random", "pairs": 2, "median_utility": -1.5, "share_positive": 0},
        {"kind": "refreshed", "pairs": 1, "median_utility": 1, "share_positive": 1},
    ]


def test_weights():
    # q1: weights 1/4 on the evidence, 3/4 elsewhere; q2: 12/16, 3/16, 1/16, evidence first; q3: one candidate
    unit = TAU * math.log(3)
    rows = {
        "q1": [("a", 0.0, 0.0), ("b", unit, 0.0)],
        "q2": [("a", TAU * math.log(12), 0.0), ("b", unit, 0.0), ("c", 0.0, 0.0)],
        "q3": [("a", 5.0, 0.0)],
    }
    grading = judged(tables(rows, {"q1": ["a"], "q2": ["a"], "q3": ["a"]}))["grading"]
    entropies = [
        -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4)),
        -(3 / 4 * math.log(3 / 4) + 3 / 16 * math.log(3 / 16) + 1 / 16 * math.log(1 / 16)),
    ]
    assert (grading["questions"], grading["single_candidate"], grading["candidates"]) == (2, 1, 2.5)
    assert grading["entropy"]["mean"] == pytest.approx(sum(entropies) / 2)
    assert grading["normalised_entropy"]["mean"] == pytest.approx((entropies[0] / math.log(2) + entropies[1] / math.log(3)) / 2)
    assert grading["effective_passages"]["mean"] == pytest.approx(sum(map(math.exp, entropies)) / 2)
    assert grading["outside_top"]["mean"] == pytest.approx((1 / 4 + 1 / 4) / 2)
    assert grading["outside_gold"]["mean"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert grading["best_is_gold"] == {"questions": 1, "share": 0.5}
    assert grading["outside_gold_where_best_is_gold"]["mean"] == pytest.approx(1 / 4)
    assert grading["nearly_all_on_gold"]["mean"] == 0
    assert grading["vanishing_pairs"] == 0
    at = {row["temperature"]: row for row in grading["temperatures"]}
    assert [temperature for temperature, row in at.items() if row["in_use"]] == [TAU]
    assert at[TAU]["outside_gold"] == pytest.approx(1 / 2)
    # at half the temperature odds are squared: q1 1 to 9; q2 144 to 9 to 1
    assert at[TAU / 2]["outside_gold"] == pytest.approx((9 / 10 + 10 / 154) / 2)


def test_nearly_all_weight_on_the_evidence():
    # 1/11 and 1/9 outside
    rows = {q: [("a", TAU * math.log(odds), 0.0), ("b", 0.0, 0.0)] for q, odds in (("q1", 10), ("q2", 8))}
    assert judged(tables(rows, {"q1": ["a"], "q2": ["a"]}))["grading"]["nearly_all_on_gold"]["mean"] == 0.5


def test_grades_beside_similarity():
    # among the evidence-free passages of q1 (b c d) the orders agree, q2 has too few of them
    rows = {
        "q1": [("a", 0.0, 0.9), ("b", 3.0, 0.3), ("c", 2.0, 0.2), ("d", 1.0, 0.1)],
        "q2": [("a", 0.0, 0.9), ("b", 1.0, 0.1), ("c", 0.5, 0.2)],
    }
    found = judged(tables(rows, {"q1": ["a"], "q2": ["a"]}))["grading"]["base_score"]
    assert (found["spearman"]["mean"], found["spearman"]["questions"]) == (pytest.approx(1), 1)
    found = judged(tables(rows, {}))["grading"]["base_score"]
    # all of them. For q1 utility puts d c b before a: ranks 1 4 3 2 against 4 3 2 1, 1 - 6 (9+1+1+1) / (4*15) = -0.2. For q2: 1
    # 3 2 against 3 1 2, 1 - 6 (4+4+0) / 24 = -1
    assert found["among"] == "all passages"
    assert found["spearman"]["mean"] == pytest.approx((-0.2 - 1) / 2)


def test_equal_utilities_weigh_the_same():
    report = judged(tables({f"q{n}": [(p, 0.7, n / 10) for p in "abcd"] for n in range(3)}, {"q0": ["b"], "q1": ["c"]}))
    assert report["ranking"]["metrics"]["auc"]["utility"]["mean"] == 0.5
    grading = report["grading"]
    assert grading["entropy"]["mean"] == pytest.approx(math.log(4))
    assert grading["normalised_entropy"]["mean"] == pytest.approx(1)
    assert grading["effective_passages"]["mean"] == pytest.approx(4)
    assert grading["outside_top"]["mean"] == grading["outside_gold"]["mean"] == pytest.approx(3 / 4)
    assert grading["base_score"]["spearman"] is None


@pytest.mark.parametrize("spread", [60.0, 1e3, 1e12])
def test_huge_spreads(spread):
    # 60 nats at a temperature of 0.5: e^-120, which float32 cannot hold
    rows = {f"q{n}": [("a", 0.0, 0.1), ("b", -spread, 0.2)] for n in range(2)}
    report = judged(tables(rows, {q: ["a"] for q in rows}))
    outside, entropy = report["grading"]["outside_gold"]["mean"], report["grading"]["entropy"]["mean"]
    assert outside == pytest.approx(math.exp(-spread / TAU), rel=1e-9)
    assert 0 <= entropy < 1e-40
    assert (outside > 0) == (entropy > 0) == (spread == 60)
    assert report["grading"]["vanishing_pairs"] == 2


def test_single_candidates_only():
    report = judged(tables({f"q{n}": [("a", 1.0, 0.1)] for n in range(3)}, {"q0": ["a"]}))
    assert report["ranking"] is None
    assert "hold both evidence and other passages" in report["left_out"]["ranking"]
    grading = report["grading"]
    assert (grading["questions"], grading["single_candidate"]) == (0, 3)
    assert {grading[k] for k in ("entropy", "outside_top", "outside_gold", "candidates", "best_is_gold")} == {None}


def test_without_evidence_the_other_sections_speak():
    report = judged(world(4, 1, evidence=False))
    assert report["ranking"] is None
    assert "No labelled question has evidence" in report["left_out"]["ranking"]
    assert report["questions"]["with_evidence"] == 0
    assert report["grading"]["outside_gold"] is report["length"]["recall@1"] is None
    assert report["grading"]["entropy"]["questions"] == report["help"]["questions"] == 80
    assert report["agreement"]["templates"]["questions"] == 80
    assert report["basis"] == "labels alone"


def test_counts():
    arguments = tables(RANKED, EVIDENCE)
    arguments["questions"]["split"] = ["train", "train", "train", "validation", "validation"]
    unasked = arguments["questions"].iloc[:1].assign(question_id="q9", split="test")
    arguments["questions"] = pd.concat([arguments["questions"], unasked])
    assert judged(arguments)["questions"] == {
        "labelled": 5, "by_split": {"train": 3, "validation": 2}, "pairs": 12, "candidates_per_question": 12 / 5,
        "with_evidence": 4, "judged": 2,
    }  # fmt: skip


def test_the_order_of_rows_does_not_matter_and_inputs_stay_as_they_are():
    arguments = world(2, 1)
    before = copy.deepcopy(arguments)
    report = judged(arguments)
    for name, table in arguments.items():
        (pd.testing.assert_series_equal if name == "answer_tokens" else pd.testing.assert_frame_equal)(table, before[name])
    shuffled = {name: table.sample(frac=1, random_state=7) for name, table in arguments.items()}
    assert judged(shuffled) == report


@pytest.mark.parametrize(
    ("teacher", "base", "verdict"),
    [
        (5, 1, "worth it"),  # nearly perfect labels, a middling encoder
        (0, 2, "not worth it"),  # random labels, an encoder that knows something
        (0, 0, "not worth it"),  # random labels, random encoder
        (2, 2, "not worth it"),  # a good teacher that knows no more than the encoder
    ],
)
def test_verdict_with_evidence(teacher, base, verdict):
    report = judged(world(teacher, base, questions=100), resamples=499)
    assert (report["verdict"], report["basis"]) == (verdict, "evidence")
    codes = {warning["code"] for warning in report["warnings"]}
    assert ("no_better_than_base" in codes) == (verdict != "worth it")
    assert ("no_better_than_chance" in codes) == (teacher == 0)


@pytest.mark.parametrize(
    ("templates", "verdict"), [(0.05, "worth it"), (2, "doubtful"), (30, "not worth it"), (None, "doubtful")]
)
def test_verdict_without_evidence(templates, verdict):
    report = judged(world(4, 1, evidence=False, templates=templates, questions=100))
    assert (report["verdict"], report["basis"]) == (verdict, "labels alone")


def test_good_labels_that_repeat_the_evidence_are_doubtful():
    report = judged(world(40, 1))
    assert [warning["code"] for warning in report["warnings"]] == ["repeats_evidence"]
    assert report["verdict"] == "doubtful"
    assert judged(world(40, 1), temperature=20.0)["warnings"][0]["code"] != "repeats_evidence"


def test_too_few_questions_are_never_worth_it():
    report = judged(world(5, 1, questions=20))
    assert (report["verdict"], report["basis"]) == ("doubtful", "too few questions")
    assert [warning["code"] for warning in report["warnings"]] == ["too_few_questions"]


def test_few_questions_with_evidence_cannot_make_it_worth_it():
    arguments = world(5, 1)
    arguments["questions"]["evidence"] = [e if n < 20 else [] for n, e in enumerate(arguments["questions"]["evidence"])]
    report = judged(arguments)
    assert (report["verdict"], report["basis"]) == ("doubtful", "labels alone")
    assert [warning["code"] for warning in report["warnings"]] == ["few_with_evidence"]


@pytest.fixture(scope="module")
def good() -> dict:
    report = judged(world(5, 1, questions=150))
    assert report["warnings"] == []
    return report


def with_(report: dict, **values) -> dict:
    """A copy with some figures changed, addressed as section__figure."""
    report = copy.deepcopy(report)
    for path, value in values.items():
        *parents, last = path.split("__")
        place = report
        for parent in parents:
            place = place[parent]
        place[last] = value
    return report


EPS = 1e-6
GAIN = {"relative": None, "questions": 150}
LONG = {"spearman": -LENGTH_DEPENDENCE.value, "p_value": 0.001, "questions": 150}


def gain(mean: float, p_value: float) -> dict:
    return GAIN | {"absolute": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}, "p_value": p_value}


def agreement(spearman: float, questions: int = 150) -> dict:
    return {"spearman": spearman, "shared_weight": 0.7, "questions": questions}


def weight(mean: float, questions: int = 150) -> dict:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "questions": questions}


@pytest.mark.parametrize(
    ("code", "fires", "does_not"),
    [
        (
            "too_few_questions",
            {"questions__labelled": FEWEST_QUESTIONS.value - 1},
            {"questions__labelled": FEWEST_QUESTIONS.value},
        ),
        ("few_with_evidence", {"ranking__questions": FEWEST_QUESTIONS.value - 1}, {"ranking__questions": FEWEST_QUESTIONS.value}),
        (
            "no_better_than_base",
            {"ranking__metrics__map__gain": gain(0.1, 0.0501)},
            {"ranking__metrics__map__gain": gain(0.1, 0.0499)},
        ),
        (
            "no_better_than_base",
            {"ranking__metrics__map__gain": gain(-0.1, 0.001)},
            {"ranking__metrics__map__gain": gain(0.1, 0.001)},
        ),
        (
            "small_gain",
            {"ranking__metrics__map__gain": gain(SMALL_GAIN.value - EPS, 0.001)},
            {"ranking__metrics__map__gain": gain(SMALL_GAIN.value, 0.001)},
        ),
        (
            "no_better_than_chance",
            {"ranking__metrics__auc__utility__low": 0.5},
            {"ranking__metrics__auc__utility__low": 0.5 + EPS},
        ),
        (
            "templates_disagree",
            {"agreement__templates": agreement(LOW_AGREEMENT.value - EPS)},
            {"agreement__templates": agreement(LOW_AGREEMENT.value)},
        ),
        (
            "templates_disagree",
            {"agreement__templates": agreement(0.1, FEWEST_READ_TWICE.value)},
            {"agreement__templates": agreement(0.1, FEWEST_READ_TWICE.value - 1)},
        ),
        ("teachers_disagree", {"agreement__teachers": agreement(0.4)}, {"agreement__teachers": agreement(0.6)}),
        ("length_dependence", {"length__spread": LONG}, {"length__spread": LONG | {"spearman": -LENGTH_DEPENDENCE.value + EPS}}),
        ("length_dependence", {"length__recall@1": LONG}, {"length__recall@1": LONG | {"p_value": 0.06}}),
        ("length_dependence", {"length__best": LONG}, {"length__best": LONG | {"questions": FEWEST_QUESTIONS.value - 1}}),
        (
            "no_passage_helps",
            {"help__no_passage_helps__share": NO_PASSAGE_HELPS.value + EPS},
            {"help__no_passage_helps__share": NO_PASSAGE_HELPS.value},
        ),
        (
            "repeats_evidence",
            {"grading__outside_gold_where_best_is_gold": weight(REPEATS_EVIDENCE.value - EPS)},
            {"grading__outside_gold_where_best_is_gold": weight(REPEATS_EVIDENCE.value)},
        ),
        (  # a teacher that contradicts the evidence does not repeat it
            "repeats_evidence",
            {"grading__outside_gold_where_best_is_gold": weight(0.01)},
            {"grading__outside_gold_where_best_is_gold": weight(0.01), "grading__best_is_gold__share": 0.5},
        ),
        (  # most questions have no evidence that could be repeated
            "repeats_evidence",
            {"grading__outside_gold_where_best_is_gold": weight(0.01), "questions__with_evidence": 76},
            {"grading__outside_gold_where_best_is_gold": weight(0.01), "questions__with_evidence": 75},
        ),
        (
            "says_nothing",
            {"grading__normalised_entropy": weight(SAYS_NOTHING.value + EPS)},
            {"grading__normalised_entropy": weight(SAYS_NOTHING.value)},
        ),
        ("unchecked", {"ranking": None, "agreement": None}, {"agreement": None}),
    ],
)
def test_warnings_around_their_thresholds(good, code, fires, does_not):
    assert code in {warning["code"] for warning in weigh(with_(good, **fires))["warnings"]}
    assert code not in {warning["code"] for warning in weigh(with_(good, **does_not))["warnings"]}


HELPLESS = {"help__no_passage_helps__share": 0.5}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "worth it"),
        ({"ranking__metrics__map__gain": gain(0.1, 0.2)}, "not worth it"),
        ({"ranking__metrics__map__gain": gain(0.01, 0.001)}, "doubtful"),
        ({"grading__normalised_entropy": weight(0.99)}, "doubtful"),
        ({"agreement__templates": agreement(0.3)}, "worth it"),  # a warning; but the evidence has spoken
        ({"ranking": None}, "worth it"),
        ({"ranking": None, "agreement__templates": agreement(NO_AGREEMENT.value)}, "doubtful"),
        ({"ranking": None, "agreement__templates": agreement(NO_AGREEMENT.value - EPS)}, "not worth it"),
        ({"ranking": None, "agreement__templates": None, "agreement__teachers": agreement(0.1)}, "not worth it"),
        ({"ranking": None, **HELPLESS}, "doubtful"),
        ({"ranking": None, **HELPLESS, "grading__normalised_entropy": weight(0.99)}, "not worth it"),
        ({"ranking": None, "agreement": None}, "doubtful"),
        ({"ranking": None, "agreement__templates": agreement(0.9, FEWEST_READ_TWICE.value - 1)}, "doubtful"),
    ],
)
def test_verdicts(good, changes, verdict):
    assert weigh(with_(good, **changes))["verdict"] == verdict


def test_warnings_name_their_figure(good):
    (warning,) = weigh(with_(good, **{"agreement__templates": agreement(0.31)}))["warnings"]
    assert "0.31" in warning["text"]
    assert "70% of the training weight" in warning["text"]
    assert "mean of several templates" in warning["text"]
    (warning,) = weigh(with_(good, length__spread=LONG))["warnings"]
    assert "the spread of the utilities (-0.30)" in warning["text"]


def test_examples():
    # q1: the labels put b, no evidence, before a by weights 3 to 1; q2: 9 to 1; q3 and q4: labels right, base wrong.
    unit = TAU * math.log(3)
    rows = {
        "q1": [("a", 0.0, 0.9), ("b", unit, 0.1)],
        "q2": [("a", 0.0, 0.9), ("b", 2 * unit, 0.1)],
        "q3": [("a", unit, 0.1), ("b", 0.0, 0.9)],
        "q4": [("a", 2 * unit, 0.1), ("b", 0.0, 0.9)],
        "q5": [("a", 2 * unit, 0.9), ("b", 0.0, 0.1)],
    }
    arguments = tables(rows, {q: ["a"] for q in rows})
    examples = judged(arguments)["examples"]
    assert [e["question_id"] for e in examples["disagreements"]] == ["q2", "q1"]
    assert [e["question_id"] for e in examples["corrections"]] == ["q4", "q3"]
    assert examples["corrections"][0] == {
        "question_id": "q4", "question": "What about q4?", "answer": "answer q4", "candidates": 2,
        "by_utility": ["a", "b"], "by_base": ["b", "a"],
        "passages": [
            {"passage_id": "a", "gold": True, "utility": pytest.approx(2 * unit), "weight": pytest.approx(0.9),
             "utility_place": 1, "score": 0.1, "base_place": 2},
            {"passage_id": "b", "gold": False, "utility": 0.0, "weight": pytest.approx(0.1),
             "utility_place": 2, "score": 0.9, "base_place": 1},
        ],
    }  # fmt: skip
    # without evidence: wherever the first passages differ
    without = judged(arguments | {"questions": arguments["questions"].assign(evidence=[[] for _ in rows])})["examples"]
    assert without["disagreements"] == []
    assert [e["question_id"] for e in without["corrections"]] == ["q2", "q4", "q1", "q3"]


def test_an_example_shows_the_evidence_wherever_it_stands():
    rows = {"q": [(p, float(u), float(u)) for p, u in zip("abcdef", (6, 5, 4, 3, 2, 1), strict=True)]}
    (example,) = judged(tables(rows, {"q": ["e", "f"]}))["examples"]["disagreements"]
    assert [row["passage_id"] for row in example["passages"]] == ["a", "b", "e"]


def test_examples_are_few():
    report = judged(world(0, 0, questions=60))
    assert {kind: len(found) for kind, found in report["examples"].items()} == {"disagreements": 4, "corrections": 4}


def break_utility(a, value):
    a["utilities"] = a["utilities"].assign(utility=[value, *a["utilities"]["utility"][1:]])


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda a: a.update(utilities=a["utilities"][1:]), "differ in 1 pairs, first question q1, passage a"),
        (lambda a: a.update(candidates=a["candidates"][1:]), "differ in 1 pairs, first question q1, passage a"),
        (lambda a: a.update(utilities=pd.concat([a["utilities"], a["utilities"][:1]])), "utilities hold a pair twice"),
        (lambda a: a.update(candidates=pd.concat([a["candidates"], a["candidates"][:1]])), "candidates hold a pair twice"),
        (lambda a: a.update(by_template=pd.concat([a["by_template"]] * 2)), "template's utilities hold a pair twice"),
        (lambda a: break_utility(a, math.nan), "question q1, passage a is not a finite number"),
        (lambda a: break_utility(a, math.inf), "question q1, passage a is not a finite number"),
        (lambda a: a["by_template"].__setitem__("utility", math.nan), "template's utility of question q1"),
        (lambda a: a.update(questions=a["questions"][1:]), "unknown questions, first q1"),
        (lambda a: a.update(answer_tokens=a["answer_tokens"].drop("q2")), "1 labelled questions have no answer length, first q2"),
        (lambda a: a.update(utilities=a["utilities"][:0], candidates=a["candidates"][:0]), "no labelled pairs"),
    ],
)
def test_tables_that_do_not_belong_together(breaking, message):
    arguments = tables(RANKED, EVIDENCE)
    breaking(arguments)
    with pytest.raises(ArtefactError, match=message):
        judged(arguments)
