"""What a stage said when it ran, told once more from what it left on the disk: for a stage that DVC ran, and Dagster did not."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from uae.io.files import read_json
from uae.io.tables import CANDIDATES, read_table
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import Workspace


def result_on_disk(stage: Stage[Any], workspace: Workspace) -> dict[str, Any]:
    """What ``dagster_project.metadata.describe`` and the checks show of a stage.

    Raises:
        ArtefactError: a report is missing or damaged.
    """
    return _READ[stage.name](workspace)


def _ingest(w: Workspace) -> dict[str, Any]:
    counts: dict[str, Any] = read_json(w.path("ingestion"))["counts"]
    return counts


def _report(artefact: str) -> Callable[[Workspace], dict[str, Any]]:
    def read(w: Workspace) -> dict[str, Any]:
        content: dict[str, Any] = read_json(w.path(artefact))
        return content

    return read


def _candidates(w: Workspace) -> dict[str, Any]:
    table = read_table(w.path("candidates"), CANDIDATES)
    return {
        "questions": table["question_id"].nunique(),
        "candidates": len(table),
        "candidates_by_source": table["source"].value_counts().to_dict(),
    }


def _label(w: Workspace) -> dict[str, Any]:
    parts = w.path("labels").glob("[!.]*.parquet")
    quality = read_json(w.path("label_quality"))
    return {
        "readings_in_store": sum(pq.read_metadata(part).num_rows for part in parts),
        "verdict": quality["verdict"],
        "summary": quality["summary"],
        "validation": read_json(w.path("label_validation")),
        "quality": quality,
    }


def _train(w: Workspace) -> dict[str, Any]:
    curve = pd.read_csv(w.path("training_curve"))
    scores = curve["validation_ndcg"].dropna()
    return {"steps": int(curve["step"].max())} | ({"validation_ndcg": float(scores.max())} if len(scores) else {})


def _release(w: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = read_json(w.path("release") / "manifest.json")
    return content


def _bento(w: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = read_json(w.path("bento") / "package.json")
    return content


_READ: dict[str, Callable[[Workspace], dict[str, Any]]] = {
    "ingest": _ingest,
    "validate": _report("validation"),
    "candidates": _candidates,
    "label": _label,
    "train": _train,
    "fuse": _report("fusion"),
    "index": _release,
    "evaluate": _report("evaluation"),
    "promote": _report("promotion"),
    "package": _bento,
}
