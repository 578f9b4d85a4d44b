import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uae.corpus.chunking import cut
from uae.corpus.records import RawDocument, join_sections
from uae.text.words import count_words


def document(*parts):
    text, sections = join_sections(((title,) if title else (), part) for title, part in parts)
    return RawDocument("d", "", text, sections, "here")


_PIECES = [
    "lamp",
    "Å",
    "e\u0301",  # a combining accent
    "क्षि",
    "漢字かな",
    "😀",
    "👩‍👩‍👧",  # several code points, one sign
    "x" * 90,
    "3.14",
    "Dr.",
    "end. ",
    "why?! ",
    "。",
    " ",
    "\n",
    "\n\n",
    "\n \n\n",
    "\t",
    "\u00a0",
    "\u2028",
    "\u200b",  # no white space, though nothing shows
    "\x1c",  # white space to Python, not to Unicode
    "* ",
]
_TEXTS = st.lists(st.sampled_from(_PIECES) | st.text(max_size=6), max_size=60).map("".join)
_DOCUMENTS = st.lists(st.tuples(st.sampled_from(["", "Use", "Care"]), _TEXTS), min_size=1, max_size=6).map(
    lambda parts: document(*parts)
)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(_DOCUMENTS, st.integers(1, 12))
def test_passages_are_exact_short_whole_and_apart(raw, max_words):
    covered, previous = set(), 0
    titles = {place: section.title for section in raw.sections for place in range(section.start, section.end)}
    for title, start, end in cut(raw, max_words):
        passage = raw.text[start:end]
        assert passage
        assert passage == passage.strip()
        assert count_words(passage) <= max_words
        assert start >= previous
        assert {titles[place] for place in range(start, end) if place in titles} == {title}
        covered.update(range(start, end))
        previous = end
    assert all(place in covered for place, sign in enumerate(raw.text) if not sign.isspace())


def passages(raw, max_words):
    return [(title, raw.text[start:end]) for title, start, end in cut(raw, max_words)]


def test_passages_end_at_sentence_ends_where_a_sentence_fits():
    sentences = [f"Keeper {n} lit lamp {n} at six." for n in range(9)]
    found = passages(document(("", " ".join(sentences))), 15)
    assert [text for _, text in found] == [" ".join(sentences[n : n + 2]) for n in range(0, 9, 2)]


def test_a_sentence_that_does_not_fit_is_cut_between_words():
    words = [f"word{n}" for n in range(25)]
    found = passages(document(("", " ".join(words) + ". Then a short one.")), 10)
    assert all(len(text.split()) <= 10 for _, text in found)
    assert " ".join(text for _, text in found).split() == [*words[:-1], "word24.", "Then", "a", "short", "one."]


def test_paragraphs_are_kept_whole_where_they_fit():
    first, second = "Lamps burn. Oil runs low.", "Horns sound. Ships turn away now."
    assert passages(document(("", f"{first}\n\n{second}")), 8) == [("", first), ("", second)]


def test_short_sections_of_different_titles_are_never_joined():
    raw = document(("Use", "Light it."), ("Care", "Wipe it."), ("Use", "Again."))
    assert passages(raw, 50) == [("Use", "Light it."), ("Care", "Wipe it."), ("Use", "Again.")]


def test_paragraphs_under_one_title_are_joined_while_they_fit():
    raw = document(("Use", "Light it."), ("Use", "Wind the clock."), ("Use", "Go to bed now."))
    assert passages(raw, 6) == [("Use", "Light it.\n\nWind the clock."), ("Use", "Go to bed now.")]


@pytest.mark.parametrize("length", [5, 40_000])
def test_a_word_of_any_length_stays_whole(length):
    word = "ä" * length
    found = passages(document(("", f"before {word} after")), 1)
    assert found == [("", "before"), ("", word), ("", "after")]


def test_scripts_without_spaces_are_cut_too():
    """Nine hundred characters between two spaces are no single word that never fits and is never read to its end."""
    text = "水泵的密封环坏了。请先关闭阀门。" * 60
    lengths = [end - start for _, start, end in cut(document(("", text)), 40)]
    assert sum(lengths) == len(text)
    assert max(lengths) <= 60
    assert len(lengths) > 20


@pytest.mark.parametrize(
    ("text", "number"), [("Two words.", 2), ("显卡 GPU的驱动", 6), ("ปั๊ม", 4), (" \n", 0), ("x-ray 3.14 (a)", 3)]
)
def test_words_are_counted_in_any_script(text, number):
    assert count_words(text) == number
