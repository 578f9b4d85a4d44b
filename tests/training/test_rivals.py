"""Every rival is what its paper says: against a library, or a plain loop; and it behaves like an objective."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import rankdata, wasserstein_distance
from sklearn.metrics import ndcg_score, roc_auc_score
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy, softplus

from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import Masks, ScoredBatch

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(3, 6, dtype=torch.float64, generator=GENERATOR)
UTILITIES = torch.randn(3, 6, dtype=torch.float64, generator=GENERATOR) * 2
CANDIDATES = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1]], dtype=torch.bool)
EVIDENCE = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
# Passage 3 is nothing to the first question, passage 0 nothing to the second.
NEGATIVES = ~CANDIDATES & ~EVIDENCE & torch.tensor([[1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1], [1] * 6], dtype=torch.bool)
NONE = torch.zeros_like(CANDIDATES)
MASKS = Masks(CANDIDATES, NEGATIVES, EVIDENCE)

PARAMETERS = {"utility_infonce": {"evidence_share": 0.0}, "plackett_luce": {"rankings": 16, "places": 10}}

every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


def objective(name):
    return OBJECTIVES[name](**PARAMETERS.get(name, {}))


def loss(name, scores=SCORES, utilities=UTILITIES, masks=MASKS, teacher=0.5, student=1.0):
    torch.manual_seed(7)  # plackett_luce draws
    return objective(name)(ScoredBatch(scores, utilities, masks, teacher, student))


def gradient(name, scores=SCORES, *args, **changes):
    scores = scores.clone().requires_grad_()
    loss(name, scores, *args, **changes).backward()
    return scores.grad


def teacher(row: int, temperature=0.5):
    return (UTILITIES[row, CANDIDATES[row]] / temperature).softmax(0)


# --- what each one is ---


def test_infonce_is_cross_entropy_and_a_question_without_evidence_gives_nothing():
    counted = [CANDIDATES[row] | NEGATIVES[row] | EVIDENCE[row] for row in range(3)]
    logits = [SCORES[row].masked_fill(~counted[row], -torch.inf) / 0.05 for row in range(3)]
    first = cross_entropy(logits[0], torch.tensor(1))
    second = (cross_entropy(logits[1], torch.tensor(3)) + cross_entropy(logits[1], torch.tensor(4))) / 2
    assert loss("infonce", student=0.05).item() == pytest.approx(((first + second) / 2).item(), rel=1e-12)
    assert (gradient("infonce")[2] == 0).all()


def test_infonce_without_any_evidence_is_zero_and_can_be_stepped_on():
    masks = Masks(CANDIDATES, NEGATIVES, NONE)
    assert loss("infonce", masks=masks).item() == 0
    assert (gradient("infonce", masks=masks) == 0).all()


def test_kl_is_the_divergence_over_candidates():
    expected = [
        kl_divergence(Categorical(teacher(row)), Categorical(logits=SCORES[row, CANDIDATES[row]] / 0.05)) for row in range(3)
    ]
    assert loss("kl", student=0.05).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-12)


def test_kl_has_the_gradient_of_utility_infonce_without_negatives():
    torch.testing.assert_close(gradient("kl"), gradient("utility_infonce", masks=MASKS._replace(negatives=NONE)))


def test_margin_mse_is_the_mean_over_pairs():
    expected = []
    for row in range(3):
        pairs = itertools.combinations(CANDIDATES[row].nonzero()[:, 0].tolist(), 2)
        expected.append(
            np.mean(
                [
                    ((SCORES[row, i] - SCORES[row, j]) / 0.05 - (UTILITIES[row, i] - UTILITIES[row, j]) / 0.5).item() ** 2
                    for i, j in pairs
                ]
            )
        )
    assert loss("margin_mse", student=0.05).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_margin_mse_of_a_lone_candidate_is_zero():
    lone = torch.tensor([[True, False]])
    assert loss("margin_mse", SCORES[:1, :2], UTILITIES[:1, :2], Masks(lone, ~lone, NONE[:1, :2])).item() == 0


def test_m3_kd_masks_each_candidate_after_its_turn():
    expected = 0.0
    for row in range(3):
        logits = SCORES[row].masked_fill(~(CANDIDATES | NEGATIVES)[row], -torch.inf) / 0.05
        candidates = CANDIDATES[row].nonzero()[:, 0].tolist()
        weights = dict(zip(candidates, teacher(row).tolist(), strict=True))
        for turn in sorted(candidates, key=lambda column: -UTILITIES[row, column].item()):
            expected += weights[turn] * cross_entropy(logits, torch.tensor(turn)).item() / 3
            logits[turn] = -torch.inf
    assert loss("m3_kd", student=0.05).item() == pytest.approx(expected, rel=1e-12)


def test_m3_kd_without_turns_is_utility_infonce():
    """Equal utilities mask nobody; with one candidate there is nobody to mask."""
    equal = torch.zeros_like(UTILITIES)
    assert loss("m3_kd", utilities=equal).item() == pytest.approx(loss("utility_infonce", utilities=equal).item(), rel=1e-12)
    lone = MASKS._replace(candidates=torch.eye(3, 6, dtype=torch.bool))
    assert loss("m3_kd", masks=lone).item() == pytest.approx(loss("utility_infonce", masks=lone).item(), rel=1e-12)


# Whole numbers, so that equal utilities happen.
graded = st.lists(st.tuples(st.integers(-2, 2), st.floats(-1, 1)), min_size=1, max_size=7)


@given(graded)
@settings(deadline=None, max_examples=100)
def test_wasserstein_is_scipys_distance_over_places(rows):
    utilities, scores = (torch.tensor([column], dtype=torch.float64) for column in zip(*rows, strict=True))
    masks = Masks(*(torch.full(scores.shape, value) for value in (True, False, False)))
    places = rankdata(-utilities[0].numpy(), method="min")
    expected = wasserstein_distance(places, places, (utilities[0] / 0.5).softmax(0).numpy(), (scores[0] / 0.1).softmax(0).numpy())
    assert loss("wasserstein", scores, utilities, masks, student=0.1).item() == pytest.approx(expected, abs=1e-9)


def test_wasserstein_is_the_mean_over_questions():
    alone = [
        loss("wasserstein", SCORES[row : row + 1], UTILITIES[row : row + 1], Masks(*(mask[row : row + 1] for mask in MASKS)))
        for row in range(3)
    ]
    assert loss("wasserstein").item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-12)


def test_disj_infonce_sums_the_probability_of_the_useful():
    # Two of the first question help and one of the third; none of the second, whose better one counts.
    utilities = torch.tensor([[1, 2, -1, 9, 9, 9], [9, 9, -2, -1, 9, 9], [-1, 9, 9, 9, 3, 0]], dtype=torch.float64)
    useful = [[0, 1], [3], [4]]
    students = SCORES.masked_fill(~(CANDIDATES | NEGATIVES), -torch.inf).softmax(1)
    expected = -np.mean([math.log(students[row, columns].sum().item()) for row, columns in enumerate(useful)])
    assert loss("disj_infonce", utilities=utilities).item() == pytest.approx(expected, rel=1e-12)


def test_disj_infonce_with_one_useful_candidate_is_infonce():
    utilities = torch.full((3, 6), -1.0, dtype=torch.float64)
    utilities[:, :3] = torch.tensor([[0, 5, 0], [0, 0, 5], [5, 0, 0]])
    masks = Masks(CANDIDATES, ~CANDIDATES, utilities > 0)
    assert loss("disj_infonce", utilities=utilities, masks=masks).item() == pytest.approx(
        cross_entropy(SCORES, torch.tensor([1, 2, 0])).item(), rel=1e-12
    )


def useful_and_others() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of question and passage, by the rule in words: those that help, else the best; and all else that counts."""
    useful, others = [], []
    for row in range(3):
        candidates = CANDIDATES[row].nonzero()[:, 0].tolist()
        best = max(candidates, key=lambda column, row=row: UTILITIES[row, column].item())
        helping = [column for column in candidates if UTILITIES[row, column] > 0] or [best]
        useful += [(row, column) for column in helping]
        others += [(row, column) for column in {*candidates, *NEGATIVES[row].nonzero()[:, 0].tolist()} - set(helping)]
    return useful, others


