"""What is packaged is the champion, and the Bento can say which version that is."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

import uae.registry.package
from uae.io.files import write_json
from uae.pipeline.chain import STAGES
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.package import PackageParameters
from uae.pipeline.workspace import Workspace
from uae.registry.package import package
from uae.registry.tracking import connect
from uae.registry.versions import origin_of, version_of

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
MLFLOW = ("sqlite:///mlflow.db", "e")


@pytest.fixture
def champion(tmp_path):
    """A version whose release nobody opens, and its client."""
    client = connect(*MLFLOW, tmp_path)
    client.create_registered_model("uae-retriever")
    with mlflow.start_run() as run:
        mlflow.log_metrics({"test/base/map": 0.1, "test/uae/map": 0.5, "test/uae/recall_at_1": 0.25})
    client.create_model_version("uae-retriever", tmp_path.as_uri(), run.info.run_id)
    client.set_registered_model_alias("uae-retriever", "champion", "1")
    return client


def test_the_bento_is_built_with_where_its_release_came_from(champion, tmp_path, monkeypatch):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(uae.registry.package, "release_of", lambda version: tmp_path / "release")
    monkeypatch.setattr(uae.registry.package, "read_manifest", lambda folder: SimpleNamespace(fingerprint="ab" * 32))
    monkeypatch.setattr(uae.registry.package.subprocess, "run", lambda command, **rest: commands.append(command) or Done())
    result = package(tmp_path / "bento", tmp_path, *MLFLOW, "uae-retriever", "champion", "uae-retriever")
    ((*_, module, _, release, _, origin, _, out, _, name, _, version),) = commands
    assert json.loads(origin) == origin_of(champion, version_of(champion, "uae-retriever", "champion"))
    assert json.loads(origin)["metrics"] == {"map": 0.5, "recall@1": 0.25}
    assert (module, release, Path(out).name, name) == ("deploy.build", str(tmp_path / "release"), "bento", "uae-retriever")
    assert version == "v1-abababab"
    assert (result["built"], result["version"]) == (True, 1)


def test_the_stage_has_work_where_the_alias_was_moved_since(champion, tmp_path):
    """By a rollback, say: no input of the stage has changed then."""
    given = ["promote.model=uae-retriever", "promote.alias=champion", "tracking.uri=sqlite:///mlflow.db", "tracking.experiment=e"]
    p, w = PackageParameters.of(load_settings(PARAMS, given)), Workspace(tmp_path)
    stage = STAGES["package"]
    write_json(w.path("bento") / "package.json", {"built": True, "version": 2})
    assert not stage.unfinished(p, w)  # nothing was ever promoted here
    write_json(w.path("promotion"), {})
    assert stage.unfinished(p, w)
    write_json(w.path("bento") / "package.json", {"built": True, "version": 1})
    assert not stage.unfinished(p, w)
    write_json(w.path("bento") / "package.json", {"built": False, "reason": "there was none"})
    assert stage.unfinished(p, w)
    away = PackageParameters.of(load_settings(PARAMS, [*given, f"tracking.uri=sqlite:///{tmp_path}/no/folder/mlflow.db"]))
    assert not stage.unfinished(away, w)
    champion.delete_registered_model_alias("uae-retriever", "champion")
    assert not stage.unfinished(p, w)


def test_the_origin_reaches_the_build(tmp_path, monkeypatch):
    import deploy.build

    given = {"model": "m", "version": 3, "promoted_at": "2026-11-21T00:00:00+00:00", "metrics": {"map": 0.5}}
    monkeypatch.setattr(deploy.build, "build", lambda **arguments: write_json(tmp_path / "told", arguments["origin"]))
    words = ["build", "--release", "r", "--origin", json.dumps(given), "--out", "o", "--name", "n", "--version", "v"]
    monkeypatch.setattr("sys.argv", words)
    deploy.build.main()
    assert json.loads((tmp_path / "told").read_text()) == given
