"""``uae refresh``: what is served follows the corpus within minutes. No LLM is asked, and nothing is trained.

The chain's own stages ingest and validate read the source. The champion's encoder, fusion, second stage and base stay. Only
passages whose text is new are encoded.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from uae.io.files import read_json, write_json
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import Settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace

READING = ("ingest", "validate")  # the stages of the chain that come before


def read_source(settings: Settings, w: Workspace) -> None:
    """Read and validate the source, by the chain's own stages.

    Raises:
        ValidationFailed: a suite failed, leakage among them.
        InputError: the source is not what it claims to be.
    """
    for name in READING:
        run_stage(STAGES[name], settings, w)


def refresh(settings: Settings, w: Workspace) -> dict[str, Any]:
    """Build the champion anew over the tables of the workspace, compare it with the champion, and promote it if it is not worse.

    Returns:
        What ``promote_refreshed`` returns, with ``passages`` (``new``, ``taken_over`` and ``gone`` texts), the counts of the
        vector store, over all steps, ``seconds``, and ``source``, the version of the source that was read. It is also in
        ``reports/refresh.json``.

    Raises:
        ArtefactError: a table is missing, or was changed after it was validated.
        InputError: there is no champion.
        ConfigError: ``ingest.passage_words`` is not the champion's.
        RegistryError: MLflow does not answer.
    """
    from uae.registry.decided import Place
    from uae.registry.gate import Bounds
    from uae.registry.refresh import Measured, find_champion, promote_refreshed
    from uae.registry.tracking import connect
    from uae.release.build import IndexRecipe
    from uae.release.rebuild import Corpus, HowBuilt, rebuild_release
    from uae.validation.report import require_validated
    from uae.vectors.store import VectorStore

    begun = time.monotonic()
    tracking, names = settings.tracking, settings.promote
    place = Place(w.root, tracking.uri, tracking.experiment, names.model, names.alias)
    client = connect(tracking.uri, tracking.experiment, w.root)
    champion = find_champion(client, place, settings.ingest.passage_words)
    corpus = Corpus(w.path("documents"), w.path("passages"), w.path("questions"))
    require_validated(w.path("validation"), corpus._asdict(), "validate", settings.scope)
    vectors, device = VectorStore(w.vectors, execution=settings.execution.distributed), settings.compute.device
    index, second = settings.index, settings.second_stage
    how = HowBuilt(
        IndexRecipe(**index.model_dump(exclude={"base"})), second.serving, second.min_correlation, settings.scope, device
    )
    base = student_folder(settings.models, w.model_cache) if index.base else None
    release = w.path("refreshed_release")
    rebuild_release(champion.folder, corpus, release, how, base, vectors)
    result = promote_refreshed(
        release,
        corpus,
        champion,
        place,
        Bounds(**names.model_dump(exclude={"model", "alias"})),
        Measured(settings.scope, device, vectors),
        w.path("refresh"),
        w.path("refresh_page"),
    )
    result |= {"refreshed": int(champion.version.version), "passages": _changes(champion.folder, release)}
    result |= vectors.counts() | {"seconds": round(time.monotonic() - begun, 1)}
    read = read_json(w.path("ingestion")).get("source", {})
    result |= {"source": read.get("version") or read.get("path")}
    write_json(w.path("refresh"), result)
    return result


def _changes(before: Path, after: Path) -> dict[str, int]:
    """Passage texts, as the encoder reads them: how many are new, were there before, and are gone."""
    from uae.release.manifest import read_manifest
    from uae.release.passages import Passages
    from uae.vectors.shards import keys_of

    read = []
    for folder in (before, after):
        passages = Passages(folder)
        read.append(np.unique(keys_of(passages.read_all(read_manifest(folder).dense().passage_template))))
        passages.close()
    old, new = read
    both = len(np.intersect1d(old, new, assume_unique=True))
    return {"new": len(new) - both, "taken_over": both, "gone": len(old) - both}
