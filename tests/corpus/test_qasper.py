import json
from types import SimpleNamespace

import datasets
import pytest

from uae.corpus.adapters import qasper, qasper_hub
from uae.io.errors import InputError

SIGHTING = "We counted gulls from the gallery on forty mornings."
RESULT = "Gulls left one hour before each storm."
REPEATED = "All counts were done by two keepers."


def answer(unanswerable=False, extractive=(), yes_no=None, free_form="", evidence=()):
    return {
        "unanswerable": unanswerable,
        "extractive_spans": list(extractive),
        "yes_no": yes_no,
        "free_form_answer": free_form,
        "evidence": list(evidence),
        "highlighted_evidence": list(evidence),
    }


def question(text, *answers, question_id="q"):
    return {"question": text, "question_id": question_id, "answers": [{"answer": a, "annotation_id": "x"} for a in answers]}


def paper(*questions, title="Gulls as barometers"):
    return {
        "title": title,
        "abstract": "Gulls foretell storms.",
        "full_text": [
            {"section_name": "Introduction", "paragraphs": ["Storms are sudden.", "", REPEATED]},
            {"section_name": "Method ::: Counting", "paragraphs": [SIGHTING, REPEATED]},
            {"section_name": None, "paragraphs": [RESULT]},
        ],
        "qas": list(questions),
        "figures_and_tables": [],
    }


def row(key, release):
    """The same paper as the hub serves it: lists of objects have become objects of lists."""
    qas = release["qas"]
    return {
        "id": key,
        "title": release["title"],
        "abstract": release["abstract"],
        "full_text": {
            "section_name": [section["section_name"] for section in release["full_text"]],
            "paragraphs": [section["paragraphs"] for section in release["full_text"]],
        },
        "qas": {
            "question": [qa["question"] for qa in qas],
            "question_id": [qa["question_id"] for qa in qas],
            "answers": [
                {"answer": [a["answer"] for a in qa["answers"]], "annotation_id": [a["annotation_id"] for a in qa["answers"]]}
                for qa in qas
            ],
        },
    }


@pytest.fixture
def read(tmp_path):
    def read_release(*questions):
        path = tmp_path / "qasper.json"
        path.write_text(json.dumps({"p1": paper(*questions)}), encoding="utf-8")
        return qasper.read(str(path))

    return read_release


def test_paragraphs_keep_their_section_and_the_abstract_comes_first(read, sections_of):
    (document,) = read().documents

    assert (document.key, document.title) == ("p1", "Gulls as barometers")
    assert sections_of(document) == [
        ("Abstract", "Gulls foretell storms."),
        ("Introduction", "Storms are sudden."),
        ("Introduction", REPEATED),
        ("Method > Counting", SIGHTING),
        ("Method > Counting", REPEATED),
        ("", RESULT),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(extractive=["forty mornings ", "the gallery"]), "forty mornings, the gallery"),
        (answer(yes_no=True), "Yes"),
        (answer(yes_no=False), "No"),
        (answer(free_form=" They fly inland. "), "They fly inland."),
    ],
    ids=["extractive", "yes", "no", "free-form"],
)
def test_each_kind_of_answer_becomes_text(read, given, expected):
    (asked,) = read(question("When?", given)).questions
    assert asked.answers == (expected,)


def test_an_unanswerable_question_is_skipped_and_counted(read):
    source = read(question("Why?", answer(unanswerable=True)), question("Nothing given?", answer()))
    assert source.questions == []
    assert source.skipped == {"question marked unanswerable": 2}


def test_annotators_answers_are_joined_without_repeats_and_without_the_one_who_found_none(read, evidence_of):
    source = read(
        question(
            "When do gulls leave?",
            answer(free_form="an hour before", evidence=[RESULT]),
            answer(unanswerable=True, evidence=[SIGHTING]),
            answer(extractive=["one hour before"], evidence=[RESULT]),
            answer(free_form="an hour before"),
        )
    )

    (asked,) = source.questions

    assert asked.answers == ("an hour before", "one hour before")
    assert evidence_of(source, asked) == [RESULT]


