"""Ids outlive edits: of documents, of passages whose text stays, of questions."""

import random

import pytest

from uae.corpus.identity import Found, Known, content_of, recognise

WORDS = [
    f"{first}{second}" for first in ("lamp", "rope", "sail", "tide", "crane", "buoy") for second in ("s", "man", "house", "line")
]
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def sentence(chance, words=20):
    return " ".join(chance.choice(WORDS) for _ in range(words)).capitalize() + f" {chance.getrandbits(24)}."


def rows(texts, asked=None):
    """JSONL of documents and of one question on each, which asks about its first sentence."""
    documents = [{"id": key, "text": " ".join(text)} for key, text in texts.items()]
    questions = [
        {"question": f"Which lines begin {which}?", "answers": ["these"], "document": key, "evidence": [text[0]]}
        for which, (key, text) in enumerate(texts.items())
        if asked is None or key in asked
    ]
    return documents, questions


def ids(found, key):
    return found.passages[found.passages["source"] == key].set_index("passage_id")["text"].to_dict()


@pytest.mark.parametrize("seed", range(12))
def test_one_edited_sentence_of_a_hundred_passages_changes_at_most_three(write_corpus, run_ingest, seed):
    chance = random.Random(seed)
    text, other = [sentence(chance) for _ in range(500)], [sentence(chance) for _ in range(9)]
    before = run_ingest(write_corpus(*rows({"log": text, "other": other})), passage_words=140)
    assert len(ids(before, "log")) >= 75
    text = [*text]
    text[chance.randrange(len(text))] = sentence(chance)
    after = run_ingest(write_corpus(*rows({"log": text, "other": other})), passage_words=140, again=True)

    assert len(set(ids(after, "log")) - set(ids(before, "log"))) <= 3


@pytest.mark.parametrize("seed", range(25))
def test_no_history_changes_the_ids_of_what_it_leaves_alone(write_corpus, run_ingest, seed):
    """Adds, edits, renames and deletions in one step. Passages whose text stays keep their ids, and so do questions."""
    chance = random.Random(seed)
    texts = {f"d{n}": [sentence(chance, 9) for _ in range(chance.randint(12, 30))] for n in range(8)}
    before = run_ingest(write_corpus(*rows(texts)), split=SPLITS)

    edited, renamed, deleted, *untouched = chance.sample(sorted(texts), 8)
    place = chance.randrange(1, len(texts[edited]))
    now = {key: text for key, text in texts.items() if key != deleted}
    now[edited] = [*texts[edited][:place], sentence(chance, 9), *texts[edited][place + chance.randint(0, 1) :]]
    now = {f"moved/{key}" if key == renamed else key: text for key, text in now.items()}
    now["new"] = [sentence(chance, 9) for _ in range(10)]
    documents, questions = rows(now)
    for row in questions:  # the words of a question stay, whatever its place in the file
        key = row["document"].removeprefix("moved/")
        row["question"] = f"Which lines begin {list(texts).index(key)}?" if key in texts else "Which are new?"
    chance.shuffle(documents)
    after = run_ingest(write_corpus(documents, questions), split=SPLITS, again=True)

    assert after.passages["passage_id"].is_unique
    for key in untouched:
        assert ids(after, key) == ids(before, key)
    assert ids(after, f"moved/{renamed}") == ids(before, renamed)
    old, new = ids(before, edited), ids(after, edited)
    assert {id: new[id] for id in old.keys() & new.keys()} == {id: text for id, text in old.items() if text in new.values()}
    asked = before.questions.set_index("question_id")["text"].to_dict()
    asked_now = after.questions.set_index("question_id")["text"].to_dict()
    gone = {id for id, text in asked.items() if text == f"Which lines begin {list(texts).index(deleted)}?"}
    assert {id: text for id, text in asked_now.items() if text != "Which are new?"} == {
        id: text for id, text in asked.items() if id not in gone
    }
    held = after.passages.set_index("passage_id")["text"]
    for row in after.questions.itertuples():  # evidence still points at what it says
        first = next(text[0] for key, text in now.items() if row.doc_id == doc_id(after, key))
        assert first in " ".join(held[list(row.evidence)])


def doc_id(found, key):
    return found.documents.set_index("source").loc[key, "doc_id"]


def test_an_edit_and_its_undoing_give_the_same_ids(write_corpus, run_ingest):
    chance = random.Random(3)
    text = [sentence(chance, 9) for _ in range(20)]
    edited = [*text[:7], sentence(chance, 9), *text[8:]]
    first = run_ingest(write_corpus(*rows({"a": text})))
    assert set(run_ingest(write_corpus(*rows({"a": edited})), again=True).passages["passage_id"]) != set(
        first.passages["passage_id"]
    )
    back = run_ingest(write_corpus(*rows({"a": text})), again=True)
    assert back.passages.equals(first.passages)
    assert back.questions.equals(first.questions)


def test_equal_text_may_stand_twice_in_a_document(write_corpus, run_ingest):
    """Under one heading the ids are told apart by number; where one goes, the other has the first one's id."""
    chorus = "Haul away the line and sing. Haul away the line and sing it again until the tide has turned."
    sections = [
        {"title": title, "text": text} for title, text in [("Song", chorus), ("Verse", "It blew hard."), ("Song", chorus)]
    ]
    asked = [{"question": "What is sung?", "answers": ["a song"], "document": "songs", "evidence": [chorus]}]
    twice = run_ingest(write_corpus([{"id": "songs", "sections": sections}], asked))
    assert twice.passages["passage_id"].is_unique
    assert twice.passages["text"].tolist().count(chorus) == 2
    once = run_ingest(write_corpus([{"id": "songs", "sections": sections[1:]}], asked), again=True)
    assert set(once.passages["passage_id"]) < set(twice.passages["passage_id"])
    assert set(once.questions["evidence"][0]) <= set(twice.questions["evidence"][0])


def test_two_documents_with_one_id_are_refused(write_corpus, refuse):
    refuse(write_corpus([{"id": "a", "text": "One lamp."}, {"id": "a", "text": "Two lamps."}], []), "jsonl", "'a'")


def test_a_text_of_two_known_documents_is_the_first_one():
    """Whether that stays where it was or is gone; only one whose own key asks for another document comes after all others."""
    same, other = (content_of(" ".join(f"Sentence {n} of {name}." for n in range(9))) for name in ("one", "another"))
    known = [Known("stays", same), Known("gone", same)]
    present = {"stays": same, "new": same, "newer": other}
    assert recognise(known, present) == {"stays": Found(0), "new": Found(0, copy=True)}
    known = [Known("rewritten", same), Known("gone", same)]
    assert recognise(known, {"rewritten": other, "new": same}) == {"new": Found(1), "rewritten": Found(0)}
