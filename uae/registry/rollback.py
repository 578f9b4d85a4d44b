"""Moving the alias back by hand, to the version that was the champion before, or to any version."""

from collections.abc import Sequence
from typing import NamedTuple

from mlflow import MlflowClient

from uae.io.errors import InputError
from uae.registry.errors import registry_errors
from uae.registry.history import BY_HAND, MOVES, ROLLED_BACK, Event, History, check_why
from uae.registry.tracking import RELEASE_TAG
from uae.registry.versions import has_artefacts, version_numbered, version_of


class Moved(NamedTuple):
    version: int
    before: int | None


def roll_back(
    client: MlflowClient, experiment: str, model: str, alias: str, version: str | None, why: str, who: str | None
) -> Moved:
    """Move the alias to ``version``, and note who did it and why. The gate does not promote again what was rolled back.

    Args:
        version: None: the one that was the champion before the present one.
        why: for the history.
        who: None: this user.

    Raises:
        InputError: there is no such version, none was before, it is the champion already, or no reason is given.
        RegistryError: MLflow cannot be asked, or the version's release is lost.
    """
    why = check_why(why)
    history = History(client, experiment, model, alias)
    present = version_of(client, model, alias)
    now = int(present.version) if present is not None else None
    events = history.with_unknown_moves(now, str(present.tags.get(RELEASE_TAG, "")) if present is not None else "")
    number = version if version is not None else str(_before(events, model, alias))
    target = version_numbered(client, model, number)
    if target is None:
        raise InputError(f"{model} has no version {number}: uae history lists what there is")
    if int(target.version) == now:
        raise InputError(f"version {number} of {model} is the {alias} already")
    if not has_artefacts(target):
        raise InputError(f"version {number} of {model} has lost its release: take another version (uae history)")
    with registry_errors(f"the alias {alias!r} of {model} cannot be moved"):
        client.set_registered_model_alias(model, alias, target.version)
    kind = ROLLED_BACK if now is not None and int(target.version) < now else BY_HAND
    history.record(kind, int(target.version), now, str(target.tags.get(RELEASE_TAG, "")), why, who)
    return Moved(int(target.version), now)


def champions(events: Sequence[Event]) -> list[int]:
    """The versions that a rollback goes through, the present champion last: what was rolled back is not among them."""
    stack: list[int] = []
    for event in events:
        if event.kind not in MOVES:
            continue
        if event.version in stack:
            del stack[stack.index(event.version) + 1 :]
        elif event.version is None:
            stack.clear()
        else:
            stack.append(event.version)
    return stack


def _before(events: Sequence[Event], model: str, alias: str) -> int:
    stack = champions(events)
    if len(stack) < 2:
        raise InputError(f"no version of {model} was the {alias} before: name one (uae rollback VERSION; uae history lists them)")
    return stack[-2]
