"""Several processes that torchrun starts train as one does: loss, gradients, order, what is written, going on after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import write_labelled
from processes_worker import CASES, EVERYTHING, one_step
from safetensors.torch import load_file
from small_training import AGGREGATION, changed, finds_nothing_useful, run

from uae.io.errors import ConfigError
from uae.io.torchrun import Place
from uae.training.data import TrainingData
from uae.training.fusion import FusionTerms, choose_fusion
from uae.training.processes import device_of

HERE = Path(__file__).resolve().parent
SIMPLE = {"epochs": 3, "batch_size": 3}  # 8 questions: batches of 3, 3 and 2
REWARD = {"epochs": 1, "reward": 0.5, "dropout": 0.1, "precision": "bfloat16"}
# The leading process asks the teacher and fits a second stage meanwhile.
MANY_PARTS = {"epochs": 2, "rounds": 1, "rivals": ["kl"], "gradient_accumulation": 2, "batch_size": 2, "towers": "adapter"}


def together(what: str, folder: Path, base: Path, device: str = "cpu", **changes) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, HERE / "processes_worker.py", what, folder, base, json.dumps(changes), device],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory, by_texts, tiny_encoder) -> Path:
    """What two processes made of everything. Starting them takes longer than their work."""
    folder = write_labelled(tmp_path_factory.mktemp("two"), by_texts)
    done = together("whole", folder, tiny_encoder, simple=SIMPLE, reward=REWARD, parts=MANY_PARTS | {"last": True})
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def told(folder: Path, out: str) -> dict:
    return json.loads((folder / f"{out}.json").read_text())


@pytest.fixture
def alone(labelled, tiny_encoder) -> dict:
    logged: list = []
    summary = run(labelled, tiny_encoder, "alone", lambda metrics, step: logged.append([step, metrics]), **SIMPLE)
    return {"logged": logged, "summary": summary}


def losses(logged: list) -> list[tuple[int, float]]:
    return [(step, metrics["loss"]) for step, metrics in logged if "loss" in metrics]


def assert_same(first: Path, second: Path) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_loss_and_gradients_are_those_of_one_process_that_encodes_the_batch_at_once(two, tiny_encoder):
    for number, (questions, dimensions, _) in enumerate(CASES):
        alone = one_step(tiny_encoder, questions, dimensions, 1000, EVERYTHING)
        assert alone["loss"] > 0
        assert max(value.abs().max() for name, value in alone.items() if value is not None and "weight" in name) > 1e-3
        for rank in (0, 1):
            found = torch.load(two / f"{number}-{rank}.pt", weights_only=True)
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                where = f"{name} of case {number} on process {rank}"
                if value is None:
                    assert found[name] is None, where
                else:
                    torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=where)


def test_a_passage_of_two_questions_is_one_column_and_nobodys_negative(tiny_encoder):
    utilities, candidates, negatives, *_ = one_step(tiny_encoder, 4, {}, 2, EVERYTHING)["labels"]
    assert utilities.shape == (4, 6)
    assert candidates[0].tolist() == [1, 1, 0, 0, 0, 0]
    assert candidates[1].tolist() == [0, 1, 1, 0, 0, 0]
    assert not (candidates.bool() & negatives.bool()).any()


def test_two_processes_fit_the_same_student_and_log_once(two, labelled, alone):
    found = told(two, "simple")
    assert_same(labelled / "alone", two / "simple")
    assert found["summary"]["steps"] == alone["summary"]["steps"] == 9
    assert [step for step, _ in losses(found["logged"])] == list(range(1, 10))
    for (_, one), (_, other) in zip(losses(alone["logged"]), losses(found["logged"]), strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    for name in ("validation_ndcg_before", "validation_ndcg"):
        assert found["summary"][name] == pytest.approx(alone["summary"][name], abs=1e-3)
    assert (two / "simple.csv").read_text().count("\n") == (labelled / "alone.csv").read_text().count("\n")
    assert not [path for path in two.iterdir() if path.name.startswith(".simple")]


def test_a_checkpoint_of_two_processes_goes_on_with_one(labelled, tiny_encoder, alone):
    assert together("cut", labelled, tiny_encoder, cut=SIMPLE).returncode
    assert not (labelled / "cut").exists()
    assert (labelled / ".cut.checkpoints" / "student" / "checkpoint-3").exists()
    logged: list = []
    summary = run(labelled, tiny_encoder, "cut", lambda metrics, step: logged.append([step, metrics]), **SIMPLE)
    assert summary["steps"] == alone["summary"]["steps"]
    assert_same(labelled / "alone", labelled / "cut")
    one, other = losses(alone["logged"]), losses(logged)
    assert [step for step, _ in other] == [step for step, _ in one]
    assert [loss for _, loss in other] == pytest.approx([loss for _, loss in one], rel=1e-3)


def test_what_the_leading_process_does_alone_lets_the_others_wait(two, labelled, tiny_encoder):
    ask = finds_nothing_useful(labelled, "alone")
    summary, found = run(labelled, tiny_encoder, "alone", ask=ask, second_base=tiny_encoder, **MANY_PARTS), told(two, "parts")
    assert found["summary"]["steps"] == summary["steps"]
    assert found["summary"]["second_stage"]["fingerprint"] == summary["second_stage"]["fingerprint"]
    asked = [pd.read_parquet(path) for path in (labelled / "alone-refreshed.parquet", two / "parts-refreshed.parquet")]
    assert (asked[0]["source"] == "refreshed").any()
    assert asked[0]["passage_id"].tolist() == asked[1]["passage_id"].tolist()
    assert (two / "parts-rivals" / "kl" / "modules.json").exists()


def test_a_reward_model_is_fitted_once(two, labelled, tiny_encoder):
    summary = run(labelled, tiny_encoder, "alone", **REWARD)
    assert told(two, "reward")["summary"]["reward_model"] == summary["reward_model"]


def test_how_bm25_joins_the_student_is_chosen_as_by_one_process(two, labelled, tiny_encoder, alone):
    files = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    data = TrainingData.read(*(labelled / name for name in files), AGGREGATION)
    told = (FusionTerms("auto", None, 2), changed(epochs=1), 0.5, "corpus", "cpu", 1)
    one = choose_fusion(data, tiny_encoder, labelled / "alone", labelled / "fusion.json", *told)
    found = json.loads((two / "fusion.json").read_text())
    assert found["chosen"]["folds"] == one["chosen"]["folds"] == 2
    assert found["chosen"]["questions"] == one["chosen"]["questions"] == 12
    assert found["chosen"]["value"] == pytest.approx(one["chosen"]["value"], abs=0.05)
    assert not (two / ".fusion.folds").exists()


SECOND = Place(rank=1, processes=2, local_rank=1, local_processes=2)


def test_each_process_takes_a_gpu_of_its_own():
    assert [device_of(SECOND, name, "cuda:0", 2) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]
    assert device_of(SECOND, "auto", "cpu", 0) == "cpu"


@pytest.mark.parametrize(
    ("name", "first", "gpus", "message"),
    [
        ("cuda", "cuda:0", 1, "train.processes: 2 on a machine with 1 GPUs"),
        ("cuda:1", "cuda:1", 4, "compute.device: 2 processes cannot share cuda:1"),
        ("auto", "mps", 0, "train.processes: mps is one device"),
    ],
)
def test_a_device_that_several_cannot_share_is_refused(name, first, gpus, message):
    with pytest.raises(ConfigError, match=message):
        device_of(SECOND, name, first, gpus)
