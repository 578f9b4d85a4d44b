"""What a miner is. One miner a file, one line of registration in ``mine.py``."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd


class Amounts(NamedTuple):
    """Section ``candidates`` of params.yaml."""

    top_k: int  # of the base encoder's ranking
    bm25_top_k: int  # of BM25's
    holding_answer: int  # at most so many passages that hold a gold answer word for word
    random: int  # drawn from the rest of the scope
    gold: bool  # the evidence passages, too


class Pool(NamedTuple):
    """What a miner may look at before the first question."""

    questions: pd.DataFrame  # of the labelled splits, columns as QUESTIONS
    passages: pd.DataFrame  # that somebody may find, columns as PASSAGES
    read: pd.DataFrame  # the same, with what models read as their text
    scope: str
    amounts: Amounts
    seed: int


class Ranked(NamedTuple):
    """One question, with the base encoder's ranking of its whole scope."""

    question_id: str
    evidence: Sequence[str]  # passage_ids
    passage_ids: Sequence[str]  # best first
    taken: frozenset[str]  # what the miners before brought


# The passages that a miner brings for a question. What is outside the question's scope is left out, what is taken counts once.
Miner = Callable[[Ranked], Sequence[str]]
