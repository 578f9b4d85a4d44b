"""From a registered version back to everything it came from."""

from mlflow import MlflowClient

from uae.io.errors import InputError
from uae.registry.errors import registry_errors
from uae.registry.tracking import ENCODER_TAG, GATE_TAG, RELEASE_TAG
from uae.registry.versions import version_numbered, version_of


def lineage(client: MlflowClient, model: str, version: str) -> dict[str, dict[str, str]]:
    """Hashes of data, labels, code, encoder and index behind a version (a number, or an alias).

    Raises:
        InputError: there is no such version.
        RegistryError: the registry cannot be asked.
    """
    found = (version_numbered if version.isdigit() else version_of)(client, model, version)
    if found is None:
        with registry_errors(f"the registry cannot be asked for the versions of {model}"):
            versions = sorted(int(v.version) for v in client.search_model_versions(f"name = '{model}'"))
        known = f"it has {', '.join(map(str, versions))}" if versions else "it has none; run the promote stage first"
        raise InputError(f"{model} has no version {version!r}: {known}")
    tags = found.tags
    aliases = ", ".join(found.aliases)
    return {
        "version": {"model": model, "version": found.version, "aliases": aliases or "-", "gate": tags.get(GATE_TAG, "-")},
        "data (DVC md5)": {
            name.removeprefix("dvc."): value
            for name, value in sorted(tags.items())
            if name.startswith("dvc.") and name != "dvc.labels"
        },
        "labels (DVC md5)": {"labels": tags.get("dvc.labels", "-")},
        "code": {"commit": tags.get("git.commit", "-"), "uncommitted changes": tags.get("git.dirty", "-")},
        "release": {
            "fingerprint": tags.get(RELEASE_TAG, "-"),
            "encoder": tags.get(ENCODER_TAG, "-"),
            "index (sha256)": tags.get("uae.index", "-"),
        },
        "run": {"id": found.run_id or "-"},
    }
