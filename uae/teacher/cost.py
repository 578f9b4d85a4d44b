"""What labelling will cost, said before anything runs: readings, tokens, what sharing saves, time and memory."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uae.io.tables import CANDIDATES, QUESTIONS, read_table
from uae.teacher.asking import Asked, wanted
from uae.teacher.label import passes, unread, windows
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Teacher, read_all
from uae.teacher.store import stored_keys
from uae.text.stored_passages import passages_beside

# Of a large corpus so many windows are tokenised, and the rest taken to be like them.
_WINDOWS = 8

_Window = tuple[Template, list[Pair]]


def labelling_cost(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    teachers: Sequence[Asked],
    answers_per_question: int,
    check_questions: int,
    calibration_s: float,
    adopts: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """One entry a teacher. Reads a few of its batches to learn its speed, and keeps nothing of them.

    ``tokens`` go through the model, ``full_tokens`` would if every prompt were read whole; ``seconds`` is ``tokens`` at the
    measured speed, None where nothing is to be read.

    Raises:
        ArtefactError: a stage before has not run, or the store has damaged parts.
    """
    candidates = read_table(candidates_path, CANDIDATES)
    passages = passages_beside(passages_path, set(candidates["passage_id"]))
    questions = read_table(questions_path, QUESTIONS).set_index("question_id")
    done = stored_keys([store_path, *adopts])
    work: dict[str, list[_Window]] = {asked.name: [] for asked in teachers}
    stored = {asked.name: 0 for asked in teachers}
    for asked, template, table in passes(teachers, candidates, check_questions):
        pairs = list(wanted(asked, template, table, questions, template.passages(passages), answers_per_question))
        stored[asked.name] += sum(pair.key in done for pair in pairs)
        work[asked.name] += [(template, w) for w in windows(pairs) if any(pair.key not in done for pair in w)]
    return [_cost(asked, work[asked.name], stored[asked.name], done, calibration_s) for asked in teachers]


def _cost(asked: Asked, work: list[_Window], stored: int, done: set[tuple[str, ...]], calibration_s: float) -> dict[str, Any]:
    missing = sum(pair.key not in done for _, window in work for pair in window)
    cost = {"teacher": asked.name, "readings": missing, "stored": stored}
    if not missing:
        return cost | {"tokens": 0, "full_tokens": 0, "seconds": None, "memory_mb": None}
    teacher = asked.open()
    chosen = work[:: max(len(work) // _WINDOWS, 1)]
    batches = [batch for template, window in chosen for batch in unread(teacher, template, window, done)]
    share = missing / sum(len(batch.pairs) for batch in batches)
    tokens, full = sum(batch.tokens for batch in batches) * share, sum(batch.full_tokens for batch in batches) * share
    speed, seconds = _calibrate(teacher, batches, calibration_s)
    return cost | {
        "tokens": round(tokens),
        "full_tokens": round(full),
        "exact": share == 1 and not any(batch.estimated for batch in batches),
        "tokens_per_s": round(speed, 1),
        "calibrated_on_s": round(seconds, 1),
        "seconds": round(tokens / speed, 1),
        "memory_mb": teacher.memory_mb(max(batches, key=lambda batch: batch.tokens)),
        **teacher.provenance(),
    }


def _calibrate(teacher: Teacher, batches: list[PromptBatch], seconds: float) -> tuple[float, float]:
    """Tokens per second over batches spread evenly over the work, and the time taken; the first, slower one does not count."""
    teacher.read(batches[0])
    spread = [batches[n] for n in sorted(range(len(batches)), key=lambda number: (number * 0.618) % 1)]
    tokens, start = 0, time.perf_counter()
    for batch, _ in read_all(teacher, spread):
        tokens += batch.tokens
        if time.perf_counter() - start > seconds:
            break
    spent = time.perf_counter() - start
    return tokens / spent, spent
