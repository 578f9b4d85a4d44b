"""The loss of a cross-encoder over all passages of a question, whatever the function that compares scores with utilities."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from torch import Tensor

from uae.training.pieces import Features, activation_budget, encode_in_pieces, piece_size

OneQuestion = Callable[[Tensor, Any], Tensor]  # (scores of its passages, shape (n,); its label) -> a scalar


class PairsLoss(torch.nn.Module):
    """Mean over a batch's questions of a loss that sees the scores of all of a question's passages."""

    def __init__(self, model: CrossEncoder, of_question: OneQuestion):
        super().__init__()
        self.model, self.of_question = model, of_question
        self.piece, self.budget = piece_size(model.device), activation_budget(model)

    def forward(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        """
        Args:
            inputs: the questions, and the passages of each.
            labels: of each question, as ``of_question`` takes it.

        Returns:
            a scalar.
        """
        questions, passages = inputs
        pairs = [(question, text) for question, texts in zip(questions, passages, strict=True) for text in texts]
        features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
        scores = encode_in_pieces(self._scored, features, self.piece, self.budget).view(-1).float()
        own = torch.split(scores, [len(texts) for texts in passages])
        return torch.stack([self.of_question(found, label) for found, label in zip(own, labels, strict=True)]).mean()

    def _scored(self, features: Features) -> Features:
        scores: Tensor = self.model(features)["scores"]
        return {"sentence_embedding": scores.view(-1, 1)}


def set_dropout(model: torch.nn.Module, dropout: float) -> None:
    """The same share of all layers that have one."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout


def drops(model: torch.nn.Module) -> bool:
    """Whether some layer drops units at random."""
    return any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
