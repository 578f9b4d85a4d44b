"""GGUF files written on the spot: their tokens as worked out by hand, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, RopeScalingType, TokenType

from uae.io.errors import ModelError
from uae.io.gguf import PLAIN_ENGLISH, check_tokenizer, convert_gguf, load_gguf_tokenizer
from uae.teacher.engines.local import load_causal_lm

BYTES = [f"<0x{value:02X}>" for value in range(256)]
HEAD = 8  # size of an attention head


def write_gguf(
    path: Path,
    pieces: dict[str, float],
    defined: tuple[str, ...] = (),
    octets: list[str] = BYTES,
    follows: bool = False,
    roll: int = 0,
    **said,
) -> None:
    """A Llama with a vocabulary of SentencePiece: specials, bytes, pieces with their scores, user-defined tokens.

    With ``follows``, the model knows which word comes after which in ``PLAIN_ENGLISH``, and is wrong by ``roll`` ids.
    """
    if (3 + len(octets) + len(pieces) + len(defined)) % 2:
        defined = (*defined, "<extra>")  # its two heads divide the hidden size, which is the vocabulary's
    tokens = ["<unk>", "<s>", "</s>", *octets, *pieces, *defined]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * len(octets)
    kinds += [TokenType.NORMAL] * len(pieces) + [TokenType.USER_DEFINED] * len(defined)
    scores = [0.0] * (3 + len(octets)) + list(pieces.values()) + [-1000.0] * len(defined)
    writer = _writer(path, "llama", len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_scores(said.pop("scores", scores))
    writer.add_token_types(said.pop("token_types", kinds))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(said.pop("bos", 1))
    writer.add_eos_token_id(2)
    if "space" in said:
        writer.add_add_space_prefix(said.pop("space"))
    if "scaling" in said:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(said.pop("scaling"))
    changed = said.pop("changed", lambda weights: weights)
    assert not said
    _write(writer, changed(_weights(tokens, follows, roll)))


def _writer(path: Path, kind: str, size: int) -> GGUFWriter:
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(4)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model(kind)
    return writer


def _weights(tokens: list[str], follows: bool, roll: int) -> dict[str, np.ndarray]:
    """Layers that add nothing to one-hot embeddings, so that each token's logits are a row of ``output``."""
    size = len(tokens)
    after = np.zeros((size, size), dtype=np.float32)
    if follows:
        ids = {token: place for place, token in enumerate(tokens)}
        text = [1, *(ids[piece] for piece in words(PLAIN_ENGLISH))]
        after[np.roll(np.arange(size), -roll)[text[1:]], text[:-1]] = 12.0
    shapes = {
        "attn_q": (2 * HEAD, size), "attn_k": (HEAD, size), "attn_v": (HEAD, size), "attn_output": (size, 2 * HEAD),
        "ffn_gate": (4, size), "ffn_up": (4, size), "ffn_down": (size, 4),
    }  # fmt: skip
    return {
        "token_embd.weight": np.eye(size, dtype=np.float32),
        "output.weight": after,
        "output_norm.weight": np.full(size, size**-0.5, dtype=np.float32),  # RMSNorm makes a one-hot vector sqrt(size) long
        "blk.0.attn_norm.weight": np.ones(size, dtype=np.float32),
        "blk.0.ffn_norm.weight": np.ones(size, dtype=np.float32),
        **{f"blk.0.{name}.weight": np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()},
    }


def _write(writer: GGUFWriter, weights: dict[str, np.ndarray]) -> None:
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def words(text: str) -> list[str]:
    """Words with the space before them, and the marks after them."""
    pieces = []
    for word in text.split():
        bare = word.rstrip(".,")
        pieces += [f"▁{bare}", *word[len(bare) :]]
    return pieces


def of_plain_english() -> dict[str, float]:
    """Pieces that cut ``PLAIN_ENGLISH`` into words: all beginnings of its words, joined from the left."""
    pieces = {piece[:end] for piece in words(PLAIN_ENGLISH) for end in range(1, len(piece) + 1)} | set(PLAIN_ENGLISH) - {" "}
    return {piece: -float(place) for place, piece in enumerate(sorted(pieces))}


# Joined best score first: "▁t" (-1), "he" (-2), then "▁the" (-3) of these two; "▁c" (-4), "at" (-5), "▁cat" (-6).
PIECES = {"▁t": -1.0, "he": -2.0, "▁the": -3.0, "▁c": -4.0, "at": -5.0, "▁cat": -6.0, "▁": -9.0}
PIECES |= {letter: -10.0 - place for place, letter in enumerate("acehst")}


