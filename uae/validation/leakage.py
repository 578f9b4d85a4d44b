"""What a split would know of another: repeated questions, repeated evidence, copied documents.

What leaks depends on where retrieval looks (``scope``).

- *corpus*: all questions search the same passages, so passages belong to no split, and only a question's text can leak.
- *document*: each document belongs to one split. A passage that stands in documents of two splits leaks if either copy is
  evidence. Two documents leak if ``_COPIED`` of one's words stand in the other. Any other repeated passage (a licence, a
  standard header) is counted, not refused.

In both, a question that stands in two splits leaks. ``uae.corpus.repeated_questions`` says what makes two questions the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.corpus.repeated_questions import SPLIT_ORDER, RepeatedQuestions
from uae.text.words import count_words
from uae.validation.copies import MOST_COPIES, Copy, find_copies

_COPIED = 0.2
_SHOWN = 80  # characters of a question
_LEAKS = ("repeated_question", "repeated_evidence", "copied_document")
_REMEDY = "remove one of the two, or give both the same split"


class _Repeat(NamedTuple):
    """Two like items of different splits. The later split's is the one to be reported, so that each leak is told once."""

    later: str  # an id
    earlier: str
    share: float  # from 0 to 1


class Leaks:
    """What leaks, and the facts that the suite judges of each question, document and passage.

    The result depends neither on the order of rows nor on the process.

    Args:
        documents: columns doc_id and source. Needed are those that a question names: they alone belong to a split.
        passages: of those documents, columns passage_id, doc_id, position, start, end and text. Scope ``corpus`` needs none.
        near_duplicate: from 0.05 to 1: from where on passages count as the same: the share of one's runs of five words that
            stand in the other document.
        repeated: the questions that stand in two splits.
    """

    def __init__(
        self,
        documents: pd.DataFrame,
        passages: pd.DataFrame,
        questions: pd.DataFrame,
        scope: str,
        near_duplicate: float,
        repeated: RepeatedQuestions,
    ):
        corpus = _Documents(documents, passages, questions)
        copies = find_copies(passages, corpus.splits, near_duplicate) if scope == "document" else []
        copied = corpus.copied(copies)
        told = {frozenset(repeat[:2]) for repeat in copied}  # of two copied documents every passage would be named again
        copies = [copy for copy in copies if frozenset((corpus.document_of[copy.passage_id], copy.doc_id)) not in told]
        evidence = corpus.repeated_evidence(copies)
        self._asked = _Questions(repeated).messages()
        self._copied = _messages(copied, corpus.say_document)
        self._evidence = _messages(evidence, corpus.say_passage)
        self._places = {passage_id: corpus.place(passage_id) for passage_id in self._evidence}
        self._harmless = {copy.passage_id for copy in copies} - {item for repeat in evidence for item in repeat[:2]}

    def of_questions(self, questions: pd.DataFrame) -> pd.DataFrame:
        """
        Args:
            questions: columns question_id and source.

        Returns:
            A row for each. Columns ``item`` (an id), ``source`` and, for the suite: ``repeated_question``, ``repeated_evidence``
            and ``copied_document`` (what it repeats and what to do, or None), ``repeated_passage`` (1 where a passage stands in
            another split's document and is no leak).
        """
        return _facts(questions["question_id"], questions["source"], repeated_question=self._asked)

    def of_documents(self, documents: pd.DataFrame) -> pd.DataFrame:
        """As ``of_questions``, of columns doc_id and source."""
        return _facts(documents["doc_id"], documents["source"], copied_document=self._copied)

    def of_passages(self, passages: pd.DataFrame) -> pd.DataFrame:
        """As ``of_questions``, of the column passage_id. It has a source only where it leaks: document and characters."""
        ids = passages["passage_id"]
        facts = _facts(ids, _of_each(ids, self._places, ""), repeated_evidence=self._evidence)
        return facts.assign(repeated_passage=ids.isin(self._harmless).to_numpy(np.int8))


def _facts(ids: "pd.Series[str]", sources: object, **messages: Mapping[str, str]) -> pd.DataFrame:
    said = {name: _of_each(ids, messages.get(name, {}), None) for name in _LEAKS}
    return pd.DataFrame({"item": ids, "source": sources, **said, "repeated_passage": np.zeros(len(ids), np.int8)})


def _of_each(ids: "pd.Series[str]", found: Mapping[str, str], other: str | None) -> npt.NDArray[np.object_]:
    """Of few ids something, of all the rest the same."""
    values = np.full(len(ids), other, dtype=object)
    for place in np.flatnonzero(ids.isin(found.keys())):
        values[place] = found[ids.iloc[place]]
    return values


def _messages(repeats: Iterable[_Repeat], say: Callable[[_Repeat], str]) -> dict[str, str]:
    """Later item -> about its nearest repeat, and how many more there are."""
    by_item: dict[str, list[_Repeat]] = defaultdict(list)
    for repeat in sorted(repeats, key=lambda repeat: (-repeat.share, repeat.earlier)):
        by_item[repeat.later].append(repeat)
    return {item: say(found[0]) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "") for item, found in by_item.items()}


def _later_first(first: tuple[str, str], second: tuple[str, str]) -> tuple[str, str]:
    """Order two (split, id) by their splits; those of unknown name, which another suite refuses, come last."""
    order = sorted((first, second), key=lambda pair: (SPLIT_ORDER.get(pair[0], len(SPLIT_ORDER)), pair[0]))
    return order[1][1], order[0][1]


