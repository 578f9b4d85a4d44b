"""What systems are measured on, and ranking it with one encoder: shared by evaluation and the gate."""

from pathlib import Path

import pandas as pd

from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.measures.ranking import rank
from uae.retrievers.dense import encode, load_encoder

BASE, UAE = "base", "uae"


def choose_questions(questions: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The questions of a split with evidence.

    Raises:
        ArtefactError: there is none.
    """
    chosen = questions[(questions["split"] == split) & (questions["evidence"].str.len() > 0)]
    if chosen.empty:
        raise ArtefactError(f"there is no {split} question with evidence to evaluate on")
    return chosen.reset_index(drop=True)


def test_set_hash(questions: pd.DataFrame, passages: pd.DataFrame) -> str:
    """Hash of what was asked and searched: results compare only where it is equal."""
    return sha256_bytes(*questions["question_id"], *sorted(passages["passage_id"]))[:16]


def rank_with(
    encoder_path: Path, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, device: str, progress: str
) -> dict[str, tuple[list[str], list[float]]]:
    """question_id -> (passage_ids best first, scores), over each question's whole scope."""
    if scope == "document":
        passages = passages[passages["doc_id"].isin(set(questions["doc_id"]))]
    encoder = load_encoder(encoder_path, device)
    question_vectors = encode(encoder, questions["text"].tolist(), "query")
    passage_vectors = encode(encoder, passages["text"].tolist(), "document", progress)
    rankings = rank(questions, passages, question_vectors, passage_vectors, scope)
    return {ranking.question_id: (ranking.passage_ids, ranking.scores) for ranking in rankings}
