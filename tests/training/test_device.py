"""On which device the trainers of the student and of the reward model work. Training on a GPU: tests/test_gpu.py."""

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

from uae.io.errors import ConfigError
from uae.training.device import train_only_on, trainer_arguments

KINDS = pytest.mark.parametrize("kind", [SentenceTransformerTrainingArguments, CrossEncoderTrainingArguments])


@KINDS
def test_a_cpu_is_used_where_it_is_named_and_computes_in_full_precision(kind, tmp_path):
    arguments = trainer_arguments(kind, "cpu", "auto", output_dir=str(tmp_path), num_train_epochs=3)
    assert arguments.device == torch.device("cpu")
    assert (arguments.bf16, arguments.fp16, arguments.num_train_epochs) == (False, False, 3)


@KINDS
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_number_format_of_the_steps_is_the_one_that_is_named(kind, precision, tmp_path):
    arguments = trainer_arguments(kind, "cpu", precision, output_dir=str(tmp_path))
    assert (arguments.bf16, arguments.fp16) == (precision == "bfloat16", False)
    assert not arguments.bf16_full_eval


@KINDS
def test_a_device_that_is_not_there_is_refused_in_our_words(kind, tmp_path):
    with pytest.raises(ConfigError, match=r"compute\.device: .* no device 'cuda:99'"):
        trainer_arguments(kind, "cuda:99", "auto", output_dir=str(tmp_path))


@KINDS
@pytest.mark.parametrize("place", ["cuda:0", "cuda:1"])
def test_the_trainer_can_be_held_to_one_gpu(kind, place, tmp_path):
    """Where several are seen it would take all of them. It is told by private names, which this version has to read."""
    arguments = kind(output_dir=str(tmp_path), use_cpu=True)
    train_only_on(arguments, torch.device(place))
    assert (arguments.n_gpu, arguments.device) == (1, torch.device(place))
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
