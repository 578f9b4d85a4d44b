"""The stage over the three tables, and the check of the labels: facts, reports and messages."""

import json

import numpy as np
import pytest

from uae.io.errors import ArtefactError, ValidationFailed
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, write_table
from uae.teacher.store import LabelStore
from uae.validation import facts
from uae.validation.report import require_validated
from uae.validation.validate import check_readings, validate, validate_labels

MINIMUM = {"train": 2, "validation": 1, "test": 1}


@pytest.fixture
def tables():
    documents, passages, questions = [], [], []
    for n, split in enumerate(["test", "train", "train", "validation"]):
        first, second = f"Lamp {n} burns rape oil.", f"Keeper {n} trims the wick."
        text = f"{first} {second}"
        documents.append({"doc_id": f"d{n}", "source": f"d{n}.txt", "title": "", "version": "", "text": text})
        documents[-1] |= {"sections": [], "metadata": "{}"}
        for position, part in enumerate((first, second)):
            start = text.index(part)
            passages.append({"passage_id": f"p{n}{position}", "doc_id": f"d{n}", "title": "", "source": f"d{n}.txt"})
            passages[-1] |= {"position": position, "section": "", "start": start, "end": start + len(part), "text": part}
        questions.append({"question_id": f"q{n}", "text": f"Who trims lamp {n}?", "answers": ["Keeper"], "doc_id": f"d{n}"})
        questions[-1] |= {"evidence": [f"p{n}1"], "split": split, "origin": "human", "source": f"questions.jsonl, line {n}"}
    return {"documents": documents, "passages": passages, "questions": questions}


@pytest.fixture
def report_path(tmp_path):
    return tmp_path / "reports" / "validation.json"


@pytest.fixture
def check(tmp_path, tables, report_path):
    def run(scope="document", require_answers=True, near_duplicate=0.8):
        paths = [tmp_path / f"{name}.parquet" for name in tables]
        for path, schema, rows in zip(paths, (DOCUMENTS, PASSAGES, QUESTIONS), tables.values(), strict=True):
            write_table(path, schema, rows)
        return validate(*paths, report_path, scope, 3, MINIMUM, require_answers, near_duplicate)

    return run


@pytest.fixture
def failing(check):
    """Run validate, which must fail: its message, and suite.column with the failing ids."""

    def run(scope="document"):
        with pytest.raises(ValidationFailed) as caught:
            check(scope)
        found = {}
        for suite in caught.value.report["suites"]:
            for outcome in suite["expectations"]:
                if not outcome["success"]:
                    ids = [next(iter(row.values())) for row in outcome["rows"]]
                    found[f"{suite['suite']}.{outcome['column'] or 'table'}"] = ids
        return str(caught.value), found

    return run


def test_good_tables_give_a_report_that_is_also_returned(check, report_path):
    report = check()
    assert report["success"]
    assert json.loads(report_path.read_text()) == report
    assert [(suite["suite"], suite["rows"]) for suite in report["suites"]] == [
        ("documents", 4),
        ("passages", 8),
        ("questions", 4),
        ("leakage", 16),
    ]