def test_mann_whitney_is_the_mean_over_the_batchs_pairs():
    useful, others = useful_and_others()
    assert {row for row, _ in useful} == {0, 1, 2}  # so that pairs across questions are among them
    expected = np.mean([softplus((SCORES[j] - SCORES[i]) / 0.05).item() for i, j in itertools.product(useful, others)])
    assert loss("mann_whitney", student=0.05).item() == pytest.approx(expected, rel=1e-12)


def test_mann_whitney_pulls_by_what_the_roc_curve_lacks():
    """In the limit of a small temperature: raise all useful scores together, and the loss falls by (1 - AUC) / tau."""
    useful, others = useful_and_others()
    labels = [1] * len(useful) + [0] * len(others)
    auc = roc_auc_score(labels, [SCORES[pair].item() for pair in useful + others])
    assert 0 < auc < 1
    slope = sum(gradient("mann_whitney", student=1e-4)[pair].item() for pair in useful)
    assert -slope * 1e-4 == pytest.approx(1 - auc, abs=1e-6)
    assert loss("mann_whitney", student=0.05).item() / math.log(2) >= 1 - auc


def test_mann_whitney_with_nothing_to_tell_apart_is_zero_and_can_be_stepped_on():
    masks = Masks(CANDIDATES, NONE, NONE)
    utilities = torch.ones_like(UTILITIES)
    assert loss("mann_whitney", utilities=utilities, masks=masks).item() == 0
    assert (gradient("mann_whitney", utilities=utilities, masks=masks) == 0).all()


