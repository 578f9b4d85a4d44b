"""What learning one corpus did to others: the release asked of other collections, beside the encoder that training started from.

Questions with one evidence passage and with several stand apart. A student that learnt to put one passage first may lose on the
latter alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.comparison import Measured, gains_over, summarise
from uae.evaluation.fused import as_released
from uae.evaluation.testset import BASE, UAE
from uae.io.errors import ArtefactError
from uae.io.tables import QUESTIONS, read_table
from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.measures.row_rankings import Asked
from uae.measures.statistics import Resampling
from uae.release.manifest import DENSE, read_manifest
from uae.retrievers.both import Words, cut, rank_alone, rank_beside
from uae.retrievers.kinds import open_dense
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.validation.trained_on import check_not_trained_on
from uae.vectors.store import VectorStore

ALL, ONE, SEVERAL = "all", "one", "several"  # questions, by their number of evidence passages


@dataclass(frozen=True)
class Collection:
    """Questions and passages of another run."""

    name: str
    folder: Path  # holds passages.parquet and questions.parquet
    scope: str  # ``document`` or ``corpus``


def measure_elsewhere(
    collections: Sequence[Collection],
    release: Path,
    base: Path,
    device: str,
    resampling: Resampling,
    vectors: VectorStore | None = None,
) -> dict[str, dict[str, Any]]:
    """By name of the collection: ``scope``, ``passages``, and ``kinds``, as ``by_evidence`` gives them.

    The systems are the base encoder, the release's dense leg, and the release with BM25 of that collection's
    passages. All questions with evidence are asked, of whatever split: the release learnt from none of them. A ranking holds the
    first ``both.KEPT`` passages; evidence behind them counts as not found.

    Args:
        release: its dense leg, its template, and how BM25 joins it.
        base: the encoder that training started from.

    Raises:
        ArtefactError: a table is missing or damaged, a collection has no question with evidence, or the release was trained on
            some of it.
    """
    manifest = read_manifest(release)
    dense = manifest.dense()
    read_as, told = PassageTemplate(dense.passage_template), {}
    for each in collections:
        passages, everything = _tables(each)
        asked = everything[everything["evidence"].str.len() > 0].reset_index(drop=True)
        if asked.empty:
            raise ArtefactError(f"evaluate.also: {each.folder} has no question with evidence, so {each.name} measures nothing")
        name = f"release {manifest.fingerprint[:12]}, asked of {each.name} (evaluate.also)"
        check_not_trained_on(release, name, asked, passages.documents(), each.scope)
        searched = passages.asked_of(asked, each.scope)
        pool = asked, searched.ids, each.scope
        texts = searched.texts(read_as)
        untrained, trained = (open_dense(folder, device, vectors) for folder in (base, dense.encoder_folder(release)))
        rankings: dict[str, Rankings] = {BASE: rank_alone(untrained, *pool, f"{each.name}, {BASE}: passages", texts)}
        words = Words(asked, passages.ids, each.scope, texts=passages.texts(read_as))  # how rare a word is, is counted over all
        found, beside = rank_beside(trained, words, *pool, f"{each.name}, {DENSE}: passages", texts=texts)
        rankings |= {DENSE: cut(found), UAE: cut(as_released(found, beside, manifest.fusion()))}
        scores = {system: scored(ranking, asked) for system, ranking in rankings.items()}
        told[each.name] = {"scope": each.scope, "passages": len(passages), "kinds": by_evidence(scores, asked, resampling)}
    return told


def scored(rankings: Rankings, asked: pd.DataFrame) -> pd.DataFrame:
    """Columns recall@1 and map, by question_id.

    Args:
        rankings: of all the questions.
        asked: of the schema QUESTIONS.
    """
    evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
    return retrieval_metrics(Asked(rankings, lambda key: rankings[key][0]), evidence, [1])[["recall@1", "map"]]


def by_evidence(scores: Mapping[str, pd.DataFrame], asked: pd.DataFrame, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """Means of all systems and gains over the base: of all questions, of those with one evidence passage, of those with several.

    Args:
        scores: system -> as ``scored`` gives them; BASE among them.
        asked: of the schema QUESTIONS.

    Returns:
        kind -> ``questions``, ``systems``: system -> metric -> mean with interval, ``gains``: system -> metric -> gain. A kind
        without questions is left out.
    """
    by_id = asked.set_index("question_id")
    several, documents = by_id["evidence"].str.len() > 1, by_id["doc_id"]
    kinds = {ALL: by_id.index, ONE: by_id.index[~several], SEVERAL: by_id.index[several]}
    found = {}
    for kind, ids in kinds.items():
        if ids.empty:
            continue
        of, part = documents.loc[ids], {system: table.loc[ids] for system, table in scores.items()}
        means: dict[str, dict[str, Measured]] = {system: summarise(table, of, resampling) for system, table in part.items()}
        gains = {system: gains_over(part[BASE], table, of, resampling) for system, table in part.items() if system != BASE}
        found[kind] = {"questions": len(ids), "systems": means, "gains": gains}
    return found


def _tables(collection: Collection) -> tuple[StoredPassages, pd.DataFrame]:
    paths = [collection.folder / name for name in ("passages.parquet", "questions.parquet")]
    for path in paths:
        if not path.exists():
            raise ArtefactError(
                f"evaluate.also: {path} does not exist. The folder of {collection.name} must be the data/ of a run: "
                "uae run --until ingest --out FOLDER makes one"
            )
    return StoredPassages(paths[0]), read_table(paths[1], QUESTIONS)
