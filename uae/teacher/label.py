"""The label stage: ask the teachers about every candidate pair that the store does not hold yet."""

import logging
from collections import deque
from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, DOCUMENTS, PASSAGES, QUESTIONS, read_table, scan_table
from uae.teacher.asking import Asked, sample, wanted
from uae.teacher.budget import affordable
from uae.teacher.earlier_keys import EarlierKeys
from uae.teacher.manifest import write_label_manifest
from uae.teacher.parts import KEY
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Teacher, read_all
from uae.teacher.store import LabelStore, stored_keys
from uae.text.stored_passages import StoredPassages, passages_beside

log = logging.getLogger(__name__)

# So many pairs are planned at once. They are enough to fill batches well, and few enough for the memory, whatever the size of
# the corpus. A finished window is passed over without tokenising it.
WINDOW_PAIRS = 4096
_DOCUMENTS = 256  # whose texts are in memory together


def label(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    manifest_path: Path,
    teachers: Sequence[Asked],
    answers_per_question: int,
    check_questions: int,
    readings_per_part: int,
    adopts: Sequence[Path] = (),
    documents_path: Path | None = None,
    budget: int | None = None,
) -> dict[str, int]:
    """``ask``, and write the manifest, which says which readings of the store count. Returns counts.

    Args:
        adopts: stores of readings that were asked for elsewhere (training asks while it refreshes candidates). What this stage
            needs of them is copied, so that no pair is paid for twice and the store still holds all that its manifest names.
        budget: as ``ask`` has it.
    """
    counts = ask(
        candidates_path, passages_path, questions_path, store_path, teachers, answers_per_question, check_questions,
        readings_per_part, adopts=adopts, documents_path=documents_path, budget=budget,
    )  # fmt: skip
    waiting = counts["readings_waiting"]
    write_label_manifest(manifest_path, teachers, answers_per_question, check_questions, LabelStore(store_path), waiting)
    return counts


def ask(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    teachers: Sequence[Asked],
    answers_per_question: int,
    check_questions: int,
    readings_per_part: int,
    others: Sequence[Path] = (),
    adopts: Sequence[Path] = (),
    documents_path: Path | None = None,
    budget: int | None = None,
) -> dict[str, int]:
    """Append readings of all pairs never labelled with these teachers and templates. Returns counts.

    A killed run loses the batch in flight (on a CPU each core reads one of its own). The next one reads what is missing in the
    same batches as it would have been read in, so that the store ends up the same as an uninterrupted run's.

    Args:
        others: stores whose readings are not asked again.
        adopts: stores whose readings are copied instead of being asked again.
        documents_path: the table of documents. It is read where an earlier version stored readings by ids (``EarlierKeys``).
        budget: the most readings that are asked for now (``uae.teacher.budget``); None: all. The counts say how many wait.
    """
    candidates = read_table(candidates_path, CANDIDATES)
    reads_neighbours = any(asked.reads_neighbours for asked in teachers)
    passages = passages_beside(passages_path, candidates["passage_id"], reads_neighbours)
    questions = read_table(questions_path, QUESTIONS).set_index("question_id")
    work = [
        (asked, template, list(wanted(asked, template, table, questions, template.passages(passages), answers_per_question)))
        for asked, template, table in passes(teachers, candidates, check_questions)
    ]
    store = LabelStore(store_path, readings_per_part)

    def earlier(table: pa.Table) -> pa.Table:
        documents = scan_table(documents_path, DOCUMENTS, rows=_DOCUMENTS) if documents_path else ()
        parts = StoredPassages(passages_path).scan(reads_neighbours, PASSAGES.names)
        ids = set(table["passage_id"].to_pylist())
        return EarlierKeys.of(documents, parts, questions.reset_index(), teachers, ids)(table)

    with store.writing(earlier):
        asked_for = {pair.key for _, _, pairs in work for pair in pairs}
        adopted = sum(_adopted(store, other, asked_for) for other in adopts)
        done = store.keys()
        held = len(done)
        done |= stored_keys(others)
        missing = asked_for - done
        chosen = affordable(work, done, budget)
        if len(chosen) < len(missing):
            work = [(asked, template, [p for p in pairs if p.key in chosen or p.key in done]) for asked, template, pairs in work]
        with tqdm(total=len(chosen), desc="labelling", unit="pair", smoothing=0.1) as bar:
            for _, of_teacher in groupby(work, key=lambda item: item[0].name):
                read_missing(store, list(of_teacher), done, bar)
        store.seal()
        truncated = int(store.read()["truncated"].sum())
        damaged = len(store.damaged)
    return {
        "pairs": len(candidates),
        "readings_wanted": len(asked_for),
        "readings_stored_before": len(asked_for) - len(missing) - adopted,
        "readings_adopted": adopted,
        "readings_asked_now": len(chosen),
        "readings_waiting": len(missing) - len(chosen),
        "readings_in_store": held + len(chosen),
        "truncated": truncated,
        "damaged_parts": damaged,
    }


