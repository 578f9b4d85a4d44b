"""From which scores on a first passage helps: what it is learnt from, that it is calibrated, and what is left unsaid."""

import math

import numpy as np
import pandas as pd
import pytest
from small_training import AGGREGATION, changed

from uae.io.files import read_json
from uae.measures.fusion import ALONE, SCORES, Aligned, Fusion
from uae.measures.usefulness import Usefulness
from uae.pipeline.settings import load_settings
from uae.training import usefulness
from uae.training.data import TrainingData
from uae.training.fusion import FusionTerms, choose_fusion
from uae.training.usefulness import First, UsefulTerms, beyond_chance, calibrate, first_passage, foreign_documents, without

TERMS = UsefulTerms(0.1, 0.6)


def test_worked_out_by_hand():
    told = Usefulness(-2.0, 3.0, 0.5)
    assert told.probability(0.5, math.e - 1) == pytest.approx(1 / (1 + math.exp(2 - 1.5 - 0.5)))
    assert told.probability(0.5, math.e - 1) == pytest.approx(0.5)
    assert Usefulness(1e4, 0, 0).probability(0, 0) == 1.0
    assert Usefulness(-1e4, 0, 0).probability(0, 0) == 0.0


def drawn(number: int, seed: int, useful_by_cosine=8.0) -> list[First]:
    random = np.random.default_rng(seed)
    cosines, words = random.uniform(0, 1, number), random.uniform(0, 20, number)
    likely = 1 / (1 + np.exp(-(useful_by_cosine * (cosines - 0.5) + np.log1p(words) - 2)))
    utilities = np.where(random.uniform(size=number) < likely, 1.0, 0.1)  # 0.1 is no more than the least
    return [First(float(c), float(w), float(u)) for c, w, u in zip(cosines, words, utilities, strict=True)]


def test_what_it_says_comes_true():
    """Fitted to some and asked about others of the same kind: of those with a probability of about p, a share of p is useful."""
    found = calibrate(drawn(3000, 1), [], *TERMS)
    assert found["least_probability"] == 0.6
    assert (found["chosen"]["questions"], found["chosen"]["foreign"], found["chosen"]["least_utility"]) == (3000, 0, 0.1)
    assert (found["cosine"], found["bm25"]) == (pytest.approx(8.0, abs=0.8), pytest.approx(1.0, abs=0.2))
    told, others = Usefulness(found["intercept"], found["cosine"], found["bm25"]), drawn(6000, 2)
    likely = np.array([told.probability(first.cosine, first.bm25) for first in others])
    useful = np.array([first.utility > 0.1 for first in others])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        some = (likely >= low) & (likely < low + 0.2)
        assert useful[some].mean() == pytest.approx(likely[some].mean(), abs=0.06)


def test_both_parts_count_alike_and_what_nobody_judged_is_useless_elsewhere():
    own = [First(0.8, 5.0, 1.0)] * 40 + [First(0.8, 5.0, 0.0)] * 10
    foreign = [First(0.8, 5.0, None)] * 500
    found = calibrate([*own, First(0.1, 0.0, None)], foreign, *TERMS)
    told = Usefulness(found["intercept"], found["cosine"], found["bm25"])
    assert told.probability(0.8, 5.0) == pytest.approx(0.4, abs=0.01)  # 0.8 of one half
    assert {name: found["chosen"][name] for name in ("questions", "useful", "foreign")} == {
        "questions": 50, "useful": 40, "foreign": 500,
    }  # fmt: skip
    judged = calibrate(own, [First(0.8, 5.0, 3.0)] * 50, *TERMS)
    assert Usefulness(*(judged[name] for name in Usefulness._fields)).probability(0.8, 5.0) == pytest.approx(0.9, abs=0.01)


def test_of_too_few_of_one_kind_nothing_is_learnt_and_a_warning_says_so(caplog):
    own = [First(0.8, 5.0, 1.0)] * 9 + [First(0.1, 0.0, 0.0)] * 90
    assert calibrate(own, [], *TERMS) is None
    assert "9 of 99 first passages are useful" in caplog.text
    assert "useful.least_utility" in caplog.text
    assert calibrate([*own, own[0]], [], *TERMS) is not None


RANKED = Aligned(np.array(["a", "b", "c"], dtype=object), np.array([0.9, 0.5, 0.1]), np.array([0.0, 2.0, 4.0]))


