"""The objective's limits are identities, its gradient is autograd's, and nothing underflows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from uae.training.objectives.contract import Masks, ScoredBatch, target_weights, teacher_weights
from uae.training.objectives.infonce import InfoNCE
from uae.training.objectives.utility_infonce import UtilityInfoNCE

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(3, 6, dtype=torch.float64, generator=GENERATOR)
UTILITIES = torch.randn(3, 6, dtype=torch.float64, generator=GENERATOR) * 2
CANDIDATES = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1]], dtype=torch.bool)
NONE = torch.zeros_like(CANDIDATES)
# Of the first question a candidate, of the second a passage that the teacher did not judge and a candidate, of the third none.
EVIDENCE = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)


def loss(
    scores=SCORES, utilities=UTILITIES, candidates=CANDIDATES, negatives=None, evidence=NONE, teacher=0.5, student=0.05, share=0.0
):
    negatives = ~candidates & ~evidence if negatives is None else negatives
    batch = ScoredBatch(scores, utilities, Masks(candidates, negatives, evidence), teacher, student)
    return UtilityInfoNCE(evidence_share=share)(batch)


def test_one_hot_weights_give_infonce():
    positives = torch.tensor([0, 2, 4])
    utilities = torch.full((3, 6), -1e4, dtype=torch.float64)
    utilities[range(3), positives] = 0
    assert loss(utilities=utilities).item() == pytest.approx(cross_entropy(SCORES / 0.05, positives).item(), rel=1e-12)


def test_without_negatives_it_is_kl_plus_the_teachers_entropy():
    expected = 0.0
    for scores, utilities, mask in zip(SCORES, UTILITIES, CANDIDATES, strict=True):
        teacher = (utilities[mask] / 0.5).softmax(0)
        student = (scores[mask] / 0.05).log_softmax(0)
        entropy = -(teacher * teacher.log()).sum()
        expected += (kl_div(student, teacher, reduction="sum") + entropy).item() / 3
    assert loss(negatives=NONE).item() == pytest.approx(expected, rel=1e-12)


def test_worked_out_by_hand():
    # Two candidates with utilities 0 and ln 3 at temperature 1: weights 1/4 and 3/4. Scores 0 and 1, one negative at 0:
    # p_S = exp(score) / (2 + e).
    candidates = torch.tensor([[True, True, False]])
    scores = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    utilities = torch.tensor([[0.0, math.log(3), 0.0]], dtype=torch.float64)
    z = math.log(2 + math.e)
    value = loss(scores, utilities, candidates, ~candidates, NONE[:1, :3], 1.0, 1.0)
    assert value.item() == pytest.approx(0.25 * z + 0.75 * (z - 1), rel=1e-12)


def test_gradient_is_the_difference_of_the_distributions():
    # d loss / d score = (p_S - w) / (tau_S * questions)
    scores = SCORES.clone().requires_grad_()
    loss(scores).backward()
    student = (SCORES / 0.05).softmax(1)
    teacher = (UTILITIES / 0.5).masked_fill(~CANDIDATES, -torch.inf).softmax(1)
    torch.testing.assert_close(scores.grad, (student - teacher) / 0.05 / 3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_gradcheck(share):
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, student=1.0, evidence=EVIDENCE, share=share), (scores,))


def test_masked_passages_do_not_matter():
    changed = torch.where(CANDIDATES, SCORES, 1e3)
    assert loss(changed, negatives=NONE).item() == pytest.approx(loss(negatives=NONE).item(), rel=1e-12)


def test_utilities_of_passages_that_are_no_candidates_are_not_read():
    changed = torch.where(CANDIDATES, UTILITIES, 1e3)
    assert loss(utilities=changed).item() == loss().item()


@pytest.mark.parametrize("spread", [50.0, 500.0, 5000.0])
def test_nll_sized_spreads_stay_finite_in_float32(spread):
    scores = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    utilities = torch.tensor([[-spread, spread, 0.0]])
    candidates = torch.tensor([[True, True, False]])
    value = loss(scores, utilities, candidates, ~candidates, NONE[:1, :3], 0.5, 0.01)
    value.backward()
    assert value.item() == pytest.approx(200, rel=1e-3)  # the useful passage is 2 / 0.01 nats behind: a clipped log would show
    assert torch.isfinite(scores.grad).all()


@given(st.lists(st.floats(-5000, 5000, width=32), min_size=1, max_size=8), st.floats(0.01, 5))
@settings(deadline=None, max_examples=200)
def test_no_candidate_silently_drops_out_in_float32(utilities, temperature):
    row = torch.tensor([[*utilities, 0.0]])
    candidates = torch.tensor([[True] * len(utilities) + [False]])
    weights = teacher_weights(row, candidates, temperature)
    assert (weights[candidates] > 0).all()
    assert weights[0, -1] == 0
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    # The order survives: nobody who helps less weighs more.
    assert (weights[0, :-1][torch.tensor(utilities).argsort()].diff() >= 0).all()


def test_share_zero_does_not_read_evidence():
    negatives = ~CANDIDATES & ~EVIDENCE
    assert loss(negatives=negatives, evidence=EVIDENCE).item() == loss(negatives=negatives, evidence=NONE).item()


def test_share_one_is_infonce_where_all_evidence_is_known():
    evidence = EVIDENCE.clone()
    evidence[2, 3] = True
    value = loss(evidence=evidence, share=1.0)
    expected = InfoNCE()(ScoredBatch(SCORES, UTILITIES, Masks(CANDIDATES, ~CANDIDATES & ~evidence, evidence), 0.5, 0.05))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_share_mixes_the_two_targets_and_a_question_without_evidence_keeps_its_own():
    masks = Masks(CANDIDATES, ~CANDIDATES & ~EVIDENCE, EVIDENCE)
    plain = (UTILITIES / 0.5).masked_fill(~CANDIDATES, -torch.inf).softmax(1)
    weights = target_weights(UTILITIES, masks, 0.5, 0.25)
    torch.testing.assert_close(weights[2], plain[2])
    torch.testing.assert_close(weights[0], 0.75 * plain[0] + torch.tensor([0, 0.25, 0, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(weights[1], 0.75 * plain[1] + torch.tensor([0, 0, 0, 0.125, 0.125, 0], dtype=torch.float64))
    # The denominator runs over candidates, evidence and negatives, which here is every passage.
    expected = -(weights * (SCORES / 0.05).log_softmax(1)).sum(1).mean()
    assert loss(evidence=EVIDENCE, share=0.25).item() == pytest.approx(expected.item(), rel=1e-12)
