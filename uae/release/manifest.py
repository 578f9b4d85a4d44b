"""The manifest of a release: what belongs together, under one fingerprint.

manifest.json         this
passages.parquet      schema RELEASE_PASSAGES; its rows have the order of every index
documents.parquet     schema RELEASE_DOCUMENTS
trained_on.parquet    schema TRAINED_ON; releases of earlier versions have none
legs/NAME/            the files of one leg (``uae.release.legs``)
second_stage/         the cross-encoder that re-ranks, where there is one (``uae.release.second_stage``)

A *leg* is a retriever with its index. A *system* is what can be asked by name: a leg, or two and how they are fused. ``uae`` is
the promoted whole. ``dense`` and ``bm25`` are its parts. ``base`` is the encoder before training, and may be absent.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from uae.io.errors import ArtefactError
from uae.io.files import read_json, sha256_bytes, sha256_file
from uae.measures.fusion import RANKS, RRF_K, SCORES, Fusion
from uae.measures.usefulness import Usefulness
from uae.release.legs.dense import DenseEntry
from uae.release.legs.kinds import KINDS
from uae.release.legs.protocol import LegEntry, Part
from uae.release.migrations import FORMAT, MIGRATIONS, migrate
from uae.release.second_stage import FOLDER as SECOND_STAGE
from uae.release.second_stage import SecondStageEntry

UAE, BASE = "uae", "base"
RERANKED = "uae_reranked"  # the promoted whole, then the second stage
DENSE, LEXICAL = "dense", "bm25"  # kinds of legs; a release calls the promoted system's legs by these names, too
_AGAIN = "build the release again (uae index)"
# Weights, settings and tables. Libraries choose how they read a file by its name: no pickle can be among these.
_SUFFIXES = {".faiss", ".jinja", ".json", ".model", ".npy", ".onnx", ".parquet", ".safetensors", ".txt"}


class FusionEntry(Part):
    """How two legs' scores become one; ``uae.measures.fusion`` has the formulas."""

    form: Literal["scores", "ranks"]
    chosen: dict[str, Any] | None  # what form and weight were chosen on; null: params.yaml gives them


class RerankEntry(Part):
    """How the second stage re-ranks what a system's legs find."""

    depth: int = Field(ge=1)  # so many of the first passages
    weight: float = Field(ge=0, allow_inf_nan=False)  # of the first stage's scores beside the second's
    chosen: dict[str, Any] | None  # what the weight was chosen on; null: params.yaml gives it, or nothing could choose


class SystemEntry(Part):
    """What answers under one name."""

    legs: dict[str, float] = Field(min_length=1)  # name of a leg -> its weight
    fusion: FusionEntry | None  # null: there is one leg, and its scores are the system's
    rerank: RerankEntry | None = None  # null: what is found first stays so

    @model_validator(mode="after")
    def _is_fused(self) -> "SystemEntry":
        if len(self.legs) > 1 and self.fusion is None:
            raise ValueError(f"has the legs {', '.join(self.legs)}, and fusion does not say how they are fused")
        if len(self.legs) == 1 and self.fusion is not None:
            raise ValueError(f"has the leg {next(iter(self.legs))} alone, and fusion says how it is fused")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.legs.values()):
            raise ValueError("the weight of a leg must be a positive number")
        return self


class UsefulEntry(Part):
    """From which scores on the first passage of the promoted system is likely to help: ``uae.measures.usefulness``."""

    intercept: float = Field(allow_inf_nan=False)
    cosine: float = Field(allow_inf_nan=False)
    bm25: float = Field(allow_inf_nan=False)
    least_probability: float = Field(gt=0, lt=1)
    chosen: dict[str, Any]  # what it was fitted to

    @property
    def usefulness(self) -> Usefulness:
        return Usefulness(self.intercept, self.cosine, self.bm25)


