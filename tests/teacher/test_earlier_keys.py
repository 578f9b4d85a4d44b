"""An upgrade asks no teacher again: readings kept by the ids of an earlier version are found under their texts."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelling import CHECK, TEMPLATE, CountingTeacher, asking, readings, run, tables, write_corpus

from uae.io.files import sha256_bytes, sha256_file
from uae.io.tables import DOCUMENTS, LABELS, PASSAGES, QUESTIONS, read_table, write_table
from uae.teacher.keys import text_key
from uae.teacher.store import LabelStore

EARLIER = pa.schema([pa.field("question_id", pa.string()), pa.field("passage_id", pa.string()), *list(LABELS)[2:]])


@pytest.fixture
def corpus(tmp_path):
    """A corpus whose label store an earlier version wrote, with a reading of a passage that is gone."""
    write_corpus(tmp_path)
    passages = read_table(tables(tmp_path)["passages_path"], PASSAGES)
    passages.loc[::2, "section"] = "Shelves"
    write_table(tables(tmp_path)["passages_path"], PASSAGES, passages)
    document = {
        "doc_id": "d",
        "source": "d",
        "title": "The store",
        "version": "",
        "text": "all",
        "sections": [],
        "metadata": "{}",
    }
    write_table(tmp_path / "documents.parquet", DOCUMENTS, [document])
    run(tmp_path, asking(CountingTeacher(), check_templates=(CHECK,)), check_questions=2)
    labels = readings(tmp_path / "labels")

    doc_id = sha256_bytes("d", "The store", "", "all")[:24]
    ids = {"": ""}
    for row in passages.itertuples():
        parts = [doc_id, str(row.start), str(row.end), row.text, *([row.section] if row.section else [])]
        ids[text_key(row.text)] = sha256_bytes(*parts)[:24]
    for row in read_table(tables(tmp_path)["questions_path"], QUESTIONS).itertuples():
        ids[text_key(row.text)] = sha256_bytes(doc_id, row.text)[:24]
    old = labels.assign(question_id=labels["question"].map(ids), passage_id=labels["passage"].map(ids))
    old = pd.concat([old, old[-1:].assign(passage_id="gone")])[EARLIER.names]
    for part in (tmp_path / "labels").glob("*.parquet"):
        part.unlink()
    provenance = {b"uae.provenance": b'{"backend": "counting", "batch_pairs": 5}'}
    table = pa.Table.from_pandas(old, schema=EARLIER, preserve_index=False).replace_schema_metadata(provenance)
    pq.write_table(table, tmp_path / "part")
    (tmp_path / "part").rename(tmp_path / "labels" / f"{sha256_file(tmp_path / 'part')[:32]}.parquet")
    return tmp_path, labels


def test_readings_kept_by_ids_are_found_by_their_texts(corpus):
    folder, labels = corpus
    teacher = CountingTeacher()
    documents = folder / "documents.parquet"
    run(folder, asking(teacher, check_templates=(CHECK,)), check_questions=2, documents_path=documents)
    assert teacher.asked == []
    assert readings(folder / "labels").equals(labels)
    assert LabelStore(folder / "labels").provenances() == [{"readings": len(labels), "backend": "counting", "batch_pairs": 5}]


def test_what_the_tables_do_not_tell_is_asked_anew(corpus):
    """Here the document was edited since: its passages had other ids."""
    folder, _ = corpus
    table = read_table(folder / "documents.parquet", DOCUMENTS)
    write_table(folder / "documents.parquet", DOCUMENTS, table.assign(text="all of it"))
    teacher = CountingTeacher()
    run(folder, asking(teacher), documents_path=folder / "documents.parquet")
    assert len(teacher.asked) == len(readings(folder / "labels")) == 12 * (1 + 6)
    assert {pair.key[3] for pair in teacher.asked} == {TEMPLATE.hash}
