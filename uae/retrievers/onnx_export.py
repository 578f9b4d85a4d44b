"""A trained encoder as an ONNX graph, from token ids to unit vectors, in float32 or with int8 weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Module, Transformer
from torch import Tensor

from uae.retrievers.document_side import route
from uae.retrievers.onnx_encoder import KINDS, SETTINGS
from uae.retrievers.onnx_graph import example_tokens, max_tokens, quiet, tokenizer_rules, transformer_of, write_graph

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
        (folder / tokenizers[kind]).write_text(tokenizer_rules(first[kind]), encoding="utf-8")
        _export(routes[kind], first[kind], encoder.truncate_dim, folder / graphs[kind])
    tokenizer: Any = first["query"].tokenizer
    settings = {
        "format": FORMAT,
        "graphs": graphs,
        "tokenizers": tokenizers,
        "prompts": {kind: encoder.prompts.get(kind) or "" for kind in KINDS},
        "max_tokens": {kind: max_tokens(module) for kind, module in first.items()},
        "pad_id": tokenizer.pad_token_id or 0,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "dimension": encoder.get_embedding_dimension(),
        "weights": "float32",
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def quantise(source: Path, target: Path, mixed: bool = False) -> None:
    """A serving folder with the weights of matrix products in 8 bits, each output channel with a scale of its own.

    Activations are brought to 8 bits as they come (dynamic quantisation), so nothing needs to be calibrated. All texts of a
    call share one scale, so ``onnx_encoder`` gives such a graph one text a call. All 8 bits of a weight are used: with 7, which
    some CPUs without VNNI need, vectors were further from the trained ones on such a CPU.

    Args:
        mixed: leave products that narrow in float32: in a transformer the last of each layer. Its inputs have outliers in some
            models, and one scale for all of them leaves little of the others. The lowest cosine of all-mpnet-base-v2 with the
            trained vectors was 0.85. With these products in float32 it was 0.98.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.suffix == ".onnx":
            with quiet():
                quantize_dynamic(
                    path, target / path.name, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=False,
                    weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
                    nodes_to_exclude=_narrowing(path) if mixed else [],
                )  # fmt: skip
        elif path.name == SETTINGS:
            settings = json.loads(path.read_text(encoding="utf-8")) | {"weights": "int8"}
            (target / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target / path.name)


def _narrowing(path: Path) -> list[str]:
    """The products with a weight that has fewer columns than rows."""
    graph = onnx.load(path).graph
    narrow = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.dims[0] > tensor.dims[1]}
    return [node.name for node in graph.node if node.op_type == "MatMul" and narrow & set(node.input)]


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
    apart = prompts.get(kind) and not all(getattr(module, "include_prompt", True) for module in modules)
    return transformer_of(modules[0], "it leaves the prompt out of the pooling" if apart else None)


def _export(modules: list[Module], first: Transformer, truncate_dim: int | None, path: Path) -> None:
    tokenizer: Any = first.tokenizer
    graph = _Graph(modules, "token_type_ids" in tokenizer.model_input_names, truncate_dim).eval()
    write_graph(graph, dict(zip(("ids", "mask"), example_tokens(), strict=True)), "vectors", path)
