"""The actor that holds a worker. It is sent as it is written here, and compares versions before it uses other lines of ours."""

from collections.abc import Sequence
from typing import Any


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Python's version, that of ``uae`` with a hash of its code, and those of libraries, without the mark of a build."""
    found: dict[str, str] = actor_class().versions(libraries)  # type: ignore[attr-defined]
    return found


def actor_class() -> type:
    """A class of its own each time: Ray sends it by value, for a class inside a function cannot be imported.

    So the driver's lines run on a machine with another version of uae, and say so.
    """

    class Actor:
        def __init__(self, make: str, arguments: dict[str, Any], expected: dict[str, str]):
            import importlib
            import os
            import threading

            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            self._thread, self._worker, self._problem = threading.local(), None, ""
            try:
                here = self.versions([name for name in expected if name not in ("python", "uae")])
                self._problem = "; ".join(
                    f"it has {name} {here[name]}, and this run {wanted}"
                    for name, wanted in expected.items()
                    if here[name] != wanted
                )
                if self._problem:
                    self._problem += ". Install the same versions on all nodes"
                else:
                    module, _, name = make.partition(":")
                    self._worker = getattr(importlib.import_module(module), name)(**arguments)
            except Exception as error:  # whatever it is, the driver has to hear of it: an actor that dies says less
                told = hasattr(error, "transient")  # an error of ours
                self._problem = str(error) if told else f"{type(error).__name__}: {error}"

        def describe(self) -> dict[str, Any]:
            import os

            import ray

            address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            node = f"{address} (node {ray.get_runtime_context().get_node_id()[:8]})"
            ready = {"slots": self._worker.slots, "facts": self._worker.facts()} if self._worker else {"slots": 0, "facts": {}}
            return {"problem": self._problem, "node": node, "pid": os.getpid()} | ready

        def call(self, method: str, *arguments: Any) -> Any:
            assert self._worker is not None
            if not hasattr(self._thread, "started"):
                self._worker.start_thread()
                self._thread.started = True
            return getattr(self._worker, method)(*arguments)

        @staticmethod
        def versions(libraries: Sequence[str]) -> dict[str, str]:
            import hashlib
            import importlib.metadata
            import platform
            from pathlib import Path

            import uae

            root = Path(uae.__file__).parent
            code = hashlib.sha256()
            for path in sorted(root.rglob("*.py")):
                code.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
            found = {"python": platform.python_version(), "uae": f"{uae.__version__} (code {code.hexdigest()[:12]})"}
            for name in libraries:
                try:
                    found[name] = importlib.metadata.version(name).partition("+")[0]
                except importlib.metadata.PackageNotFoundError:
                    found[name] = "not installed"
            return found

    return Actor