@pytest.mark.parametrize(
    ("space", "text", "expected"),
    [
        (None, "the cats", ["<s>", "▁the", "▁cat", "s"]),
        (True, "the cats", ["<s>", "▁the", "▁cat", "s"]),
        (False, "the cats", ["<s>", "t", "he", "▁cat", "s"]),
        (False, "that", ["<s>", "t", "h", "at"]),  # not "ha" + "t": no such piece
        (False, "é", ["<s>", "<0xC3>", "<0xA9>"]),  # not among the pieces: its bytes
        (False, "a  the<b>", ["<s>", "a", "  ", "t", "he", "<b>"]),  # what a user defined is cut out first
        (False, "</s>the", ["<s>", "</s>", "t", "he"]),
    ],
)
def test_sentencepiece_tokens_as_worked_out_by_hand(tmp_path, space, text, expected):
    said = {} if space is None else {"space": space}
    write_gguf(tmp_path / "tiny.gguf", PIECES, ("  ", "<b>"), **said)
    tokenizer = load_gguf_tokenizer(tmp_path / "tiny.gguf", GGUFReader(tmp_path / "tiny.gguf").fields)
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == expected
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_byte_level_tokens_as_worked_out_by_hand(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "he", "Ġt", "Ġthe", "<end>"]
    writer = _writer(tmp_path / "tiny.gguf", "gpt2", len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL])
    writer.add_token_merges(["h e", "Ġ t", "Ġt he"])
    writer.add_eos_token_id(len(tokens) - 1)
    _write(writer, {"token_embd.weight": np.zeros((len(tokens), len(tokens)), dtype=np.float32)})
    tokenizer = load_gguf_tokenizer(tmp_path / "tiny.gguf", GGUFReader(tmp_path / "tiny.gguf").fields)
    # "é" is the bytes C3 A9, which the alphabet writes as the characters of these numbers
    expected = ["t", "he", "Ġthe", "Ġt", "Ã", "©", "<end>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("the the té<end>")["input_ids"]) == expected


def test_converted_folder_is_a_working_model(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", of_plain_english(), follows=True)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    model, tokenizer = load_causal_lm(tmp_path / "model", "cpu", "float32")
    assert tokenizer.convert_ids_to_tokens(tokenizer(PLAIN_ENGLISH)["input_ids"]) == ["<s>", *words(PLAIN_ENGLISH)]
    check_tokenizer(tokenizer, model, "what was saved")


def test_space_rule_survives_saving(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", of_plain_english(), follows=True, space=False)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    _, tokenizer = load_causal_lm(tmp_path / "model", "cpu", "float32")
    assert tokenizer.convert_ids_to_tokens(tokenizer("dark the")["input_ids"]) == ["<s>", *"dark", "▁the"]


def test_tokens_that_mean_others_to_the_model_are_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", of_plain_english(), follows=True, roll=1)
    with pytest.raises(ModelError, match=r"rebuilt from tiny\.gguf: the model reads plain English at \d\.\d\d nats"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_tensor_is_named(tmp_path):
    def without(weights):
        return {name: values for name, values in weights.items() if name != "blk.0.ffn_up.weight"}

    write_gguf(tmp_path / "tiny.gguf", of_plain_english(), follows=True, changed=without)
    with pytest.raises(ModelError, match=r"tiny\.gguf lacks 1 weights .*model\.layers\.0\.mlp\.up_proj\.weight"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tensor_that_is_not_finite_is_named(tmp_path):
    def spoilt(weights):
        weights["blk.0.ffn_up.weight"][1, 2] = np.nan
        return weights

    write_gguf(tmp_path / "tiny.gguf", of_plain_english(), follows=True, changed=spoilt)
    with pytest.raises(ModelError, match=r"tiny\.gguf: the weight model\.layers\.0\.mlp\.up_proj\.weight holds NaN"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


def test_texts_that_do_not_come_back_are_refused(tmp_path):
    """A vocabulary without the byte for a tab loses it."""
    pieces = of_plain_english()
    write_gguf(tmp_path / "tiny.gguf", pieces, follows=True, octets=[name for name in BYTES if name != "<0x09>"])
    with pytest.raises(ModelError, match=r"it turns 'First line.*\\tindented.* into 'First line.*\\nindented"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"scores": [0.0] * 100}, "lists of tiny.gguf do not belong together .*100 of scores"),
        ({"token_types": [TokenType.NORMAL] * 5000}, "do not belong together .*5000 of token_type"),
        ({"bos": 99999}, "is not a GGUF file that transformers reads"),
        ({"scaling": 8.0}, "tiny.gguf scales positions by 8, which transformers does not take over"),
    ],
)
def test_metadata_that_cannot_be_followed_are_refused(tmp_path, said, message):
    write_gguf(tmp_path / "tiny.gguf", PIECES, **said)
    with pytest.raises(ModelError, match=message):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


def test_merges_of_unknown_pieces_are_refused(tmp_path):
    writer = _writer(tmp_path / "tiny.gguf", "gpt2", 4)
    writer.add_token_list(["a", "b", "ab", "c"])
    writer.add_token_merges(["a b", "a x"])
    _write(writer, {"token_embd.weight": np.zeros((4, 4), dtype=np.float32)})
    with pytest.raises(ModelError, match="is not a GGUF file that transformers reads"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


@pytest.mark.parametrize("keep", [0, 3, 40, 4000])
def test_file_cut_short_is_refused(tmp_path, keep):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, PIECES)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="is not a GGUF file that transformers reads"):
        convert_gguf(file, tmp_path / "model")
