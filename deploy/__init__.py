"""The promoted retriever as a service: a thin caller of ``uae.release.open``."""
