"""The second stage: a cross-encoder reads the question with each of the first passages that a retriever found.

``pair_scores`` has the pairs scored, and ``uae.measures.reranking`` puts the passages in order by them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd
from tqdm import tqdm

from uae.io.errors import InputError
from uae.retrievers.cross_encoder import TRAINED, Scores, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.onnx_cross_encoder import OnnxCrossEncoder

if TYPE_CHECKING:
    from uae.measures.fusion import Rankings

SERVED = "serving"  # in the folder of a second stage, beside the trained model
_PAIRS = 1024  # scored together


class PairScorer(Protocol):
    """Scores a question with a passage, by torch or by ONNX Runtime."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """The scores of (question, passage) pairs, shape (n,). Only differences within a question mean anything.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        ...

    def close(self) -> None:
        """Let go of the model. Nothing can be scored afterwards."""
        ...


def open_scorer(folder: Path, backend: str, device: str, threads: int | None) -> PairScorer:
    """The second stage of a release. No torch is imported unless torch has to serve it.

    Args:
        folder: holds the trained model in ``encoder`` and its serving form in ``serving``.
        backend: torch, onnx, onnx_int8 or onnx_int8_mixed.
        device: of torch.
        threads: of ONNX Runtime; None: as many as there are cores.

    Raises:
        ArtefactError, ModelError: the files are missing or damaged.
    """
    if backend == "torch":
        return TorchCrossEncoder(load_cross_encoder(Path(folder) / TRAINED, device, head_may_be_new=False))
    return OnnxCrossEncoder(Path(folder) / SERVED, threads)


def second_stage_model(folder: Path) -> Path | None:
    """The trained model in a folder that the train stage made; None: it holds none."""
    return folder / TRAINED if (folder / TRAINED).is_dir() else None


def pair_scores(
    rankings: "Rankings", questions: pd.DataFrame, passages: pd.DataFrame, scorer: PairScorer, depth: int, progress: str = ""
) -> dict[tuple[str, str], float]:
    """(question_id, passage_id) -> score, of each ranking's first ``depth`` passages.

    Args:
        questions: columns question_id and text.
        passages: columns passage_id and text; ``text`` is what a model reads of a passage.
        progress: the name of a progress bar; "": none.

    Raises:
        InputError: a question or passage of the rankings is not in the tables.
        ModelError: as ``PairScorer.scores``.
    """
    asked = dict(zip(questions["question_id"], questions["text"], strict=True))
    texts = dict(zip(passages["passage_id"], passages["text"], strict=True))
    keys = [(question_id, passage_id) for question_id, (ids, _) in rankings.items() for passage_id in ids[:depth]]
    if unknown := [key for key in keys if key[0] not in asked or key[1] not in texts]:
        raise InputError(
            f"the rankings name question {unknown[0][0]} with passage {unknown[0][1]}, and the tables do not have both"
        )
    found: dict[tuple[str, str], float] = {}
    for start in tqdm(range(0, len(keys), _PAIRS), desc=progress, unit="batch", disable=not progress):
        some = keys[start : start + _PAIRS]
        scores = scorer.scores([(asked[question_id], texts[passage_id]) for question_id, passage_id in some])
        found.update(zip(some, scores.tolist(), strict=True))
    return found
