"""SQuAD's rows as the hub serves them give what the nested file gives."""

import pytest

from uae.corpus.adapters import squad, squad_hub
from uae.io.errors import InputError
from uae.io.files import write_json

BELL = "The bell weighs nine hundred kilos. It was cast in 1871."
HORN = "The horn is sounded twice in fog."


def row(question, context, *answers, title="Harbour", **other):
    texts, starts = [text for text, _ in answers], [start for _, start in answers]
    return {"id": "x", "title": title, "context": context, "question": question} | (
        {"answers": {"text": texts, "answer_start": starts}} | other
    )


@pytest.fixture
def read(tmp_path, write_jsonl):
    return lambda *rows: squad_hub.read(str(write_jsonl(tmp_path / "rows.jsonl", rows)))


ROWS = [
    row("When was it cast?", BELL, ("1871", BELL.index("1871"))),
    row("When is it sounded?", HORN, ("in fog", HORN.index("in fog")), ("fog", HORN.index("fog"))),
    row("What does it weigh?", BELL, ("nine hundred kilos", BELL.index("nine"))),
]


def test_rows_of_one_title_are_one_document_with_each_context_once(read, sections_of, evidence_of):
    source = read(*ROWS)
    (document,) = source.documents
    assert (document.title, sections_of(document)) == ("Harbour", [("", BELL), ("", HORN)])
    found = {question.text: (question.answers, evidence_of(source, question)) for question in source.questions}
    assert found == {
        "When was it cast?": (("1871",), ["1871"]),
        "When is it sounded?": (("in fog", "fog"), ["in fog", "fog"]),
        "What does it weigh?": (("nine hundred kilos",), ["nine hundred kilos"]),
    }


def test_rows_give_what_the_nested_file_gives(tmp_path, read):
    def qa(each):
        answers = [{"text": t, "answer_start": s} for t, s in zip(*each["answers"].values(), strict=True)]
        return {"id": 1, "question": each["question"], "answers": answers}

    paragraphs = [{"context": c, "qas": [qa(each) for each in ROWS if each["context"] == c]} for c in (BELL, HORN)]
    write_json(tmp_path / "squad.json", {"data": [{"title": "Harbour", "paragraphs": paragraphs}]})
    nested, rows = squad.read(str(tmp_path / "squad.json")), read(*ROWS)
    assert [(d.key, d.title, d.text, d.sections) for d in nested.documents] == [
        (d.key, d.title, d.text, d.sections) for d in rows.documents
    ]
    assert [(q.text, q.answers, q.evidence) for q in nested.questions] == [
        (q.text, q.answers, q.evidence) for q in rows.questions
    ]


def test_columns_with_dots_are_the_same_lists(read):
    dotted = row("When was it cast?", BELL) | {"answers.text": ["1871"], "answers.answer_start": [BELL.index("1871")]}
    del dotted["answers"]
    assert read(dotted).questions[0].answers == ("1871",)


def test_rows_without_a_title_are_a_document_a_context(read):
    source = read(*(each | {"title": ""} for each in ROWS))
    assert sorted(document.text for document in source.documents) == [BELL, HORN]
    assert [document.title for document in source.documents] == ["", ""]
    assert len(source.questions) == 3


def test_rows_without_answers_are_left_out_and_counted(read):
    source = read(ROWS[0], row("Who rang it?", BELL), row(" ", BELL), row("Why?", BELL, answers=None))
    assert [question.text for question in source.questions] == ["When was it cast?"]
    assert source.skipped == {
        "question without an answer (impossible in SQuAD 2.0)": 2,
        "blank question without an answer": 1,
    }


@pytest.mark.parametrize(
    ("spoilt", "fragment"),
    [
        ({"answers": {"text": ["1871"], "answer_start": []}}, "are of unequal length"),
        ({"answers": {"text": ["1871"], "answer_start": ["3"]}}, "'answer_start' must be a list of whole numbers"),
        ({"answers": {"text": [7], "answer_start": [3]}}, "'text' must be a list of strings"),
        ({"answers": ["1871"]}, "the field 'answers' must be dict"),
        ({"answers": {"text": ["1905"], "answer_start": [3]}}, "the answer '1905' is not in its context"),
        ({"question": " "}, "the field 'question' is empty"),
        ({"context": 7}, "the field 'context' must be str"),
    ],
)
def test_a_row_of_another_form_is_named(read, tmp_path, spoilt, fragment):
    with pytest.raises(InputError) as caught:
        read(ROWS[1], ROWS[0] | spoilt)
    assert f"{tmp_path / 'rows.jsonl'}, line 2" in str(caught.value)
    assert fragment in str(caught.value)


def test_the_nested_format_says_which_format_rows_are(tmp_path):
    write_json(tmp_path / "rows.json", [ROWS[0]])
    with pytest.raises(InputError, match="take the format squad_hub"):
        squad.read(str(tmp_path / "rows.json"))
