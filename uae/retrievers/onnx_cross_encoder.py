"""A cross-encoder as ONNX Runtime serves it: a tokenizer of pairs, a graph from token ids to scores, and no torch.

serving.json      the settings below
tokenizer.json    of the ``tokenizers`` library
scorer.onnx       ids, mask and, where the model tells the two texts apart by them, types, int64 of shape (n, tokens), to scores,
                  float32 of shape (n,)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Encoding

from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.retrievers.cross_encoder import Scores, check_scores
from uae.retrievers.onnx_encoder import SETTINGS
from uae.retrievers.onnx_session import batches, cores, open_session, open_tokenizer, padded

GRAPH, TOKENIZER = "scorer.onnx", "tokenizer.json"


class OnnxCrossEncoder:
    """A serving folder, opened. Implements ``second_stage.PairScorer``. Several threads may use it."""

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
            self._pad_id, self._pad_left = int(settings["pad_id"]), settings["padding_side"] == "left"
            self._pad_type, self._has_types = int(settings["pad_type"]), bool(settings["types"])
            quantised = settings["weights"] == "int8"
            limit, side = int(settings["max_tokens"]), settings["truncation_side"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder / SETTINGS} is not of the layout this version reads ({error!r})") from None
        # With 8-bit activations each pair has a call of its own, as each text has in ``onnx_encoder``: so its score is the same,
        # whatever is scored with it.
        self._alone = ThreadPoolExecutor(threads or cores(), "scoring") if quantised else None
        self._session = open_session(folder / GRAPH, 1 if quantised else threads)
        self._tokenizer = open_tokenizer(folder / TOKENIZER, limit, side)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """The scores of (question, passage) pairs, shape (n,), float32.

        In float32, pairs of about the same length go through the graph together. A pair too long for the model loses the end of
        the longer text. A pair without any token scores 0.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        tokens = self._tokenizer.encode_batch(list(pairs)) if pairs else []
        lengths = [len(found.ids) for found in tokens]
        scores = np.zeros(len(pairs), dtype=np.float32)

        def call(rows: list[int]) -> None:
            (scores[rows],) = self._session.run(["scores"], self._inputs([tokens[row] for row in rows]))

        calls = list(batches(lengths)) if self._alone is None else [[row] for row, length in enumerate(lengths) if length]
        if self._alone is None or len(calls) == 1:
            for rows in calls:
                call(rows)
        else:
            list(self._alone.map(call, calls))
        check_scores(scores, pairs)
        return scores

    def close(self) -> None:
        if self._alone is not None:
            self._alone.shutdown()
        del self._session, self._tokenizer

    def _inputs(self, found: Sequence[Encoding]) -> dict[str, np.ndarray]:
        ids, mask = padded([one.ids for one in found], self._pad_id, self._pad_left)
        inputs = {"ids": ids, "mask": mask}
        if self._has_types:
            inputs["types"], _ = padded([one.type_ids for one in found], self._pad_type, self._pad_left)
        return inputs
