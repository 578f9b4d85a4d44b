"""Weights between the base's and the student's."""

import pytest
import torch
from small_training import run

from uae.io.errors import ModelError
from uae.retrievers.dense import load_encoder
from uae.training.interpolation import interpolate


def layer(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(made.weight, value)
    torch.nn.init.constant_(made.bias, -value)
    return made


def test_each_weight_lies_between_the_two():
    trained = layer(1.0)
    interpolate(trained, layer(5.0).state_dict(), 0.25)
    assert torch.equal(trained.weight, torch.full((2, 2), 2.0))
    assert torch.equal(trained.bias, torch.full((2,), -2.0))


def test_what_the_base_lacks_stays():
    """An adapter that training added has nothing to be mixed with."""
    trained = layer(1.0)
    interpolate(trained, {"weight": torch.full((2, 2), 3.0)}, 0.5)
    assert torch.equal(trained.weight, torch.full((2, 2), 2.0))
    assert torch.equal(trained.bias, torch.full((2,), -1.0))


def test_a_tied_weight_is_mixed_once():
    """As T5 has it: one table of words under two names."""
    words = layer(1.0)
    trained, base = torch.nn.ModuleList([words, words]), torch.nn.ModuleList([layer(5.0)] * 2)
    interpolate(trained, base.state_dict(), 0.5)
    assert torch.equal(words.weight, torch.full((2, 2), 3.0))


def test_another_shape_is_refused():
    with pytest.raises(ModelError, match=r"weight has shape \(2, 2\), and \(3, 2\) in the base"):
        interpolate(layer(1.0), torch.nn.Linear(2, 3).state_dict(), 0.5)


@pytest.mark.parametrize("towers", ["both", "query", "adapter"])
def test_training_keeps_a_share_of_the_base(labelled, tiny_encoder, towers):
    weights = {}
    for share in (0.0, 0.5, 1.0):
        run(labelled, tiny_encoder, f"{towers}-{share}", epochs=1, towers=towers, base_share=share)
        weights[share] = load_encoder(labelled / f"{towers}-{share}", "cpu").state_dict()
    moved = 0
    for name, half in weights[0.5].items():
        own, base = weights[0.0][name], weights[1.0][name]
        torch.testing.assert_close(half, (own + base) / 2)
        moved += not torch.equal(own, base)
    assert moved


def test_the_whole_base_is_the_base(labelled, tiny_encoder):
    run(labelled, tiny_encoder, "all", epochs=1, base_share=1.0)
    base = load_encoder(tiny_encoder, "cpu").state_dict()
    for name, weight in load_encoder(labelled / "all", "cpu").state_dict().items():
        torch.testing.assert_close(weight, base[name])
