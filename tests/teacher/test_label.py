"""The label stage: every pair is asked once, what is new is asked anew, and the manifest says what was asked of whom."""

import logging

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelling import (
    CHECK,
    OTHER,
    TEMPLATE,
    CountingTeacher,
    asking,
    contents,
    ids_of,
    readings,
    run,
    stored,
    tables,
    write_corpus,
)

from uae.io.errors import ArtefactError, InputError
from uae.io.files import read_json
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.teacher import label as module
from uae.teacher.asking import Asked
from uae.teacher.engines.local import load_teacher
from uae.teacher.label import unread, windows
from uae.teacher.parts import KEY
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.store import LabelStore
from uae.teacher.utility import Source, utilities
from uae.training.examples import labelled_pairs

ALL = 12 + 12 * 6  # every question alone, and with six passages


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path)
    return tmp_path


def change(path, schema, work) -> None:
    table = read_table(path, schema)
    rows = table.to_dict("records")
    write_table(path, schema, work(rows))


# On a real teacher


@pytest.fixture
def real(tiny_lm) -> Asked:
    fingerprint = "f" * 64
    return Asked(
        "main", fingerprint, "answer_likelihood", (), 1.0, (TEMPLATE,), (CHECK,),
        lambda: load_teacher(tiny_lm, fingerprint, "cpu", "float32", 512, 1024, False),
    )  # fmt: skip


def test_a_real_teacher_reads_every_pair_once_and_is_not_loaded_again(corpus, real):
    result = run(corpus, real, check_questions=3)
    table = readings(corpus / "labels")
    assert len(table) == ALL + 3 + 3 * 6
    assert result == {
        "pairs": 72, "readings_wanted": len(table), "readings_stored_before": 0, "readings_asked_now": len(table),
        "readings_adopted": 0, "readings_waiting": 0, "readings_in_store": len(table), "truncated": 0, "damaged_parts": 0,
    }  # fmt: skip
    before = contents(corpus / "labels")

    def load():
        raise AssertionError("there was nothing to ask")

    idle = Asked(**vars(real) | {"open": load})
    assert run(corpus, idle, check_questions=3) == result | {"readings_stored_before": len(table), "readings_asked_now": 0}
    assert contents(corpus / "labels") == before


def test_what_a_real_teacher_says_becomes_utilities(corpus, real):
    run(corpus, real, check_questions=3)
    manifest, candidates = read_json(corpus / "labels.json"), read_table(corpus / "candidates.parquet", CANDIDATES)
    questions = read_table(corpus / "questions.parquet", QUESTIONS)
    sources = [Source.from_manifest(entry) for entry in manifest["teachers"]]
    table = utilities(stored(corpus), candidates, questions, sources, 1, "mean", "mean", "none")
    assert table[["question_id", "passage_id"]].equals(candidates[["question_id", "passage_id"]])
    assert table["utility"].notna().all()
    assert table["utility"].nunique() > 60
    (provenance,) = manifest["provenances"]
    assert (provenance["readings"], provenance["backend"], provenance["batch_tokens"]) == (ALL + 21, "transformers", 512)


