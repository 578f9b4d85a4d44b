"""Two processes that cut the weights between them train as one does that holds them all: FSDP, on gloo."""

from pathlib import Path

import pytest
import torch
from conftest import write_labelled
from processes_worker import CASES, EVERYTHING, one_step
from pydantic import ValidationError
from small_training import OPTIONS, run
from test_processes import assert_same, losses, together, told

from uae.io.errors import ConfigError
from uae.training.callbacks import Clock
from uae.training.options import TrainOptions

SIMPLE = {"epochs": 3, "batch_size": 3}  # 8 questions: batches of 3, 3 and 2
SHARDED = SIMPLE | {"sharded": True}
MIXED = {"epochs": 2, "base_share": 0.5, "gradient_accumulation": 2, "batch_size": 2, "rivals": ["kl"]}


@pytest.fixture(scope="module")
def cut(tmp_path_factory, by_texts, tiny_encoder) -> Path:
    """What two processes made of everything. ``again`` one process began; the last training is killed after its fifth step."""
    folder = write_labelled(tmp_path_factory.mktemp("cut"), by_texts)
    end = Clock.on_step_end

    def killed(self, args, state, control, **kwargs):
        end(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tiny_encoder, "again", **SIMPLE)
    parts = {"simple": SHARDED, "mixed": MIXED | {"sharded": True}, "again": SHARDED, "killed": SHARDED}
    done = together("sharded", folder, tiny_encoder, **parts)
    assert (folder / "again.json").exists(), done.stderr[-5000:]
    assert done.returncode
    return folder


def test_loss_and_gradients_are_those_of_one_process(cut, tiny_encoder):
    for number, (questions, dimensions, _) in enumerate(CASES):
        alone = one_step(tiny_encoder, questions, dimensions, 1000, EVERYTHING)
        for rank in (0, 1):
            found = torch.load(cut / f"{number}-{rank}.pt", weights_only=True)
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                where = f"{name} of case {number} on process {rank}"
                if value is None:
                    assert found[name] is None or not found[name].any(), where
                else:
                    torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=where)


@pytest.mark.parametrize(("name", "changes"), [("simple", SIMPLE), ("mixed", MIXED)])
def test_the_student_is_that_of_one_process_and_whole(cut, by_texts, tmp_path, tiny_encoder, name, changes):
    labelled = write_labelled(tmp_path, by_texts)
    logged: list = []
    summary = run(labelled, tiny_encoder, "alone", lambda metrics, step: logged.append([step, metrics]), **changes)
    found = told(cut, name)
    assert_same(labelled / "alone", cut / name)
    assert found["summary"]["steps"] == summary["steps"]
    one, other = losses(logged), losses(found["logged"])
    assert [step for step, _ in other] == [step for step, _ in one]
    assert [loss for _, loss in other] == pytest.approx([loss for _, loss in one], rel=1e-3)
    for key in ("validation_ndcg_before", "validation_ndcg"):
        assert found["summary"][key] == pytest.approx(summary[key], abs=1e-3)
    assert {path.name for path in (labelled / "alone").rglob("*")} == {path.name for path in (cut / name).rglob("*")}


def test_a_checkpoint_goes_on_with_one_process_that_holds_all(cut, tiny_encoder):
    assert (cut / ".killed.checkpoints" / "student" / "checkpoint-3").exists()
    assert not (cut / "killed").exists()
    summary = run(cut, tiny_encoder, "killed", **SIMPLE)
    assert summary["steps"] == told(cut, "simple")["summary"]["steps"] == 9
    assert_same(cut / "simple", cut / "killed")


def test_a_checkpoint_of_one_process_goes_on_with_two_that_share_it(cut):
    steps = [step for step, _ in losses(told(cut, "again")["logged"])]
    assert steps == list(range(1, 10))
    assert told(cut, "again")["summary"]["seconds_per_step"] > 0  # it took some, and not those of before the kill
    assert_same(cut / "simple", cut / "again")


def test_one_process_has_nobody_to_share_with(labelled, tiny_encoder):
    with pytest.raises(ConfigError, match=r"there is one: set train\.processes"):
        run(labelled, tiny_encoder, "student", **SHARDED)
    assert not (labelled / "student").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"towers": "query"}, "sharded: it is for towers: both"),
        ({"refresh": {"rounds": 1, "top_k": 3}}, "sharded, refresh.rounds: use one of them"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainOptions.model_validate(OPTIONS.model_dump() | {"sharded": True} | changes)
