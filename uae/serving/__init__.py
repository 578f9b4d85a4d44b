"""Serving a release: batches, the store of releases, and the swap from one to the next under load."""
