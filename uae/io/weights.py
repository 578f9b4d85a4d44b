"""What is asked of a model's files and weights before any number comes from it. Every place that opens a model asks this.

Where a file lacks a weight, libraries put random numbers and only log it. Where a model needs code of its own, they load another
class in its place. Here both are errors.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uae.io.compute import hide_loading_bars
from uae.io.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# Where safetensors are missing, sentence-transformers reads pickles: it is told not to for the body alone.
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_NO_PICKLE = "openvino_model"  # how the .bin files of OpenVINO begin, which the models of the hub have beside the others
_SHOWN = 5  # names in one message


def refuse_remote_code(folder: Path) -> None:
    """Refuse a model whose files name code that does not come with transformers or sentence-transformers.

    Raises:
        ModelError: names the file and the code.
    """
    for path in sorted(Path(folder).rglob("*.json")):
        for asked in _code_asked_for(path.name, _json(path)):
            raise ModelError(
                f"{path} asks for code of its own ({asked}), and none is run. Take a model that transformers and "
                "sentence-transformers load by themselves: without that code another model would be loaded in its place"
            )


def _code_asked_for(name: str, content: Any) -> Iterator[str]:
    if name == "modules.json":
        types = [entry.get("type") for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    elif isinstance(content, dict):
        if content.get("auto_map"):
            yield f"auto_map: {json.dumps(content['auto_map'], sort_keys=True)}"
        routes = content.get("types")  # of a Router
        types = list(routes.values()) if isinstance(routes, dict) and "structure" in content else []
    else:
        types = []
    for kind in types:
        if not str(kind).startswith("sentence_transformers."):
            yield str(kind)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # what loads the model says so, if it needs this file


def refuse_pickles(folder: Path) -> None:
    """
    Raises:
        ModelError: a file in the folder may be a pickle, which can run code when it is read.
    """
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in _PICKLES and not path.name.startswith(_NO_PICKLE):
            raise ModelError(
                f"{path} may be a pickle, and none is loaded. If the same weights lie beside it as .safetensors, remove it; "
                "else save the model anew with safetensors (SentenceTransformer(...).save_pretrained), where you trust it"
            )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' bars and its table of missing weights while a model is loaded: ``check_report`` says it in one line."""
    hide_loading_bars()
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_error)  # not by the logger's level: the library itself reads that
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def loading_report(model: "PreTrainedModel", folder: Path) -> Mapping[str, Any]:
    """What transformers reports of loading ``model``'s class from ``folder``, for models that another library has loaded.

    The files' names and shapes are read once more, their numbers are not: a second or less, whatever the model's size.
    """
    with quiet_loading():
        loaded: Any = type(model).from_pretrained(
            folder,
            config=copy.deepcopy(model.config),
            device_map="meta",
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # the report names them, the error would not
        )
    report: Mapping[str, Any] = loaded[1]
    return report


def check_report(report: Mapping[str, Any], source: str, may_lack: Callable[[str], bool] = lambda name: False) -> None:
    """Check a report as ``from_pretrained(..., output_loading_info=True)`` gives it. Weights without a use are logged.

    Args:
        source: what is loaded, for messages.
        may_lack: whether the weight of this name may be missing.

    Raises:
        ModelError: weights are missing, or are of another shape than the configuration says.
    """
    if missing := sorted(name for name in report["missing_keys"] if not may_lack(name)):
        raise ModelError(
            f"{source} lacks {len(missing)} weights that the model needs ({_some(missing)}): random numbers would stand there. "
            "Take a complete copy whose weights have the names that transformers gives them"
        )
    shapes = sorted(
        f"{name}: {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in report["mismatched_keys"]
        if not may_lack(name)
    )
    if shapes:
        raise ModelError(
            f"{source} has {len(shapes)} weights of another shape than its config.json says ({_some(shapes)}): "
            "take weights and configuration of one model"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        log.warning("%s has %d weights that the model does not use (%s)", source, len(unexpected), _some(unexpected))


def check_finite(model: "nn.Module", source: str) -> None:
    """
    Raises:
        ModelError: a weight holds NaN or an infinite number.
    """
    import torch

    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        low, high = torch.aminmax(weight.detach())  # both are NaN where one number is
        if not bool(torch.isfinite(torch.stack([low, high])).all()):
            dtype = str(weight.dtype).removeprefix("torch.")
            hint = "try compute.dtype=float32, and if that does not help, take" if dtype == "float16" else "take"
            raise ModelError(
                f"{source}: the weight {name} holds NaN or infinite numbers (as {dtype}): {hint} another copy of the model"
            )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
