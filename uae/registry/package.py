"""The package stage: the champion's release as a Bento, built in a process of its own by ``deploy.build``."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, write_json
from uae.registry.tracking import connect
from uae.registry.versions import origin_of, release_of, version_of
from uae.release.manifest import read_manifest


def package(bento_path: Path, root: Path, uri: str, experiment: str, model: str, alias: str, bento: str) -> dict[str, Any]:
    """Build the Bento of whatever the alias points at, which is not the newest release where the gate refused that.

    ``uae`` does not import BentoML (one-way layers), so the build runs as ``python -m deploy.build``.

    Returns:
        What was built; ``built`` is false where nothing was ever promoted, and ``bento_path`` then holds only package.json.

    Raises:
        ArtefactError: the build failed.
    """
    client = connect(uri, experiment, root)
    champion = version_of(client, model, alias)
    with atomic_path(bento_path) as partial:
        partial.mkdir()
        if champion is None:
            result = {"built": False, "reason": f"no version of {model} is the {alias}: nothing has passed the gate yet"}
        else:
            release = release_of(champion)
            manifest = read_manifest(release)
            version = f"v{champion.version}-{manifest.fingerprint[:8]}"
            _build(release, origin_of(client, champion), partial / "bento", bento, version)
            result = {
                "built": True,
                "model": model,
                "version": int(champion.version),
                "release": manifest.fingerprint,
                "bento": bento,
            }
        write_json(partial / "package.json", result)
    return result


def _build(release: Path, origin: Mapping[str, Any], target: Path, name: str, version: str) -> None:
    command = [sys.executable, "-m", "deploy.build", "--release", str(release), "--origin", json.dumps(origin)]
    command += ["--out", str(target), "--name", name, "--version", version]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArtefactError(f"the Bento cannot be built: {json.dumps(done.stderr.strip()[-800:])}")
