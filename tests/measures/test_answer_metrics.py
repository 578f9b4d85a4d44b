"""Every figure is worked out by hand in a comment."""

import pytest

from uae.measures.answers import ANSWER_METRICS, answer_metrics

GOLD = ["four years", "4 years"]
PASSAGES = ["The seal is replaced after four years.", "A torn seal: at once."]


@pytest.mark.parametrize(
    ("prediction", "f1", "exact"),
    [
        ("The  four Years!", 1, 1),  # articles, case, punctuation and spaces aside
        ("four years and more", 2 * (2 / 4) * 1 / (2 / 4 + 1), 0),
        ("five", 0, 0),
        ("", 0, 0),
        ("4 years", 1, 1),  # the other gold answer
    ],
)
def test_token_f1_and_exact_match(prediction, f1, exact):
    got = answer_metrics(prediction, GOLD, PASSAGES)
    assert tuple(got) == ANSWER_METRICS
    assert (got["token_f1"], got["exact_match"]) == (pytest.approx(f1), exact)


@pytest.mark.parametrize(
    ("prediction", "recall", "precision"),
    [
        ("The seal is replaced after four years.", 1, 1),  # a whole sentence has all of the gold answer, and all is in a passage
        ("four months", 1 / 2, 1 / 2),  # "months" stands nowhere
        ("years years", 1 / 2, 1 / 2),  # each word counts as often as it stands in both texts
        ("seal seal seal", 0, 2 / 3),  # it stands in both passages
        ("torn, at once", 0, 1),  # faithful and wrong
        ("4 years", 1, 1 / 2),  # right, and not the passage's word
        ("", 0, 0),
        ("the!", 0, 0),  # no word is left
    ],
)
def test_answer_recall_and_k_precision(prediction, recall, precision):
    got = answer_metrics(prediction, GOLD, PASSAGES)
    assert (got["answer_recall"], got["k_precision"]) == (pytest.approx(recall), pytest.approx(precision))


def test_a_gold_answer_without_words_is_not_found():
    assert answer_metrics("four", ["the"], PASSAGES)["answer_recall"] == 0


def test_without_passages_nothing_is_faithful():
    assert answer_metrics("four years", GOLD, [])["k_precision"] == 0
