"""The formats that a source can have, one a file. A new format is one new file and one line here.

An adapter reads a path into a ``Source``. Input of another format raises an InputError, which names file, row and field.
Published data sets hold some things that no table can hold: these are left out and counted (``Source.skipped``). Documents
without text go into ``Source.empty``: a setting says whether they are refused.
"""

from collections.abc import Callable

from uae.corpus.adapters import beir, folder, jsonl, qasper, qasper_hub, squad, squad_hub
from uae.corpus.records import Source

ADAPTERS: dict[str, Callable[[str], Source]] = {
    "folder": folder.read,
    "jsonl": jsonl.read,
    "squad": squad.read,
    "squad_hub": squad_hub.read,
    "qasper": qasper.read,
    "qasper_hub": qasper_hub.read,
    "beir": beir.read,
}
