"""The cheap towers start at the base encoder, train queries only, and say so in their document fingerprint."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Dense
from small_training import AGGREGATION, changed
from tokenizers.normalizers import Lowercase

import uae.training.towers
from uae.io.errors import ConfigError, ModelError
from uae.io.models import fingerprint
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.document_side import document_fingerprint
from uae.retrievers.passage_vectors import PassageVectors
from uae.training.data import TrainingData
from uae.training.fit import fit
from uae.training.towers import FrozenVectors, build_student, frozen_documents
from uae.vectors.store import VectorStore

QUESTIONS = ["Who keeps the keys?", "Why does the fan stop?", "WHEN is the seal replaced?"]
PASSAGES = ["Keys hang in the lodge.", "Ice forms on the fan and it stops.", "The seal is replaced every second spring."]
CHEAP = ("query", "adapter")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_encoder) -> Path:
    """The tiny encoder with prompts."""
    encoder = load_encoder(tiny_encoder, "cpu")
    encoder.prompts = {"query": "find: ", "document": "text: "}
    return saved(encoder, tmp_path_factory.mktemp("base"))


def saved(encoder: SentenceTransformer, folder: Path) -> Path:
    encoder.save(str(folder), create_model_card=False)
    return folder


def vectors(encoder: SentenceTransformer) -> tuple[np.ndarray, np.ndarray]:
    return encode(encoder, QUESTIONS, "query"), encode(encoder, PASSAGES, "document")


def step(student: SentenceTransformer) -> None:
    """One optimiser step, as the training loop takes it, with weight decay on every parameter that it is given."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.01, weight_decay=0.1)
    student.train()
    frozen = frozen_documents(student)
    passages = FrozenVectors(student, PASSAGES).lookup(PASSAGES) if frozen else embedded(student, PASSAGES, "document")
    scores = embedded(student, QUESTIONS, "query") @ passages.T
    torch.nn.functional.cross_entropy(scores / 0.05, torch.arange(len(QUESTIONS))).backward()
    optimiser.step()


def embedded(student: SentenceTransformer, texts: list[str], task: str) -> torch.Tensor:
    features = student.preprocess(texts, prompt=student.prompts[task], task=task)
    return torch.nn.functional.normalize(student(features, task=task)["sentence_embedding"], dim=-1)


def trained(base: Path, towers: str) -> SentenceTransformer:
    student = build_student(load_encoder(base, "cpu"), towers)
    step(student)
    return student


def test_both_towers_are_the_encoder_itself(base):
    encoder = load_encoder(base, "cpu")
    assert build_student(encoder, "both") is encoder
    assert not frozen_documents(encoder)


@pytest.mark.parametrize("towers", CHEAP)
def test_untrained_students_give_the_vectors_of_the_base(base, towers):
    queries, documents = vectors(load_encoder(base, "cpu"))
    student = build_student(load_encoder(base, "cpu"), towers)
    student_queries, student_documents = vectors(student)
    np.testing.assert_array_equal(student_documents, documents)
    np.testing.assert_allclose(student_queries, queries, atol=1e-6)
    assert frozen_documents(student)


@pytest.mark.parametrize("towers", ["both", *CHEAP])
def test_a_step_moves_query_vectors_and_only_both_towers_move_documents(base, towers):
    queries, documents = vectors(load_encoder(base, "cpu"))
    student_queries, student_documents = vectors(trained(base, towers))
    assert np.abs(student_queries - queries).max() > 1e-3
    assert np.array_equal(student_documents, documents) == (towers in CHEAP)


@pytest.mark.parametrize("towers", CHEAP)
def test_what_is_trained(base, towers):
    encoder = load_encoder(base, "cpu")
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    student = build_student(encoder, towers)
    trainable = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    assert trainable == {"query": whole, "adapter": 32 * 32}[towers]


def test_weight_decay_pulls_the_adapter_towards_the_base(base):
    student = trained(base, "adapter")
    far = np.abs(vectors(student)[0] - vectors(load_encoder(base, "cpu"))[0]).max()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.01)
    assert np.abs(vectors(student)[0] - vectors(load_encoder(base, "cpu"))[0]).max() < far / 20


@pytest.mark.parametrize("towers", CHEAP)
def test_saved_and_loaded_students_are_equal_and_hold_no_pickle(base, tmp_path, towers):
    student = trained(base, towers)
    folder = saved(student, tmp_path / "student")
    loaded = load_encoder(folder, "cpu")
    for before, after in zip(vectors(student), vectors(loaded), strict=True):
        np.testing.assert_array_equal(after, before)
    assert loaded.prompts == {"query": "find: ", "document": "text: "}
    assert loaded.max_seq_length == 128
    assert loaded.get_embedding_dimension() == 32
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    # What has no weights is stored once; the frozen copy only where the queries have their own.
    assert len(list(folder.rglob("*_Pooling"))) == 1
    assert len(list(folder.rglob("*_Transformer"))) == {"query": 2, "adapter": 1}[towers]


@pytest.mark.parametrize("towers", CHEAP)
def test_sides_that_differ_have_to_be_named(base, towers):
    student = build_student(load_encoder(base, "cpu"), towers)
    with pytest.raises(ValueError, match="task"):
        student.encode(QUESTIONS)


@pytest.mark.parametrize("towers", CHEAP)
def test_the_fingerprint_of_the_whole_model_sees_the_query_side(base, tmp_path, towers):
    untrained = saved(build_student(load_encoder(base, "cpu"), towers), tmp_path / "untrained")
    assert fingerprint(saved(trained(base, towers), tmp_path / "trained")) != fingerprint(untrained)


