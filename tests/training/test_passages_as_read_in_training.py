"""Training reads passages through the passage template: what is taught is what is indexed and served."""

from pathlib import Path

from uae.io.tables import PASSAGES, read_table, write_table
from uae.text.passage_template import PassageTemplate
from uae.training.data import TrainingData

AGGREGATION = {"answers": "mean", "templates": "mean", "teachers": "none"}


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


def test_all_passages_that_training_holds_are_as_read(labelled):
    """Refreshing ranks these, and false negatives are looked for among them."""
    found = data(labelled, "Read: {text}").passages
    assert found["text"].str.startswith("Read: ").all()
