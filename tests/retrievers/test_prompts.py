"""Instructions before texts: read from the model's folder, or given in params.yaml; the same wherever the model is opened."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from uae.io.errors import ConfigError
from uae.io.models import fingerprint
from uae.pipeline.chain import model_references
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.document_side import document_fingerprint
from uae.retrievers.onnx_encoder import OnnxEncoder
from uae.retrievers.onnx_export import export_encoder
from uae.retrievers.prompts import Prompts, base_encoder, by_side
from uae.retrievers.torch_encoder import TorchEncoder
from uae.training.towers import build_student

TEXTS = ["Keys hang in the lodge.", "Ice"]
E5 = {"query": "query: ", "passage": "passage: "}
E5_SIDES = Prompts(query="query: ", document="passage: ")


def saying(folder, config, target):
    """A copy of a model's folder with this configuration of its own."""
    copy = shutil.copytree(folder, target)
    (copy / "config_sentence_transformers.json").write_text(json.dumps(config))
    return copy


def meant(folder, side):
    """What sentence-transformers gives for the prompt that is meant, said outright."""
    model = SentenceTransformer(str(folder), device="cpu")
    prompt = {"query": "query: ", "document": "passage: "}[side]
    return model.encode(TEXTS, prompt=prompt, normalize_embeddings=True)


@pytest.mark.parametrize(
    ("said", "sides"),
    [
        (E5, ("query: ", "passage: ")),
        ({"query": "find: ", "document": ""}, ("find: ", "")),
        ({"query": "find: ", "document": "", "corpus": "text: "}, ("find: ", "text: ")),
        ({"query": None, "document": "text: ", "passage": "other: "}, ("", "text: ")),
        ({"classification": "sort: "}, ("", "")),
    ],
)
def test_which_prompt_is_of_which_side(said, sides):
    assert tuple(by_side(said).values()) == sides


@pytest.mark.parametrize("config", [{"prompts": E5}, {"prompts": E5, "default_prompt_name": "query"}])
def test_a_model_that_calls_it_passage_encodes_passages_with_it_everywhere(tiny_encoder, tmp_path, config):
    folder = saying(tiny_encoder, config, tmp_path / "e5")
    model = load_encoder(folder, "cpu")
    export_encoder(model, tmp_path / "serving")
    for side in ("query", "document"):
        expected = meant(tiny_encoder, side)
        np.testing.assert_allclose(encode(model, TEXTS, side), expected, atol=1e-6)
        np.testing.assert_allclose(TorchEncoder(folder, "cpu").encode(TEXTS, side), expected, atol=1e-6)
        np.testing.assert_allclose(OnnxEncoder(tmp_path / "serving", 1).encode(TEXTS, side), expected, atol=1e-5)
    assert document_fingerprint(folder) != document_fingerprint(tiny_encoder)


@pytest.mark.parametrize("layout", ["sentence-transformers", "transformers"])
def test_prompts_of_the_parameters_take_the_place_of_the_folders(tiny_encoder, tmp_path, layout):
    source = tmp_path / "model"
    if layout == "transformers":
        body = SentenceTransformer(str(tiny_encoder), device="cpu")[0]
        body.auto_model.save_pretrained(source)
        body.tokenizer.save_pretrained(source)
    else:
        saying(tiny_encoder, {"prompts": {"query": "ask: "}, "default_prompt_name": "query"}, source)
    folder = base_encoder(f"path:{source}", E5_SIDES, tmp_path / "cache")
    for side in ("query", "document"):
        np.testing.assert_allclose(encode(load_encoder(folder, "cpu"), TEXTS, side), meant(source, side), atol=1e-6)
    assert fingerprint(folder) != fingerprint(source)
    assert base_encoder(f"path:{source}", E5_SIDES, tmp_path / "cache") == folder
    assert base_encoder(f"path:{source}", None, tmp_path / "cache") == source
    assert base_encoder(f"path:{source}", Prompts(query="query: ", document=""), tmp_path / "cache") != folder


@pytest.mark.parametrize("towers", ["both", "query", "adapter"])
def test_a_student_keeps_them(tiny_encoder, tmp_path, towers):
    folder = base_encoder(f"path:{tiny_encoder}", E5_SIDES, tmp_path / "cache")
    build_student(load_encoder(folder, "cpu"), towers).save(str(tmp_path / "student"), create_model_card=False)
    for side in ("query", "document"):
        found = encode(load_encoder(tmp_path / "student", "cpu"), TEXTS, side)
        np.testing.assert_allclose(found, meant(tiny_encoder, side), atol=1e-5)


def test_params_yaml_gives_both_sides_and_they_are_no_model(tiny_encoder, tmp_path):
    given = [f"models.student=path:{tiny_encoder}", 'models.student_prompts={query: "query: ", document: "passage: "}']
    settings = load_settings("params.yaml", given)
    assert settings.models.student_prompts == E5_SIDES
    assert "student_prompts" not in model_references(settings)
    assert load_encoder(student_folder(settings.models, tmp_path), "cpu").prompts == {"query": "query: ", "document": "passage: "}
    with pytest.raises(ConfigError, match=r"models\.student_prompts\.document is missing"):
        load_settings("params.yaml", ['models.student_prompts={query: "query: "}'])
