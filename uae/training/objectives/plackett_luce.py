"""Policy gradient of a Plackett-Luce ranker (Neural PG-RANK, Gao et al., arXiv 2310.04407)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from uae.io.options import Count
from uae.training.objectives.contract import Objective, ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


class PlackettLuce(Objective):
    """REINFORCE's loss of the expected nDCG of rankings that are drawn from the student.

    The policy draws passages one after another without replacement, each from ``p_S`` over the candidates and negatives still
    there. The reward of a ranking is nDCG@``places`` with ``p_T`` as gains. The expectation over all rankings has no closed
    form, so ``rankings`` of them are drawn: scores plus Gumbel noise, from torch's seeded generator, are sorted. REINFORCE
    gives the gradient without bias: ``-(R_r - b_r) d log pi(r)``. The baseline b of a ranking is the mean reward of its
    question's other rankings. Only the gradient of the value means something; the value itself goes up and down around zero.
    """

    rankings: Annotated[int, Field(ge=2)]
    """Drawn for each question and step. The baseline needs another one."""
    places: Count
    """Of a ranking that count for its reward."""

    def __call__(self, batch: ScoredBatch) -> Tensor:
        import torch

        questions, passages = batch.scores.shape
        rankings, places = self.rankings, min(self.places, passages)
        logits = (batch.scores / batch.student_temperature).repeat(rankings, 1)
        counted = (batch.masks.candidates | batch.masks.negatives).repeat(rankings, 1)
        noise = -torch.empty_like(logits).exponential_().log()
        drawn = (logits.detach() + noise).masked_fill(~counted, -torch.inf).topk(places).indices

        gains = batch.teacher_weights()
        discounts = torch.arange(2, places + 2, device=logits.device, dtype=gains.dtype).log2().reciprocal()
        ideal = (gains.topk(places).values * discounts).sum(1)
        rewards = (gains.repeat(rankings, 1).gather(1, drawn) * discounts).sum(1).view(rankings, questions) / ideal
        advantages = (rewards - rewards.mean(0)) * (rankings / (rankings - 1))  # a reward less the mean of the others
        return -(advantages * _log_policy(logits, counted, drawn).view(rankings, questions)).mean()


def _log_policy(logits: Tensor, counted: Tensor, drawn: Tensor) -> Tensor:
    """The log probability that passages are drawn in this order, shape (rows,).

    Args:
        logits: shape (rows, passages).
        counted: which passages may be drawn, same shape.
        drawn: the column drawn at each place, shape (rows, places).
    """
    import torch

    total = logits.new_zeros(len(logits))
    drawable = counted
    for place in range(drawn.shape[1]):
        column = drawn[:, place : place + 1]
        # A question with fewer passages than places has nothing left to draw: its turns are computed from all, and not counted.
        among = drawable | ~drawable.any(1, keepdim=True)
        log_drawn = logits.masked_fill(~among, -torch.inf).log_softmax(1).gather(1, column)
        total = total + log_drawn.where(counted.gather(1, column), 0.0).squeeze(1)
        drawable = drawable.scatter(1, column, False)
    return total