def exact_policy_gradient(scores, utilities, candidates, counted):
    """The gradient of minus the expected nDCG, over every ranking of the counted passages of one question."""
    scores = scores.clone().requires_grad_()
    gains = (utilities / 0.5).masked_fill(~candidates, -torch.inf).softmax(0)
    columns = counted.nonzero()[:, 0].tolist()
    expectation = 0.0
    for ranking in itertools.permutations(columns):
        probability = 1.0
        for place in range(len(ranking)):
            probability = probability * scores[list(ranking[place:])].softmax(0)[0]
        ranks = np.array([[-ranking.index(column) for column in columns]])
        expectation = expectation + probability * float(ndcg_score(gains[columns][None].numpy(), ranks))
    (-expectation).backward()
    return scores.grad


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_plackett_luce_estimates_the_exact_policy_gradient(order):
    # Three candidates, one negative and a passage that is neither; as many copies of the question as make the estimate sharp.
    scores = torch.tensor([0.3, -0.4, 0.1, 0.6, 0.2], dtype=torch.float64)[order]
    utilities = torch.tensor([0.2, 0.9, -0.3, 0.0, 0.0], dtype=torch.float64)[order]
    candidates, counted = (torch.arange(5)[order] < limit for limit in (3, 4))
    copies = 20_000
    masks = Masks(*(mask.repeat(copies, 1) for mask in (candidates, counted & ~candidates, torch.zeros(5, dtype=torch.bool))))
    estimate = gradient("plackett_luce", scores.repeat(copies, 1), utilities.repeat(copies, 1), masks).sum(0)
    exact = exact_policy_gradient(scores, utilities, candidates, counted)
    assert exact.abs().max() > 0.02
    torch.testing.assert_close(estimate, exact, atol=1e-3, rtol=0)


def test_plackett_luce_draws_again_with_every_step_and_the_same_with_a_seed():
    assert torch.equal(gradient("plackett_luce"), gradient("plackett_luce"))
    scores = SCORES.clone().requires_grad_()
    loss("plackett_luce", scores)
    objective("plackett_luce")(ScoredBatch(scores, UTILITIES, MASKS, 0.5, 1.0)).backward()
    assert not torch.equal(scores.grad, gradient("plackett_luce"))


# --- what all of them are ---


@every_objective
def test_gradcheck(name):
    assert torch.autograd.gradcheck(lambda scores: loss(name, scores), (SCORES.clone().requires_grad_(),))


@every_objective
def test_a_scalar_in_the_dtype_of_the_scores(name):
    for dtype in (torch.float32, torch.float64):
        value = loss(name, SCORES.to(dtype), UTILITIES.to(dtype))
        assert value.shape == ()
        assert value.dtype == dtype


