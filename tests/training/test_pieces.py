"""How a batch's texts are encoded in training."""

import pytest
import torch

import uae.training.pieces
from uae.retrievers.dense import load_encoder
from uae.training.pieces import Kept, encode_in_pieces

TEXTS = [
    "short",
    "a text that is a good deal longer than the others are",
    "two words",
    "the seal of the pump is torn",
    "key",
    "ice",
]
EVERYTHING = 2**40


class Watched:
    """An encoder that notes how wide each forward pass was."""

    def __init__(self, path):
        self.encoder, self.widths = load_encoder(path, "cpu"), []

    def __call__(self, features: dict) -> dict:
        self.widths.append(features["input_ids"].shape[1])
        return self.encoder(features)

    def vectors_and_gradients(self, piece: int, budget: float) -> list[torch.Tensor]:
        self.encoder.zero_grad()
        torch.manual_seed(0)
        vectors = encode_in_pieces(self, self.encoder.preprocess(TEXTS), piece, budget)
        (vectors * torch.arange(len(TEXTS))[:, None]).sum().backward()
        return [vectors.detach()] + [p.grad.clone() for p in self.encoder.parameters() if p.grad is not None]


@pytest.mark.parametrize("piece", [1, 2, 4])
def test_texts_in_pieces_of_like_length_have_the_vectors_and_gradients_of_the_whole_batch(tiny_encoder, piece):
    watched = Watched(tiny_encoder)
    whole, pieces = (watched.vectors_and_gradients(size, EVERYTHING) for size in (100, piece))
    for expected, found in zip(whole, pieces, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert sum(watched.widths[1:]) < watched.widths[0] * len(watched.widths[1:])  # less padding


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_does_not_fit_is_computed_again_and_gives_the_same(tiny_encoder, dropout):
    watched = Watched(tiny_encoder)
    watched.encoder.train()
    for module in watched.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    kept = watched.vectors_and_gradients(2, EVERYTHING)
    assert len(watched.widths) == 3
    for budget, passes in ((1, 3 + 2), (0, 3 + 3)):  # a byte: the first piece is kept, those after it are not
        watched.widths.clear()
        again = watched.vectors_and_gradients(2, budget)
        assert len(watched.widths) == passes
        assert all(torch.equal(*both) for both in zip(kept, again, strict=True))


def test_whatever_the_budget_no_more_texts_than_so_many_keep_theirs(tiny_encoder, monkeypatch):
    watched = Watched(tiny_encoder)
    everything = watched.vectors_and_gradients(2, EVERYTHING)
    monkeypatch.setattr(uae.training.pieces, "MOST_KEPT", 2)
    watched.widths.clear()
    some = watched.vectors_and_gradients(2, EVERYTHING)
    assert len(watched.widths) == 3 + 2
    assert all(torch.equal(*both) for both in zip(everything, some, strict=True))


def test_questions_and_passages_of_a_batch_share_what_may_be_kept(tiny_encoder):
    watched, kept = Watched(tiny_encoder), Kept()
    first = encode_in_pieces(watched, watched.encoder.preprocess(TEXTS), 2, 1, kept)
    second = encode_in_pieces(watched, watched.encoder.preprocess(TEXTS), 2, 1, kept)
    (first.sum() + second.sum()).backward()
    assert len(watched.widths) == 2 * 6 - 1


def test_the_budget_is_of_bytes_that_the_backward_pass_wants(tiny_encoder):
    """A quarter of what the whole batch keeps lets a quarter of its texts keep theirs."""
    watched, seen = Watched(tiny_encoder), {}
    texts = ["the pump hums " * 20] * 32
    weights = {p.untyped_storage().data_ptr() for p in watched.encoder.parameters()}

    def note(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        whole = watched(watched.encoder.preprocess(texts))
    total = sum(size for address, size in seen.items() if address not in weights)
    del whole
    watched.widths.clear()
    encode_in_pieces(watched, watched.encoder.preprocess(texts), 2, total / 4).sum().backward()
    kept = 2 * 16 - len(watched.widths)
    assert 3 <= kept <= 5
