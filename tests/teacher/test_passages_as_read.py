"""What the teacher reads of a passage: what the passage template says, and asked anew when it changes."""

from dataclasses import replace

import pytest
from labelling import TEMPLATE, CountingTeacher, asking, ids_of, run, tables, write_corpus

from uae.io.tables import PASSAGES, read_table, write_table

HEADED = replace(TEMPLATE, passage_template="{section}\n{text}")


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path, questions=3, per_question=2, passages=3)
    path = tables(tmp_path)["passages_path"]
    rows = read_table(path, PASSAGES)
    write_table(path, PASSAGES, rows.assign(section=[f"Shelves > No. {n}" for n in range(len(rows))]))
    return tmp_path


def test_the_prompt_holds_the_heading(corpus):
    teacher = CountingTeacher()
    run(corpus, asking(teacher, templates=(HEADED,)))
    texts = {ids_of(pair)[1]: pair.passage for pair in teacher.asked}
    assert texts[""] is None
    assert texts["p01"].startswith("Shelves > No. 1\nShelf 1 holds 7 boxes.")
    assert HEADED.prompt("How many?", texts["p01"]).startswith("Passage: Shelves > No. 1\nShelf 1 holds")


def test_a_changed_passage_template_is_asked_anew_and_an_equal_one_is_not(corpus):
    teacher = CountingTeacher()
    first = run(corpus, asking(teacher))["readings_asked_now"]
    assert first == 3 * (2 + 1)
    assert run(corpus, asking(teacher, templates=(HEADED,)))["readings_asked_now"] == first
    assert run(corpus, asking(teacher, templates=(HEADED,)))["readings_asked_now"] == 0
    assert run(corpus, asking(teacher))["readings_asked_now"] == 0
