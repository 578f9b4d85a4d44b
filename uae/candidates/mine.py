"""The candidates stage: what each miner brings for a question, with the base encoder's rank and score."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from uae.candidates import chance, dense, evidence, holding_answer, lexical
from uae.candidates.miner import Amounts, Miner, Pool, Ranked
from uae.io.errors import ArtefactError
from uae.io.files import sha256_tree
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.ranking import Ranking
from uae.retrievers.kinds import KINDS
from uae.text.passage_template import TEXT_ALONE, PassageTemplate
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
    passages = read_table(passages_path, PASSAGES)
    questions = read_table(questions_path, QUESTIONS)
    questions = questions[questions["split"].isin(_LABELLED_SPLITS)]
    if questions.empty:
        raise ArtefactError(f"{questions_path}: no question is in the split train or validation; add some and run ingest again")
    if scope == "document":  # the other documents' passages can be nobody's candidates
        passages = passages[passages["doc_id"].isin(set(questions["doc_id"]))]
    read = read_as.applied(passages)
    rankings = KINDS["dense"](encoder_path, device, vectors).rank(questions, read, scope, None, "passages")
    pool = Pool(questions, passages, read, scope, amounts, seed)
    miners = {source: opened(pool) for source, opened in MINERS.items()}
    rows: list[dict[str, Any]] = []
    for ranking, known in zip(rankings, questions["evidence"], strict=True):
        rows += pick(ranking, known, miners)
    if not rows:
        raise ArtefactError(
            f"{passages_path}: no question has a passage in its scope ({scope}): name their documents or set scope=corpus"
        )
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
        ranking: of the base encoder, of the question's whole scope.
        known: the question's evidence.
        miners: source -> miner. What they bring from outside the scope is left out.
    """
    places = {passage_id: place for place, passage_id in enumerate(ranking.passage_ids)}
    sources: dict[str, str] = {}
    for source, miner in miners.items():
        question = Ranked(ranking.question_id, known, ranking.passage_ids, frozenset(sources))
        for passage_id in miner(question):
            if passage_id in places:
                sources.setdefault(passage_id, source)
    return [
        {
            "question_id": ranking.question_id,
            "passage_id": passage_id,
            "source": source,
            "rank": places[passage_id] + 1,
            "score": ranking.scores[places[passage_id]],
        }
        for passage_id, source in sorted(sources.items(), key=lambda item: places[item[0]])
    ]
