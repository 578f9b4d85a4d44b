"""The page's sentences: the verdict, what else was found, and what makes the figures weaker than they look."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from uae.evaluation.comparison import Measured, decisive
from uae.evaluation.page.names import label, metric_name, ordered
from uae.evaluation.page.tables import slower
from uae.evaluation.testset import BASE, SECOND_STAGE, UAE
from uae.measures.fusion import RANKS
from uae.release.manifest import DENSE

LEADS = ("recall@1", "map", "mrr")  # the first that was measured decides the headline
_FEW = 50  # with fewer questions the 95% interval of a share near one half is wider than 14 points to either side
_FEW_TIMED = 10  # the median of fewer times moves with each of them
_FEW_DOCUMENTS = 10  # a bootstrap of fewer gives intervals that are too narrow, too


def p(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _p_words(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _gain_words(gain: Measured, confidence: float) -> str:
    """Such as "+33% (95% interval over 16 documents +22% to +46%, p < 0.001)"; in points where the base's mean is 0."""
    going_by = decisive(gain)
    estimate = going_by["relative"] or going_by["absolute"]
    relative = "{:+.0%}" if abs(estimate["mean"]) >= 0.1 else "{:+.1%}"
    form = (relative if going_by["relative"] else "{:+.3f}").format
    over = f" over {going_by['documents']} documents" if "documents" in going_by else ""
    ends = f"{confidence * 100:g}% interval{over} {form(estimate['low'])} to {form(estimate['high'])}"
    return f"{form(estimate['mean'])} ({ends}, {_p_words(going_by['p_value'])})"


def _significant(gain: Measured, confidence: float) -> bool:
    p_value: float = decisive(gain)["p_value"]
    return p_value < round(1 - confidence, 12)  # 1 - 0.95 is a hair above 0.05


def verdict(evaluation: Mapping[str, Any], lead: str, runs: pd.DataFrame, questions: pd.DataFrame) -> dict[str, str]:
    """The headline, and the sentence that stands for the whole page. It rests on one metric that is named beforehand."""
    gain, confidence = evaluation["gains"][UAE][lead], evaluation["confidence"]
    uae, base = (evaluation["systems"][system][lead]["mean"] for system in (UAE, BASE))
    evaluated = _evaluated(runs, questions)
    asked = "1 question" if gain["questions"] == 1 else f"{gain['questions']} questions"
    opening = f"On {asked}{_about(evaluation, evaluated, questions)}, "
    if lead != "recall@1":
        compared = f"UAE reaches a {metric_name(lead)} of {uae:.3f}, the base encoder {base:.3f}"
    elif (evaluated["evidence"].str.len() == 1).all():
        compared = f"UAE puts a right passage first for {uae:.1%} of them, the base encoder for {base:.1%}"
    else:  # with several evidence passages a question, recall@1 is no share of the questions
        compared = f"UAE’s first passage is {uae:.1%} of what there is to find, on average, and the base encoder’s {base:.1%}"
    if uae >= 1 and base >= 1:
        return {
            "style": "unsure",
            "headline": "No difference to be seen",
            "sentence": f"{opening}{compared}. Both find all of them: these questions cannot tell the systems apart. "
            "Add harder ones.",
        }
    words = _gain_words(gain, confidence)
    if not _significant(gain, confidence):
        return {
            "style": "unsure",
            "headline": "No significant difference",
            "sentence": f"{opening}{compared}. The difference, {words}, is not significant: it may well be chance.",
        }
    if gain["absolute"]["mean"] < 0:
        return {
            "style": "bad",
            "headline": "UAE finds worse passages than the base encoder",
            "sentence": f"{opening}{compared}: {words}. That is a significant loss: keep the base encoder.",
        }
    return {
        "style": "good",
        "headline": "UAE finds better passages than the base encoder",
        "sentence": f"{opening}{compared}: {words}.",
    }


