"""A release finds what it should and refuses parts that do not belong together."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
import torch

import uae.release.build_dense
import uae.release.choose_form
import uae.retrievers.document_side
import uae.retrievers.passage_vectors
from uae.io.errors import ArtefactError, ConfigError, InputError, ModelError
from uae.io.files import sha256_file
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, read_table, write_table
from uae.registry.champion import measure_release
from uae.release.build import BuiltRelease, IndexRecipe, build_release
from uae.release.legs.protocol import Queries
from uae.release.manifest import read_manifest, seal
from uae.release.open import Release
from uae.release.tables import RELEASE_DOCUMENTS, RELEASE_PASSAGES
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.document_side import document_fingerprint
from uae.retrievers.torch_encoder import TorchEncoder
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.training.towers import build_student

BY_RANKS = {"form": "ranks", "chosen": None}
GRAPH = "legs/dense/serving/encoder.onnx"
INDEX = "legs/dense/index.faiss"
RECIPE = IndexRecipe(factory="Flat", recall_target=0.9, serving="onnx", max_recall_loss=0.0, min_cosine=0.999)
TEXTS = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "The fan is silent.", "Call Lunde first."]


@pytest.fixture(scope="module")
def release(tmp_path_factory, tiny_encoder) -> Path:
    root = tmp_path_factory.mktemp("release")
    blank = {"version": "", "text": "", "sections": []}
    documents = [
        {"doc_id": d, "source": d, "title": f"Title {d}", "metadata": json.dumps({"year": year, "tags": ["seal", d]})} | blank
        for d, year in (("d1", 2023), ("d2", 2025))
    ]
    passages = [
        {"passage_id": f"p{n}", "doc_id": d, "title": f"Title {d}", "source": d, "position": n % 3, "section": "S"}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
        for d in ["d1" if n < 3 else "d2"]
    ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    build(root, tiny_encoder, base_path=tiny_encoder)
    return root / "release"


def damaged(release: Path, tmp_path: Path) -> Path:
    shutil.copytree(release, tmp_path / "release")
    return tmp_path / "release"


def test_search_equals_exact_inner_products(release, tiny_encoder):
    encoder = load_encoder(tiny_encoder, "cpu")
    expected = encode(encoder, ["Where are the keys?"], "query") @ encode(encoder, TEXTS, "document").T
    (hits,) = Release(release, "cpu").search(["Where are the keys?"], k=5)
    assert [hit.passage_id for hit in hits] == [f"p{n}" for n in np.argsort(-expected[0])]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected[0], reverse=True), abs=1e-5)
    assert (hits[0].title, hits[0].section, hits[0].text) == (f"Title {hits[0].doc_id}", "S", TEXTS[int(hits[0].passage_id[1])])


def test_document_filter_and_k(release):
    opened = Release(release, "cpu")
    (hits,) = opened.search(["fan"], k=10, doc_id="d2")
    assert sorted(hit.passage_id for hit in hits) == ["p3", "p4"]
    assert [len(found) for found in opened.search(["a", "b"], k=2)] == [2, 2]
    with pytest.raises(InputError, match="no document 'd9'"):
        opened.search(["fan"], k=1, doc_id="d9")


def test_same_inputs_give_the_same_fingerprint(release, tmp_path, tiny_encoder):
    again = build(release.parent, tiny_encoder, tmp_path / "r", base_path=tiny_encoder)
    assert again.manifest.fingerprint == read_manifest(release).fingerprint


@pytest.mark.parametrize("name", [INDEX, "passages.parquet", "legs/dense/serving/encoder.onnx"])
def test_truncated_or_missing_file_is_refused_by_name(release, tmp_path, name):
    folder = damaged(release, tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=name):
        Release(folder, "cpu")
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        Release(folder, "cpu")


def test_another_encoder_of_the_same_size_is_refused_and_both_are_named(release, tmp_path):
    folder = damaged(release, tmp_path)
    weights = folder / "legs" / "dense" / "encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"encoder of leg 'dense' is [0-9a-f]{12}, but the index was built with [0-9a-f]{12}"):
        Release(folder, "cpu")


def test_index_of_another_release_is_refused_and_both_are_named(release, tmp_path):
    folder = damaged(release, tmp_path)
    other = faiss.IndexFlatIP(32)
    other.add(np.eye(5, 32, dtype=np.float32))
    faiss.write_index(other, str(folder / INDEX))
    manifest, found = read_manifest(release), sha256_file(folder / INDEX)
    ours = f"leg 'dense' of release {manifest.fingerprint[:12]} was built with {manifest.files[INDEX][:12]}"
    with pytest.raises(ArtefactError, match=rf"index\.faiss is {found[:12]}, but {ours}: it is another release's file"):
        Release(folder, "cpu")
    (folder / INDEX).unlink()
    with pytest.raises(ArtefactError, match=rf"index\.faiss is missing; {ours}"):
        Release(folder, "cpu")


def test_another_encoders_graph_is_refused_and_both_are_named(release, tmp_path):
    folder = damaged(release, tmp_path)
    with open(folder / GRAPH, "ab") as graph:
        graph.write(b"x")
    found, ours = sha256_file(folder / GRAPH), read_manifest(release).files[GRAPH]
    with pytest.raises(ArtefactError, match=rf"encoder\.onnx is {found[:12]}, but .* was built with {ours[:12]}"):
        Release(folder, "cpu")


def test_edited_manifest_is_refused(release, tmp_path):
    folder = damaged(release, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["legs"]["dense"]["max_tokens"] = 7
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="was changed after it was written"):
        Release(folder, "cpu")


QUESTION = "Why is the fan silent?"


@pytest.fixture
def project(release, tmp_path) -> Path:
    """A folder with the corpus and a release of it, to build the next one over."""
    for name in ("documents.parquet", "passages.parquet"):
        shutil.copy(release.parent / name, tmp_path / name)
    shutil.copytree(release, tmp_path / "release")
    return tmp_path


def build(project: Path, encoder: Path, out: str | Path = "release", factory: str = "Flat", **arguments) -> BuiltRelease:
    tables = {f"{name}_path": project / f"{name}.parquet" for name in ("documents", "passages")}
    recipe = RECIPE._replace(factory=factory)
    terms = {
        "questions_path": None,
        "base_path": None,
        "recipe": recipe,
        "scope": "corpus",
        "passage_words": 140,
        "device": "cpu",
    }
    return build_release(**tables | terms | {"encoder_path": encoder, "release_path": project / out, "device": "cpu"} | arguments)


def student(encoder: Path, folder: Path, towers: str) -> Path:
    """A student with other weights wherever ``towers`` trains them."""
    model = build_student(load_encoder(encoder, "cpu"), towers)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save(str(folder), create_model_card=False)
    return folder


def only_queries(encoder, texts, kind, progress=""):
    assert kind == "query" or not progress, "passages are encoded, and not only the few that serving is checked with"
    return encode(encoder, texts, kind, progress)


def found(folder: Path) -> list[tuple[str, float]]:
    (hits,) = Release(folder, "cpu").search([QUESTION], k=5)
    return [(hit.passage_id, hit.score) for hit in hits]


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_after_retraining_the_queries_the_index_is_taken_over(project, tiny_encoder, monkeypatch, towers):
    old, before = read_manifest(project / "release"), found(project / "release")
    encoder = student(tiny_encoder, project / "student", towers)
    with monkeypatch.context() as patch:
        patch.setattr(uae.release.build_dense, "encode", only_queries)
        built = build(project, encoder)
    assert built.index_reused
    assert built.manifest == read_manifest(project / "release")
    assert built.manifest.files[INDEX] == old.files[INDEX]
    assert built.manifest.dense().document_encoder == old.dense().document_encoder == document_fingerprint(tiny_encoder)
    assert built.manifest.dense().encoder != old.dense().encoder
    assert built.manifest.fingerprint != old.fingerprint
    # Queries are the student's, documents the base's.
    query = encode(load_encoder(encoder, "cpu"), [QUESTION], "query")
    expected = (query @ encode(load_encoder(tiny_encoder, "cpu"), TEXTS, "document").T)[0]
    after = found(project / "release")
    assert [passage for passage, _ in after] == [f"p{n}" for n in np.argsort(-expected)]
    assert [score for _, score in after] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert after != before


def test_a_release_is_the_same_whether_its_index_was_taken_over_or_not(project, tiny_encoder):
    encoder = student(tiny_encoder, project / "student", "query")
    taken, fresh = build(project, encoder), build(project, encoder, "fresh")
    assert (taken.index_reused, fresh.index_reused) == (True, False)
    assert taken.manifest == fresh.manifest


def _passages(project: Path, change) -> None:
    rows = change(read_table(project / "passages.parquet", PASSAGES))
    write_table(project / "passages.parquet", PASSAGES, rows)


def _reworded(project, encoder, monkeypatch):
    _passages(project, lambda rows: rows.assign(text=rows["text"].replace(TEXTS[3], "The fan is loud.")))
    return encoder


def _reordered(project, encoder, monkeypatch):
    _passages(project, lambda rows: rows.iloc[::-1])
    return encoder


def _one_more(project, encoder, monkeypatch):
    _passages(project, lambda rows: rows.iloc[[0, 1, 2, 3, 4, 4]])
    return encoder


def _document_weights(project, encoder, monkeypatch):
    return student(encoder, project / "student", "both")


def _saved_with(project, encoder, change) -> Path:
    model = load_encoder(encoder, "cpu")
    change(model)
    model.save(str(project / "student"), create_model_card=False)
    return project / "student"


def _pooling(project, encoder, monkeypatch):
    return _saved_with(project, encoder, lambda model: setattr(model[1], "pooling_mode", "cls"))


def _prompt(project, encoder, monkeypatch):
    return _saved_with(project, encoder, lambda model: model.prompts.update(document="text: "))


def _libraries(project, encoder, monkeypatch):
    monkeypatch.setattr(uae.retrievers.document_side.importlib.metadata, "version", lambda name: "0.1")
    return encoder


def _damaged_index(project, encoder, monkeypatch):
    index = project / "release" / INDEX
    index.write_bytes(index.read_bytes()[:-4] + b"abcd")
    return encoder


def _foreign_encoder(project, encoder, monkeypatch):
    """The old release's encoder was swapped: nothing says any more whose vectors its index holds."""
    shutil.rmtree(project / "release" / "legs" / "dense" / "encoder")
    student(encoder, project / "release" / "legs" / "dense" / "encoder", "both")
    return encoder