def test_a_lost_part_is_asked_again_and_named(corpus, real, caplog):
    run(corpus, real)
    expected = readings(corpus / "labels")
    part = min((corpus / "labels").glob("*.parquet"))
    held = len(LabelStore(corpus / "labels").read()) - len(pd.read_parquet(part))
    part.write_bytes(part.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        result = run(corpus, real)
    assert (result["readings_asked_now"], result["damaged_parts"]) == (len(expected) - held, 1)
    assert result["readings_in_store"] == len(expected)
    assert part.name in caplog.text
    assert (corpus / "labels" / f"{part.name}.damaged").exists()
    pd.testing.assert_frame_equal(readings(corpus / "labels"), expected, rtol=1e-5)  # other batches round differently


# What is asked, on a teacher that counts


def test_an_idle_run_opens_no_teacher_and_changes_no_part(corpus):
    first, second = CountingTeacher(), CountingTeacher()
    run(corpus, asking(first))
    assert first.opened == 1
    assert len(first.asked) == ALL == len({pair.key for pair in first.asked})
    before = contents(corpus / "labels")
    assert run(corpus, asking(second))["readings_asked_now"] == 0
    assert (second.opened, second.asked) == (0, [])
    assert contents(corpus / "labels") == before


def test_readings_are_stored_as_they_were_given(corpus):
    teacher = CountingTeacher()
    run(corpus, asking(teacher))
    table = readings(corpus / "labels").set_index(list(KEY))
    for pair in teacher.asked:
        row = table.loc[pair.key]
        assert row["n_tokens"] == len(pair.answer.split())
        assert row["nll_sum"] == teacher.nll(pair) * row["n_tokens"]


@pytest.mark.parametrize(
    ("changes", "teacher_changes", "asked"),
    [
        ({"answers_per_question": 2}, {}, ALL),
        ({}, {"templates": (TEMPLATE, OTHER)}, ALL),
        ({}, {"templates": (OTHER,)}, ALL),
        ({"check_questions": 3}, {"check_templates": (CHECK,)}, 3 + 3 * 6),
        ({"check_questions": 5}, {"check_templates": (CHECK, OTHER)}, 2 * (5 + 5 * 6)),
        ({"check_questions": 500}, {"check_templates": (CHECK,)}, ALL),
        ({"check_questions": 0}, {"check_templates": (CHECK,)}, 0),
        ({}, {"fingerprint": "e" * 64}, ALL),
        ({}, {"weight": 2.0}, 0),
        ({}, {"method": "judgement", "grades": ("no", "yes")}, 2 * 12 * 6),
    ],
    ids=["more answers", "one more template", "another template", "a check", "two checks", "a check of all", "no check",
         "another model", "another weight", "another method"],
)  # fmt: skip
def test_only_what_is_new_is_asked(corpus, changes, teacher_changes, asked):
    run(corpus, asking(CountingTeacher()))
    teacher = CountingTeacher()
    result = run(corpus, asking(teacher, **teacher_changes), **changes)
    assert result["readings_asked_now"] == len(teacher.asked) == asked
    assert result["readings_in_store"] == len(readings(corpus / "labels")) == ALL + asked
    again = CountingTeacher()
    run(corpus, asking(again, **teacher_changes), **changes)
    assert again.asked == []


def test_check_templates_are_asked_about_the_sample_only(corpus):
    teacher = CountingTeacher()
    run(corpus, asking(teacher, check_templates=(CHECK,)), check_questions=3)
    checked = {ids_of(pair)[0] for pair in teacher.asked if pair.key[3] == CHECK.hash}
    assert checked == {"q00", "q01", "q02"}


def test_an_updated_corpus_is_asked_about_its_new_pairs_alone(corpus):
    """A new passage for every question, and a new question: one reading each, and those of the question."""
    run(corpus, asking(CountingTeacher()))
    change(corpus / "passages.parquet", PASSAGES, lambda rows: [*rows, rows[0] | {"passage_id": "new", "text": "A new shelf."}])
    change(
        corpus / "questions.parquet", QUESTIONS, lambda rows: [*rows, rows[0] | {"question_id": "q99", "text": "What is new?"}]
    )
    change(
        corpus / "candidates.parquet",
        CANDIDATES,
        lambda rows: [*rows, *({**row, "passage_id": "new"} for row in rows[::6]), rows[0] | {"question_id": "q99"}],
    )
    teacher = CountingTeacher()
    assert run(corpus, asking(teacher))["readings_asked_now"] == 12 + 2
    asked = [(pair.question == "What is new?", (pair.passage or "").strip() == "A new shelf.") for pair in teacher.asked]
    assert sorted(asked) == [(False, True)] * 12 + [(True, False)] * 2


def test_an_edited_answer_is_asked_anew(corpus):
    run(corpus, asking(CountingTeacher()))
    change(corpus / "questions.parquet", QUESTIONS, lambda rows: [rows[0] | {"answers": ["no boxes at all"]}, *rows[1:]])
    teacher = CountingTeacher()
    assert run(corpus, asking(teacher))["readings_asked_now"] == 1 + 6
    assert {pair.answer for pair in teacher.asked} == {"no boxes at all"}


def test_candidates_that_are_gone_stay_in_the_store(corpus):
    run(corpus, asking(CountingTeacher()))
    change(corpus / "candidates.parquet", CANDIDATES, lambda rows: rows[:6])
    assert run(corpus, asking(CountingTeacher())) == {
        "pairs": 6, "readings_wanted": 7, "readings_stored_before": 7, "readings_asked_now": 0, "readings_adopted": 0,
        "readings_waiting": 0, "readings_in_store": ALL, "truncated": 0, "damaged_parts": 0,
    }  # fmt: skip


# What another store holds already


def test_what_training_asked_is_copied_and_not_asked_again(corpus):
    change(corpus / "candidates.parquet", CANDIDATES, lambda rows: rows[:24])
    run(corpus, asking(CountingTeacher()), store="refreshed")
    write_corpus(corpus)
    teacher = CountingTeacher()
    result = run(corpus, asking(teacher), adopts=[corpus / "refreshed"])
    assert (result["readings_adopted"], result["readings_asked_now"]) == (4 + 24, ALL - 28)
    assert len(teacher.asked) == ALL - 28
    expected = run(corpus, asking(CountingTeacher()), store="whole")
    assert result["readings_in_store"] == expected["readings_in_store"]
    pd.testing.assert_frame_equal(readings(corpus / "labels"), readings(corpus / "whole"))
    (provenance,) = read_json(corpus / "labels.json")["provenances"]
    assert (provenance["backend"], provenance["readings"]) == ("counting", ALL)
    again = run(corpus, asking(CountingTeacher()), adopts=[corpus / "refreshed"])
    assert (again["readings_adopted"], again["readings_asked_now"]) == (0, 0)


def test_only_what_is_wanted_is_copied(corpus):
    run(corpus, asking(CountingTeacher()), store="refreshed")
    change(corpus / "candidates.parquet", CANDIDATES, lambda rows: rows[:6])
    result = run(corpus, asking(CountingTeacher()), adopts=[corpus / "refreshed"])
    assert (result["readings_adopted"], result["readings_asked_now"], result["readings_in_store"]) == (7, 0, 7)


def test_a_damaged_store_of_training_costs_readings_and_no_run(corpus, caplog):
    run(corpus, asking(CountingTeacher()), store="refreshed")
    part = min((corpus / "refreshed").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        result = run(corpus, asking(CountingTeacher()), adopts=[corpus / "refreshed"])
    assert (result["readings_adopted"], result["readings_asked_now"]) == (0, ALL)
    assert part.name in caplog.text


def test_two_stores_are_read_as_one_with_each_key_once(corpus):
    """Both hold every pair, and they disagree: the store that is named first decides."""
    teacher = asking(CountingTeacher(nll=lambda pair: 1.0 if pair.passage else 2.0))
    other = asking(CountingTeacher(nll=lambda pair: 0.5 if pair.passage else 5.0))
    run(corpus, teacher)
    run(corpus, other, store="refreshed")
    found = labelled(corpus, [corpus / "labels", corpus / "refreshed"])
    assert len(found) == 72
    assert set(found["utility"]) == {1.0}
    assert set(labelled(corpus, [corpus / "refreshed", corpus / "labels"])["utility"]) == {4.5}
    assert labelled(corpus, [corpus / "labels", corpus / "nowhere"]).equals(labelled(corpus, [corpus / "labels"]))


def test_a_judgement_in_two_stores_is_no_crash(corpus):
    grade = asking(CountingTeacher(), method="judgement", grades=("No", "Yes"))
    run(corpus, grade)
    run(corpus, grade, store="refreshed")
    twice = labelled(corpus, [corpus / "labels", corpus / "refreshed"])
    assert twice.equals(labelled(corpus, [corpus / "labels"]))


def labelled(corpus, stores):
    read = [read_table(corpus / f"{name}.parquet", schema) for name, schema in
            (("candidates", CANDIDATES), ("passages", PASSAGES), ("questions", QUESTIONS))]  # fmt: skip
    aggregation = {"answers": "mean", "templates": "mean", "teachers": "none"}
    return labelled_pairs(*read, stores, corpus / "labels.json", aggregation)


def test_two_teachers_are_asked_one_after_the_other(corpus):
    first, second = CountingTeacher("1" * 64), CountingTeacher("2" * 64, batch_pairs=7)
    grades = (" No", " Yes")
    both = (asking(first), asking(second, name="judge", method="judgement", grades=grades, weight=0.5, templates=(OTHER,)))
    assert run(corpus, *both)["readings_asked_now"] == ALL + 72 * 2
    assert (first.opened, second.opened) == (1, 1)
    assert (len(first.asked), len(second.asked)) == (ALL, 72 * 2)
    manifest = read_json(corpus / "labels.json")
    assert [entry["name"] for entry in manifest["teachers"]] == ["main", "judge"]
    assert manifest["provenances"] == [
        {"readings": ALL, "backend": "counting", "batch_pairs": 5}, {"readings": 144, "backend": "counting", "batch_pairs": 7},
    ]  # fmt: skip
    third = CountingTeacher("3" * 64)
    run(corpus, *both, asking(third, name="third"))
    assert (first.opened, second.opened, third.opened) == (1, 1, 1)


def test_a_teacher_is_let_go_before_the_next_is_opened(corpus):
    """Two that fit the memory one at a time must not be held at once."""
    import weakref

    held = []

    def opening(fingerprint: str):
        def load() -> CountingTeacher:
            assert not [reference for reference in held if reference() is not None]
            teacher = CountingTeacher(fingerprint)
            held.append(weakref.ref(teacher))
            return teacher

        return load

    named = [Asked(n, n * 64, "answer_likelihood", (), 1.0, (TEMPLATE,), (), opening(n * 64)) for n in ("a", "b")]
    run(corpus, *named)
    assert len(held) == 2


@pytest.mark.parametrize("second", [{"name": "same"}, {"name": "more", "templates": (TEMPLATE, OTHER)}])
def test_two_teachers_of_one_model_do_not_read_the_same_twice(corpus, second):
    teacher = CountingTeacher()
    result = run(corpus, asking(teacher), asking(teacher, **second))
    keys = [pair.key for pair in teacher.asked]
    assert len(keys) == len(set(keys)) == result["readings_asked_now"] == result["readings_in_store"]
    assert len(keys) == ALL * len(second.get("templates", (TEMPLATE,)))


def test_a_template_that_is_also_checked_is_not_read_twice(corpus):
    teacher = CountingTeacher()
    result = run(corpus, asking(teacher, check_templates=(TEMPLATE,)), check_questions=3)
    assert len(teacher.asked) == result["readings_asked_now"] == result["readings_in_store"] == ALL


def test_the_manifest_says_what_was_asked_of_whom(corpus):
    teacher = CountingTeacher()
    run(corpus, asking(teacher, check_templates=(CHECK,), weight=2.5), check_questions=3, answers_per_question=2)
    manifest = read_json(corpus / "labels.json")
    assert manifest == {
        "format": 2,
        "teachers": [
            {
                "name": "main", "fingerprint": "f" * 64, "method": "answer_likelihood", "grades": [], "weight": 2.5,
                "templates": {TEMPLATE.hash: vars(TEMPLATE)}, "check_templates": {CHECK.hash: vars(CHECK)},
                "number_formats": ["unknown"],
            }
        ],
        "answers_per_question": 2,
        "waiting": 0,
        "check_questions": 3,
        "provenances": [{"readings": 2 * ALL + 2 * 21, "backend": "counting", "batch_pairs": 5}],
    }  # fmt: skip
    (entry,) = manifest["teachers"]
    expected = Source("main", "f" * 64, "answer_likelihood", (), 2.5, (TEMPLATE.hash,), (CHECK.hash,), ("unknown",))
    assert Source.from_manifest(entry) == expected


def test_provenances_of_earlier_runs_stay_in_the_manifest(corpus):
    run(corpus, asking(CountingTeacher(batch_pairs=5)))
    run(corpus, asking(CountingTeacher(batch_pairs=9), templates=(TEMPLATE, OTHER)))
    assert read_json(corpus / "labels.json")["provenances"] == [
        {"readings": ALL, "backend": "counting", "batch_pairs": 5}, {"readings": ALL, "backend": "counting", "batch_pairs": 9},
    ]  # fmt: skip


def test_a_teacher_that_fails_leaves_what_was_read_and_no_manifest(corpus):
    def fails_on_shelf_five(pair: Pair) -> float:
        if ids_of(pair)[1] == "p05":
            raise ConnectionError("the server is gone")
        return 1.0

    with pytest.raises(ConnectionError):
        run(corpus, asking(CountingTeacher(nll=fails_on_shelf_five)))
    assert not (corpus / "labels.json").exists()
    kept = len(LabelStore(corpus / "labels").read())
    assert 0 < kept < ALL
    teacher = CountingTeacher()
    assert run(corpus, asking(teacher))["readings_asked_now"] == len(teacher.asked) == ALL - kept


def test_questions_without_answers_stop_it_before_a_teacher_is_opened(corpus):
    change(corpus / "questions.parquet", QUESTIONS, lambda rows: [rows[0] | {"answers": []}, *rows[1:]])
    teacher = CountingTeacher()
    with pytest.raises(InputError, match=r"'How many boxes are on shelf 0\?' \(line 0\)"):
        run(corpus, asking(teacher))
    assert teacher.opened == 0
    alone = Template("{passage}\n", "A question about it:", " {answer}")
    assert run(corpus, asking(teacher, method="query_likelihood", templates=(alone,)))["readings_asked_now"] == ALL


@pytest.mark.parametrize("missing", ["candidates", "passages", "questions"])
def test_a_stage_that_has_not_run_is_an_error(corpus, missing):
    tables(corpus)[f"{missing}_path"].unlink()
    with pytest.raises(ArtefactError, match=f"{missing}.parquet does not exist"):
        run(corpus, asking(CountingTeacher()))


# Windows


def read_pairs(*of_passages: int) -> list[Pair]:
    """So many pairs of each passage, the first of them without one."""
    return [
        Pair((f"q{n}", f"p{place}", "", "", ""), "", "", f"text {place}" if place else None)
        for place, number in enumerate(of_passages) for n in range(number)
    ]  # fmt: skip


@given(st.lists(st.integers(0, 25), max_size=30), st.integers(1, 12))
def test_windows_hold_all_pairs_in_order_and_passages_together(of_passages, limit):
    pairs = read_pairs(*of_passages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW_PAIRS", limit)
        found = list(windows(pairs))
    assert [pair for window in found for pair in window] == pairs
    assert all(0 < len(window) <= limit for window in found)
    divided = {}
    for number, window in enumerate(found):
        for pair in window:
            divided.setdefault(pair.passage, set()).add(number)
    for place, number in enumerate(of_passages):
        if 0 < number <= limit:
            assert len(divided[f"text {place}" if place else None]) == 1


def test_neighbouring_windows_would_not_fit_into_one(monkeypatch):
    monkeypatch.setattr(module, "WINDOW_PAIRS", 10)
    assert [len(window) for window in windows(read_pairs(4, 4, 4, 10, 1, 1))] == [8, 4, 10, 2]


def test_windows_change_nothing_that_is_asked(corpus, monkeypatch):
    whole, divided = CountingTeacher(), CountingTeacher()
    run(corpus, asking(whole))
    monkeypatch.setattr(module, "WINDOW_PAIRS", 11)
    run(corpus, asking(divided), store="divided")
    assert divided.opened == 1
    assert divided.asked == whole.asked
    pd.testing.assert_frame_equal(readings(corpus / "divided"), readings(corpus / "labels"))


def test_a_finished_window_is_not_planned_again(corpus, monkeypatch):
    """A resumed run would else tokenise all that is done before it goes on."""
    monkeypatch.setattr(module, "WINDOW_PAIRS", 12)
    run(corpus, asking(CountingTeacher()))
    change(corpus / "candidates.parquet", CANDIDATES, lambda rows: [*rows, rows[0] | {"passage_id": "p07"}])
    planned = []

    class Watched(CountingTeacher):
        def plan(self, template, pairs):
            planned.extend(pairs)
            return super().plan(template, pairs)

    teacher = Watched()
    assert run(corpus, asking(teacher))["readings_asked_now"] == 1
    assert 0 < len({pair.key for pair in planned}) <= 12


# Batches


def keys(batches) -> list[list[str]]:
    return [[pair.key[0] for pair in batch.pairs] for batch in batches]


def test_finished_batches_are_passed_over_and_half_finished_ones_batched_anew_and_last():
    teacher, pairs = CountingTeacher(batch_pairs=3), read_pairs(12)  # q0 q1 q2, q3 q4 q5, q6 q7 q8, q9 q10 q11
    done = {pair.key for pair in pairs if pair.key[0] in ("q0", "q1", "q2", "q4", "q7", "q8")}
    assert keys(unread(teacher, TEMPLATE, pairs, done)) == [["q9", "q10", "q11"], ["q3", "q5", "q6"]]


def test_nothing_done_and_everything_done():
    teacher, pairs = CountingTeacher(batch_pairs=3), read_pairs(7)
    assert keys(unread(teacher, TEMPLATE, pairs, set())) == [["q0", "q1", "q2"], ["q3", "q4", "q5"], ["q6"]]
    assert keys(unread(teacher, TEMPLATE, pairs, {pair.key for pair in pairs})) == []


def test_batches_read_before_their_turn_keep_it():
    teacher, pairs = CountingTeacher(batch_pairs=2), read_pairs(8)
    done = {pair.key for pair in pairs if pair.key[0] in ("q0", "q1", "q4", "q5", "q7")}
    early = {pair.key for pair in pairs if pair.key[0] in ("q4", "q5", "q7")}
    assert keys(unread(teacher, TEMPLATE, pairs, done, early)) == [["q2", "q3"], ["q4", "q5"], ["q6"]]


@given(st.integers(0, 40), st.sets(st.integers(0, 40)), st.integers(1, 7))
def test_what_is_missing_is_read_once(number, finished, size):
    pairs = read_pairs(number)
    done = {pair.key for n, pair in enumerate(pairs) if n in finished}
    found = [pair.key for batch in unread(CountingTeacher(batch_pairs=size), TEMPLATE, pairs, done) for pair in batch.pairs]
    assert sorted(found) == sorted(pair.key for pair in pairs if pair.key not in done)
