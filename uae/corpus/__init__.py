"""From a source in any supported format to the documents, passages and questions tables."""
