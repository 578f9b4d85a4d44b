"""Whenever publishing is killed, a fresh clone can be pulled, and holds one whole version."""

import contextlib
import os
import signal
import subprocess
import sys

import dagster as dg
import pytest
from botocore.exceptions import EndpointConnectionError
from dvc.repo import Repo
from git_project import git, git_project

from dagster_project.automation import went_through
from dagster_project.publish import STEPS, Publication, publish
from dagster_project.publish_job import publish_data
from dagster_project.resources import ProjectResource
from uae.io.errors import ArtefactError, ConfigError

DVC_YAML = """
stages:
  make:
    cmd: python make.py
    deps: [make.py, source.txt]
    outs: [data/table, data/folder]
"""
MAKE = """
from pathlib import Path
text = Path("source.txt").read_text()
Path("data/folder").mkdir(parents=True, exist_ok=True)
Path("data/table").write_text(text * 1000)
for number in range(4):
    Path(f"data/folder/{number}").write_text(f"{text} {number}")
"""


def change(project, text):
    (project / "source.txt").write_text(text)
    with contextlib.chdir(project), Repo() as repo:
        repo.reproduce()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose first version is published, to a git remote and a DVC remote on this disk."""
    project = git_project(tmp_path, monkeypatch, DVC_YAML, MAKE, "/data/\n")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "code")
    change(project, "one")
    run(project)
    return project


def run(project, rehash=False):
    told = []
    return publish(Publication(project, "data", None, "origin", rehash, told.append))


def clone(project, name="clone"):
    """The texts that a fresh clone holds after ``dvc pull``."""
    there = project.parent / name
    subprocess.run(["git", "clone", "-q", str(project.parent / "remote.git"), str(there)], check=True)
    done = subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = (there / "data" / "table").read_text()
    text = table[: len(table) // 1000]
    assert [(there / "data" / "folder" / str(n)).read_text() for n in range(4)] == [f"{text} {n}" for n in range(4)]
    return text


KILLED_AFTER = """
import os, signal, sys
from pathlib import Path
import dagster_project.publish as published
number = int(sys.argv[2])
name, step = published.STEPS[number]
def killed(publication):
    step(publication)
    os.kill(os.getpid(), signal.SIGKILL)
