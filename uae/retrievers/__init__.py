"""One kind of retriever a file, and the forms it is served in."""
