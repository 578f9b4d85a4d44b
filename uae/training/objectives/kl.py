"""KL divergence from the teacher's distribution to the student's (REPLUG LSR, Shi et al., arXiv 2301.12652)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class KL(Objective):
    """Mean of ``KL(p_T || p_S)``, both over the candidates alone.

    In-batch negatives do not count: the student keeps its own opinion of what the teacher did not judge.
    """

    by_question: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        from torch.nn.functional import kl_div

        candidates = batch.masks.candidates
        log_students = batch.log_student(candidates).masked_fill(~candidates, 0.0)
        return kl_div(log_students, batch.teacher_weights(), reduction="sum") / len(batch.scores)
