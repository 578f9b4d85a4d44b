"""A release finds what it should and refuses parts that do not belong together."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from uae.encoding import encode, load_encoder
from uae.errors import ArtefactError, ConfigError, InputError
from uae.index.release import Release, build_index, build_release, read_manifest
from uae.tables import DOCUMENTS, PASSAGES, write_table

TEXTS = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "The fan is silent.", "Call Lunde first."]


@pytest.fixture(scope="module")
def release(tmp_path_factory, tiny_encoder) -> Path:
    root = tmp_path_factory.mktemp("release")
    blank = {"version": "", "text": "", "sections": [], "metadata": "{}"}
    documents = [{"doc_id": d, "source": d, "title": f"Title {d}"} | blank for d in ("d1", "d2")]
    passages = [
        {"passage_id": f"p{n}", "doc_id": "d1" if n < 3 else "d2", "position": n, "section": "S"}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    build_release(root / "documents.parquet", root / "passages.parquet", tiny_encoder, root / "release", "Flat", "cpu")
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
    source = release.parent
    again = build_release(source / "documents.parquet", source / "passages.parquet", tiny_encoder, tmp_path / "r", "Flat", "cpu")
    assert again["fingerprint"] == read_manifest(release)["fingerprint"]


@pytest.mark.parametrize("name", ["index.faiss", "passages.parquet", "documents.parquet"])
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
    weights = folder / "encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"the encoder is [0-9a-f]{12}, but the index was built with [0-9a-f]{12}"):
        Release(folder, "cpu")


def test_index_of_another_release_is_refused(release, tmp_path):
    folder = damaged(release, tmp_path)
    other = faiss.IndexFlatIP(32)
    other.add(np.eye(5, 32, dtype=np.float32))
    faiss.write_index(other, str(folder / "index.faiss"))
    with pytest.raises(ArtefactError, match=r"index\.faiss"):
        Release(folder, "cpu")


def test_edited_manifest_is_refused(release, tmp_path):
    folder = damaged(release, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["max_tokens"] = 7
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="was changed after it was written"):
        Release(folder, "cpu")


@pytest.mark.parametrize("factory", ["HNSW8", "IVF2,Flat", "SQ8"])
def test_other_index_kinds_search_and_filter(factory):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = build_index(vectors, factory)
    _, rows = index.search(vectors[:20], 1)
    assert (rows[:, 0] == np.arange(20)).mean() > 0.7


@pytest.mark.parametrize("factory", ["Nonsense", "IVF4096,Flat"])
def test_impossible_factory_is_a_clear_error(factory):
    with pytest.raises(ConfigError, match=f"index.factory: FAISS cannot build '{factory}'"):
        build_index(np.eye(8, dtype=np.float32), factory)
