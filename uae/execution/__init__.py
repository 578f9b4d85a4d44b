"""Where work is done: threads of this process, or actors on a Ray cluster. The same map over batches."""
