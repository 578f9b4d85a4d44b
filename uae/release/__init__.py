"""Releases: encoder, index and passages as one folder under one fingerprint, and the store that holds them."""
