"""Questions asked of students and of BM25, over all passages: their texts stay in their table, and rows stand for ids."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from uae.measures.fusion import Aligned, aligned_rows
from uae.measures.ranking import Rows, rows_by_document, rows_of, strings
from uae.measures.row_rankings import Asked
from uae.retrievers.both import Words, rank_beside
from uae.retrievers.cosine import Dense
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.training.usefulness import foreign_documents, without

_ELSEWHERE = "elsewhere:"  # before the id of a question that is asked where it does not belong


class Asking:
    """What students and BM25 find for some questions, and where asked for that, what they find where these do not belong.

    Of a question that is what either ranks among its first ``both.KEPT`` passages: all that there are, where there are no more.
    BM25's index is built once, and each student encodes what it may have to find.

    Attributes:
        found: question_id -> passages of its scope.
        foreign: question_id -> in scope ``document`` those of another document, in scope ``corpus`` those of all others.
    """

    def __init__(self, questions: pd.DataFrame, stored: StoredPassages, read_as: PassageTemplate, scope: str, with_foreign: bool):
        """
        Args:
            questions: all that will be asked, at least one.
            read_as: what students and BM25 read of a passage.

        Raises:
            InputError: scope is ``document`` and a question belongs to none.
        """
        self._stored, self._read_as, self._scope, self._with_foreign = stored, read_as, scope, with_foreign
        asked = pd.concat([questions, self._elsewhere(questions)], ignore_index=True)
        self._words = Words(asked, stored.ids, scope, texts=stored.texts(read_as))
        self._documents = rows_by_document(stored.ids["doc_id"]) if with_foreign and scope == "corpus" else {}
        self.found: dict[str, Aligned] = {}
        self._there: dict[str, Aligned] = {}  # of ``_elsewhere``
        self._own: dict[str, str] = {}  # question_id -> doc_id; where all other documents are foreign

    def ask(self, student: Dense, questions: pd.DataFrame) -> None:
        """Have a student rank some of the questions."""
        elsewhere = self._elsewhere(questions)
        everywhere = pd.concat([questions, elsewhere], ignore_index=True)  # at once: passages are encoded once
        near = self._stored.asked_of(everywhere, self._scope)
        dense, words = rank_beside(
            student, self._words, everywhere, near.ids, self._scope, "passages", texts=near.texts(self._read_as)
        )
        both = aligned_rows(dense, words)
        self.found.update({key: both[key] for key in questions["question_id"]})
        self._there.update({key.removeprefix(_ELSEWHERE): both[key] for key in elsewhere["question_id"]})
        of = zip(questions["question_id"], questions["doc_id"], strict=True)
        self._own.update({key: doc_id for key, doc_id in of if doc_id in self._documents})  # others may be answered by any

    @property
    def foreign(self) -> Mapping[str, Aligned]:
        if self._scope == "document":
            return self._there
        return Asked(self._own, lambda key: without(self.found[key], self._documents[self._own[key]]))

    def ids(self, rows: Iterable[Any]) -> list[str]:
        """The passage_ids of rows."""
        return strings(self._words.table.ids[np.fromiter(rows, np.intp)])

    def rows(self, passage_ids: Collection[str]) -> Rows:
        """The rows of passages, ascending; of those that are not there, none."""
        return rows_of(self._words.table.ids, self._words.table.ordered, passage_ids)

    def _elsewhere(self, questions: pd.DataFrame) -> pd.DataFrame:
        """The questions, asked of documents that they are not about, under other ids."""
        if not self._with_foreign or self._scope == "corpus":
            return questions[:0]
        documents = foreign_documents(questions, self._stored.ids)
        return questions.loc[documents.index].assign(
            doc_id=documents, question_id=_ELSEWHERE + questions.loc[documents.index, "question_id"]
        )
