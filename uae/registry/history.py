"""The history of a model's alias: who moved it, when and why, and every decision of the gate.

MLflow keeps where an alias points, and not where it pointed before. So each event is an MLflow run of its own, in an experiment
beside the trainings'. It stands where the registry stands, so that everyone who promotes sees one history. Nothing here changes
or deletes an event.
"""

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from uae.io.errors import InputError
from uae.registry.errors import registry_errors

DECIDED = "decided"
PROMOTED, ROLLED_BACK, BY_HAND, NOTICED = "promoted", "rolled back", "moved by hand", "moved by other means"
MOVES = (PROMOTED, ROLLED_BACK, BY_HAND, NOTICED)
_LONGEST_WHY = 2000  # characters: MLflow cuts longer tags, or refuses them
_PAGE = 500


class Event(NamedTuple):
    at: datetime
    kind: str
    version: int | None  # that the event is about; a move went to it. None: the alias was removed
    before: int | None  # the version that the alias pointed at
    release: str  # fingerprint of the version's release; "" where it is not known
    who: str
    why: str
    passed: bool | None  # of a decision
    units: int | None  # of a decision that tested for a gain: the documents of its test set
    run_id: str  # of the event itself: its numbers and its page are there


def history_of(experiment: str) -> str:
    """The name of the experiment that holds the history, beside the one that holds the trainings."""
    return f"{experiment}-history"


class History:
    """
    Args:
        client: as ``connect`` gives it.
        experiment: of the trainings. The history's is named after it.
    """

    def __init__(self, client: MlflowClient, experiment: str, model: str, alias: str):
        self._client, self._model, self._alias = client, model, alias
        self._trainings, self._experiment = experiment, history_of(experiment)

    def events(self) -> list[Event]:
        """All of the model's alias, oldest first.

        Raises:
            RegistryError: MLflow cannot be asked.
        """
        with registry_errors(f"the history of {self._model} cannot be read"):
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                return []
            runs: list[Run] = []
            token = None
            wanted = f"tags.`uae.model` = '{self._model}' and tags.`uae.alias` = '{self._alias}'"
            while True:
                page = self._client.search_runs([found.experiment_id], wanted, max_results=_PAGE, page_token=token)
                runs += page
                token = page.token
                if not token:
                    break
        return sorted((_event(run) for run in runs), key=lambda event: (event.at, event.run_id))

    def record(
        self,
        kind: str,
        version: int | None,
        before: int | None,
        release: str,
        why: str,
        who: str | None = None,
        passed: bool | None = None,
        units: int | None = None,
        numbers: Mapping[str, float] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Add an event. Returns the id of its run.

        Args:
            who: None: this user on this machine, or what the environment variable UAE_WHO says.
            numbers: metric -> value.
            files: name -> text, such as the decision's page.

        Raises:
            RegistryError: MLflow cannot record it.
        """
        tags = {
            "uae.event": kind,
            "uae.model": self._model,
            "uae.alias": self._alias,
            "uae.version": _text(version),
            "uae.before": _text(before),
            "uae.release": release,
            "uae.who": who or this_user(),
            "uae.why": why[:_LONGEST_WHY],
            "uae.passed": _text(passed),
            "uae.units": _text(units),
            "uae.at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        with registry_errors(f"the history of {self._model} cannot be written"):
            run = self._client.create_run(
                self._place(), tags=tags, run_name=f"{_named(version)}: {kind}"
            )  # one call: whole, or not there
            run_id = str(run.info.run_id)
            logged = [Metric(name, value, 0, 0) for name, value in (numbers or {}).items()]
            if logged:
                self._client.log_batch(run_id, metrics=logged)
            for name, text in (files or {}).items():
                self._client.log_text(run_id, text, name)
            self._client.set_terminated(run_id)
        return run_id

    def _place(self) -> str:
        """The id of the history's experiment, beside the trainings': a file store says where artefacts lie, a server decides."""
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        trainings = self._client.get_experiment_by_name(self._trainings)
        beside = trainings.artifact_location if trainings is not None else ""
        return str(self._client.create_experiment(self._experiment, beside if beside.startswith("file:") else None))

    def with_unknown_moves(self, now: int | None, release: str) -> list[Event]:
        """All events, after recording a move that was made by other means: with MLflow's own pages or client, or before this.

        Args:
            now: the version that the alias points at; None: it does not exist.
            release: that version's fingerprint.
        """
        events = self.events()
        moves = [event for event in events if event.kind in MOVES]
        known = moves[-1].version if moves else None
        if now == known:
            return events
        since = events[events.index(moves[-1]) + 1 :] if moves else events
        ours = next((event for event in since if event.kind == DECIDED and event.passed and event.version == now), None)
        if ours is not None:
            self.record(
                PROMOTED, now, known, release, "the gate passed; an interruption came before this could be noted", ours.who
            )
        else:
            why = "found so: MLflow does not say who moved it" if moves else "found so: this history begins here"
            self.record(NOTICED, now, known, release, why, "unknown")
        return self.events()


def withdrawn(events: Sequence[Event]) -> dict[str, Event]:
    """release -> the rollback that left it, of releases that no move has gone back to since."""
    found: dict[str, Event] = {}
    releases = {event.version: event.release for event in events if event.version is not None}
    for event in events:
        if event.kind in MOVES:
            found.pop(event.release, None)
        if event.kind == ROLLED_BACK and event.before is not None and releases.get(event.before):
            found[releases[event.before]] = event
    return found


def this_user() -> str:
    """Who is at work: UAE_WHO, or user@machine."""
    if named := os.environ.get("UAE_WHO", "").strip():
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a user without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def check_why(why: str) -> str:
    """
    Raises:
        InputError: it says nothing, or too much to be kept.
    """
    if not why.strip():
        raise InputError("--why is empty: say in a few words why, for whoever reads the history next year")
    if len(why) > _LONGEST_WHY:
        raise InputError(f"--why has {len(why)} characters; {_LONGEST_WHY} can be kept")
    return why.strip()


def _event(run: Run) -> Event:
    tags = run.data.tags
    return Event(
        at=datetime.fromisoformat(tags["uae.at"]),
        kind=tags["uae.event"],
        version=_number(tags["uae.version"]),
        before=_number(tags["uae.before"]),
        release=tags["uae.release"],
        who=tags["uae.who"],
        why=tags["uae.why"],
        passed={"True": True, "False": False}.get(tags["uae.passed"]),
        units=_number(tags["uae.units"]),
        run_id=str(run.info.run_id),
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(text: str) -> int | None:
    return int(text) if text else None


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
