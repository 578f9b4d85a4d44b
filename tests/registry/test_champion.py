"""The champion's answers are read where they can differ, and nowhere else."""

import pandas as pd
import pytest
from test_refresh_gate import build, champion, stored, tables  # noqa: F401

from uae.evaluation.answers import Context, Reader
from uae.evaluation.testset import rank_with
from uae.registry.champion import Answered, measure_release, metrics_of_runs, rank_release
from uae.release.manifest import read_manifest


@pytest.fixture(scope="module")
def ranked(champion):  # noqa: F811
    passages, questions = tables()
    questions["answers"] = [[f"day {n}"] for n in range(len(questions))]
    encoder = read_manifest(champion).dense().encoder_folder(champion)
    return passages, questions, rank_with(encoder, questions, passages, "document", "cpu", "")


def runs_of(questions, first, answered):
    """Runs of a candidate that ranks like ``first`` and whose answers to the first few questions have an F1 of 0.25."""
    rows = []
    for number, question in enumerate(questions["question_id"]):
        metrics = [("map", 1.0)] + ([("token_f1", 0.25), ("exact_match", 0.0)] if number < answered else [])
        rows.append({"system": "uae", "question_id": question, "passage_ids": first[question], "metrics": metrics})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_passages_that_stay_in_their_table_are_ranked_as_those_in_memory(champion, stored, ranked, scope):  # noqa: F811
    """Six documents are asked after; the others' passages are nobody's in the scope of documents."""
    passages, questions, _ = ranked
    asked, encoder = questions[::8].reset_index(drop=True), read_manifest(champion).dense().encoder_folder(champion)
    found = rank_release(champion, asked, stored(passages), scope, "cpu")
    assert dict(found) == rank_with(encoder, asked, passages, scope, "cpu", "")


def test_equal_passages_are_not_read_again(champion, stored, ranked):  # noqa: F811
    passages, questions, found = ranked
    runs = runs_of(questions, {q: ids[:2] for q, (ids, _) in found.items()}, 5)
    asked = Answered(lambda: pytest.fail("nothing differs"), Context(1, "best_first"))
    measured = measure_release(champion, questions, stored(passages), "document", "cpu", [1], runs, asked)
    assert measured["token_f1"].count() == 5
    assert measured["token_f1"].dropna().unique().tolist() == [0.25]
    assert measured["map"].count() == len(questions)


def test_other_passages_are_read(champion, stored, ranked, tiny_lm):  # noqa: F811
    """The candidate found another passage for two of the five questions that were answered, and for a sixth that was not."""
    passages, questions, found = ranked
    first = {q: ids[:2] for q, (ids, _) in found.items()}
    for number in (1, 3, 6):
        first[questions["question_id"][number]] = first[questions["question_id"][number]][::-1]
    asked = []

    class Counting(Reader):
        def answer(self, requests):
            asked.extend(requests)
            return ["day 3"] * len(requests)

    reader = Answered(lambda: Counting(tiny_lm, "cpu", "float32", 4, 4), Context(1, "best_first"))
    measured = measure_release(
        champion, questions, stored(passages), "document", "cpu", [1], runs_of(questions, first, 5), reader
    )
    texts = passages.set_index("passage_id")["text"]
    chosen = questions.iloc[[1, 3]]
    assert asked == [(row.text, [texts[found[row.question_id][0][0]]]) for row in chosen.itertuples()]
    assert measured.loc[chosen["question_id"], "token_f1"].tolist() == [0.5, 1.0]  # of "day 1" and "day 3"
    assert measured["token_f1"].count() == 5


def test_metrics_of_runs_know_what_was_not_asked():
    runs = pd.DataFrame([{"system": "uae", "question_id": "a", "metrics": [("map", 0.5), ("token_f1", 1.0)]},
                         {"system": "uae", "question_id": "b", "metrics": [("map", 0.25)]},
                         {"system": "base", "question_id": "a", "metrics": [("map", 0.0)]}])  # fmt: skip
    found = metrics_of_runs(runs, "uae")
    assert found["map"].tolist() == [0.5, 0.25]
    assert found["token_f1"].isna().tolist() == [False, True]
