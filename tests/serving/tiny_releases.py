"""Releases of a few sentences each, built for real."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import uae.release.choose_form
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.retrievers.onnx_export import export_encoder

RECIPE = IndexRecipe(factory="Flat", recall_target=0.95, serving="onnx", max_recall_loss=0.5, min_cosine=0.5)
_EXPORTED: dict[Path, Path] = {}  # encoder -> its serving folder: exporting takes many seconds, and is the same every time


def tiny_release(folder: Path, encoder: Path, texts: Sequence[str], name: str, serving: str) -> Path:
    """A release of one passage a text, in ``folder/release``; passages, document and title are called after ``name``.

    Args:
        serving: torch, or onnx for a service that starts fast.
    """
    document = {"doc_id": name, "source": name, "title": name, "version": "", "text": "", "sections": [], "metadata": "{}"}
    passages = [
        {"passage_id": f"{name}-{n}", "doc_id": name, "title": name, "source": name, "position": n, "section": ""}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(texts)
    ]
    write_table(folder / "documents.parquet", DOCUMENTS, [document])
    write_table(folder / "passages.parquet", PASSAGES, passages)

    def export(model, place: Path) -> None:
        if encoder in _EXPORTED:
            shutil.copytree(_EXPORTED[encoder], place)
        else:
            export_encoder(model, place)

    with mock.patch.object(uae.release.choose_form, "export_encoder", export):
        build_release(
            documents_path=folder / "documents.parquet", passages_path=folder / "passages.parquet", questions_path=None,
            encoder_path=encoder, base_path=None, release_path=folder / "release", scope="corpus", passage_words=140,
            device="cpu", recipe=RECIPE._replace(serving=serving),
        )  # fmt: skip
    if serving == "onnx":
        _EXPORTED.setdefault(encoder, folder / "release" / "legs" / "dense" / "serving")
    return folder / "release"
