"""Recipes compared on equal terms."""
