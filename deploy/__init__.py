"""The promoted retriever as a service: a thin caller of ``uae.index.release``."""
