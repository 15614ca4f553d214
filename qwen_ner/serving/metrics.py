"""What a server counts, for Prometheus.

In: requests and batches as they end. Out: the text that `/metrics` gives. Each server has a registry of its own.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batcher import Batch, Batcher

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Monitor:
    """The metrics of one server; `watch` has its queue read off when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        count = partial(Counter, registry=self.registry, namespace="qwen_ner")
        spread = partial(Histogram, registry=self.registry, namespace="qwen_ner")
        level = partial(Gauge, registry=self.registry, namespace="qwen_ner")
        self.requests = count("requests", "Requests by path and status.", ["path", "status"])
        self.seconds = spread("request_seconds", "From head to end.", ["path"], buckets=SECONDS)
        self.texts = count("texts", "Texts of requests.", ["outcome"])
        self.characters = count("characters", "Characters that the model has read.")
        self.tokens = count("tokens", "Tokens that the model has read and written, prompts included.")
        self.batch_windows = spread("batch_windows", "Texts, or windows of them, a batch.", buckets=SIZES)
        self.batch_requests = spread("batch_requests", "Requests a batch.", buckets=SIZES)
        self.batch_seconds = spread("batch_seconds", "Time a batch.", buckets=SECONDS)
        self.queue_tokens = level("queue_tokens", "Estimated tokens that wait for the model.")
        self.queue_requests = level("queue_requests", "Requests of which a part waits for the model.")

    def watch(self, batcher: Batcher) -> None:
        self.queue_tokens.set_function(lambda: batcher.tokens)
        self.queue_requests.set_function(lambda: len(batcher.waiting))

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def answered(self, texts: int, refused: int) -> None:
        self.texts.labels("read").inc(texts - refused)
        self.texts.labels("refused").inc(refused)

    def batch(self, batch: Batch) -> None:
        self.characters.inc(batch.characters)
        self.tokens.inc(batch.tokens)
        self.batch_windows.observe(batch.windows)
        self.batch_requests.observe(batch.requests)
        self.batch_seconds.observe(batch.seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
