"""Vectors of texts, kept by what computed them and by the text: computed once, used by every stage."""
