"""The teacher LLM: how much each passage lowers the perplexity of the gold answer, asked offline and stored raw."""
