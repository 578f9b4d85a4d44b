"""An encoder as ONNX Runtime serves it: a tokenizer, a graph from token ids to unit vectors, and no torch.

serving.json      the settings below
tokenizer.json    of the ``tokenizers`` library; of a Router one for each side (tokenizer_query.json, tokenizer_document.json)
encoder.onnx      ids and mask, int64 of shape (n, tokens), to unit vectors, float32 of shape (n, dim). Of a Router query.onnx and
                  document.onnx
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.retrievers.dense import check_vectors

SETTINGS = "serving.json"
KINDS = ("query", "document")
_BATCH_TEXTS = 32
_BATCH_TOKENS = 2048  # with padding: what a batch needs in memory and in the CPU's caches grows with it
_PADDED = 1.25  # a batch's longest text is at most this many times its shortest, and a few tokens more
# This key says that a tensor's bytes lie in another file, anywhere on the disk. Protobuf writes a tag and a length before it,
# each in as many as ten bytes.
_OUTSIDE = b"location"
_BEFORE_OUTSIDE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)\Z")
_PIECE = 1 << 20  # bytes of a graph looked at together


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
        self._alone = ThreadPoolExecutor(threads or _cores(), "encoding") if quantised else None
        graphs = {graph for graph, _ in files.values()}  # but one where both sides share it
        sessions = {graph: _session(folder / graph, 1 if quantised else threads) for graph in graphs}
        self._sessions = {kind: sessions[graph] for kind, (graph, _) in files.items()}
        # A tokenizer's state says how much it keeps of a text. So both sides share one only where they keep the same.
        rules = {kind: (folder / name, *limits[kind]) for kind, (_, name) in files.items()}
        tokenizers = {rule: _tokenizer(*rule) for rule in set(rules.values())}
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
            ids, mask = self._padded([tokens[row] for row in rows])
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

    def _padded(self, tokens: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        longest = max(map(len, tokens))
        ids = np.full((len(tokens), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(tokens):
            place = slice(longest - len(found), longest) if self._pad_left else slice(0, len(found))
            ids[row, place], mask[row, place] = found, 1
        return ids, mask


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers of texts to encode together, the longest first. Texts of no token are in none.

    Args:
        lengths: tokens of each text.
    """
    batch: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row]):
        longest = lengths[batch[0]] if batch else 0
        full = len(batch) == _BATCH_TEXTS or (len(batch) + 1) * longest > _BATCH_TOKENS
        if batch and (full or longest > _PADDED * lengths[row] + 4):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _names_another_file(stream: BinaryIO) -> bool:
    """Piece by piece, for a search through all of a graph at once would hold up every request that is being answered."""
    end = b""
    while piece := stream.read(_PIECE):
        piece = end + piece
        place = piece.find(_OUTSIDE)
        while place >= 0:
            if _BEFORE_OUTSIDE.search(piece[max(0, place - 20) : place]):
                return True
            place = piece.find(_OUTSIDE, place + 1)
        end = piece[-32:]
    return False


def _session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    try:
        with open(path, "rb") as stream:
            if _names_another_file(stream):
                raise ArtefactError(f"{path} takes weights from another file: a release's graph has to be whole in itself")
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error}): build the release again") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # It keeps a plan for every shape it ever saw, and every query has another: memory would grow without end.
    options.enable_mem_pattern = False
    # Idle threads would burn the cores that the server and FAISS need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base but this
        raise ArtefactError(f"{path} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from error


def _tokenizer(path: Path, max_tokens: int, truncation_side: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except Exception as error:  # what the library raises is a bare Exception
        raise ArtefactError(f"{path} is no tokenizer: {str(error).splitlines()[0]}") from error
    tokenizer.enable_truncation(max_tokens, direction=truncation_side)
    tokenizer.no_padding()
    return tokenizer
