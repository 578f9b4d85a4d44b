"""What a stage is: its inputs, outputs, code and function, and a typed class of the parameters that it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from uae.pipeline.settings import Settings
from uae.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Key:
    """The dotted key in params.yaml that a field of ``Parameters`` takes its value from."""

    name: str
    watched: bool = True  # False: it decides where the work is done and no result, so a change of it makes nothing outdated


class Parameters(BaseModel):
    """The values of params.yaml that one stage reads. Each stage has a subclass.

    A field takes the value under the key of its own name, or under the key that its annotation names::

        seed: int
        device: Annotated[str, Key("compute.device")]

    DVC, Dagster and the stamps of ``uae run`` watch exactly these keys, and the stage's function gets nothing else. So a
    stage cannot read a parameter that is not watched, unless its key says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def dotted_keys(cls) -> tuple[str, ...]:
        """The dotted keys that are watched, in the order of the fields."""
        return tuple(key.name for key in cls._keys().values() if key.watched)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the declared values from ``settings``."""
        return cls.model_validate({name: settings.value(key.name) for name, key in cls._keys().items()})

    def watched(self) -> str:
        """The values of the watched keys as text: the same text, the same result."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name, key in self._keys().items() if key.watched)

    @classmethod
    def _keys(cls) -> dict[str, Key]:
        return {
            name: next((item for item in field.metadata if isinstance(item, Key)), Key(name))
            for name, field in cls.model_fields.items()
        }


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Stage(Generic[P]):
    name: str
    summary: str  # what it does, in a line
    run: Callable[[P, Workspace], dict[str, Any]]  # returns what there is to say about it
    parameters: type[P]
    needs: tuple[str, ...]  # artefacts
    makes: tuple[str, ...]  # artefacts
    code: tuple[str, ...]  # files and folders that decide what it makes; a change of them makes the result outdated
    reads_source: bool = False  # it also reads the folder or file at ingest.path
    keeps: tuple[str, ...] = ()  # outputs that a re-run continues instead of starting anew
    by_several: bool = False  # whether several processes that torchrun started may run it together
    unfinished: Callable[[P, Workspace], bool] = lambda p, w: False  # whether there is work for it, though nothing changed

    @property
    def params(self) -> tuple[str, ...]:
        """The dotted keys of params.yaml that decide what the stage makes."""
        return self.parameters.dotted_keys()
