"""What a person wants to see of each asset in the catalogue: counts, tables, pictures, paths."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from dagster_project import charts
from uae.io.files import read_json
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import Workspace

Metadata = dict[str, Any]


def describe(stage: Stage[Any], result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    """The stage's own counts, where its outputs are, and the stage's particulars."""
    paths = {f"path of {name}": dg.MetadataValue.path(workspace.path(name).absolute()) for name in stage.makes}
    particulars = _PARTICULARS.get(stage.name)
    return _plain(result) | paths | (particulars(result, workspace) if particulars else {})


def _plain(result: Mapping[str, Any]) -> Metadata:
    """Scalars (numbers become plots over time in Dagster) and flat tables of them; what is nested deeper has its own view."""
    plain: Metadata = {}
    for name, value in result.items():
        if isinstance(value, str | int | float):
            plain[name] = value
        elif isinstance(value, Mapping) and value and all(isinstance(v, str | int | float) for v in value.values()):
            plain[name] = dg.MetadataValue.json(dict(value))
    return plain


def _ingest(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    read = read_json(workspace.path("ingestion")).get("source", {})
    return {"source version": read["version"]} if read.get("version") else {}


def _candidates(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    return {"dagster/row_count": result["candidates"]}


def _label(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    return {
        "dagster/row_count": result["readings_in_store"],
        "utilities": charts.utility_histogram(workspace.path("utility_histogram")),
    }


def _train(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    return {"training": charts.training_curve(workspace.path("training_curve"))}


def _evaluate(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    means = {f"uae {metric}": values["mean"] for metric, values in result["systems"]["uae"].items()}
    return means | {"metrics": _metrics(result), "recall": charts.recall_curve(workspace.path("recall_curve"))}


def _metrics(evaluation: Mapping[str, Any]) -> dg.TableMetadataValue:
    """A row a metric: both systems and the gain, each with the interval to go by: over documents where there are such."""
    from uae.evaluation.comparison import decisive

    systems, gains = evaluation["systems"], evaluation["gains"]["uae"]
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "metric": metric,
                    "base": _interval(decisive(systems["base"][metric])),
                    "uae": _interval(decisive(systems["uae"][metric])),
                    "gain": _interval(decisive(gain)["absolute"]),
                    "p": round(decisive(gain)["p_value"], 4),
                    "questions": gain["questions"],
                }
            )
            for metric, gain in gains.items()
        ]
    )


def _interval(values: Mapping[str, float]) -> str:
    return f"{values['mean']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def _promote(result: Mapping[str, Any], workspace: Workspace) -> Metadata:
    return {"reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in result["reasons"]))}


_PARTICULARS: dict[str, Callable[[Mapping[str, Any], Workspace], Metadata]] = {
    "ingest": _ingest,
    "candidates": _candidates,
    "label": _label,
    "train": _train,
    "evaluate": _evaluate,
    "promote": _promote,
}
