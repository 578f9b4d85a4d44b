"""Which passages may not count against a question: near-duplicates of helping ones, the same gold, evidence if it is read."""

import pandas as pd
import pytest

from uae.training import false_negatives
from uae.training.false_negatives import known_false_negatives

SEAL = "The spare seal of the main pump lies in the blue locker beside the stairs, on the lowest shelf, under the rope."
TWIN = "The spare seal of the main pump lies in the blue locker beside the stairs, on the lowest shelf, under the net."
FAN = "The fan of the galley is switched on by the cook at six and switched off by the watch at ten every evening."
FAN_TWIN = "The fan of the galley is switched on by the cook at six and switched off by the watch at ten each evening."
GOLD = "Whoever looks for it may ask the bosun: it is kept in the Blue Locker, as everybody knows."
OTHER = "Lamps are checked on Mondays, and the batteries are charged during the second watch."
PARTIAL = "The painter keeps his brushes in the blue lockers of the fore peak, and his ladder too."


def table(rows: list[tuple]) -> pd.DataFrame:
    """(question_id, text, utility, split) rows."""
    frame = pd.DataFrame(rows, columns=["question_id", "text", "utility", "split"])
    return frame.assign(passage_id=frame["text"].map(identifier), question="?", document="d")


def identifier(text: str) -> str:
    return f"p-{text[:30]}-{len(text)}"


def questions(answers: dict[str, list[str]], evidence: dict[str, list[str]] | None = None) -> pd.DataFrame:
    rows = [
        {"question_id": key, "answers": own, "evidence": [identifier(text) for text in (evidence or {}).get(key, [])]}
        for key, own in answers.items()
    ]
    return pd.DataFrame(rows)


PASSAGES = pd.DataFrame(
    [{"passage_id": identifier(text), "text": text} for text in (SEAL, TWIN, FAN, FAN_TWIN, GOLD, OTHER, PARTIAL)]
)


def known(rows, answers, evidence=None, use_evidence=False, threshold=0.7) -> dict:
    return known_false_negatives(table(rows), questions(answers, evidence), PASSAGES, threshold, use_evidence)


def test_near_duplicates_of_helping_passages_only():
    rows = [("q1", SEAL, 1.5, "train"), ("q1", FAN, -0.5, "train"), ("q2", TWIN, 0.1, "train"), ("q2", FAN_TWIN, 0.0, "train")]
    answers = {"q1": [], "q2": []}
    assert known(rows, answers) == {"q1": {TWIN}, "q2": {SEAL}}
    assert known(rows, answers, threshold=0.99) == {}


def test_what_the_teacher_judged_is_never_masked():
    rows = [("q1", SEAL, 1.5, "train"), ("q1", TWIN, -1.0, "train"), ("q2", SEAL, 0.2, "train"), ("q2", OTHER, 0.1, "train")]
    assert known(rows, {"q1": ["blue locker"], "q2": ["blue locker"]}) == {"q2": {TWIN}}


def test_passages_of_another_split_cannot_meet_the_question():
    rows = [("q1", SEAL, 1.5, "train"), ("q2", TWIN, 1.0, "validation"), ("q2", GOLD, 1.0, "validation")]
    assert known(rows, {"q1": ["the blue locker"], "q2": []}) == {}


def test_passages_with_the_same_gold_answer_as_whole_words():
    rows = [("q1", OTHER, 0.5, "train"), ("q2", GOLD, 0.5, "train"), ("q2", PARTIAL, 0.5, "train")]
    assert known(rows, {"q1": ["The blue locker."], "q2": []}) == {"q1": {GOLD}}


@pytest.mark.parametrize(("answer", "counts"), [("Everybody", True), ("bosun", False), ("", False), ("...", False)])
def test_a_single_word_counts_if_it_is_long_enough(answer, counts):
    rows = [("q1", OTHER, 0.5, "train"), ("q2", GOLD, 0.5, "train")]
    assert known(rows, {"q1": [answer], "q2": []}) == ({"q1": {GOLD}} if counts else {})


def test_evidence_is_read_only_where_it_may_be():
    rows = [("q1", OTHER, 0.5, "train"), ("q2", FAN_TWIN, 0.5, "train"), ("q2", SEAL, 0.5, "train")]
    answers, evidence = {"q1": [], "q2": []}, {"q1": [FAN], "q2": [SEAL]}
    assert known(rows, answers, evidence) == {}
    # FAN is no candidate of anybody; where evidence is read it joins the passages of its question
    assert known(rows, answers, evidence, use_evidence=True) == {"q1": {FAN, FAN_TWIN}, "q2": {FAN}}


def test_the_texts_of_a_split_are_compared_once(monkeypatch):
    calls = []
    original = false_negatives.near_duplicate_pairs
    monkeypatch.setattr(false_negatives, "near_duplicate_pairs", lambda texts, t: calls.append(list(texts)) or original(texts, t))
    rows = [(f"q{n}", text, 0.5, "train") for n in range(5) for text in (SEAL, FAN)]
    known(rows, {f"q{n}": [] for n in range(5)})
    assert calls == [[SEAL, FAN]]
