"""Is the new retriever better? Retrieval and answers on the test questions, with intervals."""
