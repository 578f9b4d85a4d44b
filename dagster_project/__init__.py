"""The chain as Dagster assets: thin callers of ``uae.stages``, which hold no logic of the chain themselves."""
