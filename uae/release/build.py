"""Building a release: its legs, its passages and documents, and the manifest that puts all of it under one fingerprint."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, sha256_file, sha256_parts, write_json
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, QUESTIONS, TRAINED_ON, read_table, scan_table, write_table
from uae.release.build_dense import DenseBuild, IndexRecipe, build_dense
from uae.release.build_lexical import build_lexical
from uae.release.build_second_stage import BuiltSecondStage, SecondStageRecipe, build_second_stage
from uae.release.legs.protocol import LegEntry
from uae.release.manifest import BASE, DENSE, LEXICAL, RERANKED, UAE, FusionEntry, Manifest, SystemEntry, UsefulEntry
from uae.release.material import Material
from uae.release.migrations import FORMAT
from uae.release.tables import RELEASE_DOCUMENTS, RELEASE_PASSAGES
from uae.text.passage_template import TEXT_ALONE, PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.validation.trained_on import check_is_of
from uae.vectors.store import VectorStore

__all__ = ["BuiltRelease", "IndexRecipe", "SecondStageRecipe", "build_release"]

_ENOUGH = 200  # questions with evidence: with fewer of them in validation, training's are asked as well
_MOST = 1000  # questions that are asked at all
_DOCUMENTS = 1 << 12  # rows of documents that are read together


class BuiltRelease(NamedTuple):
    manifest: Manifest
    index_reused: bool  # not in the manifest: a release is the same however its index came about
    truncated: int  # passages of which the trained encoder reads only the beginning


def build_release(
    documents_path: Path,
    passages_path: Path,
    questions_path: Path | None,
    encoder_path: Path,
    base_path: Path | None,
    release_path: Path,
    recipe: IndexRecipe,
    scope: str,
    passage_words: int,
    device: str,
    previous_path: Path | None = None,
    read_as: PassageTemplate = TEXT_ALONE,
    trained_on_path: Path | None = None,
    fusion_path: Path | None = None,
    second_stage: SecondStageRecipe | None = None,
    vectors: VectorStore | None = None,
) -> BuiltRelease:
    """Encode all passages, index them, choose what serves the encoder, and write the release folder atomically.

    The release has a lexical leg beside the trained encoder's. Where BM25's weight is 0, ``uae`` is the encoder alone.

    An index is taken over from an earlier release where both would hold the same vectors; then no passage is encoded. For that,
    four things must be equal: the document side of the encoder, the texts that it reads, their order, and the kind of index.

    Args:
        questions_path: training and validation questions. They show how well the serving encoder and an approximate index do.
            None, or a table without such questions: passages stand in for them, and only vectors are compared.
        base_path: the encoder before training, to be shown beside the trained one; None: the release has none.
        passage_words: what the passages were cut to; the release keeps it.
        previous_path: the earlier release; None: the one at ``release_path``, if there is one.
        read_as: what the encoder and BM25 read of a passage.
        trained_on_path: what the encoder was trained on (TRAINED_ON), for the release to carry; None: it does not say.
        fusion_path: how BM25 joins the encoder and when its first passage helps, as ``uae.training.fusion`` writes it; None: it
            does not join, and the release does not say.
        second_stage: what re-ranks the first passages of ``uae`` under a name of its own, ``uae_reranked``; None: nothing does.
        vectors: where vectors of passages are kept.

    Raises:
        ArtefactError: the fusion was chosen for another encoder.
        ConfigError: FAISS does not know the factory, or the one way of serving that is allowed fails its gate.
        ModelError: an encoder gives no finite vector for a passage.
    """
    passages = StoredPassages(passages_path)
    material = Material(passages, read_as, _parity_questions(questions_path, passages), scope)
    previous = release_path if previous_path is None else previous_path
    fusion = {"weight": 0.0} if fusion_path is None else _fusion(fusion_path, encoder_path)
    fused = _fused_system(fusion)
    useful = UsefulEntry.model_validate(fusion["useful"]) if fusion.get("useful") else None
    with atomic_path(release_path) as partial:
        partial.mkdir()
        trained = build_dense(partial, DENSE, DenseBuild(encoder_path, True, recipe, device, vectors), material, (), previous)
        legs: dict[str, LegEntry] = {DENSE: trained.entry, LEXICAL: build_lexical(partial, LEXICAL, material)}
        if base_path is not None:
            how = DenseBuild(base_path, False, recipe, device, vectors)
            legs[BASE] = build_dense(partial, BASE, how, material, [trained.entry], previous).entry
        systems = {UAE: fused} | {name: SystemEntry(legs={name: 1.0}, fusion=None) for name in legs}
        write_table(partial / "passages.parquet", RELEASE_PASSAGES, _rows(passages.parts(RELEASE_PASSAGES.names)))
        documents = scan_table(documents_path, DOCUMENTS, RELEASE_DOCUMENTS.names, _DOCUMENTS)
        write_table(partial / "documents.parquet", RELEASE_DOCUMENTS, _rows(documents))
        if trained_on_path is not None:
            check_is_of(trained_on_path, fingerprint(encoder_path))
            write_table(partial / "trained_on.parquet", TRAINED_ON, read_table(trained_on_path, TRAINED_ON))

        def seal(more: BuiltSecondStage | None) -> dict[str, Any]:
            return Manifest(
                format=FORMAT,
                systems=systems if more is None else systems | {RERANKED: fused.model_copy(update={"rerank": more.rerank})},
                legs=legs,
                second_stage=None if more is None else more.entry,
                useful=useful,
                chunking={"passage_words": passage_words},
                passages=len(passages),
                passage_texts=sha256_parts(passages.texts()),
                files=_hashes(partial),
            ).sealed()

        manifest = seal(None)
        write_json(partial / "manifest.json", manifest)
        if second_stage is not None:  # it is fitted to what the release finds without it
            manifest = seal(build_second_stage(partial, second_stage, material, device))
            write_json(partial / "manifest.json", manifest)
    return BuiltRelease(Manifest.model_validate(manifest), trained.index_reused, trained.truncated)


def _hashes(release: Path) -> dict[str, str]:
    """Every file of the folder but the manifest -> sha256."""
    files = sorted(path for path in release.rglob("*") if path.is_file() and path != release / "manifest.json")
    return {path.relative_to(release).as_posix(): sha256_file(path) for path in files}


def _fusion(path: Path, encoder_path: Path) -> dict[str, Any]:
    """What the stage fuse says of the encoder."""
    found: dict[str, Any] = read_json(path)
    if (found["weight"] or found.get("useful")) and found["student"] != fingerprint(encoder_path):
        raise ArtefactError(
            f"{path} was chosen for the encoder {found['student'][:12]}, and {encoder_path} is {fingerprint(encoder_path)[:12]}: "
            "run the stage fuse again (uae fuse)"
        )
    return found


def _fused_system(fusion: Mapping[str, Any]) -> SystemEntry:
    """The promoted system."""
    if not fusion["weight"]:
        return SystemEntry(legs={DENSE: 1.0}, fusion=None)
    return SystemEntry(
        legs={DENSE: 1.0, LEXICAL: fusion["weight"]}, fusion=FusionEntry(form=fusion["form"], chosen=fusion["chosen"])
    )


def _rows(parts: Iterable[pd.DataFrame]) -> Iterator[dict[Hashable, Any]]:
    return (row for part in parts for row in part.to_dict("records"))


def _parity_questions(path: Path | None, passages: StoredPassages) -> pd.DataFrame:
    """Questions that serving is measured on: of validation, and of training where those are too few. Never of the test split."""
    if path is not None:
        table = read_table(path, QUESTIONS).sort_values("question_id")
        chosen = table[table["split"] == "validation"]
        if (chosen["evidence"].str.len() > 0).sum() < _ENOUGH:
            chosen = pd.concat([chosen, table[table["split"] == "train"]])
        if len(chosen):
            return chosen.head(_MOST).reset_index(drop=True)
    rows = next(passages.parts(["text", "doc_id"]), pd.DataFrame(columns=["text", "doc_id"])).head(64)
    return pd.DataFrame({"text": rows["text"], "doc_id": rows["doc_id"], "evidence": [[] for _ in range(len(rows))]})
