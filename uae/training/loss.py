"""From a batch of token features to an objective's loss."""

import functools
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from uae.training.objectives.contract import Masks, Objective, Representations, ScoredBatch
from uae.training.pieces import activation_budget, encode_in_pieces, piece_size


class ObjectiveLoss(torch.nn.Module):
    """Encodes a batch of ``UtilityCollator`` and applies an objective."""

    def __init__(self, model: SentenceTransformer, objective: Objective, teacher_temperature: float, student_temperature: float):
        super().__init__()
        self.model = model
        self.objective = objective
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.piece, self.budget = piece_size(model.device), activation_budget(model)

    def forward(self, sentence_features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            sentence_features: of the questions and of the passages.
            labels: shape (4, questions, passages), see ``UtilityCollator``.

        Returns:
            a scalar.
        """
        questions, passages = (
            self._vectors(features, side) for features, side in zip(sentence_features, ("query", "document"), strict=True)
        )
        # In half precision a cosine is off by some thousandths, which the student's temperature makes tenths of a logit.
        with torch.autocast(questions.device.type, enabled=False):
            return self.objective(
                ScoredBatch(
                    scores=questions @ passages.T,
                    utilities=labels[0],
                    masks=Masks(*(plane > 0 for plane in labels[1:])),
                    teacher_temperature=self.teacher_temperature,
                    student_temperature=self.student_temperature,
                    representations=Representations(questions, passages) if self.objective.asks_for_representations else None,
                )
            )

    def _vectors(self, features: dict[str, Any], side: str) -> torch.Tensor:
        if set(features) == {"sentence_embedding"}:
            vectors = features["sentence_embedding"]
        else:
            vectors = encode_in_pieces(functools.partial(self.model, task=side), features, self.piece, self.budget)
        return torch.nn.functional.normalize(vectors.float(), dim=-1)
