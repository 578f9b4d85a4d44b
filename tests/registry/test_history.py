"""The history outlives what MLflow remembers, and a rollback goes by it."""

import shutil
import subprocess
import sys

import mlflow
import pytest

from uae.io.errors import InputError
from uae.io.files import write_text
from uae.registry.history import DECIDED, PROMOTED, History, this_user, withdrawn
from uae.registry.rollback import champions, roll_back
from uae.registry.tracking import RELEASE_TAG, connect


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Three versions, each of which was the champion; nobody opens their releases."""
    tmp_path = tmp_path_factory.mktemp("registry")
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    client.create_registered_model("m")
    write_text(tmp_path / "artefact" / "file", "")
    history = History(client, "e", "m", "champion")
    before = None
    for number in (1, 2, 3):
        client.create_model_version("m", (tmp_path / "artefact").as_uri(), tags={RELEASE_TAG: f"release {number}"})
        client.set_registered_model_alias("m", "champion", str(number))
        history.record(DECIDED, number, before, f"release {number}", "passed", passed=True, units=40, numbers={"gate/x": 0.5})
        history.record(PROMOTED, number, before, f"release {number}", "the gate passed")
        before = number
    return tmp_path


@pytest.fixture
def client(registry, tmp_path):
    """Of a copy of the registry: MLflow takes seconds to make a database."""
    shutil.copytree(registry, tmp_path, dirs_exist_ok=True)
    return connect("sqlite:///mlflow.db", "e", tmp_path)


@pytest.fixture
def back(client, monkeypatch):
    monkeypatch.setattr("uae.registry.rollback.has_artefacts", lambda version: int(version.version) != 4)

    def to(version=None, why="it answers in French", who=None):
        return roll_back(client, "e", "m", "champion", version, why, who)

    return to


def kinds(client):
    return [(e.kind, e.version, e.before) for e in History(client, "e", "m", "champion").events() if e.kind != DECIDED]


def test_events_come_back_as_they_were_written(client, monkeypatch):
    monkeypatch.setenv("UAE_WHO", "Ann")
    history = History(client, "e", "m", "champion")
    run = history.record(
        DECIDED, 4, 3, "r4", "map fell", passed=False, units=12, numbers={"gate/a": 0.25}, files={"gate.html": "<p>"}
    )
    event = history.events()[-1]
    assert event[1:] == (DECIDED, 4, 3, "r4", "Ann", "map fell", False, 12, run)
    assert client.get_run(run).data.metrics == {"gate/a": 0.25}
    assert mlflow.artifacts.load_text(f"{client.get_run(run).info.artifact_uri}/gate.html") == "<p>"
    assert client.get_run(run).info.status == "FINISHED"


def test_histories_of_other_models_and_aliases_are_not_mixed(client):
    assert History(client, "e", "m", "staging").events() == []
    assert History(client, "e", "other", "champion").events() == []


def test_back_and_back_again_and_forward_by_name(client, back):
    assert back(who="Ann") == (2, 3)
    assert back() == (1, 2)  # not to 3, which was left
    with pytest.raises(InputError, match="no version of m was the champion before: name one"):
        back()
    assert back("3") == (3, 1)
    assert kinds(client)[3:] == [("rolled back", 2, 3), ("rolled back", 1, 2), ("moved by hand", 3, 1)]
    assert client.get_model_version_by_alias("m", "champion").version in (3, "3")
    event = History(client, "e", "m", "champion").events()[-3]
    assert (event.who, event.why) == ("Ann", "it answers in French")


def test_what_was_rolled_back_stays_withdrawn_until_a_person_brings_it_back(client, back):
    history = History(client, "e", "m", "champion")
    back()
    assert list(withdrawn(history.events())) == ["release 3"]
    back("1")
    assert set(withdrawn(history.events())) == {"release 3", "release 2"}
    back("3")
    assert set(withdrawn(history.events())) == {"release 2"}


def test_a_move_by_other_means_is_noticed_once(client, back):
    client.set_registered_model_alias("m", "champion", "1")
    history = History(client, "e", "m", "champion")
    for _ in range(2):
        history.with_unknown_moves(1, "release 1")
    assert kinds(client)[3:] == [("moved by other means", 1, 3)]
    assert champions(history.events()) == [1]
    client.delete_registered_model_alias("m", "champion")
    assert history.with_unknown_moves(None, "")[-1].version is None
    assert back("2") == (2, None)


@pytest.mark.parametrize(
    ("version", "why", "said"),
    [
        ("9", "x", "m has no version 9: uae history lists"),
        ("3", "x", "version 3 of m is the champion already"),
        ("4", "x", "version 4 of m has lost its release"),
        ("2", "  ", "--why is empty"),
        ("2", "x" * 2001, "--why has 2001 characters; 2000 can be kept"),
    ],
)
def test_a_rollback_that_cannot_be_done_changes_nothing(client, back, tmp_path, version, why, said):
    client.create_model_version("m", (tmp_path / "artefact").as_uri())
    before = kinds(client)
    with pytest.raises(InputError, match=said):
        back(version, why)
    assert client.get_model_version_by_alias("m", "champion").version in (3, "3")
    assert kinds(client) == before


def test_a_user_without_a_name_is_a_number(monkeypatch):
    monkeypatch.delenv("UAE_WHO", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid")))
    assert this_user().startswith("user ")


def test_the_commands(client, tmp_path):
    import yaml

    from uae.pipeline.settings import dump_settings, load_settings

    settings = dump_settings(load_settings("params.yaml", ["promote.model=m", "tracking.experiment=e"]))
    write_text(tmp_path / "params.yaml", yaml.safe_dump(settings))

    def uae(*words):
        command = [
            sys.executable,
            "-m",
            "uae.cli.main",
            *words,
            "--params",
            str(tmp_path / "params.yaml"),
            "--root",
            str(tmp_path),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    without = uae("rollback")
    assert (without.returncode, "--why" in without.stderr) == (2, True)
    done = uae("rollback", "2", "--why", "users [complain]", "--who", "Ann")
    assert done.returncode == 0, done.stderr
    assert "champion of m is version 2 now; it was version 3" in done.stdout
    shown = uae("history")
    assert shown.returncode == 0, shown.stderr
    rows = [line for line in shown.stdout.splitlines() if "UTC" not in line and "20" in line]
    assert len(rows) == 7
    assert "rolled back" in rows[-1]
    assert "Ann" in rows[-1]
    assert "users [complain]" in rows[-1]
