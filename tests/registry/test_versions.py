"""What is not there, and what cannot be asked."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from uae.io.errors import InputError, RegistryError
from uae.registry import versions
from uae.registry.lineage import lineage
from uae.registry.tracking import connect
from uae.registry.versions import release_of, version_numbered, version_of


def test_an_unknown_model_alias_or_version_is_none(tmp_path):
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    assert version_of(client, "m", "champion") is None
    client.create_registered_model("m")
    assert version_of(client, "m", "champion") is None
    assert version_numbered(client, "m", "1") is None
    with pytest.raises(InputError, match="m has no version 'champion': it has none"):
        lineage(client, "m", "champion")


@pytest.mark.parametrize(("stored", "copied"), [("s3://bucket/m", True), ("file:///here/m", False), ("/here/m", False)])
def test_what_a_remote_store_sends_goes_with_the_process(monkeypatch, stored, copied):
    """MLflow would leave a copy of each release in the temporary folder for ever."""
    asked = []
    monkeypatch.setattr(versions.MlflowClient, "get_model_version_download_uri", lambda self, name, version: stored)
    monkeypatch.setattr(
        versions.mlflow.artifacts, "download_artifacts", lambda uri, dst_path: asked.append(dst_path) or dst_path or "/here/m"
    )
    found = [release_of(SimpleNamespace(name="m", version="3")) for _ in range(2)]
    assert len(set(found)) == (2 if copied else 1)
    for into, release in zip(asked, found, strict=True):
        assert release == Path(into or "/here/m") / "artifacts" / "release"
        assert (into is None) != (copied and Path(into).is_relative_to(versions._fetched()))


def test_the_folder_of_fetched_releases_is_removed_at_the_end():
    code = "from uae.registry.versions import _fetched; print(_fetched())"
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert "uae-releases-" in folder
    assert not Path(folder).exists()


@pytest.mark.parametrize("ask", [version_of, version_numbered, lineage])
def test_a_registry_that_does_not_answer_is_not_an_empty_one(ask):
    class Away:
        def get_model_version(self, model, name):
            raise MlflowException("503 of http://me:secret@host", TEMPORARILY_UNAVAILABLE)

        get_model_version_by_alias = get_model_version

    with pytest.raises(RegistryError, match=r"registry cannot be asked for '1' of m: 503 of http://host; run .* again") as caught:
        ask(Away(), "m", "1")
    assert caught.value.transient
