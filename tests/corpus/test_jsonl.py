import pytest

from uae.corpus.adapters import jsonl
from uae.corpus.records import Section


def test_a_document_of_plain_text_is_one_untitled_section(write_corpus):
    text = "The lamp burns rape oil.\n\nIt is lit at dusk."
    path = write_corpus([{"id": "lamp", "title": "The lamp", "text": text}], [])

    (document,) = jsonl.read(str(path)).documents

    assert (document.key, document.title, document.text, document.version, document.metadata) == (
        "lamp",
        "The lamp",
        text,
        "",
        {},
    )
    assert document.sections == (Section("", 0, len(text)),)


def test_sections_version_and_metadata_come_through(write_corpus, sections_of):
    row = {
        "id": "horn",
        "title": "The fog horn",
        "version": 3,
        "metadata": {"keeper": "Åse"},
        "sections": [
            {"title": "Use", "text": " Sound it twice. \n"},
            {"text": "No title here."},
            {"title": "Gap", "text": "Ends."},
        ],
    }

    (document,) = jsonl.read(str(write_corpus([row], []))).documents

    assert sections_of(document) == [("Use", "Sound it twice."), ("", "No title here."), ("Gap", "Ends.")]
    assert document.text == "Sound it twice.\n\nNo title here.\n\nEnds."
    assert (document.version, document.metadata) == ("3", {"keeper": "Åse"})


def test_null_is_no_text(write_corpus, sections_of):
    row = {"id": "a", "title": None, "version": None, "metadata": None, "sections": [{"title": None, "text": "Loud."}]}

    (document,) = jsonl.read(str(write_corpus([row], []))).documents

    assert (document.title, document.version, document.metadata) == ("", "", {})
    assert sections_of(document) == [("", "Loud.")]


def test_a_question_keeps_its_answers_document_split_and_origin(write_corpus):
    path = write_corpus(
        [{"id": "lamp", "text": "The lamp burns rape oil."}],
        [
            {
                "question": " What burns? ",
                "answers": [" rape oil ", "oil"],
                "document": "lamp",
                "split": "test",
                "origin": "feedback",
            },
            {"question": "What else?", "answers": ["nothing"]},
        ],
    )

    asked, free = jsonl.read(str(path)).questions

    assert (asked.text, asked.answers, asked.document) == ("What burns?", ("rape oil", "oil"), "lamp")
    assert (asked.split, asked.origin) == ("test", "feedback")
    assert (free.document, free.split, free.origin, free.evidence) == (None, None, "human", ())


def test_a_quote_is_found_across_other_white_space_and_section_borders(write_corpus, evidence_of):
    sections = [{"title": "A", "text": "Trim the\n  wick (at dawn)."}, {"title": "B", "text": "Wind the clock."}]
    quotes = ["the wick (at dawn).", "dawn). Wind the"]
    path = write_corpus(
        [{"id": "a", "sections": sections}], [{"question": "How?", "answers": ["so"], "document": "a", "evidence": quotes}]
    )

    source = jsonl.read(str(path))

    assert evidence_of(source, source.questions[0]) == ["the\n  wick (at dawn).", "dawn).\n\nWind the"]


def test_line_separators_inside_a_string_do_not_break_the_line(tmp_path, write_corpus):
    text = "One\u2028two\u0085three"
    path = write_corpus([{"id": "a", "text": text}, {"id": "b", "text": "Next."}], [])

    assert [document.text for document in jsonl.read(str(path)).documents] == [text, "Next."]


def test_blank_lines_count_in_line_numbers_but_hold_no_row(tmp_path, write_corpus):
    path = write_corpus([], [])
    (path / "documents.jsonl").write_text('\n{"id": "a", "text": "Dusk."}\r\n\r\n{"id": "b", "text": "Dawn."}\n')

    documents = jsonl.read(str(path)).documents

    assert [d.where.rpartition(", ")[2] for d in documents] == ["line 2", "line 4"]


@pytest.mark.parametrize("given", [{}, {"answers": []}, {"answers": None}], ids=["absent", "empty", "null"])
def test_a_question_without_answers_is_left_to_validation(write_corpus, run_ingest, given):
    question = {"question": "What burns?", "document": "lamp"} | given
    path = write_corpus([{"id": "lamp", "text": "The lamp burns rape oil."}], [question])
    assert run_ingest(path).questions["answers"].tolist() == [[]]
