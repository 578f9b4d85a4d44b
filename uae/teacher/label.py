"""The label stage: ask the teacher about every candidate pair that the store does not hold yet."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from uae.compute import pick_device
from uae.files import write_json, write_text
from uae.sources import fingerprint
from uae.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.store import LabelStore
from uae.teacher.utility import answer_id, utilities


def label(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    manifest_path: Path,
    histogram_path: Path,
    teacher_path: Path,
    templates: Sequence[Template],
    answers_per_question: int,
    batch_tokens: int,
    pairs_per_part: int,
    device: str,
    dtype: str,
) -> dict:
    """Append readings of all pairs never labelled with this teacher and these templates. Returns counts and a summary.

    A killed run loses the readings since the last part; the next one goes on from there.
    """
    candidates = read_table(candidates_path, CANDIDATES)
    passages = read_table(passages_path, PASSAGES).set_index("passage_id")["text"]
    questions = read_table(questions_path, QUESTIONS)
    by_id = questions.set_index("question_id")
    teacher = fingerprint(teacher_path)
    store = LabelStore(store_path)
    with store.writing():
        done = _keys(store.read())
        work = [
            (
                template,
                [p for p in wanted(candidates, by_id, passages, template, teacher, answers_per_question) if p.key not in done],
            )
            for template in templates
        ]
        asked = _ask(store, work, teacher_path, batch_tokens, pairs_per_part, device, dtype)
    labels = store.read()
    hashes = [template.hash for template in templates]
    derived = utilities(labels, candidates, questions, answers_per_question, teacher, hashes)
    write_text(histogram_path, _histogram(derived["utility"]))
    write_json(
        manifest_path,
        {
            "teacher": teacher,
            "templates": {template.hash: vars(template) for template in templates},
            "answers_per_question": answers_per_question,
            "backend": {"device": pick_device(device), "dtype": dtype, "batch_tokens": batch_tokens, **_versions()},
        },
    )
    by_question = derived.groupby("question_id")["utility"]
    return {
        "pairs": len(candidates),
        "readings_asked_now": asked,
        "readings_in_store": len(labels),
        "truncated": int(labels["truncated"].sum()),
        "mean_utility": round(float(derived["utility"].mean()), 4),
        "mean_best_utility": round(float(by_question.max().mean()), 4),
        "questions_no_passage_helps": int((by_question.max() <= 0).sum()),
        "questions": int(by_question.ngroups),
    }


def wanted(
    candidates: pd.DataFrame, questions: pd.DataFrame, passages: pd.Series, template: Template, teacher: str, answers: int
):
    """Every pair to read under one template, those of a passage together; first the readings without any passage."""
    asked = candidates["question_id"].unique()
    rows = [("", question_id) for question_id in sorted(asked)]
    rows += sorted(zip(candidates["passage_id"], candidates["question_id"], strict=True))
    for passage_id, question_id in rows:
        question = questions.loc[question_id]
        for answer in question["answers"][:answers]:
            key = (question_id, passage_id, answer_id(answer), template.hash, teacher)
            yield Pair(key, question["text"], answer, passages[passage_id] if passage_id else None)


def _ask(
    store: LabelStore, work: list, teacher_path: Path, batch_tokens: int, pairs_per_part: int, device: str, dtype: str
) -> int:
    """Read every pair of ``work``, (template, pairs) each, into the store. The teacher is loaded only if there is any."""
    total = sum(len(pairs) for _, pairs in work)
    if not total:
        return 0
    from uae.teacher.scoring import CausalTeacher, load_causal_lm

    model, tokenizer = load_causal_lm(teacher_path, device, dtype)
    with tqdm(total=total, desc="labelling", unit="pair") as bar:
        for template, pairs in work:
            _read_into(store, CausalTeacher(model, tokenizer, template, batch_tokens), pairs, pairs_per_part, bar)
    return total


def _keys(labels: pd.DataFrame) -> set[tuple]:
    columns = ["question_id", "passage_id", "answer_id", "template", "teacher"]
    return set(labels[columns].itertuples(index=False, name=None))


def _read_into(store: LabelStore, reader, pairs: list, pairs_per_part: int, bar: tqdm) -> None:
    waiting: list[dict] = []
    for readings in reader.read(pairs):
        for key, nll_sum, n_tokens, truncated in readings:
            names = ("question_id", "passage_id", "answer_id", "template", "teacher")
            waiting.append(
                dict(zip(names, key, strict=True)) | {"nll_sum": nll_sum, "n_tokens": n_tokens, "truncated": truncated}
            )
        bar.update(len(readings))
        if len(waiting) >= pairs_per_part:
            store.append(waiting)
            waiting = []
    if waiting:
        store.append(waiting)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def _histogram(values: pd.Series) -> str:
    counts, edges = np.histogram(values, bins=30)
    rows = [f"{(low + high) / 2:.4f},{count}" for low, high, count in zip(edges, edges[1:], counts, strict=False)]
    return "\n".join(["utility,pairs", *rows]) + "\n"
