"""A corpus whose documents all have one title loses nothing by a template that holds titles."""

import json
from pathlib import Path

import pytest

from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.evaluate import EvaluateParameters, llm_terms
from uae.pipeline.workspace import Workspace
from uae.release.manifest import read_manifest

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
STAGES_RUN = ("ingest", "validate", "candidates", "label", "train", "fuse", "index")
# split -> heading and passage, twice; question, answer. Both passages are evidence.
TEXTS = {
    "train": (
        ("Trimming", "Every evening at dusk the keeper climbs the tower with a can and trims the wick by hand."),
        ("Oil", "Pale rape oil burns in the great lamp from then on until the sun stands over the reef."),
        ("What burns in the lamp?", "rape oil"),
    ),
    "validation": (
        ("Fog", "On foggy Sundays nobody sees the rocks, and ships listen for one long deep tone a minute."),
        ("Bellows", "Below the gallery two leather bellows drive that horn, while a clockwork counts out its pauses."),
        ("What drives the horn?", "two leather bellows"),
    ),
    "test": (
        ("Letters", "Twice each month, weather permitting, a pair of brothers row out with letters, flour and coal."),
        ("Landing", "They land at the old stone slip, because swell breaks too hard against any other shore."),
        ("Where do the brothers land?", "the old stone slip"),
    ),
}


@pytest.fixture
def corpus(tmp_path) -> Path:
    documents, questions = [], []
    for split, (*sections, (question, answer)) in TEXTS.items():
        parts = [{"title": heading, "text": text} for heading, text in sections]
        documents.append({"id": split, "title": "Handbook of the lighthouse", "sections": parts})
        row = {"question": question, "answers": [answer], "document": split, "evidence": [text for _, text in sections]}
        questions.append(row | {"split": split, "origin": "human"})
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, rows in (("documents", documents), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_stage_reads_as_without_titles(corpus, tmp_path, tiny_lm, tiny_encoder):
    """The release is the same to the last byte, so candidates, labels, training and weights were, too."""
    releases = []
    for name, template in (("titled", "{title}\\n{section}\\n{text}"), ("plain", "{section}\\n{text}")):
        settings = load_settings(
            PARAMS,
            [
                f"models.student=path:{tiny_encoder}", f"models.reader=path:{tiny_lm}", f"teachers.main.model=path:{tiny_lm}",
                f"ingest.path={corpus}", "ingest.format=jsonl", f'passages.template="{template}"', "scope=corpus",
                "validate.min_questions={train: 1, validation: 1, test: 1}", "train.epochs=1", "fusion.form=scores",
                "fusion.weight=0.3", "index.serving=torch", "compute.device=cpu",
            ],
        )  # fmt: skip
        workspace = Workspace(tmp_path / name)
        for stage in STAGES_RUN:
            run_stage(STAGES[stage], settings, workspace)
        releases.append(read_manifest(workspace.path("release")))
        asked = llm_terms(EvaluateParameters.of(settings), workspace)
        read = {each.passage_template for each in (*asked.teacher.templates, asked.query_template)}
        assert read == {"{section}\n{text}"}
    titled, plain = releases
    assert {leg.passage_template for leg in titled.legs.values()} == {"{section}\n{text}"}
    assert titled.fingerprint == plain.fingerprint
