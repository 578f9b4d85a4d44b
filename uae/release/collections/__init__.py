"""Releases published into a database: the vectors of their dense legs, and which of them is active there."""
