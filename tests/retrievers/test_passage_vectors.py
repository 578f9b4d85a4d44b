"""Passages are encoded once: by the base encoder, by students that keep its document vectors, in whatever stage."""

import numpy as np
import pandas as pd
import pytest

import uae.retrievers.passage_vectors as module
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.document_side import document_fingerprint
from uae.retrievers.kinds import KINDS, open_dense
from uae.retrievers.passage_vectors import PassageVectors, store_key
from uae.retrievers.retriever import rankings
from uae.training.towers import build_student
from uae.vectors.store import VectorStore

TEXTS = ["The pump stands in the cellar.", "The lift is serviced in May.", "A grey door hides the stairs."]
PASSAGES = pd.DataFrame({"passage_id": ["p1", "p2", "p3"], "doc_id": ["d", "d", "e"], "text": TEXTS})
QUESTIONS = pd.DataFrame({"question_id": ["q1", "q2"], "doc_id": ["d", "e"], "text": ["Where is the pump?", "What is hidden?"],
                          "source": ["1", "2"]})  # fmt: skip


@pytest.fixture
def encoded(monkeypatch):
    """The passages that were encoded, in any way that the store is part of."""
    asked = []

    def counting(encoder, texts, kind, progress=""):
        asked.extend(texts)
        return encode(encoder, texts, kind, progress)

    monkeypatch.setattr(module, "encode", counting)
    return asked


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_rankings_are_the_same_with_and_without_a_store(tiny_encoder, tmp_path, scope, encoded):
    store = VectorStore(tmp_path / "vectors")
    plain = rankings(KINDS["dense"](tiny_encoder, "cpu", None), QUESTIONS, PASSAGES, scope)
    assert encoded == TEXTS
    for known in (TEXTS, []):
        encoded.clear()
        found = rankings(KINDS["dense"](tiny_encoder, "cpu", store), QUESTIONS, PASSAGES, scope)
        assert found == plain
        assert encoded == known
    assert store.counts() == {
        "vectors_found": 3,
        "vectors_embedded": 3,
        "vectors_embedded_tokens": sum(map(len, load_encoder(tiny_encoder, "cpu").tokenizer(TEXTS)["input_ids"])),
    }


def test_a_student_that_keeps_the_document_side_finds_the_bases_vectors(tiny_encoder, tmp_path, encoded):
    store = VectorStore(tmp_path / "vectors")
    base = load_encoder(tiny_encoder, "cpu")
    vectors = PassageVectors(base, tiny_encoder, store)(TEXTS)
    for towers in ("query", "adapter"):
        student = build_student(load_encoder(tiny_encoder, "cpu"), towers)
        student.save(str(tmp_path / towers), create_model_card=False)
        loaded = load_encoder(tmp_path / towers, "cpu")
        assert np.array_equal(PassageVectors(loaded, tmp_path / towers, store)(TEXTS[::-1]), vectors[::-1])
    assert encoded == TEXTS


def test_another_document_side_another_dimension_and_another_library_have_vectors_of_their_own(
    tiny_encoder, tmp_path, encoded, monkeypatch
):
    store = VectorStore(tmp_path / "vectors")
    open_dense(tiny_encoder, "cpu", store)._passages(TEXTS, "")
    cut = open_dense(tiny_encoder, "cpu", store, dimension=8)._passages(TEXTS, "")
    assert cut.shape == (3, 8)
    other = load_encoder(tiny_encoder, "cpu")
    other.prompts = {"document": "passage: "}
    PassageVectors(other, tiny_encoder, store)(TEXTS)
    monkeypatch.setattr("uae.retrievers.document_side.encoded_with", lambda: {"torch": "99"})
    open_dense(tiny_encoder, "cpu", store)._passages(TEXTS, "")
    assert encoded == TEXTS * 4
    assert len(store.held()) == 4


def test_the_key_of_an_encoder_is_told_by_a_releases_manifest(tiny_encoder, tmp_path):
    """So what is still used can be told without loading a model."""
    store = VectorStore(tmp_path / "vectors")
    open_dense(tiny_encoder, "cpu", store)._passages(TEXTS, "")
    assert [held.encoder for held in store.held()] == [store_key(document_fingerprint(tiny_encoder))]
