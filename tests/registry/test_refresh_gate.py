"""The refresh lane's gate: two releases of one encoder, asked as a service asks them."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from uae.io.errors import ArtefactError
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, write_table
from uae.registry.compared import SHARED
from uae.registry.gate import Bounds
from uae.registry.refresh_gate import HeldOut, _Served, decide_refresh, decide_second_stages, decide_since_trained
from uae.release.build import IndexRecipe, SecondStageRecipe, build_release
from uae.text.stored_passages import StoredPassages

BOUNDS = Bounds(
    metric="map", min_gain=0.0, guarded=("recall@1", "token_f1"), max_loss=0.02, great_loss=0.05,
    max_answer_loss=0.1, max_slowdown=None, confidence=0.95, error_budget=0.05, recent_documents=10,
    min_cosine=0.9, max_serving_loss=0.02, max_index_loss=0.05,
)  # fmt: skip
DOCS = 12


def tables(change=None, more=0, lost=()):
    """Twelve documents of four passages; each is asked after by its own words. ``change`` edits a passage's text."""
    passages, questions = [], []
    for doc in [n for n in range(DOCS + more) if n not in lost]:
        for part in range(4):
            text = f"Document {doc} says that valve {doc * 7 + part} of pump {part} is checked on day {doc + 3 * part}."
            text = change(doc, part, text) if change else text
            passages.append(
                {"passage_id": f"p{doc}.{part}", "doc_id": f"d{doc}", "title": "T", "source": f"{doc}.md", "position": part}
                | {"section": "", "start": 0, "end": len(text), "text": text}
            )
            if doc < DOCS:
                asked = {"question_id": f"q{doc}.{part}", "text": text[:60], "answers": [], "doc_id": f"d{doc}", "split": "test"}
                questions.append(asked | {"evidence": [f"p{doc}.{part}"], "origin": "human", "source": "s"})
    return pd.DataFrame(passages), pd.DataFrame(questions)


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_encoder):
    def make(passages: pd.DataFrame, questions: pd.DataFrame, second: SecondStageRecipe | None = None) -> Path:
        root = tmp_path_factory.mktemp("refresh")
        sources = passages[["doc_id", "source", "title"]].drop_duplicates().to_dict("records")
        documents = [each | {"version": "", "text": "", "sections": [], "metadata": "{}"} for each in sources]
        write_table(root / "documents.parquet", DOCUMENTS, documents)
        write_table(root / "passages.parquet", PASSAGES, passages)
        write_table(root / "questions.parquet", QUESTIONS, questions)
        names = {f"{name}_path": root / f"{name}.parquet" for name in ("documents", "passages", "questions")}
        recipe = IndexRecipe(factory="Flat", recall_target=1.0, serving="onnx", max_recall_loss=0.0, min_cosine=0.999)
        build_release(
            **names, encoder_path=tiny_encoder, base_path=None, release_path=root / "release", recipe=recipe, scope="document",
            passage_words=140, device="cpu", second_stage=second,
        )  # fmt: skip
        return root / "release"

    return make


@pytest.fixture(scope="module")
def champion(build):
    return build(*tables())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Passages in a table of their own."""

    def store(passages: pd.DataFrame) -> StoredPassages:
        path = tmp_path_factory.mktemp("stored") / "passages.parquet"
        write_table(path, PASSAGES, passages)
        return StoredPassages(path)

    return store


@pytest.fixture(scope="module")
def decide(stored):
    def told(candidate, champion, passages, questions, scope="document", **bounds):
        held_out = HeldOut(questions, stored(passages), scope, "cpu")
        return decide_refresh(candidate, champion, "version 3", held_out, replace(BOUNDS, **bounds))

    return told


def test_a_release_is_searched_for_the_texts_of_the_evidence_alone(champion):
    """Of a million passages those of the questions' evidence are kept, and a text stands wherever it stands last."""
    passages, questions = tables()
    text = passages["text"][9]
    served = _Served(champion, {text, "of no passage"})
    assert (served.size, served.doc_of) == (48, {"p2.1": "d2"})
    evidence = served.evidence(questions.iloc[[9]], {"p2.1": ("2.md", text)})
    assert evidence == served.evidence(questions.iloc[[9]], {"p2.1": ("moved.md", text)}) == {"q2.1": ["p2.1"]}
    assert served.evidence(questions.iloc[[9]], {"p2.1": ("2.md", "of no passage")}) == {}


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_the_same_corpus_is_not_worse(decide, champion, scope):
    decision = decide(champion, champion, *tables(), scope)
    assert decision.passed
    assert [(finding.on, finding.metric, finding.questions, finding.difference) for finding in decision.findings] == [
        (SHARED, "map", 48, 0.0),
        (SHARED, "recall@1", 48, 0.0),
    ]


def test_questions_whose_evidence_was_edited_or_deleted_are_left_out_and_told(decide, build, champion):
    """One edited passage, one deleted document with its questions, new documents beside them."""
    now = tables(lambda doc, part, text: text.replace("checked", "oiled") if (doc, part) == (2, 1) else text, more=3, lost=(5,))
    decision = decide(build(*now), champion, *now)
    assert decision.findings[0].questions == 43  # of 48: four went with document 5, one is asked of new words
    assert "1 questions are left out: their evidence is not in version 3, word for word" in decision.reasons


