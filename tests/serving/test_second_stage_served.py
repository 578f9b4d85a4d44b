"""A release with a second stage, served: it is asked by a name of its own, and nobody else's answers change."""

from pathlib import Path

import pytest

from uae.release.build import IndexRecipe, SecondStageRecipe, build_release
from uae.release.open import Release

QUESTION = "Where are the keys?"


@pytest.fixture(scope="module")
def reranked(release, tiny_encoder, tiny_cross_encoder, tmp_path_factory) -> Path:
    """The served release with a second stage."""
    folder, tables = tmp_path_factory.mktemp("reranked") / "release", release.parent
    build_release(
        documents_path=tables / "documents.parquet", passages_path=tables / "passages.parquet", questions_path=None,
        encoder_path=tiny_encoder, base_path=None, release_path=folder, scope="corpus", passage_words=140, device="cpu",
        recipe=IndexRecipe(factory="Flat", recall_target=0.95, serving="torch", max_recall_loss=0.5, min_cosine=0.5),
        second_stage=SecondStageRecipe(tiny_cross_encoder, 4, 1.0, "onnx", 0.9, 1.0),
    )  # fmt: skip
    return folder


def test_it_is_listed_and_re_ranks_only_who_asks_for_it(serve, reranked):
    client, opened = serve(release=reranked), Release(reranked, "cpu")
    listed = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    assert listed["uae_reranked"]["score_is"] == "second stage + 1 * (cosine)"
    assert listed["uae"]["score_is"] == "cosine"
    for system in ("uae", "uae_reranked"):
        body = {"query": [QUESTION, "ice"], "k": 3} | ({"system": system} if system != "uae" else {})
        reply = client.post("/v1/search", json=body)
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert (found["system"], found["score_is"]) == (system, listed[system]["score_is"])
        for result, hits in zip(found["results"], opened.search([QUESTION, "ice"], 3, system=system), strict=True):
            assert [passage["passage_id"] for passage in result["passages"]] == [hit.passage_id for hit in hits]
            assert [passage["score"] for passage in result["passages"]] == pytest.approx([hit.score for hit in hits], abs=1e-4)
    opened.close()


@pytest.mark.parametrize(("system", "sizes"), [("uae_reranked", [2] * 10), ("uae", [20])])
def test_a_long_request_is_re_ranked_some_queries_at_a_time(serve, reranked, monkeypatch, system, sizes):
    """Others have their turn between two parts, and where the client has gone the next one is not begun."""
    asked, opened, answer = [], Release(reranked, "cpu"), Release.answer

    def counted(self, queries, *arguments):
        asked.append(len(queries.texts))
        return answer(self, queries, *arguments)

    client = serve(release=reranked, batch_texts=8)  # as many pairs at a time
    monkeypatch.setattr(Release, "answer", counted)
    queries = [f"{QUESTION} {number}" for number in range(20)]
    results = client.post("/v1/search", json={"query": queries, "k": 3, "system": system}).json()["results"]
    assert asked == sizes
    assert [result["query"] for result in results] == queries
    for result, hits in zip(results, opened.search(queries, 3, system=system), strict=True):
        assert [passage["passage_id"] for passage in result["passages"]] == [hit.passage_id for hit in hits]
    opened.close()


def test_min_score_and_filters_are_of_its_own_scores(serve, reranked):
    client, opened = serve(release=reranked), Release(reranked, "cpu")
    (hits,) = opened.search([QUESTION], 3, "d1", "uae_reranked")
    opened.close()
    least = (hits[0].score + hits[1].score) / 2
    body = {"query": QUESTION, "k": 3, "system": "uae_reranked", "filters": {"doc_id": "d1"}, "min_score": least}
    (result,) = client.post("/v1/search", json=body).json()["results"]
    assert [passage["passage_id"] for passage in result["passages"]] == [hits[0].passage_id]
