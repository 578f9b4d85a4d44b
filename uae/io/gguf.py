"""GGUF files as folders that transformers loads: weights dequantised once, and a tokenizer that is tried before it is trusted.

A GGUF file holds a vocabulary and no tokenizer. transformers makes one, by rules that depend on the family and on its version. A
wrong one still gives tokens, and every likelihood that is read with it is worthless, without any error. So texts have to come
back from their tokens, and the model has to find plain English likely in them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uae.io.errors import ModelError
from uae.io.weights import check_finite, check_report, quiet_loading

if TYPE_CHECKING:
    from gguf import ReaderField
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Nats per character: a tokenizer that cuts words to pieces makes each token likely and the text unlikely. Measured:
# SmolLM2-135M 0.76, Gemma-3-270M 0.66; Gemma's vocabulary taken for a byte-level one 1.5, ids off by one 2.2, no merges 6 and 7.
_LIMIT = 1.4
PLAIN_ENGLISH = (
    "The harbour town wakes early. Before the sun is up, the fishing boats leave the quay, and the bakers open their doors so "
    "that the crews can buy bread on the way. In summer the ferry brings visitors from the mainland twice a day. They walk "
    "along the sea wall, look at the old lighthouse, and eat in one of the small restaurants near the market. In winter the "
    "ferry comes only once a week, and most of the houses by the water are dark."
)
_TEXTS = (
    PLAIN_ENGLISH,
    "In 1987 it cost 12,450.75 crowns (3.5 % more).",
    "First line\n\nThird line\n\tindented\n",
    "Größe, naïve, 北京, Привет, 🙂",
    "def area(r):\n    return 3.14 * r ** 2  # <b>πr²</b>",
)
_LISTS = ("tokens", "scores", "token_type")


def convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file's weights as float32 safetensors, its configuration and its tokenizer into the folder ``target``.

    Once: dequantising at every start would cost ~20 s each time.

    Raises:
        ModelError: transformers does not read the file, or makes no tokenizer of it that fits the model.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        tokenizer, model = load_gguf_tokenizer(file, fields), _load_model(file, fields)
    except ModelError:
        raise
    except Exception as error:  # gguf, tokenizers and transformers raise a dozen kinds, some of them plain Exceptions
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ModelError(f"{file.name} is not a GGUF file that transformers reads: {reason}") from error
    check_tokenizer(tokenizer, model, file.name)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def load_gguf_tokenizer(file: Path, fields: Mapping[str, "ReaderField"]) -> "PreTrainedTokenizerBase":
    """The tokenizer that transformers makes of a GGUF file, with a space before a text only if the file's metadata say so.

    Raises:
        ModelError: the file's lists of tokens, scores and types do not belong together.
        Exception: of gguf, tokenizers and transformers, where they cannot read it.
    """
    from transformers import AutoTokenizer

    sizes = {name: len(fields[f"tokenizer.ggml.{name}"].data) for name in _LISTS if f"tokenizer.ggml.{name}" in fields}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ModelError(f"the lists of {file.name} do not belong together ({listed}): it is damaged, take another copy")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    space = fields.get("tokenizer.ggml.add_space_prefix")
    if space is not None and not space.contents():
        _put_no_space(tokenizer)
    return tokenizer


def _put_no_space(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Keep transformers from putting a space before every text, as it does for SentencePiece's vocabularies but Gemma's."""
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _load_model(file: Path, fields: Mapping[str, "ReaderField"]) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_loading():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        quantised, report = loaded
    check_report(report, file.name)
    check_finite(quantised, file.name)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # transformers refuses to save a model that is marked as quantised
    scaling = fields.get(f"{fields['general.architecture'].contents()}.rope.scaling.factor")
    if scaling is not None and scaling.contents() not in (0, 1) and '"factor"' not in config.to_json_string():
        # as in Gemma 3 from 4B on: read without it, the model still works and is a worse one
        raise ModelError(
            f"{file.name} scales positions by {scaling.contents():g}, which transformers does not take over from its metadata: "
            "use the model's safetensors instead (hf:NAME@REVISION or path:DIR)"
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.train(False)
    return model


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", name: str) -> None:
    """
    Raises:
        ModelError: a text does not come back from its tokens, or the model finds plain English unlikely in them.
    """
    fault = None
    if changed := [text for text in _TEXTS if _there_and_back(tokenizer, text) != text]:
        fault = f"it turns {changed[0][:60]!r} into {_there_and_back(tokenizer, changed[0])[:60]!r}"
    elif not (nats := plain_english_nll(tokenizer, model)) <= _LIMIT:
        fault = f"the model reads plain English at {nats:.2f} nats per character, where one that works needs less than {_LIMIT}"
    if fault:
        raise ModelError(
            f"no tokenizer that fits the model could be rebuilt from {name}: {fault}. Use the model's own safetensors and "
            "tokenizer instead (hf:NAME@REVISION or path:DIR)"
        )


def _there_and_back(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def plain_english_nll(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> float:
    """Of ``PLAIN_ENGLISH``, in nats per character; infinite where the model lacks one of its tokens."""
    import torch

    ids = tokenizer(PLAIN_ENGLISH, return_tensors="pt")["input_ids"]
    embeddings: Any = model.get_input_embeddings()
    if int(ids.max()) >= embeddings.num_embeddings:
        return float("inf")
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item() / len(PLAIN_ENGLISH)
