"""The second stage: it learns the teacher's order, keeps its best checkpoint, and goes on after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import OPTIONS, changed, run

from uae.io.errors import ArtefactError, ModelError
from uae.io.files import read_json
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.training import second_stage
from uae.training.agreement import METRIC
from uae.training.batches import label_rows
from uae.training.examples import Example
from uae.training.second_stage import STAMP, PairAgreement, fit, list_wise

NAMES = ["seal", "fan", "key", "lamp", "door", "coil", "pump", "hose", "rack", "tray", "lock", "vent"]
LEARNING = OPTIONS.second_stage
TEMPERATURE = 0.25


def example(number: int, utilities=(1.0, 0.0, 0.0, 0.0)) -> Example:
    """A passage with a date helps by a nat."""
    draw = np.random.default_rng(number)
    names = [NAMES[place] for place in draw.permutation(12)[:4]]
    passages = (f"The {names[0]} was 1987 1987 1987.", *(f"The {name} was not the {names[0]}." for name in names[1:]))
    question = f"When was the {names[0]} built?"
    return Example(question, f"d{number // 2}", passages, utilities, frozenset(), frozenset(), frozenset())


@pytest.fixture(scope="module")
def examples() -> dict[str, dict[str, Example]]:
    return {
        "train": {f"q{number:02}": example(number) for number in range(16)},
        "validation": {f"q{number:02}": example(number) for number in range(16, 22)},
    }


def fitted(examples, base: Path, folder: Path, seed=1, **changes) -> dict:
    return fit(examples, base, folder, LEARNING.model_copy(update=changes), TEMPERATURE, "cpu", seed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_cross_encoder(folder / TRAINED, "cpu", head_may_be_new=False).state_dict()


def test_it_learns_the_teachers_order_and_what_is_kept_is_what_was_measured(examples, tiny_encoder, tmp_path):
    found = fitted(examples, tiny_encoder, tmp_path / "second")
    assert found["validation_ndcg_before"] < 0.95 < found["validation_ndcg"]
    assert found["questions"] == {"train": 16, "validation": 6}
    assert found["pairs"] == {"train": 64, "validation": 24}
    assert found == read_json(tmp_path / "second" / STAMP)
    model = load_cross_encoder(tmp_path / "second" / TRAINED, "cpu", head_may_be_new=False)
    again = PairAgreement(examples["validation"], TEMPERATURE, 0.0)(model)[METRIC]
    assert again == pytest.approx(found["validation_ndcg"], abs=1e-4)
    one = examples["validation"]["q16"]
    scores = TorchCrossEncoder(model).scores([(one.question, text) for text in one.passages])
    assert scores.argmax() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second"]  # no checkpoints are left


def test_the_best_checkpoint_counts_not_the_last(examples, tiny_encoder, tmp_path, monkeypatch):
    values = iter([0.1, 0.5, 0.9, 0.2, 0.2, 0.9])  # before, four epochs, after
    seen = []

    def measured(self, model, *arguments, **options):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {METRIC: next(values)}

    monkeypatch.setattr(PairAgreement, "__call__", measured)
    found = fitted(examples, tiny_encoder, tmp_path / "second", patience=2)
    assert found["steps"] == 4 * 4  # of six epochs
    kept = weights(tmp_path / "second")
    assert [all(torch.equal(kept[name], state[name]) for name in kept) for state in seen] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_loss_is_the_cross_entropy_with_the_teachers_distribution():
    rows = [example(1, (0.5, 0.25, -1.0, 0.0)), example(2)]
    targets = [label_rows([row], list(row.passages), in_batch_negatives=False) for row in rows]
    scores = torch.tensor([0.3, -2.0, 1.0, 4.0])
    found = list_wise(TEMPERATURE, targets)(scores, torch.tensor(0))
    wanted = torch.softmax(torch.tensor([0.5, 0.25, -1.0, 0.0]) / TEMPERATURE, 0)
    assert found.item() == pytest.approx(-(wanted * torch.log_softmax(scores, 0)).sum().item(), rel=1e-6)
    # a passage that counts against the question has no share of the target, and pushes the others' scores up
    harmful = Example(rows[0].question, "d", rows[0].passages, (0.5, float("nan"), -1.0, 0.0),
                      frozenset(rows[0].passages[1:2]), frozenset(), frozenset())  # fmt: skip
    target = label_rows([harmful], list(harmful.passages), in_batch_negatives=False)
    left = torch.softmax(torch.tensor([0.5, -1.0, 0.0]) / TEMPERATURE, 0)
    found = list_wise(TEMPERATURE, [target])(scores, torch.tensor(0))
    assert found.item() == pytest.approx(-(left * torch.log_softmax(scores, 0)[[0, 2, 3]]).sum().item(), rel=1e-6)


def test_nothing_is_fitted_again_until_something_changes(examples, tiny_encoder, tmp_path, monkeypatch):
    first = fitted(examples, tiny_encoder, tmp_path / "second")

    def refuse(*arguments, **options):
        raise AssertionError("fitted again")

    monkeypatch.setattr(second_stage, "_trainer", refuse)
    assert fitted(examples, tiny_encoder, tmp_path / "second") == first
    other = {"train": examples["train"] | {"q00": example(0, (0.9, 0.0, 0.0, 0.0))}, "validation": examples["validation"]}
    for arguments in ({"examples": other}, {"seed": 2}, {"learning_rate": 1e-3}):
        with pytest.raises(AssertionError, match="fitted again"):
            fitted(**{"examples": examples, "base": tiny_encoder, "folder": tmp_path / "second"} | arguments)
    (tmp_path / "second" / TRAINED / "config.json").unlink()
    with pytest.raises(AssertionError, match="fitted again"):
        fitted(examples, tiny_encoder, tmp_path / "second")


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(examples, tiny_encoder, tmp_path, monkeypatch):
    fitted(examples, tiny_encoder, tmp_path / "whole", dropout=0.1)
    measured, calls = PairAgreement.__call__, []

    def killed(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:  # at the end of the third epoch
            raise KeyboardInterrupt
        return measured(self, *arguments, **options)

    monkeypatch.setattr(PairAgreement, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted(examples, tiny_encoder, tmp_path / "second", dropout=0.1)
    assert not (tmp_path / "second").exists()
    monkeypatch.undo()
    resumed = fitted(examples, tiny_encoder, tmp_path / "second", dropout=0.1)
    whole, part = weights(tmp_path / "whole"), weights(tmp_path / "second")
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert resumed["fingerprint"] == read_json(tmp_path / "whole" / STAMP)["fingerprint"]


def test_the_stage_fits_one_where_a_model_is_named_and_removes_it_where_none_is(labelled, tiny_encoder):
    with_one = run(labelled, tiny_encoder, "out", epochs=1, second_base=tiny_encoder)
    assert with_one["second_stage"]["questions"] == {"train": 8, "validation": 4}
    assert with_one["second_stage"]["fingerprint"] == read_json(labelled / "out-second" / STAMP)["fingerprint"]
    without = run(labelled, tiny_encoder, "out", epochs=1)
    assert "second_stage" not in without
    assert list((labelled / "out-second").iterdir()) == []


def test_it_reads_no_evidence_whatever_the_student_is_taught():
    options = changed(evidence_share=0.5, objective="infonce").of_utilities()
    assert options.objective == "utility_infonce"
    assert options.chosen_objective().evidence_in_target == 0
    assert not options.chosen_objective().needs_evidence


def test_what_cannot_be_fitted_is_a_clear_error(examples, tiny_encoder, tmp_path):
    alone = {key: Example(one.question, "d", one.passages[:1], (1.0,), frozenset(), frozenset(), frozenset())
             for key, one in examples["train"].items()}  # fmt: skip
    with pytest.raises(ArtefactError, match="no train question has two labelled passages"):
        fitted({**examples, "train": alone}, tiny_encoder, tmp_path / "second")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be loaded as a cross-encoder"):
        fitted(examples, tmp_path, tmp_path / "second")
    with pytest.raises(ArtefactError, match=r"lower train\.second_stage\.learning_rate"):
        fitted(examples, tiny_encoder, tmp_path / "second", learning_rate=1e30, epochs=2)
    assert not (tmp_path / "second").exists()


def test_an_encoder_is_no_trained_cross_encoder(tiny_encoder):
    with pytest.raises(ModelError, match="lacks 2 weights that the model needs"):
        load_cross_encoder(tiny_encoder, "cpu", head_may_be_new=False)
