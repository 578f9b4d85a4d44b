"""A published version of the corpus is gone through once more, beside what lies in the project."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import typer
from dvc.repo import Repo
from git_project import git, git_project
from typer.testing import CliRunner

from dagster_project.backfill import backfill, backfill_versions, main, published_versions
from dagster_project.definitions import build
from dagster_project.publish import Publication, publish
from dagster_project.publish_job import publish_data
from dagster_project.resources import ProjectResource
from uae.io.errors import ArtefactError, InputError
from uae.io.files import write_json, write_text
from uae.pipeline.chain import STAGES
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import ARTEFACTS, Workspace

MADE = [ARTEFACTS[name] for name in STAGES["ingest"].makes]
MAKE = f"""
from pathlib import Path
for path in {MADE!r}:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(Path("source.txt").read_text() + " as " + path)
"""
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def published(project, source):
    """Publish the version that comes of this source. Returns its tag."""
    (project / "source.txt").write_text(source)
    with Repo(str(project)) as repo:
        repo.reproduce()
    git(project, "add", "-A")
    git(project, "commit", "-qm", "code")
    return publish(Publication(project, "data", None, "origin", False, lambda step: None))


@pytest.fixture
def project(tmp_path, monkeypatch):
    outs = ", ".join(MADE)
    dvc_yaml = f"stages:\n  ingest:\n    cmd: python make.py\n    deps: [make.py, source.txt]\n    outs: [{outs}]\n"
    project = git_project(tmp_path, monkeypatch, dvc_yaml, MAKE, "/data/\n/reports/\n")
    shutil.copy(PARAMS, project / "params.yaml")
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def chain(project, monkeypatch):
    """Stands in for the chain, whose stages have tests of their own. What it was called with."""
    calls = []

    def run(settings, out, model_cache, announce, until, since):
        said = {path.name: path.read_text() for path in (out / "data").iterdir() if path.is_file()}
        calls.append({"folder": out.name, "since": since, "until": until, "read": said})
        found = {"recall@1": {"mean": 0.25}, "map": {"mean": 0.5}}
        write_json(out / "evaluation.json", {"systems": {"base": found, "uae": found}})

    monkeypatch.setattr("dagster_project.backfill.run_chain", run)
    return calls


def test_the_chain_reads_that_version_and_the_project_stays_as_it_is(project, chain):
    first = published(project, "one")
    second = published(project, "two")
    assert published_versions(project) == [first, second]
    write_text(project / "data/labels/part", "paid for")
    there = backfill(load_settings(project / "params.yaml"), Workspace(Path(".")), first, print)
    (call,) = chain
    assert (call["folder"], call["since"], call["until"]) == (first, "validate", "evaluate")
    assert call["read"]["passages.parquet"] == "one as data/passages.parquet"
    assert there.path("ingestion").read_text() == "one as reports/ingest.json"
    assert (there.path("labels") / "part").read_text() == "paid for"
    assert (project / "data/passages.parquet").read_text() == "two as data/passages.parquet"
    write_text(there.path("labels") / "part", "and more")
    backfill(load_settings(project / "params.yaml"), Workspace(Path(".")), first, print)
    assert (there.path("labels") / "part").read_text() == "and more"


def test_the_command_works_from_another_folder(project, chain, tmp_path, monkeypatch):
    first = published(project, "one")
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [first, "--root", "project"])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(f"project/data/backfills/{first}/evaluation.html")
    assert chain[0]["read"]["passages.parquet"] == "one as data/passages.parquet"
    refused = CliRunner().invoke(app, ["data-unknown", "--root", "project"])
    assert refused.exit_code == 1
    assert "'data-unknown' is no published version" in refused.output


def test_tables_come_from_the_remote_where_the_cache_has_none(project, chain):
    first = published(project, "one")
    published(project, "two")
    shutil.rmtree(project / ".dvc" / "cache")
    backfill(load_settings(project / "params.yaml"), Workspace(Path(".")), first, print)
    assert chain[0]["read"]["passages.parquet"] == "one as data/passages.parquet"


def test_a_version_that_is_gone_is_named_and_nothing_is_run(project, chain):
    first = published(project, "one")
    published(project, "two")
    settings, workspace = load_settings(project / "params.yaml"), Workspace(Path("."))
    with pytest.raises(InputError, match="'data-unknown' is no published version"):
        backfill(settings, workspace, "data-unknown", print)
    shutil.rmtree(project / ".dvc" / "cache")
    shutil.rmtree(project.parent / "store")
    with pytest.raises(ArtefactError, match=f"data/documents.parquet of {first} is in neither"):
        backfill(settings, workspace, first, print)
    assert chain == []
    assert not any(path.is_file() for path in workspace.backfills.rglob("*"))


def test_published_versions_are_the_partitions_of_the_job(project, chain):
    first = published(project, "one")
    (project / "source.txt").write_text("two")
    with Repo(str(project)) as repo:
        repo.reproduce()
    resources = {"project": ProjectResource(root=str(project))}
    with dg.DagsterInstance.ephemeral() as instance:
        assert publish_data.execute_in_process(instance=instance, resources=resources).success
        versions = instance.get_dynamic_partitions("corpus_version")
        assert versions == published_versions(project)
        assert versions[0] == first
        job = build(project).resolve_job_def(backfill_versions.name)
        done = job.execute_in_process(instance=instance, partition_key=first)
        assert done.success
        assert done.dagster_run.tags["dagster/partition"] == first
    (event,) = done.get_step_success_events()
    (output,) = [each for each in done.all_events if each.event_type_value == "STEP_OUTPUT"]
    assert output.event_specific_data.metadata["uae map"].value == 0.5
    assert json.loads((project / "data/backfills" / first / "evaluation.json").read_text())["systems"]
    assert event.step_key == "backfill_version"
