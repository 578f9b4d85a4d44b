"""A budget of readings: no more are asked for than it allows, new questions first, and what is left adds up and waits."""

import pandas as pd
import pytest
from labelling import CHECK, TEMPLATE, CountingTeacher, asking, run, tables, write_corpus

from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.teacher.manifest import read_label_manifest
from uae.teacher.quality.report import report_labels
from uae.teacher.store import LabelStore
from uae.training.examples import labelled_pairs

QUESTIONS_, PER_QUESTION = 12, 6
ALL = QUESTIONS_ * (PER_QUESTION + 1)  # and a reading without any passage each
AGGREGATION = {"answers": "mean", "templates": "mean", "teachers": "none"}


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path, QUESTIONS_, PER_QUESTION)
    return tmp_path


def adds_up(counts) -> bool:
    parts = ("stored_before", "adopted", "asked_now", "waiting")
    return counts["readings_wanted"] == sum(counts[f"readings_{part}"] for part in parts)


def pairs_to_train_on(folder):
    candidates, passages, questions = (
        read_table(path, schema) for path, schema in zip(tables(folder).values(), (CANDIDATES, PASSAGES, QUESTIONS), strict=True)
    )
    return labelled_pairs(candidates, passages, questions, [folder / "labels"], folder / "labels.json", AGGREGATION)


def test_runs_spend_the_budget_until_nothing_waits_and_ask_nothing_twice(folder):
    teacher = CountingTeacher()
    left = ALL
    while left:
        counts = run(folder, asking(teacher), budget=30)
        left -= counts["readings_asked_now"]
        assert counts["readings_asked_now"] == min(30, left + counts["readings_asked_now"])
        assert (counts["readings_waiting"], adds_up(counts)) == (left, True)
        assert read_label_manifest(folder / "labels.json").waiting == left
    assert len(teacher.asked) == len({pair.key for pair in teacher.asked}) == ALL
    assert run(folder, asking(teacher), budget=30)["readings_asked_now"] == 0


def test_the_store_holds_what_it_would_without_a_budget(folder):
    for _ in range(3):
        run(folder, asking(CountingTeacher()), budget=30)
    run(folder, asking(CountingTeacher()), store="at_once")
    keys = [LabelStore(folder / name).keys() for name in ("labels", "at_once")]
    assert keys[0] == keys[1]


def test_new_questions_come_first(folder):
    run(folder, asking(CountingTeacher()))
    candidates, questions = (
        read_table(folder / f"{name}.parquet", schema) for name, schema in (("candidates", CANDIDATES), ("questions", QUESTIONS))
    )
    new = candidates[candidates["question_id"] == "q00"].assign(question_id="q99")
    more = candidates[candidates["question_id"] != "q00"].drop_duplicates("question_id").assign(passage_id="p11")
    known = set(candidates[["question_id", "passage_id"]].itertuples(index=False, name=None))
    more = more[[pair not in known for pair in more[["question_id", "passage_id"]].itertuples(index=False, name=None)]]
    asked = questions[questions["question_id"] == "q00"].assign(question_id="q99", text="What is new?")
    write_table(folder / "candidates.parquet", CANDIDATES, pd.concat([candidates, more, new]))
    write_table(folder / "questions.parquet", QUESTIONS, pd.concat([questions, asked]))
    teacher = CountingTeacher()
    counts = run(folder, asking(teacher), budget=PER_QUESTION + 1)
    assert {pair.question for pair in teacher.asked} == {"What is new?"}
    assert counts["readings_waiting"] == len(more) > 0
    assert adds_up(counts)


def test_training_and_report_take_the_pairs_that_are_complete(folder):
    run(folder, asking(CountingTeacher()), budget=30)
    pairs = pairs_to_train_on(folder)
    # Four questions with all their passages, and the fifth with one passage beside the reading without any.
    assert len(pairs) == 4 * PER_QUESTION + 1
    report = report_labels(
        **tables(folder), store_path=folder / "labels", manifest_path=folder / "labels.json",
        report_path=folder / "report.json", page_path=folder / "page.html", histogram_path=folder / "histogram.csv",
        **AGGREGATION, temperature=1.0,
    )  # fmt: skip
    wanted = {"pairs": QUESTIONS_ * PER_QUESTION, "judged": len(pairs), "readings_waiting": ALL - 30}
    assert report["budget"] == read_json(folder / "report.json")["budget"] == wanted


def test_a_budget_that_completes_nothing_yet_is_an_error_that_says_so(folder):
    run(folder, asking(CountingTeacher()), budget=1)
    with pytest.raises(ArtefactError, match=r"retrain.budget_readings\) has completed no pair yet, and 83 readings wait"):
        pairs_to_train_on(folder)


def test_check_templates_are_spent_on_last_within_a_question(folder):
    teacher = CountingTeacher()
    run(folder, asking(teacher, check_templates=(CHECK,)), check_questions=2, budget=PER_QUESTION + 1)
    assert {pair.key[-2] for pair in teacher.asked} == {TEMPLATE.hash}


def test_a_reading_that_is_missing_though_none_waits_is_an_error(folder):
    run(folder, asking(CountingTeacher()))
    candidates = read_table(folder / "candidates.parquet", CANDIDATES)
    unread = candidates[candidates["question_id"] == "q00"].head(1).assign(passage_id="p11")
    write_table(folder / "candidates.parquet", CANDIDATES, pd.concat([candidates, unread]))
    with pytest.raises(ArtefactError, match="readings are missing"):
        pairs_to_train_on(folder)
