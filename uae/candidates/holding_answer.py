"""Passages that hold a gold answer word for word. Where nobody marked evidence, these passages are most likely the evidence."""

import pandas as pd

from uae.candidates.miner import Miner, Pool, Ranked
from uae.text.answer_match import normalised, telling, texts_holding


def miner(pool: Pool) -> Miner:
    """The base encoder's first ones of them. Answers are looked for in the passages' plain text."""
    most = pool.amounts.holding_answer
    holding = holders(pool.questions, pool.passages, pool.scope) if most else {}

    def mined(question: Ranked) -> list[str]:
        held = holding.get(question.question_id, frozenset())
        return [passage_id for passage_id in question.passage_ids if passage_id in held][:most]

    return mined


def holders(questions: pd.DataFrame, passages: pd.DataFrame, scope: str) -> dict[str, frozenset[str]]:
    """question_id -> ids of the passages in its scope that hold one of its gold answers word for word.

    Both are normalised as SQuAD does. An answer of one short word, or in more than 20 passages of the scope, does not count:
    it stands there by chance. Questions without any are left out.
    """
    scopes = [(questions, passages)]
    if scope == "document":
        of_document = dict(list(passages.groupby("doc_id")))
        scopes = [(asked, of_document[doc_id]) for doc_id, asked in questions.groupby("doc_id") if doc_id in of_document]
    found: dict[str, frozenset[str]] = {}
    for asked, within in scopes:
        ids = within.groupby("text")["passage_id"].agg(list)
        answers = {
            question_id: {answer for answer in map(normalised, own) if telling(answer)}
            for question_id, own in zip(asked["question_id"], asked["answers"], strict=True)
        }
        holding = texts_holding(set().union(*answers.values()), [str(text) for text in ids.index])
        for question_id, own in answers.items():
            if texts := {text for answer in own for text in holding.get(answer, ())}:
                found[question_id] = frozenset(passage_id for text in texts for passage_id in ids[text])
    return found
