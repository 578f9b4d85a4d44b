"""From utilities to a bi-encoder: the objective, the batches, the trainer."""
