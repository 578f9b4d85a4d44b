"""Which device a name means. What a GPU then does with it: tests/test_gpu.py."""

import pytest
import torch

from uae.io.compute import device_among, has_bfloat16, memory_budget, pick_device, pick_dtype
from uae.io.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "meant"),
    [
        ("auto", 0, False, "cpu"), ("auto", 1, False, "cuda:0"), ("auto", 4, False, "cuda:0"), ("auto", 0, True, "mps"),
        ("cpu", 0, False, "cpu"), ("cpu", 2, True, "cpu"), ("mps", 0, True, "mps"),
        ("cuda", 1, False, "cuda:0"), ("cuda", 4, False, "cuda:0"), ("cuda:0", 1, False, "cuda:0"),
        ("cuda:3", 4, False, "cuda:3"), ("cuda:12", 16, False, "cuda:12"),
    ],
)  # fmt: skip
def test_a_name_means_one_device_and_a_gpu_has_its_number(name, gpus, mps, meant):
    assert device_among(name, gpus, mps) == meant
    device = torch.device(meant)  # torch knows it, and torch.cuda.set_device wants the index
    assert (device.type, device.index) == (meant.partition(":")[0], int(meant[5:]) if meant.startswith("cuda") else None)


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "there"),
    [
        ("cuda", 0, False, "auto, cpu"), ("cuda:0", 0, True, "auto, cpu, mps"), ("mps", 1, False, "auto, cpu, cuda, cuda:0"),
        ("cuda:2", 2, False, "auto, cpu, cuda, cuda:0, cuda:1"), ("gpu", 1, False, "auto, cpu, cuda, cuda:0"),
        ("cuda:-1", 1, False, "auto"), ("cuda:x", 1, False, "auto"), ("cpu:0", 0, False, "auto, cpu"),
        ("", 0, False, "auto, cpu"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_named_beside_those_that_are(name, gpus, mps, there):
    with pytest.raises(ConfigError, match=f"compute.device: .* no device '{name}' .* there is {there}"):
        device_among(name, gpus, mps)


def test_on_this_machine():
    assert pick_device("cpu") == "cpu"
    assert pick_device(pick_device("auto")) == pick_device("auto")  # what was picked may be picked again
    with pytest.raises(ConfigError, match="cuda:99"):
        pick_device("cuda:99")


def test_number_formats_of_a_cpu():
    assert pick_dtype("auto", "cpu") == torch.float32
    assert pick_dtype("bfloat16", "cpu") == torch.bfloat16
    assert not has_bfloat16("cpu")
    assert memory_budget(torch.device("cpu"), 0) > 0
