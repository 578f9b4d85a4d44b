"""What goes wrong between us and MLflow ends in one of our errors, marked as transient or permanent."""

import os
import shutil
import socket
import sqlite3
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from uae.io.errors import RegistryError
from uae.registry.errors import registry_errors
from uae.registry.lineage import lineage
from uae.registry.tracking import RELEASE_TAG, connect, run_of, training_run
from uae.registry.versions import has_artefacts, origin_of, release_of, version_of, with_release

DATABASE = ("sqlite:///mlflow.db", "e")
MODEL = """
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["release"] + "/manifest") as file:
            self.read = file.read()

    def predict(self, context, model_input, params=None):
        return self.read

mlflow.models.set_model(Model())
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry") / "before"
    (root / "release").mkdir(parents=True)
    (root / "release" / "manifest").write_text("what was registered")
    (root / "model.py").write_text(MODEL)
    client = connect(*DATABASE, root)
    register(root, client)
    return root


@pytest.fixture
def project(template, tmp_path):
    """A folder with a database and one version of a release, the champion."""
    root = tmp_path / "before"
    shutil.copytree(template, root)
    connect(*DATABASE, root)  # its artefacts are those of this copy now
    return root


def register(root, client) -> None:
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="release", python_model=str(root / "model.py"), artifacts={"release": (root / "release").as_uri()},
            registered_model_name="m", pip_requirements=[],
        )  # fmt: skip
    number = str(logged.registered_model_version)
    client.set_model_version_tag("m", number, RELEASE_TAG, "f" * 64)
    client.set_registered_model_alias("m", "champion", number)


@contextmanager
def locked(database):
    """Another process writes and does not end. MLflow's own patience of 20 s is shortened."""

    def impatient(connection, cursor, statement, parameters, context, executemany):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 20"), parameters

    event.listen(Engine, "before_cursor_execute", impatient, retval=True)
    other = sqlite3.connect(database)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()
        event.remove(Engine, "before_cursor_execute", impatient)


@contextmanager
def answering(status: int):
    """A server that refuses everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"no")

        do_POST = do_GET

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_locked_database_is_one_transient_line_at_every_call(project, capfd):
    client = connect(*DATABASE, project)
    champion = version_of(client, "m", "champion")
    (project / "table").write_text("x")

    def train():
        with training_run({}, {"questions": project / "table"}):
            raise AssertionError("it cannot have begun")

    def log_while_training():
        with training_run({}, {}), locked(project / "mlflow.db"):
            mlflow.log_metrics({"loss": 1.0})

    calls = [
        lambda: connect(*DATABASE, project),
        lambda: version_of(client, "m", "champion"),
        lambda: lineage(client, "m", "champion"),
        lambda: origin_of(client, champion),
        lambda: with_release(client, "m", "f" * 64),
        lambda: has_artefacts(champion),
        lambda: run_of(client, "e", "x"),
        train,
    ]
    capfd.readouterr()
    with locked(project / "mlflow.db"):
        for number, call in enumerate(calls):
            with pytest.raises(RegistryError, match="another process holds the lock of its database; run the same") as caught:
                call()
            assert caught.value.transient, number
            assert "\n" not in str(caught.value), number
    with pytest.raises(RegistryError, match="cannot record the training: another process") as caught:
        log_while_training()
    assert caught.value.transient
    assert "Traceback" not in "".join(capfd.readouterr())
    assert version_of(client, "m", "champion").version == champion.version


def test_what_is_wrong_with_a_block_beside_mlflow_stays_what_it_was(project):
    with pytest.raises(FileNotFoundError), training_run({}, {}):
        (project / "nothing").read_text()


def test_a_database_that_cannot_be_opened_is_permanent(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RegistryError, match=r"MLflow cannot be used there.*not a database") as caught:
        connect(*DATABASE, tmp_path)
    assert not caught.value.transient


def test_a_server_that_is_away_is_transient(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        with pytest.raises(RegistryError, match="MLflow cannot be used there") as caught:
            connect(f"http://127.0.0.1:{free.getsockname()[1]}", "e", tmp_path)
    assert caught.value.transient


@pytest.mark.parametrize(("status", "transient"), [(503, True), (429, True), (401, False), (404, False)])
def test_what_a_server_answers_decides(tmp_path, monkeypatch, status, transient):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status) as address, pytest.raises(RegistryError) as caught:
        connect(address, "e", tmp_path)
    assert caught.value.transient is transient, caught.value


@pytest.mark.parametrize("how", [os.rename, shutil.copytree], ids=["moved", "copied"])
def test_a_run_folder_goes_on_elsewhere(project, tmp_path, how):
    there = tmp_path / "after_100_x"  # _ is a wildcard of LIKE
    how(project, there)
    shutil.rmtree(project, ignore_errors=True)
    client = connect(*DATABASE, there)
    release = release_of(version_of(client, "m", "champion"))
    assert release.is_relative_to(there)
    assert (release / "manifest").read_text() == "what was registered"
    assert mlflow.pyfunc.load_model("models:/m@champion").predict([1]) == "what was registered"
    register(there, client)  # new artefacts lie there, too
    assert release_of(version_of(client, "m", "champion")).is_relative_to(there)
    assert not project.exists()


def test_a_copy_of_the_database_alone_still_reads_the_artefacts_where_they_are(project, tmp_path):
    (tmp_path / "copy").mkdir()
    shutil.copy(project / "mlflow.db", tmp_path / "copy")
    assert release_of(version_of(connect(*DATABASE, tmp_path / "copy"), "m", "champion")).is_relative_to(project)


def test_lost_artefacts_are_named_and_the_command_that_does_without_them_works(project):
    shutil.rmtree(project / "mlruns")
    client = connect(*DATABASE, project)
    champion = version_of(client, "m", "champion")
    with pytest.raises(RegistryError, match=r"artefacts belong at file:\S+/before/mlruns.*bring them back") as caught:
        release_of(champion)
    assert not caught.value.transient
    assert not has_artefacts(champion)
    assert with_release(client, "m", "f" * 64) is None  # it is registered anew, not taken for what is there
    command = str(caught.value).partition('python -c "')[2].removesuffix('"')
    exec(command)
    assert version_of(client, "m", "champion") is None
    register(project, client)
    assert with_release(client, "m", "f" * 64).version == version_of(client, "m", "champion").version


@pytest.mark.parametrize(("code", "transient"), [(None, True), (503, True), (500, True), (403, False), (404, False)], ids=str)
def test_a_store_of_artefacts_that_is_away_is_transient_and_one_that_refuses_is_not(code, transient):
    exceptions = pytest.importorskip("botocore.exceptions", reason="needs the extra platform or s3")
    if code is None:
        error = exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    else:
        error = exceptions.ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": code}}, "PutObject")
    with pytest.raises(RegistryError) as caught, registry_errors("the release cannot be registered"):
        raise error
    assert caught.value.transient is transient


def test_what_mlflow_has_only_the_words_of_is_known_by_them():
    """It downloads in threads, and raises one error for all of theirs."""
    words = pytest.importorskip("botocore.exceptions", reason="needs the extra platform or s3")
    said = words.EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(RegistryError) as caught, registry_errors("its release cannot be read"):
        raise mlflow.exceptions.MlflowException(f"The following failures occurred while downloading:\n{said}")
    assert caught.value.transient


def test_an_error_that_is_no_business_of_mlflow_passes():
    with pytest.raises(ZeroDivisionError), registry_errors("x"):
        raise ZeroDivisionError
