"""The chain as Dagster assets: thin callers of ``uae.pipeline.chain``, which hold no logic of the chain themselves."""