class Manifest(Part):
    """A manifest in this version's format, whatever format its file has."""

    format: int
    systems: dict[str, SystemEntry]
    legs: dict[str, SerializeAsAny[LegEntry]]
    second_stage: SecondStageEntry | None = None
    useful: UsefulEntry | None = None  # null: it does not say
    chunking: dict[str, int]
    passages: int = Field(ge=0)
    passage_texts: str  # hash of the passages' plain texts, in their order
    files: dict[str, str]  # every file of the folder but the manifest -> sha256
    fingerprint: str = ""

    @field_validator("legs", mode="before")
    @classmethod
    def _of_their_kinds(cls, found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        legs: dict[str, Any] = {}
        for name, entry in found.items():
            kind = entry.get("kind") if isinstance(entry, dict) else getattr(entry, "kind", None)
            if kind not in KINDS:
                raise ValueError(f"leg {name!r} is of the kind {kind!r}; this version knows {', '.join(KINDS)}")
            legs[name] = KINDS[kind].entry.model_validate(entry)
        return legs

    @model_validator(mode="after")
    def _belongs_together(self) -> "Manifest":
        if UAE not in self.systems:
            raise ValueError(f"there is no system {UAE!r}")
        for system, entry in self.systems.items():
            for name in entry.legs:
                if name not in self.legs:
                    raise ValueError(f"system {system!r} asks leg {name!r}, which is missing from legs")
            if entry.rerank is not None and self.second_stage is None:
                raise ValueError(f"system {system!r} re-ranks, and there is no second_stage")
            kinds = [self.legs[name].kind for name in entry.legs]
            if len(kinds) > 1 and sorted(kinds) != [LEXICAL, DENSE]:
                raise ValueError(f"system {system!r} fuses legs of the kinds {', '.join(kinds)}, not a dense and a lexical one")
            if len(kinds) > 1 and self._weight(entry, DENSE) != 1:
                raise ValueError(f"system {system!r}: the weight of a dense leg in a fusion is 1")
            if system == UAE and DENSE not in kinds:
                raise ValueError(f"system {UAE!r} has no dense leg: what is promoted is an encoder")
        if self.useful is not None and any(name not in self.legs or self.legs[name].kind != name for name in (DENSE, LEXICAL)):
            raise ValueError(f"useful needs the legs {DENSE} and {LEXICAL}, by whose scores it tells")
        return self

    def fusion(self, system: str = UAE) -> Fusion:
        """How BM25 joins the dense leg of a system; a weight of 0: it does not."""
        entry = self.systems[system]
        if entry.fusion is None:
            return Fusion(SCORES, 0.0)
        return Fusion(entry.fusion.form, self._weight(entry, LEXICAL))

    def score(self, system: str) -> str:
        """What a system's scores are, as a formula."""
        entry = self.systems[system]
        if entry.rerank is None:
            return self._first_score(entry)
        return f"second stage + {entry.rerank.weight:g} * ({self._first_score(entry)})"

    def _first_score(self, entry: SystemEntry) -> str:
        if entry.fusion is None:
            return "bm25" if self.legs[next(iter(entry.legs))].kind == LEXICAL else "cosine"
        weight = self._weight(entry, LEXICAL)
        if entry.fusion.form == RANKS:
            return f"1 / ({RRF_K} + rank by cosine) + {weight:g} / ({RRF_K} + rank by bm25)"
        return f"cosine + {weight:g} * bm25 / highest bm25"

    def _weight(self, entry: SystemEntry, kind: str) -> float:
        """Of the leg of a kind that the system has."""
        return next(weight for name, weight in entry.legs.items() if self.legs[name].kind == kind)

    def dense(self, system: str = UAE) -> DenseEntry:
        """The dense leg of a system.

        Raises:
            ArtefactError: it has none.
        """
        for name in self.systems[system].legs if system in self.systems else ():
            entry = self.legs[name]
            if isinstance(entry, DenseEntry):
                return entry
        raise ArtefactError(f"release {self.fingerprint[:12]} has no dense leg in a system {system!r}")

    def needs_torch(self) -> bool:
        """Whether a leg or the second stage is served by torch."""
        if self.second_stage is not None and self.second_stage.serving.backend == "torch":
            return True
        return any(isinstance(leg, DenseEntry) and leg.serving.backend == "torch" for leg in self.legs.values())

    def sealed(self) -> dict[str, Any]:
        """What is written to manifest.json, with the fingerprint over all of it."""
        body = self.model_dump(mode="json", exclude={"fingerprint"})
        return body | {"fingerprint": seal(body)}


def seal(manifest: Mapping[str, Any]) -> str:
    """The fingerprint of a release: a hash of all that its manifest says."""
    body = {name: value for name, value in manifest.items() if name != "fingerprint"}
    return sha256_bytes(json.dumps(body, sort_keys=True))


def read_manifest(folder: Path) -> Manifest:
    """Read a release's manifest, of this format or an earlier one, and check every file against it.

    Raises:
        ArtefactError: the format is unknown. Or a file is missing, changed, not listed, of a strange kind, or leads out of the
            folder. Or a leg is missing, or an encoder is not the one that its index was built with.
    """
    folder = Path(folder)
    manifest = _parsed(folder, read_json(folder / "manifest.json"))
    for name in manifest.files:
        _inside(folder, name)
        if PurePosixPath(name).suffix not in _SUFFIXES:
            raise ArtefactError(
                f"{folder / name} is of no kind that a release holds ({', '.join(sorted(_SUFFIXES))}): do not use it"
            )
    for name, leg in manifest.legs.items():
        _inside(folder, leg.folder)
        leg.check(name, folder, manifest.files)
    if manifest.second_stage is not None:
        manifest.second_stage.check(folder, manifest.files)
    for name, expected in manifest.files.items():
        _check_file(folder / name, expected, _owner(manifest, name))
    # Models are loaded by libraries that look for files themselves: there must be none but those that were hashed.
    there = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    if extra := [name for name in there if name not in manifest.files and name != "manifest.json"]:
        raise ArtefactError(f"{folder / extra[0]} is no part of this release: remove it, or {_AGAIN}")
    return manifest


def templates_of(folder: Path) -> set[str]:
    """The templates that the legs of a release read passages through, without a look at its other files.

    Raises:
        ArtefactError: the manifest is missing, or of a format that this version does not know.
    """
    return {leg.passage_template for leg in _parsed(folder, read_json(folder / "manifest.json")).legs.values()}


def system_names(folder: Path) -> tuple[str, ...]:
    """The systems of a release, without a look at its files; none where its manifest does not tell this version.

    A list of releases shows a damaged one, too: whoever reads it may be about to go back to another.
    """
    try:
        return tuple(_parsed(folder, read_json(folder / "manifest.json")).systems)
    except ArtefactError:
        return ()


def _parsed(folder: Path, found: Any) -> Manifest:
    """The manifest in this version's format, its seal checked as it was written."""
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise ArtefactError(
            f"{folder}: release format {number} is newer than this version of uae, which reads formats up to {FORMAT}. "
            f"Update uae here, or {_AGAIN} with this version"
        )
    known = (*MIGRATIONS, FORMAT)
    if number not in known:
        told = ", ".join(map(str, known))
        raise ArtefactError(f"{folder}: release format {number!r} is unknown; this version reads the formats {told}. {_AGAIN}")
    if seal(found) != found.get("fingerprint"):
        raise ArtefactError(f"{folder}/manifest.json was changed after it was written: {_AGAIN}")
    try:
        return Manifest.model_validate(migrate(found, number))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise ArtefactError(f"{folder}/manifest.json: {where + ': ' if where else ''}{reason}: {_AGAIN}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{folder}/manifest.json is not of format {number} ({error!r}): {_AGAIN}") from None


def _inside(folder: Path, name: str) -> None:
    plain = PurePosixPath(name)
    leads_out = plain.is_absolute() or ".." in plain.parts or "\\" in name or "\0" in name
    if leads_out or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(f"{folder}/manifest.json names {name!r}, which leads out of the release's folder: do not use it")


def _owner(manifest: Manifest, file: str) -> str:
    """The leg that a file belongs to, for a message. In format 2 one leg's folder lies in the other's: the innermost counts."""
    owners = [name for name, leg in manifest.legs.items() if PurePosixPath(file).is_relative_to(PurePosixPath(leg.folder))]
    if PurePosixPath(file).parts[0] == SECOND_STAGE:
        return f"the second stage of release {manifest.fingerprint[:12]}"
    owner = max(owners, key=lambda name: len(manifest.legs[name].folder), default=None)
    release = f"release {manifest.fingerprint[:12]}"
    return release if owner is None or file.endswith(".parquet") else f"leg {owner!r} of {release}"


def _check_file(path: Path, expected: str, owner: str) -> None:
    ours = f"{owner} was built with {str(expected)[:12]}"
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; {ours}: copy the release again as a whole, or {_AGAIN}")
    try:
        found = sha256_file(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror}); {ours}: see who may read it, or copy it again") from None
    if found != expected:
        raise ArtefactError(f"{path} is {found[:12]}, but {ours}: it is another release's file, or damaged")
