"""A release built anew over another corpus: encoder, fusion, second stage and base stay those of an earlier release."""

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uae.io.files import write_json
from uae.io.models import fingerprint
from uae.release.build import BuiltRelease, IndexRecipe, SecondStageRecipe, build_release
from uae.release.legs.dense import DenseEntry, read_index
from uae.release.manifest import BASE, RERANKED, UAE, Manifest, read_manifest
from uae.release.passages import Passages
from uae.release.second_stage import FOLDER as SECOND_STAGE
from uae.retrievers.cross_encoder import TRAINED
from uae.retrievers.document_side import encoded_with
from uae.retrievers.passage_vectors import store_key
from uae.retrievers.protocol import Vectors
from uae.text.passage_template import PassageTemplate
from uae.validation.trained_on import FILE as TRAINED_ON
from uae.vectors.shards import Keys, keys_of
from uae.vectors.store import VectorStore

log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """The tables of today, of their schemas."""

    documents: Path
    passages: Path
    questions: Path


class HowBuilt(NamedTuple):
    """What params.yaml says of a release, less what the earlier release says itself."""

    recipe: IndexRecipe
    second_stage_serving: str
    second_stage_min_correlation: float
    scope: str
    device: str


def rebuild_release(
    earlier: Path, corpus: Corpus, release_path: Path, how: HowBuilt, base_path: Path | None, vectors: VectorStore
) -> BuiltRelease:
    """``build_release`` over another corpus, with all that was trained or chosen taken from an earlier release.

    Only passages whose text is new are encoded: the others' vectors come from the vector store, or from the earlier index.

    Args:
        earlier: folder of a release. It may not be ``release_path``.
        base_path: the encoder before training, which few releases hold. It is used where it is the earlier release's.

    Raises:
        ArtefactError: the earlier release is damaged.
        ConfigError, ModelError: as ``build_release``.
    """
    manifest = read_manifest(earlier)
    take_over_vectors(earlier, manifest, VectorStore(vectors.folder))  # with counts of its own: nothing is encoded
    dense = manifest.dense()
    encoder = dense.encoder_folder(earlier)
    trained_on = earlier / TRAINED_ON
    with tempfile.TemporaryDirectory() as scratch:
        fusion = Path(scratch) / "fusion.json"
        write_json(fusion, _fusion(manifest, encoder))
        return build_release(
            documents_path=corpus.documents,
            passages_path=corpus.passages,
            questions_path=corpus.questions,
            encoder_path=encoder,
            base_path=_same_base(manifest, base_path),
            release_path=release_path,
            recipe=how.recipe._replace(dimension=None),  # the earlier release's encoder gives as many numbers as it serves
            scope=how.scope,
            passage_words=manifest.chunking["passage_words"],
            device=how.device,
            previous_path=earlier,
            read_as=PassageTemplate(dense.passage_template),
            trained_on_path=trained_on if trained_on.exists() else None,
            fusion_path=fusion,
            second_stage=_second_stage(earlier, manifest, how),
            vectors=vectors,
        )


def take_over_vectors(release: Path, manifest: Manifest, store: VectorStore) -> int:
    """Put the vectors of a release's indexes into the store, where that has lost them. Returns how many.

    Only of indexes that hold whole numbers of 32 bits, made by the libraries that are installed: others would differ.
    """
    passages = Passages(release)
    try:
        for leg in manifest.legs.values():
            if not isinstance(leg, DenseEntry) or leg.index.dtype != "float32" or leg.encoded_with != encoded_with():
                continue
            texts = passages.read_all(leg.passage_template)
            keys = keys_of(texts)
            if len(texts):
                store.vectors_of(store_key(leg.document_encoder), texts, partial(_of_index, leg.index_path(release), keys))
    finally:
        passages.close()
    return store.counted.embedded


def _of_index(path: Path, keys: Keys, texts: list[str]) -> Vectors:
    """
    Args:
        keys: of all texts, in the order of the index's rows.
    """
    order = np.argsort(keys, kind="stable")
    rows = order[np.searchsorted(keys, keys_of(texts), sorter=order)]
    vectors: Vectors = read_index(path, mapped=True).reconstruct_batch(rows)
    return vectors


def _fusion(manifest: Manifest, encoder: Path) -> dict[str, object]:
    """As ``uae.training.fusion`` writes it."""
    fused, entry = manifest.fusion(), manifest.systems[UAE].fusion
    chosen = entry.chosen if entry is not None else None
    useful = manifest.useful.model_dump(mode="json") if manifest.useful is not None else None
    return {"form": fused.form, "weight": fused.weight, "chosen": chosen, "useful": useful, "student": fingerprint(encoder)}


def _same_base(manifest: Manifest, path: Path | None) -> Path | None:
    base = manifest.legs.get(BASE)
    if not isinstance(base, DenseEntry) or path is None:
        return None
    if fingerprint(path) != base.encoder:
        log.warning("models.student is another encoder than the release's base: the new release has no system %r", BASE)
        return None
    return path


def _second_stage(earlier: Path, manifest: Manifest, how: HowBuilt) -> SecondStageRecipe | None:
    entry = manifest.systems[RERANKED].rerank if RERANKED in manifest.systems else None
    if manifest.second_stage is None or entry is None:
        return None
    return SecondStageRecipe(
        trained=earlier / SECOND_STAGE / TRAINED,
        depth=entry.depth,
        weight=entry.weight,
        chosen=entry.chosen,
        serving=how.second_stage_serving,
        min_correlation=how.second_stage_min_correlation,
        max_recall_loss=how.recipe.max_recall_loss,
    )
