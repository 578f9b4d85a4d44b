"""What labelling will cost, said before anything runs: readings, tokens, what sharing saves, time and memory."""

import heapq
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uae.io.tables import CANDIDATES, QUESTIONS, read_table
from uae.teacher.asking import Asked, wanted
from uae.teacher.label import passes, unread, windows
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, SpreadTeacher, Teacher, read_all
from uae.teacher.store import stored_keys
from uae.text.stored_passages import passages_beside

# Of a large corpus so many windows are tokenised, and the rest taken to be like them.
_WINDOWS = 8
_TIMES = (1, 2, 4, 8, 16, 32)  # of so many workers the time is told

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
    measured speed, None where nothing is to be read. ``seconds_by_workers`` is the same for other numbers of workers
    (``execution.workers``), each as fast as the measured ones are on the average. Where more of them share a machine's cores,
    they are slower. It is None for a server's model.

    Raises:
        ArtefactError: a stage before has not run, or the store has damaged parts.
    """
    candidates = read_table(candidates_path, CANDIDATES)
    passages = passages_beside(passages_path, candidates["passage_id"], any(asked.reads_neighbours for asked in teachers))
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
    planned = [list(unread(teacher, template, window, done)) for template, window in chosen]
    batches = [batch for window in planned for batch in window]
    share = missing / sum(len(batch.pairs) for batch in batches)
    tokens, full = sum(batch.tokens for batch in batches) * share, sum(batch.full_tokens for batch in batches) * share
    speed, seconds = _calibrate(teacher, batches, calibration_s)
    memory_mb = teacher.memory_mb(max(batches, key=lambda batch: batch.tokens))
    processes = teacher.processes if isinstance(teacher, SpreadTeacher) else 1
    at_once = teacher.workers // processes
    by_workers = {
        workers: round(_seconds(planned, workers * at_once, speed / teacher.workers) * share, 1)
        for workers in sorted({*_TIMES, processes})
    }
    return cost | {
        "tokens": round(tokens),
        "full_tokens": round(full),
        "exact": share == 1 and not any(batch.estimated for batch in batches),
        "tokens_per_s": round(speed, 1),
        "workers_measured": processes,
        "seconds_by_workers": by_workers if memory_mb is not None else None,
        "calibrated_on_s": round(seconds, 1),
        "seconds": round(tokens / speed, 1),
        "memory_mb": memory_mb,
        **teacher.provenance(),
    }


def _calibrate(teacher: Teacher, batches: list[PromptBatch], seconds: float) -> tuple[float, float]:
    """Tokens per second over batches spread evenly over the work, and the time taken; a worker's first, slower one does not
    count."""
    for _ in read_all(teacher, batches[: teacher.workers]):
        pass
    spread = [batches[n] for n in sorted(range(len(batches)), key=lambda number: (number * 0.618) % 1)]
    tokens, start = 0, time.perf_counter()
    for batch, _ in read_all(teacher, spread):
        tokens += batch.tokens
        if time.perf_counter() - start > seconds:
            break
    spent = time.perf_counter() - start
    return tokens / spent, spent


def _seconds(windows: list[list[PromptBatch]], at_once: int, speed: float) -> float:
    """The time of windows of batches. A window's batches go in their order to whoever is free, and the next waits for all.

    Args:
        at_once: batches that are read at once.
        speed: of each, in tokens per second.
    """
    seconds = 0.0
    for window in windows:
        free = [0.0] * at_once  # when each is
        for batch in window:
            heapq.heapreplace(free, free[0] + batch.tokens / speed)
        seconds += max(free)
    return seconds
