"""Kinds of legs: what the manifest says of each, and how it is opened. One kind a file, and a line in ``kinds.py``."""
