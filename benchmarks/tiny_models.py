"""An encoder and a language model with random weights, for benchmarks that count what is read and not how well."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import ByteLevelBPETokenizer
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_WIDTH = 32  # numbers in a hidden state, and in a vector


def tiny_models(folder: Path, texts: Path) -> list[str]:
    """Write both into ``folder``. Returns the ``KEY=VALUE`` settings that have the chain take them.

    Args:
        texts: a folder of Markdown files that the tokenizer is trained on.
    """
    bpe = ByteLevelBPETokenizer()
    lines = [path.read_text(encoding="utf-8") for path in sorted(texts.rglob("*.md"))]
    bpe.train_from_iterator(lines, vocab_size=4000, special_tokens=["<pad>", "<eos>", "[UNK]"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="[UNK]", model_max_length=2048
    )
    torch.manual_seed(0)
    size = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    reader, bert, encoder = folder / "reader", folder / "bert", folder / "encoder"
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    causal = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **ends, **size)
    LlamaForCausalLM(causal).save_pretrained(reader)
    tokenizer.save_pretrained(reader)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=0, **size)).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=256), Pooling(_WIDTH, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(encoder), create_model_card=False)
    return [f"models.student=path:{encoder}", f"models.reader=path:{reader}", f"teachers.main.model=path:{reader}"]
