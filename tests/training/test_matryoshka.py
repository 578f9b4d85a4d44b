"""The objective at several dimensions: what the loss is, that it reaches short vectors, and what is refused."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from small_training import run
from torch.nn.functional import normalize

from uae.io.errors import ConfigError
from uae.retrievers.dense import load_encoder
from uae.training.batches import UtilityCollator
from uae.training.examples import Example
from uae.training.loss import ObjectiveLoss
from uae.training.objectives.contract import Masks, ScoredBatch
from uae.training.objectives.utility_infonce import UtilityInfoNCE
from uae.training.options import MatryoshkaOptions

OBJECTIVE = UtilityInfoNCE(evidence_share=0.0)
NONE: frozenset[str] = frozenset()


@pytest.fixture
def encoder(tiny_encoder):
    return SentenceTransformer(str(tiny_encoder), device="cpu").eval()


@pytest.fixture
def batch(encoder):
    rows = {
        "q": Example("Where is the lamp?", "d", ("On a shelf.", "In a box."), (1.0, 0.0), NONE, NONE, NONE),
        "r": Example("Who oils the fan?", "d", ("Lunde does.", "In a box."), (0.3, -0.1), NONE, NONE, NONE),
    }
    made = UtilityCollator(preprocess_fn=encoder.preprocess, examples=rows)([{"key": key} for key in rows])
    columns = ("question", "passage")
    return [{k.removeprefix(f"{c}_"): v for k, v in made.items() if k.startswith(f"{c}_")} for c in columns], made["label"]


def of_beginnings(encoder, batch, dimension):
    features, labels = batch
    questions, passages = (normalize(encoder(dict(part))["sentence_embedding"][:, :dimension], dim=-1) for part in features)
    masks = Masks(*(plane > 0 for plane in labels[1:4]))
    return OBJECTIVE(ScoredBatch(questions @ passages.T, labels[0], masks, 0.5, 0.05))


def test_the_loss_is_the_weighted_mean_of_the_objective_at_each_dimension(encoder, batch):
    full, half, quarter = (of_beginnings(encoder, batch, dimension).item() for dimension in (32, 16, 8))
    assert len({full, half, quarter}) == 3
    plain = ObjectiveLoss(encoder, OBJECTIVE, 0.5, 0.05)(*batch)
    assert plain.item() == pytest.approx(full, rel=1e-6)
    loss = ObjectiveLoss(encoder, OBJECTIVE, 0.5, 0.05, {16: 2.0, 8: 0.5})(*batch)
    assert loss.item() == pytest.approx((full + 2 * half + 0.5 * quarter) / 3.5, rel=1e-5)
    loss.backward()
    assert any(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in encoder.parameters())


@pytest.mark.parametrize("dimension", [32, 64])
def test_a_dimension_that_is_no_beginning_is_refused(encoder, dimension):
    with pytest.raises(ConfigError, match=rf"train\.matryoshka\.dimensions.* have 32 numbers, so {dimension} is no beginning"):
        ObjectiveLoss(encoder, OBJECTIVE, 0.5, 0.05, {dimension: 1.0})


@pytest.mark.parametrize("wrong", [{"dimensions": [8], "weights": [1.0, 2.0]}, {"dimensions": [8, 8], "weights": []}])
def test_weights_and_dimensions_fit_each_other(wrong):
    with pytest.raises(ValueError, match=r"weights|dimensions"):
        MatryoshkaOptions.model_validate(wrong)


@pytest.mark.parametrize("towers", ["both", "query"])
def test_a_student_trained_for_short_vectors_is_better_at_them(labelled, tiny_encoder, towers):
    found = {}
    for name, weights in (("for", [20.0]), ("little", [1e-6])):
        options = MatryoshkaOptions.model_validate({"dimensions": [4], "weights": weights})
        found[name] = run(labelled, tiny_encoder, name, matryoshka=options, towers=towers, epochs=10)
        assert load_encoder(labelled / name, "cpu").get_embedding_dimension() == 32
    assert found["for"]["validation_ndcg_at_4"] > found["little"]["validation_ndcg_at_4"]
    assert (
        torch.tensor([value for run_ in found.values() for value in run_.values() if isinstance(value, float)]).isfinite().all()
    )


def test_a_base_that_comes_cut_is_trained_cut(labelled, tiny_encoder, tmp_path):
    base = SentenceTransformer(str(tiny_encoder), device="cpu", truncate_dim=8)
    base.save(str(tmp_path / "cut"), create_model_card=False)
    assert ObjectiveLoss(load_encoder(tmp_path / "cut", "cpu"), OBJECTIVE, 0.5, 0.05).weights == {8: 1.0}
    for towers in ("both", "query"):
        run(labelled, tmp_path / "cut", towers, towers=towers, epochs=1)
        assert load_encoder(labelled / towers, "cpu").get_embedding_dimension() == 8
