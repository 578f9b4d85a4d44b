"""MarginMSE (Hofstätter et al., arXiv 2010.02666) over every pair of candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class MarginMSE(Objective):
    """The mean over pairs i, j of ``((s_i - s_j) / tau_S - (u_i - u_j) / tau_T)^2``, then over questions.

    A question with one candidate has no pair and adds zero. The paper's student has the scale of its teacher. Ours has cosines,
    so both sides are logits, each over its own temperature: at a loss of zero ``p_S`` is ``p_T``. In-batch negatives have no
    utility and do not count. Margins are not bounded, and cosines are: utilities more than ``2 tau_T / tau_S`` apart can never be
    met.
    """

    by_question: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        candidates = batch.masks.candidates
        gaps = batch.scores / batch.student_temperature - batch.utilities / batch.teacher_temperature
        count = candidates.sum(1, keepdim=True)
        centre = gaps.where(candidates, 0.0).sum(1, keepdim=True) / count
        # The mean squared difference over pairs is twice the unbiased variance, and needs no pairs.
        squares = ((gaps - centre) ** 2).where(candidates, 0.0).sum(1, keepdim=True)
        return (2 * squares / (count - 1).clamp(min=1)).mean()
