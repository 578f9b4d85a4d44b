"""The cross-encoder: it reads a question and a passage together and scores the pair. Loading it, and its scores by torch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from uae.io.errors import ModelError
from uae.io.weights import check_finite, check_report, loading_report, quiet_loading, refuse_pickles, refuse_remote_code

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Scores = npt.NDArray[np.float32]
TRAINED = "encoder"  # the trained model, in the folder of a second stage
_BATCH = 32  # pairs


def load_cross_encoder(folder: Path, device: str, head_may_be_new: bool) -> "CrossEncoder":
    """Load a model that gives one number for a pair of texts. It is not passed through a sigmoid.

    Args:
        head_may_be_new: the layer that gives the score may be missing, as in an encoder that is to become a cross-encoder. Random
            numbers stand there then, of torch's present seed, until it is fitted.

    Raises:
        ModelError: the folder does not hold one, has pickles in it, asks for code of its own, or its weights are not all there,
            of the right shape and finite.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import PreTrainedModel

    from uae.io.compute import pick_device

    refuse_remote_code(folder)
    refuse_pickles(folder)
    logging.disable(logging.WARNING)  # that a head is new would be said at length; the check below says what is wrong
    try:
        with quiet_loading():
            model: CrossEncoder = CrossEncoder(
                str(folder),
                num_labels=1,
                activation_fn=torch.nn.Identity(),
                device=pick_device(device),
                model_kwargs={"use_safetensors": True, "ignore_mismatched_sizes": True},
                local_files_only=True,
            )
    except Exception as error:  # transformers, safetensors and the modules raise a dozen kinds
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise ModelError(f"{folder} cannot be loaded as a cross-encoder: {reason}") from error
    finally:
        logging.disable(logging.NOTSET)
    body = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    own = f"{body.base_model_prefix}."

    def is_head(name: str) -> bool:  # an encoder has none, and its pooler may be missing
        return not name.startswith(own) or name.startswith(f"{own}pooler.")

    check_report(loading_report(body, folder), str(folder), is_head if head_may_be_new else lambda name: False)
    check_finite(model, str(folder))
    return model


class TorchCrossEncoder:
    """Implements ``second_stage.PairScorer`` with the model as it was trained."""

    def __init__(self, model: "CrossEncoder"):
        self._model = model

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """
        Raises:
            ModelError: a score is NaN or infinite.
        """
        if not pairs:
            return np.empty(0, np.float32)
        found = np.asarray(self._model.predict(list(pairs), batch_size=_BATCH, show_progress_bar=False), np.float32)
        check_scores(found, pairs)
        return found

    def close(self) -> None:
        del self._model


def check_scores(scores: Scores, pairs: Sequence[tuple[str, str]]) -> None:
    """
    Args:
        scores: of the pairs, shape (n,).

    Raises:
        ModelError: a score is NaN or infinite, or there is not one for each pair.
    """
    if scores.shape != (len(pairs),):
        raise ModelError(f"the cross-encoder gave an array of shape {scores.shape} for {len(pairs)} pairs: build it again")
    sound = np.isfinite(scores)
    if not sound.all():
        question, _ = pairs[int(np.argmin(sound))]
        raise ModelError(
            f"the cross-encoder gives a score that is not finite for the question {question[:60]!r}: its weights or its serving "
            "form are damaged; train or build it again"
        )
