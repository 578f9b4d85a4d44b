"""List-wise Wasserstein distance, as an objective of retrieval SyCL's (Esfandiarpoor et al., arXiv 2503.23239)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class Wasserstein(Objective):
    """The mean earth mover's distance between ``p_T`` and ``p_S`` over the candidates.

    Candidates lie on a line in the teacher's order, and the ground metric is the difference of places. A candidate's place is
    the number of candidates with more utility, so equals share one. On a line the distance is the sum over places of
    ``|CDF_T - CDF_S|`` (for ordered classes Hou et al., arXiv 1611.05916, here with exponent 1). In-batch negatives have no
    place and do not count.

    SyCL's code takes another distance: between Gaussians fitted to the batch's rows of ``p_T`` and of ``p_S``. That one does not
    know which row is whose, and is zero when questions have swapped their distributions. This one is zero only where every
    question has its own, up to what moves between equals.
    """

    by_question: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        candidates, utilities = batch.masks.candidates, batch.utilities
        surplus = batch.teacher_weights() - batch.log_student(candidates).exp()
        rows, columns = candidates.nonzero(as_tuple=True)
        not_behind = candidates[rows] & (utilities[rows] >= utilities[rows, columns, None])
        # Each of k equals adds its cumulative difference: together k times, the distance to the next place.
        return surplus[rows].where(not_behind, 0.0).sum(1).abs().sum() / len(batch.scores)
