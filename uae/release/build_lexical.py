"""Building a lexical leg: BM25 over what the release's passages say."""

from pathlib import Path

from uae.io.files import sha256_parts
from uae.release.legs.lexical import LexicalEntry, probe
from uae.release.legs.protocol import probe_rows
from uae.release.material import Material
from uae.retrievers.bm25_index import ANALYSER, PARAMETERS, Bm25Index, libraries


def build_lexical(release: Path, name: str, material: Material) -> LexicalEntry:
    """Write the leg's files into ``release``."""
    texts = material.texts
    index = Bm25Index.build(texts)
    index.save(release / "legs" / name)
    rows = probe_rows(len(texts))
    return LexicalEntry(
        kind="bm25",
        folder=f"legs/{name}",
        passage_template=material.read_as.template,
        read_texts=sha256_parts(texts),
        parameters=PARAMETERS,
        analyser=ANALYSER,
        built_with=libraries(),
        vocabulary=index.vocabulary,
        probe=probe(index, texts.at(rows), rows),
    )
