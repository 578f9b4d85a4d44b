"""Which vectors of the store something still uses: the parameters' encoders, those of the release and of the champion."""

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from uae.pipeline.settings import Settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.release.manifest import Manifest


class InUse(NamedTuple):
    encoders: set[str]  # keys in the vector store
    texts: Iterable[str]  # as the encoders read them; read from the table while somebody goes through them, once


def vectors_in_use(settings: Settings, w: Workspace) -> InUse:
    """
    Raises:
        ArtefactError: there is no table of passages, or a release is damaged.
        RegistryError: MLflow does not answer.
    """
    from uae.release.legs.dense import DenseEntry
    from uae.retrievers.document_side import document_fingerprint
    from uae.retrievers.passage_vectors import store_key
    from uae.text.passage_template import PassageTemplate
    from uae.text.stored_passages import StoredPassages, template_for

    passages = StoredPassages(w.path("passages"))
    folders = [student_folder(settings.models, w.model_cache), *(path for path in [w.path("student")] if path.exists())]
    encoders = {document_fingerprint(folder) for folder in folders}
    templates = {template_for(settings.passages.template, w.path("passages")).template}
    for manifest in _releases(settings, w):
        legs = [entry for entry in manifest.legs.values() if isinstance(entry, DenseEntry)]
        encoders |= {entry.document_encoder for entry in legs}
        templates |= {entry.passage_template for entry in legs}
    texts = chain.from_iterable(passages.texts(PassageTemplate(template)) for template in sorted(templates))
    return InUse(set(map(store_key, encoders)), texts)


def _releases(settings: Settings, w: Workspace) -> "list[Manifest]":
    """Of the release at hand and of the champion."""
    from uae.registry.tracking import connect
    from uae.registry.versions import release_of, version_of
    from uae.release.manifest import read_manifest

    found = [read_manifest(w.path("release"))] if w.path("release").exists() else []
    if w.path("promotion").exists():  # else there is no registry yet, and asking would make one
        client = connect(settings.tracking.uri, settings.tracking.experiment, w.root)
        champion = version_of(client, settings.promote.model, settings.promote.alias)
        if champion is not None:
            found.append(read_manifest(release_of(champion)))
    return found
