"""A cross-encoder gives the scores that were trained, by torch and by ONNX Runtime, and is refused where it is not whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from uae.io.errors import ArtefactError, InputError, ModelError
from uae.retrievers.cross_encoder import TorchCrossEncoder, load_cross_encoder
from uae.retrievers.onnx_cross_encoder import OnnxCrossEncoder
from uae.retrievers.onnx_cross_export import export_cross_encoder
from uae.retrievers.onnx_export import quantise
from uae.retrievers.second_stage import open_scorer, pair_scores

LONG = "The seal of the pump is torn, and the fan is silent. " * 40
PAIRS = [
    ("Where are the keys?", "Keys hang in the lodge."),
    ("Where are the keys?", "Ice"),
    ("Who is called?", LONG),
    (LONG, "Call Lunde first."),
    ("Who is called?", "Call Lunde first."),
    ("Who is called?", ""),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_encoder) -> Path:
    """A release's folder of a second stage. Its weights are random, and its tokenizer marks pairs as BERT's does."""
    folder = tmp_path_factory.mktemp("second-stage")
    shutil.copytree(tiny_encoder, folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A <eos>", pair="<eos> $A <eos> $B:1 <eos>:1", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save_pretrained(folder / "base")
    settings = json.loads((folder / "base" / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(5)
    model = load_cross_encoder(folder / "base", "cpu", head_may_be_new=True)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:  # as a fresh model has them, pairs hardly differ
                weights.normal_(std=0.4)
    model.save(str(folder / "encoder"), create_model_card=False)
    export_cross_encoder(load_cross_encoder(folder / "encoder", "cpu", head_may_be_new=False), folder / "serving")
    quantise(folder / "serving", folder / "int8" / "serving")
    return folder


@pytest.fixture(scope="module")
def expected(trained) -> np.ndarray:
    return TorchCrossEncoder(load_cross_encoder(trained / "encoder", "cpu", head_may_be_new=False)).scores(PAIRS)


def test_float32_gives_the_trained_scores(trained, expected):
    assert np.ptp(expected) > 1
    served = open_scorer(trained, "onnx", "cpu", 1)
    np.testing.assert_allclose(served.scores(PAIRS), expected, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([served.scores([pair]) for pair in PAIRS]), expected, atol=1e-4)
    np.testing.assert_allclose(open_scorer(trained, "torch", "cpu", None).scores(PAIRS), expected, atol=1e-4)
    assert served.scores([]).shape == (0,)


@pytest.mark.parametrize("threads", [1, 3])
def test_int8_is_near_and_the_same_in_any_company(trained, expected, threads):
    served = OnnxCrossEncoder(trained / "int8" / "serving", threads)
    found = served.scores(PAIRS)
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert np.abs(found - expected).max() > 1e-5  # by another graph
    np.testing.assert_array_equal(found, np.concatenate([served.scores([pair]) for pair in PAIRS]))
    np.testing.assert_array_equal(served.scores(PAIRS[::-1]), found[::-1])
    sizes = [(folder / "serving" / "scorer.onnx").stat().st_size for folder in (trained / "int8", trained)]
    assert sizes[0] < sizes[1]


def test_the_graph_tells_the_question_from_the_passage(trained):
    served = open_scorer(trained, "onnx", "cpu", 1)
    assert json.loads((trained / "serving" / "serving.json").read_text())["types"] is True
    one, other = served.scores([("keys", "lodge"), ("lodge", "keys")])
    assert one != pytest.approx(other, abs=1e-3)


def test_the_same_model_gives_the_same_bytes_and_serving_needs_no_torch(trained, tmp_path):
    model = load_cross_encoder(trained / "encoder", "cpu", head_may_be_new=False)
    export_cross_encoder(model, tmp_path / "again")
    for path in (trained / "serving").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    code = (
        "import sys; from pathlib import Path; from uae.retrievers.second_stage import open_scorer; "
        "print(open_scorer(Path(sys.argv[1]), 'onnx', 'cpu', 1).scores([('Who?', 'Ice')])[0]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(trained)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(
        float(open_scorer(trained, "onnx", "cpu", 1).scores([("Who?", "Ice")])[0]), abs=1e-5
    )


def test_pairs_of_rankings_are_scored_to_a_depth(trained):
    questions = pd.DataFrame({"question_id": ["q1", "q2"], "text": ["Where are the keys?", "Who is called?"]})
    passages = pd.DataFrame({"passage_id": ["p1", "p2", "p3"], "text": ["Keys hang in the lodge.", "Ice", "Call Lunde first."]})
    rankings = {"q1": (["p1", "p2", "p3"], [0.9, 0.5, 0.1]), "q2": (["p3"], [0.4])}
    served = open_scorer(trained, "onnx", "cpu", 1)
    found = pair_scores(rankings, questions, passages, served, 2)
    assert list(found) == [("q1", "p1"), ("q1", "p2"), ("q2", "p3")]
    wanted = served.scores([("Where are the keys?", "Keys hang in the lodge."), ("Where are the keys?", "Ice"),
                            ("Who is called?", "Call Lunde first.")])  # fmt: skip
    np.testing.assert_allclose(list(found.values()), wanted, atol=1e-5)
    with pytest.raises(InputError, match="question q2 with passage p3"):
        pair_scores(rankings, questions, passages[:2], served, 2)


def test_damaged_files_are_named(trained, tmp_path):
    def copy(name: str) -> Path:
        shutil.copytree(trained / "serving", tmp_path / name / "serving")
        return tmp_path / name

    folder = copy("no graph")
    (folder / "serving" / "scorer.onnx").unlink()
    with pytest.raises(ArtefactError, match=r"scorer\.onnx does not exist"):
        open_scorer(folder, "onnx", "cpu", 1)
    folder = copy("no tokenizer")
    (folder / "serving" / "tokenizer.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"tokenizer\.json is no tokenizer"):
        open_scorer(folder, "onnx", "cpu", 1)
    folder = copy("no settings")
    settings = json.loads((folder / "serving" / "serving.json").read_text())
    del settings["max_tokens"]
    (folder / "serving" / "serving.json").write_text(json.dumps(settings))
    with pytest.raises(ArtefactError, match=r"serving\.json is not of the layout"):
        open_scorer(folder, "onnx", "cpu", 1)


def test_scores_that_are_not_finite_are_an_error(trained, tmp_path):
    model = load_cross_encoder(trained / "encoder", "cpu", head_may_be_new=False)
    with torch.no_grad():
        next(weights for name, weights in model.named_parameters() if "classifier.bias" in name).fill_(float("inf"))
    with pytest.raises(ModelError, match="score that is not finite for the question 'Where are the keys"):
        TorchCrossEncoder(model).scores(PAIRS[:1])
    export_cross_encoder(model, tmp_path / "serving")
    with pytest.raises(ModelError, match="score that is not finite"):
        open_scorer(tmp_path, "onnx", "cpu", 1).scores(PAIRS[:1])


def test_what_a_graph_cannot_do_is_left_to_torch(trained, tmp_path):
    model = load_cross_encoder(trained / "encoder", "cpu", head_may_be_new=False)
    model.prompts, model.default_prompt_name = {"query": "Score: "}, "query"
    with pytest.raises(ModelError, match="cannot be served by ONNX Runtime: it puts a prompt before each pair"):
        export_cross_encoder(model, tmp_path / "serving")
