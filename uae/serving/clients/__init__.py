"""Retriever classes that ask a running service: for LangChain and for Haystack (the extra ``clients``)."""
