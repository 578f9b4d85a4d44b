"""Each kind of pooling gives what sentence-transformers gives, as it is loaded, in training and as an ONNX graph."""

import functools

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from transformers import LlamaConfig, LlamaModel

from uae.io.errors import ModelError
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.onnx_encoder import OnnxEncoder
from uae.retrievers.onnx_export import export_encoder
from uae.training.pairs_loss import set_dropout
from uae.training.pieces import encode_in_pieces

POOLINGS = ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("cls", "mean")]
# Of many lengths: a pooling that reads padding would show in one of a batch.
TEXTS = [
    "Ice",
    "Keys hang in the lodge.",
    "The seal of the pump is torn, and the fan is silent. " * 4,
    "Call Lunde first.",
    "Who?",
]


@pytest.fixture(scope="module", params=["right", "left"])
def bodies(request, tmp_path_factory, tiny_encoder, tokenizer):
    """A transformer that reads both ways, padded at the right; one that reads forward, padded at the left."""
    if request.param == "right":
        return SentenceTransformer(str(tiny_encoder), device="cpu")[0]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("llama")
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    body = Transformer(str(folder), max_seq_length=128)
    body.tokenizer.padding_side = "left"
    return body


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_a_pooling_is_loaded_trained_and_served_as_it_is_meant(bodies, tmp_path, pooling):
    SentenceTransformer(modules=[bodies, Pooling(32, pooling)], device="cpu").save(str(tmp_path / "m"), create_model_card=False)
    library = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    # One text a call has no padding, which is what the pooling is meant to make no difference.
    expected = np.vstack([library.encode([text], normalize_embeddings=True) for text in TEXTS])
    model = load_encoder(tmp_path / "m", "cpu")
    np.testing.assert_allclose(encode(model, TEXTS, "query"), expected, atol=2e-5)

    set_dropout(model.train(), 0.0)
    vectors = encode_in_pieces(functools.partial(model, task="query"), model.preprocess(TEXTS), 2, float("inf"))
    np.testing.assert_allclose(torch.nn.functional.normalize(vectors, dim=-1).detach(), expected, atol=2e-5)
    vectors.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "pooler" not in n)

    export_encoder(load_encoder(tmp_path / "m", "cpu"), tmp_path / "serving")
    served = OnnxEncoder(tmp_path / "serving", 1)
    np.testing.assert_allclose(served.encode(TEXTS, "document"), expected, atol=2e-5)
    np.testing.assert_allclose(np.vstack([served.encode([text], "query") for text in TEXTS]), expected, atol=2e-5)


def test_modules_behind_the_pooling_are_in_the_graph(tiny_encoder, tmp_path):
    body, pooling, normalise = SentenceTransformer(str(tiny_encoder), device="cpu")
    modules = [body, pooling, Dense(32, 8), LayerNorm(8), Dropout(0.5), normalise]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "m"), create_model_card=False)
    library = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    expected = library.encode(TEXTS, normalize_embeddings=True)
    model = load_encoder(tmp_path / "m", "cpu")
    np.testing.assert_allclose(encode(model, TEXTS, "query"), expected, atol=2e-5)
    export_encoder(model, tmp_path / "serving")
    np.testing.assert_allclose(OnnxEncoder(tmp_path / "serving", 1).encode(TEXTS, "query"), expected, atol=2e-5)


def _others(tiny_encoder, tokenizer):
    body = SentenceTransformer(str(tiny_encoder), device="cpu")[0]
    return {
        "StaticEmbedding": [StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)],
        "BoW": [BoW(vocab=["fan", "key", "seal"]), Dense(3, 4)],
        "WeightedLayerPooling": [body, WeightedLayerPooling(32, num_hidden_layers=2), Pooling(32), Normalize()],
    }


@pytest.mark.parametrize("name", ["StaticEmbedding", "BoW", "WeightedLayerPooling"])
def test_a_module_that_cannot_be_trained_is_refused_by_name(tiny_encoder, tokenizer, tmp_path, name):
    model = SentenceTransformer(modules=_others(tiny_encoder, tokenizer)[name], device="cpu")
    model.save(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ModelError, match=rf"has a module {name}, which is not supported.*Transformer, Pooling"):
        load_encoder(tmp_path / "m", "cpu")
