"""A release that tells whether its first passage is likely to help: by the scores of both legs, whatever its fusion."""

import json
import shutil

import numpy as np
import pytest
from test_legs import FUSIONS, QUERIES, TEXTS, built, tables  # noqa: F401  # a fixture

from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.io.models import fingerprint
from uae.measures.fusion import ALONE
from uae.measures.usefulness import Usefulness
from uae.release.build import IndexRecipe, build_release
from uae.release.legs.protocol import Queries
from uae.release.manifest import read_manifest, seal
from uae.release.open import Release
from uae.retrievers.bm25_index import Bm25Index
from uae.retrievers.dense import encode, load_encoder

TOLD = Usefulness(-1.0, 0.5, 0.7)
LEAST = 0.4
SAYS = {**TOLD._asdict(), "least_probability": LEAST, "chosen": {"least_utility": 0.1}}


def telling(tables, encoder, out, fusion, says=SAYS, student=None):  # noqa: F811
    path = out.with_suffix(".json")
    write_json(path, fusion._asdict() | {"student": student or fingerprint(encoder), "chosen": None, "useful": says})
    build_release(
        documents_path=tables / "documents.parquet", passages_path=tables / "passages.parquet", questions_path=None,
        encoder_path=encoder, base_path=None, release_path=out, scope="corpus", passage_words=140, device="cpu", fusion_path=path,
        recipe=IndexRecipe(factory="Flat", recall_target=0.9, serving="torch", max_recall_loss=0.0, min_cosine=0.999),
    )  # fmt: skip
    return out


@pytest.mark.parametrize("fusion", [ALONE, FUSIONS[0], FUSIONS[2]], ids=str)
def test_the_probability_is_that_of_the_first_passages_scores(tables, tiny_encoder, tmp_path, fusion):  # noqa: F811
    opened = Release(telling(tables, tiny_encoder, tmp_path / "release", fusion), "cpu")
    encoder, index = load_encoder(tiny_encoder, "cpu"), Bm25Index.build(TEXTS)
    vectors = opened.encode(QUERIES, "query")
    answers = opened.answer(Queries(QUERIES, vectors), 3)
    assert [answer.hits for answer in answers] == opened.find(Queries(QUERIES, vectors), 3)
    for query, vector, answer in zip(QUERIES, encode(encoder, QUERIES, "query"), answers, strict=True):
        row = int(answer.hits[0].passage_id[1:])
        cosine = float(encode(encoder, [TEXTS[row]], "document")[0] @ vector)
        expected = TOLD.probability(cosine, float(index.scores(query)[row]))
        assert answer.useful_probability == pytest.approx(expected, abs=2e-3)
        assert answer.useful == (answer.useful_probability >= LEAST)
    assert len({answer.useful for answer in answers}) == 2, "all are alike: the test shows nothing"


def test_other_systems_do_not_say_and_a_filter_or_least_score_changes_what_is_first(tables, tiny_encoder, tmp_path):  # noqa: F811
    opened = Release(telling(tables, tiny_encoder, tmp_path / "release", FUSIONS[0]), "cpu")
    queries = Queries(QUERIES[:1], opened.encode(QUERIES[:1], "query"))
    for system in ("dense", "bm25"):
        assert opened.answer(queries, 3, system=system)[0][1:] == (None, None)
    (everywhere,) = opened.answer(queries, 1)
    (within,) = opened.answer(queries, 1, opened.rows({"doc_id": "d3"}))
    assert within.useful_probability < everywhere.useful_probability
    (none,) = opened.answer(queries, 1, np.empty(0, np.int64))
    assert none == ([], False, 0.0)
    (high,) = opened.answer(queries, 1, min_score=99.0)
    assert (high.hits, high.useful_probability) == ([], everywhere.useful_probability)


def test_a_release_that_says_nothing_opens_and_says_nothing(tables, tiny_encoder, tmp_path):  # noqa: F811
    release = built(tables, tiny_encoder, tmp_path / "release", FUSIONS[0])
    assert read_manifest(release).useful is None
    manifest = read_json(release / "manifest.json")
    del manifest["useful"]  # as releases of earlier versions have it
    write_json(release / "manifest.json", manifest | {"fingerprint": seal(manifest)})
    opened = Release(release, "cpu")
    (answer,) = opened.answer(Queries(QUERIES[:1], opened.encode(QUERIES[:1], "query")), 1)
    assert (len(answer.hits), answer.useful, answer.useful_probability) == (1, None, None)


def test_what_it_says_is_a_part_of_the_fingerprint_and_of_the_student(tables, tiny_encoder, tmp_path):  # noqa: F811
    first = read_manifest(telling(tables, tiny_encoder, tmp_path / "a", ALONE))
    other = read_manifest(telling(tables, tiny_encoder, tmp_path / "b", ALONE, SAYS | {"intercept": -3.0}))
    assert first.fingerprint != other.fingerprint
    assert first.files == other.files
    with pytest.raises(ArtefactError, match="run the stage fuse again"):
        telling(tables, tiny_encoder, tmp_path / "c", ALONE, student="0" * 64)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"intercept": "high"}, "useful.intercept"),
        ({"least_probability": 1.5}, "useful.least_probability"),
        ({"more": 1}, "useful.more"),
    ],
)
def test_a_damaged_one_is_refused_by_name(tables, tiny_encoder, tmp_path, damage, told):  # noqa: F811
    release = telling(tables, tiny_encoder, tmp_path / "release", ALONE)
    shutil.copy(release / "manifest.json", tmp_path / "whole.json")
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["useful"] |= damage
    write_json(release / "manifest.json", manifest | {"fingerprint": seal(manifest)})
    with pytest.raises(ArtefactError, match=told):
        Release(release, "cpu")


def test_without_a_lexical_leg_nothing_can_be_told(tables, tiny_encoder, tmp_path):  # noqa: F811
    release = telling(tables, tiny_encoder, tmp_path / "release", ALONE)
    manifest = read_json(release / "manifest.json")
    del manifest["systems"]["bm25"]
    manifest["legs"]["bm25"] = manifest["legs"]["dense"]  # a name alone makes no lexical leg
    write_json(release / "manifest.json", manifest | {"fingerprint": seal(manifest)})
    with pytest.raises(ArtefactError, match="useful needs the legs dense and bm25"):
        read_manifest(release)
    del manifest["legs"]["bm25"]
    write_json(release / "manifest.json", manifest | {"fingerprint": seal(manifest)})
    with pytest.raises(ArtefactError, match="useful needs the legs dense and bm25"):
        read_manifest(release)