class _Documents:
    """The documents that belong to a split, their passages, and what of them is evidence."""

    def __init__(self, documents: pd.DataFrame, passages: pd.DataFrame, questions: pd.DataFrame):
        by_document = questions[questions["doc_id"] != ""].groupby("doc_id")["split"].unique()
        # A document in two splits is refused by the questions' suite. Here all that it resembles would be blamed.
        self.splits: dict[str, str] = {str(doc_id): splits[0] for doc_id, splits in by_document.items() if len(splits) == 1}
        self.sources: dict[str, str] = dict(zip(documents["doc_id"], documents["source"], strict=True))
        self._passages = passages
        self.evidence = {passage_id for ids in questions["evidence"] for passage_id in ids}

    @cached_property
    def document_of(self) -> dict[str, str]:
        return dict(zip(self._passages["passage_id"], self._passages["doc_id"], strict=True))

    @cached_property
    def n_words_of(self) -> dict[str, int]:
        return dict(zip(self._passages["passage_id"], self._passages["text"].map(count_words), strict=True))

    def source(self, doc_id: str) -> str:
        return self.sources.get(doc_id, doc_id)

    def split(self, passage_id: str) -> str:
        return self.splits[self.document_of[passage_id]]

    def place(self, passage_id: str) -> str:
        row = self._passages[self._passages["passage_id"] == passage_id].iloc[-1]
        return f"{self.source(row['doc_id'])}, characters {row['start']}-{row['end']}"

    def copied(self, copies: list[Copy]) -> list[_Repeat]:
        """Pairs of documents of which one holds a good part of the other; boilerplate is no such part."""
        if not copies:
            return []
        copies_of: dict[str, int] = defaultdict(int)
        for copy in copies:
            copies_of[copy.passage_id] += 1
        common: dict[tuple[str, str], int] = defaultdict(int)
        for copy in copies:
            if copies_of[copy.passage_id] < MOST_COPIES:
                common[self.document_of[copy.passage_id], copy.doc_id] += self.n_words_of[copy.passage_id]
        n_words: dict[str, int] = defaultdict(int)
        for passage_id, doc_id in self.document_of.items():
            n_words[doc_id] += self.n_words_of[passage_id]
        shares: dict[tuple[str, str], float] = defaultdict(float)
        for (doc_id, other), number in common.items():
            pair = _later_first((self.splits[doc_id], doc_id), (self.splits[other], other))
            shares[pair] = max(shares[pair], number / n_words[doc_id])
        return [_Repeat(*pair, share) for pair, share in shares.items() if share >= _COPIED]

    def repeated_evidence(self, copies: list[Copy]) -> list[_Repeat]:
        shares: dict[tuple[str, str], float] = defaultdict(float)
        for copy in copies:
            if self.evidence & {copy.passage_id, copy.copy_id}:
                sides = ((self.split(passage_id), passage_id) for passage_id in (copy.passage_id, copy.copy_id))
                pair = _later_first(*sides)
                shares[pair] = max(shares[pair], copy.share)
        return [_Repeat(*pair, share) for pair, share in shares.items()]

    def say_document(self, repeat: _Repeat) -> str:
        split, other = (self.splits[doc_id] for doc_id in repeat[:2])
        return (
            f"{split} document that has {repeat.share:.0%} of the smaller one's words in common with the {other} document "
            f"{self.source(repeat.earlier)}: {_REMEDY}"
        )

    def say_passage(self, repeat: _Repeat) -> str:
        split, other = (self.split(passage_id) for passage_id in repeat[:2])
        asked = [self.split(passage_id) for passage_id in repeat[:2] if passage_id in self.evidence]
        return (
            f"{split} passage that stands in {other} too ({self.place(repeat.earlier)}) and is evidence in "
            f"{' and '.join(asked)}: remove one of the two, or give both documents the same split"
        )


class _Questions:
    """What to say of questions that stand in two splits."""

    def __init__(self, repeated: RepeatedQuestions):
        self.known = repeated

    def messages(self) -> dict[str, str]:
        """Question -> what it repeats. Of one split's copies the first is named, however many there are."""
        said: dict[bool, dict[tuple[str, str], _Repeat]] = {True: {}, False: {}}
        by_pair: dict[tuple[str, str], tuple[int, int]] = {}
        for alike in self.known.alike:
            for later, earlier in {*self._firsts(alike.first, alike.second), *self._firsts(alike.second, alike.first)}:
                pair = (self._id(later), self._id(earlier))
                by_pair[pair] = later, earlier
                said[alike.by_fact].setdefault(pair, _Repeat(*pair, alike.share))

        def sayer(what: Callable[[float], str]) -> Callable[[_Repeat], str]:
            return lambda repeat: self._say(*by_pair[repeat[:2]], what(repeat.share))

        return _messages(said[True].values(), sayer(_by_fact)) | _messages(said[False].values(), sayer(_by_words))

    def _id(self, place: int) -> str:
        return str(self.known.rows[place]["question_id"])

    def _firsts(self, group: list[int], others: list[int]) -> Iterator[tuple[int, int]]:
        """Each question of the group with the first of each earlier split among the others: not with all of very many."""
        firsts: dict[int, int] = {}
        for other in others:
            firsts.setdefault(self.known.order(other), other)
        for place in group:
            yield from ((place, first) for order, first in firsts.items() if order < self.known.order(place))

    def _say(self, later: int, earlier: int, what: str) -> str:
        row, other = self.known.rows[later], self.known.rows[earlier]
        text = other["text"][:_SHOWN]
        return f"{row['split']} question that {what} in {other['split']} ({other['source']}: {text!r}): {_REMEDY}"


def _by_words(share: float) -> str:
    how = "the same words" if share == 1 else f"nearly the same words ({share:.2f})"
    return f"asks in {how} what is asked"


def _by_fact(share: float) -> str:
    return "has the evidence and the answer of one"
