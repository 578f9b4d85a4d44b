"""A dataset's questions with their first candidates, for the benchmarks: nothing is kept."""

import tempfile
from pathlib import Path

import pandas as pd

from uae.candidates.mine import mine
from uae.candidates.miner import Amounts
from uae.corpus.ingest import ingest
from uae.corpus.repeated_questions import RepeatRule
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table
from uae.pipeline.settings import Settings
from uae.pipeline.student import student_folder
from uae.text.passage_template import PassageTemplate


def mined(
    settings: Settings, data: str, format: str, documents: int | None, top_k: int
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Candidates, questions by question_id, and what models read of passages by passage_id; of the first documents or all."""
    read_as = PassageTemplate(settings.passages.template)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ingest(
            path=data, format=format, documents_path=place / "d", passages_path=place / "p", questions_path=place / "q",
            ledger_path=place / "l", report_path=place / "r", max_documents=documents,
            passage_words=settings.ingest.passage_words, split={"train": 1.0, "validation": 0.0, "test": 0.0}, seed=settings.seed,
            repeated=RepeatRule(drop=False, scope="document", near_duplicate=0.8),
        )  # fmt: skip
        mine(
            passages_path=place / "p", questions_path=place / "q", candidates_path=place / "c",
            encoder_path=student_folder(settings.models, Path("models")), scope="document",
            amounts=Amounts(top_k, bm25_top_k=0, holding_answer=0, random=0, gold=False),
            device="auto", seed=settings.seed, read_as=read_as,
        )  # fmt: skip
        return (
            read_table(place / "c", CANDIDATES),
            read_table(place / "q", QUESTIONS).set_index("question_id"),
            read_as.by_id(read_table(place / "p", PASSAGES)),
        )