def test_evidence_is_the_whole_paragraph_and_the_first_of_equal_ones(read, evidence_of):
    source = read(question("Who counted?", answer(free_form="two keepers", evidence=[f" {REPEATED}\n", SIGHTING])))

    (asked,) = source.questions

    assert evidence_of(source, asked) == [REPEATED, SIGHTING]
    assert asked.evidence[0].start == source.documents[0].text.index(REPEATED)


def test_evidence_outside_the_paragraphs_is_left_out_and_counted(read):
    outside = ["FLOAT SELECTED: Table 1: Gulls by month.", "A sentence that no paragraph is."]
    source = read(question("How many?", answer(free_form="many", evidence=outside)))

    assert source.questions[0].evidence == ()
    assert source.skipped == {"evidence that is a figure or table": 1, "evidence that is not a paragraph of the paper": 1}


def test_questions_that_share_an_id_are_all_read(read):
    given = answer(free_form="yes")
    source = read(question("First?", given, question_id="same"), question("Second?", given, question_id="same"))
    assert [q.text for q in source.questions] == ["First?", "Second?"]


def test_a_question_without_its_answers_names_file_paper_and_field(tmp_path, read):
    broken = question("When?")
    del broken["answers"]
    with pytest.raises(InputError) as caught:
        read(broken)
    assert all(part in str(caught.value) for part in (str(tmp_path / "qasper.json"), "p1", "'answers'"))


def test_an_answer_without_a_field_names_file_paper_and_field(tmp_path, read):
    broken = answer()
    del broken["unanswerable"]
    with pytest.raises(InputError) as caught:
        read(question("When?", broken))
    assert all(part in str(caught.value) for part in (str(tmp_path / "qasper.json"), "p1", "'unanswerable'"))


def change(*path):
    """A function that puts the last of ``path`` where the others lead."""
    *parents, last, value = path

    def spoil(tree):
        for step in parents:
            tree = tree[step]
        if value is ...:
            del tree[last]
        else:
            tree[last] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "fragment"),
    [
        (change("p1", 7), "paper p1: expected a JSON object"),
        (change("p1", "title", 7), "paper p1: the field 'title' must be str"),
        (change("p1", "full_text", 0, "x"), "paper p1, section 1: expected a JSON object"),
        (change("p1", "full_text", 1, "paragraphs", [None]), "paper p1, section 2: 'paragraphs' must be a list of strings"),
        (change("p1", "qas", 0, "answers", 0, "answer", "evidence", None), "question 'When?': the field 'evidence' must be list"),
        (
            change("p1", "qas", 0, "answers", 0, "answer", "evidence", [7]),
            "question 'When?': 'evidence' must be a list of strings",
        ),
        (change("p1", "qas", 0, "answers", 0, "answer", "extractive_spans", "ab"), "the field 'extractive_spans' must be list"),
        (change("p1", "qas", 0, "answers", 0, "answer", "yes_no", "no"), "the field 'yes_no' must be bool"),
        (change("p1", "qas", 0, "answers", 0, "answer", "free_form_answer", 7), "the field 'free_form_answer' must be str"),
    ],
)
def test_parts_of_another_form_are_named(tmp_path, spoil, fragment):
    papers = {"p1": paper(question("When?", answer(free_form="at dusk")))}
    spoil(papers)
    (tmp_path / "x.json").write_text(json.dumps(papers))
    with pytest.raises(InputError) as caught:
        qasper.read(str(tmp_path / "x.json"))
    assert str(tmp_path / "x.json") in str(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "fragment"),
    [
        (change("full_text", "section_name", ...), ", full_text: the field 'section_name' is missing"),
        (change("full_text", "paragraphs", []), ", full_text: the lists 'section_name' and 'paragraphs' are of unequal length"),
        (change("qas", "question", []), ", qas: the lists 'question' and 'answers' are of unequal length"),
        (change("qas", "answers", 0, "answer", ...), ", question 'When?': the field 'answer' is missing"),
        (change("title", 7), ": the field 'title' must be str"),
        (change("full_text", ["x"]), ": the field 'full_text' must be dict"),
    ],
)
def test_parts_of_another_form_are_named_in_rows(tmp_path, write_jsonl, spoil, fragment):
    good, spoilt = (row(key, paper(question("When?", answer(free_form="at dusk")))) for key in ("p1", "p2"))
    spoil(spoilt)
    path = write_jsonl(tmp_path / "rows.jsonl", [good, spoilt])
    with pytest.raises(InputError) as caught:
        qasper_hub.read(str(path))
    assert f"{path}, line 2{fragment}" in str(caught.value)


