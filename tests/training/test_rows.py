"""The loss of a large batch, some questions at a time."""

import pytest
import torch

import uae.training.loss
from uae.retrievers.dense import load_encoder
from uae.training.loss import ObjectiveLoss
from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import Objective

QUESTIONS, PASSAGES = 7, 9
PARAMETERS = {"utility_infonce": {"evidence_share": 0.3}, "plackett_luce": {"rankings": 4, "places": 3}}


def labels() -> torch.Tensor:
    """Utilities, candidates (at least two a row), negatives, evidence of some questions, and what is added to the cosines."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(5, QUESTIONS, PASSAGES, generator=generator)
    candidates = values[1] > 0.6
    candidates[:, :2] = True
    evidence = candidates & (values[3] > 0.7)
    evidence[::2] = False
    return torch.stack([values[0] - 0.5, candidates.float(), (~candidates).float(), evidence.float(), values[4]])


def loss_and_gradients(encoder, objective: Objective) -> list[torch.Tensor]:
    torch.manual_seed(0)
    width = encoder.get_embedding_dimension()
    vectors = [torch.randn(count, width, requires_grad=True) for count in (QUESTIONS, PASSAGES)]
    loss = ObjectiveLoss(encoder, objective, 0.5, 0.05, {width // 2: 0.5})
    value = loss([{"sentence_embedding": each} for each in vectors], labels())
    value.backward()
    return [value.detach(), *(each.grad for each in vectors)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_in_parts_it_is_that_of_the_whole_batch(tiny_encoder, monkeypatch, name):
    """Of every objective: those that are no mean over questions are taken whole."""
    encoder, objective = load_encoder(tiny_encoder, "cpu"), OBJECTIVES[name](**PARAMETERS.get(name, {}))
    whole = loss_and_gradients(encoder, objective)
    monkeypatch.setattr(uae.training.loss, "_ROWS", 2)
    parts = loss_and_gradients(encoder, objective)
    assert whole[1].abs().max() > 0
    for expected, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_objective_of_the_paper_is_taken_in_parts():
    assert {name for name, kind in OBJECTIVES.items() if not kind.by_question} == {"infonce", "mann_whitney", "plackett_luce"}
