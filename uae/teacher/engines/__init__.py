"""What runs a teacher's model: one engine a file, one function and one line in ``ENGINES`` here.

An engine is a class with what ``uae.teacher.protocol.Teacher`` asks for. Nothing heavy is imported before a teacher is opened: a
run that has nothing to ask loads no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from uae.execution.options import ExecutionOptions
from uae.teacher.protocol import Teacher


@dataclass(frozen=True)
class EngineRequest:
    """What an engine may need to know. Each takes what concerns it."""

    model: str  # a reference as uae.io.models takes it; with a server the model's name there
    models_folder: Path  # where local models are fetched to
    device: str
    dtype: str
    batch_tokens: int | None  # None, here and below: the engine chooses
    memory_mb: int | None
    compile: bool
    server: Mapping[str, Any]  # url, concurrency, timeout_s, batch_pairs, top_logprobs; empty without a server
    api_key: str | None
    grades: tuple[str, ...]  # of a judgement
    execution: ExecutionOptions | None = None  # what a local model is spread over; None: it is read in this process


class PreparedTeacher(NamedTuple):
    """A teacher that is known and not loaded yet."""

    fingerprint: str
    open: Callable[[], Teacher]


def prepare(engine: str, request: EngineRequest) -> PreparedTeacher:
    """Make a teacher known; a local model is fetched now and loaded by ``open``.

    Args:
        engine: a key of ``ENGINES``.

    Raises:
        ConfigError: the server's address or the key cannot be used, or the model's reference is none.
        ModelError: the model cannot be fetched.
    """
    return ENGINES[engine](request)


def prepare_folder(folder: Path, fingerprint: str, request: EngineRequest) -> PreparedTeacher:
    """As ``prepare`` with the local engine, of a model that is in a folder already."""

    def load() -> Teacher:
        sizes = {name: getattr(request, name) for name in ("device", "dtype", "batch_tokens", "memory_mb", "compile")}
        if request.execution is not None:
            from uae.teacher.engines.spread import spread_teacher

            return spread_teacher(request.execution, folder=folder, fingerprint=fingerprint, **sizes)
        from uae.teacher.engines.local import load_teacher

        return load_teacher(folder, fingerprint, **sizes)

    return PreparedTeacher(fingerprint, load)


def _local(request: EngineRequest) -> PreparedTeacher:
    from uae.io.models import fingerprint, resolve

    folder = resolve(request.model, request.models_folder)
    return prepare_folder(folder, fingerprint(folder), request)


def _served(request: EngineRequest) -> PreparedTeacher:
    from uae.teacher.engines.served import ServedTeacher

    server = {name: value for name, value in request.server.items() if name != "top_logprobs"}
    teacher = ServedTeacher(**server, model=request.model, api_key=request.api_key)
    return PreparedTeacher(teacher.fingerprint, lambda: teacher)


def _served_chat(request: EngineRequest) -> PreparedTeacher:
    from uae.teacher.engines.served_chat import ChatTeacher

    teacher = ChatTeacher(**request.server, model=request.model, api_key=request.api_key, grades=request.grades)
    return PreparedTeacher(teacher.fingerprint, lambda: teacher)


ENGINES: dict[str, Callable[[EngineRequest], PreparedTeacher]] = {
    "local": _local,
    "served": _served,
    "served_chat": _served_chat,
}