BREAKS = {
    "a document without passages": (lambda t: t["passages"].pop() and t["passages"].pop(), ["documents.n_passages"]),
    "an empty document": (lambda t: t["documents"][1].update(text=" "), ["documents.text", "passages.text_stands_in_document"]),
    "a passage of no document": (
        lambda t: t["passages"][3].update(doc_id="gone"),
        ["passages.document_known", "passages.named_as_document", "passages.text_stands_in_document"],
    ),
    "a passage of another document": (
        lambda t: t["passages"][3].update(doc_id="d3"),
        ["passages.named_as_document", "passages.text_stands_in_document"],
    ),
    "offsets off by one": (lambda t: t["passages"][3].update(start=1, end=25), ["passages.text_stands_in_document"]),
    "an edited passage": (lambda t: t["passages"][3].update(text="Keeper 1 sleeps."), ["passages.text_stands_in_document"]),
    "a passage under another title": (lambda t: t["passages"][3].update(title="Horns"), ["passages.named_as_document"]),
    "a passage of another source": (lambda t: t["passages"][3].update(source="d2.txt"), ["passages.named_as_document"]),
    "short passages": (
        lambda t: [
            row.update(text=row["text"].split()[0], end=row["start"] + len(row["text"].split()[0])) for row in t["passages"][2:4]
        ],
        ["passages.n_words"],
    ),
    "a question without answers": (
        lambda t: t["questions"][3].update(answers=[]),
        ["questions.n_answers", "questions.n_validation_usable"],
    ),
    "an empty answer": (lambda t: t["questions"][1].update(answers=["Keeper", " "]), ["questions.answers_filled"]),
    "a question about no known document": (lambda t: t["questions"][1].update(doc_id="gone"), ["questions.document_known"]),
    "evidence that is no passage": (
        lambda t: t["questions"][1].update(evidence=["p11", "gone"]),
        ["questions.evidence_known"],
    ),
    "a document in two splits": (
        lambda t: t["questions"].append(t["questions"][1] | {"question_id": "q9", "split": "test", "text": "What does it burn?"}),
        ["questions.n_splits_of_document"],
    ),
    "an unknown split": (
        lambda t: t["questions"][1].update(split="dev"),
        ["questions.split", "questions.n_train_usable"],
    ),
    "test questions without evidence": (lambda t: t["questions"][0].update(evidence=[]), ["questions.n_test_usable"]),
    "no questions": (lambda t: t["questions"].clear(), [f"questions.n_{split}_usable" for split in MINIMUM]),
}
IDS = {
    "documents.n_passages": ["d3"],
    "documents.text": ["d1"],
    "questions.n_splits_of_document": ["q1", "q9"],
    "questions.n_answers": ["q3"],
}


@pytest.mark.parametrize("name", BREAKS)
def test_one_break_is_found_where_it_is(name, tables, failing):
    spoil, columns = BREAKS[name]
    if name == "a document without passages":
        tables["questions"][3]["evidence"] = []
    spoil(tables)

    message, found = failing()

    assert sorted(found) == sorted(columns)
    for column, ids in found.items():
        if "usable" in column:
            split = column.split("_")[1]
            assert f"  {column}: {split} has " in message
            assert f"; validate.min_questions.{split} asks for {MINIMUM[split]}: give `split` in the questions" in message
            continue
        assert f"  {column}: expect_" in message
        wanted = IDS.get(column) or (["q1"] if column.startswith("questions") else None)
        assert ids
        assert wanted is None or ids == wanted
        assert all(f"    {row}" in message for row in ids)


def test_the_report_is_of_the_tables_it_was_made_of(check, tables, report_path, tmp_path):
    check()
    paths = {name: tmp_path / f"{name}.parquet" for name in tables}
    require_validated(report_path, paths)
    write_table(paths["questions"], QUESTIONS, tables["questions"][:3])
    with pytest.raises(ArtefactError, match=r"questions\.parquet was changed after it was validated"):
        require_validated(report_path, paths)


def test_a_question_is_shown_with_its_line_in_the_source(tables, failing):
    tables["questions"][1]["answers"] = [""]
    message, _ = failing()
    assert "q1 questions.jsonl, line 1 False" in message


def test_a_leak_stops_and_is_shown_with_both_places_and_what_to_do(tables, failing):
    for question in tables["questions"][:2]:
        question.update(text="Who trims the oldest lamp?", answers=["the second keeper of the northern light"])
    message, found = failing()
    assert found == {"leakage.repeated_question": ["q0"]}
    assert (
        "    q0 questions.jsonl, line 0 test question that asks in the same words what is asked in train "
        "(questions.jsonl, line 1: 'Who trims the oldest lamp?'): remove one of the two, or give both the same split\n"
    ) in message


