"""A release with a lexical leg: what its systems find, and what is refused."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest

from uae.io.errors import ArtefactError, InputError
from uae.io.files import sha256_file, write_json
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.measures.fusion import RANKS, SCORES, Fusion, fuse
from uae.measures.ranking import rank
from uae.release.build import IndexRecipe, build_release
from uae.release.legs import fused as fused_legs
from uae.release.legs.protocol import Queries
from uae.release.manifest import read_manifest, seal
from uae.release.open import Release
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.lexical import rank_bm25

WORDS = ["anchor", "bell", "chain", "deck", "engine", "flag", "gauge", "hatch", "iron", "jib", "keel", "lamp"]
_random = np.random.default_rng(7)
TEXTS = [" ".join(_random.choice(WORDS, size=_random.integers(3, 9))) for _ in range(300)]
QUERIES = [
    "anchor chain",
    "bell of the deck",
    "iron keel and lamp",
    "engine",
    "nothing of this is there",
    "the of and",
    "jib jib flag",
]
FUSIONS = [Fusion(SCORES, 0.4), Fusion(SCORES, 3.0), Fusion(RANKS, 1.0), Fusion(RANKS, 0.5)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    blank = {"version": "", "text": "", "sections": [], "metadata": "{}"}
    documents = [{"doc_id": f"d{n}", "source": f"d{n}.md", "title": f"Ship {n}"} | blank for n in range(10)]
    passages = [
        {"passage_id": f"p{n:03}", "doc_id": f"d{n % 10}", "title": f"Ship {n % 10}", "source": f"d{n % 10}.md"}
        | {"position": n, "section": "", "start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    return root


def built(tables: Path, encoder: Path, out: Path, fusion: Fusion | None, student: str | None = None) -> Path:
    path = None
    if fusion is not None:
        path = out.with_suffix(".json")
        write_json(path, fusion._asdict() | {"student": student or fingerprint(encoder), "chosen": None})
    build_release(
        documents_path=tables / "documents.parquet", passages_path=tables / "passages.parquet", questions_path=None,
        encoder_path=encoder, base_path=None, release_path=out, scope="corpus", passage_words=140, device="cpu", fusion_path=path,
        recipe=IndexRecipe(factory="Flat", recall_target=0.9, serving="torch", max_recall_loss=0.0, min_cosine=0.999),
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def releases(tables, tiny_encoder, tmp_path_factory) -> dict[Fusion, Path]:
    root = tmp_path_factory.mktemp("releases")
    return {fusion: built(tables, tiny_encoder, root / str(n), fusion) for n, fusion in enumerate(FUSIONS)}


@pytest.fixture(scope="module")
def exact(tables, tiny_encoder):
    """Whole rankings by both legs, in a scope, as the evaluation has them."""
    passages = pd.read_parquet(tables / "passages.parquet")
    encoder = load_encoder(tiny_encoder, "cpu")
    asked, found = encode(encoder, QUERIES, "query"), encode(encoder, TEXTS, "document")

    def ranked(doc_id: str):
        scope = "document" if doc_id else "corpus"
        ids = [f"q{n}" for n in range(len(QUERIES))]
        questions = pd.DataFrame({"question_id": ids, "text": QUERIES, "doc_id": doc_id, "source": "s"})
        dense = {one.question_id: (one.passage_ids, one.scores) for one in rank(questions, passages, asked, found, scope)}
        return dense, rank_bm25(questions, passages, scope, None)

    return ranked


@pytest.mark.parametrize("first", [1, 64])
@pytest.mark.parametrize("doc_id", ["", "d3"])
@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_what_is_served_is_what_the_evaluation_ranks(releases, exact, monkeypatch, fusion, doc_id, first):
    """The evaluation ranks every passage. The service looks at as few as it can, with however few it begins."""
    monkeypatch.setattr(fused_legs, "_FIRST", first)
    opened = Release(releases[fusion], "cpu")
    expected = fuse(*exact(doc_id), fusion)
    for k in (1, 10, 25):
        for (ids, scores), hits in zip(expected.values(), opened.search(QUERIES, k, doc_id or None), strict=True):
            assert [hit.score for hit in hits] == pytest.approx(scores[: len(hits)], abs=1e-6)
            assert len(hits) == min(k, len(ids))
            near = {passage for passage, score in zip(ids, scores, strict=True) if score >= scores[len(hits) - 1] - 1e-6}
            assert {hit.passage_id for hit in hits} <= near
            assert hits[0].passage_id == ids[0] or scores[0] - scores[1] < 1e-6


def test_equal_passages_stand_by_id(tables, tiny_encoder, tmp_path):
    shutil.copytree(tables, tmp_path / "twins")
    passages = pd.read_parquet(tmp_path / "twins" / "passages.parquet").assign(text="anchor chain")
    write_table(tmp_path / "twins" / "passages.parquet", PASSAGES, passages)
    for fusion in (Fusion(SCORES, 0.5), Fusion(RANKS, 1.0)):
        folder = built(tmp_path / "twins", tiny_encoder, tmp_path / fusion.form, fusion)
        for system in ("uae", "dense", "bm25"):
            (hits,) = Release(folder, "cpu").search(["anchor"], 5, system=system)
            assert [hit.passage_id for hit in hits] == [f"p{n:03}" for n in range(5)], (fusion, system)


def test_each_system_says_what_its_scores_are(releases):
    opened = Release(releases[FUSIONS[0]], "cpu")
    assert opened.systems == ("uae", "dense", "bm25")
    said = {system: opened.score(system) for system in opened.systems}
    assert said == {"uae": "cosine + 0.4 * bm25 / highest bm25", "dense": "cosine", "bm25": "bm25"}
    assert Release(releases[FUSIONS[2]], "cpu").score() == "1 / (60 + rank by cosine) + 1 / (60 + rank by bm25)"
    assert [opened.has_vectors(system) for system in opened.systems] == [True, True, False]
    assert (opened.encode(["bell"], "query") == opened.encode(["bell"], "query", "dense")).all()
    with pytest.raises(InputError, match=r"system 'bm25' .* has no vectors"):
        opened.encode(["bell"], "query", "bm25")


def test_bm25_finds_words_and_nothing_else(releases, exact):
    opened = Release(releases[FUSIONS[0]], "cpu")
    found = opened.search(QUERIES, 300, system="bm25")
    for (ids, scores), hits in zip(exact("")[1].values(), found, strict=True):
        some = [score for score in scores if score > 0]
        assert ([hit.passage_id for hit in hits], [hit.score for hit in hits]) == (
            ids[: len(some)],
            pytest.approx(some, rel=1e-6),
        )
    assert found[4] == found[5] == []  # no passage shares a word with these


def test_the_least_score_is_one_of_the_systems_own(releases):
    opened = Release(releases[FUSIONS[1]], "cpu")
    for system in opened.systems:
        (everything,) = opened.search(["anchor chain"], 20, system=system)
        vectors = opened.encode(["anchor chain"], "query", system) if opened.has_vectors(system) else None
        queries = Queries(["anchor chain"], vectors)
        (some,) = opened.find(queries, 20, min_score=everything[4].score, system=system)
        assert some == [hit for hit in everything if hit.score >= everything[4].score]


def test_without_weight_the_promoted_system_is_the_dense_leg(tables, tiny_encoder, tmp_path):
    for fusion in (None, Fusion(SCORES, 0.0)):
        opened = Release(built(tables, tiny_encoder, tmp_path / f"{fusion}", fusion), "cpu")
        assert opened.score() == "cosine"
        assert opened.search(QUERIES, 5) == opened.search(QUERIES, 5, system="dense")
        assert opened.systems == ("uae", "dense", "bm25")


def test_a_weight_of_another_encoder_is_refused(tables, tiny_encoder, tmp_path):
    with pytest.raises(ArtefactError, match=r"was chosen for the encoder abc, and .* run the stage fuse again"):
        built(tables, tiny_encoder, tmp_path / "release", FUSIONS[0], student="abc")
    assert not (tmp_path / "release").exists()


def test_passages_without_any_word_make_a_release(tables, tiny_encoder, tmp_path):
    shutil.copytree(tables, tmp_path / "marks")
    passages = pd.read_parquet(tmp_path / "marks" / "passages.parquet").assign(text="... !")
    write_table(tmp_path / "marks" / "passages.parquet", PASSAGES, passages)
    opened = Release(built(tmp_path / "marks", tiny_encoder, tmp_path / "release", FUSIONS[0]), "cpu")
    assert opened.search(["bell"], 3, system="bm25") == [[]]
    assert len(opened.search(["bell"], 3)[0]) == 3


def forged(release: Path, folder: Path, change) -> Path:
    """A release whose hashes are all right, whatever was done to its files."""
    shutil.copytree(release, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(folder, manifest)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest["files"] = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    write_json(folder / "manifest.json", manifest | {"fingerprint": seal(manifest)})
    return folder


def rewritten(name: str, change):
    def of(folder: Path, manifest: dict) -> None:
        path = folder / "legs" / "bm25" / f"{name}.csc.index.npy"
        values = np.load(path)
        np.save(path, change(values))

    return of


def _other_words(folder: Path, manifest: dict) -> None:
    path = folder / "legs" / "bm25" / "vocab.index.json"
    vocabulary = json.loads(path.read_text())
    vocabulary["bell"], vocabulary["deck"] = vocabulary["deck"], vocabulary["bell"]
    path.write_text(json.dumps(vocabulary))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewritten("data", lambda values: values * 2), "does not hold the words of its passages"),
        (rewritten("data", lambda values: values * np.nan), "a score is no number of 0 or more"),
        (rewritten("indices", lambda values: values + 300), "name texts that there are not"),
        (rewritten("indptr", lambda values: values[::-1]), "its lists do not fit together"),
        (rewritten("data", lambda values: values[:-1]), "its lists do not fit together"),
        (rewritten("data", lambda values: values.astype(object)), "holds no BM25 index"),
        (_other_words, "does not hold the words of its passages"),
        (lambda folder, manifest: manifest["legs"]["bm25"].update(analyser="letters"), "words from another analyser"),
        (lambda folder, manifest: manifest["legs"]["bm25"].update(read_texts="0" * 64), "was built over other passages"),
        (lambda folder, manifest: shutil.rmtree(folder / "legs" / "bm25"), "legs/bm25 is missing|names no file of legs/bm25"),
        (lambda folder, manifest: (folder / "legs" / "bm25" / "data.csc.index.npy").unlink(), "holds no BM25 index"),
    ],
)
def test_a_lexical_leg_that_is_damaged_or_of_other_passages_is_refused_by_name(releases, tmp_path, change, said, mapped):
    with pytest.raises(ArtefactError, match=said):
        Release(forged(releases[FUSIONS[0]], tmp_path / "forged", change), "cpu", mapped=mapped)


def test_an_array_with_objects_is_never_unpickled(releases, tmp_path):
    """np.load would run what a pickle says: bm25s is told not to allow it."""
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (mark,))

    def poison(folder: Path, manifest: dict) -> None:
        np.save(folder / "legs" / "bm25" / "data.csc.index.npy", np.array([Evil()], dtype=object), allow_pickle=True)

    with pytest.raises(ArtefactError, match="holds no BM25 index"):
        Release(forged(releases[FUSIONS[0]], tmp_path / "forged", poison), "cpu")
    assert not mark.exists()


def test_the_fingerprint_covers_the_weight_and_the_words(releases):
    manifests = [read_manifest(folder) for folder in releases.values()]
    assert len({manifest.fingerprint for manifest in manifests}) == len(FUSIONS)
    assert [manifest.fusion() for manifest in manifests] == FUSIONS
    index = faiss.read_index(str(releases[FUSIONS[0]] / "legs" / "dense" / "index.faiss"))
    assert index.ntotal == len(TEXTS)
