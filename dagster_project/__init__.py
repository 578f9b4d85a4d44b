"""The chain as Dagster assets: thin callers of ``uae.pipeline.stages``, which hold no logic of the chain themselves."""
