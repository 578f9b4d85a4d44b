"""What a forward pass of a local model needs in memory, and how running out of it looks."""

import torch
from transformers import PreTrainedModel


class PassCosts:
    """What a forward pass needs, from the model's configuration."""

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config()
        self.item = torch.finfo(model.dtype).bits // 8
        hidden = config.hidden_size
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        # the residual stream, its norm, query, key, value and output; gate, up and their product
        self.per_token = self.item * (8 * hidden + 4 * inner)
        vocabulary: int = model.get_output_embeddings().weight.shape[0]  # type: ignore[no-untyped-call]
        self.per_logit_row = vocabulary * (self.item + 3 * 4)  # the model's, a float32 copy, what logsumexp makes of it
        window = getattr(config, "sliding_window", None)
        self.window = window if window and getattr(config, "use_sliding_window", True) else 1 << 30

    def bytes(self, tokens: int, reads: int) -> int:
        """What activations and logits take at their peak: an upper bound, which tests/teacher/test_memory.py checks."""
        return int(tokens * self.per_token + reads * self.per_logit_row)

    def logit_rows(self, memory: int, tokens: int) -> int:
        """For how many positions logits fit into ``memory`` bytes beside the activations of ``tokens``, one at least."""
        left = max(memory - tokens * self.per_token, memory / 2)
        return max(int(left // self.per_logit_row), 1)


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in text or "allocate memory" in text
