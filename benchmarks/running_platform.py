"""The platform of ``deploy/platform`` on free ports of this machine, over a copy of the checkout with tiny models.

For the scripts and tests that drive it: what they ask of Dagster, MLflow and the service, and how they kill a server.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xmlrpc.client import ServerProxy

import psutil
import pyarrow.parquet as pq
import yaml
from supervisor.xmlrpc import SupervisorTransport
from tiny_models import tiny_models

from deploy.platform.buckets import DOCUMENTS
from deploy.platform.environment import mlflow_address, read
from deploy.platform.project import git, settle
from uae.pipeline.settings import dump_settings, load_settings

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
# What the chain is run with: models with random weights, and a gate that lets these pass.
SETTINGS = [
    "train.epochs=1", "evaluate.resamples=100", "compute.device=cpu", "evaluate.reader_questions=4",
    "evaluate.reader_new_tokens=2", "evaluate.reader_more_questions=0", "evaluate.llm.questions=0", "promote.min_gain=-1",
    "promote.max_loss=1", "promote.max_answer_loss=1", "promote.max_slowdown=null", "promote.min_cosine=0",
    "promote.max_serving_loss=1", "promote.max_index_loss=1", "fusion.folds=0", "source.quiet_s=2", "label.readings_per_part=16",
    "retrain.min_documents=3",
]  # fmt: skip
_COPIED = ("uae", "deploy", "dagster_project", ".dvc", "data/sample")
_DOCUMENTS, _QUESTIONS = 2, 8  # of each split, of each document: what is left of the bundled corpus
_READY_S = 300


class Refused(Exception):
    """Dagster's answer is an error: a server behind it is away."""


