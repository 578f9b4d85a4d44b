"""The second stage of a release: a cross-encoder that re-ranks what a system finds first.

second_stage/encoder/    sentence-transformers layout, safetensors: the cross-encoder as it was trained
second_stage/serving/    the same for ONNX Runtime (``uae.retrievers.onnx_cross_encoder``); absent where torch has to serve it

Built by ``uae.release.build_second_stage``. Opening one imports no torch, unless torch has to serve it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from uae.io.errors import ArtefactError, ModelError
from uae.io.models import fingerprint
from uae.release.legs.protocol import Part, probe_rows, refuse_links_out
from uae.release.passages import Passages
from uae.retrievers.cross_encoder import TRAINED, Scores
from uae.retrievers.second_stage import SERVED, PairScorer, open_scorer

FOLDER = "second_stage"
# A probe's scores may be off by so much, in units of ``spread``. Another CPU rounds 8-bit products in another way.
_PROBE_TOLERANCE = 0.25
_LEAD = 12  # words of a passage that are asked of it


class PairParity(Part):
    """Scores as they are served against those that were trained, on the first passages of real questions."""

    correlation: float  # Pearson's, of scores less their question's mean
    same_first: float  # the share of questions that both put the same passage first for
    trained_recall: float | None  # Recall@1 by the trained scores, of questions with evidence; null: there are none
    served_recall: float | None
    questions: int
    pairs: int

    @property
    def recall_loss(self) -> float:
        """The share of the trained scores' Recall@1 that is lost by serving; negative: serving finds more."""
        if not self.trained_recall or self.served_recall is None:
            return 0.0
        return 1 - self.served_recall / self.trained_recall


class SecondStageServing(Part):
    backend: Literal["torch", "onnx", "onnx_int8", "onnx_int8_mixed"]
    parity: PairParity | None  # with the trained model; null where torch serves it
    refused: dict[str, str]  # faster forms that were not good enough -> why


class SecondStageEntry(Part):
    """What the manifest says of the second stage."""

    folder: Literal["second_stage"]
    model: str  # fingerprint of the trained cross-encoder's files
    passage_template: str  # how title, section and text of a passage become what it reads
    max_tokens: int  # of question and passage together
    serving: SecondStageServing
    spread: float  # standard deviation of trained scores within a question
    probe: list[float]  # scores of a few pairs when the release was built

    def check(self, release: Path, files: Mapping[str, str]) -> None:
        """Look at what hashes alone do not tell, before any file is opened.

        Raises:
            ArtefactError: the second stage is missing, or of another release.
        """
        form = TRAINED if self.serving.backend == "torch" else SERVED
        for part in {TRAINED, form}:
            if not any(file.startswith(f"{FOLDER}/{part}/") for file in files):
                raise ArtefactError(f"{release}/manifest.json names no file of {FOLDER}/{part}: build the release again")
        if not (release / FOLDER).is_dir():
            raise ArtefactError(f"{release / FOLDER} is missing: the release has no second stage without it. Copy it again")
        folder = release / FOLDER / TRAINED
        refuse_links_out(folder, release)
        try:
            found = fingerprint(folder)
        except ModelError as error:
            raise ArtefactError(f"the second stage of {release} has no trained model: {error}") from None
        if found != self.model:
            raise ArtefactError(
                f"{folder} is second stage {found[:12]}, but the release was built with {self.model[:12]}: it is another "
                "release's, or damaged. Copy the release again as a whole"
            )


class SecondStage:
    """The second stage, opened. Several threads may use it."""

    def __init__(self, entry: SecondStageEntry, release: Path, passages: Passages, device: str, threads: int | None):
        """
        Raises:
            ArtefactError: its files do not give the scores that they gave when the release was built.
        """
        self._template, self._passages = entry.passage_template, passages
        self.backend = entry.serving.backend
        self._scorer = open_scorer(release / entry.folder, entry.serving.backend, device, threads)
        try:
            found = probe(self._scorer, passages.read(self._template, probe_rows(len(passages))))
            if not np.allclose(found, entry.probe, rtol=0, atol=_PROBE_TOLERANCE * entry.spread + 1e-3):
                raise ArtefactError(
                    f"{release / entry.folder} does not give the scores of second stage {entry.model[:12]}: a few pairs score "
                    f"{_few(found)} and scored {_few(entry.probe)} when the release was built. Build the release again"
                )
        except BaseException:
            self._scorer.close()
            raise

    def scores(self, questions: Sequence[str], rows: Sequence[Sequence[int]]) -> list[Scores]:
        """The scores of each question with the passages in its rows.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        texts = [self._passages.read(self._template, of_one) for of_one in rows]
        pairs = [(question, text) for question, some in zip(questions, texts, strict=True) for text in some]
        ends = np.cumsum([len(of_one) for of_one in rows], dtype=np.int64)
        return np.split(self._scorer.scores(pairs), ends[:-1]) if rows else []

    def close(self) -> None:
        """Let go of the model."""
        self._scorer.close()


def probe(scorer: PairScorer, texts: Sequence[str]) -> list[float]:
    """Scores of the beginnings of a few passages with these passages, and each with the next one."""
    leads = [" ".join(text.split()[:_LEAD]) for text in texts]
    pairs = [(lead, texts[(place + step) % len(texts)]) for place, lead in enumerate(leads) for step in (0, 1)]
    return [round(float(score), 4) for score in scorer.scores(pairs)]


def _few(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.3f}" for score in scores[:4])
