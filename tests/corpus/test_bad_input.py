"""What ingest says about sources that are not what they claim to be, and that it then writes nothing."""

import os

import pytest

DOCUMENT = {"id": "lamp", "title": "The lamp", "text": "The lamp burns rape oil. It is lit at dusk."}
QUESTION = {"question": "What burns?", "answers": ["oil"], "document": "lamp"}


@pytest.mark.parametrize(
    ("format", "missing"),
    [
        ("jsonl", "documents.jsonl"),
        ("qasper", ""),
        ("qasper_hub", ""),
        ("squad", ""),
        ("beir", "corpus.jsonl"),
        ("folder", ""),
    ],
)
def test_a_missing_source(tmp_path, refuse, format, missing):
    refuse(tmp_path / "nowhere", format, f"{tmp_path / 'nowhere' / missing} does not exist")


@pytest.mark.parametrize("format", ["jsonl", "beir"])
def test_a_file_where_a_folder_is_expected(write_jsonl, refuse, tmp_path, format):
    refuse(write_jsonl(tmp_path / "documents.jsonl", [DOCUMENT]), format, str(tmp_path / "documents.jsonl"), "folder")


def test_a_folder_where_a_file_is_expected(tmp_path, refuse):
    refuse(tmp_path, "squad", str(tmp_path), "is a folder; a file was expected")


def test_missing_questions(tmp_path, write_jsonl, refuse):
    write_jsonl(tmp_path / "documents.jsonl", [DOCUMENT])
    refuse(tmp_path, "jsonl", f"{tmp_path / 'questions.jsonl'} does not exist")


@pytest.mark.parametrize("format", ["qasper", "squad"])
def test_broken_json_names_the_line(tmp_path, refuse, format):
    (tmp_path / "x.json").write_text('{"data": [\n  {"title": "a",\n   "paragraphs": ]\n}')
    refuse(tmp_path / "x.json", format, f"{tmp_path / 'x.json'}, line 3, column 18: broken JSON")


@pytest.mark.parametrize("line", ['{"id": "horn", "text": "Lou', "not json", '["a", "list"]'])
def test_a_broken_line_is_named(write_corpus, refuse, line):
    path = write_corpus([DOCUMENT], [])
    with open(path / "documents.jsonl", "a") as stream:
        stream.write(f"\n{line}\n")
    refuse(path, "jsonl", f"{path / 'documents.jsonl'}, line 3", "JSON")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", '[1, {"deep": NaN}]'])
def test_metadata_that_json_cannot_hold_are_named_by_document_and_field(write_corpus, refuse, number):
    path = write_corpus([DOCUMENT], [QUESTION])
    with open(path / "documents.jsonl", "a") as stream:
        stream.write(f'{{"id": "horn", "text": "Loud.", "metadata": {{"year": 2024, "weight": {number}}}}}\n')
    refuse(path, "jsonl", f"{path / 'documents.jsonl'}, line 2", "document 'horn'", "'weight' holds NaN or Infinity")


def test_half_of_an_emoji_is_named_by_its_line(tmp_path, write_corpus, refuse):
    """JSON can escape one half of a surrogate pair, which no UTF-8 file can hold: a text that was cut carelessly."""
    path = write_corpus([DOCUMENT], [QUESTION])
    with open(path / "documents.jsonl", "a") as stream:
        stream.write('{"id": "horn", "text": "Loud \\ud83d"}\n')
    refuse(path, "jsonl", f"{path / 'documents.jsonl'}, line 2")


@pytest.mark.parametrize("front", ['---\ntitle: "Loud \\ud83d"\n---\n', '{"title": "Loud \\ud83d"}\n\n'], ids=["YAML", "JSON"])
def test_half_of_an_emoji_in_front_matter_is_named_by_its_file(tmp_path, refuse, front):
    (tmp_path / "horn.md").write_text(f"{front}The horn is loud.\n")
    refuse(tmp_path, "folder", f"{tmp_path / 'horn.md'}: half a character")


def test_text_that_is_not_utf_8_is_named_by_its_line(write_corpus, refuse):
    path = write_corpus([DOCUMENT], [QUESTION])
    with open(path / "questions.jsonl", "ab") as stream:
        stream.write('{"question": "Où?"}\n'.encode("latin-1"))
    refuse(path, "jsonl", f"{path / 'questions.jsonl'}, line 2", "0xf9", "is not UTF-8", "iconv")


def test_a_markdown_file_that_is_not_utf_8(tmp_path, refuse):
    (tmp_path / "light.md").write_bytes("# Light\n\nA café.\n".encode("latin-1"))
    refuse(tmp_path, "folder", f"{tmp_path / 'light.md'}, line 3", "is not UTF-8")


