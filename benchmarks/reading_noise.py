"""How far utilities go astray in each number format: the same pairs read in float32, bfloat16 and float16.

The reference reads every prompt whole, in float32. ``uae/teacher/noise.py`` holds what this printed. Minutes on a CPU.
Prints one JSON line last.

python benchmarks/reading_noise.py --questions 24
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from uae.corpus.ingest import ingest
from uae.corpus.repeated_questions import RepeatRule
from uae.io.models import fingerprint, resolve
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.pipeline.settings import load_settings
from uae.teacher.engines.local import CausalTeacher, load_causal_lm
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair

Reads = dict[tuple[str, str], float]  # (question_id, passage_id, "" for none) -> NLL in nats per token of the answer


def pairs_of(data: str, questions: int, passages: int) -> list[Pair]:
    """Questions of the bundled corpus with their evidence and other passages of their documents, and each once alone."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ingest(
            path=data, format="folder", documents_path=place / "d", passages_path=place / "p", questions_path=place / "q",
            ledger_path=place / "l", report_path=place / "r", max_documents=None, passage_words=140,
            split={"train": 1.0, "validation": 0.0, "test": 0.0}, seed=0,
            repeated=RepeatRule(drop=False, scope="document", near_duplicate=0.8),
        )  # fmt: skip
        table, asked = read_table(place / "p", PASSAGES), read_table(place / "q", QUESTIONS)
    asked = asked[asked["evidence"].str.len() > 0].sample(questions, random_state=0)
    rows = []
    for question in asked.itertuples():
        own = table[table["doc_id"] == question.doc_id].sample(frac=1, random_state=0)
        gold = own[own["passage_id"].isin(question.evidence)]
        chosen = pd.concat([gold, own]).drop_duplicates("passage_id").head(passages)
        texts = [("", None), *zip(chosen["passage_id"], chosen["text"], strict=True)]
        rows += [
            Pair((question.question_id, id_, "a", "t", "m"), question.text, question.answers[0], text) for id_, text in texts
        ]
    return sorted(rows, key=lambda pair: pair.key[1])


def read(teacher: CausalTeacher, template: Template, pairs: list[Pair]) -> Reads:
    readings = [reading for batch in teacher.plan(template, pairs) for reading in teacher.read(batch)]
    return {reading.key[:2]: reading.nll_sum / reading.n_tokens for reading in readings}


def utilities(reads: Reads) -> np.ndarray:
    return np.array([reads[question, ""] - reads[question, passage] for question, passage in sorted(reads) if passage])


def spread_of_error(reads: Reads, error: np.ndarray) -> float:
    """The largest difference of two passages of one question that is error alone, nats."""
    owners = [question for question, passage in sorted(reads) if passage]
    return float(pd.Series(error).groupby(owners).agg(np.ptp).max())


def main(
    questions: int = 24,
    passages: Annotated[int, typer.Option(help="Of each question, its evidence first.")] = 6,
    formats: Annotated[list[str], typer.Option("--format")] = ("float32", "bfloat16", "float16"),
    device: str = "auto",
    params: Path = Path("params.yaml"),
) -> None:
    settings = load_settings(params)
    teacher = next(iter(settings.teachers.values()))
    folder, template = resolve(teacher.model, Path("models")), Template(**teacher.templates[0].model_dump())
    pairs = pairs_of("data/sample", questions, passages)
    whole = CausalTeacher(*load_causal_lm(folder, device, "float32"), fingerprint(folder), None, None, False, trees=False)
    exact = utilities(read(whole, template, pairs))
    del whole
    found = {}
    for name in formats:
        print(name, file=sys.stderr, flush=True)
        engine = CausalTeacher(*load_causal_lm(folder, device, name), fingerprint(folder), None, None, False)
        reads = read(engine, template, pairs)
        error = utilities(reads) - exact
        found[name] = {
            "sd": float(error.std()), "largest": float(np.abs(error).max()),
            "largest_within_question": spread_of_error(reads, error),
            "probe": engine.probe_difference, "trees": engine.trees,
        }  # fmt: skip
    print(json.dumps({"pairs": len(exact), "questions": questions, "utility_sd": float(exact.std()), "formats": found}))


if __name__ == "__main__":
    typer.run(main)
