"""The metrics of a server, for Prometheus.

In: requests and batches as they end. Out: the text of `/metrics`. Each server has its own registry.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batcher import Batcher

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Monitor:
    """Counts requests and batches; `watch` exports the state of a queue."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="qwen_ner")
        histogram = partial(Histogram, registry=self.registry, namespace="qwen_ner")
        self.requests = counter("requests", "Requests by path and status.", ["path", "status"])
        self.seconds = histogram("request_seconds", "Duration of a request.", ["path"], buckets=SECONDS)
        self.texts = counter("texts", "Texts of accepted requests.")
        self.characters = counter("characters", "Characters read by the model.")
        self.tokens = counter("tokens", "Tokens of prompts and answers.")
        self.batch_windows = histogram("batch_windows", "Texts, or windows, begun together.", buckets=SIZES)
        self.batch_requests = histogram("batch_requests", "Requests begun together.", buckets=SIZES)
        self.batch_seconds = histogram("batch_seconds", "Until the last of these was answered.", buckets=SECONDS)

    def watch(self, batcher: Batcher) -> None:
        gauge = partial(Gauge, registry=self.registry, namespace="qwen_ner")
        gauge("queue_tokens", "Estimated tokens in the queue.").set_function(lambda: batcher.tokens)
        gauge("queue_requests", "Requests in the queue.").set_function(lambda: len(batcher.waiting))

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def batch(self, windows: int, requests: int, characters: int, tokens: int, seconds: float) -> None:
        """Count what the model read in one go; tokens are those of prompts and answers."""
        self.characters.inc(characters)
        self.tokens.inc(tokens)
        self.batch_windows.observe(windows)
        self.batch_requests.observe(requests)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