@pytest.mark.parametrize(
    ("value", "fragment"),
    [("9" * 5000, "more than 4300 digits"), ("[" * 100_000 + "]" * 100_000, "nested too deep")],
    ids=["long number", "deep list"],
)
@pytest.mark.parametrize("format", ["jsonl", "squad"])
def test_json_that_python_cannot_hold(tmp_path, write_corpus, refuse, format, value, fragment):
    path = write_corpus([DOCUMENT], [QUESTION])
    with open(path / "documents.jsonl", "a") as stream:
        stream.write(f'{{"id": "horn", "text": "Loud.", "metadata": {{"a": {value}}}}}\n')
    (tmp_path / "x.json").write_text(f'{{"data":\n{value}}}')
    if format == "jsonl":
        refuse(path, format, f"{path / 'documents.jsonl'}, line 2: ", fragment)
    else:
        refuse(tmp_path / "x.json", format, "x.json", ", line 2: " if "digits" in fragment else ": ", fragment)


def test_a_link_to_itself(tmp_path, refuse):
    (tmp_path / "loop.md").symlink_to("loop.md")
    refuse(tmp_path, "folder", f"{tmp_path / 'loop.md'} cannot be read")


def test_a_file_name_that_is_not_utf_8(tmp_path, refuse):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("Coffee.")
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    refuse(tmp_path, "folder", r"'caf\udce9.md' is not UTF-8; rename it")


def test_document_ids_used_twice(write_corpus, refuse):
    path = write_corpus([DOCUMENT, DOCUMENT | {"text": "Other."}], [])
    refuse(path, "jsonl", "documents.jsonl, line 2: the id 'lamp' is used already in", "documents.jsonl, line 1")


def test_question_ids_used_twice(write_corpus, refuse):
    path = write_corpus([DOCUMENT], [QUESTION | {"id": "q1"}, QUESTION | {"id": "q1", "question": "Why?"}])
    refuse(path, "jsonl", "questions.jsonl, line 2: the id 'q1' is used already in", "questions.jsonl, line 1")


@pytest.mark.parametrize("key", [[1], {}, None, 1.5])
def test_an_id_of_a_question_of_another_form(write_corpus, refuse, key):
    refuse(write_corpus([DOCUMENT], [QUESTION | {"id": key}]), "jsonl", "line 1: the id must be a string", repr(key))


@pytest.mark.parametrize("field", ["id", "text"])
def test_a_document_without_a_field(write_corpus, refuse, field):
    broken = {name: value for name, value in DOCUMENT.items() if name != field}
    refuse(write_corpus([broken], []), "jsonl", f"documents.jsonl, line 1: the field '{field}' is missing")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_document(write_corpus, refuse, text):
    path = write_corpus([DOCUMENT | {"text": text}], [])
    refuse(path, "jsonl", "documents.jsonl, line 1 holds no text", "ingest.skip_empty=true")


def test_a_document_of_empty_sections(write_corpus, refuse):
    refuse(write_corpus([{"id": "lamp", "sections": [{"text": ""}, {"text": " "}]}], []), "jsonl", "line 1 holds no text")


def test_all_empty_documents_are_named_at_once(tmp_path, refuse, write_jsonl):
    names = ["a.md", "sub/b.txt", "c.html"]
    for name in [*names, "d.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Lamp." if name == "d.md" else "\n")
    write_jsonl(tmp_path / "questions.jsonl", [])
    refuse(tmp_path, "folder", "3 documents hold no text", *(str(tmp_path / name) for name in names))


@pytest.mark.parametrize("sections", [[], ["Light it."], "Light it."], ids=["none", "not objects", "no list"])
def test_sections_of_another_form(write_corpus, refuse, sections):
    refuse(write_corpus([{"id": "lamp", "sections": sections}], []), "jsonl", "documents.jsonl, line 1", "section")


def test_metadata_of_another_form(write_corpus, refuse):
    path = write_corpus([DOCUMENT | {"metadata": "1890"}], [QUESTION | {"split": "train"}])
    refuse(path, "jsonl", "documents.jsonl, line 1", "metadata")


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        (DOCUMENT | {"titel": "Lamp"}, "line 1: unknown field 'titel'; the fields are id, metadata, sections, text"),
        ({"id": "a", "sections": [{"heading": "Use", "text": "Light it."}]}, "line 1, section 1: unknown field 'heading'"),
        (DOCUMENT | {"sections": [{"text": "Light it."}]}, "line 1: give 'text' or 'sections', not both"),
    ],
)
def test_fields_of_a_document_that_would_be_dropped(write_corpus, refuse, row, fragment):
    refuse(write_corpus([row], []), "jsonl", f"documents.jsonl, {fragment}")


@pytest.mark.parametrize("value", ["NaN", "7.5", "true", '["a"]'])
@pytest.mark.parametrize(
    "row",
    [
        '{"id": "a", "text": "Loud.", "title": %s}',
        '{"id": "a", "text": "Loud.", "version": %s}',
        '{"id": "a", "sections": [{"text": "Loud.", "title": %s}]}',
    ],
    ids=["title", "version", "section title"],
)
def test_what_should_be_text_is_not_made_text(write_corpus, refuse, row, value):
    path = write_corpus([], [])
    (path / "documents.jsonl").write_text(row % value)
    refuse(path, "jsonl", "documents.jsonl, line 1", "'version'" if "version" in row else "'title'", "must be str")


