"""InfoNCE on evidence (van den Oord et al., arXiv 1807.03748; for retrieval DPR, Karpukhin et al., arXiv 2004.04906)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class InfoNCE(Objective):
    """The mean of ``-log p_S(d | q)`` over a question's evidence, then over the questions that have evidence.

    ``p_S`` runs over candidates, evidence and negatives. Utilities are not read. Zero, with a gradient of zero, where no question
    has evidence.
    """

    needs_evidence: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        masks = batch.masks
        log_students = batch.log_student(masks.candidates | masks.evidence | masks.negatives)
        passages = masks.evidence.sum(1)
        terms = -log_students.where(masks.evidence, 0.0).sum(1) / passages.clamp(min=1)
        return terms.sum() / (passages > 0).sum().clamp(min=1)
