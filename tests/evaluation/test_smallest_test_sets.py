"""The smallest legal settings and test sets give defined results: no NaN, no words of scipy or numpy."""

import json
import re
import warnings
from dataclasses import replace

import pytest

from uae.evaluation.contexts import Answering
from uae.evaluation.evaluate import Inputs, Written, evaluate
from uae.evaluation.llm import LlmTerms
from uae.io.errors import ArtefactError
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, RUNS, read_table, write_table
from uae.measures.statistics import Resampling
from uae.release.build import IndexRecipe, build_release
from uae.teacher.asking import Asked
from uae.teacher.engines.local import load_teacher
from uae.teacher.prompts import Template
from uae.validation.trained_on import write_trained_on

TEMPLATE = Template("{passage}\n", "{question}\n", " {answer}")
TEXTS = [f"Valve {n} of the pump is opened on day {n}, and closed again after {n + 2} hours." for n in range(12)]


def questions_of(documents, answers=("an answer",)):
    """One question for each of the given documents, by its number; each has the document's second passage as evidence."""
    return [
        {"question_id": f"q{n}", "text": f"When is valve {n} opened?", "answers": list(answers), "doc_id": f"d{doc}"}
        | {"evidence": [f"p{doc * 4 + 1:02}"], "split": "test", "origin": "human", "source": f"q{n}"}
        for n, doc in enumerate(documents)
    ]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, tiny_encoder, tiny_lm):
    """Three documents of four passages each, in a release whose student is the base encoder itself."""
    root = tmp_path_factory.mktemp("smallest")
    documents, passages = [], []
    for doc in range(3):
        documents.append({"doc_id": f"d{doc}", "source": f"d{doc}", "title": "T", "text": "", "sections": []})
        documents[-1] |= {"version": "", "metadata": "{}"}
        passages += [
            {
                "passage_id": f"p{n:02}",
                "doc_id": f"d{doc}",
                "position": n % 4,
                "section": "",
                "start": 0,
                "end": 1,
                "text": TEXTS[n],
            }
            | {name: "" for name in PASSAGES.names if name in ("title", "source")}
            for n in range(doc * 4, doc * 4 + 4)
        ]
    write_table(root / "documents.parquet", DOCUMENTS, documents)
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_table(root / "questions.parquet", QUESTIONS, questions_of([0, 1, 2]))
    paths = {f"{name}_path": root / f"{name}.parquet" for name in ("documents", "passages", "questions")}
    recipe = IndexRecipe(factory="Flat", recall_target=1.0, serving="torch", max_recall_loss=1.0, min_cosine=0.0)
    build_release(
        **paths, encoder_path=tiny_encoder, base_path=None, release_path=root / "release", recipe=recipe, scope="document",
        passage_words=140, device="cpu",
    )  # fmt: skip
    questions = read_table(root / "questions.parquet", QUESTIONS).assign(split="train")
    write_trained_on(root / "trained_on.parquet", questions, read_table(root / "passages.parquet", PASSAGES))
    build_release(
        **paths, encoder_path=tiny_encoder, base_path=None, release_path=root / "trained", recipe=recipe, scope="document",
        passage_words=140, device="cpu", trained_on_path=root / "trained_on.parquet",
    )  # fmt: skip
    (root / "training.csv").write_text("step,train_loss,validation_ndcg\n1,2.0,\n")
    return root


def llm_terms(lm, folder, **changes) -> LlmTerms:
    found = fingerprint(lm)
    teacher = Asked(
        name="main", fingerprint=found, method="answer_likelihood", grades=(), weight=1.0, templates=(TEMPLATE,),
        check_templates=(), open=lambda: load_teacher(lm, found, "cpu", "float32", None, None, compile=False),
    )  # fmt: skip
    terms = LlmTerms(
        questions=1, top_k=2, window=2, timed_queries=1, reranker_path=lm, reranker_fingerprint=found,
        query_template=Template("{passage}\n", "", " {answer}"), device="cpu", dtype="float32", teacher=teacher,
        held_out=replace(teacher, name="held out"), answers_per_question=1,
        aggregation={"answers": "mean", "templates": "mean"}, store_path=folder / "judgements", readings_per_part=1000,
    )  # fmt: skip
    return replace(terms, **changes)


