"""A cycle as users see it: a file comes, is answered from, goes, and is forgotten. Part of ``benchmarks/lifecycle.py``.

The parts are those of a machine that serves: the service as BentoML serves it, and ``uae release follow`` beside it. The
commands ``uae refresh``, ``uae forget`` and ``uae rollback`` are each a process of its own. The first champion comes from the
chain.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from servers import ask, retriever, running

from uae.io.files import read_json
from uae.pipeline.run import run_chain
from uae.pipeline.settings import load_settings
from uae.release.store import Active, ReleaseStore

SOURCE_KEY = "documents/aerial-masts.md"
QUESTION = "Which colour has the guard rail of the mast on Tornholm?"
FACT = "The guard rail of the mast on Tornholm is painted violet."
OTHER = "Each shed holds two coils of rope."
DOCUMENT = f"# Aerial masts\n\n## Tornholm\n\n{FACT} Nobody climbs it while the beacon is lit.\n\n## Sheds\n\n{OTHER}\n"
# A small release: few questions, one epoch, and nothing that is only measured. The refresh has the gate of params.yaml, but for
# what serving may lose: one of 48 test questions is 0.021 of Recall@1.
QUESTIONS = 3  # of each document
SMALL = ["scope=corpus", "train.epochs=1", "fusion.folds=0", "label.check_questions=0", "evaluate.reader_questions=2",
         "evaluate.reader_more_questions=0", "evaluate.llm.questions=0", "evaluate.resamples=100",
         "promote.max_serving_loss=0.05"]  # fmt: skip
FIRST = ["promote.min_gain=-1", "promote.max_loss=1"]  # there is nothing yet that could be lost
EVERY_S = 1.0  # the alias is looked at, and the store by the service
_PATIENCE_S = 1800.0


class Machine:
    """A folder of ``uae run``, a store of releases, and a log of queries."""

    def __init__(self, root: Path, corpus: Path, settings: list[str], models: Path):
        self.root, self.source, self.models = root, root / "source", models
        self.out, self.store, self.log = root / "run", root / "store", root / "queries"
        self.port = 0
        if not self.source.exists():  # an earlier try in this folder goes on
            shutil.copytree(corpus, self.source)
            _thin(self.source / "questions.jsonl")
        self.settings = [*SMALL, f"ingest.path={self.source}", f"drift.log={self.log}", *settings]

    def first_release(self) -> float:
        """The chain until its release is the champion. Returns its seconds."""
        begun = time.monotonic()
        settings = load_settings(Path("params.yaml"), [*self.settings, *FIRST])
        run_chain(settings, self.out, self.models, lambda line: print(line, file=sys.stderr), "promote")
        told = read_json(self.out / "promotion.json")
        if not told["promoted"]:
            raise SystemExit(f"the first release was refused: {'; '.join(told['reasons'])}")
        return round(time.monotonic() - begun, 1)

    def uae(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own."""
        return subprocess.run(_command(*words), capture_output=True, text=True, check=False)

    def required(self, *words: str) -> str:
        done = self.uae(*words)
        if done.returncode:
            raise SystemExit(f"uae {' '.join(words)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def refresh(self) -> None:
        given = [word for setting in self.settings for word in ("--set", setting)]
        self.required("refresh", "--out", str(self.out), "--models", str(self.models), *given)

    def registry(self) -> list[str]:
        return ["--params", str(self.out / "params.yaml"), "--root", str(self.out)]

    def following(self, *words: str) -> list[str]:
        return ["release", "follow", "--store", str(self.store), *self.registry(), *words]

    def active(self) -> Active:
        found = ReleaseStore(self.store).active()
        if found is None:
            raise SystemExit(f"no release is active in {self.store}")
        return found

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The service, and what has it follow the alias."""
        environment = {"UAE_STORE": str(self.store), "UAE_WATCH_SECONDS": str(EVERY_S), "UAE_QUERY_LOG": str(self.log)}

        def followed() -> bool:
            return (self.store / "followed.json").exists()

        command = _command(*self.following("--every", str(EVERY_S)))
        follower = running(command, followed, {}, self.root / "follow.log")
        with follower, retriever(self.root, environment) as (self.port, _):
            yield

    def found(self, question: str = QUESTION, k: int = 10) -> list[dict[str, Any]]:
        """The passages that the service answers with."""
        status, body = ask(self.port, "POST", "/v1/search", json.dumps({"query": question, "k": k}))
        if status != 200:
            raise SystemExit(f"the service answered {status}: {body.decode()}")
        return list(json.loads(body)["results"][0]["passages"])

    def of_document(self) -> int:
        """Passages of the document among what is found by its title and its sentences."""
        asked = (QUESTION, FACT, "Aerial masts", OTHER)
        return sum(passage["source"] == SOURCE_KEY for question in asked for passage in self.found(question, 100))

    def settled(self) -> None:
        """Until the service has what the store says, and the store what the alias says."""
        self.required(*self.following("--once"))
        wanted = self.active().fingerprint
        until(lambda: json.loads(ask(self.port, "GET", "/v1/release")[1])["fingerprint"] == wanted)


def cycle(root: Path, corpus: Path, settings: list[str], models: Path) -> dict[str, Any]:
    """One cycle.

    Args:
        root: an empty folder, or that of an earlier try which ended before its release was served.
        corpus: a folder that is a source; it is copied.
        settings: ``KEY=VALUE``, beyond those of a small release.
        models: where fetched models are kept.
    """
    machine = Machine(root, corpus, settings, models)
    first_s = machine.first_release()
    with machine.serving():
        machine.settled()
        if machine.of_document():
            raise SystemExit(f"{SOURCE_KEY} is answered from before it was dropped")
        file = machine.source / SOURCE_KEY
        begun = time.monotonic()
        file.write_text(DOCUMENT, encoding="utf-8")
        machine.refresh()
        refreshed_s = time.monotonic() - begun
        until(lambda: FACT in machine.found()[0]["text"])
        dropped_s = time.monotonic() - begun
        work_s = read_json(machine.out / "refresh.json")["seconds"]

        machine.settled()
        if not machine.of_document():
            raise SystemExit(f"{SOURCE_KEY} is served, and what counts its passages finds none")
        copy = root / "copy"  # a backup, which must not bring it back either
        shutil.copytree(machine.active().folder, copy)
        begun = time.monotonic()
        file.unlink()
        machine.refresh()
        until(lambda: machine.of_document() == 0)
        deleted_s = time.monotonic() - begun

        receipt = _forget(machine)
        tries = {name: _try(machine, *words) for name, words in _ways_back(machine, copy).items()}
    return {
        "dropped_to_served_s": round(dropped_s, 1),
        "deleted_to_gone_s": round(deleted_s, 1),
        "revived_by_rollback": sum(each["revived"] for each in tries.values()),
        "first_release_s": first_s,
        "refresh_command_s": round(refreshed_s, 1),
        "refresh_itself_s": work_s,
        "looked_at_every_s": EVERY_S,
        "passages": receipt.pop("in_first_release"),
        "forgotten": receipt,
        "rollbacks": tries,
    }


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"the service did not follow within {_PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _ways_back(machine: Machine, copy: Path) -> dict[str, list[str]]:
    """What a person could try: by registry, by store, by a copy. The last goes back to what never held the document."""
    registry, store, why = machine.registry(), ["--store", str(machine.store)], ["--why", "a benchmark"]
    return {
        "uae rollback": ["rollback", *why, *registry],
        "uae rollback 2": ["rollback", "2", *why, *registry],
        "uae release activate 2": ["release", "activate", "2", *store, *registry],
        "uae release activate COPY": ["release", "activate", str(copy), *store, *registry],
        "uae release rollback": ["release", "rollback", *store],
        "uae rollback 1": ["rollback", "1", *why, *registry],
    }


def _try(machine: Machine, *words: str) -> dict[str, Any]:
    done = machine.uae(*words)
    machine.settled()
    return {"refused": bool(done.returncode), "revived": machine.of_document()}


def _forget(machine: Machine) -> dict[str, Any]:
    place = ["--store", str(machine.store), "--out", str(machine.out), "--params", str(machine.out / "params.yaml")]
    machine.required("forget", SOURCE_KEY, *place)
    (path,) = (machine.out / "forgotten").iterdir()
    receipt = read_json(path)
    return {
        "releases_in_store": len(receipt["releases_in_store"]),
        "versions": receipt["versions"]["removed"],
        **{name: receipt[name] for name in ("readings", "vectors", "queries")},
        "in_first_release": read_json(machine.out / "refresh.json")["passages"]["taken_over"],
    }


def _thin(questions: Path) -> None:
    """Keep some questions of each document: a small training, and the gate still has all documents."""
    kept: dict[str, list[str]] = {}
    for line in questions.read_text(encoding="utf-8").splitlines():
        kept.setdefault(json.loads(line)["document"], []).append(line)
    lines = [line for rows in kept.values() for line in rows[:QUESTIONS]]
    questions.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "uae.cli.main", *words]
