"""The encoder that serves gives the vectors of the one that was trained, from the same bytes every time, and needs no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from uae.io.errors import ArtefactError, ModelError
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.onnx_encoder import OnnxEncoder
from uae.retrievers.onnx_export import export_encoder, quantise
from uae.retrievers.onnx_session import batches
from uae.training.towers import build_student

TEXTS = ["Keys hang in the lodge.", "Ice", "", "The seal of the pump is torn, and the fan is silent. " * 40, "Call Lunde first."]


def test_the_runtime_tells_its_maker_nothing(tmp_path):
    """With telemetry it keeps an identifier of the machine and a store of events in the user's cache, from the import on."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path))
    subprocess.run([sys.executable, "-c", "import uae.retrievers.onnx_session"], env=environment, check=True)
    assert not list(tmp_path.rglob("*"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_encoder) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_encoder(load_encoder(tiny_encoder, "cpu"), folder / "float32")
    quantise(folder / "float32", folder / "int8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_float32_gives_the_trained_vectors(exported, tiny_encoder):
    texts = [text for text in TEXTS if text]
    served = OnnxEncoder(exported / "float32", 1)
    for kind in ("query", "document"):
        expected = encode(load_encoder(tiny_encoder, "cpu"), texts, kind)
        np.testing.assert_allclose(served.encode(texts, kind), expected, atol=1e-5)
        np.testing.assert_allclose(np.vstack([served.encode([text], kind) for text in texts]), expected, atol=1e-5)


def test_int8_is_near_and_smaller(exported, tiny_encoder):
    texts = [text for text in TEXTS if text]
    expected = encode(load_encoder(tiny_encoder, "cpu"), texts, "query")
    found = OnnxEncoder(exported / "int8", 1).encode(texts, "query")
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert (found * expected).sum(axis=1).min() > 0.9
    # Near, but not by being the same graph. A cosine in float32 would not tell: it is 1 to seven places with some processors.
    assert np.abs(found - expected).max() > 5e-6
    sizes = [(exported / name / "encoder.onnx").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_int8_vector_is_the_same_in_any_company(exported, threads):
    encoder = OnnxEncoder(exported / "int8", threads)
    texts = [*TEXTS, *(f"{text} And the valve, too." for text in TEXTS)]
    alone = np.vstack([encoder.encode([text], "query") for text in texts])
    np.testing.assert_array_equal(encoder.encode(texts, "query"), alone)
    np.testing.assert_array_equal(encoder.encode(texts[::-1], "query"), alone[::-1])


def test_the_same_model_gives_the_same_bytes_in_another_process(exported, tiny_encoder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from uae.retrievers.dense import load_encoder; "
        "from uae.retrievers.onnx_export import export_encoder, quantise; "
        "out = Path(sys.argv[2]); export_encoder(load_encoder(Path(sys.argv[1]), 'cpu'), out / 'float32'); "
        "quantise(out / 'float32', out / 'int8')"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_encoder), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    for name in ("float32", "int8"):
        assert contents(tmp_path / name) == contents(exported / name)


def test_no_graph_tells_where_it_was_made(exported):
    for name in ("float32", "int8"):
        data = (exported / name / "encoder.onnx").read_bytes()
        assert str(Path(torch.__file__).parents[1]).encode() not in data
        assert b"/tests/" not in data


def test_long_texts_are_cut_and_lengths_told(exported):
    served = OnnxEncoder(exported / "float32", 1)
    lengths = served.token_lengths(TEXTS, "query")
    assert lengths[3] == 128  # the model's max_seq_length
    assert lengths[2] == 0  # this tokenizer adds no marks
    assert not served.encode([""], "query").any()
    longer = TEXTS[3] + " And more of it."
    np.testing.assert_array_equal(served.encode([TEXTS[3]], "query"), served.encode([longer], "query"))


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_a_router_has_a_graph_for_each_side(tiny_encoder, tmp_path, towers):
    model = build_student(load_encoder(tiny_encoder, "cpu"), towers)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save(str(tmp_path / "student"), create_model_card=False)
    export_encoder(load_encoder(tmp_path / "student", "cpu"), tmp_path / "serving")
    assert {"query.onnx", "document.onnx"} < set(contents(tmp_path / "serving"))
    served, texts = OnnxEncoder(tmp_path / "serving", 1), ["Keys hang in the lodge.", "Ice"]
    for kind in ("query", "document"):
        np.testing.assert_allclose(served.encode(texts, kind), encode(model, texts, kind), atol=1e-5)
    assert not np.allclose(served.encode(texts, "query"), served.encode(texts, "document"), atol=1e-3)


def test_attention_is_written_out_in_the_graph_and_left_alone_in_the_model(tiny_encoder, tmp_path):
    model = load_encoder(tiny_encoder, "cpu")
    before = model[0].auto_model.config._attn_implementation
    assert before == "sdpa"
    export_encoder(model, tmp_path / "serving")
    assert model[0].auto_model.config._attn_implementation == before
    assert "IsNaN" not in {node.op_type for node in onnx.load(tmp_path / "serving" / "encoder.onnx").graph.node}


def test_a_graph_of_both_sides_is_opened_once(exported, monkeypatch):
    opened = []

    def spy(path, *arguments, **options):
        opened.append(Path(path).name)
        return session(path, *arguments, **options)

    session = onnxruntime.InferenceSession
    monkeypatch.setattr("uae.retrievers.onnx_session.onnxruntime.InferenceSession", spy)
    OnnxEncoder(exported / "int8", 1)
    assert opened == ["encoder.onnx"]


def test_prompts_come_before_the_text(tiny_encoder, tmp_path):
    model = load_encoder(tiny_encoder, "cpu")
    model.prompts.update(query="find: ", document="text: ")
    export_encoder(model, tmp_path / "serving")
    served = OnnxEncoder(tmp_path / "serving", 1)
    for kind in ("query", "document"):
        np.testing.assert_allclose(served.encode(["Ice"], kind), encode(model, ["Ice"], kind), atol=1e-5)
    assert not np.allclose(served.encode(["Ice"], "query"), served.encode(["Ice"], "document"), atol=1e-3)


def test_what_no_graph_can_do_is_said(tiny_encoder, tmp_path):
    model = load_encoder(tiny_encoder, "cpu")
    model.prompts.update(query="find: ")
    model[1] = Pooling(32, "mean", include_prompt=False)
    with pytest.raises(ModelError, match="leaves the prompt out of the pooling"):
        export_encoder(model, tmp_path / "serving")


@pytest.mark.parametrize("lengths", [[5], [0, 3, 0], [9, 200, 8, 210, 1], [256] * 40, list(range(1, 100))])
def test_batches_hold_every_text_once_and_little_padding(lengths):
    found = list(batches(lengths))
    assert sorted(row for batch in found for row in batch) == [row for row, length in enumerate(lengths) if length]
    for batch in found:
        sizes = [lengths[row] for row in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= 2048
        assert max(sizes) <= 1.25 * min(sizes) + 4


def test_a_graph_with_weights_in_another_file_is_refused(exported, tmp_path):
    for name, data in contents(exported / "float32").items():
        (tmp_path / name).write_bytes(data)
    model = onnx.load(tmp_path / "encoder.onnx")
    onnx.save_model(model, tmp_path / "encoder.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(ArtefactError, match="takes weights from another file"):
        OnnxEncoder(tmp_path, 1)
    graph = (tmp_path / "encoder.onnx").read_bytes()
    (tmp_path / "encoder.onnx").write_bytes(graph.replace(b"\x0a\x08location", b"\x8a\x80\x00\x88\x00location"))
    with pytest.raises(ArtefactError, match="takes weights from another file"):
        OnnxEncoder(tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("encoder.onnx", b"", "cannot be opened by ONNX Runtime"),
        ("encoder.onnx", b"nonsense", "cannot be opened by ONNX Runtime"),
        ("encoder.onnx", None, "does not exist"),
        ("tokenizer.json", b"{}", "is no tokenizer"),
        ("tokenizer.json", None, "does not exist"),
        ("serving.json", b"{}", "is not of the layout"),
        ("serving.json", None, "does not exist"),
    ],
)
def test_damaged_parts_are_named(exported, tmp_path, name, content, message):
    for other, data in contents(exported / "float32").items():
        (tmp_path / other).write_bytes(data)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=message) as caught:
        OnnxEncoder(tmp_path, 1)
    assert name in str(caught.value)


def test_settings_cannot_name_files_elsewhere(exported, tmp_path):
    settings = json.loads((exported / "float32" / "serving.json").read_text())
    settings["graphs"]["query"] = "../encoder.onnx"
    (tmp_path / "serving.json").write_text(json.dumps(settings))
    with pytest.raises(ArtefactError, match="no file of its folder"):
        OnnxEncoder(tmp_path, 1)


def test_a_release_is_searched_without_torch(tiny_encoder, tmp_path):
    blank = {"version": "", "text": "", "sections": [], "metadata": "{}"}
    write_table(tmp_path / "documents.parquet", DOCUMENTS, [{"doc_id": "d", "source": "d", "title": "T"} | blank])
    write_table(tmp_path / "passages.parquet", PASSAGES, [
        {"passage_id": f"p{n}", "doc_id": "d", "title": "T", "source": "d", "position": n, "section": ""}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(["Keys hang in the lodge.", "Ice"])
    ])  # fmt: skip
    build_release(
        documents_path=tmp_path / "documents.parquet", passages_path=tmp_path / "passages.parquet", questions_path=None,
        encoder_path=tiny_encoder, base_path=tiny_encoder, release_path=tmp_path / "release",
        recipe=IndexRecipe(factory="Flat", recall_target=0.9, serving="onnx", max_recall_loss=0.0, min_cosine=0.999),
        scope="corpus", passage_words=140, device="cpu",
    )  # fmt: skip
    code = (
        "import sys; from pathlib import Path; from uae.release.open import Release; "
        "release = Release(Path(sys.argv[1])); (hits,) = release.search(['Where are the keys?'], 2, 'd'); assert len(hits) == 2; "
        "release.search(['Ice'], 1, system='base'); release.search(['Ice'], 1, system='bm25'); release.close(); "
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'pandas', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "release")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.replace("'", '"'))
    assert not {"torch", "transformers", "sentence_transformers"} & set(loaded)


def test_mixed_leaves_what_narrows_in_float32_and_is_nearer(exported, tiny_encoder, tmp_path):
    quantise(exported / "float32", tmp_path / "mixed", mixed=True)
    graph = onnx.load(tmp_path / "mixed" / "encoder.onnx").graph
    kept = {tensor.name: list(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    left = [kept[name] for node in graph.node if node.op_type == "MatMul" for name in node.input if name in kept]
    assert left == [[64, 32]] * 2  # the last product of each of the two layers
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) == 10
    texts = [text for text in TEXTS if text]
    expected = encode(load_encoder(tiny_encoder, "cpu"), texts, "query")
    found, plain = (OnnxEncoder(place, 1).encode(texts, "query") for place in (tmp_path / "mixed", exported / "int8"))
    assert np.abs(found - expected).max() < np.abs(plain - expected).max()
