import json

import pytest

from uae.corpus.adapters import squad
from uae.io.errors import InputError

FIRST = "The bell weighs nine hundred kilos. It was cast in 1871, and rung in 1871."
SECOND = "A new clapper came in 1905."


def qa(question, *answers, **other):
    return {"question": question, "id": "q1", "answers": [{"text": t, "answer_start": s} for t, s in answers]} | other


def article(*paragraphs, title="The harbour bell"):
    return {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs]}


@pytest.fixture
def write(tmp_path):
    def write_articles(*articles):
        path = tmp_path / "squad.json"
        path.write_text(json.dumps({"version": "1", "data": articles}), encoding="utf-8")
        return str(path)

    return write_articles


def test_an_articles_paragraphs_become_one_document(write, sections_of):
    source = squad.read(write(article((FIRST, []), (SECOND, [])), article(("Alone.", []), title="Other")))

    bell, other = source.documents

    assert (bell.title, other.title) == ("The harbour bell", "Other")
    assert sections_of(bell) == [("", FIRST), ("", SECOND)]
    assert bell.text == f"{FIRST}\n\n{SECOND}"


def test_answers_are_found_in_their_own_paragraph(write, evidence_of):
    start = SECOND.index("1905")
    source = squad.read(write(article((FIRST, [qa("When cast?", ("1871", 52))]), (SECOND, [qa("When new?", ("1905", start))]))))

    cast, new = source.questions

    assert (cast.answers, new.answers) == (("1871",), ("1905",))
    assert new.evidence[0].start == len(FIRST) + 2 + start
    assert evidence_of(source, new) == ["1905"]
    assert cast.document == new.document == source.documents[0].key


@pytest.mark.parametrize("shift", [-3, -1, 0, 2])
def test_of_two_occurrences_the_one_nearest_to_answer_start_is_meant(write, shift):
    last = FIRST.rindex("1871")
    (asked,) = squad.read(write(article((FIRST, [qa("When rung?", ("1871", last + shift))])))).questions
    assert [(span.start, span.end) for span in asked.evidence] == [(last, last + 4)]


def test_repeated_answers_are_kept_once(write):
    same = FIRST.index("nine")
    (asked,) = squad.read(
        write(article((FIRST, [qa("How heavy?", ("nine hundred", same), ("nine hundred", same), ("nine", same))])))
    ).questions
    assert asked.answers == ("nine hundred", "nine")
    assert len(asked.evidence) == 2


def test_an_impossible_question_is_skipped_and_counted(write):
    source = squad.read(write(article((FIRST, [qa("Who?", is_impossible=True), qa("What?", ("bell", 4), is_impossible=False)]))))
    assert [q.text for q in source.questions] == ["What?"]
    assert source.skipped == {"question marked impossible": 1}


def test_articles_with_one_context_are_one_document_with_both_questions(write):
    """SQuAD conversions write an article a question: the context stands again with each."""
    source = squad.read(
        write(
            article((FIRST, [qa("When cast?", ("1871", 52))]), title=""),
            article((FIRST, [qa("How heavy?", ("nine hundred", 16))]), title=""),
        )
    )
    (document,) = source.documents
    assert [(question.text, question.document) for question in source.questions] == [
        ("When cast?", document.key),
        ("How heavy?", document.key),
    ]
    assert source.skipped == {"article with the paragraphs of an earlier one, which has its questions": 1}


def test_a_paragraph_that_stands_twice_in_an_article_is_read_once(write, sections_of, evidence_of):
    source = squad.read(
        write(article((FIRST, [qa("When cast?", ("1871", 52))]), (SECOND, []), (FIRST, [qa("How heavy?", ("nine hundred", 16))])))
    )
    assert sections_of(source.documents[0]) == [("", FIRST), ("", SECOND)]
    assert [evidence_of(source, question) for question in source.questions] == [["1871"], ["nine hundred"]]
    assert source.skipped == {"paragraph with the text of an earlier one, which has its questions": 1}


