"""A release of an earlier format opens, under its own fingerprint; one of an unknown format says what to do."""

import json
import shutil
from pathlib import Path

import pytest
from old_formats import write_format_2, write_format_3

from uae.io.errors import ArtefactError, InputError
from uae.io.files import sha256_file
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import BuiltRelease, IndexRecipe, build_release
from uae.release.manifest import read_manifest, seal, system_names
from uae.release.migrations import FORMAT
from uae.release.open import Release
from uae.release.store import ReleaseStore

TEXTS = ["The gate is shut at dusk.", "Two keys open the shed.", "The well is deep.", "Rain fills the tank."]


def build(tables: Path, encoder: Path, out: Path, **more: Path) -> BuiltRelease:
    recipe = IndexRecipe(factory="Flat", recall_target=0.9, serving="torch", max_recall_loss=0.0, min_cosine=0.999)
    return build_release(
        documents_path=tables / "documents.parquet", passages_path=tables / "passages.parquet", questions_path=None,
        encoder_path=encoder, base_path=encoder, release_path=out, recipe=recipe, scope="corpus", passage_words=140,
        device="cpu", **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def present(tmp_path_factory, tiny_encoder) -> Path:
    """A release of today's format. Encoder and base are the same, so that they share an index."""
    root = tmp_path_factory.mktemp("present")
    document = {"doc_id": "d", "source": "yard.md", "title": "Yard", "version": "", "text": "", "sections": [], "metadata": "{}"}
    passages = [
        {"passage_id": f"p{n}", "doc_id": "d", "title": "Yard", "source": "yard.md", "position": n, "section": ""}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, [document])
    write_table(root / "passages.parquet", PASSAGES, passages)
    build(root, tiny_encoder, root / "release")
    return root / "release"


@pytest.fixture
def old(present, tmp_path) -> Path:
    return write_format_2(present, tmp_path / "old")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_format_2_opens_and_answers_as_it_did(present, old):
    before = contents(old)
    fingerprint = json.loads((old / "manifest.json").read_text())["fingerprint"]
    opened = Release(old, "cpu")
    assert (opened.fingerprint, opened.systems, opened.passage_count) == (fingerprint, ("uae", "base"), len(TEXTS))
    today = Release(present, "cpu")
    for system in opened.systems:
        hits, expected = (each.search(["Where are the keys?"], 4, system=system)[0] for each in (opened, today))
        assert hits == expected
    assert opened.search(["rain"], 1)[0][0].source == "yard.md"
    assert contents(old) == before  # migrated in memory alone


def test_format_2_is_installed_activated_and_rolled_back_to(present, old, tmp_path):
    store = ReleaseStore(tmp_path / "store")
    fingerprints = [store.install(folder, None) for folder in (old, present)]
    for fingerprint in fingerprints:
        store.activate(fingerprint)
    assert store.rollback() == fingerprints[0]
    assert Release(store.active().folder, "cpu").fingerprint == fingerprints[0]


@pytest.mark.parametrize("name", ["index.faiss", "passages.parquet", "encoder/model.safetensors", "base/encoder/config.json"])
def test_a_damaged_release_of_format_2_is_refused_by_name(old, name):
    content = (old / name).read_bytes()
    (old / name).write_bytes(content[:-1] + b"x")
    with pytest.raises(ArtefactError, match="was built with"):
        read_manifest(old)
    (old / name).unlink()
    with pytest.raises(ArtefactError, match=r"is missing|leg 'dense' of .* has no encoder|the encoder of leg 'base' is"):
        read_manifest(old)


def test_an_edited_manifest_of_format_2_is_refused(old):
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"probe": 0.0}))
    with pytest.raises(ArtefactError, match="was changed after it was written"):
        read_manifest(old)


def test_an_index_of_format_2_is_built_anew(present, old, tiny_encoder, tmp_path):
    """Its manifest does not say enough of what made it."""
    built = build(present.parent, tiny_encoder, tmp_path / "next", previous_path=old)
    assert not built.index_reused
    assert build(present.parent, tiny_encoder, tmp_path / "after", previous_path=tmp_path / "next").index_reused


def resealed(folder: Path, **changes: object) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": seal(manifest)}))
    return folder


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (FORMAT + 1, f"format {FORMAT + 1} is newer than this version of uae, which reads formats up to {FORMAT}. Update uae"),
        (1, rf"format 1 is unknown; this version reads the formats 2, 3, {FORMAT}\. build the release again \(uae index\)"),
        ("3", "format '3' is unknown"),
        (None, "format None is unknown"),
        (True, "format True is unknown"),
        ([4], r"format \[4\] is unknown"),
    ],
)
def test_an_unknown_format_says_what_to_do(present, tmp_path, number, said):
    folder = resealed(shutil.copytree(present, tmp_path / "release"), format=number)
    with pytest.raises(ArtefactError, match=said):
        read_manifest(folder)


def test_what_is_only_called_format_2_is_refused(present, tmp_path):
    folder = resealed(shutil.copytree(present, tmp_path / "release"), format=2)
    with pytest.raises(ArtefactError, match=r"manifest\.json is not of format 2"):
        read_manifest(folder)


def test_format_3_opens_and_answers_as_it_did(present, tmp_path):
    """It has no lexical leg: it is asked by the names that it had."""
    old = write_format_3(present, tmp_path / "three")
    before = contents(old)
    opened, today = Release(old, "cpu"), Release(present, "cpu")
    assert opened.systems == ("uae", "base")
    assert opened.fingerprint == json.loads((old / "manifest.json").read_text())["fingerprint"] != today.fingerprint
    for system in opened.systems:
        assert opened.search([TEXTS[1]], 4, system=system) == today.search([TEXTS[1]], 4, system=system)
        assert opened.score(system) == "cosine"
    with pytest.raises(InputError, match="no system 'bm25'; it has uae, base"):
        opened.search(["keys"], 4, system="bm25")
    assert contents(old) == before


def test_a_list_of_releases_names_the_systems_of_each_that_can_be_read(present, old, tmp_path):
    """A damaged one does not keep the others from being listed."""
    assert system_names(present) == ("uae", "dense", "bm25", "base")
    assert system_names(old) == ("uae", "base")
    for number, content in enumerate(("{", "[]", '{"format": 4}', '{"format": [4]}', None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        if content is not None:
            (folder / "manifest.json").write_text(content)
        assert system_names(folder) == ()
