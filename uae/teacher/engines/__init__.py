"""What runs a teacher: a local model, or a server."""
