import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uae.io import tables
from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, DOCUMENTS, QUESTIONS, RUNS, read_table, scan_table, write_table

PAIR = {"question_id": "q1", "passage_id": "p1", "source": "dense", "rank": 1, "score": 0.5}
QUESTION = {
    "question_id": "q1",
    "text": "Who trims the wick?",
    "answers": ["the keeper"],
    "doc_id": "d1",
    "evidence": [],
    "split": "train",
    "origin": "human",
    "source": "here",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "table.parquet"


def refused(path, call, *arguments):
    """The message of an ArtefactError that names the file."""
    with pytest.raises(ArtefactError) as caught:
        call(path, *arguments)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        (CANDIDATES, PAIR),
        (QUESTIONS, QUESTION),
        (
            DOCUMENTS,
            {"doc_id": "d", "source": "s", "title": "", "version": "", "text": "é 😀\n", "metadata": "{}"}
            | {"sections": [{"title": "Use", "start": 0, "end": 3}]},
        ),
        (
            RUNS,
            {"system": "base", "question_id": "q", "passage_ids": ["p", "q"], "scores": [1.0, 0.5], "answer": ""}
            | {"metrics": [("map", 0.5)]},
        ),
    ],
    ids=["candidates", "questions", "documents", "runs"],
)
def test_rows_come_back_as_they_were_written(path, schema, row):
    write_table(path, schema, [row, row])
    assert read_table(path, schema).to_dict("records") == [row, row]


def test_a_data_frame_with_numpy_values_is_taken(path):
    write_table(path, CANDIDATES, pd.DataFrame([PAIR, PAIR | {"rank": np.int64(2), "score": np.float32(0.25)}]))
    assert read_table(path, CANDIDATES)["score"].tolist() == [0.5, 0.25]


def test_an_empty_table_keeps_its_columns(path):
    write_table(path, QUESTIONS, [])
    found = read_table(path, QUESTIONS)
    assert (len(found), found.columns.tolist()) == (0, QUESTIONS.names)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (PAIR | {"extra": 1}, "extra"),
        ({name: value for name, value in PAIR.items() if name != "rank"}, "rank"),
        (PAIR | {"rank": "first"}, "first"),
        (PAIR | {"rank": 2**40}, "1099511627776"),
        (PAIR | {"passage_id": 7}, "int"),
        (PAIR | {"passage_id": None}, "passage_id"),
    ],
    ids=["extra", "missing", "word for a number", "too large", "number for a word", "null"],
)
def test_a_row_that_does_not_fit_is_refused_and_the_old_table_stays(path, row, named):
    write_table(path, CANDIDATES, [PAIR])
    assert named in refused(path, write_table, CANDIDATES, [PAIR, row])
    assert read_table(path, CANDIDATES).to_dict("records") == [PAIR]
    assert [file.name for file in path.parent.iterdir()] == ["table.parquet"]


def test_a_missing_table_names_what_to_do(path):
    assert "does not exist: run the stage that makes it first" in refused(path, read_table, CANDIDATES)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a table",
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + data[-8:],
        lambda data: data[:4] + bytes(len(data) - 100) + data[-96:],
    ],
    ids=["empty", "other", "cut", "hole", "zeros"],
)
def test_a_damaged_table_names_what_to_do(path, damage):
    write_table(path, CANDIDATES, [PAIR | {"rank": n} for n in range(200)])
    path.write_bytes(damage(path.read_bytes()))
    assert "is damaged" in (message := refused(path, read_table, CANDIDATES))
    assert "delete it and run its stage again" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.drop_columns("rank"), "rank"),
        (lambda table: table.append_column("extra", pa.array([1])), "extra"),
        (lambda table: table.set_column(4, "score", pa.array([0.5], pa.float64())), "score"),
    ],
    ids=["missing", "extra", "other type"],
)
def test_a_table_of_another_schema_names_the_fields(path, change, named):
    write_table(path, CANDIDATES, [PAIR])
    pq.write_table(change(pq.read_table(path)), path)
    assert f"has another schema (fields {named}): run its stage again" in refused(path, read_table, CANDIDATES)


def test_a_table_of_another_stage_is_not_taken(path):
    write_table(path, QUESTIONS, [QUESTION])
    assert "has another schema" in refused(path, read_table, CANDIDATES)


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    path = tmp_path / "seed=3" / "table.parquet"
    write_table(path, CANDIDATES, [PAIR])
    assert read_table(path, CANDIDATES).to_dict("records") == [PAIR]


def test_rows_of_much_text_are_written_in_parts(tmp_path, monkeypatch):
    """No more of them are Python objects together, and they come back as they were."""
    monkeypatch.setattr(tables, "_TEXT_AT_ONCE", 100)
    schema = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("sketch", pa.list_(pa.int64()), nullable=False)])
    given = []
    rows = ({"text": str(number) * 14, "sketch": [number, number]} for number in range(10))  # 14 characters and 64 for the list
    tables.write_table(tmp_path / "t.parquet", schema, (given.append(row) or row for row in rows))
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 5
    assert tables.read_table(tmp_path / "t.parquet", schema).to_dict("records") == given


def test_a_scan_keeps_nothing_of_what_it_read(tmp_path, monkeypatch):
    """Of a file of 4 MB, and Arrow holds a part of it at a time. Random texts cannot be compressed away."""
    monkeypatch.setattr(tables, "_TEXT_AT_ONCE", 1 << 18)
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    draw = random.Random(0)
    tables.write_table(tmp_path / "t.parquet", schema, ({"text": draw.randbytes(1 << 11).hex()} for _ in range(1 << 10)))
    before, held = pa.total_allocated_bytes(), []
    for part in tables.scan_table(tmp_path / "t.parquet", schema, rows=1 << 6):
        held.append(pa.total_allocated_bytes() - before)
        del part
    assert len(held) == 16
    assert (tmp_path / "t.parquet").stat().st_size > 1 << 21
    assert max(held) < 1 << 21  # the file has twice as much


def test_an_array_is_written_as_the_list_of_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_TEXT_AT_ONCE", 100)
    schema = pa.schema([pa.field("sketch", pa.list_(pa.uint64()), nullable=False)])
    lists = [[], [1, 2**64 - 1], [3, 4], [5]]
    for name, kind in (("lists", list), ("arrays", lambda numbers: np.array(numbers, np.uint64))):
        tables.write_table(tmp_path / name, schema, ({"sketch": kind(numbers)} for numbers in lists))
    assert (tmp_path / "arrays").read_bytes() == (tmp_path / "lists").read_bytes()
    assert pq.ParquetFile(tmp_path / "arrays").num_row_groups == 2


def test_a_null_of_another_program_is_named_with_its_row(path):
    rows = [QUESTION | {"question_id": f"q{number}"} for number in range(5)]
    rows[3] = rows[3] | {"doc_id": None}
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(field.name, field.type) for field in QUESTIONS])), path)
    for read in (read_table, lambda path, schema: list(scan_table(path, schema, rows=2))):
        assert "row 3: doc_id must not be null" in refused(path, read, QUESTIONS)
    assert len(read_table(path, QUESTIONS, ["question_id"])) == len(rows)
