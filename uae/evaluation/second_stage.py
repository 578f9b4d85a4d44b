"""The second stage of a release on the test questions: what its promoted system finds first, re-ranked by the trained model."""

from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.testset import SECOND_STAGE
from uae.measures.fusion import Rankings
from uae.measures.reranking import second_stage_ranking
from uae.release.manifest import RERANKED, Manifest
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.second_stage import pair_scores
from uae.text.passage_template import PassageTemplate


def with_second_stage(
    release: Path, manifest: Manifest, first: Rankings, questions: pd.DataFrame, passages: pd.DataFrame, device: str
) -> tuple[dict[str, Rankings], dict[str, Any]]:
    """Its rankings and how they came about, each by its name; empty where the release has none.

    Args:
        first: the promoted system's rankings of the questions.
        passages: of the schema PASSAGES; what is read of them, the second stage says.

    Returns:
        ``{"second_stage": rankings}`` and ``{"second_stage": {"depth", "weight", "chosen", "model"}}``.
    """
    system = manifest.systems.get(RERANKED)
    if system is None or system.rerank is None or manifest.second_stage is None:
        return {}, {}
    rerank, entry = system.rerank, manifest.second_stage
    scorer = TorchCrossEncoder(load_cross_encoder(release / entry.folder / TRAINED, device, head_may_be_new=False))
    read = PassageTemplate(entry.passage_template).applied(passages)
    scores = pair_scores(first, questions, read, scorer, rerank.depth, "second stage: pairs")
    ranked = second_stage_ranking(first, scores, rerank.depth, rerank.weight)
    return {SECOND_STAGE: ranked}, {SECOND_STAGE: rerank.model_dump(mode="json") | {"model": entry.model}}