def test_a_list_of_papers_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"list\.json.*keyed by paper id"):
        qasper.read(str(tmp_path / "list.json"))


QUESTIONS = (
    question("When do gulls leave?", answer(extractive=["one hour before"], evidence=[RESULT]), answer(unanswerable=True)),
    question("Were there counts?", answer(yes_no=True, evidence=[SIGHTING])),
    question("Why?", answer(unanswerable=True)),
)


@pytest.fixture
def hub(monkeypatch):
    """datasets.load_dataset, answering with what a test puts into ``splits`` and noting how it was called."""
    fake = SimpleNamespace(splits={}, calls=[], error=None)

    def load_dataset(*args, **kwargs):
        fake.calls.append((args, kwargs))
        if fake.error:
            raise fake.error
        return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in fake.splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return fake


def test_rows_of_a_local_file_give_what_the_release_gives(tmp_path, read, write_jsonl):
    release = read(*QUESTIONS)
    source = qasper_hub.read(str(write_jsonl(tmp_path / "rows.jsonl", [row("p1", paper(*QUESTIONS))])))

    assert [(d.key, d.title, d.text, d.sections) for d in source.documents] == [
        (d.key, d.title, d.text, d.sections) for d in release.documents
    ]
    assert [(q.text, q.answers, q.evidence) for q in source.questions] == [
        (q.text, q.answers, q.evidence) for q in release.questions
    ]
    assert source.skipped == release.skipped
    assert {q.split for q in source.questions} == {None}


def test_a_local_rows_place_is_named(tmp_path, write_jsonl):
    rows = [row("p1", paper(*QUESTIONS)), row("p1", paper(*QUESTIONS))]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError) as caught:
        qasper_hub.read(str(path))
    assert str(caught.value) == f"{path}, line 2: the paper id 'p1' is used already in {path}, line 1"


def test_a_hub_data_set_is_asked_for_by_name_and_revision_and_keeps_its_splits(hub):
    hub.splits = {name: [row(f"{name}-paper", paper(*QUESTIONS, title=name))] for name in ("train", "validation", "test")}

    source = qasper_hub.read("hf:keepers/gulls@refs/convert/parquet")

    assert hub.calls == [(("keepers/gulls",), {"revision": "refs/convert/parquet"})]
    assert [d.key for d in source.documents] == ["train-paper", "validation-paper", "test-paper"]
    assert [(q.document, q.split) for q in source.questions] == [
        (f"{split}-paper", split) for split in ("train", "validation", "test") for _ in range(2)
    ]
    assert "test row 1" in source.documents[2].where


def test_a_hub_row_without_an_id_is_named_by_split_and_row(hub):
    broken = row("p1", paper(*QUESTIONS))
    del broken["id"]
    hub.splits = {"train": [broken]}
    with pytest.raises(InputError, match=r"hf:keepers/gulls@v1, train row 1: the field 'id' is missing"):
        qasper_hub.read("hf:keepers/gulls@v1")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route to the hub"),
        FileNotFoundError("there is no such data set"),
        RuntimeError("Dataset scripts are no longer supported, but found gulls.py"),  # what datasets 4 and later raise
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_hub_answers_is_passed_on(hub, error):
    hub.error = error
    with pytest.raises(InputError) as caught:
        qasper_hub.read("hf:keepers/gulls@v1")
    assert "hf:keepers/gulls@v1" in str(caught.value)
    assert str(error) in str(caught.value)