def _adopted(store: LabelStore, other: Path, wanted: Container[tuple[str, ...]]) -> int:
    """What is copied saves money and is no input: a store that cannot be read costs its readings once more."""
    try:
        return store.adopt(other, wanted)
    except ArtefactError as error:
        log.warning("no reading is taken over from %s, so its pairs are asked again: %s", other, error)
        return 0


def passes(
    teachers: Sequence[Asked], candidates: pd.DataFrame, check_questions: int
) -> Iterator[tuple[Asked, Template, pd.DataFrame]]:
    """What is to be asked: a teacher, a template, and the candidates that it is asked about."""
    checked = sample(candidates, check_questions)
    for asked in teachers:
        yield from ((asked, template, candidates) for template in asked.templates)
        if len(checked):
            yield from ((asked, template, checked) for template in asked.check_templates)


def windows(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Neighbouring pairs, some thousands; those of a passage stay together unless they are more than that."""
    window: list[Pair] = []
    for _, of_passage in groupby(pairs, key=lambda pair: pair.passage):
        group = list(of_passage)
        if window and len(window) + len(group) > WINDOW_PAIRS:
            yield window
            window = []
        window += group
        while len(window) > WINDOW_PAIRS:
            yield window[:WINDOW_PAIRS]
            window = window[WINDOW_PAIRS:]
    if window:
        yield window


def read_missing(
    store: LabelStore, work: Sequence[tuple[Asked, Template, list[Pair]]], done: set[tuple[str, ...]], bar: "tqdm[Any]"
) -> None:
    """One teacher's work that is not ``done`` yet, into a store that is being written to.

    The teacher is loaded only if there is any, and given up at the end: the next one needs the memory.
    """
    teacher: Teacher | None = None
    for asked, template, pairs in work:
        for window in windows(pairs):
            if all(pair.key in done and pair.key not in store.early for pair in window):
                continue
            teacher = teacher or asked.open()
            turns = deque(unread(teacher, template, window, done, store.early))
            new = [batch for batch in turns if batch.pairs[0].key not in store.early]
            _settle(store, turns)
            for batch, readings in read_all(teacher, new):
                store.append([_row(*reading) for reading in readings], teacher.provenance(), early=batch is not turns[0])
                done.update(reading.key for reading in readings)  # two teachers of one model may ask the same
                bar.update(len(readings))
                if batch is turns[0]:
                    turns.popleft()
                    _settle(store, turns)


def _settle(store: LabelStore, turns: deque[PromptBatch]) -> None:
    """Have the store count the batches that it was given before their turn, as far as their turn has come."""
    while turns and turns[0].pairs[0].key in store.early:
        for pair in turns.popleft().pairs:
            if pair.key in store.early:
                store.settle(pair.key)


def unread(
    teacher: Teacher,
    template: Template,
    window: list[Pair],
    done: Container[tuple[str, ...]],
    early: Container[tuple[str, ...]] = (),
) -> Iterator[PromptBatch]:
    """The batches of a window that are not read yet, and those read before their turn, in their order.

    What is missing of a batch read in part is batched anew, last.
    """
    rest: list[Pair] = []
    for batch in teacher.plan(template, window):
        missing = [pair for pair in batch.pairs if pair.key not in done]
        if len(missing) == len(batch.pairs) or all(pair.key in early for pair in batch.pairs):
            yield batch
        else:
            rest += missing
    if rest:
        yield from teacher.plan(template, rest)


def _row(key: tuple[str, ...], nll_sum: float, n_tokens: int, truncated: bool) -> dict[str, Any]:
    return dict(zip(KEY, key, strict=True)) | {"nll_sum": nll_sum, "n_tokens": n_tokens, "truncated": truncated}
