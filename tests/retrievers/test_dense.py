"""Encoders are loaded from safetensors, and from nothing that could run code."""

import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from uae.io.errors import ModelError
from uae.retrievers.dense import load_encoder


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    return shutil.copytree(tiny_encoder, tmp_path / "encoder")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "1_Pooling/weights.PKL", "checkpoint-1/optimizer.pt", "model.ckpt"])
def test_a_folder_with_a_pickle_is_refused_with_what_to_do(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=rf"{name} may be a pickle.*save_pretrained"):
        load_encoder(folder, "cpu")


def test_a_dense_layer_is_loaded_from_safetensors_only(tiny_encoder, tmp_path):
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    model.append(Dense(32, 8))
    model.save(str(tmp_path / "dense"), create_model_card=False)
    assert load_encoder(tmp_path / "dense", "cpu").get_embedding_dimension() == 8
    (weights,) = (tmp_path / "dense").glob("*_Dense/model.safetensors")
    torch.save(model[-1].state_dict(), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin may be a pickle"):
        load_encoder(tmp_path / "dense", "cpu")


def test_what_openvino_has_beside_it_is_no_pickle(folder):
    (folder / "openvino").mkdir()
    (folder / "openvino" / "openvino_model_qint8_quantized.bin").write_bytes(b"x")
    assert load_encoder(folder, "cpu").get_embedding_dimension() == 32


@pytest.mark.parametrize("said", ["{}", "[8]", '{"dimension": 0}', '{"dimension": "8"}'])
def test_a_served_dimension_that_is_no_number_is_refused(folder, said):
    (folder / "served_dimension.json").write_text(said)
    with pytest.raises(ModelError, match=r"served_dimension\.json must hold"):
        load_encoder(folder, "cpu")
