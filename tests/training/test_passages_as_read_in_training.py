"""Training reads passages through the passage template: what is taught is what is indexed and served."""

from pathlib import Path

import pandas as pd
import pytest
from small_training import AGGREGATION, changed, run

from uae.io.tables import PASSAGES, read_table, write_table
from uae.text.passage_template import PassageTemplate
from uae.training.data import TrainingData


def data(folder: Path, template: str) -> TrainingData:
    paths = [folder / f"{name}.parquet" for name in ("candidates", "passages", "questions")]
    return TrainingData.read(*paths, folder / "labels", folder / "labels.json", AGGREGATION, PassageTemplate(template))


def test_pairs_hold_what_the_student_reads_of_a_passage(labelled):
    rows = read_table(labelled / "passages.parquet", PASSAGES)
    rows["section"] = [f"Store > Shelf {n}" for n in range(len(rows))]
    write_table(labelled / "passages.parquet", PASSAGES, rows)
    plain, read = data(labelled, "{text}").pairs(), data(labelled, "{section}\n{text}").pairs()
    sections = dict(zip(rows["passage_id"], rows["section"], strict=True))
    assert list(read["text"]) == [f"{sections[row.passage_id]}\n{row.text}" for row in plain.itertuples()]
    assert list(read["utility"]) == list(plain["utility"])


def add_passages(folder: Path) -> None:
    """That no pair and no evidence names: one behind each passage of a document."""
    rows = read_table(folder / "passages.parquet", PASSAGES)
    more = rows.assign(passage_id=rows["passage_id"] + "x", text="Nobody asks for this one.")
    both = pd.concat([rows, more]).sort_values(["doc_id", "passage_id"])
    write_table(folder / "passages.parquet", PASSAGES, both.assign(position=both.groupby("doc_id").cumcount()))


def test_training_holds_the_texts_that_pairs_and_evidence_name_and_no_others(labelled):
    before = data(labelled, "{text}")
    add_passages(labelled)
    found = data(labelled, "{text}")
    assert set(found.passages["passage_id"]) == set(before.passages["passage_id"])
    assert len(found.stored) == len(found.corpus()) == 2 * len(found.passages)
    few = found.with_more(found.candidates[:1], labelled / "none")
    first = found.questions.set_index("question_id").loc[few.candidates["question_id"].iloc[0]]
    assert set(few.passages["passage_id"]) == {few.candidates["passage_id"].iloc[0], *first["evidence"]}


@pytest.mark.parametrize("options", [changed(near_duplicate=0.5), changed(evidence_share=0.5, near_duplicate=0.5)])
def test_what_training_learns_from_does_not_depend_on_passages_that_nobody_names(labelled, options):
    before = data(labelled, "{text}")
    expected = before.by_split(before.pairs(), options)
    add_passages(labelled)
    after = data(labelled, "{text}")
    assert after.by_split(after.pairs(), options) == expected


def test_a_template_with_neighbours_reads_them_though_no_pair_names_them(labelled):
    add_passages(labelled)
    found = data(labelled, "{text}\n{after}")
    whole = found.corpus()
    assert whole["text"].str.endswith("Nobody asks for this one.").any()
    texts = whole.set_index("passage_id")["text"]
    pairs = found.pairs()
    assert pairs["text"].tolist() == texts[pairs["passage_id"]].tolist()


def test_the_stage_reads_no_whole_corpus(labelled, tiny_encoder, monkeypatch):
    add_passages(labelled)
    monkeypatch.setattr(TrainingData, "corpus", None)
    assert run(labelled, tiny_encoder, "out", epochs=1, near_duplicate=0.8)["steps"] == 2


def test_all_passages_that_training_holds_are_as_read(labelled):
    """Refreshing ranks the whole corpus, and false negatives are looked for among those that are named."""
    found = data(labelled, "Read: {text}")
    assert found.passages["text"].str.startswith("Read: ").all()
    assert found.corpus()["text"].str.startswith("Read: ").all()
