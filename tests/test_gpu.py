"""Every path that runs on a device, for real: labelling, encoding, training of all models, the reader, several processes.

The same work is done on the CPU and on each device that this machine has, and must come to the same. A device that is not there
is skipped with the reason that a user would be told.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from sentence_transformers.util import batch_to_device

from uae.evaluation.answers import Reader
from uae.io.compute import has_bfloat16, pick_device
from uae.io.errors import ConfigError
from uae.pipeline.settings import load_settings
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.torch_encoder import TorchEncoder
from uae.teacher.engines.local import load_teacher
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, read_all
from uae.training import second_stage
from uae.training.checkpoints import checkpoints_beside
from uae.training.examples import Example
from uae.training.fit import fit
from uae.training.pieces import encode_in_pieces
from uae.training.processes import encode_shared, leave, of_leader, sum_gradients
from uae.training.reward_model import fit_reward_model

TEXTS = [f"Shelf {number} holds the {name}." for number, name in enumerate(("seal", "fan", "key", "lamp", "door", "coil"))]
TRAIN = load_settings(Path(__file__).resolve().parent.parent / "params.yaml").train


@pytest.fixture(params=["cpu", "auto", "cuda", "cuda:1", "mps"])
def device(request) -> str:
    """A name, as ``compute.device`` has it."""
    try:
        found = pick_device(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    if request.param == "auto" and found == "cpu":
        pytest.skip("auto means the CPU on this machine: no GPU is at hand")
    return request.param


def is_on(model: torch.nn.Module, device: str) -> bool:
    return {parameter.device for parameter in model.parameters()} == {torch.device(pick_device(device))}


def examples(number: int, first: int = 0) -> dict[str, Example]:
    none: frozenset[str] = frozenset()
    made = {}
    for place in range(first, first + number):
        passages = tuple(TEXTS[(place + step) % len(TEXTS)] for step in range(3))
        made[f"q{place}"] = Example(f"What is on shelf {place}?", "d", passages, (2.0, 0.1, 0.0), none, none, none)
    return made


def test_encoding(tiny_encoder, device):
    encoder = load_encoder(tiny_encoder, device)
    assert is_on(encoder, device)
    for kind in ("query", "document"):
        expected = encode(load_encoder(tiny_encoder, "cpu"), TEXTS, kind)
        np.testing.assert_allclose(encode(encoder, TEXTS, kind), expected, atol=1e-4)
    served = TorchEncoder(tiny_encoder, device).encode(TEXTS, "document")
    np.testing.assert_allclose(served, encode(encoder, TEXTS, "document"), atol=1e-4)


def test_labelling(tiny_lm, device):
    template = Template("Passage: {passage}\n", "Question: {question}\nAnswer:", " {answer}")
    pairs = [
        Pair((f"q{n}", f"p{n}", "a", template.hash, "made up"), "What is on it?", "a lamp", text)
        for n, text in enumerate([None, *TEXTS])
    ]
    readings = []
    for where in ("cpu", device):
        teacher = load_teacher(tiny_lm, "made up", where, "float32", None, None, compile=False)
        assert is_on(teacher.model, where)
        found = [reading for _, batch in read_all(teacher, teacher.plan(template, pairs)) for reading in batch]
        readings.append({reading.key: reading.nll_sum for reading in found})
    assert readings[0].keys() == readings[1].keys() == {pair.key for pair in pairs}
    for key, expected in readings[0].items():
        assert readings[1][key] == pytest.approx(expected, abs=1e-2)


def test_training_a_student(tiny_encoder, device, tmp_path):
    options = TRAIN.model_copy(update={"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "patience": 4})
    parts = {"train": examples(8), "validation": examples(4, first=8)}
    student = tmp_path / "student"
    fitted = fit(parts, tiny_encoder, student, checkpoints_beside(student), options, 0.25, device, 1)
    assert fitted.steps == 4
    assert fitted.peak_memory_mb > 0
    assert 0 <= fitted.after <= 1
    before, after = (encode(load_encoder(path, "cpu"), TEXTS, "document") for path in (tiny_encoder, student))
    assert not np.allclose(before, after)
    assert np.isfinite(after).all()


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_training_a_student_with_frozen_documents(tiny_encoder, device, tmp_path, towers):
    options = TRAIN.model_copy(update={"epochs": 1, "batch_size": 4, "towers": towers})
    parts = {"train": examples(8), "validation": examples(4, first=8)}
    student = tmp_path / "student"
    fit(parts, tiny_encoder, student, checkpoints_beside(student), options, 0.25, device, 1)
    before, after = (encode(load_encoder(path, "cpu"), TEXTS, "document") for path in (tiny_encoder, student))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_training_a_reward_model(tiny_encoder, device):
    rows = [
        {"question_id": key, "passage_id": text, "text": text, "question": example.question, "utility": utility}
        for key, example in examples(6).items()
        for text, utility in zip(example.passages, example.utilities, strict=True)
    ]
    options = TRAIN.reward.model_copy(update={"epochs": 1})
    model = fit_reward_model(pd.DataFrame(rows), tiny_encoder, options, device, 1)
    assert is_on(model, device)
    assert np.isfinite(model.predict([(row["question"], row["text"]) for row in rows])).all()


def test_the_reader_of_the_evaluation(tiny_lm, device):
    reader = Reader(tiny_lm, device, "float32", new_tokens=4, batch_size=2)
    assert is_on(reader.model, device)
    answers = reader.answer([("What is on it?", [text]) for text in TEXTS[:3]])
    assert answers == Reader(tiny_lm, "cpu", "float32", new_tokens=4, batch_size=2).answer(
        [("What is on it?", [text]) for text in TEXTS[:3]]
    )


@pytest.fixture
def device_with_bfloat16(device) -> str:
    found = pick_device(device)
    if found.startswith("cuda") and not has_bfloat16(found):
        pytest.skip(f"{found} does not compute bfloat16")
    return device


def test_training_a_student_in_bfloat16(tiny_encoder, device_with_bfloat16, tmp_path):
    options = TRAIN.model_copy(update={"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "precision": "bfloat16"})
    parts = {"train": examples(8), "validation": examples(4, first=8)}
    students = {}
    for where in ("cpu", device_with_bfloat16):
        students[where] = tmp_path / where.replace(":", "-")
        fit(parts, tiny_encoder, students[where], checkpoints_beside(students[where]), options, 0.25, where, 1)
    vectors = [encode(load_encoder(path, "cpu"), TEXTS, "document") for path in (tiny_encoder, *students.values())]
    assert not np.allclose(vectors[0], vectors[1])
    np.testing.assert_allclose(vectors[1], vectors[-1], atol=0.1)


def test_labelling_in_bfloat16(tiny_lm, device_with_bfloat16):
    template = Template("Passage: {passage}\n", "Question: {question}\nAnswer:", " {answer}")
    pairs = [Pair((f"q{n}", f"p{n}", "a", template.hash, "made up"), "What?", "a lamp", text) for n, text in enumerate(TEXTS)]
    readings = []
    for where, dtype in (("cpu", "float32"), (device_with_bfloat16, "bfloat16")):
        teacher = load_teacher(tiny_lm, "made up", where, dtype, None, None, compile=False)
        found = [reading for _, batch in read_all(teacher, teacher.plan(template, pairs)) for reading in batch]
        readings.append({reading.key: reading.nll_sum for reading in found})
    for key, expected in readings[0].items():
        assert readings[1][key] == pytest.approx(expected, rel=0.05)


def test_training_a_second_stage_and_asking_it(tiny_encoder, device, tmp_path):
    options = TRAIN.second_stage.model_copy(update={"epochs": 1, "batch_size": 4})
    parts = {"train": examples(8), "validation": examples(4, first=8)}
    facts = second_stage.fit(parts, tiny_encoder, tmp_path / "second", options, 0.25, device, 1)
    assert facts["steps"] == 2
    pairs = [("What is on shelf 1?", text) for text in TEXTS]
    trained = [load_cross_encoder(tmp_path / "second" / TRAINED, where, head_may_be_new=False) for where in ("cpu", device)]
    assert is_on(trained[1], device)
    expected, found = (TorchCrossEncoder(model).scores(pairs) for model in trained)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def gpus() -> int:
    try:
        pick_device("cuda")
    except ConfigError as error:
        pytest.skip(str(error))
    return torch.cuda.device_count()


def test_gathering_and_summing_by_nccl_with_one_gpu(tiny_encoder, tmp_path):
    """A group of one: what each process does is the same in a larger one."""
    gpus()
    encoder = load_encoder(tiny_encoder, "cuda:0")
    features = batch_to_device(encoder.preprocess(TEXTS), encoder.device)

    def encoded(some: dict) -> torch.Tensor:
        return encode_in_pieces(encoder, some, 2, 0)

    whole = encoded(features).float()
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        shared = encode_shared(encoded, features, drops=False)
        torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-4)
        shared.square().sum().backward()
        before = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        sum_gradients(encoder.parameters())
        after = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert before
        assert all(torch.equal(*both) for both in zip(before, after, strict=True))
        assert of_leader(0.25, "cuda:0") == 0.25
    finally:
        leave()


def test_two_processes_with_a_gpu_each(tiny_encoder, tmp_path):
    if (count := gpus()) < 2:
        pytest.skip(f"two processes need two GPUs, and there is {count}")
    worker = Path(__file__).parent / "training" / "processes_worker.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, worker, "whole", tmp_path, tiny_encoder, "{}", "cuda"], check=True)
    sys.path.append(str(worker.parent))
    from processes_worker import CASES, EVERYTHING, one_step

    for number, (questions, dimensions, _) in enumerate(CASES):
        alone = one_step(tiny_encoder, questions, dimensions, 1000, EVERYTHING, "cuda:0")
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True, map_location="cuda:0")
            for name, value in alone.items():
                if value is not None:
                    torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
