"""No change, no work: what DVC knows to be current is neither run nor materialised, and what DVC ran is shown."""

import dagster as dg
import pytest

from dagster_project.assets import FORCE
from dagster_project.definitions import build
from dagster_project.events import last_version, unreported
from dagster_project.resources import ProjectResource
from uae.pipeline.chain import CHAIN

NAMES = [stage.name for stage in CHAIN]


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def report(project, instance, recorded_dvc):
    """Report what DVC ran, as the sensor does. Returns the events."""

    def report() -> list:
        events = list(unreported(instance, ProjectResource(root=str(project)), recorded_dvc, CHAIN))
        for event in events:
            instance.report_runless_asset_event(event)
        return events

    return report


def ran(project) -> list[str]:
    return (project / "commits.txt").read_text(encoding="utf-8").split()


def materialised(result) -> set[str]:
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}


def test_a_second_run_runs_nothing_and_materialises_nothing(project, run_chain, instance):
    assert run_chain(instance=instance).success
    before = ran(project)
    again = run_chain(instance=instance)
    assert again.success
    assert (ran(project), materialised(again)) == (before, set())
    assert {event.step_key for event in again.all_events if event.is_step_success} == set(NAMES)  # none waited or was skipped


def test_what_changed_runs_and_what_did_not_change_by_it_does_not(project, run_chain, instance):
    assert run_chain(instance=instance).success
    (project / "reports/promotion.json").unlink()
    again = run_chain(instance=instance)
    assert ran(project)[len(NAMES) :] == ["promote"]
    assert materialised(again) == {"promote"}


def test_a_tag_runs_what_is_current(project, run_chain, instance):
    assert run_chain(instance=instance).success
    assert materialised(run_chain(instance=instance, tags={FORCE: "yes"})) == set(NAMES)


def test_what_dvc_ran_is_shown_without_a_run(project, run_chain, instance, report):
    """The chain runs where another Dagster writes it down, as ``dvc repro`` runs where none does."""
    assert run_chain().success
    commits = ran(project)
    events = report()
    assert [e.asset_key.to_user_string() for e in events if isinstance(e, dg.AssetMaterialization)] == NAMES
    assert all(last_version(instance, name) for name in NAMES)
    (evaluate,) = [e for e in events if e.asset_key == dg.AssetKey("evaluate") and isinstance(e, dg.AssetMaterialization)]
    assert "0.500 [0.250, 0.750]" in str(evaluate.metadata["metrics"])
    checks = {e.check_name: e.passed for e in events if isinstance(e, dg.AssetCheckEvaluation)}
    names = ("documents", "passages", "questions", "leakage", "labels", "label_quality", "gate")
    assert checks == dict.fromkeys(names, True)
    (source,) = [e for e in events if isinstance(e, dg.AssetObservation)]
    assert source.metadata["objects"].value == sum(path.is_file() for path in (project / "data/sample").rglob("[!.]*"))
    assert instance.get_runs() == []
    assert (ran(project), report()) == (commits, [])


def test_what_dvc_ran_is_in_step_with_what_it_was_made_from(project, run_chain, instance, report):
    """Else Dagster's pages call every asset "unsynced"."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    assert run_chain().success
    report()
    graph = build(project).resolve_asset_graph()

    def stale() -> set[str]:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return {name for name in NAMES if resolver.get_status(dg.AssetKey(name)) != StaleStatus.FRESH}

    assert stale() == set()
    (project / "data/sample/documents/new.md").write_text("# New")
    report()  # the source is seen to have changed
    assert "ingest" in stale()


def test_what_dagster_ran_is_not_reported_again(run_chain, instance, report):
    assert run_chain(instance=instance).success
    assert [event for event in report() if not isinstance(event, dg.AssetObservation)] == []


def test_a_run_after_dvc_shows_what_it_finds_made(project, run_chain, instance):
    assert run_chain().success
    commits = ran(project)
    assert materialised(run_chain(instance=instance)) == set(NAMES)
    assert ran(project) == commits


def test_reports_of_something_else_are_not_shown(project, run_chain, report):
    """After ``git checkout`` of another dvc.lock the files are those of before."""
    assert run_chain().success
    (project / "models/fusion.json").write_text("{}")
    reported = {e.asset_key.to_user_string() for e in report() if isinstance(e, dg.AssetMaterialization)}
    assert reported == set(NAMES) - {"fuse"}
