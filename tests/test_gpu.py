"""Every path that runs on a device, for real: labelling, encoding, training of student and reward model, the reader.

The same work is done on the CPU and on each device that this machine has, and must come to the same. A device that is not there
is skipped with the reason that a user would be told.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from uae.evaluation.answers import Reader
from uae.io.compute import pick_device
from uae.io.errors import ConfigError
from uae.pipeline.settings import load_settings
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.torch_encoder import TorchEncoder
from uae.teacher.engines.local import load_teacher
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, read_all
from uae.training.checkpoints import checkpoints_beside
from uae.training.examples import Example
from uae.training.fit import fit
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
