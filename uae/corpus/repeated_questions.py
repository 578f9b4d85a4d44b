"""Questions that ask for the same thing in two splits: a trained ranking would be measured on what it was trained on.

What makes two questions the same depends on where retrieval looks (``scope``).

- *corpus*: all questions search the same passages. So a question repeats another one if their words are the same or nearly.
- *document*: a question means something only together with its document. For example, "What is the conclusion?" may be asked of
  every paper. A plain "yes", a number or a name may be the answer in two of them. So the same words are not enough. The
  questions must also share the document, evidence, or an answer of at least ``_TELLING_WORDS`` words.

In both, questions with the same evidence and an equal answer of that length are the same, however they are worded.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from uae.text.near_duplicates import jaccard, near_duplicate_pairs
from uae.text.words import words

SPLIT_ORDER = {"train": 0, "validation": 1, "test": 2}  # of two copies, the one in the earlier split is given up
_TELLING_WORDS = 5  # fewer are the answer to many questions

Place = int  # of a question in ``RepeatedQuestions.rows``


@dataclass(frozen=True)
class RepeatRule:
    """What becomes of a question that stands in two splits."""

    drop: bool  # leave out the copy in train or validation; False: the run stops
    scope: str  # document or corpus
    near_duplicate: float  # see ``RepeatedQuestions``


class Alike(NamedTuple):
    """Each question of ``first`` asks what each of ``second`` asks. They may be the same questions."""

    first: list[Place]
    second: list[Place]
    share: float  # from 0 to 1: how like their words are
    by_fact: bool  # they share evidence and answer, and their words may differ


class RepeatedQuestions:
    """All questions that stand in two splits. The result does not depend on the order of the table's rows.

    Args:
        questions: of the columns of ``QUESTIONS``. The same question may stand in it twice.
        passages: the texts of the questions' evidence.
        near_duplicate: from 0.05 to 1: from where on two questions have nearly the same words. Measured are the Jaccard
            similarity of their words, and that of their words and pairs of neighbouring words together.
    """

    def __init__(self, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, near_duplicate: float):
        # In their order, that of equal texts is stable: which copies are named first never depends on the table.
        ordered = questions.sort_values(["question_id", "source"], kind="stable")
        self.rows: list[dict[str, Any]] = [
            dict(zip(map(str, ordered), row, strict=True)) for row in ordered.itertuples(index=False)
        ]
        self.splits = [str(row["split"]) for row in self.rows]
        self._texts = [" ".join(words(row["text"])) for row in self.rows]
        used = passages[passages["passage_id"].isin({passage_id for ids in questions["evidence"] for passage_id in ids})]
        self._passages = {
            passage_id: " ".join(words(text)) for passage_id, text in zip(used["passage_id"], used["text"], strict=True)
        }
        self._scope, self._near_duplicate = scope, near_duplicate

    @cached_property
    def alike(self) -> list[Alike]:
        """What repeats what, where the questions are of more than one split; the most alike first."""
        grounds = self._grounds if self._scope == "document" else _anywhere
        found = [alike for group in self._groups(grounds) for alike in self._of_like_words(group)]
        found += [Alike(group, group, 1.0, True) for group in self._groups(self._facts)]
        return sorted(found, key=lambda alike: (-alike.share, alike.first, alike.second))

    def groups(self) -> list[list[Place]]:
        """The questions that are linked by being alike: every such question once, test questions first in their group."""
        links = [(alike.first[0], place) for alike in self.alike for place in (*alike.first, *alike.second)]
        if not links:
            return []
        ends = np.array(links).T
        graph = coo_array((np.ones(len(links), dtype=np.int8), (ends[0], ends[1])), shape=(len(self.rows), len(self.rows)))
        _, labels = connected_components(graph, directed=False)
        members: dict[int, list[Place]] = defaultdict(list)
        for place in sorted({place for link in links for place in link}, key=lambda p: (-self.order(p), p)):
            members[int(labels[place])].append(place)
        return sorted(members.values(), key=lambda group: (self._texts[group[0]], group))

    def copies(self) -> dict[Place, Place]:
        """The questions to leave out so that none stands in two splits -> the question that each of them repeats.

        First go those of validation that repeat one of test, then those of train that repeat one that is left. So a test question
        is never given up, and no question goes for one that goes itself.
        """
        copies: dict[Place, Place] = {}
        for split in ("validation", "train"):
            found: dict[Place, Place] = {}
            for alike in self.alike:
                for some, others in ((alike.first, alike.second), (alike.second, alike.first)):
                    later = (place for place in others if place not in copies and self.order(place) > SPLIT_ORDER[split])
                    kept = next(later, None)
                    if kept is not None:
                        found = {place: kept for place in some if self.splits[place] == split} | found
            copies |= found
        return copies

    def order(self, place: Place) -> int:
        """Where the question's split stands among the splits; one of unknown name, which validation refuses, comes last."""
        return SPLIT_ORDER.get(self.splits[place], len(SPLIT_ORDER))

    def listed(self) -> list[list[dict[str, str]]]:
        """``groups`` for a report: of each question its ``question_id``, ``split``, ``source`` and ``text``."""
        return [[self.shown(place) for place in group] for group in self.groups()]

    def shown(self, place: Place) -> dict[str, str]:
        return {field: str(self.rows[place][field]) for field in ("question_id", "split", "source", "text")}

    def _grounds(self, place: Place) -> set[tuple[str, ...]]:
        """Two questions of the same words ask for the same thing if they share one of these."""
        doc_id = self.rows[place]["doc_id"]
        return (
            {("id", self.rows[place]["question_id"])}  # the same words about the same document, or about none
            | ({("document", doc_id)} if doc_id else set())
            | {("evidence", text) for text in self._evidence(place)}
            | {("answer", text) for text in self._telling_answers(place)}
        )

    def _facts(self, place: Place) -> set[tuple[str, ...]]:
        """Two questions that share one of these ask for the same thing, whatever their words."""
        return set(product(self._evidence(place), self._telling_answers(place)))

    def _evidence(self, place: Place) -> set[str]:
        return {self._passages.get(passage_id, "") for passage_id in self.rows[place]["evidence"]} - {""}

    def _telling_answers(self, place: Place) -> set[str]:
        answers = [words(answer) for answer in self.rows[place]["answers"]]
        return {" ".join(answer) for answer in answers if len(answer) >= _TELLING_WORDS}

    def _groups(self, keys: Callable[[Place], set[tuple[str, ...]]]) -> Iterator[list[Place]]:
        """Questions that share a key, where they are of more than one split."""
        groups: dict[tuple[str, ...], list[Place]] = defaultdict(list)
        for place, text in enumerate(self._texts):
            if text:  # one without words repeats nothing
                for key in keys(place):
                    groups[key].append(place)
        return (groups[key] for key in sorted(groups) if self._of_two_splits(groups[key]))

    def _of_two_splits(self, places: Iterable[Place]) -> bool:
        return len({self.splits[place] for place in places}) > 1

    def _of_like_words(self, group: list[Place]) -> Iterator[Alike]:
        by_text: dict[str, list[Place]] = defaultdict(list)
        for place in group:
            by_text[self._texts[place]].append(place)
        texts = sorted(by_text)
        yield from (Alike(same, same, 1.0, False) for same in by_text.values() if self._of_two_splits(same))
        for first, second, _ in near_duplicate_pairs(texts, self._near_duplicate, words=1):
            one, other = texts[first], texts[second]
            # Words alone are not enough: "Does a cat infect a dog?" and "Does a dog infect a cat?" have the same ones.
            share = jaccard(_words_and_pairs(one), _words_and_pairs(other))
            if share >= self._near_duplicate and self._of_two_splits(by_text[one] + by_text[other]):
                yield Alike(by_text[one], by_text[other], share, False)


def told(groups: list[list[dict[str, str]]], most: int | None = None) -> str:
    """Groups of ``RepeatedQuestions.listed`` for a person: a line a question, a blank line between groups.

    Args:
        most: groups that are shown, where a report has them all; None: no report does.
    """
    shown = groups[:most]
    blocks = ["\n".join("  {split:<10} {question_id}  {source}: {text}".format(**q) for q in group) for group in shown]
    more = [f"  and {len(groups) - len(shown)} more"] if len(groups) > len(shown) else []
    return "\n\n".join(blocks + more)


def _anywhere(place: Place) -> set[tuple[str, ...]]:
    return {("corpus",)}


def _words_and_pairs(text: str) -> frozenset[Hashable]:
    sequence = text.split()
    return frozenset([*sequence, *pairwise(sequence)])
