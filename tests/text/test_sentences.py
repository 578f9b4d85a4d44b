import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uae.text.sentences import sentences


def cut(text):
    return [text[sentence.start : sentence.end] for sentence in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One lamp. Two lamps.", ["One lamp.", "Two lamps."]),
        ("It is 3.14 m high, e.g. above the rocks.", ["It is 3.14 m high, e.g. above the rocks."]),
        ("Why? because! he said so.", ["Why?", "because!", "he said so."]),
        ('He said "No." She left (at six.) Then rain came…', ['He said "No."', "She left (at six.)", "Then rain came…"]),
        ("水泵的密封环坏了。请先关闭阀门！好", ["水泵的密封环坏了。", "请先关闭阀门！", "好"]),
        ("A wrapped\nline goes on.\nA new one\n- does not", ["A wrapped\nline goes on.", "A new one", "- does not"]),
        ("no full stop\n\nsmall letters", ["no full stop", "small letters"]),
        (" \n\t ", []),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text, expected):
    assert cut(text) == expected


def test_boundaries_know_blank_lines_and_line_breaks():
    found = sentences("One. Two.\nThree.\n\nFour.")
    assert [sentence.breaks for sentence in found] == [0, 1, 2, 2]


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["Ab", "c", ".", "!", "。", " ", "\n", '"', "…", "\u2028"]), max_size=40).map("".join))
def test_nothing_is_lost_and_no_edge_is_white_space(text):
    found = sentences(text)
    assert "".join("".join(cut(text)).split()) == "".join(text.split())
    assert all(text[s.start : s.end].strip() == text[s.start : s.end] != "" for s in found)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("run", [".", "!", " ", "\n", '"', ".!"])
def test_long_runs_of_one_sign_are_read_in_linear_time(run):
    """In quadratic time this would not end within minutes."""
    assert cut("a" + run * 200_000 + "b")[0][0] == "a"
