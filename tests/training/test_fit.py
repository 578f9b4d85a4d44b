"""How a batch's texts are encoded in training."""

import pytest
import torch

from uae.encoding import load_encoder
from uae.training.fit import encode_by_length

TEXTS = [
    "short",
    "a text that is a good deal longer than the others are",
    "two words",
    "the seal of the pump is torn",
    "key",
    "ice",
]


@pytest.mark.parametrize("piece", [1, 2, 4, 100])
def test_texts_in_pieces_of_like_length_have_the_vectors_and_gradients_of_the_whole_batch(tiny_encoder, piece):
    encoder = load_encoder(tiny_encoder, "cpu")
    features, widths = encoder.preprocess(TEXTS), []

    def model(features: dict) -> dict:
        widths.append(features["input_ids"].shape[1])
        return encoder(features)

    results = []
    for size in (None, piece):
        encoder.zero_grad()
        vectors = encode_by_length(model, dict(features), size)  # a model adds to what it is given
        (vectors * torch.arange(len(TEXTS))[:, None]).sum().backward()
        results.append([vectors.detach()] + [p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole, atol=2e-5, rtol=1e-4)
    if piece < len(TEXTS):
        assert sum(widths[1:]) < widths[0] * len(widths[1:])  # less padding
