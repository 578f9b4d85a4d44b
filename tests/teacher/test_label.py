"""The label stage on a real (tiny) teacher: resuming, and being killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from uae.tables import CANDIDATES, PASSAGES, QUESTIONS, write_table
from uae.teacher.label import label
from uae.teacher.prompts import Template
from uae.teacher.store import LabelStore

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")
KEY = ["question_id", "passage_id", "answer_id", "template", "teacher"]


@pytest.fixture
def corpus(tmp_path) -> Path:
    place = {"doc_id": "d", "section": "", "start": 0, "end": 1}
    passages = [
        place | {"passage_id": f"p{n:02}", "position": n, "text": f"Shelf {n} holds {n * 7} boxes. " * 4} for n in range(12)
    ]
    questions = [
        {"question_id": f"q{n:02}", "text": f"How many boxes are on shelf {n}?", "answers": [f"{n * 7} boxes", f"{n * 7}"],
         "doc_id": "d", "evidence": [f"p{n:02}"], "split": "train", "origin": "human", "source": "s"}
        for n in range(12)
    ]  # fmt: skip
    pairs = [
        {"question_id": f"q{q:02}", "passage_id": f"p{(q + step) % 12:02}", "source": "dense", "rank": step + 1, "score": 0.5}
        for q in range(12) for step in range(6)
    ]  # fmt: skip
    write_table(tmp_path / "passages.parquet", PASSAGES, passages)
    write_table(tmp_path / "questions.parquet", QUESTIONS, questions)
    write_table(tmp_path / "candidates.parquet", CANDIDATES, pairs)
    return tmp_path


def run(corpus: Path, teacher: Path, store: str, **changes) -> dict:
    arguments = {
        "candidates_path": corpus / "candidates.parquet", "passages_path": corpus / "passages.parquet",
        "questions_path": corpus / "questions.parquet", "store_path": corpus / store, "manifest_path": corpus / "labels.json",
        "histogram_path": corpus / "histogram.csv", "teacher_path": teacher, "templates": [TEMPLATE], "answers_per_question": 1,
        "batch_tokens": 512, "pairs_per_part": 8, "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    return label(**arguments | changes)


def readings(folder: Path) -> pd.DataFrame:
    return LabelStore(folder).read().sort_values(KEY).reset_index(drop=True)


def test_every_pair_and_every_question_without_passage_is_read_once(corpus, tiny_lm):
    result = run(corpus, tiny_lm, "labels")
    table = readings(corpus / "labels")
    assert result["readings_asked_now"] == len(table) == 12 * 6 + 12
    assert not table.duplicated(KEY).any()
    assert (corpus / "labels.json").exists()
    assert (corpus / "histogram.csv").read_text().startswith("utility,pairs\n")


def test_second_run_asks_nothing(corpus, tiny_lm):
    run(corpus, tiny_lm, "labels")
    before = {p.name: p.stat().st_mtime_ns for p in (corpus / "labels").iterdir()}
    assert run(corpus, tiny_lm, "labels")["readings_asked_now"] == 0
    assert {p.name: p.stat().st_mtime_ns for p in (corpus / "labels").iterdir()} == before


def test_only_what_is_new_is_asked(corpus, tiny_lm):
    run(corpus, tiny_lm, "labels")
    assert run(corpus, tiny_lm, "labels", answers_per_question=2)["readings_asked_now"] == 12 * 6 + 12
    other = Template("Text: {passage}\n", TEMPLATE.question, TEMPLATE.answer)
    assert run(corpus, tiny_lm, "labels", templates=[TEMPLATE, other])["readings_asked_now"] == 12 * 6 + 12


def test_lost_part_is_asked_again(corpus, tiny_lm):
    run(corpus, tiny_lm, "labels")
    expected = readings(corpus / "labels")
    part = sorted((corpus / "labels").glob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:100])
    assert 0 < run(corpus, tiny_lm, "labels")["readings_asked_now"] < len(expected)
    pd.testing.assert_frame_equal(readings(corpus / "labels"), expected, rtol=1e-5)


def test_killed_run_goes_on_and_ends_equal(corpus, tiny_lm):
    """kill -9 after the first parts are written; what is on disk is whole, and the rest is asked once."""
    run(corpus, tiny_lm, "whole")
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_label import run
from uae.teacher.scoring import CausalTeacher
read = CausalTeacher._read_batch
CausalTeacher._read_batch = lambda self, *a: (time.sleep(0.05), read(self, *a))[1]
run(Path({str(corpus)!r}), Path({str(tiny_lm)!r}), "killed")
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((corpus / "killed").glob("*.parquet"))) < 3 and worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    rescued = len(readings(corpus / "killed"))
    assert 0 < rescued < 84
    assert run(corpus, tiny_lm, "killed")["readings_asked_now"] == 84 - rescued
    pd.testing.assert_frame_equal(readings(corpus / "killed"), readings(corpus / "whole"), rtol=1e-5)