@pytest.mark.parametrize("name", ["empty.md", "empty.txt", "empty.html"])
def test_an_empty_file_in_a_folder(tmp_path, refuse, write_jsonl, name):
    (tmp_path / name).write_text("<style>p {}</style>\n" if name.endswith("html") else " \n\n")
    write_jsonl(tmp_path / "questions.jsonl", [])
    refuse(tmp_path, "folder", f"{tmp_path / name} holds no text", "fill or remove", "ingest.skip_empty=true")


def test_a_document_of_its_title_only(tmp_path, refuse, write_jsonl):
    (tmp_path / "light.md").write_text("# Light\n")
    write_jsonl(tmp_path / "questions.jsonl", [])
    refuse(tmp_path, "folder", f"{tmp_path / 'light.md'} holds no text")


def test_no_documents(write_corpus, refuse):
    refuse(write_corpus([], []), "jsonl", "the source holds no documents")


def test_a_question_without_its_text(write_corpus, refuse):
    broken = {name: value for name, value in QUESTION.items() if name != "question"}
    refuse(write_corpus([DOCUMENT], [QUESTION, broken]), "jsonl", "questions.jsonl, line 2: the field 'question' is missing")


def test_an_empty_question(write_corpus, refuse):
    refuse(write_corpus([DOCUMENT], [QUESTION | {"question": " "}]), "jsonl", "line 1: the field 'question' is empty")


@pytest.mark.parametrize("answers", [[""], ["oil", " "], [3]])
def test_blank_answers(write_corpus, refuse, answers):
    refuse(write_corpus([DOCUMENT], [QUESTION | {"answers": answers}]), "jsonl", "questions.jsonl, line 1: ", "'answers'")


def test_answers_that_are_one_string(write_corpus, refuse):
    path = write_corpus([DOCUMENT], [QUESTION | {"answers": "oil"}])
    refuse(path, "jsonl", "questions.jsonl, line 1: the field 'answers' must be list, not str")


@pytest.mark.parametrize("key", ["horn", "", 7, ["lamp"]])
def test_an_unknown_document(write_corpus, refuse, key):
    refuse(write_corpus([DOCUMENT], [QUESTION | {"document": key}]), "jsonl", "questions.jsonl, line 1", "document", repr(key))


def test_all_questions_about_documents_that_are_gone_are_named_at_once(write_corpus, refuse):
    """Who deletes a document would else remove one question after another, and start a run after each."""
    path = write_corpus([DOCUMENT], [QUESTION, *(QUESTION | {"document": f"horn-{n}"} for n in range(120))])
    first, last = (f"questions.jsonl, line {n + 2}: there is no document 'horn-{n}'" for n in (0, 99))
    refuse(path, "jsonl", "120 questions name no document that is there", "have to go, too", first, last, "and 20 more")


def test_evidence_without_its_document(write_corpus, refuse):
    row = {"question": "What burns?", "answers": ["oil"], "evidence": ["burns rape oil"]}
    refuse(write_corpus([DOCUMENT], [row]), "jsonl", "questions.jsonl, line 1: evidence is given, but the field 'document'")


@pytest.mark.parametrize("quote", ["burns whale oil", ""])
def test_evidence_that_is_not_in_the_document(write_corpus, refuse, quote):
    path = write_corpus([DOCUMENT], [QUESTION | {"evidence": ["The lamp burns", quote]}])
    refuse(path, "jsonl", f"questions.jsonl, line 1: this evidence is not in the document 'lamp': {quote!r}")


@pytest.mark.parametrize("evidence", ["oil", [["oil"]]], ids=["one string", "not strings"])
def test_evidence_of_another_form(write_corpus, refuse, evidence):
    """One string is a list of letters to Python, and every letter is found somewhere."""
    path = write_corpus([DOCUMENT], [QUESTION | {"evidence": evidence, "split": "train"}])
    refuse(path, "jsonl", "questions.jsonl, line 1: ", "'evidence' must be", "list")


def test_an_unknown_field_of_a_question(write_corpus, refuse):
    path = write_corpus([DOCUMENT], [QUESTION | {"evidense": []}])
    refuse(path, "jsonl", "questions.jsonl, line 1: unknown field 'evidense'", "answers, document, evidence")


@pytest.mark.parametrize(
    ("field", "value", "allowed"), [("split", "dev", "train, validation, test"), ("origin", "me", "human, feedback")]
)
def test_an_impossible_split_or_origin(write_corpus, refuse, field, value, allowed):
    path = write_corpus([DOCUMENT], [QUESTION | {field: value}])
    refuse(path, "jsonl", f"questions.jsonl, line 1: {field} must be one of {allowed}", repr(value))
