"""What the tests of labelling share: a small corpus, and a teacher that counts what it is asked."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from uae.io.files import sha256_bytes
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.teacher.asking import Asked
from uae.teacher.keys import by_ids
from uae.teacher.label import label
from uae.teacher.parts import KEY
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading
from uae.teacher.store import LabelStore

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")
OTHER = Template("Text: {passage}\n", "Question: {question}\nAnswer:", " {answer}")
CHECK = Template("{passage}\n\n", "Q: {question}\nA:", " {answer}")


def write_corpus(folder: Path, questions: int = 12, per_question: int = 6, passages: int = 12) -> None:
    """Shelves: passage n tells what question n asks. The candidates' questions stand in falling order of their ids."""
    place = {"doc_id": "d", "title": "", "source": "d", "section": "", "start": 0, "end": 1}
    shelves = [
        place | {"passage_id": f"p{n:02}", "position": n, "text": f"Shelf {n} holds {n * 7} boxes. " * 4} for n in range(passages)
    ]
    asked = [
        {"question_id": f"q{n:02}", "text": f"How many boxes are on shelf {n}?", "answers": [f"{n * 7} boxes", f"{n * 7}"],
         "doc_id": "d", "evidence": [f"p{n % passages:02}"], "split": "train", "origin": "human", "source": f"line {n}"}
        for n in range(questions)
    ]  # fmt: skip
    pairs = [
        {"question_id": f"q{q:02}", "passage_id": f"p{(q + step) % passages:02}", "source": "dense", "rank": step + 1,
         "score": 0.9 - step / 10}
        for q in reversed(range(questions)) for step in range(per_question)
    ]  # fmt: skip
    write_table(folder / "passages.parquet", PASSAGES, shelves)
    write_table(folder / "questions.parquet", QUESTIONS, asked)
    write_table(folder / "candidates.parquet", CANDIDATES, pairs)


def tables(folder: Path) -> dict[str, Path]:
    """The arguments of ``label`` and its kin that say where the inputs are."""
    return {f"{name}_path": folder / f"{name}.parquet" for name in ("candidates", "passages", "questions")}


def run(folder: Path, *teachers: Asked, store: str = "labels", **changes) -> dict:
    arguments = tables(folder) | {
        "store_path": folder / store, "manifest_path": folder / f"{store}.json", "teachers": teachers,
        "answers_per_question": 1, "check_questions": 0, "readings_per_part": 20,
    }  # fmt: skip
    return label(**arguments | changes)


def readings(folder: Path) -> pd.DataFrame:
    return LabelStore(folder).read().sort_values(list(KEY)).reset_index(drop=True)


def stored(corpus: Path) -> pd.DataFrame:
    """The readings of the corpus's pairs by their ids."""
    candidates, passages, questions = (
        read_table(corpus / f"{name}.parquet", schema)
        for name, schema in (("candidates", CANDIDATES), ("passages", PASSAGES), ("questions", QUESTIONS))
    )
    texts = dict(zip(passages["passage_id"], passages["text"], strict=True))
    return by_ids(LabelStore(corpus / "labels").read(), candidates, questions, texts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ids_of(pair: Pair) -> tuple[str, str]:
    """question_id and passage_id ("": none) of a pair of ``write_corpus``."""
    asked, read = re.search(r"shelf (\d+)", pair.question), re.search(r"Shelf (\d+)", pair.passage or "")
    return f"q{int(asked[1]):02}" if asked else "", f"p{int(read[1]):02}" if read else ""


def arbitrary_nll(pair: Pair) -> float:
    return int(sha256_bytes(*pair.key)[:8], 16) / 2**30


class CountingTeacher:
    """An engine without a model: ``nll`` is a pair's NLL per token. Remembers what it was asked."""

    def __init__(self, fingerprint: str = "f" * 64, batch_pairs: int = 5, nll: Callable[[Pair], float] = arbitrary_nll):
        self.fingerprint, self.batch_pairs, self.nll = fingerprint, batch_pairs, nll
        self.workers = 1
        self.asked: list[Pair] = []
        self.opened = 0

    def open(self) -> "CountingTeacher":
        self.opened += 1
        return self

    def provenance(self) -> dict[str, Any]:
        return {"backend": "counting", "batch_pairs": self.batch_pairs}

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        parts = [tuple(pairs[start : start + self.batch_pairs]) for start in range(0, len(pairs), self.batch_pairs)]
        return [PromptBatch(part, sum(map(_tokens, part)), 3 * sum(map(_tokens, part))) for part in parts]

    def read(self, batch: PromptBatch) -> list[Reading]:
        self.asked += batch.pairs
        counts = [len(pair.answer.split()) for pair in batch.pairs]
        rows = zip(batch.pairs, counts, strict=True)
        return [Reading(pair.key, self.nll(pair) * count, count, False) for pair, count in rows][::-1]  # any order will do

    def start_worker(self) -> None:
        raise AssertionError("one reads without threads")

    def end_workers(self) -> None:
        raise AssertionError("one reads without threads")

    def memory_mb(self, batch: PromptBatch) -> int:
        return len(batch.pairs)


def _tokens(pair: Pair) -> int:
    return len(f"{pair.passage or ''} {pair.question} {pair.answer}".split())


def asking(teacher: Any, **changes) -> Asked:
    """``teacher`` asked for answers' likelihoods under TEMPLATE, as the parameters would have it."""
    usual = {
        "name": "main", "fingerprint": teacher.fingerprint, "method": "answer_likelihood", "grades": (), "weight": 1.0,
        "templates": (TEMPLATE,), "check_templates": (), "open": getattr(teacher, "open", lambda: teacher),
    }  # fmt: skip
    return Asked(**usual | changes)
