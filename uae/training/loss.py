"""From a batch of token features to an objective's loss."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch.utils.checkpoint import checkpoint

from uae.io.errors import ConfigError
from uae.retrievers.dense import embedding_dimension
from uae.training.objectives.contract import Masks, Objective, Representations, ScoredBatch
from uae.training.pairs_loss import drops
from uae.training.pieces import Kept, activation_budget, encode_in_pieces, piece_size
from uae.training.processes import encode_shared, processes
from uae.training.sharded import is_sharded

_ROWS = 128  # questions whose part of the loss is computed at once, where the objective allows it


class ObjectiveLoss(torch.nn.Module):
    """Encodes a batch of ``UtilityCollator`` and applies an objective, to whole vectors and to their beginnings.

    With dimensions ``m`` and weights ``c_m`` the loss is ``sum_m c_m L_m / sum_m c_m``. ``L_m`` is the objective of the first
    ``m`` numbers of the vectors, normalised again (Kusupati et al. 2022, Matryoshka Representation Learning, arXiv 2205.13147).
    The paper takes the sum. The mean differs by a factor, so that the trainer clips no more gradients than without.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: Objective,
        teacher_temperature: float,
        student_temperature: float,
        matryoshka: Mapping[int, float] | None = None,
    ):
        """
        Args:
            matryoshka: dimension -> weight, beside the full one of weight 1.

        Raises:
            ConfigError: a dimension is not below the model's.
        """
        super().__init__()
        full, beginnings = embedding_dimension(model), dict(matryoshka or {})
        if too_large := [dimension for dimension in beginnings if dimension >= full]:
            raise ConfigError(
                f"train.matryoshka.dimensions: the student's vectors have {full} numbers, so {too_large[0]} is no beginning of "
                "them; whole vectors count anyway"
            )
        self.weights = {full: 1.0} | beginnings
        self.model = model
        self.objective = objective
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.piece, self.budget = piece_size(model.device), activation_budget(model)

    def forward(self, sentence_features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            sentence_features: of the questions and of the passages.
            labels: shape (5, questions, passages), see ``UtilityCollator``.

        Returns:
            a scalar.
        """
        kept = Kept()
        questions, passages = (
            self._vectors(features, side, kept) for features, side in zip(sentence_features, ("query", "document"), strict=True)
        )
        # In half precision a cosine is off by some thousandths, which the student's temperature makes tenths of a logit.
        with torch.autocast(questions.device.type, enabled=False):
            losses = [
                weight * self._objective(_beginning(questions, dimension), _beginning(passages, dimension), labels)
                for dimension, weight in self.weights.items()
            ]
            loss: torch.Tensor = torch.stack(losses).sum() / sum(self.weights.values())
            return loss

    def _objective(self, questions: torch.Tensor, passages: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of a large batch the rows of some questions at a time: each of its matrices would take as much as the labels."""
        if len(questions) <= _ROWS or not self.objective.by_question:
            return self._of_rows(questions, passages, labels)
        parts = []
        for start in range(0, len(questions), _ROWS):
            some, own = questions[start : start + _ROWS], labels[:, start : start + _ROWS]
            parts.append(len(some) * checkpoint(self._of_rows, some, passages, own, use_reentrant=False))
        return torch.stack(parts).sum() / len(questions)

    def _of_rows(self, questions: torch.Tensor, passages: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.objective(
            ScoredBatch(
                scores=questions @ passages.T + labels[4],
                utilities=labels[0],
                masks=Masks(*(plane > 0 for plane in labels[1:4])),
                teacher_temperature=self.teacher_temperature,
                student_temperature=self.student_temperature,
                representations=Representations(questions, passages) if self.objective.asks_for_representations else None,
            )
        )

    def _vectors(self, features: dict[str, Any], side: str, kept: Kept) -> torch.Tensor:
        if set(features) == {"sentence_embedding"}:
            vectors = features["sentence_embedding"]
        else:
            model = functools.partial(self.model, task=side)
            cut = is_sharded(self.model)
            encode = functools.partial(encode_in_pieces, model, piece=self.piece, budget=self.budget, kept=kept, one_by_one=cut)
            vectors = encode(features) if processes() == 1 else encode_shared(encode, features, drops(self.model), evenly=cut)
        found: torch.Tensor = vectors.float()
        return found


def _beginning(vectors: torch.Tensor, dimension: int) -> torch.Tensor:
    """The first numbers of vectors, as unit vectors of shape (n, dimension)."""
    return torch.nn.functional.normalize(vectors[:, :dimension], dim=-1)
