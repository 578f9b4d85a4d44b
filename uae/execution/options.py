"""Section ``execution`` of params.yaml: what labels and embeds a corpus, this process or workers on a Ray cluster."""

from typing import Annotated, Literal, Self

from pydantic import Field

from uae.io.errors import ConfigError
from uae.io.options import Count, Options, Positive


class ExecutionOptions(Options):
    engine: Literal["local", "ray"]
    # Of the cluster: HOST:PORT on its nodes, ray://HOST:PORT from elsewhere; None: what RAY_ADDRESS says, else a Ray started here
    address: str | None
    workers: Count
    worker_cpus: Count  # each worker's; on a CPU it reads as many batches at once, as a local run does
    worker_gpus: Annotated[float, Field(ge=0)]
    stalled_s: Positive  # without progress, after which a run ends with an error
    restarts: Annotated[int, Field(ge=0)]  # of each worker; and how often a batch may lose its worker

    @property
    def distributed(self) -> Self | None:
        """These options where the work leaves this process, else None."""
        return self if self.engine == "ray" else None

    def device(self, asked: str) -> str:
        """The device that a worker computes on: Ray gives it the GPUs that it may see, and numbers them anew.

        Args:
            asked: ``compute.device``.

        Raises:
            ConfigError: a GPU is asked for, and the workers get none.
        """
        if asked == "cpu" or (asked == "auto" and not self.worker_gpus):
            return "cpu"
        if not self.worker_gpus:
            raise ConfigError(
                f"execution.worker_gpus is 0, and compute.device={asked}: give each worker a GPU, or set compute.device to auto"
            )
        return asked.partition(":")[0]