@dataclass
class Platform:
    """A running one."""

    folder: Path
    project: Path
    variables: dict[str, str]

    @property
    def supervisor(self) -> Any:
        socket = f"unix://{self.folder}/supervisor.sock"
        return ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, socket)).supervisor

    def processes(self) -> dict[str, int]:
        """program -> its process, of those that run."""
        return {each["name"]: each["pid"] for each in self.supervisor.getAllProcessInfo() if each["pid"]}

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A GraphQL query of Dagster's webserver. Raises OSError while that is away, ``Refused`` for its errors."""
        port = self.variables["PLATFORM_DAGSTER_PORT"]
        answer = post(f"http://127.0.0.1:{port}/graphql", {"query": query, "variables": variables})
        if "errors" in answer:
            raise Refused(answer["errors"])
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, job: str, **tags: str) -> str:
        """Start a run of a job, as a person does on Dagster's page. Returns its id."""
        mutation = """mutation ($it: ExecutionParams!) { launchRun(executionParams: $it) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        selector = {"repositoryLocationName": "uae", "repositoryName": "__repository__", "jobName": job}
        told = {"tags": [{"key": name, "value": value} for name, value in tags.items()]}
        answer = self.ask(mutation, it={"selector": selector, "runConfigData": {}, "executionMetadata": told})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise Refused(answer)
        run: str = answer["run"]["runId"]
        return run

    def heartbeats(self) -> dict[str, float]:
        """part of the daemon -> when it last said that it lives, seconds since 1970."""
        query = "{ instance { daemonHealth { allDaemonStatuses { daemonType lastHeartbeatTime } } } }"
        found = self.ask(query)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return {each["daemonType"]: each["lastHeartbeatTime"] or 0.0 for each in found}

    def switch_on(self, sensor: str) -> None:
        mutation = """mutation ($it: SensorSelector!) { startSensor(sensorSelector: $it) {
            __typename ... on PythonError { message } } }"""
        selector = {"repositoryLocationName": "uae", "repositoryName": "__repository__", "sensorName": sensor}
        answer = self.ask(mutation, it=selector)["startSensor"]
        if answer["__typename"] != "Sensor":
            raise Refused(answer)

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        """Newest first: runId, jobName, status, tags."""
        query = """query ($f: RunsFilter) { runsOrError(filter: $f, limit: 100) { ... on Runs { results {
            runId jobName status startTime endTime tags { key value } } } ... on PythonError { message } } }"""
        answer = self.ask(query, f={"pipelineName": job} if job else {})
        if "results" not in answer["runsOrError"]:
            raise Refused(answer)
        found: list[dict[str, Any]] = answer["runsOrError"]["results"]
        return found

    def steps(self, run: str) -> dict[str, str]:
        """step -> status."""
        return {step: told["status"] for step, told in self.step_times(run).items()}

    def step_times(self, run: str) -> dict[str, dict[str, Any]]:
        """step -> status, startTime and endTime (seconds since 1970, None before)."""
        query = """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
            stepStats { stepKey status startTime endTime } } } }"""
        return {each["stepKey"]: each for each in self.ask(query, id=run)["runOrError"]["stepStats"]}

    def messages(self, run: str) -> list[str]:
        """What a run has logged."""
        return [each["message"] for each in self._events(run) if each.get("message")]

    def said(self, run: str) -> list[str]:
        """What went wrong in a run, in its own words."""
        return [f"{each['message']} {each.get('error') or ''}" for each in self._events(run) if "Failure" in each["__typename"]]

    def _events(self, run: str) -> list[dict[str, Any]]:
        query = """query ($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
            __typename ... on MessageEvent { message } ... on ExecutionStepFailureEvent { error { message causes { message } } }
            } } } }"""
        found: list[dict[str, Any]] = self.ask(query, id=run)["logsForRun"]["events"]
        return found

    def command(self, *words: str, folder: Path | None = None) -> str:
        """A command in the project, or elsewhere, as the servers would run it. Returns what it printed."""
        done = subprocess.run(
            words, cwd=folder or self.project, env=os.environ | self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stored(self, bucket: str) -> list[str]:
        """The objects of a bucket."""
        with environment(self.variables):
            from uae.corpus.objects import filesystem

            found: list[str] = filesystem().find(bucket)
        return found

    def answers(self, query: str) -> dict[str, Any] | None:
        """What the service finds; None while it serves nothing."""
        port = self.variables["PLATFORM_RETRIEVER_PORT"]
        try:
            return post(f"http://127.0.0.1:{port}/v1/search", {"query": query, "k": 3})
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def drop(self, name: str, text: str) -> None:
        """Put a document into the bucket."""
        with environment(self.variables):
            from uae.corpus.objects import filesystem

            filesystem().pipe_file(f"{DOCUMENTS.removeprefix('s3://')}/{name}", text.encode())

    def dropped(self, name: str) -> str:
        """The text of a document or of the questions in the bucket."""
        with environment(self.variables):
            from uae.corpus.objects import filesystem

            text: bytes = filesystem().cat_file(f"{DOCUMENTS.removeprefix('s3://')}/{name}")
        return text.decode()

    def remove(self, name: str) -> None:
        """Take a document out of the bucket."""
        with environment(self.variables):
            from uae.corpus.objects import filesystem

            filesystem().rm_file(f"{DOCUMENTS.removeprefix('s3://')}/{name}")

    def contents(self, bucket: str) -> dict[str, bytes]:
        """The objects of a bucket with what they hold."""
        with environment(self.variables):
            from uae.corpus.objects import filesystem

            store = filesystem()
            found: dict[str, bytes] = store.cat(store.find(bucket))
        return found

    def readings(self) -> tuple[int, int]:
        """Of the label store: how many readings, and how many different ones."""
        rows = self.reading_keys()
        return len(rows), len(set(rows))

    def reading_keys(self) -> list[tuple[str, ...]]:
        """What each reading of the label store is about; twice what lies there twice."""
        keys = ["question", "passage", "answer_id", "template", "teacher"]
        rows = []
        for part in sorted((self.project / "data/labels").glob("[!.]*.parquet")):
            table = pq.read_table(part)
            rows += [tuple(row[key] for key in keys) for row in table.to_pylist()]
        return rows


def post(address: str, body: Mapping[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def until(what: str, found: Callable[[], T | None], patience_s: float = _READY_S) -> T:
    """Ask until there is an answer. Servers that are away meanwhile are asked again."""
    deadline = time.monotonic() + patience_s
    said: Exception | None = None
    while True:
        try:
            if (answer := found()) is not None:
                return answer
        except (OSError, Refused) as error:
            said = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {patience_s:.0f} s; the last error was {said!r}")
        time.sleep(2)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Platform]:
    """Everything up, over a project of its own in ``folder``; over the one that is there, where an earlier one was kept."""
    project, home = folder / "project", folder / "platform"
    command = [sys.executable, "-m", "deploy.platform.up", "--folder", str(home), "--project", str(project), "--free-ports"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("UAE_", "AWS_"))}
    inherited |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    new = not project.exists()
    with open(folder / "up.log", "a", encoding="utf-8") as log:
        if new:
            make_project(folder, project)
        server = subprocess.Popen(command, env=inherited, stdout=log, stderr=log, cwd=ROOT)
        try:
            until("the platform's set-up", lambda: True if (home / "supervisor.sock").exists() else None)
            platform = Platform(home, project, read(home / "platform.env"))
            if new:
                settle(project, mlflow_address(platform.variables))
                git(project, "push", "--quiet", "origin", "HEAD")
            until("Dagster's start", lambda: platform.runs() is not None or None)
            yield platform
        finally:
            children = psutil.Process(server.pid).children(recursive=True)
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(120)
            for process in children:  # what a kill has left behind
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def make_project(folder: Path, project: Path) -> None:
    """A repository of its own, with a remote, from the checkout as it is now."""
    ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
    for name in _COPIED:
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    make_small(project / "data" / "sample")
    models = tiny_models(folder / "models", ROOT / "data" / "sample")
    settings = load_settings(ROOT / "params.yaml", SETTINGS + models)
    (project / "params.yaml").write_text(yaml.safe_dump(dump_settings(settings), sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(folder / "remote.git")], check=True)
    for words in (
        ["init", "--quiet", "-b", "main"],
        ["remote", "add", "origin", str(folder / "remote.git")],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "copy"],
    ):
        git(project, *words)


def make_small(sample: Path) -> None:
    """Leave a few documents and questions of each split."""
    path = sample / "questions.jsonl"
    kept: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        of_split = kept.setdefault(question["split"], {})
        if question["document"] in of_split or len(of_split) < _DOCUMENTS:
            lines = of_split.setdefault(question["document"], [])
            lines += [line] * (len(lines) < _QUESTIONS)
    path.write_text(
        "".join(f"{line}\n" for split in kept.values() for lines in split.values() for line in lines), encoding="utf-8"
    )
    documents = {name for split in kept.values() for name in split}
    for file in (sample / "documents").iterdir():
        if f"documents/{file.name}" not in documents:
            file.unlink()
