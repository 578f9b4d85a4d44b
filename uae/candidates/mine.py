"""The candidates stage: top-k of the base encoder, the evidence passages, and random ones from the question's scope."""

from pathlib import Path

import numpy as np
import pandas as pd

from uae.encoding import encode, load_encoder
from uae.errors import ArtefactError
from uae.files import sha256_bytes
from uae.retrieval import rank
from uae.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table

_LABELLED_SPLITS = ("train", "validation")


def mine(
    passages_path: Path,
    questions_path: Path,
    candidates_path: Path,
    encoder_path: Path,
    scope: str,
    top_k: int,
    random: int,
    gold: bool,
    device: str,
    seed: int,
) -> dict:
    """Write the pairs to label for the train and validation questions. Returns counts.

    A passage enters once, under the first source that brings it: dense, gold, random.

    Raises:
        ArtefactError: no question is in these splits.
    """
    passages = read_table(passages_path, PASSAGES)
    questions = read_table(questions_path, QUESTIONS)
    questions = questions[questions["split"].isin(_LABELLED_SPLITS)]
    if questions.empty:
        raise ArtefactError(f"{questions_path}: no question is in the split train or validation; add some and run ingest again")
    if scope == "document":  # the other documents' passages can be nobody's candidates
        passages = passages[passages["doc_id"].isin(set(questions["doc_id"]))]
    encoder = load_encoder(encoder_path, device)
    question_vectors = encode(encoder, questions["text"].tolist(), "query", "questions")
    passage_vectors = encode(encoder, passages["text"].tolist(), "document", "passages")
    rankings = rank(questions, passages, question_vectors, passage_vectors, scope)
    rows = []
    for ranking, evidence in zip(rankings, questions["evidence"], strict=True):
        rows += pick(ranking.question_id, ranking.passage_ids, ranking.scores, evidence if gold else [], top_k, random, seed)
    write_table(candidates_path, CANDIDATES, rows)
    table = pd.DataFrame(rows)
    return {
        "questions": len(questions),
        "candidates": len(rows),
        "candidates_per_question": round(len(rows) / max(1, len(questions)), 2),
        "candidates_by_source": table["source"].value_counts().to_dict(),
    }


def pick(
    question_id: str, passage_ids: list[str], scores: list[float], evidence: list[str], top_k: int, random: int, seed: int
) -> list[dict]:
    """The candidates of one question, from the base encoder's ranking of its whole scope (best first).

    The random draw depends on the seed and the question only, so that adding questions changes no other question's pairs.
    """
    places = {passage_id: place for place, passage_id in enumerate(passage_ids)}
    sources = dict.fromkeys(passage_ids[:top_k], "dense")
    for passage_id in evidence:
        if passage_id in places:
            sources.setdefault(passage_id, "gold")
    rest = [passage_id for passage_id in passage_ids if passage_id not in sources]
    generator = np.random.default_rng(int(sha256_bytes(str(seed), question_id)[:16], 16))
    for place in generator.choice(len(rest), size=min(random, len(rest)), replace=False) if rest else []:
        sources[rest[place]] = "random"
    return [
        {
            "question_id": question_id,
            "passage_id": passage_id,
            "source": source,
            "rank": places[passage_id] + 1,
            "score": scores[places[passage_id]],
        }
        for passage_id, source in sorted(sources.items(), key=lambda item: places[item[0]])
    ]
