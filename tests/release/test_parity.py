"""Parity is measured on what is found, and the build takes the first form of serving that passes."""

import re
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
import torch

import uae.release.choose_form
from uae.io.errors import ConfigError, ModelError
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, write_table
from uae.release.build import IndexRecipe, build_release
from uae.release.legs.dense import DenseEntry
from uae.release.parity import Corpus, lowest_cosine, measure_parity, recall_at_1
from uae.retrievers.dense import encode, load_encoder

ROWS = np.eye(4, dtype=np.float32)  # the passages' vectors: p0 ... p3, two a document


@pytest.fixture
def corpus() -> Corpus:
    index = faiss.IndexFlatIP(4)
    index.add(ROWS)
    return Corpus(pd.DataFrame({"passage_id": ["p0", "p1", "p2", "p3"], "doc_id": ["a", "a", "b", "b"]}), index, "")


def asked(*rows: tuple[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame([{"text": "?", "doc_id": doc, "evidence": evidence} for doc, evidence in rows])


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def test_recall_is_of_the_evidence_and_within_the_scope(corpus):
    questions = asked(("a", ["p0"]), ("b", ["p2", "p3"]))
    vectors = np.stack([unit(0.9, 0, 1, 0), unit(0, 0, 0, 1)])
    assert recall_at_1(vectors, questions, corpus, "document") == (1 + 0.5) / 2
    assert recall_at_1(vectors, questions, corpus, "corpus") == (0 + 0.5) / 2  # p2 is nearer, but in another document


def test_equal_scores_are_ordered_by_passage_id(corpus):
    shuffled = replace(corpus, ids=corpus.ids.assign(passage_id=["p3", "p2", "p1", "p0"]))
    vectors = np.stack([unit(1, 1, 1, 1)])
    assert recall_at_1(vectors, asked(("a", ["p0"])), shuffled, "corpus") == 1.0


def test_parity(corpus):
    questions = asked(("a", ["p0"]), ("a", ["p1"]), ("b", []))
    trained = np.stack([unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)])
    served = np.stack([unit(1, 0, 0, 0), unit(0.8, 0.6, 0, 0), unit(0, 0, 1, 0)])
    parity = measure_parity(trained, served, questions, corpus, "document")
    assert parity.cosine == pytest.approx(0.6)
    assert parity.mean_cosine == pytest.approx(2.6 / 3)
    assert (parity.trained_recall, parity.served_recall, parity.recall_loss) == (1.0, 0.5, 0.5)
    assert parity.questions == 3
    unknown = measure_parity(trained, served, asked(("a", []), ("a", []), ("b", [])), corpus, "document")
    assert (unknown.trained_recall, unknown.recall_loss) == (None, 0.0)


def test_lowest_cosine_takes_stored_vectors_of_any_length(corpus):
    class Encoder:
        def encode(self, texts, kind):
            assert kind == "document"
            return np.stack([{"same": unit(0, 1, 0, 0), "near": unit(0, 0, 0.8, 0.6)}[text] for text in texts])

    corpus.index.reset()
    corpus.index.add(3 * ROWS)
    assert lowest_cosine(Encoder(), corpus.index, [1], ["same"]) == pytest.approx(1)
    assert lowest_cosine(Encoder(), corpus.index, [1, 2], ["same", "near"]) == pytest.approx(0.8)


TEXTS = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "The fan is silent.", "Call Lunde first."]
RECIPE = IndexRecipe(factory="Flat", recall_target=0.9, serving="auto", max_recall_loss=0.0, min_cosine=0.999)


