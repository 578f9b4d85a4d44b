"""The ``uae`` command."""
