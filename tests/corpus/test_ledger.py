"""Splits are decided once: no history of a corpus moves a document to another split."""

import json
import random

import pytest

from uae.corpus.identity import content_of
from uae.corpus.ledger import DOCUMENT, Ledger
from uae.io.errors import ArtefactError

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
BOILERPLATE = ["All rights are reserved.", "Ask the keeper before you touch anything."]


class Corpus:
    """Documents that are added, edited, renamed and deleted. ``by_key``: key -> (which document it is, its sentences)."""

    def __init__(self, seed):
        self.chance, self.begun = random.Random(seed), 0
        self.by_key, self.gone = {}, []
        for _ in range(12):
            self.add()

    def sentence(self):
        return f"Lamp {self.chance.getrandbits(32)} burnt {self.chance.getrandbits(16)} hours."

    def free_key(self):
        """A new one, or one that another document had before."""
        free = [key for key in self.gone if key not in self.by_key]
        return self.chance.choice(free) if free and self.chance.random() < 0.5 else f"d{self.chance.getrandbits(40)}"

    def add(self):
        self.begun += 1
        text = [self.sentence() for _ in range(self.chance.randint(4, 12))] + BOILERPLATE
        self.by_key[self.free_key()] = (self.begun, text)

    def edit(self):
        key = self.chance.choice(sorted(self.by_key))
        which, text = self.by_key[key]
        place = self.chance.randrange(len(text) - 2)
        change = self.chance.choice(["replace", "insert", "remove" if len(text) > 5 else "replace"])
        new = [] if change == "remove" else [self.sentence()]
        self.by_key[key] = (which, text[:place] + new + text[place + (change != "insert") :])

    def rename(self):
        key = self.chance.choice(sorted(self.by_key))
        moved = self.by_key.pop(key)
        self.by_key[self.free_key()] = moved
        self.gone.append(key)

    def swap(self):
        first, second = self.chance.sample(sorted(self.by_key), 2)
        self.by_key[first], self.by_key[second] = self.by_key[second], self.by_key[first]

    def delete(self):
        if len(self.by_key) > 4:
            key = self.chance.choice(sorted(self.by_key))
            del self.by_key[key]
            self.gone.append(key)

    def step(self):
        for _ in range(self.chance.randint(1, 3)):
            self.chance.choice([self.add, self.edit, self.edit, self.rename, self.swap, self.delete])()

    def write(self, write_corpus):
        documents = [{"id": key, "text": " ".join(text)} for key, (_, text) in self.by_key.items()]
        questions = [{"question": f"What is in document {which}?", "document": key} for key, (which, _) in self.by_key.items()]
        self.chance.shuffle(documents)
        return write_corpus(documents, questions)


@pytest.mark.parametrize("seeds", [range(start, start + 40) for start in range(0, 200, 40)], ids=lambda seeds: f"from {seeds[0]}")
def test_200_random_histories_move_no_document_to_another_split(write_corpus, run_ingest, seeds):
    for seed in seeds:
        corpus, splits = Corpus(seed), {}
        for number in range(6):
            found = run_ingest(corpus.write(write_corpus), split=SPLITS, again=number > 0)
            by_source = found.questions.merge(found.documents[["doc_id", "source"]], on="doc_id").set_index("source_y")["split"]
            now = {which: by_source[key] for key, (which, _) in corpus.by_key.items()}
            assert {which: split for which, split in splits.items() if which in now} == {w: now[w] for w in splits if w in now}
            splits |= now
            corpus.step()


def documents(texts):
    return [{"id": key, "text": text} for key, text in texts.items()], [{"question": "What?", "document": key} for key in texts]


def text(*numbers):
    return " ".join(f"Line {n} of the log tells of ship {n}." for n in numbers)


TEXTS = {f"d{n}": text(*range(10 * n, 10 * n + 8)) for n in range(20)}


@pytest.fixture
def splits(write_corpus, run_ingest):
    """source key -> split, of the documents that have a question; after whatever was ingested before."""

    def run(texts, again=True, **more):
        found = run_ingest(write_corpus(*documents(texts)), split=more.pop("split", SPLITS), again=again, **more)
        keys = found.documents.set_index("doc_id")["source"]
        return {keys[row.doc_id]: row.split for row in found.questions.itertuples()}

    return run


def test_a_split_depends_on_no_other_document(splits):
    many = {f"d{n}": text(n) for n in range(200)}
    alone = splits({key: many[key] for key in list(many)[::2]}, again=False)
    assert splits(many, again=False).items() >= alone.items()


def test_other_shares_and_another_seed_move_nobody(splits):
    before = splits(TEXTS, again=False)
    assert splits(TEXTS, split={"train": 0.1, "validation": 0.1, "test": 0.8}, seed=99) == before


def test_a_renamed_and_edited_document_keeps_its_split(splits):
    before = splits(TEXTS, again=False)
    renamed = {f"new/{key}": text(*range(10 * n, 10 * n + 6), 1000 + n) for n, key in enumerate(TEXTS)}
    after = splits(renamed)
    assert set(before.values()) == {"train", "validation", "test"}
    assert {f"new/{key}": split for key, split in before.items()} == after


