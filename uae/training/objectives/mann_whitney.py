"""MW loss (Sheikholeslami et al., arXiv 2510.00137), an upper bound (over ln 2) of one minus the area under the ROC curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class MannWhitney(Objective):
    """Mean of ``softplus(-(s_i - s_j) / tau_S)`` over every useful pair i of question and passage, and every other pair j.

    The other pair may be *another question's of the batch*: scores become comparable between questions, which is the paper's
    point. Useful is as in ``DisjInfoNCE``; the others are the remaining candidates and the negatives. Zero where one of the two
    kinds is missing.
    """

    def __call__(self, batch: ScoredBatch) -> Tensor:
        from torch.nn.functional import softplus

        useful = batch.useful()
        others = (batch.masks.candidates & ~useful) | batch.masks.negatives
        margins = (batch.scores[useful][:, None] - batch.scores[others]) / batch.student_temperature
        return softplus(-margins).sum() / max(margins.numel(), 1)