def test_the_first_passage_is_that_of_the_fusion_and_its_scores_are_absolute():
    assert first_passage(RANKED, ALONE, {"b": 1.5}, False) == First(0.9, 0.0, None)
    assert first_passage(RANKED, ALONE, {"b": 1.5, "c": 0.0}, True) == First(0.5, 2.0, 1.5)
    assert first_passage(RANKED, Fusion(SCORES, 2.0), {"c": 0.25}, True) == First(0.1, 4.0, 0.25)
    assert first_passage(RANKED, ALONE, {}, True) is None
    assert without(RANKED._replace(ids=np.array([4, 7, 9])), np.array([2, 4])).ids.tolist() == [7, 9]


def test_a_foreign_document_is_never_the_own_one_and_always_the_same():
    questions = pd.DataFrame({"question_id": [f"q{n}" for n in range(60)], "doc_id": [f"d{n % 3}" for n in range(60)]})
    passages = pd.DataFrame({"doc_id": ["d0", "d1", "d1", "d2", "d3"]})
    found = foreign_documents(questions, passages)
    assert (found != questions["doc_id"]).all()
    assert set(found) == {"d0", "d1", "d2", "d3"}
    assert foreign_documents(questions.sample(frac=1, random_state=1), passages).sort_index().equals(found)
    assert foreign_documents(questions.assign(doc_id="d0"), passages[:1]).empty


@pytest.mark.parametrize("scope", ["document", "corpus"])
@pytest.mark.parametrize(("form", "weight"), [("none", None), ("scores", 0.5), ("auto", None)])
def test_the_stage_says_it_of_every_fusion(labelled, tiny_encoder, monkeypatch, scope, form, weight):
    """Four validation questions, each judged on six passages of which one helps by 2.67 nats per token."""
    monkeypatch.setattr(usefulness, "_LEAST", 1)
    seen = []

    def noted(own, foreign, *terms):
        seen.append((own, foreign))
        return calibrate(own, foreign, *terms)

    monkeypatch.setattr("uae.training.fusion.calibrate", noted)
    names = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    data = TrainingData.read(*(labelled / name for name in names), AGGREGATION)
    for useful in (None, TERMS):
        found = choose_fusion(
            data, tiny_encoder, tiny_encoder, labelled / "fusion.json", FusionTerms(form, weight, 0, None, useful), changed(),
            0.5, scope, "cpu", 1,
        )  # fmt: skip
        assert read_json(labelled / "fusion.json") == found
        if useful is None:
            assert found["useful"] is None
    ((own, foreign),) = seen
    assert (len(own), len(foreign)) == (4, 4)
    assert all(first.utility is not None for first in own)
    assert (found["useful"] is None) == (scope == "corpus")  # over the whole corpus none of these first passages is useful
    if scope == "document":
        assert found["useful"]["chosen"]["foreign"] == 4


def test_what_helps_no_more_than_chance_is_not_useful(labelled, tiny_encoder, monkeypatch):
    """Ten were drawn by chance, with utilities of 0 to 9: nine in ten stay below 8.1."""
    pairs = pd.DataFrame({"question_id": [f"q{n}" for n in range(12)], "passage_id": "p", "utility": [*range(10), 50.0, 60.0]})
    candidates = pairs[["question_id", "passage_id"]].assign(source=["random"] * 10 + ["dense", "gold"])
    assert beyond_chance(pairs, candidates) == pytest.approx(8.1)
    assert beyond_chance(pairs.assign(utility=-1.0), candidates) == 0.0
    assert beyond_chance(pairs, candidates.assign(source="dense")) is None
    monkeypatch.setattr(usefulness, "_LEAST", 1)
    names = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    data = TrainingData.read(*(labelled / name for name in names), AGGREGATION)
    useless = data.candidates["passage_id"] != data.candidates["question_id"].str.replace("q", "p")
    for source, expected in (("random", 0.0), ("dense", None)):
        data.candidates.loc[useless, "source"] = source
        terms = FusionTerms("none", None, 0, None, UsefulTerms(None, 0.5))
        monkeypatch.setattr("uae.training.fusion.calibrate", lambda own, foreign, least, probability: {"least": least})
        found = choose_fusion(data, tiny_encoder, tiny_encoder, labelled / "f.json", terms, changed(), 0.5, "document", "cpu", 1)[
            "useful"
        ]
        assert found == (None if expected is None else {"least": expected})


def test_it_can_be_turned_off():
    assert load_settings("params.yaml").useful.least_utility == "chance"
    assert load_settings("params.yaml", ["useful.least_utility=0.3"]).useful.least_utility == 0.3
    assert load_settings("params.yaml", ["useful.least_utility=null"]).useful.least_utility is None