def _about(evaluation: Mapping[str, Any], evaluated: pd.DataFrame, questions: pd.DataFrame) -> str:
    """What the questions are about and whether training saw it, as far as the tables tell."""
    if (evaluated["doc_id"] == "").any():
        return " that training never saw"
    number = evaluation["counts"]["test_documents"]
    about = f" about {number} document{'' if number == 1 else 's'}"
    unseen = (questions["split"] == "train").any() and not _shared_documents(evaluated, questions)
    return f"{about} that training never saw" if unseen else about


def _shared_documents(evaluated: pd.DataFrame, questions: pd.DataFrame) -> int:
    """Documents that questions of other splits are about, too."""
    others = questions.loc[questions["split"] != "test", "doc_id"]
    return len(set(evaluated["doc_id"]) & set(others) - {""})


def _evaluated(runs: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    return questions[questions["question_id"].isin(runs["question_id"])]


def findings(evaluation: Mapping[str, Any]) -> list[str]:
    """What else a reader in a hurry should know, a sentence each."""
    gains, systems, confidence = evaluation["gains"], evaluation["systems"], evaluation["confidence"]
    found = []
    if gain := gains[UAE].get("token_f1"):
        uae, base = (systems[system]["token_f1"]["mean"] for system in (UAE, BASE))
        found.append(
            f"Answers of a reader LLM: token F1 {uae:.3f} from UAE’s passages, {base:.3f} from the base encoder’s, on "
            f"{gain['questions']} questions: {_gain_words(gain, confidence)}{_unless_significant(gain, confidence)}."
        )
    for other, over in (evaluation.get("gains_over") or {}).items():
        for system in ordered(over):
            if system == DENSE and over[DENSE] == over.get(UAE):  # BM25 has no weight: they are one
                continue
            metric = next((metric for metric in LEADS if metric in over[system]), None)
            if metric:
                gain = over[system][metric]
                found.append(
                    f"{label(system)} against {label(other)}, {metric_name(metric)} on {gain['questions']} questions: "
                    f"{_gain_words(gain, confidence)}{_unless_significant(gain, confidence)}."
                )
    found += [_weight_words(system, weighed) for system, weighed in (evaluation.get("fusion") or {}).items()]
    for system, ratio in slower(evaluation.get("cost") or {}).items():
        if "rerank" in system or system == "second_stage":
            found.append(f"{label(system)} takes {times(ratio)} as long per query as UAE.")
    return found + _held_out_findings(evaluation.get("held_out") or {}, confidence)


def _weight_words(system: str, weighed: Mapping[str, Any]) -> str:
    """How much BM25 counts in a system, and which questions decided that."""
    chosen = (
        f" (chosen on {weighed['questions']} {' and '.join(weighed['splits'])} questions)" if weighed.get("questions") else ""
    )
    if weighed["weight"] == 0:
        return f"{label(system)}: BM25 has the weight 0{chosen}, so this is the encoder alone."
    if weighed["form"] == RANKS:
        return f"{label(system)}: BM25’s places count {weighed['weight']:g} times as much as the encoder’s{chosen}."
    return f"{label(system)}: BM25’s scaled scores count {weighed['weight']:g} times beside cosines{chosen}."


def _held_out_findings(held_out: Mapping[str, Any], confidence: float) -> list[str]:
    found = []
    for teacher in held_out.get("teachers", ()):
        if teacher["role"] == "held out" and teacher.get("gain"):
            gain = teacher["gain"]
            found.append(
                f"Judged by “{teacher['name']}”, an LLM without a part in the labels, UAE’s first passage differs in utility "
                f"from the base encoder’s by {gain['absolute']['mean']:+.3f} nats per token "
                f"({_p_words(decisive(gain)['p_value'])}){_unless_significant(gain, confidence)}."
            )
    if held_out.get("kept") is not None:
        found.append(
            f"An LLM of another family sees {held_out['kept']:.0%} of the relative gain in utility that the teacher sees."
        )
    return found


def _unless_significant(gain: Measured, confidence: float) -> str:
    return "" if _significant(gain, confidence) else ", not significant"


def cautions(
    evaluation: Mapping[str, Any], lead: str, fewer: Sequence[str], runs: pd.DataFrame, questions: pd.DataFrame
) -> list[str]:
    """What makes the figures weaker than they look."""
    gains = evaluation["gains"][UAE]
    found = _few(gains, lead)
    found += _not_better(gains, lead, evaluation["confidence"])
    if fewer:
        found.append(f"Measured on fewer questions than the rest, and not to be compared across: {_listed(map(label, fewer))}.")
    if shared := _shared_documents(_evaluated(runs, questions), questions):
        found.append(
            f"{shared} of the documents have training or validation questions as well: the model saw them, though not these "
            "questions. Split by document to measure what new documents will bring."
        )
    found += _few_timed(evaluation.get("cost") or {})
    found += _without_say(evaluation.get(SECOND_STAGE) or {})
    if len(evaluation["seeds"]) == 1:
        found.append("One seed: trained again with another, the model would give somewhat other figures.")
    return found


def _few_timed(cost: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Times that rest on few queries."""
    few = {system: row["queries"] for system, row in cost.items() if row["queries"] < _FEW_TIMED}
    if not few:
        return []
    if len(few) == len(cost) and len(set(few.values())) == 1:
        number = next(iter(few.values()))
        who = f"Times, and their ratios, rest on {number} quer{'y' if number == 1 else 'ies'}"
    else:
        counts = _listed(f"{label(system)} ({few[system]})" for system in ordered(few))
        who = f"Times, and their ratios, rest on few queries: {counts}"
    return [f"{who}. Take them as a first impression."]


def _without_say(second: Mapping[str, Any]) -> list[str]:
    """A second stage that the first one overrules."""
    chosen = second.get("chosen") or {}
    if not chosen.get("at_bound"):
        return []
    return [
        f"{label(SECOND_STAGE)}: the second stage has no say, and costs its time. The likeliest weight of the first stage on "
        f"{chosen['questions']} validation question{'' if chosen['questions'] == 1 else 's'} is {second['weight']:g}, at the "
        "bound of the search. Train it on more questions, or leave it out (models.second_stage)."
    ]


def _few(gains: Mapping[str, Measured], lead: str) -> list[str]:
    """What rests on few questions or on few documents."""
    found = []
    number, documents = gains[lead]["questions"], decisive(gains[lead]).get("documents")
    if number == 1:
        found.append("Only 1 question: nothing can be said from it. Its intervals have no width. Add test questions.")
    elif number < _FEW:
        found.append(
            f"Only {number} questions. Below {_FEW}, an interval spans tens of points and one odd question moves the mean: take "
            "this as a first impression, and add test questions."
        )
    if documents and documents < _FEW_DOCUMENTS:
        found.append(
            f"Only {documents} documents. Intervals over so few documents are too narrow: add test questions on other documents."
        )
    few = {metric: gain["questions"] for metric, gain in gains.items() if metric != lead and gain["questions"] < _FEW}
    if few and number >= _FEW:
        found.append(f"Rests on fewer than {_FEW} questions: " + _listed(f"{metric_name(m)} ({n})" for m, n in few.items()) + ".")
    return found


def _not_better(gains: Mapping[str, Measured], lead: str, confidence: float) -> list[str]:
    """Metrics besides the lead that fell, or of which nothing is known."""
    found = []
    sure = {metric: gain for metric, gain in gains.items() if _significant(gain, confidence)}
    if worse := [metric for metric, gain in sure.items() if gain["absolute"]["mean"] < 0 and metric != lead]:
        found.append(f"Significantly worse than the base encoder: {_listed(map(metric_name, worse))}.")
    if unsure := [metric for metric in gains if metric not in sure and metric != lead]:
        words = (f"{metric_name(metric)} ({_p_words(decisive(gains[metric])['p_value'])})" for metric in unsure)
        found.append(f"Not significantly different from the base encoder: {_listed(words)}.")
    return found


def _listed(words: Iterable[str]) -> str:
    return "; ".join(words)  # there are commas within names


def times(ratio: float) -> str:
    if ratio < 0.1:  # two digits that say something
        return f"{np.format_float_positional(ratio, 2, fractional=False, trim='-')} times"
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
