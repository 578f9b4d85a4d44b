"""What is not there, and what cannot be asked."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from uae.io.errors import InputError, RegistryError
from uae.registry.lineage import lineage
from uae.registry.tracking import connect
from uae.registry.versions import version_numbered, version_of


def test_an_unknown_model_alias_or_version_is_none(tmp_path):
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    assert version_of(client, "m", "champion") is None
    client.create_registered_model("m")
    assert version_of(client, "m", "champion") is None
    assert version_numbered(client, "m", "1") is None
    with pytest.raises(InputError, match="m has no version 'champion': it has none"):
        lineage(client, "m", "champion")


@pytest.mark.parametrize("ask", [version_of, version_numbered, lineage])
def test_a_registry_that_does_not_answer_is_not_an_empty_one(ask):
    class Away:
        def get_model_version(self, model, name):
            raise MlflowException("503 of http://me:secret@host", TEMPORARILY_UNAVAILABLE)

        get_model_version_by_alias = get_model_version

    with pytest.raises(RegistryError, match=r"registry cannot be asked for '1' of m: 503 of http://host; run .* again") as caught:
        ask(Away(), "m", "1")
    assert caught.value.transient
