"""Near-duplicates: every pair above the threshold and no other, the same in every process."""

import os
import random
import subprocess
import sys
from itertools import combinations

import pytest

from uae.text.near_duplicates import jaccard, near_duplicate_pairs, shingles

WORDS = [
    "pump",
    "deck",
    "flood",
    "seal",
    "hands",
    "watch",
    "night",
    "cleaned",
    "replaced",
    "four",
    "after",
    "from",
    "two",
    "main",
]


def test_shingles_ignore_case_punctuation_and_compatibility_forms():
    assert shingles("The pump, on deck.", 2) == {"the pump", "pump on", "on deck"}
    assert shingles("ＴＨＥ pump\non DECK!", 2) == shingles("the pump on deck", 2)


def test_texts_without_spaces_are_near_duplicates_too():
    text = "水泵的密封环坏了请先关闭阀门再更换密封环"
    (found,) = near_duplicate_pairs([text, "风机停了", text.replace("再", "后")], 0.6)
    assert found[:2] == (0, 2)


def test_a_text_shorter_than_a_shingle_is_one_and_a_text_without_words_has_none():
    assert shingles("Deck four", 3) == {"deck four"}
    assert shingles(" ... ", 3) == frozenset()


def test_jaccard_worked_out_by_hand():
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 0.5
    assert jaccard(frozenset("ab"), frozenset("ab")) == 1
    assert jaccard(frozenset("ab"), frozenset()) == jaccard(frozenset(), frozenset()) == 0


def passages() -> list[str]:
    """Two hundred texts of forty words; every fourth is an earlier one with some words replaced, more of them each time."""
    draw = random.Random(5)
    texts: list[list[str]] = []
    for number in range(200):
        words = draw.choices([f"{word}{kind}" for word in WORDS for kind in range(9)], k=40)
        if number % 4 == 3:
            words = list(texts[-2])
            for place in draw.sample(range(40), number // 24):
                words[place] = f"changed{number}"
        texts.append(words)
    return [" ".join(words) for words in texts]


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_agrees_with_comparing_all_pairs(threshold):
    texts = passages()
    sets = [shingles(text) for text in texts]
    expected = [
        (i, j, jaccard(sets[i], sets[j])) for i, j in combinations(range(200), 2) if jaccard(sets[i], sets[j]) >= threshold
    ]
    assert len(expected) > 5
    assert near_duplicate_pairs(texts, threshold) == expected


def test_same_texts_are_pairs_and_empty_ones_are_not():
    texts = ["the pump on deck four", "", "The pump, on deck four.", "...", "a seal for the fan", "the pump on deck four"]
    assert near_duplicate_pairs(texts, 1.0) == [(0, 2, 1.0), (0, 5, 1.0), (2, 5, 1.0)]
    assert near_duplicate_pairs([], 0.8) == near_duplicate_pairs(["", "."], 0.8) == []


def test_size_of_a_shingle_decides_for_sentences():
    texts = ["where is the spare seal of the pump", "where is the spare seal of a pump"]
    assert near_duplicate_pairs(texts, 0.8) == []
    assert near_duplicate_pairs(texts, 0.8, words=1) == [(0, 1, pytest.approx(7 / 8))]


def test_pairs_do_not_depend_on_the_process():
    program = f"from uae.text.near_duplicates import near_duplicate_pairs; print(near_duplicate_pairs({passages()[:60]!r}, 0.5))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        near_duplicate_pairs(["a", "b"], threshold)
