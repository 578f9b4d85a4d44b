"""What a miner is. One miner a file, one line of registration in ``mine.py``."""

from collections.abc import Callable, Collection, Sequence
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
    passages: pd.DataFrame  # that somebody may find, columns passage_id and doc_id
    texts: Collection[str]  # of them, plain; they are gone through, and need not be in memory
    read: Collection[str]  # what models read of them
    scope: str
    amounts: Amounts
    seed: int


class Ranked(NamedTuple):
    """One question, with the base encoder's ranking of what a miner may look at: its first ``top_k``, and all ``within``."""

    question_id: str
    evidence: Sequence[str]  # passage_ids
    passage_ids: Sequence[str]  # best first
    taken: frozenset[str]  # what the miners before brought


class Miner(NamedTuple):
    """What a kind of miner does once it has seen the pool."""

    # The passages that it brings for a question. What is outside the question's scope is left out, what is taken counts once.
    brings: Callable[[Ranked], Sequence[str]]
    # question_id, evidence -> what it may bring beside the encoder's first passages. These are placed before any is brought.
    within: Callable[[str, Sequence[str]], Collection[str]]


NOTHING = Miner(lambda question: (), lambda question_id, evidence: ())
