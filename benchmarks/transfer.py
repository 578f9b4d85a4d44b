"""What learning one corpus does to others: students, and mixtures of them with their base, asked of several collections.

A collection is the folder of a run (``uae run --until ingest`` is enough). A student that bears a collection's name was
trained on it, and is asked its test questions alone; of the other collections all questions count. Questions with one evidence
passage and with several stand apart. Prints one JSON line last.

python benchmarks/transfer.py --student covidqa=runs/covidqa/compare/students/uae-13 --student sample=runs/sample/models/student \
    --on covidqa=runs/covidqa --on qasper=runs/qasper --on sample=runs/sample --base-share 0.25 --base-share 0.5
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from uae.evaluation.comparison import decisive
from uae.evaluation.elsewhere import by_evidence, scored
from uae.evaluation.testset import BASE, rank_with
from uae.io.files import atomic_path, sha256_bytes
from uae.io.models import fingerprint
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.statistics import Resampling
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import load_encoder
from uae.text.passage_template import PassageTemplate
from uae.training.interpolation import interpolate

METRICS = ("recall@1", "map")


class Collection:
    """The questions and passages of a run, as its parameters say that they are read."""

    def __init__(self, folder: Path):
        settings = load_settings(folder / "params.yaml", [])
        workspace = Workspace(folder, Path("models"), flat_reports=True)
        passages = read_table(workspace.path("passages"), PASSAGES)
        self.scope, self.device = settings.scope, settings.compute.device
        self.resampling = Resampling(settings.evaluate.confidence, settings.evaluate.resamples, settings.seed)
        self.passages = PassageTemplate(settings.passages.template).applied(passages)
        self.questions = read_table(workspace.path("questions"), QUESTIONS)

    def asked(self, trained_on_it: bool) -> pd.DataFrame:
        """The questions with evidence that a student did not learn from."""
        known = self.questions[self.questions["evidence"].str.len() > 0]
        return (known[known["split"] == "test"] if trained_on_it else known).reset_index(drop=True)

    def measure(self, encoder: Path, asked: pd.DataFrame, progress: str) -> pd.DataFrame:
        """Columns recall@1 and map, by question_id."""
        ranked = rank_with(encoder, asked, self.passages, self.scope, self.device, progress)
        return scored(ranked, asked)


def mixed(base: Path, student: Path, share: float, out: Path, device: str) -> Path:
    """The folder of the student with so large a share of its base's weights."""
    if not share:
        return student
    folder = out / sha256_bytes(fingerprint(base), fingerprint(student), str(share))[:16]
    if not folder.exists():
        encoder = load_encoder(student, device)
        interpolate(encoder, load_encoder(base, device).state_dict(), share)
        with atomic_path(folder) as partial:
            encoder.save(str(partial), create_model_card=False)
    return folder


def compared(base: pd.DataFrame, system: pd.DataFrame, asked: pd.DataFrame, resampling: Resampling) -> dict[str, Any]:
    """Means and relative gains, of questions with one evidence passage and with several apart."""
    kinds = by_evidence({BASE: base, "student": system}, asked, resampling)
    return {
        kind: {"questions": found["questions"]}
        | {
            metric: {name: round(found["systems"][name][metric]["mean"], 4) for name in (BASE, "student")}
            | {"relative": _relative(found["gains"]["student"][metric])}
            for metric in METRICS
        }
        for kind, found in kinds.items()
    }


def _relative(gain: dict[str, Any]) -> list[float] | None:
    """Mean and ends of the relative gain, over documents where there are enough."""
    by = decisive(gain)["relative"]
    return by and [round(by[name], 4) for name in ("mean", "low", "high")]


def named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not Path(folder).is_dir():
        raise typer.BadParameter(f"{text!r}: expected NAME=FOLDER, and the folder must exist")
    return name, Path(folder)


def main(
    student: Annotated[list[str], typer.Option(metavar="NAME=FOLDER", help="A student; NAME: the collection it learnt from.")],
    on: Annotated[list[str], typer.Option(metavar="NAME=FOLDER", help="A run's folder; its questions are asked.")],
    base_share: Annotated[list[float], typer.Option(help="Also of students with this share of their base's weights.")] = (),
    out: Annotated[Path, typer.Option(help="Where mixtures are kept.")] = Path("runs/transfer"),
) -> None:
    collections = {name: Collection(folder) for name, folder in map(named, on)}
    settings = load_settings(Path("params.yaml"), [])
    base = student_folder(settings.models, Path("models"))
    found: dict[str, Any] = {}
    for learnt, folder in map(named, student):
        for name, collection in collections.items():
            asked = collection.asked(learnt == name)
            before = collection.measure(base, asked, f"base on {name}")
            for share in (0.0, *base_share):
                print(f"{learnt} with {share} of the base, on {name}", file=sys.stderr, flush=True)
                system = collection.measure(mixed(base, folder, share, out, collection.device), asked, name)
                row = compared(before, system, asked, collection.resampling)
                found.setdefault(learnt, {}).setdefault(str(share), {})[name] = row
    print(json.dumps({"metrics": METRICS, "students": found}))


if __name__ == "__main__":
    typer.run(main)
