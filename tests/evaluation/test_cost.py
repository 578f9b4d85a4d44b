"""On a clock that moves only when a system works: what is timed, in which order, and what is left out."""

from functools import partial

import pandas as pd
import pytest

from uae.evaluation import cost
from uae.evaluation.cost import lexical_search, reranking, time_queries, vector_search
from uae.evaluation.rerank import rerank_by_query_likelihood
from uae.evaluation.testset import rank_with
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.release.open import Release
from uae.retrievers.lexical import Bm25, rank_bm25
from uae.teacher.engines.local import load_teacher
from uae.teacher.prompts import Template

QUESTIONS = pd.DataFrame(
    [("q1", "Where is the pump?", "d1", "line 1"), ("q2", "Where is the lift?", "d2", "line 2")],
    columns=["question_id", "text", "doc_id", "source"],
)
TEXTS = {"p1": "The pump is in the cellar.", "p2": "The lift is beside the stairs.", "p3": "A pump needs oil.", "p4": "Stairs."}
ROWS = pd.DataFrame(
    [
        {"passage_id": p, "doc_id": "d1" if p < "p3" else "d2", "title": "", "source": "d", "position": 0, "section": ""}
        | {"start": 0, "end": 1, "text": text}
        for p, text in TEXTS.items()
    ]
)


@pytest.fixture
def clock(monkeypatch):
    """``clock(name, seconds, ...)``: a system that takes so long at its first, second ... call. Its calls are in ``log``."""
    now, log = [100.0], []
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    def system(name: str, *seconds: float):
        left = list(seconds)

        def answer(question_id: str):
            log.append((name, question_id))
            now[0] += left.pop(0)

        return answer

    system.log = log
    return system


def test_the_median_without_the_first_call(clock):
    systems = {"fast": clock("fast", 50, 0.001, 0.004, 0.002), "slow": clock("slow", 90, 2, 8, 3)}
    assert time_queries(systems, ["q1", "q2", "q3"]) == {
        "fast": {"ms_per_query": pytest.approx(2), "queries": 3},
        "slow": {"ms_per_query": pytest.approx(3000), "queries": 3},
    }


def test_systems_take_turns_and_none_is_always_the_first(clock):
    time_queries({name: clock(name, *[1] * 5) for name in "abc"}, ["q1", "q2", "q3", "q4"])
    assert clock.log[:3] == [("a", "q1"), ("b", "q1"), ("c", "q1")]  # not counted
    rounds = [clock.log[start : start + 3] for start in range(3, 15, 3)]
    assert [[question for _, question in one] for one in rounds] == [[f"q{n}"] * 3 for n in range(1, 5)]
    assert ["".join(name for name, _ in one) for one in rounds] == ["abc", "bca", "cab", "abc"]


def test_nothing_to_time_is_an_error(clock):
    with pytest.raises(ValueError, match="no questions"):
        time_queries({"fast": clock("fast")}, [])


@pytest.fixture(scope="module")
def release(tiny_encoder, tmp_path_factory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    documents = [
        {"doc_id": d, "source": d, "title": d, "version": "", "text": "", "sections": [], "metadata": "{}"} for d in ("d1", "d2")
    ]
    write_table(folder / "documents.parquet", DOCUMENTS, documents)
    write_table(folder / "passages.parquet", PASSAGES, ROWS)
    tables = (folder / "documents.parquet", folder / "passages.parquet", None)
    recipe = IndexRecipe(factory="Flat", recall_target=0.95, serving="onnx", max_recall_loss=0, min_cosine=0.999)
    build_release(*tables, tiny_encoder, None, folder / "release", recipe, "document", 140, "cpu")
    return Release(folder / "release", "cpu")


@pytest.mark.parametrize(("scope", "k"), [("document", 1), ("document", 9), ("corpus", 3)])
def test_vector_search_finds_what_the_evaluation_ranks(release, tiny_encoder, scope, k):
    search = vector_search(release, QUESTIONS, scope, k)
    ranked = rank_with(tiny_encoder, QUESTIONS, ROWS, scope, "cpu", "")
    for question_id, (ids, _) in ranked.items():
        (hits,) = search(question_id)
        assert [hit.passage_id for hit in hits] == ids[:k]


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_lexical_search_finds_what_the_evaluation_ranks(scope):
    search = lexical_search(Bm25(ROWS), QUESTIONS, scope, 2)
    assert {q: search(q) for q in QUESTIONS["question_id"]} == rank_bm25(QUESTIONS, ROWS, scope, 2)


def test_a_re_ranker_is_handed_one_question_at_a_time():
    rankings = {"q1": (["p1", "p2"], [1.0, 0.5]), "q2": (["p3", "p4"], [1.0, 0.5])}
    handed = []
    answer = reranking(handed.append, rankings)
    answer("q2")
    answer("q1")
    assert handed == [{"q2": rankings["q2"]}, {"q1": rankings["q1"]}]


def test_all_of_them_together(release, tiny_lm):
    teacher = load_teacher(tiny_lm, "f" * 64, "cpu", "float32", 512, 1024, False)
    template = Template("Passage: {passage}\n\n", "A question that it answers:", " {answer}")
    rerank = partial(rerank_by_query_likelihood, questions=QUESTIONS, passages=ROWS, teacher=teacher, template=template, top=2)
    rankings = {"q1": (["p1", "p2"], [1.0, 0.5]), "q2": (["p3", "p4"], [1.0, 0.5])}
    found = time_queries(
        {
            "vectors": vector_search(release, QUESTIONS, "document", 2),
            "bm25": lexical_search(Bm25(ROWS), QUESTIONS, "document", 2),
            "query_likelihood": reranking(rerank, rankings),
        },
        ["q1", "q2"],
    )
    assert {name: of["queries"] for name, of in found.items()} == {"vectors": 2, "bm25": 2, "query_likelihood": 2}
    assert all(of["ms_per_query"] > 0 for of in found.values())
