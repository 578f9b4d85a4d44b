"""Answer NLLs under a decoder-only LM of transformers, each shared token computed once.

Pairs are grouped by passage, and a group's prompts become token trees (``tree``). Trees lie end to end in one row without
padding, as many as a token budget and a memory budget allow. Logits are computed for answer positions only.

Some models cannot read trees: those with state-space layers, ALiBi, or a sliding window shorter than the prompts. A probe at
the start compares both ways of reading. A model that fails it reads padded batches of whole prompts instead.
"""

import importlib.metadata
import inspect
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from uae.io.compute import memory_budget, pick_device, pick_dtype, weight_bytes
from uae.io.errors import ModelError
from uae.io.weights import check_finite, check_report, quiet_loading, refuse_remote_code
from uae.teacher.engines.attention import NAME, reading_trees
from uae.teacher.engines.memory import PassCosts, is_out_of_memory
from uae.teacher.engines.probe import TEMPLATE, probe_pairs
from uae.teacher.engines.tree import Prompted, Tree, build_tree, divide
from uae.teacher.noise import noise_of
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading
from uae.teacher.tokens import tokenise

log = logging.getLogger(__name__)

# Measured by benchmarks/labelling.py on 2 cores: larger batches leave the cache and are slower. A GPU wants them large.
_BATCH_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
_BRANCH_NODES = 128
_WORKERS = 8


_Work = list[Tree] | list[Prompted]  # of one forward pass: never both kinds
_Item = TypeVar("_Item", Tree, Prompted)


class _Size(NamedTuple):
    tokens: int
    reads: int  # positions whose logits are computed


