"""The chain: its parameters, its stages, and what runs them."""