@pytest.mark.parametrize(("near_duplicate", "success"), [(0.95, True), (0.8, False)])
def test_how_alike_questions_may_be_is_a_parameter(tables, check, near_duplicate, success):
    """One of 13 words differs. Of 25 words and pairs 21 are in both: 0.84."""
    asked = "Who trims the oldest of the three lamps in the northern tower"
    for question, last in zip(tables["questions"][:2], ("today", "tonight"), strict=True):
        question.update(text=f"{asked} {last}?", answers=["the second keeper of the northern light"])
    if success:
        assert check(near_duplicate=near_duplicate)["success"]
    else:
        with pytest.raises(ValidationFailed, match="repeated_question"):
            check(near_duplicate=near_duplicate)


def test_a_doubled_document_is_not_blamed_on_its_passages(tables, failing):
    tables["documents"].append(tables["documents"][0])
    assert failing()[1] == {"documents.doc_id": ["d0", "d0"]}


def test_empty_tables_fail_without_a_crash(tables, failing):
    for rows in tables.values():
        rows.clear()
    message, found = failing()
    assert "train has 0 questions with answers; " in message
    assert "test has 0 questions with evidence; " in message
    assert {"documents.table", "passages.table", "questions.n_train_usable"} <= set(found)


def test_parts_and_hashes_change_no_result(tables, check, monkeypatch):
    """One document's id stands twice, in two parts, and all hashes are equal: ids decide."""

    def report():
        with pytest.raises(ValidationFailed) as caught:
            check()
        return caught.value.report

    tables["documents"].append(tables["documents"][0] | {"source": "again.txt"})
    tables["passages"].append(tables["passages"][2])
    tables["passages"][5]["doc_id"] = "gone"
    whole = report()
    monkeypatch.setattr(facts.CorpusFacts.__init__, "__defaults__", (2,))
    monkeypatch.setattr(facts, "_DOCUMENTS", 1)
    monkeypatch.setattr(facts, "_PASSAGES", 3)
    monkeypatch.setattr(facts, "hashes_of", lambda ids: np.zeros(len(ids), np.uint64))
    assert report() == whole
    outcomes = [(each["suite"], outcome) for each in whole["suites"] for outcome in each["expectations"]]
    failed = {(suite, outcome["column"]) for suite, outcome in outcomes if outcome["rows"]}
    assert failed >= {("documents", "doc_id"), ("passages", "passage_id"), ("passages", "document_known")}


def test_scope_decides_whether_questions_need_a_document(tables, check, failing):
    tables["questions"][1]["doc_id"] = ""
    assert failing("document")[1] == {"questions.doc_id": ["q1"]}
    assert check("corpus")["success"]


def test_test_questions_may_come_without_answers(tables, check):
    tables["questions"][0]["answers"] = []
    assert check()["success"]


def test_failing_removes_the_earlier_report_and_succeeding_the_failed_one(tables, check, failing, report_path):
    check()
    assert [file.name for file in report_path.parent.iterdir()] == ["validation.json"]

    tables["questions"][1]["answers"] = [""]
    message, _ = failing()
    failed = report_path.parent / "validation.failed.json"
    assert list(report_path.parent.iterdir()) == [failed]
    assert str(failed) in message
    report = json.loads(failed.read_text())
    assert report["success"] is False
    assert len(report["suites"]) == 4

    tables["questions"][1]["answers"] = ["Keeper"]
    check()
    assert [file.name for file in report_path.parent.iterdir()] == ["validation.json"]


def test_answers_are_required_unless_the_parameters_say_otherwise(check, failing, tables):
    tables["questions"][1]["answers"] = []
    assert "questions.n_answers" in failing()[1]
    assert check(require_answers=False)["success"]


def reading(passage="p1", nll=2.5, tokens=3):
    return {"question": "q1", "passage": passage, "answer_id": "a", "template": "t", "teacher": "m", "nll_sum": nll} | {
        "n_tokens": tokens,
        "truncated": False,
    }


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels", 1000)
    with store.writing():
        yield store


