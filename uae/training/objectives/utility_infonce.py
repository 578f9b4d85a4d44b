"""Utility-Modulated InfoNCE (UAE, arXiv 2604.22722)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.io.options import Fraction
from uae.training.objectives.contract import Objective, ScoredBatch, target_weights

if TYPE_CHECKING:
    from torch import Tensor


class UtilityInfoNCE(Objective):
    """Mean over questions of ``- sum_d w_d log p_S(d | q)``, in nats.

    ``w = softmax(utility / teacher_temperature)`` over the question's candidates, and
    ``p_S = softmax(score / student_temperature)`` over its candidates and negatives together. With ``w`` one-hot this is
    InfoNCE; without negatives it is ``KL(w || p_S)`` plus the entropy of ``w``, which has no gradient.
    """

    by_question: ClassVar[bool] = True

    evidence_share: Fraction
    """0: evidence is not read, which is UAE. Above: ``w`` becomes ``(1 - share) w + share e``, see ``target_weights``."""

    @property
    def evidence_in_target(self) -> float:
        return self.evidence_share

    def __call__(self, batch: ScoredBatch) -> Tensor:
        masks = batch.masks
        weights = target_weights(batch.utilities, masks, batch.teacher_temperature, self.evidence_share)
        counted = masks.candidates | masks.evidence if self.evidence_share else masks.candidates
        log_students = batch.log_student(counted | masks.negatives)
        # where(), not a product with zero weights: a masked passage's log probability is infinite
        return -(weights * log_students).where(counted, 0.0).sum(1).mean()
