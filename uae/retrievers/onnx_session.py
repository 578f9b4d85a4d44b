"""What every model needs that ONNX Runtime serves: a session, a tokenizer, batches of texts of like length."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from uae.io.errors import ArtefactError

_BATCH_TEXTS = 32
_BATCH_TOKENS = 2048  # with padding: what a batch needs in memory and in the CPU's caches grows with it
_PADDED = 1.25  # a batch's longest text is at most this many times its shortest, and a few tokens more
# This key says that a tensor's bytes lie in another file, anywhere on the disk. Protobuf writes a tag and a length before it,
# each in as many as ten bytes.
_OUTSIDE = b"location"
_BEFORE_OUTSIDE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)\Z")
_PIECE = 1 << 20  # bytes of a graph looked at together


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


def cores() -> int:
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


def open_session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
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


def open_tokenizer(path: Path, max_tokens: int, truncation_side: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except Exception as error:  # what the library raises is a bare Exception
        raise ArtefactError(f"{path} is no tokenizer: {str(error).splitlines()[0]}") from error
    tokenizer.enable_truncation(max_tokens, direction=truncation_side)
    tokenizer.no_padding()
    return tokenizer


def padded(tokens: Sequence[Sequence[int]], pad: int, left: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the texts' tokens as one array, shape (texts, longest), and the mask of those that are no padding.

    Args:
        pad: what stands where a text has no token.
        left: whether that is before the text.
    """
    longest = max(map(len, tokens))
    values = np.full((len(tokens), longest), pad, dtype=np.int64)
    mask = np.zeros_like(values)
    for row, found in enumerate(tokens):
        place = slice(longest - len(found), longest) if left else slice(0, len(found))
        values[row, place], mask[row, place] = found, 1
    return values, mask
