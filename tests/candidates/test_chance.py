"""Draws by chance hardly change when the corpus does."""

import pandas as pd
import pytest

from uae.candidates import chance
from uae.candidates.miner import Amounts, Pool, Ranked

QUESTIONS = 100
DRAWN = 10


def passages(documents, per_document, prefix="", word="told"):
    rows = [(f"{prefix}{d}-{n}", f"d{d}", f"passage {n} of {d}, {word}") for d in range(documents) for n in range(per_document)]
    return pd.DataFrame(rows, columns=["passage_id", "doc_id", "text"])


def draws(table, scope, seed=13, documents=10, taken=frozenset()):
    """(question, text) of every passage that is drawn."""
    asked = pd.DataFrame(
        {
            "question_id": [f"q{n}" for n in range(QUESTIONS)],
            "doc_id": [f"d{n % documents}" for n in range(QUESTIONS)],
            "text": [f"what is {n}?" for n in range(QUESTIONS)],
        }
    )
    mined = chance.miner(Pool(asked, table, list(table["text"]), [], scope, Amounts(1, 0, 0, DRAWN, gold=False), seed))
    texts = dict(zip(table["passage_id"], table["text"], strict=True))
    return {(name, texts[found]) for name in asked["question_id"] for found in mined.brings(Ranked(name, (), (), taken))}


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_one_percent_more_passages_change_at_most_two_percent_of_the_draws(scope):
    before = passages(10, 300)
    more = pd.concat([before, passages(10, 3, "new-", "new")])
    first, second = draws(before, scope), draws(more, scope)
    assert len(first) == len(second) == QUESTIONS * DRAWN
    assert 0 < len(second - first) <= 0.02 * len(first)


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_one_percent_fewer_passages_change_at_most_two_percent_of_the_draws(scope):
    before = passages(10, 300)
    fewer = before[before.index % 100 != 7]
    first, second = draws(before, scope), draws(fewer, scope)
    assert 0 < len(first - second) <= 0.02 * len(first)


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_ids_and_the_order_of_rows_do_not_matter(scope):
    table = passages(10, 30)
    renamed = table.assign(passage_id="x" + table["passage_id"]).sample(frac=1, random_state=1)
    assert draws(table, scope) == draws(renamed, scope)


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_the_size_of_a_block_does_not_matter(scope, block, monkeypatch):
    table = pd.concat([passages(10, 20), passages(10, 20, "same-")])  # each text twice: ties
    whole = draws(table, scope)
    monkeypatch.setattr(chance, "_ROWS", block)
    assert draws(table, scope) == whole


def test_another_seed_draws_others():
    table = passages(10, 300)
    assert len(draws(table, "corpus") & draws(table, "corpus", seed=14)) < 0.1 * QUESTIONS * DRAWN


def test_every_passage_is_drawn_about_equally_often():
    counts = pd.Series([text for _, text in draws(passages(1, 50), "corpus", documents=1)]).value_counts()
    assert len(counts) == 50
    assert counts.between(6, 40).all()  # 20 are expected, with a deviation of 4


def test_equal_texts_are_drawn_by_id():
    table = passages(1, 40).assign(text="the same words")
    asked = pd.DataFrame({"question_id": ["q"], "doc_id": ["d0"], "text": ["what?"]})
    mined = chance.miner(Pool(asked, table, list(table["text"]), [], "corpus", Amounts(1, 0, 0, 3, gold=False), 13))
    assert mined.brings(Ranked("q", (), (), frozenset({"0-0"}))) == ["0-1", "0-10", "0-11"]
