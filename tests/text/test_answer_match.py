"""Which texts hold an answer word for word."""

from uae.text.answer_match import normalised, texts_holding


def test_an_answer_that_stands_everywhere_says_nothing():
    texts = [f"Note {number}: the night watch reports nothing." for number in range(30)]
    assert texts_holding({"night watch", "note 7"}, texts) == {"note 7": [texts[7]]}
    assert texts_holding({"night watch"}, texts[:20]) == {"night watch": texts[:20]}
    assert texts_holding({"night watch"}, texts[:21]) == {}


def test_answers_are_found_whatever_their_length():
    text = "It was the bosun who moved the spare rope from the fore peak to the blue locker."
    answers = {"bosun", "spare rope", "moved spare rope", "moved spare rope from fore peak", "moved spare rope from fore deck"}
    assert set(texts_holding(answers, [text])) == answers - {"moved spare rope from fore deck"}


def test_normalised_as_squad_does():
    assert normalised(" The Bosun's  locker, (an old one) ") == "bosuns locker old one"
