"""What a split would know of another: repeated questions, repeated evidence, copied documents.

What leaks depends on where retrieval looks (``scope``).

- *corpus*: all questions search the same passages, so passages belong to no split, and only a question's text can leak. A
  question that repeats one of another split leaks, whatever document it was written for: its ranking was trained.
- *document*: each document belongs to one split, and a question means something only together with its document. For example,
  "What is the conclusion?" may be asked of every paper. Yes, a number or a name may be the answer in two of them. So a repeated
  question leaks only if it also stands on the same document, on the same evidence, or on an equal answer of at least
  ``_TELLING_WORDS`` words. A passage that stands in documents of two splits leaks if either copy is evidence. Two documents
  leak if ``_COPIED`` of one's words stand in the other. Any other repeated passage (a licence, a standard header) is counted,
  not refused.

In both, questions with the same evidence and an equal answer of that length leak, however they are worded.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import pairwise, product
from typing import NamedTuple

import pandas as pd

from uae.text.near_duplicates import jaccard, near_duplicate_pairs
from uae.text.words import count_words, words
from uae.validation.copies import MOST_COPIES, Copy, find_copies

_COPIED = 0.2
_TELLING_WORDS = 5  # fewer are the answer to many questions
_ORDER = {"train": 0, "validation": 1, "test": 2}
_SHOWN = 80  # characters of a question
_REMEDY = "remove one of the two, or give both the same split"


class _Repeat(NamedTuple):
    """Two like items of different splits. The later split's is the one to be reported, so that each leak is told once."""

    later: str  # an id
    earlier: str
    share: float  # from 0 to 1


def leakage_facts(
    documents: pd.DataFrame, passages: pd.DataFrame, questions: pd.DataFrame, scope: str, near_duplicate: float
) -> pd.DataFrame:
    """A row for each question, document and passage, with what it repeats of an earlier split (train, validation, test).

    Args:
        near_duplicate: from 0.05 to 1: from where on texts count as the same. Of two questions: the Jaccard similarity of
            their words, and of their words and pairs of neighbouring words together. Of a passage: the share of its runs of five
            words that stand in the other document.

    Returns:
        Columns ``item`` (an id), ``source`` and, for the suite: ``repeated_question``, ``repeated_evidence`` and
        ``copied_document`` (what it repeats and what to do, or None), ``repeated_passage`` (1 where a passage stands in another
        split's document and is no leak). The result depends neither on the order of rows nor on the process.
    """
    asked = _Questions(questions, passages).repeated(scope, near_duplicate)
    corpus = _Documents(documents, passages, questions)
    copies = find_copies(passages, corpus.splits, near_duplicate) if scope == "document" else []
    copied = corpus.copied(copies)
    told = {frozenset(repeat[:2]) for repeat in copied}  # of two copied documents every passage would be named again
    copies = [copy for copy in copies if frozenset((corpus.document_of[copy.passage_id], copy.doc_id)) not in told]
    evidence = corpus.repeated_evidence(copies)
    harmless = {copy.passage_id for copy in copies} - {passage_id for repeat in evidence for passage_id in repeat[:2]}
    by_document = _messages(copied, corpus.say_document)
    by_passage = _messages(evidence, corpus.say_passage)
    rows = [
        *(
            (question_id, source, asked.get(question_id), None, None, 0)
            for question_id, source in zip(questions["question_id"], questions["source"], strict=True)
        ),
        *(
            (doc_id, source, None, None, by_document.get(doc_id), 0)
            for doc_id, source in zip(documents["doc_id"], documents["source"], strict=True)
        ),
        *(
            (passage_id, corpus.place(passage_id), None, by_passage.get(passage_id), None, int(passage_id in harmless))
            for passage_id in passages["passage_id"]
        ),
    ]
    columns = ["item", "source", "repeated_question", "repeated_evidence", "copied_document", "repeated_passage"]
    return pd.DataFrame(rows, columns=columns)


def _messages(repeats: Iterable[_Repeat], say: Callable[[_Repeat], str]) -> dict[str, str]:
    """Later item -> about its nearest repeat, and how many more there are."""
    by_item: dict[str, list[_Repeat]] = defaultdict(list)
    for repeat in sorted(repeats, key=lambda repeat: (-repeat.share, repeat.earlier)):
        by_item[repeat.later].append(repeat)
    return {item: say(found[0]) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "") for item, found in by_item.items()}


def _later_first(first: tuple[str, str], second: tuple[str, str]) -> tuple[str, str]:
    """Order two (split, id) by their splits; those of unknown name, which another suite refuses, come last."""
    order = sorted((first, second), key=lambda pair: (_ORDER.get(pair[0], len(_ORDER)), pair[0]))
    return order[1][1], order[0][1]


