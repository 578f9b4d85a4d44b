"""The objective's limits are identities, its gradient is autograd's, and nothing underflows."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from uae.training.objective import utility_infonce

torch.manual_seed(0)
SCORES = torch.randn(3, 6, dtype=torch.float64)
UTILITIES = torch.randn(3, 6, dtype=torch.float64) * 2
CANDIDATES = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1]], dtype=torch.bool)
NONE = torch.zeros_like(CANDIDATES)


def loss(scores=SCORES, utilities=UTILITIES, candidates=CANDIDATES, negatives=~CANDIDATES, teacher=0.5, student=0.05):
    return utility_infonce(scores, utilities, candidates, negatives, teacher, student)


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
    utilities = torch.tensor([[0.0, torch.log(torch.tensor(3.0)), 0.0]], dtype=torch.float64)
    z = torch.log(torch.tensor(2.0) + torch.e)
    assert loss(scores, utilities, candidates, ~candidates, 1.0, 1.0).item() == pytest.approx(
        (0.25 * z + 0.75 * (z - 1)).item(), rel=1e-6
    )


def test_gradient_is_the_difference_of_the_distributions():
    # d loss / d score = (p_S - w) / (tau_S * questions)
    scores = SCORES.clone().requires_grad_()
    loss(scores).backward()
    student = (SCORES / 0.05).softmax(1)
    teacher = (UTILITIES / 0.5).masked_fill(~CANDIDATES, -torch.inf).softmax(1)
    torch.testing.assert_close(scores.grad, (student - teacher) / 0.05 / 3)


def test_gradcheck():
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, student=1.0), (scores,))


def test_masked_passages_do_not_matter():
    negatives = torch.zeros_like(CANDIDATES)
    changed = torch.where(CANDIDATES, SCORES, 1e3)
    assert loss(changed, negatives=negatives).item() == pytest.approx(loss(negatives=negatives).item())


@pytest.mark.parametrize("spread", [50.0, 500.0, 5000.0])
def test_nll_sized_spreads_stay_finite_in_float32(spread):
    scores = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    utilities = torch.tensor([[-spread, spread, 0.0]])
    value = utility_infonce(
        scores, utilities, torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]), 0.5, 0.01
    )
    value.backward()
    assert value.item() == pytest.approx(200, rel=1e-3)  # the useful passage is 2 / 0.01 nats behind: a clipped log would show
    assert torch.isfinite(scores.grad).all()
