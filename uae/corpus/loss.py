"""How much of a source is gone, and whether a person said that this is meant.

A mount that is away, a wrong prefix or a broken export looks like a deletion. Nobody wants it trained on and served.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from uae.io.errors import ConfigError, InputError
from uae.io.files import read_json, write_json

CONFIRM_LOSS = "chain/confirm_loss"  # the tag of a Dagster run that confirms; its value is the version of the source
_NAMED = 5  # in a message


def lost(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names that are gone, in order. One whose content stands under another name was renamed or moved, and is not lost.

    Args:
        before, now: name -> what stands for its content.
    """
    contents = set(now.values())
    return sorted(name for name, content in before.items() if name not in now and content not in contents)


def too_much(what: str, gone: Sequence[str], of: int, most: float) -> str | None:
    """What to say where more than the share ``most`` of ``of`` is gone; else None."""
    if not of or len(gone) / of <= most:
        return None
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    return (
        f"{len(gone)} of {of} {what} are gone ({len(gone) / of:.0%}; more than {most:.0%} needs a person's word): "
        f"{', '.join(gone[:_NAMED])}{more}"
    )


def how_to_confirm(version: str) -> str:
    return (
        "If the source is away or damaged, mend it. If this is meant: uae source confirm --why REASON (with --out for a folder "
        f"of uae run), or a Dagster run with the tag {CONFIRM_LOSS}={version}"
    )


def require_confirmed(said: str | None, version: str | None, confirmations: Path) -> None:
    """
    Args:
        said: as ``too_much`` says it.
        version: of the source as it is now; None where it has none.

    Raises:
        InputError: nobody has confirmed the loss of this very version.
    """
    if said is not None and not is_confirmed(version, confirmations):
        raise InputError(f"{said}. {how_to_confirm(version or 'none')}")


def is_confirmed(version: str | None, confirmations: Path) -> bool:
    return version is not None and any(each["version"] == version for each in _confirmed(confirmations))


def confirm(version: str, by: str, why: str, confirmations: Path) -> None:
    """Write down that this version of the source may lack what it lacks.

    Raises:
        ConfigError: no reason is given.
    """
    if not why.strip():
        raise ConfigError("a confirmation needs a reason: whoever reads it later wants to know why so much is gone")
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    said = {"version": version, "by": by, "why": why.strip(), "at": at}
    write_json(confirmations, [*_confirmed(confirmations), said])


def _confirmed(confirmations: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = read_json(confirmations) if confirmations.exists() else []
    return found
