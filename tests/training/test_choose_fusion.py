"""How BM25 joins the student: which questions choose, of which student, and what comes of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from uae.io.models import fingerprint
from uae.io.tables import PASSAGES, write_table
from uae.measures.fusion import SCORES
from uae.measures.row_rankings import RowRankings
from uae.text.passage_template import TEXT_ALONE
from uae.text.stored_passages import StoredPassages
from uae.training import asking_students
from uae.training import fusion as stage
from uae.training.examples import Example
from uae.training.fusion import FusionTerms, choose_fusion, folds, utility_ndcg


def example(document: str) -> Example:
    nothing: frozenset[str] = frozenset()
    return Example("q", document, ("a", "b"), (1.0, 0.0), nothing, nothing, nothing)


def test_a_fold_holds_whole_documents_and_each_question_once():
    train = {f"q{n}": example(f"d{n % 4}") for n in range(12)}
    parts = list(folds(train, 3))
    assert len(parts) == 3
    assert sorted(key for _, held in parts for key in held) == sorted(train)
    for seen, held in parts:
        assert not {train[key].document for key in held} & {row.document for row in seen.values()}


@pytest.mark.parametrize(("documents", "number", "made"), [(2, 3, 2), (1, 3, 0), (5, 0, 0), (5, 5, 5)])
def test_there_are_no_more_folds_than_documents(documents, number, made):
    train = {f"q{n}": example(f"d{n % documents}") for n in range(10)}
    assert len(list(folds(train, number))) == made


def test_questions_of_no_document_are_documents_by_themselves():
    assert len(list(folds({f"q{n}": example("") for n in range(4)}, 4))) == 4


def test_utilities_below_zero_gain_nothing():
    judged = {"q": pd.DataFrame({"passage_id": ["a", "b", "c"], "utility": [2.0, -5.0, 1.0]})}
    of = utility_ndcg(judged)
    assert of({"q": ["a", "c", "b"]})["q"] == 1.0
    assert of({"q": ["b", "c", "a"]})["q"] == pytest.approx((1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3)))
    assert of({"q": ["a", "c"]})["q"] == 1.0  # what is not ranked stands last
    assert utility_ndcg({"q": judged["q"].assign(utility=-1.0)})({"q": ["a"]}).empty


IN_TWO = FusionTerms("auto", None, 2)


class Data:
    """What the stage asks of ``TrainingData``. "near" is what encoders rank first; "words" shares words with the questions."""

    def __init__(self, folder: Path, evidence: dict[str, list[str]]):
        rows = [(f"t{n}", "train", f"d{n}") for n in range(4)] + [("v", "validation", "d9"), ("x", "test", "d8")]
        self.questions = pd.DataFrame(rows, columns=["question_id", "split", "doc_id"]).assign(text="the red lamp", source="s")
        self.questions["evidence"] = [evidence.get(key, []) for key in self.questions["question_id"]]
        row = {"doc_id": "d", "title": "", "source": "d", "section": "", "position": 0, "start": 0, "end": 1}
        rows = [row | {"passage_id": "near", "text": "wick and oil"}, row | {"passage_id": "words", "text": "red lamp"}]
        write_table(folder / "passages.parquet", PASSAGES, rows)
        self.stored, self.read_as = StoredPassages(folder / "passages.parquet"), TEXT_ALONE
        self.passages = self.corpus = None  # nobody needs all texts

    def pairs(self) -> pd.DataFrame:
        asked = self.questions[self.questions["split"] != "test"]
        both = asked.merge(self.stored.ids[["passage_id"]], how="cross")
        return both.assign(utility=np.where(both["passage_id"] == "words", 1.0, -1.0))

    def by_split(self, pairs, options):
        rows = self.questions.set_index("question_id")
        return {
            split: {key: example(rows["doc_id"][key]) for key in rows.index[rows["split"] == split]}
            for split in ("train", "validation")
        }


@pytest.fixture
def choose(tmp_path, monkeypatch, tiny_encoder):
    """The stage over ``Data``, with students that are not fitted; ``asked`` says which student ranked which questions."""
    fitted, asked, dimensions = [], [], []

    def fit(parts, base, student, *rest, added):
        fitted.append(set(parts["train"]))
        student.mkdir(parents=True)

    def ranked(student, words, questions, passages, scope, progress, texts):
        asked.append((student.encoder.folder.name, set(questions["question_id"])))
        dimensions.append(student.encoder.truncate_dim)
        dense = RowRankings(words.table, {key: (np.arange(2), np.array([0.5, 0.3])) for key in questions["question_id"]})
        return dense, words.beside(dense)

    monkeypatch.setattr(stage, "fit", fit)
    monkeypatch.setattr(stage, "identity", lambda parts, *rest, added: "-".join(sorted(parts["train"])))
    monkeypatch.setattr(asking_students, "rank_beside", ranked)
    monkeypatch.setattr(
        stage,
        "open_dense",
        lambda folder, device, vectors, dimension: SimpleNamespace(
            encoder=SimpleNamespace(folder=folder, truncate_dim=dimension)
        ),
    )

    def run(evidence=None, terms=IN_TWO):
        found = choose_fusion(
            Data(tmp_path, evidence or {}), base_path=tiny_encoder, student_path=tiny_encoder,
            fusion_path=tmp_path / "fusion.json", terms=terms, options=SimpleNamespace(lexical_weight=0.0),
            teacher_temperature=1.0, scope="corpus", device="cpu", seed=13,
        )  # fmt: skip
        assert json.loads((tmp_path / "fusion.json").read_text()) == found
        assert set(dimensions) <= {terms.dimension}
        return found, fitted, asked

    return run


EVERYWHERE = {key: ["words"] for key in ("t0", "t1", "t2", "t3", "v", "x")}


def test_no_student_is_asked_about_what_it_was_fitted_to_and_no_test_question_at_all(choose, tiny_encoder):
    found, fitted, asked = choose(EVERYWHERE)
    assert asked[0] == (tiny_encoder.name, {"v"})
    assert len(fitted) == 2
    for seen, (_, questions) in zip(fitted, asked[1:], strict=True):
        assert seen | questions == {"t0", "t1", "t2", "t3"}
        assert not seen & questions
    assert found["chosen"]["questions"] == 5
    assert found["chosen"]["folds"] == 2
    assert found["student"] == fingerprint(tiny_encoder)


def test_where_words_tell_bm25_joins_with_the_least_weight_that_is_best(choose):
    """0.3 + w > 0.5 from a weight of 0.3 on."""
    found, _, _ = choose(EVERYWHERE)
    assert (found["form"], found["weight"], found["chosen"]["value"], found["chosen"]["measure"]) == (SCORES, 0.3, 1.0, "map")


def test_where_words_mislead_the_student_stays_alone(choose):
    found, _, _ = choose({key: ["near"] for key in EVERYWHERE})
    assert (found["weight"], found["chosen"]["value"]) == (0.0, 1.0)


def test_without_evidence_utilities_choose(choose):
    found, _, _ = choose({})
    assert (found["form"], found["weight"], found["chosen"]["measure"]) == (SCORES, 0.3, "utility_ndcg")


def test_without_folds_the_validation_questions_alone_choose(choose):
    found, fitted, asked = choose(EVERYWHERE, FusionTerms("auto", None, 0))
    assert (fitted, len(asked), found["chosen"]["questions"]) == ([], 1, 1)


def test_where_nobody_can_choose_the_student_stays_alone_and_it_is_said(choose, caplog):
    found, _, _ = choose({"t0": ["words"]}, FusionTerms("auto", None, 0))
    assert (found["weight"], found["chosen"]) == (0.0, None)
    assert "no labelled question could choose" in caplog.text


def test_where_no_passage_helps_utilities_cannot_choose(choose, monkeypatch, caplog):
    pairs = Data.pairs
    monkeypatch.setattr(Data, "pairs", lambda self: pairs(self).assign(utility=-1.0))
    found, _, _ = choose({})
    assert (found["weight"], found["chosen"]) == (0.0, None)
    assert "no labelled question could choose" in caplog.text


@pytest.mark.parametrize(
    ("terms", "form", "weight"),
    [
        (FusionTerms("none", None, 3), SCORES, 0.0),
        (FusionTerms("ranks", 2.0, 3), "ranks", 2.0),
        (FusionTerms("scores", 0.7, 3), SCORES, 0.7),
    ],
)
def test_what_is_given_is_taken_and_nobody_is_asked(choose, terms, form, weight):
    found, fitted, asked = choose(EVERYWHERE, terms)
    assert (found["form"], found["weight"], found["chosen"], fitted, asked) == (form, weight, None, [], [])


def test_students_are_asked_by_the_numbers_that_the_release_will_serve(choose):
    _, _, asked = choose(EVERYWHERE, FusionTerms("auto", None, 2, dimension=16))
    assert len(asked) == 3  # ``choose`` has looked at the dimension of each


def test_one_form_can_be_asked_for(choose):
    found, _, _ = choose(EVERYWHERE, FusionTerms("ranks", None, 0))
    assert found["form"] == "ranks"
    assert {tried["form"] for tried in found["chosen"]["tried"]} == {"ranks"}
