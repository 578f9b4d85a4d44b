"""From a batch of token features to an objective's loss."""

import functools
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from uae.io.compute import memory_budget, weight_bytes
from uae.training.objectives.contract import Masks, Objective, Representations, ScoredBatch
from uae.training.pieces import encode_in_pieces

# Texts encoded at once in training. On a CPU more of them are no faster, and padding is (57 batches of COVID-QA: 37 % of tokens).
# On a GPU few of them leave it idle, and many are more than it can hold: a guess, none was at hand.
_PIECE = {"cpu": 16}
_GPU_PIECE = 64


class ObjectiveLoss(torch.nn.Module):
    """Encodes a batch of ``UtilityCollator`` and applies an objective."""

    def __init__(self, model: SentenceTransformer, objective: Objective, teacher_temperature: float, student_temperature: float):
        super().__init__()
        self.model = model
        self.objective = objective
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.piece = _PIECE.get(model.device.type, _GPU_PIECE)
        # Beside the weights: their gradients and the optimizer's two moments.
        self.budget = memory_budget(model.device, 4 * weight_bytes(model))
        if model.device.type == "cpu":  # its allocator takes twice what tensors of many sizes hold: 13.4 GB for a budget of 6
            self.budget //= 2

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
