"""What dvc.lock says: which outputs each stage last made, and from which inputs. Reading it hashes nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from uae.io.files import sha256_bytes
from uae.pipeline.chain import makers
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import ARTEFACTS

LOCK = "dvc.lock"


class Lock:
    """
    Args:
        root: the project's folder. Without a lock there, no stage was ever run.
    """

    def __init__(self, root: Path):
        path = root / LOCK
        content: dict[str, Any] = {}
        if path.exists():
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
        self._stages: dict[str, Any] = content.get("stages", {})

    def outputs(self, stage: str) -> dict[str, str]:
        """path -> hash, in the order of the paths; nothing for a stage that was never run."""
        return self._hashes(stage, "outs")

    def version(self, stage: str) -> str | None:
        """The data version of a stage's asset: another one for other outputs. None: it was never run."""
        outputs = self.outputs(stage)
        return data_version(outputs) if outputs else None

    def went_through(self, chain: Sequence[Stage[Any]], instead: Mapping[str, Mapping[str, str]] | None = None) -> bool:
        """Whether each stage was last run on what the stages before it last made, so that no run is left half-way.

        Args:
            instead: stage -> path -> hash, for stages that were run since by themselves: what they made when the others ran.
        """
        made_by = makers()
        earlier = instead or {}
        for stage in chain:
            if stage.name in earlier:
                continue
            inputs = self._hashes(stage.name, "deps")
            if not self.outputs(stage.name):
                return False
            for name in stage.needs:
                path, maker = ARTEFACTS[name], made_by[name]
                if inputs.get(path) != earlier.get(maker, self.outputs(maker)).get(path):
                    return False
        return True

    def _hashes(self, stage: str, side: str) -> dict[str, str]:
        entries = self._stages.get(stage, {}).get(side, ())
        return {entry["path"]: entry["md5"] for entry in sorted(entries, key=lambda entry: entry["path"]) if "md5" in entry}


def data_version(outputs: dict[str, str]) -> str:
    """
    Args:
        outputs: path -> hash.
    """
    return sha256_bytes(*(outputs[path] for path in sorted(outputs)))[:12]