@every_objective
@pytest.mark.parametrize("negatives", [NONE, NEGATIVES])
def test_nll_sized_spreads_stay_finite_in_float32(name, negatives):
    scores = SCORES.float().clamp(-1, 1)
    utilities = UTILITIES.float() * 5000
    masks = MASKS._replace(negatives=negatives)
    assert torch.isfinite(loss(name, scores, utilities, masks, student=0.01))
    assert torch.isfinite(gradient(name, scores, utilities, masks, student=0.01)).all()


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"plackett_luce"}))  # its draws go by column: see its own test
@given(order=st.permutations(range(6)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_columns_does_not_matter(name, order):
    for utilities in (UTILITIES, UTILITIES.sign()):  # the second has equals
        moved = loss(name, SCORES[:, order], utilities[:, order], Masks(*(mask[:, order] for mask in MASKS)))
        assert moved.item() == pytest.approx(loss(name, utilities=utilities).item(), rel=1e-9)


@every_objective
def test_passages_that_are_nothing_to_a_question_do_not_matter(name):
    counted = CANDIDATES | NEGATIVES | (EVIDENCE if objective(name).evidence_in_target > 0 else NONE)
    assert (~counted).any()
    changed = loss(name, torch.where(counted, SCORES, 9.0), torch.where(counted, UTILITIES, 9.0))
    assert changed.item() == pytest.approx(loss(name).item(), rel=1e-9)
    assert (gradient(name)[~counted] == 0).all()


@pytest.mark.parametrize("name", ["kl", "margin_mse", "wasserstein"])
def test_list_wise_rivals_leave_negatives_alone(name):
    assert (gradient(name)[~CANDIDATES] == 0).all()
    assert loss(name, masks=MASKS._replace(negatives=NONE)).item() == loss(name).item()


@every_objective
def test_only_those_that_say_so_read_evidence(name):
    other = MASKS._replace(evidence=EVIDENCE.flip(0))
    assert (loss(name, masks=other).item() != loss(name).item()) == (objective(name).evidence_in_target > 0)


@every_objective
def test_descent_puts_the_best_candidate_on_top(name):
    """From the worst start: the best candidate, the only useful one, has the lowest score."""
    best = UTILITIES.masked_fill(~CANDIDATES, -torch.inf).argmax(1)
    utilities = torch.full_like(UTILITIES, -1.0).scatter(1, best[:, None], 1.0)
    masks = Masks(CANDIDATES, ~CANDIDATES, utilities > 0)
    scores = (-0.1 * utilities + 0.01 * SCORES).requires_grad_()
    assert (scores.masked_fill(~CANDIDATES, -torch.inf).argmax(1) != best).all()
    optimizer = torch.optim.Adam([scores], lr=0.02)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        objective(name)(ScoredBatch(scores, utilities, masks, 0.5, 0.1)).backward()
        optimizer.step()
    assert scores.masked_fill(~CANDIDATES, -torch.inf).argmax(1).tolist() == best.tolist()


@every_objective
def test_each_is_a_file_of_its_name_and_declares_its_own_parameters(name):
    kind = OBJECTIVES[name]
    assert kind.__module__ == f"uae.training.objectives.{name}"
    assert set(kind.model_fields) == set(PARAMETERS.get(name, {}))
    for changed in ({parameter: -1} for parameter in PARAMETERS.get(name, {})):
        with pytest.raises(ValidationError):
            kind(**PARAMETERS[name] | changed)
    with pytest.raises(ValidationError):
        kind(**PARAMETERS.get(name, {}) | {"of_another": 1})


def test_draws_and_places_of_plackett_luce_are_its_parameters():
    """One place: only the passage that is drawn first counts, and with others drawn the estimate changes."""
    batch = ScoredBatch(SCORES, UTILITIES, MASKS, 0.5, 1.0)
    values = []
    for rankings, places in ((16, 10), (16, 1), (64, 10)):
        torch.manual_seed(7)
        values.append(OBJECTIVES["plackett_luce"](rankings=rankings, places=places)(batch).item())
    assert len(set(values)) == 3
