import random

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
    sentences = [f"Keeper {n} lit lamp {n} at six." for n in range(30)]
    found = [text for _, text in passages(document(("", " ".join(sentences))), 15)]
    assert " ".join(found) == " ".join(sentences)
    assert all(text.endswith("six.") for text in found)
    assert {count_words(text) for text in found} == {7, 14}


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


def prose(seed, sentences=440):
    """About 100 passages of 140 words: sentences of 5 to 40 words, a blank line after some of them."""
    chance = random.Random(seed)
    words = ["the", "lamp", "keeper", "oil", "storm", "burns", "wrote", "down", "old", "ships", "under", "night", "rope", "bell"]
    return [
        (" ".join(["So", *chance.choices(words, k=chance.randint(4, 39)), f"w{chance.getrandbits(24)}."]), chance.random() < 0.2)
        for _ in range(sentences)
    ]


def cut_prose(sentences):
    text = "".join(sentence + ("\n\n" if ends else " ") for sentence, ends in sentences)
    return [text for _, text in passages(document(("", text)), 140)]


@pytest.mark.parametrize("seed", range(3))
def test_passages_are_about_as_long_as_they_may_be(seed):
    sizes = sorted(count_words(text) for text in cut_prose(prose(seed)))
    assert len(sizes) > 90
    assert 90 < sum(sizes) / len(sizes) < 115
    assert sizes[len(sizes) // 20] > 50


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", ["a word", "longer", "another", "a new one", "one less"])
def test_an_edited_sentence_changes_at_most_three_of_100_passages(seed, change):
    """Each sixth sentence in turn. Where a sentence goes or comes, a cut may go with it: then rarely four or five change."""
    sentences = prose(seed)
    before = cut_prose(sentences)
    assert 90 < len(before) < 130
    counts = []
    for place in range(0, len(sentences), 6):
        text, ends = sentences[place]
        edited = {
            "a word": [(f"Yesterday {text}", ends)],
            "longer": [(f"Yesterday they said again and again and again that {text}", ends)],
            "another": [("Nothing of this was ever found.", ends)],
            "a new one": [("A new sentence stands here now.", False), (text, ends)],
            "one less": [],
        }[change]
        after = cut_prose([*sentences[:place], *edited, *sentences[place + 1 :]])
        counts.append(len(set(after) - set(before)))
    assert sum(counts) / len(counts) < 1.6
    assert max(counts) <= (3 if change in ("a word", "longer") else 5)
    assert sum(count > 3 for count in counts) <= 0.05 * len(counts)


def test_text_in_front_moves_no_cut_but_the_first():
    sentences = prose(7)
    before, after = cut_prose(sentences), cut_prose(prose(8, 40) + sentences)
    assert len(set(before) - set(after)) <= 2
