"""The test set, its identity, and rankings of it by one encoder. Evaluation and the gate share them."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from uae.io.errors import ArtefactError
from uae.io.files import sha256_parts
from uae.io.spill import Spill
from uae.io.tables import PASSAGES
from uae.measures.ranking import compact
from uae.retrievers.kinds import KINDS
from uae.retrievers.retriever import rankings
from uae.text.stored_passages import StoredPassages
from uae.vectors.store import VectorStore

BASE, UAE = "base", "uae"
SECOND_STAGE = "second_stage"  # the promoted system, re-ranked by the release's cross-encoder


def choose_questions(questions: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The questions of a split with evidence.

    Raises:
        ArtefactError: there is none.
    """
    chosen = questions[(questions["split"] == split) & (questions["evidence"].str.len() > 0)]
    if chosen.empty:
        raise ArtefactError(f"there is no {split} question with evidence to evaluate on")
    return chosen.reset_index(drop=True)


def test_set_hash(questions: pd.DataFrame, passages: pd.DataFrame | StoredPassages, scope: str) -> str:
    """Hash of all that a figure depends on, except the systems: results compare only where it is equal.

    It covers the questions in their order (readers answer the first few), the gold answers, the evidence, every column of the
    passages, and the scope.

    Args:
        questions: those that are measured on, columns as ``QUESTIONS``.
        passages: all that may be found, in any order, columns as ``PASSAGES``. Of those that are stored
            it is the whole table.
        scope: ``document`` or ``corpus``.
    """
    asked = questions[["question_id", "doc_id", "text", "answers", "evidence"]]
    if isinstance(passages, StoredPassages):
        return sha256_parts(chain([scope], _rows(asked), _in_order(passages)))[:16]
    searched = passages[sorted(passages.columns)].sort_values("passage_id")
    return sha256_parts(chain([scope], _rows(asked), _rows(searched)))[:16]


def _rows(table: pd.DataFrame) -> Iterator[str]:
    yield json.dumps([len(table), *table.columns])
    for row in table.itertuples(index=False):
        yield json.dumps(row)


def _in_order(passages: StoredPassages) -> Iterator[str]:
    """``_rows`` of the table by passage_id. The rows lie in a file meanwhile."""
    columns = sorted(PASSAGES.names)
    rows = Spill()
    for part in passages.parts(columns):
        for row in part.itertuples(index=False):
            rows.append(json.dumps(row).encode())
    yield json.dumps([len(rows), *columns])
    for place in np.argsort(compact(passages.ids["passage_id"]), kind="stable"):
        yield rows[place].decode()


def rank_with(
    encoder_path: Path,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    device: str,
    progress: str,
    vectors: VectorStore | None = None,
    depth: int | None = None,
) -> dict[str, tuple[list[str], list[float]]]:
    """question_id -> (passage_ids best first, scores), over each question's whole scope, by one encoder.

    Args:
        vectors: where vectors of passages are kept.
        depth: how many passages of a ranking are kept; None: all.
    """
    return rankings(KINDS["dense"](encoder_path, device, vectors), questions, passages, scope, depth, progress)
