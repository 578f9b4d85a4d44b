"""A release whose texts and indexes stay in files is the release that has them in memory."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uae.io.errors import ArtefactError
from uae.io.files import write_json
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.release.open import Release
from uae.release.passages import Passages

TEXTS = ["The seal is torn.", "Keys hang in the lodge.", "Ice forms on the fan.", "The fan is silent.", "Call Lunde first."]
TEMPLATES = ["{text}", "{title}\n{section}\n{text}", "{before} {text} {after}"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    root = tmp_path_factory.mktemp("mapped")
    documents = [
        {"doc_id": name, "source": f"{name}.md", "title": f"Title {name}", "version": "", "text": "", "sections": []}
        | {"metadata": f'{{"year": {year}}}'}
        for name, year in (("d1", 2023), ("d2", 2025))
    ]
    passages = [
        {"passage_id": f"p{9 - n}", "doc_id": "d1" if n < 3 else "d2", "title": "", "source": "", "position": n % 3}
        | {"section": "S", "start": n, "end": n + len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_json(root / "fusion.json", {"form": "scores", "weight": 0.4, "student": fingerprint(tiny_encoder), "chosen": None})
    build_release(
        documents_path=root / "documents.parquet", passages_path=root / "passages.parquet", questions_path=None,
        encoder_path=tiny_encoder, base_path=tiny_encoder, release_path=root / "release", scope="corpus", passage_words=140,
        device="cpu", fusion_path=root / "fusion.json",
        recipe=IndexRecipe(factory="HNSW8", recall_target=0.9, serving="torch", max_recall_loss=0.0, min_cosine=0.9),
    )  # fmt: skip
    return root / "release"


def test_it_finds_the_same(release: Path) -> None:
    kept, mapped = Release(release, "cpu"), Release(release, "cpu", mapped=True)
    for system in kept.systems:
        for doc_id in (None, "d2"):
            found = mapped.search(["torn seal", "fan", "nobody"], 5, doc_id, system)
            assert any(found)
            assert found == kept.search(["torn seal", "fan", "nobody"], 5, doc_id, system)
            mapped.drop_pages()
    assert list(mapped.texts()) == list(kept.texts())
    mapped.close()


@pytest.mark.parametrize("template", TEMPLATES)
def test_it_reads_the_same(release: Path, template: str) -> None:
    kept, mapped = Passages(release, mapped=False), Passages(release)
    assert mapped.read_hash(template) == kept.read_hash(template)
    assert list(mapped.read_all(template)) == kept.read(template, range(len(TEXTS)))
    assert mapped.read(template, [4, 0]) == kept.read(template, [4, 0])
    assert mapped.ids.astype(str).equals(kept.ids.astype(str))
    assert list(mapped.sources()) == list(kept.sources()) == ["d1.md"] * 3 + ["d2.md"] * 2
    assert np.array_equal(mapped.places, kept.places)
    for filters in ({"year": {"gte": 2024}}, {"source": "d1.md"}):
        assert np.array_equal(mapped.rows(filters), kept.rows(filters))


def test_its_files_have_no_name(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = Passages(release)
    assert not list(tmp_path.iterdir())
    assert opened.hit(0, 1.0).text == TEXTS[0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _without_a_column(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(table.column_names[0]), path)


def _without_documents(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, table.field(1), pa.array(["d7"] * len(table))), path)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, r"passages\.parquet does not exist: build the release again"),
        (_cut, r"passages\.parquet is damaged .*: build the release again"),
        (_without_a_column, r"passages\.parquet has not the columns of a release"),
        (_without_documents, "passages of document 'd7', documents.parquet has it not"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    release: Path, tmp_path: Path, change: Callable[[Path], None], said: str, mapped: bool
) -> None:
    folder = shutil.copytree(release, tmp_path / "release")
    change(folder / "passages.parquet")
    with pytest.raises(ArtefactError, match=said):
        Passages(folder, mapped)


def test_a_row_that_lacks_something_is_refused(release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(release, tmp_path / "release")
    table = pq.read_table(folder / "passages.parquet")
    lacking = pa.array([None, *TEXTS[1:]], pa.string())
    at = table.column_names.index("text")
    pq.write_table(table.set_column(at, pa.field("text", pa.string()), lacking), folder / "passages.parquet")
    with pytest.raises(ArtefactError, match=r"passages\.parquet has rows without text"):
        Passages(folder)
