"""Options of training, and the contract of an objective, as someone meets them who adds one."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from small_training import OPTIONS, changed

from uae.io.errors import ConfigError
from uae.io.options import Positive
from uae.pipeline.settings import load_settings
from uae.training.batches import UtilityCollator
from uae.training.examples import Example
from uae.training.loss import ObjectiveLoss
from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import Objective, ScoredBatch
from uae.training.options import FitOptions, MatryoshkaOptions

ROOT = Path(__file__).resolve().parents[2]


def test_reading_params_yaml_imports_no_torch():
    """A command that only reads params.yaml would wait seconds for it."""
    code = (
        "import sys, uae.pipeline.settings; print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_params_yaml_gives_every_objective_its_parameters(name):
    train = load_settings(ROOT / "params.yaml", [f"train.objective={name}"]).train
    objective = train.chosen_objective()
    assert type(objective) is OBJECTIVES[name]
    assert train.rival("kl").chosen_objective() == OBJECTIVES["kl"]()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.objective=hinge", "train.objective: "),
        ("train.rivals=[kl, hinge]", "train.rivals.1: "),
        ("train.objectives.plackett_luce.rankings=1", "train.objectives.plackett_luce.rankings: "),
        ("train.objectives.utility_infonce.evidence_share=1.5", "train.objectives.utility_infonce.evidence_share: "),
        ("train.objectives.plackett_luce.ranking=8", "did you mean train.objectives.plackett_luce.rankings?"),
        ("train.evidence_share=0.5", "there is no parameter train.evidence_share"),
        ("train.objectives.plackett_luce={places: 3}", "train.objectives.plackett_luce.rankings is missing"),
        ("train.objectives.kl={}", "there is no parameter train.objectives.kl"),
    ],
)
def test_what_is_wrong_is_named(override, told):
    with pytest.raises(ConfigError) as caught:
        load_settings(ROOT / "params.yaml", [override])
    assert told in str(caught.value)


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        OPTIONS.epochs = 2


def test_only_what_decides_the_weights_decides_where_training_goes_on():
    """Another rival, a parameter of another objective, or who holds the weights throws no checkpoint away."""
    facts = changed().fit_facts()
    assert changed(sharded=True, processes=2).fit_facts() == facts
    assert changed(rivals=("kl",), reward=0.5, rounds=2).fit_facts() == facts
    parameters = OPTIONS.objectives.model_copy(update={"plackett_luce": OBJECTIVES["plackett_luce"](rankings=2, places=1)})
    assert OPTIONS.model_copy(update={"objectives": parameters}).fit_facts() == facts
    assert changed(evidence_share=0.5).fit_facts() != facts
    cut = MatryoshkaOptions(dimensions=(8,), weights=())
    others = {"objective": "kl", "towers": "query", "in_batch_negatives": False, "matryoshka": cut, "precision": "bfloat16"}
    for name in FitOptions.model_fields.keys() - {"objectives", "sharded"}:
        other = others[name] if name in others else getattr(OPTIONS, name) + 1
        assert changed(**{name: other}).fit_facts() != facts, name


class Pull(Objective):
    """An objective as a newcomer would write it: it asks for the vectors, and has a parameter."""

    asks_for_representations: ClassVar[bool] = True
    strength: Positive

    def __call__(self, batch: ScoredBatch) -> torch.Tensor:
        questions, passages = batch.representations
        assert torch.equal(questions @ passages.T, batch.scores)
        assert batch.masks.candidates.shape == batch.utilities.shape == batch.scores.shape
        return self.strength * (questions[:, None] - passages[None]).pow(2).sum(-1)[batch.masks.candidates].mean()


def test_an_objective_gets_the_vectors_it_asks_for_and_its_gradient_reaches_the_encoder(tiny_encoder):
    encoder = SentenceTransformer(str(tiny_encoder), device="cpu").eval()
    none: frozenset[str] = frozenset()
    rows = {"q": Example("Where is the lamp?", "d", ("On a shelf.", "In a box."), (1.0, 0.0), none, none, none)}
    batch = UtilityCollator(preprocess_fn=encoder.preprocess, examples=rows)([{"key": "q"}])
    features = [
        {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
        for column in ("question", "passage")
    ]
    losses = [ObjectiveLoss(encoder, Pull(strength=strength), 0.5, 0.05)(features, batch["label"]) for strength in (1, 3)]
    assert losses[1].item() == pytest.approx(3 * losses[0].item())
    losses[0].backward()
    assert any(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in encoder.parameters())