@pytest.fixture
def evaluated(tables, tiny_encoder, tiny_lm, tmp_path):
    """What the stage returns for these questions and settings, with warnings of numpy and scipy as errors."""

    def run(questions, scope="document", cutoffs=(1,), reader_questions=1, llm=None, release="release"):
        write_table(tmp_path / "questions.parquet", QUESTIONS, questions)
        inputs = Inputs(
            passages=tables / "passages.parquet", questions=tmp_path / "questions.parquet", base=tiny_encoder,
            release=tables / release, rivals={}, readers={"reader": tiny_lm}, training_curve=tables / "training.csv",
        )  # fmt: skip
        names = {"evaluation": "e.json", "cost": "c.json", "page": "e.html", "runs": "r.parquet", "curve": "c.csv"}
        written = Written(**{name: tmp_path / file for name, file in names.items()})
        terms = None if llm is None else llm_terms(tiny_lm, tmp_path, **llm)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            answering = Answering([1], ["best_first"], reader_questions, 0, 1, 1)
            return evaluate(inputs, written, scope, cutoffs, answering, Resampling(0.95, 100, 1), terms, "cpu", "float32")

    return run


@pytest.mark.parametrize("scope", ["document", "corpus"])
@pytest.mark.parametrize("documents", [[0], [0, 0], [0, 1], [0, 0, 1]], ids=["one", "one document", "one each", "two documents"])
def test_a_small_test_set_has_defined_figures(evaluated, tmp_path, documents, scope):
    evaluation = evaluated(questions_of(documents), scope)
    assert json.loads((tmp_path / "e.json").read_text())["systems"]["uae"]["recall@1"]["questions"] == len(documents)
    gain = evaluation["gains"]["uae"]["map"]
    assert gain["p_value"] == 1  # base and student are one model
    two_documents = documents == [0, 0, 1]
    assert evaluation["intervals"]["over"] == ("documents" if two_documents else "questions")
    assert ("by_document" in gain) is two_documents
    page = (tmp_path / "e.html").read_text()
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert ("Only 1 question: nothing can be said from it" in page) is (documents == [0])
    assert len(read_table(tmp_path / "r.parquet", RUNS)) == 5 * len(documents)


@pytest.mark.parametrize(
    "changes",
    [{}, {"timed_queries": 0}, {"held_out": None}, {"top_k": 1}, {"questions": 3, "top_k": 1}],
    ids=["one", "untimed", "no held-out", "top 1", "three by top 1"],
)
def test_one_question_may_be_all_that_an_llm_is_asked(evaluated, tmp_path, changes):
    evaluation = evaluated(questions_of([0, 1, 2, 2]), llm=changes)
    asked = changes.get("questions", 1)
    assert evaluation["systems"]["rerank_list"]["map"]["questions"] == asked
    assert evaluation["systems"]["ceiling"]["map"]["questions"] == asked
    for teacher in evaluation["held_out"]["teachers"]:
        assert 0 <= teacher["gain"]["p_value"] <= 1
    json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)


def test_where_no_question_has_an_answer_retrieval_alone_is_measured(evaluated, tmp_path):
    evaluation = evaluated(questions_of([0, 1], answers=()), llm={})
    assert evaluation["counts"]["answered_questions"] == 0
    assert "token_f1" not in evaluation["systems"]["uae"]
    assert "rerank_list" not in evaluation["systems"]


def test_a_test_set_without_evidence_is_one_clear_error(evaluated):
    with pytest.raises(ArtefactError, match="no test question with evidence"):
        evaluated([question | {"evidence": []} for question in questions_of([0])])


def test_a_release_is_not_evaluated_on_what_it_was_trained_on(evaluated, tmp_path):
    with pytest.raises(ArtefactError, match=r"release [0-9a-f]{12} was trained on .*3 questions: 'When is valve 0"):
        evaluated(questions_of([0, 1, 2]), "corpus", release="trained")
    assert not (tmp_path / "e.json").exists()
