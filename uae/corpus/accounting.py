"""What was read of a source and what was left out. Ingest says it when it runs, and keeps it in its report."""

import logging
from typing import Any

from uae.corpus.records import Source
from uae.io.errors import InputError

log = logging.getLogger(__name__)

_NAMED = 3  # places of a reason in a message; the report has the others
_EMPTY = 50  # documents without text that an error names


def refuse_empty(source: Source, skip: bool) -> None:
    """Count the documents without text, or refuse the source for them.

    Raises:
        InputError: there are some, and ``skip`` is false. They are all named at once.
    """
    if source.empty and not skip:
        places = list(source.empty.values())
        more = [f"and {len(places) - _EMPTY} more"] if len(places) > _EMPTY else []
        said = f"{places[0]} holds no text" if len(places) == 1 else f"{len(places)} documents hold no text"
        named = [] if len(places) == 1 else ["", *places[:_EMPTY], *more]
        raise InputError(f"{said}: fill or remove what is empty, or leave it out by ingest.skip_empty=true" + "\n  ".join(named))
    for place in source.empty.values():
        source.skipped.add("document without text", place)


def account(source: Source, counts: dict[str, Any]) -> dict[str, Any]:
    """The report of an ingestion, as JSON: its counts, and for each reason what was left out. It is also said in the log."""
    left_out = []
    for reason, count in sorted(source.skipped.items()):
        places = source.skipped.places[reason]
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        log.warning("left out: %d x %s: %s%s", count, reason, "; ".join(places[:_NAMED]), more)
        left_out.append({"reason": reason, "count": count, "places": places})
    return {"counts": counts, "left_out": left_out}
