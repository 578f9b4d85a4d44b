"""Utility-Aligned Embeddings: retrieval trained on what helps the LLM answer (arXiv 2604.22722)."""

__version__ = "0.1.0"