def load_causal_lm(folder: Path, device: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Raises:
        ModelError: no causal LM with a tokenizer there, it asks for code of its own, or its weights are not safetensors, not all
            there, of another shape or not finite.
    """
    device = pick_device(device)
    refuse_remote_code(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise a dozen kinds, some of them plain Exceptions
        raise ModelError(f"{folder} holds no tokenizer that can be loaded: {_reason(error)}") from error
    try:
        with quiet_loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=pick_dtype(dtype, device),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report names them, the error would not
            )
    except Exception as error:
        raise ModelError(f"{folder} cannot be loaded as a causal LM: {_reason(error)}") from error
    model, report = loaded
    check_report(report, str(folder))
    check_finite(model, str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    ready: PreTrainedModel = model.to(device).eval()
    return ready, tokenizer


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__


def load_teacher(
    folder: Path, fingerprint: str, device: str, dtype: str, batch_tokens: int | None, memory_mb: int | None, compile: bool
) -> "CausalTeacher":
    """Raises as ``load_causal_lm``."""
    return CausalTeacher(*load_causal_lm(folder, device, dtype), fingerprint, batch_tokens, memory_mb, compile)


class CausalTeacher:
    """Implements ``protocol.Teacher``.

    Args:
        batch_tokens: in one forward pass, padding included; None: what suits the device.
        memory_mb: for the forward passes under way, beside the weights; None: a quarter of the machine's, half of what a GPU
            has left.
        compile: have torch compile the model; pays on long runs.
        trees: False reads padded whole prompts, as for a model that cannot read trees.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        fingerprint: str,
        batch_tokens: int | None,
        memory_mb: int | None,
        compile: bool,
        trees: bool = True,
    ):
        self.model, self.tokenizer, self.fingerprint = model, tokenizer, fingerprint
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS["cpu"])
        self.context = min(getattr(model.config, "max_position_embeddings", None) or 1 << 30, tokenizer.model_max_length)
        self.halvings = 0  # how often memory ran out
        # On a CPU each thread reads a pass of its own: cores that share one wait for the slowest after every operation.
        self.threads = torch.get_num_threads()
        self.workers = min(self.threads, _WORKERS) if model.device.type == "cpu" else 1
        self.memory = (
            memory_budget(model.device, weight_bytes(model)) if memory_mb is None else memory_mb * 2**20
        ) // self.workers
        self.compiled = compile
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._costs = PassCosts(model)
        self.trees = False
        self.probe_difference: float | None = None
        if trees:
            self._probe()
        if compile:
            self.model.compile(dynamic=True)

    def provenance(self) -> dict[str, Any]:
        cuda = self.model.device.type == "cuda"
        return {
            "backend": "transformers",
            "device": torch.cuda.get_device_name(self.model.device) if cuda else self.model.device.type,
            "dtype": self._number_format(),
            "layout": "token trees" if self.trees else "padded whole prompts",
            "batch_tokens": self.batch_tokens,
            "memory_budget_mb": self.memory * self.workers // 2**20,
            "workers": self.workers,
            "compiled": self.compiled,
            **_versions(),
        }

    def _number_format(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        sequences = [
            Prompted(tuple(t.tokens), t.start, t.truncated, number)
            for number, t in enumerate(tokenise(self.tokenizer, self.context, template, pairs))
        ]
        trees: list[Tree] = []
        for _, group in groupby(sequences, key=lambda sequence: pairs[sequence.pair].passage):
            # Beyond a sliding window's length only the model itself knows what a token attends to.
            if short := [s for s in group if self.trees and len(s.tokens) <= self._costs.window]:
                trees += (
                    build_tree(part, _BRANCH_NODES)
                    for part in divide(short, self.batch_tokens, self._costs.logit_rows(self.memory, 0))
                )
        whole = sorted(
            (s for s in sequences if not self.trees or len(s.tokens) > self._costs.window),
            key=lambda s: (-len(s.tokens), s.tokens, s.pair),
        )
        work: list[_Work] = [*self._filled(trees), *self._filled(whole)]
        return [self._batch(items, pairs) for items in work]

    def read(self, batch: PromptBatch) -> list[Reading]:
        return [
            Reading(batch.pairs[place].key, nll, len(sequence.tokens) - sequence.start, sequence.truncated)
            for place, (sequence, nll) in enumerate(self._read(batch.work, batch.pairs))
        ]

    def start_worker(self) -> None:
        torch.set_num_threads(max(self.threads // self.workers, 1))

    def end_workers(self) -> None:
        torch.set_num_threads(self.threads)  # part of the setting is the process's, not the thread's

    def memory_mb(self, batch: PromptBatch) -> int:
        tokens, reads = self._size(batch.work)
        passes = self.workers * min(self._costs.bytes(tokens, reads), self.memory)
        return round((weight_bytes(self.model) + passes) / 2**20)

    def _size(self, items: _Work) -> _Size:
        return self._tree_size(items) if _are_trees(items) else self._padded_size(cast(list[Prompted], items))

    def _filled(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        """Neighbouring items as long as both budgets hold (one item at least)."""
        batch: list[_Item] = []
        for item in items:
            if batch:
                tokens, reads = self._size(cast(_Work, [*batch, item]))
                if tokens > self.batch_tokens or self._costs.bytes(tokens, reads) > self.memory:
                    yield batch
                    batch = []
            batch.append(item)
        if batch:
            yield batch

    def _tree_size(self, trees: list[Tree]) -> _Size:
        return _Size(sum(len(tree.tokens) for tree in trees), sum(len(nodes) for tree in trees for nodes in tree.reads))

    def _padded_size(self, sequences: list[Prompted]) -> _Size:
        width = max(len(s.tokens) for s in sequences)
        read = width - min(s.start for s in sequences) if self._keeps_logits else width
        return _Size(width * len(sequences), read * len(sequences))

    def _batch(self, items: _Work, pairs: Sequence[Pair]) -> PromptBatch:
        sequences = _sequences(items)
        return PromptBatch(
            tuple(pairs[sequence.pair] for sequence in sequences),
            sum(len(item.tokens) for item in items),
            sum(len(sequence.tokens) for sequence in sequences),
            items,
        )

    def _read(self, items: _Work, pairs: Sequence[Pair]) -> Iterator[tuple[Prompted, float]]:
        """Each sequence with its answer's summed NLL. Out of memory, the work is halved until it fits."""
        try:
            sums = self._forward(items)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            sums = None
        sequences = _sequences(items)
        if sums is None:  # outside the except clause, whose traceback would keep the failed pass's tensors alive
            self._shrink()
            for place, half in _halves(items, pairs):
                yield from self._read(half, pairs[place:])
            return
        for sequence, pair, nll in zip(sequences, pairs, sums, strict=False):
            if not (0 <= nll < float("inf")):
                raise ModelError(
                    f"the teacher gives {nll} for the answer {pair.answer[:40]!r} to {pair.question[:60]!r}: "
                    "try compute.dtype=float32; if it stays, the model's weights are damaged"
                )
            yield sequence, nll

    def _shrink(self) -> None:
        self.halvings += 1
        self.batch_tokens = max(self.batch_tokens // 2, 1)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: the batch is halved, and batches planned from now on have %s tokens", self.batch_tokens)

    def _forward(self, items: _Work) -> list[float]:
        """Summed NLLs of all sequences, in the items' order."""
        if _are_trees(items):
            with reading_trees(items, self.model.dtype, self.model.device):
                return self._tree_nlls(items)
        return self._padded_nlls(cast(list[Prompted], items))

    @torch.inference_mode()
    def _tree_nlls(self, trees: list[Tree]) -> list[float]:
        starts = np.cumsum([0, *(len(tree.tokens) for tree in trees)])
        reads = [nodes + start for tree, start in zip(trees, starts, strict=False) for nodes in tree.reads]
        columns, back = np.unique(np.concatenate(reads), return_inverse=True)  # siblings read the same column
        targets = np.concatenate([s.tokens[s.start :] for s in _sequences(trees)])
        inputs = {
            "input_ids": self._tensor(np.concatenate([tree.tokens for tree in trees])[None]),
            "position_ids": self._tensor(np.concatenate([tree.positions for tree in trees])[None]),
        }
        nlls = np.empty(len(targets))
        step = self._costs.logit_rows(self.memory, sum(len(tree.tokens) for tree in trees))
        for low in range(0, len(columns), step):  # one pass, unless a single answer's logits exceed the memory
            logits = self._logits(inputs, self._tensor(columns[low : low + step]))[0]
            inside = (back >= low) & (back < low + step)
            nlls[inside] = _nll(logits, self._tensor(back[inside] - low), self._tensor(targets[inside]))
        bounds = np.cumsum([len(nodes) for nodes in reads])[:-1]
        return [float(part.sum()) for part in np.split(nlls, bounds)]

    @torch.inference_mode()
    def _padded_nlls(self, sequences: list[Prompted]) -> list[float]:
        """Whole prompts padded at their ends: right for every causal model, whatever its layers are."""
        width = max(len(s.tokens) for s in sequences)
        ids = np.full((len(sequences), width), self.tokenizer.pad_token_id)
        mask = np.zeros((len(sequences), width), dtype=np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.tokens)], mask[row, : len(sequence.tokens)] = sequence.tokens, 1
        inputs = {"input_ids": self._tensor(ids), "attention_mask": self._tensor(mask)}
        sums = np.zeros(len(sequences))
        step = max(self._costs.logit_rows(self.memory, ids.size) // len(sequences), 1)
        for low in range(min(s.start for s in sequences) - 1, width - 1, step):
            high = min(low + step, width - 1)
            logits = self._logits(inputs, torch.arange(low, high, device=self.model.device))
            for row, sequence in enumerate(sequences):
                first, last = max(low, sequence.start - 1), min(high, len(sequence.tokens) - 1)
                if first < last:
                    columns = torch.arange(first - low, last - low, device=self.model.device)
                    targets = self._tensor(np.array(sequence.tokens[first + 1 : last + 1]))
                    sums[row] += _nll(logits[row], columns, targets).sum()
        return sums.tolist()

    def _logits(self, inputs: dict[str, torch.Tensor], columns: torch.Tensor) -> torch.Tensor:
        if self._keeps_logits:
            kept: torch.Tensor = self.model(**inputs, use_cache=False, logits_to_keep=columns).logits
            return kept
        logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
        return logits[:, columns]

    def _tensor(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.as_tensor(values, device=self.model.device)

    def _probe(self) -> None:
        pairs = probe_pairs()
        plain, usual = self._probe_nlls(pairs), self.model.config._attn_implementation
        self.trees = True
        try:
            self.model.set_attn_implementation(NAME)
            difference = float(np.abs(self._probe_nlls(pairs) - plain).max())
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            difference, reason = float("inf"), str(error).splitlines()[0]
        else:
            reason = f"the two ways differ by {difference:.2g} nats per token"
        self.probe_difference = difference
        if not difference <= noise_of([self._number_format()]).probe:
            self.trees = False
            self.model.set_attn_implementation(usual)
            log.warning("this model cannot share prompt prefixes (%s): whole prompts are read, which is slower", reason)

    def _probe_nlls(self, pairs: list[Pair]) -> npt.NDArray[np.float64]:
        readings = [reading for batch in self.plan(TEMPLATE, pairs) for reading in self.read(batch)]
        return np.array([r.nll_sum / r.n_tokens for r in sorted(readings, key=lambda r: r.key)])


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}


def _nll(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> npt.NDArray[np.float64]:
    """The NLL of each target under the softmax of its row of logits, in float64."""
    logits = logits.float()
    return (logits.logsumexp(-1)[rows] - logits[rows, targets]).double().cpu().numpy()


def _are_trees(items: _Work) -> TypeGuard[list[Tree]]:
    return isinstance(items[0], Tree)


def _sequences(items: _Work) -> list[Prompted]:
    return [s for item in items for s in (item.sequences if isinstance(item, Tree) else (item,))]


def _halves(items: _Work, pairs: Sequence[Pair]) -> Iterator[tuple[int, _Work]]:
    """Both halves of the work, each with the place of its first pair."""
    if len(items) == 1 and isinstance(items[0], Tree):
        items = [build_tree([sequence], _BRANCH_NODES) for sequence in items[0].sequences]
        if len(items) > 1:
            middle = len(items) // 2
            parts = [[build_tree(_sequences(part), _BRANCH_NODES)] for part in (items[:middle], items[middle:])]
            yield from ((0, parts[0]), (middle, parts[1]))
            return
    if len(items) == 1:
        raise ModelError(
            f"out of memory on a single pair of {len(items[0].tokens)} tokens (question {pairs[0].question[:60]!r}): "
            "use a device with more memory, a smaller teacher, or shorter passages (ingest.passage_words)"
        )
    middle = len(items) // 2
    yield 0, items[:middle]
    yield len(_sequences(items[:middle])), items[middle:]
