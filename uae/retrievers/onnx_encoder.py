"""An encoder as ONNX Runtime serves it: a tokenizer, a graph from token ids to unit vectors, and no torch.

serving.json      the settings below
tokenizer.json    of the ``tokenizers`` library; of a Router one for each side (tokenizer_query.json, tokenizer_document.json)
encoder.onnx      ids and mask, int64 of shape (n, tokens), to unit vectors, float32 of shape (n, dim). Of a Router query.onnx and
                  document.onnx
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.retrievers.dense import check_vectors
from uae.retrievers.onnx_session import batches, cores, open_session, open_tokenizer, padded

SETTINGS = "serving.json"
KINDS = ("query", "document")


class OnnxEncoder:
    """A serving folder, opened. ``encode`` and ``token_lengths`` may be called from several threads."""

    def __init__(self, folder: Path, threads: int | None):
        """
        Args:
            threads: that work at once; None: as many as there are cores.

        Raises:
            ArtefactError: a file is missing, damaged or not of this layout.
        """
        folder = Path(folder)
        settings = read_json(folder / SETTINGS)
        try:
            self.dimension = int(settings["dimension"])
            self._prompts = {kind: str(settings["prompts"][kind]) for kind in KINDS}
            self._pad_id, self._pad_left = int(settings["pad_id"]), settings["padding_side"] == "left"
            files = {kind: (settings["graphs"][kind], settings["tokenizers"][kind]) for kind in KINDS}
            quantised = settings["weights"] == "int8"
            limits = {kind: (int(settings["max_tokens"][kind]), settings["truncation_side"]) for kind in KINDS}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder / SETTINGS} is not of the layout this version reads ({error!r})") from None
        names = {name for pair in files.values() for name in pair}
        if strange := sorted(str(name) for name in names if not isinstance(name, str) or Path(name).name != name):
            raise ArtefactError(f"{folder / SETTINGS} names {strange[0]!r}, which is no file of its folder")
        # 8-bit activations get one scale a call, so that texts in one call would change each other's vectors: each has a call of
        # its own then, on one thread. That is no slower than large batches on all threads, and faster than small ones.
        self._alone = ThreadPoolExecutor(threads or cores(), "encoding") if quantised else None
        graphs = {graph for graph, _ in files.values()}  # but one where both sides share it
        sessions = {graph: open_session(folder / graph, 1 if quantised else threads) for graph in graphs}
        self._sessions = {kind: sessions[graph] for kind, (graph, _) in files.items()}
        # A tokenizer's state says how much it keeps of a text. So both sides share one only where they keep the same.
        rules = {kind: (folder / name, *limits[kind]) for kind, (_, name) in files.items()}
        tokenizers = {rule: open_tokenizer(*rule) for rule in set(rules.values())}
        self._tokenizers = {kind: tokenizers[rules[kind]] for kind in KINDS}

    def encode(self, texts: Sequence[str], kind: str) -> np.ndarray:
        """Unit vectors of queries (``kind="query"``) or passages (``kind="document"``), shape (n, dim), float32.

        In float32, texts of about the same length go through the graph together, so that little is computed for padding. With
        8-bit weights each text goes alone, so that other texts do not change its vector. A text without any token (an empty
        one, where the tokenizer adds no marks) gets the zero vector.
        """
        tokens = self._tokens(texts, kind)
        lengths = [len(ids) for ids in tokens]
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)

        def call(rows: list[int]) -> None:
            ids, mask = padded([tokens[row] for row in rows], self._pad_id, self._pad_left)
            (vectors[rows],) = self._sessions[kind].run(["vectors"], {"ids": ids, "mask": mask})

        calls = list(batches(lengths)) if self._alone is None else [[row] for row, length in enumerate(lengths) if length]
        if self._alone is None or len(calls) == 1:
            for rows in calls:
                call(rows)
        else:
            list(self._alone.map(call, calls))
        check_vectors(vectors, texts)
        return vectors

    def token_lengths(self, texts: Sequence[str], kind: str) -> list[int]:
        """Tokens of each text as the graph gets it: with prompt and marks, and cut where it is too long."""
        return [len(ids) for ids in self._tokens(texts, kind)]

    def close(self) -> None:
        if self._alone is not None:
            self._alone.shutdown()
        self._sessions.clear()
        self._tokenizers.clear()

    def _tokens(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        prompt = self._prompts[kind]
        return [found.ids for found in self._tokenizers[kind].encode_batch([prompt + text for text in texts])]
