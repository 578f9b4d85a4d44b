"""A trained encoder as an ONNX graph, from token ids to unit vectors, in float32 or with int8 weights.

The same model gives the same bytes: a release's fingerprint and DVC's cache rest on them.
"""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Module, Transformer
from torch import Tensor
from transformers import PreTrainedModel

from uae.io.errors import ModelError
from uae.retrievers.document_side import route
from uae.retrievers.onnx_encoder import KINDS, SETTINGS

FORMAT = 1


def export_encoder(encoder: SentenceTransformer, folder: Path) -> None:
    """Write the serving folder (``onnx_encoder``) of ``encoder`` in float32: all its modules, and normalising, in the graph.

    A model with one route has one graph; a Router has one for each side.

    Raises:
        ModelError: what the model does with a text cannot be put into a graph and a tokenizer; it has to be served by torch.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    routes = {kind: route(encoder, kind) for kind in KINDS}
    first = {kind: _first(modules, kind, encoder.prompts) for kind, modules in routes.items()}
    one = routes["query"] == routes["document"]
    tokenizers = {kind: "tokenizer.json" if one else f"tokenizer_{kind}.json" for kind in KINDS}
    graphs = {kind: "encoder.onnx" if one else f"{kind}.onnx" for kind in KINDS}
    for kind in KINDS[:1] if one else KINDS:
        (folder / tokenizers[kind]).write_text(_rules(first[kind]), encoding="utf-8")
        _export(routes[kind], first[kind], encoder.truncate_dim, folder / graphs[kind])
    tokenizer: Any = first["query"].tokenizer
    settings = {
        "format": FORMAT,
        "graphs": graphs,
        "tokenizers": tokenizers,
        "prompts": {kind: encoder.prompts.get(kind) or "" for kind in KINDS},
        "max_tokens": {kind: _max_tokens(module) for kind, module in first.items()},
        "pad_id": tokenizer.pad_token_id or 0,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "dimension": encoder.get_embedding_dimension(),
        "weights": "float32",
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def quantise(source: Path, target: Path) -> None:
    """A serving folder with the weights of matrix products in 8 bits, each output channel with a scale of its own.

    Activations are brought to 8 bits as they come (dynamic quantisation), so nothing needs to be calibrated. All texts of a
    call share one scale, so ``onnx_encoder`` gives such a graph one text a call. All 8 bits of a weight are used: with 7, which
    some CPUs without VNNI need, vectors were further from the trained ones on such a CPU.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.suffix == ".onnx":
            with _quiet():
                quantize_dynamic(
                    path, target / path.name, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=False,
                    weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
                )  # fmt: skip
        elif path.name == SETTINGS:
            settings = json.loads(path.read_text(encoding="utf-8")) | {"weights": "int8"}
            (target / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target / path.name)


class _Graph(torch.nn.Module):
    """The modules of one route as a function of tensors."""

    def __init__(self, modules: list[Module], token_types: bool, truncate_dim: int | None):
        super().__init__()
        self.steps = torch.nn.ModuleList(modules)
        self.token_types, self.truncate_dim = token_types, truncate_dim

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        features = {"input_ids": ids, "attention_mask": mask}
        if self.token_types:
            features["token_type_ids"] = torch.zeros_like(ids)
        for step in self.steps:
            features = step(features)
        vectors = features["sentence_embedding"][:, : self.truncate_dim]
        return torch.nn.functional.normalize(vectors, p=2, dim=-1)


def _first(modules: list[Module], kind: str, prompts: Mapping[str, str | None]) -> Transformer:
    """A route's transformer, if a tokenizer and a graph can do what it does."""
    first: Any = modules[0]
    reason = None
    if not isinstance(first, Transformer):
        reason = f"its first module is a {type(first).__name__}, not a Transformer"
    elif not hasattr(first.tokenizer, "backend_tokenizer"):
        reason = "its tokenizer is none of the tokenizers library"
    elif first.query_expansion:
        reason = "it expands queries"
    elif "message" in first.modality_config:
        reason = "it puts texts into a chat template"
    elif prompts.get(kind) and not all(getattr(module, "include_prompt", True) for module in modules):
        reason = "it leaves the prompt out of the pooling"
    if reason:
        raise ModelError(f"this encoder cannot be served by ONNX Runtime: {reason}")
    found: Transformer = first
    return found


def _rules(module: Transformer) -> str:
    """The tokenizer's file, without what every call sets anew."""
    tokenizer: Any = module.tokenizer
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(rules | {"truncation": None, "padding": None}, ensure_ascii=False)


def _max_tokens(module: Transformer) -> int:
    # A tokenizer without a limit of its own has 10^30 for it.
    tokenizer: Any = module.tokenizer
    return int(module.max_seq_length or min(tokenizer.model_max_length, 2**31 - 1))


def _export(modules: list[Module], first: Transformer, truncate_dim: int | None, path: Path) -> None:
    tokenizer: Any = first.tokenizer
    graph = _Graph(modules, "token_type_ids" in tokenizer.model_input_names, truncate_dim).eval()
    ids = torch.arange(2, 16).reshape(2, 7)  # two lengths: the mask must not be folded into the graph as all ones
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    sizes = {0: "texts", 1: "tokens"}
    content: Any = io.BytesIO()  # torch takes a file as well as a path; its types do not say so
    try:
        with _quiet(), _written_out(modules), torch.no_grad():
            # By tracing: the same vectors as by torch.export, in a twentieth of its time. A trace follows one input only; the
            # parity check finds what that misses.
            torch.onnx.export(
                graph, (ids, mask), content, dynamo=False, opset_version=17, input_names=["ids", "mask"],
                output_names=["vectors"], dynamic_axes={"ids": sizes, "mask": sizes, "vectors": {0: "texts"}},
            )  # fmt: skip
        model = onnx.load_from_string(content.getvalue())
    except Exception as error:  # the exporter raises whatever the model's code does; torch serves what it cannot take
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"this encoder cannot be served by ONNX Runtime: it cannot be exported: {reason}") from error
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    """Take out what tells where and by what the graph was made: paths of this machine, lines of source code."""
    parts = [model, model.graph, *model.functions]
    for container in (model.graph, *model.functions):
        parts += [*container.node, *container.value_info]
    parts += [*model.graph.initializer, *model.graph.input, *model.graph.output]
    for part in parts:
        part.ClearField("doc_string")
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:
            part.ClearField("metadata_props")


@contextlib.contextmanager
def _written_out(modules: list[Module]) -> Iterator[None]:
    """Attention as plain operations while a graph is traced.

    What a trace makes of torch's own kernel guards against rows without any token, and computes shapes anew in each layer.
    """
    models = [part for module in modules for part in module.modules() if isinstance(part, PreTrainedModel)]
    before = [model.config._attn_implementation for model in models]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        yield
    finally:
        for model, kind in zip(models, before, strict=True):
            model.set_attn_implementation(kind)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser print progress and warn about their own insides."""
    logger = logging.getLogger()
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
