"""A release knows what it was trained on, and is measured on none of it."""

import pandas as pd
import pytest

from uae.io.errors import ArtefactError
from uae.io.tables import TRAINED_ON, read_table, write_table
from uae.validation.trained_on import FILE, came_since, check_is_of, check_not_trained_on, write_trained_on


def passages(*keys, prefix="d"):
    return pd.DataFrame({"doc_id": [f"{prefix}{key}" for key in keys], "source": keys})


def question(text, key, split="test", prefix="d"):
    return {"text": text, "doc_id": f"{prefix}{key}" if key else "", "split": split, "source": f"line of {text}"}


LEARNT = [question("How high?", "a.md", "train"), question("How low?", "b.md", "validation"), question("How far?", "c.md")]


@pytest.fixture
def check(tmp_path):
    """Measure what learnt ``LEARNT`` on these questions. Document ids differ, as after an edit."""
    write_trained_on(tmp_path / FILE, pd.DataFrame(LEARNT), passages("a.md", "b.md", "c.md"))

    def run(*asked, scope="document"):
        table = pd.DataFrame([question(*one, prefix="new-") for one in asked])
        check_not_trained_on(tmp_path, "release 7", table, passages("a.md", "b.md", "c.md", "d.md", prefix="new-"), scope)

    return run


def test_what_was_not_learnt_may_be_asked(check):
    check(("How far?", "c.md"), ("How many?", "d.md"), ("How high?", "d.md"))
    check(("How far?", "c.md"), ("How many?", None), scope="corpus")


@pytest.mark.parametrize("scope", ["document", "corpus"])
@pytest.mark.parametrize("key", ["a.md", "b.md"])
def test_another_question_of_a_document_that_was_learnt_is_refused_and_named(check, scope, key):
    with pytest.raises(ArtefactError, match=rf"release 7 was trained on .*: 1 documents: {key}\. .*ledger of splits"):
        check(("How far?", "c.md"), ("How wide?", key), scope=scope)


def test_a_question_that_was_learnt_is_refused_where_it_is_asked_of_the_whole_corpus(check):
    for asked, scope in ((("how HIGH", "d.md"), "corpus"), (("How high?", None), "corpus"), (("How low?", None), "document")):
        with pytest.raises(ArtefactError, match=rf"1 questions: '{asked[0].replace('?', '.')}' \(line of"):
            check(asked, scope=scope)


def test_many_are_counted_and_a_few_named(tmp_path):
    keys = [f"{n}.md" for n in range(9)]
    write_trained_on(tmp_path / FILE, pd.DataFrame([question("Q?", key, "train") for key in keys]), passages(*keys))
    with pytest.raises(ArtefactError, match=r"9 documents: 0\.md, 1\.md, 2\.md, 3\.md, 4\.md and 4 more"):
        check_not_trained_on(tmp_path, "it", pd.DataFrame([question("R?", key) for key in keys]), passages(*keys), "document")


def test_a_release_that_does_not_say_is_measured_with_a_warning(tmp_path, caplog):
    check_not_trained_on(tmp_path, "release 7", pd.DataFrame(LEARNT), passages("a.md"), "document")
    assert "release 7 does not say what it was trained on" in caplog.text


def test_the_record_holds_hashes_only(check, tmp_path):
    table = read_table(tmp_path / FILE, TRAINED_ON)
    assert table["kind"].value_counts().to_dict() == {"document": 2, "question": 2, "known document": 2}
    assert table["key"].str.fullmatch("[0-9a-f]{24}").all()


def test_test_documents_that_came_since_are_told_from_those_that_were_held_out(tmp_path):
    alone = [question("Who?", None), question("When?", None, "train")]
    write_trained_on(tmp_path / FILE, pd.DataFrame([*LEARNT, *alone]), passages("a.md", "b.md", "c.md", "unasked.md"))
    asked = [
        question("How far?", "c.md"),
        question("New?", "c.md"),
        question("Old?", "unasked.md"),
        question("How many?", "d.md"),
    ]
    asked += [question("Renamed?", "c-renamed.md"), question("Who?", None), question("Why?", None)]
    table = pd.DataFrame(asked)
    table["question_id"] = table["text"]
    table.loc[table["text"] == "Renamed?", "doc_id"] = "dc.md"  # its id is the one it had
    now = pd.DataFrame({"doc_id": ["dc.md", "dd.md", "dunasked.md"], "source": ["c-renamed.md", "d.md", "unasked.md"]})
    assert came_since(tmp_path, table, now) == {"How many?", "Why?"}


def test_a_release_of_an_earlier_version_does_not_say_what_it_knew(tmp_path):
    assert came_since(tmp_path, pd.DataFrame(), passages()) is None
    write_table(tmp_path / FILE, TRAINED_ON, [{"kind": "document", "key": "0" * 24}])
    assert came_since(tmp_path, pd.DataFrame(), passages()) is None


def test_a_record_of_another_encoder_is_refused(tmp_path):
    """Restored beside another student, it would let that be measured on what it learnt."""
    path = tmp_path / FILE
    write_trained_on(path, pd.DataFrame(LEARNT), passages("a.md", "b.md", "c.md"), "ab" * 32)
    check_is_of(path, "ab" * 32)
    with pytest.raises(ArtefactError, match=r"is of encoder abababababab, and the encoder is cdcdcdcdcdcd: run the stage train"):
        check_is_of(path, "cd" * 32)
    write_trained_on(path, pd.DataFrame(LEARNT), passages("a.md", "b.md", "c.md"))
    check_is_of(path, "cd" * 32)  # of an earlier version, which did not say
