"""What DVC ran, told to Dagster: materializations and checks that belong to no run, from dvc.lock and the reports.

``python -m dagster_project.events`` reports them once; the sensor ``dvc_ran`` does it all the time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_project.checks import results_of_checks
from dagster_project.lock import Lock
from dagster_project.metadata import describe
from dagster_project.reports import result_on_disk
from dagster_project.resources import DvcResource, ProjectResource
from dagster_project.source import SOURCE, describe_source
from uae.io.errors import UaeError
from uae.io.files import read_json
from uae.pipeline.chain import upstream
from uae.pipeline.run import code_hash
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import Workspace

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

# Tags that Dagster itself puts on the event of a run: without them an asset shows no version, or counts as out of date.
DATA_VERSION = "dagster/data_version"
_CODE_VERSION = "dagster/code_version"
_GIVEN = "dagster/data_version_is_user_provided"
_INPUT = "dagster/input_data_version"
_INPUT_EVENT = "dagster/input_event_pointer"
_NO_EVENT = "NULL"  # which event of the input it was: Dagster asks for that of partitions alone, and misses the tag without it


def last_version(instance: dg.DagsterInstance, asset: str) -> str | None:
    """The data version of an asset's last materialization, or None."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    materialization = event.asset_materialization if event else None
    return (materialization.tags or {}).get(DATA_VERSION) if materialization else None


def unreported(
    instance: dg.DagsterInstance, project: ProjectResource, dvc: DvcResource, chain: Sequence[Stage[Any]]
) -> Iterator[Event]:
    """The events of every stage that DVC last ran and Dagster has not heard of, in the order of the chain.

    A stage whose outputs on the disk are not those of dvc.lock is left out: its reports would tell of something else.
    """
    settings = project.settings()
    # No change of folder here: the process of a sensor has other threads, which start runs from the folder that it is in.
    root = Path(project.root).absolute()
    workspace, lock = Workspace(root), Lock(root)
    for stage in chain:
        version = lock.version(stage.name)
        if version is None or version == last_version(instance, stage.name) or not dvc.is_on_disk(stage.name, root):
            continue
        try:
            result = result_on_disk(stage, workspace)
        except UaeError:
            continue  # it is being made anew
        inputs = {name: lock.version(name) for name in upstream(stage)}
        if stage.reads_source:
            inputs[SOURCE] = ingested_version(workspace)
        yield _materialization(stage, result, workspace, version, inputs, lock.outputs(stage.name))
        for check in results_of_checks(stage.name, result, workspace):
            yield _evaluation(stage.name, check)
    if (observation := _observed(instance, project.source(settings).look(), settings.ingest.path)) is not None:
        yield observation


def ingested_version(workspace: Workspace) -> str | None:
    """The version of the source that was last read; None where it has none, or nothing was read."""
    try:
        version: str | None = read_json(workspace.path("ingestion")).get("source", {}).get("version")
    except UaeError:
        return None
    return version


def _materialization(
    stage: Stage[Any],
    result: dict[str, Any],
    workspace: Workspace,
    version: str,
    inputs: dict[str, str | None],
    outputs: dict[str, str],
) -> dg.AssetMaterialization:
    told = {"reported": "DVC ran this stage; Dagster ran nothing", "dvc md5": dg.MetadataValue.json(outputs)}
    known = {name: given for name, given in inputs.items() if given is not None}
    versions = {f"{_INPUT}/{name}": given for name, given in known.items()} | {
        f"{_INPUT_EVENT}/{name}": _NO_EVENT for name in known
    }
    return dg.AssetMaterialization(
        asset_key=stage.name,
        metadata=describe(stage, result, workspace) | told,
        tags={DATA_VERSION: version, _CODE_VERSION: code_hash(stage)[:12], _GIVEN: "true"} | versions,
    )


def _evaluation(stage: str, check: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    assert check.check_name is not None  # ``results_of_checks`` names them
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(stage),
        check_name=check.check_name,
        passed=check.passed,
        metadata=check.metadata,
        severity=check.severity,
        description=check.description,
    )


def _observed(instance: dg.DagsterInstance, now: Any, path: str) -> dg.AssetObservation | None:
    """An observation of the source, if it is another one than was last observed."""
    if now is None:
        return None
    last = instance.fetch_observations(dg.AssetKey(SOURCE), limit=1).records
    seen = last[0].asset_observation if last else None
    if seen is not None and (seen.tags or {}).get(DATA_VERSION) == now.version:
        return None
    return dg.AssetObservation(SOURCE, metadata=describe_source(path, now), tags={DATA_VERSION: now.version})


def main() -> None:
    from dagster_project.definitions import ROOT
    from uae.pipeline.chain import CHAIN

    instance = dg.DagsterInstance.get()
    events = list(unreported(instance, ProjectResource(root=str(ROOT)), DvcResource(), CHAIN))
    for event in events:
        instance.report_runless_asset_event(event)
    print(f"{sum(isinstance(event, dg.AssetMaterialization) for event in events)} assets reported to Dagster")


if __name__ == "__main__":
    main()
