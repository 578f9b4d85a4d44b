"""Students asked over a corpus whose texts stay in their table find what they found when all texts were in memory."""

import numpy as np
import pandas as pd
import pytest

from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.fusion import aligned
from uae.retrievers.kinds import open_dense
from uae.retrievers.lexical import rank_bm25
from uae.retrievers.retriever import rankings
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.training.asking_students import Asking
from uae.training.usefulness import foreign_documents
from uae.vectors.store import VectorStore

READ_AS = PassageTemplate("Read: {text}")


@pytest.fixture
def questions(labelled) -> pd.DataFrame:
    found = read_table(labelled / "questions.parquet", QUESTIONS)[:5]
    found.loc[2, "text"] = "What stands beside the coil on shelf 7?"
    return found


def asked(labelled, questions, student, scope: str, with_foreign=True) -> Asking:
    asking = Asking(questions, StoredPassages(labelled / "passages.parquet"), READ_AS, scope, with_foreign)
    for part in (questions[:2], questions[2:]):  # of several students each is asked some
        asking.ask(student, part)
    return asking


def check(asking: Asking, found, expected) -> None:
    assert asking.ids(found.ids.tolist()) == expected.ids.tolist()
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-7)  # other texts were encoded beside
    np.testing.assert_array_equal(found.lexical, expected.lexical)


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_all_is_found_as_in_memory(labelled, questions, tiny_encoder, tmp_path, scope):
    student = open_dense(tiny_encoder, "cpu", VectorStore(tmp_path / "vectors"))
    passages = READ_AS.applied(read_table(labelled / "passages.parquet", PASSAGES))
    asking = asked(labelled, questions, student, scope)

    def both(of: pd.DataFrame):
        return aligned(rankings(student, of, passages, scope), rank_bm25(of, passages, scope, None))

    assert list(asking.found) == questions["question_id"].tolist()
    for key, expected in both(questions).items():
        check(asking, asking.found[key], expected)
    assert list(asking.foreign) == questions["question_id"].tolist()
    elsewhere = both(questions.assign(doc_id=foreign_documents(questions, passages)))
    for key, own in zip(questions["question_id"], questions["doc_id"], strict=True):
        found = asking.foreign[key]
        of = dict(zip(passages["passage_id"], passages["doc_id"], strict=True))
        if scope == "document":
            check(asking, found, elsewhere[key])
        else:
            expected = [passage_id for passage_id in asking.ids(asking.found[key].ids.tolist()) if of[passage_id] != own]
            assert asking.ids(found.ids.tolist()) == expected
            assert len(expected) == 9


def test_a_question_of_no_document_has_no_foreign_passages_and_none_are_looked_for_unasked(labelled, questions, tiny_encoder):
    student = open_dense(tiny_encoder, "cpu", None)
    questions.loc[0, "doc_id"] = ""
    assert list(asked(labelled, questions, student, "corpus").foreign) == questions["question_id"][1:].tolist()
    assert not asked(labelled, questions, student, "corpus", with_foreign=False).foreign


def test_rows_and_ids_name_each_other(labelled, questions):
    asking = Asking(questions, StoredPassages(labelled / "passages.parquet"), READ_AS, "corpus", False)
    assert asking.rows({"p03", "p00", "none such"}).tolist() == [0, 3]
    assert asking.ids([3, 0]) == ["p03", "p00"]