class _Documents:
    """The documents that belong to a split, their passages, and what of them is evidence."""

    def __init__(self, documents: pd.DataFrame, passages: pd.DataFrame, questions: pd.DataFrame):
        by_document = questions[questions["doc_id"] != ""].groupby("doc_id")["split"].unique()
        # A document in two splits is refused by the questions' suite. Here all that it resembles would be blamed.
        self.splits: dict[str, str] = {str(doc_id): splits[0] for doc_id, splits in by_document.items() if len(splits) == 1}
        self.sources: dict[str, str] = dict(zip(documents["doc_id"], documents["source"], strict=True))
        ids = passages["passage_id"]
        self.document_of = dict(zip(ids, passages["doc_id"], strict=True))
        self.edges_of = dict(zip(ids, zip(passages["start"], passages["end"], strict=True), strict=True))
        self.n_words_of = dict(zip(ids, passages["text"].map(count_words), strict=True))
        self.evidence = {passage_id for ids in questions["evidence"] for passage_id in ids}

    def source(self, doc_id: str) -> str:
        return self.sources.get(doc_id, doc_id)

    def split(self, passage_id: str) -> str:
        return self.splits[self.document_of[passage_id]]

    def place(self, passage_id: str) -> str:
        start, end = self.edges_of[passage_id]
        return f"{self.source(self.document_of[passage_id])}, characters {start}-{end}"

    def copied(self, copies: list[Copy]) -> list[_Repeat]:
        """Pairs of documents of which one holds a good part of the other; boilerplate is no such part."""
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
    """The questions by id, and what makes two of them ask for the same thing."""

    def __init__(self, questions: pd.DataFrame, passages: pd.DataFrame):
        self.rows = {row["question_id"]: row for row in questions.sort_values(["question_id", "source"]).to_dict("records")}
        self.texts = {question_id: " ".join(words(row["text"])) for question_id, row in self.rows.items()}
        used = passages[passages["passage_id"].isin({passage_id for ids in questions["evidence"] for passage_id in ids})]
        self.passages = {
            passage_id: " ".join(words(text)) for passage_id, text in zip(used["passage_id"], used["text"], strict=True)
        }

    def repeated(self, scope: str, near_duplicate: float) -> dict[str, str]:
        """Question -> what it repeats."""
        shares: dict[tuple[str, str], float] = {}
        for group in self._groups(self._grounds if scope == "document" else _anywhere):
            shares |= self._alike(group, near_duplicate)
        asked = _messages((_Repeat(*pair, share) for pair, share in shares.items()), self._say_question)
        same = {pair for group in self._groups(self._facts) for pair in self._firsts(group, group)}
        return _messages((_Repeat(*pair, 1.0) for pair in same), self._say_fact) | asked

    def _grounds(self, question_id: str) -> set[tuple[str, ...]]:
        """Two questions of the same words ask for the same thing if they share one of these."""
        doc_id = self.rows[question_id]["doc_id"]
        return (
            ({("document", doc_id)} if doc_id else set())
            | {("evidence", text) for text in self._evidence(question_id)}
            | {("answer", text) for text in self._telling_answers(question_id)}
        )

    def _facts(self, question_id: str) -> set[tuple[str, ...]]:
        """Two questions that share one of these ask for the same thing, whatever their words."""
        return set(product(self._evidence(question_id), self._telling_answers(question_id)))

    def _evidence(self, question_id: str) -> set[str]:
        return {self.passages.get(passage_id, "") for passage_id in self.rows[question_id]["evidence"]} - {""}

    def _telling_answers(self, question_id: str) -> set[str]:
        answers = [words(answer) for answer in self.rows[question_id]["answers"]]
        return {" ".join(answer) for answer in answers if len(answer) >= _TELLING_WORDS}

    def _groups(self, keys: Callable[[str], set[tuple[str, ...]]]) -> Iterator[list[str]]:
        """Questions that share a key, where they are of more than one split."""
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for question_id, text in self.texts.items():
            if text:  # one without words repeats nothing
                for key in keys(question_id):
                    groups[key].append(question_id)
        return (group for group in groups.values() if len({self.rows[question_id]["split"] for question_id in group}) > 1)

    def _alike(self, group: list[str], near_duplicate: float) -> dict[tuple[str, str], float]:
        by_text: dict[str, list[str]] = defaultdict(list)
        for question_id in group:
            by_text[self.texts[question_id]].append(question_id)
        shares: dict[tuple[str, str], float] = {}
        texts = sorted(by_text)
        for first, second, _ in near_duplicate_pairs(texts, near_duplicate, words=1):
            one, other = texts[first], texts[second]
            # Words alone are not enough: "Does a cat infect a dog?" and "Does a dog infect a cat?" have the same ones.
            share = jaccard(_words_and_pairs(one), _words_and_pairs(other))
            if share >= near_duplicate:
                pairs = [*self._firsts(by_text[one], by_text[other]), *self._firsts(by_text[other], by_text[one])]
                shares |= dict.fromkeys(pairs, share)
        return shares | {pair: 1.0 for same in by_text.values() for pair in self._firsts(same, same)}

    def _firsts(self, group: list[str], others: list[str]) -> Iterator[tuple[str, str]]:
        """Each question of the group with the first of each earlier split among the others: not with all of very many."""
        firsts: dict[str, str] = {}
        for question_id in others:
            firsts.setdefault(self.rows[question_id]["split"], question_id)
        for question_id in group:
            split = self.rows[question_id]["split"]
            for other, first in firsts.items():
                if other != split and _later_first((split, question_id), (other, first)) == (question_id, first):
                    yield question_id, first

    def _say_question(self, repeat: _Repeat) -> str:
        how = "the same words" if repeat.share == 1 else f"nearly the same words ({repeat.share:.2f})"
        return self._say(repeat, f"asks in {how} what is asked")

    def _say_fact(self, repeat: _Repeat) -> str:
        return self._say(repeat, "has the evidence and the answer of one")

    def _say(self, repeat: _Repeat, what: str) -> str:
        row, other = self.rows[repeat.later], self.rows[repeat.earlier]
        text = other["text"][:_SHOWN]
        return f"{row['split']} question that {what} in {other['split']} ({other['source']}: {text!r}): {_REMEDY}"


def _anywhere(question_id: str) -> set[tuple[str, ...]]:
    return {("corpus",)}


def _words_and_pairs(text: str) -> frozenset[Hashable]:
    sequence = text.split()
    return frozenset([*sequence, *pairwise(sequence)])
