"""Disj-InfoNCE (Zhang et al., arXiv 2504.05220)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class DisjInfoNCE(Objective):
    """Mean of ``-log sum p_S(d | q)`` over the useful candidates d.

    One useful passage on top is enough; a positive by mistake costs little. ``p_S`` runs over candidates and negatives. Useful
    is a positive utility (the passage helps the answer), or the best one where none is positive. Neither the grades beyond that
    nor the teacher's temperature are read.
    """

    by_question: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        log_students = batch.log_student(batch.masks.candidates | batch.masks.negatives)
        return -log_students.masked_fill(~batch.useful(), -float("inf")).logsumexp(1).mean()
