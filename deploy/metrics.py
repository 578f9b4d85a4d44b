"""The series for Prometheus.

The registry is our own, and BentoML's is switched off. BentoML labels its series with the paths that are asked for, so a caller
who invents paths would fill the memory.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deploy.vectors import VectorPlace
from uae.serving.batching import Batch
from uae.serving.switch import Switch

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """The service's series. Every label takes one of a fixed few values, release names apart."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._seconds = Histogram(
            "uae_request_seconds",
            "Time to answer, to the last byte.",
            ["route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rejected = Counter("uae_rejected", "Requests answered with an error, by its code.", ["reason"], registry=registry)
        self._auth_failures = Counter("uae_auth_failures", "Requests without a valid API key.", registry=registry)
        self._batch_texts = Histogram("uae_batch_texts", "Texts in a batch.", buckets=_TEXTS, registry=registry)
        self._batch_tokens = Histogram(
            "uae_batch_padded_tokens", "Tokens in a batch, padding included.", buckets=_TOKENS, registry=registry
        )
        self._batch_seconds = Histogram("uae_batch_seconds", "Time of a batch in the model.", buckets=_SECONDS, registry=registry)
        self._queue_wait = Histogram(
            "uae_queue_wait_seconds", "Time of a text before the model.", buckets=_SECONDS, registry=registry
        )
        self._in_flight = Gauge("uae_in_flight_requests", "Requests at work.", registry=registry)
        self._unsent = Gauge("uae_unsent_bytes", "Bytes of answers that clients have still to read.", registry=registry)
        self._finds = Gauge("uae_queue_finds", "Searches of the index that wait for a thread.", registry=registry)
        self._unlogged = Counter("uae_query_log_dropped", "Queries that the log of queries could not keep.", registry=registry)
        self._children: dict[tuple[str, int], Any] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        key = (route, status)
        if key not in self._children:
            self._children[key] = self._seconds.labels(route, str(status))
        self._children[key].observe(seconds)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def auth_failed(self) -> None:
        self._auth_failures.inc()

    def queries_dropped(self, queries: int) -> None:
        self._unlogged.inc(queries)

    def batch(self, batch: Batch) -> None:
        self._batch_texts.observe(batch.texts)
        self._batch_tokens.observe(batch.padded_tokens)
        self._batch_seconds.observe(batch.seconds)
        for wait in batch.waits_s:
            self._queue_wait.observe(wait)

    def watch(self, switch: Switch, in_flight: Callable[[], int], finds: Callable[[], int], unsent: Callable[[], int]) -> None:
        """Read these whenever Prometheus asks: what ``switch`` holds, and how much is at work, waits for a thread, is unsent."""
        self._in_flight.set_function(in_flight)
        self._finds.set_function(finds)
        self._unsent.set_function(unsent)
        self.registry.register(_Serving(switch))

    def watch_database(self, vectors: VectorPlace) -> None:
        """Tell whether the database of vectors answers, where there is one."""
        if vectors.state is not None:
            up = Gauge("uae_database_up", "1 while the database of vectors answers.", registry=self.registry)
            up.set_function(lambda: int(vectors.state == "answers"))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Serving:
    """What is served, read when it is asked for. A release that is no longer served has no series."""

    def __init__(self, switch: Switch):
        self._switch = switch

    def collect(self) -> Iterator[Metric]:
        served, state = self._switch.current, self._switch.state()
        queue = served.batcher.waiting if served else 0
        yield GaugeMetricFamily("uae_queue_texts", "Texts that wait for the model.", value=queue)
        yield GaugeMetricFamily("uae_release_loading", "1 while a release is being loaded.", value=int(bool(state["loading"])))
        yield GaugeMetricFamily("uae_releases_draining", "Releases with requests to finish.", value=len(state["draining"]))
        yield CounterMetricFamily("uae_swaps", "Releases switched to, the first included.", value=state["switches"])
        yield CounterMetricFamily("uae_swap_failures", "Releases that could not be loaded.", value=state["failures"])
        info = GaugeMetricFamily(
            "uae_release_info", "The release that is served.", labels=["release", "model", "version", "backend"]
        )
        if served:
            origin = served.origin or {}
            backend = served.release.backend()
            info.add_metric([served.fingerprint, str(origin.get("model") or ""), str(origin.get("version") or ""), backend], 1)
        yield info