def test_a_document_that_comes_back_under_another_name_finds_its_split(splits):
    before = splits(TEXTS, again=False)
    splits({"d0": TEXTS["d0"]})
    assert splits({f"back/{key}": value for key, value in TEXTS.items()}) == {f"back/{key}": s for key, s in before.items()}


def test_copies_and_parts_of_a_document_are_in_its_split(splits):
    before = splits(TEXTS, again=False)
    parts = {
        f"{key}-{part}": text(*range(start, start + 4))
        for n, key in enumerate(TEXTS)
        for part, start in (("a", 10 * n), ("b", 10 * n + 4))
    }
    after = splits(TEXTS | parts)
    assert {key: after[key] for key in before} == before
    assert all(after[key] == before[key.partition("-")[0]] for key in parts)
    assert splits(parts) == {key: after[key] for key in parts}


def test_what_many_documents_share_makes_none_of_them_another(splits):
    shared = " ".join(f"Rule {n} holds for everybody." for n in range(10))
    before = splits({key: f"{shared} {value}" for key, value in TEXTS.items()}, again=False)
    new = {f"n{n}": f"{shared} {text(5000 + 2 * n, 5001 + 2 * n)}" for n in range(40)}
    after = splits({key: f"{shared} {value}" for key, value in TEXTS.items()} | new)
    assert {key: after[key] for key in before} == before
    assert len({after[key] for key in new}) == 3


def test_a_rewritten_document_keeps_the_split_of_its_key(splits):
    before = splits(TEXTS, again=False)
    assert splits({key: text(*range(7000 + 10 * n, 7008 + 10 * n)) for n, key in enumerate(TEXTS)}) == before


def test_the_source_wins_and_is_recorded_and_said(write_corpus, run_ingest, caplog):
    rows, asked = documents(TEXTS)
    first = run_ingest(write_corpus(rows, asked), split=SPLITS)
    keys = first.documents.set_index("doc_id")["source"]
    moved = next(keys[row.doc_id] for row in first.questions.itertuples() if row.split == "train")
    asked = [row | ({"split": "test"} if row["document"] == moved else {}) for row in asked]
    second = run_ingest(write_corpus(rows, asked), split=SPLITS, again=True)
    entry = second.ledger.set_index("source").loc[moved]
    assert (entry["split"], entry["decided"]) == ("test", "source")
    assert f"{moved} from train to test" in caplog.text
    third = run_ingest(write_corpus(*documents(TEXTS)), split=SPLITS, again=True)  # the source says nothing any more
    assert third.questions.set_index("doc_id")["split"].to_dict() == second.questions.set_index("doc_id")["split"].to_dict()


def test_questions_without_a_document_keep_their_split(write_corpus, run_ingest):
    asked = [{"question": f"What is {n}?"} for n in range(30)]
    first = run_ingest(write_corpus([{"id": "a", "text": "Some text."}], asked), split=SPLITS)
    more = [{"question": f"Where is {n}?"} for n in range(30)]
    second = run_ingest(write_corpus([{"id": "a", "text": "Other text."}], more + asked), split=SPLITS, seed=5, again=True)
    before = first.questions.set_index("text")["split"]
    assert second.questions.set_index("text")["split"][before.index].equals(before)
    assert set(before) == {"train", "validation", "test"}


def test_splits_of_tables_from_before_there_was_a_ledger_are_taken_over(splits, tmp_path):
    before = splits(TEXTS, again=False, split={"train": 0.2, "validation": 0.4, "test": 0.4})
    (tmp_path / "out" / "ledger.parquet").unlink()
    assert splits(TEXTS, split={"train": 1.0, "validation": 0.0, "test": 0.0}) == before


def test_the_ledger_says_what_decided(splits, tmp_path):
    splits({key: TEXTS[key] for key in ("d0", "d1", "d2")}, again=False)
    report = json.loads((tmp_path / "out" / "ingest.json").read_text())
    assert sum(report["counts"]["splits_decided_by"].values()) == 3
    assert report["counts"]["splits_decided_by"]["filled"] >= 1


def test_a_damaged_ledger_is_named_and_nothing_is_written(splits, tmp_path):
    splits(TEXTS, again=False)
    ledger = tmp_path / "out" / "ledger.parquet"
    ledger.write_bytes(b"PAR1")
    before = {file.name: file.read_bytes() for file in ledger.parent.iterdir()}
    with pytest.raises(ArtefactError, match=r"ledger\.parquet is damaged"):
        splits(TEXTS)
    assert {file.name: file.read_bytes() for file in ledger.parent.iterdir()} == before


def test_the_ledger_holds_no_text_and_a_bounded_sketch():
    ledger = Ledger([], SPLITS, 1)
    (found,) = ledger.documents([("long", text(*range(5000)))]).values()
    assert len(content_of(text(*range(5000))).sketch) == 128
    assert ledger.split(DOCUMENT, found) in SPLITS


def test_half_of_a_long_document_is_known_by_its_sketch(splits):
    long = {f"d{n}": text(*range(1000 * n, 1000 * n + 600)) for n in range(12)}
    before = splits(long, again=False)
    halves = {f"{key}-end": text(*range(1000 * n + 300, 1000 * n + 600)) for n, key in enumerate(long)}
    assert splits(halves) == {f"{key}-end": split for key, split in before.items()}
