"""Words and what is made of them, in any script."""
