"""Passages that hold a gold answer word for word. Where nobody marked evidence, these passages are most likely the evidence."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import repeat

import pandas as pd

from uae.candidates.miner import NOTHING, Miner, Pool, Ranked
from uae.text.answer_match import Holding, normalised, telling

_ROWS = 1 << 14  # whose documents are Python objects at a time


def miner(pool: Pool) -> Miner:
    """The base encoder's first ones of them. Answers are looked for in the passages' plain text."""
    most = pool.amounts.holding_answer
    if not most:
        return NOTHING
    holding = holders(pool.questions, pool.passages, pool.texts, pool.scope)

    def mined(question: Ranked) -> list[str]:
        held = holding.get(question.question_id, frozenset())
        return [passage_id for passage_id in question.passage_ids if passage_id in held][:most]

    return Miner(mined, lambda question_id, evidence: holding.get(question_id, frozenset()))


def holders(questions: pd.DataFrame, passages: pd.DataFrame, texts: Collection[str], scope: str) -> dict[str, frozenset[str]]:
    """question_id -> ids of the passages in its scope that hold one of its gold answers word for word.

    Both are normalised as SQuAD does. An answer of one short word, or in more than 20 passages of the scope, does not count:
    it stands there by chance. Questions without any are left out.

    Args:
        passages: columns passage_id and doc_id.
        texts: of the passages, in their order; they are gone through twice.
    """
    within = [doc_id if scope == "document" else "" for doc_id in questions["doc_id"]]
    answers = [{answer for answer in map(normalised, own) if telling(answer)} for own in questions["answers"]]
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for own_scope, own in zip(within, answers, strict=True):
        wanted[own_scope] |= own
    looking = {own_scope: Holding(of_scope) for own_scope, of_scope in wanted.items()}
    for own_scope, text in zip(_scopes(passages["doc_id"], scope), texts, strict=True):
        if own_scope in looking:
            looking[own_scope].read(text)
    held = {own_scope: of_scope.found() for own_scope, of_scope in looking.items()}
    sought = {(own_scope, text) for own_scope, of_answer in held.items() for found in of_answer.values() for text in found}
    ids: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for own_scope, passage_id, text in zip(_scopes(passages["doc_id"], scope), passages["passage_id"], texts, strict=True):
        if (own_scope, text) in sought:
            ids[own_scope, text].append(passage_id)
    found: dict[str, frozenset[str]] = {}
    for question_id, own_scope, own in zip(questions["question_id"], within, answers, strict=True):
        if holding := {text for answer in own for text in held[own_scope].get(answer, ())}:
            found[question_id] = frozenset(passage_id for text in holding for passage_id in ids[own_scope, text])
    return found


def _scopes(doc_ids: pd.Series, scope: str) -> Iterator[str]:
    """Each passage's scope. A column of categories would become Python objects, were it gone through whole."""
    if scope != "document":
        return repeat("", len(doc_ids))
    return (doc_id for start in range(0, len(doc_ids), _ROWS) for doc_id in doc_ids.iloc[start : start + _ROWS])