@pytest.mark.parametrize("towers", CHEAP)
def test_students_that_keep_document_vectors_keep_the_document_fingerprint(base, tmp_path, towers):
    expected = document_fingerprint(base)
    student = trained(base, towers)
    folder = saved(student, tmp_path / "student")
    assert document_fingerprint(folder) == expected
    assert document_fingerprint(folder, student) == expected
    # A further round, from the student itself.
    again = build_student(load_encoder(folder, "cpu"), towers)
    assert frozen_documents(again)
    step(again)
    assert document_fingerprint(saved(again, tmp_path / "again")) == expected
    np.testing.assert_array_equal(vectors(again)[1], vectors(load_encoder(base, "cpu"))[1])


def test_training_both_towers_changes_the_document_fingerprint(base, tmp_path):
    assert document_fingerprint(saved(trained(base, "both"), tmp_path / "student")) != document_fingerprint(base)


def _weights(encoder):
    with torch.no_grad():
        list(encoder.parameters())[-1].add_(1e-3)


def _normalizer(encoder):
    encoder.tokenizer.backend_tokenizer.normalizer = Lowercase()


CHANGES = {
    "weights": _weights,
    "pooling": lambda encoder: setattr(encoder[1], "pooling_mode", "cls"),
    "no normalising": lambda encoder: encoder.__delitem__(2),
    "length": lambda encoder: setattr(encoder, "max_seq_length", 16),
    "document prompt": lambda encoder: encoder.prompts.update(document="passage: "),
    "tokenizer": _normalizer,
    "model configuration": lambda encoder: setattr(encoder[0].model.config, "layer_norm_eps", 1e-3),
    "dimensions": lambda encoder: setattr(encoder, "truncate_dim", 8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_document_vectors_changes_the_document_fingerprint(base, tmp_path, change):
    encoder = load_encoder(base, "cpu")
    CHANGES[change](encoder)
    assert document_fingerprint(saved(encoder, tmp_path / "changed")) != document_fingerprint(base)


def test_saving_anew_and_query_prompts_leave_the_document_fingerprint(base, tmp_path):
    encoder = load_encoder(base, "cpu")
    encode(encoder, PASSAGES, "document")  # leaves its padding and truncation in the tokenizer, and in the saved file
    assert document_fingerprint(saved(encoder, tmp_path / "again")) == document_fingerprint(base)
    encoder.prompts["query"] = "question: "
    assert document_fingerprint(saved(encoder, tmp_path / "prompt")) == document_fingerprint(base)


def test_a_tokenizer_that_cannot_be_looked_into_has_the_whole_folder_count(tmp_path):
    words = SentenceTransformer(modules=[BoW(vocab=["fan", "key", "seal"]), Dense(3, 4)], device="cpu")
    folder = saved(words, tmp_path / "words")
    assert document_fingerprint(folder, words) == fingerprint(folder)


def test_frozen_vectors_are_encoded_once_and_training_goes_on(base, monkeypatch):
    encoded = []

    def counting(encoder, texts, kind, progress=""):
        encoded.extend(texts)
        return encode(encoder, texts, kind, progress)

    monkeypatch.setattr(uae.training.towers, "encode", counting)
    student = build_student(load_encoder(base, "cpu"), "query").train()
    kept = FrozenVectors(student, [PASSAGES[0], PASSAGES[1], PASSAGES[0]])
    order = [PASSAGES[1], PASSAGES[2], PASSAGES[0], PASSAGES[1]]
    found = kept.lookup(order)
    assert encoded == PASSAGES
    assert student.training
    assert not found.requires_grad
    np.testing.assert_allclose(found, encode(student, order, "document"), atol=1e-6)
    np.testing.assert_array_equal(kept(order), found)


def test_vectors_of_a_trained_document_side_are_not_kept(base):
    with pytest.raises(ModelError, match="document side of this encoder is trained"):
        FrozenVectors(load_encoder(base, "cpu"))


def test_unknown_towers_are_a_clear_error(base):
    with pytest.raises(ConfigError, match=r"train\.towers: 'documents' is none of both, query, adapter"):
        build_student(load_encoder(base, "cpu"), "documents")


def test_an_adapter_stands_on_encoders_that_do_not_normalise(base):
    def unnormalised():
        encoder = load_encoder(base, "cpu")
        del encoder[2]
        return encoder

    student = build_student(unnormalised(), "adapter")
    raw = functools.partial(student.encode_query, QUESTIONS)
    np.testing.assert_array_equal(raw(), unnormalised().encode_query(QUESTIONS))


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_passages_of_a_frozen_side_are_found_and_not_encoded_by_training(labelled, base, tmp_path, monkeypatch, towers):
    """Candidates encoded them with the base. Validation between the epochs asks for no passage, either."""
    options = changed(towers=towers, epochs=2)
    data = TrainingData.read(
        labelled / "candidates.parquet", labelled / "passages.parquet", labelled / "questions.parquet", labelled / "labels",
        labelled / "labels.json", AGGREGATION,
    )  # fmt: skip
    store = VectorStore(tmp_path / "vectors")
    encoder = load_encoder(base, "cpu")
    PassageVectors(encoder, base, store)(data.passages["text"].tolist())
    examples, again = data.by_split(data.pairs(), options), VectorStore(tmp_path / "vectors")
    plain = fit(examples, base, tmp_path / "plain", tmp_path / "plain-c", options, 0.5, "cpu", 1)
    monkeypatch.setattr("uae.retrievers.passage_vectors.encode", None)  # nothing may be missing
    kept = fit(examples, base, tmp_path / "kept", tmp_path / "kept-c", options, 0.5, "cpu", 1, vectors=again)
    assert again.counted.embedded == 0
    assert again.counted.found > 0
    assert kept.after == pytest.approx(plain.after, abs=1e-6)
