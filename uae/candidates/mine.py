"""The candidates stage: what each miner brings for a question, with the base encoder's rank and score."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from uae.candidates import chance, dense, evidence, holding_answer, lexical
from uae.candidates.miner import Amounts, Miner, Pool, Ranked
from uae.io.errors import ArtefactError
from uae.io.files import sha256_tree
from uae.io.tables import CANDIDATES, QUESTIONS, read_table, write_table
from uae.measures.ranking import Ranking
from uae.retrievers.kinds import open_dense
from uae.text.passage_template import TEXT_ALONE, PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.vectors.store import VectorStore

_LABELLED_SPLITS = ("train", "validation")
# source -> its miner, in the order in which they are asked: a passage enters under the first that brings it
MINERS: Mapping[str, Callable[[Pool], Miner]] = {
    "dense": dense.miner,
    "bm25": lexical.miner,
    "gold": evidence.miner,
    "answer": holding_answer.miner,
    "random": chance.miner,
}


def mine(
    passages_path: Path,
    questions_path: Path,
    candidates_path: Path,
    encoder_path: Path,
    scope: str,
    amounts: Amounts,
    device: str,
    seed: int,
    read_as: PassageTemplate = TEXT_ALONE,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Write the pairs to label for the train and validation questions. Returns counts.

    Args:
        amounts: how many passages each miner brings.
        read_as: what the encoder and BM25 read of a passage.
        vectors: where vectors of passages are kept.

    Raises:
        ArtefactError: no question is in these splits, or none has a passage in its scope.
    """
    # Before they are read: a table that is replaced meanwhile is not what these candidates were mined from.
    hashes = {"passages": sha256_tree(passages_path), "questions": sha256_tree(questions_path)}
    questions = read_table(questions_path, QUESTIONS)
    questions = questions[questions["split"].isin(_LABELLED_SPLITS)]
    if questions.empty:
        raise ArtefactError(f"{questions_path}: no question is in the split train or validation; add some and run ingest again")
    # The other documents' passages can be nobody's candidates.
    passages = StoredPassages(passages_path, set(questions["doc_id"]) if scope == "document" else None)
    read = passages.texts(read_as)
    pool = Pool(questions, passages.ids, passages.texts(), read, scope, amounts, seed)
    miners = {source: opened(pool) for source, opened in MINERS.items()}
    within = {
        question_id: {passage_id for miner in miners.values() for passage_id in miner.within(question_id, evidence)}
        for question_id, evidence in zip(questions["question_id"], questions["evidence"], strict=True)
    }
    encoder = open_dense(encoder_path, device, vectors)
    rankings = encoder.place(questions, passages.ids, read, scope, amounts.top_k, within, "passages")
    rows: list[dict[str, Any]] = []
    for ranking, known in zip(rankings, questions["evidence"], strict=True):
        rows += pick(ranking, known, miners)
    if not rows:
        raise ArtefactError(
            f"{passages_path}: no question has a passage in its scope ({scope}): name their documents or set scope=corpus"
        )
    if sha256_tree(passages_path) != hashes["passages"]:  # it is read more than once
        raise ArtefactError(f"{passages_path} was changed while candidates were mined from it: run the stage candidates again")
    write_table(candidates_path, CANDIDATES, rows, made_from=hashes)
    table = pd.DataFrame(rows)
    return {
        "questions": len(questions),
        "candidates": len(rows),
        "candidates_per_question": round(len(rows) / max(1, len(questions)), 2),
        "candidates_by_source": table["source"].value_counts().to_dict(),
    }


def pick(ranking: Ranking, known: Sequence[str], miners: Mapping[str, Miner]) -> list[dict[str, Any]]:
    """The candidates of one question, by rank. A passage enters once, under the first source that brings it.

    Args:
        ranking: of the base encoder, with places: its first passages, and what miners may bring besides.
        known: the question's evidence.
        miners: source -> miner. What they bring from outside the scope is left out.
    """
    placed = dict(zip(ranking.passage_ids, zip(ranking.places, ranking.scores, strict=True), strict=True))
    sources: dict[str, str] = {}
    for source, miner in miners.items():
        question = Ranked(ranking.question_id, known, ranking.passage_ids, frozenset(sources))
        for passage_id in miner.brings(question):
            if passage_id in placed:
                sources.setdefault(passage_id, source)
    return [
        {
            "question_id": ranking.question_id,
            "passage_id": passage_id,
            "source": source,
            "rank": placed[passage_id][0],
            "score": placed[passage_id][1],
        }
        for passage_id, source in sorted(sources.items(), key=lambda item: placed[item[0]][0])
    ]