def test_a_renamed_document_is_still_compared(decide, build, champion):
    passages, questions = tables()
    passages.loc[passages["doc_id"] == "d4", ["source", "doc_id"]] = ["moved.md", "other"]
    questions.loc[questions["doc_id"] == "d4", "doc_id"] = "other"
    decision = decide(build(passages, questions), champion, passages, questions)
    assert (decision.passed, decision.findings[0].questions) == (True, 48)


def test_a_corpus_that_hides_what_was_found_is_refused(decide, build, champion):
    """Each document says each of its sentences twice more, a word apart: what was first is now one of three."""
    passages, questions = tables()
    copies = [passages.assign(passage_id=passages["passage_id"] + mark, text=passages["text"].str.replace("checked", word))
              for mark, word in (("b", "inspected"), ("c", "looked after"))]  # fmt: skip
    questions["text"] = questions["text"].str[:45]
    before = decide(champion, champion, passages, questions).findings[0].candidate
    worse = pd.concat([passages, *copies])
    decision = decide(build(worse, questions), champion, worse, questions)
    assert not decision.passed
    assert decision.findings[0].candidate < before - 0.1
    assert decide(build(worse, questions), champion, worse, questions, max_loss=1.0).passed


def test_many_small_losses_are_a_great_one(stored, build, champion):
    """Four documents say their sentences twice more: less than all of them, and more than refreshes may lose together."""
    passages, questions = tables()
    questions["text"] = questions["text"].str[:45]
    some = passages[passages["doc_id"].isin(["d0", "d1", "d2", "d3"])]
    copies = [some.assign(passage_id=some["passage_id"] + mark, text=some["text"].str.replace("checked", word))
              for mark, word in (("b", "inspected"), ("c", "looked after"))]  # fmt: skip
    worse = pd.concat([passages, *copies])
    held_out, served = HeldOut(questions, stored(worse), "document", "cpu"), build(worse, questions)
    assert decide_refresh(served, served, "version 9", held_out, BOUNDS).passed  # the last step changed nothing
    decision = decide_since_trained(served, champion, "version 1", held_out, BOUNDS)
    assert not decision.passed
    assert decision.reasons[-1].startswith("refreshes have lost that much since the encoder was trained")
    assert decide_since_trained(served, champion, "version 1", held_out, replace(BOUNDS, great_loss=1.0)).passed


def test_nothing_in_common_is_for_a_person_to_decide(decide, stored, build, champion):
    now = tables(lambda doc, part, text: f"Now {text}")
    decision = decide(build(*now), champion, *now)
    assert not decision.passed
    assert decision.reasons[0].startswith("no test question can be answered by both: the evidence of all 48 changed")
    passages, questions = now
    held_out = HeldOut(questions, stored(passages), "document", "cpu")
    since = decide_since_trained(build(*now), champion, "version 1", held_out, BOUNDS)
    assert since.passed
    assert "changed since version 1: nothing to compare" in since.reasons[0]


def test_a_release_of_other_tables_is_refused(decide, champion):
    now = tables(lambda doc, part, text: f"Now {text}")
    with pytest.raises(ArtefactError, match=r"does not hold the evidence of 48 test questions, such as q0\.0"):
        decide(champion, champion, *now)


def test_a_release_that_differs_by_its_second_stage_alone_may_not_lose_by_that(stored, build, champion, tiny_cross_encoder):
    """With a weight of 0 a random cross-encoder orders the passages; with a large one they stay as they are found first."""
    now = tables()
    recipe = SecondStageRecipe(tiny_cross_encoder, 4, 1e5, "torch", 0.0, 1.0)
    good, bad = (build(*now, recipe._replace(weight=weight)) for weight in (1e5, 0.0))
    held_out = HeldOut(now[1], stored(now[0]), "document", "cpu")
    (refused,) = decide_second_stages(bad, good, "version 3", held_out, BOUNDS)
    assert not refused.passed
    assert "of the second stage of version 3" in refused.reasons[0]
    assert decide_refresh(bad, good, "version 3", held_out, BOUNDS).passed  # what is found first is the same
    (kept,) = decide_second_stages(good, good, "version 3", held_out, BOUNDS)
    assert kept.passed
    cut_anew = tables(lambda doc, part, text: f"Now {text}")
    of_now = HeldOut(cut_anew[1], stored(cut_anew[0]), "document", "cpu")
    (nothing,) = decide_second_stages(build(*cut_anew, recipe), good, "version 3", of_now, BOUNDS)
    assert nothing.passed  # the promoted systems' own comparison decides
    assert nothing.reasons == ["second stages are not compared: the evidence of all 48 test questions changed since version 3"]
    assert decide_second_stages(champion, good, "version 3", held_out, BOUNDS) == []
    assert decide_second_stages(good, champion, "version 3", held_out, BOUNDS) == []
