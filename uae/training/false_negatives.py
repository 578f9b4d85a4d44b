"""Known false negatives: passages that a batch would hold against a question though they most likely answer it."""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from uae.text.answer_match import normalised, telling, texts_holding
from uae.text.near_duplicates import near_duplicate_pairs
from uae.training.examples import evidence_texts


def known_false_negatives(
    table: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame, threshold: float, use_evidence: bool
) -> dict[str, frozenset[str]]:
    """Passages that must not be in-batch negatives of a question, among those that can meet it in a batch.

    In a batch a question can meet all passages of its split. Of those that the teacher did not judge for it, these are
    known to be false negatives:

    - near-duplicates of a passage that helps it (utility above 0): a passage cut with overlap, a repeated abstract;
    - passages that hold one of its gold answers word for word, both normalised as SQuAD does. The answer must be two words or
      six characters long, and stand in at most 20 passages of the split;
    - where evidence may be read, its evidence passages and their near-duplicates.

    The same text is no case of its own: a batch holds each text once, and what the teacher judged is never an in-batch negative.

    Args:
        table: of ``uae.training.examples.labelled_pairs``.
        questions: of its schema: answers and evidence.
        passages: of its schema: the texts of the evidence. Read only with ``use_evidence``.
        threshold: Jaccard similarity of word shingles from which passages are near-duplicates.
        use_evidence: False for UAE, which sees no evidence label.

    Returns:
        question_id -> texts; questions without any are left out.
    """
    evidence = evidence_texts(questions, passages) if use_evidence else {}
    answers = questions.set_index("question_id")["answers"]
    known = {}
    for _, rows in table.groupby("split", sort=False):
        judged = _texts_by_question(rows)
        helping = _texts_by_question(rows[rows["utility"] > 0])
        of_evidence = (evidence.get(question_id, frozenset()) for question_id in judged)
        texts = list(dict.fromkeys([*rows["text"], *(text for found in of_evidence for text in sorted(found))]))
        twins = _twins(texts, threshold)
        asked = {question_id: {normalised(answer) for answer in answers[question_id]} for question_id in judged}
        holding = texts_holding({answer for own in asked.values() for answer in own if telling(answer)}, texts)
        for question_id, candidates in judged.items():
            own_evidence = evidence.get(question_id, frozenset())
            near = {twin for text in helping.get(question_id, set()) | own_evidence for twin in twins.get(text, ())}
            same_gold = {text for answer in asked[question_id] for text in holding.get(answer, ())}
            if masked := (near | same_gold | own_evidence) - candidates:
                known[question_id] = frozenset(masked)
    return known


def _texts_by_question(rows: pd.DataFrame) -> dict[str, set[str]]:
    """In the order in which the questions come."""
    texts: dict[str, set[str]] = {}
    for question_id, text in zip(rows["question_id"], rows["text"], strict=True):
        texts.setdefault(question_id, set()).add(text)
    return texts


def _twins(texts: Sequence[str], threshold: float) -> dict[str, set[str]]:
    """Text -> its near-duplicates among the others."""
    twins = defaultdict(set)
    for first, second, _ in near_duplicate_pairs(texts, threshold):
        twins[texts[first]].add(texts[second])
        twins[texts[second]].add(texts[first])
    return twins