def _no_release(project, encoder, monkeypatch):
    shutil.rmtree(project / "release")
    return encoder


CHANGES = (
    _reworded, _reordered, _one_more, _document_weights, _pooling, _prompt, _libraries, _damaged_index, _foreign_encoder,
    _no_release,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_the_index_is_not_taken_over_when_its_vectors_may_be_others(project, tiny_encoder, monkeypatch, change):
    encoder = change(project, tiny_encoder, monkeypatch)
    over, fresh = build(project, encoder), build(project, encoder, "fresh")
    assert not over.index_reused
    assert over == fresh
    assert found(project / "release") == found(project / "fresh")


def test_another_kind_of_index_is_built_anew(project, tiny_encoder):
    assert not build(project, tiny_encoder, factory="SQ8").index_reused
    assert build(project, tiny_encoder, factory="SQ8").index_reused


def test_what_is_no_part_of_the_vectors_may_change(project, tiny_encoder):
    _passages(project, lambda rows: rows.assign(section="Another"))
    assert build(project, tiny_encoder).index_reused
    (hits,) = Release(project / "release", "cpu").search([QUESTION], k=1)
    assert hits[0].section == "Another"


def test_the_earlier_release_may_lie_elsewhere(project, tiny_encoder):
    assert build(project, tiny_encoder, "next", previous_path=project / "release").index_reused
    assert not build(project, tiny_encoder, previous_path=project / "nowhere").index_reused
    assert found(project / "next") == found(project / "release")


def forged(folder: Path, more: dict | None = None, change: Callable[[dict], object] = lambda manifest: None) -> Path:
    """The manifest as a well-meaning person would mend it: ``change`` is applied, and all hashes are made anew.

    Args:
        more: more files, and their hashes.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]} | (more or {})
    manifest["legs"]["dense"]["encoder"] = fingerprint(folder / "legs" / "dense" / "encoder")
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": seal(manifest)}))
    return folder


def test_vectors_of_another_model_are_refused_though_every_hash_is_right(release, tmp_path, tiny_encoder):
    folder = damaged(release, tmp_path)
    other = load_encoder(student(tiny_encoder, tmp_path / "other", "both"), "cpu")
    index = faiss.IndexFlatIP(32)
    index.add(encode(other, TEXTS, "document"))
    faiss.write_index(index, str(folder / INDEX))
    forged(folder)
    sums = sha256_file(folder / INDEX)[:12], read_manifest(folder).dense().encoder[:12]
    with pytest.raises(ArtefactError, match=rf"index\.faiss \({sums[0]}\) does not hold the vectors of encoder {sums[1]}"):
        Release(folder, "cpu")


def test_too_few_vectors_are_refused_though_every_hash_is_right(release, tmp_path):
    folder = damaged(release, tmp_path)
    index = faiss.IndexFlatIP(32)
    index.add(np.eye(4, 32, dtype=np.float32))
    faiss.write_index(index, str(folder / INDEX))
    with pytest.raises(ArtefactError, match="4 vectors, but there are 5 passages"):
        Release(forged(folder), "cpu")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "legs/../../secret", "a\\..\\b"])
def test_a_manifest_cannot_name_files_outside(release, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    folder = forged(damaged(release, tmp_path), more={name: "0" * 64})
    with pytest.raises(ArtefactError, match="leads out of the release's folder"):
        Release(folder, "cpu")


@pytest.mark.parametrize(
    "name", ["legs/dense/encoder/model.bin", "legs/dense/encoder/2_Dense/weights.PT", "code.py", "notes", ".pkl"]
)
def test_a_manifest_cannot_name_files_of_other_kinds(release, tmp_path, name):
    folder = damaged(release, tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    forged(folder, more={name: sha256_file(folder / name)})
    with pytest.raises(ArtefactError, match="is of no kind that a release holds"):
        Release(folder, "cpu")


def dense(manifest: dict) -> dict:
    return manifest["legs"]["dense"]


def an_index(leg: str, value: object) -> Callable[[dict], object]:
    """A change of a manifest: where the index of a leg is."""
    return lambda manifest: manifest["legs"][leg]["index"].update(file=value)


@pytest.mark.parametrize("leg", ["dense", "base"])
@pytest.mark.parametrize("name", ["../outside/stolen.faiss", "{absolute}", "legs/../../outside/stolen.faiss"])
def test_an_index_cannot_lie_outside(release, tmp_path, leg, name):
    (tmp_path / "outside").mkdir()
    shutil.copy(release / INDEX, tmp_path / "outside" / "stolen.faiss")
    folder = damaged(release, tmp_path)
    name = name.format(absolute=tmp_path / "outside" / "stolen.faiss")
    with pytest.raises(ArtefactError, match=f"for the index of leg '{leg}', which is none of its files"):
        Release(forged(folder, change=an_index(leg, name)), "cpu")
    shutil.rmtree(folder)
    shutil.copytree(release, folder)
    with pytest.raises(ArtefactError, match="leads out of the release's folder"):
        Release(forged(folder, more={name: "0" * 64}, change=an_index(leg, name)), "cpu")


@pytest.mark.parametrize("leg", ["dense", "base"])
def test_an_index_that_is_not_hashed_is_refused(release, tmp_path, leg):
    folder = forged(damaged(release, tmp_path), change=an_index(leg, "manifest.json"))
    with pytest.raises(ArtefactError, match=rf"'manifest\.json' for the index of leg '{leg}', which is none of its files"):
        Release(folder, "cpu")


def _without(*path: str) -> Callable[[dict], object]:
    def change(manifest: dict) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("legs", "dense"), "system 'uae' asks leg 'dense', which is missing from legs"),
        (_without("systems", "uae"), "there is no system 'uae'"),
        (_without("legs", "base", "index"), "legs.*index: Field required"),
        (an_index("dense", 3), "legs.*index.file: Input should be a valid string"),
        (lambda manifest: dense(manifest).update(kind="bm25"), "legs.*Field required"),
        (lambda manifest: dense(manifest).update(kind="x"), "leg 'dense' is of the kind 'x'; this version knows dense, bm25"),
        (lambda manifest: manifest["legs"].update(base="x"), "leg 'base' is of the kind None"),
        (lambda manifest: dense(manifest).update(future=1), "future: Extra inputs are not permitted"),
        (
            lambda manifest: manifest["systems"]["uae"]["legs"].update(base=0.5),
            "systems.uae: has the legs dense, base, and fusion does not say how they are fused",
        ),
        (lambda manifest: manifest["systems"]["uae"]["legs"].update(dense=0.0), "the weight of a leg must be a positive number"),
        (lambda manifest: manifest["systems"]["uae"].update(fusion=BY_RANKS), "leg dense alone, and fusion says how it is fused"),
        (lambda manifest: manifest["systems"]["uae"].update(fusion={"form": "x", "chosen": None}), "'scores' or 'ranks'"),
        (
            lambda manifest: manifest["systems"]["uae"].update(legs={"dense": 1.0, "base": 0.5}, fusion=BY_RANKS),
            "system 'uae' fuses legs of the kinds dense, dense, not a dense and a lexical one",
        ),
        (
            lambda manifest: manifest["systems"]["uae"].update(legs={"dense": 2.0, "bm25": 0.5}, fusion=BY_RANKS),
            "the weight of a dense leg in a fusion is 1",
        ),
        (lambda manifest: manifest["systems"]["uae"].update(legs={"bm25": 1.0}), "system 'uae' has no dense leg"),
        (lambda manifest: dense(manifest).update(passage_template="{title}"), r"must contain \{text\} exactly once"),
        (lambda manifest: dense(manifest).update(folder="legs/other"), "no file of legs/other/serving, which leg 'dense'"),
        (lambda manifest: dense(manifest).update(folder="../x"), "leads out of the release's folder"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_hold_together_is_refused_by_name(release, tmp_path, change, said):
    with pytest.raises(ArtefactError, match=said):
        Release(forged(damaged(release, tmp_path), change=change), "cpu")


@pytest.mark.parametrize("leg", ["dense", "base", "bm25"])
def test_a_leg_that_is_gone_is_named(release, tmp_path, leg):
    folder = damaged(release, tmp_path)
    shutil.rmtree(folder / "legs" / leg)
    with pytest.raises(ArtefactError, match=f"legs/{leg} is missing: the release has no leg '{leg}'"):
        Release(folder, "cpu")


def test_a_leg_of_other_passages_is_refused_though_every_hash_is_right(release, tmp_path):
    folder = damaged(release, tmp_path)
    passages = pd.read_parquet(folder / "passages.parquet")
    passages.loc[2, "text"] = "Another text, which no vector stands for."
    write_table(folder / "passages.parquet", RELEASE_PASSAGES, passages)
    with pytest.raises(ArtefactError, match=r"leg 'dense' of .* was made of other passages than passages\.parquet holds"):
        Release(forged(folder), "cpu")


@pytest.mark.parametrize("around", ["nothing", "refine", "hnsw", "quantizer"])
def test_an_index_whose_lists_lie_in_another_file_is_refused(release, tmp_path, around):
    folder = damaged(release, tmp_path)
    vectors = np.random.default_rng(0).normal(size=(80, 32)).astype(np.float32)
    index = faiss.index_factory(32, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "elsewhere"))
    index.replace_invlists(lists)
    index.add(vectors[: len(TEXTS)])
    on_disk = index  # FAISS keeps nothing alive that it is given
    if around == "refine":
        exact = faiss.IndexFlatIP(32)
        exact.add(vectors[: len(TEXTS)])
        index = faiss.IndexRefine(exact, on_disk)
    elif around == "hnsw":
        graph = faiss.IndexHNSWFlat(32, 4, faiss.METRIC_INNER_PRODUCT)
        graph.add(vectors[: len(TEXTS)])
        graph.storage, graph.own_fields = on_disk, False
        index = graph
    elif around == "quantizer":
        index = faiss.IndexIVFFlat(on_disk, 32, len(TEXTS), faiss.METRIC_INNER_PRODUCT)
    faiss.write_index(index, str(folder / INDEX))
    with pytest.raises(ArtefactError, match=r"index\.faiss takes its vectors from another file"):
        Release(forged(folder), "cpu")


@pytest.mark.parametrize(
    "metadata",
    ["", "{", "[]", "null", "3", '{"year": NaN}', '{"span": [1, -Infinity]}', '{"year": 1e999}', '{"a": ' + "[" * 100_000],
)
def test_metadata_that_are_no_json_object_are_refused_at_opening(release, tmp_path, metadata):
    folder = damaged(release, tmp_path)
    documents = read_table(folder / "documents.parquet", RELEASE_DOCUMENTS)
    documents.loc[1, "metadata"] = metadata
    write_table(folder / "documents.parquet", RELEASE_DOCUMENTS, documents)
    with pytest.raises(ArtefactError, match=r"documents\.parquet has metadata that are no JSON object .*ingest stage again"):
        Release(forged(folder), "cpu")


@pytest.mark.parametrize("name", ["passages.parquet", "legs/dense/encoder/config.json", GRAPH])
def test_a_link_out_of_the_folder_is_refused_though_the_file_is_the_right_one(release, tmp_path, name):
    folder = damaged(release, tmp_path)
    os.replace(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ArtefactError, match="leads out of the release's folder"):
        Release(folder, "cpu")


@pytest.mark.parametrize("name", ["passages.parquet", "legs/dense/encoder/config.json"])
def test_a_folder_in_the_place_of_a_file_is_refused(release, tmp_path, name):
    folder = damaged(release, tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ArtefactError, match=r"passages\.parquet is missing|the encoder of leg 'dense' is"):
        Release(folder, "cpu")


def test_a_file_too_many_is_refused(release, tmp_path):
    folder = damaged(release, tmp_path)
    (folder / "legs" / "dense" / "encoder" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"pytorch_model\.bin is no part of this release"):
        Release(folder, "cpu")


def test_the_manifest_says_what_made_the_vectors(release):
    manifest = read_manifest(release)
    dense = manifest.dense()
    assert dense.pooling == {"query": ["mean"], "document": ["mean"]}
    assert (dense.normalised, dense.dimension, dense.max_tokens) == (True, 32, 128)
    assert manifest.chunking == {"passage_words": 140}
    assert (dense.index.factory, dense.index.dtype) == ("Flat", "float32")
    assert dense.serving.backend == "onnx"
    there = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert set(manifest.files) == there - {"manifest.json"}


def test_the_base_stands_beside_the_trained_encoder(project, tiny_encoder):
    encoder = student(tiny_encoder, project / "student", "both")
    manifest = build(project, encoder, "both", base_path=tiny_encoder).manifest
    opened = Release(project / "both", "cpu")
    assert opened.systems == ("uae", "dense", "bm25", "base")
    assert manifest.dense("base").index.file == "legs/base/index.faiss"
    for system, folder in (("uae", encoder), ("base", tiny_encoder)):
        model = load_encoder(folder, "cpu")
        expected = (encode(model, [QUESTION], "query") @ encode(model, TEXTS, "document").T)[0]
        (hits,) = opened.search([QUESTION], 5, system=system)
        assert [hit.passage_id for hit in hits] == [f"p{n}" for n in np.argsort(-expected)]
    with pytest.raises(InputError, match="no system 'other'"):
        opened.encode([QUESTION], "query", "other")


def test_a_base_with_the_same_document_vectors_shares_the_index(project, tiny_encoder):
    manifest = build(project, student(tiny_encoder, project / "student", "adapter"), "shared", base_path=tiny_encoder).manifest
    assert manifest.dense("base").index.file == INDEX
    assert not (project / "shared" / "legs" / "base" / "index.faiss").exists()
    opened = Release(project / "shared", "cpu")
    assert not np.allclose(opened.encode([QUESTION], "query"), opened.encode([QUESTION], "query", "base"), atol=1e-3)


def test_where_a_graph_is_not_wanted_torch_serves(project, tiny_encoder):
    recipe = IndexRecipe(factory="Flat", recall_target=0.9, serving="torch", max_recall_loss=0.0, min_cosine=0.999)
    before = found(project / "release")
    manifest = build(project, tiny_encoder, "torch", recipe=recipe).manifest
    assert manifest.dense().serving.backend == "torch"
    assert not (project / "torch" / "legs" / "dense" / "serving").exists()
    after = found(project / "torch")
    assert [passage for passage, _ in after] == [passage for passage, _ in before]
    assert Release(project / "torch", "cpu").token_lengths([QUESTION], "query") == (
        Release(project / "release", "cpu").token_lengths([QUESTION], "query")
    )


def test_counting_tokens_leaves_the_tokenizer_of_torch_as_another_thread_needs_it(tiny_encoder):
    encoder = TorchEncoder(tiny_encoder, "cpu")
    encoder.encode([QUESTION, "fan"], "query")
    padding = encoder._encoder.tokenizer.backend_tokenizer.padding
    assert padding
    assert len(set(encoder.token_lengths([QUESTION, "fan"], "query"))) == 2
    assert encoder._encoder.tokenizer.backend_tokenizer.padding == padding


@pytest.mark.parametrize(
    ("filters", "documents"),
    [
        ({}, ["d1", "d2"]),
        ({"doc_id": "d2"}, ["d2"]),
        ({"doc_id": ["d1", "d2"], "year": {"lte": 2024}}, ["d1"]),
        ({"year": 2025.0}, ["d2"]),
        ({"year": {"gte": 2023, "lte": 2025}}, ["d1", "d2"]),
        ({"tags": "seal"}, ["d1", "d2"]),
        ({"tags": ["d1", "none"]}, ["d1"]),
        ({"year": "2025"}, []),
        ({"year": True}, []),
    ],
)
def test_filters(release, filters, documents):
    opened = Release(release, "cpu")
    (hits,) = opened.find(Queries(["fan"], opened.encode(["fan"], "query")), 5, opened.rows(filters))
    assert sorted({hit.doc_id for hit in hits}) == documents
    assert len(hits) == 3 * ("d1" in documents) + 2 * ("d2" in documents)


@pytest.mark.parametrize(
    "filters",
    [
        {"yaer": 2025}, {"year": {"gt": 1}}, {"year": {}}, {"year": {"gte": None}}, {"year": float("nan")}, {"year": [{}]},
        {"doc_id": ["d1", "\ud800"]}, {"doc_id": 3}, ["year"],
    ],
)  # fmt: skip
def test_a_malformed_filter_is_an_input_error(release, filters):
    with pytest.raises(InputError) as caught:
        Release(release, "cpu").rows(filters)
    str(caught.value).encode("utf-8")  # it can be answered, and logged


def test_min_score_and_metadata(release):
    opened = Release(release, "cpu")
    queries = Queries(["fan"], opened.encode(["fan"], "query"))
    (everything,) = opened.find(queries, 5)
    (some,) = opened.find(queries, 5, min_score=everything[1].score)
    assert some == everything[:2]
    assert everything[0].metadata["year"] == {"d1": 2023, "d2": 2025}[everything[0].doc_id]


@pytest.mark.parametrize("text", ["\ud800", "fan \udfff", "\x00", "", " \n", "é" * 5000, "\U0001f9ca"])
def test_strange_texts_are_searched(release, text):
    (hits,) = Release(release, "cpu").search([text], k=2)
    assert len(hits) == 2
    assert all(np.isfinite(hit.score) for hit in hits)


def test_what_is_no_text_is_an_input_error(release):
    opened = Release(release, "cpu")
    for texts in ([3], [None], "one text"):
        with pytest.raises(InputError):
            opened.encode(texts, "query")


HEADED = PassageTemplate("{title}: {section}\n{text}")


def test_the_index_holds_what_the_template_makes_of_a_passage_and_the_hits_the_plain_text(project, tiny_encoder):
    plain = read_manifest(project / "release")
    built = build(project, tiny_encoder, base_path=tiny_encoder, read_as=HEADED)
    templates = [manifest.dense().passage_template for manifest in (plain, built.manifest)]
    assert templates == ["{text}", HEADED.template]
    assert built.manifest.fingerprint != plain.fingerprint
    assert not built.index_reused
    encoder = load_encoder(tiny_encoder, "cpu")
    read = [f"Title {'d1' if n < 3 else 'd2'}: S\n{text}" for n, text in enumerate(TEXTS)]
    expected = encode(encoder, [QUESTION], "query") @ encode(encoder, read, "document").T
    opened = Release(project / "release", "cpu")  # which encodes a few passages anew and compares them with the index
    (hits,) = opened.search([QUESTION], k=5)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected[0], reverse=True), abs=1e-5)
    assert sorted(hit.text for hit in hits) == sorted(TEXTS)


def test_neighbouring_sentences_are_read_in_a_release_as_in_the_corpus(project, tiny_encoder):
    read_as = PassageTemplate("{before}\n{text}\n{after}")
    build(project, tiny_encoder, read_as=read_as)
    table = pd.read_parquet(project / "passages.parquet")
    expected = read_as.by_id(table)
    opened = Release(project / "release", "cpu")  # compares vectors of what it reads with the index
    assert opened.passages.read(read_as.template, range(len(TEXTS))) == [
        expected[name] for name in opened.passages.ids["passage_id"]
    ]
    assert len(expected) > len(set(expected.values()) & set(TEXTS))  # most have neighbours
    some = [len(TEXTS) - 1, 0]  # rows of their own, as a probe asks
    assert opened.passages.read(read_as.template, some) == [expected[opened.passages.ids["passage_id"][row]] for row in some]


def test_a_release_is_opened_only_with_its_own_template(project, tiny_encoder):
    build(project, tiny_encoder, read_as=HEADED)
    path = project / "release" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["legs"]["dense"]["passage_template"] = "{text}"
    path.write_text(json.dumps(manifest | {"fingerprint": seal(manifest)}))
    with pytest.raises(ArtefactError, match="was made of other passages"):
        Release(project / "release", "cpu")


def test_a_champion_is_measured_with_its_own_template(project, tiny_encoder):
    """The same encoder, once trained on headings: only the template of its manifest tells."""
    passages = read_table(project / "passages.parquet", PASSAGES)
    headings = [f"Shelf {n} of the {word} room" for n, word in enumerate(("boiler", "lamp", "tool", "chart", "rope"))]
    passages = passages.assign(text="It is on the left.", section=headings)
    asked = [
        {"question_id": f"q{n}", "text": heading, "doc_id": "", "evidence": [f"p{n}"], "source": ""}
        for n, heading in enumerate(headings)
    ]
    write_table(project / "passages.parquet", PASSAGES, passages)
    stored, measured = StoredPassages(project / "passages.parquet"), {}
    for name, template in (("plain", "{text}"), ("headed", "{section}\n{text}")):
        build(project, tiny_encoder, out=name, read_as=PassageTemplate(template))
        measured[name] = measure_release(project / name, pd.DataFrame(asked), stored, "corpus", "cpu", [1])["recall@1"].mean()
    assert measured == {"plain": 0.2, "headed": 1.0}  # equal texts tie, and the first id wins


def test_with_a_template_new_headings_are_new_vectors(project, tiny_encoder):
    build(project, tiny_encoder, read_as=HEADED)
    assert build(project, tiny_encoder, read_as=HEADED).index_reused
    _passages(project, lambda rows: rows.assign(section="Another"))
    assert not build(project, tiny_encoder, read_as=HEADED).index_reused


def test_an_index_is_not_taken_over_when_our_code_encodes_passages_in_another_way(project, tiny_encoder, monkeypatch):
    def another_way(encoder, texts, kind, progress=""):
        return encode(encoder, [text.upper() if kind == "document" else text for text in texts], kind, progress)

    assert build(project, tiny_encoder).index_reused
    monkeypatch.setattr(uae.release.build_dense, "encode", another_way)
    monkeypatch.setattr(uae.release.choose_form, "encode", another_way)
    monkeypatch.setattr(uae.release.choose_form, "open_encoder", uppercase(uae.release.choose_form.open_encoder))
    monkeypatch.setattr(uae.release.build_dense, "open_encoder", uppercase(uae.release.build_dense.open_encoder))
    assert not build(project, tiny_encoder).index_reused


def uppercase(open_encoder):
    def opened(*arguments):
        encoder = open_encoder(*arguments)
        plain = encoder.encode
        encoder.encode = lambda texts, kind: plain([text.upper() if kind == "document" else text for text in texts], kind)
        return encoder

    return opened


class Wrong:
    """An encoder that gives something else than one finite vector for each text."""

    def __init__(self, encoder, change):
        self._encoder, self._change, self.dimension = encoder, change, encoder.dimension
        self.token_lengths, self.close = encoder.token_lengths, encoder.close

    def encode(self, texts, kind):
        return self._change(self._encoder.encode(texts, kind))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda vectors: vectors[:-1], r"an array of shape \(1, 32\) for 2 texts"),
        (lambda vectors: vectors[:, :7], r"an array of shape \(2, 7\) for 2 texts"),
        (lambda vectors: np.where([[True], [False]], vectors, np.nan), "numbers that are not finite, for text 1 of 2"),
    ],
)
def test_what_is_not_one_finite_vector_for_each_text_is_an_error(release, change, said, monkeypatch):
    monkeypatch.setattr("uae.release.legs.dense._CHECKED", 1)
    opened = Release(release, "cpu")
    leg = opened._legs["dense"]
    leg._encoder = Wrong(leg._encoder, change)
    with pytest.raises(ModelError, match=said):
        opened.encode(["one", "two"], "query")


def test_a_release_is_not_built_from_vectors_that_are_not_finite(project, tiny_encoder, monkeypatch):
    def broken(encoder, texts, kind, progress=""):
        return np.full((len(texts), 32), np.nan, dtype=np.float32) if progress else encode(encoder, texts, kind)

    monkeypatch.setattr(uae.retrievers.passage_vectors, "encode", broken)
    with pytest.raises(ModelError, match="numbers that are not finite, for text 0 of 5"):
        build(project, tiny_encoder, "new")
    assert not (project / "new").exists()


def test_passages_that_the_encoder_cuts_are_counted_and_said(project, tiny_encoder, caplog):
    assert build(project, tiny_encoder).truncated == 0
    table = read_table(project / "passages.parquet", PASSAGES)
    table.loc[0, "text"] = "The seal of the door is blue and round. " * 40
    write_table(project / "passages.parquet", PASSAGES, table)
    with caplog.at_level(logging.WARNING):
        assert build(project, tiny_encoder).truncated == 1
    assert f"reads at most 128 tokens and cuts 1 of {len(table)} passages" in caplog.text
    assert "lower ingest.passage_words" in caplog.text


@pytest.mark.parametrize("serving", ["onnx", "torch"])
def test_a_release_serves_the_first_numbers_of_the_trained_vectors(release, tmp_path, tiny_encoder, serving):
    """Base beside it, whole: what was replaced is shown as it was."""
    recipe = RECIPE._replace(serving=serving, dimension=8)
    built = build(release.parent, tiny_encoder, tmp_path / "r", base_path=tiny_encoder, recipe=recipe)
    full = load_encoder(tiny_encoder, "cpu")
    query, texts = encode(full, [QUESTION], "query"), encode(full, TEXTS, "document")
    short_query, short = (part[:, :8] / np.linalg.norm(part[:, :8], axis=1, keepdims=True) for part in (query, texts))
    opened = Release(tmp_path / "r", "cpu")
    np.testing.assert_allclose(opened.encode([QUESTION], "query"), short_query, atol=1e-5)
    (hits,) = opened.search([QUESTION], k=5)
    assert [hit.score for hit in hits] == pytest.approx(sorted((short_query @ short.T)[0], reverse=True), abs=1e-5)
    np.testing.assert_allclose(opened.encode([QUESTION], "query", "base"), query, atol=1e-5)
    assert (built.manifest.legs["dense"].dimension, built.manifest.legs["base"].dimension) == (8, 32)
    assert built.manifest.dense().encoder == read_manifest(release).dense().encoder  # the same training made it
    assert built.manifest.fingerprint != read_manifest(release).fingerprint
    trained = load_encoder(built.manifest.dense().encoder_folder(tmp_path / "r"), "cpu")
    np.testing.assert_allclose(encode(trained, [QUESTION], "query"), short_query, atol=1e-6)
    (tmp_path / "r" / "legs" / "dense" / "encoder" / "served_dimension.json").unlink()
    with pytest.raises(ArtefactError, match="served_dimension"):
        Release(tmp_path / "r", "cpu")


def test_an_index_of_whole_vectors_is_not_taken_over_for_short_ones(release, tmp_path, tiny_encoder):
    first = build(release.parent, tiny_encoder, tmp_path / "r")
    short = build(release.parent, tiny_encoder, tmp_path / "r", recipe=RECIPE._replace(dimension=8))
    again = build(release.parent, tiny_encoder, tmp_path / "r", recipe=RECIPE._replace(dimension=8))
    assert (first.index_reused, short.index_reused, again.index_reused) == (False, False, True)
    assert again.manifest.fingerprint == short.manifest.fingerprint


@pytest.mark.parametrize("dimension", [33, 1000])
def test_vectors_cannot_be_longer_than_they_are(release, tmp_path, tiny_encoder, dimension):
    with pytest.raises(ConfigError, match=rf"index\.dimension: vectors of the student have 32 numbers, .* be {dimension}"):
        build(release.parent, tiny_encoder, tmp_path / "r", recipe=RECIPE._replace(dimension=dimension))
