"""A trained cross-encoder as an ONNX graph of float32. ``onnx_export.quantise`` gives it int8 weights."""

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor

from uae.retrievers.onnx_cross_encoder import GRAPH, TOKENIZER
from uae.retrievers.onnx_encoder import SETTINGS
from uae.retrievers.onnx_graph import example_tokens, max_tokens, tokenizer_rules, transformer_of, write_graph

FORMAT = 1


def export_cross_encoder(model: CrossEncoder, folder: Path) -> None:
    """Write the serving folder (``onnx_cross_encoder``) of ``model`` in float32.

    Raises:
        ModelError: what the model does with a pair cannot be put into a graph and a tokenizer; it has to be served by torch.
    """
    folder = Path(folder)
    modules: list[Any] = list(model.children())
    prompt = model.prompts.get(model.default_prompt_name or "")
    first = transformer_of(modules[0], "it puts a prompt before each pair" if prompt else None)
    tokenizer: Any = first.tokenizer
    types = "token_type_ids" in tokenizer.model_input_names
    ids, mask = example_tokens()
    inputs = {"ids": ids, "mask": mask}
    if types:
        inputs["types"] = torch.zeros_like(ids)
        inputs["types"][:, 2:] = 1
    folder.mkdir(parents=True)
    write_graph(_Graph(modules).eval(), inputs, "scores", folder / GRAPH)
    (folder / TOKENIZER).write_text(tokenizer_rules(first), encoding="utf-8")
    settings = {
        "format": FORMAT,
        "max_tokens": max_tokens(first),
        "pad_id": tokenizer.pad_token_id or 0,
        "pad_type": tokenizer.pad_token_type_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "types": types,
        "weights": "float32",
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class _Graph(torch.nn.Module):
    """The modules as a function of tensors."""

    def __init__(self, modules: list[Any]):
        super().__init__()
        self.steps = torch.nn.ModuleList(modules)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            features["token_type_ids"] = types
        for step in self.steps:
            features = step(features)
        scores: Tensor = features["scores"]
        return scores.view(-1)