def test_good_labels_give_a_report(store, report_path):
    store.append([reading(""), reading("p1")], {})
    store.append([reading("p2")], {})
    report = validate_labels(store.folder, report_path, {})
    assert (report["success"], report["suites"][0]["rows"]) == (True, 3)
    require_validated(report_path, {"labels": store.folder})
    store.append([reading("p3")], {})
    with pytest.raises(ArtefactError, match="labels was changed after it was validated"):
        require_validated(report_path, {"labels": store.folder})


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([reading(), reading("p2", nll=float("nan"))], "nll_sum"),
        ([reading(), reading("p2", nll=-1.0)], "nll_sum"),
        ([reading(), reading("p2", nll=float("inf"))], "nll_sum"),
        ([reading(), reading("p2", tokens=0)], "n_tokens"),
        ([], "table"),
    ],
    ids=["nan", "negative", "infinite", "no tokens", "none"],
)
def test_wrong_labels_stop_the_chain_and_are_named(store, report_path, rows, column):
    report_path.parent.mkdir()
    report_path.write_text("{}")
    if rows:
        store.append(rows, {})

    with pytest.raises(ValidationFailed) as caught:
        validate_labels(store.folder, report_path, {})

    assert f"labels.{column}: expect_" in str(caught.value)
    assert not rows or "    q1/p2" in str(caught.value)
    assert [file.name for file in report_path.parent.iterdir()] == ["validation.failed.json"]
    if rows:  # what training asks by itself is held to the same
        with pytest.raises(ValidationFailed, match=rf"(?s)labels: .*labels.{column}: expect_"):
            check_readings(store.folder)


def test_training_that_had_nothing_to_ask_has_no_labels_to_fail(store):
    check_readings(store.folder)


def test_the_report_of_labels_is_about_what_they_were_asked_by(store, report_path, tmp_path):
    store.append([reading(""), reading("p1")], {})
    asked = {"candidates": tmp_path / "candidates.parquet", "label_manifest": tmp_path / "labels.json"}
    for path in asked.values():
        path.write_text("as asked")
    validate_labels(store.folder, report_path, asked)
    require_validated(report_path, {"labels": store.folder, **asked})
    asked["candidates"].write_text("mined again")
    with pytest.raises(ArtefactError, match=r"candidates\.parquet was changed after it was validated.*\(uae label\)"):
        require_validated(report_path, {"labels": store.folder, **asked})


def test_all_questions_of_two_splits_are_named_at_once_in_message_and_report(tables, check):
    for n in (1, 2):
        copy = tables["questions"][n] | {"question_id": f"r{n}", "split": "test", "doc_id": "d0", "evidence": ["p00"]}
        tables["questions"].append(copy)
    tables["questions"].append(tables["questions"][1] | {"question_id": "q8", "doc_id": "d2", "text": "who trims LAMP 1"})
    with pytest.raises(ValidationFailed) as caught:
        check("corpus", near_duplicate=1.0)
    groups = caught.value.report["repeated_questions"]
    assert [[question["question_id"] for question in group] for group in groups] == [["r1", "q1", "q8"], ["r2", "q2"]]
    said = str(caught.value)
    assert "2 questions stand in two splits" in said
    assert "ingest.repeated_questions=drop_training_copy" in said
    for group in groups:
        for question in group:
            assert "{split:<10} {question_id}  {source}: {text}".format(**question) in said


def test_the_report_repeats_what_ingest_left_out(check, tmp_path, tables, report_path):
    check()
    assert json.loads(report_path.read_text())["dropped_questions"] == []
    paths = [tmp_path / f"{name}.parquet" for name in tables]
    dropped = [{"question_id": "q9", "split": "train", "source": "questions.jsonl, line 9", "text": "Who?", "kept": {}}]
    validate(*paths, report_path, "document", 3, MINIMUM, True, 0.8, dropped)
    assert json.loads(report_path.read_text())["dropped_questions"] == dropped
