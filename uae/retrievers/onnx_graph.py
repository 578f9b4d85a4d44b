"""A model of torch as an ONNX graph. One model always gives the same bytes: fingerprints and DVC's cache rest on them."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor
from transformers import PreTrainedModel

from uae.io.errors import ModelError


def write_graph(module: torch.nn.Module, inputs: Mapping[str, Tensor], output: str, path: Path) -> None:
    """Write the graph of ``module``, a function of the tensors in ``inputs`` in their order.

    Args:
        inputs: name -> an example, shape (texts, tokens). Both sizes may be others when the graph is run.
        output: name of what it gives, whose first dimension counts texts.

    Raises:
        ModelError: the exporter cannot take what the model does.
    """
    sizes = {0: "texts", 1: "tokens"}
    content: Any = io.BytesIO()  # torch takes a file as well as a path; its types do not say so
    try:
        with quiet(), _written_out(module), torch.no_grad():
            # By tracing: the same vectors as by torch.export, in a twentieth of its time. A trace follows one input only; the
            # parity check finds what that misses.
            torch.onnx.export(
                module, tuple(inputs.values()), content, dynamo=False, opset_version=17, input_names=list(inputs),
                output_names=[output], dynamic_axes={**dict.fromkeys(inputs, sizes), output: {0: "texts"}},
            )  # fmt: skip
        model = onnx.load_from_string(content.getvalue())
    except Exception as error:  # the exporter raises whatever the model's code does; torch serves what it cannot take
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{_CANNOT}: it cannot be exported: {reason}") from error
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def example_tokens() -> tuple[Tensor, Tensor]:
    """Ids and mask of two texts. Of two lengths: the mask must not be folded into the graph as all ones."""
    ids = torch.arange(2, 16).reshape(2, 7)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids, mask


def transformer_of(module: Any, other_reason: str | None) -> Transformer:
    """The module, if it is a transformer that a tokenizer and a graph can stand for.

    Args:
        other_reason: what else stands against it, a clause; None: nothing.

    Raises:
        ModelError: it has to be served by torch.
    """
    reason = None
    if not isinstance(module, Transformer):
        reason = f"its first module is a {type(module).__name__}, not a Transformer"
    elif not hasattr(module.tokenizer, "backend_tokenizer"):
        reason = "its tokenizer is none of the tokenizers library"
    elif module.query_expansion:
        reason = "it expands queries"
    elif "message" in module.modality_config:
        reason = "it puts texts into a chat template"
    if reason or other_reason:
        raise ModelError(f"{_CANNOT}: {reason or other_reason}")
    found: Transformer = module
    return found


def tokenizer_rules(module: Transformer) -> str:
    """The tokenizer's file, without what every call sets anew."""
    tokenizer: Any = module.tokenizer
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(rules | {"truncation": None, "padding": None}, ensure_ascii=False)


def max_tokens(module: Transformer) -> int:
    """Of a text, or of a pair."""
    # A tokenizer without a limit of its own has 10^30 for it.
    tokenizer: Any = module.tokenizer
    return int(module.max_seq_length or min(tokenizer.model_max_length, 2**31 - 1))


_CANNOT = "this model cannot be served by ONNX Runtime"


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
def _written_out(module: torch.nn.Module) -> Iterator[None]:
    """Attention as plain operations while a graph is traced.

    What a trace makes of torch's own kernel guards against rows without any token, and computes shapes anew in each layer.
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    before = [model.config._attn_implementation for model in models]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        yield
    finally:
        for model, kind in zip(models, before, strict=True):
            model.set_attn_implementation(kind)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
