"""A project in a temporary folder whose stages are stubs: each writes small outputs and answers as the real one does."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dagster_project.definitions import ROOT, build
from dagster_project.resources import DvcResource, MlflowResource, ModelsResource
from uae.corpus.snapshot import take_snapshot
from uae.corpus.watch import Watch
from uae.io.files import sha256_tree
from uae.io.tables import CANDIDATES, write_table
from uae.pipeline.chain import CHAIN, STAGES
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import ARTEFACTS
from uae.validation.report import table_hashes


def _suite(name: str, success: bool) -> dict:
    row = {"doc_id": "d1", "source": "documents/a.md", "value": "0"}
    outcome = {"expectation": "expect_column_values_to_be_between", "column": "n_passages", "limits": {"min_value": 1}}
    outcome |= {"success": success, "observed": None, "unexpected": 0 if success else 1, "error": None}
    outcome |= {"rows": [] if success else [row]}
    return {"suite": name, "rows": 3, "success": success, "expectations": [outcome]}


def make_report(*names: str, failing: tuple[str, ...] = ()) -> dict:
    return {"success": not failing, "suites": [_suite(name, name not in failing) for name in names]}


_INTERVAL = {"mean": 0.5, "low": 0.25, "high": 0.75, "questions": 4}
_GAIN = {"absolute": {"mean": 0.1, "low": -0.1, "high": 0.3}, "relative": None, "p_value": 0.04, "questions": 4}
_SIDES = {"utility": _INTERVAL, "base": _INTERVAL}
QUALITY = {"verdict": "worth it", "summary": "They rank well.", "warnings": [], "ranking": {"metrics": {"map": _SIDES}}}
RESULTS = {
    "ingest": {"documents": 3, "passages": 9, "questions_by_split": {"train": 2, "test": 1}, "skipped": {}},
    "validate": make_report("documents", "passages", "questions", "leakage"),
    "candidates": {"candidates": 12, "candidates_by_source": {"dense": 8, "random": 4}},
    "label": {"readings_in_store": 14, "mean_utility": 0.1, "validation": make_report("labels"), "quality": QUALITY},
    "train": {"steps": 2, "pairs": {"train": 8, "validation": 4}, "run_id": "run1"},
    "fuse": {"form": "scores", "weight": 0.4, "student": "0" * 64, "chosen": None},
    "index": {"passages": 9, "factory": "Flat", "prompts": {}},
    "evaluate": {"systems": {"base": {"map": _INTERVAL}, "uae": {"map": _INTERVAL}}, "gains": {"uae": {"map": _GAIN}}},
    "promote": {
        "promoted": True,
        "version": 1,
        "alias": "champion",
        "lane": "retrain",
        "run_id": "run1",
        "reasons": ["map rose: passed", "recall@1 held: passed"],
        "findings": [{"metric": "map", "on": "frozen test set", "difference": 0.04, "low": None, "detectable": 0.03}],
    },
    "package": {"built": True, "version": 1},
}
FILES = {
    "utility_histogram": "utility,pairs\n-0.5,1\n0.5,3\n",
    "training_curve": "step,train_loss,gradient_norm,validation_ndcg\n0,,,0.5\n1,2.0,1.0,\n2,1.5,0.9,0.6\n",
    "recall_curve": "k,system,recall\n1,base,0.2\n1,uae,0.3\n2,base,0.4\n2,uae,0.5\n",
}


VALIDATED = {
    "validation": ("documents", "passages", "questions"),
    "label_validation": ("labels", "label_manifest", "candidates", "passages", "questions"),
}


def _content(stage: Stage, artefact: str, workspace, parameters) -> dict:
    if artefact in VALIDATED:
        suites = RESULTS["validate" if artefact == "validation" else "label"]
        tables = table_hashes({name: workspace.path(name) for name in VALIDATED[artefact]})
        return suites.get("validation", suites) | {"tables": tables, "scope": getattr(parameters, "scope", None)}
    if artefact == "ingestion":
        return {"counts": RESULTS["ingest"], "source": {"version": _source()}}
    said = {"label_quality": QUALITY, "evaluation": RESULTS["evaluate"], "promotion": RESULTS["promote"]}
    said |= {"fusion": RESULTS["fuse"], "release": RESULTS["index"], "bento": RESULTS["package"]}
    read = _source() if stage.reads_source else None
    return said.get(artefact, {"made by": stage.name, "of": read})


def _source() -> str:
    return take_snapshot("data/sample", Path(".uae/hashed.parquet")).version


def _stub(stage: Stage) -> Stage:
    def run(parameters, workspace) -> dict:
        for name in stage.makes:
            path = workspace.path(name)
            if not path.suffix:  # a folder of files
                path = path / {"release": "manifest.json", "bento": "package.json"}.get(name, "part")
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "source":
                watch = Watch("data/sample", "folder", path, Path(".uae"), 0.2)
                watch.write(watch.look())
                continue
            if name == "candidates":
                write_table(path, CANDIDATES, [])
                continue
            path.write_text(FILES.get(name, json.dumps(_content(stage, name, workspace, parameters))), encoding="utf-8")
        return RESULTS[stage.name]

    return dataclasses.replace(stage, run=run)


class RecordedDvc(DvcResource):
    """Keeps dvc.lock itself, by hashes of its own of data alone, and writes down what was committed, in commits.txt."""

    def holding(self, stage: str):
        return contextlib.nullcontext()

    def commit(self, stage: str) -> dict[str, str]:
        with open("commits.txt", "a", encoding="utf-8") as file:
            file.write(stage + "\n")
        lock = self._lock() | {stage: self._now(stage)}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}), encoding="utf-8")
        return {entry["path"]: entry["md5"] for entry in lock[stage]["outs"]}

    def is_current(self, stage: str) -> bool:
        return self._lock().get(stage) == self._now(stage)

    def is_on_disk(self, stage: str, root: Path) -> bool:
        with contextlib.chdir(root):
            return self._lock()[stage]["outs"] == self._now(stage)["outs"]

    def _lock(self) -> dict:
        path = Path("dvc.lock")
        return yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}

    def _now(self, name: str) -> dict:
        stage = STAGES[name]
        read = [*(["data/sample"] if stage.reads_source else []), *(ARTEFACTS[each] for each in stage.needs)]
        sides = {"deps": read, "outs": [ARTEFACTS[each] for each in stage.makes]}
        return {side: [{"path": path, "md5": _md5(Path(path))} for path in paths] for side, paths in sides.items()}


def _md5(path: Path) -> str:
    if not path.exists():
        return "missing"
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else sha256_tree(path)


class NoModels(ModelsResource):
    def used_by(self, stage, settings) -> dict[str, str]:
        return {}


class FakePages(MlflowResource):
    def run_url(self, settings, root, run_id) -> str:
        return f"http://mlflow.test/{run_id}"


@pytest.fixture(scope="session")
def report() -> Callable[..., dict]:
    """Make a validation report: the suites' names, and which of them are failing."""
    return make_report


@pytest.fixture
def stub() -> Callable[[Stage], Stage]:
    """The stage that writes and answers as the real one does."""
    return _stub


@pytest.fixture
def recorded_dvc() -> DvcResource:
    return RecordedDvc()


@pytest.fixture
def results() -> dict[str, dict]:
    """What the stub stages answer."""
    return RESULTS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the definitions and DVC read: parameters, pipeline, source, code."""
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("uae", "deploy", "data/sample"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def run_chain(project: Path):
    """Run whole_chain in process over stubs; ``replaced`` are stage functions by name. Returns the run's result."""

    def run(dvc: DvcResource | None = None, instance: dg.DagsterInstance | None = None, tags=None, **replaced):
        chain = [dataclasses.replace(_stub(stage), run=replaced.get(stage.name, _stub(stage).run)) for stage in CHAIN]
        defs = build(project, chain, dvc=dvc or RecordedDvc(), models=NoModels(), mlflow=FakePages())
        return defs.resolve_job_def("whole_chain").execute_in_process(raise_on_error=False, instance=instance, tags=tags)

    return run