def test_a_blank_question_is_left_out_only_where_it_is_marked_impossible(write):
    source = squad.read(write(article((FIRST, [qa(" ", is_impossible=True), qa("How heavy?", ("nine hundred", 16))]))))
    assert [question.text for question in source.questions] == ["How heavy?"]
    assert source.skipped == {"blank question marked impossible": 1}
    assert "question q1: the field 'question' is empty" in refused(write(article((FIRST, [qa(" ", ("nine", 16))]))))


def test_an_article_without_text_is_empty_and_its_questions_are_counted(write):
    source = squad.read(write(article((" ", [qa("When?")])), article((SECOND, []), title="Other")))
    assert len(source.documents) == len(source.empty) == 1
    assert source.skipped["question about a document without text"] == 1


def test_covid_qa_rows_with_integer_ids_and_no_title(write):
    """COVID-QA has integer ids, a document_id with each paragraph and question, and no titles."""
    paragraph = {
        "context": f"\n{SECOND}\nIt hangs.",
        "document_id": 630,
        "qas": [{"question": "What came?", "id": 262, "is_impossible": False, "document_id": 630}],
    }
    paragraph["qas"][0]["answers"] = [{"text": "A new clapper", "answer_start": 1}]

    source = squad.read(write({"paragraphs": [paragraph]}))

    assert source.documents[0].title == SECOND
    assert source.questions[0].answers == ("A new clapper",)
    assert "question 262" in source.questions[0].where


def test_ids_do_not_depend_on_the_order_of_articles(write, run_ingest):
    articles = [
        article((text, [qa("What?", (text.split()[1], 0))]), title=title)
        for title, text in [("Bell", FIRST), ("Bell", SECOND), ("", "A rope hangs below it."), ("Oil", "Six casks of oil came.")]
    ]
    before = run_ingest(write(*articles), "squad")
    after = run_ingest(write(*articles[::-1]), "squad")

    assert set(before.documents["doc_id"]) == set(after.documents["doc_id"])
    assert set(before.questions["question_id"]) == set(after.questions["question_id"])


def refused(path):
    with pytest.raises(InputError) as caught:
        squad.read(path)
    return str(caught.value)


def test_an_answer_that_is_not_in_its_paragraph_is_refused(write):
    message = refused(write(article((FIRST, [qa("When?", ("1905", 3))]), (SECOND, []))))
    assert all(part in message for part in ("squad.json", "article 1", "question q1", "'1905'"))


@pytest.mark.parametrize("answers", [[], None, "absent"])
def test_a_question_without_answers_is_left_to_validation(write, answers):
    asked = qa("When?") | {"answers": answers}
    if answers == "absent":
        del asked["answers"]
    (read,) = squad.read(write(article((FIRST, [asked])))).questions
    assert (read.answers, read.evidence) == ((), ())


def test_an_answer_start_that_is_no_number_is_refused(write):
    message = refused(write(article((FIRST, [qa("When?", ("1871", "52"))]))))
    assert all(part in message for part in ("question q1", "'answer_start'", "int"))


def test_an_article_that_is_no_object_is_refused(write):
    message = refused(write(article((FIRST, [])), 7))
    assert "article 2" in message


@pytest.mark.parametrize(
    ("spoilt", "fragment"),
    [
        (
            {"paragraphs": [{"context": FIRST, "qas": ["x"]}]},
            "article 1, question ?: expected a JSON object with 'question', found str",
        ),
        ({"paragraphs": [{"context": FIRST, "qas": []}], "title": 5}, "article 1: the field 'title' must be str"),
    ],
)
def test_parts_of_another_form_are_refused(write, spoilt, fragment):
    assert fragment in refused(write(spoilt))


def test_a_file_that_is_a_list_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    assert "list 'data'" in refused(str(tmp_path / "list.json"))
