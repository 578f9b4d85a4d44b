"""``m3_kd_loss`` of FlagEmbedding (``FlagEmbedding/abc/finetune/embedder/AbsModeling.py``; BGE-M3, arXiv 2402.03216)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class M3KD(Objective):
    """A sum of contrastive terms, weighted by the teacher.

    Candidates take turns, each adds ``p_T(i) * -log p_S(i)``, and is masked in the turns after its own. ``p_S`` runs over the
    candidates still there and the negatives. FlagEmbedding takes turns in the order of its data, which puts positives first.
    Here the best utility goes first. Of candidates with equal utility none masks the other, so the order of columns does not
    matter.
    """

    by_question: ClassVar[bool] = True

    def __call__(self, batch: ScoredBatch) -> Tensor:
        masks, utilities = batch.masks, batch.utilities
        weights = batch.teacher_weights()
        rows, columns = masks.candidates.nonzero(as_tuple=True)  # one turn each
        gone = utilities[rows] > utilities[rows, columns, None]
        there = (masks.candidates[rows] & ~gone) | masks.negatives[rows]
        turns = (batch.scores[rows] / batch.student_temperature).masked_fill(~there, -float("inf")).log_softmax(1)
        log_students = turns.gather(1, columns[:, None]).squeeze(1)
        return -(weights[rows, columns] * log_students).sum() / len(batch.scores)