@pytest.fixture(scope="module")
def rough_encoder(tmp_path_factory, tiny_encoder) -> Path:
    """The tiny encoder with larger weights, which 8 bits tell less well apart."""
    model = load_encoder(tiny_encoder, "cpu")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("rough")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory, rough_encoder) -> Path:
    """Every question's evidence is what the trained encoder finds first, but the test question's."""
    root = tmp_path_factory.mktemp("tables")
    document = {"doc_id": "d", "source": "d", "title": "T", "version": "", "text": "", "sections": [], "metadata": "{}"}
    passages = [
        {"passage_id": f"p{n}", "doc_id": "d", "title": "T", "source": "d", "position": n, "section": ""}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    texts = ["Where are the keys?", "Who is called?", "Is the fan on?", "What is torn?"]
    model = load_encoder(rough_encoder, "cpu")
    best = (encode(model, texts, "query") @ encode(model, TEXTS, "document").T).argmax(axis=1)
    questions = [
        {"question_id": f"q{n}", "text": text, "answers": [], "doc_id": "d", "evidence": [f"p{best[n]}"], "split": split}
        | {"origin": "human", "source": f"q{n}"}
        for n, (text, split) in enumerate(zip(texts, ["validation", "validation", "train", "test"], strict=True))
    ]
    write_table(root / "documents.parquet", DOCUMENTS, [document])
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_table(root / "questions.parquet", QUESTIONS, questions)
    return root


def build(tables: Path, encoder: Path, out: Path, **changes) -> DenseEntry:
    """The manifest's entry of the one leg."""
    names = {f"{name}_path": tables / f"{name}.parquet" for name in ("documents", "passages", "questions")}
    return build_release(
        **names, encoder_path=encoder, base_path=None, release_path=out, recipe=RECIPE._replace(**changes), scope="document",
        passage_words=140, device="cpu",
    ).manifest.dense()  # fmt: skip


def test_int8_that_is_too_far_off_gives_way_to_float32(tables, rough_encoder, tmp_path):
    serving = build(tables, rough_encoder, tmp_path / "release", min_cosine=0.99999).serving
    assert serving.backend == "onnx"
    assert "index.min_cosine is 0.99999" in serving.refused["onnx_int8"]
    assert serving.parity.cosine == 1.0
    assert serving.parity.questions == 3  # of training and validation, not of the test split
    assert (serving.parity.trained_recall, serving.parity.served_recall) == (1.0, 1.0)


def test_int8_is_taken_where_it_may_be(tables, rough_encoder, tmp_path):
    entry = build(tables, rough_encoder, tmp_path / "release", min_cosine=0.5, max_recall_loss=1.0)
    assert (entry.serving.backend, entry.serving.refused) == ("onnx_int8", {})


def _shifted(quantise):
    """An int8 graph that fits the vectors well enough, but finds the wrong passages."""

    def open_encoder(folder, backend, device, threads):
        encoder = quantise(folder, backend, device, threads)
        if backend.startswith("onnx_int8"):
            plain = encoder.encode
            encoder.encode = lambda texts, kind: -plain(texts, kind) if kind == "query" else plain(texts, kind)
        return encoder

    return open_encoder


def test_lost_recall_refuses_by_itself(tables, rough_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(uae.release.choose_form, "open_encoder", _shifted(uae.release.choose_form.open_encoder))
    monkeypatch.setattr(uae.release.choose_form, "_failure", _ignoring_cosine(uae.release.choose_form._failure))
    serving = build(tables, rough_encoder, tmp_path / "release", max_recall_loss=0.005).serving
    assert serving.backend == "onnx"
    assert serving.refused["onnx_int8"].startswith("Recall@1 is ")
    assert "index.max_recall_loss is 0.005 of it" in serving.refused["onnx_int8"]


def _broken_documents(quantise):
    """An int8 graph whose query side is good enough, and whose document side is another model's."""

    def open_encoder(folder, backend, device, threads):
        encoder = quantise(folder, backend, device, threads)
        if backend.startswith("onnx_int8"):
            plain = encoder.encode
            encoder.encode = lambda texts, kind: -plain(texts, kind) if kind == "document" else plain(texts, kind)
        return encoder

    return open_encoder


def test_a_broken_document_side_refuses_by_itself(tables, rough_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(uae.release.choose_form, "open_encoder", _broken_documents(uae.release.choose_form.open_encoder))
    entry = build(tables, rough_encoder, tmp_path / "release", min_cosine=0.5, max_recall_loss=1.0)
    assert (entry.serving.backend, entry.probe.served) == ("onnx", 1.0)
    assert re.match(r"a passage's vector has a cosine of -.*index.min_cosine is 0.5", entry.serving.refused["onnx_int8"])
    with pytest.raises(ConfigError, match=r"index.serving: onnx_int8 is not good enough.*a passage's vector"):
        build(tables, rough_encoder, tmp_path / "other", serving="onnx_int8", min_cosine=0.5, max_recall_loss=1.0)


def test_what_the_codes_of_an_index_lose_is_not_laid_to_the_serving_encoder(tables, rough_encoder, tmp_path):
    entry = build(tables, rough_encoder, tmp_path / "release", factory="SQ4", serving="onnx")
    assert entry.probe.served < 0.9999
    assert entry.serving.refused == {}


def _ignoring_cosine(failure):
    return lambda parity, gate: failure(parity, gate._replace(min_cosine=-1.0))


def test_the_only_way_that_is_allowed_must_pass(tables, rough_encoder, tmp_path):
    with pytest.raises(ConfigError, match=r"index.serving: onnx_int8 is not good enough.*index.min_cosine is 0.99999"):
        build(tables, rough_encoder, tmp_path / "release", serving="onnx_int8", min_cosine=0.99999)
    assert not (tmp_path / "release").exists()


def test_what_cannot_be_exported_is_served_by_torch(tables, rough_encoder, tmp_path, monkeypatch):
    def fail(encoder, folder):
        folder.mkdir()
        raise ModelError("this encoder cannot be served by ONNX Runtime: it expands queries")

    monkeypatch.setattr(uae.release.choose_form, "export_encoder", fail)
    serving = build(tables, rough_encoder, tmp_path / "release").serving
    assert serving.backend == "torch"
    assert set(serving.refused) == {"onnx_int8", "onnx_int8_mixed", "onnx"}
    assert not list((tmp_path / "release").rglob("*serving*"))
    assert not (tmp_path / "release" / "legs" / "dense" / ".float32").exists()
