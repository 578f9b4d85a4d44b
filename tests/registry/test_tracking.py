import os
import socket
import subprocess

import mlflow
import pytest

import uae
from uae.io.errors import ArtefactError, ConfigError, RegistryError, without_user_info
from uae.registry.tracking import ENCODER_TAG, code_version, connect, dvc_md5, flatten, run_of, training_run


def test_hashes_are_dvcs_own(tmp_path):
    """DVC's own object database computes the expected values."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    folder = tmp_path / "store"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"two")
    (folder / "a.txt").write_bytes(b"one\r\n")
    (folder / "sub" / "c").write_bytes(b"")
    fs = LocalFileSystem()
    odb = HashFileDB(fs, str(tmp_path / "odb"))
    for path in (folder / "a.txt", folder):
        _, _, found = build(odb, str(path), fs, "md5")
        assert dvc_md5(path) == found.hash_info.value
    with pytest.raises(ArtefactError, match="does not exist"):
        dvc_md5(tmp_path / "nothing")


def test_relative_database_lies_under_the_root_not_under_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    connect("sqlite:///mlflow.db", "e", tmp_path)
    assert (tmp_path / "mlflow.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_run_holds_params_hashes_and_code_and_is_found_by_its_encoder(tmp_path):
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    (tmp_path / "table").write_text("x")
    with training_run({"train": {"epochs": 3}}, {"questions": tmp_path / "table"}) as run:
        mlflow.log_metrics({"loss": 1.0}, step=1)
        mlflow.set_tag(ENCODER_TAG, "abc")
    (logged,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("questions", dvc_md5(tmp_path / "table"))
    stored = client.get_run(run.info.run_id).data
    assert stored.params == {"train.epochs": "3"}
    assert stored.tags["dvc.questions"] == dvc_md5(tmp_path / "table")
    assert stored.tags["git.commit"] == code_version()["git.commit"]
    assert run_of(client, "e", "abc") == run.info.run_id
    restored = run_of(client, "e", "another")
    assert restored not in (None, run.info.run_id)
    assert run_of(client, "e", "another") == restored


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository that tracks a package, and the package as the code that runs."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as git sets it in its hooks
    root = tmp_path / "repository"
    (root / "uae").mkdir(parents=True)
    (root / "uae" / "__init__.py").write_text("")
    monkeypatch.setattr(uae, "__file__", str(root / "uae" / "__init__.py"))
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=own).stdout.strip()

    git("init", "-q")
    git("config", "status.showUntrackedFiles", "no")
    return root, git


def test_the_commit_is_of_the_code_that_runs_and_a_new_file_is_an_uncommitted_change(repository, tmp_path, monkeypatch):
    root, git = repository
    monkeypatch.chdir(tmp_path)  # not where the code lies
    git("add", "-A")
    git("commit", "-qm", "first")
    assert code_version() == {"git.commit": git("rev-parse", "HEAD"), "git.dirty": "false"}
    (root / "uae" / "new.py").write_text("")
    assert code_version()["git.dirty"] == "true"


def test_code_that_no_repository_tracks_is_of_an_unknown_commit(repository, monkeypatch):
    """A wheel is often installed into an environment that lies, ignored, inside another repository."""
    root, git = repository
    (root / "README").write_text("")
    git("add", "README")
    git("commit", "-qm", "something else")
    assert code_version() == {"git.commit": "unknown", "git.dirty": "unknown"}
    monkeypatch.setenv("PATH", "")  # no git either
    assert code_version() == {"git.commit": "unknown", "git.dirty": "unknown"}


def test_unreachable_database_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RegistryError, match="MLflow cannot be used there"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db", "e", tmp_path)


def test_a_password_in_the_address_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RegistryError, match=f"tracking.uri http://{address}: MLflow cannot be used there") as caught:
            connect(f"http://me:secret@{address}", "e", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:se@cret@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:se/cret@host/db", "postgresql://host/db"),
        ("at https://token@host, not at a@b", "at https://host, not at a@b"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        (
            "postgresql://host/db?user=me&password=se@cret&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        ),
        ("refused: 'https://host/?api_key=secret'", "refused: 'https://host/?api_key=***'"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
    ],
)
def test_only_user_password_and_keys_are_left_out_of_an_address(address, shown):
    assert without_user_info(address) == shown


@pytest.mark.parametrize("name", ["what?", "100%25"])
def test_a_folder_that_no_sqlite_address_can_name_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="MLflow's database cannot lie in a folder whose path has a"):
        connect("sqlite:///mlflow.db", "e", tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}
