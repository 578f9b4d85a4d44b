"""Files that many stages stand on, in groups, for ``Stage.code``. A test compares each stage's code with what it imports."""

TABLES = ("uae/io/files.py", "uae/io/tables.py")
MODELS = ("uae/io/models.py", "uae/io/gguf.py", "uae/io/weights.py")
# What models read of a passage.
READ_AS = ("uae/text/passage_template.py", "uae/text/neighbours.py", "uae/text/sentences.py")
ENCODER = (
    "uae/io/compute.py",
    "uae/retrievers/dense.py",
    "uae/retrievers/dimension.py",
    "uae/retrievers/prompts.py",
    "uae/retrievers/protocol.py",
)
RELEASE = (
    "uae/release/legs",
    "uae/release/manifest.py",
    "uae/release/migrations.py",
    "uae/release/parity.py",
    "uae/release/passages.py",
    "uae/release/reranked.py",
    "uae/release/second_stage.py",
    "uae/release/tables.py",
    *READ_AS,
    "uae/io/mapped.py",
    "uae/io/mapped_table.py",
    "uae/measures/fusion.py",
    "uae/measures/ranking.py",
    "uae/measures/row_rankings.py",
    "uae/measures/reranking.py",
    "uae/measures/usefulness.py",
    "uae/retrievers/bm25_index.py",
    "uae/retrievers/bm25_scores.py",
    "uae/index",
    "uae/retrievers/onnx_encoder.py",
    "uae/retrievers/onnx_session.py",
    "uae/retrievers/second_stage.py",
    "uae/retrievers/cross_encoder.py",
    "uae/retrievers/onnx_cross_encoder.py",
    "uae/retrievers/torch_encoder.py",
    "uae/retrievers/serving_forms.py",
)
# What ranks a test set or mines candidates: all kinds of retrievers.
BOTH_KINDS = (
    "uae/retrievers/retriever.py",
    "uae/retrievers/cosine.py",
    "uae/retrievers/lexical.py",
    "uae/retrievers/bm25_index.py",
    "uae/retrievers/bm25_scores.py",
)
# What keeps vectors of passages.
VECTORS = (
    "uae/io/mapped.py",
    "uae/vectors",
    "uae/execution",
    "uae/retrievers/passage_vectors.py",
    "uae/retrievers/spread_encoding.py",
    "uae/retrievers/document_side.py",
    "uae/retrievers/truncation.py",
)
RETRIEVERS = ("uae/retrievers/kinds.py", *BOTH_KINDS, *VECTORS)
REGISTRY = ("uae/registry/tracking.py", "uae/registry/anchor.py", "uae/registry/place.py", "uae/registry/errors.py")
