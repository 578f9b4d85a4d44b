"""Models with weights that are missing, misnamed, of another shape or not finite, wherever a model is opened."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from uae.evaluation.answers import Reader
from uae.io.errors import ModelError
from uae.retrievers.dense import check_vectors, encode, load_encoder
from uae.retrievers.document_side import document_fingerprint
from uae.retrievers.torch_encoder import TorchEncoder
from uae.teacher.engines.local import load_teacher
from uae.training.options import RewardOptions
from uae.training.reward import fit_reward_model
from uae.training.towers import build_student

QUICK = RewardOptions(
    share=1.0, folds=2, epochs=1, batch_size=2, learning_rate=1e-3, warmup=0.0, weight_decay=0.0, dropout=0.0, precision="auto"
)


def fit_reward(folder: Path) -> None:
    import pandas as pd

    rows = [
        {"question_id": f"q{q}", "passage_id": f"p{q}{p}", "utility": float(p), "text": f"Lamp {p}", "question": f"Which {q}?"}
        | {"split": "train", "document": f"d{q}"}
        for q in range(2)
        for p in range(2)
    ]
    fit_reward_model(pd.DataFrame(rows), folder, QUICK, "cpu", 1)


# kind -> (which tiny model it opens, how, a layer of its weights)
KINDS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "encoder": ("encoder", lambda folder: load_encoder(folder, "cpu"), "encoder.layer.1."),
    "served encoder": ("encoder", lambda folder: TorchEncoder(folder, "cpu"), "encoder.layer.1."),
    "reward model": ("encoder", fit_reward, "encoder.layer.1."),
    "teacher": ("lm", lambda folder: load_teacher(folder, "", "cpu", "float32", None, None, False), "model.layers.1."),
    "reader": ("lm", lambda folder: Reader(folder, "cpu", "float32", 4, 2), "model.layers.1."),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def model(kind, tiny_encoder, tiny_lm, tmp_path) -> Path:
    return shutil.copytree({"encoder": tiny_encoder, "lm": tiny_lm}[KINDS[kind][0]], tmp_path / "model")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(kind: str, folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        KINDS[kind][1](folder)
    assert str(folder) in str(caught.value)


@each_kind
def test_a_sound_model_is_opened_without_a_word(kind, model, caplog):
    with caplog.at_level(logging.WARNING):
        KINDS[kind][1](model)
    assert [record.message for record in caplog.records if "weights" in record.message] == []


@each_kind
def test_weights_under_other_names_are_missing_ones(kind, model):
    rewrite(model, lambda weights: {f"body.{name}": value for name, value in weights.items()})
    refused(kind, model, r"lacks \d+ weights that the model needs \(.*weight")


@each_kind
def test_a_missing_layer_is_named(kind, model):
    layer = KINDS[kind][2]
    rewrite(model, lambda weights: {name: value for name, value in weights.items() if not name.startswith(layer)})
    refused(kind, model, rf"lacks \d+ weights that the model needs \(.*{layer}")


@each_kind
def test_a_configuration_with_more_layers_than_weights_is_refused(kind, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(kind, model, r"lacks \d+ weights .*layers?\.2\.")


@each_kind
def test_a_weight_of_another_shape_is_named(kind, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    refused(kind, model, r"another shape than its config.json says \(.*instead of")


@each_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_found_when_the_model_is_opened(kind, model, value):
    layer = KINDS[kind][2]

    def spoil(weights):
        name = next(name for name in sorted(weights) if name.startswith(layer))
        weights[name].view(-1)[3] = value
        return weights

    rewrite(model, spoil)
    refused(kind, model, rf"{layer}.*NaN or infinite")


@each_kind
def test_a_truncated_file_is_refused(kind, model):
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])
    refused(kind, model, "cannot be loaded")


@each_kind
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_asks_for_remote_code_is_refused_by_name(kind, model, name):
    path = model / name
    asked = {"AutoModel": "modeling_other.OtherModel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": asked}))
    refused(kind, model, rf"{name} asks for code of its own \(auto_map.*modeling_other\.OtherModel")


def test_modules_of_other_packages_are_refused_by_name(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_pooling.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"modules\.json asks for code of its own \(custom_pooling\.Pooling\)"):
        load_encoder(folder, "cpu")


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_each_side_of_a_student_is_looked_at(tiny_encoder, tmp_path, towers):
    folder = tmp_path / "student"
    build_student(load_encoder(tiny_encoder, "cpu"), towers).save(str(folder), create_model_card=False)
    load_encoder(folder, "cpu")
    for weights in sorted(folder.glob("*_Transformer/model.safetensors")):
        damaged = shutil.copytree(folder, tmp_path / f"damaged-{weights.parent.name}")
        rewrite(damaged / weights.parent.name, lambda found: {n: v for n, v in found.items() if "layer.1." not in n})
        with pytest.raises(ModelError, match=rf"{weights.parent.name} lacks 16 weights"):
            load_encoder(damaged, "cpu")
    router = json.loads((folder / "router_config.json").read_text())
    router["types"]["query_0_Transformer"] = "somewhere.Else"
    (folder / "router_config.json").write_text(json.dumps(router))
    with pytest.raises(ModelError, match=r"router_config\.json asks for code of its own \(somewhere\.Else\)"):
        load_encoder(folder, "cpu")


def test_weights_without_a_use_are_a_warning_that_names_them(tiny_encoder, tmp_path, caplog):
    folder = shutil.copytree(tiny_encoder, tmp_path / "model")
    rewrite(folder, lambda weights: weights | {"cls.predictions.bias": torch.zeros(3)})
    with caplog.at_level(logging.WARNING):
        load_encoder(folder, "cpu")
    assert any("1 weights that the model does not use (cls.predictions.bias)" in record.message for record in caplog.records)


def test_an_encoder_published_without_a_pooler_has_one_identity(tiny_encoder, tmp_path):
    """Mean pooling does not read the pooler. Random numbers there would change the document fingerprint at each opening."""
    folder = shutil.copytree(tiny_encoder, tmp_path / "model")
    rewrite(folder, lambda weights: {name: value for name, value in weights.items() if "pooler" not in name})
    torch.manual_seed(1)
    first = document_fingerprint(folder)
    torch.manual_seed(2)
    assert document_fingerprint(folder) == first
    expected = encode(load_encoder(tiny_encoder, "cpu"), ["Keys hang in the lodge."], "document")
    np.testing.assert_allclose(encode(load_encoder(folder, "cpu"), ["Keys hang in the lodge."], "document"), expected)
    load_encoder(folder, "cpu").save(str(tmp_path / "saved"), create_model_card=False)
    assert document_fingerprint(tmp_path / "saved") == first


def test_tied_output_weights_are_not_missing(tiny_lm, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_lm, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_teacher(folder, "", "cpu", "float32", None, None, False)


def test_a_missing_output_layer_is_missing_where_it_is_not_tied(tiny_lm, tmp_path):
    folder = shutil.copytree(tiny_lm, tmp_path / "model")
    rewrite(folder, lambda weights: {name: value for name, value in weights.items() if not name.startswith("lm_head")})
    refused("teacher", folder, r"lacks 1 weights that the model needs \(lm_head\.weight\)")


def test_weights_too_large_for_float16_name_the_number_format(tiny_lm, tmp_path):
    folder = shutil.copytree(tiny_lm, tmp_path / "model")

    def enlarge(weights):
        weights["model.norm.weight"][0] = 1e6
        return weights

    rewrite(folder, enlarge)
    load_teacher(folder, "", "cpu", "float32", None, None, False)
    with pytest.raises(
        ModelError, match=r"model\.norm\.weight holds NaN or infinite numbers \(as float16\).*compute\.dtype=float32"
    ):
        load_teacher(folder, "", "cpu", "float16", None, None, False)


def test_a_vector_that_is_not_finite_names_its_text():
    vectors = np.array([[1, 0], [np.nan, 0]], dtype=np.float32)
    with pytest.raises(ModelError, match="not finite for the text 'the second'"):
        check_vectors(vectors, ["the first", "the second"])


def test_encoding_finds_vectors_that_are_not_finite(tiny_encoder):
    encoder = load_encoder(tiny_encoder, "cpu")
    with torch.no_grad():
        next(encoder.parameters())[5:] = float("nan")
    with pytest.raises(ModelError, match="not finite for the text 'Keys'"):
        encode(encoder, ["Keys"], "query")


def test_no_message_tells_to_delete_labels():
    """Readings cost hours of a GPU: a sound one is never the cure."""
    import ast
    import re

    for file in (Path(__file__).resolve().parents[2] / "uae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            assert not re.search(r"(delete|remove)\b[^.;]*\b(label store|labels|readings)", text), f"{file}: {text}"