published.STEPS[number] = (name, killed)
published.publish(published.Publication(Path(sys.argv[1]), "data", None, "origin", False, print))
"""


@pytest.mark.parametrize("number", range(len(STEPS)), ids=[name for name, _ in STEPS])
def test_killed_after_any_step_a_clone_can_be_pulled_and_the_same_command_goes_on(project, number):
    before = git(project.parent / "remote.git", "rev-parse", "main")
    change(project, "two")
    done = subprocess.run([sys.executable, "-c", KILLED_AFTER, str(project), str(number)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = number == len(STEPS) - 1
    assert clone(project) == ("two" if last else "one")
    assert (git(project.parent / "remote.git", "rev-parse", "main") == before) is not last
    tag = run(project)
    assert clone(project, "later") == "two"
    assert git(project.parent / "remote.git", "rev-parse", f"{tag}^{{commit}}") == git(project, "rev-parse", "HEAD")


def test_killed_while_data_are_on_their_way(project):
    """The table has arrived, and half of the folder; its listing has not. A clone has the version before."""
    change(project, "two")
    store = project.parent / "store" / "files" / "md5"
    known = {path for path in store.rglob("*") if path.is_file()}
    with contextlib.chdir(project), Repo() as repo:
        repo.push()
    came = sorted(path for path in store.rglob("*") if path.is_file() and path not in known)
    assert len(came) == 6  # a table, four files and their listing
    for path in [each for each in came if each.suffix == ".dir"] + [each for each in came if not each.suffix][:2]:
        path.chmod(0o644)
        path.unlink()
    assert clone(project) == "one"
    run(project)
    assert clone(project, "later") == "two"


def test_a_second_run_does_nothing(project):
    head, tag = git(project, "rev-parse", "HEAD"), run(project)
    assert git(project, "rev-parse", "HEAD") == head
    assert git(project, "tag", "--list").split() == [tag]


def test_stages_may_be_behind_after_a_refresh_and_what_they_made_is_published(project):
    """One stage read the source anew; the one after it did not run. A clone gets what each made."""
    (project / "dvc.yaml").write_text(
        DVC_YAML + "  later:\n    cmd: cp data/table later\n    deps: [data/table]\n    outs: [later]\n"
    )
    (project / ".gitignore").write_text("/data/\n/later\n")
    change(project, "two")
    run(project)
    (project / "source.txt").write_text("three")
    with contextlib.chdir(project), Repo() as repo:
        repo.reproduce("make", single_item=True)
    with pytest.raises(ArtefactError, match="later changed"):
        run(project)
    publish(Publication(project, "data", None, "origin", False, print, behind=True))
    assert clone(project) == "three"
    assert (project.parent / "clone" / "later").read_text().startswith("two")
    (project / "later").write_text("something else")
    with pytest.raises(ArtefactError, match="later changed"):
        publish(Publication(project, "data", None, "origin", False, print, behind=True))


def test_after_a_run_the_sensor_asks_for_the_job_that_publishes(project):
    @dg.job(name="refresh")
    def ran():
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        result = ran.execute_in_process(instance=instance, tags={"source": "abc"})
        context = dg.build_run_status_sensor_context(
            "went_through", result.all_events[-1], instance, result.dagster_run, partition_key=None
        )
        tags = went_through(context).tags
        change(project, "two")
        done = publish_data.execute_in_process(resources={"project": ProjectResource(root=str(project))}, tags=tags)
    assert done.success
    assert clone(project) == "two"
    assert git(project, "log", "-1", "--format=%s") == "refresh of source abc"


def test_only_what_names_the_data_is_committed(project):
    (project / "notes.txt").write_text("not yet")
    git(project, "add", "notes.txt")
    change(project, "two")
    run(project)
    assert git(project, "show", "--name-only", "--format=", "HEAD").split() == ["dvc.lock"]
    assert git(project, "status", "--porcelain", "notes.txt") == "A  notes.txt"


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_what_the_remote_has_lost_is_not_committed(project, damage, monkeypatch):
    """DVC takes for pushed what it once pushed; here nothing is pushed again."""
    change(project, "two")
    with contextlib.chdir(project), Repo() as repo:
        repo.push()
        (oid,) = [out.hash_info.value for out in repo.index.outs if out.def_path == "data/table"]
    stored = project.parent / "store" / "files" / "md5" / oid[:2] / oid[2:]
    stored.chmod(0o644)
    size = stored.stat().st_size
    stored.unlink() if damage == "gone" else stored.write_bytes(b"x" * (size - (damage == "cut")))
    monkeypatch.setattr("dvc.repo.Repo.push", lambda repo, **options: 0)
    head = git(project, "rev-parse", "HEAD")
    if damage == "changed":
        run(project, rehash=False)  # equal sizes pass; reading back does not
        git(project, "reset", "-q", "--soft", head)
    with pytest.raises(ArtefactError, match=rf"remote does not hold the data: {oid} of data/table .*Nothing was committed"):
        run(project, rehash=True)
    assert git(project, "rev-parse", "HEAD") == head


@pytest.mark.parametrize("step", ["dvc.repo.Repo.push", "dagster_project.publish._objects"])
@pytest.mark.parametrize(
    ("error", "later"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), True),
        (ConnectionResetError("reset"), True),
        (PermissionError("no"), False),
    ],
)
def test_a_store_that_goes_away_meanwhile_is_tried_again(project, step, error, later, monkeypatch):
    """The store's client raises what is none of DVC's own errors."""
    change(project, "two")

    def fail(*arguments, **named):
        raise error

    head = git(project, "rev-parse", "HEAD")
    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        with pytest.raises(ArtefactError, match=r"Nothing was committed; run this again") as raised:
            run(project)
    assert raised.value.transient is later
    assert git(project, "rev-parse", "HEAD") == head
    run(project)


def test_a_workspace_that_dvc_lock_does_not_describe_is_refused(project):
    (project / "source.txt").write_text("three")
    with pytest.raises(ArtefactError, match=r"dvc\.lock is not what lies here: make changed\. Run dvc repro"):
        run(project)


def test_a_remote_that_a_clone_would_not_know_is_refused(project):
    config = project / ".dvc" / "config"
    os.replace(config, project / ".dvc" / "config.local")
    config.write_text("")
    with pytest.raises(ConfigError, match=r"'store' stands in \.dvc/config\.local alone"):
        run(project)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda p: git(p, "remote", "remove", "origin"), "git has no remote 'origin'"),
        (lambda p: git(p, "switch", "-q", "--detach"), "git is on no branch"),
        (lambda p: (p / ".dvc" / "config").write_text(""), "DVC has no such remote"),
    ],
)
def test_what_is_missing_is_named(project, break_it, said):
    break_it(project)
    with pytest.raises(ConfigError, match=said):
        run(project)


def test_a_branch_that_went_on_elsewhere_stops_it_before_anything_is_named(project):
    other = project.parent / "other"
    subprocess.run(["git", "clone", "-q", str(project.parent / "remote.git"), str(other)], check=True)
    (other / "README").write_text("of somebody else")
    for words in (("add", "README"), ("commit", "-qm", "more"), ("push", "-q")):
        git(other, *words)
    change(project, "two")
    with pytest.raises(ArtefactError, match="git push failed"):
        run(project)
    assert clone(project) == "one"
    assert not [tag for tag in git(other, "ls-remote", "--tags", "origin").splitlines() if "two" in tag]
    git(project, "pull", "-q", "--rebase", "origin", "main")
    run(project)
    assert clone(project, "later") == "two"
