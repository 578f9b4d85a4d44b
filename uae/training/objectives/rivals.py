"""The objectives that Utility-Modulated InfoNCE is compared with, behind its signature.

Every one is a pure function of ``(scores, utilities, masks, teacher_temperature, student_temperature)``, shaped as
``uae.training.objectives.utility_infonce`` says, and returns a scalar. Below, ``p_T`` is the softmax of utility over teacher
temperature over a question's candidates, ``p_S`` that of score over student temperature, and n is the number of questions.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import kl_div, softplus

from uae.training.objectives.utility_infonce import Masks, log_student, teacher_weights, utility_infonce

Objective = Callable[[Tensor, Tensor, Masks, float, float], Tensor]

RANKINGS = 16  # sampled for each question and step by plackett_luce
PLACES = 10  # of a sampled ranking that count: its reward is nDCG@10


def infonce(scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float) -> Tensor:
    """InfoNCE on evidence (van den Oord et al., arXiv 1807.03748; for retrieval DPR, Karpukhin et al., arXiv 2004.04906).

    The mean of ``-log p_S(d | q)`` over a question's evidence, then over the questions that have evidence; ``p_S`` runs over
    candidates, evidence and negatives. Utilities are not read. Zero, with a gradient of zero, where no question has evidence.
    """
    log_students = log_student(scores, masks.candidates | masks.evidence | masks.negatives, student_temperature)
    passages = masks.evidence.sum(1)
    terms = -torch.where(masks.evidence, log_students, 0.0).sum(1) / passages.clamp(min=1)
    return terms.sum() / (passages > 0).sum().clamp(min=1)


def kl(scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float) -> Tensor:
    """Mean of ``KL(p_T || p_S)``, both over the candidates alone (REPLUG LSR, Shi et al., arXiv 2301.12652).

    In-batch negatives do not count: what the teacher did not judge is left where it is.
    """
    weights = teacher_weights(utilities, masks.candidates, teacher_temperature)
    log_students = log_student(scores, masks.candidates, student_temperature).masked_fill(~masks.candidates, 0.0)
    return kl_div(log_students, weights, reduction="sum") / len(scores)


def margin_mse(scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float) -> Tensor:
    """MarginMSE (Hofstätter et al., arXiv 2010.02666) over every pair of candidates.

    The mean over pairs i, j of ``((s_i - s_j) / tau_S - (u_i - u_j) / tau_T)^2``, then over questions; a question with one
    candidate has no pair and adds zero. The paper's student has the scale of its teacher. Ours has cosines, so both sides are
    logits, each over its own temperature: at a loss of zero ``p_S`` is ``p_T``. In-batch negatives have no utility and do not
    count. Margins are not bounded, and cosines are: utilities more than ``2 tau_T / tau_S`` apart can never be met.
    """
    gaps = scores / student_temperature - utilities / teacher_temperature
    count = masks.candidates.sum(1, keepdim=True)
    centre = torch.where(masks.candidates, gaps, 0.0).sum(1, keepdim=True) / count
    # The mean squared difference over pairs is twice the unbiased variance, and needs no pairs.
    squares = torch.where(masks.candidates, (gaps - centre) ** 2, 0.0).sum(1, keepdim=True)
    return (2 * squares / (count - 1).clamp(min=1)).mean()


def m3_kd(scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float) -> Tensor:
    """``m3_kd_loss`` of FlagEmbedding (``FlagEmbedding/abc/finetune/embedder/AbsModeling.py``; BGE-M3, arXiv 2402.03216).

    A sum of contrastive terms that the teacher weights: candidates take turns, each adds ``p_T(i) * -log p_S(i)``, and is
    masked in the turns after its own. ``p_S`` runs over the candidates still there and the negatives. FlagEmbedding takes
    turns in the order of its data, which puts positives first; here the best utility goes first, and of candidates with
    equal utility none masks the other, so that the order of columns does not matter.
    """
    weights = teacher_weights(utilities, masks.candidates, teacher_temperature)
    rows, columns = masks.candidates.nonzero(as_tuple=True)  # one turn each
    gone = utilities[rows] > utilities[rows, columns, None]
    there = (masks.candidates[rows] & ~gone) | masks.negatives[rows]
    log_students = log_student(scores[rows], there, student_temperature).gather(1, columns[:, None]).squeeze(1)
    return -(weights[rows, columns] * log_students).sum() / len(scores)


def wasserstein(
    scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """List-wise Wasserstein distance: the mean earth mover's distance between ``p_T`` and ``p_S`` over the candidates.

    Candidates lie on a line in the teacher's order, and the ground metric is the difference of places; a candidate's place is
    the number of candidates with more utility, so equals share one. On a line the distance is the sum over places of
    ``|CDF_T - CDF_S|`` (for ordered classes Hou et al., arXiv 1611.05916, here with exponent 1). In-batch negatives have no place
    and do not count. As an objective of retrieval it is SyCL's (Esfandiarpoor et al., arXiv 2503.23239), whose code takes another
    distance: between Gaussians fitted to the batch's rows of ``p_T`` and of ``p_S``. That one does not know which row is whose,
    and is zero when questions have swapped their distributions; this one is zero only where every question has its own, up to
    what moves between equals.
    """
    weights = teacher_weights(utilities, masks.candidates, teacher_temperature)
    surplus = weights - log_student(scores, masks.candidates, student_temperature).exp()
    rows, columns = masks.candidates.nonzero(as_tuple=True)
    not_behind = masks.candidates[rows] & (utilities[rows] >= utilities[rows, columns, None])
    # Each of k equals adds its cumulative difference: together k times, the distance to the next place.
    return torch.where(not_behind, surplus[rows], 0.0).sum(1).abs().sum() / len(scores)


def disj_infonce(
    scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """Disj-InfoNCE (Zhang et al., arXiv 2504.05220): mean of ``-log sum p_S(d | q)`` over the useful candidates d.

    One useful passage on top is enough; a positive by mistake costs little. ``p_S`` runs over candidates and negatives. Useful
    is a positive utility (the passage helps the answer), or the best one where none is positive; the grades beyond that, and
    the teacher temperature, are not read.
    """
    log_students = log_student(scores, masks.candidates | masks.negatives, student_temperature)
    return -log_students.masked_fill(~_useful(utilities, masks.candidates), -torch.inf).logsumexp(1).mean()


def mann_whitney(
    scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """MW loss (Sheikholeslami et al., arXiv 2510.00137), an upper bound (over ln 2) of one minus the area under the ROC curve.

    Mean of ``softplus(-(s_i - s_j) / tau_S)`` over every useful pair i of question and passage, and every other pair j *of the
    batch*, be it another question's: scores become comparable between questions, which is the paper's point. Useful as in
    ``disj_infonce``; the others are the remaining candidates and the negatives. Zero where one of the two kinds is missing.
    """
    useful = _useful(utilities, masks.candidates)
    others = (masks.candidates & ~useful) | masks.negatives
    margins = (scores[useful][:, None] - scores[others]) / student_temperature
    return softplus(-margins).sum() / max(margins.numel(), 1)


def plackett_luce(
    scores: Tensor, utilities: Tensor, masks: Masks, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """Policy gradient of a Plackett-Luce ranker (Neural PG-RANK, Gao et al., arXiv 2310.04407).

    The policy draws passages one after another without replacement, each from ``p_S`` over the candidates and negatives still
    there; the reward of a ranking is nDCG@``PLACES`` with ``p_T`` as gains. The expectation over all rankings has no closed
    form, so ``RANKINGS`` of them are drawn (sorting scores plus Gumbel noise, from torch's seeded generator), and the gradient
    is REINFORCE's, without bias: ``-(R_r - b_r) d log pi(r)``, where the baseline b of a ranking is the mean reward of the
    others of its question. Only the gradient of the value means something; the value itself goes up and down around zero.
    """
    questions, passages = scores.shape
    places = min(PLACES, passages)
    logits = (scores / student_temperature).repeat(RANKINGS, 1)
    counted = (masks.candidates | masks.negatives).repeat(RANKINGS, 1)
    noise = -torch.empty_like(logits).exponential_().log()
    rankings = (logits.detach() + noise).masked_fill(~counted, -torch.inf).topk(places).indices

    gains = teacher_weights(utilities, masks.candidates, teacher_temperature)
    discounts = torch.arange(2, places + 2, device=scores.device, dtype=gains.dtype).log2().reciprocal()
    ideal = (gains.topk(places).values * discounts).sum(1)
    rewards = (gains.repeat(RANKINGS, 1).gather(1, rankings) * discounts).sum(1).view(RANKINGS, questions) / ideal
    advantages = (rewards - rewards.mean(0)) * (RANKINGS / (RANKINGS - 1))  # a reward less the mean of the others

    log_policy = 0.0
    drawable = counted
    for place in range(places):
        drawn = rankings[:, place : place + 1]
        # A question with fewer passages than places has nothing left to draw: its turns are computed from all, and not counted.
        among = drawable | ~drawable.any(1, keepdim=True)
        log_drawn = logits.masked_fill(~among, -torch.inf).log_softmax(1).gather(1, drawn)
        log_policy = log_policy + torch.where(counted.gather(1, drawn), log_drawn, 0.0).squeeze(1)
        drawable = drawable.scatter(1, drawn, False)
    return -(advantages * log_policy.view(RANKINGS, questions)).mean()


def _useful(utilities: Tensor, candidates: Tensor) -> Tensor:
    """Candidates with a positive utility; where a question has none, its best (all of them, if several are equally good)."""
    helpful = candidates & (utilities > 0)
    best = utilities.masked_fill(~candidates, -torch.inf).amax(1, keepdim=True)
    return torch.where(helpful.any(1, keepdim=True), helpful, candidates & (utilities == best))


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            utility_infonce,
            infonce,
            kl,
            margin_mse,
            m3_kd,
            wasserstein,
            disj_infonce,
            mann_whitney,
            plackett_luce,
        )
    }
)
NEEDS_EVIDENCE: frozenset[str] = frozenset({"infonce"})  # the others read utilities, never what a person called relevant
